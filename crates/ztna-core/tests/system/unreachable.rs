//! What a user is told when a service can't be reached: the cause, and what to do.

use std::time::{Duration, Instant};

use super::up;
use super::world::{Outcome, World, node_at, relay_at};
use ztna_core::connector::Serve;
use ztna_core::role::{Notice, Target};
use ztna_core::trust::Protocol;
use ztna_core::{Error, FlowId};

/// The first that a connector of [`World`] serves.
const WEB_TCP: u64 = 1;

/// Its agent has had a flow.
fn warm() -> World {
    let mut w = up();
    let _ = w.opened(node_at(1), "web");
    w
}

/// Opens a flow that fails, and gives why.
fn failed(w: &mut World, timeout: Duration) -> Error {
    let flow: FlowId = w.open(node_at(1), "web", Protocol::Tcp, timeout);
    assert!(w.until(|w| w.outcomes.contains_key(&flow)), "no outcome");
    match w.outcomes.get(&flow) {
        Some(Outcome::Failed(error)) => error.clone(),
        other => panic!("{other:?}"),
    }
}

fn settle(w: &mut World, time: Duration) {
    let until = Instant::now() + time;
    assert!(w.until(|_| Instant::now() > until));
}

#[test]
fn a_relay_that_is_down_is_named_with_its_address_and_what_to_check() {
    let mut w = World::new(1, &["c1"]);
    w.start_agent(node_at(1), "alice", None);
    let error = failed(&mut w, Duration::from_millis(300));
    let Error::Unreachable { message, reason: Some("udp-blocked"), tried } = error else { panic!("{error:?}") };
    assert_eq!(
        message,
        "service `web`: no relay answers: relay r1 (192.0.2.1:4433): no answer yet; nothing ever came back (udp-blocked): check that the \
         relay runs and that no firewall drops UDP to it"
    );
    assert_eq!(tried, ["relay r1 (192.0.2.1:4433): no answer yet"]);
}

#[test]
fn a_connector_that_is_not_bound_is_named_with_the_relay_that_said_so() {
    let mut w = World::new(1, &["c1"]);
    w.start_relay(1);
    w.start_agent(node_at(1), "alice", None);
    let error = failed(&mut w, Duration::from_millis(700));
    let Error::Unreachable { message, reason: Some("not-bound"), tried } = error else { panic!("{error:?}") };
    assert_eq!(
        message,
        "service `web`: relay r1: connector `c1` is not bound at this relay; start `ztna connector` for it, or see its log \
         for why it is not online"
    );
    assert_eq!(tried, ["relay r1: connector `c1` is not bound at this relay"], "each cause once");
}

#[test]
fn a_connector_that_is_bound_and_silent_is_told_from_one_that_is_gone() {
    let mut w = up();
    settle(&mut w, Duration::from_millis(300));
    w.kill(node_at(2));
    let error = failed(&mut w, Duration::from_millis(2_500));
    let Error::Unreachable { message, reason: Some("silent"), .. } = error else { panic!("{error:?}") };
    assert!(message.contains("relay r1: connector `c1` is bound there and does not answer"), "{message}");
    assert!(message.contains("see whether its process hangs"), "{message}");
}

#[test]
fn a_relay_that_dies_is_what_the_error_is_about() {
    let mut w = warm();
    w.kill(relay_at(1));
    let error = failed(&mut w, Duration::from_millis(6_000));
    // From here it looks like a firewall that has begun to drop what goes to it.
    let Error::Unreachable { message, reason: Some("udp-blocked"), .. } = error else { panic!("{error:?}") };
    assert!(message.contains("no relay answers: relay r1 (192.0.2.1:4433): the relay does not answer"), "{message}");
}

#[test]
fn requests_after_a_relay_has_shut_down_tell_that_it_is_gone() {
    let mut w = warm();
    w.shut_down(relay_at(1), Duration::from_millis(100));
    assert!(w.until(|w| !w.has(relay_at(1))));
    settle(&mut w, Duration::from_millis(100));
    w.ping(node_at(1), 900);
    w.check(node_at(1), 901, "web");
    let mut errors = vec![failed(&mut w, Duration::from_millis(700))];
    assert!(w.until(|w| w.answers.len() == 2));
    errors.extend(w.answers.values().map(|a| a.clone().unwrap_err()));
    for error in errors {
        assert!(error.is_retryable());
        let Error::Unreachable { message, .. } = error else { panic!("{error:?}") };
        assert!(message.contains("no relay answers: relay r1 (192.0.2.1:4433): the relay"), "{message}");
    }
}

#[test]
fn a_request_under_way_when_its_relay_shuts_down_tells_that_it_is_gone() {
    let mut w = warm();
    w.lose = Box::new(|_, to, _| to == node_at(2));
    let flow = w.open(node_at(1), "web", Protocol::Tcp, Duration::from_millis(700));
    w.turn();
    w.shut_down(relay_at(1), Duration::ZERO);
    assert!(w.until(|w| w.outcomes.contains_key(&flow)));
    let Some(Outcome::Failed(Error::Unreachable { message, .. })) = w.outcomes.get(&flow) else {
        panic!("{:?}", w.outcomes.get(&flow))
    };
    assert!(message.contains("no relay answers: relay r1"), "{message}");
}

#[test]
fn a_connector_that_a_warm_agent_no_longer_finds_at_the_relay_is_told_as_not_bound() {
    let mut w = warm();
    // The relay starts again, and the connector can't reach it.
    w.shut_down(relay_at(1), Duration::ZERO);
    assert!(w.until(|w| !w.has(relay_at(1))));
    w.lose = Box::new(|from, to, _| from == node_at(2) || to == node_at(2));
    w.start_relay(1);
    assert!(w.until(|w| w.agent(node_at(1)).node().ready_legs().next().is_some()));
    let error = failed(&mut w, Duration::from_millis(1_500));
    let Error::Unreachable { reason: Some("not-bound"), .. } = error else { panic!("{error:?}") };
}

/// What the node at `n` has warned of.
fn warnings(w: &World, n: u8) -> Vec<String> {
    let of_it = w.notices.iter().filter(|(at, _)| *at == node_at(n));
    of_it.filter_map(|(_, n)| if let Notice::Warning(e) = n { Some(e.to_string()) } else { None }).collect()
}

#[test]
fn a_relay_that_drains_and_goes_is_warned_of_once() {
    let mut w = warm();
    w.shut_down(relay_at(1), Duration::from_millis(100));
    assert!(w.until(|w| !w.has(relay_at(1))));
    settle(&mut w, Duration::from_millis(500));
    for n in [1, 2] {
        assert_eq!(warnings(&w, n), ["unreachable: relay `r1`: the relay is draining"], "node {n}");
    }
}

#[test]
fn a_relay_that_refuses_a_bind_is_warned_of_once() {
    let mut w = warm();
    w.start_connector(node_at(3), "c1");
    assert!(w.until(|w| !w.has(node_at(2)) || !warnings(w, 2).is_empty()));
    settle(&mut w, Duration::from_millis(300));
    let told = warnings(&w, 2);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told.iter().all(|text| text.contains("replaced by a newer bind")), "{told:?}");
}

#[test]
fn a_service_that_the_connector_was_not_started_for_names_the_flag() {
    let mut w = World::new(1, &["c1"]);
    w.set_policy("permit(principal, action, resource);");
    w.start_relay(1);
    w.start_connector(node_at(2), "c1");
    w.start_agent(node_at(1), "alice", None);
    let flow = w.open(node_at(1), "secret", Protocol::Tcp, Duration::from_secs(3));
    assert!(w.until(|w| w.outcomes.contains_key(&flow)));
    let Some(Outcome::Failed(error)) = w.outcomes.get(&flow) else { panic!("{:?}", w.outcomes.get(&flow)) };
    assert_eq!(
        error.to_string(),
        "unreachable: connector `c1`: it serves no tcp port 80 of `secret`: start it with --service secret=tcp:80:HOST:PORT"
    );
    assert!(matches!(error, Error::Unreachable { reason: Some("not-served"), .. }), "{error:?}");
    assert!(error.is_retryable());
}

#[test]
fn a_service_that_is_closing_says_so_keeps_what_is_open_and_gives_way_to_the_next() {
    let mut w = up();
    let open = w.opened(node_at(1), "web");
    assert_eq!(w.connector_mut(node_at(2)).unserve(WEB_TCP), 1, "one flow is left to finish");
    let error = failed(&mut w, Duration::from_secs(3));
    let Error::Unreachable { message, reason: Some("closing"), .. } = &error else { panic!("{error:?}") };
    assert_eq!(message, "connector `c1`: service `web` is closing");
    assert!(error.is_retryable());
    assert_eq!(w.outcomes.get(&open), Some(&Outcome::Opened));
    let target = Target::Host { host: "127.0.0.1".into(), port: 8080 };
    let (service, protocol) = ("web".into(), Protocol::Tcp);
    let next = Serve { service, protocol, ports: None, target, max_connections: None, closing: false };
    w.connector_mut(node_at(2)).serve(next).unwrap();
    let _ = w.opened(node_at(1), "web");
}

#[test]
fn a_service_whose_flows_have_ended_is_closed_at_once() {
    let mut w = up();
    let flow = w.opened(node_at(1), "web");
    assert_eq!(w.connector_mut(node_at(2)).unserve(WEB_TCP), 1);
    w.machine(node_at(1)).stream_reset(flow);
    assert!(w.until(|w| w.connector(node_at(2)).serve_connections(WEB_TCP) == 0));
    assert_eq!(w.connector_mut(node_at(2)).unserve(WEB_TCP), 0);
}

#[test]
fn a_network_that_lets_no_udp_pass_any_more_is_told_as_such_though_it_once_did() {
    for connected in [false, true] {
        let mut w = World::new(1, &["c1"]);
        w.start_relay(1);
        w.start_connector(node_at(2), "c1");
        w.start_agent(node_at(1), "alice", None);
        if connected {
            w.opened(node_at(1), "web");
        } else {
            settle(&mut w, Duration::from_millis(300));
        }
        w.lose = Box::new(|_, _, _| true);
        let soon = failed(&mut w, Duration::from_millis(1_500));
        let Error::Unreachable { message, reason: Some("udp-blocked"), .. } = soon else { panic!("{soon:?}") };
        assert_eq!(
            message,
            "service `web`: relay r1: no longer answers; check that the relay runs and that no firewall drops UDP to it (udp-blocked)"
        );
        let later = failed(&mut w, Duration::from_secs(5));
        let Error::Unreachable { message, reason: Some("udp-blocked"), .. } = later else { panic!("{later:?}") };
        assert!(message.contains("nothing comes back any more (udp-blocked)"), "{message}");
    }
}
