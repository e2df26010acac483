//! Local UDP ports: each sender, and behind SOCKS each of its destinations, is a flow of its own.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use mio::{Interest, Token};

use super::descriptors;
use super::listener::{Destination, ForwardId};
use super::local::{Entry, Flow, Local, Source};
use super::ready::Work;
use super::socks_udp;
use super::sys::listen_error;
use super::timers::Timer;
use super::udp_flow::Early;
use crate::error::Error;
use crate::id::FlowId;
use crate::role::{Machine, Open, PathPolicy};
use crate::trust::Protocol;

/// Flows of one port: a quarter of what one connection carries (docs/protocol.md). A resolver asks each question from a port of
/// its own, so that past it the longest silent flows make room, as in a NAT's table.
const FLOWS: usize = 1_024;
/// How many make room at once, so that finding them is spread over as many new senders.
const EVICTED: usize = 64;
/// A flow without a datagram either way for this long is closed (docs/protocol.md: UDP flow idle).
const IDLE: Duration = Duration::from_secs(60);
/// A denial holds for this long without asking again: a sender that goes on would cost both ends a request for each datagram. No
/// longer than a change of policy may take to act (contract: one second).
const DENIED: Duration = Duration::from_secs(1);
const SWEEP: Duration = Duration::from_secs(10);
/// Datagrams of one port in one turn.
const TURN: usize = 64;
/// Kernel buffer of a port, bytes: a burst of some 1,500 full datagrams.
const KERNEL_BUFFER: usize = 4 << 20;

pub(super) struct Port {
    socket: UdpSocket,
    token: Token,
    readable: bool,
    queued: bool,
    forward: ForwardId,
    kind: PortKind,
    flows: BTreeMap<Key, FlowId>,
    /// Destinations that were denied, and when: the port's one service is `None`.
    denied: BTreeMap<Option<(String, u16)>, Instant>,
}

/// Where a port's datagrams go.
pub(super) enum PortKind {
    /// To the forward's service.
    Forward,
    /// Where each one's SOCKS header says. `client` is the one address that is listened to; its port is learned (0) from the
    /// first datagram.
    Socks { client: SocketAddr },
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    from: SocketAddr,
    /// Service and port named by a SOCKS header.
    to: Option<(String, u16)>,
}

pub(super) struct PortFlow {
    port: usize,
    key: Key,
    /// Goes before every datagram to the sender.
    header: Vec<u8>,
    early: Early,
    open: bool,
    last: Instant,
}

impl Local {
    /// Binds a port of a UDP forward.
    pub(super) fn forward_port(
        &mut self,
        forward: ForwardId,
        address: SocketAddr,
    ) -> Result<(usize, SocketAddr), Error> {
        self.bind_port(forward, address, PortKind::Forward).map_err(|e| listen_error(&format!("udp {address}"), &e))
    }

    /// Binds a relay port of a SOCKS client.
    pub(super) fn socks_port(
        &mut self,
        forward: ForwardId,
        ip: IpAddr,
        client: SocketAddr,
    ) -> std::io::Result<(usize, SocketAddr)> {
        self.bind_port(forward, (ip, 0).into(), PortKind::Socks { client })
    }

    fn bind_port(
        &mut self,
        forward: ForwardId,
        address: SocketAddr,
        kind: PortKind,
    ) -> std::io::Result<(usize, SocketAddr)> {
        let socket = UdpSocket::bind(address)?;
        // The operator's own port may come from the reserve.
        let socket = if matches!(kind, PortKind::Forward) { socket } else { descriptors::keep(socket)? };
        socket.set_nonblocking(true)?;
        let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(KERNEL_BUFFER);
        let bound = socket.local_addr()?;
        let index = self.ports.vacant_key();
        let token = self.register(&socket, Source::Port(index), Interest::READABLE)?;
        let (flows, denied) = (BTreeMap::new(), BTreeMap::new());
        self.ports.insert(Port { socket, token, readable: true, queued: false, forward, kind, flows, denied });
        self.timers.set(Instant::now() + SWEEP, Timer::Sweep(index));
        Ok((index, bound))
    }

    pub(super) fn port_readable(&mut self, index: usize) {
        if let Some(port) = self.ports.get_mut(index) {
            port.readable = true;
            if !std::mem::replace(&mut port.queued, true) {
                self.ready.push(Work::Port(index), 0);
            }
        }
    }

    /// Takes in datagrams, a bounded share.
    pub(super) fn run_port(&mut self, machine: &mut dyn Machine, now: Instant, index: usize) {
        let mut scratch = std::mem::take(&mut self.scratch);
        for _ in 0..TURN {
            let Some(port) = self.ports.get_mut(index) else { break };
            port.queued = false;
            if !port.readable {
                break;
            }
            match port.socket.recv_from(&mut scratch) {
                Ok((n, from)) => self.port_datagram(machine, now, index, from, scratch.get(..n).unwrap_or_default()),
                Err(e) if e.kind() == ErrorKind::WouldBlock => port.readable = false,
                // An ICMP error of an earlier answer.
                Err(_) => {}
            }
        }
        self.scratch = scratch;
        if self.ports.get(index).is_some_and(|p| p.readable) {
            self.port_readable(index);
        }
    }

    fn port_datagram(
        &mut self,
        machine: &mut dyn Machine,
        now: Instant,
        index: usize,
        from: SocketAddr,
        datagram: &[u8],
    ) {
        let Some(port) = self.ports.get_mut(index) else { return };
        let Some(spec) = self.forwards.get(&port.forward).map(|f| &f.spec) else { return };
        let (to, header, payload) = match (&mut port.kind, &spec.to) {
            (PortKind::Forward, Destination::Service { service, port, .. }) => {
                (Some((service.clone(), *port, None)), Vec::new(), datagram)
            }
            (PortKind::Socks { client }, Destination::Socks5 { zone, .. }) => {
                match socks_udp::accept(client, from, zone, datagram) {
                    Some(d) => {
                        (Some((d.service.clone(), Some(d.port), Some((d.service, d.port)))), d.header, d.payload)
                    }
                    None => (None, Vec::new(), datagram),
                }
            }
            (PortKind::Forward | PortKind::Socks { .. }, Destination::Service { .. } | Destination::Socks5 { .. }) => {
                return;
            }
        };
        let Some((service, to_port, named)) = to else {
            self.lost += 1;
            return;
        };
        let key = Key { from, to: named };
        if let Some(flow) = port.flows.get(&key).copied() {
            let Some(Flow::Port(known)) = self.flows.get_mut(&flow).map(|e| &mut e.flow) else { return };
            known.last = now;
            if known.open {
                // Too large or full: dropped and counted by the machine.
                let _ = machine.datagram_write(flow, payload);
            } else {
                self.lost += u64::from(!known.early.push(payload.to_vec()));
            }
            return;
        }
        if self.closing || port.denied.get(&key.to).is_some_and(|at| now < *at + DENIED) {
            self.lost += 1;
            return;
        }
        let (path, timeout): (PathPolicy, Duration) = (spec.path, spec.timeout);
        let forward = port.forward;
        if port.flows.len() >= FLOWS {
            self.evict(machine, index);
        }
        let flow = self.next_flow();
        if let Some(port) = self.ports.get_mut(index) {
            port.flows.insert(key.clone(), flow);
        }
        let mut early = Early::default();
        early.push(payload.to_vec());
        let entry = PortFlow { port: index, key, header, early, open: false, last: now };
        self.flows.insert(flow, Entry { flow: Flow::Port(entry), forward: Some(forward), seat: None });
        if let Some(forward) = self.forwards.get_mut(&forward) {
            forward.connections += 1;
        }
        machine.open(
            now,
            flow,
            Open { service, port: to_port, protocol: Protocol::Udp, path, timeout, traceparent: None },
        );
    }

    /// Closes the flows of a full port that were silent longest.
    fn evict(&mut self, machine: &mut dyn Machine, index: usize) {
        let Some(port) = self.ports.get(index) else { return };
        let mut oldest: Vec<(Instant, FlowId)> = port
            .flows
            .values()
            .filter_map(|id| match self.flows.get(id).map(|e| &e.flow) {
                Some(Flow::Port(known)) => Some((known.last, *id)),
                Some(_) | None => None,
            })
            .collect();
        oldest.sort_unstable();
        for (_, flow) in oldest.into_iter().take(EVICTED) {
            machine.datagram_close(flow);
            self.forget(flow);
        }
    }

    pub(super) fn port_opened(&mut self, machine: &mut dyn Machine, now: Instant, flow: FlowId) {
        if let Some(Flow::Port(known)) = self.flows.get_mut(&flow).map(|e| &mut e.flow) {
            known.open = true;
            known.last = now;
            while let Some(payload) = known.early.pop() {
                let _ = machine.datagram_write(flow, &payload);
            }
        }
    }

    /// A datagram for the sender behind `flow`.
    pub(super) fn port_deliver(&mut self, now: Instant, flow: FlowId, payload: &[u8]) {
        let Some(Flow::Port(known)) = self.flows.get_mut(&flow).map(|e| &mut e.flow) else { return };
        known.last = now;
        let Some(port) = self.ports.get(known.port) else { return };
        let sent = if known.header.is_empty() {
            port.socket.send_to(payload, known.key.from)
        } else {
            port.socket.send_to(&[&known.header, payload].concat(), known.key.from)
        };
        self.lost += u64::from(sent.is_err());
    }

    /// The flow is gone: its sender's next datagram opens another.
    pub(super) fn port_flow_gone(&mut self, gone: &PortFlow) {
        if let Some(port) = self.ports.get_mut(gone.port) {
            port.flows.remove(&gone.key);
        }
    }

    /// As [`port_flow_gone`](Self::port_flow_gone), for a flow that did not come to be or was cut.
    pub(super) fn port_flow_refused(&mut self, now: Instant, gone: PortFlow, error: &Error) {
        self.port_flow_gone(&gone);
        if let (Some(port), Error::Denied { .. }) = (self.ports.get_mut(gone.port), error) {
            if port.denied.len() >= FLOWS {
                port.denied.clear();
            }
            port.denied.insert(gone.key.to, now);
        }
    }

    /// Closes what is idle.
    pub(super) fn sweep_port(&mut self, machine: &mut dyn Machine, now: Instant, index: usize) {
        let Some(port) = self.ports.get_mut(index) else { return };
        port.denied.retain(|_, at| now < *at + DENIED);
        let flows: Vec<FlowId> = port.flows.values().copied().collect();
        for flow in flows {
            if let Some(Flow::Port(known)) = self.flows.get(&flow).map(|e| &e.flow)
                && known.last + IDLE <= now
            {
                machine.datagram_close(flow);
                self.forget(flow);
            }
        }
        self.timers.set(now + SWEEP, Timer::Sweep(index));
    }

    pub(super) fn close_port(&mut self, machine: &mut dyn Machine, index: usize) {
        let Some(port) = self.ports.try_remove(index) else { return };
        self.unregister(&port.socket, port.token);
        for flow in port.flows.into_values() {
            machine.datagram_close(flow);
            self.forget(flow);
        }
    }
}
