//! Why nothing was founded, or what was founded cannot be opened.

use crate::audit;
use crate::ca::CaError;
use crate::ca::keystore::KeystoreError;
use crate::domain::issuers::IssuersRefusal;
use crate::store::{CommitError, OpenError};
use muster_pki::issuer::IssueError;
use std::io;
use std::path::{Path, PathBuf};

/// Why nothing was founded, or what was founded cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FoundError {
    /// There is an installation already.
    #[error("{} is founded already; to found another, name another --data-dir", dir.display())]
    AlreadyFounded {
        /// Where.
        dir: PathBuf,
    },
    /// There is something else.
    #[error("{} holds files that are not Muster's ({found}); name an empty or new --data-dir", dir.display())]
    NotEmpty {
        /// Where.
        dir: PathBuf,
        /// One of them.
        found: String,
    },
    /// Nothing was founded here.
    #[error("{} is not founded; run `muster init --data-dir {} --public-name NAME --solo` (or with --approver keys) first", dir.display(), dir.display())]
    NotFounded {
        /// Where.
        dir: PathBuf,
    },
    /// Whether anything was founded cannot be seen.
    #[error("this user may not look into {}; run it as the user who founded it", dir.display())]
    Forbidden {
        /// Where.
        dir: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A founding was interrupted.
    #[error("the founding of {} was interrupted and nothing of it has been used; run the same `muster init` again", dir.display())]
    Interrupted {
        /// Where.
        dir: PathBuf,
    },
    /// A name or key is not usable.
    #[error("{what} {expected}")]
    Invalid {
        /// What.
        what: String,
        /// What it must be, as the end of a sentence.
        expected: &'static str,
    },
    /// The file system said no.
    #[error("cannot {doing} {}; check that the disk is not full and that this user may write there", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A key file could not be written or read.
    #[error(transparent)]
    Keystore(#[from] KeystoreError),
    /// A key or certificate could not be made or read.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The store could not be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The first commit failed.
    #[error("the first commit failed")]
    Commit(#[from] CommitError),
    /// The audit log refuses to be appended to.
    #[error(transparent)]
    Audit(#[from] audit::OpenError),
    /// The seed of repeated requests is lost, which costs nothing but their answers.
    #[error("{} holds no 32 bytes in hexadecimal; restore it, or make another: (umask 077; openssl rand -hex 32 > {})", path.display(), path.display())]
    NoSeed {
        /// The file.
        path: PathBuf,
    },
    /// The issuing CAs stay as they are.
    #[error(transparent)]
    Issuers(#[from] IssuersRefusal),
    /// What was founded cannot be read.
    #[error("{} holds an installation that cannot be read; restore it from a backup", dir.display())]
    Unreadable {
        /// Where.
        dir: PathBuf,
    },
}

impl From<IssueError> for FoundError {
    fn from(error: IssueError) -> Self {
        Self::Ca(error.into())
    }
}

/// What to make of an error of the file system met while `doing` something with `path`.
pub(super) fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FoundError {
    let path = path.to_path_buf();
    move |source| FoundError::Io { doing, path, source }
}
