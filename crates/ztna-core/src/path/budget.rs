//! How much a node sends to addresses that have not answered, whoever asks for it: what a peer names may be a stranger's.
//!
//! What one identity may bring about is counted over all its connections, for those cost it nothing. An address is *new* while no check
//! went there for the identity lately; it may cost an entry in every NAT on the way.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::bucket::{Bucket, PrefixBudget, Rate};
use crate::id::SpiffeId;

/// Checks to one /24 (IPv4) or /48 (IPv6): at once, and a second. One peer's full set is 16 × 12 over 9 s; a household's or an
/// office's peers share one prefix. At 124 bytes a packet on the wire a stranger there gets 1.3 Mbit/s for a second, then 25 kbit/s.
const EACH: Rate = Rate { at_once: 256.0, each_second: 25.0 };
/// Checks to all that has not answered, at once and a second: a thousand peers that come back together get a round within half a minute.
const ALL: Rate = Rate { at_once: 16_384.0, each_second: 2_000.0 };
/// Prefixes that are remembered. A full bucket need not be: it is let go first.
const PREFIXES: usize = 4_096;

/// Checks for one identity, at once and a second. A peer that roams every 10 s and names 16 addresses each time wants 16 × 12 in 10 s, 19 a
/// second, and has them on two connections (one that demands a direct path beside the ordinary one); at once three such sets.
const PEER: Rate = Rate { at_once: 576.0, each_second: 40.0 };
/// New addresses for one identity, at once and a second: the same peer names 1.6 a second, its NAT shows one more each time; at once
/// eight full sets, for processes that share a certificate. With [`FORGET`] that is 728 entries in the NAT in front of us at most,
/// where a home router holds some thousands.
const NEW: Rate = Rate { at_once: 128.0, each_second: 2.0 };
/// After so long without a check an address is new again: its entry in a NAT has gone (RFC 4787 §4.3 REQ-5 recommends five minutes).
const FORGET: Duration = Duration::from_secs(300);
/// New addresses for one identity within networks that we have an address in, at once and a second: one full set, and another in an
/// hour. A peer beside us has one address there, or a few; one that isn't has those of its own network where that happens to have
/// the same numbers. A blind sweep of one port of a /24 takes fifteen hours.
const NEAR: Rate = Rate { at_once: 16.0, each_second: 16.0 / 3_600.0 };
/// After so long without a check an address within our networks is new again.
const FORGET_NEAR: Duration = Duration::from_secs(3_600);
/// Identities that are remembered. One that wants nothing for a minute or so need not be.
const PEERS: usize = 16_384;
/// How often a full table is searched for those.
const SWEEP: Duration = Duration::from_secs(1);
/// Before a check that has to wait is tried again, at least: a peer has up to 8,192 pairs (32 on each of 256 connections), all of which may
/// wait for the same bucket.
const AGAIN: Duration = Duration::from_millis(250);

/// Why a check has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Held {
    /// Its peer has named too many addresses within our own networks.
    Near,
    /// Its peer has named too many new addresses.
    New,
    /// Its peer has had too many checks.
    Peer,
    /// The address's prefix has had too many checks, or the whole node has sent too many.
    Node,
}

impl Held {
    /// As metrics name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Held::Near => "near",
            Held::New => "new",
            Held::Peer => "peer",
            Held::Node => "node",
        }
    }

    /// How people are told.
    pub fn describe(self) -> &'static str {
        match self {
            Held::Near => "it has named more than 16 addresses within this end's own networks in an hour",
            Held::New => "it has named more than 128 addresses at once, or two a second, that were not checked before",
            Held::Peer => "it has had more than 576 checks at once, or 40 a second",
            Held::Node => "this end has sent as many checks as it may to that network, or in all",
        }
    }
}

/// A check that is wanted: for whom, where, and whether a genuine packet has come from there.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub peer: &'a SpiffeId,
    pub to: SocketAddr,
    pub heard: bool,
}

#[derive(Debug)]
pub struct Budget {
    checks: PrefixBudget,
    peers: BTreeMap<SpiffeId, Share>,
    /// Networks that our interfaces have an address in.
    networks: Vec<(IpAddr, u8)>,
    held: BTreeMap<&'static str, u64>,
    swept: Option<Instant>,
}

impl Default for Budget {
    fn default() -> Self {
        let checks = PrefixBudget::new(EACH, ALL, PREFIXES);
        Budget { checks, peers: BTreeMap::new(), networks: Vec::new(), held: BTreeMap::new(), swept: None }
    }
}

impl Budget {
    /// The addresses of our interfaces, each with the bits that name its network.
    pub fn set_networks(&mut self, networks: impl IntoIterator<Item = (IpAddr, u8)>) {
        self.networks = networks.into_iter().collect();
    }

    /// Takes one check out of the budget. Errors: what is used up, and after how long it may be tried again.
    ///
    /// What a peer says of where it is, is no evidence: it knows our addresses, too. A genuine packet is: where one came from, the peer has been
    /// answered already, so that such an address does not count as one within our networks.
    pub fn take(&mut self, now: Instant, wanted: Wanted<'_>) -> Result<(), (Held, Duration)> {
        let near = !wanted.heard && self.is_near(wanted.to.ip());
        if !self.peers.contains_key(wanted.peer) {
            self.make_room(now)?;
            self.peers.insert(wanted.peer.clone(), Share::new(now));
        }
        let Some(share) = self.peers.get_mut(wanted.peer) else { return Err((Held::Node, AGAIN)) };
        share.admits(now, wanted.to, near)?;
        if !self.checks.take(now, wanted.to.ip()) {
            return Err((Held::Node, AGAIN));
        }
        share.spend(now, wanted.to, near);
        Ok(())
    }

    /// A check has begun to wait.
    pub fn note_held(&mut self, why: Held) {
        *self.held.entry(why.as_str()).or_default() += 1;
    }

    /// How many checks have had to wait, by reason.
    pub fn held(&self) -> &BTreeMap<&'static str, u64> {
        &self.held
    }

    fn is_near(&self, ip: IpAddr) -> bool {
        self.networks.iter().any(|(own, bits)| is_within(ip, *own, *bits))
    }

    fn make_room(&mut self, now: Instant) -> Result<(), (Held, Duration)> {
        if self.peers.len() < PEERS {
            return Ok(());
        }
        if self.swept.is_none_or(|at| now >= at + SWEEP) {
            self.swept = Some(now);
            self.peers.retain(|_, share| !share.is_idle(now));
        }
        if self.peers.len() < PEERS { Ok(()) } else { Err((Held::Node, AGAIN)) }
    }
}

/// Of one identity.
#[derive(Debug)]
struct Share {
    checks: Bucket,
    new: Bucket,
    near: Bucket,
    /// Where checks went lately. Its size is bounded by the buckets' rates and the time after which it is forgotten.
    known: BTreeMap<SocketAddr, Known>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    last: Instant,
    /// It was paid for as one within our networks.
    near: bool,
}

impl Known {
    fn is_new(&self, now: Instant) -> bool {
        now >= self.last + FORGET
    }

    fn is_over(&self, now: Instant) -> bool {
        now >= self.last + if self.near { FORGET_NEAR } else { FORGET }
    }
}

impl Share {
    fn new(now: Instant) -> Share {
        let [checks, new, near] = [PEER, NEW, NEAR].map(|rate| Bucket::full(now, rate));
        Share { checks, new, near, known: BTreeMap::new() }
    }

    /// Whether `to` has to be paid for as a new address, and as one within our networks.
    fn price(&self, now: Instant, to: SocketAddr, near: bool) -> (bool, bool) {
        let known = self.known.get(&to).filter(|k| !k.is_over(now));
        (known.is_none_or(|k| k.is_new(now)), near && known.is_none_or(|k| !k.near))
    }

    fn admits(&mut self, now: Instant, to: SocketAddr, near: bool) -> Result<(), (Held, Duration)> {
        let (new, near) = self.price(now, to, near);
        let mut verdict = Ok(());
        for (bucket, rate, why, counts) in [
            (&mut self.near, NEAR, Held::Near, near),
            (&mut self.new, NEW, Held::New, new),
            (&mut self.checks, PEER, Held::Peer, true),
        ] {
            if counts && let Some(wait) = bucket.wait(now, rate) {
                verdict = verdict.and(Err((why, wait.max(AGAIN))));
            }
        }
        verdict
    }

    fn spend(&mut self, now: Instant, to: SocketAddr, near: bool) {
        let (new, near) = self.price(now, to, near);
        self.checks.take(now, PEER);
        if new {
            self.new.take(now, NEW);
            self.known.retain(|_, k| !k.is_over(now));
        }
        if near {
            self.near.take(now, NEAR);
        }
        let known = self.known.entry(to).or_insert(Known { last: now, near });
        known.last = now;
        known.near |= near;
    }

    /// It says no more than a new one would.
    fn is_idle(&mut self, now: Instant) -> bool {
        self.known.retain(|_, k| !k.is_over(now));
        let full = [(&mut self.checks, PEER), (&mut self.new, NEW), (&mut self.near, NEAR)];
        self.known.is_empty() && full.into_iter().all(|(bucket, rate)| bucket.is_full(now, rate))
    }
}

/// Whether `ip` is of the network that the first `bits` of `own` name.
fn is_within(ip: IpAddr, own: IpAddr, bits: u8) -> bool {
    let same = |a: u128, b: u128, width: u32| {
        // A network of zero bits is everything, and so tells nothing of where an address is.
        let shift = width.saturating_sub(u32::from(bits));
        bits > 0 && a.checked_shr(shift) == b.checked_shr(shift)
    };
    match (ip, own) {
        (IpAddr::V4(ip), IpAddr::V4(own)) => same(u32::from(ip).into(), u32::from(own).into(), 32),
        (IpAddr::V6(ip), IpAddr::V6(own)) => same(ip.into(), own.into(), 128),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

#[cfg(test)]
#[path = "budget_tests.rs"]
mod tests;
