//! A laptop that nobody hears from: its lease lapses by the time it was switched on, it locks itself, and the server's next
//! word unlocks it. Another drops its secrets, and renews its lease while it is held. A third wipes itself, as approvers have
//! signed beforehand, and proves it when it is found.
//!
//! That it was switched on for nearly two weeks is written on its sheet, while its agent is stopped; the rest is real.

use muster_tests::{Agent, Launch, RunningAgent, Server, Site, eventually, judge};
use muster_wire::digest::Sha256Digest;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt as _;

const SECRET: &str = "/var/lib/muster-agent/managed/vpn.key";
const DATA: &str = "/var/lib/muster-agent/managed/customers";
const NOTICE: &str = "/var/lib/muster-agent/managed/notice";
const TWO_WEEKS_S: u64 = 14 * 86_400;

fn baseline(on_lapse: &str) -> String {
    format!(
        "profile = \"laptop-linux\"\n[[baseline.files]]\npath = \"{SECRET}\"\ncontent = \"hidden-0123\"\nmode = \"0600\"\n\
         [[baseline.files]]\npath = \"{NOTICE}\"\ncontent = \"ours\"\n\
         [lease]\nlasts_hours = 336\non_lapse = \"{on_lapse}\"\n"
    )
}

/// A laptop with its baseline in place; it writes down when it is locked and unlocked.
async fn laptop(server: &Server, on_lapse: &str) -> Agent {
    let generation = server.set_baseline(&baseline(on_lapse)).await;
    let laptop = Agent::enrolled(server, "laptop-linux").await;
    for hook in ["lock", "unlock"] {
        let path = format!("/etc/muster/hooks/{hook}");
        let trace = laptop.path("trace").display().to_string();
        let _ = laptop.put(&path, &format!("#!/bin/sh\necho {hook} >> {trace}\n"));
        for part in ["/etc", "/etc/muster", "/etc/muster/hooks", &path] {
            std::fs::set_permissions(laptop.within(part), std::fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
    let running = laptop.start();
    let reported = |device: &Value| device["generation"]["reported"] == generation;
    let _ = server.device_when(&laptop.id(), "its baseline is in place", reported).await;
    assert_eq!(running.terminate().await, Some(0));
    laptop
}

/// The stopped laptop was switched on for its whole lease but a second.
fn has_been_silent(laptop: &Agent) {
    let sheet = laptop.state_dir().join("lease");
    let text = std::fs::read_to_string(&sheet).unwrap();
    let mut state: Value = serde_json::from_str(text.split_once('\n').unwrap().1).unwrap();
    for counted in ["used_ms", "apart_ms"] {
        state[counted] = json!(TWO_WEEKS_S * 1000 - 1000);
    }
    let state = state.to_string();
    std::fs::write(&sheet, format!("{}\n{state}", Sha256Digest::of(state.as_bytes()).to_hex())).unwrap();
}

fn trace(laptop: &Agent) -> Vec<String> {
    let trace = std::fs::read_to_string(laptop.path("trace")).unwrap_or_default();
    trace.lines().map(str::to_owned).collect()
}

async fn until_lapsed(laptop: &Agent) {
    eventually("the lease has lapsed", async || {
        let status = laptop.status().await;
        (status["stale"] == true && status["lease"]["lapsed"] == true).then_some(())
    })
    .await;
}

/// A server that is away; nobody else is at its address meanwhile.
struct Away {
    site: Site,
    launch: Launch,
}

impl Away {
    async fn back(self) -> Server {
        Server::on(self.site, self.launch).await
    }
}

/// The server goes away, and the stopped laptop is started and alone until its lease has lapsed.
async fn until_lapsed_alone(server: Server, laptop: &Agent) -> (Away, RunningAgent) {
    let launch = server.in_place(Launch::plain());
    let away = Away { launch, site: server.stop().await };
    has_been_silent(laptop);
    let running = laptop.start();
    until_lapsed(laptop).await;
    (away, running)
}

/// A warrant by which the running laptop clears itself when its lease has lapsed for an hour, signed and in place there.
async fn placed(server: &Server, laptop: &Agent) -> String {
    let id = laptop.id();
    let asked = ["warrant", "request", "--kind", "wipe_on_lapse", "--after", "1h", "--device", &id, "--yes"];
    let asked = server.cli(&asked).await;
    assert_eq!((&asked["required"], &asked["phase"]), (&2.into(), &Value::Null), "{asked}");
    let warrant = asked["warrant"].as_str().unwrap().to_owned();
    let _ = server.sign_warrant(&warrant, "alice").await;
    assert_eq!(laptop.status().await["clears"], Value::Null, "one of two has signed");
    let _ = server.sign_warrant(&warrant, "bob").await;
    eventually("it is placed", async || (laptop.status().await["clears"]["after_s"] == 3600).then_some(()))
        .await;
    warrant
}

async fn until_renewed(laptop: &Agent) -> Value {
    eventually("the lease runs again", async || {
        let status = laptop.status().await;
        (status["stale"] == false && status["lease"]["left_s"].as_u64() > Some(TWO_WEEKS_S - 600))
            .then_some(status)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_laptop_locks_itself_again_after_each_start_and_the_next_word_unlocks_it() {
    let server = Server::start().await;
    let laptop = laptop(&server, "lock").await;
    let shown = server.cli(&["baseline", "show", "laptop-linux"]).await;
    assert_eq!(shown["lease"], json!({"lasts_hours": 336, "on_lapse": "lock"}));
    let lease = laptop.status().await["lease"].clone();
    assert_eq!(
        (&lease["lasts_s"], &lease["on_lapse"], &lease["lapsed"]),
        (&json!(TWO_WEEKS_S), &json!("lock"), &json!(false))
    );
    assert!(lease["left_s"].as_u64() > Some(TWO_WEEKS_S - 600), "{lease}");

    let (away, running) = until_lapsed_alone(server, &laptop).await;
    eventually("it is locked", async || (trace(&laptop) == ["lock"]).then_some(())).await;
    drop(running);
    let running = laptop.start();
    eventually("it is locked after a crash, too", async || {
        (trace(&laptop) == ["lock", "lock"]).then_some(())
    })
    .await;

    let server = away.back().await;
    let status = until_renewed(&laptop).await;
    assert_eq!(status["lease"]["lapsed"], false, "{status}");
    assert_eq!(trace(&laptop), ["lock", "lock", "unlock"]);
    eventually("both are told", async || {
        let history = server.history(&laptop.id()).await;
        (history.contains("lease_lapsed") && history.contains("lease_renewed")).then_some(())
    })
    .await;
    assert_eq!(running.terminate().await, Some(0));
    let _ = server.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_dropped_and_come_again_and_a_held_laptop_renews_its_lease() {
    let server = Server::start().await;
    let laptop = laptop(&server, "drop_secrets").await;
    assert_eq!(laptop.file(SECRET), "hidden-0123");
    let (away, running) = until_lapsed_alone(server, &laptop).await;
    eventually("the secret is gone", async || (!laptop.within(SECRET).exists()).then_some(())).await;
    assert_eq!(laptop.file(NOTICE), "ours", "what is no secret stays");
    let kept = |name: &str| std::fs::read(laptop.state_dir().join(name)).unwrap_or_default();
    let in_base64 = b"aGlkZGVuLTAxMjM";
    eventually("the agent's copy is gone", async || {
        let applied = kept("applied");
        (!applied.windows(in_base64.len()).any(|part| part == in_base64) && applied.len() < 4096)
            .then_some(())
    })
    .await;

    let server = away.back().await;
    let _ = until_renewed(&laptop).await;
    eventually("the secret is there again", async || (laptop.file(SECRET) == "hidden-0123").then_some(()))
        .await;
    assert_eq!(running.terminate().await, Some(0));

    let _ = server.cli(&["device", "quarantine", &laptop.id()]).await;
    has_been_silent(&laptop);
    let running = laptop.start();
    let _ = until_renewed(&laptop).await;
    assert_eq!(server.device(&laptop.id()).await["state"], "quarantined");
    assert_eq!(running.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_laptop_that_nobody_hears_from_clears_itself_as_approvers_signed_and_proves_it_when_it_is_found() {
    let server = Server::start().await;
    let laptop = laptop(&server, "clear").await;
    let id = laptop.id();
    let _ = laptop.put(DATA, "the customers").put("/home/ada/letter", "mine");
    let running = laptop.start();
    let warrant = placed(&server, &laptop).await;
    let device = server.device(&id).await;
    assert_ne!(device["state"], "deprovisioning", "it goes on as before");
    let order = placed_order(&server, &id).await;
    eventually("its receipt says so", async || {
        let receipts = server.cli(&["order", "show", &order]).await["receipts"].clone();
        (receipts[0]["phase"] == "accepted").then_some(())
    })
    .await;
    assert_eq!(running.terminate().await, Some(0));

    let (away, running) = until_lapsed_alone(server, &laptop).await;
    assert_eq!(laptop.file(DATA), "the customers", "it has a moment to hear a newer word");
    eventually("it has cleared itself", async || (!laptop.within(DATA).exists()).then_some(())).await;
    assert!(!laptop.within(SECRET).exists());
    assert_eq!(laptop.file("/home/ada/letter"), "mine", "beneath the declared roots only");

    let server = away.back().await;
    let gone = server.device_when(&id, "it is proven", |device| device["phase"] == "proven").await;
    assert_eq!((&gone["state"], &gone["retirement"]), (&"retired".into(), &"proven".into()), "{gone}");
    let shown = server.cli(&["order", "show", &order]).await;
    let phases: Vec<&str> =
        shown["receipts"].as_array().unwrap().iter().map(|one| one["phase"].as_str().unwrap()).collect();
    assert_eq!(phases, ["accepted", "armed", "keys_destroyed", "data_destroyed", "verified"]);
    assert_eq!(server.cli(&["warrant", "show", &warrant]).await["state"], "done");
    let (proof, trusted) = server.proof(&id).await;
    let said = judge::wipe_proof(&proof, &trusted).await.ok().text();
    assert!(said.starts_with(&format!("PROVEN: {id}")), "{said}");
    // The word for its last receipt comes at the next contact.
    let _ = running.terminate().await;
    let mut running = laptop.start();
    eventually("the agent ends by itself", async || running.has_ended().then_some(())).await;
    assert_eq!(laptop.status().await["state"], "retired");
    let _ = server.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_approver_stops_what_was_placed_and_the_laptop_only_tells() {
    let server = Server::start().await;
    let laptop = laptop(&server, "clear").await;
    let id = laptop.id();
    let running = laptop.start();
    let warrant = placed(&server, &laptop).await;
    let key = server.site().path("alice.key").display().to_string();
    let stopped = server.cli(&["warrant", "stop", &warrant, "--key", &key]).await;
    assert_eq!(stopped["state"], "stopped", "{stopped}");
    eventually("it is gone", async || laptop.status().await["clears"].is_null().then_some(())).await;
    assert_eq!(running.terminate().await, Some(0));
    let (away, running) = until_lapsed_alone(server, &laptop).await;
    let server = away.back().await;
    let _ = until_renewed(&laptop).await;
    eventually("why nothing happened is told", async || {
        server.history(&id).await.contains("its approvers have placed no warrant").then_some(())
    })
    .await;
    assert_eq!(laptop.file(SECRET), "hidden-0123");
    assert_eq!(running.terminate().await, Some(0));
}

/// The order to wipe on lapse that `device` was given.
async fn placed_order(server: &Server, device: &str) -> String {
    let orders = server.cli(&["order", "list", "--device", device]).await;
    let placed = orders.as_array().unwrap().iter().find(|order| order["kind"] == "wipe_on_lapse");
    placed.unwrap_or_else(|| panic!("none in {orders}"))["id"].as_str().unwrap().to_owned()
}
