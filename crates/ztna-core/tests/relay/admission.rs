//! Retry, the handshake budget, STUN, binds and refusals.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ztna_core::Role;
use ztna_core::error::DeniedBy;
use ztna_core::quic::connection::{Closed, StreamId};
use ztna_core::quic::field;
use ztna_core::relay::{Limits, REPLACED, RelayConfig};
use ztna_core::role::{Arrival, Machine, Notice};
use ztna_core::wire::capsule::Capsule;
use ztna_core::wire::connect_udp;
use ztna_core::wire::decision::DecisionId;
use ztna_core::wire::proxy_status::{ProxyError, ProxyStatus};
use ztna_core::wire::stun::{self, TransactionId};

use super::net::{Id, Net, addr, config};

#[test]
fn a_client_proves_its_address_by_a_retry_and_connects() {
    let mut net = Net::new();
    net.connected(Role::Agent, "alice", 1);
    let counters = net.shared.counters();
    assert_eq!(
        (counters.retries.get(), counters.handshakes.ok.get(), counters.connections.get()),
        (2, 1, 1),
        "a Retry for each of the two Initials"
    );
}

#[test]
fn without_retry_a_client_connects_at_once() {
    let mut net = Net::with(RelayConfig { retry: false, ..config() }, 1);
    net.connected(Role::Agent, "alice", 1);
    assert_eq!((net.shared.counters().retries.get(), net.shared.counters().connections.get()), (0, 1));
}

#[test]
fn only_initials_of_validated_addresses_are_counted_and_those_are_held_to_the_budget() {
    let limits = Limits { handshakes_per_prefix: 2, ..Limits::default() };
    let mut net = Net::with(RelayConfig { limits, ..config() }, 1);
    let first = initial(&mut net);
    for n in 100..200 {
        deliver(&mut net, addr(n), &mut first.clone());
    }
    assert_eq!((net.shared.counters().handshakes.limited.get(), net.shared.counters().connections.get()), (0, 0));
    for n in 1..=3 {
        net.client(Role::Agent, "alice", n);
    }
    net.settle();
    let counters = net.shared.counters();
    assert_eq!(counters.connections.get(), 2);
    assert!(counters.handshakes.limited.get() > 0);
}

#[test]
fn a_flood_of_first_initials_is_answered_within_its_budget_and_a_client_gets_in_behind_it() {
    let limits = Limits { retries: 5, ..Limits::default() };
    let mut net = Net::with(RelayConfig { limits, ..config() }, 1);
    let first = initial(&mut net);
    for n in 100..200 {
        deliver(&mut net, addr(n), &mut first.clone());
    }
    let counters = net.shared.counters();
    let (answered, dropped) = (counters.retries.get(), counters.drops.initial.get());
    assert!((5..=10).contains(&answered), "a second's worth, and what a slow machine takes longer for: {answered}");
    assert_eq!(answered + dropped, 100);
    net.connected(Role::Agent, "alice", 1);
}

#[test]
fn a_token_from_another_address_begins_nothing() {
    let mut net = Net::new();
    let id = net.client(Role::Agent, "alice", 1);
    let mut out = [0u8; 1500];
    while let Some((n, _)) = net.clients[id].conn.send(&mut out) {
        deliver(&mut net, addr(1), &mut out[..n]);
    }
    relay_only(&mut net);
    net.clients[id].addr = addr(2);
    net.settle();
    assert_eq!(net.shared.counters().connections.get(), 0);
    assert!(net.shared.counters().handshakes.bad_token.get() > 0);
}

#[test]
fn the_relay_never_sends_more_than_it_got_before_an_address_is_validated() {
    let mut net = Net::new();
    let mut first = initial(&mut net);
    net.sent.clear();
    deliver(&mut net, addr(50), &mut first);
    assert!(net.sent.iter().map(|(_, n)| n).sum::<usize>() <= first.len());
    first[1..5].copy_from_slice(&[0x0a; 4]);
    net.sent.clear();
    deliver(&mut net, addr(50), &mut first);
    assert!(!net.sent.is_empty(), "a Version Negotiation");
    assert!(net.sent.iter().map(|(_, n)| n).sum::<usize>() <= first.len());
    net.sent.clear();
    deliver(&mut net, addr(50), &mut first[..600]);
    assert_eq!(net.sent, []);
}

#[test]
fn a_bind_is_acknowledged_and_told_its_address() {
    let mut net = Net::new();
    let (c, stream) = net.bound("c1", 1);
    let answer = &net.clients[c].answers[&stream];
    assert_eq!(field(answer, "connect-udp-bind"), Some("?1"));
    let public = field(answer, "proxy-public-address").unwrap();
    let public: SocketAddr = public.trim_matches('"').parse().unwrap();
    assert!(public.ip().to_string().starts_with("fd"), "{public}");
    net.waits_for(c, stream, &Capsule::ObservedAddress(addr(1)));
    net.waits_for(c, stream, &Capsule::CompressionAck { context_id: 2 });
    let status = net.shared.status();
    assert_eq!((status.name.as_str(), status.connectors[0].name.as_str(), status.connectors.len()), ("r1", "c1", 1));
}

#[test]
fn an_agent_that_policy_does_not_admit_is_denied_with_the_reason_and_a_decision_id() {
    let mut net = Net::new();
    net.bound("c1", 1);
    let bob = net.connected(Role::Agent, "bob", 2);
    let stream = net.connect(bob, "c1");
    let status = refusal(&mut net, bob, stream, "403");
    assert_eq!((status.proxy.as_str(), status.error), ("r1", ProxyError::HttpRequestDenied));
    let details = status.details.unwrap();
    let (id, reason) = details.split_once(": ").unwrap();
    assert!(DecisionId::parse(id).is_some() && reason.starts_with("no policy permits"), "{details}");
    let told = net.notices.iter().any(|n| {
        let Notice::Denied { error: ztna_core::Error::Denied { by, decision, .. }, peer, .. } = n else { return false };
        *by == DeniedBy::Relay
            && decision.as_deref() == Some(id)
            && peer.as_ref().is_some_and(|p| p.short_name() == "agent/bob")
    });
    assert!(told, "{:?}", net.notices);
}

#[test]
fn a_connector_that_does_not_exist_or_is_not_bound_is_not_found() {
    let mut net = Net::new();
    let alice = net.connected(Role::Agent, "alice", 1);
    for (name, why) in [("c9", "not a connector of this network"), ("c2", "not bound at this relay")] {
        let stream = net.connect(alice, name);
        let status = refusal(&mut net, alice, stream, "404");
        assert_eq!(status.error, ProxyError::DestinationUnavailable);
        assert!(status.details.unwrap().contains(why));
    }
    // Nobody judged alice: that is no denial.
    assert!(!net.notices.iter().any(|n| matches!(n, Notice::Denied { .. })), "{:?}", net.notices);
}

#[test]
fn roles_may_not_do_each_others_work() {
    let mut net = Net::new();
    let (c, _) = net.bound("c1", 1);
    let stream = net.connect(c, "c1");
    refusal(&mut net, c, stream, "403");
    let alice = net.connected(Role::Agent, "alice", 2);
    let stream = net.request(alice, connect_udp::bind_path(), true);
    refusal(&mut net, alice, stream, "403");
}

#[test]
fn an_agent_is_held_to_its_limit_of_sessions() {
    let limits = Limits { sessions_per_agent: 1, ..Limits::default() };
    let mut net = Net::with(RelayConfig { limits, ..config() }, 1);
    net.bound("c1", 1);
    let (alice, _) = net.session("alice", "c1", 2);
    let stream = net.connect(alice, "c1");
    assert_eq!(refusal(&mut net, alice, stream, "429").error, ProxyError::ConnectionLimitReached);
}

#[test]
fn an_agent_is_held_to_its_share_of_a_connector_over_all_its_connections_and_others_get_in() {
    let limits = Limits { sessions_per_pair: 2, ..Limits::default() };
    let mut net = Net::with(RelayConfig { limits, ..config() }, 2);
    net.bound("c2", 1);
    let (first, session) = net.session("alice", "c2", 2);
    let (second, _) = net.session("alice", "c2", 3);
    for id in [first, second] {
        let stream = net.connect(id, "c2");
        let status = refusal(&mut net, id, stream, "429");
        assert_eq!(status.details.as_deref(), Some("the agent is at its limit of sessions to this connector"));
    }
    net.session("bob", "c2", 4);
    net.clients[first].conn.reset(session, 0x10c);
    net.settle();
    let again = net.connect(second, "c2");
    assert_eq!(net.status(second, again), "200");
}

#[test]
fn a_connector_at_its_limit_is_a_refusal_and_not_a_session_that_ends() {
    let limits = Limits { sessions_per_bind: 1, ..Limits::default() };
    let mut net = Net::with(RelayConfig { limits, ..config() }, 1);
    net.bound("c2", 1);
    net.session("alice", "c2", 2);
    let bob = net.connected(Role::Agent, "bob", 3);
    let stream = net.connect(bob, "c2");
    let status = refusal(&mut net, bob, stream, "429");
    assert_eq!(status.details.as_deref(), Some("the connector is at its limit of sessions"));
}

#[test]
fn a_second_bind_of_one_identity_takes_new_sessions_and_the_first_keeps_its_own() {
    let mut net = Net::new();
    let (old, old_stream) = net.bound("c1", 1);
    let (alice, first) = net.session("alice", "c1", 3);
    net.until("the older is asked", |net| assigned(net, old, old_stream) == 1);
    let (new, stream) = net.bound("c1", 2);
    net.waits_for(old, old_stream, &Capsule::Replaced(addr(2)));
    let second = net.connect(alice, "c1");
    net.until("the newer is asked", |net| assigned(net, new, stream) == 1);
    // Longer than the relay waits for a sign of life.
    net.run_for(Duration::from_millis(1_500));
    net.datagram(alice, first, 0, b"to the older");
    net.datagram(alice, second, 0, b"to the newer");
    net.until("each gets its own", |net| {
        net.clients[old].payloads(old_stream, 1) == [b"to the older"]
            && net.clients[new].payloads(stream, 1) == [b"to the newer"]
    });
    assert_eq!(assigned(&net, old, old_stream), 1);
    assert!(net.clients[alice].resets.is_empty() && net.clients[old].closed.is_none());
}

#[test]
fn a_replaced_bind_that_gives_no_sign_of_life_ends_with_its_sessions() {
    let mut net = Net::new();
    let (old, _) = net.bound("c1", 1);
    let (alice, stream) = net.session("alice", "c1", 3);
    net.settle();
    net.clients[old].mtu = 0;
    net.bound("c1", 2);
    let from = Instant::now();
    net.until("the session is reset", |net| net.clients[alice].resets.iter().any(|(s, _)| *s == stream));
    assert!(from.elapsed() < Duration::from_secs(2), "{:?}", from.elapsed());
}

#[test]
fn a_replaced_bind_that_does_not_go_is_closed() {
    let mut net = Net::new();
    let (old, _) = net.bound("c1", 1);
    net.bound("c1", 2);
    net.run_for(Duration::from_secs(10));
    assert!(net.clients[old].closed.is_none());
    net.until("the older is closed", |net| net.clients[old].closed.is_some());
    let Some(Closed::ByPeer { app: true, code: REPLACED, reason }) = &net.clients[old].closed else {
        panic!("{:?}", net.clients[old].closed)
    };
    assert_eq!(*reason, format!("replaced by a newer bind from {}", addr(2)));
}

/// Sessions that the relay has announced on a bind.
fn assigned(net: &Net, id: usize, stream: StreamId) -> usize {
    let capsules = net.clients[id].capsules.get(&stream);
    capsules.map_or(0, |c| c.iter().filter(|c| matches!(c, Capsule::CompressionAssign { .. })).count())
}

#[test]
fn a_stun_answer_is_never_larger_than_its_request() {
    let mut net = Net::new();
    for len in [20, 24, 28, 32, 40, 44, 76, 120] {
        for socket in [0, 1] {
            let mut request = match len {
                20 | 24 => bare_request(len),
                _ => stun::binding_request_padded(TransactionId([1; 12]), len),
            };
            net.elsewhere.clear();
            let arrival = Arrival { socket, from: addr(77), to: None, stride: request.len() };
            net.loops[0].handle_packets(Instant::now(), arrival, &mut request);
            net.settle();
            assert!(net.elsewhere.iter().all(|(to, p)| *to == addr(77) && p.len() <= request.len()), "{len}");
            if len == 120 {
                let (_, seen, other) = stun::parse_binding_success(&net.elsewhere[0].1).unwrap();
                let port = if socket == 0 { 3479 } else { 4433 };
                assert_eq!((seen, other), (addr(77), Some(SocketAddr::from(([192, 0, 2, 1], port)))));
            }
        }
    }
    assert!(net.shared.counters().stun.get() >= 8);
}

/// Status and `Proxy-Status` of a refused request.
fn refusal(net: &mut Net, id: Id, stream: StreamId, status: &str) -> ProxyStatus {
    assert_eq!(net.status(id, stream), status);
    ProxyStatus::parse(field(&net.clients[id].answers[&stream], "proxy-status").unwrap()).unwrap()
}

/// A client's first datagram, which has not been delivered.
fn initial(net: &mut Net) -> Vec<u8> {
    let id = net.client(Role::Agent, "alice", 60);
    let mut client = net.clients.remove(id);
    let mut packet = vec![0u8; 1500];
    let (n, _) = client.conn.send(&mut packet).unwrap();
    packet.truncate(n);
    packet
}

fn deliver(net: &mut Net, from: SocketAddr, packet: &mut [u8]) {
    let arrival = Arrival { socket: 0, from, to: None, stride: packet.len() };
    net.loops[0].handle_packets(Instant::now(), arrival, packet);
    if net.clients.is_empty() {
        net.settle();
    }
}

/// The relay's turn alone: its answers reach the clients, who do not speak yet.
fn relay_only(net: &mut Net) {
    let mut out = Vec::new();
    net.loops[0].process(Instant::now());
    while let Some(transmit) = net.loops[0].poll_transmit(Instant::now(), &mut out) {
        let client = net.clients.iter_mut().find(|c| c.addr == transmit.to).unwrap();
        client.conn.recv(&mut out, super::net::relay_addr());
        out.clear();
    }
}

/// A Binding request without FINGERPRINT.
fn bare_request(len: usize) -> Vec<u8> {
    let mut m = vec![0, 1, 0, (len - 20) as u8, 0x21, 0x12, 0xa4, 0x42];
    m.extend_from_slice(&[7; 12]);
    m.extend_from_slice(&[0x80, 0x22, 0, 0][..len - 20]);
    m
}
