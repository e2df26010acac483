//! What a request has tried in vain, in words for whoever has to mend it.

use std::borrow::Cow;
use std::time::Instant;

use super::explain::evidence;
use crate::error::Error;
use crate::node::Node;
use crate::node::outage::{CHECK_UDP, UDP_BLOCKED};
use crate::path::demand::Demand;
use crate::role::PathPolicy;
use crate::trust::PathClass;

/// Lines that one request keeps: each relay and connector, with the few things that go wrong with it.
const MAX_LINES: usize = 16;
/// Causes named in the message itself; all are in `tried`.
const NAMED: usize = 3;

/// Why the connections that were to take a request came to nothing.
#[derive(Debug, Default)]
pub(super) struct Tried {
    lines: Vec<String>,
    last: Option<Error>,
    /// What there was to say of the direct path that it needs.
    indirect: Option<Indirect>,
}

#[derive(Debug)]
struct Indirect {
    /// Who wants it.
    why: String,
    /// The cause to act on first, and what to do about it.
    reason: &'static str,
    remedy: Option<&'static str>,
}

impl Tried {
    /// `relay`: the one that said so, where it was one. The same failure again changes nothing.
    pub(super) fn add(&mut self, relay: Option<&str>, error: &Error) {
        let line = match relay {
            Some(relay) => format!("relay {relay}: {}", error.detail()),
            None => error.detail(),
        };
        self.last = Some(error.clone());
        if self.lines.len() < MAX_LINES && !self.lines.contains(&line) {
            self.lines.push(line);
        }
    }

    /// Where nothing has failed yet: what the connections to `connectors` wait for, or what the relays said to those that have
    /// lost their way. `demand`: who leaves the request one kind of path only.
    pub(super) fn note_pending(&mut self, node: &Node, now: Instant, connectors: &[String], demand: Option<&Demand>) {
        if let Some(demand) = demand.filter(|d| d.only == PathClass::Direct) {
            self.note_indirect(node, now, connectors, demand);
        }
        if !self.lines.is_empty() {
            return;
        }
        let pending = node.links.iter().filter(|(_, l)| connectors.contains(&l.peer) && !l.conn.is_established());
        for error in pending.filter_map(|(key, _)| silence(node, now, key)) {
            self.add(None, &error);
        }
        let astray = node
            .links
            .iter()
            .filter(|(_, l)| connectors.contains(&l.peer) && l.path.active().is_none())
            .map(|(_, l)| l);
        for (relay, error) in astray.flat_map(|l| &l.refused) {
            self.add(Some(relay), error);
        }
    }

    /// Connections that stand and have no direct path, where the request may take no other.
    fn note_indirect(&mut self, node: &Node, now: Instant, connectors: &[String], demand: &Demand) {
        let indirect = node.links.iter().filter(|(_, l)| {
            connectors.contains(&l.peer)
                && l.policy == PathPolicy::DirectOnly
                && l.conn.is_established()
                && !l.can_ask()
        });
        for (key, l) in indirect {
            let Some(found) = evidence(node, now, key, None) else { continue };
            if self.indirect.is_none() {
                // The connection stands: what it took to get there is past.
                self.lines.clear();
            }
            for why in found.reasons {
                let message = format!("no direct path to connector `{}`: {}", l.peer, why.detail);
                let reason = Some(why.cause.as_str());
                self.add(None, &Error::Unreachable { message, reason, tried: Vec::new() });
                self.indirect.get_or_insert(Indirect {
                    why: demand.describe(),
                    reason: why.cause.as_str(),
                    remedy: why.remedy,
                });
            }
        }
    }

    /// The error of a request whose time is over: who was tried, what each said, and what to do about it.
    pub(super) fn give_up(&self, node: &Node, service: &str) -> Error {
        let mut tried = self.lines.clone();
        let said = |lines: &[String]| lines.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
        if let Some(Error::Unreachable { message, reason, tried: relays }) = node.outage() {
            tried.extend(relays);
            return Error::Unreachable { message: format!("service `{service}`: {message}"), reason, tried };
        }
        tried.extend(node.legs.iter().filter(|(_, l)| !l.is_ready()).map(|(_, l)| l.describe()));
        if let Some(Indirect { why, reason, remedy }) = &self.indirect {
            let remedy = remedy.unwrap_or("allow it more time");
            let message = format!("service `{service}`: {why}, and there is {}; {remedy}", said(&self.lines));
            return Error::Unreachable { message, reason: Some(reason), tried };
        }
        let (reason, advice): (_, Cow<'static, str>) = match &self.last {
            Some(Error::Limit(_)) => {
                let text = format!("service `{service}`: {}; try again later, or raise the limit", said(&self.lines));
                return Error::Limit(text);
            }
            Some(Error::Unreachable { reason: Some(NOT_BOUND), .. }) => {
                (Some(NOT_BOUND), "start `ztna connector` for it, or see its log for why it is not online".into())
            }
            Some(Error::Unreachable { reason: Some(UDP_BLOCKED), .. }) => (Some(UDP_BLOCKED), check_udp().into()),
            Some(Error::Unreachable { reason: Some(SILENT), .. }) => {
                (Some(SILENT), "see whether its process hangs or its host has lost the network".into())
            }
            Some(Error::Unreachable { reason: Some(cause), .. }) => {
                (Some(*cause), "`ztna status` shows what is connected".into())
            }
            Some(_) => (None, "`ztna status` shows what is connected".into()),
            None => (None, "it may only need more time; `ztna status` shows what is connected".into()),
        };
        let causes = if self.lines.is_empty() { "nothing answered in time".to_owned() } else { said(&self.lines) };
        Error::Unreachable { message: format!("service `{service}`: {causes}; {advice}"), reason, tried }
    }
}

/// The connector is not at the relay that was asked.
pub(super) const NOT_BOUND: &str = crate::node::outer::NOT_BOUND;
/// What to do where a relay has fallen silent.
pub(super) fn check_udp() -> String {
    format!("{CHECK_UDP} ({UDP_BLOCKED})")
}
/// It is there, and gives no sign.
pub(super) const SILENT: &str = "silent";

/// Why a connection that is not established yet has gone silent.
pub(super) fn silence(node: &Node, now: Instant, link: usize) -> Option<Error> {
    let peer = &node.links.get(link)?.peer;
    let mut sessions = node.sessions.iter().filter(|(_, s)| s.link == Some(link)).map(|(_, s)| s);
    let session = sessions.clone().find(|s| s.confirmed).or_else(|| sessions.next())?;
    if let Some(error) = relay_silence(node, now, link) {
        return Some(error);
    }
    let relay = &node.legs.get(session.slot.leg)?.relay;
    Some(if session.confirmed {
        let message = format!("relay {relay}: connector `{peer}` is bound there and does not answer");
        Error::Unreachable { message, reason: Some(SILENT), tried: Vec::new() }
    } else {
        Error::unreachable(format!("relay {relay}: does not answer the request for connector `{peer}`"))
    })
}

/// Why nothing is heard on a connection, where no relay that it goes by answers any more.
pub(super) fn relay_silence(node: &Node, now: Instant, link: usize) -> Option<Error> {
    let legs =
        node.sessions.iter().filter(|(_, s)| s.link == Some(link)).filter_map(|(_, s)| node.legs.get(s.slot.leg));
    let mut silent = legs.clone().filter(|l| l.is_doubtful(now));
    let relay = &silent.next()?.relay;
    if legs.count() > silent.count() + 1 {
        return None;
    }
    let message = format!("relay {relay}: no longer answers");
    Some(Error::Unreachable { message, reason: Some(UDP_BLOCKED), tried: Vec::new() })
}
