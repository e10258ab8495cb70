//! Where things are: the state directory, the files in it, and the tree that the device manages.
//!
//! The root is `/` for the state directory of a real installation and `<state-dir>/root` for any other, unless it
//! is named; it is fixed at enrolment and written into the journal (contract.md, "Commands").

use std::path::{Path, PathBuf};

use muster_wire::digest::Sha256Digest;

use super::cli::Global;
use super::failure::Failure;
use super::files;
use super::journal;
use super::keystore::Keystore;
use crate::core::lease::LeaseSheet;
use crate::core::record::Past;
use crate::core::sheet;
use crate::core::{Held, Refusal, Trust};

/// The state directory of an installed agent.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/muster-agent";

/// No `trust` or `authority` file is larger.
const DOCUMENT_CAP: usize = 1 << 20;
/// How much of the lease was used.
const LEASE: &str = "lease";
/// No such sheet is larger.
const LEASE_CAP: usize = 4096;

/// The state directory and the root, absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where the agent keeps its state.
    pub state_dir: PathBuf,
    /// The tree it manages, as far as the command line says.
    pub root: PathBuf,
    /// Whether `--root` was given.
    root_named: bool,
}

impl Place {
    /// What the command line says.
    ///
    /// # Errors
    /// [`Failure::Path`] for an empty path, or one that is not UTF-8 and could not be journaled.
    pub fn new(global: &Global) -> Result<Self, Failure> {
        let default = PathBuf::from(DEFAULT_STATE_DIR);
        let state_dir = absolute(global.state_dir.as_deref().unwrap_or(&default))?;
        let root = match &global.root {
            Some(root) => absolute(root)?,
            None if state_dir == default => PathBuf::from("/"),
            None => state_dir.join("root"),
        };
        Ok(Self { state_dir, root, root_named: global.root.is_some() })
    }

    /// The journal.
    pub fn journal(&self) -> PathBuf {
        self.state_dir.join("journal")
    }

    /// The trusted authorities.
    pub fn trust(&self) -> PathBuf {
        self.state_dir.join("trust")
    }

    /// The authority documents.
    pub fn authority(&self) -> PathBuf {
        self.state_dir.join("authority")
    }

    /// The sheet of the lease, if there is one. One that was damaged is none: the lease begins anew.
    pub fn lease(&self) -> Option<LeaseSheet> {
        let bytes = files::read(&self.state_dir.join(LEASE), LEASE_CAP).ok()??;
        sheet::read(&bytes).ok()
    }

    /// Makes the sheet of the lease hold this; it is durable on return.
    ///
    /// # Errors
    /// [`Failure::File`].
    pub fn keep_lease(&self, lease: Option<&LeaseSheet>) -> Result<(), Failure> {
        let path = self.state_dir.join(LEASE);
        // A lease is numbers and words, which all have JSON.
        match lease.map(sheet::write).transpose().unwrap_or_default() {
            Some(bytes) => Ok(files::write_atomic(&path, &bytes)?),
            None => Ok(files::remove(&path)?),
        }
    }

    /// The keys.
    pub fn keys(&self) -> Keystore {
        Keystore::new(&self.state_dir)
    }

    /// What the journal adds up to, without touching it.
    ///
    /// # Errors
    /// [`Failure::Journal`].
    pub fn past(&self) -> Result<Past, Failure> {
        Ok(Past::of(&journal::read(&self.journal())?.records))
    }

    /// Whether a certificate lies here that no record speaks of: the journal lost its end, or was lost.
    pub fn is_orphaned(&self, past: &Past) -> bool {
        past.accepted.is_none() && self.keys().held().is_ok_and(|held| held.certificate.is_some())
    }

    /// What the files hold.
    ///
    /// # Errors
    /// [`Failure::Keystore`] and [`Failure::File`].
    pub fn held(&self, past: &Past) -> Result<Held, Failure> {
        let pin = past.accepted.as_ref().map(|accepted| accepted.root_spki);
        let trust = pin.map(|pin| self.read_trust(&pin)).transpose()?.flatten();
        Ok(Held { trust, authority: self.read_authority()?, ..self.keys().held()? })
    }

    /// The `trust` file, when it holds the pinned root.
    ///
    /// # Errors
    /// [`Failure::File`].
    pub fn read_trust(&self, pin: &Sha256Digest) -> Result<Option<Trust>, Failure> {
        let pem = files::read(&self.trust(), DOCUMENT_CAP)?;
        Ok(pem.and_then(|pem| Trust::from_pem(&pem, pin)))
    }

    /// The `authority` file.
    ///
    /// # Errors
    /// [`Failure::File`].
    pub fn read_authority(&self) -> Result<Option<Vec<u8>>, Failure> {
        Ok(files::read(&self.authority(), DOCUMENT_CAP)?)
    }

    /// Refuses a `--root` that is not the one fixed at enrolment.
    ///
    /// # Errors
    /// [`Refusal::RootFixed`].
    pub fn agree_on_root(&self, past: &Past) -> Result<(), Failure> {
        match &past.accepted {
            Some(accepted) if self.root_named && is_bound(past) && accepted.root != self.root => {
                Err(Box::new(Refusal::RootFixed { fixed: accepted.root.display().to_string() }).into())
            }
            _ => Ok(()),
        }
    }

    /// The root to enrol with: an enrolled device keeps the one it has unless another was named.
    pub fn root_for(&self, past: &Past) -> PathBuf {
        match &past.accepted {
            Some(accepted) if !self.root_named && is_bound(past) => accepted.root.clone(),
            _ => self.root.clone(),
        }
    }

    /// Makes the directories that an enrolment needs. The root is only made where it is ours.
    ///
    /// # Errors
    /// [`Failure::File`].
    pub fn prepare(&self) -> Result<(), Failure> {
        files::ensure_dir(&self.state_dir)?;
        if self.root.starts_with(&self.state_dir) {
            files::ensure_dir(&self.root)?;
        }
        Ok(())
    }
}

/// Whether the root is fixed: by a life that has begun and is not over.
fn is_bound(past: &Past) -> bool {
    past.proven.is_some() && past.retired.is_none()
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    let unusable = || Failure::Path { path: path.display().to_string() };
    let made = std::path::absolute(path).map_err(|_| unusable())?;
    // Path comparison ignores a trailing slash; what is journaled should, too.
    let made: PathBuf = made.components().collect();
    made.to_str().is_some().then_some(made.clone()).ok_or_else(unusable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(state_dir: Option<&str>, root: Option<&str>) -> Place {
        let global = Global { state_dir: state_dir.map(Into::into), root: root.map(Into::into), json: false };
        Place::new(&global).unwrap()
    }

    #[test]
    fn an_installed_agent_manages_the_whole_machine() {
        assert_eq!(place(None, None).root, Path::new("/"));
        assert_eq!(place(Some("/var/lib/muster-agent/"), None).root, Path::new("/"));
    }

    #[test]
    fn any_other_state_directory_has_a_tree_of_its_own() {
        assert_eq!(place(Some("/tmp/a"), None).root, Path::new("/tmp/a/root"));
    }

    #[test]
    fn a_named_root_is_taken() {
        assert_eq!(place(Some("/tmp/a"), Some("/srv/tree")).root, Path::new("/srv/tree"));
        assert_eq!(place(None, Some("/srv/tree")).root, Path::new("/srv/tree"));
    }

    #[test]
    fn relative_paths_become_absolute() {
        assert!(place(Some("here"), None).state_dir.is_absolute());
    }
}
