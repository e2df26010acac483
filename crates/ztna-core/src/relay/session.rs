//! Sessions: their two halves, how they begin and end, and what loops tell each other about them.

use std::sync::Arc;
use std::time::Instant;

use super::H3_REQUEST_REJECTED;
use super::conn::Stream;
use super::inbox::{LoopMessage, Side};
use super::machine::{ConnectorHalf, Relay};
use super::registry::Session;
use crate::quic::ConnKey;
use crate::quic::Wrote;
use crate::quic::connection::{H3_CONNECT_ERROR, H3_REQUEST_CANCELLED, StreamId};
use crate::role::Notice;
use crate::trust::network::RelayMode;
use crate::wire::capsule::Capsule;

impl Relay {
    pub(super) fn on_message(&mut self, now: Instant, message: LoopMessage) {
        match message {
            LoopMessage::Packet { arrival, mut bytes } => self.take_packet(now, arrival, &mut bytes, false, false),
            LoopMessage::Tunnelled { session, to, frames } => self.deliver(session, to, frames),
            LoopMessage::Open { session, bind } => self.on_open(session, bind),
            LoopMessage::Close { session, at: Side::Agent, code, why } => {
                self.drop_agent_half(session, Some(code), &why)
            }
            LoopMessage::Close { session, at: Side::Connector, .. } => self.drop_connector_half(session),
            LoopMessage::Cid { session, at, cid, ack } => self.on_verdict(session, at, cid, ack),
            LoopMessage::Replaced { bind, by } => {
                if let Some((key, stream)) = self.binds.get(&bind).copied() {
                    self.replace(now, key, stream, by);
                }
            }
            LoopMessage::Kick { session } => {
                self.end_agent_half(session, Some(H3_REQUEST_CANCELLED), "ended by an operator")
            }
        }
    }

    /// The session's connector half begins: a context on the bind.
    fn on_open(&mut self, session: Arc<Session>, bind: u64) {
        let gone = |why: &str| LoopMessage::Close {
            session: session.id,
            at: Side::Agent,
            code: H3_CONNECT_ERROR,
            why: why.to_owned(),
        };
        let limit = self.shared.config.limits.sessions_per_bind;
        let place = self.binds.get(&bind).copied();
        let replaced = place.and_then(|(key, _)| self.conns.get(key.0)).is_some_and(|c| c.replaced.is_some());
        let state = place.and_then(|(key, stream)| self.conns.get_mut(key.0)?.streams.get_mut(&stream));
        let (Some((key, stream)), Some(Stream::Bind(bind))) = (place, state) else {
            return self.post(session.agent_loop, gone("the connector has gone"));
        };
        if replaced {
            return self.post(session.agent_loop, gone("the connector's newer process takes new sessions"));
        }
        if bind.contexts.len() >= limit {
            return self.post(session.agent_loop, gone("the connector is at its limit of sessions"));
        }
        let context = bind.next_context;
        bind.next_context += 2;
        bind.contexts.insert(context, session.id);
        let assign = Capsule::CompressionAssign { context_id: context, target: Some(session.alias) };
        if bind.uncompressed {
            self.send_capsule(key, stream, &assign);
        } else {
            assign.encode(&mut bind.waiting);
        }
        let id = session.id;
        self.connectors.insert(id, ConnectorHalf { key, stream, context, session });
        self.update_leg(id, Side::Connector);
    }

    /// The half of `session` that this loop has.
    pub(super) fn half(&self, session: u64, side: Side) -> Option<Arc<Session>> {
        match side {
            Side::Agent => self.agents.get(&session).map(|h| h.session.clone()),
            Side::Connector => self.connectors.get(&session).map(|h| h.session.clone()),
        }
    }

    /// The agent's end is over: its half goes, and the connector's with it. `code` resets the stream, else it is finished.
    pub(super) fn end_agent_half(&mut self, session: u64, code: Option<u64>, why: &str) {
        if let Some(half) = self.agents.get(&session) {
            let owner = half.session.connector_loop;
            self.drop_agent_half(session, code, why);
            self.post(owner, LoopMessage::Close { session, at: Side::Connector, code: 0, why: String::new() });
        }
    }

    /// The connector's end is over: its half goes, and the agent's with it.
    pub(super) fn end_connector_half(&mut self, session: u64, code: u64, why: &str) {
        if let Some(half) = self.connectors.get(&session) {
            let owner = half.session.agent_loop;
            self.drop_connector_half(session);
            self.post(owner, LoopMessage::Close { session, at: Side::Agent, code, why: why.to_owned() });
        }
    }

    fn drop_agent_half(&mut self, session: u64, code: Option<u64>, why: &str) {
        let Some(half) = self.agents.remove(&session) else { return };
        self.shared.forwarding.end(session);
        self.shared.registry.end(session);
        self.notice(Notice::SessionEnd { id: session, why: why.to_owned() });
        if let Some(conn) = self.conns.get_mut(half.key.0)
            && conn.streams.remove(&half.stream).is_some()
        {
            match code {
                Some(code) => conn.quic.reset(half.stream, code),
                None => match conn.quic.write(half.stream, &[], true) {
                    Wrote::Bytes(_) => {}
                    Wrote::Blocked | Wrote::Stopped(_) | Wrote::Gone => {
                        conn.quic.reset(half.stream, H3_REQUEST_CANCELLED)
                    }
                },
            }
            self.touch(half.key);
        }
    }

    fn drop_connector_half(&mut self, session: u64) {
        let Some(half) = self.connectors.remove(&session) else { return };
        self.shared.forwarding.end(session);
        let state = self.conns.get_mut(half.key.0).and_then(|c| c.streams.get_mut(&half.stream));
        if let Some(Stream::Bind(bind)) = state
            && bind.contexts.remove(&half.context).is_some()
        {
            let close = Capsule::CompressionClose { context_id: half.context };
            if bind.uncompressed {
                self.send_capsule(half.key, half.stream, &close);
            } else {
                close.encode(&mut bind.waiting);
            }
        }
    }

    /// A request stream is over. `clean`: its peer finished it, and gets our end in return.
    pub(super) fn end_stream(&mut self, key: ConnKey, stream: StreamId, clean: bool, why: &str) {
        let Some(conn) = self.conns.get_mut(key.0) else { return };
        match conn.streams.get(&stream) {
            Some(Stream::Agent { session, .. }) => {
                let session = *session;
                self.end_agent_half(session, (!clean).then_some(H3_REQUEST_CANCELLED), why);
            }
            Some(Stream::Bind(_)) => {
                let _ = conn.quic.write(stream, &[], true);
                if !clean {
                    conn.quic.reset(stream, H3_REQUEST_CANCELLED);
                }
                self.drop_bind(key, stream, why);
            }
            None if clean => {}
            None => conn.quic.reset(stream, H3_REQUEST_CANCELLED),
        }
        self.want_send(key);
    }

    /// Resets a stream, and ends what it stands for.
    pub(super) fn reset_stream(&mut self, key: ConnKey, stream: StreamId, code: u64, why: &str) {
        let Some(conn) = self.conns.get_mut(key.0) else { return };
        match conn.streams.get(&stream) {
            Some(Stream::Agent { session, .. }) => {
                let session = *session;
                self.end_agent_half(session, Some(code), why);
            }
            Some(Stream::Bind(_)) => {
                conn.quic.reset(stream, code);
                self.drop_bind(key, stream, why);
            }
            None => conn.quic.reset(stream, code),
        }
        self.want_send(key);
    }

    /// Ends all that runs on a connection that is over.
    pub(super) fn end_streams(&mut self, key: ConnKey, why: &str) {
        let Some(conn) = self.conn(key) else { return };
        let streams: Vec<StreamId> = conn.streams.keys().copied().collect();
        for stream in streams {
            match self.conn(key).and_then(|c| c.streams.get(&stream)) {
                Some(Stream::Agent { session, .. }) => {
                    let session = *session;
                    self.end_agent_half(session, Some(H3_REQUEST_CANCELLED), why);
                }
                Some(Stream::Bind(_)) => self.drop_bind(key, stream, why),
                None => {}
            }
        }
    }

    fn drop_bind(&mut self, key: ConnKey, stream: StreamId, why: &str) {
        let Some(conn) = self.conns.get_mut(key.0) else { return };
        let Some(Stream::Bind(bind)) = conn.streams.remove(&stream) else { return };
        self.binds.remove(&bind.id);
        if let Some(peer) = &conn.peer {
            self.shared.registry.unbind(peer.id.name(), bind.id);
        }
        for session in bind.contexts.into_values() {
            self.end_connector_half(session, H3_CONNECT_ERROR, &format!("the connector's bind ended: {why}"));
        }
    }

    /// Tells the forwarding table where a session's half is now.
    pub(super) fn update_leg(&mut self, session: u64, side: Side) {
        let place = match side {
            Side::Agent => self.agents.get(&session).map(|h| (h.key, h.session.clone())),
            Side::Connector => self.connectors.get(&session).map(|h| (h.key, h.session.clone())),
        };
        let Some((key, s)) = place else { return };
        let Some(conn) = self.conns.get(key.0) else { return };
        let verdicts = self.shared.forwarding.set_leg(&s, side, conn.route, conn.fits);
        self.tell(session, side, &verdicts);
    }

    /// The same for all sessions of a connection.
    pub(super) fn update_legs(&mut self, key: ConnKey) {
        let Some(conn) = self.conns.get(key.0) else { return };
        let mut legs = Vec::new();
        for stream in conn.streams.values() {
            match stream {
                Stream::Agent { session, .. } => legs.push((*session, Side::Agent)),
                Stream::Bind(bind) => legs.extend(bind.contexts.values().map(|s| (*s, Side::Connector))),
            }
        }
        for (session, side) in legs {
            self.update_leg(session, side);
        }
    }

    /// Ends what the new snapshot no longer permits.
    pub(super) fn recheck_sessions(&mut self) {
        let sessions: Vec<Arc<Session>> = self.agents.values().map(|h| h.session.clone()).collect();
        for s in sessions {
            if let Err((why, _)) = self.permit(&s.agent, &s.connector) {
                self.end_agent_half(s.id, Some(H3_REQUEST_REJECTED), &format!("no longer permitted: {why}"));
            } else if self.snapshot.network.relay_mode == RelayMode::Tunnel {
                let verdicts = self.shared.forwarding.clear(s.id);
                self.tell(s.id, Side::Agent, &verdicts);
            }
        }
    }
}
