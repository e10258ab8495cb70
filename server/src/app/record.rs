//! The sanitisation record of a device, made of verified receipts alone, and the proof that a stranger can check.
//!
//! Everything is read from what the device and the approvers have signed and verified once more on the way; where a link is
//! missing there is no record, and why is said.

use super::{App, Error, WarrantShown};
use crate::domain::deprovision::Deprovisioning;
use crate::domain::device::{CertificateRef, Device, Retirement};
use crate::domain::order::OrderRecord;
use crate::domain::policy::{Permit, act};
use crate::domain::refusal::Refusal;
use crate::domain::sanitisation::Sanitisation;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_pki::armor::pem;
use muster_pki::certificate::Certificate;
use muster_wire::cbor;
use muster_wire::digest::Sha256Digest;
use muster_wire::envelope::MultiSigned;
use muster_wire::id::{DeviceId, OrderId};
use muster_wire::key::PublicKey;
use muster_wire::lineage::Lineage;
use muster_wire::problem::Code;
use muster_wire::receipt::Receipt;
use muster_wire::time::Timestamp;
use muster_wire::warrant::{self, Warrant};

/// What is known of a wipe that was proven.
#[derive(Clone, Debug)]
pub struct SanitisationRecord {
    /// The device.
    pub device: Device,
    /// How it was let go.
    pub leaving: Deprovisioning,
    /// The warrant.
    pub warrant: WarrantShown,
    /// The order.
    pub order: OrderId,
    /// The certificate whose key has signed the receipts.
    pub certificate: CertificateRef,
    /// The receipts, oldest first, each with when it came (unix seconds) and its digest.
    pub receipts: Vec<(Receipt, i64, Sha256Digest)>,
    /// The word that they have earned.
    pub method: Sanitisation,
    /// Digest of the first authority document.
    pub founding: Sha256Digest,
    /// Digest of the root's public key.
    pub root: Sha256Digest,
    /// Files by name: what `docs/verify-wipe.py` reads.
    pub proof: Vec<(String, Vec<u8>)>,
}

impl App {
    /// The sanitisation record of `id`.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Refused`] with `device_state_refused` unless a wipe of it is proven.
    pub fn sanitisation_record(
        &self,
        _permit: &Permit<act::ReadDevice>,
        id: DeviceId,
    ) -> Result<SanitisationRecord, Error> {
        let device = self.device(id)?.record;
        let unproven = || Refusal::by("record.unproven", Code::DeviceStateRefused).at("state");
        if device.retirement != Some(Retirement::Proven) {
            return Err(unproven().into());
        }
        let leaving = device.deprovisioning.clone().ok_or_else(unproven)?;
        let order = leaving.order.ok_or_else(unproven)?;
        let order = self.store.load::<OrderRecord>(order.as_bytes())?.ok_or_else(unproven)?.record;
        let certificate = device.current.clone().ok_or_else(unproven)?;
        let (receipts, mut proof) = self.kept_receipts(&order, &certificate)?;
        // The last one names everything; those before it what their own phase came to.
        let items = receipts.last().map_or(&[][..], |(receipt, ..)| receipt.items.as_slice());
        let method = Sanitisation::earned(items);
        let came = receipts.last().map_or(0, |(_, at, _)| *at);
        proof.extend(self.proof_of(&leaving, &certificate, (id, Timestamp(came)))?);
        Ok(SanitisationRecord {
            warrant: self.warrant_shown(leaving.warrant)?,
            order: order.id,
            receipts,
            method,
            founding: self.founding.authority_digest,
            root: self.ca.root_pin(),
            proof,
            certificate,
            leaving,
            device,
        })
    }

    /// The receipts of `order`, verified once more by the key in `certificate`; and the same as files.
    #[expect(clippy::type_complexity, reason = "what was read, and the bytes it was read from")]
    fn kept_receipts(
        &self,
        order: &OrderRecord,
        certificate: &CertificateRef,
    ) -> Result<(Vec<(Receipt, i64, Sha256Digest)>, Vec<(String, Vec<u8>)>), Error> {
        let key = self.key_of(certificate)?;
        let (mut receipts, mut files) = (Vec::new(), Vec::new());
        for (at, note) in order.receipts.iter().enumerate() {
            let missing = Refusal::by("record.receipt_missing", Code::NotFound).at("receipts");
            let bytes = self.kept_receipt(order.id, note.sha256)?.ok_or(missing)?;
            let receipt = super::identity::read::<Receipt>(&bytes, key, "record.receipt")?;
            files.push((format!("receipts/{}-{}.cose", at + 1, receipt.phase), bytes));
            receipts.push((receipt.into_document(), note.at, note.sha256));
        }
        Ok((receipts, files))
    }

    fn key_of(&self, certificate: &CertificateRef) -> Result<PublicKey, Error> {
        let der = self.certificate_der(certificate.ordinal)?;
        let parsed = Certificate::parse(&der)
            .map_err(|error| Error::internal("reading a certificate of ours")(Box::new(error)))?;
        PublicKey::from_spki_der(parsed.spki_der())
            .map_err(|_| Refusal::by("identity.key_signs_no_documents", Code::CertificateRefused).into())
    }

    /// What shows that the wipe was ordered by those who may, of this device, and whose word the receipts are.
    fn proof_of(
        &self,
        leaving: &Deprovisioning,
        certificate: &CertificateRef,
        (device, came): (DeviceId, Timestamp),
    ) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let missing = || Refusal::by("record.warrant_missing", Code::NotFound).at("warrant");
        let signed = self.signatures(leaving.warrant)?.ok_or_else(missing)?;
        let (leaf, inclusion) = self.place_in(leaving.warrant, device)?.ok_or_else(missing)?;
        let authorities = self.ca.certificates();
        let (root, others) = authorities.split_first().ok_or_else(missing)?;
        let all = |certificates: &[(crate::ca::Role, &crate::ca::CaCertificate)]| {
            let texts = certificates.iter().map(|(_, certificate)| pem("CERTIFICATE", certificate.der()));
            texts.collect::<String>().into_bytes()
        };
        let leaf_der = self.certificate_der(certificate.ordinal)?;
        Ok([
            ("authority", self.chain_of(&signed, came).into_bytes()),
            ("warrant.cose", signed.to_bytes()),
            ("target.cbor", cbor::encode(&leaf)),
            ("inclusion.cbor", cbor::encode(&inclusion)),
            ("certificate.pem", pem("CERTIFICATE", &leaf_der).into_bytes()),
            ("root.pem", all(std::slice::from_ref(root))),
            ("authorities.pem", all(others)),
        ]
        .map(|(name, content)| (name.to_owned(), content))
        .into())
    }

    /// The authority documents as far as `signed` held at `came` by the last of them: an approver may have left since. One
    /// in base64 on each line.
    fn chain_of(&self, signed: &MultiSigned<Warrant>, came: Timestamp) -> String {
        let in_force = self.in_force();
        let chain = &in_force.chain;
        let holds = |length: &usize| {
            let links = chain.get(..*length).unwrap_or_default();
            let lineage = Lineage::walk(links, self.founding.authority_digest, came);
            lineage.is_ok_and(|lineage| warrant::verify(signed, &lineage, came).is_ok())
        };
        let length = (1..=chain.len()).rev().find(holds).unwrap_or(chain.len());
        chain.iter().take(length).map(|link| STANDARD.encode(link) + "\n").collect()
    }
}
