//! Which core does what.

use rustix::thread::{CpuSet, sched_setaffinity};

/// The server's core.
pub(crate) const SERVER: usize = 0;

/// The generator's core.
pub(crate) const GENERATOR: usize = 1;

/// Keeps this thread, and whatever it starts from now on, on `core`.
///
/// # Panics
/// When there is no such core: two are needed to measure anything.
pub(crate) fn pin(core: usize) {
    let mut only = CpuSet::new();
    only.set(core);
    sched_setaffinity(None, &only).expect("two cores are needed: one for the server, one for the generator");
}
