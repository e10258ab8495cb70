//! The demo, as a newcomer runs it: every step holds, and programs are told so on the last line.

use muster_tests::{Launch, agent_program, run, server_program};
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_the_demo_holds() {
    // It looks for the agent beside itself, then in PATH.
    let agent = agent_program();
    let place = agent.parent().expect("a program lies somewhere").display().to_string();
    let path = std::env::var("PATH").unwrap_or_default();
    let launch = Launch::plain().with("PATH", format!("{place}:{path}"));
    let told = run(&launch, &server_program(), &["demo", "--json"], b"").await.ok();
    let text = told.text();
    let last: Value = serde_json::from_str(text.trim_end().lines().last().unwrap()).unwrap();
    assert_eq!(last["ok"], true, "{last}");
    let steps = last["steps"].as_array().unwrap();
    assert!(steps.len() >= 37 && steps.iter().all(|step| step["ok"] == true), "{last}");
    let evidence = |name: &str| &steps.iter().find(|step| step["name"] == name).expect(name)["evidence"];
    for checked in ["proof", "inclusion"] {
        assert_eq!(evidence(checked)["checked"], true, "{last}");
    }
    // It is the agent that refuses the thief, in its own words, and they reach the log.
    let tellings = evidence("server_back")["told"].to_string();
    for (name, words) in [
        ("thief_unapproved", "this order needs a warrant"),
        ("thief_half_approved", "2 approvers are needed, 1 that count have signed"),
        ("thief_self_approved", "authority version 2 is not the one in force here"),
    ] {
        assert!(evidence(name)["agent"].to_string().contains(words), "{last}");
        assert!(tellings.contains(words), "{tellings}");
    }
    let doors = evidence("certificate_dead")["doors"].as_array().unwrap();
    assert_eq!(doors.len(), 3, "{doors:?}");
}
