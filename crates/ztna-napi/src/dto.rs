//! Values of the core as the JSON that crosses (docs/decisions/0002).

use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use ztna_core::error::Error;
use ztna_core::metrics::epoch_ms;
use ztna_core::node::Node;
use ztna_core::node::listing::ListedFlow;
use ztna_core::path::explain::Evidence;
use ztna_core::path::nat;
use ztna_core::port_mapping::MappingProtocol;
use ztna_core::role::{Answer, FlowInfo, Notice, PathInfo, PathKind, PathPolicy};
use ztna_core::trust::{PathClass, PeerIdentity, Snapshot};
use ztna_core::wire::path_signal::{CandidateKind, Outcome};

/// An error as `{code, message, retryable, details}`.
pub fn error(e: &Error) -> Value {
    let details = match e {
        Error::Config { at, .. } => json!({ "at": at }),
        Error::Denied { by, reason, decision, policy } => {
            json!({ "by": by.to_string(), "reason": reason, "decisionId": decision, "policyId": policy })
        }
        Error::Unreachable { reason, tried, .. } => json!({ "reason": reason, "tried": tried }),
        Error::StreamReset { by, code } => json!({ "by": by.to_string(), "code": code }),
        // The compiler asks for it: the enum of another crate may grow. What is not above has no details.
        _ => json!({}),
    };
    json!({ "code": e.code(), "message": short(e.to_string()), "retryable": e.is_retryable(), "details": details })
}

/// An error as napi throws it: the JSON is the message.
pub fn throw(e: &Error) -> napi::Error {
    napi::Error::from_reason(error(e).to_string())
}

/// A caller's JSON that does not have the shape agreed on.
pub fn bad_json(e: &serde_json::Error) -> napi::Error {
    throw(&Error::config("options", e.to_string()))
}

/// Characters of a message that are told. It may quote all that a caller gave.
const MESSAGE: usize = 1_500;

fn short(message: String) -> String {
    match message.char_indices().nth(MESSAGE) {
        Some((end, _)) => format!("{}…", message.get(..end).unwrap_or_default()),
        None => message,
    }
}

pub fn identity(p: &PeerIdentity, groups: Vec<&str>) -> Value {
    json!({
        "id": p.id.to_string(), "role": p.id.role().as_str(), "name": p.id.name(), "groups": groups,
        "serial": p.serial, "expiresAt": epoch_ms(p.not_after),
    })
}

pub fn peer(p: &PeerIdentity, snapshot: &Snapshot) -> Value {
    let groups = snapshot
        .network
        .agents
        .get(p.id.name())
        .map(|a| a.groups.iter().map(String::as_str).collect())
        .unwrap_or_default();
    identity(p, groups)
}

/// Its name, and how a relayed one is carried.
fn path_kind(kind: PathKind) -> (&'static str, Option<&'static str>) {
    match kind {
        PathKind::Direct => ("direct", None),
        PathKind::Relay { forwarded: true } => ("relay", Some("forwarded")),
        PathKind::Relay { forwarded: false } => ("relay", Some("tunnel")),
        PathKind::None => ("none", None),
    }
}

pub fn path(p: &PathInfo) -> Value {
    let (kind, mode) = path_kind(p.kind);
    let since = SystemTime::now() - Instant::now().saturating_duration_since(p.since);
    json!({
        "kind": kind, "mode": mode, "relay": p.relay, "local": p.local, "remote": p.remote,
        "rttMs": ms(p.rtt), "mtu": p.mtu, "lossPct": p.loss_pct, "since": epoch_ms(since),
    })
}

pub fn ms(d: Duration) -> f64 {
    (d.as_secs_f64() * 1e6).round() / 1e3
}

/// A flow's far end. `remoteAddress` is the peer's virtual address, the same in every flow of that peer.
pub fn flow(info: &FlowInfo, id: u64, snapshot: &Snapshot) -> Value {
    json!({
        "peer": peer(&info.peer, snapshot), "service": info.service, "port": info.port, "path": path(&info.path),
        "remoteAddress": snapshot.network.virtual_address(&info.peer.id.to_string()), "remotePort": (id % 64_511) + 1_024,
        "traceparent": info.traceparent, "connection": info.connection,
    })
}

/// The fields of `event` and those of `more`.
pub fn join(mut event: Value, more: Value) -> Value {
    if let (Value::Object(fields), Value::Object(more)) = (&mut event, more) {
        fields.extend(more);
    }
    event
}

pub fn answer(a: &Answer) -> Value {
    match a {
        Answer::Ping { rtt, path: p } => json!({ "rttMs": ms(*rtt), "path": path(p) }),
        Answer::Explain { path: p, evidence, peer } => explanation(p, evidence, peer),
        Answer::Check { allowed, by, policy, reason, only } => json!({
            "allowed": allowed, "by": by.to_string(), "policyId": policy, "reason": reason,
            "path": only.map(PathClass::as_str),
        }),
    }
}

/// PathExplanation of api.d.ts.
fn explanation(p: &PathInfo, evidence: &Evidence, peer: &str) -> Value {
    let reasons: Vec<Value> = evidence
        .reasons
        .iter()
        .map(|w| json!({ "code": w.cause.as_str(), "detail": w.detail, "remedy": w.remedy }))
        .collect();
    let ours = evidence.checks.iter().map(|c| {
        let local = c.local.ip.map_or_else(|| "this end".to_owned(), |ip| ip.to_string());
        let at = c.at.map(|t| epoch_ms(SystemTime::now() - Instant::now().saturating_duration_since(t)));
        check(&local, &c.candidate.address.to_string(), c.candidate.kind, c.outcome, c.rtt, at)
    });
    let theirs = evidence
        .remote_checks
        .iter()
        .map(|r| check(&r.candidate.address.to_string(), peer, r.candidate.kind, r.outcome, r.rtt, None));
    let mapping = &evidence.port_mapping;
    json!({
        "path": path(p), "reasons": reasons,
        "demand": evidence.demand.as_ref().map(|d| {
            json!({ "path": d.only.as_str(), "by": d.by.as_str(), "policyId": d.policy(), "detail": d.describe() })
        }),
        "nat": { "local": nat::describe(evidence.local_nat), "remote": nat::describe(evidence.remote_nat) },
        "portMapping": {
            "state": mapping.as_str(), "protocol": mapping.protocol().map(MappingProtocol::as_str),
            "external": mapping.external(), "detail": mapping.describe(),
        },
        "checks": ours.chain(theirs).collect::<Vec<Value>>(),
    })
}

fn check(
    local: &str,
    remote: &str,
    via: CandidateKind,
    outcome: Outcome,
    rtt: Option<Duration>,
    at: Option<u64>,
) -> Value {
    let via = match via {
        CandidateKind::Host => "host",
        CandidateKind::ServerReflexive => "srflx",
        CandidateKind::PeerReflexive => "prflx",
        CandidateKind::PortMapped => "portmap",
    };
    let result = match outcome {
        Outcome::Waiting => "checking",
        Outcome::Answered => "ok",
        Outcome::Narrow => "narrow",
        Outcome::TimedOut => "timeout",
        Outcome::Refused => "refused",
        Outcome::Held => "held",
    };
    json!({ "local": local, "remote": remote, "via": via, "result": result, "rttMs": rtt.map(ms), "at": at })
}

pub fn notice(n: &Notice, snapshot: &Snapshot) -> Value {
    match n {
        Notice::State { next, prev, reason } => {
            json!({ "event": "state", "next": next.as_str(), "prev": prev.as_str(), "reason": reason })
        }
        Notice::Warning(e) => json!({ "event": "warning", "error": error(e) }),
        Notice::NotReloaded(e) => {
            let told = json!({ "message": format!("not reloaded: {e}") });
            json!({ "event": "warning", "error": join(error(e), told) })
        }
        Notice::Path { connection, peer, next, prev } => {
            json!({ "event": "path", "connection": connection, "peer": peer, "next": path(next), "prev": path(prev) })
        }
        Notice::Services { added, removed } => json!({ "event": "services", "added": added, "removed": removed }),
        Notice::Denied { error: e, peer: p, asked } => {
            let mut told = error(e);
            if let (Some(asked), Value::Object(told)) = (asked, &mut told) {
                let more = json!({ "service": asked.service, "port": asked.port, "protocol": asked.protocol.as_str() });
                let details = told.remove("details").unwrap_or(Value::Null);
                told.insert("details".to_owned(), join(details, more));
            }
            json!({ "event": "denied", "error": told, "peer": p.as_ref().map(|p| peer(p, snapshot)) })
        }
        Notice::FlowFailed { flow, peer: p, service, port, protocol, error: e } => json!({
            "event": "flow-failed", "id": flow.to_string(), "peer": p.as_ref().map(|p| peer(p, snapshot)), "service": service,
            "port": port, "protocol": protocol.as_str(), "error": error(e),
        }),
        Notice::Flow { flow, peer: p, service, protocol } => {
            json!({ "event": "flow", "id": flow.to_string(), "peer": peer(p, snapshot), "service": service, "protocol": protocol.as_str() })
        }
        Notice::Authorize { flow, info } => json!({
            "event": "authorize", "flow": flow.0, "peer": peer(&info.peer, snapshot), "service": info.service, "port": info.port,
            "protocol": info.protocol.as_str(), "path": path(&info.path),
        }),
        Notice::Session { id, agent, connector } => {
            json!({ "event": "session", "id": id.to_string(), "agent": agent, "connector": connector })
        }
        Notice::SessionEnd { id, why } => json!({ "event": "session-end", "id": id.to_string(), "why": why }),
    }
}

/// What `flows()` gives, of `Node::list_flows`.
pub fn flows((listed, more): (Vec<ListedFlow>, usize)) -> Value {
    let listed: Vec<Value> = listed.iter().map(listed_flow).collect();
    json!({ "flows": listed, "more": more })
}

fn listed_flow(f: &ListedFlow) -> Value {
    let path = path_kind(f.path).0;
    let since = SystemTime::now() - Instant::now().saturating_duration_since(f.since);
    json!({
        "id": f.id.to_string(), "service": f.service, "port": f.port, "protocol": f.protocol.as_str(), "peer": f.peer,
        "open": f.open, "path": path, "relay": f.relay, "rxBytes": f.bytes.rx, "txBytes": f.bytes.tx, "since": epoch_ms(since),
    })
}

/// What `status()` gives for an agent or a connector.
pub fn node_status(node: &Node) -> Value {
    let relays: Vec<Value> = node
        .legs
        .iter()
        .map(|(_, l)| {
            let state = if l.is_ready() {
                "online"
            } else if l.is_alive() {
                "draining"
            } else if l.ever_ready {
                "degraded"
            } else {
                "starting"
            };
            let rtt = if l.is_alive() { ms(l.rtt()) } else { 0.0 };
            json!({ "name": l.relay, "state": state, "rttMs": rtt, "observed": l.observed, "bound": l.bound, "detail": (!l.is_ready()).then(|| l.describe()) })
        })
        .collect();
    let mut paths = serde_json::Map::new();
    let peers: Vec<Value> = node
        .links
        .iter()
        .filter(|(_, l)| l.conn.is_established())
        .filter_map(|(k, l)| {
            let info = path(&node.usable_path(k)?);
            // What is told by name is the connection that anything may take, where there is one.
            if l.policy == PathPolicy::Auto || !paths.contains_key(&l.peer) {
                paths.insert(l.peer.clone(), info.clone());
            }
            let services: Vec<&str> =
                node.snapshot.network.services_of_connector(&l.peer).map(|s| s.name.as_str()).collect();
            let (policy, flows) = (l.policy.as_str(), l.flows.len());
            Some(json!({ "name": l.peer, "path": info, "pathPolicy": policy, "flows": flows, "services": services }))
        })
        .collect();
    let count = |p| node.flows.values().filter(|f| f.protocol == p).count();
    let c = &node.counters;
    let flows = json!({ "tcp": count(ztna_core::trust::Protocol::Tcp), "udp": count(ztna_core::trust::Protocol::Udp) });
    let own = node.snapshot.identity();
    json!({
        "name": own.id.name(), "state": node.state.as_str(), "relays": relays,
        if node.is_agent { "connectors" } else { "agents" }: peers,
        "outage": node.outage().map(|e| join(error(&e), json!({ "message": e.detail() }))),
        "certificate": { "expiresAt": epoch_ms(own.not_after) },
        "version": node.snapshot.version,
        "stats": { "rxBytes": c.direct_rx + c.forwarded_rx + c.tunnel_rx, "txBytes": c.direct_tx + c.forwarded_tx + c.tunnel_tx, "flows": flows, "paths": paths },
    })
}
