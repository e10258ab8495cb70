//! A thing with a serial number comes back: a token bound to it ends the former life, a mere claim waits for a person.

use muster_tests::est::{self, Pledge};
use muster_tests::{Answer, Identity, Minted, Server, judge};
use serde_json::Value;

/// A token for the thing with this serial number and no other.
async fn bound_to(server: &Server, serial: &str) -> Minted {
    server.mint_with(&["--profile", "laptop-linux", "--serial", serial]).await.remove(0)
}

async fn ask(server: &Server, minted: &Minted, pledge: &Pledge) -> Answer {
    est::enroll(server, &minted.token, &pledge.csr).await.expect("an answer")
}

/// A device that has used its certificate, and its id.
async fn living(server: &Server, minted: &Minted, pledge: &Pledge) -> (Identity, String) {
    let identity = pledge.identity(&ask(server, minted, pledge).await);
    assert_eq!(est::prove(server, &identity).await.expect("an answer").status, 200);
    let id = est::device_id(identity.leaf());
    (identity, id)
}

/// Whether the server neither connects nor answers nor grants anything to `identity`.
async fn is_gone(server: &Server, identity: &Identity) -> bool {
    est::prove(server, identity).await.map_or(true, |answer| answer.status != 200)
}

fn open_lives(devices: &[Value]) -> usize {
    devices.iter().filter(|device| device["state"] != "retired" && device["state"] != "cancelled").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_bound_to_the_serial_number_ends_the_open_life_and_begins_the_next() {
    let server = Server::start().await;
    let (first, former) =
        living(&server, &bound_to(&server, "C02XL0GTJG5H").await, &Pledge::claiming("C02XL0GTJG5H")).await;
    assert_eq!(judge::verify(&server, &first).await.code, Some(0));

    // The request need not repeat what the token says.
    let (second, present) = living(&server, &bound_to(&server, "C02XL0GTJG5H").await, &Pledge::new("")).await;
    assert_ne!(former, present);
    let (before, now) = (server.device(&former).await, server.device(&present).await);
    assert_eq!((&before["state"], &before["retirement"]), (&"retired".into(), &"superseded".into()));
    assert_eq!(before["certificate"]["status"], "superseded", "{before}");
    assert_eq!((&now["serial"], &now["state"]), (&"C02XL0GTJG5H".into(), &"commissioning".into()));
    assert_eq!(before["asset"], now["asset"], "one thing, two lives");
    assert_eq!(open_lives(&server.devices().await), 1);

    assert!(is_gone(&server, &first).await, "the former life is shut out");
    let refused = judge::verify(&server, &first).await;
    assert!(refused.stderr.contains("certificate revoked"), "{refused:?}");
    assert_eq!(judge::verify(&server, &second).await.code, Some(0));
    server.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_bound_to_one_serial_number_is_worth_nothing_to_another_thing() {
    let server = Server::start().await;
    let minted = bound_to(&server, "A-1").await;
    let answer = ask(&server, &minted, &Pledge::claiming("A-2")).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (401, "token_refused"));
    assert_eq!(server.devices().await.len(), 0);
    let (_, id) = living(&server, &minted, &Pledge::claiming("A-1")).await;
    assert_eq!(server.device(&id).await["serial"], "A-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_serial_number_merely_claimed_waits_for_a_person_and_then_supersedes() {
    let server = Server::start().await;
    let (first, former) = living(&server, &server.mint("laptop-linux").await, &Pledge::claiming("B-7")).await;
    assert_eq!(server.device(&former).await["serial"], "B-7", "nobody else held it");

    let (minted, pledge) = (server.mint("laptop-linux").await, Pledge::claiming("B-7"));
    for _ in 0..2 {
        let waiting = ask(&server, &minted, &pledge).await;
        assert_eq!((waiting.status.as_u16(), waiting.code().as_str()), (202, "pending_approval"));
        assert!(waiting.headers.contains_key("retry-after"));
    }
    let devices = server.devices().await;
    assert_eq!(devices.len(), 2, "asking twice is one request: {devices:?}");
    let pending = devices.iter().find(|device| device["state"] == "pending").expect("a device waits");
    let id = pending["id"].as_str().unwrap();
    assert_eq!(est::prove(&server, &first).await.expect("an answer").status, 200, "the former life goes on");
    let explained = server.cli(&["device", "explain", id]).await;
    assert_eq!(explained["rule"], "asset.claimed_while_another_life_is_open", "{explained}");
    assert_eq!(explained["code"], "pending_approval", "the name that the device was told: {explained}");
    let stranger = ask(&server, &minted, &Pledge::claiming("B-7")).await;
    assert_eq!((stranger.status.as_u16(), stranger.code().as_str()), (401, "token_refused"));

    let _ = server.try_cli(&["device", "approve", id]).await.ok();
    let (_, present) = living(&server, &minted, &pledge).await;
    assert_eq!(present, id, "the device that waited is the device that lives");
    assert_eq!(server.device(&former).await["retirement"], "superseded");
    assert!(is_gone(&server, &first).await);
    assert_eq!(open_lives(&server.devices().await), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_waits_is_cancelled_with_its_token() {
    let server = Server::start().await;
    let (first, _) = living(&server, &server.mint("laptop-linux").await, &Pledge::claiming("C-9")).await;
    let (minted, pledge) = (server.mint("laptop-linux").await, Pledge::claiming("C-9"));
    assert_eq!(ask(&server, &minted, &pledge).await.status, 202);
    let _ = server.try_cli(&["token", "revoke", &minted.id, "--yes"]).await.ok();

    let devices = server.devices().await;
    assert_eq!(devices[1]["state"], "cancelled", "{devices:?}");
    let answer = ask(&server, &minted, &pledge).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (401, "token_refused"));
    let id = devices[1]["id"].as_str().unwrap();
    let late = server.try_cli(&["device", "approve", id]).await.exits(3);
    assert!(late.stderr.contains("device_state_refused"), "{}", late.stderr);
    assert_eq!(
        est::prove(&server, &first).await.expect("an answer").status,
        200,
        "the open life never noticed"
    );
}
