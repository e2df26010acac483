//! Which end of a port burst is which, by what is known of the two NATs.

use std::net::{IpAddr, SocketAddr};

use crate::path::candidate::{Candidate, CandidateKind, permit};
use crate::path::nat::{Mapping, is_hard};

/// This end's part in a burst, by both NATs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Opens ports to the easy end's address.
    Hard(SocketAddr),
    /// Guesses ports of the hard end's address.
    Easy(IpAddr),
}

/// Both NATs, as far as they are known.
#[derive(Debug, Default)]
pub struct Sides {
    local: Mapping,
    remote: Mapping,
    /// The other end's address on the Internet.
    address: Option<SocketAddr>,
}

impl Sides {
    /// What our NAT was found to do.
    pub fn set_local(&mut self, mapping: Mapping) {
        self.local = mapping;
    }

    /// What the other end says of its NAT, and all its addresses.
    pub fn set_remote(&mut self, mapping: Mapping, candidates: &[Candidate]) {
        self.remote = mapping;
        let wanted = |kind| {
            let mut of_kind = candidates.iter().filter(move |c| c.kind == kind).map(|c| c.address);
            of_kind.find(|a| permit(*a).is_ok() && is_public_v4(a.ip()))
        };
        self.address = wanted(CandidateKind::ServerReflexive)
            .or_else(|| wanted(CandidateKind::Host).filter(|_| mapping == Mapping::None));
    }

    /// `None`: no burst would help, as far as is known.
    pub fn part(&self) -> Option<Part> {
        let easy = |m: Mapping| match m {
            Mapping::None | Mapping::EndpointIndependent => true,
            Mapping::Unknown | Mapping::AddressDependent | Mapping::AddressAndPortDependent => false,
        };
        let address = self.address?;
        if is_hard(self.local) && easy(self.remote) {
            Some(Part::Hard(address))
        } else if easy(self.local) && is_hard(self.remote) {
            Some(Part::Easy(address.ip()))
        } else {
            None
        }
    }
}

/// Not of a network's inside: a burst there would be a scan of our own hosts (RFC 1918, RFC 6598).
fn is_public_v4(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, _, _] = ip.octets();
            !(ip.is_private() || a == 100 && (64..128).contains(&b))
        }
        IpAddr::V6(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(kind: CandidateKind, text: &str) -> Candidate {
        Candidate { kind, address: text.parse().unwrap() }
    }

    fn srflx(text: &str) -> Candidate {
        named(CandidateKind::ServerReflexive, text)
    }

    fn part(local: Mapping, remote: Mapping, candidates: &[Candidate]) -> Option<Part> {
        let mut sides = Sides::default();
        sides.set_local(local);
        sides.set_remote(remote, candidates);
        sides.part()
    }

    #[test]
    fn the_end_whose_nat_gives_each_destination_another_port_opens_and_the_other_one_guesses() {
        let named = [srflx("203.0.113.5:700")];
        let (easy, to) = (Mapping::EndpointIndependent, "203.0.113.5:700".parse().unwrap());
        for hard in [Mapping::AddressDependent, Mapping::AddressAndPortDependent] {
            assert_eq!(part(hard, easy, &named), Some(Part::Hard(to)));
            assert_eq!(part(easy, hard, &named), Some(Part::Easy(to.ip())));
            assert_eq!(part(Mapping::None, hard, &named), Some(Part::Easy(to.ip())));
        }
    }

    #[test]
    fn two_hard_ends_two_easy_ones_and_unknown_ones_have_no_part() {
        use Mapping::{AddressAndPortDependent as Apdm, AddressDependent as Adm, EndpointIndependent as Eim};
        let named = [srflx("203.0.113.5:700")];
        for (local, remote) in [(Apdm, Apdm), (Adm, Apdm), (Eim, Eim), (Eim, Mapping::None)] {
            assert_eq!(part(local, remote, &named), None, "{local:?} {remote:?}");
        }
        for known in [Apdm, Adm, Eim, Mapping::None] {
            assert_eq!(part(known, Mapping::Unknown, &named), None);
            assert_eq!(part(Mapping::Unknown, known, &named), None);
        }
    }

    #[test]
    fn no_burst_goes_into_a_network_or_to_what_is_no_host_of_a_peer() {
        for to in ["192.168.1.10:7", "10.0.0.1:7", "172.16.3.4:7", "100.64.0.1:7", "127.0.0.1:7", "[2001:db8::1]:7"] {
            assert_eq!(part(Mapping::AddressDependent, Mapping::EndpointIndependent, &[srflx(to)]), None, "{to}");
        }
    }

    #[test]
    fn an_interface_on_the_internet_counts_where_there_is_no_nat_and_only_there() {
        let own = [named(CandidateKind::Host, "192.168.1.10:7"), named(CandidateKind::Host, "203.0.113.5:7")];
        let to = "203.0.113.5:7".parse().unwrap();
        assert_eq!(part(Mapping::AddressDependent, Mapping::None, &own), Some(Part::Hard(to)));
        assert_eq!(part(Mapping::AddressDependent, Mapping::EndpointIndependent, &own), None);
    }
}
