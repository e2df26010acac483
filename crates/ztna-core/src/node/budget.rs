//! A bound on what was received and not yet read by local programs, over all flows of a node.
//!
//! Each packet only adds its length to a number of its connection, and each read takes its own away: an upper bound, for
//! headers and repeated data stay in it. Only where the bound passes a limit is it replaced by an exact count.

use std::time::{Duration, Instant};

use super::Node;
use crate::error::Error;
use crate::id::FlowId;
use crate::quic::connection::H3_EXCESSIVE_LOAD;
use crate::quic::tls::INNER_CONNECTION_WINDOW;
use crate::role::{Action, Notice};

/// The queue's name in `ztna_drops_total`: one for each flow that was reset.
pub const QUEUE: &str = "receive-budget";
/// After an exact count the next one is due when this share of the limit was received on top: a count walks every chunk that
/// is held (some 200,000 for 256 MB), so it must not follow each batch while stalled readers hold nearly all that is allowed.
const RECOUNT_SHARE: u64 = 16;

/// How much may wait for local readers, bytes. What is held may pass it by a sixteenth before it is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiveLimit {
    /// Over all flows of the node. Default 256 MiB: 25 streams with the largest window (10 MB) full, or 500 of those that never
    /// read a byte (512 KB), well within the memory of a small server.
    pub node: u64,
    /// Over all flows of one connection. Default seven eighths of its window (42 of 48 MB): past it the streams that are read
    /// would soon find no window left. What remains carries 600 Mbit/s at 80 ms.
    pub connection: u64,
}

impl Default for ReceiveLimit {
    fn default() -> Self {
        ReceiveLimit { node: 256 << 20, connection: INNER_CONNECTION_WINDOW / 8 * 7 }
    }
}

/// What is held at most, and from where on that is worth an exact count.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Gauge {
    bound: u64,
    /// Zero until the first exact count.
    count_at: u64,
}

impl Gauge {
    fn add(&mut self, bytes: u64) {
        self.bound = self.bound.saturating_add(bytes);
    }
    pub(super) fn take(&mut self, bytes: u64) {
        self.bound = self.bound.saturating_sub(bytes);
    }
    fn is_over(&self, limit: u64) -> bool {
        self.bound > limit.max(self.count_at)
    }
    fn counted(&mut self, exact: u64, limit: u64) {
        self.bound = exact;
        self.count_at = exact.saturating_add(limit / RECOUNT_SHARE);
    }
}

/// A flow that holds bytes.
struct Holder {
    flow: FlowId,
    bytes: u64,
    since: Instant,
}

impl Node {
    /// A connection was fed this many bytes of packets.
    pub(super) fn note_received(&mut self, link: usize, bytes: u64) {
        if let Some(l) = self.links.get_mut(link) {
            l.unread.add(bytes);
            self.unread.add(bytes);
        }
    }

    /// A local program, or this node itself, has taken this many bytes off a connection.
    pub(super) fn note_read(&mut self, link: usize, bytes: u64) {
        if let Some(l) = self.links.get_mut(link) {
            l.unread.take(bytes);
            self.unread.take(bytes);
        }
    }

    /// A connection is gone with all that it held.
    pub(super) fn forget_unread(&mut self, gauge: Gauge) {
        self.unread.take(gauge.bound);
    }

    /// Resets the slowest readers of a connection that holds too much, and of the node.
    pub(super) fn bound_unread(&mut self, now: Instant, fed: &[usize]) {
        let limit = self.receive_limit;
        for &key in fed {
            if self.links.get(key).is_some_and(|l| l.unread.is_over(limit.connection)) {
                let holders = self.count_link(now, key);
                let left = self.relieve(now, holders, limit.connection, "its connection");
                if let Some(l) = self.links.get_mut(key) {
                    l.unread.counted(left, limit.connection);
                }
            }
        }
        if self.unread.is_over(limit.node) {
            let keys: Vec<usize> = self.links.iter().map(|(k, _)| k).collect();
            let holders = keys.into_iter().flat_map(|k| self.count_link(now, k)).collect();
            let left = self.relieve(now, holders, limit.node, "this node");
            self.unread.counted(left, limit.node);
        }
    }

    /// Counts what each flow of a connection holds, and makes the bounds exact.
    fn count_link(&mut self, now: Instant, key: usize) -> Vec<Holder> {
        let Some(link) = self.links.get_mut(key) else { return Vec::new() };
        let mut holders = Vec::new();
        let mut exact = 0;
        for (stream, flow) in &link.flows {
            let bytes = link.conn.unread(*stream);
            if bytes > 0 {
                exact += bytes;
                let since = self.flows.get(flow).and_then(|f| f.read_at).unwrap_or(now);
                holders.push(Holder { flow: *flow, bytes, since });
            }
        }
        self.unread.take(link.unread.bound);
        self.unread.add(exact);
        link.unread.bound = exact;
        holders
    }

    /// Resets holders, those of the most bytes for the longest time first, until they are within `limit`. Gives what is left.
    fn relieve(&mut self, now: Instant, mut holders: Vec<Holder>, limit: u64, whose: &str) -> u64 {
        let mut held: u64 = holders.iter().map(|h| h.bytes).sum();
        // Byte-milliseconds. A stream that was read just now counts for a millisecond, so that size decides among the lively.
        let weight = |h: &Holder| {
            let stalled = now.saturating_duration_since(h.since).max(Duration::from_millis(1));
            u128::from(h.bytes) * stalled.as_millis()
        };
        holders.sort_by_key(weight);
        while held > limit {
            let Some(slowest) = holders.pop() else { break };
            held -= slowest.bytes;
            let stalled = now.saturating_duration_since(slowest.since).as_secs_f64();
            let error = Error::Limit(format!(
                "{whose} may hold {} unread bytes; the slowest reader was reset, which had left {} unread for {stalled:.1} s",
                limit, slowest.bytes
            ));
            if let Some(link) = self.flows.get(&slowest.flow).map(|f| f.link) {
                self.note_read(link, slowest.bytes);
            }
            self.counters.drop_one(QUEUE);
            self.actions.push_back(Action::Notice(Notice::Warning(error.clone())));
            self.cut_flow_with(slowest.flow, H3_EXCESSIVE_LOAD, error);
        }
        held
    }
}
