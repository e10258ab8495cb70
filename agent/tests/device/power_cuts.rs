//! The power fails after every single step of a wipe, on every level: the agent's machine, its journal and outbox, the
//! engine and the files are real; only the line, the server and the clock are played.
//!
//! Whatever comes in between: the wipe comes to its end, the server has one receipt for each phase, in one chain, and never
//! one for a deed that was not done.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use muster_agent::core::outbox::{Body, Kept, Message};
use muster_agent::core::record::{Accepted, Past, Proven, Record};
use muster_agent::core::schedule::Moment;
use muster_agent::core::session::{Beginning, Effect, Event, InForce, Incoming, LinkId, Session, TakenBack};
use muster_agent::core::wiping::ManagedFile;
use muster_agent::core::{Held, Leaf, Trouble, TroubleKind};
use muster_agent::shell::journal::{self, Journal};
use muster_agent::shell::outbox::OutboxDir;
use muster_agent::wipe::{Engine, Ledger};
use muster_wire::authority::{Approver, Authority, Required};
use muster_wire::desired::Generation;
use muster_wire::digest::Sha256Digest;
use muster_wire::envelope::{MultiSigned, payload_digest, sign1};
use muster_wire::id::DeviceId;
use muster_wire::lineage::Lineage;
use muster_wire::order::Action;
use muster_wire::posture::EventKind;
use muster_wire::receipt::{Ack, ItemFate, Receipt, ReceiptOutcome, ReceiptPhase};
use muster_wire::time::Timestamp;
use muster_wire::topic::Channel;
use muster_wire::warrant::Level;
use tempfile::TempDir;

use crate::fleet::{TRUST_DOMAIN, ed25519};
use crate::letting_go::warranted;
use crate::program::now;

const SECRET: &str = "/srv/secret";
const DATA: &str = "/srv/data";
const VOLUME: &str = "/home/volume";

fn device() -> DeviceId {
    DeviceId::from_parts(1, [1; 10])
}

fn lineage() -> Lineage {
    let document = Authority {
        version: 1,
        trust_domain: TRUST_DOMAIN.parse().unwrap(),
        command_keys: vec![ed25519(1).1],
        audit_keys: vec![ed25519(2).1],
        approvers: vec![Approver { name: "a".parse().unwrap(), key: ed25519(3).1, valid_from: Timestamp(0) }],
        recovery: Vec::new(),
        required: Required::solo(),
        previous: None,
    };
    let mut signed = MultiSigned::unsigned(&document);
    signed.add_signature(&ed25519(1).0).unwrap();
    Lineage::found(&signed, signed.payload_digest()).unwrap()
}

fn leaf(at: i64) -> Leaf {
    Leaf {
        der: Vec::new(),
        sha256: Sha256Digest([5; 32]),
        spki: Sha256Digest([6; 32]),
        serial: "01".into(),
        not_before: Timestamp(at - 86_400),
        not_after: Timestamp(at + 30 * 86_400),
        trust_domain: TRUST_DOMAIN.into(),
        device: device(),
        hardware_serial: None,
    }
}

fn founding(at: i64, root: &Path) -> [Record; 2] {
    let accepted = Accepted {
        enrolment: Sha256Digest([0; 32]),
        host: "fleet.example".into(),
        port: 8443,
        root_spki: Sha256Digest([1; 32]),
        authority: lineage().founding_digest(),
        authority_version: 1,
        trust_domain: TRUST_DOMAIN.into(),
        serial: None,
        root: root.to_owned(),
        declared: vec!["/srv".into()],
        at: Timestamp(at),
    };
    let proven = Proven {
        certificate: leaf(at).sha256,
        device: device(),
        state: "active".into(),
        mqtt: Some("mqtts://fleet.example:8883".into()),
        at: Timestamp(at),
    };
    [Record::Accepted(accepted), Record::Proven(proven)]
}

/// What survives every power cut.
struct Home(TempDir);

impl Home {
    fn furnished(volume: &Path) -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        for dir in ["state", "root/etc/muster/hooks", "root/srv/data/deep", "root/home"] {
            fs::create_dir_all(home.0.path().join(dir)).unwrap();
        }
        for dir in ["root/etc", "root/etc/muster", "root/etc/muster/hooks"] {
            fs::set_permissions(home.0.path().join(dir), fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(home.at(SECRET), "secret").unwrap();
        fs::write(home.at("/srv/data/deep/letter"), "dear").unwrap();
        fs::write(home.at("/home/precious"), "precious").unwrap();
        fs::copy(volume, home.at(VOLUME)).unwrap();
        fs::write(home.at("/etc/muster/wipe-volumes"), VOLUME).unwrap();
        let hook = home.at("/etc/muster/hooks/factory-reset");
        fs::write(&hook, "#!/bin/sh\nexit 0\n").unwrap();
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(home.state().join("managed"), "").unwrap();
        fs::write(home.taken_back(), "").unwrap();
        home
    }

    fn state(&self) -> PathBuf {
        self.0.path().join("state")
    }

    /// There while nobody has been told that a generation was taken back.
    fn taken_back(&self) -> PathBuf {
        self.state().join("taken-back")
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join("root").join(path.trim_start_matches('/'))
    }

    fn has_keys(&self, level: Level) -> bool {
        self.at(SECRET).exists() || (level >= Level::CryptoErase && cryptsetup(OPEN, &self.at(VOLUME)))
    }

    fn has_data(&self, level: Level) -> bool {
        level >= Level::Clear && fs::read_dir(self.at(DATA)).unwrap().count() > 0
    }
}

impl Ledger for Home {
    fn managed(&self) -> Result<Vec<ManagedFile>, String> {
        let file = ManagedFile {
            path: SECRET.into(),
            sha256: Sha256Digest::of(b"secret"),
            is_ours: true,
            is_secret: true,
        };
        Ok(if self.state().join("managed").exists() { vec![file] } else { Vec::new() })
    }

    fn forget(&self) -> Result<ItemFate, String> {
        // Asked twice after a cut, it is gone already.
        let removed = fs::remove_file(self.state().join("managed"));
        Ok(removed.map_or(ItemFate::Kept, |()| ItemFate::Deleted))
    }
}

const OPEN: &str = "open --test-passphrase --key-file -";
const FORMAT: &str = "luksFormat --type luks2 -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 \
                      --luks2-metadata-size 16k --luks2-keyslots-size 256k --key-file -";

fn cryptsetup(words: &str, path: &Path) -> bool {
    let mut child = Command::new("cryptsetup")
        .args(words.split_whitespace())
        .arg(path)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"pass").unwrap();
    child.wait().unwrap().success()
}

/// How many steps are left before the power fails; once only.
#[derive(Clone)]
struct Power(Arc<AtomicUsize>);

impl Power {
    /// Whether there is power for one more step.
    fn step(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

struct World<'h> {
    home: &'h Home,
    level: Level,
    session: Session,
    journal: Journal,
    power: Power,
    since_start: Duration,
    begun_at: i64,
    /// Goes on over restarts.
    passed_s: i64,
    link: Option<(LinkId, bool)>,
    in_flight: Vec<Message>,
    server: BTreeMap<ReceiptPhase, Receipt>,
    cuts: Cell<usize>,
    is_over: bool,
}

impl<'h> World<'h> {
    fn new(home: &'h Home, level: Level, steps: usize) -> Self {
        let begun_at = now();
        let (mut journal, _) = Journal::open(&home.state().join("journal")).unwrap();
        founding(begun_at, &home.at("/")).iter().for_each(|record| journal.append(record).unwrap());
        let session = begin(home, begun_at);
        Self {
            home,
            level,
            session,
            journal,
            power: Power(Arc::new(AtomicUsize::new(steps))),
            since_start: Duration::ZERO,
            begun_at,
            passed_s: 0,
            link: None,
            in_flight: Vec::new(),
            server: BTreeMap::new(),
            cuts: Cell::new(0),
            is_over: false,
        }
    }

    fn restart(&mut self) {
        self.cuts.set(self.cuts.get() + 1);
        self.power = Power(Arc::new(AtomicUsize::new(usize::MAX)));
        self.session = begin(self.home, self.begun_at);
        self.journal = Journal::open(&self.home.state().join("journal")).unwrap().0;
        (self.since_start, self.link) = (Duration::ZERO, None);
        self.in_flight.clear();
        let taken = journal::read(&self.home.state().join("journal")).unwrap().records;
        if !taken.iter().any(|record| matches!(record, Record::Taken(_))) {
            assert!(self.home.has_keys(self.level), "destroyed without an order on record");
        }
    }

    fn moment(&self) -> Moment {
        let wall = Timestamp(self.begun_at + self.passed_s);
        Moment { wall, calendar: wall, since_start: self.since_start, random: [7; 16] }
    }

    fn handle(&mut self, event: Event) {
        self.session.handle(event, self.moment());
        while let Some(effect) = self.session.next_effect() {
            if !self.power.step() {
                return self.restart();
            }
            match self.carry_out(effect) {
                Ok(Some(event)) => self.session.handle(event, self.moment()),
                Ok(None) => {}
                Err(()) => return self.restart(),
            }
        }
    }

    /// `Err` when the power failed in the middle.
    fn carry_out(&mut self, effect: Effect) -> Result<Option<Event>, ()> {
        let outbox = OutboxDir::new(&self.home.state());
        match effect {
            Effect::Open(link, _) => self.link = Some((link, false)),
            Effect::Close(_) => self.link = None,
            Effect::Publish(_, message) => self.in_flight.push(message),
            Effect::Record(record) => self.journal.append(&record).unwrap(),
            Effect::Keep(kept) => outbox.keep(&kept).unwrap(),
            Effect::Drop(id) => outbox.remove(id).unwrap(),
            Effect::Discover => return Ok(Some(Event::Discovered(Err(cut())))),
            Effect::Collect => return Ok(Some(Event::Collected(Vec::new()))),
            Effect::LookForDrift => {
                return Ok(Some(Event::Drifted { found: Vec::new(), left: Vec::new(), untold: Vec::new() }));
            }
            Effect::Wipe(task, phase) => {
                let power = self.power.clone();
                let gate = move |_| if power.step() { Ok(()) } else { Err(std::io::Error::other("cut")) };
                let engine = Engine::new(&self.home.state(), &self.home.at("/"), &["/srv".into()]);
                let report = engine.gated(Box::new(gate)).phase(&task, phase, self.home);
                if self.power.0.load(Ordering::Relaxed) == 0 {
                    return Err(());
                }
                return Ok(Some(Event::Wiped(task.order, Box::new(report.unwrap()))));
            }
            Effect::ForgetTakenBack(_) => fs::remove_file(self.home.taken_back()).unwrap(),
            Effect::Stop => self.is_over = true,
            _ => {}
        }
        Ok(None)
    }

    /// A while with a line: the order is delivered, receipts arrive and are signed for.
    fn live(&mut self, order: &[u8]) {
        self.since_start += Duration::from_secs(301);
        self.passed_s += 301;
        self.handle(Event::Woke);
        let Some((link, false)) = self.link else { return };
        self.link = Some((link, true));
        self.handle(Event::Opened(link));
        self.tell(|link| Event::Granted(link, vec![Channel::Order, Channel::Ack]));
        let incoming = Incoming { channel: Channel::Order, payload: order.to_vec(), packet: 1 };
        self.tell(|link| Event::Received(link, incoming));
        for _ in 0..20 {
            self.store();
        }
        self.tell(|link| Event::Closed(link, cut()));
        self.link = None;
        self.in_flight.clear();
    }

    /// Says something over the line, if there still is one.
    fn tell(&mut self, event: impl FnOnce(LinkId) -> Event) {
        if let Some((link, true)) = self.link {
            self.handle(event(link));
        }
    }

    fn store(&mut self) {
        if self.in_flight.is_empty() {
            return;
        }
        let message = self.in_flight.remove(0);
        let Body::Receipt(receipt) = &message.body else { panic!("not in a farewell: {message:?}") };
        self.receive(receipt);
        let ack = Ack { device: device(), order: receipt.order, receipt: payload_digest::<Receipt>(receipt) };
        let id = message.id;
        self.tell(|link| Event::Confirmed(link, id));
        let payload = sign1(&ack, &ed25519(1).0).unwrap();
        self.tell(|link| Event::Received(link, Incoming { channel: Channel::Ack, payload, packet: 2 }));
    }

    fn receive(&mut self, receipt: &Receipt) {
        let before =
            self.server.range(..receipt.phase).next_back().map(|(_, receipt)| payload_digest(receipt));
        assert_eq!(receipt.previous, before, "the chain is broken at {}", receipt.phase);
        assert_eq!(receipt.outcome, ReceiptOutcome::Done, "{receipt:?}");
        if receipt.phase >= ReceiptPhase::KeysDestroyed {
            assert!(!self.home.has_keys(self.level), "keys are left: {}", receipt.phase);
        }
        if receipt.phase >= ReceiptPhase::DataDestroyed {
            assert!(!self.home.has_data(self.level), "data is left: {}", receipt.phase);
        }
        let former = self.server.insert(receipt.phase, receipt.clone());
        assert!(former.is_none_or(|former| former == *receipt), "two receipts for {}", receipt.phase);
    }
}

fn begin(home: &Home, at: i64) -> Session {
    let records = journal::read(&home.state().join("journal")).unwrap().records;
    let taken_back = TakenBack::of(Generation { restore_epoch: 0, counter: 2 }, None);
    Session::new(Beginning {
        leaf: leaf(at),
        past: Past::of(&records),
        held: Held::default(),
        lineage: lineage(),
        in_force: InForce::default(),
        taken_back: home.taken_back().exists().then_some(taken_back).into_iter().collect(),
        declared: vec!["/srv".into()],
        boot: muster_agent::core::lease::Boot::default(),
        lease: None,
        outbox: OutboxDir::new(&home.state()).read().unwrap(),
        agent_version: "test".into(),
        shown: None,
    })
}

fn cut() -> Trouble {
    Trouble { kind: TroubleKind::Closed, server: "x".into(), detail: "cut".into() }
}

/// The number of steps of a wipe to `level`, each of which was the last before a power cut, once.
fn survived(level: Level) -> usize {
    let images = tempfile::tempdir().unwrap();
    let volume = images.path().join("volume");
    fs::File::create(&volume).unwrap().set_len(2 << 20).unwrap();
    assert!(cryptsetup(FORMAT, &volume), "install cryptsetup-bin");
    let action = Action::Wipe { level, data_roots: vec![DATA.into()] };
    for steps in 0.. {
        let home = Home::furnished(&volume);
        let mut world = World::new(&home, level, steps);
        let order = sign1(&warranted(device(), 1, action.clone(), &ed25519(3).0), &ed25519(1).0).unwrap();
        for _ in 0..8 {
            if !world.is_over {
                world.live(&order);
            }
        }
        assert!(world.is_over, "{level}: cut after {steps} steps it never ends");
        let phases: Vec<ReceiptPhase> = world.server.keys().copied().collect();
        assert_eq!(phases, ReceiptPhase::ALL, "{level}: cut after {steps} steps");
        assert_eq!(fs::read(home.at("/home/precious")).unwrap(), b"precious");
        let kept = OutboxDir::new(&home.state()).read().unwrap();
        let told = |kept: &&Kept| matches!(kept, Kept::Event(event) if event.kind == EventKind::RolledBack);
        let told = (kept.iter().filter(told).count(), home.taken_back().exists());
        assert_eq!(
            told,
            (1, false),
            "{level}: cut after {steps} steps, what was taken back is not told once"
        );
        let is_whole = level >= Level::Clear || home.at("/srv/data/deep/letter").exists();
        assert!(is_whole, "{level} took what is personal");
        if world.cuts.get() == 0 {
            println!("{level}: {steps} steps");
            return steps;
        }
        assert_eq!(world.cuts.get(), 1);
    }
    unreachable!("the numbers do not end");
}

#[test]
fn a_retirement_survives_a_power_cut_after_every_step() {
    let steps = survived(Level::Retire);
    assert!(steps > 50, "only {steps} steps");
}

#[test]
fn a_clearing_survives_a_power_cut_after_every_step() {
    let steps = survived(Level::Clear);
    assert!(steps > 50, "only {steps} steps");
}

#[test]
fn a_crypto_erase_survives_a_power_cut_after_every_step() {
    let steps = survived(Level::CryptoErase);
    assert!(steps > 50, "only {steps} steps");
}

#[test]
fn a_factory_reset_survives_a_power_cut_after_every_step() {
    let steps = survived(Level::FactoryReset);
    assert!(steps > 50, "only {steps} steps");
}
