//! What every verb does with certificates: sign one, keep it, end it.

use super::{App, Error};
use crate::ca::At;
use crate::domain::device::{CertificateRecord, CertificateRef, CertificateState, Device, Retirement};
use crate::domain::issuance::Grant;
use crate::domain::policy::{Act, Permit};
use crate::domain::refusal::Refusal;
use crate::domain::revocation::{Entry, Reason};
use crate::store::collections::{CERTIFICATE_BYTES, Held, PUBLIC_KEYS, REVOCATIONS};
use crate::store::key::ordinal;
use crate::store::{Batch, Expect};
use muster_pki::csr::VerifiedCsr;
use muster_wire::digest::Sha256Digest;
use muster_wire::id::DeviceId;
use muster_wire::problem::Code;
use std::borrow::Cow;
use std::sync::atomic::Ordering;

/// How a life ends and what its certificates' CRL entries say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending {
    pub(super) how: Retirement,
    pub(super) reason: Reason,
}

/// The one-way facts of an issuance, for the audit entry.
pub(super) fn facts(issued: &CertificateRef) -> [(&'static str, String); 4] {
    [
        ("certificate_serial", issued.serial.to_string()),
        ("certificate_sha256", issued.sha256.to_hex()),
        ("certificate_ordinal", issued.ordinal.to_string()),
        ("spki_sha256", issued.spki.to_hex()),
    ]
}

impl App {
    /// Parses a request by the rules of `profile`; a key of our own CAs is refused here.
    pub(super) fn parse_request(&self, profile: &str, body: &[u8]) -> Result<VerifiedCsr, Refusal> {
        let leaf = self.profiles.leaf(profile)?;
        let csr = VerifiedCsr::parse(body, &leaf.algorithms).map_err(|error| super::csr::refusal(&error))?;
        if self.ca.is_own_key(&Sha256Digest(*csr.spki_sha256())) {
            return Err(Refusal::by("csr.key_of_ca", Code::CsrKeyInUse).at("subjectPublicKeyInfo"));
        }
        Ok(csr)
    }

    /// Signs the certificate that `grant` allows, in memory. Nothing has left the process when this returns; the
    /// caller commits it and only then lets the DER go.
    pub(super) fn issue(&self, grant: &Grant, csr: &VerifiedCsr) -> Result<(CertificateRef, Vec<u8>), Error> {
        let mut leaf = Cow::Borrowed(self.profiles.leaf(grant.profile())?);
        let life_s = grant.term().life_s(leaf.validity_s);
        if life_s != leaf.validity_s {
            leaf.to_mut().validity_s = life_s;
        }
        let now = self.clock.now_s();
        let issued = self
            .ca
            .issue(grant, csr, &leaf, At { urls: &self.urls, now_s: now })
            .map_err(|error| Error::Internal { doing: "issuing a certificate", source: Box::new(error) })?;
        let certificate = CertificateRef {
            ordinal: self.next_ordinal.fetch_add(1, Ordering::Relaxed),
            serial: issued.serial,
            sha256: Sha256Digest(issued.sha256),
            spki: Sha256Digest(issued.spki_sha256),
            issued_at: now,
            not_after: issued.not_after_s,
        };
        Ok((certificate, issued.der))
    }

    /// Adds the certificate and its DER to `batch`; on hold from the beginning where its device is.
    pub(super) fn put_certificate(
        &self,
        batch: Batch,
        device: &Device,
        issued: &CertificateRef,
        der: &[u8],
    ) -> Result<Batch, Error> {
        let id = ordinal(issued.ordinal);
        let record = CertificateRecord {
            v: 1,
            serial: issued.serial,
            sha256: issued.sha256,
            device: Some(device.id),
            observer: None,
            not_after: issued.not_after,
            grace_s: self.profiles.grace_s(&device.profile)?,
            held: device.quarantine.is_some(),
            leaving: device.certificates_leaving(),
            state: CertificateState::Issued,
        };
        let batch =
            if record.held { batch.insert(&self.entry_id(issued), &self.hold_entry(issued)) } else { batch };
        Ok(batch.insert(&id, &record).put(CERTIFICATE_BYTES.key(&id), der.to_vec()))
    }

    /// The DER under `ordinal`.
    pub(super) fn certificate_der(&self, number: u64) -> Result<Vec<u8>, Error> {
        let found = self.store.get(&CERTIFICATE_BYTES.key(&ordinal(number)))?;
        found.map(|found| found.value).ok_or(Error::NotFound { kind: "certificate" })
    }

    /// The device on which the key `spki` was seen before.
    pub(super) fn key_holder(&self, spki: &Sha256Digest) -> Result<Option<DeviceId>, Error> {
        let Some(found) = self.store.get(&PUBLIC_KEYS.key(spki.as_bytes()))? else { return Ok(None) };
        let bytes = <[u8; 16]>::try_from(found.value.as_slice()).map_err(|source| Error::Internal {
            doing: "reading whose key it is",
            source: Box::new(source),
        })?;
        Ok(Some(DeviceId::from_bytes(bytes)))
    }

    /// Adds to `batch` the end of `life` and of every certificate it has, with an audit entry.
    pub(super) fn end_life<A: Act>(
        &self,
        permit: &Permit<A>,
        mut batch: Batch,
        mut life: Held<Device>,
        ending: Ending,
    ) -> Result<Batch, Error> {
        let now_ms = self.clock.now_ms();
        let before = life.record.standing();
        batch = self.abandon(batch, &life.record)?;
        let live: Vec<CertificateRef> = life.record.live_certificates().cloned().collect();
        for certificate in &live {
            batch = self.end_certificate(batch, certificate, ending.reason)?;
        }
        life.record.retire(ending.how, now_ms.div_euclid(1000));
        let serials: Vec<String> = live.iter().map(|certificate| certificate.serial.to_string()).collect();
        let entry = permit
            .entry(now_ms, format!("device/{}", life.record.id))
            .because(ending.reason.as_str())
            .states(before, life.record.standing())
            .facts([("revoked_serials", serials.join(" "))]);
        Ok(batch.update(life.record.id.as_bytes(), life.version, &life.record).audit(entry))
    }

    /// Under what id the CRL entry of `certificate` is kept.
    pub(super) fn entry_id(&self, certificate: &CertificateRef) -> Vec<u8> {
        super::crl::entry_id(self.ca.issuer_of(certificate.ordinal), &certificate.serial)
    }

    fn hold_entry(&self, certificate: &CertificateRef) -> Entry {
        let (at, reason) = (self.clock.now_s(), Reason::CertificateHold);
        Entry { at, reason, not_after: certificate.not_after }
    }

    /// Adds to `batch` that `certificate` is on hold: its record and its CRL entry. Nothing where it is already.
    pub(super) fn suspend_certificate(
        &self,
        batch: Batch,
        certificate: &CertificateRef,
    ) -> Result<Batch, Error> {
        let (id, mut held) = self.certificate(certificate)?;
        if std::mem::replace(&mut held.record.held, true) {
            return Ok(batch);
        }
        let batch = batch.update(&id, held.version, &held.record);
        Ok(batch.insert(&self.entry_id(certificate), &self.hold_entry(certificate)))
    }

    /// Adds to `batch` that `certificate` is on hold no more: its CRL entry is dropped.
    pub(super) fn resume_certificate(
        &self,
        batch: Batch,
        certificate: &CertificateRef,
    ) -> Result<Batch, Error> {
        let (id, mut held) = self.certificate(certificate)?;
        if !std::mem::replace(&mut held.record.held, false) {
            return Ok(batch);
        }
        let batch = batch.update(&id, held.version, &held.record);
        let entry_id = self.entry_id(certificate);
        // A certificate that expired on hold has no entry left: one list after its expiry named it, and that is enough.
        let Some(entry) = self.store.load::<Entry>(&entry_id)? else { return Ok(batch) };
        let key = REVOCATIONS.key(&entry_id);
        Ok(batch.expect(key.clone(), Expect::Version(entry.version)).delete(key))
    }

    /// The record of `certificate`, and its id.
    pub(super) fn certificate(
        &self,
        certificate: &CertificateRef,
    ) -> Result<([u8; 8], Held<CertificateRecord>), Error> {
        let id = ordinal(certificate.ordinal);
        let held = self.store.load::<CertificateRecord>(&id)?;
        held.map(|held| (id, held)).ok_or(Error::NotFound { kind: "certificate" })
    }

    /// Adds to `batch` the end of one certificate: its record and its CRL entry, in place of one that says hold.
    pub(super) fn end_certificate(
        &self,
        batch: Batch,
        certificate: &CertificateRef,
        reason: Reason,
    ) -> Result<Batch, Error> {
        let (id, mut held) = self.certificate(certificate)?;
        let at = self.clock.now_s();
        held.record.state = CertificateState::Revoked { at, reason };
        held.record.held = false;
        held.record.leaving = None;
        let entry_id = self.entry_id(certificate);
        let on_hold = self.store.load::<Entry>(&entry_id)?.map(|entry| entry.version);
        let entry = Entry { at, reason, not_after: certificate.not_after };
        Ok(batch.update(&id, held.version, &held.record).replace(&entry_id, on_hold, &entry))
    }
}

/// Their serial numbers, as audit entries list them.
pub(super) fn serials(certificates: &[CertificateRef]) -> String {
    let serials: Vec<String> =
        certificates.iter().map(|certificate| certificate.serial.to_string()).collect();
    serials.join(" ")
}
