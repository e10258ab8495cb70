//! What a device refuses to obey.

use super::*;
use crate::authority::tests::secret;
use crate::envelope::{Signed, sign1};
use crate::key::Signer as _;
use crate::merkle::{leaf_hash, prove_consistency, prove_inclusion, root_of};
use crate::warrant::tests::{NOW, lineage, signed, targets, warrant};

const ORIGIN: &str = "fleet.example/audit";

fn log(size: u8) -> Vec<Sha256Digest> {
    (0..size).map(|number| leaf_hash(&[number])).collect()
}

fn log_head(size: u8) -> TreeHead {
    TreeHead { size: u64::from(size), root: root_of(&log(size)) }
}

fn checkpoint(size: u8) -> String {
    Checkpoint { origin: ORIGIN.into(), head: log_head(size) }.sign(&secret(2)).unwrap()
}

fn order(action: Action) -> Order {
    Order {
        device: DeviceId::from_bytes([3; 16]),
        id: OrderId::from_bytes([7; 16]),
        sequence: Sequence { authority_version: 1, restore_epoch: 0, counter: 5 },
        action,
        warrant: None,
        leaf: None,
        inclusion: None,
        issued_at: NOW,
        expires: NOW.plus_seconds(60),
        checkpoint: checkpoint(9),
        consistency: prove_consistency(&log(9), 6).unwrap(),
    }
}

/// A wipe of device 3 of 5, under a warrant that `seeds` have signed.
fn wipe(seeds: &[u8]) -> Order {
    let action = Action::Wipe { level: Level::Clear, data_roots: vec!["/srv/data".into()] };
    let targets = targets(5, Level::Clear);
    let leaves: Vec<_> = targets.iter().map(Target::leaf_hash).collect();
    let warrant = signed(&warrant(&targets, action.plan()), seeds).to_bytes();
    Order {
        warrant: Some(warrant),
        leaf: Some(targets[3].clone()),
        inclusion: prove_inclusion(&leaves, 3),
        ..order(action)
    }
}

fn recipient() -> Recipient<'static> {
    Recipient {
        device: DeviceId::from_bytes([3; 16]),
        serial: Some("SN3"),
        highest: Some(Sequence { authority_version: 1, restore_epoch: 0, counter: 4 }),
        log_origin: ORIGIN,
        log_head: log_head(6),
    }
}

fn judge_for(order: &Order, recipient: &Recipient<'_>) -> Result<Admitted, OrderError> {
    let bytes = sign1(order, &secret(1)).unwrap();
    let order = Signed::<Order>::parse(&bytes).unwrap().verify(&[secret(1).public_key()]).unwrap();
    admit(&order, recipient, &lineage(), NOW)
}

fn judge(order: &Order) -> Result<Admitted, OrderError> {
    judge_for(order, &recipient())
}

#[test]
fn what_needs_nobody_needs_no_warrant() {
    let admitted = judge(&order(Action::CollectPosture)).unwrap();
    assert!(admitted.warrant.is_none());
    assert_eq!(admitted.log_head, log_head(9));
}

#[test]
fn a_wipe_under_a_good_warrant_is_admitted() {
    let admitted = judge(&wipe(&[10, 11])).unwrap();
    assert_eq!(admitted.warrant.unwrap().signers().len(), 2);
}

#[test]
fn every_server_key_together_wipes_nothing() {
    let found = judge(&Order { warrant: None, ..wipe(&[10, 11]) });
    assert!(matches!(found, Err(OrderError::WarrantMissing)), "{found:?}");
    for seeds in [&[1][..], &[1, 2], &[10]] {
        let found = judge(&wipe(seeds));
        assert!(matches!(found, Err(OrderError::Warrant(_))), "{found:?}");
    }
}

#[test]
fn a_warrant_covers_its_plan_and_its_target_alone() {
    let mut more = wipe(&[10, 11]);
    more.action = Action::Wipe { level: Level::Clear, data_roots: vec!["/".into()] };
    assert!(matches!(judge(&more), Err(OrderError::OtherTarget)));
    let mut harder = wipe(&[10, 11]);
    harder.action = Action::Wipe { level: Level::FactoryReset, data_roots: vec!["/srv/data".into()] };
    assert!(matches!(judge(&harder), Err(OrderError::OtherTarget)));
    let other = Recipient { serial: Some("SN4"), ..recipient() };
    assert!(matches!(judge_for(&wipe(&[10, 11]), &other), Err(OrderError::OtherTarget)));
    let unnamed = Recipient { serial: None, ..recipient() };
    assert!(matches!(judge_for(&wipe(&[10, 11]), &unnamed), Err(OrderError::OtherTarget)));
    let mut sibling = wipe(&[10, 11]);
    sibling.leaf = Some(targets(5, Level::Clear)[2].clone());
    assert!(matches!(judge(&sibling), Err(OrderError::Warrant(WarrantError::Inclusion(_)))));
}

#[test]
fn address_sequence_version_and_expiry_are_judged() {
    let good = order(Action::Lock);
    let sibling = Recipient { device: DeviceId::from_bytes([4; 16]), ..recipient() };
    assert!(matches!(judge_for(&good, &sibling), Err(OrderError::OtherDevice)));
    let replayed = Recipient { highest: Some(good.sequence), ..recipient() };
    assert!(matches!(judge_for(&good, &replayed), Err(OrderError::Sequence)));
    let unknown = Sequence { authority_version: 2, restore_epoch: 0, counter: u64::MAX };
    let exhausting = judge(&Order { sequence: unknown, ..good.clone() });
    assert!(matches!(exhausting, Err(OrderError::AuthorityVersion { version: 2 })), "{exhausting:?}");
    let late = judge(&Order { expires: NOW.plus_seconds(-1), ..good });
    assert!(matches!(late, Err(OrderError::Expired { .. })), "{late:?}");
}

#[test]
fn a_log_that_forks_or_shrinks_is_found() {
    let good = order(Action::CollectPosture);
    let forked = Recipient { log_head: TreeHead { size: 6, root: Sha256Digest([9; 32]) }, ..recipient() };
    assert!(matches!(judge_for(&good, &forked), Err(OrderError::Consistency(_))));
    let ahead = Recipient { log_head: log_head(10), ..recipient() };
    assert!(matches!(judge_for(&good, &ahead), Err(OrderError::Consistency(_))));
    let foreign = Checkpoint { origin: ORIGIN.into(), head: log_head(9) }.sign(&secret(1)).unwrap();
    let found = judge(&Order { checkpoint: foreign, ..good });
    assert!(matches!(found, Err(OrderError::Checkpoint(CheckpointError::Unsigned))), "{found:?}");
}

#[test]
fn sequences_compare_version_then_epoch_then_counter() {
    let sequence =
        |authority_version, restore_epoch, counter| Sequence { authority_version, restore_epoch, counter };
    assert!(sequence(1, 0, u64::MAX) < sequence(1, 1, 0));
    assert!(sequence(1, u64::MAX, u64::MAX) < sequence(2, 0, 0));
}

#[test]
fn every_kind_reads_back() {
    let actions = [
        Action::RotateIdentity,
        Action::RotateSecret { name: "vpn".into(), sealed: vec![1, 2, 3] },
        Action::CollectPosture,
        Action::Lock,
        Action::Unlock,
        Action::Wipe { level: Level::Retire, data_roots: vec![] },
        Action::WipeOnLapse { after_s: u64::MAX, level: Level::Clear, data_roots: vec!["/srv".into()] },
        Action::Stop { warrant: WarrantId::from_bytes([1; 16]) },
        Action::UpdateTrust { version: 2, roots: vec![vec![0x30, 0]] },
        Action::UpdateAgent { version: "1.2.3".into(), sha256: Sha256Digest([5; 32]), size_bytes: 7 },
    ];
    assert_eq!(actions.len(), Kind::ALL.len());
    for action in actions {
        let order = order(action);
        assert_eq!(cbor::decode::<Order>(&cbor::encode(&order)).unwrap(), order);
    }
}
