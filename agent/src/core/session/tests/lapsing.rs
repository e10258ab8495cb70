//! Leases in the model: what a lapse does and takes back, and a year of boots, cut power and clocks that lie.

use muster_wire::desired::{Lapse, Lease};

use super::*;

const DAY: u64 = 86_400;

fn granted(issued_at: i64, lasts_s: u64, on_lapse: Lapse) -> DesiredHead {
    DesiredHead { lease: Lease { lasts_s, on_lapse }, ..head(issued_at, 3600) }
}

impl World {
    /// A device in which the desired state of `head` is in place.
    pub(super) fn leased(head: &DesiredHead) -> Self {
        let mark = super::super::super::baseline::Mark::of(head, 1);
        let highest = Some((mark, head.baseline));
        let mut world = Self::new();
        world.disk.in_force = InForce { head: Some(head.clone()), highest, ..InForce::default() };
        world.restart();
        world
    }

    pub(super) fn hears(&mut self, head: &DesiredHead) {
        self.connect(usize::MAX);
        self.connect(usize::MAX);
        let payload = sign1(head, &secret(1).0).unwrap();
        let incoming = Incoming { channel: Channel::Desired, payload, packet: 0 };
        self.handle(Event::Received(self.open.unwrap(), incoming), usize::MAX);
    }

    /// Time passes with nobody to talk to; alarms go off when they are due.
    pub(super) fn is_alone_for(&mut self, seconds: u64) {
        self.cut(usize::MAX);
        let end = self.since_start + Duration::from_secs(seconds);
        while self.since_start < end {
            if let Some(link) = self.opening.take() {
                self.handle(Event::Closed(link, trouble()), usize::MAX);
            }
            let next = self.session.wake_at().unwrap_or(end).min(end);
            self.since_start = self.since_start.max(next);
            self.handle(Event::Woke, usize::MAX);
        }
    }

    /// A session in which the server hears receipts and says no words, as long as it lets the device go.
    pub(super) fn is_let_go(&mut self) {
        self.cut(usize::MAX);
        self.granted = vec![Channel::Order, Channel::Ack];
        self.connect(usize::MAX);
        self.connect(usize::MAX);
        assert!(self.open.is_some() && self.session.is_farewell());
    }

    /// Time passes in the session that is open; answers how often the device woke for its lease.
    pub(super) fn listens_for(&mut self, seconds: u64) -> usize {
        let end = self.since_start + Duration::from_secs(seconds);
        let mut looks = 0;
        while self.since_start < end {
            let next = self.session.wake_at().unwrap_or(end).min(end);
            looks += usize::from(self.session.alarms.lease.is_some_and(|at| at <= next));
            self.since_start = self.since_start.max(next);
            self.handle(Event::Woke, usize::MAX);
        }
        looks
    }

    fn did(&self, name: &str) -> usize {
        self.effects.iter().filter(|effect| **effect == name).count()
    }

    pub(super) fn has_lapsed(&self) -> bool {
        self.session.past.lapsed.is_some()
    }

    /// Another boot, `age_s` old when the agent starts.
    pub(super) fn reboots(&mut self, age_s: u64) {
        self.restart_in(&format!("{}+", self.boot.id.len()), age_s);
    }

    fn restart_in(&mut self, id: &str, age_s: u64) {
        self.boot = Boot { id: format!("{}{id}", self.boot.id), age: Duration::from_secs(age_s) };
        self.since_start = Duration::ZERO;
        self.restart();
    }
}

#[test]
fn a_lapse_that_locks_runs_the_hook_once_and_again_after_each_start_and_a_newer_word_unlocks() {
    let mut world = World::leased(&granted(NOW, DAY, Lapse::Lock));
    world.is_alone_for(DAY + 3 * 3600);
    assert!(world.has_lapsed() && world.session.shown.stale);
    assert_eq!((world.did("lock"), world.did("unlock")), (1, 0));
    assert_eq!(world.events(EventKind::LeaseLapsed).len(), 2, "that it lapsed, and that it locked");
    world.reboots(20);
    world.is_alone_for(3 * DAY);
    assert_eq!((world.did("lock"), world.did("unlock")), (2, 0));
    world.hears(&granted(NOW, DAY, Lapse::Lock));
    assert!(world.has_lapsed(), "what was heard before opens nothing");
    world.hears(&granted(NOW + 1, DAY, Lapse::Lock));
    assert_eq!((world.did("lock"), world.did("unlock"), world.has_lapsed()), (2, 1, false));
    assert_eq!(world.events(EventKind::LeaseRenewed).len(), 1);
    world.is_alone_for(DAY - 1);
    assert!(!world.has_lapsed());
    world.is_alone_for(1);
    assert!(world.has_lapsed(), "the next one counts from that word");
}

#[test]
fn in_a_farewell_session_the_lease_stands_still_and_it_goes_on_from_there_afterwards() {
    let mut world = World::leased(&granted(NOW, DAY, Lapse::Lock));
    world.is_alone_for(DAY / 2);
    world.is_let_go();
    let used = world.session.meter.used(world.since_start);
    let looks = world.listens_for(30 * DAY);
    assert!(!world.has_lapsed() && world.did("lock") == 0, "the server is there");
    assert_eq!(world.session.meter.used(world.since_start), used, "neither more nor less");
    assert!(looks <= 30 * 24 + 1, "no look more than each hour: {looks}");
    let left = DAY - used.as_secs();
    world.is_alone_for(left - 60);
    assert!(!world.has_lapsed());
    world.is_alone_for(61);
    assert!(world.has_lapsed(), "silence counts as before");
}

#[test]
fn killed_in_a_farewell_session_a_device_counts_no_more_than_since_the_last_mark() {
    let mut world = World::leased(&granted(NOW, DAY, Lapse::Lock));
    world.is_alone_for(DAY / 2);
    world.is_let_go();
    let used = world.session.meter.used(world.since_start);
    world.listens_for(10 * DAY + 1_800);
    world.restart();
    let after = world.session.meter.used(world.since_start);
    assert!(after >= used && after <= used + Duration::from_secs(3_600), "{used:?}, then {after:?}");
    world.is_let_go();
    world.listens_for(10 * DAY);
    world.reboots(20);
    assert!(!world.has_lapsed());
    world.is_alone_for(DAY / 2);
    assert!(world.has_lapsed());
}

#[test]
fn a_device_that_sleeps_in_a_farewell_session_was_in_none() {
    let mut world = World::leased(&granted(NOW, DAY, Lapse::Lock));
    world.is_let_go();
    world.since_start += Duration::from_secs(2 * DAY);
    world.handle(Event::Woke, usize::MAX);
    assert!(world.has_lapsed());
}

#[test]
fn what_an_order_locked_a_newer_word_does_not_unlock() {
    let mut world = World::leased(&granted(NOW, DAY, Lapse::Lock));
    world.connect(usize::MAX);
    world.connect(usize::MAX);
    world.disk.journal.push(Record::Taken(super::super::super::record::Taken {
        kind: muster_wire::warrant::Kind::Lock,
        ..taken_by(&order(1, Action::Lock))
    }));
    world.disk.journal.push(Record::Answered(super::super::super::record::Answered {
        order: order(1, Action::Lock).id,
        at: Timestamp(NOW),
    }));
    world.restart();
    world.is_alone_for(DAY);
    world.hears(&granted(NOW + 1, DAY, Lapse::Lock));
    assert_eq!((world.did("unlock"), world.has_lapsed()), (0, false));
    assert!(world.events(EventKind::LeaseRenewed)[0].contains("stays locked"));
}

fn taken_by(order: &Order) -> super::super::super::record::Taken {
    super::super::super::record::Taken {
        order: order.id,
        kind: order.action.kind(),
        authority_version: 1,
        restore_epoch: 0,
        counter: order.sequence.counter,
        log_size: 0,
        log_root: muster_wire::merkle::root_of(&[]),
        certificate: leaf().sha256,
        expires: order.expires,
        at: Timestamp(NOW),
        under: None,
        wipe: None,
        stops: None,
    }
}

#[test]
fn an_unlock_that_failed_or_was_cut_off_is_done_again() {
    let mut world = World::leased(&granted(NOW, DAY, Lapse::Lock));
    world.is_alone_for(DAY);
    world.hook_end = HookEnd::Failed("the unlock hook failed".into());
    world.hears(&granted(NOW + 1, DAY, Lapse::Lock));
    assert!(world.has_lapsed(), "it is locked still");
    world.hook_end = HookEnd::Ran;
    world.restart();
    assert_eq!((world.did("unlock"), world.has_lapsed()), (2, false));

    for lives in 0..6 {
        let mut world = World::leased(&granted(NOW, DAY, Lapse::Lock));
        world.is_alone_for(DAY);
        world.connect(usize::MAX);
        world.connect(usize::MAX);
        let payload = sign1(&granted(NOW + 1, DAY, Lapse::Lock), &secret(1).0).unwrap();
        let incoming = Incoming { channel: Channel::Desired, payload, packet: 0 };
        world.handle(Event::Received(world.open.unwrap(), incoming.clone()), lives);
        world.hears(&granted(NOW + 1, DAY, Lapse::Lock));
        assert!(world.did("unlock") >= 1 && !world.has_lapsed(), "killed after {lives} effects");
    }
}

#[test]
fn secrets_that_were_dropped_come_again_with_a_newer_word_and_not_with_an_old_one() {
    let mut world = World::leased(&granted(NOW, DAY, Lapse::DropSecrets));
    world.is_alone_for(DAY);
    assert_eq!((world.did("drop secrets"), world.did("lock")), (1, 0));
    let fetched = world.did("fetch");
    world.hears(&granted(NOW, DAY, Lapse::DropSecrets));
    assert_eq!(world.did("fetch"), fetched, "an old word brings no secret back");
    world.hears(&granted(NOW + 1, DAY, Lapse::DropSecrets));
    assert_eq!((world.did("fetch"), world.has_lapsed()), (fetched + 1, false));
}

#[test]
fn a_lease_that_only_reports_or_would_destroy_does_nothing_but_tell() {
    for on_lapse in [Lapse::Report, Lapse::Clear] {
        let mut world = World::leased(&granted(NOW, 1, on_lapse));
        world.is_alone_for(30 * DAY);
        assert!(world.has_lapsed());
        assert_eq!((world.did("lock"), world.did("drop secrets"), world.phases.len()), (0, 0, 0));
        let refused = world.events(EventKind::Refused).len();
        assert_eq!(refused, usize::from(on_lapse == Lapse::Clear), "{:?}", world.disk.outbox);
        world.hears(&granted(NOW + 1, DAY, Lapse::Report));
        assert!(!world.has_lapsed());
    }
}

#[test]
fn while_a_wipe_is_in_hand_no_lease_lapses() {
    let mut world = World::leased(&granted(NOW, DAY, Lapse::Lock));
    world.connect(usize::MAX);
    world.connect(usize::MAX);
    world.fate = ReceiptOutcome::Done;
    let taken = super::super::super::record::Taken {
        kind: muster_wire::warrant::Kind::Wipe,
        expires: Timestamp(NOW + 400 * DAY as i64),
        wipe: Some(super::super::super::record::Wipe {
            level: muster_wire::warrant::Level::Clear,
            data_roots: Vec::new(),
            on_lapse: None,
        }),
        ..taken_by(&order(1, Action::Lock))
    };
    world.disk.journal.push(Record::Taken(taken));
    world.restart();
    world.is_alone_for(3 * DAY);
    assert_eq!((world.did("lock"), world.has_lapsed()), (0, false));
}

#[test]
fn a_device_without_a_lease_writes_and_wakes_for_none() {
    let mut world = World::leased(&head(NOW, 3600));
    world.hears(&head(NOW + 1, 3600));
    world.is_alone_for(30 * DAY);
    assert_eq!((world.did("keep lease"), world.disk.lease.clone()), (0, None));
    assert_eq!(world.session.alarms.lease, None);
}

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// What the year did to one device, and what it has to have come to.
#[derive(Default)]
struct Tally {
    /// Seconds switched on since the newest word.
    on_s: u64,
    /// Of these, what power cuts may have lost.
    lost_s: u64,
    lapses: usize,
    boots: usize,
}

/// A year in the life of a laptop with a lease of `lasts_s`: it is switched on for some hours, now and then hears the
/// server, in quarantine too, is shut down or has its power cut (`cuts`), and its calendar is wherever somebody set it.
fn year(seed: u64, lasts_s: u64, cuts: bool) -> Tally {
    let mut dice = Dice(seed);
    let mut world = World::leased(&granted(NOW, lasts_s, Lapse::Lock));
    let mut tally = Tally::default();
    let mut signed_at = NOW;
    let mut calendar_days = 0;
    while calendar_days < 365 {
        calendar_days += dice.below(3);
        // At sea, a battery that is dead, or somebody who hopes that it helps.
        world.clock_is_off = match dice.below(6) {
            0 => 365 * DAY as i64,
            1 => -365 * DAY as i64,
            2 => -NOW,
            _ => calendar_days as i64 * DAY as i64,
        };
        let block_s = 600 + dice.below(14 * 3600);
        if dice.below(12) == 0 {
            signed_at += 1;
            world.granted = if dice.below(3) == 0 {
                vec![Channel::Order, Channel::Ack, Channel::Desired, Channel::Receipt, Channel::ReportState]
            } else {
                Channel::ALL.to_vec()
            };
            world.hears(&granted(signed_at, lasts_s, Lapse::Lock));
            assert!(!world.has_lapsed(), "a newer word ends every lapse");
            (tally.on_s, tally.lost_s) = (0, 0);
        }
        run(&mut world, block_s, lasts_s, &mut tally, cuts);
        let age_s = 20 + dice.below(60);
        let ran_s = world.since_start.as_secs();
        if cuts && dice.below(3) > 0 {
            tally.lost_s += (ran_s / 2 + 61).min(3_601);
        } else {
            world.handle(Event::Stopping, usize::MAX);
            world.is_over = false;
        }
        world.reboots(age_s);
        tally.on_s += age_s;
        tally.boots += 1;
    }
    tally
}

/// The device runs for `block_s`, alone; at every moment its lease has lapsed or not as the sum of its time says.
fn run(world: &mut World, block_s: u64, lasts_s: u64, tally: &mut Tally, cuts: bool) {
    world.cut(usize::MAX);
    let began = world.since_start;
    let end = began + Duration::from_secs(block_s);
    let was_on = tally.on_s;
    let mut had_lapsed = world.has_lapsed();
    while world.since_start < end {
        if let Some(link) = world.opening.take() {
            world.handle(Event::Closed(link, trouble()), usize::MAX);
        }
        let next = world.session.wake_at().unwrap_or(end).min(end);
        world.since_start = world.since_start.max(next);
        world.handle(Event::Woke, usize::MAX);
        let on = Duration::from_secs(was_on) + (world.since_start - began);
        let lasts = Duration::from_secs(lasts_s);
        let has_lapsed = world.has_lapsed();
        assert!(!has_lapsed || on >= lasts, "lapsed after {on:?} of {lasts:?}");
        let surely = on.saturating_sub(Duration::from_secs(tally.lost_s));
        assert!(has_lapsed || surely < lasts, "not lapsed after {on:?} of {lasts:?}");
        if has_lapsed && !had_lapsed {
            tally.lapses += 1;
            let late = on - lasts;
            assert!(cuts || late < Duration::from_millis(2), "{late:?} late");
            had_lapsed = true;
        }
    }
    tally.on_s += block_s;
}

#[test]
fn in_a_year_of_boots_and_lying_clocks_a_lease_lapses_to_the_millisecond_when_its_running_time_is_used_up() {
    let tally = year(1, 5 * DAY, false);
    assert!(tally.boots > 200 && tally.lapses > 3, "{} boots, {} lapses", tally.boots, tally.lapses);
}

#[test]
fn in_a_year_of_cut_power_a_lease_never_lapses_early_and_late_by_no_more_than_the_cuts_can_hide() {
    let tally = year(2, 5 * DAY, true);
    assert!(tally.boots > 200 && tally.lapses > 2, "{} boots, {} lapses", tally.boots, tally.lapses);
}
