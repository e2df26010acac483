//! The network that a loop is on: the system's, or one that the embedding program plays.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use super::interfaces;
use super::sys::listen_error;
use super::udp::Socket;
use crate::error::Error;
use crate::interface::Interface;

/// Where a loop's UDP sockets are bound and whose interfaces its machine hears of. One that is on a virtual host never uses the
/// system's network for what travels between nodes; the services it dials and the ports it listens on locally stay the system's.
#[derive(Clone, Default)]
pub enum Host {
    #[default]
    System,
    Virtual(Arc<dyn VirtualHost>),
}

impl Host {
    /// Binds `address` (port 0: any). `reuse_port` as in [`Socket::bind`]; a virtual host shares no port. Errors: `Config` or
    /// `Permission`, naming the address.
    pub fn bind(&self, address: SocketAddr, reuse_port: bool) -> Result<Socket, Error> {
        match self {
            Host::System => Socket::bind(address, reuse_port),
            Host::Virtual(host) => {
                host.bind(address).map(Socket::from_port).map_err(|e| listen_error(&format!("udp {address}"), &e))
            }
        }
    }

    /// As [`Socket::claim`].
    pub fn claim(&self, address: SocketAddr) -> Result<Socket, Error> {
        match self {
            Host::System => Socket::claim(address),
            Host::Virtual(_) => self.bind(address, false),
        }
    }

    /// Whether it is the system's.
    pub fn is_system(&self) -> bool {
        match self {
            Host::System => true,
            Host::Virtual(_) => false,
        }
    }

    /// As [`interfaces`](super::interfaces()).
    pub(super) fn interfaces(&self) -> io::Result<Vec<Interface>> {
        match self {
            Host::System => interfaces::interfaces(),
            Host::Virtual(host) => host.interfaces(),
        }
    }

    /// One of many sockets that a machine asks for while it runs, on every address of one family. Errors: the host's.
    pub(super) fn small(&self, v4: bool) -> io::Result<Socket> {
        match self {
            Host::System => Socket::small(v4),
            Host::Virtual(host) => {
                let any: IpAddr = if v4 { [0u8; 4].into() } else { [0u16; 8].into() };
                host.bind(SocketAddr::new(any, 0)).map(Socket::from_port)
            }
        }
    }
}

/// A host that the embedding program plays.
pub trait VirtualHost: Send + Sync {
    /// Binds one address, or all of a family, to a port (0: any that is free). Errors: `AddrInUse`, `AddrNotAvailable`, or that the
    /// host is gone.
    fn bind(&self, address: SocketAddr) -> io::Result<Box<dyn VirtualPort>>;
    /// Its addresses now. Errors: the host is gone.
    fn interfaces(&self) -> io::Result<Vec<Interface>>;
    /// A socket that a message can be read from after each change of its addresses. Errors: no descriptor left.
    fn changes(&self) -> io::Result<OwnedFd>;
}

/// A bound port of a virtual host. Its descriptor becomes readable when the first burst arrives after
/// [`receive`](Self::receive) has said `WouldBlock`.
pub trait VirtualPort: AsRawFd + Send {
    fn local_addr(&self) -> SocketAddr;
    /// Sends datagrams of `segment` bytes (the last may be shorter) from `from`, or from the host's address that fits. Returns how
    /// many of them were too large for the host's interface and are lost.
    fn send(&mut self, from: Option<IpAddr>, to: SocketAddr, segment: usize, burst: &[u8]) -> u64;
    /// Fills `buffer` with what came from one sender, in datagrams of one size. Errors: `WouldBlock`.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Received>;
}

/// A burst that has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Bytes.
    pub len: usize,
    /// Bytes of each datagram; the last may be shorter.
    pub stride: usize,
    pub from: SocketAddr,
    /// The host's own address.
    pub to: IpAddr,
}
