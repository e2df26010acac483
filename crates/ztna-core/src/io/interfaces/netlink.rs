//! Links and addresses by rtnetlink(7): of the loop's own network namespace, unlike /sys, and with what each link is made of.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, bind, send, socket_with};

use crate::interface::{Interface, InterfaceKind};
use crate::io::sys;

/// Message types and flags of linux/netlink.h and linux/rtnetlink.h.
pub(super) const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
pub(super) const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP: u16 = 0x300;
pub(super) const HEADER: usize = 16;
/// Attributes of linux/if_link.h and linux/if_addr.h.
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_TEMPORARY: u32 = 0x01;
const IFA_F_OPTIMISTIC: u32 = 0x04;
const IFA_F_DADFAILED: u32 = 0x08;
const IFA_F_DEPRECATED: u32 = 0x20;
const IFA_F_TENTATIVE: u32 = 0x40;

/// Room for one read, bytes: the kernel fills no more than 32 KB of a dump at once.
const ROOM: usize = 65_536;
/// The kernel answers from memory. Longer, and it won't.
const PATIENCE: Duration = Duration::from_secs(1);

/// Kinds of link that lead into another network over this one: other VPNs.
const TUNNELS: &[&str] = &[
    "tun",
    "wireguard",
    "amneziawg",
    "ovpn",
    "ppp",
    "ipip",
    "sit",
    "ip6tnl",
    "gre",
    "gretap",
    "ip6gre",
    "ip6gretap",
    "erspan",
    "vti",
    "vti6",
    "xfrm",
    "vxlan",
    "geneve",
];
/// Kinds of link behind which nobody is.
const NOWHERE: &[&str] = &["dummy", "ifb", "nlmon", "vrf"];
/// Kinds of link by which guests of this host are attached to a bridge.
const GUESTS: &[&str] = &["veth", "tun", "macvtap"];

/// Every address that may be sent from. Errors: the kernel's, or no whole answer.
pub(super) fn interfaces() -> io::Result<Vec<Interface>> {
    let socket = open()?;
    let mut links = BTreeMap::new();
    // struct ifinfomsg and struct ifaddrmsg, of any family.
    dump(&socket, RTM_GETLINK, &[0; 16], |ty, body| {
        if ty == RTM_NEWLINK
            && let Some((index, link)) = link(body)
        {
            links.insert(index, link);
        }
    })?;
    let mut found = Vec::new();
    dump(&socket, RTM_GETADDR, &[0; 8], |ty, body| {
        if ty == RTM_NEWADDR {
            found.extend(interface(body, &links));
        }
    })?;
    Ok(found)
}

/// A socket to ask the kernel by. Protocol 0 of this family is NETLINK_ROUTE.
pub(super) fn open() -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    Ok(socket)
}

/// A link as far as it matters here.
#[derive(Debug, Clone, Default)]
struct Link {
    name: String,
    flags: u32,
    /// The bridge or bond that it is a port of.
    master: Option<u32>,
    /// What it is made of, `None` for hardware and loopback.
    kind: Option<String>,
    /// What its master is made of.
    master_kind: Option<String>,
}

fn link(body: &[u8]) -> Option<(u32, Link)> {
    // struct ifinfomsg: family, padding, hardware type, index, flags, changed flags.
    let (index, flags) = (u32_at(body, 4)?, u32_at(body, 8)?);
    let mut link = Link { flags, ..Link::default() };
    for (ty, value) in attributes(body.get(16..)?) {
        match ty {
            IFLA_IFNAME => link.name = text(value),
            IFLA_MASTER => link.master = u32_at(value, 0),
            IFLA_LINKINFO => {
                for (ty, value) in attributes(value) {
                    match ty {
                        IFLA_INFO_KIND => link.kind = Some(text(value)),
                        IFLA_INFO_SLAVE_KIND => link.master_kind = Some(text(value)),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some((index, link))
}

/// `None`: an address that can't be sent from now.
fn interface(body: &[u8], links: &BTreeMap<u32, Link>) -> Option<Interface> {
    // struct ifaddrmsg: family, prefix length, flags, scope, index.
    let (family, prefix_len, index) = (*body.first()?, *body.get(1)?, u32_at(body, 4)?);
    let mut flags = u32::from(*body.get(2)?);
    let (mut local, mut address) = (None, None);
    for (ty, value) in attributes(body.get(8..)?) {
        match ty {
            IFA_LOCAL => local = ip(family, value),
            // The far end's on a link that is point to point.
            IFA_ADDRESS => address = ip(family, value),
            IFA_FLAGS => flags = u32_at(value, 0)?,
            _ => {}
        }
    }
    let (address, link) = (local.or(address)?, links.get(&index)?);
    let running = (libc::IFF_UP | libc::IFF_RUNNING) as u32;
    let unknown = flags & IFA_F_TENTATIVE != 0 && flags & IFA_F_OPTIMISTIC == 0;
    if link.flags & running != running || unknown || flags & IFA_F_DADFAILED != 0 {
        return None;
    }
    let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    Some(Interface {
        index,
        name: link.name.clone(),
        address,
        prefix_len,
        scope_id: if link_local { index } else { 0 },
        kind: kind_of(index, link, links),
        // The same bit says "secondary" of an IPv4 address.
        temporary: address.is_ipv6() && flags & IFA_F_TEMPORARY != 0,
        deprecated: flags & IFA_F_DEPRECATED != 0,
    })
}

fn kind_of(index: u32, link: &Link, links: &BTreeMap<u32, Link>) -> InterfaceKind {
    let has = |flag: libc::c_int| link.flags & flag as u32 != 0;
    let among = |kind: &Option<String>, list: &[&str]| kind.as_deref().is_some_and(|k| list.contains(&k));
    if has(libc::IFF_LOOPBACK) {
        return InterfaceKind::Loopback;
    }
    if among(&link.master_kind, &["bridge"]) || among(&link.kind, NOWHERE) {
        return InterfaceKind::Virtual;
    }
    if among(&link.kind, &["bridge"]) {
        // One with hardware (or a bond, or a VLAN) in it is the host's own way out.
        let mut ports = links.values().filter(|port| port.master == Some(index));
        let leads_out = ports.any(|port| !among(&port.kind, GUESTS) && !among(&port.kind, NOWHERE));
        return if leads_out { InterfaceKind::Ordinary } else { InterfaceKind::Virtual };
    }
    // A container's way out is a veth.
    if among(&link.kind, TUNNELS) || has(libc::IFF_POINTOPOINT) {
        InterfaceKind::Tunnel
    } else {
        InterfaceKind::Ordinary
    }
}

pub(super) fn ip(family: u8, value: &[u8]) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => Some(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?).into()),
        libc::AF_INET6 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?).into()),
        _ => None,
    }
}

/// Asks for all of a kind and feeds each message, type and body, to `each`.
fn dump(socket: &OwnedFd, ty: u16, body: &[u8], mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
    let mut request = Vec::with_capacity(HEADER + body.len());
    // struct nlmsghdr: length, type, flags, sequence number, port.
    request.extend_from_slice(&((HEADER + body.len()) as u32).to_ne_bytes());
    request.extend_from_slice(&ty.to_ne_bytes());
    request.extend_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    request.extend_from_slice(&u32::from(ty).to_ne_bytes());
    request.extend_from_slice(&[0; 4]);
    request.extend_from_slice(body);
    send(socket, &request, SendFlags::empty())?;
    let mut room = vec![0; ROOM];
    loop {
        let n = sys::read(socket, &mut room)?;
        let mut rest = room.get(..n).unwrap_or_default();
        if rest.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while let Some((ty, body, next)) = message(rest) {
            match ty {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let code = u32_at(body, 0).map_or(0, |code| (code as i32).wrapping_neg());
                    return Err(io::Error::from_raw_os_error(code));
                }
                ty => each(ty, body),
            }
            rest = next;
        }
    }
}

/// Type and body of the first message, and what follows it.
pub(super) fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let len = usize::try_from(u32_at(bytes, 0)?).ok()?;
    let ty = u16_at(bytes, 4)?;
    let body = bytes.get(HEADER..len)?;
    Some((ty, body, bytes.get(len.next_multiple_of(4)..).unwrap_or_default()))
}

/// Type and value of each attribute, as far as they are whole.
pub(super) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    /// The two flags above a type: nested, network byte order.
    const TYPE: u16 = 0x3fff;
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(rest, 0)?);
        let (ty, value) = (u16_at(rest, 2)? & TYPE, rest.get(4..len)?);
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((ty, value))
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|b| u16::from_ne_bytes(*b))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_ne_bytes(*b))
}

/// Text up to its zero byte.
fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: u32 = 0x41;

    fn made_of(kind: Option<&str>, master: Option<u32>) -> Link {
        let master_kind = master.map(|_| "bridge".to_owned());
        Link { name: "x".into(), flags: UP, master, kind: kind.map(str::to_owned), master_kind }
    }

    fn kind(links: &[Link]) -> InterfaceKind {
        let all: BTreeMap<u32, Link> = (1..).zip(links.iter().cloned()).collect();
        kind_of(1, &links[0], &all)
    }

    #[test]
    fn a_link_is_what_it_is_made_of() {
        assert_eq!(kind(&[made_of(None, None)]), InterfaceKind::Ordinary);
        for (name, expected) in [
            ("veth", InterfaceKind::Ordinary),
            ("bond", InterfaceKind::Ordinary),
            ("vlan", InterfaceKind::Ordinary),
            ("wireguard", InterfaceKind::Tunnel),
            ("tun", InterfaceKind::Tunnel),
            ("dummy", InterfaceKind::Virtual),
        ] {
            assert_eq!(kind(&[made_of(Some(name), None)]), expected, "{name}");
        }
        let serial = Link { flags: UP | libc::IFF_POINTOPOINT as u32, ..made_of(None, None) };
        assert_eq!(kind(&[serial]), InterfaceKind::Tunnel);
    }

    #[test]
    fn a_bridge_is_ordinary_only_with_a_way_out_in_it() {
        let bridge = || made_of(Some("bridge"), None);
        assert_eq!(kind(&[bridge()]), InterfaceKind::Virtual);
        assert_eq!(kind(&[bridge(), made_of(Some("veth"), Some(1)), made_of(None, Some(9))]), InterfaceKind::Virtual);
        assert_eq!(kind(&[bridge(), made_of(Some("veth"), Some(1)), made_of(None, Some(1))]), InterfaceKind::Ordinary);
        assert_eq!(kind(&[made_of(None, Some(2)), bridge()]), InterfaceKind::Virtual);
    }

    #[test]
    fn a_cut_or_misshapen_answer_gives_nothing_and_harms_nothing() {
        let mut whole = 24u32.to_ne_bytes().to_vec();
        whole.extend_from_slice(&[0; 20]);
        assert!(message(&whole).is_some());
        assert!((0..whole.len()).all(|cut| message(&whole[..cut]).is_none()));
        assert!(message(&[0; 24]).is_none(), "shorter than its own header");
        assert_eq!(attributes(&[3, 0, 1, 0, 9]).count(), 0);
        assert!(link(&[0; 15]).is_none() && interface(&[0; 7], &BTreeMap::new()).is_none());
    }
}
