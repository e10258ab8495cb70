//! `/v1/authority/pending` and `/v1/authority/signatures`: a successor of the authority document, on its way.
//!
//! What approvers sign travels as bytes and is rendered where it is signed; what is said of it here in words is only for
//! looking.

use super::baseline::tagged;
use super::problem::HttpError;
use super::routes::{Ctx, Doc, Routes};
use super::{json, matches, slot, timestamp};
use crate::app::{Asked, Pending};
use crate::domain::policy::act;
use crate::domain::succession::{self, Changes};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, StatusCode, header};
use muster_wire::approver::ApproverName;
use muster_wire::authority::{Authority, Matter};
use muster_wire::cbor::Document as _;
use muster_wire::key::Ed25519Key;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Somebody with a public key.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NamedKey {
    name: String,
    /// Ed25519 public key, hexadecimal.
    key: String,
}

/// What a successor of the authority document is to change.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ProposeAuthority {
    /// Approvers who join.
    #[serde(default)]
    add_approvers: Vec<NamedKey>,
    /// Approvers who leave, by name.
    #[serde(default)]
    remove_approvers: Vec<String>,
    /// Approvers needed, by matter.
    #[serde(default)]
    required: BTreeMap<String, u64>,
    /// Recovery keys that join.
    #[serde(default)]
    add_recovery: Vec<NamedKey>,
    /// Recovery keys that leave, by name.
    #[serde(default)]
    remove_recovery: Vec<String>,
    /// Whether the server makes a new command key for it.
    #[serde(default)]
    new_command_key: bool,
    /// Whether the server makes a new audit key for it.
    #[serde(default)]
    new_audit_key: bool,
}

/// A copy of the proposal with signatures under it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SignAuthority {
    /// COSE_Sign, base64.
    signature: String,
}

/// How many have to sign, and who has.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Quorum {
    required: u64,
    signed_by: Vec<String>,
}

/// Somebody who has signed and does not count yet.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Waiting {
    name: String,
    counts_from: String,
}

/// A successor of the authority document.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AuthorityProposal {
    version: u64,
    /// `pending` or `in_force`.
    state: String,
    /// SHA-256 of what is signed.
    sha256: String,
    /// COSE_Sign with the signatures so far, base64.
    document: String,
    /// The document in force, base64.
    current: String,
    /// Approvers of the document in force.
    approvers: Quorum,
    /// Approvers of the successor.
    successor_approvers: Quorum,
    /// Recovery keys, of which so many are enough alone; 0 where there are none.
    recovery: Quorum,
    waiting: Vec<Waiting>,
    proposed_at: Option<String>,
    proposed_by: Option<String>,
    /// The proposal in whose place it was just put, where somebody had signed that; null otherwise.
    replaced: Option<ReplacedProposal>,
}

/// A proposal that was signed and is none any more.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ReplacedProposal {
    /// SHA-256 of what was signed.
    sha256: String,
    /// Whose signatures count for nothing now.
    signed_by: Vec<String>,
}

/// Most bytes of a signature in a request: a whole document, base64, as JSON.
const SIGNATURE_BYTES: usize = Authority::MAX_BYTES * 2;

pub(super) fn routes(routes: Routes) -> Routes {
    let propose = Doc::post(
        "Stores a successor of the authority document for signing.",
        "ProposeAuthority",
        "AuthorityProposal",
    );
    let sign = Doc::post("Brings signatures under the successor.", "SignAuthority", "AuthorityProposal");
    let sign = Doc { body_bytes: SIGNATURE_BYTES, ..sign };
    let show = Doc::get("The successor that waits for signatures.", "AuthorityProposal");
    routes
        .on(Method::GET, "/v1/authority/pending", show, pending)
        .on(
            Method::POST,
            "/v1/authority/pending",
            propose.status(201).conditions(&["If-Match", "If-None-Match"]),
            propose_authority,
        )
        .on(Method::POST, "/v1/authority/signatures", sign, sign_authority)
}

async fn pending(ctx: Ctx<act::ReadAuthority>) -> Result<Response, HttpError> {
    let pending = ctx.app.pending_authority(&ctx.permit)?;
    let version = pending.version.unwrap_or_default();
    tagged(json(StatusCode::OK, &view(pending))?, version)
}

async fn propose_authority(ctx: Ctx<act::ProposeAuthority>) -> Result<Response, HttpError> {
    let body: ProposeAuthority = ctx.json()?;
    let asked = Asked {
        new_command_key: body.new_command_key,
        new_audit_key: body.new_audit_key,
        changes: changes(&body)?,
    };
    let kept = slot(&ctx).await?;
    let [wanted, unwanted] =
        [header::IF_MATCH, header::IF_NONE_MATCH].map(|name| ctx.header(name).map(str::to_owned));
    // RFC 9110 §13.1.1 and §13.1.2: `If-None-Match: *` is from whoever saw that nothing is proposed.
    let is_meant = |version: Option<u64>| match version {
        Some(version) => {
            wanted.as_deref().is_none_or(|tags| matches(tags, version))
                && !unwanted.as_deref().is_some_and(|tags| matches(tags, version))
        }
        None => wanted.is_none(),
    };
    json(StatusCode::CREATED, &view(ctx.app.propose_authority(ctx.permit, asked, kept, is_meant).await?))
}

async fn sign_authority(ctx: Ctx<act::SignAuthority>) -> Result<Response, HttpError> {
    let body: SignAuthority = ctx.json()?;
    let copy = STANDARD
        .decode(&body.signature)
        .map_err(|_| HttpError::Malformed { part: "signature", expected: "must be base64".to_owned() })?;
    slot(&ctx).await?;
    json(StatusCode::OK, &view(ctx.app.sign_authority(ctx.permit, &copy).await?))
}

fn changes(body: &ProposeAuthority) -> Result<Changes, HttpError> {
    let required = body.required.iter().map(|(text, count)| {
        let known = Matter::ALL.iter().find(|matter| matter.as_str() == text);
        let expected = || format!("names {text:?}; `muster authority show` lists what can be named");
        known
            .map(|matter| (*matter, *count))
            .ok_or_else(|| HttpError::Malformed { part: "required", expected: expected() })
    });
    Ok(Changes {
        required: required.collect::<Result<_, _>>()?,
        add_approvers: named(&body.add_approvers, "add_approvers")?,
        remove_approvers: names(&body.remove_approvers, "remove_approvers")?,
        add_recovery: named(&body.add_recovery, "add_recovery")?,
        remove_recovery: names(&body.remove_recovery, "remove_recovery")?,
        command_key: None,
        audit_key: None,
    })
}

fn name(text: &str, part: &'static str) -> Result<ApproverName, HttpError> {
    text.parse().map_err(|error: muster_wire::approver::ApproverError| HttpError::Malformed {
        part,
        expected: format!("must hold names: {error}"),
    })
}

fn names(texts: &[String], part: &'static str) -> Result<Vec<ApproverName>, HttpError> {
    texts.iter().map(|text| name(text, part)).collect()
}

fn named(keys: &[NamedKey], part: &'static str) -> Result<Vec<(ApproverName, Ed25519Key)>, HttpError> {
    let unfit = || HttpError::Malformed { part, expected: "must hold Ed25519 public keys".to_owned() };
    let read = |one: &NamedKey| {
        let mut bytes = [0; 32];
        hex::decode_to_slice(&one.key, &mut bytes).map_err(|_| unfit())?;
        Ok((name(&one.name, part)?, Ed25519Key::from_bytes(&bytes).map_err(|_| unfit())?))
    };
    keys.iter().map(read).collect()
}

fn view(pending: Pending) -> AuthorityProposal {
    let quorum = |quorum: succession::Quorum| Quorum {
        required: u64::try_from(quorum.needed).unwrap_or(u64::MAX),
        signed_by: quorum.signed.iter().map(ToString::to_string).collect(),
    };
    let waiting = pending.progress.waiting.iter();
    AuthorityProposal {
        version: pending.next.version,
        state: if pending.is_in_force { "in_force" } else { "pending" }.to_owned(),
        sha256: pending.digest.to_hex(),
        document: STANDARD.encode(&pending.document),
        current: STANDARD.encode(&pending.current),
        waiting: waiting
            .map(|(name, from)| Waiting { name: name.to_string(), counts_from: from.to_string() })
            .collect(),
        approvers: quorum(pending.progress.current),
        successor_approvers: quorum(pending.progress.next),
        recovery: quorum(pending.progress.recovery),
        proposed_at: (pending.proposed_at > 0).then(|| timestamp(pending.proposed_at)),
        proposed_by: (!pending.proposed_by.is_empty()).then_some(pending.proposed_by),
        replaced: pending.replaced.map(|replaced| ReplacedProposal {
            sha256: replaced.digest.to_hex(),
            signed_by: replaced.signed_by,
        }),
    }
}
