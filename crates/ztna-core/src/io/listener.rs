//! Forwards: local ports and unix sockets whose connections become flows to a service.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mio::{Interest, Token};
use rustix::io::Errno;

use super::descriptors;
use super::local::{Entry, Flow, Local, Opener, Source};
use super::ready::Work;
use super::splice::Kind;
use super::sys::{self, listen_error};
use super::timers::Timer;
use crate::error::Error;
use crate::role::{Machine, Open, PathPolicy};
use crate::trust::Protocol;
use crate::wire::password::Password;

/// Connections accepted at one forward in one turn.
const ACCEPTS_PER_TURN: usize = 64;
/// Pause after the system ran out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections of one forward. More wait in the listener's backlog.
const CONNECTIONS: usize = 4_096;

/// One forward, unique in its role's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ForwardId(pub u64);

/// What to forward.
#[derive(Debug, Clone)]
pub struct ForwardSpec {
    pub listen: Listen,
    pub to: Destination,
    pub path: PathPolicy,
    /// For each flow, from its connection until the far end's answer.
    pub timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// `host` is an IP address or `localhost` (127.0.0.1). Port 0: any.
    Address { host: String, port: u16 },
    /// A unix socket, mode 0600. One that a dead process left behind is replaced.
    Unix(PathBuf),
}

#[derive(Debug, Clone)]
pub enum Destination {
    /// One service. `port` `None`: its only port of that protocol.
    Service { service: String, port: Option<u16>, protocol: Protocol },
    /// Whatever service of `zone` a SOCKS5 or HTTP CONNECT client names. Without `credentials` (user name and password) it may
    /// listen on loopback addresses and unix sockets alone.
    Socks5 { zone: String, credentials: Option<(String, Password)> },
}

/// Where a forward listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalAddress {
    Inet(SocketAddr),
    Unix(PathBuf),
}

pub(super) struct Forward {
    pub spec: ForwardSpec,
    /// `None` once closed: it stays while it has connections to count.
    pub end: Option<End>,
    pub connections: usize,
    queued: bool,
}

pub(super) enum End {
    Tcp(TcpListener, Token),
    Unix(UnixListener, Token, SocketFile),
    Udp(usize),
}

/// A bound unix socket's file, by identity: another process may have put its own in the place.
pub(super) struct SocketFile {
    path: PathBuf,
    id: Option<(u64, u64)>,
}

impl Local {
    pub(super) fn forward(&mut self, spec: ForwardSpec) -> Result<(ForwardId, LocalAddress), Error> {
        if self.closing {
            return Err(Error::Closed("the role is closing".into()));
        }
        let id = ForwardId(self.next_flow().0);
        let protocol = match &spec.to {
            Destination::Service { protocol, .. } => *protocol,
            Destination::Socks5 { .. } => Protocol::Tcp,
        };
        let (end, address) = match (&spec.listen, protocol) {
            (_, Protocol::Icmp) => {
                return Err(Error::config("forward", "protocol `icmp` can't be forwarded: tcp or udp"));
            }
            (Listen::Address { host, port }, Protocol::Tcp) => {
                let address = SocketAddr::new(listen_ip(host)?, *port);
                check_open_proxy(&spec.to, address.ip())?;
                let (listener, bound) = bind_tcp(address).map_err(|e| listen_error(&address.to_string(), &e))?;
                let token = self.watch_listener(&listener, id, &address.to_string())?;
                (End::Tcp(listener, token), LocalAddress::Inet(bound))
            }
            (Listen::Address { host, port }, Protocol::Udp) => {
                let address = SocketAddr::new(listen_ip(host)?, *port);
                let (port, bound) = self.forward_port(id, address)?;
                (End::Udp(port), LocalAddress::Inet(bound))
            }
            (Listen::Unix(path), Protocol::Tcp) => {
                let (listener, file) = bind_unix(path)?;
                let token = self.watch_listener(&listener, id, &path.display().to_string())?;
                (End::Unix(listener, token, file), LocalAddress::Unix(path.clone()))
            }
            (Listen::Unix(_), Protocol::Udp) => {
                return Err(Error::config("forward", "a unix socket carries tcp alone: name a host and port for udp"));
            }
        };
        self.forwards.insert(id, Forward { spec, end: Some(end), connections: 0, queued: false });
        Ok((id, address))
    }

    fn watch_listener(&mut self, fd: &impl std::os::fd::AsRawFd, id: ForwardId, at: &str) -> Result<Token, Error> {
        self.register(fd, Source::Listener(id), Interest::READABLE).map_err(|e| listen_error(at, &e))
    }

    /// Stops listening. TCP connections go on to their own end; UDP flows end with their socket.
    pub(super) fn close_forward(&mut self, machine: &mut dyn Machine, id: ForwardId) {
        let Some(forward) = self.forwards.get_mut(&id) else { return };
        match forward.end.take() {
            None => {}
            Some(End::Tcp(listener, token)) => self.unregister(&listener, token),
            Some(End::Unix(listener, token, file)) => {
                self.unregister(&listener, token);
                file.remove();
            }
            Some(End::Udp(port)) => self.close_port(machine, port),
        }
        self.clients_of(machine, id);
        self.tidy_forward(id);
    }

    /// A closed forward is forgotten with its last connection.
    pub(super) fn tidy_forward(&mut self, id: ForwardId) {
        if self.forwards.get(&id).is_some_and(|f| f.end.is_none() && f.connections == 0) {
            self.forwards.remove(&id);
        }
    }

    pub(super) fn want_accept(&mut self, id: ForwardId) {
        if let Some(forward) = self.forwards.get_mut(&id)
            && !std::mem::replace(&mut forward.queued, true)
        {
            self.ready.push(Work::Accept(id), 0);
        }
    }

    /// Takes in waiting connections, a bounded share.
    pub(super) fn accept(&mut self, machine: &mut dyn Machine, now: Instant, id: ForwardId) {
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(forward) = self.forwards.get_mut(&id) else { return };
            forward.queued = false;
            let full = forward.connections >= CONNECTIONS;
            let crowded = match &forward.end {
                Some(End::Tcp(listener, _)) => !descriptors::has_room(listener),
                Some(End::Unix(listener, ..)) => !descriptors::has_room(listener),
                Some(End::Udp(_)) | None => false,
            };
            let accepted = match &forward.end {
                _ if crowded => Err(Errno::MFILE.into()),
                _ if full => Err(ErrorKind::OutOfMemory.into()),
                Some(End::Tcp(listener, _)) => listener.accept().map(|(s, _)| (OwnedFd::from(s), Kind::Tcp)),
                Some(End::Unix(listener, ..)) => listener.accept().map(|(s, _)| (OwnedFd::from(s), Kind::Unix)),
                Some(End::Udp(_)) | None => return,
            };
            match accepted {
                Ok((fd, kind)) => {
                    if sys::prepare(&fd, kind == Kind::Tcp).is_ok() {
                        self.accepted(machine, now, id, fd, kind);
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                // One connection that ended before it was taken in.
                Err(e) if matches!(e.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                // Connections wait in the backlog.
                Err(e) if descriptors::is_exhausted(&e) => {
                    self.timers.set(now + ACCEPT_PAUSE, Timer::Accept(id));
                    let warning = self.descriptors.wait(now);
                    return self.warn(warning);
                }
                Err(_) => return self.timers.set(now + ACCEPT_PAUSE, Timer::Accept(id)),
            }
        }
        self.want_accept(id);
    }

    fn accepted(&mut self, machine: &mut dyn Machine, now: Instant, id: ForwardId, fd: OwnedFd, kind: Kind) {
        let Some(forward) = self.forwards.get_mut(&id) else { return };
        forward.connections += 1;
        let (path, timeout) = (forward.spec.path, forward.spec.timeout);
        match &forward.spec.to {
            Destination::Service { service, port, protocol } => {
                let open = Open {
                    service: service.clone(),
                    port: *port,
                    protocol: *protocol,
                    path,
                    timeout,
                    traceparent: None,
                };
                let flow = self.next_flow();
                self.flows.insert(
                    flow,
                    Entry { flow: Flow::Opening(Opener::Accepted(fd, kind)), forward: Some(id), seat: None },
                );
                machine.open(now, flow, open);
            }
            Destination::Socks5 { .. } => self.new_client(machine, now, id, fd, kind),
        }
    }
}

fn listen_ip(host: &str) -> Result<IpAddr, Error> {
    if host == "localhost" {
        return Ok(Ipv4Addr::LOCALHOST.into());
    }
    host.parse().map_err(|_| {
        Error::config(format!("listen host `{}`", host.escape_debug()), "must be an IP address or `localhost`")
    })
}

/// Whoever reaches an open proxy acts as this agent.
fn check_open_proxy(to: &Destination, ip: IpAddr) -> Result<(), Error> {
    match to {
        Destination::Socks5 { credentials: None, .. } if !ip.is_loopback() => Err(Error::config(
            format!("socks5 listen {ip}"),
            "must be a loopback address unless a user name and password are set",
        )),
        Destination::Socks5 { .. } | Destination::Service { .. } => Ok(()),
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    // A port in TIME-WAIT may be bound again at once; one in use may not.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(1_024)?;
    socket.set_nonblocking(true)?;
    let listener = TcpListener::from(socket);
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

fn bind_unix(path: &Path) -> Result<(UnixListener, SocketFile), Error> {
    let failed = |e: io::Error| listen_error(&path.display().to_string(), &e);
    match std::fs::symlink_metadata(path) {
        Err(_) => {}
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(Error::config(format!("listen {}", path.display()), "is there already and is not a socket"));
        }
        Ok(_) => match UnixStream::connect(path) {
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => std::fs::remove_file(path).map_err(failed)?,
            Ok(_) | Err(_) => {
                return Err(Error::config(format!("listen {}", path.display()), "another process listens there"));
            }
        },
    }
    let bind = || -> io::Result<(UnixListener, SocketFile)> {
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
        // On Linux the file is made with the socket's own mode, so that it is never wider, not for a moment.
        #[cfg(target_os = "linux")]
        rustix::fs::fchmod(&socket, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
        socket.bind(&socket2::SockAddr::unix(path)?)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        socket.listen(1_024)?;
        socket.set_nonblocking(true)?;
        let id = std::fs::symlink_metadata(path).ok().map(|m| (m.dev(), m.ino()));
        Ok((UnixListener::from(OwnedFd::from(socket)), SocketFile { path: path.to_owned(), id }))
    };
    bind().map_err(failed)
}

impl SocketFile {
    fn remove(&self) {
        let now = std::fs::symlink_metadata(&self.path).ok().map(|m| (m.dev(), m.ino()));
        if now.is_some() && now == self.id {
            // Gone already is as good.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
