//! A loop on a virtual host: what it sends and receives goes by the host's ports, and the host's addresses are those it knows.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test says what it expects")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a test has a clock and sockets")]

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ztna_core::FlowId;
use ztna_core::interface::{Interface, InterfaceKind};
use ztna_core::io::{Driver, Host, Received, VirtualHost, VirtualPort};
use ztna_core::quic::Wrote;
use ztna_core::role::*;
use ztna_core::trust::Snapshot;

const PEER: &str = "192.0.2.1:7";
const OWN: &str = "192.0.2.2";
const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn bursts_come_and_go_by_the_ports_of_the_host() {
    let (host, seen) = start();
    host.arrive(0, 250, 100);
    assert_eq!(burst(&seen), Seen::Burst(0, 250, 100, PEER.parse().unwrap()));
    // The machine sends back what it got.
    host.wait(|state| state.sent == [(PEER.parse().unwrap(), 100, 250)]);
    host.arrive(0, 60, 60);
    assert_eq!(burst(&seen), Seen::Burst(0, 60, 60, PEER.parse().unwrap()));
}

#[test]
fn the_machine_hears_of_the_hosts_addresses_and_of_their_changes_and_of_no_others() {
    let (host, seen) = start();
    assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), Seen::Interfaces(vec![OWN.parse().unwrap()]));
    let moved: IpAddr = "203.0.113.9".parse().unwrap();
    host.0.lock().unwrap().addresses = vec![moved];
    host.0.lock().unwrap().watcher.as_ref().unwrap().send(&[1]).unwrap();
    assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), Seen::Interfaces(vec![moved]));
}

#[test]
fn sockets_that_a_machine_asks_for_are_the_hosts_too() {
    let (host, seen) = start();
    host.arrive(0, 1, 1);
    assert_eq!(burst(&seen), Seen::Burst(0, 1, 1, PEER.parse().unwrap()));
    host.wait(|state| state.ports.len() == 3);
    host.arrive(2, 9, 9);
    assert_eq!(burst(&seen), Seen::Burst(2, 9, 9, PEER.parse().unwrap()));
}

#[derive(Debug, PartialEq)]
enum Seen {
    Interfaces(Vec<IpAddr>),
    Burst(SocketIndex, usize, usize, SocketAddr),
}

/// A loop with one socket on a host whose ports the test plays.
fn start() -> (Toy, Receiver<Seen>) {
    let toy = Toy(Arc::new(Mutex::new(Played { addresses: vec![OWN.parse().unwrap()], ..Played::default() })));
    let host = Host::Virtual(Arc::new(toy.clone()));
    let socket = host.bind(SocketAddr::from(([0, 0, 0, 0], 0)), false).unwrap();
    let (tx, rx) = channel();
    let machine = Echo { seen: tx, out: VecDeque::new(), asked: false, actions: VecDeque::new() };
    // It runs for as long as the process does.
    Driver::spawn_on(host, "virtual", vec![socket], move || Ok(machine), Box::new(|_| {})).unwrap();
    (toy, rx)
}

/// The next burst that the machine gets.
fn burst(seen: &Receiver<Seen>) -> Seen {
    loop {
        match seen.recv_timeout(PATIENCE).unwrap() {
            Seen::Interfaces(_) => {}
            burst @ Seen::Burst(..) => return burst,
        }
    }
}

#[derive(Clone)]
struct Toy(Arc<Mutex<Played>>);

#[derive(Default)]
struct Played {
    addresses: Vec<IpAddr>,
    watcher: Option<UnixDatagram>,
    /// Of each port what waits, and its bell.
    ports: Vec<(VecDeque<(usize, usize)>, UnixDatagram)>,
    sent: Vec<(SocketAddr, usize, usize)>,
}

impl Toy {
    fn arrive(&self, port: usize, len: usize, stride: usize) {
        let mut state = self.0.lock().unwrap();
        state.ports[port].0.push_back((len, stride));
        state.ports[port].1.send(&[1]).unwrap();
    }

    fn wait(&self, done: impl Fn(&Played) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !done(&self.0.lock().unwrap()) {
            assert!(Instant::now() < until, "sent: {:?}", self.0.lock().unwrap().sent);
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl VirtualHost for Toy {
    fn bind(&self, address: SocketAddr) -> io::Result<Box<dyn VirtualPort>> {
        let (bell, ready) = UnixDatagram::pair()?;
        ready.set_nonblocking(true)?;
        let mut state = self.0.lock().unwrap();
        state.ports.push((VecDeque::new(), bell));
        let local = SocketAddr::new(address.ip(), 50_000 + state.ports.len() as u16);
        Ok(Box::new(ToyPort { toy: self.clone(), index: state.ports.len() - 1, local, ready }))
    }

    fn interfaces(&self) -> io::Result<Vec<Interface>> {
        let interface = |address: &IpAddr| Interface {
            index: 1,
            name: "toy0".into(),
            address: *address,
            prefix_len: 24,
            scope_id: 0,
            kind: InterfaceKind::Ordinary,
            temporary: false,
            deprecated: false,
        };
        Ok(self.0.lock().unwrap().addresses.iter().map(interface).collect())
    }

    fn changes(&self) -> io::Result<OwnedFd> {
        let (ours, theirs) = UnixDatagram::pair()?;
        theirs.set_nonblocking(true)?;
        self.0.lock().unwrap().watcher = Some(ours);
        Ok(theirs.into())
    }
}

struct ToyPort {
    toy: Toy,
    index: usize,
    local: SocketAddr,
    ready: UnixDatagram,
}

impl VirtualPort for ToyPort {
    fn local_addr(&self) -> SocketAddr {
        self.local
    }

    fn send(&mut self, _: Option<IpAddr>, to: SocketAddr, segment: usize, burst: &[u8]) -> u64 {
        self.toy.0.lock().unwrap().sent.push((to, segment, burst.len()));
        0
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Received> {
        let mut state = self.toy.0.lock().unwrap();
        let Some((len, stride)) = state.ports[self.index].0.pop_front() else {
            while self.ready.recv(&mut [0; 8]).is_ok() {}
            return Err(io::ErrorKind::WouldBlock.into());
        };
        buffer[..len].fill(7);
        Ok(Received { len, stride, from: PEER.parse().unwrap(), to: OWN.parse().unwrap() })
    }
}

impl AsRawFd for ToyPort {
    fn as_raw_fd(&self) -> RawFd {
        self.ready.as_raw_fd()
    }
}

/// Sends back what it gets, and asks for two sockets when it gets a datagram of one byte.
struct Echo {
    seen: Sender<Seen>,
    out: VecDeque<(Vec<u8>, Transmit)>,
    asked: bool,
    actions: VecDeque<Action>,
}

impl Machine for Echo {
    fn handle_packets(&mut self, _: Instant, arrival: Arrival, burst: &mut [u8]) {
        assert_eq!(arrival.to, Some(OWN.parse().unwrap()));
        self.seen.send(Seen::Burst(arrival.socket, burst.len(), arrival.stride, arrival.from)).unwrap();
        let transmit = Transmit { socket: None, to: arrival.from, from: None, segment: arrival.stride };
        self.out.push_back((burst.to_vec(), transmit));
        if burst.len() == 1 && !self.asked {
            self.asked = true;
            self.actions.push_back(Action::OpenSockets { id: 1, family_v4: true, count: 2 });
        }
    }
    fn handle_interfaces(&mut self, _: Instant, interfaces: &[Interface]) {
        self.seen.send(Seen::Interfaces(interfaces.iter().map(|i| i.address).collect())).unwrap();
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
        let (burst, transmit) = self.out.pop_front()?;
        out.extend_from_slice(&burst);
        Some(transmit)
    }
    fn handle_snapshot(&mut self, _: Instant, _: Arc<Snapshot>) {}
    fn shut_down(&mut self, _: Instant, _: Duration) {}
    fn state(&self) -> ztna_core::role::State {
        ztna_core::role::State::Online
    }
    fn stream_read(&mut self, _: FlowId, _: &mut [u8]) -> Read {
        Read::Blocked
    }
    fn stream_capacity(&mut self, _: FlowId) -> usize {
        0
    }
    fn stream_write(&mut self, _: FlowId, _: &[u8], _: bool) -> Wrote {
        Wrote::Bytes(0)
    }
}
