//! Connections: whom the client believes, how long it waits, and what a failed attempt comes down to.

use super::error::Error;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use muster_pki::chain::{PinnedServerVerifier, Trust};
use muster_wire::digest::Sha256Digest;
use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// How long a connection may take to come about.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// How long one request may take, reply included.
pub(super) const REQUEST_DEADLINE: Duration = Duration::from_secs(60);

/// Largest reply that is read, in bytes.
pub(super) const MAX_REPLY: usize = 64 * 1024 * 1024;

/// GET of a plain HTTP address without any credential: status and body.
///
/// # Errors
/// [`Error::Unreachable`] when no answer comes.
pub async fn get_plain(url: &Url) -> Result<(u16, Bytes), Error> {
    let unreachable = |source| Error::Unreachable { server: url.origin().ascii_serialization(), source };
    let http: HttpClient<_, Full<Bytes>> = HttpClient::builder(TokioExecutor::new()).build(connector());
    let uri = url.as_str().parse().map_err(|cause| unreachable(Box::new(cause)))?;
    let whole = async {
        let response = http.get(uri).await.map_err(|cause| match innermost(&cause) {
            Cause::Other(text) => Box::<dyn StdError + Send + Sync>::from(text),
            Cause::Certificate(cause) | Cause::Time(cause) => cause.into(),
        })?;
        let status = response.status().as_u16();
        Ok((status, Limited::new(response.into_body(), MAX_REPLY).collect().await?.to_bytes()))
    };
    match tokio::time::timeout(REQUEST_DEADLINE, whole).await {
        Ok(answer) => answer.map_err(unreachable),
        Err(elapsed) => Err(unreachable(Box::new(elapsed))),
    }
}

/// TCP, with a deadline for the connection.
pub(super) fn connector() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_DEADLINE));
    tcp
}

/// TLS 1.3 to a server whose chain leads to the root with the pinned key, and to no other.
pub(super) fn tls_config(root: Sha256Digest) -> Result<rustls::ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = PinnedServerVerifier::new(Trust::pinned(root.0, Arc::clone(&provider)));
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|cause| Error::failed(format!("TLS cannot be set up: {cause}"), "Report this."))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(config)
}

/// What a failed connection comes down to.
pub(super) enum Cause {
    /// The certificate was judged and refused.
    Certificate(rustls::Error),
    /// The certificate was refused for the time alone.
    Time(rustls::Error),
    /// Anything else, in words.
    Other(String),
}

/// Looks through the layers of hyper and the system for the cause that a person understands.
pub(super) fn innermost(error: &(dyn StdError + 'static)) -> Cause {
    let mut text = error.to_string();
    let mut next = Some(error);
    while let Some(layer) = next {
        if let Some(tls) = tls_error(layer) {
            return of_tls(tls);
        }
        text = layer.to_string();
        next = layer.source();
    }
    Cause::Other(text)
}

fn of_tls(error: &rustls::Error) -> Cause {
    use rustls::CertificateError as Flaw;
    let timely = |flaw: &Flaw| {
        let early = matches!(flaw, Flaw::NotValidYet | Flaw::NotValidYetContext { .. });
        !early && !matches!(flaw, Flaw::Expired | Flaw::ExpiredContext { .. })
    };
    if let rustls::Error::InvalidCertificate(flaw) = error {
        return if timely(flaw) { Cause::Certificate(error.clone()) } else { Cause::Time(error.clone()) };
    }
    Cause::Other(error.to_string())
}

/// The TLS error in this layer. An I/O error hides what it wraps from `source`, and may wrap another one.
fn tls_error<'a>(layer: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let wrapped = || layer.downcast_ref::<std::io::Error>()?.get_ref();
    layer.downcast_ref().or_else(|| tls_error(wrapped()?))
}
