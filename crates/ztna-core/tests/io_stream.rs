//! TCP and unix streams between local sockets and a machine's flows.
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
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::{Duration, Instant};

use io_support::{PATIENCE, Rig, WINDOW, at, eventually};
use ztna_core::io::{Destination, Listen};
use ztna_core::role::Target;
use ztna_core::trust::Protocol;

fn service() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn pattern(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 31 % 251) as u8).collect()
}

/// A service and a client joined through a forward.
fn joined() -> (Rig, ztna_core::io::ForwardId, TcpStream, TcpStream) {
    let (listener, address) = service();
    let rig = Rig::new(&[("web", at(address))]);
    let (id, local) = rig.forward("web", Protocol::Tcp);
    let client = connect(local);
    let (server, _) = listener.accept().unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    (rig, id, client, server)
}

#[test]
fn bytes_pass_unchanged_both_ways_at_once() {
    let (rig, id, mut client, mut server) = joined();
    let data = pattern(8 << 20);
    let copy = data.clone();
    let far = thread::spawn(move || {
        let mut writer = server.try_clone().unwrap();
        let out = copy.clone();
        let sender = thread::spawn(move || {
            writer.write_all(&out).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut got = Vec::new();
        server.read_to_end(&mut got).unwrap();
        sender.join().unwrap();
        assert!(got == copy);
    });
    let mut writer = client.try_clone().unwrap();
    let out = data.clone();
    let sender = thread::spawn(move || {
        writer.write_all(&out).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut got = Vec::new();
    client.read_to_end(&mut got).unwrap();
    sender.join().unwrap();
    far.join().unwrap();
    assert!(got == data);
    eventually("both ends closed: the flow is let go", || rig.connections(id) == 0);
}

#[test]
fn a_client_that_ends_its_direction_still_gets_the_answer() {
    let (_rig, _, mut client, mut server) = joined();
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut got = Vec::new();
    server.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"question");
    server.write_all(b"answer").unwrap();
    drop(server);
    let mut got = Vec::new();
    client.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"answer");
}

#[test]
fn a_service_that_ends_its_direction_still_hears_the_client() {
    let (_rig, _, mut client, mut server) = joined();
    server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    client.write_all(b"late").unwrap();
    drop(client);
    let mut got = Vec::new();
    server.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"late");
}

#[test]
fn a_service_that_speaks_and_ends_at_once_is_heard_to_its_end() {
    let (listener, address) = service();
    let rig = Rig::new(&[("web", at(address))]);
    let (_, local) = rig.forward("web", Protocol::Tcp);
    const FLOWS: usize = 500;
    let served = thread::spawn(move || {
        for _ in 0..FLOWS {
            let (mut server, _) = listener.accept().unwrap();
            server.write_all(b"bye").unwrap();
            server.shutdown(Shutdown::Write).unwrap();
            // Kept open: its end must be heard without a reset that follows.
            std::mem::forget(server);
        }
    });
    for n in 0..FLOWS {
        let mut client = connect(local);
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).unwrap_or_else(|e| panic!("flow {n}: {e}"));
        assert_eq!(heard, b"bye");
    }
    served.join().unwrap();
}

#[test]
fn a_reset_at_the_service_is_a_reset_at_the_client() {
    let (rig, id, mut client, server) = joined();
    socket2::SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
    drop(server);
    assert_eq!(client.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    eventually("the flow is let go", || rig.connections(id) == 0);
}

#[test]
fn a_reset_at_the_client_is_a_reset_at_the_service() {
    let (_rig, _, client, mut server) = joined();
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    assert_eq!(server.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_reset_is_noticed_while_the_other_end_reads_nothing() {
    let (rig, id, mut client, server) = joined();
    client.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    while client.write(&[0; 65_536]).is_ok() {}
    drop(server); // With unread bytes: a reset.
    eventually("the flow is let go", || rig.connections(id) == 0);
    assert!(client.write_all(&[0; 1024]).is_err() || client.read(&mut [0; 8]).is_err());
}

#[test]
fn a_reader_that_never_reads_holds_its_sender_back_and_nobody_else() {
    let (listener, address) = service();
    let rig = Rig::new(&[("web", at(address))]);
    let (_, local) = rig.forward("web", Protocol::Tcp);
    let mut stalled: Vec<(TcpStream, TcpStream)> = Vec::new();
    for _ in 0..8 {
        let mut client = connect(local);
        let (server, _) = listener.accept().unwrap();
        client.set_nonblocking(true).unwrap();
        let until = Instant::now() + Duration::from_millis(300);
        while Instant::now() < until {
            if client.write(&[7; 65_536]).is_err() {
                thread::sleep(Duration::from_millis(10));
            }
        }
        assert_eq!(client.write(&[7; 65_536]).unwrap_err().kind(), ErrorKind::WouldBlock);
        stalled.push((client, server));
    }
    let mut client = connect(local);
    let (mut server, _) = listener.accept().unwrap();
    let started = Instant::now();
    for _ in 0..100 {
        client.write_all(b"ping").unwrap();
        server.read_exact(&mut [0; 4]).unwrap();
        server.write_all(b"pong").unwrap();
        client.read_exact(&mut [0; 4]).unwrap();
    }
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(rig.seen.lock().unwrap().most_buffered <= WINDOW);
    // A reader that wakes up finds every byte.
    let (client, mut server) = stalled.pop().unwrap();
    drop(client);
    let mut got = Vec::new();
    server.read_to_end(&mut got).unwrap();
    assert!(got.len() > WINDOW && got.iter().all(|b| *b == 7));
}

#[test]
fn a_refused_service_is_a_reset_at_the_client() {
    let (listener, address) = service();
    drop(listener);
    let rig = Rig::new(&[("web", at(address))]);
    let (id, local) = rig.forward("web", Protocol::Tcp);
    let mut client = connect(local);
    assert_eq!(client.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    eventually("the flow is let go", || rig.connections(id) == 0);
}

#[test]
fn all_addresses_of_a_name_are_tried() {
    let (listener, address) = service(); // Bound to 127.0.0.1 alone; `localhost` may be ::1 first.
    let rig = Rig::new(&[("web", Target::Host { host: "localhost".into(), port: address.port() })]);
    let (_, local) = rig.forward("web", Protocol::Tcp);
    let mut client = connect(local);
    client.write_all(b"hi").unwrap();
    let (mut server, _) = listener.accept().unwrap();
    let mut got = [0; 2];
    server.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"hi");
}

#[test]
fn unix_sockets_work_at_both_ends() {
    let dir = tempfile::tempdir().unwrap();
    let (far, near) = (dir.path().join("far.sock"), dir.path().join("near.sock"));
    let listener = UnixListener::bind(&far).unwrap();
    // Left behind by a process that died.
    drop(UnixListener::bind(&near).unwrap());
    let rig = Rig::new(&[("db", Target::Unix(far))]);
    let to = Destination::Service { service: "db".into(), port: None, protocol: Protocol::Tcp };
    let (id, _) = rig.forward_to(Listen::Unix(near.clone()), to.clone()).unwrap();
    assert_eq!(std::fs::metadata(&near).unwrap().permissions().mode() & 0o777, 0o600);
    let mut client = UnixStream::connect(&near).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    let data = pattern(1 << 20);
    let out = data.clone();
    let sender = thread::spawn(move || {
        client.write_all(&out).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        got
    });
    let mut got = Vec::new();
    server.read_to_end(&mut got).unwrap();
    assert!(got == data);
    server.write_all(b"done").unwrap();
    drop(server);
    assert_eq!(sender.join().unwrap(), b"done");
    // A live listener's place is not taken.
    assert!(
        rig.forward_to(Listen::Unix(near.clone()), to).unwrap_err().to_string().contains("another process listens")
    );
    rig.handle.call(move |d| d.forward_close(id)).unwrap();
    assert!(!near.exists());
}

#[test]
fn a_unix_service_that_stops_reading_may_go_on_sending() {
    let dir = tempfile::tempdir().unwrap();
    let far = dir.path().join("far.sock");
    let listener = UnixListener::bind(&far).unwrap();
    let rig = Rig::new(&[("db", Target::Unix(far))]);
    let (_, local) = rig.forward("db", Protocol::Tcp);
    let mut client = connect(local);
    let (mut server, _) = listener.accept().unwrap();
    server.shutdown(Shutdown::Read).unwrap();
    client.write_all(b"ignored").unwrap();
    eventually("the far end was asked to stop", || rig.seen.lock().unwrap().stops == 1);
    server.write_all(b"still here").unwrap();
    drop(server);
    let mut got = Vec::new();
    client.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"still here");
}

#[test]
fn a_listener_that_is_closed_leaves_its_connections_alone() {
    let (rig, id, mut client, mut server) = joined();
    let local = client.peer_addr().unwrap();
    rig.handle.call(move |d| d.forward_close(id)).unwrap();
    assert!(TcpStream::connect(local).is_err());
    client.write_all(b"x").unwrap();
    server.read_exact(&mut [0; 1]).unwrap();
    assert_eq!(rig.connections(id), 1);
}

#[test]
fn a_port_in_use_is_an_error_that_names_it() {
    let (_listener, address) = service();
    let rig = Rig::new(&[]);
    let listen = Listen::Address { host: "127.0.0.1".into(), port: address.port() };
    let to = Destination::Service { service: "web".into(), port: None, protocol: Protocol::Tcp };
    let error = rig.forward_to(listen, to).unwrap_err();
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    assert_eq!(error.code(), "ERR_ZTNA_CONFIG");
}

#[test]
fn hundreds_of_flows_at_once_all_complete() {
    let (listener, address) = service();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut got = Vec::new();
                stream.read_to_end(&mut got).unwrap();
                stream.write_all(&got).unwrap();
            });
        }
    });
    let rig = Rig::new(&[("web", at(address))]);
    let (id, local) = rig.forward("web", Protocol::Tcp);
    let mut clients: Vec<TcpStream> = (0..300).map(|_| connect(local)).collect();
    for (i, client) in clients.iter_mut().enumerate() {
        client.write_all(&pattern(i * 100)).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
    }
    for (i, client) in clients.iter_mut().enumerate() {
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        assert!(got == pattern(i * 100), "flow {i}");
    }
    eventually("all flows are let go", || rig.connections(id) == 0);
}
