//! The command key and the audit key are replaced while the server runs: a device that is connected follows at once, one
//! that is off follows when it comes back, and the audit log goes on under the new key.

use muster_tests::judge::audit_log;
use muster_tests::{Agent, Server};
use std::collections::BTreeSet;
use std::path::Path;

/// The names of the server's own keys on its disk.
fn keys(server: &Server) -> BTreeSet<String> {
    let names = std::fs::read_dir(server.site().data_dir().join("keys")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("command") || name.starts_with("audit")).collect()
}

/// The file with the entries of the exported log in `directory`, and where in it entry `seq` lies.
fn entry(directory: &Path, seq: u64) -> (std::path::PathBuf, std::ops::Range<usize>) {
    let mut tiles =
        std::fs::read_dir(directory.join("tile/entries/000.p")).expect("a log of fewer than 256 entries");
    let file = tiles.next().unwrap().unwrap().path();
    let bundle = std::fs::read(&file).unwrap();
    let mut begin = 0;
    for _ in 0..seq {
        begin += 2 + usize::from(u16::from_be_bytes([bundle[begin], bundle[begin + 1]]));
    }
    let length = usize::from(u16::from_be_bytes([bundle[begin], bundle[begin + 1]]));
    (file, begin + 2..begin + 2 + length)
}

/// With the middle byte of `range` in `file` changed, the independent script has to find it; answers what it says.
async fn finds(log: &Path, known: &[&str], file: &Path, range: std::ops::Range<usize>) -> serde_json::Value {
    let good = std::fs::read(file).unwrap();
    let mut changed = good.clone();
    changed[usize::midpoint(range.start, range.end)] ^= 1;
    std::fs::write(file, changed).unwrap();
    let report = audit_log(log, known).await.exits(1).json();
    std::fs::write(file, good).unwrap();
    assert_eq!(report["ok"], false);
    report
}

/// Somebody with python3 and openssl, and the digest that the founding printed, follows the log from one key to the next.
async fn a_stranger_follows(before: &Path, after: &Path, founding: &str) {
    let (vkey, earlier) = (before.join("audit.vkey"), before.join("checkpoint"));
    let (vkey, earlier) = (vkey.display().to_string(), earlier.display().to_string());
    let handed_over = audit_log(before, &["--key", &vkey]).await.ok().json()["size"].as_u64().unwrap();
    let known = ["--key", &vkey, "--authority", founding, "--since", &earlier];
    let report = audit_log(after, &known).await.ok().json();
    assert!(report["size"].as_u64().unwrap() > handed_over + 1, "{report}");
    // The former key alone is no reason to believe the new one; neither is another founding.
    let _ = audit_log(after, &["--key", &vkey]).await.exits(1);
    let _ = audit_log(after, &["--authority", &"0".repeat(64)]).await.exits(1);
    // One byte on each side of the handover.
    for seq in [handed_over - 1, handed_over] {
        let (file, range) = entry(after, seq);
        assert_eq!(finds(after, &known, &file, range).await["first_bad"], seq);
        let number = seq.to_string();
        let proven = audit_log(after, &[&known[..], &["--entry", &number]].concat()).await.ok().json();
        assert_eq!(proven["entry"]["seq"], seq);
    }
    // And one in each document that the handover rests on.
    for document in ["authority/000", "authority/001", "checkpoint"] {
        let file = after.join(document);
        let length = std::fs::read(&file).unwrap().len();
        let _ = finds(after, &known, &file, 0..length).await;
    }
    let _ = audit_log(after, &known).await.ok();
}

async fn obeys(server: &Server, agent: &Agent) {
    let order = server.order("collect_posture", &agent.id()).await;
    let _ = server.done(&order).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_replaced_and_nobody_is_lost() {
    let server = Server::start().await;
    let (present, absent) =
        (Agent::enrolled(&server, "sensor-linux").await, Agent::enrolled(&server, "sensor-linux").await);
    let _present = present.start();
    let off = absent.start();
    for agent in [&present, &absent] {
        let _ = server.device_when(&agent.id(), "it is active", |device| device["state"] == "active").await;
    }
    assert_eq!(off.terminate().await, Some(0));
    let path = |name: &str| server.site().path(name).display().to_string();
    let (before, after, vkey) = (path("before"), path("after"), path("before/audit.vkey"));
    let _ = server.cli(&["audit", "export", &before]).await;
    let founded = keys(&server);

    let _ = server.succeed(&["--new-command-key", "--new-audit-key"]).await;
    let replaced = keys(&server);
    assert!(replaced.is_disjoint(&founded) && replaced.len() == 2, "{replaced:?}");
    obeys(&server, &present).await;
    assert_eq!(present.status().await["authority_version"], 2);

    // The former key is believed for what it signed, and nobody is asked to trust the new one on its word.
    let _ = server.cli(&["audit", "export", &after]).await;
    let digest = server.cli(&["authority", "show"]).await["digest"].as_str().unwrap().to_owned();
    let _ = server.try_cli(&["audit", "verify", &before, "--key", &vkey]).await.ok();
    let _ = server.try_cli(&["audit", "verify", &after, "--key", &vkey]).await.exits(1);
    let with_founding = ["audit", "verify", &after, "--key", &vkey, "--authority", &digest];
    let _ = server.try_cli(&with_founding).await.ok();
    a_stranger_follows(Path::new(&before), Path::new(&after), &digest).await;

    // Killed right after another replacement: what was committed is what is served.
    let _ = server.succeed(&["--new-command-key"]).await;
    let launch = server.in_place(muster_tests::Launch::plain());
    let server = Server::on(server.kill(), launch).await;
    assert_eq!(server.authority_version().await, 3);
    let _absent = absent.start();
    for agent in [&present, &absent] {
        obeys(&server, agent).await;
        assert_eq!(agent.status().await["authority_version"], 3);
    }
    assert_eq!(keys(&server).len(), 2);
    server.verify_audit().await;
}
