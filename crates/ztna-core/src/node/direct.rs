//! Direct paths as a node has them: signalling inside each inner connection, checks beside them, data that comes by no relay.

use std::net::SocketAddr;
use std::time::Instant;

use super::Node;
use super::link::Link;
use super::turns::Families;
use crate::bucket::{Bucket, Rate};
use crate::interface::Interface;
use crate::path::checklist::Keys;
use crate::path::{Direct, Local, PathId};
use crate::quic::connection::H3_REQUEST_CANCELLED;
use crate::quic::tls::INNER_PAYLOAD;
use crate::quic::{Connection, Event, Fields, StreamId, field};
use crate::role::{Arrival, PathPolicy, Transmit};
use crate::wire::check::{self, CheckKey, Token};
use crate::wire::varint;

/// `:protocol` of the signalling stream (protocol.md).
pub const PROTOCOL: &str = "ztna-path";
/// RFC 8446 §7.5; the context names the sender's role.
const LABEL: &str = "EXPORTER-ztna-path-check";
/// Packets a second, by no relay and from no address that has answered, that are given to a connection to be decrypted: a NAT that
/// rebinds under a full flow shows in one of them.
const STRANGERS: Rate = Rate { at_once: 100.0, each_second: 100.0 };

/// What a link keeps for its direct paths beside the path agent.
#[derive(Debug, Default)]
pub struct Signalling {
    /// The signalling stream.
    pub stream: Option<StreamId>,
    token: Option<Token>,
    strangers: Option<Bucket>,
}

impl Link {
    /// Whether an event is of the signalling stream, or asks for it.
    pub(super) fn is_signalling(&self, event: &Event) -> bool {
        let own = |stream: &StreamId| self.signalling.stream == Some(*stream);
        match event {
            Event::Headers { stream, fields, .. } => {
                own(stream) || (self.conn.kind().is_server() && field(fields, ":protocol") == Some(PROTOCOL))
            }
            Event::Malformed { stream }
            | Event::Data { stream }
            | Event::Finished { stream }
            | Event::Reset { stream, .. }
            | Event::Writable { stream } => own(stream),
            Event::Established(_) | Event::Ready | Event::GoAway | Event::Migrated(_) | Event::Closed(_) => false,
        }
    }
}

impl Node {
    /// Agent: asks for the signalling stream, if the link may have direct paths.
    pub fn seek_direct(&mut self, now: Instant, key: usize) {
        let authority = |l: &Link| format!("{}.connector.{}", l.peer, self.snapshot.network.trust_domain);
        let Some(link) = self.links.get_mut(key) else { return };
        if link.policy == PathPolicy::RelayOnly || link.signalling.stream.is_some() {
            return;
        }
        let authority = authority(link);
        let fields = [
            (":method", "CONNECT"),
            (":protocol", PROTOCOL),
            (":scheme", "https"),
            (":authority", &authority),
            (":path", "/"),
        ];
        let fields: Fields = fields.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        if let Ok(Some(stream)) = link.conn.request(&fields, false) {
            self.begin_direct(now, key, stream);
        }
    }

    /// Connector: the agent asks for the signalling stream.
    fn accept_signalling(&mut self, now: Instant, key: usize, stream: StreamId) {
        if self.links.get(key).is_some_and(|l| l.signalling.stream.is_some() || l.policy == PathPolicy::RelayOnly) {
            // One is enough for a connection; a second would be another conversation. One that keeps to the relay has none.
            self.respond(key, stream, &[(":status", "409")], true);
            return;
        }
        self.respond(key, stream, &[(":status", "200")], false);
        self.begin_direct(now, key, stream);
    }

    fn begin_direct(&mut self, now: Instant, key: usize, stream: StreamId) {
        let Some(link) = self.links.get_mut(key) else { return };
        let (ours, theirs) = if self.is_agent { ("agent", "connector") } else { ("connector", "agent") };
        let (Some((ours, mask)), Some((theirs, _))) = (secrets(&mut link.conn, ours), secrets(&mut link.conn, theirs))
        else {
            return;
        };
        link.signalling.stream = Some(stream);
        link.signalling.token = Some(theirs.0);
        self.tokens.insert(theirs.0, key);
        link.path.enable_direct(Direct::new(Keys { ours, theirs, mask }, INNER_PAYLOAD));
        self.offer_to(now, key);
    }

    /// An event for which [`Link::is_signalling`] is true.
    pub(super) fn handle_signalling(&mut self, now: Instant, key: usize, event: Event) {
        let Some(link) = self.links.get_mut(key) else { return };
        match event {
            Event::Headers { stream, fields, .. } if self.is_agent => {
                // A connector that has no direct paths says so; the relay carries everything then.
                if !field(&fields, ":status").is_some_and(|s| s.starts_with('2')) {
                    link.conn.reset(stream, H3_REQUEST_CANCELLED);
                }
            }
            Event::Headers { stream, .. } => self.accept_signalling(now, key, stream),
            Event::Data { stream } => {
                let mut scratch = [0u8; 512];
                while link.conn.read(stream, &mut scratch) > 0 {}
            }
            Event::Malformed { .. }
            | Event::Finished { .. }
            | Event::Reset { .. }
            | Event::Writable { .. }
            | Event::Established(_)
            | Event::Ready
            | Event::GoAway
            | Event::Migrated(_)
            | Event::Closed(_) => {}
        }
    }

    /// A signal of the peer's.
    pub(super) fn handle_signal(&mut self, now: Instant, key: usize, payload: &[u8]) {
        let Some(direct) = self.links.get_mut(key).and_then(|l| l.path.direct_mut()) else { return };
        if direct.handle_signal(now, payload).is_err() {
            self.counters.drop_one("malformed");
        }
        self.touch_direct(now, key);
    }

    /// Sends what a link has to signal, and has its checks sent.
    pub(super) fn settle_direct(&mut self, now: Instant, key: usize) {
        let Some(link) = self.links.get_mut(key) else { return };
        link.path.settle_direct(now);
        let Some(stream) = link.signalling.stream else { return };
        self.settle_burst(now, key);
        let Some(link) = self.links.get_mut(key) else { return };
        let Some(direct) = link.path.direct_mut() else { return };
        let mut signals = Vec::new();
        while let Some(signal) = direct.poll_signal(now) {
            signals.push(signal);
        }
        for signal in signals {
            let mut frame = Vec::with_capacity(signal.len() + 8);
            varint::encode(stream / 4, &mut frame);
            frame.extend_from_slice(&signal);
            // One that does not fit now is sent again, or asked for again.
            link.conn.dgram_send(frame);
        }
        self.checking.insert(key);
    }

    fn touch_direct(&mut self, now: Instant, key: usize) {
        if let Some(link) = self.links.get_mut(key) {
            link.path.settle_direct(now);
        }
        self.dirty_links.insert(key);
        self.checking.insert(key);
    }

    /// Our addresses for one link.
    fn offer_to(&mut self, now: Instant, key: usize) {
        let (candidates, mapping) = self.reflexive.offer();
        if let Some(direct) = self.links.get_mut(key).and_then(|l| l.path.direct_mut()) {
            direct.set_local(now, candidates, mapping);
        }
        self.touch_direct(now, key);
    }

    /// Our addresses have changed, or what is known of our NAT.
    pub(super) fn offer_to_all(&mut self, now: Instant) {
        self.want_port();
        let keys: Vec<usize> = self.links.iter().map(|(k, _)| k).collect();
        for key in keys {
            self.offer_to(now, key);
        }
    }

    /// The loop's UDP sockets, which candidates are addresses of.
    pub fn handle_sockets(&mut self, sockets: &[SocketAddr]) {
        self.reflexive.set_sockets(sockets);
    }

    /// The host's addresses.
    pub fn handle_interfaces(&mut self, now: Instant, interfaces: &[Interface]) {
        self.reflexive.set_interfaces(interfaces);
        self.budget.set_networks(interfaces.iter().map(|i| (i.address, i.prefix_len)));
        self.families = Families::of(interfaces);
        self.offer_to_all(now);
    }

    /// Addresses or routes have changed: relays are asked again how they see us, peers are checked again.
    pub(super) fn direct_network_change(&mut self, now: Instant) {
        self.reflexive.restart(now);
        let keys: Vec<usize> = self.links.iter().map(|(k, _)| k).collect();
        for key in keys {
            if let Some(direct) = self.links.get_mut(key).and_then(|l| l.path.direct_mut()) {
                direct.handle_network_change(now);
            }
            self.touch_direct(now, key);
        }
    }

    /// How many checks have had to wait, by the limit that was reached.
    pub fn checks_held(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.budget.held().iter().map(|(limit, n)| (*limit, *n))
    }

    /// The second port of a relay whose main one answers, when that is silent.
    pub fn silent_second_port(&self) -> Option<SocketAddr> {
        self.reflexive.silent_second_port()
    }

    /// Relays show our NAT from one address and port alone.
    pub fn has_one_view(&self) -> bool {
        self.reflexive.has_one_view()
    }

    /// A STUN message: an answer to a probe of ours, or a check of a peer's.
    pub(super) fn handle_stun(&mut self, now: Instant, arrival: Arrival, message: &[u8]) {
        if let Some(key) = check::token_of(message).and_then(|t| self.tokens.get(&t).copied()) {
            let local = self.local_of(arrival);
            let genuine = self
                .links
                .get_mut(key)
                .and_then(|l| l.path.direct_mut())
                .is_some_and(|d| d.handle_message(now, local, arrival.from, message));
            if !genuine {
                self.counters.drop_one("checks");
            }
            self.touch_direct(now, key);
            return;
        }
        if self.reflexive.handle_answer(now, arrival.from, message) {
            self.offer_to_all(now);
        } else {
            self.counters.drop_one("unknown");
        }
    }

    /// Whether an inner packet that came by no relay may be tried on its connection.
    pub(super) fn admits_direct(&mut self, now: Instant, key: usize, arrival: Arrival) -> bool {
        let local = self.local_of(arrival);
        let Some(link) = self.links.get_mut(key).filter(|l| l.conn.is_established()) else { return false };
        let Some(direct) = link.path.direct() else { return false };
        if direct.list().pair_of(local, arrival.from).is_some_and(|p| direct.list().is_usable(p)) {
            return true;
        }
        link.signalling.strangers.get_or_insert(Bucket::full(now, STRANGERS)).take(now, STRANGERS)
    }

    /// Packets of a link came by no relay, and decrypted.
    pub(super) fn note_direct(&mut self, now: Instant, key: usize, local: Local, from: SocketAddr) {
        let Some(link) = self.links.get_mut(key) else { return };
        let heard = link.conn.received();
        if heard == link.heard {
            return;
        }
        link.heard = heard;
        let pair = link.path.direct_mut().and_then(|d| d.handle_data(now, local, from));
        if let Some(pair) = pair {
            link.path.handle_received(now, PathId::Direct(pair), true);
        }
        self.checking.insert(key);
    }

    /// One check that is due, of any link.
    pub(super) fn send_check(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<Transmit> {
        while let Some(&key) = self.checking.first() {
            let next = self.links.get_mut(key).and_then(|l| {
                let peer = &l.conn.identity()?.id;
                l.path.direct_mut()?.poll_transmit(now, peer, &mut self.budget)
            });
            let Some(next) = next else {
                self.checking.remove(&key);
                continue;
            };
            out.extend_from_slice(&next.bytes);
            return Some(Transmit {
                socket: next.local.socket,
                to: next.to,
                from: next.local.ip,
                segment: next.bytes.len(),
            });
        }
        self.reflexive.poll_transmit(now, out)
    }

    pub(super) fn forget_direct(&mut self, signalling: &Signalling) {
        if let Some(token) = signalling.token {
            self.tokens.remove(&token);
        }
    }

    pub(super) fn local_of(&self, arrival: Arrival) -> Local {
        Local { socket: (arrival.socket >= self.reflexive.sockets()).then_some(arrival.socket), ip: arrival.to }
    }
}

/// Key and token of one direction, and what makes transaction IDs.
fn secrets(conn: &mut Connection, sender: &str) -> Option<((Token, CheckKey), [u8; 12])> {
    let mut bytes = [0u8; 52];
    conn.export(LABEL, sender.as_bytes(), &mut bytes).ok()?;
    let (key, rest) = bytes.split_first_chunk::<32>()?;
    let (token, rest) = rest.split_first_chunk::<8>()?;
    Some(((Token(*token), CheckKey::new(*key)), *rest.first_chunk::<12>()?))
}
