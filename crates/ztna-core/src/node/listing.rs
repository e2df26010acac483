//! The flows of a node as an operator sees them: `ztna status`, `ztna top`.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Instant;

use super::Node;
use super::flows::Flow;
use crate::id::FlowId;
use crate::role::PathKind;
use crate::trust::Protocol;

/// Flows that one listing names: enough for any screen, and made in well under a millisecond of the packet loop.
pub const MOST_LISTED: usize = 1_000;

/// Payload bytes of one flow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// From the peer: read by the local side, or datagrams that have arrived.
    pub rx: u64,
    /// To the peer: taken from the local side to be sent.
    pub tx: u64,
}

/// One flow, now.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedFlow {
    pub id: FlowId,
    pub service: String,
    /// `None` for ICMP.
    pub port: Option<u16>,
    pub protocol: Protocol,
    /// Name of the node at the other end.
    pub peer: String,
    /// Whether it carries bytes; else it has been asked for, and not answered.
    pub open: bool,
    pub path: PathKind,
    /// The relay's name while the path goes through one.
    pub relay: Option<String>,
    pub bytes: Tally,
    pub since: Instant,
}

impl Node {
    /// At most `most` flows, the oldest first, and how many more there are. Of too many, half are the oldest, where a leak shows,
    /// and half those of the rest that have carried most.
    pub fn list_flows(&self, most: usize) -> (Vec<ListedFlow>, usize) {
        let age = |(id, flow): &(&FlowId, &Flow)| (flow.since, **id);
        let mut chosen: Vec<_> = self.flows.iter().collect();
        let more = chosen.len().saturating_sub(most);
        if more > 0 {
            // Only what is shown has to be in order: a node may have very many flows, and packets wait.
            let oldest = most / 2;
            chosen.select_nth_unstable_by_key(oldest, age);
            if let Some(rest @ [_, ..]) = chosen.get_mut(oldest..) {
                let carried = |(id, f): &(&FlowId, &Flow)| (Reverse(f.bytes.rx.saturating_add(f.bytes.tx)), **id);
                rest.select_nth_unstable_by_key((most - oldest).min(rest.len() - 1), carried);
            }
            chosen.truncate(most);
        }
        chosen.sort_unstable_by_key(age);
        // Many flows share a connection, whose path is worked out once.
        let mut ways = BTreeMap::new();
        let mut way = |link: usize| {
            let found = || self.describe_path(link).map_or((PathKind::None, None), |p| (p.kind, p.relay));
            ways.entry(link).or_insert_with(found).clone()
        };
        let listed = chosen.into_iter().map(|(id, flow)| self.listed(*id, flow, way(flow.link))).collect();
        (listed, more)
    }

    fn listed(&self, id: FlowId, flow: &Flow, (path, relay): (PathKind, Option<String>)) -> ListedFlow {
        let link = self.links.get(flow.link);
        ListedFlow {
            id,
            service: flow.service.clone(),
            port: (flow.protocol != Protocol::Icmp).then_some(flow.port),
            protocol: flow.protocol,
            peer: link.map(|l| l.peer.clone()).unwrap_or_default(),
            open: flow.phase.carries(),
            path,
            relay,
            bytes: flow.bytes,
            since: flow.since.unwrap_or(self.now),
        }
    }
}
