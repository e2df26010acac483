//! The bytes of a spoofed Initial: an IPv4 packet that a QUIC server can't tell from a client's first one without a key.

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::prefix::Prefix;

/// IPv4 header without options, bytes (RFC 791).
const IP_HEADER: usize = 20;
/// UDP header, bytes (RFC 768).
const UDP_HEADER: usize = 8;
/// A client's first datagram, bytes: the least that RFC 9000 §14.1 lets a server answer.
const DATAGRAM: usize = 1_200;
/// Long header up to the packet number, token left out: flags, version, two connection IDs of 8 bytes, token length, a two-byte
/// length (RFC 9000 §17.2.2).
const QUIC_HEADER: usize = 1 + 4 + 1 + 8 + 1 + 8 + 1 + 2;
/// The whole packet, bytes.
pub const PACKET: usize = IP_HEADER + UDP_HEADER + DATAGRAM;

/// Makes packets that differ in source, ports and connection IDs.
pub struct Spoofer {
    to: SocketAddrV4,
    sources: Prefix,
    token: u8,
    random: Xorshift,
}

impl Spoofer {
    /// `token`: bytes of an invented Retry token, 63 at most; 0 for a first Initial.
    pub fn new(to: SocketAddrV4, sources: Prefix, token: u8, seed: u64) -> Self {
        // Zero is the one state that xorshift never leaves.
        Spoofer { to, sources, token: token.min(63), random: Xorshift(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1) }
    }

    /// A packet with a payload of its own. Costs a thousand random bytes: make a few, and let [`renew`](Self::renew) change them.
    pub fn packet(&mut self) -> [u8; PACKET] {
        let mut packet = [0; PACKET];
        for chunk in packet.chunks_mut(8) {
            let random = self.random.next().to_be_bytes();
            chunk.iter_mut().zip(random).for_each(|(byte, r)| *byte = r);
        }
        // The kernel fills in the total length, the identification and the checksum (raw(7), IP_HDRINCL).
        let mut ip = [0; IP_HEADER];
        put(&mut ip, 0, &[0x45]);
        put(&mut ip, 8, &[64, 17]);
        put(&mut ip, 16, &self.to.ip().octets());
        put(&mut packet, 0, &ip);
        // No UDP checksum, which IPv4 allows.
        let udp_length = ((UDP_HEADER + DATAGRAM) as u16).to_be_bytes();
        put(&mut packet, IP_HEADER + 2, &self.to.port().to_be_bytes());
        put(&mut packet, IP_HEADER + 4, &udp_length);
        put(&mut packet, IP_HEADER + 6, &[0, 0]);
        let quic = IP_HEADER + UDP_HEADER;
        put(&mut packet, quic, &[0xc3, 0, 0, 0, 1, 8]);
        put(&mut packet, quic + 14, &[8]);
        put(&mut packet, quic + 23, &[self.token]);
        let token = usize::from(self.token);
        put(&mut packet, quic + 24 + token, &(0x4000 | (DATAGRAM - QUIC_HEADER - token) as u16).to_be_bytes());
        self.renew(&mut packet);
        packet
    }

    /// Another sender's packet: new address, port and connection IDs.
    pub fn renew(&mut self, packet: &mut [u8; PACKET]) {
        let random = self.random.next();
        let source: Ipv4Addr = self.sources.any(random as u32);
        // Ephemeral ports (RFC 6335 §6).
        let port = 49_152 | (random >> 32) as u16;
        put(packet, 12, &source.octets());
        put(packet, IP_HEADER, &port.to_be_bytes());
        put(packet, IP_HEADER + UDP_HEADER + 6, &self.random.next().to_be_bytes());
        put(packet, IP_HEADER + UDP_HEADER + 15, &self.random.next().to_be_bytes());
    }
}

fn put(packet: &mut [u8], at: usize, bytes: &[u8]) {
    packet.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
}

/// Marsaglia's generator: quick, and nothing here is a secret.
struct Xorshift(u64);

impl Xorshift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ztna_core::wire::quic_header::{self, Header, VERSION_1};

    #[test]
    fn a_packet_reads_as_a_first_initial_without_a_token() {
        let mut packet = spoofer(0).packet();
        let datagram = &packet[IP_HEADER + UDP_HEADER..];
        assert_eq!(datagram.len(), 1_200);
        match quic_header::parse(datagram) {
            Some(Header::Long { version: VERSION_1, dcid, scid, is_initial: true }) => {
                assert_eq!((dcid.len(), scid.len()), (8, 8));
            }
            other => panic!("{other:?}"),
        }
        let token = ztna_core::quic::retry::initial_token(&mut packet[IP_HEADER + UDP_HEADER..]);
        assert_eq!(token.as_deref(), Some(&[][..]));
    }

    #[test]
    fn an_invented_token_has_the_length_that_was_asked_for() {
        let mut packet = spoofer(44).packet();
        let token = ztna_core::quic::retry::initial_token(&mut packet[IP_HEADER + UDP_HEADER..]);
        assert_eq!(token.map(|t| t.len()), Some(44));
    }

    #[test]
    fn a_renewed_packet_comes_from_elsewhere_in_the_prefix_and_carries_other_connection_ids() {
        let mut spoofer = spoofer(0);
        let first = spoofer.packet();
        let mut second = first;
        spoofer.renew(&mut second);
        assert_ne!(first[12..16], second[12..16]);
        assert_eq!((second[12], second[13] & 0xf0), (172, 16));
        assert_ne!(first[34..42], second[34..42]);
        assert_ne!(first[43..51], second[43..51]);
        assert_eq!(first[51..], second[51..]);
    }

    fn spoofer(token: u8) -> Spoofer {
        let sources = Prefix::parse("--sources", "172.16.0.0/12").unwrap();
        Spoofer::new("198.51.100.1:4433".parse().unwrap(), sources, token, 1)
    }
}
