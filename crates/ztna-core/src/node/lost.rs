//! Inner connections that one end no longer knows: a connector that was killed and came back says so with stateless resets (RFC 9000
//! §10.3, decision 0009), and its agents end the flows that died with it.

use std::time::{Duration, Instant};

use super::Node;
use super::link::Link;
use crate::error::{Error, Result};
use crate::path::RelayPath;
use crate::quic::reset::ResetKeys;
use crate::trust::Snapshot;
use crate::wire::quic_header::{self, Header};

/// A session gets no second reset before this: one tells all, and the first may have been lost.
const PACE: Duration = Duration::from_millis(200);
/// How long, besides round trips, a connection must have been silent after a reset to be given up. Another process of the connector's
/// identity derives the same tokens, and a relay may take packets of a living connection there: no answer shows that it is dead.
const CONFIRM: Duration = Duration::from_secs(1);
/// Round trips for the same, each 1 s at most.
const CONFIRM_TRIPS: u32 = 4;

/// A reset that has yet to be believed.
#[derive(Debug)]
pub struct Doubt {
    until: Instant,
    /// Packets that had been heard when it came.
    heard: usize,
}

impl Doubt {
    pub fn until(&self) -> Instant {
        self.until
    }
}

impl Link {
    /// Whether the peer has lost it. A packet that decrypts refutes the reset.
    pub(super) fn is_lost(&mut self, now: Instant) -> bool {
        if self.doubt.as_ref().is_some_and(|d| d.heard != self.conn.received()) {
            self.doubt = None;
        }
        if self.doubt.as_ref().is_none_or(|d| now < d.until) {
            return false;
        }
        let peer = &self.peer;
        self.cause.get_or_insert_with(|| {
            Error::unreachable(format!(
                "connector `{peer}` was started anew and has lost the connection; open the flow again"
            ))
        });
        true
    }
}

impl Node {
    /// A packet on a session that names no connection of ours.
    pub(super) fn handle_lost(&mut self, now: Instant, session: usize, packet: &[u8]) {
        let Some(s) = self.sessions.get_mut(session) else { return };
        if let Some(keys) = &self.reset_keys {
            let Some(Header::Short { dcid }) = quic_header::parse(packet) else { return };
            if s.reset_at.is_some_and(|t| now < t + PACE) {
                return;
            }
            if let Some(reset) = keys.reset(dcid, packet.len()) {
                s.reset_at = Some(now);
                self.tunnel_packet(RelayPath::tunnel(session), &reset);
            }
            return;
        }
        let Some(key) = s.link else { return };
        let Some(link) = self.links.get_mut(key) else { return };
        if link.doubt.is_none() && link.conn.is_established() && link.conn.is_reset_by(packet) {
            let wait = CONFIRM + link.conn.rtt().min(Duration::from_secs(1)) * CONFIRM_TRIPS;
            link.doubt = Some(Doubt { until: now + wait, heard: link.conn.received() });
            // A peer that lives has something to answer.
            link.conn.ping();
            self.dirty_links.insert(key);
        }
    }
}

/// The keys of a connector's resets; an agent accepts no connections. Errors: no memory.
pub(super) fn reset_keys(snapshot: &Snapshot, is_agent: bool) -> Result<Option<ResetKeys>> {
    if is_agent {
        return Ok(None);
    }
    let keys = ResetKeys::new(&snapshot.credentials.key_pem);
    keys.map(Some).ok_or_else(|| Error::Internal("no memory for keys".into()))
}
