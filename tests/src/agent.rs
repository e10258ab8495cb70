//! A device: `muster-agent` with a state directory of its own.

use serde_json::Value;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

use crate::agent_program;
use crate::run::{Launch, Run, run};
use crate::tls::Identity;

/// One device. Dropping it removes its state.
#[derive(Debug)]
pub struct Agent {
    directory: TempDir,
    launch: Launch,
}

impl Agent {
    /// A device that has never been enrolled.
    #[expect(clippy::new_without_default, reason = "a device is made, not defaulted: it has a directory")]
    pub fn new() -> Self {
        Self::under(Launch::plain())
    }

    /// A device whose every command runs as `launch` says.
    pub fn under(launch: Launch) -> Self {
        let directory =
            tempfile::Builder::new().prefix("muster-device-").tempdir().expect("a temporary directory");
        Self { directory, launch }
    }

    /// From now on every command runs as `launch` says.
    pub fn relaunch(&mut self, launch: Launch) {
        self.launch = launch;
    }

    /// Enrols with the string on standard input, however it ends.
    pub async fn enroll(&self, enrollment: &str) -> Run {
        self.enroll_with(enrollment, &[]).await
    }

    /// Enrols with more arguments, however it ends.
    pub async fn enroll_with(&self, enrollment: &str, arguments: &[&str]) -> Run {
        let words: Vec<&str> = ["enroll", "-"].into_iter().chain(arguments.iter().copied()).collect();
        self.run_with(&words, enrollment.as_bytes()).await
    }

    /// What the device knows of itself; it must be able to say it.
    pub async fn status(&self) -> Value {
        self.run(&["status"]).await.ok().json()
    }

    /// Renews, however it ends.
    pub async fn renew(&self) -> Run {
        self.run(&["renew"]).await
    }

    /// Runs any command with `--state-dir` and `--json`, however it ends.
    pub async fn run(&self, arguments: &[&str]) -> Run {
        self.run_with(arguments, b"").await
    }

    async fn run_with(&self, arguments: &[&str], input: &[u8]) -> Run {
        let state = self.state_dir().display().to_string();
        let words: Vec<&str> = arguments.iter().copied().chain(["--state-dir", &state, "--json"]).collect();
        run(&self.launch, &agent_program(), &words, input).await
    }

    /// Where the agent keeps its identity and journal.
    pub fn state_dir(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// The identity in its state directory, for whoever stole it.
    ///
    /// # Panics
    /// When the device has none.
    pub fn identity(&self) -> Identity {
        Identity::read(&self.state_dir().join("identity"))
    }

    /// A place beside the state directory, removed with the device.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Where `certificate.pem` is.
    pub fn certificate(&self) -> PathBuf {
        self.state_dir().join("identity").join(Path::new("certificate.pem"))
    }
}
