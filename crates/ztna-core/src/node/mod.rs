//! What agent and connector share: outer connections to every relay, sessions through them, inner connections and their
//! paths, and the flows on those. The roles decide; this carries.
//!
//! A role feeds bursts and time in, calls `process`, and drains `poll_event`; then it acts through the methods here.

pub mod accept;
pub mod backoff;
pub mod budget;
mod burst;
pub mod direct;
pub mod finishing;
pub mod flows;
mod follow;
pub mod leg;
mod lifecycle;
pub mod link;
mod links;
pub mod listing;
mod lost;
pub(crate) mod outage;
pub(crate) mod outer;
pub(crate) mod path_stats;
mod port_mapping;
mod receive;
pub mod session;
mod tails;
mod transmit;
mod turns;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use slab::Slab;

use crate::error::{Error, Result};
use crate::path::PathId;
use crate::path::budget::Budget;
use crate::path::reflexive::Reflexive;
use crate::port_mapping::PortMapping;
use crate::quic::reset::ResetKeys;
use crate::quic::{self, Event, Router, StreamId, TlsConfig, connection};
use crate::role::{Action, Notice, State};
use crate::trust::Snapshot;
use crate::wire::check::Token;

use flows::Flow;
use follow::contexts;
use leg::{Leg, LegState};
use link::Link;
use session::Session;

pub use budget::ReceiveLimit;
pub use link::{AGENT_ADDRESS, CONNECTOR_ADDRESS};

/// How often certificates' ends are looked at: they end connections, not packets.
const EXPIRY_CHECK: Duration = Duration::from_secs(1);

/// Packets on one connection, sent and received, after which a successor takes new flows, and after which it is cut
/// (RFC 9001 appendix B.1: 2^28 packets under 2^11 bytes).
#[derive(Debug, Clone, Copy)]
pub struct KeyLimit {
    pub successor: u64,
    pub cut: u64,
}

impl Default for KeyLimit {
    fn default() -> Self {
        KeyLimit { successor: 1 << 27, cut: 1 << 28 }
    }
}

/// Who a connection ID belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    Leg(usize),
    Link(usize),
}

/// What happened, for the role to act on.
#[derive(Debug)]
pub enum NodeEvent {
    LegReady(usize),
    LegDown {
        leg: usize,
        relay: String,
        why: String,
    },
    BindRefused {
        leg: usize,
        error: Error,
    },
    /// The relay refused it or it ended: the link that it carried.
    SessionEnded {
        link: Option<usize>,
    },
    /// It takes more kinds of requests than before: plain ones first, all once the peer's SETTINGS have come.
    LinkReady(usize),
    /// A stream event of an inner connection.
    Stream {
        link: usize,
        event: Event,
    },
    LinkDatagram {
        link: usize,
        stream: StreamId,
        payload: Vec<u8>,
    },
    /// All paths are silent.
    LinkStalled(usize),
    /// Data of the link no longer goes directly.
    DirectLost(usize),
    /// Data of a link goes directly from now on.
    DirectFound(usize),
    /// The peer's data comes another way.
    PeerMoved(usize),
    /// A session is wanted at another relay.
    LinkSuspect(usize),
    /// The link is gone; its flows with it.
    LinkClosed {
        link: usize,
        peer: String,
        why: connection::Closed,
        flows: Vec<crate::id::FlowId>,
        refused: Vec<(String, Error)>,
        cause: Option<Error>,
    },
}

pub struct Node {
    pub snapshot: Arc<Snapshot>,
    pub is_agent: bool,
    pub key_limit: KeyLimit,
    pub receive_limit: ReceiveLimit,
    outer_tls: TlsConfig,
    inner_tls: TlsConfig,
    /// Connector: for packets of connections that an earlier process had.
    reset_keys: Option<ResetKeys>,
    router: Router<Owner>,
    pub legs: Slab<Leg>,
    pub links: Slab<Link>,
    pub sessions: Slab<Session>,
    /// Tunnel slot → session.
    slots: BTreeMap<session::Slot, usize>,
    pub flows: BTreeMap<crate::id::FlowId, Flow>,
    tails: tails::Tails,
    events: VecDeque<NodeEvent>,
    pub actions: VecDeque<Action>,
    /// Connections to settle at the next `process`.
    dirty_legs: BTreeSet<usize>,
    dirty_links: BTreeSet<usize>,
    resolve: VecDeque<String>,
    pub state: State,
    pub draining: Option<Instant>,
    /// The drain is over and peers are being told so; by when that ends.
    leaving: Option<Instant>,
    pub counters: Counters,
    path_stats: path_stats::PathStats,
    transmit: transmit::Queue,
    families: turns::Families,
    held: budget::Gauge,
    reflexive: Reflexive,
    port_mapping: PortMapping,
    /// Whose checks carry which token.
    tokens: BTreeMap<Token, usize>,
    /// Links that may have checks to send.
    checking: BTreeSet<usize>,
    budget: Budget,
    bursts: burst::Bursts,
    /// Links of each identity that has proven itself.
    peers: BTreeMap<crate::id::SpiffeId, usize>,
    /// The time of the last input.
    now: Instant,
    wall: (Instant, SystemTime),
    next_expiry_check: Instant,
}

/// What a node counts (contract.md, Metrics). Plain numbers: the loop publishes copies.
#[derive(Debug, Default, Clone)]
pub struct Counters {
    /// Inner packet bytes, by path and direction.
    pub direct_rx: u64,
    pub direct_tx: u64,
    pub forwarded_rx: u64,
    pub forwarded_tx: u64,
    pub tunnel_rx: u64,
    pub tunnel_tx: u64,
    pub drops: BTreeMap<&'static str, u64>,
    pub denied: BTreeMap<(&'static str, String), u64>,
    pub reconnects: u64,
    pub handshakes: BTreeMap<&'static str, u64>,
    pub switches: BTreeMap<(&'static str, &'static str), u64>,
    /// By how they ended.
    pub port_bursts: BTreeMap<&'static str, u64>,
    /// Pauses of sending in bursts, on inner and outer connections.
    pub bursts_withheld: u64,
}

impl Counters {
    pub fn drop_one(&mut self, queue: &'static str) {
        *self.drops.entry(queue).or_default() += 1;
    }
}

impl Node {
    /// Errors: credentials that can't be used, or of another role.
    pub fn new(snapshot: Arc<Snapshot>, is_agent: bool, now: Instant, wall: SystemTime) -> Result<Self> {
        let (outer_tls, inner_tls) = contexts(&snapshot, is_agent)?;
        let reset_keys = lost::reset_keys(&snapshot, is_agent)?;
        let mut node = Node {
            snapshot,
            is_agent,
            key_limit: KeyLimit::default(),
            receive_limit: ReceiveLimit::default(),
            outer_tls,
            inner_tls,
            reset_keys,
            router: Router::default(),
            legs: Slab::new(),
            links: Slab::new(),
            sessions: Slab::new(),
            slots: BTreeMap::new(),
            flows: BTreeMap::new(),
            tails: tails::Tails::default(),
            events: VecDeque::new(),
            actions: VecDeque::new(),
            dirty_legs: BTreeSet::new(),
            dirty_links: BTreeSet::new(),
            resolve: VecDeque::new(),
            state: State::Starting,
            draining: None,
            leaving: None,
            path_stats: path_stats::PathStats::default(),
            counters: Counters::default(),
            transmit: transmit::Queue::default(),
            families: turns::Families::BOTH,
            held: budget::Gauge::default(),
            reflexive: Reflexive::new(random_mask()),
            port_mapping: PortMapping::default(),
            tokens: BTreeMap::new(),
            checking: BTreeSet::new(),
            budget: Budget::default(),
            bursts: burst::Bursts::default(),
            peers: BTreeMap::new(),
            now,
            wall: (now, wall),
            next_expiry_check: now + EXPIRY_CHECK,
        };
        node.follow_relays(now);
        Ok(node)
    }

    /// The time of day at `now`.
    pub fn wall(&self, now: Instant) -> SystemTime {
        self.wall.1 + now.saturating_duration_since(self.wall.0)
    }

    /// What there is to act on; nothing any more once the role [leaves](Self::is_leaving).
    pub fn poll_event(&mut self) -> Option<NodeEvent> {
        if self.is_leaving() {
            self.events.clear();
        }
        self.events.pop_front()
    }

    pub fn poll_resolve(&mut self) -> Option<String> {
        self.resolve.pop_front()
    }

    pub fn set_state(&mut self, next: State, reason: impl Into<String>) {
        if self.state != next {
            let prev = std::mem::replace(&mut self.state, next);
            self.actions.push_back(Action::Notice(Notice::State { next, prev, reason: reason.into() }));
        }
    }

    pub fn warn(&mut self, error: Error) {
        self.actions.push_back(Action::Notice(Notice::Warning(error)));
    }

    pub fn handle_resolved(&mut self, host: &str, addresses: &[IpAddr]) {
        for (_, leg) in self.legs.iter_mut() {
            let ports: Vec<u16> = leg.urls.iter().filter(|u| u.host == host).map(|u| u.port).collect();
            for port in ports {
                for ip in addresses {
                    let at = SocketAddr::new(*ip, port);
                    if !leg.addresses.contains(&at) {
                        leg.addresses.push(at);
                    }
                }
            }
        }
    }

    // ---- time

    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let leaving = self.leaving.map(|by| by.min(now + lifecycle::LOOK_AGAIN));
        let legs = self.legs.iter().filter_map(|(_, l)| l.poll_timeout(now));
        let links = self.links.iter().filter_map(|(_, l)| l.poll_timeout(self.is_agent));
        let dirty = (!self.dirty_legs.is_empty() || !self.dirty_links.is_empty()).then_some(now);
        let expiry = self.snapshot.identity().not_after.duration_since(self.wall(now)).ok().map(|d| now + d);
        let tails = self.tails.poll_timeout();
        let probes = self.reflexive.poll_timeout();
        legs.chain(links)
            .chain(probes)
            .chain(dirty)
            .chain(expiry)
            .chain(tails)
            .chain(leaving)
            .chain([self.next_expiry_check])
            .min()
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        let legs: Vec<usize> = self.legs.iter().map(|(k, _)| k).collect();
        for key in legs {
            self.leg_timeout(now, key);
        }
        let is_agent = self.is_agent;
        for (key, link) in self.links.iter_mut() {
            if link.poll_timeout(is_agent).is_none_or(|t| t > now) {
                continue;
            }
            link.conn.on_timeout();
            link.path.handle_timeout(now);
            if is_agent && link.conn.is_established() && now >= link.last_sent + link::KEEP_ALIVE {
                link.conn.ping();
                link.last_sent = now;
            }
            self.dirty_links.insert(key);
            self.checking.insert(key);
        }
        if self.reflexive.handle_timeout(now) {
            self.offer_to_all(now);
        }
        self.expire_tails(now);
        if now >= self.next_expiry_check {
            self.next_expiry_check = now + EXPIRY_CHECK;
            self.expire(now);
            self.close_unused_sockets();
        }
    }

    /// Settles everything that was touched since the last call.
    pub fn process(&mut self, now: Instant) {
        self.now = now;
        // Legs first: their datagrams are the links' packets.
        while let Some(key) = self.dirty_legs.pop_first() {
            self.process_leg(now, key);
        }
        let mut settled = Vec::new();
        while let Some(key) = self.dirty_links.pop_first() {
            self.process_link(now, key);
            settled.push(key);
        }
        self.bound_held(now, &settled);
    }

    /// For a drain: no flow is left, the local side has taken the last bytes and the peer has acknowledged ours; peers that have owed an answer for
    /// too long don't count. Connections whose way to the peer is just being made anew are waited for, too.
    pub fn is_quiet(&mut self, now: Instant) -> bool {
        let gone = |l: &Link| l.path.silence(now) >= leg::SILENT;
        let untold = self.links.iter().any(|(_, l)| self.waits_for_relay(l));
        !untold
            && self.tails.is_empty()
            && self.flows.values().all(|f| self.links.get(f.link).is_none_or(gone))
            && self.links.iter_mut().all(|(_, l)| l.finishing.is_done(&mut l.conn, now) || gone(l))
    }

    /// An inner connection that could not tell its peer of its end now, and soon can: its session has not been granted yet, or the
    /// connection to its relay is being made anew.
    fn waits_for_relay(&self, link: &Link) -> bool {
        let granted = |p: PathId| match p {
            PathId::Relay(p) => self.sessions.get(p.session).is_some_and(|s| s.confirmed),
            PathId::Direct(_) => true,
        };
        link.conn.is_established() && link.path.active().map_or(self.is_replacing(), |p| !granted(p))
    }

    pub fn ready_legs(&self) -> impl Iterator<Item = (usize, &Leg)> {
        self.legs.iter().filter(|(_, l)| l.is_ready())
    }

    pub fn bound_legs(&self) -> usize {
        self.legs.iter().filter(|(_, l)| l.bound && l.state == LegState::Ready).count()
    }

    /// A connection to a relay is being made anew by our own wish, so that having none is no outage yet.
    pub fn is_replacing(&self) -> bool {
        self.legs.iter().any(|(_, l)| l.replacing)
    }
}

fn random_mask() -> [u8; 12] {
    let mut mask = [0u8; 12];
    let random = [quic::endpoint::random_cid(None).0, quic::endpoint::random_cid(None).0];
    for (to, from) in mask.iter_mut().zip(random.as_flattened()) {
        *to = *from;
    }
    mask
}
