//! Chooses the path of each datagram of one inner connection and notices when a path has died.
//!
//! Drain order: any `handle_*`, `add` or `remove`, then `poll_event` until `None`, then `poll_timeout`.
//!
//! * A session with a relay is one tunnel path, always usable, and one forwarded path once the relay has acknowledged it.
//! * Silence while something is unacknowledged makes the active path suspect; while it is suspect both it and the best other
//!   path carry every datagram. The first packet heard ends suspicion: a suspect forwarded path is given up for its tunnel.
//! * A peer that goes back to the tunnel is followed: its forwarded direction may be what failed.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

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

/// One way through a relay session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathId {
    pub session: usize,
    pub forwarded: bool,
}

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
    /// Time to register this session's connection ID again: its forwarded path may be retried.
    Reregister { session: usize },
}

#[derive(Debug)]
struct Session {
    id: usize,
    /// Lower is preferred: round trip to the relay.
    rtt: Duration,
    forwarded: Forwarded,
    last_heard: Option<Instant>,
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

#[derive(Debug)]
pub struct PathAgent {
    sessions: Vec<Session>,
    active: Option<PathId>,
    peer: Option<PathId>,
    liveness: Liveness,
    rtt: Duration,
    switched_at: Option<Instant>,
    /// Whether the peer is the one to follow when both ends have moved.
    leads: bool,
    /// Which of the other paths carries the next copy while the active one is in doubt.
    turn: usize,
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
            active: None,
            peer: None,
            liveness: Liveness::Alive,
            rtt: Duration::ZERO,
            switched_at: None,
            leads,
            turn: 0,
            events: VecDeque::new(),
        }
    }

    /// A session with a relay whose round trip is `rtt` can carry tunnel datagrams.
    pub fn add(&mut self, now: Instant, session: usize, rtt: Duration) {
        if self.find(session).is_none() {
            self.sessions.push(Session { id: session, rtt, forwarded: Forwarded::No, last_heard: None, failures: 0 });
        }
        if self.active.is_none() {
            // In place of one that ended: the peer may have lost its path as well, and waits for a packet to learn of this one.
            let reason = if self.switched_at.is_some() { Reason::Removed } else { Reason::Better };
            self.switch_to(now, PathId { session, forwarded: false }, reason);
        }
    }

    /// The relay forwards raw packets to the peer on this session from now on.
    pub fn forwarded_up(&mut self, now: Instant, session: usize) {
        let Some(s) = self.sessions.iter_mut().find(|s| s.id == session) else { return };
        if matches!(s.forwarded, Forwarded::Failed { .. }) {
            return;
        }
        s.forwarded = Forwarded::Usable;
        if self.active == Some(PathId { session, forwarded: false }) {
            self.switch_to(now, PathId { session, forwarded: true }, Reason::Better);
        }
    }

    /// The relay forwards no longer.
    pub fn forwarded_down(&mut self, now: Instant, session: usize) {
        if let Some(s) = self.sessions.iter_mut().find(|s| s.id == session) {
            s.forwarded = Forwarded::No;
        }
        if self.active == Some(PathId { session, forwarded: true }) {
            self.switch_to(now, PathId { session, forwarded: false }, Reason::Removed);
        }
    }

    /// The session ended.
    pub fn remove(&mut self, now: Instant, session: usize) {
        self.sessions.retain(|s| s.id != session);
        if self.active.is_some_and(|a| a.session == session) {
            self.active = None;
            if let Some(best) = self.best() {
                self.switch_to(now, best, Reason::Removed);
            }
        }
        if self.peer.is_some_and(|p| p.session == session) {
            self.peer = None;
        }
    }

    /// Round trip of the inner connection, for the silence limit.
    pub fn set_rtt(&mut self, rtt: Duration) {
        self.rtt = rtt;
    }

    /// Datagrams of the peer came by `path` and decrypted. `short`: with short headers, which alone say how it sends now.
    pub fn handle_received(&mut self, now: Instant, path: PathId, short: bool) {
        let Some(s) = self.sessions.iter_mut().find(|s| s.id == path.session) else { return };
        s.last_heard = Some(now);
        let was = std::mem::replace(&mut self.liveness, Liveness::Alive);
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
                self.settle_suspicion(now, path);
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
            }
            Liveness::Suspect { since } if now >= since + self.stalled_after() => {
                self.liveness = Liveness::Stalled { since };
                self.events.push_back(PathEvent::Stalled);
            }
            Liveness::Alive | Liveness::Waiting { .. } | Liveness::Suspect { .. } | Liveness::Stalled { .. } => {}
        }
        for s in &mut self.sessions {
            if matches!(s.forwarded, Forwarded::Failed { retry } if now >= retry) {
                s.forwarded = Forwarded::Asked;
                self.events.push_back(PathEvent::Reregister { session: s.id });
            }
        }
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let live = match self.liveness {
            Liveness::Waiting { since } => Some(since + self.suspect_after()),
            Liveness::Suspect { since } => Some(since + self.stalled_after()),
            Liveness::Alive | Liveness::Stalled { .. } => None,
        };
        let retry = self.sessions.iter().filter_map(|s| match s.forwarded {
            Forwarded::Failed { retry } => Some(retry),
            Forwarded::No | Forwarded::Usable | Forwarded::Asked => None,
        });
        live.into_iter().chain(retry).min()
    }

    pub fn poll_event(&mut self) -> Option<PathEvent> {
        self.events.pop_front()
    }

    /// The path of the next datagram, and a second one that carries it too while the first is suspect.
    pub fn select(&self) -> (Option<PathId>, Option<PathId>) {
        let also = match self.liveness {
            Liveness::Suspect { .. } | Liveness::Stalled { .. } => self.other(),
            Liveness::Alive | Liveness::Waiting { .. } => None,
        };
        (self.active, also)
    }

    pub fn active(&self) -> Option<PathId> {
        self.active
    }

    pub fn is_stalled(&self) -> bool {
        matches!(self.liveness, Liveness::Stalled { .. })
    }

    /// Suspect or stalled: new flows are better off elsewhere.
    pub fn is_doubtful(&self) -> bool {
        matches!(self.liveness, Liveness::Suspect { .. } | Liveness::Stalled { .. })
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
    fn best(&self) -> Option<PathId> {
        let nearest = self.sessions.iter().min_by_key(|s| (s.rtt, s.id))?;
        Some(PathId { session: nearest.id, forwarded: false })
    }

    /// The path beside a doubtful one: the tunnel of the same session for a forwarded path, then the other relays from the
    /// nearest on, in turn: more than one relay may have died at once.
    fn other(&self) -> Option<PathId> {
        let active = self.active?;
        let mut others: Vec<&Session> =
            self.sessions.iter().filter(|s| active.forwarded || s.id != active.session).collect();
        others.sort_unstable_by_key(|s| (s.id != active.session, s.rtt, s.id));
        let next = others.get(self.turn.checked_rem(others.len())?)?;
        Some(PathId { session: next.id, forwarded: false })
    }

    /// Something was heard by `path` while both the active path and another carried our datagrams.
    fn settle_suspicion(&mut self, now: Instant, path: PathId) {
        let Some(active) = self.active else { return };
        if active.forwarded {
            self.fail_forwarded(now, active.session);
            self.switch_to(now, PathId { session: path.session, forwarded: false }, Reason::Silent);
        } else if path.session != active.session {
            self.switch_to(now, PathId { session: path.session, forwarded: false }, Reason::Silent);
        }
    }

    fn follow(&mut self, now: Instant, path: PathId) {
        let Some(active) = self.active else { return };
        let across = path.session != active.session;
        let grace = if across && self.leads { LEADER_GRACE } else { FOLLOW_GRACE };
        if self.switched_at.is_some_and(|t| now < t + grace) {
            return;
        }
        if !across {
            if active.forwarded && !path.forwarded {
                self.fail_forwarded(now, active.session);
                self.switch_to(now, path, Reason::Followed);
            }
        } else {
            self.switch_to(now, PathId { session: path.session, forwarded: false }, Reason::Followed);
            if matches!(self.find(path.session), Some(s) if s.forwarded == Forwarded::Usable) {
                self.switch_to(now, PathId { session: path.session, forwarded: true }, Reason::Better);
            }
        }
    }

    fn fail_forwarded(&mut self, now: Instant, session: usize) {
        if let Some(s) = self.sessions.iter_mut().find(|s| s.id == session) {
            let wait = RETRY_MIN.saturating_mul(1 << s.failures.min(10)).min(RETRY_MAX);
            s.failures = s.failures.saturating_add(1);
            s.forwarded = Forwarded::Failed { retry: now + wait };
        }
    }

    fn switch_to(&mut self, now: Instant, to: PathId, reason: Reason) {
        if self.active != Some(to) {
            self.active = Some(to);
            self.switched_at = Some(now);
            self.events.push_back(PathEvent::Switched { to, reason });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TUNNEL: PathId = PathId { session: 1, forwarded: false };
    const FORWARDED: PathId = PathId { session: 1, forwarded: true };
    const OTHER: PathId = PathId { session: 2, forwarded: false };

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn relayed(now: Instant) -> PathAgent {
        let mut a = PathAgent::new(true);
        a.add(now, 1, ms(10));
        a.forwarded_up(now, 1);
        while a.poll_event().is_some() {}
        a
    }

    #[test]
    fn data_flows_by_the_tunnel_at_once_and_by_forwarding_once_it_is_acknowledged() {
        let t = Instant::now();
        let mut a = PathAgent::new(true);
        a.add(t, 1, ms(10));
        assert_eq!(a.select(), (Some(TUNNEL), None));
        a.forwarded_up(t, 1);
        assert_eq!(a.select(), (Some(FORWARDED), None));
    }

    #[test]
    fn silence_makes_the_path_suspect_and_both_carry_data() {
        let t = Instant::now();
        let mut a = relayed(t);
        a.handle_sent(t, true);
        assert_eq!(a.poll_timeout(), Some(t + ms(250)));
        a.handle_timeout(t + ms(250));
        assert_eq!(a.poll_event(), Some(PathEvent::Suspect));
        assert_eq!(a.select(), (Some(FORWARDED), Some(TUNNEL)));
    }

    #[test]
    fn four_round_trips_are_waited_for_on_a_slow_path() {
        let t = Instant::now();
        let mut a = relayed(t);
        a.set_rtt(ms(200));
        a.handle_sent(t, true);
        a.handle_timeout(t + ms(700));
        assert_eq!(a.select(), (Some(FORWARDED), None));
        a.handle_timeout(t + ms(800));
        assert_eq!(a.select(), (Some(FORWARDED), Some(TUNNEL)));
    }

    #[test]
    fn acknowledgements_alone_never_make_a_path_suspect() {
        let t = Instant::now();
        let mut a = relayed(t);
        a.handle_sent(t, false);
        assert_eq!(a.poll_timeout(), None);
    }

    #[test]
    fn a_failed_forwarded_path_gives_way_to_its_tunnel_and_is_tried_again_later() {
        let t = Instant::now();
        let mut a = relayed(t);
        a.handle_sent(t, true);
        a.handle_timeout(t + ms(250));
        a.handle_received(t + ms(260), TUNNEL, true);
        assert_eq!(a.active(), Some(TUNNEL));
        while a.poll_event().is_some() {}
        a.forwarded_up(t + ms(270), 1);
        assert_eq!(a.active(), Some(TUNNEL), "not before its time");
        a.handle_timeout(t + ms(1_260));
        assert_eq!(a.poll_event(), Some(PathEvent::Reregister { session: 1 }));
        a.forwarded_up(t + ms(1_300), 1);
        assert_eq!(a.active(), Some(FORWARDED));
    }

    #[test]
    fn a_peer_that_went_back_to_the_tunnel_is_followed() {
        let t = Instant::now();
        let mut a = relayed(t);
        a.handle_received(t + ms(10), FORWARDED, true);
        a.handle_received(t + ms(1_500), TUNNEL, true);
        assert_eq!(a.active(), Some(TUNNEL));
    }

    #[test]
    fn stragglers_after_a_promotion_are_not_taken_for_the_peers_switch() {
        let t = Instant::now();
        let mut a = relayed(t);
        a.handle_received(t + ms(100), TUNNEL, true);
        assert_eq!(a.active(), Some(FORWARDED));
    }

    #[test]
    fn a_dead_relay_hands_over_to_the_session_at_another_one() {
        let t = Instant::now();
        let mut a = relayed(t);
        a.add(t, 2, ms(30));
        a.forwarded_down(t, 1);
        a.handle_sent(t, true);
        a.handle_timeout(t + ms(250));
        assert_eq!(a.select(), (Some(TUNNEL), Some(OTHER)));
        a.handle_received(t + ms(300), OTHER, true);
        assert_eq!(a.select(), (Some(OTHER), None));
    }

    #[test]
    fn a_connection_silent_on_all_paths_is_stalled_until_it_is_heard_again() {
        let t = Instant::now();
        let mut a = relayed(t);
        a.handle_sent(t, true);
        a.handle_timeout(t + ms(250));
        a.handle_timeout(t + ms(1_000));
        assert!(a.is_stalled());
        a.handle_received(t + ms(5_000), TUNNEL, true);
        assert!(!a.is_stalled());
    }

    #[test]
    fn a_session_after_a_time_without_any_is_a_switch_that_the_peer_must_hear_of() {
        let t = Instant::now();
        let mut a = relayed(t);
        a.remove(t, 1);
        a.add(t, 2, ms(10));
        let last = std::iter::from_fn(|| a.poll_event()).last();
        assert_eq!(last, Some(PathEvent::Switched { to: OTHER, reason: Reason::Removed }));
    }

    #[test]
    fn the_active_session_ending_moves_to_another_or_to_none() {
        let t = Instant::now();
        let mut a = relayed(t);
        a.add(t, 2, ms(30));
        a.remove(t, 1);
        assert_eq!(a.active(), Some(OTHER));
        a.remove(t, 2);
        assert_eq!(a.select(), (None, None));
    }
}
