//! What a request on an inner connection asks for. Pseudo-headers are judged here: quiche checks none of them.

use crate::node::flows::PATH;
use crate::quic::{Fields, field};
use crate::trust::{PathClass, Protocol};
use crate::wire::connect_ip::{PROTO_ICMP, PROTO_ICMPV6, Scope, Target as IpTarget};
use crate::wire::connect_udp::{self, Target as UdpTarget};
use crate::wire::{authority, traceparent};

#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    pub service: String,
    pub port: u16,
    pub protocol: Protocol,
    /// Asks for the decision alone.
    pub check: bool,
    pub traceparent: Option<String>,
    /// Its connection keeps to one kind of path.
    pub only: Option<PathClass>,
}

impl Request {
    /// Errors: an HTTP status and why.
    pub fn read(fields: &Fields, zone: &str) -> Result<Self, (u16, String)> {
        let bad = |why: &str| (400, why.to_owned());
        if field(fields, ":method") != Some("CONNECT") {
            return Err((405, "only CONNECT is served here".into()));
        }
        let authority_field = field(fields, ":authority").ok_or_else(|| bad("no :authority"))?;
        let path = field(fields, ":path");
        let (service, port, protocol) = match field(fields, ":protocol") {
            None => {
                if path.is_some() || field(fields, ":scheme").is_some() {
                    return Err(bad("CONNECT has neither :scheme nor :path (RFC 9114 section 4.4)"));
                }
                let (service, port) =
                    authority::parse(authority_field, zone).map_err(|e| (404, format!("target: {e}")))?;
                (service, port, Protocol::Tcp)
            }
            Some("connect-udp") => {
                match connect_udp::parse_path(path.unwrap_or_default()).map_err(|e| (400, format!(":path: {e}")))? {
                    UdpTarget::Host { host, port } => (in_zone(&host, zone)?, port, Protocol::Udp),
                    UdpTarget::Bind => return Err(bad("a connector binds nothing")),
                }
            }
            Some("connect-ip") => {
                let scope = Scope::parse_path(path.unwrap_or_default()).map_err(|e| (400, format!(":path: {e}")))?;
                match (scope.target, scope.proto) {
                    (IpTarget::Host(host), Some(PROTO_ICMP | PROTO_ICMPV6)) => {
                        (in_zone(&host, zone)?, 0, Protocol::Icmp)
                    }
                    (IpTarget::Any | IpTarget::Prefix { .. } | IpTarget::Host(_), _) => {
                        return Err((501, "connect-ip is served for echo to one service only".into()));
                    }
                }
            }
            Some(other) => return Err((501, format!("protocol `{}` is not served", other.escape_debug()))),
        };
        let traceparent = field(fields, "traceparent").filter(|t| traceparent::is_valid(t)).map(str::to_owned);
        let check = field(fields, "ztna-check") == Some("?1");
        let only = match field(fields, PATH) {
            None => None,
            Some("direct") => Some(PathClass::Direct),
            Some("relay") => Some(PathClass::Relay),
            Some(_) => return Err(bad("ztna-path is `direct` or `relay`")),
        };
        Ok(Request { service, port, protocol, check, traceparent, only })
    }
}

fn in_zone(host: &str, zone: &str) -> Result<String, (u16, String)> {
    authority::parse_name(host, zone).map_err(|_| (404, format!("`{}` is not in zone {zone}", host.escape_debug())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(list: &[(&str, &str)]) -> Fields {
        list.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn connect_names_a_tcp_port_of_a_service() {
        let r =
            Request::read(&fields(&[(":method", "CONNECT"), (":authority", "web.ztna.internal:80")]), "ztna.internal")
                .unwrap();
        assert_eq!((r.service.as_str(), r.port, r.protocol), ("web", 80, Protocol::Tcp));
    }

    #[test]
    fn connect_udp_names_a_udp_port_of_a_service() {
        let path = connect_udp::target_path("dns.ztna.internal", 53);
        let list = [
            (":method", "CONNECT"),
            (":protocol", "connect-udp"),
            (":scheme", "https"),
            (":authority", "x"),
            (":path", &path),
        ];
        let r = Request::read(&fields(&list), "ztna.internal").unwrap();
        assert_eq!((r.service.as_str(), r.port, r.protocol), ("dns", 53, Protocol::Udp));
    }

    #[test]
    fn a_name_outside_the_zone_is_not_found() {
        let r = Request::read(&fields(&[(":method", "CONNECT"), (":authority", "example.com:80")]), "ztna.internal");
        assert_eq!(r.unwrap_err().0, 404);
    }

    #[test]
    fn other_methods_and_protocols_are_refused() {
        assert_eq!(
            Request::read(&fields(&[(":method", "GET"), (":authority", "web.ztna.internal:80")]), "ztna.internal")
                .unwrap_err()
                .0,
            405
        );
        let list = [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":authority", "web.ztna.internal:80"),
            (":path", "/"),
        ];
        assert_eq!(Request::read(&fields(&list), "ztna.internal").unwrap_err().0, 501);
    }
}
