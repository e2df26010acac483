//! What each kind of path has carried and lost, how long its round trips are, and how soon direct ones come up.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use super::Node;
use super::link::Link;
use crate::metrics::{LOST_PACKETS, PACKETS, PATH_RTT, TIME_TO_DIRECT, announce, family};
use crate::path::{PathId, RelayPath};

/// Upper bounds of the buckets, milliseconds: the figures that are wanted (0.5 s at the median, 1.5 s at the 95th percentile), the burst for a
/// hard NAT (5 s), a round (10 s), and what is later.
const BOUNDS: [u32; 9] = [100, 250, 500, 1_000, 1_500, 2_500, 5_000, 10_000, 60_000];

/// Packets of inner connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Packets {
    sent: u64,
    lost: u64,
}

impl std::ops::Add for Packets {
    type Output = Packets;
    fn add(self, other: Packets) -> Packets {
        Packets { sent: self.sent + other.sent, lost: self.lost + other.lost }
    }
}

#[derive(Debug, Default)]
pub struct PathStats {
    ended: BTreeMap<&'static str, Packets>,
    /// Sent a second time while the first copy's path was in doubt, by the path of the second.
    copies: BTreeMap<&'static str, u64>,
    /// How many came up within each bound, and later than all.
    came_up: [u64; BOUNDS.len() + 1],
    came_up_after: Duration,
}

/// The part of a link's life on its present path.
#[derive(Debug, Default)]
pub struct Stretch {
    path: Option<&'static str>,
    /// The connection's figures when it began.
    from: Packets,
    /// When data could first flow, until the first direct path.
    ready: Option<Instant>,
    was_direct: bool,
}

impl Stretch {
    fn so_far(&self, conn: (usize, usize)) -> Packets {
        let (lost, sent) = (conn.0 as u64, conn.1 as u64);
        // What counted as lost and came after all is taken back.
        Packets { sent: sent.saturating_sub(self.from.sent), lost: lost.saturating_sub(self.from.lost) }
    }

    /// Percent of the packets sent on the present path. `conn`: lost and sent of the whole connection.
    pub fn loss_percent(&self, conn: (usize, usize)) -> f64 {
        let Packets { sent, lost } = self.so_far(conn);
        if sent == 0 { 0.0 } else { 100.0 * lost as f64 / sent as f64 }
    }
}

impl PathStats {
    /// Data can flow on the link.
    pub(super) fn begin(&mut self, now: Instant, link: &mut Link) {
        link.stretch.ready.get_or_insert(now);
    }

    /// The link's data takes another path from now on; `None`: the link ends.
    pub(super) fn switch(&mut self, now: Instant, link: &mut Link, to: Option<PathId>) {
        let conn = link.conn.loss();
        let stretch = &mut link.stretch;
        if let Some(path) = stretch.path {
            let sum = self.ended.entry(path).or_default();
            *sum = *sum + stretch.so_far(conn);
        }
        stretch.path = to.map(PathId::as_str);
        stretch.from = Packets { sent: conn.1 as u64, lost: conn.0 as u64 };
        if matches!(to, Some(PathId::Direct(_)))
            && !std::mem::replace(&mut stretch.was_direct, true)
            && let Some(ready) = stretch.ready
        {
            self.came_up(now.saturating_duration_since(ready));
        }
    }

    /// So many packets have gone by this path too. Which of the two was lost, if one was, nobody knows.
    pub(super) fn copied(&mut self, path: RelayPath, packets: usize) {
        *self.copies.entry(PathId::Relay(path).as_str()).or_default() += packets as u64;
    }

    fn came_up(&mut self, after: Duration) {
        let bucket =
            BOUNDS.iter().position(|ms| after <= Duration::from_millis(u64::from(*ms))).unwrap_or(BOUNDS.len());
        if let Some(count) = self.came_up.get_mut(bucket) {
            *count += 1;
        }
        self.came_up_after += after;
    }

    fn time_to_direct(&self, out: &mut String) {
        announce(out, &TIME_TO_DIRECT);
        let name = TIME_TO_DIRECT.name;
        let bounds = BOUNDS.iter().map(|ms| format!("{:?}", f64::from(*ms) / 1_000.0)).chain(["+Inf".to_owned()]);
        let mut within = 0;
        for (bound, count) in bounds.zip(self.came_up) {
            within += count;
            // Writing to a String can't fail.
            let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {within}");
        }
        let _ = writeln!(out, "{name}_sum {}\n{name}_count {within}", self.came_up_after.as_secs_f64());
    }
}

/// Families of OpenMetrics.
pub fn write(node: &Node, out: &mut String) {
    let mut packets = node.path_stats.ended.clone();
    for (path, sent) in &node.path_stats.copies {
        packets.entry(path).or_default().sent += sent;
    }
    let mut round_trips: BTreeMap<&'static str, (Duration, u32)> = BTreeMap::new();
    for (_, link) in &node.links {
        let Some(path) = link.stretch.path else { continue };
        let sum = packets.entry(path).or_default();
        *sum = *sum + link.stretch.so_far(link.conn.loss());
        let (all, links) = round_trips.entry(path).or_default();
        *all += link.round_trip();
        *links += 1;
    }
    let label = |path: &str| format!("path=\"{path}\"");
    let sent: Vec<(String, u64)> = packets.iter().map(|(path, p)| (label(path), p.sent)).collect();
    family(out, &PACKETS, &sent);
    let lost: Vec<(String, u64)> = packets.iter().map(|(path, p)| (label(path), p.lost)).collect();
    family(out, &LOST_PACKETS, &lost);
    let mean = |(all, links): (Duration, u32)| all.checked_div(links).unwrap_or_default().as_secs_f64();
    let rtt: Vec<(String, f64)> = round_trips.into_iter().map(|(path, sum)| (label(path), mean(sum))).collect();
    family(out, &PATH_RTT, &rtt);
    node.path_stats.time_to_direct(out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_to_direct_counts_in_its_bucket_and_all_wider_ones() {
        let mut stats = PathStats::default();
        for ms in [90, 100, 101, 700, 90_000] {
            stats.came_up(Duration::from_millis(ms));
        }
        let mut out = String::new();
        stats.time_to_direct(&mut out);
        for line in [
            "{le=\"0.1\"} 2",
            "{le=\"0.25\"} 3",
            "{le=\"0.5\"} 3",
            "{le=\"1.0\"} 4",
            "{le=\"60.0\"} 4",
            "{le=\"+Inf\"} 5",
        ] {
            assert!(out.contains(&format!("ztna_time_to_direct_seconds_bucket{line}\n")), "{line}\n{out}");
        }
        assert!(
            out.ends_with("ztna_time_to_direct_seconds_sum 90.991\nztna_time_to_direct_seconds_count 5\n"),
            "{out}"
        );
    }
}
