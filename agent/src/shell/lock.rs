//! One agent at a time in one state directory.
//!
//! The lock is the kernel's (`flock` on `<state-dir>/lock`), so a killed agent leaves none behind. The file says
//! who holds it, for the person who finds it held; its content is never trusted.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::files::{self, FileError, Operation};

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
/// [`LockError::Held`] when another process has it.
pub fn take(state_dir: &Path) -> Result<Lock, LockError> {
    let path = state_dir.join("lock");
    let on = |source| FileError { operation: Operation::Lock, path: path.clone(), source };
    let mut file = OpenOptions::new()
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
            let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
            Ok(Lock(file))
        }
        Err(rustix::io::Errno::WOULDBLOCK) => Err(LockError::Held { pid: read_pid(&path) }),
        Err(errno) => Err(on(errno.into()).into()),
    }
}

fn read_pid(path: &Path) -> Option<u32> {
    let bytes = files::read(path, 32).ok()??;
    std::str::from_utf8(&bytes).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_is_told_who_holds_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let held = take(dir.path()).unwrap();
        match take(dir.path()).unwrap_err() {
            LockError::Held { pid } => assert_eq!(pid, Some(std::process::id())),
            LockError::File(error) => panic!("{error}"),
        }
        drop(held);
        take(dir.path()).unwrap();
    }
}
