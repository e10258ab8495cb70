//! A09: renewal with certificates that have had their day, with somebody else's name or key, and twice at once.
//!
//! The table status × door decides. The same key gets the same bytes; another key replaces the certificate that was
//! issued and not used; there are never two current ones.

use super::request::{again, renewal};
use super::siege::{Device, Siege, refused, text};
use http::Method;
use muster_tests::est::{leaf, reenroll_request};
use muster_tests::{Answer, Server, judge};
use rcgen::KeyPair;
use std::collections::BTreeSet;
use tokio::task::JoinSet;

async fn renew(server: &Server, device: &Device, label: Option<&str>, csr: &[u8]) -> Answer {
    let mut door = device.connect(server).await.expect("let in");
    door.send(reenroll_request(label, csr)).await.expect("answered")
}

/// Renews with a new key; the new certificate is not used yet.
async fn renewed(server: &Server, device: &Device) -> Device {
    let pledge = renewal(&device.identity, KeyPair::generate().unwrap());
    let answer = renew(server, device, None, &pledge.csr).await;
    Device::new(pledge.identity(&answer))
}

async fn is_let_in(server: &Server, device: &Device) -> bool {
    match device.connect(server).await {
        Ok(mut door) => door.get("/.well-known/muster").await.is_ok_and(|answer| answer.status == 200),
        Err(_) => false,
    }
}

async fn shown(siege: &Siege, device: &Device) -> serde_json::Value {
    siege.rest(Method::GET, &format!("/v1/devices/{}", device.id), None).await.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_was_superseded_or_revoked_renews_nothing() {
    let siege = Siege::begin().await;
    let old = siege.device("sensor-linux").await;
    let new = renewed(siege.server(), &old).await;
    assert!(
        is_let_in(siege.server(), &old).await,
        "make before break: the old one is good until the new one is used"
    );
    assert!(is_let_in(siege.server(), &new).await);
    assert!(!is_let_in(siege.server(), &old).await, "superseded by the first use of the new one");

    let csr = renewal(&new.identity, KeyPair::generate().unwrap()).csr;
    let mut kept = new.connect(siege.server()).await.unwrap();
    assert_eq!(kept.get("/.well-known/muster").await.unwrap().status, 200);
    siege.revoke(&new.id).await;
    let late = kept.send(reenroll_request(None, &csr)).await;
    assert!(late.is_err(), "a kept connection ends with its certificate: {late:?}");
    assert!(!is_let_in(siege.server(), &new).await);
    let _ = siege.lift(2, &["certificate_superseded", "certificate_revoked"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sibling_renews_neither_under_anothers_name_nor_with_anothers_key() {
    let siege = Siege::begin().await;
    let (mine, other) = (siege.device("sensor-linux").await, siege.device("sensor-linux").await);
    let server = siege.server();
    let foreign_name = renewal(&other.identity, KeyPair::generate().unwrap());
    refused(&renew(server, &mine, None, &foreign_name.csr).await, 422, "csr_names_mismatch");
    let others_key = KeyPair::try_from(&other.identity.key).unwrap();
    refused(
        &renew(server, &mine, None, &renewal(&mine.identity, others_key).csr).await,
        409,
        "csr_key_in_use",
    );
    let own = renewal(&mine.identity, KeyPair::generate().unwrap());
    let label = renew(server, &mine, Some("laptop-linux"), &own.csr).await;
    assert_eq!(label.code(), "profile_mismatch", "{}", text(&label));
    let without_names = muster_tests::est::Pledge::new(&mine.id);
    refused(&renew(server, &mine, None, &without_names.csr).await, 422, "csr_names_mismatch");
    assert!(is_let_in(server, &mine).await && is_let_in(server, &other).await);
    let rules = ["renewal.names", "renewal.key_in_use", "renewal.label"];
    let _ = siege.lift(2, &rules).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn renewals_at_once_with_one_key_get_the_same_bytes() {
    let siege = Siege::begin().await;
    let device = siege.device("sensor-linux").await;
    let key = KeyPair::generate().unwrap();
    let answers = at_once(&siege, &device, || again(&key)).await;
    let leaves: BTreeSet<Vec<u8>> = answers.iter().map(|(_, answer)| leaf(answer)).collect();
    assert_eq!(leaves.len(), 1);
    let new = &answers[0].0;
    assert!(is_let_in(siege.server(), new).await && !is_let_in(siege.server(), &device).await);
    let _ = siege.lift(2, &["certificate_superseded"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn renewals_at_once_with_many_keys_leave_one_successor() {
    let siege = Siege::begin().await;
    let device = siege.device("sensor-linux").await;
    let answers = at_once(&siege, &device, || KeyPair::generate().unwrap()).await;
    let mut let_in = 0;
    for (new, _) in &answers {
        let_in += usize::from(is_let_in(siege.server(), new).await);
    }
    assert_eq!(let_in, 1, "the last one issued replaced the others, which die unused");
    assert!(!is_let_in(siege.server(), &device).await, "and its first use superseded the former one");
    assert_eq!(shown(&siege, &device).await["certificate"]["status"], "current");
    let _ = siege.lift(1 + answers.len(), &["certificate_superseded"]).await;
}

/// Eight renewals of `device` at once, all of which must be answered with a certificate.
async fn at_once(siege: &Siege, device: &Device, key: impl Fn() -> KeyPair) -> Vec<(Device, Answer)> {
    let mut doors = Vec::new();
    for _ in 0..8 {
        doors.push(device.connect(siege.server()).await.unwrap());
    }
    let mut renewals = JoinSet::new();
    for mut door in doors {
        let pledge = renewal(&device.identity, key());
        renewals.spawn(async move {
            let answer = door.send(reenroll_request(None, &pledge.csr)).await.unwrap();
            (Device::new(pledge.identity(&answer)), answer)
        });
    }
    renewals.join_all().await
}

#[tokio::test(flavor = "multi_thread")]
async fn grace_renews_an_expired_certificate_and_is_recorded_until_it_ends() {
    let siege = Siege::begin().await;
    let (early, late) = (siege.device("laptop-linux").await, siege.device("laptop-linux").await);
    let unused = siege.newcomer("laptop-linux").await;
    let server = siege.into_server().later(45).await;
    let siege = Siege::of(server).await;
    let pledge = renewal(&early.identity, KeyPair::generate().unwrap());
    let _ = leaf(&renew(siege.server(), &early, None, &pledge.csr).await);
    let entries = siege.entries().await;
    assert!(
        entries.iter().any(|entry| entry["action"] == "est.simplereenroll" && entry["reason"] == "grace")
    );
    assert!(!is_let_in(siege.server(), &unused).await, "grace is for certificates that were once in use");

    let siege = Siege::of(siege.into_server().later(100).await).await;
    assert!(!is_let_in(siege.server(), &late).await, "grace has ended");
    assert_eq!(shown(&siege, &late).await["state"], "commissioning");
    let _ = siege.lift(0, &["certificate_expired"]).await;
}

/// How long a device's certificate lives from the moment it was issued, in seconds; it is backdated five minutes.
fn life_s(device: &Device) -> i64 {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (_, certificate) = X509Certificate::from_der(device.identity.leaf()).unwrap();
    let validity = certificate.validity();
    validity.not_after.timestamp() - validity.not_before.timestamp() - 300
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantined_device_renews_shortly_and_what_it_gets_is_held_too() {
    let siege = Siege::begin().await;
    let device = siege.device("laptop-linux").await;
    siege.quarantine(&device.id).await;
    let next = renewed(siege.server(), &device).await;
    assert_eq!(life_s(&next), 7 * 86_400);
    assert!(judge::verify(siege.server(), &next.identity).await.stderr.contains("certificate revoked"));
    assert!(is_let_in(siege.server(), &next).await, "it mends itself");
    assert!(!is_let_in(siege.server(), &device).await);
    let told = shown(&siege, &device).await;
    assert_eq!(
        (&told["state"], &told["certificate"]["held"], &told["certificate"]["status"]),
        (&"quarantined".into(), &true.into(), &"current".into())
    );
    siege.release(&device.id).await;
    let _ = judge::verify(siege.server(), &next.identity).await.ok();
    assert!(is_let_in(siege.server(), &next).await);
    let _ = siege.lift(2, &["certificate_superseded"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantined_device_keeps_its_grace_and_nothing_more() {
    let siege = Siege::begin().await;
    let (early, late) = (siege.device("laptop-linux").await, siege.device("laptop-linux").await);
    siege.quarantine(&early.id).await;
    siege.quarantine(&late.id).await;
    let siege = Siege::of(siege.into_server().later(45).await).await;
    let next = renewed(siege.server(), &early).await;
    assert!(is_let_in(siege.server(), &next).await);
    assert_eq!(shown(&siege, &next).await["certificate"]["held"], true);
    let entries = siege.entries().await;
    let renewal = entries.iter().find(|entry| entry["action"] == "est.simplereenroll").unwrap();
    assert_eq!(renewal["reason"], "grace");
    let siege = Siege::of(siege.into_server().later(100).await).await;
    assert!(!is_let_in(siege.server(), &late).await, "grace has ended");
    let _ = siege.lift(0, &["certificate_expired"]).await;
}
