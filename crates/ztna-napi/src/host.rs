//! What the command line needs of the host: trust folders, peer credentials, systemd.

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
    // SAFETY: the descriptor is borrowed for this call only; one that is not open gives an error.
    #[allow(unsafe_code, reason = "Node gives a descriptor as a number")]
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    let cred = rustix::net::sockopt::socket_peercred(fd)
        .map_err(|e| dto::throw(&Error::Permission(format!("peer credentials: {e}"))))?;
    Ok(cred.uid.as_raw())
}

/// Tells systemd `state` (sd_notify(3)). `false` where `$NOTIFY_SOCKET` is not set.
#[napi(catch_unwind)]
pub fn sd_notify(state: String) -> Result<bool> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(false) };
    let failed = |e: std::io::Error| dto::throw(&Error::Permission(format!("NOTIFY_SOCKET: {e}")));
    let text = path.to_string_lossy().into_owned();
    let address = match text.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name.as_bytes()),
        None => SocketAddr::from_pathname(&text),
    };
    let socket = UnixDatagram::unbound().map_err(failed)?;
    socket.send_to_addr(state.as_bytes(), &address.map_err(failed)?).map_err(failed)?;
    Ok(true)
}

#[napi(catch_unwind)]
pub fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}
