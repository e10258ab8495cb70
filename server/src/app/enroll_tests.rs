//! Enrolment and renewal where two things happen at once, or too often.

use super::fixture::{Bench, UNLIMITED};
use super::{Answer, Enroll, Error, Issuance, Renew};
use crate::domain::policy::Principal;
use crate::store::collections::PUBLIC_KEYS;
use muster_pki::certificate::Certificate;
use muster_pki::key::{Algorithm, DeviceKey};
use muster_pki::name::Subject;
use muster_pki::request::{build_renewal, build_request};
use muster_wire::enrollment::Token;
use muster_wire::id::parse_device_uri;
use std::net::{IpAddr, Ipv4Addr};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn key() -> DeviceKey {
    DeviceKey::generate(Algorithm::P256).unwrap()
}

fn request() -> Vec<u8> {
    build_request(&key(), &Subject::new("pledge").unwrap()).unwrap()
}

async fn enroll(bench: &Bench, token: &Token, csr: &[u8]) -> Result<Answer, Error> {
    let request = Enroll { label: None, credential: Some(token.reveal()), body: csr, from: HERE };
    bench.app.simple_enroll(bench.permit(Principal::Anonymous), request).await
}

fn der(answer: Result<Answer, Error>) -> Vec<u8> {
    match answer.unwrap() {
        Answer::Certificate(der) => der,
        Answer::Pending(_) => panic!("nobody has to approve"),
    }
}

/// Seconds to wait, where it was too often.
fn wait_s(answer: Result<Answer, Error>) -> u64 {
    match answer {
        Err(Error::RateLimited { retry_after_s }) => retry_after_s,
        other => panic!("not limited: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_sent_twice_at_once_gets_the_same_bytes_twice() {
    let bench = Bench::founded(UNLIMITED);
    let token = bench.tokens(None, 1).await.remove(0);
    let csr = request();

    // The first has read the open token and is about to ask who holds the key; meanwhile the second is done.
    let paused = bench.pauses.next_read(PUBLIC_KEYS.prefix);
    let (first, second) = tokio::join!(
        {
            let (app, permit) = (bench.app.clone(), bench.permit(Principal::Anonymous));
            let (token, csr) = (token.clone(), csr.clone());
            async move {
                let task = tokio::spawn(async move {
                    let credential = Some(token.reveal());
                    let request = Enroll { label: None, credential, body: &csr, from: HERE };
                    app.simple_enroll(permit, request).await
                });
                task.await.unwrap()
            }
        },
        async {
            let paused = tokio::task::spawn_blocking(move || {
                paused.wait();
                paused
            });
            let paused = paused.await.unwrap();
            let answer = enroll(&bench, &token, &csr).await;
            drop(paused);
            answer
        }
    );
    assert_eq!(der(first), der(second));
    assert_eq!(bench.refusals(), [""; 0], "nobody was refused");
}

#[tokio::test]
async fn enrolments_with_tokens_made_together_are_limited_together() {
    let bench = Bench::founded(Issuance { batch_enrolments_per_minute: 2, ..UNLIMITED });
    let (batch, other) = (bench.tokens(None, 4).await, bench.tokens(None, 1).await);
    let csrs: Vec<_> = (0..5).map(|_| request()).collect();
    let first = der(enroll(&bench, &batch[0], &csrs[0]).await);
    der(enroll(&bench, &batch[1], &csrs[1]).await);
    bench.clock.advance_ms(10_000);
    assert_eq!(wait_s(enroll(&bench, &batch[2], &csrs[2]).await), 50);
    assert_eq!(wait_s(enroll(&bench, &batch[3], &csrs[3]).await), 50);
    assert_eq!(bench.refusals(), ["limits.batch"], "once a minute is enough");

    der(enroll(&bench, &other[0], &csrs[4]).await);
    assert_eq!(der(enroll(&bench, &batch[0], &csrs[0]).await), first, "a lost answer is no new enrolment");
    bench.clock.advance_ms(50_000);
    der(enroll(&bench, &batch[2], &csrs[2]).await);
}

#[tokio::test]
async fn enrolments_at_one_site_are_limited_and_other_sites_do_not_suffer() {
    let bench = Bench::founded(Issuance { site_enrolments_per_minute: 1, ..UNLIMITED });
    let (lyon, oslo) = (bench.tokens(Some("lyon"), 1).await, bench.tokens(Some("oslo"), 1).await);
    let late = bench.tokens(Some("lyon"), 1).await;
    let csrs: Vec<_> = (0..3).map(|_| request()).collect();
    der(enroll(&bench, &lyon[0], &csrs[0]).await);
    assert_eq!(wait_s(enroll(&bench, &late[0], &csrs[1]).await), 60);
    der(enroll(&bench, &oslo[0], &csrs[2]).await);
    assert_eq!(bench.refusals(), ["limits.site"]);
    bench.clock.advance_ms(60_000);
    der(enroll(&bench, &late[0], &csrs[1]).await);
}

#[tokio::test]
async fn one_device_renews_so_often_in_an_hour_and_the_next_hour_again() {
    let bench = Bench::founded(Issuance { device_renewals_per_hour: 2, ..UNLIMITED });
    let token = bench.tokens(None, 1).await.remove(0);
    let leaf = der(enroll(&bench, &token, &request()).await);
    let shown = Certificate::parse(&leaf).unwrap().serial().unwrap();
    let (_, device) = parse_device_uri(Certificate::parse(&leaf).unwrap().uris()[0]).unwrap();
    bench.app.promote(device, &shown).await.unwrap();
    let renew = async |key: &DeviceKey| {
        let body = build_renewal(key, &leaf).unwrap();
        let request = Renew { label: None, device, shown, in_grace: false, body: &body };
        bench.app.simple_reenroll(bench.permit(Principal::Device(device)), request).await
    };
    der(renew(&key()).await);
    let latest = key();
    let last = der(renew(&latest).await);
    assert_eq!(der(renew(&latest).await), last, "the same key again is the same bytes, not a renewal");
    assert_eq!(wait_s(renew(&key()).await), 3_600);
    assert_eq!(bench.refusals(), ["limits.device"]);
    bench.clock.advance_ms(3_600_000);
    der(renew(&key()).await);
}
