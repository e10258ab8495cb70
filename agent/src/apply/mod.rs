//! The appliers: they bring the device to its desired state, whole or not at all, and find what drifted from it.
//!
//! ```text
//! Admitted ─▶ compare ─▶ applied.undo (durable) ─▶ change … ─▶ read back ─▶ applied (durable) ─▶ no more undo
//!                │               │                    │            │              │
//!                └ cannot be ────┴── failure, or kill and next start ─────────────┘
//!                  done: nothing       everything back as it was: the former generation stays in force
//!                  is touched
//! ```
//! * `applied.undo` is durable before anything changes, and `applied` names the new generation only after all of it
//!   was read back. A start that finds an undo finishes when `applied` already names its generation, and goes back
//!   otherwise. Every step may be repeated.
//! * Nothing outside the declared roots beneath `--root` is changed, but for kernel settings: beneath
//!   `<root>/proc/sys`, and in `<root>/etc/sysctl.d/60-muster.conf` for the next boot. No link is followed, no
//!   special file opened, no file written through another name of it; owners are looked up in the tree's own
//!   `etc/passwd` and `etc/group`.
//! * A file that the next generation names no more is removed only if this agent made it and nobody changed it
//!   since. A kernel setting that is named no more keeps its value until the next boot.
//!
//! # For the session
//! ```text
//! let mut engine = Engine::new(state_dir, root, declared)?;     // settles what a kill left; see Engine::recovery
//! let subject = Subject { highest: engine.highest(), profile: engine.profile(), .. };
//! let head = baseline::check_head(&bytes, lineage, &subject)?;  // then fetch head.head().baseline
//! let admitted = baseline::admit(head, &bytes, lineage, &subject, now)?;
//! match engine.apply(&admitted)? { Applied{..} | RolledBack{..} | Unchanged }
//! engine.drift()?      // on schedule: what differs, changing nothing
//! engine.repair()?     // on schedule: the same, with what `enforce` names repaired
//! engine.told(&items)  // when what it put right is on its way; engine.told_taken_back(&them) likewise
//! engine.current()     // what to report as the generation in place
//! ```
//! An [`ApplyError`] says that the agent's own disk failed; drop the engine and make a new one later.

mod accounts;
mod diff;
mod disk;
mod ledger;
mod repair;
mod tree;
mod trouble;
mod undo;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::Path;

use muster_wire::desired::{DesiredHead, Generation, Mode, SectionKind};
use muster_wire::digest::Sha256Digest;
use muster_wire::posture::Drift;
use serde::Serialize;

pub use diff::Action;
pub use trouble::{ApplyError, Trouble};

use crate::core::baseline::{Admitted, Mark};
use crate::core::session::TakenBack;
use crate::core::wiping::ManagedFile;
use diff::{Change, Comparison, Diff};
use disk::{Dir, Disk};
use ledger::{Desired, Failed, Item, LEDGER, Ledger, UNDO, Undo};
pub use repair::Repair;
use tree::{Reach, Tree};

/// No more generations that were taken back are remembered until somebody was told.
const TAKEN_BACK_MAX: usize = 8;

/// What came of a desired state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in force, and was read back.
    Applied {
        /// Its generation.
        generation: Generation,
    },
    /// It could not be put in place; the former one is in force as before.
    RolledBack {
        /// The generation that failed.
        generation: Generation,
        /// Which file or setting, and why.
        why: String,
        /// Whether the same failed for the same reason the last time: an event was sent then.
        is_repeated: bool,
    },
    /// It is the one in force already.
    Unchanged,
}

/// What [`Engine::new`] found of an earlier run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Nothing.
    Clean,
    /// A generation that was in force but for the tidying up.
    Finished,
    /// A generation half in place; everything is as it was before it.
    RolledBack {
        /// The generation.
        generation: Generation,
    },
}

/// One line of `muster-agent plan`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlannedStep {
    /// In which section.
    pub section: SectionKind,
    /// What: a path or a key.
    pub item: String,
    /// What would be done.
    pub action: Action,
    /// Whether it would be done (`enforce`) or only reported (`audit`).
    pub mode: Mode,
    /// Why it cannot be done.
    pub problem: Option<String>,
}

/// What applying the present desired state would change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The newest desired state: the one that failed last, or the one in force.
    pub generation: Option<Generation>,
    /// The one in force.
    pub in_force: Option<Generation>,
    /// Its profile.
    pub profile: Option<String>,
    /// What differs.
    pub steps: Vec<PlannedStep>,
    /// Whether an interrupted change is to be settled first.
    pub is_unfinished: bool,
}

/// Brings one tree to its desired states, one at a time. Hold the agent's lock.
#[derive(Debug)]
pub struct Engine {
    state: Dir,
    tree: Tree,
    disk: Disk,
    ledger: Ledger,
    recovery: Recovery,
    /// What the last look could not put right.
    failing: BTreeSet<Item>,
}

impl Engine {
    /// An engine for the tree at `root`, with its memory in `state_dir` and the roots `declared` at enrolment.
    ///
    /// What an interrupted run left behind is settled on return.
    ///
    /// # Errors
    /// [`ApplyError`]; nothing but what was to be settled has changed.
    pub fn new(state_dir: &Path, root: &Path, declared: &[String]) -> Result<Self, ApplyError> {
        Self::with_disk(state_dir, root, declared, Disk::system())
    }

    fn with_disk(state_dir: &Path, root: &Path, declared: &[String], disk: Disk) -> Result<Self, ApplyError> {
        let (state, tree) = open(state_dir, root, declared)?;
        let mut engine = Self {
            state,
            tree,
            disk,
            ledger: Ledger::default(),
            recovery: Recovery::Clean,
            failing: BTreeSet::new(),
        };
        engine.recovery = engine.settle()?;
        Ok(engine)
    }

    /// What an earlier run left behind.
    pub fn recovery(&self) -> Recovery {
        self.recovery
    }

    /// The generations that were taken back, oldest first, of which nobody has been told: [`Engine::told_taken_back`].
    pub fn taken_back(&self) -> &[TakenBack] {
        &self.ledger.taken_back
    }

    /// Whoever is to know that `told` were taken back knows it, durably.
    pub fn told_taken_back(&mut self, told: &[TakenBack]) {
        let mut left = self.ledger.clone();
        left.taken_back.retain(|one| !told.contains(one));
        self.note(left);
    }

    /// Keeps `ledger` here, and on the disk if it lets itself be written: what stands in it that is not on the disk is only
    /// told once more by the next start, or lost by a kill before it is told.
    fn note(&mut self, ledger: Ledger) {
        if ledger != self.ledger {
            let _ = self.save(ledger.clone());
            self.ledger = ledger;
        }
    }

    /// The generation in force.
    pub fn current(&self) -> Option<Generation> {
        self.head().map(|head| head.generation)
    }

    /// The head in force: certificate policy, intervals and lease.
    pub fn head(&self) -> Option<&DesiredHead> {
        self.ledger.applied.as_ref().map(|desired| &desired.head)
    }

    /// The profile of the baseline in force.
    pub fn profile(&self) -> Option<&str> {
        let applied = self.ledger.applied.as_ref().map(|desired| desired.baseline.profile.as_str());
        applied.or(self.ledger.profile.as_deref())
    }

    /// The newest head admitted, and the baseline it named, whether it could be put in place or not.
    pub fn highest(&self) -> Option<(Mark, Sha256Digest)> {
        self.ledger.highest
    }

    /// The generation that could not be put in place, and why, until one could.
    pub fn failed(&self) -> Option<(Generation, &str)> {
        self.ledger.failed.as_ref().map(|failed| (failed.desired.head.generation, failed.why.as_str()))
    }

    /// Puts a desired state in place, whole or not at all.
    ///
    /// # Errors
    /// [`ApplyError::Stale`] below [`Engine::highest`], changing nothing; otherwise the agent's own disk failed, and
    /// the next [`Engine::new`] settles what is there.
    pub fn apply(&mut self, admitted: &Admitted) -> Result<Outcome, ApplyError> {
        self.settle()?;
        let desired = Desired::of(admitted);
        let generation = desired.head.generation;
        let mark = (admitted.mark(), desired.head.baseline);
        let is_same = self.ledger.applied.as_ref().is_some_and(|applied| applied.key() == desired.key());
        if self.ledger.highest.is_some_and(|(highest, digest)| mark.0 < highest && mark.1 != digest) {
            return Err(ApplyError::Stale);
        }
        if is_same && self.ledger.failed.is_none() {
            self.keep_head(admitted.head(), admitted.mark())?;
            return Ok(Outcome::Unchanged);
        }
        let highest = Some(mark).max(self.ledger.highest);
        if self.ledger.highest != highest {
            self.save(Ledger { highest, ..self.ledger.clone() })?;
        }
        match self.put_in_place(&desired)? {
            Ok(()) => Ok(Outcome::Applied { generation }),
            Err(why) => {
                let failed = Failed { desired, why: why.clone() };
                let is_repeated =
                    self.ledger.failed.as_ref().is_some_and(|former| {
                        former.why == why && former.desired.key() == failed.desired.key()
                    });
                if !is_repeated {
                    // A full disk may refuse this, too. That costs a second event, later.
                    let taken_back = self.taking_back(TakenBack::of(generation, Some(why.clone())));
                    self.note(Ledger { failed: Some(failed), taken_back, ..self.ledger.clone() });
                }
                Ok(Outcome::RolledBack { generation, why, is_repeated })
            }
        }
    }

    /// What differs from the desired state in force. Changes nothing.
    ///
    /// # Errors
    /// None today; what cannot be looked at is drift.
    pub fn drift(&self) -> Result<Vec<Drift>, ApplyError> {
        Ok(self.differences().iter().map(drift_of).collect())
    }

    fn differences(&self) -> Vec<Diff> {
        let compare = |desired| Comparison::of(&self.tree, desired, &self.ledger.managed).diffs;
        self.ledger.applied.as_ref().map(compare).unwrap_or_default()
    }

    /// The inner `Err` says why everything is as it was before.
    fn put_in_place(&mut self, desired: &Desired) -> Result<Result<(), String>, ApplyError> {
        let Comparison { diffs, managed } = Comparison::of(&self.tree, desired, &self.ledger.managed);
        let reach = Reach::of(desired.is_wide);
        let mut changes: Vec<(String, Change)> = Vec::new();
        for diff in diffs.into_iter().filter(|diff| diff.mode == Mode::Enforce) {
            match diff.change {
                Ok(change) => changes.push((diff.item, change)),
                Err(trouble) => return Ok(Err(format!("{}: {}", diff.item, trouble.sentence()))),
            }
        }
        let next = Ledger {
            applied: Some(desired.clone()),
            failed: None,
            managed,
            profile: None,
            ..self.ledger.clone()
        };
        if changes.is_empty() {
            return self.save(next).map(Ok);
        }
        let undo = match undo::record(desired, changes.iter().map(|(_, change)| change)) {
            Ok(undo) => undo,
            Err(trouble) => return Ok(Err(trouble.sentence())),
        };
        if let Err(error) = ledger::write(&self.disk, &self.state, UNDO, &undo) {
            // Nothing was changed; whether the undo is there or not, the next start finds nothing to go back on.
            return Ok(Err(sentence(&error)));
        }
        if let Err(why) = self.change(reach, &changes) {
            self.go_back(&undo)?;
            return Ok(Err(why));
        }
        if let Err(error) = self.save(next) {
            return self.undecided(&undo, error);
        }
        self.forget_undo();
        Ok(Ok(()))
    }

    /// `Ok` when everything was changed and read back; otherwise why it has to go back.
    fn change(&self, reach: Reach, changes: &[(String, Change)]) -> Result<(), String> {
        let named = |item: &String| {
            let item = item.clone();
            move |trouble: Trouble| format!("{item}: {}", trouble.sentence())
        };
        for (item, change) in changes {
            undo::perform(&self.tree, &self.disk, reach, change).map_err(named(item))?;
        }
        for (item, change) in changes {
            undo::verify(&self.tree, reach, change).map_err(named(item))?;
        }
        Ok(())
    }

    /// The ledger could not be written, or not made durable. What it says decides.
    fn undecided(&mut self, undo: &Undo, error: ApplyError) -> Result<Result<(), String>, ApplyError> {
        let on_disk: Option<Ledger> = ledger::read(&self.state, LEDGER)?;
        let is_new =
            on_disk.and_then(|ledger| ledger.applied).is_some_and(|applied| applied.key() == undo.to);
        if is_new {
            // In place, but a power cut could still take it back: the undo stays for whoever starts next.
            return Err(error);
        }
        self.go_back(undo)?;
        Ok(Err(sentence(&error)))
    }

    /// What nobody has been told of yet, with `one` more; the oldest gives way when there are too many.
    fn taking_back(&self, one: TakenBack) -> Vec<TakenBack> {
        let mut all = self.ledger.taken_back.clone();
        if !all.contains(&one) {
            all.push(one);
        }
        all.split_off(all.len().saturating_sub(TAKEN_BACK_MAX))
    }

    fn go_back(&self, undo: &Undo) -> Result<(), ApplyError> {
        undo::roll_back(&self.tree, &self.disk, undo)?;
        self.forget_undo();
        Ok(())
    }

    /// An undo that stays is found by the next start, which sees that nothing is left of it to do.
    fn forget_undo(&self) {
        let _ = self.disk.remove(&self.state, UNDO);
    }

    /// Reads what is on the disk and settles a change that was interrupted.
    fn settle(&mut self) -> Result<Recovery, ApplyError> {
        self.ledger = ledger::read(&self.state, LEDGER)?.unwrap_or_default();
        let Some(undo) = ledger::read::<Undo>(&self.state, UNDO)? else { return Ok(Recovery::Clean) };
        let is_in_force = self.ledger.applied.as_ref().is_some_and(|applied| applied.key() == undo.to);
        let recovery = if is_in_force {
            undo::tidy(&self.tree, &self.disk, &undo);
            Recovery::Finished
        } else {
            undo::roll_back(&self.tree, &self.disk, &undo)?;
            let (restore_epoch, counter, _) = undo.to;
            let generation = Generation { restore_epoch, counter };
            // Before the undo goes, which alone says that anything was begun.
            let taken_back = self.taking_back(TakenBack::of(generation, None));
            self.note(Ledger { taken_back, ..self.ledger.clone() });
            Recovery::RolledBack { generation }
        };
        let removed = self.disk.remove(&self.state, UNDO);
        removed.map_err(|source| ApplyError::Disk { what: UNDO, source })?;
        Ok(recovery)
    }

    /// The desired state in force, signed again: what else `head` says is kept, when it is newer and says something
    /// else. The head of another desired state changes nothing.
    ///
    /// # Errors
    /// [`ApplyError`]: the agent's own disk failed.
    pub fn keep_head(&mut self, head: &DesiredHead, mark: Mark) -> Result<(), ApplyError> {
        let Some(applied) = &self.ledger.applied else { return Ok(()) };
        let quiet = DesiredHead { issued_at: head.issued_at, ..applied.head.clone() };
        let desired = Desired { head: head.clone(), ..applied.clone() };
        let is_newer = self.ledger.highest.is_none_or(|(highest, _)| mark > highest);
        if desired.key() != applied.key() || !is_newer || quiet == *head {
            return Ok(());
        }
        let highest = Some((mark, head.baseline));
        self.save(Ledger { highest, applied: Some(desired), ..self.ledger.clone() })
    }

    /// The files of the desired state in force that nobody but their owner may read.
    pub fn secrets(&self) -> Vec<ManagedFile> {
        let files = self.ledger.managed.iter().cloned().map(ledger::Managed::into_file);
        files.filter(|file| file.is_secret).collect()
    }

    /// Forgets the desired state in force, with the content of its files, but neither which files were put there nor how
    /// new it was and for which profile. Nothing is looked after until a desired state is put in place again.
    ///
    /// # Errors
    /// [`ApplyError`]: the agent's own disk failed.
    pub fn forget_content(&mut self) -> Result<(), ApplyError> {
        let profile = self.profile().map(str::to_owned);
        self.save(Ledger { applied: None, failed: None, profile, ..self.ledger.clone() })
    }

    fn save(&mut self, ledger: Ledger) -> Result<(), ApplyError> {
        ledger::write(&self.disk, &self.state, LEDGER, &ledger)?;
        self.ledger = ledger;
        Ok(())
    }
}

/// What applying the present desired state would change. Changes nothing, and needs no lock.
///
/// # Errors
/// [`ApplyError::Disk`] and [`ApplyError::Sheet`].
pub fn plan(state_dir: &Path, root: &Path, declared: &[String]) -> Result<Plan, ApplyError> {
    let (state, tree) = open(state_dir, root, declared)?;
    let ledger: Ledger = ledger::read(&state, LEDGER)?.unwrap_or_default();
    let is_unfinished = ledger::read::<Undo>(&state, UNDO)?.is_some();
    let in_force = ledger.applied.as_ref().map(|desired| desired.head.generation);
    let wanted = ledger.failed.map(|failed| failed.desired).or(ledger.applied);
    let compare = |desired: &Desired| Comparison::of(&tree, desired, &ledger.managed).diffs;
    let diffs = wanted.as_ref().map(compare).unwrap_or_default();
    Ok(Plan {
        generation: wanted.as_ref().map(|desired| desired.head.generation),
        in_force,
        profile: wanted.map(|desired| desired.baseline.profile),
        steps: diffs.into_iter().map(planned).collect(),
        is_unfinished,
    })
}

/// What baselines put on this device, as the appliers remember it. Changes nothing, and needs no lock.
///
/// # Errors
/// [`ApplyError::Disk`] and [`ApplyError::Sheet`].
pub fn managed(state_dir: &Path) -> Result<Vec<ManagedFile>, ApplyError> {
    let state =
        Dir::open(state_dir).map_err(|source| ApplyError::Disk { what: "the state directory", source })?;
    let ledger: Ledger = ledger::read(&state, LEDGER)?.unwrap_or_default();
    Ok(ledger.managed.into_iter().map(ledger::Managed::into_file).collect())
}

/// Where in the state directory what the applier knew lies once it was [`put_aside`], for whoever destroys it.
pub const ASIDE: [&str; 2] = [ledger::ASIDE, UNDO];

/// Lets the applier forget everything that baselines put on this device, durably; how new the newest desired state was
/// stays known, so that none older ever comes back. What it knew lies at [`ASIDE`] then; what lies there already is lost.
/// Engines made before know nothing of it.
///
/// # Errors
/// [`ApplyError::Disk`] and [`ApplyError::Sheet`].
pub fn put_aside(state_dir: &Path) -> Result<(), ApplyError> {
    let state =
        Dir::open(state_dir).map_err(|source| ApplyError::Disk { what: "the state directory", source })?;
    let known: Ledger = ledger::read(&state, LEDGER)?.unwrap_or_default();
    let left = Ledger { highest: known.highest, ..Ledger::default() };
    if known == left {
        return Ok(());
    }
    let disk = Disk::system();
    ledger::write(&disk, &state, ledger::ASIDE, &left)?;
    let exchanged = disk.exchange(&state, ledger::ASIDE, LEDGER);
    exchanged.map_err(|source| ApplyError::Disk { what: LEDGER, source })
}

fn planned(diff: Diff) -> PlannedStep {
    // What is only audited is not going to be done, so nothing stands in its way.
    let problem = diff.change.err().filter(|_| diff.mode == Mode::Enforce);
    PlannedStep {
        section: diff.section,
        item: diff.item,
        action: diff.action,
        mode: diff.mode,
        problem: problem.map(|trouble| trouble.sentence()),
    }
}

fn open(state_dir: &Path, root: &Path, declared: &[String]) -> Result<(Dir, Tree), ApplyError> {
    let at = |what| move |source| ApplyError::Disk { what, source };
    let state = Dir::open(state_dir).map_err(at("the state directory"))?;
    Ok((state, Tree::new(root, state_dir, declared).map_err(at("the managed tree"))?))
}

fn drift_of(diff: &Diff) -> Drift {
    Drift { section: diff.section, item: diff.item.clone() }
}

/// An error and its cause in one line.
fn sentence(error: &ApplyError) -> String {
    let cause = std::error::Error::source(error).map(|source| format!(": {source}"));
    format!("{error}{}", cause.unwrap_or_default())
}
