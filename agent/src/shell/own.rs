//! Whose a state directory is: ours alone, or nobody's to write in.
//!
//! Whoever may write in the directory may lay a link there that leads somewhere else; an agent run as root would
//! then write wherever they like. So the directory and `identity/` in it belong to the effective user and nobody
//! else may write in them. That others can *read* is for `doctor` to say.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use crate::core::checkup::{self, Fault};

/// Somebody else could have laid a trap in the state directory.
#[derive(Debug, thiserror::Error)]
#[error("{} {fault}, so nothing is written there", path.display())]
pub struct NotOurs {
    /// The directory.
    pub path: PathBuf,
    /// What is wrong with it.
    pub fault: Fault,
}

impl NotOurs {
    /// What the person at the device should do.
    pub fn remedy(&self) -> String {
        format!("find out what was laid there, then {}", self.fault.remedy(&self.path.display().to_string()))
    }
}

/// What is wrong with `found` as a directory or file of the effective user's.
pub fn fault(found: &Metadata) -> Option<Fault> {
    checkup::fault(found.is_symlink(), (found.uid(), geteuid().as_raw()), found.mode())
}

/// Refuses a state directory in which somebody else may write. What does not exist is nobody's yet.
///
/// # Errors
/// [`NotOurs`] naming the first directory that is not ours alone to write in.
pub fn demand(state_dir: &Path) -> Result<(), NotOurs> {
    // The state directory may be a link of ours to another disk; whose link it is decides where it leads.
    let link = fs::symlink_metadata(state_dir).ok().filter(Metadata::is_symlink);
    let me = geteuid().as_raw();
    let foreign_link = link.filter(|link| link.uid() != me && link.uid() != 0);
    if let Some(link) = foreign_link {
        return Err(NotOurs {
            path: state_dir.to_owned(),
            fault: Fault::Owner { owner: link.uid(), us: me },
        });
    }
    let identity = state_dir.join("identity");
    for (path, found) in [(state_dir, fs::metadata(state_dir)), (&identity, fs::symlink_metadata(&identity))]
    {
        let Ok(found) = found else { continue };
        if let Some(fault) = fault(&found).filter(Fault::lets_others_write) {
            return Err(NotOurs { path: path.to_owned(), fault });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn state() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        dir
    }

    #[test]
    fn a_directory_of_ours_will_do_and_so_will_one_that_does_not_exist() {
        let dir = state();
        demand(dir.path()).unwrap();
        demand(&dir.path().join("none")).unwrap();
    }

    #[test]
    fn a_directory_that_others_may_write_in_is_refused() {
        for mode in [0o720, 0o702, 0o1777] {
            let dir = state();
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
            let refused = demand(dir.path()).unwrap_err();
            assert!(matches!(refused.fault, Fault::Mode { .. }), "{mode:o}");
        }
    }

    #[test]
    fn an_identity_that_is_a_link_is_refused() {
        let (dir, other) = (state(), state());
        symlink(other.path(), dir.path().join("identity")).unwrap();
        assert_eq!(demand(dir.path()).unwrap_err().fault, Fault::Link);
    }

    #[test]
    fn a_directory_of_somebody_else_is_refused() {
        let dir = state();
        if geteuid().is_root() {
            std::os::unix::fs::chown(dir.path(), Some(65_534), None).unwrap();
            assert!(matches!(demand(dir.path()).unwrap_err().fault, Fault::Owner { owner: 65_534, .. }));
        } else {
            assert!(matches!(demand(Path::new("/")).unwrap_err().fault, Fault::Owner { owner: 0, .. }));
        }
    }
}
