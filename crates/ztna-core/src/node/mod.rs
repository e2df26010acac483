//! What agent and connector share: outer connections to every relay, sessions through them, inner connections and their
//! paths, and the flows on those. The roles decide; this carries.
//!
//! A role feeds bursts and time in, calls `process`, and drains `poll_event`; then it acts through the methods here.

pub mod backoff;
pub mod budget;
pub mod flows;
pub mod leg;
mod lifecycle;
pub mod link;
pub(crate) mod outer;
mod receive;
pub mod session;
mod transmit;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use slab::Slab;

use crate::error::{Error, Result};
use crate::path::{PathEvent, PathId, Reason};
use crate::quic::endpoint::random_cid;
use crate::quic::{Connection, Event, Kind, Router, StreamId, TlsConfig, connection};
use crate::role::{Action, Notice, PathPolicy, State};
use crate::trust::{RelayMode, Snapshot};
use crate::wire::capsule::Capsule;

use flows::Flow;
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
    router: Router<Owner>,
    pub legs: Slab<Leg>,
    pub links: Slab<Link>,
    pub sessions: Slab<Session>,
    /// Tunnel slot → session.
    slots: BTreeMap<session::Slot, usize>,
    pub flows: BTreeMap<crate::id::FlowId, Flow>,
    events: VecDeque<NodeEvent>,
    pub actions: VecDeque<Action>,
    /// Connections to settle at the next `process`.
    dirty_legs: BTreeSet<usize>,
    dirty_links: BTreeSet<usize>,
    resolve: VecDeque<String>,
    pub state: State,
    pub draining: Option<Instant>,
    pub counters: Counters,
    transmit: transmit::Queue,
    unread: budget::Gauge,
    /// The time of the last input.
    now: Instant,
    wall: (Instant, SystemTime),
    next_expiry_check: Instant,
}

/// What a node counts (contract.md, Metrics). Plain numbers: the loop publishes copies.
#[derive(Debug, Default, Clone)]
pub struct Counters {
    /// Inner packet bytes, by path and direction.
    pub forwarded_rx: u64,
    pub forwarded_tx: u64,
    pub tunnel_rx: u64,
    pub tunnel_tx: u64,
    pub drops: BTreeMap<&'static str, u64>,
    pub denied: BTreeMap<(&'static str, String), u64>,
    pub reconnects: u64,
    pub handshakes: BTreeMap<&'static str, u64>,
    pub switches: BTreeMap<(&'static str, &'static str), u64>,
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
        let mut node = Node {
            snapshot,
            is_agent,
            key_limit: KeyLimit::default(),
            receive_limit: ReceiveLimit::default(),
            outer_tls,
            inner_tls,
            router: Router::default(),
            legs: Slab::new(),
            links: Slab::new(),
            sessions: Slab::new(),
            slots: BTreeMap::new(),
            flows: BTreeMap::new(),
            events: VecDeque::new(),
            actions: VecDeque::new(),
            dirty_legs: BTreeSet::new(),
            dirty_links: BTreeSet::new(),
            resolve: VecDeque::new(),
            state: State::Starting,
            draining: None,
            counters: Counters::default(),
            transmit: transmit::Queue::default(),
            unread: budget::Gauge::default(),
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

    pub fn poll_event(&mut self) -> Option<NodeEvent> {
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

    // ---- snapshot

    /// Takes a new snapshot: relays come and go, connections that it no longer trusts end. Flows are the role's to judge.
    pub fn handle_snapshot(&mut self, now: Instant, snapshot: Arc<Snapshot>) {
        match contexts(&snapshot, self.is_agent) {
            Ok((outer, inner)) => {
                self.outer_tls = outer;
                self.inner_tls = inner;
            }
            Err(e) => {
                self.warn(e);
                return;
            }
        }
        self.snapshot = snapshot;
        self.expel(now);
        self.follow_relays(now);
    }

    /// Ends connections whose peer is revoked, expired or of a CA that is no longer trusted, and our own once our certificate
    /// has expired.
    fn expel(&mut self, now: Instant) {
        let wall = self.wall(now);
        let own_expired = wall >= self.snapshot.identity().not_after;
        let judge = |conn: &Connection, snapshot: &Snapshot| {
            if own_expired {
                return Some("our certificate has expired".to_owned());
            }
            conn.identity().and_then(|p| snapshot.still_trusted(p, wall).err()).map(|r| r.to_string())
        };
        let legs: Vec<(usize, String)> =
            self.legs.iter().filter_map(|(k, l)| Some((k, judge(l.conn.as_ref()?, &self.snapshot)?))).collect();
        for (key, why) in legs {
            if let Some(conn) = self.legs.get_mut(key).and_then(|l| l.conn.as_mut()) {
                conn.close(connection::H3_NO_ERROR, &why);
            }
            self.dirty_legs.insert(key);
        }
        let links: Vec<(usize, String)> =
            self.links.iter().filter_map(|(k, l)| Some((k, judge(&l.conn, &self.snapshot)?))).collect();
        for (key, why) in links {
            self.close_link(key, connection::H3_NO_ERROR, &why);
        }
    }

    /// Ends connections whose certificate, or ours, has run out. Dates only: signatures were judged at the handshake and at
    /// each snapshot.
    fn expire(&mut self, now: Instant) {
        let wall = self.wall(now);
        let own = wall >= self.snapshot.identity().not_after;
        let over = |conn: &Connection| own || conn.identity().is_some_and(|p| wall >= p.not_after);
        if self.legs.iter().any(|(_, l)| l.conn.as_ref().is_some_and(over))
            || self.links.iter().any(|(_, l)| over(&l.conn))
        {
            self.expel(now);
        }
    }

    /// Adds legs to new relays, lets go of those that left the network.
    fn follow_relays(&mut self, now: Instant) {
        let relays = self.snapshot.network.relays.clone();
        let gone: Vec<usize> = self
            .legs
            .iter()
            .filter(|(_, l)| !relays.iter().any(|r| r.name == l.relay && r.urls == l.urls))
            .map(|(k, _)| k)
            .collect();
        for key in gone {
            self.drop_leg(now, key, "the relay left the network", true);
        }
        for r in relays {
            if !self.legs.iter().any(|(_, l)| l.relay == r.name) {
                let keep_alive = if self.is_agent { leg::KEEP_ALIVE } else { leg::KEEP_ALIVE_BOUND };
                let leg = Leg::new(r.name, r.urls, now, keep_alive);
                self.resolve.extend(leg.unresolved().map(str::to_owned));
                self.legs.insert(leg);
            }
        }
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
        let legs = self.legs.iter().filter_map(|(_, l)| l.poll_timeout(now));
        let links = self.links.iter().filter_map(|(_, l)| l.poll_timeout(self.is_agent));
        let dirty = (!self.dirty_legs.is_empty() || !self.dirty_links.is_empty()).then_some(now);
        let expiry = self.snapshot.identity().not_after.duration_since(self.wall(now)).ok().map(|d| now + d);
        legs.chain(links).chain(dirty).chain(expiry).chain([self.next_expiry_check]).min()
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
        }
        if now >= self.next_expiry_check {
            self.next_expiry_check = now + EXPIRY_CHECK;
            self.expire(now);
        }
    }

    // ---- links

    /// Agent: opens an inner connection to a connector. Its packets wait until a session carries them.
    pub fn connect_link(&mut self, now: Instant, connector: &str, policy: PathPolicy) -> Result<usize> {
        let scid = random_cid(None);
        let id = crate::id::SpiffeId::new(&self.snapshot.network.trust_domain, crate::id::Role::Connector, connector)?;
        let conn = Connection::connect(&mut self.inner_tls, scid, &id.dns_name(), AGENT_ADDRESS, CONNECTOR_ADDRESS)?;
        let key = self.links.insert(Link::new(conn, connector.to_owned(), policy, now));
        self.router.insert(scid, Owner::Link(key));
        self.dirty_links.insert(key);
        Ok(key)
    }

    pub fn close_link(&mut self, key: usize, code: u64, reason: &str) {
        if let Some(link) = self.links.get_mut(key) {
            link.conn.close(code, reason);
            self.dirty_links.insert(key);
        }
    }

    pub fn touch_link(&mut self, key: usize) {
        self.dirty_links.insert(key);
    }

    /// The relay and address that a link's packets go to now.
    pub fn relay_of(&self, link: usize) -> Option<(String, SocketAddr)> {
        let path = self.links.get(link)?.path.active()?;
        let leg = self.legs.get(self.sessions.get(path.session)?.slot.leg)?;
        Some((leg.relay.clone(), leg.address?))
    }

    pub fn describe_path(&self, link: usize) -> Option<crate::role::PathInfo> {
        Some(self.links.get(link)?.describe(self.relay_of(link)))
    }

    /// Settles everything that was touched since the last call.
    pub fn process(&mut self, now: Instant) {
        self.now = now;
        // Legs first: their datagrams are the links' packets.
        while let Some(key) = self.dirty_legs.pop_first() {
            self.process_leg(now, key);
        }
        let mut fed = Vec::new();
        while let Some(key) = self.dirty_links.pop_first() {
            let bytes = self.links.get_mut(key).map_or(0, |l| l.conn.take_fed());
            if bytes > 0 {
                self.note_received(key, bytes);
                fed.push(key);
            }
            self.process_link(now, key);
        }
        self.bound_unread(now, &fed);
    }

    fn process_link(&mut self, now: Instant, key: usize) {
        let Some(link) = self.links.get_mut(key) else { return };
        link.conn.process(&mut self.inner_tls);
        let mut closed = None;
        while let Some(event) = link.conn.poll_event() {
            match event {
                Event::Established(peer) => {
                    *self.counters.handshakes.entry("ok").or_default() += 1;
                    if self.is_agent && peer.id.name() != link.peer {
                        let text = format!("asked for connector `{}`, `{}` answered", link.peer, peer.id);
                        link.conn.close(connection::H3_NO_ERROR, &text);
                        self.actions.push_back(Action::Notice(Notice::Warning(Error::Identity(text))));
                        continue;
                    }
                    link.peer = peer.id.name().to_owned();
                    if let Some(leg) = link.pending_on.take().and_then(|l| self.legs.get_mut(l)) {
                        leg.handshakes = leg.handshakes.saturating_sub(1);
                    }
                }
                Event::Ready => self.events.push_back(NodeEvent::LinkReady(key)),
                Event::GoAway => link.retiring = true,
                Event::Migrated(_) => {}
                Event::Closed(why) => closed = Some(why),
                Event::Headers { .. }
                | Event::Malformed { .. }
                | Event::Data { .. }
                | Event::Finished { .. }
                | Event::Reset { .. }
                | Event::Writable { .. } => self.events.push_back(NodeEvent::Stream { link: key, event }),
            }
        }
        let mut datagrams = 0;
        while let Some(mut frame) = link.conn.dgram_recv() {
            let Some((stream, header)) = crate::wire::connect_udp::parse_datagram(&frame) else { continue };
            frame.drain(..header.min(frame.len()));
            datagrams += frame.len() as u64;
            self.events.push_back(NodeEvent::LinkDatagram { link: key, stream, payload: frame });
        }
        if self.is_agent && link.conn.packets() >= self.key_limit.successor {
            link.retiring = true;
            if link.conn.packets() >= self.key_limit.cut {
                link.cause = Some(Error::Limit("the connection's packets under one key (RFC 9001 B.1)".into()));
                link.conn.close(connection::H3_NO_ERROR, "key limit reached (RFC 9001 B.1)");
            }
        }
        link.path.set_rtt(link.conn.rtt());
        link.unread.take(datagrams);
        self.unread.take(datagrams);
        if closed.is_none() && link.is_overdue(now) {
            closed = Some(connection::Closed::TimedOut);
        }
        if closed.is_none() && link.path.sessions().next().is_none() {
            // Nobody is left to be told: a close that can't be sent would keep its flows until the idle timeout.
            closed = link.conn.local_close().map(connection::Closed::Local);
        }
        if let Some(why) = closed {
            self.remove_link(now, key, why);
            return;
        }
        self.settle_path(now, key);
    }

    fn settle_path(&mut self, now: Instant, key: usize) {
        let Some(link) = self.links.get_mut(key) else { return };
        let before = link.path_info.clone();
        let (mut changed, mut doubt) = (false, false);
        while let Some(event) = link.path.poll_event() {
            match event {
                PathEvent::Switched { to, reason } => {
                    changed = true;
                    link.path_since = now;
                    if link.conn.is_established() {
                        // Also on a first or better path: a connector learns an agent's new session by a packet on it, and an
                        // agent that only listens has no other to send.
                        link.conn.ping();
                        doubt |= matches!(reason, Reason::Silent | Reason::Followed);
                    }
                    let label = if to.forwarded { "forwarded" } else { "tunnel" };
                    *self.counters.switches.entry((label, reason.as_str())).or_default() += 1;
                }
                PathEvent::PeerSwitched { to } => {
                    if link.conn.is_established() {
                        link.conn.ping();
                        // It may have left a way that no longer carries full-sized packets, on our side.
                        doubt |= !to.forwarded;
                    }
                }
                PathEvent::Suspect => {
                    if link.conn.is_established() {
                        // Small, and by both ways: where only full-sized packets are lost the peer learns of it.
                        link.conn.ping();
                        doubt = true;
                    }
                    self.events.push_back(NodeEvent::LinkSuspect(key));
                }
                PathEvent::Stalled => self.events.push_back(NodeEvent::LinkStalled(key)),
                PathEvent::Revived => {}
                PathEvent::Reregister { session } => {
                    if let Some(s) = self.sessions.get_mut(session) {
                        s.registered = None;
                    }
                }
            }
        }
        let paths: Vec<usize> = link.path.sessions().collect();
        for session in paths {
            self.register_cid(session);
            let leg = self.sessions.get(session).map(|s| s.slot.leg).filter(|_| doubt);
            if let Some((key, leg)) = leg.and_then(|key| Some((key, self.legs.get_mut(key)?))) {
                leg.probe_width(now);
                self.dirty_legs.insert(key);
            }
        }
        if changed || before.is_none() {
            let info = self.describe_path(key);
            if let Some(link) = self.links.get_mut(key) {
                link.path_info = info.clone();
            }
            if let (Some(next), Some(prev)) = (info, before) {
                let peer = self.links.get(key).map(|l| l.peer.clone()).unwrap_or_default();
                self.actions.push_back(Action::Notice(Notice::Path { peer, next, prev }));
            }
        }
    }

    /// Tells the relay by which connection ID raw packets are ours, once per session and after each failure.
    fn register_cid(&mut self, key: usize) {
        if self.snapshot.network.relay_mode == RelayMode::Tunnel {
            return;
        }
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Some(link) = session.link.and_then(|l| self.links.get(l)) else { return };
        let Some(leg) = self.legs.get_mut(session.slot.leg) else { return };
        let wide = leg.conn.as_ref().is_some_and(|c| c.pmtu() >= crate::quic::tls::INNER_PAYLOAD);
        let cid = link.conn.scid();
        if session.registered == Some(cid) || !session.confirmed || !link.conn.is_established() || !wide {
            return;
        }
        session.registered = Some(cid);
        let slot = session.slot;
        leg.send_capsule(slot.stream, &Capsule::RegisterCid { context_id: slot.context, cid });
        self.dirty_legs.insert(slot.leg);
    }

    fn remove_link(&mut self, now: Instant, key: usize, why: connection::Closed) {
        let sessions: Vec<usize> = self.sessions.iter().filter(|(_, s)| s.link == Some(key)).map(|(k, _)| k).collect();
        for session in sessions {
            if self.is_agent {
                self.end_session(now, session);
            } else if let Some(s) = self.sessions.get_mut(session) {
                // The agent may open another inner connection on the same session.
                s.link = None;
                s.registered = None;
            }
        }
        let Some(mut link) = self.links.try_remove(key) else { return };
        if let Some(leg) = link.pending_on.and_then(|l| self.legs.get_mut(l)) {
            leg.handshakes = leg.handshakes.saturating_sub(1);
        }
        self.router.remove(&link.conn.scid());
        if let Some(dcid) = link.initial_dcid.take() {
            self.router.remove_initial(&dcid);
        }
        self.transmit.forget(key);
        self.forget_unread(link.unread);
        let flows: Vec<_> = std::mem::take(&mut link.flows).into_values().collect();
        if let connection::Closed::Refused(r) = &why {
            *self.counters.handshakes.entry(r.as_str()).or_default() += 1;
        }
        self.events.push_back(NodeEvent::LinkClosed {
            link: key,
            peer: link.peer,
            why,
            flows,
            refused: link.refused,
            cause: link.cause,
        });
    }

    /// For a drain: no flow is left, or only flows of peers that have owed an answer for too long.
    pub fn is_quiet(&self, now: Instant) -> bool {
        self.flows.values().all(|f| self.links.get(f.link).is_none_or(|l| l.path.silence(now) >= leg::SILENT))
    }

    pub fn ready_legs(&self) -> impl Iterator<Item = (usize, &Leg)> {
        self.legs.iter().filter(|(_, l)| l.is_ready())
    }

    /// Paths of a link, for `PathAgent`.
    fn path_id(session: usize, forwarded: bool) -> PathId {
        PathId { session, forwarded }
    }

    pub fn bound_legs(&self) -> usize {
        self.legs.iter().filter(|(_, l)| l.bound && l.state == LegState::Ready).count()
    }
}

fn contexts(snapshot: &Arc<Snapshot>, is_agent: bool) -> Result<(TlsConfig, TlsConfig)> {
    let inner = if is_agent { Kind::InnerClient } else { Kind::InnerServer };
    Ok((TlsConfig::new(Kind::OuterClient, snapshot)?, TlsConfig::new(inner, snapshot)?))
}
