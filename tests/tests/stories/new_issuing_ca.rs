//! Another issuing CA takes over: every device that is connected learns of it before anything is signed by it, one that
//! was off is waited for by name, and one that was off during all of it is not locked out.

use muster_tests::est;
use muster_tests::judge;
use muster_tests::{Agent, Launch, Run, Server, Site, eventually};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Runs a step while no server runs.
async fn step(site: &Site, words: &[&str]) -> Run {
    site.muster(&Launch::plain(), words).await
}

/// What `ca show` says once it says that so many devices have the new authority and so many do not.
async fn counted(server: &Server, held: u64, missing: u64) -> Value {
    eventually("the devices acknowledge", async || {
        let shown = server.cli(&["ca", "show"]).await;
        let counted = &shown["acknowledged"];
        (counted["held"] == held && counted["missing"] == missing).then_some(shown)
    })
    .await
}

/// Issuer and revocation list of a certificate, in openssl's words.
async fn provenance(der: &[u8]) -> String {
    let words = ["x509", "-inform", "DER", "-noout", "-issuer", "-ext", "crlDistributionPoints"];
    judge::openssl(&words, der).await.ok().text()
}

async fn authorities(server: &Server) -> Vec<Vec<u8>> {
    let mut door = est::connect(server).await.expect("a connection");
    est::certificates(&door.get(&est::path(None, "cacerts")).await.expect("an answer"))
}

/// The version of the bundle in the discovery document, and how many issuing CAs are in it.
async fn bundle(server: &Server) -> (u64, usize) {
    let mut door = est::connect(server).await.expect("a connection");
    let found: Value =
        serde_json::from_slice(&door.get("/.well-known/muster").await.expect("an answer").body)
            .expect("a discovery document");
    let bundle = &found["trust_bundle"];
    (bundle["version"].as_u64().unwrap(), bundle["issuers"].as_array().map_or(0, Vec::len))
}

/// Rotates by order and waits until the device is connected with the certificate that counts.
async fn rotated(server: &Server, agent: &Agent) {
    let id = agent.id();
    let order = server.order("rotate_identity", &id).await;
    let done = server.done(&order).await;
    assert_eq!(done["phase"], "done", "{done}");
    let _ = server
        .device_when(&id, "it is connected with the certificate that counts", |device| {
            let held = hex::encode(Sha256::digest(agent.identity().leaf()));
            device["connected"] == true
                && device["certificate"]["sha256"] == held.as_str()
                && device["certificate"]["status"] == "current"
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_issuing_ca_is_acknowledged_takes_over_and_locks_nobody_out() {
    let server = Server::start().await;
    let mut devices = Vec::new();
    for _ in 0..4 {
        devices.push(Agent::enrolled(&server, "sensor-linux").await);
    }
    let [first, second, late, absent] = devices.try_into().expect("four devices");
    let _running = [first.start(), second.start()];
    for agent in [&late, &absent] {
        let running = agent.start();
        let _ = server.device_when(&agent.id(), "it is active", |device| device["state"] == "active").await;
        assert_eq!(running.terminate().await, Some(0));
    }
    let (old, kept) = (first.identity(), second.identity());
    assert_eq!((authorities(&server).await.len(), bundle(&server).await), (3, (1, 1)));

    // Made where the root's key is, and not while the server runs.
    let refused = server.try_cli(&["ca", "rotate", "issuing"]).await.exits(1);
    assert_eq!(refused.problem()["exit"], 1);
    let launch = server.in_place(Launch::plain());
    let site = server.stop().await;
    let (inside, offline) = (site.data_dir().join("keys/root.key"), site.path("root.key"));
    std::fs::rename(&inside, &offline).unwrap();
    let offline = offline.display().to_string();
    let rotate = ["ca", "rotate", "issuing", "--root-key", &offline];
    let _ = step(&site, &["ca", "rotate", "issuing"]).await.exits(1);
    let made = step(&site, &rotate).await.ok().json();
    assert_eq!((&made["next"], &made["missing"]), (&"issuing-2".into(), &4.into()), "{made}");
    let again = step(&site, &rotate).await.exits(3).problem();
    assert!(again["remedy"].as_str().unwrap().contains("muster ca activate issuing"), "{again}");

    // Served beside the one that signs; who is connected says that it has it.
    let server = Server::on(site, launch).await;
    let shown = counted(&server, 2, 2).await;
    assert_eq!(shown["next"]["name"], made["name"], "{shown}");
    assert_eq!((authorities(&server).await.len(), bundle(&server).await), (4, (2, 2)));
    let trust = std::fs::read_to_string(first.state_dir().join("trust")).unwrap();
    assert!(trust.contains(shown["next"]["pem"].as_str().unwrap().trim()), "acknowledged and not kept");

    // Two are off: they are named, and nothing but their exact number goes on without them.
    let launch = server.in_place(Launch::plain());
    let site = server.stop().await;
    let missing = step(&site, &["ca", "activate", "issuing"]).await.exits(3);
    for id in [late.id(), absent.id()] {
        assert!(missing.stderr.contains(&id), "{}", missing.stderr);
    }
    let _ = step(&site, &["ca", "activate", "issuing", "--although-missing", "1"]).await.exits(3);

    // One comes back, and has it.
    let server = Server::on(site, launch).await;
    let _late = late.start();
    let _ = counted(&server, 3, 1).await;
    let launch = server.in_place(Launch::plain());
    let site = server.stop().await;
    let _ = step(&site, &["ca", "activate", "issuing", "--although-missing", "1"]).await.ok();

    // From now on the new one signs; what the former signed is as good as it was.
    let server = Server::on(site, launch).await;
    rotated(&server, &first).await;
    let (before, after) = (provenance(old.leaf()).await, provenance(first.identity().leaf()).await);
    assert_ne!(before.lines().next(), after.lines().next(), "another issuer");
    assert_ne!(before.lines().last(), after.lines().last(), "another list");
    assert!(est::prove(&server, &old).await.is_err(), "the former certificate is superseded");
    assert_eq!(est::prove(&server, &kept).await.expect("an answer").status, 200);
    for identity in [&first.identity(), &kept] {
        assert_eq!(judge::verify(&server, identity).await.code, Some(0));
    }
    let revoked = judge::verify(&server, &old).await;
    assert!(revoked.stderr.contains("certificate revoked"), "by the list of the former: {revoked:?}");
    server.revoke(&first.id(), "key_compromise").await;
    let revoked = judge::verify(&server, &first.identity()).await;
    assert!(revoked.stderr.contains("certificate revoked"), "by the list of the new: {revoked:?}");

    // Off during all of it, with authorities of before.
    let former = absent.identity();
    let _absent = absent.start();
    rotated(&server, &absent).await;
    assert_eq!(judge::verify(&server, &absent.identity()).await.code, Some(0));
    assert_ne!(provenance(former.leaf()).await, provenance(absent.identity().leaf()).await);
    server.verify_audit().await;

    let site = server.stop().await;
    let early = step(&site, &["ca", "drop", "former"]).await.exits(3).problem();
    assert!(early["detail"].as_str().or(early["title"].as_str()).is_some(), "{early}");
    assert!(site.data_dir().join("keys/issuing.key").exists(), "its lists must be signed still");
}
