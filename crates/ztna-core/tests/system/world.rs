//! A whole network in memory: relays, connectors and agents as machines, packets handed from one to the other. Echo services are
//! played by the connectors' side of this file. The only clock is the real one, which quiche reads.

use std::any::Any;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ztna_core::agent::Agent;
use ztna_core::connector::{Connector, Serve};
use ztna_core::node::{KeyLimit, ReceiveLimit};
use ztna_core::quic::Wrote;
use ztna_core::relay::{Relay, RelayConfig, Shared};
use ztna_core::role::{Action, Answer, Arrival, Machine, Notice, Open, PathPolicy, Target};
use ztna_core::trust::Protocol;
use ztna_core::trust::pki::{Ca, Issued};
use ztna_core::{Error, FlowId, Role, SpiffeId};

use super::hostile_relay::HostileRelay;
use super::played::Played;

mod echo;
mod publishing;

const DOMAIN: &str = "example.test";
const HOUR: Duration = Duration::from_secs(3_600);
pub const POLICY: &str =
    r#"permit(principal == Agent::"alice", action == Action::"connect", resource == Service::"web");"#;

/// Who a machine is, and the address that its packets come from.
enum Node {
    Agent(Box<Agent>),
    Connector(Box<Connector>),
    Relay(Box<Relay>),
    Hostile(Box<HostileRelay>),
    Played(Box<dyn Played>),
}

impl Node {
    fn machine(&mut self) -> &mut dyn Machine {
        match self {
            Node::Agent(m) => m.as_mut(),
            Node::Connector(m) => m.as_mut(),
            Node::Relay(m) => m.as_mut(),
            Node::Hostile(m) => m.as_mut(),
            Node::Played(m) => m.machine(),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Opened,
    Failed(Error),
    Reset(Error),
}

pub struct World {
    ca: Ca,
    /// By identity: a process that starts again has the certificate and key that it had.
    leaves: RefCell<BTreeMap<SpiffeId, Issued>>,
    network: String,
    policy: String,
    /// Of the snapshots that are made from now on.
    pub version: u64,
    /// Nodes reach each other, and those that start from now on know their addresses.
    pub direct: bool,
    /// Of the certificates that are issued from now on.
    pub life: Duration,
    /// Agents that start from now on may have their router asked for a port.
    pub maps_ports: bool,
    /// Nodes that wanted their router asked for a port, as often as they did.
    pub ports_wanted: Vec<SocketAddr>,
    /// NATs that give each destination another port: as what `to` sees packets of the node. Node and `to`, and that.
    pub translated: BTreeMap<(SocketAddr, SocketAddr), SocketAddr>,
    /// Sockets that nodes have beside their main one, where hosts give any.
    pub sockets: BTreeSet<(SocketAddr, usize)>,
    pub gives_sockets: bool,
    /// Sockets are opened, and nodes told of it by [`give_sockets`](Self::give_sockets) only.
    pub holds_sockets_back: bool,
    held_back: Vec<(SocketAddr, u64, usize)>,
    nodes: BTreeMap<SocketAddr, Node>,
    relays: BTreeMap<SocketAddr, Arc<Shared>>,
    pub outcomes: BTreeMap<FlowId, Outcome>,
    /// Bytes that an agent's flow has received.
    pub received: BTreeMap<FlowId, Vec<u8>>,
    /// Connectors' UDP flows that their agents have ended.
    pub ended: BTreeSet<(SocketAddr, FlowId)>,
    /// Agents' flows whose stream has come to its clean end.
    pub finished: BTreeSet<FlowId>,
    /// Bytes that a connector's flow has received, in the order in which flows were dialled.
    pub arrived: Vec<((SocketAddr, FlowId), Vec<u8>)>,
    pub answers: BTreeMap<u64, Result<Answer, Error>>,
    pub notices: Vec<(SocketAddr, Notice)>,
    /// How roles that have ended by themselves did so.
    pub ends: BTreeMap<SocketAddr, Result<(), Error>>,
    /// What connector flows hold to write back.
    echo: BTreeMap<(SocketAddr, FlowId), Vec<u8>>,
    next_flow: u64,
    /// Agents whose flows the connectors' services do not read, and flows that an agent's programs do not read.
    pub unread_agents: BTreeSet<String>,
    pub unread_flows: BTreeSet<FlowId>,
    deaf: BTreeSet<(SocketAddr, FlowId)>,
    /// Raw short-header packets that a relay sent on, by its address.
    pub packets: u64,
    /// Packets to drop: `true` loses it. From, to, bytes.
    #[allow(clippy::type_complexity, reason = "one closure of a test")]
    pub lose: Box<dyn FnMut(SocketAddr, SocketAddr, &[u8]) -> bool>,
    /// Bursts to drop as a whole, where they have more than one packet. From, to.
    #[allow(clippy::type_complexity, reason = "one closure of a test")]
    pub lose_burst: Box<dyn FnMut(SocketAddr, SocketAddr) -> bool>,
    /// How late a packet arrives. Those without delay arrive within the turn.
    #[allow(clippy::type_complexity, reason = "one closure of a test")]
    pub delay: Box<dyn FnMut(SocketAddr, SocketAddr, &[u8]) -> Duration>,
    /// Packets under way: when, from, to.
    air: BTreeMap<(Instant, u64), (SocketAddr, SocketAddr, Vec<u8>)>,
}

pub fn relay_at(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n], 4433))
}
fn is_relay(at: SocketAddr) -> bool {
    (0..=u8::MAX).any(|n| at == relay_at(n))
}
pub fn node_at(n: u8) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, n], 40_000))
}

impl World {
    /// A network with the relays r1..rN, not started, and service `web` on the named connectors.
    pub fn new(relays: u8, connectors: &[&str]) -> World {
        let mut network = format!("trust_domain = \"{DOMAIN}\"\n");
        for n in 1..=relays {
            network.push_str(&format!("[[relay]]\nname = \"r{n}\"\nurls = [\"https://{}\"]\n", relay_at(n)));
        }
        let list: Vec<String> = connectors.iter().map(|c| format!("\"{c}\"")).collect();
        for (service, ports) in [("web", "tcp = [80]\nudp = [53]\nicmp = true"), ("secret", "tcp = [80]")] {
            network
                .push_str(&format!("[[service]]\nname = \"{service}\"\nconnectors = [{}]\n{ports}\n", list.join(", ")));
        }
        network.push_str("[[agent]]\nname = \"alice\"\n[[agent]]\nname = \"bob\"\n");
        World {
            ca: Ca::generate(DOMAIN, SystemTime::now()).unwrap(),
            leaves: RefCell::default(),
            network,
            policy: POLICY.into(),
            version: 1,
            direct: false,
            life: HOUR,
            maps_ports: false,
            ports_wanted: Vec::new(),
            translated: BTreeMap::new(),
            sockets: BTreeSet::new(),
            gives_sockets: false,
            holds_sockets_back: false,
            held_back: Vec::new(),
            nodes: BTreeMap::new(),
            relays: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            received: BTreeMap::new(),
            ended: BTreeSet::new(),
            finished: BTreeSet::new(),
            arrived: Vec::new(),
            answers: BTreeMap::new(),
            notices: Vec::new(),
            ends: BTreeMap::new(),
            echo: BTreeMap::new(),
            next_flow: 1,
            unread_agents: BTreeSet::new(),
            unread_flows: BTreeSet::new(),
            deaf: BTreeSet::new(),
            packets: 0,
            lose: Box::new(|_, _, _| false),
            lose_burst: Box::new(|_, _| false),
            delay: Box::new(|_, _, _| Duration::ZERO),
            air: BTreeMap::new(),
        }
    }

    pub fn start_relay(&mut self, n: u8) {
        let shared = Shared::new(RelayConfig::new(vec![relay_at(n)]), 1, Arc::new(|_| ()));
        let epoch = (Instant::now(), SystemTime::now());
        self.relays.insert(relay_at(n), shared.clone());
        let relay = Relay::new(shared, 0, self.snapshot(Role::Relay, &format!("r{n}")), epoch).unwrap();
        self.nodes.insert(relay_at(n), Node::Relay(Box::new(relay)));
    }

    /// A relay of that name and certificate which does as the test says.
    pub fn start_hostile_relay(&mut self, n: u8) -> &mut HostileRelay {
        let relay = HostileRelay::new(&self.snapshot(Role::Relay, &format!("r{n}")));
        self.nodes.insert(relay_at(n), Node::Hostile(Box::new(relay)));
        self.hostile(n)
    }

    pub fn hostile(&mut self, n: u8) -> &mut HostileRelay {
        match self.nodes.get_mut(&relay_at(n)) {
            Some(Node::Hostile(h)) => h,
            _ => panic!("r{n} is no hostile relay"),
        }
    }

    /// Puts a machine of the test's own at an address.
    pub fn play(&mut self, at: SocketAddr, machine: impl Played) {
        self.nodes.insert(at, Node::Played(Box::new(machine)));
    }

    pub fn played<M: Played>(&mut self, at: SocketAddr) -> &mut M {
        match self.nodes.get_mut(&at) {
            Some(Node::Played(m)) => (m.as_mut() as &mut dyn Any).downcast_mut().unwrap(),
            _ => panic!("nothing of this test's is at {at}"),
        }
    }

    pub fn start_connector_without_services(&mut self, at: SocketAddr, name: &str) {
        let c = Connector::new(self.snapshot(Role::Connector, name), false, Instant::now(), SystemTime::now()).unwrap();
        self.nodes.insert(at, Node::Connector(Box::new(c)));
    }

    pub fn start_connector(&mut self, at: SocketAddr, name: &str) {
        self.kill(at);
        let snapshot = self.snapshot(Role::Connector, name);
        let mut c = Connector::new(snapshot, false, Instant::now(), SystemTime::now()).unwrap();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let target = Target::Host { host: "127.0.0.1".into(), port: 8080 };
            let (service, max_connections, closing) = ("web".into(), None, false);
            c.serve(Serve { service, protocol, ports: None, target, max_connections, closing }).unwrap();
        }
        self.nodes.insert(at, Node::Connector(Box::new(c)));
        self.know_addresses(at);
    }

    pub fn start_agent(&mut self, at: SocketAddr, name: &str, limit: Option<KeyLimit>) {
        let mut a = Agent::new(self.snapshot(Role::Agent, name), Instant::now(), SystemTime::now()).unwrap();
        if let Some(limit) = limit {
            a.set_key_limit(limit);
        }
        a.set_port_mapping(self.maps_ports);
        self.nodes.insert(at, Node::Agent(Box::new(a)));
        self.know_addresses(at);
    }

    fn know_addresses(&mut self, at: SocketAddr) {
        if self.direct {
            self.machine(at).handle_sockets(Instant::now(), &[at]);
            self.has_address(at, at.ip());
        }
    }

    /// A process killed: its machine is gone without a word.
    pub fn kill(&mut self, at: SocketAddr) {
        self.nodes.remove(&at);
        // What its services held for flows dies with it; its successor counts flows from the start.
        self.echo.retain(|(of, _), _| *of != at);
        self.deaf.retain(|(of, _)| *of != at);
    }

    /// Lowers what a running agent or connector may hold for its readers.
    pub fn set_receive_limit(&mut self, at: SocketAddr, limit: ReceiveLimit) {
        match self.nodes.get_mut(&at) {
            Some(Node::Agent(a)) => a.set_receive_limit(limit),
            Some(Node::Connector(c)) => c.set_receive_limit(limit),
            Some(Node::Relay(_) | Node::Hostile(_) | Node::Played(_)) | None => panic!("no agent or connector at {at}"),
        }
    }

    /// Bytes that wait for local readers at an agent or connector.
    pub fn unread(&self, at: SocketAddr) -> u64 {
        let node = match self.nodes.get(&at) {
            Some(Node::Agent(a)) => a.node(),
            Some(Node::Connector(c)) => c.node(),
            Some(Node::Relay(_) | Node::Hostile(_) | Node::Played(_)) | None => panic!("no agent or connector at {at}"),
        };
        node.links.iter().flat_map(|(_, l)| l.flows.keys().map(|s| l.conn.unread(*s))).sum()
    }

    pub fn connector(&self, at: SocketAddr) -> &Connector {
        match self.nodes.get(&at) {
            Some(Node::Connector(c)) => c,
            _ => panic!("no connector at {at}"),
        }
    }

    pub fn connector_mut(&mut self, at: SocketAddr) -> &mut Connector {
        match self.nodes.get_mut(&at) {
            Some(Node::Connector(c)) => c,
            _ => panic!("no connector at {at}"),
        }
    }

    pub fn machine(&mut self, at: SocketAddr) -> &mut dyn Machine {
        self.nodes.get_mut(&at).unwrap().machine()
    }

    pub fn agent(&self, at: SocketAddr) -> &Agent {
        match self.nodes.get(&at) {
            Some(Node::Agent(a)) => a,
            Some(Node::Connector(_) | Node::Relay(_) | Node::Hostile(_) | Node::Played(_)) | None => {
                panic!("no agent at {at}")
            }
        }
    }

    pub fn relay(&self, at: SocketAddr) -> &Shared {
        &self.relays[&at]
    }

    pub fn open(&mut self, at: SocketAddr, service: &str, protocol: Protocol, timeout: Duration) -> FlowId {
        self.open_by(PathPolicy::Auto, at, service, protocol, timeout)
    }

    pub fn open_by(
        &mut self,
        path: PathPolicy,
        at: SocketAddr,
        service: &str,
        protocol: Protocol,
        timeout: Duration,
    ) -> FlowId {
        let flow = FlowId(self.next_flow);
        self.next_flow += 1;
        let open = Open { service: service.into(), port: None, protocol, path, timeout, traceparent: None };
        self.nodes.get_mut(&at).unwrap().machine().open(Instant::now(), flow, open);
        flow
    }

    pub fn ping(&mut self, at: SocketAddr, op: u64) {
        self.nodes.get_mut(&at).unwrap().machine().ping(Instant::now(), op, "web", Duration::from_secs(5));
    }

    pub fn explain(&mut self, at: SocketAddr, op: u64) {
        self.explain_by(PathPolicy::Auto, at, op);
    }

    pub fn explain_by(&mut self, path: PathPolicy, at: SocketAddr, op: u64) {
        let (port, protocol, timeout) = (None, Protocol::Tcp, Duration::from_secs(5));
        let open = Open { service: "web".into(), port, protocol, path, timeout, traceparent: None };
        self.machine(at).explain(Instant::now(), op, open);
    }

    pub fn check(&mut self, at: SocketAddr, op: u64, service: &str) {
        let timeout = Duration::from_secs(5);
        let (port, protocol, path) = (None, Protocol::Tcp, PathPolicy::Auto);
        let open = Open { service: service.into(), port, protocol, path, timeout, traceparent: None };
        self.nodes.get_mut(&at).unwrap().machine().check(Instant::now(), op, open);
    }

    /// Writes all of `data` to an agent's flow, turning the world as needed.
    pub fn write(&mut self, at: SocketAddr, flow: FlowId, data: &[u8], fin: bool) {
        let mut sent = 0;
        let until = Instant::now() + Duration::from_secs(60);
        while sent < data.len() || fin {
            let machine = self.nodes.get_mut(&at).unwrap().machine();
            match machine.stream_write(flow, &data[sent..], fin) {
                Wrote::Bytes(n) => sent += n,
                Wrote::Blocked => {}
                other => panic!("write: {other:?}"),
            }
            if fin && sent == data.len() {
                return;
            }
            self.turn();
            assert!(Instant::now() < until, "the write does not get on: {sent} of {}", data.len());
        }
    }

    /// One write to an agent's flow.
    pub fn try_write(&mut self, at: SocketAddr, flow: FlowId, data: &[u8], fin: bool) -> Wrote {
        self.nodes.get_mut(&at).map_or(Wrote::Gone, |n| n.machine().stream_write(flow, data, fin))
    }

    /// The connector's end of the only flow that has brought it something.
    pub fn served(&self, at: SocketAddr) -> FlowId {
        self.echo.keys().find(|(a, _)| *a == at).unwrap().1
    }

    pub fn datagram(&mut self, at: SocketAddr, flow: FlowId, payload: &[u8]) -> bool {
        self.nodes.get_mut(&at).unwrap().machine().datagram_write(flow, payload)
    }

    /// Writes what an agent's flow takes of `data` now, and tells how much. A flow that is gone takes nothing.
    pub fn write_some(&mut self, at: SocketAddr, flow: FlowId, data: &[u8]) -> usize {
        match self.nodes.get_mut(&at).map(|n| n.machine().stream_write(flow, data, false)) {
            Some(Wrote::Bytes(n)) => n,
            Some(Wrote::Blocked | Wrote::Stopped(_) | Wrote::Gone) | None => 0,
        }
    }

    /// Writes as much of `data` as goes within one turn.
    pub fn until_written(&mut self, at: SocketAddr, flow: FlowId, data: &[u8]) {
        if let Some(node) = self.nodes.get_mut(&at) {
            node.machine().stream_write(flow, data, false);
        }
        self.turn();
    }

    /// The answers to a node that were held back.
    pub fn give_sockets(&mut self, to: SocketAddr) {
        for (at, id, count) in std::mem::take(&mut self.held_back) {
            assert_eq!(at, to);
            self.machine(at).sockets_opened(Instant::now(), id, 1, &vec![at; count]);
        }
    }

    pub fn shut_down(&mut self, at: SocketAddr, within: Duration) {
        self.nodes.get_mut(&at).unwrap().machine().shut_down(Instant::now(), within);
    }

    pub fn has(&self, at: SocketAddr) -> bool {
        self.nodes.contains_key(&at)
    }

    /// Turns until `done` or ten seconds are over; tells which.
    pub fn until(&mut self, done: impl FnMut(&World) -> bool) -> bool {
        self.within(Duration::from_secs(10), done)
    }

    /// As [`until`](Self::until) with a patience of `time`.
    pub fn within(&mut self, time: Duration, mut done: impl FnMut(&World) -> bool) -> bool {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.turn();
            if done(self) {
                return true;
            }
        }
        false
    }

    /// As [`until`](Self::until), for a test that acts each turn.
    pub fn until_with(&mut self, mut done: impl FnMut(&mut World) -> bool) -> bool {
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until {
            self.turn();
            if done(self) {
                return true;
            }
        }
        false
    }

    /// Opens a flow and waits until it is open.
    pub fn opened(&mut self, at: SocketAddr, service: &str) -> FlowId {
        let flow = self.open(at, service, Protocol::Tcp, Duration::from_secs(8));
        assert!(self.until(|w| w.outcomes.contains_key(&flow)), "no outcome");
        assert_eq!(self.outcomes.get(&flow), Some(&Outcome::Opened));
        flow
    }

    /// One turn of every loop; waits a little when nothing moved.
    pub fn turn(&mut self) {
        if !self.step() {
            std::thread::sleep(Duration::from_micros(300));
        }
    }

    /// When something is due next.
    pub fn next_deadline(&mut self) -> Option<Instant> {
        let air = self.air.keys().next().map(|k| k.0);
        self.nodes.values_mut().filter_map(|n| n.machine().poll_timeout()).chain(air).min()
    }

    /// One turn of every loop: whether a packet moved.
    pub fn step(&mut self) -> bool {
        let now = Instant::now();
        let all: Vec<SocketAddr> = self.nodes.keys().copied().collect();
        let mut moved = false;
        while let Some(entry) = self.air.first_entry().filter(|e| e.key().0 <= now) {
            let (from, to, packet) = entry.remove();
            self.arrive(now, from, to, &packet);
            moved = true;
        }
        for at in all {
            let mut out = Vec::new();
            if let Some(node) = self.nodes.get_mut(&at) {
                let m = node.machine();
                if m.poll_timeout().is_some_and(|t| t <= now) {
                    m.handle_timeout(now);
                }
                m.process(now);
            }
            self.act(at, now);
            let Some(node) = self.nodes.get_mut(&at) else { continue };
            node.machine().process(now);
            for _ in 0..256 {
                let mut bytes = Vec::new();
                let Some(t) = node.machine().poll_transmit(now, &mut bytes) else { break };
                out.push((t, bytes));
            }
            for (t, bytes) in out {
                moved = true;
                self.deliver(now, at, t.to, t.segment, &bytes);
            }
        }
        moved
    }

    fn deliver(&mut self, now: Instant, from: SocketAddr, to: SocketAddr, segment: usize, bytes: &[u8]) {
        if bytes.len() > segment && (self.lose_burst)(from, to) {
            return;
        }
        for packet in bytes.chunks(segment.max(1)) {
            self.packets += 1;
            let apart = !self.direct && !is_relay(from) && !is_relay(to);
            if apart || (self.lose)(from, to, packet) {
                continue;
            }
            let late = (self.delay)(from, to, packet);
            let from = self.translated.get(&(from, to)).copied().unwrap_or(from);
            if late.is_zero() {
                self.arrive(now, from, to, packet);
            } else {
                self.air.insert((now + late, self.packets), (from, to, packet.to_vec()));
            }
        }
    }

    fn arrive(&mut self, now: Instant, from: SocketAddr, to: SocketAddr, packet: &[u8]) {
        let inside = self.translated.iter().find(|((_, of), outside)| (*of, **outside) == (from, to));
        let to = inside.map_or(to, |((node, _), _)| *node);
        if let Some(node) = self.nodes.get_mut(&to) {
            let arrival = Arrival { socket: 0, from, to: Some(to.ip()), stride: packet.len() };
            match node.machine().pass_on(arrival, packet) {
                Some(t) => self.deliver(now, to, t.to, t.segment, packet),
                None => node.machine().handle_packets(now, arrival, &mut packet.to_vec()),
            }
        }
    }

    fn act(&mut self, at: SocketAddr, now: Instant) {
        while let Some(action) = self.nodes.get_mut(&at).and_then(|n| n.machine().poll_action()) {
            let Some(node) = self.nodes.get_mut(&at) else { return };
            let is_agent = matches!(node, Node::Agent(_));
            let m = node.machine();
            match action {
                Action::Dial { flow, info, .. } => {
                    self.arrived.push(((at, flow), Vec::new()));
                    if self.unread_agents.contains(info.peer.id.name()) {
                        self.deaf.insert((at, flow));
                    }
                    m.flow_connected(now, flow);
                }
                Action::Opened { flow, .. } => drop(self.outcomes.insert(flow, Outcome::Opened)),
                Action::Failed { flow, error } => drop(self.outcomes.insert(flow, Outcome::Failed(error))),
                Action::Reset { flow, error } if is_agent => drop(self.outcomes.insert(flow, Outcome::Reset(error))),
                Action::Reset { flow, .. } => drop(self.echo.remove(&(at, flow))),
                Action::Ended(flow) if is_agent => drop(self.finished.insert(flow)),
                Action::Ended(flow) => drop(self.ended.insert((at, flow))),
                Action::Datagram { flow, payload } if is_agent => {
                    self.received.entry(flow).or_default().extend(payload)
                }
                Action::Datagram { flow, payload } => drop(m.datagram_write(flow, &payload)),
                Action::Readable(flow) | Action::Writable(flow) if !is_agent => self.echo_back(at, flow),
                Action::Readable(flow) => self.read(at, flow),
                Action::Writable(_) => {}
                Action::Answer { op, result } => drop(self.answers.insert(op, result)),
                Action::Notice(n) => self.notices.push((at, n)),
                Action::OpenSockets { id, count, .. } => {
                    let count = if self.gives_sockets { count } else { 0 };
                    self.sockets.extend((1..=count).map(|n| (at, n)));
                    if self.holds_sockets_back {
                        self.held_back.push((at, id, count));
                    } else {
                        m.sockets_opened(now, id, 1, &vec![at; count]);
                    }
                }
                Action::CloseSockets { first, count } => {
                    self.sockets.retain(|(of, n)| *of != at || !(first..first + count).contains(n));
                }
                Action::EnlargeSocket(_) => {}
                Action::MapPort => self.ports_wanted.push(at),
                Action::End(result) => {
                    // A role's last words are sent before its loop ends.
                    let mut last = Vec::new();
                    let mut bytes = Vec::new();
                    while let Some(t) = m.poll_transmit(now, &mut bytes) {
                        last.push((t, std::mem::take(&mut bytes)));
                    }
                    self.ends.insert(at, result);
                    self.nodes.remove(&at);
                    for (t, bytes) in last {
                        self.deliver(now, at, t.to, t.segment, &bytes);
                    }
                }
            }
        }
    }
}
