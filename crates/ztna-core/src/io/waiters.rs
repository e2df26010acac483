//! What the embedding program waits for on a loop: asked there now and then, without a thread of its own.

use std::time::{Duration, Instant};

use super::driver::Driver;
use super::timers::Timer;
use crate::role::Machine;

/// How often a waiter is asked: as late as a program may learn that what it waits for has come.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// Says whether what is waited for has come. It hears whether its time is over: it is then asked no more, whatever it says. It runs on
/// the loop's thread and must not wait.
pub type Waiter<M> = Box<dyn FnMut(&mut Driver<M>, bool) -> bool + Send>;

/// The waiters of one loop, and the time that each has.
pub(super) type Waiters<M> = Vec<(Instant, Waiter<M>)>;

impl<M: Machine + 'static> Driver<M> {
    /// Has `waiter` asked now, and from then on every 50 ms until it says yes, its time is over or the loop ends.
    pub fn wait_for(&mut self, until: Instant, waiter: Waiter<M>) {
        self.waiters.push((until, waiter));
        self.ask_waiters(false);
    }

    /// `ending`: their time is over.
    pub(super) fn ask_waiters(&mut self, ending: bool) {
        for (until, mut waiter) in std::mem::take(&mut self.waiters) {
            let over = ending || self.now() >= until;
            if !waiter(self, over) && !over {
                self.waiters.push((until, waiter));
            }
        }
        if !self.waiters.is_empty() {
            self.local.timers.set_once(self.now() + ASK_EVERY, Timer::Waiters);
        }
    }
}
