//! The phases, the doom and the ways out, as tables.

use super::*;
use crate::domain::device::{CertificateRef, Steps};
use crate::domain::quarantine::{By, Quarantine};
use muster_pki::serial::Serial;
use muster_wire::id::{DeviceId, TokenId};
use muster_wire::receipt::ReceiptItem;
use muster_wire::time::Timestamp;
use std::collections::BTreeMap;

const DEADLINE: i64 = 1_000;
const NOT_AFTER: i64 = 9_000;

fn device(state: DeviceState) -> Device {
    Device {
        v: 1,
        id: DeviceId::from_bytes([1; 16]),
        asset: None,
        serial: None,
        profile: "sensor-linux".into(),
        site: None,
        owner: None,
        labels: BTreeMap::new(),
        state,
        retirement: None,
        token: TokenId::from_bytes([2; 16]),
        created_at: 0,
        changed_at: 0,
        current: Some(CertificateRef {
            ordinal: 1,
            serial: Serial::from_random([0x40; 16]),
            sha256: Sha256Digest([0; 32]),
            spki: Sha256Digest([0; 32]),
            issued_at: 0,
            not_after: 5_000,
        }),
        issued: None,
        waiting: None,
        quarantine: None,
        deprovisioning: None,
        excused_until: None,
        reappraise_at: None,
        steps: Steps::default(),
        orders_made: 0,
        last_refusal: None,
    }
}

fn request() -> Request {
    Request {
        warrant: WarrantId::from_bytes([3; 16]),
        level: Level::Clear,
        deadline: DEADLINE,
        not_after: NOT_AFTER,
    }
}

fn leaving(state: DeviceState) -> Device {
    let mut device = device(state);
    device.begin_leaving(&request(), 100);
    device
}

fn phase(device: &Device) -> Option<Phase> {
    device.deprovisioning.as_ref().map(|leaving| leaving.phase)
}

#[test]
fn every_way_out_leads_back_before_doom_and_to_unproven_after_it() {
    let ways = [
        (WayOut::Stopped, None),
        (WayOut::Lapsed, None),
        (WayOut::GivenUp, None),
        (WayOut::Refused, Some(Phase::Refused)),
        (WayOut::Failed, Some(Phase::Failed)),
    ];
    for former in [DeviceState::Commissioning, DeviceState::Active, DeviceState::Quarantined] {
        for (way, shown) in ways {
            let mut early = leaving(former);
            early.leave_off(way, DEADLINE - 1);
            assert_eq!((early.state, early.retirement, phase(&early)), (former, None, shown), "{way:?}");
            let mut late = leaving(former);
            late.leave_off(way, DEADLINE);
            assert_eq!((late.state, late.retirement), (DeviceState::Retired, Some(Retirement::Unproven)));
            assert_eq!(phase(&late), Some(Phase::Unproven), "{way:?}");
        }
    }
}

#[test]
fn doom_comes_at_the_deadline_or_with_the_end_of_the_certificate() {
    let mut one = leaving(DeviceState::Active);
    assert!(!one.is_doomed(DEADLINE - 1) && one.is_doomed(DEADLINE));
    one.current.as_mut().unwrap().not_after = 500;
    assert!(!one.is_doomed(500) && one.is_doomed(501));
    assert!(!device(DeviceState::Active).is_doomed(i64::MAX));
}

#[test]
fn a_doom_that_was_noted_outlives_a_clock_that_goes_back() {
    let mut one = leaving(DeviceState::Active);
    one.deprovisioning.as_mut().unwrap().doomed_at = Some(DEADLINE);
    assert!(one.is_doomed(0));
    one.leave_off(WayOut::Refused, 0);
    assert_eq!(one.retirement, Some(Retirement::Unproven));
}

#[test]
fn phases_go_forward_only_and_doom_is_left_by_what_a_receipt_says() {
    let mut one = leaving(DeviceState::Active);
    for next in [Phase::Warranted, Phase::Ordered, Phase::Delivered, Phase::Armed, Phase::Executing] {
        one.leave_further(next);
        assert_eq!(phase(&one), Some(next));
    }
    one.leave_further(Phase::Delivered);
    assert_eq!(phase(&one), Some(Phase::Executing));
    one.leave_further(Phase::Unproven);
    one.leave_further(Phase::Delivered);
    assert_eq!(phase(&one), Some(Phase::Unproven));
    one.leave_further(Phase::Armed);
    assert_eq!(phase(&one), Some(Phase::Armed));
}

#[test]
fn the_time_asks_for_doom_once_then_for_the_lapse_and_after_proof_for_the_letterbox() {
    let mut one = leaving(DeviceState::Active);
    assert_eq!(one.leaving_due_at(), Some(DEADLINE));
    let dues = [
        (DEADLINE - 1, Due::Nothing),
        (DEADLINE, Due::Doom),
        (NOT_AFTER, Due::Doom),
        (NOT_AFTER + 1, Due::Lapse),
    ];
    for (now, due) in dues {
        assert_eq!(one.leaving_due(now), due, "{now}");
    }
    one.deprovisioning.as_mut().unwrap().doomed_at = Some(DEADLINE);
    assert_eq!((one.leaving_due(NOT_AFTER), one.leaving_due_at()), (Due::Nothing, Some(NOT_AFTER + 1)));
    one.prove(2_000, 1_500);
    assert_eq!(one.retirement, Some(Retirement::Proven));
    assert_eq!((one.leaving_due(2_000), one.leaving_due(2_001)), (Due::Nothing, Due::CloseLetterbox));
    assert_eq!(one.certificates_leaving(), Some(Leaving::Proven { until: 2_000 }));
}

#[test]
fn certificates_say_what_the_doors_table_asks() {
    let mut one = leaving(DeviceState::Quarantined);
    one.quarantine = Some(Quarantine {
        by: By::Manual { operator: "operator/a".into() },
        reason: "lost".into(),
        since: 0,
        former: DeviceState::Active,
    });
    let row = |doomed_from, order_open| Some(Leaving::Deprovisioning { doomed_from, order_open });
    assert_eq!(one.certificates_leaving(), row(DEADLINE, false));
    one.deprovisioning.as_mut().unwrap().order = Some(OrderId::from_bytes([4; 16]));
    assert_eq!(one.certificates_leaving(), row(DEADLINE, true));
    one.deprovisioning.as_mut().unwrap().doomed_at = Some(DEADLINE);
    assert_eq!(one.certificates_leaving(), row(0, true));
    one.leave_off(WayOut::Stopped, 0);
    assert_eq!((one.certificates_leaving(), one.state), (None, DeviceState::Retired));
    let mut back = leaving(DeviceState::Active);
    back.leave_off(WayOut::Refused, 200);
    assert_eq!(back.certificates_leaving(), None);
}

fn receipt(phase: ReceiptPhase, outcome: ReceiptOutcome, level: Option<Level>) -> Receipt {
    Receipt {
        device: DeviceId::from_bytes([1; 16]),
        order: OrderId::from_bytes([4; 16]),
        warrant: Some(Sha256Digest([7; 32])),
        level,
        phase,
        outcome,
        items: Vec::new(),
        evidence: Sha256Digest([0; 32]),
        previous: None,
        certificate: Sha256Digest([0; 32]),
        last_checkpoint: None,
        at: Timestamp(5),
    }
}

/// The receipts of a whole wipe but for what `change` does to that of each phase; the last one, and those before it.
fn wipe(change: impl Fn(&mut Receipt)) -> (Receipt, Vec<Receipt>) {
    let (mut chain, mut previous) = (Vec::new(), None);
    for phase in PHASES {
        let mut one = receipt(phase, ReceiptOutcome::Done, Some(Level::Clear));
        one.previous = previous;
        change(&mut one);
        previous = Some(payload_digest(&one));
        chain.push(one);
    }
    (chain.pop().unwrap(), chain)
}

#[test]
fn each_receipt_tells_how_far_the_wipe_has_come() {
    use ReceiptOutcome::{Done, Failed, Refused};
    use ReceiptPhase::{Accepted, Armed, DataDestroyed, KeysDestroyed, Verified};
    let table = [
        (Accepted, Done, Told::Further(Phase::Delivered)),
        (Armed, Done, Told::Further(Phase::Armed)),
        (KeysDestroyed, Done, Told::Further(Phase::Executing)),
        (DataDestroyed, Done, Told::Further(Phase::Executing)),
        (Accepted, Refused, Told::Out(WayOut::Refused)),
        (KeysDestroyed, Failed, Told::Out(WayOut::Failed)),
        (Verified, Failed, Told::Out(WayOut::Failed)),
    ];
    let (_, earlier) = wipe(|_| ());
    for (phase, outcome, expected) in table {
        let one = receipt(phase, outcome, Some(Level::Clear));
        assert_eq!(told(&one, &earlier, Level::Clear), expected, "{phase} {outcome:?}");
    }
}

#[test]
fn only_a_whole_chain_as_far_as_asked_proves_a_wipe() {
    let judge = |(last, earlier): (Receipt, Vec<Receipt>)| told(&last, &earlier, Level::Clear);
    assert_eq!(judge(wipe(|_| ())), Told::Proven);
    assert_eq!(judge(wipe(|one| one.level = Some(Level::FactoryReset))), Told::Proven);
    let item = |fate| ReceiptItem { what: "/srv".into(), fate, size_bytes: 1 };
    assert_eq!(judge(wipe(|one| one.items = vec![item(ItemFate::Kept)])), Told::Proven);
    type Change<'a> = &'a dyn Fn(&mut Receipt);
    for (at, phase) in PHASES.into_iter().enumerate() {
        let broken: [(&str, Change<'_>); 7] = [
            ("less far", &|one| one.level = Some(Level::Retire)),
            ("no level", &|one| one.level = None),
            ("an item failed", &|one| one.items = vec![item(ItemFate::Failed)]),
            ("not done", &|one| one.outcome = ReceiptOutcome::Failed),
            ("another warrant", &|one| one.warrant = Some(Sha256Digest([8; 32]))),
            ("another certificate", &|one| one.certificate = Sha256Digest([8; 32])),
            ("out of the chain", &|one| one.previous = Some(Sha256Digest([8; 32]))),
        ];
        for (how, change) in broken {
            let told = judge(wipe(|one| {
                if one.phase == phase {
                    change(one)
                }
            }));
            assert_eq!(told, Told::Out(WayOut::Failed), "{phase}: {how}");
        }
        let (last, mut earlier) = wipe(|_| ());
        if at < earlier.len() {
            let _ = earlier.remove(at);
            assert_eq!(judge((last, earlier)), Told::Out(WayOut::Failed), "{phase} is missing");
        }
    }
}

#[test]
fn a_receipt_that_names_no_warrant_or_another_is_refused() {
    let mut one = receipt(ReceiptPhase::Accepted, ReceiptOutcome::Done, None);
    assert!(is_under(&one, Sha256Digest([7; 32])).is_ok());
    assert!(is_under(&one, Sha256Digest([8; 32])).is_err());
    one.warrant = None;
    assert_eq!(is_under(&one, Sha256Digest([7; 32])).unwrap_err().rule, "receipt.warrant");
}
