//! A connector's older process, once a newer one of its identity is bound: it keeps its sessions until they have ended or its
//! drain is over (decision 0008).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::REPLACED;
use super::machine::Relay;
use crate::quic::ConnKey;
use crate::quic::connection::StreamId;
use crate::wire::capsule::Capsule;

/// How long an older process may take to end its sessions: the drain of 10 s (protocol.md, Timers), and what its own closes need to
/// arrive.
const DRAIN: Duration = Duration::from_secs(12);
/// How long it may take to acknowledge the notice, besides round trips: three probes of a lossy link. One that was killed, or has
/// itself come back from another address, never will, and its agents are to look for the newer one soon.
const ANSWER: Duration = Duration::from_millis(500);
/// Round trips for the same.
const ANSWER_TRIPS: u32 = 4;

#[derive(Debug)]
pub(super) struct Replaced {
    by: SocketAddr,
    /// When something is to be done about it.
    pub(super) until: Instant,
    /// Packets received before the notice; `None`: it has answered since, and drains.
    before: Option<usize>,
}

impl Relay {
    /// Tells the older process of the newer one, at `by`.
    pub(super) fn replace(&mut self, now: Instant, key: ConnKey, stream: StreamId, by: SocketAddr) {
        let Some(conn) = self.conn(key) else { return };
        let answer = ANSWER + conn.quic.rtt().min(Duration::from_secs(1)) * ANSWER_TRIPS;
        conn.replaced = Some(Replaced { by, until: now + answer, before: Some(conn.quic.received()) });
        self.send_capsule(key, stream, &Capsule::Replaced(by));
        self.touch(key);
    }

    /// Closes an older process's connection when it is dead, or has had its time.
    pub(super) fn press_replaced(&mut self, now: Instant, key: ConnKey) {
        let Some(conn) = self.conn(key) else { return };
        let received = conn.quic.received();
        let Some(replaced) = conn.replaced.as_mut().filter(|r| r.until <= now) else { return };
        if replaced.before.take().is_some_and(|before| received > before) {
            replaced.until = now + DRAIN;
            return;
        }
        let reason = format!("replaced by a newer bind from {}", replaced.by);
        conn.replaced = None;
        self.close(key, REPLACED, &reason);
    }
}
