//! Flows that policy permits on one kind of path only (`context.path`): the agent is told to ask for them on a connection that keeps to
//! it, where the flow waits for a direct path, or is not cut when one comes up.

use std::time::Instant;

use super::Connector;
use crate::error::Error;
use crate::id::FlowId;
use crate::node::flows::PATH;
use crate::quic::StreamId;
use crate::quic::connection::H3_REQUEST_CANCELLED;
use crate::role::{Asked, PathPolicy};
use crate::trust::{FlowContext, PathClass};
use crate::wire::proxy_status::{ProxyError, ProxyStatus};

impl Connector {
    /// The only kind of path that such a flow may take, and the policy that settles it: its connection may leave it, whichever it is on.
    pub(super) fn only_path(&self, now: Instant, agent: &str, asked: &Asked) -> Option<(PathClass, Option<String>)> {
        let (service, port, protocol) = (asked.service.as_str(), asked.port.unwrap_or(0), asked.protocol);
        let flow = FlowContext { service, protocol, port, path: PathClass::Relay, now: self.node.wall(now) };
        self.node.snapshot.policy.as_ref()?.only_path(agent, &flow)
    }

    /// The connection keeps to one kind of path from now on, for our part too. The kind again where it is not of it yet: the other end
    /// moves first, and what we answer would go by the relay.
    pub(super) fn keep_to(&mut self, link: usize, only: PathClass) -> Option<PathClass> {
        let link = self.node.links.get_mut(link)?;
        match only {
            PathClass::Relay => {
                link.policy = PathPolicy::RelayOnly;
                None
            }
            PathClass::Direct => {
                link.policy = PathPolicy::DirectOnly;
                link.path.keep_apart();
                (!link.path.kinds().is_only_direct()).then_some(only)
            }
        }
    }

    /// The direct path of a connection is lost: what may take no other ends before anything of it is sent.
    pub(super) fn cut_direct_only(&mut self, link: usize) {
        let Some(l) = self.node.links.get_mut(link).filter(|l| l.policy == PathPolicy::DirectOnly) else { return };
        l.conn.forget_datagrams();
        let flows: Vec<FlowId> = l.flows.values().copied().collect();
        for id in flows {
            let message = "the direct path is lost, and the flow may take no other".to_owned();
            let error = Error::Unreachable { message, reason: Some("direct-lossy"), tried: Vec::new() };
            self.node.cut_flow_with(id, H3_REQUEST_CANCELLED, error);
        }
    }

    /// 421 (RFC 9110 §15.5.20): another connection to us would do, or this one later. `details`: why not now.
    pub(super) fn misdirect(&mut self, link: usize, stream: StreamId, only: PathClass, details: String) {
        let only = only.as_str();
        let proxy = self.node.snapshot.identity().id.dns_name();
        let details = Some(details);
        let header = ProxyStatus { proxy, error: ProxyError::HttpRequestDenied, details }.to_header();
        self.node.refuse(link, stream, &[(":status", "421"), (PATH, only), ("proxy-status", &header)]);
    }
}
