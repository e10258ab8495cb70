//! The only way to put a handler on a path: by naming its act.
//!
//! [`Routes::on`] takes the act as a type parameter and hands the handler a [`Permit`] for it, which only the
//! authorisation table makes. A handler without a row in the table does not compile; a route without a handler
//! of this shape cannot be registered. Everything runs in one order: who is it → may they → how large is the
//! body → what is in it.

use super::auth::{self, Entrance};
use super::problem::{self, HttpError};
use crate::app::App;
use crate::domain::admission::Admission;
use crate::domain::policy::{self, Act, Caller, Permit, Principal};
use crate::domain::refusal::Refusal;
use crate::doors::body::{BodyError, collect};
use crate::doors::peer::Peer;
use axum::Router;
use axum::body::Body;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, Request};
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter, on};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method};
use muster_wire::problem::{Code, Problem};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// The header that carries a request's id, in the answer and in the log.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Most bytes of a body that says nothing.
const EMPTY_OBJECT_BYTES: usize = 64;

/// What a path says of itself, for the OpenAPI document.
#[derive(Clone, Copy, Debug)]
pub struct Doc {
    /// One line.
    pub summary: &'static str,
    /// Name of the schema of its body, if it takes JSON.
    pub request: Option<&'static str>,
    /// Name of the schema of its answer, if it is JSON.
    pub response: Option<&'static str>,
    /// Status of a good answer.
    pub status: u16,
    /// Keys of the query.
    pub query: &'static [&'static str],
    /// Whether its body may be left out.
    pub is_body_optional: bool,
    /// Headers that hold a request against a version (RFC 9110 §13.1).
    pub conditions: &'static [&'static str],
    /// Media type of an answer that goes on until one side ends it; `response` is then the schema of its parts.
    pub stream: Option<&'static str>,
    /// Most bytes of a body.
    pub body_bytes: usize,
}

impl Doc {
    /// A path that answers JSON of the schema `response` and takes no body.
    pub const fn get(summary: &'static str, response: &'static str) -> Self {
        Self {
            summary,
            request: None,
            response: Some(response),
            status: 200,
            query: &[],
            is_body_optional: false,
            conditions: &[],
            stream: None,
            body_bytes: 0,
        }
    }

    /// An act that needs no particulars: it takes an empty body, or `{}`, and answers JSON of the schema `response`.
    pub const fn act(summary: &'static str, response: &'static str) -> Self {
        Self { body_bytes: EMPTY_OBJECT_BYTES, ..Self::get(summary, response) }
    }

    /// Whether a body, where there is one, must say nothing.
    fn takes_nothing(&self) -> bool {
        self.request.is_none() && self.body_bytes <= EMPTY_OBJECT_BYTES
    }

    /// A path that takes JSON of the schema `request` as well.
    pub const fn post(summary: &'static str, request: &'static str, response: &'static str) -> Self {
        let body_bytes = crate::doors::body::JSON_BYTES;
        Self { request: Some(request), body_bytes, ..Self::get(summary, response) }
    }

    /// A path that answers something else than JSON.
    pub const fn raw(summary: &'static str, body_bytes: usize) -> Self {
        Self { response: None, body_bytes, ..Self::get(summary, "") }
    }

    /// The same, with these keys in the query.
    pub const fn query(self, query: &'static [&'static str]) -> Self {
        Self { query, ..self }
    }

    /// The same, whose body may be left out.
    pub const fn or_nothing(self) -> Self {
        Self { is_body_optional: true, ..self }
    }

    /// The same, which these headers hold against a version.
    pub const fn conditions(self, conditions: &'static [&'static str]) -> Self {
        Self { conditions, ..self }
    }

    /// The same, as a stream of this media type whose parts have the schema of the answer.
    pub const fn stream(self, media_type: &'static str) -> Self {
        Self { stream: Some(media_type), ..self }
    }

    /// The same, answering with this status.
    pub const fn status(self, status: u16) -> Self {
        Self { status, ..self }
    }
}

/// A registered path, for the OpenAPI document and the test that knocks at every one.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its method.
    pub method: Method,
    /// Its path, parameters in braces.
    pub path: String,
    /// The act it does.
    pub action: &'static str,
    /// Who may.
    pub row: policy::Row,
    /// What it says of itself.
    pub doc: Doc,
}

/// A request that the table let through.
pub struct Ctx<A: Act> {
    /// The verbs.
    pub app: Arc<App>,
    /// Proof that the table allows the act.
    pub permit: Permit<A>,
    /// Who is on the other end.
    pub peer: Peer,
    /// What its certificate may do, if it showed one.
    pub admission: Option<Admission>,
    /// Method, path, headers.
    pub parts: Parts,
    /// Parameters of the path.
    pub path: HashMap<String, String>,
    /// The body, within its limit.
    pub body: Bytes,
}

impl<A: Act> Ctx<A> {
    /// The parameter `name` of the path, parsed.
    ///
    /// # Errors
    /// [`HttpError::App`] with `NotFound`: a name that cannot be one names nothing.
    pub fn param<T: std::str::FromStr>(&self, name: &str, kind: &'static str) -> Result<T, HttpError> {
        let text = self.path.get(name).map_or("", String::as_str);
        text.parse().map_err(|_| HttpError::App(crate::app::Error::NotFound { kind }))
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// [`HttpError::MediaType`], [`HttpError::Malformed`].
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, HttpError> {
        let media_type = self.parts.headers.get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        let is_json =
            |text: &str| text.split(';').next().is_some_and(|kind| kind.trim() == "application/json");
        if !media_type.is_some_and(is_json) {
            return Err(HttpError::MediaType { expected: "application/json" });
        }
        let malformed = |expected| HttpError::Malformed { part: "body", expected };
        // serde reads a list as an object's fields in their order.
        if self.body.trim_ascii_start().first() != Some(&b'{') {
            return Err(malformed("must be a JSON object".to_owned()));
        }
        serde_json::from_slice(&self.body)
            .map_err(|error| malformed(format!("is not what it must be: {}", in_words(&error.to_string()))))
    }

    /// The query as `T`, which refuses unknown keys.
    ///
    /// # Errors
    /// [`HttpError::Malformed`].
    pub fn query<T: DeserializeOwned>(&self) -> Result<T, HttpError> {
        axum::extract::Query::<T>::try_from_uri(&self.parts.uri).map(|query| query.0).map_err(|error| {
            let told = error.body_text();
            let told = told.split_once("query string: ").map_or(told.as_str(), |(_, told)| told);
            HttpError::Malformed {
                part: "query",
                expected: format!("is not what it must be: {}", in_words(told)),
            }
        })
    }

    /// A header's text.
    pub fn header(&self, name: impl http::header::AsHeaderName) -> Option<&str> {
        self.parts.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// What serde and the standard library say of numbers, and what that means to somebody who knows no Rust.
const IN_WORDS: &[(&str, &str)] = &[
    ("invalid digit found in string", "must be a whole number, 0 or more"),
    ("cannot parse integer from empty string", "must be a whole number, 0 or more"),
    ("number too large to fit in target type", "is too large a number"),
    ("number too small to fit in target type", "is too small a number"),
    ("expected i64", "expected a whole number"),
    ("expected u64", "expected a whole number, 0 or more"),
    ("expected u32", "expected a whole number, 0 to 4294967295"),
    ("expected u16", "expected a whole number, 0 to 65535"),
    ("expected u8", "expected a whole number, 0 to 255"),
    ("expected a sequence", "expected a list"),
    ("invalid type: sequence", "invalid type: list"),
    ("expected a map", "expected an object"),
    ("invalid type: map", "invalid type: object"),
    ("invalid type: unit value", "invalid type: null"),
];

/// A parser's complaint without the words that only a programmer knows.
fn in_words(complaint: &str) -> String {
    IN_WORDS.iter().fold(complaint.to_owned(), |text, (theirs, ours)| text.replace(theirs, ours))
}

/// The parameters of a path, where they are text.
type Params = Result<RawPathParams, RawPathParamsRejection>;
type Answer = Result<Response, HttpError>;
type Handling = Pin<Box<dyn Future<Output = Response> + Send>>;
type Handler = Arc<dyn Fn(Parts, HashMap<String, String>, Body) -> Handling + Send + Sync>;

/// The paths of one listener, in the making.
pub struct Routes {
    app: Arc<App>,
    entrance: Entrance,
    plain: BTreeMap<&'static str, MethodRouter>,
    /// `POST {base}/{id}:{verb}`, by base.
    verbs: BTreeMap<&'static str, HashMap<&'static str, Handler>>,
    list: Vec<Route>,
}

impl Routes {
    /// No paths yet; callers are recognised as at `entrance`.
    pub fn new(app: Arc<App>, entrance: Entrance) -> Self {
        Self { app, entrance, plain: BTreeMap::new(), verbs: BTreeMap::new(), list: Vec::new() }
    }

    /// Puts `handler` for the act `A` on `method path`.
    #[must_use]
    pub fn on<A: Act, H, F>(mut self, method: Method, path: &'static str, doc: Doc, handler: H) -> Self
    where
        H: Fn(Ctx<A>) -> F + Send + Sync + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        let handler = self.guard::<A, H, F>(doc, handler);
        let filter = MethodFilter::try_from(method.clone()).unwrap_or(MethodFilter::GET);
        let lost = self.lost(Refusal::by("route.unknown", Code::NotFound));
        let routed = on(filter, move |params: Params, request: Request| {
            let (handler, lost) = (Arc::clone(&handler), lost.clone());
            async move {
                // A path that is no text is no path of ours.
                let Ok(params) = params else { return lost.answer(request).await };
                let path = params.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
                let (parts, body) = request.into_parts();
                handler(parts, path, body).await
            }
        });
        let so_far = self.plain.remove(path).unwrap_or_default();
        self.plain.insert(path, so_far.merge(routed));
        self.list.push(Route { method, path: path.to_owned(), action: A::ROW.action, row: A::ROW, doc });
        self
    }

    /// Puts `handler` for the act `A` on `POST base/{id}:verb`.
    #[must_use]
    pub fn verb<A: Act, H, F>(mut self, base: &'static str, verb: &'static str, doc: Doc, handler: H) -> Self
    where
        H: Fn(Ctx<A>) -> F + Send + Sync + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        let handler = self.guard::<A, H, F>(doc, handler);
        self.verbs.entry(base).or_default().insert(verb, handler);
        let path = format!("{base}/{{id}}:{verb}");
        self.list.push(Route { method: Method::POST, path, action: A::ROW.action, row: A::ROW, doc });
        self
    }

    /// Every path registered so far.
    pub fn list(&self) -> &[Route] {
        &self.list
    }

    /// The router of all of them; whatever else is asked for gets a problem document.
    pub fn finish(mut self) -> Router {
        for (base, verbs) in std::mem::take(&mut self.verbs) {
            let path: &'static str = match base {
                "/v1/tokens" => "/v1/tokens/{id}",
                "/v1/devices" => "/v1/devices/{id}",
                "/v1/operators" => "/v1/operators/{id}",
                "/v1/observers" => "/v1/observers/{id}",
                "/v1/warrants" => "/v1/warrants/{id}",
                other => other,
            };
            let (verbs, lost) = (Arc::new(verbs), self.lost(Refusal::by("route.verb", Code::NotFound)));
            let routed = on(MethodFilter::POST, move |params: Params, request: Request| {
                let (verbs, lost) = (Arc::clone(&verbs), lost.clone());
                async move {
                    match params {
                        Ok(params) => dispatch(&verbs, lost, &params, request).await,
                        Err(_) => lost.answer(request).await,
                    }
                }
            });
            let so_far = self.plain.remove(path).unwrap_or_default();
            self.plain.insert(path, so_far.merge(routed));
        }
        let unknown = self.lost(Refusal::by("route.unknown", Code::NotFound));
        let method = self.lost(Refusal::by("route.method", Code::MethodNotAllowed));
        let mut router = Router::new();
        for (path, methods) in self.plain {
            router = router.route(path, methods);
        }
        router
            .fallback(move |request: Request| unknown.clone().answer(request))
            .method_not_allowed_fallback(move |request: Request| method.clone().answer(request))
    }

    fn lost(&self, refusal: Refusal) -> Lost {
        Lost { app: Arc::clone(&self.app), entrance: self.entrance, refusal }
    }

    fn guard<A: Act, H, F>(&self, doc: Doc, handler: H) -> Handler
    where
        H: Fn(Ctx<A>) -> F + Send + Sync + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        let (app, entrance, handler) = (Arc::clone(&self.app), self.entrance, Arc::new(handler));
        Arc::new(move |parts, path, body| {
            let (app, handler) = (Arc::clone(&app), Arc::clone(&handler));
            Box::pin(async move {
                let request_id = App::request_id();
                let answer = admit::<A, H, F>(
                    Arrival { app, entrance, parts, path, body },
                    doc,
                    &request_id,
                    &*handler,
                );
                let mut response = match answer.await {
                    Ok(response) => response,
                    Err(error) => problem::respond(&error, &request_id),
                };
                if let Ok(value) = HeaderValue::from_str(&request_id) {
                    response.headers_mut().insert(REQUEST_ID, value);
                }
                response
            })
        })
    }
}

/// A request on its way in.
struct Arrival {
    app: Arc<App>,
    entrance: Entrance,
    parts: Parts,
    path: HashMap<String, String>,
    body: Body,
}

async fn admit<A: Act, H, F>(arrival: Arrival, doc: Doc, request_id: &str, handler: &H) -> Answer
where
    H: Fn(Ctx<A>) -> F,
    F: Future<Output = Answer>,
{
    let Arrival { app, entrance, mut parts, path, body } = arrival;
    let who = auth::who(&app, entrance, &mut parts).await?;
    let caller = Caller { principal: who.principal, request_id: request_id.to_owned() };
    let permit = match policy::decide::<A>(caller.clone()) {
        Ok(permit) => permit,
        Err(refusal) => return Err(app.refuse_at_edge(&caller, A::ROW.action, refusal).await.into()),
    };
    if doc.body_bytes > 0 && is_encoded(&parts) {
        return Err(HttpError::Encoded);
    }
    let body = match collect(body, doc.body_bytes).await {
        Ok(body) => body,
        Err(error) => {
            if matches!(error, BodyError::TooLarge { .. }) {
                let refusal = Refusal::by("body.too_large", Code::TooLarge);
                // The answer names the limit; that the entry could not be written changes nothing about it.
                drop(app.refuse_at_edge(&caller, A::ROW.action, refusal).await);
            }
            return Err(error.into());
        }
    };
    if doc.takes_nothing() && !says_nothing(&body) {
        return Err(HttpError::Malformed { part: "body", expected: "must be empty, or {}".to_owned() });
    }
    let (from, noting) = (who.peer.addr.ip(), Arc::clone(&app));
    let answer =
        handler(Ctx { app, permit, peer: who.peer, admission: who.admission, parts, path, body }).await;
    if let Err(error) = &answer
        && let Some(refusal) = problem::unwritten(error)
        && is_noted(entrance, &caller)
    {
        noting.note_mistake(&caller, from, A::ROW.action, refusal).await;
    }
    answer
}

/// Whether the body is compressed or the like, which nothing here undoes (RFC 9110 §15.5.16).
fn is_encoded(parts: &Parts) -> bool {
    let mut encodings = parts.headers.get_all(http::header::CONTENT_ENCODING).iter();
    encodings.any(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// Whether `body` is empty or an empty object: clients that send `{}` with every POST mean nothing by it.
fn says_nothing(body: &[u8]) -> bool {
    let inner = body.trim_ascii().strip_prefix(b"{").and_then(|rest| rest.strip_suffix(b"}"));
    inner.unwrap_or(body).trim_ascii().is_empty()
}

/// Whether the log hears of a mistake: of somebody who is known, and of anybody at the operators' door.
fn is_noted(entrance: Entrance, caller: &Caller) -> bool {
    entrance == Entrance::Admin || caller.principal != Principal::Anonymous
}

/// What answers where there is no handler.
#[derive(Clone)]
struct Lost {
    app: Arc<App>,
    entrance: Entrance,
    refusal: Refusal,
}

impl Lost {
    async fn answer(self, request: Request) -> Response {
        let (mut parts, _) = request.into_parts();
        let request_id = App::request_id();
        // Whoever cannot be recognised now is told the same, only nobody hears of it.
        if let Ok(who) = auth::who(&self.app, self.entrance, &mut parts).await {
            let caller = Caller { principal: who.principal, request_id: request_id.clone() };
            if is_noted(self.entrance, &caller) {
                self.app.note_mistake(&caller, who.peer.addr.ip(), "http.route", self.refusal).await;
            }
        }
        let mut response = problem::of(&Problem::new(self.refusal.code).with_request_id(&request_id));
        if let Ok(value) = HeaderValue::from_str(&request_id) {
            response.headers_mut().insert(REQUEST_ID, value);
        }
        response
    }
}

async fn dispatch(
    verbs: &HashMap<&'static str, Handler>,
    lost: Lost,
    params: &RawPathParams,
    request: Request,
) -> Response {
    let target = params.iter().find(|(name, _)| *name == "id").map_or("", |(_, value)| value);
    let found = target.rsplit_once(':').and_then(|(id, verb)| Some((id, verbs.get(verb)?)));
    let Some((id, handler)) = found else { return lost.answer(request).await };
    let path = HashMap::from([("id".to_owned(), id.to_owned())]);
    let (parts, body) = request.into_parts();
    handler(parts, path, body).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::fixture::{Bench, UNLIMITED};
    use http::header::{AUTHORIZATION, CONTENT_TYPE};
    use std::net::{Ipv4Addr, SocketAddr};
    use tower::ServiceExt as _;

    async fn ask(bench: &Bench, entrance: Entrance, method: Method, path: &str, body: &'static str) -> u16 {
        let credential = bench.credential();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(AUTHORIZATION, format!("Bearer {credential}"))
            .header(CONTENT_TYPE, "application/json")
            .extension(Peer {
                addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
                certificate: None,
                observer: None,
            })
            .body(Body::from(body))
            .unwrap();
        let routes = Routes::new(Arc::clone(&bench.app), entrance);
        let router = match entrance {
            Entrance::Admin => crate::http::admin(routes),
            Entrance::Device => crate::http::est::routes(routes),
            Entrance::Status => crate::http::status::routes(routes),
        };
        router.finish().oneshot(request).await.unwrap().status().as_u16()
    }

    #[tokio::test]
    async fn what_is_wrong_at_the_operators_door_is_in_the_log() {
        let bench = Bench::founded(UNLIMITED);
        let unknown = "/v1/devices/018f0000-0000-7000-8000-000000000000";
        let mistakes = [
            (Method::POST, "/v1/tokens", "{", 400, "request.malformed"),
            (Method::POST, "/v1/tokens", r#"{"profile":"toaster"}"#, 422, "profile.known"),
            (Method::POST, "/v1/tokens", r#"{"profile":"sensor-linux","count":0}"#, 422, "request.invalid"),
            (Method::GET, "/v1/nothing", "", 404, "route.unknown"),
            (Method::GET, unknown, "", 404, "request.not_found"),
            (Method::POST, "/v1/devices/x:dance", "", 404, "route.verb"),
            (Method::DELETE, "/v1/tokens", "", 405, "route.method"),
            (Method::POST, "/v1/operators", r#"{"name":"admin"}"#, 409, "operator.name_taken"),
        ];
        let mut rules = Vec::new();
        for (method, path, body, status, rule) in mistakes {
            let answered = ask(&bench, Entrance::Admin, method, path, body).await;
            assert_eq!(answered, status, "{path} {body}");
            rules.push(rule);
            assert_eq!(bench.refusals(), rules, "{path} {body}");
        }
    }

    #[tokio::test]
    async fn what_nobody_in_particular_asks_wrongly_elsewhere_is_not() {
        let bench = Bench::founded(UNLIMITED);
        for entrance in [Entrance::Device, Entrance::Status] {
            assert_eq!(ask(&bench, entrance, Method::GET, "/nothing", "").await, 404);
        }
        assert_eq!(bench.refusals(), [""; 0]);
    }

    #[tokio::test]
    async fn mistakes_do_not_fill_the_log() {
        let bench = Bench::founded(UNLIMITED);
        for _ in 0..40 {
            assert_eq!(ask(&bench, Entrance::Admin, Method::GET, "/v1/nothing", "").await, 404);
        }
        let refusals = bench.refusals();
        assert_eq!((refusals.len(), refusals.last().map(String::as_str)), (31, Some("request.rate")));
        bench.clock.advance_ms(60_000);
        assert_eq!(ask(&bench, Entrance::Admin, Method::GET, "/v1/nothing", "").await, 404);
        assert_eq!(bench.refusals().len(), 32);
    }
}
