//! UDP ASSOCIATE (RFC 1928 §7): what a client's datagram asks for.

use std::net::SocketAddr;

use super::socks::service_of;
use crate::wire::socks5;

/// One datagram for a service.
pub(super) struct Datagram<'a> {
    pub service: String,
    pub port: u16,
    /// Goes before the answers.
    pub header: Vec<u8>,
    pub payload: &'a [u8],
}

/// `None`: it is not from the client, no whole SOCKS datagram, or for nothing in `zone`. A client's port that was not known yet
/// (0) is the one that its first good datagram came from.
pub(super) fn accept<'a>(
    client: &mut SocketAddr,
    from: SocketAddr,
    zone: &str,
    datagram: &'a [u8],
) -> Option<Datagram<'a>> {
    if from.ip() != client.ip() || (client.port() != 0 && from.port() != client.port()) {
        return None;
    }
    let head = socks5::parse_udp(datagram).ok()?;
    let service = service_of(&head.address, zone)?;
    client.set_port(from.port());
    let mut header = Vec::new();
    socks5::udp_header(&head.address, head.port, &mut header);
    Some(Datagram { service, port: head.port, header, payload: datagram.get(head.len..)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(name: &str, data: &[u8]) -> Vec<u8> {
        let mut d = Vec::new();
        socks5::udp_header(&socks5::Address::Name(name.into()), 53, &mut d);
        d.extend_from_slice(data);
        d
    }

    #[test]
    fn the_first_good_datagram_fixes_the_clients_port() {
        let mut client: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let from = "127.0.0.1:5000".parse().unwrap();
        let d = ask("dns.ztna.internal", b"q");
        let got = accept(&mut client, from, "ztna.internal", &d).unwrap();
        assert_eq!((got.service.as_str(), got.port, got.payload), ("dns", 53, &b"q"[..]));
        assert_eq!(got.header, ask("dns.ztna.internal", b""));
        assert!(accept(&mut client, "127.0.0.1:5001".parse().unwrap(), "ztna.internal", &d).is_none());
        assert!(accept(&mut client, from, "ztna.internal", &d).is_some());
    }

    #[test]
    fn names_outside_the_zone_and_other_hosts_are_dropped() {
        let mut client: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let from = "127.0.0.1:5000".parse().unwrap();
        assert!(accept(&mut client, from, "ztna.internal", &ask("dns.example.com", b"q")).is_none());
        assert!(accept(&mut client, "127.0.0.2:5000".parse().unwrap(), "ztna.internal", &ask("dns", b"q")).is_none());
        assert_eq!(client.port(), 0);
    }
}
