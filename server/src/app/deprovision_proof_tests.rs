//! What proves that a device was wiped, and what does not, however its receipts come.

use super::deprovision_fixture::{End, WHOLE, farewell};
use super::plane_fixture::rule;
use super::*;
use crate::domain::admission::{Door, PROVEN_FOR_S, Refusal as Refused, Topics};
use crate::domain::deprovision::Phase;
use crate::domain::device::{DeviceState, Retirement};
use crate::domain::order::Phase as OrderPhase;
use crate::domain::revocation::Reason;
use crate::domain::warrant::State;
use crate::store::collections::RECEIPTS;
use muster_wire::digest::Sha256Digest;
use muster_wire::envelope::{payload_digest, sign1};
use muster_wire::order::Action;
use muster_wire::receipt::ReceiptPhase::{Accepted, Verified};
use muster_wire::receipt::{ItemFate, Receipt, ReceiptItem, ReceiptOutcome};
use muster_wire::time::Timestamp;
use muster_wire::warrant::Level;

#[tokio::test]
async fn a_device_is_let_go_with_proof() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let asked = end.ask(&[&life], Level::Clear).await.unwrap();
    let id = asked.record.id;
    assert_eq!((asked.required, asked.approvers), (2, 3));
    assert_eq!(
        (end.site.state(life.id), end.phase(&life)),
        (DeviceState::Deprovisioning, Some(Phase::Requested))
    );
    assert!(farewell(end.door(&life, Door::Gate)));
    assert_eq!(end.door(&life, Door::Renew), Err(Refused::MayNotRenew));
    assert_eq!(end.orders(&life, Topics::FAREWELL), []);

    assert_eq!(end.sign(id, &end.keys[0]).await.unwrap().state, State::Requested);
    assert_eq!(end.phase(&life), Some(Phase::Requested));
    let shown = end.sign(id, &end.keys[1]).await.unwrap();
    assert_eq!(
        (shown.state, &shown.signed_by[..]),
        (State::Warranted, &["approver 1".to_owned(), "approver 2".into()][..])
    );
    assert_eq!(end.phase(&life), Some(Phase::Ordered));

    let mut telling = end.taken(&life, id).await;
    assert_eq!(
        telling.order.action,
        Action::Wipe { level: Level::Clear, data_roots: vec!["/var/lib/muster-agent/managed".into()] }
    );
    assert_eq!(end.phase(&life), Some(Phase::Delivered));
    for (phase, shown) in
        WHOLE.into_iter().zip([Phase::Delivered, Phase::Armed, Phase::Executing, Phase::Executing])
    {
        end.tells(&life, &mut telling, &[phase]).await;
        assert_eq!(end.phase(&life), Some(shown), "{phase}");
        assert_eq!((end.site.state(life.id), end.listed(&life)), (DeviceState::Deprovisioning, None));
    }
    let ack = end.tells(&life, &mut telling, &[Verified]).await;
    let device = end.site.device(life.id);
    assert_eq!((device.state, device.retirement), (DeviceState::Retired, Some(Retirement::Proven)));
    assert_eq!(
        (end.phase(&life), end.listed(&life)),
        (Some(Phase::Proven), Some(Reason::CessationOfOperation))
    );
    assert_eq!(end.order(telling.order.id).phase, OrderPhase::Done);
    assert_eq!((end.warrant(id).state, end.warrant(id).record.proven), (State::Done, 1));
    assert!(farewell(end.door(&life, Door::Gate)), "it waits for its last word");

    end.app().delivered(end.permit(&life), life.id, ack.mark).await.unwrap();
    assert_eq!(end.door(&life, Door::Gate), Err(Refused::Revoked));
    let told = end.site.actions(life.id);
    for action in ["warrant.request", "warrant.sign", "order.make", "order.deliver", "order.receipt"] {
        assert!(told.iter().any(|one| one == action), "{action}: {told:?}");
    }
}

#[tokio::test]
async fn a_wipe_that_went_less_far_or_was_never_armed_is_never_proven() {
    for (level, phases) in
        [(Some(Level::Retire), &WHOLE[..]), (Some(Level::Clear), &[Accepted, Verified][..])]
    {
        let end = End::found();
        let life = end.site.enroll(None).await;
        let id = end.warranted(&life, Level::Clear).await;
        let mut telling = end.taken(&life, id).await;
        for phase in phases {
            let receipt = Receipt { level, ..end.receipt(&life, &telling, *phase) };
            end.tell(&life, &receipt).await.unwrap();
            telling.previous = Some(payload_digest(&receipt));
        }
        assert_eq!(end.phase(&life), Some(Phase::Failed));
        assert_ne!(end.site.device(life.id).retirement, Some(Retirement::Proven));
        assert_eq!(end.warrant(id).record.proven, 0);
        assert_eq!(end.order(telling.order.id).phase, OrderPhase::Failed);
    }
}

#[tokio::test]
async fn an_item_that_failed_in_any_phase_leaves_a_wipe_unproven() {
    for guilty in WHOLE {
        let end = End::found();
        let life = end.site.enroll(None).await;
        let id = end.warranted(&life, Level::Clear).await;
        let mut telling = end.taken(&life, id).await;
        for phase in WHOLE {
            let item = ReceiptItem { what: "/srv".into(), fate: ItemFate::Failed, size_bytes: 1 };
            let items = if phase == guilty { vec![item] } else { Vec::new() };
            let receipt = Receipt { items, ..end.receipt(&life, &telling, phase) };
            end.tell(&life, &receipt).await.unwrap();
            telling.previous = Some(payload_digest(&receipt));
        }
        assert_eq!((end.phase(&life), end.warrant(id).record.proven), (Some(Phase::Failed), 0), "{guilty}");
    }
}

#[tokio::test]
async fn a_later_word_changes_nothing_about_a_proof_and_is_acknowledged_and_written_down_once() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let id = end.warranted(&life, Level::Clear).await;
    let mut telling = end.taken(&life, id).await;
    end.tells(&life, &mut telling, &WHOLE[..4]).await;
    let verified = end.receipt(&life, &telling, Verified);
    end.tell(&life, &verified).await.unwrap();
    let before = (end.site.device(life.id), end.order(telling.order.id));
    let record = || end.app().sanitisation_record(&end.site.operator(), life.id).unwrap();
    let receipts = record().receipts;
    for at in 1..4 {
        let again = Receipt { outcome: ReceiptOutcome::Failed, at: Timestamp(at), ..verified.clone() };
        assert!(end.tell(&life, &again).await.unwrap().is_some(), "it is acknowledged");
    }
    assert_eq!(end.site.device(life.id), before.0);
    let order = end.order(telling.order.id);
    assert_eq!((order.phase, order.receipts), (before.1.phase, before.1.receipts));
    assert_eq!(record().receipts, receipts);
    assert_eq!(end.site.refusals(), ["receipt.verified_already"]);
}

#[tokio::test]
async fn a_phase_that_is_signed_anew_for_ever_fills_no_disk() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let id = end.warranted(&life, Level::Clear).await;
    let telling = end.taken(&life, id).await;
    end.stop(id, &end.keys[2]).await.unwrap();
    let mut last = None;
    let long = ReceiptItem { what: "x".repeat(4_000), fate: ItemFate::Kept, size_bytes: 0 };
    for at in 0..12 {
        let items = vec![long.clone(); 3];
        let receipt = Receipt { at: Timestamp(at), items, ..end.receipt(&life, &telling, Accepted) };
        assert!(end.tell(&life, &receipt).await.unwrap().is_some(), "number {at} is acknowledged");
        if at == 8 {
            last = Some(payload_digest(&receipt));
        }
        if at == 0 {
            assert!(kept(&end).len() > 3, "in chunks");
        }
    }
    let order = end.order(telling.order.id);
    assert_eq!(order.receipts.iter().map(|note| Some(note.sha256)).collect::<Vec<_>>(), [last]);
    assert_eq!(kept(&end).len(), 5, "one receipt and its chunks");
    assert_eq!(end.site.refusals(), ["receipt.replaced_too_often"]);
}

/// The keys of the receipts that are kept, and of their chunks.
fn kept(end: &End) -> Vec<Vec<u8>> {
    let found = end.app().store.scan(RECEIPTS.prefix, None, 1_000).unwrap();
    found.into_iter().map(|(key, _)| key).collect()
}

#[tokio::test]
async fn a_receipt_about_another_warrant_proves_nothing() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let id = end.warranted(&life, Level::Clear).await;
    let telling = end.taken(&life, id).await;
    for warrant in [None, Some(Sha256Digest([9; 32]))] {
        let receipt = Receipt { warrant, ..end.receipt(&life, &telling, Accepted) };
        assert_eq!(rule(&end.tell(&life, &receipt).await.unwrap_err()), "receipt.warrant");
    }
    assert_eq!(end.phase(&life), Some(Phase::Delivered));
}

#[tokio::test]
async fn what_was_stopped_too_late_is_proven_all_the_same() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let id = end.warranted(&life, Level::Clear).await;
    let mut telling = end.taken(&life, id).await;
    end.stop(id, &end.keys[2]).await.unwrap();
    end.tells(&life, &mut telling, &WHOLE).await;
    assert_eq!(end.site.device(life.id).retirement, Some(Retirement::Proven));
    assert_eq!(end.listed(&life), Some(Reason::CessationOfOperation));
}

#[tokio::test]
async fn an_acknowledgement_that_is_lost_is_fetched_within_a_day_and_no_longer() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let id = end.warranted(&life, Level::Clear).await;
    let mut telling = end.taken(&life, id).await;
    end.tells(&life, &mut telling, &WHOLE[..4]).await;
    let last = end.receipt(&life, &telling, Verified);
    let first = end.tell(&life, &last).await.unwrap().unwrap();
    let end = end.restarted().await;
    end.passes(PROVEN_FOR_S * 1_000 - 1_000).await;
    let body = sign1(&last, &life.key).unwrap();
    let again = end.app().receipt(end.permit(&life), life.id, &body).await.unwrap().unwrap();
    assert_eq!(again, first);
    let wrong = Mark::Ack(Sha256Digest([1; 32]));
    end.app().delivered(end.permit(&life), life.id, wrong).await.unwrap();
    assert!(farewell(end.door(&life, Door::Gate)), "another acknowledgement is not the last one");
    end.passes(2_000).await;
    assert!(end.door(&life, Door::Gate).is_err());
    assert_eq!(end.site.device(life.id).leaving_due_at(), None);
}
