//! The UDP sockets of a role: whole bursts in (recvmmsg and GRO), whole bursts out (GSO).

use std::io::{ErrorKind, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSocketState};
use socket2::{Domain, Protocol, Type};

use super::host::{Host, VirtualPort};
use super::sieve::{self, Sieve};
use super::sys::listen_error;
use crate::error::Error;
use crate::role::{Arrival, Machine, SocketIndex, Transmit};

/// Kernel buffer of each socket and direction, bytes. At 1 MB a burst that meets a busy loop loses 0.4 % of its packets.
const KERNEL_BUFFER: usize = 8 << 20;
/// Kernel buffer of each socket that a machine asks for, and direction, bytes: checks are small, and there are hundreds of sockets.
const SMALL_BUFFER: usize = 64 << 10;
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
    medium: Medium,
    local: SocketAddr,
    receive_buffer: usize,
    readable: bool,
    sieve: Sieve,
}

/// What carries the datagrams.
enum Medium {
    Kernel(Kernel),
    Virtual(Box<dyn VirtualPort>),
}

struct Kernel {
    socket: UdpSocket,
    state: UdpSocketState,
    /// Whether the kernel is handed whole bursts.
    offload: bool,
}

impl Socket {
    /// Binds `address` (port 0: any). With `reuse_port` several loops share it and the kernel spreads senders over them: every one
    /// of the group must ask for it. Errors: `Config` or `Permission`, naming the address.
    pub fn bind(address: SocketAddr, reuse_port: bool) -> Result<Self, Error> {
        Self::make(address, reuse_port, KERNEL_BUFFER).map_err(|e| listen_error(&format!("udp {address}"), &e))
    }

    /// Binds every address of one family, on a port that the system picks, with little room in the kernel. Errors: the system's.
    pub(super) fn small(v4: bool) -> std::io::Result<Self> {
        let any = if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        Self::make(SocketAddr::new(any, 0), false, SMALL_BUFFER)
    }

    fn make(address: SocketAddr, reuse_port: bool, buffer: usize) -> std::io::Result<Self> {
        let socket = socket2::Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        if reuse_port {
            socket.set_reuse_port(true)?;
        }
        socket.bind(&address.into())?;
        let receive_buffer = set_buffers(&socket, buffer);
        let socket = UdpSocket::from(socket);
        let state = UdpSocketState::new((&socket).into())?;
        let local = socket.local_addr()?;
        let medium = Medium::Kernel(Kernel { socket, state, offload: true });
        Ok(Socket { medium, local, receive_buffer, readable: true, sieve: Sieve::default() })
    }

    /// A port of a virtual host, which keeps its own bounds.
    pub(super) fn from_port(port: Box<dyn VirtualPort>) -> Self {
        let local = port.local_addr();
        let medium = Medium::Virtual(port);
        Socket { medium, local, receive_buffer: KERNEL_BUFFER, readable: true, sieve: Sieve::default() }
    }

    /// Whether bursts are handed to the kernel as a whole (UDP_SEGMENT, udp(7)), which it cuts into datagrams; otherwise each datagram
    /// costs a system call of its own. Default: yes. A virtual port takes bursts in any case.
    pub fn set_segmentation_offload(&mut self, on: bool) {
        if let Medium::Kernel(kernel) = &mut self.medium {
            kernel.offload = on;
        }
    }

    fn offloads(&self) -> bool {
        match &self.medium {
            Medium::Kernel(kernel) => kernel.offload,
            Medium::Virtual(_) => true,
        }
    }

    /// Gives a [`small`](Self::small) one the room of the others.
    pub(super) fn enlarge(&mut self) {
        if let Medium::Kernel(kernel) = &self.medium {
            self.receive_buffer = set_buffers(&socket2::SockRef::from(&kernel.socket), KERNEL_BUFFER);
        }
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
    fn send(&mut self, burst: &[u8], transmit: &Transmit, from: usize, counters: &mut UdpCounters) -> Sent {
        match &mut self.medium {
            Medium::Kernel(kernel) => kernel.send(burst, transmit, from, counters),
            Medium::Virtual(port) => {
                let rest = burst.get(from..).unwrap_or_default();
                counters.too_large += port.send(transmit.from, transmit.to, transmit.segment.max(1), rest);
                counters.bursts_sent += 1;
                counters.bytes_sent += rest.len() as u64;
                Sent::All
            }
        }
    }
}

impl Kernel {
    fn send(&mut self, burst: &[u8], transmit: &Transmit, mut from: usize, counters: &mut UdpCounters) -> Sent {
        let segment = transmit.segment.max(1);
        // Set where a whole burst was refused: it is tried again one datagram at a time.
        let mut singly_until = 0;
        let mut too_large = false;
        while let Some(rest) = burst.get(from..).filter(|r| !r.is_empty()) {
            let singly = from < singly_until || !self.offload;
            let segments = if singly { 1 } else { self.state.max_gso_segments().max(1) };
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

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        match &self.medium {
            Medium::Kernel(kernel) => kernel.socket.as_raw_fd(),
            Medium::Virtual(port) => port.as_raw_fd(),
        }
    }
}

/// As recvmmsg, of bursts. Errors: `WouldBlock`.
fn receive_virtual(
    port: &mut dyn VirtualPort,
    buffers: &mut [IoSliceMut<'_>],
    meta: &mut [RecvMeta],
) -> std::io::Result<usize> {
    let mut filled = 0;
    for (buffer, meta) in buffers.iter_mut().zip(meta) {
        match port.receive(buffer) {
            Ok(burst) => {
                meta.addr = burst.from;
                meta.dst_ip = Some(burst.to);
                meta.len = burst.len;
                meta.stride = burst.stride;
                filled += 1;
            }
            Err(e) if filled == 0 => return Err(e),
            Err(_) => break,
        }
    }
    Ok(filled)
}

/// Sets both buffers, past the system's limit where we may; returns the receive buffer's size in bytes.
fn set_buffers(socket: &socket2::Socket, size: usize) -> usize {
    let _ = socket.set_recv_buffer_size(size);
    let _ = socket.set_send_buffer_size(size);
    #[cfg(target_os = "linux")]
    {
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(socket, size);
        let _ = rustix::net::sockopt::set_socket_send_buffer_size_force(socket, size);
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
    host: Host,
    /// By index: those that the loop was started with, then those that its machine asked for. `None` is free.
    slots: Vec<Option<Box<Slot>>>,
    /// How many the loop was started with.
    own: usize,
    /// Those that the machine asks for send as these do.
    offload: bool,
    buffers: Vec<Vec<u8>>,
    meta: [RecvMeta; BURSTS],
    /// The burst being filled or, while `blocked`, the one that waits.
    out: Vec<u8>,
    blocked: Option<Blocked>,
    pub counters: UdpCounters,
}

struct Slot {
    socket: Socket,
    token: Token,
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
    /// Sockets of `host` that are registered under their tokens, by index.
    pub fn new(host: Host, sockets: Vec<(Socket, Token)>) -> Self {
        let mut set = SocketSet {
            host,
            slots: Vec::new(),
            own: sockets.len(),
            offload: sockets.iter().all(|(socket, _)| socket.offloads()),
            buffers: Vec::new(),
            meta: [RecvMeta::default(); BURSTS],
            out: Vec::with_capacity(BURST),
            blocked: None,
            counters: UdpCounters::default(),
        };
        for (index, (socket, token)) in sockets.into_iter().enumerate() {
            set.put(index, socket, token);
        }
        set
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The local addresses of the sockets that the loop was started with.
    pub fn own_addrs(&self) -> Vec<SocketAddr> {
        self.local_addrs(0..self.own)
    }

    /// The local addresses of the sockets at these indices, where there are any.
    pub fn local_addrs(&self, indices: Range<SocketIndex>) -> Vec<SocketAddr> {
        let slots = self.slots.get(indices).unwrap_or_default();
        slots.iter().flatten().map(|slot| slot.socket.local).collect()
    }

    /// One more than the highest index in use.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// How many the machine asked for and has.
    pub fn more(&self) -> usize {
        self.slots.iter().skip(self.own).flatten().count()
    }

    /// The first `count` free indices in a row, beyond those that the loop was started with.
    pub fn free_run(&self, count: usize) -> Range<SocketIndex> {
        let mut first = self.own;
        for (index, slot) in self.slots.iter().enumerate().skip(self.own) {
            if slot.is_some() {
                first = index + 1;
            } else if index + 1 - first == count {
                break;
            }
        }
        first..first + count
    }

    /// Takes a socket in at a free index; it is registered under its token.
    pub fn put(&mut self, index: SocketIndex, mut socket: Socket, token: Token) {
        socket.set_segmentation_offload(self.offload);
        if self.buffers.is_empty() {
            self.buffers = (0..BURSTS.min(BATCH_SIZE)).map(|_| vec![0; BURST]).collect();
        }
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || None);
        }
        if let Some(slot) = self.slots.get_mut(index) {
            *slot = Some(Box::new(Slot { socket, token }));
        }
    }

    /// Gives up a socket that the machine asked for; what waits to leave by it is lost. `None`: there is none at this index.
    pub fn take(&mut self, index: SocketIndex) -> Option<(Socket, Token)> {
        let slot = self.slots.get_mut(index).filter(|_| index >= self.own)?.take()?;
        self.blocked.take_if(|b| b.socket == index);
        while self.slots.len() > self.own && matches!(self.slots.last(), Some(None)) {
            self.slots.pop();
        }
        Some((slot.socket, slot.token))
    }

    /// Gives a socket that the machine asked for as much room in the kernel as the others have.
    pub fn enlarge(&mut self, index: SocketIndex) {
        if let Some(socket) = self.get_mut(index) {
            socket.enlarge();
        }
    }

    pub fn on_readable(&mut self, index: SocketIndex) {
        if let Some(socket) = self.get_mut(index) {
            socket.readable = true;
        }
    }

    fn get_mut(&mut self, index: SocketIndex) -> Option<&mut Socket> {
        self.slots.get_mut(index)?.as_mut().map(|slot| &mut slot.socket)
    }

    /// Feeds what has arrived, a bounded share of it. `true`: more waits.
    pub fn receive(&mut self, now: Instant, machine: &mut dyn Machine) -> bool {
        let mut more = false;
        for index in 0..self.slots.len() {
            for _ in 0..CALLS_PER_TURN {
                if !self.receive_batch(index, now, machine) {
                    break;
                }
            }
            more |= self.get_mut(index).is_some_and(|s| s.readable);
        }
        more
    }

    /// One recvmmsg. `true`: the socket may have more.
    fn receive_batch(&mut self, index: SocketIndex, now: Instant, machine: &mut dyn Machine) -> bool {
        // Not by `get_mut`: the buffers are borrowed beside it.
        let slot = self.slots.get_mut(index).and_then(Option::as_mut);
        let Some(socket) = slot.map(|slot| &mut slot.socket).filter(|s| s.readable) else { return false };
        let asked = self.buffers.len();
        let mut slices = self.buffers.iter_mut().map(|b| IoSliceMut::new(b));
        let mut slices: [IoSliceMut<'_>; BURSTS] =
            std::array::from_fn(|_| slices.next().unwrap_or(IoSliceMut::new(&mut [])));
        let Some(slices) = slices.get_mut(..asked) else { return false };
        let received = match &mut socket.medium {
            Medium::Kernel(kernel) => kernel.state.recv((&kernel.socket).into(), slices, &mut self.meta),
            Medium::Virtual(port) => receive_virtual(port.as_mut(), slices, &mut self.meta),
        };
        let received = match received {
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
            let way_out = transmit.socket.and_then(|i| self.slots.get_mut(i)).and_then(Option::as_mut);
            let Some(way_out) = way_out else {
                self.counters.no_socket += 1;
                continue;
            };
            if let Sent::UpTo(sent) = way_out.socket.send(burst, &transmit, 0, &mut self.counters) {
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
            let Some(index) = transmit.socket.or_else(|| self.own_for(transmit.to)).filter(|i| self.is_open(*i)) else {
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
        for socket in self.slots.iter_mut().flatten().map(|slot| &mut slot.socket) {
            let Some(verdict) = socket.sieve.judge(now, budget) else { continue };
            if verdict.shed > 0 {
                machine.handle_shed(verdict.shed);
            }
            if let (Some(share), Medium::Kernel(kernel)) = (verdict.share, &socket.medium) {
                // Without it the machine itself drops what is over its budget.
                let installed = sieve::install((&kernel.socket).into(), share);
                tracing::info!(address = %socket.local, share, ?installed, "sieving first Initials");
            }
        }
    }

    /// When [`shed`](Self::shed) has to run even if nothing arrives.
    pub fn shed_deadline(&self) -> Option<Instant> {
        self.slots.iter().flatten().filter_map(|slot| slot.socket.sieve.deadline()).min()
    }

    fn is_open(&self, index: SocketIndex) -> bool {
        self.slots.get(index).is_some_and(Option::is_some)
    }

    /// Of those that the loop was started with, the one of this address' family.
    fn own_for(&self, to: SocketAddr) -> Option<SocketIndex> {
        let mut own = self.slots.iter().take(self.own);
        own.position(|slot| slot.as_ref().is_some_and(|slot| slot.socket.local.is_ipv4() == to.is_ipv4()))
    }

    /// Whether a burst waits for room.
    pub fn is_blocked(&self) -> bool {
        self.blocked.is_some()
    }

    /// Asked for only while a burst waits: otherwise every packet that leaves the host would wake the loop.
    fn want_writable(&self, registry: &Registry, index: SocketIndex, on: bool) {
        let Some(slot) = self.slots.get(index).and_then(Option::as_ref) else { return };
        let interest = if on { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        // Where this fails the burst is tried again by time.
        let _ = registry.reregister(&mut SourceFd(&slot.socket.as_raw_fd()), slot.token, interest);
    }

    fn send(&mut self, index: SocketIndex, transmit: &Transmit, from: usize) -> Sent {
        let slot = self.slots.get_mut(index).and_then(Option::as_mut);
        let Some(Slot { socket, .. }) = slot.map(AsMut::as_mut) else { return Sent::All };
        socket.send(&self.out, transmit, from, &mut self.counters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_that_a_machine_asks_for_send_as_those_of_the_loop_do() {
        for on in [true, false] {
            let mut own = Socket::bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
            own.set_segmentation_offload(on);
            let mut set = SocketSet::new(Host::System, vec![(own, Token(0))]);
            set.put(1, Socket::small(true).unwrap(), Token(1));
            assert_eq!(set.get_mut(1).map(|socket| socket.offloads()), Some(on));
        }
    }
}
