//! Approvers' signatures on baselines: what a device applies only when enough of them have signed.
//!
//! Which parts of a baseline need them, and how many, each device judges itself by its own declared roots and its own
//! build (`authority.md`, "The authority document"): here is kept who has signed what, and said what devices of this release
//! will ask for. Deviations for sites and labels make several baselines of one generation, and each is signed for itself.
//!
//! A signature is over the sections, not over the generation, so that a device takes it for as long as its approvers count.
//! Here it is kept with the generation that it came for: whoever sets what was approved once has to ask again.

use super::desired::{Plan, Ready};
use super::signing::{names_of, signers};
use super::{App, Error};
use crate::domain::desired::ProfileDesired;
use crate::domain::ledger::Draft;
use crate::domain::policy::{Permit, act};
use crate::domain::refusal::Refusal;
use crate::store::collections::{BASELINE_APPROVALS, BASELINES};
use crate::store::{Batch, Expect};
use muster_wire::approval;
use muster_wire::authority::{Authority, Matter};
use muster_wire::desired::Baseline;
use muster_wire::digest::Sha256Digest;
use muster_wire::envelope::MultiSigned;
use muster_wire::problem::Code;
use muster_wire::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const UNREADABLE: Refusal = Refusal::by("baseline.envelope", Code::MalformedRequest).at("signed");
const OTHER: Refusal = Refusal::by("baseline.other", Code::Conflict).at("signed");
const SIGNER: Refusal = Refusal::by("baseline.signer", Code::Forbidden).at("signed");
const BUILT_IN: Refusal = Refusal::by("baseline.built_in", Code::Conflict).at("profile");

/// A baseline that devices of a profile get, as approvers sign it.
#[derive(Clone, Debug)]
pub struct BaselinePaper {
    /// SHA-256 of its payload, as heads name it.
    pub digest: Sha256Digest,
    /// COSE_Sign: signed by the command key, and by the approvers so far.
    pub document: Vec<u8>,
    /// How many devices get it now.
    pub devices: u64,
    /// The approvers who have signed it and count now.
    pub signed_by: Vec<String>,
    /// How many have to, before a device takes it.
    pub required: u64,
}

/// What approvers have to sign before devices take a baseline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// The generation that they sign.
    pub counter: u64,
    /// How many have to.
    pub required: u64,
    /// How many of those are missing.
    pub missing: u64,
    /// What needs them: paths, keys and sections, in order.
    pub items: Vec<String>,
    /// What some of them count as that the authority document names no number for: nobody can approve it before a
    /// successor does, and more are required than there are approvers.
    pub unnamed: Vec<Matter>,
}

/// What of a baseline needs approvers, whoever has signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Needs {
    /// How many of them.
    pub(super) approvers: usize,
    /// As [`Approval::items`] and [`Approval::unnamed`].
    pub(super) items: Vec<String>,
    pub(super) unnamed: Vec<Matter>,
}

/// What of `baseline` needs approvers by `authority`; `None` where devices take it as it is.
pub(super) fn required(baseline: &Baseline, authority: &Authority) -> Option<Needs> {
    let items = approval::items(baseline, approval::DECLARED_ROOTS).into_iter();
    let needy: Vec<(String, Matter)> =
        items.filter(|(_, matter)| authority.approvers_for(*matter) > 0).collect();
    let approvers = needy.iter().map(|(_, matter)| authority.approvers_for(*matter)).max()?;
    let unnamed = needy.iter().map(|(_, matter)| *matter);
    let unnamed: BTreeSet<Matter> =
        unnamed.filter(|matter| authority.required.count(*matter).is_none()).collect();
    let items = needy.into_iter().map(|(item, _)| item).collect();
    Some(Needs { approvers, items, unnamed: unnamed.into_iter().collect() })
}

impl Approval {
    /// What to do about it, as sentences.
    pub fn remedy(&self) -> String {
        let Self { counter, required, missing, .. } = self;
        if let Some(never) = self.never(&format!("Generation {counter}")) {
            return never;
        }
        if *missing == 0 {
            return "Enough approvers have signed it.".to_owned();
        }
        format!(
            "Devices refuse generation {counter} until approvers have signed it: {missing} of {required} signatures are missing. \
             Each runs `muster baseline sign {counter} --key FILE`."
        )
    }

    /// The same of a baseline that is not set yet: nobody can sign it.
    pub fn remedy_before_it_is_set(&self) -> String {
        let Self { required, missing, .. } = self;
        if let Some(never) = self.never("It") {
            return never;
        }
        if *missing == 0 {
            return "Enough approvers have signed it.".to_owned();
        }
        format!(
            "Devices will refuse it until {required} approvers have signed it. Sign after setting: `muster baseline set` \
             names the generation G, then each runs `muster baseline sign G --key FILE`."
        )
    }

    /// Why nobody can approve `what`, and what changes that; `None` where somebody can.
    fn never(&self, what: &str) -> Option<String> {
        let unnamed = self.unnamed.iter();
        let given: String =
            unnamed.clone().map(|matter| format!(" --required '{matter}={}'", matter.founding())).collect();
        let names: Vec<&str> = unnamed.map(|matter| matter.as_str()).collect();
        (!names.is_empty()).then(|| {
            format!(
                "{what} cannot be approved: the authority names no number of approvers for {}. A successor names one: \
                 `muster authority propose{given}`.",
                names.join(" and ")
            )
        })
    }

    /// What two baselines of one generation need together.
    fn and(mut self, other: Self) -> Self {
        self.items.extend(other.items);
        self.items.sort_unstable();
        self.items.dedup();
        self.unnamed.extend(other.unnamed);
        self.unnamed.sort_unstable();
        self.unnamed.dedup();
        let (required, missing) = (self.required.max(other.required), self.missing.max(other.missing));
        Self { required, missing, ..self }
    }
}

/// The baselines that one generation comes to.
#[derive(Clone, Debug)]
pub struct BaselinePapers {
    /// The profile.
    pub profile: String,
    /// The generation of its baseline.
    pub counter: u64,
    /// The one for a device that stands nowhere in particular, and every other that some device gets; by digest.
    pub papers: Vec<BaselinePaper>,
}

impl App {
    /// What approvers sign of the baseline of `profile`, and who has.
    ///
    /// # Errors
    /// [`Error::Refused`] with `profile_unknown`; [`Error::Load`].
    pub fn baseline_papers(
        &self,
        _permit: &Permit<act::ReadBaseline>,
        profile: &str,
    ) -> Result<BaselinePapers, Error> {
        let plan = self.known_plan(profile)?;
        let papers = self.variants(&plan, profile)?.into_values();
        let papers =
            papers.map(|(ready, devices)| self.baseline_paper(&ready, devices)).collect::<Result<_, _>>()?;
        Ok(BaselinePapers { profile: profile.to_owned(), counter: plan.counter, papers })
    }

    fn known_plan(&self, profile: &str) -> Result<Arc<Plan>, Error> {
        self.profiles.get(profile).ok_or(Error::NotFound { kind: "profile" })?;
        self.plan(profile)
    }

    /// Every baseline that some device gets, and that of a device nowhere in particular, with how many get it.
    fn variants(
        &self,
        plan: &Plan,
        profile: &str,
    ) -> Result<BTreeMap<Sha256Digest, (Arc<Ready>, u64)>, Error> {
        let plain = plan.at(None, &BTreeMap::new());
        let mut variants = BTreeMap::from([(plain.settled.digest, (plain, 0))]);
        self.each_open_of(profile, |device| {
            let ready = plan.of(device);
            variants.entry(ready.settled.digest).or_insert_with(|| (ready, 0)).1 += 1;
        })?;
        Ok(variants)
    }

    fn baseline_paper(&self, ready: &Ready, devices: u64) -> Result<BaselinePaper, Error> {
        let (lineage, now) = (self.lineage(), Timestamp(self.clock.now_s()));
        let document = self.signed_baseline(ready)?.to_vec();
        let found = MultiSigned::<Baseline>::parse(&document)
            .and_then(|signed| signed.signers(&lineage.counting_keys(now)))
            .map_err(|error| Error::internal("reading approvals")(Box::new(error)))?;
        let signed_by = names_of(&found, &lineage, now);
        let needs = required(&ready.settled.baseline, lineage.current());
        let required = needs.map_or(0, |needs| u64::try_from(needs.approvers).unwrap_or(u64::MAX));
        Ok(BaselinePaper { digest: ready.settled.digest, document, devices, signed_by, required })
    }

    /// What approvers have to sign before devices take `ready`; `None` where they take it as it is.
    pub(super) fn approval(&self, ready: &Ready) -> Result<Option<Approval>, Error> {
        let (lineage, now) = (self.lineage(), Timestamp(self.clock.now_s()));
        let Some(needs) = required(&ready.settled.baseline, lineage.current()) else { return Ok(None) };
        let Needs { approvers: required, items, unnamed } = needs;
        let gathered = self.approvals(ready.counter, &ready.settled.digest)?;
        let signed = gathered.map(|signed| signed.signers(&lineage.counting_keys(now))).transpose();
        let signed = signed.map_err(|error| Error::internal("reading approvals")(Box::new(error)))?;
        let missing = required.saturating_sub(signed.map_or(0, |keys| keys.len()));
        let [required, missing] = [required, missing].map(|count| u64::try_from(count).unwrap_or(u64::MAX));
        Ok(Some(Approval { counter: ready.counter, required, missing, items, unnamed }))
    }

    /// What approvers have to sign before all devices of `profile` take what `plan` comes to.
    pub(super) fn approval_of(&self, plan: &Plan, profile: &str) -> Result<Option<Approval>, Error> {
        let mut all: Option<Approval> = None;
        for (ready, _) in self.variants(plan, profile)?.into_values() {
            if let Some(one) = self.approval(&ready)? {
                all = Some(all.map_or(one.clone(), |all| all.and(one)));
            }
        }
        Ok(all)
    }

    /// The baseline with this digest as approvers have signed it for the generation `counter`, if any has.
    pub(super) fn approvals(
        &self,
        counter: u64,
        digest: &Sha256Digest,
    ) -> Result<Option<MultiSigned<Baseline>>, Error> {
        let held = self.store.get_document(&approvals_key(counter, digest))?;
        let signed = held.map(|held| MultiSigned::parse(&held.value)).transpose();
        signed.map_err(|error| Error::internal("reading approvals")(Box::new(error)))
    }

    /// Takes the signatures in `signed`, a COSE_Sign over one of the baselines that `profile` comes to, and tells its
    /// devices again. Signatures that are there already change nothing.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Refused`] where it is another baseline, the profile's own, or not signed by approvers
    /// that count now.
    pub async fn sign_baseline(
        &self,
        permit: Permit<act::SignBaseline>,
        profile: &str,
        signed: &[u8],
    ) -> Result<BaselinePapers, Error> {
        for _ in 0..super::ATTEMPTS {
            let plan = self.known_plan(profile)?;
            let batch = match self.approval_batch(&permit, &plan, profile, signed) {
                Ok(batch) => batch,
                Err(error) => {
                    return Err(self.decline_for(&permit, &format!("baseline/{profile}"), error).await);
                }
            };
            match batch {
                None => {}
                Some(batch) => match self.commit(batch).await {
                    Err(Error::Contended) => continue,
                    settled => settled?,
                },
            }
            let read = crate::domain::policy::decide(permit.caller().clone())?;
            return self.baseline_papers(&read, profile);
        }
        Err(Error::Contended)
    }

    fn approval_batch(
        &self,
        permit: &Permit<act::SignBaseline>,
        plan: &Plan,
        profile: &str,
        signed: &[u8],
    ) -> Result<Option<Batch>, Error> {
        let handed = MultiSigned::<Baseline>::parse(signed).map_err(|_| UNREADABLE)?;
        let digest = handed.payload_digest();
        if !self.variants(plan, profile)?.contains_key(&digest) {
            return Err(OTHER.into());
        }
        // A profile's own baseline has no record; and its files and settings need nobody's word.
        let set = plan.set.as_ref().ok_or(BUILT_IN)?;
        let names = signers(&handed, &self.lineage(), Timestamp(self.clock.now_s()));
        let names = names.map_err(Error::signature(SIGNER))?;
        let gathered = match self.approvals(set.counter, &digest)? {
            None => handed,
            Some(mut gathered) => match gathered.merge(&handed) {
                Ok(0) => return Ok(None),
                Ok(_) => gathered,
                Err(_) => return Err(OTHER.into()),
            },
        };
        let next = ProfileDesired { signings: set.signings.saturating_add(1), ..set.clone() };
        let bytes = serde_json::to_vec(&next)
            .map_err(|error| Error::internal("writing a baseline")(Box::new(error)))?;
        let entry = permit
            .entry(self.clock.now_ms(), format!("baseline/{profile}"))
            .facts([("approvers", names.join(", ")), ("generation", set.counter.to_string())])
            .facts([("signatures", gathered.key_ids().len().to_string())]);
        let key = BASELINES.key(profile.as_bytes());
        let mut batch = Batch::default()
            .expect(key.clone(), Expect::Version(plan.version()))
            .audit(Draft { payload_sha256: digest.to_hex(), ..entry });
        self.store.put_document(&mut batch, &key, &bytes)?;
        let approvals = approvals_key(set.counter, &digest);
        self.store.put_document(&mut batch, &approvals, &gathered.to_bytes())?;
        Ok(Some(batch))
    }

    /// Adds to `batch` that what approvers have signed for the generation `counter` goes: another one takes its place.
    pub(super) fn forget_approvals(&self, batch: &mut Batch, counter: u64) -> Result<(), Error> {
        let prefix = BASELINE_APPROVALS.key(&counter.to_be_bytes());
        let whole = prefix.len() + Sha256Digest::of(&[]).as_bytes().len();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.store.scan(&prefix, after.as_deref(), 1_000)?;
            // Longer ones are chunks, which go with their document.
            for (key, _) in page.iter().filter(|(key, _)| key.len() == whole) {
                self.store.delete_document(batch, key)?;
            }
            match page.into_iter().last() {
                Some((key, _)) => after = Some(key),
                None => return Ok(()),
            }
        }
    }
}

fn approvals_key(counter: u64, digest: &Sha256Digest) -> Vec<u8> {
    BASELINE_APPROVALS.key(&[&counter.to_be_bytes()[..], digest.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_can_approve_is_told_before_it_is_set_and_after() {
        let named = Approval { counter: 7, required: 2, missing: 2, items: Vec::new(), unnamed: Vec::new() };
        assert!(named.remedy_before_it_is_set().contains("until 2 approvers have signed it"));
        let unnamed = Approval { unnamed: vec![Matter::Authority], ..named };
        for (told, what) in [(unnamed.remedy(), "Generation 7"), (unnamed.remedy_before_it_is_set(), "It")] {
            assert!(told.starts_with(&format!("{what} cannot be approved: ")), "{told}");
            assert!(told.contains("muster authority propose --required 'authority="), "{told}");
        }
    }
}
