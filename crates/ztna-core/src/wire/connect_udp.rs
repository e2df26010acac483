//! CONNECT-UDP (RFC 9298): its URI template, its HTTP Datagrams (RFC 9297 §2.1), and the uncompressed payload of the bind draft.

use std::net::SocketAddr;

use super::error::DecodeError;
use super::reader::Reader;
use super::{address, host, percent, varint};

const PREFIX: &str = "/.well-known/masque/udp/";
const ACCEPTED: &str = "`/.well-known/masque/udp/{host}/{port}/`, percent-encoded, both `%2A` to bind";

/// What a CONNECT-UDP request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Both variables are `*`: bind without a target (draft-ietf-masque-connect-udp-listen, Proxied UDP Binding Mechanism).
    Bind,
    /// A name in lower case without final dot, or an IP address in canonical text; `port` is never 0.
    Host { host: String, port: u16 },
}

/// The path of a bind request: the default template of RFC 9298 §2 with `*` for host and port, which has to be encoded.
pub fn bind_path() -> &'static str {
    "/.well-known/masque/udp/%2A/%2A/"
}

/// The path of a request for one host, by the default template of RFC 9298 §2. `host` without brackets.
pub fn target_path(host: &str, port: u16) -> String {
    let mut path = String::from(PREFIX);
    percent::encode(host, &mut path);
    path.push('/');
    path.push_str(&port.to_string());
    path.push('/');
    path
}

/// Reads a `:path`. Strict about the template, tolerant of characters that did not need encoding (an IPv6 address may have plain colons).
pub fn parse_path(path: &str) -> Result<Target, DecodeError> {
    let bad = || DecodeError::invalid("CONNECT-UDP path", path, ACCEPTED);
    let inner = path.strip_prefix(PREFIX).and_then(|p| p.strip_suffix('/')).ok_or_else(bad)?;
    let (host, port) = inner.split_once('/').ok_or_else(bad)?;
    let (host, port) = (percent::decode(host).ok_or_else(bad)?, percent::decode(port).ok_or_else(bad)?);
    match (host.as_str(), port.as_str()) {
        ("*", "*") => Ok(Target::Bind),
        (host, port) => Ok(Target::Host { host: host::parse_host(host)?, port: host::parse_port(port)? }),
    }
}

/// Context ID of an HTTP Datagram's payload and the number of bytes it takes (RFC 9298 §4); the rest is the context's.
pub fn split_context(payload: &[u8]) -> Option<(u64, usize)> {
    varint::decode(payload)
}

/// Appends what stands before the data in a QUIC DATAGRAM frame: quarter stream ID (RFC 9297 §2.1), then context ID.
/// `stream_id` is that of a client-initiated bidirectional stream, a multiple of four.
pub fn datagram_header(stream_id: u64, context_id: u64, out: &mut Vec<u8>) {
    varint::encode(stream_id / 4, out);
    varint::encode(context_id, out);
}

/// Stream ID of a QUIC DATAGRAM frame and the number of bytes its quarter took. `None` when cut short or when the stream ID
/// could not exist, which RFC 9297 §2.1 makes a connection error (H3_DATAGRAM_ERROR).
pub fn parse_datagram(frame: &[u8]) -> Option<(u64, usize)> {
    let (quarter, len) = varint::decode(frame)?;
    (quarter <= varint::MAX / 4).then_some((quarter * 4, len))
}

/// Appends the payload of the uncompressed context: address (IP version, address, port), then the UDP payload.
pub fn encode_uncompressed(addr: SocketAddr, payload: &[u8], out: &mut Vec<u8>) {
    address::encode(addr, out);
    out.extend_from_slice(payload);
}

/// Reads the payload of the uncompressed context.
pub fn parse_uncompressed(payload: &[u8]) -> Result<(SocketAddr, &[u8]), DecodeError> {
    let mut r = Reader::new(payload);
    let addr = address::decode(&mut r)?;
    Ok((addr, r.rest()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn host(host: &str, port: u16) -> Target {
        Target::Host { host: host.to_owned(), port }
    }

    #[test]
    fn the_bind_path_reads_as_bind() {
        assert_eq!(parse_path(bind_path()).unwrap(), Target::Bind);
        assert_eq!(parse_path("/.well-known/masque/udp/*/*/").unwrap(), Target::Bind);
    }

    #[test]
    fn the_examples_of_rfc_9298_read_as_targets() {
        assert_eq!(parse_path("/.well-known/masque/udp/192.0.2.6/443/").unwrap(), host("192.0.2.6", 443));
        assert_eq!(parse_path("/.well-known/masque/udp/2001%3Adb8%3A%3A42/443/").unwrap(), host("2001:db8::42", 443));
        assert_eq!(target_path("2001:db8::42", 443), "/.well-known/masque/udp/2001%3Adb8%3A%3A42/443/");
    }

    #[test]
    fn a_name_is_compared_in_lower_case() {
        assert_eq!(
            parse_path("/.well-known/masque/udp/C1.Connector.example.test./443/").unwrap(),
            host("c1.connector.example.test", 443)
        );
    }

    #[test]
    fn anything_but_the_template_is_refused() {
        for bad in [
            "",
            "/",
            "/.well-known/masque/udp/",
            "/.well-known/masque/udp//443/",
            "/.well-known/masque/udp/a/443",
            "/.well-known/masque/udp/a/443/?x",
            "/.well-known/masque/udp/a/443/b/",
            "/.well-known/masque/udp/a/0/",
            "/.well-known/masque/udp/a/65536/",
            "/.well-known/masque/udp/*/443/",
            "/.well-known/masque/udp/a/*/",
            "/.well-known/masque/udp/%252A/%252A/",
            "/.well-known/masque/udp/a%2Fb/443/",
            "/.well-known/masque/udp/a%/443/",
            "/.well-known/masque/udp/fe80%3A%3A1%25eth0/443/",
            "/.well-known/masque/udp/%5B%3A%3A1%5D/443/",
            "/x/.well-known/masque/udp/a/443/",
        ] {
            assert!(parse_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_datagram_of_an_impossible_stream_is_refused() {
        let mut frame = Vec::new();
        varint::encode(varint::MAX / 4, &mut frame);
        assert_eq!(parse_datagram(&frame), Some((varint::MAX - 3, 8)));
        frame.clear();
        varint::encode(varint::MAX / 4 + 1, &mut frame);
        assert_eq!(parse_datagram(&frame), None);
        assert_eq!(parse_datagram(&[]), None);
    }

    #[test]
    fn an_uncompressed_payload_needs_a_real_address() {
        assert!(parse_uncompressed(&[0, 1, 2]).is_err());
        assert!(parse_uncompressed(&[4, 192, 0, 2, 1, 0]).is_err());
        assert_eq!(parse_uncompressed(&[4, 192, 0, 2, 1, 0, 53]).unwrap(), ("192.0.2.1:53".parse().unwrap(), &[][..]));
    }

    proptest! {
        #[test]
        fn a_target_reads_back_as_it_was_written(name in "[a-z0-9_]([a-z0-9-]{0,20}[a-z0-9])?\\.[a-z]{1,8}", ip in any::<std::net::IpAddr>(), port in 1u16..) {
            prop_assert_eq!(parse_path(&target_path(&name, port)).unwrap(), host(&name, port));
            prop_assert_eq!(parse_path(&target_path(&ip.to_string(), port)).unwrap(), host(&ip.to_string(), port));
        }

        #[test]
        fn a_datagram_header_reads_back(quarter in 0..=varint::MAX / 4, context in 0..=varint::MAX) {
            let mut out = Vec::new();
            datagram_header(quarter * 4, context, &mut out);
            let (stream, used) = parse_datagram(&out).unwrap();
            prop_assert_eq!(stream, quarter * 4);
            prop_assert_eq!(split_context(&out[used..]), Some((context, out.len() - used)));
        }

        #[test]
        fn an_uncompressed_payload_reads_back(ip in any::<std::net::IpAddr>(), port in any::<u16>(), payload in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut out = Vec::new();
            encode_uncompressed((ip, port).into(), &payload, &mut out);
            prop_assert_eq!(parse_uncompressed(&out).unwrap(), ((ip, port).into(), &payload[..]));
        }
    }
}
