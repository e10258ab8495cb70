//! A device is revoked while it is connected: the line is cut, and no door opens again. Its neighbour notices nothing.

use muster_tests::{Agent, Server, est, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_device_is_cut_off_at_once_and_for_good() {
    let server = Server::start().await;
    let (bad, good) =
        (Agent::enrolled(&server, "sensor-linux").await, Agent::enrolled(&server, "sensor-linux").await);
    let (_bad_runs, _good_runs) = (bad.start(), good.start());
    for agent in [&bad, &good] {
        let _ = server.device_when(&agent.id(), "it is active", |device| device["state"] == "active").await;
    }
    let connected_since = server.device(&good.id()).await["last_contact"].clone();

    server.revoke(&bad.id(), "key_compromise").await;
    let shown = server.device_when(&bad.id(), "the line is cut", |device| device["connected"] == false).await;
    assert_eq!((&shown["state"], &shown["certificate"]["status"]), (&"retired".into(), &"revoked".into()));
    eventually("the agent knows that it is cut off", async || {
        (bad.status().await["connected"] == false).then_some(())
    })
    .await;
    // It comes again by itself, and each time it is refused.
    eventually("it was refused at the gate", async || {
        let history = server.history(&bad.id()).await;
        history.contains("\"refused\"").then_some(())
    })
    .await;
    assert!(est::prove(&server, &bad.identity()).await.is_err(), "a handshake with a revoked certificate");
    assert_eq!(server.device(&bad.id()).await["connected"], false);

    let neighbour = server.device(&good.id()).await;
    assert_eq!((&neighbour["connected"], &neighbour["state"]), (&true.into(), &"active".into()));
    assert!(connected_since.is_string());
    server.verify_audit().await;
}
