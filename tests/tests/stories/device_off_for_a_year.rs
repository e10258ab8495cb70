//! A device is off for more than a year. Meanwhile every approver and both keys of the server were replaced, one successor
//! after the other; it comes back with an expired certificate, renews it in its grace and walks the whole chain.

use muster_tests::faults::at_time;
use muster_tests::{Agent, Launch, Server, eventually};
use serde_json::Value;
use std::time::Duration;

/// The same installation, served so many days from now.
async fn later(server: Server, days: u64) -> Server {
    let launch = server.in_place(at(days));
    let site = server.stop().await;
    Server::on(site, launch).await.ahead_by(Duration::from_secs(days * 86_400))
}

fn at(days: u64) -> Launch {
    at_time(&format!("+{days}d"))
}

/// Runs an operator's command on a machine whose clock is right on that day.
async fn on(server: &Server, days: u64, words: &[&str]) -> Value {
    server.site().muster(&at(days), words).await.ok().json()
}

/// A successor with `changes`, signed by these two.
async fn succeed(server: &Server, days: u64, changes: &[&str], signers: [&str; 2]) {
    let words: Vec<&str> = ["authority", "propose"].into_iter().chain(changes.iter().copied()).collect();
    let _ = on(server, days, &words).await;
    let mut state = Value::Null;
    for name in signers {
        let key = server.site().path(&format!("{name}.key")).display().to_string();
        state = on(server, days, &["authority", "sign", "--key", &key, "--yes"]).await["state"].clone();
    }
    assert_eq!(state, "in_force", "{changes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_was_off_for_a_year_walks_the_whole_chain() {
    let server = Server::start().await;
    let mut device = Agent::enrolled(&server, "sensor-linux").await;
    let running = device.start();
    let id = device.id();
    let _ = server.device_when(&id, "it is active", |device| device["state"] == "active").await;
    assert_eq!(running.terminate().await, Some(0));

    let (carol, dave) = (server.site().approver("carol").await, server.site().approver("dave").await);
    let both = ["--add-approver", &format!("carol={carol}"), "--add-approver", &format!("dave={dave}")];
    succeed(&server, 0, &both, ["alice", "bob"]).await;
    let server = later(server, 2).await;
    succeed(&server, 2, &["--remove-approver", "alice"], ["carol", "dave"]).await;
    succeed(&server, 2, &["--remove-approver", "bob", "--new-command-key"], ["carol", "dave"]).await;
    let server = later(server, 200).await;
    succeed(&server, 200, &["--new-audit-key"], ["carol", "dave"]).await;
    succeed(&server, 200, &["--new-command-key", "--required", "lock=2"], ["carol", "dave"]).await;

    let days = 372;
    let server = later(server, days).await;
    device.relaunch(at(days));
    let _running = device.start();
    eventually("the device knows the document in force", async || {
        let status = device.status().await;
        (status["authority_version"] == 6).then_some(())
    })
    .await;
    let order = on(&server, days, &["order", "make", "collect_posture", &id]).await;
    let order = order["id"].as_str().unwrap();
    let done = eventually("it obeys the new command key", async || {
        let shown = on(&server, days, &["order", "show", order]).await;
        (shown["phase"] == "done").then_some(shown)
    });
    let _ = done.await;
    assert_eq!(on(&server, days, &["audit", "verify"]).await["ok"], true);
}
