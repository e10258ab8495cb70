//! The two things an authority has: a key that signs, and a certificate that says so.

use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    KeyPair as _,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use zeroize::Zeroizing;

use crate::SpkiDigest;
use crate::armor;
use crate::certificate::{Certificate, SUBJECT_KEY_IDENTIFIER};
use crate::issuer::IssueError;
use crate::key::{Algorithm, KeyError, PublicKey, encode_spki, sha256};
use crate::record::Writer;
use crate::tlv;

/// OID contents of basicConstraints, 2.5.29.19.
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];

/// Something that signs as an authority: a key in a file today, a token tomorrow.
pub trait CaSigner: Send + Sync {
    /// The kind of key: P-256 or P-384.
    fn algorithm(&self) -> Algorithm;

    /// The public key as a DER SubjectPublicKeyInfo.
    fn spki_der(&self) -> &[u8];

    /// A DER ECDSA signature over `message`, with SHA-256 for P-256 and SHA-384 for P-384.
    ///
    /// # Errors
    /// [`KeyError::Sign`] when the key is out of reach or fails.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError>;
}

/// An authority's private key, in memory: P-256 or P-384.
pub struct CaKey {
    algorithm: Algorithm,
    pkcs8: Zeroizing<Vec<u8>>,
    spki: Vec<u8>,
    pair: EcdsaKeyPair,
}

impl CaKey {
    /// A new key, made with the provider's own randomness.
    ///
    /// # Errors
    /// [`KeyError::Generate`] for kinds other than P-256 and P-384, or when the provider fails.
    pub fn generate(algorithm: Algorithm) -> Result<Self, KeyError> {
        let curve = curve(algorithm).ok_or(KeyError::Generate(algorithm))?;
        let document = EcdsaKeyPair::generate_pkcs8(curve, &SystemRandom::new())
            .map_err(|_| KeyError::Generate(algorithm))?;
        Self::from_pkcs8(document.as_ref())
    }

    /// A key from PKCS#8 DER.
    ///
    /// # Errors
    /// [`KeyError::Rejected`] when it is neither P-256 nor P-384, or its parts do not fit each other.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, KeyError> {
        for algorithm in [Algorithm::P256, Algorithm::P384] {
            let pair = curve(algorithm).map(|curve| EcdsaKeyPair::from_pkcs8(curve, pkcs8));
            if let Some(Ok(pair)) = pair {
                let spki = encode_spki(algorithm, pair.public_key().as_ref());
                return Ok(Self { algorithm, pkcs8: Zeroizing::new(pkcs8.to_vec()), spki, pair });
            }
        }
        Err(KeyError::Rejected)
    }

    /// A key from PKCS#8 PEM.
    ///
    /// # Errors
    /// [`KeyError::Pem`] when there is no `PRIVATE KEY` block, otherwise as [`CaKey::from_pkcs8`].
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| KeyError::Pem)?;
        Self::from_pkcs8(key.secret_pkcs8_der())
    }

    /// PKCS#8 PEM for a file that only its owner may read.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(armor::pem("PRIVATE KEY", &self.pkcs8))
    }
}

impl CaSigner for CaKey {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let signature = self.pair.sign(&SystemRandom::new(), message).map_err(|_| KeyError::Sign)?;
        Ok(signature.as_ref().to_vec())
    }
}

impl fmt::Debug for CaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaKey").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

fn curve(algorithm: Algorithm) -> Option<&'static EcdsaSigningAlgorithm> {
    match algorithm {
        Algorithm::P256 => Some(&ECDSA_P256_SHA256_ASN1_SIGNING),
        Algorithm::P384 => Some(&ECDSA_P384_SHA384_ASN1_SIGNING),
        Algorithm::Ed25519 | Algorithm::Rsa { .. } => None,
    }
}

/// An authority's certificate, read once and ready to issue.
#[derive(Debug, Clone)]
pub struct CaCertificate {
    der: Vec<u8>,
    subject: Vec<u8>,
    spki: Vec<u8>,
    key_identifier: Vec<u8>,
    not_before_s: i64,
    not_after_s: i64,
    writer: Writer,
}

impl CaCertificate {
    /// Reads a DER certificate of an authority of ours.
    ///
    /// # Errors
    /// [`IssueError::NotAnAuthority`] when it cannot be read, is no CA certificate with a key identifier and an
    /// elliptic key, or its name cannot be written again byte for byte.
    pub fn parse(der: &[u8]) -> Result<Self, IssueError> {
        let refused = |reason| IssueError::NotAnAuthority { reason };
        let certificate = Certificate::parse(der).map_err(|_| refused("it is not an X.509 certificate"))?;
        let constraints = certificate.extension(BASIC_CONSTRAINTS).unwrap_or_default();
        let is_ca = tlv::single(constraints, tlv::SEQUENCE)
            .is_ok_and(|fields| fields.body.starts_with(&[tlv::BOOLEAN, 1, 0xff]));
        if !is_ca {
            return Err(refused("it is not marked as an authority"));
        }
        let key = PublicKey::parse(certificate.spki_der()).map_err(|_| refused("its key is unusable"))?;
        let identifier = certificate
            .extension(SUBJECT_KEY_IDENTIFIER)
            .and_then(|value| tlv::single(value, tlv::OCTET_STRING).ok())
            .ok_or_else(|| refused("it has no key identifier"))?;
        let writer = Writer::new(certificate.subject_der(), key, identifier.body)?;
        Ok(Self {
            der: der.to_vec(),
            subject: certificate.subject_der().to_vec(),
            spki: certificate.spki_der().to_vec(),
            key_identifier: identifier.body.to_vec(),
            not_before_s: certificate.not_before_s(),
            not_after_s: certificate.not_after_s(),
            writer,
        })
    }

    /// The certificate.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Its subject as DER, which leaves name as their issuer.
    #[must_use]
    pub fn subject_der(&self) -> &[u8] {
        &self.subject
    }

    /// Its SubjectPublicKeyInfo as DER.
    #[must_use]
    pub fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    /// SHA-256 of its SubjectPublicKeyInfo: what devices pin when it is a root.
    #[must_use]
    pub fn spki_sha256(&self) -> SpkiDigest {
        sha256(&self.spki)
    }

    /// Its key identifier, as leaves name it.
    #[must_use]
    pub fn key_identifier(&self) -> &[u8] {
        &self.key_identifier
    }

    /// First second of its validity.
    #[must_use]
    pub const fn not_before_s(&self) -> i64 {
        self.not_before_s
    }

    /// Last second of its validity.
    #[must_use]
    pub const fn not_after_s(&self) -> i64 {
        self.not_after_s
    }

    /// PEM (`CERTIFICATE`).
    #[must_use]
    pub fn to_pem(&self) -> String {
        armor::pem("CERTIFICATE", &self.der)
    }

    pub(crate) const fn writer(&self) -> &Writer {
        &self.writer
    }
}
