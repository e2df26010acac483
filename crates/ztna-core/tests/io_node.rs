//! Flows of the embedding program, and the life of a loop.
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
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use io_support::{Loopback, PATIENCE, Rig, at, eventually, open};
use ztna_core::io::{Driver, LocalEvent, NodeDatagram, NodeStream};
use ztna_core::role::{Machine, Target};
use ztna_core::trust::Protocol;
use ztna_core::{Error, FlowId};

fn stream_of(fd: OwnedFd) -> UnixStream {
    let stream = UnixStream::from(fd);
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn open_stream(rig: &Rig, op: u64, service: &str) -> Result<NodeStream, Error> {
    let (tx, rx) = channel();
    let open = open(service, Protocol::Tcp);
    rig.handle.post(Box::new(move |d| d.open_stream(op, open, Box::new(move |r| tx.send(r).unwrap()))));
    rx.recv_timeout(PATIENCE).unwrap()
}

fn open_datagram(rig: &Rig, op: u64, service: &str) -> NodeDatagram {
    let (tx, rx) = channel();
    let open = open(service, Protocol::Udp);
    rig.handle.post(Box::new(move |d| d.open_datagram(op, open, Box::new(move |r| tx.send(r).unwrap()))));
    rx.recv_timeout(PATIENCE).unwrap().unwrap()
}

fn reset_event(rig: &Rig) -> (FlowId, Error) {
    match rig.events.recv_timeout(PATIENCE).unwrap() {
        LocalEvent::FlowReset { flow, error } => (flow, error),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stream_of_the_program_meets_a_handler_of_the_program() {
    let rig = Rig::new(&[("web", Target::Handler(7))]);
    let near = open_stream(&rig, 1, "web").unwrap();
    let LocalEvent::Incoming { serve: 7, fd, info, .. } = rig.events.recv_timeout(PATIENCE).unwrap() else {
        panic!("no incoming flow")
    };
    assert_eq!((info.service.as_str(), near.info.service.as_str()), ("web", "web"));
    let (mut near, mut far) = (stream_of(near.fd), stream_of(fd));
    let data: Vec<u8> = (0..4_000_000u32).map(|i| (i % 253) as u8).collect();
    let out = data.clone();
    let sender = std::thread::spawn(move || {
        near.write_all(&out).unwrap();
        near.shutdown(std::net::Shutdown::Write).unwrap();
        let mut got = Vec::new();
        near.read_to_end(&mut got).unwrap();
        got
    });
    let mut got = Vec::new();
    far.read_to_end(&mut got).unwrap();
    assert!(got == data);
    far.write_all(b"bye").unwrap();
    drop(far);
    assert_eq!(sender.join().unwrap(), b"bye");
}

#[test]
fn a_peers_reset_is_told_before_the_descriptor_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let rig = Rig::new(&[("web", at(listener.local_addr().unwrap()))]);
    let near = open_stream(&rig, 1, "web").unwrap();
    let flow = near.flow;
    let mut near = stream_of(near.fd);
    let (server, _) = listener.accept().unwrap();
    socket2::SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
    drop(server);
    let (told, error) = reset_event(&rig);
    assert_eq!((told, error.code()), (flow, "ERR_ZTNA_STREAM_RESET"));
    near.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert_eq!(near.read(&mut [0; 1]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    rig.handle.call(move |d| d.flow_done(flow)).unwrap();
    assert_eq!(near.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn what_a_program_wrote_before_it_closed_arrives_and_the_sender_is_stopped() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let rig = Rig::new(&[("web", at(listener.local_addr().unwrap()))]);
    let near = open_stream(&rig, 1, "web").unwrap();
    let mut near = stream_of(near.fd);
    let (mut server, _) = listener.accept().unwrap();
    near.write_all(b"last words").unwrap();
    drop(near);
    let mut got = Vec::new();
    server.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"last words");
    eventually("the far end is asked to stop, unasked", || rig.seen.lock().unwrap().stops == 1);
}

#[test]
fn the_programs_reset_reaches_the_service() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let rig = Rig::new(&[("web", at(listener.local_addr().unwrap()))]);
    let near = open_stream(&rig, 1, "web").unwrap();
    let (mut server, _) = listener.accept().unwrap();
    let flow = near.flow;
    rig.handle.call(move |d| d.flow_reset(flow)).unwrap();
    assert_eq!(server.read(&mut [0; 1]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn an_operation_that_is_given_up_is_answered_at_once() {
    let rig = Rig::new(&[("slow", Target::Echo)]);
    let (tx, rx) = channel();
    let open = open("slow", Protocol::Tcp);
    rig.handle.post(Box::new(move |d| {
        d.open_stream(5, open, Box::new(move |r| tx.send(r.map(|_| ())).unwrap()));
        d.ping(6, "slow", Duration::from_secs(5));
        d.ping(7, "other", Duration::from_secs(5));
        d.cancel(5);
        d.cancel(6);
        d.cancel(99);
    }));
    assert_eq!(rx.recv_timeout(PATIENCE).unwrap(), Err(Error::Aborted));
    let mut answers = Vec::new();
    for _ in 0..2 {
        if let LocalEvent::Answer { op, result } = rig.events.recv_timeout(PATIENCE).unwrap() {
            answers.push((op, result.unwrap_err().code()));
        }
    }
    assert_eq!(answers, [(6, "ERR_ZTNA_ABORTED"), (7, "ERR_ZTNA_REFUSED")]);
    assert_eq!(open_stream(&rig, 5, "nothing").unwrap_err().code(), "ERR_ZTNA_DENIED");
}

#[test]
fn datagrams_cross_the_ring_with_one_bell_for_a_batch() {
    let rig = Rig::new(&[("dns", Target::Handler(9))]);
    let near = open_datagram(&rig, 1, "dns");
    let LocalEvent::IncomingDatagram { serve: 9, datagram: far, .. } = rig.events.recv_timeout(PATIENCE).unwrap()
    else {
        panic!("no incoming flow")
    };
    assert_eq!(near.max_size(), 1200);
    let bells = Arc::new(AtomicUsize::new(0));
    let counted = bells.clone();
    far.on_readable(Box::new(move || {
        counted.fetch_add(1, Ordering::SeqCst);
    }));
    let sent: Vec<Vec<u8>> = (0..100u8).map(|i| vec![i; 10 + usize::from(i)]).collect();
    assert_eq!(near.send(sent.iter().map(Vec::as_slice)), 100);
    let mut got = Vec::new();
    let mut out = [0; 2_000];
    eventually("all arrive", || {
        let n = far.recv_into(&mut out);
        let mut rest = &out[..n];
        while let [a, b, tail @ ..] = rest {
            let (datagram, tail) = tail.split_at(usize::from(u16::from_le_bytes([*a, *b])));
            got.push(datagram.to_vec());
            rest = tail;
        }
        got.len() == 100
    });
    assert!(got == sent);
    assert!((1..100).contains(&bells.load(Ordering::SeqCst)));
    near.close();
    eventually("the far end hears of the end", || far.is_closed());
    assert_eq!(far.send([&b"x"[..]]), 0);
}

#[test]
fn a_datagram_larger_than_the_path_takes_is_refused_and_counted() {
    let rig = Rig::new(&[("dns", Target::Handler(9))]);
    let near = open_datagram(&rig, 1, "dns");
    for size in [1_201, 70_000] {
        assert_eq!(near.send([&vec![0u8; size][..]]), 0);
    }
    // What stands behind it was not queued either: the number tells where to go on.
    assert_eq!(near.send([&[0u8; 1_200][..], &[0u8; 1_201], b"x"]), 1);
    assert_eq!(near.dropped(), 4);
    assert_eq!(rig.handle.call(|d| d.local_drops()).unwrap(), 4);
}

#[test]
fn a_program_that_does_not_receive_loses_datagrams_and_holds_a_bounded_number() {
    let rig = Rig::new(&[("dns", Target::Handler(9))]);
    let near = open_datagram(&rig, 1, "dns");
    let LocalEvent::IncomingDatagram { datagram: far, .. } = rig.events.recv_timeout(PATIENCE).unwrap() else {
        panic!("no incoming flow")
    };
    let mut sent = 0u64;
    while sent < 3_000 {
        sent += near.send([&b"x"[..]; 50]) as u64;
    }
    eventually("what does not fit is dropped", || far.dropped() == sent - 1_024);
    assert_eq!(std::iter::from_fn(|| far.recv()).count(), 1_024);
}

#[test]
fn names_are_resolved_off_the_loop() {
    let rig = Rig::new(&[]);
    rig.handle.post(Box::new(|d| d.machine().resolve("localhost")));
    eventually("an address is found", || {
        rig.seen.lock().unwrap().resolved.iter().any(|(h, n)| h == "localhost" && *n > 0)
    });
    rig.handle.post(Box::new(|d| d.machine().resolve("nowhere.invalid")));
    eventually("none is found", || {
        rig.seen.lock().unwrap().resolved.iter().any(|(h, n)| h == "nowhere.invalid" && *n == 0)
    });
}

#[test]
fn the_watch_is_asked_and_what_it_refuses_is_told() {
    let rig = Rig::new(&[]);
    let mut asked = 0;
    rig.handle.post(Box::new(move |d| {
        d.set_watch(Box::new(move |_| {
            asked += 1;
            (asked == 2).then(|| Error::config("network.toml:3", "no such key"))
        }));
    }));
    let event = rig.events.recv_timeout(PATIENCE).unwrap();
    assert!(
        matches!(event, LocalEvent::Notice(ztna_core::role::Notice::NotReloaded(Error::Config { .. }))),
        "{event:?}"
    );
}

#[test]
fn an_idle_loop_sleeps() {
    let rig = Rig::new(&[]);
    let ticks = || {
        let mut used = Duration::ZERO;
        for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
            let stat = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            if name.trim() == "idle-loop" {
                used += Duration::from_nanos(stat.split(' ').next().unwrap_or("0").parse().unwrap());
            }
        }
        used
    };
    let machine = Loopback::new(&[]);
    let handle = Driver::spawn("idle-loop", Vec::new(), move || Ok(machine), Box::new(|_| {})).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let before = ticks();
    std::thread::sleep(Duration::from_millis(500));
    assert!(ticks() - before < Duration::from_millis(20));
    handle.post(Box::new(|d| d.shut_down(Duration::ZERO)));
    handle.join();
    drop(rig);
}

#[test]
fn a_machine_that_can_not_be_made_is_an_error_of_spawn() {
    let made =
        Driver::<Loopback>::spawn("failing", Vec::new(), || Err(Error::Identity("expired".into())), Box::new(|_| {}));
    assert_eq!(made.err().map(|e| e.code()), Some("ERR_ZTNA_IDENTITY"));
}

#[test]
fn a_panic_ends_its_own_loop_with_an_error_and_no_other() {
    let (hurt, well) = (Rig::new(&[]), Rig::new(&[("web", Target::Handler(1))]));
    hurt.handle.post(Box::new(|_| panic!("on purpose")));
    let event = hurt.events.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(event, LocalEvent::Ended(Err(Error::Internal(_)))), "{event:?}");
    hurt.handle.join();
    assert!(!hurt.handle.post(Box::new(|_| {})));
    assert!(hurt.handle.call(|d| d.machine().state()).is_err());
    assert!(open_stream(&well, 1, "web").is_ok());
}

#[test]
fn an_end_resets_streams_and_answers_all_who_wait() {
    let rig = Rig::new(&[("web", Target::Handler(1)), ("slow", Target::Echo)]);
    let near = open_stream(&rig, 1, "web").unwrap();
    let LocalEvent::Incoming { fd: far, .. } = rig.events.recv_timeout(PATIENCE).unwrap() else {
        panic!("no incoming flow")
    };
    let (tx, rx) = channel();
    let slow = open("slow", Protocol::Tcp);
    rig.handle.post(Box::new(move |d| {
        d.open_stream(2, slow, Box::new(move |r| tx.send(r.map(|_| ())).unwrap()));
        d.shut_down(Duration::ZERO);
    }));
    assert_eq!(rx.recv_timeout(PATIENCE).unwrap().unwrap_err().code(), "ERR_ZTNA_CLOSED");
    for _ in 0..2 {
        let (flow, error) = reset_event(&rig);
        assert_eq!(error.code(), "ERR_ZTNA_CLOSED");
        rig.handle.post(Box::new(move |d| d.flow_done(flow)));
    }
    rig.handle.join();
    assert!(matches!(rig.events.recv_timeout(PATIENCE).unwrap(), LocalEvent::Ended(Ok(()))));
    assert_eq!(stream_of(near.fd).read(&mut [0; 1]).unwrap(), 0);
    drop(far);
}

#[test]
fn what_the_program_waits_for_is_asked_by_the_loop_itself_until_it_has_come() {
    let rig = Rig::new(&[]);
    let (tx, rx) = channel();
    rig.handle.post(Box::new(move |d| {
        let mut asked = 0;
        let waiter = move |_: &mut Driver<Loopback>, over: bool| {
            asked += 1;
            tx.send((std::thread::current().id(), over)).unwrap();
            asked == 3
        };
        d.wait_for(d.now() + PATIENCE, Box::new(waiter));
    }));
    let seen: Vec<_> = (0..3).map(|_| rx.recv_timeout(PATIENCE).unwrap()).collect();
    let thread = rig.handle.call(|_| std::thread::current().id()).unwrap();
    assert_eq!(seen, [(thread, false); 3]);
    assert!(rx.recv_timeout(PATIENCE).is_err(), "it is asked no more, and let go");
}

#[test]
fn what_the_program_waits_for_is_given_up_when_its_time_is_over_and_when_the_loop_ends() {
    let rig = Rig::new(&[]);
    let (tx, rx) = channel();
    for wait in [Duration::ZERO, Duration::from_millis(120), PATIENCE * 10] {
        let tx = tx.clone();
        rig.handle.post(Box::new(move |d| {
            let waiter = move |_: &mut Driver<Loopback>, over: bool| {
                if over {
                    tx.send(wait).unwrap();
                }
                false
            };
            d.wait_for(d.now() + wait, Box::new(waiter));
        }));
    }
    let next = || rx.recv_timeout(PATIENCE).unwrap();
    assert_eq!((next(), next()), (Duration::ZERO, Duration::from_millis(120)));
    drop(rig);
    assert_eq!(next(), PATIENCE * 10);
}
