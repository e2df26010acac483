//! What an end has sent to addresses that never answered it, against what protocol.md allows, and what it keeps.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use ztna_core::bucket::Prefix;

use super::lab::{End, Lab};

/// Checks to one prefix: at once, and a second (path::budget). Ports guessed in a burst and sockets that take part in one
/// (protocol.md), of which there is one in ten minutes.
const AT_ONCE: u64 = 256;
const EACH_SECOND: u64 = 25;
const BURST: u64 = 1_024 + 256;
const BURST_EVERY: u64 = 600;
/// The peer's candidates and the addresses that its checks showed (path::checklist), and what was refused of the former.
const MOST_PAIRS: usize = 32 + 16;

#[derive(Debug, Default)]
pub struct Account {
    /// When the end began.
    pub since: Duration,
    answered: BTreeSet<SocketAddr>,
    checks: BTreeMap<Prefix, u64>,
    data: u64,
}

impl Account {
    /// A packet for the peer by no relay. Answers are not counted: they go where a check came from.
    pub fn sent(&mut self, to: SocketAddr, packet: &[u8]) {
        if self.answered.contains(&to) {
            return;
        }
        match packet {
            [0, 1, ..] => *self.checks.entry(Prefix::of(to.ip())).or_default() += 1,
            [1, 1, ..] => {}
            _ => self.data += 1,
        }
    }

    /// A genuine message of the peer's came from there.
    pub fn heard(&mut self, from: SocketAddr, message: &[u8]) {
        if message.starts_with(&[1, 1]) {
            self.answered.insert(from);
        }
    }
}

impl Lab {
    /// Panics where an end has done what it must never do.
    pub fn audit(&self, at: &str) {
        for (n, End { account, path, sockets, .. }) in self.ends.iter().enumerate() {
            assert_eq!(account.data, 0, "{at}: end {n} sent data to an address that has not answered");
            let passed = (self.now - account.since).as_secs() + 1;
            let allowed = AT_ONCE + EACH_SECOND * passed + BURST * (1 + passed / BURST_EVERY);
            for (prefix, checks) in &account.checks {
                assert!(*checks <= allowed, "{at}: end {n} sent {checks} checks to {prefix:?}, {allowed} are allowed");
            }
            let pairs = path.direct().map_or(0, |d| d.list().tried().len());
            assert!(pairs <= MOST_PAIRS && sockets.count() <= 256, "{at}: {pairs} pairs, {} sockets", sockets.count());
        }
    }
}
