//! An agent that closes at once, with connects under way: its connector learns of it, however far they have got.

use std::time::{Duration, Instant};

use ztna_core::role::PathPolicy;
use ztna_core::trust::Protocol;

use super::world::{World, node_at, relay_at};

const ALICE: u8 = 1;
const C1: u8 = 2;
/// One way between node and relay: 40 ms from agent to connector and back.
const HOP: Duration = Duration::from_millis(10);

/// A network with a connector that is bound, and an agent that has just been started.
fn network() -> World {
    let mut w = World::new(1, &["c1"]);
    w.start_relay(1);
    w.start_connector(node_at(C1), "c1");
    assert!(w.until(|w| w.connector(node_at(C1)).node().bound_legs() == 1));
    w.delay = Box::new(|_, _, _| HOP);
    w.start_agent(node_at(ALICE), "alice", None);
    w
}

/// Asks for flows on inner connections of two kinds, and closes the agent after `at`.
fn closed_after(at: Duration, connects: usize) -> World {
    let mut w = network();
    assert!(w.until(|w| w.agent(node_at(ALICE)).node().ready_legs().next().is_some()));
    for n in 0..connects {
        let path = if n % 2 == 0 { PathPolicy::Auto } else { PathPolicy::RelayOnly };
        w.open_by(path, node_at(ALICE), "web", Protocol::Tcp, Duration::from_secs(8));
    }
    let close = Instant::now() + at;
    w.until(|_| Instant::now() >= close);
    w.shut_down(node_at(ALICE), Duration::ZERO);
    assert!(w.until(|w| !w.has(node_at(ALICE))));
    w
}

/// Inner connections at the connector that don't just wait for late packets (RFC 9000 §10.2.2).
fn left(w: &World) -> usize {
    w.connector(node_at(C1)).node().links.iter().filter(|(_, l)| !l.conn.is_draining()).count()
}

#[test]
fn an_agent_closed_at_once_leaves_no_connection_at_its_connector_however_far_its_connects_were() {
    let mut kept = Vec::new();
    for at in (0..160).step_by(4) {
        let mut w = closed_after(Duration::from_millis(at), 8);
        let later = Instant::now() + 8 * HOP;
        w.until(|_| Instant::now() >= later);
        match left(&w) {
            0 => {}
            n => kept.push((at, n)),
        }
    }
    assert!(kept.is_empty(), "milliseconds between connects and close, connections kept: {kept:?}");
}

#[test]
fn a_handshake_that_its_agent_gave_up_is_forgotten_when_late_packets_can_no_longer_come() {
    let mut w = closed_after(2 * HOP, 1);
    let links = |w: &World| w.connector(node_at(C1)).node().links.len();
    assert!(w.until(|w| links(w) == 1));
    // Three probe timeouts of a connection whose round trip is not known: 3 s.
    assert!(w.within(Duration::from_secs(5), |w| links(w) == 0));
}

#[test]
fn an_agent_closed_at_once_while_its_relay_takes_no_more_tells_its_connector_when_it_does() {
    let mut w = super::tunnelled();
    w.unread_agents.insert("alice".into());
    let flows = [PathPolicy::Auto, PathPolicy::RelayOnly].map(|path| {
        let flow = w.open_by(path, node_at(ALICE), "web", Protocol::Tcp, Duration::from_secs(8));
        assert!(w.until(|w| w.outcomes.contains_key(&flow)));
        flow
    });
    // What the relay acknowledges comes late all of a sudden: what may be under way fills the tunnel.
    let late = Instant::now() + 20 * HOP;
    w.delay = Box::new(move |from, to, _| {
        let acknowledges = (from, to) == (relay_at(1), node_at(ALICE));
        if acknowledges { late.saturating_duration_since(Instant::now()) } else { HOP }
    });
    while Instant::now() < late - 4 * HOP {
        for flow in flows {
            w.write_some(node_at(ALICE), flow, &[7; 65_536]);
        }
        w.turn();
    }
    w.shut_down(node_at(ALICE), Duration::ZERO);
    w.turn();
    assert!(w.has(node_at(ALICE)), "it could say all at once");
    assert!(w.until(|w| !w.has(node_at(ALICE))));
    assert!(w.within(Duration::from_secs(1), |w| left(w) == 0));
}
