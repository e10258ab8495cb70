//! A device is let go: its phases, its doom, and the ways out (contract.md, "Device and asset").
//!
//! ```text
//! requested ─▶ warranted ─▶ ordered ─▶ delivered ─▶ armed ─▶ executing ─▶ proven
//!     └────────────┴───────────┴─ deadline ─┴─ doomed: unproven ─┴────────────┘
//! stopped │ lapsed │ refused │ failed: before doom back to the former state, after it retired(unproven)
//! ```
//! Doom comes at the deadline, or when the device's certificate expires if that is earlier; it changes nothing for the
//! device while an order is open, and ends its certificates for everybody else. Nothing is *proven* but by the whole
//! chain of receipts that `docs/verify-wipe.py` asks for, with nothing in it that could not be done.

use super::device::{Device, DeviceState, Retirement};
use super::refusal::Refusal;
use muster_wire::digest::Sha256Digest;
use muster_wire::envelope::payload_digest;
use muster_wire::id::{OrderId, WarrantId};
use muster_wire::problem::Code;
use muster_wire::receipt::{ItemFate, Receipt, ReceiptOutcome, ReceiptPhase};
use muster_wire::warrant::Level;
use serde::{Deserialize, Serialize};

/// How far a device has been let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Somebody asked; approvers have to sign.
    Requested,
    /// Enough approvers have signed.
    Warranted,
    /// There is an order.
    Ordered,
    /// The device has taken it.
    Delivered,
    /// The device is about to begin.
    Armed,
    /// Something is gone already.
    Executing,
    /// A verified receipt proves it.
    Proven,
    /// The device's own policy refused.
    Refused,
    /// It could not be done.
    Failed,
    /// The deadline has passed without proof.
    Unproven,
}

impl Phase {
    /// The name, as contract.md spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Warranted => "warranted",
            Self::Ordered => "ordered",
            Self::Delivered => "delivered",
            Self::Armed => "armed",
            Self::Executing => "executing",
            Self::Proven => "proven",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Unproven => "unproven",
        }
    }
}

/// How a device is being let go, or was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deprovisioning {
    /// By which warrant.
    pub warrant: WarrantId,
    /// How far it is to be wiped.
    pub level: Level,
    /// Where it goes back to.
    pub former: DeviceState,
    /// How far it has come.
    pub phase: Phase,
    /// The order, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<OrderId>,
    /// When it was asked for, unix seconds.
    pub requested_at: i64,
    /// From this second on the device is doomed, unix seconds.
    pub deadline: i64,
    /// The warrant's last second, unix seconds.
    pub not_after: i64,
    /// When it was found doomed, unix seconds; for good, wherever the clock goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doomed_at: Option<i64>,
    /// Until when the device may fetch the `ack` of the receipt that proved it, unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub letterbox_until: Option<i64>,
}

/// What a certificate's record says of its device's leaving; the doors' table is asked with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "row", rename_all = "snake_case")]
pub enum Leaving {
    /// It is let go.
    Deprovisioning {
        /// From this second on it is doomed; 0 for good.
        doomed_from: i64,
        /// Whether there is an order to be fetched.
        order_open: bool,
    },
    /// The wipe is proven; the device waits for the last `ack`.
    Proven {
        /// The last second at which it is let in for it.
        until: i64,
    },
}

/// What is asked of a device that is to be let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// By which warrant.
    pub warrant: WarrantId,
    /// How far it is to be wiped.
    pub level: Level,
    /// From when on it is doomed, unix seconds.
    pub deadline: i64,
    /// The warrant's last second, unix seconds.
    pub not_after: i64,
}

/// How letting go ends without proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WayOut {
    /// An approver stopped the warrant.
    Stopped,
    /// The warrant's time passed.
    Lapsed,
    /// The device's own policy refused.
    Refused,
    /// It could not be done.
    Failed,
    /// A person gave up waiting for a doomed device.
    GivenUp,
}

impl WayOut {
    /// The reason that audit entries carry.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Lapsed => "lapsed",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::GivenUp => "given_up",
        }
    }
}

/// What is due of a device that is let go because of the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// It is doomed and nobody has noted it.
    Doom,
    /// The warrant's time has passed.
    Lapse,
    /// The day for the last `ack` has passed.
    CloseLetterbox,
}

impl Device {
    /// How this device is being let go, while it is.
    pub fn leaving(&self) -> Option<&Deprovisioning> {
        self.deprovisioning.as_ref().filter(|_| self.state == DeviceState::Deprovisioning)
    }

    /// From which second on it is doomed, if it is being let go: its deadline, or the first after its certificate's
    /// last.
    pub fn doomed_from(&self) -> Option<i64> {
        let leaving = self.leaving()?;
        let expired_from = self.current.as_ref().map_or(i64::MAX, |held| held.not_after.saturating_add(1));
        Some(leaving.deadline.min(expired_from))
    }

    /// Whether it is being let go and is doomed at `now` (unix seconds).
    pub fn is_doomed(&self, now: i64) -> bool {
        let noted = self.leaving().is_some_and(|leaving| leaving.doomed_at.is_some());
        noted || self.doomed_from().is_some_and(|from| now >= from)
    }

    /// Begins to let it go at `now` (unix seconds).
    pub fn begin_leaving(&mut self, request: &Request, now: i64) {
        let Request { warrant, level, deadline, not_after } = *request;
        self.deprovisioning = Some(Deprovisioning {
            warrant,
            level,
            former: self.state,
            phase: Phase::Requested,
            order: None,
            requested_at: now,
            deadline,
            not_after,
            doomed_at: None,
            letterbox_until: None,
        });
        self.state = DeviceState::Deprovisioning;
        self.changed_at = now;
    }

    /// Goes on to `phase`, and never back: what is executing is not delivered, and what is doomed without proof stays
    /// so until a receipt says that the device has begun.
    pub fn leave_further(&mut self, phase: Phase) {
        let state = self.state;
        if let Some(leaving) = self.deprovisioning.as_mut().filter(|_| state == DeviceState::Deprovisioning) {
            let counts = match (leaving.phase, phase) {
                (Phase::Unproven, next) => matches!(next, Phase::Armed | Phase::Executing),
                (before, next) => before < next,
            };
            if counts {
                leaving.phase = phase;
            }
        }
    }

    /// Ends its being let go without proof, at `now` (unix seconds): back to where it was, or, after doom, retired.
    pub fn leave_off(&mut self, way: WayOut, now: i64) {
        let doomed = self.is_doomed(now);
        let Some(leaving) = self.deprovisioning.as_mut() else { return };
        leaving.order = None;
        if doomed {
            leaving.phase = Phase::Unproven;
            self.retire(Retirement::Unproven, now);
            return;
        }
        self.state = leaving.former;
        self.changed_at = now;
        match way {
            WayOut::Refused => leaving.phase = Phase::Refused,
            WayOut::Failed => leaving.phase = Phase::Failed,
            // There is no word for these among the phases: the history tells them.
            WayOut::Stopped | WayOut::Lapsed | WayOut::GivenUp => self.deprovisioning = None,
        }
    }

    /// A verified receipt proves at `now` (unix seconds) that it was wiped; it may fetch the `ack` until
    /// `letterbox_until`.
    pub fn prove(&mut self, letterbox_until: i64, now: i64) {
        if let Some(leaving) = self.deprovisioning.as_mut() {
            leaving.phase = Phase::Proven;
            leaving.letterbox_until = Some(letterbox_until);
        }
        self.retire(Retirement::Proven, now);
    }

    /// When something is to be done about it because of the time, unix seconds.
    pub fn leaving_due_at(&self) -> Option<i64> {
        match (self.leaving(), &self.deprovisioning) {
            (Some(leaving), _) => {
                let end = leaving.not_after.saturating_add(1);
                Some(match (leaving.doomed_at, self.doomed_from()) {
                    (None, Some(from)) => from.min(end),
                    (Some(_), _) | (_, None) => end,
                })
            }
            (None, Some(left)) => left.letterbox_until.map(|until| until.saturating_add(1)),
            (None, None) => None,
        }
    }

    /// What the time `now` (unix seconds) asks for. Lapse comes first: it ends what doom would only note.
    pub fn leaving_due(&self, now: i64) -> Due {
        match (self.leaving(), &self.deprovisioning) {
            (Some(leaving), _) if now > leaving.not_after => Due::Lapse,
            (Some(leaving), _) if leaving.doomed_at.is_none() && self.is_doomed(now) => Due::Doom,
            (None, Some(left)) if left.letterbox_until.is_some_and(|until| now > until) => {
                Due::CloseLetterbox
            }
            _ => Due::Nothing,
        }
    }

    /// What its certificates' records are to say of it.
    pub fn certificates_leaving(&self) -> Option<Leaving> {
        match (self.leaving(), &self.deprovisioning) {
            (Some(leaving), _) => Some(Leaving::Deprovisioning {
                doomed_from: if leaving.doomed_at.is_some() { 0 } else { leaving.deadline },
                order_open: leaving.order.is_some(),
            }),
            (None, Some(left)) => left.letterbox_until.map(|until| Leaving::Proven { until }),
            (None, None) => None,
        }
    }
}

/// What a receipt of a wipe means for its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It goes on.
    Further(Phase),
    /// It is proven.
    Proven,
    /// It ended without proof.
    Out(WayOut),
}

/// The phases of a wipe, each of which its proof has a receipt of.
const PHASES: [ReceiptPhase; 5] = [
    ReceiptPhase::Accepted,
    ReceiptPhase::Armed,
    ReceiptPhase::KeysDestroyed,
    ReceiptPhase::DataDestroyed,
    ReceiptPhase::Verified,
];

/// What `receipt` means after `earlier`, those of the same order before it; `asked` is the level of the warrant.
///
/// A receipt of the last phase proves nothing unless the whole chain does: every phase was done, as far as asked,
/// under one warrant and one certificate, and nothing is named in it that could not be done. It is a failure then.
pub fn told(receipt: &Receipt, earlier: &[Receipt], asked: Level) -> Told {
    match (receipt.outcome, receipt.phase) {
        (ReceiptOutcome::Refused, _) => Told::Out(WayOut::Refused),
        (ReceiptOutcome::Failed, _) => Told::Out(WayOut::Failed),
        (ReceiptOutcome::Done, ReceiptPhase::Accepted) => Told::Further(Phase::Delivered),
        (ReceiptOutcome::Done, ReceiptPhase::Armed) => Told::Further(Phase::Armed),
        (ReceiptOutcome::Done, ReceiptPhase::KeysDestroyed | ReceiptPhase::DataDestroyed) => {
            Told::Further(Phase::Executing)
        }
        (ReceiptOutcome::Done, ReceiptPhase::Verified) => {
            if is_whole(receipt, earlier, asked) {
                Told::Proven
            } else {
                Told::Out(WayOut::Failed)
            }
        }
    }
}

fn is_whole(last: &Receipt, earlier: &[Receipt], asked: Level) -> bool {
    let chain = || earlier.iter().chain([last]);
    let previous = [None].into_iter().chain(earlier.iter().map(|one| Some(payload_digest(one))));
    chain().map(|one| one.phase).eq(PHASES)
        && chain().map(|one| one.previous).eq(previous)
        && chain().all(|one| {
            one.outcome == ReceiptOutcome::Done
                && one.level >= Some(asked)
                && (one.warrant, one.certificate) == (last.warrant, last.certificate)
                && one.items.iter().all(|item| item.fate != ItemFate::Failed)
        })
}

/// Whether `receipt` speaks about the warrant whose payload has the digest `warrant`.
///
/// # Errors
/// [`Code::Conflict`] where it names another, or none.
pub fn is_under(receipt: &Receipt, warrant: Sha256Digest) -> Result<(), Refusal> {
    if receipt.warrant == Some(warrant) {
        Ok(())
    } else {
        Err(Refusal::by("receipt.warrant", Code::Conflict).at("warrant"))
    }
}

#[cfg(test)]
#[path = "deprovision_tests.rs"]
mod tests;
