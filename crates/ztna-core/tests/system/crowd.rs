//! An identity that takes all the sessions a relay gives it and begins inner handshakes on them as fast as it can: others get in, and
//! what it costs the connector has a bound.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ztna_core::quic::endpoint::random_cid;
use ztna_core::quic::{Connection, Event, Fields, Kind, StreamId, TlsConfig, field};
use ztna_core::role::{Action, Arrival, Machine, Notice, State, Transmit};
use ztna_core::trust::{Protocol, Snapshot};
use ztna_core::wire::connect_udp;
use ztna_core::{Error, Role};

use super::world::{Outcome, World, node_at, relay_at};

/// Addresses that inner connections name: what they are does not matter.
const HERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);
/// Sessions that a relay gives one connection of an agent, and one agent to one connector.
const PER_CONNECTION: usize = 256;
const PER_PAIR: usize = 512;
/// Sessions that a relay gives one agent to one connector a second, after all of those and a second's worth at once.
const A_SECOND: f64 = 32.0;
/// Handshakes that a session is good for.
const PER_SESSION: usize = 4;
/// Initials that each connection of the crowd sends a turn.
const A_TURN: usize = 16;
const BOB: [u8; 2] = [8, 9];
const NEWCOMERS: [u8; 3] = [1, 3, 4];

/// One outer connection with sessions to c1. Each packet that it sends on one is the first of a handshake of its own.
struct Crowd {
    outer: TlsConfig,
    inner: TlsConfig,
    conn: Connection,
    /// By stream: Initials begun on it.
    sessions: BTreeMap<StreamId, u32>,
    asked: usize,
    ready: bool,
    /// Which session is next.
    turn: usize,
}

impl Crowd {
    fn new(snapshot: &Arc<Snapshot>, relay: SocketAddr) -> Crowd {
        let mut outer = TlsConfig::new(Kind::OuterClient, snapshot).unwrap();
        let conn = Connection::connect(&mut outer, random_cid(None), "r1.relay.example.test", HERE, relay).unwrap();
        let inner = TlsConfig::new(Kind::InnerClient, snapshot).unwrap();
        Crowd { outer, inner, conn, sessions: BTreeMap::new(), asked: 0, ready: false, turn: 0 }
    }

    /// Asks for as many sessions as it may have, a few at a time.
    fn ask(&mut self) {
        let path = connect_udp::target_path("c1.connector.example.test", 443);
        let fields: Fields = [
            (":method", "CONNECT"),
            (":protocol", "connect-udp"),
            (":scheme", "https"),
            (":authority", "r1.relay.example.test"),
            (":path", &path),
            ("capsule-protocol", "?1"),
        ]
        .map(|(n, v)| (n.to_owned(), v.to_owned()))
        .to_vec();
        while self.ready && self.asked < 8 && self.sessions.len() + self.asked < PER_CONNECTION {
            let Ok(Some(_)) = self.conn.request(&fields, false) else { return };
            self.asked += 1;
        }
    }

    /// Gives up a session that the connector takes no more from, so that a fresh one takes its place.
    fn give_up_one(&mut self) {
        let worn = self.sessions.iter().find(|(_, n)| **n >= PER_SESSION as u32).map(|(s, _)| *s);
        if let Some(stream) = worn {
            self.sessions.remove(&stream);
            self.conn.reset(stream, 0x10c);
        }
    }

    /// Sends first packets of handshakes, session by session: how many.
    fn begin(&mut self) -> usize {
        let mut begun = 0;
        while begun < A_TURN && !self.conn.dgram_full() && !self.sessions.is_empty() {
            self.turn = (self.turn + 1) % self.sessions.len();
            let (stream, n) = self.sessions.iter_mut().nth(self.turn).unwrap();
            let name = "c1.connector.example.test";
            let mut c = Connection::connect(&mut self.inner, random_cid(None), name, HERE, HERE).unwrap();
            let mut frame = Vec::new();
            connect_udp::datagram_header(*stream, 0, &mut frame);
            assert!(c.send_burst(&mut frame, 1).is_some());
            self.conn.dgram_send(frame);
            *n += 1;
            begun += 1;
        }
        begun
    }
}

impl Machine for Crowd {
    fn handle_packets(&mut self, _now: Instant, arrival: Arrival, burst: &mut [u8]) {
        self.conn.recv(burst, arrival.from);
    }
    fn handle_timeout(&mut self, _now: Instant) {
        self.conn.on_timeout();
    }
    fn poll_timeout(&mut self) -> Option<Instant> {
        self.conn.timeout_instant()
    }
    fn process(&mut self, _now: Instant) {
        self.conn.process(&mut self.outer);
        while let Some(event) = self.conn.poll_event() {
            match event {
                Event::Ready => self.ready = true,
                Event::Headers { stream, fields, .. } => {
                    self.asked -= 1;
                    if field(&fields, ":status") == Some("200") {
                        self.sessions.insert(stream, 0);
                    }
                }
                Event::Reset { stream, .. } | Event::Finished { stream } => drop(self.sessions.remove(&stream)),
                _ => {}
            }
        }
        while self.conn.dgram_recv().is_some() {}
    }
    fn poll_action(&mut self) -> Option<Action> {
        None
    }
    fn poll_transmit(&mut self, _now: Instant, out: &mut Vec<u8>) -> Option<Transmit> {
        let (to, segment) = self.conn.send_burst(out, 32)?;
        Some(Transmit { socket: None, to, from: None, segment })
    }
    fn handle_snapshot(&mut self, _now: Instant, _snapshot: Arc<Snapshot>) {}
    fn shut_down(&mut self, _now: Instant, _within: Duration) {}
    fn state(&self) -> State {
        State::Online
    }
}

/// A turn in which the crowd changes spent sessions for new ones and begins handshakes: how many.
fn press(w: &mut World) -> usize {
    let mut begun = 0;
    for at in BOB.map(node_at) {
        let crowd = w.played::<Crowd>(at);
        crowd.give_up_one();
        crowd.ask();
        begun += crowd.begin();
    }
    w.turn();
    begun
}

/// A relay, a connector, three agents of alice's with 150 ms round trips, and bob with all the sessions he may have.
fn crowded() -> World {
    let mut w = World::new(1, &["c1"]);
    w.set_policy(r#"permit(principal, action == Action::"connect", resource == Service::"web");"#);
    w.start_relay(1);
    w.start_connector(node_at(2), "c1");
    let far = NEWCOMERS.map(node_at);
    w.delay = Box::new(move |from, to, _| match far.contains(&from) || far.contains(&to) {
        true => Duration::from_millis(75),
        false => Duration::ZERO,
    });
    for at in far {
        w.start_agent(at, "alice", None);
    }
    let bob = w.snapshot(Role::Agent, "bob");
    for at in BOB {
        w.play(node_at(at), Crowd::new(&bob, relay_at(1)));
    }
    let online = |w: &World| far.iter().all(|at| w.agent(*at).node().ready_legs().next().is_some());
    assert!(w.until(online));
    let all = w.until_with(|w| {
        BOB.iter().for_each(|at| w.played::<Crowd>(node_at(*at)).ask());
        w.relay(relay_at(1)).sessions().len() == PER_PAIR
    });
    assert!(all, "{} sessions", w.relay(relay_at(1)).sessions().len());
    w
}

#[test]
fn an_agent_that_begins_handshakes_on_all_its_sessions_costs_a_newcomer_none() {
    let mut w = crowded();
    let mut begun = 0;
    while begun < 3 * PER_PAIR {
        begun += press(&mut w);
    }
    for at in NEWCOMERS.map(node_at) {
        let flow = w.open(at, "web", Protocol::Tcp, Duration::from_secs(4));
        let asked = Instant::now();
        while !w.outcomes.contains_key(&flow) {
            press(&mut w);
        }
        assert_eq!(w.outcomes.get(&flow), Some(&Outcome::Opened));
        // Two or three round trips. A first packet that was dropped is sent again after a second.
        assert!(asked.elapsed() < Duration::from_millis(1_800), "{:?}", asked.elapsed());
    }
    let warned = w.notices.iter().filter(|(at, n)| {
        *at == node_at(2)
            && matches!(n, Notice::Warning(Error::Limit(t)) if t.contains("relay `r1`") && t.contains("handshakes"))
    });
    assert_eq!(warned.count(), 1, "{:?}", w.notices);
}

#[test]
fn the_handshakes_that_an_agent_can_make_a_connector_begin_have_a_rate() {
    let mut w = crowded();
    let start = Instant::now();
    let mut begun = 0;
    while start.elapsed() < Duration::from_secs(4) {
        begun += press(&mut w);
    }
    let within = start.elapsed().as_secs_f64();
    // What is under way arrives.
    let quiet = Instant::now() + Duration::from_millis(200);
    assert!(w.until(|_| Instant::now() > quiet));
    let dropped = w.connector(node_at(2)).node().counters.drops["handshakes"] as usize;
    let taken = begun - dropped;
    let may = PER_SESSION * (PER_PAIR + (A_SECOND * (within + 1.0)) as usize);
    assert!(taken >= 2 * PER_PAIR && taken <= may, "{taken} of {begun}, {may} are allowed");
    assert!(begun > 2 * may, "only {begun} were begun");
}
