//! A port of the router's for our main socket: asked for once a relay has seen us behind a NAT, offered to peers while it lasts.

use std::time::Instant;

use super::Node;
use crate::port_mapping::PortMapping;
use crate::role::Action;

const NO_NAT: PortMapping = PortMapping::Unneeded { why: "no relay has seen this host behind a NAT" };

impl Node {
    /// Whether the router may be asked for a port. Off until set; before the first packet.
    pub fn set_port_mapping(&mut self, on: bool) {
        self.port_mapping = if on { NO_NAT } else { PortMapping::Off };
    }

    pub fn port_mapping(&self) -> &PortMapping {
        &self.port_mapping
    }

    /// Something was learnt of our addresses. The loop is told once; from there on it follows the network by itself.
    pub(super) fn want_port(&mut self) {
        if self.port_mapping == NO_NAT && self.reflexive.is_translated() {
            self.port_mapping = PortMapping::Asking;
            self.actions.push_back(Action::MapPort);
        }
    }

    /// What the loop has found since [`Action::MapPort`].
    pub fn handle_port_mapping(&mut self, now: Instant, mapping: &PortMapping) {
        if self.port_mapping == *mapping {
            return;
        }
        tracing::info!(state = mapping.as_str(), "port mapping");
        let offered = self.port_mapping.external();
        self.port_mapping = mapping.clone();
        if mapping.external() != offered {
            self.reflexive.set_mapped(mapping.external());
            self.offer_to_all(now);
        }
    }
}
