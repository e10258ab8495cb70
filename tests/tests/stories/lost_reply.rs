//! A reply is lost: the same token with the same key gets the same bytes, for a day, until they are used or revoked.
//!
//! Another key on a spent token is somebody else: refused, and recorded.

use muster_tests::est::{self, Pledge};
use muster_tests::faults::at_time;
use muster_tests::{Agent, Answer, Identity, Launch, Minted, Proxy, Server, Site, Tls, eventually};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

/// Enrols; the leaf.
async fn enrolled(server: &Server, minted: &Minted, pledge: &Pledge) -> Vec<u8> {
    est::leaf(&ask(server, minted, pledge).await)
}

async fn ask(server: &Server, minted: &Minted, pledge: &Pledge) -> Answer {
    est::enroll(server, &minted.token, &pledge.csr).await.expect("an answer")
}

/// Enrols and asks again: refused, whatever the reason.
async fn is_refused(server: &Server, minted: &Minted, pledge: &Pledge) {
    let answer = ask(server, minted, pledge).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (401, "token_refused"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_token_and_key_get_the_same_bytes_also_after_a_restart_and_a_kill() {
    let mut server = Server::start().await;
    let (minted, pledge) = (server.mint("sensor-linux").await, Pledge::new(""));
    let first = ask(&server, &minted, &pledge).await;
    let leaf = est::leaf(&first);
    est::assert_certifies(&leaf, &pledge);
    assert_eq!(ask(&server, &minted, &pledge).await.body, first.body);
    server = server.restart().await;
    assert_eq!(ask(&server, &minted, &pledge).await.body, first.body, "after a restart");
    server = server.kill().serve().await;
    assert_eq!(ask(&server, &minted, &pledge).await.body, first.body, "after a kill");

    assert_eq!(est::prove(&server, &pledge.identity(&first)).await.expect("an answer").status, 200);
    let devices = server.devices().await;
    assert_eq!(devices.len(), 1, "one life: {devices:?}");
    assert_eq!(devices[0]["id"], est::device_id(&leaf));
    assert_eq!(server.audited("est.simpleenroll", "done").await.len(), 1, "one issuance");
    server.verify_audit().await;
}

/// Sends a whole request and answers the connection, on which nothing has been read.
async fn sent(server: &Server, minted: &Minted, pledge: &Pledge) -> impl Sized + use<> {
    use base64::prelude::{BASE64_STANDARD, Engine};
    let body = BASE64_STANDARD.encode(&pledge.csr);
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\ncontent-type: application/pkcs10\r\n\
         content-length: {}\r\n\r\n",
        est::path(None, "simpleenroll"),
        minted.token,
        body.len()
    );
    let mut stream = Tls::anonymous(server).open(&server.endpoints().device).await.expect("a connection");
    stream.write_all(format!("{head}{body}").as_bytes()).await.expect("a request can be sent");
    stream.flush().await.expect("a request can be sent");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_cut_before_the_answer_was_read_costs_nothing() {
    let server = Server::start().await;
    let rounds = 12;
    let tokens = server.mint_with(&["--profile", "sensor-linux", "--count", &rounds.to_string()]).await;
    for (round, minted) in tokens.iter().enumerate() {
        let pledge = Pledge::new("");
        let connection = sent(&server, minted, &pledge).await;
        if round % 2 == 0 {
            // The issuance is certain, and so is the loss of its reply.
            eventually("the request is granted", async || {
                (server.devices().await.len() > round).then_some(())
            })
            .await;
        }
        drop(connection);
        let leaf = enrolled(&server, minted, &pledge).await;
        est::assert_certifies(&leaf, &pledge);
        let devices = server.devices().await;
        assert_eq!(devices.len(), round + 1, "one life for each token");
        assert_eq!(devices[round]["certificate"]["sha256"], hex::encode(Sha256::digest(&leaf)));
    }
    assert_eq!(server.audited("est.simpleenroll", "done").await.len(), rounds);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_on_a_spent_token_is_refused_and_recorded() {
    let server = Server::start().await;
    let (minted, pledge) = (server.mint("sensor-linux").await, Pledge::new(""));
    let leaf = enrolled(&server, &minted, &pledge).await;
    is_refused(&server, &minted, &Pledge::new("")).await;

    let recorded = server.audited("est.simpleenroll", "refused").await;
    assert_eq!(recorded.len(), 1, "{recorded:?}");
    assert_eq!(recorded[0]["reason"], "token.spent");
    let shown = server.cli(&["token", "show", &minted.id]).await;
    assert_eq!(shown["last_refusal"]["rule"], "token.spent", "{shown}");
    assert_eq!(enrolled(&server, &minted, &pledge).await, leaf, "the owner loses nothing by it");
    assert_eq!(server.devices().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_was_used_or_revoked_is_not_given_again() {
    let server = Server::start().await;
    let (minted, pledge) = (server.mint("sensor-linux").await, Pledge::new(""));
    let used = ask(&server, &minted, &pledge).await;
    assert_eq!(est::prove(&server, &pledge.identity(&used)).await.expect("an answer").status, 200);
    is_refused(&server, &minted, &pledge).await;

    let (minted, pledge) = (server.mint("sensor-linux").await, Pledge::new(""));
    let leaf = enrolled(&server, &minted, &pledge).await;
    server.revoke(&est::device_id(&leaf), "key_compromise").await;
    is_refused(&server, &minted, &pledge).await;

    let refused = server.audited("est.simpleenroll", "refused").await;
    let reasons: Vec<_> = refused.iter().map(|entry| entry["reason"].as_str().unwrap_or_default()).collect();
    assert_eq!(reasons, ["token.replay_after_use", "token.replay_after_end"]);
}

/// A server whose clock stands `when`; certificates of the past are good today, those of the future are not.
async fn serving_at(site: Site, when: &str) -> Server {
    Server::on(site, at_time(when)).await
}

/// Founded in the past, so that everything it issues there is good.
async fn founded_two_days_ago() -> Site {
    let site = Site::empty();
    let _ = site.init(&at_time("-2d"), &["--solo"]).await.ok();
    site
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_bytes_are_given_for_a_day_and_not_longer() {
    let server = serving_at(founded_two_days_ago().await, "-25h").await;
    let (first, second) = (server.mint("sensor-linux").await, server.mint("sensor-linux").await);
    let (lost, renewing) = (Pledge::new(""), Pledge::new(""));
    let leaf = enrolled(&server, &first, &lost).await;
    let device = renewing.identity(&ask(&server, &second, &renewing).await);
    let renewal = Pledge::renewing(&device);
    let renewed = est::leaf(&est::reenroll(&server, &device, &renewal.csr).await.expect("an answer"));

    let server = serving_at(server.stop().await, "-2h").await;
    assert_eq!(enrolled(&server, &first, &lost).await, leaf, "23 hours later");
    let again = est::reenroll(&server, &device, &renewal.csr).await.expect("an answer");
    assert_eq!(est::leaf(&again), renewed, "23 hours later");

    let server = server.stop().await.serve().await;
    is_refused(&server, &first, &lost).await;
    let refused = server.audited("est.simpleenroll", "refused").await;
    assert_eq!(refused.last().expect("recorded")["reason"], "token.replay_too_late");
    let later = est::reenroll(&server, &device, &renewal.csr).await.expect("an answer");
    assert_ne!(est::leaf(&later), renewed, "25 hours later it is a new certificate");
    server.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_gives_the_same_bytes_until_they_are_used() {
    let mut server = Server::start().await;
    let (minted, pledge) = (server.mint("sensor-linux").await, Pledge::new(""));
    let device = pledge.identity(&ask(&server, &minted, &pledge).await);
    assert_eq!(est::prove(&server, &device).await.expect("an answer").status, 200);

    let next = Pledge::renewing(&device);
    let first = est::reenroll(&server, &device, &next.csr).await.expect("an answer");
    est::assert_certifies(&est::leaf(&first), &next);
    let again = est::reenroll(&server, &device, &next.csr).await.expect("an answer");
    assert_eq!(again.body, first.body);
    server = server.kill().serve().await;
    let again = est::reenroll(&server, &device, &next.csr).await.expect("an answer");
    assert_eq!(again.body, first.body, "after a kill");

    let renewed = next.identity(&first);
    assert_eq!(est::prove(&server, &renewed).await.expect("an answer").status, 200);
    assert!(is_shut_out(&server, &device, &next.csr).await, "the former one is superseded by the use");
    let kept = server.device(&est::device_id(renewed.leaf())).await;
    assert_eq!(kept["certificate"]["sha256"], hex::encode(Sha256::digest(renewed.leaf())));
    assert_eq!(kept["certificate"]["status"], "current");
    assert_eq!(server.audited("est.simplereenroll", "done").await.len(), 1, "one issuance");
}

/// Whether a certificate gets nothing any more: no connection, no answer, or a refusal.
async fn is_shut_out(server: &Server, identity: &Identity, csr: &[u8]) -> bool {
    match est::reenroll(server, identity, csr).await {
        Ok(answer) => answer.status == 401 || answer.status == 403,
        Err(_) => true,
    }
}

/// A server that says of itself to be where the proxy is.
async fn behind(proxy: &Proxy) -> Server {
    let outside = format!("localhost:{}", proxy.port());
    let server =
        Server::on(Site::founded().await, Launch::plain().with("MUSTER_ADVERTISE_DEVICE", outside)).await;
    proxy.forward_to(&server.endpoints().device);
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_loses_any_reply_ends_enrolled_once_and_renewed() {
    let proxy = Proxy::bind().await;
    let server = behind(&proxy).await;
    let mut lost = 0;
    let device = loop {
        let (agent, minted) = (Agent::new(), server.mint("laptop-linux").await);
        proxy.cut_at_reply(lost + 1);
        let first = agent.enroll_with(&minted.enrollment, &["--wait", "0"]).await;
        let cut = proxy.has_cut();
        assert!(cut || first.code == Some(0), "{first:?}");
        let _ = agent.enroll(&minted.enrollment).await.ok();
        let devices = server.devices().await;
        assert_eq!(
            devices.len() as u64,
            lost + 1,
            "one life for each token, though reply {} was lost",
            lost + 1
        );
        is_one(&server, &agent, devices.last().expect("a device")).await;
        if !cut {
            break agent;
        }
        lost += 1;
    };
    assert!(lost >= 6, "an enrolment has only {lost} replies");

    for n in 1.. {
        proxy.cut_at_reply(n);
        let _ = device.run(&["renew", "--wait", "0"]).await;
        let cut = proxy.has_cut();
        let _ = device.renew().await.ok();
        let devices = server.devices().await;
        is_one(&server, &device, devices.last().expect("a device")).await;
        if !cut {
            assert!(n > 4, "a renewal has only {} replies", n - 1);
            break;
        }
    }
    assert_eq!(server.devices().await.len() as u64, lost + 1);
    server.verify_audit().await;
}

/// The agent holds the certificate that the server calls the device's current one, and is let in with it.
async fn is_one(server: &Server, agent: &Agent, device: &serde_json::Value) {
    let identity = agent.identity();
    assert_eq!(device["certificate"]["status"], "current", "{device}");
    assert_eq!(device["certificate"]["sha256"], hex::encode(Sha256::digest(identity.leaf())), "{device}");
    assert_eq!(est::prove(server, &identity).await.expect("an answer").status, 200);
}
