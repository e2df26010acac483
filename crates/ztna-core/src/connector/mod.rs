//! The connector: admits flows by policy and takes them to the services beside it.

mod machine;
mod misdirected;
mod request;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::error::{DeniedBy, Error, Result};
use crate::id::{FlowId, Role};
use crate::node::flows::{CLOSING, Flow, NOT_SERVED, POLICY, Phase, REASON, REASONS};
use crate::node::{KeyLimit, Node, ReceiveLimit};
use crate::path::burst::BurstSettings;
use crate::path::demand::permits;
use crate::quic::{Fields, StreamId};
use crate::role::{Action, Asked, FlowInfo, Notice, Target};
use crate::trust::policy::forbidden_by;
use crate::trust::{Decision, FlowContext, PathClass, PeerIdentity, PortRange, Protocol, Snapshot};
use crate::wire::decision::DecisionId;
use crate::wire::proxy_status::{ProxyError, ProxyStatus};

use request::Request;

/// TCP dial (protocol.md, Timers).
const DIAL: Duration = Duration::from_secs(5);
/// How long the embedding program may take to judge a flow; silence is a denial (api.d.ts).
const AUTHORIZE: Duration = Duration::from_secs(5);
/// Flows of one agent's connection (protocol.md).
const MAX_FLOWS: usize = 4_096;
/// How often flows are judged again while a policy reads `now` (contract.md).
const REJUDGE: Duration = Duration::from_secs(60);

/// Where flows of a service go.
#[derive(Debug, Clone)]
pub struct Serve {
    pub service: String,
    pub protocol: Protocol,
    /// `None`: all ports of the service.
    pub ports: Option<PortRange>,
    pub target: Target,
    pub max_connections: Option<usize>,
    /// Closing: answers 503, flows that run go on.
    pub closing: bool,
}

pub struct Connector {
    node: Node,
    serves: BTreeMap<u64, Serve>,
    next_serve: u64,
    /// Flow → serve, for limits and for closing a serve.
    served: BTreeMap<FlowId, u64>,
    /// Reachability probes of echo flows: probe → echo flow.
    probes: BTreeMap<FlowId, FlowId>,
    next_flow: u64,
    next_decision: u64,
    authorize: bool,
    warned_expiry: bool,
    rejudge_at: Instant,
    /// The word of the relay at which a newer process of this identity is bound.
    replaced: Option<Error>,
    now: Instant,
}

impl Connector {
    /// `authorize`: every flow that policy permits is also put to the embedding program.
    /// Errors: the identity is not a connector's, or can't be used.
    pub fn new(snapshot: Arc<Snapshot>, authorize: bool, now: Instant, wall: SystemTime) -> Result<Self> {
        let role = snapshot.identity().id.role();
        if role != Role::Connector {
            return Err(Error::Identity(format!(
                "this identity is a {role}'s: `{}`; a connector's is needed",
                snapshot.identity().id
            )));
        }
        Ok(Connector {
            node: Node::new(snapshot, false, now, wall)?,
            serves: BTreeMap::new(),
            next_serve: 1,
            served: BTreeMap::new(),
            probes: BTreeMap::new(),
            // Decision and flow IDs start at a random place, so that those of two runs are not taken for one.
            next_flow: u64::from_le_bytes(crate::quic::endpoint::random_cid(None).0) >> 16,
            next_decision: u64::from_le_bytes(crate::quic::endpoint::random_cid(None).0) >> 16,
            authorize,
            warned_expiry: false,
            rejudge_at: now + REJUDGE,
            replaced: None,
            now,
        })
    }

    pub fn set_key_limit(&mut self, limit: KeyLimit) {
        self.node.key_limit = limit;
    }

    /// Sets how much may wait for the services.
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

    /// Starts serving. Errors: no such service in the network, or not ours, or ports it does not have, or served already.
    pub fn serve(&mut self, serve: Serve) -> Result<u64> {
        let network = &self.node.snapshot.network;
        let own = self.node.snapshot.identity().id.name();
        let at = format!("service `{}`", serve.service);
        let Some(service) = network.service(&serve.service) else {
            let known: Vec<&str> = network.services_of_connector(own).map(|s| s.name.as_str()).collect();
            return Err(Error::config(at, format!("not in this network; connector `{own}` has: {}", known.join(", "))));
        };
        if !service.connectors.iter().any(|c| c == own) {
            return Err(Error::config(
                at,
                format!("network.toml gives it to {}, not to `{own}`", service.connectors.join(", ")),
            ));
        }
        let ranges = match serve.protocol {
            Protocol::Tcp => &service.tcp,
            Protocol::Udp => &service.udp,
            Protocol::Icmp => return Err(Error::config(at, "echo is answered by itself; serve a TCP or UDP port")),
        };
        let covered = match serve.ports {
            // Neighbours may be listed one by one: [80, 81] covers 80-81.
            Some(p) => (p.lo..=p.hi).all(|port| ranges.iter().any(|r| r.contains(port))),
            None => !ranges.is_empty(),
        };
        if !covered {
            let list: Vec<String> = ranges.iter().map(ToString::to_string).collect();
            let list = if list.is_empty() { "none".to_owned() } else { list.join(", ") };
            return Err(Error::config(
                at,
                format!("its {} ports in network.toml are: {list}", serve.protocol.as_str()),
            ));
        }
        let overlap = |a: Option<PortRange>, b: Option<PortRange>| match (a, b) {
            (Some(a), Some(b)) => a.lo <= b.hi && b.lo <= a.hi,
            (None, _) | (_, None) => true,
        };
        if self.serves.values().any(|s| {
            !s.closing && s.service == serve.service && s.protocol == serve.protocol && overlap(s.ports, serve.ports)
        }) {
            return Err(Error::config(at, "these ports are served already"));
        }
        let id = self.next_serve;
        self.next_serve += 1;
        let serve = Serve {
            target: if let Target::Handler(_) = serve.target { Target::Handler(id) } else { serve.target },
            ..serve
        };
        self.serves.insert(id, serve);
        Ok(id)
    }

    /// Flows of a serve that are open now.
    pub fn serve_connections(&self, id: u64) -> usize {
        self.served.iter().filter(|(flow, serve)| **serve == id && self.node.flows.contains_key(flow)).count()
    }

    /// Stops taking new flows of a serve. Gives how many still run; 0 forgets it.
    pub fn unserve(&mut self, id: u64) -> usize {
        let left = self.serve_connections(id);
        if let Some(serve) = self.serves.get_mut(&id) {
            serve.closing = true;
        }
        if left == 0 {
            self.serves.remove(&id);
        }
        left
    }

    /// Cuts what still runs of a serve.
    pub fn cut_serve(&mut self, id: u64) {
        let flows: Vec<FlowId> = self.served.iter().filter(|(_, s)| **s == id).map(|(f, _)| *f).collect();
        for flow in flows {
            self.node.cut_flow(flow, Error::Closed("the service was closed".into()));
        }
        self.serves.remove(&id);
    }

    // ---- admission

    fn decide(&self, now: Instant, agent: &str, path: PathClass, asked: &Asked) -> Decision {
        let (service, port, protocol) = (asked.service.as_str(), asked.port.unwrap_or(0), asked.protocol);
        match &self.node.snapshot.policy {
            Some(policy) => {
                policy.decide(agent, &FlowContext { service, protocol, port, path, now: self.node.wall(now) })
            }
            None => Decision { allowed: false, policy_id: None, reason: "there is no policy".into() },
        }
    }

    /// Whether a flow may be; `elsewhere` says of its service that this is not the connector for it.
    /// Gives the policy that permits it.
    fn judge(
        &self,
        now: Instant,
        link: usize,
        agent: &str,
        asked: &Asked,
        elsewhere: &str,
    ) -> Result<Option<String>, Denial> {
        let mut policy = None;
        for path in self.path_classes(link) {
            let decision = self.decide(now, agent, path, asked);
            if !decision.allowed {
                return Err(Denial { reason: decision.reason, policy: decision.policy_id });
            }
            policy = decision.policy_id;
        }
        let (own, service) = (self.node.snapshot.identity().id.name(), &asked.service);
        if self.node.snapshot.network.service(service).is_some_and(|s| s.connectors.iter().any(|c| c == own)) {
            return Ok(policy);
        }
        Err(Denial { reason: format!("service `{service}` {elsewhere}"), policy: None })
    }

    /// How the flow's data travels now: policy may forbid or demand either (contract.md). The two ends move one after the other, and
    /// in between both have to be permitted.
    fn path_classes(&self, link: usize) -> impl Iterator<Item = PathClass> + use<> {
        let kinds = self.node.links.get(link).map(|l| l.path.kinds());
        let direct = kinds.is_some_and(|k| k.direct).then_some(PathClass::Direct);
        let relay = kinds.is_none_or(|k| k.relay || !k.direct).then_some(PathClass::Relay);
        relay.into_iter().chain(direct)
    }

    fn admit(&mut self, now: Instant, link: usize, stream: StreamId, fields: &Fields) {
        self.node.sweep_served(&mut self.served);
        let Some(peer) = self.node.links.get(link).and_then(|l| l.conn.identity().cloned()) else { return };
        let zone = self.node.snapshot.network.zone.clone();
        let request = match Request::read(fields, &zone) {
            Ok(r) => r,
            Err((status, why)) => return self.refuse(link, stream, status, ProxyError::HttpRequestDenied, &why),
        };
        let port = (request.protocol != Protocol::Icmp).then_some(request.port);
        let asked = Asked { service: request.service.clone(), port, protocol: request.protocol };
        let wanted = self.only_path(now, peer.id.name(), &asked);
        match (request.only, wanted) {
            (None, Some((only, policy))) => {
                return self.misdirect(link, stream, only, permits(policy.as_deref(), only));
            }
            (Some(only), Some((other, policy))) if only != other => {
                let reason = permits(policy.as_deref(), other);
                return self.deny(link, stream, Some(peer), asked, Denial { reason, policy });
            }
            (Some(only), _) => {
                if let Some(only) = self.keep_to(link, only) {
                    return self.misdirect(link, stream, only, "not both ends send directly yet".to_owned());
                }
            }
            (None, None) => {}
        }
        let granted = match self.judge(now, link, peer.id.name(), &asked, "is not on this connector") {
            Ok(granted) => granted,
            Err(denial) => return self.deny(link, stream, Some(peer), asked, denial),
        };
        let flows = self.node.links.get(link).map_or(0, |l| l.flows.len());
        if flows >= MAX_FLOWS {
            return self.refuse(
                link,
                stream,
                429,
                ProxyError::ConnectionLimitReached,
                &format!("{MAX_FLOWS} flows on one connection"),
            );
        }
        if request.check {
            let policy = granted.as_deref().map(|id| (POLICY, id));
            let fields: Vec<(&str, &str)> = std::iter::once((":status", "200")).chain(policy).collect();
            self.node.respond(link, stream, &fields, true);
            return;
        }
        let id = FlowId(self.next_flow);
        self.next_flow += 1;
        let mut flow = Flow::new(link, stream, request.service.clone(), request.port, request.protocol, Phase::Dialing);
        flow.traceparent = request.traceparent;
        self.node.add_flow(id, flow);
        if self.authorize
            && let Some(info) = self.node.flow_info(id)
        {
            if let Some(f) = self.node.flows.get_mut(&id) {
                f.phase = Phase::Authorizing { until: now + AUTHORIZE };
            }
            self.node.actions.push_back(Action::Notice(Notice::Authorize { flow: id, info }));
            return;
        }
        self.dial(id);
    }

    /// Sends an admitted flow to its target.
    fn dial(&mut self, id: FlowId) {
        let Some(flow) = self.node.flows.get_mut(&id) else { return };
        flow.phase = Phase::Dialing;
        let (service, port, protocol) = (flow.service.clone(), flow.port, flow.protocol);
        let probed = if protocol == Protocol::Icmp { Protocol::Tcp } else { protocol };
        let serving = |s: &Serve| {
            s.service == service
                && s.protocol == probed
                && (protocol == Protocol::Icmp || s.ports.is_none_or(|p| p.contains(port)))
        };
        // Beside one that is closing there may be the next one of the same service.
        let found = self.serves.iter().filter(|(_, s)| serving(s)).min_by_key(|(_, s)| s.closing);
        let Some((serve_id, serve)) = found.map(|(k, s)| (*k, s.clone())) else {
            let protocol = probed.as_str();
            let message = format!(
                "it serves no {protocol} port {port} of `{service}`: start it with --service {service}={protocol}:{port}:HOST:PORT"
            );
            let reason = Some(NOT_SERVED);
            return self.answer_refusal(id, &Error::Unreachable { message, reason, tried: Vec::new() });
        };
        let full = serve.max_connections.is_some_and(|max| self.serve_connections(serve_id) >= max);
        if serve.closing {
            let (message, reason) = (format!("service `{service}` is closing"), Some(CLOSING));
            return self.answer_refusal(id, &Error::Unreachable { message, reason, tried: Vec::new() });
        }
        if full {
            return self
                .answer_refusal(id, &Error::Limit(format!("service `{service}` has as many connections as it takes")));
        }
        let Some(info) = self.node.flow_info(id) else { return };
        let target = match &serve.target {
            Target::Host { host, port: base } => {
                let offset =
                    if protocol == Protocol::Icmp { 0 } else { serve.ports.map_or(0, |p| port.saturating_sub(p.lo)) };
                Target::Host { host: host.clone(), port: base.saturating_add(offset) }
            }
            other @ (Target::Unix(_) | Target::Handler(_) | Target::Echo) => other.clone(),
        };
        if protocol == Protocol::Icmp {
            return self.probe(id, target, info);
        }
        self.served.insert(id, serve_id);
        let notice = Notice::Flow { flow: id, peer: info.peer.clone(), service, protocol };
        self.node.actions.push_back(Action::Notice(notice));
        self.node.actions.push_back(Action::Dial { flow: id, target, info, timeout: DIAL });
    }

    /// Echo is answered for a service that can be reached: its TCP target is dialled once, and let go.
    fn probe(&mut self, id: FlowId, target: Target, info: FlowInfo) {
        if let Target::Handler(_) = target {
            return self.echo_ready(id);
        }
        let probe = FlowId(self.next_flow);
        self.next_flow += 1;
        self.probes.insert(probe, id);
        let info = FlowInfo { protocol: Protocol::Tcp, ..info };
        self.node.actions.push_back(Action::Dial { flow: probe, target, info, timeout: DIAL });
    }

    fn echo_ready(&mut self, id: FlowId) {
        let Some(flow) = self.node.flows.get_mut(&id) else { return };
        flow.phase = Phase::Echo;
        let (link, stream) = (flow.link, flow.stream);
        self.node.respond(link, stream, &[(":status", "200"), ("capsule-protocol", "?1")], false);
    }

    // ---- answers

    fn deny(&mut self, link: usize, stream: StreamId, peer: Option<Arc<PeerIdentity>>, asked: Asked, denial: Denial) {
        let label = if denial.policy.is_some() { "policy" } else { "default" };
        let text = denial.wire_text();
        let (id, error) = self.denied(label, denial);
        self.refuse(link, stream, 403, ProxyError::HttpRequestDenied, &format!("{id}: {text}"));
        self.node.actions.push_back(Action::Notice(Notice::Denied { error, peer, asked: Some(asked) }));
    }

    /// Counts a denial and gives it an ID.
    fn denied(&mut self, label: &str, denial: Denial) -> (DecisionId, Error) {
        let id = DecisionId::new(self.next_decision);
        self.next_decision = self.next_decision.wrapping_add(1);
        *self.node.counters.denied.entry(("connector", label.into())).or_default() += 1;
        let Denial { reason, policy } = denial;
        (id, Error::Denied { by: DeniedBy::Connector, reason, decision: Some(id.to_string()), policy })
    }

    fn refuse(&mut self, link: usize, stream: StreamId, status: u16, error: ProxyError, details: &str) {
        self.refuse_for(link, stream, status, error, details, None);
    }

    fn refuse_for(
        &mut self,
        link: usize,
        stream: StreamId,
        status: u16,
        error: ProxyError,
        details: &str,
        reason: Option<&str>,
    ) {
        let proxy = self.node.snapshot.identity().id.dns_name();
        let header = ProxyStatus { proxy, error, details: Some(details.to_owned()) }.to_header();
        let status = status.to_string();
        let fields = [(":status", status.as_str()), ("proxy-status", &header)];
        let fields: Vec<(&str, &str)> = fields.into_iter().chain(reason.map(|reason| (REASON, reason))).collect();
        self.node.refuse(link, stream, &fields);
    }

    /// Refuses a flow that was already admitted.
    fn answer_refusal(&mut self, id: FlowId, error: &Error) {
        let Some(flow) = self.node.remove_flow(id) else { return };
        self.served.remove(&id);
        self.node.actions.push_back(Action::Notice(Notice::FlowFailed {
            flow: id,
            peer: self.node.links.get(flow.link).and_then(|l| l.conn.identity().cloned()),
            service: flow.service.clone(),
            port: Some(flow.port),
            protocol: flow.protocol,
            error: error.clone(),
        }));
        let (status, kind) = match error {
            Error::Refused(_) => (502, ProxyError::ConnectionRefused),
            Error::Timeout(_) => (504, ProxyError::ConnectionTimeout),
            Error::Unreachable { reason: Some("dns"), .. } => (502, ProxyError::DnsError),
            Error::Limit(_) => (429, ProxyError::ConnectionLimitReached),
            Error::Denied { .. } => (403, ProxyError::HttpRequestDenied),
            Error::Unreachable { .. }
            | Error::Config { .. }
            | Error::Identity(_)
            | Error::Permission(_)
            | Error::Aborted
            | Error::StreamReset { .. }
            | Error::Closed(_)
            | Error::Peer(_)
            | Error::Internal(_) => (503, ProxyError::DestinationUnavailable),
        };
        let reason = if let Error::Unreachable { reason, .. } = error { *reason } else { None };
        let reason = reason.filter(|reason| REASONS.contains(reason));
        self.refuse_for(flow.link, flow.stream, status, kind, &error.detail(), reason);
    }

    /// Judges every flow again: what is no longer permitted is cut now.
    fn rejudge(&mut self, now: Instant) {
        self.rejudge_where(now, |_| true);
    }

    /// Judges again the flows of those inner connections.
    fn rejudge_where(&mut self, now: Instant, wanted: impl Fn(usize) -> bool) {
        let flows = self.node.flows.iter().filter(|(_, f)| wanted(f.link));
        let flows: Vec<(FlowId, usize, Asked)> = flows.map(|(k, f)| (*k, f.link, f.asked())).collect();
        for (id, link, asked) in flows {
            let Some(peer) = self.node.links.get(link).and_then(|l| l.conn.identity().cloned()) else { continue };
            let Err(denial) = self.judge(now, link, peer.id.name(), &asked, "is no longer served by this connector")
            else {
                continue;
            };
            let (decision, error) = self.denied("revoked", denial);
            let notice = Notice::Denied { error: error.clone(), peer: Some(peer), asked: Some(asked) };
            self.node.actions.push_back(Action::Notice(notice));
            self.node.cut_flow_with(id, decision.to_reset_code(), error);
        }
    }
}

/// Why a flow may not be.
struct Denial {
    reason: String,
    policy: Option<String>,
}

impl Denial {
    /// What the agent is told: which policy, and not what it computed.
    fn wire_text(&self) -> String {
        match &self.policy {
            Some(policy) if !self.is_plain(policy) => format!("policy `{policy}` failed"),
            Some(_) | None => self.reason.clone(),
        }
    }

    /// Whether the reason holds nothing but the policy's name.
    fn is_plain(&self, policy: &str) -> bool {
        let only = [PathClass::Direct, PathClass::Relay].map(|path| permits(Some(policy), path));
        self.reason == forbidden_by(policy) || only.contains(&self.reason)
    }
}
