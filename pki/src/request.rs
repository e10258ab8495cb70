//! Writing a PKCS #10 request (RFC 2986), as the agent does.
//!
//! A first request carries a subject only as a hint: the authority takes nothing but the public key. At a renewal
//! subject and alternative names must equal those of the present certificate byte for byte (RFC 7030 §4.2.2), so
//! both are copied from it as they are.

use thiserror::Error;

use crate::certificate::{Certificate, CertificateError, SUBJECT_ALT_NAME};
use crate::key::{Algorithm, DeviceKey, KeyError};
use crate::name::Subject;
use crate::tlv;

/// OID contents of extensionRequest, 1.2.840.113549.1.9.14 (RFC 2985 §5.4.2).
pub(crate) const EXTENSION_REQUEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x0e];

/// Why no request could be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The present certificate cannot be read.
    #[error("reading the present certificate failed")]
    Present(#[from] CertificateError),
    /// The key did not sign.
    #[error("signing the request failed")]
    Sign(#[from] KeyError),
}

/// A first request for `key`, as DER. The subject is a hint, such as the hardware serial.
///
/// # Errors
/// [`RequestError::Sign`] when the key does not sign.
pub fn build_request(key: &DeviceKey, subject: &Subject) -> Result<Vec<u8>, RequestError> {
    sign_request(key, &subject.to_der(), None)
}

/// A request that renews `present_der` with `key`, which may be a new one, as DER.
///
/// # Errors
/// [`RequestError::Present`] when the certificate cannot be read, [`RequestError::Sign`] when the key does not sign.
pub fn build_renewal(key: &DeviceKey, present_der: &[u8]) -> Result<Vec<u8>, RequestError> {
    let present = Certificate::parse(present_der)?;
    sign_request(key, present.subject_der(), present.subject_alt_names())
}

fn sign_request(key: &DeviceKey, subject: &[u8], names: Option<&[u8]>) -> Result<Vec<u8>, RequestError> {
    let attributes = names.map(extension_request).unwrap_or_default();
    let information = tlv::encode_all(
        tlv::SEQUENCE,
        &[
            &[tlv::INTEGER, 1, 0],
            subject,
            key.spki_der(),
            &tlv::encode(tlv::context_constructed(0), &attributes),
        ],
    );
    let signature = tlv::bit_string(&key.sign(&information)?);
    let algorithm = signature_algorithm(key.algorithm());
    Ok(tlv::encode_all(tlv::SEQUENCE, &[&information, &algorithm, &signature]))
}

/// An extensionRequest attribute with nothing but these alternative names.
fn extension_request(names: &[u8]) -> Vec<u8> {
    let extension = tlv::encode_all(
        tlv::SEQUENCE,
        &[&tlv::encode(tlv::OID, SUBJECT_ALT_NAME), &tlv::encode(tlv::OCTET_STRING, names)],
    );
    let values = tlv::encode(tlv::SET, &tlv::encode(tlv::SEQUENCE, &extension));
    tlv::encode_all(tlv::SEQUENCE, &[&tlv::encode(tlv::OID, EXTENSION_REQUEST), &values])
}

/// The AlgorithmIdentifier of what [`DeviceKey::sign`] makes.
fn signature_algorithm(algorithm: Algorithm) -> Vec<u8> {
    // ecdsa-with-SHA256 and -SHA384 (RFC 5758 §3.2), Ed25519 (RFC 8410 §3): parameters absent.
    const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
    const ECDSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
    let oid = match algorithm {
        Algorithm::P256 | Algorithm::Rsa { .. } => ECDSA_SHA256,
        Algorithm::P384 => ECDSA_SHA384,
        Algorithm::Ed25519 => crate::key::ED25519,
    };
    tlv::encode(tlv::SEQUENCE, &tlv::encode(tlv::OID, oid))
}
