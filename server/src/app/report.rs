//! What devices report: state, posture, events.
//!
//! A report is no audit entry; what it changes is. The size is judged before anything is read, and a device that
//! reports too fast is not read at all.

use super::progress::{Kept, Known};
use super::refuse::About;
use super::report_pace::Pace;
use super::{App, Error, limits};
use crate::domain::device::{Device, DeviceState};
use crate::domain::order::Ask;
use crate::domain::policy::{Act, Caller, Permit, act, decide};
use crate::domain::posture::{PostureHistory, PostureRecord};
use crate::domain::refusal::Refusal;
use crate::domain::reported::{self, EventsTaken, Reported, Taken, plain};
use crate::store::collections::{Held, INSTALLATION, POSTURE, POSTURE_HISTORY};
use crate::store::key::instant;
use crate::store::{Batch, Expect};
use muster_firmware_profiles::appraise::{Appraisal, appraise};
use muster_wire::cbor::{self, Document};
use muster_wire::desired::Generation;
use muster_wire::id::DeviceId;
use muster_wire::posture::{EventReport, PostureReport, StateReport};
use muster_wire::problem::Code;
use muster_wire::time::Timestamp;

/// Where the installation keeps the highest counter that a baseline has taken.
pub(super) const GENERATION_ID: &[u8] = b"generation";

/// Orders after which the server makes no more by itself for a device that is being commissioned.
const COMMISSIONING_ORDERS: u64 = 16;

/// Longest particulars of an event, in bytes.
const DETAIL_BYTES: usize = 256;

impl App {
    /// Takes a state report. The same report again changes nothing.
    ///
    /// # Errors
    /// [`Error::Refused`] where the device is at fault; it is in the audit log then. [`Error::RateLimited`] where it
    /// reports too often.
    pub async fn report_state(
        &self,
        permit: Permit<act::ReportState>,
        device: DeviceId,
        body: &[u8],
    ) -> Result<(), Error> {
        let taken = async {
            let report: StateReport = self.read_report(&permit, device, body).await?;
            whose(report.device, device)?;
            for _ in 0..super::ATTEMPTS {
                match self.take_state(&permit, device, &report).await {
                    Err(Error::Contended) => {}
                    settled => return settled,
                }
            }
            Err(Error::Contended)
        };
        self.settle_report(&permit, device, taken.await).await
    }

    async fn take_state(
        &self,
        permit: &Permit<act::ReportState>,
        device: DeviceId,
        report: &StateReport,
    ) -> Result<(), Error> {
        let mut known = self.known(device)?;
        let now_ms = self.clock.now_ms();
        let held = known.reported.take();
        let before = held.as_ref().map(|held| &held.record);
        let Taken::New(next) = reported::take(before, report, known.plan.asked, now_ms)? else {
            return Ok(());
        };
        let next = *next;
        let mut batch = Batch::default().replace(device.as_bytes(), held.as_ref().map(|h| h.version), &next);
        if next.differs_from(before) {
            batch = batch.audit(state_entry(permit, now_ms, device, before, &next));
        }
        let is_ahead = next.ahead.filter(|ahead| before.and_then(|before| before.ahead) != Some(*ahead));
        if let Some(ahead) = is_ahead {
            batch = self.raise_counter(batch, ahead.saturating_add(1))?;
        }
        let as_read = known.device.record.clone();
        known.reported = Some(Held { version: 0, record: next });
        if as_read.state == DeviceState::Commissioning && self.lacks_an_order(&as_read)? {
            let permit = decide::<act::MakeOrder>(Caller::server())?;
            (batch, _) =
                self.make_order(&permit, batch, &mut known.device.record, (Ask::CollectPosture, None));
        }
        let batch = self.advance(batch, &as_read, &known, Kept::Reported)?;
        self.commit(batch).await?;
        if is_ahead.is_some() {
            self.doors.registry.nudge(&device);
        }
        Ok(())
    }

    /// Whether a device that is being commissioned waits for the round trip of an order that nobody has made, or that
    /// ended without one. One that refuses every order is not asked for ever.
    fn lacks_an_order(&self, device: &Device) -> Result<bool, Error> {
        let is_owed = device.steps.order_at.is_none() && device.orders_made < COMMISSIONING_ORDERS;
        Ok(is_owed && self.open_orders(device.id)?.is_empty())
    }

    /// Lets the next baseline begin above `counter`, which a device knows although this store does not.
    fn raise_counter(&self, batch: Batch, counter: u64) -> Result<Batch, Error> {
        let (version, stands) = self.generation_counter()?;
        if stands >= counter {
            return Ok(batch);
        }
        let key = INSTALLATION.key(GENERATION_ID);
        let expect = version.map_or(Expect::Absent, Expect::Version);
        Ok(batch.expect(key.clone(), expect).put(key, counter.to_be_bytes()))
    }

    /// Version and value of the highest counter that a baseline has taken.
    pub(super) fn generation_counter(&self) -> Result<(Option<u64>, u64), Error> {
        let Some(found) = self.store.get(&INSTALLATION.key(GENERATION_ID))? else { return Ok((None, 0)) };
        let bytes = <[u8; 8]>::try_from(found.value.as_slice())
            .map_err(|error| Error::internal("reading the generation counter")(Box::new(error)))?;
        Ok((Some(found.version), u64::from_be_bytes(bytes)))
    }

    /// Takes a posture report. The same report again changes nothing.
    ///
    /// # Errors
    /// As [`App::report_state`].
    pub async fn report_posture(
        &self,
        permit: Permit<act::ReportPosture>,
        device: DeviceId,
        body: &[u8],
    ) -> Result<(), Error> {
        let taken = async {
            let report: PostureReport = self.read_report(&permit, device, body).await?;
            whose(report.device, device)?;
            let mut counted = None;
            for _ in 0..super::ATTEMPTS {
                match self.take_posture(&permit, device, &report, &mut counted).await {
                    Err(Error::Contended) => {}
                    settled => return settled,
                }
            }
            Err(Error::Contended)
        };
        self.settle_report(&permit, device, taken.await).await
    }

    async fn take_posture(
        &self,
        permit: &Permit<act::ReportPosture>,
        device: DeviceId,
        report: &PostureReport,
        counted: &mut Option<limits::Taken>,
    ) -> Result<(), Error> {
        let mut known = self.known(device)?;
        let held = known.posture.take();
        if held.as_ref().is_some_and(|held| held.record.report == report.id) {
            return Ok(());
        }
        let (next, batch) = self.judged(permit, &known, held.as_ref(), report)?;
        let as_read = known.device.record.clone();
        let batch = self.follow_posture(batch, &mut known.device.record, &next, counted)?;
        known.posture = Some(Held { version: 0, record: next });
        let batch = self.advance(batch, &as_read, &known, Kept::Posture)?;
        self.commit(batch).await
    }

    /// What `report` amounts to, following on `held`, and the batch that keeps it.
    fn judged(
        &self,
        permit: &Permit<act::ReportPosture>,
        known: &Known,
        held: Option<&Held<PostureRecord>>,
        report: &PostureReport,
    ) -> Result<(PostureRecord, Batch), Error> {
        let (id, now_ms) = (known.device.record.id, self.clock.now_ms());
        let before = held.map(|held| &held.record);
        let rules = &known.ready.settled.resolved.posture.rules;
        let failing = before.map_or(&[][..], |before| &before.failing);
        let appraisal = appraise(rules, &report.facts, failing, Timestamp(now_ms.div_euclid(1000)));
        let next = PostureRecord::new(report, &appraisal, before, now_ms);
        let batch = self.keep_posture(permit, id, (held, &next), &appraisal)?;
        Ok((next, batch))
    }

    /// The batch that keeps the posture `next` of `device` in place of `held`, with what history and log hear of it.
    pub(super) fn keep_posture<A: Act>(
        &self,
        permit: &Permit<A>,
        device: DeviceId,
        (held, next): (Option<&Held<PostureRecord>>, &PostureRecord),
        appraisal: &Appraisal,
    ) -> Result<Batch, Error> {
        let (before, now_ms) = (held.map(|held| &held.record), self.clock.now_ms());
        let mut batch = Batch::default();
        self.put_posture(&mut batch, device, held.map(|held| held.version), next)?;
        if next.is_news(before) {
            let entry = [device.as_bytes().as_slice(), &instant(now_ms)].concat();
            batch = batch.insert(&entry, &PostureHistory::of(next));
        }
        if before.map(|before| before.verdict) != Some(next.verdict) {
            let failing: Vec<&str> = next.failing.iter().map(|one| one.fact.as_str()).collect();
            let entry = permit
                .entry(now_ms, format!("device/{device}"))
                .states(before.map_or("", |before| before.verdict.as_str()), next.verdict.as_str())
                .facts([("failing", failing.join(" ")), ("unknown", appraisal.unknown.join(" "))]);
            batch = batch.audit(entry);
        }
        Ok(batch)
    }

    /// Adds to `batch` the posture of `device`, which must still be of the version `held`.
    pub(super) fn put_posture(
        &self,
        batch: &mut Batch,
        device: DeviceId,
        held: Option<u64>,
        posture: &PostureRecord,
    ) -> Result<(), Error> {
        let key = POSTURE.key(device.as_bytes());
        let bytes = serde_json::to_vec(posture)
            .map_err(|error| Error::internal("writing a posture")(Box::new(error)))?;
        batch.preconditions.push((key.clone(), held.map_or(Expect::Absent, Expect::Version)));
        Ok(self.store.put_document(batch, &key, &bytes)?)
    }

    /// Takes the report of an event, which becomes an audit entry.
    ///
    /// # Errors
    /// As [`App::report_state`].
    pub async fn report_event(
        &self,
        permit: Permit<act::ReportEvent>,
        device: DeviceId,
        body: &[u8],
    ) -> Result<(), Error> {
        let taken = async {
            let report: EventReport = self.read_report(&permit, device, body).await?;
            whose(report.device, device)?;
            for _ in 0..super::ATTEMPTS {
                match self.take_event(&permit, device, &report).await {
                    Err(Error::Contended) => {}
                    settled => return settled,
                }
            }
            Err(Error::Contended)
        };
        self.settle_report(&permit, device, taken.await).await
    }

    async fn take_event(
        &self,
        permit: &Permit<act::ReportEvent>,
        device: DeviceId,
        report: &EventReport,
    ) -> Result<(), Error> {
        let held = self.store.load::<EventsTaken>(device.as_bytes())?;
        let before = held.as_ref().map(|held| held.record.clone()).unwrap_or_default();
        let Some(next) = before.with(report.id) else { return Ok(()) };
        let entry = permit
            .entry(self.clock.now_ms(), format!("device/{device}"))
            .because(report.kind.as_str())
            .facts([("detail", plain(&report.detail, DETAIL_BYTES))]);
        let batch = Batch::default().replace(device.as_bytes(), held.map(|held| held.version), &next);
        self.commit(batch.audit(entry)).await
    }

    /// Drops what the posture history keeps from before `cutoff_ms` (unix milliseconds); answers how many entries.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::NoSpace`], [`Error::Stopped`].
    pub async fn forget_posture(&self, cutoff_ms: i64) -> Result<usize, Error> {
        let cutoff = instant(cutoff_ms);
        let hits = self.store.index_scan(&POSTURE_HISTORY, "at", b"", None, 1_000)?;
        let old = hits.iter().take_while(|hit| hit.value.as_slice() < cutoff.as_slice());
        let mut batch = Batch::default();
        for hit in old {
            batch = batch.delete(POSTURE_HISTORY.key(&hit.id));
        }
        let forgotten = batch.writes.len();
        if forgotten > 0 {
            self.commit(batch).await?;
        }
        Ok(forgotten)
    }

    /// The document in `body`, once pace and size allow to look at it.
    pub(super) async fn read_report<A: Act, T: Document>(
        &self,
        permit: &Permit<A>,
        device: DeviceId,
        body: &[u8],
    ) -> Result<T, Error> {
        self.pace(permit, device).await?;
        if body.len() > T::MAX_BYTES {
            return Err(Refusal::by("report.size", Code::TooLarge).into());
        }
        cbor::decode(body).map_err(|_| Refusal::by("report.form", Code::MalformedRequest).into())
    }

    /// Counts one more message of `device`; the first of a minute that is too many is in the audit log.
    pub(super) async fn pace<A: Act>(&self, permit: &Permit<A>, device: DeviceId) -> Result<(), Error> {
        let Pace::TooFast { retry_after_s, first } = self.report_pace.count(device, self.clock.now_ms())
        else {
            return Ok(());
        };
        if first {
            let refusal = Refusal::by("report.rate", Code::RateLimited);
            let written = self.refuse(permit, About::Device(device), refusal).await;
            if !matches!(written, Error::Refused(_)) {
                return Err(written);
            }
        }
        Err(Error::RateLimited { retry_after_s })
    }

    /// Writes a refusal to the audit log before it is answered.
    pub(super) async fn settle_report<A: Act, T>(
        &self,
        permit: &Permit<A>,
        device: DeviceId,
        taken: Result<T, Error>,
    ) -> Result<T, Error> {
        match taken {
            Err(Error::Refused(refusal)) => Err(self.refuse(permit, About::Device(device), refusal).await),
            settled => settled,
        }
    }
}

/// A device speaks for itself alone.
pub(super) fn whose(named: DeviceId, speaks: DeviceId) -> Result<(), Refusal> {
    if named == speaks {
        Ok(())
    } else {
        Err(Refusal::by("report.device", Code::MalformedRequest).at("device"))
    }
}

fn state_entry(
    permit: &Permit<act::ReportState>,
    now_ms: i64,
    device: DeviceId,
    before: Option<&Reported>,
    next: &Reported,
) -> crate::domain::ledger::Draft {
    let generation = |reported: Option<&Reported>| {
        let in_place = reported.and_then(Reported::in_place);
        in_place.map_or_else(String::new, |Generation { counter, .. }| format!("generation {counter}"))
    };
    let drifting: Vec<&str> = next.drifting.iter().map(|section| section.as_str()).collect();
    permit
        .entry(now_ms, format!("device/{device}"))
        .because(if next.rolled_back.is_some() { "rolled_back" } else { "" })
        .states(generation(before), generation(Some(next)))
        .facts([
            ("drift", drifting.join(" ")),
            ("drift_total", next.drift_total.to_string()),
            ("agent_version", next.agent_version.clone()),
        ])
}
