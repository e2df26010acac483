//! network.toml as one immutable value: relays, services, agents.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv6Addr;

use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::trust::network_file;
use crate::trust::policy::Protocol;

/// UDP port of a relay whose URL names none (contract.md).
pub const DEFAULT_RELAY_PORT: u16 = 4433;

/// Zone of a network.toml that names none: `.internal` is the top-level domain reserved for private use.
pub const DEFAULT_ZONE: &str = "ztna.internal";

/// Everything a node is told about the others. An agent's holds no other agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    pub trust_domain: String,
    /// Services are `<service>.<zone>`. Default [`DEFAULT_ZONE`].
    pub zone: String,
    pub relay_mode: RelayMode,
    /// In the file's order.
    pub relays: Vec<Relay>,
    pub services: BTreeMap<String, Service>,
    pub agents: BTreeMap<String, Agent>,
}

/// How relays may carry inner packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RelayMode {
    /// Raw inner packets where possible, the tunnel otherwise.
    #[default]
    Forwarded,
    /// Always inside the outer connection: dearer, and hides packet boundaries from an observer of both legs.
    Tunnel,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    pub name: String,
    /// At least one.
    pub urls: Vec<RelayUrl>,
    /// Free text for operators and future path choice.
    pub region: Option<String>,
}

/// `https://host:port`, without a path. `host` is a DNS name or an IP address; IPv6 without brackets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RelayUrl {
    pub host: String,
    pub port: u16,
}

impl fmt::Display for RelayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "https://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "https://{}:{}", self.host, self.port)
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub name: String,
    /// Names of the connectors that serve it, in the file's order; at least one.
    pub connectors: Vec<String>,
    /// Sorted, not overlapping.
    pub tcp: Vec<PortRange>,
    /// Sorted, not overlapping.
    pub udp: Vec<PortRange>,
    pub icmp: bool,
}

impl Service {
    pub fn has_tcp(&self, port: u16) -> bool {
        self.tcp.iter().any(|r| r.contains(port))
    }
    pub fn has_udp(&self, port: u16) -> bool {
        self.udp.iter().any(|r| r.contains(port))
    }

    /// The port that a caller means: the one it names, or the service's only one of that protocol. 0 for echo, which has none.
    ///
    /// Errors: what is wrong, and what the service has.
    pub fn resolve_port(&self, protocol: Protocol, port: Option<u16>) -> Result<u16, String> {
        let (name, kind) = (&self.name, protocol.as_str());
        let ranges = match protocol {
            Protocol::Tcp => &self.tcp,
            Protocol::Udp => &self.udp,
            Protocol::Icmp if self.icmp => return Ok(0),
            Protocol::Icmp => return Err(format!("service `{name}` does not answer echo (icmp = true)")),
        };
        let list = || match ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ") {
            empty if empty.is_empty() => "none".to_owned(),
            list => list,
        };
        match (port, ranges.as_slice()) {
            (Some(port), ranges) if ranges.iter().any(|r| r.contains(port)) => Ok(port),
            (Some(port), _) => Err(format!("service `{name}` has no {kind} port {port}; it has: {}", list())),
            (None, [only]) if only.lo == only.hi => Ok(only.lo),
            (None, _) => Err(format!("name the port, one of the {kind} ports of service `{name}`: {}", list())),
        }
    }
}

/// `lo` to `hi`, both included, `1 <= lo <= hi`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    pub lo: u16,
    pub hi: u16,
}

impl PortRange {
    pub fn contains(self, port: u16) -> bool {
        self.lo <= port && port <= self.hi
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.lo == self.hi { write!(f, "{}", self.lo) } else { write!(f, "{}-{}", self.lo, self.hi) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    pub name: String,
    pub groups: BTreeSet<String>,
}

impl Network {
    /// Reads network.toml. `at` names the file in errors.
    ///
    /// Errors: [`Error::Config`] at `<at>:<line>` for unknown keys, wrong types, bad names, ports or URLs, and for
    /// anything named twice.
    pub fn parse(text: &str, at: &str) -> Result<Network, Error> {
        network_file::parse(text, at)
    }

    pub fn service(&self, name: &str) -> Option<&Service> {
        self.services.get(name)
    }

    pub fn services_of_connector<'a>(&'a self, connector: &'a str) -> impl Iterator<Item = &'a Service> {
        self.services.values().filter(move |s| s.connectors.iter().any(|c| c == connector))
    }

    /// Names of all connectors, which are named only by the services they serve.
    pub fn connectors(&self) -> BTreeSet<&str> {
        self.services.values().flat_map(|s| s.connectors.iter().map(String::as_str)).collect()
    }

    /// The port a caller means who names none: the only TCP port of the service, when there is only one.
    pub fn sole_tcp_port(&self, service: &str) -> Option<u16> {
        match self.service(service)?.tcp.as_slice() {
            [only] if only.lo == only.hi => Some(only.lo),
            _ => None,
        }
    }

    /// A stable unique local address (RFC 4193) that stands for a service inside this trust domain: the global ID is a
    /// hash of the trust domain, the interface ID one of the service's name.
    pub fn virtual_address(&self, service: &str) -> Ipv6Addr {
        let global = Sha256::new().chain_update(b"ztna network\0").chain_update(&self.trust_domain).finalize();
        let host = Sha256::new()
            .chain_update(b"ztna service\0")
            .chain_update(&self.trust_domain)
            .chain_update([0])
            .chain_update(service)
            .finalize();
        let mut octets = [0u8; 16];
        let (prefix, interface) = octets.split_at_mut(8);
        for (to, from) in prefix.iter_mut().skip(1).take(5).zip(global) {
            *to = from;
        }
        for (to, from) in interface.iter_mut().zip(host) {
            *to = from;
        }
        octets[0] = 0xfd;
        Ipv6Addr::from(octets)
    }
}
