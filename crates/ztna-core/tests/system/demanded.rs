//! Flows that policy or their caller leaves one kind of path only: what a check, a ping, an explanation and an error say of them.

use std::net::SocketAddr;
use std::time::Duration;

use ztna_core::path::demand::{Demand, DemandedBy};
use ztna_core::path::explain::{Cause, Evidence};
use ztna_core::role::{Answer, PathInfo, PathKind, PathPolicy};
use ztna_core::trust::{PathClass, Protocol};
use ztna_core::{Error, FlowId};

use super::world::{Outcome, World, node_at, relay_at};

const ALICE: u8 = 1;
const C1: u8 = 2;
/// Of operations.
const OP: u64 = 900;

fn only(path: &str) -> String {
    format!(
        r#"@id("web-{path}") permit(principal, action == Action::"connect", resource == Service::"web") when {{ context.path == "{path}" }};"#
    )
}

/// Two nodes under this policy.
fn under(policy: &str) -> World {
    let mut w = World::new(1, &["c1"]);
    w.direct = true;
    w.start_relay(1);
    w.start_connector(node_at(C1), "c1");
    w.start_agent(node_at(ALICE), "alice", None);
    w.set_policy(policy);
    w
}

fn is_between(from: SocketAddr, to: SocketAddr) -> bool {
    from != relay_at(1) && to != relay_at(1)
}

/// The same where no packet passes between the two but by the relay.
fn apart(policy: &str) -> World {
    let mut w = under(policy);
    w.lose = Box::new(|from, to, _| is_between(from, to));
    w
}

fn answered(w: &mut World, within: Duration) -> Result<Answer, Error> {
    assert!(w.within(within, |w| w.answers.contains_key(&OP)), "no answer within {within:?}");
    w.answers.remove(&OP).unwrap()
}

fn checked(w: &mut World) -> (bool, Option<PathClass>, Option<String>, String) {
    w.check(node_at(ALICE), OP, "web");
    match answered(w, Duration::from_secs(1)) {
        Ok(Answer::Check { allowed, only, policy, reason, .. }) => (allowed, only, policy, reason),
        other => panic!("{other:?}"),
    }
}

fn explained(w: &mut World, path: PathPolicy) -> (PathInfo, Evidence) {
    w.explain_by(path, node_at(ALICE), OP);
    match answered(w, Duration::from_secs(4)) {
        Ok(Answer::Explain { path, evidence, .. }) => (path, *evidence),
        other => panic!("{other:?}"),
    }
}

fn asked(w: &mut World, path: PathPolicy, patience: Duration) -> FlowId {
    let flow = w.open_by(path, node_at(ALICE), "web", Protocol::Tcp, patience);
    assert!(w.until(|w| w.outcomes.contains_key(&flow)));
    flow
}

/// The error of a flow that did not come to be.
fn failed(w: &mut World, path: PathPolicy) -> Error {
    let flow = asked(w, path, Duration::from_secs(2));
    match w.outcomes.remove(&flow) {
        Some(Outcome::Failed(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn by_policy(path: PathClass) -> Option<Demand> {
    let by = DemandedBy::Policy(Some(format!("web-{}", path.as_str())));
    Some(Demand { only: path, by })
}

#[test]
fn a_check_says_at_once_that_policy_permits_the_direct_path_only() {
    let mut w = apart(&only("direct"));
    let (allowed, path, policy, reason) = checked(&mut w);
    assert_eq!((allowed, path, policy.as_deref()), (true, Some(PathClass::Direct), Some("web-direct")));
    assert_eq!(reason, "policy `web-direct` permits it on a direct path only");
}

#[test]
fn a_check_says_that_policy_permits_the_relay_only() {
    let mut w = under(&only("relay"));
    let (allowed, path, policy, _) = checked(&mut w);
    assert_eq!((allowed, path, policy.as_deref()), (true, Some(PathClass::Relay), Some("web-relay")));
}

#[test]
fn a_check_names_the_policy_that_forbids_the_other_path() {
    let permit = r#"@id("all") permit(principal, action == Action::"connect", resource);"#;
    let forbid = r#"@id("no-relay") forbid(principal, action, resource) when { context.path == "relay" };"#;
    let mut w = under(&format!("{permit}\n{forbid}"));
    let (allowed, path, policy, _) = checked(&mut w);
    assert_eq!((allowed, path, policy.as_deref()), (true, Some(PathClass::Direct), Some("no-relay")));
}

#[test]
fn a_check_of_a_flow_that_may_take_any_path_names_the_policy_and_no_path() {
    let mut w = under(r#"@id("all") permit(principal, action == Action::"connect", resource);"#);
    let (allowed, path, policy, reason) = checked(&mut w);
    assert_eq!((allowed, path, policy.as_deref()), (true, None, Some("all")));
    assert_eq!(reason, "permitted by `all`");
}

#[test]
fn explain_answers_soon_where_policy_demands_a_direct_path_and_none_is_to_be_had() {
    let mut w = apart(&only("direct"));
    let (path, evidence) = explained(&mut w, PathPolicy::Auto);
    assert_eq!((path.kind, path.relay), (PathKind::None, None));
    assert_eq!(evidence.demand, by_policy(PathClass::Direct));
    assert!(!evidence.reasons.is_empty() && evidence.reasons.iter().all(|r| r.remedy.is_some()), "{evidence:?}");
    assert!(evidence.checks.iter().any(|c| c.candidate.address == node_at(C1)), "{evidence:?}");
}

#[test]
fn explain_of_a_young_connection_has_what_an_older_one_to_the_same_connector_has_found() {
    let mut w = apart(r#"permit(principal, action == Action::"connect", resource);"#);
    let first = asked(&mut w, PathPolicy::Auto, Duration::from_secs(2));
    assert_eq!(w.outcomes[&first], Outcome::Opened);
    let round_over = |w: &World| {
        let node = w.agent(node_at(ALICE)).node();
        node.links
            .iter()
            .filter_map(|(_, l)| l.path.direct())
            .all(|d| d.list().round_left(std::time::Instant::now()).is_none() && !d.list().tried().is_empty())
    };
    assert!(w.within(Duration::from_secs(15), |w| round_over(w)));
    w.set_policy(&only("direct"));
    let (_, evidence) = explained(&mut w, PathPolicy::Auto);
    let causes: Vec<Cause> = evidence.reasons.iter().map(|r| r.cause).collect();
    assert_eq!(causes, [Cause::CheckTimeout, Cause::Checking]);
}

#[test]
fn explain_under_a_policy_that_demands_a_direct_path_shows_it_once_it_is_there() {
    let mut w = under(&only("direct"));
    let flow = asked(&mut w, PathPolicy::Auto, Duration::from_secs(5));
    assert_eq!(w.outcomes[&flow], Outcome::Opened);
    let (path, evidence) = explained(&mut w, PathPolicy::Auto);
    assert_eq!(path.kind, PathKind::Direct);
    assert_eq!(evidence.demand, by_policy(PathClass::Direct));
    assert_eq!(evidence.reasons, []);
}

#[test]
fn explain_under_a_policy_that_demands_the_relay_shows_that_connection_and_says_so() {
    let mut w = under(&only("relay"));
    let (path, evidence) = explained(&mut w, PathPolicy::Auto);
    assert!(matches!(path.kind, PathKind::Relay { .. }) && path.relay.as_deref() == Some("r1"), "{path:?}");
    assert_eq!(evidence.demand, by_policy(PathClass::Relay));
    let [why] = evidence.reasons.as_slice() else { panic!("{:?}", evidence.reasons) };
    assert_eq!(why.cause, Cause::RelayOnlyByPolicy);
    assert_eq!(why.detail, "policy `web-relay` permits it on a relayed path only");
    assert!(why.remedy.is_some());
}

#[test]
fn explain_of_a_callers_own_wish_names_the_caller() {
    let mut w = under(r#"permit(principal, action == Action::"connect", resource);"#);
    let (path, evidence) = explained(&mut w, PathPolicy::RelayOnly);
    assert!(matches!(path.kind, PathKind::Relay { .. }), "{path:?}");
    assert_eq!(evidence.demand, Some(Demand { only: PathClass::Relay, by: DemandedBy::Caller }));
    assert_eq!(evidence.reasons[0].detail, "the caller asked for a relayed path only");
}

#[test]
fn a_flow_that_fails_for_want_of_a_direct_path_says_who_wants_one_and_what_helps() {
    let mut w = apart(&only("direct"));
    let Error::Unreachable { message, reason, .. } = failed(&mut w, PathPolicy::Auto) else { panic!() };
    let start = "service `web`: policy `web-direct` permits it on a direct path only, and there is no direct path to connector `c1`: ";
    assert!(message.starts_with(start), "{message}");
    assert!(!message.contains("ztna explain"), "{message}");
    assert_eq!(reason, Some("checking"));
    let Error::Unreachable { message, .. } = failed(&mut w, PathPolicy::DirectOnly) else { panic!() };
    assert!(
        message.starts_with("service `web`: the caller asked for a direct path only, and there is no"),
        "{message}"
    );
}

#[test]
fn a_ping_that_fails_for_want_of_a_direct_path_says_who_wants_one() {
    let mut w = apart(&only("direct"));
    w.ping(node_at(ALICE), OP);
    let Err(Error::Unreachable { message, .. }) = answered(&mut w, Duration::from_secs(8)) else { panic!() };
    assert!(message.contains("policy `web-direct` permits it on a direct path only"), "{message}");
}

#[test]
fn a_caller_that_insists_on_the_other_path_is_told_which_one_policy_permits() {
    for (policy, wish) in [("direct", PathPolicy::RelayOnly), ("relay", PathPolicy::DirectOnly)] {
        let mut w = under(&only(policy));
        let Error::Denied { reason, policy: id, decision, .. } = failed(&mut w, wish) else { panic!() };
        assert_eq!(id, Some(format!("web-{policy}")));
        assert!(reason.contains("permits it on a ") && reason.ends_with(" path only"), "{reason}");
        assert!(decision.is_some());
    }
}

#[test]
fn a_flow_whose_direct_path_is_lost_says_that_policy_leaves_it_no_other() {
    let mut w = under(&only("direct"));
    let flow = asked(&mut w, PathPolicy::Auto, Duration::from_secs(5));
    assert_eq!(w.outcomes[&flow], Outcome::Opened);
    w.lose = Box::new(|from, to, _| is_between(from, to));
    w.write(node_at(ALICE), flow, b"lost", false);
    assert!(w.until(|w| matches!(w.outcomes[&flow], Outcome::Reset(_))));
    match &w.outcomes[&flow] {
        Outcome::Reset(Error::Unreachable { message, .. }) => {
            assert!(message.contains("policy `web-direct` permits it on a direct path only"), "{message}");
        }
        // The connector has noticed first.
        Outcome::Reset(Error::Denied { decision, .. }) => assert!(decision.is_some()),
        other => panic!("{other:?}"),
    }
}
