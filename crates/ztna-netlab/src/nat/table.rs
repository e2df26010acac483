//! Mappings and their sessions.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::ports::PortSource;
use super::{Filtering, FirewallConfig, Mapping, NatConfig, Ports, Protocol, Refusal, Timeouts};
use crate::random::Random;

/// Sessions of all mappings; `nf_conntrack_max` of a small Linux router.
const MAX_SESSIONS: usize = 65_536;
/// RFC 5382 REQ-5: 2 h 4 min for established connections, 4 min for the others.
const TCP: (Duration, Duration) = (Duration::from_secs(240), Duration::from_secs(7_440));
/// RFC 5508 REQ-1.
const ICMP: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(60));
/// How often dead state is swept out; that it is dead is seen at once.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// What a router has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Mappings alive.
    pub mappings: usize,
    /// The most that were alive at a time.
    pub mappings_max: usize,
    /// Pairs of a mapping and a remote address and port.
    pub sessions: usize,
    /// Packets from outside that a filter refused.
    pub filtered: u64,
    /// Packets from outside to an address and port without a mapping.
    pub unmapped: u64,
    /// Packets from inside for which there was no room or no port.
    pub exhausted: u64,
}

/// The state of one router for one address family, translating or not.
#[derive(Debug)]
pub struct Nat {
    mapping: Mapping,
    filtering: Filtering,
    hairpin: bool,
    overload: bool,
    timeouts: Timeouts,
    max_mappings: usize,
    translation: Option<Translation>,
    mappings: BTreeMap<u64, Entry>,
    next_id: u64,
    /// Which mapping the packets of a flow take. Entries of dead mappings stay until the next sweep.
    by_flow: BTreeMap<Flow, u64>,
    /// Oldest first. More than one only with `overload`.
    by_external: BTreeMap<(Protocol, SocketAddr), Vec<u64>>,
    swept: Duration,
    counters: Counters,
}

#[derive(Debug)]
struct Translation {
    external: Vec<IpAddr>,
    source: PortSource,
    /// Paired pooling (RFC 4787 REQ-2): an inside host keeps the external address it was given first.
    paired: BTreeMap<IpAddr, IpAddr>,
    turn: usize,
}

/// As much of a flow as the mapping depends on.
type Flow = (Protocol, SocketAddr, Option<IpAddr>, Option<u16>);

#[derive(Debug)]
struct Entry {
    protocol: Protocol,
    inside: SocketAddr,
    external: SocketAddr,
    /// When it dies at the latest.
    end: Option<Duration>,
    /// The latest of its sessions' ends.
    expires: Duration,
    sessions: BTreeMap<SocketAddr, Session>,
}

#[derive(Debug)]
struct Session {
    expires: Duration,
    replied: bool,
}

impl Entry {
    fn is_live(&self, now: Duration) -> bool {
        now < self.expires && self.end.is_none_or(|end| now < end)
    }

    fn admits(&self, now: Duration, filtering: Filtering, remote: SocketAddr) -> bool {
        match filtering {
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => {
                let ports = SocketAddr::new(remote.ip(), 0)..=SocketAddr::new(remote.ip(), u16::MAX);
                self.sessions.range(ports).any(|(_, session)| now < session.expires)
            }
            Filtering::AddressAndPortDependent => self.knows(now, remote),
        }
    }

    fn knows(&self, now: Duration, remote: SocketAddr) -> bool {
        self.sessions.get(&remote).is_some_and(|session| now < session.expires)
    }
}

impl Nat {
    /// A router that translates to the `external` addresses, of which an inside host gets one of its family.
    pub fn new(config: NatConfig, external: Vec<IpAddr>, random: Random) -> Self {
        let source = PortSource::new(config.ports, config.port_range, random);
        Self {
            mapping: config.mapping,
            filtering: config.filtering,
            hairpin: config.hairpin,
            overload: config.overload,
            timeouts: config.timeouts,
            max_mappings: config.max_mappings,
            translation: Some(Translation { external, source, paired: BTreeMap::new(), turn: 0 }),
            mappings: BTreeMap::new(),
            next_id: 0,
            by_flow: BTreeMap::new(),
            by_external: BTreeMap::new(),
            swept: Duration::ZERO,
            counters: Counters::default(),
        }
    }

    /// A stateful firewall: external addresses and ports are the inside ones.
    pub fn firewall(config: FirewallConfig) -> Self {
        let FirewallConfig { filtering, timeouts, max_mappings } = config;
        let nat = NatConfig {
            timeouts,
            max_mappings,
            ..NatConfig::new(Mapping::EndpointIndependent, filtering, Ports::Preserve)
        };
        Self { translation: None, ..Self::new(nat, Vec::new(), Random::new(0)) }
    }

    /// A packet from inside: the external source it leaves with.
    pub fn outbound(
        &mut self,
        now: Duration,
        protocol: Protocol,
        inside: SocketAddr,
        remote: SocketAddr,
    ) -> Result<SocketAddr, Refusal> {
        self.sweep_if_due(now);
        let flow = self.flow(protocol, inside, remote);
        let live = self.by_flow.get(&flow).copied().filter(|id| self.mappings.get(id).is_some_and(|m| m.is_live(now)));
        let outcome = match live {
            Some(id) => Ok(id),
            None => self.create(now, protocol, inside, remote),
        };
        let outcome = outcome.and_then(|id| {
            self.by_flow.insert(flow, id);
            self.refresh_outbound(now, id, remote)
        });
        if outcome.is_err() {
            self.counters.exhausted += 1;
        }
        outcome
    }

    /// A packet from outside: the inside address and port it goes to.
    ///
    /// From then on packets of that inside port to this remote leave by the same mapping, even when the mapping depends on the
    /// remote: an answer has to come from where the question was sent.
    pub fn inbound(
        &mut self,
        now: Duration,
        protocol: Protocol,
        external: SocketAddr,
        remote: SocketAddr,
    ) -> Result<SocketAddr, Refusal> {
        self.sweep_if_due(now);
        let admitted = self.find(now, protocol, external, remote).and_then(|id| self.refresh_inbound(now, id, remote));
        match admitted {
            Ok(_) => {}
            Err(Refusal::Filtered) => self.counters.filtered += 1,
            Err(Refusal::NoMapping) => self.counters.unmapped += 1,
            Err(Refusal::Full | Refusal::NoPort) => self.counters.exhausted += 1,
        }
        admitted
    }

    /// Who inside has the session of `external` with `remote`, without touching it: for the packet that an ICMP error quotes.
    pub fn peek(
        &self,
        now: Duration,
        protocol: Protocol,
        external: SocketAddr,
        remote: SocketAddr,
    ) -> Option<SocketAddr> {
        let ids = self.by_external.get(&(protocol, external))?;
        let entry = ids.iter().filter_map(|id| self.mappings.get(id));
        entry.filter(|entry| entry.is_live(now) && entry.knows(now, remote)).map(|entry| entry.inside).next_back()
    }

    /// What [`Nat::outbound`] would give, without touching it; `None` when it would make a mapping.
    pub fn peek_outbound(
        &self,
        now: Duration,
        protocol: Protocol,
        inside: SocketAddr,
        remote: SocketAddr,
    ) -> Option<SocketAddr> {
        let entry = self.mappings.get(self.by_flow.get(&self.flow(protocol, inside, remote))?)?;
        entry.is_live(now).then_some(entry.external)
    }

    /// Whether `ip` is one of the external addresses.
    pub fn owns(&self, ip: IpAddr) -> bool {
        self.translation.as_ref().is_some_and(|translation| translation.external.contains(&ip))
    }

    /// Whether it translates at all.
    pub fn translates(&self) -> bool {
        self.translation.is_some()
    }

    /// Whether inside hosts reach each other by external addresses.
    pub fn hairpins(&self) -> bool {
        self.hairpin
    }

    /// Forgets all mappings; the next ones get other ports. A firewall forgets whom its hosts have talked to.
    pub fn rebind(&mut self) {
        self.forget();
        if let Some(translation) = &mut self.translation {
            translation.source.reshuffle();
        }
    }

    /// Other external addresses; all mappings die with the old ones. A firewall has none and forgets only.
    pub fn set_external(&mut self, external: Vec<IpAddr>) {
        self.forget();
        if let Some(translation) = &mut self.translation {
            translation.external = external;
        }
    }

    /// Counters, without what is dead by `now`.
    pub fn counters(&mut self, now: Duration) -> Counters {
        self.sweep(now);
        self.counters
    }

    fn flow(&self, protocol: Protocol, inside: SocketAddr, remote: SocketAddr) -> Flow {
        let mapping = if self.overload { Mapping::AddressAndPortDependent } else { self.mapping };
        match mapping {
            Mapping::AddressAndPortDependent => (protocol, inside, Some(remote.ip()), Some(remote.port())),
            Mapping::AddressDependent => (protocol, inside, Some(remote.ip()), None),
            Mapping::EndpointIndependent => (protocol, inside, None, None),
        }
    }

    fn create(
        &mut self,
        now: Duration,
        protocol: Protocol,
        inside: SocketAddr,
        remote: SocketAddr,
    ) -> Result<u64, Refusal> {
        if self.mappings.len() >= self.max_mappings {
            self.sweep(now);
        }
        if self.mappings.len() >= self.max_mappings {
            return Err(Refusal::Full);
        }
        let (mappings, by_external, overload) = (&self.mappings, &self.by_external, self.overload);
        let external = match &mut self.translation {
            None => inside,
            Some(translation) => {
                let ip = translation.address(inside.ip()).ok_or(Refusal::NoPort)?;
                let is_free = |port| {
                    let held = by_external.get(&(protocol, SocketAddr::new(ip, port))).into_iter().flatten();
                    held.filter_map(|id| mappings.get(id))
                        .all(|other| !other.is_live(now) || (overload && !other.knows(now, remote)))
                };
                let port = translation.source.pick(inside.port(), is_free).ok_or(Refusal::NoPort)?;
                SocketAddr::new(ip, port)
            }
        };
        let id = self.next_id;
        self.next_id += 1;
        let end = self.timeouts.lifetime.map(|lifetime| now + lifetime);
        let entry = Entry { protocol, inside, external, end, expires: now, sessions: BTreeMap::new() };
        self.mappings.insert(id, entry);
        self.by_external.entry((protocol, external)).or_default().push(id);
        self.counters.mappings = self.mappings.len();
        self.counters.mappings_max = self.counters.mappings_max.max(self.mappings.len());
        Ok(id)
    }

    /// The mapping that lets `remote` in; the one that knows it before one that only lets it pass.
    fn find(
        &self,
        now: Duration,
        protocol: Protocol,
        external: SocketAddr,
        remote: SocketAddr,
    ) -> Result<u64, Refusal> {
        let ids = self.by_external.get(&(protocol, external)).into_iter().flatten();
        let live: Vec<(u64, &Entry)> = ids
            .rev()
            .filter_map(|id| self.mappings.get(id).map(|entry| (*id, entry)))
            .filter(|(_, entry)| entry.is_live(now))
            .collect();
        if live.is_empty() {
            return Err(Refusal::NoMapping);
        }
        let known = live.iter().find(|(_, entry)| entry.knows(now, remote));
        let admitting = known.or_else(|| live.iter().find(|(_, entry)| entry.admits(now, self.filtering, remote)));
        admitting.map(|(id, _)| *id).ok_or(Refusal::Filtered)
    }

    fn refresh_outbound(&mut self, now: Duration, id: u64, remote: SocketAddr) -> Result<SocketAddr, Refusal> {
        let entry = self.mappings.get_mut(&id).ok_or(Refusal::NoMapping)?;
        let (unreplied, replied) = timeouts(&self.timeouts, entry.protocol);
        if !entry.sessions.contains_key(&remote) && self.counters.sessions >= MAX_SESSIONS {
            return Err(Refusal::Full);
        }
        let session = entry.sessions.entry(remote).or_insert_with(|| {
            self.counters.sessions += 1;
            Session { expires: now, replied: false }
        });
        // One that had ended starts anew.
        session.replied &= now < session.expires;
        session.expires = now + if session.replied { replied } else { unreplied };
        entry.expires = entry.expires.max(session.expires);
        Ok(entry.external)
    }

    fn refresh_inbound(&mut self, now: Duration, id: u64, remote: SocketAddr) -> Result<SocketAddr, Refusal> {
        let entry = self.mappings.get_mut(&id).ok_or(Refusal::NoMapping)?;
        let (unreplied, replied) = timeouts(&self.timeouts, entry.protocol);
        if !entry.sessions.contains_key(&remote) && self.counters.sessions >= MAX_SESSIONS {
            return Err(Refusal::Full);
        }
        let known = entry.knows(now, remote);
        let session = entry.sessions.entry(remote).or_insert_with(|| {
            self.counters.sessions += 1;
            Session { expires: now, replied: false }
        });
        session.replied = known;
        if self.timeouts.refresh_inbound {
            session.expires = now + if known { replied } else { unreplied };
            entry.expires = entry.expires.max(session.expires);
        } else if !known {
            // Lasts as long as the mapping does anyway.
            session.expires = entry.expires;
        }
        let (protocol, inside) = (entry.protocol, entry.inside);
        let flow = self.flow(protocol, inside, remote);
        self.by_flow.insert(flow, id);
        Ok(inside)
    }

    fn forget(&mut self) {
        self.mappings.clear();
        self.by_flow.clear();
        self.by_external.clear();
        if let Some(translation) = &mut self.translation {
            translation.paired.clear();
        }
        (self.counters.mappings, self.counters.sessions) = (0, 0);
    }

    fn sweep_if_due(&mut self, now: Duration) {
        if now >= self.swept + SWEEP_EVERY {
            self.sweep(now);
        }
    }

    fn sweep(&mut self, now: Duration) {
        self.swept = now;
        let before = (self.mappings.len(), self.counters.sessions);
        self.mappings.retain(|_, entry| entry.is_live(now));
        for entry in self.mappings.values_mut() {
            entry.sessions.retain(|_, session| now < session.expires);
        }
        self.counters.sessions = self.mappings.values().map(|entry| entry.sessions.len()).sum();
        self.counters.mappings = self.mappings.len();
        if before == (self.counters.mappings, self.counters.sessions) {
            return;
        }
        let mappings = &self.mappings;
        self.by_flow.retain(|_, id| mappings.contains_key(id));
        self.by_external.retain(|_, ids| {
            ids.retain(|id| mappings.contains_key(id));
            !ids.is_empty()
        });
        if let Some(translation) = &mut self.translation {
            let inside: BTreeSet<IpAddr> = mappings.values().map(|entry| entry.inside.ip()).collect();
            translation.paired.retain(|ip, _| inside.contains(ip));
        }
    }
}

impl Translation {
    fn address(&mut self, inside: IpAddr) -> Option<IpAddr> {
        if let Some(ip) = self.paired.get(&inside) {
            return Some(*ip);
        }
        let family: Vec<IpAddr> = self.external.iter().copied().filter(|ip| ip.is_ipv4() == inside.is_ipv4()).collect();
        let ip = *family.get(self.turn.checked_rem(family.len())?)?;
        self.turn = self.turn.wrapping_add(1);
        self.paired.insert(inside, ip);
        Some(ip)
    }
}

/// Unreplied and replied.
fn timeouts(udp: &Timeouts, protocol: Protocol) -> (Duration, Duration) {
    match protocol {
        Protocol::Udp => (udp.unreplied, udp.replied),
        Protocol::Tcp => TCP,
        Protocol::Icmp => ICMP,
    }
}
