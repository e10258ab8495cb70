//! A wipe that waits: approvers have signed beforehand that this device clears itself when it is silent for so long.
//!
//! ```text
//! taken ─▶ accepted: placed ─(silent for long enough, and a moment more)─▶ fired ─▶ accepted again ─▶ armed ─▶ … ─▶ verified
//!             └ stopped, replaced by the next, or over with its warrant: nothing happens
//! ```
//! It begins only when the lease in force says `clear` and has lapsed, **and** nothing newer was heard, nor any session
//! held with the server, for as long as the approvers signed: a server that makes leases short hastens nothing, and one
//! that is there but has no word for this device, since somebody asks to let it go or has frozen all, is not silent. The warrant is verified again in that moment, by the
//! approvers that count then. A device that was asleep first gets a moment to hear a newer word. What has fired goes on as
//! any other wipe does (`super::wiping`), whether anybody hears its receipts or not.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_wire::desired::Lapse;
use muster_wire::envelope::MultiSigned;
use muster_wire::posture::EventKind;
use muster_wire::receipt::{ItemFate, ReceiptItem, ReceiptOutcome, ReceiptPhase};
use muster_wire::warrant::{self, Warrant};

use super::super::record::{Answered, Fired, OnLapse, Record, Taken, Wipe};
use super::super::schedule::Moment;
use super::super::wiping::PhaseReport;
use super::inbound::sentence;
use super::{Effect, Session};

/// A device that finds the time used up waits for a hundredth of what approvers signed before it begins, and no longer than
/// this.
const MOMENT: Duration = Duration::from_secs(600);

impl Session {
    /// An order to wipe on lapse was taken: it is placed if this device would carry it out.
    pub(super) fn place(&mut self, taken: &Taken, now: Moment) {
        let Some(wipe) = taken.wipe.clone() else { return };
        if self.is_wiping() {
            let why = "refused: this device is being wiped".to_owned();
            return self.answer_unobeyed(taken.order, ReceiptOutcome::Refused, why, now);
        }
        self.begin_phase(taken, &wipe, ReceiptPhase::Accepted);
    }

    /// A kill between the order and its receipt: it is placed again.
    pub(super) fn resume_placing(&mut self, now: Moment) {
        let Some(taken) = self.past.placed_order().cloned() else { return };
        if self.past.placed.as_ref().is_some_and(|placed| placed.order == taken.order) {
            return;
        }
        if self.outbox.owes(taken.order) {
            self.find_what_was_owed(&taken, now);
        } else {
            self.place(&taken, now);
        }
    }

    /// The engine has looked whether it would carry out the order that is to be placed.
    pub(super) fn placed(&mut self, taken: &Taken, wipe: &Wipe, mut report: PhaseReport, now: Moment) {
        let is_placed = report.outcome == ReceiptOutcome::Done;
        if let Some(OnLapse { after_s, .. }) = wipe.on_lapse.as_ref().filter(|_| is_placed) {
            let what = format!("placed: wipes at {} after {after_s} s without a newer word", wipe.level);
            report.items = vec![ReceiptItem { what, fate: ItemFate::Kept, size_bytes: 0 }];
        }
        self.owe_phase(taken, wipe, report, now);
        let order = taken.order;
        if is_placed {
            self.unplace(|placed| placed.order != order, now);
            self.alarms.lease = Some(now.since_start);
        } else {
            self.record(Record::Answered(Answered { order, at: now.wall }));
        }
    }

    /// Orders to wipe on lapse that `are_meant` wait no longer.
    pub(super) fn unplace(&mut self, are_meant: impl Fn(&Taken) -> bool, now: Moment) {
        let waits = |taken: &&Taken| {
            let is_placed = taken.wipe.as_ref().is_some_and(|wipe| wipe.on_lapse.is_some());
            is_placed && self.past.fired != Some(taken.order)
        };
        let over: Vec<_> = self.past.open.iter().filter(waits).filter(|taken| are_meant(taken)).collect();
        let over: Vec<_> = over.into_iter().map(|taken| taken.order).collect();
        for order in over {
            self.record(Record::Answered(Answered { order, at: now.wall }));
        }
    }

    /// The order that waits, for how long nothing newer must have been heard, and the warrant.
    pub(super) fn waiting(&self) -> Option<(Taken, Duration, String)> {
        let taken = self.past.placed_order()?;
        self.past.placed.as_ref().filter(|placed| placed.order == taken.order)?;
        let OnLapse { after_s, warrant } = taken.wipe.as_ref()?.on_lapse.clone()?;
        Some((taken.clone(), Duration::from_secs(after_s), warrant))
    }

    /// How long the silence must still last before this device clears itself; nothing where it does not.
    pub(super) fn left_before_clearing(&self, now: Moment) -> Option<Duration> {
        let sheet = self.meter.sheet().filter(|sheet| sheet.on_lapse == Lapse::Clear)?;
        let (_, after, _) = self.waiting()?;
        let unheard = after.max(sheet.lasts()).saturating_sub(self.meter.used(now.since_start));
        Some(unheard.max(after.saturating_sub(self.meter.apart(now.since_start))))
    }

    /// Begins the wipe that waits, if its time has come.
    pub(super) fn consider_clearing(&mut self, now: Moment) {
        let due = self.left_before_clearing(now).filter(|left| left.is_zero());
        let (Some(_), Some((taken, after, warrant))) = (due, self.waiting()) else {
            self.lapsing.clears_at = None;
            return;
        };
        let wait = (after / 100).min(MOMENT);
        let clears_at = *self.lapsing.clears_at.get_or_insert(now.since_start.saturating_add(wait));
        if now.since_start < clears_at {
            return;
        }
        self.lapsing.clears_at = None;
        match self.holds_now(&taken, &warrant, now) {
            Ok(()) => {
                // That it was placed is no news any more.
                let stale = self.outbox.withdraw(taken.order, ReceiptPhase::Accepted);
                self.effects.extend(stale.map(Effect::Drop));
                self.record(Record::Fired(Fired { order: taken.order, at: now.wall }));
                self.go_on_wiping(now);
            }
            Err(why) => {
                let detail =
                    format!("the lease would clear this device, but the warrant does not hold: {why}");
                self.tell(EventKind::Refused, &detail, now);
                self.unplace(|placed| placed.order == taken.order, now);
            }
        }
    }

    /// Whether approvers that count now, and enough of them, have signed for it.
    fn holds_now(&self, taken: &Taken, signed: &str, now: Moment) -> Result<(), String> {
        let bytes = STANDARD.decode(signed).map_err(|error| error.to_string())?;
        let signed = MultiSigned::<Warrant>::parse(&bytes).map_err(|error| sentence(&error))?;
        let found = warrant::verify(&signed, &self.lineage, now.wall).map_err(|error| sentence(&error))?;
        let is_it = taken.under.as_ref().is_some_and(|under| under.sha256 == found.payload_digest());
        if !is_it || found.kind != taken.kind {
            return Err("it is another one".to_owned());
        }
        if self.past.is_stopped(found.id) { Err("it was stopped".to_owned()) } else { Ok(()) }
    }
}
