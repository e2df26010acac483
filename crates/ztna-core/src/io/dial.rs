//! A connector's way to its services: resolve, connect without blocking, try every address in the time there is.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mio::Interest;
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Type};

use super::descriptors::{self, Seat};
use super::local::{Entry, Flow, Local, STREAM, Source};
use super::resolve::Asker;
use super::splice::{Kind, Splice};
use super::sys;
use super::timers::Timer;
use super::udp_flow::{Early, UdpFlow};
use crate::error::Error;
use crate::id::FlowId;
use crate::role::{FlowInfo, Machine, Target};
use crate::trust::Protocol;

/// Pause before a unix socket with a full backlog is tried again: it has no queue that a connect could wait in.
const BACKLOG_PAUSE: Duration = Duration::from_millis(5);

/// A flow whose target is not reached yet.
pub(super) struct Dial {
    protocol: Protocol,
    /// For messages.
    target: String,
    /// Addresses not tried yet.
    left: VecDeque<Address>,
    /// The connect that runs.
    socket: Option<(OwnedFd, mio::Token, Kind)>,
    last_error: Option<Error>,
    /// When the whole dial has failed.
    deadline: Instant,
    /// When the present attempt has: the time that is left is shared evenly among the addresses that are left.
    attempt_deadline: Instant,
    pub early: Early,
}

#[derive(Debug, Clone)]
enum Address {
    Inet(SocketAddr),
    Unix(PathBuf),
}

impl Local {
    /// Starts on `Action::Dial`.
    pub(super) fn dial(
        &mut self,
        machine: &mut dyn Machine,
        now: Instant,
        flow: FlowId,
        target: Target,
        info: FlowInfo,
        timeout: Duration,
    ) {
        // A handler of the program takes both ends of a pair for a stream, and none for datagrams.
        let (handler, udp) = (matches!(target, Target::Handler(_)), info.protocol == Protocol::Udp);
        let seat = if matches!(target, Target::Echo) || (handler && udp) {
            None
        } else {
            match self.descriptors.seat(now, &info.peer.id, handler) {
                Ok(seat) => Some(seat),
                Err(none) => {
                    self.warn(none.warning);
                    return machine.flow_failed(now, flow, none.why);
                }
            }
        };
        let deadline = now + timeout;
        let dial = |target: String, left: VecDeque<Address>| Dial {
            protocol: info.protocol,
            target,
            left,
            socket: None,
            last_error: None,
            deadline,
            attempt_deadline: deadline,
            early: Early::default(),
        };
        match target {
            // The machine answers itself.
            Target::Echo => {}
            Target::Handler(serve) => self.incoming(machine, now, flow, serve, info, seat),
            Target::Unix(path) if info.protocol == Protocol::Udp => {
                let at = format!("target unix:{}", path.display());
                machine.flow_failed(now, flow, Error::config(at, "a unix socket carries tcp alone"));
            }
            Target::Unix(path) => {
                let dial = dial(path.display().to_string(), VecDeque::from([Address::Unix(path)]));
                self.insert_dial(flow, dial, seat);
                self.next_attempt(machine, now, flow);
            }
            Target::Host { host, port } => {
                let shown = crate::wire::host::format_host_port(&host, port);
                if let Ok(ip) = host.parse::<IpAddr>() {
                    self.insert_dial(flow, dial(shown, VecDeque::from([Address::Inet((ip, port).into())])), seat);
                    self.next_attempt(machine, now, flow);
                    return;
                }
                self.insert_dial(flow, dial(shown, VecDeque::new()), seat);
                if let Err(why) = self.resolver.ask(Asker::Dial { flow, port }, host) {
                    self.dial_failed(machine, now, flow, Error::Limit(why));
                }
            }
        }
    }

    fn insert_dial(&mut self, flow: FlowId, dial: Dial, seat: Option<Seat>) {
        self.timers.set(dial.attempt_deadline, Timer::Dial(flow));
        self.flows.insert(flow, Entry { flow: Flow::Dialing(dial), forward: None, seat });
    }

    /// What was dialled is reached: the flow keeps its seat.
    fn replace(&mut self, flow: FlowId, by: Flow) {
        let seat = self.flows.remove(&flow).and_then(|e| e.seat);
        self.flows.insert(flow, Entry { flow: by, forward: None, seat });
    }

    fn dialing(&mut self, flow: FlowId) -> Option<&mut Dial> {
        if let Flow::Dialing(dial) = &mut self.flows.get_mut(&flow)?.flow { Some(dial) } else { None }
    }

    /// The resolver's answer.
    pub(super) fn dial_resolved(
        &mut self,
        machine: &mut dyn Machine,
        now: Instant,
        flow: FlowId,
        port: u16,
        found: Result<Vec<IpAddr>, String>,
    ) {
        let Some(dial) = self.dialing(flow) else { return };
        match found {
            Ok(addresses) => {
                dial.left = addresses.into_iter().map(|ip| Address::Inet((ip, port).into())).collect();
                self.next_attempt(machine, now, flow);
            }
            Err(why) => {
                let message = format!("{}: {why}; check the host in --service, and the resolver here", dial.target);
                self.dial_failed(
                    machine,
                    now,
                    flow,
                    Error::Unreachable { message, reason: Some("dns"), tried: Vec::new() },
                );
            }
        }
    }

    /// Tries the next address, or gives up with the last one's error.
    fn next_attempt(&mut self, machine: &mut dyn Machine, now: Instant, flow: FlowId) {
        loop {
            let Some(dial) = self.dialing(flow) else { return };
            let shares = u32::try_from(dial.left.len()).unwrap_or(u32::MAX).max(1);
            let Some(address) = dial.left.pop_front() else {
                let error = dial.last_error.take();
                let error = error.unwrap_or_else(|| sys::no_answer(&dial.target));
                return self.dial_failed(machine, now, flow, error);
            };
            let before = dial.attempt_deadline;
            dial.attempt_deadline = now + dial.deadline.saturating_duration_since(now) / shares;
            let after = dial.attempt_deadline;
            let protocol = dial.protocol;
            self.timers.clear(before, Timer::Dial(flow));
            self.timers.set(after, Timer::Dial(flow));
            let started = match (&address, protocol) {
                (Address::Inet(to), Protocol::Udp) => match UdpFlow::connect(*to) {
                    Ok(socket) => return self.udp_connected(machine, now, flow, socket),
                    Err(e) => Err(e),
                },
                (Address::Inet(to), Protocol::Tcp | Protocol::Icmp) => connect(&SockAddr::from(*to), Kind::Tcp),
                (Address::Unix(path), Protocol::Tcp | Protocol::Udp | Protocol::Icmp) => {
                    SockAddr::unix(path).and_then(|to| connect(&to, Kind::Unix))
                }
            };
            let why = match started {
                Ok(Some(fd)) => match self.watch_connect(flow, fd, &address) {
                    Ok(()) => return,
                    Err(e) => e,
                },
                Ok(None) => {
                    // The unix backlog is full.
                    if let Some(dial) = self.dialing(flow) {
                        dial.left.push_front(address);
                        self.timers.set(now + BACKLOG_PAUSE, Timer::DialAgain(flow));
                    }
                    return;
                }
                Err(e) => e,
            };
            if descriptors::is_exhausted(&why) {
                let warning = self.descriptors.refuse(now);
                self.warn(warning);
                return self.dial_failed(machine, now, flow, descriptors::exhausted());
            }
            if let Some(dial) = self.dialing(flow) {
                dial.last_error = Some(sys::dial_error(&dial.target, &why));
            }
        }
    }

    fn watch_connect(&mut self, flow: FlowId, fd: OwnedFd, address: &Address) -> std::io::Result<()> {
        let token = self.register(&fd, Source::Flow(flow), STREAM)?;
        let kind = match address {
            Address::Inet(_) => Kind::Tcp,
            Address::Unix(_) => Kind::Unix,
        };
        if let Some(dial) = self.dialing(flow) {
            dial.socket = Some((fd, token, kind));
        }
        Ok(())
    }

    /// The connect that runs has an outcome.
    pub(super) fn dial_event(
        &mut self,
        machine: &mut dyn Machine,
        now: Instant,
        flow: FlowId,
        event: &mio::event::Event,
    ) {
        if !event.is_writable() && !event.is_error() && !event.is_write_closed() {
            return;
        }
        let Some(dial) = self.dialing(flow) else { return };
        let Some((fd, token, kind)) = dial.socket.take() else { return };
        if let Some(e) = sys::take_error(&fd) {
            dial.last_error = Some(sys::dial_error(&dial.target, &e));
            self.unregister(&fd, token);
            return self.next_attempt(machine, now, flow);
        }
        if rustix::net::getpeername(&fd).is_err() {
            // Woken before the connect had an outcome.
            dial.socket = Some((fd, token, kind));
            return;
        }
        let _ = sys::prepare(&fd, kind == Kind::Tcp);
        self.timers_clear_dial(flow);
        self.replace(flow, Flow::Stream(Splice::new(fd, kind, Vec::new(), Vec::new()), token));
        machine.flow_connected(now, flow);
        self.enqueue(flow);
    }

    fn udp_connected(&mut self, machine: &mut dyn Machine, now: Instant, flow: FlowId, socket: std::net::UdpSocket) {
        let mut early = self.dialing(flow).map(|d| std::mem::take(&mut d.early)).unwrap_or_default();
        self.timers_clear_dial(flow);
        let token = match self.register(&socket, Source::Flow(flow), Interest::READABLE) {
            Ok(token) => token,
            Err(e) => return self.dial_failed(machine, now, flow, Error::Limit(e.to_string())),
        };
        let udp = UdpFlow::new(socket, token);
        while let Some(payload) = early.pop() {
            self.lost += u64::from(!udp.deliver(&payload));
        }
        self.replace(flow, Flow::Udp(udp));
        machine.flow_connected(now, flow);
        self.enqueue(flow);
    }

    /// The present attempt has had its time.
    pub(super) fn dial_timeout(&mut self, machine: &mut dyn Machine, now: Instant, flow: FlowId) {
        let Some(dial) = self.dialing(flow).filter(|d| d.attempt_deadline <= now) else { return };
        dial.last_error = Some(sys::no_answer(&dial.target));
        if dial.deadline <= now {
            dial.left.clear();
        }
        if let Some((fd, token, _)) = dial.socket.take() {
            self.unregister(&fd, token);
        }
        self.next_attempt(machine, now, flow);
    }

    pub(super) fn dial_again(&mut self, machine: &mut dyn Machine, now: Instant, flow: FlowId) {
        if self.dialing(flow).is_some_and(|d| d.socket.is_none()) {
            self.next_attempt(machine, now, flow);
        }
    }

    fn dial_failed(&mut self, machine: &mut dyn Machine, now: Instant, flow: FlowId, error: Error) {
        self.forget(flow);
        machine.flow_failed(now, flow, error);
    }

    fn timers_clear_dial(&mut self, flow: FlowId) {
        if let Some(at) = self.dialing(flow).map(|d| d.attempt_deadline) {
            self.timers.clear(at, Timer::Dial(flow));
        }
    }

    /// Takes apart a dial that is given up.
    pub(super) fn drop_dial(&mut self, flow: FlowId, dial: Dial) {
        self.timers.clear(dial.attempt_deadline, Timer::Dial(flow));
        if let Some((fd, token, _)) = dial.socket {
            self.unregister(&fd, token);
        }
    }
}

/// Starts a connect. `Ok(None)`: a unix socket whose backlog is full.
fn connect(to: &SockAddr, kind: Kind) -> std::io::Result<Option<OwnedFd>> {
    let domain = match kind {
        Kind::Tcp => Domain::from(i32::from(to.family())),
        Kind::Unix | Kind::Node => Domain::UNIX,
    };
    let socket = descriptors::keep(socket2::Socket::new(domain, Type::STREAM, None)?)?;
    socket.set_nonblocking(true)?;
    match socket.connect(to) {
        Ok(()) => Ok(Some(socket.into())),
        Err(e) if Errno::from_io_error(&e) == Some(Errno::INPROGRESS) => Ok(Some(socket.into())),
        Err(e) if kind == Kind::Unix && Errno::from_io_error(&e) == Some(Errno::AGAIN) => Ok(None),
        Err(e) => Err(e),
    }
}
