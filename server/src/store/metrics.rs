//! What the store counts: syncs, group sizes, latencies, refusals.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bounds for batches in one sync.
const GROUP_BOUNDS: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512];

/// Bounds for latencies, in microseconds.
const LATENCY_BOUNDS_US: &[u64] =
    &[100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000];

/// A histogram: how many observations were at most each bound.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    /// Upper bounds, ascending; what is above the last one is only in `count`.
    pub bounds: &'static [u64],
    /// Observations at most each bound, cumulative.
    pub cumulative: Vec<u64>,
    /// All observations.
    pub count: u64,
    /// Their sum.
    pub sum: u64,
}

/// Counters since the store was opened.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Syncs that reached the disk.
    pub fsyncs: u64,
    /// Batches committed.
    pub commits: u64,
    /// Batches refused because a precondition did not hold.
    pub conflicts: u64,
    /// Batches refused because the queue was full.
    pub busy: u64,
    /// Batches refused because the disk is almost full.
    pub no_space: u64,
    /// Batches waiting now.
    pub queued: u64,
    /// Free bytes on the disk when last looked at.
    pub free_bytes: u64,
    /// Values outside of the synced file; anything but 0 is an alarm.
    pub stray_values: u64,
    /// Version of the last durable commit.
    pub version: u64,
    /// Batches in one sync.
    pub group_size: Histogram,
    /// From submission to answer, in microseconds.
    pub commit_us: Histogram,
    /// Write and sync of one group in the engine, in microseconds.
    pub sync_us: Histogram,
}

/// The counters themselves, shared by writer and readers.
#[derive(Debug)]
pub(super) struct Counters {
    pub(super) fsyncs: AtomicU64,
    pub(super) commits: AtomicU64,
    pub(super) conflicts: AtomicU64,
    pub(super) busy: AtomicU64,
    pub(super) no_space: AtomicU64,
    pub(super) queued: AtomicU64,
    pub(super) free_bytes: AtomicU64,
    pub(super) stray_values: AtomicU64,
    pub(super) version: AtomicU64,
    group_size: Buckets,
    commit_us: Buckets,
    sync_us: Buckets,
}

impl Counters {
    pub(super) fn new(version: u64) -> Self {
        Self {
            fsyncs: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            conflicts: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            no_space: AtomicU64::new(0),
            queued: AtomicU64::new(0),
            free_bytes: AtomicU64::new(0),
            stray_values: AtomicU64::new(0),
            version: AtomicU64::new(version),
            group_size: Buckets::new(GROUP_BOUNDS),
            commit_us: Buckets::new(LATENCY_BOUNDS_US),
            sync_us: Buckets::new(LATENCY_BOUNDS_US),
        }
    }

    /// One group of `batches` was written and synced in `took` with `fsyncs`.
    pub(super) fn synced(&self, batches: usize, fsyncs: u32, took: Duration) {
        self.fsyncs.fetch_add(u64::from(fsyncs), Ordering::Relaxed);
        self.commits.fetch_add(batches as u64, Ordering::Relaxed);
        self.group_size.observe(batches as u64);
        self.sync_us.observe(micros(took));
    }

    /// One caller had its answer `took` after it asked.
    pub(super) fn answered(&self, took: Duration) {
        self.commit_us.observe(micros(took));
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Snapshot {
            fsyncs: read(&self.fsyncs),
            commits: read(&self.commits),
            conflicts: read(&self.conflicts),
            busy: read(&self.busy),
            no_space: read(&self.no_space),
            queued: read(&self.queued),
            free_bytes: read(&self.free_bytes),
            stray_values: read(&self.stray_values),
            version: read(&self.version),
            group_size: self.group_size.snapshot(),
            commit_us: self.commit_us.snapshot(),
            sync_us: self.sync_us.snapshot(),
        }
    }
}

#[derive(Debug)]
struct Buckets {
    bounds: &'static [u64],
    counts: Vec<AtomicU64>,
    sum: AtomicU64,
}

impl Buckets {
    fn new(bounds: &'static [u64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0) }
    }

    fn observe(&self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    fn snapshot(&self) -> Histogram {
        let mut count = 0;
        let mut cumulative: Vec<u64> = Vec::with_capacity(self.counts.len());
        for bucket in &self.counts {
            count += bucket.load(Ordering::Relaxed);
            cumulative.push(count);
        }
        cumulative.pop();
        Histogram { bounds: self.bounds, cumulative, count, sum: self.sum.load(Ordering::Relaxed) }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_counts_at_its_bound_and_above_it() {
        let buckets = Buckets::new(&[1, 4]);
        for value in [1, 4, 5] {
            buckets.observe(value);
        }
        let histogram = buckets.snapshot();
        assert_eq!((histogram.cumulative, histogram.count, histogram.sum), (vec![1, 2], 3, 10));
    }
}
