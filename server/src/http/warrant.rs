//! `/v1/warrants`, and the acts on a device that come to a warrant.

use super::cursor::List as Listed;
use super::problem::HttpError;
use super::routes::{Ctx, Doc, Routes};
use super::{json, page_limit, timestamp};
use crate::app::{Aim, Error, Requested as Came, WarrantRequest, WarrantShown};
use crate::domain::deprovision::Phase;
use crate::domain::device::DeviceState;
use crate::domain::order::Ask;
use crate::domain::policy::act;
use crate::domain::warrant::{DEADLINE_S, VALID_S};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Method, StatusCode, header};
use muster_wire::id::{DeviceId, WarrantId};
use muster_wire::warrant::{Kind, Level};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A warrant, as contract.md pins it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Warrant {
    #[schema(value_type = String)]
    id: WarrantId,
    /// `wipe`, `wipe_on_lapse`, `lock` or `stop`.
    kind: String,
    /// How far a wipe goes; null for other kinds.
    level: Option<String>,
    /// How many devices it names.
    count: u64,
    /// How many approvers have to sign.
    required: usize,
    /// The approvers who have signed and count now.
    signed_by: Vec<String>,
    /// `requested`, `warranted`, `done`, `stopped` or `lapsed`.
    state: String,
    /// For a wipe: from when on its devices are doomed; null for other kinds.
    deadline: Option<String>,
    not_after: String,
    made_by: String,
    made_at: String,
    /// Devices for which there are orders.
    ordered: u64,
    /// Devices that have ended, whatever came of them.
    ended: u64,
    /// Of these, those with proof.
    proven: u64,
    action: Action,
    /// What approvers sign, base64; null in lists.
    payload: Option<String>,
    /// The devices, in the order of the tree whose root is signed; null in lists.
    targets: Option<Vec<Target>>,
}

/// What every order under a warrant asks.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Action {
    kind: String,
    level: Option<String>,
    /// For a wipe on lapse: seconds of the device's running without a newer word.
    after_s: Option<u64>,
    /// What a wipe destroys besides what is managed.
    data_roots: Vec<String>,
    /// The warrant that is stopped.
    warrant: Option<String>,
}

/// A device that a warrant names: a leaf of its tree.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Target {
    #[schema(value_type = String)]
    device: DeviceId,
    serial: Option<String>,
    owner: Option<String>,
    kind: String,
    level: Option<String>,
    /// How far its order has come, as `muster order show` names it; null before there is one, and outside
    /// `GET /v1/warrants/{id}`.
    phase: Option<String>,
    /// Why the device did not carry it out, in its own words.
    reason: Option<String>,
}

/// Part of a list of warrants.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WarrantPage {
    items: Vec<Warrant>,
    /// Where the next part begins.
    next: Option<String>,
}

/// What is to be warranted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RequestWarrant {
    /// `wipe`, `lock`, or `wipe_on_lapse`: the device clears itself when its lease lapses.
    kind: String,
    /// `retire`, `clear`, `crypto-erase` or `factory-reset`, for a wipe; `clear` for a wipe on lapse; none for a lock.
    #[serde(default)]
    level: Option<String>,
    /// For a wipe on lapse: seconds of the device's running without a newer word, 3,600 to 31,622,400.
    #[serde(default)]
    after_s: Option<u64>,
    /// Of which devices; frozen from now on.
    #[schema(value_type = Vec<String>)]
    devices: Vec<DeviceId>,
    /// Seconds until a device without proof is doomed; 7 days when absent.
    #[serde(default)]
    deadline_s: Option<i64>,
    /// Seconds until the warrant ends; 365 days when absent.
    #[serde(default)]
    valid_s: Option<i64>,
    /// Only say what it would come to.
    #[serde(default)]
    preview: bool,
}

/// How a device is to be let go. The whole body may be left out.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DeprovisionDevice {
    /// `retire`, `clear`, `crypto-erase` or `factory-reset`; `retire` when absent.
    #[serde(default)]
    level: Option<String>,
    /// Seconds until the device is doomed without proof; 7 days when absent.
    #[serde(default)]
    deadline_s: Option<i64>,
    /// Seconds until the warrant ends; 365 days when absent.
    #[serde(default)]
    valid_s: Option<i64>,
    /// Only say what it would come to.
    #[serde(default)]
    preview: bool,
}

/// How waiting for a doomed device is given up. The whole body may be left out.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RetireDevice {
    /// Only say what it would come to.
    #[serde(default)]
    preview: bool,
}

/// What was asked for, or would be.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RequestedWarrant {
    /// Its id; null in a preview.
    warrant: Option<String>,
    kind: String,
    level: Option<String>,
    #[schema(value_type = Vec<String>)]
    devices: Vec<DeviceId>,
    count: u64,
    /// How many approvers have to sign.
    required: usize,
    /// How many there are.
    approvers: usize,
    /// How many of them count now: who has joined waits for a day.
    approvers_counting: usize,
    /// State of its devices where they are let go, else of the warrant.
    state: String,
    /// Phase of its devices where they are let go.
    phase: Option<String>,
    /// For a wipe: from when on its devices are doomed; null for other kinds.
    deadline: Option<String>,
    not_after: String,
    /// In a preview of what is beyond the budget: until when it waits once it is asked for.
    waits_until: Option<String>,
    action: Action,
    /// Its devices, as they were before.
    targets: Vec<RequestedTarget>,
}

/// A device that a warrant is asked for.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RequestedTarget {
    #[schema(value_type = String)]
    device: DeviceId,
    serial: Option<String>,
    owner: Option<String>,
    profile: String,
    site: Option<String>,
    state: String,
    /// When its last report came.
    last_seen: Option<String>,
}

/// Signatures of approvers.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Signatures {
    /// Base64 of a COSE_Sign: over the warrant's payload, or for a stop, of a warrant of the kind `stop`.
    signed: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    cursor: Option<String>,
    limit: Option<u32>,
}

pub(super) fn routes(routes: Routes) -> Routes {
    let list = Doc::get("Warrants, oldest first.", "WarrantPage").query(&["cursor", "limit"]);
    let ask = Doc::post("Asks for a warrant; approvers sign it.", "RequestWarrant", "RequestedWarrant");
    let leave =
        Doc::post("Asks for a warrant that lets a device go.", "DeprovisionDevice", "RequestedWarrant")
            .or_nothing();
    let retire = Doc::post("Gives up waiting for a doomed device.", "RetireDevice", "Device").or_nothing();
    let sign = Doc::post("Hands in approvers' signatures.", "Signatures", "Warrant");
    let stop = Doc::post("Hands in an approver's word that it is stopped.", "Signatures", "Warrant");
    routes
        .on(Method::GET, "/v1/warrants", list, index)
        .on(Method::POST, "/v1/warrants", ask.status(201), request)
        .on(Method::GET, "/v1/warrants/{id}", Doc::get("One warrant, as it is signed.", "Warrant"), show)
        .verb("/v1/warrants", "sign", sign, hand_in)
        .verb("/v1/warrants", "stop", stop, halt)
        .verb("/v1/devices", "deprovision", leave.status(201), deprovision)
        .verb("/v1/devices", "retire", retire, give_up)
}

async fn index(ctx: Ctx<act::ReadWarrant>) -> Result<Response, HttpError> {
    let list: List = ctx.query()?;
    let listed = Listed { path: "/v1/warrants", filter: &[] };
    let place = listed.place(&ctx.app, list.cursor.as_deref())?;
    let page = ctx.app.warrants(&ctx.permit, place.as_deref(), page_limit(list.limit)?)?;
    let next = listed.cursor(&ctx.app, page.next.as_deref());
    let row = |shown| Warrant { payload: None, targets: None, ..view(shown) };
    let items = page.items.into_iter().map(row).collect();
    json(StatusCode::OK, &WarrantPage { items, next })
}

async fn show(ctx: Ctx<act::ReadWarrant>) -> Result<Response, HttpError> {
    respond(ctx.app.show_warrant(&ctx.permit, ctx.param("id", "warrant")?)?)
}

async fn request(ctx: Ctx<act::RequestWarrant>) -> Result<Response, HttpError> {
    let asked: RequestWarrant = ctx.json()?;
    let kinds = [Kind::Wipe, Kind::Lock, Kind::WipeOnLapse];
    let kind = kinds.into_iter().find(|kind| kind.as_str() == asked.kind).ok_or_else(|| Error::Invalid {
        field: "kind",
        expected: format!("must be one of {}", kinds.map(Kind::as_str).join(", ")),
    })?;
    let wanted = WarrantRequest {
        kind,
        level: asked.level.as_deref().map(level).transpose()?,
        after_s: asked.after_s,
        devices: asked.devices,
        deadline_s: asked.deadline_s.unwrap_or(DEADLINE_S),
        valid_s: asked.valid_s.unwrap_or(VALID_S),
    };
    carry_out(ctx, &wanted, asked.preview).await
}

async fn deprovision(ctx: Ctx<act::RequestWarrant>) -> Result<Response, HttpError> {
    let id: DeviceId = ctx.param("id", "device")?;
    let asked: DeprovisionDevice =
        if ctx.body.is_empty() { DeprovisionDevice::default() } else { ctx.json()? };
    let wanted = WarrantRequest {
        kind: Kind::Wipe,
        level: Some(asked.level.as_deref().map_or(Ok(Level::Retire), level)?),
        after_s: None,
        devices: vec![id],
        deadline_s: asked.deadline_s.unwrap_or(DEADLINE_S),
        valid_s: asked.valid_s.unwrap_or(VALID_S),
    };
    super::if_match(&ctx, || Ok(ctx.app.version_of(id)?))?;
    carry_out(ctx, &wanted, asked.preview).await
}

async fn carry_out(
    ctx: Ctx<act::RequestWarrant>,
    wanted: &WarrantRequest,
    preview: bool,
) -> Result<Response, HttpError> {
    if preview {
        let came = ctx.app.preview_warrant(&ctx.permit, wanted).await?;
        return json(StatusCode::OK, &requested(came, true));
    }
    let slot = super::slot(&ctx).await?;
    let came = ctx.app.request_warrant(ctx.permit, wanted, slot.as_ref()).await?;
    json(StatusCode::CREATED, &requested(came, false))
}

async fn hand_in(ctx: Ctx<act::SignWarrant>) -> Result<Response, HttpError> {
    let id = ctx.param("id", "warrant")?;
    let signed = signatures(&ctx.json()?)?;
    super::slot(&ctx).await?;
    respond(ctx.app.sign_warrant(ctx.permit, id, &signed).await?)
}

async fn halt(ctx: Ctx<act::StopWarrant>) -> Result<Response, HttpError> {
    let id = ctx.param("id", "warrant")?;
    let signed = signatures(&ctx.json()?)?;
    super::slot(&ctx).await?;
    respond(ctx.app.stop_warrant(ctx.permit, id, &signed).await?)
}

async fn give_up(ctx: Ctx<act::RetireDevice>) -> Result<Response, HttpError> {
    let id = ctx.param("id", "device")?;
    let asked: RetireDevice = if ctx.body.is_empty() { RetireDevice::default() } else { ctx.json()? };
    if asked.preview {
        let foreseen = ctx.app.foresee_retire(&ctx.permit, id).await?;
        return super::device::foreseen(foreseen, &ctx.app);
    }
    super::slot(&ctx).await?;
    super::if_match(&ctx, || Ok(ctx.app.version_of(id)?))?;
    let shown = ctx.app.retire(ctx.permit, id).await?;
    super::device::respond(shown, &ctx.app)
}

fn level(word: &str) -> Result<Level, Error> {
    Level::from_word(word).ok_or_else(|| Error::Invalid {
        field: "level",
        expected: format!(
            "must be one of {}",
            Level::ALL.iter().map(|one| one.as_str()).collect::<Vec<_>>().join(", ")
        ),
    })
}

fn signatures(handed: &Signatures) -> Result<Vec<u8>, Error> {
    STANDARD
        .decode(handed.signed.as_bytes())
        .map_err(|_| Error::Invalid { field: "signed", expected: "must be base64".to_owned() })
}

fn respond(shown: WarrantShown) -> Result<Response, HttpError> {
    let tag = super::etag(shown.version);
    let mut response = json(StatusCode::OK, &view(shown))?;
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Ok(response)
}

fn action(ask: &Ask) -> Action {
    let (data_roots, warrant) = match ask {
        Ask::Wipe { data_roots, .. } | Ask::WipeOnLapse { data_roots, .. } => (data_roots.clone(), None),
        Ask::Stop { warrant } => (Vec::new(), Some(warrant.to_string())),
        Ask::RotateIdentity | Ask::CollectPosture | Ask::Lock | Ask::Unlock => (Vec::new(), None),
    };
    let level = ask.level().map(|level| level.to_string());
    let after_s = if let Ask::WipeOnLapse { after_s, .. } = ask { Some(*after_s) } else { None };
    Action { kind: ask.as_str().to_owned(), level, after_s, data_roots, warrant }
}

fn view(shown: WarrantShown) -> Warrant {
    let (record, mut came) = (shown.record, shown.came);
    let mut target = |target: muster_wire::warrant::Target| Target {
        phase: came.get(&target.device).map(|came| came.phase.as_str().to_owned()),
        reason: came.remove(&target.device).and_then(|came| came.reason),
        device: target.device,
        serial: target.serial,
        owner: target.owner,
        kind: target.kind.to_string(),
        level: target.level.map(|level| level.to_string()),
    };
    Warrant {
        id: record.id,
        kind: record.kind().to_string(),
        level: record.level().map(|level| level.to_string()),
        count: record.count,
        required: shown.required,
        signed_by: shown.signed_by,
        state: shown.state.as_str().to_owned(),
        deadline: (record.kind() == Kind::Wipe).then(|| timestamp(record.deadline)),
        not_after: timestamp(record.not_after),
        made_at: timestamp(record.made_at),
        ordered: record.ordered,
        ended: record.ended,
        proven: record.proven,
        action: action(&record.ask),
        made_by: record.requested_by,
        payload: Some(STANDARD.encode(&shown.payload)),
        targets: Some(shown.targets.into_iter().map(&mut target).collect()),
    }
}

fn requested(came: Came, preview: bool) -> RequestedWarrant {
    let Came { record, aims, required, approvers, counting, waits_until } = came;
    let leaves = record.kind() == Kind::Wipe;
    let target = |aim: &Aim| RequestedTarget {
        device: aim.device.id,
        serial: aim.device.serial.clone(),
        owner: aim.device.owner.clone(),
        profile: aim.device.profile.clone(),
        site: aim.device.site.clone(),
        state: aim.device.state.as_str().to_owned(),
        last_seen: aim.last_seen.map(timestamp),
    };
    let state = if leaves { DeviceState::Deprovisioning.as_str() } else { record.state.as_str() };
    RequestedWarrant {
        warrant: (!preview).then(|| record.id.to_string()),
        kind: record.kind().to_string(),
        level: record.level().map(|level| level.to_string()),
        devices: aims.iter().map(|aim| aim.device.id).collect(),
        count: record.count,
        required,
        approvers,
        approvers_counting: counting,
        state: state.to_owned(),
        phase: leaves.then(|| Phase::Requested.as_str().to_owned()),
        deadline: leaves.then(|| timestamp(record.deadline)),
        not_after: timestamp(record.not_after),
        waits_until: waits_until.map(timestamp),
        action: action(&record.ask),
        targets: aims.iter().map(target).collect(),
    }
}
