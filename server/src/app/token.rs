//! Enrolment tokens: made, shown, taken back. Their text is in the answer that makes them and nowhere else.

use super::enroll::ms;
use super::listing::part;
use super::{App, Error, Page};
use crate::ca::random;
use crate::domain::device::Device;
use crate::domain::enrollment::tidy_serial;
use crate::domain::policy::{Permit, act};
use crate::domain::refusal::Refusal;
use crate::domain::text::is_shown;
use crate::domain::token::{Binding, TokenRecord, TokenState};
use crate::store::Batch;
use crate::store::collections::{Held, TOKENS};
use muster_pki::name::{MAX_CHARS, is_printable};
use muster_wire::digest::Sha256Digest;
use muster_wire::enrollment::{EnrollmentString, Token};
use muster_wire::id::TokenId;
use muster_wire::problem::Code;
use muster_wire::rest::TOKEN_LIFE_MAX_S;

/// Most tokens made by one request.
const COUNT_MAX: u32 = 10_000;

/// Life of a token that asks for none: an hour, in seconds.
pub const TTL_S: i64 = 60 * 60;

/// Longest site, owner, label name or label value, in bytes.
const TEXT_MAX: usize = 128;

/// Most labels.
const LABELS_MAX: usize = 16;

/// Tokens of one commit: each is two keys and an audit entry.
const PER_COMMIT: usize = 250;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct NewTokens {
    /// What each is bound to.
    pub binding: Binding,
    /// Life in seconds, 1 second to 90 days.
    pub ttl_s: i64,
    /// How many, 1 to 10,000; a token bound to a serial number comes alone.
    pub count: u32,
}

/// A token that has just been made, with its secret.
#[derive(Debug)]
pub struct Minted {
    /// Its public name.
    pub id: TokenId,
    /// The secret.
    pub token: Token,
    /// The same with everything a device needs to know.
    pub enrollment: EnrollmentString,
    /// Its profile.
    pub profile: String,
    /// Unix seconds; good through this very second.
    pub expires_at: i64,
}

impl App {
    /// Makes tokens. With `seed`, which the caller derives from an idempotency key, the same request makes the
    /// same tokens, and those that are there already are left as they are.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the field; [`Error::Refused`] with `profile_unknown`.
    pub async fn create_tokens(
        &self,
        permit: Permit<act::CreateToken>,
        request: &NewTokens,
        kept: Option<super::idempotency::Slot>,
    ) -> Result<Vec<Minted>, Error> {
        match self.check(request) {
            Err(Error::Refused(refusal)) => return Err(self.decline(&permit, "token/new", refusal).await),
            checked => checked?,
        }
        let now_ms = kept.as_ref().map_or_else(|| self.clock.now_ms(), super::idempotency::Slot::began_ms);
        let minted: Vec<Minted> = (0..request.count)
            .map(|n| self.mint(request, now_ms, kept.as_ref(), n))
            .collect::<Result<_, _>>()?;
        let batch = minted.first().map(|one| one.id);
        for some in minted.chunks(PER_COMMIT) {
            self.keep(&permit, request, (batch, some), now_ms).await?;
        }
        Ok(minted)
    }

    fn mint(
        &self,
        request: &NewTokens,
        now_ms: i64,
        kept: Option<&super::idempotency::Slot>,
        n: u32,
    ) -> Result<Minted, Error> {
        let (entropy, tail) = match kept {
            Some(slot) => (slot.derive(b"token", n), slot.derive(b"token id", n)),
            None => (random(), random()),
        };
        let token = Token::from_entropy(&entropy);
        let enrollment = EnrollmentString {
            host: self.device_address.0.clone(),
            port: self.device_address.1,
            token: token.clone(),
            ca: self.ca.root_pin(),
            auth: self.founding.authority_digest,
        };
        Ok(Minted {
            id: TokenId::from_parts(ms(now_ms), tail),
            token,
            enrollment,
            profile: request.binding.profile.clone(),
            expires_at: now_ms.div_euclid(1000).saturating_add(request.ttl_s),
        })
    }

    /// Commits what is not there yet.
    async fn keep(
        &self,
        permit: &Permit<act::CreateToken>,
        request: &NewTokens,
        (together, minted): (Option<TokenId>, &[Minted]),
        now_ms: i64,
    ) -> Result<(), Error> {
        let mut batch = Batch::default();
        for one in minted {
            let digest = one.token.digest();
            if self.store.load::<TokenRecord>(digest.as_bytes())?.is_some() {
                continue;
            }
            let record = TokenRecord {
                v: 1,
                id: one.id,
                batch: together,
                binding: request.binding.clone(),
                created_at: now_ms.div_euclid(1000),
                expires_at: one.expires_at,
                created_by: permit.caller().principal.actor(),
                state: TokenState::Open,
                last_refusal: None,
            };
            let entry = permit
                .entry(now_ms, format!("token/{}", one.id))
                .states("", record.state.name())
                .facts([("token_sha256", digest.to_hex()), ("profile", one.profile.clone())]);
            batch = batch.insert(digest.as_bytes(), &record).audit(entry);
        }
        match self.commit(batch).await {
            // The same request, at the same time: what it made is there.
            Err(Error::Contended) => Ok(()),
            settled => settled,
        }
    }

    fn check(&self, request: &NewTokens) -> Result<(), Error> {
        let invalid = |field, expected: &str| Err(Error::Invalid { field, expected: expected.to_owned() });
        let binding = &request.binding;
        if self.profiles.get(&binding.profile).is_none() {
            return Err(Refusal::by("profile.known", Code::ProfileUnknown).at("profile").into());
        }
        if !(1..=COUNT_MAX).contains(&request.count) {
            return invalid("count", "must be 1 to 10000");
        }
        if !(1..=i64::from(TOKEN_LIFE_MAX_S)).contains(&request.ttl_s) {
            return invalid("ttl_s", "must be 1 second to 90 days");
        }
        if let Some(serial) = &binding.serial {
            if request.count != 1 {
                return invalid("count", "must be 1 where the token is bound to a serial number");
            }
            let is_blank = tidy_serial(serial).is_empty();
            if is_blank || !(1..=MAX_CHARS).contains(&serial.len()) || !is_printable(serial) {
                return invalid(
                    "serial",
                    "must be 1 to 64 letters, digits, spaces or '()+,-./:=?, and not spaces alone",
                );
            }
        }
        let text = |text: &String| (1..=TEXT_MAX).contains(&text.len()) && text.chars().all(is_shown);
        for (field, value) in [("site", &binding.site), ("owner", &binding.owner)] {
            if !value.iter().all(text) {
                return invalid(field, "must be 1 to 128 bytes without control or invisible characters");
            }
        }
        if binding.labels.len() > LABELS_MAX || !binding.labels.iter().all(|(k, v)| text(k) && text(v)) {
            return invalid(
                "labels",
                "must be at most 16 pairs of 1 to 128 bytes without control or invisible characters",
            );
        }
        Ok(())
    }

    /// The token of this id.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn token(&self, _permit: &Permit<act::ReadToken>, id: TokenId) -> Result<TokenRecord, Error> {
        self.find_token(id).map(|(_, held)| held.record)
    }

    /// Up to `limit` tokens after `cursor` that `fits` takes, oldest first.
    ///
    /// # Errors
    /// [`Error::Load`].
    pub fn tokens(
        &self,
        _permit: &Permit<act::ReadToken>,
        cursor: Option<&[u8]>,
        limit: usize,
        fits: impl Fn(&TokenRecord) -> bool,
    ) -> Result<Page<TokenRecord>, Error> {
        let read = |after: Option<&[u8]>, wanted| {
            let hits = self.store.index_scan(&TOKENS, "id", b"", after, wanted)?;
            Ok(hits.into_iter().map(|hit| (hit.id, hit.cursor)).collect())
        };
        let keep = |id: Vec<u8>| {
            Ok(self.store.load::<TokenRecord>(&id)?.map(|held| held.record).filter(|token| fits(token)))
        };
        part(cursor, limit, read, keep)
    }

    /// Takes a token back; one that was taken back already stays so.
    ///
    /// # Errors
    /// [`Error::Refused`] with `conflict` where it is spent: revoke the device instead.
    pub async fn revoke_token(
        &self,
        permit: Permit<act::RevokeToken>,
        id: TokenId,
    ) -> Result<TokenRecord, Error> {
        for _ in 0..super::ATTEMPTS {
            let (digest, held) = self.find_token(id)?;
            let mut token = held.record;
            let now_ms = self.clock.now_ms();
            let before = token.state.name();
            let claimed = match &token.state {
                TokenState::Revoked { .. } => return Ok(token),
                TokenState::Spent { .. } => {
                    let spent = Refusal::by("token.already_spent", Code::Conflict).at("state");
                    return Err(self.decline(&permit, &format!("token/{id}"), spent).await);
                }
                TokenState::Claimed { device, .. } => Some(*device),
                TokenState::Open => None,
            };
            token.state = TokenState::Revoked { at: now_ms.div_euclid(1000) };
            let entry = permit.entry(now_ms, format!("token/{id}")).states(before, token.state.name());
            let mut batch = Batch::essential().update(digest.as_bytes(), held.version, &token).audit(entry);
            if let Some(device) = claimed {
                batch = self.cancel(&permit, batch, self.device(device)?);
            }
            match self.commit(batch).await {
                Err(Error::Contended) => {}
                Err(error) => return Err(error),
                Ok(()) => return Ok(token),
            }
        }
        Err(Error::Contended)
    }

    /// Adds to `batch` the end of a life that never began.
    fn cancel(&self, permit: &Permit<act::RevokeToken>, batch: Batch, mut life: Held<Device>) -> Batch {
        let now_ms = self.clock.now_ms();
        let before = life.record.standing();
        life.record.cancel(now_ms.div_euclid(1000));
        let entry =
            permit.entry(now_ms, format!("device/{}", life.record.id)).states(before, life.record.standing());
        batch.update(life.record.id.as_bytes(), life.version, &life.record).audit(entry)
    }

    fn find_token(&self, id: TokenId) -> Result<(Sha256Digest, Held<TokenRecord>), Error> {
        let missing = Error::NotFound { kind: "token" };
        let hits = self.store.index_scan(&TOKENS, "id", id.as_bytes(), None, 1)?;
        let Some(digest) = hits.first().and_then(|hit| <[u8; 32]>::try_from(hit.id.as_slice()).ok()) else {
            return Err(missing);
        };
        let held = self.store.load::<TokenRecord>(&digest)?.ok_or(missing)?;
        Ok((Sha256Digest(digest), held))
    }
}
