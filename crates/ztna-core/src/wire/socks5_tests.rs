//! What clients send, byte by byte.

use super::*;
use proptest::prelude::*;

#[test]
fn a_greeting_says_which_methods_are_offered() {
    let greeting = |no_auth, username_password| Greeting { no_auth, username_password };
    assert_eq!(parse_greeting(&[5, 2, 0, 2, 9]).unwrap(), Some((greeting(true, true), 4)));
    assert_eq!(parse_greeting(&[5, 1, 1]).unwrap(), Some((greeting(false, false), 3)));
    assert_eq!(parse_greeting(&[5, 0]).unwrap(), Some((greeting(false, false), 2)));
    assert!(parse_greeting(&[4, 1]).is_err());
}

#[test]
fn a_username_and_password_are_read_and_the_password_is_not_shown() {
    let (pair, used) = parse_username_password(b"\x01\x03ann\x04pass").unwrap().unwrap();
    assert_eq!((pair.username.as_str(), used), ("ann", 10));
    assert!(pair.password.matches("pass"));
    assert!(!format!("{pair:?}").contains("pass\""));
    for bad in [&b"\x05\x01a\x01b"[..], b"\x01\x00\x01b", b"\x01\x01a\x00", b"\x01\x01\xff\x01b"] {
        assert!(parse_username_password(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn a_connect_request_for_a_name_keeps_the_name() {
    let (request, used) = parse_request(b"\x05\x01\x00\x03\x11Web.ztna.internal\x00\x50").unwrap().unwrap();
    assert_eq!(
        request,
        Request { command: Command::Connect, address: Address::Name("web.ztna.internal".into()), port: 80 }
    );
    assert_eq!(used, 24);
}

#[test]
fn an_address_written_as_a_name_is_an_address() {
    let (request, _) = parse_request(b"\x05\x01\x00\x03\x09192.0.2.1\x00\x50").unwrap().unwrap();
    assert_eq!(request.address, Address::Ip([192, 0, 2, 1].into()));
}

#[test]
fn a_udp_associate_may_name_no_address_yet() {
    let (request, used) = parse_request(&[5, 3, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap().unwrap();
    assert_eq!(request, Request { command: Command::UdpAssociate, address: Address::Ip([0, 0, 0, 0].into()), port: 0 });
    assert_eq!(used, 10);
}

#[test]
fn each_refusal_has_its_reply() {
    for (bytes, reply) in [
        (&[5, 2, 0, 1, 1, 2, 3, 4, 0, 80][..], Reply::CommandNotSupported),
        (&[5, 1, 0, 2, 1, 2, 3, 4, 0, 80], Reply::AddressTypeNotSupported),
        (&[5, 1, 1, 1, 1, 2, 3, 4, 0, 80], Reply::GeneralFailure),
        (&[5, 1, 0, 1, 1, 2, 3, 4, 0, 0], Reply::GeneralFailure),
        (&[5, 1, 0, 3, 0, 0, 80], Reply::GeneralFailure),
        (&[5, 1, 0, 3, 2, b'a', b'/', 0, 80], Reply::GeneralFailure),
    ] {
        assert_eq!(Reply::to_error(&parse_request(bytes).unwrap_err()), reply, "{bytes:?}");
    }
}

#[test]
fn replies_are_laid_out_as_in_rfc_1928() {
    let mut out = Vec::new();
    method_selection(Method::NoneAcceptable, &mut out);
    username_password_reply(false, &mut out);
    reply(Reply::NotAllowed, "0.0.0.0:0".parse().unwrap(), &mut out);
    reply(Reply::Succeeded, "[::1]:1080".parse().unwrap(), &mut out);
    assert_eq!(out[..14], [5, 0xff, 1, 1, 5, 2, 0, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(out[14..], [5, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 4, 56]);
}

#[test]
fn a_fragment_is_refused() {
    assert!(parse_udp(&[0, 0, 0, 1, 192, 0, 2, 1, 0, 53, 7]).is_ok());
    assert!(parse_udp(&[0, 0, 1, 1, 192, 0, 2, 1, 0, 53, 7]).is_err());
    assert!(parse_udp(&[0, 1, 0, 1, 192, 0, 2, 1, 0, 53, 7]).is_err());
    assert!(parse_udp(&[0, 0, 0, 1, 192, 0, 2, 1, 0, 0, 7]).is_err());
    assert!(parse_udp(&[0, 0, 0, 1, 192, 0, 2, 1, 0]).is_err());
}

fn any_address() -> impl Strategy<Value = Address> {
    prop_oneof![any::<IpAddr>().prop_map(Address::Ip), "[a-z]{1,30}(\\.[a-z]{1,30}){0,6}".prop_map(Address::Name)]
}

proptest! {
    #[test]
    fn a_request_waits_until_it_is_whole(address in any_address(), port in 1u16..) {
        let mut bytes = vec![5, 1, 0];
        write_address(&address, port, &mut bytes);
        for cut in 0..bytes.len() {
            prop_assert_eq!(parse_request(&bytes[..cut]), Ok(None));
        }
        let len = bytes.len();
        bytes.extend_from_slice(b"early data");
        prop_assert_eq!(parse_request(&bytes), Ok(Some((Request { command: Command::Connect, address, port }, len))));
    }

    #[test]
    fn a_udp_header_reads_back(address in any_address(), port in 1u16.., data in proptest::collection::vec(any::<u8>(), 0..20)) {
        let mut bytes = Vec::new();
        udp_header(&address, port, &mut bytes);
        let len = bytes.len();
        bytes.extend_from_slice(&data);
        prop_assert_eq!(parse_udp(&bytes), Ok(UdpHeader { address, port, len }));
    }
}
