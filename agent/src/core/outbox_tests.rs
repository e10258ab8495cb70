use muster_wire::id::DeviceId;
use muster_wire::receipt::{ReceiptOutcome, ReceiptPhase};
use muster_wire::time::Timestamp;

use super::*;

const CERTIFICATE: Sha256Digest = Sha256Digest([1; 32]);

fn device() -> DeviceId {
    DeviceId::from_parts(1, [1; 10])
}

fn event(n: u64) -> EventReport {
    EventReport {
        device: device(),
        id: ReportId::from_parts(n, [0; 10]),
        kind: EventKind::Refused,
        detail: n.to_string(),
        at: Timestamp(1),
    }
}

fn state(n: u64) -> StateReport {
    StateReport {
        device: device(),
        id: ReportId::from_parts(n, [0; 10]),
        generation: None,
        drift: Vec::new(),
        agent_version: String::new(),
        last_checkpoint: None,
        at: Timestamp(1),
    }
}

fn receipt(n: u64) -> Receipt {
    Receipt {
        device: device(),
        order: OrderId::from_parts(n, [0; 10]),
        warrant: None,
        level: None,
        phase: ReceiptPhase::Verified,
        outcome: ReceiptOutcome::Done,
        items: Vec::new(),
        evidence: CERTIFICATE,
        previous: None,
        certificate: CERTIFICATE,
        last_checkpoint: None,
        at: Timestamp(1),
    }
}

fn drain(outbox: &mut Outbox) -> Vec<EntryId> {
    std::iter::from_fn(|| outbox.next(CERTIFICATE, Letters::All).map(|message| message.id)).collect()
}

#[test]
fn only_the_newest_state_is_told() {
    let mut outbox = Outbox::default();
    outbox.put_state(state(1));
    outbox.put_state(state(2));
    assert_eq!(drain(&mut outbox), [EntryId::State(state(2).id)]);
}

#[test]
fn a_state_that_was_replaced_in_flight_does_not_take_the_newer_one_with_it() {
    let mut outbox = Outbox::default();
    outbox.put_state(state(1));
    drain(&mut outbox);
    outbox.put_state(state(2));
    assert_eq!(outbox.confirmed(EntryId::State(state(1).id)), None);
    assert_eq!(drain(&mut outbox), [EntryId::State(state(2).id)]);
    outbox.confirmed(EntryId::State(state(2).id));
    assert!(outbox.is_empty());
}

#[test]
fn what_was_not_confirmed_is_sent_again_in_the_next_session() {
    let mut outbox = Outbox::found([Kept::Event(event(1)), Kept::Receipt(receipt(2))]);
    let all = [EntryId::Event(event(1).id), EntryId::Receipt(receipt(2).order, ReceiptPhase::Verified)];
    assert_eq!(drain(&mut outbox), all);
    assert_eq!(drain(&mut outbox), []);
    outbox.lost();
    assert_eq!(drain(&mut outbox), all);
}

#[test]
fn a_receipt_is_owed_until_the_signed_ack_of_that_very_receipt() {
    let mut outbox = Outbox::default();
    outbox.put_receipt(receipt(1));
    drain(&mut outbox);
    let order = receipt(1).order;
    assert_eq!(outbox.confirmed(EntryId::Receipt(order, ReceiptPhase::Verified)), None);
    assert_eq!(drain(&mut outbox), [], "told once in a session");
    assert_eq!(outbox.acknowledged(order, Sha256Digest([9; 32])), None);
    assert!(outbox.owes(order));
    let digest = muster_wire::envelope::payload_digest(&receipt(1));
    assert_eq!(outbox.acknowledged(order, digest), Some(EntryId::Receipt(order, ReceiptPhase::Verified)));
    assert!(outbox.is_empty());
}

#[test]
fn a_receipt_names_the_certificate_that_it_is_sent_under() {
    let mut outbox = Outbox::default();
    outbox.put_receipt(receipt(1));
    let other = Sha256Digest([2; 32]);
    let message = outbox.next(other, Letters::All).unwrap();
    assert!(matches!(message.body, Body::Receipt(sent) if sent.certificate == other));
    let sent = Receipt { certificate: other, ..receipt(1) };
    let digest = muster_wire::envelope::payload_digest(&sent);
    assert!(outbox.acknowledged(receipt(1).order, digest).is_some());
}

#[test]
fn the_oldest_event_gives_way_when_there_are_too_many() {
    let mut outbox = Outbox::default();
    let given_way: Vec<EntryId> =
        (0..MAX_EVENTS as u64 + 2).filter_map(|n| outbox.put_event(event(n))).collect();
    assert_eq!(given_way, [EntryId::Event(event(0).id), EntryId::Event(event(1).id)]);
    let says = |n: u64| outbox.says(EventKind::Refused, &n.to_string());
    assert!(says(2) && !says(1));
}

#[test]
fn no_more_than_a_window_is_in_flight() {
    let mut outbox = Outbox::found((0..MAX_EVENTS as u64).map(|n| Kept::Event(event(n))));
    let sent = drain(&mut outbox);
    assert_eq!(sent.len(), WINDOW);
    assert_eq!(outbox.confirmed(sent[0]), Some(sent[0]));
    assert_eq!(drain(&mut outbox).len(), 1);
}
