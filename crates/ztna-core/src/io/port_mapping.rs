//! Has the gateway asked for a port that leads to our main socket: PCP, else NAT-PMP, else UPnP. On a thread of its own, since a gateway that does
//! not answer must hold back no packet; it holds one mapping at most, renews it, follows the network and takes the mapping back at the end.
//!
//! ```text
//!  loop ── follow() ──────► shared wish ──► worker ── control: PCP, NAT-PMP ──► gateway
//!       ◄── poll() ─────── latest news ◄──         └─ upnp: SSDP, HTTP, SOAP ─►
//! ```

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::handle::{Wake, lock};
#[cfg(target_os = "linux")]
use super::interfaces::{gateway, interfaces};
use super::local::Local;
use super::udp::SocketSet;
#[cfg(target_os = "linux")]
use crate::interface::InterfaceKind;
use crate::port_mapping::{PortMapping, is_public};
use crate::role::Machine;

mod control;
mod lease;
mod upnp;
mod worker;

/// Where a mapping is asked for, and what for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Site {
    gateway: Ipv4Addr,
    /// Our own address towards it.
    source: Ipv4Addr,
    /// Of our main socket.
    port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Map(Site),
    /// Nothing; in words, why.
    Nothing(&'static str),
    /// Take back what is held, and end.
    End,
}

/// What loop and worker share. Each side overwrites: there is no queue that could grow.
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    wish: Wish,
    /// Counts the times that the loop has spoken.
    serial: u64,
    news: Option<PortMapping>,
    /// The worker has ended.
    ended: bool,
}

/// The loop's side.
pub(super) struct PortMapper {
    shared: Arc<Shared>,
    /// The loop's own sockets.
    main: Vec<SocketAddr>,
}

impl PortMapper {
    /// Starts the worker, for the first IPv4 socket of `main`. Errors: the system's, which gives no thread.
    pub fn spawn(wake: Wake, main: Vec<SocketAddr>) -> std::io::Result<Self> {
        Self::spawn_renewing(wake, main, lease::RENEWAL_MIN)
    }

    /// `least`: between two renewals.
    fn spawn_renewing(wake: Wake, main: Vec<SocketAddr>, least: Duration) -> std::io::Result<Self> {
        let state = State { wish: Wish::Nothing("the loop has not begun"), serial: 0, news: None, ended: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let own = shared.clone();
        std::thread::Builder::new().name("ztna-port-map".into()).spawn(move || {
            // Dropped at the end of the thread, however that comes.
            let ending = Ending(own.clone());
            worker::run(&own, &wake, least);
            drop(ending);
        })?;
        let mapper = PortMapper { shared, main };
        mapper.follow();
        Ok(mapper)
    }

    /// The host's network has become what it is now. What is held is asked for again, soon.
    pub fn follow(&self) {
        self.wish(wish(&self.main));
    }

    /// What has come of it since the last call.
    pub fn poll(&self) -> Option<PortMapping> {
        lock(&self.shared.state).news.take()
    }

    /// The mapping is to be taken back. [`wait`](Self::wait) says when that has been done.
    pub fn end(&self) {
        self.wish(Wish::End);
    }

    /// Waits for the worker's end, at most until then. It ends by itself however long this waits.
    pub fn wait(&self, until: Instant) {
        let mut state = lock(&self.shared.state);
        while !state.ended {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn wish(&self, wish: Wish) {
        let mut state = lock(&self.shared.state);
        state.wish = wish;
        state.serial += 1;
        self.shared.changed.notify_all();
    }
}

impl Drop for PortMapper {
    fn drop(&mut self) {
        self.end();
    }
}

impl Local {
    /// [`Action::MapPort`](crate::role::Action).
    pub fn map_port(&mut self, machine: &mut dyn Machine, sockets: &SocketSet, now: Instant) {
        if self.mapper.is_some() {
            return;
        }
        if !sockets.host().is_system() {
            let why = "its network is played by this process";
            return machine.handle_port_mapping(now, &PortMapping::Unneeded { why });
        }
        match PortMapper::spawn(self.wake.clone(), sockets.own_addrs()) {
            Ok(mapper) => self.mapper = Some(mapper),
            Err(e) => machine.handle_port_mapping(now, &PortMapping::Failed { why: e.to_string() }),
        }
    }
}

struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        lock(&self.0.state).ended = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    /// The wish once its serial is not `seen`, or at `until`.
    fn wait(&self, seen: u64, until: Option<Instant>) -> (Wish, u64) {
        let mut state = lock(&self.state);
        loop {
            let left = until.map(|t| t.saturating_duration_since(Instant::now()));
            if state.serial != seen || left.is_some_and(|l| l.is_zero()) {
                return (state.wish, state.serial);
            }
            state = match left {
                Some(left) => self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Whether the loop still wants that.
    fn wants(&self, site: Site) -> bool {
        lock(&self.state).wish == Wish::Map(site)
    }

    fn tell(&self, news: PortMapping) {
        lock(&self.state).news = Some(news);
    }
}

/// Why there is no mapping by one protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Failure {
    /// Nobody answered.
    Silent,
    /// The gateway's host said that nobody listens there.
    Closed,
    /// The gateway said no, in words; or it said something odd.
    Refused(String),
    /// The system, in words.
    System(String),
    /// The loop wants something else meanwhile.
    Interrupted,
}

impl Failure {
    fn describe(&self) -> &str {
        match self {
            Failure::Silent => "no answer",
            Failure::Closed => "nobody listens",
            Failure::Refused(why) | Failure::System(why) => why,
            Failure::Interrupted => "given up",
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Self {
        match e.kind() {
            std::io::ErrorKind::ConnectionRefused => Failure::Closed,
            std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock => Failure::Silent,
            _ => Failure::System(e.to_string()),
        }
    }
}

impl From<crate::wire::DecodeError> for Failure {
    fn from(e: crate::wire::DecodeError) -> Self {
        Failure::Refused(e.to_string())
    }
}

/// A read waits no longer than this before the loop's wish is looked at again.
const SLICE: Duration = Duration::from_millis(100);

/// How long one question to the gateway may take, and whether the loop may cut it short.
struct Patience<'a> {
    deadline: Instant,
    interrupted: &'a dyn Fn() -> bool,
}

impl Patience<'_> {
    /// For how long to read now. Errors: the time is over, or the loop wants something else.
    fn slice(&self) -> Result<Duration, Failure> {
        if (self.interrupted)() {
            return Err(Failure::Interrupted);
        }
        let left = self.deadline.saturating_duration_since(Instant::now());
        // A timeout of zero would be none.
        if left < Duration::from_millis(1) { Err(Failure::Silent) } else { Ok(left.min(SLICE)) }
    }
}

#[cfg(target_os = "linux")]
fn wish(main: &[SocketAddr]) -> Wish {
    let Some(socket) = main.iter().find(|s| s.is_ipv4()) else { return Wish::Nothing("there is no IPv4 socket") };
    let Ok(Some(found)) = gateway() else { return Wish::Nothing("this host has no IPv4 gateway") };
    let kind = interfaces().unwrap_or_default().iter().find(|i| i.index == found.interface).map(|i| i.kind);
    if kind != Some(InterfaceKind::Ordinary) {
        return Wish::Nothing("the way out is another tunnel");
    }
    site(found.address, found.source, *socket)
}

#[cfg(not(target_os = "linux"))]
fn wish(_main: &[SocketAddr]) -> Wish {
    Wish::Nothing("this system's gateway is not known")
}

#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "there the gateway is not known"))]
fn site(gateway: Ipv4Addr, source: Ipv4Addr, socket: SocketAddr) -> Wish {
    if is_public(source) {
        return Wish::Nothing("this host's own address is public");
    }
    if !socket.ip().is_unspecified() && socket.ip() != source {
        return Wish::Nothing("the socket is bound to another address");
    }
    Wish::Map(Site { gateway, source, port: socket.port() })
}

#[cfg(test)]
mod tests;
