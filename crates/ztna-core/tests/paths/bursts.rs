//! Pairs of which one end has to guess ports of the other's NAT.

use std::time::Duration;

use ztna_core::path::burst::{BurstOutcome, BurstSettings};
use ztna_netlab::impairment::Impairment;
use ztna_netlab::nat::{Filtering, Mapping, Ports};
use ztna_netlab::sim::kinds::{Families, Kind, NodeKind};
use ztna_netlab::sim::oracle::{Relation, Verdict, verdict};

use super::lab::{Lab, ms};
use super::rng::seeds;

/// Of each pair.
const SEEDS: u64 = 5;

/// A round of ordinary checks to all addresses that a peer may name, and their answers, has fewer packets (16 × 12).
const ORDINARY: usize = 300;

fn home() -> Impairment {
    Impairment { delay: ms(10), ..Impairment::default() }
}

fn v4(mapping: Mapping, filtering: Filtering, ports: Ports) -> NodeKind {
    NodeKind { kind: Kind::Nat(mapping, filtering, ports), families: Families::V4 }
}

fn easy() -> NodeKind {
    v4(Mapping::EndpointIndependent, Filtering::AddressAndPortDependent, Ports::Preserve)
}

fn hard(ports: Ports) -> NodeKind {
    v4(Mapping::AddressAndPortDependent, Filtering::AddressAndPortDependent, ports)
}

fn lab(seed: u64, a: NodeKind, b: NodeKind) -> Lab {
    Lab::new(seed, [a, b], Relation::Apart, home())
}

fn pairs(wanted: Verdict) -> impl Iterator<Item = (NodeKind, NodeKind)> {
    NodeKind::matrix()
        .flat_map(|a| NodeKind::matrix().map(move |b| (a, b)))
        .filter(move |(a, b)| verdict(a.side(), b.side(), Relation::Apart) == wanted)
}

#[test]
fn of_pairs_that_have_to_guess_95_in_100_are_direct_within_five_seconds() {
    let (mut met, mut all, mut missed) = (0, 0, Vec::new());
    for (a, b) in pairs(Verdict::DirectByGuessing) {
        for seed in seeds(0, SEEDS) {
            let mut lab = lab(seed, a, b);
            all += 1;
            if lab.until(Duration::from_secs(5), Lab::both_direct) {
                met += 1;
            } else {
                missed.push(format!("{a:?} with {b:?}, seed {seed}"));
            }
        }
    }
    assert!(all >= 100, "{all}");
    assert!(met * 100 >= all * 95, "{met} of {all}; not:\n{}", missed.join("\n"));
}

#[test]
fn with_one_packet_in_twenty_lost_nine_of_ten_still_meet() {
    let home = Impairment { loss: 50_000, ..home() };
    let mut met = 0;
    for seed in 0..40 {
        let kinds = if seed % 2 == 0 { [easy(), hard(Ports::Random)] } else { [hard(Ports::Random), easy()] };
        let mut lab = Lab::new(seed, kinds, Relation::Apart, home);
        met += usize::from(lab.until(Duration::from_secs(10), Lab::both_direct));
    }
    assert!(met >= 36, "{met} of 40");
}

#[test]
fn where_guessing_is_of_no_use_or_not_needed_no_socket_is_opened_and_no_port_guessed() {
    // Nobody can tell by a relay that is reached that nothing else is: behind a hard NAT one burst tries.
    let open = |n: &NodeKind| n.kind != Kind::UdpBlocked;
    for (a, b) in pairs(Verdict::Relay).filter(|(a, b)| open(a) && open(b)).chain(pairs(Verdict::Direct)) {
        let mut lab = lab(3, a, b);
        lab.talking = false;
        lab.run(Duration::from_secs(20));
        for e in &lab.ends {
            assert_eq!(e.sockets.bursts, 0, "{a:?} with {b:?}");
            assert!(e.direct_packets <= ORDINARY, "{a:?} with {b:?}: {}", e.direct_packets);
        }
    }
}

#[test]
fn the_socket_that_was_hit_carries_the_data_and_no_other_is_left() {
    for (seed, kinds) in (0..10).map(|seed| (seed, [easy(), hard(Ports::Random)])) {
        let mut lab = lab(seed, kinds[0], kinds[1]);
        if !lab.until(Duration::from_secs(5), Lab::both_direct) {
            continue;
        }
        let from = lab.now;
        lab.forget_gaps();
        lab.run(from + Duration::from_secs(120));
        assert!(lab.both_direct() && lab.longest_gap() < ms(200), "seed {seed}: {:?}", lab.longest_gap());
        let [easy, hard] = &lab.ends;
        assert_eq!((easy.sockets.most, easy.sockets.count()), (0, 0));
        assert_eq!((hard.sockets.most, hard.sockets.bursts), (256, 1));
        // None where a guess has hit the main socket.
        assert_eq!(hard.sockets.count(), hard.sockets.enlarged.len());
        assert!(hard.sockets.count() <= 1);
    }
}

/// Runs a pair that asks for a burst and has none that can hit: one guess.
fn missed(seed: u64) -> Lab {
    let mut lab = lab(seed, easy(), hard(Ports::Random));
    lab.ends[0].sockets.set(BurstSettings { checks: 1, ..BurstSettings::default() });
    lab.until(Duration::from_secs(10), |l| l.ends[1].sockets.bursts > 0);
    lab.talking = false;
    lab
}

#[test]
fn after_one_that_missed_all_is_as_before_and_the_next_comes_after_ten_minutes() {
    let mut lab = missed(1);
    let begun = lab.now;
    lab.run(begun + Duration::from_secs(10));
    assert_eq!((lab.ends[1].sockets.count(), lab.both_direct()), (0, false));
    for e in &lab.ends {
        assert_eq!(e.path.direct().and_then(|d| d.burst()), Some(BurstOutcome::Missed));
    }
    lab.run(begun + Duration::from_secs(595));
    assert_eq!(lab.ends[1].sockets.bursts, 1);
    // Whatever changes: it is for the router that they are few.
    lab.network_changed(1);
    lab.run(begun + Duration::from_secs(598));
    assert_eq!(lab.ends[1].sockets.bursts, 1);
    lab.run(begun + Duration::from_secs(640));
    assert_eq!(lab.ends[1].sockets.bursts, 2);
}

#[test]
fn no_more_than_1024_small_checks_go_to_an_address_that_nobody_answers_from() {
    let mut lab = lab(5, easy(), hard(Ports::Random));
    lab.until(Duration::from_secs(10), |l| l.ends[1].sockets.bursts > 0);
    // From here on the hard end hears nothing, as where its address is a stranger's.
    lab.deaf_direct = Some(1);
    lab.talking = false;
    let (before, bytes) = (lab.ends[0].direct_packets, lab.ends[0].direct_bytes);
    lab.run(Duration::from_secs(60));
    // The lab counts what it lets through.
    assert_eq!((lab.ends[0].direct_packets, lab.ends[0].direct_bytes), (before, bytes));
    assert_eq!(lab.ends[0].lost_packets, lab.ends[0].lost_packets.clamp(1_024, 1_024 + ORDINARY));
    assert!(lab.ends[0].lost_bytes <= (1_024 + ORDINARY) * 104);
}
