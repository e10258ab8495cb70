//! `/v1/ca`, `/v1/authority`, `/v1/profiles`: what this installation is.

use super::problem::HttpError;
use super::routes::{Ctx, Doc, Routes};
use super::{json, timestamp};
use crate::app::{self, Error, Role};
use crate::domain::policy::act;
use axum::response::Response;
use http::{Method, StatusCode};
use muster_firmware_profiles::profile::Profile;
use serde::Serialize;
use utoipa::ToSchema;

/// A CA certificate.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CaCertificate {
    /// Its name in paths.
    name: String,
    serial: String,
    sha256: String,
    spki_sha256: String,
    not_before: String,
    not_after: String,
    pem: String,
}

/// An issuing CA that signs no certificates any more.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FormerCa {
    #[serde(flatten)]
    certificate: CaCertificate,
    /// When the last certificate by it expires.
    last_leaf: String,
}

/// How many of the devices that renew have an authority.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AcknowledgedCa {
    held: u64,
    missing: u64,
    /// The first of the missing.
    devices: Vec<String>,
}

/// The hierarchy.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Ca {
    root: CaCertificate,
    /// Signs device certificates.
    issuing: CaCertificate,
    names: CaCertificate,
    /// Will sign device certificates once it is activated.
    next: Option<CaCertificate>,
    /// Signed device certificates, some of which are valid; oldest first.
    former: Vec<FormerCa>,
    /// Which devices have the authority that was added last; null where none was ever added.
    acknowledged: Option<AcknowledgedCa>,
    /// Where the CRL of a shard is; `{shard}` is two hexadecimal digits.
    crl: String,
}

/// A CRL that was signed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Crl {
    issuer: String,
    shard: String,
    number: u64,
    this_update: String,
    entries: u64,
    url: String,
}

/// Every CRL that was ever asked for.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CrlList {
    items: Vec<Crl>,
    /// Always null: the list is whole.
    next: Option<String>,
}

/// Who may order what.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Authority {
    version: u64,
    /// SHA-256 of the first document, as enrolment strings carry it.
    digest: String,
    /// SHA-256 of the newest document.
    sha256: String,
    trust_domain: String,
    approvers: Vec<Approver>,
    recovery: Vec<Approver>,
    /// Approvers needed, by matter.
    #[schema(value_type = Object)]
    required: std::collections::BTreeMap<String, u64>,
    /// Base64 of each signed document, oldest first.
    chain: Vec<String>,
    /// Which devices were told of the newest; null where there was never a successor.
    heard: Option<AuthorityHeard>,
}

/// How many of the devices that renew were told of a document.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AuthorityHeard {
    held: u64,
    missing: u64,
    /// The first of the missing.
    devices: Vec<String>,
}

/// Someone whose signature counts.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Approver {
    name: String,
    /// Ed25519 public key, hexadecimal.
    key: String,
    /// The key's name in signatures and in the audit log.
    key_id: String,
    /// When they joined; null for recovery keys.
    valid_from: Option<String>,
    /// From when on their signature counts: founding approvers' at once, others' a day after they joined.
    counts_from: Option<String>,
}

/// A firmware profile, in short.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ProfileView {
    name: String,
    description: String,
    /// Digest of what it says.
    version: String,
    personal: bool,
    validity_days: u16,
    /// Everything it says.
    #[schema(value_type = Object)]
    profile: serde_json::Value,
}

/// Every profile.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ProfileList {
    items: Vec<ProfileView>,
    /// Always null: the list is whole.
    next: Option<String>,
}

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .on(Method::GET, "/v1/ca", Doc::get("Root, issuing CAs and server-names CA.", "Ca"), ca)
        .on(Method::GET, "/v1/ca/crl", Doc::get("The CRLs that were signed.", "CrlList"), crls)
        .on(Method::GET, "/v1/authority", Doc::get("The authority chain.", "Authority"), authority)
        .on(Method::GET, "/v1/profiles", Doc::get("Firmware profiles.", "ProfileList"), profiles)
        .on(Method::GET, "/v1/profiles/{id}", Doc::get("One firmware profile.", "Profile"), profile)
}

async fn ca(ctx: Ctx<act::ReadCa>) -> Result<Response, HttpError> {
    let (mut root, mut issuing, mut names, mut next, mut former) = (None, None, None, None, Vec::new());
    for shown in ctx.app.hierarchy(&ctx.permit)? {
        let (role, certificate) = (shown.role, certificate(shown));
        match role {
            Role::Root => root = Some(certificate),
            Role::Issuing => issuing = Some(certificate),
            Role::Names => names = Some(certificate),
            Role::Next => next = Some(certificate),
            Role::Former { last_leaf } => {
                former.push(FormerCa { certificate, last_leaf: timestamp(last_leaf) });
            }
        }
    }
    let acknowledged = ctx.app.acknowledged(&ctx.permit)?.map(|counted| AcknowledgedCa {
        held: counted.held,
        missing: counted.missing,
        devices: counted.named.iter().map(ToString::to_string).collect(),
    });
    let missing = || HttpError::from(Error::NotFound { kind: "CA certificate" });
    let (root, issuing) = (root.ok_or_else(missing)?, issuing.ok_or_else(missing)?);
    let names = names.ok_or_else(missing)?;
    let crl = ctx.app.crl_url_template();
    json(StatusCode::OK, &Ca { root, issuing, names, next, former, acknowledged, crl })
}

async fn crls(ctx: Ctx<act::ReadCa>) -> Result<Response, HttpError> {
    let items = ctx.app.crl_heads(&ctx.permit)?.into_iter().map(|head| Crl {
        issuer: head.issuer,
        shard: format!("{:02x}", head.shard),
        number: head.number,
        this_update: timestamp(head.this_update),
        entries: head.entries,
        url: head.url,
    });
    json(StatusCode::OK, &CrlList { items: items.collect(), next: None })
}

async fn authority(ctx: Ctx<act::ReadAuthority>) -> Result<Response, HttpError> {
    let shown = ctx.app.authority(&ctx.permit);
    let approver = |shown: app::SignerShown| Approver {
        name: shown.name,
        key: hex::encode(shown.key.as_bytes()),
        key_id: shown.key.key_id().to_string(),
        valid_from: shown.valid_from.map(timestamp),
        counts_from: shown.counts_from.map(timestamp),
    };
    let view = Authority {
        version: shown.version,
        digest: shown.digest.to_hex(),
        sha256: shown.newest.to_hex(),
        trust_domain: shown.trust_domain,
        approvers: shown.approvers.into_iter().map(approver).collect(),
        recovery: shown.recovery.into_iter().map(approver).collect(),
        required: shown.required,
        chain: shown.chain,
        heard: ctx.app.authority_heard(&ctx.permit)?.map(|counted| AuthorityHeard {
            held: counted.held,
            missing: counted.missing,
            devices: counted.named.iter().map(ToString::to_string).collect(),
        }),
    };
    json(StatusCode::OK, &view)
}

async fn profiles(ctx: Ctx<act::ReadProfile>) -> Result<Response, HttpError> {
    let items = ctx.app.profiles(&ctx.permit).iter().map(view).collect::<Result<_, _>>()?;
    json(StatusCode::OK, &ProfileList { items, next: None })
}

async fn profile(ctx: Ctx<act::ReadProfile>) -> Result<Response, HttpError> {
    let name: String = ctx.param("id", "profile")?;
    let found = ctx.app.profiles(&ctx.permit).get(&name).ok_or(Error::NotFound { kind: "profile" })?;
    json(StatusCode::OK, &view(found)?)
}

fn view(profile: &Profile) -> Result<ProfileView, HttpError> {
    let whole = serde_json::to_value(profile)
        .map_err(|error| app::Error::internal("writing a profile as JSON")(Box::new(error)))?;
    Ok(ProfileView {
        name: profile.name.clone(),
        description: profile.description.clone(),
        version: profile.version().to_string(),
        personal: profile.personal,
        validity_days: profile.certificate.validity_days,
        profile: whole,
    })
}

fn certificate(shown: app::CaShown) -> CaCertificate {
    CaCertificate {
        name: shown.name,
        serial: shown.serial,
        sha256: shown.sha256.to_hex(),
        spki_sha256: shown.spki_sha256.to_hex(),
        not_before: timestamp(shown.not_before),
        not_after: timestamp(shown.not_after),
        pem: shown.pem,
    }
}
