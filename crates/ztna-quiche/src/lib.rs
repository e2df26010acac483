//! What runs for every packet of quiche, compiled once.
//!
//! `quiche::Connection` is generic over the factory of its buffers, so that its code is made in the crate that calls it. That crate
//! is built piecemeal, for builds to be quick after a change, and quiche's hot path was then cut up as well: a sixth of what agent and
//! connector spend on a byte. Here it is made as a whole, by the profile that Cargo.toml gives this crate. Nothing else is here:
//! each function is the method of its name.

#![forbid(unsafe_code)]

use quiche::h3::{self, Event};
use quiche::{RecvInfo, Result, SendInfo};

/// A connection with quiche's own buffers.
pub type Transport = quiche::Connection;

#[inline(never)]
pub fn recv(q: &mut Transport, packet: &mut [u8], info: RecvInfo) -> Result<usize> {
    q.recv(packet, info)
}

#[inline(never)]
pub fn send(q: &mut Transport, out: &mut [u8]) -> Result<(usize, SendInfo)> {
    q.send(out)
}

#[inline(never)]
pub fn on_timeout(q: &mut Transport) {
    q.on_timeout();
}

#[inline(never)]
pub fn timeout_instant(q: &Transport) -> Option<std::time::Instant> {
    q.timeout_instant()
}

#[inline(never)]
pub fn stream_capacity(q: &mut Transport, stream: u64) -> Result<usize> {
    q.stream_capacity(stream)
}

#[inline(never)]
pub fn stream_writable(q: &mut Transport, stream: u64, len: usize) -> Result<bool> {
    q.stream_writable(stream, len)
}

#[inline(never)]
pub fn dgram_send(q: &mut Transport, payload: Vec<u8>) -> Result<()> {
    q.dgram_send_buf(payload)
}

#[inline(never)]
pub fn dgram_recv(q: &mut Transport) -> Result<Vec<u8>> {
    q.dgram_recv_buf()
}

#[inline(never)]
pub fn poll(h3: &mut h3::Connection, q: &mut Transport) -> std::result::Result<(u64, Event), h3::Error> {
    h3.poll(q)
}

#[inline(never)]
pub fn send_body(
    h3: &mut h3::Connection,
    q: &mut Transport,
    stream: u64,
    body: &[u8],
    fin: bool,
) -> std::result::Result<usize, h3::Error> {
    h3.send_body(q, stream, body, fin)
}

#[inline(never)]
pub fn recv_body(
    h3: &mut h3::Connection,
    q: &mut Transport,
    stream: u64,
    out: &mut [u8],
) -> std::result::Result<usize, h3::Error> {
    h3.recv_body(q, stream, out)
}
