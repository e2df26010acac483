//! What two nodes can reach, from rules alone, each quoted where it is applied. Nothing here looks at the simulation: a test that
//! compares the two compares two opinions.

use crate::nat::{Filtering, Mapping};

/// How the best path between two nodes comes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// By checks between known candidates.
    Direct,
    /// Only if one side guesses a port of the other's; else over the relay.
    DirectByGuessing,
    /// Over the relay only.
    Relay,
    /// One side does not even reach the relay.
    Unreachable,
}

/// What stands between a node and the Internet, seen as one NAT (RFC 4787). No NAT is endpoint-independent in both respects;
/// a stateful firewall is endpoint-independent in its mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Mapping.
    pub mapping: Mapping,
    /// Filtering.
    pub filtering: Filtering,
}

impl Access {
    /// Nothing in between.
    pub const PUBLIC: Self = Self { mapping: Mapping::EndpointIndependent, filtering: Filtering::EndpointIndependent };

    /// A firewall that lets answers in only.
    pub const FIREWALL: Self =
        Self { mapping: Mapping::EndpointIndependent, filtering: Filtering::AddressAndPortDependent };

    /// This one with another around it: the more dependent mapping and the stricter filter of the two. Exact while only the
    /// inner one maps dependently.
    pub fn within(self, outer: Self) -> Self {
        Self { mapping: self.mapping.max(outer.mapping), filtering: self.filtering.max(outer.filtering) }
    }
}

/// Which UDP packets a node's network drops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocked {
    /// None.
    Nothing,
    /// All but those of the relay.
    AllButRelay,
    /// All.
    All,
}

/// One node's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Side {
    /// IPv4, when the node has it.
    pub v4: Option<Access>,
    /// IPv6, when the node has it.
    pub v6: Option<Access>,
    /// What its network drops.
    pub blocked: Blocked,
}

/// Where the two are, seen from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Relation {
    /// In two networks of the Internet.
    Apart,
    /// In one network, with no router between them.
    SameLan,
    /// Two homes behind one carrier's IPv4 NAT.
    SameCarrier {
        /// Whether that NAT hairpins.
        hairpin: bool,
    },
}

/// The best path that two nodes can have, with a relay on the Internet that has both families.
pub fn verdict(a: Side, b: Side, relation: Relation) -> Verdict {
    // "UDP blocked except to the relay's port: relay (blocked there too: unreachable until the TCP 443 fallback exists)."
    // Even two nodes of one network meet at the relay first.
    if a.blocked == Blocked::All || b.blocked == Blocked::All {
        return Verdict::Unreachable;
    }
    let shared = |a: Option<Access>, b: Option<Access>| Some((a?, b?));
    let (v4, v6) = (shared(a.v4, b.v4), shared(a.v6, b.v6));
    // "Same LAN: host candidates." What the router blocks does not matter to them.
    if relation == Relation::SameLan {
        return if v4.is_some() || v6.is_some() { Verdict::Direct } else { Verdict::Relay };
    }
    if a.blocked == Blocked::AllButRelay || b.blocked == Blocked::AllButRelay {
        return Verdict::Relay;
    }
    let v4 = match (v4, relation) {
        // "Two homes under one carrier NAT: only with carrier hairpin."
        (Some(_), Relation::SameCarrier { hairpin: false }) | (None, _) => Verdict::Relay,
        (Some((a, b)), Relation::SameCarrier { hairpin: true } | Relation::Apart | Relation::SameLan) => pair(a, b),
    };
    // "IPv6 with firewalls on both sides: direct": by the same rules, a firewall counts as EIM. No carrier translates IPv6.
    let v6 = v6.map_or(Verdict::Relay, |(a, b)| pair(a, b));
    v4.min(v6)
}

fn pair(a: Access, b: Access) -> Verdict {
    use Mapping::EndpointIndependent as Eim;
    // "Anything with EIF: always."
    if a.filtering == Filtering::EndpointIndependent || b.filtering == Filtering::EndpointIndependent {
        return Verdict::Direct;
    }
    match (a.mapping, b.mapping) {
        // "EIM with EIM: always."
        (Eim, Eim) => Verdict::Direct,
        (Eim, Mapping::AddressDependent | Mapping::AddressAndPortDependent) => against_dependent(a.filtering),
        (Mapping::AddressDependent | Mapping::AddressAndPortDependent, Eim) => against_dependent(b.filtering),
        // "ADM/APDM against ADM/APDM: relay, unless one filters EIF."
        (
            Mapping::AddressDependent | Mapping::AddressAndPortDependent,
            Mapping::AddressDependent | Mapping::AddressAndPortDependent,
        ) => Verdict::Relay,
    }
}

/// An endpoint-independent mapping with this filter against one that depends on the address.
fn against_dependent(filtering: Filtering) -> Verdict {
    match filtering {
        // "Anything with EIF: always." "EIM with ADF filtering, against anything: always."
        Filtering::EndpointIndependent | Filtering::AddressDependent => Verdict::Direct,
        // "EIM with APDF filtering against ADM or APDM: only by port guessing."
        Filtering::AddressAndPortDependent => Verdict::DirectByGuessing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Filtering::{AddressAndPortDependent as Apdf, AddressDependent as Adf, EndpointIndependent as Eif};
    use Mapping::{AddressAndPortDependent as Apdm, AddressDependent as Adm, EndpointIndependent as Eim};

    #[test]
    fn the_verdict_is_the_same_from_both_sides() {
        let accesses = [Eim, Adm, Apdm]
            .into_iter()
            .flat_map(|mapping| [Eif, Adf, Apdf].into_iter().map(move |filtering| Access { mapping, filtering }));
        for a in accesses.clone() {
            for b in accesses.clone() {
                assert_eq!(pair(a, b), pair(b, a), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn the_better_of_two_families_counts_and_none_shared_is_the_relay() {
        let hard = Access { mapping: Apdm, filtering: Apdf };
        let dual = Side { v4: Some(hard), v6: Some(Access::FIREWALL), blocked: Blocked::Nothing };
        let v4_only = Side { v6: None, ..dual };
        let v6_only = Side { v4: None, ..dual };
        assert_eq!(verdict(dual, dual, Relation::Apart), Verdict::Direct);
        assert_eq!(verdict(dual, v4_only, Relation::Apart), Verdict::Relay);
        assert_eq!(verdict(v6_only, v4_only, Relation::SameLan), Verdict::Relay);
    }

    #[test]
    fn two_nodes_that_reach_no_relay_are_unreachable_even_side_by_side() {
        let side = Side { v4: Some(Access::PUBLIC), v6: None, blocked: Blocked::All };
        assert_eq!(verdict(side, side, Relation::SameLan), Verdict::Unreachable);
        let side = Side { blocked: Blocked::AllButRelay, ..side };
        assert_eq!(verdict(side, side, Relation::SameLan), Verdict::Direct);
        assert_eq!(verdict(side, side, Relation::Apart), Verdict::Relay);
    }
}
