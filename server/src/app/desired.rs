//! What devices should be like, settled once for all that stand alike and kept in memory until a baseline is set.

use super::succession::InForce;
use super::{App, Error};
use crate::domain::desired::{FIRST, ProfileDesired, Settled, settle};
use crate::domain::device::Device;
use crate::domain::refusal::Refusal;
use crate::domain::reported::{Reported, counter_for};
use crate::store::collections::BASELINES;
use muster_firmware_profiles::profile::Profile;
use muster_wire::cbor;
use muster_wire::desired::Generation;
use muster_wire::digest::Sha256Digest;
use muster_wire::id::DeviceId;
use muster_wire::problem::Code;
use muster_wire::time::Timestamp;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Places of one profile that are kept settled; past that all are settled anew.
const PLACES_MAX: usize = 1_024;

/// Where a device stands; nowhere in particular when its profile makes no difference.
type Place = Option<(Option<String>, BTreeMap<String, String>)>;

/// What one profile comes to.
pub(super) struct Plan {
    /// Version of the record of its baseline; none where nobody has set one.
    version: Option<u64>,
    /// Version of the authority document whose command key signs.
    authority: u64,
    /// The generation of its baseline.
    pub(super) counter: u64,
    /// The generation of everything that its devices should have: its baseline and the authorities.
    pub(super) asked: u64,
    /// What came after the baseline and took the number `asked`.
    since: Option<Since>,
    /// The baseline as it was set, if it was.
    pub(super) set: Option<ProfileDesired>,
    /// The profile with that baseline.
    profile: Cow<'static, Profile>,
    places: Mutex<HashMap<Place, Arc<Ready>>>,
}

/// What devices at one place get, with the signed baseline once somebody has asked for it.
pub(super) struct Ready {
    /// What they get.
    pub(super) settled: Settled,
    /// What their heads say, whoever they are, and how often approvers have signed: told once, told for a session.
    pub(super) says: Sha256Digest,
    /// The generation that approvers signed it for.
    pub(super) counter: u64,
    signed: OnceLock<Vec<u8>>,
}

impl Ready {
    fn new(settled: Settled, (counter, signings): (u64, u64)) -> Self {
        let nobody = DeviceId::from_bytes([0; 16]);
        let head = settled.head(nobody, Generation { restore_epoch: 0, counter: signings }, Timestamp(0));
        Self { says: Sha256Digest::of(&cbor::encode(&head)), settled, counter, signed: OnceLock::new() }
    }
}

/// What takes a generation of its own without changing any baseline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    /// A successor of the authority document, of this version.
    Authority(u64),
    /// Another issuing CA.
    Issuing,
    /// A device that reported a generation which this server, restored, does not know.
    Restore,
}

/// Under which generation devices hear of a baseline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Its counter.
    pub counter: u64,
    /// Why that is another one than the baseline was set as; `None` where it is the same.
    pub because: Option<String>,
}

impl Heard {
    /// `counter`, where the baseline was set as `set`.
    fn of(counter: u64, set: u64, since: Option<Since>) -> Self {
        let what = match since.filter(|_| counter != set) {
            None => return Self { counter, because: None },
            Some(Since::Authority(version)) => format!("the authority document became version {version}"),
            Some(Since::Issuing) => "another issuing CA was made".to_owned(),
            Some(Since::Restore) => "the device reported one that this server does not know".to_owned(),
        };
        let because = format!(
            "{what} after the baseline was set as {set}: devices hear of both as {counter}. The baseline is the same, and so \
             are its signatures"
        );
        Self { counter, because: Some(because) }
    }
}

/// The plans of all profiles.
#[derive(Default)]
pub(super) struct Plans(Mutex<HashMap<String, Arc<Plan>>>);

impl Plan {
    /// What a device at this place gets.
    pub(super) fn at(&self, site: Option<&str>, labels: &BTreeMap<String, String>) -> Arc<Ready> {
        let differs = !self.profile.overrides.is_empty();
        let place = differs.then(|| (site.map(str::to_owned), labels.clone()));
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.len() >= PLACES_MAX && !places.contains_key(&place) {
            places.clear();
        }
        let ready = places.entry(place).or_insert_with(|| {
            let signings = self.set.as_ref().map_or(0, |set| set.signings);
            Arc::new(Ready::new(settle(&self.profile, site, labels), (self.counter, signings)))
        });
        Arc::clone(ready)
    }

    /// What `device` gets.
    pub(super) fn of(&self, device: &Device) -> Arc<Ready> {
        self.at(device.site.as_deref(), &device.labels)
    }

    /// Under which generation devices hear of the baseline: all of them, or the one that has reported so.
    pub(super) fn heard(&self, reported: Option<&Reported>) -> Heard {
        let counter = counter_for(self.asked, reported);
        let since = if counter > self.asked { Some(Since::Restore) } else { self.since };
        Heard::of(counter, self.counter, since)
    }

    /// The generation that a device should have which has reported so.
    pub(super) fn generation(&self, reported: Option<&Reported>) -> Generation {
        Generation { restore_epoch: 0, counter: counter_for(self.asked, reported) }
    }
}

impl App {
    /// The plan of the profile of this name.
    ///
    /// # Errors
    /// [`Error::Refused`] with `profile_unknown`; [`Error::Load`].
    pub(super) fn plan(&self, profile: &str) -> Result<Arc<Plan>, Error> {
        let version = self.store.get(&BASELINES.key(profile.as_bytes()))?.map(|head| head.version);
        let in_force = self.in_force();
        let authority = in_force.lineage.current().version;
        let known = {
            let plans = self.plans.0.lock().unwrap_or_else(PoisonError::into_inner);
            let is_present = |plan: &&Arc<Plan>| plan.version == version && plan.authority == authority;
            plans.get(profile).filter(is_present).map(Arc::clone)
        };
        if let Some(plan) = known {
            return Ok(plan);
        }
        let plan = Arc::new(self.read_plan(profile, &in_force)?);
        let mut plans = self.plans.0.lock().unwrap_or_else(PoisonError::into_inner);
        plans.insert(profile.to_owned(), Arc::clone(&plan));
        Ok(plan)
    }

    fn read_plan(&self, name: &str, in_force: &InForce) -> Result<Plan, Error> {
        let unknown = Refusal::by("profile.known", Code::ProfileUnknown).at("profile");
        let profile = self.profiles.get(name).ok_or(unknown)?;
        let held = self.store.get_document(&BASELINES.key(name.as_bytes()))?;
        let version = held.as_ref().map(|held| held.version);
        let set = held.map(|held| serde_json::from_slice::<ProfileDesired>(&held.value)).transpose();
        let set = set.map_err(|error| Error::internal("reading a baseline")(Box::new(error)))?;
        let counter = set.as_ref().map_or(FIRST, |set| set.counter);
        let (issuing, authority) = (self.ca.lineup().generation, in_force.lineage.current().version);
        let succession = in_force.succession.generation;
        let since = if succession >= issuing { Since::Authority(authority) } else { Since::Issuing };
        let asked = counter.max(issuing).max(succession);
        Ok(Plan {
            version,
            authority,
            counter,
            asked,
            since: (asked > counter).then_some(since),
            profile: set.as_ref().map_or(Cow::Borrowed(profile), |set| Cow::Owned(set.over(profile))),
            set,
            places: Mutex::default(),
        })
    }

    /// The signed baseline of `ready`.
    ///
    /// # Errors
    /// [`Error::Internal`] where the command key fails.
    pub(super) fn signed_baseline<'r>(&self, ready: &'r Ready) -> Result<&'r [u8], Error> {
        if let Some(signed) = ready.signed.get() {
            return Ok(signed);
        }
        let failed = |error| Error::internal("signing a baseline")(error);
        let signed =
            self.ca.sign_baseline(&ready.settled.baseline).map_err(|error| failed(Box::new(error)))?;
        let signed = match self.approvals(ready.counter, &ready.settled.digest)? {
            None => signed.to_bytes(),
            Some(mut approved) => {
                approved.merge(&signed).map_err(|error| failed(Box::new(error)))?;
                approved.to_bytes()
            }
        };
        Ok(ready.signed.get_or_init(|| signed))
    }
}

impl Plan {
    /// The plan that `next` would make of `profile`.
    pub(super) fn preview(profile: Option<&'static Profile>, next: &ProfileDesired) -> Option<Self> {
        Some(Self {
            version: None,
            authority: 0,
            counter: next.counter,
            asked: next.counter,
            since: None,
            profile: Cow::Owned(next.over(profile?)),
            set: Some(next.clone()),
            places: Mutex::default(),
        })
    }

    /// Version of the record of the baseline, for `ETag`; 0 where nobody has set one.
    pub(super) fn version(&self) -> u64 {
        self.version.unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_moved_without_the_baseline_says_what_took_it() {
        let authority = Some(Since::Authority(2));
        assert_eq!(Heard::of(2, 2, authority), Heard { counter: 2, because: None });
        let moved = Heard::of(3, 2, authority).because.unwrap();
        assert!(moved.starts_with("the authority document became version 2 after the baseline was set as 2"));
        assert!(moved.contains("as 3") && moved.contains("the same"), "{moved}");
        assert!(Heard::of(3, 2, Some(Since::Issuing)).because.unwrap().contains("issuing CA"));
    }
}
