//! A [`Network`] between network namespaces: a description of it, and commands while it runs.

pub mod command;
mod config;
mod help;

use std::collections::BTreeMap;

pub use config::parse;
pub use help::HELP;

use crate::args::End;
use crate::sim::{HostId, INTERNET, Network, RealmId, RouterId};
use crate::{Error, Result};

/// A network, the names of its parts and the interfaces that its hosts are.
#[derive(Debug)]
pub struct Lab {
    /// What carries the packets.
    pub network: Network,
    /// Where packets come from and go to, one interface for each host.
    pub ends: Vec<(HostId, End)>,
    /// MTU of all interfaces, in bytes.
    pub if_mtu: u16,
    names: BTreeMap<String, Part>,
}

#[derive(Debug, Clone, Copy)]
enum Part {
    Host(HostId),
    Router(RouterId),
}

impl Lab {
    /// `internet`, or the realm behind the router of this name.
    fn realm(&self, name: &str) -> Result<RealmId> {
        if name == "internet" { Ok(INTERNET) } else { self.network.inner(self.router(name)?) }
    }

    fn router(&self, name: &str) -> Result<RouterId> {
        match self.names.get(name) {
            Some(Part::Router(router)) => Ok(*router),
            Some(Part::Host(_)) | None => Err(Error::invalid("router", name, "a router's name")),
        }
    }

    fn host(&self, name: &str) -> Result<HostId> {
        match self.names.get(name) {
            Some(Part::Host(host)) => Ok(*host),
            Some(Part::Router(_)) | None => Err(Error::invalid("host", name, "a host's name")),
        }
    }

    fn part(&self, name: &str) -> Result<Part> {
        self.names.get(name).copied().ok_or_else(|| Error::invalid("name", name, "that of a router or a host"))
    }
}
