//! The live client verifier: WebPki for our issuing CA, then the status index.
//!
//! A certificate passes when our issuing CA signed it for client authentication, its one SAN names a device of
//! our trust domain, and [`Doors::judge`] lets it in at [`Door::Handshake`]. The issuing CA is the trust
//! anchor, so a bare leaf is enough and what else a client sends does not matter.
//!
//! WebPki rejects every expired leaf, but the table lets some in (grace, doomed, proven). So WebPki is asked as
//! of now or of the leaf's `notAfter`, whichever is earlier, and expiry is left to the table, which is asked
//! next. WebPki comes first, so that a refusal that is recorded is about a certificate that is really ours.

use super::Doors;
use super::peer::{ObserverCertificate, PeerCertificate, PeerError};
use crate::domain::admission::{Door, Refusal};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use std::sync::Arc;
use std::time::Duration;

/// Must a client show a certificate?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// It may come without one; one that is refused ends the handshake all the same.
    Optional,
    /// It must.
    Required,
}

/// Why there is no verifier.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifierError {
    /// An issuing CA's certificate cannot be a trust anchor.
    #[error("an issuing CA's certificate cannot be a trust anchor")]
    Anchor(#[source] rustls::Error),
    /// The verifier cannot be built.
    #[error("the client verifier cannot be built")]
    Build(#[source] VerifierBuilderError),
}

/// Judges client certificates by signature and by live status.
#[derive(Debug)]
pub struct LiveClientVerifier {
    webpki: Arc<dyn ClientCertVerifier>,
    auth: ClientAuth,
    doors: Doors,
    observers: bool,
}

impl LiveClientVerifier {
    /// A verifier that trusts `issuers` (DER of issuing CAs, at least one) and asks `doors` for the rest.
    ///
    /// # Errors
    /// [`VerifierError::Anchor`] for a certificate that is none, [`VerifierError::Build`] for no issuer at all.
    pub fn new(
        issuers: &[CertificateDer<'_>],
        auth: ClientAuth,
        doors: Doors,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, VerifierError> {
        let mut anchors = RootCertStore::empty();
        for issuer in issuers {
            anchors.add(issuer.clone().into_owned()).map_err(VerifierError::Anchor)?;
        }
        let webpki = WebPkiClientVerifier::builder_with_provider(Arc::new(anchors), provider)
            .build()
            .map_err(VerifierError::Build)?;
        Ok(Self { webpki, auth, doors, observers: false })
    }

    /// The same, letting in observers as well as devices.
    #[must_use]
    pub fn with_observers(self) -> Self {
        Self { observers: true, ..self }
    }

    /// WebPki's answer about a certificate that ends at `not_after`, expiry set aside.
    fn prove(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        (now, not_after): (UnixTime, i64),
    ) -> Result<ClientCertVerified, rustls::Error> {
        let last = UnixTime::since_unix_epoch(Duration::from_secs(not_after.max(0).unsigned_abs()));
        self.webpki.verify_client_cert(end_entity, intermediates, now.min(last))
    }
}

impl ClientCertVerifier for LiveClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.auth == ClientAuth::Required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let certificate = match PeerCertificate::read(end_entity, &self.doors.trust_domain) {
            Ok(certificate) => certificate,
            Err(PeerError::Name) if self.observers => {
                let observer =
                    ObserverCertificate::read(end_entity, &self.doors.trust_domain).map_err(unreadable)?;
                let proved = self.prove(end_entity, intermediates, (now, observer.not_after))?;
                self.doors.judge_observer(&observer).map_err(refused)?;
                return Ok(proved);
            }
            Err(error) => return Err(unreadable(error)),
        };
        let proved = self.prove(end_entity, intermediates, (now, certificate.not_after))?;
        self.doors.judge(&certificate, Door::Handshake).map_err(refused)?;
        Ok(proved)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// Not the answer to a refusal by the table ([`refused`]): whoever showed it is a stranger.
fn unreadable(error: PeerError) -> rustls::Error {
    let error = match error {
        PeerError::Malformed => CertificateError::BadEncoding,
        PeerError::Serial | PeerError::Name => CertificateError::NotValidForName,
    };
    rustls::Error::InvalidCertificate(error)
}

/// The TLS alert tells what any third party can read in a CRL, and no more.
fn refused(refusal: Refusal) -> rustls::Error {
    rustls::Error::InvalidCertificate(match refusal {
        Refusal::Expired => CertificateError::Expired,
        Refusal::Superseded | Refusal::Revoked | Refusal::Retired | Refusal::NoOpenOrder => {
            CertificateError::Revoked
        }
        Refusal::Unknown | Refusal::MayNotRenew => CertificateError::ApplicationVerificationFailure,
    })
}
