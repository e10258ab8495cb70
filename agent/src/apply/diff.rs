//! Desired against found: what differs, and what would change it. Reads, and changes nothing.

use muster_wire::desired::{Content, FileEntry, Mode, SectionKind, Setting};
use serde::Serialize;

use super::accounts::Accounts;
use super::disk::{Found, Plain};
use super::ledger::{Desired, Managed};
use super::tree::{Reach, Tree, folded};
use super::trouble::Trouble;
use crate::core::baseline::SYSCTL_DROP_IN;

/// What would be done about a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A file would be made.
    Create,
    /// A file would be replaced.
    Replace,
    /// A file that this agent made, and nobody changed since, would be taken away.
    Remove,
    /// A kernel setting would be changed.
    Set,
}

/// A difference.
#[derive(Debug)]
pub(super) struct Diff {
    pub(super) section: SectionKind,
    pub(super) mode: Mode,
    pub(super) item: String,
    pub(super) action: Action,
    /// What would remove it, or why nothing can.
    pub(super) change: Result<Change, Trouble>,
}

/// One step to the desired state, with what it takes to go back.
#[derive(Debug)]
pub(super) enum Change {
    Place { path: String, file: Plain, before: Option<Plain>, missing: Vec<String> },
    Remove { path: String, before: Plain },
    Kernel { key: String, value: String, before: String },
}

/// The difference between a tree and a desired state.
#[derive(Debug)]
pub(super) struct Comparison {
    pub(super) diffs: Vec<Diff>,
    /// What will have been written here once the differences are gone.
    pub(super) managed: Vec<Managed>,
}

impl Comparison {
    pub(super) fn of(tree: &Tree, desired: &Desired, managed: &[Managed]) -> Self {
        let reach = Reach::of(desired.is_wide);
        let mut view = View {
            tree,
            accounts: Accounts::of(tree.root()),
            reach,
            former: managed,
            diffs: vec![],
            managed: vec![],
        };
        for section in &desired.baseline.sections {
            match &section.content {
                Content::Files(files) => files.iter().for_each(|file| view.file(section.mode, file)),
                Content::Sysctl(settings) => view.kernel(section.mode, settings),
                // Admission refuses a baseline that has any of these.
                Content::SystemdUnits(_)
                | Content::Ssh(_)
                | Content::Time(_)
                | Content::Packages(_)
                | Content::Agent(_) => {}
            }
        }
        view.unnamed();
        Self { diffs: view.diffs, managed: view.managed }
    }
}

struct View<'a> {
    tree: &'a Tree,
    accounts: Accounts,
    reach: Reach,
    former: &'a [Managed],
    diffs: Vec<Diff>,
    managed: Vec<Managed>,
}

impl View<'_> {
    fn file(&mut self, mode: Mode, entry: &FileEntry) {
        let owners =
            self.accounts.uid(&entry.owner).and_then(|uid| Ok((uid, self.accounts.gid(&entry.group)?)));
        match owners {
            Ok((uid, gid)) => {
                let file = Plain { content: entry.content.clone(), mode: entry.mode, uid, gid };
                self.plain(SectionKind::Files, mode, &entry.path, file);
            }
            Err(trouble) => {
                self.differs(SectionKind::Files, mode, &entry.path, Action::Replace, Err(trouble))
            }
        }
    }

    fn plain(&mut self, section: SectionKind, mode: Mode, path: &str, file: Plain) {
        let former = self.former.iter().find(|managed| managed.path == path);
        let found = self.tree.find(path, self.reach);
        if mode == Mode::Enforce {
            let is_ours = former.map_or(matches!(found, Ok(Found::Absent)), |former| former.is_ours);
            self.managed.push(Managed::of(path, &file, is_ours));
        } else if let Some(former) = former {
            self.managed.push(former.clone());
        }
        let (action, before) = match found {
            Ok(Found::Plain(found)) if found == file => return,
            Ok(Found::Plain(found)) => (Action::Replace, Ok(Some(found))),
            Ok(Found::Absent) => (Action::Create, Ok(None)),
            Ok(Found::Large) => (Action::Replace, Err(Trouble::TooLarge)),
            Ok(Found::Foreign) => (Action::Replace, Err(Trouble::NotPlain)),
            Err(trouble) => (Action::Replace, Err(trouble)),
        };
        let change = before.and_then(|before| {
            let missing = self.tree.missing(path, self.reach)?;
            Ok(Change::Place { path: path.to_owned(), file, before, missing })
        });
        self.differs(section, mode, path, action, change);
    }

    fn kernel(&mut self, mode: Mode, settings: &[Setting]) {
        let section = SectionKind::Sysctl;
        let has_kernel = match self.tree.has_kernel() {
            Ok(has_kernel) => has_kernel,
            Err(trouble) => return self.differs(section, mode, "/proc/sys", Action::Set, Err(trouble)),
        };
        if mode == Mode::Enforce && !settings.is_empty() {
            let file = Plain::of_the_agent(drop_in(settings).into_bytes(), 0o644);
            self.plain(section, mode, SYSCTL_DROP_IN, file);
        }
        for setting in settings.iter().filter(|_| has_kernel) {
            self.live(mode, setting);
        }
        if mode == Mode::Audit && !has_kernel {
            self.audit_drop_in(settings);
        }
    }

    fn live(&mut self, mode: Mode, setting: &Setting) {
        let value = folded(&setting.value);
        let change = match self.tree.kernel(&setting.key) {
            Ok(before) if before == value => return,
            Ok(before) => Ok(Change::Kernel { key: setting.key.clone(), value, before }),
            Err(trouble) => Err(trouble),
        };
        self.differs(SectionKind::Sysctl, mode, &setting.key, Action::Set, change);
    }

    /// Where no kernel runs, what the next boot would read is all there is to look at.
    fn audit_drop_in(&mut self, settings: &[Setting]) {
        let text = match self.tree.find(SYSCTL_DROP_IN, self.reach) {
            Ok(Found::Plain(file)) => String::from_utf8_lossy(&file.content).into_owned(),
            Ok(Found::Absent | Found::Large | Found::Foreign) | Err(_) => String::new(),
        };
        for setting in settings {
            let line = line(setting);
            if !text.lines().any(|found| found == line) {
                let change = Err(Trouble::NoSetting);
                self.differs(SectionKind::Sysctl, Mode::Audit, &setting.key, Action::Set, change);
            }
        }
    }

    /// A file that no section names any more is taken away only if this agent made it and nobody changed it since.
    /// One that stood there before is left with the content it has now: what it had then may be long out of date.
    fn unnamed(&mut self) {
        for former in self.former {
            let is_named = self.managed.iter().any(|managed| managed.path == former.path);
            if is_named || !former.is_ours {
                continue;
            }
            // The reach that allowed it once may have narrowed; then it is left, too.
            if let Ok(Found::Plain(found)) = self.tree.find(&former.path, self.reach)
                && former.is_left(&found)
            {
                let is_drop_in = former.path == SYSCTL_DROP_IN;
                let section = if is_drop_in { SectionKind::Sysctl } else { SectionKind::Files };
                let change = Change::Remove { path: former.path.clone(), before: found };
                self.differs(section, Mode::Enforce, &former.path, Action::Remove, Ok(change));
            }
        }
    }

    fn differs(
        &mut self,
        section: SectionKind,
        mode: Mode,
        item: &str,
        action: Action,
        change: Result<Change, Trouble>,
    ) {
        self.diffs.push(Diff { section, mode, item: item.to_owned(), action, change });
    }
}

/// The file that sets the settings at the next boot (sysctl.d(5)).
fn drop_in(settings: &[Setting]) -> String {
    let lines = settings.iter().map(|setting| line(setting) + "\n");
    format!("# Written by muster-agent. Changes made here are undone.\n{}", lines.collect::<String>())
}

fn line(setting: &Setting) -> String {
    format!("{} = {}", setting.key, folded(&setting.value))
}
