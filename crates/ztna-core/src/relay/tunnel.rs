//! Tunnel mode: inner packets from the DATAGRAM frames of one leg to those of the other.

use std::collections::VecDeque;
use std::sync::Arc;

use super::conn::Stream;
use super::inbox::{Frame, LoopMessage, Side};
use super::machine::Relay;
use super::registry::Session;
use crate::quic::ConnKey;
use crate::quic::connection::StreamId;
use crate::wire::connect_udp;

/// Packets for one session of another loop that travel in one message.
const BATCH: usize = 64;

/// What became of a packet on its way out.
enum Sent {
    Done,
    /// No room now; it comes back.
    Full(Frame),
}

/// The way of a session's packets through this loop, looked up once for all that come one behind the other.
struct Lane {
    session: u64,
    to: Side,
    /// `None`: the other half belongs to another loop, or is yet to be made by a message to this one; packets queue behind that.
    door: Option<Door>,
}

/// Where a session's packets leave this loop, and what goes before each.
struct Door {
    key: ConnKey,
    stream: StreamId,
    context: u64,
    to: Side,
    header: Vec<u8>,
    session: Arc<Session>,
}

impl Relay {
    /// Moves what a connection has received to the other legs.
    pub(super) fn pump(&mut self, key: ConnKey) {
        let mut lane: Option<(StreamId, u64, Lane)> = None;
        let mut batch: Vec<Frame> = Vec::new();
        while let Some(conn) = self.conns.get_mut(key.0) {
            let Some(bytes) = conn.held.take().or_else(|| conn.quic.dgram_recv()) else { break };
            let Some((stream, context, frame)) = split(bytes) else {
                self.shared.counters.drops.unknown_context.add(1);
                continue;
            };
            if lane.as_ref().is_none_or(|(s, c, _)| (*s, *c) != (stream, context)) {
                if let Some((_, _, Lane { session, to, door: None })) = lane.take() {
                    self.hand_frames(session, to, std::mem::take(&mut batch));
                }
                let Some(next) = self.lane(key, stream, context, &frame) else { continue };
                lane = Some((stream, context, next));
            }
            match &lane {
                None => {}
                Some((_, _, Lane { session, to, door: None })) => {
                    batch.push(frame);
                    if batch.len() >= BATCH {
                        self.hand_frames(*session, *to, std::mem::take(&mut batch));
                    }
                }
                Some((_, _, Lane { door: Some(door), .. })) => {
                    if let Sent::Full(frame) = self.send_frame(door, frame)
                        && !self.hold(key, door.key, frame)
                    {
                        break;
                    }
                }
            }
        }
        if let Some((_, _, Lane { session, to, door: None })) = lane {
            self.hand_frames(session, to, batch);
        }
    }

    /// A packet for a leg that takes no more now. With one session it, and all behind it, waits where the sender's congestion
    /// control sees it: `false`, no more should come. With several it goes, or one slow leg would stall the others.
    fn hold(&mut self, key: ConnKey, out: ConnKey, frame: Frame) -> bool {
        let Some(conn) = self.conns.get_mut(key.0) else { return false };
        if conn.sessions() != 1 {
            self.shared.counters.drops.datagram.add(1);
            return true;
        }
        conn.held = Some(frame.bytes);
        if let Some(way_out) = self.conns.get_mut(out.0)
            && !way_out.waiters.contains(&key)
        {
            way_out.waiters.push(key);
        }
        false
    }

    /// Packets for a session's half, here or on another loop.
    pub(super) fn deliver(&mut self, session: u64, to: Side, frames: Vec<Frame>) {
        match self.owner(session, to) {
            Some(owner) if owner == self.index => {
                let door = self.door(session, to);
                for frame in frames {
                    let Some(door) = &door else {
                        self.shared.counters.drops.unknown_context.add(1);
                        continue;
                    };
                    if let Sent::Full(_) = self.send_frame(door, frame) {
                        self.shared.counters.drops.datagram.add(1);
                    }
                }
            }
            Some(_) => self.hand_frames(session, to, frames),
            None => self.shared.counters.drops.unknown_context.add(frames.len()),
        }
    }

    /// The same of a packet that may have come right behind its request.
    pub(super) fn deliver_behind(&mut self, session: u64, to: Side, frame: Frame) {
        if self.door(session, to).is_some() {
            self.deliver(session, to, vec![frame]);
        } else {
            self.hand_frames(session, to, vec![frame]);
        }
    }

    /// Session and direction of a datagram on a stream; counted when there is none.
    pub(super) fn session_of(&self, key: ConnKey, stream: StreamId, context: u64) -> Option<(u64, Side)> {
        let found = match self.conns.get(key.0)?.streams.get(&stream) {
            Some(Stream::Agent { session, .. }) if context == 0 => Some((*session, Side::Connector)),
            Some(Stream::Bind(bind)) => bind.contexts.get(&context).map(|s| (*s, Side::Agent)),
            Some(Stream::Agent { .. }) | None => None,
        };
        if found.is_none() {
            self.shared.counters.drops.unknown_context.add(1);
        }
        found
    }

    /// Datagrams that came before the request which has now been accepted.
    pub(super) fn take_early(&mut self, key: ConnKey, stream: StreamId) {
        let Some(conn) = self.conn(key) else { return };
        let (mine, rest): (VecDeque<Vec<u8>>, _) = std::mem::take(&mut conn.early)
            .into_iter()
            .partition(|f| connect_udp::parse_datagram(f).is_some_and(|(id, _)| id == stream));
        conn.early = rest;
        for (stream, context, frame) in mine.into_iter().filter_map(split) {
            // The connector's half is still on its way: the message queues behind the one that makes it.
            if let Some((session, to)) = self.session_of(key, stream, context)
                && let Some(s) = self.half(session, to.other())
            {
                self.post(s.connector_loop, LoopMessage::Tunnelled { session, to, frames: vec![frame] });
            }
        }
    }

    /// The way of a datagram with this stream and context. `None`: it was kept, because its request is still to come, or counted.
    fn lane(&mut self, key: ConnKey, stream: StreamId, context: u64, frame: &Frame) -> Option<Lane> {
        let conn = self.conn(key)?;
        if !conn.streams.contains_key(&stream) {
            if !conn.keep_early(stream, frame.bytes.clone()) {
                self.shared.counters.drops.early.add(1);
            }
            return None;
        }
        let (session, to) = self.session_of(key, stream, context)?;
        // Right behind the request the connector's half is still on its way, also on this loop.
        let door = if self.owner(session, to)? == self.index { self.door(session, to) } else { None };
        Some(Lane { session, to, door })
    }

    /// The loop that has the session's half at `to`, asked at the loop that has either.
    fn owner(&self, session: u64, to: Side) -> Option<usize> {
        let s = self.half(session, to).or_else(|| self.half(session, to.other()))?;
        Some(match to {
            Side::Agent => s.agent_loop,
            Side::Connector => s.connector_loop,
        })
    }

    fn hand_frames(&mut self, session: u64, to: Side, frames: Vec<Frame>) {
        if let Some(owner) = self.owner(session, to) {
            self.post(owner, LoopMessage::Tunnelled { session, to, frames });
        }
    }

    fn door(&self, session: u64, to: Side) -> Option<Door> {
        let (key, stream, context, session) = match to {
            Side::Agent => self.agents.get(&session).map(|h| (h.key, h.stream, 0, &h.session)),
            Side::Connector => self.connectors.get(&session).map(|h| (h.key, h.stream, h.context, &h.session)),
        }?;
        let mut header = Vec::new();
        connect_udp::datagram_header(stream, context, &mut header);
        Some(Door { key, stream, context, to, header, session: session.clone() })
    }

    fn send_frame(&mut self, door: &Door, mut frame: Frame) -> Sent {
        let Some(conn) = self.conns.get_mut(door.key.0) else { return Sent::Done };
        if conn.quic.dgram_full() {
            return Sent::Full(frame);
        }
        let prefix = frame.prefix.min(frame.bytes.len());
        let len = frame.bytes.len() - prefix;
        let counters = &self.shared.counters;
        if door.session.admit(self.now, 1, len) == 0 {
            counters.drops.rate.add(1);
            return Sent::Done;
        }
        if conn.quic.dgram_max().is_some_and(|max| door.header.len() + len <= max) {
            // In place: the buffer of the way in goes out.
            match frame.bytes.get_mut(..prefix).filter(|p| p.len() == door.header.len()) {
                Some(same) => same.copy_from_slice(&door.header),
                None => drop(frame.bytes.splice(..prefix, door.header.iter().copied())),
            }
            if !conn.quic.dgram_send(frame.bytes) {
                counters.drops.datagram.add(1);
                return Sent::Done;
            }
            self.want_send(door.key);
        } else {
            let mut payload = Vec::with_capacity(len + 8);
            crate::wire::varint::encode(door.context, &mut payload);
            payload.extend_from_slice(frame.bytes.get(prefix..).unwrap_or_default());
            self.send_datagram_capsule(door.key, door.stream, &payload);
        }
        self.shared.counters.tunnel_packets.add(1);
        self.shared.counters.tunnel_bytes.add(len);
        match door.to {
            Side::Agent => door.session.tx.add(len),
            Side::Connector => door.session.rx.add(len),
        }
        Sent::Done
    }
}

/// Stream and context ID of a received DATAGRAM frame's payload. `None`: cut short.
fn split(bytes: Vec<u8>) -> Option<(StreamId, u64, Frame)> {
    let (stream, quarter) = connect_udp::parse_datagram(&bytes)?;
    let (context, len) = connect_udp::split_context(bytes.get(quarter..)?)?;
    Some((stream, context, Frame { bytes, prefix: quarter + len }))
}
