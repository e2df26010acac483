//! The inner connections of a node: opened, settled, put on paths, and removed.

use std::net::SocketAddr;
use std::time::Instant;

use super::link::{AGENT_ADDRESS, CONNECTOR_ADDRESS, Link};
use super::{Node, NodeEvent, Owner};
use crate::error::{Error, Result};
use crate::path::{PathEvent, PathId, Reason, RelayPath};
use crate::quic::endpoint::random_cid;
use crate::quic::{Connection, Event, connection};
use crate::role::{Action, Notice, PathInfo, PathKind, PathPolicy};
use crate::trust::RelayMode;
use crate::wire::capsule::Capsule;

/// Inner connections of one agent at a connector: it opens one, and processes that share its certificate one each. What an agent
/// takes beyond its share others would lack (`MAX_LINKS`).
const MAX_LINKS_PER_PEER: usize = 256;

impl Node {
    /// Agent: opens an inner connection to a connector. Its packets wait until a session carries them.
    pub fn connect_link(&mut self, now: Instant, connector: &str, policy: PathPolicy) -> Result<usize> {
        let scid = random_cid(None);
        let id = crate::id::SpiffeId::new(&self.snapshot.network.trust_domain, crate::id::Role::Connector, connector)?;
        let conn = Connection::connect(&mut self.inner_tls, scid, &id.dns_name(), AGENT_ADDRESS, CONNECTOR_ADDRESS)?;
        let mut link = Link::new(conn, connector.to_owned(), policy, now);
        if policy == PathPolicy::DirectOnly {
            link.path.keep_apart();
        }
        let key = self.links.insert(link);
        self.router.insert(scid, Owner::Link(key));
        self.dirty_links.insert(key);
        Ok(key)
    }

    pub fn close_link(&mut self, key: usize, code: u64, reason: &str) {
        if let Some(link) = self.links.get_mut(key) {
            link.conn.close(code, reason);
            self.dirty_links.insert(key);
        }
    }

    pub fn touch_link(&mut self, key: usize) {
        self.dirty_links.insert(key);
    }

    /// The relay and address that a link's packets go to now.
    pub fn relay_of(&self, link: usize) -> Option<(String, SocketAddr)> {
        let path = self.links.get(link)?.path.relay()?;
        let leg = self.legs.get(self.sessions.get(path.session)?.slot.leg)?;
        Some((leg.relay.clone(), leg.address?))
    }

    pub fn describe_path(&self, link: usize) -> Option<PathInfo> {
        Some(self.links.get(link)?.describe(self.relay_of(link)))
    }

    /// The path that flows of the connection can take. One that carries none but direct ones talks by a relay until then, for itself.
    pub fn usable_path(&self, link: usize) -> Option<PathInfo> {
        let path = self.describe_path(link)?;
        let l = self.links.get(link)?;
        if l.policy != PathPolicy::DirectOnly || l.path.kinds().is_only_direct() {
            return Some(path);
        }
        Some(PathInfo { kind: PathKind::None, relay: None, remote: None, ..path })
    }

    pub(super) fn process_link(&mut self, now: Instant, key: usize) {
        let Some(link) = self.links.get_mut(key) else { return };
        link.conn.process(&mut self.inner_tls);
        self.counters.bursts_withheld += link.conn.take_bursts_lost();
        let mut closed = None;
        let mut signalling = Vec::new();
        let mut signals = Vec::new();
        let mut ready = false;
        let mut behind = Vec::new();
        while let Some(event) = link.conn.poll_event() {
            if link.is_signalling(&event) {
                signalling.push(event);
                continue;
            }
            match event {
                Event::Established(peer) => {
                    *self.counters.handshakes.entry("ok").or_default() += 1;
                    let same = self.peers.entry(peer.id.clone()).or_default();
                    *same += 1;
                    if *same > MAX_LINKS_PER_PEER {
                        let text = format!("`{}` has {MAX_LINKS_PER_PEER} connections here; more are refused", peer.id);
                        link.conn.close(connection::H3_EXCESSIVE_LOAD, &text);
                        self.counters.drop_one("links");
                        self.actions.push_back(Action::Notice(Notice::Warning(Error::Limit(text))));
                    }
                    if self.is_agent && peer.id.name() != link.peer {
                        let text = format!("asked for connector `{}`, `{}` answered", link.peer, peer.id);
                        link.conn.close(connection::H3_NO_ERROR, &text);
                        self.actions.push_back(Action::Notice(Notice::Warning(Error::Identity(text))));
                        continue;
                    }
                    link.peer = peer.id.name().to_owned();
                    if let Some(leg) = link.pending_on.take().and_then(|l| self.legs.get_mut(l)) {
                        leg.handshakes = leg.handshakes.saturating_sub(1);
                    }
                    self.events.push_back(NodeEvent::LinkReady(key));
                }
                Event::Ready => {
                    ready = true;
                    self.path_stats.begin(now, link);
                    self.events.push_back(NodeEvent::LinkReady(key));
                }
                Event::GoAway => link.retiring = true,
                Event::Migrated(_) => {}
                Event::Closed(why) => closed = Some(why),
                // What ends a UDP flow comes behind the datagrams that arrived with it.
                Event::Malformed { .. } | Event::Data { .. } | Event::Finished { .. } | Event::Reset { .. } => {
                    behind.push(NodeEvent::Stream { link: key, event });
                }
                Event::Headers { .. } | Event::Writable { .. } => {
                    self.events.push_back(NodeEvent::Stream { link: key, event })
                }
            }
        }
        while let Some(mut frame) = link.conn.dgram_recv() {
            let Some((stream, header)) = crate::wire::connect_udp::parse_datagram(&frame) else { continue };
            frame.drain(..header.min(frame.len()));
            if link.signalling.stream == Some(stream) {
                signals.push(frame);
                continue;
            }
            self.events.push_back(NodeEvent::LinkDatagram { link: key, stream, payload: frame });
        }
        self.events.extend(behind);
        if self.is_agent && link.conn.packets() >= self.key_limit.successor {
            link.retiring = true;
            if link.conn.packets() >= self.key_limit.cut {
                link.cause = Some(Error::Limit("the connection's packets under one key (RFC 9001 B.1)".into()));
                link.conn.close(connection::H3_NO_ERROR, "key limit reached (RFC 9001 B.1)");
            }
        }
        link.path.set_rtt(link.conn.rtt());
        if closed.is_none() && link.is_lost(now) {
            closed = Some(connection::Closed::Local("stateless reset".into()));
        }
        if closed.is_none() && link.is_overdue(now) {
            closed = Some(connection::Closed::TimedOut);
        }
        // Without a way to tell its peer, which would keep it until the idle timeout, it waits for one.
        let mute = link.conn.is_established() && link.path.active().is_none();
        if self.is_agent
            && link.retiring
            && !mute
            && link.flows.is_empty()
            && link.finishing.is_done(&mut link.conn, now)
        {
            // Its successor has taken over, and nothing is left of it here.
            link.conn.close(connection::H3_NO_ERROR, "a successor has taken over");
        }
        let told = link.cut && link.conn.is_draining();
        // A connector that has never answered is not told, but for the last time.
        let strange = link.conn.received() == 0 && self.leaving.is_none();
        if closed.is_none() && (told || strange || link.path.sessions().next().is_none()) {
            // Nobody is left to be told: a close that can't be sent would keep its flows until the idle timeout.
            closed = link.conn.local_close().map(connection::Closed::Local);
        }
        if let Some(why) = closed {
            self.remove_link(now, key, why);
            return;
        }
        if ready && self.is_agent {
            self.seek_direct(now, key);
        }
        for event in signalling {
            self.handle_signalling(now, key, event);
        }
        for signal in signals {
            self.handle_signal(now, key, &signal);
        }
        self.settle_direct(now, key);
        self.settle_path(now, key);
    }

    fn settle_path(&mut self, now: Instant, key: usize) {
        let Some(link) = self.links.get_mut(key) else { return };
        let before = link.path_info.clone();
        let (mut changed, mut doubt) = (false, false);
        while let Some(event) = link.path.poll_event() {
            match event {
                PathEvent::Switched { to, reason } => {
                    changed = true;
                    let was = before.as_ref().is_some_and(|p| p.kind == PathKind::Direct);
                    match to {
                        PathId::Direct(_) => self.events.push_back(NodeEvent::DirectFound(key)),
                        PathId::Relay(_) if was => self.events.push_back(NodeEvent::DirectLost(key)),
                        PathId::Relay(_) => {}
                    }
                    link.path_since = now;
                    self.path_stats.switch(now, link, Some(to));
                    link.conn.path_changed();
                    if link.conn.is_established() {
                        // Also on a first or better path: a connector learns an agent's new session by a packet on it, and an
                        // agent that only listens has no other to send.
                        link.conn.ping();
                        doubt |= matches!(reason, Reason::Silent | Reason::Followed);
                    }
                    *self.counters.switches.entry((to.as_str(), reason.as_str())).or_default() += 1;
                }
                PathEvent::PeerSwitched { to } => {
                    self.events.push_back(NodeEvent::PeerMoved(key));
                    if link.conn.is_established() {
                        link.conn.ping();
                        // It may have left a way that no longer carries full-sized packets, on our side.
                        doubt |= matches!(to, PathId::Relay(RelayPath { forwarded: false, .. }));
                    }
                }
                PathEvent::Suspect => {
                    if link.conn.is_established() {
                        // Small, and by both ways: where only full-sized packets are lost the peer learns of it.
                        link.conn.ping();
                        doubt = true;
                    }
                    self.events.push_back(NodeEvent::LinkSuspect(key));
                }
                PathEvent::Stalled => self.events.push_back(NodeEvent::LinkStalled(key)),
                PathEvent::Quiet => link.conn.ping(),
                PathEvent::Revived => {}
                PathEvent::Reregister { session } => {
                    if let Some(s) = self.sessions.get_mut(session) {
                        s.registered = None;
                    }
                }
            }
        }
        let paths: Vec<usize> = link.path.sessions().collect();
        for session in paths {
            self.register_cid(session);
            let leg = self.sessions.get(session).map(|s| s.slot.leg).filter(|_| doubt);
            if let Some((key, leg)) = leg.and_then(|key| Some((key, self.legs.get_mut(key)?))) {
                leg.probe_width(now);
                self.dirty_legs.insert(key);
            }
        }
        if changed || before.is_none() {
            let info = self.describe_path(key);
            if let Some(link) = self.links.get_mut(key) {
                link.path_info = info.clone();
            }
            if let (Some(next), Some(prev)) = (info, before) {
                let peer = self.links.get(key).map(|l| l.peer.clone()).unwrap_or_default();
                self.actions.push_back(Action::Notice(Notice::Path { connection: key, peer, next, prev }));
            }
        }
    }

    /// Tells the relay by which connection ID raw packets are ours, once per session and after each failure.
    fn register_cid(&mut self, key: usize) {
        if self.snapshot.network.relay_mode == RelayMode::Tunnel {
            return;
        }
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Some(link) = session.link.and_then(|l| self.links.get(l)) else { return };
        let Some(leg) = self.legs.get_mut(session.slot.leg) else { return };
        let wide = leg.conn.as_ref().is_some_and(|c| c.pmtu() >= crate::quic::tls::INNER_PAYLOAD);
        let cid = link.conn.scid();
        if session.registered == Some(cid) || !session.confirmed || !link.conn.is_established() || !wide {
            return;
        }
        session.registered = Some(cid);
        let slot = session.slot;
        leg.send_capsule(slot.stream, &Capsule::RegisterCid { context_id: slot.context, cid });
        self.dirty_legs.insert(slot.leg);
    }

    pub(super) fn remove_link(&mut self, now: Instant, key: usize, why: connection::Closed) {
        let sessions: Vec<usize> = self.sessions.iter().filter(|(_, s)| s.link == Some(key)).map(|(k, _)| k).collect();
        for session in sessions {
            // A role that leaves ends its sessions with their relays: the reset of a stream would overtake what waits to go by it.
            if self.is_agent && self.leaving.is_none() {
                self.end_session(now, session);
            } else if let Some(s) = self.sessions.get_mut(session) {
                // The agent may open another inner connection on the same session.
                s.link = None;
                s.registered = None;
            }
        }
        let Some(mut link) = self.links.try_remove(key) else { return };
        self.path_stats.switch(now, &mut link, None);
        if let Some(leg) = link.pending_on.and_then(|l| self.legs.get_mut(l)) {
            leg.handshakes = leg.handshakes.saturating_sub(1);
        }
        self.router.remove(&link.conn.scid());
        self.checking.remove(&key);
        if let Some(dcid) = link.initial_dcid.take() {
            self.router.remove_initial(&dcid);
        }
        self.transmit.forget(key);
        self.forget_direct(&link.signalling);
        self.forget_burst(key);
        self.keep_tails(now, &mut link, &why);
        self.forget_held(link.held);
        if let Some(id) = link.conn.identity().map(|i| &i.id)
            && let Some(same) = self.peers.get_mut(id)
        {
            *same -= 1;
            if *same == 0 {
                self.peers.remove(id);
            }
        }
        let flows: Vec<_> = std::mem::take(&mut link.flows).into_values().collect();
        if let connection::Closed::Refused(r) = &why {
            *self.counters.handshakes.entry(r.as_str()).or_default() += 1;
        }
        self.events.push_back(NodeEvent::LinkClosed {
            link: key,
            peer: link.peer,
            why,
            flows,
            refused: link.refused,
            cause: link.cause,
        });
    }
}
