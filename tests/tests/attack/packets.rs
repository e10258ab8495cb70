//! MQTT 3.1.1 by hand: a client that says what it is told to, right or wrong, with whatever certificate it has.

use super::a16::{WELCOME, connect, subscribe};
use super::siege::{Device, Siege, text};
use base64::prelude::{BASE64_STANDARD, Engine};
use http::{Method, StatusCode};
use muster_tests::est::Pledge;
use muster_tests::{Identity, PATIENCE, Server, Tls};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

/// CONNACK: the client id is not this client's.
pub(crate) const OTHER_ID: &[u8] = &[0x20, 2, 0, 2];
/// CONNACK: come later.
pub(crate) const LATER: &[u8] = &[0x20, 2, 0, 3];
/// DISCONNECT.
pub(crate) const GOODBYE: &[u8] = &[0xe0, 0];

/// A connection to the gate.
pub(crate) struct Session {
    stream: TlsStream<TcpStream>,
    heard: Vec<u8>,
}

/// A packet as it came: its first byte, and what follows the length.
pub(crate) type Packet = (u8, Vec<u8>);

impl Session {
    /// A connection with the certificate of `who`, on which nothing was said.
    pub(crate) async fn open(server: &Server, who: &Device) -> Option<Self> {
        Tls::with(server, &who.identity).open(&server.endpoints().mqtt).await.ok().map(Self::of)
    }

    /// A connection on which nothing was said.
    pub(crate) fn of(stream: TlsStream<TcpStream>) -> Self {
        Self { stream, heard: Vec::new() }
    }

    /// The session that `who` is entitled to.
    pub(crate) async fn begin(server: &Server, who: &Device) -> Self {
        let (session, answer) = Self::tried(server, who, &connect(&who.id, 2, b"")).await;
        assert_eq!(answer, WELCOME, "{} is let in", who.id);
        session
    }

    /// What the gate answers to `hello` with the certificate of `who`; nothing where it closes.
    pub(crate) async fn tried(server: &Server, who: &Device, hello: &[u8]) -> (Self, Vec<u8>) {
        let mut session = Self::open(server, who).await.expect("a certificate of ours is let in");
        let answer = session.answer_to(hello).await;
        (session, answer)
    }

    /// What the gate answers to `hello`; nothing where it closes.
    pub(crate) async fn answer_to(&mut self, hello: &[u8]) -> Vec<u8> {
        self.say(hello).await;
        match self.next().await {
            Some((first, body)) => [&[first, 2][..], &body].concat(),
            None => Vec::new(),
        }
    }

    /// Sends bytes; whether they arrive is seen at the next answer.
    pub(crate) async fn say(&mut self, bytes: &[u8]) {
        // A gate that has closed already refuses by that.
        let _ = self.stream.write_all(bytes).await;
        let _ = self.stream.flush().await;
    }

    /// The next packet; nothing once the gate has closed.
    pub(crate) async fn next(&mut self) -> Option<Packet> {
        timeout(PATIENCE, self.packet()).await.expect("the gate answers or closes")
    }

    async fn packet(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = self.whole() {
                return Some(packet);
            }
            if self.stream.read_buf(&mut self.heard).await.ok()? == 0 {
                return None;
            }
        }
    }

    fn whole(&mut self) -> Option<Packet> {
        let (mut length, mut at) = (0, 1);
        loop {
            let byte = *self.heard.get(at)?;
            length |= usize::from(byte & 0x7f) << (7 * (at - 1));
            at += 1;
            if byte < 0x80 {
                break;
            }
        }
        let body = self.heard.get(at..at + length)?.to_vec();
        let first = self.heard[0];
        self.heard.drain(..at + length);
        Some((first, body))
    }

    /// Subscribes to `filter` at QoS 1; answers the code that it is granted.
    pub(crate) async fn subscribe(&mut self, filter: &str) -> u8 {
        self.say(&subscribe(filter)).await;
        loop {
            match self.next().await.expect("a SUBSCRIBE is answered") {
                (0x90, body) => return body[2],
                // What was due before.
                (first, _) => assert_eq!(first >> 4, 3, "{first:x}"),
            }
        }
    }

    /// Topic and body of the next message.
    pub(crate) async fn message(&mut self) -> (String, Vec<u8>) {
        let (first, body) = self.next().await.expect("a message comes");
        assert_eq!(first >> 4, 3, "{first:x}");
        let length = usize::from(u16::from_be_bytes([body[0], body[1]]));
        let topic = String::from_utf8(body[2..2 + length].to_vec()).expect("a topic is text");
        let id = if first & 6 == 0 { 0 } else { 2 };
        (topic, body[2 + length + id..].to_vec())
    }

    /// Asserts that the session lives, and that nothing came that was not asked for.
    pub(crate) async fn goes_on(&mut self) {
        self.say(&[0xc0, 0]).await;
        assert_eq!(self.next().await, Some((0xd0, Vec::new())), "a session of an honest client goes on");
    }

    /// Waits until the gate has closed; answers what it said before.
    pub(crate) async fn closes(&mut self) -> Vec<Packet> {
        let mut said = Vec::new();
        while let Some(packet) = self.next().await {
            said.push(packet);
        }
        said
    }
}

/// A PUBLISH at QoS 1.
pub(crate) fn report(topic: &str, body: &[u8]) -> Vec<u8> {
    let topic_bytes = u16::try_from(topic.len()).unwrap().to_be_bytes();
    let rest = [&topic_bytes[..], topic.as_bytes(), &[0, 7], body].concat();
    let mut packet = vec![0x32];
    let mut length = rest.len();
    loop {
        let more = if length >= 128 { 0x80 } else { 0 };
        packet.push(u8::try_from(length % 128).unwrap() | more);
        length /= 128;
        if length == 0 {
            break;
        }
    }
    [packet, rest].concat()
}

/// An observer of ours: its certificate, and its name as its client id.
pub(crate) async fn observer(siege: &Siege, name: &str) -> Device {
    let pledge = Pledge::new(name);
    let asked = json!({ "name": name, "csr": BASE64_STANDARD.encode(&pledge.csr) });
    let made = siege.rest(Method::POST, "/v1/observers", Some(&asked)).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", text(&made));
    let made = made.json();
    let leaf = CertificateDer::from_pem_slice(made["pem"].as_str().unwrap().as_bytes()).expect("PEM");
    let key = PrivateKeyDer::try_from(pledge.key.serialize_der()).expect("PKCS#8");
    Device { id: name.to_owned(), identity: Identity::of(&leaf, key) }
}

/// Honest traffic beside an attack: a device in its session, and an observer who hears of those that come and go
/// through the event bus.
pub(crate) struct Beside {
    device: Session,
    ear: Session,
    visitor: Device,
}

impl Beside {
    /// Certificates that it takes.
    pub(crate) const ISSUED: usize = 3;

    pub(crate) async fn begin(siege: &Siege) -> Self {
        let honest = siege.device("sensor-linux").await;
        let visitor = siege.device("sensor-linux").await;
        let dashboard = observer(siege, "dashboard").await;
        let mut ear = Session::begin(siege.server(), &dashboard).await;
        assert_eq!(ear.subscribe("muster/events/presence").await, 0);
        Self { device: Session::begin(siege.server(), &honest).await, ear, visitor }
    }

    /// Asserts that the session goes on, that another begins, and that the observer hears of it.
    pub(crate) async fn goes_on(&mut self, server: &Server) {
        self.device.goes_on().await;
        let visit = Session::begin(server, &self.visitor).await;
        self.hears(true).await;
        drop(visit);
        self.hears(false).await;
    }

    async fn hears(&mut self, online: bool) {
        loop {
            let (topic, body) = self.ear.message().await;
            assert_eq!(topic, "muster/events/presence");
            let event: Value = serde_json::from_slice(&body).expect("JSON");
            if event["device"] == self.visitor.id.as_str() && event["online"] == online {
                return;
            }
        }
    }
}

/// Resident memory of the server, in KiB.
pub(crate) fn resident_kib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("the server runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a resident size");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
