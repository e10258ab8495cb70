//! `/v1/tokens`.

use super::cursor::List as Listed;
use super::problem::HttpError;
use super::routes::{Ctx, Doc, Routes};
use super::{json, one_of, page_limit, timestamp};
use crate::app::{NewTokens, TTL_S};
use crate::domain::policy::act;
use crate::domain::token::{Binding, TokenRecord, TokenState};
use axum::response::Response;
use http::{Method, StatusCode};
use muster_wire::rest::TOKEN_STATES;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// What is asked for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateTokens {
    /// Name of the firmware profile.
    profile: String,
    /// Hardware serial number of the one device that may redeem it.
    serial: Option<String>,
    /// Site the device will belong to.
    site: Option<String>,
    /// Who will be answerable for it.
    owner: Option<String>,
    /// Labels it will carry.
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// Life in seconds, 1 second to 90 days; an hour when left out.
    ttl_s: Option<i64>,
    /// How many one-use tokens, 1 to 10000; one when left out.
    count: Option<u32>,
}

/// A token that has just been made. Its text is never shown again.
#[derive(Serialize, ToSchema)]
pub(super) struct MintedToken {
    /// Its public name.
    #[schema(value_type = String)]
    id: muster_wire::id::TokenId,
    /// The secret.
    token: String,
    /// The secret with everything a device needs to know: one string to paste or scan.
    enrollment: String,
    /// Its profile.
    profile: String,
    /// Good through this second, RFC 3339.
    expires_at: String,
}

/// A token without its text.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Token {
    #[schema(value_type = String)]
    id: muster_wire::id::TokenId,
    profile: String,
    serial: Option<String>,
    site: Option<String>,
    owner: Option<String>,
    labels: BTreeMap<String, String>,
    /// `open`, `claimed`, `spent`, `revoked` or `expired`.
    state: String,
    created_at: String,
    expires_at: String,
    created_by: String,
    /// The device that came of it, or waits for approval.
    #[schema(value_type = Option<String>)]
    device: Option<muster_wire::id::DeviceId>,
    /// The last refusal that someone holding it met.
    last_refusal: Option<Refused>,
}

/// A refusal, for the operator.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Refused {
    code: String,
    rule: String,
    field: Option<String>,
    at: String,
}

/// Part of a list of tokens.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TokenPage {
    items: Vec<Token>,
    /// Where the next part begins; null at the end of the list. Where few of many fit a filter, a part may be short
    /// and the list still go on.
    next: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    cursor: Option<String>,
    limit: Option<u32>,
    state: Option<String>,
    profile: Option<String>,
}

pub(super) fn routes(routes: Routes) -> Routes {
    let list = Doc::get("Tokens, oldest first, without their text.", "TokenPage");
    routes
        .on(Method::GET, "/v1/tokens", list.query(&["cursor", "limit", "state", "profile"]), index)
        .on(
            Method::POST,
            "/v1/tokens",
            Doc::post(
                "Makes enrolment tokens; their text is in this answer only.",
                "CreateTokens",
                "MintedTokens",
            )
            .status(201),
            create,
        )
        .on(Method::GET, "/v1/tokens/{id}", Doc::get("One token, without its text.", "Token"), show)
        .verb("/v1/tokens", "revoke", Doc::act("Takes a token back.", "Token"), revoke)
}

async fn create(ctx: Ctx<act::CreateToken>) -> Result<Response, HttpError> {
    let asked: CreateTokens = ctx.json()?;
    let slot = super::slot(&ctx).await?;
    let request = NewTokens {
        binding: Binding {
            profile: asked.profile,
            serial: asked.serial,
            site: asked.site,
            owner: asked.owner,
            labels: asked.labels,
        },
        ttl_s: asked.ttl_s.unwrap_or(TTL_S),
        count: asked.count.unwrap_or(1),
    };
    let minted = ctx.app.create_tokens(ctx.permit, &request, slot).await?;
    let shown: Vec<MintedToken> = minted
        .into_iter()
        .map(|one| MintedToken {
            id: one.id,
            token: one.token.reveal().to_owned(),
            enrollment: one.enrollment.reveal(),
            profile: one.profile,
            expires_at: timestamp(one.expires_at),
        })
        .collect();
    json(StatusCode::CREATED, &shown)
}

async fn index(ctx: Ctx<act::ReadToken>) -> Result<Response, HttpError> {
    let list: List = ctx.query()?;
    one_of("state", list.state.as_deref(), &TOKEN_STATES)?;
    one_of("profile", list.profile.as_deref(), &ctx.app.profile_names())?;
    let filter = [list.state.as_deref(), list.profile.as_deref()];
    let listed = Listed { path: "/v1/tokens", filter: &filter };
    let place = listed.place(&ctx.app, list.cursor.as_deref())?;
    let now = ctx.app.clock().now_s();
    let fits = |token: &TokenRecord| {
        list.state.as_deref().is_none_or(|state| state == token.shown_state(now))
            && list.profile.as_deref().is_none_or(|profile| profile == token.binding.profile)
    };
    let page = ctx.app.tokens(&ctx.permit, place.as_deref(), page_limit(list.limit)?, fits)?;
    let next = listed.cursor(&ctx.app, page.next.as_deref());
    let items = page.items.into_iter().map(|token| view(token, now)).collect();
    json(StatusCode::OK, &TokenPage { items, next })
}

async fn show(ctx: Ctx<act::ReadToken>) -> Result<Response, HttpError> {
    let token = ctx.app.token(&ctx.permit, ctx.param("id", "token")?)?;
    json(StatusCode::OK, &view(token, ctx.app.clock().now_s()))
}

async fn revoke(ctx: Ctx<act::RevokeToken>) -> Result<Response, HttpError> {
    let id = ctx.param("id", "token")?;
    super::slot(&ctx).await?;
    let now = ctx.app.clock().now_s();
    let token = ctx.app.revoke_token(ctx.permit, id).await?;
    json(StatusCode::OK, &view(token, now))
}

fn view(token: TokenRecord, now: i64) -> Token {
    let device = match token.state {
        TokenState::Claimed { device, .. } | TokenState::Spent { device, .. } => Some(device),
        TokenState::Open | TokenState::Revoked { .. } => None,
    };
    Token {
        id: token.id,
        state: token.shown_state(now).to_owned(),
        profile: token.binding.profile,
        serial: token.binding.serial,
        site: token.binding.site,
        owner: token.binding.owner,
        labels: token.binding.labels,
        created_at: timestamp(token.created_at),
        expires_at: timestamp(token.expires_at),
        created_by: token.created_by,
        device,
        last_refusal: token.last_refusal.map(|last| Refused {
            code: last.code,
            rule: last.rule,
            field: last.field,
            at: timestamp(last.at),
        }),
    }
}
