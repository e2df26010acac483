//! The connector as the packet loop sees it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Connector, Denial, REJUDGE};
use crate::error::{DeniedBy, Error};
use crate::id::FlowId;
use crate::interface::Interface;
use crate::node::NodeEvent;
use crate::node::flows::Phase;
use crate::port_mapping::PortMapping;
use crate::quic::{Event, StreamId, Wrote};
use crate::role::{Action, Arrival, Machine, Read, SocketIndex, State, Transmit};
use crate::trust::{Protocol, Snapshot};
use crate::wire::connect_udp;
use crate::wire::icmp::{Echo, EchoKind, EchoPacket};

impl Machine for Connector {
    fn handle_packets(&mut self, now: Instant, arrival: Arrival, burst: &mut [u8]) {
        self.node.handle_packets(now, arrival, burst);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        self.node.handle_timeout(now);
        self.warned_expiry = self.node.warn_expiry(now, self.warned_expiry);
        if now >= self.rejudge_at {
            self.rejudge_at = now + REJUDGE;
            if self.node.snapshot.policy.as_ref().is_some_and(|p| p.reads_now()) {
                self.rejudge(now);
            }
        }
        let unanswered: Vec<FlowId> = self
            .node
            .flows
            .iter()
            .filter(|(_, f)| matches!(f.phase, Phase::Authorizing { until } if now >= until))
            .map(|(k, _)| *k)
            .collect();
        for id in unanswered {
            self.authorize_reply(now, id, false);
        }
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        let authorizing = self
            .node
            .flows
            .values()
            .filter_map(|f| if let Phase::Authorizing { until } = f.phase { Some(until) } else { None })
            .min();
        [self.node.poll_timeout(self.now), Some(self.rejudge_at), authorizing].into_iter().flatten().min()
    }

    fn process(&mut self, now: Instant) {
        self.now = now;
        for _ in 0..16 {
            self.node.process(now);
            let mut any = false;
            while let Some(event) = self.node.poll_event() {
                any = true;
                self.node_event(now, event);
            }
            if !any {
                break;
            }
        }
        self.settle_state(now);
        self.node.queue_transmits();
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.node.actions.pop_front()
    }

    fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<Transmit> {
        self.node.poll_transmit(now, out)
    }

    fn handle_snapshot(&mut self, now: Instant, snapshot: Arc<Snapshot>) {
        self.node.handle_snapshot(now, snapshot);
        self.warned_expiry = false;
        self.rejudge(now);
    }

    fn handle_resolved(&mut self, _now: Instant, host: &str, addresses: &[IpAddr]) {
        self.node.handle_resolved(host, addresses);
    }

    fn poll_resolve(&mut self) -> Option<String> {
        self.node.poll_resolve()
    }

    fn handle_sockets(&mut self, _now: Instant, sockets: &[SocketAddr]) {
        self.node.handle_sockets(sockets);
    }

    fn sockets_opened(&mut self, now: Instant, id: u64, first: SocketIndex, local: &[SocketAddr]) {
        self.node.sockets_opened(now, id, first, local.len());
    }

    fn handle_interfaces(&mut self, now: Instant, interfaces: &[Interface]) {
        self.node.handle_interfaces(now, interfaces);
    }

    fn handle_network_change(&mut self, now: Instant) {
        self.node.handle_network_change(now);
    }

    fn handle_port_mapping(&mut self, now: Instant, mapping: &PortMapping) {
        self.node.handle_port_mapping(now, mapping);
    }

    fn shut_down(&mut self, now: Instant, within: Duration) {
        self.node.shut_down(now, within);
    }

    fn state(&self) -> State {
        self.node.state
    }

    fn flow_connected(&mut self, _now: Instant, flow: FlowId) {
        if let Some(echo) = self.probes.remove(&flow) {
            self.node.actions.push_back(Action::Reset { flow, error: Error::Closed("the service answers".into()) });
            self.echo_ready(echo);
            return;
        }
        let Some(f) = self.node.flows.get(&flow) else {
            self.node.actions.push_back(Action::Reset { flow, error: Error::Closed("the flow is gone".into()) });
            return;
        };
        let (link, stream, udp) = (f.link, f.stream, f.protocol == Protocol::Udp);
        let fields: &[(&str, &str)] =
            if udp { &[(":status", "200"), ("capsule-protocol", "?1")] } else { &[(":status", "200")] };
        self.node.respond(link, stream, fields, false);
        self.node.open_flow(flow);
        self.node.actions.push_back(Action::Writable(flow));
    }

    fn flow_failed(&mut self, _now: Instant, flow: FlowId, error: Error) {
        let flow = self.probes.remove(&flow).unwrap_or(flow);
        self.answer_refusal(flow, &error);
    }

    fn authorize_reply(&mut self, _now: Instant, flow: FlowId, allow: bool) {
        let Some(f) = self.node.flows.get(&flow) else { return };
        if !matches!(f.phase, Phase::Authorizing { .. }) {
            return;
        }
        if allow {
            self.dial(flow);
            return;
        }
        let (link, stream, asked) = (f.link, f.stream, f.asked());
        let peer = self.node.links.get(link).and_then(|l| l.conn.identity()).cloned();
        self.node.remove_flow(flow);
        let reason = "refused by the service's own authorization".into();
        self.deny(link, stream, peer, asked, Denial { reason, policy: None });
    }

    fn stream_read(&mut self, flow: FlowId, out: &mut [u8]) -> Read {
        self.node.stream_read(flow, out)
    }
    fn stream_capacity(&mut self, flow: FlowId) -> usize {
        self.node.stream_capacity(flow)
    }
    fn stream_write(&mut self, flow: FlowId, data: &[u8], fin: bool) -> Wrote {
        self.node.stream_write(flow, data, fin)
    }
    fn stream_reset(&mut self, flow: FlowId) {
        self.node.stream_reset(flow);
    }
    fn stream_stop(&mut self, flow: FlowId) {
        self.node.stream_stop(flow);
    }
    fn datagram_max(&self, flow: FlowId) -> usize {
        self.node.datagram_max(flow)
    }
    fn datagram_write(&mut self, flow: FlowId, payload: &[u8]) -> bool {
        self.node.datagram_write(flow, payload)
    }
    fn datagram_close(&mut self, flow: FlowId) {
        self.node.datagram_close(flow);
    }
}

impl Connector {
    fn node_event(&mut self, now: Instant, event: NodeEvent) {
        match event {
            NodeEvent::LegDown { relay, why, .. } => {
                if self.node.draining.is_none() && self.replaced.is_none() {
                    self.node.warn(Error::unreachable(format!("relay `{relay}`: {why}")));
                }
            }
            NodeEvent::BindRefused { error, .. } => {
                if matches!(error, Error::Identity(_)) {
                    self.replaced.get_or_insert_with(|| error.clone());
                }
                self.node.warn(error);
            }
            NodeEvent::Stream { link, event } => self.stream_event(now, link, event),
            NodeEvent::LinkDatagram { link, stream, payload } => self.datagram(link, stream, payload),
            NodeEvent::LinkClosed { flows, .. } => {
                for id in flows {
                    self.node.cut_flow(
                        id,
                        Error::StreamReset { by: DeniedBy::Agent, code: crate::quic::connection::H3_CONNECT_ERROR },
                    );
                }
            }
            NodeEvent::LinkSuspect(_) => self.node.probe_legs(),
            NodeEvent::DirectFound(link) | NodeEvent::PeerMoved(link) => self.rejudge_where(now, |l| l == link),
            NodeEvent::DirectLost(link) => {
                self.rejudge_where(now, |l| l == link);
                self.cut_direct_only(link);
            }
            NodeEvent::LegReady(_)
            | NodeEvent::SessionEnded { .. }
            | NodeEvent::LinkReady(_)
            | NodeEvent::LinkStalled(_) => {}
        }
    }

    fn stream_event(&mut self, now: Instant, link: usize, event: Event) {
        match event {
            Event::Headers { stream, fields, .. } => {
                if self.node.flow_at(link, stream).is_none() {
                    self.admit(now, link, stream, &fields);
                }
            }
            Event::Malformed { stream } => {
                if let Some(l) = self.node.links.get_mut(link) {
                    l.conn.reset(stream, crate::quic::connection::H3_MESSAGE_ERROR);
                }
            }
            Event::Data { stream } | Event::Finished { stream } => {
                let Some(id) = self.node.flow_at(link, stream) else { return };
                let finished = matches!(event, Event::Finished { .. });
                match self.node.flows.get(&id).map(|f| (f.protocol, f.phase == Phase::Open)) {
                    Some((Protocol::Tcp, true)) => self.node.actions.push_back(Action::Readable(id)),
                    Some((Protocol::Udp | Protocol::Icmp, _)) => self.node.udp_stream_event(id, finished),
                    Some((Protocol::Tcp, false)) | None => {}
                }
            }
            Event::Reset { stream, code } => {
                if let Some(id) = self.node.flow_at(link, stream) {
                    if self.node.is_end(id, code) {
                        self.node.datagram_ended(id);
                    } else {
                        self.node.flow_reset_by_peer(id, code);
                    }
                } else if let Some(l) = self.node.links.get_mut(link) {
                    l.conn.reset(stream, code);
                }
            }
            Event::Writable { stream } => {
                if let Some(id) = self.node.flow_at(link, stream) {
                    self.node.actions.push_back(Action::Writable(id));
                }
            }
            Event::Established(_) | Event::Ready | Event::GoAway | Event::Migrated(_) | Event::Closed(_) => {}
        }
    }

    fn datagram(&mut self, link: usize, stream: StreamId, payload: Vec<u8>) {
        let Some(id) = self.node.flow_at(link, stream) else { return };
        match self.node.flows.get(&id).map(|f| (f.protocol, f.phase.clone())) {
            Some((Protocol::Udp, _)) => self.node.flow_datagram(id, payload),
            Some((Protocol::Icmp, Phase::Echo)) => self.echo(id, &payload),
            Some((Protocol::Icmp | Protocol::Tcp, _)) | None => {}
        }
    }

    /// Answers an echo request in place of the service (contract.md: a service it can reach).
    fn echo(&mut self, id: FlowId, payload: &[u8]) {
        let Some((0, header)) = connect_udp::split_context(payload) else { return };
        let Ok(request) = EchoPacket::parse(payload.get(header..).unwrap_or_default()) else { return };
        if request.echo.kind != EchoKind::Request {
            return;
        }
        let echo = Echo { kind: EchoKind::Reply, ..request.echo };
        let mut reply = Vec::new();
        if (EchoPacket { src: request.dst, dst: request.src, echo }).build(&mut reply) {
            self.node.datagram_write(id, &reply);
        }
    }

    fn settle_state(&mut self, now: Instant) {
        if self.replaced.is_some() && self.node.draining.is_none() {
            // A newer process of this identity serves from now on; what runs here may end.
            self.node.shut_down(now, Duration::from_secs(10));
        }
        if self.node.draining.is_some() {
            if self.node.settle_drain(now)
                && self.node.state == State::Closed
                && let Some(error) = &self.replaced
            {
                self.node.replace_end(error.clone());
            }
            return;
        }
        if self.node.bound_legs() > 0 {
            self.node.set_state(State::Online, "bound at a relay");
        } else if self.node.state == State::Online && !self.node.is_replacing() {
            self.node.set_state(State::Degraded, "bound at no relay");
        }
    }
}
