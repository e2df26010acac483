//! Operation `explain`: what both ends know of the paths of one connection.
//!
//! Which connection that is, the connector's policy says: a flow that it permits on one kind of path only has one of its own
//! (`connector/misdirected.rs`). So the connector is asked for its decision first, as `check` does, unless the caller has named the kind.

use std::time::{Duration, Instant};

use super::{Agent, Purpose};
use crate::error::Error;
use crate::node::Node;
use crate::path::Direct;
use crate::path::demand::Demand;
use crate::path::explain::{Cause, Evidence, Surroundings, explain};
use crate::role::{Action, Answer, Open, PathPolicy};
use crate::trust::Protocol;

/// The other end is asked what it found, and waited for so long.
const PATIENCE: Duration = Duration::from_secs(2);
/// And asked again after this: a connection that is just made may not be at the same point at both ends.
const ASK_EVERY: Duration = Duration::from_millis(300);

/// One that waits for the other end's word.
#[derive(Debug)]
pub(super) struct Explaining {
    pub(super) op: u64,
    link: usize,
    demand: Option<Demand>,
    statuses: u64,
    ask_at: Instant,
    until: Instant,
}

impl Explaining {
    pub(super) fn due(&self) -> Instant {
        self.ask_at.min(self.until)
    }
}

impl Agent {
    pub(super) fn begin_explain(&mut self, now: Instant, op: u64, open: Open) {
        let way = self.flow_ways(&open.service).into_iter().next();
        let open = match (open.port, way) {
            (None, Some((protocol, port))) => Open { protocol, port, ..open },
            (Some(_), _) | (None, None) => open,
        };
        self.request(now, Purpose::Explain(op), open);
    }

    /// What flows of a service there can be: the first port of each of its ranges, and echo.
    pub(super) fn flow_ways(&self, service: &str) -> Vec<(Protocol, Option<u16>)> {
        let Some(service) = self.node.snapshot.network.service(service) else { return Vec::new() };
        let tcp = service.tcp.iter().map(|r| (Protocol::Tcp, Some(r.lo)));
        let udp = service.udp.iter().map(|r| (Protocol::Udp, Some(r.lo)));
        tcp.chain(udp).chain(service.icmp.then_some((Protocol::Icmp, None))).collect()
    }

    /// This is the connection that such a flow takes: what is known of it is told as soon as the other end has said its part.
    pub(super) fn look_at(&mut self, now: Instant, op: u64, link: usize, demand: Option<Demand>, deadline: Instant) {
        let Some(l) = self.node.links.get(link) else {
            return self.node.actions.push_back(Action::Answer { op, result: Err(Error::Aborted) });
        };
        let statuses = l.path.direct().map_or(0, Direct::statuses);
        let until = if l.policy == PathPolicy::RelayOnly { now } else { deadline.min(now + PATIENCE) };
        self.explaining.push(Explaining { op, link, demand, statuses, ask_at: now, until });
    }

    /// Answers those whose other end has spoken, or will not.
    pub(super) fn settle_explaining(&mut self, now: Instant) {
        for mut e in std::mem::take(&mut self.explaining) {
            let link = self.node.links.get_mut(e.link);
            let waits = link.is_some() && now < e.until;
            let direct = link.and_then(|l| l.path.direct_mut());
            let told = direct.as_ref().is_some_and(|d| d.statuses() > e.statuses && d.has_remote());
            if waits && !told {
                if now >= e.ask_at {
                    e.ask_at = now + ASK_EVERY;
                    if let Some(direct) = direct {
                        direct.ask_status();
                    }
                    self.node.touch_link(e.link);
                }
                self.explaining.push(e);
                continue;
            }
            let result = self.explanation(now, &e).ok_or(Error::Aborted);
            self.node.actions.push_back(Action::Answer { op: e.op, result });
        }
    }

    fn explanation(&self, now: Instant, e: &Explaining) -> Option<Answer> {
        let evidence = Box::new(evidence(&self.node, now, e.link, e.demand.clone())?);
        let link = self.node.links.get(e.link)?;
        let path = self.node.usable_path(e.link)?;
        Some(Answer::Explain { path, evidence, peer: link.peer.clone() })
    }
}

/// What is known of a connection's paths. Where it is so young that it has nothing to say but that it is looking, that includes what
/// others to the same connector have found.
pub(super) fn evidence(node: &Node, now: Instant, key: usize, demand: Option<Demand>) -> Option<Evidence> {
    let around = |demand| Surroundings {
        now,
        demand,
        second_port_silent: node.silent_second_port(),
        one_view: node.has_one_view(),
        port_mapping: node.port_mapping().clone(),
    };
    let link = node.links.get(key)?;
    let mut found = explain(link.path.direct(), around(demand));
    let is_cause = |cause: Cause| cause != Cause::Checking;
    if found.reasons.is_empty() || found.reasons.iter().any(|why| is_cause(why.cause)) {
        return Some(found);
    }
    let elder = node
        .links
        .iter()
        .filter(|(k, l)| *k != key && l.peer == link.peer && l.conn.is_established())
        .filter_map(|(_, l)| l.path.direct())
        .find(|d| d.current().is_none() && d.list().round_left(now).is_none());
    if let Some(elder) = elder {
        let more = explain(Some(elder), around(None)).reasons.into_iter().filter(|why| is_cause(why.cause));
        found.reasons.splice(0..0, more);
    }
    Some(found)
}
