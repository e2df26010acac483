//! Outer connections: connecting, binding, sessions, and what relays say in capsules.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use super::flows::{MISDIRECTED, REASON, REASONS};
use super::leg::{Capsules, LegState};
use super::session::{Session, Slot};
use super::{Node, NodeEvent, Owner};
use crate::error::{DeniedBy, Error};
use crate::quic::connection::{Closed, H3_NO_ERROR, H3_REQUEST_CANCELLED};
use crate::quic::endpoint::random_cid;
use crate::quic::{Connection, Event, Fields, StreamId, field};
use crate::relay::{H3_REQUEST_REJECTED, REPLACED};
use crate::role::Transmit;
use crate::wire::capsule::Capsule;
use crate::wire::connect_udp;
use crate::wire::decision::DecisionId;
use crate::wire::proxy_status::ProxyStatus;

/// Close code by which a relay tells a node that its certificate is revoked, expired or of a CA no longer trusted.
pub const NOT_TRUSTED: u64 = 0x7a02;
/// The TLS alert certificate_revoked (RFC 8446 §6) as a QUIC error (RFC 9001 §4.8).
const ALERT_REVOKED: u64 = 0x100 + 44;
/// Port in a CONNECT-UDP target: connectors have none, HTTP wants one (protocol.md).
const CONNECTOR_PORT: u16 = 443;
/// Addresses of one relay that are asked how they see us: one of each family does.
const MAX_PROBED: usize = 4;
/// Sessions that a connector takes from one relay: twice what a relay gives a bind by default. Each costs about 200 bytes.
const MAX_SESSIONS: usize = 16_384;
/// Context ID of the uncompressed context that a connector registers first (bind draft; protocol.md).
const UNCOMPRESSED_CONTEXT: u64 = 2;

/// Bursts in which a connection says its last words: a packet that waited may come first, and each may go by itself.
const LAST_BURSTS: usize = 4;

impl Node {
    pub(super) fn leg_timeout(&mut self, now: Instant, key: usize) {
        let Some(leg) = self.legs.get_mut(key) else { return };
        if let LegState::Waiting { until } = leg.state {
            // What it carried is to be told of our end, too.
            if now >= until && self.leaving.is_none() && (self.draining.is_none() || leg.replacing) {
                self.connect_leg(now, key);
            }
            return;
        }
        if let Some(conn) = leg.conn.as_mut() {
            conn.on_timeout();
        }
        if leg.is_dead(now) {
            leg.heard = false;
            self.drop_leg(now, key, "the relay does not answer", false);
            return;
        }
        if leg.is_narrowed(now) {
            // quiche can't shrink packets that it holds, and the relay's end would have to learn it too: a new connection measures
            // both ways from the start, and inner packets that don't fit travel as capsules (protocol.md, Sizes).
            self.drop_leg(now, key, "the way to it no longer carries full-sized packets", false);
            return;
        }
        // Who only listens to a flow sends nothing that a restarted relay could answer.
        let awaited = !self.is_agent || !self.flows.is_empty();
        leg.keep_alive = if awaited { super::leg::KEEP_ALIVE_BOUND } else { super::leg::KEEP_ALIVE };
        if leg.is_alive() && now >= leg.last_sent + leg.keep_alive {
            if let Some(conn) = leg.conn.as_mut() {
                conn.ping();
            }
            leg.last_sent = now;
        }
        if self.draining.is_some() {
            // It serves until the end.
            leg.renew_at = None;
            self.dirty_legs.insert(key);
            return;
        }
        // The outer connection is made anew; inner connections survive that on their other path or after a moment.
        if leg.state == LegState::Ready && leg.conn.as_ref().is_some_and(|c| c.packets() >= self.key_limit.successor) {
            self.replace_leg(now, key, "key limit reached (RFC 9001 B.1)");
            return;
        }
        if leg.renew_at.is_some_and(|t| now >= t) {
            self.replace_leg(now, key, "our certificate has been renewed");
            return;
        }
        self.dirty_legs.insert(key);
    }

    fn connect_leg(&mut self, now: Instant, key: usize) {
        let local = SocketAddr::from(([0, 0, 0, 0], 0));
        let Some(leg) = self.legs.get_mut(key) else { return };
        let Some(address) = leg.take_address(self.families) else {
            leg.state = LegState::Waiting { until: now + super::backoff::MAX };
            leg.last_error = Some("its name does not resolve".into());
            self.resolve.extend(leg.unresolved().map(str::to_owned).collect::<Vec<_>>());
            return;
        };
        let scid = random_cid(None);
        let name = format!("{}.relay.{}", leg.relay, self.snapshot.network.trust_domain);
        match Connection::connect(&mut self.outer_tls, scid, &name, local, address) {
            Ok(conn) => {
                leg.conn = Some(conn);
                leg.state = LegState::Connecting { since: now };
                self.router.insert(scid, Owner::Leg(key));
                self.dirty_legs.insert(key);
            }
            Err(e) => {
                leg.state = LegState::Waiting { until: now + super::backoff::MAX };
                self.warn(e);
            }
        }
    }

    /// Connects to a leg's relay anew, at once. Nothing has failed, so nothing is told.
    fn replace_leg(&mut self, now: Instant, key: usize, why: &str) {
        if let Some(leg) = self.legs.get_mut(key) {
            leg.told = true;
        }
        self.drop_leg(now, key, why, false);
        if let Some(leg) = self.legs.get_mut(key).filter(|l| matches!(l.state, LegState::Waiting { .. })) {
            leg.backoff.reset();
            leg.state = LegState::Waiting { until: now };
            leg.replacing = true;
            self.dirty_legs.insert(key);
        }
    }

    /// Ends a leg's connection and everything on it; comes back after a back-off unless `gone`.
    pub(super) fn drop_leg(&mut self, now: Instant, key: usize, why: &str, gone: bool) {
        let sessions: Vec<usize> = self.sessions.iter().filter(|(_, s)| s.slot.leg == key).map(|(k, _)| k).collect();
        let Some(leg) = self.legs.get_mut(key) else { return };
        let relay = leg.relay.clone();
        if let Some(conn) = leg.conn.as_mut() {
            let scid = conn.scid();
            let address = leg.address;
            if let Some(server) = address {
                self.reflexive.forget(server);
            }
            conn.close(H3_NO_ERROR, why);
            // The close goes out at once; nothing waits for its acknowledgement.
            for _ in 0..LAST_BURSTS {
                let mut bytes = Vec::new();
                let (Some((_, segment)), Some(to)) = (conn.send_burst(&mut bytes, 4), address) else { break };
                self.transmit.push_closing(bytes, Transmit { socket: None, to, from: None, segment });
            }
            self.router.remove(&scid);
        }
        leg.reset();
        leg.last_error = Some(why.to_owned());
        let told = std::mem::take(&mut leg.told);
        if leg.state != LegState::Replaced {
            let wait = leg.backoff.next(random_u32());
            leg.state = LegState::Waiting { until: now + wait };
        }
        if gone {
            self.legs.remove(key);
        } else {
            self.counters.reconnects += 1;
        }
        for session in sessions {
            self.end_session(now, session);
        }
        if !told {
            self.events.push_back(NodeEvent::LegDown { leg: key, relay, why: why.to_owned() });
        }
    }

    /// Warns of what is about to end a leg, in place of its `LegDown`: one failure, one warning.
    fn warn_leg(&mut self, key: usize, error: Error) {
        if let Some(leg) = self.legs.get_mut(key) {
            leg.told = true;
        }
        self.warn(error);
    }

    /// The relay has told that it knows nothing of the connection: nobody is left to be told of its end.
    pub(super) fn leg_reset(&mut self, now: Instant, key: usize) {
        if let Some(conn) = self.legs.get_mut(key).and_then(|l| l.conn.take()) {
            self.router.remove(&conn.scid());
        }
        self.drop_leg(now, key, "the relay has lost the connection (stateless reset)", false);
    }

    pub(super) fn process_leg(&mut self, now: Instant, key: usize) {
        let Some(leg) = self.legs.get_mut(key) else { return };
        let Some(conn) = leg.conn.as_mut() else { return };
        conn.process(&mut self.outer_tls);
        self.counters.bursts_withheld += conn.take_bursts_lost();
        leg.note_received();
        let mut events = VecDeque::new();
        if let Some(conn) = leg.conn.as_mut() {
            while let Some(event) = conn.poll_event() {
                events.push_back(event);
            }
        }
        // Before a capsule that ends their session; one that overtook its announcement is taken as well.
        self.drain_tunnel(now, key);
        for event in events {
            self.leg_event(now, key, event);
        }
    }

    fn leg_event(&mut self, now: Instant, key: usize, event: Event) {
        let Some(leg) = self.legs.get_mut(key) else { return };
        match event {
            Event::Established(peer) => {
                *self.counters.handshakes.entry("ok").or_default() += 1;
                if peer.id.name() != leg.relay {
                    let text = format!("`{}` answered at the address of relay `{}`", peer.id, leg.relay);
                    self.warn_leg(key, Error::Identity(text.clone()));
                    self.drop_leg(now, key, &text, false);
                }
            }
            Event::Ready => {
                leg.state = LegState::Ready;
                leg.ever_ready = true;
                for server in leg.addresses.iter().take(MAX_PROBED) {
                    self.reflexive.probe(now, *server);
                }
                leg.last_error = None;
                if self.is_agent {
                    leg.replacing = false;
                    leg.backoff.reset();
                } else {
                    self.bind(key);
                }
                self.events.push_back(NodeEvent::LegReady(key));
            }
            Event::Headers { stream, fields, fin } => self.relay_answer(now, key, stream, &fields, fin),
            Event::Data { stream } => {
                let mut capsules = VecDeque::new();
                let read = leg.read_capsules(stream, &mut capsules);
                for (stream, capsule) in capsules {
                    self.capsule(now, key, stream, capsule);
                }
                if let Err(why) = read {
                    let relay = self.legs.get(key).map(|l| l.relay.clone()).unwrap_or_default();
                    self.warn_leg(key, Error::Peer(format!("relay `{relay}`: malformed capsules: {why}")));
                    self.drop_leg(now, key, "malformed capsules", false);
                }
            }
            Event::Malformed { stream } | Event::Finished { stream } | Event::Reset { stream, .. } => {
                if leg.bind == Some(stream) {
                    self.drop_leg(now, key, "the relay ended the bind", false);
                } else {
                    // Policy has changed there: asked again it says which.
                    let judged = matches!(event, Event::Reset { code: H3_REQUEST_REJECTED, .. });
                    let ended = "the relay ended the session: the connector has gone, or is at its limit of sessions";
                    self.end_stream(now, key, stream, (!judged).then(|| Error::unreachable(ended)));
                }
            }
            Event::Writable { stream } => leg.flush_capsules(stream),
            Event::GoAway => {
                leg.state = LegState::Draining;
                leg.bound = false;
                leg.told = true;
                let relay = leg.relay.clone();
                self.events.push_back(NodeEvent::LegDown { leg: key, relay, why: "the relay is draining".into() });
            }
            Event::Migrated(_) => {}
            Event::Closed(why) => self.leg_closed(now, key, why),
        }
    }

    fn leg_closed(&mut self, now: Instant, key: usize, why: Closed) {
        let Some(leg) = self.legs.get_mut(key) else { return };
        let relay = leg.relay.clone();
        let text = match &why {
            Closed::TimedOut => "no answer from the relay".to_owned(),
            Closed::Refused(r) => {
                *self.counters.handshakes.entry(r.as_str()).or_default() += 1;
                format!("the relay's certificate was refused: {r}")
            }
            Closed::ByPeer { app: true, code: REPLACED, reason } => {
                leg.state = LegState::Replaced;
                leg.told = true;
                let error = Error::Identity(format!("relay `{relay}`: {reason}"));
                self.events.push_back(NodeEvent::BindRefused { leg: key, error });
                reason.clone()
            }
            Closed::ByPeer { app: false, code, reason } if (0x100..0x200).contains(code) => {
                format!("the relay refused our certificate: {}", alert(code - 0x100, reason))
            }
            Closed::ByPeer { code, reason, .. } => format!("the relay closed the connection: {reason} ({code:#x})"),
            Closed::Local(reason) => reason.clone(),
        };
        let expelled = match &why {
            Closed::ByPeer { app, code, .. } => (*app && *code == NOT_TRUSTED) || (!*app && *code == ALERT_REVOKED),
            Closed::TimedOut | Closed::Refused(_) | Closed::Local(_) => false,
        };
        if matches!(why, Closed::Refused(_) | Closed::ByPeer { app: false, .. }) {
            self.warn_leg(key, Error::Identity(format!("relay `{relay}`: {text}")));
        }
        self.drop_leg(now, key, &text, false);
        if expelled && self.ready_legs().next().is_none() {
            // Flows end on both ends (contract.md), also where the other end's close can't reach us any more. One relay's word is
            // enough only while no other still takes us.
            let links: Vec<usize> = self.links.iter().map(|(k, _)| k).collect();
            for link in links {
                self.close_link(link, H3_NO_ERROR, &text);
            }
        }
    }

    // ---- requests to the relay

    /// Connector: asks the relay to bind our name (draft-ietf-masque-connect-udp-listen).
    fn bind(&mut self, key: usize) {
        let Some(leg) = self.legs.get_mut(key) else { return };
        let fields = connect_fields(
            &leg.relay,
            &self.snapshot.network.trust_domain,
            connect_udp::bind_path(),
            &[("connect-udp-bind", "?1")],
        );
        let Some(conn) = leg.conn.as_mut() else { return };
        match conn.request(&fields, false) {
            Ok(Some(stream)) => {
                leg.bind = Some(stream);
                leg.streams.insert(stream, Capsules::default());
                leg.send_capsule(
                    stream,
                    &Capsule::CompressionAssign { context_id: UNCOMPRESSED_CONTEXT, target: None },
                );
            }
            Ok(None) | Err(_) => leg.last_error = Some("the bind request could not be sent".into()),
        }
    }

    /// Agent: opens a session to a connector at a relay and lets the link's packets use it at once (RFC 9298 §5 allows
    /// datagrams before the answer). `false`: not possible now.
    pub fn open_session(&mut self, now: Instant, leg_key: usize, link_key: usize) -> bool {
        let (Some(leg), Some(link)) = (self.legs.get_mut(leg_key), self.links.get_mut(link_key)) else { return false };
        if !leg.is_ready() {
            return false;
        }
        let domain = &self.snapshot.network.trust_domain;
        let path = connect_udp::target_path(&format!("{}.connector.{domain}", link.peer), CONNECTOR_PORT);
        let fields = connect_fields(&leg.relay, domain, &path, &[]);
        let rtt = leg.rtt();
        let Some(conn) = leg.conn.as_mut() else { return false };
        let Ok(Some(stream)) = conn.request(&fields, false) else { return false };
        leg.streams.insert(stream, Capsules::default());
        let slot = Slot { leg: leg_key, stream, context: 0 };
        let session = self.sessions.insert(Session::new(slot, Some(link_key)));
        self.slots.insert(slot, session);
        link.path.add(now, session, rtt);
        self.dirty_legs.insert(leg_key);
        self.dirty_links.insert(link_key);
        true
    }

    fn relay_answer(&mut self, now: Instant, key: usize, stream: StreamId, fields: &Fields, fin: bool) {
        let status = field(fields, ":status").and_then(|s| s.parse::<u16>().ok()).unwrap_or(0);
        let Some(leg) = self.legs.get_mut(key) else { return };
        let ok = (200..300).contains(&status) && !fin;
        if leg.bind == Some(stream) {
            if ok {
                leg.bound = true;
                leg.replacing = false;
                leg.backoff.reset();
            } else {
                let error = refusal(status, fields, DeniedBy::Relay);
                leg.told = true;
                self.events.push_back(NodeEvent::BindRefused { leg: key, error: error.clone() });
                self.drop_leg(now, key, &format!("bind refused: {error}"), false);
            }
            return;
        }
        let slot = Slot { leg: key, stream, context: 0 };
        let Some(&session) = self.slots.get(&slot) else { return };
        if ok {
            if let Some(s) = self.sessions.get_mut(session) {
                s.confirmed = true;
                self.dirty_links.extend(s.link);
            }
        } else {
            self.end_stream(now, key, stream, Some(refusal(status, fields, DeniedBy::Relay)));
        }
    }

    /// A newer process of our identity is bound at this relay: what runs on this bind goes on, nothing new comes.
    fn replaced(&mut self, key: usize, stream: StreamId, by: SocketAddr) {
        let Some(leg) = self.legs.get_mut(key).filter(|l| l.bind == Some(stream)) else { return };
        leg.state = LegState::Draining;
        leg.bound = false;
        let error = Error::Identity(format!("relay `{}`: replaced by a newer bind from {by}", leg.relay));
        leg.last_error = Some(error.to_string());
        leg.told = true;
        self.events.push_back(NodeEvent::BindRefused { leg: key, error });
    }

    fn end_stream(&mut self, now: Instant, key: usize, stream: StreamId, refused: Option<Error>) {
        let Some(&session) = self.slots.get(&Slot { leg: key, stream, context: 0 }) else { return };
        if let (Some(error), Some(link)) =
            (refused, self.sessions.get(session).and_then(|s| s.link).and_then(|l| self.links.get_mut(l)))
        {
            let relay = self.legs.get(key).map(|l| l.relay.clone()).unwrap_or_default();
            link.refused.push((relay, error));
        }
        self.end_session(now, session);
    }

    /// Forgets a session and the paths it gave its link.
    pub(super) fn end_session(&mut self, now: Instant, key: usize) {
        let Some(session) = self.sessions.try_remove(key) else { return };
        self.slots.remove(&session.slot);
        if let Some(leg) = self.legs.get_mut(session.slot.leg) {
            if session.slot.context != 0 {
                leg.sessions = leg.sessions.saturating_sub(1);
            }
            if session.slot.context == 0 {
                leg.streams.remove(&session.slot.stream);
                if let Some(conn) = leg.conn.as_mut() {
                    conn.reset(session.slot.stream, H3_REQUEST_CANCELLED);
                }
            } else {
                leg.send_capsule(session.slot.stream, &Capsule::CompressionClose { context_id: session.slot.context });
            }
            self.dirty_legs.insert(session.slot.leg);
        }
        if let Some(link) = session.link.and_then(|l| self.links.get_mut(l)) {
            link.path.remove(now, key);
            self.dirty_links.extend(session.link);
        }
        self.events.push_back(NodeEvent::SessionEnded { link: session.link });
    }

    // ---- capsules

    fn capsule(&mut self, now: Instant, key: usize, stream: StreamId, capsule: Capsule) {
        match capsule {
            Capsule::Datagram(payload) => {
                let Some((context, header)) = connect_udp::split_context(&payload) else { return };
                let mut packet = payload.get(header..).unwrap_or_default().to_vec();
                self.handle_tunnel(now, Slot { leg: key, stream, context }, &mut packet);
            }
            Capsule::CompressionAssign { context_id, target } => {
                let is_bind = self.legs.get(key).is_some_and(|l| l.bind == Some(stream));
                if is_bind && target.is_some() && context_id % 2 == 1 {
                    self.adopt_session(Slot { leg: key, stream, context: context_id });
                }
            }
            Capsule::CompressionClose { context_id } => {
                if let Some(&session) = self.slots.get(&Slot { leg: key, stream, context: context_id }) {
                    self.end_session(now, session);
                }
            }
            Capsule::ObservedAddress(address) => {
                if let Some(leg) = self.legs.get_mut(key) {
                    leg.observed.retain(|a| a.is_ipv4() != address.is_ipv4());
                    leg.observed.push(address);
                    let server = leg.address;
                    if server.is_some_and(|s| self.reflexive.observe(now, s, address)) {
                        self.offer_to_all(now);
                    }
                }
            }
            Capsule::AckCid { context_id, cid } => {
                self.cid_acknowledged(now, Slot { leg: key, stream, context: context_id }, cid)
            }
            Capsule::CloseCid { context_id, cid } => {
                let Some(&session) = self.slots.get(&Slot { leg: key, stream, context: context_id }) else { return };
                let Some(s) = self.sessions.get_mut(session) else { return };
                if s.forwards == Some(cid) {
                    s.forwards = None;
                    if let Some(link) = s.link.and_then(|l| self.links.get_mut(l)) {
                        link.path.forwarded_down(now, session);
                        self.dirty_links.extend(s.link);
                    }
                }
            }
            Capsule::Replaced(by) => self.replaced(key, stream, by),
            // The uncompressed context's acknowledgement, what only relays receive, and types we don't know.
            Capsule::CompressionAck { .. } | Capsule::RegisterCid { .. } | Capsule::Unknown { .. } => {}
        }
    }

    /// Connector: a session that the relay announced, or whose packets overtook the announcement. `None`: it has too many.
    pub(super) fn adopt_session(&mut self, slot: Slot) -> Option<usize> {
        if let Some(&known) = self.slots.get(&slot) {
            return Some(known);
        }
        let leg = self.legs.get_mut(slot.leg)?;
        if leg.sessions >= MAX_SESSIONS {
            self.counters.drop_one("sessions");
            leg.send_capsule(slot.stream, &Capsule::CompressionClose { context_id: slot.context });
            self.dirty_legs.insert(slot.leg);
            return None;
        }
        leg.sessions += 1;
        let session = self.sessions.insert(Session::new(slot, None));
        self.slots.insert(slot, session);
        if let Some(leg) = self.legs.get_mut(slot.leg) {
            leg.send_capsule(slot.stream, &Capsule::CompressionAck { context_id: slot.context });
            self.dirty_legs.insert(slot.leg);
        }
        Some(session)
    }

    fn cid_acknowledged(&mut self, now: Instant, slot: Slot, cid: crate::wire::cid::Cid) {
        let Some(&session) = self.slots.get(&slot) else { return };
        let Some(s) = self.sessions.get_mut(session) else { return };
        let Some(link) = s.link.and_then(|l| self.links.get_mut(l)) else { return };
        let own = link.conn.scid() == cid;
        if !own {
            s.forwards = Some(cid);
        }
        // Raw packets go out once the relay forwards the peer's ID, and our own leg carries them whole.
        if s.forwards.is_some() && s.forwards == link.conn.dcid() && s.registered.is_some() {
            link.path.forwarded_up(now, session);
        }
        self.dirty_links.extend(s.link);
    }
}

pub(crate) fn random_u32() -> u32 {
    u32::from_le_bytes(random_cid(None).0.first_chunk::<4>().copied().unwrap_or_default())
}

fn connect_fields(relay: &str, domain: &str, path: &str, more: &[(&str, &str)]) -> Fields {
    let authority = format!("{relay}.relay.{domain}");
    let base = [
        (":method", "CONNECT"),
        (":protocol", "connect-udp"),
        (":scheme", "https"),
        (":authority", &authority),
        (":path", path),
        ("capsule-protocol", "?1"),
    ];
    base.iter().chain(more).map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
}

/// What a peer's TLS alert (RFC 8446 §6.2) says about our certificate.
pub fn alert(code: u64, more: &str) -> String {
    let text = match code {
        42 => "it is damaged, or not what that end asks for",
        43 => "it is of a kind that is not taken",
        44 => "it is revoked",
        45 => "it has expired, or the clocks differ",
        46 => "it is not acceptable there",
        48 => "its CA is not trusted there",
        116 => "it was not shown",
        _ => "the handshake failed",
    };
    let more = if more.is_empty() { String::new() } else { format!(": {more}") };
    format!("{text} (TLS alert {code}){more}")
}

/// `reason` of the error when a relay answers 404: the connector is not bound there.
pub const NOT_BOUND: &str = "not-bound";

/// An answer that is no 2xx, as an error (contract.md, Status to error).
pub fn refusal(status: u16, fields: &Fields, by: DeniedBy) -> Error {
    let proxy = field(fields, "proxy-status").and_then(|v| ProxyStatus::parse(v).ok());
    let details = proxy.as_ref().and_then(|p| p.details.clone()).unwrap_or_else(|| format!("status {status}"));
    let kind = proxy.as_ref().map(|p| p.error.as_str().to_owned()).unwrap_or_default();
    match (status, kind.as_str()) {
        (403 | MISDIRECTED, _) => {
            let (decision, reason) = match details.split_once(": ") {
                Some((id, rest)) if DecisionId::parse(id).is_some() => (Some(id.to_owned()), rest.to_owned()),
                Some(_) | None => (None, details),
            };
            let named = reason.strip_prefix("forbidden by `").or_else(|| reason.strip_prefix("policy `"));
            let policy = named.and_then(|rest| rest.split_once('`')).map(|(policy, _)| policy.to_owned());
            Error::Denied { by, reason, decision, policy }
        }
        (502, "connection_refused") => Error::Refused(details),
        (504, _) => Error::Timeout(details),
        (429, _) => Error::Limit(details),
        (409, _) => Error::Identity(details),
        (404, _) if by == DeniedBy::Relay => {
            Error::Unreachable { message: details, reason: Some(NOT_BOUND), tried: Vec::new() }
        }
        (502, "dns_error") => Error::Unreachable { message: details, reason: Some("dns"), tried: Vec::new() },
        _ => {
            let said = field(fields, REASON).filter(|_| status == 503 && by == DeniedBy::Connector);
            let reason = said.and_then(|said| REASONS.into_iter().find(|known| *known == said));
            Error::Unreachable { message: details, reason, tried: Vec::new() }
        }
    }
}
