//! A network of homes on the real clock, for programs in this process: no device, no namespace, no privilege, no socket of the system's
//! but pairs that only wake.

mod inbox;
mod port;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use port::{LivePort, Received};

use crate::homes::{Change, Homes, Spec};
use crate::sim::HostId;
use crate::{Error, Result};
use inbox::Inbox;

/// First port of those that nobody asked for by number (RFC 6335 §6).
const DYNAMIC_PORTS: std::ops::RangeInclusive<u16> = 49_152..=65_535;

/// A running network. Dropping it closes it.
#[derive(Debug)]
pub struct LiveNetwork {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// One host of it, for a program that is to run there.
#[derive(Debug, Clone)]
pub struct LiveHost {
    shared: Arc<Shared>,
    host: HostId,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// The earliest delivery may have changed, or the end has come.
    changed: Condvar,
    origin: Instant,
}

#[derive(Debug)]
struct State {
    /// `None` once it has closed.
    homes: Option<Homes>,
    /// By host and bound address; unspecified: every address of the family.
    ports: BTreeMap<(HostId, SocketAddr), Inbox>,
    /// Those that want to hear of changes of a host's addresses.
    watchers: Vec<(HostId, UnixStream)>,
    next_port: u16,
    /// Until when the thread sleeps; `None` for ever.
    sleeps_until: Option<Duration>,
}

impl LiveNetwork {
    /// Builds and runs what is described. Errors: of the description, or that there is no thread left.
    pub fn start(spec: &Spec) -> Result<Self> {
        let state = State {
            homes: Some(Homes::new(spec)?),
            ports: BTreeMap::new(),
            watchers: Vec::new(),
            next_port: *DYNAMIC_PORTS.start(),
            sleeps_until: None,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), origin: Instant::now() });
        let body = shared.clone();
        let thread = std::thread::Builder::new()
            .name("test-network".into())
            .spawn(move || body.run())
            .map_err(|error| Error::io("thread of a test network", error))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Errors: nobody has that name, or the network has closed.
    pub fn host(&self, name: &str) -> Result<LiveHost> {
        let host = self.shared.lock().homes()?.host(name)?;
        Ok(LiveHost { shared: self.shared.clone(), host })
    }

    /// Errors: what is asked can't be; nothing has changed then.
    pub fn change(&self, change: &Change) -> Result<()> {
        let mut state = self.shared.lock();
        state.deliver(self.shared.now());
        let homes = state.homes()?;
        homes.change(change)?;
        let touched = homes.take_touched();
        // One that does not listen any more goes.
        state.watchers.retain(|(host, watcher)| !touched.contains(host) || tell(watcher));
        Ok(())
    }

    /// Ends it: ports that are still held receive nothing from here on, and what they send is lost. Further calls do nothing.
    pub fn close(&mut self) {
        let mut state = self.shared.lock();
        state.homes = None;
        state.ports.clear();
        state.watchers.clear();
        drop(state);
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of it has no hearer.
            let _ = thread.join();
        }
    }
}

impl Drop for LiveNetwork {
    fn drop(&mut self) {
        self.close();
    }
}

impl LiveHost {
    /// Its addresses now. Errors: the network has closed.
    pub fn addresses(&self) -> io::Result<Vec<IpAddr>> {
        let mut state = self.shared.lock();
        let homes = state.homes().map_err(|_| closed())?;
        Ok(homes.network().addresses(self.host))
    }

    /// Binds an address of the host, or all of a family, to a port; 0 is any that is free.
    ///
    /// Errors: `AddrInUse`, `AddrNotAvailable`, `NotConnected` once the network has closed.
    pub fn bind(&self, address: SocketAddr) -> io::Result<LivePort> {
        let mut state = self.shared.lock();
        let own = state.homes().map_err(|_| closed())?.network().addresses(self.host);
        if !address.ip().is_unspecified() && !own.contains(&address.ip()) {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        let local = match address.port() {
            0 => state.free_port(self.host, address.ip()).ok_or(io::ErrorKind::AddrInUse)?,
            _ if state.is_taken(self.host, address) => return Err(io::ErrorKind::AddrInUse.into()),
            _ => SocketAddr::new(address.ip(), address.port()),
        };
        let (inbox, ready) = Inbox::new()?;
        state.ports.insert((self.host, local), inbox.clone());
        Ok(LivePort::new(self.shared.clone(), self.host, local, inbox, ready))
    }

    /// A socket that a byte can be read from after each change of the host's addresses. Errors: no descriptor left, or the network
    /// has closed.
    pub fn changes(&self) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        let mut state = self.shared.lock();
        state.homes().map_err(|_| closed())?;
        // Hosts come and go without a change of any: those that listen no more go now.
        state.watchers.retain(|(_, watcher)| listens(watcher));
        state.watchers.push((self.host, ours));
        Ok(theirs)
    }
}

impl Shared {
    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// A panic elsewhere leaves the state whole: it is changed in steps that can't fail half-way.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Delivers what is due until the end.
    fn run(&self) {
        let mut state = self.lock();
        loop {
            state.deliver(self.now());
            let Some(homes) = &mut state.homes else { return };
            let next = homes.network().poll_timeout();
            state.sleeps_until = next;
            state = match next {
                Some(at) => {
                    let wait = at.saturating_sub(self.now());
                    self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

impl State {
    fn homes(&mut self) -> Result<&mut Homes> {
        self.homes.as_mut().ok_or_else(|| Error::Config("the network has closed".into()))
    }

    /// Puts what has arrived by now into the inboxes.
    fn deliver(&mut self, now: Duration) {
        let Some(homes) = &mut self.homes else { return };
        while let Some(delivery) = homes.network().poll_delivery(now) {
            let any: IpAddr = if delivery.to.is_ipv4() { [0u8; 4].into() } else { [0u16; 8].into() };
            let unspecific = SocketAddr::new(any, delivery.to.port());
            let inbox = [delivery.to, unspecific].into_iter().find_map(|at| self.ports.get(&(delivery.host, at)));
            // Nobody listens: a real host would answer with ICMP, which the senders here do not wait for.
            if let Some(inbox) = inbox {
                inbox.put(delivery.from, delivery.to.ip(), delivery.payload);
            }
        }
    }

    fn is_taken(&self, host: HostId, address: SocketAddr) -> bool {
        self.ports.keys().any(|(other, bound)| {
            let overlaps = bound.ip() == address.ip() || bound.ip().is_unspecified() || address.ip().is_unspecified();
            *other == host && bound.port() == address.port() && bound.is_ipv4() == address.is_ipv4() && overlaps
        })
    }

    fn free_port(&mut self, host: HostId, ip: IpAddr) -> Option<SocketAddr> {
        for _ in DYNAMIC_PORTS {
            let address = SocketAddr::new(ip, self.next_port);
            self.next_port = self.next_port.checked_add(1).unwrap_or(*DYNAMIC_PORTS.start());
            if !self.is_taken(host, address) {
                return Some(address);
            }
        }
        None
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the test network has closed")
}

/// `false`: nobody listens.
fn tell(mut watcher: &UnixStream) -> bool {
    match watcher.write_all(&[1]) {
        Ok(()) => true,
        // It has not read the last ones yet.
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// A watcher says nothing; one that has gone has ended its stream.
fn listens(mut watcher: &UnixStream) -> bool {
    watcher.read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}
