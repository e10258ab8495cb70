//! The authority document: whose keys count, and how many approvers each thing needs.
//!
//! Follows `authority.md`. An operator may call the API; an approver is a key in this document. The document
//! says so itself for its successor; [`crate::lineage`] walks that chain. What is not named in `required` is
//! refused, and no document may need nobody for what destroys data or runs code as root.

mod required;

use crate::approver::ApproverName;
use crate::cbor::{document, record};
use crate::digest::Sha256Digest;
use crate::id::TrustDomain;
use crate::key::{Ed25519Key, KeyId, PublicKey};
use crate::time::Timestamp;
use std::collections::BTreeSet;

pub use required::{MANY_DEVICES, Matter, Required};

/// How long a later approver waits after its `valid_from` before it counts, in seconds: 24 hours.
pub const APPROVER_COOLING_S: i64 = 24 * 60 * 60;

/// More keys of one kind than this are in no document.
const MAX_KEYS: usize = 64;

/// Someone whose signature counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approver {
    /// What people call them.
    pub name: ApproverName,
    /// Their key.
    pub key: Ed25519Key,
    /// Since when; an approver who was not there at founding counts [`APPROVER_COOLING_S`] later.
    pub valid_from: Timestamp,
}
record!(Approver { name, key, valid_from });

/// A key kept offline, for the day when too few approvers are left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryKey {
    /// Whose it is.
    pub name: ApproverName,
    /// The key.
    pub key: Ed25519Key,
}
record!(RecoveryKey { name, key });

/// The authority document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// Counts up from 1.
    pub version: u64,
    /// The devices it speaks about.
    pub trust_domain: TrustDomain,
    /// Keys that sign orders, desired heads, baselines and acks.
    pub command_keys: Vec<Ed25519Key>,
    /// Keys that sign the audit log's checkpoints.
    pub audit_keys: Vec<Ed25519Key>,
    /// Whose approval counts.
    pub approvers: Vec<Approver>,
    /// Keys of which a majority makes a successor without the approvers.
    pub recovery: Vec<RecoveryKey>,
    /// What needs how many of them.
    pub required: Required,
    /// SHA-256 of the payload of the version before; none in version 1.
    pub previous: Option<Sha256Digest>,
}
document!(Authority, "authority", 64 * 1024, SignedByMany, {
    version, trust_domain, command_keys, audit_keys, approvers, recovery, required, previous,
});

/// What makes an authority document unfit, whoever signed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityFlaw {
    /// Version 0, version 1 with a predecessor, or a later one without.
    #[error("version and predecessor do not fit each other")]
    Version,
    /// No command key, no audit key or no approver; or more than a document may hold.
    #[error("a document has 1 to 64 command keys, audit keys and approvers, and at most 64 recovery keys")]
    KeyCount,
    /// A key stands in it twice, in one role or in two.
    #[error("key {key} stands in it twice")]
    RepeatedKey {
        /// The key.
        key: KeyId,
    },
    /// Two approvers, or two recovery keys, have one name.
    #[error("a name stands in it twice")]
    RepeatedName,
    /// It asks for nobody where somebody must be asked.
    #[error("{matter} must need an approver")]
    BelowFloor {
        /// What for.
        matter: Matter,
    },
}

impl Authority {
    /// Judges what can be judged by looking at the document alone.
    ///
    /// # Errors
    /// The first [`AuthorityFlaw`] found.
    pub fn check(&self) -> Result<(), AuthorityFlaw> {
        if self.version == 0 || (self.version == 1) != self.previous.is_none() {
            return Err(AuthorityFlaw::Version);
        }
        self.check_keys()?;
        match self.required.below_floor() {
            Some(matter) => Err(AuthorityFlaw::BelowFloor { matter }),
            None => Ok(()),
        }
    }

    fn check_keys(&self) -> Result<(), AuthorityFlaw> {
        let needed = [self.command_keys.len(), self.audit_keys.len(), self.approvers.len()];
        if needed.iter().any(|count| !(1..=MAX_KEYS).contains(count)) || self.recovery.len() > MAX_KEYS {
            return Err(AuthorityFlaw::KeyCount);
        }
        let servers = self.command_keys.iter().chain(&self.audit_keys);
        let people = self.approvers.iter().map(|approver| &approver.key);
        let offline = self.recovery.iter().map(|recovery| &recovery.key);
        let mut seen = BTreeSet::new();
        for key in servers.chain(people).chain(offline).map(Ed25519Key::key_id) {
            if !seen.insert(key) {
                return Err(AuthorityFlaw::RepeatedKey { key });
            }
        }
        let approvers: BTreeSet<_> = self.approvers.iter().map(|approver| &approver.name).collect();
        let recovery: BTreeSet<_> = self.recovery.iter().map(|recovery| &recovery.name).collect();
        if approvers.len() < self.approvers.len() || recovery.len() < self.recovery.len() {
            return Err(AuthorityFlaw::RepeatedName);
        }
        Ok(())
    }

    /// How many approvers `matter` needs. Where the document names no number it is one more than there are, so that nobody
    /// can meet it: what is not named is refused.
    pub fn approvers_for(&self, matter: Matter) -> usize {
        self.required.count(matter).unwrap_or_else(|| self.approvers.len().saturating_add(1))
    }

    /// The keys that sign orders, desired heads, baselines and acks.
    pub fn command_keys(&self) -> Vec<PublicKey> {
        self.command_keys.iter().copied().map(PublicKey::from).collect()
    }

    /// Every approver's key, whether it counts yet or not.
    pub fn approver_keys(&self) -> Vec<PublicKey> {
        self.approvers.iter().map(|approver| approver.key.into()).collect()
    }

    /// The recovery keys.
    pub fn recovery_keys(&self) -> Vec<PublicKey> {
        self.recovery.iter().map(|recovery| recovery.key.into()).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::cbor::{decode, encode};
    use crate::key::Signer as _;
    use ed25519_dalek::SigningKey;

    pub(crate) fn secret(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    pub(crate) fn key(seed: u8) -> Ed25519Key {
        match secret(seed).public_key() {
            PublicKey::Ed25519(key) => key,
            PublicKey::P256(_) => unreachable!("an Ed25519 signer"),
        }
    }

    pub(crate) fn approver(seed: u8, valid_from: i64) -> Approver {
        Approver {
            name: format!("approver {seed}").parse().unwrap(),
            key: key(seed),
            valid_from: Timestamp(valid_from),
        }
    }

    /// Command key 1, audit key 2, approvers 10, 11 and 12, recovery keys 20, 21 and 22.
    pub(crate) fn founded() -> Authority {
        let recovery =
            |seed: u8| RecoveryKey { name: format!("safe {seed}").parse().unwrap(), key: key(seed) };
        Authority {
            version: 1,
            trust_domain: "fleet.example".parse().unwrap(),
            command_keys: vec![key(1)],
            audit_keys: vec![key(2)],
            approvers: vec![approver(10, 1_000), approver(11, 1_000), approver(12, 1_000)],
            recovery: vec![recovery(20), recovery(21), recovery(22)],
            required: Required::founding(3).0,
            previous: None,
        }
    }

    #[test]
    fn a_document_reads_back() {
        let bytes = encode(&founded());
        assert_eq!(decode::<Authority>(&bytes).unwrap(), founded());
        assert_eq!(founded().check(), Ok(()));
    }

    #[test]
    fn names_of_a_later_build_are_kept_and_missing_ones_refuse() {
        let mut later = founded();
        later.required.0.insert("teleport".into(), 4);
        later.required.0.remove("lock");
        assert_eq!(decode::<Authority>(&encode(&later)).unwrap(), later);
        assert_eq!(later.check(), Ok(()));
        assert_eq!(later.required.count(Matter::Lock), None);
        assert_eq!(later.required.unmet(64), [Matter::Lock]);
    }

    #[test]
    fn what_destroys_needs_somebody_in_every_document() {
        for matter in Matter::ALL {
            let mut document = founded();
            document.required.0.insert(matter.as_str().into(), 0);
            let expected = match matter.founding() {
                0 => Ok(()),
                _ => Err(AuthorityFlaw::BelowFloor { matter: *matter }),
            };
            assert_eq!(document.check(), expected, "{matter}");
        }
    }

    #[test]
    fn a_key_has_one_role() {
        let mut document = founded();
        document.approvers[1].key = key(1);
        assert_eq!(document.check(), Err(AuthorityFlaw::RepeatedKey { key: key(1).key_id() }));
        let mut document = founded();
        document.recovery[0].key = key(12);
        assert_eq!(document.check(), Err(AuthorityFlaw::RepeatedKey { key: key(12).key_id() }));
        let mut document = founded();
        document.approvers[1].name = document.approvers[0].name.clone();
        assert_eq!(document.check(), Err(AuthorityFlaw::RepeatedName));
    }

    #[test]
    fn versions_and_key_counts_are_judged() {
        let flawed = |change: fn(&mut Authority)| {
            let mut document = founded();
            change(&mut document);
            document.check().unwrap_err()
        };
        assert_eq!(flawed(|document| document.version = 0), AuthorityFlaw::Version);
        assert_eq!(flawed(|document| document.version = 2), AuthorityFlaw::Version);
        assert_eq!(
            flawed(|document| document.previous = Some(Sha256Digest([0; 32]))),
            AuthorityFlaw::Version
        );
        assert_eq!(flawed(|document| document.command_keys.clear()), AuthorityFlaw::KeyCount);
        assert_eq!(flawed(|document| document.audit_keys.clear()), AuthorityFlaw::KeyCount);
        assert_eq!(flawed(|document| document.approvers.clear()), AuthorityFlaw::KeyCount);
    }
}
