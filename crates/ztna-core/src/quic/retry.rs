//! Retry (RFC 9000 §8.1.2): the token proves that a client receives at the address it sends from.

use std::net::{IpAddr, SocketAddr};

use boring::symm::{Cipher, decrypt_aead, encrypt_aead};

use crate::wire::cid::Cid;

/// A token's life, seconds (protocol.md).
pub const TOKEN_LIFE: u64 = 10;
/// How long a key seals tokens, seconds; the one before it still opens them.
const KEY_LIFE: u64 = 60;
const NONCE: usize = 12;
const TAG: usize = 16;

/// Seals and opens Retry tokens. All loops of a relay share one.
pub struct RetryKeys {
    current: [u8; 16],
    previous: Option<[u8; 16]>,
    since: u64,
}

impl RetryKeys {
    /// `now` in seconds of any monotonic clock shared by all users of these keys.
    pub fn new(now: u64) -> Self {
        RetryKeys { current: random(), previous: None, since: now }
    }

    /// Makes a token for the client at `from` whose first destination connection ID was `odcid`.
    pub fn seal(&mut self, now: u64, from: SocketAddr, odcid: &[u8], rscid: Cid) -> Option<Vec<u8>> {
        if now.saturating_sub(self.since) >= KEY_LIFE {
            self.previous = Some(std::mem::replace(&mut self.current, random()));
            self.since = now;
        }
        let nonce: [u8; NONCE] = random();
        let mut plain = now.to_be_bytes().to_vec();
        plain.extend_from_slice(odcid);
        let mut tag = [0u8; TAG];
        let sealed =
            encrypt_aead(Cipher::aes_128_gcm(), &self.current, Some(&nonce), &aad(from, &rscid), &plain, &mut tag)
                .ok()?;
        let mut token = nonce.to_vec();
        token.extend_from_slice(&sealed);
        token.extend_from_slice(&tag);
        Some(token)
    }

    /// The original destination connection ID, if the token is ours, for this address and young enough.
    pub fn open(&self, now: u64, from: SocketAddr, token: &[u8], rscid: Cid) -> Option<Vec<u8>> {
        let (nonce, rest) = token.split_at_checked(NONCE)?;
        let (sealed, tag) = rest.split_at_checked(rest.len().checked_sub(TAG)?)?;
        let aad = aad(from, &rscid);
        let open = |key: &[u8; 16]| decrypt_aead(Cipher::aes_128_gcm(), key, Some(nonce), &aad, sealed, tag).ok();
        let plain = open(&self.current).or_else(|| self.previous.as_ref().and_then(open))?;
        let (time, odcid) = plain.split_at_checked(8)?;
        let made = u64::from_be_bytes(time.try_into().ok()?);
        (now.saturating_sub(made) <= TOKEN_LIFE && odcid.len() <= 20).then(|| odcid.to_vec())
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut b = [0u8; N];
    let _ = boring::rand::rand_bytes(&mut b);
    b
}

fn aad(from: SocketAddr, rscid: &Cid) -> Vec<u8> {
    let mut out = match from.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    out.extend_from_slice(&from.port().to_be_bytes());
    out.extend_from_slice(rscid.as_bytes());
    out
}

/// The Retry packet that answers an Initial from `client_scid` to `client_dcid`.
pub fn packet(client_scid: &[u8], client_dcid: &[u8], rscid: Cid, token: &[u8]) -> Option<Vec<u8>> {
    let mut out = vec![0u8; 256];
    let id = quiche::ConnectionId::from_ref;
    let n = quiche::retry(
        &id(client_scid),
        &id(client_dcid),
        &id(rscid.as_bytes()),
        token,
        quiche::PROTOCOL_VERSION,
        &mut out,
    )
    .ok()?;
    out.truncate(n);
    Some(out)
}

/// The token of an Initial packet (empty when it has none).
pub fn initial_token(packet: &mut [u8]) -> Option<Vec<u8>> {
    let header = quiche::Header::from_slice(packet, quiche::MAX_CONN_ID_LEN).ok()?;
    (header.ty == quiche::Type::Initial).then(|| header.token.unwrap_or_default())
}

/// A Version Negotiation packet (RFC 9000 §6).
pub fn version_negotiation(client_scid: &[u8], client_dcid: &[u8]) -> Option<Vec<u8>> {
    let mut out = vec![0u8; 128];
    let id = quiche::ConnectionId::from_ref;
    let n = quiche::negotiate_version(&id(client_scid), &id(client_dcid), &mut out).ok()?;
    out.truncate(n);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[test]
    fn a_token_opens_for_its_own_address_id_and_time_only() {
        let mut keys = RetryKeys::new(100);
        let id = Cid([7; 8]);
        let token = keys.seal(100, addr(1), b"original", id).unwrap();
        assert_eq!(keys.open(105, addr(1), &token, id).as_deref(), Some(&b"original"[..]));
        assert_eq!(keys.open(105, addr(2), &token, id), None);
        assert_eq!(keys.open(105, addr(1), &token, Cid([8; 8])), None);
        assert_eq!(keys.open(111, addr(1), &token, id), None);
    }

    #[test]
    fn a_rotated_key_still_opens_the_tokens_it_sealed() {
        let mut keys = RetryKeys::new(0);
        let token = keys.seal(59, addr(1), b"o", Cid([1; 8])).unwrap();
        let _ = keys.seal(61, addr(1), b"o", Cid([1; 8])).unwrap();
        assert!(keys.open(62, addr(1), &token, Cid([1; 8])).is_some());
    }

    #[test]
    fn any_flipped_bit_is_refused() {
        let mut keys = RetryKeys::new(0);
        let token = keys.seal(0, addr(1), b"o", Cid([1; 8])).unwrap();
        for i in 0..token.len() {
            let mut bad = token.clone();
            bad[i] ^= 1;
            assert_eq!(keys.open(1, addr(1), &bad, Cid([1; 8])), None, "byte {i}");
        }
        assert_eq!(keys.open(1, addr(1), &[], Cid([1; 8])), None);
    }
}
