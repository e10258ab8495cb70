//! A laptop is stolen. It is let go at once, doomed after a week, and off for ninety days, while its certificate expires; then
//! somebody switches it on, and cuts its power whenever it begins. The third time it is wiped to the end, and proves it.

use muster_tests::faults::kill_at;
use muster_tests::judge::{self, wipe_proof};
use muster_tests::{Agent, Launch, Server, Tls, Volume, eventually};
use serde_json::{Value, json};

const PROFILE: &str = "laptop-linux";
const SECRET: &str = "/var/lib/muster-agent/managed/vpn.key";
const NOTICE: &str = "/var/lib/muster-agent/managed/notice";
const MAIL: &str = "/var/lib/muster-agent/managed/mail/inbox";
const LETTER: &str = "/home/ada/letter";
const BASELINE: &str = "profile = \"laptop-linux\"\n\
    [[baseline.files]]\npath = \"/var/lib/muster-agent/managed/vpn.key\"\ncontent = \"secret\"\nmode = \"0600\"\n\
    [[baseline.files]]\npath = \"/var/lib/muster-agent/managed/notice\"\ncontent = \"ours\"\nmode = \"0644\"\n";

/// A laptop in use, its disk, and the server that knows it.
struct Scene {
    server: Server,
    laptop: Agent,
    disk: Volume,
    id: String,
}

impl Scene {
    /// In use until somebody switches it off and carries it away.
    async fn of_a_theft() -> Self {
        let server = Server::start().await;
        let generation = server.set_baseline(BASELINE).await;
        let laptop = Agent::enrolled(&server, PROFILE).await;
        let _ = laptop.is_well_kept().put(LETTER, "mine").put(MAIL, "dear Ada");
        let disk = Volume::of(&laptop, "/srv/disk.img").await;
        let (id, running) = (laptop.id(), laptop.start());
        let in_use =
            |device: &Value| device["state"] == "active" && device["generation"]["reported"] == generation;
        let _ = server.device_when(&id, "it is in use", in_use).await;
        drop(running);
        assert!(disk.opens().await, "whoever knows the passphrase opens the disk");
        Self { server, laptop, disk, id }
    }

    async fn shown(&self, phase: &str) -> Value {
        self.server.device_when(&self.id, phase, |device| device["phase"] == phase).await
    }

    /// Lets time pass, with the laptop off.
    async fn later(self, days: u64) -> Self {
        Self { server: self.server.later(days).await, ..self }
    }

    /// The laptop is switched on, and its power is cut as it makes its `n`-th `call`.
    async fn is_cut_at(&mut self, call: &str, n: u32) {
        let cut = Launch { wrapper: kill_at(call, n).wrapper, ..self.server.clock() };
        self.laptop.relaunch(cut);
        let mut running = self.laptop.start();
        eventually("its power is cut", async || running.has_ended().then_some(())).await;
        self.laptop.relaunch(self.server.clock());
        assert_ne!(self.laptop.status().await["state"], "retired");
        let device = self.server.device(&self.id).await;
        assert_eq!(device["state"], "deprovisioning", "nothing is proven yet: {device}");
        // Whether its last words reached anybody is luck.
        assert!(["armed", "executing"].map(Value::from).contains(&device["phase"]), "{device}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_laptop_comes_back_after_ninety_days_and_is_wiped_with_proof() {
    let mut scene = Scene::of_a_theft().await;
    let (id, identity) = (scene.id.clone(), scene.laptop.identity());
    let words = ["warrant", "request", "--kind", "wipe", "--level", "crypto-erase", "--device", &id, "--yes"];
    let asked = scene.server.cli(&words).await;
    let warrant = asked["warrant"].as_str().unwrap().to_owned();
    assert_eq!((&asked["required"], &asked["phase"]), (&2.into(), &"requested".into()), "{asked}");
    assert_eq!(scene.server.sign_warrant(&warrant, "alice").await["state"], "requested");
    assert_eq!(scene.server.sign_warrant(&warrant, "bob").await["state"], "warranted");
    let _ = scene.shown("ordered").await;
    let early = scene.server.try_cli(&["device", "retire", &id, "--yes"]).await.exits(3);
    assert_eq!(early.problem()["rule"], "retire.not_doomed", "nobody has waited for it yet");

    // The week is over: nobody else believes its certificate any more, and its order waits on.
    scene = scene.later(8).await;
    let doomed = scene.shown("unproven").await;
    assert_eq!((&doomed["state"], &doomed["retirement"]), (&"deprovisioning".into(), &Value::Null));
    let judged = judge::verify(&scene.server, &identity).await;
    assert!(judged.stderr.contains("certificate revoked"), "{judged:?}");
    let refused = scene.server.try_cli(&["device", "record", &id]).await.exits(3);
    assert_eq!(refused.problem()["code"], "device_state_refused", "there is no record without proof");

    // Off for ninety days, it is switched on; by now its certificate has expired as well.
    scene = scene.later(90).await;
    assert_eq!(scene.shown("unproven").await["state"], "deprovisioning");
    scene.is_cut_at("unlinkat", 1).await;
    assert_eq!(scene.laptop.file(NOTICE), "ours", "its power went before that");
    assert!(scene.disk.opens().await);
    scene.is_cut_at("unlinkat", 2).await;
    assert_eq!(scene.laptop.file(SECRET), "");
    assert!(!scene.disk.opens().await, "the keys of its disk went first");
    assert!(scene.laptop.within(MAIL).exists() || scene.laptop.within(NOTICE).exists(), "it was cut short");

    let mut running = scene.laptop.start();
    let gone = scene.shown("proven").await;
    assert_eq!((&gone["state"], &gone["retirement"]), (&"retired".into(), &"proven".into()), "{gone}");
    eventually("the agent ends by itself", async || running.has_ended().then_some(())).await;
    assert_eq!(scene.laptop.status().await["state"], "retired");
    assert!(!scene.laptop.state_dir().join("identity/key.pem").exists(), "the identity goes last");
    for path in [SECRET, NOTICE, MAIL] {
        assert!(!scene.laptop.within(path).exists(), "{path}");
    }
    assert_eq!(scene.laptop.file(LETTER), "mine", "no order named that");
    is_told(&scene, &warrant).await;
    is_dead_at_every_door(&scene.server, &identity).await;
    let _ = scene.server.verify_audit().await;
}

/// Order, history, record and proof tell one story.
async fn is_told(scene: &Scene, warrant: &str) {
    let (server, id) = (&scene.server, &scene.id);
    let order = server.wipe_order(id).await;
    let receipts = order["receipts"].as_array().unwrap();
    let phases: Vec<&str> = receipts.iter().map(|receipt| receipt["phase"].as_str().unwrap()).collect();
    assert_eq!(phases, ["accepted", "armed", "keys_destroyed", "data_destroyed", "verified"]);

    let history = server.cli(&["device", "history", id]).await;
    let entries = history.as_array().unwrap().iter();
    let mut told: Vec<&str> = entries.filter_map(|entry| entry["new_state"].as_str()).collect();
    told.retain(|state| state.starts_with("deprovisioning") || state.starts_with("retired"));
    told.dedup();
    let phases = ["requested", "warranted", "ordered", "unproven", "armed", "executing"];
    let expected = phases.map(|phase| format!("deprovisioning({phase})"));
    assert_eq!(told, [&expected.each_ref().map(String::as_str)[..], &["retired(proven)"]].concat());
    assert!(history.to_string().contains("\"reason\":\"doomed\""), "{history}");

    let record = server.cli(&["device", "record", id]).await;
    assert_eq!(
        (&record["outcome"], &record["level"]),
        (&"retired(proven)".into(), &"crypto-erase".into()),
        "{record}"
    );
    assert_eq!(record["warrant"]["id"], warrant);
    assert_eq!(record["method"], judge::earned(&record), "no more than every item has earned");
    assert_eq!(record["warrant"]["signed_by"], json!(["alice", "bob"]));
    let (proof, trusted) = server.proof(id).await;
    let said = wipe_proof(&proof, &trusted).await.ok().text();
    assert!(said.starts_with(&format!("PROVEN: {id}")), "{said}");
}

/// Neither devices' listener nor the gate lets it in, and no relying party believes it.
async fn is_dead_at_every_door(server: &Server, identity: &muster_tests::Identity) {
    for url in [&server.endpoints().device, &server.endpoints().mqtt] {
        eventually("its certificate opens nothing", async || {
            let Ok(mut door) = Tls::with(server, identity).connect(url).await else { return Some(()) };
            door.get("/.well-known/muster").await.is_err().then_some(())
        })
        .await;
    }
}
