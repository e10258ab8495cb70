//! Somebody changes by hand what the baseline says: it is put right, and whoever looks at the server knows.

use muster_tests::{Agent, Server, eventually};

const NOTICE: &str = "/var/lib/muster-agent/managed/notice";
const BASELINE: &str = r#"
profile = "sensor-linux"
[[baseline.files]]
path = "/var/lib/muster-agent/managed/notice"
content = "Do not open.\n"
mode = "0644"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_changed_by_hand_is_put_right_and_reported() {
    let server = Server::start().await;
    let generation = server.set_baseline(BASELINE).await;
    let sensor = Agent::enrolled(&server, "sensor-linux").await;
    let id = sensor.id();
    let running = sensor.start();
    let _ = server.device_when(&id, "it is active", |device| device["state"] == "active").await;
    assert!(!server.history(&id).await.contains("drift_repaired"));

    let _ = sensor.put(NOTICE, "Open at will.\n");
    let order = server.order("collect_posture", &id).await;
    let history = eventually("the repair is in the log", async || {
        let history = server.history(&id).await;
        history.contains("drift_repaired").then_some(history)
    })
    .await;
    assert!(history.contains(NOTICE), "{history}");
    assert_eq!(sensor.file(NOTICE), "Do not open.\n");
    let _ = server.done(&order).await;
    let shown = server.device(&id).await;
    assert_eq!(shown["generation"]["reported"], generation, "the same generation, in force again");

    // While the agent does not run nobody looks; the first thing it does is to look.
    assert_eq!(running.terminate().await, Some(0));
    std::fs::remove_file(sensor.within(NOTICE)).unwrap();
    let _running = sensor.start();
    eventually("the second repair is in the log", async || {
        (server.history(&id).await.matches("drift_repaired").count() == 2).then_some(())
    })
    .await;
    assert_eq!(sensor.file(NOTICE), "Do not open.\n");
}
