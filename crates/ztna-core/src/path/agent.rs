//! Chooses the path of each datagram of one inner connection and notices when a path has died.
//!
//! Drain order: any `handle_*`, `add` or `remove`, then `poll_event` until `None`, then `poll_timeout`. What [`direct`](PathAgent::direct)
//! has to send is polled there.
//!
//! * Relay first: data flows at once, and a direct path that works takes over. The relayed path stays behind it, for long headers and
//!   for the moment when the direct one fails.
//! * A session with a relay is one tunnel path, always usable, and one forwarded path once the relay has acknowledged it.
//! * Silence while something is unacknowledged makes the active path suspect; while it is suspect both it and the best other
//!   path carry every datagram. The first packet heard ends suspicion: a suspect forwarded path is given up for its tunnel.
//! * A peer that goes back to the tunnel is followed: its forwarded direction may be what failed. A peer that leaves the direct path
//!   puts it in doubt: both carry data until checks have told.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::checklist::PairId;
use super::direct::{Direct, DirectEvent, doubled};
use super::incoming::Incoming;
use super::way::{Kinds, PathId, RelayPath};

/// Silence before a path is suspect: at least this (protocol.md, Timers), or four round trips.
pub const SUSPECT_MIN: Duration = Duration::from_millis(250);
const SUSPECT_ROUND_TRIPS: u32 = 4;
/// Silence before the whole connection counts as stalled: nothing came back although all paths were tried.
pub const STALLED_MIN: Duration = Duration::from_millis(1_000);
const STALLED_ROUND_TRIPS: u32 = 12;
/// After a forwarded path failed it is not used before this, doubling to the second (protocol.md: 30 s to 10 min for direct
/// paths; a relay's table refills within a round trip, so it starts lower).
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(600);
/// After a promotion packets of the peer may still come by the old path for this long without being taken for its switch.
const FOLLOW_GRACE: Duration = Duration::from_secs(1);
/// The end that leads waits longer: where each of the two has moved to the other's relay, one must stay for them to meet.
const LEADER_GRACE: Duration = Duration::from_secs(3);

/// The peer has left the direct path if it is heard by a relay, and not directly for this long or a round trip. Until then what a
/// relay brings was under way before the peer came here, and was overtaken: taken for a departure, each switch under a full flow
/// put the path in doubt at both ends, and for seconds every packet went twice.
const OVERTAKEN: Duration = Duration::from_millis(50);

/// Times in a row that a direct path may go silent while the relay carries data, although checks pass on it: what answers checks and
/// loses data is no path.
const UNSETTLED: u8 = 3;

/// How often a peer of which nothing is heard is told so.
const COMPLAIN_EVERY: Duration = Duration::from_millis(400);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The first path, or a better one appeared.
    Better,
    /// The active path went silent.
    Silent,
    /// The active path's session ended.
    Removed,
    /// The peer switched first.
    Followed,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Better => "better",
            Reason::Silent => "silent",
            Reason::Removed => "removed",
            Reason::Followed => "followed",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathEvent {
    /// Datagrams now go by `to`. Both ends should send something to acknowledge at once (facts.md).
    Switched { to: PathId, reason: Reason },
    /// The peer's datagrams come another way now.
    PeerSwitched { to: PathId },
    /// The active path has gone silent; another session, if there is one to be had, should be opened now.
    Suspect,
    /// All paths are silent: new flows should not be put on this connection.
    Stalled,
    /// Heard again after `Stalled`.
    Revived,
    /// The peer was sending and no longer is: something to acknowledge shows whether it still can.
    Quiet,
    /// Time to register this session's connection ID again: its forwarded path may be retried.
    Reregister { session: usize },
}

#[derive(Debug)]
struct Session {
    id: usize,
    /// Lower is preferred: round trip to the relay.
    rtt: Duration,
    forwarded: Forwarded,
    failures: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Forwarded {
    /// Not acknowledged by the relay (yet, or any more).
    No,
    Usable,
    /// Failed; to be registered again at this time.
    Failed {
        retry: Instant,
    },
    /// Registered again, waiting for the relay's word.
    Asked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Liveness {
    Alive,
    /// Something has been unacknowledged and nothing heard since this moment.
    Waiting {
        since: Instant,
    },
    Suspect {
        since: Instant,
    },
    Stalled {
        since: Instant,
    },
}

pub struct PathAgent {
    sessions: Vec<Session>,
    /// The relayed path in use, or behind the direct one.
    relay: Option<RelayPath>,
    direct: Option<Direct>,
    /// The direct path in use.
    via: Option<PairId>,
    /// Checks are asked whether the direct path still works: until they have told, both carry data.
    in_question: bool,
    unsettled: u8,
    /// When the peer is told again that nothing of it is heard.
    complain: Option<Instant>,
    peer: Option<PathId>,
    /// When the peer was last heard directly, until its having left is acted on.
    heard_direct: Option<Instant>,
    liveness: Liveness,
    incoming: Incoming,
    rtt: Duration,
    switched_at: Option<Instant>,
    /// Whether the peer is the one to follow when both ends have moved.
    leads: bool,
    /// Which of the other paths carries the next copy while the active one is in doubt.
    turn: usize,
    apart: bool,
    events: VecDeque<PathEvent>,
}

impl Default for PathAgent {
    fn default() -> Self {
        Self::new(false)
    }
}

impl PathAgent {
    /// `leads`: true at one end of the connection, false at the other.
    pub fn new(leads: bool) -> Self {
        PathAgent {
            sessions: Vec::new(),
            relay: None,
            direct: None,
            via: None,
            in_question: false,
            unsettled: 0,
            complain: None,
            peer: None,
            heard_direct: None,
            liveness: Liveness::Alive,
            incoming: Incoming::default(),
            rtt: Duration::ZERO,
            switched_at: None,
            leads,
            turn: 0,
            apart: false,
            events: VecDeque::new(),
        }
    }

    /// A session with a relay whose round trip is `rtt` can carry tunnel datagrams.
    pub fn add(&mut self, now: Instant, session: usize, rtt: Duration) {
        if self.find(session).is_none() {
            self.sessions.push(Session { id: session, rtt, forwarded: Forwarded::No, failures: 0 });
        }
        if self.relay.is_none() {
            // In place of one that ended: the peer may have lost its path as well, and waits for a packet to learn of this one.
            let reason = if self.switched_at.is_some() { Reason::Removed } else { Reason::Better };
            self.switch_to(now, RelayPath::tunnel(session), reason);
        }
    }

    /// The relay forwards raw packets to the peer on this session from now on.
    pub fn forwarded_up(&mut self, now: Instant, session: usize) {
        let Some(s) = self.sessions.iter_mut().find(|s| s.id == session) else { return };
        if matches!(s.forwarded, Forwarded::Failed { .. }) {
            return;
        }
        s.forwarded = Forwarded::Usable;
        if self.relay == Some(RelayPath::tunnel(session)) {
            self.switch_to(now, RelayPath { session, forwarded: true }, Reason::Better);
        }
    }

    /// The relay forwards no longer.
    pub fn forwarded_down(&mut self, now: Instant, session: usize) {
        if let Some(s) = self.sessions.iter_mut().find(|s| s.id == session) {
            s.forwarded = Forwarded::No;
        }
        if self.relay == Some(RelayPath { session, forwarded: true }) {
            self.switch_to(now, RelayPath::tunnel(session), Reason::Removed);
        }
    }

    /// The session ended.
    pub fn remove(&mut self, now: Instant, session: usize) {
        self.sessions.retain(|s| s.id != session);
        if self.relay.is_some_and(|a| a.session == session) {
            self.relay = None;
            if let Some(best) = self.best() {
                self.switch_to(now, best, Reason::Removed);
            }
        }
        if matches!(self.peer, Some(PathId::Relay(p)) if p.session == session) {
            self.peer = None;
        }
    }

    /// From now on direct paths are sought.
    pub fn enable_direct(&mut self, direct: Direct) {
        self.direct.get_or_insert(direct);
    }

    /// Feed it, then call [`settle_direct`](Self::settle_direct).
    pub fn direct_mut(&mut self) -> Option<&mut Direct> {
        self.direct.as_mut()
    }

    pub fn direct(&self) -> Option<&Direct> {
        self.direct.as_ref()
    }

    /// Draws the conclusions of what was fed to `direct_mut`.
    pub fn settle_direct(&mut self, now: Instant) {
        let Some(direct) = self.direct.as_mut() else { return };
        let mut events = Vec::new();
        while let Some(event) = direct.poll_event() {
            events.push(event);
        }
        for event in events {
            match event {
                DirectEvent::Use(pair) => {
                    self.via = Some(pair);
                    self.in_question = false;
                    self.unsettled = 0;
                    self.switched(now, PathId::Direct(pair), Reason::Better);
                }
                DirectEvent::Lost => self.leave_direct(now),
                DirectEvent::Doubt => self.in_question |= self.via.is_some(),
            }
        }
        let direct = self.direct.as_ref();
        if direct.is_some_and(|d| d.current().is_some_and(|p| !d.is_in_doubt(p))) {
            self.in_question = false;
        }
    }

    /// Round trip of the inner connection, for the silence limit.
    pub fn set_rtt(&mut self, rtt: Duration) {
        self.rtt = rtt;
    }

    /// Datagrams of the peer came by `path` and decrypted. `short`: with short headers, which alone say how it sends now.
    pub fn handle_received(&mut self, now: Instant, path: PathId, short: bool) {
        if matches!(path, PathId::Relay(p) if !self.has_session(p.session)) {
            return;
        }
        self.incoming.note(now, self.suspect_after());
        let was = std::mem::replace(&mut self.liveness, Liveness::Alive);
        self.complain = None;
        let before = self.peer;
        if matches!(path, PathId::Direct(_)) {
            self.heard_direct = Some(now);
        }
        if short && self.peer != Some(path) {
            if self.peer.is_some() {
                self.events.push_back(PathEvent::PeerSwitched { to: path });
            }
            self.peer = Some(path);
        }
        match was {
            Liveness::Suspect { .. } | Liveness::Stalled { .. } => {
                if matches!(was, Liveness::Stalled { .. }) {
                    self.events.push_back(PathEvent::Revived);
                }
                self.settle_suspicion(now, path, before);
            }
            Liveness::Alive | Liveness::Waiting { .. } => {
                if short {
                    self.follow(now, path);
                }
            }
        }
    }

    /// Datagrams went out. `in_flight`: the peer owes an acknowledgement.
    pub fn handle_sent(&mut self, now: Instant, in_flight: bool) {
        if let (Some(pair), Some(direct)) = (self.via, self.direct.as_mut()) {
            direct.note_sent(now, pair);
        }
        if self.is_doubtful() {
            self.turn = self.turn.wrapping_add(1);
        }
        match self.liveness {
            Liveness::Alive if in_flight => self.liveness = Liveness::Waiting { since: now },
            Liveness::Waiting { .. } if !in_flight => self.liveness = Liveness::Alive,
            Liveness::Alive | Liveness::Waiting { .. } | Liveness::Suspect { .. } | Liveness::Stalled { .. } => {}
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        match self.liveness {
            Liveness::Waiting { since } if now >= since + self.suspect_after() => {
                self.liveness = Liveness::Suspect { since };
                self.turn = 0;
                self.events.push_back(PathEvent::Suspect);
                self.question(now);
                self.complain = Some(now);
            }
            Liveness::Suspect { since } if now >= since + self.stalled_after() => {
                self.liveness = Liveness::Stalled { since };
                self.events.push_back(PathEvent::Stalled);
            }
            Liveness::Alive if self.incoming.has_stopped(now, self.suspect_after()) => {
                self.events.push_back(PathEvent::Quiet);
            }
            Liveness::Alive | Liveness::Waiting { .. } | Liveness::Suspect { .. } | Liveness::Stalled { .. } => {}
        }
        if let (Some(direct), true) = (self.direct.as_mut(), self.complain.is_some_and(|t| now >= t)) {
            // Perhaps it is only the peer's way to us that has died, and it hears us all the while.
            direct.complain();
            self.complain = Some(now + COMPLAIN_EVERY);
        }
        for s in &mut self.sessions {
            if matches!(s.forwarded, Forwarded::Failed { retry } if now >= retry) {
                s.forwarded = Forwarded::Asked;
                self.events.push_back(PathEvent::Reregister { session: s.id });
            }
        }
        if let Some(direct) = self.direct.as_mut() {
            direct.handle_timeout(now);
        }
        self.settle_direct(now);
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let live = match self.liveness {
            Liveness::Waiting { since } => Some(since + self.suspect_after()),
            Liveness::Suspect { since } => Some(since + self.stalled_after()),
            Liveness::Alive => self.incoming.due(self.suspect_after()),
            Liveness::Stalled { .. } => None,
        };
        let retry = self.sessions.iter().filter_map(|s| match s.forwarded {
            Forwarded::Failed { retry } => Some(retry),
            Forwarded::No | Forwarded::Usable | Forwarded::Asked => None,
        });
        let direct = self.direct.as_ref().and_then(Direct::poll_timeout);
        let complain = self.complain.filter(|_| self.direct.is_some());
        live.into_iter().chain(retry).chain(direct).chain(complain).min()
    }

    pub fn poll_event(&mut self) -> Option<PathEvent> {
        self.events.pop_front()
    }

    /// The path of the next datagram, and a tunnel that carries it too while the first is in doubt.
    pub fn select(&self) -> (Option<PathId>, Option<RelayPath>) {
        let also = if self.is_doubtful() && !(self.apart && self.via.is_some()) { self.other() } else { None };
        (self.active(), also)
    }

    pub fn active(&self) -> Option<PathId> {
        self.via.map(PathId::Direct).or(self.relay.map(PathId::Relay))
    }

    /// From now on no copy of what takes the direct path goes by a relay.
    pub fn keep_apart(&mut self) {
        self.apart = true;
    }

    /// The kinds of path that either end sends by: each chooses for itself.
    pub fn kinds(&self) -> Kinds {
        let own = self.active();
        let ends = [own, self.peer.or(own)];
        let any = |direct: bool| ends.iter().flatten().any(|p| matches!(p, PathId::Direct(_)) == direct);
        Kinds { direct: any(true), relay: any(false) }
    }

    /// The relayed path, in use or not: long headers take it (protocol.md).
    pub fn relay(&self) -> Option<RelayPath> {
        self.relay
    }

    pub fn is_stalled(&self) -> bool {
        matches!(self.liveness, Liveness::Stalled { .. })
    }

    /// Suspect, stalled or in question: new flows are better off elsewhere.
    pub fn is_doubtful(&self) -> bool {
        self.in_question || matches!(self.liveness, Liveness::Suspect { .. } | Liveness::Stalled { .. })
    }

    /// How long the peer has owed an answer with nothing heard on any path; zero while it answers.
    pub fn silence(&self, now: Instant) -> Duration {
        match self.liveness {
            Liveness::Suspect { since } | Liveness::Stalled { since } => now.saturating_duration_since(since),
            Liveness::Alive | Liveness::Waiting { .. } => Duration::ZERO,
        }
    }

    pub fn has_session(&self, session: usize) -> bool {
        self.find(session).is_some()
    }

    /// In the order in which they were added.
    pub fn sessions(&self) -> impl Iterator<Item = usize> {
        self.sessions.iter().map(|s| s.id)
    }

    fn find(&self, session: usize) -> Option<&Session> {
        self.sessions.iter().find(|s| s.id == session)
    }

    fn suspect_after(&self) -> Duration {
        SUSPECT_MIN.max(self.rtt * SUSPECT_ROUND_TRIPS)
    }

    fn stalled_after(&self) -> Duration {
        STALLED_MIN.max(self.rtt * STALLED_ROUND_TRIPS)
    }

    /// The tunnel through the nearest relay.
    fn best(&self) -> Option<RelayPath> {
        self.sessions.iter().min_by_key(|s| (s.rtt, s.id)).map(|nearest| RelayPath::tunnel(nearest.id))
    }

    /// The path beside a doubtful one: the tunnel of the relay behind it, then the other relays from the nearest on, in turn: more than
    /// one may have died at once.
    fn other(&self) -> Option<RelayPath> {
        let relay = self.relay?;
        let behind = relay.forwarded || self.via.is_some();
        let mut others: Vec<&Session> = self.sessions.iter().filter(|s| behind || s.id != relay.session).collect();
        others.sort_unstable_by_key(|s| (s.id != relay.session, s.rtt, s.id));
        let next = others.get(self.turn.checked_rem(others.len())?)?;
        Some(RelayPath::tunnel(next.id))
    }

    /// Asks the checks whether the direct path in use still works.
    fn question(&mut self, now: Instant) {
        if self.via.is_some()
            && let Some(direct) = self.direct.as_mut()
        {
            direct.doubt(now);
            self.in_question = true;
        }
    }

    /// The direct path is given up for the relayed one behind it.
    fn leave_direct(&mut self, now: Instant) {
        if self.via.take().is_none() {
            return;
        }
        self.in_question = false;
        self.unsettled = 0;
        if let Some(relay) = self.relay {
            self.switched(now, PathId::Relay(relay), Reason::Silent);
        }
    }

    /// Something was heard by `path` while both the active path and another carried our datagrams. `before`: the way that the peer had
    /// taken until then.
    fn settle_suspicion(&mut self, now: Instant, path: PathId, before: Option<PathId>) {
        let heard = match path {
            PathId::Direct(_) => return,
            PathId::Relay(heard) => heard,
        };
        if self.via.is_some() {
            // What the peer sends by the relay says nothing of our direct path unless it had come by that before.
            self.unsettled = self.unsettled.saturating_add(1);
            let left = matches!(before, Some(PathId::Direct(_)));
            if left || self.unsettled >= UNSETTLED {
                if let Some(direct) = self.direct.as_mut() {
                    direct.give_up(now);
                }
                self.leave_direct(now);
                // Another pair may be at hand.
                self.settle_direct(now);
            }
            return;
        }
        let Some(relay) = self.relay else { return };
        if relay.forwarded {
            self.fail_forwarded(now, relay.session);
            self.switch_to(now, RelayPath::tunnel(heard.session), Reason::Silent);
        } else if heard.session != relay.session {
            self.switch_to(now, RelayPath::tunnel(heard.session), Reason::Silent);
        }
    }

    fn follow(&mut self, now: Instant, path: PathId) {
        let (Some(relay), PathId::Relay(path)) = (self.relay, path) else { return };
        if self.via.is_some() {
            let left = self.heard_direct.is_some_and(|t| now >= t + self.rtt.max(OVERTAKEN));
            if left && !self.in_question {
                self.heard_direct = None;
                self.question(now);
            }
            return;
        }
        let across = path.session != relay.session;
        let grace = if across && self.leads { LEADER_GRACE } else { FOLLOW_GRACE };
        if self.switched_at.is_some_and(|t| now < t + grace) {
            return;
        }
        if !across {
            if relay.forwarded && !path.forwarded {
                self.fail_forwarded(now, relay.session);
                self.switch_to(now, path, Reason::Followed);
            }
        } else {
            self.switch_to(now, RelayPath::tunnel(path.session), Reason::Followed);
            if matches!(self.find(path.session), Some(s) if s.forwarded == Forwarded::Usable) {
                self.switch_to(now, RelayPath { session: path.session, forwarded: true }, Reason::Better);
            }
        }
    }

    fn fail_forwarded(&mut self, now: Instant, session: usize) {
        if let Some(s) = self.sessions.iter_mut().find(|s| s.id == session) {
            let wait = doubled(RETRY_MIN, s.failures, RETRY_MAX);
            s.failures = s.failures.saturating_add(1);
            s.forwarded = Forwarded::Failed { retry: now + wait };
        }
    }

    /// Takes another relayed path; data moves to it unless a direct one carries it.
    fn switch_to(&mut self, now: Instant, to: RelayPath, reason: Reason) {
        if self.relay == Some(to) {
            return;
        }
        self.relay = Some(to);
        if self.via.is_none() {
            self.switched(now, PathId::Relay(to), reason);
        }
    }

    fn switched(&mut self, now: Instant, to: PathId, reason: Reason) {
        self.switched_at = Some(now);
        self.events.push_back(PathEvent::Switched { to, reason });
    }
}

#[cfg(test)]
#[path = "agent_tests.rs"]
mod tests;
