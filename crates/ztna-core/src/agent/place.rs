//! Which inner connection takes a flow, and which relay an inner connection goes through.

use std::time::{Duration, Instant};

use super::{Agent, Purpose, RETRY_MAX, Waiting};
use crate::error::{DeniedBy, Error};
use crate::id::FlowId;
use crate::node::flows::{Flow, MISDIRECTED, PATH, Phase};
use crate::node::link::Link;
use crate::node::outer;
use crate::path::demand::{Demand, DemandedBy, permits};
use crate::quic::{Fields, field};
use crate::role::{Action, Answer, PathPolicy};
use crate::trust::{PathClass, Protocol};
use crate::wire::connect_ip::{PROTO_ICMPV6, Scope, Target};
use crate::wire::{authority, connect_udp};

/// How long a connector whose connection went silent is passed over while another serves.
const SHUN: Duration = Duration::from_secs(5);

impl Agent {
    /// Puts waiting requests on connections that can take them, and opens the connections they lack.
    pub(super) fn place_all(&mut self, now: Instant) {
        for _ in 0..self.waiting.len() {
            let Some(mut w) = self.waiting.pop_front() else { break };
            if now >= w.deadline {
                let service = self.node.snapshot.network.service(&w.open.service);
                let connectors = service.map(|s| s.connectors.clone()).unwrap_or_default();
                let demand = w.demand.as_ref();
                w.tried.note_pending(&self.node, now, &connectors, demand);
                let error = w.tried.give_up(&self.node, &w.open.service);
                self.fail(w.purpose, &w.open, error);
                continue;
            }
            if now >= w.retry_at && self.place(now, &mut w) {
                continue;
            }
            self.waiting.push_back(w);
        }
    }

    /// `true`: the request is on its way, or has failed for good.
    fn place(&mut self, now: Instant, w: &mut Waiting) -> bool {
        let Some(service) = self.node.snapshot.network.service(&w.open.service) else {
            let error = Error::Closed(format!("service `{}` left the network", w.open.service));
            self.fail(w.purpose, &w.open, error);
            return true;
        };
        let connectors: Vec<String> =
            service.connectors.iter().filter(|c| !w.refused.contains_key(*c)).cloned().collect();
        if connectors.is_empty() {
            let error = w.refused.values().next().cloned().unwrap_or(Error::Aborted);
            self.fail(w.purpose, &w.open, error);
            return true;
        }
        // What there is to know of a connection that keeps to one kind of path is known before it can take a flow.
        let looks = match w.purpose {
            Purpose::Explain(op) if w.open.path != PathPolicy::Auto => Some(op),
            Purpose::Explain(_) | Purpose::Flow(_) | Purpose::Check(_) | Purpose::Ping(_) => None,
        };
        // SETTINGS must have come before an extended CONNECT (RFC 9220 §3) only.
        let takes = |l: &Link| match (looks, w.open.protocol) {
            (Some(_), _) => l.conn.is_ready() && !l.conn.is_closed() && !l.retiring,
            (None, Protocol::Tcp) => l.can_connect(),
            (None, Protocol::Udp | Protocol::Icmp) => l.can_ask(),
        };
        let best = self
            .node
            .links
            .iter()
            .filter(|(_, l)| connectors.contains(&l.peer) && l.policy == w.open.path && takes(l))
            .min_by_key(|(_, l)| l.conn.rtt())
            .map(|(k, _)| k);
        if let Some(link) = best {
            let Some(op) = looks else { return self.ask(now, link, w) };
            self.look_at(now, op, link, w.demand.clone(), w.deadline);
            return true;
        }
        for connector in self.preferred(now, &connectors) {
            let exists = self.node.links.iter().any(|(_, l)| {
                l.peer == connector
                    && l.policy == w.open.path
                    && !l.retiring
                    && !l.path.is_doubtful()
                    && !l.conn.is_closed()
            });
            if !exists && self.node.ready_legs().next().is_some() {
                match self.node.connect_link(now, &connector, w.open.path) {
                    Ok(link) => {
                        self.seek_session(now, link);
                    }
                    Err(e) => w.tried.add(None, &e.said_by(&format!("connector `{connector}`"))),
                }
            }
        }
        false
    }

    /// Connectors to try: those not lately silent, or all when none is left.
    fn preferred(&self, now: Instant, connectors: &[String]) -> Vec<String> {
        let good: Vec<String> =
            connectors.iter().filter(|c| self.shunned.get(*c).is_none_or(|t| now >= *t)).cloned().collect();
        if good.is_empty() { connectors.to_vec() } else { good }
    }

    pub(super) fn shun(&mut self, now: Instant, connector: &str) {
        self.shunned.insert(connector.to_owned(), now + SHUN);
    }

    fn ask(&mut self, now: Instant, link_key: usize, w: &Waiting) -> bool {
        let zone = self.node.snapshot.network.zone.clone();
        let id = match w.purpose {
            Purpose::Flow(id) => id,
            Purpose::Check(_) | Purpose::Ping(_) | Purpose::Explain(_) => self.internal_flow(),
        };
        let fields = request_fields(w, &zone, id);
        let Some(link) = self.node.links.get_mut(link_key) else { return false };
        let Ok(Some(stream)) = link.conn.request(&fields, false) else { return false };
        let phase = match w.purpose {
            Purpose::Flow(_) => Phase::Asking,
            Purpose::Check(op) => Phase::Checking { op },
            Purpose::Explain(op) => Phase::Explaining { op },
            // An echo leaves when the flow is open; any other ping is the request itself.
            Purpose::Ping(op) => Phase::Pinging { op, sent: (w.open.protocol != Protocol::Icmp).then_some(now) },
        };
        if let Purpose::Check(op) | Purpose::Ping(op) | Purpose::Explain(op) = w.purpose {
            self.ops.insert(op, id);
        }
        let mut flow = Flow::new(link_key, stream, w.open.service.clone(), w.port, w.open.protocol, phase);
        flow.open = Some((w.open.clone(), w.deadline));
        flow.demand = w.demand.clone();
        flow.traceparent = w.open.traceparent.clone();
        self.node.add_flow(id, flow);
        self.node.touch_link(link_key);
        true
    }

    /// Gives a link a session at the nearest relay that has not refused it and that it does not use yet.
    pub(super) fn seek_session(&mut self, now: Instant, link_key: usize) -> bool {
        let Some(link) = self.node.links.get(link_key) else { return false };
        let used: Vec<usize> =
            self.node.sessions.iter().filter(|(_, s)| s.link == Some(link_key)).map(|(_, s)| s.slot.leg).collect();
        let refused: Vec<&String> = link.refused.iter().map(|(r, _)| r).collect();
        let mut legs: Vec<(bool, Duration, usize)> = self
            .node
            .ready_legs()
            .filter(|(k, l)| !used.contains(k) && !refused.contains(&&l.relay))
            .map(|(k, l)| (l.is_doubtful(now), l.rtt(), k))
            .collect();
        legs.sort_unstable();
        legs.into_iter().any(|(_, _, leg)| self.node.open_session(now, leg, link_key))
    }

    /// Looks again for sessions of links that every relay had refused one.
    pub(super) fn seek_again(&mut self, now: Instant) {
        let due: Vec<usize> =
            self.node.links.iter().filter(|(_, l)| l.seek_at.is_some_and(|t| now >= t)).map(|(k, _)| k).collect();
        for key in due {
            if let Some(link) = self.node.links.get_mut(key) {
                link.seek_at = None;
                link.refused.clear();
            }
            self.session_ended(now, key);
        }
    }

    /// A link lost its last session: find another, or end it with what the relays said.
    pub(super) fn session_ended(&mut self, now: Instant, link_key: usize) {
        let has = self.node.sessions.iter().any(|(_, s)| s.link == Some(link_key));
        if has || self.seek_session(now, link_key) {
            return;
        }
        let Some(link) = self.node.links.get_mut(link_key) else { return };
        let waiting_for_relay = link.refused.is_empty();
        let denied = link.refused.iter().map(|(_, e)| e).find(|e| matches!(e, Error::Denied { .. })).cloned();
        if let Some(denied) = denied.filter(|_| link.refused.iter().all(|(_, e)| matches!(e, Error::Denied { .. }))) {
            // Policy took the connector away from us: its flows end now, not at the idle timeout.
            link.cause = Some(denied);
            self.node.close_link(link_key, crate::quic::connection::H3_NO_ERROR, "no relay permits the connector");
            return;
        }
        if link.conn.is_established() {
            // It may live on over a relay that comes back, or where its connector binds again, within its idle timeout. What it
            // was asked and has not answered is of no use there.
            let wait = link.seek_backoff.next_up_to(RETRY_MAX, crate::node::outer::random_u32());
            link.seek_at = Some(now + wait);
            let flows: Vec<FlowId> = link.flows.values().copied().collect();
            self.ask_again(now, &flows);
            return;
        }
        if !waiting_for_relay {
            self.node.close_link(
                link_key,
                crate::quic::connection::H3_NO_ERROR,
                "no relay has a session to the connector",
            );
        }
    }

    /// The connection that would have taken requests for `connector` is gone before it was of use.
    pub(super) fn link_failed(&mut self, now: Instant, connector: &str, errors: &[(Option<String>, Error)]) {
        let network = self.node.snapshot.network.clone();
        for w in &mut self.waiting {
            let serves = network.service(&w.open.service).is_some_and(|s| s.connectors.iter().any(|c| c == connector));
            if !serves {
                continue;
            }
            for (relay, e) in errors {
                w.tried.add(relay.as_deref(), e);
                if matches!(e, Error::Denied { .. } | Error::Identity(_)) {
                    w.refused.insert(connector.to_owned(), e.clone());
                }
            }
            w.retry_at = now + w.pause;
            w.pause = (w.pause * 2).min(RETRY_MAX);
        }
        self.place_all(now);
    }

    /// Asks again for flows that a silent or ended connection never answered.
    pub(super) fn ask_again(&mut self, now: Instant, flows: &[FlowId]) {
        for &id in flows {
            let asking = self.node.flows.get(&id).is_some_and(|f| f.phase.is_question());
            if !asking {
                continue;
            }
            self.wait_again(now, id, |_| ());
        }
        self.place_all(now);
    }

    /// The connector says that another connection of ours would do: one that keeps to this kind of path, or the same once it is of that
    /// kind at both ends. `false`: the flow's own wish is another.
    pub(super) fn ask_elsewhere(&mut self, now: Instant, id: FlowId, fields: &Fields) -> bool {
        let (only, path) = match field(fields, PATH) {
            Some("direct") => (PathClass::Direct, PathPolicy::DirectOnly),
            Some("relay") => (PathClass::Relay, PathPolicy::RelayOnly),
            Some(_) | None => return false,
        };
        let Some(flow) = self.node.flows.get(&id) else { return false };
        let Some(wish) = flow.open.as_ref().map(|(open, _)| open.path) else { return false };
        if wish != PathPolicy::Auto && wish != path {
            return false;
        }
        let said = outer::refusal(MISDIRECTED, fields, DeniedBy::Connector);
        let policy = if let Error::Denied { policy, .. } = said { policy } else { None };
        if let (Phase::Checking { op }, PathPolicy::Auto) = (&flow.phase, wish) {
            let op = *op;
            self.end_op(op);
            let (by, reason) = (DeniedBy::Connector, permits(policy.as_deref(), only));
            let result = Ok(Answer::Check { allowed: true, by, policy, reason, only: Some(only) });
            self.node.actions.push_back(Action::Answer { op, result });
            return true;
        }
        self.wait_again(now, id, |w| {
            if wish == PathPolicy::Auto {
                w.demand = Some(Demand { only, by: DemandedBy::Policy(policy) });
            }
            w.open.path = path;
            w.retry_at = now + super::RETRY_MIN;
        });
        self.place_all(now);
        true
    }

    /// Takes a request back that has not been granted, to be put on a connection anew.
    fn wait_again(&mut self, now: Instant, id: FlowId, change: impl FnOnce(&mut Waiting)) {
        let Some(mut flow) = self.node.remove_flow(id) else { return };
        if let Some(link) = self.node.links.get_mut(flow.link) {
            link.conn.reset(flow.stream, crate::quic::connection::H3_REQUEST_CANCELLED);
        }
        let Some((open, deadline)) = flow.open.take() else { return };
        let mut w = Waiting {
            purpose: super::purpose_of(id, &flow),
            port: flow.port,
            open,
            demand: flow.demand.take(),
            deadline,
            retry_at: now,
            pause: super::RETRY_MIN,
            tried: Default::default(),
            refused: Default::default(),
        };
        change(&mut w);
        self.waiting.push_back(w);
    }
}

/// Whether the decision is all that is asked for.
fn asks_only(w: &Waiting) -> bool {
    match w.purpose {
        Purpose::Check(_) | Purpose::Explain(_) => true,
        Purpose::Ping(_) => w.open.protocol != Protocol::Icmp,
        Purpose::Flow(_) => false,
    }
}

fn request_fields(w: &Waiting, zone: &str, id: FlowId) -> Fields {
    let host = format!("{}.{zone}", w.open.service);
    let mut fields: Fields = Vec::with_capacity(8);
    let mut add = |name: &str, value: String| fields.push((name.to_owned(), value));
    add(":method", "CONNECT".into());
    match w.open.protocol {
        Protocol::Tcp => add(":authority", authority::format(&w.open.service, zone, w.port)),
        Protocol::Udp => {
            add(":protocol", "connect-udp".into());
            add(":scheme", "https".into());
            add(":authority", host.clone());
            add(":path", connect_udp::target_path(&host, w.port));
            add("capsule-protocol", "?1".into());
        }
        Protocol::Icmp => {
            add(":protocol", "connect-ip".into());
            add(":scheme", "https".into());
            add(":authority", host.clone());
            add(":path", Scope { target: Target::Host(host), proto: Some(PROTO_ICMPV6) }.path());
            add("capsule-protocol", "?1".into());
        }
    }
    add("ztna-flow", id.to_string());
    if let Some(only) = w.open.path.only() {
        add(PATH, only.as_str().into());
    }
    if asks_only(w) {
        add("ztna-check", "?1".into());
    }
    if let Some(t) = &w.open.traceparent {
        add("traceparent", t.clone());
    }
    fields
}
