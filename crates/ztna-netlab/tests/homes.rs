//! A network of homes: who reaches whom, and what changes do.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test says what it expects")]

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use ztna_netlab::homes::{Change, Homes, Spec};
use ztna_netlab::sim::HostId;

const RELAY: &str = "198.51.100.1:4433";

#[test]
fn a_node_is_seen_with_the_address_that_its_home_gives_it() {
    let mut world =
        World::new(json!({ "a": "none", "b": "firewall", "c": "endpoint-independent", "d": "double", "e": "carrier" }));
    for (node, private) in [("a", false), ("b", false), ("c", true), ("d", true), ("e", true)] {
        let seen = world.seen(node);
        let own = world.address(node);
        assert_eq!(own.ip().to_string().starts_with("192.168."), private, "{node}");
        assert_eq!(seen.ip() == own.ip(), !private, "{node}: {seen}");
        assert!(seen.ip().to_string().starts_with("203.0.113."), "{node}: {seen}");
    }
}

#[test]
fn nodes_of_one_home_reach_each_other_past_its_line() {
    let mut world = World::new(json!({ "a": "endpoint-independent" }));
    world.change(json!({ "op": "setLine", "line": { "loss": 1 } })).unwrap();
    let (from, to) = (world.address("a"), world.address("a2"));
    assert_eq!(world.deliver("a", from, to), Some((from, to)));
    assert_eq!(world.deliver("a", from, RELAY.parse().unwrap()), None);
}

#[test]
fn another_nat_forgets_mappings_and_leaves_the_addresses_of_nodes_alone() {
    let mut world = World::new(json!({ "a": "endpoint-independent" }));
    let (own, seen) = (world.address("a"), world.seen("a"));
    world.change(json!({ "op": "setNat", "at": "a", "nat": "address-and-port-dependent" })).unwrap();
    assert!(world.homes.take_touched().is_empty());
    assert_eq!(world.address("a"), own);
    assert_eq!(world.deliver("relay", RELAY.parse().unwrap(), seen), None);
    let again = world.seen("a");
    assert_eq!(again.ip(), seen.ip());
    assert_ne!(again.port(), seen.port());
}

#[test]
fn without_a_nat_a_node_has_a_public_address_and_notices_that_it_is_another() {
    let mut world = World::new(json!({ "a": "endpoint-independent" }));
    world.change(json!({ "op": "setNat", "at": "a", "nat": "none" })).unwrap();
    assert_eq!(world.homes.take_touched().len(), 2, "all nodes of the home");
    assert_eq!(world.seen("a"), world.address("a"));
    world.change(json!({ "op": "setNat", "at": "a", "nat": "double" })).unwrap();
    assert!(world.address("a").ip().to_string().starts_with("192.168."));
    world.seen("a");
}

#[test]
fn a_nat_in_detail_does_what_its_words_say() {
    let nat = json!({ "mapping": "endpoint-independent", "filtering": "endpoint-independent", "ports": "sequential", "hairpin": true });
    let mut world = World::new(json!({ "a": nat, "b": "none" }));
    let seen = world.seen("a");
    let (b, a) = (world.address("b"), world.address("a"));
    assert_eq!(world.deliver("b", b, seen), Some((b, a)), "its filter lets anybody in");
    world.change(json!({ "op": "setNat", "at": "a", "nat": "endpoint-independent" })).unwrap();
    let seen = world.seen("a");
    assert_eq!(world.deliver("b", b, seen), None);
}

#[test]
fn what_is_blocked_is_lost_at_the_home_and_survives_another_nat() {
    let mut world = World::new(json!({ "a": "none", "b": "none" }));
    let (a, b) = (world.address("a"), world.address("b"));
    assert!(world.deliver("a", a, b).is_some());
    world.change(json!({ "op": "block", "at": "a", "what": "direct" })).unwrap();
    assert_eq!((world.deliver("a", a, b), world.deliver("b", b, a)), (None, None));
    world.seen("a");
    world.change(json!({ "op": "setNat", "at": "a", "nat": "endpoint-independent" })).unwrap();
    let a = world.address("a");
    assert_eq!(world.deliver("a", a, b), None);
    world.change(json!({ "op": "block", "at": "a", "what": "udp" })).unwrap();
    assert_eq!(world.deliver("a", a, RELAY.parse().unwrap()), None);
    world.change(json!({ "op": "block", "at": "a", "what": "nothing" })).unwrap();
    assert!(world.deliver("a", a, b).is_some());
}

#[test]
fn a_rebinding_gives_other_ports_and_no_node_notices() {
    let mut world = World::new(json!({ "a": "address-and-port-dependent" }));
    let seen = world.seen("a");
    assert_eq!(world.seen("a"), seen);
    world.change(json!({ "op": "rebind", "at": "a" })).unwrap();
    assert_ne!(world.seen("a"), seen);
    assert!(world.homes.take_touched().is_empty());
}

#[test]
fn a_node_that_moves_notices_and_leaves_its_old_addresses_to_others() {
    let mut world = World::new(json!({ "a": "none", "b": "endpoint-independent" }));
    let old = world.address("a");
    world.change(json!({ "op": "move", "node": "a", "home": "b-home" })).unwrap();
    assert_eq!(world.homes.take_touched().len(), 1);
    let (a, b) = (world.address("a"), world.address("b"));
    assert!(a.ip().to_string().starts_with("192.168.") && a.ip() != b.ip());
    assert_eq!(world.deliver("relay", RELAY.parse().unwrap(), old), None);
    assert_eq!(world.seen("a").ip(), world.seen("b").ip());
    // By the node's name its home now is meant.
    world.change(json!({ "op": "block", "at": "a", "what": "udp" })).unwrap();
    assert_eq!(world.deliver("b", b, RELAY.parse().unwrap()), None);
    let home = json!({ "nat": "none", "ip": "dual", "line": {} });
    world.change(json!({ "op": "addHome", "name": "cafe", "home": home })).unwrap();
    world.change(json!({ "op": "move", "node": "a", "home": "cafe" })).unwrap();
    let host = world.homes.host("a").unwrap();
    assert_eq!(world.homes.network().addresses(host).len(), 2);
}

#[test]
fn a_node_may_move_on_for_ever() {
    let mut world = World::new(json!({ "a": "none" }));
    for n in 0..600 {
        let home = json!({ "nat": if n % 2 == 0 { "double" } else { "none" }, "ip": "ipv4", "line": {} });
        world.change(json!({ "op": "addHome", "name": n.to_string(), "home": home })).unwrap();
        world.change(json!({ "op": "move", "node": "a", "home": n.to_string() })).unwrap();
    }
    world.seen("a");
    let error = world.change(json!({ "op": "rebind", "at": "598" })).unwrap_err().to_string();
    assert!(error.contains("known: 599, a, a-home, a2"), "{error}");
}

#[test]
fn a_line_keeps_what_a_change_does_not_name() {
    let mut world = World::new(json!({ "a": "none" }));
    world.change(json!({ "op": "setLine", "at": "a", "line": { "delay": 30 } })).unwrap();
    world.change(json!({ "op": "setLine", "line": { "jitter": 0, "mtu": 1280 } })).unwrap();
    let before = world.now;
    world.seen("a");
    assert_eq!((world.now - before).as_millis(), 30);
}

#[test]
fn a_mistake_is_named_and_changes_nothing() {
    let mut world = World::new(json!({ "a": "none", "b": "double" }));
    for (change, named) in [
        (json!({ "op": "move", "node": "x", "home": "b-home" }), "no node is called \"x\"; known: a, a2, b, b2"),
        (json!({ "op": "move", "node": "a", "home": "x" }), "no home is called \"x\"; known: a-home, b-home"),
        (json!({ "op": "rebind", "at": "relay" }), "no node or home is called \"relay\"; known: a, a-home, a2"),
        (
            json!({ "op": "setLine", "line": { "loss": 5 } }),
            "loss: \"5\" is not accepted, expected a share from 0 to 1",
        ),
        (json!({ "op": "setLine", "line": { "delay": -1 } }), "delay: \"-1\""),
        (json!({ "op": "setLine", "line": { "rate": 12.5 } }), "rate: \"12.5\""),
        (
            json!({ "op": "addHome", "name": "a-home", "home": { "nat": "none", "ip": "dual", "line": {} } }),
            "there is a home",
        ),
    ] {
        let error = world.change(change).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
    assert!(world.homes.take_touched().is_empty());
    world.seen("a");
}

struct World {
    homes: Homes,
    now: Duration,
}

impl World {
    /// Two nodes in each home: `a` and `a2` in `a-home`.
    fn new(nats: serde_json::Value) -> Self {
        let nats = nats.as_object().unwrap();
        let home = |nat: &serde_json::Value| json!({ "nat": nat, "ip": "ipv4", "line": {} });
        let homes: serde_json::Map<_, _> = nats.iter().map(|(name, nat)| (format!("{name}-home"), home(nat))).collect();
        let of = |name: &String| [name.clone(), format!("{name}2")].map(|node| (node, json!(format!("{name}-home"))));
        let nodes: serde_json::Map<_, _> = nats.keys().flat_map(of).collect();
        let spec = json!({ "seed": 7, "relays": { "relay": {} }, "homes": homes, "nodes": nodes });
        let spec: Spec = serde_json::from_value(spec).unwrap();
        World { homes: Homes::new(&spec).unwrap(), now: Duration::ZERO }
    }

    fn change(&mut self, change: serde_json::Value) -> ztna_netlab::Result<()> {
        let change: Change = serde_json::from_value(change).unwrap();
        self.homes.change(&change)
    }

    fn address(&mut self, node: &str) -> SocketAddr {
        let host = self.homes.host(node).unwrap();
        SocketAddr::new(self.homes.network().addresses(host)[0], 5000)
    }

    /// The address that a node's packets to the relay come from.
    fn seen(&mut self, node: &str) -> SocketAddr {
        let from = self.address(node);
        self.deliver(node, from, RELAY.parse().unwrap()).unwrap().0
    }

    fn deliver(&mut self, node: &str, from: SocketAddr, to: SocketAddr) -> Option<(SocketAddr, SocketAddr)> {
        let host: HostId = self.homes.host(node).unwrap();
        let network = self.homes.network();
        network.send(self.now, host, from, to, vec![1, 2, 3]);
        while let Some(at) = network.poll_timeout() {
            self.now = at;
            if let Some(delivery) = network.poll_delivery(at) {
                return Some((delivery.from, delivery.to));
            }
        }
        None
    }
}
