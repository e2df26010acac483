//! One QUIC connection with HTTP/3 on it. The only file that names `quiche::Connection`.
//!
//! Drain order after anything was fed in (`recv`, `on_timeout`, a write): `poll_event` until `None`, then `send` until `None`.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use boring::ssl::SslRef;
use zeroize::Zeroizing;

use super::account::{Account, size_of_fields};
use super::bursts::Bursts;
pub use super::event::{Closed, Event, Wrote};
use super::h3::{Fields, Http3};
use super::reset;
use super::tls::{Kind, TlsConfig};
use crate::error::{Error, Result};
use crate::trust::identity::{PeerIdentity, Refusal};
use crate::wire::cid::Cid;

mod sending;

pub(super) use ztna_quiche::Transport;
/// A QUIC stream ID (RFC 9000 §2.1).
pub type StreamId = u64;

/// A handshake that takes longer has failed (protocol.md, Timers), at either end. quiche's idle timer would wait for longer, and who
/// sends a packet now and then keeps it from running out: keys of Initial packets are no secret (RFC 9001 §5.2).
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// What a connection may [hold](Connection::held) until its peer's certificate is verified, bytes: its state, and a flight of handshake
/// data out of order. quiche keeps 64 KB of that, a byte a frame if a peer so likes. Measured: 13 KB in a handshake that goes as it
/// should.
pub const UNPROVEN: u64 = 32 << 10;

/// HTTP/3 error codes that we send (RFC 9114 §8.1).
pub const H3_NO_ERROR: u64 = 0x100;
pub const H3_EXCESSIVE_LOAD: u64 = 0x107;
pub const H3_REQUEST_CANCELLED: u64 = 0x10c;
pub const H3_MESSAGE_ERROR: u64 = 0x10e;
pub const H3_CONNECT_ERROR: u64 = 0x10f;

/// A stream's low send watermark, bytes: below one packet's worth a write only makes small frames.
const LOW_WATERMARK: usize = 1_100;

pub struct Connection {
    q: Transport,
    h3: Option<Http3>,
    kind: Kind,
    local: SocketAddr,
    identity: Option<Arc<PeerIdentity>>,
    /// Why the verifier refused the peer's certificate.
    refusal: Option<Refusal>,
    events: VecDeque<Event>,
    packets: u64,
    account: Account,
    ready: bool,
    closed: bool,
    /// Our reason, from `close` on. Before the handshake is done it may not travel (RFC 9000 §10.2.3), and quiche drops it.
    closing: Option<String>,
    goaway_received: bool,
    scid: Cid,
    /// A packet that did not fit the last burst because it was larger than the burst's segments.
    stash: Vec<u8>,
    stash_to: Option<SocketAddr>,
    /// Something was written since the congestion controller was last told that we had no more to send.
    wrote: bool,
    marks_left: u8,
    /// Bytes sent since there was last nothing to send.
    flight: usize,
    bursts: Bursts,
    /// Probe timeouts, those alone: quiche's count has the timer of RFC 9002 §6.1.2 in it.
    probes: u64,
    /// Times that bursts turned out to be lost where single packets arrive, and not yet taken.
    bursts_lost: u64,
    bursts_told: bool,
}

impl Connection {
    /// A client connection. `local` and `peer` are constant for its life: for inner connections they are synthetic.
    pub fn connect(
        tls: &mut TlsConfig,
        scid: Cid,
        server_name: &str,
        local: SocketAddr,
        peer: SocketAddr,
    ) -> Result<Self> {
        let id = quiche::ConnectionId::from_ref(scid.as_bytes());
        let mut account = Account::default();
        let q = account
            .charge(|| quiche::connect(Some(server_name), &id, local, peer, &mut tls.quiche))
            .map_err(|e| Error::Internal(format!("QUIC connect: {e}")))?;
        Ok(Self::new(q, account, tls.kind(), local, scid))
    }

    /// A server connection for a first Initial. `retry` holds the original destination connection ID and the Retry's source
    /// connection ID where the client's address was validated. `reset_token` goes with `scid` (RFC 9000 §10.3).
    pub fn accept(
        tls: &mut TlsConfig,
        scid: Cid,
        reset_token: Option<[u8; reset::TOKEN]>,
        retry: Option<(&[u8], &[u8])>,
        local: SocketAddr,
        peer: SocketAddr,
    ) -> Result<Self> {
        let id = quiche::ConnectionId::from_ref(scid.as_bytes());
        // A connection takes a copy of the configuration's transport parameters.
        tls.quiche.set_stateless_reset_token(reset_token.map(u128::from_be_bytes));
        let mut account = Account::default();
        let q = account.charge(|| match retry {
            None => quiche::accept(&id, None, local, peer, &mut tls.quiche),
            Some((odcid, rscid)) => {
                let (odcid, rscid) = (quiche::ConnectionId::from_ref(odcid), quiche::ConnectionId::from_ref(rscid));
                let ids = quiche::RetryConnectionIds { original_destination_cid: &odcid, retry_source_cid: &rscid };
                quiche::accept_with_retry(&id, ids, local, peer, &mut tls.quiche)
            }
        });
        let q = q.map_err(|e| Error::Internal(format!("QUIC accept: {e}")))?;
        Ok(Self::new(q, account, tls.kind(), local, scid))
    }

    fn new(q: Transport, account: Account, kind: Kind, local: SocketAddr, scid: Cid) -> Self {
        Connection {
            q,
            h3: None,
            kind,
            local,
            identity: None,
            refusal: None,
            events: VecDeque::new(),
            packets: 0,
            account,
            ready: false,
            closed: false,
            closing: None,
            goaway_received: false,
            scid,
            stash: Vec::new(),
            stash_to: None,
            wrote: true,
            marks_left: sending::APP_LIMITED_MARKS,
            flight: 0,
            bursts: Bursts::default(),
            probes: 0,
            bursts_lost: 0,
            bursts_told: false,
        }
    }

    /// Feeds one packet. Errors are the peer's and end this connection at most: they come back as `Closed`.
    pub fn recv(&mut self, packet: &mut [u8], from: SocketAddr) {
        self.recv_at(packet, from, self.local);
    }

    /// As [`recv`](Self::recv), naming the local address that it arrived at.
    pub fn recv_at(&mut self, packet: &mut [u8], from: SocketAddr, to: SocketAddr) {
        self.packets += 1;
        let _ = self.account.charge(|| ztna_quiche::recv(&mut self.q, packet, quiche::RecvInfo { from, to }));
    }

    /// Settles what packets and timers changed: handshake, HTTP/3, closing. Call once after a batch, before `poll_event`.
    pub fn process(&mut self, tls: &mut TlsConfig) {
        if self.closed {
            return;
        }
        let mut account = std::mem::take(&mut self.account);
        account.charge(|| self.settle(tls));
        self.account = account;
    }

    fn settle(&mut self, tls: &mut TlsConfig) {
        if self.identity.is_none() && self.refusal.is_none() {
            self.refusal = tls.take_refusal(self.q.as_mut());
        }
        if self.h3.is_none() && self.q.is_established() {
            self.establish(tls);
        }
        if let Some(h3) = self.h3.as_mut() {
            if let Err(e) = h3.poll(&mut self.q, &mut self.events) {
                let _ = self.q.close(true, 0x102, e.to_string().as_bytes());
            }
            if !self.ready && h3.ready(&self.q) {
                self.ready = true;
                self.events.push_back(Event::Ready);
            }
            while let Some(stream) = self.q.stream_writable_next() {
                self.events.push_back(Event::Writable { stream });
            }
        }
        while let Some(event) = self.q.path_event_next() {
            if let quiche::PathEvent::PeerMigrated(_, peer) = event {
                self.events.push_back(Event::Migrated(peer));
                self.path_changed();
            }
        }
        self.judge_bursts();
        if self.q.is_closed() {
            self.closed = true;
            self.events.push_back(Event::Closed(self.why_closed()));
        }
    }

    fn establish(&mut self, tls: &mut TlsConfig) {
        let verified = tls.verified(self.q.as_mut());
        let chain = self.q.peer_cert_chain().unwrap_or_default();
        match tls.verify(&chain, verified, SystemTime::now()) {
            Ok(identity) => {
                self.identity = Some(identity.clone());
                match Http3::new(&mut self.q) {
                    Ok(h3) => self.h3 = Some(h3),
                    Err(e) => {
                        let _ = self.q.close(true, 0x102, e.to_string().as_bytes());
                    }
                }
                self.events.push_back(Event::Established(identity));
            }
            Err(refusal) => {
                let _ = self.q.close(false, 0x100 + 42, refusal.to_string().as_bytes());
                self.closed = true;
                self.events.push_back(Event::Closed(Closed::Refused(refusal)));
            }
        }
    }

    fn why_closed(&self) -> Closed {
        if let Some(refusal) = &self.refusal {
            return Closed::Refused(refusal.clone());
        }
        if self.q.is_timed_out() {
            return Closed::TimedOut;
        }
        if let Some(e) = self.q.peer_error() {
            return Closed::ByPeer {
                app: e.is_app,
                code: e.error_code,
                reason: String::from_utf8_lossy(&e.reason).into_owned(),
            };
        }
        if let Some(reason) = &self.closing {
            return Closed::Local(reason.clone());
        }
        match self.q.local_error() {
            Some(e) => Closed::Local(format!("{} (code {:#x})", String::from_utf8_lossy(&e.reason), e.error_code)),
            None => Closed::TimedOut,
        }
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        if matches!(event, Event::GoAway) {
            self.goaway_received = true;
        }
        if let Event::Headers { fields, .. } = &event {
            self.account.give(size_of_fields(fields));
        }
        Some(event)
    }

    /// Packets that decrypted so far.
    pub fn received(&self) -> usize {
        self.q.stats().recv
    }

    /// Whether something that the peer must acknowledge is unacknowledged at `now`: quiche then arms a loss timer, which lies
    /// well before the idle timer that a keep-alive every 15 s holds more than 40 s away.
    pub fn in_flight(&self, now: Instant) -> bool {
        const NEAR: Duration = Duration::from_secs(25);
        ztna_quiche::timeout_instant(&self.q).is_some_and(|t| t.saturating_duration_since(now) < NEAR)
    }

    /// What this connection holds of the heap, bytes: all that its peer made it keep and all that was written to it. DATAGRAMs
    /// that wait are not in it, for their queues are bounded and may hold what others send.
    pub fn held(&self) -> u64 {
        let queued = self.q.dgram_send_queue_byte_size() + self.q.dgram_recv_queue_byte_size();
        self.account.held().saturating_sub(queued as u64)
    }

    /// Bytes of a stream that wait to be read, frame headers included. Walks every chunk of them.
    pub fn unread(&self, stream: StreamId) -> u64 {
        self.q.stream_readable_len(stream, usize::MAX) as u64
    }

    /// Whether all bytes up to the peer's FIN were read.
    pub fn finished(&self, stream: StreamId) -> bool {
        self.q.stream_finished(stream)
    }

    /// Whether bytes or the FIN of a stream may not have been acknowledged yet. `false` too once the peer has stopped it. A stream that
    /// neither the peer has ended nor we have read to its end is held in any case.
    pub fn holds_sender(&mut self, stream: StreamId) -> bool {
        // quiche lets go of a stream, and then knows it no more, once both directions are done and acknowledged.
        ztna_quiche::stream_capacity(&mut self.q, stream).is_ok()
    }

    pub fn timeout_instant(&self) -> Option<Instant> {
        ztna_quiche::timeout_instant(&self.q)
    }

    /// Fires timers that are due.
    pub fn on_timeout(&mut self) {
        if self.q.timeout().is_some_and(|t| t.is_zero()) {
            let before = (self.probe_timeouts(), self.q.stats().lost);
            self.account.charge(|| ztna_quiche::on_timeout(&mut self.q));
            // The same timer declares packets lost, and then probes nothing.
            if self.probe_timeouts() > before.0 && self.q.stats().lost == before.1 {
                self.probes += 1;
                self.judge_bursts();
            }
        }
    }

    // ---- HTTP/3

    /// Opens a request stream. `Ok(None)`: not now, call again after the next packet.
    pub fn request(&mut self, fields: &[(String, String)], fin: bool) -> Result<Option<StreamId>> {
        self.wrote = true;
        match self.h3.as_mut() {
            Some(h3) => self.account.charge(|| h3.request(&mut self.q, fields, fin)),
            None => Ok(None),
        }
    }

    pub fn respond(&mut self, stream: StreamId, fields: Fields, fin: bool) {
        self.wrote = true;
        if let Some(h3) = self.h3.as_mut() {
            self.account.take(size_of_fields(&fields));
            self.account.charge(|| h3.respond(&mut self.q, stream, fields, fin));
        }
    }

    /// Answers with FIN and asks the peer to stop sending: a refusal whose reason arrives (facts.md).
    pub fn refuse(&mut self, stream: StreamId, fields: Fields) {
        self.respond(stream, fields, true);
        self.stop(stream, H3_NO_ERROR);
    }

    /// Writes body bytes; with `fin` the stream ends once all of `data` was taken.
    pub fn write(&mut self, stream: StreamId, data: &[u8], fin: bool) -> Wrote {
        self.wrote = true;
        let Some(h3) = self.h3.as_mut() else { return Wrote::Blocked };
        let wrote = self.account.charge(|| h3.write(&mut self.q, stream, data, fin));
        let short = match wrote {
            Wrote::Blocked => true,
            Wrote::Bytes(n) => n < data.len(),
            Wrote::Stopped(_) | Wrote::Gone => false,
        };
        if short {
            let _ = ztna_quiche::stream_writable(&mut self.q, stream, LOW_WATERMARK);
        }
        wrote
    }

    /// Bytes that a [`write`](Self::write) would take now, the DATA frame's header left out; 0 when blocked.
    pub fn capacity(&mut self, stream: StreamId) -> usize {
        /// DATA frame header: type and a length of at most 4 bytes.
        const HEADER: usize = 5;
        match ztna_quiche::stream_capacity(&mut self.q, stream) {
            Ok(n) if n > HEADER => n - HEADER,
            Ok(_) => {
                let _ = ztna_quiche::stream_writable(&mut self.q, stream, LOW_WATERMARK);
                0
            }
            // The write itself will say Stopped or Gone.
            Err(_) => usize::MAX,
        }
    }

    /// Reads body bytes; 0 when there are none now.
    pub fn read(&mut self, stream: StreamId, out: &mut [u8]) -> usize {
        match self.h3.as_mut() {
            Some(h3) => self.account.charge(|| h3.read(&mut self.q, stream, out)),
            None => 0,
        }
    }

    /// RESET_STREAM and STOP_SENDING.
    pub fn reset(&mut self, stream: StreamId, code: u64) {
        self.account.charge(|| {
            let _ = self.q.stream_shutdown(stream, quiche::Shutdown::Read, code);
            let _ = self.q.stream_shutdown(stream, quiche::Shutdown::Write, code);
            if let Some(h3) = self.h3.as_mut() {
                h3.leave(stream);
            }
        });
    }

    /// STOP_SENDING alone: we read no more.
    pub fn stop(&mut self, stream: StreamId, code: u64) {
        self.account.charge(|| {
            let _ = self.q.stream_shutdown(stream, quiche::Shutdown::Read, code);
            if let Some(h3) = self.h3.as_mut() {
                h3.leave(stream);
            }
        });
    }

    /// Which of our requests the peer's GOAWAY leaves unprocessed: those with this ID or above (RFC 9114 §5.2). `None`: no GOAWAY.
    pub fn refused_from(&self) -> Option<StreamId> {
        self.h3.as_ref()?.refused_from()
    }

    pub fn goaway(&mut self) {
        if let Some(h3) = self.h3.as_mut() {
            self.account.charge(|| h3.goaway(&mut self.q));
        }
    }

    // ---- DATAGRAM

    /// Queues one DATAGRAM. `false`: full or too large.
    pub fn dgram_send(&mut self, payload: Vec<u8>) -> bool {
        self.wrote = true;
        self.account.take(payload.capacity());
        self.account.charge(|| ztna_quiche::dgram_send(&mut self.q, payload)).is_ok()
    }
    /// Drops all DATAGRAMs that wait to be sent.
    pub fn forget_datagrams(&mut self) {
        self.account.charge(|| self.q.dgram_purge_outgoing(|_| true));
    }
    pub fn dgram_recv(&mut self) -> Option<Vec<u8>> {
        let payload = self.account.charge(|| ztna_quiche::dgram_recv(&mut self.q)).ok()?;
        self.account.give(payload.capacity());
        Some(payload)
    }
    pub fn dgram_full(&self) -> bool {
        self.q.is_dgram_send_queue_full()
    }
    /// DATAGRAMs queued and not yet in a packet.
    pub fn dgram_queued(&self) -> usize {
        self.q.dgram_send_queue_len()
    }
    /// Largest DATAGRAM payload now, bytes; `None` before the handshake or where the peer takes none. While it is not known whether
    /// larger packets pass, what fits the smallest that every path carries (RFC 9000 §14): quiche would take a larger one and hold it
    /// until a probe of that size has come back.
    pub fn dgram_max(&self) -> Option<usize> {
        let max = self.q.dgram_max_writable_len()?;
        let passes = if self.kind.is_outer() { self.pmtu().max(quiche::MIN_CLIENT_INITIAL_LEN) } else { usize::MAX };
        Some(max.saturating_sub(self.q.max_send_udp_payload_size().saturating_sub(passes)))
    }

    // ---- state

    pub fn kind(&self) -> Kind {
        self.kind
    }
    pub fn identity(&self) -> Option<&Arc<PeerIdentity>> {
        self.identity.as_ref()
    }
    pub fn is_established(&self) -> bool {
        self.identity.is_some()
    }
    /// Fills `out` with key material that both ends derive alike from the handshake (RFC 8446 §7.5), other for every label and
    /// context. Errors: `Internal` until the connection is established and the peer's identity accepted, once it is closed, and where
    /// BoringSSL refuses; `out` is then left as it was.
    pub fn export(&mut self, label: &str, context: &[u8], out: &mut [u8]) -> Result<()> {
        let ended = self.is_closed() || self.is_draining() || self.q.local_error().is_some();
        if self.identity.is_none() || !self.q.is_established() || ended {
            let why = if ended { "the connection has ended" } else { "the connection's peer is not known yet" };
            return Err(Error::Internal(format!("key material `{label}`: {why}")));
        }
        let ssl: &mut SslRef = self.q.as_mut();
        // Wiped: where the export fails, and when it is dropped.
        let mut material = Zeroizing::new(vec![0; out.len()]);
        ssl.export_keying_material(&mut material, label, Some(context))
            .map_err(|e| Error::Internal(format!("key material `{label}`: {e}")))?;
        out.copy_from_slice(&material);
        Ok(())
    }
    pub fn is_ready(&self) -> bool {
        self.ready && !self.goaway_received
    }
    /// Takes requests that need none of the peer's SETTINGS, which come a round trip after the handshake (RFC 9114 §7.2.4.2).
    pub fn takes_plain_requests(&self) -> bool {
        self.h3.is_some() && !self.goaway_received
    }
    pub fn is_closed(&self) -> bool {
        self.closed || self.q.is_closed()
    }
    /// Closed, or about to be by our own wish.
    pub fn is_ending(&self) -> bool {
        self.is_closed() || self.q.local_error().is_some()
    }
    /// Why we closed it, from the call of [`close`](Self::close) on.
    pub fn local_close(&self) -> Option<String> {
        self.q
            .local_error()
            .map(|e| self.closing.clone().unwrap_or_else(|| String::from_utf8_lossy(&e.reason).into_owned()))
    }
    pub fn is_draining(&self) -> bool {
        self.q.is_draining()
    }
    /// Whether this datagram, which no connection ID led here, is the peer's word that it has lost the connection (RFC 9000 §10.3).
    pub fn is_reset_by(&self, datagram: &[u8]) -> bool {
        let token = self.q.peer_transport_params().and_then(|p| p.stateless_reset_token);
        token.is_some_and(|token| reset::is_reset(datagram, &token.to_be_bytes()))
    }
    /// Our connection ID: the one peers address us by.
    pub fn scid(&self) -> Cid {
        self.scid
    }
    /// The peer's connection ID in use, once known and of our length.
    pub fn dcid(&self) -> Option<Cid> {
        if !self.q.is_established() {
            return None;
        }
        Cid::from_slice(&self.q.destination_id())
    }
    /// Packets sent and received: RFC 9001 §6.6 limits them per key, and quiche never starts a key update.
    pub fn packets(&self) -> u64 {
        self.packets
    }
    /// Smoothed round trip time of the active path.
    pub fn rtt(&self) -> Duration {
        sending::round_trip(&self.q)
    }
    /// Packets (lost, sent).
    pub fn loss(&self) -> (usize, usize) {
        let s = self.q.stats();
        (s.lost, s.sent)
    }
    /// Largest UDP payload that PMTU discovery found to pass.
    pub fn pmtu(&self) -> usize {
        self.q.pmtu().unwrap_or(0)
    }
    /// Probes the largest payload again: until it has passed, [`pmtu`](Self::pmtu) gives 0 or what is known to pass.
    pub fn probe_pmtu(&mut self) {
        self.q.revalidate_pmtu();
    }
    /// Probe timeouts so far (RFC 9002 §6.2): times that nothing was acknowledged for long.
    pub fn probe_timeouts(&self) -> usize {
        self.q.path_stats().find(|p| p.active).map_or(0, |p| p.total_pto_count)
    }
    /// Bidirectional streams that we may still open.
    pub fn streams_left(&self) -> u64 {
        self.q.peer_streams_left_bidi()
    }

    /// Sends something that the peer must acknowledge: a keep-alive, or the nudge after a path switch.
    pub fn ping(&mut self) {
        let _ = self.q.send_ack_eliciting();
    }

    /// Closes with an application error (RFC 9114 §8.1 code). Until the handshake is confirmed that takes a packet for each kind of
    /// keys, for the peer may lack some yet and have dropped others; all but the 1-RTT one say APPLICATION_ERROR (RFC 9000 §10.2.3).
    pub fn close(&mut self, code: u64, reason: &str) {
        self.closing.get_or_insert_with(|| reason.to_owned());
        let _ = self.q.close(true, code, reason.as_bytes());
    }
    /// Nothing of a [`close`](Self::close) is left to be sent.
    pub fn has_said_close(&self) -> bool {
        !self.q.is_close_pending() && self.stash_to.is_none()
    }
}
