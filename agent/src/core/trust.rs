//! Whom the device believes, and whether what it was sent is what it asked for.
//!
//! Two anchors, both from the enrolment string and both remembered in the journal: the root by the digest of its
//! public key, the first authority document by the digest of its payload (authority.md). Everything else that a
//! server says is checked against them.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_pki::certificate::{Certificate, CertificateError};
use muster_pki::chain::{self, ChainError};
use muster_pki::{armor, cms};
use muster_wire::digest::Sha256Digest;
use muster_wire::discovery::Discovery;
use muster_wire::id::{DeviceId, parse_device_uri};
use muster_wire::lineage::Lineage;
use muster_wire::time::Timestamp;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::Desk;
use super::effect::{Document, Effect, Held};
use super::record::{Accepted, Past, Record};
use super::refusal::Refusal;

/// The cryptography of the agent: ring, named here and nowhere else, because a build of the whole workspace has
/// two providers and rustls then has no default.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The pinned root and the authorities that the server serves with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    root: Vec<u8>,
    others: Vec<Vec<u8>>,
}

impl Trust {
    /// Reads an EST `cacerts` answer and finds the pinned root in it.
    ///
    /// # Errors
    /// [`Refusal::Unreadable`] when it is no certs-only message, [`Refusal::RootPin`] when the root is not there.
    pub(super) fn from_cacerts(body: &[u8], pin: &Sha256Digest) -> Result<Self, Refusal> {
        let certificates = certs_only(body, "list of authorities")?;
        Self::find(certificates, pin).ok_or(Refusal::RootPin)
    }

    /// Reads the `trust` file again; `None` when the pinned root is not in it.
    pub fn from_pem(pem: &[u8], pin: &Sha256Digest) -> Option<Self> {
        let certificates = CertificateDer::pem_slice_iter(pem).map(|item| item.map(|der| der.to_vec()));
        Self::find(certificates.collect::<Result<_, _>>().ok()?, pin)
    }

    /// The `trust` file: the root first, then the others, as openssl's `-CAfile` takes them.
    fn to_pem(&self) -> Vec<u8> {
        let all = std::iter::once(&self.root).chain(&self.others);
        all.map(|der| armor::pem("CERTIFICATE", der)).collect::<String>().into_bytes()
    }

    /// Reads an EST enrolment answer: exactly one certificate, for the key `spki` (DER), leading to the pinned root,
    /// valid at `now`, naming one device of `trust_domain`.
    ///
    /// # Errors
    /// The variant of [`Refusal`] that names what is not so.
    pub(super) fn check(
        &self,
        body: &[u8],
        spki: &[u8],
        trust_domain: &str,
        now: Timestamp,
    ) -> Result<Leaf, Refusal> {
        let certificates = certs_only(body, "certificate")?;
        let [der] = <[Vec<u8>; 1]>::try_from(certificates).map_err(|_| Refusal::ForeignName)?;
        let leaf = Leaf::read(&der).map_err(unreadable("certificate"))?;
        self.verify(&leaf, spki, now)?;
        if leaf.trust_domain != trust_domain {
            return Err(Refusal::ForeignName);
        }
        Ok(leaf)
    }

    /// Whether `leaf` certifies `spki` (DER), leads to the pinned root and is valid at `now`.
    ///
    /// # Errors
    /// [`Refusal::ForeignKey`], [`Refusal::ForeignIssuer`] or [`Refusal::Clock`].
    pub fn verify(&self, leaf: &Leaf, spki: &[u8], now: Timestamp) -> Result<(), Refusal> {
        let anchor = chain::Trust::stored(&[&self.root], provider());
        let others: Vec<&[u8]> = self.others.iter().map(Vec::as_slice).collect();
        let checked =
            anchor.and_then(|anchor| chain::check_issued(&leaf.der, spki, &anchor, &others, now.seconds()));
        match checked {
            Ok(_) => Ok(()),
            Err(ChainError::OtherKey) => Err(Refusal::ForeignKey),
            Err(ChainError::Expired { .. } | ChainError::NotYetValid { .. }) => {
                Err(Refusal::Clock { now, not_before: leaf.not_before, not_after: leaf.not_after })
            }
            Err(error) => Err(Refusal::ForeignIssuer(Box::new(error))),
        }
    }

    /// Makes the `trust` file hold these authorities, unless it does.
    pub(super) fn store(&self, desk: &mut Desk) {
        if desk.held.trust.as_ref() != Some(self) {
            desk.held.trust = Some(self.clone());
            desk.store(Document::Trust, self.to_pem());
        }
    }

    fn find(certificates: Vec<Vec<u8>>, pin: &Sha256Digest) -> Option<Self> {
        let is_root = |der: &Vec<u8>| {
            Certificate::parse(der).is_ok_and(|parsed| {
                parsed.spki_sha256() == *pin.as_bytes() && parsed.issuer_der() == parsed.subject_der()
            })
        };
        let (roots, others): (Vec<_>, Vec<_>) = certificates.into_iter().partition(is_root);
        roots.into_iter().next().map(|root| Self { root, others })
    }
}

/// A device certificate, read but not believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The whole of it.
    pub der: Vec<u8>,
    /// SHA-256 of the DER.
    pub sha256: Sha256Digest,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub spki: Sha256Digest,
    /// Its serial number in lower-case hexadecimal.
    pub serial: String,
    /// First second of its life.
    pub not_before: Timestamp,
    /// Last second of its life.
    pub not_after: Timestamp,
    /// The trust domain that names the device.
    pub trust_domain: String,
    /// The device.
    pub device: DeviceId,
    /// The serial number of the device itself, as its server knows it.
    pub hardware_serial: Option<String>,
}

/// Why a certificate is not one of a device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeafError {
    /// It is no certificate.
    #[error("not a certificate")]
    Parse(#[from] CertificateError),
    /// Its names are not exactly one device's.
    #[error("it does not name exactly one device")]
    Name,
}

impl Leaf {
    /// Reads a certificate; verifies nothing.
    ///
    /// # Errors
    /// [`LeafError`] when it is no certificate or names no device.
    pub fn read(der: &[u8]) -> Result<Self, LeafError> {
        let parsed = Certificate::parse(der)?;
        let uris = parsed.uris();
        let [uri] = uris.as_slice() else { return Err(LeafError::Name) };
        let (trust_domain, device) = parse_device_uri(uri).ok_or(LeafError::Name)?;
        Ok(Self {
            der: der.to_vec(),
            sha256: Sha256Digest(parsed.sha256()),
            spki: Sha256Digest(parsed.spki_sha256()),
            serial: parsed.serial_bytes().iter().map(|byte| format!("{byte:02x}")).collect(),
            not_before: Timestamp(parsed.not_before_s()),
            not_after: Timestamp(parsed.not_after_s()),
            trust_domain: trust_domain.to_owned(),
            device,
            hardware_serial: parsed.hardware_serial(),
        })
    }

    /// The certificate as its file holds it.
    pub(super) fn to_pem(&self) -> Vec<u8> {
        armor::pem("CERTIFICATE", &self.der).into_bytes()
    }
}

/// The authority that the device obeys, verified from its pinned beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Authority {
    /// Version of the newest document.
    pub(super) version: u64,
    /// The name space of device names.
    pub(super) trust_domain: String,
    documents: Vec<Vec<u8>>,
}

impl Authority {
    /// Walks the chain in `found` from the document whose payload has the digest `pin`.
    ///
    /// # Errors
    /// [`Refusal::Authority`] when a link does not hold, [`Refusal::TrustDomain`] when it is not this server's.
    pub(super) fn verify(found: &Discovery, pin: &Sha256Digest, now: Timestamp) -> Result<Self, Refusal> {
        let documents: Vec<Vec<u8>> = found
            .authority
            .iter()
            .map(|text| STANDARD.decode(text))
            .collect::<Result<_, _>>()
            .map_err(|error| Refusal::Authority(Box::new(error)))?;
        let lineage =
            Lineage::walk(&documents, *pin, now).map_err(|error| Refusal::Authority(Box::new(error)))?;
        let (version, founded) = (lineage.current().version, &lineage.current().trust_domain);
        if found.trust_domain != *founded {
            return Err(Refusal::TrustDomain {
                served: found.trust_domain.to_string(),
                founded: founded.to_string(),
            });
        }
        Ok(Self { version, trust_domain: founded.to_string(), documents })
    }

    /// Reads the `authority` file again, believing nothing in it.
    ///
    /// # Errors
    /// [`Refusal::Authority`] when the chain in it does not hold from `pin`.
    pub(super) fn version_in_file(text: &[u8], pin: &Sha256Digest, now: Timestamp) -> Result<u64, Refusal> {
        Ok(Self::lineage_in_file(text, pin, now)?.current().version)
    }

    fn lineage_in_file(text: &[u8], pin: &Sha256Digest, now: Timestamp) -> Result<Lineage, Refusal> {
        let unreadable = |error: base64::DecodeError| Refusal::Authority(Box::new(error));
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let documents =
            lines.map(|line| STANDARD.decode(line)).collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
        Lineage::walk(&documents, *pin, now).map_err(|error| Refusal::Authority(Box::new(error)))
    }

    /// Makes the `authority` file hold this chain, unless it does.
    pub(super) fn store(&self, desk: &mut Desk) {
        let text = self.to_text();
        if desk.held.authority.as_ref() != Some(&text) {
            desk.held.authority = Some(text.clone());
            desk.store(Document::Authority, text);
        }
    }

    /// The `authority` file: one document in base64 per line, oldest first.
    fn to_text(&self) -> Vec<u8> {
        let lines = self.documents.iter().map(|document| STANDARD.encode(document) + "\n");
        lines.collect::<String>().into_bytes()
    }
}

/// Keeps the authorities in an EST `cacerts` answer, outside a command: changes `held` and answers what makes that
/// durable.
///
/// # Errors
/// As [`Trust::from_cacerts`]; [`Refusal::NotEnrolled`].
pub(super) fn renew_authorities(
    past: &mut Past,
    held: &mut Held,
    body: &[u8],
) -> Result<Vec<Effect>, Refusal> {
    let pin = past.accepted.as_ref().map(|accepted| accepted.root_spki).ok_or(Refusal::NotEnrolled)?;
    let trust = Trust::from_cacerts(body, &pin)?;
    let mut desk = Desk::new(std::mem::take(past), std::mem::take(held));
    trust.store(&mut desk);
    (*past, *held) = (desk.past, desk.held);
    Ok(desk.effects.into())
}

/// Keeps a newer authority that follows soundly from the one obeyed, and mends a file that was lost or damaged.
/// Anything else leaves things as they are, since what was verified once stays in force.
pub(super) fn adopt_successor(desk: &mut Desk, found: &Discovery, now: Timestamp) {
    let Some(accepted) = desk.past.accepted.clone() else { return };
    let Ok(authority) = Authority::verify(found, &accepted.authority, now) else { return };
    if authority.version < accepted.authority_version {
        return;
    }
    authority.store(desk);
    if authority.version > accepted.authority_version {
        let authority_version = authority.version;
        desk.record(Record::Accepted(Accepted { authority_version, at: now, ..accepted }));
    }
}

/// [`adopt_successor`] outside a command: changes `past` and `held` and answers what makes that durable.
pub(super) fn adopt(past: &mut Past, held: &mut Held, found: &Discovery, now: Timestamp) -> Vec<Effect> {
    let mut desk = Desk::new(std::mem::take(past), std::mem::take(held));
    adopt_successor(&mut desk, found, now);
    (*past, *held) = (desk.past, desk.held);
    desk.effects.into()
}

/// The authority in force, walked through the file from its pinned beginning; `None` when the file does not hold.
pub fn lineage(past: &Past, held: &Held, now: Timestamp) -> Option<Lineage> {
    let pin = past.accepted.as_ref()?.authority;
    Authority::lineage_in_file(held.authority.as_deref()?, &pin, now).ok()
}

fn certs_only(body: &[u8], what: &'static str) -> Result<Vec<Vec<u8>>, Refusal> {
    let der = armor::decode(body, cms::MAX_BYTES * 2).map_err(unreadable(what))?;
    let certificates = cms::parse_certs_only(&der).map_err(unreadable(what))?;
    Ok(certificates.into_iter().map(<[u8]>::to_vec).collect())
}

fn unreadable<E>(what: &'static str) -> impl FnOnce(E) -> Refusal
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |source| Refusal::Unreadable { what, source: Box::new(source) }
}
