//! What a network of homes is described with, and what can be changed in it: JSON of the embedding program.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use crate::impairment::Impairment;
use crate::nat::{Filtering, Mapping, NatConfig, Ports};
use crate::sim::kinds::Families;
use crate::{Error, Result};

/// A network.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Spec {
    /// Everything random follows from it.
    pub seed: u64,
    /// By name, with what each relay's line does, each way.
    pub relays: BTreeMap<String, LineSpec>,
    /// By name.
    pub homes: BTreeMap<String, HomeSpec>,
    /// The home that each node is in.
    pub nodes: BTreeMap<String, String>,
}

/// A home.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HomeSpec {
    /// What is in front of it.
    pub nat: NatSpec,
    /// Families that its nodes have.
    pub ip: Ip,
    /// What its line does, each way.
    pub line: LineSpec,
}

/// Families of addresses.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ip {
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
    /// Both.
    Dual,
}

impl Ip {
    pub(super) fn families(self) -> Families {
        match self {
            Ip::Ipv4 => Families::V4,
            Ip::Ipv6 => Families::V6,
            Ip::Dual => Families::Dual,
        }
    }
}

/// What is in front of a home: a usual kind, or a NAT in detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum NatSpec {
    /// A usual one.
    Kind(NatKind),
    /// In detail.
    Nat(NatDetails),
}

/// What is usual in front of a home, for IPv4. IPv6 is never translated: except in front of a home with `None` it passes a firewall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NatKind {
    /// Nothing: nodes have public addresses.
    None,
    /// A stateful firewall, nodes have public addresses.
    Firewall,
    /// A NAT that maps by the inside address and port alone, and filters by address and port.
    EndpointIndependent,
    /// One that maps by the destination's address too.
    AddressDependent,
    /// One that maps by the destination's address and port too, to random ports.
    AddressAndPortDependent,
    /// Two endpoint-independent ones, one behind the other.
    Double,
    /// An endpoint-independent one behind a carrier's.
    Carrier,
}

/// A NAT in the terms of RFC 4787.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NatDetails {
    mapping: Dependence,
    filtering: Dependence,
    ports: PortsSpec,
    hairpin: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Dependence {
    EndpointIndependent,
    AddressDependent,
    AddressAndPortDependent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PortsSpec {
    Preserve,
    Sequential,
    Random,
}

impl NatSpec {
    /// Whether nodes behind it have private addresses.
    pub(super) fn translates(self) -> bool {
        match self {
            NatSpec::Kind(NatKind::None | NatKind::Firewall) => false,
            NatSpec::Kind(
                NatKind::EndpointIndependent
                | NatKind::AddressDependent
                | NatKind::AddressAndPortDependent
                | NatKind::Double
                | NatKind::Carrier,
            )
            | NatSpec::Nat(_) => true,
        }
    }

    /// The one NAT that it is; the default one of kinds that are none or two.
    pub(super) fn config(self) -> NatConfig {
        let strict = Filtering::AddressAndPortDependent;
        match self {
            NatSpec::Kind(NatKind::AddressDependent) => {
                NatConfig::new(Mapping::AddressDependent, strict, Ports::Preserve)
            }
            NatSpec::Kind(NatKind::AddressAndPortDependent) => {
                NatConfig::new(Mapping::AddressAndPortDependent, strict, Ports::Random)
            }
            NatSpec::Kind(
                NatKind::None | NatKind::Firewall | NatKind::EndpointIndependent | NatKind::Double | NatKind::Carrier,
            ) => NatConfig::default(),
            NatSpec::Nat(NatDetails { mapping, filtering, ports, hairpin }) => NatConfig {
                hairpin,
                ..NatConfig::new(
                    match mapping {
                        Dependence::EndpointIndependent => Mapping::EndpointIndependent,
                        Dependence::AddressDependent => Mapping::AddressDependent,
                        Dependence::AddressAndPortDependent => Mapping::AddressAndPortDependent,
                    },
                    match filtering {
                        Dependence::EndpointIndependent => Filtering::EndpointIndependent,
                        Dependence::AddressDependent => Filtering::AddressDependent,
                        Dependence::AddressAndPortDependent => Filtering::AddressAndPortDependent,
                    },
                    match ports {
                        PortsSpec::Preserve => Ports::Preserve,
                        PortsSpec::Sequential => Ports::Sequential,
                        PortsSpec::Random => Ports::Random,
                    },
                )
            },
        }
    }
}

/// What a line does, each way. What is absent stays as it is, at first as [`Impairment`]'s defaults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct LineSpec {
    /// Milliseconds, 0 to 60,000.
    pub delay: Option<f64>,
    /// Milliseconds more or less, 0 to 60,000; packets stay in order.
    pub jitter: Option<f64>,
    /// Share of packets lost, 0 to 1.
    pub loss: Option<f64>,
    /// Mean number of packets lost in a row, 1 to 1,000.
    pub burst: Option<f64>,
    /// Share of packets overtaken by those behind, 0 to 1.
    pub reorder: Option<f64>,
    /// Bits a second, from 1,000; 0: no limit.
    pub rate: Option<f64>,
    /// Bytes that wait for a line with a rate.
    pub queue: Option<f64>,
    /// Bytes of the largest IP packet, 576 to 1500; 0: no limit.
    pub mtu: Option<f64>,
}

impl LineSpec {
    /// `line` with what is given here.
    pub(super) fn over(&self, mut line: Impairment) -> Result<Impairment> {
        const MINUTE: &str = "milliseconds from 0 to 60000";
        const SHARE: &str = "a share from 0 to 1, such as 0.02";
        let millis = |name, value: Option<f64>, was| match value {
            None => Ok(was),
            Some(ms) if (0.0..=60_000.0).contains(&ms) => Ok(Duration::from_secs_f64(ms / 1_000.0)),
            Some(ms) => Err(refused(name, ms, MINUTE)),
        };
        let share = |name, value: Option<f64>, was| match value {
            None => Ok(was),
            Some(share) if (0.0..=1.0).contains(&share) => Ok((share * 1e6).round() as u32),
            Some(share) => Err(refused(name, share, SHARE)),
        };
        line.delay = millis("delay", self.delay, line.delay)?;
        line.jitter = millis("jitter", self.jitter, line.jitter)?;
        line.loss = share("loss", self.loss, line.loss)?;
        line.reorder = share("reorder", self.reorder, line.reorder)?;
        line.burst = match self.burst {
            None => line.burst,
            Some(n) if whole(n, 1.0, 1_000.0) => n as u32,
            Some(n) => return Err(refused("burst", n, "packets from 1 to 1000")),
        };
        line.rate = match self.rate {
            None => line.rate,
            Some(0.0) => None,
            Some(n) if whole(n, 1e3, 1e12) => Some(n as u64),
            Some(n) => return Err(refused("rate", n, "bits a second from 1000")),
        };
        line.queue = match self.queue {
            None => line.queue,
            Some(n) if whole(n, 1.0, 1e9) => n as u64,
            Some(n) => return Err(refused("queue", n, "bytes from 1 to 1000000000")),
        };
        line.mtu = match self.mtu {
            None => line.mtu,
            Some(0.0) => None,
            Some(n) if whole(n, 576.0, 1_500.0) => Some(n as u16),
            Some(n) => return Err(refused("mtu", n, "bytes from 576 to 1500")),
        };
        Ok(line)
    }
}

/// Which UDP a home loses at its router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Blocked {
    /// None.
    Nothing,
    /// All but that to and from relays.
    Direct,
    /// All.
    Udp,
}

/// What can be changed. `at` is a node, whose home is meant, or a home.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "op", deny_unknown_fields, rename_all = "camelCase")]
pub enum Change {
    /// Another router, which knows nothing of the old one's mappings.
    SetNat {
        /// Where.
        at: String,
        /// Which.
        nat: NatSpec,
    },
    /// What lines do from here on; what is under way keeps its time.
    SetLine {
        /// Absent: everywhere but at relays.
        at: Option<String>,
        /// What is different.
        line: LineSpec,
    },
    /// What is lost.
    Block {
        /// Where.
        at: String,
        /// What.
        what: Blocked,
    },
    /// Routers forget their mappings, and give other ports from here on.
    Rebind {
        /// Where.
        at: String,
    },
    /// One more home, with nobody in it.
    AddHome {
        /// Its name.
        name: String,
        /// What it is like.
        home: HomeSpec,
    },
    /// A node goes to another home.
    Move {
        /// Which node.
        node: String,
        /// To which home.
        home: String,
    },
}

fn whole(n: f64, least: f64, most: f64) -> bool {
    (least..=most).contains(&n) && n.fract() == 0.0
}

fn refused(name: &str, got: f64, accepted: &'static str) -> Error {
    Error::invalid(name, got.to_string(), accepted)
}
