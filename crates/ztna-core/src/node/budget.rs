//! A bound on what peers make a node hold: unread bytes of slow readers, bytes behind a gap, streams that were begun and left.
//!
//! What counts is the heap that a connection holds (`quic::Connection::held`), not its bytes: flow control counts those, and a peer
//! can make a byte cost 160. Over the limit the slowest readers are reset; where nothing that is readable explains it, the
//! connection is closed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::Node;
use crate::error::Error;
use crate::id::{FlowId, SpiffeId};
use crate::quic::connection::{H3_EXCESSIVE_LOAD, UNPROVEN};
use crate::quic::tls::INNER_CONNECTION_WINDOW;
use crate::role::{Action, Notice};

/// The queue's name in `ztna_drops_total`: one for each flow that was reset, and for each connection that was closed.
pub const QUEUE: &str = "receive-budget";
/// What a connection holds without a fault of its peer is not counted: its own state and that of a few flows (36 KB, facts.md).
const FREE: u64 = 64 << 10;
/// After a count of all flows the next one is due when this share of the limit came on top: a count walks every chunk that
/// is held (some 200,000 for 256 MB), so it must not follow each batch while stalled readers hold nearly all that is allowed.
const RECOUNT_SHARE: u64 = 16;

/// How much may be held for peers, bytes. It may be passed by a sixteenth before that is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiveLimit {
    /// Over all connections of the node. Default 256 MiB: 25 streams with the largest window (10 MB) full, or 500 of those that
    /// never read a byte (512 KB), well within the memory of a small server.
    pub node: u64,
    /// Of one connection, before its slow readers are reset. Default seven eighths of its window (42 of 48 MB): past it the
    /// streams that are read would soon find no window left. What remains carries 600 Mbit/s at 80 ms.
    pub connection: u64,
    /// Of one connection, readable or not: past it, it is closed. Default four thirds of its window: full-sized frames cost an eighth
    /// above their bytes, the rest is what we have written to it.
    pub cut: u64,
}

impl Default for ReceiveLimit {
    fn default() -> Self {
        let window = INNER_CONNECTION_WINDOW;
        ReceiveLimit { node: 256 << 20, connection: window / 8 * 7, cut: window / 3 * 4 }
    }
}

/// What is held, and from where on that is worth a count.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Gauge {
    held: u64,
    /// Zero until the first count.
    count_at: u64,
}

impl Gauge {
    fn is_over(&self, limit: u64) -> bool {
        self.held > limit.max(self.count_at)
    }
    fn counted(&mut self, limit: u64) {
        self.count_at = self.held.saturating_add(limit / RECOUNT_SHARE);
    }
}

/// A flow that holds bytes.
struct Holder {
    flow: FlowId,
    bytes: u64,
    since: Instant,
}

impl Node {
    /// Takes note of what a connection holds now.
    pub(super) fn weigh(&mut self, key: usize) {
        let Some(link) = self.links.get_mut(key).filter(|l| !l.cut) else { return };
        let held = link.conn.held().saturating_sub(FREE);
        self.held.held = self.held.held.saturating_sub(link.held.held).saturating_add(held);
        link.held.held = held;
    }

    /// A connection is gone with all that it held.
    pub(super) fn forget_held(&mut self, gauge: Gauge) {
        self.held.held = self.held.held.saturating_sub(gauge.held);
    }

    /// Brings the connections that were just settled, and the node, back within their limits.
    pub(super) fn bound_held(&mut self, now: Instant, settled: &[usize]) {
        let limit = self.receive_limit;
        for &key in settled {
            self.weigh(key);
            let Some(link) = self.links.get(key) else { continue };
            if !link.conn.is_established() {
                if link.conn.held() > UNPROVEN {
                    self.cut_link(key, UNPROVEN);
                }
                continue;
            }
            if link.held.is_over(limit.connection) {
                self.relieve(now, &[key], limit.connection, "its connection", |n| {
                    n.links.get(key).map_or(0, |l| l.held.held)
                });
                if let Some(link) = self.links.get_mut(key) {
                    link.held.counted(limit.connection);
                }
                if self.links.get(key).is_some_and(|l| l.held.held > limit.cut) {
                    self.cut_link(key, limit.cut);
                }
            }
        }
        if self.held.is_over(limit.node) {
            self.bound_node(now, limit.node);
            self.held.counted(limit.node);
        }
    }

    /// Takes from the peer that holds most, until the node is within its limit: its slow readers first, then its connections.
    fn bound_node(&mut self, now: Instant, limit: u64) {
        // Each turn ends a flow or a connection, or there is nothing left to end.
        while self.held.held > limit {
            let mut peers: BTreeMap<Option<SpiffeId>, (u64, Vec<usize>)> = BTreeMap::new();
            for (key, link) in self.links.iter().filter(|(_, l)| l.held.held > 0) {
                let entry = peers.entry(link.conn.identity().map(|i| i.id.clone())).or_default();
                entry.0 += link.held.held;
                entry.1.push(key);
            }
            let Some((_, links)) = peers.into_values().max_by_key(|(held, _)| *held) else { break };
            if self.relieve(now, &links, limit, "this node", |n| n.held.held) > 0 {
                continue;
            }
            let held = |k: &usize| self.links.get(*k).map_or(0, |l| l.held.held);
            let Some(largest) = links.iter().copied().max_by_key(held) else { break };
            self.cut_link(largest, limit);
        }
    }

    /// The flows of a connection that hold bytes for a local reader.
    fn holders(&self, now: Instant, key: usize) -> Vec<Holder> {
        let Some(link) = self.links.get(key) else { return Vec::new() };
        let holder = |(stream, flow): (&u64, &FlowId)| {
            let bytes = link.conn.unread(*stream);
            let since = self.flows.get(flow).and_then(|f| f.read_at).unwrap_or(now);
            (bytes > 0).then_some(Holder { flow: *flow, bytes, since })
        };
        link.flows.iter().filter_map(holder).collect()
    }

    /// Resets holders, those of the most bytes for the longest time first, until `held` is within `limit`: how many.
    fn relieve(
        &mut self,
        now: Instant,
        links: &[usize],
        limit: u64,
        whose: &str,
        held: impl Fn(&Node) -> u64,
    ) -> usize {
        let mut holders: Vec<Holder> = links.iter().flat_map(|k| self.holders(now, *k)).collect();
        // Byte-milliseconds. A stream that was read just now counts for a millisecond, so that size decides among the lively.
        let weight = |h: &Holder| {
            let stalled = now.saturating_duration_since(h.since).max(Duration::from_millis(1));
            u128::from(h.bytes) * stalled.as_millis()
        };
        holders.sort_by_key(weight);
        let mut reset = 0;
        while held(self) > limit {
            let Some(slowest) = holders.pop() else { break };
            let Some(link) = self.flows.get(&slowest.flow).map(|f| f.link) else { continue };
            let stalled = now.saturating_duration_since(slowest.since).as_secs_f64();
            let error = Error::Limit(format!(
                "{whose} may hold {} unread bytes; the slowest reader was reset, which had left {} unread for {stalled:.1} s",
                limit, slowest.bytes
            ));
            self.counters.drop_one(QUEUE);
            self.actions.push_back(Action::Notice(Notice::Warning(error.clone())));
            self.cut_flow_with(slowest.flow, H3_EXCESSIVE_LOAD, error);
            self.weigh(link);
            reset += 1;
        }
        reset
    }

    /// Closes a connection that holds what no reader could take.
    fn cut_link(&mut self, key: usize, limit: u64) {
        let Some(link) = self.links.get_mut(key) else { return };
        let who = link.conn.identity().map_or_else(|| "a peer that has not proven itself".into(), |i| i.id.to_string());
        let error = Error::Limit(format!(
            "{who} made its connection hold {} bytes that nobody can read, where {limit} are allowed: it was closed",
            link.conn.held()
        ));
        link.cause = Some(error.clone());
        link.cut = true;
        let held = std::mem::take(&mut link.held);
        self.forget_held(held);
        self.counters.drop_one(QUEUE);
        self.actions.push_back(Action::Notice(Notice::Warning(error)));
        self.close_link(key, H3_EXCESSIVE_LOAD, "too much is held for this connection");
    }
}
