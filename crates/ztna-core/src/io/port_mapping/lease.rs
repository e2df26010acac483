//! When a mapping is asked for again: arithmetic of times, no clock.

use std::time::{Duration, Instant};

/// For how long a mapping is asked for, seconds. RFC 6886 §3.3 proposes two hours; a process that was killed takes nothing back, and its port
/// may be another program's soon after. Ten minutes between renewals cost nobody anything.
pub(super) const LIFETIME: u32 = 1_200;
/// What a gateway promises beyond a day is not believed (RFC 6887 §15: 24 h as the most).
const LIFETIME_MAX: u32 = 86_400;
/// After a try that led to nothing: the operator may have changed the router's mind. A change of the network brings the next sooner.
pub(super) const RETRY: Duration = Duration::from_secs(600);
/// Between two tries on word of changes of the network: interfaces of guests come and go often.
pub(super) const PAUSE: Duration = Duration::from_secs(30);
/// Between two renewals at least, however short a time the gateway grants. RFC 6887 §11.2.1 forbids less than four seconds; a server should
/// grant 120 s and more (§15), and what ends sooner than this is of no use to a peer.
pub(super) const RENEWAL_MIN: Duration = Duration::from_secs(15);

/// A granted mapping's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lease {
    pub ends: Instant,
    /// When it was granted last.
    since: Instant,
}

impl Lease {
    /// `lifetime`: seconds, as the gateway said.
    pub fn new(now: Instant, lifetime: u32) -> Self {
        Lease { ends: now + Duration::from_secs(lifetime.min(LIFETIME_MAX).into()), since: now }
    }

    /// When to renew it: after half of what is left (RFC 6887 §11.2.1), and not sooner than in `least`. `None`: it is over.
    pub fn renewal(&self, now: Instant, least: Duration) -> Option<Instant> {
        let left = self.ends.checked_duration_since(now).filter(|l| !l.is_zero())?;
        Some(now + (left / 2).max(least))
    }

    /// When to renew it on word that the network has changed: the router may be another one.
    pub fn sooner(&self, now: Instant) -> Instant {
        now.max(self.since + PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_mapping_is_renewed_at_half_of_its_time_then_at_half_of_the_rest() {
        let now = Instant::now();
        let lease = Lease::new(now, 1_200);
        let renewal = |at| lease.renewal(at, RENEWAL_MIN);
        assert_eq!(renewal(now), Some(now + s(600)));
        assert_eq!(renewal(now + s(600)), Some(now + s(900)));
        assert_eq!(renewal(now + s(1_190)), Some(now + s(1_205)));
        assert_eq!(renewal(now + s(1_200)), None);
    }

    #[test]
    fn neither_a_tiny_nor_an_endless_lifetime_is_taken_at_its_word() {
        let now = Instant::now();
        for lifetime in [1, 4, 20] {
            assert_eq!(Lease::new(now, lifetime).renewal(now, RENEWAL_MIN), Some(now + s(15)), "{lifetime} s");
        }
        assert_eq!(Lease::new(now, 0).renewal(now, RENEWAL_MIN), None);
        assert_eq!(Lease::new(now, u32::MAX).ends, now + s(86_400));
    }

    #[test]
    fn many_changes_of_the_network_bring_one_renewal_in_half_a_minute() {
        let now = Instant::now();
        let lease = Lease::new(now, 1_200);
        assert_eq!(lease.sooner(now + s(1)), now + s(30));
        assert_eq!(lease.sooner(now + s(100)), now + s(100));
    }
}
