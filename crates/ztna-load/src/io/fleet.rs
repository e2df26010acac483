//! Many clients in one thread.

use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use mio::{Events, Interest, Poll, Token};
use serde_json::{Value, json};
use ztna_core::io::folder;
use ztna_core::quic::{Kind, TlsConfig};
use ztna_core::trust::Snapshot;

use super::client::{Client, Progress};
use crate::args::Clients;
use crate::{Error, Result};

/// How often timers are looked at: loss timers of a local link are in the milliseconds, but nothing is lost on one as a rule.
const TICK: Duration = Duration::from_millis(10);
/// Failed connections after which `nodes` gives up.
const MAX_FAILURES: usize = 100;

/// Opens and closes connections for the given time: how many came up, how many a second, how many failed, and the median time
/// that one took.
pub fn handshakes(args: &Clients) -> Result<Value> {
    let mut fleet = Fleet::new(args, args.in_flight)?;
    let begun = Instant::now();
    for client in 0..fleet.clients.len() {
        fleet.connect(client)?;
    }
    let mut took = Vec::new();
    let mut failures = Failures::default();
    while begun.elapsed() < args.time {
        for (client, progress) in fleet.turn()? {
            match progress {
                Progress::None => continue,
                Progress::Up(after) => took.push(after),
                Progress::Failed(why) => failures.add(why),
            }
            fleet.close(client);
            fleet.connect(client)?;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    (0..fleet.clients.len()).for_each(|client| fleet.close(client));
    took.sort_unstable();
    let p50 = took.get(took.len() / 2).map(|d| d.as_secs_f64() * 1e3);
    Ok(json!({
        "handshakes": took.len(),
        "seconds": seconds,
        "perSecond": took.len() as f64 / seconds,
        "p50Ms": p50,
        "failures": failures.count,
        "failure": failures.first,
    }))
}

/// Holds connections until the end of standard input: how many there were, and how many of them were lost.
pub fn nodes(args: &Clients) -> Result<Value> {
    let mut fleet = Fleet::new(args, args.count)?;
    let wanted = fleet.clients.len();
    let (mut next, mut up) = (0, 0);
    let mut failures = Failures::default();
    while up < wanted {
        while next - up < args.in_flight as usize && next < wanted {
            fleet.connect(next)?;
            next += 1;
        }
        for (client, progress) in fleet.turn()? {
            match progress {
                Progress::None => {}
                Progress::Up(_) => up += 1,
                Progress::Failed(why) => {
                    failures.add(why);
                    fleet.connect(client)?;
                }
            }
        }
        if failures.count > MAX_FAILURES {
            return Err(Error::Failed(format!(
                "{} connections failed, the first: {}",
                failures.count,
                failures.first.unwrap_or_default()
            )));
        }
    }
    println!("{}", json!({ "ready": up }));
    let ended = watch_input();
    let mut lost = Failures::default();
    while !ended.load(Ordering::Relaxed) {
        for (_, progress) in fleet.turn()? {
            if let Progress::Failed(why) = progress {
                lost.add(why);
            }
        }
    }
    (0..fleet.clients.len()).for_each(|client| fleet.close(client));
    Ok(json!({ "nodes": wanted, "failures": failures.count, "lost": lost.count, "failure": lost.first }))
}

#[derive(Default)]
struct Failures {
    count: usize,
    first: Option<String>,
}

impl Failures {
    fn add(&mut self, why: String) {
        self.count += 1;
        self.first.get_or_insert(why);
    }
}

struct Fleet {
    tls: TlsConfig,
    server_name: String,
    clients: Vec<Client>,
    poll: Poll,
    events: Events,
    ticked: Instant,
}

impl Fleet {
    fn new(args: &Clients, size: u32) -> Result<Self> {
        let snapshot = Snapshot::from_files(&folder::read_folder(&args.network)?, SystemTime::now())?;
        let network = &snapshot.network;
        let relay = network.relays.first().ok_or_else(|| Error::Failed("the folder names no relay".into()))?;
        let server_name = format!("{}.relay.{}", relay.name, network.trust_domain);
        let tls = TlsConfig::new(Kind::OuterClient, &Arc::new(snapshot))?;
        let poll = Poll::new().map_err(|e| Error::io("epoll", e))?;
        let now = Instant::now();
        let mut clients = Vec::new();
        for n in 0..size {
            let mut client = Client::new(args.sources.client(n), SocketAddr::V4(args.relay), now)?;
            poll.registry()
                .register(&mut client.socket, Token(clients.len()), Interest::READABLE)
                .map_err(|e| Error::io("epoll", e))?;
            clients.push(client);
        }
        Ok(Fleet { tls, server_name, clients, poll, events: Events::with_capacity(1_024), ticked: now })
    }

    fn connect(&mut self, client: usize) -> Result<()> {
        match self.clients.get_mut(client) {
            Some(client) => client.connect(&mut self.tls, &self.server_name, Instant::now()),
            None => Ok(()),
        }
    }

    fn close(&mut self, client: usize) {
        if let Some(client) = self.clients.get_mut(client) {
            client.close();
        }
    }

    /// Waits a tick at most, feeds what has arrived and fires timers: which clients have come to something.
    fn turn(&mut self) -> Result<Vec<(usize, Progress)>> {
        match self.poll.poll(&mut self.events, Some(TICK)) {
            Err(e) if e.kind() != std::io::ErrorKind::Interrupted => return Err(Error::io("epoll", e)),
            Ok(()) | Err(_) => {}
        }
        let now = Instant::now();
        let mut all = Vec::new();
        for event in &self.events {
            let Token(n) = event.token();
            if let Some(client) = self.clients.get_mut(n) {
                all.push((n, client.receive(&mut self.tls, now)));
            }
        }
        if now >= self.ticked + TICK {
            self.ticked = now;
            for (n, client) in self.clients.iter_mut().enumerate() {
                all.push((n, client.tick(&mut self.tls, now)));
            }
        }
        all.retain(|(_, progress)| *progress != Progress::None);
        Ok(all)
    }
}

/// `true` once standard input has ended.
fn watch_input() -> Arc<AtomicBool> {
    let ended = Arc::new(AtomicBool::new(false));
    let set = ended.clone();
    std::thread::spawn(move || {
        let mut bytes = [0; 256];
        while std::io::stdin().read(&mut bytes).is_ok_and(|n| n > 0) {}
        set.store(true, Ordering::Relaxed);
    });
    ended
}
