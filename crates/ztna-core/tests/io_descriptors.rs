//! A process that has no file descriptor to spare. The limit is the process', so that one test runs at a time.
#![cfg(target_os = "linux")]
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

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use io_support::{PATIENCE, Rig, at, eventually, open};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sha2::{Digest, Sha256};
use ztna_core::Error;
use ztna_core::io::folder::{FolderWatch, Manifest, REQUIRED, SNAPSHOT};
use ztna_core::io::{LocalEvent, NodeDatagram, NodeStream};
use ztna_core::role::Notice;
use ztna_core::trust::Protocol;

/// Of which flows leave 64 to the rest.
const LIMIT: u64 = 200;
const CEILING: i32 = 136;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The process' limit while this lives. Made first in a test, so that all that the test opened is closed when the next one counts.
struct Limited(Rlimit, #[allow(dead_code, reason = "held")] MutexGuard<'static, ()>);

impl Limited {
    fn new() -> Self {
        let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let before = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(LIMIT), maximum: before.maximum }).unwrap();
        Limited(before, guard)
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        setrlimit(Resource::Nofile, self.0).unwrap();
    }
}

#[test]
fn a_publication_is_read_by_a_process_that_has_no_descriptor_left() {
    let _limited = Limited::new();
    let dir = tempfile::tempdir().unwrap();
    publish(dir.path(), 1);
    let mut watch = FolderWatch::new(dir.path());
    publish(dir.path(), 2);
    let taken = fill(i32::MAX);
    assert!(File::open("/dev/null").is_err());
    let read = watch.poll(Instant::now());
    drop(taken);
    assert_eq!(read.unwrap().unwrap().version, 2);
}

#[test]
fn a_flow_too_many_is_refused_with_the_limit_and_the_remedy_while_the_rest_has_descriptors() {
    let _limited = Limited::new();
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let rig = Rig::new(&[("web", at(service.local_addr().unwrap()))]);
    let taken = fill(CEILING - 1);
    let Err(Error::Limit(why)) = stream(&rig) else { panic!("no descriptor was below the reserve") };
    assert!(why.contains("may open 200") && why.contains("leave 64") && why.contains("LimitNOFILE"), "{why}");
    assert!(File::open("/dev/null").is_ok());
    assert_eq!(rig.handle.call(|d| d.descriptor_drops()).unwrap(), 1);
    let warned = rig.events.try_iter().any(|e| matches!(e, LocalEvent::Notice(Notice::Warning(Error::Limit(_)))));
    assert!(warned);
    drop(taken);
    stream(&rig).unwrap();
}

#[test]
fn a_flow_that_gets_no_socket_pair_for_its_program_is_refused_and_counted_too() {
    let _limited = Limited::new();
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let rig = Rig::new(&[("web", at(service.local_addr().unwrap()))]);
    let mut taken = fill(CEILING - 1);
    taken.truncate(taken.len() - 2);
    assert!(matches!(stream(&rig), Err(Error::Limit(_))));
    assert_eq!(rig.handle.call(|d| d.descriptor_drops()).unwrap(), 1);
}

#[test]
fn one_peers_flows_end_at_half_of_the_descriptors() {
    let _limited = Limited::new();
    let service = UdpSocket::bind("127.0.0.1:0").unwrap();
    let rig = Rig::new(&[("dns", at(service.local_addr().unwrap()))]);
    let mut flows = Vec::new();
    let why = loop {
        match datagram(&rig) {
            Ok(flow) => flows.push(flow),
            Err(e) => break e.to_string(),
        }
    };
    assert!(why.contains("half"), "{why}");
    assert!((10..=CEILING as usize / 2).contains(&flows.len()), "{}", flows.len());
    flows.clear();
    eventually("its share is free again", || datagram(&rig).is_ok());
}

#[test]
fn a_connection_for_which_there_is_no_descriptor_waits_in_its_listener() {
    let _limited = Limited::new();
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let rig = Rig::new(&[("web", at(service.local_addr().unwrap()))]);
    let (id, local) = rig.forward("web", Protocol::Tcp);
    let taken = fill(CEILING - 1);
    let mut client = TcpStream::connect(local).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(b"x").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(250));
    assert_eq!(rig.connections(id), 0);
    drop(taken);
    eventually("it is taken in", || rig.connections(id) == 1);
    let mut byte = [0];
    service.accept().unwrap().0.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"x");
}

/// Takes descriptors up to number `last`, or all that there are.
fn fill(last: i32) -> Vec<File> {
    let mut taken = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        let number = file.as_raw_fd();
        taken.push(file);
        if number >= last {
            break;
        }
    }
    taken
}

fn stream(rig: &Rig) -> Result<NodeStream, Error> {
    let (tx, rx) = channel();
    rig.handle.post(Box::new(move |d| {
        d.open_stream(1, open("web", Protocol::Tcp), Box::new(move |r| tx.send(r).unwrap()));
    }));
    rx.recv_timeout(PATIENCE).unwrap()
}

/// The program's end of it takes no descriptor, its target one.
fn datagram(rig: &Rig) -> Result<NodeDatagram, Error> {
    let (tx, rx) = channel();
    rig.handle.post(Box::new(move |d| {
        d.open_datagram(1, open("dns", Protocol::Udp), Box::new(move |r| tx.send(r).unwrap()));
    }));
    rx.recv_timeout(PATIENCE).unwrap()
}

fn publish(dir: &Path, version: u64) {
    let mut hashes = BTreeMap::new();
    for file in REQUIRED {
        let text = format!("{file} {version}");
        fs::write(dir.join(file), &text).unwrap();
        let digest = Sha256::digest(text.as_bytes());
        hashes.insert(file.to_owned(), digest.iter().map(|b| format!("{b:02x}")).collect());
    }
    fs::set_permissions(dir.join("key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(dir.join("new"), serde_json::to_string(&Manifest { version, hashes }).unwrap()).unwrap();
    fs::rename(dir.join("new"), dir.join(SNAPSHOT)).unwrap();
}
