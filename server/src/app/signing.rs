//! Approvers' signatures on warrants, and their word that one is stopped.
//!
//! Whoever hands a signature in does not count; the signature does. It is judged by the authority document in force, as
//! a device judges it, and a warrant is *warranted* only when [`warrant::verify`] says so.

use super::warrant::WarrantShown;
use super::{App, Error};
use crate::domain::deprovision::{Phase, WayOut};
use crate::domain::device::DeviceState;
use crate::domain::order::{Ask, OrderRecord, Phase as OrderPhase};
use crate::domain::policy::{Permit, act};
use crate::domain::refusal::Refusal;
use crate::domain::signature::{self, SignatureFlaw};
use crate::domain::warrant::{State, WarrantRecord};
use crate::store::Batch;
use crate::store::collections::{Held, Paper};
use muster_wire::cbor;
use muster_wire::envelope::{MultiSigned, SignedByMany, Verified};
use muster_wire::id::WarrantId;
use muster_wire::key::KeyId;
use muster_wire::lineage::Lineage;
use muster_wire::order::Action;
use muster_wire::problem::Code;
use muster_wire::time::Timestamp;
use muster_wire::warrant::{self, Kind, Target, Warrant};

/// Why a signature is not taken.
const UNREADABLE: Refusal = Refusal::by("warrant.envelope", Code::MalformedRequest).at("signed");
const OTHER: Refusal = Refusal::by("warrant.other", Code::Conflict).at("signed");
const ENDED: Refusal = Refusal::by("warrant.ended", Code::Conflict).at("state");
const SIGNER: Refusal = Refusal::by("warrant.signer", Code::Forbidden).at("signed");

impl App {
    /// Takes the signatures in `signed`, a COSE_Sign over the warrant's own payload. When enough are there, its orders
    /// are made. A signature that is there already changes nothing.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Refused`] where it is another document, is not signed by approvers that count now, or
    /// the warrant has ended.
    pub async fn sign_warrant(
        &self,
        permit: Permit<act::SignWarrant>,
        id: WarrantId,
        signed: &[u8],
    ) -> Result<WarrantShown, Error> {
        for _ in 0..super::ATTEMPTS {
            let held = self.warrant(id)?;
            let batch = match self.signature_batch(&permit, held, signed) {
                Ok(batch) => batch,
                Err(error) => return Err(self.decline_for(&permit, &format!("warrant/{id}"), error).await),
            };
            let Some(batch) = batch else { return self.warrant_shown(id) };
            match self.commit(batch).await {
                Err(Error::Contended) => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    self.make_orders_under(id).await?;
                    return self.warrant_shown(id);
                }
            }
        }
        Err(Error::Contended)
    }

    fn signature_batch(
        &self,
        permit: &Permit<act::SignWarrant>,
        mut held: Held<WarrantRecord>,
        signed: &[u8],
    ) -> Result<Option<Batch>, Error> {
        let (lineage, now) = (self.lineage(), Timestamp(self.clock.now_s()));
        let id = held.record.id;
        let handed = MultiSigned::<Warrant>::parse(signed).map_err(|_| UNREADABLE)?;
        if handed.payload_digest() != held.record.payload_sha256 {
            return Err(OTHER.into());
        }
        if !held.record.state.is_open() || held.record.has_lapsed(now.seconds()) {
            return Err(ENDED.into());
        }
        let names = signers(&handed, &lineage, now).map_err(Error::signature(SIGNER))?;
        let gathered = match self.signatures(id)? {
            None => handed,
            Some(mut gathered) => match gathered.merge(&handed) {
                Ok(0) => return Ok(None),
                Ok(_) => gathered,
                Err(_) => return Err(OTHER.into()),
            },
        };
        let before = held.record.state;
        let mut batch = Batch::essential();
        if before == State::Requested && warrant::verify(&gathered, &lineage, now).is_ok() {
            held.record.state = State::Warranted;
            batch = self.warrant_devices(permit, batch, &held.record)?;
        }
        self.store.put_document(&mut batch, &Paper::Signed.key(id), &gathered.to_bytes())?;
        let entry = permit
            .entry(self.clock.now_ms(), format!("warrant/{id}"))
            .states(before.as_str(), held.record.state.as_str())
            .facts(super::warrant::facts(&held.record))
            .facts([("approvers", names.join(", ")), ("signatures", gathered.key_ids().len().to_string())]);
        Ok(Some(batch.update(id.as_bytes(), held.version, &held.record).audit(entry)))
    }

    /// Adds to `batch` that the devices of a warrant to wipe are warranted.
    fn warrant_devices(
        &self,
        permit: &Permit<act::SignWarrant>,
        mut batch: Batch,
        record: &WarrantRecord,
    ) -> Result<Batch, Error> {
        if record.kind() != Kind::Wipe {
            return Ok(batch);
        }
        for target in self.targets(record.id)? {
            let mut held = self.device(target.device)?;
            if held.record.leaving().is_some_and(|leaving| leaving.warrant == record.id) {
                batch = self.leave_further(permit, batch, &mut held.record, Phase::Warranted);
                batch = batch.update(held.record.id.as_bytes(), held.version, &held.record);
            }
        }
        Ok(batch)
    }

    /// Stops the warrant `id` by `signed`, a warrant of the kind `stop` over the same devices: for good. Devices that have
    /// not begun go back to where they were, or, after doom, are retired unproven; every device that still hears orders
    /// is told. What is armed or executing goes on, and its receipts are waited for.
    ///
    /// # Errors
    /// As [`App::sign_warrant`].
    pub async fn stop_warrant(
        &self,
        permit: Permit<act::StopWarrant>,
        id: WarrantId,
        signed: &[u8],
    ) -> Result<WarrantShown, Error> {
        for _ in 0..super::ATTEMPTS {
            let held = self.warrant(id)?;
            if held.record.state == State::Stopped {
                return self.warrant_shown(id);
            }
            let batch = match self.stop_batch(&permit, held, signed) {
                Ok(batch) => batch,
                Err(error) => return Err(self.decline_for(&permit, &format!("warrant/{id}"), error).await),
            };
            let (stop, batch) = batch;
            match self.commit(batch).await {
                Err(Error::Contended) => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    self.make_orders_under(stop).await?;
                    return self.warrant_shown(id);
                }
            }
        }
        Err(Error::Contended)
    }

    fn stop_batch(
        &self,
        permit: &Permit<act::StopWarrant>,
        mut held: Held<WarrantRecord>,
        signed: &[u8],
    ) -> Result<(WarrantId, Batch), Error> {
        let id = held.record.id;
        if !held.record.state.is_open() || held.record.kind() == Kind::Stop {
            return Err(ENDED.into());
        }
        let targets = self.targets(id)?;
        let (stop, names) = self.read_stop(id, &targets, signed)?;
        let batch = self.put_signed(
            Batch::essential(),
            &stop_record(&stop, &held.record, self.clock.now_s(), permit.caller().principal.actor()),
            (&stop_targets(&targets), &cbor::encode(&*stop), signed),
        )?;
        let before = held.record.state;
        held.record.state = State::Stopped;
        let mut batch = batch;
        for target in &targets {
            batch = self.stop_device(permit, batch, (id, target), &mut held.record)?;
        }
        let entry = permit
            .entry(self.clock.now_ms(), format!("warrant/{id}"))
            .states(before.as_str(), State::Stopped.as_str())
            .facts([("approvers", names.join(", ")), ("stop", stop.id.to_string())]);
        Ok((stop.id, batch.update(id.as_bytes(), held.version, &held.record).audit(entry)))
    }

    /// The stop in `signed`, if an approver says by it that `id` is stopped for all of `targets`; with who has signed.
    fn read_stop(
        &self,
        id: WarrantId,
        targets: &[Target],
        signed: &[u8],
    ) -> Result<(Verified<Warrant>, Vec<String>), Error> {
        let (lineage, now) = (self.lineage(), Timestamp(self.clock.now_s()));
        let handed = MultiSigned::<Warrant>::parse(signed).map_err(|_| UNREADABLE)?;
        let names = signers(&handed, &lineage, now).map_err(Error::signature(SIGNER))?;
        let stop = warrant::verify(&handed, &lineage, now).map_err(|_| SIGNER)?;
        let says_so = stop.kind == Kind::Stop
            && stop.plan == Action::Stop { warrant: id }.plan()
            && stop.names_exactly(&stop_targets(targets)).is_ok();
        let is_new = self.store.load::<WarrantRecord>(stop.id.as_bytes())?.is_none();
        if says_so && is_new { Ok((stop, names)) } else { Err(OTHER.into()) }
    }

    /// Adds to `batch` what a stop does to one device and its order.
    fn stop_device(
        &self,
        permit: &Permit<act::StopWarrant>,
        mut batch: Batch,
        (id, target): (WarrantId, &Target),
        warrant: &mut WarrantRecord,
    ) -> Result<Batch, Error> {
        for order in self.open_orders(target.device)?.iter().filter(|order| order.warrant == Some(id)) {
            if !has_begun(order) {
                batch = self.end_order(batch, order.id, OrderPhase::Stopped)?;
            }
        }
        let mut held = self.device(target.device)?;
        let Some(leaving) = held.record.leaving().filter(|leaving| leaving.warrant == id) else {
            return Ok(batch);
        };
        let order =
            leaving.order.map(|order| self.store.load::<OrderRecord>(order.as_bytes())).transpose()?;
        if order.flatten().is_some_and(|order| has_begun(&order.record)) {
            return Ok(batch);
        }
        warrant.count_end(false);
        batch = self.leave_by(permit, batch, &mut held.record, WayOut::Stopped)?;
        debug_assert_ne!(held.record.state, DeviceState::Deprovisioning);
        Ok(batch.update(held.record.id.as_bytes(), held.version, &held.record))
    }
}

/// Whether the device has said that it begins with `order`.
fn has_begun(order: &OrderRecord) -> bool {
    order.receipts.iter().any(|note| note.phase >= muster_wire::receipt::ReceiptPhase::Armed)
}

/// The targets of a warrant that stops the one with `targets`.
pub(super) fn stop_targets(targets: &[Target]) -> Vec<Target> {
    targets.iter().map(|target| Target { kind: Kind::Stop, level: None, ..target.clone() }).collect()
}

fn stop_record(stop: &Warrant, stopped: &WarrantRecord, now: i64, by: String) -> WarrantRecord {
    WarrantRecord {
        v: 1,
        id: stop.id,
        ask: Ask::Stop { warrant: stopped.id },
        payload_sha256: muster_wire::envelope::payload_digest(stop),
        count: stop.count,
        requested_by: by,
        made_at: now,
        deadline: stop.not_after.seconds(),
        not_after: stop.not_after.seconds(),
        state: State::Warranted,
        ordered: 0,
        ended: 0,
        proven: 0,
    }
}

/// The names of the approvers who have signed `handed`: all of its signatures are theirs, and all of them count now.
pub(super) fn signers<T: SignedByMany>(
    handed: &MultiSigned<T>,
    lineage: &Lineage,
    now: Timestamp,
) -> Result<Vec<String>, SignatureFlaw> {
    Ok(names_of(&signature::by_approvers(handed, lineage, now)?, lineage, now))
}

/// The names of those of `keys` that are of approvers who count now.
pub(super) fn names_of(keys: &[KeyId], lineage: &Lineage, now: Timestamp) -> Vec<String> {
    let named = lineage.counting(now).filter(|one| keys.contains(&one.key.key_id()));
    named.map(|one| one.name.to_string()).collect()
}
