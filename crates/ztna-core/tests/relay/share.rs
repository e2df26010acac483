//! What one identity may take of a relay.

use std::time::{Duration, Instant};

use ztna_core::Role;
use ztna_core::quic::connection::{Closed, H3_EXCESSIVE_LOAD, StreamId};
use ztna_core::relay::{Limits, RelayConfig};
use ztna_core::role::{Arrival, Machine, Notice};

use super::net::{Id, Net, config};

fn limited(limits: Limits) -> Net {
    Net::with(RelayConfig { limits, ..config() }, 1)
}

/// Sends what the client has to send, and lets nothing come back.
fn push(net: &mut Net, id: Id, deliver: bool) {
    let client = &mut net.clients[id];
    let mut packet = [0u8; 1500];
    while let Some((n, _)) = client.conn.send(&mut packet) {
        if deliver {
            let arrival = Arrival { socket: 0, from: client.addr, to: None, stride: n };
            net.loops[0].handle_packets(Instant::now(), arrival, &mut packet[..n]);
        }
    }
    net.loops[0].process(Instant::now());
    let mut out = Vec::new();
    while net.loops[0].poll_transmit(Instant::now(), &mut out).is_some() {
        out.clear();
    }
}

/// A request whose first bytes are lost, and small frames behind the gap, a packet each.
fn gap(net: &mut Net, id: Id, frames: usize) -> StreamId {
    let stream = net.connect(id, "c1");
    push(net, id, false);
    for _ in 0..frames {
        net.clients[id].conn.write(stream, b"x", false);
        push(net, id, true);
    }
    stream
}

fn warned(net: &mut Net, text: &str) -> bool {
    net.settle();
    net.notices.iter().any(|n| matches!(n, Notice::Warning(e) if e.to_string().contains(text)))
}

#[test]
fn a_client_that_makes_its_connection_hold_much_by_small_frames_behind_a_gap_is_closed() {
    let mut net = limited(Limits { held_per_connection: 128 << 10, ..Limits::default() });
    let (connector, bind) = net.bound("c1", 2);
    let greedy = net.connected(Role::Agent, "alice", 1);
    gap(&mut net, greedy, 1_000);
    assert!(warned(&mut net, "alice` made its connection hold"), "{:?}", net.notices);
    assert_eq!(net.shared.counters().drops.share.get(), 1);
    assert_eq!(
        net.shared.counters().connections.get(),
        1,
        "it goes at once, not after the wait of a closed connection"
    );
    let (_, session) = net.session("alice", "c1", 3);
    assert!(session == 0 && !net.clients[connector].capsules[&bind].is_empty(), "others go on, and it may come again");
}

#[test]
fn an_identity_that_spreads_it_over_connections_loses_the_one_that_holds_most() {
    let mut net = limited(Limits { held_per_identity: 190_000, ..Limits::default() });
    let ids: Vec<Id> = (1..=3).map(|n| net.connected(Role::Agent, "alice", n)).collect();
    let mut streams = Vec::new();
    for (id, frames) in ids.iter().zip([100, 300, 200]) {
        streams.push(gap(&mut net, *id, frames));
    }
    assert!(warned(&mut net, "alice` made its connection hold"), "{:?}", net.notices);
    assert_eq!(net.shared.counters().connections.get(), 2);
    // The others fill their gaps and are answered.
    for n in [0, 2] {
        assert_eq!(net.status(ids[n], streams[n]), "404");
    }
}

#[test]
fn a_client_that_is_read_may_send_as_much_as_it_likes() {
    let mut net = limited(Limits { held_per_connection: 128 << 10, ..Limits::default() });
    net.bound("c1", 2);
    let (id, stream) = net.session("alice", "c1", 1);
    for _ in 0..200 {
        // Capsules of an unknown type, 16 KB each, which the relay passes over.
        let mut capsule = vec![0x7a, 0xb3, 0x80, 0, 0x40, 0];
        capsule.resize(6 + (16 << 10), 7);
        let mut at = 0;
        while at < capsule.len() {
            if let ztna_core::quic::Wrote::Bytes(n) = net.clients[id].conn.write(stream, &capsule[at..], false) {
                at += n;
            }
            net.settle();
        }
    }
    for _ in 0..2_000 {
        net.datagram(id, stream, 0, &[1; 600]);
        net.settle();
    }
    assert_eq!(net.shared.counters().drops.share.get(), 0);
    assert!(net.clients[id].closed.is_none());
}

#[test]
fn more_connections_of_one_identity_than_allowed_are_refused_and_those_there_go_on() {
    let mut net = limited(Limits { connections_per_identity: 2, ..Limits::default() });
    net.bound("c1", 9);
    let (first, _) = net.session("alice", "c1", 1);
    net.connected(Role::Agent, "alice", 2);
    let third = net.client(Role::Agent, "alice", 3);
    net.until("the third is refused", |net| net.clients[third].closed.is_some());
    let refused = Closed::ByPeer {
        app: true,
        code: H3_EXCESSIVE_LOAD,
        reason: "`spiffe://example.test/agent/alice` has 2 connections to this relay; more are refused".into(),
    };
    assert_eq!(net.clients[third].closed, Some(refused));
    net.connected(Role::Agent, "bob", 4);
    let next = net.connect(first, "c1");
    assert_eq!(net.status(first, next), "200");
    net.clients[first].conn.close(0x100, "bye");
    net.until("one has left", |net| net.shared.counters().connections.get() == 3);
    net.connected(Role::Agent, "alice", 5);
}

#[test]
fn a_handshake_that_comes_to_no_end_is_let_go_after_ten_seconds() {
    let mut net = Net::with(RelayConfig { retry: false, ..config() }, 1);
    let id = net.client(Role::Agent, "alice", 1);
    push(&mut net, id, true);
    let begun = Instant::now();
    for (seconds, connections) in [(9, 1), (10, 0)] {
        let now = begun + Duration::from_secs(seconds);
        net.loops[0].handle_timeout(now);
        net.loops[0].process(now);
        assert_eq!(net.shared.counters().connections.get(), connections, "after {seconds} s");
    }
    assert_eq!(net.shared.counters().handshakes.failed.get(), 1);
}

#[test]
fn of_thousands_of_handshakes_that_strangers_leave_half_done_the_oldest_go() {
    let limits = Limits { handshakes_per_prefix: 10_000, handshakes: 10_000, ..Limits::default() };
    let mut net = Net::with(RelayConfig { retry: false, limits, ..config() }, 1);
    let known = net.connected(Role::Agent, "alice", 1);
    for _ in 0..2_100 {
        let id = net.client(Role::Agent, "alice", 2);
        push(&mut net, id, true);
        net.clients.pop();
    }
    assert_eq!(
        net.shared.counters().connections.get(),
        2_049,
        "the places of strangers, and the one that has proven itself"
    );
    let next = net.client(Role::Agent, "alice", 3);
    net.until("a newcomer gets in", |net| net.clients[next].ready);
    assert!(net.clients[known].closed.is_none());
}
