//! What a node tells of its flows.

use ztna_core::node::listing::Tally;
use ztna_core::role::PathKind;
use ztna_core::trust::Protocol;

use super::up;
use super::world::node_at;

const ALICE: u8 = 1;
const C1: u8 = 2;

#[test]
fn a_listed_flow_names_service_peer_path_and_the_bytes_of_both_directions_at_either_end() {
    let mut w = up();
    let flow = w.opened(node_at(ALICE), "web");
    w.write(node_at(ALICE), flow, b"question", false);
    assert!(w.until(|w| w.received.get(&flow).is_some_and(|b| b == b"question")));

    let (here, more) = w.agent(node_at(ALICE)).node().list_flows(10);
    assert_eq!((here.len(), more), (1, 0));
    let f = &here[0];
    assert_eq!((f.id, f.service.as_str(), f.peer.as_str(), f.protocol), (flow, "web", "c1", Protocol::Tcp));
    assert!(f.open && f.port.is_some() && f.relay.as_deref() == Some("r1"), "{f:?}");
    assert!(matches!(f.path, PathKind::Relay { .. }), "{f:?}");
    assert_eq!(f.bytes, Tally { rx: 8, tx: 8 });

    let (there, _) = w.connector(node_at(C1)).node().list_flows(10);
    assert_eq!((there[0].peer.as_str(), there[0].bytes), ("alice", Tally { rx: 8, tx: 8 }));
}

#[test]
fn of_too_many_flows_the_oldest_are_listed_and_those_that_carried_most_and_the_rest_is_counted() {
    let mut w = up();
    let flows: Vec<_> = (0..8).map(|_| w.opened(node_at(ALICE), "web")).collect();
    w.write(node_at(ALICE), flows[6], b"much", false);
    assert!(w.until(|w| w.received.get(&flows[6]).is_some_and(|b| b == b"much")));
    let (listed, more) = w.agent(node_at(ALICE)).node().list_flows(4);
    let ids: Vec<_> = listed.iter().map(|f| f.id).collect();
    assert_eq!((ids, more), (vec![flows[0], flows[1], flows[2], flows[6]], 4));
}

#[test]
fn a_flow_that_is_gone_is_listed_no_more() {
    let mut w = up();
    let flow = w.opened(node_at(ALICE), "web");
    w.machine(node_at(ALICE)).stream_reset(flow);
    assert_eq!(w.agent(node_at(ALICE)).node().list_flows(10), (vec![], 0));
}
