//! Port bursts of nodes that lose the connection to their peer meanwhile.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::world::{World, node_at, relay_at};

const ALICE: u8 = 1;
const C1: u8 = 2;
/// The agent as its second relay sees it: its NAT gives each destination another port.
const ELSEWHERE: u16 = 41_000;

/// An agent behind a hard NAT and a connector without one, where nothing passes between them. Beside it, how many packets each has sent to
/// the other since the start.
fn apart() -> (World, Rc<[Cell<u32>; 2]>) {
    let mut w = World::new(2, &["c1"]);
    (w.direct, w.gives_sockets) = (true, true);
    w.translated.insert((node_at(ALICE), relay_at(2)), SocketAddr::new(node_at(ALICE).ip(), ELSEWHERE));
    let sent = Rc::new([Cell::new(0), Cell::new(0)]);
    let count = sent.clone();
    w.lose = Box::new(move |from, to, _| {
        let direct = [1, 2].iter().all(|n| from != relay_at(*n) && to != relay_at(*n));
        if direct {
            let by = &count[usize::from(from == node_at(C1))];
            by.set(by.get() + 1);
        }
        direct
    });
    w.start_relay(1);
    w.start_relay(2);
    w.start_connector(node_at(C1), "c1");
    w.start_agent(node_at(ALICE), "alice", None);
    w.has_address(node_at(ALICE), "192.168.1.10".parse().unwrap());
    (w, sent)
}

/// Nothing goes from one to the other for as long as a burst might last.
fn falls_silent(w: &mut World, sent: &Cell<u32>) {
    let before = sent.get();
    assert!(!w.within(Duration::from_secs(2), |_| sent.get() > before), "{} packets more", sent.get() - before);
}

#[test]
fn sockets_of_a_burst_are_closed_with_the_connection_and_nothing_more_is_sent() {
    let (mut w, sent) = apart();
    w.opened(node_at(ALICE), "web");
    assert!(w.until(|w| w.sockets.len() == 256), "no burst");
    // Mid-way: some of the sockets have sent, and the guesses have begun.
    let guesses = sent[1].get();
    assert!(w.until(|_| sent[1].get() > guesses + 100), "no guesses");
    w.shut_down(node_at(C1), Duration::ZERO);
    assert!(w.until(|w| w.agent(node_at(ALICE)).node().links.is_empty()), "the connection stands");
    assert_eq!(w.sockets.len(), 0);
    falls_silent(&mut w, &sent[0]);
}

#[test]
fn no_port_is_guessed_after_the_connection_has_ended() {
    let (mut w, sent) = apart();
    w.opened(node_at(ALICE), "web");
    assert!(w.until(|w| w.sockets.len() == 256), "no burst");
    let guesses = sent[1].get();
    assert!(w.until(|_| sent[1].get() > guesses + 100), "no guesses");
    w.shut_down(node_at(ALICE), Duration::ZERO);
    assert!(w.until(|w| w.connector(node_at(C1)).node().links.is_empty()), "the connection stands");
    assert!(sent[1].get() < guesses + 900, "it was over: {}", sent[1].get() - guesses);
    falls_silent(&mut w, &sent[1]);
}

#[test]
fn sockets_that_come_after_the_connection_has_ended_are_closed_again() {
    let (mut w, _) = apart();
    w.holds_sockets_back = true;
    w.opened(node_at(ALICE), "web");
    assert!(w.until(|w| w.sockets.len() == 256), "no burst");
    w.shut_down(node_at(C1), Duration::ZERO);
    assert!(w.until(|w| w.agent(node_at(ALICE)).node().links.is_empty()), "the connection stands");
    w.give_sockets(node_at(ALICE));
    assert!(w.until(|w| w.sockets.is_empty()), "{} are open", w.sockets.len());
}
