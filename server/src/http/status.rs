//! Plain HTTP for anyone who validates a certificate: CRLs, CA certificates, health.

use super::problem::HttpError;
use super::routes::{Ctx, Doc, Routes};
use crate::app::Error;
use crate::domain::policy::act;
use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, Method, StatusCode, header};
use muster_pki::profile::parse_shard;

/// CRLs and CA certificates by issuer, and health.
pub fn routes(routes: Routes) -> Routes {
    routes
        .on(Method::GET, "/crl/{issuer}/{file}", Doc::raw("A certificate revocation list, DER.", 0), crl)
        .on(Method::GET, "/ca/{file}", Doc::raw("A CA certificate, DER.", 0), ca)
        .on(Method::GET, "/healthz", Doc::raw("200 while the process lives.", 0), healthz)
        .on(Method::GET, "/readyz", Doc::raw("200 while requests can be answered.", 0), readyz)
}

async fn crl(ctx: Ctx<act::ReadStatus>) -> Result<Response, HttpError> {
    let missing = || HttpError::from(Error::NotFound { kind: "revocation list" });
    let issuer = ctx.path.get("issuer").map_or("", String::as_str);
    let shard = ctx.path.get("file").and_then(|file| parse_shard(file)).ok_or_else(missing)?;
    if issuer == ctx.app.ca().root_name() && shard == 0 {
        return Ok(der(ctx.app.ca().root_crl().to_vec(), "application/pkix-crl"));
    }
    let issuer = ctx.app.ca().issuer_named(issuer).ok_or_else(missing)?;
    let list = ctx.app.crl(&ctx.permit, issuer, shard).await?;
    Ok(der(list.to_vec(), "application/pkix-crl"))
}

async fn ca(ctx: Ctx<act::ReadStatus>) -> Result<Response, HttpError> {
    let name = ctx.path.get("file").and_then(|file| file.strip_suffix(".cer")).unwrap_or("");
    let found = ctx.app.ca().certificate_named(name).ok_or(Error::NotFound { kind: "CA certificate" })?;
    Ok(der(found.der().to_vec(), "application/pkix-cert"))
}

async fn healthz(_ctx: Ctx<act::ReadHealth>) -> Result<Response, HttpError> {
    Ok(Response::new(Body::from("ok\n")))
}

async fn readyz(ctx: Ctx<act::ReadHealth>) -> Result<Response, HttpError> {
    let (status, text) = match ctx.app.readiness(&ctx.permit) {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {error}\n")),
    };
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    Ok(response)
}

fn der(bytes: Vec<u8>, media_type: &'static str) -> Response {
    let mut response = Response::new(Body::from(bytes));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
