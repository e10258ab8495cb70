//! What ends letting a device go besides proof: doom, a stop, a lapse, a refusal, a person; and where the device is then.

use super::deprovision_fixture::{DAY_MS, End, WHOLE, farewell, wipe_of};
use super::plane_fixture::{Life, rule};
use super::*;
use crate::ca::fresh_ed25519;
use crate::domain::admission::{Door, Refusal as Refused, Topics};
use crate::domain::deprovision::Phase;
use crate::domain::device::{DeviceState, Retirement};
use crate::domain::order::Phase as OrderPhase;
use crate::domain::policy::Permit;
use crate::domain::quarantine::Because;
use crate::domain::revocation::Reason;
use crate::domain::warrant::{DEADLINE_S, State, VALID_S};
use muster_wire::cbor::{decode, encode};
use muster_wire::digest::Sha256Digest;
use muster_wire::order::{Action, Order};
use muster_wire::receipt::ReceiptPhase::Verified;
use muster_wire::receipt::{Receipt, ReceiptOutcome};
use muster_wire::warrant::{Level, Warrant};

#[tokio::test]
async fn a_doomed_device_comes_back_after_ninety_days_a_restart_and_an_expired_certificate_and_is_proven() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let id = end.warranted(&life, Level::Clear).await;
    end.passes(7 * DAY_MS - 1_000).await;
    assert_eq!((end.phase(&life), end.listed(&life)), (Some(Phase::Ordered), None));
    end.passes(2_000).await;
    assert_eq!(
        (end.site.state(life.id), end.phase(&life)),
        (DeviceState::Deprovisioning, Some(Phase::Unproven))
    );
    assert_eq!(end.listed(&life), Some(Reason::CessationOfOperation));
    assert!(farewell(end.door(&life, Door::Gate)));
    // The certificate lives for a year less than the warrant's own year would reach: let it expire too.
    let left = end.site.device(life.id).current.unwrap().not_after - end.app().clock.now_s();
    let to_expiry = (left + 1) * 1_000;
    let mut end = end;
    if to_expiry < (VALID_S - DEADLINE_S - 86_400) * 1_000 {
        end.passes(to_expiry).await;
    } else {
        end.passes(83 * DAY_MS).await;
    }
    end = end.restarted().await;
    assert!(farewell(end.door(&life, Door::Gate)), "also after a restart");
    let mut telling = end.taken(&life, id).await;
    assert_eq!(end.phase(&life), Some(Phase::Unproven), "taken is not begun");
    end.tells(&life, &mut telling, &WHOLE[..2]).await;
    assert_eq!(end.phase(&life), Some(Phase::Armed));
    end = end.restarted().await;
    end.tells(&life, &mut telling, &WHOLE[2..]).await;
    assert_eq!(end.site.device(life.id).retirement, Some(Retirement::Proven));
    assert!(farewell(end.door(&life, Door::Gate)));
}

#[tokio::test]
async fn an_expired_certificate_dooms_and_still_opens_the_letterbox() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let id = end.warranted(&life, Level::Clear).await;
    let device = end.site.device(life.id);
    let index = &end.app().doors.index;
    let held = device.current.unwrap();
    let after = held.not_after + 1;
    let admitted = index.admit(&held.serial, held.not_after, Door::Gate, after).unwrap();
    assert_eq!(admitted.topics, Topics::FAREWELL);
    end.stop(id, &end.keys[2]).await.unwrap();
    assert!(index.admit(&held.serial, held.not_after, Door::Gate, after + 400 * 86_400).is_err());
}

#[tokio::test]
async fn doom_without_an_order_lets_nobody_in_and_a_late_signature_opens_the_letterbox() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let id = end.asked(&life, Level::Clear).await;
    end.sign(id, &end.keys[0]).await.unwrap();
    end.passes(8 * DAY_MS).await;
    assert_eq!(end.phase(&life), Some(Phase::Unproven));
    assert_eq!(end.door(&life, Door::Gate), Err(Refused::NoOpenOrder));
    end.sign(id, &end.keys[1]).await.unwrap();
    assert!(farewell(end.door(&life, Door::Gate)));
    assert_eq!(end.orders(&life, Topics::FAREWELL).len(), 1);
}

#[tokio::test]
async fn refused_and_failed_lead_back_before_doom_and_to_unproven_after_it() {
    for (outcome, shown) in
        [(ReceiptOutcome::Refused, Phase::Refused), (ReceiptOutcome::Failed, Phase::Failed)]
    {
        for doomed in [false, true] {
            let end = End::found();
            let life = end.site.enroll(None).await;
            let id = end.warranted(&life, Level::Clear).await;
            let telling = end.taken(&life, id).await;
            if doomed {
                end.passes(8 * DAY_MS).await;
            }
            end.ends(&life, &telling, outcome).await;
            let device = end.site.device(life.id);
            assert_eq!(end.warrant(id).state, State::Done);
            if doomed {
                assert_eq!(
                    (device.state, device.retirement),
                    (DeviceState::Retired, Some(Retirement::Unproven))
                );
                assert!(end.door(&life, Door::Gate).is_err());
            } else {
                assert_eq!((device.state, end.phase(&life)), (DeviceState::Commissioning, Some(shown)));
                assert_eq!(end.door(&life, Door::Gate).unwrap().topics, Topics::ALL);
                assert_eq!(end.listed(&life), None);
                assert!(end.ask(&[&life], Level::Retire).await.is_ok(), "it may be asked for again");
            }
        }
    }
}

#[tokio::test]
async fn one_approver_stops_what_two_began_and_the_device_is_told() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let id = end.warranted(&life, Level::Clear).await;
    let telling = end.taken(&life, id).await;
    assert_eq!(rule(&end.stop(id, &fresh_ed25519()).await.unwrap_err()), "warrant.signer");
    assert_eq!(end.stop(id, &end.keys[2]).await.unwrap().state, State::Stopped);
    assert_eq!((end.site.state(life.id), end.phase(&life)), (DeviceState::Commissioning, None));
    assert_eq!(end.order(telling.order.id).phase, OrderPhase::Stopped);
    let told = end.orders(&life, Topics::ALL);
    assert_eq!(
        told.iter().map(|order| order.action.clone()).collect::<Vec<_>>(),
        [Action::Stop { warrant: id }]
    );
    assert!(told[0].sequence > telling.order.sequence);
    assert_eq!(rule(&end.sign(id, &end.keys[2]).await.unwrap_err()), "warrant.ended");
    assert_eq!(end.stop(id, &end.keys[1]).await.unwrap().state, State::Stopped, "it stays stopped");
    let done = Receipt {
        warrant: Some(Sha256Digest::of(&encode(&decode::<Warrant>(&stop_of(&end, &told[0])).unwrap()))),
        level: None,
        order: told[0].id,
        ..end.receipt(&life, &telling, Verified)
    };
    end.tell(&life, &done).await.unwrap();
    assert_eq!(end.order(told[0].id).phase, OrderPhase::Done);
}

/// The payload of the warrant that `order` carries.
fn stop_of(end: &End, order: &Order) -> Vec<u8> {
    let record = end.order(order.id);
    end.warrant(record.warrant.unwrap()).payload
}

#[tokio::test]
async fn what_is_armed_is_not_brought_back_by_a_stop() {
    let end = End::found();
    let (life, other) = (end.site.enroll(None).await, end.site.enroll(None).await);
    let id = end.ask(&[&life, &other], Level::Clear).await.unwrap().record.id;
    for key in &end.keys[..2] {
        end.sign(id, key).await.unwrap();
    }
    let mut telling = end.taken(&life, id).await;
    end.tells(&life, &mut telling, &WHOLE[..2]).await;
    end.stop(id, &end.keys[2]).await.unwrap();
    assert_eq!(
        (end.site.state(life.id), end.phase(&life)),
        (DeviceState::Deprovisioning, Some(Phase::Armed))
    );
    assert_eq!(end.site.state(other.id), DeviceState::Commissioning);
    end.tells(&life, &mut telling, &WHOLE[2..]).await;
    assert_eq!(end.site.device(life.id).retirement, Some(Retirement::Proven));
    assert_eq!(end.warrant(id).state, State::Stopped);
}

#[tokio::test]
async fn a_person_gives_up_a_doomed_device_and_no_other() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let retire = || end.app().retire(end.site.operator(), life.id);
    assert_eq!(rule(&retire().await.unwrap_err()), "retire.not_leaving");
    let id = end.warranted(&life, Level::Clear).await;
    assert_eq!(rule(&retire().await.unwrap_err()), "retire.not_doomed");
    end.passes(8 * DAY_MS).await;
    let order = end.site.device(life.id).deprovisioning.unwrap().order.unwrap();
    assert_eq!(retire().await.unwrap().device.retirement, Some(Retirement::Unproven));
    assert_eq!((end.order(order).phase, end.warrant(id).state), (OrderPhase::Stopped, State::Done));
    assert_eq!(end.door(&life, Door::Gate), Err(Refused::Revoked));
    let commits = end.site.commits();
    assert!(retire().await.is_ok(), "twice is once");
    assert_eq!(end.site.commits(), commits);
}

#[tokio::test]
async fn the_end_of_the_warrant_ends_the_waiting() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let id = end.warranted(&life, Level::Clear).await;
    end.passes(366 * DAY_MS).await;
    let device = end.site.device(life.id);
    assert_eq!((device.state, device.retirement), (DeviceState::Retired, Some(Retirement::Unproven)));
    assert!(!end.warrant(id).state.is_open());
    assert!(end.door(&life, Door::Gate).is_err());
}

#[tokio::test]
async fn a_warrant_that_lapses_before_doom_lets_its_devices_go_back() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let request = WarrantRequest { valid_s: 3_600, ..wipe_of([&life], Level::Retire) };
    let asked = end.app().request_warrant(end.site.operator(), &request, None).await.unwrap();
    end.passes(2 * 3_600_000).await;
    assert_eq!((end.site.state(life.id), end.phase(&life)), (DeviceState::Commissioning, None));
    assert_eq!(end.warrant(asked.record.id).state, State::Lapsed);
    assert_eq!(end.door(&life, Door::Gate).unwrap().topics, Topics::ALL);
}

#[tokio::test]
async fn a_held_device_is_let_go_and_comes_back_held() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let because: Because = "lost".parse().unwrap();
    end.app().quarantine(end.site.operator(), life.id, &because).await.unwrap();
    assert_eq!(end.listed(&life), Some(Reason::CertificateHold));
    let id = end.asked(&life, Level::Clear).await;
    assert!(farewell(end.door(&life, Door::Gate)));
    assert_eq!(end.listed(&life), None);
    end.stop(id, &end.keys[0]).await.unwrap();
    assert_eq!(end.site.state(life.id), DeviceState::Quarantined);
    assert_eq!(end.door(&life, Door::Gate).unwrap().topics, Topics::HELD);
    assert_eq!(end.listed(&life), Some(Reason::CertificateHold));
}

#[tokio::test]
async fn sessions_are_cut_when_letting_go_begins_and_when_it_ends_and_not_by_what_lies_between() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let before = standing(&end, &life);
    let id = end.asked(&life, Level::Clear).await;
    let requested = standing(&end, &life);
    for key in &end.keys[..2] {
        end.sign(id, key).await.unwrap();
    }
    let ordered = standing(&end, &life);
    let mut telling = end.taken(&life, id).await;
    let ack = end.tells(&life, &mut telling, &WHOLE).await;
    let proven = standing(&end, &life);
    end.app().delivered(end.permit(&life), life.id, ack.mark).await.unwrap();
    let over = standing(&end, &life);
    let cut = |a, b| super::status_feed::moved(a, b);
    assert!(cut(&before, &requested) && cut(&proven, &over));
    assert!(!cut(&requested, &ordered) && !cut(&ordered, &proven));
    assert!(cut(&ordered, &requested), "an order that is closed ends a doomed device's leave");
}

fn standing(end: &End, life: &Life) -> crate::doors::status_index::Standing {
    let held = end.site.device(life.id).current.unwrap();
    end.app().doors.index.lookup(&held.serial).unwrap()
}

#[tokio::test]
async fn a_life_that_is_superseded_while_it_is_let_go_leaves_no_order_open() {
    let end = End::found();
    let life = end.site.enroll(None).await;
    let id = end.warranted(&life, Level::Clear).await;
    let order = end.site.device(life.id).deprovisioning.unwrap().order.unwrap();
    let held = end.app().device(life.id).unwrap();
    let ending = super::certificates::Ending { how: Retirement::Superseded, reason: Reason::Superseded };
    let permit: Permit<crate::domain::policy::act::RevokeDevice> = end.site.operator();
    let batch = end.app().end_life(&permit, crate::store::Batch::default(), held, ending).unwrap();
    end.app().commit(batch).await.unwrap();
    assert_eq!((end.order(order).phase, end.warrant(id).state), (OrderPhase::Stopped, State::Done));
    assert_eq!(end.site.device(life.id).leaving_due_at(), None);
}
