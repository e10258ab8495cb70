//! Who is on the other end: an address and, where one was shown, what the certificate says.
//!
//! A certificate is read once, after the handshake has proved it; authorisation uses its serial number and its
//! one URI SAN, never the common name. Nothing of the presented chain is kept here.

pub use muster_pki::serial::Serial;
pub use muster_wire::id::DeviceId;

use muster_wire::digest::Sha256Digest;
use muster_wire::id::{ObserverName, TrustDomain, parse_device_uri, parse_observer_uri};
use std::net::SocketAddr;
use std::sync::Arc;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

/// The other end of a connection. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address as the socket sees it.
    pub addr: SocketAddr,
    /// What its certificate says, when it showed one that was accepted.
    pub certificate: Option<Arc<PeerCertificate>>,
    /// What its certificate says, when it is an observer's; only the gate accepts those.
    pub observer: Option<Arc<ObserverCertificate>>,
}

/// What the doors and the verbs need of a device's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// Its serial number.
    pub serial: Serial,
    /// The device that its URI SAN names.
    pub device: DeviceId,
    /// SHA-256 of its DER.
    pub sha256: Sha256Digest,
    /// SHA-256 of its SubjectPublicKeyInfo's DER.
    pub spki_sha256: Sha256Digest,
    /// Its `notAfter`, in seconds since 1970.
    pub not_after: i64,
}

/// Why a certificate names no device of ours, although our issuing CA signed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// Not the DER of one certificate.
    #[error("not the DER of one certificate")]
    Malformed,
    /// Not a serial number that we issue.
    #[error("not a serial number that this server issues")]
    Serial,
    /// Not exactly one subject alternative name, or one that names no device of this trust domain.
    #[error("the subject alternative name is not one device of this trust domain")]
    Name,
}

impl PeerCertificate {
    /// Reads the DER of a device's certificate of `trust_domain`. The signature is not checked here.
    ///
    /// # Errors
    /// [`PeerError::Malformed`], [`PeerError::Serial`], [`PeerError::Name`].
    pub fn read(der: &[u8], trust_domain: &TrustDomain) -> Result<Self, PeerError> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| PeerError::Malformed)?;
        if !rest.is_empty() {
            return Err(PeerError::Malformed);
        }
        Ok(Self {
            serial: Serial::from_bytes(certificate.raw_serial()).map_err(|_| PeerError::Serial)?,
            device: device_of(&certificate, trust_domain).ok_or(PeerError::Name)?,
            sha256: Sha256Digest::of(der),
            spki_sha256: Sha256Digest::of(certificate.public_key().raw),
            not_after: certificate.validity().not_after.timestamp(),
        })
    }
}

/// What the gate needs of an observer's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObserverCertificate {
    /// Its serial number.
    pub serial: Serial,
    /// The observer that its URI SAN names.
    pub name: ObserverName,
    /// SHA-256 of its DER.
    pub sha256: Sha256Digest,
    /// Its `notAfter`, in seconds since 1970.
    pub not_after: i64,
}

impl ObserverCertificate {
    /// Reads the DER of an observer's certificate of `trust_domain`. The signature is not checked here.
    ///
    /// # Errors
    /// As [`PeerCertificate::read`].
    pub fn read(der: &[u8], trust_domain: &TrustDomain) -> Result<Self, PeerError> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| PeerError::Malformed)?;
        if !rest.is_empty() {
            return Err(PeerError::Malformed);
        }
        Ok(Self {
            serial: Serial::from_bytes(certificate.raw_serial()).map_err(|_| PeerError::Serial)?,
            name: observer_of(&certificate, trust_domain).ok_or(PeerError::Name)?,
            sha256: Sha256Digest::of(der),
            not_after: certificate.validity().not_after.timestamp(),
        })
    }
}

fn observer_of(certificate: &X509Certificate<'_>, trust_domain: &TrustDomain) -> Option<ObserverName> {
    let (domain, observer) = parse_observer_uri(only_uri(certificate)?)?;
    (domain == trust_domain.as_str()).then_some(observer)
}

fn device_of(certificate: &X509Certificate<'_>, trust_domain: &TrustDomain) -> Option<DeviceId> {
    let (domain, device) = parse_device_uri(only_uri(certificate)?)?;
    (domain == trust_domain.as_str()).then_some(device)
}

fn only_uri<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a str> {
    let names = &certificate.subject_alternative_name().ok()??.value.general_names;
    let [GeneralName::URI(uri)] = names.as_slice() else { return None };
    Some(*uri)
}
