//! What a run cost the server, by the kernel's own books and the server's own metrics.

use crate::generator::Passed;
use http::Request;
use muster_tests::{Server, Tls};
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
        let metrics = metrics(server).await;
        let [user_us, system_us] = cpu_us(server.pid());
        Self {
            user_us,
            system_us,
            disk_bytes: disk_bytes(server.pid()),
            commits: metric(&metrics, "muster_store_commits_total"),
            store_fsyncs: metric(&metrics, "muster_store_fsyncs_total"),
            audit_fsyncs: metric(&metrics, "muster_audit_fsyncs_total"),
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

/// Resident memory of `process` now, in bytes.
pub(crate) fn resident_bytes(process: u32) -> u64 {
    let status = read(process, "status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a resident size");
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().expect("a number");
    kib * 1024
}

/// The machine's load, as it says it.
pub(crate) fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// User and system time of all threads of `process`, those that ended included (proc_pid_stat(5), fields 14 and 15).
fn cpu_us(process: u32) -> [f64; 2] {
    let stat = read(process, "stat");
    // The name in parentheses may hold anything; the fields after it are numbers.
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    let tick_us = 1e6 / rustix::param::clock_ticks_per_second() as f64;
    [fields[11], fields[12]].map(|ticks| ticks.parse::<f64>().expect("ticks") * tick_us)
}

/// Bytes that `process` caused to be written to a disk (proc_pid_io(5)).
fn disk_bytes(process: u32) -> f64 {
    let io = read(process, "io");
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes:"));
    line.and_then(|bytes| bytes.trim().parse().ok()).expect("the kernel counts what is written")
}

fn read(process: u32, file: &str) -> String {
    std::fs::read_to_string(format!("/proc/{process}/{file}")).expect("the server runs")
}

async fn metrics(server: &Server) -> String {
    let credential = server.site().credential();
    let token = credential["token"].as_str().expect("the credential holds a token");
    let url = format!("{}/metrics", server.endpoints().admin.trim_end_matches('/'));
    let request =
        Request::get(url).header("authorization", format!("Bearer {token}")).body(Default::default());
    let answer = Tls::anonymous(server).request(request.expect("a request")).await.expect("metrics");
    assert_eq!(answer.status, 200);
    String::from_utf8(answer.body.to_vec()).expect("metrics are text")
}

fn metric(text: &str, name: &str) -> f64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("no {name} among the metrics"))
}

fn tenths(figure: f64) -> f64 {
    (figure * 10.0).round() / 10.0
}

fn thousandths(figure: f64) -> f64 {
    (figure * 1_000.0).round() / 1_000.0
}
