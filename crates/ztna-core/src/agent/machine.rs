//! The agent as the packet loop sees it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::explain::Explaining;
use super::tried::{self, SILENT};
use super::{Agent, Purpose};
use crate::error::{DeniedBy, Error};
use crate::id::FlowId;
use crate::interface::Interface;
use crate::node::flows::{MISDIRECTED, POLICY, Phase};
use crate::node::outage::UDP_BLOCKED;
use crate::node::{NodeEvent, outer};
use crate::path::demand::Demand;
use crate::port_mapping::PortMapping;
use crate::quic::connection::{Closed, H3_NO_ERROR, H3_REQUEST_CANCELLED};
use crate::quic::{Event, Wrote, field};
use crate::role::{Action, Arrival, Machine, Notice, Open, PathPolicy, Read, SocketIndex, State, Transmit};
use crate::trust::{Protocol, Snapshot};
use crate::wire::decision::DecisionId;

impl Machine for Agent {
    fn handle_packets(&mut self, now: Instant, arrival: Arrival, burst: &mut [u8]) {
        self.node.handle_packets(now, arrival, burst);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        self.node.handle_timeout(now);
        if self.node.is_leaving() {
            return;
        }
        self.seek_again(now);
        self.place_all(now);
        self.warned_expiry = self.node.warn_expiry(now, self.warned_expiry);
        let late: Vec<FlowId> = self
            .node
            .flows
            .iter()
            .filter(|(_, f)| f.phase.is_question() && f.open.as_ref().is_some_and(|o| now >= o.1))
            .map(|(k, _)| *k)
            .collect();
        for id in late {
            let error = self.unanswered(id);
            self.refuse(id, error);
        }
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        let now = self.now;
        let waiting =
            self.waiting.iter().map(|w| if w.retry_at > now { w.retry_at.min(w.deadline) } else { w.deadline }).min();
        let asking = self
            .node
            .flows
            .values()
            .filter(|f| f.phase != Phase::Open)
            .filter_map(|f| f.open.as_ref().map(|o| o.1))
            .min();
        let explaining = self.explaining.iter().map(Explaining::due).min();
        [self.node.poll_timeout(now), waiting, asking, explaining].into_iter().flatten().min()
    }

    fn process(&mut self, now: Instant) {
        self.now = now;
        // Acting on events can make more of them; each pass settles what the last one touched.
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
        self.settle_explaining(now);
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
        let services: std::collections::BTreeSet<String> =
            self.node.snapshot.network.services.keys().cloned().collect();
        let added: Vec<String> = services.difference(&self.known_services).cloned().collect();
        let removed: Vec<String> = self.known_services.difference(&services).cloned().collect();
        let cut: Vec<FlowId> =
            self.node.flows.iter().filter(|(_, f)| removed.contains(&f.service)).map(|(k, _)| *k).collect();
        for id in cut {
            let error = self.denied("the service left the network".into());
            self.cut(id, error);
        }
        self.known_services = services;
        if !added.is_empty() || !removed.is_empty() {
            self.node.actions.push_back(Action::Notice(Notice::Services { added, removed }));
        }
        self.place_all(now);
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

    fn open(&mut self, now: Instant, flow: FlowId, open: Open) {
        self.request(now, Purpose::Flow(flow), open);
    }

    fn ping(&mut self, now: Instant, op: u64, service: &str, timeout: Duration) {
        // A service that does not answer echo is reached by what it does declare.
        let (protocol, port) = self.ping_ways(service).first().copied().unwrap_or((Protocol::Icmp, None));
        let open =
            Open { service: service.to_owned(), port, protocol, path: Default::default(), timeout, traceparent: None };
        self.request(now, Purpose::Ping(op), open);
    }

    fn explain(&mut self, now: Instant, op: u64, open: Open) {
        self.begin_explain(now, op, open);
    }

    fn check(&mut self, now: Instant, op: u64, open: Open) {
        self.request(now, Purpose::Check(op), open);
    }

    fn cancel_op(&mut self, _now: Instant, op: u64) {
        // The loop gives flows and operations their IDs from one counter.
        self.stream_reset(FlowId(op));
        self.end_op(op);
        self.explaining.retain(|e| e.op != op);
        let of_op = [Purpose::Check(op), Purpose::Ping(op), Purpose::Explain(op)];
        self.waiting.retain(|w| !of_op.contains(&w.purpose));
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
        self.waiting.retain(|w| w.purpose != Purpose::Flow(flow));
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
        self.waiting.retain(|w| w.purpose != Purpose::Flow(flow));
        self.node.datagram_close(flow);
    }
}

impl Agent {
    fn node_event(&mut self, now: Instant, event: NodeEvent) {
        match event {
            NodeEvent::LegReady(leg) => {
                // What it said before it was lost no longer counts.
                let relay = self.node.legs.get(leg).map(|l| l.relay.clone());
                for (_, link) in self.node.links.iter_mut().filter(|(_, l)| l.conn.is_established()) {
                    link.refused.retain(|(r, _)| Some(r) != relay.as_ref());
                }
                let lonely: Vec<usize> = self
                    .node
                    .links
                    .iter()
                    .filter(|(k, _)| !self.node.sessions.iter().any(|(_, s)| s.link == Some(*k)))
                    .map(|(k, _)| k)
                    .collect();
                for link in lonely {
                    self.seek_session(now, link);
                }
                for w in &mut self.waiting {
                    w.retry_at = now;
                }
                self.place_all(now);
            }
            NodeEvent::LegDown { relay, why, .. } => {
                if self.node.draining.is_none() {
                    self.node.warn(Error::unreachable(format!("relay `{relay}`: {why}")));
                }
            }
            NodeEvent::BindRefused { error, .. } => self.node.warn(error),
            NodeEvent::SessionEnded { link } => {
                if let Some(link) = link {
                    self.session_ended(now, link);
                }
            }
            NodeEvent::LinkReady(_) => self.place_all(now),
            NodeEvent::DirectLost(link) => self.direct_lost(link),
            NodeEvent::PeerMoved(_) | NodeEvent::DirectFound(_) => self.place_all(now),
            NodeEvent::LinkSuspect(link) => {
                self.node.probe_legs();
                self.seek_session(now, link);
            }
            NodeEvent::LinkStalled(link) => {
                let Some(l) = self.node.links.get(link) else { return };
                let (peer, flows, up) =
                    (l.peer.clone(), l.flows.values().copied().collect::<Vec<_>>(), l.conn.is_established());
                self.shun(now, &peer);
                if up {
                    self.ask_again(now, &flows);
                } else {
                    let cause = tried::silence(&self.node, now, link);
                    if let Some(l) = self.node.links.get_mut(link) {
                        l.cause = cause;
                    }
                    self.node.close_link(link, H3_NO_ERROR, "the connector did not answer");
                }
            }
            NodeEvent::Stream { link, event } => self.stream_event(now, link, event),
            NodeEvent::LinkDatagram { link, stream, payload } => {
                if let Some(id) = self.node.flow_at(link, stream) {
                    match self.node.flows.get(&id).map(|f| f.protocol) {
                        Some(Protocol::Icmp) => self.echo_reply(now, id, &payload),
                        Some(Protocol::Udp) => self.node.flow_datagram(id, payload),
                        Some(Protocol::Tcp) | None => {}
                    }
                }
            }
            NodeEvent::LinkClosed { peer, why, flows, refused, cause, .. } => {
                self.link_closed(now, &peer, &why, &flows, refused, cause)
            }
        }
    }

    /// Flows that must not go by a relay end with the direct path.
    fn direct_lost(&mut self, link: usize) {
        let Some(l) = self.node.links.get_mut(link).filter(|l| l.policy == PathPolicy::DirectOnly) else { return };
        let peer = l.peer.clone();
        l.conn.forget_datagrams();
        let flows: Vec<FlowId> = l.flows.values().copied().collect();
        self.ask_again(self.now, &flows);
        for id in flows {
            if let Some(flow) = self.node.flows.get(&id).filter(|f| f.phase == Phase::Open) {
                let error = direct_lost(&peer, flow.demand.as_ref());
                self.node.cut_flow_with(id, H3_REQUEST_CANCELLED, error);
            }
        }
    }

    fn link_closed(
        &mut self,
        now: Instant,
        peer: &str,
        why: &Closed,
        flows: &[FlowId],
        refused: Vec<(String, Error)>,
        cause: Option<Error>,
    ) {
        let error = cause.unwrap_or_else(|| match why {
            Closed::Refused(r) => Error::Identity(format!("the certificate of connector `{peer}` was refused: {r}")),
            Closed::ByPeer { app: false, code, .. } if (0x100..0x200).contains(code) => Error::Denied {
                by: DeniedBy::Connector,
                reason: format!("connector `{peer}` refused our certificate: {}", outer::alert(code - 0x100, "")),
                decision: None,
                policy: None,
            },
            Closed::ByPeer { reason, .. } => Error::unreachable(format!("connector `{peer}` closed: {reason}")),
            Closed::TimedOut => Error::Unreachable {
                message: format!("connector `{peer}` does not answer"),
                reason: Some(SILENT),
                tried: Vec::new(),
            },
            Closed::Local(reason) => {
                Error::unreachable(format!("the connection to connector `{peer}` ended: {reason}"))
            }
        });
        self.ask_again(now, flows);
        let open: Vec<FlowId> = flows
            .iter()
            .filter(|id| self.node.flows.get(id).is_some_and(|f| f.phase == Phase::Open))
            .copied()
            .collect();
        if !open.is_empty() && self.node.draining.is_none() {
            let n = open.len();
            let flows = if n == 1 { "flow was" } else { "flows were" };
            self.node.warn(Error::unreachable(format!("{n} open {flows} cut: {}", error.detail())));
        }
        for id in open {
            self.cut(id, error.clone());
        }
        let mut errors: Vec<(Option<String>, Error)> = refused.into_iter().map(|(r, e)| (Some(r), e)).collect();
        if errors.is_empty() {
            errors.push((None, error));
        }
        self.link_failed(now, peer, &errors);
    }

    /// The error of a request that a connection took, whose time is over.
    fn unanswered(&self, id: FlowId) -> Error {
        let Some(flow) = self.node.flows.get(&id) else { return Error::Aborted };
        let Some(link) = self.node.links.get(flow.link) else { return Error::Aborted };
        let (peer, service) = (&link.peer, &flow.service);
        if let Some(error) = tried::relay_silence(&self.node, self.now, flow.link) {
            let message = format!("service `{service}`: {}; {}", error.detail(), tried::check_udp());
            return Error::Unreachable { message, reason: Some(UDP_BLOCKED), tried: vec![error.detail()] };
        }
        if !link.can_ask() {
            let message = format!(
                "connector `{peer}` no longer answers; see whether its process hangs or its host has lost the network"
            );
            return Error::Unreachable { message, reason: Some(SILENT), tried: Vec::new() };
        }
        Error::Timeout(format!(
            "connector `{peer}` has the request and still tries to reach service `{service}`; allow it more time, or see why the service's host is slow to answer"
        ))
    }

    /// What a connector says by the code of a reset.
    fn reset_error(&self, id: FlowId, link: usize, code: u64) -> Error {
        let by = DeniedBy::Connector;
        if code == H3_REQUEST_CANCELLED
            && let Some(l) = self.node.links.get(link).filter(|l| l.policy == PathPolicy::DirectOnly)
        {
            return direct_lost(&l.peer, self.node.flows.get(&id).and_then(|f| f.demand.as_ref()));
        }
        let Some(decision) = DecisionId::from_reset_code(code) else { return Error::StreamReset { by, code } };
        let peer = self.node.links.get(link).map(|l| l.peer.clone()).unwrap_or_default();
        let reason = format!("no longer permitted; decision {decision} in the log of connector `{peer}` says why");
        Error::Denied { by, reason, decision: Some(decision.to_string()), policy: None }
    }

    fn stream_event(&mut self, now: Instant, link: usize, event: Event) {
        match event {
            Event::Headers { stream, fields, fin } => {
                let Some(id) = self.node.flow_at(link, stream) else { return };
                let status = field(&fields, ":status").and_then(|s| s.parse().ok()).unwrap_or(0);
                if status == MISDIRECTED && self.ask_elsewhere(now, id, &fields) {
                    return;
                }
                let peer = self.node.links.get(link).map(|l| format!("connector `{}`", l.peer)).unwrap_or_default();
                let granted = if (100..300).contains(&status) {
                    Ok(field(&fields, POLICY).map(str::to_owned))
                } else {
                    Err(outer::refusal(status, &fields, DeniedBy::Connector).said_by(&peer))
                };
                self.answer(now, id, status, granted, fin);
            }
            Event::Malformed { stream } | Event::Reset { stream, .. } if self.node.flow_at(link, stream).is_some() => {
                let Some(id) = self.node.flow_at(link, stream) else { return };
                let code = if let Event::Reset { code, .. } = event { code } else { 0x10e };
                let error = self.reset_error(id, link, code);
                match self.node.flows.get(&id).map(|f| f.phase.clone()) {
                    Some(Phase::Open) if self.node.is_end(id, code) => self.node.datagram_ended(id),
                    Some(Phase::Open) => self.cut(id, error),
                    Some(_) => self.refuse(id, error),
                    None => {}
                }
            }
            Event::Data { stream } | Event::Finished { stream } => {
                let Some(id) = self.node.flow_at(link, stream) else { return };
                if let Some(flow) = self.node.flows.get(&id).filter(|f| f.phase == Phase::Open) {
                    match flow.protocol {
                        Protocol::Tcp => self.node.actions.push_back(Action::Readable(id)),
                        Protocol::Udp | Protocol::Icmp => {
                            self.node.udp_stream_event(id, matches!(event, Event::Finished { .. }))
                        }
                    }
                }
            }
            Event::Writable { stream } => {
                if let Some(id) = self.node.flow_at(link, stream) {
                    self.node.actions.push_back(Action::Writable(id));
                }
            }
            Event::Established(_)
            | Event::Ready
            | Event::GoAway
            | Event::Migrated(_)
            | Event::Closed(_)
            | Event::Malformed { .. }
            | Event::Reset { .. } => {}
        }
        if self.node.links.get(link).is_some_and(|l| l.conn.is_ready()) && !self.waiting.is_empty() {
            self.place_all(now);
        }
    }

    fn settle_state(&mut self, now: Instant) {
        if self.node.settle_drain(now) {
            return;
        }
        if self.node.ready_legs().next().is_some() {
            self.node.set_state(State::Online, "a relay has accepted us");
        } else if self.node.state == State::Online && !self.node.is_replacing() {
            self.node.set_state(State::Degraded, "no relay answers");
        }
    }
}

/// Of a flow that may take no other path.
fn direct_lost(connector: &str, demand: Option<&Demand>) -> Error {
    let why = demand.map(|d| format!(": {}", d.describe())).unwrap_or_default();
    Error::Unreachable {
        message: format!("the direct path to connector `{connector}` is lost, and the flow may take no other{why}"),
        reason: Some("direct-lossy"),
        tried: Vec::new(),
    }
}
