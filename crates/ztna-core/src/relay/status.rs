//! What an operator sees of a relay: status, statistics, sessions, metrics.

use std::net::SocketAddr;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use super::counters::Denial;
use super::shared::Shared;
use crate::metrics::{self, family};
use crate::role::State;

/// api.d.ts `RelayStatus`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayStatus {
    pub name: String,
    pub state: State,
    pub listen: Vec<SocketAddr>,
    /// In the order of their names.
    pub connectors: Vec<ConnectorStatus>,
    /// Agents' connections.
    pub agents: u64,
    pub sessions: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectorStatus {
    pub name: String,
    pub since: SystemTime,
    pub sessions: usize,
}

/// api.d.ts `RelaySession`; `Shared::kick` ends one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionStatus {
    pub id: u64,
    pub agent: String,
    pub connector: String,
    /// Inner bytes from the agent, and to it.
    pub rx_bytes: u64,
    pub tx_bytes: u64,
}

/// api.d.ts `RelayStats`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayStats {
    pub connections: u64,
    pub connectors: u64,
    pub sessions: usize,
    /// Inner bytes passed on, forwarded and tunnelled.
    pub bytes: u64,
    pub drops: Vec<(&'static str, u64)>,
}

impl Shared {
    pub fn status(&self) -> RelayStatus {
        let sessions = self.registry.sessions();
        let count = |name: &str| sessions.iter().filter(|s| s.connector == name).count();
        RelayStatus {
            name: self.name.get().cloned().unwrap_or_default(),
            state: if self.draining.load(Ordering::Relaxed) { State::Draining } else { State::Online },
            listen: self.config.listen.clone(),
            connectors: self
                .registry
                .binds()
                .into_iter()
                .map(|(name, b)| ConnectorStatus { sessions: count(&name), name, since: b.since })
                .collect(),
            agents: self.counters.agents.get(),
            sessions: sessions.len(),
        }
    }

    pub fn stats(&self) -> RelayStats {
        let c = &self.counters;
        RelayStats {
            connections: c.connections.get(),
            connectors: c.connectors.get(),
            sessions: self.registry.session_count(),
            bytes: c.forwarded_bytes.get() + c.tunnel_bytes.get(),
            drops: c.drops.all().to_vec(),
        }
    }

    /// In the order in which they began.
    pub fn sessions(&self) -> Vec<SessionStatus> {
        let view = |s: &super::registry::Session| SessionStatus {
            id: s.id,
            agent: s.agent.clone(),
            connector: s.connector.clone(),
            rx_bytes: s.rx.get(),
            tx_bytes: s.tx.get(),
        };
        self.registry.sessions().iter().map(|s| view(s)).collect()
    }

    /// OpenMetrics text (contract.md, Metrics). `now` is the wall clock's, `local` are drops that are counted elsewhere, by queue.
    pub fn metrics_text(&self, now: SystemTime, local: &[(&'static str, u64)]) -> String {
        let c = &self.counters;
        let mut out = String::new();
        let up = u8::from(!self.draining.load(Ordering::Relaxed));
        family(&mut out, &metrics::UP, &[("", u64::from(up))]);
        let connections = [("kind=\"agent\"", c.agents.get()), ("kind=\"connector\"", c.connectors.get())];
        family(&mut out, &metrics::CONNECTIONS, &connections);
        let sessions = self.registry.sessions();
        let across = sessions.iter().filter(|s| s.agent_loop != s.connector_loop).count() as u64;
        family(&mut out, &metrics::SESSIONS, &[("", sessions.len() as u64)]);
        family(&mut out, &metrics::SESSIONS_ACROSS_LOOPS, &[("", across)]);
        let bytes = [
            // What was passed on.
            ("direction=\"tx\",path=\"forwarded\"", c.forwarded_bytes.get()),
            ("direction=\"tx\",path=\"tunnel\"", c.tunnel_bytes.get()),
        ];
        family(&mut out, &metrics::BYTES, &bytes);
        let drops = c.drops.all();
        let drops: Vec<(String, u64)> =
            drops.iter().chain(local).map(|(queue, n)| (format!("queue=\"{queue}\""), *n)).collect();
        family(&mut out, &metrics::DROPS, &drops);
        let denied = Denial::ALL.map(|d| {
            (
                format!("by=\"relay\",reason=\"{}\"", d.as_str()),
                c.denied.get(d as usize).map_or(0, super::counters::Count::get),
            )
        });
        family(&mut out, &metrics::DENIED, &denied);
        let h = &c.handshakes;
        let handshakes = [
            ("result=\"ok\"", h.ok.get()),
            ("result=\"refused\"", h.refused.get()),
            ("result=\"failed\"", h.failed.get()),
            ("result=\"limited\"", h.limited.get()),
            ("result=\"bad_token\"", h.bad_token.get()),
        ];
        family(&mut out, &metrics::HANDSHAKES, &handshakes);
        family(&mut out, &metrics::STATELESS_RESETS, &[("", c.resets.get())]);
        family(&mut out, &metrics::BURSTS_WITHHELD, &[("", c.bursts_withheld.get())]);
        let expiry = *self.expiry.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = expiry {
            let left = at.duration_since(now).map_or(0, |d| d.as_secs());
            family(&mut out, &metrics::CERTIFICATE_EXPIRY, &[("", left)]);
        }
        out.push_str("# EOF\n");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::RelayConfig;
    use std::sync::Arc;

    #[test]
    fn metrics_are_openmetrics_text() {
        let shared = Shared::new(RelayConfig::new(Vec::new()), 1, Arc::new(|_| ()));
        shared.counters().drops.stray.add(3);
        let text = shared.metrics_text(SystemTime::UNIX_EPOCH, &[("events", 7)]);
        assert!(
            text.starts_with("# TYPE ztna_up gauge\n# HELP ztna_up Whether the role is online: 1, or 0.\nztna_up 1\n"),
            "{text}"
        );
        assert!(text.contains("\n# TYPE ztna_bytes counter\n# UNIT ztna_bytes bytes\n# HELP ztna_bytes "), "{text}");
        assert!(text.contains("\nztna_drops_total{queue=\"stray\"} 3\n"), "{text}");
        assert!(text.contains("\nztna_drops_total{queue=\"events\"} 7\n"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}
