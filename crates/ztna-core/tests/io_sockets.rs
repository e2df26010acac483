//! UDP sockets that a machine asks for while it runs. They are counted over the whole process, so that one test runs at a time.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test says what it expects, and is its own host and clock"
)]

use std::collections::{BTreeSet, VecDeque};
use std::net::{SocketAddr, UdpSocket};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use ztna_core::io::{Driver, Handle, Socket};
use ztna_core::role::{Action, Arrival, MORE_SOCKETS, Machine, SocketIndex, State, Transmit};
use ztna_core::trust::Snapshot;

const PATIENCE: Duration = Duration::from_secs(10);

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn sixty_four_sockets_send_and_hear_by_themselves_and_leave_no_descriptor_behind() {
    let _alone = alone();
    let echo = Echo::new();
    let toy = Toy::new();
    let before = descriptors();
    for v4 in [true, false] {
        let (first, local) = toy.open(v4, 64);
        assert_eq!((first, local.len()), (2, 64));
        assert_eq!(descriptors(), before + 64);
        let ports: BTreeSet<u16> = local.iter().map(SocketAddr::port).collect();
        assert_eq!(ports.len(), 64);
        toy.send((first..first + 64).map(|index| (index, echo.at(v4))).collect());
        let mut heard = BTreeSet::new();
        while heard.len() < 64 {
            let (index, said) = toy.arrivals.recv_timeout(PATIENCE).unwrap();
            assert_eq!(said.parse::<SocketAddr>().unwrap().port(), local[index - first].port());
            heard.insert(index);
        }
        assert_eq!(heard, (first..first + 64).collect());
        toy.act(Action::CloseSockets { first, count: 64 });
        assert_eq!(descriptors(), before);
    }
}

#[test]
fn the_socket_that_stays_keeps_its_index_and_room_and_others_come_behind_it() {
    let _alone = alone();
    let (echo, toy) = (Echo::new(), Toy::new());
    let (first, local) = toy.open(true, 10);
    toy.act(Action::EnlargeSocket(6));
    toy.act(Action::CloseSockets { first, count: 6 - first });
    toy.act(Action::CloseSockets { first: 7, count: 5 });
    // Four free ones lie before it: too few for five, enough for four.
    assert_eq!(toy.open(true, 5).0, 7);
    assert_eq!(toy.open(true, 4).0, 2);
    toy.send(vec![(6, echo.at(true))]);
    let (index, said) = toy.arrivals.recv_timeout(PATIENCE).unwrap();
    assert_eq!((index, said.parse::<SocketAddr>().unwrap().port()), (6, local[4].port()));
}

#[test]
fn what_is_sent_by_a_closed_socket_is_counted_and_the_loops_own_are_never_closed() {
    let _alone = alone();
    let (echo, toy) = (Echo::new(), Toy::new());
    let (first, _) = toy.open(true, 2);
    toy.act(Action::CloseSockets { first: 0, count: usize::MAX });
    toy.send(vec![(first, echo.at(true)), (first + 1, echo.at(true)), (0, echo.at(true)), (1, echo.at(false))]);
    let heard: BTreeSet<SocketIndex> = (0..2).map(|_| toy.arrivals.recv_timeout(PATIENCE).unwrap().0).collect();
    assert_eq!(heard, [0, 1].into());
    assert_eq!(toy.handle.call(|d| d.udp_counters().no_socket).unwrap(), 2);
}

#[test]
fn a_request_over_the_limit_is_refused_whole() {
    let _alone = alone();
    let toy = Toy::new();
    let before = descriptors();
    assert_eq!(toy.open(true, MORE_SOCKETS + 1).1, []);
    assert_eq!(toy.open(true, MORE_SOCKETS).1.len(), MORE_SOCKETS);
    assert_eq!(toy.open(true, MORE_SOCKETS).1.len(), MORE_SOCKETS);
    assert_eq!(toy.open(true, 1).1, []);
    assert_eq!(descriptors(), before + 2 * MORE_SOCKETS);
}

#[test]
fn sockets_that_would_take_more_than_half_of_the_flows_descriptors_are_refused_whole() {
    let _alone = alone();
    let toy = Toy::new();
    let before = descriptors();
    let limit = getrlimit(Resource::Nofile);
    // Of which flows leave 64 to the rest, and may take 136.
    setrlimit(Resource::Nofile, Rlimit { current: Some(200), maximum: limit.maximum }).unwrap();
    let (refused, taken) = (toy.open(true, 100).1, descriptors());
    let given = toy.open(true, 20).1;
    setrlimit(Resource::Nofile, limit).unwrap();
    assert_eq!((refused.len(), taken, given.len()), (0, before, 20));
}

/// Asks for what it is told to, and reports.
struct Machinery {
    actions: VecDeque<Action>,
    out: VecDeque<(SocketIndex, SocketAddr)>,
    opened: Sender<(u64, SocketIndex, Vec<SocketAddr>)>,
    arrivals: Sender<(SocketIndex, String)>,
}

impl Machine for Machinery {
    fn handle_packets(&mut self, _: Instant, arrival: Arrival, burst: &mut [u8]) {
        self.arrivals.send((arrival.socket, String::from_utf8(burst.to_vec()).unwrap())).unwrap();
    }
    fn handle_timeout(&mut self, _: Instant) {}
    fn poll_timeout(&mut self) -> Option<Instant> {
        None
    }
    fn process(&mut self, _: Instant) {}
    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }
    fn poll_transmit(&mut self, _: Instant, out: &mut Vec<u8>) -> Option<Transmit> {
        let (socket, to) = self.out.pop_front()?;
        out.extend_from_slice(b"?");
        Some(Transmit { socket: Some(socket), to, from: None, segment: 1 })
    }
    fn handle_snapshot(&mut self, _: Instant, _: Arc<Snapshot>) {}
    fn sockets_opened(&mut self, _: Instant, id: u64, first: SocketIndex, local: &[SocketAddr]) {
        self.opened.send((id, first, local.to_vec())).unwrap();
    }
    fn shut_down(&mut self, _: Instant, _: Duration) {
        self.actions.push_back(Action::End(Ok(())));
    }
    fn state(&self) -> State {
        State::Online
    }
}

/// A loop with an IPv4 and an IPv6 socket of its own.
struct Toy {
    handle: Handle<Machinery>,
    opened: Receiver<(u64, SocketIndex, Vec<SocketAddr>)>,
    arrivals: Receiver<(SocketIndex, String)>,
}

impl Toy {
    fn new() -> Toy {
        let own = ["127.0.0.1:0", "[::1]:0"].map(|at| Socket::bind(at.parse().unwrap(), false).unwrap());
        let (opened_tx, opened) = channel();
        let (arrivals_tx, arrivals) = channel();
        let machine =
            Machinery { actions: VecDeque::new(), out: VecDeque::new(), opened: opened_tx, arrivals: arrivals_tx };
        let handle = Driver::spawn("toy", own.into(), move || Ok(machine), Box::new(|_| {})).unwrap();
        // A first turn: the loop has all its descriptors.
        handle.call(|_| ()).unwrap();
        Toy { handle, opened, arrivals }
    }
    /// Until it is done.
    fn act(&self, action: Action) {
        self.handle.call(move |d| d.machine().actions.push_back(action)).unwrap();
        let until = Instant::now() + PATIENCE;
        while !self.handle.call(|d| d.machine().actions.is_empty()).unwrap() {
            assert!(Instant::now() < until);
        }
    }
    fn open(&self, family_v4: bool, count: usize) -> (SocketIndex, Vec<SocketAddr>) {
        self.act(Action::OpenSockets { id: 7, family_v4, count });
        let (id, first, local) = self.opened.recv_timeout(PATIENCE).unwrap();
        assert!(id == 7 && local.iter().all(|a| a.is_ipv4() == family_v4));
        (first, local)
    }
    fn send(&self, what: Vec<(SocketIndex, SocketAddr)>) {
        self.handle.post(Box::new(move |d| d.machine().out.extend(what)));
    }
}

impl Drop for Toy {
    fn drop(&mut self) {
        self.handle.post(Box::new(|d| d.shut_down(Duration::ZERO)));
        self.handle.join();
    }
}

/// Tells every sender its own address. Its threads end when they hear an empty datagram.
struct Echo {
    at: [SocketAddr; 2],
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Echo {
    fn new() -> Echo {
        let sockets = ["127.0.0.1:0", "[::1]:0"].map(|at| UdpSocket::bind(at).unwrap());
        let at = sockets.each_ref().map(|s| s.local_addr().unwrap());
        let serve = |socket: UdpSocket| {
            std::thread::spawn(move || {
                let mut room = [0; 8];
                while let Ok((1.., from)) = socket.recv_from(&mut room) {
                    socket.send_to(from.to_string().as_bytes(), from).unwrap();
                }
            })
        };
        Echo { at, threads: sockets.into_iter().map(serve).collect() }
    }
    fn at(&self, v4: bool) -> SocketAddr {
        self.at[usize::from(!v4)]
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        for (at, thread) in self.at.iter().zip(self.threads.drain(..)) {
            let from = if at.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
            UdpSocket::bind(from).unwrap().send_to(b"", at).unwrap();
            thread.join().unwrap();
        }
    }
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
