//! A relay that does not keep to its part: it speaks the outer protocol with a relay's own certificate, and does with inner
//! packets what a test tells it to.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ztna_core::quic::endpoint::random_cid;
use ztna_core::quic::{Connection, Event, Fields, Kind, Router, StreamId, TlsConfig, Wrote, field};
use ztna_core::role::{Action, Arrival, Machine, State, Transmit};
use ztna_core::trust::Snapshot;
use ztna_core::wire::capsule::{Capsule, CapsuleReader};
use ztna_core::wire::cid::Cid;
use ztna_core::wire::connect_udp;
use ztna_core::wire::quic_header::{self, Header};

/// Where an inner packet was going.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Toward {
    Agent,
    Connector,
}

/// Inner packets that go on in place of one that came.
pub type Mangle = Box<dyn FnMut(Toward, &[u8]) -> Vec<(Toward, Vec<u8>)>>;

/// Addresses that the relay's own inner connections name: what they are does not matter.
const HERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);
const THERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 2);

/// Which end of inner connections the relay itself plays.
enum Play {
    None,
    Connector(TlsConfig),
    Agent(TlsConfig),
}

struct Leg {
    conn: Connection,
    at: SocketAddr,
    name: String,
    bind: Option<StreamId>,
    readers: BTreeMap<StreamId, CapsuleReader>,
    out: BTreeMap<StreamId, Vec<u8>>,
}

struct Session {
    agent: Option<(usize, StreamId)>,
    connector: (usize, StreamId, u64),
    /// The relay's own end of an inner connection on it.
    own: Option<Connection>,
}

pub struct HostileRelay {
    tls: TlsConfig,
    legs: Vec<Leg>,
    router: Router<usize>,
    sessions: Vec<Session>,
    /// Registered connection ID → session, and the end that it belongs to.
    forwarding: BTreeMap<Cid, (usize, Toward)>,
    pub mangle: Mangle,
    /// Grants sessions and ends each at once: how many so far.
    pub ends_sessions: Option<usize>,
    /// The connector that an agent is taken to, by the one it asked for.
    pub route: Box<dyn Fn(&str) -> String>,
    play: Play,
    /// Raw bytes that the relay writes to a connector's bind stream, or to an agent's session, once it is there.
    pub capsules: Vec<u8>,
    raw: VecDeque<(Vec<u8>, SocketAddr)>,
    next_context: u64,
    pub seen: Vec<String>,
    /// What its own inner connections told it.
    pub events: Vec<Event>,
}

impl HostileRelay {
    pub fn new(snapshot: &Arc<Snapshot>) -> HostileRelay {
        HostileRelay {
            tls: TlsConfig::new(Kind::OuterServer, snapshot).unwrap(),
            legs: Vec::new(),
            router: Router::default(),
            ends_sessions: None,
            sessions: Vec::new(),
            forwarding: BTreeMap::new(),
            mangle: Box::new(|toward, packet| vec![(toward, packet.to_vec())]),
            route: Box::new(str::to_owned),
            play: Play::None,
            capsules: Vec::new(),
            raw: VecDeque::new(),
            next_context: 1,
            seen: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Answers inner handshakes of agents itself, with the certificate of `snapshot`.
    pub fn play_connector(&mut self, snapshot: &Arc<Snapshot>) {
        self.play = Play::Connector(TlsConfig::new(Kind::InnerServer, snapshot).unwrap());
    }

    /// Opens an inner connection to every connector that binds, with the certificate of `snapshot`.
    pub fn play_agent(&mut self, snapshot: &Arc<Snapshot>) {
        self.play = Play::Agent(TlsConfig::new(Kind::InnerClient, snapshot).unwrap());
    }

    /// Sends bytes on a connector's bind stream.
    pub fn write_bind(&mut self, bytes: &[u8]) {
        if let Some(leg) = self.legs.iter_mut().rev().find(|l| l.bind.is_some() && !l.conn.is_closed()) {
            let stream = leg.bind.unwrap();
            leg.out.entry(stream).or_default().extend_from_slice(bytes);
        }
    }

    /// Sends a DATAGRAM on a connector's bind.
    pub fn datagram_bind(&mut self, context: u64, packet: &[u8]) {
        if let Some(leg) = self.legs.iter_mut().rev().find(|l| l.bind.is_some() && !l.conn.is_closed()) {
            let mut frame = Vec::new();
            connect_udp::datagram_header(leg.bind.unwrap(), context, &mut frame);
            frame.extend_from_slice(packet);
            leg.conn.dgram_send(frame);
        }
    }

    /// Resets the streams of all agents' sessions.
    pub fn end_all_sessions(&mut self) {
        for (leg, stream) in self.sessions.drain(..).filter_map(|s| s.agent) {
            self.legs[leg].conn.reset(stream, 0x10f);
        }
    }

    /// Its own end of an inner connection.
    pub fn own(&mut self) -> &mut Connection {
        self.sessions.iter_mut().find_map(|s| s.own.as_mut()).unwrap()
    }

    /// Whether a connector is bound and its bind stream takes more.
    pub fn bind_idle(&self) -> bool {
        self.legs.iter().any(|l| l.bind.is_some_and(|b| l.out.get(&b).is_none_or(Vec::is_empty)) && !l.conn.is_closed())
    }

    fn event(&mut self, key: usize, event: Event) {
        match event {
            Event::Established(peer) => self.legs[key].name = peer.id.name().to_owned(),
            Event::Headers { stream, fields, .. } => self.request(key, stream, &fields),
            Event::Data { stream } => self.read(key, stream),
            Event::Finished { .. }
            | Event::Reset { .. }
            | Event::Malformed { .. }
            | Event::Writable { .. }
            | Event::Ready
            | Event::GoAway
            | Event::Migrated(_) => {}
            Event::Closed(why) => self.seen.push(format!("outer {}: {why:?}", self.legs[key].name)),
        }
    }

    fn request(&mut self, key: usize, stream: StreamId, fields: &Fields) {
        let leg = &mut self.legs[key];
        let mut answer = vec![(":status".into(), "200".into()), ("capsule-protocol".into(), "?1".into())];
        match connect_udp::parse_path(field(fields, ":path").unwrap_or_default()) {
            Ok(connect_udp::Target::Bind) => {
                answer.push(("connect-udp-bind".into(), "?1".into()));
                leg.conn.respond(stream, answer, false);
                leg.bind = Some(stream);
                leg.readers.insert(stream, CapsuleReader::default());
                let bytes = std::mem::take(&mut self.capsules);
                leg.out.entry(stream).or_default().extend_from_slice(&bytes);
                if matches!(self.play, Play::Agent(_)) {
                    self.begin(key, stream, None);
                }
            }
            Ok(connect_udp::Target::Host { .. }) if self.ends_sessions.is_some() => {
                leg.conn.respond(stream, answer, false);
                leg.conn.reset(stream, 0x10f);
                self.ends_sessions = self.ends_sessions.map(|n| n + 1);
            }
            Ok(connect_udp::Target::Host { host, .. }) => {
                let wanted = (self.route)(host.split('.').next().unwrap_or_default());
                let bound = self
                    .legs
                    .iter()
                    .enumerate()
                    .rev()
                    .find_map(|(k, l)| Some((k, l.bind.filter(|_| l.name == wanted && !l.conn.is_closed())?)));
                let leg = &mut self.legs[key];
                let Some((connector, bind)) = bound else {
                    return leg.conn.refuse(stream, vec![(":status".into(), "404".into())]);
                };
                leg.conn.respond(stream, answer, false);
                leg.readers.insert(stream, CapsuleReader::default());
                self.begin(connector, bind, Some((key, stream)));
            }
            Err(_) => leg.conn.refuse(stream, vec![(":status".into(), "400".into())]),
        }
    }

    fn begin(&mut self, connector: usize, bind: StreamId, agent: Option<(usize, StreamId)>) {
        let context = self.next_context;
        self.next_context += 2;
        let target = Some(SocketAddr::from(([10, 0, 0, 1], 1)));
        self.capsule(connector, bind, &Capsule::CompressionAssign { context_id: context, target });
        let own = match (&mut self.play, agent) {
            (Play::Agent(tls), None) => {
                Some(Connection::connect(tls, random_cid(None), "c1.connector.example.test", HERE, THERE).unwrap())
            }
            _ => None,
        };
        self.sessions.push(Session { agent, connector: (connector, bind, context), own });
    }

    fn capsule(&mut self, key: usize, stream: StreamId, capsule: &Capsule) {
        capsule.encode(self.legs[key].out.entry(stream).or_default());
    }

    fn read(&mut self, key: usize, stream: StreamId) {
        let mut buf = [0u8; 4_096];
        loop {
            let leg = &mut self.legs[key];
            let n = leg.conn.read(stream, &mut buf);
            if n == 0 {
                return;
            }
            let Some(reader) = leg.readers.get_mut(&stream) else { continue };
            reader.push(&buf[..n]);
            let mut all = Vec::new();
            while let Ok(Some(capsule)) = reader.next() {
                all.push(capsule);
            }
            for capsule in all {
                self.on_capsule(key, stream, capsule);
            }
        }
    }

    fn session_of(&self, key: usize, stream: StreamId, context: u64) -> Option<(usize, Toward)> {
        self.sessions.iter().enumerate().find_map(|(i, s)| {
            if s.agent == Some((key, stream)) && context == 0 {
                Some((i, Toward::Agent))
            } else if s.connector == (key, stream, context) {
                Some((i, Toward::Connector))
            } else {
                None
            }
        })
    }

    fn on_capsule(&mut self, key: usize, stream: StreamId, capsule: Capsule) {
        match capsule {
            Capsule::RegisterCid { context_id, cid } => {
                let Some((session, end)) = self.session_of(key, stream, context_id) else { return };
                self.forwarding.insert(cid, (session, end));
                let s = &self.sessions[session];
                let (agent, (connector, bind, context)) = (s.agent, s.connector);
                if let Some((agent, stream)) = agent {
                    self.capsule(agent, stream, &Capsule::AckCid { context_id: 0, cid });
                    self.capsule(connector, bind, &Capsule::AckCid { context_id: context, cid });
                }
            }
            Capsule::Datagram(payload) => {
                if let Some((context, header)) = connect_udp::split_context(&payload) {
                    self.tunnelled(key, stream, context, &payload[header..]);
                }
            }
            _ => {}
        }
    }

    fn tunnelled(&mut self, key: usize, stream: StreamId, context: u64, packet: &[u8]) {
        let Some((session, from)) = self.session_of(key, stream, context) else { return };
        let toward = if from == Toward::Agent { Toward::Connector } else { Toward::Agent };
        let s = &mut self.sessions[session];
        match (&mut self.play, toward) {
            (Play::Connector(tls), Toward::Connector) => {
                if s.own.is_none() {
                    s.own = Connection::accept(tls, random_cid(None), None, None, HERE, THERE).ok();
                }
                if let Some(own) = s.own.as_mut() {
                    own.recv(&mut packet.to_vec(), THERE);
                }
            }
            (Play::Agent(_), Toward::Agent) => {
                if let Some(own) = s.own.as_mut() {
                    own.recv(&mut packet.to_vec(), THERE);
                }
            }
            _ => {
                for (toward, packet) in (self.mangle)(toward, packet) {
                    self.tunnel(session, toward, &packet);
                }
            }
        }
    }

    fn tunnel(&mut self, session: usize, toward: Toward, packet: &[u8]) {
        let s = &self.sessions[session];
        let (key, stream, context) = match toward {
            Toward::Connector => s.connector,
            Toward::Agent => match s.agent {
                Some((key, stream)) => (key, stream, 0),
                None => return,
            },
        };
        let mut frame = Vec::with_capacity(packet.len() + 10);
        connect_udp::datagram_header(stream, context, &mut frame);
        frame.extend_from_slice(packet);
        self.legs[key].conn.dgram_send(frame);
    }

    /// A raw inner packet: on to the end that registered its connection ID.
    fn forward(&mut self, cid: &Cid, packet: &[u8]) {
        let Some(&(session, toward)) = self.forwarding.get(cid) else { return };
        for (toward, packet) in (self.mangle)(toward, packet) {
            let s = &self.sessions[session];
            let leg = match toward {
                Toward::Connector => Some(s.connector.0),
                Toward::Agent => s.agent.map(|a| a.0),
            };
            if let Some(leg) = leg {
                self.raw.push_back((packet, self.legs[leg].at));
            }
        }
    }

    /// Its own ends of inner connections: whatever they are let to do, they do.
    fn drive_own(&mut self) {
        let mut out = Vec::new();
        for (i, s) in self.sessions.iter_mut().enumerate() {
            let (Some(own), Play::Connector(tls) | Play::Agent(tls)) = (s.own.as_mut(), &mut self.play) else {
                continue;
            };
            own.on_timeout();
            own.process(tls);
            while let Some(event) = own.poll_event() {
                if self.seen.len() < 1_000 {
                    self.seen.push(format!("inner: {event:?}"));
                }
                self.events.push(event);
            }
            let toward = if own.kind() == Kind::InnerServer { Toward::Agent } else { Toward::Connector };
            let mut packet = Vec::new();
            while own.send_burst(&mut packet, 1).is_some() {
                out.push((i, toward, std::mem::take(&mut packet)));
            }
        }
        for (session, toward, packet) in out {
            self.tunnel(session, toward, &packet);
        }
    }

    fn flush(&mut self) {
        for leg in &mut self.legs {
            for (stream, bytes) in &mut leg.out {
                while !bytes.is_empty() {
                    match leg.conn.write(*stream, bytes, false) {
                        Wrote::Bytes(n) => drop(bytes.drain(..n)),
                        Wrote::Blocked => break,
                        Wrote::Stopped(_) | Wrote::Gone => bytes.clear(),
                    }
                }
            }
        }
    }
}

impl Machine for HostileRelay {
    fn handle_packets(&mut self, _now: Instant, arrival: Arrival, burst: &mut [u8]) {
        let key = match quic_header::parse(burst) {
            Some(Header::Short { dcid }) => match self.router.get(&dcid) {
                Some(key) => key,
                None => return self.forward(&dcid, burst),
            },
            Some(Header::Long { dcid, is_initial, .. }) => match self.router.get_long(dcid) {
                Some(key) => key,
                None if is_initial => {
                    let scid = random_cid(None);
                    let conn = Connection::accept(&mut self.tls, scid, None, None, arrival.from, arrival.from).unwrap();
                    let key = self.legs.len();
                    self.router.insert(scid, key);
                    self.router.insert_initial(dcid, key);
                    self.legs.push(Leg {
                        conn,
                        at: arrival.from,
                        name: String::new(),
                        bind: None,
                        readers: BTreeMap::new(),
                        out: BTreeMap::new(),
                    });
                    key
                }
                None => return,
            },
            None => return,
        };
        self.legs[key].conn.recv_at(burst, arrival.from, arrival.from);
    }

    fn handle_timeout(&mut self, _now: Instant) {
        self.legs.iter_mut().for_each(|l| l.conn.on_timeout());
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        self.legs.iter().filter_map(|l| l.conn.timeout_instant()).min()
    }

    fn process(&mut self, _now: Instant) {
        for key in 0..self.legs.len() {
            self.legs[key].conn.process(&mut self.tls);
            while let Some(event) = self.legs[key].conn.poll_event() {
                self.event(key, event);
            }
            while let Some(frame) = self.legs[key].conn.dgram_recv() {
                let Some((stream, header)) = connect_udp::parse_datagram(&frame) else { continue };
                let Some((context, more)) = connect_udp::split_context(&frame[header..]) else { continue };
                self.tunnelled(key, stream, context, &frame[header + more..]);
            }
        }
        self.drive_own();
        self.flush();
    }

    fn poll_action(&mut self) -> Option<Action> {
        None
    }

    fn poll_transmit(&mut self, _now: Instant, out: &mut Vec<u8>) -> Option<Transmit> {
        if let Some((bytes, to)) = self.raw.pop_front() {
            out.extend_from_slice(&bytes);
            return Some(Transmit { socket: None, to, from: None, segment: bytes.len() });
        }
        for leg in &mut self.legs {
            if let Some((_, segment)) = leg.conn.send_burst(out, 32) {
                return Some(Transmit { socket: None, to: leg.at, from: None, segment });
            }
        }
        None
    }

    fn handle_snapshot(&mut self, _now: Instant, _snapshot: Arc<Snapshot>) {}
    fn shut_down(&mut self, _now: Instant, _within: Duration) {}
    fn state(&self) -> State {
        State::Online
    }
}
