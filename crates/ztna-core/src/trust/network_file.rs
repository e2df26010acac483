//! The text of network.toml: strict reading, errors with a line.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use toml::Spanned;

use crate::error::{Error, Result};
use crate::id::{check_name, check_trust_domain};
use crate::trust::network::{
    Agent, DEFAULT_RELAY_PORT, DEFAULT_ZONE, Network, PortRange, Relay, RelayMode, RelayUrl, Service,
};
use crate::trust::text::line_of;

/// Most ranges of one protocol of one service: more is a mistake, and admission tries them one by one.
const MAX_RANGES: usize = 64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    trust_domain: Spanned<String>,
    zone: Option<Spanned<String>>,
    relay_mode: Option<Spanned<String>>,
    #[serde(default)]
    relay: Vec<FileRelay>,
    #[serde(default)]
    service: Vec<FileService>,
    #[serde(default)]
    agent: Vec<FileAgent>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRelay {
    name: Spanned<String>,
    urls: Spanned<Vec<Spanned<String>>>,
    region: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileService {
    name: Spanned<String>,
    connectors: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    tcp: Vec<Spanned<PortRange>>,
    #[serde(default)]
    udp: Vec<Spanned<PortRange>>,
    #[serde(default)]
    icmp: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileAgent {
    name: Spanned<String>,
    #[serde(default)]
    groups: Vec<Spanned<String>>,
}

pub(super) fn parse(text: &str, at: &str) -> Result<Network> {
    let place = Place { text, at };
    let file: File = toml::from_str(text).map_err(|e| place.error(e.span().map_or(0, |s| s.start), e.message()))?;

    check_trust_domain(file.trust_domain.get_ref()).map_err(|e| place.at(&file.trust_domain, e))?;
    if let Some(zone) = &file.zone {
        check_trust_domain(zone.get_ref()).map_err(|_| {
            place.error(
                zone.span().start,
                format!(
                    "zone `{}` must be a lower-case DNS name such as `ztna.internal`",
                    zone.get_ref().escape_debug()
                ),
            )
        })?;
    }
    let relay_mode = match file.relay_mode.as_ref().map(|m| (m.get_ref().as_str(), m.span().start)) {
        None | Some(("forwarded", _)) => RelayMode::Forwarded,
        Some(("tunnel", _)) => RelayMode::Tunnel,
        Some((other, offset)) => {
            return Err(
                place.error(offset, format!("relay_mode `{}` is not known: forwarded or tunnel", other.escape_debug()))
            );
        }
    };
    Ok(Network {
        trust_domain: file.trust_domain.into_inner(),
        zone: file.zone.map_or_else(|| DEFAULT_ZONE.to_owned(), Spanned::into_inner),
        relay_mode,
        relays: relays(&place, file.relay)?,
        services: services(&place, file.service)?,
        agents: agents(&place, file.agent)?,
    })
}

fn relays(place: &Place<'_>, listed: Vec<FileRelay>) -> Result<Vec<Relay>> {
    let mut names = BTreeSet::new();
    let mut relays = Vec::with_capacity(listed.len());
    for relay in listed {
        let name = place.new_name("relay", &relay.name, &mut names)?;
        if relay.urls.get_ref().is_empty() {
            return Err(place.error(
                relay.urls.span().start,
                format!("relay `{name}` needs at least one URL such as https://192.0.2.1:4433"),
            ));
        }
        let mut urls: Vec<RelayUrl> = Vec::new();
        for url in relay.urls.get_ref() {
            let parsed = parse_relay_url(url.get_ref()).map_err(|why| place.error(url.span().start, why))?;
            if urls.contains(&parsed) {
                return Err(place.error(url.span().start, format!("URL {parsed} is listed twice")));
            }
            urls.push(parsed);
        }
        relays.push(Relay { name, urls, region: relay.region });
    }
    Ok(relays)
}

fn services(place: &Place<'_>, listed: Vec<FileService>) -> Result<BTreeMap<String, Service>> {
    let mut names = BTreeSet::new();
    let mut services = BTreeMap::new();
    for service in listed {
        let name = place.new_name("service", &service.name, &mut names)?;
        if service.connectors.get_ref().is_empty() {
            return Err(
                place.error(service.connectors.span().start, format!("service `{name}` needs at least one connector"))
            );
        }
        let mut seen = BTreeSet::new();
        let mut connectors = Vec::new();
        for connector in service.connectors.get_ref() {
            connectors.push(place.new_name("connector", connector, &mut seen)?);
        }
        let tcp = ranges(place, service.tcp)?;
        let udp = ranges(place, service.udp)?;
        if tcp.is_empty() && udp.is_empty() && !service.icmp {
            let why =
                format!("service `{name}` offers nothing: set tcp = [80, \"8000-8010\"], udp = [53] or icmp = true");
            return Err(place.error(service.name.span().start, why));
        }
        services.insert(name.clone(), Service { name, connectors, tcp, udp, icmp: service.icmp });
    }
    Ok(services)
}

fn agents(place: &Place<'_>, listed: Vec<FileAgent>) -> Result<BTreeMap<String, Agent>> {
    let mut names = BTreeSet::new();
    let mut agents = BTreeMap::new();
    for agent in listed {
        let name = place.new_name("agent", &agent.name, &mut names)?;
        let mut groups = BTreeSet::new();
        for group in &agent.groups {
            place.new_name("group", group, &mut groups)?;
        }
        agents.insert(name.clone(), Agent { name, groups });
    }
    Ok(agents)
}

fn ranges(place: &Place<'_>, listed: Vec<Spanned<PortRange>>) -> Result<Vec<PortRange>> {
    let mut ranges: Vec<PortRange> = Vec::with_capacity(listed.len());
    for range in listed {
        let offset = range.span().start;
        let range = range.into_inner();
        if let Some(other) = ranges.iter().find(|r| r.lo <= range.hi && range.lo <= r.hi) {
            return Err(place.error(offset, format!("ports {range} overlap {other}")));
        }
        if ranges.len() == MAX_RANGES {
            return Err(place.error(offset, format!("more than {MAX_RANGES} port ranges in one list")));
        }
        ranges.push(range);
    }
    ranges.sort_unstable();
    Ok(ranges)
}

/// `https://host[:port]`, nothing after it.
pub(crate) fn parse_relay_url(url: &str) -> Result<RelayUrl, String> {
    let bad = || {
        format!(
            "`{}` is not a relay's URL: https://<host or address>[:port], such as https://192.0.2.1:4433",
            url.escape_debug()
        )
    };
    let rest = url.strip_prefix("https://").ok_or_else(bad)?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = match rest.strip_prefix('[') {
        Some(v6) => {
            let (host, after) = v6.split_once(']').ok_or_else(bad)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| bad())?;
            (host, if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or_else(bad)?) })
        }
        None => match rest.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (rest, None),
        },
    };
    if host.parse::<IpAddr>().is_err() && check_trust_domain(host).is_err() {
        return Err(bad());
    }
    // `u16::from_str` takes a leading `+`, a URL does not.
    let digits = |p: &str| p.bytes().all(|b| b.is_ascii_digit());
    let port = match port {
        None => DEFAULT_RELAY_PORT,
        Some(port) => port.parse::<u16>().ok().filter(|n| *n != 0 && digits(port)).ok_or_else(bad)?,
    };
    Ok(RelayUrl { host: host.to_owned(), port })
}

/// Turns a byte offset into `file:line`.
struct Place<'a> {
    text: &'a str,
    at: &'a str,
}

impl Place<'_> {
    fn error(&self, offset: usize, why: impl Into<String>) -> Error {
        Error::config(format!("{}:{}", self.at, line_of(self.text, offset)), why)
    }

    fn at<T>(&self, value: &Spanned<T>, why: Error) -> Error {
        self.error(value.span().start, why.to_string())
    }

    fn new_name(&self, kind: &str, name: &Spanned<String>, seen: &mut BTreeSet<String>) -> Result<String> {
        check_name(kind, name.get_ref()).map_err(|e| self.at(name, e))?;
        if !seen.insert(name.get_ref().clone()) {
            return Err(self.error(name.span().start, format!("{kind} `{}` is listed twice", name.get_ref())));
        }
        Ok(name.get_ref().clone())
    }
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ports;
        impl Visitor<'_> for Ports {
            type Value = PortRange;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port from 1 to 65535, or a range such as \"8000-8010\"")
            }
            fn visit_i64<E: de::Error>(self, port: i64) -> Result<PortRange, E> {
                let port = u16::try_from(port)
                    .ok()
                    .filter(|p| *p != 0)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Signed(port), &self))?;
                Ok(PortRange { lo: port, hi: port })
            }
            fn visit_u64<E: de::Error>(self, port: u64) -> Result<PortRange, E> {
                self.visit_i64(i64::try_from(port).unwrap_or(i64::MAX))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<PortRange, E> {
                let port = |p: &str| p.parse::<u16>().ok().filter(|n| *n != 0 && p.bytes().all(|b| b.is_ascii_digit()));
                let (lo, hi) = text.split_once('-').unwrap_or((text, text));
                match (port(lo), port(hi)) {
                    (Some(lo), Some(hi)) if lo <= hi => Ok(PortRange { lo, hi }),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_any(Ports)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = r#"trust_domain = "example.test"
zone = "corp.internal"
relay_mode = "tunnel"

[[relay]]
name = "r1"
urls = ["https://192.0.2.1", "https://[2001:db8::1]:443", "https://relay.example.test:4433"]
region = "eu"

[[service]]
name = "web"
connectors = ["c1", "c2"]
tcp = ["8000-8010", 80]
udp = [53]
icmp = true

[[service]]
name = "db"
connectors = ["c2"]
tcp = [5432]

[[agent]]
name = "alice"
groups = ["eng"]
"#;

    #[test]
    fn every_key_of_the_contract_is_read() {
        let net = Network::parse(EXAMPLE, "network.toml").unwrap();
        assert_eq!(
            (net.trust_domain.as_str(), net.zone.as_str(), net.relay_mode),
            ("example.test", "corp.internal", RelayMode::Tunnel)
        );
        let urls: Vec<String> = net.relays[0].urls.iter().map(ToString::to_string).collect();
        assert_eq!(urls, ["https://192.0.2.1:4433", "https://[2001:db8::1]:443", "https://relay.example.test:4433"]);
        let web = net.service("web").unwrap();
        assert_eq!(web.tcp, [PortRange { lo: 80, hi: 80 }, PortRange { lo: 8000, hi: 8010 }]);
        assert!(web.has_tcp(8005) && !web.has_tcp(8011) && web.has_udp(53) && web.icmp);
        assert_eq!(net.connectors().into_iter().collect::<Vec<_>>(), ["c1", "c2"]);
        assert_eq!(net.services_of_connector("c1").map(|s| s.name.as_str()).collect::<Vec<_>>(), ["web"]);
        assert_eq!(
            (net.sole_tcp_port("db"), net.sole_tcp_port("web"), net.sole_tcp_port("nope")),
            (Some(5432), None, None)
        );
        assert!(net.agents["alice"].groups.contains("eng"));
    }

    #[test]
    fn a_port_is_the_one_named_or_the_only_one_there_is() {
        use crate::trust::Protocol::{Icmp, Tcp, Udp};
        let net = Network::parse(EXAMPLE, "network.toml").unwrap();
        let (web, db) = (net.service("web").unwrap(), net.service("db").unwrap());
        assert_eq!((web.resolve_port(Tcp, Some(8_005)), web.resolve_port(Udp, None)), (Ok(8_005), Ok(53)));
        assert_eq!((db.resolve_port(Tcp, None), web.resolve_port(Icmp, None)), (Ok(5_432), Ok(0)));
        let says = |r: Result<u16, String>| r.unwrap_err();
        assert_eq!(says(web.resolve_port(Tcp, Some(81))), "service `web` has no tcp port 81; it has: 80, 8000-8010");
        assert_eq!(
            says(web.resolve_port(Tcp, None)),
            "name the port, one of the tcp ports of service `web`: 80, 8000-8010"
        );
        assert_eq!(says(db.resolve_port(Udp, Some(53))), "service `db` has no udp port 53; it has: none");
    }

    #[test]
    fn the_shortest_file_gets_the_defaults() {
        let net = Network::parse("trust_domain = \"example.test\"", "network.toml").unwrap();
        assert_eq!((net.zone.as_str(), net.relay_mode, net.relays.len()), ("ztna.internal", RelayMode::Forwarded, 0));
    }

    #[test]
    fn a_mistake_is_named_with_file_line_and_accepted_values() {
        let td = "trust_domain = \"a.test\"\n";
        for (rest, line, says) in [
            ("zonee = \"x\"", 2, "trust_domain"),
            ("relay_mode = \"fast\"", 2, "forwarded or tunnel"),
            ("zone = \"Corp\"", 2, "lower-case DNS name"),
            ("\n[[relay]]\nname = \"r1\"\nurls = []", 5, "at least one URL"),
            ("\n[[relay]]\nname = \"r1\"\nurls = [\n\"http://a:1\"]", 6, "https://"),
            ("\n[[relay]]\nname = \"r1\"\nurls = [\"https://a:0\"]", 5, "relay's URL"),
            ("\n[[relay]]\nname = \"r1\"\nurls = [\"https://a/b\"]", 5, "relay's URL"),
            ("\n[[relay]]\nname = \"R1\"\nurls = [\"https://a\"]", 4, "a-z, 0-9"),
            ("\n[[service]]\nname = \"w\"\nconnectors = [\"c\"]\ntcp = [0]", 6, "1 to 65535"),
            ("\n[[service]]\nname = \"w\"\nconnectors = [\"c\"]\ntcp = [80,\n\"90-80\"]", 7, "8000-8010"),
            ("\n[[service]]\nname = \"w\"\nconnectors = [\"c\"]\ntcp = [70000]", 6, "1 to 65535"),
            ("\n[[service]]\nname = \"w\"\nconnectors = [\"c\"]\ntcp = [80, \"70-90\"]", 6, "overlap"),
            ("\n[[service]]\nname = \"w\"\nconnectors = [\"c\"]", 4, "offers nothing"),
            ("\n[[service]]\nname = \"w\"\nconnectors = []\ntcp = [80]", 5, "at least one connector"),
            ("\n[[service]]\nname = \"w\"\nconnectors = [\"c\"]\nicmp = \"yes\"", 6, "boolean"),
            ("\n[[agent]]\nname = \"a\"\n[[agent]]\nname = \"a\"", 6, "listed twice"),
            ("\n[[agent]]\nname = \"a\"\ngroups = [\"g\",\n\"g\"]", 6, "listed twice"),
            ("\n[[agent]]\nname = \"a\"\nteam = \"g\"", 5, "expected `name` or `groups`"),
        ] {
            let error = Network::parse(&format!("{td}{rest}"), "D/network.toml").unwrap_err();
            let text = error.to_string();
            assert!(text.starts_with(&format!("D/network.toml:{line}: ")) && text.contains(says), "{rest}\n=> {text}");
            assert_eq!(error.code(), "ERR_ZTNA_CONFIG");
        }
        assert!(Network::parse("zone = \"a\"", "n").unwrap_err().to_string().contains("trust_domain"));
    }

    #[test]
    fn a_service_has_one_stable_local_address_of_its_own() {
        let net = Network::parse(EXAMPLE, "network.toml").unwrap();
        let (web, db) = (net.virtual_address("web"), net.virtual_address("db"));
        assert_ne!(web, db);
        assert_eq!(web, net.virtual_address("web"));
        assert_eq!(web.segments()[..3], db.segments()[..3]);
        assert_eq!(web.octets()[0], 0xfd);
    }
}
