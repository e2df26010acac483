//! IP packets as a router that translates sees them: addresses, ports, and the packet that an ICMP error quotes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::checksum::{fold, get, put, sum, update};
use crate::nat::Protocol;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// What a router has to know of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Source; the port is 0 where there is none.
    pub from: SocketAddr,
    /// Destination; the port is 0 where there is none.
    pub to: SocketAddr,
    /// What it carries.
    pub transport: Transport,
}

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A packet of a flow. An echo request has its identifier as source port, an answer as destination port.
    Flow(Protocol),
    /// An ICMP error about a packet of a flow.
    Error(Quoted),
    /// Another protocol, a fragment, or another ICMP message: no ports, so nothing to tell flows apart by.
    Other,
}

/// The packet that an ICMP error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quoted {
    /// Its protocol.
    pub protocol: Protocol,
    /// Its source.
    pub from: SocketAddr,
    /// Its destination.
    pub to: SocketAddr,
}

/// Reads a packet; `None` when it is no IP packet or is cut off before its ports.
pub fn parse(packet: &[u8]) -> Option<Header> {
    let network = Network::parse(packet)?;
    let (from, to) = (network.source(packet)?, network.destination(packet)?);
    let transport = match network.kind(packet)? {
        Kind::Ports(protocol) => {
            let ports = Ports::parse(packet, network.payload)?;
            return Some(Header {
                from: SocketAddr::new(from, ports.source),
                to: SocketAddr::new(to, ports.destination),
                transport: Transport::Flow(protocol),
            });
        }
        Kind::Echo { request } => {
            let id = get(packet, network.payload + 4)?;
            let (source, destination) = if request { (id, 0) } else { (0, id) };
            return Some(Header {
                from: SocketAddr::new(from, source),
                to: SocketAddr::new(to, destination),
                transport: Transport::Flow(Protocol::Icmp),
            });
        }
        Kind::Error => match packet.get(network.payload + 8..).and_then(parse) {
            Some(Header { from, to, transport: Transport::Flow(protocol) }) => {
                Transport::Error(Quoted { protocol, from, to })
            }
            Some(Header { transport: Transport::Error(_) | Transport::Other, .. }) | None => Transport::Other,
        },
        Kind::Other => Transport::Other,
    };
    Some(Header { from: SocketAddr::new(from, 0), to: SocketAddr::new(to, 0), transport })
}

/// Gives a packet the addresses, ports and quoted addresses of `header`, and the checksums that follow. What does not fit the
/// packet (another family, another transport) is left as it is.
pub fn rewrite(packet: &mut [u8], header: &Header) {
    let Some(network) = Network::parse(packet) else { return };
    let Some(kind) = network.kind(packet) else { return };
    let Some(addresses) = network.set_addresses(packet, header.from.ip(), header.to.ip()) else { return };
    let at = network.payload;
    match (kind, header.transport) {
        (Kind::Ports(protocol), Transport::Flow(_)) => {
            let old = addresses.old + ports_sum(packet, at);
            put(packet, at, header.from.port());
            put(packet, at + 2, header.to.port());
            let new = addresses.new + ports_sum(packet, at);
            let field = if protocol == Protocol::Udp { at + 6 } else { at + 16 };
            let Some(checksum) = get(packet, field) else { return };
            match (protocol, checksum) {
                // RFC 768: no checksum stays none.
                (Protocol::Udp, 0) => {}
                (Protocol::Udp, checksum) => put(packet, field, nonzero(update(checksum, old, new))),
                (Protocol::Tcp | Protocol::Icmp, checksum) => put(packet, field, update(checksum, old, new)),
            }
        }
        (Kind::Echo { request }, Transport::Flow(_)) => {
            let (Some(old), Some(checksum)) = (get(packet, at + 4), get(packet, at + 2)) else { return };
            let id = if request { header.from.port() } else { header.to.port() };
            put(packet, at + 4, id);
            let (before, after) = network.pseudo(addresses);
            put(packet, at + 2, update(checksum, u32::from(old) + before, u32::from(id) + after));
        }
        (Kind::Error, Transport::Error(quoted)) => {
            if let Some(inner) = packet.get_mut(at + 8..) {
                rewrite_quoted(inner, quoted);
            }
            put(packet, at + 2, 0);
            let pseudo = network.pseudo_header(packet);
            let checksum = packet.get(at..).map_or(0, |message| !fold(sum(message) + pseudo));
            put(packet, at + 2, checksum);
        }
        // The addresses are all there is. ICMPv6 covers them by its checksum.
        (Kind::Error | Kind::Other | Kind::Ports(_) | Kind::Echo { .. }, _) => {
            if network.protocol == ICMPV6 {
                let Some(checksum) = get(packet, at + 2) else { return };
                put(packet, at + 2, update(checksum, addresses.old, addresses.new));
            }
        }
    }
}

/// Addresses, ports and IP checksum. The transport checksum stays: it is often cut off, and no receiver looks at it.
fn rewrite_quoted(packet: &mut [u8], quoted: Quoted) {
    let Some(network) = Network::parse(packet) else { return };
    if network.set_addresses(packet, quoted.from.ip(), quoted.to.ip()).is_none() {
        return;
    }
    match network.kind(packet) {
        Some(Kind::Ports(_)) => {
            put(packet, network.payload, quoted.from.port());
            put(packet, network.payload + 2, quoted.to.port());
        }
        Some(Kind::Echo { request }) => {
            put(packet, network.payload + 4, if request { quoted.from.port() } else { quoted.to.port() });
        }
        Some(Kind::Error | Kind::Other) | None => {}
    }
}

/// A network header.
#[derive(Debug, Clone, Copy)]
struct Network {
    v4: bool,
    protocol: u8,
    /// Where the transport header starts.
    payload: usize,
    /// All of it but perhaps the first has no ports (RFC 791).
    fragment: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ports(Protocol),
    Echo { request: bool },
    Error,
    Other,
}

/// Sums of both addresses, before and after.
#[derive(Debug, Clone, Copy)]
struct Addresses {
    old: u32,
    new: u32,
}

struct Ports {
    source: u16,
    destination: u16,
}

impl Ports {
    fn parse(packet: &[u8], at: usize) -> Option<Self> {
        Some(Self { source: get(packet, at)?, destination: get(packet, at + 2)? })
    }
}

impl Network {
    fn parse(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => {
                let payload = usize::from(packet.first()? & 0x0f) * 4;
                packet.get(..payload.max(20))?;
                // More fragments, or an offset.
                let fragment = get(packet, 6)? & 0x3fff != 0;
                Some(Self { v4: true, protocol: *packet.get(9)?, payload, fragment })
            }
            6 => {
                packet.get(..40)?;
                // An extension header, that of fragments too, is a protocol that this reads as another one.
                Some(Self { v4: false, protocol: *packet.get(6)?, payload: 40, fragment: false })
            }
            _ => None,
        }
    }

    fn kind(&self, packet: &[u8]) -> Option<Kind> {
        if self.fragment {
            return Some(Kind::Other);
        }
        let icmp = (self.v4 && self.protocol == ICMP) || (!self.v4 && self.protocol == ICMPV6);
        Some(match self.protocol {
            TCP => Kind::Ports(Protocol::Tcp),
            UDP => Kind::Ports(Protocol::Udp),
            _ if icmp => match (self.v4, *packet.get(self.payload)?) {
                (true, 8) | (false, 128) => Kind::Echo { request: true },
                (true, 0) | (false, 129) => Kind::Echo { request: false },
                // Destination unreachable, time exceeded, parameter problem; of ICMPv6 also packet too big.
                (true, 3 | 11 | 12) | (false, 1..=4) => Kind::Error,
                _ => Kind::Other,
            },
            _ => Kind::Other,
        })
    }

    fn source(&self, packet: &[u8]) -> Option<IpAddr> {
        if self.v4 { v4(packet, 12) } else { v6(packet, 8) }
    }

    fn destination(&self, packet: &[u8]) -> Option<IpAddr> {
        if self.v4 { v4(packet, 16) } else { v6(packet, 24) }
    }

    /// Writes both addresses and the checksum of an IPv4 header.
    fn set_addresses(&self, packet: &mut [u8], from: IpAddr, to: IpAddr) -> Option<Addresses> {
        let at = if self.v4 { 12..20 } else { 8..40 };
        let new: Vec<u8> = match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) if self.v4 => [from.octets(), to.octets()].concat(),
            (IpAddr::V6(from), IpAddr::V6(to)) if !self.v4 => [from.octets(), to.octets()].concat(),
            _ => return None,
        };
        let slot = packet.get_mut(at)?;
        let sums = Addresses { old: sum(slot), new: sum(&new) };
        slot.copy_from_slice(&new);
        if self.v4 {
            let checksum = get(packet, 10)?;
            put(packet, 10, update(checksum, sums.old, sums.new));
        }
        Some(sums)
    }

    /// What of the addresses an ICMP checksum covers.
    fn pseudo(&self, addresses: Addresses) -> (u32, u32) {
        if self.v4 { (0, 0) } else { (addresses.old, addresses.new) }
    }

    fn pseudo_header(&self, packet: &[u8]) -> u32 {
        if self.v4 {
            return 0;
        }
        let length = packet.len().saturating_sub(self.payload) as u32;
        packet.get(8..40).map_or(0, sum) + length + u32::from(self.protocol)
    }
}

fn v4(packet: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
    Some(Ipv4Addr::from(octets).into())
}

fn v6(packet: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
    Some(Ipv6Addr::from(octets).into())
}

fn ports_sum(packet: &[u8], at: usize) -> u32 {
    packet.get(at..at + 4).map_or(0, sum)
}

/// RFC 768: a UDP checksum of zero is sent as ones.
fn nonzero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rewritten_packet_reads_as_the_new_header_and_has_valid_checksums() {
        for (from, to, new_from, new_to) in [
            ("192.168.1.10:5000", "198.51.100.1:4433", "203.0.113.1:61000", "198.51.100.1:4433"),
            ("198.51.100.1:4433", "203.0.113.1:61000", "198.51.100.1:4433", "192.168.1.10:5000"),
            ("[fd00::1]:5000", "[2001:db8::1]:4433", "[2001:db8:a::1]:61000", "[2001:db8::1]:4433"),
        ] {
            for protocol in [Protocol::Udp, Protocol::Tcp] {
                let mut packet = flow(protocol, addr(from), addr(to), b"some odd payload!");
                let mut header = parse(&packet).unwrap();
                assert_eq!(header, Header { from: addr(from), to: addr(to), transport: Transport::Flow(protocol) });
                (header.from, header.to) = (addr(new_from), addr(new_to));
                rewrite(&mut packet, &header);
                assert_eq!(parse(&packet), Some(header));
                assert_valid(&packet);
            }
        }
    }

    #[test]
    fn an_echo_keeps_its_identifier_on_the_side_that_asked() {
        for (kind, from, to) in [(8, 77, 0), (0, 0, 77)] {
            let mut packet = echo(kind, 77);
            let mut header = parse(&packet).unwrap();
            assert_eq!((header.from.port(), header.to.port()), (from, to));
            header.from = SocketAddr::new("203.0.113.1".parse().unwrap(), from + 1000 * u16::from(from != 0));
            rewrite(&mut packet, &header);
            assert_eq!(parse(&packet), Some(header));
            assert_valid(&packet);
        }
    }

    #[test]
    fn an_icmp_error_is_translated_with_the_packet_it_quotes() {
        let (inside, outside, remote) = (addr("192.168.1.10:5000"), addr("203.0.113.1:61000"), addr("198.51.100.1:9"));
        let sent = flow(Protocol::Udp, outside, remote, b"x");
        let mut error = icmp_error(&sent, "198.51.100.1", "203.0.113.1");
        let mut header = parse(&error).unwrap();
        let quoted = Quoted { protocol: Protocol::Udp, from: outside, to: remote };
        assert_eq!(header.transport, Transport::Error(quoted));
        header.to = SocketAddr::new(inside.ip(), 0);
        header.transport = Transport::Error(Quoted { from: inside, ..quoted });
        rewrite(&mut error, &header);
        assert_eq!(parse(&error), Some(header));
        assert_valid(&error);
        // The quoted IP header too.
        assert_eq!(fold(sum(&error[28..48])), 0xffff);
    }

    #[test]
    fn a_udp_packet_without_a_checksum_stays_without() {
        let mut packet = flow(Protocol::Udp, addr("10.0.0.1:1"), addr("10.0.0.2:2"), b"x");
        put(&mut packet, 26, 0);
        let header = Header { from: addr("10.0.0.3:3"), ..parse(&packet).unwrap() };
        rewrite(&mut packet, &header);
        assert_eq!(get(&packet, 26), Some(0));
    }

    #[test]
    fn fragments_and_other_protocols_have_no_ports_and_what_is_cut_off_is_no_packet() {
        let mut fragment = flow(Protocol::Udp, addr("10.0.0.1:1"), addr("10.0.0.2:2"), b"x");
        fragment[6] = 0x20;
        assert_eq!(parse(&fragment).map(|header| header.transport), Some(Transport::Other));
        let whole = flow(Protocol::Tcp, addr("10.0.0.1:1"), addr("10.0.0.2:2"), b"x");
        for len in 0..24 {
            assert_eq!(parse(&whole[..len]), None, "{len}");
        }
        assert_eq!(parse(&[0x50; 40]), None);
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut random = crate::random::Random::new(7);
        let mut seeds = vec![echo(8, 1), flow(Protocol::Tcp, addr("[::1]:1"), addr("[::2]:2"), b"x")];
        seeds.push(icmp_error(&seeds[0], "10.0.0.1", "10.0.0.2"));
        for n in 0..30_000usize {
            let mut packet = seeds[n % seeds.len()].clone();
            for _ in 0..3 {
                let at = random.below(packet.len() as u32) as usize;
                packet[at] = random.next() as u8;
            }
            packet.truncate(random.below(packet.len() as u32 + 1) as usize);
            if let Some(header) = parse(&packet) {
                rewrite(&mut packet, &header);
                assert_eq!(parse(&packet), Some(header));
            }
        }
    }

    fn flow(protocol: Protocol, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
        let (number, header, field) = if protocol == Protocol::Udp { (UDP, 8, 6) } else { (TCP, 20, 16) };
        let mut segment = vec![0; header];
        put(&mut segment, 0, from.port());
        put(&mut segment, 2, to.port());
        segment.extend_from_slice(payload);
        if protocol == Protocol::Udp {
            let len = segment.len() as u16;
            put(&mut segment, 4, len);
        }
        let mut packet = network(from.ip(), to.ip(), number, segment.len());
        let pseudo = pseudo(&packet, segment.len(), number);
        let checksum = !fold(sum(&segment) + pseudo);
        put(&mut segment, field, checksum);
        packet.extend(segment);
        packet
    }

    fn echo(kind: u8, id: u16) -> Vec<u8> {
        let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 1, b'x'];
        put(&mut message, 4, id);
        let checksum = !fold(sum(&message));
        put(&mut message, 2, checksum);
        let mut packet = network("192.168.1.10".parse().unwrap(), "198.51.100.1".parse().unwrap(), ICMP, message.len());
        packet.extend(message);
        packet
    }

    fn icmp_error(quoted: &[u8], from: &str, to: &str) -> Vec<u8> {
        let mut message = vec![3, 3, 0, 0, 0, 0, 0, 0];
        message.extend_from_slice(&quoted[..28.min(quoted.len())]);
        let checksum = !fold(sum(&message));
        put(&mut message, 2, checksum);
        let mut packet = network(from.parse().unwrap(), to.parse().unwrap(), ICMP, message.len());
        packet.extend(message);
        packet
    }

    fn network(from: IpAddr, to: IpAddr, protocol: u8, len: usize) -> Vec<u8> {
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut header = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0];
                header.extend([from.octets(), to.octets()].concat());
                put(&mut header, 2, 20 + len as u16);
                let checksum = !fold(sum(&header));
                put(&mut header, 10, checksum);
                header
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let mut header = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
                put(&mut header, 4, len as u16);
                header.extend([from.octets(), to.octets()].concat());
                header
            }
            _ => panic!("two families"),
        }
    }

    fn pseudo(header: &[u8], len: usize, protocol: u8) -> u32 {
        let addresses = if header[0] >> 4 == 4 { &header[12..20] } else { &header[8..40] };
        sum(addresses) + len as u32 + u32::from(protocol)
    }

    fn assert_valid(packet: &[u8]) {
        let at = if packet[0] >> 4 == 4 { 20 } else { 40 };
        if at == 20 {
            assert_eq!(fold(sum(&packet[..20])), 0xffff);
        }
        let protocol = if at == 20 { packet[9] } else { packet[6] };
        let covered = if protocol == ICMP { 0 } else { pseudo(&packet[..at], packet.len() - at, protocol) };
        assert_eq!(fold(sum(&packet[at..]) + covered), 0xffff);
    }

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }
}
