//! The writer: one thread that turns queued batches into rounds of one atomic write and one sync.
//!
//! ```text
//! queue ─▶ gather ─▶ judge (round.rs) ─▶ publish old values ─▶ apply ─▶ sync ─▶ observe ─▶ withdraw ─▶ answer
//! ```
//!
//! A batch that finds the writer idle is synced at once. Whatever queued during a sync goes into the next one.
//! When many commits are announced ([`super::announce`]) the writer waits for them, [`Limits::linger`] at most.
//! A crash before the end of the sync leaves a round that is there as a whole or not at all, and of which no
//! caller has an answer. An error of the engine ends everything: what is on the disk is unknown, so no answer
//! but `Unknown` is given any more, and no sync is tried again.

use super::announce::Announcements;
use super::checksum::Checksum;
use super::key::RESERVED;
use super::metrics::Counters;
use super::overlay::Overlay;
use super::round::{Refusal, Round};
use super::{
    Batch, Change, Collection, CommitError, Committed, Engine, EngineError, Observer, Urgency, Written,
};
use crate::domain::ledger::Ledger;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};

/// Announced commits from which on the writer waits for more.
const CROWD: usize = 8;

/// How long one wait for announced commits lasts. Nothing that arrives ends it early: to be woken for each commit
/// would cost two context switches each.
const LINGER_STEP: Duration = Duration::from_millis(1);

/// How old the known state of the disk may be.
const HEALTH_AGE: Duration = Duration::from_millis(250);

/// How the writer behaves.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Batches that may wait; one more is answered `Busy`.
    pub queue: usize,
    /// Most batches in one sync.
    pub group: usize,
    /// Longest wait for announced commits before a sync.
    pub linger: Duration,
    /// Free bytes below which ordinary batches are refused; essential ones below a quarter of it.
    pub floor_bytes: u64,
}

impl Default for Limits {
    /// 4,096 waiting, 512 in a sync, 20 ms for announced commits, 128 MiB kept free.
    fn default() -> Self {
        Self { queue: 4096, group: 512, linger: Duration::from_millis(20), floor_bytes: 128 << 20 }
    }
}

/// What writer and handles share.
pub(super) struct Shared {
    pub(super) engine: Box<dyn Engine>,
    pub(super) overlay: Overlay,
    pub(super) counters: Counters,
    pub(super) announcements: Arc<Announcements>,
    pub(super) failed: AtomicBool,
    pub(super) failure: watch::Sender<Option<String>>,
}

impl Shared {
    /// Stops every answer, and says why to whoever watches.
    fn fail(&self, reason: String) {
        self.failed.store(true, Ordering::SeqCst);
        tracing::error!(reason, "the store failed; the process must stop and start again");
        self.failure.send_replace(Some(reason));
    }
}

/// How a commit is answered.
type Answer = Result<Committed, CommitError>;

/// A batch in the queue.
pub(super) struct Submission {
    pub(super) batch: Batch,
    pub(super) answer: oneshot::Sender<Answer>,
    pub(super) submitted: Instant,
}

/// Who waits for an answer, and since when.
struct Caller {
    answer: oneshot::Sender<Answer>,
    submitted: Instant,
}

/// The store has failed, and everyone has been told.
struct Failed;

/// The writer's own state.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) queue: Receiver<Submission>,
    pub(super) collections: &'static [Collection],
    pub(super) ledger: Box<dyn Ledger>,
    pub(super) observer: Observer,
    pub(super) limits: Limits,
    pub(super) version: u64,
    pub(super) checksum: Checksum,
    pub(super) looked: Option<Instant>,
}

impl Writer {
    /// Writes until every handle is gone or the store fails, then closes the engine and says how it ended.
    pub(super) fn run(mut self, ended: &watch::Sender<Option<Result<(), CommitError>>>) {
        let end = match self.write_all().map(|()| self.shared.engine.close()) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                self.shared.fail(describe(&error));
                Err(CommitError::Unknown)
            }
            Err(Failed) => Err(CommitError::Unknown),
        };
        ended.send_replace(Some(end));
        for late in &self.queue {
            let _gone = late.answer.send(Err(CommitError::Unknown));
        }
    }

    fn write_all(&mut self) -> Result<(), Failed> {
        while let Ok(first) = self.queue.recv() {
            let group = self.gather(first);
            self.shared.counters.queued.fetch_sub(group.len() as u64, Ordering::Relaxed);
            self.write_group(group)?;
        }
        Ok(())
    }

    /// Everything that waits, and what is about to come while many commits are announced.
    fn gather(&self, first: Submission) -> Vec<Submission> {
        let mut group = vec![first];
        self.take_waiting(&mut group);
        let deadline = Instant::now() + self.limits.linger;
        while group.len() < self.limits.group && self.crowd_is_coming(group.len()) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            std::thread::park_timeout(left.min(LINGER_STEP));
            self.take_waiting(&mut group);
        }
        group
    }

    /// Moves what waits into `group`, as far as it fits.
    fn take_waiting(&self, group: &mut Vec<Submission>) {
        let room = self.limits.group.saturating_sub(group.len());
        group.extend(self.queue.try_iter().take(room));
    }

    /// Whether enough commits are announced beyond those that are here.
    fn crowd_is_coming(&self, here: usize) -> bool {
        let young = self.shared.announcements.young();
        young >= CROWD && young > here
    }

    /// Writes a group and answers its callers. They hear of a failure only once nobody can read any more.
    fn write_group(&mut self, group: Vec<Submission>) -> Result<(), Failed> {
        let split = |Submission { batch, answer, submitted }| (Caller { answer, submitted }, batch);
        let (callers, batches): (Vec<Caller>, Vec<Batch>) = group.into_iter().map(split).unzip();
        let reason = match catch_unwind(AssertUnwindSafe(|| self.write_batches(batches))) {
            Ok(Ok(answers)) => {
                self.answer(callers, answers);
                return Ok(());
            }
            Ok(Err(error)) => describe(&error),
            Err(_) => "the writer panicked".to_owned(),
        };
        self.shared.fail(reason);
        for caller in callers {
            let _gone = caller.answer.send(Err(CommitError::Unknown));
        }
        Err(Failed)
    }

    /// Judges `batches` one after the other and writes what was accepted; their answers, in order.
    fn write_batches(&mut self, batches: Vec<Batch>) -> Result<Vec<Answer>, EngineError> {
        let shared = Arc::clone(&self.shared);
        let space = self.space();
        let mut round = Round::new(shared.engine.as_ref(), self.collections, self.version);
        let mut answers = Vec::with_capacity(batches.len());
        for batch in batches {
            if space.refuses(batch.urgency) {
                answers.push(Err(CommitError::NoSpace));
                continue;
            }
            match round.accept(batch, self.ledger.as_mut()) {
                Ok(committed) => answers.push(Ok(committed)),
                Err(Refusal::Answer(refusal)) => answers.push(Err(refusal)),
                Err(Refusal::Engine(error)) => return Err(error),
            }
        }
        let accepted = round.accepted();
        if accepted > 0 {
            self.version = round.version();
            let changes = round.finish(&mut self.checksum);
            self.persist(&changes.into(), accepted)?;
        }
        Ok(answers)
    }

    /// Writes and syncs `changes`; readers see them only afterwards, and before the observer hears of them: whoever it
    /// wakes looks at once, and would go to sleep again over what it cannot see yet.
    fn persist(&self, changes: &Arc<[Change]>, batches: usize) -> Result<(), EngineError> {
        let shared = &self.shared;
        let started = Instant::now();
        shared.overlay.publish(Arc::clone(changes));
        shared.engine.apply(changes)?;
        let fsyncs = shared.engine.sync()?;
        shared.counters.synced(batches, fsyncs, started.elapsed());
        shared.counters.version.store(self.version, Ordering::Relaxed);
        shared.engine.synced(self.version);
        let written: Vec<Written<'_>> = changes.iter().filter_map(|change| self.written(change)).collect();
        shared.overlay.withdraw();
        (self.observer)(&written);
        Ok(())
    }

    /// What the observer is told of a change; nothing of the store's own records.
    fn written<'r>(&self, change: &'r Change) -> Option<Written<'r>> {
        (change.key.first() != Some(&RESERVED)).then(|| Written {
            key: &change.key,
            version: change.new.as_ref().map_or(self.version, |new| new.version),
            value: change.new.as_ref().map(|new| new.value.as_slice()),
        })
    }

    /// Answers everyone. Refusals waited for the sync too: they may rest on a batch of the same round.
    fn answer(&self, callers: Vec<Caller>, answers: Vec<Answer>) {
        let counters = &self.shared.counters;
        for (caller, answer) in callers.into_iter().zip(answers) {
            match &answer {
                Ok(_) => counters.answered(caller.submitted.elapsed()),
                Err(CommitError::Conflict { .. }) => {
                    counters.conflicts.fetch_add(1, Ordering::Relaxed);
                }
                Err(CommitError::NoSpace) => {
                    counters.no_space.fetch_add(1, Ordering::Relaxed);
                }
                Err(_) => {}
            }
            let _gone = caller.answer.send(answer);
        }
    }

    /// How much space is left, looked at again when the last look is too old.
    fn space(&mut self) -> Space {
        let counters = &self.shared.counters;
        if self.looked.is_none_or(|looked| looked.elapsed() > HEALTH_AGE) {
            self.looked = Some(Instant::now());
            match self.shared.engine.health() {
                Ok(health) => {
                    counters.free_bytes.store(health.free_bytes, Ordering::Relaxed);
                    let before = counters.stray_values.swap(health.stray_values, Ordering::Relaxed);
                    if health.stray_values > before {
                        tracing::error!(
                            stray_values = health.stray_values,
                            "values outside of the synced file"
                        );
                    }
                }
                Err(error) => tracing::warn!(%error, "the state of the store's disk is unknown"),
            }
        }
        let free = counters.free_bytes.load(Ordering::Relaxed);
        Space::of(free, self.limits.floor_bytes)
    }
}

/// How much room there is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Space {
    Plenty,
    BelowFloor,
    Exhausted,
}

impl Space {
    fn of(free_bytes: u64, floor_bytes: u64) -> Self {
        if free_bytes >= floor_bytes {
            Self::Plenty
        } else if free_bytes >= floor_bytes / 4 {
            Self::BelowFloor
        } else {
            Self::Exhausted
        }
    }

    fn refuses(self, urgency: Urgency) -> bool {
        match self {
            Self::Plenty => false,
            Self::BelowFloor => urgency == Urgency::Ordinary,
            Self::Exhausted => true,
        }
    }
}

/// An error with its causes, in one line.
fn describe(error: &EngineError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}
