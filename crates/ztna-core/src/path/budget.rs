//! How much a node sends to addresses that have not answered, whoever asks for it: what a peer names may be a stranger's.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Checks to one /24 (IPv4) or /48 (IPv6): at once, and a second. One peer's full set is 16 × 12 over 9 s; a household's or an
/// office's peers share one prefix. At 124 bytes a packet on the wire a stranger there gets 1.3 Mbit/s for a second, then 25 kbit/s.
const BURST: f64 = 256.0;
const RATE: f64 = 25.0;
/// Checks to all that has not answered, at once and a second: a thousand peers that come back together get a round within half a minute.
const TOTAL_BURST: f64 = 16_384.0;
const TOTAL_RATE: f64 = 2_000.0;
/// Prefixes that are remembered. A full bucket need not be: it is let go first.
const PREFIXES: usize = 4_096;
/// Port bursts to one prefix (issue: hard NATs; protocol.md).
const PORT_BURST_EVERY: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn full(size: f64, now: Instant) -> Bucket {
        Bucket { left: size, at: now }
    }

    fn refill(&mut self, size: f64, rate: f64, now: Instant) {
        self.left = (self.left + now.saturating_duration_since(self.at).as_secs_f64() * rate).min(size);
        self.at = self.at.max(now);
    }
}

/// Token buckets, one a destination prefix and one for the node.
#[derive(Debug, Default)]
pub struct Budget {
    prefixes: BTreeMap<Prefix, Bucket>,
    total: Option<Bucket>,
    port_bursts: BTreeMap<Prefix, Instant>,
    /// Checks that were not sent for it.
    pub withheld: u64,
}

/// /24 or /48: what one household or site has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Prefix(u128);

impl Prefix {
    fn of(ip: IpAddr) -> Prefix {
        match ip {
            IpAddr::V4(ip) => Prefix(u128::from(u32::from(ip) >> 8)),
            IpAddr::V6(ip) => Prefix(u128::from(ip) >> 80 | 1 << 64),
        }
    }
}

impl Budget {
    /// Takes one check to `ip` out of the budget. `false`: not now.
    pub fn take(&mut self, now: Instant, ip: IpAddr) -> bool {
        let prefix = Prefix::of(ip);
        if !self.prefixes.contains_key(&prefix) && self.prefixes.len() >= PREFIXES {
            self.prefixes.retain(|_, b| {
                b.refill(BURST, RATE, now);
                b.left < BURST
            });
        }
        let known = self.prefixes.len();
        let total = self.total.get_or_insert(Bucket::full(TOTAL_BURST, now));
        total.refill(TOTAL_BURST, TOTAL_RATE, now);
        let fits = self.prefixes.contains_key(&prefix) || known < PREFIXES;
        if !fits || total.left < 1.0 {
            self.withheld += 1;
            return false;
        }
        let bucket = self.prefixes.entry(prefix).or_insert(Bucket::full(BURST, now));
        bucket.refill(BURST, RATE, now);
        if bucket.left < 1.0 {
            self.withheld += 1;
            return false;
        }
        bucket.left -= 1.0;
        total.left -= 1.0;
        true
    }

    /// Whether a port burst may go to `ip` now; a `true` counts as one.
    pub fn take_port_burst(&mut self, now: Instant, ip: IpAddr) -> bool {
        self.port_bursts.retain(|_, at| now.saturating_duration_since(*at) < PORT_BURST_EVERY);
        let prefix = Prefix::of(ip);
        if self.port_bursts.contains_key(&prefix) || self.port_bursts.len() >= PREFIXES {
            return false;
        }
        self.port_bursts.insert(prefix, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    #[test]
    fn one_prefix_gets_its_burst_and_then_its_rate_whoever_asks() {
        let now = Instant::now();
        let mut b = Budget::default();
        let sent = (0..1_000u32).filter(|n| b.take(now, ip(*n as u8))).count();
        assert_eq!(sent, BURST as usize);
        let later = now + Duration::from_secs(4);
        assert_eq!((0..1_000u32).filter(|n| b.take(later, ip(*n as u8))).count(), 4 * RATE as usize);
        assert!(b.take(now, IpAddr::from([198, 51, 100, 1])), "another prefix has its own");
    }

    #[test]
    fn many_prefixes_share_the_nodes_burst_and_a_bounded_memory() {
        let now = Instant::now();
        let mut b = Budget::default();
        let all = (0..100_000u32).filter(|n| b.take(now, IpAddr::from((0x0a00_0000 + (n << 8)).to_be_bytes()))).count();
        assert_eq!(all, PREFIXES.min(TOTAL_BURST as usize));
        assert!(b.prefixes.len() <= PREFIXES);
        assert!(b.take(now + Duration::from_secs(60), ip(1)), "buckets that are full again make room");
    }

    #[test]
    fn a_second_port_burst_waits_ten_minutes() {
        let now = Instant::now();
        let mut b = Budget::default();
        assert!(b.take_port_burst(now, ip(1)));
        assert!(!b.take_port_burst(now + Duration::from_secs(599), ip(2)));
        assert!(b.take_port_burst(now + Duration::from_secs(600), ip(2)));
    }
}
