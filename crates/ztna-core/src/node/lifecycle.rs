//! Draining, certificate expiry and changes of the host's network: what happens to a node as a whole.

use std::time::{Duration, Instant};

use super::leg::LegState;
use super::link::Link;
use super::{Node, backoff};
use crate::error::Error;
use crate::quic::connection::H3_NO_ERROR;
use crate::role::{Action, State};

/// How long a role that ends waits for room for its last packets: one that can't send for a second has lost its relay, or the relay
/// its way. A peer that is not told keeps the connection until its idle timeout.
const LEAVE: Duration = Duration::from_secs(1);
/// How often it looks whether they have left.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(1);

impl Node {
    /// Stops taking new work; `Action::End` follows once flows have ended, at the latest after `within`.
    pub fn shut_down(&mut self, now: Instant, within: Duration) {
        let until = now + within;
        self.draining = Some(self.draining.map_or(until, |d| d.min(until)));
        self.set_state(State::Draining, "asked to close");
        for (key, link) in self.links.iter_mut() {
            if !self.is_agent {
                link.conn.goaway();
            }
            // A peer that is gone owes the answer: its flows are not waited for.
            if link.conn.is_established() {
                link.conn.ping();
            }
            self.dirty_links.insert(key);
        }
    }

    /// Ends the role once its drain is over and peers have been told. `true` while draining.
    pub fn settle_drain(&mut self, now: Instant) -> bool {
        let Some(until) = self.draining else { return false };
        if self.state == State::Closed {
            return true;
        }
        if self.leaving.is_none() {
            if now < until && !self.is_quiet(now) {
                return true;
            }
            self.take_leave(now);
        }
        if self.leaving.is_some_and(|by| now >= by) || self.has_taken_leave() {
            let legs: Vec<usize> = self.legs.iter().map(|(k, _)| k).collect();
            for key in legs {
                self.drop_leg(now, key, "closing", false);
            }
            self.set_state(State::Closed, "closed");
            self.actions.push_back(Action::End(Ok(())));
        }
        true
    }

    /// The drain is over: nothing that happens is acted on any more.
    pub fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// Ends with an error instead.
    pub fn replace_end(&mut self, error: Error) {
        if let Some(end) = self.actions.iter_mut().find(|a| matches!(a, Action::End(Ok(())))) {
            *end = Action::End(Err(error));
        }
    }

    /// Closes all inner connections. What goes at once leaves before this role's next packets do.
    fn take_leave(&mut self, now: Instant) {
        /// Bursts made ahead: a close is a packet or two a connection, and data may be in front of it.
        const AHEAD: usize = 256;
        self.leaving = Some(now + LEAVE);
        let links: Vec<usize> = self.links.iter().map(|(k, _)| k).collect();
        for key in links {
            self.close_link(key, H3_NO_ERROR, "closing");
        }
        self.process(now);
        self.queue_transmits();
        let mut last = Vec::new();
        let mut out = Vec::new();
        while last.len() < AHEAD
            && let Some(t) = self.poll_transmit(now, &mut out)
        {
            last.push((std::mem::take(&mut out), t));
        }
        for (bytes, t) in last {
            self.transmit.push_closing(bytes, t);
        }
    }

    /// Every inner connection's last packet has left, through the tunnel where it goes that way.
    fn has_taken_leave(&self) -> bool {
        let said = |l: &Link| l.conn.has_said_close() || l.path.active().is_none();
        self.links.iter().all(|(_, l)| said(l)) && !self.legs.iter().any(|(_, l)| l.is_alive() && l.has_unsent())
    }

    /// Warns once when a third of our certificate's life is left (contract.md). Gives whether that has been said.
    pub fn warn_expiry(&mut self, now: Instant, warned: bool) -> bool {
        let own = self.snapshot.identity();
        let (from, to) = (own.not_before, own.not_after);
        let life = to.duration_since(from).unwrap_or_default();
        let left = to.duration_since(self.wall(now)).unwrap_or_default();
        if !warned && left <= life / 3 {
            let text = format!("our certificate expires in {} min: run `ztna pki renew`", left.as_secs() / 60);
            self.warn(Error::Identity(text));
            return true;
        }
        warned
    }

    /// Something new is about to be asked for: relays not spoken to lately are asked for a sign of life, so that one that has lost
    /// us says so in a round trip (RFC 9000 §10.3) and not when the silence is noticed.
    pub fn probe_idle_legs(&mut self, now: Instant) {
        /// As often as a connector asks anyway.
        const LATELY: Duration = super::leg::KEEP_ALIVE_BOUND;
        for (key, leg) in self.legs.iter_mut().filter(|(_, l)| l.is_alive() && now >= l.last_sent + LATELY) {
            if let Some(conn) = leg.conn.as_mut() {
                conn.ping();
                self.dirty_legs.insert(key);
            }
        }
    }

    /// Asks every relay for a sign of life, so that one that went away in a quiet hour is known before it is needed.
    pub fn probe_legs(&mut self) {
        for (key, leg) in self.legs.iter_mut().filter(|(_, l)| l.is_alive()) {
            if let Some(conn) = leg.conn.as_mut() {
                conn.ping();
                self.dirty_legs.insert(key);
            }
        }
    }

    /// Addresses or routes changed: relays that wait are tried now, the others are asked for a sign of life.
    pub fn handle_network_change(&mut self, now: Instant) {
        self.direct_network_change(now);
        for (key, leg) in self.legs.iter_mut() {
            match leg.state {
                LegState::Waiting { until } if until > now => {
                    leg.backoff = backoff::Backoff::default();
                    leg.state = LegState::Waiting { until: now };
                }
                LegState::Ready | LegState::Draining => {
                    if let Some(conn) = leg.conn.as_mut() {
                        conn.path_changed();
                        conn.ping();
                    }
                }
                LegState::Waiting { .. } | LegState::Connecting { .. } | LegState::Replaced => {}
            }
            self.dirty_legs.insert(key);
        }
        for (key, link) in self.links.iter_mut() {
            if link.conn.is_established() {
                link.conn.ping();
                self.dirty_links.insert(key);
            }
        }
    }
}
