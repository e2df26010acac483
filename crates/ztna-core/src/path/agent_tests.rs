use super::*;
use crate::path::checklist::{Keys, Local};
use crate::wire::check::{CheckKey, Token};
use crate::wire::path_signal::{Candidate, CandidateKind, Mapping, Message};

const TUNNEL: PathId = PathId::Relay(RelayPath { session: 1, forwarded: false });
const FORWARDED: PathId = PathId::Relay(RelayPath { session: 1, forwarded: true });
const OTHER: PathId = PathId::Relay(RelayPath { session: 2, forwarded: false });

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn relayed(now: Instant) -> PathAgent {
    let mut a = PathAgent::new(true);
    a.add(now, 1, ms(10));
    a.forwarded_up(now, 1);
    while a.poll_event().is_some() {}
    a
}

#[test]
fn data_flows_by_the_tunnel_at_once_and_by_forwarding_once_it_is_acknowledged() {
    let t = Instant::now();
    let mut a = PathAgent::new(true);
    a.add(t, 1, ms(10));
    assert_eq!(a.select(), (Some(TUNNEL), None));
    a.forwarded_up(t, 1);
    assert_eq!(a.select(), (Some(FORWARDED), None));
}

#[test]
fn silence_makes_the_path_suspect_and_both_carry_data() {
    let t = Instant::now();
    let mut a = relayed(t);
    a.handle_sent(t, true);
    assert_eq!(a.poll_timeout(), Some(t + ms(250)));
    a.handle_timeout(t + ms(250));
    assert_eq!(a.poll_event(), Some(PathEvent::Suspect));
    assert_eq!(a.select(), (Some(FORWARDED), Some(RelayPath::tunnel(1))));
}

#[test]
fn four_round_trips_are_waited_for_on_a_slow_path() {
    let t = Instant::now();
    let mut a = relayed(t);
    a.set_rtt(ms(200));
    a.handle_sent(t, true);
    a.handle_timeout(t + ms(700));
    assert_eq!(a.select(), (Some(FORWARDED), None));
    a.handle_timeout(t + ms(800));
    assert_eq!(a.select(), (Some(FORWARDED), Some(RelayPath::tunnel(1))));
}

#[test]
fn acknowledgements_alone_never_make_a_path_suspect() {
    let t = Instant::now();
    let mut a = relayed(t);
    a.handle_sent(t, false);
    assert_eq!(a.poll_timeout(), None);
}

#[test]
fn a_failed_forwarded_path_gives_way_to_its_tunnel_and_is_tried_again_later() {
    let t = Instant::now();
    let mut a = relayed(t);
    a.handle_sent(t, true);
    a.handle_timeout(t + ms(250));
    a.handle_received(t + ms(260), TUNNEL, true);
    assert_eq!(a.active(), Some(TUNNEL));
    while a.poll_event().is_some() {}
    a.forwarded_up(t + ms(270), 1);
    assert_eq!(a.active(), Some(TUNNEL), "not before its time");
    a.handle_timeout(t + ms(1_260));
    assert_eq!(a.poll_event(), Some(PathEvent::Reregister { session: 1 }));
    a.forwarded_up(t + ms(1_300), 1);
    assert_eq!(a.active(), Some(FORWARDED));
}

#[test]
fn a_peer_that_went_back_to_the_tunnel_is_followed() {
    let t = Instant::now();
    let mut a = relayed(t);
    a.handle_received(t + ms(10), FORWARDED, true);
    a.handle_received(t + ms(1_500), TUNNEL, true);
    assert_eq!(a.active(), Some(TUNNEL));
}

#[test]
fn stragglers_after_a_promotion_are_not_taken_for_the_peers_switch() {
    let t = Instant::now();
    let mut a = relayed(t);
    a.handle_received(t + ms(100), TUNNEL, true);
    assert_eq!(a.active(), Some(FORWARDED));
}

#[test]
fn a_dead_relay_hands_over_to_the_session_at_another_one() {
    let t = Instant::now();
    let mut a = relayed(t);
    a.add(t, 2, ms(30));
    a.forwarded_down(t, 1);
    a.handle_sent(t, true);
    a.handle_timeout(t + ms(250));
    assert_eq!(a.select(), (Some(TUNNEL), Some(RelayPath::tunnel(2))));
    a.handle_received(t + ms(300), OTHER, true);
    assert_eq!(a.select(), (Some(OTHER), None));
}

#[test]
fn a_connection_silent_on_all_paths_is_stalled_until_it_is_heard_again() {
    let t = Instant::now();
    let mut a = relayed(t);
    a.handle_sent(t, true);
    a.handle_timeout(t + ms(250));
    a.handle_timeout(t + ms(1_000));
    assert!(a.is_stalled());
    a.handle_received(t + ms(5_000), TUNNEL, true);
    assert!(!a.is_stalled());
}

#[test]
fn a_session_after_a_time_without_any_is_a_switch_that_the_peer_must_hear_of() {
    let t = Instant::now();
    let mut a = relayed(t);
    a.remove(t, 1);
    a.add(t, 2, ms(10));
    let last = std::iter::from_fn(|| a.poll_event()).last();
    assert_eq!(last, Some(PathEvent::Switched { to: OTHER, reason: Reason::Removed }));
}

#[test]
fn the_active_session_ending_moves_to_another_or_to_none() {
    let t = Instant::now();
    let mut a = relayed(t);
    a.add(t, 2, ms(30));
    a.remove(t, 1);
    assert_eq!(a.active(), Some(OTHER));
    a.remove(t, 2);
    assert_eq!(a.select(), (None, None));
}

#[test]
fn a_download_that_goes_silent_is_asked_after_and_then_in_doubt() {
    let t = Instant::now();
    let mut a = relayed(t);
    for n in 0..=60 {
        a.handle_received(t + ms(n * 10), FORWARDED, true);
    }
    assert_eq!(a.poll_timeout(), Some(t + ms(850)));
    a.handle_timeout(t + ms(850));
    assert_eq!(a.poll_event(), Some(PathEvent::Quiet));
    a.handle_sent(t + ms(850), true);
    a.handle_timeout(t + ms(1_100));
    assert_eq!(a.poll_event(), Some(PathEvent::Suspect));
}

/// With a direct path in use, and the peer heard on it.
fn direct(now: Instant) -> (PathAgent, PathId) {
    let address = "192.0.2.1:1000".parse().unwrap();
    let key = |of: u8| (Token([of; 8]), CheckKey::new([of; 32]));
    let mut direct = Direct::new(Keys { ours: key(1), theirs: key(2), mask: [1; 12] }, 1_320);
    let candidates = vec![Candidate { kind: CandidateKind::Host, address }];
    let mut signal = Vec::new();
    Message::Candidates { generation: 1, mapping: Mapping::Unknown, candidates }.encode(&mut signal);
    direct.handle_signal(now, &signal).unwrap();
    let pair = direct.list().pair_of(Local::default(), address).unwrap();
    let mut a = relayed(now);
    a.enable_direct(direct);
    a.via = Some(pair);
    a.handle_received(now, PathId::Direct(pair), true);
    (a, PathId::Direct(pair))
}

#[test]
fn what_a_direct_packet_overtook_is_not_taken_for_the_peers_leaving() {
    let t = Instant::now();
    let (mut a, path) = direct(t);
    for n in 1..200 {
        a.handle_received(t + ms(n), FORWARDED, true);
        assert_eq!(a.select(), (Some(path), None), "{n} ms");
        a.handle_received(t + ms(n), path, true);
    }
}

#[test]
fn a_peer_that_is_heard_by_the_relay_alone_puts_the_direct_path_in_doubt_once() {
    let t = Instant::now();
    let (mut a, path) = direct(t);
    a.handle_received(t + ms(20), FORWARDED, true);
    assert_eq!(a.select(), (Some(path), None));
    a.handle_received(t + ms(50), FORWARDED, true);
    assert_eq!(a.select(), (Some(path), Some(RelayPath::tunnel(1))));
    a.in_question = false;
    a.handle_received(t + ms(500), FORWARDED, true);
    assert_eq!(a.select(), (Some(path), None), "the checks have told");
}
