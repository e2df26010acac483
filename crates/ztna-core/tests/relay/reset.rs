//! Stateless reset: what a relay says to packets of connections that it no longer has, and to whom it says nothing.

use ztna_core::Role;
use ztna_core::wire::Cid;

use super::net::{Id, Net, addr, config, packet};

/// A node that was connected when the relay was killed and started again, and the ID by which it still addresses the relay.
fn orphan(before: usize, after: usize) -> (Net, Id, Cid) {
    let mut net = Net::with(config(), before);
    let id = net.connected(Role::Agent, "alice", 1);
    let cid = net.clients[id].conn.dcid().unwrap();
    net.restart(after);
    net.sent.clear();
    (net, id, cid)
}

#[test]
fn a_relay_that_was_restarted_resets_the_connections_it_lost() {
    let (mut net, id, cid) = orphan(1, 1);
    net.raw(addr(1), 0, &[packet(cid, 7, 29)]);
    assert_eq!(net.sent, [(addr(1), 28)], "shorter than its cause");
    let reset = net.clients[id].raw.pop().unwrap();
    assert!(net.clients[id].conn.is_reset_by(&reset));
    let mut other = reset.clone();
    other[27] ^= 1;
    assert!(!net.clients[id].conn.is_reset_by(&other) && !net.clients[id].conn.is_reset_by(&reset[8..]));
}

#[test]
fn two_resets_have_nothing_in_common_but_the_token() {
    let (mut net, id, cid) = orphan(1, 1);
    net.raw(addr(1), 0, &[packet(cid, 7, 1_200), packet(cid, 8, 1_200)]);
    let [a, b] = &net.clients[id].raw[..] else { panic!("{:?}", net.sent) };
    assert_eq!((a.len(), b.len()), (43, 43));
    assert!(a[27..] == b[27..] && a[1..27] != b[1..27]);
    assert!([a, b].iter().all(|r| r[0] & 0xc0 == 0x40), "they look like short headers");
}

#[test]
fn a_reset_comes_whatever_the_number_of_loops_is_now() {
    for at in 0..4 {
        let (mut net, id, cid) = orphan(1, 4);
        net.raw(addr(1), at, &[packet(cid, 7, 40)]);
        net.settle();
        assert_eq!(net.clients[id].raw.len(), 1, "at loop {at}");
    }
    let mut net = Net::with(config(), 4);
    let id = net.client(Role::Agent, "alice", 1);
    net.clients[id].at = 3;
    net.until("a client is ready", |net| net.clients[id].ready);
    let cid = net.clients[id].conn.dcid().unwrap();
    assert_eq!(cid.0[0], 3);
    net.restart(1);
    net.clients[id].at = 0;
    net.raw(addr(1), 0, &[packet(cid, 7, 40)]);
    assert_eq!(net.clients[id].raw.len(), 1);
}

#[test]
fn a_guessed_id_another_source_and_a_packet_too_short_to_answer_get_silence() {
    let (mut net, _, cid) = orphan(1, 1);
    for bit in 0..64 {
        let mut guess = cid;
        guess.0[bit / 8] ^= 1 << (bit % 8);
        net.raw(addr(1), 0, &[packet(guess, 7, 40)]);
    }
    net.raw(addr(2), 0, &[packet(cid, 7, 1_320)]);
    net.raw(addr(1), 0, &[packet(cid, 7, 21)]);
    assert_eq!(net.sent, []);
}

#[test]
fn a_connection_that_lives_is_not_reset() {
    let mut net = Net::new();
    let id = net.connected(Role::Agent, "alice", 1);
    let cid = net.clients[id].conn.dcid().unwrap();
    net.sent.clear();
    net.raw(addr(1), 0, &[packet(cid, 7, 40)]);
    assert_eq!((net.sent.len(), net.clients[id].closed.is_none()), (0, true));
}

#[test]
fn resets_are_held_to_a_rate() {
    let (mut net, _, cid) = orphan(1, 1);
    for _ in 0..50 {
        net.raw(addr(1), 0, &vec![packet(cid, 7, 64); 64]);
    }
    assert!(net.sent.len() <= 1_050, "{} for 3,200 packets", net.sent.len());
    assert!(net.shared.counters().drops.reply.get() > 2_000);
}
