use super::*;
use crate::path::candidate::{Candidate, CandidateKind};
use crate::path::nat::Mapping;
use std::collections::BTreeSet;

const FIRST: SocketIndex = 2;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn hard_at() -> SocketAddr {
    "203.0.113.1:61000".parse().unwrap()
}

fn easy_at() -> SocketAddr {
    "198.51.100.9:5000".parse().unwrap()
}

fn on(socket: usize) -> Local {
    Local { socket: Some(socket), ip: None }
}

/// One end with its node's gate.
struct End {
    burst: Burst,
    gate: Gate,
    peer: SpiffeId,
    open: BTreeSet<SocketIndex>,
    /// Sockets that the system gives.
    room: usize,
    kept: Vec<SocketIndex>,
    results: Vec<BurstOutcome>,
    sent: Vec<(Instant, Local, SocketAddr)>,
    ready: bool,
}

impl End {
    fn new(local: Mapping, remote: Mapping, remote_at: SocketAddr) -> End {
        let mut burst = Burst::new(7);
        let named = Candidate { kind: CandidateKind::ServerReflexive, address: remote_at };
        burst.sides().set_local(local);
        burst.sides().set_remote(remote, &[named]);
        End {
            burst,
            gate: Gate::default(),
            peer: "spiffe://example.test/agent/a1".parse().unwrap(),
            open: BTreeSet::new(),
            room: 256,
            kept: Vec::new(),
            results: Vec::new(),
            sent: Vec::new(),
            ready: true,
        }
    }

    /// What the node and its loop do; gives the signals.
    fn settle(&mut self, now: Instant) -> Vec<(u64, BurstStep)> {
        if self.burst.poll_timeout(self.ready).is_some_and(|t| t <= now) {
            self.burst.handle_timeout(now);
        }
        while let Some(action) = self.burst.poll_action(now, &mut self.gate, 1, &self.peer, self.ready) {
            match action {
                BurstAction::Open { count } => {
                    let count = if count <= self.room { count } else { 0 };
                    self.open.extend(FIRST..FIRST + count);
                    self.burst.sockets_opened(now, FIRST, count);
                }
                BurstAction::Close { first, count } => {
                    (first..first + count).for_each(|s| assert!(self.open.remove(&s), "{s} was open"));
                }
                BurstAction::Keep { socket, .. } => self.kept.push(socket),
                BurstAction::Over(outcome) => self.results.push(outcome),
            }
        }
        while let Some((local, to)) = self.burst.poll_transmit(now) {
            self.sent.push((now, local, to));
        }
        std::iter::from_fn(|| self.burst.poll_signal()).collect()
    }

    fn asks(&mut self, now: Instant) -> bool {
        self.settle(now).iter().any(|(_, step)| *step == BurstStep::Ask)
    }
}

struct Two {
    start: Instant,
    now: Instant,
    hard: End,
    easy: End,
    signals: usize,
    /// Every signal of which the number is a multiple of this is lost.
    lose: usize,
}

impl Two {
    fn new() -> Two {
        let now = Instant::now();
        let (dependent, independent) = (Mapping::AddressAndPortDependent, Mapping::EndpointIndependent);
        let mut two = Two {
            start: now,
            now,
            hard: End::new(dependent, independent, easy_at()),
            easy: End::new(independent, dependent, hard_at()),
            signals: 0,
            lose: usize::MAX,
        };
        two.hard.burst.restart(now);
        two.easy.burst.restart(now);
        two
    }

    /// A millisecond at a time, signals arriving at once.
    fn run(&mut self, until: Duration) {
        while self.now < self.start + until {
            self.now += ms(1);
            let to_easy = self.hard.settle(self.now);
            let to_hard = self.easy.settle(self.now);
            let lose = self.lose;
            let mut arrives = |_: &(u64, BurstStep)| {
                self.signals += 1;
                !self.signals.is_multiple_of(lose)
            };
            let to_easy: Vec<_> = to_easy.into_iter().filter(&mut arrives).collect();
            let to_hard: Vec<_> = to_hard.into_iter().filter(&mut arrives).collect();
            to_easy.into_iter().for_each(|(n, step)| self.easy.burst.handle_signal(self.now, n, step));
            to_hard.into_iter().for_each(|(n, step)| self.hard.burst.handle_signal(self.now, n, step));
        }
    }
}

#[test]
fn the_hard_end_sends_once_from_256_sockets_and_the_easy_one_to_1024_ports_in_a_second() {
    let mut two = Two::new();
    two.run(ms(1_400));
    assert!(two.hard.sent.is_empty() && two.easy.sent.is_empty(), "ordinary checks come first");
    two.run(ms(3_000));
    let sockets: BTreeSet<_> = two.hard.sent.iter().filter_map(|(_, local, _)| local.socket).collect();
    assert_eq!(sockets, (FIRST..FIRST + 256).collect());
    assert!(two.hard.sent.len() == 256 && two.hard.sent.iter().all(|(_, _, to)| *to == easy_at()));
    let ports: BTreeSet<u16> = two.easy.sent.iter().map(|(_, _, to)| to.port()).collect();
    assert_eq!((two.easy.sent.len(), ports.len()), (1_024, 1_024));
    assert!(two.easy.sent.iter().all(|(_, local, to)| to.ip() == hard_at().ip() && *local == Local::default()));
    let last_opened = two.hard.sent.last().unwrap().0;
    let (begun, ended) = (two.easy.sent[0].0, two.easy.sent[1_023].0);
    assert!(last_opened <= begun, "no guess before all ports are open");
    assert!((ms(1_000)..ms(1_100)).contains(&(ended - begun)), "{:?}", ended - begun);
}

#[test]
fn a_burst_that_misses_closes_all_sockets_and_there_is_no_other_for_ten_minutes() {
    let mut two = Two::new();
    two.run(ms(6_000));
    assert!(two.hard.open.is_empty() && two.hard.kept.is_empty());
    assert_eq!(
        (&two.hard.results[..], &two.easy.results[..]),
        (&[BurstOutcome::Missed][..], &[BurstOutcome::Missed][..])
    );
    two.run(Duration::from_secs(600));
    assert_eq!((two.hard.sent.len(), two.easy.sent.len()), (256, 1_024));
    two.run(Duration::from_secs(608));
    assert_eq!((two.hard.sent.len(), two.easy.sent.len()), (512, 2_048));
    let ports: BTreeSet<u16> = two.easy.sent.iter().map(|(_, _, to)| to.port()).collect();
    assert!(ports.len() > 1_024, "others than the first time");
}

#[test]
fn every_step_survives_the_loss_of_a_signal() {
    for lose in 3..8 {
        let mut two = Two::new();
        two.lose = lose;
        two.run(ms(8_000));
        assert_eq!((two.hard.sent.len(), two.easy.sent.len()), (256, 1_024), "every {lose}th lost");
    }
}

#[test]
fn the_socket_that_a_guess_hits_stays_and_all_others_close_at_once() {
    for hit in [FIRST, FIRST + 100, FIRST + 255] {
        let mut two = Two::new();
        two.run(ms(2_000));
        assert_eq!(two.hard.open.len(), 256);
        assert!(two.hard.burst.owns(hit) && !two.hard.burst.owns(FIRST + 256) && !two.hard.burst.owns(FIRST - 1));
        two.hard.burst.heard(two.now, on(hit), easy_at());
        assert!(!two.hard.burst.owns(hit), "another hit is not for us");
        two.run(ms(2_001));
        assert_eq!((two.hard.open.iter().copied().collect::<Vec<_>>(), &two.hard.kept[..]), (vec![hit], &[hit][..]));
        assert_eq!(two.hard.results, [BurstOutcome::Met]);
        let sent = two.easy.sent.len();
        two.easy.burst.heard(two.now, Local::default(), SocketAddr::new(hard_at().ip(), 999));
        two.run(ms(4_000));
        assert_eq!((two.easy.sent.len(), &two.easy.results[..]), (sent, &[BurstOutcome::Met][..]));
    }
}

#[test]
fn a_guess_that_hits_the_main_socket_leaves_none_open() {
    let mut two = Two::new();
    two.run(ms(2_000));
    two.hard.burst.heard(two.now, Local::default(), easy_at());
    two.run(ms(2_001));
    assert!(two.hard.open.is_empty() && two.hard.kept.is_empty());
    assert_eq!(two.hard.results, [BurstOutcome::Met]);
}

#[test]
fn what_comes_from_elsewhere_ends_no_burst() {
    let mut two = Two::new();
    two.run(ms(2_000));
    let elsewhere = "192.0.2.77:5000".parse().unwrap();
    two.hard.burst.heard(two.now, on(FIRST), elsewhere);
    two.easy.burst.heard(two.now, Local::default(), elsewhere);
    assert!(two.hard.burst.is_running() && two.easy.burst.is_running());
}

#[test]
fn a_path_that_comes_up_otherwise_ends_it() {
    let mut two = Two::new();
    two.run(ms(2_000));
    for end in [&mut two.hard, &mut two.easy] {
        end.ready = false;
        end.burst.cancel(two.now);
    }
    let sent = two.easy.sent.len();
    two.run(ms(60_000));
    assert!(two.hard.open.is_empty());
    assert_eq!((two.easy.sent.len(), two.hard.sent.len()), (sent, 256));
    assert_eq!((two.hard.results.len(), two.easy.results.len()), (1, 1));
}

#[test]
fn a_peer_that_knows_no_bursts_is_asked_eight_times_and_costs_no_socket() {
    let mut two = Two::new();
    two.lose = 1;
    two.run(Duration::from_secs(600));
    assert_eq!(two.signals, 8);
    assert_eq!((two.hard.results.as_slice(), two.hard.sent.len()), (&[BurstOutcome::Unanswered][..], 0));
    assert_eq!(two.hard.gate.begin(two.now, 2, &two.hard.peer, easy_at().ip()), Ok(()), "nothing was spent");
}

#[test]
fn neither_end_of_a_metered_network_sends_anything_and_both_can_say_why() {
    let metered = BurstSettings { metered: true, ..BurstSettings::default() };
    let why = BurstRefusal::Metered;
    for hard_is in [true, false] {
        let mut two = Two::new();
        let (here, there) = if hard_is { (&mut two.hard, &mut two.easy) } else { (&mut two.easy, &mut two.hard) };
        here.gate.set(metered);
        there.gate.set(BurstSettings::default());
        two.run(Duration::from_secs(60));
        let (here, there) = if hard_is { (&two.hard, &two.easy) } else { (&two.easy, &two.hard) };
        assert_eq!(here.burst.outcome(), Some(BurstOutcome::RefusedHere(why)));
        assert_eq!(there.burst.outcome(), Some(BurstOutcome::RefusedThere(why)));
        assert!(two.hard.sent.is_empty() && two.easy.sent.is_empty());
        assert!(two.signals <= 2, "{}", two.signals);
    }
}

#[test]
fn an_end_that_is_busy_is_asked_again_soon() {
    let mut two = Two::new();
    let another: SpiffeId = "spiffe://example.test/agent/a2".parse().unwrap();
    two.easy.gate.begin(two.now, 9, &another, "192.0.2.1".parse().unwrap()).unwrap();
    two.run(ms(5_000));
    assert_eq!(two.hard.burst.outcome(), Some(BurstOutcome::RefusedThere(BurstRefusal::Busy)));
    two.easy.gate.end(9);
    two.run(ms(9_000));
    assert_eq!((two.hard.sent.len(), two.easy.sent.len()), (256, 1_024));
}

#[test]
fn fewer_sockets_are_taken_where_the_system_has_no_more_and_below_16_none() {
    for (room, taken) in [(200, 128), (70, 64), (16, 16), (15, 0)] {
        let mut two = Two::new();
        two.hard.room = room;
        two.run(ms(6_000));
        assert_eq!(two.hard.sent.len(), taken, "{room}");
        assert_eq!(two.easy.sent.len(), if taken > 0 { 1_024 } else { 0 });
        assert!(two.hard.open.is_empty() && !two.easy.burst.is_running());
        let why = if taken > 0 { BurstOutcome::Missed } else { BurstOutcome::NoSockets };
        assert_eq!(two.hard.results, [why]);
    }
}

#[test]
fn sockets_that_come_when_nobody_waits_for_them_are_closed() {
    let mut two = Two::new();
    two.hard.burst.sockets_opened(two.now, 5, 256);
    two.hard.open.extend(5..261);
    two.hard.settle(two.now);
    assert!(two.hard.open.is_empty());
}

#[test]
fn steps_that_nobody_has_agreed_to_bring_nothing_about() {
    let mut two = Two::new();
    for step in [BurstStep::Open, BurstStep::Begun, BurstStep::Agree { checks: 9 }] {
        two.easy.burst.handle_signal(two.now, 1, step);
        two.hard.burst.handle_signal(two.now, 1, step);
    }
    assert!(!two.easy.burst.is_running() && !two.hard.burst.is_running());
    two.lose = 1;
    two.run(ms(1_501));
    two.hard.burst.handle_signal(two.now, 0, BurstStep::Agree { checks: 9 });
    two.hard.burst.handle_signal(two.now, 2, BurstStep::Agree { checks: 9 });
    assert!(two.hard.settle(two.now).is_empty() && two.hard.open.is_empty(), "of another attempt");
}

#[test]
fn a_peer_that_asks_and_never_opens_has_had_its_turn() {
    let mut two = Two::new();
    two.easy.burst.handle_signal(two.now, 1, BurstStep::Ask);
    assert_eq!(two.easy.settle(two.now), [(1, BurstStep::Agree { checks: 1_024 })]);
    two.easy.burst.handle_signal(two.now, 2, BurstStep::Ask);
    assert_eq!(two.easy.settle(two.now), [(2, BurstStep::Refuse(BurstRefusal::Busy))]);
    let later = two.now + PATIENCE * 2;
    assert!(two.easy.settle(later).is_empty() && !two.easy.burst.is_running());
    two.easy.burst.handle_signal(later, 3, BurstStep::Ask);
    assert_eq!(two.easy.settle(later), [(3, BurstStep::Refuse(BurstRefusal::TooSoon))]);
    assert!(two.easy.sent.is_empty());
}

#[test]
fn a_peer_that_promises_checks_without_end_holds_the_sockets_for_seconds() {
    let mut two = Two::new();
    assert!(two.hard.asks(two.now + RIPE));
    let mut now = two.now + RIPE;
    two.hard.burst.handle_signal(now, 1, BurstStep::Agree { checks: u16::MAX });
    for _ in 0..6_000 {
        two.hard.settle(now);
        two.hard.burst.handle_signal(now, 1, BurstStep::Begun);
        now += ms(1);
    }
    assert!(two.hard.open.is_empty());
    assert_eq!(two.hard.results, [BurstOutcome::Missed]);
}

#[test]
fn an_end_with_a_direct_path_refuses_and_is_asked_no_more_than_every_five_seconds() {
    let mut two = Two::new();
    two.easy.ready = false;
    two.run(Duration::from_secs(61));
    assert_eq!(two.hard.burst.outcome(), Some(BurstOutcome::RefusedThere(BurstRefusal::Unsuitable)));
    assert!(two.hard.sent.is_empty() && two.easy.sent.is_empty());
    assert!((20..=26).contains(&two.signals), "{}", two.signals);
}
