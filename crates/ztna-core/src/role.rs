//! What every role is to the packet loop: a machine that takes packets, time and local bytes, and hands back what to do.
//!
//! Drain order after any input: `process` once, then `poll_action` until `None`, then `poll_transmit` until `None`, then
//! `poll_timeout`. The loop feeds a whole receive batch before it drains: that also batches acknowledgements.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::id::FlowId;
use crate::interface::Interface;
use crate::port_mapping::PortMapping;
use crate::quic::Wrote;
use crate::trust::{PathClass, PeerIdentity, Protocol, Snapshot};

/// Index of one of the loop's UDP sockets, in the order in which they were given to it.
pub type SocketIndex = usize;

/// Most sockets that one [`Action::OpenSockets`] gets: as many as the hard side of a port burst needs to succeed (256 against 1,024
/// probes). The loop keeps at most twice as many open, so that those that won earlier bursts leave room for one.
pub const MORE_SOCKETS: usize = 256;

/// One received burst: datagrams of `stride` bytes (the last may be shorter) from one sender.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    pub socket: SocketIndex,
    pub from: SocketAddr,
    /// The local address it was sent to, where the system told.
    pub to: Option<IpAddr>,
    pub stride: usize,
}

/// One burst to send: `out` was filled with datagrams of `segment` bytes (the last may be shorter) for one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transmit {
    /// `None`: the loop's socket of the address family of `to`.
    pub socket: Option<SocketIndex>,
    pub to: SocketAddr,
    pub from: Option<IpAddr>,
    pub segment: usize,
}

/// Where a connector takes a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A host (name or address) and port, TCP or UDP by the flow's protocol.
    Host {
        host: String,
        port: u16,
    },
    Unix(PathBuf),
    /// A handler in the embedding process, by its serve ID.
    Handler(u64),
    /// Answered by the connector itself: ICMP echo for a service that it can reach at these TCP targets.
    Echo,
}

/// What an agent's caller wants to reach.
#[derive(Debug, Clone)]
pub struct Open {
    pub service: String,
    /// `None`: the service's only port of that protocol.
    pub port: Option<u16>,
    pub protocol: Protocol,
    pub path: PathPolicy,
    /// From now until the far end's answer.
    pub timeout: Duration,
    /// W3C trace context to carry, already checked by `wire::traceparent`.
    pub traceparent: Option<String>,
}

/// Which paths a flow may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum PathPolicy {
    #[default]
    Auto,
    DirectOnly,
    RelayOnly,
}

impl PathPolicy {
    pub const ALL: [PathPolicy; 3] = [PathPolicy::Auto, PathPolicy::DirectOnly, PathPolicy::RelayOnly];

    /// As callers and `status` name it (api.d.ts).
    pub fn as_str(self) -> &'static str {
        match self {
            PathPolicy::Auto => "auto",
            PathPolicy::DirectOnly => "direct-only",
            PathPolicy::RelayOnly => "relay-only",
        }
    }

    /// The one kind of path that it leaves.
    pub fn only(self) -> Option<PathClass> {
        match self {
            PathPolicy::Auto => None,
            PathPolicy::DirectOnly => Some(PathClass::Direct),
            PathPolicy::RelayOnly => Some(PathClass::Relay),
        }
    }
}

/// A flow's far end and how it is reached.
#[derive(Debug, Clone)]
pub struct FlowInfo {
    /// Which inner connection carries it, as [`Notice::Path`] names it.
    pub connection: usize,
    pub peer: Arc<PeerIdentity>,
    pub service: String,
    pub port: u16,
    pub protocol: Protocol,
    pub path: PathInfo,
    pub traceparent: Option<String>,
}

/// The path of one inner connection, as people see it.
#[derive(Debug, Clone, PartialEq)]
pub struct PathInfo {
    pub kind: PathKind,
    /// The relay's name while the path goes through one.
    pub relay: Option<String>,
    pub local: Option<SocketAddr>,
    pub remote: Option<SocketAddr>,
    pub rtt: Duration,
    /// Largest inner UDP payload, bytes.
    pub mtu: usize,
    /// Lost packets per packet sent over the connection's life, percent.
    pub loss_pct: f64,
    pub since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathKind {
    /// Straight between the two ends.
    Direct,
    /// Relayed; `forwarded` says whether raw packets are forwarded or each is tunnelled.
    Relay {
        forwarded: bool,
    },
    None,
}

/// What a read from a flow's stream gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    Bytes(usize),
    /// Nothing now; `Action::Readable` follows.
    Blocked,
    /// The peer's clean end: no more bytes will come.
    Finished,
}

/// What a machine asks of the loop.
#[derive(Debug)]
pub enum Action {
    /// Connector: reach `target`, then call `flow_connected` or `flow_failed`. Within `timeout`.
    Dial { flow: FlowId, target: Target, info: FlowInfo, timeout: Duration },
    /// Agent: the far end said yes. Bytes may already wait.
    Opened { flow: FlowId, info: FlowInfo },
    /// Agent: it will not come to be. The flow is gone.
    Failed { flow: FlowId, error: Error },
    /// The flow's stream has bytes or its end.
    Readable(FlowId),
    /// The flow's stream takes bytes again (or was stopped: the next write tells).
    Writable(FlowId),
    /// The flow was reset by the peer or cut here. The local side must see a reset, never a clean end. The flow is gone.
    Reset { flow: FlowId, error: Error },
    /// The peer has ended a UDP flow: no failure. The flow is gone.
    Ended(FlowId),
    /// A datagram for the local side of a UDP flow.
    Datagram { flow: FlowId, payload: Vec<u8> },
    /// An answer to `ping`, `explain` or `check`, by the operation's ID.
    Answer { op: u64, result: Result<Answer, Error> },
    /// Something the embedding program hears about.
    Notice(Notice),
    /// Bind `count` more UDP sockets, at most [`MORE_SOCKETS`], of one address family, each on a port that the system picks.
    /// `sockets_opened` follows at once.
    OpenSockets { id: u64, family_v4: bool, count: usize },
    /// Close those of the sockets from `first` on that `OpenSockets` made: their indices may come again. Those that the loop was
    /// started with stay.
    CloseSockets { first: SocketIndex, count: usize },
    /// A socket that `OpenSockets` made is to carry bulk: its kernel buffers become as large as the others'.
    EnlargeSocket(SocketIndex),
    /// Have the IPv4 network's gateway asked for a port that leads to the first IPv4 socket, from here on and until the loop ends.
    /// `handle_port_mapping` follows, again whenever something has changed.
    MapPort,
    /// The role has drained, or has died: the loop ends.
    End(Result<(), Error>),
}

#[derive(Debug, Clone)]
pub enum Answer {
    Ping {
        rtt: Duration,
        path: PathInfo,
    },
    Explain {
        path: PathInfo,
        evidence: Box<crate::path::explain::Evidence>,
        peer: String,
    },
    /// `only`: the one kind of path on which it is allowed.
    Check {
        allowed: bool,
        by: crate::error::DeniedBy,
        policy: Option<String>,
        reason: String,
        only: Option<PathClass>,
    },
}

/// State of a role (api.d.ts `State`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    New,
    Starting,
    Online,
    Degraded,
    Draining,
    Closed,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            State::New => "new",
            State::Starting => "starting",
            State::Online => "online",
            State::Degraded => "degraded",
            State::Draining => "draining",
            State::Closed => "closed",
        }
    }
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub service: String,
    /// `None` for ICMP, and at an agent whose caller named none.
    pub port: Option<u16>,
    pub protocol: Protocol,
}

/// Events for the embedding program.
#[derive(Debug, Clone)]
pub enum Notice {
    State {
        next: State,
        prev: State,
        reason: String,
    },
    /// Recovered from, but an operator should see it.
    Warning(Error),
    /// The role's folder holds a snapshot that is not taken; the one in use stays.
    NotReloaded(Error),
    /// The path of one inner connection has changed. A peer may have several, on paths of their own.
    Path {
        connection: usize,
        peer: String,
        next: PathInfo,
        prev: PathInfo,
    },
    Services {
        added: Vec<String>,
        removed: Vec<String>,
    },
    /// A request was refused by policy or trust, or a flow was cut for it.
    Denied {
        error: Error,
        /// Who was denied, at the end that decided.
        peer: Option<Arc<PeerIdentity>>,
        /// `None` at a relay, which does not see it, and for a request that names no service.
        asked: Option<Asked>,
    },
    /// A flow came to nothing, and not by policy: its target refused it or could not be reached, or a limit stood in its way.
    /// At a connector, one that was admitted; at an agent, one that was asked for.
    FlowFailed {
        flow: FlowId,
        /// Connector: the agent that asked.
        peer: Option<Arc<PeerIdentity>>,
        service: String,
        /// `None` at an agent whose caller named none.
        port: Option<u16>,
        protocol: Protocol,
        error: Error,
    },
    /// Connector: a flow was admitted.
    Flow {
        flow: FlowId,
        peer: Arc<PeerIdentity>,
        service: String,
        protocol: Protocol,
    },
    /// Connector with `authorize`: ask the program; answer with `authorize_reply`.
    Authorize {
        flow: FlowId,
        info: FlowInfo,
    },
    /// Relay.
    Session {
        id: u64,
        agent: String,
        connector: String,
    },
    SessionEnd {
        id: u64,
        why: String,
    },
}

/// A role. Methods for flows have no meaning at a relay, whose defaults do nothing.
pub trait Machine {
    /// Where a burst goes that only passes through here, whole and unchanged: it is then sent from where it was received, counted
    /// as passed, and not fed. `None`: feed it.
    fn pass_on(&mut self, _arrival: Arrival, _burst: &[u8]) -> Option<Transmit> {
        None
    }
    /// Feeds one burst. Its bytes are scratch afterwards (decrypted in place).
    fn handle_packets(&mut self, now: Instant, arrival: Arrival, burst: &mut [u8]);
    /// Fires what is due.
    fn handle_timeout(&mut self, now: Instant);
    fn poll_timeout(&mut self) -> Option<Instant>;
    /// Settles the inputs of this batch.
    fn process(&mut self, now: Instant);
    fn poll_action(&mut self) -> Option<Action>;
    /// Appends one burst to `out` (empty on entry; at most 64 segments and 65,000 bytes).
    fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<Transmit>;
    /// A new snapshot: what it no longer permits ends now.
    fn handle_snapshot(&mut self, now: Instant, snapshot: Arc<Snapshot>);
    /// Addresses of a relay's host name, resolved by the loop (asked for by `poll_resolve`).
    fn handle_resolved(&mut self, _now: Instant, _host: &str, _addresses: &[IpAddr]) {}
    /// A host name that the loop should resolve.
    fn poll_resolve(&mut self) -> Option<String> {
        None
    }
    /// How many first Initials a second (QUIC, without a token of ours) the machine answers; the loop drops what is over, where
    /// that costs least. Default: it answers all.
    fn initial_budget(&self) -> Option<u32> {
        None
    }
    /// About so many were dropped for it.
    fn handle_shed(&mut self, _count: u64) {}
    /// The local addresses of the sockets that the loop was started with, by index. Called once, before anything else.
    fn handle_sockets(&mut self, _now: Instant, _local: &[SocketAddr]) {}
    /// The local addresses of the sockets of an [`Action::OpenSockets`], whose indices are `first` and those that follow. Empty: all
    /// were refused, for want of descriptors or over the limit.
    fn sockets_opened(&mut self, _now: Instant, _id: u64, _first: SocketIndex, _local: &[SocketAddr]) {}
    /// The host's addresses: once at the start, and again before every `handle_network_change`. Not called where the system won't tell.
    fn handle_interfaces(&mut self, _now: Instant, _interfaces: &[Interface]) {}
    /// The host's addresses or routes changed.
    fn handle_network_change(&mut self, _now: Instant) {}
    /// What has become of an [`Action::MapPort`].
    fn handle_port_mapping(&mut self, _now: Instant, _mapping: &PortMapping) {}
    /// Stop taking new work, finish what runs, then `Action::End`; at once when `within` is zero.
    fn shut_down(&mut self, now: Instant, within: Duration);
    fn state(&self) -> State;

    // ---- flows, agent: open one; the answer is Action::Opened or Action::Failed.
    fn open(&mut self, _now: Instant, _flow: FlowId, _open: Open) {}
    fn ping(&mut self, _now: Instant, _op: u64, _service: &str, _timeout: Duration) {}
    /// Why the path that such a flow takes is what it is. Without a port, that of the service's first kind of flow that policy permits.
    fn explain(&mut self, _now: Instant, _op: u64, _open: Open) {}
    fn check(&mut self, _now: Instant, _op: u64, _open: Open) {}
    /// The caller of an `open`, `ping`, `explain` or `check` gave up.
    fn cancel_op(&mut self, _now: Instant, _op: u64) {}

    // ---- flows, connector
    /// The target of a `Dial` is reached.
    fn flow_connected(&mut self, _now: Instant, _flow: FlowId) {}
    fn flow_failed(&mut self, _now: Instant, _flow: FlowId, _error: Error) {}
    fn authorize_reply(&mut self, _now: Instant, _flow: FlowId, _allow: bool) {}

    // ---- flows, both ends
    /// Reads stream bytes for the local side.
    fn stream_read(&mut self, _flow: FlowId, _out: &mut [u8]) -> Read {
        Read::Blocked
    }
    /// How many bytes `stream_write` would take now; 0 when blocked (`Action::Writable` follows).
    fn stream_capacity(&mut self, _flow: FlowId) -> usize {
        0
    }
    /// Takes bytes of the local side; with `fin` the local side has ended after them.
    fn stream_write(&mut self, _flow: FlowId, _data: &[u8], _fin: bool) -> Wrote {
        Wrote::Gone
    }
    /// The local side broke: reset the stream both ways. The flow is gone.
    fn stream_reset(&mut self, _flow: FlowId) {}
    /// The local side takes no more bytes (its write failed): the peer is asked to stop.
    fn stream_stop(&mut self, _flow: FlowId) {}
    /// Largest payload that `datagram_write` takes on this flow, bytes.
    fn datagram_max(&self, _flow: FlowId) -> usize {
        0
    }
    /// A datagram from the local side. `false`: dropped (full or too large), counted.
    fn datagram_write(&mut self, _flow: FlowId, _payload: &[u8]) -> bool {
        false
    }
    /// The local side is done with a UDP flow.
    fn datagram_close(&mut self, _flow: FlowId) {}
}
