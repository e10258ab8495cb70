//! A newcomer runs one command and watches the whole life of one device.

use muster_tests::{Launch, agent_program, run, server_program};
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_the_demo_holds() {
    // The demo looks for the agent beside itself; both are built into one directory.
    assert_eq!(server_program().parent(), agent_program().parent());
    let said = run(&Launch::plain(), &server_program(), &["demo", "--json"], b"").await.ok();
    let last: Value = serde_json::from_str(said.text().lines().last().unwrap()).unwrap();
    assert_eq!(last["ok"], true, "{}", said.text());
    let steps = last["steps"].as_array().unwrap();
    assert!(steps.len() >= 14, "{last}");
    for step in steps {
        assert_eq!(step["ok"], true, "{step}");
        assert!(step["name"].is_string() && step["ms"].is_u64() && !step["evidence"].is_null(), "{step}");
    }
}
