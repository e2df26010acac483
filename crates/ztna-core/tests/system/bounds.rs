//! What a relay, or an agent within its rights, can make a connector keep: bounded, and nobody else suffers.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ztna_core::Error;
use ztna_core::Role;
use ztna_core::node::{ReceiveLimit, budget};
use ztna_core::quic::connection::H3_EXCESSIVE_LOAD;
use ztna_core::quic::{Connection, Event, Fields, Kind, StreamId, TlsConfig, Wrote, field};
use ztna_core::relay::H3_DATAGRAM_ERROR;
use ztna_core::role::Notice;
use ztna_core::wire::capsule::Capsule;
use ztna_core::wire::connect_ip::{PROTO_ICMPV6, Scope, Target};
use ztna_core::wire::icmp::{Echo, EchoKind, EchoPacket};
use ztna_core::wire::{connect_udp, varint};

use super::rng::Rng;
use super::traffic::Load;
use super::world::{World, node_at};

/// A hostile relay r1, an honest r2, connector c1 bound at both.
fn two_relays() -> World {
    let mut w = World::new(2, &["c1"]);
    w.start_hostile_relay(1);
    w.start_relay(2);
    w.start_connector(node_at(2), "c1");
    assert!(w.until_with(|w| w.hostile(1).bind_idle() && w.connector(node_at(2)).node().bound_legs() == 2));
    w
}

/// An agent whose packets go by r2 only carries a flow to its end.
fn assert_others_go_on(w: &mut World) {
    w.lose =
        Box::new(|from, to, _| [from, to].contains(&node_at(1)) && [from, to].contains(&super::world::relay_at(1)));
    w.start_agent(node_at(1), "alice", None);
    let mut load = Load::open(w, node_at(1), 7, 100_000, Duration::from_secs(8));
    let done = w.until_with(|w| {
        load.pump(w);
        load.verdict(w) == Some(Ok(()))
    });
    assert!(done, "{:?}", w.outcomes);
}

#[test]
fn sessions_that_a_relay_announces_are_bounded() {
    let mut w = two_relays();
    let mut all = Vec::new();
    for n in 0..40_000u64 {
        let target = Some(SocketAddr::from(([10, 0, 0, 1], 1)));
        Capsule::CompressionAssign { context_id: 2 * n + 1, target }.encode(&mut all);
    }
    w.hostile(1).write_bind(&all);
    assert!(w.until_with(|w| w.hostile(1).bind_idle()));
    assert!(w.until(|w| w.connector(node_at(2)).node().counters.drops.contains_key("sessions")));
    let sessions = w.connector(node_at(2)).node().sessions.len();
    assert!((16_384..16_500).contains(&sessions), "{sessions}");
    assert_others_go_on(&mut w);
}

#[test]
fn handshakes_that_a_relay_begins_are_bounded_and_end_in_time() {
    let mut w = two_relays();
    let mut tls = TlsConfig::new(Kind::InnerClient, &w.snapshot(Role::Agent, "alice")).unwrap();
    let here = SocketAddr::from(([127, 0, 0, 1], 1));
    for n in 0..3_000u64 {
        let scid = ztna_core::quic::endpoint::random_cid(None);
        let mut c = Connection::connect(&mut tls, scid, "c1.connector.example.test", here, here).unwrap();
        let mut packet = Vec::new();
        // The first of its two datagrams: the connector has to wait for the rest.
        assert!(c.send_burst(&mut packet, 1).is_some());
        w.hostile(1).datagram_bind(2 * n + 1, &packet);
        if n % 16 == 0 {
            w.turn();
        }
    }
    assert!(w.until(|w| w.connector(node_at(2)).node().counters.drops.contains_key("handshakes")));
    let links = w.connector(node_at(2)).node().links.len();
    assert!((2_000..=2_048).contains(&links), "{links}");
    assert_others_go_on(&mut w);
    let later = Instant::now() + Duration::from_secs(11);
    let connector = w.machine(node_at(2));
    connector.handle_timeout(later);
    connector.process(later);
    assert!(w.connector(node_at(2)).node().links.len() <= 1, "unfinished handshakes are let go");
}

#[test]
fn a_session_has_one_unfinished_handshake_however_many_its_agent_begins() {
    let mut w = two_relays();
    let mut tls = TlsConfig::new(Kind::InnerClient, &w.snapshot(Role::Agent, "alice")).unwrap();
    let here = SocketAddr::from(([127, 0, 0, 1], 1));
    for _ in 0..40 {
        let scid = ztna_core::quic::endpoint::random_cid(None);
        let mut c = Connection::connect(&mut tls, scid, "c1.connector.example.test", here, here).unwrap();
        let mut packet = Vec::new();
        assert!(c.send_burst(&mut packet, 1).is_some());
        w.hostile(1).datagram_bind(1, &packet);
        w.turn();
    }
    assert!(w.until(|w| w.connector(node_at(2)).node().counters.drops.contains_key("handshakes")));
    assert_eq!(w.connector(node_at(2)).node().links.len(), 1);
    assert_others_go_on(&mut w);
}

#[test]
fn a_capsule_that_a_relay_got_wrong_costs_its_connection_and_nothing_else() {
    let mut wrong: Vec<Vec<u8>> = Vec::new();
    let capsule = |ty: u64, value: &[u8]| {
        let mut out = Vec::new();
        varint::encode(ty, &mut out);
        varint::encode(value.len() as u64, &mut out);
        out.extend_from_slice(value);
        out
    };
    // An address that stops short, one of no known family, an acknowledgement with a tail, a datagram of 4 GB.
    wrong.push(capsule(0x11, &[3, 4, 10, 0]));
    wrong.push(capsule(0x11, &[3, 9, 10, 0, 0, 1, 0, 1]));
    wrong.push(capsule(0x12, &[2, 0, 0]));
    wrong.push([vec![0], vec![0xc0, 0, 0, 1, 0, 0, 0, 0]].concat());
    for bytes in wrong {
        let mut w = two_relays();
        w.hostile(1).write_bind(&bytes);
        let warned = w.until(|w| {
            w.notices.iter().any(|(_, n)| matches!(n, Notice::Warning(Error::Peer(t)) if t.contains("capsule")))
        });
        assert!(warned, "{bytes:02x?}: {:?}", w.notices);
        assert_others_go_on(&mut w);
    }
}

#[test]
fn capsules_and_datagrams_of_no_known_kind_are_passed_over() {
    let mut w = two_relays();
    let mut rng = Rng::new(1);
    let mut out = Vec::new();
    varint::encode(0x3fff_ffff, &mut out);
    varint::encode(1_000, &mut out);
    out.extend(rng.bytes(1_000));
    w.hostile(1).write_bind(&out);
    for _ in 0..500 {
        let (context, len) = (rng.next() >> 3, rng.below(1_300));
        let packet = rng.bytes(len);
        w.hostile(1).datagram_bind(context, &packet);
        w.turn();
    }
    assert!(w.until_with(|w| w.hostile(1).bind_idle()));
    assert_eq!(w.connector(node_at(2)).node().bound_legs(), 2);
    assert_others_go_on(&mut w);
}

// ---- an agent of ours in name, with a client that is not

/// A client with alice's certificate, established with the connector. The relay hands its packets on.
fn foreign_client() -> World {
    let mut w = World::new(2, &["c1"]);
    let alice = w.snapshot(Role::Agent, "alice");
    w.start_hostile_relay(1).play_agent(&alice);
    w.start_relay(2);
    w.start_connector(node_at(2), "c1");
    assert!(w.until_with(|w| w.hostile(1).seen.iter().any(|s| s.contains("inner: Ready"))));
    w
}

fn request(w: &mut World, fields: &[(&str, &str)]) -> StreamId {
    let fields: Fields = fields.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    w.hostile(1).own().request(&fields, false).unwrap().unwrap()
}

fn udp(w: &mut World) -> StreamId {
    let path = connect_udp::target_path("web.ztna.internal", 53);
    let stream = request(
        w,
        &[
            (":method", "CONNECT"),
            (":protocol", "connect-udp"),
            (":scheme", "https"),
            (":authority", "c1"),
            (":path", &path),
            ("capsule-protocol", "?1"),
        ],
    );
    assert!(w.until_with(|w| status(w, stream).as_deref() == Some("200")), "{:?}", w.hostile(1).seen);
    stream
}

fn status(w: &mut World, stream: StreamId) -> Option<String> {
    w.hostile(1).events.iter().find_map(|e| match e {
        Event::Headers { stream: s, fields, .. } if *s == stream => field(fields, ":status").map(str::to_owned),
        _ => None,
    })
}

/// The payload of a DATAGRAM for that stream, once one has come.
fn answered(w: &mut World, stream: StreamId) -> Option<Vec<u8>> {
    let frame = w.hostile(1).own().dgram_recv()?;
    let (s, header) = connect_udp::parse_datagram(&frame)?;
    let (context, more) = connect_udp::split_context(&frame[header..])?;
    (s == stream && context == 0).then(|| frame[header + more..].to_vec())
}

fn write(w: &mut World, stream: StreamId, bytes: &[u8]) {
    assert_eq!(w.hostile(1).own().write(stream, bytes, false), Wrote::Bytes(bytes.len()));
}

#[test]
fn a_datagram_capsule_is_a_datagram() {
    let mut w = foreign_client();
    let stream = udp(&mut w);
    let mut bytes = Vec::new();
    Capsule::Datagram(b"\0question".to_vec()).encode(&mut bytes);
    // In two pieces, after a capsule of a type that nobody knows.
    let mut first = Vec::new();
    varint::encode(0x7ab3, &mut first);
    varint::encode(4, &mut first);
    first.extend_from_slice(&[1, 2, 3, 4]);
    first.extend_from_slice(&bytes[..3]);
    write(&mut w, stream, &first);
    w.turn();
    write(&mut w, stream, &bytes[3..]);
    let mut got = None;
    assert!(w.until_with(|w| {
        got = answered(w, stream);
        got.is_some()
    }));
    assert_eq!(got.as_deref(), Some(&b"question"[..]));
}

#[test]
fn a_capsule_that_cannot_be_read_resets_its_stream_alone() {
    // A DATAGRAM of more than any packet holds.
    assert_reset_alone(&[0, 0x80, 0x10, 0, 0], false);
}

#[test]
fn a_stream_that_ends_inside_a_capsule_is_reset_alone() {
    // A DATAGRAM of five bytes, and two of them.
    assert_reset_alone(&[0, 5, 0, 1], true);
}

/// Of two flows of a foreign client, one gets these bytes and is reset for them; the other goes on.
fn assert_reset_alone(bytes: &[u8], fin: bool) {
    let mut w = foreign_client();
    let (broken, other) = (udp(&mut w), udp(&mut w));
    assert_eq!(w.hostile(1).own().write(broken, bytes, fin), Wrote::Bytes(bytes.len()));
    assert!(w.until_with(|w| {
        w.hostile(1)
            .events
            .iter()
            .any(|e| matches!(e, Event::Reset { stream, code: H3_DATAGRAM_ERROR } if *stream == broken))
    }));
    let mut frame = Vec::new();
    connect_udp::datagram_header(other, 0, &mut frame);
    frame.extend_from_slice(b"still");
    w.hostile(1).own().dgram_send(frame);
    let mut got = None;
    assert!(w.until_with(|w| {
        got = answered(w, other);
        got.is_some()
    }));
    assert_eq!(got.as_deref(), Some(&b"still"[..]));
    assert_eq!(w.connector(node_at(2)).node().flows.len(), 1);
}

#[test]
fn datagrams_of_no_flow_and_of_any_length_are_dropped() {
    let mut w = foreign_client();
    let stream = udp(&mut w);
    let mut rng = Rng::new(3);
    for _ in 0..2_000 {
        let n = rng.below(1_200);
        let mut frame = rng.bytes(n);
        if rng.percent(30) {
            let mut start = Vec::new();
            // A context that nobody has registered.
            connect_udp::datagram_header(stream, 2 + rng.below(60) as u64, &mut start);
            frame.splice(..0, start);
        }
        w.hostile(1).own().dgram_send(frame);
        if rng.percent(10) {
            w.turn();
        }
    }
    let mut frame = Vec::new();
    connect_udp::datagram_header(stream, 0, &mut frame);
    frame.extend_from_slice(b"after all that");
    assert!(w.until_with(|w| {
        w.hostile(1).own().dgram_send(frame.clone());
        answered(w, stream).is_some_and(|b| b == b"after all that")
    }));
}

#[test]
fn an_echo_request_of_a_foreign_client_is_answered_and_broken_ones_are_not() {
    let mut w = foreign_client();
    let path = Scope { target: Target::Host("web.ztna.internal".into()), proto: Some(PROTO_ICMPV6) }.path();
    let stream = request(
        &mut w,
        &[
            (":method", "CONNECT"),
            (":protocol", "connect-ip"),
            (":scheme", "https"),
            (":authority", "c1"),
            (":path", &path),
            ("capsule-protocol", "?1"),
        ],
    );
    assert!(w.until_with(|w| status(w, stream).as_deref() == Some("200")), "{:?}", w.hostile(1).seen);
    let (src, dst) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
    let echo = Echo { kind: EchoKind::Request, id: 77, seq: 3, payload: b"anyone there" };
    let mut packet = Vec::new();
    assert!(EchoPacket { src, dst, echo }.build(&mut packet));
    let send = |w: &mut World, packet: &[u8]| {
        let mut frame = Vec::new();
        connect_udp::datagram_header(stream, 0, &mut frame);
        frame.extend_from_slice(packet);
        w.hostile(1).own().dgram_send(frame);
    };
    for cut in 0..packet.len() {
        send(&mut w, &packet[..cut]);
    }
    let mut flipped = packet.clone();
    flipped[45] ^= 1;
    send(&mut w, &flipped);
    send(&mut w, &packet);
    let mut got = None;
    assert!(w.until_with(|w| {
        got = answered(w, stream);
        got.is_some()
    }));
    let reply = got.unwrap();
    let reply = EchoPacket::parse(&reply).unwrap();
    assert_eq!((reply.src, reply.dst, reply.echo.kind), (dst, src, EchoKind::Reply));
    assert_eq!((reply.echo.id, reply.echo.seq, reply.echo.payload), (77, 3, &b"anyone there"[..]));
    assert_eq!(answered(&mut w, stream), None, "one answer for one sound request");
}

#[test]
fn streams_opened_and_abandoned_by_the_thousand_leave_nothing_behind() {
    let mut w = foreign_client();
    let connect = [(":method", "CONNECT"), (":authority", "web.ztna.internal:80")];
    let mut opened = 0;
    let until = Instant::now() + Duration::from_secs(20);
    while opened < 6_000 {
        assert!(Instant::now() < until, "stuck at {opened}");
        let fields: Fields = connect.map(|(n, v)| (n.to_owned(), v.to_owned())).to_vec();
        for _ in 0..64 {
            let own = w.hostile(1).own();
            let Ok(Some(stream)) = own.request(&fields, false) else { break };
            own.write(stream, b"never read", false);
            own.reset(stream, 0x10c);
            opened += 1;
        }
        w.hostile(1).events.clear();
        w.turn();
    }
    assert!(w.until(|w| w.connector(node_at(2)).node().flows.is_empty()), "abandoned flows end");
    assert_others_go_on(&mut w);
}

/// Small frames of a stream whose first bytes do not come, a packet each.
fn behind_a_gap(w: &mut World, frames: usize) -> StreamId {
    let stream = request(w, &[(":method", "CONNECT"), (":authority", "web.ztna.internal:80")]);
    let mut packet = Vec::new();
    while w.hostile(1).own().send_burst(&mut packet, 1).is_some() {
        packet.clear();
    }
    for _ in 0..frames {
        write(w, stream, b"x");
        if w.hostile(1).own().send_burst(&mut packet, 1).is_some() {
            w.hostile(1).datagram_bind(1, &packet);
            packet.clear();
        }
    }
    stream
}

#[test]
fn an_agent_that_sends_small_frames_behind_a_gap_loses_its_connection_and_no_other_does() {
    let mut w = foreign_client();
    w.set_receive_limit(node_at(2), ReceiveLimit { cut: 16 << 10, connection: 16 << 10, ..ReceiveLimit::default() });
    // No acknowledgement comes back that would have the gap filled.
    w.lose = Box::new(|from, _, _| from == node_at(2));
    behind_a_gap(&mut w, 700);
    assert!(w.until(|w| w.connector(node_at(2)).node().counters.drops.contains_key(budget::QUEUE)));
    w.set_receive_limit(node_at(2), ReceiveLimit::default());
    w.lose = Box::new(|_, _, _| false);
    let told = w.notices.iter().any(|(at, n)| {
        *at == node_at(2)
            && matches!(n, Notice::Warning(Error::Limit(t)) if t.contains("agent/alice made its connection hold"))
    });
    assert!(told, "{:?}", w.notices);
    assert!(w.until(|w| w.connector(node_at(2)).node().links.is_empty()), "nothing of it is kept");
    assert_others_go_on(&mut w);
}

#[test]
fn small_frames_that_nobody_reads_cost_their_flow_and_not_the_connection() {
    let mut w = foreign_client();
    w.unread_agents.insert("alice".into());
    w.set_receive_limit(node_at(2), ReceiveLimit { connection: 300 << 10, ..ReceiveLimit::default() });
    let open = |w: &mut World| {
        let stream = request(w, &[(":method", "CONNECT"), (":authority", "web.ztna.internal:80")]);
        assert!(w.until_with(|w| status(w, stream).as_deref() == Some("200")), "{:?}", w.hostile(1).seen);
        stream
    };
    let (slow, other) = (open(&mut w), open(&mut w));
    let reset = |w: &mut World, stream| {
        w.hostile(1)
            .events
            .iter()
            .any(|e| matches!(e, Event::Reset { stream: s, code: H3_EXCESSIVE_LOAD } if *s == stream))
    };
    let until = Instant::now() + Duration::from_secs(20);
    while !reset(&mut w, slow) {
        assert!(
            Instant::now() < until,
            "it may hold {:?}",
            w.connector(node_at(2)).node().links.iter().map(|(_, l)| l.conn.held()).max()
        );
        for _ in 0..64 {
            w.hostile(1).own().write(slow, b"x", false);
            let mut packet = Vec::new();
            if w.hostile(1).own().send_burst(&mut packet, 1).is_some() {
                w.hostile(1).datagram_bind(1, &packet);
            }
        }
        w.turn();
    }
    assert!(!reset(&mut w, other) && !w.hostile(1).own().is_closed());
}
