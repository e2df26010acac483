//! Token buckets, and one for each network prefix beside one for all: what strangers may cost.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How often a full table is searched for prefixes that have been silent.
const SWEEP: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    pub at_once: f64,
    pub each_second: f64,
}

impl Rate {
    /// `n` a second, and as many at once.
    pub fn each_second(n: u32) -> Rate {
        Rate { at_once: f64::from(n), each_second: f64::from(n) }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    pub fn full(now: Instant, rate: Rate) -> Self {
        Bucket { tokens: rate.at_once, at: now }
    }

    /// Takes one. `false`: none is left.
    pub fn take(&mut self, now: Instant, rate: Rate) -> bool {
        let there = self.has_one(now, rate);
        if there {
            self.tokens -= 1.0;
        }
        there
    }

    fn has_one(&mut self, now: Instant, rate: Rate) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * rate.each_second).min(rate.at_once);
        self.at = self.at.max(now);
        self.tokens >= 1.0
    }

    /// How long until there is one. `None`: there is now.
    pub fn wait(&mut self, now: Instant, rate: Rate) -> Option<Duration> {
        // A rate of nothing is no time at all: an hour is as good as never.
        const LONGEST: f64 = 3_600.0;
        let there = self.has_one(now, rate);
        // A hair more, so that rounding leaves no wait of nothing behind.
        let missing = (1.0 - self.tokens) / rate.each_second + 1e-9;
        (!there).then(|| Duration::from_secs_f64(missing.clamp(1e-3, LONGEST)))
    }

    pub fn is_full(&mut self, now: Instant, rate: Rate) -> bool {
        self.has_one(now, rate);
        self.tokens >= rate.at_once
    }
}

/// A bucket for each prefix and one for all of them, in bounded memory: 64 bytes a prefix.
#[derive(Debug)]
pub struct PrefixBudget {
    each: Rate,
    all: Rate,
    /// Prefixes that are watched at once.
    places: usize,
    total: Option<Bucket>,
    prefixes: HashMap<Prefix, Bucket>,
    swept: Option<Instant>,
}

impl PrefixBudget {
    pub fn new(each: Rate, all: Rate, places: usize) -> Self {
        PrefixBudget { each, all, places, total: None, prefixes: HashMap::new(), swept: None }
    }

    /// Takes one for `ip`. `false`: its prefix or all together have none left, or there is no place to count it.
    pub fn take(&mut self, now: Instant, ip: IpAddr) -> bool {
        let prefix = Prefix::of(ip);
        if self.prefixes.len() >= self.places && !self.prefixes.contains_key(&prefix) && !self.sweep(now) {
            return false;
        }
        let total = self.total.get_or_insert(Bucket::full(now, self.all));
        let own = self.prefixes.entry(prefix).or_insert(Bucket::full(now, self.each));
        total.has_one(now, self.all) && own.take(now, self.each) && total.take(now, self.all)
    }

    /// Prefixes that are counted now.
    pub fn watched(&self) -> usize {
        self.prefixes.len()
    }

    /// Drops buckets that are full again: they say nothing. Whether there is room now.
    fn sweep(&mut self, now: Instant) -> bool {
        if self.swept.is_some_and(|at| now.saturating_duration_since(at) < SWEEP) {
            return false;
        }
        self.swept = Some(now);
        self.prefixes.retain(|_, b| !b.is_full(now, self.each));
        self.prefixes.len() < self.places
    }
}

/// /24 of IPv4, /48 of IPv6: what one household or site usually holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix(u64);

impl Prefix {
    pub fn of(ip: IpAddr) -> Prefix {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Prefix(u64::from(u32::from(ip) >> 8) | 1 << 63),
            IpAddr::V6(ip) => Prefix((u128::from(ip) >> 80) as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACES: usize = 4_096;

    fn budget(each: u32, all: u32) -> PrefixBudget {
        PrefixBudget::new(Rate::each_second(each), Rate::each_second(all), PLACES)
    }

    #[test]
    fn one_prefix_is_held_to_its_rate_and_another_is_not_hurt() {
        let mut b = budget(3, 5);
        let t = Instant::now();
        let near: IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!((0..9).filter(|_| b.take(t, near)).count(), 3);
        assert!(!b.take(t, "192.0.2.200".parse().unwrap()));
        assert!(b.take(t, "198.51.100.1".parse().unwrap()));
        assert!(b.take(t + Duration::from_millis(400), near));
    }

    #[test]
    fn all_together_are_held_to_their_rate() {
        let mut b = budget(3, 5);
        let t = Instant::now();
        assert_eq!((0..20u8).filter(|i| b.take(t, IpAddr::from([10, 0, *i, 1]))).count(), 5);
    }

    #[test]
    fn a_full_table_makes_room_when_prefixes_have_been_silent() {
        let mut b = budget(3, u32::MAX);
        let t = Instant::now();
        for i in 0..PLACES as u32 {
            assert!(b.take(t, IpAddr::from((i << 8).to_be_bytes())));
        }
        let one_more: IpAddr = "2001:db8::1".parse().unwrap();
        assert!(!b.take(t, one_more));
        assert!(b.take(t + Duration::from_secs(2), one_more));
        assert_eq!(b.watched(), 1);
    }

    #[test]
    fn the_address_families_never_share_a_prefix() {
        assert_ne!(Prefix::of("::ffff".parse().unwrap()), Prefix::of("0.0.0.255".parse().unwrap()));
        assert_eq!(Prefix::of("::ffff:192.0.2.1".parse().unwrap()), Prefix::of("192.0.2.9".parse().unwrap()));
    }
}
