//! A network that loses packets and whose processes die, by a seed. Whatever happens, bytes arrive whole and in order or not at all,
//! and once it is quiet again flows open. The seed fixes what is done, not how quiche's timers interleave: those read the real clock.
//!
//! Two seeds run in `cargo test`; `ZTNA_CHAOS_SECONDS=600` goes on with further ones for that long, and `ZTNA_CHAOS_SEED=7` runs one.

use std::time::{Duration, Instant};

use super::rng::Rng;
use super::world::{Outcome, World, node_at, relay_at};
use ztna_core::FlowId;
use ztna_core::trust::Protocol;

/// What happens to the network of one seed.
const STEPS: u32 = 12;
/// From the last disturbance to a flow that opens: an idle time-out of an outer connection and of an inner one, and the pause
/// between two attempts.
const RECOVERY: Duration = Duration::from_secs(60);

#[test]
fn whatever_is_lost_killed_and_started_again_bytes_arrive_whole_and_flows_open_once_it_is_quiet() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    if let Some(seed) = number("ZTNA_CHAOS_SEED") {
        return survive(seed);
    }
    let until = Instant::now() + Duration::from_secs(number("ZTNA_CHAOS_SECONDS").unwrap_or(0));
    let mut seed = 1;
    while seed <= 2 || Instant::now() < until {
        survive(seed);
        println!("seed {seed} held");
        seed += 1;
    }
}

fn survive(seed: u64) {
    let mut dice = Rng::new(seed);
    let mut w = World::new(2, &["c1", "c2"]);
    w.start_relay(1);
    w.start_relay(2);
    w.start_connector(node_at(2), "c1");
    w.start_connector(node_at(3), "c2");
    w.start_agent(node_at(1), "alice", None);
    let mut sent: Vec<Sent> = Vec::new();
    for _ in 0..STEPS {
        match dice.below(7) {
            0 => lose(&mut w, dice.next(), dice.below(30)),
            1 => w.start_relay(1 + dice.below(2) as u8),
            2 => {
                let n = dice.below(2) as u8;
                w.start_connector(node_at(2 + n), &format!("c{}", n + 1));
            }
            3 => w.kill(relay_at(1 + dice.below(2) as u8)),
            4 => w.kill(node_at(2 + dice.below(2) as u8)),
            _ => {
                let flow = w.open(node_at(1), "web", Protocol::Tcp, Duration::from_secs(5));
                let count = 1 + dice.below(200_000);
                sent.push(Sent { flow, data: dice.bytes(count), written: 0 });
            }
        }
        // Each is written as far as it goes while the world turns: flows that are open, blocked, or gone.
        let until = Instant::now() + Duration::from_millis(50 + dice.below(250) as u64);
        while Instant::now() < until {
            feed(&mut w, &mut sent);
        }
        check(&w, &sent, seed);
    }
    w.lose = Box::new(|_, _, _| false);
    for n in [1, 2] {
        if !w.has(relay_at(n)) {
            w.start_relay(n);
        }
        if !w.has(node_at(1 + n)) {
            w.start_connector(node_at(1 + n), &format!("c{n}"));
        }
    }
    let until = Instant::now() + RECOVERY;
    loop {
        let flow = w.open(node_at(1), "web", Protocol::Tcp, Duration::from_secs(5));
        assert!(w.until(|w| w.outcomes.contains_key(&flow)), "seed {seed}: a flow has no outcome in twice its time");
        if w.outcomes.get(&flow) == Some(&Outcome::Opened) {
            w.write(node_at(1), flow, b"after all", true);
            assert!(w.until(|w| w.received.get(&flow).is_some_and(|b| b == b"after all")), "seed {seed}: no echo");
            break;
        }
        assert!(Instant::now() < until, "seed {seed}: {:?} when all is well again", w.outcomes.get(&flow));
    }
    check(&w, &sent, seed);
}

/// A flow and what goes into it.
struct Sent {
    flow: FlowId,
    data: Vec<u8>,
    written: usize,
}

/// One turn, in which each open flow takes what it can of what it has left.
fn feed(w: &mut World, sent: &mut [Sent]) {
    for Sent { flow, data, written } in sent.iter_mut() {
        if w.outcomes.get(flow) == Some(&Outcome::Opened) && *written < data.len() {
            *written += w.write_some(node_at(1), *flow, &data[*written..]);
        }
    }
    w.turn();
}

/// What came back is a beginning of what went out.
fn check(w: &World, sent: &[Sent], seed: u64) {
    for Sent { flow, data, written } in sent {
        let back = w.received.get(flow).map(Vec::as_slice).unwrap_or_default();
        assert!(data[..*written].starts_with(back), "seed {seed}: flow {flow:?} got bytes that it did not send");
    }
}

/// Loses `percent` of all packets from now on.
fn lose(w: &mut World, seed: u64, percent: usize) {
    let mut dice = Rng::new(seed);
    w.lose = Box::new(move |_, _, _| dice.percent(percent));
}
