//! `IP Version (8), IP Address (32 or 128), UDP Port (16)`: how the bind draft, and our capsules after it, write an address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::error::DecodeError;
use super::reader::Reader;

const VERSION: &str = "IP version";

pub(crate) fn encode(addr: SocketAddr, out: &mut Vec<u8>) {
    match addr.ip() {
        IpAddr::V4(ip) => {
            out.push(4);
            out.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(6);
            out.extend_from_slice(&ip.octets());
        }
    }
    out.extend_from_slice(&addr.port().to_be_bytes());
}

/// Reads an address; version 0, which has no address, is for [`decode_optional`] only.
pub(crate) fn decode(r: &mut Reader<'_>) -> Result<SocketAddr, DecodeError> {
    decode_optional(r)?.ok_or_else(|| DecodeError::invalid(VERSION, 0, "4 or 6"))
}

/// Reads an address, or `None` for IP version 0.
pub(crate) fn decode_optional(r: &mut Reader<'_>) -> Result<Option<SocketAddr>, DecodeError> {
    let cut = || DecodeError::truncated("IP address and port");
    let ip = match r.u8().ok_or_else(|| DecodeError::truncated(VERSION))? {
        0 => return Ok(None),
        4 => IpAddr::V4(Ipv4Addr::from(r.array::<4>().ok_or_else(cut)?)),
        6 => IpAddr::V6(Ipv6Addr::from(r.array::<16>().ok_or_else(cut)?)),
        other => return Err(DecodeError::invalid(VERSION, other, "0 (where no address is meant), 4 or 6")),
    };
    Ok(Some(SocketAddr::new(ip, r.u16().ok_or_else(cut)?)))
}
