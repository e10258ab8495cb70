//! `/v1/orders`.

use super::cursor::List as Listed;
use super::problem::HttpError;
use super::routes::{Ctx, Doc, Routes};
use super::{json, page_limit, timestamp};
use crate::app::Error;
use crate::domain::order::{Ask, OrderRecord};
use crate::domain::policy::act;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Method, StatusCode, header};
use muster_wire::id::{DeviceId, OrderId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An order, as contract.md pins it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Order {
    #[schema(value_type = String)]
    id: OrderId,
    #[schema(value_type = String)]
    device: DeviceId,
    /// The warrant it stands under; null where its kind needs none.
    warrant: Option<String>,
    /// `rotate_identity`, `collect_posture`, `unlock`, `lock`, `wipe` or `stop`.
    kind: String,
    /// How far a wipe goes; null for other kinds.
    level: Option<String>,
    /// `ordered`, `delivered`, `done`, `refused`, `failed`, `expired` or `stopped`.
    phase: String,
    /// Its place among the orders of the device, from 1.
    sequence: u64,
    receipts: Vec<Receipt>,
    made_by: String,
    made_at: String,
    expires: String,
}

/// What a device said of an order.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Receipt {
    phase: String,
    /// `done`, `refused` or `failed`.
    outcome: String,
    sha256: String,
    at: String,
    /// Why it was not done, in the device's own words.
    reason: Option<String>,
    /// The receipt as it came, base64 of a COSE_Sign1; of orders under a warrant, and not in lists.
    signed: Option<String>,
}

/// Part of a list of orders.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OrderPage {
    items: Vec<Order>,
    /// Where the next part begins.
    next: Option<String>,
}

/// What is to be ordered.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MakeOrder {
    /// Of which device.
    #[schema(value_type = String)]
    device: DeviceId,
    /// `rotate_identity`, `collect_posture` or `unlock`: the kinds that need no approver.
    kind: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    cursor: Option<String>,
    limit: Option<u32>,
    device: Option<DeviceId>,
}

pub(super) fn routes(routes: Routes) -> Routes {
    let list = Doc::get("Orders, oldest first.", "OrderPage").query(&["cursor", "limit", "device"]);
    let make = Doc::post("Orders something of a device that needs no approver.", "MakeOrder", "Order");
    routes
        .on(Method::GET, "/v1/orders", list, index)
        .on(Method::POST, "/v1/orders", make.status(201), make_order)
        .on(Method::GET, "/v1/orders/{id}", Doc::get("One order.", "Order"), show)
}

async fn index(ctx: Ctx<act::ReadOrder>) -> Result<Response, HttpError> {
    let list: List = ctx.query()?;
    let device = list.device.map(|device| device.to_string());
    let listed = Listed { path: "/v1/orders", filter: &[device.as_deref()] };
    let place = listed.place(&ctx.app, list.cursor.as_deref())?;
    let page = ctx.app.orders(&ctx.permit, list.device, place.as_deref(), page_limit(list.limit)?)?;
    let next = listed.cursor(&ctx.app, page.next.as_deref());
    let items = page.items.into_iter().map(view).collect();
    json(StatusCode::OK, &OrderPage { items, next })
}

async fn show(ctx: Ctx<act::ReadOrder>) -> Result<Response, HttpError> {
    let (order, version) = ctx.app.show_order(&ctx.permit, ctx.param("id", "order")?)?;
    let (id, mut shown) = (order.id, view(order));
    for receipt in &mut shown.receipts {
        let Ok(sha256) = receipt.sha256.parse() else { continue };
        receipt.signed = ctx.app.receipt_bytes(&ctx.permit, id, sha256)?.map(|bytes| STANDARD.encode(bytes));
    }
    let mut response = json(StatusCode::OK, &shown)?;
    if let Ok(tag) = HeaderValue::from_str(&super::etag(version)) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Ok(response)
}

async fn make_order(ctx: Ctx<act::MakeOrder>) -> Result<Response, HttpError> {
    let asked: MakeOrder = ctx.json()?;
    super::slot(&ctx).await?;
    let ask = Ask::FREE.into_iter().find(|ask| ask.as_str() == asked.kind).ok_or_else(|| Error::Invalid {
        field: "kind",
        expected: format!("must be one of {}", Ask::FREE.each_ref().map(Ask::as_str).join(", ")),
    })?;
    let order = ctx.app.order(ctx.permit, asked.device, ask).await?;
    json(StatusCode::CREATED, &view(order))
}

fn view(order: OrderRecord) -> Order {
    let receipts = order.receipts.iter().map(|receipt| Receipt {
        phase: receipt.phase.as_str().to_owned(),
        outcome: receipt.outcome.as_str().to_owned(),
        sha256: receipt.sha256.to_hex(),
        at: timestamp(receipt.at),
        reason: receipt.reason.clone(),
        signed: None,
    });
    Order {
        id: order.id,
        device: order.device,
        warrant: order.warrant.map(|warrant| warrant.to_string()),
        kind: order.ask.as_str().to_owned(),
        level: order.ask.level().map(|level| level.to_string()),
        phase: order.phase.as_str().to_owned(),
        sequence: order.counter,
        receipts: receipts.collect(),
        made_at: timestamp(order.made_at),
        expires: timestamp(order.expires),
        made_by: order.by,
    }
}
