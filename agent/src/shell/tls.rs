//! TLS to the pinned server: version 1.3 only, no resumption, the device's own idea of the time.
//!
//! The chain is verified by [`muster_pki::chain::PinnedServerVerifier`]; here its verdicts, and those of the server
//! on our certificate, are sorted by what the person at the device has to do about them.

use std::error::Error;
use std::io;
use std::sync::Arc;

use muster_pki::certificate::Certificate;
use muster_pki::chain::{PinnedServerVerifier, Trust};
use muster_wire::time::Timestamp;
use rustls::client::Resumption;
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, ClientConfig};
use rustls_pki_types::{ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::http::Server;
use super::keystore::Keystore;
use crate::clock::Clock;
use crate::core::{Caller, Trouble, TroubleKind, provider};

/// The agent's clock as rustls asks for it.
#[derive(Debug)]
struct DeviceTime(Clock);

impl TimeProvider for DeviceTime {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now_s()).ok()?;
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)))
    }
}

/// Shakes hands with `server` over `stream`, showing the certificate of `caller`.
///
/// # Errors
/// [`Trouble`] of the kinds `Pin`, `Name`, `Clock`, `Rejected`, `Tls`, `Closed` and, when the identity cannot be
/// read, `Local`.
pub async fn handshake(
    server: &Server,
    caller: Caller,
    keys: &Keystore,
    clock: &Clock,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, Trouble> {
    let config = config(server, caller, keys, clock)?;
    let name = ServerName::try_from(server.host.clone())
        .map_err(|error| server.trouble(TroubleKind::Local, error))?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|error| {
        let mut trouble = judge(server, caller, &error);
        if trouble.kind == TroubleKind::Clock {
            trouble.detail.push_str(&format!(", and here it is {}", clock.now()));
        }
        trouble
    })
}

/// The last second of the certificate that the server has shown.
pub fn good_until(stream: &TlsStream<TcpStream>) -> Option<Timestamp> {
    let (_, connection) = stream.get_ref();
    let leaf = connection.peer_certificates()?.first()?;
    Some(Timestamp(Certificate::parse(leaf).ok()?.not_after_s()))
}

/// How to shake hands with `server`, showing the certificate of `caller`.
///
/// # Errors
/// [`TroubleKind::Local`] when the identity cannot be read.
pub fn config(
    server: &Server,
    caller: Caller,
    keys: &Keystore,
    clock: &Clock,
) -> Result<ClientConfig, Trouble> {
    let local = |error: &dyn Error| server.trouble(TroubleKind::Local, error);
    let trust = Trust::pinned(*server.root_spki.as_bytes(), provider());
    let builder = ClientConfig::builder_with_details(provider(), Arc::new(DeviceTime(clock.clone())))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| local(&error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier(trust, clock));
    let mut config = match keys.identity(caller).map_err(|error| local(&error))? {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|error| local(&error))?,
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// A device without a calendar would else be shut out by each certificate that its server got after its own.
fn verifier(trust: Trust, clock: &Clock) -> Arc<PinnedServerVerifier> {
    if !clock.has_no_calendar() {
        return PinnedServerVerifier::new(trust);
    }
    PinnedServerVerifier::without_calendar(trust)
}

/// The TLS verdict underneath an error of the layer above, if there is one.
pub fn judge_below(server: &Server, caller: Caller, error: &(dyn Error + 'static)) -> Option<Trouble> {
    let mut cause = Some(error);
    while let Some(current) = cause {
        if let Some(io) = current.downcast_ref::<io::Error>() {
            return Some(judge(server, caller, io));
        }
        cause = current.source();
    }
    None
}

fn judge(server: &Server, caller: Caller, error: &io::Error) -> Trouble {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(tls) => server.trouble(kind(caller, tls), tls),
        None if error.kind() == io::ErrorKind::TimedOut => server.trouble(TroubleKind::Timeout, error),
        None => server.trouble(TroubleKind::Closed, error),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "rustls' errors are open")]
fn kind(caller: Caller, error: &rustls::Error) -> TroubleKind {
    match error {
        rustls::Error::InvalidCertificate(verdict) => match verdict {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => TroubleKind::Clock,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                TroubleKind::Name
            }
            _ => TroubleKind::Pin,
        },
        rustls::Error::AlertReceived(_) if caller != Caller::Anonymous => TroubleKind::Rejected,
        _ => TroubleKind::Tls,
    }
}
