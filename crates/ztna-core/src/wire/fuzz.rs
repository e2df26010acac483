//! One entry function per decoder, for cargo fuzz (`crates/ztna-core/fuzz`) and for the replay of its corpora in
//! `tests/fuzz_corpus.rs`. Each feeds arbitrary bytes and asserts that what was decoded, once encoded, decodes to the same.
//! They panic on a broken round trip; nothing but those two callers may use them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};

use super::{
    authority, capsule, check, connect_ip, connect_udp, host, http_connect, icmp, igd, nat_pmp, path_signal, pcp,
    percent, proxy_status, quic_header, socks5, stun, traceparent, varint,
};
use super::{base64, structured};

/// An entry function.
pub type Entry = fn(&[u8]);

/// Every entry function by the name of its fuzz target and corpus folder.
pub const TARGETS: &[(&str, Entry)] = &[
    ("authority", authority),
    ("base64", base64),
    ("capsule", capsule),
    ("check", check),
    ("connect_ip", connect_ip),
    ("connect_udp", connect_udp),
    ("http_connect", http_connect),
    ("icmp", icmp),
    ("igd", igd),
    ("nat_pmp", nat_pmp),
    ("path_signal", path_signal),
    ("pcp", pcp),
    ("proxy_status", proxy_status),
    ("quic_header", quic_header),
    ("socks5", socks5),
    ("stun", stun),
    ("traceparent", traceparent),
    ("varint", varint),
];

pub fn authority(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok((service, port)) = authority::parse(text, "ztna.internal") {
        assert_eq!(
            authority::parse(&authority::format(&service, "ztna.internal", port), "ztna.internal"),
            Ok((service, port))
        );
    }
    if let Ok((name, port)) = host::parse_host_port(text) {
        assert_eq!(host::parse_host_port(&host::format_host_port(&name, port)), Ok((name, port)));
    }
}

pub fn base64(data: &[u8]) {
    if let Some(plain) = base64::decode(data) {
        let padding = data.iter().rev().take_while(|b| **b == b'=').count();
        assert_eq!(plain.len(), data.len() / 4 * 3 - padding);
    }
}

/// The first byte says in how large pieces the rest arrives: the pieces must not matter.
pub fn capsule(data: &[u8]) {
    let Some((&piece, stream)) = data.split_first() else { return };
    let (whole, end) = read_capsules(stream, stream.len().max(1));
    let (pieces, end_of_pieces) = read_capsules(stream, usize::from(piece).max(1));
    assert_eq!((&whole, &end), (&pieces, &end_of_pieces));
    let mut written = Vec::new();
    whole.iter().for_each(|c| c.encode(&mut written));
    assert_eq!(read_capsules(&written, written.len().max(1)), (whole, Ok(())));
}

fn read_capsules(stream: &[u8], piece: usize) -> (Vec<capsule::Capsule>, Result<(), super::DecodeError>) {
    let (mut reader, mut read) = (capsule::CapsuleReader::new(), Vec::new());
    for chunk in stream.chunks(piece) {
        reader.push(chunk);
        loop {
            match reader.next() {
                Ok(Some(c)) => read.push(c),
                Ok(None) => break,
                Err(e) => return (read, Err(e)),
            }
        }
    }
    (read, Ok(()))
}

/// The key of the corpus.
const CHECK_KEY: [u8; 32] = [7; 32];

pub fn check(data: &[u8]) {
    let key = check::CheckKey::new(CHECK_KEY);
    let Some(opened) = check::open(data, &key) else { return };
    let token = check::token_of(data).unwrap_or(check::Token([0; 8]));
    let mut out = Vec::new();
    let written = match opened {
        check::Check::Request { tid, counter, len } => check::request(tid, token, counter, Some(len), &key, &mut out),
        check::Check::Success { tid, counter, mapped } => check::success(tid, token, counter, mapped, &key, &mut out),
    };
    assert!(written && check::token_of(&out) == Some(token));
    let same = match (opened, check::open(&out, &key)) {
        // One without PADDING is shorter than any that we write.
        (check::Check::Request { tid, counter, .. }, Some(check::Check::Request { tid: t, counter: c, len })) => {
            (t, c) == (tid, counter) && len == data.len().max(check::REQUEST_LEN)
        }
        (
            check::Check::Success { tid, counter, mapped },
            Some(check::Check::Success { tid: t, counter: c, mapped: m }),
        ) => (t, c) == (tid, counter) && m == SocketAddr::new(mapped.ip().to_canonical(), mapped.port()),
        (check::Check::Request { .. } | check::Check::Success { .. }, _) => false,
    };
    assert!(same, "{opened:?}");
}

pub fn connect_ip(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(scope) = connect_ip::Scope::parse_path(text) {
        assert_eq!(connect_ip::Scope::parse_path(&scope.path()), Ok(scope));
    }
}

pub fn connect_udp(data: &[u8]) {
    if let Some((stream_id, used)) = connect_udp::parse_datagram(data)
        && let Some((context_id, _)) = connect_udp::split_context(data.get(used..).unwrap_or_default())
    {
        let mut out = Vec::new();
        connect_udp::datagram_header(stream_id, context_id, &mut out);
        assert_eq!(connect_udp::parse_datagram(&out).map(|(id, _)| id), Some(stream_id));
    }
    if let Ok((addr, payload)) = connect_udp::parse_uncompressed(data) {
        let mut out = Vec::new();
        connect_udp::encode_uncompressed(addr, payload, &mut out);
        assert_eq!(out, data);
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    match connect_udp::parse_path(text) {
        Ok(connect_udp::Target::Host { host, port }) => {
            let path = connect_udp::target_path(&host, port);
            assert_eq!(connect_udp::parse_path(&path), Ok(connect_udp::Target::Host { host, port }));
        }
        Ok(connect_udp::Target::Bind) | Err(_) => {}
    }
    if let Some(plain) = percent::decode(text) {
        let mut out = String::new();
        percent::encode(&plain, &mut out);
        assert_eq!(percent::decode(&out), Some(plain));
    }
}

pub fn http_connect(data: &[u8]) {
    if http_connect::is_other_request(data) == Some(true) {
        assert!(http_connect::parse(data).is_err());
    }
    if let Ok(Some((request, used))) = http_connect::parse(data) {
        assert!(used <= data.len() && used <= http_connect::HEAD_MAX);
        let again = format!("CONNECT {} HTTP/1.1\r\n\r\n", host::format_host_port(&request.host, request.port));
        let read = http_connect::parse(again.as_bytes()).map(|whole| whole.map(|(r, len)| (r.host, r.port, len)));
        assert_eq!(read, Ok(Some((request.host, request.port, again.len()))));
    }
}

pub fn icmp(data: &[u8]) {
    for v6 in [false, true] {
        if let Ok(echo) = icmp::Echo::parse_message(v6, data) {
            let mut out = Vec::new();
            echo.build_message(v6, &mut out);
            assert_eq!(icmp::Echo::parse_message(v6, &out), Ok(echo));
        }
    }
    if let Ok(packet) = icmp::EchoPacket::parse(data) {
        let mut out = Vec::new();
        if packet.build(&mut out) {
            assert_eq!(icmp::EchoPacket::parse(&out), Ok(packet));
        }
    }
}

pub fn path_signal(data: &[u8]) {
    if let Ok(Some(message)) = path_signal::Message::decode(data) {
        let mut out = Vec::new();
        message.encode(&mut out);
        assert_eq!(path_signal::Message::decode(&out), Ok(Some(message)));
    }
}

/// Whatever it says, it leads to the gateway alone.
pub fn igd(data: &[u8]) {
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
    let at = igd::Url { at: SocketAddrV4::new(GATEWAY, 80), path: "/".into() };
    let check = |url: &igd::Url| {
        assert_eq!(*url.at.ip(), GATEWAY);
        assert!(url.path.starts_with('/') && url.path.bytes().all(|b| b.is_ascii_graphic()));
    };
    if let Ok(url) = igd::parse_search_answer(data, GATEWAY) {
        check(&url);
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(url) = at.join(text)
    {
        check(&url);
    }
    if let Ok(Some(answer)) = igd::http::parse(data, true) {
        assert!(answer.body.len() <= data.len());
    }
    if let Ok(services) = igd::description::parse(data, &at) {
        services.iter().for_each(|s| check(&s.control));
    }
    for status in [200, 500] {
        if let Ok(igd::soap::SoapAnswer::Refused { .. }) = igd::soap::parse(status, data) {
            assert_eq!(status, 500);
        }
    }
}

pub fn nat_pmp(data: &[u8]) {
    if let Ok(answer) = nat_pmp::parse(data) {
        assert!(nat_pmp::parse(data.get(..16).unwrap_or(data)) == Ok(answer));
    }
}

/// What was mapped can be asked for again.
pub fn pcp(data: &[u8]) {
    if let Ok(pcp::Answer::Mapped(mapped)) = pcp::parse(data) {
        let pcp::MapAnswer { nonce, internal_port, external, lifetime } = mapped;
        let again =
            pcp::MapRequest { client: Ipv4Addr::LOCALHOST, nonce, internal_port, suggested: external, lifetime };
        let mut echoed = again.encode();
        if let Some(opcode) = echoed.get_mut(1) {
            *opcode |= 0x80;
        }
        // What the request has of its own stands where the answer has its result, its epoch and reserved bytes.
        assert_eq!(pcp::parse(&echoed), Ok(pcp::Answer::Mapped(mapped)));
    }
}

pub fn proxy_status(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    structured::parse_list(text);
    if let Ok(status) = proxy_status::ProxyStatus::parse(text) {
        assert_eq!(proxy_status::ProxyStatus::parse(&status.to_header()), Ok(status));
    }
}

pub fn quic_header(data: &[u8]) {
    match quic_header::parse(data) {
        Some(quic_header::Header::Short { dcid }) => assert_eq!(data.get(1..9), Some(&dcid.0[..])),
        Some(quic_header::Header::Long { dcid, scid, .. }) => assert!(data.len() >= 7 + dcid.len() + scid.len()),
        None => {}
    }
}

pub fn socks5(data: &[u8]) {
    if let Ok(Some((_, used))) = socks5::parse_greeting(data) {
        assert!(used <= data.len());
    }
    if let Ok(Some((pair, used))) = socks5::parse_username_password(data) {
        assert_eq!(used, 3 + pair.username.len() + pair.password.expose().len());
    }
    if let Ok(Some((request, used))) = socks5::parse_request(data) {
        let mut out = vec![5, if request.command == socks5::Command::Connect { 1 } else { 3 }];
        let mut header = Vec::new();
        socks5::udp_header(&request.address, request.port, &mut header);
        out.extend_from_slice(header.get(2..).unwrap_or_default());
        assert!(used <= data.len());
        let len = out.len();
        assert_eq!(socks5::parse_request(&out), Ok(Some((request, len))));
    }
    if let Ok(header) = socks5::parse_udp(data) {
        assert!(header.len <= data.len());
        let mut out = Vec::new();
        socks5::udp_header(&header.address, header.port, &mut out);
        let len = out.len();
        assert_eq!(socks5::parse_udp(&out), Ok(socks5::UdpHeader { len, ..header }));
    }
}

pub fn stun(data: &[u8]) {
    let tid = stun::parse_binding_request(data);
    if let Some(tid) = tid {
        for ip in [IpAddr::from([192, 0, 2, 1]), Ipv6Addr::LOCALHOST.into()] {
            let addr = SocketAddr::new(ip, 1);
            let mut out = Vec::new();
            if stun::write_binding_success(tid, addr, Some(addr), data.len(), &mut out) {
                assert!(out.len() <= data.len());
                assert_eq!(stun::parse_binding_success(&out).map(|(t, m, _)| (t, m)), Some((tid, addr)));
            }
        }
    }
    if let Some((tid, mapped, other)) = stun::parse_binding_success(data) {
        let mut out = Vec::new();
        assert!(stun::write_binding_success(tid, mapped, other, stun::REQUEST_LEN, &mut out));
        let canonical = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
        assert_eq!(stun::parse_binding_success(&out), Some((tid, canonical(mapped), other.map(canonical))));
    }
}

pub fn traceparent(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(parent) = traceparent::TraceParent::parse(text) {
        assert_eq!(traceparent::TraceParent::parse(&parent.to_string()), Ok(parent));
    }
}

pub fn varint(data: &[u8]) {
    if let Some((v, used)) = varint::decode(data) {
        let mut out = Vec::new();
        varint::encode(v, &mut out);
        assert!(out.len() <= used && out.len() == varint::len(v));
        assert_eq!(varint::decode(&out), Some((v, out.len())));
    }
}
