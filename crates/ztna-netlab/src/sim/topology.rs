//! Who is where, and which way a packet goes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Block, HostId, INTERNET, Policy, RealmId, RouterConfig, RouterId};
use crate::nat::Nat;
use crate::random::Random;
use crate::{Error, Result};

/// Far more than any test has, and few enough to search one after the other.
const MAX_NODES: usize = 65_536;
/// Addresses of one host or router.
const MAX_ADDRESSES: usize = 16;

#[derive(Debug)]
pub(super) struct Topology {
    /// For each realm, the router that it is the inner realm of; none for the Internet.
    realms: Vec<Option<RouterId>>,
    hosts: Vec<Host>,
    routers: Vec<Router>,
    owners: BTreeMap<(RealmId, IpAddr), Owner>,
}

#[derive(Debug)]
struct Host {
    interfaces: Vec<Interface>,
}

#[derive(Debug)]
struct Interface {
    realm: RealmId,
    addresses: Vec<IpAddr>,
}

#[derive(Debug)]
pub(super) struct Router {
    pub(super) outer: RealmId,
    pub(super) inner: RealmId,
    pub(super) v4: Plane,
    pub(super) v6: Plane,
    pub(super) block: Block,
    external: Vec<IpAddr>,
}

/// What a router does with one family, with its state.
#[derive(Debug)]
pub(super) enum Plane {
    NoRoute,
    Open,
    Stateful(Box<Nat>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Host(HostId, usize),
    Router(RouterId),
}

impl Router {
    pub(super) fn plane(&mut self, family_of: IpAddr) -> &mut Plane {
        if family_of.is_ipv4() { &mut self.v4 } else { &mut self.v6 }
    }

    /// Whether addresses inside are seen outside.
    fn is_transparent(&self, family_of: IpAddr) -> bool {
        match if family_of.is_ipv4() { &self.v4 } else { &self.v6 } {
            Plane::NoRoute => false,
            Plane::Open => true,
            Plane::Stateful(nat) => !nat.translates(),
        }
    }

    pub(super) fn planes(&mut self) -> [&mut Plane; 2] {
        [&mut self.v4, &mut self.v6]
    }
}

impl Plane {
    fn new(policy: Policy, external: &[IpAddr], random: Random) -> Self {
        match policy {
            Policy::NoRoute => Self::NoRoute,
            Policy::Open => Self::Open,
            Policy::Firewall(config) => Self::Stateful(Box::new(Nat::firewall(config))),
            Policy::Nat(config) => Self::Stateful(Box::new(Nat::new(config, external.to_vec(), random))),
        }
    }
}

impl Topology {
    pub(super) fn new() -> Self {
        Self { realms: vec![None], hosts: Vec::new(), routers: Vec::new(), owners: BTreeMap::new() }
    }

    pub(super) fn add_router(&mut self, outer: RealmId, config: RouterConfig, random: &mut Random) -> Result<RouterId> {
        let RouterConfig { v4, v6, external, block, up: _, down: _ } = config;
        let id = RouterId(self.routers.len());
        self.check_room(self.routers.len())?;
        for (policy, is_v4) in [(&v4, true), (&v6, false)] {
            if matches!(policy, Policy::Nat(_)) && !external.iter().any(|ip| ip.is_ipv4() == is_v4) {
                return Err(Error::invalid(
                    "external",
                    "none of the family",
                    "an address of each family it translates",
                ));
            }
        }
        self.claim(outer, &external, Owner::Router(id))?;
        let inner = RealmId(self.realms.len());
        self.realms.push(Some(id));
        let (v4, v6) = (Plane::new(v4, &external, random.split()), Plane::new(v6, &external, random.split()));
        self.routers.push(Router { outer, inner, v4, v6, block, external });
        Ok(id)
    }

    pub(super) fn add_host(&mut self, realm: RealmId, addresses: &[IpAddr]) -> Result<HostId> {
        let id = HostId(self.hosts.len());
        self.check_room(self.hosts.len())?;
        self.claim(realm, addresses, Owner::Host(id, 0))?;
        self.hosts.push(Host { interfaces: vec![Interface { realm, addresses: addresses.to_vec() }] });
        Ok(id)
    }

    pub(super) fn add_interface(&mut self, id: HostId, realm: RealmId, addresses: &[IpAddr]) -> Result<usize> {
        let index = self.host(id)?.interfaces.len();
        self.check_room(index)?;
        self.claim(realm, addresses, Owner::Host(id, index))?;
        self.host_mut(id)?.interfaces.push(Interface { realm, addresses: addresses.to_vec() });
        Ok(index)
    }

    /// Moves one interface. When the new addresses can't be had it stays where it was.
    pub(super) fn move_interface(
        &mut self,
        id: HostId,
        index: usize,
        realm: RealmId,
        addresses: &[IpAddr],
    ) -> Result<()> {
        let unknown = || Error::invalid("interface", index.to_string(), "one that the host has");
        let owner = Owner::Host(id, index);
        let Interface { realm: old_realm, addresses: old } =
            self.host(id)?.interfaces.get(index).ok_or_else(unknown)?;
        let (old_realm, old) = (*old_realm, old.clone());
        self.release(old_realm, &old);
        if let Err(error) = self.claim(realm, addresses, owner) {
            self.claim(old_realm, &old, owner)?;
            return Err(error);
        }
        let interface = self.host_mut(id)?.interfaces.get_mut(index).ok_or_else(unknown)?;
        *interface = Interface { realm, addresses: addresses.to_vec() };
        Ok(())
    }

    /// Gives a router other addresses. When they can't be had it keeps the old ones.
    pub(super) fn set_external(&mut self, id: RouterId, external: Vec<IpAddr>) -> Result<()> {
        let router = self.router(id)?;
        let (outer, old) = (router.outer, router.external.clone());
        self.release(outer, &old);
        if let Err(error) = self.claim(outer, &external, Owner::Router(id)) {
            self.claim(outer, &old, Owner::Router(id))?;
            return Err(error);
        }
        let router = self.router(id)?;
        for plane in router.planes() {
            if let Plane::Stateful(nat) = plane {
                nat.set_external(external.clone());
            }
        }
        router.external = external;
        Ok(())
    }

    pub(super) fn router(&mut self, id: RouterId) -> Result<&mut Router> {
        self.routers.get_mut(id.0).ok_or_else(|| unknown_router(id))
    }

    pub(super) fn inner(&self, id: RouterId) -> Result<RealmId> {
        self.routers.get(id.0).map(|router| router.inner).ok_or_else(|| unknown_router(id))
    }

    pub(super) fn addresses(&self, id: HostId) -> impl Iterator<Item = IpAddr> + '_ {
        self.hosts
            .get(id.0)
            .into_iter()
            .flat_map(|host| &host.interfaces)
            .flat_map(|interface| interface.addresses.iter().copied())
    }

    /// The interface that a packet leaves by, its realm, and its source with an unspecified address filled in.
    pub(super) fn source(&self, id: HostId, from: SocketAddr, to: IpAddr) -> Option<(usize, RealmId, SocketAddr)> {
        let interfaces = &self.hosts.get(id.0)?.interfaces;
        interfaces.iter().enumerate().find_map(|(index, Interface { realm, addresses })| {
            let wanted = |ip: &&IpAddr| {
                if from.ip().is_unspecified() { is_link_local(**ip) == is_link_local(to) } else { **ip == from.ip() }
            };
            let ip = addresses.iter().filter(|ip| ip.is_ipv4() == to.is_ipv4()).find(wanted)?;
            Some((index, *realm, SocketAddr::new(*ip, from.port())))
        })
    }

    /// The realm that an interface is in.
    pub(super) fn realm_of(&self, id: HostId, index: usize) -> Option<RealmId> {
        Some(self.hosts.get(id.0)?.interfaces.get(index)?.realm)
    }

    /// The router above a realm.
    pub(super) fn above(&self, realm: RealmId) -> Option<RouterId> {
        self.realms.get(realm.0).copied().flatten()
    }

    pub(super) fn owner(&self, realm: RealmId, ip: IpAddr) -> Option<Owner> {
        self.owners.get(&(realm, ip)).copied()
    }

    /// The router below `realm` behind which `ip` is, when no translation hides it.
    pub(super) fn below(&self, realm: RealmId, ip: IpAddr) -> Option<RouterId> {
        let mut routers = self.routers.iter().enumerate().filter(|(_, r)| r.outer == realm && r.is_transparent(ip));
        routers
            .find(|(_, router)| self.owner(router.inner, ip).is_some() || self.below(router.inner, ip).is_some())
            .map(|(index, _)| RouterId(index))
    }

    fn host(&self, id: HostId) -> Result<&Host> {
        self.hosts.get(id.0).ok_or_else(|| unknown_host(id))
    }

    fn host_mut(&mut self, id: HostId) -> Result<&mut Host> {
        self.hosts.get_mut(id.0).ok_or_else(|| unknown_host(id))
    }

    fn check_room(&self, have: usize) -> Result<()> {
        if have < MAX_NODES { Ok(()) } else { Err(Error::invalid("nodes", have.to_string(), "at most 65536")) }
    }

    /// All of the addresses or none.
    fn claim(&mut self, realm: RealmId, addresses: &[IpAddr], owner: Owner) -> Result<()> {
        if realm.0 >= self.realms.len() {
            return Err(Error::invalid("realm", realm.0.to_string(), "one of this network"));
        }
        if addresses.len() > MAX_ADDRESSES {
            return Err(Error::invalid("addresses", addresses.len().to_string(), "at most 16"));
        }
        for (index, ip) in addresses.iter().enumerate() {
            let twice = addresses.iter().take(index).any(|earlier| earlier == ip);
            if twice || self.owners.contains_key(&(realm, *ip)) {
                return Err(Error::invalid("address", ip.to_string(), "one that nobody in the realm has"));
            }
            if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() {
                return Err(Error::invalid("address", ip.to_string(), "a unicast address that is not loopback"));
            }
            if realm == INTERNET && !is_global(*ip) && !is_link_local(*ip) {
                return Err(Error::invalid("address", ip.to_string(), "one that is not of private use"));
            }
        }
        self.owners.extend(addresses.iter().map(|ip| ((realm, *ip), owner)));
        Ok(())
    }

    fn release(&mut self, realm: RealmId, addresses: &[IpAddr]) {
        for ip in addresses {
            self.owners.remove(&(realm, *ip));
        }
    }
}

/// Whether the Internet routes it: none of RFC 1918, 6598 (carriers), 3927, 4193 and 4291 §2.5.6, no multicast. The ranges for
/// documentation pass, they are what tests use.
pub(super) fn is_global(ip: IpAddr) -> bool {
    let reserved = match ip {
        IpAddr::V4(ip) => {
            let carrier = ip.octets().first() == Some(&100) && ip.octets().get(1).is_some_and(|n| n & 0xc0 == 0x40);
            ip.is_private() || carrier || ip.is_broadcast() || ip == Ipv4Addr::UNSPECIFIED
        }
        IpAddr::V6(ip) => ip.is_unique_local() || ip == Ipv6Addr::UNSPECIFIED,
    };
    !reserved && !is_link_local(ip) && !ip.is_loopback() && !ip.is_multicast()
}

pub(super) fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn unknown_host(id: HostId) -> Error {
    Error::invalid("host", id.0.to_string(), "one of this network")
}

fn unknown_router(id: RouterId) -> Error {
    Error::invalid("router", id.0.to_string(), "one of this network")
}
