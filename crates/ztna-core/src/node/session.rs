//! A session: one agent's way to one connector through one relay, as either end sees it.

use super::accept::Begun;
use crate::quic::StreamId;
use crate::wire::cid::Cid;

/// Where a session's tunnel datagrams go on the outer connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot {
    pub leg: usize,
    pub stream: StreamId,
    /// 0 on an agent's own stream (RFC 9298 §5), the assigned one on a connector's bind stream.
    pub context: u64,
}

#[derive(Debug, Clone)]
pub struct Session {
    pub slot: Slot,
    /// The inner connection that uses it; a connector learns it from the first packet.
    pub link: Option<usize>,
    /// Agent: the relay's 200 has arrived. Connector: always.
    pub confirmed: bool,
    /// Our connection ID that the relay forwards to us.
    pub registered: Option<Cid>,
    /// The peer's connection ID that the relay said it forwards.
    pub forwards: Option<Cid>,
    /// Connector: the handshakes begun on it, against a peer that only ever begins.
    pub begun: Begun,
    /// Connector: when a stateless reset last went out on it.
    pub reset_at: Option<std::time::Instant>,
}

impl Session {
    pub fn new(slot: Slot, link: Option<usize>) -> Self {
        Session {
            slot,
            link,
            confirmed: slot.context != 0,
            registered: None,
            forwards: None,
            begun: Begun::default(),
            reset_at: None,
        }
    }
}
