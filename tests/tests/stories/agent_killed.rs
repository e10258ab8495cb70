//! The running agent is killed at every durable step it takes while it has something to write down and to tell: somebody
//! has changed a file by hand, an order waits, and a new baseline may be there. What it told was told once, nothing is
//! missing, and it is where it should be.
//!
//! Each kill happens a minute after the one before, by a clock that server and agent share: a device may report only so
//! often in a minute.

use muster_tests::faults::{Clock, kill_at};
use muster_tests::{Agent, Launch, Server, Site, eventually};
use sha2::{Digest, Sha256};

/// What a crash is counted by. The three spellings of a rename are one.
const CALLS: [&str; 3] = ["fdatasync", "fsync", "rename,renameat,renameat2"];
/// More than there are kills.
const PARTS: usize = 120;
/// A file that every baseline has otherwise.
const EDITION: &str = "/var/lib/muster-agent/managed/edition";

fn path(part: usize) -> String {
    format!("/var/lib/muster-agent/managed/part-{part}")
}

fn file(path: &str, content: &str) -> String {
    format!("[[baseline.files]]\npath = \"{path}\"\ncontent = \"{content}\"\nmode = \"0644\"\n")
}

fn baseline(round: usize) -> String {
    let parts: String = (0..PARTS).map(|part| file(&path(part), "ours")).collect();
    format!("profile = \"sensor-linux\"\n{parts}{}", file(EDITION, &format!("edition {round}")))
}

struct Scene {
    clock: Clock,
    server: Server,
    sensor: Agent,
    id: String,
    generation: u64,
    rounds: usize,
}

impl Scene {
    async fn set() -> Self {
        let clock = Clock::new();
        let launch = clock.launch().with("MUSTER_MQTT_CONNECTS_PER_MINUTE", "100000");
        let server = Server::on(Site::founded().await, launch).await;
        let generation = server.set_baseline(&baseline(0)).await;
        let sensor = Agent::under(clock.launch());
        let _ = sensor.enroll(&server.mint("sensor-linux").await.enrollment).await.ok();
        let id = sensor.id();
        let running = sensor.start();
        let is_ready = |device: &serde_json::Value| {
            device["state"] == "active" && device["generation"]["reported"] == generation
        };
        let _ = server.device_when(&id, "its baseline is in place", is_ready).await;
        assert_eq!(running.terminate().await, Some(0));
        Self { clock, server, sensor, id, generation, rounds: 0 }
    }

    /// Whether the order is done, everything is told, and the baseline is in place.
    async fn is_settled(&self, order: &str) -> bool {
        let shown = self.server.cli(&["order", "show", order]).await;
        shown["phase"] == "done" && self.has_told(self.rounds).await >= 1 && {
            self.server.device(&self.id).await["generation"]["reported"] == self.generation
        }
    }

    /// How often it has told that it put `part` right.
    async fn has_told(&self, part: usize) -> usize {
        self.server.history(&self.id).await.matches(&format!("put right: {}\"", path(part))).count()
    }

    /// One run under `kill`, and one without after it; whether the kill came.
    async fn goes_on(&mut self, call: &str, n: u32) -> bool {
        assert!(self.rounds < PARTS, "more kills than parts");
        self.clock.set(&format!("+{}m", self.rounds + 1));
        let part = path(self.rounds);
        let _ = self.sensor.put(&part, "by hand");
        let order = self.server.order("collect_posture", &self.id).await;
        let environment = self.clock.launch().environment;
        self.sensor.relaunch(Launch { environment, ..kill_at(call, n) });
        let mut running = self.sensor.start();
        let was_killed = eventually("it dies or is done", async || {
            if running.has_ended() {
                return Some(true);
            }
            self.is_settled(&order).await.then_some(false)
        })
        .await;
        drop(running);
        self.sensor.relaunch(self.clock.launch());
        let running = self.sensor.start();
        let what = format!("killed at {call} {n}, it goes on where it was");
        eventually(&what, async || self.is_settled(&order).await.then_some(())).await;
        assert_eq!(self.sensor.file(&part), "ours", "{call} {n}");
        drop(running);
        self.rounds += 1;
        was_killed
    }

    /// Everything was told once, and the device is connected with the certificate that counts.
    async fn is_whole(&self) {
        let history = self.server.history(&self.id).await;
        for part in 0..self.rounds {
            let told = history.matches(&format!("put right: {}\"", path(part))).count();
            assert_eq!(told, 1, "part {part}: {history}");
        }
        assert_eq!(history.matches("put right: ").count(), self.rounds, "{history}");
        let _running = self.sensor.start();
        let held = hex::encode(Sha256::digest(self.sensor.identity().leaf()));
        let _ = self
            .server
            .device_when(&self.id, "it is connected with its certificate", |device| {
                device["connected"] == true && device["certificate"]["sha256"] == held.as_str()
            })
            .await;
        let _ = self.server.verify_audit().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_anywhere_tells_what_it_put_right_once_and_leaves_no_order_behind() {
    let mut scene = Scene::set().await;
    for call in CALLS {
        for n in 1.. {
            if !scene.goes_on(call, n).await {
                break;
            }
        }
    }
    assert!(scene.rounds > 15, "there are only {} durable steps", scene.rounds);
    scene.is_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_anywhere_in_a_new_baseline_ends_with_all_of_it() {
    let mut scene = Scene::set().await;
    for call in CALLS {
        for n in 1.. {
            let edition = scene.rounds + 1;
            scene.generation = scene.server.set_baseline(&baseline(edition)).await;
            let was_killed = scene.goes_on(call, n).await;
            assert_eq!(scene.sensor.file(EDITION), format!("edition {edition}"));
            if !was_killed {
                break;
            }
        }
    }
    scene.is_whole().await;
    let history = scene.server.history(&scene.id).await;
    assert!(history.contains("was interrupted and taken back"), "none of the kills came in the middle");
}
