//! The IPv4 way out, by rtnetlink(7): which gateway a packet to elsewhere would take, and from which address.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;

use rustix::net::{SendFlags, send};

use super::netlink::{HEADER, NLM_F_REQUEST, NLMSG_ERROR, attributes, ip, message, open, u32_at};
use crate::io::sys;
use crate::wire::pcp;

/// Numbers of linux/rtnetlink.h.
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
/// struct rtmsg.
const BODY: usize = 12;
/// An answer is some hundred bytes.
const ROOM: usize = 4_096;

/// The gateway that packets of this host leave by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gateway {
    pub address: Ipv4Addr,
    /// Our own address on the way to it.
    pub source: Ipv4Addr,
    /// The system's index of the interface.
    pub interface: u32,
}

/// `None`: there is no IPv4 route to elsewhere, or it leads straight out, without a gateway. The system's policy rules count. Errors: the
/// kernel's.
pub fn gateway() -> io::Result<Option<Gateway>> {
    let socket = open()?;
    ask(&socket)?;
    let mut room = [0; ROOM];
    let n = sys::read(&socket, &mut room)?;
    Ok(message(room.get(..n).unwrap_or_default()).and_then(|(ty, body, _)| match ty {
        RTM_NEWROUTE => read(body),
        // Most likely "network unreachable": there is no route.
        NLMSG_ERROR => None,
        _ => None,
    }))
}

fn ask(socket: &OwnedFd) -> io::Result<()> {
    let mut request = Vec::with_capacity(HEADER + BODY + 8);
    request.extend_from_slice(&((HEADER + BODY + 8) as u32).to_ne_bytes());
    request.extend_from_slice(&RTM_GETROUTE.to_ne_bytes());
    request.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    request.extend_from_slice(&[0; 8]);
    // struct rtmsg: family, destination's prefix length, and zeros.
    request.extend_from_slice(&[libc::AF_INET as u8, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    // The address that stands for whoever maps ports: nothing is sent to it.
    request.extend_from_slice(&8u16.to_ne_bytes());
    request.extend_from_slice(&RTA_DST.to_ne_bytes());
    request.extend_from_slice(&pcp::ANYCAST.octets());
    send(socket, &request, SendFlags::empty())?;
    Ok(())
}

fn read(body: &[u8]) -> Option<Gateway> {
    let family = *body.first()?;
    let (mut address, mut source, mut interface) = (None, None, None);
    for (ty, value) in attributes(body.get(BODY..)?) {
        let v4 = || match ip(family, value)? {
            IpAddr::V4(v4) => Some(v4),
            IpAddr::V6(_) => None,
        };
        match ty {
            RTA_GATEWAY => address = v4(),
            RTA_PREFSRC => source = v4(),
            RTA_OIF => interface = u32_at(value, 0),
            _ => {}
        }
    }
    Some(Gateway { address: address?, source: source?, interface: interface? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(ty: u16, value: [u8; 4]) -> Vec<u8> {
        [&8u16.to_ne_bytes()[..], &ty.to_ne_bytes(), &value].concat()
    }

    fn route(attributes: &[(u16, [u8; 4])]) -> Vec<u8> {
        let mut body = vec![libc::AF_INET as u8, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        attributes.iter().for_each(|(ty, value)| body.extend(attribute(*ty, *value)));
        body
    }

    #[test]
    fn a_route_is_read_with_its_gateway_its_source_and_its_interface() {
        let all = [(RTA_OIF, 3u32.to_ne_bytes()), (RTA_PREFSRC, [192, 168, 1, 10]), (RTA_GATEWAY, [192, 168, 1, 1])];
        let whole = route(&all);
        let found = Gateway { address: [192, 168, 1, 1].into(), source: [192, 168, 1, 10].into(), interface: 3 };
        assert_eq!(read(&whole), Some(found));
        assert!((0..whole.len()).all(|n| read(&whole[..n]).is_none()));
    }

    #[test]
    fn a_route_without_a_gateway_leads_to_nobody_who_maps_ports() {
        assert_eq!(read(&route(&[(RTA_OIF, 3u32.to_ne_bytes()), (RTA_PREFSRC, [10, 0, 0, 1])])), None);
    }

    #[test]
    fn the_system_is_asked_without_an_error_whatever_its_routes_are() {
        gateway().unwrap();
    }
}
