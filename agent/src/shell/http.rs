//! Asking the server: HTTP/1.1 over TLS 1.3 to one pinned place.
//!
//! Every wait has a deadline and every answer a cap. Nothing is resumed: each connection shows its certificate and
//! is judged anew. Requests by the same caller share a connection, so that token and request travel over the one
//! whose root was checked. A connection that died while it lay idle is replaced once: every request may be repeated.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use muster_pki::armor;
use muster_wire::digest::Sha256Digest;
use muster_wire::time::Timestamp;
use time::PrimitiveDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::keystore::Keystore;
use super::tls;
use crate::clock::Clock;
use crate::core::record::place;
use crate::core::{Answer, Caller, Request, Trouble, TroubleKind};

/// For a name to be resolved, and for one address to take a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// For the TLS handshake.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(10);
/// For a request to be sent and its answer to be there, body included.
const EXCHANGE: Duration = Duration::from_secs(30);
/// No answer of a Muster server to a device is larger.
const BODY_CAP: usize = 256 * 1024;
/// Except a baseline, with its signatures.
const BASELINE_CAP: usize = 1024 * 1024 + 16 * 1024;
/// Nor is the head of one.
const HEAD_CAP: usize = 16 * 1024;
const HEADERS: usize = 64;

/// The one server of this device.
#[derive(Clone, Debug)]
pub struct Server {
    /// A name, or an address without brackets.
    pub host: String,
    /// Port of the device listener.
    pub port: u16,
    /// SHA-256 of the root's SubjectPublicKeyInfo.
    pub root_spki: Sha256Digest,
}

impl Server {
    /// `host:port`.
    pub fn place(&self) -> String {
        place(&self.host, self.port)
    }

    /// Trouble with this server.
    pub fn trouble(&self, kind: TroubleKind, detail: impl std::fmt::Display) -> Trouble {
        Trouble { kind, server: self.place(), detail: detail.to_string() }
    }

    /// The addresses behind the name.
    ///
    /// # Errors
    /// [`TroubleKind::Resolve`] when there are none, [`TroubleKind::Timeout`] when the resolver is silent.
    pub async fn resolve(&self) -> Result<Vec<SocketAddr>, Trouble> {
        let looked_up = timeout(CONNECT, tokio::net::lookup_host((self.host.as_str(), self.port))).await;
        let addresses: Vec<SocketAddr> = looked_up
            .map_err(|_| self.trouble(TroubleKind::Timeout, "the name was not resolved within 10 seconds"))?
            .map_err(|error| self.trouble(TroubleKind::Resolve, error))?
            .collect();
        if addresses.is_empty() {
            return Err(self.trouble(TroubleKind::Resolve, "it has no address"));
        }
        Ok(addresses)
    }

    /// A TCP connection to the first of `addresses` that takes one.
    ///
    /// # Errors
    /// [`TroubleKind::Connect`] or [`TroubleKind::Timeout`], of the last address tried.
    pub async fn connect(&self, addresses: &[SocketAddr]) -> Result<TcpStream, Trouble> {
        let mut last = self.trouble(TroubleKind::Connect, "it has no address");
        for address in addresses {
            match timeout(CONNECT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // Without it each small message of the handshake waits for an acknowledgement.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(error)) => last = self.trouble(TroubleKind::Connect, format!("{address}: {error}")),
                Err(_) => last = self.trouble(TroubleKind::Timeout, format!("{address}: 10 seconds passed")),
            }
        }
        Err(last)
    }
}

/// Asks the one server, keeping a connection per caller for as long as that caller is the last who asked.
#[derive(Debug)]
pub struct Client {
    server: Server,
    clock: Clock,
    open: Option<Connection>,
}

/// A connection on which `caller` has shown its certificate.
#[derive(Debug)]
struct Connection {
    caller: Caller,
    sender: SendRequest<Full<Bytes>>,
    /// The last second of the server's certificate.
    good_until: Option<Timestamp>,
}

impl Client {
    /// A client of `server` that judges certificates by `clock`. Opens nothing yet.
    pub fn new(server: Server, clock: Clock) -> Self {
        Self { server, clock, open: None }
    }

    /// Lets go of the connection that is kept, if any.
    pub fn hang_up(&mut self) {
        self.open = None;
    }

    /// Asks, and reads the answer to its end.
    ///
    /// # Errors
    /// [`Trouble`] when there is no whole HTTP answer within deadlines and caps.
    pub async fn ask(&mut self, request: &Request, keys: &Keystore) -> Result<Answer, Trouble> {
        let caller = caller_of(request);
        let kept = self.open.take().filter(|kept| kept.caller == caller && !kept.sender.is_closed());
        if let Some(kept) = kept {
            match self.exchange(kept, request).await {
                Err(trouble) if trouble.kind == TroubleKind::Closed => {}
                settled => return settled,
            }
        }
        let opened = self.open(caller, keys).await?;
        self.exchange(opened, request).await
    }

    /// A new connection on which `caller` has shown its certificate.
    async fn open(&self, caller: Caller, keys: &Keystore) -> Result<Connection, Trouble> {
        let addresses = self.server.resolve().await?;
        let stream = self.server.connect(&addresses).await?;
        let stream = timeout(HANDSHAKE, tls::handshake(&self.server, caller, keys, &self.clock, stream))
            .await
            .map_err(|_| {
                self.server.trouble(TroubleKind::Timeout, "the TLS handshake took over 10 seconds")
            })??;
        let good_until = tls::good_until(&stream);
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_CAP)
            .max_headers(HEADERS)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.judge(caller, &error))?;
        // Its errors come back through the sender.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Connection { caller, sender, good_until })
    }

    async fn exchange(&mut self, mut open: Connection, request: &Request) -> Result<Answer, Trouble> {
        let message = self.message(request)?;
        let caller = open.caller;
        let exchange = async {
            let response =
                open.sender.send_request(message).await.map_err(|error| self.judge(caller, &error))?;
            self.read(caller, cap_of(request), response).await
        };
        let answer = timeout(EXCHANGE, exchange)
            .await
            .map_err(|_| self.server.trouble(TroubleKind::Timeout, "the answer took over 30 seconds"))??;
        if let Some(date) = answer.date.filter(|date| Some(*date) <= open.good_until) {
            // Beyond its certificate's end a server has no say: a key that was stolen long ago sets no clock.
            self.clock.heard(date);
        }
        self.open = Some(open);
        Ok(answer)
    }

    fn message(&self, request: &Request) -> Result<http::Request<Full<Bytes>>, Trouble> {
        let (method, path, body, bearer) = match request {
            Request::Discovery(_) => (Method::GET, "/.well-known/muster", None, None),
            Request::CaCerts(_) => (Method::GET, "/.well-known/est/cacerts", None, None),
            Request::SimpleEnroll { bearer, csr } => {
                (Method::POST, "/.well-known/est/simpleenroll", Some(csr), Some(bearer))
            }
            Request::SimpleReenroll { csr } => {
                (Method::POST, "/.well-known/est/simplereenroll", Some(csr), None)
            }
            Request::Baseline(digest) => {
                let path = format!("/.well-known/muster/baselines/{}", digest.to_hex());
                return self.plain_get(&path);
            }
            Request::RenewInSession { .. } | Request::Session(_) => {
                return Err(self
                    .server
                    .trouble(TroubleKind::Local, "that is asked over a session, not over HTTP"));
            }
        };
        let mut message =
            http::Request::builder().method(method).uri(path).header(header::HOST, self.server.place());
        if let Some(bearer) = bearer {
            let mut value = HeaderValue::try_from(format!("Bearer {}", bearer.as_str()))
                .map_err(|error| self.server.trouble(TroubleKind::Local, error))?;
            value.set_sensitive(true);
            message = message.header(header::AUTHORIZATION, value);
        }
        if body.is_some() {
            message = message
                .header(header::CONTENT_TYPE, "application/pkcs10")
                .header("content-transfer-encoding", "base64");
        }
        let body = body.map(|csr| armor::base64(csr)).unwrap_or_default();
        message.body(Full::from(body)).map_err(|error| self.server.trouble(TroubleKind::Local, error))
    }

    fn plain_get(&self, path: &str) -> Result<http::Request<Full<Bytes>>, Trouble> {
        let message = http::Request::get(path).header(header::HOST, self.server.place());
        message.body(Full::default()).map_err(|error| self.server.trouble(TroubleKind::Local, error))
    }

    async fn read(
        &self,
        caller: Caller,
        cap: usize,
        response: http::Response<Incoming>,
    ) -> Result<Answer, Trouble> {
        let (head, body) = response.into_parts();
        let body = Limited::new(body, cap).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                self.server.trouble(TroubleKind::TooLarge, format!("more than {cap} bytes"))
            } else {
                match error.downcast_ref::<hyper::Error>() {
                    Some(error) => self.judge(caller, error),
                    None => self.server.trouble(TroubleKind::Protocol, error),
                }
            }
        })?;
        Ok(Answer {
            status: head.status.as_u16(),
            retry_after_s: retry_after_s(&head.headers),
            date: date(&head.headers),
            body: body.to_bytes().to_vec(),
        })
    }

    /// Whose fault an HTTP error is. A TLS error hides in it when the server judged our certificate.
    fn judge(&self, caller: Caller, error: &hyper::Error) -> Trouble {
        if let Some(trouble) = tls::judge_below(&self.server, caller, error) {
            return trouble;
        }
        let kind = if error.is_parse() || error.is_user() {
            TroubleKind::Protocol
        } else if error.is_timeout() {
            TroubleKind::Timeout
        } else {
            TroubleKind::Closed
        };
        self.server.trouble(kind, error)
    }
}

fn cap_of(request: &Request) -> usize {
    if matches!(request, Request::Baseline(_)) { BASELINE_CAP } else { BODY_CAP }
}

fn caller_of(request: &Request) -> Caller {
    match request {
        Request::Discovery(caller) | Request::CaCerts(caller) | Request::Session(caller) => *caller,
        Request::SimpleEnroll { .. } => Caller::Anonymous,
        Request::Baseline(_) | Request::SimpleReenroll { .. } | Request::RenewInSession { .. } => {
            Caller::Current
        }
    }
}

/// Retry-After in seconds; its other form, a date, is not used by our server and counts as absent.
fn retry_after_s(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()
}

/// Date in the one form that a server may send (RFC 9110 §5.6.7): `Sun, 06 Nov 1994 08:49:37 GMT`.
fn date(headers: &HeaderMap) -> Option<Timestamp> {
    const IMF_FIXDATE: &[BorrowedFormatItem<'_>] = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let text = headers.get(header::DATE)?.to_str().ok()?;
    let instant = PrimitiveDateTime::parse(text, IMF_FIXDATE).ok()?;
    Some(Timestamp(instant.assume_utc().unix_timestamp()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_clock_is_read_and_nonsense_is_no_clock() {
        let read = |text: &str| date(&[(header::DATE, text.parse().unwrap())].into_iter().collect());
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Timestamp(784_111_777)));
        for nonsense in ["", "now", "Sun, 06 Nov 1994 08:49:37 CET", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(read(nonsense), None, "{nonsense}");
        }
        assert_eq!(date(&HeaderMap::new()), None);
    }
}
