//! Whole networks under seeded bad weather: loss, delay, cuts, deaf forwarding, relays and connectors killed and started again.
//! No byte is wrong or early at its end, every request is answered in its time, and when the weather clears all works again.
//!
//! A seed that failed is kept by number in [`KEPT`].

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::rng::{Rng, seeds};
use super::traffic::{Load, assert_arrived, each_on_virtual_time};
use super::world::{Outcome, World, node_at, relay_at};

/// How long the disturbance lasts, and after it everything must be well within.
const STORM: Duration = Duration::from_millis(1_500);
const RECOVERY: Duration = Duration::from_secs(14);
/// A request's own timeout, and what may pass until its owner hears of it.
const TIMEOUT: Duration = Duration::from_secs(4);
const SLACK: Duration = Duration::from_millis(500);

/// Seeds that once failed, and why.
const KEPT: &[u64] = &[];

const RELAYS: u8 = 2;
const CONNECTORS: [(u8, &str); 2] = [(2, "c1"), (3, "c2")];
const ALICE: u8 = 1;

#[derive(Debug, Clone, Copy)]
enum Event {
    /// Percent of all packets.
    Loss(usize),
    /// Each packet is late by up to so many milliseconds: it reorders, too.
    Delay(usize),
    /// Nothing passes between the two.
    Cut(SocketAddr, SocketAddr),
    /// Relays lose every raw inner packet.
    Deaf(bool),
    Heal,
    Kill(SocketAddr),
    Start(SocketAddr),
    Open,
}

struct Weather {
    rng: Rng,
    loss: usize,
    delay: usize,
    cuts: Vec<(SocketAddr, SocketAddr)>,
    deaf: bool,
    inner: BTreeSet<[u8; 8]>,
}

impl Weather {
    fn loses(&mut self, from: SocketAddr, to: SocketAddr, packet: &[u8]) -> bool {
        let raw = || {
            packet.first().is_some_and(|b| b & 0x80 == 0)
                && packet.get(1..9).is_some_and(|d| self.inner.iter().any(|c| c.as_slice() == d))
        };
        self.cuts.iter().any(|c| *c == (from, to) || *c == (to, from))
            || (self.deaf && raw())
            || self.rng.percent(self.loss)
    }
}

struct Case {
    w: World,
    weather: Rc<RefCell<Weather>>,
    start: Instant,
    events: Vec<(Duration, Event)>,
    loads: Vec<(Load, Instant)>,
    seed: u64,
    connector_killed: bool,
    last: Option<usize>,
    calm: bool,
}

impl Case {
    fn new(seed: u64) -> Case {
        let mut rng = Rng::new(seed);
        let names: Vec<&str> = CONNECTORS.iter().map(|c| c.1).collect();
        let mut w = World::new(RELAYS, &names);
        if rng.percent(15) {
            w.tunnel_only();
        }
        let weather = Rc::new(RefCell::new(Weather {
            rng: Rng::new(!seed),
            loss: 0,
            delay: 0,
            cuts: Vec::new(),
            deaf: false,
            inner: BTreeSet::new(),
        }));
        let (lose, late) = (weather.clone(), weather.clone());
        w.lose = Box::new(move |from, to, packet| lose.borrow_mut().loses(from, to, packet));
        w.delay = Box::new(move |_, _, _| {
            let mut weather = late.borrow_mut();
            let most = weather.delay + 1;
            Duration::from_millis(weather.rng.below(most) as u64)
        });
        let mut c = Case {
            w,
            weather,
            start: Instant::now(),
            events: Vec::new(),
            loads: Vec::new(),
            seed,
            connector_killed: false,
            last: None,
            calm: false,
        };
        let mut all: Vec<SocketAddr> = (1..=RELAYS).map(relay_at).collect();
        all.extend(CONNECTORS.iter().map(|c| node_at(c.0)));
        all.push(node_at(ALICE));
        // In any order: half of them start into the storm.
        for i in (1..all.len()).rev() {
            all.swap(i, rng.below(i + 1));
        }
        for at in &all {
            let when = Duration::from_millis(if rng.percent(70) { 0 } else { rng.below(400) as u64 });
            if *at == node_at(ALICE) || when.is_zero() {
                c.start_node(*at);
            } else {
                c.events.push((when, Event::Start(*at)));
            }
        }
        for _ in 0..3 + rng.below(6) {
            let when = Duration::from_millis(rng.below(1_200) as u64);
            let later = when + Duration::from_millis(50 + rng.below(600) as u64);
            let relay = relay_at(1 + rng.below(usize::from(RELAYS)) as u8);
            let connector = node_at(CONNECTORS[rng.below(2)].0);
            match rng.below(8) {
                0 => c.events.push((when, Event::Loss(1 + rng.below(30)))),
                1 => c.events.push((when, Event::Delay(1 + rng.below(60)))),
                2 => {
                    let node = if rng.percent(50) { node_at(ALICE) } else { connector };
                    c.events.push((when, Event::Cut(node, relay)));
                }
                3 => {
                    c.events.extend([(when, Event::Deaf(true)), (later, Event::Deaf(false))]);
                }
                4 | 5 => c.events.extend([(when, Event::Kill(relay)), (later, Event::Start(relay))]),
                6 => c.events.extend([(when, Event::Kill(connector)), (later, Event::Start(connector))]),
                _ => c.events.push((when, Event::Heal)),
            }
        }
        for _ in 0..3 {
            c.events.push((Duration::from_millis(rng.below(1_000) as u64), Event::Open));
        }
        c.events.sort_by_key(|e| e.0);
        c
    }

    fn start_node(&mut self, at: SocketAddr) {
        if self.w.has(at) {
            return;
        }
        if at == node_at(ALICE) {
            self.w.start_agent(at, "alice", None);
        } else if let Some((_, name)) = CONNECTORS.iter().find(|c| node_at(c.0) == at) {
            self.w.start_connector(at, name);
        } else {
            let n = (1..=RELAYS).find(|n| relay_at(*n) == at).unwrap();
            self.w.start_relay(n);
        }
    }

    fn open(&mut self, timeout: Duration) {
        let (n, seed) = (self.loads.len() as u64, self.seed);
        let load = Load::open(&mut self.w, node_at(ALICE), seed << 8 | n, 40_000, timeout);
        self.loads.push((load, Instant::now() + timeout + SLACK));
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Loss(percent) => self.weather.borrow_mut().loss = percent,
            Event::Delay(most) => self.weather.borrow_mut().delay = most,
            Event::Cut(a, b) => self.weather.borrow_mut().cuts.push((a, b)),
            Event::Deaf(deaf) => self.weather.borrow_mut().deaf = deaf,
            Event::Heal => {
                let mut weather = self.weather.borrow_mut();
                weather.cuts.clear();
                (weather.loss, weather.delay, weather.deaf) = (0, 0, false);
            }
            Event::Kill(at) => {
                self.connector_killed |= CONNECTORS.iter().any(|c| node_at(c.0) == at);
                self.w.kill(at);
            }
            Event::Start(at) => self.start_node(at),
            Event::Open => self.open(TIMEOUT),
        }
    }

    /// One turn: whether anything moved, and whether the case is over.
    fn step(&mut self) -> (bool, bool) {
        let since = self.start.elapsed();
        while self.events.first().is_some_and(|e| e.0 <= since) {
            let (_, event) = self.events.remove(0);
            self.happen(event);
        }
        if !self.calm && since >= STORM {
            self.calm = true;
            self.happen(Event::Heal);
            let all = (1..=RELAYS).map(relay_at).chain(CONNECTORS.iter().map(|c| node_at(c.0)));
            all.for_each(|at| self.start_node(at));
            self.last = Some(self.loads.len());
            self.open(RECOVERY);
        }
        if self.weather.borrow().deaf {
            let links = self.w.agent(node_at(ALICE)).node().links.iter();
            let cids = links.flat_map(|(_, l)| [Some(l.conn.scid().0), l.conn.dcid().map(|c| c.0)]).flatten();
            self.weather.borrow_mut().inner.extend(cids);
        }
        self.loads.iter_mut().for_each(|(l, _)| l.pump(&mut self.w));
        let moved = self.w.step();
        self.judge(moved)
    }

    fn next(&mut self) -> Option<Instant> {
        let event = self.events.first().map(|e| self.start + e.0);
        self.w.next_deadline().into_iter().chain(event).min()
    }

    fn judge(&mut self, moved: bool) -> (bool, bool) {
        let seed = self.seed;
        let now = Instant::now();
        let mut open = 0;
        for (i, (load, deadline)) in self.loads.iter().enumerate() {
            let verdict = load.verdict(&self.w);
            if now > *deadline {
                assert!(self.w.outcomes.contains_key(&load.flow), "seed {seed}: request {i} was never answered");
            }
            if Some(i) == self.last {
                match &verdict {
                    Some(Err(e)) => panic!("seed {seed}: after the storm a flow failed: {e}"),
                    Some(Ok(())) => {}
                    None => assert!(
                        now < *deadline,
                        "seed {seed}: after the storm a flow has not ended: {:?}, agent {:?}",
                        self.w.outcomes.get(&load.flow),
                        self.w.agent(node_at(ALICE)).node().state
                    ),
                }
            }
            open += usize::from(verdict.is_none());
        }
        // A flow on a connector that was killed is known to be dead at its connection's idle timeout only.
        let waits = self.connector_killed
            && self.last.is_some_and(|l| self.loads[l].0.verdict(&self.w).is_some())
            && self.loads.iter().all(|(l, _)| self.w.outcomes.contains_key(&l.flow));
        let over = self.last.is_some() && (open == 0 || waits);
        if !over {
            assert!(
                self.start.elapsed() < STORM + RECOVERY + SLACK,
                "seed {seed}: {open} flows neither end nor fail: {:?}",
                self.w.outcomes.values().filter(|o| **o != Outcome::Opened).collect::<Vec<_>>()
            );
        } else {
            assert_arrived(&self.w, self.loads.iter().map(|(l, _)| l));
        }
        (moved, over)
    }
}

fn storm(range: std::ops::Range<u64>) {
    each_on_virtual_time(range, Case::new, Case::step, Case::next);
}

#[test]
fn what_a_storm_leaves_is_whole_and_all_comes_back() {
    storm(seeds(0, 100));
}

#[test]
fn what_another_storm_leaves_is_whole_and_all_comes_back() {
    storm(seeds(1 << 20, 100));
}

#[test]
fn storms_that_once_did_harm_do_none() {
    KEPT.iter().for_each(|seed| storm(*seed..*seed + 1));
}
