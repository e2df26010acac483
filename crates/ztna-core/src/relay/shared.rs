//! What the loops of one relay have in common.

use std::collections::{HashSet, VecDeque};
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::SystemTime;

use super::RelayConfig;
use super::admission::Admission;
use super::counters::Counters;
use super::forward::Forwarding;
use super::inbox::{Inbox, LoopMessage, Side};
use super::registry::{Registry, Session};
use crate::quic::endpoint::random_cid;
use crate::wire::Cid;
use crate::wire::decision::DecisionId;

/// Wakes the loop of that index. Called from any loop's thread; must not block.
pub type Wake = Arc<dyn Fn(usize) + Send + Sync>;

/// Most loops: the index is the first byte of a connection ID.
pub const MAX_LOOPS: usize = 256;

/// The registry of binds and sessions, the forwarding table, the loops' inboxes, counters. One a relay.
pub struct Shared {
    pub(super) config: RelayConfig,
    pub(super) counters: Counters,
    pub(super) registry: Registry,
    pub(super) forwarding: Forwarding,
    pub(super) admission: Mutex<Admission>,
    /// Set by the first loop: name and end of the certificate.
    pub(super) name: OnceLock<String>,
    pub(super) expiry: Mutex<Option<SystemTime>>,
    pub(super) draining: AtomicBool,
    inboxes: Vec<Mutex<Inbox>>,
    wake: Wake,
    /// Connection IDs of outer connections, none of which may be registered for forwarding.
    own: RwLock<HashSet<Cid>>,
    ids: AtomicU64,
    decisions: AtomicU64,
}

impl Shared {
    /// `loops` is 1 to 256; other values are brought into that range.
    pub fn new(config: RelayConfig, loops: usize, wake: Wake) -> Arc<Shared> {
        let inboxes = (0..loops.clamp(1, MAX_LOOPS)).map(|_| Mutex::default()).collect();
        let admission = Mutex::new(Admission::new(&config.limits));
        Arc::new(Shared {
            config,
            counters: Counters::default(),
            registry: Registry::default(),
            forwarding: Forwarding::default(),
            admission,
            name: OnceLock::new(),
            expiry: Mutex::default(),
            draining: AtomicBool::new(false),
            inboxes,
            wake,
            own: RwLock::default(),
            ids: AtomicU64::new(1),
            // At a random place, so that IDs of two runs, or of two nodes, are not taken for one.
            decisions: AtomicU64::new(u64::from_le_bytes(random_cid(None).0)),
        })
    }

    pub fn loops(&self) -> usize {
        self.inboxes.len()
    }

    /// First Initials that each loop answers a second: the kernel spreads senders evenly.
    pub(super) fn retries_per_loop(&self) -> u32 {
        (self.config.limits.retries / self.loops() as u32).max(1)
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Ends a session. `false`: there is none of that ID.
    pub fn kick(&self, session: u64) -> bool {
        match self.registry.session(session) {
            Some(s) => self.post(s.agent_loop, LoopMessage::Kick { session }),
            None => false,
        }
    }

    /// What finds no room in the inbox is dropped and counted. `false`: there is no such loop.
    pub(super) fn post(&self, to: usize, message: LoopMessage) -> bool {
        let Some(inbox) = self.inboxes.get(to) else { return false };
        let pushed = inbox.lock().unwrap_or_else(PoisonError::into_inner).push(message);
        match pushed {
            Ok(true) => (self.wake)(to),
            Ok(false) => {}
            Err(LoopMessage::Tunnelled { frames, .. }) => self.counters.drops.inbox.add(frames.len()),
            Err(_) => self.counters.drops.inbox.add(1),
        }
        true
    }

    /// Whether a loop takes further requests of other loops.
    pub(super) fn has_room(&self, at: usize) -> bool {
        self.inboxes.get(at).is_some_and(|i| i.lock().unwrap_or_else(PoisonError::into_inner).has_room())
    }

    pub(super) fn take_inbox(&self, index: usize) -> VecDeque<LoopMessage> {
        self.inboxes.get(index).map(|i| i.lock().unwrap_or_else(PoisonError::into_inner).take()).unwrap_or_default()
    }

    /// An ID for a bind or a session, never given twice.
    pub(super) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// The ID of a denial by policy.
    pub(super) fn next_decision(&self) -> DecisionId {
        DecisionId::new(self.decisions.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn own_cid(&self, cid: Cid, ours: bool) {
        let mut own = self.own.write().unwrap_or_else(PoisonError::into_inner);
        if ours {
            own.insert(cid);
        } else {
            own.remove(&cid);
        }
    }

    pub(super) fn is_own_cid(&self, cid: &Cid) -> bool {
        self.own.read().unwrap_or_else(PoisonError::into_inner).contains(cid)
    }

    /// Counts `bytes` of one session in datagrams of `stride` bytes (the last may be shorter), from the leg at `side`.
    pub(super) fn count_forwarded(&self, side: Side, session: &Session, bytes: usize, stride: usize) {
        self.counters.forwarded_packets.add(bytes.div_ceil(stride.max(1)));
        self.counters.forwarded_bytes.add(bytes);
        match side {
            Side::Agent => session.tx.add(bytes),
            Side::Connector => session.rx.add(bytes),
        }
    }
}

/// A random unique local address (RFC 4193) and port: a name, bound to nothing.
pub(super) fn random_alias() -> SocketAddr {
    let mut bytes = [0u8; 18];
    let _ = boring::rand::rand_bytes(&mut bytes);
    let (ip, port) = bytes.split_at(16);
    let mut octets: [u8; 16] = ip.try_into().unwrap_or([0; 16]);
    octets[0] = 0xfd;
    let port: [u8; 2] = port.try_into().unwrap_or([1, 1]);
    SocketAddr::from((Ipv6Addr::from(octets), u16::from_be_bytes(port).max(1)))
}
