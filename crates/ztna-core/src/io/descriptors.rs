//! How many file descriptors flows may take: a flow too many is refused while the trust folder, DNS and the control socket still
//! have theirs.
//!
//! Nothing is counted for the whole process: a new descriptor gets the lowest free number (POSIX, "File Descriptor Allocation"),
//! so one at or above a bound says that all below it are taken, whoever in the process took them.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use crate::error::Error;
use crate::id::SpiffeId;

/// Descriptors that flows leave to the rest of the process: a sixteenth of its limit, within these. The trust folder takes one at
/// a time, DNS and the control socket a few, the embedding program its own.
const RESERVE: (u64, u64) = (64, 1_024);
/// A warning of one kind is given at most this often.
const WARN_EVERY: Duration = Duration::from_secs(10);
/// Identities whose seats are kept without looking for those that have none left.
const TIDY: usize = 64;

/// The process' limit now. It may be changed while the process runs.
fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

fn reserve_of(limit: u64) -> u64 {
    (limit / 16).clamp(RESERVE.0, RESERVE.1).min(limit / 2)
}

/// The lowest number that no flow's descriptor has.
fn ceiling() -> u64 {
    let limit = limit();
    limit - reserve_of(limit)
}

fn is_below(fd: &impl AsRawFd, ceiling: u64) -> bool {
    u64::try_from(fd.as_raw_fd()).is_ok_and(|n| n < ceiling)
}

/// Keeps a descriptor that was just made for a flow. Errors: `EMFILE` when it came from the reserve; it is closed.
pub(super) fn keep<T: AsRawFd>(fd: T) -> io::Result<T> {
    if is_below(&fd, ceiling()) { Ok(fd) } else { Err(Errno::MFILE.into()) }
}

/// As [`keep`] for what can be done without: only while half of the flows' descriptors are free.
pub(super) fn keep_spare<T: AsRawFd>(fd: T) -> io::Result<T> {
    if is_below(&fd, ceiling() / 2) { Ok(fd) } else { Err(Errno::MFILE.into()) }
}

/// Whether one more descriptor would be kept: for what can wait where it is, such as a connection in a listener's backlog.
pub(super) fn has_room(any: &impl AsFd) -> bool {
    rustix::io::fcntl_dupfd_cloexec(any, 0).is_ok_and(|fd| is_below(&fd, ceiling()))
}

/// Whether `error` says that there is no descriptor left.
pub(super) fn is_exhausted(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// What one who is refused hears, and the operator.
pub(super) fn exhausted() -> Error {
    let limit = limit();
    Error::Limit(format!(
        "no file descriptor is left for another flow: the process may open {limit} and flows leave {} of them to the rest; raise LimitNOFILE= (systemd) or ulimit -n",
        reserve_of(limit)
    ))
}

/// A flow's place among those of its peer. Dropped with the flow.
#[derive(Debug)]
pub(super) struct Seat {
    _seats: [Option<Arc<()>>; 2],
}

/// Refusals of one kind.
#[derive(Debug, Default)]
struct Told {
    at: Option<Instant>,
    untold: u64,
}

impl Told {
    /// `Some(n)`: it is time to speak, of `n` cases.
    fn one_more(&mut self, now: Instant) -> Option<u64> {
        self.untold += 1;
        if self.at.is_some_and(|at| now < at + WARN_EVERY) {
            return None;
        }
        self.at = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

/// A loop's account of what its flows' peers hold.
#[derive(Debug)]
pub(super) struct Descriptors {
    /// What the process had open before the loop had a flow.
    others: u64,
    /// As many references beyond the first as the peer's flows hold descriptors.
    seats: BTreeMap<SpiffeId, Arc<()>>,
    tidy_at: usize,
    /// Flows that were refused for want of a descriptor, or of a share in them.
    pub refused: u64,
    told: Told,
    told_share: Told,
}

/// Why a flow gets no descriptor.
#[derive(Debug)]
pub(super) struct NoSeat {
    /// `Limit`.
    pub why: Error,
    /// To be given now.
    pub warning: Option<Error>,
}

impl Descriptors {
    pub fn new() -> Self {
        // Where the system does not tell: what a Node process has open at its start.
        let others = std::fs::read_dir("/proc/self/fd").map_or(32, |all| all.count() as u64);
        Descriptors {
            others,
            seats: BTreeMap::new(),
            tidy_at: TIDY,
            refused: 0,
            told: Told::default(),
            told_share: Told::default(),
        }
    }

    /// What one peer's flows may hold: half of what there is for flows.
    fn share(&self) -> usize {
        usize::try_from(ceiling().saturating_sub(self.others) / 2).unwrap_or(usize::MAX).max(1)
    }

    /// A seat for a flow of `peer` that takes one descriptor or, `double`, two.
    pub fn seat(&mut self, now: Instant, peer: &SpiffeId, double: bool) -> Result<Seat, Box<NoSeat>> {
        let share = self.share();
        if self.seats.len() >= self.tidy_at {
            self.seats.retain(|_, seats| Arc::strong_count(seats) > 1);
            self.tidy_at = self.seats.len() * 2 + TIDY;
        }
        let seats = self.seats.entry(peer.clone()).or_default();
        if Arc::strong_count(seats) - 1 + usize::from(double) < share {
            return Ok(Seat { _seats: [Some(seats.clone()), double.then(|| seats.clone())] });
        }
        let why = Error::Limit(format!(
            "{peer} holds {} descriptors by its flows, and one identity may hold half of those that there are for flows, {share}; close some, or raise LimitNOFILE= (systemd) or ulimit -n there",
            Arc::strong_count(seats) - 1
        ));
        self.refused += 1;
        let warning =
            self.told_share.one_more(now).map(|n| Error::Limit(format!("{n} flows refused: {}", why.detail())));
        Err(Box::new(NoSeat { why, warning }))
    }

    /// Counts a flow that was refused for want of a descriptor. Gives a warning at most every 10 s.
    pub fn refuse(&mut self, now: Instant) -> Option<Error> {
        self.refused += 1;
        self.told.one_more(now).map(|n| Error::Limit(format!("{n} flows refused: {}", exhausted().detail())))
    }

    /// As [`refuse`](Self::refuse) for connections that wait in a backlog: nothing is refused.
    pub fn wait(&mut self, now: Instant) -> Option<Error> {
        self.told
            .one_more(now)
            .map(|_| Error::Limit(format!("connections wait at a forward: {}", exhausted().detail())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_gets_half_of_the_descriptors_and_another_the_other_half() {
        let (mut d, now) = (Descriptors::new(), Instant::now());
        let share = d.share();
        let [a, b] = ["a", "b"].map(|n| format!("spiffe://example.test/agent/{n}").parse::<SpiffeId>().unwrap());
        let mut held: Vec<Seat> = (0..share).map(|_| d.seat(now, &a, false).unwrap()).collect();
        assert!(d.seat(now, &a, false).is_err());
        assert!(d.seat(now, &b, true).is_ok());
        held.pop();
        assert!(d.seat(now, &a, true).is_err());
        assert!(d.seat(now, &a, false).is_ok());
        assert_eq!(d.refused, 2);
    }

    #[test]
    fn refusals_are_warned_of_once_in_ten_seconds_with_their_number() {
        let (mut d, now) = (Descriptors::new(), Instant::now());
        assert!(d.refuse(now).unwrap().to_string().contains("1 flows refused"));
        assert!(d.refuse(now).is_none());
        let text = d.refuse(now + WARN_EVERY).unwrap().to_string();
        assert!(text.contains("2 flows refused") && text.contains("LimitNOFILE"), "{text}");
    }

    #[test]
    fn a_reserve_is_left_at_any_limit() {
        assert_eq!([40, 256, 5_000, 1 << 20].map(reserve_of), [20, 64, 312, 1_024]);
    }
}
