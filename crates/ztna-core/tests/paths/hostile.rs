//! What peers that name addresses again and again have a node send.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ztna_core::id::SpiffeId;
use ztna_core::path::Direct;
use ztna_core::path::budget::Budget;
use ztna_core::path::candidate::{Candidate, CandidateKind};
use ztna_core::path::checklist::Keys;
use ztna_core::path::explain::{Cause, Surroundings, explain};
use ztna_core::wire::check::{CheckKey, Token};
use ztna_core::wire::path_signal::{Mapping, Message, Outcome};

use super::lab::ms;

/// A node with connections to one identity.
struct Victim {
    start: Instant,
    budget: Budget,
    peer: SpiffeId,
    links: Vec<Direct>,
    generation: u64,
    sent: Vec<(Duration, SocketAddr)>,
}

impl Victim {
    fn new(connections: u8) -> Victim {
        let secret = |of: u8| (Token([of; 8]), CheckKey::new([of; 32]));
        let link = |n: u8| Direct::new(Keys { ours: secret(n), theirs: secret(n + 100), mask: [n; 12] }, 1_320);
        Victim {
            start: Instant::now(),
            budget: Budget::default(),
            peer: "spiffe://example.test/agent/mallory".parse().unwrap(),
            links: (0..connections).map(link).collect(),
            generation: 0,
            sent: Vec::new(),
        }
    }

    /// The peer names these on a connection.
    fn name(&mut self, at: Duration, link: usize, addresses: impl Iterator<Item = SocketAddr>) {
        self.generation += 1;
        let candidates = addresses.map(|address| Candidate { kind: CandidateKind::Host, address }).collect();
        let mut bytes = Vec::new();
        Message::Candidates { generation: self.generation, mapping: Mapping::Unknown, candidates }.encode(&mut bytes);
        self.links[link].handle_signal(self.start + at, &bytes).unwrap();
    }

    fn turn(&mut self, at: Duration) {
        let now = self.start + at;
        for link in &mut self.links {
            if link.poll_timeout().is_some_and(|t| t <= now) {
                link.handle_timeout(now);
            }
            while let Some(out) = link.poll_transmit(now, &self.peer, &mut self.budget) {
                self.sent.push((at, out.to));
            }
        }
    }

    fn addresses(&self) -> BTreeSet<SocketAddr> {
        self.sent.iter().map(|(_, to)| *to).collect()
    }
}

/// In a /24 of its own.
fn nth(n: u32) -> SocketAddr {
    SocketAddr::from(((0x0b00_0001 + (n << 8)).to_be_bytes(), 4_433))
}

#[test]
fn a_peer_that_names_new_addresses_on_six_connections_all_the_time_has_few_of_them_checked() {
    let (mut victim, mut named) = (Victim::new(6), 0);
    for at in (0..60_000).step_by(10).map(ms) {
        for link in 0..6 {
            victim.name(at, link, (named..named + 16).map(nth));
            named += 16;
        }
        victim.turn(at);
    }
    // path::budget: 128 at once and two a second.
    let addresses = victim.addresses().len();
    assert!(addresses <= 128 + 2 * 60, "{addresses} addresses of {named} in a minute");
    assert!(addresses >= 128, "it still finds a peer: {addresses}");
    assert!(victim.sent.len() <= 576 + 40 * 60, "{} checks", victim.sent.len());
    assert!(victim.budget.held()["new"] > 0);
}

#[test]
fn a_peer_that_names_the_same_addresses_again_and_again_has_forty_checks_a_second() {
    let mut victim = Victim::new(6);
    for at in (0..60_000).step_by(100).map(ms) {
        (0..6).for_each(|link| victim.name(at, link, (0..16).map(nth)));
        (0..100).step_by(5).for_each(|n| victim.turn(at + ms(n)));
    }
    assert!(victim.sent.len() <= 576 + 40 * 60, "{} checks", victim.sent.len());
}

#[test]
fn a_peer_that_roams_every_ten_seconds_has_all_its_sixteen_addresses_checked_at_once() {
    let mut victim = Victim::new(2);
    for place in 0..60u32 {
        let since = Duration::from_secs(10) * place;
        (0..2).for_each(|link| victim.name(since, link, (place * 16..place * 16 + 16).map(nth)));
        (0..10_000).step_by(5).for_each(|n| victim.turn(since + ms(n)));
        let soon: BTreeSet<SocketAddr> =
            victim.sent.iter().filter(|(at, _)| (since..since + ms(100)).contains(at)).map(|(_, to)| *to).collect();
        assert_eq!(soon.len(), 16, "place {place}");
    }
    assert_eq!(victim.budget.held().get("new"), None);
}

#[test]
fn a_peer_outside_has_sixteen_addresses_of_our_lan_checked_and_a_neighbour_is_told_apart_by_its_own_check() {
    let mut victim = Victim::new(1);
    victim.budget.set_networks([("192.168.1.10".parse().unwrap(), 24)]);
    let lan = |n: u32| SocketAddr::from(([192, 168, 1, n as u8], 4_433));
    for round in 0..16u32 {
        let at = Duration::from_secs(10) * round;
        victim.name(at, 0, (round * 16..round * 16 + 16).map(lan));
        (0..10_000).step_by(50).for_each(|n| victim.turn(at + ms(n)));
    }
    assert_eq!(victim.addresses(), (0..16).map(lan).collect());
    victim.links[0].handle_data(victim.start + ms(170_000), Default::default(), lan(200));
    victim.turn(ms(170_000));
    assert_eq!(victim.sent.last().map(|(_, to)| *to), Some(lan(200)));
}

#[test]
fn addresses_that_wait_are_named_with_the_reason() {
    let mut victim = Victim::new(1);
    victim.budget.set_networks([("192.168.1.10".parse().unwrap(), 24)]);
    for round in 0..2u32 {
        let lan = |n: u32| SocketAddr::from(([192, 168, 1, n as u8], 4_433));
        victim.name(ms(round.into()), 0, (round * 16..round * 16 + 16).map(lan));
        victim.turn(ms(500));
    }
    let evidence = explain(Some(&victim.links[0]), Surroundings::at(victim.start + ms(500)));
    let held = evidence.reasons.iter().find(|why| why.cause == Cause::CheckLimit).unwrap();
    assert!(held.detail.contains("16 addresses of the other end wait"), "{}", held.detail);
    assert!(held.detail.contains("within this end's own networks"), "{}", held.detail);
    assert!(evidence.checks.iter().all(|c| c.outcome == Outcome::Held));
}
