//! A network of homes: nodes are in homes, each home has a NAT, a firewall or neither, and a line to the Internet; relays are on the
//! Internet. What is changed, is changed by the names of nodes and homes.
//!
//! ```text
//!            the Internet
//!      ┌──────────┼───────────────┐
//!   relay r1    line            line
//!             home alice     home office
//!              alice           c1  c2
//! ```
//!
//! No sockets and no clock, as the [`Network`] beneath.

mod addresses;
mod build;
mod spec;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

pub use spec::{Blocked, Change, HomeSpec, LineSpec, NatSpec, Spec};

use crate::impairment::Impairment;
use crate::sim::kinds::{Families, RELAY_PORTS};
use crate::sim::{Block, HostId, INTERNET, Network, RealmId, RouterId, Way};
use crate::{Error, Result};
use addresses::PublicAddresses;

/// Nodes and relays of one network: far more than a test has.
const MAX_HOSTS: usize = 200;

/// The network and the names of what is in it.
#[derive(Debug)]
pub struct Homes {
    network: Network,
    relays: BTreeMap<String, HostId>,
    nodes: BTreeMap<String, Node>,
    homes: BTreeMap<String, Home>,
    public: PublicAddresses,
    /// Homes built so far: each has an IPv6 network of its own.
    built: u16,
    touched: BTreeSet<HostId>,
}

#[derive(Debug)]
struct Node {
    host: HostId,
    home: String,
    /// Its number in the home, which its addresses follow from.
    slot: u8,
    addresses: Vec<IpAddr>,
}

#[derive(Debug)]
struct Home {
    nat: NatSpec,
    families: Families,
    line: Impairment,
    block: Blocked,
    realm: RealmId,
    /// The nearest to the nodes first. There is one at least, which has the line.
    routers: Vec<RouterId>,
    /// The address that all nodes of the home share, where they do.
    external: Option<IpAddr>,
    tag: u16,
    /// It was added while the network ran: it goes when the last node leaves it.
    passing: bool,
}

impl Homes {
    /// Builds what is described. Errors say which part is wrong, and what is accepted.
    pub fn new(spec: &Spec) -> Result<Self> {
        if spec.nodes.len() + spec.relays.len() > MAX_HOSTS {
            return Err(Error::Config(format!("nodes and relays: {MAX_HOSTS} are accepted at most")));
        }
        let mut homes = Homes {
            network: Network::new(spec.seed),
            relays: BTreeMap::new(),
            nodes: BTreeMap::new(),
            homes: BTreeMap::new(),
            public: PublicAddresses::default(),
            built: 0,
            touched: BTreeSet::new(),
        };
        for (index, (name, line)) in (1..).zip(&spec.relays) {
            let host = homes.network.add_host(INTERNET, &addresses::of_relay(index))?;
            let line = line.over(Impairment::default()).map_err(|e| e.within(name))?;
            for way in Way::BOTH {
                homes.network.set_link(host, way, line)?;
            }
            homes.relays.insert(name.clone(), host);
        }
        for (name, home) in &spec.homes {
            homes.add_home(name, home).map_err(|e| e.within(name))?;
        }
        for (name, home) in &spec.nodes {
            let host = homes.network.add_host(INTERNET, &[])?;
            let node = Node { host, home: home.clone(), slot: homes.free_slot(home)?, addresses: Vec::new() };
            homes.nodes.insert(name.clone(), node);
            homes.settle(name)?;
        }
        homes.touched.clear();
        Ok(homes)
    }

    /// The network, to send by and to poll.
    pub fn network(&mut self) -> &mut Network {
        &mut self.network
    }

    /// The host of a node or relay. Errors: nobody has that name.
    pub fn host(&self, name: &str) -> Result<HostId> {
        let node = self.nodes.get(name).map(|node| node.host);
        node.or_else(|| self.relays.get(name).copied()).ok_or_else(|| {
            let known = self.nodes.keys().chain(self.relays.keys());
            unknown("node or relay", name, known)
        })
    }

    /// Hosts whose network has changed in a way that they notice themselves, since the last call.
    pub fn take_touched(&mut self) -> BTreeSet<HostId> {
        std::mem::take(&mut self.touched)
    }

    /// Does what is asked. Poll the network up to now before. On an error nothing has changed.
    pub fn change(&mut self, change: &Change) -> Result<()> {
        match change {
            Change::SetNat { at, nat } => self.set_nat(&self.home_of(at)?, *nat),
            Change::SetLine { at: Some(at), line } => self.set_line(&[self.home_of(at)?], line),
            Change::SetLine { at: None, line } => self.set_line(&self.homes.keys().cloned().collect::<Vec<_>>(), line),
            Change::Block { at, what } => self.block(&self.home_of(at)?, *what),
            Change::Rebind { at } => {
                let home = self.home(&self.home_of(at)?)?;
                home.routers.clone().into_iter().try_for_each(|router| self.network.rebind(router))
            }
            Change::AddHome { name, home } => {
                self.add_home(name, home).map_err(|e| e.within(name))?;
                self.homes.get_mut(name).ok_or_else(|| gone(name))?.passing = true;
                Ok(())
            }
            Change::Move { node, home } => self.move_node(node, home),
        }
    }

    /// Takes a node to a home; it may be the one it is in, which it then leaves and enters again.
    fn move_node(&mut self, name: &str, to: &str) -> Result<()> {
        let home = self.home(to)?;
        if home.families.has_v4() && !home.nat.translates() && self.public.left() == 0 {
            return Err(Error::Config("no public address is left".into()));
        }
        let slot = self.free_slot(to)?;
        let known = unknown("node", name, self.nodes.keys());
        let node = self.nodes.get_mut(name).ok_or(known)?;
        let left = node.home.clone();
        if left != to {
            node.slot = slot;
            node.home = to.to_owned();
        }
        self.settle(name)?;
        let is_empty = self.nodes.values().all(|node| node.home != left);
        if is_empty && self.homes.get(&left).is_some_and(|home| home.passing) {
            self.remove_home(&left)?;
        }
        Ok(())
    }

    fn set_line(&mut self, homes: &[String], line: &LineSpec) -> Result<()> {
        // All before any: a value that is not accepted changes nothing.
        let lines = homes.iter().map(|name| line.over(self.home(name)?.line)).collect::<Result<Vec<_>>>()?;
        for (name, line) in homes.iter().zip(lines) {
            let home = self.homes.get_mut(name).ok_or_else(|| gone(name))?;
            home.line = line;
            if let Some(router) = home.routers.first() {
                for way in Way::BOTH {
                    self.network.set_link(*router, way, line)?;
                }
            }
        }
        Ok(())
    }

    fn block(&mut self, name: &str, what: Blocked) -> Result<()> {
        let block = self.block_of(what);
        let home = self.homes.get_mut(name).ok_or_else(|| gone(name))?;
        home.block = what;
        home.routers.first().map_or(Ok(()), |router| self.network.block(*router, block))
    }

    fn block_of(&self, what: Blocked) -> Block {
        match what {
            Blocked::Nothing => Block::Nothing,
            Blocked::Direct => {
                let ips = self.relays.values().flat_map(|relay| self.network.addresses(*relay));
                Block::AllExcept(ips.flat_map(|ip| RELAY_PORTS.map(|port| SocketAddr::new(ip, port))).collect())
            }
            Blocked::Udp => Block::All,
        }
    }

    fn home(&self, name: &str) -> Result<&Home> {
        self.homes.get(name).ok_or_else(|| unknown("home", name, self.homes.keys()))
    }

    /// A home by its own name or by that of a node that is in it.
    fn home_of(&self, name: &str) -> Result<String> {
        match self.nodes.get(name) {
            Some(node) => Ok(node.home.clone()),
            None if self.homes.contains_key(name) => Ok(name.to_owned()),
            None => Err(unknown("node or home", name, self.nodes.keys().chain(self.homes.keys()))),
        }
    }
}

fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a String>) -> Error {
    let known: BTreeSet<&str> = known.map(String::as_str).collect();
    let list = known.into_iter().collect::<Vec<_>>().join(", ");
    Error::Config(format!("no {what} is called {name:?}; known: {list}"))
}

fn gone(name: &str) -> Error {
    Error::Config(format!("no home is called {name:?}"))
}
