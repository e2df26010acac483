//! Two connector processes of one identity: the newer takes new flows, the older ends what it has and goes.

use std::time::{Duration, Instant};

use ztna_core::role::{Notice, State};
use ztna_core::trust::Protocol;
use ztna_core::{Error, FlowId};

use super::up;
use super::world::{Outcome, World, node_at};

const ALICE: u8 = 1;
const OLDER: u8 = 2;
const NEWER: u8 = 3;

/// A flow through the older process that has carried something, and the newer one bound.
fn replaced() -> (World, FlowId) {
    let mut w = up();
    let flow = w.opened(node_at(ALICE), "web");
    echoes(&mut w, flow, b"before");
    w.start_connector(node_at(NEWER), "c1");
    assert!(w.until(|w| {
        let draining = |n: &Notice| matches!(n, Notice::State { next: State::Draining, .. });
        w.notices.iter().any(|(at, n)| *at == node_at(OLDER) && draining(n))
    }));
    // Its GOAWAY reaches the agent.
    assert!(w.until(|w| w.agent(node_at(ALICE)).node().links.iter().all(|(_, l)| l.retiring)));
    (w, flow)
}

/// `bytes` go to the service and come back.
fn echoes(w: &mut World, flow: FlowId, bytes: &[u8]) {
    w.write(node_at(ALICE), flow, bytes, false);
    assert!(w.until(|w| w.received.get(&flow).is_some_and(|b| b.ends_with(bytes))), "{:?}", w.outcomes.get(&flow));
}

fn reached_newer(w: &World) -> bool {
    w.arrived.iter().any(|((at, _), bytes)| *at == node_at(NEWER) && bytes == b"after")
}

#[test]
fn an_older_process_names_the_newer_one_and_ends_with_an_identity_error() {
    let (mut w, flow) = replaced();
    let named = w.notices.iter().any(|(at, n)| {
        *at == node_at(OLDER)
            && matches!(n, Notice::Warning(Error::Identity(text)) if text.contains(&node_at(NEWER).to_string()))
    });
    assert!(named, "the warning names the other's address");
    w.write(node_at(ALICE), flow, b"", true);
    assert!(w.until(|w| !w.has(node_at(OLDER))));
    let end = &w.ends[&node_at(OLDER)];
    assert!(matches!(end, Err(Error::Identity(text)) if text.contains(&node_at(NEWER).to_string())), "{end:?}");
}

#[test]
fn a_flow_of_the_older_process_goes_on_to_its_end_while_the_newer_takes_new_flows() {
    let (mut w, flow) = replaced();
    let next = w.opened(node_at(ALICE), "web");
    echoes(&mut w, next, b"after");
    assert!(reached_newer(&w));
    let data: Vec<u8> = (0..2_000_000u32).map(|i| (i % 251) as u8).collect();
    w.write(node_at(ALICE), flow, &data, false);
    let all = [b"before", &data[..]].concat();
    assert!(w.until(|w| w.received[&flow] == all), "{} {:?}", w.received[&flow].len(), w.outcomes.get(&flow));
    w.write(node_at(ALICE), flow, b"", true);
    assert!(w.until(|w| !w.has(node_at(OLDER))));
    echoes(&mut w, next, b"and after that");
}

#[test]
fn a_flow_that_outlives_the_drain_of_the_older_process_is_cut_at_both_ends_at_once() {
    let (mut w, flow) = replaced();
    let from = Instant::now();
    assert!(w.within(Duration::from_secs(12), |w| !w.has(node_at(OLDER))));
    assert!(from.elapsed() > Duration::from_secs(9), "{:?}", from.elapsed());
    assert!(w.within(Duration::from_secs(1), |w| matches!(w.outcomes.get(&flow), Some(Outcome::Reset(_)))));
    assert!(matches!(w.ends[&node_at(OLDER)], Err(Error::Identity(_))));
}

#[test]
fn a_flow_opened_after_a_kill_and_a_new_start_does_not_wait_for_the_dead_process() {
    let mut w = up();
    let _ = w.opened(node_at(ALICE), "web");
    w.kill(node_at(OLDER));
    w.start_connector(node_at(NEWER), "c1");
    let next = w.open(node_at(ALICE), "web", Protocol::Tcp, Duration::from_secs(4));
    assert!(w.until(|w| w.outcomes.contains_key(&next)));
    assert_eq!(w.outcomes.get(&next), Some(&Outcome::Opened));
}
