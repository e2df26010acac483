//! The flows of a node as an operator sees them: `ztna status`, `ztna top`.

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
    /// At most `most` flows in the order of their numbers, which is that of their age, and how many more there are. Of too many,
    /// half are the oldest, where a leak shows, and half those of the rest that have carried most.
    pub fn list_flows(&self, most: usize) -> (Vec<ListedFlow>, usize) {
        let (mut chosen, mut rest): (Vec<_>, Vec<_>) = (self.flows.iter().collect(), Vec::new());
        if chosen.len() > most {
            rest = chosen.split_off(most / 2);
            let places = most - chosen.len();
            rest.sort_by_key(|(id, f)| (std::cmp::Reverse(f.bytes.rx.saturating_add(f.bytes.tx)), **id));
            chosen.extend(rest.drain(..places.min(rest.len())));
            chosen.sort_by_key(|(id, _)| **id);
        }
        // Many flows share a connection, whose path is worked out once.
        let mut ways = BTreeMap::new();
        let mut way = |link: usize| {
            let found = || self.describe_path(link).map_or((PathKind::None, None), |p| (p.kind, p.relay));
            ways.entry(link).or_insert_with(found).clone()
        };
        let listed = chosen.into_iter().map(|(id, flow)| self.listed(*id, flow, way(flow.link))).collect();
        (listed, rest.len())
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
