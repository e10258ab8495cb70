//! `/v1/audit`: the log, page by page, and as the static files that anyone can verify.

use super::problem::HttpError;
use super::routes::{Ctx, Doc, Routes};
use super::{json, page_limit, parse_sequence};
use crate::domain::policy::act;
use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, Method, StatusCode, header};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Part of the log.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Page {
    /// Entries, as they stand in the log.
    #[schema(value_type = Vec<Object>)]
    items: Vec<serde_json::Value>,
    /// Sequence number after which the next part begins.
    next: Option<String>,
    /// Number of entries in the log.
    size: u64,
}

impl From<crate::app::History> for Page {
    fn from(history: crate::app::History) -> Self {
        Self { items: history.items, next: history.next.map(|after| after.to_string()), size: history.size }
    }
}

/// What an export holds.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Files {
    /// Entries covered by the checkpoint.
    size: u64,
    /// The checkpoint's root.
    root_sha256: String,
    files: Vec<File>,
}

/// One file of an export.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct File {
    path: String,
    size: u64,
    sha256: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tail {
    after: Option<String>,
    cursor: Option<String>,
    limit: Option<u32>,
}

pub(super) fn routes(routes: Routes) -> Routes {
    let tail = Doc::get("The log's entries, oldest first.", "AuditPage").query(&["after", "cursor", "limit"]);
    let files = Doc::get("Makes a covering checkpoint and names the files of an export.", "AuditFiles");
    routes.on(Method::GET, "/v1/audit", tail, index).on(Method::GET, "/v1/audit/files", files, list).on(
        Method::GET,
        "/v1/audit/files/{*path}",
        Doc::raw("One file of an export.", 0),
        file,
    )
}

async fn index(ctx: Ctx<act::ReadAudit>) -> Result<Response, HttpError> {
    let asked: Tail = ctx.query()?;
    let after = parse_sequence(asked.cursor.as_deref().or(asked.after.as_deref()))?;
    json(StatusCode::OK, &Page::from(ctx.app.audit_tail(&ctx.permit, after, page_limit(asked.limit)?)?))
}

async fn list(ctx: Ctx<act::ReadAudit>) -> Result<Response, HttpError> {
    let export = ctx.app.audit_files(&ctx.permit).await?;
    let files =
        export.files.into_iter().map(|f| File { path: f.path, size: f.size, sha256: f.sha256 }).collect();
    json(StatusCode::OK, &Files { size: export.size, root_sha256: export.root_sha256, files })
}

async fn file(ctx: Ctx<act::ReadAudit>) -> Result<Response, HttpError> {
    let path = ctx.path.get("path").map_or("", String::as_str);
    let bytes = ctx.app.audit_file(&ctx.permit, path)?;
    let mut response = Response::new(Body::from(bytes));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Ok(response)
}
