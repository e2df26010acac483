use super::*;

const LARGEST: usize = 1_320;

fn key(of: u8) -> (Token, CheckKey) {
    (Token([of; 8]), CheckKey::new([of; 32]))
}

fn list(own: u8, peer: u8) -> Checklist {
    Checklist::new(Keys { ours: key(own), theirs: key(peer), mask: [own; 12] }, LARGEST)
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn a() -> SocketAddr {
    at("192.0.2.1:1000")
}

fn b() -> SocketAddr {
    at("198.51.100.2:2000")
}

fn host(address: SocketAddr) -> Candidate {
    Candidate { kind: CandidateKind::Host, address }
}

fn sent(list: &mut Checklist, now: Instant, budget: &mut Budget) -> Vec<Outgoing> {
    let peer = "spiffe://example.test/agent/a1".parse().unwrap();
    std::iter::from_fn(|| list.poll_transmit(now, &peer, budget)).collect()
}

/// Both lists know each other's address, and exchange all that is due.
fn exchange(lists: &mut [Checklist; 2], now: Instant) {
    let mut budget = Budget::default();
    for _ in 0..8 {
        for i in 0..2 {
            let from = [a(), b()][i];
            for out in sent(&mut lists[i], now, &mut budget) {
                lists[1 - i].handle_message(now, Local::default(), from, &out.bytes);
            }
        }
    }
}

fn pair() -> [Checklist; 2] {
    let mut lists = [list(1, 2), list(2, 1)];
    lists[0].set_remote(&[host(b())]);
    lists[1].set_remote(&[host(a())]);
    lists
}

#[test]
fn two_ends_that_reach_each_other_find_a_pair_that_carries_the_largest_packet() {
    let now = Instant::now();
    let mut lists = pair();
    lists[0].start_round(now);
    exchange(&mut lists, now);
    for l in &mut lists {
        assert_eq!(l.usable().count(), 1);
        assert!(std::iter::from_fn(|| l.poll_event()).any(|e| matches!(e, CheckEvent::Usable(_))));
    }
}

#[test]
fn a_check_that_crosses_ours_brings_another_soon_for_ours_may_have_come_to_a_closed_nat() {
    let now = Instant::now();
    let mut budget = Budget::default();
    let [mut ours, mut theirs] = pair();
    ours.start_round(now);
    assert_eq!(sent(&mut ours, now, &mut budget).len(), 1, "this one is lost");
    theirs.start_round(now);
    for check in sent(&mut theirs, now, &mut budget) {
        ours.handle_message(now, Local::default(), b(), &check.bytes);
    }
    let count = |l: &mut Checklist, at: Instant, b: &mut Budget| {
        sent(l, at, b).iter().filter(|o| o.bytes.starts_with(&[0, 1])).count()
    };
    assert_eq!(count(&mut ours, now, &mut budget), 0);
    assert_eq!(count(&mut ours, now + PACE * 4, &mut budget), 1);
}

#[test]
fn the_first_check_to_an_address_is_small_and_one_that_has_answered_gets_the_largest_once() {
    let now = Instant::now();
    let mut budget = Budget::default();
    let [mut ours, mut theirs] = pair();
    ours.start_round(now);
    let first = sent(&mut ours, now, &mut budget);
    assert_eq!(first.len(), 1);
    assert!(first[0].bytes.len() <= 120, "{}", first[0].bytes.len());
    theirs.handle_message(now, Local::default(), a(), &first[0].bytes);
    let answer = &sent(&mut theirs, now, &mut budget)[0];
    assert!(answer.bytes.len() <= first[0].bytes.len());
    ours.handle_message(now, Local::default(), b(), &answer.bytes);
    let second = sent(&mut ours, now, &mut budget);
    assert_eq!(second.iter().map(|o| o.bytes.len()).collect::<Vec<_>>(), [LARGEST]);
}

#[test]
fn a_check_of_another_connection_is_not_answered() {
    let now = Instant::now();
    let (mut ours, mut stranger) = (list(1, 2), list(3, 1));
    stranger.set_remote(&[host(a())]);
    stranger.start_round(now);
    let forged = &sent(&mut stranger, now, &mut Budget::default())[0];
    assert!(!ours.handle_message(now, Local::default(), b(), &forged.bytes));
    assert_eq!(sent(&mut ours, now, &mut Budget::default()), []);
}

#[test]
fn a_check_that_is_repeated_or_sent_back_changes_nothing() {
    let now = Instant::now();
    let mut budget = Budget::default();
    let [mut ours, mut theirs] = pair();
    ours.start_round(now);
    let check = sent(&mut ours, now, &mut budget).remove(0);
    assert!(theirs.handle_message(now, Local::default(), a(), &check.bytes));
    let _ = sent(&mut theirs, now, &mut budget);
    let elsewhere = at("203.0.113.9:9");
    assert!(!theirs.handle_message(now, Local::default(), elsewhere, &check.bytes), "replayed from elsewhere");
    assert!(!ours.handle_message(now, Local::default(), b(), &check.bytes), "reflected");
    assert_eq!(sent(&mut theirs, now, &mut budget), []);
    assert!(theirs.pair_of(Local::default(), elsewhere).is_none());
}

#[test]
fn an_answer_from_another_address_than_was_asked_is_not_believed() {
    let now = Instant::now();
    let mut budget = Budget::default();
    let [mut ours, mut theirs] = pair();
    ours.start_round(now);
    let check = sent(&mut ours, now, &mut budget).remove(0);
    theirs.handle_message(now, Local::default(), a(), &check.bytes);
    let answer = sent(&mut theirs, now, &mut budget).remove(0);
    assert!(!ours.handle_message(now, Local::default(), at("203.0.113.9:9"), &answer.bytes));
    assert_eq!(ours.reports()[0].outcome, Outcome::Waiting);
}

#[test]
fn an_address_that_never_answers_gets_twelve_checks_a_round_and_no_more() {
    let start = Instant::now();
    let mut budget = Budget::default();
    let mut ours = list(1, 2);
    ours.set_remote(&[host(b())]);
    ours.start_round(start);
    let count =
        (0..60_000).map(|ms| sent(&mut ours, start + Duration::from_millis(ms), &mut budget).len()).sum::<usize>();
    assert_eq!(count, ROUND.len());
    assert_eq!(ours.reports()[0].outcome, Outcome::TimedOut);
}

#[test]
fn a_peer_that_names_many_addresses_has_sixteen_checked_and_what_is_no_host_refused() {
    let now = Instant::now();
    let mut ours = list(1, 2);
    let named = ["127.0.0.1:1", "224.0.0.1:1", "169.254.0.1:1", "10.0.0.1:1"].map(|t| host(at(t)));
    ours.set_remote(&named);
    ours.start_round(now);
    let later = now + Duration::from_millis(100);
    let to: Vec<SocketAddr> = sent(&mut ours, later, &mut Budget::default()).iter().map(|o| o.to).collect();
    assert_eq!(to, [at("10.0.0.1:1")]);
    assert_eq!(ours.reports().iter().filter(|r| r.outcome == Outcome::Refused).count(), 3);
}

#[test]
fn genuine_data_from_a_new_address_brings_one_small_check_there() {
    let now = Instant::now();
    let mut ours = list(1, 2);
    ours.handle_unknown(now, Local::default(), b());
    let out = sent(&mut ours, now, &mut Budget::default());
    assert_eq!(out.iter().map(|o| (o.to, o.bytes.len() <= 120)).collect::<Vec<_>>(), [(b(), true)]);
    ours.handle_unknown(now, Local::default(), b());
    assert_eq!(sent(&mut ours, now, &mut Budget::default()), []);
}

#[test]
fn pairs_that_checks_from_everywhere_make_are_bounded() {
    let now = Instant::now();
    let mut ours = list(1, 2);
    for n in 0..10_000u32 {
        let from = SocketAddr::from((std::net::Ipv4Addr::from_bits(0x0a00_0000 + n), 9));
        ours.handle_unknown(now, Local::default(), from);
    }
    assert!(ours.reports().len() <= MAX_PAIRS);
    assert!(ours.pairs.len() <= MAX_PAIRS);
}

#[test]
fn a_pair_in_doubt_that_stays_silent_is_lost_within_a_second() {
    let start = Instant::now();
    let mut lists = pair();
    lists[0].start_round(start);
    exchange(&mut lists, start);
    let [ours, _] = &mut lists;
    let (id, _) = ours.usable().next().unwrap();
    while ours.poll_event().is_some() {}
    ours.doubt(start, id);
    let mut budget = Budget::default();
    let lost = (0..1_000).find(|ms| {
        let now = start + Duration::from_millis(*ms);
        let _ = sent(ours, now, &mut budget);
        std::iter::from_fn(|| ours.poll_event()).any(|e| e == CheckEvent::Lost(id))
    });
    assert!(lost.is_some_and(|ms| ms < 700), "{lost:?}");
}
