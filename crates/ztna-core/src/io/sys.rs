//! System calls on stream descriptors that differ between systems or need care, and the errors they map to.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use super::descriptors;
use crate::error::Error;

/// Socket buffer of a descriptor pair handed to the embedding program, bytes. Larger ones did not raise throughput.
const PAIR_BUFFER: usize = 512 * 1024;

/// Reads into `out`; interrupted calls are repeated.
pub(super) fn read(fd: &OwnedFd, out: &mut [u8]) -> Result<usize, Errno> {
    loop {
        match recv(fd, &mut *out, RecvFlags::empty()) {
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
            Ok((n, _)) => return Ok(n),
        }
    }
}

/// Writes without ever raising SIGPIPE.
pub(super) fn write(fd: &OwnedFd, data: &[u8]) -> Result<usize, Errno> {
    #[cfg(not(target_vendor = "apple"))]
    let flags = SendFlags::NOSIGNAL;
    #[cfg(target_vendor = "apple")]
    let flags = SendFlags::empty();
    loop {
        match send(fd, data, flags) {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// No more bytes will be written: the peer reads its end.
pub(super) fn end_writing(fd: &OwnedFd) {
    let _ = shutdown(fd, Shutdown::Write);
}

/// No more bytes will be read. A unix peer's writes fail from now on.
pub(super) fn end_reading(fd: &OwnedFd) {
    let _ = shutdown(fd, Shutdown::Read);
}

/// Makes the coming close of a TCP socket a RST. Other sockets have no such thing and just close.
pub(super) fn reset_on_close(fd: &OwnedFd) {
    let _ = socket2::SockRef::from(fd).set_linger(Some(Duration::ZERO));
}

/// Makes `fd` non-blocking and, where it is TCP, sends small writes at once.
pub(super) fn prepare(fd: &OwnedFd, tcp: bool) -> io::Result<()> {
    let socket = socket2::SockRef::from(fd);
    socket.set_nonblocking(true)?;
    if tcp {
        // A reset that overtakes this only shows at the first read.
        let _ = socket.set_tcp_nodelay(true);
    }
    no_sigpipe(fd);
    Ok(())
}

/// Systems without MSG_NOSIGNAL have an option instead.
fn no_sigpipe(_fd: &OwnedFd) {
    #[cfg(target_vendor = "apple")]
    let _ = rustix::net::sockopt::set_socket_nosigpipe(_fd, true);
}

/// A pair of connected stream sockets: the loop's end (non-blocking) and the program's end.
pub(super) fn pair() -> Result<(OwnedFd, OwnedFd), Error> {
    let make = || -> io::Result<(OwnedFd, OwnedFd)> {
        let (ours, theirs) = socket2::Socket::pair(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
        let (ours, theirs) = (descriptors::keep(ours)?, descriptors::keep(theirs)?);
        for end in [&ours, &theirs] {
            let _ = end.set_send_buffer_size(PAIR_BUFFER);
            let _ = end.set_recv_buffer_size(PAIR_BUFFER);
            end.set_nonblocking(true)?;
        }
        let (ours, theirs) = (OwnedFd::from(ours), OwnedFd::from(theirs));
        no_sigpipe(&ours);
        Ok((ours, theirs))
    };
    make().map_err(|e| {
        if descriptors::is_exhausted(&e) {
            return descriptors::exhausted();
        }
        Error::Limit(format!("no socket pair for a flow: {e}"))
    })
}

/// The error that a socket has met, taken off it.
pub(super) fn take_error(fd: &OwnedFd) -> Option<io::Error> {
    match rustix::net::sockopt::socket_error(fd.as_fd()) {
        Ok(Ok(())) => None,
        Ok(Err(e)) | Err(e) => Some(e.into()),
    }
}

/// The error of a connect to `target` that nobody answers.
pub(super) fn no_answer(target: &str) -> Error {
    Error::Timeout(format!("{target} did not answer: is its host up, and does a firewall drop packets to it?"))
}

/// What a failed connect to `target` says about it.
pub(super) fn dial_error(target: &str, error: &io::Error) -> Error {
    match Errno::from_io_error(error) {
        Some(Errno::CONNREFUSED) => Error::Refused(format!("{target} refused the connection: is the service running?")),
        Some(Errno::NOENT) => Error::Refused(format!("{target} does not exist: is the service running?")),
        Some(Errno::CONNRESET) => Error::Refused(format!("{target}: {error}")),
        Some(Errno::TIMEDOUT) => no_answer(target),
        Some(Errno::ACCESS | Errno::PERM) => Error::Permission(format!("{target}: {error}")),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => Error::Limit(format!("{target}: {error}")),
        Some(_) | None => Error::unreachable(format!("{target}: {error}")),
    }
}

/// What a failed bind says to the operator who asked for it.
pub(super) fn listen_error(at: &str, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Error::Permission(format!("listen {at}: {error}")),
        _ if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => Error::config(
            format!("listen {at}"),
            format!("{error}: this host lacks it; name addresses of the other alone"),
        ),
        _ => Error::config(format!("listen {at}"), error.to_string()),
    }
}
