//! The port burst: how two ends meet of which one sits behind a NAT that gives each destination another port (the *hard* end) and the other
//! behind one that keeps its port and lets in only whom it has sent to (the *easy* end).
//!
//! ```text
//!  hard end                                       easy end
//!    Ask ───────────────────────────────────────►   its gate: off, metered, busy, too soon?
//!    ◄──────────────────────────────────────── Agree
//!    opens 256 sockets, and each sends one check to the easy end's address: so many ports of its NAT are open to it now
//!    Open ──────────────────────────────────────►
//!    ◄──────────────────────────────────────── Begun, and 1,024 checks to ports that it guesses, one a millisecond
//!    the first that gets in names the socket that stays; the others are closed, and the two go on as any pair does
//! ```
//!
//! Both sets of ports are drawn from 64,512: with the usual numbers they meet 98 times of 100 (nat-lab.md has it measured).
//!
//! Drain order: any `handle_*`, `set_*`, `heard` or `cancel`, then `poll_action` until `None`, `poll_signal` and `poll_transmit` until
//! `None`, then `poll_timeout`.

mod gate;
mod guess;
mod sides;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::checklist::Local;
use crate::id::SpiffeId;
use crate::role::SocketIndex;
use crate::wire::path_signal::{BurstRefusal, BurstStep};

use guess::Pace;

pub use gate::{BurstSettings, EVERY, Gate, MOST_CHECKS};
pub use sides::{Part, Sides};

/// From the start of a round to the first burst: checks at 0, 200, 500 and 1,000 ms, and a long round trip.
const RIPE: Duration = Duration::from_millis(1_500);
/// A step that is not answered is said again, so many times.
const SAY_EVERY: Duration = Duration::from_millis(250);
const SAYINGS: u8 = 8;
/// The easy end waits for the sockets of the hard one, and each of them for the last answers, this long.
const PATIENCE: Duration = Duration::from_secs(2);
/// Before an end that could not take part, or did not know enough, is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// Packets a millisecond: of the hard end, whose sockets should all have sent before the first guess comes, and of the easy one.
const OPENING: u16 = 4;
const GUESSING: u16 = 1;
/// Where the system gives fewer sockets than these, they are not worth it: one burst of four would meet.
const FEWEST: usize = 16;
/// Signals and actions that wait.
const WAITING: usize = 8;

/// What the loop is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BurstAction {
    /// [`sockets_opened`](Burst::sockets_opened) follows.
    Open {
        count: usize,
    },
    Close {
        first: SocketIndex,
        count: usize,
    },
    /// This one is the path now, to this address.
    Keep {
        socket: SocketIndex,
        to: SocketAddr,
    },
    /// The burst is over.
    Over(BurstOutcome),
}

/// What the last burst has come to, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BurstOutcome {
    Running,
    Met,
    /// Nothing got in.
    Missed,
    /// The other end does not answer: it knows of no bursts, perhaps.
    Unanswered,
    /// The system gave too few sockets.
    NoSockets,
    RefusedHere(BurstRefusal),
    RefusedThere(BurstRefusal),
    /// A path came up without it.
    Needless,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Rest,
    /// Hard: said so often.
    Asking {
        to: SocketAddr,
        said: u8,
        due: Instant,
    },
    /// Hard: the other end has agreed, and so many sockets are wanted.
    Opening {
        to: SocketAddr,
        checks: u16,
        count: usize,
        wanted: bool,
    },
    /// Hard: sockets are open, and `next` of them have sent.
    Opened {
        to: SocketAddr,
        checks: u16,
        first: SocketIndex,
        count: usize,
        next: usize,
        pace: Pace,
        due: Option<Instant>,
        until: Instant,
    },
    /// Easy: waits for the sockets of the other end.
    Agreed {
        attempt: u64,
        to: IpAddr,
        checks: u16,
        until: Instant,
    },
    /// Easy: so many have been sent.
    Guessing {
        attempt: u64,
        to: IpAddr,
        checks: u16,
        sent: u16,
        pace: Pace,
        until: Instant,
    },
}

impl BurstOutcome {
    /// As metrics name it.
    pub fn as_str(self) -> &'static str {
        match self {
            BurstOutcome::Running => "running",
            BurstOutcome::Met => "met",
            BurstOutcome::Missed => "missed",
            BurstOutcome::Unanswered => "unanswered",
            BurstOutcome::NoSockets => "no-sockets",
            BurstOutcome::RefusedHere(_) | BurstOutcome::RefusedThere(_) => "refused",
            BurstOutcome::Needless => "needless",
        }
    }
}

/// Of one inner connection.
pub struct Burst {
    /// Where the guesses begin: not for a stranger to know.
    seed: u64,
    sides: Sides,
    phase: Phase,
    attempt: u64,
    /// Not before this: ordinary checks come first.
    ripe: Option<Instant>,
    /// Nor before this: the last one is too near.
    again: Option<Instant>,
    /// The other end's wish, which the gate has not judged yet.
    asked: Option<u64>,
    signals: VecDeque<(u64, BurstStep)>,
    actions: VecDeque<BurstAction>,
    last: Option<BurstOutcome>,
}

impl Burst {
    /// `seed`: random.
    pub fn new(seed: u64) -> Self {
        Burst {
            seed,
            sides: Sides::default(),
            phase: Phase::Rest,
            attempt: 0,
            ripe: None,
            again: None,
            asked: None,
            signals: VecDeque::new(),
            actions: VecDeque::new(),
            last: None,
        }
    }

    /// What is known of the two NATs.
    pub fn sides(&mut self) -> &mut Sides {
        &mut self.sides
    }

    /// Ordinary checks begin anew.
    pub fn restart(&mut self, now: Instant) {
        self.ripe = Some(now + RIPE);
    }

    /// The other end's address, where it is time for us to ask for a burst.
    pub fn due(&self, now: Instant) -> Option<SocketAddr> {
        let to = self.may_ask()?;
        self.wake().is_some_and(|t| now >= t).then_some(to)
    }

    /// A path that an earlier burst opened may serve; a new one has to wait for it.
    pub fn hold(&mut self, now: Instant) {
        self.again = Some(now + ASK_AGAIN);
    }

    /// What the last one has come to, or this one.
    pub fn outcome(&self) -> Option<BurstOutcome> {
        if self.is_running() { Some(BurstOutcome::Running) } else { self.last }
    }

    pub fn is_running(&self) -> bool {
        !matches!(self.phase, Phase::Rest)
    }

    /// Whether a socket is one of those that wait for a guess.
    pub fn owns(&self, socket: SocketIndex) -> bool {
        matches!(self.phase, Phase::Opened { first, count, .. } if (first..first + count).contains(&socket))
    }

    /// The other end's word.
    pub fn handle_signal(&mut self, now: Instant, attempt: u64, step: BurstStep) {
        match (step, self.phase) {
            (BurstStep::Ask, Phase::Agreed { attempt: agreed, checks, .. }) if agreed == attempt => {
                self.say(attempt, BurstStep::Agree { checks });
            }
            (BurstStep::Open, Phase::Agreed { attempt: agreed, to, checks, .. }) if agreed == attempt => {
                let until = now + guess::duration(checks, GUESSING) + PATIENCE;
                let pace = Pace::new(now, GUESSING);
                self.phase = Phase::Guessing { attempt, to, checks, sent: 0, pace, until };
                self.say(attempt, BurstStep::Begun);
            }
            (BurstStep::Open, Phase::Guessing { attempt: agreed, .. }) if agreed == attempt => {
                self.say(attempt, BurstStep::Begun);
            }
            (BurstStep::Ask, Phase::Rest) => self.asked = Some(attempt),
            (BurstStep::Ask, _) => self.say(attempt, BurstStep::Refuse(BurstRefusal::Busy)),
            (BurstStep::Agree { checks }, Phase::Asking { to, .. }) if attempt == self.attempt => {
                self.phase = Phase::Opening { to, checks, count: 0, wanted: false };
            }
            (BurstStep::Begun, Phase::Opened { checks, .. }) if attempt == self.attempt => {
                if let Phase::Opened { due, until, .. } = &mut self.phase
                    && due.take().is_some()
                {
                    *until = now + guess::duration(checks.min(MOST_CHECKS), GUESSING) + PATIENCE;
                }
            }
            (BurstStep::Refuse(why), Phase::Asking { .. }) if attempt == self.attempt => {
                let wait = match why {
                    BurstRefusal::Busy | BurstRefusal::Unsuitable => ASK_AGAIN,
                    BurstRefusal::Off | BurstRefusal::Metered | BurstRefusal::TooSoon => EVERY,
                };
                self.finish(now, BurstOutcome::RefusedThere(why), wait);
            }
            (BurstStep::Refuse(why), Phase::Agreed { attempt: agreed, .. }) if agreed == attempt => {
                self.finish(now, BurstOutcome::RefusedThere(why), EVERY);
            }
            // The end that would have asked says why it does not.
            (BurstStep::Refuse(why), Phase::Rest) => self.last = Some(BurstOutcome::RefusedThere(why)),
            (BurstStep::Agree { .. } | BurstStep::Refuse(_) | BurstStep::Open | BurstStep::Begun, _) => {}
        }
    }

    /// The loop's answer to [`BurstAction::Open`]: none where `count` is 0.
    pub fn sockets_opened(&mut self, now: Instant, first: SocketIndex, count: usize) {
        let Phase::Opening { to, checks, count: asked, .. } = self.phase else {
            if count > 0 {
                self.actions.push_back(BurstAction::Close { first, count });
            }
            return;
        };
        if count > 0 {
            let (pace, until) = (Pace::new(now, OPENING), now + SAY_EVERY * SAYINGS.into());
            self.phase = Phase::Opened { to, checks, first, count, next: 0, pace, due: Some(now), until };
        } else if asked / 2 >= FEWEST {
            self.phase = Phase::Opening { to, checks, count: asked / 2, wanted: false };
        } else {
            self.say(self.attempt, BurstStep::Refuse(BurstRefusal::Busy));
            self.finish(now, BurstOutcome::NoSockets, EVERY);
        }
    }

    /// A genuine check or answer came in.
    pub fn heard(&mut self, now: Instant, local: Local, from: SocketAddr) {
        match self.phase {
            Phase::Opened { to, first, count, .. } if from.ip() == to.ip() => {
                let winner = local.socket.filter(|s| (first..first + count).contains(s));
                self.close(first, count, winner);
                if let Some(socket) = winner {
                    self.actions.push_back(BurstAction::Keep { socket, to: from });
                }
                self.finish(now, BurstOutcome::Met, EVERY);
            }
            Phase::Guessing { to, .. } if from.ip() == to => self.finish(now, BurstOutcome::Met, EVERY),
            Phase::Rest
            | Phase::Asking { .. }
            | Phase::Opening { .. }
            | Phase::Opened { .. }
            | Phase::Agreed { .. }
            | Phase::Guessing { .. } => {}
        }
    }

    /// There is a direct path.
    pub fn cancel(&mut self, now: Instant) {
        match self.phase {
            Phase::Rest => return,
            Phase::Opened { first, count, .. } => self.close(first, count, None),
            Phase::Asking { .. } | Phase::Opening { .. } | Phase::Agreed { .. } | Phase::Guessing { .. } => {}
        }
        self.finish(now, BurstOutcome::Needless, ASK_AGAIN);
    }

    /// `gate`: the node's. `ready`: there is no direct path, and the other end knows our addresses.
    pub fn poll_action(
        &mut self,
        now: Instant,
        gate: &mut Gate,
        owner: usize,
        peer: &SpiffeId,
        ready: bool,
    ) -> Option<BurstAction> {
        if let Some(attempt) = self.asked.take() {
            self.judge(now, gate, owner, peer, ready, attempt);
        }
        if ready && let Some(to) = self.due(now) {
            self.ask(now, gate, owner, peer, to);
        }
        if let Phase::Opening { to, count, wanted, .. } = &mut self.phase
            && !*wanted
        {
            *wanted = true;
            if *count == 0 {
                *count = gate.settings().sockets;
                gate.spend(now, peer, to.ip());
            }
            return Some(BurstAction::Open { count: *count });
        }
        if !self.is_running() {
            gate.end(owner);
        }
        self.actions.pop_front()
    }

    /// The attempt and the step to tell the other end.
    pub fn poll_signal(&mut self) -> Option<(u64, BurstStep)> {
        self.signals.pop_front()
    }

    /// From where to where a check is to go now.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<(Local, SocketAddr)> {
        match &mut self.phase {
            Phase::Opened { to, first, count, next, pace, .. } if *next < *count => {
                if !pace.take(now) {
                    return None;
                }
                let socket = *first + *next;
                *next += 1;
                Some((Local { socket: Some(socket), ip: None }, *to))
            }
            Phase::Guessing { attempt, to, checks, sent, pace, .. } if *sent < *checks => {
                if !pace.take(now) {
                    return None;
                }
                let port = guess::port(self.seed.wrapping_add(*attempt), *sent);
                *sent += 1;
                Some((Local::default(), SocketAddr::new(*to, port)))
            }
            Phase::Rest
            | Phase::Asking { .. }
            | Phase::Opening { .. }
            | Phase::Opened { .. }
            | Phase::Agreed { .. }
            | Phase::Guessing { .. } => None,
        }
    }

    /// `ready`: as for [`poll_action`](Self::poll_action).
    pub fn poll_timeout(&self, ready: bool) -> Option<Instant> {
        match self.phase {
            Phase::Rest => self.may_ask().filter(|_| ready).and_then(|_| self.wake()),
            Phase::Asking { due, .. } => Some(due),
            Phase::Opening { .. } => None,
            Phase::Opened { count, next, pace, .. } if next < count => Some(pace.due()),
            Phase::Opened { due, until, .. } => Some(due.unwrap_or(until).min(until)),
            Phase::Agreed { until, .. } => Some(until),
            Phase::Guessing { checks, sent, pace, .. } if sent < checks => Some(pace.due()),
            Phase::Guessing { until, .. } => Some(until),
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::Asking { said, due, .. } if now >= *due => {
                if *said >= SAYINGS {
                    return self.finish(now, BurstOutcome::Unanswered, EVERY);
                }
                *said += 1;
                *due = now + SAY_EVERY;
                self.say(self.attempt, BurstStep::Ask);
            }
            Phase::Opened { first, count, until, .. } if now >= *until => {
                let (first, count) = (*first, *count);
                self.close(first, count, None);
                self.finish(now, BurstOutcome::Missed, EVERY);
            }
            Phase::Opened { count, next, due: Some(due), .. } if *next >= *count && now >= *due => {
                *due = now + SAY_EVERY;
                self.say(self.attempt, BurstStep::Open);
            }
            Phase::Agreed { until, .. } | Phase::Guessing { until, .. } if now >= *until => {
                self.finish(now, BurstOutcome::Missed, EVERY);
            }
            Phase::Rest
            | Phase::Asking { .. }
            | Phase::Opening { .. }
            | Phase::Opened { .. }
            | Phase::Agreed { .. }
            | Phase::Guessing { .. } => {}
        }
    }

    /// Where we are the hard end, and nothing is going on.
    fn may_ask(&self) -> Option<SocketAddr> {
        match (self.phase, self.sides.part()) {
            (Phase::Rest, Some(Part::Hard(to))) => Some(to),
            (_, _) => None,
        }
    }

    fn wake(&self) -> Option<Instant> {
        self.ripe.map(|ripe| self.again.map_or(ripe, |again| ripe.max(again)))
    }

    /// The hard end begins.
    fn ask(&mut self, now: Instant, gate: &mut Gate, owner: usize, peer: &SpiffeId, to: SocketAddr) {
        self.attempt += 1;
        match gate.begin(now, owner, peer, to.ip()) {
            Ok(()) => {
                self.phase = Phase::Asking { to, said: 1, due: now + SAY_EVERY };
                self.say(self.attempt, BurstStep::Ask);
            }
            Err((why, wait)) => {
                self.again = Some(now + wait);
                self.last = Some(BurstOutcome::RefusedHere(why));
                match why {
                    BurstRefusal::Off | BurstRefusal::Metered => self.say(self.attempt, BurstStep::Refuse(why)),
                    BurstRefusal::Busy | BurstRefusal::TooSoon | BurstRefusal::Unsuitable => {}
                }
            }
        }
    }

    /// The easy end was asked.
    fn judge(&mut self, now: Instant, gate: &mut Gate, owner: usize, peer: &SpiffeId, ready: bool, attempt: u64) {
        let to = match self.sides.part() {
            Some(Part::Easy(to)) if ready => to,
            Some(Part::Easy(_) | Part::Hard(_)) | None => {
                return self.say(attempt, BurstStep::Refuse(BurstRefusal::Unsuitable));
            }
        };
        match gate.begin(now, owner, peer, to) {
            Ok(()) => {
                // Counted at once: who asks and does not go on has had its turn.
                gate.spend(now, peer, to);
                let checks = gate.settings().checks;
                self.phase = Phase::Agreed { attempt, to, checks, until: now + PATIENCE * 2 };
                self.say(attempt, BurstStep::Agree { checks });
            }
            Err((why, _)) => {
                self.last = Some(BurstOutcome::RefusedHere(why));
                self.say(attempt, BurstStep::Refuse(why));
            }
        }
    }

    fn say(&mut self, attempt: u64, step: BurstStep) {
        if self.signals.len() < WAITING {
            self.signals.push_back((attempt, step));
        }
    }

    /// Closes the sockets of a burst but one.
    fn close(&mut self, first: SocketIndex, count: usize, but: Option<SocketIndex>) {
        let end = first + count;
        let runs = match but {
            Some(kept) => [(first, kept), (kept + 1, end)],
            None => [(first, end), (end, end)],
        };
        let runs = runs.into_iter().filter(|(from, to)| from < to);
        self.actions.extend(runs.map(|(from, to)| BurstAction::Close { first: from, count: to - from }));
    }

    fn finish(&mut self, now: Instant, outcome: BurstOutcome, wait: Duration) {
        self.phase = Phase::Rest;
        self.again = Some(now + wait);
        self.last = Some(outcome);
        self.actions.push_back(BurstAction::Over(outcome));
    }
}

#[cfg(test)]
mod tests;
