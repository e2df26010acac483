//! A role on its threads.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Instant, SystemTime};

use ztna_core::Role;
use ztna_core::agent::Agent;
use ztna_core::connector::{Connector, Serve};
use ztna_core::error::{Error, Result};
use ztna_core::io::folder::{FolderReader, FolderWatch, IdleReader, read_folder};
use ztna_core::io::{Driver, Handle, Host, Observer, Socket};
use ztna_core::node::{KeyLimit, ReceiveLimit};
use ztna_core::path::burst::{BurstSettings, MOST_CHECKS};
use ztna_core::relay::{MIN_BPS, Relay, RelayConfig, Shared};
use ztna_core::role::{MORE_SOCKETS, Machine};
use ztna_core::trust::Snapshot;

use crate::events::lock;
use crate::log::Home;
use crate::options::{self, NetworkSource, RoleOptions};
use crate::test_network;

pub enum Running {
    Agent(Handle<Agent>),
    Connector(Handle<Connector>),
    Relay { loops: Vec<Handle<Relay>>, shared: Arc<Shared> },
}

/// What `start` tells.
pub struct Started {
    pub running: Running,
    pub snapshot: Arc<Snapshot>,
    /// `None`: the network is held in memory.
    pub folder: Option<FolderReader>,
    pub listen: Vec<SocketAddr>,
    pub warnings: Vec<Error>,
}

static MEMORY_VERSION: AtomicU64 = AtomicU64::new(1);

/// The snapshot that a source holds now.
fn load(source: &NetworkSource) -> Result<Arc<Snapshot>> {
    match source {
        NetworkSource::Folder { folder } => {
            let files = read_folder(Path::new(folder))?;
            Ok(Arc::new(Snapshot::from_files(&files, SystemTime::now())?))
        }
        NetworkSource::Files { files } => from_memory(files.clone()),
    }
}

pub fn from_memory(files: options::Files) -> Result<Arc<Snapshot>> {
    let version = MEMORY_VERSION.fetch_add(1, Ordering::Relaxed);
    Ok(Arc::new(Snapshot::from_files(&files.into_node(version), SystemTime::now())?))
}

/// Hears of the snapshot that a role starts with and of every one that it takes from its folder. `true`: its version is not the one
/// in use. Errors: it is older than that.
pub type Adopt = Arc<dyn Fn(Arc<Snapshot>) -> Result<bool> + Send + Sync>;

/// Hands a snapshot to every loop.
type Apply = Box<dyn Fn(&Arc<Snapshot>) + Send>;

/// Hears why the folder is not taken.
pub type Tell = Box<dyn Fn(Error) + Send>;

/// Errors: so low that the first window of two flows (512 KB each) would pass it.
fn receive_limit(o: &RoleOptions) -> Result<ReceiveLimit> {
    const LEAST: u64 = 1 << 20;
    let default = ReceiveLimit::default();
    let node = o.limits.as_ref().and_then(|l| l.unread_bytes).unwrap_or(default.node);
    if node < LEAST {
        return Err(Error::config(
            "limits.unreadBytes",
            format!("{node} is not accepted; a whole number from {LEAST}"),
        ));
    }
    Ok(ReceiveLimit { node, ..default })
}

/// Errors: more than routers bear.
fn bursts(o: &RoleOptions) -> Result<BurstSettings> {
    let default = BurstSettings::default();
    let limits = o.limits.as_ref();
    let sockets = limits.and_then(|l| l.burst_sockets).unwrap_or(default.sockets);
    let checks = limits.and_then(|l| l.burst_checks).unwrap_or(default.checks);
    let most = |name: &str, value: usize, most: usize| {
        let why = format!("{value} is not accepted; a whole number from 0 to {most}");
        if value > most { Err(Error::config(format!("limits.{name}"), why)) } else { Ok(()) }
    };
    most("burstSockets", sockets, MORE_SOCKETS)?;
    most("burstChecks", checks.into(), MOST_CHECKS.into())?;
    Ok(BurstSettings { sockets, checks, metered: o.metered })
}

/// Starts the role that the options and the identity ask for. `observer` makes one observer for each loop.
pub fn start(
    role: Role,
    o: &RoleOptions,
    adopt: &Adopt,
    tell: Tell,
    observer: impl Fn(usize) -> Observer,
) -> Result<Started> {
    let reader = match &o.network {
        // Made before the first read, so that no change in between is missed.
        NetworkSource::Folder { folder } => Some(IdleReader::spawn(FolderWatch::new(Path::new(folder)))?),
        NetworkSource::Files { .. } => None,
    };
    let snapshot = load(&o.network)?;
    let own = snapshot.identity().id.role();
    if own != role {
        let article = if own == Role::Agent { "an" } else { "a" };
        return Err(Error::Identity(format!(
            "`{}` is {article} {own}'s identity; this is `{role}`",
            snapshot.identity().id
        )));
    }
    // Before any loop runs: the first event of one is told in the terms of this snapshot.
    adopt(snapshot.clone())?;
    let key_limit =
        o.limits.as_ref().and_then(|l| l.packets_per_key).map(|n| KeyLimit { successor: n, cut: n.saturating_mul(2) });
    let (receive_limit, port_mapping, bursts) = (receive_limit(o)?, o.port_mapping, bursts(o)?);
    let host = o.test_place.as_ref().map_or(Ok(Host::System), test_network::host)?;
    let mut warnings = Vec::new();
    let home = Home::here();
    let (running, listen) = match role {
        Role::Agent => {
            let made = snapshot.clone();
            let make = move || {
                home.enter();
                let mut agent = Agent::new(made, Instant::now(), SystemTime::now())?;
                if let Some(limit) = key_limit {
                    agent.set_key_limit(limit);
                }
                agent.set_receive_limit(receive_limit);
                agent.set_port_mapping(port_mapping);
                agent.set_bursts(bursts);
                Ok(agent)
            };
            let sockets = node_sockets(&host, o, &mut warnings)?;
            (Running::Agent(Driver::spawn_on(host, "ztna-agent", sockets, make, observer(0))?), Vec::new())
        }
        Role::Connector => {
            let (made, authorize) = (snapshot.clone(), o.authorize);
            let serves = o.services.iter().map(static_serve).collect::<Result<Vec<Serve>>>()?;
            let make = move || {
                home.enter();
                let mut connector = Connector::new(made, authorize, Instant::now(), SystemTime::now())?;
                if let Some(limit) = key_limit {
                    connector.set_key_limit(limit);
                }
                connector.set_receive_limit(receive_limit);
                connector.set_port_mapping(port_mapping);
                connector.set_bursts(bursts);
                for serve in serves {
                    connector.serve(serve)?;
                }
                Ok(connector)
            };
            let sockets = node_sockets(&host, o, &mut warnings)?;
            (Running::Connector(Driver::spawn_on(host, "ztna-connector", sockets, make, observer(0))?), Vec::new())
        }
        Role::Relay => start_relay(&host, o, &snapshot, &observer, &mut warnings)?,
    };
    let folder = reader.map(|reader| {
        let (apply, adopt) = (running.applier(), adopt.clone());
        let take = move |snapshot: Arc<Snapshot>| {
            let changed = adopt(snapshot.clone())?;
            apply(&snapshot);
            Ok(changed)
        };
        reader.begin(snapshot.clone(), take, tell)
    });
    if let Some(folder) = &folder {
        running.watch(folder);
    }
    Ok(Started { running, snapshot, folder, listen, warnings })
}

fn static_serve(s: &options::StaticService) -> Result<Serve> {
    let protocol = options::protocol(&s.protocol)?;
    Ok(Serve {
        service: s.service.clone(),
        protocol,
        ports: Some(options::ports(s.ports.0, s.ports.1)),
        target: options::target(&s.target, protocol)?,
        max_connections: None,
        closing: false,
    })
}

/// One socket for each address family that the host has.
fn node_sockets(host: &Host, o: &RoleOptions, warnings: &mut Vec<Error>) -> Result<Vec<Socket>> {
    let v4 = host.bind(SocketAddr::from(([0, 0, 0, 0], 0)), false)?;
    if let Some(text) = v4.clipped() {
        warnings.push(Error::Limit(text));
    }
    let mut sockets = vec![v4];
    sockets.extend(host.bind(SocketAddr::from(([0u16; 8], 0)), false));
    sockets.iter_mut().for_each(|socket| socket.set_segmentation_offload(o.segmentation_offload));
    Ok(sockets)
}

/// Most packet loops of a relay: more than the sessions of one machine can keep busy.
const MAX_LOOPS: usize = 64;

fn address(text: &str, option: &str) -> Result<SocketAddr> {
    text.parse()
        .map_err(|_| Error::config(option, format!("`{text}` must be ADDRESS:PORT, such as 0.0.0.0:4433 or [::]:4433")))
}

fn start_relay(
    host: &Host,
    o: &RoleOptions,
    snapshot: &Arc<Snapshot>,
    observer: &impl Fn(usize) -> Observer,
    warnings: &mut Vec<Error>,
) -> Result<(Running, Vec<SocketAddr>)> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if let Some(loops) = o.loops.filter(|n| !(1..=MAX_LOOPS).contains(n)) {
        return Err(Error::config("loops", format!("{loops} is not accepted; a whole number from 1 to {MAX_LOOPS}")));
    }
    // Loops share a port by what the system's network does to spread senders, which a test network does not.
    let count = if host.is_system() { o.loops.unwrap_or(cores).clamp(1, MAX_LOOPS) } else { 1 };
    let wanted: Vec<SocketAddr> = o.listen.iter().map(|a| address(a, "listen")).collect::<Result<_>>()?;
    if wanted.is_empty() {
        return Err(Error::config("listen", "name at least one address, such as 0.0.0.0:4433"));
    }
    // The first loop's sockets fix the ports that the others share.
    let mut listen = Vec::new();
    let mut sets: Vec<Vec<Socket>> = vec![Vec::new()];
    for at in wanted {
        let socket = host.claim(at)?;
        if let Some(text) = socket.clipped() {
            warnings.push(Error::Limit(text));
        }
        listen.push(socket.local_addr());
        if let Some(set) = sets.first_mut() {
            set.push(socket);
        }
    }
    let mut all = listen.clone();
    let mut config = RelayConfig::new(listen.clone());
    config.public_addrs = o.public_addrs.iter().map(|a| address(a, "publicAddrs")).collect::<Result<_>>()?;
    if let Some(alt) = &o.stun_alt {
        let socket = host.claim(address(alt, "stunAlt")?)?;
        config.stun_alt = Some((listen.len(), socket.local_addr()));
        all.push(socket.local_addr());
        if let Some(set) = sets.first_mut() {
            set.push(socket);
        }
    }
    if let Some(l) = &o.limits {
        config.limits.sessions = l.sessions.unwrap_or(config.limits.sessions);
        config.limits.handshakes = l.handshakes_per_second.unwrap_or(config.limits.handshakes);
        config.limits.handshakes_per_prefix =
            l.handshakes_per_prefix_per_second.unwrap_or(config.limits.handshakes_per_prefix);
        config.limits.retries = l.retries_per_second.unwrap_or(config.limits.retries);
        if let Some(bps) = l.bps_per_session.filter(|bps| *bps < MIN_BPS) {
            let accepted = format!("{bps} is not accepted; a whole number from {MIN_BPS}");
            return Err(Error::config("limits.bpsPerSession", accepted));
        }
        config.limits.bps_per_session = l.bps_per_session;
    }
    for _ in 1..count {
        sets.push(all.iter().map(|at| host.bind(*at, true)).collect::<Result<_>>()?);
    }
    sets.iter_mut().flatten().for_each(|socket| socket.set_segmentation_offload(o.segmentation_offload));
    let handles: Arc<OnceLock<Vec<Handle<Relay>>>> = Arc::new(OnceLock::new());
    let wakes = handles.clone();
    let wake = Arc::new(move |index: usize| {
        if let Some(h) = wakes.get().and_then(|all| all.get(index)) {
            // An empty closure is a turn: the loop drains its inbox.
            h.post(Box::new(|_| ()));
        }
    });
    let shared = Shared::new(config, count, wake);
    let epoch = (Instant::now(), SystemTime::now());
    let home = Home::here();
    let mut loops = Vec::new();
    for (index, set) in sets.into_iter().enumerate() {
        let (shared, snapshot) = (shared.clone(), snapshot.clone());
        let make = move || {
            home.enter();
            Relay::new(shared, index, snapshot, epoch)
        };
        loops.push(Driver::spawn_on(host.clone(), &format!("ztna-relay-{index}"), set, make, observer(index))?);
    }
    // Set once, here: nothing has been posted across loops before.
    drop(handles.set(loops.clone()));
    Ok((Running::Relay { loops, shared }, listen))
}

impl Running {
    /// Applies a snapshot on every loop.
    pub fn apply(&self, snapshot: &Arc<Snapshot>) {
        self.applier()(snapshot);
    }

    /// As [`apply`](Self::apply), for another thread.
    fn applier(&self) -> Apply {
        match self {
            Running::Agent(h) => {
                let h = h.clone();
                Box::new(move |snapshot| apply(&h, snapshot))
            }
            Running::Connector(h) => {
                let h = h.clone();
                Box::new(move |snapshot| apply(&h, snapshot))
            }
            Running::Relay { loops, .. } => {
                let loops = loops.clone();
                Box::new(move |snapshot| loops.iter().for_each(|h| apply(h, snapshot)))
            }
        }
    }

    /// Has one loop say when a look at the folder does not come to its end.
    fn watch(&self, folder: &FolderReader) {
        let folder = folder.clone();
        let watch = Box::new(move |now| folder.overdue(now));
        match self {
            Running::Agent(h) => {
                h.post(Box::new(move |d| d.set_watch(watch)));
            }
            Running::Connector(h) => {
                h.post(Box::new(move |d| d.set_watch(watch)));
            }
            Running::Relay { loops, .. } => {
                if let Some(h) = loops.first() {
                    h.post(Box::new(move |d| d.set_watch(watch)));
                }
            }
        }
    }

    pub fn shut_down(&self, within: std::time::Duration) {
        match self {
            Running::Agent(h) => {
                h.post(Box::new(move |d| d.shut_down(within)));
            }
            Running::Connector(h) => {
                h.post(Box::new(move |d| d.shut_down(within)));
            }
            Running::Relay { loops, .. } => loops.iter().for_each(|h| {
                h.post(Box::new(move |d| d.shut_down(within)));
            }),
        }
    }

    /// Runs a turn on every loop and calls `then` when all have: proof that none hangs. Not called when one has ended.
    pub fn turn(&self, then: impl FnOnce() + Send + 'static) {
        let left = Arc::new(Countdown { left: AtomicUsize::new(self.loops()), then: Mutex::new(Some(Box::new(then))) });
        match self {
            Running::Agent(h) => turn(h, left),
            Running::Connector(h) => turn(h, left),
            Running::Relay { loops, .. } => loops.iter().for_each(|h| turn(h, left.clone())),
        }
    }

    pub fn loops(&self) -> usize {
        match self {
            Running::Agent(_) | Running::Connector(_) => 1,
            Running::Relay { loops, .. } => loops.len(),
        }
    }
}

/// Calls `then` once `left` loops have turned.
struct Countdown {
    left: AtomicUsize,
    then: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

fn turn<M: Machine + 'static>(h: &Handle<M>, countdown: Arc<Countdown>) {
    h.post(Box::new(move |_| {
        if countdown.left.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(then) = lock(&countdown.then).take()
        {
            then();
        }
    }));
}

fn apply<M: Machine + 'static>(h: &Handle<M>, snapshot: &Arc<Snapshot>) {
    let snapshot = snapshot.clone();
    h.post(Box::new(move |d| d.apply(snapshot)));
}
