//! What devices of a profile should be like: set by an operator, shown, fetched by devices.
//!
//! Setting a baseline is one commit, however many devices it is for: each device's desired state is computed from it
//! when the device is told.

use super::desired::{Heard, Plan};
use super::report::GENERATION_ID;
use super::{App, Approval, Error};
use crate::domain::desired::{ProfileDesired, settle};
use crate::domain::device::Device;
use crate::domain::policy::{Permit, act};
use crate::domain::refusal::Refusal;
use crate::domain::reported::{DriftNote, Reported};
use crate::store::collections::{BASELINES, DEVICES, Facet, INSTALLATION};
use crate::store::{Batch, Expect};
use muster_firmware_profiles::profile::{
    Baseline, BaselineFile, LeasePolicy, OnLapse, Override, Profile, WipeLevel,
};
use muster_wire::desired::{self as wire, Generation};
use muster_wire::digest::Sha256Digest;
use muster_wire::id::DeviceId;
use muster_wire::problem::Code;

/// The baseline of a profile.
#[derive(Clone, Debug)]
pub struct BaselineShown {
    /// The profile.
    pub profile: String,
    /// Its generation.
    pub counter: u64,
    /// Under which generation devices hear of it.
    pub heard: Heard,
    /// The sections.
    pub baseline: Baseline,
    /// The lease that its devices get; `None` is none.
    pub lease: Option<LeasePolicy>,
    /// Deviations for sites and labels.
    pub overrides: Vec<Override>,
    /// When it was set, unix seconds, and by whom; `None` for the profile's own.
    pub set: Option<(i64, String)>,
    /// Version of its record, for `ETag`.
    pub version: u64,
}

/// What setting a baseline would do, or did.
#[derive(Clone, Debug)]
pub struct Effect {
    /// The baseline as it is, or would be.
    pub baseline: BaselineShown,
    /// Devices of the profile whose life goes on.
    pub devices: u64,
    /// How many of them get another baseline than they have.
    pub changed: u64,
    /// What approvers have to sign before devices take it; `None` where they take it as it is.
    pub approval: Option<Approval>,
}

/// What one device should be like, beside what it said.
#[derive(Clone, Debug)]
pub struct Difference {
    /// The generation desired.
    pub desired: Generation,
    /// The generation as which its baseline was set, and why another one is desired, if so.
    pub set: (u64, Option<String>),
    /// The generation that it says is in place.
    pub reported: Option<Generation>,
    /// SHA-256 of the payload of the baseline desired.
    pub digest: Sha256Digest,
    /// The baseline desired.
    pub baseline: wire::Baseline,
    /// The first differences it reported.
    pub drift: Vec<DriftNote>,
    /// How many there are.
    pub drift_total: u64,
    /// What approvers have to sign before it takes the baseline; `None` where it takes it as it is.
    pub approval: Option<Approval>,
}

impl App {
    /// The baseline of the profile of this name.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is no such profile.
    pub fn baseline(
        &self,
        _permit: &Permit<act::ReadBaseline>,
        profile: &str,
    ) -> Result<BaselineShown, Error> {
        let known = self.profiles.get(profile).ok_or(Error::NotFound { kind: "profile" })?;
        let plan = self.plan(profile)?;
        Ok(match &plan.set {
            Some(set) => BaselineShown { heard: plan.heard(None), ..shown(set, known, plan.version()) },
            None => BaselineShown {
                profile: known.name.clone(),
                counter: plan.counter,
                heard: plan.heard(None),
                baseline: known.baseline.clone(),
                lease: known.lease.clone(),
                overrides: known.overrides.clone(),
                set: None,
                version: 0,
            },
        })
    }

    /// The baselines of all profiles, by name.
    ///
    /// # Errors
    /// [`Error::Load`].
    pub fn baselines(&self, permit: &Permit<act::ReadBaseline>) -> Result<Vec<BaselineShown>, Error> {
        self.profiles.iter().map(|profile| self.baseline(permit, &profile.name)).collect()
    }

    /// What setting the baseline in `text` would do; `file` is the name that an error gives.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming file, line and key.
    pub fn preview_baseline(
        &self,
        permit: &Permit<act::SetBaseline>,
        file: &str,
        text: &str,
    ) -> Result<Effect, Error> {
        let asked = self.read_baseline(file, text)?;
        let plan = self.plan(&asked.profile)?;
        let next = self.next_baseline(permit, &plan, asked)?;
        self.effect(&plan, &next, plan.version())
    }

    /// Sets the baseline in `text` for every device of its profile, where `is_meant` says yes to the version that it
    /// replaces: 0 where nobody has set one. One that says what is set already changes nothing.
    ///
    /// # Errors
    /// As [`App::preview_baseline`]; [`Error::Refused`] with `precondition_failed` where another version was meant.
    pub async fn set_baseline(
        &self,
        permit: Permit<act::SetBaseline>,
        file: &str,
        text: &str,
        is_meant: impl Fn(u64) -> bool,
    ) -> Result<Effect, Error> {
        let asked = self.read_baseline(file, text)?;
        for _ in 0..super::ATTEMPTS {
            let plan = self.plan(&asked.profile)?;
            let next = self.next_baseline(&permit, &plan, asked.clone())?;
            let effect = self.effect(&plan, &next, plan.version())?;
            if plan.set.as_ref().is_some_and(|set| set.counter == next.counter) {
                return Ok(effect);
            }
            // Not before what is set already was answered (RFC 9110 §13.1.1 allows it): a request whose reply was
            // lost is sent again. In the loop, since whoever was faster has changed what is replaced.
            if !is_meant(plan.version()) {
                let changed = Refusal::by("baseline.changed", Code::PreconditionFailed).at("If-Match");
                return Err(self.decline(&permit, &format!("baseline/{}", asked.profile), changed).await);
            }
            match self.commit(self.baseline_batch(&permit, &plan, &next)?).await {
                Err(Error::Contended) => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    let version = self.plan(&asked.profile)?.version();
                    let baseline = BaselineShown { version, ..effect.baseline };
                    return Ok(Effect { baseline, ..effect });
                }
            }
        }
        Err(Error::Contended)
    }

    fn read_baseline(&self, file: &str, text: &str) -> Result<BaselineFile, Error> {
        let asked = BaselineFile::parse(file, text)
            .map_err(|error| Error::Invalid { field: "toml", expected: format!("is refused: {error}") })?;
        let unknown = Refusal::by("profile.known", Code::ProfileUnknown).at("profile");
        let levels = &self.profiles.get(&asked.profile).ok_or(unknown)?.wipe.levels;
        let leases = asked.lease.iter().chain(asked.overrides.iter().filter_map(|one| one.lease.as_ref()));
        if leases.clone().any(|lease| lease.on_lapse == OnLapse::Clear) && !levels.contains(&WipeLevel::Clear)
        {
            let expected =
                format!("must not let a lease clear: devices of profile {} never are", asked.profile);
            return Err(Error::Invalid { field: "toml", expected });
        }
        Ok(asked)
    }

    /// The record that `asked` makes; with the counter of the present one where it says the same.
    fn next_baseline(
        &self,
        permit: &Permit<act::SetBaseline>,
        plan: &Plan,
        asked: BaselineFile,
    ) -> Result<ProfileDesired, Error> {
        if let Some(set) = &plan.set
            && set.baseline == asked.baseline
            && set.lease == asked.lease
            && set.overrides == asked.overrides
        {
            return Ok(set.clone());
        }
        let highest = self.generation_counter()?.1.max(plan.counter);
        let next = ProfileDesired {
            v: 1,
            profile: asked.profile,
            counter: highest.saturating_add(1),
            baseline: asked.baseline,
            lease: asked.lease,
            overrides: asked.overrides,
            set_at: self.clock.now_s(),
            set_by: permit.caller().principal.actor(),
            signings: 0,
        };
        let unknown = Refusal::by("profile.known", Code::ProfileUnknown).at("profile");
        let profile = next.over(self.profiles.get(&next.profile).ok_or(unknown)?);
        let everything = profile.overrides.iter().fold(profile.baseline.clone(), |mut all, one| {
            all.files.extend(one.baseline.files.iter().cloned());
            all.sysctl.extend(one.baseline.sysctl.clone());
            all
        });
        let largest =
            muster_firmware_profiles::Profile { baseline: everything, overrides: Vec::new(), ..profile };
        if !settle(&largest, None, &std::collections::BTreeMap::new()).fits() {
            let expected = "must stay below one megabyte with all of its files".to_owned();
            return Err(Error::Invalid { field: "toml", expected });
        }
        Ok(next)
    }

    fn baseline_batch(
        &self,
        permit: &Permit<act::SetBaseline>,
        plan: &Plan,
        next: &ProfileDesired,
    ) -> Result<Batch, Error> {
        let bytes = serde_json::to_vec(next)
            .map_err(|error| Error::internal("writing a baseline")(Box::new(error)))?;
        let entry = permit
            .entry(self.clock.now_ms(), format!("baseline/{}", next.profile))
            .states(format!("generation {}", plan.counter), format!("generation {}", next.counter))
            .facts([("generation", next.counter.to_string()), ("profile", next.profile.clone())]);
        let entry =
            crate::domain::ledger::Draft { payload_sha256: Sha256Digest::of(&bytes).to_hex(), ..entry };
        let (held, _) = self.generation_counter()?;
        let as_read = |version: Option<u64>| version.map_or(Expect::Absent, Expect::Version);
        let (counter, key) = (INSTALLATION.key(GENERATION_ID), BASELINES.key(next.profile.as_bytes()));
        let mut batch = Batch::default()
            .expect(counter.clone(), as_read(held))
            .put(counter, next.counter.to_be_bytes())
            .expect(key.clone(), as_read(plan.set.as_ref().map(|_| plan.version())))
            .audit(entry);
        self.store.put_document(&mut batch, &key, &bytes)?;
        self.forget_approvals(&mut batch, plan.counter)?;
        Ok(batch)
    }

    /// Counts the devices that `next` is for.
    fn effect(&self, plan: &Plan, next: &ProfileDesired, version: u64) -> Result<Effect, Error> {
        let (mut devices, mut changed) = (0, 0);
        let then = Plan::preview(self.profiles.get(&next.profile), next);
        self.each_open_of(&next.profile, |device| {
            devices += 1;
            let differs = |then: &Plan| then.of(device).settled.differs(&plan.of(device).settled);
            changed += u64::from(then.as_ref().is_some_and(differs));
        })?;
        let unknown = Refusal::by("profile.known", Code::ProfileUnknown).at("profile");
        let known = self.profiles.get(&next.profile).ok_or(unknown)?;
        let approval = then.map(|then| self.approval_of(&then, &next.profile)).transpose()?.flatten();
        Ok(Effect { baseline: shown(next, known, version), devices, changed, approval })
    }

    /// Shows `look` every device of `profile` whose life goes on.
    pub(super) fn each_open_of(&self, profile: &str, mut look: impl FnMut(&Device)) -> Result<(), Error> {
        let value = Facet::Profile.value(profile.as_bytes());
        let mut after: Option<Vec<u8>> = None;
        loop {
            let hits = self.store.index_scan(&DEVICES, "by", &value, after.as_deref(), 1_000)?;
            for hit in hits.iter().filter(|hit| hit.value == value) {
                let Ok(id) = <[u8; 16]>::try_from(hit.id.as_slice()) else { continue };
                let device = self.device(DeviceId::from_bytes(id))?.record;
                if device.state.is_open() {
                    look(&device);
                }
            }
            match hits.into_iter().last() {
                Some(hit) => after = Some(hit.cursor),
                None => return Ok(()),
            }
        }
    }

    /// What `device` should be like, beside what it said.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn difference(
        &self,
        _permit: &Permit<act::ReadBaseline>,
        device: DeviceId,
    ) -> Result<Difference, Error> {
        let device = self.device(device)?.record;
        let reported = self.store.load::<Reported>(device.id.as_bytes())?.map(|held| held.record);
        let plan = self.plan(&device.profile)?;
        let ready = plan.of(&device);
        Ok(Difference {
            desired: plan.generation(reported.as_ref()),
            set: (plan.counter, plan.heard(reported.as_ref()).because),
            reported: reported.as_ref().and_then(Reported::in_place),
            digest: ready.settled.digest,
            approval: self.approval(&ready)?,
            baseline: ready.settled.baseline.clone(),
            drift_total: reported.as_ref().map_or(0, |reported| reported.drift_total),
            drift: reported.map_or_else(Vec::new, |reported| reported.drift),
        })
    }

    /// The signed baseline with this digest, if it is the one that `device` was told to have.
    ///
    /// # Errors
    /// [`Error::NotFound`] for every other.
    pub fn fetch_baseline(
        &self,
        _permit: &Permit<act::FetchBaseline>,
        device: DeviceId,
        digest: &Sha256Digest,
    ) -> Result<Vec<u8>, Error> {
        let device = self.device(device)?.record;
        let ready = self.plan(&device.profile)?.of(&device);
        if ready.settled.digest != *digest {
            return Err(Error::NotFound { kind: "baseline" });
        }
        Ok(self.signed_baseline(&ready)?.to_vec())
    }
}

fn shown(set: &ProfileDesired, profile: &Profile, version: u64) -> BaselineShown {
    BaselineShown {
        profile: set.profile.clone(),
        counter: set.counter,
        heard: Heard { counter: set.counter, because: None },
        baseline: set.baseline.clone(),
        lease: set.lease.clone().or_else(|| profile.lease.clone()),
        overrides: set.overrides.clone(),
        set: Some((set.set_at, set.set_by.clone())),
        version,
    }
}
