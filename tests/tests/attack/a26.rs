//! A26: a whole life at TRACE, then a search for every secret in everything that was said.
//!
//! Tokens, operators' credentials and private keys stand in no log, no audit entry, no metric, no store, no command
//! line and no environment.

use super::siege::{Siege, bearer, entries, rest, text};
use base64::prelude::{BASE64_STANDARD, Engine};
use bytes::Bytes;
use http::{Method, Request};
use muster_tests::est::{self, Pledge};
use muster_tests::{Agent, Launch, Run, Server, Site, Tls, Versions, until};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Secrets by name.
#[derive(Default)]
struct Canaries(BTreeMap<String, Vec<u8>>);

impl Canaries {
    fn add(&mut self, name: impl Into<String>, secret: impl Into<Vec<u8>>) {
        let secret = secret.into();
        assert!(secret.len() >= 16, "too short to be searched for");
        self.0.insert(name.into(), secret);
    }

    /// A private key in PEM: every form in which it could slip out.
    fn add_key(&mut self, path: &Path) {
        let pem = std::fs::read_to_string(path).unwrap();
        let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let der = BASE64_STANDARD.decode(&body).unwrap();
        let name = path.file_name().unwrap().to_string_lossy();
        self.add(format!("{name}: first line"), pem.lines().nth(1).unwrap());
        self.add(format!("{name}: DER"), der.clone());
        // The private number itself is among these bytes in every PKCS#8 key that we make.
        self.add(format!("{name}: hexadecimal"), hex::encode(&der[36..48]));
    }

    fn search(&self, place: &str, bytes: &[u8]) {
        // How secrets end, so that most of a file is passed by without comparing.
        let end =
            |bytes: &[u8]| usize::from(u16::from_be_bytes([bytes[bytes.len() - 2], bytes[bytes.len() - 1]]));
        let mut ends = vec![false; 1 << 16];
        self.0.values().for_each(|secret| ends[end(secret)] = true);
        for until in (2..=bytes.len()).filter(|until| ends[end(&bytes[..*until])]) {
            for (name, secret) in &self.0 {
                assert!(!bytes[..until].ends_with(secret), "{name} stands in {place}");
            }
        }
    }

    fn search_run(&self, run: &Run) {
        self.search("what a command says", &run.stdout);
        self.search("what a command complains", run.stderr.as_bytes());
        self.search("a command line", run.command.as_bytes());
    }

    fn search_directory(&self, directory: &Path) {
        for file in files(directory) {
            self.search(&file.display().to_string(), &std::fs::read(&file).unwrap());
        }
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

fn traced() -> Launch {
    Launch::plain().with("MUSTER_LOG", "trace").with("MUSTER_LIMITS_WRONG_TOKENS_PER_MINUTE", "1000")
}

/// A server founded and served at TRACE, and what founding said.
async fn founded() -> (Server, Run) {
    let site = Site::empty();
    let keys = [site.approver("alice").await, site.approver("bob").await];
    let arguments: Vec<&str> = keys.iter().flat_map(|key| ["--approver", key.as_str()]).collect();
    let said = site.init(&traced(), &arguments).await.ok();
    (Server::on(site, traced()).await, said)
}

#[test]
#[should_panic(expected = "a canary stands in a cage")]
fn a_secret_that_is_said_is_found() {
    let mut canaries = Canaries::default();
    canaries.add("a canary", *b"muster_0123456789");
    canaries.search("a cage", b"..muster_0123456789.");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_said_by_anyone_in_a_whole_life_at_trace() {
    let (server, founding) = founded().await;
    let siege = Siege::of(server).await;
    let server = siege.server();
    let site = server.site();
    let mut canaries = Canaries::default();
    let credential = bearer(server)["Bearer ".len()..].to_owned();
    canaries.add("the first operator's credential", credential.clone());
    for file in files(&site.data_dir().join("keys")) {
        if file.extension().is_some_and(|kind| kind == "key") && !file.ends_with("idempotency.key") {
            canaries.add_key(&file);
        }
    }
    canaries.add_key(&site.path("alice.key"));

    let enrolling = server.mint("laptop-linux").await;
    canaries.add("the agent's token", enrolling.token.clone());
    let agent = Agent::under(traced());
    let mut said = vec![founding, agent.enroll(&enrolling.enrollment).await.ok()];
    canaries.add_key(&agent.state_dir().join("identity/key.pem"));
    said.push(agent.renew().await.ok());
    canaries.add_key(&agent.state_dir().join("identity/key.pem"));
    said.push(agent.run(&["status"]).await.ok());
    said.push(agent.run(&["doctor"]).await);
    said.push(Agent::under(traced()).enroll(&enrolling.enrollment).await.exits(3));

    let unused = siege.token("sensor-linux").await;
    canaries.add("an unused token", unused.clone());
    canaries.add("an unused token as a password", BASE64_STANDARD.encode(format!("any:{unused}")));
    let wrong = muster_wire::enrollment::Token::from_entropy(&[9; 24]).reveal().to_owned();
    canaries.add("a wrong token", wrong.clone());
    let added = siege.rest(Method::POST, "/v1/operators", Some(&json!({ "name": "second" }))).await.json();
    canaries.add("the second operator's credential", added["token"].as_str().unwrap());
    attempts(server, &unused, &wrong, &credential).await;
    let device = agent.status().await["device"].as_str().unwrap().to_owned();
    said.push(server.try_cli(&["device", "explain", &device]).await.ok());
    said.push(server.try_cli(&["device", "show", &device]).await.ok());
    said.push(server.try_cli(&["token", "list"]).await.ok());
    siege.revoke(&device).await;

    said.iter().for_each(|run| canaries.search_run(run));
    let export = site.path("export");
    let _ = server.try_cli(&["audit", "export", &export.display().to_string()]).await.ok();
    canaries.search_directory(&export);
    let metrics = siege.rest(Method::GET, "/metrics", None).await;
    assert_eq!(metrics.status, 200, "{}", text(&metrics));
    canaries.search("the metrics", &metrics.body);
    for place in ["cmdline", "environ"] {
        let path = format!("/proc/{}/{place}", server.pid());
        canaries.search(&path, &std::fs::read(&path).unwrap());
    }
    for path in
        ["/v1/tokens", "/v1/devices", "/v1/operators", "/v1/ca", "/v1/authority", "/v1/audit?limit=1000"]
    {
        canaries.search(path, &siege.rest(Method::GET, path, None).await.body);
    }
    assert!(!entries(server, 0).await.is_empty());
    assert!(Tls::build(site, None, Versions::Tls12).open(&server.endpoints().device).await.is_err());
    let log =
        until("the log says more than usual", || Some(site.log()).filter(|log| log.contains("DEBUG"))).await;
    canaries.search("the log", log.as_bytes());
    let server = siege.lift(2, &["token.spent", "token.unknown"]).await;
    let site = server.stop().await;
    canaries.search("the log to its end", site.log().as_bytes());
    canaries.search("standard output", &std::fs::read(site.path("serve.out")).unwrap());
    canaries.search_directory(&site.data_dir().join("store"));
    canaries.search_directory(&site.data_dir().join("audit"));
}

/// Secrets in every place where a careless or hostile client could put them.
async fn attempts(server: &Server, token: &str, wrong: &str, credential: &str) {
    let csr = Pledge::new("").csr;
    let mut door = est::connect(server).await.unwrap();
    let _ = door.send(est::enroll_request(None, wrong, &csr)).await.unwrap();
    let _ = door.send(est::enroll_request(Some("laptop-linux"), token, &csr)).await.unwrap();
    let _ = door.send(est::enroll_request(None, token, b"no request")).await.unwrap();
    let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("any:{token}")));
    for path in [est::path(Some("no-such"), "simpleenroll"), est::path(None, "simplereenroll")] {
        let request = Request::post(path).header("authorization", &basic).body(Bytes::new()).unwrap();
        let _ = door.send(request).await.unwrap();
    }
    let mut operators = Tls::anonymous(server).connect(&server.endpoints().admin).await.unwrap();
    for (method, path) in
        [("GET", "/v1/devices"), ("POST", "/v1/tokens"), ("PUT", "/v1/tokens"), ("GET", "/nothing")]
    {
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        let request = request.header("authorization", format!("Bearer {credential}"));
        let answer =
            operators.send(request.body(Bytes::from_static(b"{\"nonsense\"")).unwrap()).await.unwrap();
        let said = text(&answer);
        assert!(!said.contains(credential), "{said}");
    }
    let idempotent = Request::post("/v1/tokens")
        .header("authorization", format!("Bearer {credential}"))
        .header("content-type", "application/json")
        .header("idempotency-key", "a26")
        .body(Bytes::from_static(b"{\"profile\":\"sensor-linux\"}"));
    let made = operators.send(idempotent.unwrap()).await.unwrap();
    assert_eq!(made.status, 201, "{}", text(&made));
    let _ = rest(server, Method::GET, "/v1/devices?limit=0", None).await;
}
