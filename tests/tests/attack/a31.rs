//! A31: whoever has every key of the server and no approver's key does nothing that cannot be undone, and runs nothing.
//!
//! The thief sits where the server was: with its names, its command key, its audit key and its CA, in front of an agent
//! that was enrolled before. What needs no approver it may ask; the rest is refused by the device, which says so to
//! whoever comes after. The honest people take their fleet back with a successor of the authority.

use super::impostor::{FalseDoor, FalseGate};
use super::siege::{Siege, patient};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::DecodePrivateKey as _;
use muster_tests::{Agent, Proxy, Server, Site};
use muster_wire::authority::{Approver, Authority};
use muster_wire::checkpoint::Checkpoint;
use muster_wire::desired::{
    AgentSetting, Baseline, CertificatePolicy, Content, DesiredHead, FileEntry, Generation, IdentityKey,
    Intervals, Lapse, Lease, Mode, Package, Section, Setting, Unit,
};
use muster_wire::digest::Sha256Digest;
use muster_wire::envelope::{MultiSigned, sign1};
use muster_wire::id::{DeviceId, OrderId, WarrantId};
use muster_wire::key::Ed25519Key;
use muster_wire::merkle::{ConsistencyProof, TreeHead, prove_inclusion, root_of};
use muster_wire::order::{Action, Order, Sequence};
use muster_wire::time::Timestamp;
use muster_wire::warrant::{Level, Target, Warrant};
use serde_json::{Value, json};
use std::path::Path;

mod leases;

const NOTICE: &str = "/var/lib/muster-agent/managed/notice";
const FAR_AHEAD: Timestamp = Timestamp(4_102_444_800);

/// An agent with a baseline in place, whose way to the server leads through proxies, and a thief with all of the
/// server's keys.
struct Scene {
    siege: Siege,
    gate: Proxy,
    door: Proxy,
    sensor: Agent,
    seen: TreeHead,
    orders: std::cell::Cell<u8>,
}

impl Scene {
    async fn set() -> Self {
        let (gate, door) = (Proxy::bind().await, Proxy::bind().await);
        let launch = patient()
            .with("MUSTER_ADVERTISE_MQTT", format!("localhost:{}", gate.port()))
            .with("MUSTER_ADVERTISE_DEVICE", format!("localhost:{}", door.port()));
        let server = Server::on(Site::founded().await, launch).await;
        door.forward_to(&server.endpoints().device);
        gate.forward_to(&server.endpoints().mqtt);
        let siege = Siege::of(server).await;
        let baseline = format!(
            "profile = \"sensor-linux\"\n[[baseline.files]]\npath = \"{NOTICE}\"\ncontent = \"ours\"\nmode = \"0644\"\n"
        );
        let generation = siege.server().set_baseline(&baseline).await;
        let sensor = Agent::enrolled(siege.server(), "sensor-linux").await;
        let running = sensor.start();
        let reported = |device: &Value| device["generation"]["reported"] == generation;
        let _ = siege.server().device_when(&sensor.id(), "its baseline is in place", reported).await;
        let order = siege.server().order("collect_posture", &sensor.id()).await;
        let _ = siege.server().done(&order).await;
        assert_eq!(running.terminate().await, Some(0));
        let seen = seen(&sensor.status().await);
        Self { siege, gate, door, sensor, seen, orders: std::cell::Cell::new(0) }
    }

    fn server(&self) -> &Server {
        self.siege.server()
    }

    /// A key of the server, or of an approver: whatever was stolen.
    fn key(&self, path: &Path) -> SigningKey {
        SigningKey::from_pkcs8_pem(&std::fs::read_to_string(path).unwrap()).expect("an Ed25519 key")
    }

    fn command_key(&self) -> SigningKey {
        self.key(&self.server().site().data_dir().join("keys/command.key"))
    }

    fn audit_key(&self) -> SigningKey {
        self.key(&self.server().site().data_dir().join("keys/audit.key"))
    }

    fn device(&self) -> DeviceId {
        self.sensor.id().parse().unwrap()
    }

    /// An order that the agent would take, were it enough that every key of the server has signed it.
    fn order(&self, action: Action) -> Order {
        self.orders.set(self.orders.get() + 1);
        let origin = "localhost/audit".to_owned();
        Order {
            device: self.device(),
            id: OrderId::from_parts(FAR_AHEAD.seconds() as u64 * 1000, [self.orders.get(); 10]),
            sequence: Sequence { authority_version: 1, restore_epoch: 0, counter: 1_000 },
            action,
            warrant: None,
            leaf: None,
            inclusion: None,
            issued_at: now(),
            expires: now().plus_seconds(3_600),
            checkpoint: Checkpoint { origin, head: self.seen }.sign(&self.audit_key()).unwrap(),
            consistency: ConsistencyProof { from_size: self.seen.size, path: Vec::new() },
        }
    }

    /// A wipe under a warrant that `signers` have signed.
    fn wipe(&self, level: Level, signers: &[SigningKey]) -> Order {
        self.warranted(Action::Wipe { level, data_roots: Vec::new() }, signers)
    }

    /// An order to do `action` under a warrant that `signers` have signed.
    fn warranted(&self, action: Action, signers: &[SigningKey]) -> Order {
        let level = action.level();
        let leaf = Target { device: self.device(), serial: None, owner: None, kind: action.kind(), level };
        let leaves = [leaf.leaf_hash()];
        let mut warrant = MultiSigned::unsigned(&Warrant {
            id: WarrantId::from_bytes([7; 16]),
            kind: action.kind(),
            level,
            plan: action.plan(),
            root: root_of(&leaves),
            count: 1,
            not_after: FAR_AHEAD,
            authority_version: 1,
        });
        signers.iter().for_each(|signer| warrant.add_signature(signer).unwrap());
        Order {
            warrant: Some(warrant.to_bytes()),
            leaf: Some(leaf),
            inclusion: prove_inclusion(&leaves, 0),
            ..self.order(action)
        }
    }

    /// The agent gets `order` from the thief and tells that it refused it, for the reason `why`.
    async fn refuses(&self, order: &Order, why: &str) {
        let bytes = sign1(order, &self.command_key()).unwrap();
        let mut gate = FalseGate::says(self.server().site(), vec![("order", bytes)]).await;
        self.gate.forward_to(gate.url());
        let running = self.sensor.start();
        let told = gate.hears(why, |event| event.detail.contains(why)).await;
        assert!(told.detail.contains("a message on order was refused"), "{}", told.detail);
        assert_eq!(running.terminate().await, Some(0));
        self.stands();
    }

    /// The agent gets a baseline of one section from the thief, who has signed all of it, and refuses it.
    async fn refuses_section(&self, content: Content, counter: u64, why: &str) {
        let section = Section { mode: Mode::Enforce, content };
        let mut baseline =
            MultiSigned::unsigned(&Baseline { profile: "sensor-linux".to_owned(), sections: vec![section] });
        baseline.add_signature(&self.command_key()).unwrap();
        let head = self.head(baseline.payload_digest(), counter);
        let mut gate = FalseGate::says(self.server().site(), vec![("desired", head)]).await;
        let door = FalseDoor::open(self.server(), baseline.to_bytes()).await;
        self.gate.forward_to(gate.url());
        self.door.forward_to(door.url());
        let running = self.sensor.start();
        let _ = gate.hears(why, |event| event.detail.contains(why)).await;
        assert_eq!(running.terminate().await, Some(0));
        self.stands();
    }

    fn head(&self, baseline: Sha256Digest, counter: u64) -> Vec<u8> {
        let head = DesiredHead {
            device: self.device(),
            generation: Generation { restore_epoch: 0, counter },
            baseline,
            certificate: CertificatePolicy {
                key: IdentityKey::P256,
                validity_s: 86_400,
                renew_after_percent: 66,
            },
            intervals: Intervals { state_s: 300, posture_s: 300, drift_s: 300 },
            lease: Lease { lasts_s: 0, on_lapse: Lapse::Report },
            issued_at: FAR_AHEAD,
        };
        sign1(&head, &self.command_key()).unwrap()
    }

    /// Nothing is gone and nothing is there that was not.
    fn stands(&self) {
        assert_eq!(self.sensor.file(NOTICE), "ours");
        assert!(self.sensor.state_dir().join("identity/key.pem").exists());
        for path in ["/etc/ssh/sshd_config.d", "/etc/systemd/system", "/etc/cron.d/thief", "/opt/thief"] {
            assert!(!self.sensor.within(path).exists(), "{path}");
        }
    }

    /// The thief is gone.
    fn is_lifted(&self) {
        self.gate.forward_to(&self.server().endpoints().mqtt);
        self.door.forward_to(&self.server().endpoints().device);
    }
}

/// The log head that an agent has seen, from its status.
fn seen(status: &Value) -> TreeHead {
    let (size, root) = status["checkpoint"].as_str().unwrap().split_once(' ').unwrap();
    TreeHead { size: size.parse().unwrap(), root: root.parse().unwrap() }
}

fn now() -> Timestamp {
    Timestamp(time::OffsetDateTime::now_utc().unix_timestamp())
}

fn stranger() -> SigningKey {
    SigningKey::from_bytes(&[0x5a; 32])
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_of_the_server_wipes_nothing_and_installs_nothing() {
    let scene = Scene::set().await;
    let keys = [scene.command_key(), scene.audit_key()];
    let alice = scene.key(&scene.server().site().path("alice.key"));

    let bare = scene.order(Action::Wipe { level: Level::Retire, data_roots: Vec::new() });
    scene.refuses(&bare, "this order needs a warrant").await;
    let lock = scene.order(Action::Lock);
    scene.refuses(&lock, "this order needs a warrant").await;
    let agent = Action::UpdateAgent { version: "9.9.9".into(), sha256: Sha256Digest([1; 32]), size_bytes: 1 };
    scene.refuses(&scene.order(agent), "this order needs a warrant").await;
    let trust = Action::UpdateTrust { version: 9, roots: vec![vec![0x30, 0]] };
    scene.refuses(&scene.order(trust), "this order needs a warrant").await;

    let unsigned = "the warrant does not cover this order";
    scene.refuses(&scene.wipe(Level::Retire, &keys), unsigned).await;
    scene.refuses(&scene.wipe(Level::FactoryReset, &[stranger()]), unsigned).await;
    // One approver is no quorum, and the server's keys make it none.
    scene.refuses(&scene.wipe(Level::Clear, std::slice::from_ref(&alice)), unsigned).await;
    let [command, audit] = keys;
    scene.refuses(&scene.wipe(Level::Clear, &[alice, command, audit]), unsigned).await;

    scene.is_lifted();
    let _running = scene.sensor.start();
    let id = scene.sensor.id();
    let order = scene.server().order("collect_posture", &id).await;
    let _ = scene.server().done(&order).await;
    assert!(scene.server().history(&id).await.contains("this order needs a warrant"));
    scene.stands();
    let _ = scene.siege.lift(1, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_of_the_server_puts_no_root_code_on_a_device() {
    let scene = Scene::set().await;
    let setting = |key: &str, value: &str| Setting { key: key.into(), value: value.into() };
    let file = FileEntry {
        path: "/etc/cron.d/thief".into(),
        mode: 0o644,
        owner: "root".into(),
        group: "root".into(),
        content: b"* * * * * root /opt/thief\n".to_vec(),
    };
    let unit = Unit { name: "thief.service".into(), enabled: true, active: true };
    let cases = [
        (Content::Packages(vec![Package { name: "netcat".into(), present: true }]), "packages"),
        (Content::SystemdUnits(vec![unit]), "systemd_units"),
        (Content::Ssh(vec![setting("PermitRootLogin", "yes")]), "ssh"),
        (Content::Sysctl(vec![setting("kernel.core_pattern", "|/opt/thief")]), "approvers (sysctl(other))"),
        (Content::Files(vec![file]), "approvers (files(elsewhere))"),
        (
            Content::Agent(AgentSetting { declared_roots: vec!["/".into()] }),
            "section agent needs 2 approvers",
        ),
    ];
    for (counter, (content, why)) in (100..).zip(cases) {
        scene.refuses_section(content, counter, why).await;
    }
    scene.is_lifted();
    let _running = scene.sensor.start();
    let order = scene.server().order("collect_posture", &scene.sensor.id()).await;
    let _ = scene.server().done(&order).await;
    scene.stands();
    let _ = scene.siege.lift(1, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_that_only_the_server_signed_is_none_and_a_real_one_takes_the_fleet_back() {
    let scene = Scene::set().await;
    let chain = discovery(scene.server()).await["authority"].clone();
    let forged = forged_successor(&scene, &chain);

    // Under the thief's own approvers the warrant would be good.
    let mut order = scene.wipe(Level::Clear, &[stranger()]);
    order.sequence.authority_version = 2;
    let bytes = sign1(&order, &scene.command_key()).unwrap();
    let mut gate = FalseGate::says(scene.server().site(), vec![("order", bytes)]).await;
    let door = FalseDoor::with_authority(scene.server(), &scene.sensor.id(), &forged).await;
    scene.gate.forward_to(gate.url());
    scene.door.forward_to(door.url());
    let running = scene.sensor.start();
    let refused = "authority version 2 is not the one in force here";
    let _ = gate.hears(refused, |event| event.detail.contains(refused)).await;
    assert_eq!(running.terminate().await, Some(0));
    assert_eq!(scene.sensor.status().await["authority_version"], 1);
    scene.stands();

    // What needs nobody it may ask, and so leave no sequence above its own, far ahead in time.
    let mut last = scene.order(Action::CollectPosture);
    last.sequence.counter = u64::MAX;
    (last.issued_at, last.expires) = (FAR_AHEAD, FAR_AHEAD);
    let bytes = sign1(&last, &scene.command_key()).unwrap();
    let mut gate = FalseGate::says(scene.server().site(), vec![("order", bytes)]).await;
    scene.gate.forward_to(gate.url());
    let running = scene.sensor.start();
    gate.takes("receipt").await;
    assert_eq!(running.terminate().await, Some(0));

    // The approvers make a successor with another command key; orders count again.
    scene.is_lifted();
    let server = scene.server();
    let _ = server.cli(&["authority", "propose", "--new-command-key", "--yes"]).await;
    for name in ["alice", "bob"] {
        let key = server.site().path(&format!("{name}.key")).display().to_string();
        let _ = server.cli(&["authority", "sign", "--key", &key, "--yes"]).await;
    }
    assert_eq!(server.cli(&["authority", "show"]).await["version"], 2);
    let _running = scene.sensor.start();
    let order = server.order("collect_posture", &scene.sensor.id()).await;
    let _ = server.done(&order).await;
    assert_eq!(scene.sensor.status().await["authority_version"], 2);
    scene.stands();
    let _ = scene.siege.lift(1, &[]).await;
}

async fn discovery(server: &Server) -> Value {
    let mut door = muster_tests::est::connect(server).await.expect("a connection");
    let answer = door.get("/.well-known/muster").await.expect("an answer");
    serde_json::from_slice(&answer.body).expect("a discovery document")
}

/// The chain with a successor in which the thief approves, signed by every key of the server.
fn forged_successor(scene: &Scene, chain: &Value) -> Value {
    use base64::prelude::{BASE64_STANDARD, Engine as _};
    let first = BASE64_STANDARD.decode(chain[0].as_str().unwrap()).unwrap();
    let first = MultiSigned::<Authority>::parse(&first).unwrap();
    let digest = first.payload_digest();
    let mut document = first.verify_by_digest(digest).unwrap().into_document();
    document.version = 2;
    document.previous = Some(digest);
    document.approvers = [("eve", stranger()), ("mallory", SigningKey::from_bytes(&[0x5b; 32]))]
        .map(|(name, key)| Approver {
            name: name.parse().unwrap(),
            key: Ed25519Key::from_bytes(key.verifying_key().as_bytes()).unwrap(),
            valid_from: Timestamp(0),
        })
        .into();
    let mut next = MultiSigned::unsigned(&document);
    for signer in [scene.command_key(), scene.audit_key(), stranger()] {
        next.add_signature(&signer).unwrap();
    }
    json!([chain[0], BASE64_STANDARD.encode(next.to_bytes())])
}
