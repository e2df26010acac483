//! Whether a peer that was sending has gone silent. Who only receives owes no acknowledgement and expects none, so no timer of QUIC's
//! would tell it that its NAT has given it another port, and nobody can reach it before it sends something.

use std::time::{Duration, Instant};

/// Data that came for this long without a pause was a flow. Shorter than anything a user would watch; longer than the answers to a
/// few requests.
const FLOWING: Duration = Duration::from_millis(500);

/// Packets of the peer, as far as they came one soon after another.
#[derive(Debug, Default)]
pub struct Incoming {
    run: Option<(Instant, Instant)>,
}

impl Incoming {
    /// A packet came. `pause`: silence after which the next one begins anew.
    pub fn note(&mut self, now: Instant, pause: Duration) {
        let since = self.run.filter(|(_, last)| now < *last + pause).map_or(now, |(since, _)| since);
        self.run = Some((since, now));
    }

    /// When the silence will have lasted for `pause`, if there was a flow before it.
    pub fn due(&self, pause: Duration) -> Option<Instant> {
        self.run.filter(|(since, last)| last.saturating_duration_since(*since) >= FLOWING).map(|(_, last)| last + pause)
    }

    /// `true` once for each flow that has gone silent: time to ask.
    pub fn has_stopped(&mut self, now: Instant, pause: Duration) -> bool {
        let stopped = self.due(pause).is_some_and(|t| now >= t);
        if stopped {
            self.run = None;
        }
        stopped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_millis(250);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_flow_that_stops_is_asked_after_once() {
        let t = Instant::now();
        let mut incoming = Incoming::default();
        for n in 0..=50 {
            incoming.note(t + ms(n * 10), PAUSE);
            assert!(!incoming.has_stopped(t + ms(n * 10), PAUSE));
        }
        assert_eq!(incoming.due(PAUSE), Some(t + ms(750)));
        assert!(!incoming.has_stopped(t + ms(749), PAUSE));
        assert!(incoming.has_stopped(t + ms(750), PAUSE));
        assert!(!incoming.has_stopped(t + ms(900), PAUSE));
    }

    #[test]
    fn answers_now_and_then_are_no_flow() {
        let t = Instant::now();
        let mut incoming = Incoming::default();
        for n in 0..20 {
            incoming.note(t + ms(n * 300), PAUSE);
        }
        assert_eq!(incoming.due(PAUSE), None);
    }
}
