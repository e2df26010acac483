//! The network: packets hop from link to link as time goes by.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::topology::{Owner, Plane, Topology, is_global, is_link_local};
use super::{Block, Delivery, HostId, INTERNET, LinkId, RealmId, RouterConfig, RouterId, Way};
use crate::impairment::Impairment;
use crate::link::{Fate, Link, Stats};
use crate::nat::{Counters, Protocol, Refusal};
use crate::random::Random;
use crate::{Error, Result};

/// Routers that a packet may pass; what goes in circles ends here. No topology of a test is half as deep.
const MAX_HOPS: u8 = 16;
/// IP and UDP header.
const HEADERS_V4: usize = 28;
const HEADERS_V6: usize = 48;
/// The largest UDP payload of IPv4 (65,535 bytes with headers).
const MAX_PAYLOAD: usize = 65_507;

/// Packets that no link lost and that still arrived nowhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drops {
    /// Sent from an address that the host has not, or to the other family, or larger than UDP can be.
    pub unsendable: u64,
    /// Nobody has the destination, or it is for private use and the packet is on the Internet.
    pub unroutable: u64,
    /// Refused by a router's [`Block`].
    pub blocked: u64,
    /// Refused by the filter of a NAT or firewall.
    pub filtered: u64,
    /// To an external port that no mapping has.
    pub unmapped: u64,
    /// From inside to the router's own external address, and it does not hairpin.
    pub hairpin: u64,
    /// No room in a router's table, or no free port.
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
    topology: Topology,
    links: BTreeMap<LinkId, Pipe>,
    /// By time, then by order of creation.
    under_way: BTreeMap<(Duration, u64), Transit>,
    next_seq: u64,
    drops: Drops,
}

/// A link's two ways.
#[derive(Debug)]
struct Pipe {
    up: Lane,
    down: Lane,
}

#[derive(Debug)]
struct Lane {
    link: Link,
    /// Counts how often it was cut: what set out before the last time does not arrive.
    cuts: u64,
}

#[derive(Debug)]
struct Packet {
    from: SocketAddr,
    to: SocketAddr,
    payload: Vec<u8>,
    hops: u8,
}

/// A packet on a link, and where the link ends.
#[derive(Debug)]
struct Transit {
    /// None for a host that sends to itself.
    link: Option<(LinkId, Way, u64)>,
    end: End,
    packet: Packet,
}

#[derive(Debug, Clone, Copy)]
enum End {
    Realm(RealmId),
    Router(RouterId),
    Host(HostId),
}

/// Where a packet that is in a realm has come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    FromBelow,
    /// Out of the router above; it does not go back there.
    FromAbove,
}

impl Packet {
    fn len(&self) -> u64 {
        let headers = if self.to.is_ipv4() { HEADERS_V4 } else { HEADERS_V6 };
        (self.payload.len() + headers) as u64
    }
}

impl Pipe {
    fn new(up: Impairment, down: Impairment, random: &mut Random) -> Self {
        let mut lane = |impairment| Lane { link: Link::new(impairment, random.split()), cuts: 0 };
        Self { up: lane(up), down: lane(down) }
    }

    fn lane(&self, way: Way) -> &Lane {
        match way {
            Way::Up => &self.up,
            Way::Down => &self.down,
        }
    }

    fn lane_mut(&mut self, way: Way) -> &mut Lane {
        match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        }
    }
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
        let packet = Packet { from, to: SocketAddr::new(to.ip(), to.port()), payload, hops: 0 };
        if self.topology.addresses(host).any(|ip| ip == to.ip()) {
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
        let pipe = self.links.get_mut(&link);
        pipe.map(|pipe| pipe.lane_mut(way))
            .ok_or_else(|| Error::invalid("link", format!("{link:?}"), "one of this network"))
    }
}

/// Hops.
impl Network {
    /// Puts a packet on a link.
    fn cross(&mut self, now: Duration, id: LinkId, way: Way, end: End, packet: Packet) {
        let Some(pipe) = self.links.get_mut(&id) else { return };
        let lane = pipe.lane_mut(way);
        let cuts = lane.cuts;
        match lane.link.admit(now, packet.len()) {
            // Counted by the link; this network sends no ICMP.
            Fate::Lost | Fate::TooBig { .. } => {}
            Fate::Delivered { at } => self.push(at, Transit { link: Some((id, way, cuts)), end, packet }),
        }
    }

    fn push(&mut self, at: Duration, transit: Transit) {
        self.under_way.insert((at, self.next_seq), transit);
        self.next_seq += 1;
    }

    fn arrive(&mut self, now: Duration, Transit { link, end, packet }: Transit) -> Option<Delivery> {
        if let Some((id, way, cuts)) = link {
            let lane = self.links.get_mut(&id)?.lane_mut(way);
            if lane.cuts != cuts {
                lane.link.cut(packet.len());
                return None;
            }
            lane.link.complete(packet.len());
        }
        match end {
            End::Realm(realm) => self.route(now, realm, Came::FromBelow, packet),
            End::Router(router) => self.inward(now, router, packet),
            End::Host(host) => {
                if self.topology.addresses(host).any(|ip| ip == packet.to.ip()) {
                    let Packet { from, to, payload, hops: _ } = packet;
                    return Some(Delivery { host, from, to, payload });
                }
                self.drops.moved += 1;
            }
        }
        None
    }

    /// A packet in a realm: to its owner there, to a router below that does not hide it, or up.
    fn route(&mut self, now: Duration, realm: RealmId, came: Came, mut packet: Packet) {
        packet.hops += 1;
        if packet.hops > MAX_HOPS {
            self.drops.looped += 1;
            return;
        }
        let to = packet.to.ip();
        if realm == INTERNET && !(is_global(packet.from.ip()) && is_global(to)) {
            self.drops.unroutable += 1;
            return;
        }
        match self.topology.owner(realm, to) {
            Some(Owner::Host(host, index)) => {
                self.cross(now, LinkId::Host(host, index), Way::Down, End::Host(host), packet);
                return;
            }
            Some(Owner::Router(router)) => {
                self.cross(now, router.into(), Way::Down, End::Router(router), packet);
                return;
            }
            None => {}
        }
        if let Some(router) = self.topology.below(realm, to) {
            self.cross(now, router.into(), Way::Down, End::Router(router), packet);
        } else if let Some(router) = self.topology.above(realm).filter(|_| came == Came::FromBelow) {
            self.outward(now, router, packet);
        } else {
            self.drops.unroutable += 1;
        }
    }

    /// From a router's inner realm to its outer one.
    fn outward(&mut self, now: Duration, id: RouterId, mut packet: Packet) {
        let Ok(router) = self.topology.router(id) else { return };
        if is_link_local(packet.to.ip()) || is_link_local(packet.from.ip()) {
            self.drops.unroutable += 1;
            return;
        }
        if !router.block.permits(packet.to) {
            self.drops.blocked += 1;
            return;
        }
        let outer = router.outer;
        match router.plane(packet.to.ip()) {
            Plane::NoRoute => {
                self.drops.unroutable += 1;
                return;
            }
            Plane::Open => {}
            Plane::Stateful(nat) => {
                match nat.outbound(now, Protocol::Udp, packet.from, packet.to) {
                    Ok(external) => packet.from = external,
                    Err(refusal) => return self.refused(refusal),
                }
                if nat.owns(packet.to.ip()) {
                    if nat.hairpins() {
                        self.inward(now, id, packet);
                    } else {
                        self.drops.hairpin += 1;
                    }
                    return;
                }
            }
        }
        self.cross(now, id.into(), Way::Up, End::Realm(outer), packet);
    }

    /// From a router's outer realm, or back from itself, to its inner one.
    fn inward(&mut self, now: Duration, id: RouterId, mut packet: Packet) {
        let Ok(router) = self.topology.router(id) else { return };
        if !router.block.permits(packet.from) {
            self.drops.blocked += 1;
            return;
        }
        let inner = router.inner;
        match router.plane(packet.to.ip()) {
            Plane::NoRoute => {
                self.drops.unroutable += 1;
                return;
            }
            Plane::Open => {}
            Plane::Stateful(nat) => match nat.inbound(now, Protocol::Udp, packet.to, packet.from) {
                Ok(inside) => packet.to = inside,
                Err(refusal) => return self.refused(refusal),
            },
        }
        self.route(now, inner, Came::FromAbove, packet);
    }

    fn refused(&mut self, refusal: Refusal) {
        match refusal {
            Refusal::Filtered => self.drops.filtered += 1,
            Refusal::NoMapping => self.drops.unmapped += 1,
            Refusal::Full | Refusal::NoPort => self.drops.exhausted += 1,
        }
    }
}

impl Block {
    /// Whether packets to or from this remote pass.
    pub fn permits(&self, remote: SocketAddr) -> bool {
        match self {
            Self::Nothing => true,
            Self::AllExcept(permitted) => permitted.contains(&remote),
            Self::All => false,
        }
    }
}
