//! Alarms to a URL: JSON by POST, signed by HMAC-SHA-256 over the time and the body.
//!
//! The name is resolved here and the connection made to the address that was looked at, so that a name which answers
//! otherwise a moment later leads nowhere. Loopback, private and link-local addresses are refused unless the settings allow
//! them. No redirect is followed, no proxy asked, and of the answer nothing but the status is read.

use super::{Place, PlaceError};
use aws_lc_rs::hmac;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use url::{Host, Url};
use zeroize::Zeroizing;

/// How long a delivery may take, name resolution included.
const DEADLINE: Duration = Duration::from_secs(10);
/// Pauses before the second and the third attempt.
const AGAIN: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(20)];
/// Fewest bytes of a secret.
const SECRET_MIN: usize = 16;

/// Where alarms are posted.
pub struct Webhook {
    url: Url,
    key: hmac::Key,
    tls: Option<TlsConnector>,
    allow_private: bool,
}

/// Why a delivery failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum DeliveryError {
    /// Every address of the name is one that must not be reached.
    #[error(
        "the webhook's address {address} is on this machine or in a private network; set alarm.allow_private if it is meant"
    )]
    Private {
        /// The first of them.
        address: IpAddr,
    },
    /// No connection, or no answer.
    #[error("the webhook cannot be reached: {0}")]
    Connection(#[from] io::Error),
    /// HTTP went wrong.
    #[error("the webhook does not speak HTTP: {0}")]
    Http(#[from] hyper::Error),
    /// An answer other than success.
    #[error("the webhook answered {status}")]
    Status {
        /// Which.
        status: StatusCode,
    },
    /// It took too long.
    #[error("the webhook did not answer in time")]
    Late,
}

impl Webhook {
    pub(super) fn open(url: &str, place: &Place) -> Result<Self, PlaceError> {
        let wrong = |expected| PlaceError::Setting { key: "alarm.webhook", expected };
        let url = Url::parse(url).map_err(|_| wrong("must be a URL"))?;
        let is_tls = match url.scheme() {
            "https" => true,
            "http" if place.allow_private => false,
            _ => return Err(wrong("must begin with https://")),
        };
        if url.host().is_none() || !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("must name a host and no user"));
        }
        let file = place.secret_file.as_ref().ok_or(PlaceError::Setting {
            key: "alarm.secret_file",
            expected: "is needed with alarm.webhook: a file with the secret that signs",
        })?;
        let unread = |source| PlaceError::File { key: "alarm.secret_file", path: file.clone(), source };
        let secret = Zeroizing::new(std::fs::read(file).map_err(|error| unread(Box::new(error)))?);
        let secret = secret.trim_ascii();
        if secret.len() < SECRET_MIN {
            return Err(PlaceError::Setting {
                key: "alarm.secret_file",
                expected: "must name a file with a secret of at least 16 bytes",
            });
        }
        let tls = is_tls.then(|| connector(place)).transpose()?;
        Ok(Self {
            url,
            key: hmac::Key::new(hmac::HMAC_SHA256, secret),
            tls,
            allow_private: place.allow_private,
        })
    }

    /// Posts `body`, raised at `at` (unix seconds); tries three times.
    pub(super) async fn send(&self, body: &str, at: i64) -> Result<(), DeliveryError> {
        let mut pauses = AGAIN.into_iter();
        loop {
            let tried = tokio::time::timeout(DEADLINE, self.post(body, at)).await;
            let failed = match tried.unwrap_or(Err(DeliveryError::Late)) {
                Ok(()) => return Ok(()),
                Err(refused @ DeliveryError::Private { .. }) => return Err(refused),
                Err(failed) => failed,
            };
            match pauses.next() {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(failed),
            }
        }
    }

    async fn post(&self, body: &str, at: i64) -> Result<(), DeliveryError> {
        let tcp = TcpStream::connect(self.address().await?).await?;
        match &self.tls {
            None => self.exchange(tcp, body, at).await,
            Some(tls) => {
                let name = self.server_name().ok_or_else(|| io::Error::other("the name is none"))?;
                self.exchange(tls.connect(name, tcp).await?, body, at).await
            }
        }
    }

    /// The first address that may be reached.
    async fn address(&self) -> Result<SocketAddr, DeliveryError> {
        let port = self.url.port_or_known_default().unwrap_or(443);
        let host = self.url.host_str().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let found: Vec<SocketAddr> = lookup_host((host, port)).await?.collect();
        let may = |address: &&SocketAddr| self.allow_private || is_public(address.ip());
        match (found.iter().find(may), found.first()) {
            (Some(address), _) => Ok(*address),
            (None, Some(private)) => Err(DeliveryError::Private { address: private.ip() }),
            (None, None) => Err(io::Error::other("the name has no address").into()),
        }
    }

    fn server_name(&self) -> Option<ServerName<'static>> {
        match self.url.host()? {
            Host::Domain(name) => ServerName::try_from(name.to_owned()).ok(),
            Host::Ipv4(address) => Some(ServerName::from(IpAddr::V4(address))),
            Host::Ipv6(address) => Some(ServerName::from(IpAddr::V6(address))),
        }
    }

    async fn exchange<S>(&self, stream: S, body: &str, at: i64) -> Result<(), DeliveryError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let request = self.request(body, at).map_err(io::Error::other)?;
        // Ends with this exchange; of the answer's body nothing is read.
        let mut connected = JoinSet::new();
        connected.spawn(connection);
        let answered = sender.send_request(request).await?;
        let status = answered.status();
        if status.is_success() { Ok(()) } else { Err(DeliveryError::Status { status }) }
    }

    fn request(&self, body: &str, at: i64) -> Result<Request<Full<Bytes>>, http::Error> {
        let path = match self.url.query() {
            Some(query) => format!("{}?{query}", self.url.path()),
            None => self.url.path().to_owned(),
        };
        let host = match (self.url.host_str(), self.url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (host, _) => host.unwrap_or_default().to_owned(),
        };
        Request::post(path)
            .header(HOST, host)
            .header(CONTENT_TYPE, "application/json")
            .header("muster-signature", self.signature(body, at))
            .body(Full::new(Bytes::from(body.to_owned())))
    }

    /// `t=<unix seconds>,v1=<HMAC-SHA-256 over "<unix seconds>.<body>", hexadecimal>`.
    fn signature(&self, body: &str, at: i64) -> String {
        let tag = hmac::sign(&self.key, format!("{at}.{body}").as_bytes());
        format!("t={at},v1={}", hex::encode(tag))
    }
}

fn connector(place: &Place) -> Result<TlsConnector, PlaceError> {
    let unusable = |source: Box<dyn std::error::Error + Send + Sync>| PlaceError::File {
        key: "alarm.ca_file",
        path: place.ca_file.clone(),
        source,
    };
    let mut roots = RootCertStore::empty();
    let found = CertificateDer::pem_file_iter(&place.ca_file).map_err(|error| unusable(Box::new(error)))?;
    for certificate in found {
        // A bundle may hold what is no trust anchor any more; the others count.
        let _ = roots.add(certificate.map_err(|error| unusable(Box::new(error)))?);
    }
    if roots.is_empty() {
        return Err(unusable("it holds no certificate".into()));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(Box::new(error)))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Whether an address is neither of this machine nor of a network that is somebody's own.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            let shared = a == 100 && (64..128).contains(&b);
            let benchmark = a == 198 && (b == 18 || b == 19);
            !(v4.is_loopback()
                || v4.is_private()
                || v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_broadcast()
                || v4.is_multicast()
                || v4.is_documentation()
                || a == 0
                || a >= 240
                || shared
                || benchmark)
        }
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => is_public(IpAddr::V4(v4)),
            None => {
                let first = v6.segments().first().copied().unwrap_or_default();
                // Global unicast is 2000::/3 (RFC 4291 §2.4); 6to4 and Teredo carry other addresses inside.
                first & 0xe000 == 0x2000
                    && first != 0x2002
                    && !(first == 0x2001 && v6.segments().get(1) == Some(&0))
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::alarm;
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    fn place(dir: &tempfile::TempDir, url: &str, allow_private: bool) -> Place {
        let secret = dir.path().join("secret");
        std::fs::write(&secret, "0123456789abcdef\n").unwrap();
        Place { webhook: Some(url.into()), secret_file: Some(secret), allow_private, ..Place::default() }
    }

    #[tokio::test]
    async fn an_alarm_is_posted_and_its_signature_is_the_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook?x=1", listener.local_addr().unwrap());
        let webhook = Webhook::open(&url, &place(&dir, &url, true)).unwrap();
        let body = alarm().body("muster.example");
        let served = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut heard = Vec::new();
            while !String::from_utf8_lossy(&heard).ends_with(&body) {
                let mut buffer = [0; 4096];
                let length = stream.read(&mut buffer).await.unwrap();
                assert!(length > 0, "{}", String::from_utf8_lossy(&heard));
                heard.extend_from_slice(&buffer[..length]);
            }
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            String::from_utf8(heard).unwrap()
        };
        let (sent, heard) = tokio::join!(webhook.send(&body, 7), served);
        sent.unwrap();
        assert!(heard.starts_with("POST /hook?x=1 HTTP/1.1\r\n"), "{heard}");
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"0123456789abcdef");
        let tag = hex::encode(hmac::sign(&key, format!("7.{body}").as_bytes()));
        assert!(heard.contains(&format!("muster-signature: t=7,v1={tag}\r\n")), "{heard}");
    }

    #[tokio::test]
    async fn a_private_address_is_not_reached_unless_it_is_meant() {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let mut webhook = Webhook::open(&url, &place(&dir, &url, true)).unwrap();
        webhook.allow_private = false;
        assert!(matches!(webhook.send("{}", 0).await, Err(DeliveryError::Private { .. })));
    }

    #[test]
    fn only_the_world_outside_is_public() {
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "2002:7f00:1::",
            "224.0.0.1",
            "ff02::1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
        for public in ["9.9.9.9", "172.32.0.1", "2620:fe::fe", "::ffff:9.9.9.9"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }

    #[test]
    fn a_webhook_without_tls_or_with_a_short_secret_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for url in ["http://alarm.example/", "ftp://a/", "https://u:p@alarm.example/", "nonsense"] {
            assert!(Webhook::open(url, &place(&dir, url, false)).is_err(), "{url}");
        }
        let short = place(&dir, "http://a/", true);
        std::fs::write(short.secret_file.as_ref().unwrap(), "short").unwrap();
        assert!(Webhook::open("http://a/", &short).is_err());
    }
}
