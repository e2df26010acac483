//! A bound port of a host: what a UDP socket is to a program on a real one.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use super::inbox::Inbox;
use super::{Shared, closed};
use crate::sim::HostId;

/// Largest payload that an interface with an MTU of 1500 takes without fragments, IPv4 and IPv6.
const MAX_V4: usize = 1_472;
const MAX_V6: usize = 1_452;

/// Dropping it frees the port. Its descriptor becomes readable when the first datagram comes after [`LivePort::receive`] has said
/// `WouldBlock`.
#[derive(Debug)]
pub struct LivePort {
    shared: Arc<Shared>,
    host: HostId,
    local: SocketAddr,
    inbox: Inbox,
    ready: UnixDatagram,
}

/// Datagrams of one sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Bytes.
    pub len: usize,
    /// Bytes of each; the last may be shorter.
    pub stride: usize,
    /// The sender, as seen here.
    pub from: SocketAddr,
    /// The host's own address.
    pub to: IpAddr,
}

impl LivePort {
    pub(super) fn new(shared: Arc<Shared>, host: HostId, local: SocketAddr, inbox: Inbox, ready: UnixDatagram) -> Self {
        Self { shared, host, local, inbox, ready }
    }

    /// What was bound, with the port that was given.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Sends datagrams of `segment` bytes (the last may be shorter), from `from` or from the host's address that fits. Returns how many
    /// were too large for the interface and are lost.
    ///
    /// Errors: `NotConnected` once the network has closed.
    pub fn send(&self, from: Option<IpAddr>, to: SocketAddr, segment: usize, burst: &[u8]) -> io::Result<u64> {
        let ip = from.unwrap_or(self.local.ip());
        let source = SocketAddr::new(ip, self.local.port());
        let most = if to.is_ipv4() { MAX_V4 } else { MAX_V6 };
        let mut too_large = 0;
        let mut state = self.shared.lock();
        let now = self.shared.now();
        // Routers on the way have seen everything that is older.
        state.deliver(now);
        let network = state.homes().map_err(|_| closed())?.network();
        for datagram in burst.chunks(segment.max(1)) {
            if datagram.len() > most {
                too_large += 1;
            } else {
                network.send(now, self.host, source, to, datagram.to_vec());
            }
        }
        // Where nothing is slow it has arrived already, and the thread need not wake.
        state.deliver(now);
        let next = state.homes().map_err(|_| closed())?.network().poll_timeout();
        let wake = next.is_some_and(|next| state.sleeps_until.is_none_or(|until| next < until));
        drop(state);
        if wake {
            self.shared.changed.notify_all();
        }
        Ok(too_large)
    }

    /// Fills `buffer` with what came from one sender in datagrams of one size. Errors: `WouldBlock`.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        self.inbox.take(&self.ready, buffer)
    }
}

impl AsRawFd for LivePort {
    fn as_raw_fd(&self) -> RawFd {
        self.ready.as_raw_fd()
    }
}

impl Drop for LivePort {
    fn drop(&mut self) {
        self.shared.lock().ports.remove(&(self.host, self.local));
    }
}
