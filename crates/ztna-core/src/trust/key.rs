//! A key of a certificate made here: ECDSA on P-256 with SHA-256, by BoringSSL, so that one library holds every private key.

use boring::bn::BigNumContext;
use boring::ec::{EcGroup, EcKey, PointConversionForm};
use boring::error::ErrorStack;
use boring::hash::MessageDigest;
use boring::nid::Nid;
use boring::pkey::{PKey, Private};
use boring::sha::sha256;
use boring::sign::Signer;
use rcgen::{KeyIdMethod, PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm, SigningKey};

use crate::error::Error;
use crate::trust::credentials::Secret;

/// Bytes of a key identifier: as many of the hash as RFC 7093 §2 method 1 takes.
const KEY_ID_LEN: usize = 20;

/// A private key with what a certificate says of it.
pub(super) struct Key {
    private: PKey<Private>,
    /// The uncompressed point (RFC 5480 §2.2).
    point: Vec<u8>,
}

impl Key {
    pub(super) fn generate() -> Result<Key, Error> {
        EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)
            .and_then(|group| EcKey::generate(&group))
            .and_then(Key::of)
            .map_err(internal)
    }

    /// From PKCS #8 PEM.
    ///
    /// Errors: [`Error::Config`] when `pem` is no such key or one of another kind than is made here.
    pub(super) fn from_pem(pem: &[u8]) -> Result<Key, Error> {
        let key = PKey::private_key_from_pem(pem).and_then(|key| key.ec_key());
        key.ok()
            .filter(|key| key.group().curve_name() == Some(Nid::X9_62_PRIME256V1))
            .and_then(|key| Key::of(key).ok())
            .ok_or_else(|| Error::config("CA key", "not a PKCS #8 PEM private key on P-256"))
    }

    /// PKCS #8 PEM.
    pub(super) fn to_pem(&self) -> Result<Secret, Error> {
        let pem = self.private.private_key_to_pem_pkcs8().map_err(internal)?;
        Ok(Secret::new(String::from_utf8(pem).map_err(internal)?))
    }

    /// What certificates call this key: the leading bytes of the SHA-256 of its SubjectPublicKeyInfo.
    pub(super) fn id(&self) -> KeyIdMethod {
        let hash = sha256(&self.subject_public_key_info());
        KeyIdMethod::PreSpecified(hash.iter().copied().take(KEY_ID_LEN).collect())
    }

    fn of(key: EcKey<Private>) -> Result<Key, ErrorStack> {
        let mut context = BigNumContext::new()?;
        let point = key.public_key().to_bytes(key.group(), PointConversionForm::UNCOMPRESSED, &mut context)?;
        Ok(Key { private: PKey::from_ec_key(key)?, point })
    }
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Signer::new(MessageDigest::sha256(), &self.private)
            .and_then(|mut signer| signer.sign_oneshot_to_vec(message))
            .map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

fn internal(error: impl std::fmt::Display) -> Error {
    Error::Internal(format!("a private key: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A CA key as `ztna pki` has written it before this module existed, and the identifier that its certificates have.
    const PEM: &str = "-----BEGIN PRIVATE KEY-----\n\
        MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgH82LPagGAMnbTLLQ\n\
        SWtKXWvnv7SN5oKlRhPA7n0uMeqhRANCAASVDEJGg5vpSUqQlPr2JoH5+DUM3bow\n\
        cZucB2n5DnEg8xmiXLJ2PAP48WJGIpAFcz9dAGjujCyBbYOFFNJBo8iw\n\
        -----END PRIVATE KEY-----\n";

    #[test]
    fn a_key_has_the_identifier_that_certificates_of_earlier_versions_have() {
        let Ok(key) = Key::from_pem(PEM.as_bytes()) else { panic!("a key of an earlier version") };
        let KeyIdMethod::PreSpecified(id) = key.id() else { panic!("an identifier made elsewhere") };
        assert_eq!(crate::trust::text::plain_hex(&id), "6b2c9cd236c395722571fca8b24589150f8a1601");
    }

    #[test]
    fn a_key_is_read_back_as_it_was_written() {
        let key = Key::generate().unwrap();
        let again = Key::from_pem(key.to_pem().unwrap().expose().as_bytes()).unwrap();
        assert_eq!(again.point, key.point);
    }

    #[test]
    fn a_key_on_another_curve_is_refused() {
        let group = EcGroup::from_curve_name(Nid::SECP384R1).unwrap();
        let other = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        let refused = Key::from_pem(&other.private_key_to_pem_pkcs8().unwrap()).err().map(|e| e.to_string());
        assert!(refused.is_some_and(|e| e.contains("P-256")));
    }
}
