//! A network in memory: one relay of one or more loops, clients with certificates, packets that may change their source.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ztna_core::quic::connection::{Closed, StreamId};
use ztna_core::quic::endpoint::random_cid;
use ztna_core::quic::{Connection, Event, Fields, Kind, TlsConfig, field};
use ztna_core::relay::{Relay, RelayConfig, Shared};
use ztna_core::role::{Action, Arrival, Machine, Notice, Transmit};
use ztna_core::trust::pki::{Ca, LeafSpec};
use ztna_core::trust::{NodeFiles, Snapshot};
use ztna_core::wire::capsule::{Capsule, CapsuleReader};
use ztna_core::wire::{Cid, connect_udp};
use ztna_core::{Role, SpiffeId};

pub const DOMAIN: &str = "example.test";
const NETWORK: &str = r#"
trust_domain = "example.test"
[[relay]]
name = "r1"
urls = ["https://192.0.2.1:4433"]
[[service]]
name = "web"
connectors = ["c1"]
tcp = [80]
[[service]]
name = "db"
connectors = ["c2"]
tcp = [5432]
[[agent]]
name = "alice"
groups = []
[[agent]]
name = "bob"
groups = []
"#;
/// Alice reaches `web` on c1 and `db` on c2; bob reaches `db` only.
const POLICY: &str = r#"
permit(principal == Agent::"alice", action == Action::"connect", resource == Service::"web");
permit(principal, action == Action::"connect", resource == Service::"db");
"#;
pub const NO_POLICY: &str =
    r#"permit(principal == Agent::"bob", action == Action::"connect", resource == Service::"db");"#;

/// A client's place in [`Net::clients`].
pub type Id = usize;

pub struct Net {
    pub ca: Ca,
    pub shared: Arc<Shared>,
    /// What the relay was started with: a restart keeps its key.
    snapshot: Arc<Snapshot>,
    config: RelayConfig,
    pub loops: Vec<Relay>,
    pub clients: Vec<Client>,
    pub notices: Vec<Notice>,
    /// Loops that have ended.
    pub ended: usize,
    /// Every datagram the relay has sent: to, length.
    pub sent: Vec<(SocketAddr, usize)>,
    /// What reached an address that is no client's.
    pub elsewhere: Vec<(SocketAddr, Vec<u8>)>,
    /// On the links of clients that come from now on, larger UDP payloads are lost.
    pub mtu: usize,
}

pub struct Client {
    pub conn: Connection,
    tls: TlsConfig,
    /// Where its packets come from.
    pub addr: SocketAddr,
    /// The loop that the kernel gives its packets to.
    pub at: usize,
    /// Larger UDP payloads are lost on its link.
    pub mtu: usize,
    pub answers: BTreeMap<StreamId, Fields>,
    pub capsules: BTreeMap<StreamId, Vec<Capsule>>,
    readers: BTreeMap<StreamId, CapsuleReader>,
    pub finished: Vec<StreamId>,
    pub resets: Vec<(StreamId, u64)>,
    pub goaway: bool,
    pub ready: bool,
    pub closed: Option<Closed>,
    pub datagrams: Vec<Vec<u8>>,
    /// Packets that are not of its outer connection.
    pub raw: Vec<Vec<u8>>,
}

pub fn relay_addr() -> SocketAddr {
    "192.0.2.1:4433".parse().unwrap()
}

pub fn addr(n: u8) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, n], 40_000 + u16::from(n)))
}

pub fn config() -> RelayConfig {
    RelayConfig {
        public_addrs: vec![relay_addr()],
        stun_alt: Some((1, "192.0.2.1:3479".parse().unwrap())),
        ..RelayConfig::new(vec![relay_addr()])
    }
}

impl Net {
    pub fn new() -> Net {
        Net::with(config(), 1)
    }

    pub fn with(config: RelayConfig, loops: usize) -> Net {
        let ca = Ca::generate(DOMAIN, SystemTime::now()).unwrap();
        let snapshot = relay_snapshot(&ca, NETWORK, POLICY, "");
        let (shared, loops) = start(&config, &snapshot, loops);
        Net {
            ca,
            shared,
            snapshot,
            config,
            loops,
            clients: Vec::new(),
            notices: Vec::new(),
            ended: 0,
            sent: Vec::new(),
            elsewhere: Vec::new(),
            mtu: 1_500,
        }
    }

    /// The relay's process is killed and started again with that many loops, on the same folder.
    pub fn restart(&mut self, loops: usize) {
        (self.shared, self.loops) = start(&self.config, &self.snapshot, loops);
    }

    /// Gives every loop a new snapshot.
    pub fn publish(&mut self, policy: &str, revoked: &str) {
        self.publish_network(NETWORK, policy, revoked);
    }

    pub fn publish_tunnel_mode(&mut self) {
        self.publish_network(&format!("relay_mode = \"tunnel\"\n{NETWORK}"), POLICY, "");
    }

    fn publish_network(&mut self, network: &str, policy: &str, revoked: &str) {
        let snapshot = relay_snapshot(&self.ca, network, policy, revoked);
        for relay in &mut self.loops {
            relay.handle_snapshot(Instant::now(), snapshot.clone());
        }
    }

    /// A client that has begun to connect, from `addr(n)`.
    pub fn client(&mut self, role: Role, name: &str, n: u8) -> Id {
        self.client_for(role, name, n, Duration::from_secs(3600))
    }

    pub fn client_for(&mut self, role: Role, name: &str, n: u8, ttl: Duration) -> Id {
        let snapshot = snapshot(&self.ca, role, name, ttl, NETWORK, POLICY, "");
        let mut tls = TlsConfig::new(Kind::OuterClient, &snapshot).unwrap();
        let conn =
            Connection::connect(&mut tls, random_cid(None), "r1.relay.example.test", addr(n), relay_addr()).unwrap();
        self.clients.push(Client {
            conn,
            tls,
            addr: addr(n),
            at: 0,
            mtu: self.mtu,
            answers: BTreeMap::new(),
            capsules: BTreeMap::new(),
            readers: BTreeMap::new(),
            finished: Vec::new(),
            resets: Vec::new(),
            goaway: false,
            ready: false,
            closed: None,
            datagrams: Vec::new(),
            raw: Vec::new(),
        });
        self.clients.len() - 1
    }

    pub fn connected(&mut self, role: Role, name: &str, n: u8) -> Id {
        let id = self.client(role, name, n);
        self.until("a client is ready", |net| net.clients[id].ready);
        id
    }

    /// A bound connector; its stream is the client's first.
    pub fn bound(&mut self, name: &str, n: u8) -> (Id, StreamId) {
        let id = self.connected(Role::Connector, name, n);
        let stream = self.bind(id);
        (id, stream)
    }

    /// Binds and registers the uncompressed context.
    pub fn bind(&mut self, id: Id) -> StreamId {
        let stream = self.request(id, connect_udp::bind_path(), true);
        assert_eq!(self.status(id, stream), "200");
        self.send_capsule(id, stream, &Capsule::CompressionAssign { context_id: 2, target: None });
        stream
    }

    /// An agent with a session to connector `name`.
    pub fn session(&mut self, agent: &str, name: &str, n: u8) -> (Id, StreamId) {
        let id = self.connected(Role::Agent, agent, n);
        let stream = self.connect(id, name);
        assert_eq!(self.status(id, stream), "200");
        (id, stream)
    }

    pub fn connect(&mut self, id: Id, name: &str) -> StreamId {
        self.request(id, &connect_udp::target_path(&format!("{name}.connector.{DOMAIN}"), 443), false)
    }

    pub fn request(&mut self, id: Id, path: &str, bind: bool) -> StreamId {
        let mut fields = vec![
            (":method", "CONNECT"),
            (":protocol", "connect-udp"),
            (":scheme", "https"),
            (":authority", "r1.relay.example.test"),
        ];
        fields.extend([(":path", path), ("capsule-protocol", "?1")]);
        if bind {
            fields.push(("connect-udp-bind", "?1"));
        }
        let fields: Fields = fields.into_iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        self.clients[id].conn.request(&fields, false).unwrap().unwrap()
    }

    /// The answer's status, once it has come.
    pub fn status(&mut self, id: Id, stream: StreamId) -> String {
        self.until("a request is answered", |net| net.clients[id].answers.contains_key(&stream));
        field(&self.clients[id].answers[&stream], ":status").unwrap().to_owned()
    }

    pub fn send_capsule(&mut self, id: Id, stream: StreamId, capsule: &Capsule) {
        let mut bytes = Vec::new();
        capsule.encode(&mut bytes);
        self.clients[id].conn.write(stream, &bytes, false);
    }

    pub fn datagram(&mut self, id: Id, stream: StreamId, context: u64, payload: &[u8]) {
        let mut frame = Vec::new();
        connect_udp::datagram_header(stream, context, &mut frame);
        frame.extend_from_slice(payload);
        assert!(self.clients[id].conn.dgram_send(frame));
    }

    /// Sends raw packets of one size in one burst, as from `from`.
    pub fn raw(&mut self, from: SocketAddr, at: usize, packets: &[Vec<u8>]) {
        let mut burst = packets.concat();
        let stride = packets[0].len();
        let arrival = Arrival { socket: 0, from, to: None, stride };
        match self.loops[at].pass_on(arrival, &burst) {
            Some(transmit) => self.carry(transmit, &mut burst),
            None => self.loops[at].handle_packets(Instant::now(), arrival, &mut burst),
        }
        self.settle();
    }

    pub fn waits_for(&mut self, id: Id, stream: StreamId, capsule: &Capsule) {
        self.until(&format!("{capsule:?} arrives"), |net| net.clients[id].has(stream, capsule));
    }

    /// Moves packets until `done`, 10 s at most.
    pub fn until(&mut self, what: &str, done: impl Fn(&Net) -> bool) {
        let start = Instant::now();
        loop {
            self.settle();
            if done(self) {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(10), "within 10 s: {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn run_for(&mut self, time: Duration) {
        let start = Instant::now();
        while start.elapsed() < time {
            self.settle();
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Moves packets until nobody has any.
    pub fn settle(&mut self) {
        let mut busy = true;
        while busy {
            busy = false;
            for id in 0..self.clients.len() {
                busy |= self.clients_turn(id);
            }
            for at in 0..self.loops.len() {
                busy |= self.loops_turn(at);
            }
        }
    }

    pub fn clients_turn(&mut self, id: Id) -> bool {
        let client = &mut self.clients[id];
        client.conn.on_timeout();
        client.settle();
        let mut packet = [0u8; 1500];
        let mut busy = false;
        while let Some((n, _)) = client.conn.send(&mut packet) {
            busy = true;
            let arrival = Arrival { socket: 0, from: client.addr, to: None, stride: n };
            if n <= client.mtu {
                self.loops[client.at].handle_packets(Instant::now(), arrival, &mut packet[..n]);
            }
        }
        busy
    }

    pub fn loops_turn(&mut self, at: usize) -> bool {
        let relay = &mut self.loops[at];
        let now = Instant::now();
        if relay.poll_timeout().is_some_and(|t| t <= now) {
            relay.handle_timeout(now);
        }
        relay.process(now);
        while let Some(action) = relay.poll_action() {
            match action {
                Action::Notice(notice) => self.notices.push(notice),
                Action::End(result) => {
                    result.unwrap();
                    self.ended += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        let mut busy = false;
        let mut out = Vec::new();
        while let Some(transmit) = self.loops[at].poll_transmit(Instant::now(), &mut out) {
            busy = true;
            assert!(out.len() <= 65_000 && out.chunks(transmit.segment).count() <= 64);
            self.carry(transmit, &mut out);
            out.clear();
        }
        busy
    }

    fn carry(&mut self, transmit: Transmit, burst: &mut [u8]) {
        for packet in burst.chunks_mut(transmit.segment) {
            self.sent.push((transmit.to, packet.len()));
            match self.clients.iter_mut().find(|c| c.addr == transmit.to) {
                Some(client) if packet.len() > client.mtu => {}
                Some(client) => client.take(packet),
                None => self.elsewhere.push((transmit.to, packet.to_vec())),
            }
        }
    }
}

impl Client {
    fn take(&mut self, packet: &mut [u8]) {
        let scid = self.conn.scid();
        if packet[0] & 0x80 != 0 || packet[1..].starts_with(scid.as_bytes()) {
            self.conn.recv(packet, relay_addr());
        } else {
            self.raw.push(packet.to_vec());
        }
    }

    fn settle(&mut self) {
        self.conn.process(&mut self.tls);
        while let Some(event) = self.conn.poll_event() {
            match event {
                Event::Ready => self.ready = true,
                Event::Headers { stream, fields, .. } => {
                    self.answers.insert(stream, fields);
                }
                Event::Data { stream } => self.read(stream),
                Event::Finished { stream } => self.finished.push(stream),
                Event::Reset { stream, code } => self.resets.push((stream, code)),
                Event::GoAway => self.goaway = true,
                Event::Closed(why) => self.closed = Some(why),
                Event::Established(_) | Event::Malformed { .. } | Event::Writable { .. } | Event::Migrated(_) => {}
            }
        }
        while let Some(frame) = self.conn.dgram_recv() {
            self.datagrams.push(frame);
        }
    }

    fn read(&mut self, stream: StreamId) {
        let mut buffer = [0u8; 4096];
        let reader = self.readers.entry(stream).or_default();
        loop {
            let n = self.conn.read(stream, &mut buffer);
            if n == 0 {
                return;
            }
            reader.push(&buffer[..n]);
            while let Some(capsule) = reader.next().unwrap() {
                self.capsules.entry(stream).or_default().push(capsule);
            }
        }
    }

    pub fn has(&self, stream: StreamId, capsule: &Capsule) -> bool {
        self.capsules.get(&stream).is_some_and(|c| c.contains(capsule))
    }

    /// Payloads that came on that stream in that context.
    pub fn payloads(&self, stream: StreamId, context: u64) -> Vec<&[u8]> {
        let mut header = Vec::new();
        connect_udp::datagram_header(stream, context, &mut header);
        self.datagrams.iter().filter_map(|d| d.strip_prefix(&header[..])).collect()
    }
}

/// A short-header packet of `len` bytes for `cid`, told apart by `mark`.
pub fn packet(cid: Cid, mark: u8, len: usize) -> Vec<u8> {
    let mut p = vec![0x40];
    p.extend_from_slice(cid.as_bytes());
    p.resize(len, mark);
    p
}

pub fn cid(n: u8) -> Cid {
    Cid([n; 8])
}

fn start(config: &RelayConfig, snapshot: &Arc<Snapshot>, loops: usize) -> (Arc<Shared>, Vec<Relay>) {
    let shared = Shared::new(config.clone(), loops, Arc::new(|_| ()));
    let epoch = (Instant::now(), SystemTime::now());
    let loops = (0..loops).map(|i| Relay::new(shared.clone(), i, snapshot.clone(), epoch).unwrap()).collect();
    (shared, loops)
}

fn relay_snapshot(ca: &Ca, network: &str, policy: &str, revoked: &str) -> Arc<Snapshot> {
    snapshot(ca, Role::Relay, "r1", Duration::from_secs(3600), network, policy, revoked)
}

fn snapshot(
    ca: &Ca,
    role: Role,
    name: &str,
    ttl: Duration,
    network: &str,
    policy: &str,
    revoked: &str,
) -> Arc<Snapshot> {
    let id = SpiffeId::new(DOMAIN, role, name).unwrap();
    let leaf = ca.issue(&LeafSpec::node(&id, SystemTime::now(), ttl)).unwrap();
    let files = NodeFiles {
        cert_pem: leaf.cert_pem,
        key_pem: leaf.key_pem,
        ca_pem: ca.cert_pem.clone(),
        network_toml: network.to_owned(),
        policy_cedar: Some(policy.to_owned()),
        revoked_toml: Some(revoked.to_owned()),
        version: 1,
        folder: None,
    };
    Arc::new(Snapshot::from_files(&files, SystemTime::now()).unwrap())
}
