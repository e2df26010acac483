//! Raw packets between the legs.

use ztna_core::Role;
use ztna_core::wire::Cid;
use ztna_core::wire::capsule::Capsule;

use super::net::{Id, Net, addr, cid, config, packet};

const AGENTS: u8 = 0xa1;
const CONNECTORS: u8 = 0xc1;

#[test]
fn raw_packets_pass_both_ways_after_the_acknowledgement_and_none_before() {
    let mut net = Net::new();
    let (c, bind) = net.bound("c1", 1);
    let (alice, stream) = net.session("alice", "c1", 2);
    net.raw(addr(1), 0, &[packet(cid(AGENTS), 0, 1_320)]);
    net.raw(addr(2), 0, &[packet(cid(CONNECTORS), 0, 1_320)]);
    assert!(net.clients[alice].raw.is_empty() && net.clients[c].raw.is_empty());

    net.send_capsule(alice, stream, &Capsule::RegisterCid { context_id: 0, cid: cid(AGENTS) });
    net.send_capsule(c, bind, &Capsule::RegisterCid { context_id: 1, cid: cid(CONNECTORS) });
    for id in [AGENTS, CONNECTORS] {
        net.waits_for(alice, stream, &Capsule::AckCid { context_id: 0, cid: cid(id) });
        net.waits_for(c, bind, &Capsule::AckCid { context_id: 1, cid: cid(id) });
    }
    net.raw(addr(1), 0, &[packet(cid(AGENTS), 1, 1_320), packet(cid(AGENTS), 2, 1_320), packet(cid(AGENTS), 3, 700)]);
    net.raw(addr(2), 0, &[packet(cid(CONNECTORS), 4, 1_320)]);
    assert_eq!(
        net.clients[alice].raw,
        [packet(cid(AGENTS), 1, 1_320), packet(cid(AGENTS), 2, 1_320), packet(cid(AGENTS), 3, 700)]
    );
    assert_eq!(net.clients[c].raw, [packet(cid(CONNECTORS), 4, 1_320)]);
    assert_eq!(net.shared.counters().forwarded_packets.get(), 4);
}

#[test]
fn a_burst_for_several_connections_is_taken_apart_in_order() {
    let mut net = forwarded("c1");
    net.net.send_capsule(net.alice, net.stream, &Capsule::RegisterCid { context_id: 0, cid: cid(5) });
    net.net.waits_for(net.alice, net.stream, &Capsule::AckCid { context_id: 0, cid: cid(5) });
    let burst: Vec<Vec<u8>> = [(AGENTS, 1), (AGENTS, 2), (5, 3), (0x77, 4), (AGENTS, 5)]
        .map(|(id, mark)| packet(cid(id), mark, 1_000))
        .into();
    net.net.raw(addr(1), 0, &burst);
    let marks: Vec<u8> = net.net.clients[net.alice].raw.iter().map(|p| p[999]).collect();
    assert_eq!(marks, [1, 2, 3, 5]);
    assert_eq!(net.net.shared.counters().drops.stray.get(), 1);
}

#[test]
fn a_strangers_packet_with_a_registered_id_leads_nowhere() {
    let mut f = forwarded("c1");
    f.net.sent.clear();
    let forwarded = f.net.shared.counters().forwarded_packets.get();
    for from in [addr(99), addr(2), std::net::SocketAddr::new(addr(1).ip(), 1)] {
        f.net.raw(from, 0, &[packet(cid(AGENTS), 1, 1_320), packet(cid(AGENTS), 1, 1_320)]);
    }
    assert_eq!(f.net.sent, []);
    assert_eq!(f.net.shared.counters().forwarded_packets.get(), forwarded);
}

#[test]
fn entries_follow_a_leg_that_moves_and_its_peer_is_told_the_new_address() {
    let mut f = forwarded("c1");
    f.net.clients[f.alice].addr = addr(44);
    f.net.clients[f.alice].conn.ping();
    f.net.waits_for(f.alice, f.stream, &Capsule::ObservedAddress(addr(44)));
    f.net.raw(addr(1), 0, &[packet(cid(AGENTS), 1, 1_320)]);
    assert_eq!(f.net.clients[f.alice].raw.len(), 1);
    f.net.raw(addr(44), 0, &[packet(cid(CONNECTORS), 1, 1_320)]);
    assert_eq!(f.net.clients[f.c].raw.len(), 1);
    f.net.raw(addr(2), 0, &[packet(cid(CONNECTORS), 1, 1_320)]);
    assert_eq!(f.net.clients[f.c].raw.len(), 1, "the old address may no longer send");
}

#[test]
fn nothing_is_forwarded_once_the_session_is_over() {
    let mut f = forwarded("c1");
    f.net.clients[f.alice].conn.reset(f.stream, 0x10c);
    f.net.until("the session ends", |net| net.shared.sessions().is_empty());
    f.net.raw(addr(1), 0, &[packet(cid(AGENTS), 1, 1_320)]);
    assert!(f.net.clients[f.alice].raw.is_empty());
}

#[test]
fn an_end_that_takes_its_id_back_is_not_sent_to_and_the_other_is_told() {
    let mut f = forwarded("c1");
    f.net.send_capsule(f.alice, f.stream, &Capsule::CloseCid { context_id: 0, cid: cid(AGENTS) });
    f.net.waits_for(f.c, f.bind, &Capsule::CloseCid { context_id: 1, cid: cid(AGENTS) });
    f.net.raw(addr(1), 0, &[packet(cid(AGENTS), 1, 1_320)]);
    assert!(f.net.clients[f.alice].raw.is_empty());
}

#[test]
fn the_relays_own_connection_ids_can_not_be_taken() {
    let mut net = Net::new();
    let (c, _) = net.bound("c1", 1);
    let (alice, stream) = net.session("alice", "c1", 2);
    let own: Cid = net.clients[c].conn.dcid().unwrap();
    net.send_capsule(alice, stream, &Capsule::RegisterCid { context_id: 0, cid: own });
    net.waits_for(alice, stream, &Capsule::CloseCid { context_id: 0, cid: own });
}

#[test]
fn in_tunnel_mode_registrations_are_refused_and_those_that_stand_end() {
    let mut f = forwarded("c1");
    f.net.publish_tunnel_mode();
    f.net.waits_for(f.alice, f.stream, &Capsule::CloseCid { context_id: 0, cid: cid(AGENTS) });
    f.net.waits_for(f.c, f.bind, &Capsule::CloseCid { context_id: 1, cid: cid(AGENTS) });
    f.net.raw(addr(1), 0, &[packet(cid(AGENTS), 1, 1_320)]);
    assert!(f.net.clients[f.alice].raw.is_empty());
    f.net.send_capsule(f.alice, f.stream, &Capsule::RegisterCid { context_id: 0, cid: cid(9) });
    f.net.waits_for(f.alice, f.stream, &Capsule::CloseCid { context_id: 0, cid: cid(9) });
    f.net.datagram(f.alice, f.stream, 0, b"the tunnel still works");
    let (c, bind) = (f.c, f.bind);
    f.net.until("it arrives", |net| net.clients[c].payloads(bind, 1) == [b"the tunnel still works"]);
}

#[test]
fn a_leg_that_can_not_carry_a_whole_inner_packet_is_not_forwarded_to() {
    let mut net = Net::new();
    net.bound("c1", 1);
    net.mtu = 1_252;
    let (alice, stream) = net.session("alice", "c1", 2);
    net.send_capsule(alice, stream, &Capsule::RegisterCid { context_id: 0, cid: cid(AGENTS) });
    net.waits_for(alice, stream, &Capsule::CloseCid { context_id: 0, cid: cid(AGENTS) });
}

#[test]
fn any_loop_forwards() {
    let mut net = Net::with(config(), 2);
    let (c, bind) = net.bound("c1", 1);
    let alice = net.client(Role::Agent, "alice", 2);
    net.clients[alice].at = 1;
    net.until("the agent is ready", |net| net.clients[alice].ready);
    let stream = net.connect(alice, "c1");
    assert_eq!(net.status(alice, stream), "200");
    net.send_capsule(alice, stream, &Capsule::RegisterCid { context_id: 0, cid: cid(AGENTS) });
    net.waits_for(c, bind, &Capsule::AckCid { context_id: 1, cid: cid(AGENTS) });
    net.raw(addr(1), 0, &[packet(cid(AGENTS), 1, 1_320)]);
    net.raw(addr(1), 1, &[packet(cid(AGENTS), 2, 1_320)]);
    assert_eq!(net.clients[alice].raw.len(), 2);
}

/// A session with one ID registered by each end.
struct Forwarded {
    net: Net,
    c: Id,
    bind: u64,
    alice: Id,
    stream: u64,
}

fn forwarded(name: &str) -> Forwarded {
    let mut net = Net::new();
    let (c, bind) = net.bound(name, 1);
    let (alice, stream) = net.session("alice", name, 2);
    net.until("a context is assigned", |net| {
        net.clients[c]
            .capsules
            .get(&bind)
            .is_some_and(|all| all.iter().any(|x| matches!(x, Capsule::CompressionAssign { .. })))
    });
    net.send_capsule(alice, stream, &Capsule::RegisterCid { context_id: 0, cid: cid(AGENTS) });
    net.send_capsule(c, bind, &Capsule::RegisterCid { context_id: 1, cid: cid(CONNECTORS) });
    net.waits_for(alice, stream, &Capsule::AckCid { context_id: 0, cid: cid(CONNECTORS) });
    net.waits_for(c, bind, &Capsule::AckCid { context_id: 1, cid: cid(AGENTS) });
    Forwarded { net, c, bind, alice, stream }
}
