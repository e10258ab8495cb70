//! What `muster-agent status` says: what this device is, from its own files and nobody else (contract.md, "Pinned
//! JSON").
//!
//! What the server calls a device it says over HTTPS, at enrolment and now and then; a session tells only that the device
//! is welcome, or is being let go. So a word of the server's is the state until a session was opened after it, and from
//! then on the device says what it knows: `enrolled`. A quarantine it cannot see.

use muster_wire::desired::{Generation, Lapse};
use muster_wire::id::{DeviceId, WarrantId};
use muster_wire::time::Timestamp;
use serde::{Serialize, Serializer};

use super::effect::Held;
use super::lease::{Boot, LeaseSheet};
use super::not_taken::NotTaken;
use super::record::{ENROLLED, Past, Proven};
use super::session::Shown;
use super::trust::Leaf;

/// The answer. Fields are pinned; more may follow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The device's id, once a certificate named it.
    pub device: Option<DeviceId>,
    /// `retired` (a wipe ended this life; `enroll` with a new string begins another), `wiping`, `refused` (the server refused its certificate since), `deprovisioning` (the server hears nothing but receipts), `enrolled` (it let the device in since it last called it anything), `unenrolled`, `enrolling`, `journal_lost` (an identity lies here that no record speaks of), or what the server has just called the device.
    pub state: String,
    /// What the server called the device last, and when; none where it never did, or sessions have told more since.
    pub said: Option<Said>,
    /// The refusal that stands: in which word the server would not have this device, and when it was last noted.
    pub refused: Option<Said>,
    /// `https://host:port` of the device listener.
    pub server: Option<String>,
    /// The certificate in use.
    pub certificate: Option<CertificateStatus>,
    /// Version of the newest authority document verified here.
    pub authority_version: Option<u64>,
    /// Generation of the desired state applied here, in JSON its counter; none before there is one.
    #[serde(serialize_with = "counter")]
    pub generation: Option<Generation>,
    /// The newest baseline, where it was refused or rolled back and another one, or none, is in force.
    pub not_taken: Option<NotTaken>,
    /// The lease, if the device has one.
    pub lease: Option<LeaseStatus>,
    /// The wipe that approvers placed for a lapse, if there is one.
    pub clears: Option<ClearsStatus>,
    /// Whether the server has been silent about the desired state for longer than its lease.
    pub stale: bool,
    /// Whether a session with the server is open.
    pub connected: bool,
    /// When the server last gave an authenticated answer, a refusal included.
    pub last_contact: Option<Timestamp>,
    /// The last checkpoint of the server's audit log verified here: its size and its root. None before there is one.
    pub checkpoint: Option<String>,
    /// Whether a renewal was interrupted; `muster-agent renew` takes it up.
    pub renewal_unfinished: bool,
    /// The tree that this device manages.
    pub root: Option<String>,
}

#[expect(clippy::ref_option, reason = "serde calls it so")]
fn counter<S: Serializer>(generation: &Option<Generation>, to: S) -> Result<S::Ok, S::Error> {
    generation.map(|generation| generation.counter).serialize(to)
}

/// A word of the server's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Said {
    /// The word.
    pub word: String,
    /// When it came.
    pub at: Timestamp,
}

/// A wipe that waits for the lease to lapse.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClearsStatus {
    /// For how long nothing newer must have been heard, in seconds.
    pub after_s: u64,
    /// The warrant that approvers signed.
    pub warrant: WarrantId,
    /// Its last second.
    pub not_after: Timestamp,
}

fn clears(past: &Past) -> Option<ClearsStatus> {
    let taken = past.placed_order()?;
    past.placed.as_ref().filter(|placed| placed.order == taken.order)?;
    let (wipe, under) = (taken.wipe.as_ref()?, taken.under.as_ref()?);
    let after_s = wipe.on_lapse.as_ref()?.after_s;
    Some(ClearsStatus { after_s, warrant: under.warrant, not_after: under.not_after })
}

/// How the lease stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeaseStatus {
    /// How long the device may be switched on without a newer word from the server, in seconds.
    pub lasts_s: u64,
    /// How much of that is left, in seconds.
    pub left_s: u64,
    /// What it does when nothing is left.
    pub on_lapse: Lapse,
    /// Whether nothing is left.
    pub lapsed: bool,
    /// When the newest word was signed.
    pub newest: Timestamp,
}

impl LeaseStatus {
    /// How the lease on `sheet` stands in `boot`.
    pub fn of(sheet: &LeaseSheet, boot: &Boot) -> Self {
        let used = sheet.used(&boot.id, boot.age);
        Self {
            lasts_s: sheet.lasts_s,
            left_s: sheet.lasts().saturating_sub(used).as_secs(),
            on_lapse: sheet.on_lapse,
            lapsed: used >= sheet.lasts(),
            newest: Timestamp(sheet.word.issued_at_s),
        }
    }
}

/// The certificate in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CertificateStatus {
    /// Serial number in hexadecimal.
    pub serial: String,
    /// Last second of its life.
    pub not_after: Timestamp,
}

/// What `past` and `held` come to.
///
/// `shown` is what the agent of this life said last; `is_running` whether one runs.
pub fn report(past: &Past, held: &Held, shown: Option<&Shown>, is_running: bool) -> Status {
    let in_life = shown.filter(|_| past.retired.is_none());
    let leaf = in_use(past, held);
    let refused = shown.and_then(|shown| shown.refused.as_ref()).or(past.refused.as_ref());
    let state = match (&past.accepted, &past.proven) {
        _ if past.retired.is_some() => "retired".to_owned(),
        _ if past.is_wiping() => "wiping".to_owned(),
        _ if refused.is_some() => "refused".to_owned(),
        (_, Some(proven)) => standing(proven, shown).to_owned(),
        (Some(_), None) => "enrolling".to_owned(),
        (None, None) if leaf.is_some() => "journal_lost".to_owned(),
        (None, None) => "unenrolled".to_owned(),
    };
    Status {
        device: past.proven.as_ref().map(|proven| proven.device),
        state,
        said: past
            .proven
            .as_ref()
            .filter(|proven| proven.state != ENROLLED)
            .map(|proven| Said { word: proven.state.clone(), at: proven.at }),
        refused: refused.map(|refused| Said { word: refused.code.clone(), at: refused.at }),
        server: past.accepted.as_ref().map(|accepted| format!("https://{}", accepted.place())),
        certificate: leaf.map(|leaf| CertificateStatus { serial: leaf.serial, not_after: leaf.not_after }),
        authority_version: past.accepted.as_ref().map(|accepted| accepted.authority_version),
        generation: in_life.and_then(|shown| shown.generation),
        not_taken: in_life.and_then(|shown| shown.not_taken.clone()),
        lease: None,
        clears: clears(past),
        stale: in_life.is_some_and(|shown| shown.stale),
        connected: is_running && shown.is_some_and(|shown| shown.connected),
        last_contact: [
            past.proven.as_ref().map(|proven| proven.at),
            refused.map(|refused| refused.at),
            shown.and_then(|shown| shown.last_contact),
        ]
        .into_iter()
        .max()
        .flatten(),
        checkpoint: past.log_head().map(|head| format!("{} {}", head.size, head.root)),
        renewal_unfinished: past.proven.is_some() && held.next_key.is_some(),
        root: past.accepted.as_ref().map(|accepted| accepted.root.display().to_string()),
    }
}

/// The server's word, as long as no session was opened after it; then what sessions tell.
fn standing<'a>(proven: &'a Proven, shown: Option<&Shown>) -> &'a str {
    match shown.filter(|shown| shown.last_contact.is_some_and(|at| at >= proven.at)) {
        Some(since) if since.is_let_go => "deprovisioning",
        Some(_) => ENROLLED,
        None => &proven.state,
    }
}

/// The proven certificate, which a kill may have left waiting to be moved; otherwise the one in its place.
fn in_use(past: &Past, held: &Held) -> Option<Leaf> {
    let read = |der: &Option<Vec<u8>>| Leaf::read(der.as_deref()?).ok();
    let proven = past.proven.as_ref().map(|proven| proven.certificate);
    let waiting = read(&held.next_certificate).filter(|leaf| Some(leaf.sha256) == proven);
    waiting.or_else(|| read(&held.certificate))
}

#[cfg(test)]
mod tests {
    use muster_wire::digest::Sha256Digest;

    use super::*;
    use crate::core::record::{Record, Refused};

    #[test]
    fn a_device_that_knows_nothing_says_so_in_every_pinned_field() {
        let json = serde_json::to_value(report(&Past::default(), &Held::default(), None, false)).unwrap();
        assert_eq!(json["state"], "unenrolled");
        for field in [
            "device",
            "server",
            "certificate",
            "authority_version",
            "generation",
            "last_contact",
            "checkpoint",
        ] {
            assert!(json.get(field).is_some_and(serde_json::Value::is_null), "{field}");
        }
        assert_eq!(json["connected"], false);
    }

    fn proven() -> Proven {
        Proven {
            certificate: Sha256Digest::of(b"c"),
            device: DeviceId::from_parts(1, [0; 10]),
            state: "commissioning".to_owned(),
            at: Timestamp(100),
            mqtt: None,
        }
    }

    #[test]
    fn a_word_of_the_server_is_the_state_until_a_session_was_opened_after_it() {
        let past = Past::of(&[Record::Proven(proven())]);
        let shown = |at| Shown { last_contact: Some(Timestamp(at)), ..Shown::default() };
        let state = |shown: &Shown| report(&past, &Held::default(), Some(shown), false).state;
        assert_eq!(state(&shown(99)), "commissioning", "the session was before");
        assert_eq!(state(&shown(100)), "enrolled");
        assert_eq!(state(&Shown { is_let_go: true, ..shown(100) }), "deprovisioning");
        let said = report(&past, &Held::default(), Some(&shown(100)), false).said;
        assert_eq!(said, Some(Said { word: "commissioning".to_owned(), at: Timestamp(100) }));
    }

    #[test]
    fn a_refusal_heard_after_the_last_good_answer_is_the_state_and_the_last_contact() {
        let proven = proven();
        let refused = |at| Refused { code: "certificate_refused".to_owned(), at: Timestamp(at) };
        let mut past = Past::of(&[Record::Proven(proven.clone()), Record::Refused(refused(200))]);
        let status = report(&past, &Held::default(), None, false);
        assert_eq!((status.state.as_str(), status.last_contact), ("refused", Some(Timestamp(200))));
        assert_eq!(status.refused.map(|refused| refused.word).as_deref(), Some("certificate_refused"));
        // A timer that asks in vain fills no disk.
        assert!(!past.is_news(&refused(300)) && past.is_news(&refused(200 + 3600)));
        past.add(&Record::Proven(Proven { at: Timestamp(400), ..proven }));
        assert_eq!(report(&past, &Held::default(), None, false).state, "commissioning");
    }
    #[test]
    fn the_generation_in_force_is_known_with_its_restore_and_json_has_its_counter() {
        let generation = Some(Generation { restore_epoch: 2, counter: 7 });
        let shown = Shown { generation, ..Shown::default() };
        let status = report(&Past::default(), &Held::default(), Some(&shown), false);
        assert_eq!(status.generation, generation);
        assert_eq!(serde_json::to_value(&status).unwrap()["generation"], 7);
    }
}
