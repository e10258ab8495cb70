//! A08: every route × method × {no credential, wrong CA, expired, revoked, not yet valid, another device, a device's
//! certificate at the operators' door, an operator's credential at the devices'}.
//!
//! The operators' routes come from the server's own OpenAPI document: a route without a case here, or a case without
//! a route, fails.

use super::forge::{Forger, Says, serial};
use super::request::renewal;
use super::siege::{Siege, bearer, enters_gate, refused, rest, text};
use base64::prelude::{BASE64_STANDARD, Engine};
use bytes::Bytes;
use http::{Method, Request};
use muster_tests::est::Pledge;
use muster_tests::faults::at_time;
use muster_tests::{Answer, Identity, Server, Tls};
use rcgen::KeyPair;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// An operators' route, a body that it may be sent, and the status that an operator gets for it.
type Case = (&'static str, &'static str, Option<&'static str>, u16);

const NOBODY: &str = "01900000-0000-7000-8000-000000000000";

/// An order for nobody.
const ORDER: &str = r#"{"device":"01900000-0000-7000-8000-000000000000","kind":"collect_posture"}"#;

/// A warrant over nobody.
const WARRANT: &str =
    r#"{"devices":["01900000-0000-7000-8000-000000000000"],"kind":"wipe","level":"retire"}"#;

/// Every route at the operators' door; ids are of nothing that exists.
const ADMIN: &[Case] = &[
    ("GET", "/metrics", None, 200),
    ("GET", "/v1/events", None, 400),
    ("GET", "/v1/observers", None, 200),
    ("POST", "/v1/observers", Some(r#"{"name":"x","csr":"x"}"#), 400),
    ("POST", "/v1/observers/{id}:revoke", Some("{}"), 404),
    ("GET", "/v1/openapi.json", None, 200),
    ("GET", "/v1/tokens", None, 200),
    ("POST", "/v1/tokens", Some(r#"{"profile":"no such"}"#), 422),
    ("GET", "/v1/tokens/{id}", None, 404),
    ("POST", "/v1/tokens/{id}:revoke", None, 404),
    ("GET", "/v1/devices", None, 200),
    ("GET", "/v1/devices/{id}", None, 404),
    ("GET", "/v1/devices/{id}/history", None, 404),
    ("GET", "/v1/devices/{id}/explain", None, 404),
    ("GET", "/v1/devices/{id}/record", None, 404),
    ("POST", "/v1/devices/{id}:approve", None, 404),
    ("POST", "/v1/devices/{id}:quarantine", Some(r#"{"reason":"lost"}"#), 404),
    ("POST", "/v1/devices/{id}:release", Some("{}"), 404),
    ("POST", "/v1/devices/{id}:revoke", Some(r#"{"reason":"unspecified"}"#), 404),
    ("POST", "/v1/devices/{id}:deprovision", Some(r#"{"level":"retire"}"#), 404),
    ("POST", "/v1/devices/{id}:retire", None, 404),
    ("GET", "/v1/devices/{id}/baseline", None, 404),
    ("GET", "/v1/warrants", None, 200),
    ("POST", "/v1/warrants", Some(WARRANT), 404),
    ("GET", "/v1/warrants/{id}", None, 404),
    ("POST", "/v1/warrants/{id}:sign", Some(r#"{"signed":"AA=="}"#), 404),
    ("POST", "/v1/warrants/{id}:stop", Some(r#"{"signed":"AA=="}"#), 404),
    ("GET", "/v1/orders", None, 200),
    ("POST", "/v1/orders", Some(ORDER), 404),
    ("GET", "/v1/orders/{id}", None, 404),
    ("GET", "/v1/baselines", None, 200),
    ("POST", "/v1/baselines", Some(r#"{"toml":"profile = \"no such\""}"#), 422),
    ("GET", "/v1/baselines/{id}", None, 404),
    ("GET", "/v1/baselines/{id}/papers", None, 404),
    ("POST", "/v1/baselines/{id}/signatures", Some(r#"{"signed":"AA=="}"#), 404),
    ("GET", "/v1/operators", None, 200),
    ("POST", "/v1/operators", Some(r#"{"name":"not a name"}"#), 422),
    ("POST", "/v1/operators/{id}:remove", None, 404),
    ("GET", "/v1/ca", None, 200),
    ("GET", "/v1/ca/crl", None, 200),
    ("POST", "/v1/devices/{id}:label", Some("{}"), 404),
    ("POST", "/v1/devices/{id}:unprotect", None, 404),
    ("GET", "/v1/rails", None, 200),
    ("GET", "/v1/freeze", None, 404),
    ("POST", "/v1/freeze", Some(r#"{"x":1}"#), 400),
    ("POST", "/v1/freeze/signatures", Some(r#"{"signature":"AA=="}"#), 422),
    ("POST", "/v1/rails/{key}/signatures", Some(r#"{"signature":"AA=="}"#), 422),
    ("GET", "/v1/authority", None, 200),
    ("GET", "/v1/authority/pending", None, 404),
    ("POST", "/v1/authority/pending", Some("{}"), 422),
    ("POST", "/v1/authority/signatures", Some(r#"{"signature":"AA=="}"#), 422),
    ("GET", "/v1/profiles", None, 200),
    ("GET", "/v1/profiles/{id}", None, 404),
    ("GET", "/v1/audit", None, 200),
    ("GET", "/v1/audit/files", None, 200),
    ("GET", "/v1/audit/files/{path}", None, 404),
];

/// What nobody in particular may read at the operators' door.
const OPEN: &[&str] = &["/v1/openapi.json"];

const DEVICE: &[(&str, &str)] = &[
    ("GET", "/.well-known/est/cacerts"),
    ("GET", "/.well-known/est/sensor-linux/cacerts"),
    ("GET", "/.well-known/est/csrattrs"),
    ("GET", "/.well-known/est/sensor-linux/csrattrs"),
    ("POST", "/.well-known/est/simpleenroll"),
    ("POST", "/.well-known/est/sensor-linux/simpleenroll"),
    ("POST", "/.well-known/est/simplereenroll"),
    ("POST", "/.well-known/est/sensor-linux/simplereenroll"),
    ("GET", "/.well-known/muster"),
    ("GET", "/.well-known/muster/baselines/{digest}"),
];

/// The digest of no baseline.
const NO_BASELINE: &str = "abababababababababababababababababababababababababababababababab";

const METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"];

fn request(method: &str, path: &str, authorization: Option<&str>, body: &'static str) -> Request<Bytes> {
    let path = path.replace("{id}", NOBODY).replace("{path}", "no/such").replace("{digest}", NO_BASELINE);
    let request = Request::builder().method(method).uri(&path).header("content-type", "application/json");
    // A stream of events has no end; a request that only its handler refuses has an answer.
    let endless = path == "/v1/events";
    let request = if endless { request.header("last-event-id", "none") } else { request };
    let request =
        authorization.into_iter().fold(request, |request, value| request.header("authorization", value));
    request.body(Bytes::from_static(body.as_bytes())).unwrap()
}

async fn ask(client: &Tls, url: &str, request: Request<Bytes>) -> Answer {
    client.connect(url).await.unwrap().send(request).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_of_the_operators_has_a_case_and_no_case_is_without_a_route() {
    let siege = Siege::begin().await;
    let document = siege.rest(Method::GET, "/v1/openapi.json", None).await.json();
    let mut routes: BTreeMap<(String, String), bool> = BTreeMap::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let guarded = operation["security"] == json!([{ "credential": [] }]);
            routes.insert((method.to_uppercase(), path.clone()), guarded);
        }
    }
    let cases: BTreeSet<_> =
        ADMIN.iter().map(|(method, path, ..)| ((*method).to_owned(), (*path).to_owned())).collect();
    assert_eq!(
        routes.keys().cloned().collect::<BTreeSet<_>>(),
        cases,
        "a route without a case is not tested"
    );
    let open: Vec<_> =
        routes.iter().filter(|(_, guarded)| !**guarded).map(|((_, path), _)| path.as_str()).collect();
    assert_eq!(open, OPEN);
    let _ = siege.lift(0, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_operators_door_only_an_operators_credential_opens_anything() {
    let siege = Siege::begin().await;
    let server = siege.server();
    let device = siege.device("sensor-linux").await;
    let gone = siege.rest(Method::POST, "/v1/operators", Some(&json!({ "name": "leaver" }))).await.json();
    let gone = gone["token"].as_str().unwrap_or_else(|| panic!("no token in {gone}")).to_owned();
    let removed = siege.rest(Method::POST, "/v1/operators/leaver:remove", None).await;
    assert_eq!(removed.status, 200, "{}", text(&removed));
    let good = bearer(server);
    let token = siege.token("sensor-linux").await;
    let anonymous = Tls::anonymous(server);
    let as_device = Tls::with(server, &device.identity);
    let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("admin:{}", &good["Bearer ".len()..])));
    let cut = good[..good.len() - 1].to_owned();
    let intruders: Vec<(&str, &Tls, Option<String>)> = vec![
        ("no credential", &anonymous, None),
        ("a device's certificate", &as_device, None),
        ("a removed operator's", &anonymous, Some(format!("Bearer {gone}"))),
        ("an enrolment token", &anonymous, Some(format!("Bearer {token}"))),
        ("a cut credential", &anonymous, Some(cut)),
        ("a credential as a password", &anonymous, Some(basic)),
        ("nothing after Bearer", &anonymous, Some("Bearer ".into())),
    ];
    for (method, path, body, _) in ADMIN {
        for (who, client, authorization) in &intruders {
            let request = request(method, path, authorization.as_deref(), body.unwrap_or(""));
            let answer = ask(client, &server.endpoints().admin, request).await;
            if OPEN.contains(path) {
                assert_eq!(answer.status, 200);
            } else {
                assert_eq!(answer.status, 401, "{method} {path} with {who}: {}", text(&answer));
                refused(&answer, 401, "unauthenticated");
            }
        }
    }
    let mut door = anonymous.connect(&server.endpoints().admin).await.unwrap();
    for (method, path, body, status) in ADMIN {
        let answer = door.send(request(method, path, Some(&good), body.unwrap_or(""))).await.unwrap();
        assert_eq!(answer.status, *status, "{method} {path} as operator: {}", text(&answer));
    }
    let _ = siege.lift(1, &["policy.sign_in_first"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_and_paths_that_are_not_in_the_table_do_nothing_for_anyone() {
    let siege = Siege::begin().await;
    let server = siege.server();
    let device = siege.device("sensor-linux").await;
    let good = bearer(server);
    let of = |routes: &[(&str, &str)]| -> BTreeMap<String, BTreeSet<String>> {
        let mut by_path: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (method, path) in routes {
            // POST of a record without a verb meets the verbs' dispatcher.
            let path = path.split(':').next().unwrap();
            by_path.entry(path.to_owned()).or_default().insert((*method).to_owned());
        }
        by_path
    };
    let admin: Vec<(&str, &str)> = ADMIN.iter().map(|(method, path, ..)| (*method, *path)).collect();
    let anonymous = Tls::anonymous(server);
    let as_device = Tls::with(server, &device.identity);
    let doors = [
        (&server.endpoints().admin, of(&admin), &anonymous),
        (&server.endpoints().device, of(DEVICE), &as_device),
    ];
    for (url, paths, client) in doors {
        let mut door = client.connect(url).await.unwrap();
        for (path, known) in paths {
            for method in METHODS.iter().filter(|method| !known.contains(**method)) {
                let answer = door.send(request(method, &path, Some(&good), "")).await.unwrap();
                let like_get = *method == "HEAD" && known.contains("GET");
                let expected = if like_get { 200..=404 } else { 404..=405 };
                assert!(expected.contains(&answer.status.as_u16()), "{method} {path}: {}", text(&answer));
                assert!(!like_get || answer.body.is_empty());
            }
        }
    }
    // What one door serves, another does not know.
    let mut door = anonymous.connect(&server.endpoints().admin).await.unwrap();
    for (method, path) in DEVICE {
        refused(&door.send(request(method, path, Some(&good), "")).await.unwrap(), 404, "not_found");
    }
    let mut door = as_device.connect(&server.endpoints().device).await.unwrap();
    for (method, path, body, _) in ADMIN {
        let answer = door.send(request(method, path, Some(&good), body.unwrap_or(""))).await.unwrap();
        refused(&answer, 404, "not_found");
    }
    for path in [
        "//v1/devices",
        "/v1/../v1/devices",
        "/v1/devices/..%2f..",
        "/v1/devices%00",
        "/V1/devices",
        "/v1/devices/",
    ] {
        let answer = ask(&anonymous, &server.endpoints().admin, request("GET", path, None, "")).await;
        assert!((400..=404).contains(&answer.status.as_u16()), "{path}: {}", text(&answer));
    }
    for verb in ["", ":", ":nothing", ":revoke:revoke", ":Revoke"] {
        let path = format!("/v1/devices/{}{verb}", device.id);
        let answer = rest(server, Method::POST, &path, Some(&json!({ "reason": "unspecified" }))).await;
        assert_eq!(answer.status, 404, "{path}: {}", text(&answer));
    }
    assert_eq!(device.discover(server).await.status, 200, "nothing was done to the device");
    let _ = siege.lift(1, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_devices_door_an_operators_credential_is_worth_nothing() {
    let siege = Siege::begin().await;
    let server = siege.server();
    let device = siege.device("sensor-linux").await;
    let other = siege.device("sensor-linux").await;
    let good = bearer(server);
    let (anonymous, as_device) = (Tls::anonymous(server), Tls::with(server, &device.identity));
    let url = &server.endpoints().device;
    let foreign = renewal(&other.identity, KeyPair::generate().unwrap()).csr;
    let foreign: &'static str = Box::leak(BASE64_STANDARD.encode(foreign).into_boxed_str());
    for (method, path) in DEVICE {
        let nobody = ask(&anonymous, url, request(method, path, None, "")).await;
        let operator = ask(&anonymous, url, request(method, path, Some(&good), "")).await;
        let device_answer = ask(
            &as_device,
            url,
            request(
                method,
                path,
                None,
                foreign.get(..if *method == "POST" { foreign.len() } else { 0 }).unwrap(),
            ),
        )
        .await;
        if path.ends_with("/simpleenroll") {
            refused(&nobody, 401, "unauthenticated");
            refused(&operator, 401, "token_refused");
            refused(&device_answer, 401, "unauthenticated");
        } else if path.ends_with("/simplereenroll") {
            refused(&nobody, 401, "unauthenticated");
            refused(&operator, 401, "unauthenticated");
            refused(&device_answer, 422, "csr_names_mismatch");
        } else if path.ends_with("/{digest}") {
            refused(&nobody, 401, "unauthenticated");
            refused(&operator, 401, "unauthenticated");
            refused(&device_answer, 404, "not_found");
        } else {
            for answer in [&nobody, &operator, &device_answer] {
                assert_eq!(answer.status, 200, "{method} {path}: {}", text(answer));
            }
            if path.ends_with("/muster") {
                assert!(nobody.json()["device"].is_null() && operator.json()["device"].is_null());
                assert_eq!(device_answer.json()["device"]["id"], device.id.as_str());
            }
        }
    }
    let rules = ["policy.sign_in_first", "token.none", "token.malformed", "renewal.names"];
    let _ = siege.lift(2, &rules).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_fetches_the_baseline_it_was_told_to_have_and_no_other() {
    let siege = Siege::begin().await;
    let server = siege.server();
    let (sensor, laptop) = (siege.device("sensor-linux").await, siege.device("laptop-linux").await);
    let digest = async |id: &str| {
        let shown = siege.rest(Method::GET, &format!("/v1/devices/{id}/baseline"), None).await;
        shown.json()["digest"].as_str().unwrap().to_owned()
    };
    let (of_sensor, of_laptop) = (digest(&sensor.id).await, digest(&laptop.id).await);
    assert_ne!(of_sensor, of_laptop);
    let fetch = async |identity: &Identity, digest: &str| {
        let path = format!("/.well-known/muster/baselines/{digest}");
        ask(&Tls::with(server, identity), &server.endpoints().device, request("GET", &path, None, "")).await
    };
    let own = fetch(&sensor.identity, &of_sensor).await;
    assert_eq!(own.status, 200, "{}", text(&own));
    refused(&fetch(&sensor.identity, &of_laptop).await, 404, "not_found");
    for malformed in
        ["", "ab", "..%2f..%2fkeys%2froot.key", &of_sensor.to_uppercase(), &format!("{of_sensor}0")]
    {
        let answer = fetch(&sensor.identity, malformed).await;
        assert!((400..=404).contains(&answer.status.as_u16()), "{malformed}: {}", text(&answer));
    }
    siege.quarantine(&sensor.id).await;
    let while_held = fetch(&sensor.identity, &of_sensor).await;
    assert_eq!(while_held.status, 200, "a held device is still told what it should be like");
    siege.revoke(&sensor.id).await;
    let revoked = Tls::with(server, &sensor.identity).connect(&server.endpoints().device).await;
    let answered = match revoked {
        Ok(mut door) => {
            let path = format!("/.well-known/muster/baselines/{of_sensor}");
            door.send(request("GET", &path, None, "")).await
        }
        Err(failure) => Err(failure),
    };
    assert!(answered.is_err(), "a revoked device fetches nothing");
    let _ = siege.lift(2, &[]).await;
}

/// Certificates that must open neither the device door nor the gate, whatever route they ask for.
async fn is_shut_out(server: &Server, who: &str, identity: &Identity) {
    for (method, path) in DEVICE {
        let answered = match Tls::with(server, identity).connect(&server.endpoints().device).await {
            Ok(mut door) => door.send(request(method, path, None, "")).await,
            Err(failure) => Err(failure),
        };
        assert!(answered.is_err(), "{method} {path} with {who}: {}", text(&answered.unwrap()));
    }
    assert!(!enters_gate(server, identity).await, "the gate with {who}");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_are_foreign_forged_early_or_revoked_open_no_route() {
    let siege = Siege::begin().await;
    let server = siege.server();
    let victim = siege.device("sensor-linux").await;
    let revoked = siege.device("sensor-linux").await;
    siege.revoke(&revoked.id).await;
    let uri = format!("spiffe://localhost/device/{}", victim.id);
    let thief = Forger::thief(server.site(), "issuing");
    let say = |change: &dyn Fn(&mut Says)| {
        let mut says = Says::of(&uri);
        change(&mut says);
        says
    };
    let victims = serial(&victim.identity);
    let intruders = [
        ("another CA of the same name", Forger::namesake(server.site()).forge(&Says::of(&uri))),
        ("the CA for server names", Forger::thief(server.site(), "server-names").forge(&Says::of(&uri))),
        ("a number that was never issued", thief.forge(&Says::of(&uri))),
        ("another trust domain", thief.forge(&Says::of(&uri.replace("localhost", "elsewhere")))),
        ("an observer's name", thief.forge(&Says::of("spiffe://localhost/observer/all"))),
        ("a life that has not begun", thief.forge(&say(&|says| says.validity = (3_600, 86_400)))),
        (
            "the victim's number and name with another key",
            thief.forge(&say(&|says| says.serial = victims.clone())),
        ),
        (
            "the victim's number before its time",
            thief.forge(&say(&|says| {
                (says.serial, says.validity) = (victims.clone(), (3_600, 86_400));
            })),
        ),
        ("no usage", thief.forge(&say(&|says| says.usages = Vec::new()))),
        ("a server's usage", thief.forge(&say(&|says| says.usages = vec![super::forge::SERVER]))),
        ("a revoked certificate", revoked.identity.clone()),
        (
            "the victim's certificate with another key",
            Identity {
                chain: victim.identity.chain.clone(),
                key: Identity::of(&[], Pledge::new("").key.serialize_der().try_into().unwrap()).key,
            },
        ),
    ];
    for (who, identity) in &intruders {
        is_shut_out(server, who, identity).await;
    }
    assert_eq!(victim.discover(server).await.status, 200);
    let rules = [
        "handshake.certificate_not_ours",
        "handshake.certificate_invalid",
        "certificate_unknown",
        "certificate_revoked",
    ];
    let _ = siege.lift(2, &rules).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_expired_long_ago_opens_no_route() {
    let siege = Siege::begin().await;
    let old = siege.device("laptop-linux").await;
    let site = siege.into_server().stop().await;
    // A laptop's certificate lives for 30 days, and may renew for 60 more.
    let ahead = Duration::from_secs(100 * 86_400);
    let siege = Siege::of(Server::on(site, at_time("+100d")).await.ahead_by(ahead)).await;
    is_shut_out(siege.server(), "an expired certificate", &old.identity).await;
    let shown: Value = siege.rest(Method::GET, &format!("/v1/devices/{}", old.id), None).await.json();
    assert_eq!(shown["state"], "commissioning", "expiry ends no life");
    let _ = siege.lift(0, &["certificate_expired"]).await;
}
