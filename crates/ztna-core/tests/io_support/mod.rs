//! A machine whose two ends are in one process: a flow that is opened is dialled at once and joined to its other half in memory.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use ztna_core::io::{Destination, Driver, ForwardId, ForwardSpec, Handle, Listen, LocalAddress, LocalEvent};
use ztna_core::quic::Wrote;
use ztna_core::role::*;
use ztna_core::trust::{PeerIdentity, Protocol, Snapshot};
use ztna_core::{DeniedBy, Error, FlowId};

/// What one direction of a stream holds: the stand-in for a stream's window.
pub const WINDOW: usize = 256 * 1024;
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Set in the IDs of flows on the connector's side.
const FAR: u64 = 1 << 40;

#[derive(Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    fin: bool,
    fin_read: bool,
    stopped: bool,
    writer_waits: bool,
}

/// What tests look at.
#[derive(Default)]
pub struct Seen {
    pub opens: usize,
    pub most_buffered: usize,
    pub resets: usize,
    pub stops: usize,
    pub closed_datagram_flows: usize,
    pub network_changes: usize,
    pub resolved: Vec<(String, usize)>,
}

pub struct Loopback {
    targets: BTreeMap<String, Target>,
    infos: BTreeMap<FlowId, FlowInfo>,
    pipes: BTreeMap<FlowId, Pipe>,
    actions: VecDeque<Action>,
    resolve: Option<String>,
    pub seen: Arc<Mutex<Seen>>,
}

fn other(flow: FlowId) -> FlowId {
    FlowId(flow.0 ^ FAR)
}

fn info(service: &str, port: u16, protocol: Protocol) -> FlowInfo {
    let peer = PeerIdentity {
        id: "spiffe://example.test/connector/c1".parse().unwrap(),
        serial: "1".into(),
        not_before: SystemTime::UNIX_EPOCH,
        not_after: SystemTime::UNIX_EPOCH,
        leaf_der: Arc::from([]),
        signed_by: Arc::from([]),
    };
    let path = PathInfo {
        kind: PathKind::None,
        relay: None,
        local: None,
        remote: None,
        rtt: Duration::ZERO,
        mtu: 1320,
        loss_pct: 0.0,
        since: Instant::now(),
    };
    FlowInfo { connection: 0, peer: Arc::new(peer), service: service.into(), port, protocol, path, traceparent: None }
}

impl Loopback {
    pub fn new(targets: &[(&str, Target)]) -> Self {
        Loopback {
            targets: targets.iter().map(|(n, t)| ((*n).to_owned(), t.clone())).collect(),
            infos: BTreeMap::new(),
            pipes: BTreeMap::new(),
            actions: VecDeque::new(),
            resolve: None,
            seen: Arc::default(),
        }
    }
    pub fn resolve(&mut self, host: &str) {
        self.resolve = Some(host.into());
    }
    fn gone(&mut self, flow: FlowId) {
        self.pipes.remove(&flow);
        self.pipes.remove(&other(flow));
        self.infos.remove(&flow);
        self.infos.remove(&other(flow));
    }
}

impl Machine for Loopback {
    fn handle_packets(&mut self, _: Instant, _: Arrival, _: &mut [u8]) {}
    fn handle_timeout(&mut self, _: Instant) {}
    fn poll_timeout(&mut self) -> Option<Instant> {
        None
    }
    fn process(&mut self, _: Instant) {}
    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }
    fn poll_transmit(&mut self, _: Instant, _: &mut Vec<u8>) -> Option<Transmit> {
        None
    }
    fn handle_snapshot(&mut self, _: Instant, _: Arc<Snapshot>) {}
    fn handle_resolved(&mut self, _: Instant, host: &str, addresses: &[std::net::IpAddr]) {
        self.seen.lock().unwrap().resolved.push((host.into(), addresses.len()));
    }
    fn poll_resolve(&mut self) -> Option<String> {
        self.resolve.take()
    }
    fn handle_network_change(&mut self, _: Instant) {
        self.seen.lock().unwrap().network_changes += 1;
    }
    fn shut_down(&mut self, _: Instant, _: Duration) {
        self.actions.push_back(Action::End(Ok(())));
    }
    fn state(&self) -> State {
        State::Online
    }
    fn open(&mut self, _: Instant, flow: FlowId, open: Open) {
        self.seen.lock().unwrap().opens += 1;
        let info = info(&open.service, open.port.unwrap_or(80), open.protocol);
        match self.targets.get(&open.service).cloned() {
            None => self.actions.push_back(Action::Failed {
                flow,
                error: Error::Denied {
                    by: DeniedBy::Connector,
                    reason: "no policy".into(),
                    decision: None,
                    policy: None,
                },
            }),
            Some(Target::Echo) => {} // Never answers.
            Some(target) => {
                self.infos.insert(flow, info.clone());
                self.pipes.insert(flow, Pipe::default());
                self.pipes.insert(other(flow), Pipe::default());
                self.actions.push_back(Action::Dial { flow: other(flow), target, info, timeout: open.timeout });
            }
        }
    }
    fn ping(&mut self, _: Instant, op: u64, service: &str, _: Duration) {
        if service != "slow" {
            self.actions.push_back(Action::Answer { op, result: Err(Error::Refused(service.into())) });
        }
    }
    fn flow_connected(&mut self, _: Instant, flow: FlowId) {
        if let Some(info) = self.infos.get(&other(flow)).cloned() {
            self.actions.push_back(Action::Opened { flow: other(flow), info });
        }
    }
    fn flow_failed(&mut self, _: Instant, flow: FlowId, error: Error) {
        self.gone(flow);
        self.actions.push_back(Action::Failed { flow: other(flow), error });
    }
    fn stream_read(&mut self, flow: FlowId, out: &mut [u8]) -> Read {
        let Some(pipe) = self.pipes.get_mut(&flow) else { return Read::Blocked };
        if pipe.bytes.is_empty() {
            if !pipe.fin {
                return Read::Blocked;
            }
            pipe.fin_read = true;
            return Read::Finished;
        }
        let n = pipe.bytes.len().min(out.len());
        for (to, from) in out.iter_mut().zip(pipe.bytes.drain(..n)) {
            *to = from;
        }
        if std::mem::take(&mut pipe.writer_waits) {
            self.actions.push_back(Action::Writable(other(flow)));
        }
        Read::Bytes(n)
    }
    fn stream_capacity(&mut self, flow: FlowId) -> usize {
        let Some(pipe) = self.pipes.get_mut(&other(flow)) else { return usize::MAX };
        if pipe.stopped {
            return usize::MAX;
        }
        let room = WINDOW.saturating_sub(pipe.bytes.len());
        pipe.writer_waits |= room == 0;
        room
    }
    fn stream_write(&mut self, flow: FlowId, data: &[u8], fin: bool) -> Wrote {
        let Some(pipe) = self.pipes.get_mut(&other(flow)) else { return Wrote::Gone };
        if pipe.stopped {
            return Wrote::Stopped(0x100);
        }
        let n = data.len().min(WINDOW - pipe.bytes.len());
        if n == 0 && !data.is_empty() {
            pipe.writer_waits = true;
            return Wrote::Blocked;
        }
        pipe.bytes.extend(&data[..n]);
        pipe.fin |= fin && n == data.len();
        self.actions.push_back(Action::Readable(other(flow)));
        let total = self.pipes.values().map(|p| p.bytes.len()).max().unwrap_or(0);
        let mut seen = self.seen.lock().unwrap();
        seen.most_buffered = seen.most_buffered.max(total);
        Wrote::Bytes(n)
    }
    fn stream_reset(&mut self, flow: FlowId) {
        if self.pipes.contains_key(&flow) {
            self.gone(flow);
            self.seen.lock().unwrap().resets += 1;
            let error = Error::StreamReset { by: DeniedBy::Connector, code: 0x10f };
            self.actions.push_back(Action::Reset { flow: other(flow), error });
        }
    }
    fn stream_stop(&mut self, flow: FlowId) {
        if let Some(pipe) = self.pipes.get_mut(&flow) {
            pipe.stopped = true;
            pipe.bytes.clear();
            self.seen.lock().unwrap().stops += 1;
            self.actions.push_back(Action::Writable(other(flow)));
        }
    }
    fn datagram_max(&self, _: FlowId) -> usize {
        1200
    }
    fn datagram_write(&mut self, flow: FlowId, payload: &[u8]) -> bool {
        let fits = payload.len() <= 1200 && self.pipes.contains_key(&flow);
        if fits {
            self.actions.push_back(Action::Datagram { flow: other(flow), payload: payload.to_vec() });
        }
        fits
    }
    fn datagram_close(&mut self, flow: FlowId) {
        if self.pipes.contains_key(&flow) {
            self.gone(flow);
            self.seen.lock().unwrap().closed_datagram_flows += 1;
            self.actions.push_back(Action::Reset { flow: other(flow), error: Error::Closed("closed".into()) });
        }
    }
}

/// A running loop over the loopback machine. It is shut down when dropped.
pub struct Rig {
    pub handle: Handle<Loopback>,
    pub events: Receiver<LocalEvent>,
    pub seen: Arc<Mutex<Seen>>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.handle.post(Box::new(|d| d.shut_down(Duration::ZERO)));
        self.handle.join();
    }
}

impl Rig {
    pub fn new(targets: &[(&str, Target)]) -> Self {
        let machine = Loopback::new(targets);
        let seen = machine.seen.clone();
        let (tx, events) = channel();
        let observer = Box::new(move |event| {
            let _ = tx.send(event);
        });
        let handle = Driver::spawn("test-loop", Vec::new(), move || Ok(machine), observer).unwrap();
        Rig { handle, events, seen }
    }

    pub fn forward_to(&self, listen: Listen, to: Destination) -> Result<(ForwardId, LocalAddress), Error> {
        let spec = ForwardSpec { listen, to, path: PathPolicy::Auto, timeout: Duration::from_secs(2) };
        self.handle.call(move |d| d.forward(spec)).unwrap()
    }

    /// A forward of a free loopback port to `service`.
    pub fn forward(&self, service: &str, protocol: Protocol) -> (ForwardId, std::net::SocketAddr) {
        let to = Destination::Service { service: service.into(), port: None, protocol };
        match self.forward_to(any_port(), to).unwrap() {
            (id, LocalAddress::Inet(address)) => (id, address),
            (_, LocalAddress::Unix(path)) => panic!("{}", path.display()),
        }
    }

    pub fn connections(&self, id: ForwardId) -> usize {
        self.handle.call(move |d| d.forward_connections(id)).unwrap()
    }
}

pub fn any_port() -> Listen {
    Listen::Address { host: "127.0.0.1".into(), port: 0 }
}

pub fn at(address: std::net::SocketAddr) -> Target {
    Target::Host { host: address.ip().to_string(), port: address.port() }
}

pub fn open(service: &str, protocol: Protocol) -> Open {
    Open {
        service: service.into(),
        port: None,
        protocol,
        path: PathPolicy::Auto,
        timeout: Duration::from_secs(2),
        traceparent: None,
    }
}

/// Waits until `check` holds.
pub fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !check() {
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
