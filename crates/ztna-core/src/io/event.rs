//! What the embedding program hears from a role's loop.

use std::os::fd::OwnedFd;

use super::ring::NodeDatagram;
use crate::error::Error;
use crate::id::FlowId;
use crate::role::{Answer, FlowInfo, Notice};

/// Called on the loop's thread: it must hand over and return, never wait.
pub type Observer = Box<dyn FnMut(LocalEvent) + Send>;

#[derive(Debug)]
pub enum LocalEvent {
    Notice(Notice),
    /// The answer to a `ping` or `check`, by the caller's operation ID.
    Answer {
        op: u64,
        result: Result<Answer, Error>,
    },
    /// A flow that the program holds a descriptor or ring of was reset by its peer or cut. The descriptor's far end is closed
    /// only after `flow_done` (or five seconds), so that the program never takes the reset for a clean end.
    FlowReset {
        flow: FlowId,
        error: Error,
    },
    /// The peer has ended a UDP flow that the program holds the ring of. What has arrived can still be received.
    FlowEnded {
        flow: FlowId,
    },
    /// Connector: a TCP flow for the program's handler `serve`.
    Incoming {
        flow: FlowId,
        serve: u64,
        info: FlowInfo,
        fd: OwnedFd,
    },
    /// Connector: a UDP flow for the program's handler `serve`.
    IncomingDatagram {
        flow: FlowId,
        serve: u64,
        info: FlowInfo,
        datagram: NodeDatagram,
    },
    /// The loop has ended; nothing follows.
    Ended(Result<(), Error>),
}
