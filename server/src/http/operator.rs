//! `/v1/operators`: REST credentials.

use super::problem::HttpError;
use super::routes::{Ctx, Doc, Routes};
use super::{json, timestamp};
use crate::domain::operator;
use crate::domain::policy::act;
use axum::response::Response;
use http::{Method, StatusCode};
use muster_wire::digest::Sha256Digest;
use muster_wire::id::OperatorId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An operator, never its secret.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Operator {
    #[schema(value_type = String)]
    id: OperatorId,
    name: String,
    created_at: String,
    created_by: String,
    removed_at: Option<String>,
}

/// All operators.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OperatorList {
    items: Vec<Operator>,
    /// Always null: the list is whole.
    next: Option<String>,
}

/// Who is added.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AddOperator {
    /// 1 to 64 of `a-z`, `0-9`, `.`, `_`, `-`, `@`.
    name: String,
}

/// A credential that has just been made; its secret is in this answer only.
#[derive(Serialize, ToSchema)]
pub(super) struct Credential {
    #[schema(value_type = String)]
    id: OperatorId,
    name: String,
    /// Where the REST API is, as this request reached it.
    server: String,
    /// What the server's root must be.
    #[schema(value_type = String)]
    root_spki_sha256: Sha256Digest,
    /// The secret.
    token: String,
}

pub(super) fn routes(routes: Routes) -> Routes {
    let add = Doc::post("Adds an operator; the secret is in this answer only.", "AddOperator", "Credential");
    routes
        .on(Method::GET, "/v1/operators", Doc::get("Every operator, by name.", "OperatorList"), index)
        .on(Method::POST, "/v1/operators", add.status(201), create)
        .verb("/v1/operators", "remove", Doc::act("Ends an operator's credential.", "Operator"), remove)
}

async fn index(ctx: Ctx<act::ReadOperator>) -> Result<Response, HttpError> {
    let items = ctx.app.operators(&ctx.permit)?.into_iter().map(view).collect();
    json(StatusCode::OK, &OperatorList { items, next: None })
}

async fn create(ctx: Ctx<act::ManageOperator>) -> Result<Response, HttpError> {
    let asked: AddOperator = ctx.json()?;
    let slot = super::slot(&ctx).await?;
    let host = ctx.header(http::header::HOST).unwrap_or_default().to_owned();
    let (added, secret) = ctx.app.add_operator(ctx.permit, &asked.name, slot).await?;
    let credential = Credential {
        id: added.id,
        name: added.name,
        server: format!("https://{host}"),
        root_spki_sha256: ctx.app.ca().root_pin(),
        token: secret.reveal().to_owned(),
    };
    json(StatusCode::CREATED, &credential)
}

async fn remove(ctx: Ctx<act::ManageOperator>) -> Result<Response, HttpError> {
    let name: String = ctx.param("id", "operator")?;
    super::slot(&ctx).await?;
    json(StatusCode::OK, &view(ctx.app.remove_operator(ctx.permit, &name).await?))
}

fn view(operator: operator::Operator) -> Operator {
    Operator {
        id: operator.id,
        name: operator.name,
        created_at: timestamp(operator.created_at),
        created_by: operator.created_by,
        removed_at: operator.removed_at.map(timestamp),
    }
}
