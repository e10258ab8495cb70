//! Chains: whom to believe, on either side.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls_pki_types::CertificateDer;
use thiserror::Error;

use crate::SpkiDigest;
use crate::serial::Serial;

/// Why a chain does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ChainError {
    /// Past its last second.
    #[error("the certificate expired at {not_after_s}")]
    Expired {
        /// Its last second; verify again as of this instant to learn whether only time is wrong.
        not_after_s: i64,
    },
    /// Before its first second.
    #[error("the certificate is not valid before {not_before_s}")]
    NotYetValid {
        /// Its first second.
        not_before_s: i64,
    },
    /// No path to a trusted authority.
    #[error("no trusted authority issued the certificate")]
    UnknownIssuer,
    /// It certifies another key than the one expected.
    #[error("the certificate is for another key")]
    OtherKey,
    /// It does not parse or breaks a rule.
    #[error("the certificate is not acceptable: {0}")]
    Refused(String),
}

/// What a verified device leaf says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// Serial number.
    pub serial: Serial,
    /// The only URI among the alternative names.
    pub uri: String,
    /// First second of validity.
    pub not_before_s: i64,
    /// Last second of validity.
    pub not_after_s: i64,
    /// SHA-256 of the SubjectPublicKeyInfo.
    pub spki_sha256: SpkiDigest,
    /// SHA-256 of the whole certificate.
    pub sha256: [u8; 32],
}

/// The authorities that a server believes when a device presents a bare leaf.
#[derive(Debug, Clone)]
pub struct Issuers {}

impl Issuers {
    /// From DER certificates of issuing authorities, which are trusted themselves: one signature check per leaf.
    ///
    /// # Errors
    /// [`ChainError::Refused`] when one cannot be read.
    pub fn new(_issuing: &[&[u8]], _provider: Arc<CryptoProvider>) -> Result<Self, ChainError> {
        unimplemented!()
    }

    /// Verifies a device's leaf as of `now_s`.
    ///
    /// # Errors
    /// [`ChainError`]; [`ChainError::Expired`] only when nothing but time is wrong.
    pub fn verify_device_leaf(&self, _leaf_der: &[u8], _now_s: i64) -> Result<Leaf, ChainError> {
        unimplemented!()
    }
}

/// Verifies on the device what an enrolment brought: it certifies `spki_der` and leads to one of `roots_der`
/// through `intermediates_der`.
///
/// # Errors
/// [`ChainError`].
pub fn check_issued(
    _leaf_der: &[u8],
    _spki_der: &[u8],
    _trust: &Trust,
    _intermediates_der: &[&[u8]],
    _now_s: i64,
) -> Result<Leaf, ChainError> {
    unimplemented!()
}

/// The roots that a device believes: one pinned key, or certificates it has stored.
#[derive(Debug, Clone)]
pub struct Trust {}

impl Trust {
    /// Whatever root is presented, if the SHA-256 of its SubjectPublicKeyInfo is `pin`.
    #[must_use]
    pub fn pinned(_pin: SpkiDigest, _provider: Arc<CryptoProvider>) -> Self {
        unimplemented!()
    }

    /// These stored root certificates, which need not be presented.
    ///
    /// # Errors
    /// [`ChainError::Refused`] when one cannot be read.
    pub fn roots(_roots_der: &[&[u8]], _provider: Arc<CryptoProvider>) -> Result<Self, ChainError> {
        unimplemented!()
    }

    /// The root among `certificates_der` that this trust believes, to be stored.
    #[must_use]
    pub fn find_root<'a>(&self, _certificates_der: &[&'a [u8]]) -> Option<&'a [u8]> {
        unimplemented!()
    }
}

/// Verifies a server's chain and name for rustls. rustls passes the time in, from its `time_provider`.
#[derive(Debug)]
pub struct PinnedServerVerifier {}

impl PinnedServerVerifier {
    /// A verifier that believes `trust`; hand it to `ClientConfig::dangerous().with_custom_certificate_verifier`.
    #[must_use]
    pub fn new(_trust: Trust) -> Arc<Self> {
        unimplemented!()
    }
}

/// Keeps the signature of the trait visible while the verifier is being written.
pub type ServerChain<'a> = &'a [CertificateDer<'a>];
