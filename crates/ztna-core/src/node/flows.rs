//! Flows on inner connections, as both ends handle them: bytes between a stream and the local side.

use crate::error::{DeniedBy, Error};
use crate::id::FlowId;
use crate::path::demand::Demand;
use crate::quic::connection::{H3_CONNECT_ERROR, H3_NO_ERROR, H3_REQUEST_CANCELLED};
use crate::quic::{StreamId, Wrote};
use crate::relay::H3_DATAGRAM_ERROR;
use crate::role::{Action, Asked, FlowInfo, Open, Read};
use crate::trust::Protocol;
use crate::wire::DecodeError;
use crate::wire::capsule::{Capsule, CapsuleReader};
use crate::wire::connect_udp;

use super::listing::Tally;
use super::{Node, NodeEvent};

/// Datagrams that wait while a UDP flow is being decided and dialled.
const EARLY_DATAGRAMS: usize = 32;

/// Request: the one kind of path that the flow's connection keeps to. In an answer of [`MISDIRECTED`]: the one that policy permits.
pub const PATH: &str = "ztna-path";
/// Answer to a question for the decision alone: the `@id` of the policy that permits it.
pub const POLICY: &str = "ztna-policy";
/// Answer 503 of a connector: why, as one of [`REASONS`].
pub const REASON: &str = "ztna-reason";
/// The service takes no new flows any more; those that it has may finish.
pub const CLOSING: &str = "closing";
/// Nothing at the connector serves the service and port.
pub const NOT_SERVED: &str = "not-served";
/// What [`REASON`] may say. Anything else is as if it were not there.
pub const REASONS: [&str; 2] = [CLOSING, NOT_SERVED];
/// RFC 9110 §15.5.20: the request would do on another connection to the same peer.
pub const MISDIRECTED: u16 = 421;

/// Where a flow stands.
#[derive(Debug, Clone, PartialEq)]
pub enum Phase {
    /// Agent: asked, not answered. Kept so that it can be asked again elsewhere.
    Asking,
    /// Agent: asks for the decision alone.
    Checking {
        op: u64,
    },
    /// Agent: an echo flow; `sent` once the echo request is out.
    Pinging {
        op: u64,
        sent: Option<std::time::Instant>,
    },
    /// Agent: asks which kind of connection its paths are to be told of.
    Explaining {
        op: u64,
    },
    /// Connector: the embedding program is asked.
    Authorizing {
        until: std::time::Instant,
    },
    /// Connector: the service is being reached.
    Dialing,
    /// Connector: an echo flow that was admitted.
    Echo,
    Open,
}

impl Phase {
    /// Agent: the connector is to answer yet.
    pub fn is_question(&self) -> bool {
        match self {
            Phase::Asking | Phase::Checking { .. } | Phase::Pinging { .. } | Phase::Explaining { .. } => true,
            Phase::Authorizing { .. } | Phase::Dialing | Phase::Echo | Phase::Open => false,
        }
    }

    /// Bytes pass.
    pub fn carries(&self) -> bool {
        match self {
            Phase::Echo | Phase::Open => true,
            Phase::Asking
            | Phase::Checking { .. }
            | Phase::Pinging { .. }
            | Phase::Explaining { .. }
            | Phase::Authorizing { .. }
            | Phase::Dialing => false,
        }
    }
}

#[derive(Debug)]
pub struct Flow {
    pub link: usize,
    pub stream: StreamId,
    pub service: String,
    pub port: u16,
    pub protocol: Protocol,
    pub phase: Phase,
    /// Agent: what was asked, for asking again elsewhere.
    pub open: Option<(Open, std::time::Instant)>,
    /// Agent: who leaves it one kind of path only.
    pub demand: Option<Demand>,
    pub traceparent: Option<String>,
    /// When the local side last took bytes, or the flow came to be.
    pub(super) read_at: Option<std::time::Instant>,
    /// When it came to be.
    pub(super) since: Option<std::time::Instant>,
    pub(super) bytes: Tally,
    sent_fin: bool,
    read_fin: bool,
    early: Vec<Vec<u8>>,
    capsules: CapsuleReader,
}

impl Flow {
    pub fn new(link: usize, stream: StreamId, service: String, port: u16, protocol: Protocol, phase: Phase) -> Self {
        Flow {
            link,
            stream,
            service,
            port,
            protocol,
            phase,
            open: None,
            demand: None,
            traceparent: None,
            read_at: None,
            since: None,
            bytes: Tally::default(),
            sent_fin: false,
            read_fin: false,
            early: Vec::new(),
            capsules: CapsuleReader::default(),
        }
    }
}

impl Flow {
    /// What it was opened for.
    pub fn asked(&self) -> Asked {
        let port = (self.protocol != Protocol::Icmp).then_some(self.port);
        Asked { service: self.service.clone(), port, protocol: self.protocol }
    }

    /// Our side has ended it; what the peer sends up to its end is all that is missing.
    pub(super) fn awaits_end_only(&self) -> bool {
        self.protocol == Protocol::Tcp && self.phase == Phase::Open && self.sent_fin && !self.read_fin
    }
}

fn owned(fields: &[(&str, &str)]) -> crate::quic::Fields {
    fields.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
}

impl Node {
    pub fn add_flow(&mut self, id: FlowId, mut flow: Flow) {
        flow.read_at = Some(self.now);
        flow.since = Some(self.now);
        if let Some(link) = self.links.get_mut(flow.link) {
            link.flows.insert(flow.stream, id);
        }
        self.flows.insert(id, flow);
    }

    /// Forgets a flow; its stream is the caller's to end.
    pub fn remove_flow(&mut self, id: FlowId) -> Option<Flow> {
        let flow = self.flows.remove(&id)?;
        if let Some(link) = self.links.get_mut(flow.link) {
            link.flows.remove(&flow.stream);
        }
        self.touch_link(flow.link);
        Some(flow)
    }

    pub fn flow_at(&self, link: usize, stream: StreamId) -> Option<FlowId> {
        self.links.get(link)?.flows.get(&stream).copied()
    }

    pub fn flow_info(&self, id: FlowId) -> Option<FlowInfo> {
        let flow = self.flows.get(&id)?;
        let link = self.links.get(flow.link)?;
        Some(FlowInfo {
            connection: flow.link,
            peer: link.conn.identity()?.clone(),
            service: flow.service.clone(),
            port: flow.port,
            protocol: flow.protocol,
            path: self.describe_path(flow.link)?,
            traceparent: flow.traceparent.clone(),
        })
    }

    /// Makes a flow's bytes available to the local side.
    pub fn open_flow(&mut self, id: FlowId) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        flow.phase = Phase::Open;
        for payload in std::mem::take(&mut flow.early) {
            self.actions.push_back(Action::Datagram { flow: id, payload });
        }
        if flow.protocol == Protocol::Tcp {
            self.actions.push_back(Action::Readable(id));
        }
    }

    /// Cuts a flow: the peer's stream is reset and the local side sees `error`.
    pub fn cut_flow(&mut self, id: FlowId, error: Error) {
        self.cut_flow_with(id, H3_CONNECT_ERROR, error);
    }

    /// As [`cut_flow`](Self::cut_flow), with the code that the peer sees (RFC 9114 §8.1, or of a [decision](crate::wire::decision)).
    pub fn cut_flow_with(&mut self, id: FlowId, code: u64, error: Error) {
        if let Some(flow) = self.remove_flow(id) {
            if let Some(link) = self.links.get_mut(flow.link) {
                link.conn.reset(flow.stream, code);
            }
            self.actions.push_back(Action::Reset { flow: id, error });
        }
    }

    /// A stream event of an open flow.
    pub fn flow_reset_by_peer(&mut self, id: FlowId, code: u64) {
        let by = if self.is_agent { DeniedBy::Connector } else { DeniedBy::Agent };
        self.cut_flow(id, Error::StreamReset { by, code });
    }

    /// Answers a request.
    pub fn respond(&mut self, link: usize, stream: StreamId, fields: &[(&str, &str)], fin: bool) {
        if let Some(l) = self.links.get_mut(link) {
            l.conn.respond(stream, owned(fields), fin);
            self.touch_link(link);
        }
    }

    /// Refuses a request so that its reason arrives.
    pub fn refuse(&mut self, link: usize, stream: StreamId, fields: &[(&str, &str)]) {
        if let Some(l) = self.links.get_mut(link) {
            l.conn.refuse(stream, owned(fields));
            self.touch_link(link);
        }
    }

    /// Drops entries of flows that are gone.
    pub fn sweep_served(&self, served: &mut std::collections::BTreeMap<FlowId, u64>) {
        if served.len() > self.flows.len() {
            served.retain(|id, _| self.flows.contains_key(id));
        }
    }

    // ---- the local side's calls

    pub fn stream_read(&mut self, id: FlowId, out: &mut [u8]) -> Read {
        // A flow that is gone was cut or reset, which its owner hears next: a clean end would pass for the whole of its bytes.
        let Some(flow) = self.flows.get_mut(&id) else { return self.tails.read(id, out).unwrap_or(Read::Blocked) };
        let Some(link) = self.links.get_mut(flow.link) else { return Read::Blocked };
        let n = link.conn.read(flow.stream, out);
        self.dirty_links.insert(flow.link);
        if n > 0 {
            flow.read_at = Some(self.now);
            flow.bytes.rx += n as u64;
            return Read::Bytes(n);
        }
        if !link.conn.finished(flow.stream) {
            return Read::Blocked;
        }
        flow.read_fin = true;
        self.release_if_done(id);
        Read::Finished
    }

    pub fn stream_capacity(&mut self, id: FlowId) -> usize {
        // For a flow that is gone the write itself says so.
        let Some(flow) = self.flows.get(&id) else { return usize::MAX };
        self.links.get_mut(flow.link).map_or(usize::MAX, |l| l.conn.capacity(flow.stream))
    }

    pub fn stream_write(&mut self, id: FlowId, data: &[u8], fin: bool) -> Wrote {
        let Some(flow) = self.flows.get_mut(&id) else { return Wrote::Gone };
        let Some(link) = self.links.get_mut(flow.link) else { return Wrote::Gone };
        let wrote = match link.conn.write(flow.stream, data, fin) {
            // The transport has let go of a stream that the peer has ended and stopped: what it sent is still to be read to its end.
            Wrote::Gone if !link.conn.is_closed() => Wrote::Stopped(H3_NO_ERROR),
            wrote => wrote,
        };
        self.dirty_links.insert(flow.link);
        let ended = match wrote {
            Wrote::Bytes(n) => {
                flow.bytes.tx += n as u64;
                fin && n == data.len()
            }
            // The peer wants no more: as far as this direction goes we are done.
            Wrote::Stopped(_) | Wrote::Gone => true,
            Wrote::Blocked => false,
        };
        if ended {
            flow.sent_fin = true;
            self.release_if_done(id);
        }
        wrote
    }

    fn release_if_done(&mut self, id: FlowId) {
        if self.flows.get(&id).is_some_and(|f| f.sent_fin && f.read_fin)
            && let Some(flow) = self.remove_flow(id)
            && let Some(link) = self.links.get_mut(flow.link)
        {
            link.finishing.push(&mut link.conn, flow.stream, self.now);
        }
    }

    pub fn stream_reset(&mut self, id: FlowId) {
        self.tails.forget(id);
        if let Some(flow) = self.remove_flow(id)
            && let Some(link) = self.links.get_mut(flow.link)
        {
            let code = if flow.phase == Phase::Open { H3_CONNECT_ERROR } else { H3_REQUEST_CANCELLED };
            link.conn.reset(flow.stream, code);
        }
    }

    pub fn stream_stop(&mut self, id: FlowId) {
        self.tails.forget(id);
        let Some(flow) = self.flows.get_mut(&id) else { return };
        if let Some(link) = self.links.get_mut(flow.link) {
            link.conn.stop(flow.stream, H3_CONNECT_ERROR);
            self.dirty_links.insert(flow.link);
        }
        flow.read_fin = true;
        self.release_if_done(id);
    }

    pub fn datagram_max(&self, id: FlowId) -> usize {
        let Some(flow) = self.flows.get(&id) else { return 0 };
        let Some(max) = self.links.get(flow.link).and_then(|l| l.conn.dgram_max()) else { return 0 };
        let mut header = Vec::with_capacity(9);
        connect_udp::datagram_header(flow.stream, 0, &mut header);
        max.saturating_sub(header.len())
    }

    pub fn datagram_write(&mut self, id: FlowId, payload: &[u8]) -> bool {
        let Some(flow) = self.flows.get_mut(&id) else { return false };
        let Some(link) = self.links.get_mut(flow.link) else { return false };
        let mut frame = Vec::with_capacity(payload.len() + 9);
        connect_udp::datagram_header(flow.stream, 0, &mut frame);
        frame.extend_from_slice(payload);
        let sent = link.conn.dgram_send(frame);
        self.dirty_links.insert(flow.link);
        if sent {
            flow.bytes.tx += payload.len() as u64;
        } else {
            self.counters.drop_one("datagram-send");
        }
        sent
    }

    /// The request stream of a UDP or echo flow moved. Its capsules carry datagrams too (RFC 9297 §3.5), those of other types are
    /// passed over, one that can't be read or has no end resets the stream (§3.3). Its end ends the flow.
    pub fn udp_stream_event(&mut self, id: FlowId, finished: bool) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        let Some(link) = self.links.get_mut(flow.link) else { return };
        let mut buf = [0u8; 2048];
        let mut wrong = None;
        while wrong.is_none() {
            let n = link.conn.read(flow.stream, &mut buf);
            if n == 0 {
                break;
            }
            flow.capsules.push(buf.get(..n).unwrap_or_default());
            loop {
                match flow.capsules.next() {
                    Ok(None) => break,
                    Ok(Some(Capsule::Datagram(payload))) => {
                        let event = NodeEvent::LinkDatagram { link: flow.link, stream: flow.stream, payload };
                        self.events.push_back(event);
                    }
                    // Capsules of the bind draft and our own belong on outer connections.
                    Ok(Some(
                        Capsule::CompressionAssign { .. }
                        | Capsule::CompressionAck { .. }
                        | Capsule::CompressionClose { .. }
                        | Capsule::ObservedAddress(_)
                        | Capsule::Replaced(_)
                        | Capsule::RegisterCid { .. }
                        | Capsule::AckCid { .. }
                        | Capsule::CloseCid { .. }
                        | Capsule::Unknown { .. },
                    )) => {}
                    Err(e) => {
                        wrong = Some(e);
                        break;
                    }
                }
            }
        }
        let ended = finished || link.conn.finished(flow.stream);
        if ended && wrong.is_none() && !flow.capsules.is_at_boundary() {
            wrong = Some(DecodeError::Truncated { what: "the last one" });
        }
        if wrong.is_some() {
            link.conn.reset(flow.stream, H3_DATAGRAM_ERROR);
        }
        if let Some(e) = wrong {
            self.remove_flow(id);
            self.counters.drop_one("malformed");
            self.actions.push_back(Action::Reset { flow: id, error: Error::Peer(format!("capsule: {e}")) });
            return;
        }
        if ended {
            self.datagram_ended(id);
        }
    }

    /// The peer has ended a UDP or echo flow.
    pub fn datagram_ended(&mut self, id: FlowId) {
        self.datagram_close(id);
        self.actions.push_back(Action::Ended(id));
    }

    /// Whether a reset with this code is the end of a UDP flow whose FIN found no room ([`datagram_close`](Self::datagram_close)).
    pub fn is_end(&self, id: FlowId, code: u64) -> bool {
        code == H3_NO_ERROR && self.flows.get(&id).is_some_and(|f| f.protocol != Protocol::Tcp)
    }

    pub fn datagram_close(&mut self, id: FlowId) {
        if let Some(flow) = self.remove_flow(id)
            && let Some(link) = self.links.get_mut(flow.link)
        {
            // The request stream's end is the flow's end (RFC 9298 §3.1). An end that does not fit now would be forgotten.
            match link.conn.write(flow.stream, b"", true) {
                Wrote::Bytes(_) => link.conn.stop(flow.stream, H3_NO_ERROR),
                Wrote::Blocked | Wrote::Stopped(_) | Wrote::Gone => link.conn.reset(flow.stream, H3_NO_ERROR),
            }
        }
    }

    /// A datagram for a flow; context 0 is UDP payload, others are not ours (RFC 9298 §4).
    pub fn flow_datagram(&mut self, id: FlowId, mut payload: Vec<u8>) {
        let Some((0, header)) = connect_udp::split_context(&payload) else {
            self.counters.drop_one("context");
            return;
        };
        payload.drain(..header.min(payload.len()));
        let Some(flow) = self.flows.get_mut(&id) else { return };
        let len = payload.len() as u64;
        if flow.phase == Phase::Open {
            self.actions.push_back(Action::Datagram { flow: id, payload });
        } else if flow.early.len() < EARLY_DATAGRAMS {
            flow.early.push(payload);
        } else {
            self.counters.drop_one("datagram-early");
            return;
        }
        flow.bytes.rx += len;
    }
}
