//! Homes come and go, and nodes with them.

use std::net::IpAddr;

use super::addresses::{self, SHARED_V4};
use super::spec::NatKind;
use super::{Blocked, Home, HomeSpec, Homes, NatSpec, gone};
use crate::impairment::Impairment;
use crate::nat::{Filtering, FirewallConfig, Mapping, NatConfig, Ports};
use crate::sim::{INTERNET, Policy, RealmId, RouterConfig, RouterId};
use crate::{Error, Result};

/// Nodes of one home.
const MAX_SLOTS: u8 = 200;

impl Homes {
    /// A home that nobody is in yet.
    pub(super) fn add_home(&mut self, name: &str, spec: &HomeSpec) -> Result<()> {
        if self.homes.contains_key(name) {
            return Err(Error::Config("there is a home of this name".into()));
        }
        let line = spec.line.over(Impairment::default())?;
        self.built = self.built.checked_add(1).ok_or_else(|| Error::Config("too many homes".into()))?;
        let external = if spec.nat.translates() { Some(self.public.take()?) } else { None };
        let home = Home {
            nat: spec.nat,
            families: spec.ip.families(),
            line,
            block: Blocked::Nothing,
            realm: INTERNET,
            routers: Vec::new(),
            external,
            tag: self.built,
            passing: false,
        };
        let home = self.with_routers(home)?;
        self.homes.insert(name.to_owned(), home);
        Ok(())
    }

    /// Takes a home away that nobody is in, with its public address.
    pub(super) fn remove_home(&mut self, name: &str) -> Result<()> {
        let home = self.homes.remove(name).ok_or_else(|| gone(name))?;
        for router in home.routers {
            self.network.set_external(router, Vec::new())?;
        }
        if let Some(external) = home.external {
            self.public.give_back(external);
        }
        Ok(())
    }

    /// Puts another kind of router in front of a home, which forgets what the old one knew. Addresses stay where the kinds permit.
    pub(super) fn set_nat(&mut self, name: &str, nat: NatSpec) -> Result<()> {
        let members: Vec<String> = self.nodes.iter().filter(|(_, n)| n.home == name).map(|(n, _)| n.clone()).collect();
        let before = self.home(name)?;
        let wanted = if nat.translates() { 1 } else { members.len() };
        let held = if before.nat.translates() { 1 } else { members.len() };
        if self.public.left() + held < wanted {
            return Err(Error::Config("no public address is left".into()));
        }
        let keeps_addresses = before.nat.translates() && nat.translates();
        for member in members.iter().filter(|_| !keeps_addresses) {
            self.unsettle(member)?;
        }
        let mut home = self.homes.remove(name).ok_or_else(|| gone(name))?;
        for router in home.routers.drain(..) {
            self.network.set_external(router, Vec::new())?;
        }
        home.nat = nat;
        home.external = match home.external {
            Some(external) if nat.translates() => Some(external),
            Some(external) => {
                self.public.give_back(external);
                None
            }
            None if nat.translates() => Some(self.public.take()?),
            None => None,
        };
        let home = self.with_routers(home)?;
        let realm = home.realm;
        self.homes.insert(name.to_owned(), home);
        for member in &members {
            if keeps_addresses && let Some(node) = self.nodes.get(member) {
                // The router is another one; the node notices nothing.
                self.network.move_host(node.host, realm, &node.addresses)?;
            } else {
                self.settle(member)?;
            }
        }
        Ok(())
    }

    /// Gives a node the addresses that it has in its home, and takes it there.
    pub(super) fn settle(&mut self, name: &str) -> Result<()> {
        self.unsettle(name)?;
        let node = self.nodes.get_mut(name).ok_or_else(|| gone(name))?;
        let home = self.homes.get(&node.home).ok_or_else(|| gone(&node.home))?;
        let mut own = Vec::new();
        if home.families.has_v4() {
            own.push(if home.nat.translates() { addresses::private_v4(node.slot) } else { self.public.take()? });
        }
        if home.families.has_v6() {
            own.push(addresses::of_home_v6(home.tag, node.slot));
        }
        self.network.move_host(node.host, home.realm, &own)?;
        node.addresses = own;
        Ok(())
    }

    /// Takes a node's addresses from it.
    fn unsettle(&mut self, name: &str) -> Result<()> {
        let node = self.nodes.get_mut(name).ok_or_else(|| gone(name))?;
        self.network.move_host(node.host, INTERNET, &[])?;
        for ip in node.addresses.drain(..) {
            self.public.give_back(ip);
        }
        self.touched.insert(node.host);
        Ok(())
    }

    /// The first number in a home that no node of it has.
    pub(super) fn free_slot(&self, home: &str) -> Result<u8> {
        self.home(home)?;
        let taken = |slot: &u8| self.nodes.values().any(|node| node.home == home && node.slot == *slot);
        let free = (0..MAX_SLOTS).find(|slot| !taken(slot));
        free.ok_or_else(|| Error::Config(format!("home {home:?} is full: it takes {MAX_SLOTS} nodes")))
    }

    fn with_routers(&mut self, mut home: Home) -> Result<Home> {
        let external = home.external;
        let nearest = RouterConfig {
            v6: match home.nat {
                NatSpec::Kind(NatKind::None) => Policy::Open,
                NatSpec::Kind(_) | NatSpec::Nat(_) => Policy::Firewall(FirewallConfig::default()),
            },
            block: self.block_of(home.block),
            up: home.line,
            down: home.line,
            ..RouterConfig::default()
        };
        let behind = |v4: NatConfig, external: IpAddr| RouterConfig {
            v4: Policy::Nat(v4),
            external: vec![external],
            ..RouterConfig::default()
        };
        let missing = || Error::Config("a home without an address".into());
        // Two of them: the nearest is behind `outer`, which IPv6 passes as it is.
        let behind_another = |outer: NatConfig, nearest: RouterConfig| -> Result<[RouterConfig; 2]> {
            let outer = RouterConfig { v6: Policy::Open, ..behind(outer, external.ok_or_else(missing)?) };
            let RouterConfig { v4, external, .. } = behind(NatConfig::default(), SHARED_V4);
            Ok([outer, RouterConfig { v4, external, ..nearest }])
        };
        (home.realm, home.routers) = match home.nat {
            NatSpec::Kind(NatKind::None) => self.chain(&[RouterConfig { v4: Policy::Open, ..nearest }])?,
            NatSpec::Kind(NatKind::Firewall) => {
                let v4 = Policy::Firewall(FirewallConfig::default());
                self.chain(&[RouterConfig { v4, ..nearest }])?
            }
            NatSpec::Kind(NatKind::Double) => self.chain(&behind_another(NatConfig::default(), nearest)?)?,
            NatSpec::Kind(NatKind::Carrier) => {
                // As RFC 6888 wants it.
                let any = Filtering::EndpointIndependent;
                let carrier = NatConfig::new(Mapping::EndpointIndependent, any, Ports::Random);
                self.chain(&behind_another(carrier, nearest)?)?
            }
            nat @ (NatSpec::Kind(
                NatKind::EndpointIndependent | NatKind::AddressDependent | NatKind::AddressAndPortDependent,
            )
            | NatSpec::Nat(_)) => {
                let config = behind(nat.config(), external.ok_or_else(missing)?);
                self.chain(&[RouterConfig { v4: config.v4, external: config.external, ..nearest }])?
            }
        };
        Ok(home)
    }

    /// Routers from the Internet inwards: the innermost realm, and all of them with the nearest to it first.
    fn chain(&mut self, configs: &[RouterConfig]) -> Result<(RealmId, Vec<RouterId>)> {
        let mut realm = INTERNET;
        let mut routers = Vec::new();
        for config in configs {
            let router = self.network.add_router(realm, config.clone())?;
            realm = self.network.inner(router)?;
            routers.insert(0, router);
        }
        Ok((realm, routers))
    }
}
