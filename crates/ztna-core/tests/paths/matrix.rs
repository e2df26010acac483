//! Every pair of places two nodes can be in: whether a direct path comes about is what the oracle says.

use std::time::Duration;

use ztna_netlab::impairment::Impairment;
use ztna_netlab::sim::kinds::{Kind, NodeKind};
use ztna_netlab::sim::oracle::{Relation, Verdict, verdict};

use super::lab::{Lab, ms};

/// One way to the Internet: between two homes 20 ms (issue: Figures). `loss` in percent.
fn home(loss: u32) -> Impairment {
    Impairment { delay: ms(10), loss: loss * 10_000, ..Impairment::default() }
}

/// Seeds of each pair; `ZTNA_SEEDS` in the soak.
fn seeds() -> u64 {
    std::env::var("ZTNA_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

/// When both ends were on a direct path, if ever within `patience` from their start.
fn time_to_direct(seed: u64, a: NodeKind, b: NodeKind, relation: Relation, loss: u32, patience: Duration) -> Option<Duration> {
    let mut lab = Lab::new(seed, [a, b], relation, home(loss));
    lab.until(patience, Lab::both_direct).then_some(lab.now)
}

fn agrees(relation: Relation, loss: u32, pairs: impl Iterator<Item = (NodeKind, NodeKind)>) {
    let mut wrong = Vec::new();
    for (a, b) in pairs {
        for seed in 0..seeds() {
            let wanted = verdict(a.side(), b.side(), relation);
            let direct = time_to_direct(seed, a, b, relation, loss, Duration::from_secs(20));
            // Guessing has a test of its own.
            if direct.is_some() != (wanted == Verdict::Direct) {
                wrong.push(format!("{a:?} with {b:?}, seed {seed}, loss {loss} %: {wanted:?}, but {direct:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

fn all_pairs() -> impl Iterator<Item = (NodeKind, NodeKind)> {
    NodeKind::matrix().flat_map(|a| NodeKind::matrix().map(move |b| (a, b)))
}

#[test]
fn every_pair_of_places_gets_the_path_that_the_oracle_says() {
    agrees(Relation::Apart, 0, all_pairs());
}

#[test]
fn nodes_of_one_lan_are_direct_wherever_the_lan_is() {
    let same = NodeKind::matrix().flat_map(|a| {
        NodeKind::matrix().filter(move |b| b.kind == a.kind).map(move |b| (a, b))
    });
    agrees(Relation::SameLan, 0, same);
}

#[test]
fn homes_of_one_carrier_are_direct_where_it_hairpins() {
    for hairpin in [false, true] {
        let homes = NodeKind::matrix().filter(|n| n.kind == Kind::CarrierNat);
        let pairs = homes.clone().flat_map(|a| homes.clone().map(move |b| (a, b)));
        agrees(Relation::SameCarrier { hairpin }, 0, pairs);
    }
}
