//! REST credentials: added, removed, recognised.

use super::enroll::ms;
use super::{App, Error};
use crate::ca::random;
use crate::domain::operator::{Operator, Secret, is_name};
use crate::domain::policy::{Permit, Principal, act};
use crate::domain::refusal::Refusal;
use crate::store::Batch;
use crate::store::collections::{Held, OPERATORS};
use muster_wire::digest::Sha256Digest;
use muster_wire::id::OperatorId;
use muster_wire::problem::Code;

impl App {
    /// Who the bearer of `credential` is; anonymous where it is nobody's.
    ///
    /// # Errors
    /// [`Error::Load`].
    pub fn recognise(&self, credential: Option<&str>) -> Result<Principal, Error> {
        let Some(secret) = credential.and_then(Secret::parse) else { return Ok(Principal::Anonymous) };
        let held = self.store.load::<Operator>(secret.digest().as_bytes())?;
        Ok(match held {
            Some(held) if held.record.removed_at.is_none() => Principal::Operator(held.record.name),
            Some(_) | None => Principal::Anonymous,
        })
    }

    /// Adds an operator and answers its secret, which is stored nowhere.
    ///
    /// # Errors
    /// [`Error::Invalid`] for the name; [`Error::Refused`] with `conflict` where the name is taken.
    pub async fn add_operator(
        &self,
        permit: Permit<act::ManageOperator>,
        name: &str,
        kept: Option<super::idempotency::Slot>,
    ) -> Result<(Operator, Secret), Error> {
        if !is_name(name) {
            let expected =
                "must be 1 to 64 of a-z, 0-9, '.', '_', '-', '@', beginning with a letter or digit";
            return Err(Error::Invalid { field: "name", expected: expected.to_owned() });
        }
        let now_ms = self.clock.now_ms();
        let secret =
            Secret::from_entropy(&kept.as_ref().map_or_else(random, |slot| slot.derive(b"operator", 0)));
        let digest = secret.digest();
        if let Some(found) = self.find_operator(name)? {
            if found.0 == digest && found.1.record.removed_at.is_none() {
                return Ok((found.1.record, secret));
            }
            let taken = Refusal::by("operator.name_taken", Code::Conflict).at("name");
            return Err(self.decline(&permit, &format!("operator/{name}"), taken).await);
        }
        let operator = Operator {
            v: 1,
            id: OperatorId::from_parts(ms(now_ms), random()),
            name: name.to_owned(),
            created_at: now_ms.div_euclid(1000),
            created_by: permit.caller().principal.actor(),
            removed_at: None,
        };
        let entry = permit.entry(now_ms, format!("operator/{name}")).states("", "added");
        self.commit(Batch::default().insert(digest.as_bytes(), &operator).audit(entry)).await?;
        Ok((operator, secret))
    }

    /// Removes an operator: from now on its credential is nobody's. Removing twice changes nothing.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Refused`] with `conflict` for the last one left.
    pub async fn remove_operator(
        &self,
        permit: Permit<act::ManageOperator>,
        name: &str,
    ) -> Result<Operator, Error> {
        for _ in 0..super::ATTEMPTS {
            let (digest, held) = self.find_operator(name)?.ok_or(Error::NotFound { kind: "operator" })?;
            let mut operator = held.record;
            if operator.removed_at.is_some() {
                return Ok(operator);
            }
            let left = self.all_operators()?.into_iter().filter(|other| other.removed_at.is_none()).count();
            if left < 2 {
                let last = Refusal::by("operator.last", Code::Conflict).at("name");
                return Err(self.decline(&permit, &format!("operator/{name}"), last).await);
            }
            let now_ms = self.clock.now_ms();
            operator.removed_at = Some(now_ms.div_euclid(1000));
            let entry = permit.entry(now_ms, format!("operator/{name}")).states("added", "removed");
            let batch = Batch::essential().update(digest.as_bytes(), held.version, &operator).audit(entry);
            match self.commit(batch).await {
                Err(Error::Contended) => {}
                Err(error) => return Err(error),
                Ok(()) => return Ok(operator),
            }
        }
        Err(Error::Contended)
    }

    /// Every operator, by name.
    ///
    /// # Errors
    /// [`Error::Load`].
    pub fn operators(&self, _permit: &Permit<act::ReadOperator>) -> Result<Vec<Operator>, Error> {
        self.all_operators()
    }

    fn all_operators(&self) -> Result<Vec<Operator>, Error> {
        let hits = self.store.index_scan(&OPERATORS, "name", b"", None, 10_000)?;
        let mut operators = Vec::with_capacity(hits.len());
        for hit in hits {
            operators.extend(self.store.load::<Operator>(&hit.id)?.map(|held| held.record));
        }
        Ok(operators)
    }

    /// The operator of this name, one in office before one removed.
    fn find_operator(&self, name: &str) -> Result<Option<(Sha256Digest, Held<Operator>)>, Error> {
        let hits = self.store.index_scan(&OPERATORS, "name", name.as_bytes(), None, 100)?;
        let mut found = None;
        for hit in hits.iter().filter(|hit| hit.value == name.as_bytes()) {
            let Ok(digest) = <[u8; 32]>::try_from(hit.id.as_slice()) else { continue };
            if let Some(held) = self.store.load::<Operator>(&digest)? {
                let in_office = held.record.removed_at.is_none();
                found = Some((Sha256Digest(digest), held));
                if in_office {
                    break;
                }
            }
        }
        Ok(found)
    }
}
