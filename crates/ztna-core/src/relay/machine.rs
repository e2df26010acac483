//! One loop of the relay: its connections, and the order in which inputs settle.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use slab::Slab;

use super::conn::Conn;
use super::drain::Phase;
use super::forward::Fits;
use super::inbox::LoopMessage;
use super::packets::Outgoing;
use super::registry::Session;
use super::share::Shares;
use super::shared::Shared;
use super::{NOT_TRUSTED, RESETS, requests};
use crate::bucket::{Bucket, Rate};
use crate::error::{DeniedBy, Error, Result};
use crate::id::Role;
use crate::quic::connection::{Closed, H3_MESSAGE_ERROR, H3_NO_ERROR, HANDSHAKE, StreamId};
use crate::quic::reset::ResetKeys;
use crate::quic::{ConnKey, Event, Kind, Router, TlsConfig};
use crate::role::{Action, Arrival, Machine, Notice, State, Transmit};
use crate::trust::{PeerIdentity, Snapshot};

/// What a node is told whose link has shrunk.
const NARROWED: &str = "the way to you no longer carries full-sized packets";
/// Notices that wait for the embedding program. It is told of thousands a second at most; a flood of refused handshakes must
/// not fill memory.
const MAX_NOTICES: usize = 4_096;

/// Where a session's half lives.
pub(super) struct AgentHalf {
    pub(super) key: ConnKey,
    pub(super) stream: StreamId,
    pub(super) session: Arc<Session>,
}

pub(super) struct ConnectorHalf {
    pub(super) key: ConnKey,
    pub(super) stream: StreamId,
    pub(super) context: u64,
    pub(super) session: Arc<Session>,
}

/// The machine of one loop. See [`Machine`] for the drain order.
pub struct Relay {
    pub(super) shared: Arc<Shared>,
    pub(super) index: usize,
    pub(super) snapshot: Arc<Snapshot>,
    tls: TlsConfig,
    /// Of the private key; IDs and tokens issued under an older one are not answered.
    pub(super) reset_keys: ResetKeys,
    pub(super) resets: Bucket,
    /// This loop's part of the Retry packets that the relay sends a second.
    pub(super) retries: Bucket,
    epoch: (Instant, SystemTime),
    pub(super) phase: Phase,
    pub(super) conns: Slab<Conn>,
    pub(super) router: Router<ConnKey>,
    pub(super) agents: BTreeMap<u64, AgentHalf>,
    pub(super) connectors: BTreeMap<u64, ConnectorHalf>,
    /// Bind ID → its stream.
    pub(super) binds: BTreeMap<u64, (ConnKey, StreamId)>,
    /// Connections with something to settle.
    dirty: VecDeque<ConnKey>,
    pub(super) shares: Shares,
    /// Connections in the order in which their handshakes began; those that are over or proven go with time.
    pub(super) unproven: VecDeque<(ConnKey, Instant)>,
    /// Messages to this loop from itself.
    local: VecDeque<LoopMessage>,
    pub(super) deadlines: BTreeSet<(Instant, ConnKey)>,
    pub(super) outgoing: Outgoing,
    actions: VecDeque<Action>,
    /// The time of the last input.
    pub(super) now: Instant,
}

impl Relay {
    /// `epoch` is one moment on both clocks, for the ends of certificates. `loop_index` is this loop's among the `loops` of
    /// `shared`.
    ///
    /// Errors: a certificate that is no relay's, or that TLS does not take; an index that is out of range.
    pub fn new(
        shared: Arc<Shared>,
        loop_index: usize,
        snapshot: Arc<Snapshot>,
        epoch: (Instant, SystemTime),
    ) -> Result<Relay> {
        if loop_index >= shared.loops() {
            return Err(Error::Internal(format!("loop {loop_index} of a relay with {}", shared.loops())));
        }
        let id = &snapshot.identity().id;
        if id.role() != Role::Relay {
            return Err(Error::Identity(format!("`{id}` is not a relay's certificate")));
        }
        let tls = TlsConfig::new(Kind::OuterServer, &snapshot)?;
        let reset_keys = reset_keys(&snapshot)?;
        shared.set_identity(id.name(), snapshot.identity().not_after);
        let retries = Rate::each_second(shared.retries_per_loop());
        let mut relay = Relay {
            shared,
            index: loop_index,
            snapshot,
            tls,
            reset_keys,
            resets: Bucket::full(epoch.0, RESETS),
            retries: Bucket::full(epoch.0, retries),
            epoch,
            phase: Phase::Running,
            conns: Slab::new(),
            router: Router::default(),
            agents: BTreeMap::new(),
            connectors: BTreeMap::new(),
            binds: BTreeMap::new(),
            dirty: VecDeque::new(),
            shares: Shares::default(),
            unproven: VecDeque::new(),
            local: VecDeque::new(),
            deadlines: BTreeSet::new(),
            outgoing: Outgoing::default(),
            actions: VecDeque::new(),
            now: epoch.0,
        };
        relay.notice(Notice::State { next: State::Online, prev: State::Starting, reason: "listening".into() });
        Ok(relay)
    }

    pub(super) fn conn(&mut self, key: ConnKey) -> Option<&mut Conn> {
        self.conns.get_mut(key.0)
    }

    /// The wall clock's reading at `now`.
    pub(super) fn wall(&self, now: Instant) -> SystemTime {
        self.epoch.1 + now.saturating_duration_since(self.epoch.0)
    }

    /// Seconds that all loops agree on.
    pub(super) fn seconds(&self, now: Instant) -> u64 {
        self.wall(now).duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs())
    }

    pub(super) fn tls(&mut self) -> &mut TlsConfig {
        &mut self.tls
    }

    pub(super) fn notice(&mut self, notice: Notice) {
        if self.actions.len() >= MAX_NOTICES {
            self.shared.counters.drops.notice.add(1);
            return;
        }
        self.actions.push_back(Action::Notice(notice));
    }

    /// Has the connection settled in this `process`.
    pub(super) fn touch(&mut self, key: ConnKey) {
        if let Some(conn) = self.conns.get_mut(key.0)
            && !std::mem::replace(&mut conn.dirty, true)
        {
            self.dirty.push_back(key);
        }
    }

    /// Sends a message to a loop, which may be this one.
    pub(super) fn post(&mut self, to: usize, message: LoopMessage) {
        if to == self.index {
            self.local.push_back(message);
        } else {
            self.shared.post(to, message);
        }
    }

    /// Enters the connection's next deadline, where it has changed.
    pub(super) fn rearm(&mut self, key: ConnKey) {
        let Some(conn) = self.conns.get_mut(key.0) else { return };
        let settle = (conn.fits == Fits::Unknown && conn.peer.is_some()).then(|| conn.born + super::PMTU_SETTLE);
        let narrowing = conn.narrowing_timeout(self.now);
        let leave = conn.replaced.as_ref().map(|r| r.until);
        let proof = conn.peer.is_none().then(|| conn.born + HANDSHAKE);
        let next =
            [conn.quic.timeout_instant(), conn.expires, leave, settle, narrowing, proof].into_iter().flatten().min();
        if next == conn.deadline {
            return;
        }
        if let Some(old) = std::mem::replace(&mut conn.deadline, next) {
            self.deadlines.remove(&(old, key));
        }
        if let Some(next) = next {
            self.deadlines.insert((next, key));
        }
    }

    fn settle(&mut self, now: Instant, key: ConnKey) {
        let Some(conn) = self.conns.get_mut(key.0) else { return };
        conn.dirty = false;
        conn.quic.process(&mut self.tls);
        let withheld = conn.quic.take_bursts_lost();
        if withheld > 0 {
            self.shared.counters.bursts_withheld.add(1);
        }
        while let Some(event) = self.conns.get_mut(key.0).and_then(|c| c.quic.poll_event()) {
            self.on_event(now, key, event);
        }
        // A session that has just begun gets its other half before its datagrams are moved.
        while let Some(message) = self.local.pop_front() {
            self.on_message(now, message);
        }
        let Some(conn) = self.conns.get_mut(key.0) else { return };
        if conn.quic.is_draining() {
            // It is over; what is left is the wait in which late packets are ignored. What came before its end is passed on: the last
            // of it ends inner connections.
            self.pump(key);
            self.end_streams(key, "its connection ended");
        } else if conn.is_narrowed(now) {
            // The node connects again at once, and both ends measure from the start.
            self.close(key, H3_NO_ERROR, NARROWED);
        } else {
            if conn.learn_fits(now) {
                self.update_legs(key);
            }
            self.flush_streams(key);
            self.pump(key);
            self.weigh(key);
        }
        self.want_send(key);
        self.rearm(key);
    }

    fn on_event(&mut self, now: Instant, key: ConnKey, event: Event) {
        match event {
            Event::Established(peer) => self.on_established(key, peer),
            Event::Headers { stream, fields, fin } => {
                self.on_headers(now, key, stream, &requests::Request { fields, fin })
            }
            Event::Malformed { stream } => {
                if let Some(conn) = self.conn(key) {
                    conn.quic.reset(stream, H3_MESSAGE_ERROR);
                }
            }
            Event::Data { stream } => {
                self.read_capsules(key, stream);
                // A FIN that came with the last bytes has an event only when the next packet arrives.
                if self.conn(key).is_some_and(|c| c.streams.contains_key(&stream) && c.quic.finished(stream)) {
                    self.finish_stream(key, stream);
                }
            }
            Event::Finished { stream } => {
                self.read_capsules(key, stream);
                self.finish_stream(key, stream);
            }
            Event::Reset { stream, .. } => self.end_stream(key, stream, false, "it was reset by its peer"),
            Event::Writable { stream } => self.flush(key, stream),
            Event::Migrated(address) => {
                if let Some(conn) = self.conn(key) {
                    conn.moved(address);
                }
                self.update_legs(key);
                self.observed_all(key);
            }
            Event::Ready | Event::GoAway => {}
            Event::Closed(why) => self.on_closed(key, why),
        }
    }

    fn on_established(&mut self, key: ConnKey, peer: Arc<PeerIdentity>) {
        let left = peer.not_after.duration_since(self.epoch.1).unwrap_or(Duration::ZERO);
        let expires = self.epoch.0.checked_add(left);
        let counters = &self.shared.counters;
        counters.handshakes.ok.add(1);
        match peer.id.role() {
            Role::Agent => counters.agents.add(1),
            Role::Connector | Role::Relay => counters.connectors.add(1),
        }
        let id = peer.id.clone();
        let draining = self.phase != Phase::Running;
        if let Some(conn) = self.conns.get_mut(key.0) {
            conn.peer = Some(peer);
            conn.expires = expires;
            if let Some(initial) = conn.initial.take() {
                self.router.remove_initial(&initial);
            }
            if draining {
                conn.quic.goaway();
            }
        }
        self.join_share(key, &id);
    }

    pub(super) fn on_closed(&mut self, key: ConnKey, why: Closed) {
        self.end_streams(key, "its connection ended");
        let Some(conn) = self.conns.try_remove(key.0) else { return };
        let scid = conn.quic.scid();
        self.router.remove(&scid);
        self.shared.own_cid(scid, false);
        if let Some(initial) = &conn.initial {
            self.router.remove_initial(initial);
        }
        if let Some(deadline) = conn.deadline {
            self.deadlines.remove(&(deadline, key));
        }
        let counters = &self.shared.counters;
        counters.connections.sub(1);
        if let Some(peer) = &conn.peer {
            self.shares.leave(&peer.id, conn.held_bytes);
        }
        match conn.peer.as_ref().map(|p| p.id.role()) {
            Some(Role::Agent) => counters.agents.sub(1),
            Some(Role::Connector | Role::Relay) => counters.connectors.sub(1),
            None if matches!(why, Closed::Refused(_)) => counters.handshakes.refused.add(1),
            None => counters.handshakes.failed.add(1),
        }
        conn.waiters.iter().for_each(|k| self.touch(*k));
        if let (Closed::Refused(refusal), None) = (&why, &conn.peer) {
            let reason = format!("certificate refused: {refusal}");
            let decision = Some(self.shared.next_decision().to_string());
            let error = Error::Denied { by: DeniedBy::Relay, reason, decision, policy: None };
            self.notice(Notice::Denied { error, peer: None, asked: None });
        }
        tracing::debug!(?why, peer = conn.peer.as_ref().map(|p| p.short_name()), "connection ended");
    }

    /// Closes a connection and ends what ran on it.
    pub(super) fn close(&mut self, key: ConnKey, code: u64, reason: &str) {
        if let Some(conn) = self.conn(key) {
            conn.quic.close(code, reason);
        }
        self.end_streams(key, reason);
        self.touch(key);
    }
}

impl Machine for Relay {
    fn pass_on(&mut self, arrival: Arrival, burst: &[u8]) -> Option<Transmit> {
        self.cut_through(arrival, burst)
    }

    fn handle_packets(&mut self, now: Instant, arrival: Arrival, burst: &mut [u8]) {
        self.take_burst(now, arrival, burst);
    }

    fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, key)) = self.deadlines.first().copied()
            && at <= now
        {
            self.deadlines.remove(&(at, key));
            let Some(conn) = self.conns.get_mut(key.0) else { continue };
            conn.deadline = None;
            conn.quic.on_timeout();
            if conn.peer.is_none() && now >= conn.born + HANDSHAKE {
                self.on_closed(key, Closed::TimedOut);
                continue;
            }
            if conn.expires.take_if(|at| *at <= now).is_some() {
                self.close(key, NOT_TRUSTED, "the certificate has expired");
            }
            self.press_replaced(now, key);
            self.touch(key);
        }
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        let first = self.deadlines.first().map(|(at, _)| *at);
        [first, self.phase.deadline()].into_iter().flatten().min()
    }

    fn process(&mut self, now: Instant) {
        self.now = now;
        for message in self.shared.take_inbox(self.index) {
            self.on_message(now, message);
        }
        loop {
            if let Some(message) = self.local.pop_front() {
                self.on_message(now, message);
            } else if let Some(key) = self.dirty.pop_front() {
                self.settle(now, key);
            } else {
                break;
            }
        }
        if self.advance_drain(now) {
            while let Some(key) = self.dirty.pop_front() {
                self.settle(now, key);
            }
        }
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<Transmit> {
        self.now = now;
        let transmit = self.next_burst(out);
        if transmit.is_none() {
            self.phase.flushed(now);
        }
        transmit
    }

    fn handle_snapshot(&mut self, now: Instant, snapshot: Arc<Snapshot>) {
        if let Err(error) = snapshot.supersedes(&self.snapshot) {
            self.notice(Notice::Warning(error));
            return;
        }
        self.snapshot = snapshot;
        self.shared.set_identity(self.snapshot.identity().id.name(), self.snapshot.identity().not_after);
        match TlsConfig::new(Kind::OuterServer, &self.snapshot).and_then(|t| Ok((t, reset_keys(&self.snapshot)?))) {
            Ok((tls, keys)) => {
                self.tls = tls;
                self.reset_keys = keys;
            }
            // A snapshot is checked before it comes here. Nobody is to get in under the old one.
            Err(error) => {
                self.end_role(Err(error));
                return;
            }
        }
        let wall = self.wall(now);
        let distrusted: Vec<(ConnKey, String)> = self
            .conns
            .iter()
            .filter_map(|(i, c)| {
                Some((ConnKey(i), self.snapshot.still_trusted(c.peer.as_ref()?, wall).err()?.to_string()))
            })
            .collect();
        for (key, why) in distrusted {
            self.close(key, NOT_TRUSTED, &why);
        }
        self.recheck_sessions();
    }

    fn initial_budget(&self) -> Option<u32> {
        Some(self.shared.retries_per_loop())
    }

    fn handle_shed(&mut self, count: u64) {
        self.shared.counters.drops.initial.add(usize::try_from(count).unwrap_or(usize::MAX));
    }

    fn shut_down(&mut self, now: Instant, within: Duration) {
        self.begin_drain(now, within);
    }

    fn state(&self) -> State {
        self.phase.state()
    }
}

fn reset_keys(snapshot: &Snapshot) -> Result<ResetKeys> {
    ResetKeys::new(&snapshot.credentials.key_pem).ok_or_else(|| Error::Internal("no memory for keys".into()))
}

impl Relay {
    pub(super) fn end_role(&mut self, result: Result<()>) {
        self.phase = Phase::Ended;
        self.actions.push_back(Action::End(result));
    }
}

impl Shared {
    fn set_identity(&self, name: &str, not_after: SystemTime) {
        let _ = self.name.set(name.to_owned());
        *self.expiry.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(not_after);
    }

    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }
}
