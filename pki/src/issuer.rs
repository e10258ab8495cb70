//! Issuance, the one way a leaf comes into being.
//!
//! ```text
//! VerifiedCsr + terms ──prepare──▶ Prepared ──sign(self)──▶ Issued
//!                        │  ▲
//!                 rcgen writes, another parser lints; what was linted is what is signed
//! ```

use thiserror::Error;

use crate::SpkiDigest;
use crate::csr::VerifiedCsr;
use crate::key::{Algorithm, KeyError};
use crate::profile::{IssuerUrls, LeafNames, LeafProfile};
use crate::serial::Serial;

/// Something that signs as an authority: a key in a file today, a token tomorrow.
pub trait CaSigner: Send + Sync {
    /// The kind of key: P-256 or P-384.
    fn algorithm(&self) -> Algorithm;
    /// The public key as a DER SubjectPublicKeyInfo.
    fn spki_der(&self) -> &[u8];
    /// A DER ECDSA signature over `message`, SHA-256 for P-256, SHA-384 for P-384.
    ///
    /// # Errors
    /// [`KeyError::Sign`] when the key is out of reach or fails.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError>;
}

/// An authority's private key, in memory: P-256 or P-384.
pub struct CaKey {}

impl CaKey {
    /// A new key.
    ///
    /// # Errors
    /// [`KeyError::Generate`] for other kinds than P-256 and P-384.
    pub fn generate(_algorithm: Algorithm) -> Result<Self, KeyError> {
        unimplemented!()
    }
    /// From PKCS#8 PEM.
    ///
    /// # Errors
    /// [`KeyError::Pem`] or [`KeyError::Rejected`].
    pub fn from_pem(_pem: &str) -> Result<Self, KeyError> {
        unimplemented!()
    }
    /// PKCS#8 PEM for a file that only its owner may read.
    #[must_use]
    pub fn to_pem(&self) -> zeroize::Zeroizing<String> {
        unimplemented!()
    }
}

impl CaSigner for CaKey {
    fn algorithm(&self) -> Algorithm {
        unimplemented!()
    }
    fn spki_der(&self) -> &[u8] {
        unimplemented!()
    }
    fn sign(&self, _message: &[u8]) -> Result<Vec<u8>, KeyError> {
        unimplemented!()
    }
}

/// An authority's certificate, read once and ready to issue.
#[derive(Debug, Clone)]
pub struct CaCertificate {}

impl CaCertificate {
    /// Reads a DER certificate of an authority of ours.
    ///
    /// # Errors
    /// [`IssueError::NotAnAuthority`] when it is no CA certificate or its name cannot be written again byte for byte.
    pub fn parse(_der: &[u8]) -> Result<Self, IssueError> {
        unimplemented!()
    }
    /// The certificate.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        unimplemented!()
    }
    /// SHA-256 of its SubjectPublicKeyInfo.
    #[must_use]
    pub fn spki_sha256(&self) -> SpkiDigest {
        unimplemented!()
    }
    /// Its key identifier, as leaves name it.
    #[must_use]
    pub fn key_identifier(&self) -> &[u8] {
        unimplemented!()
    }
    /// Last second of its validity.
    #[must_use]
    pub fn not_after_s(&self) -> i64 {
        unimplemented!()
    }
}

/// Everything about a leaf that does not come from the request.
#[derive(Debug, Clone)]
pub struct LeafTerms<'a> {
    /// What the kind of device allows.
    pub profile: &'a LeafProfile,
    /// Whom the leaf names, from the record.
    pub names: &'a LeafNames,
    /// Where its issuer publishes.
    pub urls: &'a IssuerUrls,
    /// Its serial number, fresh.
    pub serial: Serial,
}

/// Why nothing was issued.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IssueError {
    /// The certificate is not one of an authority that can issue.
    #[error("not a certificate of an authority")]
    NotAnAuthority,
}

/// A certificate that has been written and linted and waits for its one signature.
#[derive(Debug)]
pub struct Prepared {}

/// Writes the leaf for `csr` and lints it. The validity begins `backdate_s` before `now_s` and ends `validity_s`
/// after it, or with the issuer if that is sooner.
///
/// # Errors
/// [`IssueError`]; nothing has been signed.
pub fn prepare(
    _csr: &VerifiedCsr,
    _terms: &LeafTerms<'_>,
    _ca: &CaCertificate,
    _now_s: i64,
) -> Result<Prepared, IssueError> {
    unimplemented!()
}

impl Prepared {
    /// Signs exactly the bytes that were linted.
    ///
    /// # Errors
    /// [`IssueError`] when the key is not the issuer's or fails.
    pub fn sign(self, _key: &dyn CaSigner) -> Result<Issued, IssueError> {
        unimplemented!()
    }
}

/// A certificate that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The certificate.
    pub der: Vec<u8>,
    /// Its serial number.
    pub serial: Serial,
    /// First second of validity.
    pub not_before_s: i64,
    /// Last second of validity.
    pub not_after_s: i64,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub spki_sha256: SpkiDigest,
    /// SHA-256 of the whole certificate.
    pub sha256: [u8; 32],
}
