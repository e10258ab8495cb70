//! A file beyond the declared roots: the device puts it there when two approvers have signed the very baseline, and not
//! before; the server's own word is not enough.

use muster_tests::{Agent, Server, eventually};
use serde_json::Value;

const BEYOND: &str = "/etc/issue.muster";
const BASELINE: &str = r#"
profile = "sensor-linux"
[[baseline.files]]
path = "/etc/issue.muster"
content = "authorised use only\n"
mode = "0644"
[[override]]
site = "oslo"
[[override.baseline.files]]
path = "/etc/issue.muster"
content = "kun for autorisert bruk\n"
mode = "0644"
"#;

async fn sign(server: &Server, generation: u64, name: &str) -> Value {
    let key = server.site().path(&format!("{name}.key")).display().to_string();
    server.cli(&["baseline", "sign", &generation.to_string(), "--key", &key, "--yes"]).await
}

async fn refusals(server: &Server, id: &str, count: usize) -> String {
    eventually("the device says that it refuses", async || {
        let history = server.history(id).await;
        (history.matches("a baseline was refused").count() >= count).then_some(history)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_baseline_beyond_the_declared_roots_waits_for_two_approvers() {
    let server = Server::start().await;
    let sensor = Agent::enrolled(&server, "sensor-linux").await;
    let id = sensor.id();
    std::fs::create_dir_all(sensor.within("/etc")).unwrap();
    let _running = sensor.start();
    let _ = server.device_when(&id, "it is active", |device| device["state"] == "active").await;

    let generation = server.set_baseline(BASELINE).await;
    let told = refusals(&server, &id, 1).await;
    assert!(told.contains("needs 2 approvers") && told.contains("0 that count have signed"), "{told}");
    let planned = sensor.run(&["plan"]).await.json();
    assert_eq!(
        (&planned["not_taken"]["generation"], &planned["not_taken"]["outcome"]),
        (&generation.into(), &"refused".into()),
        "{planned}"
    );
    assert!(planned["not_taken"]["remedy"].as_str().unwrap().contains("have approvers sign it"), "{planned}");
    let explained = server.cli(&["device", "explain", &id]).await;
    assert_eq!(explained["rule"], "baseline.unsigned", "{explained}");
    let remedy = explained["remedy"].as_str().unwrap();
    assert!(remedy.contains("2 of 2") && remedy.contains(&format!("baseline sign {generation}")), "{remedy}");
    let signed = sign(&server, generation, "alice").await;
    assert_eq!(signed[0]["signed_by"], serde_json::json!(["alice"]), "{signed}");
    let told = refusals(&server, &id, 2).await;
    assert!(told.contains("1 that count have signed"), "one of two is told, and refused: {told}");
    assert!(!sensor.within(BEYOND).exists());

    let _ = server.site().approver("mallory").await;
    let key = server.site().path("mallory.key").display().to_string();
    let refused =
        server.try_cli(&["baseline", "sign", &generation.to_string(), "--key", &key, "--yes"]).await;
    let refused = refused.exits(3).problem();
    assert!(
        refused["detail"].as_str().unwrap().contains("no approver's"),
        "the key, not who brought it: {refused}"
    );

    let _ = sign(&server, generation, "bob").await;
    let _ = server
        .device_when(&id, "it is in place", |device| device["generation"]["reported"] == generation)
        .await;
    assert_eq!(sensor.file(BEYOND), "authorised use only\n");
    let shown = server.cli(&["baseline", "show", "sensor-linux"]).await;
    assert_eq!(shown["papers"][0]["signed_by"], serde_json::json!(["alice", "bob"]), "{shown}");
    assert_eq!(shown["papers"][0]["devices"], 1, "{shown}");
}
