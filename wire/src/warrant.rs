//! Warrants: what approvers sign, once, over a frozen list of targets.
//!
//! A warrant names a kind, a level, a plan and the RFC 6962 root over its target leaves. Whoever signs renders
//! the names from the leaves and compares root and count ([`Warrant::names_exactly`]); a device checks that its
//! own leaf stands beneath the root ([`Warrant::check_target`]). How many approvers are enough is asked of the
//! authority document in force, for the warrant's kind, level **and count** ([`verify`]).

use crate::authority::{MANY_DEVICES, Matter, Required};
use crate::cbor::{self, document, record, words};
use crate::digest::Sha256Digest;
use crate::envelope::{EnvelopeError, MultiSigned, Verified};
use crate::id::{DeviceId, WarrantId};
use crate::lineage::Lineage;
use crate::merkle::{InclusionProof, ProofError, leaf_hash, root_of, verify_inclusion};
use crate::time::Timestamp;

words! {
    /// What an order asks for.
    Kind {
        /// Renew with a new identity key.
        RotateIdentity = "rotate_identity",
        /// Take a new secret.
        RotateSecret = "rotate_secret",
        /// Report posture now.
        CollectPosture = "collect_posture",
        /// Lock the device.
        Lock = "lock",
        /// Undo `lock`.
        Unlock = "unlock",
        /// Wipe, as far as the level says.
        Wipe = "wipe",
        /// Stop a warrant.
        Stop = "stop",
        /// Take a new set of roots.
        UpdateTrust = "update_trust",
        /// Take another agent.
        UpdateAgent = "update_agent",
        /// Wipe by itself once the lease has lapsed for as long as the order says.
        WipeOnLapse = "wipe_on_lapse",
    }
}

words! {
    /// How far a wipe goes; each level does what the one before does, and more.
    Level {
        /// Managed secrets and configuration.
        Retire = "retire",
        /// The profile's data roots too.
        Clear = "clear",
        /// The volume keys.
        CryptoErase = "crypto-erase",
        /// The platform's factory reset.
        FactoryReset = "factory-reset",
    }
}

/// Why a warrant does not cover an order.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WarrantError {
    /// Its signatures do not hold.
    #[error("the warrant is not signed as it must be")]
    Envelope(#[source] EnvelopeError),
    /// Too few approvers that count have signed for this kind, level and count.
    #[error("{needed} approvers are needed, {found} that count have signed")]
    TooFew {
        /// How many are needed.
        needed: usize,
        /// How many have signed.
        found: usize,
    },
    /// A wipe without a level, or a level without a wipe.
    #[error("kind and level do not fit each other")]
    Level,
    /// The authority document does not say what this kind needs.
    #[error("the authority document does not name {matter}")]
    Unanswered {
        /// What was asked.
        matter: Matter,
    },
    /// Made under an authority document that is not known here.
    #[error("authority version {version} is not known")]
    AuthorityVersion {
        /// The version named.
        version: u64,
    },
    /// It ended.
    #[error("the warrant ended at {not_after}")]
    Ended {
        /// When.
        not_after: Timestamp,
    },
    /// It names nobody.
    #[error("the warrant names no device")]
    Empty,
    /// The leaf is for another kind or level than the warrant, or the proof for another count.
    #[error("leaf, proof and warrant are not about the same thing")]
    Mismatch,
    /// The leaf does not stand beneath the warrant's root.
    #[error("the leaf is not one of the warrant's targets")]
    Inclusion(#[source] ProofError),
}

impl From<EnvelopeError> for WarrantError {
    fn from(error: EnvelopeError) -> Self {
        Self::Envelope(error)
    }
}

/// One target: a leaf of the tree whose root the warrant carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The device.
    pub device: DeviceId,
    /// Its hardware serial number; the device compares it with its own.
    pub serial: Option<String>,
    /// Whose it is, for the person who signs.
    pub owner: Option<String>,
    /// What happens to it.
    pub kind: Kind,
    /// How far a wipe goes.
    pub level: Option<Level>,
}
record!(Target { device, serial, owner, kind, level });

impl Target {
    /// The hash of this leaf.
    pub fn leaf_hash(&self) -> Sha256Digest {
        leaf_hash(&cbor::encode(self))
    }
}

/// A warrant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warrant {
    /// Its name.
    pub id: WarrantId,
    /// What it allows.
    pub kind: Kind,
    /// How far a wipe may go.
    pub level: Option<Level>,
    /// SHA-256 of the encoded body of every order under it.
    pub plan: Sha256Digest,
    /// RFC 6962 root over the target leaves.
    pub root: Sha256Digest,
    /// How many targets.
    pub count: u64,
    /// Its last second.
    pub not_after: Timestamp,
    /// The authority document its signers looked at.
    pub authority_version: u64,
}
document!(Warrant, "warrant", 16 * 1024, SignedByMany, {
    id, kind, level, plan, root, count, not_after, authority_version,
});

impl Warrant {
    /// Whether `targets` are this warrant's, all of them and in its order: what a signer asks before signing.
    ///
    /// # Errors
    /// [`WarrantError::Empty`], [`WarrantError::Mismatch`].
    pub fn names_exactly(&self, targets: &[Target]) -> Result<(), WarrantError> {
        if targets.is_empty() {
            return Err(WarrantError::Empty);
        }
        let alike = targets.iter().all(|target| target.kind == self.kind && target.level == self.level);
        let leaves: Vec<_> = targets.iter().map(Target::leaf_hash).collect();
        let counted = u64::try_from(targets.len()) == Ok(self.count);
        if alike && counted && root_of(&leaves) == self.root { Ok(()) } else { Err(WarrantError::Mismatch) }
    }

    /// Whether `target` stands where `proof` says, in this warrant's list.
    ///
    /// # Errors
    /// [`WarrantError::Mismatch`], [`WarrantError::Inclusion`].
    pub fn check_target(&self, target: &Target, proof: &InclusionProof) -> Result<(), WarrantError> {
        if target.kind != self.kind || target.level != self.level || proof.size != self.count {
            return Err(WarrantError::Mismatch);
        }
        verify_inclusion(&target.leaf_hash(), proof, &self.root).map_err(WarrantError::Inclusion)
    }
}

/// How many distinct approvers `kind` needs when `count` devices are named in one warrant.
///
/// # Errors
/// [`WarrantError::Level`] when kind and level do not fit; [`WarrantError::Unanswered`], which refuses.
pub fn approvers_needed(
    required: &Required,
    kind: Kind,
    level: Option<Level>,
    count: u64,
) -> Result<usize, WarrantError> {
    let answer = |matter| required.count(matter).ok_or(WarrantError::Unanswered { matter });
    let needed = answer(matter(kind, level)?)?;
    if level >= Some(Level::Clear) && count > MANY_DEVICES {
        return Ok(needed.max(answer(Matter::WipeMany)?));
    }
    Ok(needed)
}

fn matter(kind: Kind, level: Option<Level>) -> Result<Matter, WarrantError> {
    Ok(match (kind, level) {
        (Kind::Wipe, Some(Level::Retire)) => Matter::WipeRetire,
        (Kind::Wipe, Some(Level::Clear)) => Matter::WipeClear,
        (Kind::Wipe, Some(Level::CryptoErase)) => Matter::WipeCryptoErase,
        (Kind::Wipe, Some(Level::FactoryReset)) => Matter::WipeFactoryReset,
        (Kind::RotateIdentity, None) => Matter::RotateIdentity,
        (Kind::RotateSecret, None) => Matter::RotateSecret,
        (Kind::CollectPosture, None) => Matter::CollectPosture,
        (Kind::Lock, None) => Matter::Lock,
        (Kind::Unlock, None) => Matter::Unlock,
        (Kind::Stop, None) => Matter::Stop,
        (Kind::UpdateTrust, None) => Matter::UpdateTrust,
        (Kind::UpdateAgent, None) => Matter::UpdateAgent,
        (Kind::WipeOnLapse, Some(Level::Clear)) => Matter::LapseDestructive,
        (Kind::Wipe | Kind::WipeOnLapse, None) | (_, Some(_)) => return Err(WarrantError::Level),
    })
}

/// Believes a warrant if enough approvers that count at `now` have signed it, and it has not ended.
///
/// Who counts and how many are enough is judged by the authority document in force, not by the one the warrant
/// was made under: an approver who was removed no longer counts.
///
/// # Errors
/// See [`WarrantError`].
pub fn verify(
    signed: &MultiSigned<Warrant>,
    lineage: &Lineage,
    now: Timestamp,
) -> Result<Verified<Warrant>, WarrantError> {
    let warrant = signed.verify(&lineage.counting_keys(now), 1)?;
    let current = lineage.current();
    if !(1..=current.version).contains(&warrant.authority_version) {
        return Err(WarrantError::AuthorityVersion { version: warrant.authority_version });
    }
    if now > warrant.not_after {
        return Err(WarrantError::Ended { not_after: warrant.not_after });
    }
    if warrant.count == 0 {
        return Err(WarrantError::Empty);
    }
    let needed = approvers_needed(&current.required, warrant.kind, warrant.level, warrant.count)?;
    let found = warrant.signers().len();
    if found < needed { Err(WarrantError::TooFew { needed, found }) } else { Ok(warrant) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::authority::tests::{founded, secret};
    use crate::merkle::prove_inclusion;

    pub(crate) const NOW: Timestamp = Timestamp(2_000);

    pub(crate) fn lineage() -> Lineage {
        let mut first = MultiSigned::unsigned(&founded());
        first.add_signature(&secret(1)).unwrap();
        Lineage::found(&first, first.payload_digest()).unwrap()
    }

    pub(crate) fn targets(count: u8, level: Level) -> Vec<Target> {
        let target = |number| Target {
            device: DeviceId::from_bytes([number; 16]),
            serial: Some(format!("SN{number}")),
            owner: None,
            kind: Kind::Wipe,
            level: Some(level),
        };
        (0..count).map(target).collect()
    }

    pub(crate) fn warrant(targets: &[Target], plan: Sha256Digest) -> Warrant {
        let leaves: Vec<_> = targets.iter().map(Target::leaf_hash).collect();
        Warrant {
            id: WarrantId::from_bytes([1; 16]),
            kind: targets[0].kind,
            level: targets[0].level,
            plan,
            root: root_of(&leaves),
            count: targets.len() as u64,
            not_after: Timestamp(3_000),
            authority_version: 1,
        }
    }

    pub(crate) fn signed(warrant: &Warrant, seeds: &[u8]) -> MultiSigned<Warrant> {
        let mut signed = MultiSigned::unsigned(warrant);
        for seed in seeds {
            signed.add_signature(&secret(*seed)).unwrap();
        }
        signed
    }

    fn judge(count: u8, level: Level, seeds: &[u8]) -> Result<Verified<Warrant>, WarrantError> {
        verify(&signed(&warrant(&targets(count, level), Sha256Digest([0; 32])), seeds), &lineage(), NOW)
    }

    #[test]
    fn approvers_are_counted_by_level_and_by_number_of_devices() {
        assert!(judge(200, Level::Retire, &[10]).is_ok());
        assert!(matches!(judge(1, Level::Clear, &[10]), Err(WarrantError::TooFew { needed: 2, found: 1 })));
        assert!(judge(10, Level::FactoryReset, &[10, 11]).is_ok());
        assert!(matches!(
            judge(11, Level::Clear, &[10, 11]),
            Err(WarrantError::TooFew { needed: 3, found: 2 })
        ));
        assert!(judge(11, Level::Clear, &[10, 11, 12]).is_ok());
    }

    #[test]
    fn a_wipe_on_lapse_clears_and_needs_those_whom_a_lapse_that_destroys_needs() {
        let needed = |level, count| {
            approvers_needed(&lineage().current().required, Kind::WipeOnLapse, level, count).ok()
        };
        assert_eq!((needed(Some(Level::Clear), 1), needed(Some(Level::Clear), 11)), (Some(2), Some(3)));
        for level in [None, Some(Level::Retire), Some(Level::CryptoErase), Some(Level::FactoryReset)] {
            assert_eq!(needed(level, 1), None, "{level:?}");
        }
    }

    #[test]
    fn keys_of_the_server_and_of_recovery_approve_nothing() {
        for seeds in [&[1][..], &[1, 2], &[20, 21, 22], &[99]] {
            let found = judge(1, Level::Retire, seeds);
            assert!(matches!(found, Err(WarrantError::Envelope(EnvelopeError::UnknownSigner))), "{found:?}");
        }
    }

    #[test]
    fn a_warrant_ends_and_knows_its_authority() {
        let targets = targets(1, Level::Retire);
        let good = warrant(&targets, Sha256Digest([0; 32]));
        let judge = |warrant: &Warrant, now| verify(&signed(warrant, &[10, 11]), &lineage(), now);
        assert!(judge(&good, good.not_after).is_ok(), "its last second is good");
        assert!(matches!(judge(&good, good.not_after.plus_seconds(1)), Err(WarrantError::Ended { .. })));
        for version in [0, 2] {
            let found = judge(&Warrant { authority_version: version, ..good }, NOW);
            assert!(matches!(found, Err(WarrantError::AuthorityVersion { .. })), "{found:?}");
        }
        let found = judge(&Warrant { count: 0, ..good }, NOW);
        assert!(matches!(found, Err(WarrantError::Empty)), "{found:?}");
        let found = judge(&Warrant { level: None, ..good }, NOW);
        assert!(matches!(found, Err(WarrantError::Level)), "{found:?}");
    }

    #[test]
    fn only_its_targets_are_covered() {
        let targets = targets(5, Level::Clear);
        let leaves: Vec<_> = targets.iter().map(Target::leaf_hash).collect();
        let warrant = warrant(&targets, Sha256Digest([0; 32]));
        let proof = prove_inclusion(&leaves, 3).unwrap();
        assert!(warrant.check_target(&targets[3], &proof).is_ok());
        assert!(matches!(warrant.check_target(&targets[2], &proof), Err(WarrantError::Inclusion(_))));
        let renamed = Target { serial: Some("SN9".into()), ..targets[3].clone() };
        assert!(matches!(warrant.check_target(&renamed, &proof), Err(WarrantError::Inclusion(_))));
        let harder = Target { level: Some(Level::FactoryReset), ..targets[3].clone() };
        assert!(matches!(warrant.check_target(&harder, &proof), Err(WarrantError::Mismatch)));
        let resized = InclusionProof { size: 6, ..proof };
        assert!(matches!(warrant.check_target(&targets[3], &resized), Err(WarrantError::Mismatch)));
    }

    #[test]
    fn a_signer_sees_every_target_or_refuses() {
        let targets = targets(3, Level::Clear);
        let warrant = warrant(&targets, Sha256Digest([0; 32]));
        assert!(warrant.names_exactly(&targets).is_ok());
        assert!(warrant.names_exactly(&targets[..2]).is_err());
        let hidden = Warrant { count: 2, ..warrant };
        assert!(hidden.names_exactly(&targets).is_err());
        assert!(hidden.names_exactly(&[]).is_err());
    }
}
