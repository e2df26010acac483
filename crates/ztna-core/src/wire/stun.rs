//! STUN Binding (RFC 8489) without credentials, with OTHER-ADDRESS and PADDING (RFC 5780): how a node learns its address.
//! Connectivity checks, which have credentials, are [`check`](super::check)'s.
//!
//! Left out: error responses (a request we don't understand gets no answer: this port also carries QUIC, and silence can't be
//! used to reflect), CHANGE-REQUEST, RESPONSE-PORT, MESSAGE-INTEGRITY (received ones are skipped, not believed).

use std::net::SocketAddr;

pub(super) mod message;

use message::*;

pub use message::TransactionId;

/// CHANGE-REQUEST (RFC 5780 §7.2), MAPPED-ADDRESS and MESSAGE-INTEGRITY (RFC 8489 §18.3): not ours to send.
const CHANGE_REQUEST: u16 = 0x0003;
const MAPPED_ADDRESS: u16 = 0x0001;
const MESSAGE_INTEGRITY: u16 = 0x0008;
/// RFC 5780 §7.4.
const OTHER_ADDRESS: u16 = 0x802c;

/// Length of our request, in bytes: header, two IPv6 addresses and FINGERPRINT, which is the longest answer there is. A relay
/// never answers with more than it was sent, so a shorter request would lose part of the answer.
pub const REQUEST_LEN: usize = HEADER_LEN + 2 * (ATTR_HEADER_LEN + 20) + FINGERPRINT_LEN;

/// Whether a datagram that starts with this byte is STUN (RFC 9443 §3: 0 to 3).
pub fn is_stun(first_byte: u8) -> bool {
    first_byte <= 3
}

/// A Binding request of [`REQUEST_LEN`] bytes.
pub fn binding_request(tid: TransactionId) -> Vec<u8> {
    binding_request_padded(tid, REQUEST_LEN)
}

/// A Binding request of `total_len` bytes, filled up with PADDING. Rounded down to a multiple of four, at least 28 (header
/// and FINGERPRINT), at most 65,504 (the largest multiple of four in a UDP payload).
pub fn binding_request_padded(tid: TransactionId, total_len: usize) -> Vec<u8> {
    let total = (total_len.clamp(HEADER_LEN + FINGERPRINT_LEN, 65_504)) & !3;
    let mut out = Vec::with_capacity(total);
    header(BINDING_REQUEST, tid, &mut out);
    if let Some(pad) = total.checked_sub(HEADER_LEN + ATTR_HEADER_LEN + FINGERPRINT_LEN) {
        attribute(PADDING, &vec![0; pad], &mut out);
    }
    fingerprint(&mut out, 0);
    out
}

/// The transaction of a well-formed Binding request that may be answered. `None` for everything else, and no answer is due:
/// another message, a wrong FINGERPRINT, an attribute that must be understood and is not (RFC 8489 §6.3.1).
pub fn parse_binding_request(message: &[u8]) -> Option<TransactionId> {
    let (tid, attributes) = parse(message, BINDING_REQUEST).ok()?;
    for attr in attributes {
        match attr.ty {
            PADDING => {}
            // Clients of RFC 3489 send it with no flag set, which asks for nothing.
            CHANGE_REQUEST if attr.value == [0; 4] => {}
            ty if is_optional(ty) => {}
            _ => return None,
        }
    }
    Some(tid)
}

/// Appends a success response of at most `max_len` bytes; pass the request's length, so that a forged source address gains a
/// stranger nothing. OTHER-ADDRESS, then FINGERPRINT, are left out where they don't fit. `false`, and nothing appended, when
/// even XOR-MAPPED-ADDRESS does not: send no reply. An IPv4-mapped address is reported as IPv4.
pub fn write_binding_success(
    tid: TransactionId,
    mapped: SocketAddr,
    other: Option<SocketAddr>,
    max_len: usize,
    out: &mut Vec<u8>,
) -> bool {
    let mapped = canonical(mapped);
    let mut left = max_len;
    let mut fits = |len: usize| {
        let ok = left >= len;
        if ok {
            left -= len;
        }
        ok
    };
    if !fits(HEADER_LEN + address_attr_len(mapped)) {
        return false;
    }
    let start = out.len();
    header(BINDING_SUCCESS, tid, out);
    attribute(XOR_MAPPED_ADDRESS, &xored(mapped, tid), out);
    if let Some(other) = other.map(canonical)
        && fits(address_attr_len(other))
    {
        attribute(OTHER_ADDRESS, &plain(other), out);
    }
    if fits(FINGERPRINT_LEN) {
        fingerprint(out, start);
    } else {
        set_length(out, start);
    }
    true
}

/// Transaction, our address as the server saw it, and OTHER-ADDRESS if it was sent. `None` for anything that is not a
/// well-formed success response with XOR-MAPPED-ADDRESS. Nothing in it is authenticated.
pub fn parse_binding_success(message: &[u8]) -> Option<(TransactionId, SocketAddr, Option<SocketAddr>)> {
    let (tid, attributes) = parse(message, BINDING_SUCCESS).ok()?;
    let (mut mapped, mut other) = (None, None);
    for attr in attributes {
        match attr.ty {
            // Of several, the first counts (RFC 8489 §14).
            XOR_MAPPED_ADDRESS if mapped.is_none() => mapped = Some(unxored(attr.value, tid)?),
            OTHER_ADDRESS if other.is_none() => other = Some(parse_address(attr.value)?),
            XOR_MAPPED_ADDRESS
            | OTHER_ADDRESS
            | MAPPED_ADDRESS
            | PADDING
            | MESSAGE_INTEGRITY
            | MESSAGE_INTEGRITY_SHA256 => {}
            ty if is_optional(ty) => {}
            _ => return None,
        }
    }
    Some((tid, mapped?, other))
}

#[cfg(test)]
mod tests;
