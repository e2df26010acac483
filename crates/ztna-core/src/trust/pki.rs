//! Certificates made here: the trust domain's CA and its nodes' leaves. The time goes in, PEM comes out; no files.

use std::time::{Duration, SystemTime};

use boring::rand::rand_bytes;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, SanType, SerialNumber,
};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::error::Error;
use crate::id::{Role, SpiffeId, check_trust_domain};
use crate::trust::credentials::Secret;
use crate::trust::key::Key;
use crate::trust::text::{hex, plain_hex, unix_seconds};

/// Life of a CA. Rotation is by command, not by expiry, so this only has to be longer than anyone waits.
pub const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// notBefore lies this far in the past, for nodes whose clocks are behind (contract.md).
pub const BACKDATE: Duration = Duration::from_secs(300);

/// Bytes of a serial number: 128 random bits, the first of them 0 and the second 1, so that the DER integer is positive
/// and of constant length (RFC 5280 §4.1.2.2 allows 20).
const SERIAL_LEN: usize = 16;

/// A certificate authority with its key.
pub struct Ca {
    pub cert_pem: String,
    pub key_pem: Secret,
}

/// A leaf with its key.
pub struct Issued {
    pub cert_pem: String,
    pub key_pem: Secret,
    /// Lower-case hexadecimal.
    pub serial: String,
    pub not_after: SystemTime,
}

/// Everything that goes into a leaf, right or wrong: [`LeafSpec::node`] is what a node needs, and a test may change any
/// field of it to see the certificate refused.
#[derive(Debug, Clone)]
pub struct LeafSpec {
    pub common_name: String,
    pub uris: Vec<String>,
    pub dns_names: Vec<String>,
    pub client_auth: bool,
    pub server_auth: bool,
    pub digital_signature: bool,
    /// Marks the leaf as a CA.
    pub ca: bool,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    /// Big-endian; `None` draws a random one.
    pub serial: Option<Vec<u8>>,
}

impl LeafSpec {
    /// The one right certificate for `id`, valid from `now` (backdated by [`BACKDATE`]) for `ttl`.
    pub fn node(id: &SpiffeId, now: SystemTime, ttl: Duration) -> LeafSpec {
        let role = id.role();
        LeafSpec {
            common_name: id.name().to_owned(),
            uris: vec![id.to_string()],
            dns_names: match role {
                Role::Agent => Vec::new(),
                Role::Connector | Role::Relay => vec![id.dns_name()],
            },
            client_auth: matches!(role, Role::Agent | Role::Connector),
            server_auth: matches!(role, Role::Connector | Role::Relay),
            digital_signature: true,
            ca: false,
            not_before: now.checked_sub(BACKDATE).unwrap_or(SystemTime::UNIX_EPOCH),
            not_after: now.checked_add(ttl).unwrap_or(now),
            serial: None,
        }
    }
}

impl Ca {
    /// A new self-signed CA on P-256, path length 0, valid for [`CA_LIFE`]. Its subject is random, so that two CAs of
    /// one trust domain are told apart during a rotation.
    pub fn generate(trust_domain: &str, now: SystemTime) -> Result<Ca, Error> {
        check_trust_domain(trust_domain)?;
        let serial = random_serial()?;
        let key = Key::generate()?;
        let mut params = ca_params(&format!("ZTNA CA {}", plain_hex(serial.get(..4).unwrap_or_default())), &key);
        params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))?];
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.not_before = date(now.checked_sub(BACKDATE).unwrap_or(now))?;
        params.not_after = date(now.checked_add(CA_LIFE).unwrap_or(now))?;
        let cert = params.self_signed(&key).map_err(internal)?;
        Ok(Ca { cert_pem: cert.pem(), key_pem: key.to_pem()? })
    }

    /// Signs a leaf with a key of its own.
    ///
    /// Errors: [`Error::Config`] when this CA was not made by [`Ca::generate`] or its key can't be read.
    pub fn issue(&self, spec: &LeafSpec) -> Result<Issued, Error> {
        let ca_key = Key::from_pem(self.key_pem.expose().as_bytes())?;
        let params = self.own_params(&ca_key)?;
        let issuer = Issuer::from_params(&params, &ca_key);

        let serial = match &spec.serial {
            Some(serial) => serial.clone(),
            None => random_serial()?.to_vec(),
        };
        let mut leaf = CertificateParams::default();
        leaf.distinguished_name = common_name(&spec.common_name);
        leaf.serial_number = Some(SerialNumber::from_slice(&serial));
        leaf.not_before = date(spec.not_before)?;
        leaf.not_after = date(spec.not_after)?;
        leaf.use_authority_key_identifier_extension = true;
        for text in &spec.uris {
            leaf.subject_alt_names.push(uri(text)?);
        }
        for name in &spec.dns_names {
            leaf.subject_alt_names.push(SanType::DnsName(name.as_str().try_into().map_err(internal)?));
        }
        leaf.is_ca = if spec.ca { IsCa::Ca(BasicConstraints::Constrained(0)) } else { IsCa::ExplicitNoCa };
        if spec.digital_signature {
            leaf.key_usages.push(KeyUsagePurpose::DigitalSignature);
        }
        if spec.ca {
            leaf.key_usages.push(KeyUsagePurpose::KeyCertSign);
        }
        if spec.client_auth {
            leaf.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        if spec.server_auth {
            leaf.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        let key = Key::generate()?;
        leaf.key_identifier_method = key.id();
        let cert = leaf.signed_by(&key, &issuer).map_err(internal)?;
        Ok(Issued { cert_pem: cert.pem(), key_pem: key.to_pem()?, serial: hex(&serial), not_after: spec.not_after })
    }

    /// End of this CA's life.
    pub fn not_after(&self) -> Result<SystemTime, Error> {
        self.parsed(|cert| Ok(crate::trust::text::system_time(cert.validity().not_after.timestamp())))
    }

    /// What an issuer needs to know of its own certificate: the subject, and that key identifiers are our usual ones.
    fn own_params(&self, key: &Key) -> Result<CertificateParams, Error> {
        self.parsed(|cert| {
            let mut names = cert.subject().iter_attributes();
            match (names.next(), names.next(), cert.subject().iter_common_name().next().and_then(|n| n.as_str().ok())) {
                (Some(_), None, Some(name)) => Ok(ca_params(name, key)),
                _ => {
                    Err(Error::config("CA certificate", "not made by `ztna pki`: its subject must be one common name"))
                }
            }
        })
    }

    fn parsed<T>(&self, f: impl FnOnce(&X509Certificate<'_>) -> Result<T, Error>) -> Result<T, Error> {
        parsed(&self.cert_pem, f)
    }
}

/// The trust domain that the certificate of a CA was made for: the host of its SPIFFE ID.
///
/// Errors: [`Error::Config`] when it is not one of [`Ca::generate`].
pub fn trust_domain_of(ca_pem: &str) -> Result<String, Error> {
    parsed(ca_pem, |cert| {
        let san = cert.subject_alternative_name().ok().flatten();
        let domain = san.and_then(|san| {
            san.value.general_names.iter().find_map(|name| match name {
                GeneralName::URI(uri) => uri.strip_prefix("spiffe://"),
                _ => None,
            })
        });
        let why = "not made by `ztna pki`: it names no trust domain";
        domain.map(str::to_owned).ok_or_else(|| Error::config("CA certificate", why))
    })
}

fn parsed<T>(cert_pem: &str, f: impl FnOnce(&X509Certificate<'_>) -> Result<T, Error>) -> Result<T, Error> {
    let der = boring::x509::X509::from_pem(cert_pem.as_bytes())
        .and_then(|c| c.to_der())
        .map_err(|_| Error::config("CA certificate", "not a PEM certificate"))?;
    let (_, cert) =
        X509Certificate::from_der(&der).map_err(|_| Error::config("CA certificate", "not an X.509 certificate"))?;
    f(&cert)
}

fn ca_params(name: &str, key: &Key) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.key_identifier_method = key.id();
    params.distinguished_name = common_name(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

fn uri(text: &str) -> Result<SanType, Error> {
    Ok(SanType::URI(text.try_into().map_err(internal)?))
}

fn random_serial() -> Result<[u8; SERIAL_LEN], Error> {
    let mut serial = [0u8; SERIAL_LEN];
    rand_bytes(&mut serial).map_err(internal)?;
    if let Some(first) = serial.first_mut() {
        *first = *first & 0x3f | 0x40;
    }
    Ok(serial)
}

fn date(at: SystemTime) -> Result<OffsetDateTime, Error> {
    OffsetDateTime::from_unix_timestamp(unix_seconds(at)).map_err(internal)
}

fn internal(error: impl std::fmt::Display) -> Error {
    Error::Internal(format!("making a certificate: {error}"))
}
