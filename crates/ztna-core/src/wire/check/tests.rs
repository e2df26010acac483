use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

const TID: TransactionId = TransactionId([7; 12]);
/// An attribute's type and value.
type Extra = (u16, &'static [u8]);

const TOKEN: Token = Token([0, 0x1b, 0xc4, 0xde, 0xf0, 0x12, 0x34, 0xff]);

#[test]
fn the_integrity_of_rfc_8489_appendix_b_1_is_that_of_its_message() {
    // With the length field of erratum 6268. Key: SHA-256 of "マトリックス:example.org:TheMatrIX" (§14.4, §18.5.1.2).
    let before = hex("00010090 2112a442 78ad3433 c6ad72c0 29da412e
         001e0020 4a3cf38f ef6992bd a952c678 0417da0f 24819415 569e60b2 05c46e41 407f1704
         00150029 6f624d61 744a6f73 32414141 43662f2f 3439396b 39353464 364f4c33 346f4c39 46535476 79363473 41000000
         0014000b 6578616d 706c652e 6f726700
         001d0004 00020000");
    let key = boring::sha::sha256("マトリックス:example.org:TheMatrIX".as_bytes());
    let tag = hex("b5c7bf00 5b6c52a2 1c51c5e8 92f81924 136296cb 927c4314 9309278c c6518e65");
    assert_eq!(mac(&before, 32, &key).unwrap().to_vec(), tag);
}

#[test]
fn a_request_reads_back_with_its_exact_length() {
    for (asked, len) in [
        (None, REQUEST_LEN),
        (Some(0), REQUEST_LEN),
        (Some(REQUEST_LEN + 3), REQUEST_LEN),
        (Some(REQUEST_LEN + 4), REQUEST_LEN + 4),
        (Some(1320), 1320),
        (Some(1_000_000), REQUEST_MAX),
    ] {
        let mut out = vec![0xaa];
        assert!(request(TID, TOKEN, 5, asked, &key(1), &mut out));
        assert_eq!(out.len() - 1, len);
        assert_eq!(token_of(&out[1..]), Some(TOKEN));
        assert_eq!(open(&out[1..], &key(1)), Some(Check::Request { tid: TID, counter: 5, len }));
    }
}

#[test]
fn an_unpadded_request_may_go_to_an_address_that_has_not_answered() {
    // protocol.md: at most 120 bytes.
    const { assert!(REQUEST_LEN <= 120) };
}

#[test]
fn a_success_reads_back_and_is_never_longer_than_the_shortest_request() {
    for (mapped, len) in [("192.0.2.1:32853", 92), ("[2001:db8::1]:1", REQUEST_LEN)] {
        let mapped: SocketAddr = mapped.parse().unwrap();
        let message = sealed_success(mapped);
        assert_eq!(message.len(), len);
        assert_eq!(token_of(&message), Some(TOKEN));
        assert_eq!(open(&message, &key(1)), Some(Check::Success { tid: TID, counter: u64::MAX, mapped }));
    }
}

#[test]
fn an_ipv4_mapped_source_is_reported_as_ipv4() {
    let message = sealed_success("[::ffff:192.0.2.1]:7".parse().unwrap());
    let mapped = "192.0.2.1:7".parse().unwrap();
    assert_eq!(open(&message, &key(1)), Some(Check::Success { tid: TID, counter: u64::MAX, mapped }));
}

#[test]
fn every_changed_bit_every_truncation_and_every_other_key_is_refused() {
    for message in [sealed_request(), sealed_success("[2001:db8::1]:1".parse().unwrap())] {
        for bit in 0..message.len() * 8 {
            let mut m = message.clone();
            m[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&m, &key(1)), None, "bit {bit}");
        }
        assert!((0..message.len()).all(|cut| open(&message[..cut], &key(1)).is_none()));
        assert_eq!(open(&[&message[..], &[0; 4]].concat(), &key(1)), None);
        assert_eq!(open(&message, &key(2)), None);
    }
}

#[test]
fn a_changed_bit_under_a_corrected_fingerprint_is_refused_by_the_integrity() {
    let message = sealed_request();
    let end = message.len() - FINGERPRINT_LEN;
    // Not in the length field, which is written anew with the fingerprint.
    for bit in (0..end * 8).filter(|bit| !(2..4).contains(&(bit / 8))) {
        let mut m = message[..end].to_vec();
        m[bit / 8] ^= 1 << (bit % 8);
        fingerprint(&mut m, 0);
        assert_eq!(open(&m, &key(1)), None, "bit {bit}");
    }
}

#[test]
fn only_a_fingerprint_may_follow_the_integrity_and_it_must() {
    let without = {
        let mut m = sealed_request();
        m.truncate(m.len() - FINGERPRINT_LEN);
        set_length(&mut m, 0);
        m
    };
    assert_eq!(open(&without, &key(1)), None);
    let mut software = without;
    attribute(0x8022, b"four", &mut software);
    fingerprint(&mut software, 0);
    assert_eq!(open(&software, &key(1)), None);
}

#[test]
fn attributes_that_are_missing_twice_there_misshapen_or_not_understood_are_refused_under_a_good_integrity() {
    let with = |ty: u16, extra: &[Extra]| {
        let mut out = Vec::new();
        header(ty, TID, &mut out);
        attribute(USERNAME, TOKEN.to_string().as_bytes(), &mut out);
        extra.iter().for_each(|(ty, value)| attribute(*ty, value, &mut out));
        assert!(seal(&mut out, 0, &key(1)));
        open(&out, &key(1))
    };
    let counter: Extra = (COUNTER, &[0; 8]);
    let [v4, v6] = ["192.0.2.1:1", "[::1]:1"].map(|a| &*xored(a.parse().unwrap(), TID).leak());
    let mapped: Extra = (XOR_MAPPED_ADDRESS, v4);
    assert!(with(BINDING_REQUEST, &[counter]).is_some());
    assert!(with(BINDING_REQUEST, &[counter, (PADDING, &[0; 3]), (0x8022, b"later version")]).is_some());
    assert!(with(BINDING_SUCCESS, &[mapped, counter]).is_some());
    let refused: [(u16, &[Extra]); 13] = [
        (BINDING_REQUEST, &[]),
        (BINDING_REQUEST, &[counter, counter]),
        (BINDING_REQUEST, &[(COUNTER, &[0; 7])]),
        (BINDING_REQUEST, &[counter, (PADDING, &[]), (PADDING, &[])]),
        (BINDING_REQUEST, &[counter, (USERNAME, b"001bc4def01234ff")]),
        (BINDING_REQUEST, &[counter, mapped]),
        (BINDING_REQUEST, &[counter, (MESSAGE_INTEGRITY_SHA256, &[0; 16])]),
        (BINDING_REQUEST, &[counter, (0x0024, &[0; 4])]),
        (BINDING_SUCCESS, &[counter]),
        (BINDING_SUCCESS, &[mapped]),
        (BINDING_SUCCESS, &[counter, mapped, (XOR_MAPPED_ADDRESS, v6)]),
        (BINDING_SUCCESS, &[counter, mapped, (PADDING, &[0; 4])]),
        (BINDING_SUCCESS, &[counter, (XOR_MAPPED_ADDRESS, &[0, 3, 0, 0, 0, 0, 0, 0])]),
    ];
    for (n, (ty, extra)) in refused.iter().enumerate() {
        assert_eq!(with(*ty, extra), None, "case {n}");
    }
}

#[test]
fn an_integrity_of_another_length_is_refused() {
    let mut out = Vec::new();
    begin(BINDING_REQUEST, TID, TOKEN, 1, &mut out);
    let full = mac(&out, 32, &*key(1).0).unwrap();
    attribute(MESSAGE_INTEGRITY_SHA256, &full, &mut out);
    fingerprint(&mut out, 0);
    assert_eq!(open(&out, &key(1)), None);
}

#[test]
fn a_token_is_read_only_from_a_binding_message_with_our_username_in_front() {
    let message = sealed_request();
    assert_eq!(token_of(&message[..40]), Some(TOKEN));
    assert_eq!(token_of(&message[..39]), None);
    for (at, byte) in [(0, 0x40), (1, 0x11), (4, 0), (21, 0x08), (23, 15), (24, b'A'), (24, b'g')] {
        let mut m = message.clone();
        m[at] = byte;
        assert_eq!(token_of(&m), None, "byte {at}");
    }
    assert_eq!(token_of(&crate::wire::stun::binding_request(TID)), None);
}

#[test]
fn a_check_is_no_request_that_a_relay_answers() {
    assert_eq!(crate::wire::stun::parse_binding_request(&sealed_request()), None);
}

#[test]
fn the_corpus_which_another_program_wrote_reads_as_it_was_meant() {
    let key = key(7);
    let tid = TransactionId(std::array::from_fn(|i| i as u8));
    let request = include_bytes!("../../../fuzz/corpus/check/request_padded");
    assert_eq!(open(request, &key), Some(Check::Request { tid, counter: 9, len: 144 }));
    let success = include_bytes!("../../../fuzz/corpus/check/success6");
    let mapped = "[2001:db8::1]:1234".parse().unwrap();
    assert_eq!(open(success, &key), Some(Check::Success { tid, counter: 9, mapped }));
    assert_eq!(open(include_bytes!("../../../fuzz/corpus/check/success_without_counter"), &key), None);
}

#[test]
fn a_key_is_not_printed() {
    assert_eq!(format!("{:?}", key(1)), "CheckKey(…)");
}

proptest! {
    #[test]
    fn what_is_written_reads_back(
        tid in any::<[u8; 12]>(), token in any::<[u8; 8]>(), secret in any::<[u8; 32]>(), counter in any::<u64>(),
        mapped in any::<(IpAddr, u16)>(), len in proptest::option::of(0usize..3_000),
    ) {
        let (tid, token, key) = (TransactionId(tid), Token(token), CheckKey::new(secret));
        let mut out = Vec::new();
        prop_assert!(request(tid, token, counter, len, &key, &mut out));
        prop_assert_eq!(token_of(&out), Some(token));
        prop_assert_eq!(open(&out, &key), Some(Check::Request { tid, counter, len: out.len() }));
        let mut answer = Vec::new();
        prop_assert!(success(tid, token, counter, mapped.into(), &key, &mut answer));
        prop_assert!(answer.len() <= out.len());
        prop_assert_eq!(open(&answer, &key), Some(Check::Success { tid, counter, mapped: canonical(mapped.into()) }));
    }
}

fn key(n: u8) -> CheckKey {
    CheckKey::new([n; 32])
}

fn sealed_request() -> Vec<u8> {
    let mut out = Vec::new();
    assert!(request(TID, TOKEN, 1, None, &key(1), &mut out));
    out
}

fn sealed_success(mapped: SocketAddr) -> Vec<u8> {
    let mut out = Vec::new();
    assert!(success(TID, TOKEN, u64::MAX, mapped, &key(1), &mut out));
    out
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
    digits.chunks(2).map(|d| d[0] << 4 | d[1]).collect()
}
