//! The UDP sockets of a role: whole bursts in (recvmmsg and GRO), whole bursts out (GSO).

use std::io::{ErrorKind, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSocketState};
use socket2::{Domain, Protocol, Type};

use super::sieve::{self, Sieve};
use super::sys::listen_error;
use crate::error::Error;
use crate::role::{Arrival, Machine, SocketIndex, Transmit};

/// Kernel buffer of each socket and direction, bytes. At 1 MB a burst that meets a busy loop loses 0.4 % of its packets.
const KERNEL_BUFFER: usize = 8 << 20;
/// Room for one GRO super-packet, bytes: the kernel builds none larger.
const BURST: usize = 65_536;
/// Bursts in one recvmmsg.
const BURSTS: usize = 8;
/// recvmmsg calls for one socket in one turn: so that timers, local flows and sending get theirs under a flood.
const CALLS_PER_TURN: usize = 8;
/// Bursts sent in one turn: acknowledgements and local flows get theirs while much is to be sent.
const SENDS_PER_TURN: usize = 64;

/// A bound UDP socket. IPv6 ones take IPv6 alone.
pub struct Socket {
    socket: UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
    receive_buffer: usize,
    readable: bool,
    sieve: Sieve,
}

impl Socket {
    /// Binds `address` (port 0: any). With `reuse_port` several loops share it and the kernel spreads senders over them: every one
    /// of the group must ask for it. Errors: `Config` or `Permission`, naming the address.
    pub fn bind(address: SocketAddr, reuse_port: bool) -> Result<Self, Error> {
        let bind = || -> std::io::Result<Self> {
            let socket = socket2::Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
            if address.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            if reuse_port {
                socket.set_reuse_port(true)?;
            }
            socket.bind(&address.into())?;
            let receive_buffer = enlarge(&socket);
            let socket = UdpSocket::from(socket);
            let state = UdpSocketState::new((&socket).into())?;
            let local = socket.local_addr()?;
            Ok(Socket { socket, state, local, receive_buffer, readable: true, sieve: Sieve::default() })
        };
        bind().map_err(|e| listen_error(&format!("udp {address}"), &e))
    }

    /// Binds `address` as the first of a group with `reuse_port`. Errors: also when the port is another's, whose group `reuse_port`
    /// alone would join without a word.
    pub fn claim(address: SocketAddr) -> Result<Self, Error> {
        if address.port() != 0 {
            drop(Self::bind(address, false)?);
        }
        Self::bind(address, true)
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// What to tell the operator where the system gave less buffer than was asked for.
    pub fn clipped(&self) -> Option<String> {
        (self.receive_buffer < KERNEL_BUFFER).then(|| {
            format!(
                "the receive buffer of {} is {} KB, not {} KB: raise net.core.rmem_max, or bursts lose packets",
                self.local,
                self.receive_buffer / 1024,
                KERNEL_BUFFER / 1024
            )
        })
    }

    /// Sends `burst` from byte `from` on. A datagram that the system refuses is gone and counted: QUIC repairs what is lost.
    fn send(&mut self, burst: &[u8], transmit: &Transmit, mut from: usize, counters: &mut UdpCounters) -> Sent {
        let segment = transmit.segment.max(1);
        // Set where a whole burst was refused: it is tried again one datagram at a time.
        let mut singly_until = 0;
        let mut too_large = false;
        while let Some(rest) = burst.get(from..).filter(|r| !r.is_empty()) {
            let segments = if from < singly_until { 1 } else { self.state.max_gso_segments().max(1) };
            let len = rest.len().min(segment.saturating_mul(segments));
            let contents = rest.get(..len).unwrap_or(rest);
            let one = len <= segment;
            let message = quinn_udp::Transmit {
                destination: transmit.to,
                ecn: None,
                contents,
                segment_size: (!one).then_some(segment),
                src_ip: transmit.from,
            };
            match self.state.try_send((&self.socket).into(), &message) {
                Ok(()) => {
                    counters.bursts_sent += 1;
                    counters.bytes_sent += len as u64;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Sent::UpTo(from),
                Err(e) if one => {
                    if quinn_udp::is_msg_size_err(&e) {
                        too_large = true;
                        counters.too_large += 1;
                    } else {
                        counters.refused += 1;
                    }
                }
                Err(e) if matches!(e.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE)) => {
                    singly_until = from + len;
                    continue;
                }
                Err(_) => counters.refused += len.div_ceil(segment) as u64,
            }
            from += len;
        }
        if too_large && self.state.max_gso_segments() <= 1 {
            // Linux says EINVAL to a burst that is too large for the route, which looks like a missing GSO and switched it off.
            if let Ok(state) = UdpSocketState::new((&self.socket).into()) {
                self.state = state;
            }
        }
        Sent::All
    }
}

/// Grows both buffers, past the system's limit where we may; returns the receive buffer's size in bytes.
fn enlarge(socket: &socket2::Socket) -> usize {
    let _ = socket.set_recv_buffer_size(KERNEL_BUFFER);
    let _ = socket.set_send_buffer_size(KERNEL_BUFFER);
    #[cfg(target_os = "linux")]
    {
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(socket, KERNEL_BUFFER);
        let _ = rustix::net::sockopt::set_socket_send_buffer_size_force(socket, KERNEL_BUFFER);
    }
    let reported = socket.recv_buffer_size().unwrap_or(0);
    // Linux reports twice the usable size (socket(7)).
    if cfg!(target_os = "linux") { reported / 2 } else { reported }
}

/// What became of bursts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UdpCounters {
    pub bursts_received: u64,
    pub bytes_received: u64,
    pub bursts_sent: u64,
    pub bytes_sent: u64,
    /// Datagrams larger than the path takes (EMSGSIZE).
    pub too_large: u64,
    /// Datagrams that the system refused for another reason: no route, refused, filtered.
    pub refused: u64,
    /// Datagrams for an address family that no socket serves.
    pub no_socket: u64,
    /// Times that a send found the kernel's buffer full.
    pub blocked: u64,
}

/// All sockets of one loop.
pub(super) struct SocketSet {
    sockets: Vec<Socket>,
    tokens: Vec<Token>,
    buffers: Vec<Vec<u8>>,
    meta: [RecvMeta; BURSTS],
    /// The burst being filled or, while `blocked`, the one that waits.
    out: Vec<u8>,
    blocked: Option<Blocked>,
    pub counters: UdpCounters,
}

/// A burst whose rest waits for the kernel's buffer.
struct Blocked {
    socket: SocketIndex,
    transmit: Transmit,
    sent: usize,
}

/// How much of a burst went.
enum Sent {
    All,
    UpTo(usize),
}

impl SocketSet {
    pub fn new(sockets: Vec<Socket>) -> Self {
        let buffers = if sockets.is_empty() { 0 } else { BURSTS.min(BATCH_SIZE) };
        SocketSet {
            sockets,
            tokens: Vec::new(),
            buffers: (0..buffers).map(|_| vec![0; BURST]).collect(),
            meta: [RecvMeta::default(); BURSTS],
            out: Vec::with_capacity(BURST),
            blocked: None,
            counters: UdpCounters::default(),
        }
    }

    pub fn sockets(&self) -> &[Socket] {
        &self.sockets
    }

    /// Registers every socket, in order, under the token that `next` gives for it.
    pub fn register(&mut self, registry: &Registry, mut next: impl FnMut(SocketIndex) -> Token) -> std::io::Result<()> {
        for (index, socket) in self.sockets.iter().enumerate() {
            let token = next(index);
            registry.register(&mut SourceFd(&socket.socket.as_raw_fd()), token, Interest::READABLE)?;
            self.tokens.push(token);
        }
        Ok(())
    }

    pub fn on_readable(&mut self, index: SocketIndex) {
        if let Some(socket) = self.sockets.get_mut(index) {
            socket.readable = true;
        }
    }

    /// Feeds what has arrived, a bounded share of it. `true`: more waits.
    pub fn receive(&mut self, now: Instant, machine: &mut dyn Machine) -> bool {
        let mut more = false;
        for index in 0..self.sockets.len() {
            for _ in 0..CALLS_PER_TURN {
                if !self.receive_batch(index, now, machine) {
                    break;
                }
            }
            more |= self.sockets.get(index).is_some_and(|s| s.readable);
        }
        more
    }

    /// One recvmmsg. `true`: the socket may have more.
    fn receive_batch(&mut self, index: SocketIndex, now: Instant, machine: &mut dyn Machine) -> bool {
        let Some(socket) = self.sockets.get_mut(index).filter(|s| s.readable) else { return false };
        let asked = self.buffers.len();
        let mut slices = self.buffers.iter_mut().map(|b| IoSliceMut::new(b));
        let mut slices: [IoSliceMut<'_>; BURSTS] =
            std::array::from_fn(|_| slices.next().unwrap_or(IoSliceMut::new(&mut [])));
        let Some(slices) = slices.get_mut(..asked) else { return false };
        let received = match socket.state.recv((&socket.socket).into(), slices, &mut self.meta) {
            Ok(n) => n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                socket.readable = false;
                return false;
            }
            // An ICMP error of something that was sent: it takes the place of a datagram, and those behind it wait.
            Err(_) => {
                self.counters.refused += 1;
                return true;
            }
        };
        // Fewer than asked for: the queue was empty, and what comes next raises a new event.
        socket.readable = received == asked;
        for (meta, buffer) in self.meta.iter().zip(&self.buffers).take(received) {
            socket.sieve.count(buffer.get(..meta.len).unwrap_or_default(), meta.stride);
        }
        for (meta, buffer) in self.meta.iter().zip(self.buffers.iter_mut()).take(received) {
            let Some(burst) = buffer.get_mut(..meta.len).filter(|b| !b.is_empty() && meta.stride > 0) else { continue };
            self.counters.bursts_received += 1;
            self.counters.bytes_received += meta.len as u64;
            let arrival = Arrival { socket: index, from: meta.addr, to: meta.dst_ip, stride: meta.stride };
            let passed = if self.blocked.is_none() { machine.pass_on(arrival, burst) } else { None };
            let Some(transmit) = passed else {
                machine.handle_packets(now, arrival, burst);
                continue;
            };
            let Some(way_out) = transmit.socket.and_then(|i| self.sockets.get_mut(i)) else {
                self.counters.no_socket += 1;
                continue;
            };
            if let Sent::UpTo(sent) = way_out.send(burst, &transmit, 0, &mut self.counters) {
                // The rest waits as any other burst does.
                self.counters.blocked += 1;
                self.out.clear();
                self.out.extend_from_slice(burst);
                self.blocked = transmit.socket.map(|socket| Blocked { socket, transmit, sent });
            }
        }
        received == asked
    }

    /// Sends what the machine has, a bounded share of it. `true`: it has more.
    pub fn transmit(&mut self, now: Instant, machine: &mut dyn Machine, registry: &Registry) -> bool {
        if let Some(blocked) = self.blocked.take() {
            match self.send(blocked.socket, &blocked.transmit, blocked.sent) {
                Sent::All => self.want_writable(registry, blocked.socket, false),
                Sent::UpTo(sent) => {
                    self.want_writable(registry, blocked.socket, true);
                    self.blocked = Some(Blocked { sent, ..blocked });
                    return false;
                }
            }
        }
        for _ in 0..SENDS_PER_TURN {
            self.out.clear();
            let Some(transmit) = machine.poll_transmit(now, &mut self.out) else { return false };
            let v4 = transmit.to.is_ipv4();
            let index = transmit.socket.or_else(|| self.sockets.iter().position(|s| s.local.is_ipv4() == v4));
            let Some(index) = index.filter(|i| *i < self.sockets.len()) else {
                self.counters.no_socket += 1;
                continue;
            };
            if let Sent::UpTo(sent) = self.send(index, &transmit, 0) {
                self.counters.blocked += 1;
                self.blocked = Some(Blocked { socket: index, transmit, sent });
                self.want_writable(registry, index, true);
                return false;
            }
        }
        true
    }

    /// Holds the first Initials that arrive at each socket to the machine's budget.
    pub fn shed(&mut self, now: Instant, machine: &mut dyn Machine) {
        let Some(budget) = machine.initial_budget() else { return };
        for socket in &mut self.sockets {
            let Some(verdict) = socket.sieve.judge(now, budget) else { continue };
            if verdict.shed > 0 {
                machine.handle_shed(verdict.shed);
            }
            if let Some(share) = verdict.share {
                // Without it the machine itself drops what is over its budget.
                let installed = sieve::install((&socket.socket).into(), share);
                tracing::info!(address = %socket.local, share, ?installed, "sieving first Initials");
            }
        }
    }

    /// When [`shed`](Self::shed) has to run even if nothing arrives.
    pub fn shed_deadline(&self) -> Option<Instant> {
        self.sockets.iter().filter_map(|s| s.sieve.deadline()).min()
    }

    /// Whether a burst waits for room.
    pub fn is_blocked(&self) -> bool {
        self.blocked.is_some()
    }

    /// Asked for only while a burst waits: otherwise every packet that leaves the host would wake the loop.
    fn want_writable(&self, registry: &Registry, index: SocketIndex, on: bool) {
        let (Some(socket), Some(token)) = (self.sockets.get(index), self.tokens.get(index)) else { return };
        let interest = if on { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        // Where this fails the burst is tried again by time.
        let _ = registry.reregister(&mut SourceFd(&socket.socket.as_raw_fd()), *token, interest);
    }

    fn send(&mut self, index: SocketIndex, transmit: &Transmit, from: usize) -> Sent {
        let Some(socket) = self.sockets.get_mut(index) else { return Sent::All };
        socket.send(&self.out, transmit, from, &mut self.counters)
    }
}
