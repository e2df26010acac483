//! Names: who a node is, what a service is called, which flow a log line belongs to.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// Longest node, service or group name, in bytes: one DNS label (RFC 1035 §2.3.4).
pub const NAME_MAX: usize = 63;

/// The three kinds of node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    Agent,
    Connector,
    Relay,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Agent => "agent",
            Role::Connector => "connector",
            Role::Relay => "relay",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self, Error> {
        match s {
            "agent" => Ok(Role::Agent),
            "connector" => Ok(Role::Connector),
            "relay" => Ok(Role::Relay),
            other => Err(Error::Identity(format!("`{other}` is not a role: agent, connector or relay"))),
        }
    }
}

/// Checks a node, service or group name: one lower-case DNS label, `[a-z0-9]([a-z0-9-]*[a-z0-9])?`, 63 bytes at most.
pub fn check_name(kind: &str, name: &str) -> Result<(), Error> {
    let label = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let edge = |b: Option<u8>| b.is_some_and(|b| b != b'-');
    let bytes = name.as_bytes();
    if !bytes.is_empty()
        && bytes.len() <= NAME_MAX
        && bytes.iter().copied().all(label)
        && edge(bytes.first().copied())
        && edge(bytes.last().copied())
    {
        return Ok(());
    }
    Err(Error::config(
        format!("{kind} name `{}`", name.escape_debug()),
        format!("must be 1 to {NAME_MAX} characters of a-z, 0-9 and `-`, not starting or ending with `-`"),
    ))
}

/// `spiffe://<trust-domain>/<role>/<name>`: the one identity of a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    trust_domain: String,
    role: Role,
    name: String,
}

impl SpiffeId {
    /// Errors: a trust domain that is not a lower-case DNS name, or a name that [`check_name`] refuses.
    pub fn new(trust_domain: &str, role: Role, name: &str) -> Result<Self, Error> {
        check_trust_domain(trust_domain)?;
        check_name(role.as_str(), name)?;
        Ok(SpiffeId { trust_domain: trust_domain.to_owned(), role, name: name.to_owned() })
    }
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }
    pub fn role(&self) -> Role {
        self.role
    }
    pub fn name(&self) -> &str {
        &self.name
    }
    /// The DNS SAN of relays and connectors: `<name>.<role>.<trust-domain>`.
    pub fn dns_name(&self) -> String {
        format!("{}.{}.{}", self.name, self.role, self.trust_domain)
    }
}

/// Checks a trust domain: dot-separated labels as in [`check_name`], 253 bytes at most.
pub fn check_trust_domain(domain: &str) -> Result<(), Error> {
    if domain.len() <= 253 && domain.split('.').all(|l| check_name("label", l).is_ok()) {
        return Ok(());
    }
    Err(Error::config(
        format!("trust domain `{}`", domain.escape_debug()),
        "must be a lower-case DNS name such as `example.test`",
    ))
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/{}/{}", self.trust_domain, self.role, self.name)
    }
}

impl FromStr for SpiffeId {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self, Error> {
        let bad = || {
            Error::Identity(format!(
                "`{}` is not spiffe://<trust-domain>/<agent|connector|relay>/<name>",
                s.escape_debug()
            ))
        };
        let rest = s.strip_prefix("spiffe://").ok_or_else(bad)?;
        let mut parts = rest.split('/');
        let (Some(domain), Some(role), Some(name), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad());
        };
        SpiffeId::new(domain, role.parse().map_err(|_| bad())?, name).map_err(|_| bad())
    }
}

/// One flow, unique in its role's life; carried in `ztna-flow` so that both ends' logs can be joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId(pub u64);

impl fmt::Display for FlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "f{:x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spiffe_id_reads_back_as_it_was_written() {
        let id: SpiffeId = "spiffe://example.test/connector/c1".parse().unwrap();
        assert_eq!(id.to_string(), "spiffe://example.test/connector/c1");
        assert_eq!(id.dns_name(), "c1.connector.example.test");
    }

    #[test]
    fn anything_but_the_exact_shape_is_refused() {
        for bad in [
            "",
            "spiffe://",
            "spiffe://a/agent",
            "spiffe://a/agent/b/c",
            "spiffe://A.test/agent/b",
            "spiffe://a/root/b",
            "spiffe://a/agent/",
            "spiffe://a/agent/b?x",
            "SPIFFE://a/agent/b",
            "spiffe://a//agent/b",
            "spiffe://a/agent/-b",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad}");
        }
    }
}
