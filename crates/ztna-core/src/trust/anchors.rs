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
    der: Arc<[u8]>,
    not_before: i64,
    not_after: i64,
}

impl TrustAnchors {
    /// Reads 1 to 8 PEM certificates. Each must be a CA with path length 0 that may sign certificates, and carry no
    /// critical extension besides those two facts.
    ///
    /// Errors: [`Error::Config`] at `at` that counts the certificates from 1.
    pub fn from_pem(pem: &str, at: &str) -> Result<TrustAnchors, Error> {
        let certs = X509::stack_from_pem(pem.as_bytes())
            .map_err(|e| Error::config(at, format!("not PEM certificates: {e}")))?;
        if certs.is_empty() || certs.len() > MAX_ANCHORS {
            return Err(Error::config(
                at,
                format!("holds {} certificates; 1 to {MAX_ANCHORS} CA certificates are accepted", certs.len()),
            ));
        }
        let mut anchors = Vec::with_capacity(certs.len());
        for (n, cert) in certs.into_iter().enumerate() {
            anchors.push(Anchor::new(cert).map_err(|why| Error::config(at, format!("certificate {}: {why}", n + 1)))?);
        }
        Ok(TrustAnchors { anchors })
    }

    /// Judges the chain a peer sent, leaf first. The identity is read from the leaf, and only after an anchor's
    /// signature on that leaf has been checked. Further certificates are of no use to anyone and must be trusted CAs.
    pub fn verify(
        &self,
        chain_der: &[&[u8]],
        expect: Expect<'_>,
        revoked: &Revocations,
        now: SystemTime,
    ) -> Result<PeerIdentity, Refusal> {
        let Some((leaf, rest)) = chain_der.split_first() else {
            return Err(Refusal::NoCertificate);
        };
        if chain_der.len() > MAX_CHAIN || rest.iter().any(|der| !self.holds(der)) {
            return Err(Refusal::StrayCertificate);
        }
        self.judge(leaf, expect.trust_domain, expect.roles, Some(expect.usage), revoked, now)
    }

    /// Judges a connected peer again, after a reload or as time passes. Its key usage was settled by the handshake. Cheap while the
    /// CA that signed it is trusted: what can have changed then is the time, the trust domain and what is revoked.
    pub fn still_trusted(
        &self,
        peer: &PeerIdentity,
        trust_domain: &str,
        revoked: &Revocations,
        now: SystemTime,
    ) -> Result<(), Refusal> {
        if let Some(anchor) = self.anchors.iter().find(|a| *a.der == *peer.signed_by) {
            anchor.check_dates(unix_seconds(peer.not_before), unix_seconds(peer.not_after), unix_seconds(now))?;
            if peer.id.trust_domain() != trust_domain {
                return Err(Refusal::WrongTrustDomain);
            }
            return if revoked.covers(peer) { Err(Refusal::Revoked) } else { Ok(()) };
        }
        // Its CA has gone. Another one may have its key: the signature tells.
        let again = self.judge(&peer.leaf_der, trust_domain, RoleSet::of(peer.id.role()), None, revoked, now)?;
        let same = PeerIdentity { signed_by: peer.signed_by.clone(), ..again } == *peer;
        if same { Ok(()) } else { Err(Refusal::Malformed("not the identity of its certificate".to_owned())) }
    }

    /// The CA certificates in DER, in the order of the file.
    pub fn certificates_der(&self) -> impl Iterator<Item = &[u8]> {
        self.anchors.iter().map(|a| &*a.der)
    }

    fn holds(&self, der: &[u8]) -> bool {
        self.anchors.iter().any(|a| *a.der == *der)
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
        let (rest, leaf) =
            X509Certificate::from_der(leaf_der).map_err(|_| malformed("not DER of an X.509 certificate"))?;
        if !rest.is_empty() || leaf.version() != X509Version::V3 {
            return Err(malformed("not exactly one X.509 v3 certificate"));
        }
        let signed = X509::from_der(leaf_der).map_err(|_| malformed("not DER of an X.509 certificate"))?;
        let anchor = self.anchors.iter().find(|a| a.signed(&signed)).ok_or(Refusal::UnknownCa)?;
        let (not_before, not_after) = (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
        anchor.check_dates(not_before, not_after, unix_seconds(now))?;
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
            signed_by: anchor.der.clone(),
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
        if parsed
            .iter_extensions()
            .any(|e| e.critical && !is_one_of(e.parsed_extension(), &[Known::BasicConstraints, Known::KeyUsage]))
        {
            return Err("it has a critical extension other than basicConstraints and keyUsage".to_owned());
        }
        let (not_before, not_after) =
            (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
        Ok(Anchor { cert, key, der: Arc::from(der), not_before, not_after })
    }

    /// The dates of a leaf of this CA, and the CA's own. Seconds since 1970.
    fn check_dates(&self, not_before: i64, not_after: i64, now: i64) -> Result<(), Refusal> {
        if now > not_after || now > self.not_after {
            return Err(Refusal::Expired);
        }
        if now < not_before || now < self.not_before {
            return Err(Refusal::NotYetValid);
        }
        Ok(())
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
    let on_p256 =
        key.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok()).is_some_and(|o| o == oid_registry::OID_EC_P256);
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::trust::pki::{Ca, Issued, LeafSpec};

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn each_role_is_accepted_in_its_own_part_only() {
        let world = World::new();
        for (role, client, server) in
            [(Role::Agent, true, false), (Role::Connector, true, true), (Role::Relay, false, true)]
        {
            let leaf = world.leaf(role, |_| {});
            let result = |usage| world.verify(&[&leaf], RoleSet::ALL, usage);
            assert_eq!(result(Usage::ClientAuth).is_ok(), client, "{role}");
            assert_eq!(result(Usage::ServerAuth).is_ok(), server, "{role}");
        }
        let agent = world.verify(&[&world.leaf(Role::Agent, |_| {})], RoleSet::NODES, Usage::ClientAuth).unwrap();
        assert_eq!((agent.id.to_string().as_str(), agent.serial.len()), ("spiffe://example.test/agent/n1", 32));
        assert_eq!(agent.not_after, world.now + DAY);
    }

    #[test]
    fn every_wrong_certificate_is_refused_for_its_own_reason() {
        let world = World::new();
        type Change = fn(&mut LeafSpec);
        let cases: [(Role, Change, Refusal); 16] = [
            (Role::Agent, |s| s.not_after = s.not_before + Duration::from_secs(1), Refusal::Expired),
            (Role::Agent, |s| s.not_before = s.not_after - Duration::from_secs(1), Refusal::NotYetValid),
            (Role::Agent, |s| s.uris.clear(), Refusal::NoUriSan),
            (Role::Agent, |s| s.uris.push("spiffe://example.test/agent/n2".into()), Refusal::SeveralUriSans),
            (Role::Agent, |s| s.uris.push("https://example.test/".into()), Refusal::SeveralUriSans),
            (Role::Agent, |s| s.uris = vec!["spiffe://example.test/admin/n1".into()], Refusal::BadSpiffeId),
            (Role::Agent, |s| s.uris = vec!["spiffe://example.test/agent/n1/x".into()], Refusal::BadSpiffeId),
            (Role::Agent, |s| s.uris = vec!["spiffe://other.test/agent/n1".into()], Refusal::WrongTrustDomain),
            (Role::Agent, |s| s.uris = vec!["spiffe://example.test/relay/n1".into()], Refusal::WrongRole),
            (Role::Agent, |s| (s.client_auth, s.server_auth) = (false, true), Refusal::WrongUsage),
            (Role::Agent, |s| s.client_auth = false, Refusal::WrongUsage),
            (Role::Connector, |s| s.dns_names.clear(), Refusal::MissingDnsSan),
            (Role::Connector, |s| s.dns_names = vec!["n2.connector.example.test".into()], Refusal::MissingDnsSan),
            (Role::Connector, |s| s.dns_names.push("n2.connector.example.test".into()), Refusal::MissingDnsSan),
            (Role::Agent, |s| s.ca = true, Refusal::NotALeaf),
            (Role::Agent, |s| s.digital_signature = false, Refusal::NotALeaf),
        ];
        for (role, change, refusal) in cases {
            let leaf = world.leaf(role, change);
            assert_eq!(world.verify(&[&leaf], RoleSet::NODES, Usage::ClientAuth), Err(refusal), "{role}");
        }
    }

    #[test]
    fn no_certificate_another_ca_and_garbage_are_refused() {
        let world = World::new();
        assert_eq!(world.verify(&[], RoleSet::ALL, Usage::ClientAuth), Err(Refusal::NoCertificate));
        let mut other = World::new();
        other.now = world.now;
        assert_eq!(
            world.verify(&[&other.leaf(Role::Agent, |_| {})], RoleSet::ALL, Usage::ClientAuth),
            Err(Refusal::UnknownCa)
        );
        assert!(matches!(world.verify(&[b"garbage"], RoleSet::ALL, Usage::ClientAuth), Err(Refusal::Malformed(_))));
        let mut trailing = world.leaf(Role::Agent, |_| {});
        trailing.push(0);
        assert!(matches!(world.verify(&[&trailing], RoleSet::ALL, Usage::ClientAuth), Err(Refusal::Malformed(_))));
    }

    #[test]
    fn a_leaf_whose_signature_is_off_by_one_bit_is_refused() {
        let world = World::new();
        let leaf = world.leaf(Role::Agent, |_| {});
        let mut forged = leaf.clone();
        *forged.last_mut().unwrap() ^= 1;
        assert_eq!(world.verify(&[&forged], RoleSet::ALL, Usage::ClientAuth), Err(Refusal::UnknownCa));
    }

    #[test]
    fn a_filler_certificate_is_refused_in_every_position() {
        let world = World::new();
        let (own, other) = (world.leaf(Role::Agent, |_| {}), world.leaf(Role::Relay, |_| {}));
        let stranger = World::new().leaf(Role::Relay, |_| {});
        let ca = der(&world.ca.cert_pem);
        let verify = |chain: &[&[u8]]| world.verify(chain, RoleSet::AGENT, Usage::ClientAuth);
        assert_eq!(verify(&[&own, &ca]).unwrap().id.name(), "n1");
        assert_eq!(verify(&[&stranger, &own]), Err(Refusal::StrayCertificate));
        for filler in [&other, &stranger, &own] {
            assert_eq!(verify(&[&own, filler]), Err(Refusal::StrayCertificate));
            assert_eq!(verify(&[&own, &ca, filler]), Err(Refusal::StrayCertificate));
            assert_eq!(verify(&[&own, filler, &ca]), Err(Refusal::StrayCertificate));
        }
        // A trusted CA in front is the leaf that is judged.
        assert_eq!(verify(&[&ca, &own]), Err(Refusal::StrayCertificate));
        assert_eq!(verify(&[&ca]), Err(Refusal::NotALeaf));
    }

    #[test]
    fn a_certificate_signed_by_a_leaf_is_refused() {
        let world = World::new();
        let issued = world.issue(Role::Agent, |_| {});
        let false_ca = Ca { cert_pem: issued.cert_pem.clone(), key_pem: issued.key_pem.clone() };
        let id = SpiffeId::new("example.test", Role::Relay, "r1").unwrap();
        let forged = der(&false_ca.issue(&LeafSpec::node(&id, world.now, DAY)).unwrap().cert_pem);
        let between = der(&issued.cert_pem);
        assert_eq!(world.verify(&[&forged], RoleSet::ALL, Usage::ServerAuth), Err(Refusal::UnknownCa));
        assert_eq!(world.verify(&[&forged, &between], RoleSet::ALL, Usage::ServerAuth), Err(Refusal::StrayCertificate));
    }

    #[test]
    fn revocation_works_by_serial_and_by_name() {
        let mut world = World::new();
        let leaf = world.leaf(Role::Agent, |_| {});
        let peer = world.verify(&[&leaf], RoleSet::ALL, Usage::ClientAuth).unwrap();
        for text in [format!("serials = [\"{}\"]", peer.serial), "names = [\"agent/n1\"]".to_owned()] {
            world.revoked = Revocations::parse(&text, "revoked.toml").unwrap();
            assert_eq!(world.verify(&[&leaf], RoleSet::ALL, Usage::ClientAuth), Err(Refusal::Revoked));
            assert_eq!(
                world.anchors.still_trusted(&peer, "example.test", &world.revoked, world.now),
                Err(Refusal::Revoked)
            );
        }
        world.revoked = Revocations::parse("names = [\"relay/n1\", \"agent/n2\"]", "revoked.toml").unwrap();
        assert!(world.verify(&[&leaf], RoleSet::ALL, Usage::ClientAuth).is_ok());
    }

    #[test]
    fn a_connected_peer_is_judged_again_by_time_ca_and_domain() {
        let world = World::new();
        let peer = world.verify(&[&world.leaf(Role::Agent, |_| {})], RoleSet::ALL, Usage::ClientAuth).unwrap();
        let again = |anchors: &TrustAnchors, domain, now| anchors.still_trusted(&peer, domain, &world.revoked, now);
        assert_eq!(again(&world.anchors, "example.test", world.now), Ok(()));
        assert_eq!(
            again(&world.anchors, "example.test", peer.not_after + Duration::from_secs(1)),
            Err(Refusal::Expired)
        );
        assert_eq!(again(&world.anchors, "other.test", world.now), Err(Refusal::WrongTrustDomain));
        assert_eq!(again(&World::new().anchors, "example.test", world.now), Err(Refusal::UnknownCa));
    }

    #[test]
    fn a_connected_peer_costs_a_signature_only_once_its_ca_is_no_longer_there_and_is_cut_then() {
        let (world, other) = (World::new(), World::new());
        let mut peer = world.verify(&[&world.leaf(Role::Agent, |_| {})], RoleSet::ALL, Usage::ClientAuth).unwrap();
        // Nobody could verify this certificate again.
        peer.leaf_der = Arc::from([0; 4]);
        let again = |pems: &[&Ca]| {
            let pem: String = pems.iter().map(|ca| ca.cert_pem.as_str()).collect();
            let anchors = TrustAnchors::from_pem(&pem, "ca.pem").unwrap();
            anchors.still_trusted(&peer, "example.test", &world.revoked, world.now)
        };
        assert_eq!(again(&[&world.ca]), Ok(()));
        assert_eq!(again(&[&other.ca, &world.ca]), Ok(()));
        assert!(matches!(again(&[&other.ca]), Err(Refusal::Malformed(_))));
    }

    #[test]
    fn a_ca_that_leaves_the_set_takes_its_connected_peers_with_it() {
        let (one, two) = (World::new(), World::new());
        let both = TrustAnchors::from_pem(&format!("{}{}", one.ca.cert_pem, two.ca.cert_pem), "ca.pem").unwrap();
        let expect = Expect { trust_domain: "example.test", roles: RoleSet::ALL, usage: Usage::ClientAuth };
        let leaf = one.leaf(Role::Agent, |_| {});
        let peer = both.verify(&[&leaf], expect, &one.revoked, one.now).unwrap();
        let again = |anchors: &TrustAnchors| anchors.still_trusted(&peer, "example.test", &one.revoked, one.now);
        assert_eq!((again(&both), again(&one.anchors)), (Ok(()), Ok(())));
        assert_eq!(again(&two.anchors), Err(Refusal::UnknownCa));
    }

    #[test]
    fn an_expired_ca_takes_its_leaves_with_it() {
        let world = World::new();
        let leaf = world.leaf(Role::Agent, |s| s.not_after += 2 * crate::trust::pki::CA_LIFE);
        let late = world.now + crate::trust::pki::CA_LIFE + DAY;
        let expect = Expect { trust_domain: "example.test", roles: RoleSet::ALL, usage: Usage::ClientAuth };
        assert_eq!(world.anchors.verify(&[&leaf], expect, &world.revoked, late), Err(Refusal::Expired));
        let peer = world.anchors.verify(&[&leaf], expect, &world.revoked, world.now).unwrap();
        assert_eq!(world.anchors.still_trusted(&peer, "example.test", &world.revoked, late), Err(Refusal::Expired));
    }

    #[test]
    fn either_of_two_cas_is_enough_while_both_are_trusted() {
        let (one, two) = (World::new(), World::new());
        let both = TrustAnchors::from_pem(&format!("{}{}", one.ca.cert_pem, two.ca.cert_pem), "ca.pem").unwrap();
        assert_eq!(both.certificates_der().count(), 2);
        let expect = Expect { trust_domain: "example.test", roles: RoleSet::ALL, usage: Usage::ClientAuth };
        for world in [&one, &two] {
            assert!(both.verify(&[&world.leaf(Role::Agent, |_| {})], expect, &world.revoked, world.now).is_ok());
        }
    }

    #[test]
    fn only_cas_are_trust_anchors() {
        let world = World::new();
        let leaf = world.issue(Role::Agent, |_| {}).cert_pem;
        for (pem, says) in [
            (String::new(), "holds 0 certificates"),
            (leaf.clone(), "certificate 1: not a CA"),
            (format!("{}{leaf}", world.ca.cert_pem), "certificate 2: not a CA"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(), "not PEM certificates"),
            (world.ca.cert_pem.repeat(9), "holds 9 certificates"),
        ] {
            let error = TrustAnchors::from_pem(&pem, "D/ca.pem").unwrap_err().to_string();
            assert!(error.starts_with("D/ca.pem: ") && error.contains(says), "{error}");
        }
    }

    #[test]
    fn credentials_need_the_key_of_their_certificate() {
        use crate::trust::credentials::Credentials;
        let world = World::new();
        let (one, two) = (world.issue(Role::Relay, |_| {}), world.issue(Role::Relay, |_| {}));
        let load = |cert: &Issued, key: &Issued, now| {
            Credentials::from_pem(
                cert.cert_pem.clone(),
                key.key_pem.clone(),
                &world.anchors,
                "example.test",
                &world.revoked,
                now,
                "D/",
            )
        };
        assert_eq!(load(&one, &one, world.now).unwrap().leaf.serial, one.serial);
        assert!(load(&one, &two, world.now).unwrap_err().to_string().starts_with("D/key.pem: not the key of cert.pem"));
        let late = load(&one, &one, world.now + 2 * DAY).unwrap_err();
        assert!(late.to_string().starts_with("D/cert.pem: the certificate has expired"), "{late}");
        assert_eq!(late.code(), "ERR_ZTNA_IDENTITY");
        let revoked = Revocations::parse("names = [\"relay/n1\", \"agent/n1\"]", "revoked.toml").unwrap();
        for role in [Role::Agent, Role::Connector, Role::Relay] {
            let own = world.issue(role, |_| {});
            let load = |revoked| {
                Credentials::from_pem(
                    own.cert_pem.clone(),
                    own.key_pem.clone(),
                    &world.anchors,
                    "example.test",
                    revoked,
                    world.now,
                    "",
                )
            };
            assert_eq!(load(&world.revoked).unwrap().leaf.id.role(), role);
            assert_eq!(
                load(&revoked).is_err_and(|e| e.to_string().contains("revoked")),
                role != Role::Connector,
                "{role}"
            );
        }
    }

    /// A CA and a moment.
    struct World {
        ca: Ca,
        anchors: TrustAnchors,
        revoked: Revocations,
        now: SystemTime,
    }

    impl World {
        fn new() -> World {
            let now = system_time(1_800_000_000);
            let ca = Ca::generate("example.test", now).unwrap();
            let anchors = TrustAnchors::from_pem(&ca.cert_pem, "ca.pem").unwrap();
            World { ca, anchors, revoked: Revocations::default(), now }
        }
        fn issue(&self, role: Role, change: impl Fn(&mut LeafSpec)) -> Issued {
            let mut spec = LeafSpec::node(&SpiffeId::new("example.test", role, "n1").unwrap(), self.now, DAY);
            change(&mut spec);
            self.ca.issue(&spec).unwrap()
        }
        fn leaf(&self, role: Role, change: impl Fn(&mut LeafSpec)) -> Vec<u8> {
            der(&self.issue(role, change).cert_pem)
        }
        fn verify(&self, chain: &[&[u8]], roles: RoleSet, usage: Usage) -> Result<PeerIdentity, Refusal> {
            self.anchors.verify(chain, Expect { trust_domain: "example.test", roles, usage }, &self.revoked, self.now)
        }
    }

    fn der(pem: &str) -> Vec<u8> {
        X509::from_pem(pem.as_bytes()).unwrap().to_der().unwrap()
    }
}
