//! The rails that destructive acts run on (`security.md`, "Destructive orders: rails that are on by default").
//!
//! Every destructive verb asks [`App::spend`] while it makes its commit: what is spent is written in the same batch as
//! the act itself, and nothing is spent where the commit fails. What is beyond the budget waits: the answer says until
//! when, and who asks for the same again after that is let through.

use super::waiver::Cooling;
use super::{App, Error};
use crate::alarm::{Alarm, Place};
use crate::domain::device::{Device, DeviceState};
use crate::domain::policy::{Act, Caller, Permit, act, decide};
use crate::domain::rails::{GROWN_UP_S, Ledger, Limits, Verdict, Waiting, may_be_done};
use crate::domain::refusal::Refusal;
use crate::domain::revocation::Reason;
use crate::domain::warrant::WarrantRecord;
use crate::domain::waves::released;
use crate::store::collections::{DEVICES, Facet, INSTALLATION};
use crate::store::{Batch, Expect};
use muster_wire::digest::Sha256Digest;
use muster_wire::problem::Code;
use muster_wire::warrant::{Kind, Level};
use std::sync::{Mutex, PoisonError};

/// Under which id the ledger of the budget lies.
const LEDGER_ID: &[u8] = b"rails";
/// Under which id it lies by which settings the server ran last.
const SETTINGS_ID: &[u8] = b"rails-settings";
/// Under which id it lies where alarms went last.
const ALARM_ID: &[u8] = b"alarm-place";
/// For how long it is believed how many devices are grown up, in seconds.
const COUNTED_S: i64 = 3600;

/// What a destructive act does to its devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spend {
    /// Asks for a warrant that wipes them, so far.
    Wipe(Level),
    /// Ends their certificates without a wipe.
    Revoke(Reason),
    /// Lets a new life of the same asset take their place.
    Supersede,
    /// Holds them by hand.
    Quarantine,
}

impl Spend {
    /// The name that audit entries carry.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Wipe(_) => "wipe",
            Self::Revoke(_) => "revoke",
            Self::Supersede => "supersede",
            Self::Quarantine => "quarantine",
        }
    }

    fn level(self) -> Option<Level> {
        match self {
            Self::Wipe(level) => Some(level),
            Self::Revoke(_) | Self::Supersede | Self::Quarantine => None,
        }
    }
}

/// The settings in force, and what is known of the fleet.
pub(super) struct Rails {
    limits: Limits,
    /// How many devices were grown up when they were last counted, and when that was.
    grown_up: Mutex<Option<(i64, u64)>>,
}

/// The budget as an operator sees it.
#[derive(Clone, Debug)]
pub struct RailsShown {
    /// The settings.
    pub limits: Limits,
    /// Devices in 24 hours that the settings allow now.
    pub day: u64,
    /// Devices in the last hour.
    pub used_hour: u64,
    /// Devices in the last 24 hours.
    pub used_day: u64,
    /// What waits, oldest first.
    pub waiting: Vec<Cooling>,
    /// The freeze that lasts, if one does.
    pub frozen: Option<super::Frozen>,
}

impl Rails {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, grown_up: Mutex::new(None) }
    }
}

impl App {
    /// Adds to `batch` what the act of `permit` on `devices` costs; answers with it what is to be told outside once that
    /// batch is durable ([`App::tell`]).
    ///
    /// One revocation of one device for a key that is not safe any more is never delayed, only told.
    ///
    /// # Errors
    /// [`Error::Refused`] for what the rails do not allow; the caller writes the refusal down. [`Error::CoolingOff`] for
    /// what waits, which is durable then, and told.
    pub(super) async fn spend<A: Act>(
        &self,
        permit: &Permit<A>,
        batch: Batch,
        spend: Spend,
        devices: &[Device],
    ) -> Result<(Batch, Option<Alarm>), Error> {
        let now = self.clock.now_s();
        self.may_be_done_to(spend, devices)?;
        let asked = Asked::of(spend, devices);
        let is_urgent = is_urgent(spend, devices);
        let alarm = |event| self.alarm(permit, event, devices, String::new());
        let (version, mut ledger) = match self.rails_ledger() {
            Err(error) if is_urgent => {
                tracing::error!(%error, "a key that is not safe is revoked without the budget being written");
                return Ok((batch, Some(alarm(BEYOND))));
            }
            read => read?,
        };
        let judged = match self.judge_spending(&ledger, permit, (spend, devices), now) {
            Err(_) if is_urgent => Verdict::Crowded,
            judged => judged?,
        };
        let event = match judged {
            Verdict::Within => spend.level().map(|_| "wipe_requested"),
            _ if is_urgent => Some(BEYOND),
            Verdict::Waits { until, fresh } => {
                if fresh {
                    Box::pin(self.let_wait(permit, (asked, spend), devices, (now, until))).await?;
                }
                return Err(cooling_off(until, now));
            }
            Verdict::Crowded => return Err(CROWDED.into()),
        };
        ledger.spend(&asked.key, asked.count, now);
        Ok((self.put_ledger(batch, version, &ledger)?, event.map(alarm)))
    }

    /// Until when [`App::spend`] would let it wait, unix seconds; `None` where it would let it through now. Nothing is
    /// told, spent or written down: somebody only asks.
    ///
    /// # Errors
    /// As [`App::spend`], but for what waits.
    pub(super) fn would_wait<A: Act>(
        &self,
        permit: &Permit<A>,
        spend: Spend,
        devices: &[Device],
    ) -> Result<Option<i64>, Error> {
        self.may_be_done_to(spend, devices)?;
        if is_urgent(spend, devices) {
            return Ok(None);
        }
        let now = self.clock.now_s();
        match self.judge_spending(&self.rails_ledger()?.1, permit, (spend, devices), now)? {
            Verdict::Within => Ok(None),
            Verdict::Waits { until, .. } => Ok(Some(until)),
            Verdict::Crowded => Err(CROWDED.into()),
        }
    }

    fn judge_spending<A: Act>(
        &self,
        ledger: &Ledger,
        permit: &Permit<A>,
        (spend, devices): (Spend, &[Device]),
        now: i64,
    ) -> Result<Verdict, Error> {
        let Asked { key, count } = Asked::of(spend, devices);
        let by = permit.caller().principal.actor();
        ledger.judge(&self.rails.limits, (&key, &by, count), || self.grown_up(now), now)
    }

    fn may_be_done_to(&self, spend: Spend, devices: &[Device]) -> Result<(), Error> {
        for device in devices {
            let is_personal = self.profiles.get(&device.profile).is_some_and(|profile| profile.personal);
            may_be_done(device, spend.level(), is_personal)?;
        }
        Ok(())
    }

    /// The budget, what was spent of it and what waits; and whether anything leaves at all.
    ///
    /// # Errors
    /// [`Error::Load`].
    pub fn rails(&self, _permit: &Permit<act::ReadRails>) -> Result<RailsShown, Error> {
        let now = self.clock.now_s();
        let ledger = self.rails_ledger()?.1;
        let (used_hour, used_day) = ledger.used(now);
        let day = self.rails.limits.day(self.grown_up(now)?);
        let frozen = self.lasting_freeze()?;
        Ok(RailsShown {
            limits: self.rails.limits,
            day,
            used_hour,
            used_day,
            waiting: ledger
                .waiting
                .into_iter()
                .map(|waiting| self.cooling(waiting))
                .collect::<Result<_, _>>()?,
            frozen,
        })
    }

    /// Writes down that the settings of the rails are others than at the last start, and tells of it.
    ///
    /// # Errors
    /// [`Error::Load`] and whatever keeps a commit from being made.
    pub async fn note_rails(&self) -> Result<(), Error> {
        let key = INSTALLATION.key(SETTINGS_ID);
        let held = self.store.get(&key)?;
        let before: Option<Limits> = held.as_ref().and_then(|held| serde_json::from_slice(&held.value).ok());
        if before == Some(self.rails.limits) {
            return Ok(());
        }
        let text = |limits: &Limits| serde_json::to_string(limits).unwrap_or_default();
        let after = text(&self.rails.limits);
        let permit = decide::<act::ConfigureRails>(Caller::server())?;
        let entry = permit
            .entry(self.clock.now_ms(), "rails".to_owned())
            .states(before.as_ref().map(text).unwrap_or_default(), after.clone());
        let expect = held.map_or(Expect::Absent, |held| Expect::Version(held.version));
        self.commit(Batch::default().expect(key.clone(), expect).put(key, after.clone()).audit(entry))
            .await?;
        if before.is_some() {
            self.alarm_of(&permit, "rails_changed", &[], after);
        }
        Ok(())
    }

    /// Writes down that alarms go elsewhere than at the last start; answers where they went, and what to tell there.
    ///
    /// # Errors
    /// As [`App::note_rails`].
    pub async fn note_alarm_place(&self, place: &Place) -> Result<Option<(Place, Alarm)>, Error> {
        let key = INSTALLATION.key(ALARM_ID);
        let held = self.store.get(&key)?;
        let before: Option<Place> = held.as_ref().and_then(|held| serde_json::from_slice(&held.value).ok());
        if before.as_ref() == Some(place) {
            return Ok(None);
        }
        let bytes = serde_json::to_vec(place)
            .map_err(|error| Error::internal("writing where alarms go")(Box::new(error)))?;
        let permit = decide::<act::ConfigureRails>(Caller::server())?;
        let entry = permit
            .entry(self.clock.now_ms(), "alarm".to_owned())
            .states(before.as_ref().map_or("", |_| "set"), "set")
            .facts([("place_sha256", Sha256Digest::of(&bytes).to_hex())]);
        let expect = held.map_or(Expect::Absent, |held| Expect::Version(held.version));
        self.commit(Batch::default().expect(key.clone(), expect).put(key, bytes).audit(entry)).await?;
        let alarm = Alarm {
            event: "alarm_place_changed",
            at: self.clock.now_s(),
            actor: permit.caller().principal.actor(),
            request_id: String::new(),
            count: 0,
            devices: Vec::new(),
            detail: "alarms go elsewhere from now on".to_owned(),
        };
        Ok(before.map(|before| (before, alarm)))
    }

    /// How many targets of `warrant`, counted from its first, may have an order by now. Called before each order is made:
    /// when enough have signed, after each target that has ended, and on a timer.
    #[expect(clippy::unused_self, reason = "what the rails allow is asked of the app, as everywhere")]
    pub(super) fn wave(&self, warrant: &WarrantRecord) -> u64 {
        // What waits for a lapse does nothing yet and ends, if ever, much later: no wave could wait for it.
        if warrant.kind() == Kind::WipeOnLapse {
            return warrant.count;
        }
        released(warrant.count, warrant.ended, warrant.proven)
    }

    /// What is told outside of an act of `permit`.
    fn alarm<A: Act>(
        &self,
        permit: &Permit<A>,
        event: &'static str,
        devices: &[Device],
        detail: String,
    ) -> Alarm {
        Alarm {
            event,
            at: self.clock.now_s(),
            actor: permit.caller().principal.actor(),
            request_id: permit.caller().request_id.clone(),
            count: u64::try_from(devices.len()).unwrap_or(u64::MAX),
            devices: devices.iter().take(NAMED).map(|device| device.id.to_string()).collect(),
            detail,
        }
    }

    /// Tells outside what a commit has made durable, if there is anything to tell.
    pub(super) fn tell(&self, alarm: Option<Alarm>) {
        if let Some(alarm) = alarm {
            self.alarms.raise(alarm);
        }
    }

    /// Tells of an act outside, once it is durable.
    pub(super) fn alarm_of<A: Act>(
        &self,
        permit: &Permit<A>,
        event: &'static str,
        devices: &[Device],
        detail: String,
    ) {
        self.alarms.raise(self.alarm(permit, event, devices, detail));
    }

    pub(super) fn rails_ledger(&self) -> Result<(Option<u64>, Ledger), Error> {
        match self.store.get_document(&INSTALLATION.key(LEDGER_ID))? {
            Some(found) => {
                let ledger = serde_json::from_slice(&found.value)
                    .map_err(|error| Error::internal("reading the budget")(Box::new(error)))?;
                Ok((Some(found.version), ledger))
            }
            None => Ok((None, Ledger { v: 1, ..Ledger::default() })),
        }
    }

    pub(super) fn put_ledger(
        &self,
        batch: Batch,
        version: Option<u64>,
        ledger: &Ledger,
    ) -> Result<Batch, Error> {
        let key = INSTALLATION.key(LEDGER_ID);
        let bytes = serde_json::to_vec(ledger)
            .map_err(|error| Error::internal("writing the budget")(Box::new(error)))?;
        let mut batch = batch.expect(key.clone(), version.map_or(Expect::Absent, Expect::Version));
        self.store.put_document(&mut batch, &key, &bytes)?;
        Ok(batch)
    }

    /// Writes down what waits, in a commit of its own, and tells of it.
    async fn let_wait<A: Act>(
        &self,
        permit: &Permit<A>,
        (asked, spend): (Asked, Spend),
        devices: &[Device],
        (now, until): (i64, i64),
    ) -> Result<(), Error> {
        let entry = permit.refused(self.clock.now_ms(), about(devices), &COOLING).facts([
            ("act", spend.as_str().to_owned()),
            ("what", asked.key.clone()),
            ("devices", asked.count.to_string()),
            ("until", until.to_string()),
        ]);
        let waiting = Waiting {
            key: asked.key,
            act: spend.as_str().to_owned(),
            devices: asked.count,
            by: permit.caller().principal.actor(),
            since: now,
            until,
            waiver: String::new(),
        };
        for _ in 0..super::ATTEMPTS {
            let (version, mut ledger) = self.rails_ledger()?;
            // Others may have begun to wait since it was judged.
            if ledger.is_crowded(&waiting.by, now) {
                return Err(CROWDED.into());
            }
            ledger.cool(waiting.clone(), now);
            let batch = self.put_ledger(Batch::essential(), version, &ledger)?.audit(entry.clone());
            match self.commit(batch).await {
                Err(Error::Contended) => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    self.alarm_of(permit, "beyond_the_budget", devices, format!("waits until {until}"));
                    return Ok(());
                }
            }
        }
        Err(Error::Contended)
    }

    /// How many devices have been active for 30 days, counted at most once an hour.
    fn grown_up(&self, now: i64) -> Result<u64, Error> {
        let known = *self.rails.grown_up.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, count)) = known.filter(|(at, _)| (0..COUNTED_S).contains(&now.saturating_sub(*at))) {
            return Ok(count);
        }
        let since_ms = now.saturating_sub(GROWN_UP_S).saturating_mul(1000);
        let value = Facet::State.value(DeviceState::Active.as_str().as_bytes());
        let (mut count, mut after): (u64, Option<Vec<u8>>) = (0, None);
        loop {
            let hits = self.store.index_scan(&DEVICES, "by", &value, after.as_deref(), 1_000)?;
            for hit in hits.iter().filter(|hit| hit.value == value) {
                let device = self.store.load::<Device>(&hit.id)?.map(|held| held.record);
                let since = device.and_then(|device| device.steps.active_at);
                count += u64::from(since.is_some_and(|since| since <= since_ms));
            }
            match hits.into_iter().last() {
                Some(hit) => after = Some(hit.cursor),
                None => break,
            }
        }
        *self.rails.grown_up.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, count));
        Ok(count)
    }
}

/// Devices that an alarm names; the others are counted.
const NAMED: usize = 10;

/// What is told of a revocation that is done whatever the budget says.
const BEYOND: &str = "revoked_beyond_the_budget";

const COOLING: Refusal = Refusal::by("rails.cooling_off", Code::CoolingOff);
const CROWDED: Refusal = Refusal::by("rails.too_many_wait", Code::Conflict);

/// An act as the ledger knows it.
struct Asked {
    key: String,
    count: u64,
}

impl Asked {
    fn of(spend: Spend, devices: &[Device]) -> Self {
        Self { key: key_of(spend, devices), count: u64::try_from(devices.len()).unwrap_or(u64::MAX) }
    }
}

/// One revocation of one device for a key that is not safe any more is never delayed.
fn is_urgent(spend: Spend, devices: &[Device]) -> bool {
    matches!((spend, devices), (Spend::Revoke(Reason::KeyCompromise), [_]))
}

fn cooling_off(until: i64, now: i64) -> Error {
    let retry_after_s = u64::try_from(until.saturating_sub(now)).unwrap_or(0).max(1);
    Error::CoolingOff { retry_after_s, until }
}

/// What an act on these devices is called while it waits: the same act on the same devices, in whatever order.
fn key_of(spend: Spend, devices: &[Device]) -> String {
    let mut ids: Vec<_> = devices.iter().map(|device| device.id).collect();
    ids.sort_unstable();
    let mut bytes = format!("{spend:?}\n").into_bytes();
    ids.iter().for_each(|id| bytes.extend_from_slice(id.as_bytes()));
    Sha256Digest::of(&bytes).to_hex()
}

fn about(devices: &[Device]) -> String {
    match devices {
        [one] => format!("device/{}", one.id),
        _ => "rails".to_owned(),
    }
}
