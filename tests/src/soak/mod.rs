//! The soak: a fleet lives for minutes on a bad line while programs are killed and stopped and people decide, and every
//! second everything that must hold is looked at.
//!
//! ```text
//!   gather ──▶ faults by the plan, a look each second ──▶ quiet: everything settles ──▶ the log is judged alone
//! ```
//! `invariants` and `trail` are pure and judge; `watch` gathers what they judge; `plan` deals what happens by the
//! seed; `acts` does it. The seed decides what is done and to the how-many-th device; time and ids differ between runs, so
//! that a seed repeats the course of a run, not each of its microseconds.

mod acts;
mod admin;
mod chance;
mod fleet;
mod invariants;
mod logs;
mod network;
mod options;
mod plan;
mod promises;
mod quiet;
mod report;
mod snapshot;
mod stage;
mod trail;
mod watch;

pub use options::{Network, Options, USAGE};

use network::Weather;
use plan::Plan;
use stage::Stage;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often everything is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How often a line says how it goes.
const TELL: Duration = Duration::from_secs(5);

/// So long cards are played without a look, when there are some to make good.
const CATCH_UP: Duration = Duration::from_millis(800);

/// Within this the fleet enrols, connects and passes muster.
const GATHER: Duration = Duration::from_secs(300);

/// Runs a soak whose logs are kept in `archive`; answers whether everything held.
///
/// # Errors
/// One sentence that says why it cannot be run here, or that the report cannot be written.
///
/// # Panics
/// When a program of ours does not do what everything else depends on, such as starting again.
pub async fn soak(options: Options, archive: &Path) -> Result<bool, String> {
    println!("soak: seed {}, {} agents, {} s", options.seed, options.agents, options.length.as_secs());
    if options.network == Network::Lossy {
        network::enter()?;
    }
    let mut stage = Box::pin(Stage::set(options, archive)).await?;
    Box::pin(stage.gather()).await;
    Box::pin(stage.suffer()).await?;
    Box::pin(stage.settle()).await?;
    Box::pin(stage.judge_the_log()).await;
    stage.report()
}

impl Stage {
    /// Waits until the whole fleet is connected and active.
    async fn gather(&mut self) {
        self.learn().await;
        let began = Instant::now();
        let mut pace = Pace::begin();
        while began.elapsed() < GATHER {
            pace.next_look().await;
            self.look(false).await;
            self.tell(&mut pace);
            let ready = self.devices.iter().filter(|device| device.is_settled()).count();
            if ready >= self.options.agents {
                self.tally.gathered = self.at();
                self.tally.fewest_connected = Some(ready);
                println!("gathered after {} s", self.at().as_secs());
                return;
            }
        }
        self.notice("the fleet gathers", format!("not within {} s", GATHER.as_secs()));
    }

    /// Plays cards until the time is over.
    async fn suffer(&mut self) -> Result<(), String> {
        self.becomes(Weather::Rain)?;
        let mut plan = Plan::of(self.options.seed);
        let end = Instant::now() + self.options.length;
        let mut pace = Pace::begin();
        let mut turn = plan.next();
        let mut turn_at = Instant::now() + turn.after;
        while Instant::now() < end {
            tokio::time::sleep_until(turn_at.min(pace.look_at).into()).await;
            if self.weather_until.is_some_and(|until| Instant::now() >= until) {
                self.weather_until = None;
                self.becomes(Weather::Rain)?;
            }
            self.tend().await;
            if Instant::now() >= pace.look_at {
                pace.next_look().await;
                self.look(false).await;
                self.tally.fewest_connected = self.tally.fewest_connected.min(Some(self.tally.connected));
                self.tell(&mut pace);
            }
            // What a slow look has held up is made good, so that the plan and not the machine sets the pace.
            let late = Instant::now() + CATCH_UP;
            while Instant::now() >= turn_at && Instant::now() < late {
                Box::pin(self.play(turn)).await?;
                turn = plan.next();
                turn_at += turn.after;
            }
        }
        Ok(())
    }

    /// Says how it goes, every few seconds.
    fn tell(&self, pace: &mut Pace) {
        if Instant::now() >= pace.tell_at {
            pace.tell_at = Instant::now() + TELL;
            println!("{}", self.tally.progress(self.at(), self.checker.found().len()));
        }
    }

    /// Prints the summary, writes the report; answers whether everything held.
    fn report(&self) -> Result<bool, String> {
        let violations = self.checker.found();
        println!("{}", self.tally.summary(&self.options, violations));
        if let Some(file) = &self.options.json {
            let report = format!("{:#}\n", self.tally.json(&self.options, violations));
            std::fs::write(file, report).map_err(|cause| format!("{}: {cause}", file.display()))?;
        }
        Ok(violations.is_empty())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.tally.summary(&self.options, self.checker.found()));
            eprintln!("red: the run broke off; its logs are in {}", self.archive.display());
        }
    }
}

/// When the next look and the next line are due.
#[derive(Debug)]
struct Pace {
    look_at: Instant,
    tell_at: Instant,
}

impl Pace {
    fn begin() -> Self {
        Self { look_at: Instant::now(), tell_at: Instant::now() + TELL }
    }

    /// Waits for the next look; one that came too late does not make the next come early.
    async fn next_look(&mut self) {
        tokio::time::sleep_until(self.look_at.into()).await;
        self.look_at = (self.look_at + LOOK).max(Instant::now());
    }
}
