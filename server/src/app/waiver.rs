//! A waiver: approvers end the cooling-off of one act, which may be asked for again at once then.
//!
//! It says what waits, on how many devices and since when, and binds the very devices by a digest. Who brings the signatures
//! approves nothing, and nothing is done by them: somebody asks for the act again.

use super::{App, Error};
use crate::domain::policy::{Permit, act};
use crate::domain::rails::Waiting;
use crate::domain::refusal::Refusal;
use crate::domain::signature;
use crate::store::Batch;
use muster_wire::authority::Matter;
use muster_wire::digest::Sha256Digest;
use muster_wire::envelope::{EnvelopeError, MultiSigned};
use muster_wire::lift::{self, Waiver};
use muster_wire::problem::Code;
use muster_wire::time::Timestamp;

const OTHER_ACT: Refusal = Refusal::by("rails.other_act", Code::Conflict).at("signature");
const NO_APPROVER: Refusal = Refusal::by("rails.no_approver", Code::Forbidden).at("signature");

/// An act that waits, as an operator sees it.
#[derive(Clone, Debug)]
pub struct Cooling {
    /// What waits.
    pub waiting: Waiting,
    /// Whether it is done as soon as it is asked for again.
    pub is_ready: bool,
    /// The waiver with the signatures so far.
    pub waiver: Vec<u8>,
    /// How many approvers waive it.
    pub required: u64,
    /// Whose signatures are there.
    pub signed_by: Vec<String>,
}

impl App {
    /// Takes the signatures under `copy`, a copy of the waiver of what waits under `key`; once enough are there it may be
    /// asked for again. Signatures that are there already, or that come after enough, change nothing.
    ///
    /// # Errors
    /// [`Error::NotFound`] where nothing waits under that name; [`Error::Refused`] for the waiver of another act and for a
    /// signature that cannot count; [`Error::Invalid`] for what is no waiver.
    pub async fn waive(
        &self,
        permit: Permit<act::WaiveCoolingOff>,
        key: &str,
        copy: &[u8],
    ) -> Result<Cooling, Error> {
        let copy = MultiSigned::<Waiver>::parse(copy).map_err(|error| Error::Invalid {
            field: "signature",
            expected: format!("is refused: {error}"),
        })?;
        for _ in 0..super::ATTEMPTS {
            let (version, mut ledger) = self.rails_ledger()?;
            let now = self.clock.now_s();
            let waiting = ledger.cooling(key, now).cloned().ok_or(Error::NotFound { kind: "cooling-off" })?;
            let mut waiver = self.waiver_of(&waiting)?;
            let lineage = self.in_force().lineage.clone();
            let judged = signature::by_approvers(&copy, &lineage, Timestamp(now));
            let merged = waiver.merge(&copy).map_err(|_| Error::Refused(OTHER_ACT));
            let judged = judged.map_err(Error::signature(NO_APPROVER));
            match judged.and(merged) {
                Err(error) => return Err(self.decline_for(&permit, "rails", error).await),
                Ok(fresh) if fresh == 0 || waiting.is_ready(now) => return self.cooling(waiting),
                Ok(_) => {}
            }
            let is_enough = match lift::verify_waiver(&waiver, &lineage, Timestamp(now)) {
                Ok(_) => true,
                Err(EnvelopeError::TooFew { .. }) => false,
                Err(error) => return Err(Error::internal("judging a waiver")(Box::new(error))),
            };
            ledger.waive(key, hex::encode(waiver.to_bytes()), is_enough, now);
            let signers = waiver.key_ids().iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            let entry = permit
                .entry(self.clock.now_ms(), "rails".to_owned())
                .states("cooling_off", if is_enough { "waived" } else { "cooling_off" })
                .facts([
                    ("act", waiting.act.clone()),
                    ("what", waiting.key.clone()),
                    ("devices", waiting.devices.to_string()),
                    ("by", waiting.by.clone()),
                    ("since", waiting.since.to_string()),
                    ("signers", signers),
                ]);
            let batch = self.put_ledger(Batch::essential(), version, &ledger)?.audit(entry);
            match self.commit(batch).await {
                Err(Error::Contended) => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    if is_enough {
                        let plural = if waiting.devices == 1 { "" } else { "s" };
                        let detail = format!("{} on {} device{plural}", waiting.act, waiting.devices);
                        self.alarm_of(&permit, "cooling_off_waived", &[], detail);
                    }
                    let until = if is_enough { now } else { waiting.until };
                    let waiver = hex::encode(waiver.to_bytes());
                    return self.cooling(Waiting { until, waiver, ..waiting });
                }
            }
        }
        Err(Error::Contended)
    }

    /// `waiting` with what approvers sign.
    pub(super) fn cooling(&self, waiting: Waiting) -> Result<Cooling, Error> {
        let waiver = self.waiver_of(&waiting)?;
        let in_force = self.in_force();
        let authority = in_force.lineage.current();
        let keys = waiver.key_ids();
        let signed = authority.approvers.iter().filter(|approver| keys.contains(&approver.key.key_id()));
        Ok(Cooling {
            required: u64::try_from(authority.approvers_for(Matter::Authority)).unwrap_or(u64::MAX),
            signed_by: signed.map(|approver| approver.name.to_string()).collect(),
            waiver: waiver.to_bytes(),
            is_ready: waiting.is_ready(self.clock.now_s()),
            waiting,
        })
    }

    fn waiver_of(&self, waiting: &Waiting) -> Result<MultiSigned<Waiver>, Error> {
        let unread = |error| Error::internal("reading a waiver")(error);
        if !waiting.waiver.is_empty() {
            let bytes = hex::decode(&waiting.waiver).map_err(|error| unread(Box::new(error)))?;
            return MultiSigned::parse_unfinished(&bytes).map_err(|error| unread(Box::new(error)));
        }
        Ok(MultiSigned::unsigned(&Waiver {
            trust_domain: self.founding.trust_domain.clone(),
            act: waiting.act.clone(),
            devices: waiting.devices,
            what: waiting.key.parse::<Sha256Digest>().map_err(|error| unread(Box::new(error)))?,
            by: waiting.by.clone(),
            since: Timestamp(waiting.since),
        }))
    }
}
