//! The framing of STUN messages: header, attributes, addresses, FINGERPRINT.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::wire::error::DecodeError;
use crate::wire::reader::Reader;

/// Message type of a Binding request and of its success response (RFC 8489 §5, §18.2).
pub const BINDING_REQUEST: u16 = 0x0001;
pub const BINDING_SUCCESS: u16 = 0x0101;
/// RFC 8489 §5.
pub const MAGIC_COOKIE: u32 = 0x2112_a442;
pub const HEADER_LEN: usize = 20;
pub const ATTR_HEADER_LEN: usize = 4;

/// Attribute types (RFC 8489 §18.3, RFC 5780 §7).
pub const MESSAGE_INTEGRITY_SHA256: u16 = 0x001c;
pub const XOR_MAPPED_ADDRESS: u16 = 0x0020;
pub const PADDING: u16 = 0x0026;
pub const FINGERPRINT: u16 = 0x8028;
/// RFC 8489 §14.7.
pub const FINGERPRINT_XOR: u32 = 0x5354_554e;
pub const FINGERPRINT_LEN: usize = ATTR_HEADER_LEN + 4;

/// 96 random bits that join an answer to its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransactionId(pub [u8; 12]);

impl TransactionId {
    /// The `n`th of a sequence that nobody can guess who does not know `secret`; no two of it are the same.
    pub fn nth(secret: [u8; 12], n: u64) -> TransactionId {
        let mut tid = secret;
        for (b, n) in tid.iter_mut().zip(n.to_be_bytes()) {
            *b ^= n;
        }
        TransactionId(tid)
    }
}

pub struct Attribute<'a> {
    pub ty: u16,
    pub value: &'a [u8],
    /// Where in the message it starts.
    pub at: usize,
}

/// RFC 8489 §14: types from 0x8000 may be ignored.
pub fn is_optional(ty: u16) -> bool {
    ty >= 0x8000
}

/// Checks header, attribute framing and FINGERPRINT. What follows a FINGERPRINT is an error, it has to be last.
pub fn parse(message: &[u8], ty: u16) -> Result<(TransactionId, Vec<Attribute<'_>>), DecodeError> {
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
        attributes.push(Attribute { ty, value, at: before });
    }
    Ok((tid, attributes))
}

pub fn header(ty: u16, tid: TransactionId, out: &mut Vec<u8>) {
    out.extend_from_slice(&ty.to_be_bytes());
    out.extend_from_slice(&[0, 0]); // length, see `set_length`
    out.extend_from_slice(&MAGIC_COOKIE.to_be_bytes());
    out.extend_from_slice(&tid.0);
}

/// `value` is shorter than 64 KiB everywhere above.
pub fn attribute(ty: u16, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&ty.to_be_bytes());
    out.extend_from_slice(&(value.len() as u16).to_be_bytes());
    out.extend_from_slice(value);
    out.resize(out.len() + (value.len().wrapping_neg() & 3), 0);
}

/// Writes the length field of the message that starts at `start`.
pub fn set_length(out: &mut [u8], start: usize) {
    let len = out.len().saturating_sub(start + HEADER_LEN) as u16;
    if let Some(field) = out.get_mut(start + 2..start + 4) {
        field.copy_from_slice(&len.to_be_bytes());
    }
}

/// Ends the message that starts at `start`. The CRC covers a length field that already counts the FINGERPRINT (RFC 8489 §14.7).
pub fn fingerprint(out: &mut Vec<u8>, start: usize) {
    attribute(FINGERPRINT, &[0; 4], out);
    set_length(out, start);
    let end = out.len() - FINGERPRINT_LEN;
    let crc = crc32(out.get(start..end).unwrap_or_default()) ^ FINGERPRINT_XOR;
    out.truncate(end);
    attribute(FINGERPRINT, &crc.to_be_bytes(), out);
}

pub fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

pub fn address_attr_len(addr: SocketAddr) -> usize {
    ATTR_HEADER_LEN + if addr.is_ipv4() { 8 } else { 20 }
}

/// MAPPED-ADDRESS's format (RFC 8489 §14.1), which OTHER-ADDRESS shares.
pub fn plain(addr: SocketAddr) -> Vec<u8> {
    let mut out = vec![0, if addr.is_ipv4() { 1 } else { 2 }];
    out.extend_from_slice(&addr.port().to_be_bytes());
    match addr.ip() {
        IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
    }
    out
}

pub fn parse_address(value: &[u8]) -> Option<SocketAddr> {
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
pub fn xored(addr: SocketAddr, tid: TransactionId) -> Vec<u8> {
    plain(mask(addr, tid))
}

pub fn unxored(value: &[u8], tid: TransactionId) -> Option<SocketAddr> {
    parse_address(value).map(|addr| mask(addr, tid))
}

/// XOR with the magic cookie and the transaction ID; its own inverse.
pub fn mask(addr: SocketAddr, tid: TransactionId) -> SocketAddr {
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
pub fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &b| {
        (0..8).fold(crc ^ u32::from(b), |c, _| (c >> 1) ^ (0xedb8_8320 & (c & 1).wrapping_neg()))
    })
}
