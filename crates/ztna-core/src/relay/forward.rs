//! Forwarded mode: the table from (sender, connection ID) to the other leg, and how entries come and go.
//!
//! An end registers the connection IDs by which it is addressed. An entry lets the *other* leg's validated address send raw
//! packets with that ID to this end, and nobody else: a guessed ID or a forged source leads nowhere.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use super::inbox::Side;
use super::registry::Session;
use crate::role::{SocketIndex, Transmit};
use crate::wire::Cid;

/// Connection IDs an end may have registered in one session: the inner connections of the three path policies, and one that
/// replaces another.
pub(super) const CIDS_PER_END: usize = 4;

/// A leg's validated address, and the socket and local address at which the relay has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) addr: SocketAddr,
    pub(super) socket: SocketIndex,
    pub(super) local: Option<IpAddr>,
}

impl Route {
    pub(super) fn transmit(self, segment: usize) -> Transmit {
        Transmit { socket: Some(self.socket), to: self.addr, from: self.local, segment }
    }
}

/// Whether an inner packet of full size passes a leg raw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Fits {
    /// PMTU discovery still runs.
    #[default]
    Unknown,
    Yes,
    No,
}

pub(super) struct Entry {
    pub(super) to: Route,
    /// The end that it leads to.
    pub(super) side: Side,
    pub(super) session: Arc<Session>,
}

pub(super) type Table = HashMap<(SocketAddr, Cid), Entry>;

/// Something to tell an end about a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) tell: Side,
    pub(super) cid: Cid,
    pub(super) ack: bool,
}

#[derive(Default)]
pub(super) struct Forwarding {
    /// Read once a burst by every loop; written when a registration, an address or a session changes.
    table: RwLock<Table>,
    /// Always locked before `table`.
    pairs: Mutex<Pairs>,
}

#[derive(Default)]
struct Pairs {
    sessions: HashMap<u64, Pair>,
    owners: HashMap<Cid, u64>,
}

struct Pair {
    session: Arc<Session>,
    agent: End,
    connector: End,
}

#[derive(Default)]
struct End {
    route: Option<Route>,
    fits: Fits,
    /// Each with whether it stands in the table.
    cids: Vec<(Cid, bool)>,
}

impl Pair {
    fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Agent => &mut self.agent,
            Side::Connector => &mut self.connector,
        }
    }
}

impl Forwarding {
    pub(super) fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A leg's address or size has become known or has changed: entries follow, waiting registrations are settled.
    pub(super) fn set_leg(&self, session: &Arc<Session>, side: Side, route: Route, fits: Fits) -> Vec<Verdict> {
        let mut guard = self.lock();
        let pairs = &mut *guard;
        let pair = pairs.sessions.entry(session.id).or_insert_with(|| Pair {
            session: session.clone(),
            agent: End::default(),
            connector: End::default(),
        });
        if pair.end(side).route != Some(route) {
            self.withdraw(pair);
            pair.end(side).route = Some(route);
        }
        pair.end(side).fits = fits;
        self.settle(pairs, session.id)
    }

    /// Registers a connection ID by which the end at `side` is addressed. Without a verdict in the answer it waits for PMTU
    /// discovery of a leg.
    pub(super) fn register(&self, session: u64, side: Side, cid: Cid) -> Vec<Verdict> {
        let refused = vec![Verdict { tell: side, cid, ack: false }];
        let mut guard = self.lock();
        let pairs = &mut *guard;
        let owner = pairs.owners.get(&cid).copied();
        let Some(pair) = pairs.sessions.get_mut(&session) else { return refused };
        match owner {
            Some(owner) if owner != session || !pair.end(side).cids.iter().any(|(c, _)| *c == cid) => return refused,
            // Asked again: the answer was lost or the end has restarted its path.
            Some(_) => {
                pair.end(side).cids.iter_mut().filter(|(c, _)| *c == cid).for_each(|(_, active)| *active = false)
            }
            None if pair.end(side).cids.len() >= CIDS_PER_END => return refused,
            None => {
                pair.end(side).cids.push((cid, false));
                pairs.owners.insert(cid, session);
            }
        }
        self.settle(pairs, session)
    }

    /// An end takes a registration back: the other one must stop using it.
    pub(super) fn unregister(&self, session: u64, side: Side, cid: Cid) -> Vec<Verdict> {
        let mut guard = self.lock();
        let pairs = &mut *guard;
        let Some(pair) = pairs.sessions.get_mut(&session) else { return Vec::new() };
        let Some(at) = pair.end(side).cids.iter().position(|(c, _)| *c == cid) else { return Vec::new() };
        self.withdraw(pair);
        let (_, active) = pair.end(side).cids.remove(at);
        pairs.owners.remove(&cid);
        let mut verdicts = self.settle(pairs, session);
        if active {
            verdicts.push(Verdict { tell: side.other(), cid, ack: false });
        }
        verdicts
    }

    /// Ends all registrations of a session that goes on in tunnel mode.
    pub(super) fn clear(&self, session: u64) -> Vec<Verdict> {
        let mut guard = self.lock();
        let pairs = &mut *guard;
        let Some(pair) = pairs.sessions.get_mut(&session) else { return Vec::new() };
        self.withdraw(pair);
        let mut verdicts = Vec::new();
        for side in [Side::Agent, Side::Connector] {
            for (cid, _) in std::mem::take(&mut pair.end(side).cids) {
                verdicts.extend([Side::Agent, Side::Connector].map(|tell| Verdict { tell, cid, ack: false }));
            }
        }
        verdicts.iter().for_each(|v| {
            pairs.owners.remove(&v.cid);
        });
        verdicts
    }

    /// Forgets a session that has ended.
    pub(super) fn end(&self, session: u64) {
        let mut guard = self.lock();
        let pairs = &mut *guard;
        let Some(mut pair) = pairs.sessions.remove(&session) else { return };
        self.withdraw(&pair);
        for side in [Side::Agent, Side::Connector] {
            for (cid, _) in std::mem::take(&mut pair.end(side).cids) {
                pairs.owners.remove(&cid);
            }
        }
    }

    /// Takes the pair's entries out of the table; `settle` puts back those that still count.
    fn withdraw(&self, pair: &Pair) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        for (end, far) in [(&pair.agent, &pair.connector), (&pair.connector, &pair.agent)] {
            if let Some(from) = far.route {
                end.cids.iter().for_each(|(cid, _)| {
                    table.remove(&(from.addr, *cid));
                });
            }
        }
    }

    fn settle(&self, pairs: &mut Pairs, session: u64) -> Vec<Verdict> {
        let Some(pair) = pairs.sessions.get_mut(&session) else { return Vec::new() };
        let (Some(agent), Some(connector)) = (pair.agent.route, pair.connector.route) else { return Vec::new() };
        let mut verdicts = Vec::new();
        match (pair.agent.fits, pair.connector.fits) {
            (Fits::Yes, Fits::Yes) => {
                let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
                let session = pair.session.clone();
                for (side, from, to) in [(Side::Agent, connector, agent), (Side::Connector, agent, connector)] {
                    for (cid, active) in &mut pair.end(side).cids {
                        table.insert((from.addr, *cid), Entry { to, side, session: session.clone() });
                        if !std::mem::replace(active, true) {
                            verdicts.extend([side, side.other()].map(|tell| Verdict { tell, cid: *cid, ack: true }));
                        }
                    }
                }
            }
            (Fits::No, _) | (_, Fits::No) => {
                self.withdraw(pair);
                for side in [Side::Agent, Side::Connector] {
                    for (cid, active) in std::mem::take(&mut pair.end(side).cids) {
                        verdicts.push(Verdict { tell: side, cid, ack: false });
                        if active {
                            verdicts.push(Verdict { tell: side.other(), cid, ack: false });
                        }
                        pairs.owners.remove(&cid);
                    }
                }
            }
            (Fits::Unknown, Fits::Unknown | Fits::Yes) | (Fits::Yes, Fits::Unknown) => {}
        }
        verdicts
    }

    fn lock(&self) -> MutexGuard<'_, Pairs> {
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::shared::random_alias;
    use super::*;

    #[test]
    fn a_registration_waits_until_both_legs_are_known_to_fit() {
        let (f, s) = (Forwarding::default(), session(1));
        f.set_leg(&s, Side::Agent, route(1), Fits::Yes);
        f.set_leg(&s, Side::Connector, route(2), Fits::Unknown);
        assert_eq!(f.register(1, Side::Agent, cid(9)), []);
        let told = f.set_leg(&s, Side::Connector, route(2), Fits::Yes);
        assert_eq!(told, [Side::Agent, Side::Connector].map(|tell| Verdict { tell, cid: cid(9), ack: true }));
        assert_eq!(to(&f, 2, 9), Some(route(1)));
        assert_eq!(to(&f, 1, 9), None);
    }

    #[test]
    fn a_leg_that_is_too_small_refuses_the_registration() {
        let f = ready();
        f.set_leg(&session(1), Side::Connector, route(2), Fits::No);
        assert_eq!(f.register(1, Side::Agent, cid(9)), [Verdict { tell: Side::Agent, cid: cid(9), ack: false }]);
    }

    #[test]
    fn entries_follow_a_leg_to_its_new_address_both_as_sender_and_as_target() {
        let f = ready();
        f.register(1, Side::Agent, cid(9));
        f.register(1, Side::Connector, cid(8));
        assert_eq!(f.set_leg(&session(1), Side::Agent, route(3), Fits::Yes), []);
        assert_eq!((to(&f, 2, 9), to(&f, 3, 8), to(&f, 1, 8)), (Some(route(3)), Some(route(2)), None));
    }

    #[test]
    fn an_id_registered_by_another_is_refused_and_leaves_the_first_alone() {
        let f = ready();
        f.register(1, Side::Agent, cid(9));
        let s = session(2);
        f.set_leg(&s, Side::Agent, route(4), Fits::Yes);
        f.set_leg(&s, Side::Connector, route(2), Fits::Yes);
        assert!(f.register(2, Side::Agent, cid(9)).iter().all(|v| !v.ack));
        assert!(f.register(1, Side::Connector, cid(9)).iter().all(|v| !v.ack));
        f.end(2);
        assert_eq!(to(&f, 2, 9), Some(route(1)));
    }

    #[test]
    fn one_end_registers_four_ids_at_most() {
        let f = ready();
        assert!((0..4).all(|i| f.register(1, Side::Agent, cid(i)).iter().all(|v| v.ack)));
        assert_eq!(f.register(1, Side::Agent, cid(4)), [Verdict { tell: Side::Agent, cid: cid(4), ack: false }]);
    }

    #[test]
    fn nothing_of_an_ended_or_cleared_session_stays_in_the_table() {
        let f = ready();
        f.register(1, Side::Agent, cid(9));
        assert_eq!(f.clear(1).len(), 2);
        assert!(f.table().is_empty());
        f.register(1, Side::Connector, cid(7));
        f.end(1);
        assert!(f.table().is_empty() && f.lock().owners.is_empty());
    }

    fn ready() -> Forwarding {
        let f = Forwarding::default();
        f.set_leg(&session(1), Side::Agent, route(1), Fits::Yes);
        f.set_leg(&session(1), Side::Connector, route(2), Fits::Yes);
        f
    }
    fn session(id: u64) -> Arc<Session> {
        let (rx, tx) = Default::default();
        Arc::new(Session {
            id,
            agent: "a".into(),
            connector: "c".into(),
            agent_loop: 0,
            connector_loop: 0,
            alias: random_alias(),
            rx,
            tx,
            rate: None,
        })
    }
    fn route(n: u8) -> Route {
        Route { addr: SocketAddr::from(([192, 0, 2, n], 4433)), socket: 0, local: None }
    }
    fn cid(n: u8) -> Cid {
        Cid([n; 8])
    }
    fn to(f: &Forwarding, from: u8, id: u8) -> Option<Route> {
        f.table().get(&(route(from).addr, cid(id))).map(|e| e.to)
    }
}
