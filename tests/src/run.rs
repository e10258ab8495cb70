//! Running a program to its end, and what it said.

use muster_wire::failure::Failure;
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{Output, Stdio};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::PATIENCE;

/// How a program is started: what stands before it, and what it finds in its environment.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    /// A program that runs the real one, with its arguments: `strace …`, `faketime …`.
    pub wrapper: Vec<OsString>,
    /// Variables beside those of the test.
    pub environment: Vec<(OsString, OsString)>,
}

impl Launch {
    /// Nothing before the program, nothing beside the environment.
    pub fn plain() -> Self {
        Self::default()
    }

    /// The same with one more variable.
    #[must_use]
    pub fn with(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Program and arguments as they are really started.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, program: &Path, arguments: &[S]) -> std::process::Command {
        let mut words = self.wrapper.iter().map(OsString::as_os_str).chain([program.as_os_str()]);
        let mut command = std::process::Command::new(words.next().unwrap_or_default());
        command.args(words).args(arguments);
        // A developer's own server must not be found by a program under test.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("MUSTER_")) {
                command.env_remove(name);
            }
        }
        command.env("NO_COLOR", "1").envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// What a program said, and how it ended.
#[derive(Debug)]
pub struct Run {
    /// The command, for messages.
    pub command: String,
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output, bytes as they came.
    pub stdout: Vec<u8>,
    /// Standard error as text.
    pub stderr: String,
}

impl Run {
    /// Itself, when the program ended with 0.
    ///
    /// # Panics
    /// When it ended otherwise.
    #[must_use]
    pub fn ok(self) -> Self {
        self.exits(0)
    }

    /// Itself, when the program ended with `code`.
    ///
    /// # Panics
    /// When it ended otherwise.
    #[must_use]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "{}\nstdout: {}\nstderr: {}",
            self.command,
            self.text(),
            self.stderr
        );
        self
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    /// When it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|cause| {
            panic!("{}: {cause}\nstdout: {}\nstderr: {}", self.command, self.text(), self.stderr)
        })
    }

    /// The problem on standard error as a program reads it: one shape, whichever program it is.
    ///
    /// # Panics
    /// When there is none, when it has another shape or another exit code, or the program panicked.
    pub fn problem(&self) -> Value {
        assert!(!self.stderr.contains("panicked"), "{}: {}", self.command, self.stderr);
        let mut said = self.stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let said = said
            .find(|line| line["type"].as_str().is_some_and(|urn| urn.starts_with("urn:muster:problem:")))
            .unwrap_or_else(|| panic!("{}: no problem document: {}", self.command, self.stderr));
        for part in ["title", "remedy", "code"] {
            assert!(said[part].as_str().is_some_and(|text| !text.is_empty()), "no {part}: {said}");
        }
        let failure: Failure = serde_json::from_value(said.clone())
            .unwrap_or_else(|cause| panic!("{}: {cause}: {said}", self.command));
        assert_eq!(serde_json::to_value(&failure).ok().as_ref(), Some(&said), "members of its own");
        assert_eq!(self.code, Some(i32::from(failure.exit)), "{}: {said}", self.command);
        said
    }

    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Runs `program` to its end with `input` on standard input.
///
/// # Panics
/// When it cannot be started, or runs longer than [`PATIENCE`].
pub async fn run<S: AsRef<OsStr>>(launch: &Launch, program: &Path, arguments: &[S], input: &[u8]) -> Run {
    let started = launch.command(program, arguments);
    let command = format!("{started:?}");
    let mut child = Command::from(started)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|cause| panic!("{command}: {cause}"));
    let mut stdin = child.stdin.take().expect("standard input is a pipe");
    let spoken = async {
        // A program that refuses early closes its end before it has read everything; its exit code tells.
        let _ = stdin.write_all(input).await;
        drop(stdin);
        child.wait_with_output().await
    };
    let output =
        tokio::time::timeout(PATIENCE, spoken).await.unwrap_or_else(|_| panic!("{command}: still running"));
    let Output { status, stdout, stderr } = output.expect("a child can be waited for");
    Run { command, code: status.code(), stdout, stderr: String::from_utf8_lossy(&stderr).into_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_gets_its_input_and_its_words_come_back() {
        let launch = Launch::plain().with("WORD", "{\"a\":1}");
        let script = "cat; printf %s \"$WORD\"; echo why >&2; exit 3";
        let run = run(&launch, Path::new("/bin/sh"), &["-c", script], b"").await.exits(3);
        assert_eq!(run.json()["a"], 1);
        assert_eq!(run.stderr, "why\n");
    }

    #[tokio::test]
    async fn a_wrapper_stands_before_the_program() {
        let launch = Launch { wrapper: vec!["env".into(), "INNER=yes".into()], environment: Vec::new() };
        let run = run(&launch, Path::new("/bin/sh"), &["-c", "printf $INNER"], b"").await.ok();
        assert_eq!(run.text(), "yes");
    }

    #[tokio::test]
    #[should_panic(expected = "false")]
    async fn a_program_that_fails_where_it_must_not_ends_the_test() {
        let _ = run::<&str>(&Launch::plain(), Path::new("/bin/false"), &[], b"").await.ok();
    }
}
