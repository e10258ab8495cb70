//! A device's current identity key, and what it signs.

use super::{App, Error};
use crate::domain::refusal::Refusal;
use muster_pki::certificate::Certificate;
use muster_wire::digest::Sha256Digest;
use muster_wire::envelope::{Signed, SignedOnce, Verified};
use muster_wire::id::DeviceId;
use muster_wire::key::PublicKey;
use muster_wire::problem::Code;

/// Who may sign for a device now.
pub(super) struct Speaker {
    /// SHA-256 of its current certificate.
    pub(super) certificate: Sha256Digest,
    /// That certificate's key.
    pub(super) key: PublicKey,
}

impl App {
    /// The current certificate and key of `device`; the first authenticated use has made it current.
    ///
    /// # Errors
    /// [`Error::Refused`] where the device has no certificate that it has used, or one with a key that signs no
    /// documents.
    pub(super) fn speaker(&self, device: DeviceId) -> Result<Speaker, Error> {
        let device = self.device(device)?.record;
        let Some(current) = &device.current else {
            return Err(Refusal::by("identity.none", Code::CertificateRefused).into());
        };
        let der = self.certificate_der(current.ordinal)?;
        let certificate = Certificate::parse(&der)
            .map_err(|error| Error::internal("reading a certificate of ours")(Box::new(error)))?;
        let key = PublicKey::from_spki_der(certificate.spki_der())
            .map_err(|_| Refusal::by("identity.key_signs_no_documents", Code::CertificateRefused))?;
        Ok(Speaker { certificate: current.sha256, key })
    }
}

/// The document in `body`, once `key` is known to have signed it; `rule` is what refuses it otherwise.
///
/// # Errors
/// [`Code::TooLarge`] before anything is parsed; [`Code::MalformedRequest`].
pub(super) fn read<T: SignedOnce>(
    body: &[u8],
    key: PublicKey,
    rule: &'static str,
) -> Result<Verified<T>, Refusal> {
    if body.len() > T::MAX_BYTES {
        return Err(Refusal::by(rule, Code::TooLarge));
    }
    let signed = Signed::<T>::parse(body).map_err(|_| Refusal::by(rule, Code::MalformedRequest))?;
    signed.verify(&[key]).map_err(|_| Refusal::by(rule, Code::MalformedRequest).at("signature"))
}
