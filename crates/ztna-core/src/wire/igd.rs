//! UPnP Internet Gateway Device, as a client sees it: found by SSDP (UPnP Device Architecture 1.1 §1.3), described in XML (§2.3), asked by
//! SOAP over HTTP/1.1 (§3.1). All of it is text from a stranger on the local network: bounded, and only of the gateway itself.
//!
//! Left out: events, other services than WANIPConnection and WANPPPConnection, other mappings than of UDP over IPv4.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use super::error::DecodeError;

pub mod description;
pub mod http;
pub mod soap;

/// Where devices listen for searches (UPnP Device Architecture 1.1 §1.3.2).
pub const SSDP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 255, 255, 250), 1900);
/// A device of the second version answers a search for the first as well.
const SEARCH_TARGET: &str = "urn:schemas-upnp-org:device:InternetGatewayDevice:1";
/// Header fields of an answer to a search: a dozen are usual.
const FIELDS: usize = 32;

/// A search for gateways, to be sent to `to`: [`SSDP`], or the gateway's own port 1900.
pub fn search(to: SocketAddrV4) -> String {
    format!("M-SEARCH * HTTP/1.1\r\nHOST: {to}\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\nST: {SEARCH_TARGET}\r\n\r\n")
}

/// Where the device that answered a search describes itself. Errors: no answer to a search, or a place that is not on `gateway`.
pub fn parse_search_answer(message: &[u8], gateway: Ipv4Addr) -> Result<Url, DecodeError> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let whole = response.parse(message).is_ok_and(|status| status.is_complete());
    if !whole || response.code != Some(200) {
        return Err(DecodeError::invalid("SSDP answer", "another message", "HTTP/1.1 200 OK"));
    }
    let location = response.headers.iter().find(|h| h.name.eq_ignore_ascii_case("location")).map(|h| h.value);
    let location = location.and_then(|v| std::str::from_utf8(v).ok()).ok_or(DecodeError::truncated("SSDP answer"))?;
    Url::parse(location.trim(), gateway)
}

/// An `http` URL on the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    pub at: SocketAddrV4,
    /// With its query; begins with `/`.
    pub path: String,
}

impl Url {
    /// Errors: not an absolute `http` URL with the IPv4 address `gateway` as its host. No names, no users, no other host: nobody has us
    /// ask elsewhere.
    pub fn parse(text: &str, gateway: Ipv4Addr) -> Result<Self, DecodeError> {
        let bad = || {
            DecodeError::invalid(
                "URL of the gateway",
                text,
                "http://ADDRESS[:PORT]/PATH with the gateway's own address",
            )
        };
        let prefix = text.get(..7).filter(|p| p.eq_ignore_ascii_case("http://")).ok_or_else(bad)?;
        let rest = text.get(prefix.len()..).ok_or_else(bad)?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(end).ok_or_else(bad)?;
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) => (host, port.parse().ok().filter(|p| *p != 0).ok_or_else(bad)?),
            None => (authority, 80),
        };
        let host: IpAddr = host.parse().map_err(|_| bad())?;
        if host != gateway {
            return Err(bad());
        }
        Ok(Url { at: SocketAddrV4::new(gateway, port), path: clean(path).ok_or_else(bad)? })
    }

    /// What `reference`, found in a document at this URL, means (RFC 3986 §5.2, without `..`). Errors as of [`parse`](Self::parse).
    pub fn join(&self, reference: &str) -> Result<Self, DecodeError> {
        let bad = || DecodeError::invalid("URL reference", reference, "a path, or a URL on the gateway itself");
        if reference.contains("://") {
            return Self::parse(reference, *self.at.ip());
        }
        if reference.starts_with("//") || reference.is_empty() {
            return Err(bad());
        }
        if reference.starts_with('/') {
            return Ok(Url { at: self.at, path: clean(reference).ok_or_else(bad)? });
        }
        let folder = self.path.split('?').next().unwrap_or_default();
        let folder = folder.rfind('/').and_then(|end| folder.get(..=end)).unwrap_or("/");
        Ok(Url { at: self.at, path: clean(&format!("{folder}{reference}")).ok_or_else(bad)? })
    }
}

/// Longest path that goes into a request line, bytes: real ones have a few dozen.
const PATH_MAX: usize = 1_024;

/// A path and query that can stand in a request line. `None`: spaces, control characters, not ASCII, too long.
fn clean(path: &str) -> Option<String> {
    let path = path.split('#').next().unwrap_or_default();
    if path.len() > PATH_MAX || !path.bytes().all(|b| b.is_ascii_graphic()) {
        return None;
    }
    Some(if path.starts_with('/') { path.to_owned() } else { format!("/{path}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);

    fn answer(location: &str) -> Vec<u8> {
        format!("HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nST: {SEARCH_TARGET}\r\nLocation: {location}\r\nEXT:\r\n\r\n")
            .into_bytes()
    }

    #[test]
    fn a_search_asks_for_gateways() {
        let text = search(SSDP);
        assert!(
            text.starts_with("M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\n") && text.ends_with("\r\n\r\n")
        );
    }

    #[test]
    fn an_answer_says_where_the_gateway_describes_itself() {
        let url = parse_search_answer(&answer("http://192.168.1.1:5000/rootDesc.xml"), GATEWAY).unwrap();
        assert_eq!(url, Url { at: "192.168.1.1:5000".parse().unwrap(), path: "/rootDesc.xml".into() });
        assert_eq!(parse_search_answer(&answer("HTTP://192.168.1.1"), GATEWAY).unwrap().path, "/");
    }

    #[test]
    fn a_place_elsewhere_is_refused() {
        for place in [
            "http://192.168.1.2:5000/rootDesc.xml",
            "http://example.test/rootDesc.xml",
            "https://192.168.1.1/",
            "http://user@192.168.1.1/",
            "http://192.168.1.1@192.168.1.2/",
            "http://192.168.1.1:0/",
            "http://192.168.1.1:99999/",
            "http://3232235777/",
            "http://[::ffff:192.168.1.1]/",
            "http://192.168.1.1/a b",
            "/rootDesc.xml",
            "é://",
        ] {
            assert!(Url::parse(place, GATEWAY).is_err(), "{place}");
        }
        assert!(parse_search_answer(&answer("http://192.168.1.2/"), GATEWAY).is_err());
        assert!(parse_search_answer(b"NOTIFY * HTTP/1.1\r\n\r\n", GATEWAY).is_err());
        assert!(parse_search_answer(b"HTTP/1.1 404 Not Found\r\n\r\n", GATEWAY).is_err());
    }

    #[test]
    fn references_stay_on_the_gateway() {
        let base = Url::parse("http://192.168.1.1:5000/a/desc.xml?x/y", GATEWAY).unwrap();
        assert_eq!(base.join("/ctl/IPConn").unwrap().path, "/ctl/IPConn");
        assert_eq!(base.join("ctl?p=1").unwrap().path, "/a/ctl?p=1");
        assert_eq!(base.join("http://192.168.1.1:49152/ctl").unwrap().at.port(), 49_152);
        for bad in ["", "//192.168.1.2/ctl", "http://192.168.1.2/ctl", "/ctl HTTP/1.1\r\nX: y"] {
            assert!(base.join(bad).is_err(), "{bad}");
        }
    }
}
