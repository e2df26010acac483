//! Which of a relay's addresses is tried next, and for how long: what RFC 8305 does by racing, one after another. A node mostly has
//! one relay address that works, and all it carries waits for it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::interface::{Interface, InterfaceKind};
use crate::quic::connection::HANDSHAKE;

/// An address that stays silent gives way to another after this, where there is another. Doubles each time that all have been tried, so
/// that a slow way gets its time too. Longer than quiche's first retransmission would make no sense: that comes after a second.
const FIRST: Duration = Duration::from_secs(1);

/// The address families that this host's interfaces have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Families {
    v4: bool,
    v6: bool,
}

impl Families {
    /// Nothing is known.
    pub const BOTH: Families = Families { v4: true, v6: true };

    pub fn of(interfaces: &[Interface]) -> Families {
        let leads_out = |i: &&Interface| {
            i.kind != InterfaceKind::Loopback
                && match i.address {
                    IpAddr::V4(ip) => !ip.is_link_local() && !ip.is_loopback(),
                    IpAddr::V6(ip) => !ip.is_unicast_link_local() && !ip.is_loopback(),
                }
        };
        let v4 = interfaces.iter().filter(leads_out).any(|i| i.address.is_ipv4());
        let v6 = interfaces.iter().filter(leads_out).any(|i| i.address.is_ipv6());
        if v4 || v6 { Families { v4, v6 } } else { Families::BOTH }
    }

    fn reach(self, to: &SocketAddr) -> bool {
        to.ip().is_loopback() || if to.is_ipv4() { self.v4 } else { self.v6 }
    }
}

#[derive(Debug, Default)]
pub struct Turns {
    next: usize,
    /// Tries since an address has answered, and the addresses that were in question at the last.
    unanswered: usize,
    among: usize,
}

impl Turns {
    /// The next of those that the host can have a route to; of all of them where there is none such.
    pub fn take(&mut self, addresses: &[SocketAddr], families: Families) -> Option<SocketAddr> {
        let likely: Vec<SocketAddr> = addresses.iter().copied().filter(|a| families.reach(a)).collect();
        let from = if likely.is_empty() { addresses } else { &likely };
        let address = from.get(self.next.checked_rem(from.len())?).copied();
        self.next = self.next.wrapping_add(1);
        self.unanswered = self.unanswered.saturating_add(1);
        self.among = from.len();
        address
    }

    /// It has answered: it is a good one, and comes first once more.
    pub fn answered(&mut self) {
        if std::mem::take(&mut self.unanswered) > 0 {
            self.next = self.next.wrapping_sub(1);
        }
    }

    /// How long the address taken last may stay silent.
    pub fn patience(&self) -> Duration {
        if self.among < 2 || self.unanswered == 0 {
            return HANDSHAKE;
        }
        let rounds = (self.unanswered - 1).checked_div(self.among).unwrap_or(0);
        FIRST.saturating_mul(1 << rounds.min(4)).min(HANDSHAKE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: &str = "192.0.2.1:1";
    const V6: &str = "[2001:db8::1]:1";

    fn addresses(all: &[&str]) -> Vec<SocketAddr> {
        all.iter().map(|a| a.parse().unwrap()).collect()
    }

    fn taken(turns: &mut Turns, families: Families, n: usize) -> Vec<String> {
        let all = addresses(&[V4, V6]);
        (0..n).map(|_| turns.take(&all, families).unwrap().to_string()).collect()
    }

    fn interface(address: &str, kind: InterfaceKind) -> Interface {
        Interface {
            index: 1,
            name: "eth0".into(),
            address: address.parse().unwrap(),
            prefix_len: 24,
            scope_id: 0,
            kind,
            temporary: false,
            deprecated: false,
        }
    }

    #[test]
    fn addresses_of_a_family_that_the_host_has_not_are_left_out() {
        let v6 = Families::of(&[
            interface("127.0.0.1", InterfaceKind::Loopback),
            interface("169.254.1.1", InterfaceKind::Ordinary),
            interface("2001:db8::7", InterfaceKind::Tunnel),
        ]);
        assert_eq!(taken(&mut Turns::default(), v6, 2), [V6, V6]);
        let none = Families::of(&[interface("127.0.0.1", InterfaceKind::Loopback)]);
        assert_eq!(taken(&mut Turns::default(), none, 2), [V4, V6], "an unlikely address is better than none");
    }

    #[test]
    fn a_loopback_address_needs_no_interface() {
        let v6 = Families::of(&[interface("2001:db8::7", InterfaceKind::Ordinary)]);
        assert_eq!(Turns::default().take(&addresses(&["127.0.0.1:9"]), v6), addresses(&["127.0.0.1:9"]).pop());
    }

    #[test]
    fn a_silent_address_gives_way_after_a_second_then_two_and_a_lone_one_never() {
        let mut turns = Turns::default();
        let mut waits = Vec::new();
        for _ in 0..9 {
            taken(&mut turns, Families::BOTH, 1);
            waits.push(turns.patience().as_secs());
        }
        assert_eq!(waits, [1, 1, 2, 2, 4, 4, 8, 8, 10]);
        let mut alone = Turns::default();
        alone.take(&addresses(&[V4]), Families::BOTH);
        assert_eq!(alone.patience(), HANDSHAKE);
    }

    #[test]
    fn the_address_that_answered_is_the_first_one_next_time() {
        let mut turns = Turns::default();
        assert_eq!(taken(&mut turns, Families::BOTH, 2), [V4, V6]);
        turns.answered();
        assert_eq!(taken(&mut turns, Families::BOTH, 1), [V6]);
    }
}
