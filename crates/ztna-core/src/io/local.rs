//! Everything of a loop that is not the machine: descriptors, local flows, forwards, deadlines, and who waits for what.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use slab::Slab;

use super::descriptors::{Descriptors, Seat};
use super::dial::Dial;
use super::event::{LocalEvent, Observer};
use super::handle::Wake;
use super::listener::{Forward, ForwardId};
use super::node_flow::{DatagramReply, StreamReply};
use super::port_mapping::PortMapper;
use super::ready::{Ready, TurnNumber, Work};
use super::resolve::Resolver;
use super::ring::{Dirty, Ring};
use super::socks::Client;
use super::splice::{Kind, Splice, TURN, Turn};
use super::sys;
use super::timers::Timers;
use super::udp::SocketSet;
use super::udp_flow::UdpFlow;
use super::udp_local::{Port, PortFlow};
use crate::error::Error;
use crate::id::FlowId;
use crate::role::{Action, FlowInfo, Machine, Notice};

/// Interest in a stream descriptor. mio's registrations are edge-triggered: whoever owns one keeps its readiness.
pub(super) const STREAM: Interest = Interest::READABLE.add(Interest::WRITABLE);

/// What a token stands for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source {
    Socket(usize),
    Flow(FlowId),
    Listener(ForwardId),
    Client(usize),
    Port(usize),
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))] // Elsewhere the addresses are compared by time.
    Network,
}

/// A flow as the loop knows it.
pub(super) struct Entry {
    pub flow: Flow,
    /// The forward that it came by and is counted at.
    pub forward: Option<ForwardId>,
    /// Connector: its place among its peer's flows.
    pub seat: Option<Seat>,
}

pub(super) enum Flow {
    /// Agent: asked for, no answer yet.
    Opening(Opener),
    /// Connector: its target is not reached yet.
    Dialing(Dial),
    Stream(Splice, Token),
    /// Connector: a connected UDP socket.
    Udp(UdpFlow),
    /// Agent: one peer of a local UDP port, opening or open.
    Port(PortFlow),
    /// A UDP flow of the embedding program.
    Ring(std::sync::Arc<Ring>),
    /// A reset stream of the program, kept open until it has seen that, or this time.
    Reset(OwnedFd, Instant),
}

/// Who waits for a flow to open.
pub(super) enum Opener {
    Stream(u64, StreamReply),
    Datagram(u64, DatagramReply),
    /// A connection accepted at a forward.
    Accepted(OwnedFd, Kind),
    /// A SOCKS or CONNECT client.
    Client(usize),
}

/// An operation of the program.
pub(super) enum Op {
    Open(FlowId),
    Ask(u64),
}

pub(super) struct Local {
    pub registry: Registry,
    pub sources: Slab<Source>,
    pub flows: BTreeMap<FlowId, Entry>,
    pub ready: Ready,
    turn: TurnNumber,
    pub timers: Timers,
    pub observer: Observer,
    pub resolver: Resolver,
    pub forwards: BTreeMap<ForwardId, Forward>,
    pub clients: Slab<Client>,
    pub ports: Slab<Port>,
    pub ops: BTreeMap<u64, Op>,
    /// The machine's operation IDs to the program's.
    pub asked: BTreeMap<u64, u64>,
    pub dirty: Dirty,
    pub wake: Wake,
    pub scratch: Vec<u8>,
    last_id: u64,
    /// More was posted than one turn runs.
    pub posts_wait: bool,
    /// No new work is taken.
    pub closing: bool,
    pub ended: Option<Result<(), Error>>,
    /// Datagrams lost at local sockets.
    pub lost: u64,
    /// Datagrams lost between the loop and the program: full queues, too large.
    pub lost_in_rings: Arc<AtomicU64>,
    pub descriptors: Descriptors,
    /// From the first [`Action::MapPort`] on.
    pub mapper: Option<PortMapper>,
}

impl Local {
    pub fn new(registry: Registry, wake: Wake, observer: Observer) -> Self {
        Local {
            registry,
            sources: Slab::new(),
            flows: BTreeMap::new(),
            ready: Ready::default(),
            turn: 0,
            timers: Timers::default(),
            observer,
            resolver: Resolver::new(wake.clone()),
            forwards: BTreeMap::new(),
            clients: Slab::new(),
            ports: Slab::new(),
            ops: BTreeMap::new(),
            asked: BTreeMap::new(),
            dirty: Dirty::default(),
            wake,
            scratch: vec![0; TURN],
            last_id: 0,
            posts_wait: false,
            closing: false,
            ended: None,
            lost: 0,
            lost_in_rings: Arc::default(),
            descriptors: Descriptors::new(),
            mapper: None,
        }
    }

    pub fn warn(&mut self, warning: Option<Error>) {
        if let Some(error) = warning {
            (self.observer)(LocalEvent::Notice(Notice::Warning(error)));
        }
    }

    /// A fresh ID for a flow that is opened here, or for a question to the machine.
    pub fn next_flow(&mut self) -> FlowId {
        self.last_id += 1;
        FlowId(self.last_id)
    }

    pub fn register(&mut self, fd: &impl AsRawFd, source: Source, interest: Interest) -> std::io::Result<Token> {
        let token = Token(self.sources.insert(source));
        let done = self.registry.register(&mut SourceFd(&fd.as_raw_fd()), token, interest);
        if done.is_err() {
            self.sources.try_remove(token.0);
        }
        done.map(|()| token)
    }

    /// Must come before the descriptor is closed. An event of this turn that still names the token finds nothing or a newer
    /// owner, for whom it is one needless attempt.
    pub fn unregister(&mut self, fd: &impl AsRawFd, token: Token) {
        let _ = self.registry.deregister(&mut SourceFd(&fd.as_raw_fd()));
        self.sources.try_remove(token.0);
    }

    /// Gives a flow its turn, once however often it is asked for.
    pub fn enqueue(&mut self, flow: FlowId) {
        let (queued, served) = match self.flows.get_mut(&flow).map(|e| &mut e.flow) {
            Some(Flow::Stream(splice, _)) => (&mut splice.queued, splice.served),
            Some(Flow::Udp(udp)) => (&mut udp.queued, 0),
            Some(Flow::Opening(_) | Flow::Dialing(_) | Flow::Port(_) | Flow::Ring(_) | Flow::Reset(..)) | None => {
                return;
            }
        };
        if !std::mem::replace(queued, true) {
            self.ready.push(Work::Flow(flow), served);
        }
    }

    /// Runs everything that is ready, one share each. `true`: the machine was fed.
    pub fn run_ready(&mut self, machine: &mut dyn Machine, now: Instant) -> bool {
        self.turn += 1;
        let mut fed = self.run_rings(machine);
        for _ in 0..self.ready.len() {
            match self.ready.pop() {
                None => break,
                Some(Work::Flow(flow)) => fed |= self.run_flow(machine, flow),
                Some(Work::Accept(forward)) => {
                    self.accept(machine, now, forward);
                    fed = true;
                }
                Some(Work::Port(port)) => {
                    self.run_port(machine, now, port);
                    fed = true;
                }
            }
        }
        fed
    }

    fn run_flow(&mut self, machine: &mut dyn Machine, flow: FlowId) -> bool {
        let (moved, turn) = match self.flows.get_mut(&flow).map(|e| &mut e.flow) {
            Some(Flow::Stream(splice, _)) => {
                splice.queued = false;
                splice.holds_end = self.posts_wait;
                let turn = splice.run(machine, flow, &mut self.scratch, self.turn);
                (splice.take_moved(), turn)
            }
            Some(Flow::Udp(udp)) => {
                udp.queued = false;
                let (moved, more) = udp.run(machine, flow, &mut self.scratch);
                (moved, if more { Turn::More } else { Turn::Idle })
            }
            Some(Flow::Opening(_) | Flow::Dialing(_) | Flow::Port(_) | Flow::Ring(_) | Flow::Reset(..)) | None => {
                return false;
            }
        };
        match turn {
            Turn::Idle => moved,
            Turn::More => {
                self.enqueue(flow);
                moved
            }
            Turn::Done => {
                self.forget(flow);
                true
            }
            Turn::Broken => {
                machine.stream_reset(flow);
                self.forget_reset(flow);
                true
            }
            Turn::Gone => {
                machine.stream_reset(flow);
                self.reset(machine, Instant::now(), flow, Error::Closed("the flow is gone".into()));
                true
            }
        }
    }

    /// Does what the machine asks.
    pub fn perform(&mut self, machine: &mut dyn Machine, sockets: &mut SocketSet, now: Instant, action: Action) {
        match action {
            Action::Dial { flow, target, info, timeout } => self.dial(machine, now, flow, target, info, timeout),
            Action::Opened { flow, info } => self.opened(machine, now, flow, info),
            Action::Failed { flow, error } => self.reset(machine, now, flow, error),
            Action::Readable(flow) => {
                if let Some(Flow::Stream(splice, _)) = self.flows.get_mut(&flow).map(|e| &mut e.flow) {
                    splice.on_gives();
                    self.enqueue(flow);
                }
            }
            Action::Writable(flow) => {
                if let Some(Flow::Stream(splice, _)) = self.flows.get_mut(&flow).map(|e| &mut e.flow) {
                    splice.on_takes();
                    self.enqueue(flow);
                }
            }
            Action::Reset { flow, error } => self.reset(machine, now, flow, error),
            Action::Ended(flow) => self.ended_by_peer(machine, now, flow),
            Action::Datagram { flow, payload } => self.deliver(now, flow, payload),
            Action::Answer { op, result } => {
                // An answer to a question that was given up has no asker.
                if let Some(op) = self.asked.remove(&op) {
                    self.ops.remove(&op);
                    (self.observer)(LocalEvent::Answer { op, result });
                }
            }
            Action::Notice(notice) => (self.observer)(LocalEvent::Notice(notice)),
            Action::OpenSockets { id, family_v4, count } => {
                self.open_sockets(machine, sockets, now, id, family_v4, count);
            }
            Action::CloseSockets { first, count } => self.close_sockets(sockets, first, count),
            Action::EnlargeSocket(index) => sockets.enlarge(index),
            Action::MapPort => self.map_port(machine, sockets, now),
            Action::End(result) => self.ended = Some(result),
        }
    }

    fn opened(&mut self, machine: &mut dyn Machine, now: Instant, flow: FlowId, info: FlowInfo) {
        if let Some(Flow::Port(_)) = self.flows.get(&flow).map(|e| &e.flow) {
            return self.port_opened(machine, now, flow);
        }
        let Some(Entry { flow: Flow::Opening(opener), forward, .. }) = self.flows.remove(&flow) else {
            // Given up while the answer was on its way.
            machine.stream_reset(flow);
            return machine.datagram_close(flow);
        };
        match opener {
            Opener::Stream(op, reply) => {
                self.ops.remove(&op);
                self.opened_stream(machine, now, flow, info, reply);
            }
            Opener::Datagram(op, reply) => {
                self.ops.remove(&op);
                self.opened_datagram(machine, flow, info, reply);
            }
            Opener::Accepted(fd, kind) => {
                if self.start_splice(flow, Splice::new(fd, kind, Vec::new(), Vec::new()), forward).is_err() {
                    machine.stream_reset(flow);
                    self.uncount(forward);
                }
            }
            Opener::Client(client) => self.client_opened(machine, flow, client),
        }
    }

    fn deliver(&mut self, now: Instant, flow: FlowId, payload: Vec<u8>) {
        match self.flows.get_mut(&flow).map(|e| &mut e.flow) {
            Some(Flow::Udp(udp)) => self.lost += u64::from(!udp.deliver(&payload)),
            Some(Flow::Ring(ring)) => ring.deliver(payload),
            Some(Flow::Dialing(dial)) => self.lost += u64::from(!dial.early.push(payload)),
            Some(Flow::Port(_)) => self.port_deliver(now, flow, &payload),
            Some(Flow::Opening(_) | Flow::Stream(..) | Flow::Reset(..)) | None => self.lost += 1,
        }
    }

    /// The flow is gone for the machine: its local side sees a reset.
    pub fn reset(&mut self, machine: &mut dyn Machine, now: Instant, flow: FlowId, error: Error) {
        let Some(entry) = self.flows.remove(&flow) else { return };
        match entry.flow {
            Flow::Opening(opener) => match opener {
                Opener::Stream(op, _) | Opener::Datagram(op, _) => {
                    self.ops.remove(&op);
                    opener.refuse(error);
                }
                Opener::Accepted(..) => opener.refuse(error),
                Opener::Client(client) => self.client_refused(machine, now, client, &error),
            },
            Flow::Dialing(dial) => self.drop_dial(flow, dial),
            Flow::Stream(splice, token) if splice.kind() == Kind::Node => {
                self.reset_node_stream(now, flow, splice, token, entry.seat, error);
            }
            Flow::Stream(splice, token) => {
                self.unregister(splice.fd(), token);
                sys::reset_on_close(splice.fd());
            }
            Flow::Udp(udp) => self.unregister(udp.socket(), udp.token),
            Flow::Port(port_flow) => self.port_flow_refused(now, port_flow, &error),
            Flow::Ring(ring) => {
                (self.observer)(LocalEvent::FlowReset { flow, error });
                ring.end();
            }
            Flow::Reset(fd, until) => {
                self.flows.insert(flow, Entry { flow: Flow::Reset(fd, until), ..entry });
                return;
            }
        }
        self.uncount(entry.forward);
    }

    /// The peer has ended a UDP flow.
    fn ended_by_peer(&mut self, machine: &mut dyn Machine, now: Instant, flow: FlowId) {
        match self.flows.get(&flow).map(|e| &e.flow) {
            Some(Flow::Ring(ring)) => {
                // First the program hears that it is no failure, then that there is an end.
                let ring = ring.clone();
                (self.observer)(LocalEvent::FlowEnded { flow });
                ring.end();
                self.forget(flow);
            }
            Some(Flow::Dialing(_) | Flow::Udp(_) | Flow::Port(_)) => self.forget(flow),
            Some(Flow::Opening(_) | Flow::Stream(..) | Flow::Reset(..)) => {
                self.reset(machine, now, flow, Error::Closed("the peer has closed the flow".into()));
            }
            None => {}
        }
    }

    /// Lets go of a flow that ended cleanly.
    pub fn forget(&mut self, flow: FlowId) {
        let Some(entry) = self.flows.remove(&flow) else { return };
        self.uncount(entry.forward);
        match entry.flow {
            Flow::Stream(splice, token) => self.unregister(splice.fd(), token),
            Flow::Udp(udp) => self.unregister(udp.socket(), udp.token),
            Flow::Dialing(dial) => self.drop_dial(flow, dial),
            Flow::Port(port_flow) => self.port_flow_gone(&port_flow),
            Flow::Opening(_) | Flow::Ring(_) | Flow::Reset(..) => {}
        }
    }

    /// Lets go of a flow whose descriptor broke: nothing that was read from it counts as ended.
    fn forget_reset(&mut self, flow: FlowId) {
        if let Some(Flow::Stream(splice, _)) = self.flows.get(&flow).map(|e| &e.flow) {
            sys::reset_on_close(splice.fd());
        }
        self.forget(flow);
    }

    pub fn uncount(&mut self, forward: Option<ForwardId>) {
        let Some(id) = forward else { return };
        if let Some(forward) = self.forwards.get_mut(&id) {
            forward.connections = forward.connections.saturating_sub(1);
        }
        self.tidy_forward(id);
    }

    /// The loop ends: every local side sees a reset, every asker an answer.
    pub fn close_all(&mut self, machine: &mut dyn Machine, now: Instant) {
        self.closing = true;
        let forwards: Vec<ForwardId> = self.forwards.keys().copied().collect();
        for id in forwards {
            self.close_forward(machine, id);
        }
        let flows: Vec<FlowId> = self.flows.keys().copied().collect();
        for flow in flows {
            self.reset(machine, now, flow, Error::Closed("the role has ended".into()));
        }
        let asked = std::mem::take(&mut self.asked);
        self.ops.clear();
        for op in asked.into_values() {
            (self.observer)(LocalEvent::Answer { op, result: Err(Error::Closed("the role has ended".into())) });
        }
    }

    /// Whether a program has yet to see a reset.
    pub fn awaits_program(&self) -> bool {
        self.flows.values().any(|e| matches!(e.flow, Flow::Reset(..)))
    }
}

impl Opener {
    /// Tells whoever waits, where it is not a proxy client: those are told in their own protocol.
    pub fn refuse(self, error: Error) {
        match self {
            Opener::Stream(_, reply) => reply(Err(error)),
            Opener::Datagram(_, reply) => reply(Err(error)),
            Opener::Accepted(fd, _) => sys::reset_on_close(&fd),
            Opener::Client(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_flow_costs_little() {
        // No buffer is held while nothing waits: this is all of it.
        assert!(size_of::<Entry>() <= 512, "{}", size_of::<Entry>());
    }
}
