//! The packet loop: one thread, one machine.
//!
//! A turn: wait, a moment longer where many flows come at once; receive bursts; posted closures; local descriptors; timers;
//! `process`; actions; local flows; `process` again where those fed the machine; send. Whole batches go in before anything is asked for: that batches acknowledgements.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};

use super::event::{LocalEvent, Observer};
use super::handle::{Handle, Post, Queue, Wake};
use super::host::Host;
use super::interfaces::{Monitor, SWARM};
use super::listener::{Destination, ForwardId, ForwardSpec, LocalAddress};
use super::local::{Flow, Local, Opener, Source};
use super::moderation::Moderation;
use super::node_flow::NodeStream;
use super::port_mapping::PortMapper;
use super::resolve::Asker;
use super::ring::NodeDatagram;
use super::timers::Timer;
use super::udp::{Socket, SocketSet, UdpCounters};
use super::waiters::Waiters;
use crate::error::Error;
use crate::id::FlowId;
use crate::role::{Machine, Notice, Open};
use crate::trust::Snapshot;

const WAKE: Token = Token(usize::MAX);
/// Events taken in one turn.
const EVENTS: usize = 1_024;
/// Posted closures run in one turn.
const POSTS_PER_TURN: usize = 256;
/// How often the watch is asked.
const WATCH_EVERY: Duration = Duration::from_millis(200);
/// A send that found the kernel's buffer full is tried again after this even if nobody says that there is room.
const BLOCKED_RETRY: Duration = Duration::from_millis(5);
/// How long an ended loop waits for the program to see that its streams were reset.
const LINGER: Duration = Duration::from_secs(1);

/// Says what is wrong with the source of snapshots where that can't say it itself, as often as an operator should hear it. It runs on
/// the loop's thread and must not wait.
pub type Watch = Box<dyn FnMut(Instant) -> Option<Error> + Send>;

/// A machine and everything that it runs on. Reached through [`Handle::post`].
pub struct Driver<M: Machine> {
    machine: M,
    sockets: SocketSet,
    pub(super) local: Local,
    pub(super) waiters: Waiters<M>,
    watch: Option<Watch>,
    monitor: Option<Monitor>,
    moderation: Moderation,
    now: Instant,
}

impl<M: Machine + 'static> Driver<M> {
    /// Starts a thread called `name` that makes the machine and runs it on `sockets`. Returns once it runs. Errors: those of
    /// `make`, or `Limit` where the system gives no thread or descriptor.
    pub fn spawn(
        name: &str,
        sockets: Vec<Socket>,
        make: impl FnOnce() -> Result<M, Error> + Send + 'static,
        observer: Observer,
    ) -> Result<Handle<M>, Error> {
        Self::spawn_on(Host::System, name, sockets, make, observer)
    }

    /// As [`spawn`](Self::spawn), on the host that gave the sockets.
    pub fn spawn_on(
        host: Host,
        name: &str,
        sockets: Vec<Socket>,
        make: impl FnOnce() -> Result<M, Error> + Send + 'static,
        observer: Observer,
    ) -> Result<Handle<M>, Error> {
        let no_room = |e: std::io::Error| Error::Limit(format!("no room for a packet loop: {e}"));
        let poll = Poll::new().map_err(no_room)?;
        let wake = Wake::new(mio::Waker::new(poll.registry(), WAKE).map_err(no_room)?);
        let registry = poll.registry().try_clone().map_err(no_room)?;
        let (queue, posts) = Queue::new(wake.clone());
        let mut local = Local::new(registry, wake.clone(), observer);
        let mut registered = Vec::new();
        for (index, socket) in sockets.into_iter().enumerate() {
            let token = local.register(&socket, Source::Socket(index), Interest::READABLE).map_err(no_room)?;
            registered.push((socket, token));
        }
        let sockets = SocketSet::new(host, registered);
        let (started, starts) = channel();
        let closing = queue.clone();
        let body = move || {
            let machine = match catch_unwind(AssertUnwindSafe(make)).unwrap_or_else(|_| Err(panicked())) {
                Ok(machine) => machine,
                Err(e) => {
                    closing.close();
                    // The caller waits for this and nothing else.
                    let _ = started.send(Err(e));
                    return;
                }
            };
            let _ = started.send(Ok(()));
            let mut driver = Driver {
                machine,
                sockets,
                local,
                waiters: Vec::new(),
                watch: None,
                monitor: None,
                moderation: Moderation::default(),
                now: Instant::now(),
            };
            driver.watch_network();
            let mut poll = poll;
            let result = catch_unwind(AssertUnwindSafe(|| driver.run(&mut poll, &posts, &wake)))
                .unwrap_or_else(|_| Err(panicked()));
            let tail = catch_unwind(AssertUnwindSafe(|| driver.end(&mut poll, &posts, &wake, &closing)));
            closing.close();
            let Driver { sockets, mut local, .. } = driver;
            // Whoever hears of the end may take the addresses again.
            drop(sockets);
            (local.observer)(LocalEvent::Ended(if tail.is_err() { Err(panicked()) } else { result }));
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(body).map_err(no_room)?;
        starts.recv().unwrap_or_else(|_| Err(panicked()))?;
        Ok(Handle::new(queue, thread))
    }

    // ---- what a posted closure may do

    pub fn machine(&mut self) -> &mut M {
        &mut self.machine
    }
    /// The time of this turn.
    pub fn now(&self) -> Instant {
        self.now
    }
    pub fn udp_counters(&self) -> UdpCounters {
        self.sockets.counters
    }
    /// Datagrams lost on this side of the tunnel: full queues, larger than the path takes, senders beyond a port's limit, names
    /// outside the zone.
    pub fn local_drops(&self) -> u64 {
        self.local.lost + self.local.lost_in_rings.load(Ordering::Relaxed)
    }
    /// Flows refused for want of a file descriptor, or of their peer's share in them.
    pub fn descriptor_drops(&self) -> u64 {
        self.local.descriptors.refused
    }

    /// Opens a stream for the program; `reply` is called once, on the loop's thread. `op` must not be in use.
    pub fn open_stream(&mut self, op: u64, open: Open, reply: Box<dyn FnOnce(Result<NodeStream, Error>) + Send>) {
        self.local.open_for_program(&mut self.machine, self.now, op, open, Opener::Stream(op, reply));
    }
    /// As [`open_stream`](Self::open_stream) for a UDP flow.
    pub fn open_datagram(&mut self, op: u64, open: Open, reply: Box<dyn FnOnce(Result<NodeDatagram, Error>) + Send>) {
        self.local.open_for_program(&mut self.machine, self.now, op, open, Opener::Datagram(op, reply));
    }
    /// Answered by [`LocalEvent::Answer`].
    pub fn ping(&mut self, op: u64, service: &str, timeout: Duration) {
        if let Some(id) = self.local.ask(op) {
            self.machine.ping(self.now, id, service, timeout);
        }
    }
    /// Answered by [`LocalEvent::Answer`].
    pub fn explain(&mut self, op: u64, open: Open) {
        if let Some(id) = self.local.ask(op) {
            self.machine.explain(self.now, id, open);
        }
    }
    /// Answered by [`LocalEvent::Answer`].
    pub fn check(&mut self, op: u64, open: Open) {
        if let Some(id) = self.local.ask(op) {
            self.machine.check(self.now, id, open);
        }
    }
    /// Gives up an `open_*`, `ping`, `explain` or `check`: its answer is `Aborted`, at once. Unknown or answered ones: nothing.
    pub fn cancel(&mut self, op: u64) {
        self.local.cancel(&mut self.machine, self.now, op);
    }
    /// The program resets a stream of its own both ways, or ends a UDP flow.
    pub fn flow_reset(&mut self, flow: FlowId) {
        self.local.reset_by_program(&mut self.machine, flow);
    }
    /// The program has seen [`LocalEvent::FlowReset`] and closed its descriptor.
    pub fn flow_done(&mut self, flow: FlowId) {
        self.local.reset_seen(flow);
    }
    pub fn authorize_reply(&mut self, flow: FlowId, allow: bool) {
        self.machine.authorize_reply(self.now, flow, allow);
    }

    /// Starts a forward. Errors: `Config` or `Permission` naming the address, `Closed`.
    pub fn forward(&mut self, spec: ForwardSpec) -> Result<(ForwardId, LocalAddress), Error> {
        self.local.forward(spec)
    }
    /// Flows of a forward now, opening ones included; 0 once it is closed and they have ended.
    pub fn forward_connections(&self, id: ForwardId) -> usize {
        self.local.forwards.get(&id).map_or(0, |f| f.connections)
    }
    /// Stops listening. TCP connections go on to their own end, UDP flows end now.
    pub fn forward_close(&mut self, id: ForwardId) {
        self.local.close_forward(&mut self.machine, id);
    }

    /// Has `watch` asked every 200 ms from now on; what it says is a [`Notice::NotReloaded`].
    pub fn set_watch(&mut self, watch: Watch) {
        if self.watch.replace(watch).is_none() {
            self.local.timers.set(self.now + WATCH_EVERY, Timer::Watch);
        }
    }
    /// Uses a snapshot from here on. It is built elsewhere: reading one takes time that packets don't have.
    pub fn apply(&mut self, snapshot: Arc<Snapshot>) {
        for forward in self.local.forwards.values_mut() {
            if let Destination::Socks5 { zone, .. } = &mut forward.spec.to {
                zone.clone_from(&snapshot.network.zone);
            }
        }
        self.machine.handle_snapshot(self.now, snapshot);
    }

    /// Stops listening and taking new flows, lets those that run finish for at most `within`, then ends the loop.
    pub fn shut_down(&mut self, within: Duration) {
        self.local.closing = true;
        let forwards: Vec<ForwardId> = self.local.forwards.keys().copied().collect();
        for id in forwards {
            self.local.close_forward(&mut self.machine, id);
        }
        self.machine.shut_down(self.now, within);
    }

    // ---- the loop

    fn run(&mut self, poll: &mut Poll, posts: &Receiver<Post<M>>, wake: &Wake) -> Result<(), Error> {
        let mut events = Events::with_capacity(EVENTS);
        let mut busy = true;
        let mut fired = false;
        self.machine.handle_sockets(self.now, &self.sockets.own_addrs());
        self.tell_interfaces();
        loop {
            if !busy && let Some(pause) = self.moderation.pause(self.now, Instant::now()) {
                std::thread::sleep(pause);
            }
            if let Err(e) = poll.poll(&mut events, self.patience(busy, fired))
                && e.kind() != std::io::ErrorKind::Interrupted
            {
                return Err(Error::Internal(format!("waiting for events: {e}")));
            }
            self.now = Instant::now();
            wake.clear();
            for event in &events {
                self.dispatch(event);
            }
            busy = self.sockets.receive(self.now, &mut self.machine);
            self.sockets.shed(self.now, &mut self.machine);
            self.local.posts_wait = self.run_posts(posts);
            busy |= self.local.posts_wait;
            self.take_resolved();
            if let Some(mapping) = self.local.mapper.as_ref().and_then(PortMapper::poll) {
                self.machine.handle_port_mapping(self.now, &mapping);
            }
            let due = self.machine.poll_timeout().is_some_and(|at| at <= self.now);
            if due {
                self.machine.handle_timeout(self.now);
            }
            // A machine that is due again at once gets a millisecond's pause instead of a spinning loop.
            fired = due && events.is_empty() && !busy;
            self.run_timers();
            self.settle();
            if self.local.run_ready(&mut self.machine, self.now) {
                self.settle();
            }
            busy |= self.sockets.transmit(self.now, &mut self.machine, &self.local.registry);
            if let Some(result) = self.local.ended.take() {
                return result;
            }
            busy |= !self.local.ready.is_empty();
        }
    }

    /// How long to wait for events. Rounded up to a millisecond by the system's wait, never down to a busy loop.
    fn patience(&mut self, busy: bool, fired: bool) -> Option<Duration> {
        if busy {
            return Some(Duration::ZERO);
        }
        let now = Instant::now();
        let machine = self.machine.poll_timeout();
        let blocked = self.sockets.is_blocked().then(|| now + BLOCKED_RETRY);
        let until =
            [machine, self.local.timers.next(), blocked, self.sockets.shed_deadline()].into_iter().flatten().min()?;
        let wait = until.saturating_duration_since(now);
        Some(if fired { wait.max(Duration::from_millis(1)) } else { wait })
    }

    fn dispatch(&mut self, event: &mio::event::Event) {
        if event.token() == WAKE {
            return;
        }
        let Some(source) = self.local.sources.get(event.token().0).copied() else { return };
        match source {
            Source::Socket(index) => self.sockets.on_readable(index),
            Source::Flow(flow) => match self.local.flows.get_mut(&flow).map(|e| &mut e.flow) {
                Some(Flow::Stream(splice, _)) => {
                    splice.on_event(event);
                    self.local.enqueue(flow);
                    self.moderation.on_event(self.now, flow);
                }
                Some(Flow::Udp(udp)) => {
                    udp.on_readable();
                    self.local.enqueue(flow);
                }
                Some(Flow::Dialing(_)) => self.local.dial_event(&mut self.machine, self.now, flow, event),
                Some(Flow::Opening(_) | Flow::Port(_) | Flow::Ring(_) | Flow::Reset(..)) | None => {}
            },
            Source::Listener(forward) => self.local.want_accept(forward),
            Source::Client(client) => self.local.client_event(&mut self.machine, self.now, client),
            Source::Port(port) => self.local.port_readable(port),
            Source::Network => self.network_event(),
        }
    }

    /// `true`: more are waiting.
    fn run_posts(&mut self, posts: &Receiver<Post<M>>) -> bool {
        for _ in 0..POSTS_PER_TURN {
            match posts.try_recv() {
                Ok(post) => post(self),
                Err(_) => return false,
            }
        }
        true
    }

    fn take_resolved(&mut self) {
        while let Some((asker, found)) = self.local.resolver.poll() {
            match asker {
                Asker::Dial { flow, port } => self.local.dial_resolved(&mut self.machine, self.now, flow, port, found),
                // The machine asks again when it wants to: an empty answer is that there is none now.
                Asker::Machine { host } => self.machine.handle_resolved(self.now, &host, &found.unwrap_or_default()),
            }
        }
    }

    fn run_timers(&mut self) {
        while let Some(timer) = self.local.timers.pop_due(self.now) {
            let (local, machine, now) = (&mut self.local, &mut self.machine, self.now);
            match timer {
                Timer::Dial(flow) => local.dial_timeout(machine, now, flow),
                Timer::DialAgain(flow) => local.dial_again(machine, now, flow),
                Timer::Handshake(client) => local.client_timeout(machine, now, client),
                Timer::Sweep(port) => local.sweep_port(machine, now, port),
                Timer::NodeReset(flow) => local.reset_seen(flow),
                Timer::Accept(forward) => local.want_accept(forward),
                Timer::Waiters => self.ask_waiters(false),
                Timer::Watch => self.run_watch(),
                Timer::Network => self.network_timer(),
            }
        }
    }

    fn run_watch(&mut self) {
        let Some(watch) = self.watch.as_mut() else { return };
        if let Some(e) = watch(self.now) {
            (self.local.observer)(LocalEvent::Notice(Notice::NotReloaded(e)));
        }
        self.local.timers.set(self.now + WATCH_EVERY, Timer::Watch);
    }

    /// Settles what was fed in and does what comes of it.
    fn settle(&mut self) {
        self.machine.process(self.now);
        while let Some(action) = self.machine.poll_action() {
            self.local.perform(&mut self.machine, &mut self.sockets, self.now, action);
        }
        while let Some(host) = self.machine.poll_resolve() {
            if self.local.resolver.ask(Asker::Machine { host: host.clone() }, host.clone()).is_err() {
                self.machine.handle_resolved(self.now, &host, &[]);
            }
        }
    }

    // ---- network changes

    fn watch_network(&mut self) {
        // Without it the machine's own timers still notice a dead path.
        self.monitor = Monitor::new(self.sockets.host()).ok();
        #[cfg(target_os = "linux")]
        if let Some(monitor) = &self.monitor
            && self.local.register(monitor.fd(), Source::Network, Interest::READABLE).is_err()
        {
            self.monitor = None;
        }
        #[cfg(not(target_os = "linux"))]
        self.local.timers.set(self.now + SWARM, Timer::Network);
    }

    /// The system sent word (Linux).
    fn network_event(&mut self) {
        if self.monitor.as_mut().is_some_and(Monitor::drain) {
            self.local.timers.set_once(self.now + SWARM, Timer::Network);
        }
    }

    fn network_timer(&mut self) {
        #[cfg(not(target_os = "linux"))]
        {
            self.local.timers.set(self.now + SWARM, Timer::Network);
            if !self.monitor.as_mut().is_some_and(Monitor::drain) {
                return;
            }
        }
        self.tell_interfaces();
        self.machine.handle_network_change(self.now);
        if let Some(mapper) = &self.local.mapper {
            mapper.follow();
        }
    }

    fn tell_interfaces(&mut self) {
        match self.sockets.host().interfaces() {
            Ok(all) => self.machine.handle_interfaces(self.now, &all),
            Err(e) => tracing::debug!(reason = %e, "the system does not tell its interfaces"),
        }
    }

    // ---- the end

    /// Resets what is left, runs what was posted, waits a moment for the program.
    fn end(&mut self, poll: &mut Poll, posts: &Receiver<Post<M>>, wake: &Wake, queue: &Queue<M>) {
        self.now = Instant::now();
        if let Some(mapper) = &self.local.mapper {
            mapper.end();
        }
        self.local.close_all(&mut self.machine, self.now);
        // What the machine's last words to its peers are.
        while self.sockets.transmit(self.now, &mut self.machine, &self.local.registry) {}
        let until = self.now + LINGER;
        let mut events = Events::with_capacity(EVENTS);
        while self.local.awaits_program() && self.now < until {
            let _ = poll.poll(&mut events, Some(until.saturating_duration_since(self.now)));
            self.now = Instant::now();
            wake.clear();
            while self.run_posts(posts) {}
        }
        if let Some(mapper) = &self.local.mapper {
            mapper.wait(until);
        }
        queue.close();
        while self.run_posts(posts) {}
        self.ask_waiters(true);
    }
}

fn panicked() -> Error {
    Error::Internal("the packet loop panicked".into())
}
