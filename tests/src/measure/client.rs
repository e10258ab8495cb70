//! TLS as the agent speaks it, for generators: 1.3, X25519, no resumption.
//!
//! It does as little as a client can, for it must never set the pace: it does not judge the server's certificate (the
//! stories do).

use crate::{Identity, est};
use base64::prelude::{BASE64_STANDARD, Engine};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Clients that show `identity`, or nothing.
///
/// # Panics
/// When the key is of no use.
pub fn config(identity: Option<&Identity>) -> Arc<ClientConfig> {
    let provider = CryptoProvider { kx_groups: vec![kx_group::X25519], ..default_provider() };
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider speaks TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unchecked));
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(Identity { chain, key }) => {
            builder.with_client_auth_cert(chain.clone(), key.clone_key()).expect("a usable key")
        }
    };
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// A new connection to `to`.
///
/// # Errors
/// What the network or the handshake says.
///
/// # Panics
/// Never: the name is one.
pub async fn open(config: Arc<ClientConfig>, to: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(config).connect(name, stream).await
}

/// One request, as the bytes of HTTP/1.1, and the whole of its answer.
///
/// # Panics
/// When the answer does not come or is not 200.
pub async fn ask<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, request: &[u8]) -> Vec<u8> {
    try_ask(stream, request).await.unwrap_or_else(|error| panic!("{error}"))
}

/// The same, saying when it fails.
///
/// # Errors
/// What the network says, or the answer where it is not 200.
pub async fn try_ask<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    request: &[u8],
) -> io::Result<Vec<u8>> {
    stream.write_all(request).await?;
    stream.flush().await?;
    let (mut answer, mut wanted) = (Vec::with_capacity(4096), None);
    while wanted.is_none_or(|wanted| answer.len() < wanted) {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        wanted = wanted.or_else(|| whole(&answer));
    }
    if answer.starts_with(b"HTTP/1.1 200") {
        return Ok(answer);
    }
    Err(io::Error::other(String::from_utf8_lossy(&answer).into_owned()))
}

/// The body of what [`ask`] answers.
pub fn body(answer: &[u8]) -> &[u8] {
    &answer[head_bytes(answer).unwrap_or(0)..]
}

/// The bytes of a GET.
pub fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").into_bytes()
}

/// The bytes of a renewal by EST: `csr` is DER, the connection's certificate authenticates it.
pub fn renewal(csr: &[u8]) -> Vec<u8> {
    post(&est::path(None, "simplereenroll"), "", csr)
}

/// The bytes of an enrolment by EST: `csr` is DER.
pub fn enrolment(token: &str, csr: &[u8]) -> Vec<u8> {
    post(&est::path(None, "simpleenroll"), &format!("authorization: Bearer {token}\r\n"), csr)
}

fn post(path: &str, authorization: &str, csr: &[u8]) -> Vec<u8> {
    let body = BASE64_STANDARD.encode(csr);
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\n{authorization}content-type: application/pkcs10\r\n\
         content-transfer-encoding: base64\r\ncontent-length: {}\r\n\r\n{body}",
        body.len(),
    )
    .into_bytes()
}

/// How long the answer that begins like this is, once its head is there.
fn whole(answer: &[u8]) -> Option<usize> {
    let end = head_bytes(answer)?;
    let head = std::str::from_utf8(&answer[..end]).expect("a head is text");
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    Some(end + length.expect("the answer says its length"))
}

/// How long the head of `answer` is, once it is there.
fn head_bytes(answer: &[u8]) -> Option<usize> {
    Some(answer.windows(4).position(|window| window == b"\r\n\r\n")? + 4)
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
