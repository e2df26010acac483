//! An IPv4 prefix as a supply of source addresses.

use std::net::Ipv4Addr;

use crate::{Error, Result};

const ACCEPTED: &str = "an IPv4 prefix of at most 24 bits, as 10.9.0.0/16";

/// Addresses of one prefix that holds whole /24 networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    base: u32,
    length: u8,
}

impl Prefix {
    /// Reads `10.9.0.0/16`. Errors: not an IPv4 prefix, longer than 24 bits, or with bits set past its length.
    pub fn parse(option: &str, text: &str) -> Result<Self> {
        let invalid = || Error::invalid(option, text, ACCEPTED);
        let (ip, length) = text.split_once('/').ok_or_else(invalid)?;
        let base = u32::from(ip.parse::<Ipv4Addr>().map_err(|_| invalid())?);
        let length: u8 = length.parse().map_err(|_| invalid())?;
        let prefix = Prefix { base, length };
        if !(1..=24).contains(&length) || base & prefix.host_mask() != 0 { Err(invalid()) } else { Ok(prefix) }
    }

    /// How many /24 networks it holds.
    pub fn networks(self) -> u32 {
        1 << (24 - self.length)
    }

    /// The address of client `n`: consecutive ones are in different /24 networks, as long as there are more.
    pub fn client(self, n: u32) -> Ipv4Addr {
        let (network, host) = (n % self.networks(), n / self.networks() % 254 + 1);
        Ipv4Addr::from(self.base | network << 8 | host)
    }

    /// The address that `random` picks out of all.
    pub fn any(self, random: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.base | random & self.host_mask())
    }

    fn host_mask(self) -> u32 {
        u32::MAX.checked_shr(self.length.into()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_fill_all_networks_before_one_gets_a_second() {
        let prefix = Prefix::parse("--sources", "10.8.0.0/22").unwrap();
        let first: Vec<String> = (0..5).map(|n| prefix.client(n).to_string()).collect();
        assert_eq!(first, ["10.8.0.1", "10.8.1.1", "10.8.2.1", "10.8.3.1", "10.8.0.2"]);
    }

    #[test]
    fn every_picked_address_is_of_the_prefix() {
        let prefix = Prefix::parse("--sources", "172.16.0.0/12").unwrap();
        assert_eq!(prefix.any(0), Ipv4Addr::new(172, 16, 0, 0));
        assert_eq!(prefix.any(u32::MAX), Ipv4Addr::new(172, 31, 255, 255));
    }

    #[test]
    fn what_is_no_prefix_of_whole_networks_is_refused() {
        for text in ["10.8.0.0", "10.8.0.0/25", "10.8.0.1/16", "10.8.0.0/0", "fd00::/16", "10.8.0.0/x"] {
            assert!(Prefix::parse("--sources", text).is_err(), "{text}");
        }
    }
}
