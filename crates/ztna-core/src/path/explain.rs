//! Why a path is what it is, from both ends' evidence, and what to do about it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::burst::BurstOutcome;
use super::candidate::Candidate;
use super::checklist::Local;
use super::demand::{Demand, DemandedBy};
use super::direct::Direct;
use super::nat::{Mapping, describe, is_hard};
use crate::port_mapping::PortMapping;
use crate::trust::PathClass;
use crate::wire::path_signal::{BurstRefusal, Outcome, Report};

/// What stands in the way of a direct path (api.d.ts `PathReason`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    UdpBlocked,
    HardNatBoth,
    /// One NAT is hard and the other lets in only whom it has sent to.
    HardNatOne,
    CheckTimeout,
    /// Addresses wait for their checks: more are named than may be checked.
    CheckLimit,
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
            Cause::HardNatOne => "hard-nat-one",
            Cause::CheckTimeout => "check-timeout",
            Cause::CheckLimit => "check-limit",
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
    /// Empty while the path is direct. What an operator can act on comes first, what time alone decides last.
    pub reasons: Vec<Why>,
    /// Who leaves flows on this connection one kind of path only.
    pub demand: Option<Demand>,
    pub local_nat: Mapping,
    pub remote_nat: Mapping,
    pub checks: Vec<Tried>,
    /// Our addresses, as the peer has tried them; empty where it has not said.
    pub remote_checks: Vec<Report>,
    /// Whether our router has opened a port.
    pub port_mapping: PortMapping,
}

/// What a node knows beside one connection.
#[derive(Debug, Clone)]
pub struct Surroundings {
    pub now: Instant,
    pub demand: Option<Demand>,
    /// A relay answers on its main port and not on its second one.
    pub second_port_silent: Option<SocketAddr>,
    /// Relays show our NAT from one address and port alone.
    pub one_view: bool,
    pub port_mapping: PortMapping,
}

impl Surroundings {
    /// Nothing is known beside the connection.
    pub fn at(now: Instant) -> Self {
        Surroundings {
            now,
            demand: None,
            second_port_silent: None,
            one_view: false,
            port_mapping: PortMapping::default(),
        }
    }
}

/// `direct`: `None` where the connection has no direct paths at all.
pub fn explain(direct: Option<&Direct>, around: Surroundings) -> Evidence {
    let Some(direct) = direct else {
        let (local_nat, remote_nat) = (Mapping::Unknown, Mapping::Unknown);
        return Evidence {
            reasons: vec![none_sought(around.demand.as_ref())],
            demand: around.demand,
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
    let Surroundings { demand, port_mapping, .. } = around;
    Evidence { reasons, demand, local_nat: direct.mapping(), remote_nat, checks, remote_checks, port_mapping }
}

/// Why a connection looks for no direct path.
fn none_sought(demand: Option<&Demand>) -> Why {
    match demand {
        Some(demand) if demand.only == PathClass::Relay => {
            let remedy = match demand.by {
                DemandedBy::Caller => "leave the wish for a relay out where the path may be direct",
                DemandedBy::Policy(_) => "let the policy permit context.path == \"direct\" too, if it may be direct",
            };
            Why { cause: Cause::RelayOnlyByPolicy, detail: demand.describe(), remedy: Some(remedy) }
        }
        Some(_) | None => Why {
            cause: Cause::NoCandidates,
            detail: "the other end has not agreed to direct paths".into(),
            remedy: Some("update it: an older version knows relays alone"),
        },
    }
}

fn reasons(direct: &Direct, checks: &[Tried], around: &Surroundings) -> Vec<Why> {
    let mut all = Vec::new();
    let mut add = |cause, detail: String, remedy| all.push(Why { cause, detail, remedy });
    let (ours, theirs) = (direct.mapping(), direct.remote().0);
    if let Some(left) = direct.list().round_left(around.now) {
        let seconds = left.as_secs() + 1;
        add(
            Cause::Checking,
            format!("addresses are being checked now, for up to {seconds} s more"),
            Some("ask again when the checks have ended, after 10 s at most"),
        );
    } else if !direct.has_remote() {
        add(
            Cause::Checking,
            "the other end has not told its addresses yet; it takes a round trip or two".into(),
            Some("ask again in a second"),
        );
    }
    if direct.offered() == 0 {
        add(
            Cause::NoCandidates,
            "this end has no address to offer".into(),
            Some("see that its host has a network interface that is up, and that a relay answers STUN"),
        );
    }
    if checks.is_empty() && direct.has_remote() {
        add(
            Cause::NoCandidates,
            "the other end has offered no address".into(),
            Some("see `ztna status` there: it needs an interface that is up, or a relay that tells its address"),
        );
    }
    const FEWER: &str = "have that end name fewer addresses: it moves often, or many nodes share its certificate";
    if let Some((why, n)) = direct.list().held() {
        add(
            Cause::CheckLimit,
            format!("{n} addresses of the other end wait for checks: {}", why.describe()),
            Some(FEWER),
        );
    }
    let held_there = direct.remote().1.map_or(0, |(_, r)| r.iter().filter(|r| r.outcome == Outcome::Held).count());
    if held_there > 0 {
        let detail =
            format!("{held_there} addresses of this end wait for checks at the other end: too many were named lately");
        add(Cause::CheckLimit, detail, Some(FEWER));
    }
    if let Some(port) = around.second_port_silent {
        add(
            Cause::UdpBlocked,
            format!("the relay answers on its main port and not on {port}: this network lets UDP pass to few places"),
            Some(
                "allow outgoing UDP to all ports, or to the other end's address; where no node hears that port, open it at the relay",
            ),
        );
    }
    if around.one_view && ours == Mapping::Unknown && checks.iter().any(|c| c.outcome == Outcome::TimedOut) {
        add(
            Cause::CheckTimeout,
            "what the NAT here does is unknown, for one relay address can't tell: no port is guessed".into(),
            Some(
                "have the relay answer on a second port (`ztna relay --stun-alt`, and its firewall), or run a second relay",
            ),
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
    all.extend(hard_nat_one(direct));
    let mut add = |cause, detail: String, remedy| all.push(Why { cause, detail, remedy });
    if direct.failures() > 0 {
        add(
            Cause::DirectLossy,
            format!("a direct path answered checks and then failed, {} times in a row", direct.failures()),
            Some("look for a device on the way that drops long UDP flows; it is tried again by itself"),
        );
    }
    let explained = all.iter().any(|w| !matches!(w.cause, Cause::Checking | Cause::CheckLimit));
    if !explained && checks.iter().any(|c| c.outcome == Outcome::TimedOut) {
        all.push(Why {
            cause: Cause::CheckTimeout,
            detail: format!("none of {} addresses of the other end has answered", checks.len()),
            remedy: Some("allow UDP out of both networks; where a NAT gives each destination another port, forward one at the other end"),
        });
    }
    all.sort_by_key(|why| why.cause == Cause::Checking);
    all
}

/// What became of the port burst, where one is the only way.
fn hard_nat_one(direct: &Direct) -> Option<Why> {
    const FORWARD: &str = "forward a UDP port at one of the routers, switch on UPnP or PCP there, or use IPv6";
    let (ours, theirs) = (direct.mapping(), direct.remote().0);
    if is_hard(ours) == is_hard(theirs) || ours == Mapping::Unknown || theirs == Mapping::Unknown {
        return None;
    }
    let (hard, ends) = if is_hard(ours) { (ours, "here") } else { (theirs, "at the other end") };
    let refused = |why, at: &str| match why {
        BurstRefusal::Off => {
            (format!("guessing its ports is switched off {at}"), "set burst_sockets and burst_checks at that end")
        }
        BurstRefusal::Metered => (
            format!("its ports are not guessed: the network {at} is set as metered"),
            "set metered = false at that end, if it is not",
        ),
        BurstRefusal::Busy => (format!("its ports are guessed after those of another node {at}"), FORWARD),
        BurstRefusal::TooSoon => (format!("its ports have been guessed {at} within ten minutes"), FORWARD),
        BurstRefusal::Unsuitable => (format!("guessing its ports is of no use as far as is known {at}"), FORWARD),
    };
    let (more, remedy) = match direct.burst()? {
        BurstOutcome::Running => {
            let detail = "ports of the NAT that gives each destination another one are being guessed, for 4 s at most";
            let remedy = Some("ask again in five seconds");
            return Some(Why { cause: Cause::Checking, detail: detail.into(), remedy });
        }
        BurstOutcome::Needless => return None,
        BurstOutcome::Met => {
            ("a guess has met, and that path is lost; the next try is ten minutes after the last".into(), FORWARD)
        }
        BurstOutcome::Missed => {
            ("its ports were guessed, and no guess met; the next try is ten minutes after the last".into(), FORWARD)
        }
        BurstOutcome::Unanswered => {
            ("the other end does not guess its ports".into(), "update the other end: an older version can't")
        }
        BurstOutcome::NoSockets => (
            "there were too few file descriptors to have its ports guessed".into(),
            "raise the limit of open files (ulimit -n, LimitNOFILE)",
        ),
        BurstOutcome::RefusedHere(why) => refused(why, "here"),
        BurstOutcome::RefusedThere(why) => refused(why, "at the other end"),
    };
    let detail = format!("the NAT {ends} gives each destination another port ({}), and {more}", describe(hard));
    Some(Why { cause: Cause::HardNatOne, detail, remedy: Some(remedy) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::budget::Budget;
    use crate::path::burst::{BurstSettings, Gate};
    use crate::path::candidate::CandidateKind;
    use crate::path::checklist::Keys;
    use crate::wire::check::{CheckKey, Token};
    use crate::wire::path_signal::Message;

    /// Behind a hard NAT, with a peer behind an easy one, when its first burst would be due.
    fn hard(now: Instant, settings: BurstSettings) -> Direct {
        let secret = |of: u8| (Token([of; 8]), CheckKey::new([of; 32]));
        let mut direct = Direct::new(Keys { ours: secret(1), theirs: secret(2), mask: [3; 12] }, 1_320);
        let named = |text: &str| Candidate { kind: CandidateKind::ServerReflexive, address: text.parse().unwrap() };
        let mapping = Mapping::EndpointIndependent;
        direct.set_local(now, vec![named("203.0.113.1:7")], Mapping::AddressAndPortDependent);
        let theirs = Message::Candidates { generation: 1, mapping, candidates: vec![named("198.51.100.9:7")] };
        for message in [theirs, Message::Ack { generation: 1 }] {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            direct.handle_signal(now, &bytes).unwrap();
        }
        let mut gate = Gate::default();
        gate.set(settings);
        let later = now + Duration::from_secs(2);
        let peer = "spiffe://example.test/connector/c1".parse().unwrap();
        assert!(direct.poll_burst(later, &mut gate, 0, &peer).is_none());
        direct
    }

    fn causes(direct: &Direct) -> Vec<(Cause, String, Option<&'static str>)> {
        causes_at(direct, Instant::now())
    }

    fn causes_at(direct: &Direct, now: Instant) -> Vec<(Cause, String, Option<&'static str>)> {
        let reasons = explain(Some(direct), Surroundings::at(now)).reasons;
        reasons.into_iter().map(|w| (w.cause, w.detail, w.remedy)).collect()
    }

    #[test]
    fn a_hard_nat_at_one_end_says_why_no_port_is_guessed_and_what_to_set() {
        let metered = hard(Instant::now(), BurstSettings { metered: true, ..BurstSettings::default() });
        let told = causes(&metered);
        let (_, detail, remedy) = told.iter().find(|(cause, ..)| *cause == Cause::HardNatOne).unwrap();
        assert!(detail.contains("the network here is set as metered"), "{detail}");
        assert!(detail.contains("the NAT here") && detail.contains("address-and-port-dependent"), "{detail}");
        assert_eq!(*remedy, Some("set metered = false at that end, if it is not"));
    }

    #[test]
    fn where_one_address_of_a_relay_can_not_tell_what_a_nat_does_it_says_so_and_what_helps() {
        let now = Instant::now();
        let mut direct = hard(now, BurstSettings::default());
        let candidate = |n| Candidate { kind: CandidateKind::Host, address: SocketAddr::from(([10, 0, 0, n], 7)) };
        direct.set_local(now, vec![candidate(1)], Mapping::Unknown);
        let (peer, mut budget) = ("spiffe://example.test/connector/c1".parse().unwrap(), Budget::default());
        for ms in (0..15_000).step_by(100) {
            while direct.poll_transmit(now + Duration::from_millis(ms), &peer, &mut budget).is_some() {}
        }
        let told = |one_view| {
            let reasons = explain(Some(&direct), Surroundings { one_view, ..Surroundings::at(now) }).reasons;
            reasons.into_iter().find(|w| w.cause == Cause::CheckTimeout).unwrap()
        };
        assert!(told(true).detail.contains("one relay address can't tell"), "{:?}", told(true));
        assert!(told(true).remedy.unwrap().contains("--stun-alt"));
        assert!(!told(false).detail.contains("one relay address"));
    }

    #[test]
    fn while_ports_are_guessed_it_says_so_and_names_no_obstacle() {
        let told = causes(&hard(Instant::now(), BurstSettings::default()));
        assert!(told.iter().all(|(cause, ..)| *cause == Cause::Checking), "{told:?}");
        assert!(told.iter().any(|(_, detail, _)| detail.contains("being guessed")), "{told:?}");
    }
    #[test]
    fn what_an_operator_can_act_on_comes_before_what_time_decides() {
        let now = Instant::now();
        let told = causes_at(&hard(now, BurstSettings { metered: true, ..BurstSettings::default() }), now);
        let causes: Vec<Cause> = told.iter().map(|(cause, ..)| *cause).collect();
        assert_eq!(causes, [Cause::HardNatOne, Cause::Checking], "{told:?}");
    }

    #[test]
    fn checks_that_are_under_way_say_how_long_they_take() {
        let now = Instant::now();
        let told = causes_at(&hard(now, BurstSettings::default()), now + Duration::from_millis(2_500));
        let (_, detail, remedy) = told.iter().find(|(_, detail, _)| detail.contains("being checked")).unwrap();
        assert!(detail.contains("up to 8 s more"), "{detail}");
        assert!(remedy.is_some_and(|r| r.contains("10 s")), "{remedy:?}");
    }

    #[test]
    fn a_peer_that_has_not_spoken_yet_is_not_one_without_addresses() {
        let secret = |of: u8| (Token([of; 8]), CheckKey::new([of; 32]));
        let mut direct = Direct::new(Keys { ours: secret(1), theirs: secret(2), mask: [3; 12] }, 1_320);
        let own = Candidate { kind: CandidateKind::Host, address: "192.0.2.1:7".parse().unwrap() };
        direct.set_local(Instant::now(), vec![own], Mapping::None);
        let told = causes(&direct);
        assert!(told.iter().all(|(cause, ..)| *cause == Cause::Checking), "{told:?}");
    }
}
