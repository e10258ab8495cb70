//! A certificate becomes the next within a live session: what EST carries in a handshake, a signature carries here.
//!
//! The session shows who is connected, the signature of the current identity key shows who asks. From there on it
//! is the one path of issuance.

use super::enroll::Answer;
use super::identity::Speaker;
use super::refuse::About;
use super::renew::Renew;
use super::{App, Error, Mark, Outgoing};
use crate::domain::policy::{Permit, act};
use crate::domain::refusal::Refusal;
use muster_pki::cms::certs_only;
use muster_pki::serial::Serial;
use muster_wire::digest::Sha256Digest;
use muster_wire::id::DeviceId;
use muster_wire::problem::Code;
use muster_wire::renew as wire;
use muster_wire::topic::Channel;

impl App {
    /// Trades the certificate `shown` of the session of `device` for the next; the answer goes to `credential` once
    /// it is durable. `in_grace`: it had expired and was let in by grace.
    ///
    /// # Errors
    /// As [`App::simple_reenroll`]; [`Error::Refused`] with `malformed_request` where the message is none of the
    /// device's current identity key.
    pub async fn renew_in_session(
        &self,
        permit: Permit<act::SimpleReenroll>,
        device: DeviceId,
        shown: Serial,
        in_grace: bool,
        body: &[u8],
    ) -> Result<Outgoing, Error> {
        let asked = match self.asked(device, body) {
            Ok(asked) => asked,
            Err(Error::Refused(refusal)) => {
                return Err(self.refuse(&permit, About::Device(device), refusal).await);
            }
            Err(error) => return Err(error),
        };
        let request = Renew { label: None, device, shown, in_grace, body: &asked.csr };
        match self.simple_reenroll(permit, request).await? {
            Answer::Certificate(der) => Ok(Outgoing {
                channel: Channel::Credential,
                mark: Mark::Credential(Sha256Digest::of(&der)),
                payload: certs_only(&[der.as_slice()]),
            }),
            Answer::Pending(_) => Err(Refusal::by("renewal.pending", Code::PendingApproval).into()),
        }
    }

    /// The request in `body`, once it is known to be the device's own.
    fn asked(&self, device: DeviceId, body: &[u8]) -> Result<wire::Renew, Error> {
        let Speaker { certificate, key } = self.speaker(device)?;
        let asked = super::identity::read::<wire::Renew>(body, key, "renewal.envelope")?;
        if asked.device != device {
            return Err(Refusal::by("renewal.device", Code::MalformedRequest).at("device").into());
        }
        if asked.certificate != certificate {
            return Err(Refusal::by("renewal.certificate", Code::CertificateRefused)
                .at("certificate")
                .into());
        }
        Ok(asked.into_document())
    }
}
