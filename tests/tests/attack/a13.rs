//! A13: an older baseline, an older agent's word, another profile's baseline, a desired state that is never refreshed.
//!
//! Whoever says it has everything that a broken-in broker has and more: the server's own certificate, heads that the
//! command key did sign, the command key itself. A device goes below nothing it has seen, and says so; what the impostor
//! swallows the real server hears later.

use super::impostor::{FalseDoor, FalseGate};
use super::packets::{Session, report};
use super::siege::{Device, Siege, patient};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::DecodePrivateKey as _;
use muster_tests::{Agent, Proxy, Server, Site, eventually};
use muster_wire::cbor;
use muster_wire::desired::{
    AgentSetting, Baseline, Content, DesiredHead, Generation, Lapse, Lease, Mode, Section,
};
use muster_wire::envelope::{MultiSigned, Signed, sign1};
use muster_wire::id::ReportId;
use muster_wire::key::Signer as _;
use muster_wire::posture::{EventKind, StateReport};
use muster_wire::time::Timestamp;

const NOTICE: &str = "/var/lib/muster-agent/managed/notice";

/// A sensor in its second generation, whose way to the server leads through proxies, and what it heard in the first.
struct Scene {
    siege: Siege,
    gate: Proxy,
    door: Proxy,
    sensor: Agent,
    first: Vec<u8>,
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
        let server = siege.server();
        let _ = server.set_baseline(&baseline("one")).await;
        let sensor = Agent::enrolled(server, "sensor-linux").await;
        let first = head_of(server, &identity(&sensor)).await;
        let scene = Self { siege, gate, door, sensor, first };
        scene.reaches("one", 2).await;
        let _ = scene.server().set_baseline(&baseline("two")).await;
        scene.reaches("two", 3).await;
        scene
    }

    fn server(&self) -> &Server {
        self.siege.server()
    }

    /// Lets the agent run until it has reported `generation`, with the notice saying `content`.
    async fn reaches(&self, content: &str, generation: u64) {
        let _running = self.sensor.start();
        let reported = |device: &serde_json::Value| device["generation"]["reported"] == generation;
        let _ = self.server().device_when(&self.sensor.id(), "it reports its generation", reported).await;
        assert_eq!(self.sensor.file(NOTICE), content);
    }

    fn command_key(&self) -> SigningKey {
        let pem = std::fs::read_to_string(self.server().site().data_dir().join("keys/command.key")).unwrap();
        SigningKey::from_pkcs8_pem(&pem).expect("an Ed25519 key")
    }

    fn opened(&self, head: &[u8]) -> DesiredHead {
        let keys = [self.command_key().public_key()];
        Signed::<DesiredHead>::parse(head)
            .unwrap()
            .verify(&keys)
            .expect("signed by our server")
            .into_document()
    }

    fn forged(&self, head: &DesiredHead) -> Vec<u8> {
        sign1(head, &self.command_key()).unwrap()
    }

    /// After the attack: the honest server hears of it, finds the device as it was, and serves.
    async fn ends(self, told: &str, issued: usize) {
        self.gate.forward_to(&self.server().endpoints().mqtt);
        self.door.forward_to(&self.server().endpoints().device);
        let id = self.sensor.id();
        let _running = self.sensor.start();
        eventually("the server hears of it", async || {
            self.server().history(&id).await.contains(told).then_some(())
        })
        .await;
        let shown = self.server().device(&id).await;
        assert_eq!(shown["generation"], serde_json::json!({"desired": 3, "reported": 3}), "{shown}");
        assert_eq!(self.sensor.file(NOTICE), "two");
        let _ = self.siege.lift(issued, &[]).await;
    }
}

fn baseline(content: &str) -> String {
    format!(
        "profile = \"sensor-linux\"\n[[baseline.files]]\npath = \"{NOTICE}\"\ncontent = \"{content}\"\nmode = \"0644\"\n"
    )
}

/// Whoever has copied the key of `agent`.
fn identity(agent: &Agent) -> Device {
    Device { id: agent.id(), identity: agent.identity() }
}

/// The head that `device` is told.
async fn head_of(server: &Server, device: &Device) -> Vec<u8> {
    let mut session = Session::begin(server, device).await;
    assert_eq!(session.subscribe(&format!("muster/v1/{}/desired", device.id)).await, 1);
    session.message().await.1
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_desired_state_is_refused_below_the_highest_seen() {
    let scene = Scene::set().await;
    let first = scene.opened(&scene.first);
    assert_eq!(first.generation.counter, 2);
    let now = Timestamp(time::OffsetDateTime::now_utc().unix_timestamp());
    // As it was said then; the same signed again now; and the very first, which the device never had.
    let again = DesiredHead { issued_at: now, ..first.clone() };
    let before = DesiredHead { generation: Generation { restore_epoch: 0, counter: 1 }, ..again.clone() };
    for head in [scene.first.clone(), scene.forged(&again), scene.forged(&before)] {
        let counter = scene.opened(&head).generation.counter;
        let mut gate = FalseGate::open(scene.server().site(), vec![head]).await;
        scene.gate.forward_to(gate.url());
        let running = scene.sensor.start();
        let stale = format!("generation {counter} is stale: 3 was seen before");
        let _ = gate.hears("it is called stale", |event| event.detail.contains(&stale)).await;
        assert_eq!(running.terminate().await, Some(0));
        assert_eq!(scene.sensor.file(NOTICE), "two");
        assert_eq!(scene.sensor.status().await["generation"], 3);
    }
    scene.ends("is stale", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_profiles_baseline_is_refused_although_all_of_it_is_signed() {
    let scene = Scene::set().await;
    let laptop = scene.siege.device("laptop-linux").await;
    let of_laptop = scene.opened(&head_of(scene.server(), &laptop).await);
    let path = format!("/.well-known/muster/baselines/{}", of_laptop.baseline.to_hex());
    let signed = laptop.connect(scene.server()).await.unwrap().get(&path).await.unwrap();
    assert_eq!(signed.status, 200);
    let honest = identity(&scene.sensor).connect(scene.server()).await.unwrap().get(&path).await.unwrap();
    assert_eq!(honest.status, 404, "the real door gives nobody another profile's baseline");

    let generation = Generation { restore_epoch: 0, counter: 99 };
    let head = DesiredHead { generation, baseline: of_laptop.baseline, ..scene.opened(&scene.first) };
    let mut gate = FalseGate::open(scene.server().site(), vec![scene.forged(&head)]).await;
    let door = FalseDoor::open(scene.server(), signed.body.to_vec()).await;
    scene.gate.forward_to(gate.url());
    scene.door.forward_to(door.url());
    let running = scene.sensor.start();
    let other = "the baseline is for profile \"laptop-linux\", this device is of profile \"sensor-linux\"";
    let _ = gate.hears("it is refused", |event| event.detail.contains(other)).await;
    drop(running);
    assert_eq!(scene.sensor.status().await["generation"], 3);
    scene.ends("a baseline was refused", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_baseline_that_sets_the_agent_itself_needs_approvers_and_the_command_key_is_none() {
    let scene = Scene::set().await;
    let wider = AgentSetting { declared_roots: vec!["/etc".to_owned()] };
    let wanted = Baseline {
        profile: "sensor-linux".to_owned(),
        sections: vec![Section { mode: Mode::Enforce, content: Content::Agent(wider) }],
    };
    let mut signed = MultiSigned::unsigned(&wanted);
    signed.add_signature(&scene.command_key()).unwrap();
    let generation = Generation { restore_epoch: 0, counter: 99 };
    let head = DesiredHead { generation, baseline: signed.payload_digest(), ..scene.opened(&scene.first) };
    let mut gate = FalseGate::open(scene.server().site(), vec![scene.forged(&head)]).await;
    let door = FalseDoor::open(scene.server(), signed.to_bytes()).await;
    scene.gate.forward_to(gate.url());
    scene.door.forward_to(door.url());
    let running = scene.sensor.start();
    let unapproved = "section agent needs 2 approvers";
    let _ = gate.hears("it is refused", |event| event.detail.contains(unapproved)).await;
    drop(running);
    assert_eq!(scene.sensor.status().await["generation"], 3);
    scene.ends(unapproved, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_agent_said_undoes_nothing_that_a_newer_one_has() {
    let scene = Scene::set().await;
    let sensor = identity(&scene.sensor);
    let before = scene.server().device(&sensor.id).await;
    let mut session = Session::begin(scene.server(), &sensor).await;
    let older = StateReport {
        device: sensor.id.parse().unwrap(),
        id: ReportId::from_bytes([7; 16]),
        generation: Some(Generation { restore_epoch: 0, counter: 2 }),
        drift: Vec::new(),
        agent_version: "0.0.1".to_owned(),
        last_checkpoint: None,
        at: Timestamp(1_700_000_000),
    };
    let topic = format!("muster/v1/{}/report/state", sensor.id);
    session.say(&report(&topic, &cbor::encode(&older))).await;
    assert_eq!(session.next().await.unwrap().0, 0x40, "taken, or it would come for ever");
    let after = scene.server().device(&sensor.id).await;
    assert_eq!(
        (&after["generation"], &after["agent_version"]),
        (&before["generation"], &before["agent_version"])
    );
    drop(session);
    scene.ends("report.state", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_desired_state_that_is_never_refreshed_is_reported_stale() {
    let scene = Scene::set().await;
    // The one in force, as a server says it that grants two seconds: once, and then the same again in every session.
    let in_force = scene.opened(&head_of(scene.server(), &identity(&scene.sensor)).await);
    let lease = Lease { lasts_s: 2, on_lapse: Lapse::Report };
    let head = DesiredHead { lease, issued_at: in_force.issued_at.plus_seconds(1), ..in_force };
    let heads = vec![scene.forged(&head), scene.forged(&head)];
    let mut gate = FalseGate::open(scene.server().site(), heads).await;
    scene.gate.forward_to(gate.url());
    let running = scene.sensor.start();
    let event = gate.hears("it is called stale", |event| event.kind == EventKind::LeaseLapsed).await;
    assert!(event.detail.contains("stale"), "{}", event.detail);
    eventually("the device says so, too", async || {
        (scene.sensor.status().await["stale"] == true).then_some(())
    })
    .await;
    drop(running);
    let renewed = DesiredHead { issued_at: head.issued_at.plus_seconds(3600), ..head };
    let renewed = DesiredHead { lease: Lease { lasts_s: 0, ..renewed.lease }, ..renewed };
    let gate = FalseGate::open(scene.server().site(), vec![scene.forged(&renewed)]).await;
    scene.gate.forward_to(gate.url());
    let running = scene.sensor.start();
    eventually("a newer word mends it", async || {
        (scene.sensor.status().await["stale"] == false).then_some(())
    })
    .await;
    drop(running);
    scene.ends("lease_lapsed", 1).await;
}
