//! ICMP "too big" for a packet that does not fit (RFC 792 type 3 code 4 with RFC 1191's next-hop MTU; RFC 4443 §3.2).

use crate::checksum::{fold, put, sum};

/// The message to send back for `packet`, or `None` when it is not one that may be answered: no IP, IPv4 without DF
/// (a router would fragment it; this wire drops it), or an ICMP message itself (RFC 1122 §3.2.2 forbids answering those).
pub fn too_big(packet: &[u8], mtu: u16) -> Option<Vec<u8>> {
    match packet.first()? >> 4 {
        4 => v4(packet, mtu),
        6 => v6(packet, mtu),
        _ => None,
    }
}

fn v4(packet: &[u8], mtu: u16) -> Option<Vec<u8>> {
    const DF: u8 = 0x40;
    const ICMP: u8 = 1;
    let header = packet.get(..20)?;
    let header_len = usize::from(header.first()? & 0x0f) * 4;
    if header.get(6)? & DF == 0 || *header.get(9)? == ICMP {
        return None;
    }
    // RFC 792: the header and the first 64 bits of the payload.
    let quoted = packet.get(..header_len + 8)?;
    let mut icmp = vec![3, 4, 0, 0, 0, 0];
    icmp.extend_from_slice(&mtu.to_be_bytes());
    icmp.extend_from_slice(quoted);
    let checksum = !fold(sum(&icmp));
    put(&mut icmp, 2, checksum);

    let mut out = vec![0x45, 0];
    out.extend_from_slice(&u16::try_from(20 + icmp.len()).ok()?.to_be_bytes());
    out.extend_from_slice(&[0, 0, 0, 0, 64, ICMP, 0, 0]);
    // The wire has no address of its own: the answer carries the one that could not be reached.
    out.extend_from_slice(packet.get(16..20)?);
    out.extend_from_slice(packet.get(12..16)?);
    let checksum = !fold(sum(&out));
    put(&mut out, 10, checksum);
    out.extend_from_slice(&icmp);
    Some(out)
}

fn v6(packet: &[u8], mtu: u16) -> Option<Vec<u8>> {
    const ICMPV6: u8 = 58;
    packet.get(..40)?;
    if *packet.get(6)? == ICMPV6 {
        return None;
    }
    // RFC 4443: as much as fits into the minimum MTU of 1280.
    let quoted = packet.get(..packet.len().min(1280 - 48))?;
    let mut icmp = vec![2, 0, 0, 0];
    icmp.extend_from_slice(&u32::from(mtu).to_be_bytes());
    icmp.extend_from_slice(quoted);
    let (source, destination) = (packet.get(24..40)?, packet.get(8..24)?);
    let length = u16::try_from(icmp.len()).ok()?;
    let pseudo = sum(source) + sum(destination) + u32::from(length) + u32::from(ICMPV6);
    let checksum = !fold(sum(&icmp) + pseudo);
    put(&mut icmp, 2, checksum);

    let mut out = vec![0x60, 0, 0, 0];
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&[ICMPV6, 64]);
    out.extend_from_slice(source);
    out.extend_from_slice(destination);
    out.extend_from_slice(&icmp);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp_v4(len: usize, flags: u8) -> Vec<u8> {
        let mut packet = vec![0; len];
        packet[0] = 0x45;
        packet[6] = flags;
        packet[9] = 17;
        packet[12..16].copy_from_slice(&[10, 0, 0, 1]);
        packet[16..20].copy_from_slice(&[10, 0, 0, 2]);
        packet
    }

    #[test]
    fn a_v4_packet_with_df_is_answered_with_the_mtu_and_valid_checksums() {
        let answer = too_big(&udp_v4(1400, 0x40), 1280).unwrap();
        assert_eq!(&answer[12..20], &[10, 0, 0, 2, 10, 0, 0, 1]);
        assert_eq!(&answer[20..22], &[3, 4]);
        assert_eq!(u16::from_be_bytes([answer[26], answer[27]]), 1280);
        assert_eq!(fold(sum(&answer[..20])), 0xffff);
        assert_eq!(fold(sum(&answer[20..])), 0xffff);
    }

    #[test]
    fn a_v4_packet_without_df_is_not_answered() {
        assert_eq!(too_big(&udp_v4(1400, 0), 1280), None);
    }

    #[test]
    fn an_icmp_message_is_not_answered() {
        let mut packet = udp_v4(1400, 0x40);
        packet[9] = 1;
        assert_eq!(too_big(&packet, 1280), None);
    }

    #[test]
    fn a_v6_packet_is_answered_within_the_minimum_mtu() {
        let mut packet = vec![0; 1400];
        packet[0] = 0x60;
        packet[6] = 17;
        packet[23] = 1;
        packet[39] = 2;
        let answer = too_big(&packet, 1280).unwrap();
        assert_eq!(answer.len(), 1280);
        assert_eq!((answer[23], answer[39]), (2, 1));
        assert_eq!(answer[40], 2);
        let pseudo = sum(&answer[8..40]) + 1240 + 58;
        assert_eq!(fold(sum(&answer[40..]) + pseudo), 0xffff);
    }

    #[test]
    fn bytes_that_are_no_packet_are_not_answered() {
        assert_eq!(too_big(&[], 1280), None);
        assert_eq!(too_big(&[0x4f; 30], 1280), None);
        assert_eq!(too_big(&[0x60; 10], 1280), None);
        assert_eq!(too_big(&[0x10; 1400], 1280), None);
    }
}
