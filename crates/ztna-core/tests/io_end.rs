//! What a loop leaves behind. Alone in its file: descriptors belong to the whole process.
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

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};

use io_support::{PATIENCE, Rig, any_port, at, eventually};
use ztna_core::io::Destination;
use ztna_core::role::Target;
use ztna_core::trust::Protocol;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, |d| d.count())
}

#[test]
fn an_ended_loop_leaves_no_descriptor() {
    let before = descriptors();
    {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let rig = Rig::new(&[
            ("web", at(address)),
            ("dns", at(address)),
            ("gone", Target::Host { host: "localhost".into(), port: 1 }),
        ]);
        let (_, web) = rig.forward("web", Protocol::Tcp);
        let (_, gone) = rig.forward("gone", Protocol::Tcp);
        let (_, dns) = rig.forward("dns", Protocol::Udp);
        rig.forward_to(any_port(), Destination::Socks5 { zone: "ztna.internal".into(), credentials: None }).unwrap();
        let mut clients: Vec<TcpStream> = (0..10).map(|_| TcpStream::connect(web).unwrap()).collect();
        for client in &mut clients {
            client.write_all(b"x").unwrap();
        }
        let mut servers: Vec<TcpStream> = clients.iter().map(|_| listener.accept().unwrap().0).collect();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(b"x", dns).unwrap();
        let mut refused = TcpStream::connect(gone).unwrap();
        refused.set_read_timeout(Some(PATIENCE)).unwrap();
        assert!(refused.read(&mut [0; 1]).is_err());
        drop(rig);
        for server in &mut servers {
            let mut rest = Vec::new();
            assert!(server.read_to_end(&mut rest).is_err(), "a cut flow is a reset, not a clean end");
        }
    }
    eventually("all descriptors are closed", || descriptors() == before);
}
