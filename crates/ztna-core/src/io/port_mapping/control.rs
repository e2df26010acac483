//! PCP and NAT-PMP: small datagrams to one port of the gateway, on a connected socket, so that the kernel takes answers from there alone.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use super::lease::LIFETIME;
use super::{Failure, Patience, Site};
use crate::wire::{nat_pmp, pcp};

/// A question is sent again after this long, doubling (RFC 6886 §3.1), so many times in all. The RFCs go on for minutes; a gateway on the same link
/// answers at once, and the next protocol waits.
const RESEND: Duration = Duration::from_millis(250);
const TRIES: u32 = 3;
/// Longest answer that is read, bytes (RFC 6887 §7).
const ANSWER_MAX: usize = 1_100;

/// What a gateway granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Granted {
    pub external: SocketAddrV4,
    /// Seconds.
    pub lifetime: u32,
}

/// Asks for a mapping by PCP, or for the same again. `last`: what it was.
pub(super) fn pcp_map(
    site: Site,
    nonce: pcp::Nonce,
    last: Option<SocketAddrV4>,
    interrupted: &dyn Fn() -> bool,
) -> Result<Granted, Failure> {
    let suggested = last.unwrap_or(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, site.port));
    let granted = pcp_ask(site, nonce, suggested, LIFETIME, TRIES, interrupted)?;
    if granted.external.port() == 0 || granted.lifetime == 0 {
        return Err(Failure::Refused("it granted nothing".into()));
    }
    Ok(granted)
}

/// Takes a mapping back (RFC 6887 §15.1).
pub(super) fn pcp_unmap(site: Site, nonce: pcp::Nonce, tries: u32) -> Result<(), Failure> {
    let nothing = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
    pcp_ask(site, nonce, nothing, 0, tries, &|| false).map(|_| ())
}

fn pcp_ask(
    site: Site,
    nonce: pcp::Nonce,
    suggested: SocketAddrV4,
    lifetime: u32,
    tries: u32,
    interrupted: &dyn Fn() -> bool,
) -> Result<Granted, Failure> {
    let request = pcp::MapRequest { client: site.source, nonce, internal_port: site.port, suggested, lifetime };
    ask(site, &request.encode(), tries, interrupted, |answer| match pcp::parse(answer).ok()? {
        pcp::Answer::Mapped(m) if m.nonce == nonce && m.internal_port == site.port => {
            Some(Ok(Granted { external: m.external, lifetime: m.lifetime }))
        }
        pcp::Answer::Refused { nonce: n, result } if n == nonce => {
            Some(Err(Failure::Refused(pcp::describe(result).into())))
        }
        pcp::Answer::OtherVersion(_) => Some(Err(Failure::Refused("it speaks another version".into()))),
        pcp::Answer::Mapped(_) | pcp::Answer::Refused { .. } => None,
    })
}

/// Asks for a mapping by NAT-PMP, or for the same again.
pub(super) fn nat_pmp_map(
    site: Site,
    last: Option<SocketAddrV4>,
    interrupted: &dyn Fn() -> bool,
) -> Result<Granted, Failure> {
    let address =
        ask(site, &nat_pmp::external_address_request(), TRIES, interrupted, |answer| {
            match nat_pmp::parse(answer).ok()? {
                nat_pmp::Answer::ExternalAddress(address) => Some(Ok(address)),
                nat_pmp::Answer::Refused { result } => Some(Err(Failure::Refused(nat_pmp::describe(result).into()))),
                nat_pmp::Answer::Mapped { .. } => None,
            }
        })?;
    let suggested = last.map_or(site.port, |l| l.port());
    let (port, lifetime) = nat_pmp_ask(site, suggested, LIFETIME, TRIES, interrupted)?;
    if port == 0 || lifetime == 0 {
        return Err(Failure::Refused("it granted nothing".into()));
    }
    Ok(Granted { external: SocketAddrV4::new(address, port), lifetime })
}

/// Takes a mapping back (RFC 6886 §3.4).
pub(super) fn nat_pmp_unmap(site: Site, tries: u32) -> Result<(), Failure> {
    nat_pmp_ask(site, 0, 0, tries, &|| false).map(|_| ())
}

fn nat_pmp_ask(
    site: Site,
    suggested: u16,
    lifetime: u32,
    tries: u32,
    interrupted: &dyn Fn() -> bool,
) -> Result<(u16, u32), Failure> {
    let request = nat_pmp::map_request(site.port, suggested, lifetime);
    ask(site, &request, tries, interrupted, |answer| match nat_pmp::parse(answer).ok()? {
        nat_pmp::Answer::Mapped { internal_port, external_port, lifetime } if internal_port == site.port => {
            Some(Ok((external_port, lifetime)))
        }
        nat_pmp::Answer::Refused { result } => Some(Err(Failure::Refused(nat_pmp::describe(result).into()))),
        nat_pmp::Answer::Mapped { .. } | nat_pmp::Answer::ExternalAddress(_) => None,
    })
}

/// Sends `request` until `read` takes an answer, `tries` times at most. 0: once, and no answer is waited for.
fn ask<T>(
    site: Site,
    request: &[u8],
    tries: u32,
    interrupted: &dyn Fn() -> bool,
    read: impl Fn(&[u8]) -> Option<Result<T, Failure>>,
) -> Result<T, Failure> {
    let socket = UdpSocket::bind(SocketAddrV4::new(site.source, 0))?;
    socket.connect(SocketAddrV4::new(site.gateway, pcp::SERVER_PORT))?;
    if tries == 0 {
        socket.send(request)?;
    }
    let mut room = [0; ANSWER_MAX];
    for attempt in 0..tries {
        socket.send(request)?;
        let patience = Patience { deadline: Instant::now() + RESEND * (1 << attempt.min(4)), interrupted };
        loop {
            let slice = match patience.slice() {
                Err(Failure::Silent) => break,
                other => other?,
            };
            socket.set_read_timeout(Some(slice))?;
            match socket.recv(&mut room).map_err(Failure::from) {
                Ok(n) => {
                    if let Some(result) = read(room.get(..n).unwrap_or_default()) {
                        return result;
                    }
                }
                Err(Failure::Silent) => {}
                Err(e) => return Err(e),
            }
        }
    }
    Err(Failure::Silent)
}
