//! Doing something inside another network namespace.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use super::check;
use crate::{Error, Result};

/// Runs `work` on a thread of its own that has entered `netns`; this thread stays where it is.
///
/// `netns` is a name of `ip netns`, an absolute path, or `-` for the namespace of this process.
pub fn inside<T: Send>(netns: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let namespace = match netns {
        "-" => None,
        name => {
            // An absolute path replaces the folder.
            let path = PathBuf::from("/run/netns").join(name);
            Some(File::open(&path).map_err(|error| Error::io(format!("network namespace {}", path.display()), error))?)
        }
    };
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            if let Some(namespace) = namespace {
                // SAFETY: the descriptor is open for the length of the call; only this thread changes its namespace.
                check("setns", unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) })?;
            }
            work()
        });
        thread
            .join()
            .unwrap_or_else(|_| Err(Error::io("namespace thread", std::io::Error::other("ended unexpectedly"))))
    })
}
