//! The machine against a model server, with a kill wherever a test wants one.

use std::collections::{BTreeMap, BTreeSet};

use ed25519_dalek::SigningKey;
use muster_wire::authority::{Approver, Authority, Required};
use muster_wire::cbor;
use muster_wire::checkpoint::Checkpoint;
use muster_wire::desired::{Intervals, SectionKind};
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

const NOW: i64 = 1_800_000_000;
const DOMAIN: &str = "fleet.example";

fn secret(seed: u8) -> (SigningKey, Ed25519Key) {
    let key = SigningKey::from_bytes(&[seed; 32]);
    match key.public_key() {
        PublicKey::Ed25519(public) => (key, public),
        PublicKey::P256(_) => unreachable!("an Ed25519 signer"),
    }
}

fn lineage() -> Lineage {
    let approver = Approver { name: "a".parse().unwrap(), key: secret(3).1, valid_from: Timestamp(0) };
    let document = Authority {
        version: 1,
        trust_domain: DOMAIN.parse().unwrap(),
        command_keys: vec![secret(1).1],
        audit_keys: vec![secret(2).1],
        approvers: vec![approver],
        recovery: Vec::new(),
        required: Required::solo(),
        previous: None,
    };
    let mut signed = MultiSigned::unsigned(&document);
    signed.add_signature(&secret(1).0).unwrap();
    Lineage::found(&signed, signed.payload_digest()).unwrap()
}

fn device() -> DeviceId {
    DeviceId::from_parts(1, [1; 10])
}

fn leaf() -> Leaf {
    Leaf {
        der: Vec::new(),
        sha256: Sha256Digest([5; 32]),
        spki: Sha256Digest([6; 32]),
        serial: "01".into(),
        not_before: Timestamp(NOW - 86_400),
        not_after: Timestamp(NOW + 30 * 86_400),
        trust_domain: DOMAIN.into(),
        device: device(),
        hardware_serial: None,
    }
}

fn founding() -> [Record; 2] {
    let accepted = Accepted {
        enrolment: Sha256Digest([0; 32]),
        host: "fleet.example".into(),
        port: 8443,
        root_spki: Sha256Digest([1; 32]),
        authority: lineage().founding_digest(),
        authority_version: 1,
        trust_domain: DOMAIN.into(),
        serial: None,
        root: "/tmp/root".into(),
        declared: Vec::new(),
        at: Timestamp(NOW),
    };
    let proven = Proven {
        certificate: leaf().sha256,
        device: device(),
        state: "commissioning".into(),
        mqtt: Some("mqtts://fleet.example:8883".into()),
        at: Timestamp(NOW),
    };
    [Record::Accepted(accepted), Record::Proven(proven)]
}

fn order(n: u8, action: Action) -> Order {
    let head = TreeHead { size: 0, root: muster_wire::merkle::root_of(&[]) };
    let checkpoint = Checkpoint { origin: format!("{DOMAIN}/audit"), head };
    Order {
        device: device(),
        id: OrderId::from_parts(1, [n; 10]),
        sequence: Sequence { authority_version: 1, restore_epoch: 0, counter: u64::from(n) },
        action,
        warrant: None,
        leaf: None,
        inclusion: None,
        issued_at: Timestamp(NOW),
        expires: Timestamp(NOW + 86_400),
        checkpoint: checkpoint.sign(&secret(2).0).unwrap(),
        consistency: ConsistencyProof { from_size: 0, path: Vec::new() },
    }
}

fn trouble() -> Trouble {
    Trouble { kind: TroubleKind::Closed, server: "x".into(), detail: "cut".into() }
}

/// A device and its server; what is in `disk` survives a kill, what is in `server` anything.
struct World {
    session: Session,
    disk: Disk,
    server: Server,
    opening: Option<LinkId>,
    open: Option<LinkId>,
    in_flight: Vec<Message>,
    since_start: Duration,
    /// By how many seconds somebody set the calendar.
    clock_is_off: i64,
    effects: Vec<&'static str>,
    is_over: bool,
    /// On which channels the server speaks.
    granted: Vec<Channel>,
    /// The boot, and how old it was when the agent started.
    boot: Boot,
    /// How hooks end that the lease asks for.
    hook_end: HookEnd,
    /// How each phase of a wipe ends; the last for ever.
    fate: ReceiptOutcome,
    /// The phases that the engine was asked for.
    phases: Vec<ReceiptPhase>,
}

#[derive(Default)]
struct Disk {
    journal: Vec<Record>,
    outbox: BTreeMap<EntryId, Kept>,
    lease: Option<LeaseSheet>,
    in_force: InForce,
}

#[derive(Default)]
struct Server {
    /// Orders made, and whether their PUBACK came.
    orders: BTreeMap<u8, bool>,
    receipts: BTreeMap<OrderId, BTreeSet<Sha256Digest>>,
    events: BTreeSet<ReportId>,
    told: BTreeSet<ReportId>,
    acks: Vec<Ack>,
    /// What it answers when it is asked for its authorities; once.
    authorities: Option<Answer>,
}

impl World {
    fn new() -> Self {
        let disk = Disk { journal: founding().to_vec(), ..Disk::default() };
        let boot = Boot { id: "first".into(), age: Duration::from_secs(30) };
        let mut world = Self {
            session: begin(&disk, &boot),
            boot,
            disk,
            server: Server::default(),
            opening: None,
            open: None,
            in_flight: Vec::new(),
            since_start: Duration::ZERO,
            clock_is_off: 0,
            effects: Vec::new(),
            is_over: false,
            granted: Channel::ALL.to_vec(),
            hook_end: HookEnd::Ran,
            fate: ReceiptOutcome::Done,
            phases: Vec::new(),
        };
        world.handle(Event::Woke, usize::MAX);
        world
    }

    fn restart(&mut self) {
        self.boot.age += self.since_start;
        self.session = begin(&self.disk, &self.boot);
        (self.opening, self.open, self.since_start) = (None, None, Duration::ZERO);
        self.in_flight.clear();
        self.handle(Event::Woke, usize::MAX);
    }

    fn moment(&self) -> Moment {
        let mut random = [0; 16];
        let spread = (self.effects.len() as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        random[..8].copy_from_slice(&spread.to_be_bytes());
        let passed = i64::try_from(self.since_start.as_secs()).unwrap();
        let calendar = Timestamp(NOW + passed + self.clock_is_off);
        Moment {
            wall: calendar.max(self.session.certified_since()),
            calendar,
            since_start: self.since_start,
            random,
        }
    }

    /// The power fails after `lives` effects; the device starts again.
    fn handle(&mut self, event: Event, mut lives: usize) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            self.session.handle(event, self.moment());
            while let Some(effect) = self.session.next_effect() {
                if lives == 0 {
                    return self.restart();
                }
                lives -= 1;
                if let Some(event) = self.carry_out(effect) {
                    self.session.handle(event, self.moment());
                }
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) -> Option<Event> {
        let name = match effect {
            Effect::Open(link, _) => {
                self.opening = Some(link);
                "open"
            }
            Effect::Close(link) => {
                self.open = self.open.filter(|open| *open != link);
                "close"
            }
            Effect::Publish(link, message) => {
                if self.open == Some(link) {
                    self.in_flight.push(message);
                }
                "publish"
            }
            Effect::Acknowledge(_, packet) => {
                if let Some(known) = self.server.orders.get_mut(&u8::try_from(packet).unwrap()) {
                    let id = order(u8::try_from(packet).unwrap(), Action::CollectPosture).id;
                    let taken = |record: &Record| matches!(record, Record::Taken(taken) if taken.order == id);
                    assert!(self.disk.journal.iter().any(taken), "acknowledged before it was journaled");
                    *known = true;
                }
                "acknowledge"
            }
            Effect::Record(record) => {
                self.disk.journal.push(record);
                "record"
            }
            Effect::Keep(kept) => {
                self.disk.outbox.insert(kept.id(), kept);
                "keep"
            }
            Effect::Drop(id) => {
                self.disk.outbox.remove(&id);
                "drop"
            }
            Effect::Discover => return Some(Event::Discovered(Err(trouble()))),
            Effect::AskAuthorities => {
                self.effects.push("authorities");
                return Some(Event::Authorities(self.server.authorities.take().ok_or_else(trouble)));
            }
            Effect::Fetch(_) => {
                self.effects.push("fetch");
                return Some(Event::Fetched(Err(trouble())));
            }
            Effect::Apply(_) => unreachable!("no baseline is ever served"),
            Effect::KeepHead(..) => "keep head",
            Effect::LookForDrift => {
                self.effects.push("drift");
                return Some(Event::Drifted { found: Vec::new(), left: Vec::new() });
            }
            Effect::ForgetDrift => "forget drift",
            Effect::Collect => {
                self.effects.push("collect");
                return Some(Event::Collected(Vec::new()));
            }
            Effect::Renewal(_) => "renewal",
            Effect::Hook(order, _) => return Some(Event::HookRan(order, HookEnd::Ran)),
            Effect::KeepLease(sheet) => {
                self.disk.lease = sheet.map(|sheet| *sheet);
                "keep lease"
            }
            Effect::LapseHook(hook) => {
                self.effects.push(hook.name());
                return Some(Event::LapseHookRan(hook, self.hook_end.clone()));
            }
            Effect::DropSecrets => {
                self.effects.push("drop secrets");
                let highest = self.disk.in_force.highest;
                self.disk.in_force = InForce { highest, ..InForce::default() };
                let dropped = Dropped { files: 1, failed: Vec::new() };
                return Some(Event::SecretsDropped(dropped, Box::new(self.disk.in_force.clone())));
            }
            Effect::Wipe(task, phase) => {
                self.phases.push(phase);
                let (outcome, evidence) = (self.fate, Sha256Digest([8; 32]));
                let report = PhaseReport { phase, outcome, items: Vec::new(), evidence };
                return Some(Event::Wiped(task.order, Box::new(report)));
            }
            Effect::EndLife => "end",
            Effect::Show(_) => "show",
            Effect::Stop => {
                self.is_over = true;
                "stop"
            }
        };
        self.effects.push(name);
        None
    }

    fn connect(&mut self, lives: usize) {
        if self.opening.is_none() && self.open.is_none() {
            self.since_start += Duration::from_secs(301);
            self.handle(Event::Woke, lives);
        }
        if let Some(link) = self.opening.take() {
            self.open = Some(link);
            self.handle(Event::Opened(link), lives);
            if self.open == Some(link) {
                self.handle(Event::Granted(link, self.granted.clone()), lives);
            }
        }
    }

    fn cut(&mut self, lives: usize) {
        self.in_flight.clear();
        if let Some(link) = self.open.take().or(self.opening.take()) {
            self.handle(Event::Closed(link, trouble()), lives);
        }
    }

    /// The server stores the oldest message and, unless the session is cut first, confirms it.
    fn store(&mut self, is_confirmed: bool, lives: usize) {
        let (Some(link), false) = (self.open, self.in_flight.is_empty()) else { return };
        let message = self.in_flight.remove(0);
        match &message.body {
            Body::Receipt(receipt) => {
                let digest = payload_digest::<muster_wire::receipt::Receipt>(receipt);
                self.server.receipts.entry(receipt.order).or_default().insert(digest);
                self.server.acks.push(Ack { device: device(), order: receipt.order, receipt: digest });
            }
            Body::Plain(bytes) if message.channel == Channel::ReportEvent => {
                self.server.events.insert(cbor::decode::<EventReport>(bytes).unwrap().id);
            }
            Body::Plain(_) | Body::Renew(_) => {}
        }
        if is_confirmed {
            self.handle(Event::Confirmed(link, message.id), lives);
        } else {
            self.cut(lives);
        }
    }

    fn order(&mut self, n: u8, lives: usize) {
        self.server.orders.entry(n).or_insert(false);
        self.deliver(n, lives);
    }

    fn deliver(&mut self, n: u8, lives: usize) {
        let Some(link) = self.open else { return };
        let payload = sign1(&order(n, Action::CollectPosture), &secret(1).0).unwrap();
        let incoming = Incoming { channel: Channel::Order, payload, packet: u16::from(n) };
        self.handle(Event::Received(link, incoming), lives);
    }

    fn forge(&mut self, n: u8, lives: usize) {
        let Some(link) = self.open else { return };
        let payload = sign1(&order(n, Action::CollectPosture), &secret(9).0).unwrap();
        self.handle(Event::Received(link, Incoming { channel: Channel::Order, payload, packet: 200 }), lives);
        let kept = self.disk.outbox.values();
        self.server.told.extend(kept.filter_map(|kept| match kept {
            Kept::Event(report) => Some(report.id),
            Kept::Receipt(_) => None,
        }));
    }

    fn ack(&mut self, lives: usize) {
        let (Some(link), Some(ack)) = (self.open, self.server.acks.pop()) else { return };
        let payload = sign1(&ack, &secret(1).0).unwrap();
        self.handle(Event::Received(link, Incoming { channel: Channel::Ack, payload, packet: 0 }), lives);
    }

    /// Everything works from here on, long enough.
    fn settle(&mut self) {
        for _ in 0..4 {
            self.cut(usize::MAX);
            self.connect(usize::MAX);
            self.connect(usize::MAX);
            let late: Vec<u8> = self.server.orders.iter().filter(|(_, is)| !**is).map(|(n, _)| *n).collect();
            late.into_iter().for_each(|n| self.deliver(n, usize::MAX));
            for _ in 0..200 {
                self.store(true, usize::MAX);
                self.ack(usize::MAX);
            }
        }
    }
}

fn begin(disk: &Disk, boot: &Boot) -> Session {
    Session::new(Beginning {
        leaf: leaf(),
        past: Past::of(&disk.journal),
        held: Held::default(),
        lineage: lineage(),
        in_force: disk.in_force.clone(),
        interrupted: None,
        declared: Vec::new(),
        boot: boot.clone(),
        lease: disk.lease.clone(),
        outbox: disk.outbox.values().cloned().collect(),
        agent_version: "test".into(),
        shown: None,
    })
}

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
    let link = world.opening.take().unwrap();
    world.handle(Event::Closed(link, Trouble { kind: TroubleKind::Rejected, ..trouble() }), usize::MAX);
    let refused = Past::of(&world.disk.journal).refused.unwrap();
    assert_eq!(refused.code, "certificate_refused");
    world.connect(usize::MAX);
    let past = Past::of(&world.disk.journal);
    assert_eq!((past.refused, past.proven.unwrap().state.as_str()), (None, ENROLLED));
    // A cut is no refusal, and neither is the end of a session.
    world.cut(usize::MAX);
    assert_eq!(Past::of(&world.disk.journal).refused, None);
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

impl World {
    fn send(&mut self, order: &Order, packet: u16) {
        let link = self.open.unwrap();
        let payload = sign1(order, &secret(1).0).unwrap();
        self.handle(Event::Received(link, Incoming { channel: Channel::Order, payload, packet }), usize::MAX);
    }

    fn events(&self, kind: EventKind) -> Vec<String> {
        let reports = self.disk.outbox.values().filter_map(|kept| match kept {
            Kept::Event(report) => Some(report),
            Kept::Receipt(_) => None,
        });
        reports.filter(|report| report.kind == kind).map(|report| report.detail.clone()).collect()
    }

    fn taken(&self) -> usize {
        self.disk.journal.iter().filter(|record| matches!(record, Record::Taken(_))).count()
    }

    fn acknowledged(&self) -> usize {
        self.effects.iter().filter(|effect| **effect == "acknowledge").count()
    }

    /// Stores and acks until nothing moves.
    fn serve(&mut self) {
        for _ in 0..200 {
            self.store(true, usize::MAX);
            self.ack(usize::MAX);
        }
    }
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

fn head(issued_at: i64, state_s: u64) -> DesiredHead {
    use muster_wire::desired::{CertificatePolicy, IdentityKey, Lapse, Lease};
    DesiredHead {
        device: device(),
        generation: Generation { restore_epoch: 0, counter: 1 },
        baseline: Sha256Digest([7; 32]),
        certificate: CertificatePolicy {
            key: IdentityKey::P256,
            validity_s: 86_400,
            renew_after_percent: 66,
        },
        intervals: Intervals { state_s, posture_s: 3600, drift_s: 3600 },
        lease: Lease { lasts_s: 0, on_lapse: Lapse::Report },
        issued_at: Timestamp(issued_at),
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
    let found = vec![drift("/etc/motd"), drift("/etc/issue")];
    world.handle(Event::Drifted { found, left: vec![drift("/etc/issue")] }, usize::MAX);
    let events = world.disk.outbox.values().filter_map(|kept| match kept {
        Kept::Event(report) => Some((report.kind, report.detail.as_str())),
        Kept::Receipt(_) => None,
    });
    assert_eq!(events.collect::<Vec<_>>(), [(EventKind::DriftRepaired, "put right: /etc/motd")]);
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
