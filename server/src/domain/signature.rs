//! Whose signature a document takes that approvers sign, and why it does not take another's.
//!
//! Who hands a signature in is somebody else, as a rule: what is said here is about the key.

use muster_wire::approver::ApproverName;
use muster_wire::authority::Approver;
use muster_wire::envelope::{EnvelopeError, MultiSigned, SignedByMany};
use muster_wire::key::{KeyId, PublicKey};
use muster_wire::lineage::Lineage;
use muster_wire::time::Timestamp;

/// Why a signature is not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureFlaw {
    /// Signed by nobody whose signature could matter.
    #[error("key {key} is no approver's by version {version} of the authority document")]
    Stranger {
        /// Which key.
        key: KeyId,
        /// Version of the document in force.
        version: u64,
    },
    /// Signed by an approver who joined less than a day ago.
    #[error("key {key} is {name}'s, who counts as an approver from {from} on")]
    Young {
        /// Which key.
        key: KeyId,
        /// Whose.
        name: ApproverName,
        /// From when on it counts.
        from: Timestamp,
    },
    /// Not the signature of whose key it names.
    #[error("a signature is not by the key that it names")]
    False(#[source] EnvelopeError),
}

impl SignatureFlaw {
    /// The key that it is about, where that is known; under a false signature the key that it names, and is not of.
    pub fn key(&self) -> Option<KeyId> {
        match self {
            Self::Stranger { key, .. } | Self::Young { key, .. } => Some(*key),
            Self::False(EnvelopeError::FalseSignature { key }) => Some(*key),
            Self::False(_) => None,
        }
    }

    /// What to do about it, as a sentence.
    pub fn remedy(&self) -> String {
        match self {
            Self::Stranger { .. } => {
                "Sign with a key that `muster authority show` lists, under KEY ID; who is to approve from now on joins by \
                 `muster authority propose --add-approver`."
                    .to_owned()
            }
            Self::Young { from, .. } => {
                format!("Sign again after {from}, or let an approver sign who counts already.")
            }
            Self::False(_) => "Sign it again: what came was damaged, or made by a program of its own.".to_owned(),
        }
    }
}

/// The keys that have signed `handed`: each is of an approver who counts at `now`.
///
/// # Errors
/// [`SignatureFlaw`] for the first signature that is not.
pub fn by_approvers<T: SignedByMany>(
    handed: &MultiSigned<T>,
    lineage: &Lineage,
    now: Timestamp,
) -> Result<Vec<KeyId>, SignatureFlaw> {
    judge(handed, &lineage.counting_keys(now), lineage)
}

/// The keys that have signed `handed`: each is one of `keys`.
///
/// # Errors
/// [`SignatureFlaw`] for the first signature that is not.
pub fn judge<T: SignedByMany>(
    handed: &MultiSigned<T>,
    keys: &[PublicKey],
    lineage: &Lineage,
) -> Result<Vec<KeyId>, SignatureFlaw> {
    let found = handed.signers(keys).map_err(SignatureFlaw::False)?;
    let Some(key) = handed.key_ids().into_iter().find(|key| !found.contains(key)) else { return Ok(found) };
    let current = lineage.current();
    let theirs = |one: &&Approver| one.key.key_id() == key;
    Err(match current.approvers.iter().find(theirs) {
        Some(one) => SignatureFlaw::Young { key, name: one.name.clone(), from: lineage.counts_from(one) },
        None => SignatureFlaw::Stranger { key, version: current.version },
    })
}
