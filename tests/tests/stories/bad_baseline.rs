//! A baseline that a device cannot put in place: nothing of it stays, the former one does, and the server is told why.

use muster_tests::{Agent, Server, eventually};

fn baseline(more: &str) -> String {
    let file = |name: &str| {
        format!(
            "[[baseline.files]]\npath = \"/var/lib/muster-agent/managed/{name}\"\ncontent = \"{name}\\n\"\nmode = \"0644\"\n"
        )
    };
    format!("profile = \"sensor-linux\"\n{}{more}", file("first"))
        + &if more.is_empty() { String::new() } else { file("second") + &file("taken/third") }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_baseline_that_cannot_be_put_in_place_is_taken_back_whole_and_told() {
    let server = Server::start().await;
    let good = server.set_baseline(&baseline("")).await;
    let sensor = Agent::enrolled(&server, "sensor-linux").await;
    let id = sensor.id();
    let _running = sensor.start();
    let _ = server.device_when(&id, "it is active", |device| device["state"] == "active").await;

    // Where the baseline wants a directory there is somebody's file.
    let _ = sensor.put("/var/lib/muster-agent/managed/taken", "mine");
    let bad = server.set_baseline(&baseline("[baseline.sysctl]\n\"kernel.kptr_restrict\" = \"2\"\n")).await;
    let history = eventually("the rollback is in the log", async || {
        let history = server.history(&id).await;
        history.contains("rolled_back").then_some(history)
    })
    .await;
    assert!(history.contains(&format!("generation {bad} was rolled back")), "{history}");
    let status = sensor.status().await;
    let not_taken = &status["not_taken"];
    assert_eq!(
        (&not_taken["generation"], &not_taken["outcome"]),
        (&bad.into(), &"rolled_back".into()),
        "{status}"
    );
    assert!(not_taken["why"].as_str().unwrap().contains("managed/taken/third"), "{status}");
    assert_eq!(status["generation"], good, "what holds now: {status}");
    let shown = server.device(&id).await;
    assert_eq!(
        (&shown["generation"]["desired"], &shown["generation"]["reported"]),
        (&bad.into(), &good.into())
    );
    assert_eq!(shown["state"], "active");
    assert_eq!(sensor.file("/var/lib/muster-agent/managed/first"), "first\n");
    for gone in ["/var/lib/muster-agent/managed/second", "/etc/sysctl.d/60-muster.conf"] {
        assert!(!sensor.within(gone).exists(), "{gone} stayed of a baseline that was taken back");
    }
    assert_eq!(sensor.file("/var/lib/muster-agent/managed/taken"), "mine");

    // The next one is as good as any.
    let mended = server.set_baseline(&baseline("")).await;
    let _ = server
        .device_when(&id, "the next generation is in place", |device| {
            device["generation"]["reported"] == mended
        })
        .await;
    assert_eq!(sensor.status().await["not_taken"], serde_json::Value::Null);
}
