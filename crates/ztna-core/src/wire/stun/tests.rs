//! Vectors of RFC 5769 and the properties of [`super`].

use super::*;
use proptest::prelude::*;
use std::net::{IpAddr, SocketAddr};

const TID: TransactionId = TransactionId([0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae]);

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
    digits.chunks(2).map(|d| d[0] << 4 | d[1]).collect()
}

/// RFC 5769 §2.1.
fn rfc5769_request() -> Vec<u8> {
    hex("00010058 2112a442 b7e7a701 bc34d686 fa87dfae
         80220010 5354554e 20746573 7420636c 69656e74
         00240004 6e0001ff 80290008 932ff9b1 51263b36
         00060009 6576746a 3a683676 59202020
         00080014 9aeaa70c bfd8cb56 781ef2b5 b2d3f249 c1b571a2
         80280004 e57a3bcf")
}

/// RFC 5769 §2.2.
fn rfc5769_response_v4() -> Vec<u8> {
    hex("0101003c 2112a442 b7e7a701 bc34d686 fa87dfae
         8022000b 74657374 20766563 746f7220
         00200008 0001a147 e112a643
         00080014 2b91f599 fd9e90c3 8c7489f9 2af9ba53 f06be7d7
         80280004 c07d4c96")
}

/// RFC 5769 §2.3.
fn rfc5769_response_v6() -> Vec<u8> {
    hex("01010048 2112a442 b7e7a701 bc34d686 fa87dfae
         8022000b 74657374 20766563 746f7220
         00200014 0002a147 0113a9fa a5d3f179 bc25f4b5 bed2b9d9
         00080014 a382954e 4be67bf1 1784c97c 8292c275 bfe3ed41
         80280004 c8fb0b4c")
}

#[test]
fn the_responses_of_rfc_5769_decode() {
    let v4 = (TID, "192.0.2.1:32853".parse().unwrap(), None);
    let v6 = (TID, "[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap(), None);
    assert_eq!(parse_binding_success(&rfc5769_response_v4()), Some(v4));
    assert_eq!(parse_binding_success(&rfc5769_response_v6()), Some(v6));
}

#[test]
fn the_request_of_rfc_5769_is_well_formed_but_not_ours_to_answer() {
    // It carries PRIORITY and USERNAME, which must be understood and are not here.
    assert!(parse(&rfc5769_request(), BINDING_REQUEST).is_ok());
    assert_eq!(parse_binding_request(&rfc5769_request()), None);
}

#[test]
fn a_changed_bit_in_the_header_or_in_a_value_is_noticed() {
    let original = rfc5769_response_v4();
    // Not in the attributes' own headers: a length may be changed so that it swallows the FINGERPRINT, which is optional.
    let framing = |byte: usize| [20, 36, 48, 72].into_iter().any(|start| (start..start + 4).contains(&byte));
    for bit in (0..original.len() * 8).filter(|bit| !framing(bit / 8)) {
        let mut m = original.clone();
        m[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(parse_binding_success(&m), None, "bit {bit}");
    }
}

#[test]
fn a_request_has_the_length_that_was_asked_for() {
    for (asked, got) in [(0, 28), (28, 28), (31, 28), (32, 32), (76, 76), (120, 120), (1321, 1320), (1_000_000, 65_504)]
    {
        let request = binding_request_padded(TID, asked);
        assert_eq!(request.len(), got);
        assert_eq!(parse_binding_request(&request), Some(TID), "{asked}");
    }
    assert_eq!(binding_request(TID).len(), REQUEST_LEN);
}

#[test]
fn a_bare_request_is_understood() {
    assert_eq!(parse_binding_request(&hex("00010000 2112a442 b7e7a701 bc34d686 fa87dfae")), Some(TID));
}

#[test]
fn a_change_request_is_answered_only_when_it_asks_for_nothing() {
    let with = |flags: &str| hex(&format!("00010008 2112a442 b7e7a701 bc34d686 fa87dfae 00030004 {flags}"));
    assert_eq!(parse_binding_request(&with("00000000")), Some(TID));
    assert_eq!(parse_binding_request(&with("00000002")), None);
}

#[test]
fn our_own_request_makes_room_for_every_attribute_of_the_answer() {
    let (mapped, other) = ("[2001:db8::1]:1".parse().unwrap(), "[2001:db8::2]:2".parse().unwrap());
    let mut out = Vec::new();
    assert!(write_binding_success(TID, mapped, Some(other), binding_request(TID).len(), &mut out));
    assert_eq!(out.len(), REQUEST_LEN);
    assert_eq!(parse_binding_success(&out), Some((TID, mapped, Some(other))));
}

#[test]
fn attributes_that_do_not_fit_are_left_out_and_a_reply_without_its_address_is_not_sent() {
    let (mapped, other): (SocketAddr, SocketAddr) = ("192.0.2.1:1".parse().unwrap(), "192.0.2.2:2".parse().unwrap());
    for (max, len, has_other) in [
        (52, 52, true),
        (51, 44, true),
        (44, 44, true),
        (43, 40, false),
        (40, 40, false),
        (39, 32, false),
        (32, 32, false),
    ] {
        let mut out = vec![0xaa];
        assert!(write_binding_success(TID, mapped, Some(other), max, &mut out));
        assert_eq!(out.len() - 1, len, "max {max}");
        assert_eq!(parse_binding_success(&out[1..]), Some((TID, mapped, has_other.then_some(other))), "max {max}");
    }
    let mut out = Vec::new();
    assert!(!write_binding_success(TID, mapped, None, 31, &mut out));
    assert!(out.is_empty());
}

#[test]
fn an_ipv4_mapped_source_is_reported_as_ipv4() {
    let mut out = Vec::new();
    assert!(write_binding_success(TID, "[::ffff:192.0.2.1]:7".parse().unwrap(), None, 76, &mut out));
    assert_eq!(parse_binding_success(&out).unwrap().1, "192.0.2.1:7".parse().unwrap());
}

#[test]
fn the_first_byte_tells_stun_from_everything_else() {
    assert!((0..=3).all(is_stun) && !(4..=255).any(is_stun));
}

proptest! {
    #[test]
    fn an_answer_is_never_longer_than_the_request(
        tid in any::<[u8; 12]>(), mapped in any::<(IpAddr, u16)>(), other in any::<Option<(IpAddr, u16)>>(), max in 0usize..120,
    ) {
        let tid = TransactionId(tid);
        let mut out = Vec::new();
        if write_binding_success(tid, mapped.into(), other.map(SocketAddr::from), max, &mut out) {
            prop_assert!(out.len() <= max);
            prop_assert_eq!(parse_binding_success(&out).map(|(t, m, _)| (t, m)), Some((tid, canonical(mapped.into()))));
        } else {
            prop_assert!(out.is_empty());
        }
    }

    #[test]
    fn random_bytes_are_no_request_of_ours(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(parse_binding_request(&bytes), None);
        prop_assert_eq!(parse_binding_success(&bytes), None);
    }
}
