//! A token becomes a certificate (EST `/simpleenroll`, RFC 7030 §4.2.1).
//!
//! ```text
//! token digest ─▶ token record ─▶ request parsed ─▶ decided ─▶ signed in memory ─▶ ONE commit ─▶ answered
//!      cheap refusals first           ▲                                              │ conflict
//!                                     └──────────── read anew, decide anew ◀─────────┘
//! ```
//! Token spent, certificate, device, superseded life and audit entry are one commit. A signature that never left
//! the process is no issuance: when the commit is not taken, it is forgotten.

use super::certificates::Ending;
use super::rails::Spend;
use super::refuse::About;
use super::{App, Error};
use crate::domain::device::{Asset, Device, DeviceState, Retirement, Steps, Waiting};
use crate::domain::enrollment::{self, Circumstances, Decision};
use crate::domain::issuance::Grant;
use crate::domain::policy::{Permit, act};
use crate::domain::refusal::Refusal;
use crate::domain::revocation::Reason;
use crate::domain::token::{Redeemable, TokenRecord, TokenState, refused};
use crate::store::collections::{Held, PUBLIC_KEYS};
use crate::store::{Batch, Expect};
use muster_pki::csr::VerifiedCsr;
use muster_wire::digest::Sha256Digest;
use muster_wire::enrollment::Token;
use muster_wire::id::{AssetId, DeviceId};
use muster_wire::problem::Code;
use std::net::IpAddr;

/// How long a device that waits for approval is asked to wait before it asks again, in seconds.
const RETRY_AFTER_S: u32 = 30;

/// A first request.
pub struct Enroll<'a> {
    /// The EST label in the path, if one stood there.
    pub label: Option<&'a str>,
    /// The credential as it came, if one came: the text of a token.
    pub credential: Option<&'a str>,
    /// The body: PKCS #10 as base64, PEM or DER.
    pub body: &'a [u8],
    /// Where it came from.
    pub from: IpAddr,
}

/// What a request for a certificate gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The certificate, DER; it is durable.
    Certificate(Vec<u8>),
    /// A person has to say yes; ask again after so many seconds.
    Pending(u32),
}

/// A request whose token was found, with everything that was read for it.
struct Claim<'a> {
    permit: &'a Permit<act::SimpleEnroll>,
    digest: Sha256Digest,
    token: Held<TokenRecord>,
    csr: &'a VerifiedCsr,
    spki: Sha256Digest,
}

/// The asset that a device will be the life of, and the life that holds it, as they were read.
struct Place {
    asset: Option<Held<Asset>>,
    open_life: Option<Held<Device>>,
}

impl App {
    /// Trades a token for a certificate.
    ///
    /// # Errors
    /// [`Error::Refused`] with a `csr_…` code where the request is bad, and the one code `token_refused` for
    /// every token that cannot be redeemed; [`Error::RateLimited`] for wrong tokens from a busy address, and for good
    /// ones of a batch or a site past its limit. Each is
    /// in the audit log when this returns.
    pub async fn simple_enroll(
        &self,
        permit: Permit<act::SimpleEnroll>,
        request: Enroll<'_>,
    ) -> Result<Answer, Error> {
        let now = self.clock.now_s();
        let Some(text) = request.credential else {
            let refusal = Refusal::by("token.none", Code::Unauthenticated);
            return Err(self.refuse_stranger(&permit, request.from, refusal).await);
        };
        let Ok(token) = Token::parse(text) else {
            return Err(self.refuse_stranger(&permit, request.from, refused("token.malformed")).await);
        };
        let digest = token.digest();
        let Some(held) = self.store.load::<TokenRecord>(digest.as_bytes())? else {
            return Err(self.refuse_stranger(&permit, request.from, refused("token.unknown")).await);
        };
        if let Err(refusal) = held.record.judge(request.label, now) {
            return Err(self.refuse_bearer(&permit, request.from, &digest, refusal).await);
        }
        let csr = match self.parse_request(&held.record.binding.profile, request.body) {
            Ok(csr) => csr,
            Err(refusal) => {
                return Err(match held.record.without_key(refusal) {
                    hidden if hidden.code == Code::TokenRefused => {
                        self.refuse_bearer(&permit, request.from, &digest, hidden).await
                    }
                    refusal => self.refuse(&permit, About::Token(digest), refusal).await,
                });
            }
        };
        self.within_limits(&permit, &digest, &held.record).await?;
        self.redeem(&permit, &request, (digest, held), &csr).await
    }

    /// Counts a token that is still open against the limits of its batch and its site.
    async fn within_limits(
        &self,
        permit: &Permit<act::SimpleEnroll>,
        digest: &Sha256Digest,
        token: &TokenRecord,
    ) -> Result<(), Error> {
        if token.state != TokenState::Open {
            return Ok(());
        }
        let (batch, site) = (token.batch.unwrap_or(token.id), token.binding.site.as_deref());
        match self.issuances.enrolment(batch, site, self.clock.now_ms()) {
            Ok(()) => Ok(()),
            Err((rule, past)) => Err(self.refuse_often(permit, About::Token(*digest), rule, past).await),
        }
    }

    /// Decides and commits, from a new look at the token while someone else is faster.
    async fn redeem(
        &self,
        permit: &Permit<act::SimpleEnroll>,
        request: &Enroll<'_>,
        (digest, held): (Sha256Digest, Held<TokenRecord>),
        csr: &VerifiedCsr,
    ) -> Result<Answer, Error> {
        let spki = Sha256Digest(*csr.spki_sha256());
        let mut seen = Some(held);
        for _ in 0..super::ATTEMPTS {
            let found = match seen.take() {
                Some(held) => Some(held),
                None => self.store.load::<TokenRecord>(digest.as_bytes())?,
            };
            let Some(token) = found else {
                return Err(self.refuse_stranger(permit, request.from, refused("token.unknown")).await);
            };
            let now = self.clock.now_s();
            let redeemable = match token.record.redeem(request.label, &spki, now) {
                Ok(redeemable) => redeemable,
                Err(refusal) => return Err(self.refuse_bearer(permit, request.from, &digest, refusal).await),
            };
            let claim = Claim { permit, digest, token, csr, spki };
            let outcome = match redeemable {
                Redeemable::Fresh => self.fresh(&claim).await,
                Redeemable::Waiting(device) => self.waiting(&claim, device).await,
                Redeemable::Replay(device) => self.replay(&claim, device),
            };
            match outcome {
                Err(Error::Contended) => {}
                // The token was read before the rest. If it was spent meanwhile, by the same request sent twice, the
                // key looks like somebody else's: only a refusal by facts that still belong together counts.
                Err(Error::Refused(_)) if self.has_changed(&claim)? => {}
                Err(Error::Refused(refusal)) => {
                    return Err(self.refuse(permit, About::Token(digest), refusal).await);
                }
                settled => return settled,
            }
        }
        Err(Error::Contended)
    }

    /// Whether the token is another than the one that was decided by.
    fn has_changed(&self, claim: &Claim<'_>) -> Result<bool, Error> {
        let now = self.store.load::<TokenRecord>(claim.digest.as_bytes())?;
        Ok(now.is_none_or(|held| held.version != claim.token.version))
    }

    async fn fresh(&self, claim: &Claim<'_>) -> Result<Answer, Error> {
        let binding = &claim.token.record.binding;
        let rules = self.profiles.rules(&binding.profile)?;
        let claimed = claim.csr.serial_number();
        let serial = enrollment::effective_serial(binding.serial.as_deref(), claimed)?;
        let asset = self.asset(serial.as_deref())?;
        let open_life = self.open_life(asset.as_ref())?;
        let decision = enrollment::decide(&Circumstances {
            bound: binding.serial.as_deref(),
            claimed,
            key_holder: self.key_holder(&claim.spki)?,
            open_life: open_life.as_ref().map(|life| life.record.id),
            approval: rules.approval,
            serial: rules.serial,
        })?;
        match decision {
            Decision::Wait { serial, rule } => self.wait(claim, serial, rule).await,
            Decision::Issue { serial, supersede: _ } => {
                let device = self.new_life(claim, serial, DeviceState::Commissioning);
                self.issue_first(claim, device, None, Place { asset, open_life }).await
            }
        }
    }

    /// Keeps the request until a person has decided.
    async fn wait(&self, claim: &Claim<'_>, serial: Option<String>, rule: &str) -> Result<Answer, Error> {
        let mut device = self.new_life(claim, serial, DeviceState::Pending);
        device.waiting = Some(Waiting { rule: rule.to_owned(), approved_by: None });
        let mut token = claim.token.record.clone();
        token.state = TokenState::Claimed { device: device.id, spki: claim.spki };
        let entry = claim
            .permit
            .entry(self.clock.now_ms(), format!("device/{}", device.id))
            .because(rule)
            .states("", device.state.as_str())
            .facts([("token", token.id.to_string())]);
        let batch = Batch::default()
            .update(claim.digest.as_bytes(), claim.token.version, &token)
            .insert(device.id.as_bytes(), &device)
            .expect(PUBLIC_KEYS.key(claim.spki.as_bytes()), Expect::Absent)
            .put(PUBLIC_KEYS.key(claim.spki.as_bytes()), device.id.as_bytes().to_vec())
            .audit(entry);
        self.commit(batch).await?;
        Ok(Answer::Pending(RETRY_AFTER_S))
    }

    /// The device that waited asks again.
    async fn waiting(&self, claim: &Claim<'_>, device: DeviceId) -> Result<Answer, Error> {
        let Some(held) = self.store.load::<Device>(device.as_bytes())? else {
            return Err(refused("token.device_gone").into());
        };
        if held.record.state != DeviceState::Pending {
            return Err(refused("token.device_ended").into());
        }
        if held.record.waiting.as_ref().is_none_or(|waiting| waiting.approved_by.is_none()) {
            return Ok(Answer::Pending(RETRY_AFTER_S));
        }
        let mut device = held.record;
        device.state = DeviceState::Commissioning;
        device.waiting = None;
        let asset = self.asset(device.serial.as_deref())?;
        let open_life = self.open_life(asset.as_ref())?;
        self.issue_first(claim, device, Some(held.version), Place { asset, open_life }).await
    }

    /// The same token, the same key: the same bytes, if they may still be given.
    fn replay(&self, claim: &Claim<'_>, device: DeviceId) -> Result<Answer, Error> {
        let Some(held) = self.store.load::<Device>(device.as_bytes())? else {
            return Err(refused("token.device_gone").into());
        };
        let issued = enrollment::replay(&held.record, &claim.spki, self.clock.now_s())?;
        Ok(Answer::Certificate(self.certificate_der(issued.ordinal)?))
    }

    /// Signs and commits a first certificate; `held` is the version of a device that waited.
    async fn issue_first(
        &self,
        claim: &Claim<'_>,
        mut device: Device,
        held: Option<u64>,
        place: Place,
    ) -> Result<Answer, Error> {
        let now_ms = self.clock.now_ms();
        device.changed_at = now_ms.div_euclid(1000);
        device.steps.enrolled_at = Some(now_ms);
        let batch = self.take_place(claim, &mut device, place).await?;
        let (issued, der) = self.issue(&Grant::first(claim.permit, &device), claim.csr)?;
        let before = if held.is_some() { DeviceState::Pending.as_str() } else { "" };
        let mut token = claim.token.record.clone();
        token.state = TokenState::Spent { device: device.id, spki: claim.spki, at: device.changed_at };
        let entry = claim
            .permit
            .entry(now_ms, format!("device/{}", device.id))
            .states(before, device.state.as_str())
            .facts(super::certificates::facts(&issued))
            .facts([("token", token.id.to_string()), ("profile", device.profile.clone())]);
        let mut batch = self.put_certificate(batch, &device, &issued, &der)?;
        if held.is_none() {
            let key = PUBLIC_KEYS.key(claim.spki.as_bytes());
            batch = batch.expect(key.clone(), Expect::Absent).put(key, device.id.as_bytes().to_vec());
        }
        device.issued = Some(issued);
        let batch = batch
            .update(claim.digest.as_bytes(), claim.token.version, &token)
            .replace(device.id.as_bytes(), held, &device)
            .audit(entry);
        self.commit(batch).await?;
        Ok(Answer::Certificate(der))
    }

    /// Makes `device` the life of its asset and ends the life that held it.
    ///
    /// The asset is changed only as it was read for the decision, so that a life which began in between is a
    /// conflict and is decided on anew.
    async fn take_place(&self, claim: &Claim<'_>, device: &mut Device, place: Place) -> Result<Batch, Error> {
        let mut batch = Batch::default();
        let Some(serial) = device.serial.clone() else { return Ok(batch) };
        let fresh = || AssetId::from_parts(ms(self.clock.now_ms()), super::random());
        let id = place.asset.as_ref().map_or_else(fresh, |asset| asset.record.id);
        device.asset = Some(id);
        let record = Asset { v: 1, id, life: device.id };
        let key = enrollment::serial_key(&serial);
        batch = batch.replace(key.as_bytes(), place.asset.map(|asset| asset.version), &record);
        if let Some(life) = place.open_life {
            let spent = std::slice::from_ref(&life.record);
            // Few requests come here; the others do not carry the room for it.
            (batch, _) = Box::pin(self.spend(claim.permit, batch, Spend::Supersede, spent)).await?;
            let ending = Ending { how: Retirement::Superseded, reason: Reason::Superseded };
            batch = self.end_life(claim.permit, batch, life, ending)?;
        }
        Ok(batch)
    }

    fn new_life(&self, claim: &Claim<'_>, serial: Option<String>, state: DeviceState) -> Device {
        let now_ms = self.clock.now_ms();
        let binding = &claim.token.record.binding;
        Device {
            v: 1,
            id: DeviceId::from_parts(ms(now_ms), super::random()),
            asset: None,
            serial,
            profile: binding.profile.clone(),
            site: binding.site.clone(),
            owner: binding.owner.clone(),
            labels: binding.labels.clone(),
            state,
            retirement: None,
            token: claim.token.record.id,
            created_at: now_ms.div_euclid(1000),
            changed_at: now_ms.div_euclid(1000),
            current: None,
            issued: None,
            waiting: None,
            quarantine: None,
            deprovisioning: None,
            excused_until: None,
            reappraise_at: None,
            steps: Steps::default(),
            orders_made: 0,
            last_refusal: None,
        }
    }

    fn asset(&self, serial: Option<&str>) -> Result<Option<Held<Asset>>, Error> {
        match serial {
            Some(serial) => Ok(self.store.load::<Asset>(enrollment::serial_key(serial).as_bytes())?),
            None => Ok(None),
        }
    }

    fn open_life(&self, asset: Option<&Held<Asset>>) -> Result<Option<Held<Device>>, Error> {
        let Some(asset) = asset else { return Ok(None) };
        let life = self.store.load::<Device>(asset.record.life.as_bytes())?;
        Ok(life.filter(|life| life.record.state.is_open()))
    }
}

/// Milliseconds as a UUIDv7 counts them.
pub(super) fn ms(now_ms: i64) -> u64 {
    u64::try_from(now_ms).unwrap_or(0)
}
