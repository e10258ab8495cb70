//! Chains: whom to believe, on either side.
//!
//! A server believes its own issuing authorities, so that a bare leaf costs one signature check; a device believes
//! one pinned root key until it has stored root certificates. Path building and signatures are webpki's, with the
//! algorithms of the provider that the caller passes in; time is passed in too. Revocation is not judged here: the
//! server asks its live status index, a device has nothing that it could ask before it is connected.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError as TlsError, DigitallySignedStruct, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use thiserror::Error;
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyUsage, anchor_from_trusted_cert};

use crate::SpkiDigest;
use crate::certificate::{Certificate, CertificateError};
use crate::serial::{Serial, SerialError};

/// Why a chain does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ChainError {
    /// A certificate of the chain is past its last second, and nothing else is wrong with a bare leaf.
    #[error("the certificate expired at {not_after_s}")]
    Expired {
        /// Its last second; verify again as of this instant where policy allows an expired leaf.
        not_after_s: i64,
    },
    /// A certificate of the chain is before its first second.
    #[error("the certificate is not valid before {not_before_s}")]
    NotYetValid {
        /// Its first second.
        not_before_s: i64,
    },
    /// No path to a trusted authority; for a pin, no root with that key was presented.
    #[error("no trusted authority issued the certificate")]
    UnknownIssuer,
    /// It certifies another key than the one expected.
    #[error("the certificate is for another key")]
    OtherKey,
    /// It is for another purpose or carries another number of URIs than one.
    #[error("the certificate is not a device's")]
    NotADevice,
    /// It cannot be read.
    #[error("reading the certificate failed")]
    Malformed(#[from] CertificateError),
    /// Its serial number is none that Muster issues.
    #[error("the certificate has a foreign serial number")]
    Serial(#[from] SerialError),
    /// It breaks some other rule of path validation.
    #[error("validating the certificate's path failed")]
    Path(#[source] webpki::Error),
    /// An instant before 1970.
    #[error("the time is before 1970")]
    Time,
}

impl From<webpki::Error> for ChainError {
    fn from(error: webpki::Error) -> Self {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "webpki knows fifty errors; all others are kept whole"
        )]
        match error {
            webpki::Error::CertExpired { not_after, .. } => Self::Expired { not_after_s: seconds(not_after) },
            webpki::Error::CertNotValidYet { not_before, .. } => {
                Self::NotYetValid { not_before_s: seconds(not_before) }
            }
            webpki::Error::UnknownIssuer => Self::UnknownIssuer,
            webpki::Error::RequiredEkuNotFoundContext(_) | webpki::Error::CaUsedAsEndEntity => {
                Self::NotADevice
            }
            other => Self::Path(other),
        }
    }
}

/// What a verified device leaf says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// Serial number.
    pub serial: Serial,
    /// The only URI among the alternative names.
    pub uri: String,
    /// First second of validity, seconds since 1970.
    pub not_before_s: i64,
    /// Last second of validity, seconds since 1970.
    pub not_after_s: i64,
    /// SHA-256 of the SubjectPublicKeyInfo.
    pub spki_sha256: SpkiDigest,
    /// SHA-256 of the whole certificate.
    pub sha256: [u8; 32],
}

impl Leaf {
    /// Reads what a leaf says, without believing it.
    ///
    /// # Errors
    /// [`ChainError::Malformed`], [`ChainError::NotADevice`] without exactly one URI, or [`ChainError::Serial`].
    pub fn read(der: &[u8]) -> Result<Self, ChainError> {
        let certificate = Certificate::parse(der)?;
        let uris = certificate.uris();
        let [uri] = uris.as_slice() else { return Err(ChainError::NotADevice) };
        Ok(Self {
            serial: certificate.serial()?,
            uri: (*uri).to_owned(),
            not_before_s: certificate.not_before_s(),
            not_after_s: certificate.not_after_s(),
            spki_sha256: certificate.spki_sha256(),
            sha256: certificate.sha256(),
        })
    }
}

/// The authorities that a server believes when a device presents its leaf.
#[derive(Debug, Clone)]
pub struct Issuers {
    anchors: Vec<TrustAnchor<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Issuers {
    /// From DER certificates of issuing authorities. They are trusted themselves: one signature check per leaf, and
    /// whatever else a device presents is not looked at.
    ///
    /// # Errors
    /// [`ChainError::Path`] when one cannot be read.
    pub fn new(issuing_der: &[&[u8]], provider: Arc<CryptoProvider>) -> Result<Self, ChainError> {
        Ok(Self { anchors: anchors(issuing_der)?, provider })
    }

    /// Verifies a device's or an observer's leaf as of `now_s`.
    ///
    /// # Errors
    /// [`ChainError::Expired`] only when nothing but time is wrong: the signature was verified as of the last second.
    /// Every other [`ChainError`] is final.
    pub fn verify_device_leaf(&self, leaf_der: &[u8], now_s: i64) -> Result<Leaf, ChainError> {
        let leaf = Leaf::read(leaf_der)?;
        let path = Path { anchors: &self.anchors, intermediates: &[], provider: &self.provider };
        let certificate = CertificateDer::from(leaf_der);
        match path.verify(&certificate, KeyUsage::client_auth(), unix(now_s)?) {
            Err(ChainError::Expired { not_after_s }) => {
                path.verify(&certificate, KeyUsage::client_auth(), unix(not_after_s)?)?;
                Err(ChainError::Expired { not_after_s })
            }
            outcome => outcome.map(|()| leaf),
        }
    }
}

/// The roots that a device believes: one pinned key, or certificates that it has stored.
#[derive(Clone)]
pub struct Trust {
    roots: Roots,
    provider: Arc<CryptoProvider>,
}

#[derive(Clone)]
enum Roots {
    Pinned(SpkiDigest),
    Stored { digests: Vec<SpkiDigest>, anchors: Vec<TrustAnchor<'static>> },
}

impl Trust {
    /// Whatever root is presented, if the SHA-256 of its SubjectPublicKeyInfo is `pin`.
    #[must_use]
    pub fn pinned(pin: SpkiDigest, provider: Arc<CryptoProvider>) -> Self {
        Self { roots: Roots::Pinned(pin), provider }
    }

    /// These stored root certificates, which need not be presented.
    ///
    /// # Errors
    /// [`ChainError`] when one cannot be read.
    pub fn stored(roots_der: &[&[u8]], provider: Arc<CryptoProvider>) -> Result<Self, ChainError> {
        let digests = roots_der.iter().map(|der| Certificate::parse(der).map(|root| root.spki_sha256()));
        let digests = digests.collect::<Result<_, _>>()?;
        Ok(Self { roots: Roots::Stored { digests, anchors: anchors(roots_der)? }, provider })
    }

    /// The first of `certificates_der` whose key this trust believes as a root: what a device stores after it has
    /// fetched the authorities' certificates.
    #[must_use]
    pub fn find_root<'a>(&self, certificates_der: &[&'a [u8]]) -> Option<&'a [u8]> {
        certificates_der.iter().copied().find(|der| {
            let digest = Certificate::parse(der).map(|certificate| certificate.spki_sha256());
            digest.is_ok_and(|digest| match &self.roots {
                Roots::Pinned(pin) => digest == *pin,
                Roots::Stored { digests, .. } => digests.contains(&digest),
            })
        })
    }

    /// Verifies a chain that leads to one of the roots.
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: KeyUsage,
        time: UnixTime,
    ) -> Result<(), ChainError> {
        let presented: Vec<&[u8]> = intermediates.iter().map(AsRef::as_ref).collect();
        let found;
        let anchors = match &self.roots {
            Roots::Stored { anchors, .. } => anchors.as_slice(),
            Roots::Pinned(_) => {
                let root = self.find_root(&presented).ok_or(ChainError::UnknownIssuer)?;
                found = anchors(&[root])?;
                found.as_slice()
            }
        };
        Path { anchors, intermediates, provider: &self.provider }.verify(leaf, usage, time)
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roots = match &self.roots {
            Roots::Pinned(_) => "one pinned key".to_owned(),
            Roots::Stored { digests, .. } => format!("{} stored", digests.len()),
        };
        f.debug_struct("Trust").field("roots", &roots).finish_non_exhaustive()
    }
}

/// Verifies on the device what an enrolment brought: it certifies the key `spki_der` and leads to a trusted root
/// through `authorities_der`, in any order, which must hold the root too if the trust is a pin.
///
/// # Errors
/// [`ChainError::OtherKey`] before anything costly, otherwise the [`ChainError`] of the path.
pub fn check_issued(
    leaf_der: &[u8],
    spki_der: &[u8],
    trust: &Trust,
    authorities_der: &[&[u8]],
    now_s: i64,
) -> Result<Leaf, ChainError> {
    if Certificate::parse(leaf_der)?.spki_der() != spki_der {
        return Err(ChainError::OtherKey);
    }
    let leaf = Leaf::read(leaf_der)?;
    let authorities: Vec<_> = authorities_der.iter().map(|der| CertificateDer::from(*der)).collect();
    trust.verify(&CertificateDer::from(leaf_der), &authorities, KeyUsage::client_auth(), unix(now_s)?)?;
    Ok(leaf)
}

/// Verifies a server's chain and name for rustls, which passes the time in from its `time_provider`.
///
/// Hand it to `ClientConfig::dangerous().with_custom_certificate_verifier`. A chain that does not lead to the pinned
/// or stored root is `InvalidCertificate(UnknownIssuer)`.
#[derive(Debug)]
pub struct PinnedServerVerifier {
    trust: Trust,
    /// Whether a beginning that is still to come by the clock is believed to be over.
    believes_beginnings: bool,
}

/// Leaf, issuer and root may each begin later than the one before.
const BEGINNINGS: usize = 3;

impl PinnedServerVerifier {
    /// A verifier that believes `trust`.
    #[must_use]
    pub fn new(trust: Trust) -> Arc<Self> {
        Arc::new(Self { trust, believes_beginnings: false })
    }

    /// A verifier for whoever knows no time: what begins only later by its clock is judged as of that beginning, since
    /// an authority under the root has said that the moment is over. What has ended by then, or by the clock, is
    /// refused as ever.
    #[must_use]
    pub fn without_calendar(trust: Trust) -> Arc<Self> {
        Arc::new(Self { trust, believes_beginnings: true })
    }

    fn verify_chain(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), ChainError> {
        let judge = |at| self.trust.verify(leaf, intermediates, KeyUsage::server_auth(), at);
        let mut judged = judge(now);
        for _ in 0..BEGINNINGS {
            match judged {
                Err(ChainError::NotYetValid { not_before_s }) if self.believes_beginnings => {
                    judged = judge(unix(not_before_s)?);
                }
                _ => break,
            }
        }
        judged
    }
}

impl ServerCertVerifier for PinnedServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify_chain(end_entity, intermediates, now)
            .map_err(|error| rustls::Error::InvalidCertificate(tls_error(error)))?;
        EndEntityCert::try_from(end_entity)
            .and_then(|certificate| certificate.verify_is_valid_for_subject_name(server_name))
            .map_err(|_| rustls::Error::InvalidCertificate(TlsError::NotValidForName))?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.trust.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.trust.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The alert that rustls sends and the error that the caller sees.
fn tls_error(error: ChainError) -> TlsError {
    match error {
        ChainError::Expired { .. } => TlsError::Expired,
        ChainError::NotYetValid { .. } => TlsError::NotValidYet,
        ChainError::UnknownIssuer => TlsError::UnknownIssuer,
        ChainError::NotADevice => TlsError::InvalidPurpose,
        ChainError::Malformed(_) => TlsError::BadEncoding,
        other @ (ChainError::OtherKey | ChainError::Serial(_) | ChainError::Path(_) | ChainError::Time) => {
            TlsError::Other(OtherError(Arc::new(other)))
        }
    }
}

/// One question for webpki.
struct Path<'a> {
    anchors: &'a [TrustAnchor<'a>],
    intermediates: &'a [CertificateDer<'a>],
    provider: &'a CryptoProvider,
}

impl Path<'_> {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        usage: impl ExtendedKeyUsageValidator,
        time: UnixTime,
    ) -> Result<(), ChainError> {
        let algorithms = self.provider.signature_verification_algorithms.all;
        let leaf = EndEntityCert::try_from(leaf).map_err(ChainError::Path)?;
        leaf.verify_for_usage(algorithms, self.anchors, self.intermediates, time, usage, None, None)?;
        Ok(())
    }
}

fn anchors(certificates_der: &[&[u8]]) -> Result<Vec<TrustAnchor<'static>>, ChainError> {
    let anchor = |der: &&[u8]| {
        let certificate = CertificateDer::from(*der);
        anchor_from_trusted_cert(&certificate).map(|anchor| anchor.to_owned()).map_err(ChainError::Path)
    };
    certificates_der.iter().map(anchor).collect()
}

fn unix(now_s: i64) -> Result<UnixTime, ChainError> {
    let seconds = u64::try_from(now_s).map_err(|_| ChainError::Time)?;
    Ok(UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)))
}

fn seconds(time: UnixTime) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}
