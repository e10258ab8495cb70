//! A device's request for its next certificate, over MQTT.
//!
//! Signed by the current identity key, always: the session shows who is connected, the signature shows who asks.
//! The answer on `credential` is certs-only CMS, as EST answers.

use crate::cbor::document;
use crate::digest::Sha256Digest;
use crate::id::{DeviceId, RequestId};

/// A request for the next certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renew {
    /// Whose.
    pub device: DeviceId,
    /// Its name; the same request gets the same answer.
    pub request: RequestId,
    /// SHA-256 of the current certificate in DER.
    pub certificate: Sha256Digest,
    /// The PKCS #10 request in DER.
    pub csr: Vec<u8>,
}
document!(Renew, "renew", 16 * 1024, SignedOnce, { device, request, certificate, csr });
