//! Flows that the embedding program holds: a descriptor for a stream, a ring for datagrams.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::descriptors::Seat;
use super::event::LocalEvent;
use super::local::{Entry, Flow, Local, Op, Opener, STREAM, Source};
use super::ring::{NodeDatagram, Ring};
use super::splice::{Kind, Splice};
use super::sys;
use super::timers::Timer;
use crate::error::Error;
use crate::id::FlowId;
use crate::role::{FlowInfo, Machine, Open};
use crate::trust::Protocol;

/// How long a reset descriptor stays open for a program that does not say `flow_done`.
const RESET_SEEN: Duration = Duration::from_secs(5);

/// A stream of the embedding program. Close the descriptor to end it; end one direction with `shutdown`.
#[derive(Debug)]
pub struct NodeStream {
    pub flow: FlowId,
    pub fd: OwnedFd,
    pub info: FlowInfo,
}

pub(super) type StreamReply = Box<dyn FnOnce(Result<NodeStream, Error>) + Send>;
pub(super) type DatagramReply = Box<dyn FnOnce(Result<NodeDatagram, Error>) + Send>;

impl Local {
    pub(super) fn open_for_program(
        &mut self,
        machine: &mut dyn Machine,
        now: Instant,
        op: u64,
        open: Open,
        opener: Opener,
    ) {
        if self.closing {
            return opener.refuse(Error::Closed("the role is closing".into()));
        }
        if self.ops.contains_key(&op) {
            return opener.refuse(Error::config("op", format!("operation {op} is in use")));
        }
        let flow = self.next_flow();
        self.ops.insert(op, Op::Open(flow));
        self.flows.insert(flow, Entry { flow: Flow::Opening(opener), forward: None, seat: None });
        machine.open(now, flow, open);
    }

    /// A question's ID for the machine. `None`: it was answered here, with an error.
    pub(super) fn ask(&mut self, op: u64) -> Option<u64> {
        let refused = if self.closing {
            Some(Error::Closed("the role is closing".into()))
        } else {
            self.ops.contains_key(&op).then(|| Error::config("op", format!("operation {op} is in use")))
        };
        if let Some(error) = refused {
            (self.observer)(LocalEvent::Answer { op, result: Err(error) });
            return None;
        }
        let id = self.next_flow().0;
        self.ops.insert(op, Op::Ask(id));
        self.asked.insert(id, op);
        Some(id)
    }

    /// The caller gave up: its answer is `Aborted`, now.
    pub(super) fn cancel(&mut self, machine: &mut dyn Machine, now: Instant, op: u64) {
        match self.ops.remove(&op) {
            None => {}
            Some(Op::Ask(id)) => {
                self.asked.remove(&id);
                machine.cancel_op(now, id);
                (self.observer)(LocalEvent::Answer { op, result: Err(Error::Aborted) });
            }
            Some(Op::Open(flow)) => {
                machine.cancel_op(now, flow.0);
                if let Some(Entry { flow: Flow::Opening(opener), .. }) = self.flows.remove(&flow) {
                    opener.refuse(Error::Aborted);
                }
            }
        }
    }

    /// `Action::Opened` of a stream of the program.
    pub(super) fn opened_stream(
        &mut self,
        machine: &mut dyn Machine,
        now: Instant,
        flow: FlowId,
        info: FlowInfo,
        reply: StreamReply,
    ) {
        match self.node_stream(flow) {
            Ok(fd) => reply(Ok(NodeStream { flow, fd, info })),
            Err(e) => {
                let warning = self.descriptors.refuse(now);
                self.warn(warning);
                machine.stream_reset(flow);
                reply(Err(e));
            }
        }
    }

    /// `Action::Opened` of a UDP flow of the program.
    pub(super) fn opened_datagram(
        &mut self,
        machine: &mut dyn Machine,
        flow: FlowId,
        info: FlowInfo,
        reply: DatagramReply,
    ) {
        let ring = self.node_ring(machine, flow);
        reply(Ok(NodeDatagram::new(flow, info, ring)));
    }

    /// `Action::Dial` to a handler of the program.
    pub(super) fn incoming(
        &mut self,
        machine: &mut dyn Machine,
        now: Instant,
        flow: FlowId,
        serve: u64,
        info: FlowInfo,
        seat: Option<Seat>,
    ) {
        let event = if info.protocol == Protocol::Udp {
            let ring = self.node_ring(machine, flow);
            LocalEvent::IncomingDatagram {
                flow,
                serve,
                info: info.clone(),
                datagram: NodeDatagram::new(flow, info, ring),
            }
        } else {
            match self.node_stream(flow) {
                Ok(fd) => LocalEvent::Incoming { flow, serve, info, fd },
                Err(e) => {
                    let warning = self.descriptors.refuse(now);
                    self.warn(warning);
                    return machine.flow_failed(now, flow, e);
                }
            }
        };
        if let Some(entry) = self.flows.get_mut(&flow) {
            entry.seat = seat;
        }
        machine.flow_connected(now, flow);
        (self.observer)(event);
    }

    /// Makes the pair, keeps one end and returns the other.
    fn node_stream(&mut self, flow: FlowId) -> Result<OwnedFd, Error> {
        let (ours, theirs) = sys::pair()?;
        self.start_splice(flow, Splice::new(ours, Kind::Node, Vec::new(), Vec::new()), None)
            .map_err(|e| Error::Limit(format!("no room to watch a descriptor: {e}")))?;
        Ok(theirs)
    }

    fn node_ring(&mut self, machine: &mut dyn Machine, flow: FlowId) -> std::sync::Arc<Ring> {
        let ring = Ring::new(
            flow,
            machine.datagram_max(flow),
            self.lost_in_rings.clone(),
            self.dirty.clone(),
            self.wake.clone(),
        );
        self.flows.insert(flow, Entry { flow: Flow::Ring(ring.clone()), forward: None, seat: None });
        ring
    }

    /// Sends what programs have queued. `true`: the machine was fed.
    pub(super) fn run_rings(&mut self, machine: &mut dyn Machine) -> bool {
        let mut fed = false;
        loop {
            let next = super::handle::lock(&self.dirty).pop_front();
            let Some(flow) = next else { return fed };
            let Some(Flow::Ring(ring)) = self.flows.get(&flow).map(|e| &e.flow) else { continue };
            // Looked at first: what was queued before the close is sent.
            let closed = ring.is_closed();
            fed = true;
            for payload in ring.take() {
                if !machine.datagram_write(flow, &payload) {
                    ring.count_dropped();
                }
            }
            ring.set_max(machine.datagram_max(flow));
            if closed {
                self.flows.remove(&flow);
                machine.datagram_close(flow);
            }
        }
    }

    /// Tells the program of a reset and keeps the descriptor until it has seen it.
    pub(super) fn reset_node_stream(
        &mut self,
        now: Instant,
        flow: FlowId,
        splice: Splice,
        token: mio::Token,
        seat: Option<Seat>,
        error: Error,
    ) {
        self.unregister(splice.fd(), token);
        let until = now + RESET_SEEN;
        self.timers.set(until, Timer::NodeReset(flow));
        self.flows.insert(flow, Entry { flow: Flow::Reset(splice.into_fd(), until), forward: None, seat });
        (self.observer)(LocalEvent::FlowReset { flow, error });
    }

    /// The program has seen the reset and closed its end, or has had its time.
    pub(super) fn reset_seen(&mut self, flow: FlowId) {
        if let Some(Entry { flow: Flow::Reset(_, until), .. }) = self.flows.get(&flow) {
            self.timers.clear(*until, Timer::NodeReset(flow));
            self.flows.remove(&flow);
        }
    }

    /// The program resets one of its flows.
    pub(super) fn reset_by_program(&mut self, machine: &mut dyn Machine, flow: FlowId) {
        match self.flows.get(&flow).map(|e| &e.flow) {
            Some(Flow::Stream(splice, _)) if splice.kind() == Kind::Node => {
                machine.stream_reset(flow);
                self.forget(flow);
            }
            Some(Flow::Ring(ring)) => {
                ring.end();
                machine.datagram_close(flow);
                self.forget(flow);
            }
            Some(_) | None => {}
        }
    }

    pub(super) fn start_splice(
        &mut self,
        flow: FlowId,
        splice: Splice,
        forward: Option<super::listener::ForwardId>,
    ) -> std::io::Result<()> {
        let token = self.register(splice.fd(), Source::Flow(flow), STREAM)?;
        self.flows.insert(flow, Entry { flow: Flow::Stream(splice, token), forward, seat: None });
        self.enqueue(flow);
        Ok(())
    }
}
