//! UDP forwards, SOCKS5 and HTTP CONNECT, from hand-written clients and from curl.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test says what it expects, and is its own host and clock"
)]

mod io_support;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use io_support::{PATIENCE, Rig, any_port, at, eventually};
use ztna_core::io::{Destination, Listen, LocalAddress};
use ztna_core::role::Target;
use ztna_core::trust::Protocol;
use ztna_core::wire::password::Password;

const ZONE: &str = "ztna.internal";

fn proxy(rig: &Rig, credentials: Option<(&str, &str)>) -> SocketAddr {
    let credentials = credentials.map(|(user, password)| (user.to_owned(), Password::new(password.to_owned())));
    match rig.forward_to(any_port(), Destination::Socks5 { zone: ZONE.into(), credentials }).unwrap().1 {
        LocalAddress::Inet(address) => address,
        LocalAddress::Unix(path) => panic!("{}", path.display()),
    }
}

/// Answers each connection with what it reads, until it ends.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let (mut from, mut to) = (stream.try_clone().unwrap(), stream);
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(std::net::Shutdown::Write);
            });
        }
    });
    address
}

/// Answers each datagram with itself in upper case.
fn udp_echo() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buf = [0; 2_000];
        while let Ok((n, from)) = socket.recv_from(&mut buf) {
            let _ = socket.send_to(&buf[..n].to_ascii_uppercase(), from);
        }
    });
    address
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn udp() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn read<const N: usize>(stream: &mut TcpStream) -> [u8; N] {
    let mut out = [0; N];
    stream.read_exact(&mut out).unwrap();
    out
}

fn socks_request(command: u8, name: &str, port: u16) -> Vec<u8> {
    let mut request = vec![5, command, 0, 3, name.len() as u8];
    request.extend_from_slice(name.as_bytes());
    request.extend_from_slice(&port.to_be_bytes());
    request
}

/// The REP byte of an answer to a CONNECT.
fn socks_connect(stream: &mut TcpStream, name: &str) -> u8 {
    stream.write_all(&[5, 1, 0]).unwrap();
    assert_eq!(read::<2>(stream), [5, 0]);
    stream.write_all(&socks_request(1, name, 80)).unwrap();
    read::<10>(stream)[1]
}

#[test]
fn datagrams_of_each_sender_come_back_to_it() {
    let rig = Rig::new(&[("dns", at(udp_echo()))]);
    let (id, local) = rig.forward("dns", Protocol::Udp);
    let senders: Vec<UdpSocket> = (0..20).map(|_| udp()).collect();
    for round in 0..5 {
        for (i, sender) in senders.iter().enumerate() {
            sender.send_to(format!("q{i}-{round}").as_bytes(), local).unwrap();
        }
        for (i, sender) in senders.iter().enumerate() {
            let mut buf = [0; 100];
            let n = sender.recv(&mut buf).unwrap();
            assert_eq!(std::str::from_utf8(&buf[..n]).unwrap(), format!("Q{i}-{round}"));
        }
    }
    assert_eq!(rig.connections(id), 20);
    rig.handle.call(move |d| d.forward_close(id)).unwrap();
    eventually("all flows end with their port", || rig.seen.lock().unwrap().closed_datagram_flows == 20);
}

#[test]
fn a_udp_service_that_is_away_for_a_while_is_no_end_of_the_flow() {
    let place = udp();
    let address = place.local_addr().unwrap();
    drop(place);
    let rig = Rig::new(&[("dns", at(address))]);
    let (_, local) = rig.forward("dns", Protocol::Udp);
    let client = udp();
    client.send_to(b"lost", local).unwrap();
    thread::sleep(Duration::from_millis(100));
    let service = UdpSocket::bind(address).unwrap();
    service.set_read_timeout(Some(PATIENCE)).unwrap();
    // The first send after an ICMP error reports that error instead of sending.
    client.send_to(b"again", local).unwrap();
    client.send_to(b"again", local).unwrap();
    let mut buf = [0; 10];
    assert_eq!(service.recv(&mut buf).unwrap(), 5);
}

#[test]
fn a_denied_udp_service_is_asked_for_once_a_second_whoever_sends() {
    let rig = Rig::new(&[]);
    let (id, local) = rig.forward("denied", Protocol::Udp);
    let senders: Vec<UdpSocket> = (0..10).map(|_| udp()).collect();
    senders[0].send_to(b"first", local).unwrap();
    eventually("it is denied", || rig.seen.lock().unwrap().opens == 1 && rig.connections(id) == 0);
    for sender in &senders {
        sender.send_to(b"more", local).unwrap();
    }
    eventually("the others are lost", || rig.handle.call(|d| d.local_drops()).unwrap() == 10);
    assert_eq!(rig.seen.lock().unwrap().opens, 1);
    thread::sleep(Duration::from_millis(1_050));
    senders[1].send_to(b"later", local).unwrap();
    eventually("it is asked for again", || rig.seen.lock().unwrap().opens == 2);
}

#[test]
fn a_full_port_lets_go_of_its_longest_silent_flows_for_new_senders() {
    let rig = Rig::new(&[("dns", at(udp_echo()))]);
    let (id, local) = rig.forward("dns", Protocol::Udp);
    // As a resolver does: a port of its own for each question.
    for _ in 0..1_200 {
        let sender = udp();
        sender.send_to(b"q", local).unwrap();
        let mut buf = [0; 10];
        assert_eq!(sender.recv(&mut buf).unwrap(), 1);
        assert!(rig.connections(id) <= 1_024);
    }
    assert_eq!(rig.handle.call(|d| d.local_drops()).unwrap(), 0);
}

#[test]
fn a_target_that_does_not_answer_times_out() {
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    let _fill: Vec<_> = (0..4).map(|_| TcpStream::connect_timeout(&address, Duration::from_millis(100))).collect();
    let rig = Rig::new(&[("web", at(address))]);
    let mut client = connect(proxy(&rig, None));
    let started = Instant::now();
    assert_eq!(socks_connect(&mut client, "web"), 4);
    assert!(started.elapsed() >= Duration::from_millis(1_900), "{:?}", started.elapsed());
}

#[test]
fn socks_connect_reaches_a_service_by_either_name() {
    let rig = Rig::new(&[("web", at(echo()))]);
    let local = proxy(&rig, None);
    for name in ["web.ztna.internal", "web", "WEB.ztna.internal."] {
        let mut client = connect(local);
        assert_eq!(socks_connect(&mut client, name), 0, "{name}");
        client.write_all(b"hello").unwrap();
        assert_eq!(&read::<5>(&mut client), b"hello");
    }
}

#[test]
fn bytes_sent_right_behind_a_socks_request_are_not_lost() {
    let rig = Rig::new(&[("web", at(echo()))]);
    let mut client = connect(proxy(&rig, None));
    let mut all = vec![5, 1, 0];
    all.extend_from_slice(&socks_request(1, "web", 80));
    all.extend_from_slice(b"early");
    client.write_all(&all).unwrap();
    assert_eq!(read::<2>(&mut client), [5, 0]);
    assert_eq!(read::<10>(&mut client)[1], 0);
    assert_eq!(&read::<5>(&mut client), b"early");
}

#[test]
fn a_socks_request_may_come_byte_by_byte() {
    let rig = Rig::new(&[("web", at(echo()))]);
    let mut client = connect(proxy(&rig, None));
    client.set_nodelay(true).unwrap();
    let mut all = vec![5, 1, 0];
    all.extend_from_slice(&socks_request(1, "web", 80));
    for byte in all {
        client.write_all(&[byte]).unwrap();
        thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(read::<12>(&mut client)[..4], [5, 0, 5, 0]);
}

#[test]
fn socks_refusals_say_why() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let no_name = Target::Host { host: "nowhere.invalid".into(), port: 1 };
    let rig = Rig::new(&[("web", at(closed)), ("gone", no_name)]);
    let local = proxy(&rig, None);
    for (name, reply) in [("example.com", 2), ("a.b.ztna.internal", 2), ("denied", 2), ("web", 5), ("gone", 4)] {
        let mut client = connect(local);
        assert_eq!(socks_connect(&mut client, name), reply, "{name}");
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0, "{name}");
    }
    for (request, reply) in
        [(socks_request(2, "web", 80), 7), (vec![5, 1, 0, 9], 8), (vec![5, 1, 0, 1, 127, 0, 0, 1, 0, 80], 2)]
    {
        let mut client = connect(local);
        client.write_all(&[5, 1, 0]).unwrap();
        assert_eq!(read::<2>(&mut client), [5, 0]);
        client.write_all(&request).unwrap();
        assert_eq!(read::<10>(&mut client)[1], reply);
    }
}

#[test]
fn a_proxy_with_credentials_takes_those_alone() {
    let rig = Rig::new(&[("web", at(echo()))]);
    let local = proxy(&rig, Some(("user", "secret")));
    let mut client = connect(local);
    client.write_all(&[5, 1, 0]).unwrap();
    assert_eq!(read::<2>(&mut client), [5, 0xff]);
    for (password, status) in [("secret", 0), ("Secret", 1), ("secre", 1)] {
        let mut client = connect(local);
        client.write_all(&[5, 2, 0, 2]).unwrap();
        assert_eq!(read::<2>(&mut client), [5, 2]);
        let mut login = vec![1, 4];
        login.extend_from_slice(b"user");
        login.push(password.len() as u8);
        login.extend_from_slice(password.as_bytes());
        client.write_all(&login).unwrap();
        assert_eq!(read::<2>(&mut client), [1, status], "{password}");
        if status == 0 {
            client.write_all(&socks_request(1, "web", 80)).unwrap();
            assert_eq!(read::<10>(&mut client)[1], 0);
        } else {
            assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
        }
    }
}

#[test]
fn a_proxy_open_to_others_needs_credentials() {
    let rig = Rig::new(&[]);
    let listen = Listen::Address { host: "0.0.0.0".into(), port: 0 };
    let open = Destination::Socks5 { zone: ZONE.into(), credentials: None };
    assert_eq!(rig.forward_to(listen.clone(), open).unwrap_err().code(), "ERR_ZTNA_CONFIG");
    let closed = Destination::Socks5 { zone: ZONE.into(), credentials: Some(("u".into(), Password::new("p".into()))) };
    assert!(rig.forward_to(listen, closed).is_ok());
}

#[test]
fn udp_associate_carries_datagrams_until_its_connection_ends() {
    let rig = Rig::new(&[("dns", at(udp_echo()))]);
    let mut control = connect(proxy(&rig, None));
    control.write_all(&[5, 1, 0]).unwrap();
    assert_eq!(read::<2>(&mut control), [5, 0]);
    control.write_all(&[5, 3, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
    let answer = read::<10>(&mut control);
    assert_eq!(answer[..8], [5, 0, 0, 1, 127, 0, 0, 1]);
    let relay: SocketAddr = ([127, 0, 0, 1], u16::from_be_bytes([answer[8], answer[9]])).into();
    let client = udp();
    let head = |name: &str| {
        let mut d = vec![0, 0, 0, 3, name.len() as u8];
        d.extend_from_slice(name.as_bytes());
        d.extend_from_slice(&53u16.to_be_bytes());
        d
    };
    let ask = |name: &str, data: &[u8]| [head(name), data.to_vec()].concat();
    client.send_to(&ask("dns.example.com", b"outside"), relay).unwrap();
    for data in [&b"one"[..], b"two"] {
        client.send_to(&ask("dns.ztna.internal", data), relay).unwrap();
        let mut buf = [0; 200];
        let n = client.recv(&mut buf).unwrap();
        assert_eq!(buf[..n], ask("dns.ztna.internal", &data.to_ascii_uppercase()));
    }
    // Nobody else may use the port.
    let stranger = udp();
    stranger.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    stranger.send_to(&ask("dns.ztna.internal", b"x"), relay).unwrap();
    assert_eq!(stranger.recv(&mut [0; 10]).unwrap_err().kind(), ErrorKind::WouldBlock);
    drop(control);
    eventually("the flow ends", || rig.seen.lock().unwrap().closed_datagram_flows == 1);
}

#[test]
fn http_connect_works_on_the_same_port_and_refuses_what_is_outside() {
    let rig = Rig::new(&[("web", at(echo()))]);
    let local = proxy(&rig, None);
    for (host, status) in
        [("web.ztna.internal:80", "200"), ("example.com:80", "403"), ("denied:80", "403"), ("127.0.0.1:80", "403")]
    {
        let mut client = connect(local);
        write!(client, "CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\nearly").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut got = String::new();
        client.read_to_string(&mut got).unwrap();
        assert!(got.starts_with(&format!("HTTP/1.1 {status} ")), "{host}: {got}");
        assert_eq!(got.ends_with("early"), status == "200", "{got}");
    }
}

#[test]
fn clients_that_say_nothing_useful_are_closed() {
    let rig = Rig::new(&[]);
    let local = proxy(&rig, None);
    for bytes in [&b"\x04\x01"[..], &[0xff; 64]] {
        let mut client = connect(local);
        client.write_all(bytes).unwrap();
        let mut rest = Vec::new();
        // Closed with or without a RST: bytes may have been left unread.
        if let Err(e) = client.read_to_end(&mut rest) {
            assert_eq!(e.kind(), ErrorKind::ConnectionReset);
        }
    }
    let mut many = vec![b'C'; 40_000];
    many[..8].copy_from_slice(b"CONNECT ");
    let mut client = connect(local);
    let _ = client.write_all(&many);
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"));
}

#[test]
fn a_request_that_the_proxy_should_fetch_is_told_what_the_proxy_takes() {
    let rig = Rig::new(&[]);
    for credentials in [None, Some(("user", "secret"))] {
        let mut client = connect(proxy(&rig, credentials));
        for part in ["GET http://web.zt", "na.internal/ HTTP/1.1\r\nHost: web\r\n\r\n"] {
            client.write_all(part.as_bytes()).unwrap();
            thread::sleep(Duration::from_millis(20));
        }
        let mut got = String::new();
        client.read_to_string(&mut got).unwrap();
        assert!(got.starts_with("HTTP/1.1 405 Method Not Allowed\r\nAllow: CONNECT\r\n"), "{got}");
        assert!(got.contains("Connection: close\r\n") && got.contains("takes CONNECT only"), "{got}");
        assert!(got.contains("socks5h://"), "what to set: {got}");
    }
    let mut client = connect(proxy(&rig, None));
    client.write_all(b"QUIT\r\n").unwrap();
    let mut got = String::new();
    client.read_to_string(&mut got).unwrap();
    assert!(got.starts_with("HTTP/1.1 400 "), "{got}");
}

#[test]
fn a_connection_that_comes_to_nothing_is_reset_and_an_http_client_reads_why() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let rig = Rig::new(&[("web", at(closed))]);
    let (_, local) = rig.forward("web", Protocol::Tcp);
    assert_eq!(connect(local).read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let mut client = connect(proxy(&rig, None));
    client.write_all(b"CONNECT web:80 HTTP/1.1\r\n\r\n").unwrap();
    let mut got = String::new();
    client.read_to_string(&mut got).unwrap();
    assert!(got.starts_with("HTTP/1.1 502 ") && got.contains("refused the connection"), "{got}");
}

#[test]
fn curl_fetches_through_both_kinds_of_proxy() {
    if Command::new("curl").arg("--version").output().is_err() {
        eprintln!("curl is not installed: its two requests were left out");
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = Vec::new();
            let mut byte = [0; 1];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                head.push(byte[0]);
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello");
        }
    });
    let rig = Rig::new(&[("web", at(address))]);
    let (open, closed) = (proxy(&rig, None), proxy(&rig, Some(("user", "secret"))));
    let fetch = |options: &[&str]| {
        let out = Command::new("curl")
            .args(["-sS", "--noproxy", "", "--max-time", "10"])
            .args(options)
            .arg("http://web.ztna.internal/")
            .output()
            .unwrap();
        (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned())
    };
    let ok = (true, "hello".to_owned());
    assert_eq!(fetch(&["--socks5-hostname", &open.to_string()]), ok);
    assert_eq!(fetch(&["--proxytunnel", "-x", &format!("http://{open}")]), ok);
    assert_eq!(fetch(&["--socks5-hostname", &closed.to_string(), "-U", "user:secret"]), ok);
    assert_eq!(fetch(&["--proxytunnel", "-x", &format!("http://{closed}"), "-U", "user:secret"]), ok);
    assert!(!fetch(&["--proxytunnel", "-x", &format!("http://{closed}"), "-U", "user:wrong"]).0);
}
