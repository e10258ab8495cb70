//! What a successor changes, and what a stop in the middle of it leaves.

use super::fixture::{Bench, UNLIMITED};
use super::{Asked, Error, Pending};
use crate::audit::PinnedKey;
use crate::audit::verify::{Known, verify_bytes};
use crate::ca::fresh_ed25519;
use crate::domain::policy::{Caller, Principal, act, decide};
use crate::domain::succession::Changes;
use ed25519_dalek::SigningKey;
use muster_wire::authority::{Authority, Matter};
use muster_wire::envelope::MultiSigned;
use muster_wire::key::{Ed25519Key, Signer as _};
use muster_wire::lift::Lift;
use muster_wire::problem::Code;
use std::collections::{BTreeMap, BTreeSet};

fn operator() -> Principal {
    Principal::Operator("admin".into())
}

fn stricter() -> Asked {
    let changes = Changes { required: vec![(Matter::CollectPosture, 1)], ..Changes::default() };
    Asked { changes, ..Asked::default() }
}

fn new_keys() -> Asked {
    Asked { new_command_key: true, new_audit_key: true, ..Asked::default() }
}

async fn propose(bench: &Bench, asked: Asked) -> Pending {
    bench.app.propose_authority(bench.permit(operator()), asked, None, |_| true).await.unwrap()
}

async fn bring(bench: &Bench, pending: &Pending, key: &SigningKey) -> Result<Pending, Error> {
    let mut copy = MultiSigned::unsigned(&pending.next);
    copy.add_signature(key).unwrap();
    bench.app.sign_authority(bench.permit(operator()), &copy.to_bytes()).await
}

/// Proposes, and signs as the one approver there is.
async fn succeed(bench: &Bench, asked: Asked) -> Authority {
    let pending = propose(bench, asked).await;
    let settled = bring(bench, &pending, &bench.approver).await.unwrap();
    assert!(settled.is_in_force);
    pending.next
}

/// The audit entries of this action, oldest first.
fn entries(bench: &Bench, action: &str) -> Vec<serde_json::Value> {
    let mut all = bench.app.audit_tail(&bench.permit(operator()), None, 10_000).unwrap().items;
    all.retain(|entry| entry["action"] == action);
    all
}

fn version(bench: &Bench) -> u64 {
    bench.app.authority(&bench.permit(operator())).version
}

/// The command and audit keys that lie on the disk.
fn key_files(bench: &Bench) -> BTreeSet<String> {
    let names = std::fs::read_dir(bench.data_dir().join("keys")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("command") || name.starts_with("audit")).collect()
}

fn commands(bench: &Bench, document: &Authority) -> bool {
    document.command_keys.iter().any(|key| *key.as_bytes() == bench.app.ca().command_public())
}

async fn exported(bench: &Bench) -> BTreeMap<String, Vec<u8>> {
    let permit = decide::<act::ReadAudit>(Caller { principal: operator(), request_id: "r".into() }).unwrap();
    let files = bench.app.audit_files(&permit).await.unwrap().files;
    let bytes = |path: &str| bench.app.audit_file(&permit, path).unwrap();
    files.iter().map(|file| (file.path.clone(), bytes(&file.path))).collect()
}

#[tokio::test]
async fn nothing_changes_before_enough_have_signed_and_everything_at_once_then() {
    let bench = Bench::founded(UNLIMITED);
    let pending = propose(&bench, stricter()).await;
    assert_eq!((version(&bench), pending.progress.current.needed), (1, 1));
    let settled = bring(&bench, &pending, &bench.approver).await.unwrap();
    assert!(settled.is_in_force);
    let shown = bench.app.authority(&bench.permit(operator()));
    assert_eq!((shown.version, shown.chain.len()), (2, 2));
    assert_eq!(shown.required["collect_posture"], 1);
    let heard = bench.app.authority_heard(&bench.permit(operator())).unwrap();
    assert!(heard.is_some(), "devices are asked whether they were told");
    let left = bench.app.pending_authority(&bench.permit(operator()));
    assert!(matches!(left, Err(Error::NotFound { .. })));
    // A reply that was lost: the same signature again says the same.
    assert!(bring(&bench, &pending, &bench.approver).await.unwrap().is_in_force);
    assert_eq!(version(&bench), 2);
}

#[tokio::test]
async fn a_stranger_signs_nothing_and_a_former_proposal_is_signed_no_more() {
    let bench = Bench::founded(UNLIMITED);
    let former = propose(&bench, stricter()).await;
    let stranger = fresh_ed25519();
    let refused = bring(&bench, &former, &stranger).await.unwrap_err();
    assert_eq!(refused.refusal().unwrap().code, Code::Forbidden, "{refused}");
    let key = stranger.public_key().key_id();
    assert!(matches!(&refused, Error::Signature { flaw, .. } if flaw.key() == Some(key)), "{refused:?}");
    let refusals = entries(&bench, "authority.sign");
    assert_eq!(
        refusals[0]["facts"]["key"],
        key.to_string(),
        "the log names the key, not only who brought it"
    );
    let _ = propose(&bench, new_keys()).await;
    let refused = bring(&bench, &former, &bench.approver).await.unwrap_err();
    assert!(matches!(refused, Error::Refused(refusal) if refusal.code == Code::Conflict), "{refused}");
    assert_eq!(version(&bench), 1);
    assert_eq!(bench.refusals(), ["authority.no_approver", "authority.other_proposal"]);
}

#[tokio::test]
async fn a_proposal_in_place_of_one_that_was_signed_says_and_writes_down_whose_signatures_are_lost() {
    let keys = [fresh_ed25519(), fresh_ed25519()];
    let bench = Bench::founded_by(UNLIMITED, &keys);
    let former = propose(&bench, stricter()).await;
    assert_eq!(former.replaced, None);
    let signed = bring(&bench, &former, &keys[0]).await.unwrap();
    let next = propose(&bench, new_keys()).await;
    let replaced = next.replaced.unwrap();
    let signed_by: Vec<_> = signed.progress.current.signed.iter().map(ToString::to_string).collect();
    assert_eq!((replaced.digest, &replaced.signed_by), (former.digest, &signed_by));
    let proposals = entries(&bench, "authority.propose");
    assert_eq!(proposals[0]["facts"].get("replaced_sha256"), None);
    assert_eq!(proposals[1]["facts"]["replaced_sha256"], former.digest.to_hex());
    assert_eq!(proposals[1]["facts"]["replaced_signed_by"], signed_by.join(","));
    assert_eq!(propose(&bench, stricter()).await.replaced, None, "nobody had signed that one");
}

#[tokio::test]
async fn who_joined_today_is_shown_to_count_from_tomorrow_on() {
    let bench = Bench::founded(UNLIMITED);
    let joins = fresh_ed25519();
    let key = Ed25519Key::from_bytes(joins.verifying_key().as_bytes()).unwrap();
    let changes = Changes { add_approvers: vec![("late".parse().unwrap(), key)], ..Changes::default() };
    let _ = succeed(&bench, Asked { changes, ..Asked::default() }).await;
    let shown = bench.app.authority(&bench.permit(operator())).approvers;
    assert_eq!(shown[0].counts_from, shown[0].valid_from, "a founding approver counts at once");
    assert_eq!(shown[1].counts_from, shown[1].valid_from.map(|joined| joined + 86_400));
    let frozen = bench.app.freeze(bench.permit(operator())).await.unwrap();
    let lift = MultiSigned::<Lift>::parse_unfinished(&frozen.lift).unwrap().read_unverified().unwrap();
    let mut copy = MultiSigned::unsigned(&lift);
    copy.add_signature(&joins).unwrap();
    let refused = bench.app.lift_freeze(bench.permit(operator()), &copy.to_bytes()).await.unwrap_err();
    let Error::Signature { flaw, .. } = refused else { panic!("{refused}") };
    assert!(flaw.to_string().contains("late's") && flaw.remedy().starts_with("Sign again after"), "{flaw}");
}

#[tokio::test]
async fn new_keys_take_over_with_the_document_and_the_old_ones_are_gone() {
    let bench = Bench::founded(UNLIMITED);
    let founded = key_files(&bench);
    let pending = propose(&bench, new_keys()).await;
    assert_eq!(key_files(&bench).len(), 4, "made before anybody signs");
    assert!(!commands(&bench, &pending.next), "and not in use");
    let _ = bring(&bench, &pending, &bench.approver).await.unwrap();
    assert!(commands(&bench, &pending.next));
    assert!(key_files(&bench).is_disjoint(&founded), "{:?}", key_files(&bench));
    let bench = bench.restarted(|_| ()).await;
    assert!(commands(&bench, &pending.next));
    assert_eq!(version(&bench), 2);
}

#[tokio::test]
async fn the_log_goes_on_under_the_new_key() {
    let bench = Bench::founded(UNLIMITED);
    let before = exported(&bench).await;
    let _ = succeed(&bench, new_keys()).await;
    let after = exported(&bench).await;
    assert_ne!(before["audit.vkey"], after["audit.vkey"]);
    let known = Known { earlier: Some(&before["checkpoint"]), ..Known::default() };
    let report = verify_bytes(&after, known);
    assert!(report.ok, "{:?}", report.problem);
    // Whoever holds the former key is told what to ask for, and believes the new one by the founding alone.
    let former = PinnedKey::parse(std::str::from_utf8(&before["audit.vkey"]).unwrap()).unwrap();
    let pinned = Known { key: Some(&former), ..known };
    let refused = verify_bytes(&after, pinned);
    assert!(!refused.ok && refused.problem.unwrap().contains("--authority"));
    let founding = bench.app.authority(&bench.permit(operator())).digest;
    assert!(verify_bytes(&after, Known { authority: Some(founding), ..pinned }).ok);
    let other = Some(muster_wire::digest::Sha256Digest([0; 32]));
    assert!(!verify_bytes(&after, Known { authority: other, ..pinned }).ok);
    // Nothing new in it, and whoever asks gets a checkpoint by the key in force all the same.
    assert!(verify_bytes(&exported(&bench).await, Known::default()).ok);
}

#[tokio::test]
async fn a_stop_between_the_commit_and_the_next_checkpoint_is_made_good_at_the_start() {
    let bench = Bench::founded(UNLIMITED);
    bench.app.publish_checkpoint().unwrap();
    let _ = succeed(&bench, new_keys()).await;
    let bench = bench.restarted(|_| ()).await;
    let report = verify_bytes(&exported(&bench).await, Known::default());
    assert!(report.ok, "{:?}", report.problem);
}

#[tokio::test]
async fn a_start_keeps_the_keys_of_a_proposal_and_removes_those_that_nothing_names() {
    let bench = Bench::founded(UNLIMITED);
    let pending = propose(&bench, new_keys()).await;
    let there = key_files(&bench);
    let bench =
        bench.restarted(|dir| std::fs::write(dir.join("keys/command-0011.key"), "stray").unwrap()).await;
    assert_eq!(key_files(&bench), there);
    assert!(bring(&bench, &pending, &bench.approver).await.unwrap().is_in_force);
    assert!(commands(&bench, &pending.next));
}

#[tokio::test]
async fn a_successor_whose_key_is_gone_does_not_take_over() {
    let bench = Bench::founded(UNLIMITED);
    let pending = propose(&bench, Asked { new_command_key: true, ..Asked::default() }).await;
    for name in key_files(&bench).iter().filter(|name| name.starts_with("command-")) {
        std::fs::remove_file(bench.data_dir().join("keys").join(name)).unwrap();
    }
    assert!(matches!(bring(&bench, &pending, &bench.approver).await, Err(Error::Internal { .. })));
    assert_eq!(version(&bench), 1);
    assert!(!commands(&bench, &pending.next));
}

#[tokio::test]
async fn the_same_request_again_proposes_nothing_new() {
    let bench = Bench::founded(UNLIMITED);
    let caller = Caller { principal: operator(), request_id: "r".into() };
    let slot = || async {
        let request = muster_wire::digest::Sha256Digest::of(b"request");
        match bench.app.replayed(&caller, Some("key"), request).await.unwrap() {
            super::Replayed::Keyed(slot) => slot,
            super::Replayed::Unkeyed => panic!("it has a key"),
        }
    };
    let mut digests = Vec::new();
    for _ in 0..2 {
        let kept = Some(slot().await);
        let asked =
            bench.app.propose_authority(bench.permit(operator()), new_keys(), kept, |_| true).await.unwrap();
        digests.push(asked.digest);
    }
    assert_eq!(digests[0], digests[1]);
}

#[tokio::test]
async fn a_proposal_over_another_one_than_was_seen_is_refused_and_loses_nobodys_signature() {
    let keys = [fresh_ed25519(), fresh_ed25519()];
    let bench = Bench::founded_by(UNLIMITED, &keys);
    let over = async |seen: Option<u64>| {
        let permit = bench.permit(operator());
        bench.app.propose_authority(permit, new_keys(), None, |version| version == seen).await
    };
    let looked = || bench.app.pending_authority(&bench.permit(operator())).unwrap();
    let former = propose(&bench, stricter()).await;
    let seen = looked().version;
    let _ = bring(&bench, &former, &keys[0]).await.unwrap();
    for stale in [None, seen] {
        let refused = over(stale).await.unwrap_err();
        assert_eq!(refused.refusal().map(|refusal| refusal.code), Some(Code::PreconditionFailed));
    }
    assert_eq!((looked().digest, looked().progress.current.signed.len()), (former.digest, 1));
    assert!(over(looked().version).await.unwrap().replaced.is_some(), "who has seen the signature may");
}
