//! Against gateways of our own on loopback: each test has addresses of 127.9/16 for itself.

use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpListener, UdpSocket};
use std::thread;

use super::*;
use crate::port_mapping::MappingProtocol;
use crate::wire::pcp;

const SOURCE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const NEVER: &dyn Fn() -> bool = &|| false;

fn site(gateway: [u8; 4]) -> Site {
    Site { gateway: gateway.into(), source: SOURCE, port: 5_000 }
}

#[test]
fn nothing_is_asked_for_a_public_address_or_another_than_the_sockets() {
    let (gateway, any) = (Ipv4Addr::new(192, 168, 1, 1), "0.0.0.0:5000".parse().unwrap());
    let source = Ipv4Addr::new(192, 168, 1, 10);
    assert_eq!(super::site(gateway, source, any), Wish::Map(Site { gateway, source, port: 5_000 }));
    assert!(matches!(super::site(gateway, Ipv4Addr::new(203, 0, 113, 9), any), Wish::Nothing(_)));
    assert!(matches!(super::site(gateway, source, "127.0.0.1:5000".parse().unwrap()), Wish::Nothing(_)));
}

fn udp(ip: impl Into<Ipv4Addr>, port: u16) -> UdpSocket {
    let socket = UdpSocket::bind(SocketAddrV4::new(ip.into(), port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket
}

/// The answer that grants what `request` asks for.
fn granting(request: &[u8], external: SocketAddrV4) -> Vec<u8> {
    let mut answer = request.to_vec();
    answer[1] |= 0x80;
    answer[8..24].fill(0);
    answer[42..44].copy_from_slice(&external.port().to_be_bytes());
    answer[44..].copy_from_slice(&external.ip().to_ipv6_mapped().octets());
    answer
}

#[test]
fn an_answer_counts_from_the_gateway_alone_and_for_our_nonce_and_port() {
    let gateway = udp([127, 9, 0, 1], pcp::SERVER_PORT);
    let server = thread::spawn(move || {
        let mut room = [0; 100];
        let (n, client) = gateway.recv_from(&mut room).unwrap();
        let good = granting(&room[..n], "203.0.113.1:6000".parse().unwrap());
        let stranger = udp([127, 9, 0, 2], 0);
        stranger.send_to(&granting(&room[..n], "203.0.113.66:1".parse().unwrap()), client).unwrap();
        for at in [24, 41] {
            let mut other = granting(&room[..n], "203.0.113.66:2".parse().unwrap());
            other[at] ^= 1;
            gateway.send_to(&other, client).unwrap();
        }
        gateway.send_to(&good, client).unwrap();
    });
    let granted = control::pcp_map(site([127, 9, 0, 1]), pcp::Nonce([7; 12]), None, NEVER).unwrap();
    assert_eq!(granted.external, "203.0.113.1:6000".parse().unwrap());
    assert_eq!(granted.lifetime, lease::LIFETIME);
    server.join().unwrap();
}

#[test]
fn a_question_that_gets_lost_is_sent_again() {
    let gateway = udp([127, 9, 1, 1], pcp::SERVER_PORT);
    let server = thread::spawn(move || {
        let mut room = [0; 100];
        gateway.recv_from(&mut room).unwrap();
        let (n, client) = gateway.recv_from(&mut room).unwrap();
        gateway.send_to(&granting(&room[..n], "203.0.113.1:6000".parse().unwrap()), client).unwrap();
    });
    assert!(control::pcp_map(site([127, 9, 1, 1]), pcp::Nonce([7; 12]), None, NEVER).is_ok());
    server.join().unwrap();
}

#[test]
fn a_gateway_where_nobody_listens_is_known_for_it() {
    let asked = control::pcp_map(site([127, 9, 2, 1]), pcp::Nonce([7; 12]), None, NEVER);
    assert_eq!(asked, Err(Failure::Closed));
}

/// A gateway that answers one search and then each request on a connection of its own. Returns what it was asked.
fn device(ip: [u8; 4], answers: Vec<String>) -> thread::JoinHandle<Vec<String>> {
    let (ssdp, http) = (udp(ip, 1900), TcpListener::bind(SocketAddrV4::new(ip.into(), 0)).unwrap());
    thread::spawn(move || {
        let mut room = [0; 2_048];
        let (_, client) = ssdp.recv_from(&mut room).unwrap();
        let found = |at: String| format!("HTTP/1.1 200 OK\r\nLOCATION: http://{at}/desc.xml\r\n\r\n");
        let stranger = udp([ip[0], ip[1], ip[2], 99], 0);
        stranger.send_to(found("127.9.0.99:9".into()).as_bytes(), client).unwrap();
        ssdp.send_to(found("127.9.0.99:9".into()).as_bytes(), client).unwrap();
        ssdp.send_to(found(http.local_addr().unwrap().to_string()).as_bytes(), client).unwrap();
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = http.accept().unwrap();
            let mut request = Vec::new();
            let complete =
                |r: &[u8]| r.ends_with(if r.starts_with(b"GET") { &b"\r\n\r\n"[..] } else { &b"Envelope>\r\n"[..] });
            while !complete(&request) {
                let n = stream.read(&mut room).unwrap();
                request.extend_from_slice(&room[..n]);
            }
            asked.push(String::from_utf8(request).unwrap());
            // The client may have left for an answer that is too long.
            let _ = stream.write_all(answer.as_bytes());
        }
        asked
    })
}

fn ok(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn description() -> String {
    let kind = "urn:schemas-upnp-org:service:WANIPConnection:1";
    let service = format!("<service><serviceType>{kind}</serviceType><controlURL>/ctl</controlURL></service>");
    ok("200 OK", &format!("<root><device><serviceList>{service}</serviceList></device></root>"))
}

#[test]
fn a_upnp_gateway_is_found_and_asked_for_another_port_where_ours_is_taken() {
    let gateway = site([127, 9, 3, 1]);
    let address = "<R><NewExternalIPAddress>203.0.113.1</NewExternalIPAddress></R>";
    let taken = "<E><errorCode>718</errorCode></E>";
    let answers =
        vec![description(), ok("200 OK", address), ok("500 No", taken), ok("200 OK", "<R/>"), ok("200 OK", "<R/>")];
    let device = device([127, 9, 3, 1], answers);
    let services = upnp::find(gateway, NEVER).unwrap();
    let granted = upnp::map(gateway, &services[0], None, NEVER).unwrap();
    assert_eq!(*granted.external.ip(), Ipv4Addr::new(203, 0, 113, 1));
    assert_ne!(granted.external.port(), 5_000);
    upnp::unmap(gateway, &services[0], granted.external.port()).unwrap();
    let asked = device.join().unwrap();
    assert!(asked[0].starts_with("GET /desc.xml HTTP/1.1\r\n") && asked[2].contains("<NewExternalPort>5000<"));
    let port = format!("<NewExternalPort>{}<", granted.external.port());
    assert!(asked[3].contains(&port) && asked[3].contains("<NewInternalClient>127.0.0.1<"), "{}", asked[3]);
    assert!(asked[4].contains("#DeletePortMapping") && asked[4].contains(&port), "{}", asked[4]);
}

#[test]
fn neither_a_redirect_nor_an_endless_answer_of_a_gateway_is_followed() {
    let gateway = site([127, 9, 4, 1]);
    let elsewhere = "HTTP/1.1 302 Found\r\nLocation: http://127.9.0.99/\r\nContent-Length: 0\r\n\r\n".to_owned();
    let served = device([127, 9, 4, 1], vec![elsewhere]);
    assert_eq!(upnp::find(gateway, NEVER), Err(Failure::Refused("its description: status 302".into())));
    served.join().unwrap();
    let gateway = site([127, 9, 5, 1]);
    let endless = format!("HTTP/1.1 200 OK\r\n\r\n{}", " ".repeat(1 << 20));
    let served = device([127, 9, 5, 1], vec![endless]);
    assert!(matches!(upnp::find(gateway, NEVER), Err(Failure::Refused(_))));
    served.join().unwrap();
}

/// A worker that asks `gateway`.
fn asked(gateway: &UdpSocket) -> (mio::Poll, PortMapper) {
    let poll = mio::Poll::new().unwrap();
    let wake = Wake::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap());
    let mapper = PortMapper::spawn_renewing(wake, Vec::new(), Duration::from_millis(100)).unwrap();
    let SocketAddr::V4(at) = gateway.local_addr().unwrap() else { panic!("it is IPv4") };
    mapper.wish(Wish::Map(site(at.ip().octets())));
    (poll, mapper)
}

/// The same, as far as the first question, which has been answered with `external`.
fn mapping(gateway: &UdpSocket, external: SocketAddrV4) -> (mio::Poll, PortMapper) {
    let (poll, mapper) = asked(gateway);
    let mut room = [0; 100];
    let (n, client) = gateway.recv_from(&mut room).unwrap();
    gateway.send_to(&granting(&room[..n], external), client).unwrap();
    (poll, mapper)
}

fn becomes(mapper: &PortMapper, news: &PortMapping) {
    let until = Instant::now() + Duration::from_secs(10);
    while mapper.poll().as_ref() != Some(news) {
        assert!(Instant::now() < until, "never {news:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A mapping is taken back, by a request for a lifetime of nothing.
fn is_taken_back(gateway: &UdpSocket, external: SocketAddrV4) {
    let mut room = [0; 100];
    let (n, client) = gateway.recv_from(&mut room).unwrap();
    assert_eq!(room[4..8], [0; 4]);
    gateway.send_to(&granting(&room[..n], external), client).unwrap();
}

const BY: MappingProtocol = MappingProtocol::Pcp;

#[test]
fn the_worker_maps_takes_back_and_ends_soon_after_it_was_told_to() {
    let (gateway, external) = (udp([127, 9, 6, 1], pcp::SERVER_PORT), "203.0.113.1:6000".parse().unwrap());
    let (_poll, mapper) = mapping(&gateway, external);
    becomes(&mapper, &PortMapping::Mapped { by: BY, external });
    mapper.end();
    is_taken_back(&gateway, external);
    mapper.wait(Instant::now() + Duration::from_secs(10));
    assert!(lock(&mapper.shared.state).ended);
}

#[test]
fn a_mapping_is_renewed_as_the_same_one_and_another_address_is_told_of() {
    let (gateway, first) = (udp([127, 9, 9, 1], pcp::SERVER_PORT), "203.0.113.1:6000".parse().unwrap());
    let mut room = [0; 100];
    let (_poll, mapper) = asked(&gateway);
    let (n, client) = gateway.recv_from(&mut room).unwrap();
    let nonce = room[24..36].to_vec();
    let mut answer = granting(&room[..n], first);
    answer[4..8].copy_from_slice(&1u32.to_be_bytes());
    gateway.send_to(&answer, client).unwrap();
    becomes(&mapper, &PortMapping::Mapped { by: BY, external: first });
    let (n, client) = gateway.recv_from(&mut room).unwrap();
    assert_eq!(room[24..36], nonce);
    assert_eq!(room[42..44], 6_000u16.to_be_bytes());
    let second = "203.0.113.9:6000".parse().unwrap();
    gateway.send_to(&granting(&room[..n], second), client).unwrap();
    becomes(&mapper, &PortMapping::Mapped { by: BY, external: second });
}

#[test]
fn a_port_on_an_address_that_nobody_outside_reaches_is_given_back_and_told_of() {
    let (gateway, external) = (udp([127, 9, 8, 1], pcp::SERVER_PORT), "100.64.7.1:6000".parse().unwrap());
    let (_poll, mapper) = mapping(&gateway, external);
    is_taken_back(&gateway, external);
    becomes(&mapper, &PortMapping::DoubleNat { by: BY, external: *external.ip() });
}

#[test]
fn an_address_that_no_router_has_is_a_bad_answer_and_no_second_nat() {
    for (n, bad) in ["127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "169.254.1.1"].into_iter().enumerate() {
        let gateway = udp([127, 9, 10, n as u8 + 1], pcp::SERVER_PORT);
        let external = SocketAddrV4::new(bad.parse().unwrap(), 6_000);
        let (_poll, mapper) = mapping(&gateway, external);
        is_taken_back(&gateway, external);
        let why = format!("PCP: it gave {bad} as its own address, which no router has");
        becomes(&mapper, &PortMapping::Failed { why });
    }
}

#[test]
fn a_worker_that_waits_for_an_answer_ends_without_it_and_gives_back_what_may_come() {
    let gateway = udp([127, 9, 7, 1], pcp::SERVER_PORT);
    let (_poll, mapper) = asked(&gateway);
    let mut room = [0; 100];
    gateway.recv_from(&mut room).unwrap();
    mapper.end();
    while room[4..8] != [0; 4] {
        gateway.recv_from(&mut room).unwrap();
    }
    mapper.wait(Instant::now() + Duration::from_secs(10));
    assert!(lock(&mapper.shared.state).ended);
}
