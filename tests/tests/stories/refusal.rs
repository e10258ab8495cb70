//! A laptop refuses: its own policy forbids the wipe that was asked for. It says so with a receipt, loses nothing, and goes
//! back to where it was; the server never calls it proven. What the policy allows may still be asked for.

use muster_tests::{Agent, RunningAgent, Server, eventually};
use serde_json::Value;

const NOTICE: &str = "/var/lib/muster-agent/managed/notice";
const MAIL: &str = "/var/lib/muster-agent/managed/mail/inbox";
const BASELINE: &str = "profile = \"laptop-linux\"\n\
    [[baseline.files]]\npath = \"/var/lib/muster-agent/managed/notice\"\ncontent = \"ours\"\nmode = \"0644\"\n";

/// A laptop in use that refuses to be cleared.
struct Scene {
    server: Server,
    laptop: Agent,
    id: String,
}

impl Scene {
    async fn set() -> (Self, RunningAgent) {
        let server = Server::start().await;
        let generation = server.set_baseline(BASELINE).await;
        let laptop = Agent::enrolled(&server, "laptop-linux").await;
        let _ = laptop.is_well_kept().put(MAIL, "dear Ada").put("/etc/muster/wipe-policy", "refuse clear\n");
        let (id, running) = (laptop.id(), laptop.start());
        let in_use =
            |device: &Value| device["state"] == "active" && device["generation"]["reported"] == generation;
        let _ = server.device_when(&id, "it is in use", in_use).await;
        (Self { server, laptop, id }, running)
    }

    /// Nothing of it is gone, and it holds its identity.
    fn stands(&self) {
        assert_eq!((self.laptop.file(NOTICE), self.laptop.file(MAIL)), ("ours".into(), "dear Ada".into()));
        assert!(self.laptop.state_dir().join("identity/key.pem").exists());
    }

    /// The order was refused by the only receipt, which says why; nobody has called anything proven.
    async fn is_refused_in_writing(&self) {
        let order = self.server.wipe_order(&self.id).await;
        assert_eq!(order["phase"], "refused", "{order}");
        let receipts = order["receipts"].as_array().unwrap();
        let told: Vec<_> = receipts.iter().map(|receipt| (&receipt["phase"], &receipt["outcome"])).collect();
        assert_eq!(told, [(&"accepted".into(), &"refused".into())], "{order}");
        let why = receipts[0]["reason"].as_str().unwrap();
        let warrant = self.server.cli(&["warrant", "show", order["warrant"].as_str().unwrap()]).await;
        assert_eq!(
            (&warrant["targets"][0]["phase"], &warrant["targets"][0]["reason"]),
            (&"refused".into(), &why.into())
        );
        let refused = self.server.try_cli(&["device", "record", &self.id]).await.exits(3);
        assert_eq!(refused.problem()["rule"], "record.unproven");
        let history = self.server.history(&self.id).await;
        assert!(history.contains("\"reason\":\"refused\"") && !history.contains("(proven)"), "{history}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_laptop_that_refuses_loses_nothing_and_goes_back_to_where_it_was() {
    let (scene, mut running) = Scene::set().await;
    let (server, id) = (&scene.server, &scene.id);
    let _ = server.let_go(id, "clear").await;
    let back = server.device_when(id, "it refuses", |device| device["phase"] == "refused").await;
    assert_eq!((&back["state"], &back["retirement"]), (&"active".into(), &Value::Null), "{back}");
    scene.stands();
    scene.is_refused_in_writing().await;
    let explained = server.cli(&["device", "explain", id]).await;
    assert!(explained["remedy"].as_str().unwrap().contains("It refused the order wipe"), "{explained}");

    // It is a device like any other again: on every topic, under its baseline, with the same certificate.
    let _ = server.device_when(id, "it is back", |device| device["connected"] == true).await;
    let order = server.order("collect_posture", id).await;
    let _ = server.done(&order).await;
    let generation = server.set_baseline(&BASELINE.replace("ours", "new")).await;
    let is_new = |device: &Value| device["generation"]["reported"] == generation;
    let _ = server.device_when(id, "its next baseline is in place", is_new).await;
    assert_eq!(scene.laptop.file(NOTICE), "new");
    let _ = muster_tests::judge::verify(server, &scene.laptop.identity()).await.ok();

    // What its policy does not forbid is still to be had.
    let warrant = server.deprovision(id, "retire").await;
    let _ = server.sign_warrant(&warrant, "alice").await;
    let gone = server.device_when(id, "it is proven", |device| device["phase"] == "proven").await;
    assert_eq!(gone["retirement"], "proven", "{gone}");
    eventually("the agent ends by itself", async || running.has_ended().then_some(())).await;
    assert_eq!((scene.laptop.file(NOTICE), scene.laptop.file(MAIL)), (String::new(), "dear Ada".into()));
    let _ = server.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doomed_laptop_that_refuses_is_retired_unproven_and_comes_back_to_nothing() {
    let (mut scene, running) = Scene::set().await;
    drop(running);
    let _ = scene.server.let_go(&scene.id, "clear").await;
    scene = Scene { server: scene.server.later(8).await, ..scene };
    let (server, id) = (&scene.server, &scene.id);
    let _ = server.device_when(id, "it is doomed", |device| device["phase"] == "unproven").await;
    scene.laptop.relaunch(server.clock());
    let _running = scene.laptop.start();
    let end = server.device_when(id, "it refuses", |device| device["state"] == "retired").await;
    assert_eq!((&end["retirement"], &end["phase"]), (&"unproven".into(), &"unproven".into()), "{end}");
    scene.stands();
    scene.is_refused_in_writing().await;
    let identity = scene.laptop.identity();
    assert!(muster_tests::est::prove(server, &identity).await.is_err(), "its certificate opens nothing");
    let _ = server.verify_audit().await;
}
