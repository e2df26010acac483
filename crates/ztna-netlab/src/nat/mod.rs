//! What a router does to flows: translation and filtering as RFC 4787 (UDP) names them. No sockets, no clock.
//!
//! ```text
//!   inside address and port ──outbound──► mapping ──► external address and port      (which one: `Mapping`, `Ports`)
//!   inside address and port ◄──inbound── filter  ◄── external address and port      (who may: `Filtering`)
//! ```
//!
//! Times are durations since an origin that the caller chooses and never moves backwards. The same seed, packets and times
//! give the same ports.

mod ports;
mod table;

use std::ops::RangeInclusive;
use std::time::Duration;

pub use table::{Counters, Nat};

/// Which packets of one inside address and port share an external port (RFC 4787 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mapping {
    /// All of them (EIM).
    EndpointIndependent,
    /// Those to one remote address (ADM).
    AddressDependent,
    /// Those to one remote address and port (APDM).
    AddressAndPortDependent,
}

/// From whom a mapping lets packets in (RFC 4787 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Filtering {
    /// From anybody (EIF).
    EndpointIndependent,
    /// From an address that the mapping has sent to (ADF).
    AddressDependent,
    /// From an address and port that the mapping has sent to (APDF).
    AddressAndPortDependent,
}

/// Which external port a new mapping gets (RFC 4787 §4.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ports {
    /// The inside port; when that is taken the next free one.
    Preserve,
    /// One more than the last one given.
    Sequential,
    /// Any free one.
    Random,
}

/// What is translated. An ICMP echo's identifier takes the place of the inside port, its remote port is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// UDP.
    Udp,
    /// TCP, with timeouts of RFC 5382 and no look at its flags.
    Tcp,
    /// ICMP and ICMPv6 echo, with the timeout of RFC 5508.
    Icmp,
}

/// Why a packet does not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Refusal {
    /// The mapping exists, its filter refuses the sender.
    #[error("refused by the filter of the mapping")]
    Filtered,
    /// Nobody inside has a mapping of this external address and port.
    #[error("no mapping")]
    NoMapping,
    /// A bound of the table is reached.
    #[error("table full")]
    Full,
    /// No external address of the packet's family, or no free port.
    #[error("no external address or port")]
    NoPort,
}

/// How long state lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// UDP flow without an answer yet. Default 30 s, as Linux (`nf_conntrack_udp_timeout`).
    pub unreplied: Duration,
    /// UDP flow that has been answered. Default 120 s, as Linux (`nf_conntrack_udp_timeout_stream`) and RFC 4787 REQ-5.
    pub replied: Duration,
    /// Whatever happens, a mapping dies this long after it was made, as on some carriers (48 to 75 s). Default `None`.
    pub lifetime: Option<Duration>,
    /// Whether packets from outside extend the time too (RFC 4787 §4.3). Default true, as Linux; outbound ones always do.
    pub refresh_inbound: bool,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            unreplied: Duration::from_secs(30),
            replied: Duration::from_secs(120),
            lifetime: None,
            refresh_inbound: true,
        }
    }
}

/// A router that translates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatConfig {
    /// Default endpoint-independent.
    pub mapping: Mapping,
    /// Default address-and-port-dependent.
    pub filtering: Filtering,
    /// Default [`Ports::Preserve`].
    pub ports: Ports,
    /// Whether an inside host reaches another by its external address; the other sees the first one's external address and
    /// port (RFC 4787 §6, REQ-9). Default false.
    pub hairpin: bool,
    /// As Linux: a mapping is per flow and its external port may be shared with another inside host's as long as the two talk
    /// to different remotes. Alone on its port a host looks endpoint-independent; the second one with the same port gets
    /// another external port only towards remotes that the first also talks to, which looks address-dependent. Default false.
    pub overload: bool,
    /// Default [`Timeouts::default`].
    pub timeouts: Timeouts,
    /// External ports that may be given. Default 1024 to 65535.
    pub port_range: RangeInclusive<u16>,
    /// Mappings at a time; beyond it new ones are refused. Default 16,384, a quarter of the ports of one address.
    pub max_mappings: usize,
}

impl Default for NatConfig {
    fn default() -> Self {
        Self {
            mapping: Mapping::EndpointIndependent,
            filtering: Filtering::AddressAndPortDependent,
            ports: Ports::Preserve,
            hairpin: false,
            overload: false,
            timeouts: Timeouts::default(),
            port_range: 1024..=65_535,
            max_mappings: 16_384,
        }
    }
}

impl NatConfig {
    /// The defaults with this mapping, filtering and port assignment.
    pub fn new(mapping: Mapping, filtering: Filtering, ports: Ports) -> Self {
        Self { mapping, filtering, ports, ..Self::default() }
    }
}

/// A stateful firewall: addresses stay, only answers come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirewallConfig {
    /// Default address-and-port-dependent.
    pub filtering: Filtering,
    /// Default [`Timeouts::default`].
    pub timeouts: Timeouts,
    /// Inside ports remembered at a time; beyond it new ones are refused. Default 16,384.
    pub max_mappings: usize,
}

impl Default for FirewallConfig {
    fn default() -> Self {
        Self { filtering: Filtering::AddressAndPortDependent, timeouts: Timeouts::default(), max_mappings: 16_384 }
    }
}
