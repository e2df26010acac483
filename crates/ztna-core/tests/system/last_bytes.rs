//! What was written and ended before a role closes arrives, whichever end ended first.

use std::time::{Duration, Instant};

use ztna_core::FlowId;
use ztna_core::role::Read;
use ztna_core::trust::Protocol;

use super::up;
use super::world::{Outcome, World, node_at};

const ALICE: u8 = 1;
const C1: u8 = 2;
const DRAIN: Duration = Duration::from_secs(10);

/// An open flow and its end at a connector whose service is played by the test.
fn two_ends() -> (World, FlowId, FlowId) {
    let mut w = up();
    w.unread_agents.insert("alice".into());
    let flow = w.opened(node_at(ALICE), "web");
    let far = w.arrived[0].0.1;
    (w, flow, far)
}

/// Reads what there is at the connector's end: the bytes, and whether they have come to their end.
fn read_far(w: &mut World, far: FlowId, into: &mut Vec<u8>) -> bool {
    let mut buf = [0u8; 16_384];
    loop {
        match w.machine(node_at(C1)).stream_read(far, &mut buf) {
            Read::Bytes(n) => into.extend_from_slice(&buf[..n]),
            Read::Blocked => return false,
            Read::Finished => return true,
        }
    }
}

fn data(len: u32) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

/// A flow whose agent has ended, and the service's end of it.
fn agent_ended() -> (World, FlowId, FlowId) {
    let (mut w, flow, far) = two_ends();
    w.write(node_at(ALICE), flow, b"question", true);
    let mut question = Vec::new();
    assert!(w.until_with(|w| read_far(w, far, &mut question)));
    assert_eq!(question, b"question");
    (w, flow, far)
}

#[test]
fn a_connector_that_drains_delivers_the_last_bytes_of_a_flow_whose_agent_ended_first() {
    let (mut w, flow, far) = agent_ended();
    let data = data(2_000_000);
    w.write(node_at(C1), far, &data, true);
    w.shut_down(node_at(C1), DRAIN);
    let from = Instant::now();
    assert!(w.until(|w| w.finished.contains(&flow)), "{} {:?}", w.received[&flow].len(), w.outcomes.get(&flow));
    assert!(w.received[&flow] == data);
    assert!(w.until(|w| !w.has(node_at(C1))));
    assert!(from.elapsed() < Duration::from_secs(5), "{:?}", from.elapsed());
}

#[test]
fn an_agent_that_closes_delivers_the_last_bytes_of_a_flow_whose_service_ended_first() {
    let (mut w, flow, far) = two_ends();
    w.write(node_at(C1), far, b"greeting", true);
    assert!(w.until(|w| w.finished.contains(&flow)));
    let data = data(2_000_000);
    let mut arrived = Vec::new();
    let mut sent = 0;
    assert!(w.until_with(|w| {
        read_far(w, far, &mut arrived);
        if let ztna_core::quic::Wrote::Bytes(n) = w.try_write(node_at(ALICE), flow, &data[sent..], true) {
            sent += n;
        }
        sent == data.len()
    }));
    w.shut_down(node_at(ALICE), DRAIN);
    let from = Instant::now();
    assert!(w.until_with(|w| read_far(w, far, &mut arrived)), "{} of {}", arrived.len(), data.len());
    assert!(arrived == data);
    assert!(w.until(|w| !w.has(node_at(ALICE))));
    assert!(from.elapsed() < Duration::from_secs(5), "{:?}", from.elapsed());
}

#[test]
fn an_older_process_delivers_the_last_bytes_before_it_goes() {
    let (mut w, flow, far) = agent_ended();
    let data = data(2_000_000);
    w.start_connector(node_at(3), "c1");
    w.write(node_at(C1), far, &data, true);
    assert!(w.until(|w| w.finished.contains(&flow)), "{} {:?}", w.received[&flow].len(), w.outcomes.get(&flow));
    assert!(w.received[&flow] == data);
    assert!(w.until(|w| !w.has(node_at(C1))));
}

/// Reads what there is at the agent's end.
fn read_near(w: &mut World, flow: FlowId, into: &mut Vec<u8>) -> bool {
    let mut buf = [0u8; 10_000];
    loop {
        match w.machine(node_at(ALICE)).stream_read(flow, &mut buf) {
            Read::Bytes(n) => into.extend_from_slice(&buf[..n]),
            Read::Blocked => return false,
            Read::Finished => return true,
        }
    }
}

#[test]
fn a_slow_reader_gets_all_that_was_sent_to_its_end_after_the_connector_has_gone() {
    let (mut w, flow, far) = agent_ended();
    w.unread_flows.insert(flow);
    let data = data(200_000);
    w.write(node_at(C1), far, &data, true);
    w.shut_down(node_at(C1), DRAIN);
    assert!(w.until(|w| !w.has(node_at(C1)) && w.agent(node_at(ALICE)).node().links.is_empty()));
    assert_eq!(w.outcomes.get(&flow), Some(&Outcome::Opened));
    // The agent's own drain waits for the reader, too.
    w.shut_down(node_at(ALICE), DRAIN);
    let soon = Instant::now() + Duration::from_secs(1);
    assert!(w.until(|_| Instant::now() > soon));
    let mut received = Vec::new();
    assert!(read_near(&mut w, flow, &mut received));
    assert!(received == data);
    assert!(w.until(|w| !w.has(node_at(ALICE))));
    assert_eq!(w.outcomes.get(&flow), Some(&Outcome::Opened));
}

#[test]
fn a_slow_service_gets_all_that_was_sent_to_its_end_after_the_agent_has_gone() {
    let (mut w, flow, far) = two_ends();
    w.write(node_at(C1), far, b"greeting", true);
    assert!(w.until(|w| w.finished.contains(&flow)));
    let data = data(200_000);
    w.write(node_at(ALICE), flow, &data, true);
    w.shut_down(node_at(ALICE), DRAIN);
    assert!(w.until(|w| !w.has(node_at(ALICE)) && w.connector(node_at(C1)).node().links.is_empty()));
    let mut arrived = Vec::new();
    assert!(read_far(&mut w, far, &mut arrived));
    assert!(arrived == data);
}

#[test]
fn a_reader_that_has_not_been_sent_everything_is_reset_when_the_connector_goes() {
    let (mut w, flow, far) = agent_ended();
    w.unread_flows.insert(flow);
    w.write(node_at(C1), far, &data(200_000), false);
    w.shut_down(node_at(C1), Duration::from_millis(300));
    assert!(w.until(|w| matches!(w.outcomes.get(&flow), Some(Outcome::Reset(_)))));
}

#[test]
fn a_drain_does_not_wait_for_the_last_bytes_of_a_flow_that_was_not_wanted_to_its_end() {
    let (mut w, flow, far) = agent_ended();
    w.write(node_at(C1), far, &data(100_000), false);
    w.machine(node_at(ALICE)).stream_stop(flow);
    assert!(w.until_with(|w| !matches!(
        w.try_write(node_at(C1), far, b"more", true),
        ztna_core::quic::Wrote::Bytes(_) | ztna_core::quic::Wrote::Blocked
    )));
    for at in [node_at(C1), node_at(ALICE)] {
        let from = Instant::now();
        w.shut_down(at, DRAIN);
        assert!(w.until(|w| !w.has(at)));
        assert!(from.elapsed() < Duration::from_secs(2), "{:?}", from.elapsed());
    }
}

#[test]
fn a_flow_that_ended_and_whose_answer_is_not_wanted_ends_at_the_service_though_its_end_has_yet_to_be_read() {
    let (mut w, flow, far) = two_ends();
    w.write(node_at(ALICE), flow, b"question", true);
    let mut buf = [0u8; 100];
    assert!(w.until_with(|w| w.machine(node_at(C1)).stream_read(far, &mut buf) == Read::Bytes(8)));
    w.machine(node_at(ALICE)).stream_stop(flow);
    let mut wrote = ztna_core::quic::Wrote::Blocked;
    assert!(w.until_with(|w| {
        // Who writes asks for room first.
        w.machine(node_at(C1)).stream_capacity(far);
        wrote = w.try_write(node_at(C1), far, b"more", false);
        !matches!(wrote, ztna_core::quic::Wrote::Bytes(_) | ztna_core::quic::Wrote::Blocked)
    }));
    assert!(matches!(wrote, ztna_core::quic::Wrote::Stopped(_)), "{wrote:?}");
    assert_eq!(w.machine(node_at(C1)).stream_read(far, &mut buf), Read::Finished);
    assert!(w.connector(node_at(C1)).node().flows.is_empty());
}

#[test]
fn a_udp_flow_that_ends_while_the_connection_is_full_ends_at_the_connector_too() {
    let (mut w, flow, far) = two_ends();
    let udp = w.open(node_at(ALICE), "web", Protocol::Udp, Duration::from_secs(8));
    assert!(w.until(|w| w.outcomes.contains_key(&udp)));
    assert_eq!(w.connector(node_at(C1)).node().flows.len(), 2);
    let data = vec![0; 1 << 20];
    while let ztna_core::quic::Wrote::Bytes(1..) = w.try_write(node_at(ALICE), flow, &data, false) {}
    w.machine(node_at(ALICE)).datagram_close(udp);
    let mut arrived = Vec::new();
    assert!(w.until_with(|w| {
        read_far(w, far, &mut arrived);
        w.connector(node_at(C1)).node().flows.len() == 1
    }));
}

#[test]
fn a_drain_does_not_wait_for_an_agent_that_was_killed_with_bytes_under_way() {
    let (mut w, _, far) = agent_ended();
    w.kill(node_at(ALICE));
    let data = data(60_000);
    assert!(matches!(w.try_write(node_at(C1), far, &data, true), ztna_core::quic::Wrote::Bytes(_)));
    w.shut_down(node_at(C1), DRAIN);
    let from = Instant::now();
    assert!(w.until(|w| !w.has(node_at(C1))));
    assert!(from.elapsed() < Duration::from_secs(5), "{:?}", from.elapsed());
}
