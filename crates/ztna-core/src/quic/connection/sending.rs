//! Packets out: in bursts where those arrive, with a mark behind a flight that the program made small.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{Connection, Transport};
use crate::quic::bursts::Seen;

/// BBR leaves STARTUP after three rounds without growth unless it knows that the sender had nothing more to send. quiche tells it
/// only with a packet that carries no stream data, so the small flights of a handshake and of the first requests count as the
/// link's rate: on a 200 Mbit/s, 80 ms link a later bulk flow then crept at 40 Mbit/s (measured). Each such flight is
/// followed by a PING, this many times at most in a connection's life: long enough for SETTINGS and the first flows.
pub(super) const APP_LIMITED_MARKS: u8 = 16;
/// A flight of at most this many packets was the program's choice, not the window's.
const SMALL_FLIGHT: usize = 3;

impl Connection {
    /// Writes one packet into `out` (at least the connection's largest payload): its length and where to.
    pub fn send(&mut self, out: &mut [u8]) -> Option<(usize, SocketAddr)> {
        let (n, info) = self.account.charge(|| ztna_quiche::send(&mut self.q, out)).ok()?;
        self.packets += 1;
        self.flight += n;
        Some((n, info.to))
    }

    /// How many packets the next burst may have, at most `most`. One until the peer is known: a handshake has few packets, and feels
    /// each that is lost. One as well while bursts don't arrive.
    pub fn burst_limit(&self, most: usize) -> usize {
        if self.identity.is_some() { self.bursts.limit(most) } else { most.min(1) }
    }

    /// So many packets have gone as one burst, with so many bytes in all. For who fills bursts by [`send`](Self::send).
    pub fn handle_burst_sent(&mut self, packets: usize, bytes: usize) {
        self.bursts.handle_sent(packets, bytes);
    }

    /// Packets take another way from now on.
    pub fn path_changed(&mut self) {
        let now = Instant::now();
        self.bursts.start_over(now, self.seen(now), self.rtt());
    }

    /// Times, since this was last asked, that bursts turned out to be lost where packets sent one by one arrive.
    pub fn take_bursts_lost(&mut self) -> u64 {
        std::mem::take(&mut self.bursts_lost)
    }

    fn seen(&self, now: Instant) -> Seen {
        let stats = self.q.stats();
        Seen { acked: stats.acked_bytes, lost: stats.lost_bytes, probes: self.probes, settled: !self.in_flight(now) }
    }

    pub(super) fn judge_bursts(&mut self) {
        let now = Instant::now();
        let (seen, q) = (self.seen(now), &self.q);
        self.bursts.judge(now, seen, || round_trip(q));
        if !self.bursts.take_found() {
            return;
        }
        self.bursts_lost += 1;
        if !std::mem::replace(&mut self.bursts_told, true) {
            let peer = self.identity.as_ref().map(|p| p.id.to_string());
            tracing::info!(
                peer,
                "packets sent in bursts are lost, those sent one by one arrive: sending one by one, which costs more processor time. \
                 Update the kernel, or switch segmentation offload off"
            );
        }
    }

    /// Appends up to `max_segments` packets of equal size (the last may be shorter) to `out`: where to, and the segment size. Fewer
    /// where bursts don't arrive.
    pub fn send_burst(&mut self, out: &mut Vec<u8>, max_segments: usize) -> Option<(SocketAddr, usize)> {
        let start = out.len();
        let mut burst: Option<(SocketAddr, usize)> = None;
        if let Some(to) = self.stash_to.take() {
            out.extend_from_slice(&self.stash);
            burst = Some((to, self.stash.len()));
        }
        let payload = self.q.max_send_udp_payload_size().max(1200);
        let mut packets = usize::from(burst.is_some());
        let most = self.burst_limit(max_segments);
        while packets < most {
            let at = out.len();
            out.resize(at + payload, 0);
            let sent = out.get_mut(at..).and_then(|space| self.send(space));
            let Some((n, to)) = sent else {
                out.truncate(at);
                if self.mark_app_limited(payload) {
                    continue;
                }
                break;
            };
            out.truncate(at + n);
            match burst {
                None => burst = Some((to, n)),
                Some((first_to, segment)) if n > segment || to != first_to => {
                    self.stash.clear();
                    self.stash.extend_from_slice(out.get(at..).unwrap_or_default());
                    self.stash_to = Some(to);
                    out.truncate(at);
                    break;
                }
                Some((_, segment)) if n < segment => {
                    packets += 1;
                    break;
                }
                Some(_) => {}
            }
            packets += 1;
        }
        if packets > 0 {
            self.bursts.handle_sent(packets, out.len() - start);
        }
        debug_assert!(out.len() > start || burst.is_none());
        burst
    }

    /// After a small flight: queues the PING that says so. `true` when there is one to send.
    fn mark_app_limited(&mut self, payload: usize) -> bool {
        let small = self.flight > 0 && self.flight <= SMALL_FLIGHT * payload;
        self.flight = 0;
        if !self.wrote || !small || self.marks_left == 0 || self.identity.is_none() {
            return false;
        }
        self.wrote = false;
        self.marks_left -= 1;
        self.ping();
        true
    }
}

/// Smoothed, of the active path.
pub(super) fn round_trip(q: &Transport) -> Duration {
    q.path_stats().find(|p| p.active).map_or(Duration::ZERO, |p| p.rtt)
}
