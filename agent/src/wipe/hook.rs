//! The device's own programs: run as they are, without arguments, by whoever the agent runs as.

use std::path::Path;

use super::policy;
use super::program;
use super::walk::{Dir, Ground};
use crate::core::wiping::{Hook, HookEnd};

/// Runs the device's hook beneath `root` and says what came of it.
pub fn run(root: &Path, hook: Hook) -> HookEnd {
    run_named(root, hook.name())
}

/// Why the hook `name` cannot be run, unless it can.
pub(super) fn flaw(ground: &Ground<'_>, name: &str) -> Option<String> {
    match policy::hook(ground, name) {
        Ok(true) => None,
        Ok(false) => Some(format!("no {name} hook on this device")),
        Err(error) => Some(error.to_string()),
    }
}

pub(super) fn run_named(root: &Path, name: &str) -> HookEnd {
    let ground = match Dir::open(root) {
        Ok(dir) => Ground { root: dir, declared: &[] },
        Err(error) => {
            return HookEnd::Refused(format!("refused: the managed tree cannot be opened: {error}"));
        }
    };
    if let Some(flaw) = flaw(&ground, name) {
        return HookEnd::Refused(format!("refused: {flaw}"));
    }
    match program::run(&root.join("etc/muster/hooks").join(name), &[], None) {
        Ok(ended) if ended.status.success() => HookEnd::Ran,
        Ok(ended) => HookEnd::Failed(format!("the {name} hook failed: {}", ended.status)),
        Err(error) => HookEnd::Failed(format!("the {name} hook failed: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_device_without_a_hook_says_so_and_one_with_it_runs_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        let hooks = root.join("etc/muster/hooks");
        fs::create_dir_all(&hooks).unwrap();
        for part in [&root.join("etc"), &root.join("etc/muster"), &hooks] {
            fs::set_permissions(part, fs::Permissions::from_mode(0o755)).unwrap();
        }
        assert_eq!(run(&root, Hook::Lock), HookEnd::Refused("refused: no lock hook on this device".into()));
        let (program, trace) = (hooks.join("lock"), dir.path().join("ran"));
        fs::write(&program, format!("#!/bin/sh\necho locked > {}\n", trace.display())).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(run(&root, Hook::Lock), HookEnd::Ran);
        assert_eq!(fs::read_to_string(&trace).unwrap(), "locked\n");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(run(&root, Hook::Lock), HookEnd::Refused(_)), "anybody could have written it");
        fs::write(hooks.join("unlock"), "#!/bin/sh\nexit 3\n").unwrap();
        fs::set_permissions(hooks.join("unlock"), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(matches!(run(&root, Hook::Unlock), HookEnd::Failed(_)));
    }
}
