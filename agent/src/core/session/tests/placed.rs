//! A wipe that waits for a lapse: when it begins, when never, and that nobody hastens it.

use muster_wire::desired::{Lapse, Lease};
use muster_wire::warrant::Level;

use super::wiping::{PHASES, done, made_again, stop, warranted, warranted_by};
use super::*;

const DAY: u64 = 86_400;
/// What waits after the time is used up: a hundredth of a day, and a minute for the `ack` of `armed`.
const MORE: u64 = 864 + 62;

fn on_lapse(after_s: u64) -> Action {
    Action::WipeOnLapse { after_s, level: Level::Clear, data_roots: vec!["/srv/data".into()] }
}

fn clears(issued_at: i64, lasts_s: u64) -> DesiredHead {
    DesiredHead { lease: Lease { lasts_s, on_lapse: Lapse::Clear }, ..head(issued_at, 3600) }
}

/// A device with a lease of a day on which `order` was placed, and whose receipts the server has.
fn placed(order: &Order) -> World {
    let mut world = World::leased(&clears(NOW, DAY));
    world.hears(&clears(NOW + 1, DAY));
    world.send(order, 0);
    world.serve();
    world
}

#[test]
fn what_was_placed_is_told_and_nothing_is_destroyed_while_the_server_speaks() {
    let mut world = placed(&warranted(1, on_lapse(DAY)));
    assert_eq!(world.reached(), done(&PHASES[..1]));
    let placed = world.server.receipts.values().map(BTreeSet::len).sum::<usize>();
    assert_eq!(placed, 1, "its receipt says so");
    for day in 1..90 {
        world.is_alone_for(DAY - 1_000);
        world.hears(&clears(NOW + 1 + day, DAY));
        if day % 7 == 0 {
            world.reboots(30);
        }
    }
    assert_eq!(world.phases, [ReceiptPhase::Accepted]);
}

#[test]
fn a_device_that_is_silent_for_long_enough_clears_itself_with_a_receipt_for_each_phase() {
    let mut world = placed(&warranted(1, on_lapse(DAY)));
    world.is_alone_for(DAY / 2);
    world.handle(Event::Stopping, usize::MAX);
    world.is_over = false;
    world.reboots(60);
    world.is_alone_for(DAY / 2 - 61);
    assert_eq!(world.phases, [ReceiptPhase::Accepted]);
    world.is_alone_for(MORE);
    assert_eq!(world.reached()[1..], done(&PHASES));
    assert_eq!(world.phases[..2], [ReceiptPhase::Accepted; 2], "planned for what is there now");
    let mut owed = world.owed();
    owed.sort_by_key(|receipt| receipt.phase);
    assert_eq!(owed.iter().map(|receipt| receipt.phase).collect::<Vec<_>>(), PHASES);
    assert_eq!(owed[0].previous, None, "a chain of its own, under the certificate in use");
    assert!(!world.is_over, "the identity stays until somebody has heard");
    world.settle();
    assert!(world.is_over);
}

#[test]
fn a_device_that_is_let_go_does_not_clear_itself_for_want_of_a_word_between_its_sessions() {
    let mut world = placed(&warranted(1, on_lapse(2 * DAY)));
    for _ in 0..6 {
        world.is_alone_for(DAY);
        world.is_let_go();
        world.listens_for(DAY / 2);
    }
    assert!(world.has_lapsed(), "between them it was without a word for longer than a day");
    assert_eq!(world.phases, [ReceiptPhase::Accepted], "nobody has signed for this");
    world.is_alone_for(2 * DAY - 3_600);
    assert_eq!(world.phases, [ReceiptPhase::Accepted]);
    world.is_alone_for(3_600 + 2 * MORE);
    assert_eq!(world.reached()[1..], done(&PHASES), "silence is silence");
}

#[test]
fn a_server_that_keeps_back_its_words_is_not_silent() {
    let mut world = placed(&warranted(1, on_lapse(DAY)));
    for boot in 0..9 {
        world.is_alone_for(DAY / 2);
        world.connect(usize::MAX);
        world.connect(usize::MAX);
        world.listens_for(DAY / 4 * (boot % 3));
        if boot % 4 == 0 {
            world.reboots(60);
        }
    }
    assert!(world.has_lapsed(), "there was no newer word, as under a freeze");
    assert_eq!(world.phases, [ReceiptPhase::Accepted], "but there was the server");
}

#[test]
fn the_moment_before_it_begins_ends_with_any_session_and_the_silence_counts_anew() {
    for farewell in [true, false] {
        let mut world = placed(&warranted(1, on_lapse(DAY)));
        world.is_alone_for(DAY + 100);
        assert!(world.has_lapsed() && world.session.lapsing.clears_at.is_some());
        if farewell {
            world.is_let_go();
        } else {
            world.connect(usize::MAX);
            world.connect(usize::MAX);
        }
        world.listens_for(DAY);
        assert_eq!(world.phases, [ReceiptPhase::Accepted], "the server is there");
        world.is_alone_for(DAY - 100);
        assert_eq!(world.phases, [ReceiptPhase::Accepted]);
        world.is_alone_for(MORE + 3_700);
        assert_eq!(world.reached()[1..], done(&PHASES));
    }
}

#[test]
fn killed_after_any_effect_it_comes_to_the_same_end() {
    for lives in 0..24 {
        let mut world = placed(&warranted(1, on_lapse(DAY)));
        world.is_alone_for(DAY - 1);
        for _ in 0..3 {
            world.since_start += Duration::from_secs(MORE);
            world.handle(Event::Woke, lives);
            world.handle(Event::Woke, lives);
        }
        world.is_alone_for(2 * MORE);
        world.settle();
        assert!(world.is_over, "{lives}: {:?}", world.reached());
        let mut reached = world.reached();
        reached.dedup();
        assert_eq!(reached, done(&PHASES), "{lives}");
    }
}

#[test]
fn placing_that_was_cut_off_is_taken_up_again() {
    for lives in 0..8 {
        let mut world = World::leased(&clears(NOW, DAY));
        world.hears(&clears(NOW + 1, DAY));
        let payload = sign1(&warranted(1, on_lapse(DAY)), &secret(1).0).unwrap();
        let incoming = Incoming { channel: Channel::Order, payload, packet: 0 };
        world.handle(Event::Received(world.open.unwrap(), incoming.clone()), lives);
        world.connect(usize::MAX);
        world.connect(usize::MAX);
        world.handle(Event::Received(world.open.unwrap(), incoming), usize::MAX);
        world.serve();
        let mut reached = world.reached();
        reached.dedup();
        assert_eq!(reached, done(&PHASES[..1]), "{lives}");
        world.is_alone_for(DAY + MORE);
        assert_eq!(world.reached().last(), done(&PHASES).last(), "{lives}");
    }
}

#[test]
fn a_server_that_shortens_the_lease_hastens_nothing() {
    let mut world = placed(&warranted(1, on_lapse(5 * DAY)));
    world.hears(&clears(NOW + 2, 1));
    world.is_alone_for(4 * DAY);
    assert!(world.has_lapsed());
    assert_eq!(world.phases, [ReceiptPhase::Accepted], "approvers signed five days");
    world.is_alone_for(2 * DAY);
    assert_eq!(world.reached()[1..], done(&PHASES));
}

#[test]
fn a_device_that_wakes_after_a_long_sleep_has_a_moment_to_hear_a_newer_word() {
    let mut world = placed(&warranted(1, on_lapse(DAY)));
    world.cut(usize::MAX);
    world.since_start += Duration::from_secs(20 * DAY);
    world.handle(Event::Woke, usize::MAX);
    assert!(world.has_lapsed());
    world.is_alone_for(400);
    world.hears(&clears(NOW + 2, DAY));
    world.is_alone_for(3_600);
    assert_eq!((world.phases.len(), world.has_lapsed()), (1, false));
}

#[test]
fn a_device_that_slept_in_a_session_was_in_none_until_something_comes_over_it() {
    for is_heard in [false, true] {
        let mut world = placed(&warranted(1, on_lapse(DAY)));
        world.since_start += Duration::from_secs(3 * DAY);
        world.handle(Event::Woke, usize::MAX);
        assert!(world.open.is_some() && world.has_lapsed());
        world.listens_for(60);
        if is_heard {
            world.handle(Event::Granted(world.open.unwrap(), world.granted.clone()), usize::MAX);
        }
        world.is_alone_for(MORE);
        let expected = if is_heard { Vec::new() } else { done(&PHASES) };
        assert_eq!(world.reached()[1..], expected, "heard: {is_heard}");
    }
}

#[test]
fn where_the_lease_says_otherwise_or_the_warrant_is_stopped_or_over_nothing_is_destroyed() {
    type Case<'a> = (&'a str, &'a dyn Fn(&mut World));
    let report = |world: &mut World| {
        let quiet =
            DesiredHead { lease: Lease { lasts_s: DAY, on_lapse: Lapse::Lock }, ..clears(NOW + 5, DAY) };
        world.hears(&quiet);
    };
    let stopped = |world: &mut World| world.send(&warranted(2, stop(1)), 0);
    let over = |world: &mut World| world.clock_is_off = 2_000_000;
    let cases: [Case<'_>; 3] = [("lock", &report), ("stopped", &stopped), ("over", &over)];
    for (what, happens) in cases {
        let mut world = placed(&warranted(1, on_lapse(DAY)));
        happens(&mut world);
        world.is_alone_for(5 * DAY);
        world.reboots(30);
        world.is_alone_for(5 * DAY);
        assert_eq!(world.phases, [ReceiptPhase::Accepted], "{what}");
        assert!(world.has_lapsed(), "{what}");
    }
}

#[test]
fn the_next_takes_the_place_of_the_one_before() {
    let mut world = placed(&warranted(1, on_lapse(DAY)));
    world.hears(&clears(NOW + 2, DAY));
    world.send(&warranted(2, on_lapse(8 * DAY)), 0);
    world.serve();
    assert_eq!(world.session.past.open.len(), 1);
    world.is_alone_for(7 * DAY);
    assert_eq!(world.phases, [ReceiptPhase::Accepted; 2], "the first is over");
    world.is_alone_for(2 * DAY);
    assert_eq!(world.reached().last(), done(&PHASES).last());
}

#[test]
fn the_one_before_never_takes_the_place_of_the_next() {
    let mut world = placed(&warranted(1, on_lapse(DAY)));
    world.hears(&clears(NOW + 2, DAY));
    world.send(&warranted(2, on_lapse(8 * DAY)), 0);
    world.serve();
    world.send(&made_again(7, warranted(1, on_lapse(DAY))), 0);
    world.serve();
    world.is_alone_for(7 * DAY);
    assert_eq!(world.phases, [ReceiptPhase::Accepted; 2], "eight days are signed");
    assert_eq!(world.taken(), 2);
}

#[test]
fn without_enough_approvers_nothing_is_placed() {
    let wider = |order: Order| Order { action: on_lapse(1), ..order };
    let bad = [
        ("no warrant", order(1, on_lapse(DAY))),
        ("the command key", warranted_by(1, 1, on_lapse(DAY))),
        ("nobody known", warranted_by(9, 1, on_lapse(DAY))),
        ("sooner than was signed", wider(warranted(1, on_lapse(DAY)))),
        ("a warrant to wipe now", Order { action: on_lapse(DAY), ..warranted(1, super::wiping::clear()) }),
        (
            "a wipe now under a warrant to wait",
            Order { action: super::wiping::clear(), ..warranted(1, on_lapse(DAY)) },
        ),
    ];
    for (what, order) in bad {
        let mut world = placed(&order);
        assert_eq!((world.taken(), world.phases.len()), (0, 0), "{what}");
        world.is_alone_for(30 * DAY);
        assert!(world.has_lapsed() && world.phases.is_empty(), "{what}");
        assert!(world.events(EventKind::Refused).iter().any(|why| why.contains("would clear")), "{what}");
    }
}

#[test]
fn a_device_whose_policy_refuses_says_so_when_it_is_placed_and_again_when_it_would_begin() {
    let mut world = World::leased(&clears(NOW, DAY));
    world.fate = ReceiptOutcome::Refused;
    world.hears(&clears(NOW + 1, DAY));
    world.send(&warranted(1, on_lapse(DAY)), 0);
    assert_eq!(world.reached(), [(ReceiptPhase::Accepted, ReceiptOutcome::Refused)]);
    assert!(world.session.past.open.is_empty());

    let mut world = placed(&warranted(2, on_lapse(DAY)));
    world.fate = ReceiptOutcome::Refused;
    world.is_alone_for(DAY + MORE);
    let accepted = ReceiptPhase::Accepted;
    let end = [(accepted, ReceiptOutcome::Done), (accepted, ReceiptOutcome::Refused)];
    assert_eq!(world.reached(), end);
    assert!(world.session.past.open.is_empty() && !world.is_over);
}
