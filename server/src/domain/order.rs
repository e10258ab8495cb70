//! Orders, and what receipts make of them.
//!
//! ```text
//! ordered ─▶ delivered ─▶ done | refused | failed
//!     └──────────┴──────▶ expired | stopped ─▶ (a late receipt) done | refused | failed
//! ```
//! A phase follows from what is known: the device's PUBACK, its receipts, the clock. An order that has expired is not
//! made again, but a receipt for it still counts: the device may have carried it out in its last second.

use super::refusal::Refusal;
use super::text::shown_part;
use muster_wire::digest::Sha256Digest;
use muster_wire::id::{DeviceId, OrderId, WarrantId};
use muster_wire::order::Action;
use muster_wire::problem::Code;
use muster_wire::receipt::{ItemFate, Receipt, ReceiptOutcome, ReceiptPhase};
use muster_wire::warrant::{Kind, Level};
use serde::{Deserialize, Serialize};

/// How long an order without a warrant is made again, in seconds.
pub const EXPIRES_AFTER_S: i64 = 24 * 60 * 60;

/// Receipts of one order that may take the place of an earlier one of the same phase.
const REPLACED_MAX: u8 = 8;

/// Most characters of a device's reason that are kept.
const REASON_CHARS: usize = 200;

/// What refuses one more of these.
const REPLACED_TOO_OFTEN: &str = "receipt.replaced_too_often";
/// What refuses another word about an order that is verified as done.
const VERIFIED_ALREADY: &str = "receipt.verified_already";

/// Orders of one device that may be open at the same time.
pub const OPEN_MAX: usize = 8;

/// What an order asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// Renew with a new identity key.
    RotateIdentity,
    /// Report posture now.
    CollectPosture,
    /// Undo [`Ask::Lock`].
    Unlock,
    /// Lock the device.
    Lock,
    /// Wipe.
    Wipe {
        /// How far.
        level: Level,
        /// The profile's data roots.
        data_roots: Vec<String>,
    },
    /// Wipe by itself, once the lease has lapsed and nothing newer was heard for so long.
    WipeOnLapse {
        /// For how long, in seconds of boot time.
        after_s: u64,
        /// How far.
        level: Level,
        /// The profile's data roots.
        data_roots: Vec<String>,
    },
    /// Remember that a warrant is stopped.
    Stop {
        /// Which.
        warrant: WarrantId,
    },
}

impl Ask {
    /// What may be ordered without a warrant, in the order in which people are shown it.
    pub const FREE: [Self; 3] = [Self::RotateIdentity, Self::CollectPosture, Self::Unlock];

    /// The kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::RotateIdentity => Kind::RotateIdentity,
            Self::CollectPosture => Kind::CollectPosture,
            Self::Unlock => Kind::Unlock,
            Self::Lock => Kind::Lock,
            Self::Wipe { .. } => Kind::Wipe,
            Self::WipeOnLapse { .. } => Kind::WipeOnLapse,
            Self::Stop { .. } => Kind::Stop,
        }
    }

    /// How far a wipe goes.
    pub fn level(&self) -> Option<Level> {
        match self {
            Self::Wipe { level, .. } | Self::WipeOnLapse { level, .. } => Some(*level),
            Self::RotateIdentity | Self::CollectPosture | Self::Unlock | Self::Lock | Self::Stop { .. } => {
                None
            }
        }
    }

    /// The kind, as contract.md spells it.
    pub fn as_str(&self) -> &'static str {
        self.kind().as_str()
    }

    /// What it is on the wire.
    pub fn action(&self) -> Action {
        match self {
            Self::RotateIdentity => Action::RotateIdentity,
            Self::CollectPosture => Action::CollectPosture,
            Self::Unlock => Action::Unlock,
            Self::Lock => Action::Lock,
            Self::Wipe { level, data_roots } => {
                Action::Wipe { level: *level, data_roots: data_roots.clone() }
            }
            Self::WipeOnLapse { after_s, level, data_roots } => {
                Action::WipeOnLapse { after_s: *after_s, level: *level, data_roots: data_roots.clone() }
            }
            Self::Stop { warrant } => Action::Stop { warrant: *warrant },
        }
    }
}

/// How far an order has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Made, not yet taken by the device.
    Ordered,
    /// The device has taken it.
    Delivered,
    /// A receipt says that it was carried out.
    Done,
    /// A receipt says that the device refused.
    Refused,
    /// A receipt says that it could not be done.
    Failed,
    /// Its time passed without the last receipt.
    Expired,
    /// A person ended it before the last receipt.
    Stopped,
}

impl Phase {
    /// The phase's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ordered => "ordered",
            Self::Delivered => "delivered",
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Stopped => "stopped",
        }
    }

    /// Whether the order is still to be sent.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Ordered | Self::Delivered)
    }
}

/// What is kept of a receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptNote {
    /// The phase that ended.
    pub phase: ReceiptPhase,
    /// How it ended.
    pub outcome: ReceiptOutcome,
    /// SHA-256 of the receipt's payload.
    pub sha256: Sha256Digest,
    /// When it came, unix seconds.
    pub at: i64,
    /// Why it was not carried out, as the device says; cut and without what does not show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// An order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderRecord {
    /// Version of this record's form.
    pub v: u8,
    /// Its id.
    pub id: OrderId,
    /// To whom.
    pub device: DeviceId,
    /// What is to be done.
    pub ask: Ask,
    /// The warrant it stands under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warrant: Option<WarrantId>,
    /// Its place among the orders of the device, from 1.
    pub counter: u64,
    /// Who asked for it, as the audit log names them.
    pub by: String,
    /// When, unix seconds.
    pub made_at: i64,
    /// Its last second, unix seconds.
    pub expires: i64,
    /// How far it has come.
    pub phase: Phase,
    /// The receipts, in the order of their phases.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub receipts: Vec<ReceiptNote>,
    /// How many of them have taken the place of an earlier one.
    #[serde(default)]
    pub replaced: u8,
    /// Whether it is written down that a receipt came which changes nothing any more.
    #[serde(default)]
    pub excess_noted: bool,
}

/// Whether a receipt refused by `rule` is acknowledged all the same: the device can do no better, and would bring it for
/// ever.
pub fn is_excess(rule: &str) -> bool {
    matches!(rule, REPLACED_TOO_OFTEN | VERIFIED_ALREADY)
}

/// Why `receipt` says that its phase was not done: the thing that failed, else the one thing that it names.
fn reason_of(receipt: &Receipt) -> Option<String> {
    if receipt.outcome == ReceiptOutcome::Done {
        return None;
    }
    let failed = receipt.items.iter().find(|item| item.fate == ItemFate::Failed);
    let told = failed.or(receipt.items.first())?;
    Some(shown_part(&told.what, REASON_CHARS)).filter(|reason| !reason.is_empty())
}

impl OrderRecord {
    /// Why it was refused or failed, in the device's own words.
    pub fn reason(&self) -> Option<&str> {
        self.receipts.last()?.reason.as_deref()
    }

    /// Whether it is to be sent at `now` (unix seconds).
    pub fn is_due(&self, now: i64) -> bool {
        self.phase.is_open() && now <= self.expires
    }

    /// Whether it is open and its time has passed at `now` (unix seconds).
    pub fn has_lapsed(&self, now: i64) -> bool {
        self.phase.is_open() && now > self.expires
    }

    /// What the record becomes by `receipt`, whose payload has the digest `sha256` and which came at `now`; `None`
    /// when it is known already. The caller has verified its signature.
    ///
    /// The same phase again takes the former's place: a device signs anew what was not acknowledged when its key or
    /// certificate changes in between. It does so a few times and no more, and never in the place of one that says
    /// that the order is verified and done.
    ///
    /// # Errors
    /// [`Code::Conflict`] for a receipt that does not continue the chain, or one after the end; [`is_excess`] tells which
    /// of these are acknowledged.
    pub fn receive(
        &self,
        receipt: &Receipt,
        sha256: Sha256Digest,
        now: i64,
    ) -> Result<Option<Self>, Refusal> {
        if receipt.device != self.device || receipt.order != self.id {
            return Err(Refusal::by("receipt.other_order", Code::Conflict).at("order"));
        }
        if self.receipts.iter().any(|note| note.sha256 == sha256) {
            return Ok(None);
        }
        let is_end =
            |note: &ReceiptNote| (note.phase, note.outcome) == (ReceiptPhase::Verified, ReceiptOutcome::Done);
        if receipt.phase == ReceiptPhase::Verified && self.receipts.iter().any(is_end) {
            // The same word under another certificate is no news.
            return match receipt.outcome {
                ReceiptOutcome::Done => Ok(None),
                ReceiptOutcome::Failed | ReceiptOutcome::Refused => {
                    Err(Refusal::by(VERIFIED_ALREADY, Code::Conflict).at("phase"))
                }
            };
        }
        let mut next = self.clone();
        next.receipts.retain(|note| note.phase < receipt.phase);
        if self.receipts.iter().any(|note| note.phase > receipt.phase) {
            return Err(Refusal::by("receipt.backwards", Code::Conflict).at("phase"));
        }
        if next.receipts.last().is_some_and(|note| note.outcome != ReceiptOutcome::Done) {
            return Err(Refusal::by("receipt.after_the_end", Code::Conflict).at("phase"));
        }
        if receipt.previous != next.receipts.last().map(|note| note.sha256) {
            return Err(Refusal::by("receipt.chain", Code::Conflict).at("previous"));
        }
        if next.receipts.len() < self.receipts.len() {
            if self.replaced >= REPLACED_MAX {
                return Err(Refusal::by(REPLACED_TOO_OFTEN, Code::Conflict).at("phase"));
            }
            next.replaced = self.replaced.saturating_add(1);
        }
        next.receipts.push(ReceiptNote {
            phase: receipt.phase,
            outcome: receipt.outcome,
            sha256,
            at: now,
            reason: reason_of(receipt),
        });
        next.phase = match (receipt.outcome, receipt.phase) {
            (ReceiptOutcome::Refused, _) => Phase::Refused,
            (ReceiptOutcome::Failed, _) => Phase::Failed,
            (ReceiptOutcome::Done, ReceiptPhase::Verified) => Phase::Done,
            (ReceiptOutcome::Done, _) if self.phase == Phase::Ordered => Phase::Delivered,
            (ReceiptOutcome::Done, _) => self.phase,
        };
        Ok(Some(next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_wire::time::Timestamp;

    fn order() -> OrderRecord {
        OrderRecord {
            v: 1,
            id: OrderId::from_bytes([1; 16]),
            device: DeviceId::from_bytes([2; 16]),
            ask: Ask::CollectPosture,
            warrant: None,
            counter: 1,
            by: "server".into(),
            made_at: 0,
            expires: 100,
            phase: Phase::Ordered,
            receipts: Vec::new(),
            replaced: 0,
            excess_noted: false,
        }
    }

    fn receipt(phase: ReceiptPhase, previous: Option<u8>) -> Receipt {
        Receipt {
            device: order().device,
            order: order().id,
            warrant: None,
            level: None,
            phase,
            outcome: ReceiptOutcome::Done,
            items: Vec::new(),
            evidence: Sha256Digest([0; 32]),
            previous: previous.map(|byte| Sha256Digest([byte; 32])),
            certificate: Sha256Digest([0; 32]),
            last_checkpoint: None,
            at: Timestamp(5),
        }
    }

    fn take(order: &OrderRecord, receipt: &Receipt, sha256: u8) -> Result<Option<OrderRecord>, Refusal> {
        order.receive(receipt, Sha256Digest([sha256; 32]), 7)
    }

    #[test]
    fn an_order_is_done_when_its_last_phase_is_verified() {
        let accepted = take(&order(), &receipt(ReceiptPhase::Accepted, None), 1).unwrap().unwrap();
        assert_eq!(accepted.phase, Phase::Delivered);
        let done = take(&accepted, &receipt(ReceiptPhase::Verified, Some(1)), 2).unwrap().unwrap();
        assert_eq!((done.phase, done.receipts.len()), (Phase::Done, 2));
        assert!(!done.is_due(0));
    }

    #[test]
    fn the_same_receipt_again_changes_nothing_whatever_came_after() {
        let accepted = take(&order(), &receipt(ReceiptPhase::Accepted, None), 1).unwrap().unwrap();
        let done = take(&accepted, &receipt(ReceiptPhase::Verified, Some(1)), 2).unwrap().unwrap();
        assert_eq!(take(&done, &receipt(ReceiptPhase::Accepted, None), 1).unwrap(), None);
        assert_eq!(take(&done, &receipt(ReceiptPhase::Verified, Some(1)), 2).unwrap(), None);
    }

    #[test]
    fn a_phase_signed_anew_takes_the_formers_place() {
        let accepted = take(&order(), &receipt(ReceiptPhase::Accepted, None), 1).unwrap().unwrap();
        let again = take(&accepted, &receipt(ReceiptPhase::Accepted, None), 9).unwrap().unwrap();
        assert_eq!(again.receipts.len(), 1);
        assert_eq!(again.receipts[0].sha256, Sha256Digest([9; 32]));
    }

    #[test]
    fn a_phase_is_signed_anew_eight_times_and_no_more_and_the_order_goes_on() {
        let mut now = take(&order(), &receipt(ReceiptPhase::Accepted, None), 0).unwrap().unwrap();
        for n in 1..=REPLACED_MAX {
            now = take(&now, &receipt(ReceiptPhase::Accepted, None), n).unwrap().unwrap();
        }
        let refused = take(&now, &receipt(ReceiptPhase::Accepted, None), 99).unwrap_err();
        assert!(is_excess(refused.rule), "{refused:?}");
        let armed = take(&now, &receipt(ReceiptPhase::Armed, Some(REPLACED_MAX)), 100).unwrap().unwrap();
        assert_eq!(armed.receipts.len(), 2);
    }

    #[test]
    fn nothing_takes_the_place_of_a_receipt_that_says_verified_and_done() {
        let done = take(&order(), &receipt(ReceiptPhase::Verified, None), 1).unwrap().unwrap();
        assert_eq!(take(&done, &receipt(ReceiptPhase::Verified, None), 2).unwrap(), None);
        for outcome in [ReceiptOutcome::Failed, ReceiptOutcome::Refused] {
            let refused = take(&done, &Receipt { outcome, ..receipt(ReceiptPhase::Verified, None) }, 2);
            assert!(is_excess(refused.unwrap_err().rule), "{outcome:?}");
        }
        let failed = Receipt { outcome: ReceiptOutcome::Failed, ..receipt(ReceiptPhase::Verified, None) };
        let failed = take(&order(), &failed, 1).unwrap().unwrap();
        assert!(take(&failed, &receipt(ReceiptPhase::Verified, None), 2).unwrap().is_some());
    }

    #[test]
    fn a_broken_chain_a_step_back_and_a_word_after_the_end_are_refused() {
        let rule = |outcome: Result<Option<OrderRecord>, Refusal>| outcome.unwrap_err().rule;
        assert_eq!(rule(take(&order(), &receipt(ReceiptPhase::Verified, Some(3)), 1)), "receipt.chain");
        let done = take(&order(), &receipt(ReceiptPhase::Verified, None), 1).unwrap().unwrap();
        assert_eq!(rule(take(&done, &receipt(ReceiptPhase::Accepted, None), 2)), "receipt.backwards");
        let refused = Receipt { outcome: ReceiptOutcome::Refused, ..receipt(ReceiptPhase::Accepted, None) };
        let refused = take(&order(), &refused, 1).unwrap().unwrap();
        assert_eq!((refused.phase, refused.reason()), (Phase::Refused, None));
        assert_eq!(
            rule(take(&refused, &receipt(ReceiptPhase::Verified, Some(1)), 2)),
            "receipt.after_the_end"
        );
    }

    #[test]
    fn why_an_order_was_not_carried_out_is_kept_as_the_device_says_it() {
        let item = |what: &str, fate| muster_wire::receipt::ReceiptItem {
            what: what.to_owned(),
            fate,
            size_bytes: 0,
        };
        let said = |outcome, items| {
            let receipt = Receipt { outcome, items, ..receipt(ReceiptPhase::Verified, None) };
            take(&order(), &receipt, 1).unwrap().unwrap().reason().map(str::to_owned)
        };
        let hook = || vec![item("there is no\u{7} hook", ItemFate::Kept)];
        assert_eq!(said(ReceiptOutcome::Refused, hook()).unwrap(), "there is no hook");
        let two = vec![item("/srv/a", ItemFate::Cleared), item("/srv/b", ItemFate::Failed)];
        assert_eq!(said(ReceiptOutcome::Failed, two).unwrap(), "/srv/b");
        assert_eq!(said(ReceiptOutcome::Done, hook()), None);
        let long = vec![item(&"x".repeat(9_000), ItemFate::Failed)];
        assert_eq!(said(ReceiptOutcome::Failed, long).unwrap().chars().count(), REASON_CHARS + 1);
    }

    #[test]
    fn an_order_is_due_through_its_last_second_and_a_late_receipt_still_counts() {
        assert!(order().is_due(100) && !order().has_lapsed(100));
        assert!(!order().is_due(101) && order().has_lapsed(101));
        let expired = OrderRecord { phase: Phase::Expired, ..order() };
        let done = take(&expired, &receipt(ReceiptPhase::Verified, None), 1).unwrap().unwrap();
        assert_eq!(done.phase, Phase::Done);
    }
}
