//! Why a path is what it is, from both ends' evidence, and what to do about it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::candidate::Candidate;
use super::checklist::Local;
use super::direct::Direct;
use super::nat::{Mapping, describe};
use crate::port_mapping::PortMapping;
use super::nat::{Mapping, describe, is_hard};
use crate::wire::path_signal::{Outcome, Report};

/// What stands in the way of a direct path (api.d.ts `PathReason`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    UdpBlocked,
    HardNatBoth,
    CheckTimeout,
    RelayOnlyByPolicy,
    NoCandidates,
    DirectLossy,
    Checking,
    Mtu,
}

impl Cause {
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::UdpBlocked => "udp-blocked",
            Cause::HardNatBoth => "hard-nat-both",
            Cause::CheckTimeout => "check-timeout",
            Cause::RelayOnlyByPolicy => "relay-only-by-policy",
            Cause::NoCandidates => "no-candidates",
            Cause::DirectLossy => "direct-lossy",
            Cause::Checking => "checking",
            Cause::Mtu => "mtu",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    pub cause: Cause,
    pub detail: String,
    pub remedy: Option<&'static str>,
}

/// One of the peer's addresses and what became of our checks to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Tried {
    pub local: Local,
    pub candidate: Candidate,
    pub outcome: Outcome,
    pub rtt: Option<Duration>,
    /// When it was checked last.
    pub at: Option<Instant>,
}

/// All that is known of one connection's direct paths.
#[derive(Debug, Clone, PartialEq)]
pub struct Evidence {
    /// Empty while the path is direct.
    pub reasons: Vec<Why>,
    pub local_nat: Mapping,
    pub remote_nat: Mapping,
    pub checks: Vec<Tried>,
    /// Our addresses, as the peer has tried them; empty where it has not said.
    pub remote_checks: Vec<Report>,
    /// Whether our router has opened a port.
    pub port_mapping: PortMapping,
}

/// What a node knows beside one connection.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// The caller asked for the relay.
    pub relay_only: bool,
    /// A relay answers on its main port and not on its second one.
    pub second_port_silent: Option<SocketAddr>,
    pub port_mapping: PortMapping,
}

/// `direct`: `None` where the connection has no direct paths at all.
pub fn explain(direct: Option<&Direct>, around: Surroundings) -> Evidence {
    let Some(direct) = direct else {
        let why = if around.relay_only {
            Why { cause: Cause::RelayOnlyByPolicy, detail: "the caller asked for the relay".into(), remedy: None }
        } else {
            Why {
                cause: Cause::NoCandidates,
                detail: "the other end has not agreed to direct paths".into(),
                remedy: Some("update it: an older version knows relays alone"),
            }
        };
        let (local_nat, remote_nat) = (Mapping::Unknown, Mapping::Unknown);
        return Evidence {
            reasons: vec![why],
            local_nat,
            remote_nat,
            checks: Vec::new(),
            remote_checks: Vec::new(),
            port_mapping: around.port_mapping,
        };
    };
    let (remote_nat, status) = direct.remote();
    let checks = direct.list().tried();
    let reasons = if direct.current().is_some() { Vec::new() } else { reasons(direct, &checks, &around) };
    let remote_checks = status.map(|(_, reports)| reports.clone()).unwrap_or_default();
    let port_mapping = around.port_mapping;
    Evidence { reasons, local_nat: direct.mapping(), remote_nat, checks, remote_checks, port_mapping }
}

fn reasons(direct: &Direct, checks: &[Tried], around: &Surroundings) -> Vec<Why> {
    let mut all = Vec::new();
    let mut add = |cause, detail: String, remedy| all.push(Why { cause, detail, remedy });
    let (ours, theirs) = (direct.mapping(), direct.remote().0);
    if direct.list().in_round() {
        add(Cause::Checking, "addresses are being checked now".into(), None);
    }
    if direct.offered() == 0 {
        add(
            Cause::NoCandidates,
            "this end has no address to offer".into(),
            Some("see that its host has a network interface that is up, and that a relay answers STUN"),
        );
    }
    if checks.is_empty() {
        add(
            Cause::NoCandidates,
            "the other end has offered no address".into(),
            Some("see `ztna status` there: it needs an interface that is up, or a relay that tells its address"),
        );
    }
    if let Some(port) = around.second_port_silent {
        add(
            Cause::UdpBlocked,
            format!("the relay answers on its main port and not on {port}: this network lets UDP pass to few places"),
            Some("allow outgoing UDP to all ports, or to the other end's address"),
        );
    }
    if checks.iter().any(|c| c.outcome == Outcome::Narrow) {
        add(
            Cause::Mtu,
            "an address answers, but packets of 1,320 bytes do not pass".into(),
            Some("raise the MTU on the way to 1,368 bytes, or let ICMP \"too big\" pass"),
        );
    }
    if is_hard(ours) && is_hard(theirs) {
        add(
            Cause::HardNatBoth,
            format!(
                "both NATs give each destination another port ({} here, {} there); {}",
                describe(ours),
                describe(theirs),
                around.port_mapping.describe()
            ),
            Some("forward a UDP port at one of the routers, switch on UPnP or PCP there, or use IPv6"),
        );
    }
    if direct.failures() > 0 {
        add(
            Cause::DirectLossy,
            format!("a direct path answered checks and then failed, {} times in a row", direct.failures()),
            Some("look for a device on the way that drops long UDP flows; it is tried again by itself"),
        );
    }
    let explained = all.iter().any(|w| !matches!(w.cause, Cause::Checking));
    if !explained && checks.iter().any(|c| c.outcome == Outcome::TimedOut) {
        all.push(Why {
            cause: Cause::CheckTimeout,
            detail: format!("none of {} addresses of the other end has answered", checks.len()),
            remedy: Some("allow UDP out of both networks; where a NAT gives each destination another port, forward one at the other end"),
        });
    }
    all
}
