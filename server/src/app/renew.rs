//! A certificate becomes the next (EST `/simplereenroll`, RFC 7030 §4.2.2), and a first use makes it current.
//!
//! Make before break: the old certificate stays good until the new one has been used. There are never two
//! current ones; one that was issued and never used dies when another replaces it.

use super::enroll::Answer;
use super::limits::Taken;
use super::refuse::About;
use super::{App, Error};
use crate::domain::device::{CertificateRecord, CertificateState, Device};
use crate::domain::enrollment::{self, Renewal, is_same_serial};
use crate::domain::issuance::Grant;
use crate::domain::policy::{self, Caller, Permit, act};
use crate::domain::refusal::Refusal;
use crate::domain::revocation::Reason;
use crate::store::collections::{Held, PUBLIC_KEYS};
use crate::store::{Batch, Expect};
use muster_pki::certificate::Certificate;
use muster_pki::csr::VerifiedCsr;
use muster_pki::serial::Serial;
use muster_wire::digest::Sha256Digest;
use muster_wire::id::DeviceId;
use muster_wire::problem::Code;

/// A request for the next certificate, by a certificate that the door let renew.
pub struct Renew<'a> {
    /// The EST label in the path, if one stood there.
    pub label: Option<&'a str>,
    /// The device that the certificate names.
    pub device: DeviceId,
    /// The serial number of the certificate shown.
    pub shown: Serial,
    /// Whether the certificate shown has expired and was let in by grace.
    pub in_grace: bool,
    /// The body: PKCS #10 as base64, PEM or DER.
    pub body: &'a [u8],
}

impl App {
    /// Trades a certificate for the next.
    ///
    /// # Errors
    /// [`Error::Refused`] with a `csr_…` code where the request is bad or names what the certificate shown does
    /// not, with `profile_mismatch` at another profile's label; [`Error::RateLimited`] past the limit for one device.
    pub async fn simple_reenroll(
        &self,
        permit: Permit<act::SimpleReenroll>,
        request: Renew<'_>,
    ) -> Result<Answer, Error> {
        match self.try_reenroll(&permit, &request).await {
            Err(Error::Refused(refusal)) => {
                Err(self.refuse(&permit, About::Device(request.device), refusal).await)
            }
            settled => settled,
        }
    }

    async fn try_reenroll(
        &self,
        permit: &Permit<act::SimpleReenroll>,
        request: &Renew<'_>,
    ) -> Result<Answer, Error> {
        let mut parsed = None;
        let mut is_counted = false;
        for _ in 0..super::ATTEMPTS {
            let held = self.device(request.device)?;
            if request.label.is_some_and(|label| label != held.record.profile) {
                return Err(Refusal::by("renewal.label", Code::ProfileMismatch).into());
            }
            let shown = current_as(&held.record, &request.shown)?;
            let csr = match &parsed {
                Some(csr) => csr,
                None => {
                    let csr = self.parse_request(&held.record.profile, request.body)?;
                    same_names(&csr, &self.certificate_der(shown)?)?;
                    same_serial(&csr, &held.record)?;
                    &*parsed.insert(csr)
                }
            };
            match self.reenroll(permit, request, held, (csr, &mut is_counted)).await {
                Err(Error::Contended) => {}
                settled => return settled,
            }
        }
        Err(Error::Contended)
    }

    async fn reenroll(
        &self,
        permit: &Permit<act::SimpleReenroll>,
        request: &Renew<'_>,
        held: Held<Device>,
        (csr, is_counted): (&VerifiedCsr, &mut bool),
    ) -> Result<Answer, Error> {
        let spki = Sha256Digest(*csr.spki_sha256());
        let holder = self.key_holder(&spki)?;
        let now_ms = self.clock.now_ms();
        let replaced = match enrollment::renew(&held.record, &spki, holder, now_ms.div_euclid(1000))? {
            Renewal::SameBytes(issued) => {
                return Ok(Answer::Certificate(self.certificate_der(issued.ordinal)?));
            }
            Renewal::Issue { replaced } => replaced.cloned(),
        };
        if !std::mem::replace(is_counted, true)
            && let Taken::Past(past) = self.issuances.renewal(request.device, now_ms)
        {
            let about = About::Device(request.device);
            return Err(self.refuse_often(permit, about, "limits.device", past).await);
        }
        let (issued, der) = self.issue(&Grant::next(permit, &held.record), csr)?;
        let mut device = held.record;
        let mut batch = self.put_certificate(Batch::default(), &device, &issued, &der)?;
        let mut entry = permit
            .entry(now_ms, format!("device/{}", device.id))
            .because(if request.in_grace { "grace" } else { "" })
            .facts(super::certificates::facts(&issued));
        if let Some(replaced) = replaced {
            batch = self.end_certificate(batch, &replaced, Reason::Superseded)?;
            entry = entry.facts([("revoked_serials", replaced.serial.to_string())]);
        }
        if holder.is_none() {
            let key = PUBLIC_KEYS.key(spki.as_bytes());
            batch = batch.expect(key.clone(), Expect::Absent).put(key, device.id.as_bytes().to_vec());
        }
        device.issued = Some(issued);
        self.commit(batch.update(device.id.as_bytes(), held.version, &device).audit(entry)).await?;
        Ok(Answer::Certificate(der))
    }

    /// Makes the issued certificate `shown` of `device` its current one, since it has just been used.
    ///
    /// The former one dies in the same commit. Does nothing where that has happened already.
    ///
    /// # Errors
    /// [`Error::NoSpace`] and its like; then the request that used the certificate is not answered.
    pub async fn promote(&self, device: DeviceId, shown: &Serial) -> Result<(), Error> {
        let permit = policy::decide::<act::PromoteCertificate>(Caller::server())?;
        for _ in 0..super::ATTEMPTS {
            let held = self.device(device)?;
            let Some(batch) = self.promotion(&permit, held, shown)? else { return Ok(()) };
            match self.commit(batch).await {
                Err(Error::Contended) => {}
                settled => return settled,
            }
        }
        Err(Error::Contended)
    }

    fn promotion(
        &self,
        permit: &Permit<act::PromoteCertificate>,
        held: Held<Device>,
        shown: &Serial,
    ) -> Result<Option<Batch>, Error> {
        let mut device = held.record;
        let Some(issued) = device.issued.take_if(|issued| issued.serial == *shown) else { return Ok(None) };
        let id = crate::store::key::ordinal(issued.ordinal);
        let Some(mut certificate) = self.store.load::<CertificateRecord>(&id)? else {
            return Err(Error::NotFound { kind: "certificate" });
        };
        certificate.record.state = CertificateState::Current;
        let mut entry = permit
            .entry(self.clock.now_ms(), format!("device/{}", device.id))
            .states("issued", "current")
            .facts([("certificate_serial", issued.serial.to_string())]);
        let mut batch = Batch::essential();
        if let Some(former) = device.current.replace(issued) {
            batch = self.end_certificate(batch, &former, Reason::Superseded)?;
            entry = entry.facts([("revoked_serials", former.serial.to_string())]);
        }
        let batch = batch
            .update(&id, certificate.version, &certificate.record)
            .update(device.id.as_bytes(), held.version, &device)
            .audit(entry);
        Ok(Some(batch))
    }
}

/// Where the certificate shown lies, if it still is the device's.
fn current_as(device: &Device, shown: &Serial) -> Result<u64, Refusal> {
    device
        .live_certificates()
        .find(|certificate| certificate.serial == *shown)
        .map(|certificate| certificate.ordinal)
        .ok_or(Refusal::by("renewal.not_current", Code::CertificateRefused))
}

/// "The request Subject field and SubjectAltName extension MUST be identical to the corresponding fields in the
/// certificate being renewed/rekeyed" (RFC 7030 §4.2.2).
fn same_names(csr: &VerifiedCsr, shown: &[u8]) -> Result<(), Refusal> {
    let mismatch = |field| Refusal::by("renewal.names", Code::CsrNamesMismatch).at(field);
    let certificate = Certificate::parse(shown).map_err(|_| mismatch("certificate"))?;
    if csr.subject_der() != certificate.subject_der() {
        return Err(mismatch("subject"));
    }
    if csr.subject_alt_names() != certificate.subject_alt_names() {
        return Err(mismatch("subjectAltName"));
    }
    Ok(())
}

fn same_serial(csr: &VerifiedCsr, device: &Device) -> Result<(), Refusal> {
    match csr.serial_number() {
        Some(claimed) if !device.serial.as_deref().is_some_and(|ours| is_same_serial(ours, claimed)) => {
            Err(Refusal::by("renewal.serial", Code::CsrSerialMismatch).at("serialNumber"))
        }
        Some(_) | None => Ok(()),
    }
}
