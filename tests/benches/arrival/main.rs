//! E4 and E5: a device from nothing to its place: one at a time on a quiet server, and all of them at once.
//!
//! Run by `cargo xtask bench`. `MUSTER_BENCH_ONLY` (`E4` or `E5`) leaves out the other row, `MUSTER_BENCH_STARTS` sets
//! the devices of E4 (default 100 on each disk), `MUSTER_BENCH_DEVICES` those of E5 (default 2,000).

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a measurement fails by panicking")]

mod alone;
mod at_once;

use muster_tests::measure::{self, Report};

fn main() {
    measure::run(async {
        let mut report = Report::default();
        if measure::is_wanted("E4") {
            alone::measure(&mut report).await;
        }
        if measure::is_wanted("E5") {
            at_once::measure(&mut report).await;
        }
    });
}
