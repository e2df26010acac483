//! Direct paths between two nodes that reach each other.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ztna_core::metrics;
use ztna_core::node::Node;
use ztna_core::path::explain::{Cause, Evidence};
use ztna_core::role::{Answer, Notice, PathKind, PathPolicy};
use ztna_core::trust::Protocol;
use ztna_core::{Error, FlowId};

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

/// Packets that the agent has sent by such paths, as its metrics have it.
fn sent(w: &World, path: &str) -> u64 {
    let text = metrics::node(w.agent(node_at(ALICE)).node(), Instant::now(), &[]);
    let name = format!("ztna_packets_total{{path=\"{path}\"}} ");
    text.lines().find_map(|l| l.strip_prefix(&name)).map_or(0, |n| n.parse().unwrap())
}

#[test]
fn packets_that_go_twice_while_a_path_is_in_doubt_count_by_both_paths() {
    let (mut w, flow) = direct();
    let tunnelled = sent(&w, "tunnel");
    w.lose = Box::new(|from, to, _| is_between(from, to));
    echoes(&mut w, flow, b"twice");
    // What takes the place of a dead direct path is the forwarded one: only copies are tunnelled.
    assert!(sent(&w, "tunnel") > tunnelled, "{} and {tunnelled}", sent(&w, "tunnel"));
}

fn asked(w: &mut World, path: PathPolicy, patience: Duration) -> FlowId {
    let flow = w.open_by(path, node_at(ALICE), "web", Protocol::Tcp, patience);
    assert!(w.until(|w| w.outcomes.contains_key(&flow)));
    flow
}

#[test]
fn a_direct_only_flow_waits_for_the_direct_path_and_goes_by_nothing_else() {
    let mut w = up();
    let flow = asked(&mut w, PathPolicy::DirectOnly, Duration::from_secs(5));
    assert_eq!(w.outcomes[&flow], Outcome::Opened);
    let before = w.agent(node_at(ALICE)).node().counters.clone();
    echoes(&mut w, flow, &[7; 50_000]);
    let after = &w.agent(node_at(ALICE)).node().counters;
    assert!(after.direct_tx >= before.direct_tx + 50_000);
    assert_eq!(after.forwarded_tx, before.forwarded_tx);
}

#[test]
fn a_direct_only_flow_is_reset_when_the_direct_path_is_lost_while_others_go_on() {
    let (mut w, auto) = direct();
    let only = asked(&mut w, PathPolicy::DirectOnly, Duration::from_secs(5));
    assert_eq!(w.outcomes[&only], Outcome::Opened);
    w.lose = Box::new(|from, to, _| is_between(from, to));
    w.write(node_at(ALICE), only, b"into the void", false);
    assert!(
        w.until(|w| matches!(w.outcomes[&only], Outcome::Reset(Error::Unreachable { .. }))),
        "{:?}",
        w.outcomes[&only]
    );
    echoes(&mut w, auto, b"goes on");
}

#[test]
fn a_direct_only_flow_that_can_not_be_fails_in_its_time_and_says_why() {
    let mut w = up();
    w.lose = Box::new(|from, to, _| is_between(from, to));
    let flow = asked(&mut w, PathPolicy::DirectOnly, Duration::from_secs(2));
    let Outcome::Failed(Error::Unreachable { message, reason, .. }) = &w.outcomes[&flow] else {
        panic!("{:?}", w.outcomes[&flow])
    };
    assert!(message.contains("no direct path to connector `c1`"), "{message}");
    assert_eq!(*reason, Some("checking"));
}

#[test]
fn a_relay_only_flow_never_goes_directly() {
    let (mut w, _) = direct();
    let flow = asked(&mut w, PathPolicy::RelayOnly, Duration::from_secs(5));
    assert_eq!(w.outcomes[&flow], Outcome::Opened);
    let before = w.agent(node_at(ALICE)).node().counters.direct_tx;
    echoes(&mut w, flow, &[7; 50_000]);
    let after = w.agent(node_at(ALICE)).node().counters.direct_tx;
    assert!(after < before + 5_000, "{}", after - before);
}

fn explained(w: &mut World) -> (PathKind, Evidence) {
    w.explain(node_at(ALICE), 900);
    assert!(w.until(|w| w.answers.contains_key(&900)));
    match w.answers.remove(&900) {
        Some(Ok(Answer::Explain { path, evidence, .. })) => (path.kind, *evidence),
        other => panic!("{other:?}"),
    }
}

#[test]
fn explain_has_the_path_and_what_both_ends_have_tried() {
    let (mut w, _) = direct();
    let (kind, evidence) = explained(&mut w);
    assert_eq!(kind, PathKind::Direct);
    assert_eq!(evidence.reasons, []);
    assert!(evidence.checks.iter().any(|c| c.candidate.address == node_at(C1) && c.rtt.is_some()));
    assert!(evidence.remote_checks.iter().any(|r| r.candidate.address == node_at(ALICE) && r.rtt.is_some()));
}

#[test]
fn explain_names_what_stands_in_the_way() {
    let mut w = up();
    w.lose = Box::new(|from, to, packet| is_between(from, to) && packet.len() > 1_250);
    let flow = w.opened(node_at(ALICE), "web");
    echoes(&mut w, flow, b"by the relay");
    assert!(w.until(|w| {
        let node = w.agent(node_at(ALICE)).node();
        node.links.iter().any(|(_, l)| l.path.direct().is_some_and(|d| !d.list().tried().is_empty()))
    }));
    assert!(!w.within(Duration::from_secs(2), |_| false));
    let (kind, evidence) = explained(&mut w);
    assert!(matches!(kind, PathKind::Relay { .. }));
    assert!(evidence.reasons.iter().any(|r| r.cause == Cause::Mtu && r.remedy.is_some()), "{:?}", evidence.reasons);
}

const ONLY: &str =
    r#"permit(principal, action == Action::"connect", resource == Service::"web") when { context.path == "PATH" };"#;

#[test]
fn a_flow_that_policy_forbids_the_direct_path_stays_on_the_relay_while_others_move() {
    let (mut w, other) = direct();
    w.set_policy(&ONLY.replace("PATH", "relay"));
    assert!(w.until(|w| matches!(w.outcomes[&other], Outcome::Reset(Error::Denied { .. }))), "it was direct");
    let relayed = asked(&mut w, PathPolicy::Auto, Duration::from_secs(5));
    assert_eq!(w.outcomes[&relayed], Outcome::Opened);
    w.within(Duration::from_secs(2), |_| false);
    echoes(&mut w, relayed, b"by the relay");
}

#[test]
fn a_flow_that_insists_on_the_path_that_policy_forbids_is_denied() {
    let (mut w, _) = direct();
    w.set_policy(&ONLY.replace("PATH", "relay"));
    let only = asked(&mut w, PathPolicy::DirectOnly, Duration::from_secs(5));
    let Outcome::Failed(Error::Denied { decision, .. }) = &w.outcomes[&only] else { panic!("{:?}", w.outcomes[&only]) };
    assert!(decision.is_some());
}

#[test]
fn a_flow_that_policy_wants_direct_waits_for_the_direct_path() {
    let mut w = up();
    w.set_policy(&ONLY.replace("PATH", "direct"));
    let auto = asked(&mut w, PathPolicy::Auto, Duration::from_secs(5));
    assert_eq!(w.outcomes[&auto], Outcome::Opened);
    echoes(&mut w, auto, b"directly");
    // The relay says of itself that the connector is not there yet.
    let denials = w.notices.iter().filter(|(at, n)| *at != relay_at(1) && matches!(n, Notice::Denied { .. })).count();
    assert_eq!(denials, 0);
}

#[test]
fn a_flow_that_policy_wants_direct_fails_in_its_time_where_nothing_is_and_says_why() {
    let mut w = up();
    w.set_policy(&ONLY.replace("PATH", "direct"));
    w.lose = Box::new(|from, to, _| is_between(from, to));
    let auto = asked(&mut w, PathPolicy::Auto, Duration::from_secs(2));
    let Outcome::Failed(Error::Unreachable { message, .. }) = &w.outcomes[&auto] else {
        panic!("{:?}", w.outcomes[&auto])
    };
    assert!(message.contains("no direct path to connector `c1`"), "{message}");
}

#[test]
fn a_policy_that_demands_the_direct_path_denies_the_relay_and_cuts_when_it_is_lost() {
    let mut w = up();
    w.set_policy(&ONLY.replace("PATH", "direct"));
    let relayed = w.open_by(PathPolicy::RelayOnly, node_at(ALICE), "web", Protocol::Tcp, Duration::from_secs(5));
    assert!(w.until(|w| w.outcomes.contains_key(&relayed)));
    assert!(matches!(w.outcomes[&relayed], Outcome::Failed(Error::Denied { .. })), "{:?}", w.outcomes[&relayed]);
    let only = asked(&mut w, PathPolicy::DirectOnly, Duration::from_secs(5));
    assert_eq!(w.outcomes[&only], Outcome::Opened);
    echoes(&mut w, only, b"directly");
    w.lose = Box::new(|from, to, _| is_between(from, to));
    w.write(node_at(ALICE), only, b"lost", false);
    assert!(w.until(|w| matches!(w.outcomes[&only], Outcome::Reset(_))), "{:?}", w.outcomes[&only]);
}

/// Bytes of the connector's that a relay has taken, from a moment on.
fn relayed(w: &World) -> u64 {
    let c = &w.connector(node_at(C1)).node().counters;
    c.forwarded_tx + c.tunnel_tx
}

#[test]
fn what_only_a_direct_path_may_carry_waits_until_both_ends_send_directly() {
    for path in [PathPolicy::Auto, PathPolicy::DirectOnly] {
        let mut w = up();
        w.set_policy(&ONLY.replace("PATH", "direct"));
        // The connector's padded checks do not pass; the agent's do.
        w.lose = Box::new(|from, to, packet| from == node_at(C1) && to == node_at(ALICE) && packet.len() > 1_250);
        let flow = w.open_by(path, node_at(ALICE), "web", Protocol::Tcp, Duration::from_secs(3));
        assert!(w.until(|w| w.outcomes.contains_key(&flow)));
        assert!(matches!(w.outcomes[&flow], Outcome::Failed(Error::Unreachable { .. })), "{:?}", w.outcomes[&flow]);
    }
}

#[test]
fn no_byte_of_a_flow_that_must_be_direct_goes_by_the_relay_when_the_path_dies_under_it() {
    for policy in [PathPolicy::Auto, PathPolicy::DirectOnly] {
        let (mut w, _) = direct();
        if policy == PathPolicy::Auto {
            w.set_policy(&ONLY.replace("PATH", "direct"));
        }
        let flow = asked(&mut w, policy, Duration::from_secs(5));
        assert_eq!(w.outcomes[&flow], Outcome::Opened);
        let data: Vec<u8> = vec![7; 3_000_000];
        let written = w.write_some(node_at(ALICE), flow, &data);
        assert!(written > 20_000, "{written}");
        assert!(w.until(|w| w.received.get(&flow).is_some_and(|b| b.len() >= written)));
        // All of a window, and the connector's echo of it, is under way when the path dies.
        w.write_some(node_at(ALICE), flow, &data);
        let before = relayed(&w);
        w.lose = Box::new(|from, to, _| is_between(from, to));
        assert!(w.until(|w| matches!(w.outcomes[&flow], Outcome::Reset(_))), "{:?}", w.outcomes[&flow]);
        w.within(Duration::from_secs(1), |_| false);
        // Acknowledgements, resets and what the two say of their addresses.
        let after = relayed(&w) - before;
        assert!(after < 10_000, "{after} bytes by the relay");
    }
}
