//! Streams whose flow is over for both local sides while its last bytes are still on their way.
//!
//! A flow ends with its two FINs, but what was written before ours may wait for window, or be lost and sent again. A drain that closed
//! the connection then would cut it off.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::quic::{Connection, StreamId};

/// Entries from which on a new one has the finished ones looked for. The peer's limit on streams bounds those that are not.
const SWEEP_FROM: usize = 64;

/// The ended streams of one connection.
#[derive(Debug, Default)]
pub struct Finishing {
    streams: BTreeMap<StreamId, Peer>,
    sweep_at: usize,
}

/// What the peer has done with its direction.
#[derive(Debug, Clone, Copy)]
enum Peer {
    /// It was read to its FIN: the transport lets go of the stream with the last acknowledgement.
    Ended,
    /// We asked it to stop, after so many packets were sent. Should its answer come after the last acknowledgement, the transport
    /// keeps the stream for good: then an idle connection says that all has arrived.
    AskedToStop { sent: usize },
}

impl Finishing {
    /// Takes a stream that ends here.
    pub fn push(&mut self, conn: &mut Connection, stream: StreamId, now: Instant) {
        if !conn.holds_sender(stream) {
            return;
        }
        if self.streams.len() >= self.sweep_at.max(SWEEP_FROM) {
            self.sweep(conn, now);
            self.sweep_at = self.streams.len() * 2;
        }
        let peer = if conn.finished(stream) { Peer::Ended } else { Peer::AskedToStop { sent: conn.loss().1 } };
        self.streams.insert(stream, peer);
    }

    /// Whether all that was written has been acknowledged, or is no longer wanted.
    pub fn is_done(&mut self, conn: &mut Connection, now: Instant) -> bool {
        self.sweep(conn, now);
        self.streams.is_empty()
    }

    fn sweep(&mut self, conn: &mut Connection, now: Instant) {
        let idle = !conn.in_flight(now);
        let sent = conn.loss().1;
        self.streams.retain(|stream, peer| {
            conn.holds_sender(*stream)
                && match peer {
                    Peer::Ended => true,
                    Peer::AskedToStop { sent: before } => !idle || sent == *before,
                }
        });
    }
}
