//! UDP sockets that a machine asks for while it runs: hundreds for a moment, for a port burst, of which one may stay.

use std::time::Instant;

use mio::Interest;

use super::descriptors;
use super::local::{Local, Source};
use super::udp::SocketSet;
use crate::role::{MORE_SOCKETS, Machine, SocketIndex};

/// Most that a loop has open: a burst, and as many again that stayed of earlier ones.
const MOST: usize = 2 * MORE_SOCKETS;

impl Local {
    /// [`Action::OpenSockets`](crate::role::Action): all of them or none.
    pub fn open_sockets(
        &mut self,
        machine: &mut dyn Machine,
        sockets: &mut SocketSet,
        now: Instant,
        id: u64,
        v4: bool,
        count: usize,
    ) {
        let run = sockets.free_run(count);
        let opened = if count > MORE_SOCKETS || sockets.more() + count > MOST {
            Err(std::io::Error::other("over the limit"))
        } else {
            run.clone().try_for_each(|index| {
                let socket = descriptors::keep_spare(sockets.host().small(v4)?)?;
                let token = self.register(&socket, Source::Socket(index), Interest::READABLE)?;
                sockets.put(index, socket, token);
                Ok(())
            })
        };
        if let Err(e) = &opened {
            tracing::info!(count, reason = %e, "no more UDP sockets");
            self.close_sockets(sockets, run.start, count);
        }
        let local = if opened.is_ok() { sockets.local_addrs(run.clone()) } else { Vec::new() };
        machine.sockets_opened(now, id, run.start, &local);
    }

    /// [`Action::CloseSockets`](crate::role::Action).
    pub fn close_sockets(&mut self, sockets: &mut SocketSet, first: SocketIndex, count: usize) {
        // From behind: indices at the end go with their sockets.
        for index in (first..first.saturating_add(count).min(sockets.len())).rev() {
            if let Some((socket, token)) = sockets.take(index) {
                self.unregister(&socket, token);
            }
        }
    }
}
