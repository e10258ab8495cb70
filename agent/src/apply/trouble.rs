//! What stands between the desired state and the disk: one reason per item, and why the engine itself cannot go on.

use std::io;

use crate::core::sheet::SheetError;

/// Why one file or setting cannot be brought to its desired state.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Trouble {
    /// No user of that name in the tree's `etc/passwd`.
    #[error("there is no user {name:?} on this device")]
    NoOwner {
        /// The name.
        name: String,
    },
    /// No group of that name in the tree's `etc/group`.
    #[error("there is no group {name:?} on this device")]
    NoGroup {
        /// The name.
        name: String,
    },
    /// The path is not beneath a declared root, or is one of the agent's own.
    #[error("it is beyond the roots declared at enrolment")]
    Beyond,
    /// A link on the way.
    #[error("a symbolic link stands in the way")]
    Link,
    /// Another file system on the way.
    #[error("another file system is mounted on the way")]
    Mount,
    /// A directory, a link, a device, a pipe or a socket has the name.
    #[error("what stands there is not a regular file")]
    NotPlain,
    /// Too large to save before replacing it.
    #[error("the file there is larger than 1 MiB, which Muster does not replace")]
    TooLarge,
    /// The kernel has no such setting.
    #[error("this kernel has no such setting")]
    NoSetting,
    /// Written, and then found to be something else.
    #[error("it was written and then read back as something else")]
    Unverified,
    /// The file system refused.
    #[error("the file system refused")]
    Disk(#[source] io::Error),
}

impl Trouble {
    /// What an error on the way to a file means.
    pub(super) fn walking(error: io::Error) -> Self {
        use rustix::io::Errno;
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::LOOP) => Self::Link,
            Some(Errno::XDEV) => Self::Mount,
            Some(Errno::NOTDIR) => Self::NotPlain,
            _ => Self::Disk(error),
        }
    }

    /// The reason and its cause in one line.
    pub fn sentence(&self) -> String {
        match self {
            Self::Disk(error) => format!("{self}: {error}"),
            Self::NoOwner { .. }
            | Self::NoGroup { .. }
            | Self::Beyond
            | Self::Link
            | Self::Mount
            | Self::NotPlain
            | Self::TooLarge
            | Self::NoSetting
            | Self::Unverified => self.to_string(),
        }
    }
}

/// Why the engine cannot go on. What is on the disk is settled by the next [`super::Engine::new`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The state directory or the root cannot be opened, read or written.
    #[error("cannot use {what}")]
    Disk {
        /// What of the agent's own.
        what: &'static str,
        /// What the operating system answered.
        #[source]
        source: io::Error,
    },
    /// The file that holds the desired state, or the one that holds the way back, is no such file.
    #[error("cannot read {what}")]
    Sheet {
        /// Which.
        what: &'static str,
        /// Why not.
        #[source]
        source: SheetError,
    },
    /// Something was changed and could not be changed back yet.
    #[error("{item} could not be brought back to what it was")]
    Stuck {
        /// The first such file or setting.
        item: String,
        /// Why not.
        #[source]
        source: Trouble,
    },
    /// An older desired state than the newest one admitted.
    #[error("a newer desired state was admitted before")]
    Stale,
}

impl ApplyError {
    /// What the person at the device should do.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Disk { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                "free some space there; the agent tries again by itself"
            }
            Self::Disk { .. } => {
                "run as the user who owns the state directory (usually root), and check its file system"
            }
            Self::Sheet { .. } => {
                "remove that file from the state directory; the server sends the desired state again"
            }
            Self::Stuck { .. } => {
                "remove what stands in the way there; the agent tries again at its next start"
            }
            Self::Stale => "nothing: the newer desired state stays in force",
        }
    }
}
