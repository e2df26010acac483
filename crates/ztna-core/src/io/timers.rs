//! The loop's own deadlines in one table.

use std::collections::BTreeSet;
use std::time::Instant;

use super::listener::ForwardId;
use crate::id::FlowId;

/// Why the loop wakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// The present attempt of a dial has had its time.
    Dial(FlowId),
    /// A unix socket whose backlog was full is tried again.
    DialAgain(FlowId),
    /// A SOCKS or CONNECT client has had its time, or a refused one its time to read why.
    Handshake(usize),
    /// Idle UDP flows of a local port are closed.
    Sweep(usize),
    /// The program did not say that it has seen a reset.
    NodeReset(FlowId),
    /// Accepting had to pause.
    Accept(ForwardId),
    /// Ask those who wait for something.
    Waiters,
    /// Ask after the trust folder.
    Watch,
    /// The host's addresses have been quiet long enough, or are due for a look.
    Network,
}

#[derive(Debug, Default)]
pub(super) struct Timers(BTreeSet<(Instant, Timer)>);

impl Timers {
    pub fn set(&mut self, at: Instant, timer: Timer) {
        self.0.insert((at, timer));
    }
    pub fn clear(&mut self, at: Instant, timer: Timer) {
        self.0.remove(&(at, timer));
    }
    /// Sets a timer of which there is one at most, unless it is set already.
    pub fn set_once(&mut self, at: Instant, timer: Timer) {
        if !self.0.iter().any(|(_, t)| *t == timer) {
            self.set(at, timer);
        }
    }
    pub fn next(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }
    pub fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        if self.next()? > now {
            return None;
        }
        self.0.pop_first().map(|(_, timer)| timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn timers_come_due_in_order_and_a_cleared_one_never() {
        let now = Instant::now();
        let mut t = Timers::default();
        t.set(now + Duration::from_secs(2), Timer::Watch);
        t.set(now + Duration::from_secs(1), Timer::Network);
        t.set(now + Duration::from_secs(1), Timer::Sweep(1));
        t.clear(now + Duration::from_secs(1), Timer::Sweep(1));
        assert_eq!(t.pop_due(now), None);
        assert_eq!(t.next(), Some(now + Duration::from_secs(1)));
        let later = now + Duration::from_secs(3);
        assert_eq!(
            (t.pop_due(later), t.pop_due(later), t.pop_due(later)),
            (Some(Timer::Network), Some(Timer::Watch), None)
        );
    }
}
