//! Agent, relay and connector machines together, in memory.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests: the clock is real because quiche's is"
)]

mod bounds;
mod budget;
mod bursts;
mod chaos;
mod closed_at_once;
mod crowd;
mod demanded;
mod denied;
mod direct;
mod exporter;
mod held;
mod hostile;
mod hostile_relay;
mod io;
mod last_bytes;
mod listing;
mod pair;
mod path_schedules;
mod played;
mod port_bursts;
mod port_mapping;
mod renewed;
mod replaced;
mod resets;
mod restarted;
mod rng;
mod schedules;
mod traffic;
mod udp_ends;
mod unreachable;
mod world;

use std::time::{Duration, Instant};

use world::{Outcome, World, node_at, relay_at};
use ztna_core::Error;
use ztna_core::node::KeyLimit;
use ztna_core::role::{Answer, Machine, Notice, PathKind, State};
use ztna_core::trust::Protocol;

fn up() -> World {
    let mut w = World::new(1, &["c1"]);
    w.start_relay(1);
    w.start_connector(node_at(2), "c1");
    w.start_agent(node_at(1), "alice", None);
    w
}

fn forwarded(w: &World) -> bool {
    w.agent(node_at(1)).node().links.iter().any(|(k, _)| {
        let path = w.agent(node_at(1)).node().describe_path(k);
        path.is_some_and(|p| p.kind == PathKind::Relay { forwarded: true })
    })
}

#[test]
fn a_flow_opens_and_echoes_both_ways_to_its_end() {
    let mut w = up();
    let flow = w.opened(node_at(1), "web");
    w.write(node_at(1), flow, b"hello", false);
    assert!(w.until(|w| w.received.get(&flow).is_some_and(|b| b == b"hello")));
}

#[test]
fn the_order_in_which_roles_start_does_not_matter() {
    let mut w = World::new(1, &["c1"]);
    w.start_agent(node_at(1), "alice", None);
    let flow = w.open(node_at(1), "web", Protocol::Tcp, Duration::from_secs(9));
    let soon = Instant::now() + Duration::from_millis(300);
    assert!(w.until(|_| Instant::now() > soon));
    w.start_connector(node_at(2), "c1");
    let soon = Instant::now() + Duration::from_millis(300);
    assert!(w.until(|_| Instant::now() > soon));
    w.start_relay(1);
    assert!(w.until(|w| w.outcomes.contains_key(&flow)));
    assert_eq!(w.outcomes.get(&flow), Some(&Outcome::Opened));
}

#[test]
fn bulk_moves_to_the_forwarded_path() {
    let mut w = up();
    let flow = w.opened(node_at(1), "web");
    assert!(w.until(forwarded), "never forwarded");
    let data: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
    w.write(node_at(1), flow, &data, true);
    assert!(w.until(|w| w.received.get(&flow).is_some_and(|b| b.len() == data.len())));
    assert!(w.received[&flow] == data);
    assert!(w.agent(node_at(1)).node().counters.forwarded_tx > 2_900_000);
}

#[test]
fn tunnel_mode_carries_the_same_bytes() {
    let mut w = tunnelled();
    let flow = w.opened(node_at(1), "web");
    let data: Vec<u8> = (0..1_000_000u32).map(|n| n as u8).collect();
    w.write(node_at(1), flow, &data, true);
    assert!(w.until(|w| w.received.get(&flow).is_some_and(|b| b.len() == data.len())));
    assert_eq!(w.agent(node_at(1)).node().counters.forwarded_tx, 0);
}

#[test]
fn a_forwarding_relay_that_goes_deaf_costs_no_flow() {
    let mut w = up();
    let flow = w.opened(node_at(1), "web");
    assert!(w.until(forwarded));
    // The relay loses raw inner packets, as one that has lost its table would: outer ones go on.
    let scids: Vec<[u8; 8]> =
        w.agent(node_at(1)).node().links.iter().filter_map(|(_, l)| l.conn.dcid().map(|c| c.0)).collect();
    let own: Vec<[u8; 8]> = w.agent(node_at(1)).node().links.iter().map(|(_, l)| l.conn.scid().0).collect();
    w.lose = Box::new(move |_, _, p| {
        p.first().is_some_and(|b| b & 0x80 == 0)
            && p.get(1..9).is_some_and(|d| scids.iter().chain(&own).any(|c| c.as_slice() == d))
    });
    let before = Instant::now();
    w.write(node_at(1), flow, b"still here", false);
    assert!(w.until(|w| w.received.get(&flow).is_some_and(|b| b == b"still here")));
    assert!(before.elapsed() < Duration::from_secs(5));
    assert!(!forwarded(&w));
}

#[test]
fn a_revoked_permission_cuts_the_flow_and_new_ones_are_denied() {
    let mut w = up();
    let flow = w.opened(node_at(1), "web");
    w.set_policy(r#"permit(principal == Agent::"bob", action, resource);"#);
    assert!(w.until(|w| matches!(w.outcomes.get(&flow), Some(Outcome::Reset(_)))));
    let next = w.open(node_at(1), "web", Protocol::Tcp, Duration::from_secs(5));
    assert!(w.until(|w| w.outcomes.contains_key(&next)));
    assert!(
        matches!(w.outcomes.get(&next), Some(Outcome::Failed(Error::Denied { .. }))),
        "{:?}",
        w.outcomes.get(&next)
    );
}

#[test]
fn an_older_snapshot_changes_nothing_at_a_running_node_and_is_warned_of() {
    let mut w = up();
    w.version = 5;
    w.set_policy(r#"permit(principal == Agent::"bob", action, resource);"#);
    w.version = 4;
    w.set_policy(world::POLICY);
    let flow = w.open(node_at(1), "web", Protocol::Tcp, Duration::from_secs(5));
    assert!(w.until(|w| w.outcomes.contains_key(&flow)));
    assert!(matches!(w.outcomes[&flow], Outcome::Failed(Error::Denied { .. })), "{:?}", w.outcomes[&flow]);
    for at in [relay_at(1), node_at(2)] {
        let told = |n: &Notice| matches!(n, Notice::Warning(e) if e.to_string().contains("version 4 is older than 5"));
        assert!(w.notices.iter().any(|(from, n)| *from == at && told(n)), "{at}");
    }
    w.version = 6;
    w.set_policy(world::POLICY);
    let _ = w.opened(node_at(1), "web");
}

#[test]
fn a_denied_service_says_who_denied_it_and_why() {
    let mut w = up();
    let flow = w.open(node_at(1), "secret", Protocol::Tcp, Duration::from_secs(5));
    assert!(w.until(|w| w.outcomes.contains_key(&flow)));
    let Some(Outcome::Failed(Error::Denied { by, decision, .. })) = w.outcomes.get(&flow) else {
        panic!("{:?}", w.outcomes.get(&flow))
    };
    assert_eq!(by.to_string(), "connector");
    assert!(decision.is_some());
}

#[test]
fn check_tells_the_decision_without_reaching_the_service() {
    let mut w = up();
    w.check(node_at(1), 900, "web");
    w.check(node_at(1), 901, "secret");
    assert!(w.until(|w| w.answers.len() == 2));
    assert!(matches!(w.answers[&900], Ok(Answer::Check { allowed: true, .. })));
    assert!(matches!(w.answers[&901], Ok(Answer::Check { allowed: false, .. })));
    assert!(!w.notices.iter().any(|(_, n)| matches!(n, Notice::Flow { .. })));
}

#[test]
fn ping_measures_the_way_to_the_service() {
    let mut w = up();
    w.ping(node_at(1), 900);
    assert!(w.until(|w| w.answers.contains_key(&900)));
    assert!(matches!(w.answers[&900], Ok(Answer::Ping { .. })), "{:?}", w.answers[&900]);
}

#[test]
fn datagrams_echo() {
    let mut w = up();
    let flow = w.open(node_at(1), "web", Protocol::Udp, Duration::from_secs(5));
    assert!(w.until(|w| w.outcomes.contains_key(&flow)));
    assert!(w.datagram(node_at(1), flow, b"question"));
    assert!(w.until(|w| w.received.get(&flow).is_some_and(|b| b == b"question")));
}

#[test]
fn a_second_relay_takes_over_when_the_first_is_killed() {
    let mut w = World::new(2, &["c1"]);
    w.start_relay(1);
    w.start_relay(2);
    w.start_connector(node_at(2), "c1");
    w.start_agent(node_at(1), "alice", None);
    let flow = w.opened(node_at(1), "web");
    let used =
        w.agent(node_at(1)).node().links.iter().find_map(|(k, _)| w.agent(node_at(1)).node().relay_of(k)).unwrap();
    w.kill(used.1);
    let from = Instant::now();
    let next = w.open(node_at(1), "web", Protocol::Tcp, Duration::from_secs(8));
    assert!(w.until(|w| w.outcomes.contains_key(&next)));
    assert_eq!(w.outcomes.get(&next), Some(&Outcome::Opened), "after {:?}", from.elapsed());
    // The flow that was open lives on over the other relay.
    w.write(node_at(1), flow, b"same flow", false);
    assert!(w.until(|w| w.received.get(&flow).is_some_and(|b| b == b"same flow")));
}

#[test]
fn a_second_connector_takes_new_flows_when_the_first_is_killed() {
    let mut w = World::new(1, &["c1", "c2"]);
    w.start_relay(1);
    w.start_connector(node_at(2), "c1");
    w.start_connector(node_at(3), "c2");
    w.start_agent(node_at(1), "alice", None);
    let _ = w.opened(node_at(1), "web");
    let used = w
        .agent(node_at(1))
        .node()
        .links
        .iter()
        .find(|(_, l)| !l.flows.is_empty())
        .map(|(_, l)| l.peer.clone())
        .unwrap();
    w.kill(if used == "c1" { node_at(2) } else { node_at(3) });
    let next = w.open(node_at(1), "web", Protocol::Tcp, Duration::from_secs(8));
    assert!(w.until(|w| w.outcomes.contains_key(&next)));
    assert_eq!(w.outcomes.get(&next), Some(&Outcome::Opened));
}

#[test]
fn a_connector_that_was_killed_and_came_back_serves_again() {
    let mut w = up();
    let _ = w.opened(node_at(1), "web");
    w.kill(node_at(2));
    w.start_connector(node_at(3), "c1");
    let next = w.open(node_at(1), "web", Protocol::Tcp, Duration::from_secs(9));
    assert!(w.until(|w| w.outcomes.contains_key(&next)));
    assert_eq!(w.outcomes.get(&next), Some(&Outcome::Opened));
}

#[test]
fn a_relay_that_was_killed_and_came_back_costs_no_flow() {
    let mut w = up();
    let flow = w.opened(node_at(1), "web");
    w.kill(relay_at(1));
    let soon = Instant::now() + Duration::from_millis(500);
    assert!(w.until(|_| Instant::now() > soon));
    w.start_relay(1);
    w.write(node_at(1), flow, b"after the restart", false);
    let back = w.until(|w| w.received.get(&flow).is_some_and(|b| b == b"after the restart"));
    assert!(back, "{:?}", w.outcomes.get(&flow));
}

/// Kills the relay in a quiet moment and starts it again; waits until the connector is bound there and tells how long that took.
fn restart_while_idle(w: &mut World) -> Duration {
    let quiet = Instant::now() + Duration::from_millis(500);
    assert!(w.until(|_| Instant::now() > quiet));
    w.kill(relay_at(1));
    w.start_relay(1);
    assert_eq!(w.connector(node_at(2)).node().bound_legs(), 1, "it can't know yet");
    let restarted = Instant::now();
    let bound = |w: &World| w.relay(relay_at(1)).status().connectors.len() == 1;
    assert!(w.until(bound), "the connector did not come back");
    restarted.elapsed()
}

#[test]
fn an_idle_connector_is_bound_again_soon_after_its_relay_was_restarted() {
    let mut w = up();
    let _ = w.opened(node_at(1), "web");
    let took = restart_while_idle(&mut w);
    assert!(took < Duration::from_millis(5_700), "{took:?}");
}

#[test]
fn a_flow_opened_after_an_unnoticed_restart_of_the_relay_opens_at_once() {
    let mut w = up();
    // A connection without flows: with open ones the agent asks its relay every 5 s, as a connector does.
    w.check(node_at(1), 900, "web");
    assert!(w.until(|w| w.answers.contains_key(&900) && forwarded(w)));
    restart_while_idle(&mut w);
    assert_eq!(w.relay(relay_at(1)).status().agents, 0, "the agent has noticed nothing yet");
    let asked = Instant::now();
    let _ = w.opened(node_at(1), "web");
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
}

#[test]
fn new_flows_move_to_a_successor_at_the_key_limit() {
    let mut w = World::new(1, &["c1"]);
    w.start_relay(1);
    w.start_connector(node_at(2), "c1");
    w.start_agent(node_at(1), "alice", Some(KeyLimit { successor: 1 << 12, cut: 1 << 14 }));
    let first = w.opened(node_at(1), "web");
    let old = w.agent(node_at(1)).node().links.iter().map(|(_, l)| l.conn.scid()).next().unwrap();
    // Half of the packets are acknowledgements: 4 MB are well past 2^12 packets and short of 2^14.
    w.write(node_at(1), first, &vec![7u8; 4_000_000], false);
    assert!(w.until(|w| w.received.get(&first).is_some_and(|b| b.len() == 4_000_000)));
    let next = w.opened(node_at(1), "web");
    let node = w.agent(node_at(1)).node();
    let link = node.flows.get(&next).map(|f| f.link).and_then(|l| node.links.get(l)).unwrap();
    assert_ne!(link.conn.scid(), old);
    assert_eq!(w.outcomes.get(&first), Some(&Outcome::Opened), "the first flow lives on");
    w.write(node_at(1), first, b"its last", true);
    assert!(w.until(|w| w.finished.contains(&first)));
    let left = |w: &World| w.agent(node_at(1)).node().links.len() + w.connector(node_at(2)).node().links.len();
    assert!(w.until(|w| left(w) == 2), "the old connection goes with its last flow, at both ends");
    assert_eq!(w.outcomes.get(&next), Some(&Outcome::Opened));
}

#[test]
fn what_stays_on_an_old_key_is_cut_at_the_hard_limit() {
    let mut w = World::new(1, &["c1"]);
    w.start_relay(1);
    w.start_connector(node_at(2), "c1");
    w.start_agent(node_at(1), "alice", Some(KeyLimit { successor: 256, cut: 512 }));
    let flow = w.opened(node_at(1), "web");
    let until = Instant::now() + Duration::from_secs(8);
    while !matches!(w.outcomes.get(&flow), Some(Outcome::Reset(_))) && Instant::now() < until {
        w.until_written(node_at(1), flow, &[1u8; 8_192]);
    }
    assert!(matches!(w.outcomes.get(&flow), Some(Outcome::Reset(Error::Limit(_)))), "{:?}", w.outcomes.get(&flow));
}

#[test]
fn an_agent_without_an_answer_says_what_it_tried() {
    let mut w = World::new(1, &["c1"]);
    w.start_agent(node_at(1), "alice", None);
    let flow = w.open(node_at(1), "web", Protocol::Tcp, Duration::from_millis(700));
    assert!(w.until(|w| w.outcomes.contains_key(&flow)));
    let Some(Outcome::Failed(Error::Unreachable { reason, tried, .. })) = w.outcomes.get(&flow) else {
        panic!("{:?}", w.outcomes.get(&flow))
    };
    assert_eq!(*reason, Some("udp-blocked"));
    assert!(tried.iter().any(|t| t.contains("r1")), "{tried:?}");
}

#[test]
fn an_agent_that_closes_ends_at_once_when_nothing_runs() {
    let mut w = up();
    let _ = w.until(|w| w.agent(node_at(1)).state() == State::Online);
    w.shut_down(node_at(1), Duration::from_secs(10));
    assert!(w.until(|w| !w.has(node_at(1))));
}

#[test]
fn a_drain_does_not_wait_for_the_flows_of_an_agent_that_was_killed() {
    let mut w = up();
    let _ = w.opened(node_at(1), "web");
    w.kill(node_at(1));
    w.shut_down(node_at(2), Duration::from_secs(10));
    let from = Instant::now();
    assert!(w.until(|w| !w.has(node_at(2))));
    assert!(from.elapsed() < Duration::from_secs(5), "{:?}", from.elapsed());
}

#[test]
fn a_drain_waits_for_the_flows_of_an_agent_that_lives() {
    let mut w = up();
    let _ = w.opened(node_at(1), "web");
    w.shut_down(node_at(2), Duration::from_secs(7));
    let from = Instant::now();
    assert!(w.until(|w| !w.has(node_at(2))));
    assert!(from.elapsed() > Duration::from_millis(6_900), "{:?}", from.elapsed());
}

#[test]
fn loss_of_a_tenth_of_all_packets_loses_no_byte() {
    let mut w = up();
    let mut n = 0u32;
    w.lose = Box::new(move |_, _, _| {
        n = n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        n >> 16 < 6_553
    });
    let flow = w.opened(node_at(1), "web");
    let data: Vec<u8> = (0..400_000u32).map(|n| (n * 7) as u8).collect();
    w.write(node_at(1), flow, &data, true);
    assert!(w.until(|w| w.received.get(&flow).is_some_and(|b| b.len() == data.len())));
    assert!(w.received[&flow] == data);
}

/// An open flow, and its end at the connector.
fn two_ends(w: &mut World) -> (ztna_core::FlowId, ztna_core::FlowId) {
    let flow = w.opened(node_at(1), "web");
    w.write(node_at(1), flow, b"x", false);
    assert!(w.until(|w| w.received.contains_key(&flow)));
    let quiet = Instant::now() + Duration::from_millis(800);
    assert!(w.until(|_| Instant::now() > quiet));
    (flow, w.served(node_at(2)))
}

#[test]
fn an_agent_that_only_listens_hears_on_when_its_link_shrinks() {
    let mut w = up();
    let (flow, far) = two_ends(&mut w);
    w.lose = Box::new(move |from, to, p| (from == node_at(1) || to == node_at(1)) && p.len() > NARROW);
    let from = Instant::now();
    w.write(node_at(2), far, &vec![1u8; 300_000], false);
    assert!(w.within(Duration::from_secs(30), |w| w.received[&flow].len() == 300_001));
    assert!(from.elapsed() < Duration::from_secs(5), "{:?}", from.elapsed());
}

#[test]
fn an_agent_that_only_listens_hears_on_after_a_restart_of_the_relay() {
    let mut w = up();
    let (flow, far) = two_ends(&mut w);
    restart_while_idle(&mut w);
    let from = Instant::now();
    w.write(node_at(2), far, &vec![1u8; 300_000], false);
    assert!(w.within(Duration::from_secs(30), |w| w.received[&flow].len() == 300_001));
    assert!(from.elapsed() < Duration::from_secs(5), "{:?}", from.elapsed());
}

/// What IPv4 and UDP leave of 1,280 bytes.
const NARROW: usize = 1_252;

/// How long a flow stands still when the link between a node and the relay shrinks in the middle of it.
fn narrowing(mut w: World, node: std::net::SocketAddr) -> Duration {
    let flow = w.opened(node_at(1), "web");
    let quiet = Instant::now() + Duration::from_millis(800);
    assert!(w.until(|_| Instant::now() > quiet));
    let first = vec![1u8; 500_000];
    w.write(node_at(1), flow, &first, false);
    assert!(w.until(|w| w.received.get(&flow).is_some_and(|b| b.len() == first.len())));
    w.lose = Box::new(move |from, to, p| (from == node || to == node) && p.len() > NARROW);
    let from = Instant::now();
    w.write(node_at(1), flow, &first, false);
    assert!(w.within(Duration::from_secs(60), |w| w.received.get(&flow).is_some_and(|b| b.len() == 2 * first.len())));
    from.elapsed()
}

fn tunnelled() -> World {
    let mut w = World::new(1, &["c1"]);
    w.tunnel_only();
    w.start_relay(1);
    w.start_connector(node_at(2), "c1");
    w.start_agent(node_at(1), "alice", None);
    w
}

#[test]
fn an_agents_link_that_shrinks_stops_a_flow_for_a_few_seconds_at_most() {
    for w in [up(), tunnelled()] {
        let took = narrowing(w, node_at(1));
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
}

#[test]
fn a_connectors_link_that_shrinks_stops_a_flow_for_a_few_seconds_at_most() {
    for w in [up(), tunnelled()] {
        let took = narrowing(w, node_at(2));
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
}
