//! The UDP sockets of a loop: bursts out, bursts in.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test says what it expects, and is its own host and clock"
)]

#[path = "io_support/namespace.rs"]
mod namespace;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

#[cfg(target_os = "linux")]
use namespace::{in_a_namespace, ip};
use ztna_core::interface::{Interface, InterfaceKind};
use ztna_core::io::{Driver, Handle, Socket};
use ztna_core::role::{Action, Arrival, Machine, State, Transmit};
use ztna_core::trust::Snapshot;

const PATIENCE: Duration = Duration::from_secs(10);

type Burst = (Transmit, Vec<u8>);

/// What the loop tells of its host.
#[derive(Debug, Clone, PartialEq)]
enum Told {
    Sockets(Vec<SocketAddr>),
    Interfaces(Vec<Interface>),
    Change,
}

/// Sends what it is given and reports each datagram that arrives; a timer reports when it fired.
struct Wire {
    out: VecDeque<Burst>,
    got: Sender<(Arrival, Vec<u8>)>,
    /// Where all that arrives goes on to, unfed.
    pass: Option<SocketAddr>,
    timer: Option<Instant>,
    fired: Arc<Mutex<Vec<Instant>>>,
    told: Arc<Mutex<Vec<Told>>>,
    end: bool,
}

impl Machine for Wire {
    fn pass_on(&mut self, arrival: Arrival, burst: &[u8]) -> Option<Transmit> {
        let to = self.pass?;
        Some(Transmit { socket: Some(0), to, from: None, segment: arrival.stride.min(burst.len()) })
    }
    fn handle_packets(&mut self, _: Instant, arrival: Arrival, burst: &mut [u8]) {
        for datagram in burst.chunks(arrival.stride) {
            self.got.send((arrival, datagram.to_vec())).unwrap();
        }
    }
    fn handle_timeout(&mut self, now: Instant) {
        self.timer = None;
        self.fired.lock().unwrap().push(now);
    }
    fn poll_timeout(&mut self) -> Option<Instant> {
        self.timer
    }
    fn process(&mut self, _: Instant) {}
    fn poll_action(&mut self) -> Option<Action> {
        std::mem::take(&mut self.end).then_some(Action::End(Ok(())))
    }
    fn poll_transmit(&mut self, _: Instant, out: &mut Vec<u8>) -> Option<Transmit> {
        let (transmit, bytes) = self.out.pop_front()?;
        out.extend_from_slice(&bytes);
        Some(transmit)
    }
    fn handle_snapshot(&mut self, _: Instant, _: Arc<Snapshot>) {}
    fn handle_sockets(&mut self, _: Instant, local: &[SocketAddr]) {
        self.told.lock().unwrap().push(Told::Sockets(local.to_vec()));
    }
    fn handle_interfaces(&mut self, _: Instant, interfaces: &[Interface]) {
        self.told.lock().unwrap().push(Told::Interfaces(interfaces.to_vec()));
    }
    fn handle_network_change(&mut self, _: Instant) {
        self.told.lock().unwrap().push(Told::Change);
    }
    fn shut_down(&mut self, _: Instant, _: Duration) {
        self.end = true;
    }
    fn state(&self) -> State {
        State::Online
    }
}

struct Node {
    handle: Handle<Wire>,
    address: SocketAddr,
    /// Of all its sockets.
    addresses: Vec<SocketAddr>,
    got: Receiver<(Arrival, Vec<u8>)>,
    fired: Arc<Mutex<Vec<Instant>>>,
    told: Arc<Mutex<Vec<Told>>>,
}

impl Node {
    fn new(binds: &[&str]) -> Node {
        let bind = |a: &&str| Socket::bind(a.parse().unwrap(), false).unwrap();
        Node::on(binds.iter().map(bind).collect())
    }
    fn on(sockets: Vec<Socket>) -> Node {
        let addresses: Vec<SocketAddr> = sockets.iter().map(Socket::local_addr).collect();
        let (tx, got) = channel();
        let fired = Arc::<Mutex<Vec<Instant>>>::default();
        let told = Arc::<Mutex<Vec<Told>>>::default();
        let machine = Wire {
            out: VecDeque::new(),
            pass: None,
            got: tx,
            timer: None,
            fired: fired.clone(),
            told: told.clone(),
            end: false,
        };
        let handle = Driver::spawn("wire", sockets, move || Ok(machine), Box::new(|_| {})).unwrap();
        Node { handle, address: addresses[0], addresses, got, fired, told }
    }
    fn send(&self, bursts: Vec<Burst>) {
        self.handle.post(Box::new(move |d| d.machine().out.extend(bursts)));
    }
    fn next(&self) -> (Arrival, Vec<u8>) {
        self.got.recv_timeout(PATIENCE).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.handle.post(Box::new(|d| d.shut_down(Duration::ZERO)));
        self.handle.join();
    }
}

fn burst(to: SocketAddr, segment: usize, bytes: Vec<u8>) -> Burst {
    (Transmit { socket: None, to, from: None, segment }, bytes)
}

#[test]
fn a_burst_arrives_as_the_datagrams_that_it_was_cut_into() {
    let (a, b) = (Node::new(&["127.0.0.1:0"]), Node::new(&["127.0.0.1:0"]));
    let bytes: Vec<u8> = (0..64 * 1_000 - 300).map(|i| (i % 249) as u8).collect();
    a.send(vec![burst(b.address, 1_000, bytes.clone()), burst(b.address, 1_000, b"alone".to_vec())]);
    for expected in bytes.chunks(1_000) {
        let (arrival, datagram) = b.next();
        assert!(datagram == expected);
        assert_eq!((arrival.from, arrival.to), (a.address, Some(b.address.ip())));
    }
    assert_eq!(b.next().1, b"alone");
}

#[test]
fn far_more_than_the_kernels_buffer_holds_is_sent_in_order_and_nothing_is_skipped() {
    let (a, b) = (Node::new(&["127.0.0.1:0"]), Node::new(&["127.0.0.1:0"]));
    const BURSTS: u32 = 3_000;
    let bursts = (0..BURSTS).map(|i| burst(b.address, 1_200, i.to_be_bytes().repeat(300 * 40))).collect();
    a.send(bursts);
    let counters = || a.handle.call(|d| d.udp_counters()).unwrap();
    let until = Instant::now() + PATIENCE;
    while counters().bytes_sent < u64::from(BURSTS) * 48_000 {
        assert!(Instant::now() < until, "{:?}", counters());
        std::thread::sleep(Duration::from_millis(10));
    }
    // Loopback loses what the receiver has no room for; what arrives is in order.
    let mut last = 0;
    let mut seen = 0;
    while let Ok((_, datagram)) = b.got.recv_timeout(Duration::from_millis(300)) {
        let n = u32::from_be_bytes(datagram[..4].try_into().unwrap());
        assert!(n >= last && datagram.len() == 1_200);
        last = n;
        seen += 1;
    }
    assert!(seen > 1_000 && counters().refused == 0 && counters().too_large == 0);
}

#[test]
fn a_burst_that_passes_arrives_as_it_came_and_is_not_fed() {
    let [a, between, b] = std::array::from_fn(|_| Node::new(&["127.0.0.1:0"]));
    let to = b.address;
    between.handle.call(move |d| d.machine().pass = Some(to)).unwrap();
    let bytes: Vec<u8> = (0..40 * 1_000 - 300).map(|i| (i % 249) as u8).collect();
    a.send(vec![burst(between.address, 1_000, bytes.clone()), burst(between.address, 1_000, b"alone".to_vec())]);
    for expected in bytes.chunks(1_000) {
        let (arrival, datagram) = b.next();
        assert!(datagram == expected && arrival.from == between.address);
    }
    assert_eq!(b.next().1, b"alone");
    assert!(between.got.try_recv().is_err());
}

#[test]
fn bursts_that_pass_wait_for_a_full_kernel_buffer_in_order() {
    let [a, between, b] = std::array::from_fn(|_| Node::new(&["127.0.0.1:0"]));
    let to = b.address;
    between.handle.call(move |d| d.machine().pass = Some(to)).unwrap();
    a.send((0..2_000u32).map(|i| burst(between.address, 1_200, i.to_be_bytes().repeat(300 * 40))).collect());
    let (mut last, mut seen) = (0, 0);
    while let Ok((_, datagram)) = b.got.recv_timeout(Duration::from_secs(1)) {
        let n = u32::from_be_bytes(datagram[..4].try_into().unwrap());
        assert!(n >= last && datagram.len() == 1_200);
        (last, seen) = (n, seen + 1);
    }
    let counters = between.handle.call(|d| d.udp_counters()).unwrap();
    assert!(seen > 1_000 && counters.refused == 0 && counters.too_large == 0, "{seen} {counters:?}");
}

#[test]
fn a_port_that_another_group_shares_is_not_joined() {
    let first = Socket::claim("127.0.0.1:0".parse().unwrap()).unwrap();
    let second = Socket::bind(first.local_addr(), true).unwrap();
    let error = Socket::claim(second.local_addr()).err().unwrap().to_string();
    assert!(error.contains("in use"), "{error}");
}

#[test]
fn the_socket_of_the_destinations_family_is_used() {
    let a = Node::new(&["127.0.0.1:0", "[::1]:0"]);
    let b = Node::new(&["[::1]:0"]);
    a.send(vec![burst(b.address, 100, vec![1; 100])]);
    assert!(b.next().0.from.is_ipv6());
    let c = Node::new(&["127.0.0.1:0"]);
    c.send(vec![burst(b.address, 100, vec![1; 100])]);
    let until = Instant::now() + PATIENCE;
    while c.handle.call(|d| d.udp_counters().no_socket).unwrap() == 0 {
        assert!(Instant::now() < until);
    }
}

#[test]
fn what_can_not_be_sent_is_counted_and_harms_nothing_that_follows() {
    let (a, b) = (Node::new(&["127.0.0.1:0"]), Node::new(&["127.0.0.1:0"]));
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let broadcast = "255.255.255.255:9".parse().unwrap();
    let good = |n: u8| burst(b.address, 1_000, vec![n; 10_000]);
    a.send(vec![
        good(1),
        burst(nobody, 1_000, vec![0; 10_000]),
        burst(broadcast, 1_000, vec![0; 10_000]),
        good(2),
        // Larger than any datagram.
        burst(b.address, 65_530, vec![0; 65_530]),
        good(3),
    ]);
    for n in 1..=3u8 {
        for _ in 0..10 {
            assert_eq!(b.next().1, vec![n; 1_000]);
        }
    }
    let counters = a.handle.call(|d| d.udp_counters()).unwrap();
    assert_eq!((counters.too_large, counters.refused), (1, 10));
}

#[test]
fn without_segmentation_offload_each_datagram_is_sent_by_itself() {
    let mut socket = Socket::bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
    socket.set_segmentation_offload(false);
    let (a, b) = (Node::on(vec![socket]), Node::new(&["127.0.0.1:0"]));
    a.send(vec![burst(b.address, 1_000, vec![1; 9_500])]);
    for len in [1_000; 9].into_iter().chain([500]) {
        assert_eq!(b.next().1, vec![1; len]);
    }
    let counters = a.handle.call(|d| d.udp_counters()).unwrap();
    assert_eq!((counters.bursts_sent, counters.bytes_sent), (10, 9_500));
}

#[test]
fn a_timer_fires_once_and_never_before_its_time() {
    let a = Node::new(&["127.0.0.1:0"]);
    let (tx, rx) = channel();
    a.handle.post(Box::new(move |d| {
        let at = Instant::now() + Duration::from_micros(50_300);
        d.machine().timer = Some(at);
        tx.send(at).unwrap();
    }));
    let at = rx.recv().unwrap();
    while a.fired.lock().unwrap().is_empty() {
        assert!(Instant::now() < at + PATIENCE);
        std::thread::sleep(Duration::from_millis(5));
    }
    let fired = a.fired.lock().unwrap().clone();
    assert_eq!(fired.len(), 1);
    assert!(fired[0] >= at);
}

#[test]
fn loops_share_a_port_only_when_each_asks_for_it() {
    let first = Socket::bind("127.0.0.1:0".parse().unwrap(), true).unwrap();
    assert!(Socket::bind(first.local_addr(), true).is_ok());
    let alone = Socket::bind(first.local_addr(), false);
    assert!(alone.err().unwrap().to_string().contains(&first.local_addr().to_string()));
}

#[cfg(target_os = "linux")]
#[test]
fn a_burst_too_large_for_the_route_does_not_switch_segmentation_off() {
    in_a_namespace(|| {
        ip(&["link", "set", "lo", "mtu", "1280"]);
        let (a, b) = (Node::new(&["127.0.0.1:0"]), Node::new(&["127.0.0.1:0"]));
        a.send(vec![burst(b.address, 1_360, vec![0; 13_600]), burst(b.address, 1_200, vec![1; 12_000])]);
        for _ in 0..10 {
            assert_eq!(b.next().1, vec![1; 1_200]);
        }
        let counters = a.handle.call(|d| d.udp_counters()).unwrap();
        assert_eq!((counters.too_large, counters.bursts_sent, counters.bytes_sent), (10, 1, 12_000));
    });
}

#[cfg(target_os = "linux")]
#[test]
fn changes_of_the_hosts_addresses_are_told_once_for_a_swarm() {
    in_a_namespace(|| {
        let a = Node::new(&["127.0.0.1:0"]);
        std::thread::sleep(Duration::from_millis(300));
        a.told.lock().unwrap().clear();
        let batch = "printf 'address add 192.0.2.1/32 dev lo\naddress add 192.0.2.2/32 dev lo\n' | ip -batch -";
        assert!(std::process::Command::new("sh").args(["-c", batch]).status().unwrap().success());
        std::thread::sleep(Duration::from_millis(500));
        let told = a.told.lock().unwrap();
        let [Told::Interfaces(all), Told::Change] = &told[..] else { panic!("{told:?}") };
        assert!(
            ["192.0.2.1", "192.0.2.2"].iter().all(|a| all.iter().any(|i| i.address == a.parse::<IpAddr>().unwrap()))
        );
    });
}

#[test]
fn a_machine_first_hears_of_its_sockets_and_of_the_hosts_interfaces() {
    let a = Node::new(&["127.0.0.1:0", "[::1]:0"]);
    a.handle.call(|_| ()).unwrap();
    let told = a.told.lock().unwrap();
    let [Told::Sockets(sockets), Told::Interfaces(all), ..] = &told[..] else { panic!("{told:?}") };
    assert_eq!(sockets, &a.addresses);
    assert!(all.iter().any(|i| i.kind == InterfaceKind::Loopback));
}

#[cfg(target_os = "linux")]
#[test]
fn a_wildcard_socket_sends_from_the_address_that_it_is_told_and_tells_which_was_used() {
    in_a_namespace(|| {
        for address in
            ["192.0.2.1/32", "192.0.2.2/32", "2001:db8::1/128", "2001:db8::2/128", "fe80::1/64", "fe80::2/64"]
        {
            ip(&["address", "add", address, "dev", "lo"]);
        }
        let wildcards = ["0.0.0.0:0", "[::]:0"];
        let (a, b) = (Node::new(&wildcards), Node::new(&wildcards));
        for (to, from, scope) in
            [("192.0.2.1", "192.0.2.2", ""), ("2001:db8::1", "2001:db8::2", ""), ("fe80::1", "fe80::2", "%1")]
        {
            let (to, from): (IpAddr, IpAddr) = (to.parse().unwrap(), from.parse().unwrap());
            let index = usize::from(to.is_ipv6());
            let port = |node: &Node| node.addresses[index].port();
            let place: SocketAddr = match to {
                IpAddr::V4(to) => SocketAddr::new(to.into(), port(&b)),
                IpAddr::V6(to) => format!("[{to}{scope}]:{}", port(&b)).parse().unwrap(),
            };
            let from_first = |to, segment, bytes: Vec<u8>, from| (Transmit { socket: None, to, from, segment }, bytes);
            a.send(vec![from_first(place, 100, vec![1; 300], Some(from))]);
            for _ in 0..3 {
                let (arrival, datagram) = b.next();
                assert_eq!(datagram, [1; 100]);
                assert_eq!((arrival.socket, arrival.from.ip(), arrival.from.port()), (index, from, port(&a)));
                assert_eq!(arrival.to, Some(to));
                // Back to where it came from, zone included, and from where it came to.
                b.send(vec![from_first(arrival.from, 10, vec![2; 10], arrival.to)]);
                let (answer, _) = a.next();
                assert_eq!((answer.from.ip(), answer.to), (to, Some(from)));
            }
        }
    });
}
