//! A server in place of the server: with the stolen key of the server-names CA, so that agents take it for ours.
//!
//! ```text
//!   agent ──▶ proxy ──▶ the real gate and door, or ──▶ FalseGate: sends what it is told to, acknowledges no event
//!                                                  └─▶ FalseDoor: answers with what it is told to
//! ```

use super::forge::{Forger, SERVER, Says};
use muster_tests::{Server, Site, est};
use muster_wire::cbor::{self, Document};
use muster_wire::posture::EventReport;
use serde_json::Value;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A listener that agents take for the server's.
struct Impostor {
    url: String,
    accepting: JoinHandle<()>,
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Impostor {
    async fn open<F>(site: &Site, serve: impl Fn(TlsStream<TcpStream>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let root = std::fs::read(site.data_dir().join("keys/root.der")).expect("a root");
        let says = Says { usages: vec![SERVER], host: Some("localhost"), ..Says::of("") };
        let stolen = Forger::thief(site, "server-names").followed_by(root).forge(&says);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider speaks it")
            .with_no_client_auth()
            .with_single_cert(stolen.chain, stolen.key)
            .expect("a usable key");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("tls://{}", listener.local_addr().expect("an address"));
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let Ok(stream) = acceptor.accept(socket).await else { continue };
                connections.spawn(serve(stream));
            }
        });
        Self { url, accepting }
    }
}

/// A gate that says something to every device that subscribes to it.
pub(crate) struct FalseGate {
    impostor: Impostor,
    heard: mpsc::UnboundedReceiver<(String, Vec<u8>)>,
}

impl FalseGate {
    /// Opens it for the agents of `site`, with the heads `desired`.
    pub(crate) async fn open(site: &Site, desired: Vec<Vec<u8>>) -> Self {
        Self::says(site, desired.into_iter().map(|head| ("desired", head)).collect()).await
    }

    /// Opens it for the agents of `site`, with messages for channels.
    pub(crate) async fn says(site: &Site, messages: Vec<(&'static str, Vec<u8>)>) -> Self {
        let (tell, heard) = mpsc::unbounded_channel();
        let messages = Arc::new(messages);
        let impostor = Impostor::open(site, move |stream| {
            let (tell, messages) = (tell.clone(), Arc::clone(&messages));
            async move {
                // An agent that goes away is none of its business.
                let _ = attend(stream, &messages, &tell).await;
            }
        });
        Self { impostor: impostor.await, heard }
    }

    /// Where it is.
    pub(crate) fn url(&self) -> &str {
        &self.impostor.url
    }

    /// The next event that an agent tells, for which `fits`.
    pub(crate) async fn hears(&mut self, what: &str, fits: impl Fn(&EventReport) -> bool) -> EventReport {
        let heard = async {
            loop {
                let (topic, body) = self.heard.recv().await.expect("the gate is open");
                if let Some(event) = read::<EventReport>(&topic, "report/event", &body)
                    && fits(&event)
                {
                    return event;
                }
            }
        };
        let heard = tokio::time::timeout(muster_tests::PATIENCE, heard).await;
        heard.unwrap_or_else(|_| panic!("waited in vain: {what}"))
    }

    /// Waits until an agent has sent something on `channel`, which the gate takes.
    pub(crate) async fn takes(&mut self, channel: &str) {
        let taken =
            async { while !self.heard.recv().await.expect("the gate is open").0.ends_with(channel) {} };
        tokio::time::timeout(muster_tests::PATIENCE, taken)
            .await
            .unwrap_or_else(|_| panic!("no {channel} in time"));
    }
}

fn read<T: Document>(topic: &str, channel: &str, body: &[u8]) -> Option<T> {
    topic.ends_with(channel).then(|| cbor::decode(body).expect("a report of an agent"))
}

/// Attends to one agent: everything is granted, reports are taken, events are left unacknowledged, so that the agent
/// tells them again to whoever comes after.
async fn attend(
    mut stream: TlsStream<TcpStream>,
    messages: &[(&str, Vec<u8>)],
    tell: &mpsc::UnboundedSender<(String, Vec<u8>)>,
) -> std::io::Result<()> {
    loop {
        let (first, body) = packet(&mut stream).await?;
        let answer = match first >> 4 {
            1 => vec![0x20, 2, 0, 0],
            8 => {
                let topics = filters(&body[2..]);
                let codes = vec![1; topics.len()];
                let mut answer = framed(0x90, &[&body[..2], &codes].concat());
                for (n, (channel, message)) in (1_u16..).zip(messages) {
                    let topic = topics.iter().find(|topic| topic.rsplit('/').next() == Some(channel));
                    let Some(topic) = topic else { continue };
                    let parts = [&string(topic)[..], &n.to_be_bytes(), message];
                    answer.extend(framed(0x32, &parts.concat()));
                }
                answer
            }
            3 => {
                let length = usize::from(u16::from_be_bytes([body[0], body[1]]));
                let topic = String::from_utf8_lossy(&body[2..2 + length]).into_owned();
                let id = [body[2 + length], body[3 + length]];
                let is_event = topic.ends_with("report/event");
                // Nobody listens any more once the test is over.
                let _ = tell.send((topic, body[4 + length..].to_vec()));
                if is_event { Vec::new() } else { vec![0x40, 2, id[0], id[1]] }
            }
            12 => vec![0xd0, 0],
            14 => return Ok(()),
            _ => Vec::new(),
        };
        stream.write_all(&answer).await?;
        stream.flush().await?;
    }
}

async fn packet(stream: &mut TlsStream<TcpStream>) -> std::io::Result<(u8, Vec<u8>)> {
    let first = stream.read_u8().await?;
    let (mut length, mut shift) = (0, 0);
    loop {
        let byte = stream.read_u8().await?;
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok((first, body))
}

fn filters(mut body: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    while let [high, low, rest @ ..] = body {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        found.push(String::from_utf8_lossy(&rest[..length]).into_owned());
        body = &rest[length + 1..];
    }
    found
}

fn string(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat()
}

/// A packet of any length that fits two digits.
fn framed(first: u8, body: &[u8]) -> Vec<u8> {
    let length = [u8::try_from(body.len() % 128).unwrap() | 0x80, u8::try_from(body.len() / 128).unwrap()];
    [&[first][..], &length, body].concat()
}

/// A door for devices that answers every request for a baseline with the same bytes, one for authorities as `server`
/// does (an agent asks for those first), and discovery with a chain of authority documents of its own, if it has one.
pub(crate) struct FalseDoor(Impostor);

impl FalseDoor {
    /// Opens it for the agents of `server`.
    pub(crate) async fn open(server: &Server, baseline: Vec<u8>) -> Self {
        Self::answering(server, baseline, None).await
    }

    /// The same, with discovery that names the chain `authority` to the device `id`.
    pub(crate) async fn with_authority(server: &Server, id: &str, authority: &Value) -> Self {
        let mut door = est::connect(server).await.expect("a connection");
        let answer = door.get("/.well-known/muster").await.expect("an answer");
        let mut discovery: Value = serde_json::from_slice(&answer.body).expect("a discovery document");
        discovery["authority"] = authority.clone();
        discovery["device"] = serde_json::json!({"id": id, "state": "active"});
        Self::answering(server, Vec::new(), Some(discovery.to_string().into_bytes())).await
    }

    async fn answering(server: &Server, baseline: Vec<u8>, discovery: Option<Vec<u8>>) -> Self {
        let mut door = est::connect(server).await.expect("a connection");
        let authorities = door.get(&est::path(None, "cacerts")).await.expect("an answer").body.to_vec();
        let answers = Arc::new((baseline, authorities, discovery));
        let impostor = Impostor::open(server.site(), move |mut stream| {
            let answers = Arc::clone(&answers);
            async move {
                let mut asked = Vec::new();
                while !asked.windows(4).any(|end| end == b"\r\n\r\n") {
                    if stream.read_buf(&mut asked).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                let (status, body) = if asked.starts_with(b"GET /.well-known/muster/baselines/") {
                    ("200 OK", &answers.0[..])
                } else if asked.starts_with(b"GET /.well-known/est/cacerts") {
                    ("200 OK", &answers.1[..])
                } else if asked.starts_with(b"GET /.well-known/muster ")
                    && let Some(discovery) = &answers.2
                {
                    ("200 OK", &discovery[..])
                } else {
                    ("503 Service Unavailable", &b""[..])
                };
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all(&[head.as_bytes(), body].concat()).await;
                let _ = stream.shutdown().await;
            }
        });
        Self(impostor.await)
    }

    /// Where it is.
    pub(crate) fn url(&self) -> &str {
        &self.0.url
    }
}
