//! HTTP/3 over one connection: fields, requests, bodies. The only file that names `quiche::h3`.

use std::collections::VecDeque;

use quiche::h3::{self, NameValue};

use super::connection::{Event, StreamId, Transport, Wrote};
use crate::error::{Error, Result};

/// A header section in order, names lower case. Pseudo-headers first.
pub type Fields = Vec<(String, String)>;

/// The first value of `name`.
pub fn field<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
}

/// Largest header section taken, bytes: our longest request is under 1 KiB; `traceparent` and a few foreign fields fit.
const MAX_FIELD_SECTION: u64 = 16 << 10;
/// Header sections that wait for congestion window, a connection. A peer's requests are bounded by its stream limit.
const MAX_PENDING: usize = 8_192;

/// From one client-initiated bidirectional stream to the next (RFC 9000 §2.1).
const REQUEST_STEP: StreamId = 4;
/// Streams that are looked at in one turn.
const MAX_SWEEP: usize = 64;

enum Pending {
    Response { stream: u64, fields: Fields, fin: bool },
    GoAway,
}

pub(super) struct Http3 {
    h3: h3::Connection,
    /// What could not be sent while the congestion window was full (StreamBlocked), in order.
    pending: VecDeque<Pending>,
    /// Streams that were shut down here and that the transport still has.
    leaving: VecDeque<StreamId>,
    /// The first request ID above all that were seen.
    next_request: StreamId,
    refused_from: Option<StreamId>,
}

impl Http3 {
    pub(super) fn new(q: &mut Transport) -> Result<Self> {
        let mut config = h3::Config::new().map_err(|e| Error::Internal(format!("h3: {e}")))?;
        config.enable_extended_connect(true);
        config.set_max_field_section_size(MAX_FIELD_SECTION);
        config.set_qpack_max_table_capacity(0);
        config.set_qpack_blocked_streams(0);
        let h3 = h3::Connection::with_transport(q, &config).map_err(|e| Error::Internal(format!("h3: {e}")))?;
        Ok(Http3 { h3, pending: VecDeque::new(), leaving: VecDeque::new(), next_request: 0, refused_from: None })
    }

    /// Whether the peer's SETTINGS allow Extended CONNECT (RFC 9220 §3) with HTTP Datagrams (RFC 9297 §2.1.1).
    pub(super) fn ready(&self, q: &Transport) -> bool {
        self.h3.extended_connect_enabled_by_peer() && self.h3.dgram_enabled_by_peer(q)
    }

    /// Opens a request. `Ok(None)`: no window or stream credit now; call again after the next packet.
    pub(super) fn request(
        &mut self,
        q: &mut Transport,
        fields: &[(String, String)],
        fin: bool,
    ) -> Result<Option<StreamId>> {
        match self.h3.send_request(q, &headers(fields), fin) {
            Ok(id) => Ok(Some(id)),
            Err(h3::Error::StreamBlocked | h3::Error::TransportError(quiche::Error::StreamLimit)) => Ok(None),
            Err(h3::Error::RequestRejected | h3::Error::RequestCancelled) => {
                Err(Error::Closed("the peer is draining".into()))
            }
            Err(e) => Err(Error::Peer(format!("request: {e}"))),
        }
    }

    /// Answers a request, now or as soon as the window allows.
    pub(super) fn respond(&mut self, q: &mut Transport, stream: StreamId, fields: Fields, fin: bool) {
        if self.pending.len() < MAX_PENDING {
            self.pending.push_back(Pending::Response { stream, fields, fin });
        }
        self.flush(q);
    }

    /// What the peer's GOAWAY has named: requests with this ID or above are not processed there (RFC 9114 §5.2).
    pub(super) fn refused_from(&self) -> Option<StreamId> {
        self.refused_from
    }

    /// Tells the peer that requests which have not been seen will not be processed (RFC 9114 §5.2).
    pub(super) fn goaway(&mut self, q: &mut Transport) {
        self.pending.push_back(Pending::GoAway);
        self.flush(q);
    }

    fn flush(&mut self, q: &mut Transport) {
        while let Some(next) = self.pending.front() {
            let done = match next {
                Pending::Response { stream, fields, fin } => {
                    // Incremental: without it one download starves every later stream (quiche's default outranks them all).
                    let priority = h3::Priority::new(3, true);
                    self.h3.send_response_with_priority(q, *stream, &headers(fields), &priority, *fin)
                }
                Pending::GoAway => self.h3.send_goaway(q, self.next_request),
            };
            match done {
                Err(h3::Error::StreamBlocked) => return,
                // Any other error means that the stream or the connection is gone: nobody is left to answer.
                Ok(()) | Err(_) => self.pending.pop_front(),
            };
        }
    }

    /// Writes body bytes. With `fin` the stream ends after `data` if all of it was taken.
    pub(super) fn write(&mut self, q: &mut Transport, stream: StreamId, data: &[u8], fin: bool) -> Wrote {
        // A body can't overtake its header section.
        if self.pending.iter().any(|p| matches!(p, Pending::Response { stream: s, .. } if *s == stream)) {
            return Wrote::Blocked;
        }
        match ztna_quiche::send_body(&mut self.h3, q, stream, data, fin) {
            Ok(n) => Wrote::Bytes(n),
            Err(h3::Error::Done) => Wrote::Blocked,
            Err(h3::Error::TransportError(quiche::Error::StreamStopped(code))) => Wrote::Stopped(code),
            Err(_) => Wrote::Gone,
        }
    }

    /// Reads body bytes; 0 when there are none now.
    pub(super) fn read(&mut self, q: &mut Transport, stream: StreamId, out: &mut [u8]) -> usize {
        ztna_quiche::recv_body(&mut self.h3, q, stream, out).unwrap_or(0)
    }

    /// A stream was shut down here. What h3 keeps of it, half a kilobyte, can go when the transport has let it go.
    pub(super) fn leave(&mut self, stream: StreamId) {
        self.leaving.push_back(stream);
    }

    /// Frees what h3 keeps of streams that are gone: it looks for that only where a stream is written to.
    fn sweep(&mut self, q: &mut Transport) {
        for _ in 0..self.leaving.len().min(MAX_SWEEP) {
            let Some(stream) = self.leaving.pop_front() else { return };
            if matches!(ztna_quiche::stream_capacity(q, stream), Err(quiche::Error::InvalidStreamState(_))) {
                // The one is for a stream that was answered, the other for one that was not.
                let _ = ztna_quiche::send_body(&mut self.h3, q, stream, b"x", false);
                let _ = self.h3.send_response(q, stream, &[h3::Header::new(b":status", b"500")], true);
            } else {
                self.leaving.push_back(stream);
            }
        }
    }

    /// Turns what arrived into events. Errors close the connection.
    pub(super) fn poll(&mut self, q: &mut Transport, events: &mut VecDeque<Event>) -> Result<()> {
        self.flush(q);
        self.sweep(q);
        loop {
            match ztna_quiche::poll(&mut self.h3, q) {
                Ok((stream, h3::Event::Headers { list, more_frames })) => {
                    self.next_request = self.next_request.max(stream.saturating_add(REQUEST_STEP));
                    match fields_of(&list) {
                        Some(fields) => events.push_back(Event::Headers { stream, fields, fin: !more_frames }),
                        None => events.push_back(Event::Malformed { stream }),
                    }
                }
                Ok((stream, h3::Event::Data)) => events.push_back(Event::Data { stream }),
                Ok((stream, h3::Event::Finished)) => events.push_back(Event::Finished { stream }),
                Ok((stream, h3::Event::Reset(code))) => events.push_back(Event::Reset { stream, code }),
                Ok((id, h3::Event::GoAway)) => {
                    self.refused_from = Some(id);
                    events.push_back(Event::GoAway);
                }
                Ok((_, h3::Event::PriorityUpdate)) => {}
                Err(h3::Error::Done) => return Ok(()),
                Err(e) => return Err(Error::Peer(format!("HTTP/3: {e}"))),
            }
        }
    }
}

fn headers(fields: &[(String, String)]) -> Vec<h3::HeaderRef<'_>> {
    fields.iter().map(|(n, v)| h3::HeaderRef::new(n.as_bytes(), v.as_bytes())).collect()
}

/// Text fields with pseudo-headers first and once each (RFC 9114 §4.3; quiche checks none of it).
fn fields_of(list: &[h3::Header]) -> Option<Fields> {
    let mut out: Fields = Vec::with_capacity(list.len());
    let mut regular = false;
    for h in list {
        let name = std::str::from_utf8(h.name()).ok()?;
        let value = std::str::from_utf8(h.value()).ok()?;
        if name.is_empty()
            || name.bytes().any(|b| b.is_ascii_uppercase() || b <= b' ')
            || value.bytes().any(|b| b < b' ' && b != b'\t')
        {
            return None;
        }
        if name.starts_with(':') {
            if regular || out.iter().any(|(n, _)| n == name) {
                return None;
            }
        } else {
            regular = true;
        }
        out.push((name.to_owned(), value.to_owned()));
    }
    Some(out)
}
