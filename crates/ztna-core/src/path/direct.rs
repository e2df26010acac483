//! Direct paths of one inner connection: what is offered to the peer, when its addresses are checked, which of those that work is used,
//! and when one that failed is tried again.
//!
//! Drain order: any `handle_*` or `set_local`, then `poll_event` and `poll_signal` until `None`, `poll_transmit` until `None`, then
//! `poll_timeout`.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::budget::Budget;
use super::burst::{Burst, BurstAction, BurstOutcome, Gate};
use super::candidate::{Candidate, offer};
use super::checklist::{CheckEvent, Checklist, Keys, Local, Outgoing, PairId};
use crate::id::SpiffeId;
use crate::role::SocketIndex;
use crate::wire::DecodeError;
use crate::wire::path_signal::{Mapping, Message, Report, Sending};

/// Before the next round where none has succeeded, doubling (protocol.md, Timers).
const ROUND_MIN: Duration = Duration::from_secs(30);
const ROUND_MAX: Duration = Duration::from_secs(600);
/// A path that served this long was a good one: its end is not held against the next.
const GOOD: Duration = Duration::from_secs(30);
/// How much faster another direct path must be: this share, or this much (protocol.md), and never for less than what measuring errs by.
const FASTER_SHARE: f64 = 0.2;
const FASTER: Duration = Duration::from_millis(10);
const MEASURING: Duration = Duration::from_micros(500);
/// Between two moves from one direct path to another.
const DWELL: Duration = Duration::from_secs(5);
/// After the first path came up a faster one may follow at once: answers of one round come one after another. After a change of
/// addresses what fails does so for the change.
const SETTLING: Duration = Duration::from_secs(2);
/// Candidates are sent again until they are acknowledged: at first after this, doubling.
const RESEND_MIN: Duration = Duration::from_millis(200);
const RESEND_MAX: Duration = Duration::from_secs(5);
/// A peer's word that checks are worth a new round is taken this often. That it hears nothing of us is taken each time.
const CHECK_NOW_EVERY: Duration = Duration::from_secs(1);
/// Signals that wait to be sent: one of each kind, and some.
const OUTBOX: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectEvent {
    /// Data should go by this pair: the first that works, or a faster one.
    Use(PairId),
    /// The pair in use no longer answers.
    Lost,
    /// The peer does not hear us: the pair in use is being asked, and data should not wait for its answer.
    Doubt,
}

pub struct Direct {
    list: Checklist,
    burst: Burst,
    local: Vec<Candidate>,
    mapping: Mapping,
    generation: u64,
    acknowledged: u64,
    resend: Option<(Instant, Duration)>,
    remote_generation: Option<u64>,
    remote_mapping: Mapping,
    remote_status: Option<(Sending, Vec<Report>)>,
    statuses: u64,
    outbox: VecDeque<Message>,
    current: Option<PairId>,
    came_up: Option<Instant>,
    moved: Option<Instant>,
    next_round: Option<Instant>,
    rounds_failed: u32,
    failures: u32,
    barred: Option<Instant>,
    asked_by_peer: Option<Instant>,
    /// When all was begun anew: something had changed.
    changed: Option<Instant>,
    events: VecDeque<DirectEvent>,
}

impl Direct {
    /// `largest`: bytes of the largest packet that a path must carry.
    pub fn new(keys: Keys, largest: usize) -> Self {
        let seed = keys.mask.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        Direct {
            burst: Burst::new(seed),
            list: Checklist::new(keys, largest),
            local: Vec::new(),
            mapping: Mapping::Unknown,
            generation: 0,
            acknowledged: 0,
            resend: None,
            remote_generation: None,
            remote_mapping: Mapping::Unknown,
            remote_status: None,
            statuses: 0,
            outbox: VecDeque::new(),
            current: None,
            came_up: None,
            moved: None,
            next_round: None,
            rounds_failed: 0,
            failures: 0,
            barred: None,
            asked_by_peer: None,
            changed: None,
            events: VecDeque::new(),
        }
    }

    pub fn list(&self) -> &Checklist {
        &self.list
    }

    pub fn current(&self) -> Option<PairId> {
        self.current
    }

    /// What our NAT was found to do.
    pub fn mapping(&self) -> Mapping {
        self.mapping
    }

    /// Addresses that the peer is told of.
    pub fn offered(&self) -> usize {
        self.local.len()
    }

    /// How many direct paths in a row have failed soon after they came up.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// How often the peer has said what it found.
    pub fn statuses(&self) -> u64 {
        self.statuses
    }

    /// Whether the peer has told its addresses, if only that it has none.
    pub fn has_remote(&self) -> bool {
        self.remote_generation.is_some()
    }

    /// What the peer said of its NAT, and what it found, where it was asked.
    pub fn remote(&self) -> (Mapping, Option<&(Sending, Vec<Report>)>) {
        (self.remote_mapping, self.remote_status.as_ref())
    }

    /// Our own addresses, all of them. A change is told to the peer, and everything is checked again.
    pub fn set_local(&mut self, now: Instant, candidates: Vec<Candidate>, mapping: Mapping) {
        let candidates = offer(candidates);
        let moved = candidates != self.local;
        if !moved && mapping == self.mapping && self.generation > 0 {
            return;
        }
        self.local = candidates;
        self.mapping = mapping;
        self.burst.sides().set_local(mapping);
        self.generation += 1;
        self.resend = Some((now, RESEND_MIN));
        if moved {
            self.list.forget_addresses();
            self.start_anew(now);
        }
    }

    /// Routes or addresses changed, perhaps without a change of ours: what works is asked for a sign of life, the rest is checked again.
    pub fn handle_network_change(&mut self, now: Instant) {
        self.list.forget_addresses();
        self.start_anew(now);
        // A new generation of the same addresses: what the peer holds against old failures no longer counts.
        self.generation += 1;
        self.resend = Some((now, RESEND_MIN));
    }

    /// One signal of the peer's. Errors: it is malformed.
    pub fn handle_signal(&mut self, now: Instant, datagram: &[u8]) -> Result<(), DecodeError> {
        match Message::decode(datagram)? {
            Some(Message::Candidates { generation, mapping, candidates }) => {
                if self.remote_generation.is_none_or(|known| generation > known) {
                    self.remote_generation = Some(generation);
                    self.remote_mapping = mapping;
                    self.list.set_remote(&candidates);
                    self.burst.sides().set_remote(mapping, &candidates);
                    self.start_anew(now);
                }
                self.push(Message::Ack { generation });
            }
            Some(Message::Ack { generation }) => {
                self.acknowledged = self.acknowledged.max(generation.min(self.generation));
                if self.acknowledged == self.generation {
                    self.resend = None;
                }
            }
            Some(Message::CheckNow { .. }) => self.check_now(now),
            Some(Message::Status { sending, reports, .. }) => {
                self.remote_status = Some((sending, reports));
                self.statuses += 1;
            }
            Some(Message::StatusAsk) => {
                let sending = if self.current.is_some() { Sending::Direct } else { Sending::Relay };
                self.push(Message::Status { generation: self.generation, sending, reports: self.list.reports() });
            }
            Some(Message::PortBurst { attempt, step }) => self.burst.handle_signal(now, attempt, step),
            // Of a later version.
            None => {}
        }
        Ok(())
    }

    /// Tells the peer that nothing of it is heard.
    pub fn complain(&mut self) {
        self.push(Message::CheckNow { generation: self.generation });
    }

    /// Asks the peer what it found; [`remote`](Self::remote) has it a round trip later.
    pub fn ask_status(&mut self) {
        self.push(Message::StatusAsk);
    }

    /// A check or an answer that names our peer. `true`: genuine.
    pub fn handle_message(&mut self, now: Instant, local: Local, from: SocketAddr, message: &[u8]) -> bool {
        if local.socket.is_some_and(|s| !self.burst.owns(s) && !self.list.has_socket(s)) {
            // Of a burst that is over: the other end shall not take it for a path.
            return false;
        }
        let genuine = self.list.handle_message(now, local, from, message);
        if genuine {
            self.burst.heard(now, local, from);
        }
        self.settle(now);
        genuine
    }

    /// Genuine data came in by no relay. Gives the pair that it came by, if it is one.
    pub fn handle_data(&mut self, now: Instant, local: Local, from: SocketAddr) -> Option<PairId> {
        match self.list.pair_of(local, from) {
            Some(id) if self.list.is_usable(id) => Some(id),
            Some(_) | None => {
                self.list.handle_unknown(now, local, from);
                self.list.pair_of(local, from)
            }
        }
    }

    pub fn note_sent(&mut self, now: Instant, pair: PairId) {
        self.list.note_sent(now, pair);
    }

    /// A pair that works, but is being asked whether it still does.
    pub fn is_in_doubt(&self, pair: PairId) -> bool {
        self.list.is_in_doubt(pair)
    }

    /// The pair in use is in doubt: it is checked.
    pub fn doubt(&mut self, now: Instant) {
        if let Some(pair) = self.current {
            self.list.doubt(now, pair);
        }
    }

    /// Data showed that the pair in use does not carry it, whatever its checks say.
    pub fn give_up(&mut self, now: Instant) {
        if let Some(pair) = self.current.take() {
            self.list.give_up(pair);
            self.failed(now);
        }
    }

    pub fn poll_event(&mut self) -> Option<DirectEvent> {
        self.events.pop_front()
    }

    /// What a port burst has the loop do. `gate`: the node's; `owner`: this connection.
    pub fn poll_burst(&mut self, now: Instant, gate: &mut Gate, owner: usize, peer: &SpiffeId) -> Option<BurstAction> {
        let ready = self.is_ready_for_burst();
        let action = self.burst.poll_action(now, gate, owner, peer, ready);
        while let Some((attempt, step)) = self.burst.poll_signal() {
            self.push(Message::PortBurst { attempt, step });
        }
        action
    }

    /// The peer's address, where a port burst is the next thing to try.
    pub fn wants_burst(&self, now: Instant) -> Option<SocketAddr> {
        self.burst.due(now).filter(|_| self.is_ready_for_burst())
    }

    /// A socket that an earlier burst opened to the peer's address: it is tried before another burst.
    pub fn try_socket(&mut self, now: Instant, socket: SocketIndex, to: SocketAddr) {
        self.burst.hold(now);
        self.list.add(now, Local { socket: Some(socket), ip: None }, to);
    }

    /// The loop's answer to [`BurstAction::Open`].
    pub fn sockets_opened(&mut self, now: Instant, first: SocketIndex, count: usize) {
        self.burst.sockets_opened(now, first, count);
    }

    /// What the last port burst has come to, or this one.
    pub fn burst(&self) -> Option<BurstOutcome> {
        self.burst.outcome()
    }

    /// One signal for the peer, whenever the connection takes it.
    pub fn poll_signal(&mut self, now: Instant) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        if let Some(message) = self.outbox.pop_front() {
            message.encode(&mut out);
            return Some(out);
        }
        let (_, wait) = self.resend.filter(|(at, _)| now >= *at)?;
        self.resend = Some((now + wait, (wait * 2).min(RESEND_MAX)));
        let (generation, mapping, candidates) = (self.generation, self.mapping, self.local.clone());
        Message::Candidates { generation, mapping, candidates }.encode(&mut out);
        Some(out)
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let resend = self.resend.map(|(at, _)| at);
        let barred = self.barred.filter(|_| self.current.is_none() && self.list.usable().next().is_some());
        let burst = self.burst.poll_timeout(self.is_ready_for_burst());
        [self.list.poll_timeout(), resend, self.next_round, barred, burst].into_iter().flatten().min()
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        if self.next_round.is_some_and(|t| now >= t) {
            self.next_round = None;
            self.list.start_round(now);
        }
        self.burst.handle_timeout(now);
        self.settle(now);
    }

    /// One packet that is due. `peer`: whose identity the other end has proven.
    pub fn poll_transmit(&mut self, now: Instant, peer: &SpiffeId, budget: &mut Budget) -> Option<Outgoing> {
        let out = self.list.poll_transmit(now, peer, budget);
        self.settle(now);
        out.or_else(|| self.burst.poll_transmit(now).and_then(|(local, to)| self.list.stray(local, to)))
    }

    /// The peer asks for a round.
    fn check_now(&mut self, now: Instant) {
        self.doubt(now);
        self.events.push_back(DirectEvent::Doubt);
        if self.asked_by_peer.is_some_and(|t| now < t + CHECK_NOW_EVERY) {
            return;
        }
        self.asked_by_peer = Some(now);
        // Not sooner than our own experience with the path allows.
        if self.barred.is_none_or(|t| now >= t) {
            self.next_round = None;
            self.list.start_round(now);
        }
    }

    fn push(&mut self, message: Message) {
        if self.outbox.len() < OUTBOX && !self.outbox.contains(&message) {
            self.outbox.push_back(message);
        }
    }

    fn start_anew(&mut self, now: Instant) {
        self.changed = Some(now);
        self.rounds_failed = 0;
        self.barred = None;
        self.next_round = None;
        self.doubt(now);
        self.list.start_round(now);
        self.burst.restart(now);
    }

    /// There is no direct path, and the peer knows our addresses.
    fn is_ready_for_burst(&self) -> bool {
        let known = self.generation > 0 && self.acknowledged == self.generation;
        known && self.current.is_none() && self.list.usable().next().is_none()
    }

    /// Draws the conclusions of what the checks have told.
    fn settle(&mut self, now: Instant) {
        while let Some(event) = self.list.poll_event() {
            match event {
                CheckEvent::Usable(_) => {}
                CheckEvent::Lost(pair) => {
                    if self.current == Some(pair) {
                        self.current = None;
                        self.events.push_back(DirectEvent::Lost);
                        self.failed(now);
                    }
                }
                CheckEvent::RoundEnded => {
                    if self.current.is_none() {
                        self.next_round = Some(now + doubled(ROUND_MIN, self.rounds_failed, ROUND_MAX));
                        self.rounds_failed = self.rounds_failed.saturating_add(1);
                    }
                }
            }
        }
        self.choose(now);
    }

    fn choose(&mut self, now: Instant) {
        let mut working: Vec<(Duration, PairId)> = self.list.usable().map(|(id, rtt)| (rtt, id)).collect();
        working.sort_unstable();
        let best = working.first().copied();
        let next = match (self.current, best) {
            (None, Some((_, id))) if self.barred.is_none_or(|t| now >= t) => {
                self.came_up = Some(now);
                self.rounds_failed = 0;
                Some(id)
            }
            (Some(current), Some((rtt, id))) if id != current && self.may_move(now) => {
                let own = self.list.rtt(current).unwrap_or(Duration::MAX);
                is_faster(rtt, own).then_some(id)
            }
            (_, _) => None,
        };
        if let Some(id) = next {
            self.current = Some(id);
            self.moved = Some(now);
            self.events.push_back(DirectEvent::Use(id));
        }
        if self.current.is_some() {
            self.burst.cancel(now);
        }
        let standby = working.iter().map(|(_, id)| *id).find(|id| Some(*id) != self.current);
        self.list.keep([self.current, standby]);
    }

    fn may_move(&self, now: Instant) -> bool {
        self.came_up.is_some_and(|t| now < t + SETTLING) || self.moved.is_none_or(|t| now >= t + DWELL)
    }

    /// The pair in use has failed: tried again at once after a long good time, else later and later.
    fn failed(&mut self, now: Instant) {
        let good = self.came_up.take().is_some_and(|t| now >= t + GOOD);
        let moved = self.changed.is_some_and(|t| now < t + SETTLING);
        self.failures = if good || moved { 0 } else { self.failures.saturating_add(1) };
        let wait = match self.failures.checked_sub(1) {
            None => Duration::ZERO,
            Some(n) => doubled(ROUND_MIN, n, ROUND_MAX),
        };
        self.barred = Some(now + wait);
        self.next_round = Some(now + wait);
        self.push(Message::CheckNow { generation: self.generation });
        self.burst.restart(now);
        self.choose(now);
    }
}

/// `first`, doubled `times` times, `most` at most.
pub(super) fn doubled(first: Duration, times: u32, most: Duration) -> Duration {
    first.saturating_mul(1u32.checked_shl(times).unwrap_or(u32::MAX)).min(most)
}

/// Whether it is worth a move.
fn is_faster(other: Duration, own: Duration) -> bool {
    let gain = own.saturating_sub(other);
    gain >= FASTER || (gain >= own.mul_f64(FASTER_SHARE) && gain >= MEASURING)
}
