//! Successors of the authority document: how one is made of the present one, and how far its signatures have come.
//!
//! ```text
//! propose ─▶ pending (nobody has signed) ─sign─▶ … ─sign: enough─▶ in force; the one before is history
//! ```
//! Whether a successor may take over is judged by [`Lineage::verify_successor`] and nothing else, here and on every
//! device; [`Progress`] only says it in words.

use super::signature::{self, SignatureFlaw};
use muster_wire::approver::ApproverName;
use muster_wire::authority::{Approver, Authority, AuthorityFlaw, Matter, RecoveryKey};
use muster_wire::envelope::{MultiSigned, Verified};
use muster_wire::key::{Ed25519Key, PublicKey};
use muster_wire::lineage::Lineage;
use muster_wire::time::Timestamp;
use serde::{Deserialize, Serialize};

/// What the successions so far have settled, beside the documents themselves. Absent before the first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Succession {
    /// Version of this record's form.
    pub v: u8,
    /// Who reports this generation was told of the document in force; 0: there was never a successor.
    pub generation: u64,
    /// The command key's name among the files, where it is not the one of the founding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// The same for the audit key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<String>,
    /// Audit keys that signed checkpoints before, 32 bytes in hexadecimal, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former_audit: Vec<String>,
}

/// A successor that waits for signatures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// Version of this record's form.
    pub v: u8,
    /// The document with its signatures so far, COSE_Sign in hexadecimal.
    pub signed: String,
    /// When it was proposed, unix seconds.
    pub proposed_at: i64,
    /// Who proposed it, as the audit log names them.
    pub proposed_by: String,
    /// The request that proposed it, so that the same one again changes nothing; empty where it has no key.
    pub request: String,
}

/// What a successor is to change.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Approvers who join.
    pub add_approvers: Vec<(ApproverName, Ed25519Key)>,
    /// Approvers who leave, by name.
    pub remove_approvers: Vec<ApproverName>,
    /// Matters that need another number of approvers.
    pub required: Vec<(Matter, u64)>,
    /// Recovery keys that join.
    pub add_recovery: Vec<(ApproverName, Ed25519Key)>,
    /// Recovery keys that leave, by name.
    pub remove_recovery: Vec<ApproverName>,
    /// The command key that takes the place of all others.
    pub command_key: Option<Ed25519Key>,
    /// The audit key that takes the place of all others.
    pub audit_key: Option<Ed25519Key>,
}

/// Why a successor cannot be proposed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SuccessionFlaw {
    /// It says what is in force already.
    #[error("changes nothing; name an approver to add or remove, a number of approvers, or a key to replace")]
    Unchanged,
    /// Nobody of this name is there to be removed.
    #[error("names {name}, who is not there; `muster authority show` lists who is")]
    NotThere {
        /// Whom.
        name: ApproverName,
    },
    /// More approvers would be needed for the next successor than there would be.
    #[error(
        "would need {needed} approvers for its own successor and have {approvers}; lower it with --required authority=N \
         or add approvers"
    )]
    Final {
        /// How many it would need.
        needed: usize,
        /// How many there would be.
        approvers: usize,
    },
    /// It is unfit whoever signs it.
    #[error("cannot be: {0}")]
    Unfit(AuthorityFlaw),
}

/// The document after `current` with `changes`, in which approvers who join are valid from `now` on.
///
/// # Errors
/// [`SuccessionFlaw`]: nobody is asked to sign what no device would take.
pub fn successor(
    current: &Verified<Authority>,
    changes: &Changes,
    now: Timestamp,
) -> Result<Authority, SuccessionFlaw> {
    let mut next = Authority::clone(current);
    for name in &changes.remove_approvers {
        let before = next.approvers.len();
        next.approvers.retain(|approver| approver.name != *name);
        left(before, next.approvers.len(), name)?;
    }
    for name in &changes.remove_recovery {
        let before = next.recovery.len();
        next.recovery.retain(|recovery| recovery.name != *name);
        left(before, next.recovery.len(), name)?;
    }
    let joined = |(name, key): &(ApproverName, Ed25519Key)| (name.clone(), *key);
    let approvers = changes.add_approvers.iter().map(joined);
    next.approvers.extend(approvers.map(|(name, key)| Approver { name, key, valid_from: now }));
    next.recovery
        .extend(changes.add_recovery.iter().map(joined).map(|(name, key)| RecoveryKey { name, key }));
    next.required = changes.required.iter().fold(next.required, |table, (matter, n)| table.with(*matter, *n));
    next.command_keys = changes.command_key.map_or(next.command_keys, |key| vec![key]);
    next.audit_keys = changes.audit_key.map_or(next.audit_keys, |key| vec![key]);
    if next == **current {
        return Err(SuccessionFlaw::Unchanged);
    }
    next.version = current.version.saturating_add(1);
    next.previous = Some(current.payload_digest());
    next.check().map_err(SuccessionFlaw::Unfit)?;
    let (needed, approvers) = (next.approvers_for(Matter::Authority), next.approvers.len());
    if needed > approvers { Err(SuccessionFlaw::Final { needed, approvers }) } else { Ok(next) }
}

fn left(before: usize, after: usize, name: &ApproverName) -> Result<(), SuccessionFlaw> {
    if after < before { Ok(()) } else { Err(SuccessionFlaw::NotThere { name: name.clone() }) }
}

/// One side of what a successor needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quorum {
    /// How many have to sign.
    pub needed: usize,
    /// Whose signatures are there and count now.
    pub signed: Vec<ApproverName>,
}

/// How far a proposal has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Approvers of the document in force.
    pub current: Quorum,
    /// Approvers of the successor.
    pub next: Quorum,
    /// Recovery keys of the document in force, of which a majority is enough alone; 0 where there are none.
    pub recovery: Quorum,
    /// Approvers who have signed and do not count yet, and from when they do.
    pub waiting: Vec<(ApproverName, Timestamp)>,
}

/// Everybody whose signature under `next` could matter: approvers of both documents, recovery keys of the one in force.
fn signers(lineage: &Lineage, next: &Authority) -> Vec<PublicKey> {
    let current = lineage.current();
    let mut keys = current.approver_keys();
    keys.extend(current.recovery_keys());
    keys.extend(next.approver_keys());
    let mut seen = std::collections::BTreeSet::new();
    keys.retain(|key| seen.insert(key.key_id()));
    keys
}

/// Judges every signature under `signed`, a proposal of `next`.
///
/// # Errors
/// [`SignatureFlaw`] for the first that would do harm: a false one makes every device refuse all of them.
pub fn check_signatures(
    lineage: &Lineage,
    next: &Authority,
    signed: &MultiSigned<Authority>,
) -> Result<(), SignatureFlaw> {
    signature::judge(signed, &signers(lineage, next), lineage).map(drop)
}

impl Progress {
    /// How far `signed`, a proposal of `next` whose signatures were judged, has come at `now`.
    pub fn of(lineage: &Lineage, next: &Authority, signed: &MultiSigned<Authority>, now: Timestamp) -> Self {
        let (current, keys) = (lineage.current(), signed.key_ids());
        let has_signed = |key: &Ed25519Key| keys.contains(&key.key_id());
        let counting: Vec<_> = lineage.counting(now).map(|approver| approver.key).collect();
        let names = |approvers: &[Approver]| {
            let theirs = approvers.iter().filter(|approver| has_signed(&approver.key));
            theirs.map(|approver| approver.name.clone()).collect::<Vec<_>>()
        };
        let counts: Vec<Approver> =
            current.approvers.iter().filter(|approver| counting.contains(&approver.key)).cloned().collect();
        let wait = current.approvers.iter().filter(|approver| !counting.contains(&approver.key));
        let recovery = current.recovery.iter().filter(|one| has_signed(&one.key));
        let needed = |document: &Authority| document.approvers_for(Matter::Authority);
        Self {
            current: Quorum { needed: needed(current), signed: names(&counts) },
            next: Quorum { needed: needed(next), signed: names(&next.approvers) },
            recovery: Quorum {
                needed: if current.recovery.is_empty() { 0 } else { current.recovery.len() / 2 + 1 },
                signed: recovery.map(|one| one.name.clone()).collect(),
            },
            waiting: wait
                .filter(|approver| has_signed(&approver.key))
                .map(|approver| (approver.name.clone(), lineage.counts_from(approver)))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use ed25519_dalek::SigningKey;
    use muster_wire::authority::Required;

    const NOW: Timestamp = Timestamp(1_000);

    /// A key that no call before has answered.
    fn fresh_ed25519() -> SigningKey {
        static NEXT: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(1);
        SigningKey::from_bytes(&[NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed); 32])
    }

    struct People {
        command: SigningKey,
        approvers: Vec<SigningKey>,
        recovery: SigningKey,
        lineage: Lineage,
    }

    fn public(key: &SigningKey) -> Ed25519Key {
        Ed25519Key::from_bytes(key.verifying_key().as_bytes()).unwrap()
    }

    fn name(text: &str) -> ApproverName {
        text.parse().unwrap()
    }

    fn people() -> People {
        let (command, recovery) = (fresh_ed25519(), fresh_ed25519());
        let approvers: Vec<_> = (0..3).map(|_| fresh_ed25519()).collect();
        let named = approvers.iter().zip(["a", "b", "c"]);
        let document = Authority {
            version: 1,
            trust_domain: "fleet.example".parse().unwrap(),
            command_keys: vec![public(&command)],
            audit_keys: vec![public(&fresh_ed25519())],
            approvers: named
                .map(|(key, text)| Approver { name: name(text), key: public(key), valid_from: NOW })
                .collect(),
            recovery: vec![RecoveryKey { name: name("safe"), key: public(&recovery) }],
            required: Required::founding(3).0,
            previous: None,
        };
        let mut first = MultiSigned::unsigned(&document);
        first.add_signature(&command).unwrap();
        let lineage = Lineage::found(&first, first.payload_digest()).unwrap();
        People { command, approvers, recovery, lineage }
    }

    fn without_c() -> Changes {
        Changes { remove_approvers: vec![name("c")], ..Changes::default() }
    }

    #[test]
    fn a_successor_follows_and_says_what_was_asked() {
        let people = people();
        let joins = public(&fresh_ed25519());
        let changes = Changes {
            add_approvers: vec![(name("d"), joins)],
            required: vec![(Matter::Lock, 2)],
            ..without_c()
        };
        let next = successor(people.lineage.current(), &changes, Timestamp(5_000)).unwrap();
        let names: Vec<_> = next.approvers.iter().map(|one| one.name.as_str()).collect();
        assert_eq!((names, next.version), (vec!["a", "b", "d"], 2));
        assert_eq!(next.approvers[2].valid_from, Timestamp(5_000), "who joins waits from now on");
        assert_eq!(next.required.count(Matter::Lock), Some(2));
        let mut signed = MultiSigned::unsigned(&next);
        for key in &people.approvers[..2] {
            signed.add_signature(key).unwrap();
        }
        assert!(people.lineage.succeed(&signed, NOW).is_ok());
    }

    #[test]
    fn what_no_device_would_take_is_not_proposed() {
        let people = people();
        let flaw = |changes: &Changes| successor(people.lineage.current(), changes, NOW).unwrap_err();
        assert_eq!(flaw(&Changes::default()), SuccessionFlaw::Unchanged);
        let stranger = Changes { remove_approvers: vec![name("z")], ..Changes::default() };
        assert_eq!(flaw(&stranger), SuccessionFlaw::NotThere { name: name("z") });
        let lonely = Changes { remove_approvers: vec![name("b"), name("c")], ..Changes::default() };
        assert_eq!(flaw(&lonely), SuccessionFlaw::Final { needed: 2, approvers: 1 });
        let floor = Changes { required: vec![(Matter::WipeClear, 0)], ..Changes::default() };
        assert!(matches!(flaw(&floor), SuccessionFlaw::Unfit(AuthorityFlaw::BelowFloor { .. })));
        let twice = (name("d"), public(&people.approvers[0]));
        let twice = Changes { add_approvers: vec![twice], ..Changes::default() };
        assert!(matches!(flaw(&twice), SuccessionFlaw::Unfit(AuthorityFlaw::RepeatedKey { .. })));
    }

    #[test]
    fn strangers_and_false_signatures_are_told() {
        let people = people();
        let next = successor(people.lineage.current(), &without_c(), NOW).unwrap();
        let judge = |signed: &MultiSigned<Authority>| check_signatures(&people.lineage, &next, signed);
        let mut signed = MultiSigned::unsigned(&next);
        signed.add_signature(&people.recovery).unwrap();
        signed.add_signature(&people.approvers[2]).unwrap();
        judge(&signed).unwrap();
        let mut bytes = signed.to_bytes();
        *bytes.last_mut().unwrap() ^= 1;
        let broken = MultiSigned::parse(&bytes).unwrap();
        assert!(matches!(judge(&broken), Err(SignatureFlaw::False(_))));
        signed.add_signature(&people.command).unwrap();
        assert!(
            matches!(judge(&signed), Err(SignatureFlaw::Stranger { .. })),
            "the command key approves nothing"
        );
    }

    #[test]
    fn progress_names_who_has_signed_for_which_side() {
        let people = people();
        let next = successor(people.lineage.current(), &without_c(), NOW).unwrap();
        let mut signed = MultiSigned::unsigned(&next);
        for key in [&people.approvers[0], &people.approvers[2], &people.recovery] {
            signed.add_signature(key).unwrap();
        }
        let progress = Progress::of(&people.lineage, &next, &signed, NOW);
        assert_eq!(progress.current, Quorum { needed: 2, signed: vec![name("a"), name("c")] });
        assert_eq!(progress.next, Quorum { needed: 2, signed: vec![name("a")] }, "c leaves");
        assert_eq!(progress.recovery, Quorum { needed: 1, signed: vec![name("safe")] });
        assert_eq!(progress.waiting, []);
    }

    #[test]
    fn an_approver_who_joined_today_is_said_to_wait() {
        let people = people();
        let joins = fresh_ed25519();
        let changes = Changes { add_approvers: vec![(name("d"), public(&joins))], ..Changes::default() };
        let second = successor(people.lineage.current(), &changes, NOW).unwrap();
        let mut signed = MultiSigned::unsigned(&second);
        signed.add_signature(&people.recovery).unwrap();
        let lineage = people.lineage.succeed(&signed, NOW).unwrap();
        let third = successor(lineage.current(), &without_c(), NOW).unwrap();
        let mut signed = MultiSigned::unsigned(&third);
        signed.add_signature(&joins).unwrap();
        let progress = Progress::of(&lineage, &third, &signed, NOW);
        assert_eq!(progress.current.signed, []);
        assert_eq!(progress.waiting, [(name("d"), NOW.plus_seconds(86_400))]);
        assert_eq!(Progress::of(&lineage, &third, &signed, NOW.plus_seconds(86_400)).waiting, []);
    }
}
