//! The load: as many devices at once as there are places, each shaking hands as the agent does.
//!
//! It does as little as a client can, for it must never set the pace: it checks neither the server's certificate nor
//! what was issued (the stories do), and writes requests that were made beforehand.

use crate::work::Work;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How the operations of a run reach the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    /// Each on a connection of its own.
    NewConnections,
    /// One after the other on connections that stay; opening them is not measured by rate, but by cost it is.
    KeptConnections,
}

/// How a run went, as seen from the clients.
#[derive(Clone, Debug)]
pub(crate) struct Passed {
    /// Operations.
    pub(crate) operations: usize,
    /// From the first to the last byte of all of them.
    pub(crate) took: Duration,
    /// Each operation's own time, ascending.
    pub(crate) latencies: Vec<Duration>,
}

/// Clients of one address.
#[derive(Clone)]
pub(crate) struct Generator {
    connector: TlsConnector,
    to: SocketAddr,
    places: usize,
}

/// The operations that are left, shared by all places.
type Left = Arc<Mutex<std::vec::IntoIter<Vec<u8>>>>;

impl Generator {
    /// `places` clients of `to` at any time.
    pub(crate) fn of(to: SocketAddr, places: usize) -> Self {
        // TLS as the agent speaks it: 1.3, X25519, no resumption.
        let provider =
            rustls::crypto::CryptoProvider { kx_groups: vec![kx_group::X25519], ..default_provider() };
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider speaks TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unchecked))
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Self { connector: TlsConnector::from(Arc::new(config)), to, places }
    }

    /// Does all of `work`; panics when anything of it is not answered with 200.
    pub(crate) async fn run(&self, pass: Pass, work: Work) -> Passed {
        let operations = work.0.len();
        let left: Left = Arc::new(Mutex::new(work.0.into_iter()));
        let mut places = JoinSet::new();
        let started = Instant::now();
        for _ in 0..self.places {
            let (generator, left) = (self.clone(), Arc::clone(&left));
            places.spawn(async move {
                match pass {
                    Pass::NewConnections => generator.work_anew(&left).await,
                    Pass::KeptConnections => generator.work_on(&left).await,
                }
            });
        }
        let mut latencies: Vec<Duration> = places.join_all().await.concat();
        latencies.sort_unstable();
        Passed { operations, took: started.elapsed(), latencies }
    }

    async fn work_anew(&self, left: &Left) -> Vec<Duration> {
        let mut latencies = Vec::new();
        while let Some(request) = next(left) {
            let started = Instant::now();
            let mut stream = self.connect().await;
            ask(&mut stream, &request).await;
            latencies.push(started.elapsed());
            // The goodbye of a polite client; whether it still arrives is the server's business.
            let _ = stream.shutdown().await;
        }
        latencies
    }

    async fn work_on(&self, left: &Left) -> Vec<Duration> {
        let mut latencies = Vec::new();
        let mut stream = self.connect().await;
        while let Some(request) = next(left) {
            let started = Instant::now();
            ask(&mut stream, &request).await;
            latencies.push(started.elapsed());
        }
        latencies
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.to).await.expect("the server accepts");
        stream.set_nodelay(true).expect("a socket option");
        let name = ServerName::try_from("localhost").expect("a name");
        self.connector.connect(name, stream).await.expect("the handshake succeeds")
    }
}

fn next(left: &Left) -> Option<Vec<u8>> {
    left.lock().unwrap_or_else(PoisonError::into_inner).next()
}

/// One request and its whole answer.
async fn ask(stream: &mut TlsStream<TcpStream>, request: &[u8]) {
    stream.write_all(request).await.expect("the server reads");
    let (mut answer, mut wanted) = (Vec::with_capacity(4096), None);
    while wanted.is_none_or(|wanted| answer.len() < wanted) {
        let read = stream.read_buf(&mut answer).await.expect("the server answers");
        assert!(read > 0, "the server hung up: {}", String::from_utf8_lossy(&answer));
        wanted = wanted.or_else(|| whole(&answer));
    }
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}

/// How long the answer that begins like this is, once its head is there.
fn whole(answer: &[u8]) -> Option<usize> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&answer[..end]).expect("a head is text");
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    Some(end + length.expect("the answer says its length"))
}

/// Takes every certificate: what it costs a client to judge the server is not measured here.
#[derive(Debug)]
struct Unchecked;

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ED25519,
        ]
    }
}
