//! What the relay counts. All loops add to the same counters; readers see them at any time.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the start; the first three go up and down.
#[derive(Debug, Default)]
pub struct Counters {
    pub connections: Count,
    pub agents: Count,
    pub connectors: Count,
    pub handshakes: Handshakes,
    /// Raw packets forwarded between legs, and their bytes.
    pub forwarded_packets: Count,
    pub forwarded_bytes: Count,
    /// Inner packets carried in outer connections, and their bytes.
    pub tunnel_packets: Count,
    pub tunnel_bytes: Count,
    pub retries: Count,
    /// Stateless resets sent.
    pub resets: Count,
    /// Pauses of sending in bursts, on outer connections.
    pub bursts_withheld: Count,
    pub stun: Count,
    pub drops: Drops,
    pub denied: [Count; Denial::ALL.len()],
}

/// One number that any thread may change.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    pub fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }
    pub fn sub(&self, n: usize) {
        self.0.fetch_sub(n as u64, Ordering::Relaxed);
    }
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
pub struct Handshakes {
    pub ok: Count,
    /// The certificate was refused.
    pub refused: Count,
    /// Timed out or given up by the client.
    pub failed: Count,
    /// Not begun: over the rate or the connection limit.
    pub limited: Count,
    /// Not begun: the Retry token was bad or too old.
    pub bad_token: Count,
}

/// Packets dropped, by the queue that had no room or the reason.
#[derive(Debug, Default)]
pub struct Drops {
    /// Forwarded bursts waiting for the socket.
    pub forward: Count,
    /// An outer connection's DATAGRAM queue.
    pub datagram: Count,
    /// Datagrams whose request has not arrived.
    pub early: Count,
    /// Over a session's rate.
    pub rate: Count,
    /// Another loop's inbox.
    pub inbox: Count,
    /// DATAGRAM capsules waiting for a leg with a small MTU.
    pub capsule: Count,
    /// Retry, Version Negotiation and STUN answers.
    pub reply: Count,
    /// First Initials beyond what is answered a second; where the kernel dropped them, an estimate.
    pub initial: Count,
    /// Datagrams of a context or stream that does not exist.
    pub unknown_context: Count,
    /// Datagrams for nobody here.
    pub stray: Count,
    /// Notices that nobody took.
    pub notice: Count,
    /// Connections of an identity beyond its share.
    pub share: Count,
}

impl Drops {
    /// Label and value of each.
    pub fn all(&self) -> [(&'static str, u64); 12] {
        [
            ("forward", self.forward.get()),
            ("datagram", self.datagram.get()),
            ("early", self.early.get()),
            ("rate", self.rate.get()),
            ("inbox", self.inbox.get()),
            ("capsule", self.capsule.get()),
            ("reply", self.reply.get()),
            ("initial", self.initial.get()),
            ("unknown_context", self.unknown_context.get()),
            ("stray", self.stray.get()),
            ("notice", self.notice.get()),
            ("share", self.share.get()),
        ]
    }
}

/// Why a request was refused: the metric's `reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    Policy,
    WrongRole,
    NotBound,
    Conflict,
    Limit,
    Draining,
    BadRequest,
}

impl Denial {
    pub const ALL: [Denial; 7] = [
        Denial::Policy,
        Denial::WrongRole,
        Denial::NotBound,
        Denial::Conflict,
        Denial::Limit,
        Denial::Draining,
        Denial::BadRequest,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Denial::Policy => "policy",
            Denial::WrongRole => "wrong-role",
            Denial::NotBound => "not-bound",
            Denial::Conflict => "conflict",
            Denial::Limit => "limit",
            Denial::Draining => "draining",
            Denial::BadRequest => "bad-request",
        }
    }
}

impl Counters {
    pub(super) fn denied(&self, why: Denial) {
        if let Some(count) = self.denied.get(why as usize) {
            count.add(1);
        }
    }
}
