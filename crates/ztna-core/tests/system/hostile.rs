//! A relay that rewrites, drops, replays or injects, or that plays one of the ends: it gets nothing.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ztna_core::Error;
use ztna_core::role::Notice;
use ztna_core::trust::Protocol;

use super::hostile_relay::{Mangle, Toward};
use super::rng::{Rng, seeds};
use super::traffic::{Load, assert_arrived, each_on_virtual_time};
use super::world::{Outcome, World, node_at};

/// A relay that passes on five packets of six as they are, and does to the others what it can think of.
fn mangler(seed: u64) -> Mangle {
    /// Old packets that it keeps for later.
    const KEPT: usize = 256;
    let mut rng = Rng::new(seed);
    let mut kept: Vec<(Toward, Vec<u8>)> = Vec::new();
    let mut held: Option<(Toward, Vec<u8>)> = None;
    Box::new(move |toward, packet| {
        let other = if toward == Toward::Agent { Toward::Connector } else { Toward::Agent };
        let mut out: Vec<(Toward, Vec<u8>)> = Vec::new();
        let mut changed = packet.to_vec();
        match rng.below(100) {
            0..=2 => {}
            3..=4 => {
                let at = rng.below(packet.len());
                changed[at] ^= 1 << rng.below(8);
                out.push((toward, changed));
            }
            5 => {
                changed.truncate(rng.below(packet.len()));
                out.push((toward, changed));
            }
            6 => {
                let more = 1 + rng.below(64);
                changed.extend(rng.bytes(more));
                out.push((toward, changed));
            }
            7..=8 => out.extend([(toward, packet.to_vec()), (toward, packet.to_vec())]),
            9..=10 if !kept.is_empty() => {
                out.push((toward, packet.to_vec()));
                out.push(kept[rng.below(kept.len())].clone());
            }
            11 => out.extend([(toward, packet.to_vec()), (other, packet.to_vec())]),
            12 => {
                // The header of a real packet before bytes of its own.
                let head = packet.len().min(9);
                let more = rng.below(1_300);
                changed.truncate(head);
                changed.extend(rng.bytes(more));
                out.extend([(toward, changed), (toward, packet.to_vec())]);
            }
            13 if !kept.is_empty() => {
                // The front of this one on the back of an old one.
                let old = &kept[rng.below(kept.len())].1;
                let cut = rng.below(packet.len().min(old.len()).max(1));
                changed.truncate(cut);
                changed.extend_from_slice(&old[cut..]);
                out.push((toward, changed));
            }
            14..=15 => {
                if let Some(old) = held.replace((toward, packet.to_vec())) {
                    out.push(old);
                }
            }
            _ => out.push((toward, packet.to_vec())),
        }
        if kept.len() < KEPT {
            kept.push((toward, packet.to_vec()));
        } else {
            let at = rng.below(KEPT);
            kept[at] = (toward, packet.to_vec());
        }
        out.retain(|(_, p)| !p.is_empty());
        out
    })
}

fn with_hostile_relay(tunnel_only: bool, connectors: &[&str]) -> World {
    let mut w = World::new(1, connectors);
    if tunnel_only {
        w.tunnel_only();
    }
    w.start_hostile_relay(1);
    for (n, name) in connectors.iter().enumerate() {
        w.start_connector(node_at(2 + n as u8), name);
    }
    w.start_agent(node_at(1), "alice", None);
    w
}

/// Flows through relays that mangle, each with its own seed. Tells how many came through whole, of how many.
fn mangled(seeds: std::ops::Range<u64>, tunnel_only: bool) -> (usize, usize) {
    const PATIENCE: Duration = Duration::from_secs(8);
    let (whole, forwarded) = (Cell::new(0), Cell::new(0));
    let all = (seeds.end - seeds.start) as usize;
    each_on_virtual_time(
        seeds,
        |seed| {
            let mut w = with_hostile_relay(tunnel_only, &["c1"]);
            w.hostile(1).mangle = mangler(seed);
            let load = Load::open(&mut w, node_at(1), seed, 60_000, Duration::from_secs(6));
            (w, [load], Instant::now() + PATIENCE)
        },
        |(w, loads, until)| {
            loads[0].pump(w);
            let moved = w.step();
            assert_arrived(w, loads.iter());
            let verdict = loads[0].verdict(w);
            let over = verdict.is_some() || Instant::now() > *until;
            if over {
                whole.set(whole.get() + usize::from(verdict == Some(Ok(()))));
                forwarded.set(forwarded.get() + w.agent(node_at(1)).node().counters.forwarded_tx);
            }
            (moved, over)
        },
        |(w, ..)| w.next_deadline(),
    );
    assert_eq!(forwarded.get() == 0, tunnel_only, "{} bytes were forwarded", forwarded.get());
    (whole.get(), all)
}

#[test]
fn a_relay_that_mangles_tunnelled_packets_delivers_no_wrong_byte() {
    let (whole, all) = mangled(seeds(0, 40), true);
    assert!(whole * 10 >= all * 9, "only {whole} of {all} flows came through");
}

#[test]
fn a_relay_that_mangles_forwarded_packets_delivers_no_wrong_byte() {
    let (whole, all) = mangled(seeds(100_000, 40), false);
    assert!(whole * 10 >= all * 9, "only {whole} of {all} flows came through");
}

#[test]
fn every_packet_replayed_causes_nothing_twice() {
    for tunnel_only in [true, false] {
        let mut w = with_hostile_relay(tunnel_only, &["c1"]);
        // Each packet is sent three times, and once more a hundred packets later.
        let mut old: std::collections::VecDeque<(Toward, Vec<u8>)> = Default::default();
        w.hostile(1).mangle = Box::new(move |toward, packet| {
            let one = (toward, packet.to_vec());
            let mut out = vec![one.clone(), one.clone(), one.clone()];
            old.push_back(one);
            if old.len() > 100 {
                out.extend(old.pop_front());
            }
            out
        });
        let mut loads: Vec<Load> =
            (0..3).map(|n| Load::open(&mut w, node_at(1), n, 100_000, Duration::from_secs(8))).collect();
        let all = w.until_with(|w| {
            loads.iter_mut().for_each(|l| l.pump(w));
            loads.iter().all(|l| l.verdict(w) == Some(Ok(())))
        });
        assert!(all, "{:?}", w.outcomes);
        assert_arrived(&w, loads.iter());
        assert_eq!(w.arrived.len(), 3, "one dial a flow");
    }
}

#[test]
fn a_relay_that_answers_as_the_connector_is_refused_by_the_agent() {
    let mut w = with_hostile_relay(false, &["c1"]);
    let own = w.snapshot(ztna_core::Role::Relay, "r1");
    w.hostile(1).play_connector(&own);
    let flow = w.open(node_at(1), "web", Protocol::Tcp, Duration::from_secs(3));
    assert!(w.until(|w| w.outcomes.contains_key(&flow)));
    let Some(Outcome::Failed(Error::Identity(text))) = w.outcomes.get(&flow) else {
        panic!("{:?}", w.outcomes.get(&flow))
    };
    assert!(text.contains("`c1`") && text.contains("role"), "{text}");
    let seen = &w.hostile(1).seen;
    assert!(!seen.iter().any(|s| s.contains("Established") || s.contains("Headers")), "{seen:?}");
}

#[test]
fn a_relay_that_calls_as_an_agent_is_refused_by_the_connector() {
    use ztna_core::Role::{Connector, Relay};
    // With its own certificate, and with one that it has stolen from another connector.
    for (role, name, why) in [(Relay, "r1", "wrong-usage"), (Connector, "c2", "wrong-role")] {
        let mut w = World::new(1, &["c1", "c2"]);
        let own = w.snapshot(role, name);
        w.start_hostile_relay(1).play_agent(&own);
        w.start_connector(node_at(2), "c1");
        let refused = w.until_with(|w| w.hostile(1).seen.iter().any(|s| s.contains("inner: Closed(ByPeer")));
        let seen = &w.hostile(1).seen;
        assert!(refused, "{seen:?}");
        assert!(!seen.iter().any(|s| s.contains("Headers") || s.contains("Ready")), "{seen:?}");
        assert!(w.arrived.is_empty());
        assert!(w.until(|w| w.connector(node_at(2)).node().links.is_empty()), "its connection is let go");
        let handshakes = &w.connector(node_at(2)).node().counters.handshakes;
        assert_eq!(handshakes.get(why), Some(&1), "{handshakes:?}");
    }
}

#[test]
fn a_relay_that_takes_the_agent_to_another_connector_gets_nothing() {
    let mut w = with_hostile_relay(false, &["c1"]);
    // c2 is a connector of this network, with a certificate of its CA, and serves nothing that alice asks for.
    w.start_connector_without_services(node_at(9), "c2");
    w.hostile(1).route = Box::new(|_| "c2".to_owned());
    let flow = w.open(node_at(1), "web", Protocol::Tcp, Duration::from_secs(2));
    assert!(w.until(|w| w.outcomes.contains_key(&flow)));
    let Some(Outcome::Failed(Error::Unreachable { tried, .. })) = w.outcomes.get(&flow) else {
        panic!("{:?}", w.outcomes.get(&flow))
    };
    assert!(tried.iter().any(|t| t.contains("connector/c2")), "{tried:?} {:?}", w.notices);
    let warned = w.notices.iter().any(|(at, n)| {
        *at == node_at(1) && matches!(n, Notice::Warning(Error::Identity(t)) if t.contains("connector/c2"))
    });
    assert!(warned, "{:?}", w.notices);
    assert!(w.arrived.is_empty());
}

#[test]
fn a_relay_that_swaps_the_packets_of_two_connectors_gets_nothing_and_loses_nothing() {
    // Every other packet goes astray to the other end; both ends go on with what is theirs.
    let mut w = with_hostile_relay(false, &["c1"]);
    let count = Rc::new(Cell::new(0u32));
    let n = count.clone();
    w.hostile(1).mangle = Box::new(move |toward, packet| {
        n.set(n.get() + 1);
        let other = if toward == Toward::Agent { Toward::Connector } else { Toward::Agent };
        let mut out = vec![(toward, packet.to_vec())];
        if n.get().is_multiple_of(2) {
            out.push((other, packet.to_vec()));
        }
        out
    });
    let mut load = Load::open(&mut w, node_at(1), 5, 200_000, Duration::from_secs(8));
    let done = w.until_with(|w| {
        load.pump(w);
        load.verdict(w) == Some(Ok(()))
    });
    assert!(done && count.get() > 100, "{:?}", w.outcomes);
}

#[test]
fn an_agent_whose_sessions_end_at_once_asks_again_with_patience() {
    let mut w = World::new(1, &["c1"]);
    w.start_hostile_relay(1).ends_sessions = Some(0);
    w.start_agent(node_at(1), "alice", None);
    let flow = w.open(node_at(1), "web", Protocol::Tcp, Duration::from_secs(2));
    assert!(w.until(|w| w.outcomes.contains_key(&flow)));
    let asked = w.hostile(1).ends_sessions.unwrap_or_default();
    assert!((2..=20).contains(&asked), "asked {asked} times in 2 s");
    let Some(Outcome::Failed(Error::Unreachable { tried, .. })) = w.outcomes.get(&flow) else {
        panic!("{:?}", w.outcomes.get(&flow))
    };
    assert!(tried.iter().any(|t| t.contains("r1") && t.contains("ended the session")), "{tried:?}");
}

#[test]
fn an_established_connection_whose_sessions_end_at_once_asks_again_with_patience() {
    let mut w = with_hostile_relay(false, &["c1"]);
    w.start_agent(node_at(1), "alice", None);
    let _ = w.opened(node_at(1), "web");
    w.hostile(1).ends_sessions = Some(0);
    w.hostile(1).end_all_sessions();
    let until = Instant::now() + Duration::from_secs(2);
    assert!(w.until(|_| Instant::now() > until));
    let asked = w.hostile(1).ends_sessions.unwrap_or_default();
    assert!((1..=20).contains(&asked), "asked {asked} times in 2 s");
}

#[test]
fn a_relay_that_sends_each_packet_of_the_connector_back_to_it_breaks_no_handshake() {
    let mut w = with_hostile_relay(true, &["c1"]);
    w.hostile(1).mangle = Box::new(|toward, packet| match toward {
        Toward::Agent => vec![(Toward::Connector, packet.to_vec()), (toward, packet.to_vec())],
        Toward::Connector => vec![(toward, packet.to_vec())],
    });
    let _ = w.opened(node_at(1), "web");
    let node = w.connector(node_at(2)).node();
    assert_eq!((node.links.len(), node.counters.handshakes.get("ok")), (1, Some(&2)), "one inner and one outer");
}
