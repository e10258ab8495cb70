//! `/v1/devices`.

use super::cursor::List as Listed;
use super::problem::HttpError;
use super::routes::{Ctx, Doc, Routes};
use super::{json, one_of, page_limit, timestamp};
use crate::app::{App, Explanation, Filter, Foreseen, Shown};
use crate::domain::deprovision::Leaving;
use crate::domain::device;
use crate::domain::policy::act;
use crate::domain::posture::{FactNote, PostureRecord};
use crate::domain::quarantine::{BadReason, Because, By, Quarantine as Hold};
use crate::domain::reported::Reported;
use crate::domain::revocation::Reason;
use axum::response::Response;
use http::{HeaderValue, Method, StatusCode, header};
use muster_firmware_profiles::appraise;
use muster_firmware_profiles::profile::Action;
use muster_wire::digest::Sha256Digest;
use muster_wire::id::{AssetId, DeviceId, device_uri};
use muster_wire::rest::DEVICE_STATES;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A device, as contract.md pins it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Device {
    #[schema(value_type = String)]
    id: DeviceId,
    #[schema(value_type = Option<String>)]
    asset: Option<AssetId>,
    serial: Option<String>,
    state: String,
    /// How far it is, or was last, being let go: `requested`, `warranted`, `ordered`, `delivered`, `armed`, `executing`,
    /// `proven`, `refused`, `failed` or `unproven`.
    phase: Option<String>,
    profile: String,
    /// Whether it has an MQTT session.
    connected: bool,
    /// Since when; null while it has none.
    connected_since: Option<String>,
    certificate: Option<Certificate>,
    generation: Generation,
    posture: Posture,
    steps: Steps,
    /// When its last state report came.
    last_contact: Option<String>,
    /// As the agent tells it.
    agent_version: Option<String>,
    site: Option<String>,
    owner: Option<String>,
    labels: BTreeMap<String, String>,
    /// How its life ended.
    retirement: Option<String>,
    /// How it is held, while it is.
    quarantine: Option<Quarantine>,
    created_at: String,
    changed_at: String,
    /// Its name: the URI in its certificates.
    spiffe: String,
    /// In the answer to a preview: what the act would come to.
    #[serde(skip_serializing_if = "Option::is_none")]
    preview: Option<Preview>,
}

/// What an act would come to.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Preview {
    /// Whether anything would change.
    changes: bool,
    /// Where it is beyond the budget: until when it waits once it is asked for.
    waits_until: Option<String>,
}

/// How a device is held.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Quarantine {
    /// `manual` or `rule`.
    by: &'static str,
    /// Who holds it, where a person does.
    operator: Option<String>,
    /// The posture fact that fails, where a rule does.
    fact: Option<String>,
    /// Why, in words.
    reason: String,
    since: String,
    /// The state that it goes back to.
    former: String,
}

/// A device's certificate.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Certificate {
    /// 32 hexadecimal digits.
    serial: String,
    /// Of its DER, hexadecimal.
    #[schema(value_type = String)]
    sha256: Sha256Digest,
    /// `issued`, `current`, `superseded` or `revoked`.
    status: String,
    /// Whether it is on hold, since its device is in quarantine.
    held: bool,
    not_after: String,
}

/// Generations of desired state.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Generation {
    desired: Option<u64>,
    reported: Option<u64>,
}

/// What the device's posture was judged to be.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Posture {
    /// `pass`, `grace`, `fail` or `unknown`; null before the first report.
    verdict: Option<String>,
    /// Facts by name, each `{state, value, evidence, source, collected_at}`. Written by the device.
    #[schema(value_type = Object)]
    facts: BTreeMap<String, serde_json::Value>,
    /// The rules that do not hold.
    failing: Vec<Failing>,
    /// Facts of rules that could not be told and have to be.
    unknown: Vec<String>,
    reported_at: Option<String>,
}

/// A rule that does not hold.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Failing {
    fact: String,
    since: String,
    /// From when on the action is taken.
    due: String,
    /// `warn` or `quarantine`.
    action: String,
    /// What the person at the device does about it.
    remediation: String,
}

/// When a device took which step from enrolment to active, unix milliseconds.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Steps {
    enrolled_at: Option<i64>,
    connected_at: Option<i64>,
    baseline_at: Option<i64>,
    posture_at: Option<i64>,
    order_at: Option<i64>,
    active_at: Option<i64>,
}

/// Part of a list of devices.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DevicePage {
    items: Vec<Device>,
    /// Where the next part begins; null at the end of the list. Where few of many fit a filter, a part may be short
    /// and the list still go on.
    next: Option<String>,
}

/// Why a device is where it is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Explained {
    code: String,
    rule: String,
    field: Option<String>,
    remedy: String,
}

/// Why certificates are revoked.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RevokeDevice {
    /// `unspecified`, `key_compromise`, `affiliation_changed`, `superseded`, `cessation_of_operation` or
    /// `privilege_withdrawn`.
    reason: String,
    /// Only say what it would come to.
    #[serde(default)]
    preview: bool,
}

/// Why a device is held.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct QuarantineDevice {
    /// 1 to 200 bytes of plain text.
    reason: String,
    /// Only say what it would come to.
    #[serde(default)]
    preview: bool,
}

/// Which labels change.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LabelDevice {
    /// Labels to set.
    #[serde(default)]
    set: BTreeMap<String, String>,
    /// Labels to remove, by name.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    remove: std::collections::BTreeSet<String>,
}

/// Why a device is released. The whole body may be left out.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReleaseDevice {
    /// 1 to 200 bytes of plain text.
    #[serde(default)]
    reason: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    cursor: Option<String>,
    limit: Option<u32>,
    state: Option<String>,
    profile: Option<String>,
    site: Option<String>,
    owner: Option<String>,
    serial: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct History {
    cursor: Option<String>,
    limit: Option<u32>,
}

pub(super) fn routes(routes: Routes) -> Routes {
    let list = Doc::get("Devices, oldest first.", "DevicePage");
    let filters = &["cursor", "limit", "state", "profile", "site", "owner", "serial"];
    routes
        .on(Method::GET, "/v1/devices", list.query(filters), index)
        .on(Method::GET, "/v1/devices/{id}", Doc::get("One device.", "Device"), show)
        .on(
            Method::GET,
            "/v1/devices/{id}/history",
            Doc::get("Every audit entry of a device, oldest first.", "AuditPage").query(&["cursor", "limit"]),
            history,
        )
        .on(
            Method::GET,
            "/v1/devices/{id}/explain",
            Doc::get("Why it is where it is, and what would take it further.", "Explained"),
            explain,
        )
        .verb("/v1/devices", "approve", Doc::act("Says yes to a device that waits.", "Device"), approve)
        .verb("/v1/devices", "label", Doc::post("Sets and removes labels.", "LabelDevice", "Device"), label)
        .verb(
            "/v1/devices",
            "unprotect",
            Doc::act("Takes the label from a device that protects it.", "Device"),
            unprotect,
        )
        .verb(
            "/v1/devices",
            "quarantine",
            Doc::post("Holds a device: it may mend itself, nothing more.", "QuarantineDevice", "Device"),
            quarantine,
        )
        .verb(
            "/v1/devices",
            "release",
            Doc::post("Lets a held device go back to where it was.", "ReleaseDevice", "Device").or_nothing(),
            release,
        )
        .verb(
            "/v1/devices",
            "revoke",
            Doc::post("Ends a device's certificates now, without a wipe.", "RevokeDevice", "Device"),
            revoke,
        )
}

async fn index(ctx: Ctx<act::ReadDevice>) -> Result<Response, HttpError> {
    let list: List = ctx.query()?;
    one_of("state", list.state.as_deref(), &DEVICE_STATES)?;
    one_of("profile", list.profile.as_deref(), &ctx.app.profile_names())?;
    let limit = page_limit(list.limit)?;
    let filter = Filter {
        state: list.state,
        profile: list.profile,
        site: list.site,
        owner: list.owner,
        serial: list.serial,
    };
    let Filter { state, profile, site, owner, serial } = &filter;
    let fields = [state, profile, site, owner, serial].map(Option::as_deref);
    let listed = Listed { path: "/v1/devices", filter: &fields };
    let place = listed.place(&ctx.app, list.cursor.as_deref())?;
    let page = ctx.app.devices(&ctx.permit, &filter, place.as_deref(), limit)?;
    let next = listed.cursor(&ctx.app, page.next.as_deref());
    let items = page.items.into_iter().map(|shown| view(shown, &ctx.app)).collect();
    json(StatusCode::OK, &DevicePage { items, next })
}

async fn show(ctx: Ctx<act::ReadDevice>) -> Result<Response, HttpError> {
    let shown = ctx.app.show(&ctx.permit, ctx.param("id", "device")?)?;
    respond(shown, &ctx.app)
}

async fn history(ctx: Ctx<act::ReadDevice>) -> Result<Response, HttpError> {
    let asked: History = ctx.query()?;
    let after = super::parse_sequence(asked.cursor.as_deref())?;
    let id: DeviceId = ctx.param("id", "device")?;
    let page = ctx.app.history(&ctx.permit, id, after, page_limit(asked.limit)?)?;
    json(StatusCode::OK, &super::audit::Page::from(page))
}

async fn explain(ctx: Ctx<act::ReadDevice>) -> Result<Response, HttpError> {
    let Explanation { code, rule, field, remedy } =
        ctx.app.explain(&ctx.permit, ctx.param("id", "device")?)?;
    json(StatusCode::OK, &Explained { code, rule, field, remedy })
}

async fn approve(ctx: Ctx<act::ApproveDevice>) -> Result<Response, HttpError> {
    let id = ctx.param("id", "device")?;
    super::slot(&ctx).await?;
    super::if_match(&ctx, || Ok(ctx.app.version_of(id)?))?;
    let shown = ctx.app.approve(ctx.permit, id).await?;
    respond(shown, &ctx.app)
}

async fn quarantine(ctx: Ctx<act::QuarantineDevice>) -> Result<Response, HttpError> {
    let id = ctx.param("id", "device")?;
    let asked: QuarantineDevice = ctx.json()?;
    let because = because(&asked.reason)?;
    if asked.preview {
        return foreseen(ctx.app.foresee_quarantine(&ctx.permit, id).await?, &ctx.app);
    }
    super::slot(&ctx).await?;
    super::if_match(&ctx, || Ok(ctx.app.version_of(id)?))?;
    let shown = ctx.app.quarantine(ctx.permit, id, &because).await?;
    respond(shown, &ctx.app)
}

async fn label(ctx: Ctx<act::LabelDevice>) -> Result<Response, HttpError> {
    let id = ctx.param("id", "device")?;
    let asked: LabelDevice = ctx.json()?;
    super::slot(&ctx).await?;
    super::if_match(&ctx, || Ok(ctx.app.version_of(id)?))?;
    let shown = ctx.app.label(ctx.permit, id, &asked.set, &asked.remove).await?;
    respond(shown, &ctx.app)
}

async fn unprotect(ctx: Ctx<act::UnprotectDevice>) -> Result<Response, HttpError> {
    let id = ctx.param("id", "device")?;
    super::slot(&ctx).await?;
    let shown = ctx.app.unprotect(ctx.permit, id).await?;
    respond(shown, &ctx.app)
}

async fn release(ctx: Ctx<act::ReleaseDevice>) -> Result<Response, HttpError> {
    let id = ctx.param("id", "device")?;
    let asked: ReleaseDevice = if ctx.body.is_empty() { ReleaseDevice::default() } else { ctx.json()? };
    super::slot(&ctx).await?;
    let because = asked.reason.as_deref().map(because).transpose()?;
    super::if_match(&ctx, || Ok(ctx.app.version_of(id)?))?;
    let shown = ctx.app.release(ctx.permit, id, because.as_ref()).await?;
    respond(shown, &ctx.app)
}

fn because(reason: &str) -> Result<Because, crate::app::Error> {
    reason.parse().map_err(|error: BadReason| crate::app::Error::Invalid {
        field: "reason",
        expected: error.to_string(),
    })
}

async fn revoke(ctx: Ctx<act::RevokeDevice>) -> Result<Response, HttpError> {
    let id = ctx.param("id", "device")?;
    let asked: RevokeDevice = ctx.json()?;
    let reason: Reason = asked.reason.parse().map_err(|_| crate::app::Error::Invalid {
        field: "reason",
        expected: format!("must be one of {}", Reason::ALL.map(Reason::as_str).join(", ")),
    })?;
    if asked.preview {
        return foreseen(ctx.app.foresee_revoke(&ctx.permit, id, reason).await?, &ctx.app);
    }
    super::slot(&ctx).await?;
    super::if_match(&ctx, || Ok(ctx.app.version_of(id)?))?;
    let shown = ctx.app.revoke(ctx.permit, id, reason).await?;
    respond(shown, &ctx.app)
}

impl Generation {
    pub(super) fn of(desired: u64, reported: Option<u64>) -> Self {
        Self { desired: Some(desired), reported }
    }
}

fn posture_view(posture: Option<PostureRecord>) -> Posture {
    let Some(posture) = posture else {
        return Posture {
            verdict: None,
            facts: BTreeMap::new(),
            failing: Vec::new(),
            unknown: Vec::new(),
            reported_at: None,
        };
    };
    let fact = |fact: FactNote| {
        let said = serde_json::json!({
            "state": fact.state,
            "value": fact.value,
            "evidence": fact.evidence,
            "source": fact.source,
            "collected_at": timestamp(fact.collected_at),
        });
        (fact.name, said)
    };
    let failing = |one: appraise::Failing| Failing {
        fact: one.fact,
        since: one.since.to_string(),
        due: one.due.to_string(),
        action: match one.action {
            Action::Warn => "warn",
            Action::Quarantine => "quarantine",
        }
        .to_owned(),
        remediation: one.remediation,
    };
    Posture {
        verdict: Some(posture.verdict.as_str().to_owned()),
        facts: posture.facts.into_iter().map(fact).collect(),
        failing: posture.failing.into_iter().map(failing).collect(),
        unknown: posture.unknown,
        reported_at: Some(timestamp(posture.received_at.div_euclid(1000))),
    }
}

fn steps_view(steps: device::Steps) -> Steps {
    let device::Steps { enrolled_at, connected_at, baseline_at, posture_at, order_at, active_at } = steps;
    Steps { enrolled_at, connected_at, baseline_at, posture_at, order_at, active_at }
}

/// The answer to a preview: the device as it is, and what would become of it.
pub(super) fn foreseen(foreseen: Foreseen, app: &App) -> Result<Response, HttpError> {
    let Foreseen { shown, changes, waits_until } = foreseen;
    let preview = Some(Preview { changes, waits_until: waits_until.map(timestamp) });
    json(StatusCode::OK, &Device { preview, ..view(shown, app) })
}

pub(super) fn respond(shown: Shown, app: &App) -> Result<Response, HttpError> {
    let tag = super::etag(shown.version);
    let mut response = json(StatusCode::OK, &view(shown, app))?;
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Ok(response)
}

/// Whether others see the certificate revoked though its device is still let in for the end of a wipe.
fn is_over(record: &device::CertificateRecord) -> bool {
    matches!(record.leaving, Some(Leaving::Proven { .. } | Leaving::Deprovisioning { doomed_from: 0, .. }))
}

fn quarantine_view(held: Hold) -> Quarantine {
    let (by, operator, fact) = match held.by {
        By::Manual { operator } => ("manual", Some(operator), None),
        By::Rule { fact } => ("rule", None, Some(fact)),
    };
    let former = held.former.as_str().to_owned();
    Quarantine { by, operator, fact, reason: held.reason, since: timestamp(held.since), former }
}

fn view(shown: Shown, app: &App) -> Device {
    let Shown { device, certificate, connected_since, desired, reported, posture, .. } = shown;
    let held = device.certificate().zip(certificate.as_ref()).map(|(held, record)| Certificate {
        serial: held.serial.to_string(),
        sha256: held.sha256,
        status: if is_over(record) { "revoked" } else { record.state.as_str() }.to_owned(),
        held: record.held,
        not_after: timestamp(held.not_after),
    });
    Device {
        preview: None,
        spiffe: device_uri(app.ca().trust_domain().as_str(), device.id),
        certificate: held,
        id: device.id,
        asset: device.asset,
        serial: device.serial,
        state: device.state.as_str().to_owned(),
        phase: device.deprovisioning.map(|leaving| leaving.phase.as_str().to_owned()),
        profile: device.profile,
        connected: connected_since.is_some(),
        connected_since: connected_since.map(timestamp),
        generation: Generation::of(
            desired,
            reported.as_ref().and_then(Reported::in_place).map(|reported| reported.counter),
        ),
        posture: posture_view(posture),
        steps: steps_view(device.steps),
        last_contact: reported.as_ref().map(|reported| timestamp(reported.received_at.div_euclid(1000))),
        agent_version: reported.map(|reported| reported.agent_version),
        site: device.site,
        owner: device.owner,
        labels: device.labels,
        quarantine: device.quarantine.map(quarantine_view),
        retirement: device.retirement.map(|how| how.as_str().to_owned()),
        created_at: timestamp(device.created_at),
        changed_at: timestamp(device.changed_at),
    }
}
