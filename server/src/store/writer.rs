//! One writer, group commit.

use std::time::Duration;

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
    fn default() -> Self {
        Self { queue: 4096, group: 512, linger: Duration::from_millis(10), floor_bytes: 128 << 20 }
    }
}
