//! A stranger's EST client (RFC 7030): keys and requests by rcgen, transport by [`Tls`](crate::Tls).

use base64::prelude::{BASE64_STANDARD, Engine};
use bytes::Bytes;
use http::Request;
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::PrivateKeyDer;

use crate::{Answer, Connection, Identity, Server, Tls, TlsFailure};

/// A key and a request for it.
#[derive(Debug)]
pub struct Pledge {
    /// The key.
    pub key: KeyPair,
    /// PKCS#10, DER.
    pub csr: Vec<u8>,
}

impl Pledge {
    /// A new P-256 key; the request's subject says `common_name`, which the server ignores.
    pub fn new(common_name: &str) -> Self {
        Self::of(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key"), common_name)
    }

    /// A request for `key`.
    pub fn of(key: KeyPair, common_name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common_name);
        let csr = params.serialize_request(&key).expect("a request").der().to_vec();
        Self { key, csr }
    }

    /// The identity that this key has with what an enrolment answered.
    pub fn identity(&self, answer: &Answer) -> Identity {
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).expect("PKCS#8");
        Identity::of(&leaf(answer), key)
    }
}

/// The enrolment path of `label`, or of no label.
pub fn path(label: Option<&str>, operation: &str) -> String {
    match label {
        Some(label) => format!("/.well-known/est/{label}/{operation}"),
        None => format!("/.well-known/est/{operation}"),
    }
}

/// A `simpleenroll` of `csr` with `token` as Bearer.
pub fn enroll_request(label: Option<&str>, token: &str, csr: &[u8]) -> Request<Bytes> {
    Request::post(path(label, "simpleenroll"))
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/pkcs10")
        .body(BASE64_STANDARD.encode(csr).into())
        .expect("a token is header text")
}

/// A `simplereenroll` of `csr`; the certificate of the connection authenticates it.
pub fn reenroll_request(label: Option<&str>, csr: &[u8]) -> Request<Bytes> {
    Request::post(path(label, "simplereenroll"))
        .header("content-type", "application/pkcs10")
        .body(BASE64_STANDARD.encode(csr).into())
        .expect("a request")
}

/// Redeems `token` on a connection of its own.
///
/// # Errors
/// When no answer came.
pub async fn enroll(server: &Server, token: &str, csr: &[u8]) -> Result<Answer, TlsFailure> {
    connect(server).await?.send(enroll_request(None, token, csr)).await
}

/// An anonymous connection to the device listener.
///
/// # Errors
/// When there is none.
pub async fn connect(server: &Server) -> Result<Connection, TlsFailure> {
    Tls::anonymous(server).connect(&server.endpoints().device).await
}

/// The one certificate in an enrolment answer, DER.
///
/// # Panics
/// When the answer is no success or holds anything but one certificate.
pub fn leaf(answer: &Answer) -> Vec<u8> {
    let mut found = certificates(answer);
    assert_eq!(found.len(), 1, "an enrolment answer holds exactly the issued certificate");
    found.remove(0)
}

/// Every certificate in a certs-only answer, DER.
///
/// # Panics
/// When the answer is no success or no certs-only message.
pub fn certificates(answer: &Answer) -> Vec<Vec<u8>> {
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    let text: Vec<u8> = answer.body.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let der = BASE64_STANDARD.decode(text).expect("EST answers in base64");
    muster_pki::cms::parse_certs_only(&der)
        .expect("a certs-only message")
        .into_iter()
        .map(<[u8]>::to_vec)
        .collect()
}
