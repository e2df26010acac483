//! Reconnect delays: exponential with full jitter.

use std::time::Duration;

/// First delay's ceiling and the last one's (protocol.md, Timers).
pub const MIN: Duration = Duration::from_millis(100);
pub const MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Default, Clone)]
pub struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The next delay: uniform between zero and a ceiling that doubles each time. `random` is uniform over all of `u32`.
    pub fn next(&mut self, random: u32) -> Duration {
        self.next_up_to(MAX, random)
    }

    /// As [`next`](Self::next), with a lower last ceiling.
    pub fn next_up_to(&mut self, max: Duration, random: u32) -> Duration {
        let ceiling = MIN.saturating_mul(1 << self.attempts.min(7)).min(max);
        self.attempts = self.attempts.saturating_add(1);
        ceiling.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// It worked: start low again.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_doubles_up_to_ten_seconds() {
        let mut b = Backoff::default();
        let delays: Vec<u128> = (0..9).map(|_| b.next(u32::MAX).as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000]);
        b.reset();
        assert_eq!(b.next(u32::MAX).as_millis(), 100);
        assert_eq!(b.next(0).as_millis(), 0);
    }
}
