//! Capsules on the two kinds of request stream (RFC 9297 §3).

use super::H3_DATAGRAM_ERROR;
use super::conn::Stream;
use super::forward::Verdict;
use super::inbox::{Frame, LoopMessage, Side};
use super::machine::Relay;
use crate::quic::connection::{H3_REQUEST_CANCELLED, StreamId};
use crate::quic::{ConnKey, Wrote};
use crate::trust::network::RelayMode;
use crate::wire::capsule::{self, Capsule};
use crate::wire::{Cid, connect_udp};

/// Bytes of DATAGRAM capsules that wait for a stream's window: 48 inner packets, more would be stale when they leave.
const MAX_DATAGRAMS: usize = 64 << 10;
/// Bytes of all capsules that wait: a peer that reads so little of what it asked for is cut off.
const MAX_OUT: usize = 256 << 10;
/// One read of a stream.
const READ: usize = 4_096;

impl Relay {
    /// Sends a capsule, now or when the stream's window allows.
    pub(super) fn send_capsule(&mut self, key: ConnKey, stream: StreamId, capsule: &Capsule) {
        let Some(state) = self.conns.get_mut(key.0).and_then(|c| c.streams.get_mut(&stream)) else { return };
        let out = &mut state.capsules().out;
        capsule.encode(out);
        if out.len() > MAX_OUT {
            self.reset_stream(key, stream, H3_REQUEST_CANCELLED, "its peer does not read capsules");
        } else {
            self.flush(key, stream);
        }
    }

    /// Sends an inner packet that no DATAGRAM frame of this leg holds. `payload`: context ID and packet.
    pub(super) fn send_datagram_capsule(&mut self, key: ConnKey, stream: StreamId, payload: &[u8]) {
        let Some(state) = self.conns.get_mut(key.0).and_then(|c| c.streams.get_mut(&stream)) else { return };
        let out = &mut state.capsules().out;
        if out.len() + payload.len() > MAX_DATAGRAMS || payload.len() > capsule::MAX_CAPSULE {
            return self.shared.counters.drops.capsule.add(1);
        }
        capsule::encode_datagram(payload, out);
        self.flush(key, stream);
    }

    pub(super) fn flush(&mut self, key: ConnKey, stream: StreamId) {
        let Some(conn) = self.conns.get_mut(key.0) else { return };
        let Some(state) = conn.streams.get_mut(&stream) else { return };
        let out = &mut state.capsules().out;
        if out.is_empty() {
            return;
        }
        match conn.quic.write(stream, out, false) {
            Wrote::Bytes(n) => {
                out.drain(..n.min(out.len()));
                if out.is_empty() {
                    *out = Vec::new();
                }
            }
            Wrote::Blocked => {}
            Wrote::Stopped(_) | Wrote::Gone => {
                return self.reset_stream(key, stream, H3_REQUEST_CANCELLED, "its peer stopped it");
            }
        }
        self.want_send(key);
    }

    pub(super) fn flush_streams(&mut self, key: ConnKey) {
        let Some(conn) = self.conns.get_mut(key.0) else { return };
        let waiting: Vec<StreamId> =
            conn.streams.iter_mut().filter_map(|(id, s)| (!s.capsules().out.is_empty()).then_some(*id)).collect();
        for stream in waiting {
            self.flush(key, stream);
        }
    }

    pub(super) fn read_capsules(&mut self, key: ConnKey, stream: StreamId) {
        let mut buffer = [0u8; READ];
        loop {
            let Some(conn) = self.conns.get_mut(key.0) else { return };
            let n = conn.quic.read(stream, &mut buffer);
            let Some(state) = conn.streams.get_mut(&stream) else { return };
            if n == 0 {
                return;
            }
            state.capsules().reader.push(buffer.get(..n).unwrap_or_default());
            if !self.take_capsules(key, stream) {
                return;
            }
        }
    }

    /// The peer's FIN, with all before it read. Inside a capsule it is an error (RFC 9297 §3.3).
    pub(super) fn finish_stream(&mut self, key: ConnKey, stream: StreamId) {
        let state = self.conns.get_mut(key.0).and_then(|c| c.streams.get_mut(&stream));
        if state.is_none_or(|s| s.capsules().reader.is_at_boundary()) {
            self.end_stream(key, stream, true, "it was closed by its peer");
        } else {
            tracing::debug!("a stream ended inside a capsule");
            self.reset_stream(key, stream, H3_DATAGRAM_ERROR, "it ended inside a capsule");
        }
    }

    /// `false`: the stream is gone.
    fn take_capsules(&mut self, key: ConnKey, stream: StreamId) -> bool {
        loop {
            let Some(state) = self.conns.get_mut(key.0).and_then(|c| c.streams.get_mut(&stream)) else { return false };
            match state.capsules().reader.next() {
                Ok(Some(capsule)) => match state {
                    Stream::Agent { session, .. } => {
                        let session = *session;
                        self.on_agent_capsule(key, stream, session, capsule);
                    }
                    Stream::Bind(_) => self.on_bind_capsule(key, stream, capsule),
                },
                Ok(None) => return true,
                Err(error) => {
                    tracing::debug!(%error, "a capsule could not be read");
                    self.reset_stream(key, stream, H3_DATAGRAM_ERROR, "it sent a malformed capsule");
                    return false;
                }
            }
        }
    }

    fn on_agent_capsule(&mut self, key: ConnKey, stream: StreamId, session: u64, capsule: Capsule) {
        match capsule {
            Capsule::Datagram(payload) => self.on_datagram_capsule(key, stream, payload),
            Capsule::RegisterCid { cid, .. } => self.register(session, Side::Agent, cid),
            Capsule::CloseCid { cid, .. } => self.unregister(session, Side::Agent, cid),
            // Those of the bind draft and our own have no meaning from an agent (RFC 9297 §3.2: ignored).
            Capsule::CompressionAssign { .. }
            | Capsule::CompressionAck { .. }
            | Capsule::CompressionClose { .. }
            | Capsule::ObservedAddress(_)
            | Capsule::Replaced(_)
            | Capsule::AckCid { .. }
            | Capsule::Unknown { .. } => {}
        }
    }

    fn on_bind_capsule(&mut self, key: ConnKey, stream: StreamId, capsule: Capsule) {
        let Some(Stream::Bind(bind)) = self.conns.get_mut(key.0).and_then(|c| c.streams.get_mut(&stream)) else {
            return;
        };
        match capsule {
            Capsule::Datagram(payload) => self.on_datagram_capsule(key, stream, payload),
            Capsule::CompressionAssign { context_id, target: None } if context_id % 2 == 0 => {
                bind.uncompressed = true;
                let waiting = std::mem::take(&mut bind.waiting);
                Capsule::CompressionAck { context_id }.encode(&mut bind.capsules.out);
                bind.capsules.out.extend_from_slice(&waiting);
                self.flush(key, stream);
            }
            // A connector speaks to agents only, and to those only in the contexts that they have opened.
            Capsule::CompressionAssign { context_id, .. } => {
                self.send_capsule(key, stream, &Capsule::CompressionClose { context_id })
            }
            Capsule::CompressionClose { context_id } => {
                if let Some(session) = bind.contexts.get(&context_id).copied() {
                    self.end_connector_half(session, H3_REQUEST_CANCELLED, "the connector closed it");
                }
            }
            Capsule::RegisterCid { context_id, cid } => match bind.contexts.get(&context_id).copied() {
                Some(session) => self.register(session, Side::Connector, cid),
                None => self.send_capsule(key, stream, &Capsule::CloseCid { context_id, cid }),
            },
            Capsule::CloseCid { context_id, cid } => {
                if let Some(session) = bind.contexts.get(&context_id).copied() {
                    self.unregister(session, Side::Connector, cid);
                }
            }
            Capsule::CompressionAck { .. }
            | Capsule::ObservedAddress(_)
            | Capsule::Replaced(_)
            | Capsule::AckCid { .. }
            | Capsule::Unknown { .. } => {}
        }
    }

    /// An inner packet in a capsule is as good as one in a DATAGRAM frame.
    fn on_datagram_capsule(&mut self, key: ConnKey, stream: StreamId, payload: Vec<u8>) {
        let Some((context, prefix)) = connect_udp::split_context(&payload) else { return };
        if let Some((session, to)) = self.session_of(key, stream, context) {
            self.deliver_behind(session, to, Frame { bytes: payload, prefix });
        }
    }

    fn register(&mut self, session: u64, side: Side, cid: Cid) {
        let allowed = self.snapshot.network.relay_mode == RelayMode::Forwarded
            && !self.shared.is_own_cid(&cid)
            && self
                .half(session, side)
                .is_some_and(|s| self.shared.has_room(s.agent_loop) && self.shared.has_room(s.connector_loop));
        let verdicts = if allowed {
            self.shared.forwarding.register(session, side, cid)
        } else {
            vec![Verdict { tell: side, cid, ack: false }]
        };
        self.tell(session, side, &verdicts);
    }

    fn unregister(&mut self, session: u64, side: Side, cid: Cid) {
        let verdicts = self.shared.forwarding.unregister(session, side, cid);
        self.tell(session, side, &verdicts);
    }

    /// Brings verdicts to the ends they are for. `here`: the half that this loop has.
    pub(super) fn tell(&mut self, session: u64, here: Side, verdicts: &[Verdict]) {
        let Some(s) = self.half(session, here) else { return };
        for v in verdicts {
            let to = match v.tell {
                Side::Agent => s.agent_loop,
                Side::Connector => s.connector_loop,
            };
            self.post(to, LoopMessage::Cid { session, at: v.tell, cid: v.cid, ack: v.ack });
        }
    }

    pub(super) fn on_verdict(&mut self, session: u64, at: Side, cid: Cid, ack: bool) {
        let place = match at {
            Side::Agent => self.agents.get(&session).map(|h| (h.key, h.stream, 0)),
            Side::Connector => self.connectors.get(&session).map(|h| (h.key, h.stream, h.context)),
        };
        if let Some((key, stream, context_id)) = place {
            let capsule = if ack { Capsule::AckCid { context_id, cid } } else { Capsule::CloseCid { context_id, cid } };
            self.send_capsule(key, stream, &capsule);
        }
    }

    /// Tells the peer its address on each of its streams.
    pub(super) fn observed_all(&mut self, key: ConnKey) {
        let Some(conn) = self.conn(key) else { return };
        let streams: Vec<StreamId> = conn.streams.keys().copied().collect();
        for stream in streams {
            self.observed(key, stream);
        }
    }

    pub(super) fn observed(&mut self, key: ConnKey, stream: StreamId) {
        if let Some(conn) = self.conn(key) {
            let mut seen = conn.route.addr;
            seen.set_ip(seen.ip().to_canonical());
            self.send_capsule(key, stream, &Capsule::ObservedAddress(seen));
        }
    }
}
