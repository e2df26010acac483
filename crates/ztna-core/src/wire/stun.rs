//! STUN Binding (RFC 8489) without credentials, with OTHER-ADDRESS and PADDING (RFC 5780): how a node learns its address.
//!
//! Left out: error responses (a request we don't understand gets no answer: this port also carries QUIC, and silence can't be
//! used to reflect), CHANGE-REQUEST, RESPONSE-PORT, MESSAGE-INTEGRITY (received ones are skipped, not believed).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::error::DecodeError;
use super::reader::Reader;

/// Message type of a Binding request and of its success response (RFC 8489 §5, §18.2).
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
/// RFC 8489 §5.
const MAGIC_COOKIE: u32 = 0x2112_a442;
const HEADER_LEN: usize = 20;
const ATTR_HEADER_LEN: usize = 4;

/// Attribute types (RFC 8489 §18.3, RFC 5780 §7).
const CHANGE_REQUEST: u16 = 0x0003;
const MAPPED_ADDRESS: u16 = 0x0001;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const MESSAGE_INTEGRITY_SHA256: u16 = 0x001c;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const PADDING: u16 = 0x0026;
const FINGERPRINT: u16 = 0x8028;
const OTHER_ADDRESS: u16 = 0x802c;
/// RFC 8489 §14.7.
const FINGERPRINT_XOR: u32 = 0x5354_554e;
const FINGERPRINT_LEN: usize = ATTR_HEADER_LEN + 4;

/// Length of our request, in bytes: header, two IPv6 addresses and FINGERPRINT, which is the longest answer there is. A relay
/// never answers with more than it was sent, so a shorter request would lose part of the answer.
pub const REQUEST_LEN: usize = HEADER_LEN + 2 * (ATTR_HEADER_LEN + 20) + FINGERPRINT_LEN;

/// 96 random bits that join an answer to its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransactionId(pub [u8; 12]);

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

struct Attribute<'a> {
    ty: u16,
    value: &'a [u8],
}

/// RFC 8489 §14: types from 0x8000 may be ignored.
fn is_optional(ty: u16) -> bool {
    ty >= 0x8000
}

/// Checks header, attribute framing and FINGERPRINT. What follows a FINGERPRINT is an error, it has to be last.
fn parse(message: &[u8], ty: u16) -> Result<(TransactionId, Vec<Attribute<'_>>), DecodeError> {
    let cut = || DecodeError::truncated("STUN message");
    let mut r = Reader::new(message);
    let got = r.u16().ok_or_else(cut)?;
    if got != ty {
        return Err(DecodeError::invalid("STUN message type", format!("{got:#06x}"), "a Binding request or success"));
    }
    let len = usize::from(r.u16().ok_or_else(cut)?);
    if r.u32().ok_or_else(cut)? != MAGIC_COOKIE {
        return Err(DecodeError::invalid("STUN magic cookie", "another value", "0x2112a442"));
    }
    let tid = TransactionId(r.array().ok_or_else(cut)?);
    if len % 4 != 0 || len != r.rest().len() {
        return Err(DecodeError::invalid("STUN length", len, "the rest of the datagram, a multiple of 4"));
    }
    let mut attributes = Vec::new();
    while !r.is_empty() {
        let before = message.len() - r.rest().len();
        let (ty, len) = (r.u16().ok_or_else(cut)?, usize::from(r.u16().ok_or_else(cut)?));
        let value = r.take(len).ok_or_else(cut)?;
        r.take(len.wrapping_neg() & 3).ok_or_else(cut)?;
        if ty == FINGERPRINT {
            let expected = crc32(message.get(..before).unwrap_or_default()) ^ FINGERPRINT_XOR;
            if !r.is_empty() || value != expected.to_be_bytes() {
                return Err(DecodeError::invalid(
                    "STUN FINGERPRINT",
                    "wrong",
                    "the last attribute, the CRC of all before it",
                ));
            }
        }
        attributes.push(Attribute { ty, value });
    }
    Ok((tid, attributes))
}

fn header(ty: u16, tid: TransactionId, out: &mut Vec<u8>) {
    out.extend_from_slice(&ty.to_be_bytes());
    out.extend_from_slice(&[0, 0]); // length, see `set_length`
    out.extend_from_slice(&MAGIC_COOKIE.to_be_bytes());
    out.extend_from_slice(&tid.0);
}

/// `value` is shorter than 64 KiB everywhere above.
fn attribute(ty: u16, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&ty.to_be_bytes());
    out.extend_from_slice(&(value.len() as u16).to_be_bytes());
    out.extend_from_slice(value);
    out.resize(out.len() + (value.len().wrapping_neg() & 3), 0);
}

/// Writes the length field of the message that starts at `start`.
fn set_length(out: &mut [u8], start: usize) {
    let len = out.len().saturating_sub(start + HEADER_LEN) as u16;
    if let Some(field) = out.get_mut(start + 2..start + 4) {
        field.copy_from_slice(&len.to_be_bytes());
    }
}

/// Ends the message that starts at `start`. The CRC covers a length field that already counts the FINGERPRINT (RFC 8489 §14.7).
fn fingerprint(out: &mut Vec<u8>, start: usize) {
    attribute(FINGERPRINT, &[0; 4], out);
    set_length(out, start);
    let end = out.len() - FINGERPRINT_LEN;
    let crc = crc32(out.get(start..end).unwrap_or_default()) ^ FINGERPRINT_XOR;
    out.truncate(end);
    attribute(FINGERPRINT, &crc.to_be_bytes(), out);
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

fn address_attr_len(addr: SocketAddr) -> usize {
    ATTR_HEADER_LEN + if addr.is_ipv4() { 8 } else { 20 }
}

/// MAPPED-ADDRESS's format (RFC 8489 §14.1), which OTHER-ADDRESS shares.
fn plain(addr: SocketAddr) -> Vec<u8> {
    let mut out = vec![0, if addr.is_ipv4() { 1 } else { 2 }];
    out.extend_from_slice(&addr.port().to_be_bytes());
    match addr.ip() {
        IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
    }
    out
}

fn parse_address(value: &[u8]) -> Option<SocketAddr> {
    let mut r = Reader::new(value);
    let (_reserved, family, port) = (r.u8()?, r.u8()?, r.u16()?);
    let ip: IpAddr = match family {
        1 => Ipv4Addr::from(r.array::<4>()?).into(),
        2 => Ipv6Addr::from(r.array::<16>()?).into(),
        _ => return None,
    };
    r.is_empty().then_some(SocketAddr::new(ip, port))
}

/// XOR-MAPPED-ADDRESS's format (RFC 8489 §14.2).
fn xored(addr: SocketAddr, tid: TransactionId) -> Vec<u8> {
    plain(mask(addr, tid))
}

fn unxored(value: &[u8], tid: TransactionId) -> Option<SocketAddr> {
    parse_address(value).map(|addr| mask(addr, tid))
}

/// XOR with the magic cookie and the transaction ID; its own inverse.
fn mask(addr: SocketAddr, tid: TransactionId) -> SocketAddr {
    let ip: IpAddr = match addr.ip() {
        IpAddr::V4(ip) => Ipv4Addr::from(u32::from(ip) ^ MAGIC_COOKIE).into(),
        IpAddr::V6(ip) => {
            let tail = tid.0.iter().fold(0u128, |acc, &b| acc << 8 | u128::from(b));
            Ipv6Addr::from(u128::from(ip) ^ (u128::from(MAGIC_COOKIE) << 96 | tail)).into()
        }
    };
    SocketAddr::new(ip, addr.port() ^ (MAGIC_COOKIE >> 16) as u16)
}

/// CRC-32 of ITU V.42, reflected, as RFC 8489 §14.7 asks. Bit by bit: messages are short and rare.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &b| {
        (0..8).fold(crc ^ u32::from(b), |c, _| (c >> 1) ^ (0xedb8_8320 & (c & 1).wrapping_neg()))
    })
}

#[cfg(test)]
#[path = "stun_tests.rs"]
mod tests;
