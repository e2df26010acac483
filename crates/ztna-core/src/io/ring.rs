//! A UDP flow of the embedding program: two bounded queues between its thread and the loop's.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::handle::{Wake, lock};
use crate::id::FlowId;
use crate::role::FlowInfo;

/// Datagrams that one direction holds. At 1,200 bytes it is 1.2 MB: some 10 ms of a gigabit, more than a program's pause.
const QUEUE: usize = 1_024;

/// The program's end of a UDP flow.
pub struct NodeDatagram {
    pub flow: FlowId,
    pub info: FlowInfo,
    ring: Arc<Ring>,
}

impl fmt::Debug for NodeDatagram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeDatagram").field("flow", &self.flow).finish_non_exhaustive()
    }
}

impl NodeDatagram {
    pub(super) fn new(flow: FlowId, info: FlowInfo, ring: Arc<Ring>) -> Self {
        NodeDatagram { flow, info, ring }
    }

    /// Queues datagrams to be sent, in order, up to the first that is larger than [`max_size`](Self::max_size) or for which there
    /// is no room; returns how many. The rest counts as dropped. The loop is woken once.
    pub fn send<'a>(&self, datagrams: impl IntoIterator<Item = &'a [u8]>) -> usize {
        let mut taken = 0;
        let mut refused = 0;
        let mut too_large = false;
        let closed = self.ring.closed.load(Ordering::Acquire);
        let max = self.max_size();
        let was_empty = {
            let mut queue = lock(&self.ring.from_program);
            let was_empty = queue.is_empty();
            for datagram in datagrams {
                too_large |= refused == 0 && datagram.len() > max;
                if refused > 0 || too_large || closed || queue.len() >= QUEUE {
                    refused += 1;
                } else {
                    queue.push_back(datagram.to_vec());
                    taken += 1;
                }
            }
            was_empty
        };
        self.ring.lose(refused);
        // The path may take more by now: the loop is asked once, until it has said so.
        let ask = too_large && !closed && !self.ring.asked.swap(true, Ordering::AcqRel);
        if (was_empty && taken > 0) || ask {
            self.ring.notify();
        }
        taken
    }

    /// Takes the next datagram that has arrived.
    pub fn recv(&self) -> Option<Vec<u8>> {
        lock(&self.ring.to_program).pop_front()
    }

    /// Moves datagrams into `out`, each as a little-endian 16-bit length and its bytes, as many whole ones as fit; returns the bytes
    /// filled. A datagram that would not fit an empty `out` is dropped and counted.
    pub fn recv_into(&self, out: &mut [u8]) -> usize {
        let mut filled = 0;
        let mut queue = lock(&self.ring.to_program);
        while let Some(next) = queue.front() {
            let need = next.len() + 2;
            if let (Ok(len), Some(space)) = (u16::try_from(next.len()), out.get_mut(filled..filled + need)) {
                let (head, body) = space.split_at_mut(2);
                head.copy_from_slice(&len.to_le_bytes());
                body.copy_from_slice(next);
                filled += need;
            } else if filled == 0 {
                self.ring.lose(1);
            } else {
                return filled;
            }
            queue.pop_front();
        }
        filled
    }

    /// `bell` is called, on the loop's thread, each time that the receive queue stops being empty; at once when it is not empty
    /// now. It also rings when the flow has ended.
    pub fn on_readable(&self, bell: Box<dyn Fn() + Send>) {
        let ring_now = !lock(&self.ring.to_program).is_empty() || self.is_closed();
        if ring_now {
            bell();
        }
        *lock(&self.ring.bell) = Some(bell);
    }

    /// Largest payload that the path takes now, bytes.
    pub fn max_size(&self) -> usize {
        self.ring.max.load(Ordering::Relaxed)
    }

    /// Datagrams lost at this end, both directions: full queues, too large, closed.
    pub fn dropped(&self) -> u64 {
        self.ring.dropped.load(Ordering::Relaxed)
    }

    /// Whether the flow has ended, from either end. What has arrived can still be received.
    pub fn is_closed(&self) -> bool {
        self.ring.closed.load(Ordering::Acquire)
    }

    /// Ends the flow once what was queued has been sent. The bell rings no more. Again is harmless.
    pub fn close(&self) {
        // Dropped, and not under the lock: whom it calls may be what holds this.
        let bell = lock(&self.ring.bell).take();
        drop(bell);
        if !self.ring.closed.swap(true, Ordering::AcqRel) {
            self.ring.notify();
        }
    }
}

impl Drop for NodeDatagram {
    fn drop(&mut self) {
        self.close();
    }
}

/// Flows whose program end did something, for the loop.
pub(super) type Dirty = Arc<Mutex<VecDeque<FlowId>>>;

pub(super) struct Ring {
    flow: FlowId,
    to_program: Mutex<VecDeque<Vec<u8>>>,
    from_program: Mutex<VecDeque<Vec<u8>>>,
    bell: Mutex<Option<Box<dyn Fn() + Send>>>,
    closed: AtomicBool,
    dropped: AtomicU64,
    /// What all rings of the loop have lost.
    lost: Arc<AtomicU64>,
    max: AtomicUsize,
    /// The loop will look at the path's largest datagram.
    asked: AtomicBool,
    dirty: Dirty,
    wake: Wake,
}

impl Ring {
    pub fn new(flow: FlowId, max: usize, lost: Arc<AtomicU64>, dirty: Dirty, wake: Wake) -> Arc<Self> {
        Arc::new(Ring {
            flow,
            to_program: Mutex::default(),
            from_program: Mutex::default(),
            bell: Mutex::default(),
            closed: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            lost,
            asked: AtomicBool::new(false),
            max: AtomicUsize::new(max),
            dirty,
            wake,
        })
    }

    fn notify(&self) {
        lock(&self.dirty).push_back(self.flow);
        self.wake.wake();
    }

    /// Counts what is dropped here, and by no queue of the machine.
    fn lose(&self, datagrams: u64) {
        self.dropped.fetch_add(datagrams, Ordering::Relaxed);
        self.lost.fetch_add(datagrams, Ordering::Relaxed);
    }

    // ---- the loop's side

    /// A datagram for the program. Dropped and counted when it doesn't keep up.
    pub fn deliver(&self, payload: Vec<u8>) {
        let first = {
            let mut queue = lock(&self.to_program);
            if queue.len() >= QUEUE {
                self.lose(1);
                return;
            }
            queue.push_back(payload);
            queue.len() == 1
        };
        if first {
            self.ring_bell();
        }
    }

    /// All that the program wants sent.
    pub fn take(&self) -> VecDeque<Vec<u8>> {
        std::mem::take(&mut *lock(&self.from_program))
    }

    /// The machine has dropped one, and counted it.
    pub fn count_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
    pub fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
        self.asked.store(false, Ordering::Release);
    }
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
    /// The flow has ended.
    pub fn end(&self) {
        self.closed.store(true, Ordering::Release);
        self.ring_bell();
    }

    fn ring_bell(&self) {
        if let Some(bell) = lock(&self.bell).as_ref() {
            bell();
        }
    }
}
