//! What the device does when its lease lapses, and how it takes that back.
//!
//! ```text
//! runs ─(used up)─▶ lapsed: recorded, told, done ─(a newer word)─▶ undone, recorded, told ─▶ runs
//! ```
//! A lapse does only what can be taken back: it tells; it drops secrets that the baseline brings again; it locks, by the
//! device's own `lock` hook. It is done again at each start while it lasts, since not every lock outlives a boot. What an
//! order locked stays locked. An authority document that asks for approvers for it (`lapse(reversible)`) makes a lapse tell
//! and nothing else, since no head carries their signatures; so does a lease that would destroy, unless a wipe was placed
//! for it ([`super::placed`]).
//!
//! In a farewell session the lease stands still and nothing lapses: the server is heard, and only the words are missing that
//! a device which is let go does not get. Whoever can merely ask for that sets nothing off.

use std::time::Duration;

use muster_wire::authority::Matter;
use muster_wire::desired::Lapse;
use muster_wire::posture::EventKind;

use super::super::baseline::CheckedHead;
use super::super::lease::Meter;
use super::super::record::{Lapsed, LeaseRenewed, Record};
use super::super::schedule::Moment;
use super::super::wiping::{Hook, HookEnd};
use super::{Effect, Event, InForce, Session};

/// What of a lapse is being done or undone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lapsing {
    /// What the lapse does was done since the agent started.
    is_held: bool,
    /// A hook runs.
    running: Option<Hook>,
    /// The one to run next.
    next: Option<Hook>,
    /// The device slept since anything came from the server: an open session may be none.
    has_slept: bool,
    /// When the wipe begins that waits, unless a newer word is heard before.
    pub(super) clears_at: Option<Duration>,
}

/// What became of the secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// How many files went.
    pub files: usize,
    /// Those that could not be taken away, and why.
    pub failed: Vec<String>,
}

impl Session {
    /// A head was believed. Only one that is newer than all before shows that the server still speaks to this device.
    /// Answers whether what it says may count: while a lease has lapsed, an old word changes nothing.
    pub(super) fn refresh(&mut self, word: &CheckedHead, now: Moment) -> bool {
        let had_one = self.meter.sheet().is_some();
        if !self.meter.hear(word.mark(), word.head().lease, now.since_start) {
            return self.past.lapsed.is_none();
        }
        let sheet = self.meter.sheet().cloned();
        if had_one || sheet.is_some() {
            self.effects.push_back(Effect::KeepLease(sheet.map(Box::new)));
        }
        self.take_back_lapse(now);
        self.set_lease_alarm(now);
        true
    }

    /// The lease's alarm went off: it has lapsed, or something is to be marked.
    pub(super) fn look_at_lease(&mut self, now: Moment) {
        if self.is_wiping() {
            return;
        }
        self.mark_lease(now);
        match (&self.past.lapsed, self.meter.has_lapsed(now.since_start)) {
            (None, true) => self.lapse(now),
            (Some(lapsed), true) if !self.lapsing.is_held => self.hold(lapsed.does),
            (Some(_), false) => self.take_back_lapse(now),
            (None, false) | (Some(_), true) => {}
        }
        self.consider_clearing(now);
        self.set_lease_alarm(now);
    }

    /// Keeps how much of the lease was used.
    pub(super) fn mark_lease(&mut self, now: Moment) {
        if let Some(sheet) = self.meter.mark(now.since_start) {
            self.effects.push_back(Effect::KeepLease(Some(Box::new(sheet))));
        }
    }

    /// Since the former event the device was in a session, if it is in one. A device that slept was in none, whatever it
    /// still holds to be open, until something comes over it.
    pub(super) fn count_session(&mut self, event: &Event, now: Moment) {
        let Some((_, since)) = self.clock_seen else { return };
        if event.came_over().is_some_and(|link| self.live() == Some(link)) {
            self.lapsing.has_slept = false;
        } else if Meter::slept(since, now.since_start) {
            self.lapsing.has_slept = true;
        }
        if self.live().is_some() && !self.lapsing.has_slept {
            self.meter.met(since, now.since_start, self.is_farewell());
        }
    }

    /// After an event: a lease that stood still before runs again, and is marked; so is the end of a silence, where that
    /// counts.
    pub(super) fn follow_session(&mut self, was_live: bool, was_farewell: bool, now: Moment) {
        let is_met = !was_live && self.live().is_some();
        if is_met {
            self.lapsing.has_slept = false;
            self.meter.met(now.since_start, now.since_start, false);
        }
        if (is_met && self.waiting().is_some()) || (was_farewell && !self.is_farewell()) {
            self.alarms.lease = Some(now.since_start);
        }
    }

    fn set_lease_alarm(&mut self, now: Moment) {
        let at = now.since_start;
        let left = match self.meter.sheet() {
            Some(sheet) if !self.meter.has_lapsed(at) => {
                Some(sheet.lasts().saturating_sub(self.meter.used(at)))
            }
            Some(_) => self.left_before_clearing(now),
            None => None,
        };
        // Where the lease stands still, there is nothing but marks to look for.
        let left = left.map(|left| if self.is_farewell() { Duration::MAX } else { left });
        let looked = left.map(|left| Meter::look_at(left, at));
        self.alarms.lease = self.lapsing.clears_at.or(looked).filter(|_| !self.is_wiping());
    }

    /// Nothing newer was heard for as long as the lease lasts.
    fn lapse(&mut self, now: Moment) {
        let Some(asked) = self.meter.sheet().map(|sheet| sheet.on_lapse) else { return };
        let newest = self.meter.newest().map_or_else(|| "never".to_owned(), |at| at.to_string());
        let (does, refused) = self.may_do(asked);
        self.record(Record::Lapsed(Lapsed { does, at: now.wall }));
        let detail = format!("the desired state is stale: the newest word of it was signed at {newest}");
        self.tell(EventKind::LeaseLapsed, &detail, now);
        if let Some(why) = refused {
            self.tell(EventKind::Refused, &why, now);
        }
        self.hold(does);
    }

    /// What of `asked` may be done, and why not all of it.
    fn may_do(&self, asked: Lapse) -> (Lapse, Option<String>) {
        let needed = self.lineage.current().required.count(Matter::LapseReversible);
        match asked {
            Lapse::Report => (Lapse::Report, None),
            Lapse::DropSecrets | Lapse::Lock if needed == Some(0) => (asked, None),
            Lapse::DropSecrets | Lapse::Lock => {
                let why =
                    format!("the lease would {asked}: the authority asks for approvers, who sign no lease");
                (Lapse::Report, Some(why))
            }
            Lapse::Clear if self.waiting().is_some() => (Lapse::Clear, None),
            Lapse::Clear => {
                let why = "the lease would clear this device: its approvers have placed no warrant for that";
                (Lapse::Report, Some(why.to_owned()))
            }
        }
    }

    /// Does what the lapse asks for; again after each start.
    fn hold(&mut self, does: Lapse) {
        self.lapsing.is_held = true;
        match does {
            Lapse::Report | Lapse::Clear => {}
            Lapse::Lock => self.run_lapse_hook(Hook::Lock),
            Lapse::DropSecrets => {
                self.wanted = None;
                self.effects.push_back(Effect::DropSecrets);
            }
        }
    }

    /// A newer word came: what the lapse did is taken back, and only then is the lapse over.
    fn take_back_lapse(&mut self, now: Moment) {
        let Some(lapsed) = &self.past.lapsed else { return };
        self.lapsing.is_held = false;
        match lapsed.does {
            Lapse::Lock if !self.past.is_locked => self.run_lapse_hook(Hook::Unlock),
            Lapse::Lock => self.lapse_is_over("it stays locked, since an order locked it", now),
            Lapse::DropSecrets => self.lapse_is_over("what was dropped comes again", now),
            Lapse::Report | Lapse::Clear => self.lapse_is_over("the lease runs again", now),
        }
    }

    fn lapse_is_over(&mut self, how: &str, now: Moment) {
        self.record(Record::LeaseRenewed(LeaseRenewed { at: now.wall }));
        self.tell(
            EventKind::LeaseRenewed,
            &format!("a newer word came after the lease had lapsed: {how}"),
            now,
        );
    }

    /// Runs the device's own program, after the one that runs.
    fn run_lapse_hook(&mut self, hook: Hook) {
        if let Some(running) = self.lapsing.running {
            self.lapsing.next = (running != hook).then_some(hook);
            return;
        }
        self.lapsing.running = Some(hook);
        self.effects.push_back(Effect::LapseHook(hook));
    }

    /// The program that a lapse, or its end, asked for has ended, or was not run.
    pub(super) fn lapse_hook_ran(&mut self, hook: Hook, end: &HookEnd, now: Moment) {
        self.lapsing.running = None;
        match (hook, end) {
            (Hook::Unlock, HookEnd::Ran) => self.lapse_is_over("this device was unlocked", now),
            (Hook::Unlock, HookEnd::Refused(why)) => self.lapse_is_over(why, now),
            // It is tried again at the next look, or the next start.
            (Hook::Unlock, HookEnd::Failed(why)) => self.tell(EventKind::LeaseLapsed, why, now),
            (Hook::Lock, HookEnd::Ran) => {
                self.tell(EventKind::LeaseLapsed, "the lease has lapsed: this device was locked", now);
            }
            (Hook::Lock, HookEnd::Refused(why) | HookEnd::Failed(why)) => {
                self.tell(EventKind::LeaseLapsed, &format!("the lease has lapsed: {why}"), now);
            }
        }
        if let Some(next) = self.lapsing.next.take() {
            self.run_lapse_hook(next);
        }
    }

    /// The secrets that the baseline brought are gone, and so is the agent's memory of it.
    pub(super) fn secrets_dropped(&mut self, dropped: &Dropped, in_force: InForce, now: Moment) {
        self.in_force = in_force;
        self.drift.clear();
        let mut detail = format!("the lease has lapsed: {} secrets were dropped", dropped.files);
        if !dropped.failed.is_empty() {
            detail.push_str(&format!(", and these were not: {}", dropped.failed.join(", ")));
        }
        self.tell(EventKind::LeaseLapsed, &detail, now);
    }
}
