//! A maker of sensors runs nothing of ours: `docs/est-curl.sh`, verbatim, and openssl as the judge.

use muster_tests::{Launch, Run, Server, judge, repository, run};
use std::path::Path;

/// Runs the recipe in `directory` with the token on standard input.
async fn recipe(server: &Server, token: &str, root: &str, directory: &Path) -> Run {
    let script = repository().join("docs/est-curl.sh");
    let (_, port) = server.endpoints().device.rsplit_once(':').expect("an endpoint has a port");
    let address = format!("localhost:{}", port.trim_end_matches('/'));
    let directory = directory.display().to_string();
    let arguments = [address.as_str(), "-", root, &directory];
    run(&Launch::plain(), &script, &arguments, format!("{token}\n").as_bytes()).await
}

/// The `ca=` value of an enrolment string.
fn pin(enrollment: &str) -> String {
    let (_, query) = enrollment.split_once('?').expect("an enrolment string has a query");
    query.split('&').find_map(|pair| pair.strip_prefix("ca=")).expect("it pins a root").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sensor_enrols_and_renews_with_openssl_and_curl_alone() {
    let server = Server::start().await;
    let minted = server.mint("sensor-linux").await;
    let sensor = tempfile::tempdir().unwrap();
    let said = recipe(&server, &minted.token, &pin(&minted.enrollment), sensor.path()).await.ok();
    assert!(said.text().contains("enrolled:") && said.text().contains("renewed:"), "{}", said.text());

    let devices = server.cli(&["device", "list"]).await;
    assert_eq!(devices.as_array().map(Vec::len), Some(1), "enrolled and renewed is one device: {devices}");
    assert_eq!(devices[0]["certificate"]["status"], "current");

    let _ = judge::verify_with_crl(sensor.path()).await.ok();
    let device = devices[0]["id"].as_str().unwrap();
    let _ = server
        .try_cli(&["device", "revoke", device, "--reason", "cessation_of_operation", "--yes"])
        .await
        .ok();
    let refused = judge::verify_with_crl(sensor.path()).await;
    assert_ne!(refused.code, Some(0), "{refused:?}");
    assert!(refused.stderr.contains("certificate revoked"), "{}", refused.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_spent_and_a_root_that_is_not_pinned_end_the_recipe_with_one_sentence() {
    let server = Server::start().await;
    let minted = server.mint("sensor-linux").await;
    let (first, second, third) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let _ = recipe(&server, &minted.token, &pin(&minted.enrollment), first.path()).await.ok();

    let spent = recipe(&server, &minted.token, &pin(&minted.enrollment), second.path()).await.exits(1);
    assert!(spent.stderr.contains("simpleenroll was answered with 401"), "{}", spent.stderr);
    assert!(!second.path().join("certificate.pem").exists());

    let fresh = server.mint("sensor-linux").await;
    let wrong = "A".repeat(43);
    let unpinned = recipe(&server, &fresh.token, &wrong, third.path()).await.exits(1);
    assert!(unpinned.stderr.contains("no certificate of this server has the pin"), "{}", unpinned.stderr);
    let shown = server.cli(&["token", "show", &fresh.id]).await;
    assert!(!shown.to_string().contains("spent"), "an unpinned server never saw the token: {shown}");
}
