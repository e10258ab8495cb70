//! The chain of authority documents, walked by everyone who has to know whose signature counts.
//!
//! ```text
//! digest in the enrolment string ──▶ version 1 ──succeeded by──▶ version 2 ──▶ … ──▶ current
//! ```
//! Version 1 is trusted by its digest alone and carries a signature of its own command key. Version N + 1 is
//! signed by as many approvers of N and of N + 1 as each asks for `authority`, or by a majority of N's recovery
//! keys (`authority.md`). An approver of N who was not there at founding counts 24 hours after its
//! `valid_from`; the approvers of N + 1 need not have waited, since their signatures only show that they hold
//! their keys.

use crate::authority::{APPROVER_COOLING_S, Approver, Authority, AuthorityFlaw, Matter};
use crate::digest::Sha256Digest;
use crate::envelope::{EnvelopeError, MultiSigned, Verified};
use crate::key::{KeyId, PublicKey};
use crate::time::Timestamp;

/// Why a document does not belong into the chain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LineageError {
    /// Its signatures, or the digest, do not hold.
    #[error("the authority document is not signed as it must be")]
    Envelope(#[source] EnvelopeError),
    /// It is unfit whoever signed it.
    #[error("the authority document is unfit")]
    Flaw(#[source] AuthorityFlaw),
    /// The chain does not begin with version 1.
    #[error("the chain of authority documents is empty or does not begin with version 1")]
    NotFounding,
    /// It does not follow: another version, predecessor or trust domain.
    #[error("version {found} does not follow version {current}")]
    NotSuccessor {
        /// The version that is current.
        current: u64,
        /// The version found.
        found: u64,
    },
    /// The document does not say how many approvers a successor needs.
    #[error("the authority document does not say what its successor needs")]
    Unanswered,
}

impl From<EnvelopeError> for LineageError {
    fn from(error: EnvelopeError) -> Self {
        Self::Envelope(error)
    }
}

impl From<AuthorityFlaw> for LineageError {
    fn from(flaw: AuthorityFlaw) -> Self {
        Self::Flaw(flaw)
    }
}

/// A verified chain: the current document, and who was there at founding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    founding_digest: Sha256Digest,
    founding_approvers: Vec<KeyId>,
    current: Verified<Authority>,
    /// Version of the first document in which a command key of the current one stands, without a break since.
    command_since: u64,
}

impl Lineage {
    /// Begins a chain with version 1, trusted by the digest of its payload.
    ///
    /// # Errors
    /// [`LineageError::Envelope`] for another digest, or when no command key of its own has signed it;
    /// [`LineageError::Flaw`]; [`LineageError::NotFounding`] for another version.
    pub fn found(first: &MultiSigned<Authority>, trusted: Sha256Digest) -> Result<Self, LineageError> {
        let document = first.verify_by_digest(trusted)?;
        if document.version != 1 {
            return Err(LineageError::NotFounding);
        }
        document.check()?;
        let current = first.verify(&document.command_keys(), 1)?;
        let founding_approvers = current.approvers.iter().map(|approver| approver.key.key_id()).collect();
        Ok(Self { founding_digest: trusted, founding_approvers, current, command_since: 1 })
    }

    /// Walks a whole chain, oldest first, as COSE_Sign messages, at the time `now`.
    ///
    /// # Errors
    /// The first link that does not hold.
    pub fn walk<B: AsRef<[u8]>>(
        chain: &[B],
        trusted: Sha256Digest,
        now: Timestamp,
    ) -> Result<Self, LineageError> {
        let mut links = chain.iter().map(|bytes| MultiSigned::parse(bytes.as_ref()));
        let first = links.next().ok_or(LineageError::NotFounding)??;
        links.try_fold(Self::found(&first, trusted)?, |lineage, next| lineage.succeed(&next?, now))
    }

    /// The document in force.
    pub fn current(&self) -> &Verified<Authority> {
        &self.current
    }

    /// Version of the document with which the command keys in force came: whatever others have signed is older.
    pub fn command_since(&self) -> u64 {
        self.command_since
    }

    /// SHA-256 of the first document's payload: what enrolment strings carry.
    pub fn founding_digest(&self) -> Sha256Digest {
        self.founding_digest
    }

    /// The approvers in force that count at `now`.
    pub fn counting(&self, now: Timestamp) -> impl Iterator<Item = &Approver> {
        let counts = move |one: &&Approver| self.is_founding(one) || now >= self.counts_from(one);
        self.current.approvers.iter().filter(counts)
    }

    /// From when on `approver` counts: a founding one at once, whatever clocks say, every other a day after joining.
    pub fn counts_from(&self, approver: &Approver) -> Timestamp {
        let cooling = if self.is_founding(approver) { 0 } else { APPROVER_COOLING_S };
        approver.valid_from.plus_seconds(cooling)
    }

    fn is_founding(&self, approver: &Approver) -> bool {
        self.founding_approvers.contains(&approver.key.key_id())
    }

    /// The keys of [`Lineage::counting`].
    pub fn counting_keys(&self, now: Timestamp) -> Vec<PublicKey> {
        self.counting(now).map(|approver| approver.key.into()).collect()
    }

    /// The chain with `next` in force.
    ///
    /// # Errors
    /// As [`Lineage::verify_successor`].
    pub fn succeed(&self, next: &MultiSigned<Authority>, now: Timestamp) -> Result<Self, LineageError> {
        let current = self.verify_successor(next, now)?;
        let former = self.current.command_keys();
        let stays = current.command_keys().iter().any(|key| former.contains(key));
        let command_since = if stays { self.command_since } else { current.version };
        Ok(Self { current, command_since, ..self.clone() })
    }

    /// Judges whether `next` may follow the document in force.
    ///
    /// # Errors
    /// [`LineageError::Envelope`] when neither the quorum of both documents nor a majority of the recovery keys
    /// has signed (the quorum's reason is told); [`LineageError::Flaw`]; [`LineageError::NotSuccessor`].
    pub fn verify_successor(
        &self,
        next: &MultiSigned<Authority>,
        now: Timestamp,
    ) -> Result<Verified<Authority>, LineageError> {
        let document = match self.verify_by_recovery(next) {
            Ok(document) => document,
            Err(_) => self.verify_by_quorum(next, now)?,
        };
        document.check()?;
        let follows = self.current.version.checked_add(1) == Some(document.version)
            && document.previous == Some(self.current.payload_digest())
            && document.trust_domain == self.current.trust_domain;
        if follows {
            Ok(document)
        } else {
            Err(LineageError::NotSuccessor { current: self.current.version, found: document.version })
        }
    }

    fn verify_by_recovery(
        &self,
        next: &MultiSigned<Authority>,
    ) -> Result<Verified<Authority>, EnvelopeError> {
        let keys = self.current.recovery_keys();
        next.verify(&keys, keys.len() / 2 + 1)
    }

    fn verify_by_quorum(
        &self,
        next: &MultiSigned<Authority>,
        now: Timestamp,
    ) -> Result<Verified<Authority>, LineageError> {
        let needed = self.current.required.count(Matter::Authority).ok_or(LineageError::Unanswered)?;
        let document = next.verify(&self.counting_keys(now), needed)?;
        let needed = document.required.count(Matter::Authority).ok_or(LineageError::Unanswered)?;
        next.verify(&document.approver_keys(), needed)?;
        Ok(document)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::Required;
    use crate::authority::tests::{approver, founded, key, secret};

    const NOW: Timestamp = Timestamp(2_000);

    fn signed(document: &Authority, seeds: &[u8]) -> MultiSigned<Authority> {
        let mut signed = MultiSigned::unsigned(document);
        for seed in seeds {
            signed.add_signature(&secret(*seed)).unwrap();
        }
        signed
    }

    fn lineage() -> Lineage {
        let first = signed(&founded(), &[1]);
        Lineage::found(&first, first.payload_digest()).unwrap()
    }

    /// Version 2: approver 12 is replaced by 13, who joins at `valid_from`.
    fn second(valid_from: i64) -> Authority {
        let mut document = founded();
        document.version = 2;
        document.previous = Some(lineage().current().payload_digest());
        document.approvers[2] = approver(13, valid_from);
        document
    }

    #[test]
    fn version_1_is_trusted_by_its_digest_and_signed_by_its_command_key() {
        let first = signed(&founded(), &[1]);
        let other = Lineage::found(&first, Sha256Digest::of(b"other"));
        assert!(matches!(other, Err(LineageError::Envelope(EnvelopeError::Digest))), "{other:?}");
        let foreign = signed(&founded(), &[10]);
        let found = Lineage::found(&foreign, foreign.payload_digest());
        assert!(matches!(found, Err(LineageError::Envelope(EnvelopeError::UnknownSigner))), "{found:?}");
        let later = signed(&second(0), &[1]);
        let found = Lineage::found(&later, later.payload_digest());
        assert!(matches!(found, Err(LineageError::NotFounding)), "{found:?}");
    }

    #[test]
    fn a_flawed_founding_is_refused() {
        let mut document = founded();
        document.approvers[0].key = key(1);
        let first = signed(&document, &[1]);
        let found = Lineage::found(&first, first.payload_digest());
        assert!(matches!(found, Err(LineageError::Flaw(AuthorityFlaw::RepeatedKey { .. }))), "{found:?}");
    }

    #[test]
    fn a_successor_needs_the_quorum_of_both() {
        let next = signed(&second(NOW.0), &[10, 11]);
        assert_eq!(lineage().succeed(&next, NOW).unwrap().current().version, 2);
        for seeds in [&[10][..], &[10, 13], &[1, 2], &[1, 10], &[20]] {
            let found = lineage().succeed(&signed(&second(NOW.0), seeds), NOW);
            assert!(matches!(found, Err(LineageError::Envelope(_))), "{seeds:?}: {found:?}");
        }
        // The new document asks for more than have signed.
        let mut stricter = second(NOW.0);
        stricter.approvers = vec![approver(13, 0), approver(14, 0)];
        let found = lineage().succeed(&signed(&stricter, &[10, 11, 13]), NOW);
        assert!(
            matches!(found, Err(LineageError::Envelope(EnvelopeError::TooFew { needed: 2, found: 1 }))),
            "{found:?}"
        );
        assert!(lineage().succeed(&signed(&stricter, &[10, 11, 13, 14]), NOW).is_ok());
    }

    #[test]
    fn a_successor_tells_since_when_its_command_key_signs() {
        let kept = lineage().succeed(&signed(&second(NOW.0), &[10, 11]), NOW).unwrap();
        assert_eq!((lineage().command_since(), kept.command_since()), (1, 1));
        let mut renewed = second(NOW.0);
        renewed.command_keys = vec![key(3)];
        let renewed = lineage().succeed(&signed(&renewed, &[10, 11]), NOW).unwrap();
        assert_eq!(renewed.command_since(), 2);
        let mut third = renewed.current().clone().into_document();
        (third.version, third.previous) = (3, Some(renewed.current().payload_digest()));
        let third = renewed.succeed(&signed(&third, &[10, 11]), NOW).unwrap();
        assert_eq!(third.command_since(), 2, "the same key signs on");
    }

    #[test]
    fn a_majority_of_recovery_keys_is_enough_alone() {
        assert!(lineage().succeed(&signed(&second(NOW.0), &[20, 22]), NOW).is_ok());
        assert!(lineage().succeed(&signed(&second(NOW.0), &[21]), NOW).is_err());
    }

    #[test]
    fn a_later_approver_counts_after_a_day() {
        let lineage = lineage().succeed(&signed(&second(NOW.0), &[10, 11]), NOW).unwrap();
        let names = |at: i64| lineage.counting(Timestamp(at)).map(|it| it.key).collect::<Vec<_>>();
        assert_eq!(names(NOW.0 + APPROVER_COOLING_S - 1), [key(10), key(11)]);
        assert_eq!(names(NOW.0 + APPROVER_COOLING_S), [key(10), key(11), key(13)]);
        let joined = lineage.current().approvers.iter().find(|it| it.key == key(13)).unwrap();
        assert_eq!(lineage.counts_from(joined), NOW.plus_seconds(APPROVER_COOLING_S));
        assert_eq!(
            lineage.counts_from(&lineage.current().approvers[0]),
            lineage.current().approvers[0].valid_from
        );
        let mut third = second(NOW.0);
        third.version = 3;
        third.previous = Some(lineage.current().payload_digest());
        let third = signed(&third, &[10, 13]);
        assert!(lineage.succeed(&third, NOW).is_err(), "13 has not waited");
        assert!(lineage.succeed(&third, NOW.plus_seconds(APPROVER_COOLING_S)).is_ok());
    }

    #[test]
    fn a_document_that_does_not_follow_is_refused() {
        for change in [
            |document: &mut Authority| document.version = 3,
            |document: &mut Authority| document.previous = Some(Sha256Digest([0; 32])),
            |document: &mut Authority| document.trust_domain = "other.example".parse().unwrap(),
        ] {
            let mut document = second(NOW.0);
            change(&mut document);
            let found = lineage().succeed(&signed(&document, &[10, 11, 20, 21]), NOW);
            assert!(matches!(found, Err(LineageError::NotSuccessor { current: 1, .. })), "{found:?}");
        }
    }

    #[test]
    fn one_approver_founds_alone_when_told_to() {
        let mut document = founded();
        document.approvers.truncate(1);
        document.required = Required::solo();
        let first = signed(&document, &[1]);
        let lineage = Lineage::found(&first, first.payload_digest()).unwrap();
        let mut next = document.clone();
        next.version = 2;
        next.previous = Some(first.payload_digest());
        assert!(lineage.succeed(&signed(&next, &[10]), NOW).is_ok());
    }

    #[test]
    fn a_device_that_slept_walks_the_whole_chain() {
        let (one, two) = (signed(&founded(), &[1]), signed(&second(NOW.0), &[10, 11]));
        let trusted = one.payload_digest();
        let chain = [one.to_bytes(), two.to_bytes()];
        let walked = Lineage::walk(&chain, trusted, NOW).unwrap();
        assert_eq!((walked.current().version, walked.founding_digest()), (2, trusted));
        assert!(matches!(Lineage::walk(&chain[1..], trusted, NOW), Err(LineageError::Envelope(_))));
        assert!(Lineage::walk(&[chain[0].clone(), chain[0].clone()], trusted, NOW).is_err());
        assert!(matches!(Lineage::walk::<Vec<u8>>(&[], trusted, NOW), Err(LineageError::NotFounding)));
    }
}
