//! What the operator of the network in memory publishes: certificates, network.toml, policies.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use ztna_core::trust::pki::LeafSpec;
use ztna_core::trust::{NodeFiles, Secret, Snapshot};
use ztna_core::{Role, SpiffeId};

use super::{DOMAIN, Node, World};

impl World {
    pub fn tunnel_only(&mut self) {
        self.network = format!("relay_mode = \"tunnel\"\n{}", self.network);
    }

    pub fn snapshot(&self, role: Role, name: &str) -> Arc<Snapshot> {
        let id = SpiffeId::new(DOMAIN, role, name).unwrap();
        let mut leaves = self.leaves.borrow_mut();
        let leaf = leaves
            .entry(id.clone())
            .or_insert_with(|| self.ca.issue(&LeafSpec::node(&id, SystemTime::now(), self.life)).unwrap());
        let files = NodeFiles {
            cert_pem: leaf.cert_pem.clone(),
            key_pem: Secret::new(leaf.key_pem.expose().to_owned()),
            ca_pem: self.ca.cert_pem.clone(),
            network_toml: self.network.clone(),
            policy_cedar: (role != Role::Agent).then(|| self.policy.clone()),
            revoked_toml: (role != Role::Agent).then(String::new),
            version: self.version,
            folder: None,
        };
        Arc::new(Snapshot::from_files(&files, SystemTime::now()).unwrap())
    }

    /// Changes network.toml, and publishes it to relays and connectors.
    pub fn edit_network(&mut self, from: &str, to: &str) {
        assert!(self.network.contains(from), "{}", self.network);
        self.network = self.network.replace(from, to);
        self.set_policy(&self.policy.clone());
    }

    /// Publishes another policy to relays and connectors.
    pub fn set_policy(&mut self, policy: &str) {
        self.policy = policy.into();
        let names: Vec<(SocketAddr, Role, String)> = self
            .nodes
            .iter()
            .filter_map(|(at, n)| match n {
                Node::Connector(c) => Some((*at, Role::Connector, c.node().snapshot.identity().id.name().to_owned())),
                Node::Relay(_) => {
                    Some((*at, Role::Relay, format!("r{}", at.ip().to_string().rsplit('.').next().unwrap())))
                }
                Node::Agent(_) | Node::Hostile(_) | Node::Played(_) => None,
            })
            .collect();
        for (at, role, name) in names {
            let snapshot = self.snapshot(role, &name);
            self.nodes.get_mut(&at).unwrap().machine().handle_snapshot(Instant::now(), snapshot);
        }
    }

    /// Gives a running node another certificate; the one it had stays good until its end.
    pub fn renew(&mut self, at: SocketAddr, role: Role, name: &str) {
        self.leaves.borrow_mut().remove(&SpiffeId::new(DOMAIN, role, name).unwrap());
        self.version += 1;
        let snapshot = self.snapshot(role, name);
        self.machine(at).handle_snapshot(Instant::now(), snapshot);
    }
}
