//! What a peer had sent to its end when the connection ended: a local side that reads slowly still gets all of it.
//!
//! A drain waits until the peer has acknowledged the last bytes; that they were read there it can't know. So they outlive their
//! connection here.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::Node;
use super::link::Link;
use crate::error::Error;
use crate::id::FlowId;
use crate::quic::connection::Closed;
use crate::role::{Action, Read};

/// How long a local side may take for the rest: the idle timeout of the connection that it came by (protocol.md, Timers).
const LIFE: Duration = Duration::from_secs(60);
/// Bytes kept for all flows of a node: one and a half of the largest stream windows. Peers that come and go could fill a node else.
const MAX_HELD: u64 = 16 << 20;
/// Flows kept: each holds a descriptor of its local side.
const MAX_TAILS: usize = 4_096;
/// The queue's name in `ztna_drops_total`: one for each flow that was cut for want of room.
const QUEUE: &str = "tails";

struct Tail {
    bytes: Vec<u8>,
    read: usize,
    until: Instant,
}

/// The ends of flows whose connection is gone.
#[derive(Default)]
pub(super) struct Tails {
    tails: BTreeMap<FlowId, Tail>,
    held: u64,
}

impl Tails {
    pub fn is_empty(&self) -> bool {
        self.tails.is_empty()
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.tails.values().map(|t| t.until).min()
    }

    /// Reads the rest of a flow; `None`: it has none here.
    pub fn read(&mut self, id: FlowId, out: &mut [u8]) -> Option<Read> {
        let tail = self.tails.get_mut(&id)?;
        let rest = tail.bytes.get(tail.read..).unwrap_or_default();
        let n = rest.len().min(out.len());
        if n == 0 {
            if rest.is_empty() {
                self.forget(id);
                return Some(Read::Finished);
            }
            return Some(Read::Blocked);
        }
        if let (Some(to), Some(from)) = (out.get_mut(..n), rest.get(..n)) {
            to.copy_from_slice(from);
        }
        tail.read += n;
        Some(Read::Bytes(n))
    }

    /// The local side wants no more. Gives whether there was something.
    pub fn forget(&mut self, id: FlowId) -> bool {
        let Some(tail) = self.tails.remove(&id) else { return false };
        self.held = self.held.saturating_sub(tail.bytes.len() as u64);
        true
    }

    fn has_room(&self, bytes: u64) -> bool {
        self.tails.len() < MAX_TAILS && self.held.saturating_add(bytes) <= MAX_HELD
    }

    fn insert(&mut self, id: FlowId, bytes: Vec<u8>, until: Instant) {
        self.held += bytes.len() as u64;
        self.tails.insert(id, Tail { bytes, read: 0, until });
    }
}

impl Node {
    /// Keeps what a connection that has ended holds of flows that had only to be read to their end, and takes them off it.
    pub(super) fn keep_tails(&mut self, now: Instant, link: &mut Link, why: &Closed) {
        match why {
            Closed::ByPeer { .. } | Closed::TimedOut => {}
            // We have ended it: nothing that came by it counts any more.
            Closed::Refused(_) | Closed::Local(_) => return,
        }
        let ended: Vec<_> = link
            .flows
            .iter()
            .filter(|(_, id)| self.flows.get(id).is_some_and(|f| f.awaits_end_only()))
            .map(|(stream, id)| (*stream, *id))
            .collect();
        for (stream, id) in ended {
            if !self.tails.has_room(link.conn.unread(stream)) {
                self.counters.drop_one(QUEUE);
                continue;
            }
            let mut bytes = Vec::new();
            let mut chunk = [0u8; 16 << 10];
            loop {
                let n = link.conn.read(stream, &mut chunk);
                if n == 0 {
                    break;
                }
                bytes.extend_from_slice(chunk.get(..n).unwrap_or_default());
            }
            if link.conn.finished(stream) {
                bytes.shrink_to_fit();
                self.tails.insert(id, bytes, now + LIFE);
                link.flows.remove(&stream);
                self.flows.remove(&id);
                self.actions.push_back(Action::Readable(id));
            }
        }
    }

    /// Cuts flows whose local side has taken too long for the rest.
    pub(super) fn expire_tails(&mut self, now: Instant) {
        let late: Vec<FlowId> = self.tails.tails.iter().filter(|(_, t)| now >= t.until).map(|(id, _)| *id).collect();
        for id in late {
            self.tails.forget(id);
            let error = Error::Timeout(format!(
                "its connection has ended, and the rest was not read within {} s",
                LIFE.as_secs()
            ));
            self.actions.push_back(Action::Reset { flow: id, error });
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests")]
mod tests {
    use super::*;

    fn tails() -> Tails {
        let mut t = Tails::default();
        t.insert(FlowId(1), b"the rest".to_vec(), Instant::now() + LIFE);
        t
    }

    #[test]
    fn the_rest_is_read_in_pieces_then_the_end_and_then_nothing() {
        let mut t = tails();
        let mut out = [0u8; 5];
        assert_eq!((t.read(FlowId(1), &mut out), &out), (Some(Read::Bytes(5)), b"the r"));
        assert_eq!(t.read(FlowId(1), &mut []), Some(Read::Blocked));
        assert_eq!(t.read(FlowId(1), &mut out), Some(Read::Bytes(3)));
        assert_eq!(t.read(FlowId(1), &mut out), Some(Read::Finished));
        assert_eq!(t.read(FlowId(1), &mut out), None);
        assert_eq!(t.held, 0);
    }

    #[test]
    fn bytes_and_flows_are_bounded_and_what_is_forgotten_makes_room() {
        let mut t = tails();
        assert!(t.has_room(MAX_HELD - 8) && !t.has_room(MAX_HELD - 7));
        assert!(t.forget(FlowId(1)) && !t.forget(FlowId(1)));
        assert!(t.has_room(MAX_HELD));
        for n in 0..MAX_TAILS as u64 {
            t.insert(FlowId(n), Vec::new(), Instant::now());
        }
        assert!(!t.has_room(0));
    }
}
