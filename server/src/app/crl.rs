//! Certificate revocation lists, signed when someone asks and something changed.
//!
//! A shard's list is signed anew when a revocation was committed since, and at least daily; so the next reader
//! sees every revocation that was answered before it asked. The number is durable before the list goes out, so
//! that no two lists of a shard ever share one (RFC 5280 §5.2.3).

use super::{App, Error};
use crate::ca::{CaError, IssuerId, List};
use crate::domain::policy::{self, Caller, Permit, act};
use crate::domain::revocation::{Entry, Reason, ShardHead};
use crate::store::Batch;
use crate::store::collections::{REVOCATIONS, decode};
use muster_pki::crl::Revoked;
use muster_pki::serial::Serial;
use muster_wire::digest::Sha256Digest;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// How old a list may grow before the next reader gets a new one: a day, in seconds.
const DAILY_S: i64 = 24 * 60 * 60;

/// Entries read from the store at a time.
const PAGE: usize = 1_000;

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CrlError {
    /// A revocation in the store has no serial number in its key.
    #[error("a stored revocation has no serial number")]
    Key,
    /// The list was not signed.
    #[error("signing the list failed")]
    Sign(#[source] CaError),
}

/// The id of a revocation: issuer, shard, serial number.
pub(super) fn entry_id(issuer: IssuerId, serial: &Serial) -> Vec<u8> {
    let mut id = shard_id(issuer, serial.shard());
    id.extend_from_slice(serial.as_bytes());
    id
}

fn shard_id(issuer: IssuerId, shard: u8) -> Vec<u8> {
    let mut id = issuer.to_vec();
    id.push(shard);
    id
}

#[derive(Default)]
struct Shard {
    /// One signs; the others wait for its list instead of signing their own.
    signing: tokio::sync::Mutex<Option<Signed>>,
}

#[derive(Clone)]
struct Signed {
    der: Arc<Vec<u8>>,
    signed_at: i64,
    /// Commits that touched the shard when the list was signed.
    changes: u64,
}

/// The lists signed so far, and what changed since.
#[derive(Default)]
pub(super) struct Cache {
    shards: Mutex<HashMap<(IssuerId, u8), Arc<Shard>>>,
}

impl Cache {
    fn shard(&self, issuer: IssuerId, shard: u8) -> Arc<Shard> {
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(shards.entry((issuer, shard)).or_default())
    }
}

impl App {
    /// The CRL of `shard` of `issuer`, DER, with every revocation that was answered before this call.
    ///
    /// # Errors
    /// [`Error::Internal`] where signing fails; [`Error::NoSpace`] where the number cannot be made durable.
    pub async fn crl(
        &self,
        _permit: &Permit<act::ReadStatus>,
        issuer: IssuerId,
        shard: u8,
    ) -> Result<Arc<Vec<u8>>, Error> {
        let slot = self.crls.shard(issuer, shard);
        let mut signed = slot.signing.lock().await;
        let changes = self.revocation_changes.of(issuer, shard);
        let now = self.clock.now_s();
        if let Some(list) = signed.as_ref()
            && list.changes == changes
            && (0..DAILY_S).contains(&now.saturating_sub(list.signed_at))
        {
            return Ok(Arc::clone(&list.der));
        }
        let der = Arc::new(self.sign_crl(issuer, shard).await?);
        *signed = Some(Signed { der: Arc::clone(&der), signed_at: now, changes });
        Ok(der)
    }

    async fn sign_crl(&self, id: IssuerId, shard: u8) -> Result<Vec<u8>, Error> {
        let permit = policy::decide::<act::SignCrl>(Caller::server())?;
        for _ in 0..super::ATTEMPTS {
            let head = self.store.load::<ShardHead>(&shard_id(id, shard))?;
            let now_ms = self.clock.now_ms();
            let next = ShardHead::next(head.as_ref().map(|held| &held.record), now_ms);
            let (entries, outlived) = self.shard_entries(
                id,
                shard,
                (head.as_ref().map(|h| h.record.this_update), next.this_update),
            )?;
            let list = List { shard, entries: &entries, number: next.number, now_s: next.this_update };
            let der = self
                .ca
                .sign_crl(id, &list, &self.urls)
                .map_err(|error| Error::internal("signing a CRL")(Box::new(CrlError::Sign(error))))?;
            let mut entry = permit
                .entry(now_ms, format!("crl/{}/{shard:02x}", hex::encode(id)))
                .facts([("crl_number", next.number.to_string()), ("entries", entries.len().to_string())]);
            entry.payload_sha256 = Sha256Digest::of(&der).to_hex();
            let mut batch = Batch::essential()
                .replace(&shard_id(id, shard), head.map(|held| held.version), &next)
                .audit(entry);
            for key in outlived {
                batch = batch.delete(key);
            }
            match self.commit(batch).await {
                Ok(()) => return Ok(der),
                Err(Error::Contended) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Contended)
    }

    /// What the list that is signed at `now` says, and the keys of entries that nobody needs any more.
    fn shard_entries(
        &self,
        issuer: IssuerId,
        shard: u8,
        (previous_update, now): (Option<i64>, i64),
    ) -> Result<(Vec<Revoked>, Vec<Vec<u8>>), Error> {
        let prefix = REVOCATIONS.key(&shard_id(issuer, shard));
        let (mut entries, mut outlived) = (Vec::new(), Vec::new());
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.store.scan(&prefix, after.as_deref(), PAGE)?;
            for (key, found) in &page {
                let entry: Entry = decode(&found.value)?;
                if !entry.is_listed(previous_update, now) {
                    if entry.is_outlived(now) {
                        outlived.push(key.clone());
                    }
                    continue;
                }
                let serial = key.get(prefix.len()..).and_then(|bytes| Serial::from_bytes(bytes).ok());
                let serial =
                    serial.ok_or_else(|| Error::internal("reading a revocation")(Box::new(CrlError::Key)))?;
                entries.push(Revoked { serial, at_s: entry.at, reason: reason(entry.reason) });
            }
            match page.last() {
                Some((key, _)) if page.len() == PAGE => after = Some(key.clone()),
                _ => return Ok((entries, outlived)),
            }
        }
    }
}

fn reason(reason: Reason) -> muster_pki::crl::Reason {
    use muster_pki::crl::Reason as Listed;
    match reason {
        Reason::Unspecified => Listed::Unspecified,
        Reason::KeyCompromise => Listed::KeyCompromise,
        Reason::AffiliationChanged => Listed::AffiliationChanged,
        Reason::Superseded => Listed::Superseded,
        Reason::CessationOfOperation => Listed::CessationOfOperation,
        Reason::PrivilegeWithdrawn => Listed::PrivilegeWithdrawn,
        Reason::CertificateHold => Listed::CertificateHold,
    }
}
