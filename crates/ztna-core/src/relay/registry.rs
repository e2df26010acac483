//! Who is bound and which sessions run, over all loops.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::Limits;
use super::counters::Count;
use super::rate::Policer;
use crate::id::SpiffeId;

/// How often buckets that are full again are let go.
const SWEEP: Duration = Duration::from_secs(1);

/// A connector's live bind.
#[derive(Debug, Clone)]
pub(super) struct BindEntry {
    pub(super) id: u64,
    pub(super) identity: SpiffeId,
    pub(super) owner: usize,
    pub(super) since: SystemTime,
}

/// One agent's way to one connector.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: u64,
    pub(super) agent: String,
    pub(super) connector: String,
    pub(super) agent_loop: usize,
    pub(super) connector_loop: usize,
    /// Stands for the agent in COMPRESSION_ASSIGN: random, and no route to anybody.
    pub(super) alias: SocketAddr,
    /// Inner bytes from the agent, and to it.
    pub(super) rx: Count,
    pub(super) tx: Count,
    pub(super) rate: Option<Policer>,
}

#[derive(Debug, Default)]
pub(super) struct Registry(Mutex<Tables>);

#[derive(Debug, Default)]
struct Tables {
    binds: BTreeMap<String, BindEntry>,
    sessions: BTreeMap<u64, std::sync::Arc<Session>>,
    /// How many of them each agent has to each connector, and each connector in all.
    pairs: BTreeMap<(String, String), usize>,
    connectors: BTreeMap<String, usize>,
    /// How fast each pair begins sessions: a token bucket, as the time at which it is full again.
    begun: BTreeMap<(String, String), Instant>,
    swept: Option<Instant>,
}

/// Why a session may not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    Relay,
    Connector,
    /// The agent has its share of the connector's.
    Pair,
    /// The agent has begun too many lately.
    Rate,
}

fn count_down<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(n) = counts.get_mut(key) {
        *n -= 1;
        if *n == 0 {
            counts.remove(key);
        }
    }
}

impl Session {
    /// How many of `packets` packets of `size` bytes the session's rate lets pass now.
    pub(super) fn admit(&self, now: Instant, packets: usize, size: usize) -> usize {
        self.rate.as_ref().map_or(packets, |r| r.admit(now, packets, size))
    }
}

impl Registry {
    /// Enters a bind. `Ok(Some)`: the entry it replaces, of the same identity. `Err`: another identity holds the name.
    pub(super) fn bind(&self, name: &str, entry: BindEntry) -> Result<Option<BindEntry>, SpiffeId> {
        let mut tables = self.lock();
        if let Some(old) = tables.binds.get(name)
            && old.identity != entry.identity
        {
            return Err(old.identity.clone());
        }
        Ok(tables.binds.insert(name.to_owned(), entry))
    }

    /// Removes a bind, unless a newer one has its place.
    pub(super) fn unbind(&self, name: &str, id: u64) {
        let mut tables = self.lock();
        if tables.binds.get(name).is_some_and(|b| b.id == id) {
            tables.binds.remove(name);
        }
    }

    pub(super) fn find(&self, name: &str) -> Option<BindEntry> {
        self.lock().binds.get(name).cloned()
    }

    pub(super) fn binds(&self) -> Vec<(String, BindEntry)> {
        self.lock().binds.iter().map(|(n, b)| (n.clone(), b.clone())).collect()
    }

    /// Enters a session, if none of the limits is reached.
    pub(super) fn begin(&self, now: Instant, session: std::sync::Arc<Session>, limits: &Limits) -> Result<(), Full> {
        let mut tables = self.lock();
        let pair = (session.agent.clone(), session.connector.clone());
        let has = |n: Option<&usize>| n.copied().unwrap_or_default();
        if has(tables.pairs.get(&pair)) >= limits.sessions_per_pair {
            return Err(Full::Pair);
        }
        if has(tables.connectors.get(&session.connector)) >= limits.sessions_per_bind {
            return Err(Full::Connector);
        }
        if tables.sessions.len() >= limits.sessions {
            return Err(Full::Relay);
        }
        if !tables.take_turn(now, &pair, limits) {
            return Err(Full::Rate);
        }
        *tables.connectors.entry(pair.1.clone()).or_default() += 1;
        *tables.pairs.entry(pair).or_default() += 1;
        tables.sessions.insert(session.id, session);
        Ok(())
    }

    pub(super) fn end(&self, session: u64) {
        let mut tables = self.lock();
        if let Some(s) = tables.sessions.remove(&session) {
            count_down(&mut tables.connectors, &s.connector);
            count_down(&mut tables.pairs, &(s.agent.clone(), s.connector.clone()));
        }
    }

    pub(super) fn session(&self, id: u64) -> Option<std::sync::Arc<Session>> {
        self.lock().sessions.get(&id).cloned()
    }

    pub(super) fn sessions(&self) -> Vec<std::sync::Arc<Session>> {
        self.lock().sessions.values().cloned().collect()
    }

    pub(super) fn session_count(&self) -> usize {
        self.lock().sessions.len()
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        // Each change is one insert or remove: a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    /// One more of the pair's `session_rate_per_pair` a second, after as many at once as it may have and a second's worth more.
    fn take_turn(&mut self, now: Instant, pair: &(String, String), limits: &Limits) -> bool {
        let rate = limits.session_rate_per_pair.max(1);
        let depth = Duration::from_secs(1) * u32::try_from(limits.sessions_per_pair).unwrap_or(u32::MAX) / rate;
        let each = Duration::from_secs(1) / rate;
        if self.swept.is_none_or(|t| now >= t + SWEEP) {
            // A bucket that is full says nothing.
            self.begun.retain(|_, full_at| *full_at > now);
            self.swept = Some(now);
        }
        let from = self.begun.get(pair).map_or(now, |t| (*t).max(now));
        if from > now + depth + Duration::from_secs(1) - each {
            return false;
        }
        self.begun.insert(pair.clone(), from + each);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Role;

    fn entry(id: u64, domain: &str) -> BindEntry {
        let identity = SpiffeId::new(domain, Role::Connector, "c1").unwrap();
        BindEntry { id, identity, owner: 0, since: SystemTime::UNIX_EPOCH }
    }

    #[test]
    fn the_same_identity_replaces_its_bind_and_another_does_not() {
        let r = Registry::default();
        assert!(r.bind("c1", entry(1, "a.test")).unwrap().is_none());
        assert_eq!(r.bind("c1", entry(2, "a.test")).unwrap().unwrap().id, 1);
        assert!(r.bind("c1", entry(3, "b.test")).is_err());
        assert_eq!(r.find("c1").unwrap().id, 2);
    }

    #[test]
    fn a_replaced_bind_that_ends_late_leaves_its_successor() {
        let r = Registry::default();
        let _ = r.bind("c1", entry(1, "a.test"));
        let _ = r.bind("c1", entry(2, "a.test"));
        r.unbind("c1", 1);
        assert_eq!(r.find("c1").unwrap().id, 2);
        r.unbind("c1", 2);
        assert!(r.find("c1").is_none());
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "any moment does as the start")]
    fn a_pair_begins_its_share_at_once_then_so_many_a_second_and_another_pair_is_not_hurt() {
        let limits = Limits { sessions_per_pair: 10, session_rate_per_pair: 4, ..Limits::default() };
        let start = Instant::now();
        let mut tables = Tables::default();
        let (alice, bob) = (("alice".into(), "c1".into()), ("bob".into(), "c1".into()));
        let mut passed = |ms: u64, pair| {
            let now = start + Duration::from_millis(ms);
            (0..100).filter(|_| tables.take_turn(now, pair, &limits)).count()
        };
        assert_eq!([passed(0, &alice), passed(0, &alice), passed(0, &bob)], [14, 0, 14]);
        assert_eq!([passed(250, &alice), passed(2_250, &alice), passed(60_000, &alice)], [1, 8, 14]);
        assert_eq!(tables.begun.len(), 1, "a bucket that is full again is not kept");
    }
}
