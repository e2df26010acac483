//! The relay: a public meeting point. It tells nodes their addresses, admits agents to connectors by policy, and passes on
//! packets that it has no key for (protocol.md, Outer connection).
//!
//! A relay is N packet loops, each with a [`Relay`] of its own, and one [`Shared`] between them. The first byte of every
//! connection ID that a loop issues is the loop's index: what the kernel gives to the wrong loop is handed over.
//! A session has two halves, one on the agent's connection and one on the connector's bind; they may live on different loops
//! and speak through the loops' inboxes. Forwarded packets need neither: any loop sends them on from one shared table.

use std::net::SocketAddr;
use std::time::Duration;

use crate::bucket::Rate;
use crate::role::SocketIndex;

mod admission;
mod capsules;
mod conn;
mod counters;
mod drain;
mod forward;
mod inbox;
mod machine;
mod packets;
mod rate;
mod registry;
mod replaced;
mod requests;
mod session;
mod share;
mod shared;
mod status;
mod stun;
mod tunnel;

pub use counters::Counters;
pub use machine::Relay;
pub use rate::MIN_BPS;
pub use shared::{Shared, Wake};
pub use status::{ConnectorStatus, RelayStats, RelayStatus, SessionStatus};

/// Application close code of a bind's connection when the same identity has bound again from another connection, and the older
/// process is dead or its drain is over. Before, it is told by a REPLACED capsule: it says so, drains and does not bind again
/// (contract.md). A process that opened the newer one itself ignores both.
pub const REPLACED: u64 = 0x7a01;
/// Application close code when a certificate is revoked, expired or no longer trusted.
pub const NOT_TRUSTED: u64 = 0x7a02;
/// RFC 9114 §8.1: what a session's stream is reset with when policy no longer permits the session.
pub const H3_REQUEST_REJECTED: u64 = 0x10b;
/// RFC 9297 §5.2: a capsule or datagram that can't be read.
pub const H3_DATAGRAM_ERROR: u64 = 0x33;

/// What a relay is started with. [`RelayConfig::new`] gives the defaults.
#[derive(Debug, Clone)]
pub struct RelayConfig {
    /// Addresses of the loop's QUIC sockets, in their order: their index is the [`SocketIndex`]. All loops have the same.
    pub listen: Vec<SocketAddr>,
    /// Addresses at which nodes reach `listen`, for OTHER-ADDRESS in answers of the second STUN port. Default: none.
    pub public_addrs: Vec<SocketAddr>,
    /// The socket that answers STUN only, and the address at which nodes reach it. Its index comes after those of `listen`. Default: none.
    pub stun_alt: Option<(SocketIndex, SocketAddr)>,
    /// Whether clients prove their address by a Retry before anything is kept for them (RFC 9000 §8.1.2). Default: yes.
    pub retry: bool,
    pub limits: Limits,
}

/// Bounds on what peers can make the relay keep or do. Those of one identity hold for each loop.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Outer connections of one loop. Default 16,384: at 48 KB each that is 800 MB.
    pub connections: usize,
    /// Of those, connections of one identity. Default 256: processes that share a certificate.
    pub connections_per_identity: usize,
    /// Heap that one connection may hold for its peer, bytes; DATAGRAMs do not count. Default 4 MiB: 1,024 streams, each with an
    /// unread request of 2 KB and its state.
    pub held_per_connection: u64,
    /// Heap that the connections of one identity may hold together, bytes. Default 32 MiB: 256 connections with what an ordinary
    /// one holds (36 KB, facts.md), three times over.
    pub held_per_identity: u64,
    /// Sessions of the whole relay. Default 65,536.
    pub sessions: usize,
    /// Sessions of one agent's connection. Default 256, a quarter of its streams.
    pub sessions_per_agent: usize,
    /// Sessions of one connector's bind. Default 8,192: context IDs stay within two bytes.
    pub sessions_per_bind: usize,
    /// Of those, sessions of one agent's identity, from all of its connections. Default 512: its 256 connections with one each, and
    /// as many that have not been given up yet.
    pub sessions_per_pair: usize,
    /// Sessions a second that one agent's identity may begin to one connector, after `sessions_per_pair` and a second's worth at once.
    /// Default 32: with four inner handshakes each an eighth of the connector's core (decision 0014).
    pub session_rate_per_pair: u32,
    /// Inner bits a second of one session, both directions and both modes together; packets beyond it are dropped. At least
    /// [`MIN_BPS`]. Default: no limit.
    pub bps_per_session: Option<u64>,
    /// Handshakes per second and /24 (IPv4) or /48 (IPv6), address validated. Default 200 (protocol.md).
    pub handshakes_per_prefix: u32,
    /// Handshakes per second of the whole relay, address validated. Default 2,000: about two cores' worth.
    pub handshakes: u32,
    /// Retry packets per second of the whole relay, spread evenly over its loops. Each costs as much as twenty forwarded packets:
    /// more let newcomers in faster under a flood of spoofed Initials, fewer leave more to established flows. Default 5,000: two
    /// for each handshake of the budget, and some.
    pub retries: u32,
}

impl RelayConfig {
    pub fn new(listen: Vec<SocketAddr>) -> Self {
        RelayConfig { listen, public_addrs: Vec::new(), stun_alt: None, retry: true, limits: Limits::default() }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 16_384,
            connections_per_identity: 256,
            held_per_connection: 4 << 20,
            held_per_identity: 32 << 20,
            sessions: 65_536,
            sessions_per_agent: 256,
            sessions_per_bind: 8_192,
            sessions_per_pair: 512,
            session_rate_per_pair: 32,
            bps_per_session: None,
            handshakes_per_prefix: 200,
            handshakes: 2_000,
            retries: 5_000,
        }
    }
}

/// Stateless resets that one loop sends a second: the keep-alives of 15,000 idle agents that it lost in a restart.
const RESETS: Rate = Rate { at_once: 1_000.0, each_second: 1_000.0 };

/// How long PMTU discovery may take on a leg before it counts as too small to forward raw packets: three lost probes at each
/// of eight sizes on a 100 ms leg.
const PMTU_SETTLE: Duration = Duration::from_secs(5);
