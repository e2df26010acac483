//! SOCKS5 and HTTP CONNECT clients of one local port, until they are flows. The first byte tells which they are.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use mio::Token;
use rustix::io::Errno;

use super::listener::{Destination, ForwardId};
use super::local::{Entry, Flow, Local, Opener, STREAM, Source};
use super::splice::{Kind, Splice};
use super::sys;
use super::timers::Timer;
use crate::error::Error;
use crate::id::FlowId;
use crate::role::{Machine, Open, PathPolicy};
use crate::trust::Protocol;
use crate::wire::http_connect::{self, Status};
use crate::wire::password::Password;
use crate::wire::socks5::{self, Address, Command, Method, Reply};

/// From the connection to a whole request.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Time for a refused client to read why, before the connection is gone.
const LINGER: Duration = Duration::from_secs(1);
/// Clients that are not flows yet, associations included, of all forwards. Memory: 16 KB each at most.
const CLIENTS: usize = 1_024;
/// Bytes of one client that are held: the longest request head and as much of what it sends early.
const INPUT: usize = 2 * http_connect::HEAD_MAX;
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

pub(super) struct Client {
    fd: OwnedFd,
    kind: Kind,
    token: Token,
    forward: ForwardId,
    input: Vec<u8>,
    state: State,
    deadline: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing is known but perhaps the first bytes.
    First,
    /// SOCKS: user name and password are due.
    Authenticate,
    /// SOCKS: the request is due.
    Request,
    Opening(Language),
    /// SOCKS: the connection stands for a UDP port and ends with it.
    Associated {
        port: usize,
    },
    /// Refused; the reason is on its way.
    Closing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Language {
    Socks,
    Http,
}

/// What a step came to.
enum Step {
    /// More bytes are needed.
    Wait,
    /// Look at the next message.
    Next(State),
    /// Answer and close.
    Refuse,
    Open(Language, String, u16),
    Associate(Option<u16>),
    Close,
}

impl Local {
    pub(super) fn new_client(
        &mut self,
        machine: &mut dyn Machine,
        now: Instant,
        forward: ForwardId,
        fd: OwnedFd,
        kind: Kind,
    ) {
        let index = self.clients.vacant_key();
        let token =
            if self.clients.len() < CLIENTS { self.register(&fd, Source::Client(index), STREAM).ok() } else { None };
        let Some(token) = token else {
            sys::reset_on_close(&fd);
            return self.uncount(Some(forward));
        };
        let deadline = now + HANDSHAKE;
        self.timers.set(deadline, Timer::Handshake(index));
        self.clients.insert(Client { fd, kind, token, forward, input: Vec::new(), state: State::First, deadline });
        self.client_event(machine, now, index);
    }

    /// The client's descriptor has something to say.
    pub(super) fn client_event(&mut self, machine: &mut dyn Machine, now: Instant, index: usize) {
        let Some(client) = self.clients.get_mut(index) else { return };
        let keep = match client.state {
            State::First | State::Authenticate | State::Request => true,
            // What it sends before the answer waits in its socket.
            State::Opening(_) => return,
            State::Associated { .. } | State::Closing => false,
        };
        let mut chunk = [0u8; 4_096];
        let mut ended = false;
        loop {
            match sys::read(&client.fd, &mut chunk) {
                Ok(0) => {
                    ended = true;
                    break;
                }
                Ok(n) if keep => {
                    client.input.extend_from_slice(chunk.get(..n).unwrap_or_default());
                    if client.input.len() >= INPUT {
                        break;
                    }
                }
                Ok(_) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => return self.drop_client(machine, index),
            }
        }
        if keep {
            self.advance(machine, now, index);
        }
        // A client may end its direction right behind its request; the flow will see that end again.
        let whole = |c: &Client| matches!(c.state, State::Opening(_)) || (keep && c.state == State::Closing);
        if ended && self.clients.get(index).is_some_and(|c| !whole(c)) {
            self.drop_client(machine, index);
        }
    }

    /// Reads message after message.
    fn advance(&mut self, machine: &mut dyn Machine, now: Instant, index: usize) {
        loop {
            let Some(client) = self.clients.get_mut(index) else { return };
            let Some(forward) = self.forwards.get(&client.forward) else { return };
            let Destination::Socks5 { zone, credentials } = &forward.spec.to else { return };
            let (path, timeout) = (forward.spec.path, forward.spec.timeout);
            let mut out = Vec::new();
            let step = step(client, zone, credentials.as_ref(), &mut out);
            if !out.is_empty() && sys::write(&client.fd, &out) != Ok(out.len()) {
                return self.drop_client(machine, index);
            }
            match step {
                Step::Wait if client.input.len() < INPUT => return,
                Step::Wait | Step::Close => return self.drop_client(machine, index),
                Step::Next(state) => client.state = state,
                Step::Refuse => return self.linger(now, index),
                Step::Open(language, service, port) => {
                    client.state = State::Opening(language);
                    let before = client.deadline;
                    self.timers.clear(before, Timer::Handshake(index));
                    return self.open_for_client(machine, now, index, service, port, path, timeout);
                }
                Step::Associate(from_port) => return self.associate(machine, now, index, from_port),
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "each is one field of the request")]
    fn open_for_client(
        &mut self,
        machine: &mut dyn Machine,
        now: Instant,
        index: usize,
        service: String,
        port: u16,
        path: PathPolicy,
        timeout: Duration,
    ) {
        let flow = self.next_flow();
        // Counted at its forward as a client until it is a flow.
        self.flows.insert(flow, Entry { flow: Flow::Opening(Opener::Client(index)), forward: None, seat: None });
        machine.open(
            now,
            flow,
            Open { service, port: Some(port), protocol: Protocol::Tcp, path, timeout, traceparent: None },
        );
    }

    fn associate(&mut self, machine: &mut dyn Machine, now: Instant, index: usize, from_port: Option<u16>) {
        let Some(client) = self.clients.get(index) else { return };
        let socket = socket2::SockRef::from(&client.fd);
        let ends =
            (socket.local_addr().ok().and_then(|a| a.as_socket()), socket.peer_addr().ok().and_then(|a| a.as_socket()));
        let forward = client.forward;
        let mut out = Vec::new();
        let (state, before) = match ends {
            (Some(local), Some(peer)) => {
                match self.socks_port(forward, local.ip(), (peer.ip(), from_port.unwrap_or(0)).into()) {
                    Ok((port, bound)) => {
                        socks5::reply(Reply::Succeeded, bound, &mut out);
                        (Some(State::Associated { port }), self.clients.get(index).map(|c| c.deadline))
                    }
                    Err(_) => {
                        socks5::reply(Reply::GeneralFailure, NOWHERE, &mut out);
                        (None, None)
                    }
                }
            }
            // On a unix socket there is no address to send datagrams to.
            _ => {
                socks5::reply(Reply::CommandNotSupported, NOWHERE, &mut out);
                (None, None)
            }
        };
        if let Some(before) = before {
            self.timers.clear(before, Timer::Handshake(index));
        }
        let Some(client) = self.clients.get_mut(index) else { return };
        if let Some(state) = state {
            client.state = state;
        }
        if sys::write(&client.fd, &out) != Ok(out.len()) {
            return self.drop_client(machine, index);
        }
        if state.is_none() {
            self.linger(now, index);
        }
    }

    /// The far end said yes: the client becomes a flow.
    pub(super) fn client_opened(&mut self, machine: &mut dyn Machine, flow: FlowId, index: usize) {
        let Some(client) = self.clients.try_remove(index) else { return machine.stream_reset(flow) };
        self.unregister(&client.fd, client.token);
        let mut out = Vec::new();
        if client.state == State::Opening(Language::Http) {
            http_connect::response(Status::Established, None, &mut out);
        } else {
            socks5::reply(Reply::Succeeded, NOWHERE, &mut out);
        }
        let forward = Some(client.forward);
        if self.start_splice(flow, Splice::new(client.fd, client.kind, client.input, out), forward).is_err() {
            machine.stream_reset(flow);
            self.uncount(forward);
        }
    }

    /// The far end, or our own policy, said no.
    pub(super) fn client_refused(&mut self, machine: &mut dyn Machine, now: Instant, index: usize, error: &Error) {
        let Some(client) = self.clients.get_mut(index) else { return };
        let mut out = Vec::new();
        if client.state == State::Opening(Language::Http) {
            http_connect::refusal(status_of(error), &error.to_string(), &mut out);
        } else {
            socks5::reply(reply_of(error), NOWHERE, &mut out);
        }
        if sys::write(&client.fd, &out) != Ok(out.len()) {
            return self.drop_client(machine, index);
        }
        self.linger(now, index);
    }

    /// Ends our direction and waits for the client to read it: closing at once would be a RST that overtakes the answer.
    fn linger(&mut self, now: Instant, index: usize) {
        let Some(client) = self.clients.get_mut(index) else { return };
        sys::end_writing(&client.fd);
        self.timers.clear(client.deadline, Timer::Handshake(index));
        client.state = State::Closing;
        client.input = Vec::new();
        client.deadline = now + LINGER;
        self.timers.set(client.deadline, Timer::Handshake(index));
    }

    pub(super) fn client_timeout(&mut self, machine: &mut dyn Machine, now: Instant, index: usize) {
        if self.clients.get(index).is_some_and(|c| c.deadline <= now) {
            self.drop_client(machine, index);
        }
    }

    fn drop_client(&mut self, machine: &mut dyn Machine, index: usize) {
        let Some(client) = self.clients.try_remove(index) else { return };
        self.timers.clear(client.deadline, Timer::Handshake(index));
        self.unregister(&client.fd, client.token);
        if let State::Associated { port } = client.state {
            self.close_port(machine, port);
        }
        self.uncount(Some(client.forward));
    }

    /// A forward closes: its clients that are not flows, nor about to be, go with it.
    pub(super) fn clients_of(&mut self, machine: &mut dyn Machine, forward: ForwardId) {
        let theirs = |c: &Client| c.forward == forward && !matches!(c.state, State::Opening(_));
        let indexes: Vec<usize> = self.clients.iter().filter(|(_, c)| theirs(c)).map(|(i, _)| i).collect();
        for index in indexes {
            self.drop_client(machine, index);
        }
    }
}

fn step(client: &mut Client, zone: &str, credentials: Option<&(String, Password)>, out: &mut Vec<u8>) -> Step {
    let Some(first) = client.input.first().copied() else { return Step::Wait };
    match client.state {
        State::First if http_connect::is_http(first) => step_http(client, zone, credentials, out),
        State::First => match socks5::parse_greeting(&client.input) {
            Ok(None) => Step::Wait,
            Err(_) => Step::Close,
            Ok(Some((greeting, used))) => {
                client.input.drain(..used);
                let (method, next) = match credentials {
                    Some(_) if greeting.username_password => {
                        (Method::UsernamePassword, Step::Next(State::Authenticate))
                    }
                    None if greeting.no_auth => (Method::NoAuth, Step::Next(State::Request)),
                    Some(_) | None => (Method::NoneAcceptable, Step::Refuse),
                };
                socks5::method_selection(method, out);
                next
            }
        },
        State::Authenticate => match socks5::parse_username_password(&client.input) {
            Ok(None) => Step::Wait,
            Err(_) => Step::Close,
            Ok(Some((given, used))) => {
                client.input.drain(..used);
                let ok = credentials.is_some_and(|wanted| matches(wanted, &given.username, &given.password));
                socks5::username_password_reply(ok, out);
                if ok { Step::Next(State::Request) } else { Step::Refuse }
            }
        },
        State::Request => match socks5::parse_request(&client.input) {
            Ok(None) => Step::Wait,
            Err(e) => {
                socks5::reply(Reply::to_error(&e), NOWHERE, out);
                Step::Refuse
            }
            Ok(Some((request, used))) => {
                client.input.drain(..used);
                match request.command {
                    Command::UdpAssociate => Step::Associate((request.port != 0).then_some(request.port)),
                    Command::Connect => match service_of(&request.address, zone) {
                        Some(service) => Step::Open(Language::Socks, service, request.port),
                        None => {
                            socks5::reply(Reply::NotAllowed, NOWHERE, out);
                            Step::Refuse
                        }
                    },
                }
            }
        },
        State::Opening(_) | State::Associated { .. } | State::Closing => Step::Wait,
    }
}

fn step_http(client: &mut Client, zone: &str, credentials: Option<&(String, Password)>, out: &mut Vec<u8>) -> Step {
    let request = match http_connect::parse(&client.input) {
        Ok(None) => return Step::Wait,
        Err(_) => {
            match http_connect::is_other_request(&client.input) {
                None => return Step::Wait,
                Some(true) => http_connect::refusal(Status::MethodNotAllowed, &connect_only(zone), out),
                Some(false) => http_connect::response(Status::BadRequest, None, out),
            }
            return Step::Refuse;
        }
        Ok(Some((request, used))) => {
            client.input.drain(..used);
            request
        }
    };
    if let Some(wanted) = credentials
        && !request.proxy_authorization.as_ref().is_some_and(|(user, password)| matches(wanted, user, password))
    {
        http_connect::response(Status::ProxyAuthenticationRequired, None, out);
        return Step::Refuse;
    }
    let address = request.host.parse().map_or(Address::Name(request.host), Address::Ip);
    match service_of(&address, zone) {
        Some(service) => Step::Open(Language::Http, service, request.port),
        None => {
            let why = format!("this proxy leads to <service>.{zone} only, and asks no name server");
            http_connect::refusal(Status::Forbidden, &why, out);
            Step::Refuse
        }
    }
}

/// For a client that would have the proxy fetch a page.
fn connect_only(zone: &str) -> String {
    format!(
        "this proxy takes CONNECT only, and SOCKS5: set it as a SOCKS5 proxy that resolves names (socks5h://), or have the client tunnel http:// too (curl --proxytunnel -x http://PROXY http://<service>.{zone}/)"
    )
}

fn matches(wanted: &(String, Password), user: &str, password: &Password) -> bool {
    // Both are looked at in any case: the time says nothing about the user name.
    let user = Password::new(user.to_owned()).matches(&wanted.0);
    password.matches(wanted.1.expose()) & user
}

/// The service that a client's name means: `<service>.<zone>` or `<service>`. Names are never looked up elsewhere.
pub(super) fn service_of(address: &Address, zone: &str) -> Option<String> {
    let Address::Name(name) = address else { return None };
    let service = match name.split_once('.') {
        None => name.as_str(),
        Some((service, rest)) if rest == zone => service,
        Some(_) => return None,
    };
    Some(service.to_owned())
}

fn reply_of(error: &Error) -> Reply {
    match error {
        Error::Denied { .. } | Error::Identity(_) | Error::Permission(_) => Reply::NotAllowed,
        Error::Refused(_) => Reply::ConnectionRefused,
        Error::Unreachable { reason: Some("udp-blocked"), .. } => Reply::NetworkUnreachable,
        // A service that the network does not have is a host that is not there.
        Error::Unreachable { .. } | Error::Timeout(_) | Error::Config { .. } => Reply::HostUnreachable,
        Error::Aborted
        | Error::StreamReset { .. }
        | Error::Closed(_)
        | Error::Limit(_)
        | Error::Peer(_)
        | Error::Internal(_) => Reply::GeneralFailure,
    }
}

fn status_of(error: &Error) -> Status {
    match error {
        Error::Denied { .. } | Error::Identity(_) | Error::Permission(_) => Status::Forbidden,
        Error::Limit(_) => Status::TooManyRequests,
        Error::Timeout(_) => Status::GatewayTimeout,
        Error::Unreachable { .. } | Error::Config { .. } | Error::Closed(_) => Status::ServiceUnavailable,
        Error::Refused(_) | Error::Aborted | Error::StreamReset { .. } | Error::Peer(_) | Error::Internal(_) => {
            Status::BadGateway
        }
    }
}
