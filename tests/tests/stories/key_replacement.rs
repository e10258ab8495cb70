//! The command key and the audit key are replaced while the server runs: a device that is connected follows at once, one
//! that is off follows when it comes back, and the audit log goes on under the new key.

use muster_tests::{Agent, Server};
use std::collections::BTreeSet;

/// The names of the server's own keys on its disk.
fn keys(server: &Server) -> BTreeSet<String> {
    let names = std::fs::read_dir(server.site().data_dir().join("keys")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("command") || name.starts_with("audit")).collect()
}

async fn obeys(server: &Server, agent: &Agent) {
    let order = server.order("collect_posture", &agent.id()).await;
    let _ = server.done(&order).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_replaced_and_nobody_is_lost() {
    let server = Server::start().await;
    let (present, absent) =
        (Agent::enrolled(&server, "sensor-linux").await, Agent::enrolled(&server, "sensor-linux").await);
    let _present = present.start();
    let off = absent.start();
    for agent in [&present, &absent] {
        let _ = server.device_when(&agent.id(), "it is active", |device| device["state"] == "active").await;
    }
    assert_eq!(off.terminate().await, Some(0));
    let path = |name: &str| server.site().path(name).display().to_string();
    let (before, after, vkey) = (path("before"), path("after"), path("before/audit.vkey"));
    let _ = server.cli(&["audit", "export", &before]).await;
    let founded = keys(&server);

    let _ = server.succeed(&["--new-command-key", "--new-audit-key"]).await;
    let replaced = keys(&server);
    assert!(replaced.is_disjoint(&founded) && replaced.len() == 2, "{replaced:?}");
    obeys(&server, &present).await;
    assert_eq!(present.status().await["authority_version"], 2);

    // The former key is believed for what it signed, and nobody is asked to trust the new one on its word.
    let _ = server.cli(&["audit", "export", &after]).await;
    let digest = server.cli(&["authority", "show"]).await["digest"].as_str().unwrap().to_owned();
    let _ = server.try_cli(&["audit", "verify", &before, "--key", &vkey]).await.ok();
    let _ = server.try_cli(&["audit", "verify", &after, "--key", &vkey]).await.exits(1);
    let with_founding = ["audit", "verify", &after, "--key", &vkey, "--authority", &digest];
    let _ = server.try_cli(&with_founding).await.ok();

    // Killed right after another replacement: what was committed is what is served.
    let _ = server.succeed(&["--new-command-key"]).await;
    let launch = server.in_place(muster_tests::Launch::plain());
    let server = Server::on(server.kill(), launch).await;
    assert_eq!(server.authority_version().await, 3);
    let _absent = absent.start();
    for agent in [&present, &absent] {
        obeys(&server, agent).await;
        assert_eq!(agent.status().await["authority_version"], 3);
    }
    assert_eq!(keys(&server).len(), 2);
    server.verify_audit().await;
}
