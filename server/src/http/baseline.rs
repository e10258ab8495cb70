//! `/v1/baselines`, and the baselines themselves at the devices' door.

use super::problem::HttpError;
use super::routes::{Ctx, Doc, Routes};
use super::{json, timestamp};
use crate::app::{self, App, BaselineShown, Difference, Effect};
use crate::domain::admission::Topics;
use crate::domain::policy::{Principal, act};
use crate::domain::refusal::Refusal;
use axum::body::Body;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Method, StatusCode, header};
use muster_wire::desired::{self as wire, Content};
use muster_wire::digest::Sha256Digest;
use muster_wire::problem::Code;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Most bytes of a baseline in a request: its TOML as JSON.
const BASELINE_BYTES: usize = 2 << 20;

const COSE_SIGN: HeaderValue = HeaderValue::from_static("application/cose; cose-type=\"cose-sign\"");

/// The baseline of a profile.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Baseline {
    profile: String,
    /// Counts the changes of all baselines; 1 is the profile's own.
    generation: u64,
    /// The generation under which devices hear of it: a higher one where the authority document or the issuing CA changed
    /// since.
    heard_as: u64,
    /// Why that is another one; null where it is the same.
    heard_because: Option<String>,
    /// When it was set; null for the profile's own.
    set_at: Option<String>,
    set_by: Option<String>,
    #[schema(value_type = Object)]
    baseline: serde_json::Value,
    /// The lease that its devices get: `lasts_hours` and `on_lapse`; null is none.
    #[schema(value_type = Option<Object>)]
    lease: Option<serde_json::Value>,
    /// Deviations for sites and labels.
    #[schema(value_type = Vec<Object>)]
    overrides: serde_json::Value,
}

/// The baselines of all profiles.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BaselineList {
    items: Vec<Baseline>,
    /// Always null: the list is whole.
    next: Option<String>,
}

/// What setting a baseline did, or would do.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BaselineEffect {
    /// Whether it was only looked at.
    dry_run: bool,
    baseline: Baseline,
    /// Devices of the profile whose life goes on.
    devices: u64,
    /// How many of them get another baseline than they had.
    changed: u64,
    /// What approvers have to sign before devices take it; null where they take it as it is.
    approval: Option<BaselineApproval>,
}

/// Approvers' signatures that devices ask for before they take a baseline.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BaselineApproval {
    /// How many approvers have to sign.
    required: u64,
    /// How many of those are missing; devices refuse the baseline until none is.
    missing: u64,
    /// What needs them: paths, keys and sections.
    items: Vec<String>,
    /// What to do next.
    remedy: String,
}

/// A baseline to be set.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SetBaseline {
    /// Name of the file, for error messages.
    file: Option<String>,
    /// Its text: `profile`, `baseline`, `lease` and `override` as in a firmware profile.
    toml: String,
    /// Only say what it would do.
    #[serde(default)]
    dry_run: bool,
}

/// The baselines that one generation comes to, by site and label, and who has signed them.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BaselinePapers {
    profile: String,
    generation: u64,
    /// The one for a device that stands nowhere in particular, and every other that some device gets.
    items: Vec<BaselinePaper>,
}

/// A baseline as approvers sign it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BaselinePaper {
    /// SHA-256 of what is signed, hexadecimal.
    sha256: String,
    /// How many devices get it now.
    devices: u64,
    /// The approvers who have signed it and count now.
    signed_by: Vec<String>,
    /// How many have to, before a device takes it.
    required: u64,
    /// COSE_Sign, base64.
    document: String,
}

/// Signatures of approvers on a baseline.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SignBaseline {
    /// Base64 of a COSE_Sign over the payload of one of the baselines.
    signed: String,
}

/// What a device should be like, beside what it said.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BaselineDifference {
    generation: super::device::Generation,
    /// The generation as which the baseline was set.
    set_as: u64,
    /// Why another one is desired; null where it is the same.
    desired_because: Option<String>,
    /// SHA-256 of the baseline desired.
    digest: String,
    sections: Vec<Section>,
    /// The first differences it reported.
    drift: Vec<Drift>,
    /// How many there are.
    drift_total: u64,
    /// What approvers have to sign before it takes the baseline; null where it takes it as it is.
    approval: Option<BaselineApproval>,
}

/// A section desired.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Section {
    section: String,
    /// `enforce` or `audit`.
    mode: String,
    /// Paths or keys.
    items: Vec<String>,
}

/// A difference that a device reported.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Drift {
    section: String,
    item: String,
}

/// The operators' routes.
pub(super) fn routes(routes: Routes) -> Routes {
    let set = Doc::post("Sets what devices of a profile should be like.", "SetBaseline", "BaselineEffect");
    let set = Doc { body_bytes: BASELINE_BYTES, ..set };
    let difference = Doc::get("What a device should be like, beside what it said.", "BaselineDifference");
    let sign = Doc::post("Brings approvers' signatures on a baseline.", "SignBaseline", "BaselinePapers");
    let sign = Doc { body_bytes: BASELINE_BYTES, ..sign };
    let papers = Doc::get("What approvers sign of a profile's baseline, and who has.", "BaselinePapers");
    routes
        .on(Method::GET, "/v1/baselines/{id}/papers", papers, papers_of)
        .on(Method::POST, "/v1/baselines/{id}/signatures", sign, sign_baseline)
        .on(Method::GET, "/v1/baselines", Doc::get("The baselines of all profiles.", "BaselineList"), index)
        .on(Method::POST, "/v1/baselines", set, set_baseline)
        .on(Method::GET, "/v1/baselines/{id}", Doc::get("The baseline of a profile.", "Baseline"), show)
        .on(Method::GET, "/v1/devices/{id}/baseline", difference, diff)
}

/// The devices' route.
pub fn device_routes(routes: Routes) -> Routes {
    let fetch = Doc::raw("The baseline that this device was told to have, signed.", 0);
    routes.on(Method::GET, "/.well-known/muster/baselines/{digest}", fetch, fetch_baseline)
}

async fn index(ctx: Ctx<act::ReadBaseline>) -> Result<Response, HttpError> {
    let items = ctx.app.baselines(&ctx.permit)?.into_iter().map(view).collect::<Result<_, _>>()?;
    json(StatusCode::OK, &BaselineList { items, next: None })
}

async fn show(ctx: Ctx<act::ReadBaseline>) -> Result<Response, HttpError> {
    let profile: String = ctx.param("id", "profile")?;
    let shown = ctx.app.baseline(&ctx.permit, &profile)?;
    let version = shown.version;
    tagged(json(StatusCode::OK, &view(shown)?)?, version)
}

async fn set_baseline(ctx: Ctx<act::SetBaseline>) -> Result<Response, HttpError> {
    let asked: SetBaseline = ctx.json()?;
    let file = asked.file.as_deref().unwrap_or("baseline");
    if asked.dry_run {
        let effect = ctx.app.preview_baseline(&ctx.permit, file, &asked.toml)?;
        return json(StatusCode::OK, &effect_view(effect, true)?);
    }
    super::slot(&ctx).await?;
    let wanted = ctx.header(header::IF_MATCH).map(str::to_owned);
    let is_meant = |version| wanted.as_deref().is_none_or(|wanted| super::matches(wanted, version));
    let effect = ctx.app.set_baseline(ctx.permit, file, &asked.toml, is_meant).await?;
    let version = effect.baseline.version;
    tagged(json(StatusCode::OK, &effect_view(effect, false)?)?, version)
}

async fn papers_of(ctx: Ctx<act::ReadBaseline>) -> Result<Response, HttpError> {
    let profile: String = ctx.param("id", "profile")?;
    json(StatusCode::OK, &papers(ctx.app.baseline_papers(&ctx.permit, &profile)?))
}

async fn sign_baseline(ctx: Ctx<act::SignBaseline>) -> Result<Response, HttpError> {
    let profile: String = ctx.param("id", "profile")?;
    let asked: SignBaseline = ctx.json()?;
    let signed = STANDARD
        .decode(asked.signed.as_bytes())
        .map_err(|_| HttpError::Malformed { part: "signed", expected: "must be base64".to_owned() })?;
    super::slot(&ctx).await?;
    json(StatusCode::OK, &papers(ctx.app.sign_baseline(ctx.permit, &profile, &signed).await?))
}

fn papers(found: app::BaselinePapers) -> BaselinePapers {
    let items = found.papers.into_iter().map(|paper| BaselinePaper {
        sha256: paper.digest.to_hex(),
        devices: paper.devices,
        signed_by: paper.signed_by,
        required: paper.required,
        document: STANDARD.encode(&paper.document),
    });
    BaselinePapers { profile: found.profile, generation: found.counter, items: items.collect() }
}

async fn diff(ctx: Ctx<act::ReadBaseline>) -> Result<Response, HttpError> {
    let Difference { desired, set, reported, digest, baseline, drift, drift_total, approval } =
        ctx.app.difference(&ctx.permit, ctx.param("id", "device")?)?;
    let drift =
        drift.into_iter().map(|one| Drift { section: one.section.as_str().to_owned(), item: one.item });
    let difference = BaselineDifference {
        generation: super::device::Generation::of(desired.counter, reported.map(|reported| reported.counter)),
        set_as: set.0,
        desired_because: set.1,
        digest: digest.to_hex(),
        sections: baseline.sections.iter().map(section).collect(),
        drift: drift.collect(),
        drift_total,
        approval: approval.map(|approval| approval_view(approval, false)),
    };
    json(StatusCode::OK, &difference)
}

/// Who may hear `desired` may fetch (contract.md, "Certificate status × door").
async fn fetch_baseline(ctx: Ctx<act::FetchBaseline>) -> Result<Response, HttpError> {
    let hears = ctx.admission.is_some_and(|admission| admission.topics.contains(Topics::DESIRED));
    let device = match (&ctx.permit.caller().principal, hears) {
        (Principal::Device(device), true) => *device,
        _ => return Err(Refusal::by("door.hears_no_desired_state", Code::CertificateRefused).into()),
    };
    let digest: Sha256Digest = ctx.param("digest", "baseline")?;
    let signed = fetched(&ctx.app, &ctx.permit, device, &digest)?;
    let mut response = Response::new(Body::from(signed));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, COSE_SIGN);
    // The digest names the payload; signatures may still be added to it.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    Ok(response)
}

fn fetched(
    app: &App,
    permit: &crate::domain::policy::Permit<act::FetchBaseline>,
    device: muster_wire::id::DeviceId,
    digest: &Sha256Digest,
) -> Result<Vec<u8>, HttpError> {
    Ok(app.fetch_baseline(permit, device, digest)?)
}

/// The answer with the version of what it shows as its `ETag`.
pub(super) fn tagged(mut response: Response, version: u64) -> Result<Response, HttpError> {
    if let Ok(tag) = HeaderValue::from_str(&super::etag(version)) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Ok(response)
}

fn effect_view(effect: Effect, dry_run: bool) -> Result<BaselineEffect, HttpError> {
    Ok(BaselineEffect {
        dry_run,
        baseline: view(effect.baseline)?,
        devices: effect.devices,
        changed: effect.changed,
        approval: effect.approval.map(|approval| approval_view(approval, dry_run)),
    })
}

fn approval_view(approval: app::Approval, dry_run: bool) -> BaselineApproval {
    let remedy = if dry_run { approval.remedy_before_it_is_set() } else { approval.remedy() };
    let app::Approval { required, missing, items, .. } = approval;
    BaselineApproval { required, missing, items, remedy }
}

fn view(shown: BaselineShown) -> Result<Baseline, HttpError> {
    let failed = |error: serde_json::Error| {
        HttpError::App(crate::app::Error::internal("writing a baseline as JSON")(Box::new(error)))
    };
    let (set_at, set_by) = shown.set.map(|(at, by)| (timestamp(at), by)).unzip();
    Ok(Baseline {
        profile: shown.profile,
        generation: shown.counter,
        heard_as: shown.heard.counter,
        heard_because: shown.heard.because,
        set_at,
        set_by,
        baseline: serde_json::to_value(&shown.baseline).map_err(failed)?,
        lease: shown.lease.map(serde_json::to_value).transpose().map_err(failed)?,
        overrides: serde_json::to_value(&shown.overrides).map_err(failed)?,
    })
}

fn section(section: &wire::Section) -> Section {
    let keys = |settings: &[wire::Setting]| settings.iter().map(|setting| setting.key.clone()).collect();
    let items = match &section.content {
        Content::Files(files) => files.iter().map(|file| file.path.clone()).collect(),
        Content::Sysctl(settings) | Content::Ssh(settings) => keys(settings),
        Content::SystemdUnits(units) => units.iter().map(|unit| unit.name.clone()).collect(),
        Content::Time(time) => time.servers.clone(),
        Content::Packages(packages) => packages.iter().map(|package| package.name.clone()).collect(),
        Content::Agent(agent) => agent.declared_roots.clone(),
    };
    Section {
        section: section.content.kind().as_str().to_owned(),
        mode: section.mode.as_str().to_owned(),
        items,
    }
}
