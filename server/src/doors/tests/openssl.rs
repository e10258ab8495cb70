//! What OpenSSL's own client finds: old versions and weak suites refused, nothing resumed.

use crate::doors::fixture::*;
use crate::doors::tls::Versions;
use axum::Router;
use axum::routing::get;
use std::path::Path;
use std::process::Stdio;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

fn hello() -> Router {
    Router::new().route("/", get(|| async { "hello" }))
}

/// What `openssl s_client` says, with one request on its standard input.
async fn s_client(server: &Server, args: &[&str], dir: &Path) -> String {
    let mut child = Command::new("openssl")
        .args(["s_client", "-connect", &server.addr.to_string(), "-servername", "localhost", "-ign_eof"])
        .args(args)
        .current_dir(dir)
        .env("OPENSSL_CONF", "/dev/null")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("openssl is installed");
    let mut stdin = child.stdin.take().unwrap();
    // A client that has been refused does not read.
    drop(stdin.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await);
    let output = tokio::time::timeout(SOON, child.wait_with_output()).await.expect("an end").unwrap();
    drop(stdin);
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Was there an alert from the server, and no session? TLS 1.0 and 1.1 lack an extension that rustls asks for
/// before it looks at the version, so their alert is another one.
fn refused(said: &str, alert: &str) -> bool {
    said.contains(alert) && said.contains("New, (NONE), Cipher is (NONE)") && !said.contains("hello")
}

#[tokio::test]
async fn versions_before_1_3_are_refused_by_the_server_itself() {
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    let server = world.serve(hello()).await;
    let alerts = [
        ("-tls1", "alert handshake failure"),
        ("-tls1_1", "alert handshake failure"),
        ("-tls1_2", "alert protocol version"),
    ];
    for (version, alert) in alerts {
        let said = s_client(&server, &[version, "-cipher", "ALL:@SECLEVEL=0"], dir.path()).await;
        assert!(refused(&said, alert), "{version}: {said}");
    }
    let said = s_client(&server, &["-tls1_3"], dir.path()).await;
    assert!(said.contains("hello"), "{said}");
}

#[tokio::test]
async fn tls_1_2_where_it_is_on_means_ecdhe_with_aead() {
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    let server = world.serve_versions(hello(), Versions::Tls12And13).await;
    for version in ["-tls1", "-tls1_1"] {
        let said = s_client(&server, &[version, "-cipher", "ALL:@SECLEVEL=0"], dir.path()).await;
        assert!(refused(&said, "alert handshake failure"), "{version}: {said}");
    }
    for suite in [
        "AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES128-SHA",
        "ECDHE-ECDSA-AES256-SHA384",
        "DHE-RSA-AES128-GCM-SHA256",
    ] {
        let said = s_client(&server, &["-tls1_2", "-cipher", suite], dir.path()).await;
        assert!(refused(&said, "alert handshake failure"), "{suite}: {said}");
    }
    let said = s_client(&server, &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"], dir.path()).await;
    assert!(said.contains("hello"), "{said}");
}

#[tokio::test]
async fn nothing_can_be_resumed_in_either_version() {
    let world = World::new();
    let server = world.serve_versions(hello(), Versions::Tls12And13).await;
    for version in ["-tls1_3", "-tls1_2"] {
        let dir = tempfile::tempdir().unwrap();
        let said = s_client(&server, &[version, "-sess_out", "session"], dir.path()).await;
        assert!(said.contains("New, TLSv1") && said.contains("hello"), "{said}");
        // Without a ticket there is nothing to come back with; if OpenSSL wrote something, it gains nothing.
        if dir.path().join("session").exists() {
            let said = s_client(&server, &[version, "-sess_in", "session"], dir.path()).await;
            assert!(said.contains("New, TLSv1") && !said.contains("Reused"), "{said}");
        } else {
            assert!(!said.contains("New Session Ticket arrived"), "{said}");
        }
    }
}

#[tokio::test]
async fn early_data_is_not_offered() {
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    let server = world.serve(hello()).await;
    let said = s_client(&server, &["-tls1_3"], dir.path()).await;
    assert!(said.contains("Early data was not sent"), "{said}");
    assert!(!said.contains("Max Early Data"), "no session ticket offers any: {said}");
}
