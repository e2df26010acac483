//! A session's rate limit, in both modes.

use std::time::{Duration, Instant};

use ztna_core::relay::{Limits, RelayConfig};
use ztna_core::role::{Arrival, Machine};
use ztna_core::wire::capsule::Capsule;

use super::net::{Net, addr, cid, config, packet};

const BPS: u64 = 8_000_000;

fn limited() -> Net {
    let limits = Limits { bps_per_session: Some(BPS), ..Limits::default() };
    Net::with(RelayConfig { limits, ..config() }, 1)
}

#[test]
fn raw_bursts_pass_at_the_sessions_rate_and_the_rest_is_counted() {
    let mut net = limited();
    let (c, bind) = net.bound("c1", 1);
    let (alice, stream) = net.session("alice", "c1", 2);
    net.send_capsule(alice, stream, &Capsule::RegisterCid { context_id: 0, cid: cid(0xa1) });
    net.waits_for(c, bind, &Capsule::AckCid { context_id: 1, cid: cid(0xa1) });
    let before = net.shared.sessions()[0].tx_bytes;
    // Only raw packets from here on, so the relay's clock may run ahead of QUIC's.
    let start = Instant::now();
    let (mut sent, mut out) = (0, 0);
    for ms in 0..10_000 {
        let now = start + Duration::from_millis(ms);
        let mut burst = vec![packet(cid(0xa1), 1, 1_000); 4].concat();
        sent += 4;
        net.loops[0].handle_packets(now, Arrival { socket: 0, from: addr(1), to: None, stride: 1_000 }, &mut burst);
        let mut bytes = Vec::new();
        while let Some(t) = net.loops[0].poll_transmit(now, &mut bytes) {
            out += if t.to == addr(2) { bytes.chunks(t.segment).count() as u64 } else { 0 };
            bytes.clear();
        }
    }
    let rate = out * 8_000 / 10;
    assert!(rate.abs_diff(BPS) < BPS / 10, "{rate}");
    assert_eq!(net.shared.counters().drops.rate.get(), sent - out);
    assert_eq!(net.shared.sessions()[0].tx_bytes - before, out * 1_000);
}

#[test]
fn what_is_tunnelled_counts_too_and_another_session_has_its_own_rate() {
    let mut net = limited();
    let (c, bind) = net.bound("c2", 1);
    let (alice, a) = net.session("alice", "c2", 2);
    let (bob, b) = net.session("bob", "c2", 3);
    net.settle();
    for _ in 0..1_000 {
        while net.clients[alice].conn.dgram_full() {
            net.settle();
        }
        net.datagram(alice, a, 0, &[1; 1_000]);
    }
    net.until("all are through or gone", |net| {
        net.clients[c].payloads(bind, 1).len() as u64 + net.shared.counters().drops.rate.get() == 1_000
    });
    assert!(net.shared.counters().drops.rate.get() > 0);
    assert!(net.clients[c].payloads(bind, 1).len() >= 100, "a burst of 100 ms passes");
    let gone = net.shared.counters().drops.rate.get();
    net.datagram(bob, b, 0, b"mine");
    net.until("bob's arrives", |net| net.clients[c].payloads(bind, 3) == [b"mine"]);
    assert_eq!(net.shared.counters().drops.rate.get(), gone);
    assert!(
        net.shared
            .metrics_text(std::time::SystemTime::now(), &[])
            .contains(&format!("ztna_drops_total{{queue=\"rate\"}} {gone}"))
    );
}
