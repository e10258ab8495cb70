//! The fleet server behind real TLS on 127.0.0.1, on a thread of its own until it is dropped.
//!
//! It reads one HTTP/1.1 request after the other from each connection, which is all that the agent sends.

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use muster_agent::core::{Answer, provider};
use muster_wire::time::Timestamp;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::fleet::{Asked, Fleet};
use crate::gate::{self, Gate};

/// How the server mistreats connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manners {
    Good,
    /// Closes as soon as a request is there.
    Hangs,
    /// Closes in the middle of the body, once, then behaves.
    LosesOneReply,
    /// Sends a body without an end.
    Gushes,
    /// Announces what it does not speak.
    Babbles,
    /// Never shakes hands; closes instead.
    NoTls,
}

/// The running server.
pub(crate) struct Stub {
    pub(crate) fleet: Arc<Mutex<Fleet>>,
    pub(crate) manners: Arc<Mutex<Manners>>,
    pub(crate) port: u16,
    pub(crate) gate: Arc<Gate>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Stub {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Stub {
    /// Serves `fleet` with a certificate that begins at `not_before`.
    pub(crate) fn serve(fleet: Fleet, not_before: i64) -> Self {
        let config = Arc::new(config(&fleet, not_before));
        let fleet = Arc::new(Mutex::new(fleet));
        let manners = Arc::new(Mutex::new(Manners::Good));
        let (stop, stopped) = oneshot::channel();
        let (bound, port) = std::sync::mpsc::channel();
        let gate = Arc::new(Gate::new(Arc::clone(&fleet), Arc::clone(&config)));
        let served = Arc::clone(&gate);
        let shared = Shared { fleet: Arc::clone(&fleet), manners: Arc::clone(&manners), config };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let door = TcpListener::bind("127.0.0.1:0").await.unwrap();
                shared.fleet.lock().unwrap().gate = door.local_addr().unwrap().port();
                tokio::spawn(gate::accept(door, served));
                bound.send(listener.local_addr().unwrap().port()).unwrap();
                tokio::select! {
                    () = accept(listener, shared) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { fleet, manners, port: port.recv().unwrap(), gate, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn behave(&self, manners: Manners) {
        *self.manners.lock().unwrap() = manners;
    }
}

#[derive(Clone)]
struct Shared {
    fleet: Arc<Mutex<Fleet>>,
    manners: Arc<Mutex<Manners>>,
    config: Arc<ServerConfig>,
}

fn config(fleet: &Fleet, not_before: i64) -> ServerConfig {
    let (chain, key) = fleet.listener(not_before);
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(fleet.issuing().to_vec())).unwrap();
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .allow_unauthenticated()
        .build()
        .unwrap();
    ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(chain.into_iter().map(CertificateDer::from).collect(), key.to_private_key_der())
        .unwrap()
}

async fn accept(listener: TcpListener, shared: Shared) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(converse(stream, shared.clone()));
    }
}

/// One connection; `None` is the end of it, whoever ended it.
async fn converse(stream: TcpStream, shared: Shared) -> Option<()> {
    if *shared.manners.lock().unwrap() == Manners::NoTls {
        return None;
    }
    let mut stream = TlsAcceptor::from(Arc::clone(&shared.config)).accept(stream).await.ok()?;
    let shown = stream.get_ref().1.peer_certificates().map(|chain| chain[0].to_vec());
    loop {
        let (head, body) = read_request(&mut stream).await?;
        let manners = *shared.manners.lock().unwrap();
        match manners {
            Manners::Hangs => return None,
            Manners::Babbles => {
                stream.write_all(b"SSH-2.0-OpenSSH_9.9\r\n\r\n").await.ok()?;
                return None;
            }
            Manners::Gushes => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.ok()?;
                let chunk = [b"1000\r\n".as_slice(), &[b'{'; 0x1000], b"\r\n"].concat();
                loop {
                    stream.write_all(&chunk).await.ok()?;
                }
            }
            Manners::Good | Manners::LosesOneReply | Manners::NoTls => {}
        }
        let answer = answer(&shared, &head, &body, shown.as_deref());
        let reply = reply(&answer);
        if manners == Manners::LosesOneReply && head.starts_with("POST") {
            *shared.manners.lock().unwrap() = Manners::Good;
            stream.write_all(&reply[..reply.len() / 2]).await.ok()?;
            return None;
        }
        stream.write_all(&reply).await.ok()?;
    }
}

fn answer(shared: &Shared, head: &str, body: &[u8], shown: Option<&[u8]>) -> Answer {
    let field = |name: &str| {
        head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    };
    let line = head.lines().next().unwrap();
    let asked = match line.trim_end_matches(" HTTP/1.1") {
        "GET /.well-known/muster" => Asked::Discovery,
        "GET /.well-known/est/cacerts" => Asked::CaCerts,
        "POST /.well-known/est/simpleenroll" => {
            assert_eq!(field("content-type"), Some("application/pkcs10"));
            let bearer = field("authorization").unwrap().strip_prefix("Bearer ").unwrap();
            Asked::Enroll { bearer, csr: body }
        }
        "POST /.well-known/est/simplereenroll" => Asked::Reenroll { csr: body },
        other if other.starts_with("GET /.well-known/muster/baselines/") => Asked::Baseline,
        other => panic!("asked for {other}"),
    };
    let mut fleet = shared.fleet.lock().unwrap();
    Answer { date: fleet.date, ..fleet.answer(&asked, shown) }
}

fn reply(answer: &Answer) -> Vec<u8> {
    let retry = answer.retry_after_s.map(|s| format!("retry-after: {s}\r\n")).unwrap_or_default();
    let date = answer.date.map(|date| format!("date: {}\r\n", imf_fixdate(date))).unwrap_or_default();
    let head =
        format!("HTTP/1.1 {} X\r\n{retry}{date}content-length: {}\r\n\r\n", answer.status, answer.body.len());
    [head.as_bytes(), &answer.body].concat()
}

fn imf_fixdate(date: Timestamp) -> String {
    let format = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    time::OffsetDateTime::from_unix_timestamp(date.seconds()).unwrap().format(format).unwrap()
}

async fn read_request(stream: &mut TlsStream<TcpStream>) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let length = head
        .lines()
        .find_map(|line| {
            line.to_ascii_lowercase().strip_prefix("content-length:").map(|n| n.trim().to_owned())
        })
        .map_or(0, |n| n.parse().unwrap());
    let mut body = bytes.split_off(end + 4);
    while body.len() < length {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    Some((head, body))
}
