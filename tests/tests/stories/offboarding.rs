//! A laptop leaves the company: asked for by one, signed by two, wiped by the device, proven by its receipts, and its
//! certificate dead at every door.

use muster_tests::judge::wipe_proof;
use muster_tests::{Agent, Server, Tls, eventually};
use serde_json::json;

const MANAGED: &str = "/var/lib/muster-agent/managed/vpn.conf";
const PROFILE: &str = "laptop-linux";
const BASELINE: &str = "profile = \"laptop-linux\"\n[[baseline.files]]\npath = \"/var/lib/muster-agent/managed/vpn.conf\"\n\
                        content = \"secret\"\nmode = \"0600\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_laptop_is_let_go_with_proof_that_a_stranger_can_check() {
    let server = Server::start().await;
    let _ = server.set_baseline(BASELINE).await;
    let laptop = Agent::enrolled(&server, PROFILE).await;
    let _ = laptop.is_well_kept().put("/home/ada/letter", "mine");
    let (id, identity) = (laptop.id(), laptop.identity());
    let mut running = laptop.start();
    let _ = server.device_when(&id, "it passes muster", |device| device["state"] == "active").await;
    assert_eq!(laptop.file(MANAGED), "secret");

    // Asked for, and nothing happens: an operator asks, approvers decide.
    let asked = server.cli(&["device", "deprovision", &id, "--yes"]).await;
    let warrant = asked["warrant"].as_str().unwrap().to_owned();
    assert_eq!((&asked["required"], &asked["phase"]), (&1.into(), &"requested".into()), "{asked}");
    assert_eq!(server.device(&id).await["state"], "deprovisioning");
    assert_eq!(laptop.file(MANAGED), "secret");

    let _ = server.sign_warrant(&warrant, "alice").await;
    let gone = server.device_when(&id, "it is proven", |device| device["phase"] == "proven").await;
    assert_eq!(gone["state"], "retired", "{gone}");
    assert!(!laptop.within(MANAGED).exists(), "what was managed is gone");
    assert_eq!(laptop.file("/home/ada/letter"), "mine", "what is personal stays");
    eventually("the agent ends by itself", async || running.has_ended().then_some(())).await;
    assert!(!laptop.state_dir().join("identity/key.pem").exists(), "the identity goes last");
    assert_eq!(laptop.status().await["state"], "retired");
    eventually("its certificate is dead", async || {
        let door = Tls::with(&server, &identity).connect(&server.endpoints().device).await;
        let Ok(mut door) = door else { return Some(()) };
        door.get("/.well-known/muster").await.is_err().then_some(())
    })
    .await;
    let _ = server.verify_audit().await;
    is_proven_to_a_stranger(&server, &id).await;
}

/// The proof is written, checked by a script that is none of ours, and found out whichever byte of it is changed.
async fn is_proven_to_a_stranger(server: &Server, id: &str) {
    let record = server.cli(&["device", "record", id]).await;
    assert_eq!(
        (&record["outcome"], &record["level"]),
        (&"retired(proven)".into(), &"retire".into()),
        "{record}"
    );
    assert_eq!(record["warrant"]["signed_by"], json!(["alice"]));
    let (proof, authority) = server.proof(id).await;
    let said = wipe_proof(&proof, &authority).await.ok().text();
    assert!(said.starts_with(&format!("PROVEN: {id}")), "{said}");

    let other = "00".repeat(32);
    assert_ne!(wipe_proof(&proof, &other).await.code, Some(0), "another authority");
    let receipts = std::fs::read_dir(proof.join("receipts")).unwrap().map(|file| file.unwrap().path());
    let others =
        ["authority", "warrant.cose", "target.cbor", "inclusion.cbor", "certificate.pem", "root.pem"];
    for file in others.map(|name| proof.join(name)).into_iter().chain(receipts) {
        let bytes = std::fs::read(&file).unwrap();
        for at in [bytes.len() / 3, bytes.len() / 2, bytes.len() - 2] {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            std::fs::write(&file, changed).unwrap();
            assert_ne!(wipe_proof(&proof, &authority).await.code, Some(0), "byte {at} of {}", file.display());
        }
        std::fs::remove_file(&file).unwrap();
        assert_ne!(wipe_proof(&proof, &authority).await.code, Some(0), "{} taken away", file.display());
        std::fs::write(&file, bytes).unwrap();
    }
    let _ = wipe_proof(&proof, &authority).await.ok();
}
