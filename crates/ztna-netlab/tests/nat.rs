//! The NAT engine, packet by packet.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test says what it expects")]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ztna_netlab::nat::{Filtering, FirewallConfig, Mapping, Nat, NatConfig, Ports, Protocol, Refusal, Timeouts};
use ztna_netlab::random::Random;

const EIM: Mapping = Mapping::EndpointIndependent;
const ADM: Mapping = Mapping::AddressDependent;
const APDM: Mapping = Mapping::AddressAndPortDependent;
const EIF: Filtering = Filtering::EndpointIndependent;
const ADF: Filtering = Filtering::AddressDependent;
const APDF: Filtering = Filtering::AddressAndPortDependent;
const S: Duration = Duration::from_secs(1);
const INSIDE: &str = "192.168.1.10:5000";

#[test]
fn a_mapping_is_shared_by_the_remotes_that_its_type_says() {
    for (mapping, same_address, other_address) in [(EIM, true, true), (ADM, true, false), (APDM, false, false)] {
        let mut nat = nat(config(mapping, APDF));
        let first = out(&mut nat, 0, INSIDE, "198.51.100.1:1");
        assert_eq!(first == out(&mut nat, 0, INSIDE, "198.51.100.1:2"), same_address, "{mapping:?}");
        assert_eq!(first == out(&mut nat, 0, INSIDE, "198.51.100.2:1"), other_address, "{mapping:?}");
        assert_eq!(first, out(&mut nat, 0, INSIDE, "198.51.100.1:1"));
    }
}

#[test]
fn a_filter_admits_the_remotes_that_its_type_says_for_every_mapping() {
    for mapping in [EIM, ADM, APDM] {
        for (filtering, same_address, other_address) in [(EIF, true, true), (ADF, true, false), (APDF, false, false)] {
            let mut nat = nat(config(mapping, filtering));
            let external = out(&mut nat, 0, INSIDE, "198.51.100.1:1");
            assert_eq!(into(&mut nat, 0, external, "198.51.100.1:1"), Ok(addr(INSIDE)));
            assert_eq!(
                into(&mut nat, 0, external, "198.51.100.1:2").is_ok(),
                same_address,
                "{mapping:?} {filtering:?}"
            );
            assert_eq!(
                into(&mut nat, 0, external, "198.51.100.2:1").is_ok(),
                other_address,
                "{mapping:?} {filtering:?}"
            );
        }
    }
}

#[test]
fn an_answer_leaves_by_the_mapping_that_let_the_question_in() {
    let mut nat = nat(config(APDM, EIF));
    let known = out(&mut nat, 0, INSIDE, "198.51.100.1:1");
    let own = out(&mut nat, 0, INSIDE, "198.51.100.2:1");
    assert_ne!(known, own);
    assert!(into(&mut nat, 0, known, "198.51.100.2:1").is_ok());
    assert_eq!(out(&mut nat, 0, INSIDE, "198.51.100.2:1"), known);
}

#[test]
fn a_flow_lives_30_s_without_an_answer_and_120_s_with_one() {
    let mut nat = nat(config(EIM, APDF));
    let external = out(&mut nat, 0, INSIDE, "198.51.100.1:1");
    assert_eq!(into(&mut nat, 30, external, "198.51.100.1:1"), Err(Refusal::NoMapping));
    out(&mut nat, 40, INSIDE, "198.51.100.1:1");
    assert!(into(&mut nat, 69, external, "198.51.100.1:1").is_ok());
    assert!(into(&mut nat, 69 + 119, external, "198.51.100.1:1").is_ok());
    assert_eq!(into(&mut nat, 69 + 119 + 120, external, "198.51.100.1:1"), Err(Refusal::NoMapping));
}

#[test]
fn a_filter_forgets_each_remote_at_its_own_time() {
    let mut nat = nat(config(EIM, APDF));
    let external = out(&mut nat, 0, INSIDE, "198.51.100.1:1");
    out(&mut nat, 20, INSIDE, "198.51.100.2:1");
    assert_eq!(into(&mut nat, 40, external, "198.51.100.1:1"), Err(Refusal::Filtered));
    assert!(into(&mut nat, 40, external, "198.51.100.2:1").is_ok());
}

#[test]
fn with_refresh_on_outbound_only_answers_do_not_keep_a_mapping_alive() {
    let timeouts = Timeouts { refresh_inbound: false, ..Timeouts::default() };
    let mut nat = nat(NatConfig { timeouts, ..config(EIM, APDF) });
    let external = out(&mut nat, 0, INSIDE, "198.51.100.1:1");
    assert!(into(&mut nat, 29, external, "198.51.100.1:1").is_ok());
    assert!(into(&mut nat, 31, external, "198.51.100.1:1").is_err());
    out(&mut nat, 40, INSIDE, "198.51.100.1:1");
    assert!(into(&mut nat, 41, external, "198.51.100.1:1").is_ok());
    out(&mut nat, 42, INSIDE, "198.51.100.1:1");
    assert!(into(&mut nat, 42 + 119, external, "198.51.100.1:1").is_ok());
    assert!(into(&mut nat, 42 + 121, external, "198.51.100.1:1").is_err());
}

#[test]
fn an_absolute_lifetime_ends_a_busy_mapping() {
    let timeouts = Timeouts { lifetime: Some(60 * S), ..Timeouts::default() };
    let mut nat = nat(NatConfig { timeouts, ..NatConfig::new(EIM, APDF, Ports::Sequential) });
    let external = out(&mut nat, 0, INSIDE, "198.51.100.1:1");
    for second in (10..60).step_by(10) {
        assert_eq!(out(&mut nat, second, INSIDE, "198.51.100.1:1"), external);
        assert!(into(&mut nat, second, external, "198.51.100.1:1").is_ok());
    }
    assert!(into(&mut nat, 60, external, "198.51.100.1:1").is_err());
    assert_ne!(out(&mut nat, 60, INSIDE, "198.51.100.1:1"), external);
}

#[test]
fn a_rebinding_forgets_all_and_gives_other_ports_for_every_assignment() {
    for ports in [Ports::Preserve, Ports::Sequential, Ports::Random] {
        let mut nat = nat(NatConfig::new(EIM, EIF, ports));
        let before = out(&mut nat, 0, INSIDE, "198.51.100.1:1");
        nat.rebind();
        assert!(into(&mut nat, 0, before, "198.51.100.1:1").is_err(), "{ports:?}");
        assert_ne!(out(&mut nat, 0, INSIDE, "198.51.100.1:1"), before, "{ports:?}");
    }
}

#[test]
fn two_hosts_with_one_local_port_get_two_external_ones() {
    let mut nat = nat(config(EIM, APDF));
    let first = out(&mut nat, 0, "192.168.1.10:5000", "198.51.100.1:1");
    let second = out(&mut nat, 0, "192.168.1.11:5000", "198.51.100.1:1");
    assert_eq!((first.port(), second.port()), (5000, 5001));
    assert_eq!(into(&mut nat, 0, second, "198.51.100.1:1"), Ok(addr("192.168.1.11:5000")));
}

#[test]
fn as_on_linux_the_second_host_with_one_local_port_looks_address_dependent() {
    let mut nat = nat(NatConfig { overload: true, ..config(EIM, APDF) });
    out(&mut nat, 0, "192.168.1.10:5000", "198.51.100.1:1");
    let shared = out(&mut nat, 0, "192.168.1.11:5000", "198.51.100.2:1");
    let changed = out(&mut nat, 0, "192.168.1.11:5000", "198.51.100.1:1");
    assert_eq!((shared.port(), changed.port()), (5000, 5001));
    assert_eq!(into(&mut nat, 0, shared, "198.51.100.1:1"), Ok(addr("192.168.1.10:5000")));
    assert_eq!(into(&mut nat, 0, shared, "198.51.100.2:1"), Ok(addr("192.168.1.11:5000")));
}

#[test]
fn an_inside_host_keeps_the_external_address_it_was_given_first() {
    let external: Vec<IpAddr> = vec!["203.0.113.1".parse().unwrap(), "203.0.113.2".parse().unwrap()];
    let mut nat = Nat::new(config(APDM, APDF), external, Random::new(7));
    let of = |nat: &mut Nat, host: u8, remote: u8| {
        out(nat, 0, &format!("192.168.1.{host}:5000"), &format!("198.51.100.{remote}:1")).ip()
    };
    let (first, second) = (of(&mut nat, 10, 1), of(&mut nat, 11, 1));
    assert_ne!(first, second);
    for remote in 2..20 {
        assert_eq!((of(&mut nat, 10, remote), of(&mut nat, 11, remote)), (first, second));
    }
}

#[test]
fn new_external_addresses_end_the_mappings_of_the_old_ones() {
    let mut nat = nat(config(EIM, EIF));
    let before = out(&mut nat, 0, INSIDE, "198.51.100.1:1");
    nat.set_external(vec!["203.0.113.99".parse().unwrap()]);
    assert_eq!(into(&mut nat, 0, before, "198.51.100.1:1"), Err(Refusal::NoMapping));
    assert_eq!(out(&mut nat, 0, INSIDE, "198.51.100.1:1").ip().to_string(), "203.0.113.99");
}

#[test]
fn a_full_table_refuses_new_mappings_keeps_the_old_ones_and_recovers() {
    let mut nat = nat(NatConfig { max_mappings: 10, ..config(EIM, APDF) });
    for port in 0..10 {
        out(&mut nat, 0, &format!("192.168.1.10:{}", 5000 + port), "198.51.100.1:1");
    }
    let more = nat.outbound(Duration::ZERO, Protocol::Udp, addr("192.168.1.10:6000"), addr("198.51.100.1:1"));
    assert_eq!(more, Err(Refusal::Full));
    out(&mut nat, 20, "192.168.1.10:5003", "198.51.100.1:1");
    let counters = nat.counters(20 * S);
    assert_eq!((counters.mappings, counters.mappings_max, counters.exhausted), (10, 10, 1));
    assert_eq!(nat.counters(31 * S).mappings, 1);
    out(&mut nat, 31, "192.168.1.10:6000", "198.51.100.1:1");
}

#[test]
fn sessions_of_one_mapping_are_bounded() {
    let mut nat = nat(config(EIM, EIF));
    let sent = (0..70_000u32).map(|n| {
        let remote = SocketAddr::from(([198, 51, (n >> 16) as u8, 1], (n & 0xffff) as u16));
        nat.outbound(Duration::ZERO, Protocol::Udp, addr(INSIDE), remote)
    });
    assert_eq!(sent.filter(|outcome| *outcome == Err(Refusal::Full)).count(), 70_000 - 65_536);
    assert_eq!(nat.counters(Duration::ZERO).sessions, 65_536);
    assert_eq!(nat.counters(31 * S).sessions, 0);
}

#[test]
fn a_firewall_keeps_addresses_and_lets_answers_in_only() {
    let mut firewall = Nat::firewall(FirewallConfig::default());
    let inside = addr("[2001:db8::10]:5000");
    let (known, stranger) = (addr("[2001:db8:1::1]:1"), addr("[2001:db8:1::2]:1"));
    assert_eq!(firewall.inbound(Duration::ZERO, Protocol::Udp, inside, known), Err(Refusal::NoMapping));
    assert_eq!(firewall.outbound(Duration::ZERO, Protocol::Udp, inside, known), Ok(inside));
    assert_eq!(firewall.inbound(Duration::ZERO, Protocol::Udp, inside, known), Ok(inside));
    assert_eq!(firewall.inbound(Duration::ZERO, Protocol::Udp, inside, stranger), Err(Refusal::Filtered));
    let counters = firewall.counters(Duration::ZERO);
    assert_eq!((counters.filtered, counters.unmapped), (1, 1));
    firewall.rebind();
    assert_eq!(firewall.inbound(Duration::ZERO, Protocol::Udp, inside, known), Err(Refusal::NoMapping));
}

#[test]
fn protocols_have_mappings_of_their_own_and_a_peek_changes_nothing() {
    let mut nat = nat(config(EIM, APDF));
    let remote = addr("198.51.100.1:1");
    let external = nat.outbound(Duration::ZERO, Protocol::Tcp, addr(INSIDE), remote).unwrap();
    assert_eq!(into(&mut nat, 0, external, "198.51.100.1:1"), Err(Refusal::NoMapping));
    assert_eq!(nat.peek(239 * S, Protocol::Tcp, external, remote), Some(addr(INSIDE)));
    assert_eq!(nat.peek(240 * S, Protocol::Tcp, external, remote), None);
}

fn config(mapping: Mapping, filtering: Filtering) -> NatConfig {
    NatConfig::new(mapping, filtering, Ports::Preserve)
}

fn nat(config: NatConfig) -> Nat {
    Nat::new(config, vec!["203.0.113.1".parse().unwrap()], Random::new(7))
}

fn out(nat: &mut Nat, second: u32, inside: &str, remote: &str) -> SocketAddr {
    nat.outbound(second * S, Protocol::Udp, addr(inside), addr(remote)).unwrap()
}

fn into(nat: &mut Nat, second: u32, external: SocketAddr, remote: &str) -> Result<SocketAddr, Refusal> {
    nat.inbound(second * S, Protocol::Udp, external, addr(remote))
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}
