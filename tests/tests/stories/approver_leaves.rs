//! An approver leaves: somebody joins, signs in vain for a day, and then the one who leaves is removed. Each step is what
//! both quorums signed, one signature made on a machine without a way to the server; a device hears of it at once.

use muster_tests::{Agent, Launch, Server, eventually};
use serde_json::Value;

async fn knows(agent: &Agent, version: u64) {
    eventually("the device knows the version", async || {
        let status = agent.status().await;
        (status["authority_version"] == version).then_some(())
    })
    .await;
}

/// Signs on a machine that has the package and the key, and nothing else.
async fn sign_offline(server: &Server, name: &str) -> Value {
    let site = server.site();
    let path = |name: &str| site.path(name).display().to_string();
    let (package, signature, key) = (path("package"), path("signature"), path(&format!("{name}.key")));
    let _ = server.cli(&["authority", "show", "--pending", "--package", &package]).await;
    let nowhere = Launch::plain().with("MUSTER_SERVER", "https://127.0.0.1:1");
    let words = ["authority", "sign", "--key", &key, "--package", &package, "--out", &signature, "--yes"];
    let _ = site.muster(&nowhere, &words).await.ok();
    server.cli(&["authority", "sign", "--signature", &signature]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approver_leaves_and_another_takes_their_place() {
    let server = Server::start().await;
    let device = Agent::enrolled(&server, "sensor-linux").await;
    let _running = device.start();
    let _ = server.device_when(&device.id(), "it is active", |device| device["state"] == "active").await;
    knows(&device, 1).await;

    assert_eq!(server.cli(&["authority", "show", "--pending"]).await, Value::Null, "nothing is proposed");
    let nine = server.propose(&["--required", "wipe(clear)=9"]).await;
    let warned = nine["warnings"][0].as_str().unwrap();
    assert!(warned.contains("wipe(clear) would need 9 approvers and there would be 2"), "{nine}");
    let carol = server.site().approver("carol").await;
    let proposed = server.propose(&["--add-approver", &format!("carol={carol}")]).await;
    assert!(proposed["changes"][0].as_str().unwrap().starts_with("+ approver carol, key "), "{proposed}");
    assert_eq!(server.sign_as("alice").await["state"], "pending");
    assert_eq!(proposed["warnings"], serde_json::json!([]), "{proposed}");
    assert_eq!(server.authority_version().await, 1, "one signature changes nothing");
    let settled = sign_offline(&server, "bob").await;
    assert_eq!((&settled["state"], &settled["version"]), (&"in_force".into(), &2.into()), "{settled}");
    knows(&device, 2).await;

    // Who joined today removes nobody today, together with whom they like.
    let _ = server.propose(&["--remove-approver", "bob"]).await;
    let _ = server.sign_as("alice").await;
    let waits = server.sign_as("carol").await;
    assert_eq!(waits["state"], "pending", "{waits}");
    assert_eq!(waits["waiting"][0]["name"], "carol", "{waits}");
    assert_eq!(server.sign_as("bob").await["state"], "in_force", "who leaves may sign for it");
    knows(&device, 3).await;
    let shown = eventually("the server hears that the device knows", async || {
        let shown = server.cli(&["authority", "show"]).await;
        (shown["heard"]["held"] == 1).then_some(shown)
    })
    .await;
    assert_eq!(shown["heard"]["missing"], 0, "{shown}");
    assert_ne!(shown["sha256"], shown["digest"], "the newest document's digest, and the first one's");
    let baseline = server.cli(&["baseline", "show", "sensor-linux"]).await;
    assert!(baseline["heard_because"].as_str().unwrap().contains("became version 3"), "{baseline}");

    // Whoever has left signs nothing any more, and nobody is asked to leave whom a successor needs.
    let _ = server.propose(&["--required", "lock=2"]).await;
    let key = server.site().path("bob.key").display().to_string();
    let refused = server.try_cli(&["authority", "sign", "--key", &key, "--yes"]).await.exits(3);
    assert!(refused.stderr.contains("neither an approver"), "{}", refused.stderr);
    let last =
        server.try_cli(&["authority", "propose", "--remove-approver", "carol"]).await.exits(2).problem();
    assert!(last.to_string().contains("--required authority="), "{last}");
    assert_eq!(server.authority_version().await, 3);

    let history = server.cli(&["authority", "history"]).await;
    let versions: Vec<_> = history.as_array().unwrap().iter().map(|one| one["version"].clone()).collect();
    assert_eq!(versions, [1, 2, 3]);
    assert_eq!(history[1]["signed_by"], serde_json::json!(["alice", "bob"]), "{history}");
    assert!(history[2]["changes"][0].as_str().unwrap().starts_with("- approver bob, key "), "{history}");
    let doctor = server.try_cli(&["doctor"]).await;
    assert!(doctor.text().contains("as many approvers are needed as exist"), "{}", doctor.text());
    server.verify_audit().await;
}
