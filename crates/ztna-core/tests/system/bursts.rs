//! Hosts whose kernel loses what is sent in bursts.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ztna_core::FlowId;
use ztna_core::role::PathKind;

use super::world::{World, node_at, relay_at};

const ALICE: u8 = 1;
const C1: u8 = 2;

/// Flows must move within it: a probe timeout is 30 ms here, and there is one for each connection and trial.
const SOON: Duration = Duration::from_secs(3);

fn up(direct: bool) -> World {
    let mut w = World::new(1, &["c1"]);
    w.direct = direct;
    w.start_relay(1);
    w.start_connector(node_at(C1), "c1");
    w.start_agent(node_at(ALICE), "alice", None);
    w
}

fn kind(w: &World) -> Option<PathKind> {
    let node = w.agent(node_at(ALICE)).node();
    node.links.iter().find_map(|(k, _)| node.describe_path(k)).map(|p| p.kind)
}

/// A megabyte goes there and comes back.
fn carries(w: &mut World, flow: FlowId) {
    let data: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
    let before = w.received.get(&flow).map_or(0, Vec::len);
    let until = Instant::now() + SOON;
    w.write(node_at(ALICE), flow, &data, false);
    let left = until.saturating_duration_since(Instant::now());
    assert!(w.within(left, |w| w.received.get(&flow).is_some_and(|b| b.len() == before + data.len())), "too slow");
    assert!(w.received[&flow].ends_with(&data));
}

#[test]
fn flows_open_and_carry_where_no_burst_of_an_agent_or_a_connector_arrives() {
    for broken in [ALICE, C1] {
        let mut w = up(false);
        let lost = Rc::new(Cell::new(0));
        let count = lost.clone();
        w.lose_burst = Box::new(move |from, _| {
            let lost = from == node_at(broken);
            count.set(count.get() + usize::from(lost));
            lost
        });
        let began = Instant::now();
        let flow = w.opened(node_at(ALICE), "web");
        assert!(began.elapsed() < SOON, "opened after {:?}", began.elapsed());
        carries(&mut w, flow);
        assert!(lost.get() > 0);
    }
}

#[test]
fn flows_carry_where_no_burst_of_a_relays_own_arrives() {
    let mut w = up(false);
    w.lose_burst = Box::new(|from, _| from == relay_at(1));
    let flow = w.opened(node_at(ALICE), "web");
    carries(&mut w, flow);
}

#[test]
fn a_direct_path_on_which_no_burst_arrives_stays_in_use() {
    for broken in [ALICE, C1] {
        let mut w = up(true);
        w.lose_burst = Box::new(move |from, to| from == node_at(broken) && to != relay_at(1));
        let flow = w.opened(node_at(ALICE), "web");
        carries(&mut w, flow);
        assert!(w.until(|w| kind(w) == Some(PathKind::Direct)), "never direct");
        let before = w.agent(node_at(ALICE)).node().counters.direct_tx;
        carries(&mut w, flow);
        assert_eq!(kind(&w), Some(PathKind::Direct));
        assert!(w.agent(node_at(ALICE)).node().counters.direct_tx > before + 1_000_000);
    }
}

#[test]
fn bursts_that_are_lost_again_after_a_pause_are_counted_in_the_metrics() {
    let mut w = up(false);
    w.lose_burst = Box::new(|from, _| from == node_at(ALICE));
    let flow = w.opened(node_at(ALICE), "web");
    let counted = |w: &World| w.agent(node_at(ALICE)).node().counters.bursts_withheld;
    assert_eq!(counted(&w), 0);
    let until = Instant::now() + Duration::from_secs(10);
    while counted(&w) == 0 && Instant::now() < until {
        carries(&mut w, flow);
    }
    assert!(counted(&w) > 0, "never counted");
    let text = ztna_core::metrics::node(w.agent(node_at(ALICE)).node(), Instant::now(), &[]);
    let line = format!("ztna_bursts_withheld_total {}\n", counted(&w));
    assert!(text.contains(&line), "{text}");
}
