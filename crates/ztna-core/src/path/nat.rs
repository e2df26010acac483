//! What a node's NAT does to its addresses (RFC 4787 §4.1), from how servers saw one socket of it (RFC 5780 §4.3).

use std::net::{IpAddr, SocketAddr};

pub use crate::wire::path_signal::Mapping;

/// How `server` saw our socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub server: SocketAddr,
    pub as_address: SocketAddr,
}

/// The mapping behaviour of one address family. `hosts`: addresses of our interfaces; `port`: the socket's own.
///
/// Two ports of one server tell address-and-port-dependent mappings from the rest, two servers the address-dependent ones. Where only
/// one address has answered on one port, a mapping that keeps address and port is no NAT, and any other is unknown. A difference is
/// proof; that there is none is not, as long as an answer may still show one: `pending`.
pub fn judge(seen: &[Seen], pending: bool, hosts: &[IpAddr], port: u16) -> Mapping {
    let Some(first) = seen.first() else { return Mapping::Unknown };
    if seen.iter().all(|s| hosts.contains(&s.as_address.ip()) && s.as_address.port() == port) {
        return Mapping::None;
    }
    let differ = |same_server: bool| {
        seen.iter().any(|a| {
            seen.iter().any(|b| {
                (a.server.ip() == b.server.ip()) == same_server && a.server != b.server && a.as_address != b.as_address
            })
        })
    };
    let several = seen.iter().any(|s| s.server != first.server);
    if differ(true) {
        Mapping::AddressAndPortDependent
    } else if differ(false) {
        Mapping::AddressDependent
    } else if several && !pending {
        Mapping::EndpointIndependent
    } else {
        Mapping::Unknown
    }
}

/// Whether other ends are shown another port than our relays are.
pub fn is_hard(mapping: Mapping) -> bool {
    match mapping {
        Mapping::AddressDependent | Mapping::AddressAndPortDependent => true,
        Mapping::Unknown | Mapping::None | Mapping::EndpointIndependent => false,
    }
}

/// How people are told.
pub fn describe(mapping: Mapping) -> &'static str {
    match mapping {
        Mapping::Unknown => "unknown",
        Mapping::None => "none",
        Mapping::EndpointIndependent => "endpoint-independent",
        Mapping::AddressDependent => "address-dependent",
        Mapping::AddressAndPortDependent => "address-and-port-dependent",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(list: &[(&str, &str)]) -> Vec<Seen> {
        list.iter().map(|(s, a)| Seen { server: s.parse().unwrap(), as_address: a.parse().unwrap() }).collect()
    }

    fn verdict(list: &[(&str, &str)]) -> Mapping {
        judge(&seen(list), false, &["10.0.0.5".parse().unwrap()], 5_000)
    }

    #[test]
    fn an_unchanged_address_is_no_nat() {
        assert_eq!(verdict(&[("192.0.2.1:1", "10.0.0.5:5000"), ("192.0.2.1:2", "10.0.0.5:5000")]), Mapping::None);
    }

    #[test]
    fn one_address_for_two_ports_is_independent_as_far_as_is_known() {
        let one = [("192.0.2.1:1", "198.51.100.7:5000"), ("192.0.2.1:2", "198.51.100.7:5000")];
        assert_eq!(verdict(&one), Mapping::EndpointIndependent);
    }

    #[test]
    fn another_address_for_another_port_is_address_and_port_dependent() {
        let two = [("192.0.2.1:1", "198.51.100.7:5000"), ("192.0.2.1:2", "198.51.100.7:5001")];
        assert_eq!(verdict(&two), Mapping::AddressAndPortDependent);
    }

    #[test]
    fn another_address_for_another_server_alone_is_address_dependent() {
        let two = [
            ("192.0.2.1:1", "198.51.100.7:5000"),
            ("192.0.2.1:2", "198.51.100.7:5000"),
            ("203.0.113.1:1", "198.51.100.7:6000"),
        ];
        assert_eq!(verdict(&two), Mapping::AddressDependent);
    }

    #[test]
    fn equal_addresses_prove_nothing_while_an_answer_is_awaited_and_different_ones_do() {
        let hosts = ["10.0.0.5".parse().unwrap()];
        let equal = seen(&[("192.0.2.1:1", "198.51.100.7:5000"), ("192.0.2.1:2", "198.51.100.7:5000")]);
        let different = seen(&[("192.0.2.1:1", "198.51.100.7:5000"), ("192.0.2.1:2", "198.51.100.7:5001")]);
        assert_eq!(judge(&equal, true, &hosts, 5_000), Mapping::Unknown);
        assert_eq!(judge(&different, true, &hosts, 5_000), Mapping::AddressAndPortDependent);
        let own = seen(&[("192.0.2.1:1", "10.0.0.5:5000")]);
        assert_eq!(judge(&own, true, &hosts, 5_000), Mapping::None);
    }

    #[test]
    fn one_answer_behind_a_nat_tells_nothing_of_its_mapping() {
        assert_eq!(verdict(&[("192.0.2.1:1", "198.51.100.7:5000")]), Mapping::Unknown);
        assert_eq!(verdict(&[]), Mapping::Unknown);
    }
}
