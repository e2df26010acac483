//! A connector that was killed and came back: its agents learn it from a stateless reset (RFC 9000 §10.3), and only from one.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ztna_core::quic::reset::ResetKeys;
use ztna_core::trust::Protocol;
use ztna_core::wire::quic_header::{self, Header};
use ztna_core::{Error, FlowId, Role};

use super::hostile_relay::Toward;
use super::up;
use super::world::{Outcome, World, node_at};

const ALICE: u8 = 1;
const C1: u8 = 2;
const AGAIN: u8 = 3;

/// Agent and connector, tunnelled through a relay that does as it is told.
fn behind_a_hostile_relay() -> World {
    let mut w = World::new(1, &["c1"]);
    w.tunnel_only();
    w.start_hostile_relay(1);
    w.start_connector(node_at(C1), "c1");
    w.start_agent(node_at(ALICE), "alice", None);
    w
}

/// Turns for so long.
fn pass(w: &mut World, time: Duration) {
    let until = Instant::now() + time;
    w.within(time + Duration::from_secs(1), |_| Instant::now() > until);
}

fn echoes(w: &mut World, flow: FlowId, bytes: &[u8]) -> bool {
    w.write(node_at(ALICE), flow, bytes, false);
    w.until(|w| w.received.get(&flow).is_some_and(|b| b.ends_with(bytes)))
}

/// A flow that has carried something and is quiet.
fn quiet_flow(w: &mut World) -> FlowId {
    let flow = w.opened(node_at(ALICE), "web");
    assert!(echoes(w, flow, b"before"));
    pass(w, Duration::from_millis(600));
    flow
}

/// How long after the new start the agent hears that the flow is lost, and the error.
fn lost(w: &mut World, flow: FlowId, at: u8) -> (Duration, Error) {
    w.kill(node_at(C1));
    w.start_connector(node_at(at), "c1");
    let from = Instant::now();
    assert!(w.until(|w| matches!(w.outcomes.get(&flow), Some(Outcome::Reset(_)))), "{:?}", w.outcomes.get(&flow));
    let Some(Outcome::Reset(error)) = w.outcomes.get(&flow).cloned() else { unreachable!() };
    (from.elapsed(), error)
}

#[test]
fn a_quiet_flow_of_a_connector_that_was_restarted_is_cut_within_seconds_and_says_why() {
    for at in [C1, AGAIN] {
        let mut w = up();
        let flow = quiet_flow(&mut w);
        let (after, error) = lost(&mut w, flow, at);
        assert!(after < Duration::from_secs(4), "{after:?}");
        assert!(error.is_retryable(), "{error}");
        assert!(error.to_string().contains("connector `c1` was started anew"), "{error}");
    }
}

#[test]
fn a_flow_that_sends_when_its_connector_is_restarted_is_cut_as_well() {
    let mut w = up();
    let flow = quiet_flow(&mut w);
    w.write_some(node_at(ALICE), flow, &[7; 200_000]);
    let (after, _) = lost(&mut w, flow, AGAIN);
    assert!(after < Duration::from_secs(4), "{after:?}");
}

#[test]
fn a_request_under_way_when_its_connector_is_restarted_is_asked_again() {
    let mut w = up();
    let flow = quiet_flow(&mut w);
    w.kill(node_at(C1));
    let next = w.open(node_at(ALICE), "web", Protocol::Tcp, Duration::from_secs(9));
    pass(&mut w, Duration::from_millis(100));
    w.start_connector(node_at(AGAIN), "c1");
    assert!(w.until(|w| w.outcomes.contains_key(&next)));
    assert_eq!(w.outcomes.get(&next), Some(&Outcome::Opened));
    assert!(w.until(|w| matches!(w.outcomes.get(&flow), Some(Outcome::Reset(_)))));
}

/// A flow through a relay that has the connector's reset keys and answers each packet for it with a reset, on top of passing it on
/// where `passes`. Counts them.
fn slandered(passes: Rc<Cell<bool>>) -> (World, FlowId, Rc<Cell<usize>>) {
    let mut w = behind_a_hostile_relay();
    let flow = quiet_flow(&mut w);
    let keys = ResetKeys::new(&w.snapshot(Role::Connector, "c1").credentials.key_pem).unwrap();
    let sent = Rc::new(Cell::new(0));
    let counter = sent.clone();
    w.hostile(1).mangle = Box::new(move |toward, packet| {
        let mut out = Vec::new();
        if let (Toward::Connector, Some(Header::Short { dcid })) = (toward, quic_header::parse(packet))
            && let Some(reset) = keys.reset(dcid, 100)
        {
            counter.set(counter.get() + 1);
            out.push((Toward::Agent, reset));
        }
        if passes.get() {
            out.push((toward, packet.to_vec()));
        }
        out
    });
    (w, flow, sent)
}

#[test]
fn a_reset_costs_nothing_while_the_connector_answers() {
    let (mut w, flow, sent) = slandered(Rc::new(Cell::new(true)));
    for _ in 0..8 {
        assert!(echoes(&mut w, flow, b"still here"), "{:?}", w.outcomes.get(&flow));
        pass(&mut w, Duration::from_millis(400));
    }
    pass(&mut w, Duration::from_secs(2));
    assert!(sent.get() > 8, "{}", sent.get());
    assert!(echoes(&mut w, flow, b"and now"), "{:?}", w.outcomes.get(&flow));
}

#[test]
fn a_reset_counts_once_the_connector_is_silent() {
    let passes = Rc::new(Cell::new(true));
    let (mut w, flow, _) = slandered(passes.clone());
    passes.set(false);
    w.write_some(node_at(ALICE), flow, b"anybody there");
    let from = Instant::now();
    assert!(w.until(|w| matches!(w.outcomes.get(&flow), Some(Outcome::Reset(_)))));
    assert!(from.elapsed() > Duration::from_millis(900), "not at the first word: {:?}", from.elapsed());
}

#[test]
fn a_connector_answers_strangers_packets_sparingly_and_with_less_than_it_got() {
    let mut w = behind_a_hostile_relay();
    let flow = quiet_flow(&mut w);
    let (answers, longest) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let (count, max) = (answers.clone(), longest.clone());
    // Every packet goes to the connector a hundred times more, under an ID that it does not know.
    w.hostile(1).mangle = Box::new(move |toward, packet| {
        let mut out = vec![(toward, packet.to_vec())];
        match (toward, quic_header::parse(packet)) {
            (Toward::Connector, Some(Header::Short { .. })) => {
                let mut unknown = vec![0x40; 30];
                unknown[1..9].copy_from_slice(b"stranger");
                out.extend(std::iter::repeat_n((toward, unknown), 100));
            }
            (Toward::Agent, Some(Header::Short { .. })) if packet.len() < 30 => {
                count.set(count.get() + 1);
                max.set(packet.len().max(max.get()));
            }
            _ => {}
        }
        out
    });
    let from = Instant::now();
    assert!(echoes(&mut w, flow, b"after"));
    pass(&mut w, Duration::from_secs(1));
    let dropped = w.connector(node_at(C1)).node().counters.drops["unknown"];
    assert!(dropped >= 100, "{dropped}");
    let most = 2 + from.elapsed().as_millis() as usize / 200;
    assert!((1..=most).contains(&answers.get()), "{} answers", answers.get());
    assert!(longest.get() < 30);
}
