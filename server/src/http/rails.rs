//! `/v1/rails` and `/v1/freeze`: what may be destroyed, what waits and who waives that, and whether anything leaves at all.

use super::problem::HttpError;
use super::routes::{Ctx, Doc, Routes};
use super::{json, slot, timestamp};
use crate::app::{Cooling, Frozen, RailsShown};
use crate::domain::policy::act;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Most bytes of a signature in a request.
const SIGNATURE_BYTES: usize = 32 * 1024;

/// The budget of destructive acts.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Rails {
    /// Devices that 24 hours allow now.
    day: u64,
    used_day: u64,
    /// Devices that an hour allows.
    hour: u64,
    used_hour: u64,
    cooling_off_s: u32,
    waiting: Vec<WaitingAct>,
    /// The freeze that lasts: nothing leaves; null where none does.
    frozen: Option<Freeze>,
}

/// An act beyond the budget.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WaitingAct {
    /// `wipe`, `revoke`, `supersede` or `quarantine`.
    act: String,
    devices: u64,
    by: String,
    since: String,
    /// From when on it is done when it is asked for again.
    until: String,
    /// Whether that is so by now: it has waited long enough, or the wait was waived.
    ready: bool,
    /// Its name: the act and its devices, as a digest.
    key: String,
    /// Approvers needed to waive the wait.
    required: u64,
    signed_by: Vec<String>,
    /// What they sign, with the signatures so far: COSE_Sign, base64.
    waiver: String,
}

/// A freeze.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Freeze {
    /// `frozen` or `lifted`.
    state: String,
    began_at: String,
    by: String,
    /// Approvers needed to lift it.
    required: u64,
    signed_by: Vec<String>,
    /// What they sign, with the signatures so far: COSE_Sign, base64.
    lift: String,
}

/// A copy of the lift or of the waiver with signatures under it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LiftFreeze {
    /// COSE_Sign, base64.
    signature: String,
}

pub(super) fn routes(routes: Routes) -> Routes {
    let lift = Doc::post("Brings approvers' signatures that end a freeze.", "LiftFreeze", "Freeze");
    let lift = Doc { body_bytes: SIGNATURE_BYTES, ..lift };
    let waive = Doc::post("Brings approvers' signatures that end a wait.", "LiftFreeze", "WaitingAct");
    let waive = Doc { body_bytes: SIGNATURE_BYTES, ..waive };
    routes
        .on(Method::GET, "/v1/rails", Doc::get("The budget of destructive acts.", "Rails"), rails)
        .on(Method::GET, "/v1/freeze", Doc::get("The freeze that lasts.", "Freeze"), show)
        .on(Method::POST, "/v1/freeze", Doc::act("Stops everything that leaves.", "Freeze"), freeze)
        .on(Method::POST, "/v1/freeze/signatures", lift, lift_freeze)
        .on(Method::POST, "/v1/rails/{key}/signatures", waive, waive_cooling_off)
}

async fn rails(ctx: Ctx<act::ReadRails>) -> Result<Response, HttpError> {
    let RailsShown { limits, day, used_hour, used_day, waiting, frozen } = ctx.app.rails(&ctx.permit)?;
    let shown = Rails {
        day,
        used_day,
        hour: limits.hour.into(),
        used_hour,
        cooling_off_s: limits.cooling_off_s,
        waiting: waiting.into_iter().map(waits).collect(),
        frozen: frozen.map(view),
    };
    json(StatusCode::OK, &shown)
}

async fn show(ctx: Ctx<act::ReadRails>) -> Result<Response, HttpError> {
    json(StatusCode::OK, &view(ctx.app.frozen(&ctx.permit)?))
}

async fn freeze(ctx: Ctx<act::Freeze>) -> Result<Response, HttpError> {
    slot(&ctx).await?;
    json(StatusCode::OK, &view(ctx.app.freeze(ctx.permit).await?))
}

async fn lift_freeze(ctx: Ctx<act::LiftFreeze>) -> Result<Response, HttpError> {
    let copy = copy(&ctx.json()?)?;
    slot(&ctx).await?;
    json(StatusCode::OK, &view(ctx.app.lift_freeze(ctx.permit, &copy).await?))
}

async fn waive_cooling_off(ctx: Ctx<act::WaiveCoolingOff>) -> Result<Response, HttpError> {
    let copy = copy(&ctx.json()?)?;
    let key = ctx.param::<String>("key", "cooling-off")?;
    slot(&ctx).await?;
    json(StatusCode::OK, &waits(ctx.app.waive(ctx.permit, &key, &copy).await?))
}

fn copy(body: &LiftFreeze) -> Result<Vec<u8>, HttpError> {
    STANDARD
        .decode(&body.signature)
        .map_err(|_| HttpError::Malformed { part: "signature", expected: "must be base64".to_owned() })
}

fn waits(Cooling { waiting, is_ready, waiver, required, signed_by }: Cooling) -> WaitingAct {
    WaitingAct {
        act: waiting.act,
        devices: waiting.devices,
        by: waiting.by,
        since: timestamp(waiting.since),
        until: timestamp(waiting.until),
        ready: is_ready,
        key: waiting.key,
        required,
        signed_by,
        waiver: STANDARD.encode(&waiver),
    }
}

fn view(frozen: Frozen) -> Freeze {
    Freeze {
        state: if frozen.is_lifted { "lifted" } else { "frozen" }.to_owned(),
        began_at: timestamp(frozen.began_at),
        by: frozen.by,
        required: frozen.required,
        signed_by: frozen.signed_by,
        lift: STANDARD.encode(&frozen.lift),
    }
}
