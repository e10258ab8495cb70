//! What a process cost, by the kernel's own books and by the server's metrics.

use crate::{Server, Tls};
use http::Request;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// CPU time of every thread of a process at one instant, in nanoseconds (proc(5), `schedstat`).
///
/// The books of ended threads are closed, so what a thread does between its last reading and its end is missing: use
/// it where threads stay.
#[derive(Clone, Debug)]
pub struct Cpu(BTreeMap<u32, u64>);

impl Cpu {
    /// That of `process` now.
    ///
    /// # Panics
    /// When it is gone.
    pub fn of(process: u32) -> Self {
        let spent = |task: PathBuf| {
            let id = task.file_name()?.to_str()?.parse().ok()?;
            let text = std::fs::read_to_string(task.join("schedstat")).ok()?;
            Some((id, text.split_whitespace().next()?.parse().ok()?))
        };
        let threads: BTreeMap<u32, u64> = tasks(process).filter_map(spent).collect();
        assert!(!threads.is_empty(), "process {process} runs and the kernel keeps its time");
        Self(threads)
    }

    /// Microseconds since `before`, of all threads together.
    pub fn us_since(&self, before: &Self) -> f64 {
        let each = |(id, now): (&u32, &u64)| now.saturating_sub(before.0.get(id).copied().unwrap_or(0));
        self.0.iter().map(each).sum::<u64>() as f64 / 1e3
    }
}

/// How often the threads of `process` have gone to sleep: each time, something woke them.
///
/// # Panics
/// When it is gone.
pub fn sleeps(process: u32) -> u64 {
    let of_task = |task: PathBuf| {
        let text = std::fs::read_to_string(task.join("status")).ok()?;
        text.lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?
            .trim()
            .parse::<u64>()
            .ok()
    };
    tasks(process).filter_map(of_task).sum()
}

/// The memory of `process` with its share of what it shares (proc(5), `smaps_rollup`), in bytes.
///
/// # Panics
/// When it is gone.
pub fn pss_bytes(process: u32) -> u64 {
    kib(&read(process, "smaps_rollup"), "Pss:") * 1024
}

/// Resident memory of `process` now, in bytes.
///
/// # Panics
/// When it is gone.
pub fn resident_bytes(process: u32) -> u64 {
    kib(&read(process, "status"), "VmRSS:") * 1024
}

/// Bytes that `process` caused to be written to a disk (proc_pid_io(5)).
///
/// # Panics
/// When it is gone.
pub fn disk_bytes(process: u32) -> f64 {
    let io = read(process, "io");
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes:"));
    line.and_then(|bytes| bytes.trim().parse().ok()).expect("the kernel counts what is written")
}

/// The machine's load, as it says it.
pub fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// A file of `/proc/<process>`.
///
/// # Panics
/// When the process is gone.
pub fn read(process: u32, file: &str) -> String {
    std::fs::read_to_string(format!("/proc/{process}/{file}")).expect("the process runs")
}

fn tasks(process: u32) -> impl Iterator<Item = PathBuf> {
    let listed = std::fs::read_dir(format!("/proc/{process}/task")).expect("the process runs");
    listed.filter_map(|entry| Some(entry.ok()?.path()))
}

fn kib(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel says it");
    line.trim().trim_end_matches("kB").trim().parse().expect("a number")
}

/// The server's `/metrics` at one instant.
#[derive(Clone, Debug)]
pub struct Metrics(String);

impl Metrics {
    /// Those of `server` now.
    ///
    /// # Panics
    /// When it does not tell them.
    pub async fn of(server: &Server) -> Self {
        let credential = server.site().credential();
        let token = credential["token"].as_str().expect("the credential holds a token");
        let url = format!("{}/metrics", server.endpoints().admin.trim_end_matches('/'));
        let request =
            Request::get(url).header("authorization", format!("Bearer {token}")).body(Default::default());
        let answer = Tls::anonymous(server).request(request.expect("a request")).await.expect("metrics");
        assert_eq!(answer.status, 200);
        Self(String::from_utf8(answer.body.to_vec()).expect("metrics are text"))
    }

    /// The figure `name`.
    ///
    /// # Panics
    /// When there is none.
    pub fn get(&self, name: &str) -> f64 {
        let value = self.0.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.unwrap_or_else(|| panic!("no {name} among the metrics"))
    }
}
