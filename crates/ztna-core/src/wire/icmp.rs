//! ICMP echo (RFC 792, RFC 4443 §4) inside the smallest IPv4 (RFC 791) and IPv6 (RFC 8200) packets.
//!
//! Left out: IPv4 options are skipped, IPv6 extension headers and fragments refused; an echo flow sends neither.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::connect_ip::{PROTO_ICMP, PROTO_ICMPV6};
use super::error::DecodeError;
use super::reader::Reader;

/// Hop limit of packets built here: the value recommended by IANA (RFC 1700, "ip-parameters").
pub const HOP_LIMIT: u8 = 64;

const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;
const ICMP_HEADER: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EchoKind {
    Request,
    Reply,
}

/// One echo message without its IP header, as a ping socket sends and receives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo<'a> {
    pub kind: EchoKind,
    pub id: u16,
    pub seq: u16,
    pub payload: &'a [u8],
}

/// An echo message with its addresses, both of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EchoPacket<'a> {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub echo: Echo<'a>,
}

impl<'a> EchoPacket<'a> {
    /// Reads one whole IP packet and verifies its checksums. Bytes after the packet's own length are ignored (link padding).
    pub fn parse(packet: &'a [u8]) -> Result<Self, DecodeError> {
        match packet.first().map(|b| b >> 4) {
            Some(4) => parse_v4(packet),
            Some(6) => parse_v6(packet),
            Some(other) => Err(DecodeError::invalid("IP version", other, "4 or 6")),
            None => Err(DecodeError::truncated("IP packet")),
        }
    }

    /// Appends the IP packet with [`HOP_LIMIT`], "don't fragment" and all checksums. `false`, and nothing appended, when the addresses are
    /// of two families or the payload does not fit a packet of 65,535 bytes.
    pub fn build(&self, out: &mut Vec<u8>) -> bool {
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => build_v4(src, dst, &self.echo, out),
            (IpAddr::V6(src), IpAddr::V6(dst)) => build_v6(src, dst, &self.echo, out),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl<'a> Echo<'a> {
    /// Reads a message from a ping socket, whose checksum the kernel has verified. `v6` names the family.
    pub fn parse_message(v6: bool, message: &'a [u8]) -> Result<Self, DecodeError> {
        let cut = || DecodeError::truncated("ICMP echo");
        let mut r = Reader::new(message);
        let (ty, code) = (r.u8().ok_or_else(cut)?, r.u8().ok_or_else(cut)?);
        let kind = match (v6, ty, code) {
            (false, 8, 0) | (true, 128, 0) => EchoKind::Request,
            (false, 0, 0) | (true, 129, 0) => EchoKind::Reply,
            _ => {
                return Err(DecodeError::invalid(
                    "ICMP type and code",
                    format!("{ty}/{code}"),
                    "an echo request or reply",
                ));
            }
        };
        r.u16().ok_or_else(cut)?; // checksum
        Ok(Echo { kind, id: r.u16().ok_or_else(cut)?, seq: r.u16().ok_or_else(cut)?, payload: r.rest() })
    }

    /// Appends the message as a ping socket wants it. The checksum is right for IPv4 and zero for IPv6, where it
    /// covers the addresses: the kernel fills it in.
    pub fn build_message(&self, v6: bool, out: &mut Vec<u8>) {
        self.emit(v6, if v6 { None } else { Some(0) }, out);
    }

    /// `pseudo` is the sum of the pseudo-header, `None` to leave the checksum zero.
    fn emit(&self, v6: bool, pseudo: Option<u32>, out: &mut Vec<u8>) {
        let ty = match (v6, self.kind) {
            (false, EchoKind::Request) => 8,
            (false, EchoKind::Reply) => 0,
            (true, EchoKind::Request) => 128,
            (true, EchoKind::Reply) => 129,
        };
        let fields = [u16::from_be_bytes([ty, 0]), 0, self.id, self.seq];
        let checksum =
            pseudo.map_or(0, |p| !fold(p + fields.into_iter().map(u32::from).sum::<u32>() + sum(self.payload)));
        let [head, _, id, seq] = fields;
        [head, checksum, id, seq].into_iter().for_each(|f| out.extend_from_slice(&f.to_be_bytes()));
        out.extend_from_slice(self.payload);
    }
}

fn parse_v4(packet: &[u8]) -> Result<EchoPacket<'_>, DecodeError> {
    let cut = || DecodeError::truncated("IPv4 packet");
    let mut r = Reader::new(packet);
    let (version_ihl, _tos, total) = (r.u8().ok_or_else(cut)?, r.u8().ok_or_else(cut)?, r.u16().ok_or_else(cut)?);
    let (_id, fragment) = (r.u16().ok_or_else(cut)?, r.u16().ok_or_else(cut)?);
    let (_ttl, proto, _checksum) = (r.u8().ok_or_else(cut)?, r.u8().ok_or_else(cut)?, r.u16().ok_or_else(cut)?);
    let (src, dst) = (Ipv4Addr::from(r.array::<4>().ok_or_else(cut)?), Ipv4Addr::from(r.array::<4>().ok_or_else(cut)?));
    let header_len = usize::from(version_ihl & 0x0f) * 4;
    if header_len < V4_HEADER {
        return Err(DecodeError::invalid("IPv4 header length", header_len, "20 or more"));
    }
    if fragment & 0x3fff != 0 {
        return Err(DecodeError::invalid("IPv4 fragment", format!("{fragment:#06x}"), "a whole packet"));
    }
    if proto != PROTO_ICMP {
        return Err(DecodeError::invalid("IPv4 protocol", proto, "1 (ICMP)"));
    }
    let (header, message) =
        packet.get(..usize::from(total)).and_then(|p| p.split_at_checked(header_len)).ok_or_else(cut)?;
    verify("IPv4 header checksum", sum(header))?;
    verify("ICMP checksum", sum(message))?;
    Ok(EchoPacket { src: src.into(), dst: dst.into(), echo: Echo::parse_message(false, message)? })
}

fn parse_v6(packet: &[u8]) -> Result<EchoPacket<'_>, DecodeError> {
    let cut = || DecodeError::truncated("IPv6 packet");
    let mut r = Reader::new(packet);
    let (_flow, len) = (r.u32().ok_or_else(cut)?, r.u16().ok_or_else(cut)?);
    let (next, _hops) = (r.u8().ok_or_else(cut)?, r.u8().ok_or_else(cut)?);
    let (src, dst) =
        (Ipv6Addr::from(r.array::<16>().ok_or_else(cut)?), Ipv6Addr::from(r.array::<16>().ok_or_else(cut)?));
    if next != PROTO_ICMPV6 {
        return Err(DecodeError::invalid("IPv6 next header", next, "58 (ICMPv6)"));
    }
    let message = r.take(usize::from(len)).ok_or_else(cut)?;
    verify("ICMPv6 checksum", pseudo_v6(src, dst, u32::from(len)) + sum(message))?;
    Ok(EchoPacket { src: src.into(), dst: dst.into(), echo: Echo::parse_message(true, message)? })
}

fn build_v4(src: Ipv4Addr, dst: Ipv4Addr, echo: &Echo<'_>, out: &mut Vec<u8>) -> bool {
    let Ok(total) = u16::try_from(V4_HEADER + ICMP_HEADER + echo.payload.len()) else {
        return false;
    };
    let mut header = Vec::with_capacity(V4_HEADER);
    header.extend_from_slice(&[0x45, 0]);
    header.extend_from_slice(&total.to_be_bytes());
    // Identification 0 is fine for a packet that is never fragmented (RFC 6864 §4.1).
    header.extend_from_slice(&[0, 0, 0x40, 0, HOP_LIMIT, PROTO_ICMP]);
    let mut sum_of = sum(&header);
    sum_of += sum(&src.octets()) + sum(&dst.octets());
    header.extend_from_slice(&(!fold(sum_of)).to_be_bytes());
    header.extend_from_slice(&src.octets());
    header.extend_from_slice(&dst.octets());
    out.extend_from_slice(&header);
    echo.emit(false, Some(0), out);
    true
}

fn build_v6(src: Ipv6Addr, dst: Ipv6Addr, echo: &Echo<'_>, out: &mut Vec<u8>) -> bool {
    // 65,535 for the whole packet, as for IPv4 and as UDP tunnels have it, though the field could count more.
    let Some(len) =
        u16::try_from(V6_HEADER + ICMP_HEADER + echo.payload.len()).ok().map(|total| total - V6_HEADER as u16)
    else {
        return false;
    };
    out.extend_from_slice(&[0x60, 0, 0, 0]);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&[PROTO_ICMPV6, HOP_LIMIT]);
    out.extend_from_slice(&src.octets());
    out.extend_from_slice(&dst.octets());
    echo.emit(true, Some(pseudo_v6(src, dst, u32::from(len))), out);
    true
}

/// Sum of the pseudo-header of RFC 8200 §8.1.
fn pseudo_v6(src: Ipv6Addr, dst: Ipv6Addr, len: u32) -> u32 {
    sum(&src.octets()) + sum(&dst.octets()) + len + u32::from(PROTO_ICMPV6)
}

/// Sum of 16-bit words (RFC 1071), an odd byte padded with zero. 65,535 bytes can't overflow 32 bits.
fn sum(bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<2>();
    let odd = rest.first().map_or(0, |&b| u32::from(b) << 8);
    words.iter().map(|&w| u32::from(u16::from_be_bytes(w))).sum::<u32>() + odd
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn verify(what: &'static str, sum: u32) -> Result<(), DecodeError> {
    match fold(sum) {
        0xffff => Ok(()),
        _ => Err(DecodeError::invalid(what, "wrong", "the sum of the packet")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ECHO: Echo<'_> = Echo { kind: EchoKind::Request, id: 0x1234, seq: 1, payload: b"abc" };

    fn v4() -> Vec<u8> {
        let mut out = Vec::new();
        assert!(EchoPacket { src: [192, 0, 2, 1].into(), dst: [192, 0, 2, 2].into(), echo: ECHO }.build(&mut out));
        out
    }

    #[test]
    fn an_ipv4_echo_request_has_the_checksums_worked_out_by_hand() {
        // Header: 4500+001f+0000+4000+4001+c000+0201+c000+0202 = 24923 -> 4925 -> !4925 = b6da.
        // ICMP: 0800+1234+0001+6162+6300 = de97 -> !de97 = 2168.
        let packet = v4();
        assert_eq!(packet[..4], [0x45, 0, 0, 31]);
        assert_eq!(packet[10..12], [0xb6, 0xda]);
        assert_eq!(packet[20..], [8, 0, 0x21, 0x68, 0x12, 0x34, 0, 1, b'a', b'b', b'c']);
    }

    #[test]
    fn options_are_skipped_and_link_padding_ignored() {
        let mut packet = v4();
        packet[0] = 0x46;
        packet[3] += 4;
        packet.splice(20..20, [1, 1, 1, 1]); // four no-operations
        let without = u16::from_be_bytes([packet[10], packet[11]]);
        let sum = fold(u32::from(!without) + 0x0100 + 4 + 0x0202);
        packet[10..12].copy_from_slice(&(!sum).to_be_bytes());
        packet.extend_from_slice(&[0; 18]);
        assert_eq!(EchoPacket::parse(&packet).unwrap().echo, ECHO);
    }

    #[test]
    fn fragments_other_protocols_and_other_icmp_are_refused() {
        for (at, value) in [(6, 0x20), (7, 1), (9, 17), (0, 0x44), (0, 0x55), (20, 3), (21, 1)] {
            let mut packet = v4();
            packet[at] = value;
            assert!(EchoPacket::parse(&packet).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_message_of_a_ping_socket_reads_back() {
        for v6 in [false, true] {
            let mut out = Vec::new();
            ECHO.build_message(v6, &mut out);
            assert_eq!(Echo::parse_message(v6, &out).unwrap(), ECHO);
            assert!(Echo::parse_message(!v6, &out).is_err());
        }
    }

    #[test]
    fn mixed_families_and_oversized_payloads_build_nothing() {
        let mut out = Vec::new();
        let (four, six) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from(Ipv6Addr::LOCALHOST));
        assert!(!EchoPacket { src: four, dst: six, echo: ECHO }.build(&mut out));
        let payload = vec![0xff; 65_508];
        for ip in [four, six] {
            assert!(!EchoPacket { src: ip, dst: ip, echo: Echo { payload: &payload, ..ECHO } }.build(&mut out));
        }
        assert!(out.is_empty());
        assert!(EchoPacket { src: four, dst: four, echo: Echo { payload: &payload[1..], ..ECHO } }.build(&mut out));
        assert_eq!(out.len(), 65_535);
    }

    proptest! {
        #[test]
        fn a_packet_reads_back_and_any_changed_bit_is_noticed(
            v6 in any::<bool>(), a in any::<[u8; 16]>(), b in any::<[u8; 16]>(), reply in any::<bool>(), id in any::<u16>(), seq in any::<u16>(),
            payload in proptest::collection::vec(any::<u8>(), 0..64), bit in 0usize..8 * 100,
        ) {
            let ip = |b: [u8; 16]| if v6 { IpAddr::from(b) } else { IpAddr::from([b[0], b[1], b[2], b[3]]) };
            let kind = if reply { EchoKind::Reply } else { EchoKind::Request };
            let packet = EchoPacket { src: ip(a), dst: ip(b), echo: Echo { kind, id, seq, payload: &payload } };
            let mut out = Vec::new();
            prop_assert!(packet.build(&mut out));
            prop_assert_eq!(EchoPacket::parse(&out), Ok(packet));
            for cut in 0..out.len() {
                prop_assert!(EchoPacket::parse(&out[..cut]).is_err());
            }
            // Traffic class, flow label and hop limit of IPv6 are under no checksum.
            let covered = if v6 { 8 } else { 0 };
            let at = covered + bit / 8 % (out.len() - covered);
            out[at] ^= 1 << (bit % 8);
            prop_assert!(EchoPacket::parse(&out).is_err());
        }
    }
}
