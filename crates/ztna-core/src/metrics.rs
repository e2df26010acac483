//! OpenMetrics text of agents and connectors (contract.md, Metrics). A relay writes its own: `relay::status`.

use std::fmt::{Display, Write};
use std::time::{Instant, SystemTime};

use crate::node::{Node, path_stats};
use crate::role::State;
use crate::trust::Protocol;

/// What is said of a family beside its samples (OpenMetrics §4.5): the name without a counter's `_total`.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    pub name: &'static str,
    pub kind: &'static str,
    /// The suffix of the name, where that is a unit.
    pub unit: Option<&'static str>,
    pub help: &'static str,
}

const fn gauge(name: &'static str, help: &'static str) -> Family {
    Family { name, kind: "gauge", unit: None, help }
}

const fn counter(name: &'static str, help: &'static str) -> Family {
    Family { name, kind: "counter", unit: None, help }
}

pub const UP: Family = gauge("ztna_up", "Whether the role is online: 1, or 0.");
pub const CONNECTIONS: Family = gauge("ztna_connections", "QUIC connections that stand, by kind.");
pub const FLOWS: Family = gauge("ztna_flows", "Flows that are open or being opened, by protocol.");
pub const BYTES: Family = Family {
    unit: Some("bytes"),
    ..counter("ztna_bytes", "Bytes of inner packets, by direction and by the path that they took.")
};
pub const DROPS: Family =
    counter("ztna_drops", "Packets, datagrams, flows or events dropped, by the queue or limit that was full.");
pub const DENIED: Family = counter("ztna_denied", "Requests and flows denied, by the end that denied them and why.");
pub const RECONNECTS: Family = counter("ztna_reconnects", "Connections to relays that were made again.");
pub const HANDSHAKES: Family = counter("ztna_handshakes", "Handshakes, by how they ended.");
pub const PATH_SWITCHES: Family = counter("ztna_path_switches", "Changes of path, by the path taken and why.");
pub const PORT_BURSTS: Family =
    counter("ztna_port_bursts", "Attempts to meet a peer of which one end is behind a hard NAT, by how they ended.");
pub const CHECKS_HELD: Family =
    counter("ztna_checks_held", "Checks of a peer's addresses that had to wait, by the limit that was reached.");
pub const PACKETS: Family = counter(
    "ztna_packets",
    "Packets of inner connections sent, by the path that they took; both copies of one that was sent twice.",
);
pub const BURSTS_WITHHELD: Family = counter(
    "ztna_bursts_withheld",
    "Pauses of sending in bursts, where bursts were lost again and single packets arrived.",
);
pub const LOST_PACKETS: Family = counter("ztna_lost_packets", "Those of them that the other end did not acknowledge.");
pub const PATH_RTT: Family = Family {
    unit: Some("seconds"),
    ..gauge(
        "ztna_path_rtt_seconds",
        "Round trip to the other end, by path: the mean of the inner connections on it now.",
    )
};
pub const TIME_TO_DIRECT: Family = Family {
    kind: "histogram",
    unit: Some("seconds"),
    ..gauge(
        "ztna_time_to_direct_seconds",
        "From the first data by a relay to the first by a direct path, each inner connection once.",
    )
};
pub const CERTIFICATE_EXPIRY: Family = Family {
    unit: Some("seconds"),
    ..gauge(
        "ztna_certificate_expiry_seconds",
        "Time until the node's own certificate ends, and its connections with it.",
    )
};
pub const PORT_MAPPING: Family =
    gauge("ztna_port_mapping", "What came of asking the router for a port: 1 for the state that holds, by protocol.");
pub const SESSIONS: Family = gauge("ztna_sessions", "Sessions between an agent and a connector at this relay.");
pub const SESSIONS_ACROSS_LOOPS: Family =
    gauge("ztna_sessions_across_loops", "Sessions whose two ends live on different packet loops.");
pub const STATELESS_RESETS: Family =
    counter("ztna_stateless_resets", "Stateless resets sent for packets of connections that are unknown.");

/// One family of samples: each is a label set, without braces, and a value. What has counted nothing yet is announced without one.
pub fn family<L: AsRef<str>, V: Display>(out: &mut String, of: &Family, samples: &[(L, V)]) {
    announce(out, of);
    let name = of.name;
    let suffix = if of.kind == "counter" { "_total" } else { "" };
    for (labels, value) in samples {
        let labels = labels.as_ref();
        let _ = if labels.is_empty() {
            writeln!(out, "{name}{suffix} {value}")
        } else {
            writeln!(out, "{name}{suffix}{{{labels}}} {value}")
        };
    }
}

/// What comes before a family's samples.
pub fn announce(out: &mut String, of: &Family) {
    let Family { name, kind, unit, help } = of;
    // Writing to a String can't fail.
    let _ = writeln!(out, "# TYPE {name} {kind}");
    if let Some(unit) = unit {
        let _ = writeln!(out, "# UNIT {name} {unit}");
    }
    let _ = writeln!(out, "# HELP {name} {help}");
}

/// The metrics of an agent or a connector at `now`. `local` are drops that the loop counts, by queue.
pub fn node(node: &Node, now: Instant, local: &[(&str, u64)]) -> String {
    let c = &node.counters;
    let mut out = String::new();
    let up = u64::from(node.state == State::Online);
    family(&mut out, &UP, &[(String::new(), up)]);
    let legs = node.legs.iter().filter(|(_, l)| l.is_alive()).count() as u64;
    let connections = [("kind=\"outer\"".to_owned(), legs), ("kind=\"inner\"".to_owned(), node.links.len() as u64)];
    family(&mut out, &CONNECTIONS, &connections);
    let flows = [Protocol::Tcp, Protocol::Udp, Protocol::Icmp].map(|p| {
        (format!("protocol=\"{}\"", p.as_str()), node.flows.values().filter(|f| f.protocol == p).count() as u64)
    });
    family(&mut out, &FLOWS, &flows);
    let bytes = [
        ("direction=\"rx\",path=\"direct\"".to_owned(), c.direct_rx),
        ("direction=\"tx\",path=\"direct\"".to_owned(), c.direct_tx),
        ("direction=\"rx\",path=\"forwarded\"".to_owned(), c.forwarded_rx),
        ("direction=\"tx\",path=\"forwarded\"".to_owned(), c.forwarded_tx),
        ("direction=\"rx\",path=\"tunnel\"".to_owned(), c.tunnel_rx),
        ("direction=\"tx\",path=\"tunnel\"".to_owned(), c.tunnel_tx),
    ];
    family(&mut out, &BYTES, &bytes);
    let mut drops: Vec<(String, u64)> = c.drops.iter().map(|(queue, n)| (format!("queue=\"{queue}\""), *n)).collect();
    drops.extend(local.iter().map(|(queue, n)| (format!("queue=\"{queue}\""), *n)));
    family(&mut out, &DROPS, &drops);
    let denied: Vec<(String, u64)> =
        c.denied.iter().map(|((by, reason), n)| (format!("by=\"{by}\",reason=\"{reason}\""), *n)).collect();
    family(&mut out, &DENIED, &denied);
    family(&mut out, &RECONNECTS, &[(String::new(), c.reconnects)]);
    let handshakes: Vec<(String, u64)> =
        c.handshakes.iter().map(|(result, n)| (format!("result=\"{result}\""), *n)).collect();
    family(&mut out, &HANDSHAKES, &handshakes);
    let switches: Vec<(String, u64)> =
        c.switches.iter().map(|((to, reason), n)| (format!("to=\"{to}\",reason=\"{reason}\""), *n)).collect();
    family(&mut out, &PATH_SWITCHES, &switches);
    path_stats::write(node, &mut out);
    let mapping = node.port_mapping();
    let by = mapping.protocol().map_or("none", |p| p.as_str());
    family(&mut out, &PORT_MAPPING, &[(format!("state=\"{}\",protocol=\"{by}\"", mapping.as_str()), 1)]);
    let bursts: Vec<(String, u64)> =
        c.port_bursts.iter().map(|(result, n)| (format!("result=\"{result}\""), *n)).collect();
    family(&mut out, &PORT_BURSTS, &bursts);
    let held: Vec<(String, u64)> = node.checks_held().map(|(limit, n)| (format!("limit=\"{limit}\""), n)).collect();
    family(&mut out, &CHECKS_HELD, &held);
    family(&mut out, &BURSTS_WITHHELD, &[(String::new(), c.bursts_withheld)]);
    let left = node.snapshot.identity().not_after.duration_since(node.wall(now)).map_or(0, |d| d.as_secs());
    family(&mut out, &CERTIFICATE_EXPIRY, &[(String::new(), left)]);
    out.push_str("# EOF\n");
    out
}

/// Milliseconds since the epoch of a time of day.
pub fn epoch_ms(t: SystemTime) -> u64 {
    t.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
