//! What a verified certificate says, and every reason not to believe one.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::id::{Role, SpiffeId};
use crate::trust::text::{hex, rfc3339, system_time};

/// One end of a connection, as its verified leaf certificate names it. Made only by `TrustAnchors`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The one URI SAN.
    pub id: SpiffeId,
    /// Serial number in lower-case hexadecimal, without leading zero bytes.
    pub serial: String,
    pub not_before: SystemTime,
    /// A connection ends here at the latest.
    pub not_after: SystemTime,
    /// The certificate itself, so that it can be judged again under a newer snapshot.
    pub leaf_der: Arc<[u8]>,
    /// The CA whose signature was found good, byte for byte: while it is trusted, that need not be computed again.
    pub signed_by: Arc<[u8]>,
}

impl PeerIdentity {
    /// `agent/alice`: how revocations and the command line name a node.
    pub fn short_name(&self) -> String {
        format!("{}/{}", self.id.role(), self.id.name())
    }
}

/// What the handshake at hand asks of the peer.
#[derive(Debug, Clone, Copy)]
pub struct Expect<'a> {
    pub trust_domain: &'a str,
    /// Roles that may take the peer's part here.
    pub roles: RoleSet,
    /// What the peer uses its certificate for.
    pub usage: Usage,
}

/// A set of roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoleSet(u8);

impl RoleSet {
    pub const AGENT: RoleSet = RoleSet(1);
    pub const CONNECTOR: RoleSet = RoleSet(2);
    pub const RELAY: RoleSet = RoleSet(4);
    /// Those that come to a relay.
    pub const NODES: RoleSet = RoleSet(1 | 2);
    pub const ALL: RoleSet = RoleSet(1 | 2 | 4);

    pub const fn of(role: Role) -> RoleSet {
        match role {
            Role::Agent => RoleSet::AGENT,
            Role::Connector => RoleSet::CONNECTOR,
            Role::Relay => RoleSet::RELAY,
        }
    }
    pub const fn or(self, other: RoleSet) -> RoleSet {
        RoleSet(self.0 | other.0)
    }
    pub const fn contains(self, role: Role) -> bool {
        self.0 & RoleSet::of(role).0 != 0
    }
}

/// Extended key usage the peer needs (RFC 5280 §4.2.1.12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// The peer is the TLS client.
    ClientAuth,
    /// The peer is the TLS server.
    ServerAuth,
}

impl Usage {
    /// The usage a node's own certificate can't do without: relays are servers, the others are clients.
    pub fn of(role: Role) -> Usage {
        match role {
            Role::Agent | Role::Connector => Usage::ClientAuth,
            Role::Relay => Usage::ServerAuth,
        }
    }
}

/// Why a certificate is not accepted. The text is for an operator; [`Refusal::as_str`] is for metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The peer sent none.
    NoCertificate,
    /// No trusted CA signed the leaf.
    UnknownCa,
    /// The chain holds something that is neither the leaf nor, byte for byte, a trusted CA.
    StrayCertificate,
    /// notAfter of the leaf, or of its CA, has passed.
    Expired,
    /// notBefore of the leaf, or of its CA, is in the future.
    NotYetValid,
    /// Its serial or name is in revoked.toml.
    Revoked,
    NoUriSan,
    SeveralUriSans,
    /// The URI SAN is not `spiffe://<trust-domain>/<role>/<name>`.
    BadSpiffeId,
    WrongTrustDomain,
    /// The role may not do this here.
    WrongRole,
    /// The extended key usage this needs is missing.
    WrongUsage,
    /// A relay or connector without `<name>.<role>.<trust-domain>` as its one DNS SAN.
    MissingDnsSan,
    /// A CA certificate, or one that may not sign a handshake, in a leaf's place.
    NotALeaf,
    /// Not an X.509 v3 certificate of the accepted shape.
    Malformed(String),
}

impl Refusal {
    /// A short label with few values, for metrics and logs.
    pub fn as_str(&self) -> &'static str {
        match self {
            Refusal::NoCertificate => "no-certificate",
            Refusal::UnknownCa => "unknown-ca",
            Refusal::StrayCertificate => "stray-certificate",
            Refusal::Expired => "expired",
            Refusal::NotYetValid => "not-yet-valid",
            Refusal::Revoked => "revoked",
            Refusal::NoUriSan => "no-uri-san",
            Refusal::SeveralUriSans => "several-uri-sans",
            Refusal::BadSpiffeId => "bad-spiffe-id",
            Refusal::WrongTrustDomain => "wrong-trust-domain",
            Refusal::WrongRole => "wrong-role",
            Refusal::WrongUsage => "wrong-usage",
            Refusal::MissingDnsSan => "missing-dns-san",
            Refusal::NotALeaf => "not-a-leaf",
            Refusal::Malformed(_) => "malformed",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::NoCertificate => "no certificate was presented; every node needs one from `ztna pki issue`",
            Refusal::UnknownCa => {
                "the certificate was not signed by a trusted CA; issue it from this trust folder, or publish ca.pem again after a CA rotation"
            }
            Refusal::StrayCertificate => "the chain holds a certificate that is neither the node's own nor a trusted CA; send the leaf alone",
            Refusal::Expired => "the certificate has expired; run `ztna pki renew`, or check the clock",
            Refusal::NotYetValid => "the certificate is not valid yet; check the clocks of this machine and of the one that issued it",
            Refusal::Revoked => "the certificate was revoked; issue the node again if it may come back",
            Refusal::NoUriSan => "the certificate has no URI SAN; it needs exactly one, spiffe://<trust-domain>/<agent|connector|relay>/<name>",
            Refusal::SeveralUriSans => "the certificate has more than one URI SAN; exactly one is accepted",
            Refusal::BadSpiffeId => "the certificate's URI SAN is not spiffe://<trust-domain>/<agent|connector|relay>/<name>",
            Refusal::WrongTrustDomain => "the certificate belongs to another trust domain",
            Refusal::WrongRole => "the certificate's role may not do this here",
            Refusal::WrongUsage => "the certificate lacks the extended key usage (clientAuth or serverAuth) that this needs",
            Refusal::MissingDnsSan => "the certificate of a relay or connector needs the one DNS SAN <name>.<role>.<trust-domain>",
            Refusal::NotALeaf => "the certificate is a CA's, or may not sign a handshake; a node needs a leaf with digitalSignature",
            Refusal::Malformed(why) => return write!(f, "the certificate can't be used: {why}"),
        })
    }
}

/// What a certificate claims, for a log line beside a [`Refusal`]. Nothing in it is verified.
pub fn claims(leaf_der: &[u8]) -> String {
    let Ok((_, cert)) = X509Certificate::from_der(leaf_der) else {
        return "claims nothing readable".to_owned();
    };
    let uri = match cert.subject_alternative_name() {
        Ok(Some(san)) => san.value.general_names.iter().find_map(|n| match n {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        }),
        Ok(None) | Err(_) => None,
    };
    format!(
        "claims {}, serial {}, valid {} to {}",
        uri.unwrap_or("no URI").chars().take(200).collect::<String>().escape_debug(),
        hex(cert.raw_serial()),
        rfc3339(system_time(cert.validity().not_before.timestamp())),
        rfc3339(system_time(cert.validity().not_after.timestamp())),
    )
}
