//! The phases, the doom and the ways out, as tables.

use super::*;
use crate::domain::device::{CertificateRef, Steps};
use crate::domain::order::{Ask, Phase as OrderPhase};
use crate::domain::quarantine::{By, Quarantine};
use muster_pki::serial::Serial;
use muster_wire::id::{DeviceId, TokenId};
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

fn order(phases: &[ReceiptPhase]) -> OrderRecord {
    let note = |phase: &ReceiptPhase| ReceiptNote {
        phase: *phase,
        outcome: ReceiptOutcome::Done,
        sha256: Sha256Digest([0; 32]),
        at: 0,
    };
    OrderRecord {
        v: 1,
        id: OrderId::from_bytes([4; 16]),
        device: DeviceId::from_bytes([1; 16]),
        ask: Ask::Wipe { level: Level::Clear, data_roots: Vec::new() },
        warrant: Some(request().warrant),
        counter: 1,
        by: "server".into(),
        made_at: 0,
        expires: NOT_AFTER,
        phase: OrderPhase::Delivered,
        receipts: phases.iter().map(note).collect(),
    }
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

#[test]
fn only_the_last_receipt_of_an_armed_wipe_as_far_as_asked_proves_it() {
    use ReceiptOutcome::{Done, Failed, Refused};
    use ReceiptPhase::{Accepted, Armed, DataDestroyed, KeysDestroyed, Verified};
    let armed = [Accepted, Armed, KeysDestroyed, DataDestroyed, Verified];
    let unarmed = [Accepted, Verified];
    let at = |phase, outcome, level| receipt(phase, outcome, Some(level));
    let table = [
        (at(Accepted, Done, Level::Clear), &armed[..1], Told::Further(Phase::Delivered)),
        (at(Armed, Done, Level::Clear), &armed[..2], Told::Further(Phase::Armed)),
        (at(KeysDestroyed, Done, Level::Clear), &armed[..3], Told::Further(Phase::Executing)),
        (at(DataDestroyed, Done, Level::Clear), &armed[..4], Told::Further(Phase::Executing)),
        (at(Verified, Done, Level::Clear), &armed[..], Told::Proven),
        (at(Verified, Done, Level::FactoryReset), &armed[..], Told::Proven),
        (at(Verified, Done, Level::Retire), &armed[..], Told::Out(WayOut::Failed)),
        (receipt(Verified, Done, None), &armed[..], Told::Out(WayOut::Failed)),
        (at(Verified, Done, Level::Clear), &unarmed[..], Told::Out(WayOut::Failed)),
        (at(Accepted, Refused, Level::Clear), &armed[..1], Told::Out(WayOut::Refused)),
        (at(KeysDestroyed, Failed, Level::Clear), &armed[..3], Told::Out(WayOut::Failed)),
        (at(Verified, Failed, Level::Clear), &armed[..], Told::Out(WayOut::Failed)),
    ];
    for (receipt, phases, expected) in table {
        assert_eq!(told(&order(phases), &receipt, Level::Clear), expected, "{receipt:?}");
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
