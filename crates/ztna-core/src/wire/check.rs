//! Connectivity checks: STUN Binding (RFC 8489, RFC 8445 §7) with credentials, sent beside QUIC on a direct path.
//!
//! Header, USERNAME, COUNTER, then PADDING in a request and XOR-MAPPED-ADDRESS in a success response,
//! MESSAGE-INTEGRITY-SHA256, FINGERPRINT. Key and token belong to one direction of one inner connection, so that a receiver
//! finds the key by the token and the token says who sent it; a success response carries its sender's own.
//!
//! Left out of RFC 8445's checks: PRIORITY, USE-CANDIDATE and the roles (each side picks its own sending path), and error
//! responses (what can't be believed is not answered).

use std::fmt;
use std::net::SocketAddr;

use boring::hash::hmac_sha256;
use zeroize::Zeroizing;

use super::stun::message::*;

/// Length of an unpadded request, bytes. As long as the longest success response, that with an IPv6 address: an answer never
/// exceeds its request.
pub const REQUEST_LEN: usize = HEADER_LEN + USERNAME_LEN + COUNTER_LEN + ADDRESS6_LEN + INTEGRITY_LEN + FINGERPRINT_LEN;
/// Longest request, bytes: the largest multiple of four in a UDP payload over IPv4.
pub const REQUEST_MAX: usize = 65_504;

/// RFC 8489 §18.3.
const USERNAME: u16 = 0x0006;
/// Private: a number that the sender uses once under its key (unsigned, 64 bits, network byte order). Its type is from the
/// comprehension-optional range for expert review, where nothing is assigned at and around it.
const COUNTER: u16 = 0xc0a1;
const USERNAME_LEN: usize = ATTR_HEADER_LEN + 16;
const COUNTER_LEN: usize = ATTR_HEADER_LEN + 8;
const ADDRESS6_LEN: usize = ATTR_HEADER_LEN + 20;
/// HMAC-SHA-256 cut to its first 16 bytes, the least that RFC 8489 §14.6 allows and as much as a QUIC packet's tag: an idle path's
/// keep-alives are checks.
const TAG: usize = 16;
const INTEGRITY_LEN: usize = ATTR_HEADER_LEN + TAG;

/// The secret of one direction, from the inner connection's TLS exporter. Wiped when dropped, never printed, never compared.
#[derive(Clone)]
pub struct CheckKey(Zeroizing<[u8; 32]>);

impl CheckKey {
    pub fn new(bytes: [u8; 32]) -> Self {
        CheckKey(Zeroizing::new(bytes))
    }
}

impl fmt::Debug for CheckKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CheckKey(…)")
    }
}

/// Names the direction that a check belongs to. No secret: every check shows it, as USERNAME, in 16 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub [u8; 8]);

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({self})")
    }
}

/// A check whose integrity holds. Whether its counter is new is for [`ReplayWindow`](super::replay::ReplayWindow) to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// `len`: the whole message's length, bytes, which is what the path has carried.
    Request { tid: TransactionId, counter: u64, len: usize },
    /// `mapped`: where the request came from, as its receiver saw it.
    Success { tid: TransactionId, counter: u64, mapped: SocketAddr },
}

/// Appends a request. `counter`: never used before under `key`, by a request or a success response. `total_len`: the message's
/// length, bytes, filled up with PADDING; rounded down to a multiple of four, at least [`REQUEST_LEN`] (what `None` gives), at most
/// [`REQUEST_MAX`]. `false`, and nothing appended: BoringSSL had no memory.
#[must_use]
pub fn request(
    tid: TransactionId,
    token: Token,
    counter: u64,
    total_len: Option<usize>,
    key: &CheckKey,
    out: &mut Vec<u8>,
) -> bool {
    let total = total_len.unwrap_or(REQUEST_LEN).clamp(REQUEST_LEN, REQUEST_MAX) & !3;
    let pad = total - (REQUEST_LEN - ADDRESS6_LEN) - ATTR_HEADER_LEN;
    let start = begin(BINDING_REQUEST, tid, token, counter, out);
    attribute(PADDING, &vec![0; pad], out);
    seal(out, start, key)
}

/// Appends a success response of at most [`REQUEST_LEN`] bytes. `tid`: the request's; `mapped`: where that came from (an IPv4-mapped
/// address is reported as IPv4); `token`, `counter` and `key`: the sender's own, as for a [`request`]. `false`: as there.
#[must_use]
pub fn success(
    tid: TransactionId,
    token: Token,
    counter: u64,
    mapped: SocketAddr,
    key: &CheckKey,
    out: &mut Vec<u8>,
) -> bool {
    let start = begin(BINDING_SUCCESS, tid, token, counter, out);
    attribute(XOR_MAPPED_ADDRESS, &xored(canonical(mapped), tid), out);
    seal(out, start, key)
}

/// Whose check a datagram claims to be: a look at its first 40 bytes, nothing is verified. `None` for everything that is not a
/// Binding request or success response with a USERNAME of ours in front.
pub fn token_of(message: &[u8]) -> Option<Token> {
    let (head, rest) = message.split_first_chunk::<HEADER_LEN>()?;
    let [t0, t1, _, _, cookie @ .., _, _, _, _, _, _, _, _, _, _, _, _] = *head;
    let binding = matches!(u16::from_be_bytes([t0, t1]), BINDING_REQUEST | BINDING_SUCCESS);
    let (attribute, rest) = rest.split_first_chunk::<ATTR_HEADER_LEN>()?;
    let [u0, u1, l0, l1] = *attribute;
    let named = u16::from_be_bytes([u0, u1]) == USERNAME && u16::from_be_bytes([l0, l1]) == 16;
    if !binding || u32::from_be_bytes(cookie) != MAGIC_COOKIE || !named {
        return None;
    }
    let value = rest.first_chunk::<16>()?.iter().try_fold(0u64, |acc, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(acc << 4 | u64::from(digit))
    })?;
    Some(Token(value.to_be_bytes()))
}

/// What a message says, once its integrity under `key` holds. `None`: it does not, FINGERPRINT is wrong or missing, anything but
/// FINGERPRINT follows the integrity, one of ours is missing, twice there or of another shape, or an attribute that must be
/// understood is not ours.
pub fn open(message: &[u8], key: &CheckKey) -> Option<Check> {
    token_of(message)?;
    let is_request = message.starts_with(&BINDING_REQUEST.to_be_bytes());
    let (tid, attributes) = parse(message, if is_request { BINDING_REQUEST } else { BINDING_SUCCESS }).ok()?;
    let [inside @ .., integrity, fingerprint] = &*attributes else { return None };
    // A FINGERPRINT that is there has been checked.
    if integrity.ty != MESSAGE_INTEGRITY_SHA256 || fingerprint.ty != FINGERPRINT {
        return None;
    }
    let tag: &[u8; TAG] = integrity.value.try_into().ok()?;
    let expected = mac(message.get(..integrity.at)?, TAG, &*key.0)?;
    if !boring::memcmp::eq(tag, expected.first_chunk::<TAG>()?) {
        return None;
    }
    let (mut names, mut counter, mut padded, mut mapped) = (0, None, false, None);
    for attr in inside {
        match attr.ty {
            USERNAME if names == 0 => names = 1,
            COUNTER if counter.is_none() => counter = Some(u64::from_be_bytes(attr.value.try_into().ok()?)),
            PADDING if is_request && !padded => padded = true,
            XOR_MAPPED_ADDRESS if !is_request && mapped.is_none() => mapped = Some(unxored(attr.value, tid)?),
            COUNTER | FINGERPRINT => return None,
            ty if is_optional(ty) => {}
            _ => return None,
        }
    }
    let counter = counter?;
    match (is_request, mapped) {
        (true, _) => Some(Check::Request { tid, counter, len: message.len() }),
        (false, Some(mapped)) => Some(Check::Success { tid, counter, mapped }),
        (false, None) => None,
    }
}

/// Writes what both kinds begin with; returns where that is.
fn begin(ty: u16, tid: TransactionId, token: Token, counter: u64, out: &mut Vec<u8>) -> usize {
    let start = out.len();
    header(ty, tid, out);
    attribute(USERNAME, token.to_string().as_bytes(), out);
    attribute(COUNTER, &counter.to_be_bytes(), out);
    start
}

/// Ends the message that starts at `start`. `false`: it can't be, and is taken back.
fn seal(out: &mut Vec<u8>, start: usize, key: &CheckKey) -> bool {
    let tag = out.get(start..).and_then(|message| mac(message, TAG, &*key.0));
    let Some(tag) = tag.as_ref().and_then(|all| all.first_chunk::<TAG>()) else {
        out.truncate(start);
        return false;
    };
    attribute(MESSAGE_INTEGRITY_SHA256, tag, out);
    fingerprint(out, start);
    true
}

/// HMAC-SHA-256 over a message up to its MESSAGE-INTEGRITY-SHA256 of `tag` bytes, with a length field that ends behind that (RFC 8489
/// §14.6). `None`: BoringSSL had no memory.
fn mac(before: &[u8], tag: usize, key: &[u8]) -> Option<[u8; 32]> {
    let mut covered = before.to_vec();
    let len = u16::try_from(covered.len().checked_sub(HEADER_LEN)? + ATTR_HEADER_LEN + tag).ok()?;
    covered.get_mut(2..4)?.copy_from_slice(&len.to_be_bytes());
    hmac_sha256(key, &covered).ok()
}

#[cfg(test)]
mod tests;
