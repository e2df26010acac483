//! What one identity may take of a loop: connections, and the heap that its packets make them hold.

use std::collections::BTreeMap;
use std::time::Instant;

use super::Relay;
use crate::error::Error;
use crate::id::SpiffeId;
use crate::quic::ConnKey;
use crate::quic::connection::{Closed, H3_EXCESSIVE_LOAD, UNPROVEN};
use crate::role::Notice;

/// Connections of a loop whose peers have not proven themselves: a second of the whole relay's budget of handshakes. Beyond it the
/// oldest goes, for a handshake that is meant takes a few round trips.
const MAX_UNPROVEN: usize = 2_048;
/// What one identity has now.
#[derive(Debug, Default)]
struct Share {
    connections: usize,
    held: u64,
}

/// The shares of a loop.
#[derive(Debug, Default)]
pub(super) struct Shares(BTreeMap<SpiffeId, Share>);

impl Shares {
    /// Gives back what a connection that is gone had.
    pub(super) fn leave(&mut self, id: &SpiffeId, held: u64) {
        let Some(share) = self.0.get_mut(id) else { return };
        share.connections = share.connections.saturating_sub(1);
        share.held = share.held.saturating_sub(held);
        if share.connections == 0 {
            self.0.remove(id);
        }
    }
}

impl Relay {
    /// A handshake has begun.
    pub(super) fn begin_unproven(&mut self, key: ConnKey, born: Instant) {
        self.unproven.push_back((key, born));
        while self.unproven.len() > MAX_UNPROVEN {
            let Some((oldest, born)) = self.unproven.pop_front() else { return };
            // Its place may be another's by now.
            if self.conns.get(oldest.0).is_some_and(|c| c.peer.is_none() && c.born == born) {
                self.shared.counters.drops.share.add(1);
                self.on_closed(oldest, Closed::TimedOut);
            }
        }
    }

    /// A connection has proven its identity. One more than an identity may have is closed: those that work go on.
    pub(super) fn join_share(&mut self, key: ConnKey, id: &SpiffeId) {
        let allowed = self.shared.config.limits.connections_per_identity;
        if let Some(conn) = self.conns.get_mut(key.0) {
            // What it holds is in no share yet.
            conn.held_bytes = 0;
        }
        let share = self.shares.0.entry(id.clone()).or_default();
        share.connections += 1;
        if share.connections <= allowed {
            return;
        }
        let why = format!("`{id}` has {allowed} connections to this relay; more are refused");
        self.notice(Notice::Warning(Error::Limit(why.clone())));
        self.shared.counters.drops.share.add(1);
        self.close(key, H3_EXCESSIVE_LOAD, &why);
    }

    /// Takes note of what a connection holds now, and closes what holds too much.
    pub(super) fn weigh(&mut self, key: ConnKey) {
        let Some(conn) = self.conns.get_mut(key.0).filter(|c| !c.cut) else { return };
        let held = conn.quic.held();
        let before = std::mem::replace(&mut conn.held_bytes, held);
        let Some(peer) = conn.peer.as_ref() else {
            if held > UNPROVEN {
                self.cut(key, "a peer that has not proven itself", UNPROVEN);
            }
            return;
        };
        let id = peer.id.clone();
        let limits = self.shared.config.limits;
        let Some(share) = self.shares.0.get_mut(&id) else { return };
        share.held = (share.held + held).saturating_sub(before);
        if held > limits.held_per_connection {
            self.cut(key, &format!("`{id}`"), limits.held_per_connection);
        } else if share.held > limits.held_per_identity {
            let same = self.conns.iter().filter(|(_, c)| !c.cut && c.peer.as_ref().is_some_and(|p| p.id == id));
            if let Some((largest, _)) = same.max_by_key(|(_, c)| c.held_bytes) {
                self.cut(ConnKey(largest), &format!("`{id}`"), limits.held_per_identity);
            }
        }
    }

    fn cut(&mut self, key: ConnKey, who: &str, limit: u64) {
        let Some(conn) = self.conns.get_mut(key.0) else { return };
        conn.cut = true;
        let held = std::mem::take(&mut conn.held_bytes);
        if let Some(share) = conn.peer.as_ref().and_then(|p| self.shares.0.get_mut(&p.id)) {
            share.held = share.held.saturating_sub(held);
        }
        let why = format!("{who} made its connection hold {held} bytes, where {limit} are allowed: it was closed");
        self.notice(Notice::Warning(Error::Limit(why)));
        self.shared.counters.drops.share.add(1);
        self.close(key, H3_EXCESSIVE_LOAD, "too much is held for this connection");
    }
}
