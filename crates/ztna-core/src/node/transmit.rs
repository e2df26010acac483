//! Outbound packets: inner ones raw to the forwarding relay or into its tunnel, outer ones to the relay. Whole bursts.

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use super::Node;
use crate::path::{PathId, RelayPath};
use crate::role::Transmit;
use crate::wire::capsule::Capsule;
use crate::wire::connect_udp;

/// Segments in one GSO send: Linux takes 64, and 64 KB (UDP_MAX_SEGMENTS).
const MAX_SEGMENTS: usize = 48;
/// Bursts that one connection may send before others have their turn.
const BURSTS_PER_TURN: usize = 4;

/// Who has something to send.
#[derive(Default)]
pub(super) struct Queue {
    links: VecDeque<usize>,
    legs: VecDeque<usize>,
    queued_links: BTreeSet<usize>,
    queued_legs: BTreeSet<usize>,
    /// Last words of connections that are gone.
    closing: VecDeque<(Vec<u8>, Transmit)>,
    turns: usize,
}

impl Queue {
    pub(super) fn push_link(&mut self, key: usize) {
        if self.queued_links.insert(key) {
            self.links.push_back(key);
        }
    }
    pub(super) fn push_leg(&mut self, key: usize) {
        if self.queued_legs.insert(key) {
            self.legs.push_back(key);
        }
    }
    pub(super) fn push_closing(&mut self, bytes: Vec<u8>, transmit: Transmit) {
        self.closing.push_back((bytes, transmit));
    }
    pub(super) fn forget(&mut self, link: usize) {
        if self.queued_links.remove(&link) {
            self.links.retain(|l| *l != link);
        }
    }
}

impl Node {
    /// Marks everything that may have packets. Called once a turn, after `process`.
    pub fn queue_transmits(&mut self) {
        for (key, _) in self.links.iter() {
            self.transmit.push_link(key);
        }
        for (key, leg) in self.legs.iter() {
            if leg.conn.is_some() {
                self.transmit.push_leg(key);
            }
        }
    }

    pub fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<Transmit> {
        if let Some((bytes, transmit)) = self.transmit.closing.pop_front() {
            out.extend_from_slice(&bytes);
            return Some(transmit);
        }
        if let Some(transmit) = self.send_check(now, out) {
            return Some(transmit);
        }
        while let Some(&key) = self.transmit.links.front() {
            if let Some(transmit) = self.send_link(now, key, out) {
                self.transmit.turns += 1;
                if self.transmit.turns >= BURSTS_PER_TURN {
                    self.transmit.turns = 0;
                    self.transmit.links.rotate_left(1);
                }
                return Some(transmit);
            }
            self.transmit.turns = 0;
            self.transmit.links.pop_front();
            self.transmit.queued_links.remove(&key);
        }
        while let Some(&key) = self.transmit.legs.front() {
            if let Some(transmit) = self.send_leg(now, key, out) {
                return Some(transmit);
            }
            self.transmit.legs.pop_front();
            self.transmit.queued_legs.remove(&key);
        }
        None
    }

    fn send_leg(&mut self, now: Instant, key: usize, out: &mut Vec<u8>) -> Option<Transmit> {
        let leg = self.legs.get_mut(key)?;
        let conn = leg.conn.as_mut()?;
        let was_full = conn.dgram_full();
        let (to, segment) = conn.send_burst(out, MAX_SEGMENTS)?;
        let freed = was_full && !conn.dgram_full();
        leg.note_sent(now);
        if freed {
            // Links that staged their packets behind the full queue go on.
            let waiting: Vec<usize> =
                self.sessions.iter().filter(|(_, s)| s.slot.leg == key).filter_map(|(_, s)| s.link).collect();
            for link in waiting {
                if let Some(burst) = self.fill_tunnel(now, link) {
                    debug_assert!(burst > 0);
                }
            }
        }
        Some(Transmit { socket: None, to, from: None, segment })
    }

    /// One burst of a link: raw to its peer or its relay, or moved into the tunnel (then there is nothing to send here).
    fn send_link(&mut self, now: Instant, key: usize, out: &mut Vec<u8>) -> Option<Transmit> {
        loop {
            let link = self.links.get_mut(key)?;
            let (Some(path), also) = link.path.select() else { return None };
            if matches!(path, PathId::Relay(RelayPath { forwarded: false, .. })) {
                self.fill_tunnel(now, key);
                return None;
            }
            let behind = link.path.relay().map(|r| RelayPath::tunnel(r.session));
            let at = out.len();
            // What arrives as a copy says nothing of how the original went; and where its going in bursts is why the path is in doubt,
            // it gets through now.
            let most = if also.is_some() { 1 } else { MAX_SEGMENTS };
            let (_, segment) = link.conn.send_burst(out, most)?;
            link.last_sent = now;
            let in_flight = link.conn.in_flight(now);
            link.path.handle_sent(now, in_flight);
            let burst = out.get(at..).unwrap_or_default();
            // Long headers stay in the tunnel (protocol.md); so does a second copy while the path is in doubt.
            let long = burst.chunks(segment.max(1)).any(|p| p.first().is_some_and(|b| b & 0x80 != 0));
            if let Some(tunnel) = if long { behind } else { also } {
                let copy: Vec<Vec<u8>> = burst.chunks(segment.max(1)).map(<[u8]>::to_vec).collect();
                if !long {
                    self.path_stats.copied(tunnel, copy.len());
                }
                for packet in copy {
                    self.tunnel_packet(tunnel, &packet);
                }
            }
            if long {
                out.truncate(at);
                continue;
            }
            let bytes = (out.len() - at) as u64;
            match path {
                PathId::Relay(path) => {
                    self.counters.forwarded_tx += bytes;
                    let session = self.sessions.get(path.session);
                    let to = session.and_then(|s| self.legs.get(s.slot.leg)).and_then(|l| l.address)?;
                    return Some(Transmit { socket: None, to, from: None, segment });
                }
                PathId::Direct(pair) => {
                    self.counters.direct_tx += bytes;
                    let (local, to) = self.links.get(key)?.path.direct()?.list().remote(pair)?;
                    return Some(Transmit { socket: local.socket, to, from: local.ip, segment });
                }
            }
        }
    }

    /// Moves a link's packets into its tunnel until either is done. Packets are only made when the outer connection takes
    /// them: queueing here would look like loss to the inner one (facts.md).
    fn fill_tunnel(&mut self, now: Instant, key: usize) -> Option<usize> {
        let mut moved = 0;
        loop {
            let link = self.links.get_mut(key)?;
            let (Some(PathId::Relay(path)), also) = link.path.select() else { break };
            if path.forwarded {
                break;
            }
            let slot = self.sessions.get(path.session)?.slot;
            let leg = self.legs.get_mut(slot.leg)?;
            let Some(outer) = leg.conn.as_mut().filter(|c| !c.dgram_full()) else { break };
            let mut frame = Vec::with_capacity(crate::quic::tls::OUTER_PAYLOAD);
            connect_udp::datagram_header(slot.stream, slot.context, &mut frame);
            let header = frame.len();
            if link.conn.send_burst(&mut frame, 1).is_none() {
                break;
            }
            moved += 1;
            link.last_sent = now;
            let in_flight = link.conn.in_flight(now);
            link.path.handle_sent(now, in_flight);
            if let Some(also) = also {
                let copy = frame.get(header..).unwrap_or_default().to_vec();
                self.enqueue(slot, header, frame);
                self.path_stats.copied(also, 1);
                self.tunnel_packet(also, &copy);
            } else if outer.dgram_max().is_some_and(|max| frame.len() <= max) {
                self.counters.tunnel_tx += (frame.len() - header) as u64;
                outer.dgram_send(frame);
                self.transmit.push_leg(slot.leg);
            } else {
                self.enqueue(slot, header, frame);
            }
        }
        (moved > 0).then_some(moved)
    }

    pub(super) fn tunnel_packet(&mut self, path: RelayPath, packet: &[u8]) {
        let Some(slot) = self.sessions.get(path.session).map(|s| s.slot) else { return };
        let mut frame = Vec::with_capacity(packet.len() + 10);
        connect_udp::datagram_header(slot.stream, slot.context, &mut frame);
        let header = frame.len();
        frame.extend_from_slice(packet);
        self.enqueue(slot, header, frame);
    }

    /// As a QUIC DATAGRAM where it fits the leg, else as a DATAGRAM capsule on the stream (RFC 9297 §3.5).
    fn enqueue(&mut self, slot: super::session::Slot, header: usize, frame: Vec<u8>) {
        let Some(leg) = self.legs.get_mut(slot.leg) else { return };
        let bytes = (frame.len() - header) as u64;
        let fits = leg.conn.as_ref().and_then(crate::quic::Connection::dgram_max).is_some_and(|max| frame.len() <= max);
        let sent = if fits {
            leg.conn.as_mut().is_some_and(|c| c.dgram_send(frame))
        } else {
            let mut payload = Vec::with_capacity(frame.len());
            crate::wire::varint::encode(slot.context, &mut payload);
            payload.extend_from_slice(frame.get(header..).unwrap_or_default());
            leg.send_capsule(slot.stream, &Capsule::Datagram(payload))
        };
        if sent {
            self.counters.tunnel_tx += bytes;
        } else {
            self.counters.drop_one("tunnel");
        }
        self.transmit.push_leg(slot.leg);
    }
}
