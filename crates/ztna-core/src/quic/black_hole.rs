//! Notices that a way which carried full-sized packets no longer does (black hole detection, RFC 8899 §4.3). quiche looks at a
//! path's size once, and can't shrink packets that it holds.

use std::time::{Duration, Instant};

use super::connection::Connection;
use super::tls::INNER_PAYLOAD;

/// How long a peer that answers may owe the acknowledgement of a full-sized probe: quiche tries each size three times.
const PATIENCE: Duration = Duration::from_millis(600);
const PATIENCE_ROUND_TRIPS: u32 = 8;
/// Least time from one probe to the next: a lossy link gives reasons all the time, and until the answer comes inner packets
/// travel as capsules.
const PAUSE: Duration = Duration::from_secs(2);

/// The watch over one outer connection. After any call ask [`poll_timeout`](Self::poll_timeout).
#[derive(Debug, Default)]
pub struct BlackHole {
    /// A full-sized probe is under way: since when, and how much had been heard then.
    probe: Option<(Instant, usize)>,
    probed: Option<Instant>,
    /// Another one is to follow as soon as it may.
    wanted: bool,
}

impl BlackHole {
    /// Something is amiss: asks whether the way still carries full-sized packets, now or once the last answer is old enough.
    pub fn suspect(&mut self, now: Instant, conn: &mut Connection) {
        if self.probe.is_some() {
            return;
        }
        self.wanted = self.probed.is_some_and(|t| now < t + PAUSE);
        if !self.wanted && conn.pmtu() >= INNER_PAYLOAD {
            conn.probe_pmtu();
            conn.ping();
            self.probe = Some((now, conn.received()));
            self.probed = Some(now);
        }
    }

    /// Whether small packets pass and full-sized ones no longer do: time for a new connection, which measures both ways from the
    /// start. Said once. Sends a probe that had to wait.
    pub fn is_found(&mut self, now: Instant, conn: &mut Connection) -> bool {
        if self.wanted {
            self.suspect(now, conn);
        }
        let Some((since, heard)) = self.probe else { return false };
        if conn.pmtu() >= INNER_PAYLOAD {
            self.probe = None;
            return false;
        }
        let found = conn.received() > heard && now >= since + patience(conn);
        if found {
            self.probe = None;
        }
        found
    }

    /// When to ask [`is_found`](Self::is_found). A probe past its time is looked at with whatever else happens.
    pub fn poll_timeout(&self, now: Instant, conn: &Connection) -> Option<Instant> {
        let due = self.probe.map(|(t, _)| t + patience(conn)).filter(|t| *t > now);
        let again = self.probed.filter(|_| self.wanted).map(|t| t + PAUSE);
        due.into_iter().chain(again).min()
    }
}

fn patience(conn: &Connection) -> Duration {
    PATIENCE.max(conn.rtt().min(Duration::from_secs(1)) * PATIENCE_ROUND_TRIPS)
}
