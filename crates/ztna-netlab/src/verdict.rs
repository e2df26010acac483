//! The oracle on the command line: which path two places can have, for tests that are not written in Rust.

use crate::nat::{Filtering, Mapping, Ports};
use crate::sim::kinds::{Families, Kind, NodeKind};
use crate::sim::oracle::{Relation, Verdict, verdict};
use crate::{Error, Result};

/// Text of `verdict --help`.
pub const HELP: &str = "\
Says which path two nodes can have, by the rules of RFC 4787's terms alone; nothing is sent.

usage: ztna-netlab verdict PAIR...

PAIR: PLACE,PLACE[,RELATION]
PLACE: [FAMILIES:]KIND
  FAMILIES: v4 (default), v6 or dual
  KIND: MAPPING/FILTERING as eim/apdf (eim, adm, apdm; eif, adf, apdf), public, firewall, relay-only (UDP passes to and from the
    relay alone), blocked (no UDP), double-nat, carrier. IPv6 is never translated: it passes a firewall wherever there is a NAT.
RELATION: apart (default), same-lan, same-carrier, same-carrier-hairpin

prints one line for each pair: direct, guess (one side has to guess a port of the other's), relay or unreachable
";

/// One question to the oracle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// One node's place.
    pub a: NodeKind,
    /// The other's.
    pub b: NodeKind,
    /// Where they are to each other.
    pub relation: Relation,
}

impl Question {
    /// Reads `PLACE,PLACE[,RELATION]`.
    pub fn parse(text: &str) -> Result<Self> {
        let words: Vec<&str> = text.split(',').collect();
        let (a, b, relation) = match words.as_slice() {
            [a, b] => (a, b, "apart"),
            [a, b, relation] => (a, b, *relation),
            _ => return Err(Error::invalid("pair", text, "PLACE,PLACE or PLACE,PLACE,RELATION")),
        };
        let relation = match relation {
            "apart" => Relation::Apart,
            "same-lan" => Relation::SameLan,
            "same-carrier" => Relation::SameCarrier { hairpin: false },
            "same-carrier-hairpin" => Relation::SameCarrier { hairpin: true },
            _ => {
                return Err(Error::invalid(
                    "relation",
                    relation,
                    "apart, same-lan, same-carrier, same-carrier-hairpin",
                ));
            }
        };
        Ok(Self { a: place(a)?, b: place(b)?, relation })
    }

    /// `direct`, `guess`, `relay` or `unreachable`.
    pub fn answer(self) -> &'static str {
        match verdict(self.a.side(), self.b.side(), self.relation) {
            Verdict::Direct => "direct",
            Verdict::DirectByGuessing => "guess",
            Verdict::Relay => "relay",
            Verdict::Unreachable => "unreachable",
        }
    }
}

fn place(text: &str) -> Result<NodeKind> {
    let (families, kind) = text.split_once(':').unwrap_or(("v4", text));
    let families = match families {
        "v4" => Families::V4,
        "v6" => Families::V6,
        "dual" => Families::Dual,
        _ => return Err(Error::invalid("families", families, "v4, v6 or dual")),
    };
    let kind = match kind {
        "public" => Kind::Public,
        "firewall" => Kind::Firewall,
        "relay-only" => Kind::UdpBlocked,
        "blocked" => Kind::UdpBlockedAltogether,
        "double-nat" => Kind::DoubleNat,
        "carrier" => Kind::CarrierNat,
        _ => nat(kind)?,
    };
    Ok(NodeKind { kind, families })
}

fn nat(text: &str) -> Result<Kind> {
    let unknown = || Error::invalid("place", text, "one of ztna-netlab verdict --help");
    let (mapping, filtering) = text.split_once('/').ok_or_else(unknown)?;
    let mapping = match mapping {
        "eim" => Mapping::EndpointIndependent,
        "adm" => Mapping::AddressDependent,
        "apdm" => Mapping::AddressAndPortDependent,
        _ => return Err(unknown()),
    };
    let filtering = match filtering {
        "eif" => Filtering::EndpointIndependent,
        "adf" => Filtering::AddressDependent,
        "apdf" => Filtering::AddressAndPortDependent,
        _ => return Err(unknown()),
    };
    Ok(Kind::Nat(mapping, filtering, Ports::Preserve))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_of_the_oracle_has_its_word() {
        for (pair, word) in [
            ("eim/apdf,eim/apdf", "direct"),
            ("eim/apdf,apdm/apdf", "guess"),
            ("adm/adf,apdm/apdf", "relay"),
            ("eim/apdf,blocked", "unreachable"),
            ("relay-only,public", "relay"),
            ("relay-only,relay-only,same-lan", "direct"),
            ("carrier,carrier,same-carrier", "relay"),
            ("carrier,carrier,same-carrier-hairpin", "direct"),
            ("v6:firewall,dual:apdm/apdf", "direct"),
            ("v6:firewall,double-nat", "relay"),
        ] {
            assert_eq!(Question::parse(pair).unwrap().answer(), word, "{pair}");
        }
    }

    #[test]
    fn a_word_that_is_none_is_named_with_what_is_accepted() {
        for pair in ["", "public", "public,eim", "public,eim/x", "v5:public,public", "public,public,near", "a,b,c,d"] {
            let error = Question::parse(pair).unwrap_err().to_string();
            assert!(error.contains("is not accepted, expected"), "{pair}: {error}");
        }
    }
}
