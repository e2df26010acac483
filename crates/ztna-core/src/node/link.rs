//! An inner connection, agent ↔ connector, and the paths below it.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant};

use super::finishing::Finishing;
use super::lost::Doubt;
use super::path_stats::Stretch;
use crate::id::FlowId;
use crate::node::backoff::Backoff;
use crate::path::{PathAgent, PathId};
use crate::quic::connection::HANDSHAKE;
use crate::quic::{Connection, StreamId};
use crate::role::{PathInfo, PathKind, PathPolicy};

/// Keep-alive of inner connections (protocol.md, Timers).
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The constant 4-tuple that quiche sees on every inner connection: discard-only addresses (RFC 6666).
pub const AGENT_ADDRESS: SocketAddr =
    SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1), 1, 0, 0));
pub const CONNECTOR_ADDRESS: SocketAddr =
    SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 2), 2, 0, 0));

pub struct Link {
    pub conn: Connection,
    pub path: PathAgent,
    /// The other end's name.
    pub peer: String,
    pub policy: PathPolicy,
    pub(super) signalling: super::direct::Signalling,
    pub flows: BTreeMap<StreamId, FlowId>,
    /// Streams of flows that are over here, while the peer has not acknowledged all of them.
    pub(super) finishing: Finishing,
    pub(super) held: super::budget::Gauge,
    /// Closed for what it holds: it goes as soon as the peer has been told, without the wait of RFC 9000 §10.2.
    pub(super) cut: bool,
    /// No new flows: a successor takes them (key limit, GOAWAY, snapshot change).
    pub retiring: bool,
    born: Instant,
    /// Connector: the leg whose share of unfinished handshakes it counts in.
    pub pending_on: Option<usize>,
    pub last_sent: Instant,
    pub heard: usize,
    /// Agent: a stateless reset has come, and nothing genuine since.
    pub(super) doubt: Option<Doubt>,
    pub path_since: Instant,
    pub path_info: Option<PathInfo>,
    pub(super) stretch: Stretch,
    /// The first destination connection ID a client chose, kept for late Initials.
    pub initial_dcid: Option<Vec<u8>>,
    /// Agent: relays that refused a session, so that each is asked once.
    pub refused: Vec<(String, crate::error::Error)>,
    /// Why we end it, for its flows; `None` where the close itself says it.
    pub cause: Option<crate::error::Error>,
    /// Agent: when to look for a session again after every relay has refused one.
    pub seek_at: Option<Instant>,
    pub seek_backoff: Backoff,
}

impl Link {
    pub fn new(conn: Connection, peer: String, policy: PathPolicy, now: Instant) -> Self {
        // The agent leads: it chose the connector, and opens the sessions.
        let leads = !conn.kind().is_server();
        Link {
            conn,
            path: PathAgent::new(leads),
            peer,
            policy,
            signalling: super::direct::Signalling::default(),
            flows: BTreeMap::new(),
            finishing: Finishing::default(),
            held: super::budget::Gauge::default(),
            cut: false,
            retiring: false,
            born: now,
            pending_on: None,
            last_sent: now,
            heard: 0,
            doubt: None,
            path_since: now,
            path_info: None,
            stretch: Stretch::default(),
            initial_dcid: None,
            refused: Vec::new(),
            cause: None,
            seek_at: None,
            seek_backoff: Backoff::default(),
        }
    }

    /// Agent: a request of any kind put on it now is likely to arrive.
    pub fn can_ask(&self) -> bool {
        self.conn.is_ready() && self.reaches()
    }

    /// Agent: the same of a plain CONNECT, which needs no SETTINGS.
    pub fn can_connect(&self) -> bool {
        self.conn.takes_plain_requests() && self.reaches()
    }

    fn reaches(&self) -> bool {
        let path = match (self.policy, self.path.active()) {
            // The other end too: what it answers would go by the relay.
            (PathPolicy::DirectOnly, _) => self.path.kinds().is_only_direct(),
            (PathPolicy::Auto | PathPolicy::RelayOnly, active) => active.is_some(),
        };
        path && !self.conn.is_ending() && !self.retiring && !self.path.is_stalled() && !self.path.is_doubtful()
    }

    /// Its peer has not shown a certificate yet.
    pub fn is_unproven(&self) -> bool {
        !self.conn.is_established()
    }

    /// Its handshake has not come to an end in time.
    pub fn is_overdue(&self, now: Instant) -> bool {
        self.is_unproven() && now >= self.born + HANDSHAKE
    }

    pub fn poll_timeout(&self, keeps_alive: bool) -> Option<Instant> {
        let late = (!self.conn.is_established()).then(|| self.born + HANDSHAKE);
        let alive = (keeps_alive && self.conn.is_established()).then(|| self.last_sent + KEEP_ALIVE);
        let lost = self.doubt.as_ref().map(Doubt::until);
        let own = [self.conn.timeout_instant(), self.path.poll_timeout(), alive, late, lost, self.seek_at];
        own.into_iter().flatten().min()
    }

    /// Of the path in use: a direct one's checks measure it, else the connection's own packets do.
    pub fn round_trip(&self) -> Duration {
        let checked = match self.path.active() {
            Some(PathId::Direct(pair)) => self.path.direct().and_then(|d| d.list().rtt(pair)),
            Some(PathId::Relay(_)) | None => None,
        };
        checked.unwrap_or_else(|| self.conn.rtt())
    }

    /// The path as people see it; `relay` names the active session's relay and where we send.
    pub fn describe(&self, relay: Option<(String, SocketAddr)>) -> PathInfo {
        let kind = match self.path.active() {
            Some(PathId::Relay(p)) => PathKind::Relay { forwarded: p.forwarded },
            Some(PathId::Direct(_)) => PathKind::Direct,
            None => PathKind::None,
        };
        let (relay, remote) = match self.path.active() {
            Some(PathId::Direct(pair)) => {
                (None, self.path.direct().and_then(|d| d.list().remote(pair)).map(|(_, at)| at))
            }
            Some(PathId::Relay(_)) | None => relay.map_or((None, None), |(name, at)| (Some(name), Some(at))),
        };
        PathInfo {
            kind,
            relay,
            local: None,
            remote,
            rtt: self.round_trip(),
            mtu: crate::quic::tls::INNER_PAYLOAD,
            loss_pct: self.stretch.loss_percent(self.conn.loss()),
            since: self.path_since,
        }
    }
}
