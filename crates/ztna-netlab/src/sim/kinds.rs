//! The usual places that a node can be in, and two of them built around a relay.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::oracle::{Access, Blocked, Relation, Side};
use super::{Block, HostId, INTERNET, Network, Policy, RealmId, RouterConfig, RouterId, Way};
use crate::impairment::Impairment;
use crate::nat::{Filtering, FirewallConfig, Mapping, NatConfig, Ports};
use crate::{Error, Result};

/// The relay's ports: the main one, and the second one for the NAT verdict.
pub const RELAY_PORTS: [u16; 2] = [4433, 4434];
/// The relay's IPv4 address.
pub const RELAY_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// A second one of its, as a second relay would have: only two tell an address-dependent mapping from an endpoint-independent one.
pub const RELAY_SECOND_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// The relay's IPv6 address.
pub const RELAY_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1);

/// What stands between a node and the Internet, for IPv4. IPv6 is never translated: wherever there is a NAT or a firewall it
/// passes a stateful firewall that lets answers in only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// One NAT.
    Nat(Mapping, Filtering, Ports),
    /// Nothing.
    Public,
    /// A stateful firewall, public addresses.
    Firewall,
    /// A NAT that lets UDP pass to and from the relay's two ports only.
    UdpBlocked,
    /// A NAT that lets no UDP pass.
    UdpBlockedAltogether,
    /// A NAT behind a NAT, both EIM with APDF.
    DoubleNat,
    /// A NAT (EIM, APDF) behind a carrier's, which is EIM with EIF as RFC 6888 wants it, and does not hairpin.
    CarrierNat,
}

const EIM: Mapping = Mapping::EndpointIndependent;
const ADM: Mapping = Mapping::AddressDependent;
const APDM: Mapping = Mapping::AddressAndPortDependent;
const EIF: Filtering = Filtering::EndpointIndependent;
const ADF: Filtering = Filtering::AddressDependent;
const APDF: Filtering = Filtering::AddressAndPortDependent;

/// Twelve types of NAT: every mapping with every filtering, and three that differ in the ports they give.
pub const NAT_TYPES: [Kind; 12] = [
    Kind::Nat(EIM, EIF, Ports::Preserve),
    Kind::Nat(EIM, ADF, Ports::Preserve),
    Kind::Nat(EIM, APDF, Ports::Preserve),
    Kind::Nat(ADM, EIF, Ports::Preserve),
    Kind::Nat(ADM, ADF, Ports::Preserve),
    Kind::Nat(ADM, APDF, Ports::Preserve),
    Kind::Nat(APDM, EIF, Ports::Preserve),
    Kind::Nat(APDM, ADF, Ports::Preserve),
    Kind::Nat(APDM, APDF, Ports::Preserve),
    Kind::Nat(APDM, APDF, Ports::Sequential),
    Kind::Nat(APDM, APDF, Ports::Random),
    Kind::Nat(EIM, APDF, Ports::Random),
];

/// The families that a node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Families {
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// Both.
    Dual,
}

impl Families {
    /// All.
    pub const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Dual];

    /// Whether IPv4 is among them.
    pub fn has_v4(self) -> bool {
        match self {
            Self::V4 | Self::Dual => true,
            Self::V6 => false,
        }
    }

    /// Whether IPv6 is among them.
    pub fn has_v6(self) -> bool {
        match self {
            Self::V6 | Self::Dual => true,
            Self::V4 => false,
        }
    }
}

/// A place with the families that a node has there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeKind {
    /// The place.
    pub kind: Kind,
    /// The families.
    pub families: Families,
}

impl NodeKind {
    /// The 51 of the matrix: {12 NAT types, no NAT, firewall, UDP blocked but for the relay, double NAT, carrier NAT} ×
    /// {IPv4, IPv6, both}.
    pub fn matrix() -> impl Iterator<Item = Self> + Clone {
        let others = [Kind::Public, Kind::Firewall, Kind::UdpBlocked, Kind::DoubleNat, Kind::CarrierNat];
        let kinds = NAT_TYPES.into_iter().chain(others);
        kinds.flat_map(|kind| Families::ALL.map(|families| Self { kind, families }))
    }

    /// What the oracle is told of it.
    pub fn side(self) -> Side {
        let eim_apdf = Access { mapping: EIM, filtering: APDF };
        let (v4, v6, blocked) = match self.kind {
            Kind::Nat(mapping, filtering, _) => (Access { mapping, filtering }, Access::FIREWALL, Blocked::Nothing),
            Kind::Public => (Access::PUBLIC, Access::PUBLIC, Blocked::Nothing),
            Kind::Firewall => (Access::FIREWALL, Access::FIREWALL, Blocked::Nothing),
            Kind::UdpBlocked => (eim_apdf, Access::FIREWALL, Blocked::AllButRelay),
            Kind::UdpBlockedAltogether => (eim_apdf, Access::FIREWALL, Blocked::All),
            Kind::DoubleNat => (eim_apdf.within(eim_apdf), Access::FIREWALL, Blocked::Nothing),
            Kind::CarrierNat => {
                let carrier = Access { mapping: EIM, filtering: EIF };
                (eim_apdf.within(carrier), Access::FIREWALL, Blocked::Nothing)
            }
        };
        Side { v4: self.families.has_v4().then_some(v4), v6: self.families.has_v6().then_some(v6), blocked }
    }
}

/// Two nodes and a relay.
#[derive(Debug)]
pub struct Pair {
    /// The network they are in.
    pub network: Network,
    /// On the Internet at [`RELAY_V4`], [`RELAY_SECOND_V4`] and [`RELAY_V6`].
    pub relay: HostId,
    /// The first node.
    pub a: Place,
    /// The second node.
    pub b: Place,
}

/// Where one node of a [`Pair`] has been put.
#[derive(Debug, Clone)]
pub struct Place {
    /// The node.
    pub host: HostId,
    /// The realm it is in.
    pub realm: RealmId,
    /// Its addresses there.
    pub addresses: Vec<IpAddr>,
    /// The routers between it and the Internet, the nearest first. Nodes of one LAN or one carrier share them.
    pub routers: Vec<RouterId>,
}

/// The relay's addresses and ports, the main port and the first address of each family first.
pub fn relay_endpoints() -> [SocketAddr; 6] {
    let [v4, other, v6] = relay_addresses();
    let [main, second] = RELAY_PORTS;
    [(v4, main), (v6, main), (other, main), (v4, second), (v6, second), (other, second)].map(SocketAddr::from)
}

impl Pair {
    /// Builds them. `home` is what each node's way to the Internet does to packets, in each direction and once however many
    /// routers there are; `relay` is the same for the relay's link. Two homes have the same private addresses, as homes do.
    ///
    /// Errors: one LAN with two kinds of router, or one carrier for kinds that have none.
    pub fn new(
        seed: u64,
        a: NodeKind,
        b: NodeKind,
        relation: Relation,
        home: Impairment,
        relay: Impairment,
    ) -> Result<Self> {
        let mut network = Network::new(seed);
        let relay_host = network.add_host(INTERNET, &relay_addresses())?;
        for way in Way::BOTH {
            network.set_link(relay_host, way, relay)?;
        }
        let (a, b) = match relation {
            Relation::Apart => {
                (place(&mut network, a, 0xa, INTERNET, home)?, place(&mut network, b, 0xb, INTERNET, home)?)
            }
            Relation::SameLan => {
                if a.kind != b.kind {
                    return Err(Error::invalid(
                        "kinds of one LAN",
                        format!("{:?} and {:?}", a.kind, b.kind),
                        "one kind",
                    ));
                }
                // The network has both families, so that each node may have what it has.
                let network_kind = NodeKind { families: Families::Dual, ..a };
                let first = place(&mut network, network_kind, 0xa, INTERNET, home)?;
                let addresses = addresses(a.families, &first.addresses);
                network.move_host(first.host, first.realm, &addresses)?;
                let neighbour: Vec<IpAddr> =
                    addresses_of_neighbour(&first.addresses).into_iter().filter(|ip| fits(b.families, *ip)).collect();
                let second = network.add_host(first.realm, &neighbour)?;
                if first.routers.is_empty() {
                    set_both(&mut network, second, home)?;
                }
                let b = Place { host: second, addresses: neighbour, ..first.clone() };
                (Place { addresses, ..first }, b)
            }
            Relation::SameCarrier { hairpin } => {
                if [a, b].iter().any(|node| node.kind != Kind::CarrierNat) {
                    let kinds = format!("{:?} and {:?}", a.kind, b.kind);
                    return Err(Error::invalid("kinds of one carrier", kinds, "CarrierNat for both"));
                }
                let carrier = carrier(&mut network, 0xa, hairpin)?;
                let realm = network.inner(carrier)?;
                let mut home_of = |node: NodeKind, tag| -> Result<Place> {
                    let mut place = behind_router(&mut network, node, tag, realm, eim_apdf(), Block::Nothing, home)?;
                    place.routers.push(carrier);
                    Ok(place)
                };
                (home_of(a, 0xa)?, home_of(b, 0xb)?)
            }
        };
        Ok(Self { network, relay: relay_host, a, b })
    }
}

fn relay_addresses() -> [IpAddr; 3] {
    [RELAY_V4.into(), RELAY_SECOND_V4.into(), RELAY_V6.into()]
}

fn place(network: &mut Network, node: NodeKind, tag: u8, outer: RealmId, home: Impairment) -> Result<Place> {
    let relay_only = || Block::AllExcept(relay_endpoints().to_vec());
    match node.kind {
        Kind::Nat(mapping, filtering, ports) => {
            let nat = Policy::Nat(NatConfig::new(mapping, filtering, ports));
            behind_router(network, node, tag, outer, nat, Block::Nothing, home)
        }
        Kind::Public => {
            let addresses = addresses(node.families, &[public_v4(tag).into(), inside_v6(tag).into()]);
            let host = network.add_host(outer, &addresses)?;
            set_both(network, host, home)?;
            Ok(Place { host, realm: outer, addresses, routers: Vec::new() })
        }
        Kind::Firewall => {
            let firewall = Policy::Firewall(FirewallConfig::default());
            behind_router(network, node, tag, outer, firewall, Block::Nothing, home)
        }
        Kind::UdpBlocked => behind_router(network, node, tag, outer, eim_apdf(), relay_only(), home),
        Kind::UdpBlockedAltogether => behind_router(network, node, tag, outer, eim_apdf(), Block::All, home),
        Kind::DoubleNat => {
            let v4 = eim_apdf();
            let external = vec![public_v4(tag).into()];
            let box_ = RouterConfig { v4, v6: Policy::Open, external, ..RouterConfig::default() };
            let outer_router = network.add_router(outer, box_)?;
            let realm = network.inner(outer_router)?;
            let mut place = behind_router(network, node, tag, realm, eim_apdf(), Block::Nothing, home)?;
            place.routers.push(outer_router);
            Ok(place)
        }
        Kind::CarrierNat => {
            let carrier = carrier(network, tag, false)?;
            let realm = network.inner(carrier)?;
            let mut place = behind_router(network, node, tag, realm, eim_apdf(), Block::Nothing, home)?;
            place.routers.push(carrier);
            Ok(place)
        }
    }
}

fn carrier(network: &mut Network, tag: u8, hairpin: bool) -> Result<RouterId> {
    let nat = NatConfig { hairpin, ..NatConfig::new(EIM, EIF, Ports::Random) };
    let external = vec![public_v4(tag).into()];
    network.add_router(
        INTERNET,
        RouterConfig { v4: Policy::Nat(nat), v6: Policy::Open, external, ..RouterConfig::default() },
    )
}

/// A node behind the router of its home.
fn behind_router(
    network: &mut Network,
    node: NodeKind,
    tag: u8,
    outer: RealmId,
    v4: Policy,
    block: Block,
    home: Impairment,
) -> Result<Place> {
    let translates = matches!(v4, Policy::Nat(_));
    let wan = if outer == INTERNET { public_v4(tag) } else { Ipv4Addr::new(100, 64, 0, tag) };
    let config = RouterConfig {
        v4,
        v6: Policy::Firewall(FirewallConfig::default()),
        external: if translates { vec![wan.into()] } else { Vec::new() },
        block,
        up: home,
        down: home,
    };
    let router = network.add_router(outer, config)?;
    let realm = network.inner(router)?;
    let v4 = if translates { Ipv4Addr::new(192, 168, 1, 10) } else { public_v4(tag) };
    let addresses = addresses(node.families, &[v4.into(), inside_v6(tag).into()]);
    let host = network.add_host(realm, &addresses)?;
    Ok(Place { host, realm, addresses, routers: vec![router] })
}

fn eim_apdf() -> Policy {
    Policy::Nat(NatConfig::default())
}

fn set_both(network: &mut Network, host: HostId, impairment: Impairment) -> Result<()> {
    Way::BOTH.into_iter().try_for_each(|way| network.set_link(host, way, impairment))
}

fn addresses(families: Families, all: &[IpAddr]) -> Vec<IpAddr> {
    all.iter().copied().filter(|ip| fits(families, *ip)).collect()
}

fn fits(families: Families, ip: IpAddr) -> bool {
    if ip.is_ipv4() { families.has_v4() } else { families.has_v6() }
}

fn addresses_of_neighbour(all: &[IpAddr]) -> Vec<IpAddr> {
    let next = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => IpAddr::from(Ipv4Addr::from_bits(ip.to_bits() + 1)),
        IpAddr::V6(ip) => IpAddr::from(Ipv6Addr::from_bits(ip.to_bits() + 1)),
    };
    all.iter().map(next).collect()
}

/// Of the block for documentation (RFC 5737).
fn public_v4(tag: u8) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, tag * 10)
}

/// Of the block for documentation (RFC 3849), a network for each tag.
fn inside_v6(tag: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, tag.into(), 0, 0, 0, 0, 0x10)
}
