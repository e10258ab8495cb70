//! A22 for what devices say: texts that steer a terminal, break a line, run in a browser, a spreadsheet or a database, or
//! are not what they look like, in every place where a device can put one. The device is the attacker.
//!
//! Where a person looks there is nothing that steers; where a program reads there is one well-formed document a line, and
//! no text has become anything but a text.

use super::der::{COMMON_NAME, SERIAL_NUMBER, UTF8};
use super::packets::{Beside, Session, report};
use super::request::Draft;
use super::siege::{Device, Siege, bearer, patient};
use bytes::Bytes;
use http::{Method, Request};
use muster_tests::est;
use muster_tests::{Launch, Run, Server, Site, Tls, eventually, run, server_program};
use muster_wire::cbor::{self, Cbor};
use muster_wire::desired::{Generation, SectionKind};
use muster_wire::id::{DeviceId, ReportId};
use muster_wire::posture::{
    Drift, EventKind, EventReport, Fact, FactState, FactValue, PostureReport, StateReport,
};
use muster_wire::time::Timestamp;
use serde_json::Value;
use std::path::Path;

/// One of each kind; every one bears the word by which it is found again.
const HOSTILE: [&str; 8] = [
    "zz-ansi \u{1b}]0;owned\u{7}\u{1b}[2J\u{1b}[31m\u{9b}31m",
    "zz-line\r\n{\"action\":\"device.activate\",\"outcome\":\"done\"}\nid: 1\nevent: devices\ndata: {}\n\n",
    "zz-html <script>alert(1)</script><img src=x onerror=alert(1)>",
    "=cmd|'/C calc'!A0 zz-formula",
    "zz-sql '; DROP TABLE devices;-- ",
    "zz-bidi \u{202e}gnp.exe\u{202c}\u{2066}x\u{2069}\u{200b}\u{feff}",
    "zz-nul \u{0}after\u{8}\u{8}\u{7f}\u{85}\u{2028}\u{2029}",
    "@SUM(1+1)*zz-at",
];

/// Whether `c` steers a terminal or the direction of reading, or cannot be seen. A line end is none between lines.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Asserts that `text`, which a person reads, steers nothing.
fn is_plain(place: &str, text: &str) {
    let found = text.chars().find(|c| steers(*c) && *c != '\n');
    assert!(found.is_none(), "{place}: {:?} in {text:?}", found.unwrap());
    assert!(!text.lines().any(|line| line.starts_with("{\"action\"")), "{place}: a forged line: {text}");
}

/// Asserts that `text` is one JSON document a line.
fn is_json_lines(place: &str, text: &str) -> Vec<Value> {
    let lines = text.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_str(line).unwrap_or_else(|cause| panic!("{place}: {cause}: {line:?}")))
        .collect()
}

fn now() -> Timestamp {
    Timestamp(time::OffsetDateTime::now_utc().unix_timestamp())
}

/// Reports of `device` with `text` wherever there is room for a text.
fn reports(device: DeviceId, n: u8, text: &str) -> Vec<(&'static str, Vec<u8>)> {
    let id = |kind: u8| ReportId::from_bytes([kind + n; 16]);
    let fact = |name: &str, value| Fact {
        name: name.parse().unwrap(),
        state: FactState::Fail,
        value,
        evidence: text.to_owned(),
        source: text.to_owned(),
        collected_at: now(),
    };
    let list = FactValue::List(vec![text.to_owned(), text.to_owned()]);
    let facts = vec![fact("firewall", FactValue::Text(text.to_owned())), fact("ssh_root_login", list)];
    let state = StateReport {
        device,
        id: id(0x10),
        generation: Some(Generation { restore_epoch: 0, counter: 1 }),
        drift: vec![Drift { section: SectionKind::Files, item: text.to_owned() }],
        agent_version: text.to_owned(),
        last_checkpoint: None,
        at: now(),
    };
    let event =
        EventReport { device, id: id(0x30), kind: EventKind::Refused, detail: text.to_owned(), at: now() };
    let posture = PostureReport { device, id: id(0x50), facts, at: now() };
    vec![
        ("report/state", cbor::encode(&state)),
        ("report/event", cbor::encode(&event)),
        ("report/posture", cbor::encode(&posture)),
    ]
}

/// Text where the wire has only a name.
fn misnamed(device: DeviceId, text: &str) -> Vec<u8> {
    let mut report = cbor::Writer::new();
    report.array(5);
    report.unsigned(1);
    device.write(&mut report);
    ReportId::from_bytes([9; 16]).write(&mut report);
    report.array(1);
    report.array(6);
    report.text(text);
    for _ in 0..5 {
        report.text(text);
    }
    now().write(&mut report);
    report.into_bytes()
}

/// Says all of it over MQTT; each report is taken.
async fn says_it_all(siege: &Siege, device: &Device) {
    let id: DeviceId = device.id.parse().unwrap();
    for (n, text) in (0_u8..).zip(HOSTILE) {
        let mut session = Session::begin(siege.server(), device).await;
        for (channel, body) in reports(id, n, text) {
            session.say(&report(&format!("muster/v1/{}/{channel}", device.id), &body)).await;
            assert_eq!(session.next().await, Some((0x40, vec![0, 7])), "{channel} with {text:?}");
        }
        let topic = format!("muster/v1/{}/report/posture", device.id);
        session.say(&report(&topic, &misnamed(id, text))).await;
        assert_eq!(session.closes().await, [], "a name that is none is refused: {text:?}");
    }
}

/// Claims each text as a name and as a serial number over EST; answers the devices that came of it.
async fn enrols_under_them(siege: &Siege) -> Vec<Device> {
    let mut devices = Vec::new();
    for text in HOSTILE {
        for id in [COMMON_NAME, SERIAL_NUMBER] {
            let pledge = Draft::new().name(id, UTF8, text).sign();
            let token = siege.token("sensor-linux").await;
            let answer = est::enroll(siege.server(), &token, &pledge.csr).await.unwrap();
            if answer.status == 200 {
                let device = Device::new(pledge.identity(&answer));
                assert_eq!(device.discover(siege.server()).await.status, 200);
                devices.push(device);
            } else {
                assert!(answer.status.is_client_error(), "{}", super::siege::text(&answer));
                is_plain("an answer", std::str::from_utf8(&answer.body).unwrap());
            }
        }
    }
    devices
}

/// A command for a person.
async fn for_a_person(server: &Server, words: &[&str]) -> Run {
    let data = server.site().data_dir().display().to_string();
    let words = [words, &["--data-dir", &data]].concat();
    run(&Launch::plain(), &server_program(), &words, b"").await
}

/// The beginning of the stream of events, all that is in the log.
async fn events(siege: &Siege) -> String {
    let server = siege.server();
    let last = server.cli(&["audit", "tail", "--lines", "1"]).await[0]["seq"].as_u64().unwrap();
    let port = server.endpoints().admin.clone();
    let mut stream = Tls::anonymous(server).open(&port).await.unwrap();
    let asked = format!(
        "GET /v1/events?after=0 HTTP/1.1\r\nHost: localhost\r\nAuthorization: {}\r\n\r\n",
        bearer(server)
    );
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    stream.write_all(asked.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    let reading = async {
        // Checkpoints come after what they cover, so one ends the past.
        while !unchunked(&heard).lines().any(|line| {
            let size = line.strip_prefix("data: ").and_then(|data| serde_json::from_str::<Value>(data).ok());
            size.is_some_and(|data| data["seq"].as_u64().is_some_and(|seq| seq + 40 > last))
        }) {
            assert!(stream.read_buf(&mut heard).await.unwrap() > 0, "the stream goes on");
        }
    };
    tokio::time::timeout(muster_tests::PATIENCE, reading).await.expect("the past comes at once");
    unchunked(&heard)
}

/// The body of an answer that goes on, as far as whole chunks of it have come (RFC 9112 §7.1).
fn unchunked(answer: &[u8]) -> String {
    let start = answer.windows(4).position(|end| end == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
    let (mut rest, mut body) = (&answer[start..], Vec::new());
    while let Some(end) = rest.windows(2).position(|end| end == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        let Some(chunk) = rest.get(end + 2..end + 2 + size) else { break };
        body.extend_from_slice(chunk);
        rest = rest.get(end + 2 + size + 2..).unwrap_or_default();
    }
    String::from_utf8(body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_device_says_is_a_text_wherever_it_is_shown() {
    let launch = patient().with("MUSTER_LOG", "muster_server=trace,info");
    let siege = Siege::of(Server::on(Site::founded().await, launch).await).await;
    let mut beside = Beside::begin(&siege).await;
    let attacker = siege.device("laptop-linux").await;
    says_it_all(&siege, &attacker).await;
    let named = enrols_under_them(&siege).await;
    let server = siege.server();

    // Where a person looks.
    for id in named.iter().map(|device| &device.id).chain([&attacker.id]) {
        for words in [["device", "show", id], ["device", "explain", id], ["device", "history", id]] {
            let shown = for_a_person(server, &words).await.ok();
            is_plain(&words.join(" "), &shown.text());
            is_plain(&words.join(" "), &shown.stderr);
        }
    }
    for words in [&["device", "list"][..], &["audit", "tail"], &["token", "list"], &["doctor"]] {
        let shown = for_a_person(server, words).await;
        is_plain(&words.join(" "), &shown.text());
    }
    let listed = for_a_person(server, &["device", "list"]).await.ok().text();
    assert_eq!(listed.lines().count(), 1 + server.devices().await.len(), "one line for each: {listed}");

    // Where a program reads: texts are texts, and they are all there.
    let shown = server.device(&attacker.id).await;
    let facts = shown["posture"]["facts"].to_string();
    assert!(facts.contains("zz-at"), "the last report is shown: {facts}");
    for (place, text) in [
        ("device show --json", shown.to_string()),
        ("device list --json", Value::from(server.devices().await).to_string()),
        ("device history --json", server.history(&attacker.id).await),
    ] {
        let decoded: Value = serde_json::from_str(&text).unwrap();
        no_text_steers(place, &decoded);
    }
    let history = server.history(&attacker.id).await;
    for word in ["zz-ansi", "zz-line", "zz-html", "zz-formula", "zz-sql", "zz-bidi", "zz-nul", "zz-at"] {
        assert!(history.contains(word), "{word} is kept, as evidence: {history}");
    }
    let entries: Value = serde_json::from_str(&history).unwrap();
    let activated = entries.as_array().unwrap().iter().any(|entry| entry["action"] == "device.activate");
    assert!(!activated, "no text became an entry: {history}");

    everything_is_in_its_form(&siege, &attacker).await;
    beside.goes_on(server).await;
    let issued = Beside::ISSUED + 1 + named.len();
    let _ = siege.lift(issued, &["report.form"]).await;
}

/// Logs, events, the audit log and its export are what their formats say.
async fn everything_is_in_its_form(siege: &Siege, attacker: &Device) {
    let server = siege.server();
    let log = server.site().log();
    for entry in is_json_lines("serve.log", &log) {
        assert!(entry["timestamp"].is_string() && entry["level"].is_string(), "{entry}");
    }
    assert!(!log.chars().any(|c| c.is_control() && c != '\n'), "no control character in the log");

    for line in events(siege).await.lines() {
        let known = ["id: ", "event: ", "data: ", ": muster"].iter().any(|field| line.starts_with(field));
        assert!(known || line.is_empty(), "{line:?}");
        if let Some(data) = line.strip_prefix("data: ") {
            no_text_steers("/v1/events", &serde_json::from_str(data).unwrap());
        }
    }

    let copy = server.site().path("copy");
    let _ = server.cli(&["audit", "export", &copy.display().to_string()]).await;
    let verified = server.cli(&["audit", "verify", &copy.display().to_string()]).await;
    assert_eq!(verified["ok"], true);
    for entry in siege.entries().await {
        no_text_steers("the audit log", &entry);
    }
    a_table_for_a_spreadsheet_has_no_formula(server, attacker).await;
}

fn no_text_steers(place: &str, value: &Value) {
    match value {
        Value::String(text) => assert!(!text.chars().any(steers), "{place}: {text:?}"),
        Value::Array(items) => items.iter().for_each(|item| no_text_steers(place, item)),
        Value::Object(fields) => fields.iter().for_each(|(name, item)| {
            assert!(!name.chars().any(steers), "{place}: {name:?}");
            no_text_steers(place, item);
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The one table that Muster writes for spreadsheets, with what an operator copied from a device's own words.
async fn a_table_for_a_spreadsheet_has_no_formula(server: &Server, attacker: &Device) {
    let shown = server.device(&attacker.id).await;
    let copied =
        shown["posture"]["facts"]["firewall"]["value"].as_str().unwrap_or("@SUM(1+1)*zz-at").to_owned();
    for cell in [copied.as_str(), "=1+1", "+1", "-1", "@x", "a,\"b"] {
        let (owner, site) = (format!("--owner={cell}"), format!("--site={cell}"));
        let words = ["token", "create", "--csv", "--profile", "sensor-linux", &owner, &site];
        let made = for_a_person(server, &words).await.ok().text();
        let row = made.lines().nth(1).unwrap();
        let script = "import csv,sys\nrow=next(csv.reader([sys.argv[1]]))\nassert len(row)==8,row\n\
                      bad=[c for c in row if c[:1] in ('=','+','-','@','\\t','\\r')]\nassert not bad,bad";
        let _ = run(&Launch::plain(), Path::new("python3"), &["-c", script, row], b"").await.ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_request_says_in_its_head_is_a_text_too() {
    let siege = Siege::begin().await;
    let device = siege.device("sensor-linux").await;
    let server = siege.server();
    for text in ["zz-\u{9b}31m", "zz-\u{202e}", "zz-<script>", "=zz"] {
        let mut door = device.connect(server).await.unwrap();
        let request = Request::builder()
            .method(Method::GET)
            .uri("/.well-known/muster/baselines/%1b%5b2J%0d%0a%e2%80%ae")
            .header("user-agent", http::HeaderValue::from_bytes(text.as_bytes()).unwrap())
            .header("x-request-id", http::HeaderValue::from_bytes(text.as_bytes()).unwrap())
            .body(Bytes::new());
        let answer = door.send(request.unwrap()).await.unwrap();
        assert!(answer.status.is_client_error());
        is_plain("an answer", std::str::from_utf8(&answer.body).unwrap());
    }
    let log = server.site().log();
    let _ = is_json_lines("serve.log", &log);
    assert!(!log.chars().any(|c| c.is_control() && c != '\n'));
    eventually("nothing of it is in the audit log", async || {
        let entries = Value::from(siege.entries().await);
        no_text_steers("the audit log", &entries);
        (!entries.to_string().contains("zz-")).then_some(())
    })
    .await;
    let _ = siege.lift(1, &[]).await;
}
