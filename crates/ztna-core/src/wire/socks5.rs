//! SOCKS5 (RFC 1928) with username and password (RFC 1929), the server's side.
//!
//! Every `parse_*` of a TCP message gives `Ok(None)` until the message is whole, then the value and its length in bytes.
//! Left out: BIND (answered 0x07), GSSAPI, fragmented UDP (RFC 1928 §7 lets a server drop it).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::error::DecodeError;
use super::host;
use super::password::Password;
use super::reader::Reader;

const VERSION: u8 = 5;
/// Version of the username/password exchange (RFC 1929 §2).
const AUTH_VERSION: u8 = 1;

const WHAT_COMMAND: &str = "SOCKS command";
const WHAT_ADDRESS_TYPE: &str = "SOCKS address type";

/// What a client offers first (RFC 1928 §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Greeting {
    pub no_auth: bool,
    pub username_password: bool,
}

/// The server's choice (RFC 1928 §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    NoAuth,
    UsernamePassword,
    /// Nothing offered is acceptable; the client closes.
    NoneAcceptable,
}

/// RFC 1929 §2. Both are 1 to 255 bytes of UTF-8.
#[derive(Debug, Clone)]
pub struct UserPass {
    pub username: String,
    pub password: Password,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Connect,
    UdpAssociate,
}

/// DST.ADDR: a name is kept as a name, to be resolved at the far end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    Ip(IpAddr),
    /// Lower case, without final dot.
    Name(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub command: Command,
    pub address: Address,
    /// 0 is for UDP ASSOCIATE only: the client does not know yet from where it will send.
    pub port: u16,
}

/// REP (RFC 1928 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    Succeeded,
    GeneralFailure,
    /// Not allowed by the rule set: denied by policy, or a name outside the zone.
    NotAllowed,
    NetworkUnreachable,
    HostUnreachable,
    ConnectionRefused,
    TtlExpired,
    CommandNotSupported,
    AddressTypeNotSupported,
}

impl Reply {
    pub fn code(self) -> u8 {
        match self {
            Reply::Succeeded => 0,
            Reply::GeneralFailure => 1,
            Reply::NotAllowed => 2,
            Reply::NetworkUnreachable => 3,
            Reply::HostUnreachable => 4,
            Reply::ConnectionRefused => 5,
            Reply::TtlExpired => 6,
            Reply::CommandNotSupported => 7,
            Reply::AddressTypeNotSupported => 8,
        }
    }

    /// The reply that a request refused by [`parse_request`] deserves.
    pub fn to_error(error: &DecodeError) -> Self {
        match error {
            DecodeError::Invalid { what, .. } if *what == WHAT_COMMAND => Reply::CommandNotSupported,
            DecodeError::Invalid { what, .. } if *what == WHAT_ADDRESS_TYPE => Reply::AddressTypeNotSupported,
            DecodeError::Invalid { .. } | DecodeError::Truncated { .. } | DecodeError::TooLong { .. } => {
                Reply::GeneralFailure
            }
        }
    }
}

/// Where a client's UDP datagram is to go, and where its data starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UdpHeader {
    pub address: Address,
    /// Never 0.
    pub port: u16,
    /// Bytes before the data.
    pub len: usize,
}

/// Version, number of methods, methods.
pub fn parse_greeting(buf: &[u8]) -> Result<Option<(Greeting, usize)>, DecodeError> {
    let mut r = Reader::new(buf);
    check_version(r.u8(), VERSION, "SOCKS version", "5")?;
    let Some(methods) = r.u8().and_then(|n| r.take(usize::from(n))) else {
        return Ok(None);
    };
    let greeting = Greeting { no_auth: methods.contains(&0), username_password: methods.contains(&2) };
    Ok(Some((greeting, buf.len() - r.rest().len())))
}

pub fn method_selection(method: Method, out: &mut Vec<u8>) {
    let code = match method {
        Method::NoAuth => 0,
        Method::UsernamePassword => 2,
        Method::NoneAcceptable => 0xff,
    };
    out.extend_from_slice(&[VERSION, code]);
}

pub fn parse_username_password(buf: &[u8]) -> Result<Option<(UserPass, usize)>, DecodeError> {
    let mut r = Reader::new(buf);
    check_version(r.u8(), AUTH_VERSION, "SOCKS authentication version", "1")?;
    let mut field = || r.u8().and_then(|n| r.take(usize::from(n)));
    let (Some(username), Some(password)) = (field(), field()) else {
        return Ok(None);
    };
    let text = |bytes: &[u8]| {
        std::str::from_utf8(bytes).ok().filter(|t| !t.is_empty()).map(str::to_owned).ok_or_else(|| {
            // Says nothing of the value: it may be the password.
            DecodeError::invalid("SOCKS username or password", "not text", "1 to 255 bytes of UTF-8")
        })
    };
    let pair = UserPass { username: text(username)?, password: Password::new(text(password)?) };
    Ok(Some((pair, buf.len() - r.rest().len())))
}

/// `ok` false ends the exchange: the server closes after it (RFC 1929 §2).
pub fn username_password_reply(ok: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(&[AUTH_VERSION, u8::from(!ok)]);
}

/// After an error, answer with [`Reply::to_error`] and close.
pub fn parse_request(buf: &[u8]) -> Result<Option<(Request, usize)>, DecodeError> {
    let mut r = Reader::new(buf);
    check_version(r.u8(), VERSION, "SOCKS version", "5")?;
    let command = match r.u8() {
        None => return Ok(None),
        Some(1) => Command::Connect,
        Some(3) => Command::UdpAssociate,
        Some(other) => return Err(DecodeError::invalid(WHAT_COMMAND, other, "1 (CONNECT) or 3 (UDP ASSOCIATE)")),
    };
    check_version(r.u8(), 0, "SOCKS reserved byte", "0")?;
    let Some((address, port)) = parse_address(&mut r)? else {
        return Ok(None);
    };
    if port == 0 && command == Command::Connect {
        return Err(DecodeError::invalid("SOCKS port", port, "1 to 65535"));
    }
    Ok(Some((Request { command, address, port }, buf.len() - r.rest().len())))
}

/// `bound` is BND.ADDR: for UDP ASSOCIATE the address to send to, else of no use to clients; all zeroes in a refusal.
pub fn reply(reply: Reply, bound: SocketAddr, out: &mut Vec<u8>) {
    out.extend_from_slice(&[VERSION, reply.code(), 0]);
    write_address(&Address::Ip(bound.ip()), bound.port(), out);
}

/// Reads the header of a client's datagram (RFC 1928 §7). A fragment is an error: drop it.
pub fn parse_udp(datagram: &[u8]) -> Result<UdpHeader, DecodeError> {
    let cut = || DecodeError::truncated("SOCKS UDP header");
    let mut r = Reader::new(datagram);
    let (reserved, fragment) = (r.u16().ok_or_else(cut)?, r.u8().ok_or_else(cut)?);
    if reserved != 0 {
        return Err(DecodeError::invalid("SOCKS reserved bytes", reserved, "0"));
    }
    if fragment != 0 {
        return Err(DecodeError::invalid("SOCKS UDP fragment", fragment, "0, whole datagrams only"));
    }
    let (address, port) = parse_address(&mut r)?.ok_or_else(cut)?;
    if port == 0 {
        return Err(DecodeError::invalid("SOCKS port", port, "1 to 65535"));
    }
    Ok(UdpHeader { address, port, len: datagram.len() - r.rest().len() })
}

/// Appends the header of a datagram to the client; the data follows it. A name over 255 bytes is the caller's bug and is
/// written as the unspecified address.
pub fn udp_header(address: &Address, port: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(&[0, 0, 0]);
    write_address(address, port, out);
}

/// A fixed byte; one that is missing is no error yet.
fn check_version(got: Option<u8>, expected: u8, what: &'static str, accepted: &'static str) -> Result<(), DecodeError> {
    match got {
        Some(got) if got != expected => Err(DecodeError::invalid(what, got, accepted)),
        Some(_) | None => Ok(()),
    }
}

/// ATYP, address, port.
fn parse_address(r: &mut Reader<'_>) -> Result<Option<(Address, u16)>, DecodeError> {
    let address = match r.u8() {
        None => return Ok(None),
        Some(1) => r.array::<4>().map(|b| Address::Ip(Ipv4Addr::from(b).into())),
        Some(4) => r.array::<16>().map(|b| Address::Ip(Ipv6Addr::from(b).into())),
        Some(3) => match r.u8().and_then(|n| r.take(usize::from(n))) {
            None => None,
            Some(name) => Some(parse_name(name)?),
        },
        Some(other) => return Err(DecodeError::invalid(WHAT_ADDRESS_TYPE, other, "1 (IPv4), 3 (name) or 4 (IPv6)")),
    };
    Ok(address.and_then(|a| Some((a, r.u16()?))))
}

/// Some clients send an address as a name.
fn parse_name(bytes: &[u8]) -> Result<Address, DecodeError> {
    let host = host::parse_host(&String::from_utf8_lossy(bytes))?;
    Ok(host.parse().map(Address::Ip).unwrap_or(Address::Name(host)))
}

fn write_address(address: &Address, port: u16, out: &mut Vec<u8>) {
    match address {
        Address::Ip(IpAddr::V4(ip)) => {
            out.push(1);
            out.extend_from_slice(&ip.octets());
        }
        Address::Ip(IpAddr::V6(ip)) => {
            out.push(4);
            out.extend_from_slice(&ip.octets());
        }
        Address::Name(name) => match u8::try_from(name.len()) {
            Ok(len) => {
                out.extend_from_slice(&[3, len]);
                out.extend_from_slice(name.as_bytes());
            }
            Err(_) => out.extend_from_slice(&[1, 0, 0, 0, 0]),
        },
    }
    out.extend_from_slice(&port.to_be_bytes());
}

#[cfg(test)]
#[path = "socks5_tests.rs"]
mod tests;
