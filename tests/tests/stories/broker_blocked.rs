//! The broker's port is blocked for an hour, and only that: what happens on the device meanwhile is told afterwards, once
//! and in its order, however many replies are lost then; certificates are renewed by the other door.
//!
//! The time of day is the test's. Within the hour the device is switched off and on, and each time somebody has changed
//! something on it by hand.

use muster_tests::faults::Clock;
use muster_tests::{Agent, Proxy, Server, Site, est, eventually, until};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const PARTS: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];

fn path(part: &str) -> String {
    format!("/var/lib/muster-agent/managed/{part}")
}

fn baseline(edition: &str) -> String {
    let file = |part: &&str| {
        format!("[[baseline.files]]\npath = \"{}\"\ncontent = \"{edition}\"\nmode = \"0644\"\n", path(part))
    };
    format!("profile = \"sensor-linux\"\n{}", PARTS.iter().map(file).collect::<String>())
}

/// A sensor with its baseline in place, whose way to the broker leads through a network that can be blocked.
struct Scene {
    clock: Clock,
    gate: Proxy,
    server: Server,
    sensor: Agent,
    id: String,
}

impl Scene {
    async fn set() -> Self {
        let (clock, gate) = (Clock::new(), Proxy::bind().await);
        let launch = clock
            .launch()
            .with("MUSTER_MQTT_CONNECTS_PER_MINUTE", "100000")
            .with("MUSTER_ADVERTISE_MQTT", format!("localhost:{}", gate.port()));
        let server = Server::on(Site::founded().await, launch).await;
        gate.forward_to(&server.endpoints().mqtt);
        let generation = server.set_baseline(&baseline("first")).await;
        let sensor = Agent::under(clock.launch());
        let _ = sensor.enroll(&server.mint("sensor-linux").await.enrollment).await.ok();
        let id = sensor.id();
        let scene = Self { clock, gate, server, sensor, id };
        let running = scene.sensor.start();
        scene.is_at(generation).await;
        assert_eq!(running.terminate().await, Some(0));
        scene
    }

    async fn is_at(&self, generation: u64) {
        let is_so =
            |device: &Value| device["state"] == "active" && device["generation"]["reported"] == generation;
        let _ = self.server.device_when(&self.id, "its baseline is in place", is_so).await;
    }

    /// Files of events that wait to be told.
    fn waiting(&self) -> usize {
        let names = std::fs::read_dir(self.sensor.state_dir().join("outbox")).into_iter().flatten().flatten();
        names.filter(|file| file.file_name().to_string_lossy().starts_with("event-")).count()
    }

    /// It is so many minutes later, and somebody has changed a part by hand.
    fn is_later(&self, minutes: usize, part: &str) {
        self.clock.set(&format!("+{minutes}m"));
        let _ = self.sensor.put(&path(part), "by hand");
    }

    async fn has_put_right(&self, part: &str, waiting: usize) {
        let path = path(part);
        until("it is put right, and waits to be told", || {
            (self.sensor.file(&path) == "first" && self.waiting() == waiting).then_some(())
        })
        .await;
    }

    /// What the device has told of drift, in the order of the log.
    async fn told(&self) -> Vec<String> {
        let history = self.server.cli(&["device", "history", &self.id]).await;
        let mut found = Vec::new();
        details(&history, &mut found);
        found.into_iter().filter_map(|detail| detail.strip_prefix("put right: ").map(str::to_owned)).collect()
    }
}

/// Every `detail` there is in `json`, in its order.
fn details(json: &Value, found: &mut Vec<String>) {
    match json {
        Value::Array(all) => all.iter().for_each(|one| details(one, found)),
        Value::Object(members) => {
            found.extend(members.get("detail").and_then(Value::as_str).map(str::to_owned));
            members.values().for_each(|one| details(one, found));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hour_without_the_broker_loses_nothing_and_tells_everything_once_and_in_order() {
    let scene = Scene::set().await;
    let Scene { gate, server, sensor, id, .. } = &scene;
    let running = sensor.start();
    let _ = sensor.connected().await;
    gate.swallow();
    assert_eq!(running.terminate().await, Some(0), "its goodbye is swallowed, too");

    for (count, part) in PARTS.iter().enumerate() {
        if count == PARTS.len() / 2 {
            gate.refuse();
        }
        scene.is_later(5 * (count + 1), part);
        let running = sensor.start();
        scene.has_put_right(part, count + 1).await;
        assert_eq!(running.terminate().await, Some(0));
    }
    assert_eq!(scene.told().await, [""; 0]);
    let former = sensor.identity();
    let _ = sensor.renew().await.ok();
    assert_ne!(sensor.identity().leaf(), former.leaf(), "the other door is open");
    assert_eq!(est::prove(server, &sensor.identity()).await.unwrap().status, 200);
    let order = server.order("collect_posture", id).await;
    let generation = server.set_baseline(&baseline("second")).await;
    let before = gate.in_vain();
    let running = sensor.start();
    until("it goes on trying", || (gate.in_vain() > before + 1).then_some(())).await;
    drop(running);
    assert_eq!(scene.waiting(), PARTS.len());

    // The line is open, and bad: each time one more reply arrives, and whoever lost one begins again.
    gate.open();
    let mut lost = 0;
    for n in 1.. {
        gate.cut_at_reply(n);
        let running = sensor.start();
        until("a reply is lost, or nothing waits", || (gate.is_cut() || scene.waiting() == 0).then_some(()))
            .await;
        drop(running);
        if !gate.has_cut() {
            break;
        }
        lost += 1;
    }
    assert!(lost > 4, "it took only {lost} replies");
    let _running = sensor.start();
    let shown = server.done(&order).await;
    assert_eq!(shown["receipts"].as_array().map(Vec::len), Some(1), "{shown}");
    scene.is_at(generation).await;
    assert_eq!(sensor.file(&path("a")), "second");
    let told = eventually("everything is told", async || {
        let told = scene.told().await;
        (told.len() >= PARTS.len()).then_some(told)
    })
    .await;
    assert_eq!(told, PARTS.map(path));
    assert_eq!(scene.waiting(), 0);
    let device = server.device(id).await;
    let held = hex::encode(Sha256::digest(sensor.identity().leaf()));
    assert_eq!(device["certificate"]["sha256"], json!(held));
    let history = server.history(id).await;
    assert_eq!(history.matches(&format!("\"generation {generation}\"")).count(), 1, "once: {history}");
    let _ = server.verify_audit().await;
}
