//! Which core does what.

use rustix::thread::{CpuSet, sched_setaffinity};

/// The server's core.
pub const SERVER: usize = 0;

/// The generator's core.
pub const GENERATOR: usize = 1;

/// Keeps this thread, and whatever it starts from now on, on `core`.
///
/// # Panics
/// When there is no such core: two are needed to measure anything.
pub fn pin(core: usize) {
    let mut only = CpuSet::new();
    only.set(core);
    sched_setaffinity(None, &only).expect("two cores are needed: one for the server, one for the generator");
}

/// Lets this thread, and whatever it starts from now on, run on both cores.
///
/// # Panics
/// As [`pin`].
pub fn share() {
    let mut both = CpuSet::new();
    both.set(SERVER);
    both.set(GENERATOR);
    sched_setaffinity(None, &both).expect("two cores are needed: one for the server, one for the generator");
}

/// Does `start`, whose children live on `core`; this thread stays the generator's.
pub async fn on<T>(core: usize, start: impl Future<Output = T>) -> T {
    pin(core);
    let started = start.await;
    pin(GENERATOR);
    started
}
