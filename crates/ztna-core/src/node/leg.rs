//! A node's outer connection to one relay: connect, come up, drain, back off, connect again.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::accept::Dropped;
use super::backoff::Backoff;
use super::turns::{Families, Turns};
use crate::quic::black_hole::BlackHole;
use crate::quic::connection::HANDSHAKE;
use crate::quic::{Connection, StreamId, Wrote};
use crate::trust::RelayUrl;
use crate::wire::capsule::{Capsule, CapsuleReader};

/// Keep-alive of an idle agent's outer connections (protocol.md, Timers). It learns of a lost relay when it next wants something.
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Keep-alive of a connector's, and of an agent's with open flows: nobody reaches it through a relay that was restarted before it has
/// noticed (decision 0005).
pub const KEEP_ALIVE_BOUND: Duration = Duration::from_secs(5);
/// Silence, with something unacknowledged, after which a relay counts as gone: well past the 250 ms at which data moves to
/// another path, so that a short outage costs no handshake.
pub const SILENT: Duration = Duration::from_secs(3);
/// Capsule bytes that wait for the stream's window, a stream. Inner packets on a narrow link travel here: 256 KB is the inner
/// window of 200 Mbit/s over 10 ms; more only queues.
const OUTBOX: usize = 256 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LegState {
    /// Waits to connect again.
    Waiting {
        until: Instant,
    },
    Connecting {
        since: Instant,
    },
    /// SETTINGS have arrived: requests may be sent.
    Ready,
    /// The relay said GOAWAY: what runs goes on, nothing new.
    Draining,
    /// A newer process of our identity is bound here: never again from this process.
    Replaced,
}

pub struct Leg {
    pub relay: String,
    pub urls: Vec<RelayUrl>,
    pub addresses: Vec<SocketAddr>,
    turns: Turns,
    pub address: Option<SocketAddr>,
    pub state: LegState,
    pub conn: Option<Connection>,
    pub backoff: Backoff,
    /// The bind request of a connector.
    pub bind: Option<StreamId>,
    pub bound: bool,
    pub observed: Vec<SocketAddr>,
    pub streams: BTreeMap<StreamId, Capsules>,
    /// Connector: sessions of the bind, and unfinished inner handshakes on them.
    pub sessions: usize,
    pub handshakes: usize,
    /// Connector: of those, what found no place.
    pub dropped: Dropped,
    pub last_sent: Instant,
    pub keep_alive: Duration,
    last_heard: usize,
    silent_since: Option<Instant>,
    black_hole: BlackHole,
    /// It was up at least once: what failed is an outage, not a wrong address.
    pub ever_ready: bool,
    pub last_error: Option<String>,
    /// When a connection under our new certificate takes the place of this one.
    pub renew_at: Option<Instant>,
    /// It is being made anew by our own wish: no outage, until that fails.
    pub replacing: bool,
    /// Why it goes has been told: its end is no news.
    pub told: bool,
    /// Something has come back from the relay, since it was given up for its silence if it was.
    pub heard: bool,
}

impl Leg {
    pub fn new(relay: String, urls: Vec<RelayUrl>, now: Instant, keep_alive: Duration) -> Self {
        let addresses = urls
            .iter()
            .filter_map(|u| Some(SocketAddr::new(u.host.trim_matches(['[', ']']).parse().ok()?, u.port)))
            .collect();
        Leg {
            relay,
            urls,
            addresses,
            turns: Turns::default(),
            address: None,
            state: LegState::Waiting { until: now },
            conn: None,
            backoff: Backoff::default(),
            bind: None,
            bound: false,
            observed: Vec::new(),
            streams: BTreeMap::new(),
            sessions: 0,
            handshakes: 0,
            dropped: Dropped::default(),
            last_sent: now,
            keep_alive,
            last_heard: 0,
            silent_since: None,
            black_hole: BlackHole::default(),
            ever_ready: false,
            last_error: None,
            renew_at: None,
            replacing: false,
            told: false,
            heard: false,
        }
    }

    /// Which relay it is, where, and what is wrong with it, if anything.
    pub fn describe(&self) -> String {
        let at = if self.addresses.is_empty() {
            self.urls.iter().map(|u| format!("{}:{}", u.host, u.port)).collect::<Vec<_>>().join(", ")
        } else {
            self.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        let waits = if self.is_ready() { "connected" } else { "no answer yet" };
        format!("relay {} ({at}): {}", self.relay, self.last_error.as_deref().unwrap_or(waits))
    }

    /// Host names that must be resolved before this leg can connect.
    pub fn unresolved(&self) -> impl Iterator<Item = &str> {
        let named = self.urls.iter().filter(|u| u.host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_err());
        named.map(|u| u.host.as_str())
    }

    /// Takes turns over the relay's addresses.
    pub fn take_address(&mut self, families: Families) -> Option<SocketAddr> {
        self.address = self.turns.take(&self.addresses, families);
        self.address
    }

    /// How long connecting may take: less where the relay has another address and this one is silent.
    fn patience(&self) -> Duration {
        if self.last_heard > 0 { HANDSHAKE } else { self.turns.patience() }
    }

    pub fn is_ready(&self) -> bool {
        self.state == LegState::Ready && self.conn.as_ref().is_some_and(Connection::is_ready)
    }

    /// Can carry datagrams of sessions that exist.
    pub fn is_alive(&self) -> bool {
        matches!(self.state, LegState::Ready | LegState::Draining)
    }

    /// Silent although something is owed: not a relay for a new session if there is another.
    pub fn is_doubtful(&self, now: Instant) -> bool {
        self.silent_since.is_some_and(|t| now.saturating_duration_since(t) >= Duration::from_millis(400))
    }

    pub fn rtt(&self) -> Duration {
        self.conn.as_ref().map_or(Duration::MAX, Connection::rtt)
    }

    /// Packets arrived: what is owed is paid.
    pub fn note_received(&mut self) {
        let Some(conn) = &self.conn else { return };
        let heard = conn.received();
        if heard != self.last_heard {
            self.last_heard = heard;
            self.heard = true;
            self.silent_since = None;
            self.turns.answered();
        }
    }

    /// Packets went out.
    pub fn note_sent(&mut self, now: Instant) {
        self.last_sent = now;
        let owed = self.conn.as_ref().is_some_and(|c| c.in_flight(now));
        self.silent_since = if owed { Some(self.silent_since.unwrap_or(now)) } else { None };
    }

    /// The relay has not answered for too long.
    pub fn is_dead(&self, now: Instant) -> bool {
        let quiet = SILENT.max(self.rtt().min(Duration::from_secs(2)) * 8);
        match self.state {
            LegState::Connecting { since } => now >= since + self.patience(),
            LegState::Ready | LegState::Draining => self.silent_since.is_some_and(|t| now >= t + quiet),
            LegState::Waiting { .. } | LegState::Replaced => false,
        }
    }

    /// A link above went silent: asks whether the way to the relay still carries full-sized packets.
    pub fn probe_width(&mut self, now: Instant) {
        if let Some(conn) = self.conn.as_mut().filter(|_| matches!(self.state, LegState::Ready | LegState::Draining)) {
            self.black_hole.suspect(now, conn);
        }
    }

    /// Small packets pass and full-sized ones no longer do.
    pub fn is_narrowed(&mut self, now: Instant) -> bool {
        self.conn.as_mut().is_some_and(|conn| self.black_hole.is_found(now, conn))
    }

    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let conn = self.conn.as_ref().and_then(Connection::timeout_instant);
        let own = match self.state {
            LegState::Waiting { until } => (!self.addresses.is_empty()).then_some(until),
            LegState::Connecting { since } => Some(since + self.patience()),
            LegState::Ready | LegState::Draining => {
                let dead = self.silent_since.map(|t| t + SILENT.max(self.rtt().min(Duration::from_secs(2)) * 8));
                let alive = self.last_sent + self.keep_alive;
                Some(dead.map_or(alive, |d| d.max(now).min(alive)))
            }
            LegState::Replaced => None,
        };
        let width = self.conn.as_ref().and_then(|c| self.black_hole.poll_timeout(now, c));
        conn.into_iter().chain(own).chain(width).chain(self.renew_at).min()
    }

    /// Drops everything of the connection that ended.
    pub fn reset(&mut self) {
        self.conn = None;
        self.bind = None;
        self.bound = false;
        self.streams.clear();
        self.sessions = 0;
        self.handshakes = 0;
        self.silent_since = None;
        self.black_hole = BlackHole::default();
        self.last_heard = 0;
        self.renew_at = None;
        self.replacing = false;
        self.address = None;
    }

    pub fn send_capsule(&mut self, stream: StreamId, capsule: &Capsule) -> bool {
        let Some(capsules) = self.streams.get_mut(&stream) else { return false };
        let taken = capsules.push(capsule);
        if let Some(conn) = self.conn.as_mut() {
            capsules.flush(conn, stream);
        }
        taken
    }

    /// Datagrams or capsules wait for the window.
    pub fn has_unsent(&self) -> bool {
        self.conn.as_ref().is_some_and(|c| c.dgram_queued() > 0) || self.streams.values().any(|s| !s.out.is_empty())
    }

    pub fn flush_capsules(&mut self, stream: StreamId) {
        if let (Some(conn), Some(capsules)) = (self.conn.as_mut(), self.streams.get_mut(&stream)) {
            capsules.flush(conn, stream);
        }
    }

    /// Reads what arrived on a capsule stream. `Err`: the relay broke the protocol.
    pub fn read_capsules(&mut self, stream: StreamId, into: &mut VecDeque<(StreamId, Capsule)>) -> Result<(), String> {
        let (Some(conn), Some(capsules)) = (self.conn.as_mut(), self.streams.get_mut(&stream)) else { return Ok(()) };
        let mut buf = [0u8; 4096];
        loop {
            let n = conn.read(stream, &mut buf);
            if n == 0 {
                return Ok(());
            }
            capsules.reader.push(buf.get(..n).unwrap_or_default());
            while let Some(capsule) = capsules.reader.next().map_err(|e| e.to_string())? {
                into.push_back((stream, capsule));
            }
        }
    }
}

/// Capsules of one request stream, both ways (RFC 9297 §3).
#[derive(Default)]
pub struct Capsules {
    reader: CapsuleReader,
    out: Vec<u8>,
}

impl Capsules {
    /// Queues a capsule; `false` when too much waits already.
    pub fn push(&mut self, capsule: &Capsule) -> bool {
        if self.out.len() > OUTBOX {
            return false;
        }
        capsule.encode(&mut self.out);
        true
    }

    pub fn flush(&mut self, conn: &mut Connection, stream: StreamId) {
        while !self.out.is_empty() {
            match conn.write(stream, &self.out, false) {
                Wrote::Bytes(n) => drop(self.out.drain(..n.min(self.out.len()))),
                Wrote::Blocked => return,
                Wrote::Stopped(_) | Wrote::Gone => self.out.clear(),
            }
        }
    }
}
