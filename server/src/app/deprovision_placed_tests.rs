//! Wipes that wait on devices for a lapse: a newer one takes the place of an older one, and what a device did by itself may
//! be all that it is being let go for.

use super::deprovision_fixture::{End, Telling, WHOLE, wipe_of};
use super::plane_fixture::Life;
use super::*;
use crate::domain::admission::Topics;
use crate::domain::deprovision::Phase;
use crate::domain::device::{DeviceState, Retirement};
use crate::domain::order::Phase as OrderPhase;
use crate::domain::warrant::State;
use muster_wire::digest::Sha256Digest;
use muster_wire::id::WarrantId;
use muster_wire::receipt::Receipt;
use muster_wire::receipt::ReceiptPhase::{Accepted, Verified};
use muster_wire::time::Timestamp;
use muster_wire::warrant::{Kind, Level};

const HOUR_S: u64 = 3_600;

/// A warrant to clear `lives` on lapse that enough approvers have signed.
async fn placed(end: &End, lives: &[&Life], after_s: u64) -> WarrantId {
    let wipe = wipe_of(lives.iter().copied(), Level::Clear);
    let request = WarrantRequest { after_s: Some(after_s), kind: Kind::WipeOnLapse, ..wipe };
    let id = end.app().request_warrant(end.site.operator(), &request, None).await.unwrap().record.id;
    for key in &end.keys[..2] {
        end.sign(id, key).await.unwrap();
    }
    id
}

/// The order under `warrant` that `life` has taken; it has said nothing of it yet.
async fn took(end: &End, life: &Life, warrant: WarrantId, topics: Topics) -> Telling {
    let of = |id| end.order(id).warrant == Some(warrant);
    let order = end.orders(life, topics).into_iter().find(|order| of(order.id)).unwrap();
    let mark = Mark::Order { id: order.id, proven_from: 0 };
    end.app().delivered(end.permit(life), life.id, mark).await.unwrap();
    Telling { order, warrant: Sha256Digest::of(&end.warrant(warrant).payload), previous: None }
}

/// How the order stands, and how many devices of its warrant have ended, and how many of those with proof.
fn stands(end: &End, telling: &Telling) -> (OrderPhase, u64, u64) {
    let order = end.order(telling.order.id);
    let warrant = end.warrant(order.warrant.unwrap()).record;
    (order.phase, warrant.ended, warrant.proven)
}

#[tokio::test]
async fn a_wipe_placed_anew_takes_the_place_of_the_one_before_as_soon_as_the_device_says_so_and_no_sooner() {
    let end = End::found();
    let (life, other) = (end.site.enroll(None).await, end.site.enroll(None).await);
    let former = placed(&end, &[&life, &other], HOUR_S).await;
    let mut first = took(&end, &life, former, Topics::ALL).await;
    let mut elsewhere = took(&end, &other, former, Topics::ALL).await;
    end.tells(&life, &mut first, &[Accepted]).await;
    end.tells(&other, &mut elsewhere, &[Accepted]).await;
    let accepted = stands(&end, &first).0;
    assert!(accepted.is_open());

    let latter = placed(&end, &[&life], 2 * HOUR_S).await;
    let mut second = took(&end, &life, latter, Topics::ALL).await;
    assert_eq!(stands(&end, &first), (accepted, 0, 0), "it is in force until the device has another");
    end.tells(&life, &mut second, &[Accepted]).await;
    assert_eq!(stands(&end, &first), (OrderPhase::Stopped, 1, 0));
    assert_eq!(stands(&end, &second), (accepted, 0, 0));
    assert_eq!(stands(&end, &elsewhere), (accepted, 1, 0), "another device keeps what it has");
    assert_eq!(end.warrant(former).state, State::Warranted);
    assert_eq!(end.site.state(life.id), DeviceState::Commissioning, "it goes on as before");
}

#[tokio::test]
async fn a_late_word_of_the_wipe_placed_before_takes_away_no_newer_one() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let former = placed(&end, &[&life], HOUR_S).await;
    let mut first = took(&end, &life, former, Topics::ALL).await;
    end.tells(&life, &mut first, &[Accepted]).await;
    let latter = placed(&end, &[&life], 2 * HOUR_S).await;
    let mut second = took(&end, &life, latter, Topics::ALL).await;
    let before = stands(&end, &second);
    first.previous = None;
    let again = Receipt { at: Timestamp(1), ..end.receipt(&life, &first, Accepted) };
    assert!(end.tell(&life, &again).await.unwrap().is_some(), "signed anew, it is acknowledged");
    assert_eq!(end.order(first.order.id).receipts.len(), 1);
    assert_eq!(stands(&end, &second), before);
    end.tells(&life, &mut second, &[Accepted]).await;
    assert_eq!(stands(&end, &first), (OrderPhase::Stopped, 1, 0));
    assert_eq!((end.warrant(former).state, end.warrant(latter).state), (State::Done, State::Warranted));
}

#[tokio::test]
async fn a_device_that_cleared_itself_meanwhile_needs_no_order_that_asks_for_no_more() {
    for asked in [Level::Retire, Level::Clear] {
        let end = End::found();
        let life = end.site.enroll(None).await;
        let waiting = placed(&end, &[&life], HOUR_S).await;
        let mut telling = took(&end, &life, waiting, Topics::ALL).await;
        end.tells(&life, &mut telling, &WHOLE[..1]).await;
        let asked = end.warranted(&life, asked).await;
        let unneeded = took(&end, &life, asked, Topics::FAREWELL).await;
        end.tells(&life, &mut telling, &WHOLE[1..4]).await;
        assert_eq!(end.phase(&life), Some(Phase::Delivered), "of the order that it is let go by");
        end.tells(&life, &mut telling, &[Verified]).await;

        let device = end.site.device(life.id);
        assert_eq!((device.state, device.retirement), (DeviceState::Retired, Some(Retirement::Proven)));
        let left = device.deprovisioning.unwrap();
        assert_eq!((left.warrant, left.order), (waiting, Some(telling.order.id)));
        assert_eq!(stands(&end, &telling), (OrderPhase::Done, 1, 1));
        assert_eq!(stands(&end, &unneeded), (OrderPhase::Stopped, 1, 0));
        assert_eq!((end.warrant(waiting).state, end.warrant(asked).state), (State::Done, State::Done));
    }
}

#[tokio::test]
async fn a_device_that_cleared_itself_is_let_go_no_sooner_by_an_order_that_asks_for_more() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let waiting = placed(&end, &[&life], HOUR_S).await;
    let mut telling = took(&end, &life, waiting, Topics::ALL).await;
    end.tells(&life, &mut telling, &WHOLE[..1]).await;
    let asked = end.warranted(&life, Level::FactoryReset).await;
    let mut open = took(&end, &life, asked, Topics::FAREWELL).await;
    end.tells(&life, &mut telling, &WHOLE[1..]).await;

    assert_eq!(
        (end.site.state(life.id), end.phase(&life)),
        (DeviceState::Deprovisioning, Some(Phase::Delivered))
    );
    assert_eq!(stands(&end, &telling), (OrderPhase::Done, 1, 1), "it did what was placed");
    assert_eq!(end.warrant(waiting).state, State::Done);
    assert!(stands(&end, &open).0.is_open());
    end.tells(&life, &mut open, &WHOLE).await;
    assert_eq!(end.site.device(life.id).retirement, Some(Retirement::Proven));
    assert_eq!(end.site.device(life.id).deprovisioning.unwrap().warrant, asked);
    assert_eq!(stands(&end, &open), (OrderPhase::Done, 1, 1));
}
