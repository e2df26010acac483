//! The host's network interfaces, as a role sees them. `io` finds them, [`Machine::handle_interfaces`](crate::role::Machine) hears of
//! them.

use std::net::IpAddr;

/// One address of an interface that is up and running. An interface with two addresses is there twice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interface {
    /// The system's index of it, from 1.
    pub index: u32,
    pub name: String,
    /// An IPv6 address counts only once its uniqueness on the link is known (RFC 4862 §5.4).
    pub address: IpAddr,
    /// Bits of `address` that name its network.
    pub prefix_len: u8,
    /// The zone of a link-local IPv6 address (RFC 4007 §11): what `SocketAddrV6` has to carry with it. 0: `address` needs none.
    pub scope_id: u32,
    pub kind: InterfaceKind,
    /// A privacy address, which others replace in a while (RFC 8981). `false` where the system does not tell.
    pub temporary: bool,
    /// Not for new connections (RFC 4862 §5.5.4). `false` where the system does not tell.
    pub deprecated: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum InterfaceKind {
    /// Leads to a network: hardware, what is built upon it (bond, VLAN, a bridge over it), or the inside of a container.
    Ordinary,
    Loopback,
    /// Point to point, mostly another VPN: TUN and TAP, WireGuard, PPP, IP in IP.
    Tunnel,
    /// Leads to this host's own guests, or nowhere: a bridge of containers or virtual machines, a port of one, a dummy.
    Virtual,
}
