//! Faults given from outside: a kill at the N-th system call, a clock that lies.

use std::path::PathBuf;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::{Launch, PATIENCE};

/// System calls after which a crash leaves something else behind than before.
pub const DURABLE_CALLS: [&str; 5] = ["fdatasync", "fsync", "rename", "renameat", "renameat2"];

/// Kills the program at its `n`-th call of `call`; `n` counts from 1.
///
/// strace counts for each thread by itself, so the first thread to get there decides. A run that never gets so far
/// ends as it would have: that is how a loop over `n` knows that it is done.
pub fn kill_at(call: &str, n: u32) -> Launch {
    strace(call, &format!("signal=KILL:when={n}"))
}

/// Fails every call of `calls`, a list with commas, from the `n`-th on with `error`, such as `ENOSPC` or `EIO`.
pub fn fail_from(calls: &str, n: u32, error: &str) -> Launch {
    strace(calls, &format!("error={error}:when={n}+"))
}

fn strace(calls: &str, fault: &str) -> Launch {
    let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:{fault}"));
    // The tracer runs beside, in a process group of its own: the program is our child and gets our signals.
    let words = ["strace", "-DD", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
    Launch { wrapper: words.iter().map(Into::into).collect(), environment: Vec::new() }
}

/// Kills the running program `pid` at its `n`-th call of `call` from now on, as [`kill_at`] counts. Dropping what this
/// answers lets the program go on.
///
/// # Panics
/// When strace cannot attach.
pub async fn kill_running_at(pid: u32, call: &str, n: u32) -> Child {
    let (trace, inject) = (format!("trace={call}"), format!("inject={call}:signal=KILL:when={n}"));
    let mut tracer = Command::new("strace")
        .args(["-f", "-o", "/dev/null", "-e", &trace, "-e", &inject, "-p", &pid.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("Debian's package strace is installed");
    let mut lines = BufReader::new(tracer.stderr.take().expect("piped above")).lines();
    let attached = async {
        while let Some(line) = lines.next_line().await.expect("strace writes text") {
            if line.contains("attached") {
                return;
            }
        }
        panic!("strace did not attach to {pid}");
    };
    tokio::time::timeout(PATIENCE, attached).await.expect("strace attaches in time");
    // It says when threads come and go, and must not wait for a reader.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    tracer
}

/// Runs the program at another time, as libfaketime spells it: `+1d`, `-1y`, `@1970-01-02 00:00:00` (UTC).
///
/// Only the time of day lies. Timers stay on the boot-time clock: the kernel waits by its own, and a program whose
/// boot-time clock lies beside it waits for ever.
///
/// # Panics
/// When libfaketime is not installed.
pub fn at_time(when: &str) -> Launch {
    Launch::plain()
        .with("LD_PRELOAD", library())
        .with("FAKETIME", when)
        .with("TZ", "UTC0")
        .with("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .with("DONT_FAKE_MONOTONIC", "1")
}

/// A clock that is set while programs run by it.
#[derive(Debug)]
pub struct Clock {
    directory: tempfile::TempDir,
}

impl Clock {
    /// A clock that is right.
    #[expect(clippy::new_without_default, reason = "a clock is made, not defaulted: it has a file")]
    pub fn new() -> Self {
        let clock = Self { directory: tempfile::tempdir().expect("a temporary directory") };
        clock.set("+0");
        clock
    }

    /// Sets it, as [`at_time`] has it; programs see it at once.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn set(&self, when: &str) {
        let next = self.directory.path().join("next");
        std::fs::write(&next, when).expect("the clock's file is writable");
        std::fs::rename(next, self.file()).expect("the clock's file is writable");
    }

    /// Runs the program by this clock.
    pub fn launch(&self) -> Launch {
        let mut launch =
            at_time("+0").with("FAKETIME_TIMESTAMP_FILE", self.file()).with("FAKETIME_NO_CACHE", "1");
        // It would overrule the file.
        launch.environment.retain(|(name, _)| name != "FAKETIME");
        launch
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("now")
    }
}

/// Loaded directly: the command `faketime` stays between the test and the program, and dies of its signals.
fn library() -> PathBuf {
    let names = std::fs::read_dir("/usr/lib").expect("/usr/lib is readable").flatten();
    let libraries = names.map(|directory| directory.path().join("faketime/libfaketimeMT.so.1"));
    libraries.into_iter().find(|path| path.exists()).expect("Debian's package libfaketime is installed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run;
    use std::path::Path;

    /// A program of one process: writes `a`, renames it to `b`, `c` and `d`.
    const STORY: &str =
        "chdir shift; open my $f, '>', 'a'; close $f; rename 'a', 'b'; rename 'b', 'c'; rename 'c', 'd'";

    #[tokio::test]
    async fn a_kill_comes_at_the_call_it_was_ordered_for_and_a_run_without_it_is_whole() {
        for (n, left, code) in [(1, "a", None), (2, "b", None), (3, "c", None), (4, "d", Some(0))] {
            let directory = tempfile::tempdir().unwrap();
            let place = directory.path().display().to_string();
            let run = run(&kill_at("rename", n), Path::new("perl"), &["-e", STORY, &place], b"").await;
            let found: Vec<_> =
                std::fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
            assert_eq!(found, [left], "{run:?}");
            assert_eq!(run.code, code);
        }
    }

    #[tokio::test]
    async fn a_call_fails_from_the_one_it_was_ordered_for() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().display().to_string();
        let _ =
            run(&fail_from("rename", 2, "ENOSPC"), Path::new("perl"), &["-e", STORY, &place], b"").await.ok();
        assert!(directory.path().join("b").exists());
    }

    #[tokio::test]
    async fn a_clock_lies_as_told() {
        let run = run(&at_time("@1970-01-02 00:00:00"), Path::new("date"), &["-u", "+%Y"], b"").await.ok();
        assert_eq!(run.text().trim(), "1970");
    }

    #[tokio::test]
    async fn a_clock_is_set_while_a_program_runs() {
        let clock = Clock::new();
        let years = || async { run(&clock.launch(), Path::new("date"), &["+%Y"], b"").await.ok().text() };
        let before = years().await;
        clock.set("@1970-01-02 00:00:00");
        assert_eq!(years().await.trim(), "1970");
        clock.set("+0");
        assert_eq!(years().await, before);
        let script =
            "$a = time; open $f, '>', $ARGV[0]; print $f '+1000'; close $f; exit(time - $a > 900 ? 0 : 1)";
        let file = clock.file().display().to_string();
        let _ = run(&clock.launch(), Path::new("perl"), &["-e", script, &file], b"").await.ok();
    }
}
