//! A small world for tests: two CAs, device certificates of every kind, a listener on a free port, and clients.

use super::Doors;
use super::accept::{Limits, Secured, serve_tls};
use super::http::{HttpDoor, HttpLimits, Judge, Verdict};
use super::peer::{DeviceId, PeerCertificate, Serial};
use super::status_index::{Standing, print_of};
use super::stop::{self, Stopper};
use super::tls::{ServerIdentity, TlsSource, Versions, provider};
use super::verifier::{ClientAuth, LiveClientVerifier};
use crate::clock::ManualClock;
use crate::domain::admission::{CertificateStatus, DeviceStanding, Door};
use axum::body::Body;
use http::{Response, StatusCode};
use muster_wire::id::TrustDomain;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion, version};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The present in tests, in seconds since 1970.
pub(crate) const NOW: i64 = 1_800_000_000;

/// How long a test waits for what must come.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A CA with its key.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) der: CertificateDer<'static>,
}

impl Ca {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), der }
    }

    fn issue(&self, params: &CertificateParams) -> Credential {
        let key = KeyPair::generate().unwrap();
        let certificate: Certificate = params.signed_by(&key, &self.issuer).unwrap();
        Credential { chain: vec![certificate.der().clone()], key }
    }

    /// A server's certificate for `localhost`, its chain ending with this CA as the root.
    pub(crate) fn server(&self) -> Credential {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let mut credential = self.issue(&params);
        credential.chain.push(self.der.clone());
        credential
    }

    /// A device's certificate as Muster issues it; `change` makes it another.
    pub(crate) fn device(&self, n: u8, change: impl FnOnce(&mut CertificateParams)) -> Credential {
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from_slice(serial(n).as_bytes()));
        let uri = muster_wire::id::device_uri("muster.test", device(n));
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = OffsetDateTime::from_unix_timestamp(NOW - 1_000).unwrap();
        params.not_after = OffsetDateTime::from_unix_timestamp(NOW + 1_000).unwrap();
        change(&mut params);
        self.issue(&params)
    }
}

/// A certificate chain, leaf first, and its key.
pub(crate) struct Credential {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: KeyPair,
}

impl Credential {
    pub(crate) fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.serialize_der()).unwrap()
    }
}

pub(crate) fn serial(n: u8) -> Serial {
    Serial::from_random([n; 16])
}

pub(crate) fn device(n: u8) -> DeviceId {
    DeviceId::from_parts(1_700_000_000_000, [n; 10])
}

pub(crate) fn trust_domain() -> TrustDomain {
    "muster.test".parse().unwrap()
}

pub(crate) fn active(grace_s: u32) -> Standing {
    Standing {
        // That of `peer_certificate(1)`.
        print: print_of(&[1; 32]),
        certificate: CertificateStatus::Current,
        device: DeviceStanding::Active { grace_s },
    }
}

pub(crate) fn with_status(certificate: CertificateStatus) -> Standing {
    Standing { certificate, ..active(0) }
}

pub(crate) fn peer_certificate(n: u8) -> PeerCertificate {
    PeerCertificate {
        serial: serial(n),
        device: device(n),
        sha256: muster_wire::digest::Sha256Digest([n; 32]),
        spki_sha256: muster_wire::digest::Sha256Digest([n; 32]),
        not_after: NOW + 1_000,
    }
}

/// Doors, CAs and the server's own certificate.
pub(crate) struct World {
    pub(crate) doors: Doors,
    pub(crate) clock: ManualClock,
    pub(crate) issuing: Ca,
    pub(crate) root: Ca,
    pub(crate) tls: TlsSource,
    pub(crate) limits: Limits,
    pub(crate) http: HttpLimits,
}

impl World {
    pub(crate) fn new() -> Self {
        let clock = ManualClock::at_ms(NOW * 1000);
        let root = Ca::new("root");
        let shown = root.server();
        let identity = ServerIdentity::new(shown.chain.clone(), shown.key_der(), provider()).unwrap();
        Self {
            doors: Doors::new(trust_domain(), clock.clock()),
            issuing: Ca::new("issuing"),
            root,
            tls: TlsSource { identity, provider: provider(), clock: clock.clock() },
            clock,
            limits: Limits::default(),
            http: HttpLimits::default(),
        }
    }

    /// A certificate of device `n` that the index lets in.
    pub(crate) fn enrolled(&self, n: u8) -> Credential {
        let issued = self.issuing.device(n, |_| {});
        self.stands(n, &issued, active(0));
        issued
    }

    /// Lets the index know `credential`, which carries the serial number of device `n`, as `standing`.
    pub(crate) fn stands(&self, n: u8, credential: &Credential, standing: Standing) {
        let print = print_of(muster_wire::digest::Sha256Digest::of(&credential.chain[0]).as_bytes());
        self.doors.index.set(&serial(n), &Standing { print, ..standing });
    }

    pub(crate) fn verifier(&self, auth: ClientAuth) -> Arc<LiveClientVerifier> {
        let issuers = [self.issuing.der.clone()];
        Arc::new(LiveClientVerifier::new(&issuers, auth, self.doors.clone(), provider()).unwrap())
    }

    /// The judge that the server uses: whoever shows a certificate is asked the table.
    pub(crate) fn judge(&self) -> Judge {
        let doors = self.doors.clone();
        Arc::new(move |peer| match &peer.certificate {
            None => Verdict::Admit(None),
            Some(certificate) => match doors.judge(certificate, Door::Https) {
                Ok(admission) => Verdict::Admit(Some(admission)),
                Err(_) => {
                    let mut response = Response::new(Body::from("refused"));
                    *response.status_mut() = StatusCode::FORBIDDEN;
                    Verdict::Refuse(Box::new(response))
                }
            },
        })
    }

    /// Serves `router` as the device listener does.
    pub(crate) async fn serve(&self, router: axum::Router) -> Server {
        self.serve_versions(router, Versions::Tls13).await
    }

    pub(crate) async fn serve_versions(&self, router: axum::Router, versions: Versions) -> Server {
        let config = self.tls.device(self.verifier(ClientAuth::Optional), versions).unwrap();
        let door = HttpDoor::new(router, self.judge(), self.http);
        self.listen(config, move |connection| door.clone().serve(connection)).await
    }

    /// Serves TLS with `config` and `handler`.
    pub(crate) async fn listen<H, F>(&self, config: Arc<rustls::ServerConfig>, handler: H) -> Server
    where
        H: Fn(super::accept::Connection<super::accept::Secure>) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (stopper, stop) = stop::channel();
        let secured = Secured { config, doors: self.doors.clone() };
        let task = tokio::spawn(serve_tls(listener, secured, self.limits, stop, handler));
        Server { addr, stopper, task }
    }
}

/// A listener that runs until it is stopped or dropped.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) stopper: Stopper,
    pub(crate) task: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn connect(&self, client: &Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
        let socket = TcpStream::connect(self.addr).await?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::clone(client)).connect(name, socket).await
    }

    /// One request on a connection of its own; the answer as text, or how it failed.
    ///
    /// A client of TLS 1.3 has finished its handshake before the server judges it, so a refusal shows here.
    pub(crate) async fn get(&self, client: &Arc<ClientConfig>, path: &str) -> io::Result<String> {
        let mut stream = self.connect(client).await?;
        say(&mut stream, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"))
            .await?;
        let mut answer = String::new();
        tokio::time::timeout(SOON, stream.read_to_string(&mut answer)).await.unwrap()?;
        Ok(answer)
    }
}

pub(crate) async fn say(stream: &mut TlsStream<TcpStream>, text: &str) -> io::Result<()> {
    stream.write_all(text.as_bytes()).await?;
    stream.flush().await
}

/// One response with `content-length`, as text.
pub(crate) async fn hear(stream: &mut TlsStream<TcpStream>) -> String {
    let mut heard = Vec::new();
    loop {
        let byte = tokio::time::timeout(SOON, stream.read_u8()).await.expect("an answer in time").unwrap();
        heard.push(byte);
        if let Some(head) = heard.strip_suffix(b"\r\n\r\n") {
            let head = String::from_utf8(head.to_vec()).unwrap();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
            stream.read_exact(&mut body).await.unwrap();
            return head + "\n" + &String::from_utf8(body).unwrap();
        }
    }
}

/// Returns once the server has closed; fails when it does not.
pub(crate) async fn closed(stream: &mut TlsStream<TcpStream>) {
    let mut rest = Vec::new();
    // A cut without close_notify is an error here, and is as good.
    drop(tokio::time::timeout(SOON, stream.read_to_end(&mut rest)).await.expect("closed in time"));
}

/// A client that shows `credential`, if any, and trusts every server.
pub(crate) fn client(credential: Option<&Credential>) -> Arc<ClientConfig> {
    client_with(credential, &[&version::TLS13])
}

pub(crate) fn client_with(
    credential: Option<&Credential>,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer));
    Arc::new(match credential {
        Some(shown) => builder.with_client_auth_cert(shown.chain.clone(), shown.key_der()).unwrap(),
        None => builder.with_no_client_auth(),
    })
}

#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
