//! Bursts in and bursts out. Forwarded packets pass here untouched; all else goes to a connection, another loop, or nowhere.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::RESETS;
use super::conn::Conn;
use super::drain::Phase;
use super::forward::Route;
use super::inbox::{LoopMessage, Side};
use super::machine::Relay;
use super::registry::Session;
use crate::bucket::Rate;
use crate::quic::connection::Closed;
use crate::quic::retry;
use crate::quic::{ConnKey, Connection};
use crate::role::{Arrival, Transmit};
use crate::wire::quic_header::{self, Header, VERSION_1};
use crate::wire::{Cid, stun};

/// Bytes of forwarded bursts that wait for the socket. One receive batch is 8 × 64 KB; the rest is for a socket that was busy.
const MAX_FORWARD: usize = 4 << 20;
/// Emptied burst buffers that are kept: one receive batch's worth.
const MAX_POOL: usize = 16;
/// Answers without a connection that wait for the socket: 1,024 of at most 1,200 bytes.
const MAX_REPLIES: usize = 1_024;
/// What [`crate::role::Machine::poll_transmit`] may give at once (Linux: UDP_MAX_SEGMENTS, and one UDP datagram's length).
const MAX_SEGMENTS: usize = 64;
const MAX_BURST: usize = 65_000;
/// Room that a connection gets for one packet: no link here has more (quic::tls: OUTER_PAYLOAD is 1,360).
const PACKET_ROOM: usize = 1_500;
/// RFC 9000 §14.1: a shorter datagram with an Initial is dropped.
const MIN_INITIAL: usize = 1_200;

/// What waits to be sent.
#[derive(Default)]
pub(super) struct Outgoing {
    replies: VecDeque<(Vec<u8>, Transmit)>,
    forward: VecDeque<(Vec<u8>, Transmit)>,
    forward_bytes: usize,
    pool: Vec<Vec<u8>>,
    sending: VecDeque<ConnKey>,
}

/// Consecutive datagrams of one burst for one leg.
struct Run {
    bytes: Range<usize>,
    cid: Cid,
    to: Route,
    side: Side,
    session: Arc<Session>,
}

impl Relay {
    /// The way out of a burst that is one run, so nearly every one of a bulk flow: it needs no copy and no turn of the loop.
    pub(super) fn cut_through(&mut self, arrival: Arrival, burst: &[u8]) -> Option<Transmit> {
        // What waits goes first, or packets of one connection would overtake each other.
        if !self.outgoing.forward.is_empty() || self.stun_only(arrival) {
            return None;
        }
        let cid = short_dcid(burst)?;
        let mut datagrams = burst.chunks(arrival.stride.max(1));
        if !datagrams.all(|d| short_dcid(d) == Some(cid)) {
            return None;
        }
        let table = self.shared.forwarding.table();
        let entry = table.get(&(arrival.from, cid)).filter(|e| e.session.rate.is_none())?;
        self.shared.count_forwarded(entry.side, &entry.session, burst.len(), arrival.stride);
        Some(entry.to.transmit(arrival.stride.min(burst.len())))
    }

    pub(super) fn take_burst(&mut self, now: Instant, arrival: Arrival, burst: &mut [u8]) {
        let stride = arrival.stride.max(1);
        let stun_only = self.stun_only(arrival);
        let shared = self.shared.clone();
        let table = shared.forwarding.table();
        let mut run: Option<Run> = None;
        let mut start = 0;
        while start < burst.len() {
            let bytes = start..(start + stride).min(burst.len());
            start = bytes.end;
            let short = burst.get(bytes.clone()).and_then(short_dcid).filter(|_| !stun_only);
            if let Some(cid) = short {
                if let Some(run) = run.as_mut().filter(|r| r.cid == cid) {
                    run.bytes.end = bytes.end;
                    continue;
                }
                if let Some(entry) = table.get(&(arrival.from, cid)) {
                    let next = Run { bytes, cid, to: entry.to, side: entry.side, session: entry.session.clone() };
                    if let Some(run) = run.replace(next) {
                        self.forward(now, run, stride, burst);
                    }
                    continue;
                }
            }
            if let Some(run) = run.take() {
                self.forward(now, run, stride, burst);
            }
            if let Some(packet) = burst.get_mut(bytes) {
                self.take_packet(now, arrival, packet, stun_only, true);
            }
        }
        if let Some(run) = run {
            self.forward(now, run, stride, burst);
        }
    }

    /// A packet for this loop. `pass_on`: it may be handed to another.
    pub(super) fn take_packet(
        &mut self,
        now: Instant,
        arrival: Arrival,
        packet: &mut [u8],
        stun_only: bool,
        pass_on: bool,
    ) {
        if packet.first().copied().is_some_and(stun::is_stun) {
            return self.on_stun(arrival, packet);
        }
        let mut short = false;
        let (key, owner) = match quic_header::parse(packet).filter(|_| !stun_only) {
            Some(Header::Short { dcid }) => {
                short = true;
                (self.router.get(&dcid), Some(dcid))
            }
            Some(Header::Long { version, dcid, scid, is_initial }) => match self.router.get_long(dcid) {
                Some(key) => (Some(key), None),
                None if is_initial => {
                    let (dcid, scid) = (dcid.to_vec(), scid.to_vec());
                    return self.on_initial(now, arrival, packet, &dcid, &scid, pass_on);
                }
                None if version != VERSION_1 => return self.on_version(arrival, packet.len(), version, dcid, scid),
                None => (None, Cid::from_slice(dcid)),
            },
            None => (None, None),
        };
        match (key, owner) {
            (Some(key), _) => self.feed(key, arrival, packet),
            (None, Some(cid)) if pass_on && self.is_of_another(cid) => self.hand_over(cid, arrival, packet),
            (None, Some(cid)) if short => self.reset(now, arrival, cid, packet.len()),
            (None, _) => self.shared.counters.drops.stray.add(1),
        }
    }

    /// Whether it came to the second STUN port, which answers nothing else.
    fn stun_only(&self, arrival: Arrival) -> bool {
        self.shared.config.stun_alt.is_some_and(|(alt, _)| alt == arrival.socket)
    }

    fn feed(&mut self, key: ConnKey, arrival: Arrival, packet: &mut [u8]) {
        if let Some(conn) = self.conn(key) {
            conn.recv(arrival, packet);
            self.touch(key);
        }
    }

    /// Whether a connection ID names another loop of this relay.
    fn is_of_another(&self, cid: Cid) -> bool {
        let owner = usize::from(cid.0[0]);
        owner != self.index && owner < self.shared.loops()
    }

    /// Gives a packet to the loop that its connection ID names.
    fn hand_over(&mut self, cid: Cid, arrival: Arrival, packet: &[u8]) {
        let arrival = Arrival { stride: packet.len(), ..arrival };
        self.shared.post(usize::from(cid.0[0]), LoopMessage::Packet { arrival, bytes: packet.to_vec() });
    }

    /// A packet of a connection that is not here. Only to one that a relay with our key has issued to that address is there an
    /// answer, so that a stranger gets none, and nobody can have one sent to somebody else.
    fn reset(&mut self, now: Instant, arrival: Arrival, cid: Cid, len: usize) {
        let Some(packet) = self.reset_keys.answer(cid, arrival.from.ip(), len) else {
            return self.shared.counters.drops.stray.add(1);
        };
        if !self.resets.take(now, RESETS) {
            return self.shared.counters.drops.reply.add(1);
        }
        self.shared.counters.resets.add(1);
        self.answer(arrival, packet);
    }

    /// A first Initial: Retry, or a new connection.
    fn on_initial(
        &mut self,
        now: Instant,
        arrival: Arrival,
        packet: &mut [u8],
        dcid: &[u8],
        scid: &[u8],
        pass_on: bool,
    ) {
        let counters = &self.shared.counters;
        if packet.len() < MIN_INITIAL || self.phase != Phase::Running {
            return counters.drops.stray.add(1);
        }
        let (cid, odcid) = if self.shared.config.retry {
            let Some(token) = retry::initial_token(packet) else { return counters.drops.stray.add(1) };
            if token.is_empty() {
                return self.send_retry(now, arrival, dcid, scid);
            }
            let Some(cid) = Cid::from_slice(dcid) else { return counters.handshakes.bad_token.add(1) };
            if pass_on && self.is_of_another(cid) {
                return self.hand_over(cid, arrival, packet);
            }
            let seconds = self.seconds(now);
            let odcid = self.admission().keys(seconds).open(seconds, arrival.from, &token, cid);
            let Some(odcid) = odcid else { return counters.handshakes.bad_token.add(1) };
            (cid, Some(odcid))
        } else {
            (self.reset_keys.issue(self.index as u8, arrival.from.ip()), None)
        };
        let room = self.conns.len() < self.shared.config.limits.connections;
        if !room || !self.admission().admit(now, arrival.from) {
            return self.shared.counters.handshakes.limited.add(1);
        }
        self.accept(now, arrival, packet, cid, odcid.as_deref(), dcid);
    }

    fn accept(
        &mut self,
        now: Instant,
        arrival: Arrival,
        packet: &mut [u8],
        cid: Cid,
        odcid: Option<&[u8]>,
        dcid: &[u8],
    ) {
        let listen = self.shared.config.listen.get(arrival.socket).copied();
        let Some(local) = listen else { return self.shared.counters.drops.stray.add(1) };
        let retry = odcid.map(|odcid| (odcid, cid.as_bytes().as_slice()));
        let token = self.reset_keys.token(cid);
        let quic = match Connection::accept(self.tls(), cid, token, retry, local, arrival.from) {
            Ok(quic) => quic,
            Err(error) => return tracing::warn!(%error, "a connection could not be made"),
        };
        let mut conn = Conn::new(quic, now, arrival);
        conn.initial = odcid.is_none().then(|| dcid.to_vec());
        let key = ConnKey(self.conns.insert(conn));
        self.router.insert(cid, key);
        if odcid.is_none() {
            self.router.insert_initial(dcid, key);
        }
        self.shared.own_cid(cid, true);
        self.shared.counters.connections.add(1);
        self.begin_unproven(key, now);
        self.feed(key, arrival, packet);
    }

    fn send_retry(&mut self, now: Instant, arrival: Arrival, dcid: &[u8], scid: &[u8]) {
        if !self.retries.take(now, Rate::each_second(self.shared.retries_per_loop())) {
            return self.shared.counters.drops.initial.add(1);
        }
        let seconds = self.seconds(now);
        let rscid = self.reset_keys.issue(self.index as u8, arrival.from.ip());
        let token = self.admission().keys(seconds).seal(seconds, arrival.from, dcid, rscid);
        if let Some(packet) = token.and_then(|token| retry::packet(scid, dcid, rscid, &token)) {
            self.shared.counters.retries.add(1);
            self.answer(arrival, packet);
        }
    }

    /// RFC 9000 §6.1: only to datagrams that could begin a connection, and never to Version Negotiation itself.
    fn on_version(&mut self, arrival: Arrival, len: usize, version: u32, dcid: &[u8], scid: &[u8]) {
        let packet =
            retry::version_negotiation(scid, dcid).filter(|p| version != 0 && len >= MIN_INITIAL && p.len() <= len);
        match packet {
            Some(packet) => self.answer(arrival, packet),
            None => self.shared.counters.drops.stray.add(1),
        }
    }

    fn answer(&mut self, arrival: Arrival, packet: Vec<u8>) {
        let transmit =
            Transmit { socket: Some(arrival.socket), to: arrival.from, from: arrival.to, segment: packet.len() };
        self.reply(packet, transmit);
    }

    pub(super) fn reply(&mut self, packet: Vec<u8>, transmit: Transmit) {
        if self.outgoing.replies.len() >= MAX_REPLIES {
            return self.shared.counters.drops.reply.add(1);
        }
        self.outgoing.replies.push_back((packet, transmit));
    }

    fn admission(&self) -> std::sync::MutexGuard<'_, super::admission::Admission> {
        self.shared.admission.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Queues a run for the other leg, whole.
    fn forward(&mut self, now: Instant, run: Run, stride: usize, burst: &[u8]) {
        let Some(bytes) = burst.get(run.bytes) else { return };
        let out = &mut self.outgoing;
        for part in bytes.chunks(stride.saturating_mul(MAX_SEGMENTS.min(MAX_BURST / stride).max(1))) {
            let packets = part.len().div_ceil(stride);
            let passed = run.session.admit(now, packets, stride.min(part.len()));
            let part = if passed == packets {
                part
            } else {
                self.shared.counters.drops.rate.add(packets - passed);
                part.get(..passed * stride).unwrap_or_default()
            };
            if part.is_empty() {
                continue;
            }
            if out.forward_bytes + part.len() > MAX_FORWARD {
                self.shared.counters.drops.forward.add(passed);
                continue;
            }
            self.shared.count_forwarded(run.side, &run.session, part.len(), stride);
            let mut buffer = out.pool.pop().unwrap_or_default();
            buffer.extend_from_slice(part);
            out.forward_bytes += part.len();
            out.forward.push_back((buffer, run.to.transmit(stride.min(part.len()))));
        }
    }

    pub(super) fn want_send(&mut self, key: ConnKey) {
        if let Some(conn) = self.conns.get_mut(key.0)
            && !std::mem::replace(&mut conn.sending, true)
        {
            self.outgoing.sending.push_back(key);
        }
    }

    pub(super) fn next_burst(&mut self, out: &mut Vec<u8>) -> Option<Transmit> {
        if let Some((packet, transmit)) = self.outgoing.replies.pop_front() {
            out.extend_from_slice(&packet);
            return Some(transmit);
        }
        if let Some((mut burst, transmit)) = self.outgoing.forward.pop_front() {
            self.outgoing.forward_bytes -= burst.len();
            std::mem::swap(out, &mut burst);
            if self.outgoing.pool.len() < MAX_POOL {
                burst.clear();
                self.outgoing.pool.push(burst);
            }
            return Some(transmit);
        }
        while let Some(key) = self.outgoing.sending.pop_front() {
            let Some(conn) = self.conns.get_mut(key.0) else { continue };
            conn.sending = false;
            let (transmit, more) = fill(conn, out);
            let waiters = if conn.quic.dgram_full() { Vec::new() } else { std::mem::take(&mut conn.waiters) };
            for waiter in waiters {
                self.pump(waiter);
            }
            let told = self.conns.get(key.0).is_some_and(|c| c.cut && c.quic.is_draining());
            if told {
                self.on_closed(key, Closed::Local("it held too much".into()));
            } else if more {
                self.want_send(key);
            } else {
                self.rearm(key);
            }
            if transmit.is_some() {
                return transmit;
            }
        }
        None
    }
}

/// The connection ID of a short header. Cheaper than a whole parse: this is done for every forwarded packet.
fn short_dcid(packet: &[u8]) -> Option<Cid> {
    let (first, rest) = packet.split_first()?;
    (first & 0xc0 == 0x40).then(|| rest.first_chunk().copied().map(Cid)).flatten()
}

/// Fills one burst with packets of one size for one address; whether there is more to send.
fn fill(conn: &mut Conn, out: &mut Vec<u8>) -> (Option<Transmit>, bool) {
    let mut first: Option<(usize, SocketAddr)> = conn.carry.take().map(|(packet, to)| {
        out.extend_from_slice(&packet);
        (packet.len(), to)
    });
    let mut packets = usize::from(first.is_some());
    let most = conn.quic.burst_limit(MAX_SEGMENTS);
    let more = loop {
        let start = out.len();
        if packets >= most || start + first.map_or(PACKET_ROOM, |(segment, _)| segment) > MAX_BURST {
            break true;
        }
        out.resize(start + PACKET_ROOM, 0);
        let sent = out.get_mut(start..).and_then(|room| conn.quic.send(room));
        let Some((n, to)) = sent else {
            out.truncate(start);
            break false;
        };
        out.truncate(start + n);
        let (segment, address) = *first.get_or_insert((n, to));
        if n > segment || to != address {
            conn.carry = Some((out.split_off(start), to));
            break true;
        }
        packets += 1;
        if n < segment {
            break true;
        }
    };
    if packets > 0 {
        conn.quic.handle_burst_sent(packets, out.len());
    }
    let transmit = first.map(|(segment, to)| {
        let route = conn.route_to(to);
        Transmit { to, ..route.transmit(segment) }
    });
    (transmit, more)
}
