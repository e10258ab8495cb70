//! What clients send that is not quite what it should be: each is told what is wrong, in words of its own API.

use super::auth::Entrance;
use super::routes::{REQUEST_ID, Routes};
use crate::app::fixture::{Bench, UNLIMITED};
use crate::doors::peer::Peer;
use axum::body::Body;
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderName, Method, Request};
use http_body_util::BodyExt as _;
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tower::ServiceExt as _;

struct Said {
    status: u16,
    body: Value,
    request_id: Option<String>,
}

impl Said {
    fn detail(&self) -> &str {
        self.body["detail"].as_str().unwrap_or_default()
    }
}

/// Asks as the first operator, with `headers` besides.
async fn ask(
    bench: &Bench,
    entrance: Entrance,
    (method, path): (Method, &str),
    headers: &[(HeaderName, &str)],
    body: &str,
) -> Said {
    let peer = Peer { addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)), certificate: None, observer: None };
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(AUTHORIZATION, format!("Bearer {}", bench.credential()))
        .header(CONTENT_TYPE, "application/json")
        .extension(peer);
    for (name, value) in headers {
        request = request.header(name, *value);
    }
    let routes = Routes::new(Arc::clone(&bench.app), entrance);
    let router = match entrance {
        Entrance::Admin => super::admin(routes),
        Entrance::Device => super::est::routes(routes),
        Entrance::Status => super::status::routes(routes),
    };
    let answer = router.finish().oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap();
    let (head, body) = answer.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Said {
        status: head.status.as_u16(),
        body: serde_json::from_slice(&body).unwrap_or_default(),
        request_id: head.headers.get(REQUEST_ID).map(|id| id.to_str().unwrap().to_owned()),
    }
}

async fn get(bench: &Bench, path: &str) -> Said {
    ask(bench, Entrance::Admin, (Method::GET, path), &[], "").await
}

async fn post(bench: &Bench, path: &str, body: &str) -> Said {
    ask(bench, Entrance::Admin, (Method::POST, path), &[], body).await
}

async fn mint(bench: &Bench, count: u32) -> Vec<String> {
    let order = format!(r#"{{"profile":"sensor-linux","count":{count}}}"#);
    let made = post(bench, "/v1/tokens", &order).await;
    let ids = made.body.as_array().unwrap().iter();
    ids.map(|token| token["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn an_act_without_particulars_takes_nothing_or_an_empty_object() {
    let bench = Bench::founded(UNLIMITED);
    for (body, status) in [("", 200), ("{}", 200), (" { }\n", 200), ("{\"x\":1}", 400), ("[]", 400)] {
        let id = mint(&bench, 1).await.remove(0);
        let said = post(&bench, &format!("/v1/tokens/{id}:revoke"), body).await;
        assert_eq!(said.status, status, "{body:?} {}", said.body);
    }
}

#[tokio::test]
async fn a_list_in_place_of_an_object_is_refused() {
    let bench = Bench::founded(UNLIMITED);
    let list = r#"["sensor-linux",null,null,null,{},60,1]"#;
    for body in [list, "null", "\"x\"", "7", ""] {
        let said = post(&bench, "/v1/tokens", body).await;
        assert_eq!((said.status, said.detail()), (400, "body must be a JSON object"), "{body}");
    }
}

#[tokio::test]
async fn a_complaint_names_no_type_of_the_servers_language() {
    let bench = Bench::founded(UNLIMITED);
    let bodies = [
        r#"{"profile":"p","ttl_s":"x"}"#,
        r#"{"profile":"p","count":-1}"#,
        r#"{"profile":"p","count":1.5}"#,
        r#"{"profile":"p","labels":[]}"#,
        r#"{"profile":null}"#,
        r#"{"colour":"red"}"#,
        "{",
    ];
    let mut told = Vec::new();
    for body in bodies {
        told.push(post(&bench, "/v1/tokens", body).await);
    }
    for query in ["limit=x", "limit=-1", "limit=99999999999", "limit=", "colour=red", "limit=1&limit=2"] {
        told.push(get(&bench, &format!("/v1/tokens?{query}")).await);
    }
    for said in told {
        assert_eq!(said.status, 400, "{}", said.body);
        for word in ["i64", "u32", "usize", "struct", "serialize", "digit found", "target type", "sequence"] {
            assert!(!said.detail().contains(word), "{}", said.detail());
        }
    }
}

#[tokio::test]
async fn a_compressed_body_is_refused_as_such() {
    let bench = Bench::founded(UNLIMITED);
    let order = r#"{"profile":"sensor-linux"}"#;
    for (encoding, status) in [("gzip", 415), ("identity, br", 415), ("Identity", 201)] {
        let asked = (Method::POST, "/v1/tokens");
        let said = ask(&bench, Entrance::Admin, asked, &[(CONTENT_ENCODING, encoding)], order).await;
        assert_eq!(said.status, status, "{encoding} {}", said.body);
    }
}

#[tokio::test]
async fn two_credentials_are_none() {
    let bench = Bench::founded(UNLIMITED);
    let second = [(AUTHORIZATION, "Bearer x")];
    for (entrance, path) in [(Entrance::Admin, "/v1/tokens"), (Entrance::Device, "/.well-known/est/cacerts")]
    {
        let said = ask(&bench, entrance, (Method::GET, path), &second, "").await;
        assert_eq!(said.status, 400, "{path} {}", said.body);
        assert_eq!(said.body["field"], "Authorization");
    }
}

#[tokio::test]
async fn every_answer_about_a_path_carries_the_requests_id() {
    let bench = Bench::founded(UNLIMITED);
    let lost = [
        (Method::GET, "/nothing", 404),
        (Method::GET, "/v1/tokens/", 404),
        (Method::GET, "/v1/tokens/%ff", 404),
        (Method::POST, "/v1/devices/%ff:revoke", 404),
        (Method::DELETE, "/v1/tokens", 405),
        (Method::PUT, "/v1/devices/x", 405),
        (Method::GET, "/v1/devices/x:revoke", 404),
        (Method::POST, "/v1/devices/x:dance", 404),
    ];
    for (method, path, status) in lost {
        let said = ask(&bench, Entrance::Admin, (method, path), &[], "").await;
        assert_eq!(said.status, status, "{path} {}", said.body);
        let in_body = said.body["request_id"].as_str().map(str::to_owned);
        assert!(in_body.is_some() && in_body == said.request_id, "{path} {}", said.body);
    }
}

#[tokio::test]
async fn a_filter_that_can_fit_nothing_names_what_it_could_be() {
    let bench = Bench::founded(UNLIMITED);
    for (path, word) in [
        ("/v1/tokens?state=active", "claimed"),
        ("/v1/tokens?profile=toaster", "laptop-linux"),
        ("/v1/devices?state=open", "quarantined"),
        ("/v1/devices?profile=toaster", "laptop-linux"),
        ("/v1/tokens?limit=0", "1 to"),
    ] {
        let said = get(&bench, path).await;
        assert_eq!(said.status, 400, "{path}");
        assert!(said.detail().contains(word), "{path} {}", said.detail());
    }
}

#[tokio::test]
async fn a_cursor_is_good_for_the_list_and_the_filter_that_gave_it() {
    let bench = Bench::founded(UNLIMITED);
    let ids = mint(&bench, 3).await;
    let first = get(&bench, "/v1/tokens?limit=2&state=open").await;
    let cursor = first.body["next"].as_str().expect("there is a third").to_owned();
    let second = get(&bench, &format!("/v1/tokens?limit=1&state=open&cursor={cursor}")).await;
    assert_eq!(second.body["next"], Value::Null);
    let items = [&first, &second].map(|said| said.body["items"].as_array().unwrap().clone()).concat();
    let told: BTreeSet<&str> = items.iter().map(|token| token["id"].as_str().unwrap()).collect();
    assert_eq!(told, ids.iter().map(String::as_str).collect());

    let mut tampered = cursor.clone().into_bytes();
    tampered[30] = if tampered[30] == b'A' { b'B' } else { b'A' };
    let tampered = String::from_utf8(tampered).unwrap();
    for path in [
        format!("/v1/tokens?cursor={cursor}"),
        format!("/v1/tokens?state=spent&cursor={cursor}"),
        format!("/v1/tokens?state=open&profile=sensor-linux&cursor={cursor}"),
        format!("/v1/tokens?state=open&cursor={tampered}"),
        "/v1/tokens?cursor=AAAA".to_owned(),
        "/v1/tokens?cursor=".to_owned(),
        format!("/v1/devices?cursor={cursor}"),
        format!("/v1/orders?cursor={cursor}"),
        format!("/v1/audit?cursor={cursor}"),
    ] {
        let said = get(&bench, &path).await;
        assert_eq!((said.status, &said.body["field"]), (400, &Value::from("cursor")), "{path} {}", said.body);
    }
}

#[tokio::test]
async fn a_part_of_a_filtered_list_is_as_long_as_was_asked_for() {
    let bench = Bench::founded(UNLIMITED);
    let ids = mint(&bench, 200).await;
    for id in &ids[..199] {
        assert_eq!(post(&bench, &format!("/v1/tokens/{id}:revoke"), "").await.status, 200);
    }
    let open = get(&bench, "/v1/tokens?state=open&limit=1").await;
    assert_eq!(open.body["items"][0]["id"], ids[199].as_str());
    assert_eq!(open.body["next"], Value::Null);
    let revoked = get(&bench, "/v1/tokens?state=revoked&limit=150").await;
    assert_eq!(revoked.body["items"].as_array().unwrap().len(), 150);
    assert!(revoked.body["next"].is_string());
}

#[tokio::test]
async fn a_label_of_no_profile_is_no_path() {
    let bench = Bench::founded(UNLIMITED);
    let labels = [("laptop-linux", 200), ("nope", 404), ("%2e%2e", 404), ("", 404), ("Laptop-Linux", 404)];
    for (label, status) in labels {
        for what in ["cacerts", "csrattrs"] {
            let path = format!("/.well-known/est/{label}/{what}");
            let said = ask(&bench, Entrance::Device, (Method::GET, &path), &[], "").await;
            assert_eq!(said.status, status, "{path}");
        }
    }
    assert_eq!(
        ask(&bench, Entrance::Device, (Method::GET, "/.well-known/est/cacerts"), &[], "").await.status,
        200
    );
}

#[tokio::test]
async fn a_state_that_does_not_allow_an_act_is_told_in_words() {
    let bench = Bench::founded(UNLIMITED);
    let last = post(&bench, "/v1/operators/admin:remove", "").await;
    assert_eq!((last.status, last.detail().contains("last operator")), (409, true), "{}", last.body);
    let taken = post(&bench, "/v1/operators", r#"{"name":"admin"}"#).await;
    assert_eq!((taken.status, taken.detail().is_empty()), (409, false), "{}", taken.body);
}
