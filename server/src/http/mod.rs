//! HTTP at the edge: EST, status, and one file per REST resource.
//!
//! Nothing is decided here. A handler reads a request, calls one verb of `app` and writes the answer; routes are
//! registered through [`routes::Routes`], which asks the authorisation table first.

mod audit;
pub mod auth;
mod authority;
pub mod baseline;
mod cursor;
mod device;
pub mod est;
mod events;
mod installation;
mod meta;
mod observer;
pub mod openapi;
mod operator;
mod order;
pub mod problem;
mod rails;
mod record;
#[cfg(test)]
mod requests_tests;
pub mod routes;
pub mod status;
mod token;
mod warrant;

use crate::app::{Replayed, Slot};
use crate::domain::policy::Act;
use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use muster_wire::digest::Sha256Digest;
use muster_wire::time::Timestamp;
use problem::HttpError;
use routes::{Ctx, Routes};
use serde::Serialize;

/// Everything on the operators' listener.
pub fn admin(routes: Routes) -> Routes {
    [
        token::routes,
        device::routes,
        order::routes,
        record::routes,
        warrant::routes,
        baseline::routes,
        operator::routes,
        observer::routes,
        installation::routes,
        authority::routes,
        rails::routes,
        audit::routes,
        events::routes,
        meta::routes,
    ]
    .into_iter()
    .fold(routes, |routes, add| add(routes))
}

/// Most items of a page, and how many there are when nobody says.
const PAGE_MAX: u32 = 1_000;
const PAGE: u32 = 100;

fn json(status: StatusCode, value: &impl Serialize) -> Result<Response, HttpError> {
    let body = serde_json::to_vec(value)
        .map_err(|error| crate::app::Error::internal("writing an answer as JSON")(Box::new(error)))?;
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn timestamp(unix_s: i64) -> String {
    Timestamp(unix_s).to_string()
}

fn page_limit(asked: Option<u32>) -> Result<usize, HttpError> {
    match asked.unwrap_or(PAGE) {
        limit @ 1..=PAGE_MAX => Ok(usize::try_from(limit).unwrap_or(1)),
        _ => Err(HttpError::Malformed { part: "limit", expected: format!("must be 1 to {PAGE_MAX}") }),
    }
}

/// A filter that can fit nothing is a mistake, not an empty list.
fn one_of(part: &'static str, asked: Option<&str>, known: &[&str]) -> Result<(), HttpError> {
    match asked {
        Some(value) if !known.contains(&value) => {
            Err(HttpError::Malformed { part, expected: format!("must be one of {}", known.join(", ")) })
        }
        _ => Ok(()),
    }
}

fn parse_sequence(text: Option<&str>) -> Result<Option<u64>, HttpError> {
    let malformed =
        |_| HttpError::Malformed { part: "cursor", expected: "must be a sequence number".to_owned() };
    text.map(str::parse).transpose().map_err(malformed)
}

fn etag(version: u64) -> String {
    format!("\"{version}\"")
}

/// Holds `If-Match`, if there is one, against the version that `current` reads (RFC 9110 §13.1.1).
fn if_match<A: Act>(ctx: &Ctx<A>, current: impl FnOnce() -> Result<u64, HttpError>) -> Result<(), HttpError> {
    let Some(wanted) = ctx.header(header::IF_MATCH) else { return Ok(()) };
    if matches(wanted, current()?) { Ok(()) } else { Err(HttpError::Precondition) }
}

/// Whether `If-Match: wanted` means `version`.
fn matches(wanted: &str, version: u64) -> bool {
    let tag = etag(version);
    wanted.trim() == "*" || wanted.split(',').any(|one| one.trim() == tag)
}

/// The slot of a request that carries an `Idempotency-Key`: taken by every POST before it does anything.
///
/// Verbs that repeat without harm only need the check that the key carries no other request.
async fn slot<A: Act>(ctx: &Ctx<A>) -> Result<Option<Slot>, HttpError> {
    let mut request = format!("{} {}\n", ctx.parts.method, ctx.parts.uri).into_bytes();
    request.extend_from_slice(&ctx.body);
    let key = ctx.header("idempotency-key");
    match ctx.app.replayed(ctx.permit.caller(), key, Sha256Digest::of(&request)).await? {
        Replayed::Unkeyed => Ok(None),
        Replayed::Keyed(slot) => Ok(Some(slot)),
    }
}
