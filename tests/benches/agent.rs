//! A1: how large the agent is, how much memory it needs, and how often it wakes a quiet device.
//!
//! Run by `cargo xtask bench`, which builds the agent alone with `--profile agent` and names it in `MUSTER_AGENT_BIN`.
//! Each of five devices enrols once with a token of its own; the median of their peaks counts. Then they all run,
//! connected, and once each has said everything that a new device has to say, they are watched for a minute in which
//! nothing happens: each time one of an agent's threads went to sleep, something had woken it. `MUSTER_BENCH_IDLE_S`
//! sets another time.
//!
//! Bytes an hour are reckoned, since no minute is like another: what the agent's connection carried from its beginning
//! until it was quiet holds one report of each kind and is counted once for each hour (an agent reports hourly), and to
//! it come the pings of an hour, one each 240 s, of 2 bytes and 22 of TLS each way.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a measurement fails by panicking")]

use muster_tests::measure::{self, Report, books, figures};
use muster_tests::{Agent, RunningAgent, Server, agent_program, eventually, memory};
use serde_json::json;
use std::time::Duration;

const DEVICES: usize = 5;

/// How long a process must not have been woken to count as quiet.
const QUIET: Duration = Duration::from_secs(3);

/// A ping and its answer, each a TLS record.
const PING_BYTES: u64 = 2 * (2 + 22);

/// Pings in an hour.
const PINGS: u64 = 3_600 / 240;

fn main() {
    measure::run(async {
        let mut report = Report::default();
        measure(&mut report).await;
    });
}

async fn measure(report: &mut Report) {
    let idle_s = measure::number("MUSTER_BENCH_IDLE_S", 60);
    let server = Server::start().await;
    let program = agent_program();
    let (mut peaks, mut devices) = (Vec::new(), Vec::new());
    for token in server.mint_with(&["--profile", "sensor-linux", "--count", &DEVICES.to_string()]).await {
        let device = Agent::new();
        let state = device.state_dir().display().to_string();
        let arguments = ["enroll", "-", "--state-dir", &state, "--json"];
        let (code, peak_kib) = memory::peak_of(&program, &arguments, token.enrollment.as_bytes());
        assert_eq!(code, Some(0), "the agent must enrol to be measured");
        peaks.push((peak_kib * 1024) as f64);
        devices.push(device);
    }
    let running: Vec<RunningAgent> = devices.iter().map(Agent::start).collect();
    let (mut resident, mut awake, mut carried) = (Vec::new(), Vec::new(), Vec::new());
    for (device, agent) in devices.iter().zip(&running) {
        let _ = device.connected().await;
        quiet(agent.pid()).await;
        carried.push(carried_bytes(agent.pid()));
    }
    let before: Vec<u64> = running.iter().map(|agent| books::sleeps(agent.pid())).collect();
    tokio::time::sleep(Duration::from_secs(idle_s as u64)).await;
    for (agent, before) in running.iter().zip(before) {
        awake.push((books::sleeps(agent.pid()) - before) as f64 * 60.0 / idle_s as f64);
        resident.push(books::resident_bytes(agent.pid()) as f64);
    }
    let carried: Option<Vec<f64>> = carried.into_iter().collect();
    let carried = carried.map(|carried| figures::median(&carried));
    report.condition("a1_devices", DEVICES);
    report.condition("a1_idle_s", idle_s);
    report.condition("a1_load", books::load());
    report.row(json!({
        "id": "A1",
        "binary_bytes": std::fs::metadata(&program).expect("the agent is a file").len(),
        "rss_bytes": figures::median(&peaks),
        "connected_rss_bytes": figures::median(&resident),
        "wakeups_a_minute": figures::tenths(figures::median(&awake)),
        "bytes_to_quiet": carried,
        "bytes_an_hour": carried.map(|carried| carried + (PINGS * PING_BYTES) as f64),
    }));
}

/// Waits until `process` has slept through [`QUIET`].
async fn quiet(process: u32) {
    let mut last = None;
    eventually("the agent has said everything", async || {
        let now = books::sleeps(process);
        let is_quiet = last == Some(now);
        last = Some(now);
        if !is_quiet {
            tokio::time::sleep(QUIET).await;
        }
        is_quiet.then_some(())
    })
    .await;
}

/// What the connection of `process` has carried both ways, by the kernel's counters of its socket; nothing where `ss`
/// does not tell.
fn carried_bytes(process: u32) -> Option<f64> {
    let said = std::process::Command::new("ss").args(["-tinpH", "state", "established"]).output().ok()?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    let mark = format!("pid={process},");
    let at = lines.iter().position(|line| line.contains(&mark))?;
    let count = |name: &str| -> f64 {
        let words = lines.get(at + 1).map_or("", |line| line).split_whitespace();
        words.filter_map(|word| word.strip_prefix(name)?.parse::<f64>().ok()).sum()
    };
    let carried = count("bytes_sent:") + count("bytes_received:");
    (carried > 0.0).then_some(carried)
}
