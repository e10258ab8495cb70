//! Asking for a warrant: it approves nothing.
//!
//! The targets are frozen and the bytes made that approvers sign, for the devices as they are in that moment; devices that
//! are to be wiped are being let go from then on (`deprovision.rs`). All of it is one commit, or none.

use super::rails::Spend;
use super::{App, Error, Slot};
use crate::alarm::Alarm;
use crate::domain::deprovision::Request;
use crate::domain::device::{Device, DeviceState};
use crate::domain::order::Ask;
use crate::domain::policy::{Permit, act};
use crate::domain::refusal::Refusal;
use crate::domain::reported::Reported;
use crate::domain::warrant::{
    AFTER_LEAST_S, AFTER_MOST_S, State, TARGETS_MAX, VALID_S, WarrantRecord, approvers,
};
use crate::store::Batch;
use crate::store::collections::Paper;
use muster_firmware_profiles::profile::WipeLevel;
use muster_wire::cbor;
use muster_wire::digest::Sha256Digest;
use muster_wire::id::{DeviceId, WarrantId};
use muster_wire::lineage::Lineage;
use muster_wire::merkle::root_of;
use muster_wire::problem::Code;
use muster_wire::time::Timestamp;
use muster_wire::warrant::{Kind, Level, Target, Warrant};
use std::collections::BTreeSet;

/// What somebody asks for.
#[derive(Clone, Debug)]
pub struct WarrantRequest {
    /// What is to be done.
    pub kind: Kind,
    /// How far a wipe goes.
    pub level: Option<Level>,
    /// For a wipe on lapse: for how long nothing newer must have been heard, in seconds of the device's running.
    pub after_s: Option<u64>,
    /// Of which devices.
    pub devices: Vec<DeviceId>,
    /// Seconds until a device that was not proven is doomed.
    pub deadline_s: i64,
    /// Seconds until the warrant ends.
    pub valid_s: i64,
}

/// One device that somebody asks for.
#[derive(Clone, Debug)]
pub struct Aim {
    /// The device as it was before.
    pub device: Device,
    /// When its last report came, unix seconds.
    pub last_seen: Option<i64>,
}

/// What was asked for, or would be.
#[derive(Clone, Debug)]
pub struct Requested {
    /// The warrant.
    pub record: WarrantRecord,
    /// Its devices, in its order.
    pub aims: Vec<Aim>,
    /// How many approvers have to sign.
    pub required: usize,
    /// How many approvers there are.
    pub approvers: usize,
    /// How many of them count now: who has joined waits for a day.
    pub counting: usize,
    /// Until when asking for it would have to wait, unix seconds; only a preview says so.
    pub waits_until: Option<i64>,
}

/// A warrant in the making.
struct Draft {
    record: WarrantRecord,
    targets: Vec<Target>,
    payload: Vec<u8>,
}

impl App {
    /// What asking for `wanted` would come to, and until when it would have to wait; nothing is changed.
    ///
    /// # Errors
    /// As [`App::request_warrant`], but for what waits.
    pub async fn preview_warrant(
        &self,
        permit: &Permit<act::RequestWarrant>,
        wanted: &WarrantRequest,
    ) -> Result<Requested, Error> {
        let judged = self.judge(permit, wanted).and_then(|mut requested| {
            if let Some((spend, devices)) = spends(&requested) {
                requested.waits_until = self.would_wait(permit, spend, &devices)?;
            }
            Ok(requested)
        });
        self.settle_request(permit, judged).await
    }

    /// Asks for a warrant. Devices that are to be wiped are being let go when this returns; nothing is ordered of any
    /// before enough approvers have signed. The same request under the same `slot` answers the same warrant.
    ///
    /// # Errors
    /// [`Error::Invalid`]; [`Error::NotFound`]; [`Error::Refused`] for a kind that the approvers cannot meet, a device in
    /// another state, a level that its profile does not have, and whatever the rails do not allow.
    pub async fn request_warrant(
        &self,
        permit: Permit<act::RequestWarrant>,
        wanted: &WarrantRequest,
        slot: Option<&Slot>,
    ) -> Result<Requested, Error> {
        let id = match slot {
            Some(slot) => {
                WarrantId::from_parts(super::enroll::ms(slot.began_ms()), slot.derive(b"warrant", 0))
            }
            None => WarrantId::from_parts(super::enroll::ms(self.clock.now_ms()), super::random()),
        };
        for _ in 0..super::ATTEMPTS {
            if let Some(there) = self.store.load::<WarrantRecord>(id.as_bytes())? {
                return self.requested_before(there.record);
            }
            let judged = self.judge(&permit, wanted);
            let mut requested = self.settle_request(&permit, judged).await?;
            requested.record.id = id;
            let drafted = self.request_batch(&permit, &mut requested).await;
            let (batch, told) = self.settle_request(&permit, drafted).await?;
            match self.commit(batch).await {
                Err(Error::Contended) => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    self.tell(told);
                    return Ok(requested);
                }
            }
        }
        Err(Error::Contended)
    }

    async fn settle_request<T>(
        &self,
        permit: &Permit<act::RequestWarrant>,
        judged: Result<T, Error>,
    ) -> Result<T, Error> {
        match judged {
            Err(Error::Refused(refusal)) => Err(self.decline(permit, "warrant/none", refusal).await),
            settled => settled,
        }
    }

    /// The answer to a request that was carried out before.
    fn requested_before(&self, record: WarrantRecord) -> Result<Requested, Error> {
        let lineage = self.lineage();
        let authority = lineage.current();
        let required = approvers(authority, record.kind(), record.level(), record.count)?;
        let targets = self.targets(record.id)?;
        let aims = targets.iter().map(|target| self.aim(target.device)).collect::<Result<_, _>>()?;
        let (approvers, counting) = self.approvers_now(&lineage);
        Ok(Requested { record, aims, required, approvers, counting, waits_until: None })
    }

    /// How many approvers there are, and how many of them count now.
    fn approvers_now(&self, lineage: &Lineage) -> (usize, usize) {
        let counting = lineage.counting(Timestamp(self.clock.now_s())).count();
        (lineage.current().approvers.len(), counting)
    }

    fn aim(&self, id: DeviceId) -> Result<Aim, Error> {
        let device = self.device(id)?.record;
        let reported = self.store.load::<Reported>(id.as_bytes())?;
        let last_seen = reported.map(|held| held.record.received_at.div_euclid(1000));
        Ok(Aim { device, last_seen })
    }

    /// Whether `wanted` may be asked for.
    fn judge(
        &self,
        permit: &Permit<act::RequestWarrant>,
        wanted: &WarrantRequest,
    ) -> Result<Requested, Error> {
        in_words(wanted)?;
        let lineage = self.lineage();
        let authority = lineage.current();
        let mut named = BTreeSet::new();
        let distinct = wanted.devices.iter().filter(|id| named.insert(**id));
        let aims = distinct.map(|id| self.aim(*id)).collect::<Result<Vec<_>, _>>()?;
        let count = u64::try_from(aims.len()).unwrap_or(u64::MAX);
        let required = approvers(authority, wanted.kind, wanted.level, count)?;
        for aim in &aims {
            may_be_named(&aim.device)?;
        }
        let ask = self.ask_of(wanted, &aims)?;
        let now = self.clock.now_s();
        let record = WarrantRecord {
            v: 1,
            id: WarrantId::from_bytes([0; 16]),
            ask,
            payload_sha256: Sha256Digest([0; 32]),
            count,
            requested_by: permit.caller().principal.actor(),
            made_at: now,
            deadline: now.saturating_add(wanted.deadline_s),
            not_after: now.saturating_add(wanted.valid_s),
            state: State::Requested,
            ordered: 0,
            ended: 0,
            proven: 0,
        };
        let (approvers, counting) = self.approvers_now(&lineage);
        Ok(Requested { record, aims, required, approvers, counting, waits_until: None })
    }

    /// What every order would ask: one plan for all devices of a warrant.
    fn ask_of(&self, wanted: &WarrantRequest, aims: &[Aim]) -> Result<Ask, Error> {
        let Some(level) = wanted.level else { return Ok(Ask::Lock) };
        let mut plan: Option<Vec<String>> = None;
        for aim in aims {
            let unknown = Refusal::by("profile.known", Code::ProfileUnknown).at("profile");
            let wipe = &self.profiles.get(&aim.device.profile).ok_or(unknown)?.wipe;
            if !wipe.levels.contains(&of_profile(level)) {
                return Err(Refusal::by("warrant.level_of_profile", Code::Conflict).at("level").into());
            }
            let roots = if level == Level::Retire { Vec::new() } else { wipe.data_roots.clone() };
            if plan.get_or_insert_with(|| roots.clone()) != &roots {
                return Err(Refusal::by("warrant.plans_differ", Code::Conflict).at("devices").into());
            }
        }
        let data_roots = plan.unwrap_or_default();
        Ok(match wanted.after_s {
            Some(after_s) => Ask::WipeOnLapse { after_s, level, data_roots },
            None => Ask::Wipe { level, data_roots },
        })
    }

    async fn request_batch(
        &self,
        permit: &Permit<act::RequestWarrant>,
        requested: &mut Requested,
    ) -> Result<(Batch, Option<Alarm>), Error> {
        let draft = self.draft(requested)?;
        requested.record = draft.record.clone();
        let entry = permit
            .entry(self.clock.now_ms(), format!("warrant/{}", draft.record.id))
            .states("", State::Requested.as_str())
            .facts(super::warrant::facts(&draft.record));
        let (batch, told) = match spends(requested) {
            Some((spend, devices)) => self.spend(permit, Batch::essential(), spend, &devices).await?,
            None => (Batch::essential(), None),
        };
        let mut batch = self.put_draft(batch, &draft)?.audit(entry);
        let Ask::Wipe { level, .. } = draft.record.ask else { return Ok((batch, told)) };
        let WarrantRecord { id: warrant, deadline, not_after, .. } = draft.record;
        let request = Request { warrant, level, deadline, not_after };
        for aim in &requested.aims {
            let mut held = self.device(aim.device.id)?;
            may_be_named(&held.record)?;
            batch = self.begin_leaving(permit, batch, &mut held.record, &request)?;
            batch = batch.update(held.record.id.as_bytes(), held.version, &held.record);
        }
        Ok((batch, told))
    }

    /// The bytes that approvers sign, for the devices as they are now.
    fn draft(&self, requested: &Requested) -> Result<Draft, Error> {
        let mut record = requested.record.clone();
        let target = |aim: &Aim| Target {
            device: aim.device.id,
            serial: aim.device.serial.clone(),
            owner: aim.device.owner.clone(),
            kind: record.kind(),
            level: record.level(),
        };
        let targets: Vec<Target> = requested.aims.iter().map(target).collect();
        let leaves: Vec<Sha256Digest> = targets.iter().map(Target::leaf_hash).collect();
        let warrant = Warrant {
            id: record.id,
            kind: record.kind(),
            level: record.level(),
            plan: record.ask.action().plan(),
            root: root_of(&leaves),
            count: record.count,
            not_after: Timestamp(record.not_after),
            authority_version: self.lineage().current().version,
        };
        let payload = cbor::encode(&warrant);
        record.payload_sha256 = Sha256Digest::of(&payload);
        Ok(Draft { record, targets, payload })
    }

    fn put_draft(&self, mut batch: Batch, draft: &Draft) -> Result<Batch, Error> {
        let id = draft.record.id;
        self.store.put_document(&mut batch, &Paper::Targets.key(id), &cbor::encode(&draft.targets))?;
        self.store.put_document(&mut batch, &Paper::Payload.key(id), &draft.payload)?;
        Ok(batch.insert(id.as_bytes(), &draft.record))
    }

    /// Keeps a warrant that is signed already, in `batch`.
    pub(super) fn put_signed(
        &self,
        batch: Batch,
        record: &WarrantRecord,
        (targets, payload, signed): (&[Target], &[u8], &[u8]),
    ) -> Result<Batch, Error> {
        let draft = Draft { record: record.clone(), targets: targets.to_vec(), payload: payload.to_vec() };
        let mut batch = self.put_draft(batch, &draft)?;
        self.store.put_document(&mut batch, &Paper::Signed.key(record.id), signed)?;
        Ok(batch)
    }
}

/// What carrying `requested` out spends, and on which devices; nothing for what destroys nothing. A wipe that waits for a
/// lapse spends when it is asked for: later nobody is asked.
fn spends(requested: &Requested) -> Option<(Spend, Vec<Device>)> {
    if !matches!(requested.record.kind(), Kind::Wipe | Kind::WipeOnLapse) {
        return None;
    }
    let devices = requested.aims.iter().map(|aim| aim.device.clone()).collect();
    Some((Spend::Wipe(requested.record.level().unwrap_or(Level::Retire)), devices))
}

/// Whether `wanted` is a request at all.
fn in_words(wanted: &WarrantRequest) -> Result<(), Error> {
    let invalid = |field, expected: &str| Err(Error::Invalid { field, expected: expected.to_owned() });
    match (wanted.kind, wanted.level) {
        (Kind::Wipe, Some(_)) | (Kind::Lock, None) | (Kind::WipeOnLapse, Some(Level::Clear)) => {}
        (Kind::Wipe, None) => {
            let levels = Level::ALL.iter().map(|level| level.as_str()).collect::<Vec<_>>().join(", ");
            return invalid("level", &format!("is missing: a wipe has one of {levels}"));
        }
        (Kind::Lock, Some(_)) => return invalid("level", "goes with a wipe: a lock has none"),
        (Kind::WipeOnLapse, _) => return invalid("level", "must be clear for the kind wipe_on_lapse"),
        _ => {
            let words = "must be wipe, lock or wipe_on_lapse: no other kind is ordered by a warrant";
            return invalid("kind", words);
        }
    }
    match (wanted.kind, wanted.after_s) {
        (Kind::WipeOnLapse, Some(AFTER_LEAST_S..=AFTER_MOST_S)) => {}
        (Kind::WipeOnLapse, _) => {
            return invalid("after_s", &format!("must be {AFTER_LEAST_S} to {AFTER_MOST_S}"));
        }
        (_, None) => {}
        (_, Some(_)) => return invalid("after_s", "goes with the kind wipe_on_lapse, and with no other"),
    }
    if !(1..=TARGETS_MAX).contains(&wanted.devices.len()) {
        return invalid("devices", &format!("must name 1 to {TARGETS_MAX} devices"));
    }
    if !(1..=VALID_S).contains(&wanted.valid_s) {
        return invalid("valid_s", &format!("must be 1 to {VALID_S}"));
    }
    if !(1..=VALID_S).contains(&wanted.deadline_s) {
        return invalid("deadline_s", &format!("must be 1 to {VALID_S}"));
    }
    Ok(())
}

fn may_be_named(device: &Device) -> Result<(), Refusal> {
    if device.state == DeviceState::Deprovisioning {
        return Err(Refusal::by("warrant.device_leaving", Code::DeviceStateRefused).at("devices"));
    }
    if device.state.may_be_ended() {
        Ok(())
    } else {
        Err(Refusal::by("warrant.device_state", Code::DeviceStateRefused).at("devices"))
    }
}

fn of_profile(level: Level) -> WipeLevel {
    match level {
        Level::Retire => WipeLevel::Retire,
        Level::Clear => WipeLevel::Clear,
        Level::CryptoErase => WipeLevel::CryptoErase,
        Level::FactoryReset => WipeLevel::FactoryReset,
    }
}
