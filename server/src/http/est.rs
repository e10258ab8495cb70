//! Enrolment over Secure Transport: RFC 7030, clarified by RFC 8951; discovery beside it.

use super::auth;
use super::problem::HttpError;
use super::routes::{Ctx, Doc, Routes};
use crate::app::{Answer, Enroll, Renew};
use crate::domain::admission;
use crate::domain::policy::{Act, act};
use crate::domain::refusal::Refusal;
use crate::doors::body::CSR_BYTES;
use axum::body::Body;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Method, StatusCode, header};
use muster_pki::cms::certs_only;
use muster_wire::problem::{Code, Problem};

const CERTS_ONLY: HeaderValue = HeaderValue::from_static("application/pkcs7-mime; smime-type=certs-only");
const CACERTS: HeaderValue = HeaderValue::from_static("application/pkcs7-mime");
const CSRATTRS: HeaderValue = HeaderValue::from_static("application/csrattrs");

/// `ecdsa-with-SHA256` as an empty hint: `CsrAttrs ::= SEQUENCE { OBJECT IDENTIFIER }` (RFC 7030 §4.5.2).
const CSR_ATTRIBUTES: &[u8] = &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];

/// EST with and without a label, and discovery.
pub fn routes(routes: Routes) -> Routes {
    let cacerts = Doc::raw("The CA certificates, base64 certs-only CMS (RFC 7030 §4.1).", 0);
    let csrattrs = Doc::raw("What a request should have (RFC 7030 §4.5).", 0);
    let enroll = Doc::raw("A token for a first certificate (RFC 7030 §4.2.1).", CSR_BYTES);
    let renew = Doc::raw("A certificate for the next (RFC 7030 §4.2.2).", CSR_BYTES);
    let discovery = Doc::get("Endpoints, trust bundle and authority chain.", "Discovery");
    let routes = routes
        .on(Method::GET, "/.well-known/est/cacerts", cacerts, ca_certs)
        .on(Method::GET, "/.well-known/est/{label}/cacerts", cacerts, ca_certs)
        .on(Method::GET, "/.well-known/est/csrattrs", csrattrs, csr_attrs)
        .on(Method::GET, "/.well-known/est/{label}/csrattrs", csrattrs, csr_attrs)
        .on(Method::POST, "/.well-known/est/simpleenroll", enroll, simple_enroll)
        .on(Method::POST, "/.well-known/est/{label}/simpleenroll", enroll, simple_enroll)
        .on(Method::POST, "/.well-known/est/simplereenroll", renew, simple_reenroll)
        .on(Method::POST, "/.well-known/est/{label}/simplereenroll", renew, simple_reenroll)
        .on(Method::GET, "/.well-known/muster", discovery, discover);
    super::baseline::device_routes(routes)
}

/// A label that is no profile's names nothing. What needs a token says so by refusing the token.
fn known_label<A: Act>(ctx: &Ctx<A>) -> Result<(), HttpError> {
    match ctx.path.get("label") {
        Some(label) if !ctx.app.profile_names().contains(&label.as_str()) => {
            Err(HttpError::App(crate::app::Error::NotFound { kind: "profile" }))
        }
        _ => Ok(()),
    }
}

async fn ca_certs(ctx: Ctx<act::ReadCaCertificates>) -> Result<Response, HttpError> {
    known_label(&ctx)?;
    Ok(base64_body(&certs_only(&ctx.app.ca_certificates(&ctx.permit)), CACERTS))
}

async fn csr_attrs(ctx: Ctx<act::ReadCsrAttributes>) -> Result<Response, HttpError> {
    known_label(&ctx)?;
    Ok(base64_body(CSR_ATTRIBUTES, CSRATTRS))
}

async fn simple_enroll(ctx: Ctx<act::SimpleEnroll>) -> Result<Response, HttpError> {
    let credential = auth::token(&ctx.parts);
    let request = Enroll {
        label: ctx.path.get("label").map(String::as_str),
        credential: credential.as_deref().map(String::as_str),
        body: &ctx.body,
        from: ctx.peer.addr.ip(),
    };
    ctx.app.simple_enroll(ctx.permit, request).await.map(|done| answer(&done)).map_err(HttpError::from)
}

async fn simple_reenroll(ctx: Ctx<act::SimpleReenroll>) -> Result<Response, HttpError> {
    let refused = Refusal::by("door.may_not_renew", Code::CertificateRefused);
    let (Some(certificate), Some(admission)) = (ctx.peer.certificate.clone(), ctx.admission) else {
        return Err(unfit(&ctx, refused).await);
    };
    let in_grace = match admission.renew {
        admission::Renew::No => return Err(unfit(&ctx, refused).await),
        admission::Renew::Yes | admission::Renew::Held => false,
        admission::Renew::Recorded | admission::Renew::RecordedHeld => true,
    };
    let request = Renew {
        label: ctx.path.get("label").map(String::as_str),
        device: certificate.device,
        shown: certificate.serial,
        in_grace,
        body: &ctx.body,
    };
    ctx.app.simple_reenroll(ctx.permit, request).await.map(|done| answer(&done)).map_err(HttpError::from)
}

/// The refusal of a certificate that may come in and may not renew.
async fn unfit(ctx: &Ctx<act::SimpleReenroll>, refusal: Refusal) -> HttpError {
    ctx.app.refuse_at_edge(ctx.permit.caller(), act::SimpleReenroll::ROW.action, refusal).await.into()
}

async fn discover(ctx: Ctx<act::Discover>) -> Result<Response, HttpError> {
    super::json(StatusCode::OK, &ctx.app.discover(&ctx.permit)?)
}

/// "A successful response MUST be a certs-only CMC Simple PKI Response … containing only the certificate that was
/// issued" (RFC 7030 §4.2.3); "202 … MUST include a Retry-After" (§4.2.3).
fn answer(answer: &Answer) -> Response {
    match answer {
        Answer::Certificate(der) => base64_body(&certs_only(&[der.as_slice()]), CERTS_ONLY),
        Answer::Pending(retry_after_s) => {
            let mut response = super::problem::of(&Problem::new(Code::PendingApproval));
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(*retry_after_s));
            response
        }
    }
}

/// Base64 with line breaks, as older clients want it; the transfer encoding is named and never asked for
/// (RFC 8951 §3.1).
fn base64_body(der: &[u8], media_type: HeaderValue) -> Response {
    let text = STANDARD.encode(der);
    let mut body = String::with_capacity(text.len() + text.len() / 64 + 2);
    for line in text.as_bytes().chunks(64) {
        body.push_str(std::str::from_utf8(line).unwrap_or_default());
        body.push('\n');
    }
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, media_type);
    headers.insert("content-transfer-encoding", HeaderValue::from_static("base64"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csr_attributes_name_one_algorithm() {
        let expected =
            [&[0x30, 10][..], &[0x06, 8], &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02]].concat();
        assert_eq!(CSR_ATTRIBUTES, expected);
    }
}
