//! Devices, namespaces, the terminal and the clock. The only room with `unsafe`.
#![allow(unsafe_code, reason = "namespaces, tun devices and signals are system calls without a safe wrapper here")]

mod netns;
mod run;
mod signals;
mod tun;

pub use run::run;

/// Turns the usual -1 of a system call into the error that `errno` holds.
fn check(what: &str, result: libc::c_int) -> crate::Result<libc::c_int> {
    if result < 0 { Err(crate::Error::io(what, std::io::Error::last_os_error())) } else { Ok(result) }
}
