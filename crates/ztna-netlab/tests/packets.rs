//! Whole IP packets through the network in memory.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test says what it expects")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ztna_netlab::checksum::{fold, put, sum};
use ztna_netlab::ip::{Header, Quoted, Transport, parse};
use ztna_netlab::nat::{NatConfig, Ports, Protocol};
use ztna_netlab::sim::{HostId, INTERNET, LinkId, Network, Policy, RouterConfig, RouterId, Way};

const INSIDE: &str = "192.168.1.10:5000";
const SERVER: &str = "198.51.100.1:4433";
const UDP: u8 = 17;
const ICMP: u8 = 1;

#[test]
fn a_packet_is_rewritten_on_its_way_out_and_its_answer_on_its_way_in() {
    let mut lab = Lab::new();
    let sent = lab.pass(lab.host, udp(INSIDE, SERVER, 100)).unwrap();
    assert_eq!(sent.0, lab.server);
    let external = parse(&sent.1).unwrap().from;
    assert_eq!(external.ip(), ip("203.0.113.1"));
    assert_valid(&sent.1);
    let answer = lab.pass(lab.server, udp(SERVER, &external.to_string(), 100)).unwrap();
    assert_eq!((answer.0, parse(&answer.1).unwrap().to), (lab.host, addr(INSIDE)));
    assert_valid(&answer.1);
}

#[test]
fn an_icmp_error_finds_its_way_through_a_nat_in_both_directions() {
    let mut lab = Lab::new();
    let (_, outside) = lab.pass(lab.host, udp(INSIDE, SERVER, 100)).unwrap();
    let external = parse(&outside).unwrap().from;

    let (at, error) = lab.pass(lab.server, port_unreachable(&outside)).unwrap();
    let quoted = Quoted { protocol: Protocol::Udp, from: addr(INSIDE), to: addr(SERVER) };
    assert_eq!((at, parse(&error).unwrap().transport), (lab.host, Transport::Error(quoted)));
    assert_valid(&error);

    let (_, answer) = lab.pass(lab.server, udp(SERVER, &external.to_string(), 100)).unwrap();
    let (at, error) = lab.pass(lab.host, port_unreachable(&answer)).unwrap();
    let Header { from, transport, .. } = parse(&error).unwrap();
    assert_eq!((at, from.ip()), (lab.server, external.ip()));
    assert_eq!(transport, Transport::Error(Quoted { protocol: Protocol::Udp, from: addr(SERVER), to: external }));
    assert_valid(&error);
}

#[test]
fn an_icmp_error_about_no_flow_is_dropped() {
    let mut lab = Lab::new();
    assert_eq!(lab.pass(lab.server, port_unreachable(&udp("203.0.113.1:5000", SERVER, 100))), None);
    assert_eq!(lab.pass(lab.host, port_unreachable(&udp(SERVER, INSIDE, 100))), None);
    assert_eq!(lab.network.drops().unmapped, 2);
}

#[test]
fn a_sender_behind_a_nat_hears_that_its_packet_is_too_big_from_whichever_link_it_is() {
    let mut lab = Lab::new();
    let links: [(LinkId, Way); 3] =
        [(lab.host.into(), Way::Up), (lab.router.into(), Way::Up), (lab.server.into(), Way::Down)];
    for (link, way) in links {
        let clean = lab.network.link(link, way).unwrap();
        let mut small = clean;
        small.set("mtu", "1280").unwrap();
        small.set("mtu-signal", "on").unwrap();
        lab.network.set_link(link, way, small).unwrap();
        let (at, answer) = lab.pass(lab.host, udp(INSIDE, SERVER, 1400)).unwrap();
        let quoted = Quoted { protocol: Protocol::Udp, from: addr(INSIDE), to: addr(SERVER) };
        assert_eq!((at, parse(&answer).unwrap().transport), (lab.host, Transport::Error(quoted)), "{link:?}");
        assert_eq!((&answer[20..22], &answer[26..28]), (&[3, 4][..], &1280u16.to_be_bytes()[..]));
        assert_valid(&answer);
        lab.network.set_link(link, way, clean).unwrap();
    }
}

#[test]
fn fragments_stop_at_a_nat_and_pass_between_neighbours() {
    let mut lab = Lab::new();
    let realm = lab.network.inner(lab.router).unwrap();
    let neighbour = lab.network.add_host(realm, &[ip("192.168.1.11")]).unwrap();
    let fragment = |to| {
        let mut packet = udp(INSIDE, to, 100);
        packet[6] = 0x20;
        packet
    };
    assert_eq!(lab.pass(lab.host, fragment(SERVER)), None);
    let to_neighbour = fragment("192.168.1.11:7");
    assert_eq!(lab.pass(lab.host, to_neighbour.clone()), Some((neighbour, to_neighbour)));
}

struct Lab {
    network: Network,
    host: HostId,
    server: HostId,
    router: RouterId,
}

impl Lab {
    fn new() -> Self {
        let mut network = Network::new(7);
        let server = network.add_host(INTERNET, &[ip("198.51.100.1")]).unwrap();
        let nat = NatConfig { ports: Ports::Random, ..NatConfig::default() };
        let config =
            RouterConfig { v4: Policy::Nat(nat), external: vec![ip("203.0.113.1")], ..RouterConfig::default() };
        let router = network.add_router(INTERNET, config).unwrap();
        let realm = network.inner(router).unwrap();
        let host = network.add_host(realm, &[ip("192.168.1.10")]).unwrap();
        Self { network, host, server, router }
    }

    /// What arrives anywhere.
    fn pass(&mut self, host: HostId, packet: Vec<u8>) -> Option<(HostId, Vec<u8>)> {
        self.network.send_ip(Duration::ZERO, host, packet);
        self.network.poll_delivery(Duration::ZERO).map(|delivery| (delivery.host, delivery.payload))
    }
}

fn udp(from: &str, to: &str, len: usize) -> Vec<u8> {
    let (from, to) = (addr(from), addr(to));
    let mut datagram = vec![0; len - 20];
    put(&mut datagram, 0, from.port());
    put(&mut datagram, 2, to.port());
    put(&mut datagram, 4, (len - 20) as u16);
    let mut packet = header(from.ip(), to.ip(), UDP, len);
    let checksum = !fold(sum(&datagram) + pseudo(&packet, len));
    put(&mut datagram, 6, checksum);
    packet.extend(datagram);
    packet
}

/// What the receiver of `packet` says when nobody listens there.
fn port_unreachable(packet: &[u8]) -> Vec<u8> {
    let Header { from, to, .. } = parse(packet).unwrap();
    let mut message = vec![3, 3, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&packet[..28]);
    let checksum = !fold(sum(&message));
    put(&mut message, 2, checksum);
    let mut error = header(to.ip(), from.ip(), ICMP, 20 + message.len());
    error.extend(message);
    error
}

/// IPv4, with DF.
fn header(from: IpAddr, to: IpAddr, protocol: u8, len: usize) -> Vec<u8> {
    let octets = |ip| if let IpAddr::V4(ip) = ip { ip } else { Ipv4Addr::UNSPECIFIED }.octets();
    let mut header = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0];
    header.extend([octets(from), octets(to)].concat());
    put(&mut header, 2, len as u16);
    let checksum = !fold(sum(&header));
    put(&mut header, 10, checksum);
    header
}

fn pseudo(packet: &[u8], len: usize) -> u32 {
    sum(&packet[12..20]) + len as u32 - 20 + u32::from(UDP)
}

fn assert_valid(packet: &[u8]) {
    assert_eq!(fold(sum(&packet[..20])), 0xffff);
    let covered = if packet[9] == ICMP { 0 } else { pseudo(packet, packet.len()) };
    assert_eq!(fold(sum(&packet[20..]) + covered), 0xffff);
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}
