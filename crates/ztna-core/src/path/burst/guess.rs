//! Ports to guess, and when.

use std::time::{Duration, Instant};

/// Ports that NATs give (RFC 4787 §4.2.2: not the well-known ones), as an offset and a number of them.
const FIRST: u16 = 1_024;
const PORTS: u16 = u16::MAX - FIRST + 1;
/// Near `PORTS` by the golden ratio, and without a common divisor: the guesses never repeat and leave no large gap, so that a NAT that gives
/// neighbouring ports to neighbouring sockets is met sooner than by chance.
const STEP: u16 = 39_871;

/// The `n`th guess of those that begin anywhere at `start`.
pub fn port(start: u64, n: u16) -> u16 {
    let offset = (start % u64::from(PORTS) + u64::from(n) * u64::from(STEP)) % u64::from(PORTS);
    // Below `PORTS`, so that it fits.
    FIRST.saturating_add(offset as u16)
}

/// So many at once, every so often: fewer wake-ups than one a packet.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    due: Instant,
    left: u16,
    batch: u16,
}

/// Between two batches.
const BATCH_EVERY: Duration = Duration::from_millis(4);

impl Pace {
    /// `a_millisecond`: packets, on average.
    pub fn new(now: Instant, a_millisecond: u16) -> Pace {
        let batch = a_millisecond.saturating_mul(BATCH_EVERY.as_millis() as u16);
        Pace { due: now, left: batch, batch }
    }

    pub fn due(&self) -> Instant {
        self.due
    }

    /// Whether one more may go now.
    pub fn take(&mut self, now: Instant) -> bool {
        if now < self.due {
            return false;
        }
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            self.left = self.batch;
            // A loop that was late by a little catches up; one that stood still does not send it all at once.
            let next = self.due + BATCH_EVERY;
            self.due = now.checked_sub(BATCH_EVERY).map_or(next, |late| next.max(late));
        }
        true
    }
}

/// How long so many packets take.
pub fn duration(packets: u16, a_millisecond: u16) -> Duration {
    Duration::from_millis(u64::from(packets.div_ceil(a_millisecond.max(1))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_port_is_guessed_twice_and_none_below_1024() {
        for start in [0, 1, 64_511, 64_512, u64::MAX] {
            let all: BTreeSet<u16> = (0..PORTS).map(|n| port(start, n)).collect();
            assert_eq!(all.len(), usize::from(PORTS));
            assert_eq!((all.first(), all.last()), (Some(&FIRST), Some(&u16::MAX)));
        }
    }

    #[test]
    fn a_run_of_256_neighbouring_ports_is_always_met_by_1024_guesses() {
        let guesses: BTreeSet<u16> = (0..1_024).map(|n| port(7, n)).collect();
        for first in (FIRST..=u16::MAX - 255).step_by(100) {
            assert!(guesses.range(first..=first + 255).next().is_some(), "{first}");
        }
    }

    #[test]
    fn packets_keep_their_pace_whether_the_clock_ticks_finely_or_coarsely_and_a_pause_brings_no_flood() {
        for tick in [1, 3, 5] {
            let start = Instant::now();
            let mut pace = Pace::new(start, 1);
            let at = |ms: u64| start + Duration::from_millis(ms);
            let sent: usize = (0..1_000 / tick).map(|n| (0..100).filter(|_| pace.take(at(n * tick))).count()).sum();
            assert!((950..=1_008).contains(&sent), "tick {tick}: {sent}");
            let after_pause = (0..1_000).filter(|_| pace.take(at(9_000))).count();
            assert!(after_pause <= 12, "{after_pause}");
        }
    }
}
