//! The machine against a model server, with a kill wherever a test wants one.

use std::collections::{BTreeMap, BTreeSet};

use ed25519_dalek::SigningKey;
use muster_wire::authority::{Approver, Authority, Required};
use muster_wire::cbor;
use muster_wire::checkpoint::Checkpoint;
use muster_wire::desired::{Intervals, SectionKind};
use muster_wire::discovery::{Endpoints, TrustBundle};
use muster_wire::envelope::{MultiSigned, payload_digest, sign1};
use muster_wire::id::ReportId;
use muster_wire::key::{Ed25519Key, PublicKey, Signer as _};
use muster_wire::merkle::ConsistencyProof;
use muster_wire::order::{Action, Order, Sequence};
use muster_wire::posture::EventReport;
use muster_wire::receipt::{Ack, ItemFate, Receipt, ReceiptOutcome};
use proptest::prelude::*;

use super::super::TroubleKind;
use super::super::record::{Accepted, Proven};
use super::*;

mod authorities;
mod lapsing;
mod placed;
mod wiping;
mod world;

use world::*;

#[derive(Clone, Debug)]
enum Step {
    Connect,
    Cut,
    Store(bool),
    Order,
    Again(u8),
    Forge,
    Ack,
    Kill,
}

fn step() -> impl Strategy<Value = (Step, usize)> {
    let step = prop_oneof![
        4 => Just(Step::Connect),
        2 => Just(Step::Cut),
        6 => any::<bool>().prop_map(Step::Store),
        3 => Just(Step::Order),
        1 => (1_u8..20).prop_map(Step::Again),
        1 => Just(Step::Forge),
        3 => Just(Step::Ack),
        1 => Just(Step::Kill),
    ];
    (step, prop_oneof![5 => Just(usize::MAX), 1 => 0_usize..8])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn whatever_comes_in_between_nothing_is_lost_and_nothing_is_taken_twice(
        steps in prop::collection::vec(step(), 1..60)
    ) {
        let mut world = World::new();
        let mut next = 0;
        for (step, lives) in steps {
            match step {
                Step::Connect => world.connect(lives),
                Step::Cut => world.cut(lives),
                Step::Store(is_confirmed) => world.store(is_confirmed, lives),
                // The server makes the next order once the former was delivered: a sequence has no gaps here.
                Step::Order if world.server.orders.values().all(|is| *is) => {
                    next += 1;
                    world.order(next, lives);
                }
                Step::Order => world.deliver(next, lives),
                Step::Again(n) if n <= next => world.deliver(n, lives),
                Step::Again(_) => {}
                Step::Forge => world.forge(next, lives),
                Step::Ack => world.ack(lives),
                Step::Kill => world.restart(),
            }
        }
        world.settle();
        let taken = |record: &Record| {
            if let Record::Taken(taken) = record { Some(taken.order) } else { None }
        };
        let all: Vec<OrderId> = world.disk.journal.iter().filter_map(taken).collect();
        let distinct: BTreeSet<OrderId> = all.iter().copied().collect();
        prop_assert_eq!(all.len(), distinct.len(), "an order was taken twice");
        prop_assert_eq!(distinct.len(), usize::from(next), "an order was lost");
        for order in &distinct {
            let receipts = world.server.receipts.get(order).map_or(0, BTreeSet::len);
            prop_assert_eq!(receipts, 1, "not exactly one receipt");
        }
        prop_assert!(world.server.told.is_subset(&world.server.events), "an event was lost");
        prop_assert!(world.disk.outbox.is_empty(), "something is still owed");
        prop_assert!(world.session.past.open.is_empty());
    }
}

#[test]
fn a_gate_that_refuses_the_device_is_remembered_until_it_lets_it_in() {
    let mut world = World::new();
    let lines = world.disk.journal.len();
    let link = world.opening.take().unwrap();
    world.handle(Event::Closed(link, Trouble { kind: TroubleKind::Rejected, ..trouble() }), usize::MAX);
    assert_eq!(world.session.shown.refused.as_ref().unwrap().code, "certificate_refused");
    assert_eq!(world.disk.journal.len(), lines, "what anybody on the line can say fills no journal");
    world.connect(usize::MAX);
    assert_eq!(world.session.shown.refused, None);
    // A cut is no refusal, and neither is the end of a session.
    world.cut(usize::MAX);
    assert_eq!(world.session.shown.refused, None);
}

#[test]
fn whoever_is_granted_orders_alone_shows_that_it_is_let_go_until_a_session_says_otherwise() {
    let mut world = World::new();
    world.granted = vec![Channel::Order, Channel::Ack];
    world.connect(usize::MAX);
    world.cut(usize::MAX);
    assert!(world.session.shown.is_let_go);
    world.granted = Channel::ALL.to_vec();
    world.connect(usize::MAX);
    assert!(!world.session.shown.is_let_go);
}

#[test]
fn a_desired_head_of_a_stranger_and_an_ack_of_a_stranger_change_nothing() {
    let mut world = World::new();
    world.connect(usize::MAX);
    world.order(1, usize::MAX);
    world.store(true, usize::MAX);
    let owed = world.disk.outbox.len();
    assert!(owed > 0);
    let ack =
        Ack { device: device(), order: order(1, Action::CollectPosture).id, receipt: Sha256Digest([0; 32]) };
    let link = world.open.unwrap();
    for key in [9, 1] {
        let payload = sign1(&ack, &secret(key).0).unwrap();
        let incoming = Incoming { channel: Channel::Ack, payload, packet: 0 };
        world.handle(Event::Received(link, incoming), usize::MAX);
    }
    assert!(world.session.outbox.owes(ack.order));
}

#[test]
fn an_order_that_needs_more_than_this_agent_can_is_answered_as_refused() {
    let mut world = World::new();
    world.connect(usize::MAX);
    let link = world.open.unwrap();
    let action = Action::RotateSecret { name: "vpn".into(), sealed: Vec::new() };
    let payload = sign1(&order(1, action), &secret(1).0).unwrap();
    world.handle(Event::Received(link, Incoming { channel: Channel::Order, payload, packet: 1 }), usize::MAX);
    let kept: Vec<&Kept> = world.disk.outbox.values().collect();
    let [Kept::Receipt(receipt)] = kept[..] else { panic!("{kept:?}") };
    assert_eq!(receipt.outcome, ReceiptOutcome::Refused);
    let [reason] = &receipt.items[..] else { panic!("{receipt:?}") };
    assert_eq!(reason.what, "this version of muster-agent cannot carry out rotate_secret");
    assert_eq!(reason.fate, ItemFate::Kept);
}

#[test]
fn a_thief_of_the_command_key_cannot_fill_the_journal_nor_hold_back_a_warrant() {
    let mut world = World::new();
    world.connect(usize::MAX);
    world.connect(usize::MAX);
    let nth = |n: u64| {
        let made = order(1, Action::CollectPosture);
        let sequence = Sequence { counter: n, ..made.sequence };
        Order { id: OrderId::from_parts(n, [0; 10]), sequence, ..made }
    };
    for n in 1..=700 {
        world.send(&nth(n), 0);
        world.store(true, usize::MAX);
        world.store(true, usize::MAX);
        world.ack(usize::MAX);
    }
    world.serve();
    let journal = world.disk.journal.len();
    assert_eq!(world.taken(), 600);
    (701..900).for_each(|n| world.send(&nth(n), 0));
    assert_eq!((world.taken(), world.disk.journal.len()), (600, journal), "not a line more");
    assert!(world.events(EventKind::Refused).is_empty(), "it was told, once");
    let approved = wiping::warranted(1, Action::Lock);
    let sequence = Sequence { counter: 900, ..approved.sequence };
    world.send(&Order { id: OrderId::from_parts(900, [0; 10]), sequence, ..approved }, 0);
    assert_eq!(world.taken(), 601);
    world.since_start += Duration::from_secs(86_400);
    let tomorrow = Order { expires: Timestamp(NOW + 200_000), ..nth(901) };
    world.send(&tomorrow, 0);
    assert_eq!(world.taken(), 602);
}

#[test]
fn an_order_that_had_its_turn_does_not_run_again_under_a_higher_sequence_even_after_a_restart() {
    let mut world = World::new();
    world.connect(usize::MAX);
    world.order(1, usize::MAX);
    world.serve();
    assert!(!world.session.outbox.owes(order(1, Action::CollectPosture).id));
    for turn in 0..2 {
        let again =
            Order { id: order(1, Action::CollectPosture).id, ..order(100 + turn, Action::CollectPosture) };
        world.server.orders.insert(100 + turn, false);
        let collected = world.effects.iter().filter(|effect| **effect == "collect").count();
        let acknowledged = world.acknowledged();
        // Packet 0 is of no order that the model knows.
        world.send(&again, 0);
        assert_eq!(world.effects.iter().filter(|effect| **effect == "collect").count(), collected);
        assert_eq!((world.taken(), world.acknowledged()), (1, acknowledged + 1));
        assert_eq!(world.events(EventKind::Refused).len(), 1, "{:?}", world.disk.outbox);
        world.restart();
        world.connect(usize::MAX);
    }
    // The device goes on with what is new.
    world.order(2, usize::MAX);
    assert_eq!(world.taken(), 2);
}

#[test]
fn an_order_whose_confirmation_was_lost_is_confirmed_again_without_a_word() {
    let mut world = World::new();
    world.connect(usize::MAX);
    world.order(1, usize::MAX);
    world.serve();
    let acknowledged = world.acknowledged();
    world.deliver(1, usize::MAX);
    assert_eq!((world.taken(), world.acknowledged()), (1, acknowledged + 1));
    assert!(world.events(EventKind::Refused).is_empty());
}

#[test]
fn orders_beyond_the_room_for_receipts_wait_and_none_overtakes_another() {
    let mut world = World::new();
    world.connect(usize::MAX);
    let most = u8::try_from(super::super::outbox::MAX_RECEIPTS).unwrap();
    (1..=most + 2).for_each(|n| world.order(n, usize::MAX));
    assert_eq!((world.taken(), world.acknowledged()), (usize::from(most), usize::from(most)));
    // One receipt is signed for: there is room, yet the next order to come is not the next in turn.
    while world.server.acks.is_empty() {
        world.store(true, usize::MAX);
    }
    world.ack(usize::MAX);
    assert!(world.open.is_none(), "a new session brings what was left");
    world.settle();
    assert_eq!(world.taken(), usize::from(most) + 2);
    assert!(world.events(EventKind::Refused).is_empty());
}

#[test]
fn a_clock_that_jumps_is_told_once_each_time_and_moves_no_alarm_but_that_of_the_certificate() {
    for jump in [365 * 86_400, -365 * 86_400, -NOW] {
        let mut world = World::new();
        world.connect(usize::MAX);
        let before = world.session.alarms;
        world.clock_is_off = jump;
        world.handle(Event::Woke, usize::MAX);
        assert_eq!(world.events(EventKind::ClockJumped).len(), 1, "{jump}");
        let after = world.session.alarms;
        assert_eq!(Alarms { renew: None, ..after }, Alarms { renew: None, ..before }, "{jump}");
        world.since_start += Duration::from_secs(1);
        world.handle(Event::Woke, usize::MAX);
        assert_eq!(world.events(EventKind::ClockJumped).len(), 1, "{jump}");
        assert!(world.open.is_some());
    }
}

#[test]
fn intervals_in_a_newer_head_of_the_same_generation_are_kept_and_an_older_one_changes_nothing() {
    let mut world = World::new();
    let first = head(NOW, 3600);
    let mark = super::super::baseline::Mark::of(&first, 1);
    world.session.in_force.highest = Some((mark, first.baseline));
    world.session.in_force.head = Some(first);
    world.connect(usize::MAX);
    let link = world.open.unwrap();
    let mut hear = |head: &DesiredHead| {
        let payload = sign1(head, &secret(1).0).unwrap();
        let incoming = Incoming { channel: Channel::Desired, payload, packet: 0 };
        world.handle(Event::Received(link, incoming), usize::MAX);
        let kept = world.effects.iter().filter(|effect| **effect == "keep head").count();
        (world.session.intervals().state_s, kept)
    };
    assert_eq!(hear(&head(NOW + 5, 60)), (60, 1));
    assert_eq!(hear(&head(NOW + 6, 60)), (60, 1), "nothing new is not written");
    assert_eq!(hear(&head(NOW, 3600)), (60, 1), "an older word does not count");
}

#[test]
fn a_baseline_that_was_taken_back_is_shown_with_its_reason_until_another_is_in_force() {
    let mut world = World::new();
    world.connect(usize::MAX);
    let back = |world: &mut World| {
        let generation = Generation { restore_epoch: 0, counter: 3 };
        let (why, is_repeated) = ("/srv/a: a symbolic link stands in the way".to_owned(), false);
        let in_force = Box::new(world.session.in_force.clone());
        let change = Change::RolledBack { generation, why, is_repeated };
        world.handle(Event::Applied(change, in_force), usize::MAX);
        world.session.shown.not_taken.clone().unwrap()
    };
    let first = back(&mut world);
    assert_eq!(first.sentence(), "generation 3 was rolled back: /srv/a: a symbolic link stands in the way");
    world.since_start += Duration::from_secs(60);
    assert_eq!(back(&mut world), first, "the same again is no news");
    let in_force = Box::new(world.session.in_force.clone());
    world.handle(Event::Applied(Change::Applied, in_force), usize::MAX);
    assert_eq!(world.session.shown.not_taken, None);
}

#[test]
fn a_baseline_that_is_not_in_force_is_shown_still_when_nothing_has_changed() {
    let mut world = World::new();
    world.connect(usize::MAX);
    let in_force = |counter, has_failed| {
        let generation = Generation { restore_epoch: 0, counter };
        let head = (counter > 0).then(|| DesiredHead { generation, ..head(NOW, 3600) });
        InForce { head, has_failed, ..InForce::default() }
    };
    let generation = Generation { restore_epoch: 0, counter: 3 };
    let back = Change::RolledBack { generation, why: "/srv/a: no".to_owned(), is_repeated: false };
    world.handle(Event::Applied(back, Box::new(in_force(2, true))), usize::MAX);
    let found = world.session.shown.not_taken.clone();
    assert!(found.is_some());
    // A wipe that was not carried through may have forgotten which one failed, and the one in force, too.
    for (counter, has_failed) in [(2, true), (2, false), (0, false)] {
        world.handle(Event::Applied(Change::Unchanged, Box::new(in_force(counter, has_failed))), usize::MAX);
        assert_eq!(world.session.shown.not_taken, found, "{counter}, {has_failed}");
    }
    world.handle(Event::Applied(Change::Unchanged, Box::new(in_force(3, false))), usize::MAX);
    assert_eq!(world.session.shown.not_taken, None, "it is in force after all");
}

#[test]
fn a_desired_state_that_nobody_renews_is_called_stale_and_an_old_word_again_renews_nothing() {
    let lasting = |issued_at| DesiredHead {
        lease: muster_wire::desired::Lease { lasts_s: 600, on_lapse: muster_wire::desired::Lapse::Report },
        ..head(issued_at, 3600)
    };
    let mut world = World::new();
    let first = lasting(NOW);
    let mark = super::super::baseline::Mark::of(&first, 1);
    world.session.in_force.highest = Some((mark, first.baseline));
    world.session.in_force.head = Some(first);
    world.connect(usize::MAX);
    let link = world.open.unwrap();
    let lapsed = |world: &World| world.events(EventKind::LeaseLapsed).len();
    let after = |world: &mut World, seconds, issued_at| {
        world.since_start += Duration::from_secs(seconds);
        let payload = sign1(&lasting(issued_at), &secret(1).0).unwrap();
        world.handle(
            Event::Received(link, Incoming { channel: Channel::Desired, payload, packet: 0 }),
            usize::MAX,
        );
    };
    after(&mut world, 0, NOW + 1);
    after(&mut world, 500, NOW + 501);
    after(&mut world, 500, NOW + 501);
    assert_eq!(lapsed(&world), 0, "each newer word counts for its own time");
    assert!(world.session.wake_at().unwrap() <= world.since_start + Duration::from_secs(100));
    after(&mut world, 100, NOW + 1);
    assert_eq!(lapsed(&world), 1, "what was heard before is no news");
    assert!(world.session.shown.stale);
    after(&mut world, 3_000, NOW + 4_101);
    assert!(!world.session.shown.stale, "a newer word mends it");
    assert_eq!(lapsed(&world), 1);
}

#[test]
fn a_gate_that_is_shut_for_an_hour_costs_no_memory_and_is_found_again_within_five_minutes() {
    let mut world = World::new();
    let mut attempts = 0;
    while world.since_start < Duration::from_secs(3600) {
        if let Some(link) = world.opening.take() {
            attempts += 1;
            world.handle(Event::Closed(link, trouble()), usize::MAX);
        }
        if world.opening.is_some() {
            continue;
        }
        let next = world.session.wake_at().unwrap();
        assert!(next.saturating_sub(world.since_start) <= Duration::from_secs(300));
        world.since_start = world.since_start.max(next) + Duration::from_millis(1);
        world.handle(Event::Woke, usize::MAX);
    }
    assert!(attempts > 5);
    assert!(world.session.effects.is_empty() && world.disk.outbox.is_empty());
    world.connect(usize::MAX);
    assert!(world.open.is_some());
}

#[test]
fn an_ending_agent_says_goodbye_and_does_nothing_more() {
    let mut world = World::new();
    world.connect(usize::MAX);
    world.handle(Event::Stopping, usize::MAX);
    assert!(world.is_over && world.open.is_none());
    assert_eq!(world.session.wake_at(), None);
    assert_eq!(world.effects.last(), Some(&"stop"));
}

#[test]
fn an_order_to_look_looks_for_drift_too_and_what_was_put_right_is_told() {
    let mut world = World::new();
    world.connect(usize::MAX);
    let looked = |world: &World| world.effects.iter().filter(|effect| **effect == "drift").count();
    let before = looked(&world);
    world.order(1, usize::MAX);
    assert_eq!(looked(&world), before + 1);

    let drift = |item: &str| Drift { section: SectionKind::Files, item: item.into() };
    let (found, untold) = (vec![drift("/etc/motd"), drift("/etc/issue")], vec![drift("/etc/motd")]);
    world.handle(Event::Drifted { found, left: vec![drift("/etc/issue")], untold }, usize::MAX);
    assert_eq!(kept_events(&world), [(EventKind::DriftRepaired, "put right: /etc/motd")]);
    let at = |name| world.effects.iter().rposition(|effect| *effect == name);
    let in_turn = matches!((at("keep"), at("forget drift")), (Some(kept), Some(forgot)) if kept < forgot);
    assert!(in_turn, "it is on disk before it is forgotten: {:?}", world.effects);
}

#[test]
fn a_device_knows_its_serial_number_as_its_certificate_has_it_unless_it_gave_another() {
    let mut world = World::new();
    for (given, certified, own) in [
        (None, Some("SN-1"), Some("SN-1")),
        (Some("sn-1 "), Some("SN-1"), Some("SN-1")),
        (Some("SN-2"), Some("SN-1"), Some("SN-2")),
        (Some("SN-2"), None, Some("SN-2")),
        (None, None, None),
    ] {
        world.session.past.accepted.as_mut().unwrap().serial = given.map(str::to_owned);
        world.session.leaf.hardware_serial = certified.map(str::to_owned);
        assert_eq!(world.session.own_serial(), own, "{given:?}, {certified:?}");
    }
}

fn kept_events(world: &World) -> Vec<(EventKind, &str)> {
    let events = world.disk.outbox.values().filter_map(|kept| match kept {
        Kept::Event(report) => Some((report.kind, report.detail.as_str())),
        Kept::Receipt(_) => None,
    });
    events.collect()
}

fn drifted(item: &str) -> Drift {
    Drift { section: SectionKind::Files, item: item.into() }
}

/// A look for drift that finds nothing new, in which the power fails after `lives` effects.
fn look(world: &mut World, lives: usize) {
    let untold = world.disk.untold.clone();
    world.handle(Event::Drifted { found: Vec::new(), left: Vec::new(), untold }, lives);
}

#[test]
fn what_was_put_right_is_told_once_however_often_it_is_killed_while_more_is_put_right() {
    for (n, m) in (0..5).flat_map(|n| (0..5).map(move |m| (n, m))) {
        let mut world = World::new();
        world.disk.untold.push(drifted("/srv/a"));
        // The start after each kill looks by itself; in between somebody changes another file.
        for (lives, item) in [(n, "/srv/b"), (m, "/srv/c")] {
            look(&mut world, lives);
            world.disk.untold.push(drifted(item));
        }
        look(&mut world, usize::MAX);
        let told: String = kept_events(&world).iter().map(|(_, detail)| format!("{detail}\n")).collect();
        for item in ["/srv/a", "/srv/b", "/srv/c"] {
            assert_eq!(told.matches(item).count(), 1, "killed after {n} and {m} effects: {told}");
        }
        assert_eq!(world.disk.untold, []);
    }
}

/// What is kept of `taken_back`, in any order; nothing of it waits to be told.
fn assert_told_once(world: &World, taken_back: &[&str], when: &str) {
    let mut told = world.events(EventKind::RolledBack);
    told.sort_unstable();
    assert_eq!(told, taken_back, "{when}");
    assert_eq!(world.disk.taken_back, [], "{when}");
    assert!(world.effects.contains(&"forget taken back"), "{when}");
}

#[test]
fn what_was_taken_back_is_told_once_however_often_it_is_killed() {
    let generation = |counter| Generation { restore_epoch: 0, counter };
    let why = || "/srv/a: no".to_owned();
    let said = ["generation 2 was interrupted and taken back", "generation 3 was rolled back: /srv/a: no"];
    for (n, m) in (0..8).flat_map(|n| (0..8).map(move |m| (n, m))) {
        let mut world = World::new();
        world.disk.taken_back.push(TakenBack::of(generation(2), None));
        world.restart_for(n);
        // The appliers write it down before they say so.
        world.disk.taken_back.push(TakenBack::of(generation(3), Some(why())));
        let change = Change::RolledBack { generation: generation(3), why: why(), is_repeated: false };
        world.handle(Event::Applied(change, Box::default()), m);
        assert_told_once(&world, &said, &format!("killed after {n} and {m} effects"));
    }
}

#[test]
fn what_one_event_does_not_hold_is_told_in_several_and_forgotten_only_when_it_is_told() {
    let mut world = World::new();
    let items: Vec<String> = (0..99).map(|n| format!("/var/lib/muster-agent/managed/part-{n:02}")).collect();
    world.disk.untold = items.iter().map(|item| drifted(item)).collect();
    look(&mut world, usize::MAX);
    let told = kept_events(&world).len();
    assert!((2..=8).contains(&told), "{told} events");
    let left = world.disk.untold.len();
    assert!((1..99).contains(&left), "{left} are left for a later look");
    while !world.disk.untold.is_empty() {
        look(&mut world, usize::MAX);
    }
    let told = kept_events(&world);
    assert!(told.iter().all(|(_, detail)| detail.len() <= 240), "{told:?}");
    let told = told.iter().flat_map(|(_, detail)| detail["put right: ".len()..].split(", "));
    let mut told: Vec<&str> = told.collect();
    told.sort_unstable();
    assert_eq!(told, items);
}

#[test]
fn a_thing_with_a_name_longer_than_an_event_is_told_by_its_beginning_and_does_not_stand_in_the_way() {
    let mut world = World::new();
    let long = format!("/srv/{}", "x".repeat(400));
    world.disk.untold = vec![drifted(&long), drifted("/srv/after")];
    for lives in [1, usize::MAX] {
        look(&mut world, lives);
    }
    let mut told = kept_events(&world);
    told.sort_unstable_by_key(|(_, detail)| std::cmp::Reverse(detail.len()));
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(long.starts_with(&told[0].1["put right: ".len()..]) && told[0].1.len() == 240);
    assert_eq!((told[1].1, &world.disk.untold[..]), ("put right: /srv/after", &[][..]));
}

#[test]
fn while_the_outbox_is_full_what_was_put_right_waits_and_pushes_nothing_out() {
    let mut world = World::new();
    for n in 0..40 {
        world.disk.untold.push(drifted(&format!("/srv/{n}/{}", "x".repeat(200))));
    }
    for _ in 0..9 {
        look(&mut world, usize::MAX);
    }
    assert_eq!((kept_events(&world).len(), world.disk.untold.len()), (32, 8));
}

#[test]
fn a_server_that_names_another_gate_each_time_is_followed_and_makes_the_journal_grow_but_so_often() {
    let mut world = World::new();
    let found = |n: usize| Discovery {
        trust_domain: DOMAIN.parse().unwrap(),
        endpoints: Endpoints {
            device: "https://fleet.example:8443".into(),
            mqtt: format!("mqtts://fleet.example:{n}"),
            status: "http://fleet.example:8080".into(),
        },
        trust_bundle: TrustBundle { version: 1, roots: Vec::new(), issuers: Vec::new() },
        authority: Vec::new(),
        device: None,
    };
    let journaled = world.disk.journal.len();
    for n in 1..=1_000 {
        world.since_start += Duration::from_secs(6);
        world.session.hear_discovery(found(n), world.moment());
        world.handle(Event::Woke, usize::MAX);
        assert_eq!(
            world.session.gate(),
            Some(&*format!("mqtts://fleet.example:{n}")),
            "the newest is followed"
        );
    }
    assert_eq!(world.disk.journal.len(), journaled + 10, "in 100 minutes");
    world.session.hear_discovery(found(1_001), world.moment());
    world.handle(Event::Stopping, usize::MAX);
    world.restart();
    assert_eq!(world.session.gate(), Some("mqtts://fleet.example:1001"), "an ending agent leaves it behind");
}

#[test]
fn a_refusal_outlives_what_discovery_said_before_it_and_is_written_after_it() {
    let mut world = World::new();
    let refused = Refused { code: "certificate_refused".into(), at: Timestamp(NOW + 1) };
    let proven = world.session.past.proven.clone().unwrap();
    // Discovery had something new, which waits to be written, when a renewal was refused.
    world.session.proven_kept_at = Some(world.since_start);
    world.session.past.add(&Record::Proven(Proven { state: "quarantined".into(), ..proven }));
    world.session.is_proven_kept = false;
    world.session.record(Record::Refused(refused.clone()));
    world.since_start += PROVEN_EVERY;
    world.handle(Event::Woke, usize::MAX);
    let past = Past::of(&world.disk.journal);
    assert_eq!(past.proven.map(|proven| proven.state).as_deref(), Some("quarantined"));
    assert_eq!(past.refused, Some(refused));
}
