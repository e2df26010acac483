//! From loops to JavaScript: one weak thread-safe function a role, one JSON text an event.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use napi::Status;
use napi::bindgen_prelude::Function;
use napi::threadsafe_function::{ThreadsafeCallContext, ThreadsafeFunction, ThreadsafeFunctionCallMode};
use serde_json::{Value, json};
use ztna_core::error::{Error, Result};
use ztna_core::io::folder::FolderReader;
use ztna_core::io::{LocalEvent, NodeDatagram, Observer};
use ztna_core::role::{Answer, Notice};
use ztna_core::trust::Snapshot;

use crate::dto;
use crate::lost::Lost;
use crate::promise::{Promise, is_alive};

/// Events that wait for JavaScript. An event is under 1 KB; a program that does not take 65,536 of them has hung. More are lost, and
/// counted.
const WAITING: usize = 65_536;

type Callback = ThreadsafeFunction<(), (), String, Status, false, true, WAITING>;

/// Events on their way, one for each call of the callback that is. They wait here and not in the callback's own queue, which the end
/// of a JavaScript thread does not release.
type Mail = Arc<Mutex<VecDeque<Parcel>>>;

/// An event with the descriptor that it names, which JavaScript owns once it is called.
struct Parcel {
    text: String,
    fd: Option<OwnedFd>,
}

pub fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the loops of one role and its JavaScript object share.
pub struct Bridge {
    callback: Callback,
    mail: Mail,
    pub lost: Lost,
    pub snapshot: RwLock<Option<Arc<Snapshot>>>,
    /// UDP flows announced and not yet taken.
    pub datagrams: Mutex<BTreeMap<u64, NodeDatagram>>,
    /// Promises of `ping` and `check`.
    pub answers: Mutex<BTreeMap<u64, Promise<String>>>,
    /// Promises of `close`.
    pub closing: Mutex<Vec<Promise<()>>>,
    left: AtomicUsize,
    ended: Mutex<bool>,
    folder: Mutex<Option<FolderReader>>,
}

impl Bridge {
    pub fn new(callback: &Function<'_, String, ()>) -> napi::Result<Arc<Self>> {
        let mail = Mail::default();
        let sent = mail.clone();
        let callback = callback
            .build_threadsafe_function::<()>()
            .callee_handled::<false>()
            .weak::<true>()
            .max_queue_size::<WAITING>()
            .build_callback(move |ctx: ThreadsafeCallContext<()>| {
                let parcel = lock(&sent).pop_front().ok_or_else(|| dto::throw(&Error::Closed("no event".into())))?;
                let _ = parcel.fd.filter(|_| is_alive(&ctx.env)).map(IntoRawFd::into_raw_fd);
                Ok(parcel.text)
            })?;
        Ok(Arc::new(Bridge {
            callback,
            mail,
            lost: Lost::default(),
            snapshot: RwLock::new(None),
            datagrams: Mutex::new(BTreeMap::new()),
            answers: Mutex::new(BTreeMap::new()),
            closing: Mutex::new(Vec::new()),
            left: AtomicUsize::new(0),
            ended: Mutex::new(true),
            folder: Mutex::new(None),
        }))
    }

    /// `folder` ends with the last of the loops.
    pub fn begin(&self, loops: usize, folder: Option<FolderReader>) {
        *lock(&self.folder) = folder;
        self.left.store(loops, Ordering::SeqCst);
        *lock(&self.ended) = false;
    }

    /// Whether nothing runs.
    pub fn has_ended(&self) -> bool {
        *lock(&self.ended)
    }

    /// `false`: it is lost.
    pub fn emit(&self, event: &Value) -> bool {
        self.emit_with(event, None)
    }

    /// As [`emit`](Self::emit) with the descriptor that the event names; it is closed where the event is lost.
    fn emit_with(&self, event: &Value, fd: Option<OwnedFd>) -> bool {
        let status = self.call(event, fd);
        if status == Status::Ok {
            self.lost.tell(|n| {
                let error = Error::Limit(format!("{n} events were lost: the program did not take them in time"));
                self.call(&json!({ "event": "warning", "error": dto::error(&error) }), None) == Status::Ok
            });
        } else if status == Status::QueueFull {
            self.lost.one_more();
        }
        status == Status::Ok
    }

    fn call(&self, event: &Value, fd: Option<OwnedFd>) -> Status {
        let text = event.to_string();
        // Locked over both: the order of the calls is that of the mail.
        let mut mail = lock(&self.mail);
        mail.push_back(Parcel { text, fd });
        let status = self.callback.call((), ThreadsafeFunctionCallMode::NonBlocking);
        if status != Status::Ok {
            mail.pop_back();
        }
        status
    }

    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.snapshot.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes a snapshot that is not older than the one in use. The event `reloaded` follows when it is newer: once, however
    /// many bring it. `true`: its version is not the one in use. Errors: [`Error::Config`] when it is older.
    pub fn adopt(&self, snapshot: Arc<Snapshot>) -> Result<bool> {
        let version = snapshot.version;
        let before = {
            let mut used = self.snapshot.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(used) = used.as_ref() {
                snapshot.supersedes(used)?;
            }
            used.replace(snapshot)
        };
        // The first one is what the role starts with.
        let changed = before.as_ref().is_none_or(|before| before.version != version);
        if changed && before.is_some() {
            self.emit(&json!({ "event": "reloaded", "version": version }));
        }
        Ok(changed)
    }

    /// Tells that the folder holds what is not taken, or can't be read.
    pub fn not_reloaded(&self, error: Error) {
        if let Some(snapshot) = self.snapshot() {
            self.emit(&dto::notice(&Notice::NotReloaded(error), &snapshot));
        }
    }

    /// A start takes whatever version there is.
    pub fn forget_snapshot(&self) {
        *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub fn observer(self: &Arc<Self>, index: usize) -> Observer {
        let bridge = self.clone();
        Box::new(move |event| bridge.take(index, event))
    }

    fn take(&self, index: usize, event: LocalEvent) {
        let Some(snapshot) = self.snapshot() else { return };
        match event {
            // A relay's loops change state together; one of them speaks.
            LocalEvent::Notice(Notice::State { .. }) if index > 0 => {}
            LocalEvent::Notice(n) => {
                self.emit(&dto::notice(&n, &snapshot));
            }
            LocalEvent::Answer { op, result } => self.answer(op, result),
            LocalEvent::FlowReset { flow, error } => {
                self.emit(&json!({ "event": "flow-reset", "flow": flow.0, "error": dto::error(&error) }));
            }
            LocalEvent::FlowEnded { flow } => {
                self.emit(&json!({ "event": "flow-end", "flow": flow.0 }));
            }
            LocalEvent::Incoming { flow, serve, info, fd } => {
                let more = json!({ "event": "incoming", "flow": flow.0, "serve": serve, "fd": fd.as_raw_fd() });
                self.emit_with(&dto::join(dto::flow(&info, flow.0, &snapshot), more), Some(fd));
            }
            LocalEvent::IncomingDatagram { flow, serve, info, datagram } => {
                let more = json!({ "event": "incoming-datagram", "flow": flow.0, "serve": serve });
                let event = dto::join(dto::flow(&info, flow.0, &snapshot), more);
                lock(&self.datagrams).insert(flow.0, datagram);
                if !self.emit(&event) {
                    lock(&self.datagrams).remove(&flow.0);
                }
            }
            LocalEvent::Ended(result) => self.end(result),
        }
    }

    fn answer(&self, op: u64, result: Result<Answer>) {
        let promise = lock(&self.answers).remove(&op);
        if let Some(promise) = promise {
            promise.settle(result.map(|a| dto::answer(&a).to_string()));
        }
    }

    fn end(&self, result: Result<()>) {
        if let Err(e) = result {
            self.emit(&json!({ "event": "error", "error": dto::error(&e) }));
        }
        if self.left.fetch_sub(1, Ordering::SeqCst) != 1 {
            return;
        }
        *lock(&self.ended) = true;
        if let Some(folder) = lock(&self.folder).take() {
            folder.end();
        }
        self.emit(&json!({ "event": "closed" }));
        // What nobody answers any more is settled by being dropped.
        drop(std::mem::take(&mut *lock(&self.answers)));
        self.settle_closing();
    }

    /// The role has ended, which is what those who close it wait for.
    pub fn settle_closing(&self) {
        for promise in std::mem::take(&mut *lock(&self.closing)) {
            promise.settle(Ok(()));
        }
    }
}
