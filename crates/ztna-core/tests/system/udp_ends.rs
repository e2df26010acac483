//! A UDP flow that one end closes ends at the other without an error; one that is cut does not.

use std::time::Duration;

use ztna_core::trust::Protocol;
use ztna_core::{Error, FlowId};

use super::up;
use super::world::{Outcome, World, node_at};

const ALICE: u8 = 1;
const C1: u8 = 2;

/// An open UDP flow and its end at the connector.
fn opened() -> (World, FlowId, FlowId) {
    let mut w = up();
    let flow = w.open(node_at(ALICE), "web", Protocol::Udp, Duration::from_secs(5));
    assert!(w.until(|w| w.outcomes.contains_key(&flow)));
    let far = w.arrived[0].0.1;
    (w, flow, far)
}

#[test]
fn a_flow_that_its_agent_closes_ends_at_the_connector() {
    let (mut w, flow, far) = opened();
    w.machine(node_at(ALICE)).datagram_close(flow);
    assert!(w.until(|w| w.connector(node_at(C1)).node().flows.is_empty()));
    assert!(w.ended.contains(&(node_at(C1), far)));
}

#[test]
fn a_flow_that_the_connector_closes_ends_at_its_agent() {
    let (mut w, flow, far) = opened();
    w.machine(node_at(C1)).datagram_close(far);
    assert!(w.until(|w| w.agent(node_at(ALICE)).node().flows.is_empty()));
    assert!(w.finished.contains(&flow));
    assert_eq!(w.outcomes[&flow], Outcome::Opened);
}

#[test]
fn what_was_sent_right_before_a_close_arrives_before_the_end() {
    let (mut w, flow, far) = opened();
    let m = w.machine(node_at(C1));
    assert!(m.datagram_write(far, b"goodbye"));
    m.datagram_close(far);
    assert!(w.until(|w| w.finished.contains(&flow)));
    assert_eq!(w.received.get(&flow).map(Vec::as_slice), Some(&b"goodbye"[..]));
}

#[test]
fn a_flow_that_is_reset_is_an_error_at_the_other_end() {
    let (mut w, flow, far) = opened();
    w.machine(node_at(C1)).stream_reset(far);
    assert!(w.until(|w| matches!(w.outcomes[&flow], Outcome::Reset(Error::StreamReset { .. }))));
    assert!(!w.finished.contains(&flow));
}

#[test]
fn a_flow_that_is_no_longer_permitted_is_an_error_at_its_agent() {
    let (mut w, flow, _) = opened();
    w.set_policy(r#"permit(principal == Agent::"bob", action, resource);"#);
    assert!(w.until(|w| matches!(w.outcomes[&flow], Outcome::Reset(Error::Denied { .. }))), "{:?}", w.outcomes[&flow]);
    assert!(!w.finished.contains(&flow));
}
