//! A27: the audit log flipped, dropped, reordered, truncated, forked and rolled back.
//!
//! An export of the real server tells of every change; a server whose store or checkpoint is not what was promised
//! does not start, and says why.

use super::siege::{Siege, still_serves};
use muster_tests::{Launch, Server, Site};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// A log that begins to have more than one tile of entries.
async fn busy() -> Siege {
    let siege = Siege::begin().await;
    let _ = siege.tokens(&serde_json::json!({ "profile": "sensor-linux", "count": 260 })).await;
    let device = siege.device("sensor-linux").await;
    siege.revoke(&device.id).await;
    siege
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target)
        } else {
            let _ = fs::copy(&path, &target).unwrap();
        }
    }
}

/// Puts what lies at `backup` in the place of `at`.
fn restore(backup: &Path, at: &Path) {
    fs::remove_dir_all(at).unwrap();
    copy(backup, at);
}

async fn verify(site: &Site, directory: &Path) -> (Option<i32>, Value) {
    let run = site.muster(&Launch::plain(), &["audit", "verify", &directory.display().to_string()]).await;
    let said = serde_json::from_slice(&run.stdout).unwrap_or(Value::Null);
    (run.code, said)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_an_exported_log_is_found() {
    let siege = busy().await;
    let server = siege.server();
    let site = server.site();
    let export = site.path("export");
    let _ = server.try_cli(&["audit", "export", &export.display().to_string()]).await.ok();
    let (code, said) = verify(site, &export).await;
    assert_eq!((code, &said["ok"]), (Some(0), &Value::Bool(true)), "{said}");
    assert!(said["size"].as_u64().unwrap() > 260);

    let untouched = site.path("untouched");
    copy(&export, &untouched);
    let all = files(&export);
    assert!(all.len() >= 6, "{all:?}");
    let mut tried = 0;
    for file in &all {
        let bytes = fs::read(file).unwrap();
        let name = file.strip_prefix(&export).unwrap().display().to_string();
        let end = bytes.len() - 1;
        for at in [0, bytes.len() / 2, end] {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            fs::write(file, changed).unwrap();
            is_found(site, &export, &format!("byte {at} of {name} flipped")).await;
            tried += 1;
        }
        fs::write(file, &bytes[..end]).unwrap();
        is_found(site, &export, &format!("{name} truncated")).await;
        fs::remove_file(file).unwrap();
        is_found(site, &export, &format!("{name} dropped")).await;
        fs::write(file, &bytes).unwrap();
        tried += 2;
    }
    let entries: Vec<&PathBuf> =
        all.iter().filter(|file| file.to_string_lossy().contains("/tile/entries/")).collect();
    let bytes = fs::read(entries[0]).unwrap();
    fs::write(entries[0], reordered(&bytes)).unwrap();
    is_found(site, &export, "two entries reordered").await;
    fs::write(entries[0], &bytes).unwrap();
    let (last, first) = (fs::read(entries[entries.len() - 1]).unwrap(), bytes);
    fs::write(entries[0], &last).unwrap();
    is_found(site, &export, "a tile in place of another").await;
    fs::write(entries[0], &first).unwrap();
    fs::write(export.join("tile/more"), b"x").unwrap();
    is_found(site, &export, "a file added").await;
    fs::remove_file(export.join("tile/more")).unwrap();
    assert!(tried >= 30);
    let (code, said) = verify(site, &export).await;
    assert_eq!(code, Some(0), "what was put back is whole again: {said}");
    let _ = siege.lift(1, &[]).await;
}

async fn is_found(site: &Site, export: &Path, what: &str) {
    let (code, said) = verify(site, export).await;
    assert_eq!(code, Some(1), "{what}: {said}");
    assert_ne!(said["ok"], Value::Bool(true), "{what}: {said}");
}

/// A tile of entries whose first two have changed places: each is two bytes of length and itself.
fn reordered(tile: &[u8]) -> Vec<u8> {
    let length = |at: usize| 2 + usize::from(u16::from_be_bytes([tile[at], tile[at + 1]]));
    let (first, second) = (length(0), length(length(0)));
    let (one, rest) = tile.split_at(first);
    let (two, rest) = rest.split_at(second);
    [two, one, rest].concat()
}

/// What a server that refuses to start says; its exit code is 1.
async fn refuses_to_start(site: Site, what: &str, words: &str) -> Site {
    let (site, status) = match Server::try_on(site, Launch::plain()).await {
        Err(refused) => refused,
        Ok(_) => panic!("{what}: the server serves"),
    };
    assert_eq!(status.code(), Some(1), "{what}: {}", site.log());
    assert!(site.log().contains(words), "{what}: {}", site.log());
    assert!(!site.log().contains("panicked"), "{what}: {}", site.log());
    site
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_log_went_back_or_forked_does_not_start() {
    let siege = Siege::begin().await;
    let _ = siege.device("sensor-linux").await;
    let site = siege.into_server().stop().await;
    let (data, early, late) = (site.data_dir(), site.path("early"), site.path("late"));
    copy(&data, &early);

    let siege = Siege::of(site.serve().await).await;
    let _ = siege.device("sensor-linux").await;
    let site = siege.into_server().stop().await;
    copy(&data, &late);

    restore(&early.join("store"), &data.join("store"));
    let site = refuses_to_start(site, "an older store under a newer checkpoint", "went back").await;

    // Another story from the same beginning, at least as long as the one that was promised.
    restore(&early.join("audit"), &data.join("audit"));
    let siege = Siege::of(site.serve().await).await;
    let _ = siege.tokens(&serde_json::json!({ "profile": "sensor-linux", "count": 20 })).await;
    let site = siege.into_server().stop().await;
    restore(&late.join("audit"), &data.join("audit"));
    let site = refuses_to_start(site, "another story than the one promised", "forked").await;

    restore(&late.join("store"), &data.join("store"));
    fs::remove_file(data.join("audit/checkpoint")).unwrap();
    let site = refuses_to_start(site, "no checkpoint", "checkpoint").await;
    let checkpoint = fs::read(late.join("audit/checkpoint")).unwrap();
    for at in [checkpoint.len() / 2, checkpoint.len() - 4] {
        let mut changed = checkpoint.clone();
        changed[at] ^= 1;
        fs::write(data.join("audit/checkpoint"), changed).unwrap();
    }
    let site = refuses_to_start(site, "a changed checkpoint", "checkpoint").await;

    restore(&late.join("audit"), &data.join("audit"));
    let server = site.serve().await;
    still_serves(&server).await;
    let said = server.cli(&["audit", "verify"]).await;
    assert_eq!(said["ok"], true, "{said}");
    let _ = server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_on_the_same_directory_is_refused_and_the_first_serves_on() {
    let siege = Siege::begin().await;
    let site = siege.server().site();
    let anywhere = ["DEVICE", "MQTT", "STATUS", "ADMIN"]
        .iter()
        .fold(Launch::plain(), |launch, door| launch.with(format!("MUSTER_LISTEN_{door}"), "127.0.0.1:0"));
    let run = site.muster(&anywhere, &["serve"]).await.exits(1);
    assert!(!run.stderr.is_empty() && !run.stderr.contains("panicked"), "{}", run.stderr);
    assert!(site.data_dir().join("endpoints.json").exists(), "the first server's addresses stay published");
    let _ = siege.lift(0, &[]).await;
}
