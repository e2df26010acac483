//! How much a node sends to addresses that have not answered, whoever asks for it: what a peer names may be a stranger's.

use std::net::IpAddr;
use std::time::Instant;

use crate::bucket::{PrefixBudget, Rate};

/// Checks to one /24 (IPv4) or /48 (IPv6): at once, and a second. One peer's full set is 16 × 12 over 9 s; a household's or an
/// office's peers share one prefix. At 124 bytes a packet on the wire a stranger there gets 1.3 Mbit/s for a second, then 25 kbit/s.
const EACH: Rate = Rate { at_once: 256.0, each_second: 25.0 };
/// Checks to all that has not answered, at once and a second: a thousand peers that come back together get a round within half a minute.
const ALL: Rate = Rate { at_once: 16_384.0, each_second: 2_000.0 };
/// Prefixes that are remembered. A full bucket need not be: it is let go first.
const PREFIXES: usize = 4_096;

#[derive(Debug)]
pub struct Budget {
    checks: PrefixBudget,
}

impl Default for Budget {
    fn default() -> Self {
        Budget { checks: PrefixBudget::new(EACH, ALL, PREFIXES) }
    }
}

impl Budget {
    /// Takes one check to `ip` out of the budget. `false`: not now.
    pub fn take(&mut self, now: Instant, ip: IpAddr) -> bool {
        self.checks.take(now, ip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn ip(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    #[test]
    fn one_prefix_gets_its_burst_and_then_its_rate_whoever_asks() {
        let now = Instant::now();
        let mut b = Budget::default();
        let sent = (0..1_000u32).filter(|n| b.take(now, ip(*n as u8))).count();
        assert_eq!(sent, EACH.at_once as usize);
        let later = now + Duration::from_secs(4);
        assert_eq!((0..1_000u32).filter(|n| b.take(later, ip(*n as u8))).count(), 4 * EACH.each_second as usize);
        assert!(b.take(now, IpAddr::from([198, 51, 100, 1])), "another prefix has its own");
    }

    #[test]
    fn many_prefixes_share_the_nodes_burst_and_a_bounded_memory() {
        let now = Instant::now();
        let mut b = Budget::default();
        let all = (0..100_000u32).filter(|n| b.take(now, IpAddr::from((0x0a00_0000 + (n << 8)).to_be_bytes()))).count();
        assert_eq!(all, PREFIXES.min(ALL.at_once as usize));
        assert!(b.checks.watched() <= PREFIXES);
        assert!(b.take(now + Duration::from_secs(60), ip(1)), "buckets that are full again make room");
    }
}
