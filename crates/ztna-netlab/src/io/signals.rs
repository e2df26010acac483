//! SIGTERM and SIGINT as a descriptor.

use std::os::fd::{FromRawFd, OwnedFd};

use super::check;
use crate::Result;

/// Blocks both signals for this process's later threads too, and returns a descriptor that becomes readable when one comes.
pub fn termination() -> Result<OwnedFd> {
    // SAFETY: `set` is plain data that sigemptyset initialises before it is read; the returned descriptor is new and ours.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGTERM);
        libc::sigaddset(&mut set, libc::SIGINT);
        check("sigprocmask", libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()))?;
        let fd = check("signalfd", libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}
