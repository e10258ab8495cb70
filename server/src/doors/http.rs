//! HTTPS on a connection that was let in: hyper's HTTP/1.1, axum's router, and a judge who is asked again for
//! every request.
//!
//! Deadlines and sizes hold before a handler sees anything: the request head has both, the URI a length, the
//! body both ([`LimitedBody`]), a response that nobody reads a deadline. The handler
//! finds the [`Peer`], the connection's [`Handle`] and, for a device, the [`Admission`]
//! among the request's extensions. What a kick means is the accept loop's business.
//!
//! A connection that ends from our side while the client still sends (a body that was refused) is closed in
//! two steps: first our direction, then, after the client has closed or a moment has passed, the socket.
//! Otherwise the kernel's reset could overtake the answer (RFC 9112 §9.6).

use super::accept::Connection;
use super::arrival::Arrival;
use super::body::{LARGEST_BYTES, LimitedBody};
use super::peer::Peer;
use super::registry::Handle;
use super::stall::Unstalled;
use super::stop::Stop;
use super::{Doors, Strangers};
use crate::domain::admission::Admission;
use axum::Router;
use axum::body::Body;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;
use tower::ServiceExt as _;

/// What the judge says about a request before it is routed.
#[derive(Debug)]
pub enum Verdict {
    /// Let it in; with what the table grants, when the peer showed a certificate.
    Admit(Option<Admission>),
    /// Answer this and close the connection.
    Refuse(Box<Response<Body>>),
}

/// Judges a peer for each of its requests.
pub type Judge = Arc<dyn Fn(&Peer) -> Verdict + Send + Sync>;

/// Sizes and deadlines of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpLimits {
    /// For a request's head to be complete, counted from the end of the request before it: so it also ends a
    /// kept connection on which nothing comes.
    pub head_deadline: Duration,
    /// For a request's body to be complete, counted from the end of its head.
    pub body_deadline: Duration,
    /// For a client to read something of a response that waits for it.
    pub write_deadline: Duration,
    /// How long a connection that we end waits for the client to close as well.
    pub linger: Duration,
    /// Request line and headers together.
    pub head_bytes: usize,
    /// How many headers.
    pub headers: usize,
    /// The request target.
    pub uri_bytes: usize,
    /// The outermost limit for a body; handlers ask for less.
    pub body_bytes: usize,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            head_deadline: Duration::from_secs(10),
            body_deadline: Duration::from_secs(30),
            write_deadline: Duration::from_secs(30),
            linger: Duration::from_secs(2),
            head_bytes: 16 * 1024,
            headers: 64,
            uri_bytes: 2 * 1024,
            body_bytes: LARGEST_BYTES,
        }
    }
}

/// What one HTTP listener serves. Cheap to clone.
#[derive(Clone)]
pub struct HttpDoor {
    router: Router,
    judge: Judge,
    limits: HttpLimits,
    strangers: Strangers,
}

/// Why a request was refused before any of it was parsed, as the audit log calls it.
pub const HEAD_TOO_LARGE: &str = "http.head_too_large";

impl HttpDoor {
    /// Serves `router` to whom `judge` lets in.
    pub fn new(router: Router, judge: Judge, limits: HttpLimits) -> Self {
        Self { router, judge, limits, strangers: Strangers::default() }
    }

    /// Tells whom `doors` tells of strangers when a request's head is too large to be read.
    #[must_use]
    pub fn on_stranger(self, doors: &Doors) -> Self {
        Self { strangers: doors.strangers.clone(), ..self }
    }

    /// Serves one connection until its client, a deadline, an error or a stop ends it.
    pub async fn serve<S>(self, connection: Connection<S>)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Connection { stream, peer, place, arrival, stop } = connection;
        let (limits, strangers) = (self.limits, self.strangers.clone());
        let io = TokioIo::new(Unstalled::new(stream, limits.write_deadline));
        let visit =
            Visit { door: self, peer, handle: place.handle(), arrival: Arc::new(Mutex::new(arrival)) };
        let mut serving = http1::Builder::new()
            .timer(TokioTimer::new())
            // A client may close its direction after its request and still wants the answer.
            .half_close(true)
            .header_read_timeout(limits.head_deadline)
            .max_headers(limits.headers)
            .max_header_size(limits.head_bytes)
            .max_buf_size(limits.head_bytes.max(MIN_BUFFER_BYTES))
            .serve_connection(io, visit);
        let ended = tokio::select! {
            ended = Ended(&mut serving) => ended,
            () = stop.asked() => {
                Pin::new(&mut serving).graceful_shutdown();
                Ended(&mut serving).await
            }
        };
        // Size before parsing: nobody knows what the head would have asked for, so 431 is the same for everyone.
        let is_too_large = ended.as_ref().is_err_and(hyper::Error::is_parse_too_large);
        if is_too_large {
            (strangers.0)(HEAD_TOO_LARGE);
        }
        match ended {
            Err(error) if !is_too_large => tracing::debug!(%error, "connection broke off"),
            Ok(()) | Err(_) => {
                let farewell = close(serving.into_parts().io.into_inner(), &stop);
                // Whatever comes of it, the socket is closed next.
                drop(timeout(limits.linger, farewell).await);
            }
        }
        drop(place);
    }
}

impl std::fmt::Debug for HttpDoor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpDoor").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// The least that hyper takes as a buffer.
const MIN_BUFFER_BYTES: usize = 8 * 1024;

type Serving<S> = http1::Connection<TokioIo<Unstalled<S>>, Visit>;

/// Returns when the last response has been written, without closing the stream.
struct Ended<'a, S: AsyncRead + AsyncWrite + Unpin + 'static>(&'a mut Serving<S>);

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Future for Ended<'_, S> {
    type Output = hyper::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_without_shutdown(cx)
    }
}

/// Closes our direction, then waits for the client's, throwing away what it still sends. A stop does not wait.
async fn close<S: AsyncRead + AsyncWrite + Unpin>(mut stream: Unstalled<S>, stop: &Stop) -> io::Result<()> {
    stream.shutdown().await?;
    let mut thrown_away = [0; 4096];
    loop {
        let read = tokio::select! {
            read = stream.read(&mut thrown_away) => read?,
            () = stop.asked() => 0,
        };
        if read == 0 {
            return Ok(());
        }
    }
}

/// One client's requests.
struct Visit {
    door: HttpDoor,
    peer: Peer,
    handle: Handle,
    arrival: Arc<Mutex<Arrival>>,
}

impl Service<Request<Incoming>> for Visit {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        if uri_bytes(&request) > self.door.limits.uri_bytes {
            return answer(closing(empty(StatusCode::URI_TOO_LONG)));
        }
        match (self.door.judge)(&self.peer) {
            Verdict::Refuse(response) => answer(closing(*response)),
            Verdict::Admit(admission) => {
                let request = self.prepare(request, admission);
                let (router, arrival) = (self.door.router.clone(), Arc::clone(&self.arrival));
                Box::pin(async move {
                    let response = router.oneshot(request).await;
                    arrival.lock().unwrap_or_else(PoisonError::into_inner).again();
                    response
                })
            }
        }
    }
}

impl Visit {
    fn prepare(&self, request: Request<Incoming>, admission: Option<Admission>) -> Request<Body> {
        let limits = self.door.limits;
        let mut request = request.map(|body| {
            if body.is_end_stream() {
                return Body::empty();
            }
            Body::new(LimitedBody::new(body, limits.body_bytes, limits.body_deadline))
        });
        let extensions = request.extensions_mut();
        extensions.insert(self.peer.clone());
        extensions.insert(self.handle.clone());
        if let Some(admission) = admission {
            extensions.insert(admission);
        }
        request
    }
}

fn answer(response: Response<Body>) -> <Visit as Service<Request<Incoming>>>::Future {
    Box::pin(std::future::ready(Ok(response)))
}

fn uri_bytes(request: &Request<Incoming>) -> usize {
    let uri = request.uri();
    uri.path().len() + uri.query().map_or(0, |query| query.len() + 1)
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

fn closing(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
