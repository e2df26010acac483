//! The trusted CAs and the one place where a certificate becomes an identity.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use boring::pkey::{PKey, Public};
use boring::x509::X509;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry;
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

use crate::error::Error;
use crate::id::{Role, SpiffeId};
use crate::trust::identity::{Expect, PeerIdentity, Refusal, RoleSet, Usage};
use crate::trust::revocation::Revocations;
use crate::trust::text::{hex, system_time, unix_seconds};

/// Most CAs in one ca.pem: two during a rotation, and room for an operator who overlaps several. Each costs one
/// signature check per refused handshake.
const MAX_ANCHORS: usize = 8;

/// Longest chain a peer may send: the leaf and every CA we could trust.
const MAX_CHAIN: usize = 1 + MAX_ANCHORS;

/// The CAs whose signature on a leaf makes an identity. Each signs leaves directly (path length 0), so a path is always
/// one leaf and one anchor, and there is no path building to get wrong.
pub struct TrustAnchors {
    anchors: Vec<Anchor>,
}

struct Anchor {
    cert: X509,
    key: PKey<Public>,
    der: Vec<u8>,
    not_before: i64,
    not_after: i64,
}

impl TrustAnchors {
    /// Reads 1 to 8 PEM certificates. Each must be a CA with path length 0 that may sign certificates, and carry no
    /// critical extension besides those two facts.
    ///
    /// Errors: [`Error::Config`] at `at` that counts the certificates from 1.
    pub fn from_pem(pem: &str, at: &str) -> Result<TrustAnchors, Error> {
        let certs = X509::stack_from_pem(pem.as_bytes()).map_err(|e| Error::config(at, format!("not PEM certificates: {e}")))?;
        if certs.is_empty() || certs.len() > MAX_ANCHORS {
            return Err(Error::config(at, format!("holds {} certificates; 1 to {MAX_ANCHORS} CA certificates are accepted", certs.len())));
        }
        let mut anchors = Vec::with_capacity(certs.len());
        for (n, cert) in certs.into_iter().enumerate() {
            anchors.push(Anchor::new(cert).map_err(|why| Error::config(at, format!("certificate {}: {why}", n + 1)))?);
        }
        Ok(TrustAnchors { anchors })
    }

    /// Judges the chain a peer sent, leaf first. The identity is read from the leaf, and only after an anchor's
    /// signature on that leaf has been checked. Further certificates are of no use to anyone and must be trusted CAs.
    pub fn verify(&self, chain_der: &[&[u8]], expect: Expect<'_>, revoked: &Revocations, now: SystemTime) -> Result<PeerIdentity, Refusal> {
        let Some((leaf, rest)) = chain_der.split_first() else {
            return Err(Refusal::NoCertificate);
        };
        if chain_der.len() > MAX_CHAIN || rest.iter().any(|der| !self.holds(der)) {
            return Err(Refusal::StrayCertificate);
        }
        self.judge(leaf, expect.trust_domain, expect.roles, Some(expect.usage), revoked, now)
    }

    /// Judges a connected peer again, after a reload or as time passes. Its key usage was settled by the handshake.
    pub fn still_trusted(&self, peer: &PeerIdentity, trust_domain: &str, revoked: &Revocations, now: SystemTime) -> Result<(), Refusal> {
        let again = self.judge(&peer.leaf_der, trust_domain, RoleSet::of(peer.id.role()), None, revoked, now)?;
        if again == *peer { Ok(()) } else { Err(Refusal::Malformed("not the identity of its certificate".to_owned())) }
    }

    /// The CA certificates in DER, in the order of the file.
    pub fn certificates_der(&self) -> impl Iterator<Item = &[u8]> {
        self.anchors.iter().map(|a| a.der.as_slice())
    }

    fn holds(&self, der: &[u8]) -> bool {
        self.anchors.iter().any(|a| a.der == der)
    }

    fn judge(
        &self,
        leaf_der: &[u8],
        trust_domain: &str,
        roles: RoleSet,
        usage: Option<Usage>,
        revoked: &Revocations,
        now: SystemTime,
    ) -> Result<PeerIdentity, Refusal> {
        let malformed = |why: &str| Refusal::Malformed(why.to_owned());
        let (rest, leaf) = X509Certificate::from_der(leaf_der).map_err(|_| malformed("not DER of an X.509 certificate"))?;
        if !rest.is_empty() || leaf.version() != X509Version::V3 {
            return Err(malformed("not exactly one X.509 v3 certificate"));
        }
        let signed = X509::from_der(leaf_der).map_err(|_| malformed("not DER of an X.509 certificate"))?;
        let anchor = self.anchors.iter().find(|a| a.signed(&signed)).ok_or(Refusal::UnknownCa)?;
        let now_s = unix_seconds(now);
        let (not_before, not_after) = (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
        if now_s > not_after || now_s > anchor.not_after {
            return Err(Refusal::Expired);
        }
        if now_s < not_before || now_s < anchor.not_before {
            return Err(Refusal::NotYetValid);
        }
        check_leaf_shape(&leaf)?;
        if let Some(usage) = usage {
            check_usage(&leaf, usage)?;
        }
        let id = spiffe_id(&leaf)?;
        if id.trust_domain() != trust_domain {
            return Err(Refusal::WrongTrustDomain);
        }
        if !roles.contains(id.role()) {
            return Err(Refusal::WrongRole);
        }
        check_dns_san(&leaf, &id)?;
        let identity = PeerIdentity {
            id,
            serial: hex(leaf.raw_serial()),
            not_before: system_time(not_before),
            not_after: system_time(not_after),
            leaf_der: Arc::from(leaf_der),
        };
        if revoked.covers(&identity) { Err(Refusal::Revoked) } else { Ok(identity) }
    }
}

impl fmt::Debug for TrustAnchors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustAnchors").field("cas", &self.anchors.len()).finish()
    }
}

impl Anchor {
    fn new(cert: X509) -> Result<Anchor, String> {
        let der = cert.to_der().map_err(|e| e.to_string())?;
        let key = cert.public_key().map_err(|e| e.to_string())?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|e| e.to_string())?;
        let constraints = parsed.basic_constraints().map_err(|e| e.to_string())?;
        if !constraints.is_some_and(|c| c.value.ca && c.value.path_len_constraint == Some(0)) {
            return Err("not a CA with path length 0 (basicConstraints CA:TRUE, pathlen:0)".to_owned());
        }
        if !parsed.key_usage().map_err(|e| e.to_string())?.is_some_and(|u| u.value.key_cert_sign()) {
            return Err("its key usage lacks keyCertSign".to_owned());
        }
        // What we would have to honour and don't understand (name constraints, policies) must not be skipped.
        if parsed.iter_extensions().any(|e| e.critical && !is_one_of(e.parsed_extension(), &[Known::BasicConstraints, Known::KeyUsage])) {
            return Err("it has a critical extension other than basicConstraints and keyUsage".to_owned());
        }
        let (not_before, not_after) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
        Ok(Anchor { cert, key, der, not_before, not_after })
    }

    fn signed(&self, leaf: &X509) -> bool {
        // `issued` compares names and key identifiers, so that the signature is checked against one CA as a rule.
        self.cert.issued(leaf).is_ok() && leaf.verify(&self.key).unwrap_or(false)
    }
}

/// The critical extensions that are honoured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    BasicConstraints,
    KeyUsage,
    ExtendedKeyUsage,
    SubjectAlternativeName,
}

fn is_one_of(extension: &ParsedExtension<'_>, accepted: &[Known]) -> bool {
    let known = match extension {
        ParsedExtension::BasicConstraints(_) => Known::BasicConstraints,
        ParsedExtension::KeyUsage(_) => Known::KeyUsage,
        ParsedExtension::ExtendedKeyUsage(_) => Known::ExtendedKeyUsage,
        ParsedExtension::SubjectAlternativeName(_) => Known::SubjectAlternativeName,
        _ => return false,
    };
    accepted.contains(&known)
}

fn check_leaf_shape(leaf: &X509Certificate<'_>) -> Result<(), Refusal> {
    let twice = |_| Refusal::Malformed("an extension can't be read or appears twice".to_owned());
    if leaf.basic_constraints().map_err(twice)?.is_some_and(|c| c.value.ca) {
        return Err(Refusal::NotALeaf);
    }
    let usage = leaf.key_usage().map_err(twice)?;
    if !usage.is_some_and(|u| u.value.digital_signature() && !u.value.key_cert_sign() && !u.value.crl_sign()) {
        return Err(Refusal::NotALeaf);
    }
    let known = [Known::BasicConstraints, Known::KeyUsage, Known::ExtendedKeyUsage, Known::SubjectAlternativeName];
    if leaf.iter_extensions().any(|e| e.critical && !is_one_of(e.parsed_extension(), &known)) {
        return Err(Refusal::Malformed("it has a critical extension that is not understood".to_owned()));
    }
    let key = leaf.public_key();
    let on_p256 = key.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok()).is_some_and(|o| o == oid_registry::OID_EC_P256);
    if key.algorithm.algorithm != oid_registry::OID_KEY_TYPE_EC_PUBLIC_KEY || !on_p256 {
        return Err(Refusal::Malformed("its key is not on P-256".to_owned()));
    }
    Ok(())
}

fn check_usage(leaf: &X509Certificate<'_>, usage: Usage) -> Result<(), Refusal> {
    let listed = leaf.extended_key_usage().map_err(|_| Refusal::WrongUsage)?.ok_or(Refusal::WrongUsage)?;
    // anyExtendedKeyUsage does not count: a node's certificate says what it is for.
    let has = match usage {
        Usage::ClientAuth => listed.value.client_auth,
        Usage::ServerAuth => listed.value.server_auth,
    };
    if has { Ok(()) } else { Err(Refusal::WrongUsage) }
}

fn spiffe_id(leaf: &X509Certificate<'_>) -> Result<SpiffeId, Refusal> {
    let san = leaf.subject_alternative_name().map_err(|_| Refusal::Malformed("its SAN can't be read".to_owned()))?;
    let mut uris = san.iter().flat_map(|s| s.value.general_names.iter()).filter_map(|n| match n {
        GeneralName::URI(uri) => Some(Ok(*uri)),
        // Such as a URI that is not UTF-8: not something to step over while counting.
        GeneralName::Invalid(..) => Some(Err(Refusal::Malformed("its SAN can't be read".to_owned()))),
        _ => None,
    });
    match (uris.next().transpose()?, uris.next().transpose()?) {
        (None, _) => Err(Refusal::NoUriSan),
        (Some(_), Some(_)) => Err(Refusal::SeveralUriSans),
        (Some(uri), None) => uri.parse().map_err(|_| Refusal::BadSpiffeId),
    }
}

fn check_dns_san(leaf: &X509Certificate<'_>, id: &SpiffeId) -> Result<(), Refusal> {
    match id.role() {
        Role::Agent => return Ok(()),
        Role::Connector | Role::Relay => {}
    }
    let san = leaf.subject_alternative_name().map_err(|_| Refusal::MissingDnsSan)?;
    let mut names = san.iter().flat_map(|s| s.value.general_names.iter()).filter_map(|n| match n {
        GeneralName::DNSName(name) => Some(*name),
        _ => None,
    });
    match (names.next(), names.next()) {
        (Some(name), None) if name == id.dns_name() => Ok(()),
        _ => Err(Refusal::MissingDnsSan),
    }
}
