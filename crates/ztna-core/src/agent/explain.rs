//! Operation `explain`: what both ends know of the paths of one connection.

use std::time::{Duration, Instant};

use super::Agent;
use crate::error::Error;
use crate::path::Direct;
use crate::path::explain::{Surroundings, explain};
use crate::role::{Action, Answer, PathPolicy};

/// The other end is asked what it found, and waited for so long.
const PATIENCE: Duration = Duration::from_secs(2);

/// One that waits for the other end's word.
#[derive(Debug)]
pub(super) struct Explaining {
    pub(super) op: u64,
    link: usize,
    statuses: u64,
    pub(super) until: Instant,
}

impl Agent {
    pub(super) fn begin_explain(&mut self, now: Instant, op: u64, service: &str, path: PathPolicy) {
        let connectors = self.node.snapshot.network.service(service).map(|s| s.connectors.clone()).unwrap_or_default();
        let found = self
            .node
            .links
            .iter_mut()
            .filter(|(_, l)| connectors.contains(&l.peer) && l.policy == path && l.conn.is_established())
            .min_by_key(|(_, l)| l.conn.rtt());
        let Some((link, l)) = found else {
            let error = Error::unreachable(format!("service `{service}`: there is no connection to a connector of it"));
            return self.node.actions.push_back(Action::Answer { op, result: Err(error) });
        };
        let statuses = l.path.direct().map_or(0, Direct::statuses);
        let mut until = now;
        if let Some(direct) = l.path.direct_mut() {
            direct.ask_status();
            until = now + PATIENCE;
        }
        self.node.touch_link(link);
        self.explaining.push(Explaining { op, link, statuses, until });
    }

    /// Answers those whose other end has spoken, or will not.
    pub(super) fn settle_explaining(&mut self, now: Instant) {
        for e in std::mem::take(&mut self.explaining) {
            let statuses = self.node.links.get(e.link).and_then(|l| l.path.direct()).map_or(0, Direct::statuses);
            if now < e.until && statuses == e.statuses && self.node.links.contains(e.link) {
                self.explaining.push(e);
                continue;
            }
            let result = self.explanation(e.link).ok_or(Error::Aborted);
            self.node.actions.push_back(Action::Answer { op: e.op, result });
        }
    }

    fn explanation(&self, key: usize) -> Option<Answer> {
        let link = self.node.links.get(key)?;
        let around = Surroundings {
            relay_only: link.policy == PathPolicy::RelayOnly,
            second_port_silent: self.node.silent_second_port(),
            port_mapping: self.node.port_mapping().clone(),
        };
        let evidence = Box::new(explain(link.path.direct(), around));
        Some(Answer::Explain { path: self.node.describe_path(key)?, evidence, peer: link.peer.clone() })
    }
}
