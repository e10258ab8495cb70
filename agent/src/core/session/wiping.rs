//! A wipe, phase by phase: the engine does a phase, its receipt is durable, the journal says so, only then the next.
//!
//! ```text
//! taken ─▶ accepted ─▶ armed ─(ack, or a minute)─▶ keys_destroyed ─▶ data_destroyed ─▶ verified ─(ack, or the end)─▶ retired
//!             └ refused    └ stopped                    └ failed          └ failed         └ failed: the device goes on
//! ```
//! Only `armed` is told before its deed. A kill anywhere finds in the journal, or in the outbox, which phase is over, and
//! goes on with the next: an engine that is asked for a phase twice finds done what is done. While a wipe is in hand
//! nothing else changes the device: no baseline, no repair, no other certificate, since receipts are a chain under one.
//! The identity goes when the server has signed for the last receipt, or the order has ended; then the agent does.

use std::time::Duration;

use muster_wire::digest::Sha256Digest;
use muster_wire::envelope::payload_digest;
use muster_wire::id::OrderId;
use muster_wire::receipt::{Receipt, ReceiptOutcome, ReceiptPhase};

use super::super::outbox::Kept;
use super::super::record::{Answered, Reached, Record, Retired, Taken, Wipe};
use super::super::schedule::Moment;
use super::super::wiping::{PhaseReport, WipeTask};
use super::{Effect, Session};

/// How long the server may take to sign for `armed`.
const ARMED_WAIT: Duration = Duration::from_secs(60);
/// A wipe that waits for a renewal to end looks again after this long.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// The end of an order is a matter of the calendar, which is looked at no less often than this.
const CALENDAR: Duration = Duration::from_secs(6 * 3600);

/// What a running agent knows of its wipe beyond the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wiping {
    /// A phase is with the engine.
    is_busy: bool,
    /// Until when the `ack` of `armed` is awaited, since the start of the agent.
    waits_until: Option<Duration>,
}

impl Session {
    /// Whether a wipe is in hand, or is over and proven: nothing else changes the device then.
    pub(super) fn is_wiping(&self) -> bool {
        self.past.is_wiping()
    }

    /// Takes the wipe in hand as far as it goes without an answer from somewhere.
    pub(super) fn go_on_wiping(&mut self, now: Moment) {
        if self.wiping.is_busy {
            return;
        }
        let Some((taken, wipe)) = self.past.wipe().map(|(taken, wipe)| (taken.clone(), wipe.clone())) else {
            return self.consider_the_end(now);
        };
        self.find_what_was_owed(&taken, now);
        match self.past.reached(taken.order).cloned() {
            None if self.is_half_renewed() => {
                self.alarms.wipe = Some(now.since_start + LOOK_AGAIN);
            }
            Some(reached) if reached.is_last() => self.wipe_is_over(taken.order, now),
            Some(Reached { phase: ReceiptPhase::Accepted, .. }) => self.arm(&taken, &wipe, now),
            Some(Reached { phase: ReceiptPhase::Armed, .. }) => self.fire(&taken, &wipe, now),
            None => self.begin_phase(&taken, &wipe, ReceiptPhase::Accepted),
            Some(Reached { phase: ReceiptPhase::KeysDestroyed, .. }) => {
                self.begin_phase(&taken, &wipe, ReceiptPhase::DataDestroyed);
            }
            Some(Reached { phase: ReceiptPhase::DataDestroyed | ReceiptPhase::Verified, .. }) => {
                self.begin_phase(&taken, &wipe, ReceiptPhase::Verified);
            }
        }
    }

    /// A kill between receipt and record: the receipt is durable, so its phase is over.
    pub(super) fn find_what_was_owed(&mut self, taken: &Taken, now: Moment) {
        let reached = self.past.reached(taken.order).map(|reached| reached.phase);
        let owed = self.outbox.newest(taken.order).filter(|receipt| Some(receipt.phase) > reached).cloned();
        if let Some(receipt) = owed {
            self.record(Record::Reached(reached_by(&receipt, taken, now)));
        }
    }

    pub(super) fn begin_phase(&mut self, taken: &Taken, wipe: &Wipe, phase: ReceiptPhase) {
        let Wipe { level, data_roots, .. } = wipe.clone();
        self.wiping.is_busy = true;
        self.effects
            .push_back(Effect::Wipe(Box::new(WipeTask { order: taken.order, level, data_roots }), phase));
    }

    fn arm(&mut self, taken: &Taken, wipe: &Wipe, now: Moment) {
        if self.refuse_the_stopped(taken, wipe, now) {
            return;
        }
        let armed = PhaseReport {
            phase: ReceiptPhase::Armed,
            outcome: ReceiptOutcome::Done,
            items: Vec::new(),
            // Arming adds none.
            evidence: self
                .past
                .reached(taken.order)
                .map_or(Sha256Digest::of(b""), |reached| reached.evidence),
        };
        self.owe_phase(taken, wipe, armed, now);
        self.fire(taken, wipe, now);
    }

    /// Begins the deed once the server has signed for `armed`, or long enough has passed.
    fn fire(&mut self, taken: &Taken, wipe: &Wipe, now: Moment) {
        if self.refuse_the_stopped(taken, wipe, now) {
            return;
        }
        let until = *self.wiping.waits_until.get_or_insert(now.since_start + ARMED_WAIT);
        // A wipe that waited for silence has nobody to wait for, unless somebody is there by now.
        let is_heard = wipe.on_lapse.is_none() || self.live().is_some();
        if is_heard && self.outbox.owes(taken.order) && now.since_start < until {
            self.alarms.wipe = Some(until);
            return;
        }
        self.wiping.waits_until = None;
        self.begin_phase(taken, wipe, ReceiptPhase::KeysDestroyed);
    }

    fn refuse_the_stopped(&mut self, taken: &Taken, wipe: &Wipe, now: Moment) -> bool {
        let Some(under) = taken.under.as_ref().filter(|under| self.past.is_stopped(under.warrant)) else {
            return false;
        };
        let why = format!("refused: warrant {} was stopped", under.warrant);
        let phase = ReceiptPhase::KeysDestroyed;
        self.wiping.waits_until = None;
        self.owe_phase(taken, wipe, PhaseReport::ended(phase, ReceiptOutcome::Refused, why), now);
        self.wipe_is_over(taken.order, now);
        true
    }

    /// The engine has done what it could of a phase.
    pub(super) fn wiped(&mut self, order: OrderId, report: PhaseReport, now: Moment) {
        self.wiping.is_busy = false;
        let waits = self.past.placed_order().filter(|taken| taken.order == order).cloned();
        if let Some((taken, wipe)) = waits.and_then(|taken| taken.wipe.clone().map(|wipe| (taken, wipe))) {
            self.placed(&taken, &wipe, report, now);
            return self.go_on_wiping(now);
        }
        let found = self.past.wipe().filter(|(taken, _)| taken.order == order);
        let Some((taken, wipe)) = found.map(|(taken, wipe)| (taken.clone(), wipe.clone())) else { return };
        self.owe_phase(&taken, &wipe, report, now);
        self.go_on_wiping(now);
    }

    pub(super) fn owe_phase(&mut self, taken: &Taken, wipe: &Wipe, report: PhaseReport, now: Moment) {
        let receipt = Receipt {
            device: self.leaf.device,
            order: taken.order,
            warrant: taken.under.as_ref().map(|under| under.sha256),
            level: Some(wipe.level),
            phase: report.phase,
            outcome: report.outcome,
            items: report.items,
            evidence: report.evidence,
            previous: self.past.reached(taken.order).map(|reached| reached.receipt),
            certificate: self.certificate(),
            last_checkpoint: self.past.log_head(),
            at: now.wall,
        };
        self.effects.push_back(Effect::Keep(Kept::Receipt(receipt.clone())));
        self.record(Record::Reached(reached_by(&receipt, taken, now)));
        self.outbox.put_receipt(receipt);
    }

    fn wipe_is_over(&mut self, order: OrderId, now: Moment) {
        self.record(Record::Answered(Answered { order, at: now.wall }));
        // Either the end is near, or there is another wipe, or the device goes on as it did before.
        self.alarms.wipe = Some(now.since_start);
        self.alarms.renew = Some(now.since_start);
        self.alarms.drift = Some(now.since_start);
        self.alarms.lease = Some(now.since_start);
    }

    /// After a proven wipe: the end comes with the server's signature for the last receipt, or with that of the order.
    fn consider_the_end(&mut self, now: Moment) {
        let Some(wiped) = self.past.wiped.clone() else { return };
        let is_acknowledged = !self.outbox.owes(wiped.order);
        if is_acknowledged || now.wall > wiped.ends {
            return self.end(wiped.order, is_acknowledged, now);
        }
        let left_s = u64::try_from(wiped.ends.seconds().saturating_sub(now.wall.seconds())).unwrap_or(0);
        let wait = Duration::from_secs(left_s.saturating_add(1)).min(CALENDAR);
        self.alarms.wipe = Some(now.since_start + wait);
    }

    fn end(&mut self, order: OrderId, is_acknowledged: bool, now: Moment) {
        self.record(Record::Retired(Retired { order, is_acknowledged, at: now.wall }));
        self.effects.push_back(Effect::EndLife);
        self.stop();
    }
}

fn reached_by(receipt: &Receipt, taken: &Taken, now: Moment) -> Reached {
    Reached {
        order: receipt.order,
        phase: receipt.phase,
        outcome: receipt.outcome,
        receipt: payload_digest(receipt),
        evidence: receipt.evidence,
        ends: taken.ends(),
        at: now.wall,
    }
}
