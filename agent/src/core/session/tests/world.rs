//! A device and its server, with a kill wherever a test wants one.

use super::*;

pub(super) const NOW: i64 = 1_800_000_000;
pub(super) const DOMAIN: &str = "fleet.example";
pub(super) fn secret(seed: u8) -> (SigningKey, Ed25519Key) {
    let key = SigningKey::from_bytes(&[seed; 32]);
    match key.public_key() {
        PublicKey::Ed25519(public) => (key, public),
        PublicKey::P256(_) => unreachable!("an Ed25519 signer"),
    }
}

pub(super) fn lineage() -> Lineage {
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

pub(super) fn device() -> DeviceId {
    DeviceId::from_parts(1, [1; 10])
}

pub(super) fn leaf() -> Leaf {
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

pub(super) fn founding() -> [Record; 2] {
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

pub(super) fn order(n: u8, action: Action) -> Order {
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

pub(super) fn trouble() -> Trouble {
    Trouble { kind: TroubleKind::Closed, server: "x".into(), detail: "cut".into() }
}

/// A device and its server; what is in `disk` survives a kill, what is in `server` anything.
pub(super) struct World {
    pub(super) session: Session,
    pub(super) disk: Disk,
    pub(super) server: Server,
    pub(super) opening: Option<LinkId>,
    pub(super) open: Option<LinkId>,
    pub(super) in_flight: Vec<Message>,
    pub(super) since_start: Duration,
    /// By how many seconds somebody set the calendar.
    pub(super) clock_is_off: i64,
    pub(super) effects: Vec<&'static str>,
    pub(super) is_over: bool,
    /// On which channels the server speaks.
    pub(super) granted: Vec<Channel>,
    /// The boot, and how old it was when the agent started.
    pub(super) boot: Boot,
    /// How hooks end that the lease asks for.
    pub(super) hook_end: HookEnd,
    /// How each phase of a wipe ends; the last for ever.
    pub(super) fate: ReceiptOutcome,
    /// The phases that the engine was asked for.
    pub(super) phases: Vec<ReceiptPhase>,
}

#[derive(Default)]
pub(super) struct Disk {
    pub(super) journal: Vec<Record>,
    pub(super) outbox: BTreeMap<EntryId, Kept>,
    pub(super) lease: Option<LeaseSheet>,
    pub(super) in_force: InForce,
    /// What the appliers have put right and were not told that it is told.
    pub(super) untold: Vec<Drift>,
    /// What they have taken back, likewise.
    pub(super) taken_back: Vec<TakenBack>,
}

#[derive(Default)]
pub(super) struct Server {
    /// Orders made, and whether their PUBACK came.
    pub(super) orders: BTreeMap<u8, bool>,
    pub(super) receipts: BTreeMap<OrderId, BTreeSet<Sha256Digest>>,
    pub(super) events: BTreeSet<ReportId>,
    pub(super) told: BTreeSet<ReportId>,
    pub(super) acks: Vec<Ack>,
    /// What it answers when it is asked for its authorities; once.
    pub(super) authorities: Option<Answer>,
}

impl World {
    pub(super) fn new() -> Self {
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

    pub(super) fn restart(&mut self) {
        self.restart_for(usize::MAX);
    }

    /// Starts again, and the power fails after `lives` effects.
    pub(super) fn restart_for(&mut self, lives: usize) {
        self.boot.age += self.since_start;
        self.session = begin(&self.disk, &self.boot);
        (self.opening, self.open, self.since_start) = (None, None, Duration::ZERO);
        self.in_flight.clear();
        self.handle(Event::Woke, lives);
    }

    pub(super) fn moment(&self) -> Moment {
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
    pub(super) fn handle(&mut self, event: Event, mut lives: usize) {
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

    pub(super) fn carry_out(&mut self, effect: Effect) -> Option<Event> {
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
                return Some(Event::Drifted {
                    found: Vec::new(),
                    left: Vec::new(),
                    untold: self.disk.untold.clone(),
                });
            }
            Effect::ForgetDrift(told) => {
                self.disk.untold.retain(|drift| !told.contains(drift));
                "forget drift"
            }
            Effect::ForgetTakenBack(told) => {
                self.disk.taken_back.retain(|one| !told.contains(one));
                "forget taken back"
            }
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

    pub(super) fn connect(&mut self, lives: usize) {
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

    pub(super) fn cut(&mut self, lives: usize) {
        self.in_flight.clear();
        if let Some(link) = self.open.take().or(self.opening.take()) {
            self.handle(Event::Closed(link, trouble()), lives);
        }
    }

    /// The server stores the oldest message and, unless the session is cut first, confirms it.
    pub(super) fn store(&mut self, is_confirmed: bool, lives: usize) {
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

    pub(super) fn order(&mut self, n: u8, lives: usize) {
        self.server.orders.entry(n).or_insert(false);
        self.deliver(n, lives);
    }

    pub(super) fn deliver(&mut self, n: u8, lives: usize) {
        let Some(link) = self.open else { return };
        let payload = sign1(&order(n, Action::CollectPosture), &secret(1).0).unwrap();
        let incoming = Incoming { channel: Channel::Order, payload, packet: u16::from(n) };
        self.handle(Event::Received(link, incoming), lives);
    }

    pub(super) fn forge(&mut self, n: u8, lives: usize) {
        let Some(link) = self.open else { return };
        let payload = sign1(&order(n, Action::CollectPosture), &secret(9).0).unwrap();
        self.handle(Event::Received(link, Incoming { channel: Channel::Order, payload, packet: 200 }), lives);
        let kept = self.disk.outbox.values();
        self.server.told.extend(kept.filter_map(|kept| match kept {
            Kept::Event(report) => Some(report.id),
            Kept::Receipt(_) => None,
        }));
    }

    pub(super) fn ack(&mut self, lives: usize) {
        let (Some(link), Some(ack)) = (self.open, self.server.acks.pop()) else { return };
        let payload = sign1(&ack, &secret(1).0).unwrap();
        self.handle(Event::Received(link, Incoming { channel: Channel::Ack, payload, packet: 0 }), lives);
    }

    /// Everything works from here on, long enough.
    pub(super) fn settle(&mut self) {
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

    pub(super) fn send(&mut self, order: &Order, packet: u16) {
        let link = self.open.unwrap();
        let payload = sign1(order, &secret(1).0).unwrap();
        self.handle(Event::Received(link, Incoming { channel: Channel::Order, payload, packet }), usize::MAX);
    }

    pub(super) fn events(&self, kind: EventKind) -> Vec<String> {
        let reports = self.disk.outbox.values().filter_map(|kept| match kept {
            Kept::Event(report) => Some(report),
            Kept::Receipt(_) => None,
        });
        reports.filter(|report| report.kind == kind).map(|report| report.detail.clone()).collect()
    }

    pub(super) fn taken(&self) -> usize {
        self.disk.journal.iter().filter(|record| matches!(record, Record::Taken(_))).count()
    }

    pub(super) fn acknowledged(&self) -> usize {
        self.effects.iter().filter(|effect| **effect == "acknowledge").count()
    }

    /// Stores and acks until nothing moves.
    pub(super) fn serve(&mut self) {
        for _ in 0..200 {
            self.store(true, usize::MAX);
            self.ack(usize::MAX);
        }
    }
}

pub(super) fn begin(disk: &Disk, boot: &Boot) -> Session {
    Session::new(Beginning {
        leaf: leaf(),
        past: Past::of(&disk.journal),
        held: Held::default(),
        lineage: lineage(),
        in_force: disk.in_force.clone(),
        taken_back: disk.taken_back.clone(),
        declared: Vec::new(),
        boot: boot.clone(),
        lease: disk.lease.clone(),
        outbox: disk.outbox.values().cloned().collect(),
        agent_version: "test".into(),
        shown: None,
    })
}

pub(super) fn head(issued_at: i64, state_s: u64) -> DesiredHead {
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
