//! What callers hand in, as JSON.

use std::time::Duration;

use serde::Deserialize;
use ztna_core::connector::Serve;
use ztna_core::error::{Error, Result};
use ztna_core::role::{Open, PathPolicy, Target};
use ztna_core::trust::{NodeFiles, PortRange, Protocol, Secret};

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RoleOptions {
    pub network: NetworkSource,
    #[serde(default)]
    pub listen: Vec<String>,
    pub stun_alt: Option<String>,
    #[serde(default)]
    pub public_addrs: Vec<String>,
    /// Whether the kernel cuts bursts into datagrams. Default: yes.
    #[serde(default = "yes")]
    pub segmentation_offload: bool,
    pub loops: Option<usize>,
    pub limits: Option<Limits>,
    #[serde(default)]
    pub metered: bool,
    #[serde(default)]
    pub services: Vec<StaticService>,
    #[serde(default)]
    pub authorize: bool,
    /// Agent and connector. Default: no.
    #[serde(default)]
    pub port_mapping: bool,
    /// Absent: on the system's network.
    pub test_place: Option<TestPlace>,
}

fn yes() -> bool {
    true
}

/// A node of a test network of this process.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestPlace {
    pub network: u32,
    pub node: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", untagged)]
pub enum NetworkSource {
    Folder { folder: String },
    Files { files: Files },
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Files {
    pub cert_pem: String,
    pub key_pem: String,
    pub ca_pem: String,
    pub network_toml: String,
    pub policy_cedar: Option<String>,
    pub revoked_toml: Option<String>,
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Files")
    }
}

impl Files {
    pub fn into_node(self, version: u64) -> NodeFiles {
        NodeFiles {
            cert_pem: self.cert_pem,
            key_pem: Secret::new(self.key_pem),
            ca_pem: self.ca_pem,
            network_toml: self.network_toml,
            policy_cedar: self.policy_cedar,
            revoked_toml: self.revoked_toml,
            version,
            folder: None,
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    pub sessions: Option<usize>,
    pub bps_per_session: Option<u64>,
    pub handshakes_per_second: Option<u32>,
    pub handshakes_per_prefix_per_second: Option<u32>,
    pub retries_per_second: Option<u32>,
    pub packets_per_key: Option<u64>,
    pub unread_bytes: Option<u64>,
    pub burst_sockets: Option<usize>,
    pub burst_checks: Option<u16>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StaticService {
    pub service: String,
    pub protocol: String,
    pub ports: (u16, u16),
    pub target: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectOptions {
    pub service: String,
    pub port: Option<u16>,
    #[serde(default)]
    pub protocol: Option<String>,
    #[serde(default)]
    pub path: Option<String>,
    pub timeout_ms: u64,
    #[serde(default)]
    pub traceparent: Option<String>,
}

impl ConnectOptions {
    pub fn open(self, default: Protocol) -> Result<Open> {
        let protocol = match &self.protocol {
            Some(p) => protocol(p)?,
            None => default,
        };
        let named = |path: &str| PathPolicy::ALL.into_iter().find(|p| p.as_str() == path);
        let path = match self.path.as_deref() {
            None => PathPolicy::Auto,
            Some(path) => named(path)
                .ok_or_else(|| Error::config("path", format!("`{path}` must be auto, direct-only or relay-only")))?,
        };
        let traceparent = self.traceparent;
        if traceparent.as_ref().is_some_and(|t| !ztna_core::wire::traceparent::is_valid(t)) {
            return Err(Error::config("traceparent", "must be a W3C trace context"));
        }
        let timeout = timeout(self.timeout_ms);
        Ok(Open { service: self.service, port: self.port, protocol, path, timeout, traceparent })
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ForwardOptions {
    pub service: Option<String>,
    pub port: Option<u16>,
    pub protocol: Option<String>,
    pub listen: Option<ListenOptions>,
    pub socks5: Option<SocksOptions>,
    pub path: Option<String>,
    pub timeout_ms: Option<u64>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct ListenOptions {
    pub host: Option<String>,
    pub port: Option<u16>,
    pub unix: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct SocksOptions {
    pub host: Option<String>,
    pub port: Option<u16>,
    pub username: Option<String>,
    pub password: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServeOptions {
    pub service: String,
    pub port: Option<u16>,
    pub protocol: String,
    pub target: Option<String>,
    pub max_connections: Option<usize>,
}

impl ServeOptions {
    pub fn into_serve(self) -> Result<Serve> {
        let protocol = protocol(&self.protocol)?;
        let target = match &self.target {
            Some(text) => target(text, protocol)?,
            None => Target::Handler(0),
        };
        Ok(Serve {
            service: self.service,
            protocol,
            ports: self.port.map(|p| ports(p, p)),
            target,
            max_connections: self.max_connections,
            closing: false,
        })
    }
}

/// As long as asked for, up to 49 days: added to a time, it must give one.
pub fn timeout(ms: u64) -> Duration {
    Duration::from_millis(ms.min(u32::MAX.into()))
}

pub fn protocol(p: &str) -> Result<Protocol> {
    match p {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        other => Err(Error::config("protocol", format!("`{other}` must be tcp or udp"))),
    }
}

/// `tcp:HOST:PORT`, `udp:HOST:PORT` or `unix:/path`; a scheme may be written with `//`.
pub fn target(text: &str, p: Protocol) -> Result<Target> {
    let bad = |why: &str| {
        Error::config(format!("target `{text}`"), format!("{why}: tcp:HOST:PORT, udp:HOST:PORT or unix:/PATH"))
    };
    let (scheme, rest) = text.split_once(':').ok_or_else(|| bad("must be"))?;
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    match (scheme, p) {
        ("unix", Protocol::Tcp) if rest.starts_with('/') => Ok(Target::Unix(rest.into())),
        ("tcp", Protocol::Tcp) | ("udp", Protocol::Udp) => {
            let (host, port) = rest.rsplit_once(':').ok_or_else(|| bad("no port"))?;
            let port = port.parse().map_err(|_| bad("the port is no number from 1 to 65535"))?;
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            if host.is_empty() || port == 0 {
                return Err(bad("host and port must not be empty"));
            }
            Ok(Target::Host { host, port })
        }
        _ => Err(bad("does not fit the protocol")),
    }
}

pub fn ports(lo: u16, hi: u16) -> PortRange {
    PortRange { lo, hi }
}
