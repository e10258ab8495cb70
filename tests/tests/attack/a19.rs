//! A19: clocks that lie. An agent that wakes in 1970, a year ago or a year ahead; a server whose clock steps a year and
//! back.
//!
//! A device believes no moment before its own certificate, waits by time that nobody sets, and keeps its identity whatever
//! the calendar says. A server that was a year ahead for a while lets in, when it is set right, whom it let in before,
//! and still refuses whom it had refused.

use super::siege::{Siege, patient};
use muster_tests::faults::{Clock, at_time};
use muster_tests::{Agent, Identity, Launch, Server, Site, eventually, judge, until};
use serde_json::Value;

/// What a certificate is, whatever becomes of its device meanwhile.
fn certificate(device: &Value) -> (Value, Value) {
    (device["certificate"]["serial"].clone(), device["certificate"]["status"].clone())
}

async fn connected(server: &Server, id: &str) -> Value {
    server.device_when(id, "it is connected", |device| device["connected"] == true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_clock_fell_back_connects_all_the_same() {
    for when in ["@1970-01-02 00:00:00", "-365d"] {
        let siege = Siege::begin().await;
        let honest = siege.device("sensor-linux").await;
        let server = siege.server();
        let mut sensor = Agent::enrolled(server, "sensor-linux").await;
        let id = sensor.id();
        let before = certificate(&server.device(&id).await);
        sensor.relaunch(at_time(when));
        let running = sensor.start();
        let active = server.device_when(&id, "it passes muster", |device| device["state"] == "active").await;
        assert_eq!(active["certificate"]["serial"], before.0);
        assert_eq!(honest.discover(server).await.status, 200);
        assert_eq!(running.terminate().await, Some(0));
        let _ = siege.lift(2, &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_clock_jumps_a_year_keeps_its_identity_and_tells() {
    for when in ["+365d", "-365d"] {
        let siege = Siege::begin().await;
        let honest = siege.device("sensor-linux").await;
        let server = siege.server();
        let clock = Clock::new();
        let sensor = Agent::under(clock.launch());
        let _ = sensor.enroll(&server.mint("sensor-linux").await.enrollment).await.ok();
        let (id, identity) = (sensor.id(), sensor.identity());
        let running = sensor.start();
        let before = server.device_when(&id, "it passes muster", |device| device["state"] == "active").await;

        clock.set(when);
        // It notices when it next does anything; an order makes it.
        let order = server.order("collect_posture", &id).await;
        let jumped = eventually("the jump is told", async || {
            let history = server.history(&id).await;
            history.contains("clock_jumped").then_some(history)
        });
        let _ = jumped.await;
        assert_eq!(running.terminate().await, Some(0));
        // And again from the start, in the wrong year.
        if when == "-365d" {
            let running = sensor.start();
            let _ = connected(server, &id).await;
            assert_eq!(running.terminate().await, Some(0));
        } else {
            let renewed = sensor.renew().await;
            assert_ne!(renewed.code, Some(0), "a server whose certificate has expired is believed by nobody");
        }
        assert_eq!(honest.discover(server).await.status, 200);
        clock.set("+0");

        let _running = sensor.start();
        let after = connected(server, &id).await;
        assert_eq!((&after["id"], &after["state"]), (&before["id"], &before["state"]));
        assert_eq!(after["certificate"]["status"], "current");
        assert_eq!(sensor.id(), id);
        let same = sensor.identity().leaf() == identity.leaf();
        assert!(
            same || after["certificate"]["serial"] != before["certificate"]["serial"],
            "one or the other"
        );
        let _ = server.done(&order).await;
        // One that it asked for in the wrong year may lie beside the other, unused.
        let asked = siege.entries().await;
        let renewals = asked.iter().filter(|entry| entry["action"] == "est.simplereenroll").count();
        assert!(renewals <= 1 && (same || renewals == 1), "{asked:#?}");
        let certificates = 2 + renewals;
        let _ = siege.lift(certificates, &[]).await;
    }
}

/// How often the server has said in its log that `action` was done.
fn done(server: &Server, action: &str) -> usize {
    let log = server.site().log();
    log.lines().filter(|line| line.contains(&format!("\"action\":\"{action}\""))).count()
}

async fn says(server: &Server, what: &str) {
    until(what, || server.site().log().contains(what).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_steps_a_year_ahead_and_back_expires_nobody_for_good() {
    let clock = Clock::new();
    let launch = patient().with("MUSTER_MQTT_LOOK_S", "1");
    let launch = Launch { environment: [clock.launch().environment, launch.environment].concat(), ..launch };
    let siege = Siege::of(Server::on(Site::founded().await, launch).await).await;
    let server = siege.server();
    // Laptops: a year ahead, their certificates are past and their grace is over.
    let (agent, revoked) =
        (Agent::enrolled(server, "laptop-linux").await, siege.device("laptop-linux").await);
    let laptop = siege.device("laptop-linux").await;
    let id = agent.id();
    let _running = agent.start();
    let before = connected(server, &id).await;
    siege.revoke(&revoked.id).await;
    assert!(refused_by_list(server, &revoked.identity).await);
    let order = server.order("collect_posture", &laptop.id).await;
    assert_eq!(done(server, "certificate.issue_server"), 1);

    clock.set("+365d");
    says(server, "certificate_expired").await;
    // Two lists: one is signed after the end of the revoked certificate, so that the next need not name it.
    for _ in 0..2 {
        let _ = judge::curl(&["--fail", &list_of(&revoked.identity).await]).await.ok();
        clock.set("+367d");
    }
    until("a certificate of the wrong year", || {
        (done(server, "certificate.issue_server") == 2).then_some(())
    })
    .await;

    clock.set("+0");
    until("a certificate of the right year", || {
        (done(server, "certificate.issue_server") == 3).then_some(())
    })
    .await;
    eventually("operators believe it again", async || {
        (server.try_cli(&["device", "list"]).await.code == Some(0)).then_some(())
    })
    .await;
    let after = connected(server, &id).await;
    assert_eq!(certificate(&after), certificate(&before));
    assert_eq!(laptop.discover(server).await.status, 200, "who was silent meanwhile is let in, too");
    assert_eq!(server.cli(&["order", "show", &order]).await["phase"], "ordered");
    assert!(refused_by_list(server, &revoked.identity).await, "what was revoked is on the list again");
    let _ = judge::verify(server, &laptop.identity).await.ok();
    assert!(revoked.connect(server).await.is_err() || revoked_is_silent(server, &revoked.identity).await);
    server.verify_audit().await;
    // Three devices, and the server itself twice more.
    let _ = siege.lift(5, &["certificate_expired"]).await;
}

/// Whether openssl finds a certificate on the list that it names.
async fn refused_by_list(server: &Server, identity: &Identity) -> bool {
    judge::verify(server, identity).await.stderr.contains("certificate revoked")
}

async fn revoked_is_silent(server: &Server, identity: &Identity) -> bool {
    muster_tests::est::prove(server, identity).await.is_err()
}

/// The list that a certificate names.
async fn list_of(identity: &Identity) -> String {
    let pem = super::der::pem("CERTIFICATE", identity.leaf());
    let shown =
        judge::openssl(&["x509", "-noout", "-ext", "crlDistributionPoints"], pem.as_bytes()).await.ok();
    let text = shown.text();
    text.lines().find_map(|line| line.trim().strip_prefix("URI:")).expect("it names a list").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_falls_back_a_year_goes_on_where_it_was() {
    let clock = Clock::new();
    let launch = patient().with("MUSTER_MQTT_LOOK_S", "1");
    let launch = Launch { environment: [clock.launch().environment, launch.environment].concat(), ..launch };
    let siege = Siege::of(Server::on(Site::founded().await, launch).await).await;
    let server = siege.server();
    let sensor = Agent::enrolled(server, "sensor-linux").await;
    let laptop = siege.device("laptop-linux").await;
    let id = sensor.id();
    let _running = sensor.start();
    let before = server.device_when(&id, "it passes muster", |device| device["state"] == "active").await;
    for when in ["@1970-01-02 00:00:00", "-365d"] {
        clock.set(when);
        // Whether it is let in or not: it is no loss for good.
        let _ = laptop.connect(server).await;
        if when == "-365d" {
            // Its own certificates are of the future: it says that it can issue none, and goes on with the one it has.
            says(server, "the server certificate was not renewed").await;
        }
        clock.set("+0");
        let after = connected(server, &id).await;
        assert_eq!((certificate(&after), &after["state"]), (certificate(&before), &before["state"]));
        assert_eq!(laptop.discover(server).await.status, 200);
    }
    server.verify_audit().await;
    let _ = siege.lift(2, &[]).await;
}
