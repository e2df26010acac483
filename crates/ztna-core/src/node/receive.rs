//! Inbound packets: to the outer connection or the inner one that they name.

use std::net::SocketAddr;
use std::time::Instant;

use super::session::Slot;
use super::{CONNECTOR_ADDRESS, Node, Owner};
use crate::path::{Local, PathId, RelayPath};
use crate::quic::Connection;
use crate::quic::connection::Closed;
use crate::role::Arrival;
use crate::wire::cid::Cid;
use crate::wire::connect_udp;
use crate::wire::quic_header::{self, Header};
use crate::wire::stun::is_stun;

/// By whom raw inner packets came.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// Forwarded by the relay of this session.
    Relay(usize),
    /// By nobody, from this address to this end of ours.
    Direct(Local, SocketAddr),
    /// Neither, or more of that than is tried.
    Foreign,
}

impl Node {
    /// Feeds one burst from a socket: outer packets of a relay, inner ones that it forwarded or that came straight from the peer, and
    /// STUN (RFC 9443 tells them apart).
    pub fn handle_packets(&mut self, now: Instant, arrival: Arrival, burst: &mut [u8]) {
        let stride = arrival.stride.max(1);
        // A burst is nearly always of one connection: it is looked up once.
        let mut last: Option<(Cid, Option<Owner>)> = None;
        let mut from_link: Option<(usize, Way)> = None;
        for packet in burst.chunks_mut(stride) {
            let owner = match quic_header::parse(packet) {
                Some(Header::Short { dcid }) => match last {
                    Some((cid, owner)) if cid == dcid => owner,
                    Some(_) | None => {
                        let owner = self.router.get(&dcid);
                        last = Some((dcid, owner));
                        owner
                    }
                },
                Some(Header::Long { dcid, .. }) => self.router.get_long(dcid).filter(|o| matches!(o, Owner::Leg(_))),
                None => None,
            };
            match owner {
                Some(Owner::Leg(key)) => {
                    let Some(leg) = self.legs.get_mut(key) else { continue };
                    if leg.address != Some(arrival.from) {
                        self.counters.drop_one("foreign");
                        continue;
                    }
                    if let Some(conn) = leg.conn.as_mut() {
                        conn.recv(packet, arrival.from);
                        self.dirty_legs.insert(key);
                    }
                }
                Some(Owner::Link(key)) => {
                    let way = match from_link {
                        Some((known, way)) if known == key => way,
                        Some(_) | None => {
                            self.settle_heard(now, from_link);
                            let way = self.way_of(now, key, arrival);
                            from_link = Some((key, way));
                            way
                        }
                    };
                    let counter = match way {
                        Way::Relay(_) => &mut self.counters.forwarded_rx,
                        Way::Direct(..) => &mut self.counters.direct_rx,
                        Way::Foreign => {
                            self.counters.drop_one("foreign");
                            continue;
                        }
                    };
                    *counter += packet.len() as u64;
                    if let Some(link) = self.links.get_mut(key) {
                        link.conn.recv(packet, peer_address(self.is_agent));
                    }
                }
                None if packet.first().is_some_and(|b| is_stun(*b)) => self.handle_stun(now, arrival, packet),
                None => self.handle_stray(now, arrival.from, packet),
            }
        }
        self.settle_heard(now, from_link);
    }

    /// A packet of no connection that we know: from a relay it may be the word that it has lost ours (RFC 9000 §10.3.1).
    fn handle_stray(&mut self, now: Instant, from: SocketAddr, packet: &[u8]) {
        let lost = self
            .legs
            .iter()
            .find(|(_, l)| l.address == Some(from) && l.conn.as_ref().is_some_and(|c| c.is_reset_by(packet)))
            .map(|(k, _)| k);
        match lost {
            Some(key) => self.leg_reset(now, key),
            None => self.counters.drop_one("unknown"),
        }
    }

    /// A run of raw packets of one link has been fed.
    fn settle_heard(&mut self, now: Instant, run: Option<(usize, Way)>) {
        match run {
            Some((key, Way::Relay(session))) => {
                self.dirty_links.insert(key);
                self.note_heard(now, key, session);
            }
            Some((key, Way::Direct(local, from))) => {
                self.dirty_links.insert(key);
                self.note_direct(now, key, local, from);
            }
            Some((_, Way::Foreign)) | None => {}
        }
    }

    /// How raw packets of a link came here.
    fn way_of(&mut self, now: Instant, key: usize, arrival: Arrival) -> Way {
        if let Some(session) = self.session_at(key, arrival.from) {
            Way::Relay(session)
        } else if self.admits_direct(now, key, arrival) {
            Way::Direct(self.local_of(arrival), arrival.from)
        } else {
            Way::Foreign
        }
    }

    fn session_at(&self, link: usize, from: SocketAddr) -> Option<usize> {
        let active = self.links.get(link)?.path.relay().map(|p| p.session);
        let matches = |key: usize| {
            self.sessions.get(key).is_some_and(|s| {
                s.link == Some(link) && self.legs.get(s.slot.leg).is_some_and(|l| l.address == Some(from))
            })
        };
        if let Some(key) = active.filter(|k| matches(*k)) {
            return Some(key);
        }
        self.sessions.iter().map(|(k, _)| k).find(|k| matches(*k))
    }

    /// Tells the path agent if the packets just fed were genuine.
    fn note_heard(&mut self, now: Instant, key: usize, session: usize) {
        let Some(link) = self.links.get_mut(key) else { return };
        let heard = link.conn.received();
        if heard != link.heard {
            link.heard = heard;
            link.path.handle_received(now, PathId::Relay(RelayPath { session, forwarded: true }), true);
        }
    }

    /// Takes tunnel datagrams out of an outer connection.
    pub(super) fn drain_tunnel(&mut self, now: Instant, leg_key: usize) {
        while let Some(mut frame) =
            self.legs.get_mut(leg_key).and_then(|l| l.conn.as_mut()).and_then(Connection::dgram_recv)
        {
            let Some((stream, header)) = connect_udp::parse_datagram(&frame) else {
                self.counters.drop_one("malformed");
                continue;
            };
            let Some((context, more)) = frame.get(header..).and_then(connect_udp::split_context) else {
                self.counters.drop_one("malformed");
                continue;
            };
            if let Some(packet) = frame.get_mut(header + more..) {
                self.handle_tunnel(now, Slot { leg: leg_key, stream, context }, packet);
            }
        }
    }

    /// One inner packet that came through the tunnel.
    pub(super) fn handle_tunnel(&mut self, now: Instant, slot: Slot, packet: &mut [u8]) {
        let session = match self.slots.get(&slot) {
            Some(&s) => s,
            // A datagram may overtake the ASSIGN that announces its context.
            None if self.legs.get(slot.leg).is_some_and(|l| l.bind == Some(slot.stream)) && slot.context % 2 == 1 => {
                match self.adopt_session(slot) {
                    Some(s) => s,
                    None => return,
                }
            }
            None => {
                self.counters.drop_one("unknown");
                return;
            }
        };
        let mut begins = false;
        let (link, short) = match quic_header::parse(packet) {
            Some(Header::Short { dcid }) => (self.router.get(&dcid), true),
            Some(Header::Long { dcid, is_initial, .. }) => {
                let dcid = dcid.to_vec();
                let known = self.router.get_long(&dcid);
                begins = known.is_none() && is_initial && !self.is_agent;
                (if begins { self.accept_link(now, session, &dcid) } else { known }, false)
            }
            None => (None, false),
        };
        let Some(Owner::Link(key)) = link else {
            self.counters.drop_one("unknown");
            return self.handle_lost(now, session, packet);
        };
        self.counters.tunnel_rx += packet.len() as u64;
        let rtt = self.legs.get(slot.leg).map_or(std::time::Duration::MAX, super::leg::Leg::rtt);
        let Some(link) = self.links.get_mut(key) else { return };
        link.conn.recv(packet, peer_address(self.is_agent));
        let heard = link.conn.received();
        if heard != link.heard {
            link.heard = heard;
            // The session is of use: should it end, the next one is sought at once.
            link.seek_backoff.reset();
            // Only a genuine packet makes this session a path of the link.
            if !self.is_agent && self.sessions.get(session).is_some_and(|s| s.link != Some(key)) {
                self.give_session(now, session, key, rtt);
            }
            if begins {
                self.give_up_former(now, session, key);
            }
            let Some(link) = self.links.get_mut(key) else { return };
            link.path.handle_received(now, PathId::Relay(RelayPath::tunnel(session)), short);
        } else if begins {
            self.remove_link(now, key, Closed::Local("its first packet could not be read".into()));
            return;
        }
        self.dirty_links.insert(key);
    }

    /// Connector: the session's packets are this link's from now on, and no other's.
    fn give_session(&mut self, now: Instant, session: usize, key: usize, rtt: std::time::Duration) {
        let Some(s) = self.sessions.get_mut(session) else { return };
        s.registered = None;
        s.forwards = None;
        if let Some(old) = s.link.replace(key)
            && let Some(link) = self.links.get_mut(old)
        {
            link.path.remove(now, session);
            self.dirty_links.insert(old);
        }
        if let Some(link) = self.links.get_mut(key) {
            link.path.add(now, session, rtt);
        }
    }
}

fn peer_address(is_agent: bool) -> SocketAddr {
    if is_agent { CONNECTOR_ADDRESS } else { super::AGENT_ADDRESS }
}
