//! OpenMetrics text of agents and connectors (contract.md, Metrics). A relay writes its own: `relay::status`.

use std::fmt::Write;
use std::time::{Instant, SystemTime};

use crate::node::Node;
use crate::role::State;
use crate::trust::Protocol;

/// One family of samples: each is a label set, without braces, and a value. What has counted nothing yet is announced without one.
pub fn family<L: AsRef<str>>(out: &mut String, name: &str, kind: &str, samples: &[(L, u64)]) {
    let suffix = if kind == "counter" { "_total" } else { "" };
    // Writing to a String can't fail.
    let _ = writeln!(out, "# TYPE {name} {kind}");
    for (labels, value) in samples {
        let labels = labels.as_ref();
        let _ = if labels.is_empty() {
            writeln!(out, "{name}{suffix} {value}")
        } else {
            writeln!(out, "{name}{suffix}{{{labels}}} {value}")
        };
    }
}

/// The metrics of an agent or a connector at `now`. `extra_drops` are those of the loop's local sockets.
pub fn node(node: &Node, now: Instant, extra_drops: u64) -> String {
    let c = &node.counters;
    let mut out = String::new();
    let up = u64::from(node.state == State::Online);
    family(&mut out, "ztna_up", "gauge", &[(String::new(), up)]);
    let legs = node.legs.iter().filter(|(_, l)| l.is_alive()).count() as u64;
    let connections = [("kind=\"outer\"".to_owned(), legs), ("kind=\"inner\"".to_owned(), node.links.len() as u64)];
    family(&mut out, "ztna_connections", "gauge", &connections);
    let flows = [Protocol::Tcp, Protocol::Udp, Protocol::Icmp].map(|p| {
        (format!("protocol=\"{}\"", p.as_str()), node.flows.values().filter(|f| f.protocol == p).count() as u64)
    });
    family(&mut out, "ztna_flows", "gauge", &flows);
    let bytes = [
        ("direction=\"rx\",path=\"forwarded\"".to_owned(), c.forwarded_rx),
        ("direction=\"tx\",path=\"forwarded\"".to_owned(), c.forwarded_tx),
        ("direction=\"rx\",path=\"tunnel\"".to_owned(), c.tunnel_rx),
        ("direction=\"tx\",path=\"tunnel\"".to_owned(), c.tunnel_tx),
    ];
    family(&mut out, "ztna_bytes", "counter", &bytes);
    let mut drops: Vec<(String, u64)> = c.drops.iter().map(|(queue, n)| (format!("queue=\"{queue}\""), *n)).collect();
    drops.push(("queue=\"local\"".to_owned(), extra_drops));
    family(&mut out, "ztna_drops", "counter", &drops);
    let denied: Vec<(String, u64)> =
        c.denied.iter().map(|((by, reason), n)| (format!("by=\"{by}\",reason=\"{reason}\""), *n)).collect();
    family(&mut out, "ztna_denied", "counter", &denied);
    family(&mut out, "ztna_reconnects", "counter", &[(String::new(), c.reconnects)]);
    let handshakes: Vec<(String, u64)> =
        c.handshakes.iter().map(|(result, n)| (format!("result=\"{result}\""), *n)).collect();
    family(&mut out, "ztna_handshakes", "counter", &handshakes);
    let switches: Vec<(String, u64)> =
        c.switches.iter().map(|((to, reason), n)| (format!("to=\"{to}\",reason=\"{reason}\""), *n)).collect();
    family(&mut out, "ztna_path_switches", "counter", &switches);
    let left = node.snapshot.identity().not_after.duration_since(node.wall(now)).map_or(0, |d| d.as_secs());
    family(&mut out, "ztna_certificate_expiry_seconds", "gauge", &[(String::new(), left)]);
    out.push_str("# EOF\n");
    out
}

/// Milliseconds since the epoch of a time of day.
pub fn epoch_ms(t: SystemTime) -> u64 {
    t.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
