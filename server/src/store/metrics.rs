//! What the store counts.

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
    /// One sync of the engine, in microseconds.
    pub sync_us: Histogram,
}
