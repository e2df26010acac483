//! Shutting down: GOAWAY first, so that nodes move; then the rest of the sessions; then the connections.

use std::time::{Duration, Instant};

use super::machine::Relay;
use crate::quic::ConnKey;
use crate::quic::connection::H3_NO_ERROR;
use crate::role::{Notice, State};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Running,
    /// GOAWAY is on its way; nothing may be closed before it has been sent.
    GoingAway {
        until: Instant,
    },
    /// Waits for sessions to end.
    Draining {
        until: Instant,
    },
    /// Every connection is closed; its CONNECTION_CLOSE has still to be sent.
    Closing,
    /// All is sent: the loop may end.
    Closed {
        at: Instant,
    },
    Ended,
}

impl Phase {
    /// When the phase wants to be looked at.
    pub(super) fn deadline(self) -> Option<Instant> {
        match self {
            Phase::Running | Phase::GoingAway { .. } | Phase::Closing | Phase::Ended => None,
            Phase::Draining { until } => Some(until),
            Phase::Closed { at } => Some(at),
        }
    }

    /// Everything that was to be sent is with the loop.
    pub(super) fn flushed(&mut self, now: Instant) {
        *self = match *self {
            Phase::GoingAway { until } => Phase::Draining { until },
            Phase::Closing => Phase::Closed { at: now },
            Phase::Running | Phase::Draining { .. } | Phase::Closed { .. } | Phase::Ended => return,
        };
    }

    pub(super) fn state(self) -> State {
        match self {
            Phase::Running => State::Online,
            Phase::GoingAway { .. } | Phase::Draining { .. } | Phase::Closing | Phase::Closed { .. } => State::Draining,
            Phase::Ended => State::Closed,
        }
    }
}

impl Relay {
    pub(super) fn begin_drain(&mut self, now: Instant, within: Duration) {
        let asked = now + within;
        match &mut self.phase {
            Phase::Running => {}
            Phase::GoingAway { until } | Phase::Draining { until } => {
                *until = asked.min(*until);
                return;
            }
            Phase::Closing | Phase::Closed { .. } | Phase::Ended => return,
        }
        self.phase = Phase::GoingAway { until: asked };
        self.shared.drain();
        self.notice(Notice::State { next: State::Draining, prev: State::Online, reason: "shutting down".into() });
        for key in self.conn_keys() {
            if let Some(conn) = self.conn(key) {
                conn.quic.goaway();
            }
            self.touch(key);
        }
    }

    /// `true`: connections were closed and want to be settled.
    pub(super) fn advance_drain(&mut self, now: Instant) -> bool {
        match self.phase {
            Phase::Draining { until } if now >= until || (self.agents.is_empty() && self.connectors.is_empty()) => {
                self.phase = Phase::Closing;
                for key in self.conn_keys() {
                    self.close(key, H3_NO_ERROR, "the relay is shutting down");
                }
                true
            }
            Phase::Closed { .. } => {
                self.notice(Notice::State { next: State::Closed, prev: State::Draining, reason: "shut down".into() });
                self.end_role(Ok(()));
                false
            }
            Phase::Running | Phase::GoingAway { .. } | Phase::Draining { .. } | Phase::Closing | Phase::Ended => false,
        }
    }

    fn conn_keys(&self) -> Vec<ConnKey> {
        self.conns.iter().map(|(i, _)| ConnKey(i)).collect()
    }
}
