//! UPnP: the gateway is searched for by SSDP, describes itself by HTTP, maps ports by SOAP. Only what comes from the gateway's own address, and
//! leads there, is taken; every exchange has an end in time and in bytes.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

use super::control::Granted;
use super::lease::LIFETIME;
use super::{Failure, Patience, Site};
use crate::wire::igd::soap::{self, Call, SoapAnswer};
use crate::wire::igd::{self, Url, description, http};

pub(super) use crate::wire::igd::description::Service;

/// Devices answer within the second that a search gives them (MX: 1).
const SEARCH: Duration = Duration::from_millis(1_500);
/// One question over HTTP, whole.
const EXCHANGE: Duration = Duration::from_secs(3);
/// To connect to a host on the same link.
const CONNECT: Duration = Duration::from_secs(1);
/// Hops that a search may take (UPnP Device Architecture 1.1 §1.3.2).
const TTL: u32 = 2;
/// Other external ports that are tried where another host has ours.
const OTHER_PORTS: u16 = 4;
/// Descriptions that one answer each leads to: a gateway answers for each of its devices.
const DESCRIPTIONS: usize = 4;

/// Searches for the gateway's services that map ports.
pub(super) fn find(site: Site, interrupted: &dyn Fn() -> bool) -> Result<Vec<Service>, Failure> {
    let socket = UdpSocket::bind(SocketAddrV4::new(site.source, 0))?;
    let options = SockRef::from(&socket);
    options.set_multicast_if_v4(&site.source)?;
    options.set_multicast_ttl_v4(TTL)?;
    // Also to the gateway itself: not every network lets multicast through, not every device hears what is sent to it alone.
    let gateway = SocketAddrV4::new(site.gateway, igd::SSDP.port());
    let sent = [igd::SSDP, gateway].map(|to| socket.send_to(igd::search(to).as_bytes(), to));
    if let [Err(e), Err(_)] = sent {
        return Err(e.into());
    }
    let patience = Patience { deadline: Instant::now() + SEARCH, interrupted };
    let (mut room, mut seen, mut last) = ([0; 2_048], Vec::<Url>::new(), Failure::Silent);
    loop {
        let slice = match patience.slice() {
            Err(Failure::Silent) => return Err(last),
            other => other?,
        };
        socket.set_read_timeout(Some(slice))?;
        let Ok((n, from)) = socket.recv_from(&mut room) else { continue };
        if from.ip() != site.gateway {
            continue;
        }
        match igd::parse_search_answer(room.get(..n).unwrap_or_default(), site.gateway) {
            Ok(at) if seen.contains(&at) || seen.len() >= DESCRIPTIONS => {}
            Ok(at) => {
                seen.push(at.clone());
                match describe(site, &at, interrupted) {
                    Ok(services) => return Ok(services),
                    Err(Failure::Interrupted) => return Err(Failure::Interrupted),
                    Err(e) => last = e,
                }
            }
            Err(e) => last = e.into(),
        }
    }
}

fn describe(site: Site, at: &Url, interrupted: &dyn Fn() -> bool) -> Result<Vec<Service>, Failure> {
    let answer = exchange(site, at, &http::get(at), interrupted)?;
    if answer.status != 200 {
        return Err(Failure::Refused(format!("its description: status {}", answer.status)));
    }
    Ok(description::parse(&answer.body, at)?)
}

/// Asks one service for a mapping, or for the same again. `last`: the external port that it was.
pub(super) fn map(
    site: Site,
    service: &Service,
    last: Option<u16>,
    interrupted: &dyn Fn() -> bool,
) -> Result<Granted, Failure> {
    let address = match call(site, service, &soap::external_address(&service.kind), interrupted)? {
        SoapAnswer::Done { external: Some(address) } if !address.is_unspecified() => address,
        SoapAnswer::Done { .. } => return Err(Failure::Refused("it has no external address".into())),
        SoapAnswer::Refused { code } => return Err(refused(code)),
    };
    let to = SocketAddrV4::new(site.source, site.port);
    let first = last.unwrap_or(site.port);
    for port in (0..=OTHER_PORTS).map(|n| other_port(first, n)) {
        match call(site, service, &soap::add_mapping(&service.kind, port, to, LIFETIME), interrupted)? {
            SoapAnswer::Done { .. } => {
                return Ok(Granted { external: SocketAddrV4::new(address, port), lifetime: LIFETIME });
            }
            SoapAnswer::Refused { code: soap::CONFLICT } => {}
            SoapAnswer::Refused { code } => return Err(refused(code)),
        }
    }
    Err(refused(soap::CONFLICT))
}

/// Takes a mapping back.
pub(super) fn unmap(site: Site, service: &Service, port: u16) -> Result<(), Failure> {
    match call(site, service, &soap::delete_mapping(&service.kind, port), &|| false)? {
        SoapAnswer::Done { .. } => Ok(()),
        SoapAnswer::Refused { code } => Err(refused(code)),
    }
}

fn refused(code: u16) -> Failure {
    Failure::Refused(format!("{} (error {code})", soap::describe(code)))
}

/// The `n`th external port to try, at or above 1024; far apart, as the ports of one other host are near each other.
fn other_port(first: u16, n: u16) -> u16 {
    const STEP: u32 = 7_919;
    const RANGE: u32 = 65_536 - 1_024;
    if n == 0 {
        return first;
    }
    let at = (u32::from(first.max(1_024)) - 1_024 + u32::from(n) * STEP) % RANGE + 1_024;
    u16::try_from(at).unwrap_or(first)
}

fn call(site: Site, service: &Service, call: &Call, interrupted: &dyn Fn() -> bool) -> Result<SoapAnswer, Failure> {
    let request = http::post(&service.control, &call.action, &call.body);
    let answer = exchange(site, &service.control, &request, interrupted)?;
    Ok(soap::parse(answer.status, &answer.body)?)
}

/// One request and its answer.
fn exchange(site: Site, to: &Url, request: &[u8], interrupted: &dyn Fn() -> bool) -> Result<http::HttpAnswer, Failure> {
    let patience = Patience { deadline: Instant::now() + EXCHANGE, interrupted };
    let mut stream = connect(site.source, to.at)?;
    stream.set_write_timeout(Some(CONNECT))?;
    stream.write_all(request)?;
    let (mut answer, mut room) = (Vec::new(), [0; 4_096]);
    loop {
        stream.set_read_timeout(Some(patience.slice()?))?;
        let ended = match stream.read(&mut room) {
            Ok(n) => {
                answer.extend_from_slice(room.get(..n).unwrap_or_default());
                n == 0
            }
            Err(e) => match Failure::from(e) {
                Failure::Silent => continue,
                // Some reset a connection that they have answered on.
                _ => true,
            },
        };
        if let Some(whole) = http::parse(&answer, ended)? {
            return Ok(whole);
        }
    }
}

fn connect(source: Ipv4Addr, to: SocketAddrV4) -> Result<TcpStream, Failure> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect_timeout(&to.into(), CONNECT)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_ports_are_no_wells_known_ones_and_all_different() {
        for first in [1_024, 5_000, 65_535] {
            let ports: Vec<u16> = (0..=OTHER_PORTS).map(|n| other_port(first, n)).collect();
            assert!(ports.iter().all(|p| *p >= 1_024), "{ports:?}");
            assert!((1..ports.len()).all(|n| !ports[..n].contains(&ports[n])), "{ports:?}");
        }
    }
}
