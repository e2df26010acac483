//! NAT Port Mapping Protocol (RFC 6886), the client's side for UDP. Requests go to [`pcp::SERVER_PORT`](super::pcp::SERVER_PORT).

use std::net::Ipv4Addr;

use super::error::DecodeError;
use super::reader::Reader;

const VERSION: u8 = 0;
const EXTERNAL_ADDRESS: u8 = 0;
const MAP_UDP: u8 = 1;
const RESPONSE: u8 = 0x80;

/// Asks for the gateway's external address (RFC 6886 §3.2). It changes nothing.
pub fn external_address_request() -> Vec<u8> {
    vec![VERSION, EXTERNAL_ADDRESS]
}

/// Asks for a mapping (RFC 6886 §3.3). `suggested`: the external port that we would like. `lifetime`: seconds; 0, with a `suggested`
/// of 0, removes it.
pub fn map_request(internal_port: u16, suggested: u16, lifetime: u32) -> Vec<u8> {
    let mut out = vec![VERSION, MAP_UDP, 0, 0];
    out.extend_from_slice(&internal_port.to_be_bytes());
    out.extend_from_slice(&suggested.to_be_bytes());
    out.extend_from_slice(&lifetime.to_be_bytes());
    out
}

/// What a gateway said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    ExternalAddress(Ipv4Addr),
    Mapped {
        internal_port: u16,
        external_port: u16,
        /// Seconds.
        lifetime: u32,
    },
    Refused {
        result: u16,
    },
}

/// Reads a gateway's answer. Errors: anything but an answer to one of the two requests.
pub fn parse(message: &[u8]) -> Result<Answer, DecodeError> {
    let cut = || DecodeError::truncated("NAT-PMP answer");
    let mut r = Reader::new(message);
    let (version, opcode, result) = (r.u8().ok_or_else(cut)?, r.u8().ok_or_else(cut)?, r.u16().ok_or_else(cut)?);
    if version != VERSION {
        return Err(DecodeError::invalid("NAT-PMP version", version, "0"));
    }
    if opcode != RESPONSE | EXTERNAL_ADDRESS && opcode != RESPONSE | MAP_UDP {
        return Err(DecodeError::invalid("NAT-PMP opcode", opcode, "128 or 129"));
    }
    if result != 0 {
        return Ok(Answer::Refused { result });
    }
    // The gateway's epoch: a renewal shows more surely that it has forgotten us.
    r.u32().ok_or_else(cut)?;
    if opcode == RESPONSE | EXTERNAL_ADDRESS {
        return Ok(Answer::ExternalAddress(Ipv4Addr::from(r.array::<4>().ok_or_else(cut)?)));
    }
    Ok(Answer::Mapped {
        internal_port: r.u16().ok_or_else(cut)?,
        external_port: r.u16().ok_or_else(cut)?,
        lifetime: r.u32().ok_or_else(cut)?,
    })
}

/// Result codes in words (RFC 6886 §3.5).
pub fn describe(result: u16) -> &'static str {
    match result {
        0 => "success",
        1 => "it does not support this version",
        2 => "it does not let this host map ports",
        3 => "its own network has failed: it has no public address, or none yet",
        4 => "it has no resources left",
        5 => "it does not support this opcode",
        _ => "it refuses for a reason of its own",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPPED: [u8; 16] = [0, 129, 0, 0, 0, 0, 0, 9, 0x12, 0x34, 0x56, 0x78, 0, 0, 4, 0xb0];

    #[test]
    fn requests_are_laid_out_as_the_rfc_draws_them() {
        assert_eq!(external_address_request(), [0, 0]);
        assert_eq!(map_request(0x1234, 0x5678, 1_200), [0, 1, 0, 0, 0x12, 0x34, 0x56, 0x78, 0, 0, 4, 0xb0]);
    }

    #[test]
    fn address_and_mapping_are_read() {
        let address = [0, 128, 0, 0, 0, 0, 0, 9, 203, 0, 113, 7];
        assert_eq!(parse(&address), Ok(Answer::ExternalAddress(Ipv4Addr::new(203, 0, 113, 7))));
        let mapped = Answer::Mapped { internal_port: 0x1234, external_port: 0x5678, lifetime: 1_200 };
        assert_eq!(parse(&MAPPED), Ok(mapped));
    }

    #[test]
    fn a_refusal_keeps_its_reason() {
        assert_eq!(parse(&[0, 129, 0, 2]), Ok(Answer::Refused { result: 2 }));
    }

    #[test]
    fn what_is_cut_or_no_answer_of_udp_is_refused() {
        assert!((0..MAPPED.len()).all(|n| parse(&MAPPED[..n]).is_err()));
        assert!(parse(&[2, 129, 0, 0]).is_err() && parse(&[0, 1, 0, 0]).is_err() && parse(&[0, 130, 0, 0]).is_err());
    }
}
