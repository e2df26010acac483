//! Events that found no room on their way to JavaScript: how many, and when to say so.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::events::lock;

/// They are warned of at most this often.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// All loops of a role add to the same count.
#[derive(Debug, Default)]
pub struct Lost {
    total: AtomicU64,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    total: u64,
    at: Option<Instant>,
}

impl Lost {
    pub fn one_more(&self) {
        self.total.fetch_add(1, Ordering::Relaxed);
    }

    /// All since the role came to be.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Has `say` tell how many were lost since it last did, where it is time for that; what it could not say is said later.
    pub fn tell(&self, say: impl FnOnce(u64) -> bool) {
        let total = self.total();
        // The usual case, for each event.
        if total == 0 {
            return;
        }
        let mut told = lock(&self.told);
        let (now, new) = (Instant::now(), total.saturating_sub(told.total));
        if new > 0 && told.at.is_none_or(|at| now.saturating_duration_since(at) >= WARN_EVERY) && say(new) {
            *told = Told { total, at: Some(now) };
        }
    }
}
