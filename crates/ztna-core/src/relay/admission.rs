//! Who may begin a handshake: Retry, and how many a second.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::Limits;
use crate::quic::retry::RetryKeys;

/// Prefixes that are watched at once: 64 bytes each makes 4 MB.
const MAX_PREFIXES: usize = 65_536;
/// How often a full table is searched for prefixes that have been silent.
const SWEEP: Duration = Duration::from_secs(1);

/// The Retry keys and the handshake budget of all loops.
pub(super) struct Admission {
    keys: Option<RetryKeys>,
    budget: Budget,
}

impl Admission {
    pub(super) fn new(limits: &Limits) -> Self {
        Admission { keys: None, budget: Budget::new(limits) }
    }
    /// `now` in seconds.
    pub(super) fn keys(&mut self, now: u64) -> &mut RetryKeys {
        self.keys.get_or_insert_with(|| RetryKeys::new(now))
    }
    /// Counts a handshake of an address that has proven itself. `false`: too many.
    pub(super) fn admit(&mut self, now: Instant, from: SocketAddr) -> bool {
        self.budget.admit(now, from.ip())
    }
}

/// Token buckets, one a prefix and one for all, each a second deep.
struct Budget {
    per_prefix: f64,
    all: f64,
    global: Option<Bucket>,
    prefixes: HashMap<u64, Bucket>,
    swept: Option<Instant>,
}

/// A token bucket, a second deep.
#[derive(Clone, Copy)]
pub(super) struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    pub(super) fn full(now: Instant, rate: f64) -> Self {
        Bucket { tokens: rate, at: now }
    }

    /// Takes one of `rate` a second. `false`: none is left.
    pub(super) fn take(&mut self, now: Instant, rate: f64) -> bool {
        self.refill(now, rate);
        let there = self.tokens >= 1.0;
        if there {
            self.tokens -= 1.0;
        }
        there
    }

    fn refill(&mut self, now: Instant, rate: f64) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * rate).min(rate);
        self.at = self.at.max(now);
    }
}

impl Budget {
    fn new(limits: &Limits) -> Self {
        let (per_prefix, all) = (f64::from(limits.handshakes_per_prefix), f64::from(limits.handshakes));
        Budget { per_prefix, all, global: None, prefixes: HashMap::new(), swept: None }
    }

    fn admit(&mut self, now: Instant, ip: IpAddr) -> bool {
        let rate = self.per_prefix;
        let key = prefix(ip);
        if self.prefixes.len() >= MAX_PREFIXES && !self.prefixes.contains_key(&key) && !self.sweep(now) {
            return false;
        }
        let global = self.global.get_or_insert(Bucket::full(now, self.all));
        global.refill(now, self.all);
        let own = self.prefixes.entry(key).or_insert(Bucket::full(now, rate));
        own.refill(now, rate);
        if own.tokens < 1.0 || global.tokens < 1.0 {
            return false;
        }
        own.tokens -= 1.0;
        global.tokens -= 1.0;
        true
    }

    /// Drops buckets that are full again: they say nothing. Whether there is room now.
    fn sweep(&mut self, now: Instant) -> bool {
        if self.swept.is_some_and(|at| now.saturating_duration_since(at) < SWEEP) {
            return false;
        }
        self.swept = Some(now);
        let rate = self.per_prefix;
        self.prefixes.retain(|_, b| {
            b.refill(now, rate);
            b.tokens < rate
        });
        self.prefixes.len() < MAX_PREFIXES
    }
}

/// /24 of IPv4, /48 of IPv6: what one site usually holds.
fn prefix(ip: IpAddr) -> u64 {
    match ip.to_canonical() {
        IpAddr::V4(ip) => u64::from(u32::from(ip) >> 8) | 1 << 63,
        IpAddr::V6(ip) => (u128::from(ip) >> 80) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_prefix_is_held_to_its_rate_and_another_is_not_hurt() {
        let mut b = Budget::new(&Limits { handshakes_per_prefix: 3, handshakes: 5, ..Limits::default() });
        let t = Instant::now();
        let near: IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!((0..9).filter(|_| b.admit(t, near)).count(), 3);
        assert!(!b.admit(t, "192.0.2.200".parse().unwrap()));
        assert!(b.admit(t, "198.51.100.1".parse().unwrap()));
        assert!(b.admit(t + Duration::from_millis(400), near));
    }

    #[test]
    fn the_whole_relay_is_held_to_its_rate() {
        let mut b = Budget::new(&Limits { handshakes_per_prefix: 3, handshakes: 5, ..Limits::default() });
        let t = Instant::now();
        assert_eq!((0..20u8).filter(|i| b.admit(t, IpAddr::from([10, 0, *i, 1]))).count(), 5);
    }

    #[test]
    fn a_full_table_makes_room_when_prefixes_have_been_silent() {
        let mut b = Budget::new(&Limits { handshakes: u32::MAX, ..Limits::default() });
        let t = Instant::now();
        for i in 0..MAX_PREFIXES as u32 {
            assert!(b.admit(t, IpAddr::from((i << 8).to_be_bytes())));
        }
        let one_more: IpAddr = "2001:db8::1".parse().unwrap();
        assert!(!b.admit(t, one_more));
        assert!(b.admit(t + Duration::from_secs(2), one_more));
        assert_eq!(b.prefixes.len(), 1);
    }
}
