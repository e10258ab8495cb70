//! A factory line: a thousand tokens, sixty-four stations at a time, every unit in the inventory exactly once.

use muster_tests::est::{self, Pledge};
use muster_tests::{Minted, Server};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::task::JoinSet;

/// Units of one shift.
const UNITS: usize = 1_000;
/// Stations that enrol at the same time.
const STATIONS: usize = 64;

/// What became of a unit: its token, its device id, the digest of its certificate.
struct Enrolled {
    token: String,
    device: String,
    sha256: String,
}

async fn station(server: Arc<Server>, work: Arc<Mutex<Vec<(Minted, Pledge)>>>) -> Vec<Enrolled> {
    let mut done = Vec::new();
    loop {
        let next = work.lock().unwrap().pop();
        let Some((minted, pledge)) = next else { return done };
        let answer = est::enroll(&server, &minted.token, &pledge.csr).await.expect("an answer");
        let leaf = est::leaf(&answer);
        est::assert_certifies(&leaf, &pledge);
        let sha256 = hex::encode(Sha256::digest(&leaf));
        done.push(Enrolled { token: minted.id, device: est::device_id(&leaf), sha256 });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_units_enrolled_by_sixty_four_stations_are_in_the_inventory_once_each() {
    let server = Arc::new(Server::start().await);
    let count = UNITS.to_string();
    let minted = server.mint_with(&["--profile", "sensor-linux", "--count", &count]).await;
    assert_eq!(minted.len(), UNITS);
    let units = minted.into_iter().enumerate().map(|(n, token)| (token, Pledge::new(&format!("unit {n}"))));
    let work = Arc::new(Mutex::new(units.collect::<Vec<_>>()));

    let mut line = JoinSet::new();
    for _ in 0..STATIONS {
        line.spawn(station(Arc::clone(&server), Arc::clone(&work)));
    }
    let shift: Vec<Enrolled> = line.join_all().await.into_iter().flatten().collect();
    assert_eq!(shift.len(), UNITS);

    let told: BTreeMap<_, _> = shift.iter().map(|unit| (unit.device.clone(), unit.sha256.clone())).collect();
    assert_eq!(told.len(), UNITS, "every unit is a device of its own");
    let listed = server.devices().await;
    assert_eq!(listed.len(), UNITS, "no device but those that were told");
    let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
    let kept: BTreeMap<_, _> =
        listed.iter().map(|device| (text(&device["id"]), text(&device["certificate"]["sha256"]))).collect();
    assert_eq!(kept, told, "the inventory says what the units were told");

    let expected: BTreeMap<_, _> = shift.into_iter().map(|unit| (unit.token, unit.device)).collect();
    let tokens = server.tokens().await;
    assert!(tokens.iter().all(|token| token["state"] == "spent"), "every token is spent");
    let spent: BTreeMap<_, _> =
        tokens.iter().map(|token| (text(&token["id"]), text(&token["device"]))).collect();
    assert_eq!(spent, expected, "every token became the device that was answered for it");

    assert_eq!(server.audited("est.simpleenroll", "done").await.len(), UNITS);
    assert!(server.verify_audit().await > UNITS as u64, "every enrolment is in the log");
}
