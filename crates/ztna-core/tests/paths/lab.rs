//! Two ends with what a node has around its path agent (its addresses, a budget, packets in flight), a relay, and the network between.
//!
//! Data is numbered packets that the other end acknowledges; signals travel as data does. The relay passes on what it can't read,
//! answers STUN on both ports, and tells each end its address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use ztna_core::id::SpiffeId;
use ztna_core::interface::{Interface, InterfaceKind};
use ztna_core::path::budget::Budget;
use ztna_core::path::checklist::Keys;
use ztna_core::path::reflexive::Reflexive;
use ztna_core::path::{Direct, Local, PathAgent, PathEvent, PathId, RelayPath};
use ztna_core::wire::check::{CheckKey, Token, token_of};
use ztna_core::wire::stun;
use ztna_netlab::impairment::Impairment;
use ztna_netlab::sim::HostId;
use ztna_netlab::sim::kinds::{NodeKind, Pair, RELAY_PORTS, RELAY_SECOND_V4, RELAY_V4, RELAY_V6};
use ztna_netlab::sim::oracle::Relation;

use super::account::Account;
use super::sockets::Sockets;

/// Largest inner packet (protocol.md, Sizes).
const LARGEST: usize = 1_320;
/// First bytes of our packets: those of QUIC short headers, which STUN's are not.
const TO_RELAY: u8 = 0x40;
const OBSERVED: u8 = 0x41;
const DATA: u8 = 0x42;
const ACK: u8 = 0x43;
const SIGNAL: u8 = 0x44;
/// Data is sent this often unless a test says otherwise, and what is not acknowledged after so long is no longer waited for.
const EVERY: Duration = Duration::from_millis(20);
const FORGOTTEN: Duration = Duration::from_secs(2);
const KEEP_ALIVE: Duration = Duration::from_secs(5);

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub struct End {
    pub host: HostId,
    pub path: PathAgent,
    reflexive: Reflexive,
    /// Whom the other end has proven to be.
    peer: SpiffeId,
    pub budget: Budget,
    pub sockets: Sockets,
    pub account: Account,
    pub port: u16,
    relay: Option<SocketAddr>,
    registered: bool,
    next_keep_alive: Duration,
    next_data: Duration,
    flying: BTreeMap<u64, Duration>,
    next_number: u64,
    seen: BTreeSet<u64>,
    enabled: bool,
    is_agent: bool,
    /// When the other end's data last came.
    pub heard: Duration,
    /// Longest time without any, since data began.
    pub gap: Duration,
    pub switches: Vec<(Duration, PathId)>,
    /// Bytes sent straight to the peer, or to try it, UDP payload.
    pub direct_bytes: usize,
    pub direct_packets: usize,
    /// The same of what the lab itself lost.
    pub lost_bytes: usize,
    pub lost_packets: usize,
}

impl End {
    fn new(host: HostId, is_agent: bool, seed: u64) -> End {
        let mut mask = [0u8; 12];
        mask[0] = u8::from(is_agent);
        mask[4..].copy_from_slice(&seed.to_be_bytes());
        End {
            host,
            path: PathAgent::new(is_agent),
            reflexive: Reflexive::new(mask),
            peer: format!("spiffe://example.test/{}", if is_agent { "connector/c1" } else { "agent/a1" })
                .parse()
                .unwrap(),
            budget: Budget::default(),
            sockets: Sockets::new(seed),
            account: Account::default(),
            port: if is_agent { 40_001 } else { 40_002 },
            relay: None,
            registered: false,
            next_keep_alive: Duration::ZERO,
            next_data: Duration::ZERO,
            flying: BTreeMap::new(),
            next_number: 0,
            seen: BTreeSet::new(),
            enabled: false,
            is_agent,
            heard: Duration::ZERO,
            gap: Duration::ZERO,
            switches: Vec::new(),
            direct_bytes: 0,
            direct_packets: 0,
            lost_bytes: 0,
            lost_packets: 0,
        }
    }
}

pub struct Lab {
    pub pair: Pair,
    pub now: Duration,
    pub ends: [End; 2],
    origin: Instant,
    places: [Option<SocketAddr>; 2],
    /// Whether the relay passes data on.
    pub relay_up: bool,
    /// An end that no longer hears what the other sends straight to it.
    pub deaf_direct: Option<usize>,
    /// Direct paths carry checks and nothing else.
    pub data_lost: bool,
    /// Whether the ends send data.
    pub talking: bool,
    /// How often.
    pub every: Duration,
}

impl Lab {
    pub fn new(seed: u64, kinds: [NodeKind; 2], relation: Relation, home: Impairment) -> Lab {
        let pair = Pair::new(seed, kinds[0], kinds[1], relation, home, Impairment::default()).unwrap();
        let ends = [(pair.a.host, true), (pair.b.host, false)].map(|(host, is_agent)| End::new(host, is_agent, seed));
        let mut lab = Lab {
            pair,
            now: Duration::ZERO,
            ends,
            origin: Instant::now(),
            places: [None; 2],
            relay_up: true,
            deaf_direct: None,
            data_lost: false,
            talking: true,
            every: EVERY,
        };
        for end in 0..2 {
            lab.know_addresses(end);
        }
        lab
    }

    pub fn at(&self) -> Instant {
        self.origin + self.now
    }

    /// What the end's system tells of its addresses now.
    pub fn know_addresses(&mut self, end: usize) {
        let now = self.at();
        let addresses = self.pair.network.addresses(self.ends[end].host);
        let e = &mut self.ends[end];
        let sockets = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        e.reflexive.set_sockets(&sockets.map(|ip| SocketAddr::new(ip, e.port)));
        let interfaces: Vec<Interface> = addresses
            .iter()
            .map(|address| Interface {
                index: 2,
                name: "eth0".into(),
                address: *address,
                prefix_len: 24,
                scope_id: 0,
                kind: InterfaceKind::Ordinary,
                temporary: false,
                deprecated: false,
            })
            .collect();
        e.reflexive.set_interfaces(&interfaces);
        e.budget.set_networks(interfaces.iter().map(|i| (i.address, i.prefix_len)));
        let v4 = addresses.iter().any(IpAddr::is_ipv4);
        let relay = if v4 { IpAddr::V4(RELAY_V4) } else { IpAddr::V6(RELAY_V6) };
        e.relay = (!addresses.is_empty()).then(|| SocketAddr::new(relay, RELAY_PORTS[0]));
        for ip in [IpAddr::V4(RELAY_V4), IpAddr::V4(RELAY_SECOND_V4), IpAddr::V6(RELAY_V6)] {
            if addresses.iter().any(|a| a.is_ipv4() == ip.is_ipv4()) {
                e.reflexive.probe(now, SocketAddr::new(ip, RELAY_PORTS[0]));
            }
        }
        e.next_keep_alive = self.now;
        self.offer(end);
    }

    /// As [`know_addresses`](Self::know_addresses), with the word that they have changed.
    pub fn network_changed(&mut self, end: usize) {
        self.know_addresses(end);
        let now = self.at();
        self.ends[end].reflexive.restart(now);
        if let Some(direct) = self.ends[end].path.direct_mut() {
            direct.handle_network_change(now);
        }
    }

    /// The process at `end` ends and another begins, with a port of its own: the inner connection of both is a new one.
    pub fn restart(&mut self, end: usize, seed: u64) {
        for n in 0..2 {
            let old = &self.ends[n];
            let (host, is_agent, port) = (old.host, old.is_agent, old.port);
            let (heard, registered) = (old.heard, old.registered);
            let mut new = End::new(host, is_agent, seed);
            new.heard = heard;
            new.port = port;
            if n == end {
                new.port = 40_000 + (port + 2) % 1_000;
                new.account.since = self.now;
                self.places[end] = None;
            } else {
                // It goes on: its sockets, what it has spent, and its registration are as they were.
                new.account = std::mem::take(&mut self.ends[n].account);
                new.budget = std::mem::take(&mut self.ends[n].budget);
                new.sockets = self.ends[n].sockets.outlive();
                new.registered = registered;
            }
            self.ends[n] = new;
            self.know_addresses(n);
            if n != end && registered {
                let now = self.at();
                self.ends[n].path.add(now, 0, ms(40));
            }
        }
    }

    fn offer(&mut self, end: usize) {
        let now = self.at();
        let (candidates, mapping) = self.ends[end].reflexive.offer();
        if let Some(direct) = self.ends[end].path.direct_mut() {
            direct.set_local(now, candidates, mapping);
        }
    }

    pub fn is_direct(&self, end: usize) -> bool {
        matches!(self.ends[end].path.active(), Some(PathId::Direct(_)))
    }

    /// The longest gap in either end's data from now on.
    pub fn forget_gaps(&mut self) {
        for e in &mut self.ends {
            e.gap = Duration::ZERO;
        }
    }

    pub fn longest_gap(&self) -> Duration {
        self.ends.iter().map(|e| e.gap.max(self.now.saturating_sub(e.heard))).max().unwrap_or_default()
    }

    /// Each end has been on a direct path, at the same time or not: on a line that loses one packet in five neither stays there for long.
    pub fn both_have_been_direct(&self) -> bool {
        let once = |e: &End| e.switches.iter().any(|(_, to)| matches!(to, PathId::Direct(_)));
        self.ends.iter().all(once)
    }

    pub fn both_direct(&self) -> bool {
        self.is_direct(0) && self.is_direct(1)
    }

    /// Runs until `done` or `until`; tells which.
    pub fn until(&mut self, until: Duration, mut done: impl FnMut(&Lab) -> bool) -> bool {
        while self.now < until {
            if done(self) {
                return true;
            }
            self.step(until);
        }
        done(self)
    }

    pub fn run(&mut self, until: Duration) {
        self.until(until, |_| false);
    }

    /// To the next thing that happens, `limit` at the latest.
    fn step(&mut self, limit: Duration) {
        let mut next = limit;
        if let Some(t) = self.pair.network.poll_timeout() {
            next = next.min(t);
        }
        for e in &self.ends {
            for t in [e.path.poll_timeout(), e.reflexive.poll_timeout()].into_iter().flatten() {
                next = next.min(t.saturating_duration_since(self.origin));
            }
            next = next.min(e.next_keep_alive);
            if self.talking && e.enabled {
                next = next.min(e.next_data);
            }
        }
        self.now = self.now.max(next);
        while let Some(d) = self.pair.network.poll_delivery(self.now) {
            if d.host == self.pair.relay {
                self.at_relay(d.from, d.to, &d.payload);
            } else {
                let end = usize::from(d.host != self.ends[0].host);
                self.at_end(end, d.from, d.to, &d.payload);
            }
        }
        for end in 0..2 {
            self.turn(end);
        }
    }

    fn at_relay(&mut self, from: SocketAddr, to: SocketAddr, packet: &[u8]) {
        if let Some(tid) = stun::parse_binding_request(packet) {
            let mut out = Vec::new();
            let other = SocketAddr::new(to.ip(), RELAY_PORTS[1]);
            stun::write_binding_success(tid, from, Some(other), packet.len(), &mut out);
            self.pair.network.send(self.now, self.pair.relay, to, from, out);
            return;
        }
        let [TO_RELAY, sender, inner @ ..] = packet else { return };
        let sender = usize::from(*sender);
        if self.places[sender].replace(from) != Some(from) || inner.is_empty() {
            let mut out = vec![OBSERVED];
            out.extend_from_slice(from.to_string().as_bytes());
            self.pair.network.send(self.now, self.pair.relay, to, from, out);
        }
        if let Some(peer) = self.places[1 - sender].filter(|_| self.relay_up && !inner.is_empty()) {
            let at = if peer.is_ipv4() { IpAddr::V4(RELAY_V4) } else { IpAddr::V6(RELAY_V6) };
            let mut out = vec![TO_RELAY, sender as u8];
            out.extend_from_slice(inner);
            self.pair.network.send(self.now, self.pair.relay, SocketAddr::new(at, RELAY_PORTS[0]), peer, out);
        }
    }

    fn at_end(&mut self, end: usize, from: SocketAddr, to: SocketAddr, packet: &[u8]) {
        let now = self.at();
        let socket = self.ends[end].sockets.index_of(to.port());
        if socket.is_none() && to.port() != self.ends[end].port {
            return;
        }
        let local = Local { socket, ip: Some(to.ip()) };
        if packet.first().is_some_and(|b| stun::is_stun(*b)) {
            let e = &mut self.ends[end];
            if token_of(packet).is_some() {
                if let Some(direct) = e.path.direct_mut() {
                    if direct.handle_message(now, local, from, packet) {
                        e.account.heard(from, packet);
                    }
                    e.path.settle_direct(now);
                }
            } else if e.reflexive.handle_answer(now, from, packet) {
                self.offer(end);
            }
            return;
        }
        match packet {
            [OBSERVED, text @ ..] => {
                let seen: SocketAddr = std::str::from_utf8(text).unwrap().parse().unwrap();
                let e = &mut self.ends[end];
                if !e.registered {
                    e.registered = true;
                    e.path.add(now, 0, ms(40));
                }
                if e.reflexive.observe(now, from, seen) {
                    self.offer(end);
                }
            }
            [TO_RELAY, _, inner @ ..] => self.at_path(end, PathId::Relay(RelayPath::tunnel(0)), inner),
            _ => {
                let pair = self.ends[end].path.direct_mut().and_then(|d| d.handle_data(now, local, from));
                if let Some(pair) = pair {
                    self.at_path(end, PathId::Direct(pair), packet);
                }
            }
        }
    }

    fn at_path(&mut self, end: usize, path: PathId, packet: &[u8]) {
        let now = self.at();
        let Some((number, body)) = packet.get(1..).and_then(|p| p.split_first_chunk::<8>()) else { return };
        let number = u64::from_be_bytes(*number);
        let e = &mut self.ends[end];
        let new = if packet[0] == ACK { e.flying.remove(&number).is_some() } else { e.seen.insert(number) };
        if !new {
            return;
        }
        if packet[0] == DATA {
            if e.heard > Duration::ZERO {
                e.gap = e.gap.max(self.now - e.heard);
            }
            e.heard = self.now;
        }
        e.path.handle_received(now, path, true);
        self.enable(end);
        if packet[0] == SIGNAL
            && let Some(direct) = self.ends[end].path.direct_mut()
        {
            direct.handle_signal(now, body).unwrap();
        }
        self.ends[end].path.settle_direct(now);
        if packet[0] != ACK {
            let ack = [&[ACK][..], &number.to_be_bytes()].concat();
            self.send(end, &ack);
        }
    }

    fn enable(&mut self, end: usize) {
        if std::mem::replace(&mut self.ends[end].enabled, true) {
            return;
        }
        let secret = |of: u8| (Token([of; 8]), CheckKey::new([of; 32]));
        let e = &mut self.ends[end];
        let (ours, theirs) = if e.is_agent { (secret(1), secret(2)) } else { (secret(2), secret(1)) };
        e.path.enable_direct(Direct::new(Keys { ours, theirs, mask: [7 + end as u8; 12] }, LARGEST));
        e.next_data = self.now;
        self.offer(end);
    }

    fn turn(&mut self, end: usize) {
        let now = self.at();
        let e = &mut self.ends[end];
        e.flying.retain(|_, sent| *sent + FORGOTTEN > self.now);
        e.path.set_rtt(ms(40));
        if e.path.poll_timeout().is_some_and(|t| t <= now) {
            e.path.handle_timeout(now);
        }
        if self.now >= self.ends[end].next_keep_alive {
            let wait = if self.ends[end].registered { KEEP_ALIVE } else { ms(500) };
            self.ends[end].next_keep_alive = self.now + wait;
            self.by_relay(end, &[]);
        }
        // The agent begins: its first packet is what the handshake would be.
        let begins = self.ends[end].is_agent && self.ends[end].registered && self.places[1].is_some();
        if begins {
            self.enable(end);
        }
        if self.talking && self.ends[end].enabled && self.now >= self.ends[end].next_data {
            self.ends[end].next_data = self.now + self.every;
            self.send_numbered(end, DATA, &[0; 1_200]);
        }
        self.settle_burst(end);
        let mut signals = Vec::new();
        if let Some(direct) = self.ends[end].path.direct_mut() {
            while let Some(signal) = direct.poll_signal(now) {
                signals.push(signal);
            }
        }
        for signal in signals {
            self.send_numbered(end, SIGNAL, &signal);
        }
        let mut ping = false;
        while let Some(event) = self.ends[end].path.poll_event() {
            match event {
                PathEvent::Switched { to, .. } => {
                    let now = self.now;
                    self.ends[end].switches.push((now, to));
                    ping = true;
                }
                PathEvent::PeerSwitched { .. } | PathEvent::Suspect | PathEvent::Quiet => ping = true,
                PathEvent::Stalled | PathEvent::Revived | PathEvent::Reregister { .. } => {}
            }
        }
        if ping && self.ends[end].enabled {
            self.send_numbered(end, DATA, &[]);
        }
        self.send_checks(end);
        if self.ends[end].reflexive.handle_timeout(now) {
            self.offer(end);
        }
        let mut out = Vec::new();
        while let Some(t) = self.ends[end].reflexive.poll_transmit(now, &mut out) {
            self.put(end, Local::default(), t.to, std::mem::take(&mut out));
        }
    }

    fn send_checks(&mut self, end: usize) {
        let now = self.at();
        loop {
            let e = &mut self.ends[end];
            let budget = &mut e.budget;
            let Some(out) = e.path.direct_mut().and_then(|d| d.poll_transmit(now, &e.peer, budget)) else { break };
            self.put(end, out.local, out.to, out.bytes);
        }
        self.ends[end].path.settle_direct(now);
    }

    fn send_numbered(&mut self, end: usize, kind: u8, body: &[u8]) {
        let e = &mut self.ends[end];
        let number = e.next_number;
        e.next_number += 1;
        e.flying.insert(number, self.now);
        let packet = [&[kind][..], &number.to_be_bytes(), body].concat();
        self.send(end, &packet);
    }

    /// By every path that is to carry it.
    fn send(&mut self, end: usize, packet: &[u8]) {
        let (first, second) = self.ends[end].path.select();
        match first {
            Some(PathId::Relay(_)) => self.by_relay(end, packet),
            Some(PathId::Direct(pair)) => {
                if let Some((local, to)) = self.ends[end].path.direct().and_then(|d| d.list().remote(pair)) {
                    self.put(end, local, to, packet.to_vec());
                }
            }
            None => {}
        }
        if second.is_some() {
            self.by_relay(end, packet);
        }
        let (in_flight, now) = (!self.ends[end].flying.is_empty(), self.at());
        self.ends[end].path.handle_sent(now, in_flight);
    }

    fn by_relay(&mut self, end: usize, inner: &[u8]) {
        let Some(relay) = self.ends[end].relay else { return };
        let packet = [&[TO_RELAY, end as u8][..], inner].concat();
        self.put(end, Local::default(), relay, packet);
    }

    fn put(&mut self, end: usize, local: Local, to: SocketAddr, bytes: Vec<u8>) {
        if to.port() != RELAY_PORTS[0] && to.port() != RELAY_PORTS[1] {
            let is_check = bytes.first().is_some_and(|b| stun::is_stun(*b));
            if self.deaf_direct == Some(1 - end) || (self.data_lost && !is_check) {
                self.ends[end].lost_bytes += bytes.len();
                self.ends[end].lost_packets += 1;
                return;
            }
            self.ends[end].account.sent(to, &bytes);
            self.ends[end].direct_bytes += bytes.len();
            self.ends[end].direct_packets += 1;
        }
        let any = if to.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
        let Some(port) = self.ends[end].port_of(local.socket) else { return };
        let from = SocketAddr::new(local.ip.filter(|ip| ip.is_ipv4() == to.is_ipv4()).unwrap_or(any), port);
        self.pair.network.send(self.now, self.ends[end].host, from, to, bytes);
    }
}
