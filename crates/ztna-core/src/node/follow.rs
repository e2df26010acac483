//! What a node takes from each snapshot: its relays, whom it still trusts, and until when.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Node;
use super::leg::{self, Leg};
use crate::error::Result;
use crate::quic::{Connection, Kind, TlsConfig, connection};
use crate::trust::Snapshot;

/// Between one relay's new connection and the next one's after a renewal: a handshake fits, so that with two relays one always serves.
const RENEWAL_STEP: Duration = Duration::from_secs(2);

impl Node {
    /// Takes a new snapshot: relays come and go, connections that it no longer trusts end, those under a certificate that we have
    /// replaced are left. Flows are the role's to judge. An older one than is in use is warned of and left.
    pub fn handle_snapshot(&mut self, now: Instant, snapshot: Arc<Snapshot>) {
        if let Err(e) = snapshot.supersedes(&self.snapshot) {
            self.warn(e);
            return;
        }
        let keys = super::lost::reset_keys(&snapshot, self.is_agent);
        match contexts(&snapshot, self.is_agent).and_then(|c| Ok((c, keys?))) {
            Ok(((outer, inner), keys)) => {
                self.outer_tls = outer;
                self.inner_tls = inner;
                self.reset_keys = keys;
            }
            Err(e) => {
                self.warn(e);
                return;
            }
        }
        let renewed = self.snapshot.identity().leaf_der != snapshot.identity().leaf_der;
        self.snapshot = snapshot;
        self.expel(now);
        if renewed {
            self.leave_old_certificate(now);
        }
        self.follow_relays(now);
    }

    /// Ends connections whose peer is revoked, expired or of a CA that is no longer trusted, and our own once our certificate
    /// has expired.
    fn expel(&mut self, now: Instant) {
        let wall = self.wall(now);
        let own_expired = wall >= self.snapshot.identity().not_after;
        let judge = |conn: &Connection, snapshot: &Snapshot| {
            if own_expired {
                return Some("our certificate has expired".to_owned());
            }
            conn.identity().and_then(|p| snapshot.still_trusted(p, wall).err()).map(|r| r.to_string())
        };
        let legs: Vec<(usize, String)> =
            self.legs.iter().filter_map(|(k, l)| Some((k, judge(l.conn.as_ref()?, &self.snapshot)?))).collect();
        for (key, why) in legs {
            if let Some(conn) = self.legs.get_mut(key).and_then(|l| l.conn.as_mut()) {
                conn.close(connection::H3_NO_ERROR, &why);
            }
            self.dirty_legs.insert(key);
        }
        let links: Vec<(usize, String)> =
            self.links.iter().filter_map(|(k, l)| Some((k, judge(&l.conn, &self.snapshot)?))).collect();
        for (key, why) in links {
            self.close_link(key, connection::H3_NO_ERROR, &why);
        }
    }

    /// Peers end what was made under our old certificate when that ends. New flows get new inner connections, and the old ones end with
    /// their last flow; relays are connected to anew one after another, which inner connections survive.
    fn leave_old_certificate(&mut self, now: Instant) {
        for (key, link) in self.links.iter_mut() {
            if self.is_agent {
                link.retiring = true;
            } else {
                link.conn.goaway();
            }
            self.dirty_links.insert(key);
        }
        let mut at = now;
        for (key, leg) in self.legs.iter_mut().filter(|(_, l)| l.conn.is_some()) {
            leg.renew_at = Some(at);
            at += RENEWAL_STEP;
            self.dirty_legs.insert(key);
        }
    }

    /// Ends connections whose certificate, or ours, has run out. Dates only: signatures were judged at the handshake and at
    /// each snapshot.
    pub(super) fn expire(&mut self, now: Instant) {
        let wall = self.wall(now);
        let own = wall >= self.snapshot.identity().not_after;
        let over = |conn: &Connection| own || conn.identity().is_some_and(|p| wall >= p.not_after);
        if self.legs.iter().any(|(_, l)| l.conn.as_ref().is_some_and(over))
            || self.links.iter().any(|(_, l)| over(&l.conn))
        {
            self.expel(now);
        }
    }

    /// Adds legs to new relays, lets go of those that left the network.
    pub(super) fn follow_relays(&mut self, now: Instant) {
        let relays = self.snapshot.network.relays.clone();
        let gone: Vec<usize> = self
            .legs
            .iter()
            .filter(|(_, l)| !relays.iter().any(|r| r.name == l.relay && r.urls == l.urls))
            .map(|(k, _)| k)
            .collect();
        for key in gone {
            self.drop_leg(now, key, "the relay left the network", true);
        }
        for r in relays {
            if !self.legs.iter().any(|(_, l)| l.relay == r.name) {
                let keep_alive = if self.is_agent { leg::KEEP_ALIVE } else { leg::KEEP_ALIVE_BOUND };
                let leg = Leg::new(r.name, r.urls, now, keep_alive);
                self.resolve.extend(leg.unresolved().map(str::to_owned));
                self.legs.insert(leg);
            }
        }
    }
}

/// Outer and inner TLS. Errors: credentials that can't be used, or of another role.
pub(super) fn contexts(snapshot: &Arc<Snapshot>, is_agent: bool) -> Result<(TlsConfig, TlsConfig)> {
    let inner = if is_agent { Kind::InnerClient } else { Kind::InnerServer };
    Ok((TlsConfig::new(Kind::OuterClient, snapshot)?, TlsConfig::new(inner, snapshot)?))
}
