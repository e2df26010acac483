//! Which port bursts a node makes and joins: one at a time, few to anybody, none on a metered network.
//!
//! A burst goes to the address that a peer names as its own, and nobody can tell whether it is. So what a hostile peer may bring about
//! has to be harmless to a stranger: a thousand small packets over a second, and no more for ten minutes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::bucket::Prefix;
use crate::id::SpiffeId;
use crate::role::MORE_SOCKETS;
use crate::wire::path_signal::BurstRefusal;

/// Between two bursts to one /24 or /48, and between two with one peer (issue: hard NATs).
pub const EVERY: Duration = Duration::from_secs(600);
/// Bursts within that time, whoever asks: 100 packets a second on average. A connector whose agents all sit behind hard NATs serves one after
/// another.
const IN_ALL: usize = 60;
/// Another burst lasts for seconds at most.
const BUSY_WAIT: Duration = Duration::from_secs(5);
/// Most checks that may be set: each leaves an entry in the guessing end's own router for half a minute and more, and thousands have taken
/// home routers down (nat-lab.md).
pub const MOST_CHECKS: u16 = 2_048;

/// What a node's owner has set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BurstSettings {
    /// Sockets opened behind a hard NAT, at most [`MORE_SOCKETS`]. Default 256: with 1,024 checks 98 of 100 bursts meet, with 84 sockets
    /// half of them (nat-lab.md). 0: no bursts.
    pub sockets: usize,
    /// Ports guessed of the other end's NAT, at most [`MOST_CHECKS`]. Default 1,024, of 104 bytes each, one a millisecond. 0: no bursts.
    pub checks: u16,
    /// Whether bytes cost money here. No bursts then. Default false.
    pub metered: bool,
}

impl Default for BurstSettings {
    fn default() -> Self {
        BurstSettings { sockets: MORE_SOCKETS, checks: 1_024, metered: false }
    }
}

/// One a node. `owner`: a connection of it.
#[derive(Debug, Default)]
pub struct Gate {
    settings: BurstSettings,
    running: Option<usize>,
    prefixes: BTreeMap<Prefix, Instant>,
    peers: BTreeMap<SpiffeId, Instant>,
}

impl Gate {
    pub fn set(&mut self, settings: BurstSettings) {
        self.settings = BurstSettings {
            sockets: settings.sockets.min(MORE_SOCKETS),
            checks: settings.checks.min(MOST_CHECKS),
            ..settings
        };
    }

    pub fn settings(&self) -> BurstSettings {
        self.settings
    }

    /// Takes the node's one place for a burst. Errors: why not, and after how long it may be asked again.
    pub fn begin(
        &mut self,
        now: Instant,
        owner: usize,
        peer: &SpiffeId,
        to: IpAddr,
    ) -> Result<(), (BurstRefusal, Duration)> {
        let BurstSettings { sockets, checks, metered } = self.settings;
        if sockets == 0 || checks == 0 {
            return Err((BurstRefusal::Off, EVERY));
        }
        if metered {
            return Err((BurstRefusal::Metered, EVERY));
        }
        if self.running.is_some() {
            return Err((BurstRefusal::Busy, BUSY_WAIT));
        }
        self.prefixes.retain(|_, at| now < *at + EVERY);
        self.peers.retain(|_, at| now < *at + EVERY);
        let last = self.prefixes.get(&Prefix::of(to)).into_iter().chain(self.peers.get(peer)).max();
        // When the oldest of too many is no longer counted.
        let full = self.peers.values().min().filter(|_| self.peers.len() >= IN_ALL);
        if let Some(at) = last.max(full) {
            return Err((BurstRefusal::TooSoon, (*at + EVERY).saturating_duration_since(now)));
        }
        self.running = Some(owner);
        Ok(())
    }

    /// The other end has agreed: it counts from now on.
    pub fn spend(&mut self, now: Instant, peer: &SpiffeId, to: IpAddr) {
        self.prefixes.insert(Prefix::of(to), now);
        self.peers.insert(peer.clone(), now);
    }

    /// The owner's burst is over, or was never begun.
    pub fn end(&mut self, owner: usize) {
        self.running.take_if(|running| *running == owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: usize) -> SpiffeId {
        format!("spiffe://example.test/agent/a{n}").parse().unwrap()
    }

    fn ip(net: u8) -> IpAddr {
        IpAddr::from([198, 51, net, 7])
    }

    /// One that is made and over.
    fn made(gate: &mut Gate, now: Instant, n: usize, to: IpAddr) -> bool {
        let begun = gate.begin(now, n, &peer(n), to).is_ok();
        if begun {
            gate.spend(now, &peer(n), to);
            gate.end(n);
        }
        begun
    }

    #[test]
    fn one_runs_at_a_time() {
        let (now, mut gate) = (Instant::now(), Gate::default());
        assert_eq!(gate.begin(now, 1, &peer(1), ip(1)), Ok(()));
        assert_eq!(gate.begin(now, 2, &peer(2), ip(2)), Err((BurstRefusal::Busy, BUSY_WAIT)));
        gate.end(2);
        assert!(gate.begin(now, 2, &peer(2), ip(2)).is_err(), "another's place is not given up");
        gate.end(1);
        assert_eq!(gate.begin(now, 2, &peer(2), ip(2)), Ok(()));
    }

    #[test]
    fn a_prefix_and_a_peer_wait_ten_minutes_each() {
        let (now, mut gate) = (Instant::now(), Gate::default());
        assert!(made(&mut gate, now, 1, ip(1)));
        let soon = now + Duration::from_secs(599);
        let wait = Err((BurstRefusal::TooSoon, Duration::from_secs(1)));
        assert_eq!(gate.begin(soon, 2, &peer(2), IpAddr::from([198, 51, 1, 200])), wait, "the same /24");
        assert_eq!(gate.begin(soon, 1, &peer(1), ip(2)), wait, "the same peer");
        assert!(made(&mut gate, now + EVERY, 1, ip(1)));
    }

    #[test]
    fn what_the_other_end_has_refused_does_not_count() {
        let (now, mut gate) = (Instant::now(), Gate::default());
        assert_eq!(gate.begin(now, 1, &peer(1), ip(1)), Ok(()));
        gate.end(1);
        assert!(made(&mut gate, now, 1, ip(1)));
    }

    #[test]
    fn a_thousand_peers_get_sixty_in_ten_minutes_and_no_more_memory() {
        let (now, mut gate) = (Instant::now(), Gate::default());
        let to = |n: usize| IpAddr::from([10, (n >> 8) as u8, n as u8, 1]);
        assert_eq!((0..1_000).filter(|n| made(&mut gate, now, *n, to(*n))).count(), IN_ALL);
        assert_eq!((gate.peers.len(), gate.prefixes.len()), (IN_ALL, IN_ALL));
        assert!(made(&mut gate, now + EVERY, 2_000, to(2_000)));
    }

    #[test]
    fn none_is_made_where_it_is_off_or_the_network_is_metered() {
        let now = Instant::now();
        let all = BurstSettings::default();
        for (settings, why) in [
            (BurstSettings { sockets: 0, ..all }, BurstRefusal::Off),
            (BurstSettings { checks: 0, ..all }, BurstRefusal::Off),
            (BurstSettings { metered: true, ..all }, BurstRefusal::Metered),
        ] {
            let mut gate = Gate::default();
            gate.set(settings);
            assert_eq!(gate.begin(now, 1, &peer(1), ip(1)), Err((why, EVERY)));
        }
    }

    #[test]
    fn settings_beyond_what_routers_bear_are_cut() {
        let mut gate = Gate::default();
        gate.set(BurstSettings { sockets: 10_000, checks: u16::MAX, metered: false });
        assert_eq!(gate.settings(), BurstSettings { sockets: MORE_SOCKETS, checks: MOST_CHECKS, metered: false });
    }
}
