//! Who has which address in a network of homes. All public ones are of the blocks for documentation (RFC 5737, RFC 3849).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::sim::kinds::{RELAY_V4, RELAY_V6};
use crate::{Error, Result};

/// Addresses of each of the two blocks that homes have.
const BLOCK: u16 = 254;

/// Public IPv4 addresses for homes: 203.0.113.0/24, then 192.0.2.0/24.
#[derive(Debug, Default)]
pub(super) struct PublicAddresses {
    used: BTreeSet<u16>,
    /// Where the search goes on: an address that was given back is not the next to be given, because packets to its last owner may
    /// be under way.
    next: u16,
}

impl PublicAddresses {
    /// Takes one. Errors: all are in use.
    pub(super) fn take(&mut self) -> Result<IpAddr> {
        let all = 2 * BLOCK;
        let index = (0..all).map(|step| (self.next + step) % all).find(|index| !self.used.contains(index));
        let index = index.ok_or_else(|| Error::Config(format!("all {all} public addresses are in use")))?;
        self.used.insert(index);
        self.next = (index + 1) % all;
        let block = if index < BLOCK { [203, 0, 113] } else { [192, 0, 2] };
        let [a, b, c] = block;
        Ok(Ipv4Addr::new(a, b, c, (index % BLOCK) as u8 + 1).into())
    }

    /// Gives one back; others are none of ours.
    pub(super) fn give_back(&mut self, ip: IpAddr) {
        let IpAddr::V4(ip) = ip else { return };
        let [a, b, c, last] = ip.octets();
        let first = match [a, b, c] {
            [203, 0, 113] => 0,
            [192, 0, 2] => BLOCK,
            _ => return,
        };
        self.used.remove(&(first + u16::from(last).saturating_sub(1)));
    }

    /// How many can be taken.
    pub(super) fn left(&self) -> usize {
        usize::from(2 * BLOCK) - self.used.len()
    }
}

/// Of a relay, counted from 1.
pub(super) fn of_relay(index: u8) -> [IpAddr; 2] {
    let last = u32::from(index) - 1;
    [
        Ipv4Addr::from_bits(RELAY_V4.to_bits() + last).into(),
        Ipv6Addr::from_bits(RELAY_V6.to_bits() + u128::from(last)).into(),
    ]
}

/// Behind a NAT. Every home has the same, as homes do.
pub(super) fn private_v4(slot: u8) -> IpAddr {
    Ipv4Addr::new(192, 168, 1, slot.saturating_add(10)).into()
}

/// Of a home's router that is behind a carrier's or another one (RFC 6598).
pub(super) const SHARED_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(100, 64, 0, 2));

/// Of a node in the home with this tag.
pub(super) fn of_home_v6(tag: u16, slot: u8) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, tag, 0, 0, 0, 0, u16::from(slot) + 0x10).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_given_once_and_one_given_back_is_not_the_next() {
        let mut public = PublicAddresses::default();
        let first = public.take().unwrap();
        public.give_back(first);
        let others: BTreeSet<IpAddr> = (0..507).map(|_| public.take().unwrap()).collect();
        assert_eq!((others.len(), others.contains(&first)), (507, false));
        assert_eq!((public.take().unwrap(), public.left()), (first, 0));
        assert!(public.take().unwrap_err().to_string().contains("508"));
    }
}
