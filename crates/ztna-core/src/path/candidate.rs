//! Which addresses an end offers its peer, and which of the peer's it is willing to send to (RFC 8445 §5.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub use crate::wire::path_signal::{Candidate, CandidateKind, MAX_CANDIDATES};

/// Discard-only (RFC 6666): what quiche sees as the ends of inner connections. Nothing lives there.
const DISCARD: (Ipv6Addr, u32) = (Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 64);

/// Why an address of a peer's is never sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Loopback, unspecified, multicast, broadcast, reserved, or port 0: no peer is there.
    NoUnicast,
    /// Means another host on each link, and the peer can't say which link it speaks of.
    LinkLocal,
    /// Within the tunnel itself.
    Tunnel,
}

impl Refused {
    pub fn as_str(self) -> &'static str {
        match self {
            Refused::NoUnicast => "not a unicast address that a peer can have",
            Refused::LinkLocal => "a link-local address, which says nothing without its link",
            Refused::Tunnel => "an address of the tunnel itself",
        }
    }
}

/// Whether a check may go to an address that a peer, who may be hostile, has named.
pub fn permit(address: SocketAddr) -> Result<(), Refused> {
    if address.port() == 0 {
        return Err(Refused::NoUnicast);
    }
    match address.ip() {
        IpAddr::V4(ip) => permit_v4(ip),
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            // It would leave by an IPv4 socket as another address than was judged.
            Some(_) => Err(Refused::NoUnicast),
            None => permit_v6(ip),
        },
    }
}

fn permit_v4(ip: Ipv4Addr) -> Result<(), Refused> {
    // 0.0.0.0/8 (RFC 791 §3.2), 240.0.0.0/4 (RFC 1112 §4) with broadcast.
    let reserved = ip.octets().first().is_some_and(|first| *first == 0 || *first >= 240);
    if ip.is_loopback() || ip.is_multicast() || reserved {
        Err(Refused::NoUnicast)
    } else if ip.is_link_local() {
        Err(Refused::LinkLocal)
    } else {
        Ok(())
    }
}

fn permit_v6(ip: Ipv6Addr) -> Result<(), Refused> {
    let shift = 128 - DISCARD.1;
    if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() {
        Err(Refused::NoUnicast)
    } else if ip.is_unicast_link_local() {
        Err(Refused::LinkLocal)
    } else if u128::from(ip) >> shift == u128::from(DISCARD.0) >> shift {
        Err(Refused::Tunnel)
    } else {
        Ok(())
    }
}

/// What to offer: each address once and in a fixed order, so that equal sets compare equal, the likeliest first, never more
/// than a peer takes.
pub fn offer(mut candidates: Vec<Candidate>) -> Vec<Candidate> {
    candidates.retain(|c| permit(c.address).is_ok());
    candidates.sort_unstable_by_key(|c| (c.address, c.kind));
    candidates.dedup_by_key(|c| c.address);
    candidates.sort_unstable_by_key(|c| (order(c), c.address));
    candidates.truncate(MAX_CANDIDATES);
    candidates
}

/// In which order addresses are checked: what works nearly everywhere first, so that it is not behind sixteen that don't.
pub fn order(c: &Candidate) -> u8 {
    match (c.kind, c.address.is_ipv6()) {
        (CandidateKind::PortMapped, _) => 0,
        (CandidateKind::ServerReflexive, _) | (CandidateKind::Host, true) => 1,
        (CandidateKind::PeerReflexive, _) => 2,
        (CandidateKind::Host, false) => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn ordinary_private_and_global_addresses_are_sent_to() {
        for a in ["192.0.2.1:1", "10.1.2.3:4433", "100.64.0.9:9", "[2001:db8::1]:5", "[fd00::1]:65535"] {
            assert_eq!(permit(at(a)), Ok(()), "{a}");
        }
    }

    #[test]
    fn what_is_no_host_of_a_peer_is_refused() {
        for a in [
            "127.0.0.1:80",
            "0.0.0.0:1",
            "0.1.2.3:1",
            "224.0.0.1:5353",
            "255.255.255.255:9",
            "240.0.0.1:1",
            "192.0.2.1:0",
            "[::1]:80",
            "[::]:1",
            "[ff02::1]:1",
            "[::ffff:127.0.0.1]:80",
            "[::ffff:192.0.2.1]:80",
        ] {
            assert_eq!(permit(at(a)), Err(Refused::NoUnicast), "{a}");
        }
    }

    #[test]
    fn link_local_addresses_and_the_tunnels_own_are_refused() {
        assert_eq!(permit(at("169.254.1.1:1")), Err(Refused::LinkLocal));
        assert_eq!(permit(at("[fe80::1]:1")), Err(Refused::LinkLocal));
        assert_eq!(permit(at("[100::2]:2")), Err(Refused::Tunnel));
    }

    #[test]
    fn an_offer_holds_each_address_once_and_sixteen_at_most() {
        let host = |n: u8| Candidate { kind: CandidateKind::Host, address: SocketAddr::from(([10, 0, 0, n], 7)) };
        let seen = Candidate { kind: CandidateKind::ServerReflexive, address: host(1).address };
        let mut many: Vec<Candidate> = (1..40).map(host).collect();
        many.push(seen);
        many.push(Candidate { kind: CandidateKind::ServerReflexive, address: at("192.0.2.1:7") });
        let offered = offer(many);
        assert_eq!(offered.len(), MAX_CANDIDATES);
        assert_eq!(offered[0].address, at("192.0.2.1:7"), "the likeliest first");
        assert_eq!(offered.iter().filter(|c| c.address == seen.address).count(), 1);
    }
}
