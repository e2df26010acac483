//! Port Control Protocol (RFC 6887), the client's side of its MAP opcode for UDP over IPv4.
//!
//! Left out: PEER, ANNOUNCE, all options (none is needed for a mapping of our own), IPv6 (there is no address to map there, only a
//! firewall to open).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};

use super::error::DecodeError;
use super::reader::Reader;

/// Where servers listen, UDP (RFC 6887 §19.1). NAT-PMP's is the same.
pub const SERVER_PORT: u16 = 5351;
/// The address that stands for "the PCP server nearest by" (RFC 7723 §2): the route to it leads through the gateway that maps us.
pub const ANYCAST: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 9);
/// Length of a MAP request without options, and of its answer, bytes (RFC 6887 §7.1, §11.1).
pub const MAP_LEN: usize = 60;

const VERSION: u8 = 2;
const MAP: u8 = 1;
const RESPONSE: u8 = 0x80;
const UDP: u8 = 17;
/// RFC 6887 §7: the longest message; lengths are multiples of four.
const MESSAGE_MAX: usize = 1_100;
const HEADER_LEN: usize = 24;

/// Ties an answer, and every renewal and removal, to the request that made a mapping (RFC 6887 §11.1). Random.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nonce(pub [u8; 12]);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapRequest {
    /// Our own address, which must be the packet's source.
    pub client: Ipv4Addr,
    pub nonce: Nonce,
    pub internal_port: u16,
    /// The external address and port that we would like; unspecified and 0: any.
    pub suggested: SocketAddrV4,
    /// Seconds. 0 removes the mapping.
    pub lifetime: u32,
}

impl MapRequest {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(MAP_LEN);
        out.extend_from_slice(&[VERSION, MAP, 0, 0]);
        out.extend_from_slice(&self.lifetime.to_be_bytes());
        out.extend_from_slice(&self.client.to_ipv6_mapped().octets());
        out.extend_from_slice(&self.nonce.0);
        out.extend_from_slice(&[UDP, 0, 0, 0]);
        out.extend_from_slice(&self.internal_port.to_be_bytes());
        out.extend_from_slice(&self.suggested.port().to_be_bytes());
        out.extend_from_slice(&self.suggested.ip().to_ipv6_mapped().octets());
        out
    }
}

/// What a server said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Mapped(MapAnswer),
    Refused {
        nonce: Nonce,
        result: u8,
    },
    /// It knows another version only (RFC 6887 §9): 0 is NAT-PMP.
    OtherVersion(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapAnswer {
    pub nonce: Nonce,
    pub internal_port: u16,
    pub external: SocketAddrV4,
    /// Seconds.
    pub lifetime: u32,
}

/// Reads a server's answer to a MAP request for UDP. Errors: anything else.
pub fn parse(message: &[u8]) -> Result<Answer, DecodeError> {
    const WHAT: &str = "PCP answer";
    let cut = || DecodeError::truncated(WHAT);
    if message.len() > MESSAGE_MAX {
        return Err(DecodeError::too_long(WHAT, message.len(), MESSAGE_MAX));
    }
    let mut r = Reader::new(message);
    let (version, opcode) = (r.u8().ok_or_else(cut)?, r.u8().ok_or_else(cut)?);
    if opcode & RESPONSE == 0 {
        return Err(DecodeError::invalid("PCP opcode", opcode, "a response"));
    }
    let (_, result) = (r.u8().ok_or_else(cut)?, r.u8().ok_or_else(cut)?);
    /// RFC 6887 §7.4.
    const UNSUPPORTED_VERSION: u8 = 1;
    if version != VERSION || result == UNSUPPORTED_VERSION {
        return Ok(Answer::OtherVersion(version));
    }
    if opcode != RESPONSE | MAP {
        return Err(DecodeError::invalid("PCP opcode", opcode, "the response to MAP"));
    }
    let lifetime = r.u32().ok_or_else(cut)?;
    // Epoch and reserved bytes: a renewal shows more surely than the epoch that a server has forgotten us.
    r.take(HEADER_LEN - 8).ok_or_else(cut)?;
    let nonce = Nonce(r.array().ok_or_else(cut)?);
    let protocol = r.u8().ok_or_else(cut)?;
    if protocol != UDP {
        return Err(DecodeError::invalid("PCP protocol", protocol, "17"));
    }
    r.take(3).ok_or_else(cut)?;
    let internal_port = r.u16().ok_or_else(cut)?;
    let port = r.u16().ok_or_else(cut)?;
    let address = Ipv6Addr::from(r.array::<16>().ok_or_else(cut)?);
    if result != 0 {
        return Ok(Answer::Refused { nonce, result });
    }
    let address = address
        .to_ipv4_mapped()
        .ok_or_else(|| DecodeError::invalid("PCP external address", address, "an IPv4-mapped address"))?;
    Ok(Answer::Mapped(MapAnswer { nonce, internal_port, external: SocketAddrV4::new(address, port), lifetime }))
}

/// Result codes in words (RFC 6887 §7.4).
pub fn describe(result: u8) -> &'static str {
    match result {
        0 => "success",
        1 => "it does not support this version",
        2 => "it does not let this host map ports",
        3 => "it calls the request malformed",
        4 => "it does not support this opcode",
        5 => "it does not support this option",
        6 => "it calls an option malformed",
        7 => "its own network has failed: it has no public address, or none yet",
        8 => "it has no resources left",
        9 => "it does not map UDP",
        10 => "this host has as many mappings as it may",
        11 => "it can't give the address asked for",
        12 => "it sees this host under another address: there is a NAT in between",
        13 => "it can't exclude as many peers",
        _ => "it refuses for a reason of its own",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: Nonce = Nonce([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);

    fn answer(result: u8) -> Vec<u8> {
        let mut m = vec![2, 0x81, 0, result];
        m.extend_from_slice(&1_200u32.to_be_bytes());
        m.extend_from_slice(&77u32.to_be_bytes());
        m.extend_from_slice(&[0; 12]);
        m.extend_from_slice(&NONCE.0);
        m.extend_from_slice(&[17, 0, 0, 0]);
        m.extend_from_slice(&5_000u16.to_be_bytes());
        m.extend_from_slice(&6_000u16.to_be_bytes());
        m.extend_from_slice(&Ipv4Addr::new(203, 0, 113, 7).to_ipv6_mapped().octets());
        m
    }

    #[test]
    fn a_request_is_laid_out_as_the_rfc_draws_it() {
        let request = MapRequest {
            client: Ipv4Addr::new(192, 168, 1, 10),
            nonce: NONCE,
            internal_port: 0x1234,
            suggested: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0x5678),
            lifetime: 1_200,
        };
        let m = request.encode();
        assert_eq!(m.len(), MAP_LEN);
        assert_eq!(m[..8], [2, 1, 0, 0, 0, 0, 4, 0xb0]);
        assert_eq!(m[8..24], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 168, 1, 10]);
        assert_eq!(m[24..36], NONCE.0);
        assert_eq!(m[36..44], [17, 0, 0, 0, 0x12, 0x34, 0x56, 0x78]);
        assert_eq!(m[44..], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0]);
    }

    #[test]
    fn a_mapping_is_read_with_what_ties_it_to_its_request() {
        let external = "203.0.113.7:6000".parse().unwrap();
        let mapped = MapAnswer { nonce: NONCE, internal_port: 5_000, external, lifetime: 1_200 };
        assert_eq!(parse(&answer(0)), Ok(Answer::Mapped(mapped)));
    }

    #[test]
    fn a_refusal_keeps_its_reason_and_its_nonce() {
        assert_eq!(parse(&answer(2)), Ok(Answer::Refused { nonce: NONCE, result: 2 }));
    }

    #[test]
    fn a_server_of_nat_pmp_alone_is_known_by_its_version() {
        assert_eq!(parse(&[0, 0x81, 0, 1, 0, 0, 0, 9]), Ok(Answer::OtherVersion(0)));
        assert_eq!(parse(&answer(1)), Ok(Answer::OtherVersion(2)));
    }

    #[test]
    fn what_is_cut_or_no_answer_to_map_is_refused() {
        let whole = answer(0);
        assert!((0..whole.len()).all(|n| parse(&whole[..n]).is_err()));
        for (at, value) in [(1, 1), (1, 0x82), (36, 6)] {
            let mut m = whole.clone();
            m[at] = value;
            assert!(parse(&m).is_err(), "byte {at}");
        }
        let mut v6 = whole;
        v6[44] = 0x20;
        assert!(parse(&v6).is_err());
    }
}
