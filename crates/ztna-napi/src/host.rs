//! What the command line needs of the host: trust folders, peer credentials, systemd.

use std::io;
use std::os::fd::BorrowedFd;
#[cfg(target_os = "linux")]
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::SystemTime;

use napi::Result;
use napi_derive::napi;
use ztna_core::error::Error;
use ztna_core::io::pki_folder;

use crate::dto;

/// `ztna pki`: a command and its options as JSON, its report as JSON.
#[napi(catch_unwind)]
pub fn pki(command: String, json: String) -> Result<String> {
    pki_folder::run(&command, &json, SystemTime::now()).map_err(|e| dto::throw(&e))
}

/// `ztna policy check`.
#[napi(catch_unwind)]
pub fn policy_check(json: String) -> Result<String> {
    pki_folder::run("policy-check", &json, SystemTime::now()).map_err(|e| dto::throw(&e))
}

/// The user ID of the process at the other end of a unix socket.
#[napi(catch_unwind)]
pub fn peer_uid(fd: i32) -> Result<u32> {
    let not_accepted =
        || dto::throw(&Error::config("fd", format!("{fd} is no descriptor of a unix socket that is open")));
    if fd < 0 {
        return Err(not_accepted());
    }
    // SAFETY: the descriptor is borrowed for this call only; one that is not open gives an error.
    #[allow(unsafe_code, reason = "Node gives a descriptor as a number")]
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    peer_user(borrowed).map_err(|e| match e.kind() {
        io::ErrorKind::PermissionDenied => dto::throw(&Error::Permission(format!("peer credentials: {e}"))),
        // The system tells a file, a closed one and a socket of another family by different errors.
        _ => not_accepted(),
    })
}

#[cfg(target_os = "linux")]
fn peer_user(fd: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(rustix::net::sockopt::socket_peercred(fd)?.uid.as_raw())
}

#[cfg(not(target_os = "linux"))]
fn peer_user(fd: BorrowedFd<'_>) -> io::Result<u32> {
    use std::os::fd::AsRawFd;
    let (mut uid, mut gid) = (0, 0);
    // SAFETY: getpeereid(3) writes the two integers that it is given.
    #[allow(unsafe_code, reason = "the standard library has no stable call for it")]
    let result = unsafe { libc::getpeereid(fd.as_raw_fd(), &raw mut uid, &raw mut gid) };
    if result == 0 { Ok(uid) } else { Err(io::Error::last_os_error()) }
}

/// Tells systemd `state` (sd_notify(3)). `false` where `$NOTIFY_SOCKET` is not set.
#[napi(catch_unwind)]
pub fn sd_notify(state: String) -> Result<bool> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(false) };
    let failed = |e: io::Error| dto::throw(&Error::Permission(format!("NOTIFY_SOCKET: {e}")));
    let address = notify_address(&path.to_string_lossy()).map_err(failed)?;
    let socket = UnixDatagram::unbound().map_err(failed)?;
    socket.send_to_addr(state.as_bytes(), &address).map_err(failed)?;
    Ok(true)
}

/// A path, or an abstract name behind `@`.
fn notify_address(text: &str) -> io::Result<SocketAddr> {
    #[cfg(target_os = "linux")]
    if let Some(name) = text.strip_prefix('@') {
        return SocketAddr::from_abstract_name(name.as_bytes());
    }
    SocketAddr::from_pathname(text)
}

#[napi(catch_unwind)]
pub fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}
