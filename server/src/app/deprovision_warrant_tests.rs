//! Letting devices go begins with a warrant: who may ask for it, whose signatures count, and when an order leaves.

use super::deprovision_fixture::{End, Telling, wipe_of};
use super::plane_fixture::{Life, Site, rule};
use super::*;
use crate::ca::fresh_ed25519;
use crate::domain::admission::Topics;
use crate::domain::device::DeviceState;
use crate::domain::order::Ask;
use crate::domain::policy::Permit;
use crate::domain::succession::Changes;
use crate::domain::warrant::State;
use muster_wire::cbor::decode;
use muster_wire::digest::Sha256Digest;
use muster_wire::envelope::MultiSigned;
use muster_wire::key::{Ed25519Key, PublicKey};
use muster_wire::order::Action;
use muster_wire::receipt::Receipt;
use muster_wire::receipt::ReceiptPhase::Verified;
use muster_wire::topic::Channel;
use muster_wire::warrant::{Kind, Level, Warrant};
use std::collections::HashSet;

#[tokio::test]
async fn an_order_to_wipe_leaves_when_a_checkpoint_on_the_disk_covers_it_and_not_before() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    end.app().publish_checkpoint().unwrap();
    end.warranted(&life, Level::Clear).await;
    let sent = || {
        let due = end.app().due(life.id, Topics::FAREWELL, &HashSet::new()).unwrap();
        due.iter().filter(|one| one.channel == Channel::Order).count()
    };
    assert_eq!((sent(), sent()), (0, 0));
    end.app().publish_checkpoint().unwrap();
    assert_eq!(sent(), 1);
}

#[tokio::test]
async fn nothing_is_ordered_by_the_server_alone_or_by_one_approver_twice() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let id = end.asked(&life, Level::Clear).await;
    let stranger = fresh_ed25519();
    assert_eq!(rule(&end.sign(id, &stranger).await.unwrap_err()), "warrant.signer");
    end.sign(id, &end.keys[0]).await.unwrap();
    let commits = end.site.commits();
    assert_eq!(end.sign(id, &end.keys[0]).await.unwrap().state, State::Requested);
    assert_eq!(end.site.commits(), commits, "a signature that is there changes nothing");
    let other = end.asked(&end.site.enroll(None).await, Level::Clear).await;
    let mut foreign = MultiSigned::unsigned(&decode::<Warrant>(&end.warrant(other).payload).unwrap());
    foreign.add_signature(&end.keys[1]).unwrap();
    let handed = end.app().sign_warrant(end.site.operator(), id, &foreign.to_bytes()).await;
    assert_eq!(rule(&handed.unwrap_err()), "warrant.other");
    let handed = end.app().sign_warrant(end.site.operator(), id, b"nonsense").await;
    assert_eq!(rule(&handed.unwrap_err()), "warrant.envelope");
    assert_eq!((end.orders(&life, Topics::FAREWELL), end.warrant(id).record.ordered), (vec![], 0));
}

#[tokio::test]
async fn a_signature_that_is_false_beside_a_good_one_is_not_taken() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let id = end.asked(&life, Level::Clear).await;
    let mut signed = MultiSigned::unsigned(&decode::<Warrant>(&end.warrant(id).payload).unwrap());
    signed.add_signature(&end.keys[0]).unwrap();
    signed.add_signature(&fresh_ed25519()).unwrap();
    let handed = end.app().sign_warrant(end.site.operator(), id, &signed.to_bytes()).await;
    assert_eq!(rule(&handed.unwrap_err()), "warrant.signer");
    let mut bytes = {
        let mut signed = MultiSigned::unsigned(&decode::<Warrant>(&end.warrant(id).payload).unwrap());
        signed.add_signature(&end.keys[0]).unwrap();
        signed.to_bytes()
    };
    *bytes.last_mut().unwrap() ^= 1;
    let handed = end.app().sign_warrant(end.site.operator(), id, &bytes).await;
    assert_eq!(rule(&handed.unwrap_err()), "warrant.signer");
    assert!(end.warrant(id).signed_by.is_empty());
    let tail = end.app().audit_tail(&end.site.operator(), None, 9).unwrap().items;
    let refused: Vec<_> = tail.iter().filter(|entry| entry["outcome"] == "refused").collect();
    let named = PublicKey::Ed25519(Ed25519Key::from_bytes(&end.keys[0].verifying_key().to_bytes()).unwrap());
    assert_eq!(refused[1]["facts"]["key"], named.key_id().to_string(), "the key that it names");
    assert_eq!(refused[1]["facts"]["signature"], "false", "and is not of");
    assert!(refused[0]["facts"]["key"].is_string() && refused[0]["facts"]["signature"].is_null());
}

#[tokio::test]
async fn one_device_is_let_go_by_one_warrant_alone() {
    let end = End::found();
    let (life, other) = (end.site.enroll(None).await, end.site.enroll(None).await);
    end.asked(&life, Level::Retire).await;
    assert_eq!(rule(&end.ask(&[&life], Level::Retire).await.unwrap_err()), "warrant.device_leaving");
    assert_eq!(rule(&end.ask(&[&other, &life], Level::Clear).await.unwrap_err()), "warrant.device_leaving");
    assert_eq!(end.site.state(other.id), DeviceState::Commissioning, "all of them or none");
}

#[tokio::test]
async fn the_same_request_again_is_the_same_warrant() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let operator: Permit<crate::domain::policy::act::RequestWarrant> = end.site.operator();
    let slot = end.app().replayed(operator.caller(), Some("key"), Sha256Digest([1; 32])).await.unwrap();
    let Replayed::Keyed(slot) = slot else { panic!("a slot") };
    let request = wipe_of([&life], Level::Retire);
    let first = end.app().request_warrant(operator, &request, Some(&slot)).await.unwrap();
    let again = end.app().request_warrant(end.site.operator(), &request, Some(&slot)).await.unwrap();
    assert_eq!((again.record.id, again.required), (first.record.id, 1));
}

#[tokio::test]
async fn what_approvers_or_the_profile_cannot_do_is_refused_and_a_preview_changes_nothing() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    assert_eq!(rule(&end.ask(&[&life], Level::CryptoErase).await.unwrap_err()), "warrant.level_of_profile");
    let alone = End { site: Site::found_by(&[fresh_ed25519(), fresh_ed25519()]), keys: end.keys.clone() };
    let mut fleet = Vec::new();
    for _ in 0..11 {
        fleet.push(alone.site.enroll(None).await);
    }
    let lives: Vec<&Life> = fleet.iter().collect();
    assert_eq!(rule(&alone.ask(&lives, Level::Clear).await.unwrap_err()), "warrant.too_many_for_approvers");
    let commits = alone.site.commits();
    let request = wipe_of(fleet.iter().skip(1), Level::Clear);
    let preview = alone.app().preview_warrant(&alone.site.operator(), &request).await.unwrap();
    assert_eq!((preview.aims.len(), preview.required, alone.site.commits()), (10, 2, commits));
}

#[tokio::test]
async fn an_order_waits_while_the_approvers_who_signed_do_not_count() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let id = end.warranted(&life, Level::Clear).await;
    assert_eq!(end.orders(&life, Topics::FAREWELL).len(), 1);
    let changes = Changes { remove_approvers: vec!["approver 1".parse().unwrap()], ..Changes::default() };
    let asked = Asked { changes, ..Asked::default() };
    let pending = end.app().propose_authority(end.site.operator(), asked, None, |_| true).await.unwrap();
    for key in &end.keys[1..] {
        let mut copy = MultiSigned::unsigned(&pending.next);
        copy.add_signature(key).unwrap();
        end.app().sign_authority(end.site.operator(), &copy.to_bytes()).await.unwrap();
    }
    let shown = end.warrant(id);
    assert_eq!((shown.state, &shown.signed_by[..]), (State::Requested, &["approver 2".to_owned()][..]));
    assert_eq!(end.app().due(life.id, Topics::FAREWELL, &HashSet::new()).unwrap(), []);
    assert_eq!(rule(&end.sign(id, &end.keys[0]).await.unwrap_err()), "warrant.signer");
    assert_eq!(end.sign(id, &end.keys[2]).await.unwrap().state, State::Warranted);
    assert_eq!(end.orders(&life, Topics::FAREWELL).len(), 1);
}

#[tokio::test]
async fn locks_are_ordered_under_a_warrant_and_leave_the_device_where_it_is() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let request = WarrantRequest { kind: Kind::Lock, level: None, ..wipe_of([&life], Level::Retire) };
    let asked = end.app().request_warrant(end.site.operator(), &request, None).await.unwrap();
    assert_eq!((asked.required, end.site.state(life.id)), (1, DeviceState::Commissioning));
    end.sign(asked.record.id, &end.keys[0]).await.unwrap();
    let order = end.orders(&life, Topics::ALL).pop().unwrap();
    assert_eq!(order.action, Action::Lock);
    assert_eq!(end.order(order.id).ask, Ask::Lock);
    let telling =
        Telling { warrant: Sha256Digest::of(&end.warrant(asked.record.id).payload), previous: None, order };
    let done = Receipt { level: None, ..end.receipt(&life, &telling, Verified) };
    end.tell(&life, &done).await.unwrap();
    assert_eq!(
        (end.warrant(asked.record.id).state, end.site.state(life.id)),
        (State::Done, DeviceState::Commissioning)
    );
}
