//! One agent at a time in one state directory.
//!
//! The lock is the kernel's (`flock` on `<state-dir>/lock`), so a killed agent leaves none behind. The file says
//! who holds it, for the person who finds it held; its content is never trusted.
//!
//! Every command that writes takes the lock first, so this is where a directory is refused in which somebody else
//! could have laid a trap: see [`super::own`].

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::files::{self, FileError, Operation};
use super::own::{self, NotOurs};

/// What the file of a running agent ends with.
const RUNS: &str = " runs";

/// Held for as long as this value lives.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "the open file is the lock")] File);

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another agent works on this state directory.
    #[error("another muster-agent{} is at work on this state directory", holder(*pid))]
    Held {
        /// Its process id, where it could be read.
        pid: Option<u32>,
    },
    /// The agent runs, and keeps its state to itself.
    #[error("the agent is running{}", holder(*pid))]
    Running {
        /// Its process id, where it could be read.
        pid: Option<u32>,
    },
    /// The directory is not ours alone to write in.
    #[error(transparent)]
    NotOurs(#[from] NotOurs),
    /// The lock file could not be opened.
    #[error(transparent)]
    File(#[from] FileError),
}

fn holder(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

/// Takes the lock of `state_dir` without waiting.
///
/// # Errors
/// [`LockError::Held`] when another process has it, [`LockError::NotOurs`] when others may write there.
pub fn take(state_dir: &Path) -> Result<Lock, LockError> {
    take_as(state_dir, "")
}

/// Takes the lock for as long as the agent runs.
///
/// # Errors
/// As [`take`].
pub fn take_to_run(state_dir: &Path) -> Result<Lock, LockError> {
    take_as(state_dir, RUNS)
}

/// Whether an agent runs in `state_dir`, as far as one can tell without disturbing it.
pub fn is_running(state_dir: &Path) -> bool {
    let Ok(file) = files::unlinked().read(true).open(state_dir.join("lock")) else { return false };
    let free = flock(&file, FlockOperation::NonBlockingLockShared).is_ok();
    !free && read_holder(&state_dir.join("lock")).1
}

fn take_as(state_dir: &Path, how: &str) -> Result<Lock, LockError> {
    own::demand(state_dir)?;
    let path = state_dir.join("lock");
    let on = |source| FileError { operation: Operation::Lock, path: path.clone(), source };
    let mut file = files::unlinked()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(on)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            // Only a hint for people: failing to write it does not weaken the lock.
            let _ = file.set_len(0).and_then(|()| writeln!(file, "{}{how}", std::process::id()));
            Ok(Lock(file))
        }
        Err(rustix::io::Errno::WOULDBLOCK) => Err(match read_holder(&path) {
            (pid, true) => LockError::Running { pid },
            (pid, false) => LockError::Held { pid },
        }),
        Err(errno) => Err(on(errno.into()).into()),
    }
}

/// Who says to hold the lock, and whether it says to run.
fn read_holder(path: &Path) -> (Option<u32>, bool) {
    let Ok(Some(bytes)) = files::read(path, 32) else { return (None, false) };
    let text = std::str::from_utf8(&bytes).unwrap_or_default().trim();
    let runs = text.strip_suffix(RUNS);
    (runs.unwrap_or(text).parse().ok(), runs.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_is_told_who_holds_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let held = take(dir.path()).unwrap();
        let error = take(dir.path()).unwrap_err();
        let own = std::process::id();
        assert!(matches!(error, LockError::Held { pid: Some(pid) } if pid == own), "{error}");
        drop(held);
        take(dir.path()).unwrap();
    }

    #[test]
    fn a_running_agent_is_known_by_its_lock() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_running(dir.path()));
        let held = take_to_run(dir.path()).unwrap();
        assert!(is_running(dir.path()));
        let refused = take(dir.path()).unwrap_err();
        assert!(matches!(refused, LockError::Running { pid } if pid == Some(std::process::id())));
        drop(held);
        assert!(!is_running(dir.path()));
    }
}
