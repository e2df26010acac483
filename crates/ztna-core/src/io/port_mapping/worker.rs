//! The worker: one mapping at most, from asking for it to taking it back.

use std::time::{Duration, Instant};

use super::control::{self, Granted};
use super::lease::{Lease, PAUSE, RETRY};
use super::upnp::{self, Service};
use super::{Failure, Shared, Site, Wish};
use crate::io::handle::Wake;
use crate::port_mapping::{External, MappingProtocol, PortMapping};
use crate::quic::endpoint::random_cid;
use crate::wire::pcp::Nonce;

/// Questions, each with its pause, that taking a mapping back is worth: at the end of a role, and when its network may have gone already.
const TRIES_AT_END: u32 = 2;
const TRIES_WHEN_LEFT: u32 = 1;

/// How a mapping is renewed and taken back.
#[derive(Debug, Clone)]
enum Means {
    Pcp(Nonce),
    NatPmp,
    Upnp(Service),
}

impl Means {
    fn protocol(&self) -> MappingProtocol {
        match self {
            Means::Pcp(_) => MappingProtocol::Pcp,
            Means::NatPmp => MappingProtocol::NatPmp,
            Means::Upnp(_) => MappingProtocol::Upnp,
        }
    }
}

struct Held {
    site: Site,
    means: Means,
    granted: Granted,
    lease: Lease,
}

/// Serves the loop until its end. `least`: between two renewals.
pub(super) fn run(shared: &Shared, wake: &Wake, least: Duration) {
    let mut worker = Worker { shared, wake, least, seen: 0, held: None, tried: None, next: None };
    loop {
        let (wish, serial) = shared.wait(worker.seen, worker.next);
        let spoken = std::mem::replace(&mut worker.seen, serial) != serial;
        match wish {
            Wish::End => return worker.release(TRIES_AT_END),
            Wish::Nothing(why) => {
                worker.release(TRIES_WHEN_LEFT);
                (worker.tried, worker.next) = (None, None);
                worker.tell(PortMapping::Unneeded { why });
            }
            Wish::Map(site) => worker.follow(site, spoken),
        }
    }
}

struct Worker<'a> {
    shared: &'a Shared,
    wake: &'a Wake,
    /// Between two renewals.
    least: Duration,
    /// Serial of the wish that is being followed.
    seen: u64,
    held: Option<Held>,
    /// Where it was asked last, and when.
    tried: Option<(Site, Instant)>,
    /// When to look again without a word of the loop's.
    next: Option<Instant>,
}

impl Worker<'_> {
    /// `spoken`: the network has changed, or may have.
    fn follow(&mut self, site: Site, spoken: bool) {
        if self.held.as_ref().is_some_and(|h| h.site != site) {
            self.release(TRIES_WHEN_LEFT);
        }
        let now = Instant::now();
        let due = match (&self.held, self.tried) {
            (Some(held), _) if spoken => Some(held.lease.sooner(now)),
            (None, Some((at, last))) if spoken && at == site => Some(last + PAUSE),
            (Some(_) | None, _) => None,
        };
        if let Some(due) = due.filter(|d| *d > now) {
            self.next = Some(self.next.map_or(due, |n| n.min(due)));
            return;
        }
        self.tried = Some((site, now));
        match self.held.take() {
            Some(held) => self.renew(held),
            None => self.begin(site),
        }
    }

    fn begin(&mut self, site: Site) {
        self.tell(PortMapping::Asking);
        match self.ask(site) {
            Ok((means, granted)) => self.hold(site, means, granted),
            Err(None) => {
                // Cut short: what the loop wants is looked at next.
                self.tried = None;
            }
            Err(Some(why)) => {
                self.next = Some(Instant::now() + RETRY);
                self.tell(PortMapping::Failed { why });
            }
        }
    }

    fn hold(&mut self, site: Site, means: Means, granted: Granted) {
        let now = Instant::now();
        let lease = Lease::new(now, granted.lifetime);
        let (by, external) = (means.protocol(), granted.external);
        self.held = Some(Held { site, means, granted, lease });
        let news = match External::of(*external.ip()) {
            External::Public => {
                self.next = lease.renewal(now, self.least);
                return self.tell(PortMapping::Mapped { by, external });
            }
            External::Inside => PortMapping::DoubleNat { by, external: *external.ip() },
            External::Nobody => PortMapping::Failed {
                why: format!("{by}: it gave {} as its own address, which no router has", external.ip()),
            },
        };
        self.release(TRIES_AT_END);
        self.next = Some(now + RETRY);
        self.tell(news);
    }

    fn renew(&mut self, held: Held) {
        match self.ask_again(&held) {
            Ok(granted) => self.hold(held.site, held.means, granted),
            Err(e) => {
                tracing::debug!(by = %held.means.protocol(), reason = e.describe(), "a port mapping was not renewed");
                let gone = matches!(e, Failure::Refused(_) | Failure::Closed);
                match held.lease.renewal(Instant::now(), self.least).filter(|_| !gone) {
                    Some(next) => {
                        self.next = Some(next);
                        self.held = Some(held);
                    }
                    // Over, or the gateway has changed its mind: by another protocol, perhaps.
                    None => self.begin(held.site),
                }
            }
        }
    }

    fn ask_again(&self, held: &Held) -> Result<Granted, Failure> {
        let (last, interrupted) = (held.granted.external, || !self.shared.wants(held.site));
        match &held.means {
            Means::Pcp(nonce) => control::pcp_map(held.site, *nonce, Some(last), &interrupted),
            Means::NatPmp => control::nat_pmp_map(held.site, Some(last), &interrupted),
            Means::Upnp(service) => upnp::map(held.site, service, Some(last.port()), &interrupted),
        }
    }

    /// By each protocol in turn. Errors: what became of each, or `None` where the loop wants something else meanwhile.
    fn ask(&self, site: Site) -> Result<(Means, Granted), Option<String>> {
        let interrupted = || !self.shared.wants(site);
        let mut failures: Vec<(MappingProtocol, Failure)> = Vec::new();
        let nonce = nonce();
        match control::pcp_map(site, nonce, None, &interrupted) {
            Ok(granted) => return Ok((Means::Pcp(nonce), granted)),
            Err(e) => {
                if e == Failure::Interrupted {
                    // What nobody waits for any more may have been granted.
                    let _ = control::pcp_unmap(site, nonce, 0);
                }
                failures.push((MappingProtocol::Pcp, e));
            }
        }
        // Where nobody listens there is no server of the other protocol either: they share the port.
        let closed = failures.iter().any(|(_, e)| matches!(e, Failure::Closed | Failure::Interrupted));
        if !closed {
            match control::nat_pmp_map(site, None, &interrupted) {
                Ok(granted) => return Ok((Means::NatPmp, granted)),
                Err(e) => {
                    if e == Failure::Interrupted {
                        let _ = control::nat_pmp_unmap(site, 0);
                    }
                    failures.push((MappingProtocol::NatPmp, e));
                }
            }
        }
        match self.ask_upnp(site, &interrupted) {
            Ok((service, granted)) => return Ok((Means::Upnp(service), granted)),
            Err(e) => failures.push((MappingProtocol::Upnp, e)),
        }
        if failures.iter().any(|(_, e)| matches!(e, Failure::Interrupted)) {
            return Err(None);
        }
        let told: Vec<String> = failures.iter().map(|(by, e)| format!("{by}: {}", e.describe())).collect();
        Err(Some(told.join("; ")))
    }

    fn ask_upnp(&self, site: Site, interrupted: &dyn Fn() -> bool) -> Result<(Service, Granted), Failure> {
        let mut last = Failure::Silent;
        for service in upnp::find(site, interrupted)? {
            match upnp::map(site, &service, None, interrupted) {
                Ok(granted) => return Ok((service, granted)),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    /// Takes back what is held.
    fn release(&mut self, tries: u32) {
        let Some(held) = self.held.take() else { return };
        let done = match &held.means {
            Means::Pcp(nonce) => control::pcp_unmap(held.site, *nonce, tries),
            Means::NatPmp => control::nat_pmp_unmap(held.site, tries),
            Means::Upnp(service) => upnp::unmap(held.site, service, held.granted.external.port()),
        };
        if let Err(e) = done {
            tracing::debug!(by = %held.means.protocol(), reason = e.describe(), "a port mapping was not taken back: it ends with its time");
        }
    }

    fn tell(&self, news: PortMapping) {
        self.shared.tell(news);
        self.wake.wake();
    }
}

fn nonce() -> Nonce {
    let mut nonce = [0; 12];
    let random = [random_cid(None).0, random_cid(None).0];
    nonce.iter_mut().zip(random.as_flattened()).for_each(|(to, from)| *to = *from);
    Nonce(nonce)
}
