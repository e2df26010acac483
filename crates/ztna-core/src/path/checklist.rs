//! The pairs of one inner connection and the checks on them (RFC 8445 §6.1.2, §7): which addresses of the peer answer, how fast, and
//! whether they carry the largest packet.
//!
//! Drain order: any `handle_*` or `start_round`, then `poll_event` until `None`, `poll_transmit` until `None`, then `poll_timeout`.
//!
//! Left out of RFC 8445: roles and nomination (each end chooses where it sends), frozen pairs and foundations (a pair is an address of
//! the peer's and our socket; the system's routes choose our source address), components, lite.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::budget::{Budget, Held, Wanted};
use super::candidate::{Candidate, CandidateKind, Refused, order, permit};
use super::explain::Tried;
use crate::id::SpiffeId;
use crate::role::SocketIndex;
use crate::wire::check::{self, Check, CheckKey, Token};
use crate::wire::path_signal::{MAX_REPORTS, Outcome, Report};
use crate::wire::replay::ReplayWindow;
use crate::wire::stun::TransactionId;

/// When in a round an address is checked (protocol.md, Timers): 0, 200, 500, 1000 ms, then every second; twelve in all.
const ROUND: [u64; 12] = [0, 200, 500, 1_000, 2_000, 3_000, 4_000, 5_000, 6_000, 7_000, 8_000, 9_000];
/// Between the first checks to different addresses (RFC 8445 §14.2: 5 ms at least).
const PACE: Duration = Duration::from_millis(5);
/// After the last check of a round its answer may still come.
const LAST_ANSWER: Duration = Duration::from_secs(1);
/// Padded checks before an address counts as too narrow, and between them.
const WIDE_TRIES: u8 = 4;
const WIDE_EVERY: Duration = Duration::from_millis(150);
/// Checks of a path in doubt that may stay unanswered, at least, and for how long (protocol.md: relay again after three, within a
/// second). Both paths carry data meanwhile, so there is time: where a third of all packets is lost, three in a row often are.
const PROBES: u8 = 3;
const DOUBT: Duration = Duration::from_millis(500);
const PROBE_MIN: Duration = Duration::from_millis(80);
const PROBE_MAX: Duration = Duration::from_millis(200);
/// On a path with nothing else to carry. The inner connection's own keep-alive, 15 s (protocol.md, Timers), does for the path that it
/// takes. NATs forget after 30 s at the earliest (nat-lab.md); checks of both ends and their answers come to 34 B/s over IPv6.
pub const KEEP_ALIVE: Duration = Duration::from_secs(18);
/// Between checks of a path that carries data: its round trip may change.
const MEASURE: Duration = Duration::from_secs(5);
/// Data counts as flowing while its packets are closer than this.
const FLOWING: Duration = Duration::from_secs(1);
/// Pairs: the peer's candidates, and as many addresses that only its checks showed.
const MAX_PAIRS: usize = 32;
/// Between checks that data from an unknown address brings there, as long as none is answered.
const UNKNOWN_EVERY: Duration = Duration::from_millis(500);
/// Unanswered checks that a pair remembers: more than a round, so that a late answer finds its question.
const OUTSTANDING: usize = 16;
/// Answers that wait to be sent. One more than a batch of checks brings.
const MAX_ANSWERS: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PairId(u32);

/// Our end of a packet's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Local {
    /// `None`: the node's main socket of the peer's address family.
    pub socket: Option<SocketIndex>,
    /// `None`: as the system's routes have it.
    pub ip: Option<IpAddr>,
}

/// A packet of ours for the loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    pub local: Local,
    pub to: SocketAddr,
    pub bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckEvent {
    /// It carries the largest packet both ways.
    Usable(PairId),
    /// It was usable, and no longer answers.
    Lost(PairId),
    /// The round is over.
    RoundEnded,
}

/// Both directions' secrets, from the inner connection's exporter (protocol.md, Path checks).
pub struct Keys {
    /// For checks and answers that we send; the token that names them.
    pub ours: (Token, CheckKey),
    pub theirs: (Token, CheckKey),
    /// Makes transaction IDs that a stranger can't guess.
    pub mask: [u8; 12],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Not answered yet; so many checks of this round are sent.
    Checking {
        sent: u8,
    },
    /// Answered; being asked whether it carries the largest packet.
    Widening {
        sent: u8,
    },
    Usable,
    /// Usable until now; so many checks have gone unanswered since there was doubt.
    Doubted {
        since: Instant,
        sent: u8,
    },
    /// Waits for a round.
    Idle(Outcome),
}

#[derive(Debug)]
struct Pair {
    remote: SocketAddr,
    kind: CandidateKind,
    local: Local,
    phase: Phase,
    due: Option<Instant>,
    outstanding: VecDeque<(TransactionId, Instant, bool)>,
    rtt: Option<Duration>,
    /// The address has answered a check of ours, so that more may be sent to it.
    answered: Option<Instant>,
    last_sent: Option<Instant>,
    /// Named by the peer in its present generation.
    named: bool,
    /// Something genuine has come from there.
    heard: bool,
    /// Why its next check waits.
    held: Option<Held>,
}

pub struct Checklist {
    keys: Keys,
    window: ReplayWindow,
    counter: u64,
    largest: usize,
    pairs: BTreeMap<PairId, Pair>,
    refused: Vec<(Candidate, Refused)>,
    next_id: u32,
    round: Option<Instant>,
    kept: [Option<PairId>; 2],
    answers: VecDeque<Outgoing>,
    events: VecDeque<CheckEvent>,
}

impl Checklist {
    /// `largest`: bytes of the largest packet that a path must carry.
    pub fn new(keys: Keys, largest: usize) -> Self {
        Checklist {
            keys,
            window: ReplayWindow::default(),
            counter: 0,
            largest,
            pairs: BTreeMap::new(),
            refused: Vec::new(),
            next_id: 0,
            round: None,
            kept: [None; 2],
            answers: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Takes the peer's candidates, in place of those it named before. Pairs that work stay.
    pub fn set_remote(&mut self, candidates: &[Candidate]) {
        self.refused.clear();
        for pair in self.pairs.values_mut() {
            pair.named = false;
        }
        for c in candidates {
            if let Err(why) = permit(c.address) {
                self.refused.push((*c, why));
                continue;
            }
            match self.pairs.values_mut().find(|p| p.remote == c.address && p.local.socket.is_none()) {
                Some(known) => {
                    known.named = true;
                    known.kind = c.kind;
                }
                None => drop(self.insert(c.address, c.kind, Local::default(), true)),
            }
        }
        self.pairs.retain(|_, p| {
            p.named || matches!(p.phase, Phase::Usable | Phase::Doubted { .. } | Phase::Widening { .. })
        });
    }

    /// Checks every address that does not work, from the start.
    pub fn start_round(&mut self, now: Instant) {
        let mut waiting: Vec<(u8, PairId)> = self
            .pairs
            .iter()
            .filter(|(_, p)| matches!(p.phase, Phase::Checking { .. } | Phase::Idle(_)))
            .map(|(id, p)| (order(&Candidate { kind: p.kind, address: p.remote }), *id))
            .collect();
        waiting.sort_unstable();
        self.round = (!waiting.is_empty()).then_some(now);
        let mut at = now;
        for (_, id) in waiting {
            if let Some(p) = self.pairs.get_mut(&id) {
                p.phase = Phase::Checking { sent: 0 };
                p.due = Some(at);
                at += PACE;
            }
        }
    }

    /// Until the round that runs is over; `None`: none runs.
    pub fn round_left(&self, now: Instant) -> Option<Duration> {
        self.round.map(|begun| (begun + round_length()).saturating_duration_since(now))
    }

    /// Asks a usable pair whether it still works: it is out of doubt with the first answer, or `Lost` follows.
    pub fn doubt(&mut self, now: Instant, id: PairId) {
        if let Some(p) = self.pairs.get_mut(&id).filter(|p| p.phase == Phase::Usable) {
            p.phase = Phase::Doubted { since: now, sent: 0 };
            p.due = Some(now);
        }
    }

    /// Data showed that a pair does not work, whatever its checks say: it waits for the next round.
    pub fn give_up(&mut self, id: PairId) {
        if let Some(p) = self.pairs.get_mut(&id) {
            p.phase = Phase::Idle(Outcome::TimedOut);
            p.due = None;
            p.outstanding.clear();
        }
    }

    /// Pairs to keep alive: the one in use, and the one that would take its place.
    pub fn keep(&mut self, pairs: [Option<PairId>; 2]) {
        self.kept = pairs;
        let due: Vec<PairId> = pairs.into_iter().flatten().collect();
        for (id, p) in &mut self.pairs {
            if p.phase == Phase::Usable {
                p.due = if due.contains(id) { p.answered.max(p.last_sent).map(|t| t + KEEP_ALIVE) } else { None };
            }
        }
    }

    /// Data went out on a pair.
    pub fn note_sent(&mut self, now: Instant, id: PairId) {
        if let Some(p) = self.pairs.get_mut(&id).filter(|p| p.phase == Phase::Usable && p.due.is_some()) {
            let flows = p.last_sent.is_some_and(|t| now < t + FLOWING);
            let stale = p.answered.is_none_or(|t| now >= t + MEASURE);
            p.last_sent = Some(now);
            p.due = Some(if flows && stale { now } else { now + KEEP_ALIVE });
        }
    }

    /// Genuine data came from an address of no pair: checks ask whether it is the peer's (protocol.md).
    pub fn handle_unknown(&mut self, now: Instant, local: Local, from: SocketAddr) {
        self.trigger(now, local, from, true, UNKNOWN_EVERY);
    }

    /// A socket of ours may reach this address: it is checked at once.
    pub fn add(&mut self, now: Instant, local: Local, remote: SocketAddr) {
        self.trigger(now, local, remote, false, PACE);
    }

    /// A check that belongs to no pair: where nobody is known to be.
    pub fn stray(&mut self, local: Local, to: SocketAddr) -> Option<Outgoing> {
        self.counter += 1;
        let (counter, tid) = (self.counter, TransactionId::nth(self.keys.mask, self.counter));
        let mut bytes = Vec::new();
        let sealed = check::request(tid, self.keys.ours.0, counter, None, &self.keys.ours.1, &mut bytes);
        sealed.then_some(Outgoing { local, to, bytes })
    }

    /// Whether a pair stands on a socket beside the node's main ones.
    pub fn has_socket(&self, socket: SocketIndex) -> bool {
        self.pairs.values().any(|p| p.local.socket == Some(socket))
    }

    /// Our addresses have changed: what was to be sent from one of them goes as the system's routes have it.
    pub fn forget_addresses(&mut self) {
        for p in self.pairs.values_mut() {
            p.local.ip = None;
        }
    }

    /// A STUN message that names our token. `true`: it was genuine.
    pub fn handle_message(&mut self, now: Instant, local: Local, from: SocketAddr, message: &[u8]) -> bool {
        match check::open(message, &self.keys.theirs.1) {
            Some(Check::Request { tid, counter, .. }) if self.window.accept(counter) => {
                self.answer(local, from, tid);
                self.trigger(now, local, from, true, PACE * 4);
                true
            }
            Some(Check::Success { tid, counter, .. }) if self.window.accept(counter) => {
                self.handle_success(now, local, from, tid)
            }
            Some(Check::Request { .. } | Check::Success { .. }) | None => false,
        }
    }

    pub fn poll_event(&mut self) -> Option<CheckEvent> {
        self.events.pop_front()
    }

    /// Answers are not waited for here: they go out in the turn in which their questions came.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let round = self.round.map(|r| r + round_length());
        self.pairs.values().filter_map(|p| p.due).chain(round).min()
    }

    /// One packet that is due. `peer`: who has named the addresses.
    pub fn poll_transmit(&mut self, now: Instant, peer: &SpiffeId, budget: &mut Budget) -> Option<Outgoing> {
        if let Some(answer) = self.answers.pop_front() {
            return Some(answer);
        }
        if self.round.is_some_and(|r| now >= r + round_length()) {
            self.round = None;
            self.events.push_back(CheckEvent::RoundEnded);
        }
        loop {
            let (&id, _) =
                self.pairs.iter().filter(|(_, p)| p.due.is_some_and(|t| t <= now)).min_by_key(|(_, p)| p.due)?;
            if let Some(out) = self.send(now, id, peer, budget) {
                return Some(out);
            }
        }
    }

    pub fn remote(&self, id: PairId) -> Option<(Local, SocketAddr)> {
        self.pairs.get(&id).map(|p| (p.local, p.remote))
    }

    pub fn rtt(&self, id: PairId) -> Option<Duration> {
        self.pairs.get(&id)?.rtt
    }

    /// The pair that packets of this address and socket belong to.
    pub fn pair_of(&self, local: Local, from: SocketAddr) -> Option<PairId> {
        self.pairs.iter().find(|(_, p)| p.remote == from && p.local.socket == local.socket).map(|(id, _)| *id)
    }

    pub fn is_usable(&self, id: PairId) -> bool {
        self.pairs.get(&id).is_some_and(|p| matches!(p.phase, Phase::Usable | Phase::Doubted { .. }))
    }

    pub fn is_in_doubt(&self, id: PairId) -> bool {
        self.pairs.get(&id).is_some_and(|p| matches!(p.phase, Phase::Doubted { .. }))
    }

    /// Pairs that carry data, with their round trips.
    pub fn usable(&self) -> impl Iterator<Item = (PairId, Duration)> {
        self.pairs.iter().filter(|(_, p)| p.phase == Phase::Usable).filter_map(|(id, p)| Some((*id, p.rtt?)))
    }

    /// Why addresses wait for their next check, and how many.
    pub fn held(&self) -> Option<(Held, usize)> {
        let held = || self.pairs.values().filter(|p| matches!(p.phase, Phase::Checking { .. })).filter_map(|p| p.held);
        Some((held().min()?, held().count()))
    }

    /// What has become of each of the peer's addresses.
    pub fn tried(&self) -> Vec<Tried> {
        let pairs = self.pairs.values().map(|p| Tried {
            local: p.local,
            candidate: Candidate { kind: p.kind, address: p.remote },
            outcome: match p.phase {
                Phase::Checking { .. } if p.held.is_some() => Outcome::Held,
                Phase::Checking { .. } => Outcome::Waiting,
                Phase::Widening { .. } | Phase::Usable | Phase::Doubted { .. } => Outcome::Answered,
                Phase::Idle(outcome) => outcome,
            },
            rtt: p.rtt,
            at: p.last_sent,
        });
        let refused = self.refused.iter().map(|(candidate, _)| Tried {
            local: Local::default(),
            candidate: *candidate,
            outcome: Outcome::Refused,
            rtt: None,
            at: None,
        });
        pairs.chain(refused).collect()
    }

    /// The same for the peer, as far as a message holds it.
    pub fn reports(&self) -> Vec<Report> {
        let report = |t: Tried| Report { candidate: t.candidate, outcome: t.outcome, rtt: t.rtt };
        self.tried().into_iter().take(MAX_REPORTS).map(report).collect()
    }

    fn insert(&mut self, remote: SocketAddr, kind: CandidateKind, local: Local, named: bool) -> Option<PairId> {
        if self.pairs.len() >= MAX_PAIRS {
            // One that came to nothing, and that the peer does not name, makes room.
            let idle =
                self.pairs.iter().find(|(_, p)| !p.named && matches!(p.phase, Phase::Idle(_) | Phase::Checking { .. }));
            let idle = *idle?.0;
            self.pairs.remove(&idle);
        }
        let id = PairId(self.next_id);
        self.next_id = self.next_id.wrapping_add(1);
        let pair = Pair {
            remote,
            kind,
            local,
            phase: Phase::Idle(Outcome::Waiting),
            due: None,
            outstanding: VecDeque::new(),
            rtt: None,
            answered: None,
            last_sent: None,
            named,
            heard: false,
            held: None,
        };
        self.pairs.insert(id, pair);
        Some(id)
    }

    fn answer(&mut self, local: Local, from: SocketAddr, tid: TransactionId) {
        if self.answers.len() >= MAX_ANSWERS {
            return;
        }
        self.counter += 1;
        let mut bytes = Vec::new();
        if check::success(tid, self.keys.ours.0, self.counter, from, &self.keys.ours.1, &mut bytes) {
            self.answers.push_back(Outgoing { local, to: from, bytes });
        }
    }

    /// The peer can be heard from `from`: our own check goes there now (RFC 8445 §7.3.1.4), or as soon as `every` has passed since the
    /// last one: that may have come to a NAT that only the peer's own check, which is here now, has opened.
    fn trigger(&mut self, now: Instant, local: Local, from: SocketAddr, heard: bool, every: Duration) {
        if permit(from).is_err() {
            return;
        }
        let id = match self.pair_of(local, from) {
            Some(id) => Some(id),
            None => self.insert(from, CandidateKind::PeerReflexive, local, false),
        };
        let Some(p) = id.and_then(|id| self.pairs.get_mut(&id)) else { return };
        p.heard |= heard;
        let at = p.outstanding.back().map_or(now, |(_, last, _)| now.max(*last + every));
        match p.phase {
            Phase::Idle(_) => {
                // Its first check now, the rest of a round after it.
                p.phase = Phase::Checking { sent: 0 };
                p.due = Some(at);
            }
            Phase::Checking { .. } => p.due = Some(p.due.map_or(at, |due| due.min(at))),
            Phase::Widening { .. } | Phase::Usable | Phase::Doubted { .. } => {}
        }
    }

    fn handle_success(&mut self, now: Instant, local: Local, from: SocketAddr, tid: TransactionId) -> bool {
        // Symmetric: the answer comes from where the question went (RFC 8445 §7.2.5.2.1).
        let Some(id) = self.pair_of(local, from) else { return false };
        let Some(p) = self.pairs.get_mut(&id) else { return false };
        let Some(at) = p.outstanding.iter().position(|(asked, _, _)| *asked == tid) else { return false };
        let Some((_, sent, wide)) = p.outstanding.remove(at) else { return false };
        let sample = now.saturating_duration_since(sent);
        p.rtt = Some(p.rtt.map_or(sample, |r| if sample < r { sample } else { (r * 7 + sample) / 8 }));
        p.answered = Some(now);
        match p.phase {
            Phase::Checking { .. } | Phase::Idle(_) if !wide => {
                p.phase = Phase::Widening { sent: 0 };
                p.due = Some(now);
            }
            Phase::Checking { .. } | Phase::Idle(_) | Phase::Widening { .. } => {
                if wide {
                    p.phase = Phase::Usable;
                    p.due = None;
                    p.outstanding.clear();
                    self.events.push_back(CheckEvent::Usable(id));
                }
            }
            Phase::Usable | Phase::Doubted { .. } => {
                p.phase = Phase::Usable;
                p.outstanding.clear();
                p.due = self.kept.contains(&Some(id)).then_some(now + KEEP_ALIVE);
            }
        }
        true
    }

    /// Sends the check of a pair that is due, or settles what its lack of answers means.
    fn send(&mut self, now: Instant, id: PairId, peer: &SpiffeId, budget: &mut Budget) -> Option<Outgoing> {
        let round = self.round.unwrap_or(now);
        let kept = self.kept.contains(&Some(id));
        let p = self.pairs.get_mut(&id)?;
        let wide = matches!(p.phase, Phase::Widening { .. });
        let mut lost = false;
        match p.phase {
            Phase::Checking { sent } => match ROUND.get(usize::from(sent)) {
                Some(_) => {
                    if let Err((why, wait)) = budget.take(now, Wanted { peer, to: p.remote, heard: p.heard }) {
                        if p.held.replace(why).is_none() {
                            budget.note_held(why);
                        }
                        p.due = Some(now + wait);
                        return None;
                    }
                    p.held = None;
                    let next = ROUND.get(usize::from(sent) + 1).map(|ms| round + Duration::from_millis(*ms));
                    p.due = Some(next.unwrap_or(now + LAST_ANSWER).max(now + PROBE_MIN));
                    p.phase = Phase::Checking { sent: sent + 1 };
                }
                None => {
                    p.phase = Phase::Idle(Outcome::TimedOut);
                    p.due = None;
                    return None;
                }
            },
            Phase::Widening { sent } if sent < WIDE_TRIES => {
                p.phase = Phase::Widening { sent: sent + 1 };
                p.due = Some(now + WIDE_EVERY.max(p.rtt.unwrap_or_default() * 2));
            }
            Phase::Widening { .. } => {
                p.phase = Phase::Idle(Outcome::Narrow);
                p.due = None;
                return None;
            }
            Phase::Usable if kept => {
                p.phase = Phase::Doubted { since: now, sent: 1 };
                p.due = Some(now + p.probe_interval());
            }
            Phase::Doubted { since, sent } if sent < PROBES || now < since + DOUBT => {
                p.phase = Phase::Doubted { since, sent: sent.saturating_add(1) };
                p.due = Some(now + p.probe_interval());
            }
            Phase::Doubted { .. } => lost = true,
            Phase::Usable | Phase::Idle(_) => {
                p.due = None;
                return None;
            }
        }
        if lost {
            p.phase = Phase::Idle(Outcome::TimedOut);
            p.due = None;
            p.outstanding.clear();
            self.events.push_back(CheckEvent::Lost(id));
            return None;
        }
        self.counter += 1;
        let (counter, tid) = (self.counter, TransactionId::nth(self.keys.mask, self.counter));
        let p = self.pairs.get_mut(&id)?;
        if p.outstanding.len() >= OUTSTANDING {
            p.outstanding.pop_front();
        }
        p.outstanding.push_back((tid, now, wide));
        p.last_sent = Some(now);
        let mut bytes = Vec::new();
        let total = wide.then_some(self.largest);
        let sealed = check::request(tid, self.keys.ours.0, counter, total, &self.keys.ours.1, &mut bytes);
        sealed.then_some(Outgoing { local: p.local, to: p.remote, bytes })
    }
}

impl Pair {
    /// Three of them are longer than a round trip, whatever that is.
    fn probe_interval(&self) -> Duration {
        let rtt = self.rtt.unwrap_or(PROBE_MAX);
        (rtt * 3 / 2).clamp(PROBE_MIN, PROBE_MAX).max(rtt / 2)
    }
}

fn round_length() -> Duration {
    Duration::from_millis(ROUND.last().copied().unwrap_or_default()) + LAST_ANSWER
}

#[cfg(test)]
#[path = "checklist_tests.rs"]
mod tests;
