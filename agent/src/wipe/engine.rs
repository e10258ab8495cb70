//! The phases: each may be asked for again after a kill, and finds done what is done.
//!
//! The plan is kept in `<state>/wipe/plan`, the evidence beside it, until the next wipe or the end of the device's life.
//! A phase that could not be done whole does not keep the next from being done: a stolen device shall lose what it can.
//! It is the phase that failed, and everything that was done is in its report.

use std::io;
use std::path::{Path, PathBuf};

use muster_wire::digest::Sha256Digest;
use muster_wire::receipt::{ItemFate, ReceiptItem, ReceiptOutcome, ReceiptPhase};
use rustix::fs::{Mode, OFlags};

use super::destroy::Destroyer;
use super::disk::{Disk, Gate, Step};
use super::evidence::Evidence;
use super::luks::{LuksError, Volume};
use super::plan::{self, Local, Plan, Standing};
use super::walk::{Dir, Ground, Inode, reason, shown};
use super::{Ledger, hook, policy, report};
use crate::core::sheet;
use crate::core::wiping::{HookEnd, ManagedFile, PhaseReport, WipeTask};

/// The directory in the agent's state.
const DIR: &str = "wipe";
const PLAN: &str = "plan";
/// No plan is larger.
const PLAN_CAP: u64 = 32 << 20;
/// What is read of a managed file to see whether it was changed: more was.
const LOOK_CAP: u64 = 1 << 20;
/// What the applier's memory is called in receipts.
const MEMORY: &str = "the baseline that the agent remembers";

/// The wipe could not even be recorded, so nothing more was done: the next start goes on from there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WipeError {
    /// The managed tree cannot be opened.
    #[error("the managed tree cannot be opened")]
    Root(#[source] io::Error),
    /// The agent's own directory cannot be used.
    #[error("what was wiped cannot be recorded")]
    State(#[source] io::Error),
}

/// Wipes one device.
#[derive(Debug)]
pub struct Engine {
    state_dir: PathBuf,
    root: PathBuf,
    declared: Vec<String>,
    disk: Disk,
}

/// Everything that a phase works with.
struct Work<'a> {
    ground: Ground<'a>,
    home: Dir,
    own: Inode,
}

impl Engine {
    /// An engine for the tree at `root` with the roots `declared`, which keeps its records in `state_dir`.
    pub fn new(state_dir: &Path, root: &Path, declared: &[String]) -> Self {
        let (state_dir, root, declared) = (state_dir.to_owned(), root.to_owned(), declared.to_vec());
        Self { state_dir, root, declared, disk: Disk::default() }
    }

    /// The same, asking `gate` before each step: how a test counts, fails and kills.
    #[must_use]
    pub fn gated(self, gate: Gate) -> Self {
        Self { disk: Disk { gate: Some(gate) }, ..self }
    }

    /// Does `phase` of `task`, or what is left of it.
    ///
    /// # Errors
    /// [`WipeError`]: whoever asks again later goes on from there.
    pub fn phase(
        &self,
        task: &WipeTask,
        phase: ReceiptPhase,
        ledger: &dyn Ledger,
    ) -> Result<PhaseReport, WipeError> {
        let work = self.work()?;
        if phase <= ReceiptPhase::Armed {
            return self.accept(&work, task, ledger);
        }
        let Some(plan) = read_plan(&work.home, task).map_err(WipeError::State)? else {
            let why = "the plan of this wipe is gone".to_owned();
            return Ok(PhaseReport::ended(phase, ReceiptOutcome::Failed, why));
        };
        let mut evidence = Evidence::open(&self.disk, &work.home).map_err(WipeError::State)?;
        self.perform(&work, &plan, phase, &mut evidence, ledger).map_err(WipeError::State)?;
        self.report(&work, &plan, phase, &evidence).map_err(WipeError::State)
    }

    /// What `task` would do, without doing it.
    pub(super) fn draft(
        &self,
        ground: &Ground<'_>,
        task: &WipeTask,
        managed: &[ManagedFile],
    ) -> Result<Plan, String> {
        let local = self.local(ground, task)?;
        let standing = |path: &str| standing(ground, path);
        // What cannot be looked at is there until the wipe has failed to look at it.
        let has_root = |root: &str| !matches!(ground.directory(root), Ok(None));
        let plan = plan::plan(task, &self.declared, managed, &local, &standing, &has_root);
        plan.map_err(|refused| refused.to_string())
    }

    pub(super) fn ground(&self) -> Result<Ground<'_>, WipeError> {
        let root = self.root.canonicalize().and_then(|root| Dir::open(&root)).map_err(WipeError::Root)?;
        Ok(Ground { root, declared: &self.declared })
    }

    pub(super) fn own(&self) -> io::Result<Inode> {
        Ok(Dir::open(&self.state_dir.canonicalize()?)?.seen()?.inode)
    }

    fn work(&self) -> Result<Work<'_>, WipeError> {
        let ground = self.ground()?;
        let home = self.home().map_err(WipeError::State)?;
        Ok(Work { ground, home, own: self.own().map_err(WipeError::State)? })
    }

    fn home(&self) -> io::Result<Dir> {
        let state = Dir::open(&self.state_dir)?;
        match rustix::fs::mkdirat(&state, DIR, Mode::from_raw_mode(0o700)) {
            Err(rustix::io::Errno::EXIST) => {}
            made => made?,
        }
        rustix::fs::fsync(&state)?;
        state.child(DIR.as_ref(), super::walk::Mounts::Refused)
    }

    fn accept(
        &self,
        work: &Work<'_>,
        task: &WipeTask,
        ledger: &dyn Ledger,
    ) -> Result<PhaseReport, WipeError> {
        let phase = ReceiptPhase::Accepted;
        let managed = match ledger.managed() {
            Ok(managed) => managed,
            Err(why) => {
                let why = format!("what baselines put on this device is not known: {why}");
                return Ok(PhaseReport::ended(phase, ReceiptOutcome::Failed, why));
            }
        };
        let plan = match self.draft(&work.ground, task, &managed) {
            Ok(plan) => plan,
            Err(why) => return Ok(PhaseReport::ended(phase, ReceiptOutcome::Refused, why)),
        };
        self.keep(work, &plan).map_err(WipeError::State)
    }

    fn keep(&self, work: &Work<'_>, plan: &Plan) -> io::Result<PhaseReport> {
        let bytes = sheet::write(plan).map_err(io::Error::other)?;
        let evidence = Evidence::begin(&self.disk, &work.home, Sha256Digest::of(&bytes))?;
        self.disk.place(&work.home, PLAN, &bytes)?;
        let evidence = evidence.digest(&work.home)?;
        let phase = ReceiptPhase::Accepted;
        Ok(PhaseReport { phase, outcome: ReceiptOutcome::Done, items: Vec::new(), evidence })
    }

    fn local(&self, ground: &Ground<'_>, task: &WipeTask) -> Result<Local, String> {
        let refused = |error: policy::PolicyError| format!("refused: {error}");
        let volumes = policy::volumes(ground).map_err(refused)?;
        let mut local =
            Local { refused_from: policy::refused_from(ground).map_err(refused)?, ..Local::default() };
        if task.level >= muster_wire::warrant::Level::CryptoErase {
            for volume in &volumes {
                let slots = Volume::open(ground, volume).and_then(|volume| volume.slots());
                slots.map_err(|error| format!("refused: volume {volume}: {error}"))?;
            }
        }
        local.volumes = volumes;
        local.hook_flaw = hook::flaw(ground, "factory-reset");
        Ok(local)
    }

    fn perform(
        &self,
        work: &Work<'_>,
        plan: &Plan,
        phase: ReceiptPhase,
        evidence: &mut Evidence<'_>,
        ledger: &dyn Ledger,
    ) -> io::Result<()> {
        let at = |phase| Destroyer { ground: &work.ground, disk: &self.disk, phase, own: work.own };
        if phase == ReceiptPhase::Verified {
            return self.verify(&at(phase), plan, evidence);
        }
        let keys = at(ReceiptPhase::KeysDestroyed);
        if phase == ReceiptPhase::KeysDestroyed {
            for file in plan.files.iter().filter(|file| file.is_secret) {
                keys.file(evidence, &file.path)?;
            }
            for volume in &plan.volumes {
                self.volume(&keys, volume, evidence)?;
            }
            self.forget(&keys, evidence, ledger)?;
            keys.settle(evidence)?;
            if !evidence.has_failed() {
                return Ok(());
            }
        }
        let data = at(ReceiptPhase::DataDestroyed);
        for file in plan.files.iter().filter(|file| !file.is_secret) {
            data.file(evidence, &file.path)?;
        }
        for root in &plan.data_roots {
            data.data_root(evidence, root)?;
        }
        data.settle(evidence)?;
        if plan.has_hook && !evidence.has_failed() { self.factory_reset(&data, evidence) } else { Ok(()) }
    }

    fn volume(&self, keys: &Destroyer<'_>, path: &str, evidence: &mut Evidence<'_>) -> io::Result<()> {
        let what = format!("key slots of {}", shown(path.as_bytes()));
        if evidence.is_settled(&what) {
            return Ok(());
        }
        let volume = match Volume::open(keys.ground, path) {
            Ok(volume) => volume,
            Err(error) => return keys.failed(evidence, &what, &error.to_string()),
        };
        let had = evidence.began(&what).is_some();
        evidence.begins(&what, volume.size_bytes)?;
        evidence.sync()?;
        let erased = volume.slots().and_then(|slots| match slots {
            0 if !had => Ok(ItemFate::Kept),
            _ => self
                .disk
                .step(Step::Program)
                .map_err(LuksError::Run)
                .and_then(|()| volume.erase())
                .map(|()| ItemFate::KeyDestroyed),
        });
        match erased {
            Ok(ItemFate::Kept) => keys.kept(evidence, &what, "it had none"),
            Ok(fate) => keys.note(evidence, &what, fate, volume.size_bytes),
            Err(error) => keys.failed(evidence, &what, &error.to_string()),
        }
    }

    fn forget(
        &self,
        keys: &Destroyer<'_>,
        evidence: &mut Evidence<'_>,
        ledger: &dyn Ledger,
    ) -> io::Result<()> {
        if evidence.is_settled(MEMORY) {
            return Ok(());
        }
        // Begun before, it may have been forgotten before a kill: nobody knows how by now.
        let fate_of_nothing =
            if evidence.began(MEMORY).is_some() { ItemFate::Deleted } else { ItemFate::Kept };
        evidence.begins(MEMORY, 0)?;
        evidence.sync()?;
        let forgotten = self.disk.step(Step::Forget).map_err(|error| error.to_string());
        match forgotten.and_then(|()| ledger.forget()) {
            Ok(ItemFate::Kept) if fate_of_nothing == ItemFate::Kept => {
                keys.kept(evidence, MEMORY, "there was none")
            }
            Ok(ItemFate::Kept) => keys.note(evidence, MEMORY, fate_of_nothing, 0),
            Ok(fate) => keys.note(evidence, MEMORY, fate, 0),
            Err(why) => keys.failed(evidence, MEMORY, &why),
        }
    }

    fn factory_reset(&self, data: &Destroyer<'_>, evidence: &mut Evidence<'_>) -> io::Result<()> {
        let what = "the factory-reset hook";
        if evidence.is_settled(what) {
            return Ok(());
        }
        self.disk.step(Step::Program)?;
        match hook::run_named(&self.root, "factory-reset") {
            // What it did is the platform's to say.
            HookEnd::Ran => data.note(evidence, what, ItemFate::Deleted, 0)?,
            HookEnd::Refused(why) | HookEnd::Failed(why) => data.failed(evidence, what, &why)?,
        }
        evidence.sync()
    }

    /// Looks at everything once more.
    fn verify(&self, look: &Destroyer<'_>, plan: &Plan, evidence: &mut Evidence<'_>) -> io::Result<()> {
        for file in &plan.files {
            let what = shown(file.path.as_bytes());
            match standing(look.ground, &file.path) {
                Standing::Absent => {}
                Standing::Plain(_) | Standing::Foreign => {
                    look.failed(evidence, &what, "it is there again")?
                }
            }
        }
        for root in &plan.data_roots {
            let what = shown(root.as_bytes());
            let left = look.ground.directory(root).and_then(|dir| match dir {
                Some(dir) => look.first_left(&dir, root.as_bytes(), 0),
                None => Ok(Some(what.clone())),
            });
            match left {
                Ok(None) => {}
                Ok(Some(left)) => look.failed(evidence, &left, "it is there again, or the root is gone")?,
                Err(error) => look.failed(evidence, &what, &reason(&error))?,
            }
        }
        for path in &plan.volumes {
            let what = format!("key slots of {}", shown(path.as_bytes()));
            match Volume::open(look.ground, path).and_then(|volume| volume.slots()) {
                Ok(0) => {}
                Ok(left) => look.failed(evidence, &what, &LuksError::Left(left).to_string())?,
                Err(error) => look.failed(evidence, &what, &error.to_string())?,
            }
        }
        for kept in &plan.kept {
            look.note(evidence, kept, ItemFate::Kept, 0)?;
        }
        evidence.sync()
    }

    fn report(
        &self,
        work: &Work<'_>,
        plan: &Plan,
        phase: ReceiptPhase,
        evidence: &Evidence<'_>,
    ) -> io::Result<PhaseReport> {
        let failed = evidence.has_failed();
        let of = if failed || phase == ReceiptPhase::Verified { None } else { Some(phase) };
        let mut items: Vec<ReceiptItem> = evidence.items(of);
        if failed {
            let kept = plan.kept.iter().filter(|what| evidence.fate(what).is_none());
            let kept =
                kept.map(|what| ReceiptItem { what: what.clone(), fate: ItemFate::Kept, size_bytes: 0 });
            items.extend(kept.collect::<Vec<_>>());
        }
        let outcome = if failed { ReceiptOutcome::Failed } else { ReceiptOutcome::Done };
        let evidence = evidence.digest(&work.home)?;
        Ok(PhaseReport { phase, outcome, items: report::fitted(items), evidence })
    }
}

fn read_plan(home: &Dir, task: &WipeTask) -> io::Result<Option<Plan>> {
    let file = match home.file(PLAN.as_ref(), OFlags::RDONLY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => std::fs::File::from(opened?),
    };
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, PLAN_CAP), &mut bytes)?;
    let plan: Option<Plan> = sheet::read(&bytes).ok();
    Ok(plan.filter(|plan| plan.order == task.order.to_string() && plan.level == task.level))
}

fn standing(ground: &Ground<'_>, path: &str) -> Standing {
    let read = || -> io::Result<Standing> {
        let Some((dir, name)) = ground.spot(path)? else { return Ok(Standing::Absent) };
        let Some(seen) = dir.look(name)? else { return Ok(Standing::Absent) };
        if seen.kind != rustix::fs::FileType::RegularFile {
            return Ok(Standing::Foreign);
        }
        let file = std::fs::File::from(dir.file(name, OFlags::RDONLY)?);
        let mut content = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(file, LOOK_CAP + 1), &mut content)?;
        Ok(Standing::Plain(Sha256Digest::of(&content)))
    };
    read().unwrap_or(Standing::Foreign)
}
