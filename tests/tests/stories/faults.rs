//! The machine under the server fails: one clear sentence, the documented exit code, and nothing lost.

use muster_tests::est::{self, Pledge};
use muster_tests::{Identity, Launch, Server, Site};
use sha2::{Digest, Sha256};
use std::net::TcpListener;
use std::path::Path;

/// Runs `muster serve` where it must not come to serve: exit code 1; answers its one sentence and what to do next.
async fn does_not_serve(site: &Site, launch: Launch, port: Option<u16>) -> String {
    let launch = ["DEVICE", "MQTT", "STATUS", "ADMIN"].iter().fold(launch, |launch, listener| {
        let port = port.filter(|_| *listener == "DEVICE").unwrap_or(0);
        launch.with(format!("MUSTER_LISTEN_{listener}"), format!("127.0.0.1:{port}"))
    });
    let problem = site.muster(&launch, &["serve"]).await.exits(1).problem();
    format!("{} {}", problem["title"], problem["remedy"])
}

/// What the log says to a person at the end: one sentence, and what to do next.
fn last_words(log: &str) -> String {
    assert!(!log.contains("panicked"), "{log}");
    let found = |start: &str| log.lines().filter(|line| line.starts_with(start)).count();
    assert_eq!((found("error: "), found("next: ")), (1, 1), "{log}");
    log.lines().filter(|line| line.starts_with("error: ") || line.starts_with("next: ")).collect()
}

/// strace, failing every call of `calls` that touches `path`, from the `n`-th on, with `error`.
fn failing(path: &Path, calls: &str, error: &str, n: u32) -> Launch {
    let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:error={error}:when={n}+"));
    let path = path.display().to_string();
    let words = ["strace", "-DD", "-f", "-qq", "-o", "/dev/null", "-P", &path, "-e", &trace, "-e", &inject];
    Launch { wrapper: words.iter().map(Into::into).collect(), environment: Vec::new() }
}

/// A device that has used its certificate.
async fn device(server: &Server) -> Identity {
    let (minted, pledge) = (server.mint("sensor-linux").await, Pledge::new(""));
    let answer = est::enroll(server, &minted.token, &pledge.csr).await.expect("an answer");
    let identity = pledge.identity(&answer);
    is_let_in(server, &identity).await;
    identity
}

async fn is_let_in(server: &Server, identity: &Identity) {
    assert_eq!(est::prove(server, identity).await.expect("an answer").status, 200);
}

/// Serves `site` again and finds everything as it was.
async fn nothing_is_lost(site: Site, identity: &Identity) {
    let server = site.serve().await;
    is_let_in(&server, identity).await;
    let _ = device(&server).await;
    server.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named_with_the_setting_that_chooses_another() {
    let site = Site::founded().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let said = does_not_serve(&site, Launch::plain(), Some(port)).await;
    assert!(said.contains(&format!("127.0.0.1:{port}")) && said.contains("MUSTER_LISTEN_DEVICE"), "{said}");
    drop(taken);
    let _ = device(&site.serve().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_leaves_the_first_alone() {
    let server = Server::start().await;
    let said = does_not_serve(server.site(), Launch::plain(), None).await;
    assert!(said.contains("in use by another process"), "{said}");
    let _ = device(&server).await;
    let _ = server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_where_nothing_can_be_written_is_named() {
    let site = Site::empty();
    let denied = failing(&site.data_dir(), "mkdir,mkdirat", "EROFS", 1);
    let run = site.init(&denied, &["--solo"]).await.exits(1);
    assert!(run.stderr.contains(&site.data_dir().display().to_string()), "{}", run.stderr);
    let _ = site.init(&Launch::plain(), &["--solo"]).await.ok();

    let lock = site.data_dir().join("store/lock");
    let said = does_not_serve(&site, failing(&lock, "openat", "EACCES", 1), None).await;
    assert!(said.contains(&lock.display().to_string()) && said.contains("the user who owns"), "{said}");
    let _ = device(&site.serve().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_at_the_founding_is_said_and_the_same_command_mends_it() {
    for n in [1, 5, 20] {
        let site = Site::empty();
        let full = muster_tests::faults::fail_from("fsync", n, "ENOSPC");
        let run = site.init(&full, &["--solo"]).await.exits(1);
        assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
        assert!(run.stderr.contains("No space left on device"), "{}", run.stderr);
        let _ = site.init(&Launch::plain(), &["--solo"]).await.ok();
        let _ = device(&site.serve().await).await;
    }
}

/// A server that keeps so many MiB free.
fn floor(mib: u64) -> Launch {
    Launch::plain().with("MUSTER_STORE_FREE_SPACE_FLOOR_MIB", mib.to_string())
}

/// Free space on the disk of `path`, in MiB.
fn free_mib(path: &Path) -> u64 {
    let disk = rustix::fs::statvfs(path).unwrap();
    (disk.f_bavail * disk.f_frsize) >> 20
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_nearly_full_enrols_nobody_and_still_revokes() {
    let server = Server::start().await;
    let identity = device(&server).await;
    let (waiting, pledge) = (server.mint("sensor-linux").await, Pledge::new(""));
    // What is free is below the floor, and above the quarter of it that is kept back for what protects.
    let free = free_mib(&server.site().data_dir());
    let server = Server::on(server.stop().await, floor(free * 2)).await;
    let answer = est::enroll(&server, &waiting.token, &pledge.csr).await.expect("an answer");
    assert_eq!(answer.code(), "store_full");
    let refused = server.try_cli(&["token", "create", "--profile", "sensor-linux"]).await;
    assert_ne!(refused.code, Some(0), "{refused:?}");
    assert!(refused.stderr.contains("store_full"), "{}", refused.stderr);
    is_let_in(&server, &identity).await;
    server.revoke(&est::device_id(identity.leaf()), "key_compromise").await;

    let site = server.stop().await;
    let said = does_not_serve(&site, floor(free * 8), None).await;
    assert!(said.contains("free") && said.contains("store/ballast"), "{said}");
    let server = site.serve().await;
    let answer = est::enroll(&server, &waiting.token, &pledge.csr).await.expect("an answer");
    est::assert_certifies(&est::leaf(&answer), &pledge);
    server.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_under_the_store_ends_the_server_and_loses_nothing() {
    let server = Server::start().await;
    let identity = device(&server).await;
    let site = server.stop().await;
    let db = site.data_dir().join("store/db");
    let (mut site, mut failures) = (site, 0);
    for n in 1.. {
        let started = Server::try_on(site, failing(&db, "fdatasync", "EIO", n)).await;
        let status;
        (site, status) = match started {
            Err(ended) => ended,
            Ok(server) => {
                let minted = server.try_cli(&["token", "create", "--profile", "sensor-linux"]).await;
                if minted.code == Some(0) { server.asked_to_stop().await } else { server.ended().await }
            }
        };
        if status.success() {
            break;
        }
        failures += 1;
        assert_eq!(status.code(), Some(1), "{}", site.log());
        let _ = last_words(&site.log());
    }
    assert!(failures > 2, "only {failures} places to fail at");
    nothing_is_lost(site, &identity).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_store_is_refused_untouched() {
    let server = Server::start().await;
    let identity = device(&server).await;
    let site = server.stop().await;
    let db = site.data_dir().join("store/db");
    let whole = std::fs::read(&db).unwrap();
    let mut damaged = whole.clone();
    for byte in damaged.iter_mut().take(64 * 1024) {
        *byte ^= 0x5a;
    }
    std::fs::write(&db, &damaged).unwrap();
    let said = does_not_serve(&site, Launch::plain(), None).await;
    assert!(said.to_lowercase().contains("restore"), "{said}");
    let left = std::fs::read(&db).unwrap();
    assert_eq!(Sha256::digest(&left), Sha256::digest(&damaged), "a refused store is left as it was");
    std::fs::write(&db, &whole).unwrap();
    nothing_is_lost(site, &identity).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_suddenly_empty_is_refused() {
    let server = Server::start().await;
    let identity = device(&server).await;
    let site = server.stop().await;
    let store = site.data_dir().join("store");
    let aside = site.path("aside");
    std::fs::create_dir(&aside).unwrap();
    std::fs::rename(store.join("db"), aside.join("db")).unwrap();
    let said = does_not_serve(&site, Launch::plain(), None).await;
    assert!(said.contains("unexpectedly empty") && said.to_lowercase().contains("restore"), "{said}");
    std::fs::write(store.join("db"), b"").unwrap();
    let said = does_not_serve(&site, Launch::plain(), None).await;
    assert!(said.contains("unexpectedly empty"), "{said}");
    std::fs::rename(aside.join("db"), store.join("db")).unwrap();

    std::fs::rename(&store, aside.join("store")).unwrap();
    let said = does_not_serve(&site, Launch::plain(), None).await;
    assert!(said.to_lowercase().contains("restore") || said.contains("muster init"), "{said}");
    std::fs::rename(aside.join("store"), &store).unwrap();
    nothing_is_lost(site, &identity).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_of_a_dead_server_are_unreachable_and_the_next_start_replaces_them() {
    let server = Server::start().await;
    let identity = device(&server).await;
    let site = server.kill();
    assert!(site.data_dir().join("endpoints.json").exists(), "a killed server cannot tidy up");
    let run = site.muster(&Launch::plain(), &["device", "list"]).await.exits(5);
    assert!(run.stderr.contains("reached") || run.stderr.contains("muster serve"), "{}", run.stderr);
    nothing_is_lost(site, &identity).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unfounded_directory_is_refused_with_the_command_that_founds_it() {
    let site = Site::empty();
    let problem = site.muster(&Launch::plain(), &["serve"]).await.exits(4).problem();
    assert!(problem["remedy"].as_str().is_some_and(|next| next.contains("muster init")), "{problem}");
}
