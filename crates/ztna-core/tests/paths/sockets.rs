//! What a loop and a node have around port bursts: sockets that come and go, and the node's gate.

use std::collections::BTreeMap;

use ztna_core::id::SpiffeId;
use ztna_core::path::burst::{BurstAction, BurstSettings, Gate};
use ztna_core::role::SocketIndex;

use super::lab::{End, Lab};

/// Ports that Linux gives to sockets that name none (ip_local_port_range).
const EPHEMERAL: (u64, u64) = (32_768, 28_232);

#[derive(Default)]
pub struct Sockets {
    seed: u64,
    gate: Gate,
    open: BTreeMap<SocketIndex, u16>,
    next: SocketIndex,
    /// Most that the system gives.
    pub room: usize,
    /// Most that were open at a time, and times that any were opened.
    pub most: usize,
    pub bursts: usize,
    pub enlarged: Vec<SocketIndex>,
}

impl Sockets {
    pub fn new(seed: u64) -> Sockets {
        Sockets { seed, room: usize::MAX, next: 2, ..Sockets::default() }
    }

    /// What outlives an inner connection.
    pub fn outlive(&mut self) -> Sockets {
        Sockets { gate: std::mem::take(&mut self.gate), ..Sockets::new(self.seed) }
    }

    pub fn set(&mut self, settings: BurstSettings) {
        self.gate.set(settings);
    }

    pub fn count(&self) -> usize {
        self.open.len()
    }

    pub fn index_of(&self, port: u16) -> Option<SocketIndex> {
        self.open.iter().find(|(_, p)| **p == port).map(|(index, _)| *index)
    }

    /// As the loop does: all of them or none.
    fn open(&mut self, count: usize) -> (SocketIndex, usize) {
        let first = self.next;
        if count > self.room {
            return (first, 0);
        }
        while self.open.range(first..).count() < count {
            self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let port = (EPHEMERAL.0 + (self.seed >> 33) % EPHEMERAL.1) as u16;
            if self.index_of(port).is_none() && !(40_000..40_010).contains(&port) {
                self.open.insert(self.next, port);
                self.next += 1;
            }
        }
        self.most = self.most.max(self.open.len());
        self.bursts += 1;
        (first, count)
    }
}

impl End {
    /// The local port of a socket; `None` where it is closed.
    pub fn port_of(&self, socket: Option<SocketIndex>) -> Option<u16> {
        match socket {
            Some(index) => self.sockets.open.get(&index).copied(),
            None => Some(self.port),
        }
    }
}

impl Lab {
    pub fn settle_burst(&mut self, end: usize) {
        let now = self.at();
        let peer: SpiffeId = "spiffe://example.test/agent/other".parse().unwrap();
        let End { path, sockets, .. } = &mut self.ends[end];
        let Some(direct) = path.direct_mut() else { return };
        while let Some(action) = direct.poll_burst(now, &mut sockets.gate, 0, &peer) {
            match action {
                BurstAction::Open { count } => {
                    let (first, count) = sockets.open(count);
                    direct.sockets_opened(now, first, count);
                }
                BurstAction::Close { first, count } => {
                    (first..first + count).for_each(|index| assert!(sockets.open.remove(&index).is_some()));
                }
                BurstAction::Keep { socket, .. } => sockets.enlarged.push(socket),
                BurstAction::Over(_) => {}
            }
        }
    }
}
