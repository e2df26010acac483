//! Readers that stall: what waits for them is bounded, and the others go on.

use std::time::Duration;

use super::world::{Outcome, World, node_at};
use ztna_core::node::{ReceiveLimit, budget};
use ztna_core::quic::connection::H3_EXCESSIVE_LOAD;
use ztna_core::role::Notice;
use ztna_core::trust::Protocol;
use ztna_core::{Error, FlowId};

const BOTH: &str = r#"permit(principal, action == Action::"connect", resource == Service::"web");"#;
const MB: u64 = 1 << 20;
const CONNECTOR: u8 = 2;
const BOB: u8 = 9;

fn limits(node: u64, connection: u64) -> ReceiveLimit {
    ReceiveLimit { node, connection, ..ReceiveLimit::default() }
}

/// One connector; bob's flows are read, alice's are not.
fn world() -> World {
    let mut w = World::new(1, &["c1"]);
    w.set_policy(BOTH);
    w.start_relay(1);
    w.start_connector(node_at(CONNECTOR), "c1");
    w.unread_agents.insert("alice".into());
    w
}

/// A flow that fills what its reader's end takes, without waiting for room.
fn pushed(w: &mut World, agent: u8) -> FlowId {
    let flow = w.opened(node_at(agent), "web");
    for _ in 0..12 {
        w.until_written(node_at(agent), flow, &[5u8; 65_536]);
    }
    flow
}

fn was_reset(w: &World, flow: FlowId) -> bool {
    matches!(w.outcomes.get(&flow), Some(Outcome::Reset(Error::StreamReset { code: H3_EXCESSIVE_LOAD, .. })))
}

#[test]
fn stalled_readers_on_several_connections_share_one_budget() {
    let mut w = world();
    let limit = limits(2 * MB, 40 * MB);
    w.set_receive_limit(node_at(CONNECTOR), limit);
    w.start_agent(node_at(BOB), "bob", None);
    let lively = w.opened(node_at(BOB), "web");
    let mut stalled = Vec::new();
    for agent in [4, 5, 6] {
        w.start_agent(node_at(agent), "alice", None);
        for _ in 0..3 {
            stalled.push(pushed(&mut w, agent));
            assert!(w.unread(node_at(CONNECTOR)) <= limit.node + limit.node / 16 + 65_536);
        }
    }
    assert!(w.until(|w| stalled.iter().any(|f| was_reset(w, *f))), "nobody was reset");
    let gone = stalled.iter().filter(|f| was_reset(&w, **f)).count();
    assert!((4..=7).contains(&gone), "{gone} of 9, each of half a megabyte, had to go");
    assert!(was_reset(&w, stalled[0]), "the reader that stalled first goes first");
    assert!(!was_reset(&w, *stalled.last().unwrap()));
    assert_eq!(w.connector(node_at(CONNECTOR)).node().counters.drops.get(budget::QUEUE), Some(&(gone as u64)));
    let data = vec![3u8; 1_000_000];
    w.write(node_at(BOB), lively, &data, true);
    assert!(w.until(|w| w.received.get(&lively).is_some_and(|b| b.len() == data.len())));
}

#[test]
fn readers_that_stall_on_one_connection_leave_window_for_the_others() {
    let mut w = World::new(1, &["c1"]);
    w.start_relay(1);
    w.start_connector(node_at(CONNECTOR), "c1");
    w.start_agent(node_at(1), "alice", None);
    w.set_receive_limit(node_at(1), limits(40 * MB, MB));
    let flows: Vec<FlowId> = (0..4).map(|_| w.opened(node_at(1), "web")).collect();
    w.unread_flows.extend(&flows);
    for flow in &flows {
        for _ in 0..12 {
            w.until_written(node_at(1), *flow, &[5u8; 65_536]);
        }
    }
    let cut = |w: &World| flows.iter().filter(|f| matches!(w.outcomes.get(f), Some(Outcome::Reset(_)))).count();
    assert!(w.until(|w| cut(w) > 0));
    assert!(w.unread(node_at(1)) <= MB);
    let error = flows.iter().find_map(|f| match w.outcomes.get(f) {
        Some(Outcome::Reset(e)) => Some(e.clone()),
        _ => None,
    });
    let Some(Error::Limit(text)) = error else { panic!("{error:?}") };
    assert!(text.contains("slowest reader"), "{text}");
    assert!(w.notices.iter().any(|(at, n)| *at == node_at(1) && matches!(n, Notice::Warning(Error::Limit(_)))));
    let next = w.opened(node_at(1), "web");
    w.write(node_at(1), next, b"still here", false);
    assert!(w.until(|w| w.received.get(&next).is_some_and(|b| b == b"still here")));
}

#[test]
fn a_fast_reader_is_never_cut_however_much_it_moves() {
    let mut w = world();
    w.set_receive_limit(node_at(CONNECTOR), limits(MB, MB));
    w.start_agent(node_at(BOB), "bob", None);
    let flow = w.opened(node_at(BOB), "web");
    let data = vec![9u8; 6_000_000];
    w.write(node_at(BOB), flow, &data, true);
    assert!(w.until(|w| w.received.get(&flow).is_some_and(|b| b.len() == data.len())));
    assert_eq!(w.outcomes.get(&flow), Some(&Outcome::Opened));
}

#[test]
fn datagrams_that_were_delivered_count_for_nothing() {
    let mut w = world();
    w.set_receive_limit(node_at(CONNECTOR), limits(MB / 4, MB / 4));
    w.start_agent(node_at(BOB), "bob", None);
    let flow = w.open(node_at(BOB), "web", Protocol::Udp, Duration::from_secs(5));
    assert!(w.until(|w| w.outcomes.contains_key(&flow)));
    for _ in 0..600 {
        w.datagram(node_at(BOB), flow, &[1u8; 1_000]);
        w.turn();
    }
    assert!(w.received.get(&flow).is_some_and(|b| b.len() > 400_000));
    assert_eq!(w.outcomes.get(&flow), Some(&Outcome::Opened));
}
