//! Flows that policy permits on one kind of path only (`context.path`): the agent is told to ask for them on a connection that keeps to
//! it, where the flow waits for a direct path, or is not cut when one comes up.

use std::time::Instant;

use super::Connector;
use crate::node::flows::PATH;
use crate::quic::StreamId;
use crate::role::Asked;
use crate::trust::PathClass;
use crate::wire::proxy_status::{ProxyError, ProxyStatus};

impl Connector {
    /// The only kind of path that such a flow may take, where its connection may leave that kind or is not of it. `None` as well where
    /// policy permits it on neither.
    pub(super) fn only_path(&self, now: Instant, link: usize, agent: &str, asked: &Asked) -> Option<PathClass> {
        if !self.node.snapshot.policy.as_ref().is_some_and(|p| p.reads_path()) {
            return None;
        }
        let may = |path| self.decide(now, agent, path, asked).allowed;
        match (may(PathClass::Relay), may(PathClass::Direct)) {
            (true, false) => Some(PathClass::Relay),
            (false, true) if self.path_class(link) == PathClass::Relay => Some(PathClass::Direct),
            (false, true) | (true, true) | (false, false) => None,
        }
    }

    /// 421 (RFC 9110 §15.5.20): another connection to us would do.
    pub(super) fn misdirect(&mut self, link: usize, stream: StreamId, only: PathClass) {
        let only = only.as_str();
        let proxy = self.node.snapshot.identity().id.dns_name();
        let details = Some(format!("policy permits it on a {only} path only"));
        let header = ProxyStatus { proxy, error: ProxyError::HttpRequestDenied, details }.to_header();
        self.node.refuse(link, stream, &[(":status", "421"), (PATH, only), ("proxy-status", &header)]);
    }
}
