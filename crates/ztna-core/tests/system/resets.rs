//! A reset stream is never an end, whichever of its packets are lost.

use std::time::{Duration, Instant};

use ztna_core::quic::{Event, Wrote};

use super::pair::Pair;

/// A stream of the client, answered, whose peer has yet to read.
fn opened(pair: &mut Pair) -> u64 {
    let fields: Vec<(String, String)> =
        [(":method", "CONNECT"), (":authority", "web:80")].map(|(n, v)| (n.to_owned(), v.to_owned())).into();
    let stream = pair.client.conn.request(&fields, false).unwrap().unwrap();
    let answer: Vec<(String, String)> = vec![(":status".into(), "200".into())];
    while pair.client.turn(&mut pair.server) | pair.server.turn(&mut pair.client) {}
    pair.server.conn.respond(stream, answer, false);
    pair.settle();
    stream
}

/// Turns both ends, for losses to be found and mended, until the server has said one of the two of `stream`.
fn said(pair: &mut Pair, stream: u64) -> Option<&'static str> {
    let until = Instant::now() + Duration::from_secs(5);
    let mut buf = [0; 65_536];
    while Instant::now() < until {
        pair.client.turn(&mut pair.server);
        pair.server.turn(&mut pair.client);
        while pair.server.conn.read(stream, &mut buf) > 0 {}
        for event in &pair.server.events {
            match event {
                Event::Finished { stream: s } if *s == stream => return Some("finished"),
                Event::Reset { stream: s, .. } if *s == stream => return Some("reset"),
                _ => {}
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    None
}

#[test]
fn a_reset_whose_packet_is_lost_does_not_arrive_as_an_end() {
    let mut pair = Pair::new();
    let (lost, other) = (opened(&mut pair), opened(&mut pair));
    let data = vec![7; 1 << 20];
    // Both have bytes that wait for the congestion window, the other one first.
    for stream in [other, lost] {
        assert!(matches!(pair.client.conn.write(stream, &data[..4_000], false), Wrote::Bytes(4_000)));
    }
    pair.client.conn.reset(lost, 0x10c);
    let mut packet = Vec::new();
    assert!(pair.client.conn.send_burst(&mut packet, 1).is_some(), "the one with RESET_STREAM");
    assert_eq!(said(&mut pair, lost), Some("reset"));
}

#[test]
fn a_reset_that_comes_after_the_end_and_before_the_bytes_is_told() {
    let mut pair = Pair::new();
    let stream = opened(&mut pair);
    let data = vec![7; 4_000];
    assert!(matches!(pair.client.conn.write(stream, &data, true), Wrote::Bytes(4_000)));
    let mut packet = Vec::new();
    assert!(pair.client.conn.send_burst(&mut packet, 1).is_some(), "the first bytes");
    pair.client.turn(&mut pair.server);
    pair.server.turn(&mut pair.client);
    pair.client.conn.reset(stream, 0x10c);
    assert_eq!(said(&mut pair, stream), Some("reset"));
}

#[test]
fn what_has_arrived_to_its_end_is_still_read_after_a_reset() {
    let mut pair = Pair::new();
    let stream = opened(&mut pair);
    let data = vec![7; 4_000];
    assert!(matches!(pair.client.conn.write(stream, &data, true), Wrote::Bytes(4_000)));
    while pair.client.turn(&mut pair.server) | pair.server.turn(&mut pair.client) {}
    // The server has answered nothing yet, so that the client's end still knows the stream.
    pair.client.conn.reset(stream, 0x10c);
    while pair.client.turn(&mut pair.server) | pair.server.turn(&mut pair.client) {}
    let mut buf = [0; 65_536];
    assert_eq!(pair.server.conn.read(stream, &mut buf), 4_000);
    assert!(pair.server.conn.finished(stream));
}
