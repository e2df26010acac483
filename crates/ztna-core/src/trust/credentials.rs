//! A node's own certificate and key.

use std::fmt;
use std::time::SystemTime;

use boring::pkey::PKey;
use boring::x509::X509;
use zeroize::Zeroizing;

use crate::error::Error;
use crate::id::Role;
use crate::trust::anchors::TrustAnchors;
use crate::trust::identity::{Expect, PeerIdentity, Refusal, RoleSet, Usage, claims};
use crate::trust::revocation::Revocations;

/// Key material. It can't be printed or compared, and its memory is wiped when the last copy goes.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub fn new(text: String) -> Secret {
        Secret(Zeroizing::new(text))
    }
    /// The text itself, for handing to TLS or to a 0600 file and nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// The certificate and key this node shows, checked against each other and against its own trust anchors.
pub struct Credentials {
    /// cert.pem as it was given: the leaf first.
    pub cert_chain_pem: String,
    /// PKCS #8 or SEC 1 private key.
    pub key_pem: Secret,
    /// Who we are.
    pub leaf: PeerIdentity,
}

impl Credentials {
    /// `folder` only serves error texts.
    ///
    /// Errors: [`Error::Identity`] when the certificate would not be accepted from a peer either (expired, other CA,
    /// revoked, wrong shape) or the key is not its key.
    pub fn from_pem(
        cert_pem: String,
        key_pem: Secret,
        anchors: &TrustAnchors,
        trust_domain: &str,
        revoked: &Revocations,
        now: SystemTime,
        folder: &str,
    ) -> Result<Credentials, Error> {
        let bad = |file: &str, why: String| Error::Identity(format!("{folder}{file}: {why}"));
        let chain = X509::stack_from_pem(cert_pem.as_bytes())
            .map_err(|e| bad("cert.pem", format!("not a PEM certificate: {e}")))?;
        let ders = chain
            .iter()
            .map(|c| c.to_der())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| bad("cert.pem", e.to_string()))?;
        let slices: Vec<&[u8]> = ders.iter().map(Vec::as_slice).collect();
        let describe = || ders.first().map(|d| format!(" ({})", claims(d))).unwrap_or_default();
        // Agents and connectors are clients, relays servers: only a certificate that can't be a client's is tried as a server's.
        let client = Expect { trust_domain, roles: RoleSet::NODES, usage: Usage::of(Role::Agent) };
        let server = Expect { trust_domain, roles: RoleSet::RELAY, usage: Usage::of(Role::Relay) };
        let leaf = anchors
            .verify(&slices, client, revoked, now)
            .or_else(|refusal| match refusal {
                Refusal::WrongUsage | Refusal::WrongRole => anchors.verify(&slices, server, revoked, now),
                other => Err(other),
            })
            .map_err(|refusal| bad("cert.pem", format!("{refusal}{}", describe())))?;
        let key = PKey::private_key_from_pem(key_pem.expose().as_bytes())
            .map_err(|_| bad("key.pem", "not a PEM private key".to_owned()))?;
        let public = chain.first().map(|c| c.public_key()).transpose().map_err(|e| bad("cert.pem", e.to_string()))?;
        if !public.is_some_and(|p| p.public_eq(&key)) {
            return Err(bad(
                "key.pem",
                format!("not the key of cert.pem{}; copy both from the same `ztna pki` output", describe()),
            ));
        }
        Ok(Credentials { cert_chain_pem: cert_pem, key_pem, leaf })
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("id", &self.leaf.id)
            .field("serial", &self.leaf.serial)
            .finish_non_exhaustive()
    }
}
