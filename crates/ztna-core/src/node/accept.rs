//! A connector's end of inner handshakes: which are begun, how many at a time, and who is told of those that are not.
//!
//! Who an agent is shows at the end of its handshake only. Until then the session that it came by stands for it, and the relay
//! bounds the sessions of one identity.

use std::time::{Duration, Instant};

use super::leg::Leg;
use super::link::{AGENT_ADDRESS, CONNECTOR_ADDRESS, Link};
use super::session::Session;
use super::{Node, Owner};
use crate::error::Error;
use crate::quic::Connection;
use crate::quic::connection::Closed;
use crate::quic::endpoint::random_cid;
use crate::role::PathPolicy;
use crate::wire::cid::Cid;

/// Handshakes that one session may begin in its life. An agent of ours begins one and takes a new session for the next; another
/// client may try again. Past it a new session is needed, and how fast those come the relay bounds.
const HANDSHAKES_PER_SESSION: u32 = 4;
/// Of those, handshakes that it may begin at once; then one each [`HANDSHAKE_EVERY`].
const HANDSHAKES_AT_ONCE: u32 = 2;
const HANDSHAKE_EVERY: Duration = Duration::from_secs(1);
/// Unfinished handshakes that one relay may have a connector hold, one a session: four agents' sessions (`Limits::sessions_per_pair`),
/// so that one that fills its own leaves room. Each holds 13 KB, at most 32 KB (`UNPROVEN`): one relay can't fill the connector
/// for the agents of the others.
const HANDSHAKES_PER_RELAY: usize = 2_048;
/// Inner connections at a connector. Each costs about 40 KB (facts.md).
const MAX_LINKS: usize = 16_384;
/// Between two warnings about one relay.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// First packets of handshakes that were dropped at one leg, and when that was last told.
#[derive(Debug, Default)]
pub struct Dropped {
    count: u64,
    told: Option<Instant>,
}

impl Dropped {
    /// Counts one. `Some`: it is time to tell of so many.
    fn add(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        if self.told.is_some_and(|t| now < t + WARN_EVERY) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.count))
    }
}

/// Why a handshake is not begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Full {
    Draining,
    Session,
    Relay,
    Node,
}

/// The handshakes of one session.
#[derive(Debug, Clone, Copy, Default)]
pub struct Begun {
    count: u32,
    last: Option<Instant>,
    /// The latest that was genuine, with the connection ID that tells it from a successor in its place.
    link: Option<(usize, Cid)>,
}

impl Begun {
    fn may_begin(&self, now: Instant) -> bool {
        let soon = self.last.is_some_and(|t| now < t + HANDSHAKE_EVERY);
        self.count < HANDSHAKES_PER_SESSION && (self.count < HANDSHAKES_AT_ONCE || !soon)
    }
}

impl Node {
    /// An Initial of no connection that we know opens one, which counts once that packet has proven genuine.
    pub(super) fn accept_link(&mut self, now: Instant, session: usize, dcid: &[u8]) -> Option<Owner> {
        let slot = self.sessions.get(session)?.slot;
        if !self.sessions.get(session)?.begun.may_begin(now) {
            return self.drop_handshake(now, slot.leg, Full::Session);
        }
        if let Some(why) = self.is_full(slot.leg) {
            return self.drop_handshake(now, slot.leg, why);
        }
        let scid = random_cid(None);
        let token = self.reset_keys.as_ref().and_then(|k| k.token(scid));
        let conn = Connection::accept(&mut self.inner_tls, scid, token, None, CONNECTOR_ADDRESS, AGENT_ADDRESS).ok()?;
        let mut link = Link::new(conn, String::new(), PathPolicy::Auto, now);
        link.initial_dcid = Some(dcid.to_vec());
        link.pending_on = Some(slot.leg);
        let leg = self.legs.get_mut(slot.leg)?;
        leg.handshakes += 1;
        let key = self.links.insert(link);
        if let Some(Session { begun, .. }) = self.sessions.get_mut(session) {
            begun.count += 1;
            begun.last = Some(now);
        }
        self.router.insert(scid, Owner::Link(key));
        self.router.insert_initial(dcid, Owner::Link(key));
        Some(Owner::Link(key))
    }

    fn is_full(&self, leg: usize) -> Option<Full> {
        if self.draining.is_some() {
            Some(Full::Draining)
        } else if self.legs.get(leg).is_none_or(|l| l.handshakes >= HANDSHAKES_PER_RELAY) {
            Some(Full::Relay)
        } else if self.links.len() >= MAX_LINKS {
            Some(Full::Node)
        } else {
            None
        }
    }

    /// The first packet of a handshake was genuine. A session has one connection: an agent that begins another has given up the one
    /// before, so that one agent can't fill the places of all. What only looks like an Initial, as our own would that a relay sent
    /// back, ends nothing.
    pub(super) fn give_up_former(&mut self, now: Instant, session: usize, key: usize) {
        let Some(scid) = self.links.get(key).map(|l| l.conn.scid()) else { return };
        let former = self.sessions.get_mut(session).and_then(|s| s.begun.link.replace((key, scid)));
        if let Some((key, scid)) = former
            && self.links.get(key).is_some_and(|l| l.is_unproven() && l.conn.scid() == scid)
        {
            self.remove_link(now, key, Closed::Local("its agent began another".into()));
        }
    }

    fn drop_handshake(&mut self, now: Instant, leg: usize, why: Full) -> Option<Owner> {
        self.counters.drop_one("handshakes");
        let Leg { relay, dropped, .. } = self.legs.get_mut(leg)?;
        let why = match why {
            // Agents have been told to go elsewhere.
            Full::Draining => return None,
            Full::Session => "an agent begins more than its session may".to_owned(),
            Full::Relay => format!("{HANDSHAKES_PER_RELAY} others that came by this relay are unfinished"),
            Full::Node => format!("there are {MAX_LINKS} connections"),
        };
        if let Some(count) = dropped.add(now) {
            let text = format!("relay `{relay}`: {count} inner handshakes of agents were dropped: {why}");
            self.warn(Error::Limit(text));
        }
        None
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_session_begins_two_handshakes_at_once_then_one_a_second_and_no_more_after_the_fourth() {
        let start = Instant::now();
        let mut begun = Begun::default();
        let mut at = Vec::new();
        for ms in (0..60_000).step_by(100) {
            let now = start + Duration::from_millis(ms);
            while begun.may_begin(now) {
                begun = Begun { count: begun.count + 1, last: Some(now), link: None };
                at.push(ms);
            }
        }
        assert_eq!(at, [0, 0, 1_000, 2_000]);
    }

    #[test]
    fn drops_are_told_at_once_and_then_every_ten_seconds_with_their_number() {
        let start = Instant::now();
        let mut dropped = Dropped::default();
        let told: Vec<_> =
            (0..25_000).filter_map(|ms| dropped.add(start + Duration::from_millis(ms)).map(|n| (ms, n))).collect();
        assert_eq!(told, [(0, 1), (10_000, 10_000), (20_000, 10_000)]);
    }
}
