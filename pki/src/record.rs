//! What rcgen would have signed, and the one place where a signature is made.
//!
//! rcgen hands the to-be-signed bytes to its `SigningKey`. Ours keeps them and signs nothing, so that they can be
//! linted by another parser; [`seal`] then signs exactly those bytes and nothing else.

use std::sync::Mutex;

use der::oid::ObjectIdentifier;
use rcgen::string::PrintableString;
use rcgen::{
    CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType, DnValue, Issuer,
    KeyIdMethod, KeyUsagePurpose, PublicKeyData, SignatureAlgorithm, SigningKey,
};
use time::OffsetDateTime;

use crate::authority::CaSigner;
use crate::issuer::IssueError;
use crate::key::{Algorithm, PublicKey};
use crate::lint::Linted;
use crate::tlv;

/// An issuer as rcgen needs it: name, key identifier and public key, but no private key.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    issuer: CertificateParams,
    algorithm: Algorithm,
    bits: Vec<u8>,
}

impl Writer {
    /// A writer for the issuer with this name, key and key identifier.
    ///
    /// # Errors
    /// [`IssueError::NotAnAuthority`] when rcgen would not write the name byte for byte, or the key cannot sign for us.
    pub(crate) fn new(name: &[u8], key: PublicKey<'_>, key_identifier: &[u8]) -> Result<Self, IssueError> {
        let refused = |reason| IssueError::NotAnAuthority { reason };
        if !matches!(key.algorithm(), Algorithm::P256 | Algorithm::P384) {
            return Err(refused("its key is neither P-256 nor P-384"));
        }
        let mut issuer = CertificateParams::default();
        issuer.distinguished_name = distinguished_name(name).ok_or_else(|| refused("its name is unusual"))?;
        issuer.key_identifier_method = KeyIdMethod::PreSpecified(key_identifier.to_vec());
        issuer.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        issuer.not_before = OffsetDateTime::UNIX_EPOCH;
        issuer.not_after = OffsetDateTime::UNIX_EPOCH;
        let writer = Self { issuer, algorithm: key.algorithm(), bits: key.bits().to_vec() };
        let sample = writer.certificate(&writer.issuer, key)?;
        if issuer_of(&sample) == Some(name) { Ok(writer) } else { Err(refused("its name is unusual")) }
    }

    /// The to-be-signed bytes of a certificate for `subject_key`.
    pub(crate) fn certificate(
        &self,
        params: &CertificateParams,
        subject_key: PublicKey<'_>,
    ) -> Result<Vec<u8>, IssueError> {
        let recorder = Recorder::new(self);
        let issuer = Issuer::from_params(&self.issuer, &recorder);
        params.signed_by(&RawKey(subject_key), &issuer).map_err(IssueError::Write)?;
        recorder.into_bytes()
    }

    /// The to-be-signed bytes of a revocation list.
    pub(crate) fn list(&self, params: &CertificateRevocationListParams) -> Result<Vec<u8>, IssueError> {
        let recorder = Recorder::new(self);
        let issuer = Issuer::from_params(&self.issuer, &recorder);
        params.signed_by(&issuer).map_err(IssueError::Write)?;
        recorder.into_bytes()
    }

    pub(crate) const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

/// A "signing key" that keeps what it is asked to sign.
struct Recorder<'a> {
    writer: &'a Writer,
    bytes: Mutex<Vec<u8>>,
}

impl<'a> Recorder<'a> {
    fn new(writer: &'a Writer) -> Self {
        Self { writer, bytes: Mutex::new(Vec::new()) }
    }

    fn into_bytes(self) -> Result<Vec<u8>, IssueError> {
        let bytes = self.bytes.into_inner().unwrap_or_default();
        if bytes.is_empty() { Err(IssueError::Write(rcgen::Error::RemoteKeyError)) } else { Ok(bytes) }
    }
}

impl PublicKeyData for Recorder<'_> {
    fn der_bytes(&self) -> &[u8] {
        &self.writer.bits
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        written_as(self.writer.algorithm)
    }
}

impl SigningKey for Recorder<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let mut bytes = self.bytes.lock().map_err(|_| rcgen::Error::RemoteKeyError)?;
        bytes.extend_from_slice(message);
        Ok(Vec::new())
    }
}

/// A subject's public key, written back with the algorithm that the key itself names.
struct RawKey<'a>(PublicKey<'a>);

impl PublicKeyData for RawKey<'_> {
    fn subject_public_key_info(&self) -> Vec<u8> {
        self.0.spki_der().to_vec()
    }

    fn der_bytes(&self) -> &[u8] {
        self.0.bits()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        written_as(self.0.algorithm())
    }
}

/// rcgen's name for a kind of key. Derived from the key, never from a signature: rcgen takes the curve from here.
fn written_as(algorithm: Algorithm) -> &'static SignatureAlgorithm {
    match algorithm {
        Algorithm::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
        Algorithm::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
        Algorithm::Ed25519 => &rcgen::PKCS_ED25519,
        Algorithm::Rsa { .. } => &rcgen::PKCS_RSA_SHA256,
    }
}

/// Signs linted bytes and puts the three parts together (RFC 5280 §4.1.1 and §5.1.1).
///
/// # Errors
/// [`IssueError::OtherKey`] unless `key` belongs to `issuer_spki`; [`IssueError::Sign`] when it fails.
pub(crate) fn seal(tbs: &Linted, issuer_spki: &[u8], key: &dyn CaSigner) -> Result<Vec<u8>, IssueError> {
    if key.spki_der() != issuer_spki {
        return Err(IssueError::OtherKey);
    }
    let signature = key.sign(tbs.as_bytes()).map_err(IssueError::Sign)?;
    let parts = [tbs.as_bytes(), tbs.signature_algorithm(), &tlv::bit_string(&signature)];
    Ok(tlv::encode_all(tlv::SEQUENCE, &parts))
}

/// Seconds since 1970 as rcgen takes them.
pub(crate) fn instant(seconds: i64) -> Result<OffsetDateTime, IssueError> {
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| IssueError::Time { at_s: seconds })
}

/// A DER name for rcgen; nothing when it has anything but single UTF8String or PrintableString attributes.
pub(crate) fn distinguished_name(name: &[u8]) -> Option<DistinguishedName> {
    let mut sets = tlv::single(name, tlv::SEQUENCE).ok()?.reader();
    let mut out = DistinguishedName::new();
    while !sets.is_empty() {
        let set = sets.expect(tlv::SET).ok()?;
        let mut pair = tlv::single(set.body, tlv::SEQUENCE).ok()?.reader();
        let (oid, value) = (pair.expect(tlv::OID).ok()?, pair.any().ok()?);
        pair.finish().ok()?;
        let arcs: Vec<u64> = ObjectIdentifier::from_bytes(oid.body).ok()?.arcs().map(u64::from).collect();
        let text = std::str::from_utf8(value.body).ok()?;
        let value = match value.tag {
            0x0c => DnValue::Utf8String(text.to_owned()),
            0x13 => DnValue::PrintableString(PrintableString::try_from(text).ok()?),
            _ => return None,
        };
        out.push(DnType::from_oid(&arcs), value);
    }
    Some(out)
}

/// The issuer field of a TBSCertificate.
fn issuer_of(tbs: &[u8]) -> Option<&[u8]> {
    let mut fields = tlv::single(tbs, tlv::SEQUENCE).ok()?.reader();
    fields.expect(tlv::context_constructed(0)).ok()?;
    fields.expect(tlv::INTEGER).ok()?;
    fields.expect(tlv::SEQUENCE).ok()?;
    Some(fields.expect(tlv::SEQUENCE).ok()?.whole)
}
