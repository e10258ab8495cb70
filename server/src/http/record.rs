//! `/v1/devices/{id}/record`: the sanitisation record of a device whose wipe is proven.

use super::problem::HttpError;
use super::routes::{Ctx, Doc, Routes};
use super::{json, timestamp};
use crate::app::SanitisationRecord;
use crate::domain::policy::act;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, StatusCode};
use muster_wire::digest::Sha256Digest;
use muster_wire::id::{DeviceId, OrderId, WarrantId};
use muster_wire::receipt::Receipt as Said;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// What is known of a wipe that was proven: made of verified receipts alone.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Record {
    #[schema(value_type = String)]
    device: DeviceId,
    serial: Option<String>,
    asset: Option<String>,
    owner: Option<String>,
    site: Option<String>,
    profile: String,
    /// `retired(proven)`.
    outcome: String,
    /// The level that the receipts speak of.
    level: String,
    /// `nothing`, `deleted`, `clear` or `cryptographic_erase`: the word that the receipts have earned.
    method: String,
    /// What that word claims and what it does not.
    statement: String,
    /// When the last receipt came.
    proven_at: String,
    warrant: RecordWarrant,
    #[schema(value_type = String)]
    order: OrderId,
    certificate: RecordCertificate,
    receipts: Vec<RecordReceipt>,
    /// Digest of the first authority document, to be compared with what `muster init` printed.
    authority_sha256: String,
    /// Digest of the root's public key, likewise.
    root_spki_sha256: String,
    /// Files by name in base64, with `proof=true`: what `docs/verify-wipe.py` reads.
    proof: Option<BTreeMap<String, String>>,
}

/// By whom the wipe was approved.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RecordWarrant {
    #[schema(value_type = String)]
    id: WarrantId,
    sha256: String,
    level: Option<String>,
    /// How many devices it names.
    count: u64,
    requested_by: String,
    requested_at: String,
    required: usize,
    /// The approvers who have signed and count now.
    signed_by: Vec<String>,
}

/// The certificate whose key has signed the receipts.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RecordCertificate {
    serial: String,
    sha256: String,
}

/// One receipt.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RecordReceipt {
    phase: String,
    outcome: String,
    /// By the device's clock.
    signed_at: String,
    received_at: String,
    sha256: String,
    items: Vec<RecordItem>,
}

/// What became of one thing.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RecordItem {
    what: String,
    /// `cleared`, `deleted`, `key_destroyed`, `kept` or `failed`.
    fate: String,
    size_bytes: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    #[serde(default)]
    proof: bool,
}

pub(super) fn routes(routes: Routes) -> Routes {
    let doc =
        Doc::get("The sanitisation record of a device whose wipe is proven.", "Record").query(&["proof"]);
    routes.on(Method::GET, "/v1/devices/{id}/record", doc, record)
}

async fn record(ctx: Ctx<act::ReadDevice>) -> Result<Response, HttpError> {
    let asked: Asked = ctx.query()?;
    let found = ctx.app.sanitisation_record(&ctx.permit, ctx.param("id", "device")?)?;
    json(StatusCode::OK, &shown(found, asked.proof))
}

fn shown(found: SanitisationRecord, with_proof: bool) -> Record {
    let SanitisationRecord {
        device,
        leaving,
        warrant,
        order,
        certificate,
        receipts,
        method,
        founding,
        root,
        proof,
    } = found;
    let level = receipts.last().and_then(|(said, ..)| said.level).unwrap_or(leaving.level);
    let files = proof.into_iter().map(|(name, content)| (name, STANDARD.encode(content)));
    Record {
        device: device.id,
        outcome: device.standing(),
        serial: device.serial,
        asset: device.asset.map(|asset| asset.to_string()),
        owner: device.owner,
        site: device.site,
        profile: device.profile,
        level: level.to_string(),
        method: method.as_str().to_owned(),
        statement: method.in_words().to_owned(),
        proven_at: timestamp(receipts.last().map_or(0, |(_, at, _)| *at)),
        warrant: RecordWarrant {
            id: warrant.record.id,
            sha256: warrant.record.payload_sha256.to_hex(),
            level: warrant.record.level().map(|level| level.to_string()),
            count: warrant.record.count,
            requested_at: timestamp(warrant.record.made_at),
            requested_by: warrant.record.requested_by,
            required: warrant.required,
            signed_by: warrant.signed_by,
        },
        order,
        certificate: RecordCertificate {
            serial: certificate.serial.to_string(),
            sha256: certificate.sha256.to_hex(),
        },
        receipts: receipts.into_iter().map(receipt).collect(),
        authority_sha256: founding.to_hex(),
        root_spki_sha256: root.to_hex(),
        proof: with_proof.then(|| files.collect()),
    }
}

fn receipt((said, at, sha256): (Said, i64, Sha256Digest)) -> RecordReceipt {
    RecordReceipt {
        phase: said.phase.to_string(),
        outcome: said.outcome.to_string(),
        signed_at: timestamp(said.at.seconds()),
        received_at: timestamp(at),
        sha256: sha256.to_hex(),
        items: said
            .items
            .into_iter()
            .map(|item| RecordItem {
                what: item.what,
                fate: item.fate.to_string(),
                size_bytes: item.size_bytes,
            })
            .collect(),
    }
}
