//! Programs that are run: the device's own hooks, and `cryptsetup`. Never by a shell, never for longer than allowed.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// A program that has not ended after this is killed.
const PATIENCE: Duration = Duration::from_secs(120);
/// What a program says beyond this is not read.
const OUTPUT_CAP: u64 = 1 << 20;
/// Where system programs find others; nothing else of the agent's environment reaches them.
const SEARCH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// A program that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) output: String,
}

/// Runs `program` with `arguments`, with `input` as its standard input, and waits for its end.
///
/// # Errors
/// When it cannot be started, or [`io::ErrorKind::TimedOut`] when it was killed for its slowness.
pub(super) fn run(program: &Path, arguments: &[&str], input: Option<OwnedFd>) -> io::Result<Ended> {
    let said = rustix::fs::memfd_create("output", MemfdFlags::CLOEXEC)?;
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", SEARCH)
        .current_dir("/")
        .stdin(input.map_or_else(Stdio::null, Stdio::from))
        .stdout(Stdio::from(said.try_clone()?))
        .stderr(Stdio::null())
        .spawn()?;
    let ended = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).and_then(|process| {
        let mut fds = [PollFd::new(&process, PollFlags::IN)];
        let wait = Timespec { tv_sec: i64::try_from(PATIENCE.as_secs()).unwrap_or(0), tv_nsec: 0 };
        poll(&mut fds, Some(&wait))
    });
    if ended != Ok(1) {
        let _ = child.kill();
        child.wait()?;
        return Err(io::ErrorKind::TimedOut.into());
    }
    let status = child.wait()?;
    let mut said = File::from(said);
    said.rewind()?;
    let mut output = Vec::new();
    said.take(OUTPUT_CAP).read_to_end(&mut output)?;
    Ok(Ended { status, output: String::from_utf8_lossy(&output).into_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_sees_nothing_of_the_agents_environment_and_its_words_and_end_are_known() {
        let ended = run(Path::new("/usr/bin/env"), &[], None).unwrap();
        assert_eq!(
            (ended.status.code(), ended.output.as_str()),
            (Some(0), "PATH=/usr/sbin:/usr/bin:/sbin:/bin\n")
        );
        assert_eq!(run(Path::new("/bin/false"), &[], None).unwrap().status.code(), Some(1));
        assert!(run(Path::new("/nowhere"), &[], None).is_err());
    }
}
