//! Whether a connection's packets leave in bursts, which one system call hands to the kernel as a whole (UDP segmentation offload), or
//! one by one: some kernels send bursts that no receiver takes, while packets sent singly arrive.
//!
//! ```text
//!               bursts seem to be lost                    the pause is over
//!   Together ───────────────────────────► Singly(pause) ─────────────────────► Together, on trial
//!      ▲                                       ▲            lost once more, twice the pause │
//!      │                                       └────────────────────────────────────────────┤
//!      └────────────────────────────────────────────────────── a burst arrives: all is well ┘
//! ```
//!
//! quiche does not tell which packets were acknowledged, but how many bytes. So all that is acknowledged may have gone singly until
//! there is more of it than went singly: then a burst has arrived. Nothing here is done per packet: tell what was sent once a burst,
//! then [`judge`](Bursts::judge) once a batch and after each timer.

use std::time::{Duration, Instant};

/// The first pause: long against any round trip, so that what goes singly has time to be acknowledged, and a bulk flow that lost
/// nothing but its tail pays with a little processor time for no longer than that.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest. A trial costs a flow one probe timeout, which once in ten minutes nobody notices.
const LONGEST: Duration = Duration::from_secs(600);
/// Probe timeouts (RFC 9002 §6.2) without an acknowledgement in between that tell against bursts of which some have arrived. The end
/// of a flight is lost now and then; with it the probe of the first timeout and both of the second, in one of 10,000 flights where
/// one packet in ten is.
const SILENT: u32 = 3;
/// So many bytes have to go in bursts before the share of loss says something: an initial window (RFC 9002 §7.2).
const ENOUGH: u64 = 10 * 1_200;
/// Bursts against which nothing was held for so long after the first have arrived, even if all that was acknowledged could have gone
/// singly: one that is lost shows within a probe timeout, which is shorter than this on any usable path.
const STOOD: Duration = Duration::from_secs(10);
/// Acknowledgements wait at the peer for at most so long (RFC 9000 §18.2, `max_ack_delay`, its default).
const ACK_DELAY: Duration = Duration::from_millis(25);

/// What a connection has seen by now, in totals over its life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Bytes of packets acknowledged.
    pub acked: u64,
    /// Bytes of packets declared lost.
    pub lost: u64,
    /// Probe timeouts.
    pub probes: u64,
    /// Nothing waits for an acknowledgement now.
    pub settled: bool,
}

/// How one connection sends. See the module.
#[derive(Debug, Default)]
pub struct Bursts {
    state: State,
    seen: Seen,
    /// Probe timeouts since something was last acknowledged.
    silent: u32,
    /// How long the next pause will be; longer than the first while bursts are on trial after one that helped.
    next: Duration,
    found: bool,
}

#[derive(Debug)]
enum State {
    Together {
        /// A burst has arrived.
        proven: bool,
        ledger: Ledger,
    },
    Singly {
        until: Instant,
        pause: Duration,
        /// What was acknowledged when it began.
        acked: u64,
    },
}

impl Default for State {
    fn default() -> Self {
        State::Together { proven: false, ledger: Ledger::default() }
    }
}

/// What was sent since some moment, and what became of it.
#[derive(Debug, Default)]
struct Ledger {
    /// What is acknowledged or lost before this may have been sent before the ledger was opened, and is not entered.
    from: Option<Instant>,
    acked: u64,
    lost: u64,
    /// Bytes sent.
    singly: u64,
    together: u64,
    first_burst: Option<Instant>,
}

impl Bursts {
    /// How many packets the next burst may have: `most`, or 1.
    pub fn limit(&self, most: usize) -> usize {
        if self.sends_singly() { most.min(1) } else { most }
    }

    pub fn sends_singly(&self) -> bool {
        matches!(self.state, State::Singly { .. })
    }

    /// So many packets have gone as one burst, with so many bytes in all.
    pub fn handle_sent(&mut self, packets: usize, bytes: usize) {
        if let State::Together { ledger, .. } = &mut self.state {
            let account = if packets > 1 { &mut ledger.together } else { &mut ledger.singly };
            *account += bytes as u64;
        }
    }

    /// Weighs what has been seen. `round_trip` is asked for where a new ledger is opened.
    pub fn judge(&mut self, now: Instant, seen: Seen, round_trip: impl FnOnce() -> Duration) {
        let probed = seen.probes.saturating_sub(self.seen.probes);
        let before = if seen.acked > self.seen.acked { 0 } else { self.silent };
        self.silent = before.saturating_add(u32::try_from(probed).unwrap_or(u32::MAX));
        self.seen = seen;
        match &mut self.state {
            State::Together { proven, ledger } => {
                ledger.enter(now, seen);
                if ledger.shows_arrival(seen) {
                    self.next = PAUSE;
                    self.state = State::Together { proven: true, ledger: Ledger::open(now, seen, round_trip()) };
                } else if probed > 0 && ledger.together > 0 && (!*proven || self.silent >= SILENT)
                    || ledger.shows_loss(seen)
                {
                    self.withhold(now);
                } else if !*proven && ledger.first_burst.is_some_and(|t| now >= t + STOOD) {
                    *proven = true;
                    self.next = PAUSE;
                }
            }
            State::Singly { until, pause, acked } if now >= *until => {
                // Where nothing arrived singly either, it is not the bursts.
                self.next = if seen.acked > *acked { pause.saturating_mul(2).min(LONGEST) } else { *pause };
                self.silent = 0;
                self.state = State::Together { proven: false, ledger: Ledger::open(now, seen, round_trip()) };
            }
            State::Singly { .. } => {}
        }
    }

    fn withhold(&mut self, now: Instant) {
        let pause = self.next.max(PAUSE);
        self.found |= pause > PAUSE;
        self.state = State::Singly { until: now + pause, pause, acked: self.seen.acked };
    }

    /// Packets take another way from now on, of which nothing is known.
    pub fn start_over(&mut self, now: Instant, seen: Seen, round_trip: Duration) {
        let ledger = Ledger::open(now, seen, round_trip);
        *self = Bursts {
            state: State::Together { proven: false, ledger },
            seen,
            silent: 0,
            next: PAUSE,
            found: self.found,
        };
    }

    /// Whether bursts were lost again right after a pause in which packets arrived singly: once for each time.
    pub fn take_found(&mut self) -> bool {
        std::mem::take(&mut self.found)
    }
}

impl Ledger {
    fn open(now: Instant, seen: Seen, round_trip: Duration) -> Self {
        let from = (!seen.settled).then(|| now + round_trip * 2 + ACK_DELAY);
        Ledger { from, acked: seen.acked, lost: seen.lost, ..Ledger::default() }
    }

    fn enter(&mut self, now: Instant, seen: Seen) {
        if let Some(from) = self.from {
            (self.acked, self.lost) = (seen.acked, seen.lost);
            if seen.settled {
                (self.singly, self.together) = (0, 0);
            }
            if seen.settled || now >= from {
                self.from = None;
            }
        }
        if self.together > 0 {
            self.first_burst.get_or_insert(now);
        }
    }

    /// More is acknowledged than went singly.
    fn shows_arrival(&self, seen: Seen) -> bool {
        self.together > 0 && seen.acked.saturating_sub(self.acked) > self.singly
    }

    /// More than half of what went together is lost. Where none of it is known to have arrived, only that explains it.
    fn shows_loss(&self, seen: Seen) -> bool {
        self.together >= ENOUGH && seen.lost.saturating_sub(self.lost) > self.together / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND_TRIP: Duration = Duration::from_millis(40);
    const PACKET: u64 = 1_200;

    /// A sender of flights, one a round trip, and a way that loses some of them.
    struct Sender {
        bursts: Bursts,
        origin: Instant,
        now: Instant,
        seen: Seen,
        random: u64,
        /// Of 100 packets, at random.
        loss: u64,
        /// Whether packets that leave together are lost.
        dies: bool,
        singly: Duration,
    }

    impl Sender {
        fn new() -> Sender {
            let now = Instant::now();
            Sender {
                bursts: Bursts::default(),
                origin: now,
                now,
                seen: Seen::default(),
                random: 7,
                loss: 0,
                dies: false,
                singly: Duration::ZERO,
            }
        }

        fn is_lost(&mut self) -> bool {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            self.random % 100 < self.loss
        }

        fn judge(&mut self) {
            self.bursts.judge(self.now, self.seen, || ROUND_TRIP);
        }

        fn pass(&mut self, time: Duration) {
            if self.bursts.sends_singly() {
                self.singly += time;
            }
            self.now += time;
        }

        /// Sends `packets`, in bursts of `most` at most: how many arrive, and how many of the last don't.
        fn send(&mut self, packets: usize, most: usize) -> (u64, u64) {
            let (mut arrived, mut tail) = (0, 0);
            let mut left = packets;
            while left > 0 {
                let n = left.min(self.bursts.limit(most));
                self.bursts.handle_sent(n, n * PACKET as usize);
                for _ in 0..n {
                    if self.is_lost() || self.dies && n > 1 {
                        tail += 1;
                    } else {
                        (arrived, tail) = (arrived + 1, 0);
                    }
                }
                left -= n;
            }
            (arrived, tail)
        }

        /// A flight, and what the peer says of it a round trip later. What nothing overtakes is probed for.
        fn flight(&mut self, packets: usize) {
            let (arrived, tail) = self.send(packets, 48);
            self.hear(arrived, packets as u64 - arrived - tail, tail == 0);
            let mut probes = 1;
            let mut heard = tail == 0;
            while !heard {
                self.pass(ROUND_TRIP * 2);
                self.seen.probes += 1;
                self.judge();
                let (arrived, _) = self.send(probes, 48);
                heard = arrived > 0;
                self.hear(arrived, if heard { tail } else { 0 }, heard);
                probes = 2;
            }
        }

        /// A flight of a flow that has more to send: what comes behind overtakes its end.
        fn flight_of_many(&mut self, packets: usize) {
            let (arrived, _) = self.send(packets, 48);
            if arrived == 0 {
                self.pass(ROUND_TRIP * 2);
                self.seen.probes += 1;
                self.judge();
            } else {
                self.hear(arrived, packets as u64 - arrived, false);
            }
        }

        fn hear(&mut self, acked: u64, lost: u64, settled: bool) {
            self.pass(ROUND_TRIP);
            self.seen.acked += acked * PACKET;
            self.seen.lost += lost * PACKET;
            self.seen.settled = settled;
            self.judge();
            self.seen.settled = false;
        }

        fn run(&mut self, time: Duration, mut flight: impl FnMut(&mut Sender)) {
            let until = self.now + time;
            while self.now < until {
                flight(self);
            }
        }

        fn share_singly(&self) -> f64 {
            self.singly.as_secs_f64() / (self.now - self.origin).as_secs_f64()
        }
    }

    #[test]
    fn packets_leave_in_bursts_from_the_start_and_as_long_as_they_arrive() {
        let mut s = Sender::new();
        assert_eq!(s.bursts.limit(48), 48);
        s.run(Duration::from_secs(60), |s| s.flight(20));
        assert!(s.singly.is_zero());
        assert!(!s.bursts.take_found());
    }

    #[test]
    fn the_first_probe_timeout_ends_bursts_of_which_none_has_arrived() {
        let mut s = Sender::new();
        s.dies = true;
        s.flight(2);
        assert!(s.bursts.sends_singly());
        assert_eq!(s.seen.probes, 1);
        assert_eq!(s.bursts.limit(48), 1);
    }

    #[test]
    fn single_packets_that_are_lost_say_nothing_of_bursts() {
        let mut s = Sender::new();
        s.loss = 100;
        s.send(1, 1);
        for _ in 0..5 {
            s.pass(Duration::from_secs(1));
            s.seen.probes += 1;
            s.judge();
        }
        assert!(!s.bursts.sends_singly());
    }

    #[test]
    fn bursts_that_never_arrive_are_tried_again_after_pauses_that_double_up_to_ten_minutes() {
        let mut s = Sender::new();
        s.dies = true;
        let mut pauses = Vec::new();
        let mut began = None;
        s.run(Duration::from_secs(3_600), |s| {
            s.flight(4);
            match (s.bursts.sends_singly(), began) {
                (true, None) => began = Some(s.now),
                (false, Some(t)) => {
                    pauses.push((s.now - t).as_secs_f64().round() as u64);
                    began = None;
                }
                (true, Some(_)) | (false, None) => {}
            }
        });
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600, 600, 600]);
        assert!(s.bursts.take_found());
    }

    #[test]
    fn bursts_lost_between_single_packets_that_arrive_are_found_by_their_share_of_loss() {
        let mut s = Sender::new();
        s.dies = true;
        for _ in 0..10 {
            s.send(2, 2);
            s.send(1, 1);
            s.hear(1, 2, false);
        }
        assert!(s.bursts.sends_singly());
        assert_eq!(s.seen.probes, 0);
    }

    #[test]
    fn a_lost_tail_of_bursts_that_arrive_changes_nothing() {
        let mut s = Sender::new();
        s.flight(10);
        s.flight(10);
        s.send(10, 10);
        s.pass(ROUND_TRIP * 4);
        s.seen.probes += 1;
        s.judge();
        assert!(!s.bursts.sends_singly());
    }

    #[test]
    fn bursts_that_cease_to_arrive_in_the_middle_of_a_flow_end_by_its_second_flight() {
        let mut s = Sender::new();
        s.run(Duration::from_secs(5), |s| s.flight(20));
        s.dies = true;
        s.flight(20);
        s.flight(20);
        assert!(s.bursts.sends_singly());
    }

    #[test]
    fn one_packet_in_ten_lost_at_random_leaves_a_bulk_flow_its_bursts() {
        for seed in 1..20 {
            let mut s = Sender::new();
            (s.random, s.loss) = (seed, 10);
            s.run(Duration::from_secs(600), |s| s.flight_of_many(40));
            assert!(s.share_singly() < 0.02, "seed {seed}: {}", s.share_singly());
        }
    }

    #[test]
    fn one_packet_in_ten_lost_at_random_costs_short_exchanges_few_of_their_bursts_and_no_long_pause() {
        for seed in 1..20 {
            let mut s = Sender::new();
            (s.random, s.loss) = (seed, 10);
            s.run(Duration::from_secs(600), |s| s.flight(2));
            assert!(s.share_singly() < 0.05, "seed {seed}: {}", s.share_singly());
        }
    }

    #[test]
    fn an_outage_is_not_held_against_bursts() {
        let mut s = Sender::new();
        s.run(Duration::from_secs(5), |s| s.flight(20));
        // Every probe is lost, with growing pauses between them.
        for n in 0..10u32 {
            s.send(2, 2);
            s.pass(ROUND_TRIP * 2u32.pow(n));
            s.seen.probes += 1;
            s.judge();
        }
        assert!(!s.bursts.take_found());
        let before = s.singly;
        s.run(Duration::from_secs(30), |s| s.flight(20));
        assert!(s.singly <= before + PAUSE * 2);
    }

    #[test]
    fn a_kernel_that_was_mended_is_believed_after_one_trial() {
        let mut s = Sender::new();
        s.dies = true;
        s.run(Duration::from_secs(20), |s| s.flight(4));
        assert!(s.bursts.take_found());
        s.dies = false;
        s.run(Duration::from_secs(40), |s| s.flight(4));
        assert!(!s.bursts.sends_singly());
        // And the next doubt begins with the shortest pause.
        s.dies = true;
        s.run(PAUSE, |s| s.flight(4));
        assert!(s.bursts.sends_singly());
        assert!(!s.bursts.take_found());
    }

    #[test]
    fn another_path_begins_with_bursts() {
        let mut s = Sender::new();
        s.dies = true;
        s.run(Duration::from_secs(20), |s| s.flight(4));
        s.bursts.start_over(s.now, s.seen, ROUND_TRIP);
        assert_eq!(s.bursts.limit(48), 48);
        s.dies = false;
        s.run(Duration::from_secs(5), |s| s.flight(4));
        assert!(!s.bursts.sends_singly());
    }
}
