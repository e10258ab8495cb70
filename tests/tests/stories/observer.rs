//! A dashboard: somebody's own MQTT client with an observer's certificate hears what happens, and does nothing else;
//! a script hears the same over HTTPS and misses nothing when it comes again.

use muster_tests::{Agent, Launch, Server, eventually, judge, run};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

struct Dashboard {
    directory: TempDir,
    port: String,
}

impl Dashboard {
    async fn of(server: &Server) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port = server.endpoints().mqtt.rsplit(':').next().unwrap().to_owned();
        let dashboard = Self { directory, port };
        let [key, csr, pem, root] =
            ["key.pem", "request.csr", "observer.pem", "root.pem"].map(|name| dashboard.file(name));
        let _ = judge::openssl(
            &[
                "req",
                "-new",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-subj",
                "/CN=whoever",
                "-keyout",
                &key,
                "-out",
                &csr,
            ],
            b"",
        )
        .await
        .ok();
        let added = server.cli(&["observer", "add", "dashboard", "--csr", &csr, "--out", &pem]).await;
        assert_eq!(added["observer"]["state"], "active");
        let der = server.site().data_dir().join("keys/root.der").display().to_string();
        let _ = judge::openssl(&["x509", "-inform", "DER", "-in", &der, "-out", &root], b"").await.ok();
        dashboard
    }

    fn file(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn words(&self, more: &[&str]) -> Vec<String> {
        let [key, pem, root] = ["key.pem", "observer.pem", "root.pem"].map(|name| self.file(name));
        let common = [
            "-V",
            "311",
            "--tls-version",
            "tlsv1.3",
            "-h",
            "127.0.0.1",
            "-p",
            &self.port,
            "-i",
            "dashboard",
            "--cafile",
            &root,
            "--cert",
            &pem,
            "--key",
            &key,
        ];
        common.iter().chain(more).map(|word| (*word).to_owned()).collect()
    }

    /// A subscriber that has been granted what it asked for.
    async fn listens(&self, topics: &[&str]) -> Ear {
        let asked: Vec<&str> = topics.iter().flat_map(|topic| ["-t", topic]).collect();
        // Line by line, although it writes to a pipe.
        let mut child = Command::new("stdbuf")
            .args(["-oL", "mosquitto_sub"])
            .args(self.words(&[&["-d", "-F", "%t %p"], asked.as_slice()].concat()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut ear = Ear { _child: child, lines, unasked: Vec::new() };
        ear.line(|line| line.starts_with("Subscribed (mid")).await;
        ear
    }
}

struct Ear {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// What was heard before it was asked for: the bus keeps the order within a topic, not between two.
    unasked: Vec<String>,
}

impl Ear {
    async fn line(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        if let Some(at) = self.unasked.iter().position(|line| wanted(line)) {
            return self.unasked.remove(at);
        }
        let heard = async {
            loop {
                let line = self.lines.next_line().await.unwrap().expect("the client goes on");
                if wanted(&line) {
                    return line;
                }
                self.unasked.push(line);
            }
        };
        tokio::time::timeout(muster_tests::PATIENCE, heard).await.expect("heard in time")
    }

    /// Waits until the client has lost its connection: it connects anew, or gives up.
    async fn loses_its_connection(mut self) {
        let lost = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                if line.contains("sending CONNECT") {
                    return;
                }
            }
        };
        tokio::time::timeout(muster_tests::PATIENCE, lost).await.expect("cut in time");
    }

    /// The next event on `topic` for which `fits`.
    async fn hears(&mut self, topic: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let parsed = |line: &str| -> Option<Value> {
            serde_json::from_str(line.strip_prefix(topic)?.strip_prefix(' ')?).ok()
        };
        let line = self.line(|line| parsed(line).is_some_and(|event| fits(&event))).await;
        parsed(&line).unwrap()
    }
}

/// A stream of events by curl.
struct Stream {
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Stream {
    fn open(server: &Server, query: &str, last: Option<&str>) -> Self {
        let root: PathBuf = server.site().data_dir().join("keys/root.der");
        let credential: Value = serde_json::from_slice(
            &std::fs::read(server.site().data_dir().join("admin.credential")).unwrap(),
        )
        .unwrap();
        let pem = server.site().path("root.pem");
        let made = std::process::Command::new("openssl")
            .args(["x509", "-inform", "DER", "-in"])
            .arg(root)
            .arg("-out")
            .arg(&pem)
            .status()
            .unwrap();
        assert!(made.success());
        let mut command = Command::new("curl");
        command.args(["-sN", "--cacert"]).arg(&pem);
        command.args(["-H", &format!("Authorization: Bearer {}", credential["token"].as_str().unwrap())]);
        if let Some(last) = last {
            command.args(["-H", &format!("Last-Event-ID: {last}")]);
        }
        let url = format!("{}/v1/events{query}", server.endpoints().admin);
        let mut child = command.arg(url).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        Self { lines: BufReader::new(child.stdout.take().unwrap()).lines(), _child: child }
    }

    /// Id and data of the next event.
    async fn next(&mut self) -> (String, Value) {
        let heard = async {
            let mut id = String::new();
            loop {
                let line = self.lines.next_line().await.unwrap().expect("the stream goes on");
                if let Some(text) = line.strip_prefix("id: ") {
                    text.clone_into(&mut id);
                } else if let Some(data) = line.strip_prefix("data: ") {
                    return (id, serde_json::from_str(data).unwrap());
                }
            }
        };
        tokio::time::timeout(muster_tests::PATIENCE, heard).await.expect("heard in time")
    }
}

async fn enrol(server: &Server) -> (Agent, String) {
    let agent = Agent::new();
    let _ = agent.enroll(&server.mint("sensor-linux").await.enrollment).await.ok();
    let id = agent.status().await["device"].as_str().unwrap().to_owned();
    (agent, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observer_hears_an_enrolment_a_verdict_and_a_revocation_and_can_do_nothing_else() {
    let server = Server::start().await;
    let dashboard = Dashboard::of(&server).await;
    let topics = [
        "muster/events/devices",
        "muster/events/certificates",
        "muster/events/presence",
        "muster/events/posture",
    ];
    let mut ear = dashboard.listens(&topics).await;
    let (agent, id) = enrol(&server).await;
    let of_device = |event: &Value| event["device"] == id.as_str();
    assert_eq!(ear.hears(topics[0], of_device).await["to"], "commissioning");
    assert_eq!(ear.hears(topics[1], of_device).await["certificates"][0]["status"], "issued");
    let running = agent.start();
    assert_eq!(ear.hears(topics[2], of_device).await["online"], true);
    let verdict = ear.hears(topics[3], of_device).await;
    assert!(verdict["from"].is_null() && verdict["to"].is_string(), "{verdict}");
    let _ = server.cli(&["device", "revoke", &id, "--reason", "key_compromise", "--yes"]).await;
    let gone = |event: &Value| of_device(event) && event["reason"] == "key_compromise";
    assert_eq!(ear.hears(topics[0], gone).await["to"], "retired(without_proof)");
    assert_eq!(
        ear.hears(topics[2], |event| of_device(event) && event["online"] == false).await["device"],
        id.as_str()
    );
    drop((ear, running));

    let device = format!("muster/v1/{id}/report/state");
    for foreign in [
        "#",
        "muster/events/#",
        "muster/events/+",
        "muster/bus/heartbeat",
        "$share/g/muster/events/devices",
        &device,
    ] {
        let words = dashboard.words(&["-C", "1", "-W", "20", "-t", foreign]);
        let refused = run(&Launch::plain(), Path::new("mosquitto_sub"), &words, b"").await;
        assert!(refused.stdout.is_empty() && refused.stderr.contains("denied"), "{foreign}: {refused:?}");
    }
    for topic in ["muster/events/devices", &device, "é"] {
        let words = dashboard.words(&["-q", "1", "-m", "x", "-t", topic]);
        let refused = run(&Launch::plain(), Path::new("mosquitto_pub"), &words, b"").await;
        assert_ne!(refused.code, Some(0), "{topic}");
    }
    eventually("the log hears of the publish", async || {
        let log = server.cli(&["audit", "tail", "-n", "50"]).await.to_string();
        (log.contains("observer.publish") && log.contains("observer/dashboard")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_observer_is_cut_at_once_and_a_device_hears_no_events() {
    let server = Server::start().await;
    let dashboard = Dashboard::of(&server).await;
    let ear = dashboard.listens(&["muster/events/devices"]).await;
    let _ = server.cli(&["observer", "revoke", "dashboard", "--yes"]).await;
    ear.loses_its_connection().await;
    let words = dashboard.words(&["-C", "1", "-W", "5", "-t", "muster/events/devices"]);
    let refused = run(&Launch::plain(), Path::new("mosquitto_sub"), &words, b"").await;
    assert!(refused.code != Some(0) && refused.stdout.is_empty(), "{refused:?}");
    assert_eq!(server.cli(&["observer", "list"]).await[0]["state"], "revoked");

    let (agent, id) = enrol(&server).await;
    let identity = agent.state_dir().join("identity");
    let [pem, key] = ["certificate.pem", "key.pem"].map(|name| identity.join(name).display().to_string());
    let port = dashboard.port.clone();
    let words = [
        "-V",
        "311",
        "--tls-version",
        "tlsv1.3",
        "-h",
        "127.0.0.1",
        "-p",
        &port,
        "-i",
        &id,
        "--cafile",
        &dashboard.file("root.pem"),
        "--cert",
        &pem,
        "--key",
        &key,
        "-C",
        "1",
        "-W",
        "20",
        "-t",
        "muster/events/devices",
    ]
    .map(str::to_owned);
    let refused = run(&Launch::plain(), Path::new("mosquitto_sub"), &words, b"").await;
    assert!(refused.stdout.is_empty() && refused.stderr.contains("denied"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_is_cut_off_goes_on_where_it_was_even_over_a_restart() {
    let server = Server::start().await;
    let mut first = Stream::open(&server, "?topic=devices,certificates&after=0", None);
    let (_one, one) = enrol(&server).await;
    let (id, data) = first.next().await;
    assert_eq!(data["device"], one.as_str());
    drop(first);
    let (_two, two) = enrol(&server).await;
    let server = Server::on(server.kill(), Launch::plain()).await;
    let mut again = Stream::open(&server, "?topic=devices,certificates", Some(&id));
    let mut told = Vec::new();
    while told.iter().filter(|(device, topic)| *device == two && *topic == "certificates").count() == 0 {
        let (_, data) = again.next().await;
        let text = |name: &str| data[name].as_str().unwrap_or_default().to_owned();
        told.push((text("device"), text("topic")));
    }
    let devices = |id: &str| told.iter().filter(|(device, topic)| device == id && topic == "devices").count();
    assert_eq!((devices(&one), devices(&two)), (0, 1), "what was heard is not told twice: {told:?}");
    assert!(
        told.contains(&(one, "certificates".to_owned())),
        "the other half of the entry is not lost: {told:?}"
    );
}
