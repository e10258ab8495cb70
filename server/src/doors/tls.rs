//! TLS as every listener speaks it.
//!
//! The provider is passed explicitly, TLS is 1.3 unless EST clients of old need 1.2, and nothing is ever
//! resumed: no session cache, no tickets, no early data. A resumed handshake would not ask the client verifier
//! again, and a revoked device would keep its way in.
//!
//! TLS 1.2, where it is on, means ECDHE with AEAD: rustls implements neither CBC nor RSA key exchange.

use super::verifier::LiveClientVerifier;
use crate::clock::Clock;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, ServerConfig, SupportedProtocolVersion};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// Why a listener has no TLS configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The server's private key cannot be used, or does not belong to its certificate.
    #[error("the server's key and certificate do not fit each other")]
    Identity(#[source] rustls::Error),
    /// The provider and the protocol versions have no cipher suite in common.
    #[error("no cipher suite fits the protocol versions")]
    Versions(#[source] rustls::Error),
}

/// The provider of every listener: aws-lc-rs, its sound suites, and X25519MLKEM768 for who offers it.
///
/// AES-128-GCM with SHA-256 comes first, and the listeners choose by this order: the key schedule of a handshake is
/// some hundred compressions, for which processors have instructions in SHA-256 and seldom in SHA-384.
pub fn provider() -> Arc<CryptoProvider> {
    let kx_groups = vec![
        aws_lc_rs::kx_group::X25519MLKEM768,
        aws_lc_rs::kx_group::X25519,
        aws_lc_rs::kx_group::SECP256R1,
        aws_lc_rs::kx_group::SECP384R1,
    ];
    let mut provider = CryptoProvider { kx_groups, ..aws_lc_rs::default_provider() };
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

/// The server's own chain and key. It can be exchanged while listeners use it: the next handshake shows the
/// new one. Cheap to clone; clones share the exchange.
#[derive(Clone, Debug)]
pub struct ServerIdentity {
    shown: Arc<RwLock<Arc<CertifiedKey>>>,
    provider: Arc<CryptoProvider>,
}

impl ServerIdentity {
    /// Shows `chain`, leaf first, with or without the root, exactly as given.
    ///
    /// # Errors
    /// [`TlsError::Identity`] when the key cannot sign or is not the leaf's.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, TlsError> {
        let certified = certify(chain, key, &provider)?;
        Ok(Self { shown: Arc::new(RwLock::new(certified)), provider })
    }

    /// Shows another chain from the next handshake on. On an error the former stays.
    ///
    /// # Errors
    /// [`TlsError::Identity`] as in [`ServerIdentity::new`].
    pub fn replace(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<(), TlsError> {
        let certified = certify(chain, key, &self.provider)?;
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = certified;
        Ok(())
    }
}

fn certify(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, TlsError> {
    CertifiedKey::from_der(chain, key, provider).map(Arc::new).map_err(TlsError::Identity)
}

impl ResolvesServerCert for ServerIdentity {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.shown.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// Whether the device listener also speaks TLS 1.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versions {
    /// TLS 1.3 only.
    Tls13,
    /// TLS 1.3, and 1.2 for EST clients that know nothing newer.
    Tls12And13,
}

/// Server certificate, provider and clock: what every listener's configuration is made of.
#[derive(Clone, Debug)]
pub struct TlsSource {
    /// The server's own certificate.
    pub identity: ServerIdentity,
    /// The provider.
    pub provider: Arc<CryptoProvider>,
    /// The present, by which certificates are judged.
    pub clock: Clock,
}

impl TlsSource {
    /// The device listener: HTTPS; `verifier` asks for a client certificate and takes none as an answer. Give
    /// it an identity whose chain ends with the root, by which enrolling devices pin it.
    ///
    /// # Errors
    /// [`TlsError::Versions`].
    pub fn device(
        &self,
        verifier: Arc<LiveClientVerifier>,
        versions: Versions,
    ) -> Result<Arc<ServerConfig>, TlsError> {
        let versions: &[&'static SupportedProtocolVersion] = match versions {
            Versions::Tls13 => &[&TLS13],
            Versions::Tls12And13 => &[&TLS13, &TLS12],
        };
        self.config(Some(verifier), versions, HTTP)
    }

    /// The MQTT listener: mutual TLS 1.3.
    ///
    /// # Errors
    /// [`TlsError::Versions`].
    pub fn mqtt(&self, verifier: Arc<LiveClientVerifier>) -> Result<Arc<ServerConfig>, TlsError> {
        self.config(Some(verifier), &[&TLS13], &[])
    }

    /// The admin listener: HTTPS, TLS 1.3; client certificates are not even asked for.
    ///
    /// # Errors
    /// [`TlsError::Versions`].
    pub fn admin(&self) -> Result<Arc<ServerConfig>, TlsError> {
        self.config(None, &[&TLS13], HTTP)
    }

    fn config(
        &self,
        verifier: Option<Arc<LiveClientVerifier>>,
        versions: &[&'static SupportedProtocolVersion],
        alpn: &[&[u8]],
    ) -> Result<Arc<ServerConfig>, TlsError> {
        let time = Arc::new(RustlsClock(self.clock.clone()));
        let builder = ServerConfig::builder_with_details(Arc::clone(&self.provider), time)
            .with_protocol_versions(versions)
            .map_err(TlsError::Versions)?;
        let builder = match verifier {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(self.identity.clone()));
        config.ignore_client_order = true;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Arc::new(config))
    }
}

const HTTP: &[&[u8]] = &[b"http/1.1"];

#[derive(Debug)]
struct RustlsClock(Clock);

impl TimeProvider for RustlsClock {
    fn current_time(&self) -> Option<UnixTime> {
        let since = u64::try_from(self.0.now_ms()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_millis(since)))
    }
}
