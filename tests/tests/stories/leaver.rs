//! Somebody leaves, and keeps the laptop that is their own: what the organisation put there goes, with proof, and every byte
//! that is theirs stays. A device that never comes back is given up, and nobody calls that proof.

use muster_tests::judge::{self, wipe_proof};
use muster_tests::{Agent, Server, est, eventually};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

const SECRET: &str = "/var/lib/muster-agent/managed/vpn.key";
const NOTICE: &str = "/var/lib/muster-agent/managed/notice";
const OWN_NOTES: &str = "/var/lib/muster-agent/managed/notes";
const BASELINE: &str = "profile = \"laptop-linux\"\n\
    [[baseline.files]]\npath = \"/var/lib/muster-agent/managed/vpn.key\"\ncontent = \"secret\"\nmode = \"0600\"\n\
    [[baseline.files]]\npath = \"/var/lib/muster-agent/managed/notice\"\ncontent = \"ours\"\nmode = \"0644\"\n";

/// What is Ada's: in her home, and beside what is managed.
const HERS: &[(&str, &str)] = &[
    ("/home/ada/letter", "dear Charles"),
    ("/home/ada/engine/notes", "\u{0}\u{1}\u{2} G\n\n"),
    ("/var/lib/muster-agent/managed/notes", "hers, though it lies here"),
    ("/var/lib/muster-agent/managed/ada/diary", "also hers"),
    ("/etc/hosts", "127.0.0.1 localhost\n"),
];

/// Ada's own laptop, in use and enrolled.
async fn her_own(server: &Server) -> Agent {
    let words = ["--profile", "laptop-linux", "--owner", "ada", "--label", "ownership=personal"];
    let minted = server.mint_with(&words).await.remove(0);
    let laptop = Agent::new();
    let _ = laptop.enroll(&minted.enrollment).await.ok();
    let _ = laptop.is_well_kept();
    for (path, content) in HERS {
        let _ = laptop.put(path, content);
    }
    laptop
}

/// Every file beneath the tree of `laptop`, with its content.
fn files(laptop: &Agent) -> BTreeMap<String, Vec<u8>> {
    fn look(directory: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
        for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                look(&entry.path(), found);
            } else {
                found.insert(entry.path().display().to_string(), std::fs::read(entry.path()).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    look(&laptop.within("/"), &mut found);
    found
}

async fn in_use(server: &Server, id: &str, generation: u64) {
    let is_so =
        |device: &Value| device["state"] == "active" && device["generation"]["reported"] == generation;
    let _ = server.device_when(id, "it is in use", is_so).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_keeps_every_byte_that_is_theirs_and_nothing_that_is_ours() {
    let server = Server::start().await;
    let generation = server.set_baseline(BASELINE).await;
    let laptop = her_own(&server).await;
    let before = files(&laptop);
    let (id, identity) = (laptop.id(), laptop.identity());
    let mut running = laptop.start();
    in_use(&server, &id, generation).await;
    assert_eq!((laptop.file(SECRET).as_str(), laptop.file(NOTICE).as_str()), ("secret", "ours"));

    // It is hers: nobody may ask for more, however many would sign.
    for level in ["clear", "crypto-erase"] {
        let words = ["device", "deprovision", &id, "--wipe", level, "--yes"];
        let refused = server.try_cli(&words).await.exits(3);
        assert_eq!(refused.problem()["rule"], "rails.personal", "{level}");
    }
    assert_eq!(server.device(&id).await["state"], "active");
    let warrant = server.deprovision(&id, "retire").await;
    assert_eq!(server.sign_warrant(&warrant, "bob").await["state"], "warranted", "one is enough");
    let gone = server.device_when(&id, "it is proven", |device| device["phase"] == "proven").await;
    assert_eq!((&gone["state"], &gone["retirement"]), (&"retired".into(), &"proven".into()), "{gone}");
    eventually("the agent ends by itself", async || running.has_ended().then_some(())).await;

    assert_eq!(files(&laptop), before, "what was there before is there, and nothing else");
    for (path, content) in HERS {
        assert_eq!(laptop.file(path), *content, "{path}");
    }
    let left: Vec<_> = std::fs::read_dir(laptop.state_dir().join("identity")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(est::prove(&server, &identity).await.is_err(), "its certificate opens nothing");
    says_what_went(&server, &id).await;
    let _ = server.verify_audit().await;
}

/// The record names what went and claims no more; whatever is hers is not in it.
async fn says_what_went(server: &Server, id: &str) {
    let record = server.cli(&["device", "record", id]).await;
    assert_eq!((&record["level"], &record["owner"]), (&"retire".into(), &"ada".into()));
    // Where the disk writes in place, all of it was overwritten; elsewhere no more is claimed than is so.
    let word = judge::earned(&record);
    assert_eq!(record["method"], word, "{record}");
    let statement = record["statement"].as_str().unwrap();
    let claims_clear = !statement.contains("neither Clear nor Purge of NIST SP 800-88r2 is claimed");
    assert_eq!(claims_clear, word == "clear", "{statement}");
    let last = record["receipts"].as_array().unwrap().last().unwrap();
    let items: BTreeMap<&str, &str> =
        last["items"].as_array().unwrap().iter().fold(BTreeMap::new(), |mut items, item| {
            items.insert(item["what"].as_str().unwrap(), item["fate"].as_str().unwrap());
            items
        });
    for path in [SECRET, NOTICE] {
        assert!(["cleared", "deleted"].contains(&items[path]), "{items:?}");
    }
    for hers in ["/home", "ada", OWN_NOTES, "hosts"] {
        assert!(!items.keys().any(|what| what.contains(hers)), "{hers}: {items:?}");
    }
    let (proof, trusted) = server.proof(id).await;
    let _ = wipe_proof(&proof, &trusted).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_laptop_that_never_comes_back_is_given_up_and_nobody_calls_that_proof() {
    let server = Server::start().await;
    let generation = server.set_baseline(BASELINE).await;
    let mut laptop = her_own(&server).await;
    let (id, identity) = (laptop.id(), laptop.identity());
    let running = laptop.start();
    in_use(&server, &id, generation).await;
    drop(running);
    let warrant = server.deprovision(&id, "retire").await;
    let _ = server.sign_warrant(&warrant, "alice").await;
    let early = server.try_cli(&["device", "retire", &id, "--yes"]).await.exits(3);
    assert_eq!(early.problem()["rule"], "retire.not_doomed");

    let server = server.later(8).await;
    let _ = server.device_when(&id, "it is doomed", |device| device["phase"] == "unproven").await;
    let given_up = server.cli(&["device", "retire", &id, "--yes"]).await;
    assert_eq!(
        (&given_up["state"], &given_up["retirement"], &given_up["phase"]),
        (&"retired".into(), &"unproven".into(), &"unproven".into())
    );
    assert_eq!(server.wipe_order(&id).await["phase"], "stopped");
    let refused = server.try_cli(&["device", "record", &id]).await.exits(3);
    assert_eq!(refused.problem()["rule"], "record.unproven");

    // It comes back after all: nothing lets it in, so nothing is ordered of it, and it says so itself.
    laptop.relaunch(server.clock());
    let _running = laptop.start();
    eventually("it is turned away", async || {
        let refused = server.audited("door.enter", "refused").await;
        let object = format!("device/{id}");
        refused.iter().any(|entry| entry["object"] == object.as_str()).then_some(())
    })
    .await;
    assert!(est::prove(&server, &identity).await.is_err(), "its certificate opens nothing");
    assert_eq!((laptop.file(SECRET).as_str(), laptop.file(NOTICE).as_str()), ("secret", "ours"));
    let history = server.history(&id).await;
    assert!(history.contains("given_up") && !history.contains("(proven)"), "{history}");
    let _ = server.verify_audit().await;
}
