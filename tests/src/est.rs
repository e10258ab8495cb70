//! A stranger's EST client (RFC 7030): keys and requests by rcgen, transport by [`crate::Tls`].

use base64::prelude::{BASE64_STANDARD, Engine};
use bytes::Bytes;
use http::Request;
use rcgen::{CertificateParams, DnType, DnValue, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType};
use rustls::pki_types::PrivateKeyDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

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
        Self::signed(key, &params)
    }

    /// A new key; the request's subject claims the hardware serial number `serial`.
    pub fn claiming(serial: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "pledge");
        params.distinguished_name.push(DnType::CustomDnType(SERIAL_NUMBER.to_vec()), printable(serial));
        Self::signed(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key"), &params)
    }

    /// A new key, for the names in the certificate of `identity`: a renewal of it (RFC 7030 §4.2.2).
    ///
    /// # Panics
    /// When the certificate is not one of ours.
    pub fn renewing(identity: &Identity) -> Self {
        let (_, certificate) = X509Certificate::from_der(identity.leaf()).expect("a certificate");
        let subject = certificate.subject();
        let mut params = CertificateParams::default();
        for name in subject.iter_common_name().filter_map(|name| name.as_str().ok()) {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        let serials = subject.iter_by_oid(&x509_parser::oid_registry::OID_X509_SERIALNUMBER);
        for serial in serials.filter_map(|name| name.as_str().ok()) {
            params.distinguished_name.push(DnType::CustomDnType(SERIAL_NUMBER.to_vec()), printable(serial));
        }
        let uri = device_uri(identity.leaf()).as_str().try_into().expect("a URI is ASCII");
        params.subject_alt_names.push(SanType::URI(uri));
        Self::signed(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key"), &params)
    }

    fn signed(key: KeyPair, params: &CertificateParams) -> Self {
        let csr = params.serialize_request(&key).expect("a request").der().to_vec();
        Self { key, csr }
    }

    /// The identity that this key has with what an enrolment answered.
    pub fn identity(&self, answer: &Answer) -> Identity {
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).expect("PKCS#8");
        Identity::of(&leaf(answer), key)
    }
}

/// `id-at-serialNumber`, X.520.
const SERIAL_NUMBER: [u64; 4] = [2, 5, 4, 5];

fn printable(text: &str) -> DnValue {
    DnValue::PrintableString(text.try_into().expect("a serial number is a PrintableString"))
}

/// The one name of a device's certificate, `spiffe://…/device/…`.
///
/// # Panics
/// When the DER is no certificate with exactly one URI.
pub fn device_uri(leaf_der: &[u8]) -> String {
    let (_, certificate) = X509Certificate::from_der(leaf_der).expect("a certificate");
    let names = certificate.subject_alternative_name().expect("well-formed").expect("a leaf has a name");
    match names.value.general_names.as_slice() {
        [GeneralName::URI(uri)] => (*uri).to_owned(),
        other => panic!("not exactly one URI: {other:?}"),
    }
}

/// The id of the device that a leaf names.
///
/// # Panics
/// As [`device_uri`].
pub fn device_id(leaf_der: &[u8]) -> String {
    let uri = device_uri(leaf_der);
    uri.rsplit('/').next().expect("a URI ends in something").to_owned()
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

/// Asks for the next certificate of `identity` on a connection of its own.
///
/// # Errors
/// When no answer came.
pub async fn reenroll(server: &Server, identity: &Identity, csr: &[u8]) -> Result<Answer, TlsFailure> {
    let mut door = Tls::with(server, identity).connect(&server.endpoints().device).await?;
    door.send(reenroll_request(None, csr)).await
}

/// Uses the certificate of `identity` once, as a proof that it works: the status of an authenticated request.
///
/// # Errors
/// When no answer came.
pub async fn prove(server: &Server, identity: &Identity) -> Result<Answer, TlsFailure> {
    Tls::with(server, identity).connect(&server.endpoints().device).await?.get("/.well-known/muster").await
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

/// Checks that the leaf binds the key of `pledge` and no other.
///
/// # Panics
/// When it does not.
pub fn assert_certifies(leaf_der: &[u8], pledge: &Pledge) {
    let (_, certificate) = X509Certificate::from_der(leaf_der).expect("a certificate");
    assert_eq!(
        certificate.public_key().raw,
        pledge.key.subject_public_key_info(),
        "another key was certified"
    );
}

/// Every certificate in a certs-only answer, DER.
///
/// # Panics
/// When the answer is no success or no certs-only message.
pub fn certificates(answer: &Answer) -> Vec<Vec<u8>> {
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    certificates_in(&answer.body)
}

/// Every certificate in the body of a successful answer, DER.
///
/// # Panics
/// When it is no certs-only message.
pub fn certificates_in(body: &[u8]) -> Vec<Vec<u8>> {
    let text: Vec<u8> = body.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let der = BASE64_STANDARD.decode(text).expect("EST answers in base64");
    muster_pki::cms::parse_certs_only(&der)
        .expect("a certs-only message")
        .into_iter()
        .map(<[u8]>::to_vec)
        .collect()
}
