//! The REST client behind every command that needs a server.
//!
//! It trusts one root, the one whose key's digest stands in the credential, and no certificate store of the
//! machine. Every wait has a deadline and every body a limit. Each POST carries an `Idempotency-Key`; when the
//! reply is lost, the same request with the same key is sent once more, so that nothing happens twice.

use super::connection::{Cause, MAX_REPLY, REQUEST_DEADLINE, connector, innermost, tls_config};
use super::credential::Access;
use super::error::Error;
use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, ETAG, HeaderName, HeaderValue, IF_MATCH, RETRY_AFTER,
};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use muster_wire::problem::Problem;
use serde_json::Value;
use std::error::Error as StdError;
use std::future::Future;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use url::Url;

/// Items asked for at a time when a listing is followed to its end.
const PAGE: usize = 500;

/// A connection to one server as one operator. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    http: HttpClient<HttpsConnector<HttpConnector>, Full<Bytes>>,
    server: Url,
    authorization: HeaderValue,
}

/// What came back.
#[derive(Debug)]
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

/// An answer that goes on.
#[derive(Debug)]
pub struct Listening(hyper::body::Incoming);

impl Listening {
    /// Waits until the server says something; no when it has ended, or has been silent for so long that it must have.
    pub async fn hears(&mut self) -> bool {
        let frame = tokio::time::timeout(REQUEST_DEADLINE, self.0.frame()).await;
        matches!(frame, Ok(Some(Ok(_))))
    }
}

/// Why no reply came.
#[derive(Debug, thiserror::Error)]
enum Lost {
    /// The request never reached a server.
    #[error("no connection")]
    NotSent(#[source] Box<dyn StdError + Send + Sync>),
    /// The request may have been carried out.
    #[error("no reply")]
    NoReply(#[source] Box<dyn StdError + Send + Sync>),
    /// The reply exceeds what is read.
    #[error("the reply is larger than {MAX_REPLY} bytes")]
    TooLarge,
}

impl Client {
    /// A client of the server that `access` names; nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Failed`] when the secret cannot stand in a header or TLS cannot be set up.
    pub fn new(access: &Access) -> Result<Self, Error> {
        let mut authorization =
            HeaderValue::from_str(&format!("Bearer {}", access.token.reveal())).map_err(|_| {
                Error::failed("The credential's token is damaged", "Use the file as it was written.")
            })?;
        authorization.set_sensitive(true);
        let mut tcp = connector();
        tcp.enforce_http(false);
        let tls = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls_config(access.root_spki_sha256)?)
            .https_only()
            .enable_http1()
            .wrap_connector(tcp);
        let http = HttpClient::builder(TokioExecutor::new()).build(tls);
        Ok(Self { http, server: access.server.clone(), authorization })
    }

    /// The address this client talks to.
    pub fn server(&self) -> &Url {
        &self.server
    }

    /// GET of the path made of `segments`, with `query`.
    ///
    /// # Errors
    /// Whatever the server refuses ([`Error::Problem`]) or the way there does not allow.
    pub async fn get(&self, segments: &[&str], query: &[(&str, &str)]) -> Result<Value, Error> {
        let reply = self.exchange(Method::GET, self.url(segments, query)?, None).await?;
        self.json(&reply)
    }

    /// GET of an answer that goes on: server-sent events.
    ///
    /// # Errors
    /// As for [`Client::get`].
    pub async fn listen(&self, segments: &[&str], query: &[(&str, &str)]) -> Result<Listening, Error> {
        let request = self.request(Method::GET, &self.url(segments, query)?, None)?;
        let answered = tokio::time::timeout(REQUEST_DEADLINE, self.http.request(request)).await;
        let response = match answered {
            Ok(Ok(response)) => response,
            Ok(Err(cause)) => return Err(self.explain(Lost::NotSent(Box::new(cause)))),
            Err(elapsed) => return Err(self.explain(Lost::NoReply(Box::new(elapsed)))),
        };
        let (head, body) = response.into_parts();
        if head.status.is_success() {
            return Ok(Listening(body));
        }
        let body = Limited::new(body, MAX_REPLY).collect().await;
        let body = body.map_err(|cause| self.explain(Lost::NoReply(cause)))?.to_bytes();
        Err(self.refusal(&Reply { status: head.status, headers: head.headers, body }))
    }

    /// GET of a path, with the server's clock as the reply tells it, in seconds since 1970.
    ///
    /// # Errors
    /// As for [`Client::get`].
    pub async fn get_dated(&self, segments: &[&str]) -> Result<(Value, Option<i64>), Error> {
        let reply = self.exchange(Method::GET, self.url(segments, &[])?, None).await?;
        let date = reply.headers.get(DATE).and_then(|value| value.to_str().ok());
        let at = date.and_then(|text| OffsetDateTime::parse(text, &Rfc2822).ok());
        Ok((self.json(&reply)?, at.map(OffsetDateTime::unix_timestamp)))
    }

    /// GET of a path, with the version that the reply names, as `If-Match` takes it.
    ///
    /// # Errors
    /// As for [`Client::get`].
    pub async fn get_versioned(&self, segments: &[&str]) -> Result<(Value, Option<HeaderValue>), Error> {
        let reply = self.exchange(Method::GET, self.url(segments, &[])?, None).await?;
        Ok((self.json(&reply)?, reply.headers.get(ETAG).cloned()))
    }

    /// POST of `body`, to be done only while `version` is the present one.
    ///
    /// # Errors
    /// As for [`Client::get`].
    pub async fn post_over(
        &self,
        segments: &[&str],
        body: &Value,
        version: Option<HeaderValue>,
    ) -> Result<Value, Error> {
        self.post_if(segments, body, version.map(|version| (IF_MATCH, version))).await
    }

    /// POST of `body`, to be done only under a condition (RFC 9110 §13.1).
    ///
    /// # Errors
    /// As for [`Client::get`].
    pub async fn post_if(
        &self,
        segments: &[&str],
        body: &Value,
        condition: Option<(HeaderName, HeaderValue)>,
    ) -> Result<Value, Error> {
        let mut request = self.request(Method::POST, &self.url(segments, &[])?, Some(body))?;
        request.headers_mut().extend(condition);
        self.json(&self.send(request).await?)
    }

    /// GET of bytes rather than of JSON.
    ///
    /// # Errors
    /// As for [`Client::get`].
    pub async fn get_bytes(&self, segments: &[&str]) -> Result<Bytes, Error> {
        Ok(self.exchange(Method::GET, self.url(segments, &[])?, None).await?.body)
    }

    /// POST of `body` to the path made of `segments`.
    ///
    /// # Errors
    /// As for [`Client::get`].
    pub async fn post(&self, segments: &[&str], body: &Value) -> Result<Value, Error> {
        let reply = self.exchange(Method::POST, self.url(segments, &[])?, Some(body)).await?;
        self.json(&reply)
    }

    /// POST without a body: an act that needs no particulars.
    ///
    /// # Errors
    /// As for [`Client::get`].
    pub async fn act(&self, segments: &[&str]) -> Result<Value, Error> {
        let reply = self.exchange(Method::POST, self.url(segments, &[])?, None).await?;
        self.json(&reply)
    }

    /// The items of a listing: `limit` of them, or all, however many pages that takes.
    ///
    /// # Errors
    /// As for [`Client::get`].
    pub async fn list(
        &self,
        segments: &[&str],
        query: &[(&str, &str)],
        limit: Option<usize>,
    ) -> Result<Vec<Value>, Error> {
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let wanted =
                limit.map_or(PAGE, |limit| limit.saturating_sub(items.len()).clamp(100, PAGE)).to_string();
            let mut page_query = query.to_vec();
            page_query.push(("limit", &wanted));
            if let Some(cursor) = &cursor {
                page_query.push(("cursor", cursor));
            }
            let mut page = self.get(segments, &page_query).await?;
            if let Some(Value::Array(more)) = page.get_mut("items").map(Value::take) {
                items.extend(more);
            }
            let next = page.get("next").and_then(Value::as_str).map(str::to_owned);
            // A cursor that does not move would be followed for ever.
            if next.is_none() || next == cursor || limit.is_some_and(|limit| items.len() >= limit) {
                items.truncate(limit.unwrap_or(usize::MAX));
                return Ok(items);
            }
            cursor = next;
        }
    }

    fn url(&self, segments: &[&str], query: &[(&str, &str)]) -> Result<Url, Error> {
        let mut url = self.server.clone();
        url.set_query(None);
        match url.path_segments_mut() {
            Ok(mut path) => path.clear().extend(segments),
            Err(()) => {
                return Err(Error::usage(
                    format!("{} is no address", self.server),
                    "Write https://host:port.",
                ));
            }
        };
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }

    async fn exchange(&self, method: Method, url: Url, body: Option<&Value>) -> Result<Reply, Error> {
        self.send(self.request(method, &url, body)?).await
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Reply, Error> {
        let reply =
            once_more_if_lost(|| self.attempt(request.clone())).await.map_err(|lost| self.explain(lost))?;
        if reply.status.is_success() { Ok(reply) } else { Err(self.refusal(&reply)) }
    }

    fn request(
        &self,
        method: Method,
        url: &Url,
        body: Option<&Value>,
    ) -> Result<Request<Full<Bytes>>, Error> {
        let is_post = method == Method::POST;
        let mut builder = Request::builder()
            .method(method)
            .uri(url.as_str())
            .header(AUTHORIZATION, self.authorization.clone())
            .header(ACCEPT, "application/json, application/problem+json, application/octet-stream");
        if is_post {
            builder = builder.header("idempotency-key", random_key()?);
        }
        let bytes = match body {
            Some(body) => {
                builder = builder.header(CONTENT_TYPE, "application/json");
                Bytes::from(body.to_string())
            }
            None => Bytes::new(),
        };
        builder.body(Full::new(bytes)).map_err(|cause| {
            Error::usage(format!("{url} cannot be asked for: {cause}"), "Check the name or id.")
        })
    }

    async fn attempt(&self, request: Request<Full<Bytes>>) -> Result<Reply, Lost> {
        let whole = async {
            let response = self.http.request(request).await.map_err(|cause| {
                if cause.is_connect() {
                    Lost::NotSent(Box::new(cause))
                } else {
                    Lost::NoReply(Box::new(cause))
                }
            })?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MAX_REPLY).collect().await.map_err(|cause| {
                if cause.is::<http_body_util::LengthLimitError>() {
                    Lost::TooLarge
                } else {
                    Lost::NoReply(cause)
                }
            })?;
            Ok(Reply { status: head.status, headers: head.headers, body: body.to_bytes() })
        };
        match tokio::time::timeout(REQUEST_DEADLINE, whole).await {
            Ok(result) => result,
            Err(elapsed) => Err(Lost::NoReply(Box::new(elapsed))),
        }
    }

    fn explain(&self, lost: Lost) -> Error {
        let server = self.server.origin().ascii_serialization();
        match lost {
            Lost::TooLarge => {
                Error::Answer { server, status: 200, what: format!("more than {MAX_REPLY} bytes") }
            }
            Lost::NotSent(source) | Lost::NoReply(source) => match innermost(source.as_ref()) {
                Cause::Certificate(cause) => Error::WrongServer { server, source: Box::new(cause) },
                Cause::Time(cause) => Error::WrongTime { server, source: Box::new(cause) },
                Cause::Other(text) => Error::Unreachable { server, source: text.into() },
            },
        }
    }

    fn refusal(&self, reply: &Reply) -> Error {
        let retry_after_s = reply
            .headers
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.parse().ok());
        match serde_json::from_slice::<Problem>(&reply.body) {
            Ok(problem) => Error::Problem { problem: Box::new(problem), retry_after_s },
            Err(_) => self.not_understood(reply, "a body that is no problem document"),
        }
    }

    fn json(&self, reply: &Reply) -> Result<Value, Error> {
        if reply.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&reply.body).map_err(|_| self.not_understood(reply, "a body that is not JSON"))
    }

    fn not_understood(&self, reply: &Reply, what: &str) -> Error {
        Error::Answer {
            server: self.server.origin().ascii_serialization(),
            status: reply.status.as_u16(),
            what: what.to_owned(),
        }
    }
}

/// Runs `attempt`, and once more when it was sent and no reply came.
async fn once_more_if_lost<T, F, R>(mut attempt: F) -> Result<T, Lost>
where
    F: FnMut() -> R,
    R: Future<Output = Result<T, Lost>>,
{
    match attempt().await {
        Err(Lost::NoReply(_)) => attempt().await,
        other => other,
    }
}

fn random_key() -> Result<String, Error> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|cause| {
        Error::failed(format!("The system gives no random bytes: {cause}"), "Run it again.")
    })?;
    Ok(uuid::Builder::from_random_bytes(random).into_uuid().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn lost() -> Box<dyn StdError + Send + Sync> {
        Box::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset))
    }

    fn client() -> Client {
        let access = Access {
            server: "https://127.0.0.1:9443/console?x=1".parse().unwrap(),
            root_spki_sha256: muster_wire::digest::Sha256Digest([7; 32]),
            token: String::from("musterop_canary").into(),
        };
        Client::new(&access).unwrap()
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn a_lost_reply_is_asked_for_once_more() {
        let attempts = Cell::new(0);
        let outcome: Result<u8, Lost> = run(once_more_if_lost(|| {
            attempts.set(attempts.get() + 1);
            let answer = if attempts.get() == 1 { Err(Lost::NoReply(lost())) } else { Ok(7) };
            async move { answer }
        }));
        assert_eq!((outcome.unwrap(), attempts.get()), (7, 2));
    }

    #[test]
    fn what_was_never_sent_is_not_sent_again() {
        let attempts = Cell::new(0);
        let outcome: Result<u8, Lost> = run(once_more_if_lost(|| {
            attempts.set(attempts.get() + 1);
            async { Err(Lost::NotSent(lost())) }
        }));
        assert!(matches!(outcome, Err(Lost::NotSent(_))));
        assert_eq!(attempts.get(), 1);
    }

    #[test]
    fn every_post_has_a_key_of_its_own_and_no_get_has_one() {
        let client = client();
        let url = client.url(&["v1", "tokens"], &[]).unwrap();
        let key = |method| {
            let request = client.request(method, &url, None).unwrap();
            request.headers().get("idempotency-key").map(|value| value.to_str().unwrap().to_owned())
        };
        let (first, second) = (key(Method::POST).unwrap(), key(Method::POST).unwrap());
        assert_ne!(first, second);
        assert!(uuid::Uuid::parse_str(&first).is_ok());
        assert_eq!(key(Method::GET), None);
    }

    #[test]
    fn names_cannot_leave_their_place_in_the_path() {
        let client = client();
        let url = client.url(&["v1", "profiles", "../operators?x#y"], &[("serial", "a&b=c")]).unwrap();
        assert_eq!(
            url.as_str(),
            "https://127.0.0.1:9443/v1/profiles/..%2Foperators%3Fx%23y?serial=a%26b%3Dc"
        );
        let act = client.url(&["v1", "devices", "0190:revoke"], &[]).unwrap();
        assert_eq!(act.path(), "/v1/devices/0190:revoke");
    }

    #[test]
    fn a_wrong_certificate_is_told_from_a_wrong_clock_and_from_an_unreachable_server() {
        let explained = |flaw| {
            let bad = rustls::Error::InvalidCertificate(flaw);
            let inner = std::io::Error::new(std::io::ErrorKind::InvalidData, bad);
            client().explain(Lost::NotSent(Box::new(std::io::Error::other(inner))))
        };
        let wrong = explained(rustls::CertificateError::UnknownIssuer);
        assert!(matches!(wrong, Error::WrongServer { .. }), "{wrong}");
        let early = explained(rustls::CertificateError::NotValidYet);
        assert!(matches!(early, Error::WrongTime { .. }), "{early}");
        let unreachable = client().explain(Lost::NotSent(lost()));
        assert!(matches!(unreachable, Error::Unreachable { .. }), "{unreachable}");
    }

    #[test]
    fn a_refusal_keeps_the_servers_words_and_its_patience() {
        let problem = Problem::new(muster_wire::problem::Code::RateLimited);
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static("17"));
        let body = Bytes::from(serde_json::to_vec(&problem).unwrap());
        let error = client().refusal(&Reply { status: StatusCode::TOO_MANY_REQUESTS, headers, body });
        assert_eq!(error.exit() as u8, 3);
        assert!(error.remedy().contains("17 s"), "{}", error.remedy());
    }

    #[test]
    fn debug_output_keeps_the_secret() {
        assert!(!format!("{:?}", client()).contains("canary"));
    }
}
