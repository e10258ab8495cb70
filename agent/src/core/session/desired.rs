//! The desired state: a head comes, its baseline is fetched and judged, the appliers put it in place, the outcome is told.
//!
//! ```text
//! head ─check─▶ wanted ─▶ authorities ─fetch─▶ admitted ─apply─▶ in force, or rolled back ─▶ state report, now
//! ```
//! A head may carry a lease ([`super::lease`]): how long, in boot time, the device may go without hearing a newer one.
//!
//! A generation above the one in force may stand for another issuing CA, or for a successor of the authority document:
//! both are asked for before its baseline, so that whoever reports a generation has what was served with it.
//!
//! Nothing is remembered on the way: what was not put in place before a kill is not reported, and what is not reported
//! the server says again. The appliers remember how new the newest admitted head was, so an old one never comes back.

use muster_wire::desired::{DesiredHead, Generation};
use muster_wire::digest::Sha256Digest;
use muster_wire::posture::{Drift, EventKind};
use serde::{Deserialize, Serialize};

use super::super::baseline::{self, CheckedHead, Mark, Subject};
use super::super::not_taken::NotTaken;
use super::super::schedule::{self, Moment};
use super::super::{Answer, Trouble, trust};
use super::inbound::{Refused, sentence};
use super::telling::{DETAIL_CHARS, cut};
use super::{Effect, Session};

/// No look tells in more events than this what was put right.
const MOST_AT_ONCE: usize = 8;
/// A baseline that could not be fetched is asked for again within this many seconds.
const FETCH_AGAIN_S: u64 = 60;
/// The generation of an installation in which nobody has changed anything.
const FIRST: Generation = Generation { restore_epoch: 0, counter: 1 };

/// The desired state in force, as the appliers have it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InForce {
    /// Its head.
    pub head: Option<DesiredHead>,
    /// Its profile.
    pub profile: Option<String>,
    /// The newest head admitted and the baseline that it names.
    pub highest: Option<(Mark, Sha256Digest)>,
    /// Whether a newer one could not be put in place.
    pub has_failed: bool,
}

impl InForce {
    /// Its generation.
    pub fn generation(&self) -> Option<Generation> {
        self.head.as_ref().map(|head| head.generation)
    }
}

/// A generation that was taken back, whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenBack {
    restore_epoch: u64,
    counter: u64,
    why: Option<String>,
}

impl TakenBack {
    /// `generation`, and why; without a reason it was interrupted.
    pub fn of(generation: Generation, why: Option<String>) -> Self {
        Self { restore_epoch: generation.restore_epoch, counter: generation.counter, why }
    }

    fn sentence(&self) -> String {
        let Self { restore_epoch, counter, why } = self;
        let generation = Generation { restore_epoch: *restore_epoch, counter: *counter };
        match why {
            Some(why) => format!("generation {generation} was rolled back: {why}"),
            None => format!("generation {generation} was interrupted and taken back"),
        }
    }
}

/// What became of a desired state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is in force.
    Applied,
    /// It was in force before.
    Unchanged,
    /// It could not be put in place; the former one is in force.
    RolledBack {
        /// Which.
        generation: Generation,
        /// Why.
        why: String,
        /// Whether that was told before.
        is_repeated: bool,
    },
}

impl Session {
    fn subject(&self) -> Subject<'_> {
        Subject {
            device: self.leaf.device,
            profile: self.in_force.profile.as_deref(),
            declared: &self.declared,
            highest: self.in_force.highest,
        }
    }

    /// A head came.
    pub(super) fn hear(&mut self, bytes: &[u8], now: Moment) -> Result<(), Refused> {
        let checked = baseline::check_head(bytes, &self.lineage, &self.subject())?;
        if !self.refresh(&checked, now) {
            return Ok(());
        }
        let same = |head: &DesiredHead| {
            (head.generation, head.baseline) == (checked.head().generation, checked.head().baseline)
        };
        if !self.in_force.has_failed && self.in_force.head.as_ref().is_some_and(same) {
            self.not_taken = None;
            // Only what the head itself says can be new.
            self.follow_head(&checked, now);
            return Ok(());
        }
        self.knows_authorities = !self.may_bring_authorities(checked.head().generation);
        self.wanted = Some(Box::new(checked));
        if !self.knows_authorities {
            // It may as well stand for a successor of the authority document: whose approval counts is known first.
            self.discover();
        }
        self.fetch();
        Ok(())
    }

    /// Whether `generation` may have come with another authority than those that are known here. The first of all never
    /// does: no authority was ever added by it.
    fn may_bring_authorities(&self, generation: Generation) -> bool {
        let is_above = self.in_force.generation().is_none_or(|in_force| generation > in_force);
        is_above && generation > FIRST
    }

    /// The desired state in force, signed again: intervals and policy in it count from now on, after a restart, too.
    fn follow_head(&mut self, checked: &CheckedHead, now: Moment) {
        let (head, mark) = (checked.head(), checked.mark());
        let is_newer = self.in_force.highest.is_none_or(|(highest, _)| mark > highest);
        let quiet = |former: &DesiredHead| DesiredHead { issued_at: head.issued_at, ..former.clone() };
        let says_more = self.in_force.head.as_ref().is_some_and(|former| quiet(former) != *head);
        if is_newer && says_more {
            self.in_force.head = Some(head.clone());
            self.in_force.highest = Some((mark, head.baseline));
            self.effects.push_back(Effect::KeepHead(Box::new(head.clone()), mark));
            self.follow_intervals(now);
            self.alarms.renew = self.alarms.renew.map(|_| now.since_start);
        }
    }

    pub(super) fn fetch(&mut self) {
        let Some(wanted) = &self.wanted else { return };
        let step = if self.knows_authorities {
            Effect::Fetch(wanted.head().baseline)
        } else {
            Effect::AskAuthorities
        };
        self.effects.push_back(step);
    }

    /// The authorities that are served now are kept, durably before the generation that they came with.
    pub(super) fn authorities_came(&mut self, answer: Result<Answer, Trouble>, now: Moment) {
        let body = answer.ok().and_then(|answer| answer.body().ok());
        let Some(body) = body else { return self.fetch_later(now) };
        match trust::renew_authorities(&mut self.past, &mut self.held, &body) {
            Ok(stored) => {
                self.effects.extend(stored.into_iter().map(Effect::Renewal));
                self.knows_authorities = true;
                self.fetch();
            }
            Err(refusal) => {
                // The root is pinned: this is no rollover that was missed but something else that is served.
                let detail = format!("the authorities served were refused: {}", sentence(&refusal));
                self.tell(EventKind::Refused, &detail, now);
                self.wanted = None;
            }
        }
    }

    fn fetch_later(&mut self, now: Moment) {
        self.alarms.fetch = Some(now.since_start + schedule::interval(FETCH_AGAIN_S, now.jitter()));
    }

    pub(super) fn fetched(&mut self, answer: Result<Answer, Trouble>, now: Moment) {
        if self.is_wiping() {
            self.wanted = None;
        }
        let Some(wanted) = &self.wanted else { return };
        let body = answer.ok().and_then(|answer| answer.body().ok());
        let Some(body) = body else { return self.fetch_later(now) };
        let (head, generation) = (CheckedHead::clone(wanted), wanted.head().generation);
        match baseline::admit(head, &body, &self.lineage, &self.subject(), now.wall) {
            Ok(admitted) => self.effects.push_back(Effect::Apply(Box::new(admitted))),
            Err(refusal) => {
                let why = sentence(&refusal);
                let found = NotTaken::refused(generation, &refusal, &why, now.wall);
                self.not_taken = Some(found.after(self.not_taken.take()));
                self.tell(EventKind::Refused, &format!("a baseline was refused: {why}"), now);
            }
        }
        self.wanted = None;
    }

    pub(super) fn applied(&mut self, change: Change, in_force: InForce, now: Moment) {
        self.in_force = in_force;
        let former = self.not_taken.take();
        match change {
            Change::Applied => {}
            // The newest is what it was before: in force, or not.
            Change::Unchanged => self.not_taken = former.filter(|former| self.is_outstanding(former)),
            Change::RolledBack { generation, why, is_repeated } => {
                self.not_taken = Some(NotTaken::rolled_back(generation, &why, now.wall).after(former));
                if !is_repeated {
                    self.tell_of_the_taken_back(vec![TakenBack::of(generation, Some(why))], now);
                }
            }
        }
        self.alarms.renew = Some(now.since_start);
        self.follow_intervals(now);
        // What is audited only differs still; the look tells.
        self.alarms.drift = Some(now.since_start);
        self.alarms.state = None;
    }

    /// Whether `found` is still not in force, after nothing has changed.
    fn is_outstanding(&self, found: &NotTaken) -> bool {
        self.in_force.has_failed || Some(found.which()) > self.in_force.generation()
    }

    /// Shortened intervals count at once.
    fn follow_intervals(&mut self, now: Moment) {
        let intervals = self.intervals();
        let sooner = |alarm: &mut Option<std::time::Duration>, seconds: u64| {
            let at = now.since_start + schedule::interval(seconds, now.jitter());
            *alarm = alarm.map(|former| former.min(at));
        };
        sooner(&mut self.alarms.state, intervals.state_s);
        sooner(&mut self.alarms.posture, intervals.posture_s);
        sooner(&mut self.alarms.drift, intervals.drift_s);
    }

    /// The look for drift is over. What is news is reported at once.
    pub(super) fn drifted(&mut self, found: &[Drift], left: Vec<Drift>, untold: Vec<Drift>, now: Moment) {
        self.alarms.drift =
            Some(now.since_start + schedule::interval(self.intervals().drift_s, now.jitter()));
        // The state reported below says that all is well; that it was not is told for itself.
        self.tell_what_was_put_right(untold, now);
        let is_news =
            !found.is_empty() || left != self.drift || self.reported != Some(self.in_force.generation());
        self.drift = left;
        // Before the first report there is one to come anyway, unless a desired state has just been put in place.
        if is_news && self.has_begun && self.alarms.state.is_none_or(|_| self.reported.is_some()) {
            self.report_state(now);
        }
    }

    /// Tells what was put right, as many things in one event as it holds, and forgets what was told: after the events are
    /// on disk, so that a kill before this tells it again, and the outbox knows that it does. What is too much for now is
    /// told by a later look.
    fn tell_what_was_put_right(&mut self, mut untold: Vec<Drift>, now: Moment) {
        let mut at = 0;
        while let Some(count) = self.told_before(untold.get(at..).unwrap_or_default()) {
            at += count;
        }
        let room = self.outbox.room_for_events().min(MOST_AT_ONCE);
        for _ in 0..room {
            let rest = untold.get(at..).unwrap_or_default();
            let fits = |count: &usize| put_right(rest.iter().take(*count)).chars().count() <= DETAIL_CHARS;
            // An item that is too long by itself is told by its beginning.
            let Some(count) = (1..=rest.len()).take_while(|count| *count == 1 || fits(count)).last() else {
                break;
            };
            let detail = put_right(rest.iter().take(count));
            self.tell(EventKind::DriftRepaired, &detail, now);
            at += count;
        }
        untold.truncate(at);
        if !untold.is_empty() {
            self.effects.push_back(Effect::ForgetDrift(untold));
        }
    }

    /// How many of `untold`, from its beginning, an event tells that waits: it was kept, and a kill came before they were
    /// forgotten.
    fn told_before(&self, untold: &[Drift]) -> Option<usize> {
        let detail = |count: usize| put_right(untold.iter().take(count));
        let fits = |count: &usize| *count == 1 || detail(*count).chars().count() <= DETAIL_CHARS;
        let counts = (1..=untold.len()).take_while(fits);
        counts.filter(|count| self.outbox.says(EventKind::DriftRepaired, &cut(&detail(*count)))).last()
    }

    /// Generations were taken back, now or before a kill; somebody should know. They are forgotten after the events are on
    /// disk.
    pub(super) fn tell_of_the_taken_back(&mut self, taken_back: Vec<TakenBack>, now: Moment) {
        for one in &taken_back {
            self.tell(EventKind::RolledBack, &one.sentence(), now);
        }
        if !taken_back.is_empty() {
            self.effects.push_back(Effect::ForgetTakenBack(taken_back));
        }
    }
}

/// The event's words for what was put right.
fn put_right<'d>(items: impl Iterator<Item = &'d Drift>) -> String {
    let items: Vec<&str> = items.map(|drift| drift.item.as_str()).collect();
    format!("put right: {}", items.join(", "))
}
