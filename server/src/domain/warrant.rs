//! Warrants as the server keeps them: what was asked, of whom, how far it has come, and what may be asked at all.
//!
//! ```text
//! requested ─▶ warranted ─▶ done
//!     ├───────────┴─▶ stopped
//!     └───────────┴─▶ lapsed
//! ```
//! The targets are frozen when the warrant is requested. What is signed and by whom lies apart, as the bytes that
//! approvers see; this record is what the server needs to go on.

use super::order::Ask;
use super::refusal::Refusal;
use muster_wire::authority::{Authority, MANY_DEVICES};
use muster_wire::digest::Sha256Digest;
use muster_wire::id::WarrantId;
use muster_wire::problem::Code;
use muster_wire::warrant::{Kind, Level, approvers_needed};
use serde::{Deserialize, Serialize};

/// Most devices that one warrant names.
pub const TARGETS_MAX: usize = 500;

/// How long a warrant may be carried out when nobody says: 365 days, in seconds. It is the longest, too.
pub const VALID_S: i64 = 365 * 24 * 60 * 60;

/// When a device is doomed after the request when nobody says: 7 days, in seconds.
pub const DEADLINE_S: i64 = 7 * 24 * 60 * 60;

/// The shortest silence after which a device may wipe itself: an hour, in seconds of its running.
pub const AFTER_LEAST_S: u64 = 60 * 60;

/// The longest: 366 days.
pub const AFTER_MOST_S: u64 = 366 * 24 * 60 * 60;

/// How far a warrant has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Approvers have to sign.
    Requested,
    /// Enough have signed.
    Warranted,
    /// Every target has ended, well or not.
    Done,
    /// An approver stopped it. It stays so.
    Stopped,
    /// Its time passed. It stays so.
    Lapsed,
}

impl State {
    /// The name that operators see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Warranted => "warranted",
            Self::Done => "done",
            Self::Stopped => "stopped",
            Self::Lapsed => "lapsed",
        }
    }

    /// Whether it may still be signed, stopped or carried out.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Requested | Self::Warranted)
    }
}

/// A warrant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarrantRecord {
    /// Version of this record's form.
    pub v: u8,
    /// Its id.
    pub id: WarrantId,
    /// What every order under it asks.
    pub ask: Ask,
    /// SHA-256 of the payload that approvers sign.
    pub payload_sha256: Sha256Digest,
    /// How many targets.
    pub count: u64,
    /// Who asked, as the audit log names them.
    pub requested_by: String,
    /// When, unix seconds.
    pub made_at: i64,
    /// From when on its devices are doomed, unix seconds.
    pub deadline: i64,
    /// Its last second, unix seconds.
    pub not_after: i64,
    /// How far it has come.
    pub state: State,
    /// Targets, in their order, for which orders were made or which were passed over.
    #[serde(default)]
    pub ordered: u64,
    /// Targets that have ended, whatever came of them.
    #[serde(default)]
    pub ended: u64,
    /// Of these, those whose order was carried out with proof.
    #[serde(default)]
    pub proven: u64,
}

impl WarrantRecord {
    /// What it allows.
    pub fn kind(&self) -> Kind {
        self.ask.kind()
    }

    /// How far a wipe may go.
    pub fn level(&self) -> Option<Level> {
        self.ask.level()
    }

    /// One more target has ended, `proven` or not; the last one ends the warrant.
    pub fn count_end(&mut self, proven: bool) {
        self.ended = self.ended.saturating_add(1);
        self.proven = self.proven.saturating_add(u64::from(proven));
        if self.state == State::Warranted && self.ended >= self.count {
            self.state = State::Done;
        }
    }

    /// Whether its time has passed at `now` (unix seconds) while it was open.
    pub fn has_lapsed(&self, now: i64) -> bool {
        self.state.is_open() && now > self.not_after
    }

    /// Whether there are targets for which no order was made yet.
    pub fn waits(&self) -> bool {
        self.state == State::Warranted && self.ordered < self.count
    }
}

/// How many approvers a warrant over `count` devices needs by the document in force.
///
/// # Errors
/// A refusal where kind and level do not fit, where nobody has to approve, or where the document's approvers are too
/// few: one rule where a smaller warrant would do, another where a successor is needed.
pub fn approvers(
    authority: &Authority,
    kind: Kind,
    level: Option<Level>,
    count: u64,
) -> Result<usize, Refusal> {
    let needed = |count| {
        approvers_needed(&authority.required, kind, level, count)
            .map_err(|_| Refusal::by("warrant.kind", Code::ValidationFailed).at("kind"))
    };
    let (one, all) = (needed(1)?, needed(count)?);
    let there = authority.approvers.len();
    if all == 0 {
        return Err(Refusal::by("warrant.needs_none", Code::ValidationFailed).at("kind"));
    }
    if all <= there {
        return Ok(all);
    }
    let smaller_would_do = one <= there && count > MANY_DEVICES;
    let rule = if smaller_would_do { "warrant.too_many_for_approvers" } else { "warrant.too_few_approvers" };
    Err(Refusal::by(rule, Code::Conflict).at("required"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_wire::authority::{Approver, Required};
    use muster_wire::key::Ed25519Key;
    use muster_wire::time::Timestamp;

    fn authority(approvers: u8) -> Authority {
        let key = |seed: u8| {
            let public = ed25519_dalek::SigningKey::from_bytes(&[seed; 32]).verifying_key();
            Ed25519Key::from_bytes(public.as_bytes()).unwrap()
        };
        let approver = |seed: u8| Approver {
            name: format!("approver {seed}").parse().unwrap(),
            key: key(seed),
            valid_from: Timestamp(0),
        };
        Authority {
            version: 1,
            trust_domain: "fleet.example".parse().unwrap(),
            command_keys: vec![key(100)],
            audit_keys: vec![key(101)],
            approvers: (1..=approvers).map(approver).collect(),
            recovery: Vec::new(),
            required: Required::founding(approvers.into()).0,
            previous: None,
        }
    }

    fn record() -> WarrantRecord {
        WarrantRecord {
            v: 1,
            id: WarrantId::from_bytes([1; 16]),
            ask: Ask::Lock,
            payload_sha256: Sha256Digest([0; 32]),
            count: 2,
            requested_by: "operator/admin".into(),
            made_at: 0,
            deadline: 10,
            not_after: 20,
            state: State::Warranted,
            ordered: 0,
            ended: 0,
            proven: 0,
        }
    }

    #[test]
    fn what_the_approvers_cannot_meet_is_refused_with_the_way_that_is_left() {
        let asked = |approvers_there, level, count| {
            approvers(&authority(approvers_there), Kind::Wipe, Some(level), count).map_err(|why| why.rule)
        };
        assert_eq!(asked(1, Level::Retire, 200), Ok(1));
        assert_eq!(asked(1, Level::Clear, 1), Err("warrant.too_few_approvers"));
        assert_eq!(asked(2, Level::Clear, 10), Ok(2));
        assert_eq!(asked(2, Level::Clear, 11), Err("warrant.too_many_for_approvers"));
        assert_eq!(asked(1, Level::Clear, 11), Err("warrant.too_few_approvers"));
        assert_eq!(asked(3, Level::FactoryReset, 11), Ok(3));
    }

    #[test]
    fn what_needs_nobody_and_what_does_not_fit_gets_no_warrant() {
        let asked = |kind, level| approvers(&authority(3), kind, level, 1).map_err(|why| why.rule);
        assert_eq!(asked(Kind::CollectPosture, None), Err("warrant.needs_none"));
        assert_eq!(asked(Kind::Wipe, None), Err("warrant.kind"));
        assert_eq!(asked(Kind::Lock, Some(Level::Retire)), Err("warrant.kind"));
        assert_eq!(asked(Kind::Lock, None), Ok(1));
        assert_eq!(asked(Kind::WipeOnLapse, Some(Level::Clear)), Ok(2));
        assert_eq!(asked(Kind::WipeOnLapse, Some(Level::Retire)), Err("warrant.kind"));
    }

    #[test]
    fn a_warrant_is_done_when_its_last_target_has_ended() {
        let mut warrant = record();
        warrant.count_end(true);
        assert_eq!(warrant.state, State::Warranted);
        warrant.count_end(false);
        assert_eq!((warrant.state, warrant.ended, warrant.proven), (State::Done, 2, 1));
    }

    #[test]
    fn what_was_stopped_or_lapsed_stays_so() {
        for state in [State::Stopped, State::Lapsed] {
            let mut warrant = WarrantRecord { state, ..record() };
            warrant.count_end(false);
            warrant.count_end(false);
            assert_eq!(warrant.state, state);
            assert!(!warrant.has_lapsed(1_000) && !warrant.waits());
        }
    }

    #[test]
    fn a_warrant_is_good_through_its_last_second() {
        assert!(!record().has_lapsed(20) && record().has_lapsed(21));
    }
}
