//! Freeze: anybody may stop everything that leaves, and only the quorum of approvers lets it go again.
//!
//! While it lasts no order and no desired state is sent to any device. What devices say is taken as ever, certificates are
//! renewed, and nothing is lost: what was due is due when the freeze ends.

use super::{App, Error};
use crate::domain::policy::{Permit, act};
use crate::domain::refusal::Refusal;
use crate::domain::signature;
use crate::store::collections::INSTALLATION;
use crate::store::{Batch, Expect};
use muster_wire::authority::Matter;
use muster_wire::digest::Sha256Digest;
use muster_wire::envelope::{EnvelopeError, MultiSigned};
use muster_wire::lift::{self, Lift};
use muster_wire::problem::Code;
use muster_wire::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Under which id the freeze lies.
const FREEZE_ID: &[u8] = b"freeze";

const OTHER_FREEZE: Refusal = Refusal::by("rails.other_freeze", Code::Conflict).at("signature");
const NO_APPROVER: Refusal = Refusal::by("rails.no_approver", Code::Forbidden).at("signature");

/// A freeze.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    v: u8,
    /// What a lift names.
    id: Sha256Digest,
    began_at: i64,
    by: String,
    /// The lift with its signatures so far, COSE_Sign in hexadecimal.
    lift: String,
}

/// A freeze as an operator sees it.
#[derive(Clone, Debug)]
pub struct Frozen {
    /// The lift with its signatures so far.
    pub lift: Vec<u8>,
    /// When it began, unix seconds.
    pub began_at: i64,
    /// Who began it.
    pub by: String,
    /// How many approvers lift it.
    pub required: u64,
    /// Whose signatures are there.
    pub signed_by: Vec<String>,
    /// Whether it is over.
    pub is_lifted: bool,
}

impl App {
    /// Whether no order and no new generation may leave.
    ///
    /// # Errors
    /// [`Error::Load`].
    pub(super) fn is_frozen(&self) -> Result<bool, Error> {
        Ok(self.held_freeze()?.1.is_some())
    }

    /// The freeze that lasts.
    ///
    /// # Errors
    /// [`Error::NotFound`] where none does.
    pub fn frozen(&self, _permit: &Permit<act::ReadRails>) -> Result<Frozen, Error> {
        self.lasting_freeze()?.ok_or(Error::NotFound { kind: "freeze" })
    }

    /// The freeze that lasts, if one does.
    ///
    /// # Errors
    /// [`Error::Load`].
    pub(super) fn lasting_freeze(&self) -> Result<Option<Frozen>, Error> {
        self.held_freeze()?.1.map(|held| self.shown_freeze(&held)).transpose()
    }

    /// Begins a freeze; one that lasts goes on.
    ///
    /// # Errors
    /// [`Error::Load`] and whatever keeps a commit from being made.
    pub async fn freeze(&self, permit: Permit<act::Freeze>) -> Result<Frozen, Error> {
        for _ in 0..super::ATTEMPTS {
            let (version, held) = self.held_freeze()?;
            if let Some(held) = held {
                return self.shown_freeze(&held);
            }
            let (id, began_at) = (Sha256Digest(crate::ca::random()), self.clock.now_s());
            let trust_domain = self.founding.trust_domain.clone();
            let lift =
                MultiSigned::unsigned(&Lift { trust_domain, freeze: id, began_at: Timestamp(began_at) });
            let lift = hex::encode(lift.to_bytes());
            let record = Record { v: 1, id, began_at, by: permit.caller().principal.actor(), lift };
            let entry = permit.entry(self.clock.now_ms(), "rails".to_owned()).states("", "frozen");
            match self.commit(freeze_batch(version, Some(&record))?.audit(entry)).await {
                Err(Error::Contended) => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    self.alarm_of(&permit, "frozen", &[], String::new());
                    return self.shown_freeze(&record);
                }
            }
        }
        Err(Error::Contended)
    }

    /// Takes the signatures under `copy`, a copy of the lift; ends the freeze once enough are there.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is no freeze; [`Error::Refused`] for the lift of another one and for a signature that
    /// cannot count; [`Error::Invalid`] for what is no lift.
    pub async fn lift_freeze(&self, permit: Permit<act::LiftFreeze>, copy: &[u8]) -> Result<Frozen, Error> {
        let copy = MultiSigned::<Lift>::parse(copy).map_err(|error| Error::Invalid {
            field: "signature",
            expected: format!("is refused: {error}"),
        })?;
        for _ in 0..super::ATTEMPTS {
            let (version, held) = self.held_freeze()?;
            let held = held.ok_or(Error::NotFound { kind: "freeze" })?;
            let mut lift = read_lift(&held)?;
            let lineage = self.in_force().lineage.clone();
            let now = Timestamp(self.clock.now_s());
            let judged = signature::by_approvers(&copy, &lineage, now).map_err(Error::signature(NO_APPROVER));
            let merged = lift.merge(&copy).map_err(|_| Error::Refused(OTHER_FREEZE));
            if let Err(error) = merged.and(judged) {
                return Err(self.decline_for(&permit, "rails", error).await);
            }
            let is_lifted = match lift::verify(&lift, &lineage, now) {
                Ok(_) => true,
                Err(EnvelopeError::TooFew { .. }) => false,
                Err(error) => return Err(Error::internal("judging a lift")(Box::new(error))),
            };
            let record = Record { lift: hex::encode(lift.to_bytes()), ..held };
            let signers = lift.key_ids().iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            let entry = permit
                .entry(self.clock.now_ms(), "rails".to_owned())
                .states("frozen", if is_lifted { "" } else { "frozen" })
                .facts([("signers", signers)]);
            let batch = freeze_batch(version, (!is_lifted).then_some(&record))?.audit(entry);
            match self.commit(batch).await {
                Err(Error::Contended) => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    if is_lifted {
                        self.alarm_of(&permit, "freeze_lifted", &[], String::new());
                        self.doors.registry.nudge_all();
                    }
                    return Ok(Frozen { is_lifted, ..self.shown_freeze(&record)? });
                }
            }
        }
        Err(Error::Contended)
    }

    fn held_freeze(&self) -> Result<(Option<u64>, Option<Record>), Error> {
        let Some(found) = self.store.get(&INSTALLATION.key(FREEZE_ID))? else { return Ok((None, None)) };
        let record = serde_json::from_slice(&found.value)
            .map_err(|error| Error::internal("reading a freeze")(Box::new(error)))?;
        Ok((Some(found.version), record))
    }

    fn shown_freeze(&self, record: &Record) -> Result<Frozen, Error> {
        let lift = read_lift(record)?;
        let in_force = self.in_force();
        let authority = in_force.lineage.current();
        let keys = lift.key_ids();
        let signed = authority.approvers.iter().filter(|approver| keys.contains(&approver.key.key_id()));
        Ok(Frozen {
            lift: lift.to_bytes(),
            began_at: record.began_at,
            by: record.by.clone(),
            required: u64::try_from(authority.approvers_for(Matter::Authority)).unwrap_or(u64::MAX),
            signed_by: signed.map(|approver| approver.name.to_string()).collect(),
            is_lifted: false,
        })
    }
}

fn read_lift(record: &Record) -> Result<MultiSigned<Lift>, Error> {
    let unread = |error| Error::internal("reading a lift")(error);
    let bytes = hex::decode(&record.lift).map_err(|error| unread(Box::new(error)))?;
    MultiSigned::parse_unfinished(&bytes).map_err(|error| unread(Box::new(error)))
}

fn freeze_batch(version: Option<u64>, record: Option<&Record>) -> Result<Batch, Error> {
    let key = INSTALLATION.key(FREEZE_ID);
    let bytes =
        serde_json::to_vec(&record).map_err(|error| Error::internal("writing a freeze")(Box::new(error)))?;
    let expect = version.map_or(Expect::Absent, Expect::Version);
    Ok(Batch::essential().expect(key.clone(), expect).put(key, bytes))
}
