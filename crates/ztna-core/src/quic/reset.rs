//! Stateless reset (RFC 9000 §10.3): how a relay that has lost a connection tells its node so, and a connector its agent.
//!
//! A relay answers only packets whose connection ID it has issued itself, to the address that they come from. So that it can
//! tell without remembering them, an ID is `loop (1) | random (4) | MAC (3)`, the MAC over the rest and the node's IP address
//! (docs/decisions/0005). What reaches a connector has come through a session, and the answer goes back there: its IDs need no such
//! proof. All keys come from the node's private key, which survives a restart.

use std::net::IpAddr;

use boring::hash::hmac_sha256;
use zeroize::Zeroizing;

use super::endpoint::random_cid;
use crate::trust::Secret;
use crate::wire::cid::Cid;

/// Length of a stateless reset token, bytes (RFC 9000 §10.3).
pub const TOKEN: usize = 16;
/// Shortest reset, bytes: what is shorter can't be a QUIC packet (RFC 9000 §10.3).
const MIN: usize = 21;
/// Longest, bytes: an answer to a longer packet is as long as any short one could be (RFC 9000 §10.3).
const MAX: usize = 43;
/// Where the MAC begins in a connection ID.
const MAC_AT: usize = 5;

type Key = Zeroizing<[u8; 32]>;

/// The keys of one relay or connector.
pub struct ResetKeys {
    cids: Key,
    tokens: Key,
}

impl ResetKeys {
    /// HKDF (RFC 5869) of the private key's PEM text. `None` where BoringSSL has no memory left.
    pub fn new(key_pem: &Secret) -> Option<Self> {
        let extracted = Zeroizing::new(hmac_sha256(b"ztna stateless reset", key_pem.expose().as_bytes()).ok()?);
        let expand = |info: &[u8]| Some(Zeroizing::new(hmac_sha256(extracted.as_slice(), info).ok()?));
        // One block of HKDF-Expand each: info and the block's number.
        Some(ResetKeys { cids: expand(b"connection id\x01")?, tokens: expand(b"token\x01")? })
    }

    /// A connection ID for the node at `to`, of the loop `index`.
    pub fn issue(&self, index: u8, to: IpAddr) -> Cid {
        let mut cid = random_cid(Some(index));
        if let (Some(mac), Some(room)) = (self.mac(&cid, to), cid.0.last_chunk_mut()) {
            *room = mac;
        }
        cid
    }

    /// The token that goes with an ID of ours.
    pub fn token(&self, cid: Cid) -> Option<[u8; TOKEN]> {
        hmac_sha256(self.tokens.as_slice(), cid.as_bytes()).ok()?.first_chunk().copied()
    }

    /// The reset that answers a packet of `len` bytes from `from` to `cid`; `None` where we have not issued that ID to that
    /// address, or the packet is too short for a shorter answer.
    pub fn answer(&self, cid: Cid, from: IpAddr, len: usize) -> Option<Vec<u8>> {
        if !boring::memcmp::eq(&self.mac(&cid, from)?, cid.0.get(MAC_AT..)?) {
            return None;
        }
        self.reset(cid, len)
    }

    /// The reset that answers a packet of `len` bytes to `cid`, whoever that ID belonged to; `None` where the packet is too short for
    /// a shorter answer.
    pub fn reset(&self, cid: Cid, len: usize) -> Option<Vec<u8>> {
        let len = len.checked_sub(1).filter(|n| *n >= MIN)?.min(MAX);
        let mut out = vec![0; len];
        let _ = boring::rand::rand_bytes(&mut out);
        if let Some(first) = out.first_mut() {
            *first = *first & 0x3f | 0x40;
        }
        *out.last_chunk_mut()? = self.token(cid)?;
        Some(out)
    }

    fn mac(&self, cid: &Cid, address: IpAddr) -> Option<[u8; 3]> {
        let mut data = cid.0.get(..MAC_AT)?.to_vec();
        match address.to_canonical() {
            IpAddr::V4(ip) => data.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => data.extend_from_slice(&ip.octets()),
        }
        hmac_sha256(self.cids.as_slice(), &data).ok()?.first_chunk().copied()
    }
}

/// Whether `packet` is a stateless reset with this token. Takes as long whether it is or not.
pub fn is_reset(packet: &[u8], token: &[u8; TOKEN]) -> bool {
    packet.len() >= MIN && packet.last_chunk::<TOKEN>().is_some_and(|end| boring::memcmp::eq(end, token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> ResetKeys {
        ResetKeys::new(&Secret::new(text.into())).unwrap()
    }
    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_same_private_key_gives_the_same_tokens_and_another_gives_others() {
        let cid = keys("a").issue(0, ip("192.0.2.1"));
        assert_eq!(keys("a").token(cid), keys("a").token(cid));
        assert_ne!(keys("a").token(cid), keys("b").token(cid));
        assert!(keys("a").answer(cid, ip("192.0.2.1"), 60).is_some());
        assert!(keys("b").answer(cid, ip("192.0.2.1"), 60).is_none());
    }

    #[test]
    fn an_id_answers_to_the_address_it_was_issued_to_however_that_is_written() {
        let k = keys("a");
        let cid = k.issue(3, ip("192.0.2.1"));
        assert_eq!(cid.0[0], 3);
        assert!(k.answer(cid, ip("::ffff:192.0.2.1"), 60).is_some());
        assert!(k.answer(cid, ip("192.0.2.2"), 60).is_none());
        let six = k.issue(3, ip("2001:db8::1"));
        assert!(k.answer(six, ip("2001:db8::1"), 60).is_some());
    }

    #[test]
    fn an_answer_is_shorter_than_its_cause_and_never_below_21_bytes() {
        let (k, from) = (keys("a"), ip("192.0.2.1"));
        let cid = k.issue(0, from);
        let lengths = [20, 21, 22, 30, 43, 44, 1_360].map(|n| k.answer(cid, from, n).map(|a| a.len()));
        assert_eq!(lengths, [None, None, Some(21), Some(29), Some(42), Some(43), Some(43)]);
        let token = k.token(cid).unwrap();
        assert!(is_reset(&k.answer(cid, from, 22).unwrap(), &token));
        assert!(!is_reset(&token, &token));
    }
}
