//! The devices: a few processes that are many devices each, and some that are one device each and live as on a disk.

use super::logs::Logs;
use crate::{Agent, Launch, RunningAgent};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// One process of devices, running or about to run again.
#[derive(Debug)]
pub(super) struct Process {
    /// What its log is called.
    pub(super) name: String,
    pub(super) agent: Agent,
    /// The device that it is, where it is one.
    pub(super) device: Option<String>,
    /// Serial number of the thing, where it is one.
    pub(super) serial: String,
    words: Vec<String>,
    running: Option<RunningAgent>,
    /// It was asked to stop and says how it ended.
    stopping: Option<JoinHandle<Option<i32>>>,
    back_at: Instant,
    /// It ended for good, as it had to.
    is_over: bool,
}

/// A device or more under `setpriv`, so that it does not outlive the run.
pub(super) fn launch() -> Launch {
    let words = ["setpriv", "--pdeathsig", "KILL", "--"];
    Launch { wrapper: words.iter().map(Into::into).collect(), environment: Vec::new() }
}

impl Process {
    /// Many devices, one for each of `strings`.
    pub(super) fn swarm(name: String, strings: &[String]) -> Self {
        let agent = Agent::under(launch());
        let file = agent.path("strings");
        let text: String = strings.iter().map(|string| format!("{string}\n")).collect();
        std::fs::write(&file, text).expect("the device's place is writable");
        let words = [
            "simulate",
            "--count",
            &strings.len().to_string(),
            "--server-string",
            &file.display().to_string(),
        ]
        .map(str::to_owned)
        .into();
        Self::of(name, agent, words, None, String::new())
    }

    /// The one device `id` of `agent`, the thing `serial`.
    pub(super) fn single(name: String, agent: Agent, id: String, serial: String) -> Self {
        Self::of(name, agent, vec!["run".to_owned()], Some(id), serial)
    }

    fn of(name: String, agent: Agent, words: Vec<String>, device: Option<String>, serial: String) -> Self {
        let back_at = Instant::now();
        Self { name, agent, device, serial, words, running: None, stopping: None, back_at, is_over: false }
    }

    fn log(&self) -> PathBuf {
        self.agent.path("agent.log")
    }

    /// Lines of its log that tell of a panic and were not seen before.
    pub(super) fn panics(&self, logs: &mut Logs) -> Vec<String> {
        logs.read(&self.name, &self.log())
    }

    /// Whether it runs.
    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Whether it has ended although nobody ended it.
    pub(super) fn has_ended_by_itself(&mut self) -> bool {
        let has_ended = self.running.as_mut().is_some_and(RunningAgent::has_ended);
        if has_ended {
            self.running = None;
        }
        has_ended
    }

    /// It is not to run again.
    pub(super) fn is_done_with(&mut self) {
        self.is_over = true;
    }

    /// Runs it when it is due.
    pub(super) fn revive(&mut self, logs: &mut Logs) {
        if self.running.is_none()
            && self.stopping.is_none()
            && !self.is_over
            && Instant::now() >= self.back_at
        {
            logs.begins_anew(&self.log());
            let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
            self.running = Some(self.agent.start_with(&words));
        }
    }

    /// Ends it as a power cut would; it comes back after `pause`.
    pub(super) fn kill(&mut self, pause: Duration) {
        drop(self.running.take());
        self.back_at = Instant::now() + pause;
    }

    /// Asks it to stop; it comes back after `pause`, once it has ended.
    pub(super) fn stop(&mut self, pause: Duration) {
        if let Some(running) = self.running.take() {
            self.stopping = Some(tokio::spawn(running.terminate()));
            self.back_at = Instant::now() + pause;
        }
    }

    /// How it ended, once it has after it was asked to: its exit code, or `None` when a signal ended it.
    ///
    /// # Panics
    /// When it did not end in time.
    pub(super) async fn has_stopped(&mut self) -> Option<Option<i32>> {
        let stopping = self.stopping.take_if(|stopping| stopping.is_finished())?;
        Some(stopping.await.expect("an agent ends when asked"))
    }

    /// Whether it has not yet ended although it was asked to.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }
}
