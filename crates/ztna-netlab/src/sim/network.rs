//! The network: packets hop from link to link as time goes by.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::forwarding::{Body, End, Lane, Packet, Pipe, Transit};
use super::topology::{Plane, Topology};
use super::{Block, Delivery, HostId, LinkId, RealmId, RouterConfig, RouterId, Way};
use crate::impairment::Impairment;
use crate::ip::{self, Header, Transport};
use crate::link::Stats;
use crate::nat::{Counters, Protocol};
use crate::random::Random;
use crate::{Error, Result};

/// Packets under way at a time, whatever the links: a thousand hosts with a thousand each.
const MAX_UNDER_WAY: usize = 1_000_000;
/// The largest UDP payload of IPv4 (65,535 bytes with headers).
const MAX_PAYLOAD: usize = 65_507;

/// Packets that no link lost and that still arrived nowhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drops {
    /// Sent from an address that the host has not, or to the other family, larger than UDP can be, or no IP packet.
    pub unsendable: u64,
    /// Nobody has the destination, or it is for private use and the packet is on the Internet.
    pub unroutable: u64,
    /// UDP refused by a router's [`Block`].
    pub blocked: u64,
    /// Refused by the filter of a NAT or firewall.
    pub filtered: u64,
    /// To an external port that no mapping has; an ICMP error about no flow; what has no ports, at a router that needs them.
    pub unmapped: u64,
    /// From inside to the router's own external address, and it does not hairpin.
    pub hairpin: u64,
    /// No room in a router's table, no free port, or a million packets under way.
    pub exhausted: u64,
    /// Under way when the receiver moved to another address.
    pub moved: u64,
    /// More routers than any topology has.
    pub looped: u64,
}

/// Hosts, routers and what is under way between them.
///
/// Drain order: any number of [`Network::send`] and of changes, then [`Network::poll_delivery`] until `None`, then advance to
/// [`Network::poll_timeout`]. Changes apply to what has not been polled yet: poll up to `now` before a change at `now`.
#[derive(Debug)]
pub struct Network {
    now: Duration,
    random: Random,
    pub(super) topology: Topology,
    pub(super) links: BTreeMap<LinkId, Pipe>,
    /// By time, then by order of creation.
    pub(super) under_way: BTreeMap<(Duration, u64), Transit>,
    pub(super) next_seq: u64,
    pub(super) drops: Drops,
}

/// Building.
impl Network {
    /// An empty Internet. Everything random follows from `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            now: Duration::ZERO,
            random: Random::new(seed),
            topology: Topology::new(),
            links: BTreeMap::new(),
            under_way: BTreeMap::new(),
            next_seq: 0,
            drops: Drops::default(),
        }
    }

    /// A router below `outer`, with an inner realm of its own ([`Network::inner`]).
    ///
    /// Errors: an external address that is taken or can't be in that realm; translation without an address of its family.
    pub fn add_router(&mut self, outer: RealmId, config: RouterConfig) -> Result<RouterId> {
        let (up, down) = (config.up, config.down);
        let id = self.topology.add_router(outer, config, &mut self.random)?;
        self.links.insert(id.into(), Pipe::new(up, down, &mut self.random));
        Ok(id)
    }

    /// The realm behind a router.
    pub fn inner(&self, router: RouterId) -> Result<RealmId> {
        self.topology.inner(router)
    }

    /// A host with one interface, whose link has no impairment yet.
    ///
    /// Errors: an address that is taken or can't be in that realm.
    pub fn add_host(&mut self, realm: RealmId, addresses: &[IpAddr]) -> Result<HostId> {
        let id = self.topology.add_host(realm, addresses)?;
        self.links.insert(id.into(), Pipe::new(Impairment::default(), Impairment::default(), &mut self.random));
        Ok(id)
    }

    /// One more interface of a host, as Wi-Fi beside a cable. Packets leave by the interface that has their source address.
    pub fn add_interface(&mut self, host: HostId, realm: RealmId, addresses: &[IpAddr]) -> Result<LinkId> {
        let id = LinkId::Host(host, self.topology.add_interface(host, realm, addresses)?);
        self.links.insert(id, Pipe::new(Impairment::default(), Impairment::default(), &mut self.random));
        Ok(id)
    }

    /// A host's addresses, interface by interface.
    pub fn addresses(&self, host: HostId) -> Vec<IpAddr> {
        self.topology.addresses(host).collect()
    }
}

/// Running.
impl Network {
    /// Sends one UDP datagram. With an unspecified source address the host takes its first one of the family that fits.
    pub fn send(&mut self, now: Duration, host: HostId, from: SocketAddr, to: SocketAddr, payload: Vec<u8>) {
        self.now = self.now.max(now);
        let source = self.topology.source(host, from, to.ip()).filter(|_| payload.len() <= MAX_PAYLOAD);
        let Some((interface, realm, from)) = source else {
            self.drops.unsendable += 1;
            return;
        };
        // Without an IPv6 scope: two equal addresses have to compare equal.
        let to = SocketAddr::new(to.ip(), to.port());
        let header = Header { from, to, transport: Transport::Flow(Protocol::Udp) };
        let packet = Packet { header, body: Body::Datagram(payload), hops: 0 };
        self.set_out(host, interface, realm, packet);
    }

    /// Sends one IP packet. The payload of its [`Delivery`] is a whole packet too, rewritten by the routers between. Fragments and
    /// what is not UDP, TCP or ICMP pass where nothing is translated or filtered only.
    pub fn send_ip(&mut self, now: Duration, host: HostId, packet: Vec<u8>) {
        self.now = self.now.max(now);
        let header = ip::parse(&packet).filter(|header| !header.from.ip().is_unspecified());
        let source = header.and_then(|header| {
            let (interface, realm, _) = self.topology.source(host, header.from, header.to.ip())?;
            Some((header, interface, realm))
        });
        let Some((header, interface, realm)) = source else {
            self.drops.unsendable += 1;
            return;
        };
        self.set_out(host, interface, realm, Packet { header, body: Body::Ip(packet), hops: 0 });
    }

    fn set_out(&mut self, host: HostId, interface: usize, realm: RealmId, packet: Packet) {
        if self.under_way.len() >= MAX_UNDER_WAY {
            self.drops.exhausted += 1;
            return;
        }
        if self.topology.addresses(host).any(|ip| ip == packet.header.to.ip()) {
            self.push(self.now, Transit { link: None, end: End::Host(host), packet });
            return;
        }
        self.cross(self.now, LinkId::Host(host, interface), Way::Up, End::Realm(realm), packet);
    }

    /// When something happens next; `None` when nothing is under way.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.under_way.first_key_value().map(|((at, _), _)| *at)
    }

    /// The next datagram that has arrived by `now`. Times of arrival are kept: routers see packets at their own times, however
    /// rarely this is called.
    pub fn poll_delivery(&mut self, now: Duration) -> Option<Delivery> {
        loop {
            let next = self.under_way.first_entry().filter(|entry| entry.key().0 <= now);
            let Some(entry) = next else {
                self.now = self.now.max(now);
                return None;
            };
            let ((at, _), transit) = entry.remove_entry();
            self.now = self.now.max(at);
            if let Some(delivery) = self.arrive(at, transit) {
                return Some(delivery);
            }
        }
    }

    /// What was dropped outside links.
    pub fn drops(&self) -> Drops {
        self.drops
    }

    /// The settings of one way over a link.
    pub fn link(&self, link: impl Into<LinkId>, way: Way) -> Result<Impairment> {
        let id = link.into();
        self.links.get(&id).map(|pipe| pipe.lane(way).link.impairment()).ok_or_else(|| unknown_link(id))
    }

    /// Counters of one way over a link.
    pub fn link_stats(&self, link: impl Into<LinkId>, way: Way) -> Option<Stats> {
        self.links.get(&link.into()).map(|pipe| pipe.lane(way).link.stats())
    }

    /// Counters of a router's state for the family of `family_of`; `None` when it keeps none.
    pub fn nat_counters(&mut self, router: RouterId, family_of: IpAddr) -> Option<Counters> {
        let now = self.now;
        match self.topology.router(router).ok()?.plane(family_of) {
            Plane::NoRoute | Plane::Open => None,
            Plane::Stateful(nat) => Some(nat.counters(now)),
        }
    }
}

/// Changing while running. All errors: an ID that is not of this network, or an address that can't be had; nothing changes then.
impl Network {
    /// New settings for one way over a link. What is under way keeps its time.
    pub fn set_link(&mut self, link: impl Into<LinkId>, way: Way, impairment: Impairment) -> Result<()> {
        self.lane(link.into(), way)?.link.set_impairment(impairment);
        Ok(())
    }

    /// Cuts one way over a link, or mends it. What is under way on it is lost.
    pub fn set_cut(&mut self, link: impl Into<LinkId>, way: Way, cut: bool) -> Result<()> {
        let lane = self.lane(link.into(), way)?;
        lane.link.set_up(!cut);
        lane.cuts += u64::from(cut);
        Ok(())
    }

    /// Makes a router forget its mappings and give other ports from here on, as a restart of it does.
    pub fn rebind(&mut self, router: RouterId) -> Result<()> {
        for plane in self.topology.router(router)?.planes() {
            match plane {
                Plane::NoRoute | Plane::Open => {}
                Plane::Stateful(nat) => nat.rebind(),
            }
        }
        Ok(())
    }

    /// Gives a router other external addresses; its mappings die.
    pub fn set_external(&mut self, router: RouterId, external: Vec<IpAddr>) -> Result<()> {
        self.topology.set_external(router, external)
    }

    /// What a router drops from here on.
    pub fn block(&mut self, router: RouterId, block: Block) -> Result<()> {
        self.topology.router(router)?.block = block;
        Ok(())
    }

    /// Puts a host's first interface elsewhere, or only gives it other addresses; its link stays as it is.
    pub fn move_host(&mut self, host: HostId, realm: RealmId, addresses: &[IpAddr]) -> Result<()> {
        self.move_interface(host.into(), realm, addresses)
    }

    /// Puts one interface of a host elsewhere. Without addresses it is off.
    pub fn move_interface(&mut self, link: LinkId, realm: RealmId, addresses: &[IpAddr]) -> Result<()> {
        match link {
            LinkId::Host(host, index) => self.topology.move_interface(host, index, realm, addresses),
            LinkId::Router(router) => Err(Error::invalid("link", format!("{router:?}"), "that of a host")),
        }
    }

    fn lane(&mut self, link: LinkId, way: Way) -> Result<&mut Lane> {
        self.links.get_mut(&link).map(|pipe| pipe.lane_mut(way)).ok_or_else(|| unknown_link(link))
    }
}

fn unknown_link(link: LinkId) -> Error {
    Error::invalid("link", format!("{link:?}"), "one of this network")
}
