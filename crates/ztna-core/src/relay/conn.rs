//! One outer connection and the streams that mean something on it.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::PMTU_SETTLE;
use super::forward::{Fits, Route};
use super::replaced::Replaced;
use crate::quic::black_hole::BlackHole;
use crate::quic::connection::StreamId;
use crate::quic::tls::INNER_PAYLOAD;
use crate::quic::{ConnKey, Connection};
use crate::role::Arrival;
use crate::trust::PeerIdentity;
use crate::wire::capsule::CapsuleReader;

/// Datagrams kept for a request that has not arrived (protocol.md): a flight of the inner handshake and its repetition.
const MAX_EARLY: usize = 16;

pub(super) struct Conn {
    pub(super) quic: Connection,
    pub(super) peer: Option<Arc<PeerIdentity>>,
    /// The validated address.
    pub(super) route: Route,
    /// The last other address that a packet came from: a path under validation.
    other: Option<Route>,
    pub(super) born: Instant,
    /// End of the peer's certificate.
    pub(super) expires: Option<Instant>,
    /// The client's own first destination ID, routed here where no Retry replaced it.
    pub(super) initial: Option<Vec<u8>>,
    /// A newer bind of the same identity has taken the place of this connection's.
    pub(super) replaced: Option<Replaced>,
    pub(super) streams: BTreeMap<StreamId, Stream>,
    pub(super) early: VecDeque<Vec<u8>>,
    /// The first request stream that has not been seen.
    pub(super) next_stream: StreamId,
    /// A DATAGRAM taken from the queue whose way out was full.
    pub(super) held: Option<Vec<u8>>,
    /// Connections whose DATAGRAMs wait for room here.
    pub(super) waiters: Vec<ConnKey>,
    /// A packet made for the next burst.
    pub(super) carry: Option<(Vec<u8>, SocketAddr)>,
    pub(super) fits: Fits,
    black_hole: BlackHole,
    /// Probe timeouts when full-sized packets were last asked about.
    timeouts: usize,
    /// Its entry in the loop's deadline table.
    pub(super) deadline: Option<Instant>,
    /// What it held when it was last settled, in its identity's share.
    pub(super) held_bytes: u64,
    /// Closed for what it holds: it goes as soon as the peer has been told, without the wait of RFC 9000 §10.2.
    pub(super) cut: bool,
    pub(super) dirty: bool,
    pub(super) sending: bool,
}

pub(super) enum Stream {
    /// An agent's session.
    Agent {
        session: u64,
        capsules: Capsules,
    },
    Bind(Box<Bind>),
}

/// A connector's registration.
pub(super) struct Bind {
    pub(super) id: u64,
    pub(super) capsules: Capsules,
    /// Whether the uncompressed context is registered: before, the draft lets us assign none.
    pub(super) uncompressed: bool,
    /// ASSIGN capsules that wait for it; 30 bytes a session.
    pub(super) waiting: Vec<u8>,
    /// Context ID → session.
    pub(super) contexts: BTreeMap<u64, u64>,
    pub(super) next_context: u64,
}

#[derive(Default)]
pub(super) struct Capsules {
    pub(super) reader: CapsuleReader,
    /// What the stream's window has not taken.
    pub(super) out: Vec<u8>,
}

impl Stream {
    pub(super) fn capsules(&mut self) -> &mut Capsules {
        match self {
            Stream::Agent { capsules, .. } => capsules,
            Stream::Bind(bind) => &mut bind.capsules,
        }
    }
}

impl Conn {
    pub(super) fn new(quic: Connection, now: Instant, arrival: Arrival) -> Self {
        Conn {
            quic,
            peer: None,
            route: route(arrival),
            other: None,
            born: now,
            expires: None,
            replaced: None,
            initial: None,
            streams: BTreeMap::new(),
            early: VecDeque::new(),
            next_stream: 0,
            held: None,
            waiters: Vec::new(),
            carry: None,
            fits: Fits::Unknown,
            black_hole: BlackHole::default(),
            timeouts: 0,
            deadline: None,
            held_bytes: 0,
            cut: false,
            dirty: false,
            sending: false,
        }
    }

    pub(super) fn recv(&mut self, arrival: Arrival, packet: &mut [u8]) {
        if arrival.from == self.route.addr {
            self.route = route(arrival);
        } else {
            self.other = Some(route(arrival));
        }
        self.quic.recv(packet, arrival.from);
    }

    /// The peer's packets now come from `to`, which has answered a challenge.
    pub(super) fn moved(&mut self, to: SocketAddr) {
        self.route = self.route_to(to);
        self.other = None;
    }

    /// Socket and local address for a packet to `to`.
    pub(super) fn route_to(&self, to: SocketAddr) -> Route {
        match self.other {
            Some(other) if other.addr == to => other,
            Some(_) | None => Route { addr: to, ..self.route },
        }
    }

    /// How many sessions take their packets out of this connection's one queue.
    pub(super) fn sessions(&self) -> usize {
        self.streams
            .values()
            .map(|s| match s {
                Stream::Agent { .. } => 1,
                Stream::Bind(bind) => bind.contexts.len(),
            })
            .sum()
    }

    /// Keeps a datagram whose request may be on its way. `false`: it is not kept.
    pub(super) fn keep_early(&mut self, stream: StreamId, frame: Vec<u8>) -> bool {
        let keep = stream >= self.next_stream && self.early.len() < MAX_EARLY;
        if keep {
            self.early.push_back(frame);
        }
        keep
    }

    /// Whether the way to the node carried full-sized packets and no longer does. It is asked about when two probe timeouts have
    /// passed: one is an ordinary loss at the end of a flight.
    pub(super) fn is_narrowed(&mut self, now: Instant) -> bool {
        const AMISS: usize = 2;
        let timeouts = self.quic.probe_timeouts();
        if self.fits == Fits::Yes && timeouts >= self.timeouts + AMISS {
            self.timeouts = timeouts;
            self.black_hole.suspect(now, &mut self.quic);
        }
        self.black_hole.is_found(now, &mut self.quic)
    }

    /// When [`is_narrowed`](Self::is_narrowed) wants to be asked.
    pub(super) fn narrowing_timeout(&self, now: Instant) -> Option<Instant> {
        self.black_hole.poll_timeout(now, &self.quic)
    }

    /// Looks whether PMTU discovery has an answer now. Sticky once there is one: after a migration quiche does not probe again,
    /// and the ends' own path checks tell. `true`: it has changed.
    pub(super) fn learn_fits(&mut self, now: Instant) -> bool {
        if self.fits != Fits::Unknown {
            return false;
        }
        let pmtu = self.quic.pmtu();
        if pmtu >= INNER_PAYLOAD {
            self.fits = Fits::Yes;
        } else if pmtu > 0 || now.saturating_duration_since(self.born) >= PMTU_SETTLE {
            self.fits = Fits::No;
        }
        self.fits != Fits::Unknown
    }
}

fn route(arrival: Arrival) -> Route {
    Route { addr: arrival.from, socket: arrival.socket, local: arrival.to }
}
