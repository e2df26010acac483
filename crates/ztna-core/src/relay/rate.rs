//! A session's rate limit: packets beyond it are dropped, as a router with a policer would, and QUIC's congestion control
//! settles at what is left.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How much may pass at once, as time at the session's rate: the usual length of a long way's round trip, so that a window's
/// worth that was sent in one go is not cut every time. Over ten seconds it adds one percent.
const BURST: Duration = Duration::from_millis(100);
/// The least that may pass at once, bytes: one whole GSO send (Linux: 64 KB), which would never get through otherwise.
const MIN_BURST: u64 = 64 << 10;
/// Lowest rate taken, bits a second: below it a handshake of some 6 KB and keep-alives no longer come through in time.
pub const MIN_BPS: u64 = 100_000;

/// A token bucket that all loops share: both directions of a session and both modes take from it. Kept as the time at which
/// it would be full again, in one number, so that no loop ever waits for another.
#[derive(Debug)]
pub(super) struct Policer {
    bps: u64,
    /// Nanoseconds that a full bucket stands for.
    depth: u64,
    start: Instant,
    /// Nanoseconds after `start`.
    full_at: AtomicU64,
}

impl Policer {
    pub(super) fn new(bps: u64, now: Instant) -> Self {
        let bps = bps.max(MIN_BPS);
        let depth = nanos(MIN_BURST, bps).max(u64::try_from(BURST.as_nanos()).unwrap_or(u64::MAX));
        Policer { bps, depth, start: now, full_at: AtomicU64::new(0) }
    }

    /// How many of `packets` packets of `size` bytes may pass now. They are taken off.
    pub(super) fn admit(&self, now: Instant, packets: usize, size: usize) -> usize {
        let now = u64::try_from(now.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX);
        let each = nanos(size as u64, self.bps).max(1);
        let mut passed = 0;
        let take = |full_at: u64| {
            let from = full_at.max(now);
            let room = self.depth.saturating_sub(from - now);
            passed = (packets as u64).min(room / each);
            Some(from.saturating_add(passed * each))
        };
        let _ = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        usize::try_from(passed).unwrap_or(packets)
    }
}

/// The time that `bytes` take at `bps`.
fn nanos(bytes: u64, bps: u64) -> u64 {
    u64::try_from(u128::from(bytes) * 8_000_000_000 / u128::from(bps)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that pass in `seconds` when `offered` bits a second are sent in bursts of `burst` packets.
    fn passed(bps: u64, offered: u64, burst: usize, seconds: u64) -> u64 {
        let start = start();
        let policer = Policer::new(bps, start);
        let every = Duration::from_nanos(nanos(burst as u64 * 1_320, offered));
        let mut at = start;
        let mut bytes = 0;
        while at < start + Duration::from_secs(seconds) {
            bytes += policer.admit(at, burst, 1_320) as u64 * 1_320;
            at += every;
        }
        bytes
    }

    #[test]
    fn ten_seconds_at_many_times_the_rate_pass_what_the_rate_says_within_a_tenth() {
        for (bps, burst) in [(2_000_000, 1), (20_000_000, 48), (200_000_000, 48), (5_000_000_000, 48)] {
            let got = passed(bps, bps * 3, burst, 10) as f64 * 8.0 / 10.0;
            assert!((0.9..1.1).contains(&(got / bps as f64)), "{bps}: {got}");
        }
    }

    #[test]
    fn what_stays_below_the_rate_passes_whole() {
        let (bps, offered) = (20_000_000, 19_000_000);
        let sent = offered * 10 / 8;
        assert!(passed(bps, offered, 48, 10).abs_diff(sent) < 64 << 10);
    }

    #[test]
    fn a_full_bucket_takes_one_whole_send_at_any_rate() {
        let policer = Policer::new(MIN_BPS, start());
        assert_eq!(policer.admit(start(), 49, 1_320), 49);
        assert_eq!(policer.admit(start(), 49, 1_320), 0);
    }

    #[test]
    fn the_front_of_a_burst_passes_and_the_rest_does_not() {
        let policer = Policer::new(8_000_000, start());
        assert_eq!(policer.admit(start(), 200, 1_000), 100);
        assert_eq!(policer.admit(start() + Duration::from_millis(10), 200, 1_000), 10);
    }

    #[test]
    fn time_that_was_not_used_is_not_saved_beyond_the_burst() {
        let policer = Policer::new(8_000_000, start());
        assert_eq!(policer.admit(start() + Duration::from_secs(3_600), 1_000, 1_000), 100);
    }

    fn start() -> Instant {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        #[allow(clippy::disallowed_methods, reason = "any moment does as the start")]
        *START.get_or_init(Instant::now)
    }
}
