//! `muster-agent simulate`: many devices in one process, each with the whole protocol stack, an identity of its own and a
//! state directory of its own, for tests, measurements and the curious.
//!
//! A simulated device is the running agent of [`super::session`], no other: it enrols with a line of the given strings,
//! connects, is brought to its desired state beneath `<its state directory>/root`, and reports. Nothing outside the one
//! directory is touched. A directory that was named is kept, and its devices go on from where they were.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use muster_wire::enrollment::EnrollmentString;
use serde::Serialize;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::Instant;

use super::cli::{Global, Milestone, Simulate};
use super::commands::{Ended, block_on};
use super::failure::Failure;
use super::files;
use super::http::Server;
use super::journal::Journal;
use super::lock;
use super::output::{self, Manner};
use super::place::Place;
use super::run::Hands;
use super::session::Runner;
use crate::clock::Clock;
use crate::core::record::Past;
use crate::core::{Agent, EnrollOrder, Event};

/// Devices that enrol at the same time.
const ENROLLING: usize = 256;
/// Strings of this many bytes together are no list of ours.
const STRINGS_CAP: usize = 64 << 20;
/// Failures that are told in full.
const TOLD: usize = 8;

/// What came of it.
#[derive(Debug, Default, Serialize)]
pub struct Summary {
    /// How many devices there were.
    pub count: usize,
    /// How many were enrolled.
    pub enrolled: usize,
    /// How many have been connected.
    pub connected: usize,
    /// How many have been brought to a desired state.
    pub applied: usize,
    /// How many ended by a failure.
    pub failed: usize,
    /// The first failures.
    pub errors: Vec<String>,
    /// From the first start to the end.
    pub elapsed_ms: u64,
    /// From each device's start to each milestone, in milliseconds.
    pub latency_ms: Latencies,
}

/// Milestones and how long they took.
#[derive(Debug, Default, Serialize)]
pub struct Latencies {
    /// To a certificate that works.
    pub enrolled: Option<Percentiles>,
    /// To an open session.
    pub connected: Option<Percentiles>,
    /// To a desired state in place.
    pub applied: Option<Percentiles>,
}

/// Two percentiles of a milestone.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Percentiles {
    /// Half of the devices were as fast.
    pub p50: f64,
    /// All but one in a hundred were as fast.
    pub p99: f64,
}

/// What the devices tell while they live.
#[derive(Debug, Default)]
struct Meter {
    enrolled: Vec<Duration>,
    connected: Vec<Duration>,
    applied: Vec<Duration>,
    failed: usize,
    errors: VecDeque<String>,
}

/// `muster-agent simulate`.
///
/// # Errors
/// [`Failure`] when it cannot begin, or when a device failed.
pub fn simulate(global: &Global, args: &Simulate, manner: Manner) -> Result<(), Failure> {
    let strings = super::commands::read_strings(&args.server_string, STRINGS_CAP, args.count)?;
    raise_file_limit();
    let scratch = global.state_dir.is_none().then(Scratch::make).transpose()?;
    let base = match (&global.state_dir, &scratch) {
        (Some(dir), _) => dir.clone(),
        (None, Some(scratch)) => scratch.0.clone(),
        (None, None) => return Err(Failure::Path { path: String::new() }),
    };
    files::ensure_dir(&base)?;
    let _lock = lock::take(&base)?;
    let summary = block_on(LocalSet::new().run_until(fleet(&base, strings, args)))??;
    output::simulated(manner, &summary);
    if summary.failed == 0 { Ok(()) } else { Err(Failure::Simulated { failed: summary.failed }) }
}

async fn fleet(base: &Path, strings: Vec<EnrollmentString>, args: &Simulate) -> Result<Summary, Failure> {
    let mut ended = Ended::listen().map_err(Failure::Runtime)?;
    let started = Instant::now();
    let count = strings.len();
    let meter = Rc::new(RefCell::new(Meter::default()));
    let gate = Rc::new(Semaphore::new(ENROLLING));
    let (wish, stop) = watch::channel(false);
    let mut lives = JoinSet::new();
    for (n, string) in strings.into_iter().enumerate() {
        let place = place(base, n)?;
        let (meter, gate, stop) = (Rc::clone(&meter), Rc::clone(&gate), stop.clone());
        lives.spawn_local(async move {
            if let Err(failure) = live(place, string, &gate, &meter, stop).await {
                let mut meter = meter.borrow_mut();
                meter.failed += 1;
                if meter.errors.len() < TOLD {
                    meter.errors.push_back(format!("device {n}: {}", failure.sentence()));
                }
            }
        });
    }
    let deadline = args.duration.map(Duration::from_secs);
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    loop {
        tokio::select! {
            () = ended.come() => break,
            _ = tick.tick() => {}
        }
        say_progress(&meter.borrow(), count);
        let is_late = deadline.is_some_and(|deadline| started.elapsed() >= deadline);
        if is_late || args.until.is_some_and(|until| meter.borrow().has_reached(until, count)) {
            break;
        }
    }
    wish.send_replace(true);
    while lives.join_next().await.is_some() {}
    Ok(meter.take().summary(count, started.elapsed()))
}

fn place(base: &Path, n: usize) -> Result<Place, Failure> {
    let state_dir = Some(base.join("devices").join(n.to_string()));
    Place::new(&Global { state_dir, root: None, json: false })
}

/// One device, from its string to the end of the simulation.
async fn live(
    place: Place,
    string: EnrollmentString,
    gate: &Semaphore,
    meter: &RefCell<Meter>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), Failure> {
    let mut runner = {
        let _turn = tokio::select! {
            turn = gate.acquire() => turn,
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        };
        let started = Instant::now();
        let hands = enrol(&place, string).await?;
        meter.borrow_mut().enrolled.push(started.elapsed());
        let past = place.past()?;
        (Runner::begin(place, hands, past).await?, started)
    };
    let (runner, started) = (&mut runner.0, runner.1);
    let mut shown = runner.watch();
    let watching = async {
        if shown.wait_for(|shown| shown.connected).await.is_ok() {
            meter.borrow_mut().connected.push(started.elapsed());
        }
        if shown.wait_for(|shown| shown.generation.is_some()).await.is_ok() {
            meter.borrow_mut().applied.push(started.elapsed());
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ran = Box::pin(runner.run(stop)) => ran,
        () = watching => Ok(()),
    }
}

async fn enrol(place: &Place, string: EnrollmentString) -> Result<Hands, Failure> {
    place.prepare()?;
    let (journal, records) = Journal::open(&place.journal())?;
    let past = Past::of(&records);
    let server = Server { host: string.host.clone(), port: string.port, root_spki: string.ca };
    let held = place.held(&past)?;
    let order = EnrollOrder {
        string,
        insisted: None,
        serial: None,
        root: place.root_for(&past),
        patience: Duration::from_secs(600),
    };
    let mut agent = Agent::new(past, held);
    let mut hands = Hands::new(place.clone(), journal, server, Clock::system());
    Box::pin(hands.drive(&mut agent, Event::Enroll(Box::new(order)))).await?;
    hands.hang_up();
    Ok(hands)
}

impl Meter {
    fn has_reached(&self, milestone: Milestone, count: usize) -> bool {
        let reached = match milestone {
            Milestone::Enrolled => &self.enrolled,
            Milestone::Connected => &self.connected,
            Milestone::Applied => &self.applied,
        };
        reached.len() + self.failed >= count
    }

    fn summary(self, count: usize, elapsed: Duration) -> Summary {
        Summary {
            count,
            enrolled: self.enrolled.len(),
            connected: self.connected.len(),
            applied: self.applied.len(),
            failed: self.failed,
            errors: self.errors.into(),
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            latency_ms: Latencies {
                enrolled: percentiles(self.enrolled),
                connected: percentiles(self.connected),
                applied: percentiles(self.applied),
            },
        }
    }
}

/// Nearest-rank percentiles; none of nothing.
fn percentiles(mut times: Vec<Duration>) -> Option<Percentiles> {
    times.sort_unstable();
    let rank = |percent: usize| {
        let at = (times.len() * percent).div_ceil(100).saturating_sub(1);
        times.get(at).map(|time| (time.as_secs_f64() * 1e6).round() / 1e3)
    };
    Some(Percentiles { p50: rank(50)?, p99: rank(99)? })
}

fn say_progress(meter: &Meter, count: usize) {
    if std::io::stderr().is_terminal() {
        let Meter { enrolled, connected, applied, failed, .. } = meter;
        let (enrolled, connected, applied) = (enrolled.len(), connected.len(), applied.len());
        output::aside(&format!(
            "\r{enrolled} enrolled, {connected} connected, {applied} applied, {failed} failed of {count} "
        ));
    }
}

/// As many open files as this user may have: each device has a few.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Where it cannot be raised, the devices beyond it say so themselves.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// A directory that goes away with the simulation.
struct Scratch(PathBuf);

impl Scratch {
    fn make() -> Result<Self, Failure> {
        let mut random = [0; 8];
        getrandom::fill(&mut random)
            .map_err(|error| Failure::Runtime(std::io::Error::other(error.to_string())))?;
        let name: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let dir = std::env::temp_dir().join(format!("muster-simulate-{name}"));
        files::ensure_dir(&dir)?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let times: Vec<Duration> = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!(percentiles(times), Some(Percentiles { p50: 100.0, p99: 198.0 }));
        assert_eq!(percentiles(vec![Duration::from_millis(3)]), Some(Percentiles { p50: 3.0, p99: 3.0 }));
        assert_eq!(percentiles(Vec::new()), None);
    }
}
