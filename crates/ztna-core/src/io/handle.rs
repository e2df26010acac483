//! How other threads reach a loop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::driver::Driver;
use crate::error::Error;
use crate::role::Machine;

/// Something to do on the loop's thread.
pub type Post<M> = Box<dyn FnOnce(&mut Driver<M>) + Send>;

/// A running loop, from outside. Clones are the same loop.
pub struct Handle<M: Machine> {
    shared: Arc<Shared<M>>,
}

struct Shared<M: Machine> {
    queue: Queue<M>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl<M: Machine> Clone for Handle<M> {
    fn clone(&self) -> Self {
        Handle { shared: self.shared.clone() }
    }
}

impl<M: Machine + 'static> Handle<M> {
    pub(super) fn new(queue: Queue<M>, thread: JoinHandle<()>) -> Self {
        Handle { shared: Arc::new(Shared { queue, thread: Mutex::new(Some(thread)) }) }
    }

    /// Runs `f` on the loop's thread, soon. `false`: the loop has ended and `f` was dropped. A closure that was taken always
    /// runs, at the latest while the loop ends.
    ///
    /// The queue has no bound: only the embedding program posts, at the rate of its own calls, and never a peer.
    pub fn post(&self, f: Post<M>) -> bool {
        self.shared.queue.push(f)
    }

    /// As [`post`](Self::post), waiting for what `f` returns. Never call it on the loop's own thread.
    pub fn call<R: Send + 'static>(&self, f: impl FnOnce(&mut Driver<M>) -> R + Send + 'static) -> Result<R, Error> {
        let (tx, rx) = channel();
        let ended = || Error::Closed("the role has ended".into());
        let posted = self.post(Box::new(move |driver| {
            // Nobody waits any more where this fails.
            let _ = tx.send(f(driver));
        }));
        if !posted {
            return Err(ended());
        }
        rx.recv().map_err(|_| ended())
    }

    /// Whether the loop still takes closures.
    pub fn is_running(&self) -> bool {
        lock(&self.shared.queue.open).is_some()
    }

    /// Waits for the thread to end. Further calls return at once.
    pub fn join(&self) {
        if let Some(thread) = lock(&self.shared.thread).take() {
            // A panic in the loop was already reported as an event.
            let _ = thread.join();
        }
    }
}

/// The sending half of a loop's queue, and its bell: `None` inside once it has ended, so that a handle that somebody still has
/// holds no descriptor of it.
pub(super) struct Queue<M: Machine> {
    open: Arc<Mutex<Option<Open<M>>>>,
}

struct Open<M: Machine> {
    sender: Sender<Post<M>>,
    wake: Wake,
}

impl<M: Machine> Clone for Queue<M> {
    fn clone(&self) -> Self {
        Queue { open: self.open.clone() }
    }
}

impl<M: Machine> Queue<M> {
    pub fn new(wake: Wake) -> (Self, Receiver<Post<M>>) {
        let (tx, rx) = channel();
        (Queue { open: Arc::new(Mutex::new(Some(Open { sender: tx, wake }))) }, rx)
    }

    fn push(&self, f: Post<M>) -> bool {
        lock(&self.open).as_ref().is_some_and(|open| {
            let sent = open.sender.send(f).is_ok();
            open.wake.wake();
            sent
        })
    }

    /// From here on every push is refused; what was pushed before is in the receiver.
    pub fn close(&self) {
        *lock(&self.open) = None;
    }
}

/// Wakes a loop, once for any number of calls until it looks.
#[derive(Clone)]
pub(super) struct Wake(Arc<(mio::Waker, AtomicBool)>);

impl Wake {
    pub fn new(waker: mio::Waker) -> Self {
        Wake(Arc::new((waker, AtomicBool::new(false))))
    }
    pub fn wake(&self) {
        let (waker, pending) = &*self.0;
        if !pending.swap(true, Ordering::AcqRel) {
            // Fails only where the loop's descriptors are gone.
            let _ = waker.wake();
        }
    }
    /// The loop looks: call before reading the queues.
    pub fn clear(&self) {
        self.0.1.swap(false, Ordering::AcqRel);
    }
}

/// A panic elsewhere leaves plain data behind these locks whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
