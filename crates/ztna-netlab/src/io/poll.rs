//! Waiting for descriptors.

use std::io::ErrorKind;
use std::os::fd::RawFd;
use std::time::Duration;

use super::check;
use crate::{Error, Result};

/// Descriptors to wait for, and which of them were readable last.
pub struct Poll {
    polled: Vec<libc::pollfd>,
}

impl Poll {
    /// Waits for these, which the caller keeps open.
    pub fn new(fds: impl IntoIterator<Item = RawFd>) -> Self {
        Self { polled: fds.into_iter().map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect() }
    }

    /// Until one is readable or the time is over, for ever with `None`; a signal ends it too.
    pub fn wait(&mut self, wait: Option<Duration>) -> Result<()> {
        let wait = wait.map(|wait| libc::timespec {
            tv_sec: wait.as_secs().min(3600) as libc::time_t,
            tv_nsec: wait.subsec_nanos().into(),
        });
        let timeout = wait.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        let count = self.polled.len() as libc::nfds_t;
        // SAFETY: the array, its length and the timeout outlive the call; a null timeout and mask are allowed.
        let result = unsafe { libc::ppoll(self.polled.as_mut_ptr(), count, timeout, std::ptr::null()) };
        match check("ppoll", result) {
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::Interrupted => {
                self.polled.iter_mut().for_each(|fd| fd.revents = 0);
                Ok(())
            }
            outcome => outcome.map(drop),
        }
    }

    /// Whether the descriptor at this place in the list was readable, or has failed.
    pub fn is_ready(&self, index: usize) -> bool {
        self.polled.get(index).is_some_and(|fd| fd.revents != 0)
    }
}

/// Without this the kernel may round every sleep up by 50 µs.
pub fn sleep_exactly() -> Result<()> {
    // SAFETY: no pointers.
    check("prctl", unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) }).map(drop)
}
