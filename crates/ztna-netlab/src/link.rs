//! One way over one link: decides when a packet arrives, or that it does not. Used by the wire and by the network in memory.

use std::time::Duration;

use crate::impairment::Impairment;
use crate::random::Random;

/// Bytes that may be under way in one direction, whatever the settings: 256 MB is 10 Gbit/s for 200 ms.
pub const IN_FLIGHT_LIMIT: u64 = 256_000_000;

/// What happened to the packets of one direction. Each packet that came in is delivered, in flight or in one of `lost_*`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Packets handed to the link.
    pub packets_in: u64,
    /// Bytes handed to the link.
    pub bytes_in: u64,
    /// Packets delivered, ICMP of the link's own not counted.
    pub packets_out: u64,
    /// Bytes delivered.
    pub bytes_out: u64,
    /// Packets held back so that others overtake them.
    pub reordered: u64,
    /// Lost by the `loss` setting.
    pub lost_random: u64,
    /// Lost because the queue was full.
    pub lost_queue: u64,
    /// Lost because they were larger than the MTU.
    pub lost_mtu: u64,
    /// Lost because the link was down.
    pub lost_down: u64,
    /// Lost because [`IN_FLIGHT_LIMIT`] was reached.
    pub lost_overflow: u64,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Gone, and counted.
    Lost,
    /// Larger than the MTU: gone, counted, and perhaps worth an answer (`mtu_signal`).
    TooBig {
        /// The MTU that it did not fit.
        mtu: u16,
    },
    /// Under way; the caller reports its end with [`Link::complete`] or [`Link::cut`].
    Delivered {
        /// When it arrives.
        at: Duration,
    },
}

/// One direction of a link.
#[derive(Debug)]
pub struct Link {
    impairment: Impairment,
    random: Random,
    up: bool,
    /// Whether the last packet fell into a burst of losses (the bad state of Gilbert's model).
    in_burst: bool,
    /// When the link has sent all it was given.
    busy_until: Duration,
    /// Delivery time of the latest packet in order; jitter never passes it.
    last_at: Duration,
    in_flight_bytes: u64,
    stats: Stats,
}

impl Link {
    /// A link that is up.
    pub fn new(impairment: Impairment, random: Random) -> Self {
        Self {
            impairment,
            random,
            up: true,
            in_burst: false,
            busy_until: Duration::ZERO,
            last_at: Duration::ZERO,
            in_flight_bytes: 0,
            stats: Stats::default(),
        }
    }

    /// Takes a packet of `len` bytes, the IP header included.
    pub fn admit(&mut self, now: Duration, len: u64) -> Fate {
        self.stats.packets_in += 1;
        self.stats.bytes_in += len;
        // Three draws for every packet, so that changing one setting does not shift the fate that another deals out.
        let (loss, reorder, jitter) = (self.random.per_million(), self.random.per_million(), self.random.signed_unit());

        if !self.up {
            self.stats.lost_down += 1;
            return Fate::Lost;
        }
        if let Some(mtu) = self.impairment.mtu.filter(|mtu| len > u64::from(*mtu)) {
            self.stats.lost_mtu += 1;
            return Fate::TooBig { mtu };
        }
        let Some(sent) = self.transmit(now, len) else {
            self.stats.lost_queue += 1;
            return Fate::Lost;
        };
        // After transmission: a packet lost on the way has used the link.
        if self.is_lost(loss) {
            self.stats.lost_random += 1;
            return Fate::Lost;
        }
        if self.in_flight_bytes + len > IN_FLIGHT_LIMIT {
            self.stats.lost_overflow += 1;
            return Fate::Lost;
        }
        self.in_flight_bytes += len;

        let jitter_nanos = (self.impairment.jitter.as_nanos() as f64 * jitter) as i64;
        let shift = Duration::from_nanos(jitter_nanos.unsigned_abs());
        let delay =
            if jitter_nanos < 0 { self.impairment.delay.saturating_sub(shift) } else { self.impairment.delay + shift };
        if reorder < self.impairment.reorder {
            self.stats.reordered += 1;
            // `last_at` stays: those behind overtake.
            return Fate::Delivered { at: sent + delay + self.impairment.reorder_by };
        }
        let at = if self.impairment.jitter.is_zero() { sent + delay } else { (sent + delay).max(self.last_at) };
        self.last_at = at;
        Fate::Delivered { at }
    }

    /// A packet that was under way has arrived.
    pub fn complete(&mut self, len: u64) {
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(len);
        self.stats.packets_out += 1;
        self.stats.bytes_out += len;
    }

    /// A packet that was under way is lost, because the link went down.
    pub fn cut(&mut self, len: u64) {
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(len);
        self.stats.lost_down += 1;
    }

    /// Lets packets in, or loses them all. What is under way is the caller's, see [`Link::cut`].
    pub fn set_up(&mut self, up: bool) {
        self.up = up;
        if !up {
            self.busy_until = Duration::ZERO;
        }
    }

    /// Whether packets pass.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// The settings.
    pub fn impairment(&self) -> Impairment {
        self.impairment
    }

    /// New settings. Packets under way keep the time they were given.
    pub fn set_impairment(&mut self, impairment: Impairment) {
        self.impairment = impairment;
    }

    /// Counters since the start.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// With a burst length, Gilbert's model (1960): every packet of the bad state is lost; the state is left with probability
    /// 1/burst and entered so often that the share of lost packets over a long time is `loss`.
    fn is_lost(&mut self, draw: u32) -> bool {
        const MILLION: f64 = 1e6;
        let Impairment { loss, burst, .. } = self.impairment;
        if burst <= 1 || loss >= 1_000_000 {
            self.in_burst = false;
            return draw < loss;
        }
        let leave = 1.0 / f64::from(burst);
        let share = f64::from(loss) / MILLION;
        let stay_or_enter = if self.in_burst { 1.0 - leave } else { (leave * share / (1.0 - share)).min(1.0) };
        self.in_burst = f64::from(draw) < stay_or_enter * MILLION;
        self.in_burst
    }

    /// When the last bit has been sent, or `None` when the queue has no room.
    fn transmit(&mut self, now: Duration, len: u64) -> Option<Duration> {
        let Some(rate) = self.impairment.rate else { return Some(now) };
        let start = self.busy_until.max(now);
        let waiting = (start - now).as_nanos() * u128::from(rate) / 8_000_000_000;
        if waiting + u128::from(len) > u128::from(self.impairment.queue) && start > now {
            return None;
        }
        self.busy_until = start + Duration::from_nanos(len.saturating_mul(8_000_000_000) / rate);
        Some(self.busy_until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_in_bursts_keep_the_share_and_have_the_mean_length() {
        let mut link = link(&[("loss", "5%"), ("burst", "8")]);
        let fates: Vec<bool> = (0..200_000).map(|_| link.admit(Duration::ZERO, 100) == Fate::Lost).collect();
        let lost = fates.iter().filter(|lost| **lost).count();
        assert!((9_000..11_000).contains(&lost), "{lost}");
        let bursts = fates.windows(2).filter(|pair| pair == &[false, true]).count();
        let mean = lost as f64 / bursts as f64;
        assert!((7.3..8.7).contains(&mean), "{mean}");
    }

    #[test]
    fn all_are_lost_at_a_loss_of_all_whatever_the_burst_length() {
        let mut link = link(&[("loss", "100%"), ("burst", "8")]);
        assert!((0..1000).all(|_| link.admit(Duration::ZERO, 100) == Fate::Lost));
    }

    fn link(settings: &[(&str, &str)]) -> Link {
        let mut impairment = Impairment::default();
        for (name, value) in settings {
            impairment.set(name, value).unwrap();
        }
        Link::new(impairment, Random::new(7))
    }
}
