//! Who may begin a handshake: Retry, and how many a second.

use std::net::SocketAddr;
use std::time::Instant;

use super::Limits;
use crate::bucket::{PrefixBudget, Rate};
use crate::quic::retry::RetryKeys;

/// Prefixes that are watched at once: 64 bytes each makes 4 MB.
const MAX_PREFIXES: usize = 65_536;

/// The Retry keys and the handshake budget of all loops.
pub(super) struct Admission {
    keys: Option<RetryKeys>,
    budget: PrefixBudget,
}

impl Admission {
    pub(super) fn new(limits: &Limits) -> Self {
        let (each, all) = (Rate::each_second(limits.handshakes_per_prefix), Rate::each_second(limits.handshakes));
        Admission { keys: None, budget: PrefixBudget::new(each, all, MAX_PREFIXES) }
    }
    /// `now` in seconds.
    pub(super) fn keys(&mut self, now: u64) -> &mut RetryKeys {
        self.keys.get_or_insert_with(|| RetryKeys::new(now))
    }
    /// Counts a handshake of an address that has proven itself. `false`: too many.
    pub(super) fn admit(&mut self, now: Instant, from: SocketAddr) -> bool {
        self.budget.take(now, from.ip())
    }
}
