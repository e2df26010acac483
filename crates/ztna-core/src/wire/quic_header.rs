//! What any node may know of a QUIC packet without its keys: the invariants (RFC 8999) and the Initial type of v1.

use super::cid::Cid;
use super::reader::Reader;

/// QUIC v1 (RFC 9000 §15), the one version of this network.
pub const VERSION_1: u32 = 1;
/// Longest connection ID of version 1, in bytes (RFC 9000 §17.2); other versions may have up to 255.
const V1_CID_MAX: usize = 20;

const LONG: u8 = 0x80;
const FIXED: u8 = 0x40;
/// Packet type bits of a long header; 0 is Initial in version 1 (RFC 9000 §17.2).
const TYPE: u8 = 0x30;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header<'a> {
    /// One of our connections: the eight bytes after the first are its connection ID.
    Short { dcid: Cid },
    /// `version` 0 is Version Negotiation. `is_initial` is for [`VERSION_1`] only, false for any other.
    Long { version: u32, dcid: &'a [u8], scid: &'a [u8], is_initial: bool },
}

/// Whether a datagram that starts with this byte can be QUIC (RFC 9443 §3: 64 and up; STUN is below 4).
pub fn is_quic(first_byte: u8) -> bool {
    first_byte & (LONG | FIXED) != 0
}

/// Set in every packet of version 1 but Version Negotiation, as nobody here negotiates RFC 9287.
pub fn has_fixed_bit(first_byte: u8) -> bool {
    first_byte & FIXED != 0
}

/// Reads the header of a datagram's first packet. `None` when it is cut short, can't be QUIC, or claims version 1 and breaks it.
pub fn parse(datagram: &[u8]) -> Option<Header<'_>> {
    let mut r = Reader::new(datagram);
    let first = r.u8()?;
    if !is_quic(first) {
        return None;
    }
    if first & LONG == 0 {
        return Some(Header::Short { dcid: Cid(r.array()?) });
    }
    let version = r.u32()?;
    let dcid_len = r.u8()?;
    let dcid = r.take(usize::from(dcid_len))?;
    let scid_len = r.u8()?;
    let scid = r.take(usize::from(scid_len))?;
    if version == VERSION_1 && (!has_fixed_bit(first) || dcid.len() > V1_CID_MAX || scid.len() > V1_CID_MAX) {
        return None;
    }
    Some(Header::Long { version, dcid, scid, is_initial: version == VERSION_1 && first & TYPE == 0 })
}

/// Whether a datagram starts with an Initial of version 1 that no Retry has been answered for: without a token, or with one of 64
/// bytes or more, which is none of ours. Says nothing about the rest of it.
pub fn is_first_initial(datagram: &[u8]) -> bool {
    let mut r = Reader::new(datagram);
    let mut token_length = || {
        (r.u8()? & (LONG | FIXED | TYPE) == LONG | FIXED && r.u32()? == VERSION_1).then_some(())?;
        for _ in 0..2 {
            let length = r.u8()?;
            r.take(usize::from(length))?;
        }
        r.u8()
    };
    // The first two bits of a variable-length integer are its own length (RFC 9000 §16).
    token_length().is_some_and(|byte| byte == 0 || byte & 0xc0 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_initial_of_rfc_9001_appendix_a2_is_an_initial() {
        let packet = [0xc0, 0, 0, 0, 1, 8, 0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08, 0, 0, 0x44, 0x9e];
        let dcid = [0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08];
        assert_eq!(parse(&packet), Some(Header::Long { version: 1, dcid: &dcid, scid: &[], is_initial: true }));
        for cut in 0..15 {
            assert_eq!(parse(&packet[..cut]), None);
        }
    }

    #[test]
    fn a_retry_and_other_versions_are_long_headers_but_no_initials() {
        let initial = |p: &[u8]| match parse(p) {
            Some(Header::Long { is_initial, .. }) => is_initial,
            other => panic!("{other:?}"),
        };
        assert!(!initial(&[0xff, 0, 0, 0, 1, 0, 0])); // Retry, RFC 9001 A.4
        assert!(!initial(&[0xc0, 0x6b, 0x33, 0x43, 0xcf, 0, 0])); // version 2
        assert!(!initial(&[0x80, 0, 0, 0, 0, 0, 0])); // Version Negotiation, fixed bit clear
    }

    #[test]
    fn a_first_initial_has_no_token_that_could_be_ours() {
        let initial = |token: u8| [0xc0, 0, 0, 0, 1, 2, 7, 7, 1, 9, token, 0, 0];
        assert!(is_first_initial(&initial(0)) && is_first_initial(&initial(0x40)) && is_first_initial(&initial(0xc0)));
        assert!(!is_first_initial(&initial(44)));
        for (at, byte) in [(0, 0x40), (0, 0xd0), (0, 0x80), (4, 2), (5, 30)] {
            let mut other = initial(0);
            other[at] = byte;
            assert!(!is_first_initial(&other), "byte {at} {byte:#x}");
        }
        assert!((0..10).all(|cut| !is_first_initial(&initial(0)[..cut])));
    }

    #[test]
    fn a_short_header_carries_an_eight_byte_connection_id() {
        let packet = [0x40, 1, 2, 3, 4, 5, 6, 7, 8, 9];
        assert_eq!(parse(&packet), Some(Header::Short { dcid: Cid([1, 2, 3, 4, 5, 6, 7, 8]) }));
        assert_eq!(parse(&packet[..8]), None);
    }

    #[test]
    fn version_1_must_keep_its_own_rules() {
        let mut packet = vec![0xc0, 0, 0, 0, 1, 21];
        packet.extend_from_slice(&[0; 40]);
        assert_eq!(parse(&packet), None);
        assert_eq!(parse(&[0x80, 0, 0, 0, 1, 0, 0]), None);
        packet[4] = 2;
        assert!(parse(&packet).is_some());
    }

    #[test]
    fn the_first_byte_tells_quic_from_stun() {
        assert!((64..=255).all(is_quic) && !(0..64).any(is_quic));
        assert!(has_fixed_bit(0x40) && has_fixed_bit(0xc0) && !has_fixed_bit(0x80));
    }
}
