//! What a wipe is going to do: decided from texts alone, before anything is touched.
//!
//! | level | adds |
//! | --- | --- |
//! | `retire` | what baselines put on the device, and the agent's memory of it |
//! | `clear` | everything beneath the order's data roots |
//! | `crypto-erase` | the key slots of the LUKS2 volumes that the device names |
//! | `factory-reset` | the device's own hook |
//!
//! A level of which a part cannot even be begun is refused whole: nothing is destroyed on the way to a refusal.

use muster_wire::digest::Sha256Digest;
use muster_wire::warrant::Level;
use serde::{Deserialize, Serialize};

use crate::core::baseline::{self, SYSCTL_DROP_IN, declared_root};
use crate::core::wiping::{ManagedFile, WipeTask};

/// A plan, as it is kept until the end of the wipe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) order: String,
    pub(super) level: Level,
    /// Files that baselines put there, secrets first.
    pub(super) files: Vec<PlannedFile>,
    /// What stays, and why.
    pub(super) kept: Vec<String>,
    /// Directories whose content goes.
    pub(super) data_roots: Vec<String>,
    /// LUKS2 containers whose key slots go.
    pub(super) volumes: Vec<String>,
    /// Whether the device's own hook ends it.
    pub(super) has_hook: bool,
}

/// A file that goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PlannedFile {
    pub(super) path: String,
    pub(super) is_secret: bool,
}

/// What stands at the path of a managed file now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// A file with this content.
    Plain(Sha256Digest),
    /// Nothing.
    Absent,
    /// A link, a directory, or whatever cannot be read.
    Foreign,
}

/// What the device says of itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Local {
    /// The level at and above which its policy refuses.
    pub(super) refused_from: Option<Level>,
    /// The volumes that it names.
    pub(super) volumes: Vec<String>,
    /// Why its `factory-reset` hook cannot be run, unless it can.
    pub(super) hook_flaw: Option<String>,
}

/// Why nothing is wiped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("refused: this device's wipe-policy refuses {0}")]
    Policy(Level),
    #[error("refused: data root {0:?} is not beneath a declared root of this device")]
    Beyond(String),
    #[error("refused: no LUKS volume is named in etc/muster/wipe-volumes on this device")]
    NoVolume,
    #[error("refused: {0}")]
    Hook(String),
}

/// Plans `task` on a device that declared the roots `declared`; `standing` tells what is at a path now, `has_root` whether
/// there is anything at a data root.
///
/// # Errors
/// [`Refused`]: nothing of it is to be done.
pub(super) fn plan(
    task: &WipeTask,
    declared: &[String],
    managed: &[ManagedFile],
    local: &Local,
    standing: &dyn Fn(&str) -> Standing,
    has_root: &dyn Fn(&str) -> bool,
) -> Result<Plan, Refused> {
    if local.refused_from.is_some_and(|refused| task.level >= refused) {
        return Err(Refused::Policy(task.level));
    }
    let mut plan = Plan {
        order: task.order.to_string(),
        level: task.level,
        files: Vec::new(),
        kept: Vec::new(),
        data_roots: Vec::new(),
        volumes: Vec::new(),
        has_hook: false,
    };
    managed.iter().for_each(|file| plan.judge(file, declared, standing));
    plan.files.sort_by_key(|file| !file.is_secret);
    if task.level >= Level::Clear {
        let (there, absent) = roots(&task.data_roots, declared)?.into_iter().partition(|root| has_root(root));
        plan.data_roots = there;
        let absent: Vec<String> = absent;
        plan.kept.extend(absent.iter().map(|root| format!("{root} (was not there)")));
    }
    if task.level >= Level::CryptoErase {
        if local.volumes.is_empty() {
            return Err(Refused::NoVolume);
        }
        plan.volumes.clone_from(&local.volumes);
    }
    if task.level >= Level::FactoryReset {
        if let Some(flaw) = &local.hook_flaw {
            return Err(Refused::Hook(flaw.clone()));
        }
        plan.has_hook = true;
    }
    Ok(plan)
}

impl Plan {
    /// What a baseline put there goes; what somebody else made of it since stays, as does what never was ours to reach.
    fn judge(&mut self, file: &ManagedFile, declared: &[String], standing: &dyn Fn(&str) -> Standing) {
        let path = &file.path;
        let is_reached = declared_root(path, declared).is_some() || path == SYSCTL_DROP_IN;
        if !is_reached {
            return self.kept.push(format!("{path} (outside the declared roots)"));
        }
        match standing(path) {
            Standing::Absent => self.kept.push(format!("{path} (was not there)")),
            Standing::Plain(found) if !file.is_ours && found != file.sha256 => {
                self.kept.push(format!("{path} (was there before, and was changed since)"));
            }
            Standing::Plain(_) | Standing::Foreign => {
                self.files.push(PlannedFile { path: path.clone(), is_secret: file.is_secret });
            }
        }
    }
}

/// The data roots, each once, none inside another.
fn roots(asked: &[String], declared: &[String]) -> Result<Vec<String>, Refused> {
    let mut roots: Vec<String> = Vec::new();
    for root in asked {
        let trimmed = root.trim_end_matches('/');
        let is_declared = declared.iter().any(|declared| declared.trim_end_matches('/') == trimmed);
        let is_sound = baseline::is_sound_path(trimmed);
        if !is_sound || !(is_declared || declared_root(trimmed, declared).is_some()) {
            return Err(Refused::Beyond(root.clone()));
        }
        roots.push(trimmed.to_owned());
    }
    roots.sort_unstable();
    roots.dedup();
    let all = roots.clone();
    roots.retain(|root| declared_root(root, &all).is_none());
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use muster_wire::id::OrderId;

    use super::*;

    fn task(level: Level, data_roots: &[&str]) -> WipeTask {
        let data_roots = data_roots.iter().map(|root| (*root).to_owned()).collect();
        WipeTask { order: OrderId::from_parts(1, [1; 10]), level, data_roots }
    }

    fn declared() -> Vec<String> {
        vec!["/srv".to_owned()]
    }

    fn managed(path: &str, is_ours: bool, is_secret: bool) -> ManagedFile {
        ManagedFile { path: path.into(), sha256: Sha256Digest::of(b"ours"), is_ours, is_secret }
    }

    fn planned(task: &WipeTask, managed: &[ManagedFile], local: &Local) -> Result<Plan, Refused> {
        plan(task, &declared(), managed, local, &|_| Standing::Plain(Sha256Digest::of(b"ours")), &|_| true)
    }

    #[test]
    fn retire_takes_what_baselines_put_there_secrets_first_and_no_data() {
        let files = [managed("/srv/a", true, false), managed("/srv/key", true, true)];
        let plan = planned(&task(Level::Retire, &["/srv/data"]), &files, &Local::default()).unwrap();
        let paths: Vec<&str> = plan.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["/srv/key", "/srv/a"]);
        assert!(plan.data_roots.is_empty() && plan.volumes.is_empty() && !plan.has_hook);
    }

    #[test]
    fn what_somebody_changed_and_what_lies_elsewhere_stays_and_is_named() {
        let files = [managed("/srv/theirs", false, false), managed("/etc/x", true, false)];
        let standing = |_: &str| Standing::Plain(Sha256Digest::of(b"changed"));
        let plan =
            plan(&task(Level::Retire, &[]), &declared(), &files, &Local::default(), &standing, &|_| true);
        let plan = plan.unwrap();
        assert!(plan.files.is_empty());
        assert_eq!(
            plan.kept,
            ["/srv/theirs (was there before, and was changed since)", "/etc/x (outside the declared roots)"]
        );
    }

    #[test]
    fn a_data_root_outside_the_declared_ones_refuses_the_whole() {
        for root in ["/home", "/", "", "/srv/../home", "srv", "/srv/a\nb", "/srvx"] {
            let refused = planned(&task(Level::Clear, &["/srv/good", root]), &[], &Local::default());
            assert_eq!(refused, Err(Refused::Beyond(root.to_owned())), "{root}");
        }
        let plan = planned(&task(Level::Clear, &["/srv/a/b", "/srv/a/", "/srv/a"]), &[], &Local::default());
        assert_eq!(plan.unwrap().data_roots, ["/srv/a"]);
        assert_eq!(
            planned(&task(Level::Clear, &["/srv"]), &[], &Local::default()).unwrap().data_roots,
            ["/srv"]
        );
    }

    #[test]
    fn a_data_root_that_is_not_there_is_named_and_hinders_nothing() {
        let task = task(Level::Clear, &["/srv/a", "/srv/none"]);
        let has_root = |root: &str| root == "/srv/a";
        let plan =
            plan(&task, &declared(), &[], &Local::default(), &|_| Standing::Absent, &has_root).unwrap();
        assert_eq!(
            (plan.data_roots, plan.kept),
            (vec!["/srv/a".into()], vec!["/srv/none (was not there)".into()])
        );
    }

    #[test]
    fn the_policy_refuses_its_level_and_every_one_above() {
        let local = Local { refused_from: Some(Level::Clear), ..Local::default() };
        assert!(planned(&task(Level::Retire, &[]), &[], &local).is_ok());
        for level in [Level::Clear, Level::CryptoErase, Level::FactoryReset] {
            assert_eq!(planned(&task(level, &[]), &[], &local), Err(Refused::Policy(level)));
        }
    }

    #[test]
    fn a_level_that_cannot_be_begun_is_refused_whole() {
        let none = Local::default();
        assert_eq!(planned(&task(Level::CryptoErase, &[]), &[], &none), Err(Refused::NoVolume));
        let local = Local {
            volumes: vec!["/srv/v".into()],
            hook_flaw: Some("no factory-reset hook on this device".into()),
            ..none
        };
        assert!(planned(&task(Level::CryptoErase, &[]), &[], &local).is_ok());
        let refused = planned(&task(Level::FactoryReset, &[]), &[], &local).unwrap_err();
        assert_eq!(refused.to_string(), "refused: no factory-reset hook on this device");
    }
}
