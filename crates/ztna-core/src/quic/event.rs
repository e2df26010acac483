//! What a connection tells its role, and why it ended.

use std::net::SocketAddr;
use std::sync::Arc;

use super::connection::StreamId;
use super::h3::Fields;
use crate::trust::identity::{PeerIdentity, Refusal};

/// What a connection tells its role.
#[derive(Debug)]
pub enum Event {
    /// The handshake is done and the peer's certificate verified.
    Established(Arc<PeerIdentity>),
    /// The peer's SETTINGS allow Extended CONNECT with datagrams.
    Ready,
    Headers {
        stream: StreamId,
        fields: Fields,
        fin: bool,
    },
    /// A header section that RFC 9114 §4.1.2 calls malformed.
    Malformed {
        stream: StreamId,
    },
    Data {
        stream: StreamId,
    },
    Finished {
        stream: StreamId,
    },
    Reset {
        stream: StreamId,
        code: u64,
    },
    /// The stream takes bytes again, or the peer has stopped it (the next write tells).
    Writable {
        stream: StreamId,
    },
    GoAway,
    /// The peer's packets now come from here (server side of an outer connection).
    Migrated(SocketAddr),
    /// Nothing more will come. The reason is for people.
    Closed(Closed),
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closed {
    /// No packet for the idle timeout, or the handshake did not finish.
    TimedOut,
    /// The peer's certificate was refused by us.
    Refused(Refusal),
    /// The peer closed it; TLS alerts are `0x100 + alert` (RFC 9001 §4.8).
    ByPeer { app: bool, code: u64, reason: String },
    /// We closed it.
    Local(String),
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrote {
    Bytes(usize),
    /// No window now; a `Writable` event follows.
    Blocked,
    /// The peer sent STOP_SENDING with this code.
    Stopped(u64),
    Gone,
}
