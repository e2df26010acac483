//! A file descriptor joined to a flow's stream. TCP sockets, unix sockets and pairs for the embedding program alike.
//!
//! "Up" is from the descriptor to the flow. Bytes are read only when the flow takes them, so the local sender is held back by
//! its own socket. "Down" takes bytes from the flow only while the descriptor can be written, so the far sender is held back by
//! the stream's window; what a write left over (64 KB at most) is all that is kept here.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::ready::TurnNumber;
use super::sys;
use crate::id::FlowId;
use crate::quic::Wrote;
use crate::role::{Machine, Read};

/// Bytes for one direction of one flow in one turn of the loop: what one turn may take from all others.
pub(super) const TURN: usize = 256 * 1024;
/// Read from the stream at once, and so the most that can be left over, bytes.
const CHUNK: usize = 64 * 1024;

/// What the descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp,
    Unix,
    /// Our end of a pair whose other end the embedding program holds.
    Node,
}

/// What a turn came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Waits for an event.
    Idle,
    /// The share was used up; there may be more.
    More,
    /// Both directions ended.
    Done,
    /// The descriptor broke: the flow must be reset.
    Broken,
    /// The machine knows nothing of the flow any more.
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Up {
    Open,
    /// The local side has ended; the flow is to be told.
    Ending,
    Done,
}

pub(super) struct Splice {
    fd: OwnedFd,
    kind: Kind,
    /// Readiness of the descriptor: set by events, cleared by a call that would block.
    readable: bool,
    writable: bool,
    /// The local side may have ended, so that a short read does not mean that an event follows. So it is at first, too: what happened
    /// before may have been told to who had the descriptor then.
    may_have_ended: bool,
    broken: bool,
    /// A unix peer reads no more, as its closing says without a write.
    unwritable: bool,
    /// Readiness of the stream, in the same way.
    takes: bool,
    gives: bool,
    up: Up,
    down_done: bool,
    /// Bytes for the flow that came with a proxy request, or that the stream did not take against its word.
    up_rest: Rest,
    down_rest: Rest,
    /// Bytes moved since the loop last asked.
    moved: bool,
    /// What the program has asked for is not all done yet. It may reset a flow and then close its descriptor, and that is not to be taken for
    /// an end of the flow.
    pub holds_end: bool,
    /// Whether it stands in the loop's queue.
    pub queued: bool,
    /// The last turn in which the flow took bytes and more were left; 0 where it took all there was.
    pub served: TurnNumber,
}

/// Bytes that wait. Holds no memory while empty.
#[derive(Debug, Default)]
struct Rest {
    bytes: Vec<u8>,
    start: usize,
}

impl Rest {
    fn is_empty(&self) -> bool {
        self.start >= self.bytes.len()
    }
    fn as_slice(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }
    fn advance(&mut self, n: usize) {
        self.start += n;
        if self.is_empty() {
            *self = Rest::default();
        }
    }
}

impl From<Vec<u8>> for Rest {
    fn from(bytes: Vec<u8>) -> Self {
        Rest { bytes, start: 0 }
    }
}

impl Splice {
    /// `fd` must be non-blocking. `to_flow` goes to the flow before what is read, `to_local` to the descriptor before what the
    /// flow brings.
    pub fn new(fd: OwnedFd, kind: Kind, to_flow: Vec<u8>, to_local: Vec<u8>) -> Self {
        Splice {
            fd,
            kind,
            readable: true,
            writable: true,
            may_have_ended: true,
            broken: false,
            unwritable: false,
            takes: true,
            gives: true,
            up: Up::Open,
            down_done: false,
            up_rest: to_flow.into(),
            down_rest: to_local.into(),
            moved: false,
            holds_end: false,
            queued: false,
            served: 0,
        }
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    pub fn on_event(&mut self, event: &mio::event::Event) {
        self.readable |= event.is_readable() || event.is_read_closed();
        self.writable |= event.is_writable() || event.is_write_closed();
        self.may_have_ended |= event.is_read_closed();
        self.unwritable |= event.is_write_closed() && self.kind != Kind::Tcp;
        if event.is_error() && sys::take_error(&self.fd).is_some() {
            self.broken = true;
        }
    }
    /// The stream has bytes or its end.
    pub fn on_gives(&mut self) {
        self.gives = true;
    }
    /// The stream takes bytes again.
    pub fn on_takes(&mut self) {
        self.takes = true;
    }
    /// Whether bytes moved since the last call.
    pub fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// Moves bytes both ways, a bounded share.
    pub fn run(&mut self, machine: &mut dyn Machine, flow: FlowId, scratch: &mut [u8], turn: TurnNumber) -> Turn {
        if self.broken && (self.down_done || self.write_failed(machine, flow, Errno::CONNRESET)) {
            return Turn::Broken;
        }
        self.broken = false;
        let moved = std::mem::take(&mut self.moved);
        let up = self.run_up(machine, flow, scratch);
        let backlog = self.up == Up::Open && (self.readable || !self.up_rest.is_empty());
        // Who was given nothing keeps its place.
        if self.moved || !backlog {
            self.served = if backlog { turn } else { 0 };
        }
        self.moved |= moved;
        if matches!(up, Turn::Broken | Turn::Gone) {
            return up;
        }
        if self.unwritable && self.up == Up::Done && !self.down_done {
            // The local side has closed for good: its peer need not send to find that out.
            self.write_failed(machine, flow, Errno::PIPE);
        }
        let down = self.run_down(machine, flow, scratch);
        if matches!(down, Turn::Broken | Turn::Gone) {
            return down;
        }
        if self.up == Up::Done && self.down_done {
            return Turn::Done;
        }
        if down == Turn::More { Turn::More } else { up }
    }

    fn run_up(&mut self, machine: &mut dyn Machine, flow: FlowId, scratch: &mut [u8]) -> Turn {
        let mut budget = TURN;
        loop {
            if self.up == Up::Done || !self.takes {
                return Turn::Idle;
            }
            if !self.up_rest.is_empty() {
                let wrote = machine.stream_write(flow, self.up_rest.as_slice(), false);
                match wrote {
                    Wrote::Bytes(n) => {
                        self.moved |= n > 0;
                        self.takes = n > 0;
                        self.up_rest.advance(n);
                    }
                    Wrote::Blocked => self.takes = false,
                    Wrote::Stopped(_) => self.stopped(),
                    Wrote::Gone => return Turn::Gone,
                }
                continue;
            }
            if self.up == Up::Ending {
                if self.holds_end && self.kind == Kind::Node {
                    return Turn::More;
                }
                match machine.stream_write(flow, &[], true) {
                    Wrote::Bytes(_) => {
                        self.moved = true;
                        self.up = Up::Done;
                    }
                    Wrote::Blocked => self.takes = false,
                    Wrote::Stopped(_) => self.stopped(),
                    Wrote::Gone => return Turn::Gone,
                }
                continue;
            }
            if !self.readable {
                return Turn::Idle;
            }
            if budget == 0 {
                return Turn::More;
            }
            let room = machine.stream_capacity(flow).min(scratch.len()).min(budget);
            let Some(space) = scratch.get_mut(..room).filter(|s| !s.is_empty()) else {
                self.takes = false;
                continue;
            };
            match sys::read(&self.fd, space) {
                Ok(0) => {
                    self.up = Up::Ending;
                    self.holds_end = true;
                }
                Ok(n) => {
                    // A short read has emptied the socket, and more raises a new event; an end that has already come does not.
                    self.readable = n == room || self.may_have_ended;
                    budget -= n.min(budget);
                    let data = space.get(..n).unwrap_or_default();
                    match machine.stream_write(flow, data, false) {
                        Wrote::Bytes(wrote) => {
                            self.moved |= wrote > 0;
                            if let Some(rest) = data.get(wrote..).filter(|r| !r.is_empty()) {
                                self.up_rest = rest.to_vec().into();
                            }
                        }
                        Wrote::Blocked => {
                            self.up_rest = data.to_vec().into();
                            self.takes = false;
                        }
                        Wrote::Stopped(_) => self.stopped(),
                        Wrote::Gone => return Turn::Gone,
                    }
                }
                Err(Errno::AGAIN) => {
                    self.readable = false;
                    self.may_have_ended = false;
                }
                Err(_) => return Turn::Broken,
            }
        }
    }

    /// The far end reads no more. It may still send.
    fn stopped(&mut self) {
        self.up = Up::Done;
        self.up_rest = Rest::default();
        self.moved = true;
        sys::end_reading(&self.fd);
    }

    fn run_down(&mut self, machine: &mut dyn Machine, flow: FlowId, scratch: &mut [u8]) -> Turn {
        let mut budget = TURN;
        loop {
            if self.down_done || !self.writable {
                return Turn::Idle;
            }
            if !self.down_rest.is_empty() {
                match sys::write(&self.fd, self.down_rest.as_slice()) {
                    Ok(n) => self.down_rest.advance(n),
                    Err(Errno::AGAIN) => self.writable = false,
                    Err(e) => {
                        if self.write_failed(machine, flow, e) {
                            return Turn::Broken;
                        }
                    }
                }
                continue;
            }
            if !self.gives {
                return Turn::Idle;
            }
            if budget == 0 {
                return Turn::More;
            }
            let chunk = scratch.len().min(CHUNK);
            let Some(space) = scratch.get_mut(..chunk) else { return Turn::Idle };
            match machine.stream_read(flow, space) {
                Read::Bytes(0) | Read::Blocked => self.gives = false,
                Read::Finished => {
                    self.moved = true;
                    self.down_done = true;
                    sys::end_writing(&self.fd);
                }
                Read::Bytes(n) => {
                    self.moved = true;
                    budget -= n.min(budget);
                    let data = space.get(..n).unwrap_or_default();
                    let wrote = match sys::write(&self.fd, data) {
                        Ok(wrote) => wrote,
                        Err(Errno::AGAIN) => {
                            self.writable = false;
                            0
                        }
                        Err(e) => {
                            if self.write_failed(machine, flow, e) {
                                return Turn::Broken;
                            }
                            continue;
                        }
                    };
                    // After a partial write the next one says whether to wait: only then does the system raise an event.
                    if let Some(rest) = data.get(wrote..).filter(|r| !r.is_empty()) {
                        self.down_rest = rest.to_vec().into();
                    }
                }
            }
        }
    }

    /// `true`: the descriptor is of no more use. What the local side has sent and ended stays good though it reads no more, and
    /// a unix peer may stop reading alone.
    fn write_failed(&mut self, machine: &mut dyn Machine, flow: FlowId, error: Errno) -> bool {
        if self.up == Up::Open && (self.kind == Kind::Tcp || error != Errno::PIPE) {
            return true;
        }
        machine.stream_stop(flow);
        self.moved = true;
        self.down_done = true;
        self.down_rest = Rest::default();
        false
    }
}
