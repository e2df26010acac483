//! What a connection says that it holds is what it holds, however long it lives.

use std::time::Duration;

use ztna_core::io::heap;
use ztna_core::quic::{Fields, StreamId, Wrote};
use ztna_core::trust::Protocol;

use super::pair::{End, Pair};
use super::world::{Outcome, World, node_at};

impl Pair {
    fn ask(&mut self) -> StreamId {
        let fields: Fields =
            [(":method", "CONNECT"), (":authority", "web:80")].map(|(n, v)| (n.to_owned(), v.to_owned())).to_vec();
        let stream = self.client.conn.request(&fields, false).unwrap().unwrap();
        self.settle();
        stream
    }

    fn request(&mut self) -> StreamId {
        let stream = self.ask();
        self.server.conn.respond(stream, vec![(":status".into(), "200".into())], false);
        self.settle();
        stream
    }

    /// Carries `left` bytes and reads them.
    fn carry(&mut self, stream: StreamId, mut left: usize) {
        let chunk = vec![7u8; 60_000];
        let mut out = vec![0u8; 60_000];
        while left > 0 {
            if let Wrote::Bytes(n) = self.client.conn.write(stream, &chunk[..left.min(chunk.len())], false) {
                left -= n;
            }
            self.settle();
            while self.server.conn.read(stream, &mut out) > 0 {}
            self.settle();
        }
    }

    fn end(&mut self, stream: StreamId) {
        self.client.conn.write(stream, b"", true);
        self.server.conn.write(stream, b"", true);
        self.settle();
        let mut out = [0u8; 100];
        while self.server.conn.read(stream, &mut out) > 0 {}
        while self.client.conn.read(stream, &mut out) > 0 {}
        self.settle();
    }

    fn held(&self) -> [i64; 2] {
        [self.client.conn.held() as i64, self.server.conn.held() as i64]
    }
}

#[test]
fn a_connection_that_has_carried_much_holds_no_more_than_one_that_has_not() {
    let mut p = Pair::new();
    let round = |p: &mut Pair| {
        for n in 0..500 {
            let stream = p.request();
            p.carry(stream, 2_000);
            match n % 6 {
                0 => {
                    p.client.conn.reset(stream, 0x10c);
                    p.settle();
                    p.server.conn.reset(stream, 0x10c);
                }
                1 => {
                    p.server.conn.reset(stream, 0x10c);
                    p.settle();
                    p.client.conn.reset(stream, 0x10c);
                }
                2 => {
                    p.client.conn.reset(stream, 0x10c);
                    p.server.conn.reset(stream, 0x10c);
                }
                3 => {
                    p.client.conn.write(stream, b"", true);
                    p.client.conn.stop(stream, 0x100);
                    p.settle();
                    p.server.conn.write(stream, b"", true);
                    p.server.conn.stop(stream, 0x100);
                }
                4 => {
                    let unanswered = p.ask();
                    p.server.conn.refuse(unanswered, vec![(":status".into(), "403".into())]);
                    p.settle();
                    p.client.conn.reset(unanswered, 0x100);
                    let abandoned = p.ask();
                    p.client.conn.reset(abandoned, 0x10c);
                    p.settle();
                    p.server.conn.reset(abandoned, 0x10c);
                    p.end(stream);
                }
                _ => p.end(stream),
            }
            p.settle();
            p.client.conn.dgram_send(vec![1; 900]);
            p.settle();
            assert!(p.server.conn.dgram_recv().is_some());
        }
        let stream = p.request();
        p.carry(stream, 4_000_000);
        p.end(stream);
    };
    round(&mut p);
    let first = p.held();
    for _ in 0..4 {
        round(&mut p);
    }
    for (end, (now, then)) in p.held().into_iter().zip(first).enumerate() {
        let drift = now - then;
        assert!(drift.abs() < 20_000, "2,000 streams on, end {end} says {now} where it said {then}");
    }
}

#[test]
fn what_it_says_is_what_its_end_gives_back() {
    let mut p = Pair::new();
    let streams: Vec<StreamId> = (0..200).map(|_| p.request()).collect();
    for stream in streams {
        p.client.conn.write(stream, &[5u8; 1_000], false);
    }
    p.settle();
    let said = p.server.conn.held() as i64;
    assert!(said > 200_000, "{said} of 200 KB that nobody reads");
    let Pair { server, client: _client } = p;
    let End { conn, tls: _tls, events: _events, .. } = server;
    let before = heap::held();
    drop(conn);
    let given = before - heap::held();
    assert!((said - given).abs() < 20_000, "it said {said} and gave {given}");
}

#[test]
fn frames_behind_a_gap_are_seen_though_nothing_can_be_read() {
    let mut p = Pair::new();
    let stream = p.request();
    let before = p.server.conn.held();
    let mut packet = Vec::new();
    p.client.conn.write(stream, b"the first bytes, which are lost", false);
    assert!(p.client.conn.send_burst(&mut packet, 1).is_some());
    for _ in 0..500 {
        packet.clear();
        p.client.conn.write(stream, b"x", false);
        assert!(p.client.conn.send_burst(&mut packet, 1).is_some());
        p.server.conn.recv(&mut packet, p.client.address);
    }
    assert_eq!(p.server.conn.unread(stream), 0);
    let held = p.server.conn.held() - before;
    assert!(held > 500 * 100, "500 frames cost more than a byte each: {held}");
}

const WEB_TCP: &str = r#"permit(principal, action == Action::"connect", resource == Service::"web");"#;

/// What the agent's and the connector's end of their one connection say that they hold.
fn ends(w: &World) -> [u64; 2] {
    let agent = w.agent(node_at(1)).node();
    let connector = w.connector(node_at(2)).node();
    [agent, connector].map(|n| n.links.iter().next().map_or(0, |(_, l)| l.conn.held()))
}

/// Flows of each kind and with each end, on one connection.
fn all_kinds_of_flows(w: &mut World, rounds: usize) {
    let at = node_at(1);
    for _ in 0..rounds {
        let denied = w.open(at, "db", Protocol::Tcp, Duration::from_secs(5));
        let [whole, reset, cut] = [(); 3].map(|()| w.opened(at, "web"));
        let udp = w.open(at, "web", Protocol::Udp, Duration::from_secs(5));
        assert!(w.until(|w| w.outcomes.contains_key(&denied) && w.outcomes.contains_key(&udp)));
        assert!(matches!(w.outcomes[&denied], Outcome::Failed(_)));
        w.write(at, whole, &[1; 3_000], true);
        w.write(at, reset, &[1; 3_000], false);
        w.datagram(at, udp, b"question");
        assert!(w.until(|w| w.finished.contains(&whole) && w.received.contains_key(&udp)));
        w.machine(at).stream_reset(reset);
        let served = w.served(node_at(2));
        w.machine(node_at(2)).stream_reset(served);
        w.machine(at).datagram_close(udp);
        w.machine(at).stream_reset(cut);
        assert!(w.until(|w| w.agent(at).node().flows.is_empty() && w.connector(node_at(2)).node().flows.is_empty()));
    }
}

#[test]
fn flows_of_every_kind_leave_nothing_on_their_connection() {
    let mut w = World::new(1, &["c1"]);
    w.set_policy(WEB_TCP);
    w.start_relay(1);
    w.start_connector(node_at(2), "c1");
    w.start_agent(node_at(1), "alice", None);
    all_kinds_of_flows(&mut w, 50);
    let first = ends(&w);
    all_kinds_of_flows(&mut w, 400);
    for (end, (now, then)) in ends(&w).into_iter().zip(first).enumerate() {
        assert!(now < then + 40_000, "2,000 flows on, end {end} holds {now} where it held {then}");
    }
}
