//! What loops tell each other. Each loop has one inbox; a ring of the doorbell wakes its thread.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use super::registry::Session;
use crate::role::Arrival;
use crate::wire::Cid;

/// Inner packets and handed-over packets that wait for a loop: as many as one DATAGRAM queue (quic::tls) holds, so that one
/// whole receive batch of another loop always fits.
const MAX_PACKETS: usize = 8_192;
/// Requests of other loops that wait: beyond it, new sessions and registrations are refused. Ends of sessions always fit, there
/// are no more of them than sessions.
const MAX_REQUESTS: usize = 16_384;

/// One of a session's two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Agent,
    Connector,
}

impl Side {
    pub(super) fn other(self) -> Side {
        match self {
            Side::Agent => Side::Connector,
            Side::Connector => Side::Agent,
        }
    }
}

/// A received DATAGRAM frame's payload; the first `prefix` bytes are the way in's quarter stream ID and context ID.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) bytes: Vec<u8>,
    pub(super) prefix: usize,
}

#[derive(Debug)]
pub(super) enum LoopMessage {
    /// A datagram for a connection of the receiving loop.
    Packet { arrival: Arrival, bytes: Vec<u8> },
    /// Inner packets for the session's half at `to`.
    Tunnelled { session: u64, to: Side, frames: Vec<Frame> },
    /// An agent's session for this loop's bind.
    Open { session: Arc<Session>, bind: u64 },
    /// The session's half at `at` goes; the other has gone. `code` resets an agent's stream.
    Close { session: u64, at: Side, code: u64, why: String },
    /// A registration has come to be (`ack`) or has ended: tell the end at `at`.
    Cid { session: u64, at: Side, cid: Cid, ack: bool },
    /// A newer bind of the same identity came from `by`.
    Replaced { bind: u64, by: SocketAddr },
    /// An operator ends this session.
    Kick { session: u64 },
}

#[derive(Debug, Default)]
pub(super) struct Inbox {
    messages: VecDeque<LoopMessage>,
    packets: usize,
}

impl Inbox {
    /// `Err`: full; the message comes back. `Ok(true)`: it was empty, the loop is to be woken.
    pub(super) fn push(&mut self, message: LoopMessage) -> Result<bool, LoopMessage> {
        let (packets, full) = match &message {
            LoopMessage::Packet { .. } => (1, self.packets >= MAX_PACKETS),
            LoopMessage::Tunnelled { frames, .. } => (frames.len(), self.packets >= MAX_PACKETS),
            LoopMessage::Open { .. } => (0, self.messages.len() >= MAX_REQUESTS + MAX_PACKETS),
            LoopMessage::Close { .. }
            | LoopMessage::Cid { .. }
            | LoopMessage::Replaced { .. }
            | LoopMessage::Kick { .. } => (0, false),
        };
        if full {
            return Err(message);
        }
        let first = self.messages.is_empty();
        self.packets += packets;
        self.messages.push_back(message);
        Ok(first)
    }

    /// Whether a request that will be answered by further messages may still be made.
    pub(super) fn has_room(&self) -> bool {
        self.messages.len() < MAX_REQUESTS
    }

    pub(super) fn take(&mut self) -> VecDeque<LoopMessage> {
        self.packets = 0;
        std::mem::take(&mut self.messages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(n: usize) -> LoopMessage {
        let frames = (0..n).map(|_| Frame { bytes: vec![0; 4], prefix: 2 }).collect();
        LoopMessage::Tunnelled { session: 1, to: Side::Agent, frames }
    }

    #[test]
    fn packets_are_bounded_and_ends_of_sessions_always_fit() {
        let mut inbox = Inbox::default();
        assert!(matches!(inbox.push(frames(MAX_PACKETS)), Ok(true)));
        assert!(inbox.push(frames(1)).is_err());
        assert!(matches!(inbox.push(LoopMessage::Kick { session: 1 }), Ok(false)));
        assert_eq!(inbox.take().len(), 2);
        assert!(matches!(inbox.push(frames(1)), Ok(true)));
    }
}
