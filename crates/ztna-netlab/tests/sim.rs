//! The network in memory: routers classified from outside as RFC 5780 does it, links, moves.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test says what it expects")]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ztna_netlab::impairment::Impairment;
use ztna_netlab::nat::{Filtering, FirewallConfig, Mapping, NatConfig, Ports};
use ztna_netlab::random::Random;
use ztna_netlab::sim::{Block, Delivery, HostId, INTERNET, Network, Policy, RealmId, RouterConfig, RouterId, Way};

const MAPPINGS: [Mapping; 3] =
    [Mapping::EndpointIndependent, Mapping::AddressDependent, Mapping::AddressAndPortDependent];
const FILTERINGS: [Filtering; 3] =
    [Filtering::EndpointIndependent, Filtering::AddressDependent, Filtering::AddressAndPortDependent];
const MS: Duration = Duration::from_millis(1);
const SERVER: [&str; 2] = ["198.51.100.1", "198.51.100.2"];
const PORTS: [u16; 2] = [3478, 3479];
const INSIDE: &str = "192.168.1.10:5000";

#[test]
fn each_mapping_with_each_filtering_is_classified_as_configured() {
    for ports in [Ports::Preserve, Ports::Sequential, Ports::Random] {
        for mapping in MAPPINGS {
            for filtering in FILTERINGS {
                let mut lab = Lab::new(NatConfig::new(mapping, filtering, ports));
                assert_eq!(lab.classify(), (mapping, filtering), "{ports:?}");
            }
        }
    }
}

#[test]
fn double_nat_is_classified_as_the_more_dependent_mapping_and_the_stricter_filter() {
    for (outer_mapping, outer_filtering) in
        [(MAPPINGS[0], FILTERINGS[0]), (MAPPINGS[0], FILTERINGS[1]), (MAPPINGS[2], FILTERINGS[2])]
    {
        for mapping in MAPPINGS {
            for filtering in FILTERINGS {
                let mut network = Network::new(7);
                let server = network.add_host(INTERNET, &SERVER.map(ip)).unwrap();
                let carrier = NatConfig::new(outer_mapping, outer_filtering, Ports::Random);
                let (_, middle) = router(&mut network, INTERNET, "203.0.113.1", carrier);
                let home = NatConfig::new(mapping, filtering, Ports::Preserve);
                let (home, inner) = router(&mut network, middle, "100.64.0.2", home);
                let host = network.add_host(inner, &[ip("192.168.1.10")]).unwrap();
                let mut lab = Lab { network, server, host, router: home, realm: inner, now: Duration::ZERO };
                assert_eq!(lab.classify(), (mapping.max(outer_mapping), filtering.max(outer_filtering)));
            }
        }
    }
}

#[test]
fn a_hairpinned_packet_shows_the_external_source_and_without_hairpin_it_is_dropped() {
    for hairpin in [true, false] {
        let config = NatConfig { hairpin, ..NatConfig::new(MAPPINGS[0], FILTERINGS[2], Ports::Random) };
        let mut lab = Lab::new(config);
        let other = lab.network.add_host(lab.realm, &[ip("192.168.1.11")]).unwrap();
        let mine = lab.observed(INSIDE, 0, 0);
        lab.send(other, "192.168.1.11:5000", server(0, 0));
        let theirs = lab.received().pop().unwrap().from;
        lab.send(other, "192.168.1.11:5000", mine);
        // The first one opens their filter, mine is still closed.
        assert_eq!(lab.received(), []);
        lab.send(lab.host, INSIDE, theirs);
        let got: Vec<_> = lab.received().into_iter().map(|delivery| (delivery.host, delivery.from)).collect();
        if hairpin {
            assert_eq!(got, [(other, mine)]);
        } else {
            assert_eq!(got, []);
            assert_eq!(lab.network.drops().hairpin, 2);
        }
    }
}

#[test]
fn two_homes_under_one_carrier_reach_each_other_only_with_its_hairpin() {
    for hairpin in [true, false] {
        let mut network = Network::new(7);
        let server_host = network.add_host(INTERNET, &SERVER.map(ip)).unwrap();
        let carrier = NatConfig { hairpin, ..NatConfig::new(MAPPINGS[0], FILTERINGS[0], Ports::Random) };
        let (_, middle) = router(&mut network, INTERNET, "203.0.113.1", carrier);
        let homes = ["100.64.0.2", "100.64.0.3"].map(|wan| {
            let (_, inner) = router(&mut network, middle, wan, NatConfig::default());
            network.add_host(inner, &[ip("192.168.1.10")]).unwrap()
        });
        let mut known = homes.map(|host| {
            network.send(Duration::ZERO, host, addr(INSIDE), server(0, 0), b"x".to_vec());
            network.poll_delivery(Duration::ZERO).map(|delivery| (delivery.host, delivery.from)).unwrap()
        });
        assert!(known.iter().all(|(host, from)| *host == server_host && from.ip() == ip("203.0.113.1")));
        known.reverse();
        let mut got = Vec::new();
        for _ in 0..2 {
            for (host, (_, peer)) in homes.into_iter().zip(known) {
                network.send(Duration::ZERO, host, addr(INSIDE), peer, b"x".to_vec());
                got.extend(network.poll_delivery(Duration::ZERO));
            }
        }
        // The very first finds the other home's filter closed.
        assert_eq!(got.len(), if hairpin { 3 } else { 0 });
    }
}

#[test]
fn neighbours_talk_without_their_router_even_when_it_blocks_everything() {
    let mut lab = Lab::new(NatConfig::default());
    lab.network.block(lab.router, Block::All).unwrap();
    let other = lab.network.add_host(lab.realm, &[ip("192.168.1.11")]).unwrap();
    lab.send(lab.host, INSIDE, addr("192.168.1.11:7"));
    assert_eq!(lab.received().pop().map(|delivery| (delivery.host, delivery.from)), Some((other, addr(INSIDE))));
    lab.send(lab.host, INSIDE, server(0, 0));
    assert_eq!(lab.received(), []);
    assert_eq!(lab.network.drops().blocked, 1);
}

#[test]
fn a_block_with_exceptions_lets_them_pass_both_ways_and_nothing_else() {
    let mut lab = Lab::new(NatConfig::new(MAPPINGS[0], FILTERINGS[0], Ports::Preserve));
    lab.network.block(lab.router, Block::AllExcept(vec![server(0, 0)])).unwrap();
    let mine = lab.observed(INSIDE, 0, 0);
    assert!(lab.reaches(server(0, 0), mine));
    assert!(!lab.reaches(server(0, 1), mine));
    lab.send(lab.host, INSIDE, server(0, 1));
    assert_eq!(lab.received(), []);
}

#[test]
fn addresses_of_private_use_are_not_routed_on_the_internet() {
    let mut lab = Lab::new(NatConfig::default());
    let mut other = Network::new(1);
    let host = other.add_host(INTERNET, &[ip("198.51.100.1")]).unwrap();
    for to in ["10.0.0.1:1", "192.168.1.10:1", "100.64.0.1:1"] {
        lab.send(lab.server, "198.51.100.1:3478", addr(to));
        assert_eq!(lab.received(), [], "{to}");
    }
    assert_eq!(lab.network.drops().unroutable, 3);
    for refused in ["192.168.0.1", "100.64.0.1", "127.0.0.1", "0.0.0.0", "fd00::1", "198.51.100.1"] {
        let error = other.add_host(INTERNET, &[ip(refused)]).unwrap_err().to_string();
        assert!(error.contains(refused), "{error}");
    }
    assert!(other.move_host(host, INTERNET, &[ip("10.0.0.1")]).is_err());
    assert_eq!(other.addresses(host), [ip("198.51.100.1")]);
}

#[test]
fn ipv6_behind_a_firewall_keeps_its_address_and_hears_answers_only() {
    let mut network = Network::new(7);
    let server = network.add_host(INTERNET, &[ip("2001:db8:ffff::1"), ip("2001:db8:ffff::2")]).unwrap();
    let config = RouterConfig { v6: Policy::Firewall(FirewallConfig::default()), ..RouterConfig::default() };
    let outer = network.add_router(INTERNET, RouterConfig { v6: Policy::Open, ..RouterConfig::default() }).unwrap();
    let middle = network.inner(outer).unwrap();
    let firewall = network.add_router(middle, config).unwrap();
    let inner = network.inner(firewall).unwrap();
    let host = network.add_host(inner, &[ip("2001:db8:a::10")]).unwrap();
    let me = addr("[2001:db8:a::10]:5000");
    let mut go = |host: HostId, from: SocketAddr, to: SocketAddr| {
        network.send(Duration::ZERO, host, from, to, b"x".to_vec());
        network.poll_delivery(Duration::ZERO).map(|delivery| (delivery.from, delivery.to))
    };
    let (first, second) = (addr("[2001:db8:ffff::1]:1"), addr("[2001:db8:ffff::2]:1"));
    assert_eq!(go(server, first, me), None);
    assert_eq!(go(host, addr("[::]:5000"), first), Some((me, first)));
    assert_eq!(go(server, first, me), Some((first, me)));
    assert_eq!(go(server, second, me), None);
}

#[test]
fn links_add_their_delays_and_lose_what_is_too_large() {
    let mut lab = Lab::new(NatConfig::default());
    let set = |settings: &[(&str, &str)]| {
        let mut impairment = Impairment::default();
        settings.iter().for_each(|(name, value)| impairment.set(name, value).unwrap());
        impairment
    };
    lab.network.set_link(lab.router, Way::Up, set(&[("delay", "20ms"), ("mtu", "1280")])).unwrap();
    lab.network.set_link(lab.host, Way::Up, set(&[("delay", "3ms")])).unwrap();
    lab.network.set_link(lab.server, Way::Down, set(&[("delay", "10ms")])).unwrap();
    lab.network.send(Duration::ZERO, lab.host, addr(INSIDE), server(0, 0), vec![0; 1252]);
    lab.network.send(Duration::ZERO, lab.host, addr(INSIDE), server(0, 0), vec![0; 1253]);
    assert_eq!(lab.network.poll_delivery(33 * MS - Duration::from_nanos(1)), None);
    assert_eq!(lab.network.poll_timeout(), Some(33 * MS));
    assert_eq!(lab.network.poll_delivery(33 * MS).map(|delivery| delivery.payload.len()), Some(1252));
    assert_eq!(lab.network.poll_timeout(), None);
    assert_eq!(lab.network.link_stats(lab.router, Way::Up).unwrap().lost_mtu, 1);
}

#[test]
fn a_link_cut_one_way_loses_what_is_on_it_and_carries_the_other_way() {
    let mut lab = Lab::new(NatConfig::default());
    let mut delay = Impairment::default();
    delay.set("delay", "10ms").unwrap();
    lab.network.set_link(lab.router, Way::Up, delay).unwrap();
    let mine = lab.observed(INSIDE, 0, 0);
    lab.send(lab.host, INSIDE, server(0, 0));
    // Now it is on the router's link.
    assert_eq!(lab.network.poll_delivery(lab.now), None);
    lab.network.set_cut(lab.router, Way::Up, true).unwrap();
    lab.network.set_cut(lab.router, Way::Up, false).unwrap();
    assert_eq!(lab.received(), []);
    lab.network.set_cut(lab.router, Way::Up, true).unwrap();
    lab.send(lab.host, INSIDE, server(0, 0));
    assert_eq!(lab.received(), []);
    assert!(lab.reaches(server(0, 0), mine));
    lab.network.set_cut(lab.router, Way::Up, false).unwrap();
    assert_eq!(lab.observed(INSIDE, 0, 0), mine);
    assert_eq!(lab.network.link_stats(lab.router, Way::Up).unwrap().lost_down, 2);
}

#[test]
fn rebinding_and_a_new_external_address_change_what_the_server_sees() {
    let mut lab = Lab::new(NatConfig::default());
    let first = lab.observed(INSIDE, 0, 0);
    lab.network.rebind(lab.router).unwrap();
    assert!(!lab.reaches(server(0, 0), first));
    let second = lab.observed(INSIDE, 0, 0);
    assert!(second.ip() == first.ip() && second.port() != first.port());
    lab.network.set_external(lab.router, vec![ip("203.0.113.77")]).unwrap();
    assert!(!lab.reaches(server(0, 0), second));
    assert_eq!(lab.observed(INSIDE, 0, 0).ip(), ip("203.0.113.77"));
    assert!(lab.network.set_external(lab.router, vec![ip(SERVER[0])]).is_err());
    assert_eq!(lab.observed(INSIDE, 0, 0).ip(), ip("203.0.113.77"));
}

#[test]
fn a_mapping_that_timed_out_on_the_way_is_gone_at_the_time_of_arrival() {
    let mut lab = Lab::new(NatConfig::default());
    let mut delay = Impairment::default();
    delay.set("delay", "10ms").unwrap();
    lab.network.set_link(lab.router, Way::Down, delay).unwrap();
    for (sent, arrives) in [(29_989, true), (29_990, false)] {
        lab.network.rebind(lab.router).unwrap();
        let start = lab.now;
        let mine = lab.observed(INSIDE, 0, 0);
        lab.now = start + sent * MS;
        assert_eq!(lab.reaches(server(0, 0), mine), arrives, "{sent}");
    }
    assert_eq!(lab.network.drops().unmapped, 1);
    assert_eq!(lab.network.nat_counters(lab.router, ip("0.0.0.0")).unwrap().mappings, 0);
}

#[test]
fn a_host_that_moves_is_reached_at_its_new_address_and_misses_what_was_under_way() {
    let mut lab = Lab::new(NatConfig::default());
    let mut delay = Impairment::default();
    delay.set("delay", "10ms").unwrap();
    lab.network.set_link(lab.host, Way::Down, delay).unwrap();
    let mine = lab.observed("0.0.0.0:5000", 0, 0);
    lab.send(lab.server, "198.51.100.1:3478", mine);
    assert_eq!(lab.network.poll_delivery(lab.now), None);
    lab.network.move_host(lab.host, INTERNET, &[ip("203.0.113.50")]).unwrap();
    assert_eq!(lab.received(), []);
    assert_eq!(lab.network.drops().moved, 1);
    lab.send(lab.host, INSIDE, server(0, 0));
    assert_eq!(lab.network.drops().unsendable, 1);
    assert_eq!(lab.observed("0.0.0.0:5000", 0, 0), addr("203.0.113.50:5000"));
}

#[test]
fn a_host_with_two_interfaces_sends_by_the_one_that_has_the_source_address() {
    let mut lab = Lab::new(NatConfig::default());
    let cable = lab.network.add_interface(lab.host, INTERNET, &[ip("203.0.113.50")]).unwrap();
    assert_eq!(lab.observed(INSIDE, 0, 0).ip(), ip("203.0.113.1"));
    assert_eq!(lab.observed("203.0.113.50:5000", 0, 0).ip(), ip("203.0.113.50"));
    lab.network.set_cut(lab.host, Way::Up, true).unwrap();
    assert_eq!(lab.observed("203.0.113.50:5000", 0, 0).ip(), ip("203.0.113.50"));
    lab.network.set_cut(cable, Way::Up, true).unwrap();
    lab.send(lab.host, "203.0.113.50:5000", server(0, 0));
    assert_eq!(lab.received(), []);
}

#[test]
fn a_burst_of_guesses_finds_one_of_many_ports_of_a_dependent_mapping() {
    let guess = |seed, sockets: u16, probes: u32| {
        let hard = NatConfig::new(MAPPINGS[2], FILTERINGS[2], Ports::Random);
        let mut lab = Lab::seeded(seed, hard);
        let (_, realm) = router(&mut lab.network, INTERNET, "203.0.113.9", NatConfig::default());
        let easy = lab.network.add_host(realm, &[ip("192.168.1.10")]).unwrap();
        lab.send(easy, INSIDE, server(0, 0));
        let known = lab.received().pop().unwrap().from;
        for port in 0..sockets {
            lab.network.send(lab.now, lab.host, SocketAddr::new(ip("192.168.1.10"), 10_000 + port), known, vec![0]);
        }
        let mut random = Random::new(seed);
        for _ in 0..probes {
            let port = 1024 + random.below(64_512) as u16;
            lab.network.send(lab.now, easy, addr(INSIDE), SocketAddr::new(ip("203.0.113.1"), port), vec![0]);
        }
        lab.received().iter().any(|delivery| delivery.host == lab.host)
    };
    let found = |sockets, probes| (0..100).filter(|seed| guess(*seed, sockets, probes)).count();
    // 1 - (1 - 256/64512)^1024 is 98 %, with 84 and 800 it is 65 %.
    assert!(found(256, 1024) >= 93);
    assert!((50..80).contains(&found(84, 800)));
}

#[test]
fn the_same_seed_gives_the_same_deliveries_and_another_one_others() {
    let run = |seed| {
        let mut impairment = Impairment::default();
        for (name, value) in [("delay", "20ms"), ("jitter", "5ms"), ("loss", "20%"), ("reorder", "5%")] {
            impairment.set(name, value).unwrap();
        }
        let mut lab = Lab::seeded(seed, NatConfig::new(MAPPINGS[2], FILTERINGS[2], Ports::Random));
        lab.network.set_link(lab.router, Way::Up, impairment).unwrap();
        let mut seen = Vec::new();
        for n in 0..200u32 {
            lab.network.send(n * MS, lab.host, addr(INSIDE), server((n % 2) as usize, 0), n.to_be_bytes().to_vec());
            while let Some(delivery) = lab.network.poll_delivery(n * MS) {
                seen.push(delivery);
            }
        }
        seen
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}

/// A host behind one NAT, and a server with two addresses and two ports on the Internet.
struct Lab {
    network: Network,
    server: HostId,
    host: HostId,
    router: RouterId,
    realm: RealmId,
    now: Duration,
}

impl Lab {
    fn new(config: NatConfig) -> Self {
        Self::seeded(7, config)
    }

    fn seeded(seed: u64, config: NatConfig) -> Self {
        let mut network = Network::new(seed);
        let server = network.add_host(INTERNET, &SERVER.map(ip)).unwrap();
        let (router, realm) = router(&mut network, INTERNET, "203.0.113.1", config);
        let host = network.add_host(realm, &[ip("192.168.1.10")]).unwrap();
        Self { network, server, host, router, realm, now: Duration::ZERO }
    }

    fn send(&mut self, host: HostId, from: &str, to: SocketAddr) {
        self.network.send(self.now, host, addr(from), to, b"x".to_vec());
    }

    /// All that arrives in the next second.
    fn received(&mut self) -> Vec<Delivery> {
        self.now += Duration::from_secs(1);
        std::iter::from_fn(|| self.network.poll_delivery(self.now)).collect()
    }

    /// The source that the server sees.
    fn observed(&mut self, from: &str, address: usize, port: usize) -> SocketAddr {
        self.send(self.host, from, server(address, port));
        let got = self.received().pop().unwrap();
        assert_eq!((got.host, got.to), (self.server, server(address, port)));
        got.from
    }

    /// Whether a packet of the server's arrives at the host.
    fn reaches(&mut self, from: SocketAddr, to: SocketAddr) -> bool {
        self.send(self.server, &from.to_string(), to);
        self.received().iter().any(|delivery| delivery.host == self.host && delivery.from == from)
    }

    /// RFC 5780 §4.3 and §4.4, each test from a fresh port.
    fn classify(&mut self) -> (Mapping, Filtering) {
        let seen = [(0, 0), (0, 1), (1, 0)].map(|(address, port)| self.observed("0.0.0.0:5000", address, port));
        let mapping = match (seen[0] == seen[1], seen[0] == seen[2]) {
            (true, true) => Mapping::EndpointIndependent,
            (true, false) => Mapping::AddressDependent,
            (false, false) => Mapping::AddressAndPortDependent,
            (false, true) => panic!("depends on the port but not on the address"),
        };
        let external = self.observed("0.0.0.0:6000", 0, 0);
        assert!(self.reaches(server(0, 0), external));
        let filtering = match (self.reaches(server(1, 1), external), self.reaches(server(0, 1), external)) {
            (true, true) => Filtering::EndpointIndependent,
            (false, true) => Filtering::AddressDependent,
            (false, false) => Filtering::AddressAndPortDependent,
            (true, false) => panic!("admits another address but not another port"),
        };
        (mapping, filtering)
    }
}

fn router(network: &mut Network, outer: RealmId, wan: &str, nat: NatConfig) -> (RouterId, RealmId) {
    let config = RouterConfig { v4: Policy::Nat(nat), external: vec![ip(wan)], ..RouterConfig::default() };
    let router = network.add_router(outer, config).unwrap();
    let realm = network.inner(router).unwrap();
    (router, realm)
}

fn server(address: usize, port: usize) -> SocketAddr {
    SocketAddr::new(ip(SERVER[address]), PORTS[port])
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}
