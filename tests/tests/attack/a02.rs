//! A02: tokens that are worth nothing, each for another reason: one body, one status.

use super::der::{PRINTABLE, SERIAL_NUMBER};
use super::request::Draft;
use super::siege::{Siege, refused};
use bytes::Bytes;
use http::Request;
use muster_tests::Answer;
use muster_tests::est::{self, Pledge};
use serde_json::json;

/// What an answer shows to whoever compares answers: everything but the request's id, the date and its length.
fn face(answer: &Answer) -> String {
    let shown = |name: &str| !matches!(name, "x-request-id" | "date");
    let mut head: Vec<String> = answer
        .headers
        .iter()
        .filter(|(name, _)| shown(name.as_str()))
        .map(|(name, value)| format!("{name}: {value:?}"))
        .collect();
    head.sort();
    format!("{} {head:?} {}", answer.status, String::from_utf8_lossy(&answer.body))
}

async fn present(siege: &Siege, label: Option<&str>, token: &str, csr: &[u8]) -> Answer {
    let mut door = est::connect(siege.server()).await.unwrap();
    door.send(est::enroll_request(label, token, csr)).await.unwrap()
}

fn swap_case(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_ascii_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_token_that_opens_nothing_gets_one_body_and_one_status() {
    let siege = Siege::begin().await;
    let csr = Pledge::new("").csr;
    let sensor = siege.token("sensor-linux").await;

    let used = siege.token("sensor-linux").await;
    let _ = est::leaf(&present(&siege, None, &used, &Pledge::new("").csr).await);
    let revoked = siege.server().mint("sensor-linux").await;
    let taken_back = siege.rest(http::Method::POST, &format!("/v1/tokens/{}:revoke", revoked.id), None).await;
    assert_eq!(taken_back.status, 200);
    let bound = siege.tokens(&json!({ "profile": "sensor-linux", "serial": "SN-1" })).await.remove(0);
    let other_serial = Draft::new().name(SERIAL_NUMBER, PRINTABLE, "SN-2").sign().csr;
    let expired = siege.tokens(&json!({ "profile": "sensor-linux", "ttl_s": 1 })).await.remove(0);
    let mut flipped = sensor.clone().into_bytes();
    flipped[20] = if flipped[20] == b'A' { b'B' } else { b'A' };
    let stranger = muster_wire::enrollment::Token::from_entropy(&[7; 24]).reveal().to_owned();

    let first = present(&siege, None, &stranger, &csr).await;
    refused(&first, 401, "token_refused");
    let attempts = [
        ("used", None, used.clone(), csr.clone()),
        ("revoked", None, revoked.token.clone(), csr.clone()),
        ("a sensor's at the laptop label", Some("laptop-linux"), sensor.clone(), csr.clone()),
        ("at a label that does not exist", Some("toaster"), sensor.clone(), csr.clone()),
        ("of another serial number", None, bound, other_serial),
        ("empty", None, String::new(), csr.clone()),
        (
            "a credential",
            None,
            siege.server().site().credential()["token"].as_str().unwrap().into(),
            csr.clone(),
        ),
        ("one letter changed", None, String::from_utf8(flipped).unwrap(), csr.clone()),
        ("case swapped", None, format!("muster_{}", swap_case(&sensor[7..])), csr.clone()),
        ("of another prefix", None, sensor.replace("muster_", "Muster_"), csr.clone()),
        ("cut", None, sensor[..sensor.len() - 1].to_owned(), csr.clone()),
        ("continued", None, format!("{sensor}0"), csr.clone()),
        ("twice", None, format!("{sensor},{sensor}"), csr.clone()),
        ("long", None, "muster_".repeat(1_500), csr.clone()),
        ("a wildcard", None, "*".into(), csr.clone()),
        ("the digest of one", None, hex::encode(sha256(&sensor)), csr.clone()),
        ("without a request", None, used.clone(), Vec::new()),
    ];
    for (name, label, token, csr) in attempts {
        let answer = present(&siege, label, &token, &csr).await;
        assert_eq!(face(&answer), face(&first), "{name}");
    }
    let mut late = None;
    for _ in 0..10_000 {
        // A second key each time: until it expires, the token is good for the first one.
        let answer = present(&siege, None, &expired, b"not yet looked at").await;
        late = (answer.status == 401).then_some(answer);
        if late.is_some() {
            break;
        }
    }
    assert_eq!(face(&late.expect("a token of one second expires")), face(&first), "expired");

    // None of it has harmed the token that was tried in the wrong place.
    let _ = est::leaf(&present(&siege, Some("sensor-linux"), &sensor, &csr).await);
    let rules = [
        "token.unknown",
        "token.spent",
        "token.revoked",
        "token.label",
        "token.serial",
        "token.malformed",
        "token.expired",
    ];
    let _ = siege.lift(2, &rules).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_no_header_holds_are_refused_before_they_are_read() {
    let siege = Siege::begin().await;
    let csr = Pledge::new("").csr;
    let huge = "m".repeat(10 << 20);
    // A head past 16 KiB is refused by its size, before anything in it is parsed: nobody knows yet that it holds a
    // token, or for which path. So it is 431 for every caller, path and content alike, which tells nothing of any
    // token; 401 here would need the head to be read to its end first. It is written down once a minute, as what
    // strangers do in handshakes is. The answer may come while the rest is still being sent; then the connection is
    // all there is.
    for content in [huge.clone(), format!("{}{huge}", siege.token("sensor-linux").await)] {
        match est::connect(siege.server())
            .await
            .unwrap()
            .send(est::enroll_request(None, &content, &csr))
            .await
        {
            Ok(answer) => assert_eq!((answer.status.as_u16(), answer.body.len()), (431, 0)),
            Err(muster_tests::TlsFailure::Request(_)) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    for value in [
        &b"Bearer m\xc3\xbcster_x"[..],
        b"Basic \xff\xfe",
        b"Bearer",
        b"Basic",
        b"Basic Og==",
        b"Negotiate x",
    ] {
        let request = Request::post(est::path(None, "simpleenroll")).header("authorization", value);
        let answer =
            est::connect(siege.server()).await.unwrap().send(request.body(Bytes::new()).unwrap()).await;
        refused(&answer.unwrap(), 401, "token_refused");
    }
    let none = Request::post(est::path(None, "simpleenroll")).body(Bytes::from(csr)).unwrap();
    let answer = est::connect(siege.server()).await.unwrap().send(none).await.unwrap();
    refused(&answer, 401, "unauthenticated");
    assert_eq!(answer.headers.get_all("www-authenticate").iter().count(), 2);
    let _ = siege.lift(0, &["token.malformed", "token.none", "http.head_too_large"]).await;
}

fn sha256(text: &str) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(text).into()
}
