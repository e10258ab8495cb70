//! A TLS client for attacks and for plain EST: pins the root, shows whatever certificate it is told to.
//!
//! It shares no code with the agent: what an attacker or a stranger's client would do must not depend on our own
//! verifier.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{PATIENCE, Server, Site};

/// A certificate chain, leaf first, and its private key.
#[derive(Debug)]
pub struct Identity {
    /// DER, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
}

/// TLS versions that a client offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versions {
    /// 1.3 alone.
    Tls13,
    /// 1.2 alone.
    Tls12,
}

/// Where a connection or a request ended.
#[derive(Debug)]
pub enum TlsFailure {
    /// Nobody accepted the connection, or the handshake was refused.
    Connect(std::io::Error),
    /// The connection ended before an answer came; in TLS 1.3 a refused client certificate shows here.
    Request(hyper::Error),
}

/// How to connect.
#[derive(Clone, Debug)]
pub struct Tls {
    config: ClientConfig,
}

/// An open HTTPS connection.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    authority: String,
}

/// An answer with its whole body.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Head.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Identity {
    /// `key.pem` and `certificate.pem` in `directory`.
    ///
    /// # Panics
    /// When they are not there or not PEM.
    pub fn read(directory: &Path) -> Self {
        let key = directory.join("key.pem");
        let certificate = directory.join("certificate.pem");
        let chain = CertificateDer::pem_file_iter(&certificate)
            .unwrap_or_else(|cause| panic!("{}: {cause:?}", certificate.display()))
            .map(|der| der.expect("certificate.pem holds certificates"));
        let key =
            PrivateKeyDer::from_pem_file(&key).unwrap_or_else(|cause| panic!("{}: {cause:?}", key.display()));
        Self { chain: chain.collect(), key }
    }

    /// From what an enrolment answered and the key that asked for it.
    pub fn of(leaf_der: &[u8], key: PrivateKeyDer<'static>) -> Self {
        Self { chain: vec![CertificateDer::from(leaf_der.to_vec())], key }
    }

    /// The leaf, DER.
    pub fn leaf(&self) -> &[u8] {
        &self.chain[0]
    }
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

impl Tls {
    /// A client of `server` that shows no certificate.
    pub fn anonymous(server: &Server) -> Self {
        Self::build_ahead(server.site(), None, Versions::Tls13, server.ahead())
    }

    /// A client of `server` that shows `identity`.
    pub fn with(server: &Server, identity: &Identity) -> Self {
        Self::build_ahead(server.site(), Some(identity), Versions::Tls13, server.ahead())
    }

    /// Any client: of the server founded in `site`, with or without a certificate, of these versions.
    pub fn build(site: &Site, identity: Option<&Identity>, versions: Versions) -> Self {
        Self::build_ahead(site, identity, versions, Duration::ZERO)
    }

    /// The same for a client that lives `ahead` of this machine's clock.
    fn build_ahead(site: &Site, identity: Option<&Identity>, versions: Versions, ahead: Duration) -> Self {
        let pin =
            site.credential()["root_spki_sha256"].as_str().expect("the credential pins a root").to_owned();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = Arc::new(Pinned { pin: pin_bytes(&pin), ahead, provider: provider.clone() });
        let keys = provider.key_provider;
        let versions = match versions {
            Versions::Tls13 => &rustls::version::TLS13,
            Versions::Tls12 => &rustls::version::TLS12,
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[versions])
            .expect("the provider speaks both versions")
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let config = match identity.cloned() {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                // Not held against each other: a thief may show a certificate without having its key.
                let key = keys.load_private_key(identity.key).expect("a usable key");
                let shown = CertifiedKey::new(identity.chain, key);
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown)))
            }
        };
        Self { config }
    }

    /// The same, offering these protocols (ALPN).
    #[must_use]
    pub fn offering(mut self, protocols: &[&str]) -> Self {
        self.config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        self
    }

    /// The first flight of a handshake with `host`: a ClientHello, for whoever sends nothing after it.
    ///
    /// # Panics
    /// When `host` is no name.
    pub fn client_hello(&self, host: &str) -> Vec<u8> {
        let name = ServerName::try_from(host.to_owned()).expect("a name");
        let connection = rustls::ClientConnection::new(Arc::new(self.config.clone()), name);
        let mut hello = Vec::new();
        connection.expect("a handshake begins").write_tls(&mut hello).expect("memory can be written");
        hello
    }

    /// Opens a connection to `url`, of which only host and port are read, and speaks no HTTP on it.
    ///
    /// # Errors
    /// [`TlsFailure::Connect`].
    pub async fn open(&self, url: &str) -> Result<TlsStream<TcpStream>, TlsFailure> {
        let (host, port) = host_and_port(url);
        let connecting = async {
            let stream = TcpStream::connect((host.as_str(), port)).await?;
            stream.set_nodelay(true)?;
            self.over(stream, &host).await
        };
        let connected = tokio::time::timeout(PATIENCE, connecting).await;
        connected
            .unwrap_or_else(|_| panic!("connecting to {url} took longer than {PATIENCE:?}"))
            .map_err(TlsFailure::Connect)
    }

    /// The handshake with `host` on a connection that is there already.
    ///
    /// # Errors
    /// What ended it.
    pub async fn over(&self, stream: TcpStream, host: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
        TlsConnector::from(Arc::new(self.config.clone())).connect(name, stream).await
    }

    /// Opens an HTTPS connection to `url`, of which only host and port are read.
    ///
    /// # Errors
    /// [`TlsFailure::Connect`], or [`TlsFailure::Request`] when the server speaks no HTTP.
    pub async fn connect(&self, url: &str) -> Result<Connection, TlsFailure> {
        let stream = self.open(url).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(TlsFailure::Request)?;
        // Ends with the connection; its error is the one that the request reports.
        tokio::spawn(connection);
        let (host, port) = host_and_port(url);
        Ok(Connection { sender, authority: format!("{host}:{port}") })
    }

    /// One request on a connection of its own; `url` is whole.
    ///
    /// # Errors
    /// As [`Tls::connect`] and [`Connection::send`].
    pub async fn request(&self, request: Request<Bytes>) -> Result<Answer, TlsFailure> {
        self.connect(&request.uri().to_string()).await?.send(request).await
    }
}

impl Connection {
    /// Sends one request and reads the whole answer. The connection stays open when the server leaves it open.
    ///
    /// # Errors
    /// [`TlsFailure::Request`].
    pub async fn send(&mut self, request: Request<Bytes>) -> Result<Answer, TlsFailure> {
        let (mut head, body) = request.into_parts();
        head.headers
            .entry(http::header::HOST)
            .or_insert(self.authority.parse().expect("host and port make a header"));
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        head.uri = path.parse().expect("a path is a URI");
        let answering = async {
            self.sender.ready().await?;
            let answer = self.sender.send_request(Request::from_parts(head, Full::new(body))).await?;
            let (head, body) = answer.into_parts();
            Ok(Answer { status: head.status, headers: head.headers, body: body.collect().await?.to_bytes() })
        };
        let answered = tokio::time::timeout(PATIENCE, answering).await;
        answered.unwrap_or_else(|_| panic!("no answer within {PATIENCE:?}")).map_err(TlsFailure::Request)
    }

    /// A request without a body, and what it is answered.
    ///
    /// # Errors
    /// As [`Connection::send`].
    pub async fn get(&mut self, path: &str) -> Result<Answer, TlsFailure> {
        let request = Request::builder().method(Method::GET).uri(path).body(Bytes::new());
        self.send(request.expect("a path is a URI")).await
    }
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|cause| {
            panic!("{cause}: {} {}", self.status, String::from_utf8_lossy(&self.body))
        })
    }

    /// The `code` of a problem document.
    ///
    /// # Panics
    /// When the answer is none.
    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_else(|| panic!("no code in {}", self.json())).to_owned()
    }
}

/// Accepts a server whose presented chain holds the pinned root and verifies up to it.
#[derive(Debug)]
struct Pinned {
    pin: [u8; 32],
    ahead: Duration,
    provider: Arc<rustls::crypto::CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pinned = |der: &&CertificateDer<'_>| {
            X509Certificate::from_der(der)
                .is_ok_and(|(_, certificate)| Sha256::digest(certificate.public_key().raw)[..] == self.pin)
        };
        let unknown = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let root = intermediates.iter().find(pinned).ok_or(unknown)?;
        let mut roots = RootCertStore::empty();
        roots.add(root.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|cause| Error::General(cause.to_string()))?;
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()) + self.ahead);
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A pin as the credential spells it: hex, or base64url as in enrolment strings.
fn pin_bytes(text: &str) -> [u8; 32] {
    use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
    let bytes = hex::decode(text).or_else(|_| BASE64_URL_SAFE_NO_PAD.decode(text));
    bytes.ok().and_then(|bytes| bytes.try_into().ok()).unwrap_or_else(|| panic!("no SHA-256: {text}"))
}

fn host_and_port(url: &str) -> (String, u16) {
    let uri: http::Uri = url.parse().unwrap_or_else(|cause| panic!("{url}: {cause}"));
    let host = uri.host().unwrap_or_else(|| panic!("{url} names no host"));
    let port = uri.port_u16().unwrap_or_else(|| panic!("{url} names no port"));
    (host.trim_matches(['[', ']']).to_owned(), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_read_in_both_spellings() {
        let digest: [u8; 32] = Sha256::digest(b"root").into();
        use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
        assert_eq!(pin_bytes(&hex::encode(digest)), digest);
        assert_eq!(pin_bytes(&BASE64_URL_SAFE_NO_PAD.encode(digest)), digest);
    }

    #[test]
    fn host_and_port_come_from_any_scheme() {
        assert_eq!(host_and_port("https://localhost:1/a/b"), ("localhost".into(), 1));
        assert_eq!(host_and_port("mqtts://[::1]:8883"), ("::1".into(), 8883));
    }
}
