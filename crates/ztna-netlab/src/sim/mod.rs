//! A network in memory, on virtual time: hosts in realms, routers between realms, links that delay and lose.
//!
//! ```text
//!            the Internet (a realm, IPv4 and IPv6)
//!      ┌──────────┬───────────────┬──────────────┐
//!    relay     router A       carrier NAT      host with a firewall
//!                 │            ┌──┴──┐
//!              host A       router  router      each router has an inner realm of its own
//!                              │      │
//!                           host B  host C
//! ```
//!
//! [`Network`] is a state machine like those it tests: no sockets, no clock. Times are durations since an origin of the
//! caller's. The same seed and calls give the same deliveries. [`oracle`] says what two nodes can reach, from rules and not
//! from this code; [`kinds`] names the usual places a node can be in and builds two of them around a relay.

mod forwarding;
pub mod kinds;
mod network;
pub mod oracle;
mod topology;

use std::net::{IpAddr, SocketAddr};

pub use network::{Drops, Network};

use crate::impairment::Impairment;
use crate::nat::{FirewallConfig, NatConfig};

/// A set of hosts and routers that reach each other without a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RealmId(usize);

/// The realm that is there from the start. Addresses of private use are not routed in it.
pub const INTERNET: RealmId = RealmId(0);

/// A host of one [`Network`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(usize);

/// A router of one [`Network`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouterId(usize);

/// A link: that of a router to its outer realm, or that of a host's interface to its realm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinkId {
    /// Between a router and its outer realm.
    Router(RouterId),
    /// Between a host's interface, counted from 0, and its realm.
    Host(HostId, usize),
}

impl From<RouterId> for LinkId {
    fn from(router: RouterId) -> Self {
        Self::Router(router)
    }
}

impl From<HostId> for LinkId {
    /// The link of the first interface.
    fn from(host: HostId) -> Self {
        Self::Host(host, 0)
    }
}

/// Which way over a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// Away from the host, towards the Internet.
    Up,
    /// Towards the host.
    Down,
}

impl Way {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Up, Self::Down];
}

/// What a router does with one address family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Policy {
    /// The family is not routed.
    #[default]
    NoRoute,
    /// Everything passes in both directions, addresses stay.
    Open,
    /// Addresses stay, only answers come in.
    Firewall(FirewallConfig),
    /// Addresses and ports are translated.
    Nat(NatConfig),
}

/// Which UDP packets a router drops whatever its policy says, in both directions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Block {
    /// None.
    #[default]
    Nothing,
    /// All but those to and from these addresses and ports outside.
    AllExcept(Vec<SocketAddr>),
    /// All.
    All,
}

/// A router between an outer realm and an inner one that is made with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouterConfig {
    /// What happens to IPv4. Default [`Policy::NoRoute`].
    pub v4: Policy,
    /// What happens to IPv6. Default [`Policy::NoRoute`].
    pub v6: Policy,
    /// Its addresses in the outer realm; translation needs one of the family, the others need none.
    pub external: Vec<IpAddr>,
    /// What is dropped. Default nothing.
    pub block: Block,
    /// Its link to the outer realm, from inside to outside.
    pub up: Impairment,
    /// Its link to the outer realm, from outside to inside.
    pub down: Impairment,
}

/// A datagram that has arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Where.
    pub host: HostId,
    /// The source that the receiver sees. Of [`Network::send_ip`] the ports may be those of [`crate::ip::Header`].
    pub from: SocketAddr,
    /// The receiver's own address and port.
    pub to: SocketAddr,
    /// The UDP payload, or the whole packet of [`Network::send_ip`].
    pub payload: Vec<u8>,
}
