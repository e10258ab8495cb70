//! `/v1/observers`: who may hear the event topics at the gate.

use super::problem::HttpError;
use super::routes::{Ctx, Doc, Routes};
use super::{json, timestamp};
use crate::app::Error;
use crate::domain::observer;
use crate::domain::policy::act;
use crate::domain::revocation::Reason;
use axum::response::Response;
use http::{Method, StatusCode};
use muster_pki::armor;
use muster_wire::id::ObserverName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An observer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Observer {
    /// Its name, which is its MQTT client id.
    name: String,
    /// `active`, `expired` or `revoked`.
    state: String,
    certificate: ObserverCertificate,
    created_at: String,
    created_by: String,
    revoked_at: Option<String>,
    /// Why it was revoked.
    reason: Option<String>,
}

/// An observer's certificate.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ObserverCertificate {
    serial: String,
    sha256: String,
    not_after: String,
}

/// All observers.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ObserverList {
    items: Vec<Observer>,
    /// Always null: the list is whole.
    next: Option<String>,
}

/// Who is added.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AddObserver {
    /// 1 to 64 of `a-z`, `0-9`, `.`, `-`, `_`; begins with a letter and is no UUID.
    name: String,
    /// PKCS #10 request, PEM or base64; only its key counts.
    csr: String,
}

/// An observer that was added.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AddedObserver {
    observer: Observer,
    /// Its certificate, PEM.
    pem: String,
    /// The root that the gate's own certificate leads to, PEM.
    root_pem: String,
}

/// How an observer ends.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RevokeObserver {
    /// Why, by a name of contract.md; `unspecified` when left out.
    reason: Option<String>,
}

pub(super) fn routes(routes: Routes) -> Routes {
    let list = Doc::get("Every observer, by name.", "ObserverList");
    let add =
        Doc::post("Gives an observer a certificate for the event topics.", "AddObserver", "AddedObserver");
    let revoke = Doc::post("Ends an observer's certificate and its session.", "RevokeObserver", "Observer")
        .or_nothing();
    routes
        .on(Method::GET, "/v1/observers", list, index)
        .on(Method::POST, "/v1/observers", add.status(201), create)
        .verb("/v1/observers", "revoke", revoke, end)
}

async fn index(ctx: Ctx<act::ReadObserver>) -> Result<Response, HttpError> {
    let now = ctx.app.clock().now_s();
    let items = ctx.app.observers(&ctx.permit)?.into_iter().map(|one| view(one, now)).collect();
    json(StatusCode::OK, &ObserverList { items, next: None })
}

async fn create(ctx: Ctx<act::AddObserver>) -> Result<Response, HttpError> {
    let asked: AddObserver = ctx.json()?;
    let expected = "must be 1 to 64 of a-z, 0-9, '.', '-', '_', begin with a letter and be no UUID";
    let name: ObserverName =
        asked.name.parse().map_err(|_| Error::Invalid { field: "name", expected: expected.to_owned() })?;
    super::slot(&ctx).await?;
    let (observer, der) = ctx.app.add_observer(ctx.permit, name, asked.csr.as_bytes()).await?;
    let added = AddedObserver {
        observer: view(observer, ctx.app.clock().now_s()),
        pem: armor::pem("CERTIFICATE", &der),
        root_pem: armor::pem("CERTIFICATE", ctx.app.ca().root_der()),
    };
    json(StatusCode::CREATED, &added)
}

async fn end(ctx: Ctx<act::RevokeObserver>) -> Result<Response, HttpError> {
    let name: ObserverName = ctx.param("id", "observer")?;
    let asked: RevokeObserver = if ctx.body.is_empty() { RevokeObserver::default() } else { ctx.json()? };
    let words = || Reason::ALL.map(Reason::as_str).join(", ");
    let reason = match asked.reason.as_deref() {
        None => Reason::Unspecified,
        Some(word) => word.parse().map_err(|_| Error::Invalid {
            field: "reason",
            expected: format!("must be one of {}", words()),
        })?,
    };
    super::slot(&ctx).await?;
    let observer = ctx.app.revoke_observer(ctx.permit, &name, reason).await?;
    json(StatusCode::OK, &view(observer, ctx.app.clock().now_s()))
}

fn view(observer: observer::Observer, now: i64) -> Observer {
    Observer {
        state: observer.state(now).to_owned(),
        name: observer.name.to_string(),
        certificate: ObserverCertificate {
            serial: observer.certificate.serial.to_string(),
            sha256: observer.certificate.sha256.to_hex(),
            not_after: timestamp(observer.certificate.not_after),
        },
        created_at: timestamp(observer.created_at),
        created_by: observer.created_by,
        revoked_at: observer.revoked.map(|revoked| timestamp(revoked.at)),
        reason: observer.revoked.map(|revoked| revoked.reason.as_str().to_owned()),
    }
}
