//! The agent: opens flows to services, on inner connections to whichever connector serves them.
//!
//! A flow waits until an inner connection can take its request; it is asked again elsewhere as long as nobody has answered
//! and its time is not over.

mod explain;
mod machine;
mod place;
mod tried;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::error::{DeniedBy, Error, Result};
use crate::id::{FlowId, Role};
use crate::node::flows::{Flow, Phase};
use crate::node::{KeyLimit, Node, ReceiveLimit};
use crate::path::burst::BurstSettings;
use crate::path::demand::Demand;
use crate::role::{Action, Answer, Asked, Notice, Open};
use crate::trust::{Protocol, Snapshot};
use crate::wire::decision::DecisionId;
use crate::wire::icmp::{Echo, EchoKind, EchoPacket};

use tried::Tried;

/// Flows that wait for a connection at once. Each holds a few hundred bytes; the peer's stream limit is of the same order.
const MAX_WAITING: usize = 8_192;
/// First pause before a connector that could not be reached is tried again, and the longest.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// What a waiting flow is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Flow(FlowId),
    Check(u64),
    Ping(u64),
    Explain(u64),
}

/// A request that no connection has taken yet.
#[derive(Debug)]
struct Waiting {
    purpose: Purpose,
    open: Open,
    /// Who leaves it one kind of path only.
    demand: Option<Demand>,
    port: u16,
    deadline: Instant,
    retry_at: Instant,
    pause: Duration,
    tried: Tried,
    /// Connectors that said no for good.
    refused: BTreeMap<String, Error>,
}

pub struct Agent {
    node: Node,
    waiting: VecDeque<Waiting>,
    /// Operations (`ping`, `check`, `explain`) and the flow that asks for them.
    ops: BTreeMap<u64, FlowId>,
    explaining: Vec<explain::Explaining>,
    /// IDs of the flows that operations open, counting down from the top: the loop counts up.
    next_internal: u64,
    next_decision: u64,
    known_services: BTreeSet<String>,
    /// Connectors that were silent: not asked again before this, if another serves.
    shunned: BTreeMap<String, Instant>,
    warned_expiry: bool,
    /// The time of the last input.
    now: Instant,
}

impl Agent {
    /// Errors: the identity is not an agent's, or can't be used.
    pub fn new(snapshot: Arc<Snapshot>, now: Instant, wall: SystemTime) -> Result<Self> {
        let role = snapshot.identity().id.role();
        if role != Role::Agent {
            return Err(Error::Identity(format!(
                "this identity is a {role}'s: `{}`; an agent's is needed",
                snapshot.identity().id
            )));
        }
        let known_services = snapshot.network.services.keys().cloned().collect();
        let node = Node::new(snapshot, true, now, wall)?;
        Ok(Agent {
            node,
            waiting: VecDeque::new(),
            ops: BTreeMap::new(),
            explaining: Vec::new(),
            next_internal: u64::MAX,
            // As at a connector: those of two runs are not to be taken for one.
            next_decision: u64::from_le_bytes(crate::quic::endpoint::random_cid(None).0) >> 16,
            known_services,
            shunned: BTreeMap::new(),
            warned_expiry: false,
            now,
        })
    }

    /// Lowers the packet limits of RFC 9001 B.1, for tests.
    pub fn set_key_limit(&mut self, limit: KeyLimit) {
        self.node.key_limit = limit;
    }

    /// Sets how much may wait for local readers.
    pub fn set_receive_limit(&mut self, limit: ReceiveLimit) {
        self.node.receive_limit = limit;
    }

    /// Whether the router is asked for a port, so that peers reach this host directly. Default: no.
    pub fn set_port_mapping(&mut self, on: bool) {
        self.node.set_port_mapping(on);
    }

    /// Sets what port bursts it makes and joins.
    pub fn set_bursts(&mut self, settings: BurstSettings) {
        self.node.set_bursts(settings);
    }

    pub fn node(&self) -> &Node {
        &self.node
    }

    fn internal_flow(&mut self) -> FlowId {
        self.next_internal -= 1;
        FlowId(self.next_internal)
    }

    /// A refusal of our own, and its ID in our log.
    fn denied(&mut self, reason: String) -> Error {
        let decision = Some(DecisionId::new(self.next_decision).to_string());
        self.next_decision = self.next_decision.wrapping_add(1);
        Error::Denied { by: DeniedBy::Agent, reason, decision, policy: None }
    }

    /// Checks a request against our own snapshot, which saves the far end's refusal.
    fn admit(&mut self, open: &Open) -> Result<u16> {
        let network = &self.node.snapshot.network;
        let Some(service) = network.service(&open.service) else {
            let known: Vec<&str> = network.services.keys().map(String::as_str).collect();
            let known = known.join(", ");
            let reason = format!("no service `{}` in this network; known: {known}", open.service.escape_debug());
            return Err(self.denied(reason));
        };
        if service.connectors.is_empty() {
            let text = format!("service `{}` has no connector: network.toml must name one", open.service);
            return Err(Error::unreachable(text));
        }
        service.resolve_port(open.protocol, open.port).map_err(|why| match (open.port, open.protocol) {
            (None, Protocol::Tcp | Protocol::Udp) => Error::config(format!("service `{}`", open.service), why),
            (Some(_), _) | (None, Protocol::Icmp) => self.denied(why),
        })
    }

    fn request(&mut self, now: Instant, purpose: Purpose, open: Open) {
        let port = match self.admit(&open) {
            Ok(port) => port,
            Err(error) => return self.fail(purpose, &open, error),
        };
        if self.node.draining.is_some() {
            return self.fail(purpose, &open, Error::Closed("this agent is closing".into()));
        }
        if self.waiting.len() >= MAX_WAITING {
            return self.fail(
                purpose,
                &open,
                Error::Limit(format!("{MAX_WAITING} flows already wait for a connection")),
            );
        }
        let deadline = now + open.timeout;
        let w = Waiting {
            purpose,
            demand: Demand::of_caller(open.path.only()),
            open,
            port,
            deadline,
            retry_at: now,
            pause: RETRY_MIN,
            tried: Tried::default(),
            refused: BTreeMap::new(),
        };
        self.waiting.push_back(w);
        self.node.probe_idle_legs(now);
        self.place_all(now);
    }

    fn fail(&mut self, purpose: Purpose, open: &Open, error: Error) {
        if let Error::Denied { by, .. } = &error {
            // We judge nothing but whether our snapshot has such a service and port.
            let why = match by {
                DeniedBy::Agent => "unknown",
                DeniedBy::Relay | DeniedBy::Connector => "policy",
            };
            *self.node.counters.denied.entry((by.as_str(), why.into())).or_default() += 1;
            if matches!(purpose, Purpose::Flow(_)) {
                let asked = Some(Asked { service: open.service.clone(), port: open.port, protocol: open.protocol });
                self.node.actions.push_back(Action::Notice(Notice::Denied { error: error.clone(), peer: None, asked }));
            }
        } else if let Purpose::Flow(flow) = purpose {
            self.node.actions.push_back(Action::Notice(Notice::FlowFailed {
                flow,
                peer: None,
                service: open.service.clone(),
                port: open.port,
                protocol: open.protocol,
                error: error.clone(),
            }));
        }
        match purpose {
            Purpose::Flow(flow) => self.node.actions.push_back(Action::Failed { flow, error }),
            Purpose::Check(op) => {
                let result = match error {
                    Error::Denied { by, reason, policy, .. } => {
                        Ok(Answer::Check { allowed: false, by, policy, reason, only: None })
                    }
                    other => Err(other),
                };
                self.node.actions.push_back(Action::Answer { op, result });
            }
            Purpose::Ping(op) | Purpose::Explain(op) => {
                self.node.actions.push_back(Action::Answer { op, result: Err(error) })
            }
        }
    }

    // ---- answers of the connector

    /// `granted`: by which policy, where the connector has said.
    fn answer(&mut self, now: Instant, id: FlowId, status: u16, granted: Result<Option<String>>, fin: bool) {
        let Some(flow) = self.node.flows.get(&id) else { return };
        let phase = flow.phase.clone();
        if (100..200).contains(&status) {
            return;
        }
        match (phase, granted) {
            (Phase::Asking, Ok(_)) if !fin => {
                if let Some(info) = self.node.flow_info(id) {
                    self.node.actions.push_back(Action::Opened { flow: id, info });
                }
                self.node.open_flow(id);
            }
            (Phase::Checking { op }, Ok(policy)) => {
                self.end_op(op);
                let reason =
                    policy.as_ref().map_or_else(|| "permitted".to_owned(), |id| format!("permitted by `{id}`"));
                let by = DeniedBy::Connector;
                let result = Ok(Answer::Check { allowed: true, by, policy, reason, only: None });
                self.node.actions.push_back(Action::Answer { op, result });
            }
            (Phase::Explaining { op }, Ok(_)) => {
                let link = flow.link;
                let deadline = flow.open.as_ref().map_or(now, |(_, deadline)| *deadline);
                self.end_op(op);
                self.look_at(now, op, link, None, deadline);
            }
            (Phase::Pinging { op, sent: None }, Ok(_)) if !fin => self.send_echo(now, id, op),
            (Phase::Pinging { op, sent: Some(sent) }, Ok(_)) => {
                self.pinged(id, op, now.saturating_duration_since(sent));
            }
            (Phase::Pinging { .. } | Phase::Explaining { .. }, Err(error)) => {
                if !self.ask_another_way(now, id, &error) {
                    self.refuse(id, error);
                }
            }
            (Phase::Asking | Phase::Checking { .. } | Phase::Pinging { .. }, granted) => {
                let error = granted.err().unwrap_or_else(|| Error::Peer("the connector ended the flow at once".into()));
                self.refuse(id, error);
            }
            (Phase::Authorizing { .. } | Phase::Dialing | Phase::Echo | Phase::Open, _) => {}
        }
    }

    /// Ends an open flow. One that is no longer permitted is told of like a request that was not.
    fn cut(&mut self, id: FlowId, error: Error) {
        if let (Error::Denied { by, .. }, Some(flow)) = (&error, self.node.flows.get(&id)) {
            *self.node.counters.denied.entry((by.as_str(), "revoked".into())).or_default() += 1;
            let asked = Some(flow.asked());
            self.node.actions.push_back(Action::Notice(Notice::Denied { error: error.clone(), peer: None, asked }));
        }
        self.node.cut_flow(id, error);
    }

    /// A request's final refusal.
    fn refuse(&mut self, id: FlowId, error: Error) {
        let Some(mut flow) = self.node.remove_flow(id) else { return };
        if let Some(link) = self.node.links.get_mut(flow.link) {
            link.conn.reset(flow.stream, crate::quic::connection::H3_REQUEST_CANCELLED);
        }
        let purpose = purpose_of(id, &flow);
        if let Purpose::Check(op) | Purpose::Ping(op) | Purpose::Explain(op) = purpose {
            self.ops.remove(&op);
        }
        let Some((open, _)) = flow.open.take() else { return };
        self.fail(purpose, &open, error);
    }

    fn end_op(&mut self, op: u64) {
        if let Some(id) = self.ops.remove(&op) {
            self.node.stream_reset(id);
        }
    }

    // ---- ping

    /// What a round trip to a service's connector can be taken with: its echo, or else a decision about the first port of each
    /// of its ranges, which opens nothing.
    fn ping_ways(&self, service: &str) -> Vec<(Protocol, Option<u16>)> {
        let echoes = self.node.snapshot.network.service(service).is_some_and(|s| s.icmp);
        if echoes { Vec::new() } else { self.flow_ways(service) }
    }

    /// Policy may permit one port of a service and not another: only a denial of all denies a question about the service.
    fn ask_another_way(&mut self, now: Instant, id: FlowId, error: &Error) -> bool {
        let Error::Denied { by: DeniedBy::Connector, .. } = error else { return false };
        let Some(flow) = self.node.flows.get(&id) else { return false };
        let purpose = purpose_of(id, flow);
        let tried = (flow.protocol, (flow.protocol != Protocol::Icmp).then_some(flow.port));
        let ways = match purpose {
            Purpose::Explain(_) => self.flow_ways(&flow.service),
            Purpose::Ping(_) | Purpose::Check(_) | Purpose::Flow(_) => self.ping_ways(&flow.service),
        };
        let next = ways.into_iter().skip_while(|way| *way != tried).nth(1);
        let (Some((protocol, port)), Some((open, deadline))) = (next, flow.open.clone()) else { return false };
        self.node.stream_reset(id);
        let open = Open { protocol, port, timeout: deadline.saturating_duration_since(now), ..open };
        self.request(now, purpose, open);
        true
    }

    fn pinged(&mut self, id: FlowId, op: u64, rtt: Duration) {
        let path = self.node.flows.get(&id).and_then(|f| self.node.describe_path(f.link));
        self.end_op(op);
        if let Some(path) = path {
            self.node.actions.push_back(Action::Answer { op, result: Ok(Answer::Ping { rtt, path }) });
        }
    }

    fn send_echo(&mut self, now: Instant, id: FlowId, op: u64) {
        let Some(flow) = self.node.flows.get_mut(&id) else { return };
        flow.phase = Phase::Pinging { op, sent: Some(now) };
        let dst = self.node.snapshot.network.virtual_address(&flow.service);
        let echo = Echo { kind: EchoKind::Request, id: op as u16, seq: 1, payload: b"ztna" };
        let packet = EchoPacket { src: std::net::Ipv6Addr::LOCALHOST.into(), dst: dst.into(), echo };
        let mut payload = Vec::new();
        if packet.build(&mut payload) {
            self.node.datagram_write(id, &payload);
        }
    }

    fn echo_reply(&mut self, now: Instant, id: FlowId, payload: &[u8]) {
        let Some(Phase::Pinging { op, sent: Some(sent) }) = self.node.flows.get(&id).map(|f| f.phase.clone()) else {
            return;
        };
        let Some((0, header)) = crate::wire::connect_udp::split_context(payload) else { return };
        let Ok(packet) = EchoPacket::parse(payload.get(header..).unwrap_or_default()) else { return };
        if packet.echo.kind != EchoKind::Reply || packet.echo.id != op as u16 {
            return;
        }
        self.pinged(id, op, now.saturating_duration_since(sent));
    }
}

fn purpose_of(id: FlowId, flow: &Flow) -> Purpose {
    match flow.phase {
        Phase::Checking { op } => Purpose::Check(op),
        Phase::Pinging { op, .. } => Purpose::Ping(op),
        Phase::Explaining { op } => Purpose::Explain(op),
        Phase::Asking | Phase::Authorizing { .. } | Phase::Dialing | Phase::Echo | Phase::Open => Purpose::Flow(id),
    }
}
