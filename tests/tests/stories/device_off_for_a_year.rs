//! A device is off for more than a year. Meanwhile every approver and both keys of the server were replaced, one successor
//! after the other; it comes back with an expired certificate, renews it in its grace and walks the whole chain.

use muster_tests::{Agent, Server, eventually};
use serde_json::Value;

/// A successor with `changes`, signed by these two.
async fn succeed(server: &Server, changes: &[&str], signers: [&str; 2]) {
    let words: Vec<&str> = ["authority", "propose"].into_iter().chain(changes.iter().copied()).collect();
    let _ = server.cli(&words).await;
    let mut state = Value::Null;
    for name in signers {
        state = server.sign_as(name).await["state"].clone();
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
    succeed(&server, &both, ["alice", "bob"]).await;
    let server = server.later(2).await;
    succeed(&server, &["--remove-approver", "alice"], ["carol", "dave"]).await;
    succeed(&server, &["--remove-approver", "bob", "--new-command-key"], ["carol", "dave"]).await;
    let server = server.later(200).await;
    succeed(&server, &["--new-audit-key"], ["carol", "dave"]).await;
    succeed(&server, &["--new-command-key", "--required", "lock=2"], ["carol", "dave"]).await;

    let server = server.later(372).await;
    device.relaunch(server.clock());
    let _running = device.start();
    eventually("the device knows the document in force", async || {
        let status = device.status().await;
        (status["authority_version"] == 6).then_some(())
    })
    .await;
    let order = server.order("collect_posture", &id).await;
    // It obeys the new command key.
    let _ = server.done(&order).await;
    let _ = server.verify_audit().await;
}
