//! Tunnel mode: inner packets from the DATAGRAM frames of one leg to those of the other.

use std::collections::VecDeque;

use super::conn::Stream;
use super::inbox::{Frame, LoopMessage, Side};
use super::machine::Relay;
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

impl Relay {
    /// Moves what a connection has received to the other legs.
    pub(super) fn pump(&mut self, key: ConnKey) {
        let mut batch: Option<(u64, Side, Vec<Frame>)> = None;
        while let Some(conn) = self.conns.get_mut(key.0) {
            let Some(bytes) = conn.held.take().or_else(|| conn.quic.dgram_recv()) else { break };
            let Some((frame, session, to)) = self.classify(key, bytes) else { continue };
            let Some(owner) = self.owner(session, to) else { continue };
            if owner != self.index {
                match &mut batch {
                    Some((s, _, frames)) if *s == session && frames.len() < BATCH => frames.push(frame),
                    Some(_) | None => {
                        if let Some((session, to, frames)) = batch.replace((session, to, vec![frame])) {
                            self.hand_frames(session, to, frames);
                        }
                    }
                }
            } else if let Sent::Full(frame) = self.send_frame(session, to, frame) {
                // With one session the packet, and all behind it, waits where the sender's congestion control sees it. With
                // several it goes, or one slow leg would stall the others.
                let out = self.place(session, to).map(|(out, _, _)| out);
                let Some(conn) = self.conns.get_mut(key.0) else { break };
                if let (1, Some(out)) = (conn.sessions(), out) {
                    conn.held = Some(frame.bytes);
                    if let Some(way_out) = self.conns.get_mut(out.0)
                        && !way_out.waiters.contains(&key)
                    {
                        way_out.waiters.push(key);
                    }
                    break;
                }
                self.shared.counters.drops.datagram.add(1);
            }
        }
        if let Some((session, to, frames)) = batch {
            self.hand_frames(session, to, frames);
        }
    }

    /// Packets for a session's half, here or on another loop.
    pub(super) fn deliver(&mut self, session: u64, to: Side, frames: Vec<Frame>) {
        match self.owner(session, to) {
            Some(owner) if owner == self.index => {
                for frame in frames {
                    if let Sent::Full(_) = self.send_frame(session, to, frame) {
                        self.shared.counters.drops.datagram.add(1);
                    }
                }
            }
            Some(_) => self.hand_frames(session, to, frames),
            None => self.shared.counters.drops.unknown_context.add(frames.len()),
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
        for bytes in mine {
            if let Some((frame, session, to)) = self.classify(key, bytes) {
                // The connector's half is still on its way: the message queues behind the one that makes it.
                if let Some(s) = self.half(session, to.other()) {
                    self.post(s.connector_loop, LoopMessage::Tunnelled { session, to, frames: vec![frame] });
                }
            }
        }
    }

    fn classify(&mut self, key: ConnKey, bytes: Vec<u8>) -> Option<(Frame, u64, Side)> {
        let split = connect_udp::parse_datagram(&bytes).and_then(|(stream, quarter)| {
            let (context, len) = connect_udp::split_context(bytes.get(quarter..)?)?;
            Some((stream, context, quarter + len))
        });
        let Some((stream, context, prefix)) = split else {
            self.shared.counters.drops.unknown_context.add(1);
            return None;
        };
        let conn = self.conn(key)?;
        if !conn.streams.contains_key(&stream) {
            if !conn.keep_early(stream, bytes) {
                self.shared.counters.drops.early.add(1);
            }
            return None;
        }
        let (session, to) = self.session_of(key, stream, context)?;
        Some((Frame { bytes, prefix }, session, to))
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

    fn place(&self, session: u64, to: Side) -> Option<(ConnKey, StreamId, u64)> {
        match to {
            Side::Agent => self.agents.get(&session).map(|h| (h.key, h.stream, 0)),
            Side::Connector => self.connectors.get(&session).map(|h| (h.key, h.stream, h.context)),
        }
    }

    fn send_frame(&mut self, session: u64, to: Side, mut frame: Frame) -> Sent {
        let Some((key, stream, context)) = self.place(session, to) else {
            self.shared.counters.drops.unknown_context.add(1);
            return Sent::Done;
        };
        if self.conns.get(key.0).is_some_and(|c| c.quic.dgram_full()) {
            return Sent::Full(frame);
        }
        let len = frame.bytes.len() - frame.prefix.min(frame.bytes.len());
        if self.half_ref(session, to).is_some_and(|s| s.admit(self.now, 1, len) == 0) {
            self.shared.counters.drops.rate.add(1);
            return Sent::Done;
        }
        let Some(conn) = self.conns.get_mut(key.0) else { return Sent::Done };
        let mut header = Vec::with_capacity(16);
        connect_udp::datagram_header(stream, context, &mut header);
        let fits = conn.quic.dgram_max().is_some_and(|max| header.len() + len <= max);
        if fits {
            // In place: the buffer of the way in goes out.
            frame.bytes.splice(..frame.prefix.min(frame.bytes.len()), header);
            if !conn.quic.dgram_send(frame.bytes) {
                self.shared.counters.drops.datagram.add(1);
                return Sent::Done;
            }
            self.want_send(key);
        } else {
            let mut payload = Vec::with_capacity(len + 8);
            crate::wire::varint::encode(context, &mut payload);
            payload.extend_from_slice(frame.bytes.get(frame.prefix..).unwrap_or_default());
            self.send_datagram_capsule(key, stream, &payload);
        }
        let counters = &self.shared.counters;
        counters.tunnel_packets.add(1);
        counters.tunnel_bytes.add(len);
        match (to, self.half_ref(session, to)) {
            (Side::Agent, Some(s)) => s.tx.add(len),
            (Side::Connector, Some(s)) => s.rx.add(len),
            (Side::Agent | Side::Connector, None) => {}
        }
        Sent::Done
    }

    fn half_ref(&self, session: u64, side: Side) -> Option<&super::registry::Session> {
        match side {
            Side::Agent => self.agents.get(&session).map(|h| &*h.session),
            Side::Connector => self.connectors.get(&session).map(|h| &*h.session),
        }
    }
}
