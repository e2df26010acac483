//! A node's own addresses: of its interfaces, and as relays see its sockets. Two ports of each relay are asked by STUN, so that the NAT in
//! front of us is known for what it is (RFC 5780 §4.3).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::candidate::{Candidate, CandidateKind, offer};
use super::nat::{self, Mapping, Seen};
use crate::interface::{Interface, InterfaceKind};
use crate::role::Transmit;
use crate::wire::stun::{self, TransactionId};

/// A probe is sent again after this long, doubling, so many times (RFC 8489 §6.2.1 says 500 ms and seven; a relay answers at once or is gone).
const RESEND: Duration = Duration::from_millis(300);
const TRIES: u32 = 5;
/// After the last of them an answer may still come.
const LAST_ANSWER: Duration = Duration::from_secs(1);
/// Servers that are remembered: two ports of each relay of a network.
const SERVERS: usize = 64;

#[derive(Debug)]
struct Probe {
    tid: TransactionId,
    sent: u32,
    due: Option<Instant>,
    seen: Option<SocketAddr>,
}

#[derive(Debug)]
pub struct Reflexive {
    /// Makes transaction IDs that a stranger can't guess, together with a count of them.
    mask: [u8; 12],
    asked: u64,
    sockets: Vec<SocketAddr>,
    interfaces: Vec<Interface>,
    /// As relays said on their streams.
    observed: BTreeMap<SocketAddr, SocketAddr>,
    probes: BTreeMap<SocketAddr, Probe>,
    /// A port of the router's that leads to our main socket.
    mapped: Option<SocketAddr>,
}

impl Reflexive {
    /// `mask`: random.
    pub fn new(mask: [u8; 12]) -> Self {
        Reflexive {
            mask,
            asked: 0,
            sockets: Vec::new(),
            interfaces: Vec::new(),
            observed: BTreeMap::new(),
            probes: BTreeMap::new(),
            mapped: None,
        }
    }

    /// How many main sockets there are: others are the machine's own wish.
    pub fn sockets(&self) -> usize {
        self.sockets.len()
    }

    pub fn set_sockets(&mut self, sockets: &[SocketAddr]) {
        self.sockets = sockets.to_vec();
    }

    pub fn set_interfaces(&mut self, interfaces: &[Interface]) {
        self.interfaces = interfaces.to_vec();
    }

    /// What the router has given us, or takes back.
    pub fn set_mapped(&mut self, mapped: Option<SocketAddr>) {
        self.mapped = mapped;
    }

    /// Whether an IPv4 relay sees us under an address that is none of this host's.
    pub fn is_translated(&self) -> bool {
        let foreign = |seen: &SocketAddr| seen.is_ipv4() && self.interfaces.iter().all(|i| i.address != seen.ip());
        let told = self.observed.values().copied().chain(self.probes.values().filter_map(|p| p.seen));
        !self.interfaces.is_empty() && told.into_iter().any(|seen| foreign(&seen))
    }

    /// The relay at `server` sees us as `address`. `true`: that is new, and its ports are asked again.
    pub fn observe(&mut self, now: Instant, server: SocketAddr, address: SocketAddr) -> bool {
        if self.observed.insert(server, address) == Some(address) {
            return false;
        }
        self.probe(now, server);
        true
    }

    /// The leg to `server` has gone.
    pub fn forget(&mut self, server: SocketAddr) {
        self.observed.remove(&server);
        self.probes.retain(|at, _| at.ip() != server.ip());
    }

    /// All servers are asked again: our network has changed.
    pub fn restart(&mut self, now: Instant) {
        let servers: Vec<SocketAddr> = self.probes.keys().copied().collect();
        for server in servers {
            self.probe(now, server);
        }
    }

    /// Asks a relay's address how it sees us.
    pub fn probe(&mut self, now: Instant, server: SocketAddr) {
        if self.probes.len() < SERVERS || self.probes.contains_key(&server) {
            self.asked += 1;
            let tid = TransactionId::nth(self.mask, self.asked);
            self.probes.insert(server, Probe { tid, sent: 0, due: Some(now), seen: None });
        }
    }

    /// A STUN answer that may be to a probe of ours. `true`: something new was learnt.
    pub fn handle_answer(&mut self, now: Instant, from: SocketAddr, message: &[u8]) -> bool {
        let Some((tid, mapped, other)) = stun::parse_binding_success(message) else { return false };
        let Some(probe) = self.probes.get_mut(&from).filter(|p| p.tid == tid) else { return false };
        probe.due = None;
        let new = probe.seen.replace(mapped) != Some(mapped);
        // The second port is the same host's: nobody has us send elsewhere.
        if let Some(other) = other.map(|o| SocketAddr::new(from.ip(), o.port()))
            && !self.probes.contains_key(&other)
        {
            self.probe(now, other);
        }
        new
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.probes.values().filter_map(|p| p.due).min()
    }

    /// Gives up servers that have not answered. `true`: there was one, so that more may be known of the NAT.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        let silent = self.probes.values_mut().filter(|p| p.sent >= TRIES);
        silent.filter_map(|p| p.due.take_if(|t| *t <= now)).count() > 0
    }

    pub fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<Transmit> {
        let due = |p: &Probe| p.sent < TRIES && p.due.is_some_and(|t| t <= now);
        let (server, probe) = self.probes.iter_mut().find(|(_, p)| due(p))?;
        let wait = if probe.sent + 1 < TRIES { RESEND * (1 << probe.sent.min(4)) } else { LAST_ANSWER };
        probe.due = Some(now + wait);
        probe.sent += 1;
        let request = stun::binding_request(probe.tid);
        out.extend_from_slice(&request);
        Some(Transmit { socket: None, to: *server, from: None, segment: request.len() })
    }

    /// What peers are told of us.
    pub fn offer(&self) -> (Vec<Candidate>, Mapping) {
        let mut all = Vec::new();
        for socket in &self.sockets {
            let of_family = self.interfaces.iter().filter(|i| i.address.is_ipv4() == socket.is_ipv4());
            let bound = |i: &&Interface| socket.ip().is_unspecified() || socket.ip() == i.address;
            for i in of_family.filter(bound).filter(|i| i.kind == InterfaceKind::Ordinary) {
                all.push(Candidate { kind: CandidateKind::Host, address: SocketAddr::new(i.address, socket.port()) });
            }
        }
        let hosts: Vec<SocketAddr> = all.iter().map(|c| c.address).collect();
        let probed = self.probes.iter().filter_map(|(server, p)| Some((*server, p.seen?)));
        let told = self.observed.iter().map(|(server, seen)| (*server, *seen));
        let seen: Vec<Seen> = told.chain(probed).map(|(server, as_address)| Seen { server, as_address }).collect();
        for s in seen.iter().filter(|s| !hosts.contains(&s.as_address)) {
            all.push(Candidate { kind: CandidateKind::ServerReflexive, address: s.as_address });
        }
        all.extend(self.mapped.map(|address| Candidate { kind: CandidateKind::PortMapped, address }));
        let mapping = self.mapping(&seen);
        (offer(all), mapping)
    }

    /// Behind a NAT all that is known of it comes from one address and port, which can't tell what it does elsewhere.
    pub fn has_one_view(&self) -> bool {
        let answered = self.probes.iter().filter(|(_, p)| p.seen.is_some()).map(|(server, _)| server);
        let servers: BTreeSet<&SocketAddr> =
            self.observed.keys().chain(answered).filter(|server| server.is_ipv4()).collect();
        let pending = self.probes.values().any(|p| p.seen.is_none() && p.due.is_some());
        servers.len() == 1 && !pending && self.is_translated()
    }

    /// The second port of a relay whose main one answers, when that is silent.
    pub fn silent_second_port(&self) -> Option<SocketAddr> {
        let answered = |ip: IpAddr| self.probes.iter().any(|(server, p)| server.ip() == ip && p.seen.is_some());
        let silent = |p: &Probe| p.seen.is_none() && p.due.is_none();
        self.probes.iter().find(|(server, p)| silent(p) && answered(server.ip())).map(|(server, _)| *server)
    }

    /// Of IPv4, where NATs are; of IPv6 where there is nothing else: that IPv6 is not translated says nothing of IPv4.
    fn mapping(&self, seen: &[Seen]) -> Mapping {
        let hosts: Vec<IpAddr> = self.interfaces.iter().map(|i| i.address).collect();
        let v4 = seen.iter().any(|s| s.server.is_ipv4());
        let seen: Vec<Seen> = seen.iter().filter(|s| s.server.is_ipv4() == v4).copied().collect();
        let port = self.sockets.iter().find(|s| s.is_ipv4() == v4).map_or(0, SocketAddr::port);
        let pending = self.probes.iter().any(|(at, p)| at.is_ipv4() == v4 && p.seen.is_none() && p.due.is_some());
        nat::judge(&seen, pending, &hosts, port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behind(address: &str) -> Reflexive {
        let mut r = Reflexive::new([0; 12]);
        r.set_sockets(&["0.0.0.0:5000".parse().unwrap()]);
        r.set_interfaces(&[Interface {
            index: 1,
            name: "eth0".into(),
            address: address.parse().unwrap(),
            prefix_len: 24,
            scope_id: 0,
            kind: InterfaceKind::Ordinary,
            temporary: false,
            deprecated: false,
        }]);
        r
    }

    #[test]
    fn a_relay_that_sees_another_address_than_the_hosts_sees_a_nat() {
        let (now, relay) = (Instant::now(), "192.0.2.1:4433".parse().unwrap());
        let mut r = behind("192.168.1.10");
        assert!(!r.is_translated());
        r.observe(now, relay, "192.168.1.10:5000".parse().unwrap());
        assert!(!r.is_translated());
        r.observe(now, relay, "203.0.113.1:6000".parse().unwrap());
        assert!(r.is_translated());
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// Sends what is due, and has a server that is asked answer, where `how` says as what it sees us and what its other port is.
    fn ask(r: &mut Reflexive, now: Instant, how: impl Fn(SocketAddr) -> Option<(SocketAddr, Option<SocketAddr>)>) {
        let mut out = Vec::new();
        while let Some(t) = r.poll_transmit(now, &mut out) {
            let tid = stun::parse_binding_request(&std::mem::take(&mut out)).unwrap();
            let mut answer = Vec::new();
            if let Some((seen, other)) = how(t.to) {
                stun::write_binding_success(tid, seen, other, stun::REQUEST_LEN, &mut answer);
                r.handle_answer(now, t.to, &answer);
            }
        }
    }

    #[test]
    fn equal_answers_of_some_servers_tell_nothing_until_the_last_one_has_answered_or_been_given_up() {
        let start = Instant::now();
        let (seen, others) = (at("203.0.113.1:6000"), at("192.0.2.1:4434"));
        let mut r = behind("192.168.1.10");
        for relay in ["192.0.2.1:4433", "198.51.100.1:4433"] {
            r.observe(start, at(relay), seen);
        }
        let second_port_lost =
            |to: SocketAddr| (to != others).then_some((seen, (to == at("192.0.2.1:4433")).then_some(others)));
        ask(&mut r, start, second_port_lost);
        assert_eq!(r.offer().1, Mapping::Unknown);
        let told = (1..10_000).find(|ms| {
            let now = start + Duration::from_millis(*ms);
            ask(&mut r, now, second_port_lost);
            r.handle_timeout(now)
        });
        assert_eq!(told, Some(5_500), "ms");
        assert_eq!((r.offer().1, r.poll_timeout()), (Mapping::EndpointIndependent, None));
    }

    #[test]
    fn the_only_address_of_the_only_relay_can_not_tell_what_a_nat_does() {
        let (start, relay) = (Instant::now(), at("192.0.2.1:4433"));
        let mut r = behind("192.168.1.10");
        r.observe(start, relay, at("203.0.113.1:6000"));
        ask(&mut r, start, |_| Some((at("203.0.113.1:6000"), None)));
        assert_eq!((r.offer().1, r.has_one_view()), (Mapping::Unknown, true));
    }

    #[test]
    fn an_ipv6_address_that_nobody_translates_says_nothing_of_the_nat_in_front_of_ipv4() {
        let start = Instant::now();
        let mut r = behind("192.168.1.10");
        let mut v6 = r.interfaces[0].clone();
        v6.address = "2001:db8::10".parse().unwrap();
        r.set_interfaces(&[r.interfaces[0].clone(), v6]);
        r.set_sockets(&[at("0.0.0.0:5000"), at("[::]:5000")]);
        r.observe(start, at("[2001:db8:1::1]:4433"), at("[2001:db8::10]:5000"));
        ask(&mut r, start, |_| Some((at("[2001:db8::10]:5000"), None)));
        assert_eq!(r.offer().1, Mapping::None);
        r.observe(start, at("192.0.2.1:4433"), at("203.0.113.1:6000"));
        assert_eq!(r.offer().1, Mapping::Unknown);
    }

    #[test]
    fn a_port_of_the_routers_is_offered_first_and_only_while_it_lasts() {
        let mut r = behind("192.168.1.10");
        let mapped: SocketAddr = "203.0.113.1:7000".parse().unwrap();
        r.set_mapped(Some(mapped));
        let first = Candidate { kind: CandidateKind::PortMapped, address: mapped };
        assert_eq!(r.offer().0.first(), Some(&first));
        r.set_mapped(None);
        assert!(r.offer().0.iter().all(|c| c.address != mapped));
    }
}
