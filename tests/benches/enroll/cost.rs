//! What a run cost the server, by the kernel's own books and the server's own metrics.

use crate::generator::Passed;
use muster_tests::Server;
use muster_tests::measure::books::{self, Metrics};
use muster_tests::measure::figures::{tenths, thousandths};
use serde_json::{Value, json};
use std::time::Duration;

/// The books at one instant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    user_us: f64,
    system_us: f64,
    disk_bytes: f64,
    commits: f64,
    store_fsyncs: f64,
    audit_fsyncs: f64,
}

/// What one operation of a run cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    user_us: f64,
    system_us: f64,
    disk_bytes: f64,
    store_fsyncs: f64,
    audit_fsyncs: f64,
    rate: f64,
    p50_ms: f64,
    p99_ms: f64,
}

impl Reading {
    /// The books of `server` now.
    pub(crate) async fn of(server: &Server) -> Self {
        let metrics = Metrics::of(server).await;
        let [user_us, system_us] = cpu_us(server.pid());
        Self {
            user_us,
            system_us,
            disk_bytes: books::disk_bytes(server.pid()),
            commits: metrics.get("muster_store_commits_total"),
            store_fsyncs: metrics.get("muster_store_fsyncs_total"),
            audit_fsyncs: metrics.get("muster_audit_fsyncs_total"),
        }
    }
}

impl Cost {
    /// What each operation of `passed` cost between the readings.
    ///
    /// # Panics
    /// When the server committed less than was asked of it.
    pub(crate) fn between(before: &Reading, after: &Reading, passed: &Passed) -> Self {
        let operations = passed.operations as f64;
        assert!(after.commits - before.commits >= operations, "an enrolment was answered and not committed");
        let each = |of: fn(&Reading) -> f64| (of(after) - of(before)) / operations;
        let percentile = |hundredths: usize| {
            let at = (passed.latencies.len() * hundredths / 100).min(passed.latencies.len() - 1);
            passed.latencies[at].as_secs_f64() * 1e3
        };
        Self {
            user_us: each(|reading| reading.user_us),
            system_us: each(|reading| reading.system_us),
            disk_bytes: each(|reading| reading.disk_bytes),
            store_fsyncs: each(|reading| reading.store_fsyncs),
            audit_fsyncs: each(|reading| reading.audit_fsyncs),
            rate: operations / passed.took.max(Duration::from_micros(1)).as_secs_f64(),
            p50_ms: percentile(50),
            p99_ms: percentile(99),
        }
    }

    /// The run whose CPU time is the median of `runs`.
    pub(crate) fn median(runs: &[Self]) -> Self {
        let mut sorted = runs.to_vec();
        sorted.sort_by(|a, b| a.cpu_us().total_cmp(&b.cpu_us()));
        sorted[sorted.len() / 2]
    }

    /// Server CPU microseconds per operation.
    pub(crate) fn cpu_us(&self) -> f64 {
        tenths(self.user_us + self.system_us)
    }

    /// Operations a second.
    pub(crate) fn rate(&self) -> f64 {
        self.rate
    }

    /// As fields of a row. `wall_ms` is how long half of the operations took at most, all of them in flight together.
    pub(crate) fn said(&self) -> Value {
        json!({
            "cpu_us": self.cpu_us(),
            "cpu_user_us": tenths(self.user_us),
            "cpu_system_us": tenths(self.system_us),
            "wall_ms": tenths(self.p50_ms),
            "wall_p99_ms": tenths(self.p99_ms),
            "per_s": self.rate.round(),
            "fsyncs_per_op": thousandths(self.store_fsyncs),
            "audit_fsyncs_per_op": thousandths(self.audit_fsyncs),
            "disk_bytes_per_op": self.disk_bytes.round(),
        })
    }
}

/// User and system time of all threads of `process`, those that ended included (proc_pid_stat(5), fields 14 and 15).
fn cpu_us(process: u32) -> [f64; 2] {
    let stat = books::read(process, "stat");
    // The name in parentheses may hold anything; the fields after it are numbers.
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    let tick_us = 1e6 / rustix::param::clock_ticks_per_second() as f64;
    [fields[11], fields[12]].map(|ticks| ticks.parse::<f64>().expect("ticks") * tick_us)
}
