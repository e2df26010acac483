//! Port bursts as a node has them: one at a time, the sockets of it, and those that stay.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use super::Node;
use crate::id::SpiffeId;
use crate::path::burst::{BurstAction, BurstSettings, Gate};
use crate::role::{Action, SocketIndex};

#[derive(Debug, Default)]
pub(super) struct Bursts {
    gate: Gate,
    /// Number of the last question for sockets, and the link that it is for while the loop has not answered.
    asked: u64,
    waits: Option<usize>,
    /// Link, first socket and number of those that wait for a guess.
    open: Option<(usize, SocketIndex, usize)>,
    /// Sockets that a guess has hit: whom they reach, and where.
    kept: BTreeMap<SocketIndex, (SpiffeId, SocketAddr)>,
}

impl Node {
    /// What the owner has set. Those beyond their limits are cut.
    pub fn set_bursts(&mut self, settings: BurstSettings) {
        self.bursts.gate.set(settings);
    }

    pub(super) fn settle_burst(&mut self, now: Instant, key: usize) {
        let Some(link) = self.links.get_mut(key) else { return };
        let (Some(peer), Some(direct)) = (link.conn.identity().cloned(), link.path.direct_mut()) else { return };
        let bursts = &mut self.bursts;
        if let Some(to) = direct.wants_burst(now) {
            let mut kept =
                bursts.kept.iter().filter(|(_, (id, at))| *id == peer.id && *at == to).map(|(socket, _)| *socket);
            if let Some(socket) = kept.find(|s| !direct.list().has_socket(*s)) {
                // Another connection to this peer has a way in already.
                direct.try_socket(now, socket, to);
            }
        }
        while let Some(action) = direct.poll_burst(now, &mut bursts.gate, key, &peer.id) {
            match action {
                BurstAction::Open { count } => {
                    bursts.asked += 1;
                    bursts.waits = Some(key);
                    self.actions.push_back(Action::OpenSockets { id: bursts.asked, family_v4: true, count });
                }
                BurstAction::Close { first, count } => {
                    bursts.open = None;
                    self.actions.push_back(Action::CloseSockets { first, count });
                }
                BurstAction::Keep { socket, to } => {
                    bursts.open = None;
                    bursts.kept.insert(socket, (peer.id.clone(), to));
                    self.actions.push_back(Action::EnlargeSocket(socket));
                }
                BurstAction::Over(outcome) => {
                    tracing::info!(peer = %link.peer, result = outcome.as_str(), "port burst");
                    *self.counters.port_bursts.entry(outcome.as_str()).or_default() += 1;
                }
            }
        }
    }

    /// The loop's answer to an [`Action::OpenSockets`].
    pub fn sockets_opened(&mut self, now: Instant, id: u64, first: SocketIndex, count: usize) {
        let waits = if id == self.bursts.asked { self.bursts.waits.take() } else { None };
        let direct = waits.and_then(|key| Some((key, self.links.get_mut(key)?.path.direct_mut()?)));
        let Some((key, direct)) = direct else {
            if count > 0 {
                self.actions.push_back(Action::CloseSockets { first, count });
            }
            return;
        };
        self.bursts.open = (count > 0).then_some((key, first, count));
        direct.sockets_opened(now, first, count);
        self.touch_link(key);
    }

    /// The link is gone.
    pub(super) fn forget_burst(&mut self, key: usize) {
        let bursts = &mut self.bursts;
        bursts.gate.end(key);
        bursts.waits.take_if(|waits| *waits == key);
        if let Some((_, first, count)) = bursts.open.take_if(|(owner, ..)| *owner == key) {
            self.actions.push_back(Action::CloseSockets { first, count });
        }
    }

    /// Closes the sockets on which no pair stands any more.
    pub(super) fn close_unused_sockets(&mut self) {
        let links = &self.links;
        let uses = |socket| links.iter().filter_map(|(_, l)| l.path.direct()).any(|d| d.list().has_socket(socket));
        let unused: Vec<SocketIndex> = self.bursts.kept.keys().copied().filter(|s| !uses(*s)).collect();
        for socket in unused {
            self.bursts.kept.remove(&socket);
            self.actions.push_back(Action::CloseSockets { first: socket, count: 1 });
        }
    }
}
