//! A connector's UDP flow: one connected socket to the service.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use mio::Token;

use super::descriptors;
use crate::id::FlowId;
use crate::role::Machine;

/// Datagrams of one flow in one turn.
const TURN: usize = 64;
/// Datagrams that may wait while the service's name is resolved.
const EARLY: usize = 64;
/// Kernel buffer, bytes: a burst of some 200 full datagrams.
const KERNEL_BUFFER: usize = 512 * 1024;

pub(super) struct UdpFlow {
    socket: UdpSocket,
    pub token: Token,
    readable: bool,
    pub queued: bool,
}

impl UdpFlow {
    /// A socket connected to `to`; the caller registers it.
    pub fn connect(to: SocketAddr) -> std::io::Result<UdpSocket> {
        let any: SocketAddr =
            if to.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
        let socket = descriptors::keep(UdpSocket::bind(any)?)?;
        socket.set_nonblocking(true)?;
        let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(KERNEL_BUFFER);
        socket.connect(to)?;
        Ok(socket)
    }

    pub fn new(socket: UdpSocket, token: Token) -> Self {
        UdpFlow { socket, token, readable: true, queued: false }
    }

    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }
    pub fn on_readable(&mut self) {
        self.readable = true;
    }

    /// A datagram for the service. `false`: it is lost.
    pub fn deliver(&self, payload: &[u8]) -> bool {
        self.socket.send(payload).is_ok()
    }

    /// Takes what the service has sent. Returns whether anything moved and whether more may wait. A service that is not there
    /// (ICMP port unreachable) is no end of the flow: it may come back, and a UDP client repeats.
    pub fn run(&mut self, machine: &mut dyn Machine, flow: FlowId, scratch: &mut [u8]) -> (bool, bool) {
        let mut moved = false;
        for _ in 0..TURN {
            if !self.readable {
                return (moved, false);
            }
            match self.socket.recv(scratch) {
                Ok(n) => {
                    moved = true;
                    // Too large or full: dropped and counted by the machine.
                    let _ = machine.datagram_write(flow, scratch.get(..n).unwrap_or_default());
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(_) => {}
            }
        }
        (moved, self.readable)
    }
}

/// Datagrams kept until there is somewhere to send them.
#[derive(Debug, Default)]
pub(super) struct Early(VecDeque<Vec<u8>>);

impl Early {
    /// `false`: full, it is lost.
    pub fn push(&mut self, payload: Vec<u8>) -> bool {
        let room = self.0.len() < EARLY;
        if room {
            self.0.push_back(payload);
        }
        room
    }
    pub fn pop(&mut self) -> Option<Vec<u8>> {
        self.0.pop_front()
    }
}
