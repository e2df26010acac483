//! Work that is ready, in the order in which it gets its turn.
//!
//! The flows of one inner connection share its congestion window. An acknowledgement opens that a little, and who comes first may
//! take all of it. So those come first who lately took least: a flow that sends now and then before one that has more than its
//! share took, and among the latter the one that was served longest ago (the sparse flows of RFC 8290).

use std::collections::BTreeMap;

use super::listener::ForwardId;
use crate::id::FlowId;

/// Work that waits for its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Flow(FlowId),
    Accept(ForwardId),
    Port(usize),
}

/// The number of a loop's turn. 0 comes before all of them.
pub(super) type TurnNumber = u64;

#[derive(Debug, Default)]
pub(super) struct Ready {
    /// By when it was last served and left with a backlog, then in order of arrival.
    work: BTreeMap<(TurnNumber, u64), Work>,
    arrivals: u64,
}

impl Ready {
    /// Adds work that is not waiting already. `served`: the turn that last ended with more left to do than was done, else 0.
    pub fn push(&mut self, work: Work, served: TurnNumber) {
        self.arrivals += 1;
        self.work.insert((served, self.arrivals), work);
    }

    pub fn pop(&mut self) -> Option<Work> {
        self.work.pop_first().map(|(_, work)| work)
    }

    pub fn len(&self) -> usize {
        self.work.len()
    }

    pub fn is_empty(&self) -> bool {
        self.work.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::super::handle::Wake;
    use super::super::local::Local;
    use super::super::splice::{Kind, Splice};
    use super::super::sys;
    use super::*;
    use crate::quic::Wrote;
    use crate::role::{Action, Arrival, Machine, Read, State, Transmit};
    use crate::trust::Snapshot;

    #[test]
    fn who_has_no_backlog_goes_first_and_then_who_was_served_longest_ago() {
        let mut ready = Ready::default();
        let flow = |n| Work::Flow(FlowId(n));
        ready.push(flow(1), 7);
        ready.push(flow(2), 6);
        ready.push(flow(3), 0);
        ready.push(Work::Port(0), 0);
        ready.push(flow(4), 7);
        let order: Vec<Work> = std::iter::from_fn(|| ready.pop()).collect();
        assert_eq!(order, [flow(3), Work::Port(0), flow(2), flow(1), flow(4)]);
    }

    #[test]
    fn a_flow_with_one_byte_is_not_starved_by_one_that_takes_the_whole_window() {
        let poll = mio::Poll::new().expect("a poll");
        let registry = poll.registry().try_clone().expect("its registry");
        let wake = Wake::new(mio::Waker::new(poll.registry(), mio::Token(0)).expect("a waker"));
        let mut local = Local::new(registry, wake, Box::new(|_| {}));
        let mut window = Window::default();
        let mut sockets = super::super::udp::SocketSet::new(super::super::host::Host::System, Vec::new());
        let (bulk, sparse) = (FlowId(1), FlowId(2));
        let fill = |local: &mut Local, flow, bytes: usize| {
            let (ours, theirs) = sys::pair().expect("a pair");
            local.start_splice(flow, Splice::new(ours, Kind::Node, Vec::new(), Vec::new()), None).expect("watched");
            sys::write(&theirs, &vec![0; bytes]).expect("room in the socket");
            theirs
        };
        let _bulk_end = fill(&mut local, bulk, 100_000);
        window.left = 10_000;
        local.run_ready(&mut window, Instant::now());
        // The window is full when the other flow comes; then both hear at once, the bulk flow first, that it has opened.
        let _sparse_end = fill(&mut local, sparse, 1);
        local.run_ready(&mut window, Instant::now());
        window.left = 10_000;
        local.perform(&mut window, &mut sockets, Instant::now(), Action::Writable(bulk));
        local.perform(&mut window, &mut sockets, Instant::now(), Action::Writable(sparse));
        local.run_ready(&mut window, Instant::now());
        assert_eq!(window.taken, [(bulk, 10_000), (sparse, 1), (bulk, 9_999)]);
    }

    /// Takes from all flows together what is left of a window.
    #[derive(Default)]
    struct Window {
        left: usize,
        taken: Vec<(FlowId, usize)>,
    }

    impl Machine for Window {
        fn handle_packets(&mut self, _: Instant, _: Arrival, _: &mut [u8]) {}
        fn handle_timeout(&mut self, _: Instant) {}
        fn poll_timeout(&mut self) -> Option<Instant> {
            None
        }
        fn process(&mut self, _: Instant) {}
        fn poll_action(&mut self) -> Option<Action> {
            None
        }
        fn poll_transmit(&mut self, _: Instant, _: &mut Vec<u8>) -> Option<Transmit> {
            None
        }
        fn handle_snapshot(&mut self, _: Instant, _: Arc<Snapshot>) {}
        fn shut_down(&mut self, _: Instant, _: Duration) {}
        fn state(&self) -> State {
            State::Online
        }
        fn stream_read(&mut self, _: FlowId, _: &mut [u8]) -> Read {
            Read::Blocked
        }
        fn stream_capacity(&mut self, _: FlowId) -> usize {
            self.left
        }
        fn stream_write(&mut self, flow: FlowId, data: &[u8], _: bool) -> Wrote {
            self.left -= data.len();
            self.taken.push((flow, data.len()));
            Wrote::Bytes(data.len())
        }
    }
}
