//! Host names to addresses, off the loop's thread: the system's resolver blocks.

use std::net::{IpAddr, ToSocketAddrs};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Arc, Mutex};

use super::handle::{Wake, lock};
use crate::id::FlowId;

/// Resolver threads at most: one slow name must not hold up all others.
const THREADS: usize = 4;
/// Names that may wait. Each belongs to a flow or relay; beyond this the flow fails, which its peer can try again.
const QUEUE: usize = 1_024;

/// Who asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asker {
    Dial { flow: FlowId, port: u16 },
    Machine { host: String },
}

type Questions = Arc<Mutex<Receiver<(Asker, String)>>>;
/// `Err` is text for people.
pub(super) type Resolved = (Asker, Result<Vec<IpAddr>, String>);

pub(super) struct Resolver {
    questions: Option<SyncSender<(Asker, String)>>,
    waiting: Option<Questions>,
    threads: usize,
    to_loop: Sender<Resolved>,
    answers: Receiver<Resolved>,
    wake: Wake,
}

impl Resolver {
    /// No thread runs until the first name.
    pub fn new(wake: Wake) -> Self {
        let (to_loop, answers) = channel();
        Resolver { questions: None, waiting: None, threads: 0, to_loop, answers, wake }
    }

    /// Asks for the addresses of `host`; the answer comes by [`poll`](Self::poll). `Err`: too many names wait.
    pub fn ask(&mut self, asker: Asker, host: String) -> Result<(), String> {
        let (tx, rx) = match (&self.questions, &self.waiting) {
            (Some(tx), Some(rx)) => (tx.clone(), rx.clone()),
            _ => {
                let (tx, rx) = sync_channel(QUEUE);
                let rx = Arc::new(Mutex::new(rx));
                self.questions = Some(tx.clone());
                self.waiting = Some(rx.clone());
                (tx, rx)
            }
        };
        if self.threads < THREADS {
            let (to_loop, wake) = (self.to_loop.clone(), self.wake.clone());
            if std::thread::Builder::new()
                .name("ztna-resolve".into())
                .spawn(move || serve(&rx, &to_loop, &wake))
                .is_ok()
            {
                self.threads += 1;
            } else if self.threads == 0 {
                return Err("no thread to resolve names with".into());
            }
        }
        match tx.try_send((asker, host)) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                Err(format!("{QUEUE} names wait to be resolved"))
            }
        }
    }

    pub fn poll(&mut self) -> Option<Resolved> {
        self.answers.try_recv().ok()
    }
}

/// Ends when the resolver is dropped.
fn serve(questions: &Mutex<Receiver<(Asker, String)>>, to_loop: &Sender<Resolved>, wake: &Wake) {
    loop {
        // The lock is held while waiting: the others wait for the lock instead, and one of them takes over.
        let next = lock(questions).recv();
        let Ok((asker, host)) = next else { return };
        if to_loop.send((asker, look_up(&host))).is_err() {
            return;
        }
        wake.wake();
    }
}

/// All addresses in the system's order, each once.
fn look_up(host: &str) -> Result<Vec<IpAddr>, String> {
    let found = (host, 0u16).to_socket_addrs().map_err(|e| e.to_string())?;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found {
        if !addresses.contains(&address.ip()) {
            addresses.push(address.ip());
        }
    }
    if addresses.is_empty() { Err("the name has no address".into()) } else { Ok(addresses) }
}
