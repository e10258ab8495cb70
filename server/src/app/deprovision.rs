//! Letting a device go: what a warrant, an order, a receipt and the time do to it, each in one commit.
//!
//! What is decided stands in [`crate::domain::deprovision`]. Here it becomes records: the device, what its certificates
//! say of it and what the CRL says of them, its order, the count of its warrant, and the audit entry.

use super::certificates::serials;
use super::device::Shown;
use super::foresee::Step;
use super::refuse::About;
use super::{App, Error};
use crate::domain::admission::PROVEN_FOR_S;
use crate::domain::deprovision::{Due, Phase, Request, Told, WayOut, is_under, told};
use crate::domain::device::{CertificateRef, CertificateState, Device, DeviceState, Retirement};
use crate::domain::ledger::Draft;
use crate::domain::order::{Ask, OrderRecord, Phase as OrderPhase};
use crate::domain::policy::{Act, Caller, Permit, act, decide};
use crate::domain::refusal::Refusal;
use crate::domain::revocation::{Entry, Reason};
use crate::domain::warrant::WarrantRecord;
use crate::store::collections::{DEVICES, Facet, Held, RECEIPTS, REVOCATIONS};
use crate::store::key::instant;
use crate::store::{Batch, Expect};
use muster_wire::digest::Sha256Digest;
use muster_wire::envelope::Verified;
use muster_wire::id::{DeviceId, OrderId, WarrantId};
use muster_wire::problem::Code;
use muster_wire::receipt::{Receipt, ReceiptOutcome, ReceiptPhase};

/// Devices looked at in one go because of the time.
const EACH: usize = 256;

/// What others are told of a certificate, as an entry of the CRL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listed {
    Good,
    OnHold,
    Over,
}

impl Listed {
    /// The last column of the table for a certificate of `device` that is not dead.
    fn of(device: &Device) -> Self {
        let doomed = device.leaving().is_some_and(|leaving| leaving.doomed_at.is_some());
        if doomed || !device.state.is_open() {
            Self::Over
        } else if device.state == DeviceState::Quarantined {
            Self::OnHold
        } else {
            Self::Good
        }
    }
}

impl App {
    /// Adds to `batch` that `device` begins to be let go, but for its own record.
    pub(super) fn begin_leaving<A: Act>(
        &self,
        permit: &Permit<A>,
        batch: Batch,
        device: &mut Device,
        request: &Request,
    ) -> Result<Batch, Error> {
        let before = device.standing();
        device.begin_leaving(request, self.clock.now_s());
        let entry = self.leaving_entry(permit, device, before).facts([
            ("level", request.level.to_string()),
            ("deadline", muster_wire::time::Timestamp(request.deadline).to_string()),
        ]);
        Ok(self.settle_certificates(batch, device)?.audit(entry))
    }

    /// Adds to `batch` that `device` has come as far as `phase`, but for its own record. Nothing where it has already.
    pub(super) fn leave_further<A: Act>(
        &self,
        permit: &Permit<A>,
        batch: Batch,
        device: &mut Device,
        phase: Phase,
    ) -> Batch {
        let before = device.standing();
        device.leave_further(phase);
        if device.standing() == before {
            return batch;
        }
        batch.audit(self.leaving_entry(permit, device, before))
    }

    /// Adds to `batch` that letting `device` go ended without proof, but for its own record; with its order and the
    /// count of its warrant.
    pub(super) fn leave_off<A: Act>(
        &self,
        permit: &Permit<A>,
        batch: Batch,
        device: &mut Device,
        (way, order): (WayOut, OrderPhase),
    ) -> Result<Batch, Error> {
        let batch = self.close_order(batch, device, order)?;
        self.leave_by(permit, batch, device, way)
    }

    /// The same where order and warrant are written by somebody else.
    pub(super) fn leave_by<A: Act>(
        &self,
        permit: &Permit<A>,
        batch: Batch,
        device: &mut Device,
        way: WayOut,
    ) -> Result<Batch, Error> {
        let warrant = device.leaving().map(|leaving| leaving.warrant);
        let (before, live) = (device.standing(), device.live_certificates().cloned().collect::<Vec<_>>());
        device.leave_off(way, self.clock.now_s());
        let mut entry = permit
            .entry(self.clock.now_ms(), format!("device/{}", device.id))
            .because(way.as_str())
            .states(before, device.standing())
            .facts(warrant.map(|warrant| ("warrant", warrant.to_string())));
        if device.state == DeviceState::Retired {
            entry = entry.facts([("revoked_serials", serials(&live))]);
        }
        Ok(self.settle_certificates(batch, device)?.audit(entry))
    }

    /// Adds to `batch` that a verified receipt proves that `device` was wiped, but for its own record.
    fn prove<A: Act>(&self, permit: &Permit<A>, batch: Batch, device: &mut Device) -> Result<Batch, Error> {
        let now = self.clock.now_s();
        let (before, live) = (device.standing(), device.live_certificates().cloned().collect::<Vec<_>>());
        device.prove(now.saturating_add(PROVEN_FOR_S), now);
        let entry = self.leaving_entry(permit, device, before).facts([("revoked_serials", serials(&live))]);
        Ok(self.settle_certificates(batch, device)?.audit(entry))
    }

    fn leaving_entry<A: Act>(&self, permit: &Permit<A>, device: &Device, before: String) -> Draft {
        let warrant = device.deprovisioning.as_ref().map(|leaving| leaving.warrant);
        permit
            .entry(self.clock.now_ms(), format!("device/{}", device.id))
            .states(before, device.standing())
            .facts(warrant.map(|warrant| ("warrant", warrant.to_string())))
    }

    /// Adds to `batch` what the records of the live certificates of `device`, and the CRL, are to say of it now.
    pub(super) fn settle_certificates(&self, mut batch: Batch, device: &Device) -> Result<Batch, Error> {
        let (leaving, listed) = (device.certificates_leaving(), Listed::of(device));
        let at = self.clock.now_s();
        for certificate in device.live_certificates() {
            let (id, mut held) = self.certificate(certificate)?;
            if matches!(held.record.state, CertificateState::Revoked { .. }) {
                continue;
            }
            held.record.leaving = leaving;
            held.record.held = listed == Listed::OnHold;
            if !device.state.is_open() && leaving.is_none() {
                held.record.state = CertificateState::Revoked { at, reason: Reason::CessationOfOperation };
            }
            batch = batch.update(&id, held.version, &held.record);
            batch = self.list(batch, certificate, listed)?;
        }
        Ok(batch)
    }

    /// Adds to `batch` the entry of the CRL for `certificate`. One that says it is over stays as it is: the time in it
    /// is when others were first told.
    fn list(&self, batch: Batch, certificate: &CertificateRef, listed: Listed) -> Result<Batch, Error> {
        let id = self.entry_id(certificate);
        let there = self.store.load::<Entry>(&id)?;
        let is_hold = there.as_ref().map(|entry| entry.record.reason == Reason::CertificateHold);
        let entry = |reason| Entry { at: self.clock.now_s(), reason, not_after: certificate.not_after };
        Ok(match (listed, there, is_hold) {
            (Listed::Good, Some(held), Some(true)) => {
                let key = REVOCATIONS.key(&id);
                batch.expect(key.clone(), Expect::Version(held.version)).delete(key)
            }
            (Listed::OnHold, None, _) => batch.insert(&id, &entry(Reason::CertificateHold)),
            (Listed::Over, there, None | Some(true)) => {
                let version = there.map(|held| held.version);
                batch.replace(&id, version, &entry(Reason::CessationOfOperation))
            }
            (Listed::Good, _, _) | (Listed::OnHold, Some(_), _) | (Listed::Over, _, Some(false)) => batch,
        })
    }

    /// Adds to `batch` that the open order by which `device` is let go is closed, with the count of the warrant.
    fn close_order(&self, batch: Batch, device: &Device, phase: OrderPhase) -> Result<Batch, Error> {
        let Some(leaving) = device.leaving() else { return Ok(batch) };
        let batch = self.count_end(batch, leaving.warrant, false)?;
        match leaving.order {
            Some(order) => self.end_order(batch, order, phase),
            None => Ok(batch),
        }
    }

    /// Adds to `batch` that `order` is closed, if it is open.
    pub(super) fn end_order(&self, batch: Batch, order: OrderId, phase: OrderPhase) -> Result<Batch, Error> {
        let Some(mut held) = self.store.load::<OrderRecord>(order.as_bytes())? else { return Ok(batch) };
        if !held.record.phase.is_open() {
            return Ok(batch);
        }
        held.record.phase = phase;
        Ok(batch.update(order.as_bytes(), held.version, &held.record))
    }

    /// Adds to `batch` that one more target of `warrant` has ended.
    fn count_end(&self, batch: Batch, warrant: WarrantId, proven: bool) -> Result<Batch, Error> {
        let Some(mut held) = self.store.load::<WarrantRecord>(warrant.as_bytes())? else { return Ok(batch) };
        held.record.count_end(proven);
        Ok(batch.update(warrant.as_bytes(), held.version, &held.record))
    }

    /// Adds to `batch` that `device`, whose life ends otherwise, is let go no more.
    pub(super) fn abandon(&self, batch: Batch, device: &Device) -> Result<Batch, Error> {
        self.close_order(batch, device, OrderPhase::Stopped)
    }

    /// Adds to `batch` what a receipt of an order under a warrant does: `before` is the order as it was, `next` as the
    /// receipt leaves it. The caller writes both `next` and the device's record.
    ///
    /// What comes for an order that was stopped or has lapsed still counts where it proves the wipe: the device may
    /// have been at it when the word came.
    pub(super) fn follow_receipt(
        &self,
        permit: &Permit<act::SendReceipt>,
        mut batch: Batch,
        device: &mut Device,
        (before, next): (&OrderRecord, &mut OrderRecord),
        (receipt, body): (&Verified<Receipt>, &[u8]),
    ) -> Result<Batch, Error> {
        let Some(id) = before.warrant else { return Ok(batch) };
        let warrant = self.store.load::<WarrantRecord>(id.as_bytes())?;
        let warrant = warrant.ok_or(Error::NotFound { kind: "warrant" })?.record;
        is_under(receipt, warrant.payload_sha256)?;
        self.keep_receipt(&mut batch, receipt, body)?;
        for note in before.receipts.iter().filter(|note| !next.receipts.contains(note)) {
            self.store.delete_document(&mut batch, &receipt_key(before.id, note.sha256))?;
        }
        let (Ask::Wipe { level, .. } | Ask::WipeOnLapse { level, .. }) = before.ask else {
            let has_ended = before.phase.is_open() && !next.phase.is_open();
            let done = next.phase == OrderPhase::Done;
            return if has_ended { self.count_end(batch, id, done) } else { Ok(batch) };
        };
        let is_leaving = device.leaving().is_some_and(|leaving| leaving.order == Some(before.id));
        let waits = matches!(before.ask, Ask::WipeOnLapse { .. });
        match told(receipt, &self.earlier_receipts(next)?, level) {
            Told::Further(phase) if is_leaving => Ok(self.leave_further(permit, batch, device, phase)),
            Told::Proven if is_leaving || device.state.may_be_ended() || overtakes(before, device, level) => {
                let batch = if before.phase.is_open() { self.count_end(batch, id, true)? } else { batch };
                let batch = if is_leaving { batch } else { self.abandon(batch, device)? };
                if !is_leaving {
                    let (now, not_after) = (self.clock.now_s(), warrant.not_after);
                    device.begin_leaving(&Request { warrant: id, level, deadline: now, not_after }, now);
                    if let Some(leaving) = device.deprovisioning.as_mut() {
                        leaving.order = Some(before.id);
                    }
                }
                self.prove(permit, batch, device)
            }
            Told::Further(Phase::Delivered) if waits => self.replace_placed(batch, before),
            Told::Out(way) => {
                if receipt.outcome == ReceiptOutcome::Done {
                    next.phase = OrderPhase::Failed;
                }
                if !is_leaving {
                    let has_ended = waits && before.phase.is_open();
                    return if has_ended { self.count_end(batch, id, false) } else { Ok(batch) };
                }
                // The order is closed by the receipt itself, which the caller writes.
                let batch = self.count_end(batch, id, false)?;
                self.leave_by(permit, batch, device, way)
            }
            // It did what it was asked for, whatever else becomes of the device.
            Told::Proven if before.phase.is_open() => self.count_end(batch, id, true),
            Told::Further(_) | Told::Proven => Ok(batch),
        }
    }

    /// The receipts of `order` before its last, as far as the device's key has signed them.
    fn earlier_receipts(&self, order: &OrderRecord) -> Result<Vec<Receipt>, Error> {
        let Some((last, earlier)) = order.receipts.split_last() else { return Ok(Vec::new()) };
        if last.phase != ReceiptPhase::Verified {
            return Ok(Vec::new());
        }
        let key = self.speaker(order.device)?.key;
        let mut receipts = Vec::new();
        for note in earlier {
            let Some(bytes) = self.kept_receipt(order.id, note.sha256)? else { continue };
            if let Ok(receipt) = super::identity::read::<Receipt>(&bytes, key, "receipt.earlier") {
                receipts.push(receipt.into_document());
            }
        }
        Ok(receipts)
    }

    /// Adds to `batch` that a wipe on lapse, `order`, takes the place of those that were placed on the device before.
    fn replace_placed(&self, mut batch: Batch, order: &OrderRecord) -> Result<Batch, Error> {
        for former in self.open_orders(order.device)? {
            let is_former = matches!(former.ask, Ask::WipeOnLapse { .. }) && former.counter < order.counter;
            if let Some(warrant) = former.warrant.filter(|_| is_former) {
                batch = self.end_order(batch, former.id, OrderPhase::Stopped)?;
                batch = self.count_end(batch, warrant, false)?;
            }
        }
        Ok(batch)
    }

    fn keep_receipt(&self, batch: &mut Batch, receipt: &Verified<Receipt>, body: &[u8]) -> Result<(), Error> {
        let key = receipt_key(receipt.order, receipt.payload_digest());
        Ok(self.store.put_document(batch, &key, body)?)
    }

    /// The receipt of `order` with this digest, as it came; only receipts of orders under a warrant are kept.
    ///
    /// # Errors
    /// [`Error::Load`].
    pub fn receipt_bytes(
        &self,
        _permit: &Permit<act::ReadOrder>,
        order: OrderId,
        sha256: Sha256Digest,
    ) -> Result<Option<Vec<u8>>, Error> {
        self.kept_receipt(order, sha256)
    }

    pub(super) fn kept_receipt(
        &self,
        order: OrderId,
        sha256: Sha256Digest,
    ) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.store.get_document(&receipt_key(order, sha256))?.map(|found| found.value))
    }

    /// Adds to `batch` that the device has fetched the `ack` named by `receipt`: where that is the last one of a proven
    /// wipe, nothing lets it in any more. `None` where there is nothing to note.
    pub(super) fn acknowledged_last(
        &self,
        permit: &Permit<act::Deliver>,
        device: DeviceId,
        receipt: Sha256Digest,
    ) -> Result<Option<Batch>, Error> {
        let held = self.device(device)?;
        let left = held.record.deprovisioning.as_ref().filter(|left| left.letterbox_until.is_some());
        let Some(order) = left.and_then(|left| left.order) else { return Ok(None) };
        let order = self.store.load::<OrderRecord>(order.as_bytes())?.map(|held| held.record);
        let last = order.and_then(|order| order.receipts.last().map(|note| note.sha256));
        if last != Some(receipt) {
            return Ok(None);
        }
        self.close_letterbox(permit, held, "acknowledged").map(Some)
    }

    fn close_letterbox<A: Act>(
        &self,
        permit: &Permit<A>,
        mut held: Held<Device>,
        why: &str,
    ) -> Result<Batch, Error> {
        if let Some(left) = held.record.deprovisioning.as_mut() {
            left.letterbox_until = None;
        }
        let standing = held.record.standing();
        let entry = self.leaving_entry(permit, &held.record, standing).because(why);
        let batch = self.settle_certificates(Batch::essential(), &held.record)?.audit(entry);
        Ok(batch.update(held.record.id.as_bytes(), held.version, &held.record))
    }

    /// Gives up waiting for the doomed device `id`: it is retired unproven, and nothing lets it in any more. A device
    /// that was given up already stays as it is.
    ///
    /// # Errors
    /// [`Error::Refused`] with `device_state_refused` where it is not being let go, or is not doomed yet.
    pub async fn retire(&self, permit: Permit<act::RetireDevice>, id: DeviceId) -> Result<Shown, Error> {
        for _ in 0..super::ATTEMPTS {
            let mut held = self.device(id)?;
            match step_of_retiring(&held.record, self.clock.now_s()) {
                Ok(Step::Nothing) => return self.shown(held.record, held.version),
                Ok(Step::Free | Step::Counts(_)) => {}
                Err(refusal) => return Err(self.refuse(&permit, About::Device(id), refusal).await),
            }
            let ways = (WayOut::GivenUp, OrderPhase::Stopped);
            let batch = self.leave_off(&permit, Batch::essential(), &mut held.record, ways)?;
            match self.commit(batch.update(id.as_bytes(), held.version, &held.record)).await {
                Err(Error::Contended) => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    let held = self.device(id)?;
                    return self.shown(held.record, held.version);
                }
            }
        }
        Err(Error::Contended)
    }

    /// Does what the time asks for about devices that are let go: doom, lapse, the end of a letterbox. Answers for how
    /// many.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::NoSpace`], [`Error::Stopped`]; what was done before stays done.
    pub async fn follow_deadlines(&self) -> Result<usize, Error> {
        let permit = decide::<act::Deprovision>(Caller::server())?;
        let due = Facet::Leaving.value(&instant(self.clock.now_s()));
        let hits = self.store.index_scan(&DEVICES, "by", &Facet::Leaving.value(b""), None, EACH)?;
        let mut done = 0;
        for hit in hits.iter().take_while(|hit| hit.value <= due) {
            let Some(held) = self.store.load::<Device>(&hit.id)? else { continue };
            let Some(batch) = self.follow_time(&permit, held)? else { continue };
            match self.commit(batch).await {
                Ok(()) => done += 1,
                // A receipt came meanwhile.
                Err(Error::Contended) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn follow_time(
        &self,
        permit: &Permit<act::Deprovision>,
        mut held: Held<Device>,
    ) -> Result<Option<Batch>, Error> {
        let now = self.clock.now_s();
        let batch = match held.record.leaving_due(now) {
            Due::Nothing => return Ok(None),
            Due::CloseLetterbox => return self.close_letterbox(permit, held, "letterbox.day").map(Some),
            Due::Lapse => {
                let ways = (WayOut::Lapsed, OrderPhase::Expired);
                self.leave_off(permit, Batch::essential(), &mut held.record, ways)?
            }
            Due::Doom => self.doom(permit, &mut held.record, now)?,
        };
        Ok(Some(batch.update(held.record.id.as_bytes(), held.version, &held.record)))
    }

    /// That `device` is doomed: others see its certificates revoked; it is let in for its open order alone.
    fn doom(&self, permit: &Permit<act::Deprovision>, device: &mut Device, now: i64) -> Result<Batch, Error> {
        let (before, live) = (device.standing(), device.live_certificates().cloned().collect::<Vec<_>>());
        if let Some(leaving) = device.deprovisioning.as_mut() {
            leaving.doomed_at = Some(now);
        }
        device.leave_further(Phase::Unproven);
        let entry = self
            .leaving_entry(permit, device, before)
            .because("doomed")
            .facts([("revoked_serials", serials(&live))]);
        Ok(self.settle_certificates(Batch::essential(), device)?.audit(entry))
    }
}

/// What giving up on `device` does at `now` (unix seconds).
///
/// # Errors
/// The rule that refuses it.
pub(super) fn step_of_retiring(device: &Device, now: i64) -> Result<Step, Refusal> {
    if device.retirement == Some(Retirement::Unproven) {
        return Ok(Step::Nothing);
    }
    if device.is_doomed(now) {
        return Ok(Step::Free);
    }
    let rule = if device.leaving().is_some() { "retire.not_doomed" } else { "retire.not_leaving" };
    Err(Refusal::by(rule, Code::DeviceStateRefused).at("state"))
}

/// Whether `order` to wipe on lapse, which the device has carried out at `level`, did all that it is being let go for.
fn overtakes(order: &OrderRecord, device: &Device, level: muster_wire::warrant::Level) -> bool {
    let is_late = matches!(order.ask, Ask::WipeOnLapse { .. });
    is_late && device.leaving().is_some_and(|leaving| leaving.level <= level)
}

fn receipt_key(order: OrderId, sha256: Sha256Digest) -> Vec<u8> {
    RECEIPTS.key(&[order.as_bytes().as_slice(), sha256.as_bytes()].concat())
}
