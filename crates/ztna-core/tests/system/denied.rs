//! What both ends say of a denial, and of flows that were lost.

use std::net::SocketAddr;
use std::time::Duration;

use super::up;
use super::world::{Outcome, World, node_at, relay_at};
use ztna_core::Error;
use ztna_core::error::DeniedBy;
use ztna_core::role::{Asked, Notice};
use ztna_core::trust::Protocol;

const ALICE: u8 = 1;
const C1: u8 = 2;

/// A policy that leaves alice the connector, and takes `web` from her.
const NO_WEB: &str = r#"permit(principal, action, resource);
    @id("no-web") forbid(principal, action, resource == Service::"web");"#;

/// The denials that the node at `n` told of.
fn denials(w: &World, n: u8) -> Vec<(Error, Option<Asked>)> {
    denials_at(w, node_at(n))
}

fn denials_at(w: &World, place: SocketAddr) -> Vec<(Error, Option<Asked>)> {
    let of_it = w.notices.iter().filter(|(at, _)| *at == place);
    let denied = |n: &Notice| {
        if let Notice::Denied { error, asked, .. } = n { Some((error.clone(), asked.clone())) } else { None }
    };
    of_it.filter_map(|(_, n)| denied(n)).collect()
}

/// What denied the flow's request or cut it.
fn denial(w: &mut World, flow: ztna_core::FlowId) -> Error {
    let over = |w: &World| matches!(w.outcomes.get(&flow), Some(Outcome::Failed(_) | Outcome::Reset(_)));
    assert!(w.until(over), "no outcome");
    match w.outcomes.get(&flow) {
        Some(Outcome::Failed(e) | Outcome::Reset(e)) => e.clone(),
        other => panic!("{other:?}"),
    }
}

fn web(protocol: Protocol, port: Option<u16>) -> Option<Asked> {
    Some(Asked { service: "web".into(), port, protocol })
}

#[test]
fn a_flow_cut_by_a_policy_change_is_denied_at_both_ends_under_one_decision_id() {
    let mut w = up();
    let flow = w.opened(node_at(ALICE), "web");
    w.set_policy(NO_WEB);
    let error = denial(&mut w, flow);
    let Error::Denied { by: DeniedBy::Connector, reason, decision: Some(decision), .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(*reason, format!("no longer permitted; decision {decision} in the log of connector `c1` says why"));
    let theirs = Error::Denied {
        by: DeniedBy::Connector,
        reason: "forbidden by `no-web`".into(),
        decision: Some(decision.clone()),
        policy: Some("no-web".into()),
    };
    assert_eq!(denials(&w, C1), [(theirs, web(Protocol::Tcp, Some(80)))]);
    assert_eq!(denials(&w, ALICE), [(error, web(Protocol::Tcp, Some(80)))]);
}

#[test]
fn a_udp_flow_cut_by_a_policy_change_is_denied_too() {
    let mut w = up();
    let flow = w.open(node_at(ALICE), "web", Protocol::Udp, Duration::from_secs(5));
    assert!(w.until(|w| w.outcomes.contains_key(&flow)));
    w.set_policy(NO_WEB);
    let error = denial(&mut w, flow);
    assert!(matches!(error, Error::Denied { by: DeniedBy::Connector, decision: Some(_), .. }), "{error:?}");
    assert_eq!(denials(&w, ALICE), [(error, web(Protocol::Udp, Some(53)))]);
}

#[test]
fn what_an_agent_refuses_by_itself_has_a_decision_id_and_each_refusal_another() {
    let mut w = up();
    let ids = [(); 2].map(|()| {
        let flow = w.open(node_at(ALICE), "nowhere", Protocol::Tcp, Duration::from_secs(1));
        match denial(&mut w, flow) {
            Error::Denied { by: DeniedBy::Agent, decision: Some(id), .. } => id,
            other => panic!("{other:?}"),
        }
    });
    assert_ne!(ids[0], ids[1]);
    let told: Vec<_> = denials(&w, ALICE).into_iter().map(|(e, _)| e).collect();
    assert!(matches!(&told[0], Error::Denied { decision, .. } if *decision == Some(ids[0].clone())), "{told:?}");
}

#[test]
fn a_flow_cut_because_the_relay_permits_nothing_any_more_is_denied_at_the_agent() {
    let mut w = up();
    let flow = w.opened(node_at(ALICE), "web");
    w.lose = Box::new(|from, to, _| from == node_at(C1) || to == node_at(C1));
    w.set_policy(r#"permit(principal == Agent::"bob", action, resource);"#);
    let error = denial(&mut w, flow);
    assert!(matches!(error, Error::Denied { by: DeniedBy::Relay, .. }), "{error:?}");
    assert_eq!(denials(&w, ALICE), [(error, web(Protocol::Tcp, Some(80)))]);
}

#[test]
fn a_session_that_the_relays_policy_refuses_is_denied_at_both_ends_under_one_decision_id() {
    let mut w = up();
    w.set_policy(r#"permit(principal == Agent::"bob", action, resource);"#);
    let errors: Vec<Error> = (0..2)
        .map(|_| {
            let flow = w.open(node_at(ALICE), "web", Protocol::Tcp, Duration::from_secs(5));
            denial(&mut w, flow)
        })
        .collect();
    let decisions: Vec<&str> = errors
        .iter()
        .map(|e| match e {
            Error::Denied { by: DeniedBy::Relay, decision: Some(decision), policy: None, .. } => decision.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_ne!(decisions[0], decisions[1]);
    let told = denials_at(&w, relay_at(1));
    for decision in decisions {
        let theirs = Error::Denied {
            by: DeniedBy::Relay,
            reason: "no policy permits any flow to a service on connector `c1`".into(),
            decision: Some(decision.to_owned()),
            policy: None,
        };
        assert!(told.contains(&(theirs, None)), "{decision}: {told:?}");
    }
}

#[test]
fn a_flow_cut_because_its_service_has_moved_says_so() {
    let mut w = World::new(1, &["c1", "c11"]);
    w.set_policy("permit(principal, action, resource);");
    w.start_relay(1);
    w.start_connector(node_at(C1), "c1");
    w.start_agent(node_at(ALICE), "alice", None);
    let flow = w.opened(node_at(ALICE), "web");
    w.edit_network("\"web\"\nconnectors = [\"c1\", \"c11\"]", "\"web\"\nconnectors = [\"c11\"]");
    let _ = denial(&mut w, flow);
    let told = denials(&w, C1);
    let [(Error::Denied { reason, policy: None, .. }, _)] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(reason, "service `web` is no longer served by this connector");
}

#[test]
fn a_refused_request_is_told_of_in_the_same_words_at_both_ends() {
    let mut w = up();
    w.set_policy(NO_WEB);
    let flow = w.open(node_at(ALICE), "web", Protocol::Tcp, Duration::from_secs(5));
    let error = denial(&mut w, flow);
    assert_eq!(error.to_string(), "denied by connector: forbidden by `no-web`");
    assert_eq!(denials(&w, ALICE), [(error.clone(), web(Protocol::Tcp, None))]);
    assert_eq!(denials(&w, C1), [(error, web(Protocol::Tcp, Some(80)))]);
}

#[test]
fn a_request_for_a_service_that_nobody_has_is_counted_apart_from_policy() {
    let mut w = up();
    let flow = w.open(node_at(ALICE), "wbe", Protocol::Tcp, Duration::from_secs(5));
    let _ = denial(&mut w, flow);
    let denied = &w.agent(node_at(ALICE)).node().counters.denied;
    assert_eq!(
        denied.iter().map(|((by, why), n)| (*by, why.as_str(), *n)).collect::<Vec<_>>(),
        [("agent", "unknown", 1)]
    );
}

#[test]
fn the_loss_of_a_connection_is_warned_of_once_with_the_flows_it_cut_and_why() {
    let mut w = up();
    let flows = [w.opened(node_at(ALICE), "web"), w.opened(node_at(ALICE), "web")];
    w.kill(node_at(C1));
    w.start_connector(node_at(C1 + 1), "c1");
    for flow in flows {
        w.write(node_at(ALICE), flow, b"is anybody there", false);
    }
    let cut = |w: &World| flows.iter().all(|f| matches!(w.outcomes.get(f), Some(Outcome::Reset(_))));
    assert!(w.until(cut), "{:?}", w.outcomes);
    let warned = |(at, n): &(_, Notice)| match n {
        Notice::Warning(e) if *at == node_at(ALICE) => Some(e.to_string()),
        _ => None,
    };
    let told: Vec<String> = w.notices.iter().filter_map(warned).collect();
    let [text] = told.as_slice() else { panic!("{told:?}") };
    assert!(text.starts_with("unreachable: 2 open flows were cut: "), "{text}");
    assert!(text.contains("connector `c1`"), "{text}");
}

#[test]
fn an_agent_without_a_relay_tells_which_were_tried_and_what_to_check() {
    let mut w = World::new(2, &["c1"]);
    w.start_agent(node_at(ALICE), "alice", None);
    w.turn();
    let outage = w.agent(node_at(ALICE)).node().outage();
    let Some(Error::Unreachable { message, reason: Some("udp-blocked"), tried }) = outage else { panic!("{outage:?}") };
    assert_eq!(tried, ["relay r1 (192.0.2.1:4433): no answer yet", "relay r2 (192.0.2.2:4433): no answer yet"]);
    assert!(message.ends_with("check that the relay runs and that no firewall drops UDP to it"), "{message}");
    w.start_relay(1);
    assert!(w.has(relay_at(1)));
    assert!(w.until(|w| w.agent(node_at(ALICE)).node().outage().is_none()));
}
