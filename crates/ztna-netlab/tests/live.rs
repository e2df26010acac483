//! A network of homes on the real clock.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test says what it expects")]

use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::json;
use ztna_netlab::homes::{Change, Spec};
use ztna_netlab::io::live::{LiveNetwork, LivePort, Received};

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn a_burst_arrives_after_the_delay_of_both_lines_and_as_a_burst() {
    let network = network(json!({ "delay": 20 }));
    let (a, b) = (bind(&network, "a"), bind(&network, "b"));
    let sent = Instant::now();
    assert_eq!(a.send(None, at(&network, "b", &b), 100, &[7; 250]).unwrap(), 0);
    let got = receive(&b);
    assert!(sent.elapsed() >= Duration::from_millis(40));
    assert_eq!((got.len, got.stride, got.from), (250, 100, at(&network, "a", &a)));
}

#[test]
fn datagrams_larger_than_an_interface_takes_are_counted_and_the_others_go() {
    let network = network(json!({}));
    let (a, b) = (bind(&network, "a"), bind(&network, "b"));
    let mut burst = vec![7; 1_473];
    burst.extend([7; 10]);
    assert_eq!(a.send(None, at(&network, "b", &b), 1_473, &burst).unwrap(), 1);
    assert_eq!(receive(&b).len, 10);
}

#[test]
fn a_port_is_one_owners_until_it_is_dropped() {
    let network = network(json!({}));
    let host = network.host("a").unwrap();
    let own = SocketAddr::new(host.addresses().unwrap()[0], 4433);
    let held = host.bind(own).unwrap();
    for taken in [own, "0.0.0.0:4433".parse().unwrap()] {
        assert_eq!(host.bind(taken).unwrap_err().kind(), ErrorKind::AddrInUse);
    }
    assert_eq!(host.bind("192.0.2.99:4433".parse().unwrap()).unwrap_err().kind(), ErrorKind::AddrNotAvailable);
    // Another host's, and another family's, are others.
    bind_at(&network, "b", "0.0.0.0:4433");
    bind_at(&network, "a", "[::]:4433");
    drop(held);
    bind_at(&network, "a", "0.0.0.0:4433");
}

#[test]
fn a_host_hears_of_its_own_changes_only() {
    let network = network(json!({}));
    let [a, b] = ["a", "b"].map(|name| network.host(name).unwrap().changes().unwrap());
    let before = network.host("a").unwrap().addresses().unwrap();
    change(&network, json!({ "op": "setNat", "at": "a", "nat": "double" }));
    assert_eq!((&a).read(&mut [0; 8]).unwrap(), 1);
    assert_eq!((&b).read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_ne!(network.host("a").unwrap().addresses().unwrap(), before);
}

#[test]
#[cfg(target_os = "linux")]
fn who_listens_for_changes_no_more_leaves_nothing() {
    let network = network(json!({}));
    let host = network.host("a").unwrap();
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let _first = host.changes().unwrap();
    let before = descriptors();
    (0..50).for_each(|_| drop(host.changes().unwrap()));
    // Tests beside this one have some of their own for a moment.
    assert!(descriptors() < before + 25);
}

#[test]
fn a_closed_network_carries_nothing_and_gives_no_port() {
    let mut network = network(json!({}));
    let host = network.host("a").unwrap();
    let (a, b) = (bind(&network, "a"), bind(&network, "b"));
    let to = at(&network, "b", &b);
    network.close();
    assert_eq!(a.send(None, to, 10, &[7; 10]).unwrap_err().kind(), ErrorKind::NotConnected);
    assert_eq!(host.bind(SocketAddr::from(([0, 0, 0, 0], 0))).unwrap_err().kind(), ErrorKind::NotConnected);
    assert!(host.addresses().is_err() && host.changes().is_err() && network.host("a").is_err());
}

fn network(line: serde_json::Value) -> LiveNetwork {
    let home = json!({ "nat": "none", "ip": "ipv4", "line": line });
    let spec = json!({ "seed": 7, "relays": {}, "homes": { "x": home, "y": home }, "nodes": { "a": "x", "b": "y" } });
    LiveNetwork::start(&serde_json::from_value::<Spec>(spec).unwrap()).unwrap()
}

fn change(network: &LiveNetwork, change: serde_json::Value) {
    network.change(&serde_json::from_value::<Change>(change).unwrap()).unwrap();
}

fn bind(network: &LiveNetwork, name: &str) -> LivePort {
    bind_at(network, name, "0.0.0.0:0")
}

fn bind_at(network: &LiveNetwork, name: &str, address: &str) -> LivePort {
    network.host(name).unwrap().bind(address.parse().unwrap()).unwrap()
}

fn at(network: &LiveNetwork, name: &str, port: &LivePort) -> SocketAddr {
    SocketAddr::new(network.host(name).unwrap().addresses().unwrap()[0], port.local_addr().port())
}

fn receive(port: &LivePort) -> Received {
    let until = Instant::now() + PATIENCE;
    let mut buffer = vec![0; 65_536];
    loop {
        match port.receive(&mut buffer) {
            Ok(got) => return got,
            Err(error) => assert!(error.kind() == ErrorKind::WouldBlock && Instant::now() < until, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
