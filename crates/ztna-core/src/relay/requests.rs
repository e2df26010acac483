//! Requests on outer connections: a connector's bind, an agent's way to a connector, and refusals of all else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::conn::{Bind, Capsules, Stream};
use super::counters::{Count, Denial};
use super::drain::Phase;
use super::inbox::LoopMessage;
use super::machine::{AgentHalf, Relay};
use super::rate::Policer;
use super::registry::{BindEntry, Full, Session};
use super::shared::random_alias;
use crate::error::{DeniedBy, Error};
use crate::id::Role;
use crate::quic::connection::{H3_REQUEST_CANCELLED, StreamId};
use crate::quic::{ConnKey, Fields, field};
use crate::role::Notice;
use crate::trust::PeerIdentity;
use crate::wire::connect_udp::{self, Target};
use crate::wire::proxy_status::{ProxyError, ProxyStatus};

/// The port that stands in the path to a connector (protocol.md); there is nothing behind any other.
const CONNECTOR_PORT: u16 = 443;

pub(super) struct Request {
    pub(super) fields: Fields,
    pub(super) fin: bool,
}

/// The status of a judgement of who asks.
const DENIED: &str = "403";

/// A refusal, as the peer and the operator read it.
struct Refusal {
    status: &'static str,
    error: ProxyError,
    why: Denial,
    details: String,
    policy: Option<String>,
}

impl Refusal {
    fn new(status: &'static str, error: ProxyError, why: Denial, details: impl Into<String>) -> Self {
        Refusal { status, error, why, details: details.into(), policy: None }
    }
    fn bad(status: &'static str, details: impl Into<String>) -> Self {
        Refusal::new(status, ProxyError::Other("http_request_error".into()), Denial::BadRequest, details)
    }
}

impl Relay {
    pub(super) fn on_headers(&mut self, now: Instant, key: ConnKey, stream: StreamId, request: &Request) {
        let Some(conn) = self.conn(key) else { return };
        conn.next_stream = conn.next_stream.max(stream + 4);
        let Some(peer) = conn.peer.clone() else { return };
        let done = if conn.streams.contains_key(&stream) {
            // Trailers: a tunnel has none (RFC 9114 §4.4).
            return self.reset_stream(key, stream, crate::quic::connection::H3_MESSAGE_ERROR, "it sent trailers");
        } else {
            self.answer_request(now, key, stream, request, &peer)
        };
        match done {
            Ok(()) => self.take_early(key, stream),
            Err(refusal) => self.refuse(key, stream, &peer, refusal),
        }
    }

    fn answer_request(
        &mut self,
        now: Instant,
        key: ConnKey,
        stream: StreamId,
        request: &Request,
        peer: &Arc<PeerIdentity>,
    ) -> Result<(), Refusal> {
        let fields = &request.fields;
        if field(fields, ":method") != Some("CONNECT") {
            return Err(Refusal::bad("405", "a relay takes CONNECT only"));
        }
        if field(fields, ":protocol") != Some("connect-udp") {
            return Err(Refusal::bad("501", "a relay takes `:protocol connect-udp` only"));
        }
        if request.fin {
            return Err(Refusal::bad("400", "the stream ended with its request"));
        }
        if self.phase != Phase::Running {
            return Err(Refusal::new(
                "503",
                ProxyError::DestinationUnavailable,
                Denial::Draining,
                "the relay is shutting down",
            ));
        }
        let path = field(fields, ":path").unwrap_or_default();
        match connect_udp::parse_path(path).map_err(|e| Refusal::bad("400", e.to_string()))? {
            Target::Bind if field(fields, "connect-udp-bind") == Some("?1") => self.on_bind(now, key, stream, peer),
            Target::Bind => Err(Refusal::bad("400", "a path of `*` needs `connect-udp-bind: ?1`")),
            Target::Host { host, port } => self.on_connect(key, stream, peer, &host, port),
        }
    }

    fn on_bind(
        &mut self,
        now: Instant,
        key: ConnKey,
        stream: StreamId,
        peer: &Arc<PeerIdentity>,
    ) -> Result<(), Refusal> {
        if peer.id.role() != Role::Connector {
            let why = format!("{} is not a connector", peer.short_name());
            return Err(Refusal::new(DENIED, ProxyError::HttpRequestDenied, Denial::WrongRole, why));
        }
        let id = self.shared.next_id();
        let entry = BindEntry { id, identity: peer.id.clone(), owner: self.index, since: self.wall(now) };
        let replaced = self.shared.registry.bind(peer.id.name(), entry).map_err(|holder| {
            let why = format!("`{}` is held by {holder}", peer.id.name());
            Refusal::new("409", ProxyError::HttpRequestDenied, Denial::Conflict, why)
        })?;
        let Some(conn) = self.conns.get_mut(key.0) else { return Ok(()) };
        let by = conn.route.addr;
        conn.quic.respond(stream, bind_accepted(random_alias()), false);
        let bind = Bind {
            id,
            capsules: Capsules::default(),
            uncompressed: false,
            waiting: Vec::new(),
            contexts: Default::default(),
            next_context: 1,
        };
        conn.streams.insert(stream, Stream::Bind(Box::new(bind)));
        self.binds.insert(id, (key, stream));
        self.observed(key, stream);
        if let Some(old) = replaced {
            match self.binds.get(&old.id).copied() {
                // A second bind on the same connection: that connection is the newer one, too.
                Some((same, old_stream)) if same == key => {
                    self.reset_stream(
                        key,
                        old_stream,
                        H3_REQUEST_CANCELLED,
                        "a newer bind on the same connection replaced it",
                    );
                }
                Some(_) | None => self.post(old.owner, LoopMessage::Replaced { bind: old.id, by }),
            }
        }
        Ok(())
    }

    fn on_connect(
        &mut self,
        key: ConnKey,
        stream: StreamId,
        peer: &Arc<PeerIdentity>,
        host: &str,
        port: u16,
    ) -> Result<(), Refusal> {
        let not_here =
            |details: String| Refusal::new("404", ProxyError::DestinationUnavailable, Denial::NotBound, details);
        let limit = |details: &str| Refusal::new("429", ProxyError::ConnectionLimitReached, Denial::Limit, details);
        if peer.id.role() != Role::Agent {
            let why = format!("{} is not an agent", peer.short_name());
            return Err(Refusal::new(DENIED, ProxyError::HttpRequestDenied, Denial::WrongRole, why));
        }
        let network = &self.snapshot.network;
        let suffix = format!(".connector.{}", network.trust_domain);
        let name = host.strip_suffix(&suffix).filter(|n| port == CONNECTOR_PORT && network.connectors().contains(n));
        let Some(name) = name else {
            return Err(not_here(format!(
                "`{host}:{port}` is not a connector of this network, `<name>{suffix}:{CONNECTOR_PORT}`"
            )));
        };
        self.permit(peer.id.name(), name).map_err(|(details, policy)| Refusal {
            policy,
            ..Refusal::new(DENIED, ProxyError::HttpRequestDenied, Denial::Policy, details)
        })?;
        let Some(bind) = self.shared.registry.find(name) else {
            return Err(not_here(format!("connector `{name}` is not bound at this relay")));
        };
        let limits = self.shared.config.limits;
        if self.conns.get(key.0).is_none_or(|c| c.streams.len() >= limits.sessions_per_agent) {
            return Err(limit("too many sessions on this connection"));
        }
        let session = Arc::new(Session {
            id: self.shared.next_id(),
            agent: peer.id.name().to_owned(),
            connector: name.to_owned(),
            agent_loop: self.index,
            connector_loop: bind.owner,
            alias: random_alias(),
            rx: Count::default(),
            tx: Count::default(),
            rate: limits.bps_per_session.map(|bps| Policer::new(bps, self.now)),
        });
        if !self.shared.has_room(bind.owner) {
            return Err(limit("the relay is at its limit of sessions"));
        }
        self.shared.registry.begin(self.now, session.clone(), &limits).map_err(|full| match full {
            Full::Relay => limit("the relay is at its limit of sessions"),
            Full::Connector => limit("the connector is at its limit of sessions"),
            Full::Pair => limit("the agent is at its limit of sessions to this connector"),
            Full::Rate => limit("the agent begins sessions to this connector faster than it may"),
        })?;
        let Some(conn) = self.conns.get_mut(key.0) else { return Ok(()) };
        conn.quic.respond(stream, accepted(), false);
        conn.streams.insert(stream, Stream::Agent { session: session.id, capsules: Capsules::default() });
        self.agents.insert(session.id, AgentHalf { key, stream, session: session.clone() });
        self.observed(key, stream);
        self.notice(Notice::Session {
            id: session.id,
            agent: session.agent.clone(),
            connector: session.connector.clone(),
        });
        self.update_leg(session.id, super::inbox::Side::Agent);
        self.post(bind.owner, LoopMessage::Open { session, bind: bind.id });
        Ok(())
    }

    /// Whether this agent may reach that connector at all; else why not, and by which policy.
    pub(super) fn permit(&self, agent: &str, connector: &str) -> Result<(), (String, Option<String>)> {
        let Some(policy) = &self.snapshot.policy else { return Err(("the relay has no policy".into(), None)) };
        let decision = policy.may_reach(agent, connector);
        if decision.allowed { Ok(()) } else { Err((decision.reason, decision.policy_id)) }
    }

    fn refuse(&mut self, key: ConnKey, stream: StreamId, peer: &PeerIdentity, refusal: Refusal) {
        let proxy = self.snapshot.identity().id.name().to_owned();
        // All else is no judgement of this peer: it may be told the same that it was told.
        let decision = (refusal.status == DENIED).then(|| self.shared.next_decision().to_string());
        let details = match &decision {
            Some(id) => format!("{id}: {}", refusal.details),
            None => refusal.details.clone(),
        };
        let header = ProxyStatus { proxy, error: refusal.error, details: Some(details) }.to_header();
        let fields = vec![(":status".to_owned(), refusal.status.to_owned()), ("proxy-status".to_owned(), header)];
        if let Some(conn) = self.conn(key) {
            conn.quic.refuse(stream, fields);
            conn.early.retain(|frame| connect_udp::parse_datagram(frame).is_none_or(|(id, _)| id != stream));
        }
        self.shared.counters.denied(refusal.why);
        if decision.is_some() {
            let error =
                Error::Denied { by: DeniedBy::Relay, reason: refusal.details, decision, policy: refusal.policy };
            self.notice(Notice::Denied { error, peer: Some(Arc::new(peer.clone())), asked: None });
        }
    }
}

fn accepted() -> Fields {
    vec![(":status".into(), "200".into()), ("capsule-protocol".into(), "?1".into())]
}

fn bind_accepted(alias: SocketAddr) -> Fields {
    let mut fields = accepted();
    fields.push(("connect-udp-bind".into(), "?1".into()));
    fields.push(("proxy-public-address".into(), format!("\"{alias}\"")));
    fields
}
