//! A wipe in the machine: which phases follow which, what is told, and that nothing else happens meanwhile.

use muster_wire::id::WarrantId;
use muster_wire::merkle::prove_inclusion;
use muster_wire::warrant::{Kind, Level, Target, Warrant};

use super::*;
use crate::core::record::Wipe;

pub(super) const PHASES: [ReceiptPhase; 5] = [
    ReceiptPhase::Accepted,
    ReceiptPhase::Armed,
    ReceiptPhase::KeysDestroyed,
    ReceiptPhase::DataDestroyed,
    ReceiptPhase::Verified,
];

fn warrant_id(n: u8) -> WarrantId {
    WarrantId::from_parts(1, [n; 10])
}

/// An order under a warrant that the one approver (seed 3) has signed, or `signer` has.
pub(super) fn warranted_by(signer: u8, n: u8, action: Action) -> Order {
    let target = Target {
        device: device(),
        serial: None,
        owner: Some("someone".into()),
        kind: action.kind(),
        level: action.level(),
    };
    let other = Target { device: DeviceId::from_parts(2, [2; 10]), ..target.clone() };
    let leaves = [target.leaf_hash(), other.leaf_hash()];
    let warrant = Warrant {
        id: warrant_id(n),
        kind: action.kind(),
        level: action.level(),
        plan: action.plan(),
        root: muster_wire::merkle::root_of(&leaves),
        count: 2,
        not_after: Timestamp(NOW + 1_000_000),
        authority_version: 1,
    };
    let mut signed = MultiSigned::unsigned(&warrant);
    signed.add_signature(&secret(signer).0).unwrap();
    Order {
        warrant: Some(signed.to_bytes()),
        leaf: Some(target),
        inclusion: Some(prove_inclusion(&leaves, 0).unwrap()),
        ..order(n, action)
    }
}

pub(super) fn warranted(n: u8, action: Action) -> Order {
    warranted_by(3, n, action)
}

pub(super) fn clear() -> Action {
    Action::Wipe { level: Level::Clear, data_roots: vec!["/srv/data".into()] }
}

pub(super) fn stop(n: u8) -> Action {
    Action::Stop { warrant: warrant_id(n) }
}

fn connected() -> World {
    let mut world = World::new();
    world.connect(usize::MAX);
    world.connect(usize::MAX);
    world
}

impl World {
    fn command(&mut self, order: &Order) {
        self.send(order, 0);
    }

    /// The receipts that were ever written, oldest first.
    pub(super) fn reached(&self) -> Vec<(ReceiptPhase, ReceiptOutcome)> {
        let reached = |record: &Record| {
            if let Record::Reached(reached) = record { Some((reached.phase, reached.outcome)) } else { None }
        };
        self.disk.journal.iter().filter_map(reached).collect()
    }

    pub(super) fn owed(&self) -> Vec<Receipt> {
        let receipts = self.disk.outbox.values().filter_map(|kept| match kept {
            Kept::Receipt(receipt) => Some(receipt.clone()),
            Kept::Event(_) => None,
        });
        receipts.collect()
    }

    fn wait(&mut self, seconds: u64) {
        self.since_start += Duration::from_secs(seconds);
        self.handle(Event::Woke, usize::MAX);
    }
}

pub(super) fn done(phases: &[ReceiptPhase]) -> Vec<(ReceiptPhase, ReceiptOutcome)> {
    phases.iter().map(|phase| (*phase, ReceiptOutcome::Done)).collect()
}

#[test]
fn a_wipe_waits_for_the_servers_word_on_armed_then_goes_to_the_end_of_this_life() {
    let mut world = connected();
    world.command(&warranted(1, clear()));
    assert_eq!(world.reached(), done(&PHASES[..2]), "nothing is destroyed yet");
    assert_eq!(world.phases, [ReceiptPhase::Accepted]);
    world.serve();
    assert_eq!(world.reached(), done(&PHASES));
    assert!(world.is_over && world.effects.contains(&"end"));
    let retired = world.disk.journal.iter().rev().find_map(|record| {
        if let Record::Retired(retired) = record { Some(retired.is_acknowledged) } else { None }
    });
    assert_eq!(retired, Some(true));
}

#[test]
fn receipts_of_a_wipe_are_a_chain_that_names_level_and_warrant() {
    let mut world = connected();
    world.command(&warranted(1, clear()));
    world.wait(61);
    let mut owed = world.owed();
    owed.sort_by_key(|receipt| receipt.phase);
    assert_eq!(owed.iter().map(|receipt| receipt.phase).collect::<Vec<_>>(), PHASES);
    let mut previous = None;
    for receipt in &owed {
        assert_eq!(receipt.previous, previous, "{}", receipt.phase);
        assert_eq!(receipt.level, Some(Level::Clear));
        assert!(receipt.warrant.is_some());
        previous = Some(payload_digest(receipt));
    }
}

#[test]
fn a_server_that_never_signs_for_armed_delays_the_deed_by_a_minute_and_no_more() {
    let mut world = connected();
    world.command(&warranted(1, clear()));
    world.wait(59);
    assert_eq!(world.phases, [ReceiptPhase::Accepted]);
    world.cut(usize::MAX);
    world.wait(2);
    assert_eq!(world.reached(), done(&PHASES), "a line that is cut protects no stolen device");
    assert!(!world.is_over, "but the identity stays until the server has signed");
    world.settle();
    assert!(world.is_over);
}

#[test]
fn the_identity_goes_at_the_end_of_the_order_where_the_server_never_signs() {
    let mut world = connected();
    world.command(&warranted(1, clear()));
    world.wait(61);
    world.wait(900_000);
    assert!(!world.is_over);
    for _ in 0..6 {
        world.wait(6 * 3600);
    }
    assert!(world.is_over);
}

#[test]
fn killed_after_any_effect_a_wipe_comes_to_the_same_end_with_one_receipt_for_each_phase() {
    for lives in 0..40 {
        let mut world = connected();
        let order = warranted(1, clear());
        let link = world.open.unwrap();
        let payload = sign1(&order, &secret(1).0).unwrap();
        let incoming = Incoming { channel: Channel::Order, payload, packet: 0 };
        world.handle(Event::Received(link, incoming.clone()), lives);
        for kill in [lives, usize::MAX, usize::MAX] {
            world.connect(kill);
            world.connect(kill);
            if let Some(link) = world.open.filter(|_| world.taken() == 0) {
                world.handle(Event::Received(link, incoming.clone()), usize::MAX);
            }
            for _ in 0..40 {
                world.store(true, kill);
                world.ack(kill);
            }
            world.since_start += Duration::from_secs(61);
            world.handle(Event::Woke, kill);
        }
        world.settle();
        assert!(world.is_over, "{lives}");
        let mut reached = world.reached();
        reached.dedup();
        assert_eq!(reached, done(&PHASES), "{lives}");
        let receipts = world.server.receipts.get(&order.id).map_or(0, BTreeSet::len);
        assert_eq!(receipts, PHASES.len(), "{lives}: two receipts for one phase");
    }
}

#[test]
fn a_refused_or_failed_wipe_ends_with_one_receipt_and_the_device_goes_on() {
    for fate in [ReceiptOutcome::Refused, ReceiptOutcome::Failed] {
        let mut world = connected();
        world.fate = fate;
        world.command(&warranted(1, clear()));
        assert_eq!(world.reached(), [(ReceiptPhase::Accepted, fate)]);
        world.serve();
        world.wait(61);
        assert!(!world.is_over && world.session.past.open.is_empty());
        world.order(2, usize::MAX);
        assert!(world.effects.contains(&"collect"), "it obeys as before");
    }
}

#[test]
fn a_warrant_that_is_stopped_while_armed_destroys_nothing_and_stays_stopped() {
    let mut world = connected();
    world.command(&warranted(1, clear()));
    world.command(&warranted(2, stop(1)));
    assert_eq!(world.reached().last(), Some(&(ReceiptPhase::KeysDestroyed, ReceiptOutcome::Refused)));
    world.serve();
    world.wait(61);
    assert_eq!(world.phases, [ReceiptPhase::Accepted]);
    assert!(!world.is_over);
    world.restart();
    world.connect(usize::MAX);
    world.connect(usize::MAX);
    let again = Order { id: OrderId::from_parts(9, [9; 10]), ..warranted(1, clear()) };
    let again = Order { sequence: Sequence { counter: 9, ..again.sequence }, ..again };
    world.command(&again);
    assert_eq!(world.events(EventKind::Refused).len(), 1);
    assert_eq!(world.phases, [ReceiptPhase::Accepted], "stopped is stopped, after a restart, too");
}

/// What whoever has the command key makes of a warrant that was sent before: an order of another name.
pub(super) fn made_again(n: u8, former: Order) -> Order {
    let sequence = Sequence { counter: u64::from(n), ..former.sequence };
    Order { id: OrderId::from_parts(9, [n; 10]), sequence, ..former }
}

#[test]
fn a_warrant_that_was_answered_serves_no_second_order_after_a_restart_either() {
    for fate in [ReceiptOutcome::Refused, ReceiptOutcome::Failed] {
        let mut world = connected();
        world.fate = fate;
        world.command(&warranted(1, clear()));
        world.command(&warranted(2, Action::Lock));
        world.serve();
        world.fate = ReceiptOutcome::Done;
        for again in [made_again(7, warranted(1, clear())), made_again(8, warranted(2, Action::Lock))] {
            world.command(&again);
            world.restart();
            world.connect(usize::MAX);
            world.connect(usize::MAX);
        }
        world.command(&made_again(9, warranted(1, clear())));
        world.wait(61);
        assert_eq!((world.taken(), world.phases.len()), (2, 1), "{fate:?}");
        let told = world.events(EventKind::Refused);
        assert_eq!(told.len(), 2, "once for each warrant: {told:?}");
        assert!(told.iter().all(|why| why.ends_with("was used on this device")), "{told:?}");
        world.command(&made_again(10, warranted(3, clear())));
        assert_eq!(world.taken(), 3, "{fate:?}: approvers may sign anew");
    }
}

#[test]
fn an_order_that_is_delivered_again_while_in_hand_is_acknowledged_and_not_refused() {
    let mut world = connected();
    world.command(&warranted(1, clear()));
    let again = Order {
        sequence: Sequence { counter: 5, ..warranted(1, clear()).sequence },
        ..warranted(1, clear())
    };
    world.command(&again);
    assert_eq!((world.taken(), world.acknowledged()), (1, 2));
    assert!(world.events(EventKind::Refused).is_empty());
}

#[test]
fn an_order_whose_warrant_does_not_hold_is_refused_without_a_receipt() {
    let good = || warranted(1, clear());
    let other = || warranted(2, clear());
    let harder = Action::Wipe { level: Level::CryptoErase, data_roots: Vec::new() };
    let wider = Action::Wipe { level: Level::Clear, data_roots: vec!["/srv".into()] };
    let bad: Vec<(&str, Order)> = vec![
        ("no warrant", order(1, clear())),
        ("signed by the command key", warranted_by(1, 1, clear())),
        ("signed by nobody known", warranted_by(9, 1, clear())),
        ("another body than the plan", Order { action: wider, ..good() }),
        ("another level", Order { action: harder, ..good() }),
        ("a lock under a warrant to wipe", Order { action: Action::Lock, ..good() }),
        ("the leaf of a sibling", {
            let leaf = Target { device: DeviceId::from_parts(2, [2; 10]), ..good().leaf.unwrap() };
            Order { leaf: Some(leaf), ..good() }
        }),
        ("another serial number", {
            let leaf = Target { serial: Some("SN1".into()), ..good().leaf.unwrap() };
            Order { leaf: Some(leaf), ..good() }
        }),
        ("the proof of another leaf", {
            let leaves = [Sha256Digest([0; 32]), Sha256Digest([1; 32])];
            Order { inclusion: prove_inclusion(&leaves, 1), ..good() }
        }),
        ("no leaf", Order { leaf: None, ..good() }),
        ("for a sibling", Order { device: DeviceId::from_parts(2, [2; 10]), ..good() }),
        ("expired", Order { expires: Timestamp(NOW - 1), ..good() }),
        ("an authority that is not known", {
            let sequence = Sequence { authority_version: 2, ..good().sequence };
            Order { sequence, ..good() }
        }),
        (
            "half of another warrant",
            Order { warrant: other().warrant.map(|bytes| bytes[..40].to_vec()), ..good() },
        ),
    ];
    for (what, order) in bad {
        let mut world = connected();
        world.command(&order);
        world.wait(61);
        assert_eq!((world.taken(), world.phases.len()), (0, 0), "{what}");
        assert_eq!(world.events(EventKind::Refused).len(), 1, "{what}: {:?}", world.disk.outbox);
        assert!(world.owed().is_empty(), "{what}");
        world.command(&good());
        assert_eq!(world.taken(), 1, "{what}: the good one counts afterwards");
    }
}

#[test]
fn a_hundred_deliveries_of_one_wipe_are_one_wipe() {
    let mut world = connected();
    (0..100).for_each(|_| world.command(&warranted(1, clear())));
    world.serve();
    assert_eq!((world.taken(), world.reached()), (1, done(&PHASES)));
}

#[test]
fn while_a_wipe_is_in_hand_nothing_is_repaired_fetched_or_renewed() {
    let mut world = connected();
    world.command(&warranted(1, clear()));
    world.effects.clear();
    let payload = sign1(&head(NOW + 5, 60), &secret(1).0).unwrap();
    let incoming = Incoming { channel: Channel::Desired, payload, packet: 0 };
    world.handle(Event::Received(world.open.unwrap(), incoming), usize::MAX);
    world.session.alarms.drift = Some(Duration::ZERO);
    world.session.alarms.renew = Some(Duration::ZERO);
    world.clock_is_off = 29 * 86_400;
    world.wait(1);
    let changes = |effect: &&&str| matches!(**effect, "drift" | "fetch" | "renewal" | "keep head");
    assert_eq!(world.effects.iter().find(changes), None, "{:?}", world.effects);
}

#[test]
fn an_order_to_rotate_that_comes_during_a_wipe_is_refused() {
    let mut world = connected();
    world.command(&warranted(1, clear()));
    world.command(&order(2, Action::RotateIdentity));
    let rotation = order(2, Action::RotateIdentity).id;
    let told: Vec<_> = world.owed().into_iter().filter(|receipt| receipt.order == rotation).collect();
    assert_eq!(told[0].outcome, ReceiptOutcome::Refused);
    assert!(!world.effects.contains(&"renewal"));
}

#[test]
fn a_certificate_that_is_being_proven_is_settled_before_a_wipe_begins() {
    let mut world = connected();
    let proving = LinkId(99);
    world.session.proving = Some(proving);
    world.command(&warranted(1, clear()));
    world.wait(10);
    assert!(world.phases.is_empty(), "receipts of a wipe name one certificate");
    world.handle(Event::Closed(proving, trouble()), usize::MAX);
    world.wait(10);
    world.wait(61);
    assert_eq!(world.reached(), done(&PHASES));
    let certificates: BTreeSet<_> = world.owed().iter().map(|receipt| receipt.certificate).collect();
    assert_eq!(certificates.len(), 1);
}

#[test]
fn a_farewell_session_takes_orders_and_sends_receipts_and_nothing_else() {
    let mut world = World::new();
    world.granted = vec![Channel::Order, Channel::Ack];
    world.connect(usize::MAX);
    world.connect(usize::MAX);
    world.forge(9, usize::MAX);
    world.wait(4_000);
    assert!(world.in_flight.is_empty(), "{:?}", world.in_flight);
    assert!(!world.effects.contains(&"renewal"));
    world.command(&warranted(1, clear()));
    assert!(world.in_flight.iter().all(|message| message.channel == Channel::Receipt));
    world.serve();
    assert!(world.is_over);
}

#[test]
fn a_session_without_even_orders_sends_nothing() {
    let mut world = World::new();
    world.granted = vec![Channel::Credential];
    world.connect(usize::MAX);
    world.connect(usize::MAX);
    world.forge(9, usize::MAX);
    world.wait(100);
    assert!(world.in_flight.is_empty(), "{:?}", world.in_flight);
}

#[test]
fn a_device_is_locked_under_a_warrant_and_unlocked_without_one() {
    let mut world = connected();
    world.command(&order(1, Action::Lock));
    assert_eq!(world.taken(), 0, "a lock needs an approver");
    world.command(&warranted(2, Action::Lock));
    world.command(&order(3, Action::Unlock));
    let owed = world.owed();
    assert_eq!(owed.len(), 2);
    assert!(owed.iter().all(|receipt| receipt.outcome == ReceiptOutcome::Done && receipt.level.is_none()));
    assert!(owed.iter().any(|receipt| receipt.warrant.is_some()));
}

#[test]
fn journals_of_agents_that_knew_no_wipe_read_as_before() {
    let line = r#"{"record":"taken","order":"0190163d-8694-739b-aea5-966c26f8ad91","kind":"collect_posture",
        "authority_version":1,"restore_epoch":0,"counter":1,"log_size":0,
        "log_root":"0000000000000000000000000000000000000000000000000000000000000000",
        "certificate":"0000000000000000000000000000000000000000000000000000000000000000",
        "expires":"2026-01-01T00:00:00Z","at":"2026-01-01T00:00:00Z"}"#;
    let Record::Taken(taken) = serde_json::from_str(line).unwrap() else { panic!("another record") };
    assert_eq!((taken.kind, taken.under.is_none(), taken.wipe), (Kind::CollectPosture, true, None::<Wipe>));
}
