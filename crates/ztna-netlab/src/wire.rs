//! The wire between two ends: a state machine with virtual time and a seed.
//!
//! Drain order: any number of [`Wire::handle_packet`], then [`Wire::poll_packet`] until `None`, then sleep until
//! [`Wire::poll_timeout`]. Times are durations since an origin that the caller chooses and never moves backwards.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use crate::icmp;
use crate::impairment::Impairment;
use crate::link::{Fate, Link};
use crate::random::Random;

pub use crate::link::{IN_FLIGHT_LIMIT, Stats};

/// Which way a packet travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// From end A to end B.
    AToB,
    /// From end B to end A.
    BToA,
}

impl Direction {
    /// Both, in the order in which statistics are printed.
    pub const BOTH: [Self; 2] = [Self::AToB, Self::BToA];

    /// The other way.
    pub fn reverse(self) -> Self {
        match self {
            Self::AToB => Self::BToA,
            Self::BToA => Self::AToB,
        }
    }

    /// `a-to-b` or `b-to-a`, as options and commands spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::AToB => "a-to-b",
            Self::BToA => "b-to-a",
        }
    }
}

/// Two directions, each with its own [`Impairment`], queue and random sequence.
#[derive(Debug)]
pub struct Wire {
    a_to_b: Link,
    b_to_a: Link,
    in_flight: BinaryHeap<Reverse<InFlight>>,
    next_seq: u64,
}

impl Wire {
    /// A wire that is up. The same `seed`, packets and times give the same outcome.
    pub fn new(seed: u64, a_to_b: Impairment, b_to_a: Impairment) -> Self {
        Self {
            a_to_b: Link::new(a_to_b, Random::new(seed)),
            b_to_a: Link::new(b_to_a, Random::new(seed ^ 0x5bd1_e995_9d1b_54f1)),
            in_flight: BinaryHeap::new(),
            next_seq: 0,
        }
    }

    /// Takes one IP packet at one end.
    pub fn handle_packet(&mut self, now: Duration, direction: Direction, packet: Vec<u8>) {
        let link = self.link_mut(direction);
        match link.admit(now, packet.len() as u64) {
            Fate::Lost => {}
            Fate::TooBig { mtu } => {
                if !link.impairment().mtu_signal {
                    return;
                }
                let Some(answer) = icmp::too_big(&packet, mtu) else { return };
                let at = now + self.link(direction.reverse()).impairment().delay;
                self.push(at, direction.reverse(), answer, true);
            }
            Fate::Delivered { at } => self.push(at, direction, packet, false),
        }
    }

    /// The next packet due by `now` and the direction in which it leaves, or `None`.
    pub fn poll_packet(&mut self, now: Duration) -> Option<(Direction, Vec<u8>)> {
        if self.in_flight.peek()?.0.at > now {
            return None;
        }
        let InFlight { direction, packet, own, .. } = self.in_flight.pop()?.0;
        if !own {
            self.link_mut(direction).complete(packet.len() as u64);
        }
        Some((direction, packet))
    }

    /// When the next packet is due; `None` when nothing is under way.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.in_flight.peek().map(|next| next.0.at)
    }

    /// The settings of one direction.
    pub fn impairment(&self, direction: Direction) -> Impairment {
        self.link(direction).impairment()
    }

    /// New settings for one direction. Packets under way keep the time they were given.
    pub fn set_impairment(&mut self, direction: Direction, impairment: Impairment) {
        self.link_mut(direction).set_impairment(impairment);
    }

    /// Takes the wire down or brings it up. Going down loses what is under way, as a cut cable does.
    pub fn set_up(&mut self, up: bool) {
        self.a_to_b.set_up(up);
        self.b_to_a.set_up(up);
        if up {
            return;
        }
        for Reverse(InFlight { direction, packet, own, .. }) in std::mem::take(&mut self.in_flight) {
            if !own {
                self.link_mut(direction).cut(packet.len() as u64);
            }
        }
    }

    /// Whether packets pass.
    pub fn is_up(&self) -> bool {
        self.a_to_b.is_up() && self.b_to_a.is_up()
    }

    /// Counters since the start.
    pub fn stats(&self, direction: Direction) -> Stats {
        self.link(direction).stats()
    }

    fn push(&mut self, at: Duration, direction: Direction, packet: Vec<u8>, own: bool) {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.in_flight.push(Reverse(InFlight { at, seq, direction, packet, own }));
    }

    fn link(&self, direction: Direction) -> &Link {
        match direction {
            Direction::AToB => &self.a_to_b,
            Direction::BToA => &self.b_to_a,
        }
    }

    fn link_mut(&mut self, direction: Direction) -> &mut Link {
        match direction {
            Direction::AToB => &mut self.a_to_b,
            Direction::BToA => &mut self.b_to_a,
        }
    }
}

/// Ordered by time, then by arrival; `seq` is unique, so later fields never decide.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct InFlight {
    at: Duration,
    seq: u64,
    direction: Direction,
    packet: Vec<u8>,
    own: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{AToB, BToA};

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_wire_without_impairment_delivers_at_once_and_in_order() {
        let mut wire = wire(&[]);
        for n in 0..100 {
            wire.handle_packet(MS, AToB, packet(n, 100));
        }
        assert_eq!(numbers(&mut wire, MS), (0..100).collect::<Vec<_>>());
        assert_eq!(wire.poll_timeout(), None);
    }

    #[test]
    fn delay_is_exact_and_can_differ_by_direction() {
        let mut wire = wire(&[("delay", "50ms")]);
        let mut back = wire.impairment(BToA);
        back.set("delay", "20ms").unwrap();
        wire.set_impairment(BToA, back);
        wire.handle_packet(MS, AToB, packet(1, 100));
        wire.handle_packet(MS, BToA, packet(2, 100));
        assert_eq!(wire.poll_timeout(), Some(21 * MS));
        assert_eq!(wire.poll_packet(21 * MS - Duration::from_nanos(1)), None);
        assert_eq!(wire.poll_packet(21 * MS).map(|(d, _)| d), Some(BToA));
        assert_eq!(wire.poll_timeout(), Some(51 * MS));
        assert_eq!(wire.poll_packet(51 * MS).map(|(d, _)| d), Some(AToB));
    }

    #[test]
    fn jitter_stays_within_its_bounds_and_keeps_order() {
        let mut wire = wire(&[("delay", "50ms"), ("jitter", "10ms")]);
        let mut seen = (Duration::MAX, Duration::ZERO);
        for n in 0..1000 {
            let sent = Duration::from_secs(n.into());
            wire.handle_packet(sent, AToB, packet(n, 100));
            let took = wire.poll_timeout().unwrap() - sent;
            seen = (seen.0.min(took), seen.1.max(took));
            assert_eq!(numbers(&mut wire, sent + took), [n]);
        }
        assert!(seen.0 >= 40 * MS && seen.0 < 41 * MS, "{seen:?}");
        assert!(seen.1 <= 60 * MS && seen.1 > 59 * MS, "{seen:?}");
        for n in 0..1000 {
            wire.handle_packet(Duration::from_secs(2000) + n * MS, AToB, packet(n, 100));
        }
        assert_eq!(numbers(&mut wire, Duration::MAX), (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn loss_comes_close_to_its_share_and_repeats_with_the_seed() {
        let survivors = |seed| {
            let mut impairment = Impairment::default();
            impairment.set("loss", "10%").unwrap();
            let mut wire = Wire::new(seed, impairment, impairment);
            for n in 0..20_000 {
                wire.handle_packet(MS, AToB, packet(n, 100));
            }
            assert_eq!(wire.stats(AToB).lost_random + wire.in_flight.len() as u64, 20_000);
            numbers(&mut wire, MS)
        };
        let lost = 20_000 - survivors(7).len();
        assert!((1_850..2_150).contains(&lost), "{lost}");
        assert_eq!(survivors(7), survivors(7));
        assert_ne!(survivors(7), survivors(8));
    }

    #[test]
    fn the_two_directions_lose_different_packets() {
        let mut wire = wire(&[("loss", "50%")]);
        for n in 0..100 {
            wire.handle_packet(MS, AToB, packet(n, 100));
        }
        let there = numbers(&mut wire, MS);
        for n in 0..100 {
            wire.handle_packet(MS, BToA, packet(n, 100));
        }
        assert_ne!(there, numbers(&mut wire, MS));
    }

    #[test]
    fn a_reordered_packet_is_overtaken_and_nothing_is_lost() {
        let mut wire = wire(&[("reorder", "10%"), ("reorder-by", "5ms")]);
        for n in 0..1000 {
            wire.handle_packet(n * MS, AToB, packet(n, 100));
        }
        let mut got = numbers(&mut wire, Duration::MAX);
        assert!(!got.is_sorted());
        let reordered = wire.stats(AToB).reordered;
        assert!((70..130).contains(&reordered), "{reordered}");
        got.sort_unstable();
        assert_eq!(got, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn rate_spaces_packets_by_their_length() {
        let mut wire = wire(&[("rate", "8mbit")]);
        for n in 0..3 {
            wire.handle_packet(MS, AToB, packet(n, 1000));
        }
        for n in 0..3 {
            assert_eq!(wire.poll_timeout(), Some((2 + n) * MS));
            assert_eq!(numbers(&mut wire, (2 + n) * MS), [n]);
        }
        // Idle time is not saved up.
        wire.handle_packet(100 * MS, AToB, packet(9, 1000));
        assert_eq!(wire.poll_timeout(), Some(101 * MS));
    }

    #[test]
    fn a_full_queue_drops_the_newest_and_drains_again() {
        let mut wire = wire(&[("rate", "8mbit"), ("queue", "5000")]);
        for n in 0..10 {
            wire.handle_packet(MS, AToB, packet(n, 1000));
        }
        assert_eq!(wire.stats(AToB).lost_queue, 5);
        assert_eq!(numbers(&mut wire, 3 * MS), [0, 1]);
        wire.handle_packet(3 * MS, AToB, packet(10, 1000));
        assert_eq!(numbers(&mut wire, Duration::MAX), [2, 3, 4, 10]);
    }

    #[test]
    fn a_packet_longer_than_the_queue_still_passes_an_idle_link() {
        let mut wire = wire(&[("rate", "8mbit"), ("queue", "500")]);
        wire.handle_packet(MS, AToB, packet(1, 1000));
        assert_eq!(numbers(&mut wire, 2 * MS), [1]);
    }

    #[test]
    fn a_packet_over_the_mtu_vanishes_and_one_at_it_passes() {
        let mut wire = wire(&[("mtu", "1280")]);
        wire.handle_packet(MS, AToB, packet(1, 1281));
        wire.handle_packet(MS, AToB, packet(2, 1280));
        assert_eq!(numbers(&mut wire, MS), [2]);
        assert_eq!(wire.stats(AToB).lost_mtu, 1);
        assert_eq!(wire.poll_timeout(), None);
    }

    #[test]
    fn with_mtu_signal_the_sender_hears_of_it() {
        let mut wire = wire(&[("mtu", "1280"), ("mtu-signal", "on"), ("delay", "10ms")]);
        let mut big = packet(1, 1400);
        big[6] = 0x40;
        wire.handle_packet(MS, AToB, big);
        let (direction, answer) = wire.poll_packet(11 * MS).unwrap();
        assert_eq!((direction, answer[20], answer[21]), (BToA, 3, 4));
        assert_eq!(wire.stats(BToA), Stats::default());
    }

    #[test]
    fn going_down_loses_what_is_under_way_and_coming_up_passes_again() {
        let mut wire = wire(&[("delay", "10ms")]);
        wire.handle_packet(MS, AToB, packet(1, 100));
        wire.set_up(false);
        wire.handle_packet(2 * MS, BToA, packet(2, 100));
        assert_eq!(wire.poll_timeout(), None);
        assert_eq!((wire.stats(AToB).lost_down, wire.stats(BToA).lost_down), (1, 1));
        wire.set_up(true);
        wire.handle_packet(3 * MS, AToB, packet(3, 100));
        assert_eq!(numbers(&mut wire, 13 * MS), [3]);
    }

    #[test]
    fn a_shorter_delay_applies_to_new_packets_only() {
        let mut wire = wire(&[("delay", "100ms")]);
        wire.handle_packet(Duration::ZERO, AToB, packet(1, 100));
        wire.set_impairment(AToB, Impairment::default());
        wire.handle_packet(MS, AToB, packet(2, 100));
        assert_eq!(numbers(&mut wire, MS), [2]);
        assert_eq!(numbers(&mut wire, 100 * MS), [1]);
    }

    #[test]
    fn bytes_under_way_are_bounded() {
        let mut wire = wire(&[("delay", "10s")]);
        let packets = u32::try_from(IN_FLIGHT_LIMIT / 60_000).unwrap() + 10;
        for n in 0..packets {
            wire.handle_packet(MS, AToB, packet(n, 60_000));
        }
        assert_eq!(wire.stats(AToB).lost_overflow, 10);
        assert_eq!(numbers(&mut wire, Duration::MAX).len(), (packets - 10) as usize);
        wire.handle_packet(MS, AToB, packet(1, 60_000));
        assert_eq!(wire.stats(AToB).lost_overflow, 10);
    }

    fn wire(settings: &[(&str, &str)]) -> Wire {
        let mut impairment = Impairment::default();
        for (name, value) in settings {
            impairment.set(name, value).unwrap();
        }
        Wire::new(7, impairment, impairment)
    }

    /// An IPv4 header of protocol 17, then the number.
    fn packet(number: u32, len: usize) -> Vec<u8> {
        let mut packet = vec![0; len];
        packet[0] = 0x45;
        packet[9] = 17;
        packet[28..32].copy_from_slice(&number.to_be_bytes());
        packet
    }

    fn numbers(wire: &mut Wire, now: Duration) -> Vec<u32> {
        std::iter::from_fn(|| wire.poll_packet(now))
            .map(|(_, p)| u32::from_be_bytes([p[28], p[29], p[30], p[31]]))
            .collect()
    }
}
