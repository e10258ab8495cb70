//! A server under attack, and what must be true of every attack on it.
//!
//! ```text
//! begin ──▶ the attack: each answer through `refused` ──▶ lift: what the log says, and does it still serve?
//! ```
//! Closed: nothing was issued but what the attack may have. Recorded: every rule that had to refuse stands in the
//! audit log. Discreet: answers hold a stable code and nothing that comes from inside. Serving: a stranger with a
//! good token is enrolled afterwards, and nothing panicked.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use muster_tests::est::{self, Pledge};
use muster_tests::{Answer, Connection, Identity, Launch, PATIENCE, Server, Site, Tls};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A server, and where its audit log stood when the attack began.
pub(crate) struct Siege {
    server: Server,
    began: u64,
}

/// What every device of ours is called.
pub(crate) const TRUST_DOMAIN: &str = "localhost";

/// Lets attackers guess as often as they like, so that what refuses them is not the limit.
pub(crate) fn patient() -> Launch {
    Launch::plain().with("MUSTER_LIMITS_WRONG_TOKENS_PER_MINUTE", "100000")
}

impl Siege {
    /// A new installation that lets attackers guess.
    pub(crate) async fn begin() -> Self {
        Self::of(Server::on(Site::founded().await, patient()).await).await
    }

    /// An attack on `server`, from its present state on.
    pub(crate) async fn of(server: Server) -> Self {
        let began = log_size(&server).await;
        Self { server, began }
    }

    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// The server, to be treated worse; what happened until now is no longer asked about.
    pub(crate) fn into_server(self) -> Server {
        self.server
    }

    /// A token for `profile`.
    pub(crate) async fn token(&self, profile: &str) -> String {
        self.tokens(&json!({ "profile": profile })).await.remove(0)
    }

    /// The tokens that `asked` makes.
    pub(crate) async fn tokens(&self, asked: &Value) -> Vec<String> {
        let made = rest(&self.server, Method::POST, "/v1/tokens", Some(asked)).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", text(&made));
        let made = made.json();
        made.as_array().unwrap().iter().map(|one| one["token"].as_str().unwrap().to_owned()).collect()
    }

    /// A device of `profile` that has enrolled and used its certificate.
    pub(crate) async fn device(&self, profile: &str) -> Device {
        let device = self.newcomer(profile).await;
        assert_eq!(device.discover(&self.server).await.status, StatusCode::OK);
        device
    }

    /// A device of `profile` that has enrolled and not used its certificate.
    pub(crate) async fn newcomer(&self, profile: &str) -> Device {
        let token = self.token(profile).await;
        let pledge = Pledge::new("");
        let answer = est::enroll(&self.server, &token, &pledge.csr).await.expect("an answer");
        Device::new(pledge.identity(&answer))
    }

    /// Asks the REST API as the first operator.
    pub(crate) async fn rest(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        rest(&self.server, method, path, body).await
    }

    /// Revokes a device.
    pub(crate) async fn revoke(&self, device: &str) {
        let path = format!("/v1/devices/{device}:revoke");
        let answer = self.rest(Method::POST, &path, Some(&json!({ "reason": "key_compromise" }))).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", text(&answer));
    }

    /// Holds a device.
    pub(crate) async fn quarantine(&self, device: &str) {
        let path = format!("/v1/devices/{device}:quarantine");
        let answer = self.rest(Method::POST, &path, Some(&json!({ "reason": "left in a train" }))).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", text(&answer));
    }

    /// Lets a held device go back.
    pub(crate) async fn release(&self, device: &str) {
        let answer = self.rest(Method::POST, &format!("/v1/devices/{device}:release"), None).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", text(&answer));
    }

    /// Every audit entry since the attack began.
    pub(crate) async fn entries(&self) -> Vec<Value> {
        entries(&self.server, self.began).await
    }

    /// Ends the attack: `issued` certificates came of it, and each of `rules` refused something at least once.
    pub(crate) async fn lift(self, issued: usize, rules: &[&str]) -> Server {
        let found = self.recorded(rules).await;
        let certificates: BTreeSet<&str> = found
            .iter()
            .filter(|entry| entry["outcome"] == "done")
            .filter_map(|entry| entry["facts"]["certificate_sha256"].as_str())
            .collect();
        assert_eq!(certificates.len(), issued, "certificates that were issued during the attack: {found:#?}");
        still_serves(&self.server).await;
        self.server
    }

    /// Waits until each of `rules` stands in the log as a refusal; what a door refuses is written a little later.
    async fn recorded(&self, rules: &[&str]) -> Vec<Value> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let entries = self.entries().await;
            let refused: BTreeSet<&str> = entries
                .iter()
                .filter(|entry| entry["outcome"] == "refused")
                .filter_map(|entry| entry["reason"].as_str())
                .collect();
            let missing: Vec<_> = rules.iter().filter(|rule| !refused.contains(*rule)).collect();
            if missing.is_empty() {
                return entries;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "not recorded: {missing:?}; recorded: {refused:?}"
            );
        }
    }
}

/// An enrolled device, or whoever has copied it.
#[derive(Clone)]
pub(crate) struct Device {
    pub(crate) id: String,
    pub(crate) identity: Identity,
}

impl Device {
    /// Whoever `identity` names.
    pub(crate) fn new(identity: Identity) -> Self {
        Self { id: named(identity.leaf()), identity }
    }

    /// The authenticated request that proves a certificate.
    pub(crate) async fn discover(&self, server: &Server) -> Answer {
        let mut door = self.connect(server).await.expect("a device of ours is let in");
        door.get("/.well-known/muster").await.expect("a device of ours is answered")
    }

    /// A connection to the device listener.
    pub(crate) async fn connect(&self, server: &Server) -> Result<Connection, muster_tests::TlsFailure> {
        Tls::with(server, &self.identity).connect(&server.endpoints().device).await
    }
}

/// The device id in the one URI of a certificate, which must be of our trust domain.
pub(crate) fn named(leaf: &[u8]) -> String {
    use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
    let (_, certificate) = X509Certificate::from_der(leaf).expect("a certificate");
    let names =
        certificate.subject_alternative_name().expect("well-formed").expect("alternative names").value;
    let [GeneralName::URI(uri)] = names.general_names.as_slice() else { panic!("not one URI: {names:?}") };
    let id = uri.strip_prefix(&format!("spiffe://{TRUST_DOMAIN}/device/")).expect("a device of ours");
    id.to_owned()
}

/// Asserts that `answer` refuses with `status` and `code`, and says nothing else that comes from inside.
pub(crate) fn refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code), "{}", text(answer));
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    let body = answer.json();
    assert_eq!(body["type"], format!("urn:muster:problem:{code}"));
    let mut fields: BTreeSet<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
    for public in ["type", "title", "status", "code", "remedy", "request_id"] {
        fields.remove(public);
    }
    let more: &[&str] = match code {
        // Which rule it was would tell an unknown token from a spent one.
        "token_refused" | "unauthenticated" | "rate_limited" | "certificate_refused" => &[],
        "too_large" | "not_found" | "malformed_request" | "unsupported_media_type" => &["detail", "field"],
        _ => &["rule", "field"],
    };
    fields.retain(|field| !more.contains(field));
    assert!(fields.is_empty(), "{code} says more than it may: {fields:?} in {}", text(answer));
    discreet(answer);
}

/// Asserts that nothing in `answer` comes from inside the server.
pub(crate) fn discreet(answer: &Answer) {
    let all = format!("{:?}{}", answer.headers, text(answer));
    for inside in ["panicked", ".rs:", "/tmp/", "sled", "rustls", "Backtrace", "No such file"] {
        assert!(!all.contains(inside), "{inside:?} in {all}");
    }
}

/// Whether the MQTT gate answers a CONNECT on a connection that shows `identity`.
pub(crate) async fn enters_gate(server: &Server, identity: &Identity) -> bool {
    const CONNECT: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01x";
    let Ok(mut stream) = Tls::with(server, identity).open(&server.endpoints().mqtt).await else {
        return false;
    };
    // In TLS 1.3 a refused certificate shows at the first read.
    let mut answer = [0; 4];
    stream.write_all(CONNECT).await.is_ok()
        && stream.read_exact(&mut answer).await.is_ok()
        && answer[0] == 0x20
}

/// What an answer says, for messages.
pub(crate) fn text(answer: &Answer) -> String {
    format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body))
}

/// Asserts that a good token is still good for a certificate that is let in, and that nothing panicked.
pub(crate) async fn still_serves(server: &Server) {
    let made = rest(server, Method::POST, "/v1/tokens", Some(&json!({ "profile": "sensor-linux" }))).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", text(&made));
    let token = made.json()[0]["token"].as_str().unwrap().to_owned();
    let pledge = Pledge::new("");
    let answer = est::enroll(server, &token, &pledge.csr).await.expect("an answer");
    let device = Device::new(pledge.identity(&answer));
    let found = device.discover(server).await;
    assert_eq!(found.status, StatusCode::OK, "{}", text(&found));
    assert_eq!(found.json()["device"]["id"], device.id.as_str());
    let log = server.site().log();
    assert!(!log.contains("panicked"), "{log}");
}

/// Every audit entry from sequence number `first` on.
pub(crate) async fn entries(server: &Server, first: u64) -> Vec<Value> {
    let mut door = admin(server).await;
    let mut found = Vec::new();
    let mut after = first.checked_sub(1).map(|seq| seq.to_string());
    loop {
        let query = after.map_or_else(String::new, |after| format!("&after={after}"));
        let page =
            door.send(as_operator(server, Method::GET, &format!("/v1/audit?limit=1000{query}"), None)).await;
        let page = page.expect("an answer").json();
        found.extend(page["items"].as_array().unwrap().iter().cloned());
        match page["next"].as_str() {
            Some(next) => after = Some(next.to_owned()),
            None => return found,
        }
    }
}

async fn log_size(server: &Server) -> u64 {
    let page = rest(server, Method::GET, "/v1/audit?limit=1", None).await.json();
    page["size"].as_u64().expect("a size")
}

/// One request to the REST API as the first operator.
pub(crate) async fn rest(server: &Server, method: Method, path: &str, body: Option<&Value>) -> Answer {
    admin(server).await.send(as_operator(server, method, path, body)).await.expect("an answer")
}

async fn admin(server: &Server) -> Connection {
    Tls::anonymous(server).connect(&server.endpoints().admin).await.expect("the operators' door is open")
}

fn as_operator(server: &Server, method: Method, path: &str, body: Option<&Value>) -> Request<Bytes> {
    let request = Request::builder().method(method).uri(path).header("authorization", bearer(server));
    let request = match body {
        Some(_) => request.header("content-type", "application/json"),
        None => request,
    };
    let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
    request.body(body).expect("a request")
}

/// The header that proves the first operator.
pub(crate) fn bearer(server: &Server) -> String {
    let credential = server.site().credential();
    format!("Bearer {}", credential["token"].as_str().expect("a credential holds a token"))
}
