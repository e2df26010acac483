//! What ends: by snapshot, by time, by operator, by shutting down.

use std::time::{Duration, Instant};

use ztna_core::Role;
use ztna_core::quic::connection::{Closed, H3_NO_ERROR};
use ztna_core::quic::field;
use ztna_core::relay::{H3_REQUEST_REJECTED, NOT_TRUSTED};
use ztna_core::role::{Machine, Notice, State};
use ztna_core::wire::capsule::Capsule;

use super::net::{Id, NO_POLICY, Net, addr};

#[test]
fn a_relay_is_online_at_once_and_says_so() {
    let mut net = Net::new();
    assert_eq!(net.loops[0].state(), State::Online);
    net.settle();
    assert!(matches!(net.notices[..], [Notice::State { next: State::Online, .. }]));
}

#[test]
fn revocation_closes_the_connection_and_its_sessions() {
    let mut net = Net::new();
    let (c, bind) = net.bound("c1", 1);
    let (alice, _) = net.session("alice", "c1", 2);
    net.publish(NO_POLICY, "names = [\"agent/alice\"]\n");
    let (code, reason) = closed(&mut net, alice);
    assert_eq!(code, NOT_TRUSTED);
    assert!(reason.contains("revoked"), "{reason}");
    net.waits_for(c, bind, &Capsule::CompressionClose { context_id: 1 });
    assert!(net.shared.sessions().is_empty() && net.clients[c].closed.is_none());
}

#[test]
fn a_certificate_that_is_revoked_between_a_handshakes_last_packet_and_its_settling_is_refused() {
    let mut net = Net::new();
    let a = net.client(Role::Agent, "alice", 1);
    while !net.clients[a].conn.is_established() {
        net.loops_turn(0);
        net.clients_turn(a);
    }
    net.publish(NO_POLICY, "names = [\"agent/alice\"]");
    net.settle();
    let handshakes = &net.shared.counters().handshakes;
    assert_eq!((handshakes.ok.get(), handshakes.refused.get()), (0, 1));
}

#[test]
fn a_revoked_connectors_sessions_end_at_their_agents() {
    let mut net = Net::new();
    let (c, _) = net.bound("c1", 1);
    let (alice, stream) = net.session("alice", "c1", 2);
    net.publish(NO_POLICY, "names = [\"connector/c1\"]\n");
    assert_eq!(closed(&mut net, c).0, NOT_TRUSTED);
    net.until("the agent is told", |net| net.clients[alice].resets.iter().any(|(s, _)| *s == stream));
    assert!(net.shared.status().connectors.is_empty());
}

#[test]
fn a_policy_that_no_longer_permits_it_ends_the_session_and_not_the_connection() {
    let mut net = Net::new();
    let (c, bind) = net.bound("c1", 1);
    let (alice, stream) = net.session("alice", "c1", 2);
    net.publish(NO_POLICY, "");
    net.until("the stream is reset", |net| net.clients[alice].resets == [(stream, H3_REQUEST_REJECTED)]);
    net.waits_for(c, bind, &Capsule::CompressionClose { context_id: 1 });
    assert!(net.clients[alice].closed.is_none());
    assert!(
        net.notices
            .iter()
            .any(|n| matches!(n, Notice::SessionEnd { why, .. } if why.starts_with("no longer permitted: ")))
    );
    let again = net.connect(alice, "c1");
    assert_eq!(net.status(alice, again), "403");
}

#[test]
fn a_connection_ends_with_its_certificate() {
    let mut net = Net::new();
    let id = net.client_for(Role::Agent, "alice", 1, Duration::from_secs(3));
    net.until("it connects", |net| net.clients[id].ready);
    let (code, reason) = closed(&mut net, id);
    assert_eq!((code, reason.as_str()), (NOT_TRUSTED, "the certificate has expired"));
}

#[test]
fn an_operator_can_end_a_session() {
    let mut net = Net::new();
    net.bound("c1", 1);
    let (alice, stream) = net.session("alice", "c1", 2);
    let id = net.shared.sessions()[0].id;
    assert!(net.shared.kick(id));
    net.until("the stream is reset", |net| net.clients[alice].resets.iter().any(|(s, _)| *s == stream));
    assert!(!net.shared.kick(id));
}

#[test]
fn the_observed_address_arrives_and_again_when_it_changes() {
    let mut net = Net::new();
    let (c, bind) = net.bound("c1", 1);
    net.waits_for(c, bind, &Capsule::ObservedAddress(addr(1)));
    net.clients[c].addr = addr(70);
    net.clients[c].conn.ping();
    net.waits_for(c, bind, &Capsule::ObservedAddress(addr(70)));
}

#[test]
fn a_drain_sends_goaway_refuses_new_work_and_ends_with_the_last_session() {
    let mut net = Net::new();
    let (c, _) = net.bound("c1", 1);
    let (alice, stream) = net.session("alice", "c1", 2);
    net.loops[0].shut_down(Instant::now(), Duration::from_secs(60));
    net.until("both are told", |net| net.clients[alice].goaway && net.clients[c].goaway);
    assert_eq!((net.loops[0].state(), net.ended), (State::Draining, 0));
    net.clients[alice].conn.write(stream, &[], true);
    net.until("the relay ends", |net| net.ended == 1);
    assert_eq!(net.loops[0].state(), State::Closed);
    assert_eq!(closed(&mut net, alice).0, H3_NO_ERROR);
    assert_eq!(closed(&mut net, c).0, H3_NO_ERROR);
}

#[test]
fn a_drains_goaway_spares_requests_that_were_answered() {
    let mut net = Net::new();
    let (c, bind) = net.bound("c1", 1);
    let (alice, _) = net.session("alice", "c1", 2);
    let denied = net.connect(alice, "c9");
    assert_eq!(net.status(alice, denied), "404");
    let idle = net.connected(Role::Agent, "bob", 3);
    net.loops[0].shut_down(Instant::now(), Duration::from_secs(60));
    net.until("all are told", |net| [alice, c, idle].iter().all(|id| net.clients[*id].goaway));
    // RFC 9114 section 5.2: what is below was or will be answered, and is not to be asked again.
    for (client, first) in [(alice, denied + 4), (c, bind + 4), (idle, 0)] {
        assert_eq!(net.clients[client].conn.refused_from(), Some(first));
    }
}

#[test]
fn a_drain_ends_when_its_time_is_over() {
    let mut net = Net::new();
    net.bound("c1", 1);
    let (alice, _) = net.session("alice", "c1", 2);
    net.loops[0].shut_down(Instant::now(), Duration::from_millis(50));
    net.settle();
    assert_eq!(net.ended, 0);
    net.until("the relay ends", |net| net.ended == 1);
    assert_eq!(closed(&mut net, alice).0, H3_NO_ERROR);
}

#[test]
fn a_request_that_meets_a_draining_relay_is_told_to_go_elsewhere() {
    let mut net = Net::new();
    net.bound("c1", 1);
    let (alice, _) = net.session("alice", "c1", 2);
    let late = net.connect(alice, "c1");
    net.loops[0].shut_down(Instant::now(), Duration::from_secs(60));
    assert_eq!(net.status(alice, late), "503");
    assert!(field(&net.clients[alice].answers[&late], "proxy-status").unwrap().contains("shutting down"));
}

/// Code and reason of the relay's close.
fn closed(net: &mut Net, id: Id) -> (u64, String) {
    net.until("the connection is closed", |net| net.clients[id].closed.is_some());
    match net.clients[id].closed.clone() {
        Some(Closed::ByPeer { app: true, code, reason }) => (code, reason),
        other => panic!("{other:?}"),
    }
}
