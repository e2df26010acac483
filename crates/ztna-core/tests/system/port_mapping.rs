//! A port of the router's: who wants one, and whom it is told.

use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use ztna_core::interface::{Interface, InterfaceKind};
use ztna_core::port_mapping::{MappingProtocol, PortMapping};
use ztna_core::wire::path_signal::CandidateKind;

use super::world::{World, node_at};

const ALICE: u8 = 1;
const C1: u8 = 2;

/// A relay, a connector and an agent whose only interface has another address than the relay sees; `on`: it may ask its router.
fn behind_a_nat(on: bool) -> World {
    let mut w = World::new(1, &["c1"]);
    w.direct = true;
    w.start_relay(1);
    w.start_connector(node_at(C1), "c1");
    w.maps_ports = on;
    w.start_agent(node_at(ALICE), "alice", None);
    w.has_address(node_at(ALICE), "192.168.1.10".parse().unwrap());
    w
}

fn told(w: &World, external: SocketAddrV4) -> bool {
    let node = w.connector(node_at(C1)).node();
    node.links.iter().filter_map(|(_, l)| l.path.direct()).any(|d| {
        let port = |c: &ztna_core::path::explain::Tried| {
            c.candidate.kind == CandidateKind::PortMapped && c.candidate.address == SocketAddr::V4(external)
        };
        d.list().tried().iter().any(port)
    })
}

#[test]
fn a_node_that_a_relay_sees_behind_a_nat_wants_one_port() {
    let mut w = behind_a_nat(true);
    w.opened(node_at(ALICE), "web");
    assert!(!w.within(Duration::from_secs(1), |_| false));
    assert_eq!(w.ports_wanted, [node_at(ALICE)]);
}

#[test]
fn a_node_that_may_not_ask_wants_none() {
    let mut w = behind_a_nat(false);
    w.opened(node_at(ALICE), "web");
    assert_eq!(w.ports_wanted, []);
    assert_eq!(*w.agent(node_at(ALICE)).node().port_mapping(), PortMapping::Off);
}

#[test]
fn a_node_without_a_nat_wants_none() {
    let mut w = behind_a_nat(true);
    w.has_address(node_at(ALICE), node_at(ALICE).ip());
    w.opened(node_at(ALICE), "web");
    assert_eq!(w.ports_wanted, []);
}

#[test]
fn a_port_is_told_to_the_other_end_while_it_lasts() {
    let mut w = behind_a_nat(true);
    w.opened(node_at(ALICE), "web");
    let external = "203.0.113.1:6000".parse().unwrap();
    let mapped = PortMapping::Mapped { by: MappingProtocol::Upnp, external };
    w.machine(node_at(ALICE)).handle_port_mapping(Instant::now(), &mapped);
    assert!(w.until(|w| told(w, external)));
    let why = "no answer".to_owned();
    w.machine(node_at(ALICE)).handle_port_mapping(Instant::now(), &PortMapping::Failed { why });
    assert!(w.until(|w| !told(w, external)));
}

impl World {
    /// From now on it is the only one of the node's interfaces.
    pub fn has_address(&mut self, at: SocketAddr, address: IpAddr) {
        let interface = Interface {
            index: 2,
            name: "eth0".into(),
            address,
            prefix_len: 24,
            scope_id: 0,
            kind: InterfaceKind::Ordinary,
            temporary: false,
            deprecated: false,
        };
        self.machine(at).handle_interfaces(Instant::now(), &[interface]);
    }
}
