//! Requests with an `Idempotency-Key`.
//!
//! Most verbs repeat without harm: revoking twice changes nothing. The two that make secrets cannot be repeated
//! by looking the answer up, since no secret is stored. They *derive* their secrets from the slot instead: the
//! same operator, key and request make the same secrets, and whatever was committed already is left as it is. So
//! a lost reply is never a lost token, and no answer with secrets lies on the disk.

use super::{App, Error};
use crate::domain::idempotency::{KEPT_S, KEY_MAX, Kept, slot};
use crate::domain::policy::Caller;
use crate::store::collections::{Held, IDEMPOTENCY};
use crate::store::key::instant;
use crate::store::{Batch, CommitError};
use muster_wire::digest::Sha256Digest;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// Expired answers dropped with each new one, so that the collection does not grow.
const DROPPED_EACH: usize = 4;

/// A request's place under its key.
#[derive(Clone)]
pub struct Slot {
    digest: Sha256Digest,
    began_s: i64,
    seed: Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Slot(…)")
    }
}

impl Slot {
    /// When the request under this key was first seen, unix milliseconds (whole seconds).
    pub fn began_ms(&self) -> i64 {
        self.began_s.saturating_mul(1000)
    }

    /// `N` bytes (at most 32) for the `n`-th secret of this request, different for each `purpose`.
    pub fn derive<const N: usize>(&self, purpose: &[u8], n: u32) -> [u8; N] {
        let mut hash = Sha256::new();
        hash.update(b"muster idempotency v1");
        hash.update(self.seed.as_slice());
        hash.update(self.digest.as_bytes());
        hash.update((purpose.len() as u64).to_be_bytes());
        hash.update(purpose);
        hash.update(n.to_be_bytes());
        let block = Zeroizing::new(<[u8; 32]>::from(hash.finalize()));
        let mut bytes = [0; N];
        for (to, from) in bytes.iter_mut().zip(block.iter()) {
            *to = *from;
        }
        bytes
    }
}

/// Whether this request was carried out before.
#[derive(Clone, Debug)]
pub enum Replayed {
    /// It carries no key.
    Unkeyed,
    /// It carries a key; the slot is the same each time.
    Keyed(Slot),
}

impl App {
    /// The slot of the request `method path body` under `key`, taken before anything is done.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a key that is empty or too long; [`Error::Refused`] with `idempotency_mismatch` for a
    /// key that carried another request.
    pub async fn replayed(
        &self,
        caller: &Caller,
        key: Option<&str>,
        request: Sha256Digest,
    ) -> Result<Replayed, Error> {
        let Some(key) = key else { return Ok(Replayed::Unkeyed) };
        if !(1..=KEY_MAX).contains(&key.len()) {
            let expected = "must be 1 to 255 bytes".to_owned();
            return Err(Error::Invalid { field: "Idempotency-Key", expected });
        }
        let digest = slot(&caller.principal.actor(), key);
        let seed = self.founding.derivation_seed.clone();
        for _ in 0..super::ATTEMPTS {
            let now = self.clock.now_s();
            let held = self.store.load::<Kept>(digest.as_bytes())?;
            if let Some(Held { record, .. }) = &held
                && self.serves(caller, record, &request, now).await?
            {
                return Ok(Replayed::Keyed(Slot {
                    digest: self.bound(digest, record),
                    began_s: record.at,
                    seed,
                }));
            }
            let kept = Kept { v: 1, request, at: now };
            // Below the floor of free space too: otherwise nobody could revoke there.
            let mut batch =
                Batch::essential().replace(digest.as_bytes(), held.map(|held| held.version), &kept);
            let outlived = instant(now.saturating_sub(KEPT_S));
            for hit in self.store.index_scan(&IDEMPOTENCY, "at", b"", None, DROPPED_EACH)? {
                if hit.value.as_slice() < outlived.as_slice() && hit.id != digest.as_bytes() {
                    batch = batch.delete(IDEMPOTENCY.key(&hit.id));
                }
            }
            match self.store.commit(batch).await {
                Ok(_) => {
                    return Ok(Replayed::Keyed(Slot {
                        digest: self.bound(digest, &kept),
                        began_s: now,
                        seed,
                    }));
                }
                Err(CommitError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Contended)
    }

    async fn serves(
        &self,
        caller: &Caller,
        kept: &Kept,
        request: &Sha256Digest,
        now: i64,
    ) -> Result<bool, Error> {
        match kept.serves(request, now) {
            Ok(serves) => Ok(serves),
            Err(refusal) => Err(self.refuse_at_edge(caller, "idempotency.key", refusal).await),
        }
    }

    /// A slot that is used again after it lapsed must derive other secrets: its time is part of it.
    fn bound(&self, digest: Sha256Digest, kept: &Kept) -> Sha256Digest {
        let mut bytes = digest.as_bytes().to_vec();
        bytes.extend_from_slice(&kept.at.to_be_bytes());
        bytes.extend_from_slice(kept.request.as_bytes());
        Sha256Digest::of(&bytes)
    }
}
