//! A device: `muster-agent` with a state directory of its own.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tempfile::TempDir;

use crate::run::{Launch, Run, run};
use crate::tls::Identity;
use crate::{Server, agent_program, est};

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
        Self::beneath(&std::env::temp_dir(), launch)
    }

    /// The same, with its state on whatever disk `place` is.
    pub fn beneath(place: &Path, launch: Launch) -> Self {
        let directory = tempfile::Builder::new().prefix("muster-device-").tempdir_in(place);
        Self { directory: directory.expect("a temporary directory"), launch }
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

    /// A device enrolled with a token for `profile`.
    ///
    /// # Panics
    /// When it cannot be enrolled.
    pub async fn enrolled(server: &Server, profile: &str) -> Self {
        let agent = Self::new();
        let _ = agent.enroll(&server.mint(profile).await.enrollment).await.ok();
        agent
    }

    /// Its id, once it is enrolled.
    ///
    /// # Panics
    /// When it is not.
    pub fn id(&self) -> String {
        est::device_id(self.identity().leaf())
    }

    /// Where `path`, absolute on the device, lies here: beneath the tree that it manages.
    pub fn within(&self, path: &str) -> PathBuf {
        self.state_dir().join("root").join(path.trim_start_matches('/'))
    }

    /// Puts a file at `path` on the device, as somebody who works on it would.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn put(&self, path: &str, content: &str) -> &Self {
        let path = self.within(path);
        std::fs::create_dir_all(path.parent().expect("a file lies somewhere")).expect("a directory");
        std::fs::write(path, content).expect("the device's tree is writable");
        self
    }

    /// What the file at `path` on the device holds; nothing where there is none.
    pub fn file(&self, path: &str) -> String {
        std::fs::read_to_string(self.within(path)).unwrap_or_default()
    }

    /// Lays out what the kernel and the distribution of a well-kept laptop show: an encrypted disk, a supported
    /// release, a closed firewall.
    pub fn is_well_kept(&self) -> &Self {
        let disk = "/sys/dev/block/252:0";
        self.put("/proc/self/mountinfo", "25 1 252:0 / / rw,relatime shared:1 - ext4 /dev/mapper/root rw\n")
            .put(&format!("{disk}/dm/name"), "root\n")
            .put(&format!("{disk}/dm/uuid"), "CRYPT-LUKS2-0123-root\n")
            .put("/etc/os-release", "ID=debian\nVERSION_ID=\"13\"\nPRETTY_NAME=\"Debian GNU/Linux 13\"\n")
            .has_firewall("drop")
    }

    /// Lays out a packet filter whose input has `policy`, `accept` or `drop`.
    pub fn has_firewall(&self, policy: &str) -> &Self {
        let chain = json!({
            "family": "inet", "table": "filter", "name": "input", "type": "filter", "hook": "input",
            "prio": 0, "policy": policy,
        });
        let rules = json!({"nftables": [{"metainfo": {"version": "1.0.9"}}, {"chain": chain}]});
        self.put("/run/muster-agent/nft-ruleset.json", &rules.to_string())
    }

    /// Starts `muster-agent run`; it runs until it is told to end, or dropped.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(&self) -> RunningAgent {
        self.start_with(&["run"])
    }

    /// Starts any command that stays, with `--state-dir` and `--json`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_with(&self, arguments: &[&str]) -> RunningAgent {
        let state = self.state_dir().display().to_string();
        let log = std::fs::File::create(self.path("agent.log")).expect("a log beside the state");
        let words: Vec<&str> = arguments.iter().copied().chain(["--state-dir", &state, "--json"]).collect();
        let mut command = self.launch.command(&agent_program(), &words);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        RunningAgent(child.expect("muster-agent starts"))
    }

    /// Waits until the running agent says that it is connected.
    pub async fn connected(&self) -> Value {
        crate::eventually("the agent is connected", async || {
            let status = self.status().await;
            (status["connected"] == true).then_some(status)
        })
        .await
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

/// An agent that stays connected. Dropping it kills it, as a power cut would, and it is gone then: its lock is free.
#[derive(Debug)]
pub struct RunningAgent(std::process::Child);

impl RunningAgent {
    /// Its process id, for whoever measures it.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Whether it has ended by itself, or was killed.
    ///
    /// # Panics
    /// When nobody can say.
    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("a child can be waited for").is_some()
    }

    /// Asks it to end and answers its exit code; `None` when a signal ended it.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn terminate(mut self) -> Option<i32> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, Signal::TERM).expect("the agent can be told to end");
        let ended = || self.0.try_wait().expect("a child can be waited for");
        crate::until("the agent ends when asked", ended).await.code()
    }
}

impl Drop for RunningAgent {
    fn drop(&mut self) {
        // One that has ended already needs no signal.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
