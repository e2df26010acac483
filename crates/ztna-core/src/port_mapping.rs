//! A port of the router's that leads to our main socket, as a role sees it: `io` has the gateway asked
//! ([`Action::MapPort`](crate::role::Action)), [`Machine::handle_port_mapping`](crate::role::Machine) hears what came of it.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

/// By which protocol a gateway gave a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MappingProtocol {
    /// RFC 6887.
    Pcp,
    /// RFC 6886.
    NatPmp,
    /// UPnP WANIPConnection or WANPPPConnection.
    Upnp,
}

impl MappingProtocol {
    pub fn as_str(self) -> &'static str {
        match self {
            MappingProtocol::Pcp => "pcp",
            MappingProtocol::NatPmp => "nat-pmp",
            MappingProtocol::Upnp => "upnp",
        }
    }
}

impl fmt::Display for MappingProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MappingProtocol::Pcp => "PCP",
            MappingProtocol::NatPmp => "NAT-PMP",
            MappingProtocol::Upnp => "UPnP",
        })
    }
}

/// What came of asking.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PortMapping {
    /// The role does not ask.
    #[default]
    Off,
    /// There is nothing to ask for, or nobody to ask.
    Unneeded {
        why: &'static str,
    },
    Asking,
    /// UDP to `external` reaches our main socket.
    Mapped {
        by: MappingProtocol,
        external: SocketAddrV4,
    },
    /// The gateway gave an address that nobody outside its own network reaches: it is behind a NAT itself.
    DoubleNat {
        by: MappingProtocol,
        external: Ipv4Addr,
    },
    /// No protocol led to a port; in words, what became of each.
    Failed {
        why: String,
    },
}

impl PortMapping {
    /// Stable name of the state.
    pub fn as_str(&self) -> &'static str {
        match self {
            PortMapping::Off => "off",
            PortMapping::Unneeded { .. } => "unneeded",
            PortMapping::Asking => "asking",
            PortMapping::Mapped { .. } => "mapped",
            PortMapping::DoubleNat { .. } => "double-nat",
            PortMapping::Failed { .. } => "failed",
        }
    }

    pub fn protocol(&self) -> Option<MappingProtocol> {
        match self {
            PortMapping::Mapped { by, .. } | PortMapping::DoubleNat { by, .. } => Some(*by),
            PortMapping::Off | PortMapping::Unneeded { .. } | PortMapping::Asking | PortMapping::Failed { .. } => None,
        }
    }

    /// What can be offered to peers.
    pub fn external(&self) -> Option<SocketAddr> {
        match self {
            PortMapping::Mapped { external, .. } => Some(SocketAddr::V4(*external)),
            PortMapping::Off
            | PortMapping::Unneeded { .. }
            | PortMapping::Asking
            | PortMapping::DoubleNat { .. }
            | PortMapping::Failed { .. } => None,
        }
    }

    /// In words, for people.
    pub fn describe(&self) -> String {
        match self {
            PortMapping::Off => "the router is not asked for a port: port_mapping is off".into(),
            PortMapping::Unneeded { why } => format!("the router is not asked for a port: {why}"),
            PortMapping::Asking => "the router is being asked for a port".into(),
            PortMapping::Mapped { by, external } => format!("the router has opened {external} for this host ({by})"),
            PortMapping::DoubleNat { by, external } => {
                format!(
                    "the router opens ports ({by}), but its own address {external} is private: it is behind another NAT"
                )
            }
            PortMapping::Failed { why } => format!("the router gave no port: {why}"),
        }
    }
}

/// Who can have an address that a gateway calls its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum External {
    /// Packets from elsewhere reach it.
    Public,
    /// A router behind another NAT: private (RFC 1918), a carrier's (RFC 6598), or of a tunnel to one (192.0.0.0/24, RFC 7335).
    Inside,
    /// No router: unspecified, loopback, of one link, multicast, broadcast, reserved.
    Nobody,
}

impl External {
    pub fn of(ip: Ipv4Addr) -> External {
        let [a, b, c, _] = ip.octets();
        let shared = a == 100 && (64..128).contains(&b);
        let assigned = (a, b, c) == (192, 0, 0);
        let reserved = a == 0 || a >= 240;
        if reserved || ip.is_loopback() || ip.is_link_local() || ip.is_multicast() {
            External::Nobody
        } else if ip.is_private() || shared || assigned {
            External::Inside
        } else {
            External::Public
        }
    }
}

/// Whether a packet from elsewhere can be meant for this address.
pub fn is_public(ip: Ipv4Addr) -> bool {
    External::of(ip) == External::Public
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_and_carriers_addresses_are_not_public_and_some_are_no_routers() {
        for ip in ["10.0.0.1", "172.31.0.1", "192.168.1.1", "100.64.0.1", "100.127.255.255", "192.0.0.8"] {
            assert_eq!(External::of(ip.parse().unwrap()), External::Inside, "{ip}");
        }
        for ip in ["169.254.0.1", "127.0.0.1", "0.0.0.0", "224.0.0.1", "239.1.1.1", "255.255.255.255"] {
            assert_eq!(External::of(ip.parse().unwrap()), External::Nobody, "{ip}");
        }
        for ip in ["100.63.0.1", "100.128.0.1", "203.0.113.1", "192.0.1.1", "8.8.8.8"] {
            assert!(is_public(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn only_a_port_that_others_reach_is_offered() {
        let (by, external) = (MappingProtocol::Pcp, SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 1), 7));
        assert_eq!(PortMapping::Mapped { by, external }.external(), Some(external.into()));
        assert_eq!(PortMapping::DoubleNat { by, external: Ipv4Addr::new(100, 64, 0, 1) }.external(), None);
    }
}
