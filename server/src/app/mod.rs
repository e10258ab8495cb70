//! One file per verb: load, decide, commit, then act.
//!
//! Every verb takes a [`Permit`](crate::domain::policy::Permit) for its own act. What a verb decides by is read
//! from the store (which shows only what is durable) and named in the preconditions of its commit; a commit that
//! meets a newer record is a conflict, and the verb starts again from what is there now.

mod acknowledged;
mod approve;
mod audit;
mod baseline;
mod baseline_approval;
#[cfg(test)]
mod baseline_approval_tests;
mod ca;
mod certificates;
mod covered;
mod crl;
mod csr;
mod deprovision;
#[cfg(test)]
mod deprovision_fixture;
#[cfg(test)]
mod deprovision_placed_tests;
#[cfg(test)]
mod deprovision_proof_tests;
#[cfg(test)]
mod deprovision_warrant_tests;
#[cfg(test)]
mod deprovision_ways_out_tests;
mod desired;
mod device;
mod discovery;
mod due;
mod enroll;
#[cfg(test)]
mod enroll_tests;
mod error;
mod event;
mod event_feed;
mod figures;
#[cfg(test)]
pub(crate) mod fixture;
mod foresee;
pub mod found;
mod freeze;
mod head_time;
mod idempotency;
mod identity;
#[cfg(test)]
mod issuing_tests;
mod label;
mod limits;
mod listing;
mod observer;
mod operator;
mod order;
mod outgoing;
#[cfg(test)]
mod plane_fixture;
#[cfg(test)]
mod plane_tests;
mod profiles;
mod progress;
mod quarantine;
#[cfg(test)]
mod quarantine_tests;
mod rails;
#[cfg(test)]
mod rails_tests;
mod reappraise;
mod receipt;
mod record;
mod refusals;
mod refuse;
mod renew;
mod renew_in_session;
mod report;
mod report_pace;
mod revoke;
mod server_certificate;
mod signing;
mod status_feed;
mod succession;
#[cfg(test)]
mod succession_tests;
mod token;
mod upkeep;
mod waiver;
mod warrant;
mod warrant_orders;
mod warrant_request;

pub use self::acknowledged::Acknowledged;
pub use self::audit::{EngineSource, ExportedFile, ExportedFiles, History, LogSource};
pub use self::baseline::{BaselineShown, Difference, Effect};
pub use self::baseline_approval::{Approval, BaselinePaper, BaselinePapers};
pub use self::ca::{AuthorityShown, CaShown, CrlHead, NotReady, SignerShown};
pub use self::crl::CrlError;
pub use self::device::{Explanation, Filter, Shown};
pub use self::enroll::{Answer, Enroll};
pub use self::error::Error;
pub use self::event::{Event, Place};
pub use self::event_feed::{Ended, EventFeed, Subscription, Wanted};
pub use self::figures::{Figure, Value};
pub use self::foresee::Foreseen;
pub use self::found::Founding;
pub use self::freeze::Frozen;
pub use self::idempotency::{Replayed, Slot};
pub use self::limits::Issuance;
pub use self::listing::SEAL_BYTES;
pub use self::outgoing::{Mark, Outgoing};
pub use self::profiles::Profiles;
pub use self::rails::RailsShown;
pub use self::record::SanitisationRecord;
pub use self::refusals::{RefusedAtDoor, Repetitions, Teller, refusals_at_doors};
pub use self::renew::Renew;
pub use self::server_certificate::{SERVER_CERTIFICATE_S, ServerCertificate, ServerLife};
pub use self::status_feed::{RevocationChanges, feed, fill};
pub use self::succession::{Asked, Pending, Replaced};
pub use self::token::{Minted, NewTokens, TTL_S};

pub use self::upkeep::CheckpointError;
pub use self::waiver::Cooling;
pub use self::warrant::WarrantShown;
pub use self::warrant_request::{Aim, Requested, WarrantRequest};
pub use crate::ca::Role;

use crate::alarm::Alarms;
use crate::audit::{Pace, Publisher};
use crate::ca::{Ca, StatusUrls, random};
use crate::clock::Clock;
use crate::domain::device::Device;
use crate::domain::ledger::{Draft, Outcome};
use crate::domain::quarantine::Budget;
use crate::domain::rails::Limits;
use crate::doors::Doors;
use crate::store::collections::{CERTIFICATES, Held};
use crate::store::{Batch, Store};
use crate::telemetry;
use limits::{Issuances, PerMinute, RuleHolds, Strangers};
use muster_wire::discovery::Endpoints;
use muster_wire::id::DeviceId;
use succession::InForce;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// How often a verb starts again when someone else is faster. A thousand claims of one token at once need two:
/// after the first commit all others see a spent token.
const ATTEMPTS: usize = 16;

/// Part of a list.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// The part.
    pub items: Vec<T>,
    /// Where the next part begins; `None`: there is none.
    pub next: Option<Vec<u8>>,
}

/// Everything the verbs need. Shared by all listeners.
pub struct App {
    store: Store,
    ca: Ca,
    publisher: audit::SharedPublisher,
    pace: Pace,
    exported: audit::Exported,
    clock: Clock,
    doors: Doors,
    profiles: Profiles,
    founding: Founding,
    endpoints: Endpoints,
    local: Local,
    device_address: (String, u16),
    server_hosts: Vec<String>,
    urls: StatusUrls,
    crls: crl::Cache,
    revocation_changes: Arc<RevocationChanges>,
    strangers: Strangers,
    mistakes: Strangers,
    issuances: Issuances,
    rule_holds: RuleHolds,
    rails: rails::Rails,
    alarms: Alarms,
    anonymous_refusals: PerMinute,
    next_ordinal: AtomicU64,
    plans: desired::Plans,
    in_force: succession::Current,
    report_pace: report_pace::ReportPace,
    head_time: head_time::HeadTime,
    events: Arc<EventFeed>,
    covered: covered::Covered,
}

/// Where the listeners are on this machine, as `endpoints.json` tells it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Local {
    /// EST and discovery.
    pub device: String,
    /// The MQTT gate.
    pub mqtt: String,
    /// CRLs and health.
    pub status: String,
    /// REST.
    pub admin: String,
}

/// What an [`App`] is made of.
pub struct Parts {
    /// The store, open.
    pub store: Store,
    /// The CA, open.
    pub ca: Ca,
    /// The audit log's end for checkpoints.
    pub publisher: Publisher,
    /// When a checkpoint is due.
    pub pace: Pace,
    /// The present.
    pub clock: Clock,
    /// Who is connected, and who may be.
    pub doors: Doors,
    /// What the founding settled.
    pub founding: Founding,
    /// What changed in the revocations, as the store's commits tell.
    pub revocation_changes: Arc<RevocationChanges>,
    /// How long the log is, as the store's commits tell.
    pub events: Arc<EventFeed>,
    /// Where the doors are, by their advertised names.
    pub endpoints: Endpoints,
    /// Where the listeners are on this machine.
    pub local: Local,
    /// Host and port of the device listener by its advertised name, for enrolment strings.
    pub device_address: (String, u16),
    /// Host names and addresses for the server's own certificate.
    pub server_hosts: Vec<String>,
    /// Where certificates say that status is published.
    pub urls: StatusUrls,
    /// Wrong tokens a minute from one address.
    pub wrong_tokens_per_minute: u32,
    /// How often certificates may be issued.
    pub issuance: Issuance,
    /// How many devices posture rules may hold in an hour.
    pub rule_holds: Budget,
    /// How much may be destroyed at a time.
    pub rails: Limits,
    /// Where alarms are raised.
    pub alarms: Alarms,
}

/// Refusals of anonymous callers by the authorisation table that are written to the log each minute.
const ANONYMOUS_REFUSALS_PER_MINUTE: u32 = 60;

impl App {
    /// Puts the parts together; reads where the certificates' ordinals go on.
    ///
    /// # Errors
    /// [`Error::Load`] where the store cannot be read.
    pub fn new(parts: Parts) -> Result<Self, Error> {
        let free = next_ordinal(&parts.store)?.max(parts.ca.lineup().first_free_ordinal());
        let next_ordinal = AtomicU64::new(free);
        let audit_key = parts.publisher.key().clone();
        let in_force = InForce::read(&parts.store, &parts.founding, &parts.ca, audit_key)?;
        let app = Self {
            next_ordinal,
            plans: desired::Plans::default(),
            in_force: Arc::new(in_force).into(),
            report_pace: report_pace::ReportPace::default(),
            head_time: head_time::HeadTime::from(audit::newest_entry_s(&parts.store)?),
            store: parts.store,
            ca: parts.ca,
            covered: covered::Covered::from(parts.publisher.last().size),
            publisher: parts.publisher.into(),
            pace: parts.pace,
            exported: audit::Exported::default(),
            clock: parts.clock,
            doors: parts.doors,
            profiles: Profiles::builtin(),
            founding: parts.founding,
            endpoints: parts.endpoints,
            local: parts.local,
            device_address: parts.device_address,
            server_hosts: parts.server_hosts,
            urls: parts.urls,
            crls: crl::Cache::default(),
            revocation_changes: parts.revocation_changes,
            events: parts.events,
            strangers: Strangers::new(parts.wrong_tokens_per_minute),
            mistakes: Strangers::new(parts.wrong_tokens_per_minute),
            issuances: Issuances::new(parts.issuance),
            rule_holds: RuleHolds::new(parts.rule_holds),
            rails: rails::Rails::new(parts.rails),
            alarms: parts.alarms,
            anonymous_refusals: PerMinute::new(ANONYMOUS_REFUSALS_PER_MINUTE),
        };
        // Of a proposal, or of a successor that took over, when the process ended in the middle of it.
        app.clear_server_keys();
        Ok(app)
    }

    /// A name for a request, for its answer and the log.
    pub fn request_id() -> String {
        hex::encode(random::<8>())
    }

    /// The present.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Who is connected, and who may be.
    pub fn doors(&self) -> &Doors {
        &self.doors
    }

    /// The CA, for its public parts.
    pub fn ca(&self) -> &Ca {
        &self.ca
    }

    /// Where the listeners are on this machine.
    pub fn local(&self) -> &Local {
        &self.local
    }

    /// The store, for its figures, its failure and its end.
    pub fn store(&self) -> &Store {
        &self.store
    }

    async fn commit(&self, batch: Batch) -> Result<(), Error> {
        let decisions = batch.audit.clone();
        self.store.commit(batch).await?;
        decisions.iter().map(in_words).for_each(telemetry::decision);
        Ok(())
    }

    fn device(&self, id: DeviceId) -> Result<Held<Device>, Error> {
        self.store.load::<Device>(id.as_bytes())?.ok_or(Error::NotFound { kind: "device" })
    }
}

/// An audit entry as the event of the process's own log.
fn in_words(draft: &Draft) -> telemetry::Decision<'_> {
    telemetry::Decision {
        action: &draft.action,
        outcome: match draft.outcome {
            Outcome::Done => "done",
            Outcome::Refused => "refused",
        },
        reason: &draft.reason,
        actor: &draft.actor,
        sign_in: &draft.sign_in,
        object: &draft.object,
        request_id: &draft.request_id,
        prev_state: &draft.prev_state,
        new_state: &draft.new_state,
    }
}

/// One more than the highest ordinal in the store: the last key of the range, found by halving.
fn next_ordinal(store: &Store) -> Result<u64, Error> {
    use crate::store::key::ordinal;
    let (mut low, mut high) = (0_u64, u64::MAX);
    while low < high {
        let middle = low + (high - low) / 2;
        let after = CERTIFICATES.key(&ordinal(middle));
        let found = store.scan(CERTIFICATES.prefix, Some(&after), 1)?;
        match found.first().and_then(|(key, _)| CERTIFICATES.id(key)).and_then(|id| id.try_into().ok()) {
            Some(id) => low = u64::from_be_bytes(id),
            None => high = middle,
        }
    }
    let first = store.scan(CERTIFICATES.prefix, None, 1)?;
    if low == 0 && first.is_empty() { Ok(0) } else { Ok(low.saturating_add(1)) }
}
