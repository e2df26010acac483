//! Devices, namespaces, the terminal and the clock. The only room with `unsafe`.
//!
//! [`live`] runs a network within the process that it is for, and needs nothing of the rest, which is Linux's.
#![allow(unsafe_code, reason = "namespaces, tun devices and signals are system calls without a safe wrapper here")]

pub mod live;
#[cfg(target_os = "linux")]
mod net;
#[cfg(target_os = "linux")]
mod netns;
#[cfg(target_os = "linux")]
mod poll;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
mod signals;
#[cfg(target_os = "linux")]
mod terminal;
#[cfg(target_os = "linux")]
mod tun;

#[cfg(target_os = "linux")]
pub use net::run_net;
#[cfg(target_os = "linux")]
pub use run::run;

/// Packets taken from one device before the others have their turn: short enough to keep the delays of all exact.
#[cfg(target_os = "linux")]
const BATCH: usize = 64;

/// IPv6 to a multicast address: the kernel's own chatter (router solicitations, multicast listeners) is no traffic of a test's.
#[cfg(target_os = "linux")]
fn is_link_chatter(packet: &[u8]) -> bool {
    packet.first().is_some_and(|first| first >> 4 == 6) && packet.get(24) == Some(&0xff)
}

/// Turns the usual -1 of a system call into the error that `errno` holds.
#[cfg(target_os = "linux")]
fn check(what: &str, result: libc::c_int) -> crate::Result<libc::c_int> {
    if result < 0 { Err(crate::Error::io(what, std::io::Error::last_os_error())) } else { Ok(result) }
}
