//! Hops: what becomes of a packet between the host that sends it and the one that gets it.

use std::net::SocketAddr;
use std::time::Duration;

use super::network::Network;
use super::topology::{Owner, Plane, is_global, is_link_local};
use super::{Block, Delivery, HostId, INTERNET, LinkId, RealmId, RouterId, Way};
use crate::icmp;
use crate::impairment::Impairment;
use crate::ip::{self, Header, Quoted, Transport};
use crate::link::{Fate, Link};
use crate::nat::{Nat, Refusal};
use crate::random::Random;

/// Routers that a packet may pass; what goes in circles ends here. No topology of a test is half as deep.
const MAX_HOPS: u8 = 16;
/// IP and UDP header.
const HEADERS_V4: usize = 28;
const HEADERS_V6: usize = 48;

/// A link's two ways.
#[derive(Debug)]
pub(super) struct Pipe {
    up: Lane,
    down: Lane,
}

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) link: Link,
    /// Counts how often it was cut: what set out before the last time does not arrive.
    pub(super) cuts: u64,
}

#[derive(Debug)]
pub(super) struct Packet {
    /// As it is on this hop. The bytes of an IP packet are only brought in line where somebody reads them.
    pub(super) header: Header,
    pub(super) body: Body,
    pub(super) hops: u8,
}

#[derive(Debug)]
pub(super) enum Body {
    /// The payload of a UDP datagram.
    Datagram(Vec<u8>),
    /// A whole IP packet.
    Ip(Vec<u8>),
}

/// A packet on a link, and where the link ends.
#[derive(Debug)]
pub(super) struct Transit {
    pub(super) link: Option<Crossing>,
    pub(super) end: End,
    pub(super) packet: Packet,
}

/// The link that a packet is on. A host that sends to itself uses none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Crossing {
    id: LinkId,
    way: Way,
    cuts: u64,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum End {
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
        let len = match &self.body {
            Body::Datagram(payload) if self.header.to.is_ipv4() => payload.len() + HEADERS_V4,
            Body::Datagram(payload) => payload.len() + HEADERS_V6,
            Body::Ip(packet) => packet.len(),
        };
        len as u64
    }
}

impl Pipe {
    pub(super) fn new(up: Impairment, down: Impairment, random: &mut Random) -> Self {
        let mut lane = |impairment| Lane { link: Link::new(impairment, random.split()), cuts: 0 };
        Self { up: lane(up), down: lane(down) }
    }

    pub(super) fn lane(&self, way: Way) -> &Lane {
        match way {
            Way::Up => &self.up,
            Way::Down => &self.down,
        }
    }

    pub(super) fn lane_mut(&mut self, way: Way) -> &mut Lane {
        match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        }
    }
}

impl Network {
    /// Puts a packet on a link.
    pub(super) fn cross(&mut self, now: Duration, id: LinkId, way: Way, end: End, packet: Packet) {
        let Some(pipe) = self.links.get_mut(&id) else { return };
        let lane = pipe.lane_mut(way);
        let cuts = lane.cuts;
        match lane.link.admit(now, packet.len()) {
            // Counted by the link.
            Fate::Lost => {}
            Fate::TooBig { mtu } => {
                if lane.link.impairment().mtu_signal {
                    self.answer_too_big(now, id, way, mtu, packet);
                }
            }
            Fate::Delivered { at } => self.push(at, Transit { link: Some(Crossing { id, way, cuts }), end, packet }),
        }
    }

    pub(super) fn push(&mut self, at: Duration, transit: Transit) {
        self.under_way.insert((at, self.next_seq), transit);
        self.next_seq += 1;
    }

    /// The end of a link.
    pub(super) fn arrive(&mut self, now: Duration, Transit { link, end, packet }: Transit) -> Option<Delivery> {
        if let Some(Crossing { id, way, cuts }) = link {
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
                if self.topology.addresses(host).any(|ip| ip == packet.header.to.ip()) {
                    let Packet { header, body, hops: _ } = packet;
                    let payload = match body {
                        Body::Datagram(payload) => payload,
                        Body::Ip(packet) => rewritten(packet, &header),
                    };
                    return Some(Delivery { host, from: header.from, to: header.to, payload });
                }
                self.drops.moved += 1;
            }
        }
        None
    }

    /// A link's word to the sender of a packet that is too big for it, at once and from where the link begins. A datagram has no
    /// sender that reads ICMP.
    fn answer_too_big(&mut self, now: Duration, id: LinkId, way: Way, mtu: u16, packet: Packet) {
        let Body::Ip(bytes) = packet.body else { return };
        let Some(answer) = icmp::too_big(&rewritten(bytes, &packet.header), mtu) else { return };
        let Some(header) = ip::parse(&answer) else { return };
        let begin = match (id, way) {
            (LinkId::Host(host, _), Way::Up) => End::Host(host),
            (LinkId::Router(router), Way::Up) => End::Router(router),
            (LinkId::Host(host, index), Way::Down) => match self.topology.realm_of(host, index) {
                Some(realm) => End::Realm(realm),
                None => return,
            },
            (LinkId::Router(router), Way::Down) => match self.topology.router(router) {
                Ok(router) => End::Realm(router.outer),
                Err(_) => return,
            },
        };
        let packet = Packet { header, body: Body::Ip(answer), hops: packet.hops };
        self.push(now, Transit { link: None, end: begin, packet });
    }

    /// A packet in a realm: to its owner there, to a router below that does not hide it, or up.
    fn route(&mut self, now: Duration, realm: RealmId, came: Came, mut packet: Packet) {
        packet.hops += 1;
        if packet.hops > MAX_HOPS {
            self.drops.looped += 1;
            return;
        }
        let to = packet.header.to.ip();
        if realm == INTERNET && !(is_global(packet.header.from.ip()) && is_global(to)) {
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
        let to = packet.header.to;
        if is_link_local(to.ip()) || is_link_local(packet.header.from.ip()) {
            self.drops.unroutable += 1;
            return;
        }
        if !router.block.permits(&packet.header, to) {
            self.drops.blocked += 1;
            return;
        }
        let outer = router.outer;
        match router.plane(to.ip()) {
            Plane::NoRoute => {
                self.drops.unroutable += 1;
                return;
            }
            Plane::Open => {}
            Plane::Stateful(nat) => {
                match translate_outward(nat, now, packet.header) {
                    Ok(header) => packet.header = header,
                    Err(refusal) => return self.refused(refusal),
                }
                if nat.owns(to.ip()) {
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
        if !router.block.permits(&packet.header, packet.header.from) {
            self.drops.blocked += 1;
            return;
        }
        let inner = router.inner;
        match router.plane(packet.header.to.ip()) {
            Plane::NoRoute => {
                self.drops.unroutable += 1;
                return;
            }
            Plane::Open => {}
            Plane::Stateful(nat) => match translate_inward(nat, now, packet.header) {
                Ok(header) => packet.header = header,
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

fn translate_outward(nat: &mut Nat, now: Duration, mut header: Header) -> Result<Header, Refusal> {
    match header.transport {
        Transport::Flow(protocol) => header.from = nat.outbound(now, protocol, header.from, header.to)?,
        // About a packet that came in: its destination is inside.
        Transport::Error(quoted) => {
            let external = nat.peek_outbound(now, quoted.protocol, quoted.to, quoted.from).ok_or(Refusal::NoMapping)?;
            header.from = SocketAddr::new(external.ip(), 0);
            header.transport = Transport::Error(Quoted { to: external, ..quoted });
        }
        Transport::Other => return Err(Refusal::NoMapping),
    }
    Ok(header)
}

fn translate_inward(nat: &mut Nat, now: Duration, mut header: Header) -> Result<Header, Refusal> {
    match header.transport {
        Transport::Flow(protocol) => header.to = nat.inbound(now, protocol, header.to, header.from)?,
        // About a packet that went out: its source is inside.
        Transport::Error(quoted) => {
            let inside = nat.peek(now, quoted.protocol, quoted.from, quoted.to).ok_or(Refusal::NoMapping)?;
            header.to = SocketAddr::new(inside.ip(), 0);
            header.transport = Transport::Error(Quoted { from: inside, ..quoted });
        }
        Transport::Other => return Err(Refusal::NoMapping),
    }
    Ok(header)
}

fn rewritten(mut packet: Vec<u8>, header: &Header) -> Vec<u8> {
    ip::rewrite(&mut packet, header);
    packet
}

impl Block {
    /// Whether a packet to or from this remote passes. Only UDP is ever blocked.
    fn permits(&self, header: &Header, remote: SocketAddr) -> bool {
        if header.transport != Transport::Flow(crate::nat::Protocol::Udp) {
            return true;
        }
        match self {
            Self::Nothing => true,
            Self::AllExcept(permitted) => permitted.contains(&remote),
            Self::All => false,
        }
    }
}
