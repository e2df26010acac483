//! Direct paths that die, come back, or move, while both ends talk.

use std::time::Duration;

use ztna_netlab::impairment::Impairment;
use ztna_netlab::nat::{Filtering, Mapping, Ports};
use ztna_netlab::sim::kinds::{Families, Kind, NodeKind};
use ztna_netlab::sim::oracle::Relation;
use ztna_netlab::sim::{Block, INTERNET, Way};

use super::lab::{Lab, ms};

/// As most homes are.
const HOME: NodeKind = NodeKind {
    kind: Kind::Nat(Mapping::EndpointIndependent, Filtering::AddressAndPortDependent, Ports::Preserve),
    families: Families::V4,
};
const PUBLIC: NodeKind = NodeKind { kind: Kind::Public, families: Families::V4 };

fn second(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Both ends have talked on a direct path for a while.
fn direct(seed: u64, kinds: [NodeKind; 2]) -> Lab {
    let home = Impairment { delay: ms(10), ..Impairment::default() };
    let mut lab = Lab::new(seed, kinds, Relation::Apart, home);
    assert!(lab.until(second(10), Lab::both_direct), "seed {seed}");
    lab.run(lab.now + second(5));
    lab.forget_gaps();
    lab
}

/// Direct packets die on the way to or from one end; the relay's pass.
fn only_relay(lab: &mut Lab) {
    let relay = ztna_netlab::sim::kinds::relay_endpoints().to_vec();
    lab.pair.network.block(lab.pair.a.routers[0], Block::AllExcept(relay)).unwrap();
}

#[test]
fn a_direct_path_that_dies_leaves_no_gap_longer_than_half_a_second() {
    for seed in 0..20 {
        let mut lab = direct(seed, [HOME, HOME]);
        only_relay(&mut lab);
        let from = lab.now;
        assert!(lab.until(from + second(1), |l| !l.is_direct(0) && !l.is_direct(1)), "seed {seed}: still direct");
        lab.run(from + second(5));
        assert!(lab.longest_gap() <= ms(500), "seed {seed}: {:?}", lab.longest_gap());
    }
}

#[test]
fn a_path_that_came_back_is_taken_again() {
    for seed in 0..20 {
        let mut lab = direct(seed, [HOME, HOME]);
        lab.run(lab.now + second(40));
        only_relay(&mut lab);
        assert!(lab.until(lab.now + second(1), |l| !l.is_direct(0) && !l.is_direct(1)));
        lab.run(lab.now + second(20));
        lab.pair.network.block(lab.pair.a.routers[0], Block::Nothing).unwrap();
        assert!(lab.until(lab.now + second(35), Lab::both_direct), "seed {seed}");
    }
}

#[test]
fn a_nat_that_rebinds_leaves_no_gap_longer_than_a_second_and_the_path_is_direct_again_within_two() {
    for kinds in [[HOME, HOME], [HOME, PUBLIC], [PUBLIC, HOME]] {
        for seed in 0..20 {
            let mut lab = direct(seed, kinds);
            let home = if kinds[0] == HOME { lab.pair.a.clone() } else { lab.pair.b.clone() };
            lab.pair.network.rebind(home.routers[0]).unwrap();
            let from = lab.now;
            lab.run(from + second(2));
            assert!(lab.until(from + second(2), Lab::both_direct), "{kinds:?}, seed {seed}");
            lab.run(from + second(5));
            assert!(lab.longest_gap() <= second(1), "{kinds:?}, seed {seed}: {:?}", lab.longest_gap());
        }
    }
}

#[test]
fn an_end_that_moves_to_another_address_is_direct_again_within_two_seconds() {
    for mover in 0..2 {
        for seed in 0..20 {
            let mut lab = direct(seed, [PUBLIC, HOME]);
            if mover == 1 {
                lab = direct(seed, [HOME, PUBLIC]);
            }
            let host = lab.ends[mover].host;
            let to = "203.0.113.77".parse().unwrap();
            let moved = if mover == 0 { lab.pair.a.host } else { lab.pair.b.host };
            assert_eq!(host, moved);
            lab.pair.network.move_host(host, INTERNET, &[to]).unwrap();
            lab.network_changed(mover);
            let from = lab.now;
            assert!(lab.until(from + second(2), Lab::both_direct), "end {mover}, seed {seed}");
            lab.run(from + second(5));
            assert!(lab.longest_gap() <= second(2), "end {mover}, seed {seed}: {:?}", lab.longest_gap());
        }
    }
}

#[test]
fn a_link_that_goes_deaf_in_one_direction_costs_half_a_second_at_most() {
    // The home's router has two ways out: the one to the relay stays. So the direct one is cut where the peer is.
    for seed in 0..20 {
        let mut lab = direct(seed, [HOME, PUBLIC]);
        lab.deaf_direct = Some(usize::from(seed % 2 == 0));
        let from = lab.now;
        lab.run(from + second(5));
        assert!(!lab.is_direct(0) && !lab.is_direct(1), "seed {seed}");
        assert!(lab.longest_gap() <= ms(500), "seed {seed}: {:?}", lab.longest_gap());
    }
}

#[test]
fn data_that_a_path_loses_while_checks_pass_makes_it_no_path() {
    for seed in 0..20 {
        let mut lab = direct(seed, [HOME, HOME]);
        lab.data_lost = true;
        let from = lab.now;
        lab.run(from + second(10));
        assert!(!lab.is_direct(0) && !lab.is_direct(1), "seed {seed}");
        assert!(lab.longest_gap() <= ms(500), "seed {seed}: {:?}", lab.longest_gap());
        // Each try is paid with a gap: they must become rare.
        let switches = lab.ends[0].switches.len();
        lab.run(lab.now + second(120));
        assert!(lab.ends[0].switches.len() - switches <= 8, "seed {seed}: {:?}", lab.ends[0].switches);
    }
}

#[test]
fn a_relay_that_is_gone_does_not_matter_to_a_direct_path() {
    let mut lab = direct(1, [HOME, HOME]);
    lab.relay_up = false;
    lab.run(lab.now + second(60));
    assert!(lab.both_direct());
    assert!(lab.longest_gap() <= ms(100), "{:?}", lab.longest_gap());
}

#[test]
fn an_idle_path_costs_35_bytes_a_second_at_most_and_stays() {
    for (kinds, family) in [([HOME, HOME], 28), ([NodeKind { families: Families::V6, ..HOME }; 2], 48)] {
        let mut lab = direct(3, kinds);
        lab.talking = false;
        lab.run(lab.now + second(30));
        let before: usize = lab.ends.iter().map(|e| e.direct_bytes + e.direct_packets * family).sum();
        lab.run(lab.now + second(600));
        let after: usize = lab.ends.iter().map(|e| e.direct_bytes + e.direct_packets * family).sum();
        assert!(lab.both_direct());
        // Both directions of the path together.
        let rate = (after - before) as f64 / 600.0;
        assert!(rate <= 35.0, "{rate} B/s");
    }
}

#[test]
fn a_cut_of_the_home_line_for_a_moment_is_no_end() {
    for seed in 0..10 {
        let mut lab = direct(seed, [HOME, HOME]);
        for way in Way::BOTH {
            lab.pair.network.set_cut(lab.pair.a.routers[0], way, true).unwrap();
        }
        lab.run(lab.now + second(3));
        for way in Way::BOTH {
            lab.pair.network.set_cut(lab.pair.a.routers[0], way, false).unwrap();
        }
        let from = lab.now;
        assert!(lab.until(from + second(2), |l| l.ends.iter().all(|e| e.heard > from)), "seed {seed}");
        assert!(lab.until(from + second(35), Lab::both_direct), "seed {seed}");
    }
}

#[test]
fn behind_nats_and_firewalls_both_ends_are_direct_three_round_trips_after_the_first_data() {
    for kind in [Kind::Firewall, HOME.kind, Kind::Public] {
        for delay in [0, 2, 5, 10, 25, 100].map(ms) {
            let kinds = [NodeKind { kind, families: Families::V4 }; 2];
            let mut lab = Lab::new(1, kinds, Relation::Apart, Impairment { delay, ..Impairment::default() });
            assert!(lab.until(second(20), |l| l.ends.iter().all(|e| e.heard > Duration::ZERO)));
            let first = lab.now;
            assert!(lab.until(second(20), Lab::both_direct));
            let (round_trip, took) = (delay * 4, lab.now - first);
            // Checks to several addresses of a peer go out one after another.
            assert!(took <= round_trip * 3 + ms(50), "{kind:?}, round trip {round_trip:?}: {took:?}");
        }
    }
}
