//! Refusals: each is in the audit log before it is answered.

use super::limits::{Past, Taken};
use super::refusals::{RefusedAtDoor, Shown};
use super::{App, Error};
use crate::domain::device::Device;
use crate::domain::policy::{Act, Caller, Permit, Principal};
use crate::domain::refusal::{LastRefusal, Refusal};
use crate::domain::signature::SignatureFlaw;
use crate::domain::token::TokenRecord;
use crate::doors::http::HEAD_TOO_LARGE;
use crate::store::Batch;
use muster_wire::digest::Sha256Digest;
use muster_wire::id::DeviceId;
use muster_wire::problem::Code;
use std::net::IpAddr;

/// Whose record should remember a refusal, for `muster device explain` and `muster token show`.
#[derive(Clone, Copy, Debug)]
pub(super) enum About {
    /// The token under this digest, and the device that came of it.
    Token(Sha256Digest),
    /// A device.
    Device(DeviceId),
}

impl App {
    /// Refuses a caller whose token opens nothing, and counts it against the address.
    ///
    /// Past the limit of wrong tokens from one address the answer is [`Error::RateLimited`] and only the first
    /// such refusal of a minute is written to the log, so that guessing cannot fill the disk.
    pub(super) async fn refuse_stranger<A: Act>(
        &self,
        permit: &Permit<A>,
        from: IpAddr,
        refusal: Refusal,
    ) -> Error {
        match self.strangers.wrong(from, self.clock.now_ms()) {
            Taken::Within => self.settle(self.audit_refusal(permit, "token/unknown", refusal).await, refusal),
            Taken::Past(Past { retry_after_s, first }) => {
                let limited = Refusal { rule: "token.rate", ..refusal };
                let written =
                    if first { self.audit_refusal(permit, "token/unknown", limited).await } else { Ok(()) };
                written.err().unwrap_or(Error::RateLimited { retry_after_s })
            }
        }
    }

    /// Refuses the bearer of a token that exists: counted like a wrong one, remembered by its record.
    pub(super) async fn refuse_bearer<A: Act>(
        &self,
        permit: &Permit<A>,
        from: IpAddr,
        token: &Sha256Digest,
        refusal: Refusal,
    ) -> Error {
        if let Taken::Past(Past { retry_after_s, first }) = self.strangers.wrong(from, self.clock.now_ms())
            && !first
        {
            return Error::RateLimited { retry_after_s };
        }
        self.refuse(permit, About::Token(*token), refusal).await
    }

    /// Refuses with `refusal`, and lets the record that it is about remember it.
    ///
    /// Returns the refusal, or the reason why it could not be recorded: then that is the answer.
    pub(super) async fn refuse<A: Act>(&self, permit: &Permit<A>, about: About, refusal: Refusal) -> Error {
        let remembered = match about {
            About::Token(digest) => self.remember_on_token(permit, &digest, &refusal).await,
            About::Device(device) => self.remember_on_device(permit, device, &refusal).await,
        };
        match remembered {
            // The record changed meanwhile: the entry alone is enough.
            Err(Error::Contended) => {
                let object = match about {
                    About::Token(_) => "token/changed".to_owned(),
                    About::Device(device) => format!("device/{device}"),
                };
                self.settle(self.audit_refusal(permit, &object, refusal).await, refusal)
            }
            settled => self.settle(settled, refusal),
        }
    }

    /// Refuses what is good and comes too often; only the first such refusal of a window is written down.
    pub(super) async fn refuse_often<A: Act>(
        &self,
        permit: &Permit<A>,
        about: About,
        rule: &'static str,
        past: Past,
    ) -> Error {
        if past.first {
            let written = self.refuse(permit, about, Refusal::by(rule, Code::RateLimited)).await;
            if !matches!(written, Error::Refused(_)) {
                return written;
            }
        }
        Error::RateLimited { retry_after_s: past.retry_after_s }
    }

    /// Refuses an operator's act on `object`, which no record has to remember.
    pub(super) async fn decline<A: Act>(&self, permit: &Permit<A>, object: &str, refusal: Refusal) -> Error {
        self.settle(self.audit_refusal(permit, object, refusal).await, refusal)
    }

    /// Writes down what `error` refuses about `object`, with the key where it is about a signature; any other error is the
    /// answer as it is.
    pub(super) async fn decline_for<A: Act>(&self, permit: &Permit<A>, object: &str, error: Error) -> Error {
        let Some(refusal) = error.refusal() else { return error };
        let flaw = if let Error::Signature { flaw, .. } = &error { Some(flaw) } else { None };
        let entry = permit.refused(self.clock.now_ms(), object.to_owned(), &refusal);
        let entry = entry.facts(flaw.and_then(SignatureFlaw::key).map(|key| ("key", key.to_string())));
        let is_false = matches!(flaw, Some(SignatureFlaw::False(_)));
        let entry = entry.facts(is_false.then(|| ("signature", "false".to_owned())));
        let written = self.settle(self.commit(essential(entry)).await, refusal);
        if matches!(written, Error::Refused(_)) { error } else { written }
    }

    /// Writes down that a request for `action` was refused at the edge for what it is, and not for who asks.
    ///
    /// Past as many a minute from one address as wrong tokens are allowed, only one more is written. The answer
    /// stays what it is, even where the entry could not be written: nothing was changed and nothing told.
    pub async fn note_mistake(&self, caller: &Caller, from: IpAddr, action: &str, refusal: Refusal) {
        let now_ms = self.clock.now_ms();
        let refusal = match self.mistakes.wrong(from, now_ms) {
            Taken::Within => refusal,
            Taken::Past(past) if past.first => Refusal { rule: "request.rate", ..refusal },
            Taken::Past(_) => return,
        };
        let entry = caller.refused(action, now_ms, "request".to_owned(), &refusal);
        if let Err(error) = self.commit(essential(entry)).await {
            tracing::warn!(%error, rule = refusal.rule, "a refusal could not be written down");
        }
    }

    /// Refuses a request for `action` at the edge: by the authorisation table, or for the size of its body.
    pub async fn refuse_at_edge(&self, caller: &Caller, action: &str, refusal: Refusal) -> Error {
        let entry = caller.refused(action, self.clock.now_ms(), "door".to_owned(), &refusal);
        if caller.principal == Principal::Anonymous && !self.anonymous_refusals.take(self.clock.now_ms()) {
            return refusal.into();
        }
        self.settle(self.commit(essential(entry)).await, refusal)
    }

    /// Writes down that a door refused a certificate of ours, or the handshake of a stranger.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::NoSpace`], [`Error::Stopped`].
    pub(super) async fn record_refusal_at_door(&self, refused: &RefusedAtDoor) -> Result<(), Error> {
        let code = if refused.reason == HEAD_TOO_LARGE { Code::TooLarge } else { Code::CertificateRefused };
        let (refusal, now_ms) = (Refusal::by(refused.reason, code), self.clock.now_ms());
        let entry = |principal, object| {
            let caller = Caller { principal, request_id: String::new() };
            caller.refused(refused.action, now_ms, object, &refusal)
        };
        let entry = match &refused.shown {
            Shown::Nothing => entry(Principal::Anonymous, "door".to_owned()),
            Shown::Observer(certificate) => {
                let name = certificate.name.to_string();
                let object = format!("observer/{name}");
                entry(Principal::Observer(name), object)
                    .facts([("certificate_serial", certificate.serial.to_string())])
            }
            Shown::Device(certificate, door) => {
                let device = certificate.device;
                entry(Principal::Device(device), format!("device/{device}")).facts([
                    ("certificate_serial", certificate.serial.to_string()),
                    ("door", format!("{door:?}").to_ascii_lowercase()),
                ])
            }
        };
        self.commit(essential(entry)).await
    }

    async fn remember_on_token<A: Act>(
        &self,
        permit: &Permit<A>,
        digest: &Sha256Digest,
        refusal: &Refusal,
    ) -> Result<(), Error> {
        let Some(mut held) = self.store.load::<TokenRecord>(digest.as_bytes())? else {
            return Err(Error::Contended);
        };
        let now_ms = self.clock.now_ms();
        held.record.last_refusal = Some(LastRefusal::of(refusal, now_ms.div_euclid(1000)));
        let entry = permit.refused(now_ms, format!("token/{}", held.record.id), refusal);
        let batch = essential(entry).update(digest.as_bytes(), held.version, &held.record);
        self.commit(batch).await
    }

    async fn remember_on_device<A: Act>(
        &self,
        permit: &Permit<A>,
        device: DeviceId,
        refusal: &Refusal,
    ) -> Result<(), Error> {
        let Some(mut held) = self.store.load::<Device>(device.as_bytes())? else {
            return Err(Error::Contended);
        };
        let now_ms = self.clock.now_ms();
        held.record.last_refusal = Some(LastRefusal::of(refusal, now_ms.div_euclid(1000)));
        let entry = permit.refused(now_ms, format!("device/{device}"), refusal);
        let batch = essential(entry).update(device.as_bytes(), held.version, &held.record);
        self.commit(batch).await
    }

    async fn audit_refusal<A: Act>(
        &self,
        permit: &Permit<A>,
        object: &str,
        refusal: Refusal,
    ) -> Result<(), Error> {
        let entry = permit.refused(self.clock.now_ms(), object.to_owned(), &refusal);
        self.commit(essential(entry)).await
    }

    fn settle(&self, recorded: Result<(), Error>, refusal: Refusal) -> Error {
        match recorded {
            Ok(()) => refusal.into(),
            // A disk without room for the entry changes nothing about the refusal, which opens nothing.
            Err(Error::NoSpace) => refusal.into(),
            Err(error) => error,
        }
    }
}

/// A batch of one entry that is written even when space runs short.
fn essential(entry: crate::domain::ledger::Draft) -> Batch {
    Batch::essential().audit(entry)
}
