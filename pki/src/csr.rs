//! The intake of certificate requests (PKCS #10, RFC 2986): the only maker of [`VerifiedCsr`].
//!
//! ```text
//! size ─▶ base64, PEM or DER ─▶ strict DER walk ─▶ fields ─▶ key and signature on the list ─▶ possession proven
//! ```
//!
//! A request contributes one thing, its public key, which travels as raw bytes into the certificate. Names are hints
//! that the caller may compare with its record; every other extension and attribute is ignored, challengePassword
//! included (rustls offers no tls-unique to bind it to). The curve is read from the key, never from the signature,
//! so a P-384 key signed with SHA-256 is what it says it is.

use aws_lc_rs::signature as verify;
use thiserror::Error;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::prelude::FromDer as _;

use crate::SpkiDigest;
use crate::armor::{self, ArmorError};
use crate::certificate::SUBJECT_ALT_NAME;
use crate::key::{Algorithm, ED25519, KeyError, PublicKey, sha256};
use crate::name::{self, COMMON_NAME, SERIAL_NUMBER, attribute};
use crate::tlv::{self, DerError};
use crate::walk;

/// The largest body that is looked at, in bytes, however it is armoured.
pub const MAX_BYTES: usize = 64 * 1024;

/// Why a request is refused. Each variant is one problem code at the edge.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CsrError {
    /// The body exceeds [`MAX_BYTES`]; nothing of it was parsed.
    #[error("the request is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The largest body that is looked at.
        limit_bytes: usize,
    },
    /// Not one PKCS #10 request in DER, base64 or PEM.
    #[error("the request is malformed")]
    Malformed(#[source] Malformed),
    /// The signature does not verify under the key that the request carries.
    #[error("the request is not signed by the key it carries")]
    SignatureInvalid,
    /// Key or signature of a kind that the profile does not accept.
    #[error("the request's algorithm is not accepted: {found}")]
    AlgorithmRefused {
        /// What the request uses.
        found: String,
    },
    /// A key of an accepted kind that is too weak or not in the one form allowed.
    #[error("the request's key is refused")]
    KeyRefused(#[source] KeyError),
}

/// What is wrong with the form of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Malformed {
    /// The text around the DER.
    #[error("undoing the armour failed")]
    Armor(#[source] ArmorError),
    /// The DER itself.
    #[error("walking the DER failed")]
    Der(#[source] DerError),
    /// DER, but not of a certification request.
    #[error("not a certification request")]
    Structure,
    /// More than one set of requested extensions, or of alternative names.
    #[error("requested extensions or alternative names appear twice")]
    Duplicate,
}

/// A request whose sender has proven to hold the private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedCsr {
    algorithm: Algorithm,
    spki: Vec<u8>,
    spki_sha256: SpkiDigest,
    subject: Vec<u8>,
    subject_alt_names: Option<Vec<u8>>,
    serial_number: Option<String>,
    common_name: Option<String>,
}

impl VerifiedCsr {
    /// Takes in the body of an enrolment: base64 with or without line breaks, PEM, or DER.
    ///
    /// `accepted` lists the kinds of key that the profile allows (an RSA entry means that size or more).
    ///
    /// # Errors
    /// [`CsrError::TooLarge`] before anything is parsed, [`CsrError::Malformed`], then [`CsrError::KeyRefused`] or
    /// [`CsrError::AlgorithmRefused`] before the costly [`CsrError::SignatureInvalid`].
    pub fn parse(body: &[u8], accepted: &[Algorithm]) -> Result<Self, CsrError> {
        let der = armor::decode(body, MAX_BYTES).map_err(|error| match error {
            ArmorError::TooLarge { limit_bytes } => CsrError::TooLarge { limit_bytes },
            other @ (ArmorError::Empty | ArmorError::Pem | ArmorError::Base64) => {
                CsrError::Malformed(Malformed::Armor(other))
            }
        })?;
        walk::check(&der).map_err(|error| CsrError::Malformed(Malformed::Der(error)))?;
        let (rest, request) = X509CertificationRequest::from_der(&der).map_err(|_| STRUCTURE)?;
        let information = &request.certification_request_info;
        if !rest.is_empty() || information.version.0 != 0 || request.signature_value.unused_bits != 0 {
            return Err(STRUCTURE);
        }
        let key = PublicKey::parse(information.subject_pki.raw).map_err(refuse_key)?;
        if !accepted.iter().any(|entry| entry.admits(key.algorithm())) {
            return Err(CsrError::AlgorithmRefused { found: key.algorithm().to_string() });
        }
        let names = requested_names(&request)?;
        prove_possession(&der, &key)?;
        let subject = information.subject.as_raw();
        Ok(Self {
            algorithm: key.algorithm(),
            spki: key.spki_der().to_vec(),
            spki_sha256: sha256(key.spki_der()),
            subject: subject.to_vec(),
            subject_alt_names: names,
            serial_number: attribute(subject, SERIAL_NUMBER).filter(|serial| name::is_printable(serial)),
            common_name: attribute(subject, COMMON_NAME),
        })
    }

    /// The kind of key.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The public key exactly as it was sent, as a DER SubjectPublicKeyInfo.
    #[must_use]
    pub fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    /// SHA-256 of [`VerifiedCsr::spki_der`].
    #[must_use]
    pub const fn spki_sha256(&self) -> &SpkiDigest {
        &self.spki_sha256
    }

    /// The subject asked for, as DER: a hint, to be compared at renewal byte for byte.
    #[must_use]
    pub fn subject_der(&self) -> &[u8] {
        &self.subject
    }

    /// The alternative names asked for, as the DER of GeneralNames: a hint, to be compared at renewal byte for byte
    /// with [`crate::certificate::Certificate::subject_alt_names`].
    #[must_use]
    pub fn subject_alt_names(&self) -> Option<&[u8]> {
        self.subject_alt_names.as_deref()
    }

    /// The hardware serial in the subject, if exactly one is there and it is a printable string.
    #[must_use]
    pub fn serial_number(&self) -> Option<&str> {
        self.serial_number.as_deref()
    }

    /// The common name in the subject, if exactly one is there; for the log only.
    #[must_use]
    pub fn common_name(&self) -> Option<&str> {
        self.common_name.as_deref()
    }
}

const STRUCTURE: CsrError = CsrError::Malformed(Malformed::Structure);

/// Whose fault a key is: of its kind, of its strength, or of its encoding.
fn refuse_key(error: KeyError) -> CsrError {
    match error {
        KeyError::Malformed(error) => CsrError::Malformed(Malformed::Der(error)),
        KeyError::Algorithm => CsrError::AlgorithmRefused { found: "an unsupported kind of key".to_owned() },
        weak @ (KeyError::Curve | KeyError::Rsa { .. } | KeyError::Point | KeyError::SmallOrder) => {
            CsrError::KeyRefused(weak)
        }
        // Said of private keys only.
        other @ (KeyError::Pem | KeyError::Rejected | KeyError::Generate(_) | KeyError::Sign) => {
            CsrError::KeyRefused(other)
        }
    }
}

/// The DER of the alternative names asked for. Two answers to one question are no answer.
fn requested_names(request: &X509CertificationRequest<'_>) -> Result<Option<Vec<u8>>, CsrError> {
    let attributes = request.certification_request_info.iter_attributes();
    let mut requested = attributes.filter_map(|attribute| match attribute.parsed_attribute() {
        ParsedCriAttribute::ExtensionRequest(requested) => Some(&requested.extensions),
        ParsedCriAttribute::ChallengePassword(_) | ParsedCriAttribute::UnsupportedAttribute => None,
    });
    let extensions = requested.next();
    if requested.next().is_some() {
        return Err(CsrError::Malformed(Malformed::Duplicate));
    }
    let mut names = extensions.into_iter().flatten().filter(|one| one.oid.as_bytes() == SUBJECT_ALT_NAME);
    let first = names.next().map(|extension| extension.value.to_vec());
    match names.next() {
        Some(_) => Err(CsrError::Malformed(Malformed::Duplicate)),
        None => Ok(first),
    }
}

/// Verifies the request's signature with the key it carries (RFC 2986 §4.2, "proof of possession").
fn prove_possession(der: &[u8], key: &PublicKey<'_>) -> Result<(), CsrError> {
    let mut request = tlv::single(der, tlv::SEQUENCE).map_err(|_| STRUCTURE)?.reader();
    let mut take = |tag| request.expect(tag).map_err(|_| STRUCTURE);
    let (signed, identifier, signature) =
        (take(tlv::SEQUENCE)?, take(tlv::SEQUENCE)?, take(tlv::BIT_STRING)?);
    let mut identifier = identifier.reader();
    let oid = identifier.expect(tlv::OID).map_err(|_| STRUCTURE)?;
    let parameters = identifier.optional(0x05).map_err(|_| STRUCTURE)?;
    let scheme = scheme(key.algorithm(), oid.body).filter(|(_, null)| {
        // RFC 5758 §3.2 and RFC 8410 §3 leave the parameters out; RFC 4055 §5 wants NULL.
        identifier.is_empty() && (parameters.is_none() || *null)
    });
    let Some((scheme, _)) = scheme else {
        let found = format!("{} with signature algorithm {}", key.algorithm(), dotted(oid.body));
        return Err(CsrError::AlgorithmRefused { found });
    };
    let bits = tlv::whole_bits(&signature).map_err(|_| STRUCTURE)?;
    verify::UnparsedPublicKey::new(scheme, key.bits())
        .verify(signed.whole, bits)
        .map_err(|_| CsrError::SignatureInvalid)
}

/// How to verify a signature of this OID by a key of this kind, and whether its parameters may be NULL.
///
/// SHA-1 and MD5 are absent. OpenSSL signs a P-384 request with SHA-256 unless told otherwise, so a hash shorter
/// than the curve is accepted: it proves possession of the very key that is certified.
fn scheme(algorithm: Algorithm, oid: &[u8]) -> Option<(&'static dyn verify::VerificationAlgorithm, bool)> {
    const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    let scheme: &'static dyn verify::VerificationAlgorithm = match (algorithm, oid.split_last()?) {
        (Algorithm::P256, (2, ECDSA)) => &verify::ECDSA_P256_SHA256_ASN1,
        (Algorithm::P256, (3, ECDSA)) => &verify::ECDSA_P256_SHA384_ASN1,
        (Algorithm::P256, (4, ECDSA)) => &verify::ECDSA_P256_SHA512_ASN1,
        (Algorithm::P384, (2, ECDSA)) => &verify::ECDSA_P384_SHA256_ASN1,
        (Algorithm::P384, (3, ECDSA)) => &verify::ECDSA_P384_SHA384_ASN1,
        (Algorithm::P384, (4, ECDSA)) => &verify::ECDSA_P384_SHA512_ASN1,
        (Algorithm::Ed25519, _) if oid == ED25519 => &verify::ED25519,
        (Algorithm::Rsa { .. }, (11, RSA)) => &verify::RSA_PKCS1_2048_8192_SHA256,
        (Algorithm::Rsa { .. }, (12, RSA)) => &verify::RSA_PKCS1_2048_8192_SHA384,
        (Algorithm::Rsa { .. }, (13, RSA)) => &verify::RSA_PKCS1_2048_8192_SHA512,
        _ => return None,
    };
    Some((scheme, matches!(algorithm, Algorithm::Rsa { .. })))
}

/// An OID in digits, for a message.
fn dotted(oid: &[u8]) -> String {
    der::oid::ObjectIdentifier::from_bytes(oid)
        .map_or_else(|_| "unreadable".to_owned(), |oid| oid.to_string())
}
