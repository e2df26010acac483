//! A running node that gets another certificate: connections under the old one are left in time, and nothing ends with it but
//! flows that outlive it.

use std::time::{Duration, Instant};

use ztna_core::node::Node;
use ztna_core::role::{Notice, State};
use ztna_core::{FlowId, Role};

use super::world::{Outcome, World, node_at, relay_at};
use super::{tunnelled, up};

const ALICE: u8 = 1;
const C1: u8 = 2;
/// Of the first certificates: long enough for a machine with other work to bring a flow up.
const SHORT: Duration = Duration::from_secs(6);

/// One relay, one connector, one agent, and a flow that has carried something. The certificate of `short` is about to end.
fn about_to_end(short: Role) -> (World, FlowId, Instant) {
    let mut w = World::new(1, &["c1"]);
    let life = w.life;
    let of = |w: &mut World, role| w.life = if role == short { SHORT } else { life };
    of(&mut w, Role::Relay);
    w.start_relay(1);
    of(&mut w, Role::Connector);
    w.start_connector(node_at(C1), "c1");
    of(&mut w, Role::Agent);
    let end = Instant::now() + SHORT + Duration::from_secs(1);
    w.start_agent(node_at(ALICE), "alice", None);
    w.life = life;
    let flow = w.opened(node_at(ALICE), "web");
    echoes(&mut w, flow, b"before");
    (w, flow, end)
}

fn echoes(w: &mut World, flow: FlowId, bytes: &[u8]) {
    w.write(node_at(ALICE), flow, bytes, false);
    assert!(w.until(|w| w.received.get(&flow).is_some_and(|b| b.ends_with(bytes))), "{:?}", w.outcomes.get(&flow));
}

/// Serial numbers of the peers on a node's inner connections.
fn peers(node: &Node) -> Vec<String> {
    node.links.iter().filter_map(|(_, l)| Some(l.conn.identity()?.serial.clone())).collect()
}

fn outlives(mut w: World, flow: FlowId, end: Instant) {
    while Instant::now() < end {
        w.turn();
        assert_eq!(w.outcomes.get(&flow), Some(&Outcome::Opened));
    }
    echoes(&mut w, flow, b"after the end");
}

#[test]
fn a_flow_opened_after_an_agents_renewal_goes_under_the_new_certificate_and_the_older_flow_goes_on() {
    let mut w = up();
    let older = w.opened(node_at(ALICE), "web");
    let before = peers(w.connector(node_at(C1)).node());
    w.renew(node_at(ALICE), Role::Agent, "alice");
    let newer = w.opened(node_at(ALICE), "web");
    echoes(&mut w, newer, b"newer");
    echoes(&mut w, older, b"older");
    let after = peers(w.connector(node_at(C1)).node());
    assert_eq!(after.len(), 2);
    assert!(after.iter().any(|s| !before.contains(s)));
}

#[test]
fn a_flow_opened_after_a_connectors_renewal_goes_under_the_new_certificate_and_the_older_flow_goes_on() {
    let mut w = up();
    let older = w.opened(node_at(ALICE), "web");
    let before = peers(w.agent(node_at(ALICE)).node());
    w.renew(node_at(C1), Role::Connector, "c1");
    assert!(w.until(|w| w.agent(node_at(ALICE)).node().links.iter().all(|(_, l)| l.retiring)));
    let newer = w.opened(node_at(ALICE), "web");
    echoes(&mut w, newer, b"newer");
    echoes(&mut w, older, b"older");
    let after = peers(w.agent(node_at(ALICE)).node());
    assert_eq!(after.len(), 2);
    assert!(after.iter().any(|s| !before.contains(s)));
}

#[test]
fn an_inner_connection_under_the_old_certificate_ends_with_its_last_flow() {
    let mut w = up();
    let flow = w.opened(node_at(ALICE), "web");
    w.renew(node_at(ALICE), Role::Agent, "alice");
    w.write(node_at(ALICE), flow, b"", true);
    assert!(w.until(|w| w.connector(node_at(C1)).node().links.iter().next().is_none()));
}

/// One flow, from its request to its end.
fn one_flow(w: &mut World) {
    let flow = w.opened(node_at(ALICE), "web");
    w.write(node_at(ALICE), flow, b"all of it", true);
    assert!(w.until(|w| w.finished.contains(&flow)));
}

#[test]
fn an_inner_connection_without_flows_ends_at_both_ends_when_its_agent_is_renewed() {
    let mut w = up();
    for _ in 0..5 {
        one_flow(&mut w);
        w.renew(node_at(ALICE), Role::Agent, "alice");
        let left = |w: &World| w.connector(node_at(C1)).node().links.len() + w.agent(node_at(ALICE)).node().links.len();
        assert!(w.within(Duration::from_secs(3), |w| left(w) == 0), "{} are left", left(&w));
    }
}

#[test]
fn an_agent_that_closes_right_after_its_renewal_leaves_no_inner_connection_behind() {
    for (new, pause) in (0..80).step_by(10).flat_map(|ms| [(up as fn() -> World, ms), (tunnelled, ms)]) {
        let mut w = new();
        w.delay = Box::new(|_, _, _| Duration::from_millis(10));
        one_flow(&mut w);
        w.renew(node_at(ALICE), Role::Agent, "alice");
        let later = Instant::now() + Duration::from_millis(pause);
        while Instant::now() < later {
            w.turn();
        }
        w.shut_down(node_at(ALICE), Duration::from_millis(500));
        assert!(w.until(|w| !w.has(node_at(ALICE))));
        let ended = w.within(Duration::from_secs(2), |w| w.connector(node_at(C1)).node().links.is_empty());
        assert!(ended, "closed {pause} ms after it");
    }
}

#[test]
fn a_flow_opened_after_an_agents_renewal_outlives_the_old_certificate_also_at_the_only_relay() {
    let (mut w, _, end) = about_to_end(Role::Agent);
    w.renew(node_at(ALICE), Role::Agent, "alice");
    let flow = w.opened(node_at(ALICE), "web");
    outlives(w, flow, end);
}

#[test]
fn a_flow_opened_after_a_connectors_renewal_outlives_the_old_certificate_also_at_the_only_relay() {
    let (mut w, _, end) = about_to_end(Role::Connector);
    w.renew(node_at(C1), Role::Connector, "c1");
    assert!(w.until(|w| w.agent(node_at(ALICE)).node().links.iter().all(|(_, l)| l.retiring)));
    let flow = w.opened(node_at(ALICE), "web");
    outlives(w, flow, end);
}

#[test]
fn a_relays_renewal_costs_no_flow_when_the_old_certificate_ends() {
    let (mut w, flow, end) = about_to_end(Role::Relay);
    w.renew(relay_at(1), Role::Relay, "r1");
    outlives(w, flow, end);
}

#[test]
fn a_renewal_of_both_ends_costs_no_flow_its_bytes() {
    let mut w = up();
    let flow = w.opened(node_at(ALICE), "web");
    let data: Vec<u8> = (0..2_000_000u32).map(|n| (n % 251) as u8).collect();
    w.write(node_at(ALICE), flow, &data[..1_000_000], false);
    w.renew(node_at(ALICE), Role::Agent, "alice");
    w.renew(node_at(C1), Role::Connector, "c1");
    w.write(node_at(ALICE), flow, &data[1_000_000..], false);
    assert!(w.until(|w| w.received.get(&flow).is_some_and(|b| b.len() == data.len())), "{:?}", w.outcomes.get(&flow));
    assert!(w.received[&flow] == data);
}

#[test]
fn a_renewal_is_no_outage() {
    let mut w = up();
    let _ = w.opened(node_at(ALICE), "web");
    w.notices.clear();
    w.renew(node_at(ALICE), Role::Agent, "alice");
    w.renew(node_at(C1), Role::Connector, "c1");
    let flow = w.opened(node_at(ALICE), "web");
    echoes(&mut w, flow, b"after");
    let told = |n: &Notice| matches!(n, Notice::Warning(_) | Notice::State { next: State::Degraded, .. });
    assert!(!w.notices.iter().any(|(_, n)| told(n)), "{:?}", w.notices);
}
