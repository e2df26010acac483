//! The network in memory and the oracle agree: two nodes that try every candidate they know of get a direct path exactly where
//! the rules say so.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test says what it expects")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use ztna_netlab::impairment::Impairment;
use ztna_netlab::sim::kinds::{Kind, NodeKind, Pair, Place, relay_endpoints};
use ztna_netlab::sim::oracle::{Relation, Verdict, verdict};
use ztna_netlab::sim::{Delivery, Network};

const PORT: u16 = 5000;
const ROUNDS: u32 = 8;
/// Longer than any round trip here.
const STEP: Duration = Duration::from_millis(200);

#[test]
fn every_pair_of_the_matrix_connects_as_the_oracle_says() {
    let nodes: Vec<NodeKind> = NodeKind::matrix().collect();
    assert_eq!(nodes.len(), 51);
    let mut seen = BTreeSet::new();
    for (index, a) in nodes.iter().enumerate() {
        for b in &nodes[index..] {
            seen.insert(agree(*a, *b, Relation::Apart));
        }
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [Verdict::Direct, Verdict::DirectByGuessing, Verdict::Relay]);
}

#[test]
fn nodes_of_one_lan_or_one_carrier_connect_as_the_oracle_says() {
    let nodes: Vec<NodeKind> = NodeKind::matrix().collect();
    for a in &nodes {
        for b in nodes.iter().filter(|b| b.kind == a.kind) {
            agree(*a, *b, Relation::SameLan);
            if a.kind == Kind::CarrierNat {
                agree(*a, *b, Relation::SameCarrier { hairpin: true });
                agree(*a, *b, Relation::SameCarrier { hairpin: false });
            }
        }
    }
}

#[test]
fn a_node_without_any_udp_is_unreachable_from_everywhere() {
    for node in NodeKind::matrix() {
        let blocked = NodeKind { kind: Kind::UdpBlockedAltogether, ..node };
        assert_eq!(agree(node, blocked, Relation::Apart), Verdict::Unreachable);
    }
}

/// Tries it, compares, and returns the oracle's verdict.
fn agree(a: NodeKind, b: NodeKind, relation: Relation) -> Verdict {
    let expected = verdict(a.side(), b.side(), relation);
    let mut delay = Impairment::default();
    delay.set("delay", "10ms").unwrap();
    let pair = Pair::new(7, a, b, relation, delay, delay).unwrap();
    let got = connect(pair);
    // Nobody guesses here.
    let without_guessing = if expected == Verdict::DirectByGuessing { Verdict::Relay } else { expected };
    assert_eq!(got, without_guessing, "{a:?} with {b:?}, {relation:?}");
    expected
}

/// Each node learns its external addresses from the relay's two ports, tells the other its candidates, and then both send
/// checks to all they know of, and to wherever a check came from.
fn connect(Pair { mut network, relay, a, b }: Pair) -> Verdict {
    let mut now = Duration::ZERO;
    let mut nodes = [Node::new(a), Node::new(b)];
    for node in &nodes {
        for endpoint in relay_endpoints() {
            send(&mut network, now, node, endpoint, vec![b'?']);
        }
    }
    for delivery in drain(&mut network, &mut now) {
        if delivery.host == relay {
            let text = format!("={}", delivery.from);
            network.send(now, relay, delivery.to, delivery.from, text.into_bytes());
        }
    }
    for delivery in drain(&mut network, &mut now) {
        let Some(node) = nodes.iter_mut().find(|node| node.place.host == delivery.host) else { continue };
        node.reaches_relay = true;
        // As an agent does, the second port's answers only tell of the NAT.
        if delivery.from.port() == relay_endpoints()[0].port() {
            node.candidates.insert(std::str::from_utf8(&delivery.payload[1..]).unwrap().parse().unwrap());
        }
    }
    if nodes.iter().any(|node| !node.reaches_relay) {
        return Verdict::Unreachable;
    }
    let known = [nodes[1].candidates.clone(), nodes[0].candidates.clone()];
    for (node, known) in nodes.iter_mut().zip(known) {
        node.remotes = known;
    }
    for _ in 0..ROUNDS {
        for node in &nodes {
            for remote in &node.remotes {
                send(&mut network, now, node, *remote, format!("check {:?} {remote}", node.place.host).into_bytes());
            }
        }
        now += STEP;
        // Each check is answered before the next packet is looked at, as nodes do.
        while let Some(at) = network.poll_timeout().filter(|at| *at <= now) {
            let Some(Delivery { host, from, to, payload }) = network.poll_delivery(at) else { continue };
            let Some(node) = nodes.iter_mut().find(|node| node.place.host == host) else { continue };
            let text = String::from_utf8(payload).unwrap();
            let [kind, sender, checked] = text.split(' ').collect::<Vec<_>>()[..] else { panic!("{text}") };
            // Homes have the same addresses, so that a node may meet itself.
            if kind == "check" && sender != format!("{host:?}") {
                network.send(at, host, to, from, format!("answer {sender} {checked}").into_bytes());
                node.remotes.insert(from);
            } else if kind == "answer" && sender == format!("{host:?}") {
                // RFC 8445 §7.2.5.2.1: an answer from elsewhere is none.
                node.answered |= checked == from.to_string();
            }
        }
    }
    if nodes.iter().all(|node| node.answered) { Verdict::Direct } else { Verdict::Relay }
}

struct Node {
    place: Place,
    candidates: BTreeSet<SocketAddr>,
    remotes: BTreeSet<SocketAddr>,
    reaches_relay: bool,
    answered: bool,
}

impl Node {
    fn new(place: Place) -> Self {
        let candidates = place.addresses.iter().map(|ip| SocketAddr::new(*ip, PORT)).collect();
        Self { place, candidates, remotes: BTreeSet::new(), reaches_relay: false, answered: false }
    }
}

fn send(network: &mut Network, now: Duration, node: &Node, to: SocketAddr, payload: Vec<u8>) {
    if let Some(from) = node.place.addresses.iter().find(|ip| ip.is_ipv4() == to.is_ipv4()) {
        network.send(now, node.place.host, SocketAddr::new(*from, PORT), to, payload);
    }
}

/// All that arrives within a step.
fn drain(network: &mut Network, now: &mut Duration) -> Vec<Delivery> {
    *now += STEP;
    std::iter::from_fn(|| network.poll_delivery(*now)).collect()
}
