//! A1: how large the agent is, and how much memory it needs to enrol.
//!
//! Run by `cargo xtask bench`, which builds the agent alone with `--profile agent` and names it in `MUSTER_AGENT_BIN`.
//! Each of five devices enrols once with a token of its own; the median of their peaks counts.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a measurement fails by panicking")]

use muster_tests::{Agent, Server, agent_program, memory};
use serde_json::json;

const DEVICES: usize = 5;

#[tokio::main]
async fn main() {
    let server = Server::start().await;
    let agent = agent_program();
    let mut peaks = Vec::new();
    for token in server.mint_with(&["--profile", "laptop-linux", "--count", &DEVICES.to_string()]).await {
        let device = Agent::new();
        let state = device.state_dir().display().to_string();
        let arguments = ["enroll", "-", "--state-dir", &state, "--json"];
        let (code, peak_kib) = memory::peak_of(&agent, &arguments, token.enrollment.as_bytes());
        assert_eq!(code, Some(0), "the agent must enrol to be measured");
        peaks.push(peak_kib * 1024);
    }
    peaks.sort_unstable();
    let binary = std::fs::metadata(&agent).expect("the agent is a file").len();
    let row = json!({ "id": "A1", "binary_bytes": binary, "rss_bytes": peaks[DEVICES / 2] });
    let report = json!({ "conditions": { "a1_devices": DEVICES }, "rows": [row] }).to_string();
    match std::env::var_os("MUSTER_BENCH_JSON") {
        Some(file) => std::fs::write(&file, report).expect("the report can be written"),
        None => println!("{report}"),
    }
}
