//! Direct paths between two nodes that reach each other.

use std::net::SocketAddr;
use std::time::Duration;

use ztna_core::FlowId;
use ztna_core::node::Node;
use ztna_core::role::PathKind;

use super::world::{Outcome, World, node_at, relay_at};

const ALICE: u8 = 1;
const C1: u8 = 2;

fn up() -> World {
    let mut w = World::new(1, &["c1"]);
    w.direct = true;
    w.start_relay(1);
    w.start_connector(node_at(C1), "c1");
    w.start_agent(node_at(ALICE), "alice", None);
    w
}

fn kind(node: &Node) -> Option<PathKind> {
    node.links.iter().find_map(|(k, _)| node.describe_path(k)).map(|p| p.kind)
}

fn both(w: &World, wanted: PathKind) -> bool {
    kind(w.agent(node_at(ALICE)).node()) == Some(wanted) && kind(w.connector(node_at(C1)).node()) == Some(wanted)
}

fn is_between(from: SocketAddr, to: SocketAddr) -> bool {
    from != relay_at(1) && to != relay_at(1)
}

/// A flow that has carried something, and both ends on the direct path.
fn direct() -> (World, FlowId) {
    let mut w = up();
    let flow = w.opened(node_at(ALICE), "web");
    echoes(&mut w, flow, b"before");
    assert!(w.until(|w| both(w, PathKind::Direct)), "never direct");
    (w, flow)
}

fn echoes(w: &mut World, flow: FlowId, bytes: &[u8]) {
    w.write(node_at(ALICE), flow, bytes, false);
    assert!(w.until(|w| w.received.get(&flow).is_some_and(|b| b.ends_with(bytes))), "{:?}", w.outcomes.get(&flow));
}

#[test]
fn data_moves_to_the_direct_path_and_no_byte_of_it_goes_by_the_relay() {
    let (mut w, flow) = direct();
    let passed = w.agent(node_at(ALICE)).node().counters.clone();
    let data: Vec<u8> = (0..2_000_000u32).map(|n| (n % 251) as u8).collect();
    w.write(node_at(ALICE), flow, &data, false);
    assert!(w.until(|w| w.received[&flow].len() == data.len() + 6));
    assert!(w.received[&flow].ends_with(&data));
    let after = &w.agent(node_at(ALICE)).node().counters;
    assert!(after.direct_tx > passed.direct_tx + 2_000_000);
    assert_eq!((after.forwarded_tx, after.tunnel_tx), (passed.forwarded_tx, passed.tunnel_tx));
}

#[test]
fn a_direct_path_that_dies_costs_no_flow_and_the_relay_carries_on() {
    let (mut w, flow) = direct();
    w.lose = Box::new(|from, to, _| is_between(from, to));
    echoes(&mut w, flow, b"after");
    assert!(!both(&w, PathKind::Direct));
    assert_eq!(w.outcomes.get(&flow), Some(&Outcome::Opened));
}

#[test]
fn a_direct_path_that_dies_in_one_direction_costs_no_flow() {
    for deaf in [node_at(ALICE), node_at(C1)] {
        let (mut w, flow) = direct();
        w.lose = Box::new(move |from, to, _| is_between(from, to) && to == deaf);
        echoes(&mut w, flow, b"after");
        assert!(w.until(|w| !both(w, PathKind::Direct)));
        echoes(&mut w, flow, b"and after that");
    }
}

#[test]
fn a_relay_that_is_gone_does_not_end_a_flow_on_a_direct_path() {
    let (mut w, flow) = direct();
    w.kill(relay_at(1));
    assert!(!w.within(Duration::from_secs(5), |w| !matches!(w.outcomes.get(&flow), Some(Outcome::Opened))));
    echoes(&mut w, flow, b"without a relay");
}

#[test]
fn a_path_that_does_not_carry_full_sized_packets_is_never_taken() {
    let mut w = up();
    w.lose = Box::new(|from, to, packet| is_between(from, to) && packet.len() > 1_250);
    let flow = w.opened(node_at(ALICE), "web");
    echoes(&mut w, flow, b"by the relay");
    assert!(!w.within(Duration::from_secs(3), |w| kind(w.agent(node_at(ALICE)).node()) == Some(PathKind::Direct)));
}

#[test]
fn a_path_that_answers_checks_and_loses_data_is_left() {
    let (mut w, flow) = direct();
    w.lose = Box::new(|from, to, packet| is_between(from, to) && packet.first().is_some_and(|b| *b > 3));
    echoes(&mut w, flow, b"after");
    assert!(w.until(|w| !both(w, PathKind::Direct)));
}

#[test]
fn a_direct_path_comes_back_after_its_network_has() {
    let (mut w, flow) = direct();
    w.lose = Box::new(|from, to, _| is_between(from, to));
    echoes(&mut w, flow, b"during");
    assert!(w.until(|w| !both(w, PathKind::Direct)));
    w.lose = Box::new(|_, _, _| false);
    w.machine(node_at(ALICE)).handle_network_change(std::time::Instant::now());
    assert!(w.within(Duration::from_secs(2), |w| both(w, PathKind::Direct)));
    echoes(&mut w, flow, b"after");
}
