//! A12 at the server: receipts, reports and signatures that were good once, brought again by somebody else, for something
//! else, out of turn, or a hundred times. Each is bound to what it was made for and counts at most once.

use super::packets::Beside;
use super::siege::{Siege, enters_gate, patient};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::DecodePrivateKey as _;
use http::Method;
use muster_tests::est::{self, Pledge};
use muster_tests::measure::address;
use muster_tests::measure::fleet::Member;
use muster_tests::measure::line::{Line, Packet};
use muster_tests::{Agent, Answer, PATIENCE, Server, Site};
use muster_wire::digest::Sha256Digest;
use muster_wire::envelope::{MultiSigned, Signed, payload_digest, sign1};
use muster_wire::id::OrderId;
use muster_wire::key::{Ed25519Key, PublicKey};
use muster_wire::order::Order;
use muster_wire::receipt::{Ack, Receipt, ReceiptOutcome, ReceiptPhase};
use muster_wire::time::Timestamp;
use muster_wire::topic::Channel;
use muster_wire::warrant::{Level, Warrant};
use serde_json::{Value, json};
use tokio::time::timeout;

const SERIAL: &str = "C02XL0GTJG5H";

/// A siege in which a device may come as often as it likes, so that what refuses it is not the limit.
async fn begin() -> Siege {
    let launch = patient().with("MUSTER_MQTT_CONNECTS_PER_MINUTE", "1000");
    Siege::of(Server::on(Site::founded().await, launch).await).await
}

/// A life of the thing with this serial number.
async fn life(server: &Server, serial: &str) -> Member {
    let minted = server.mint_with(&["--profile", "sensor-linux", "--serial", serial]).await.remove(0);
    let pledge = Pledge::new("");
    let answer = est::enroll(server, &minted.token, &pledge.csr).await.expect("an answer");
    let leaf = est::leaf(&answer);
    let member = Member::new(pledge, &leaf);
    assert_eq!(est::prove(server, &member.identity).await.expect("an answer").status, 200);
    member
}

async fn session(server: &Server, member: &Member) -> Line {
    Line::begin(member, address(&server.endpoints().mqtt), 60, &[]).await.expect("a session")
}

/// Publishes in a session of its own; whether it was taken. A gate that refuses closes.
async fn says(server: &Server, member: &Member, channel: Channel, body: &[u8]) -> bool {
    let mut line = session(server, member).await;
    let topic = channel.topic(member.id);
    timeout(PATIENCE, line.deliver(&topic, 5, body)).await.expect("taken, or the gate closes").is_ok()
}

fn command_key(server: &Server) -> PublicKey {
    let pem = std::fs::read_to_string(server.site().data_dir().join("keys/command.key")).unwrap();
    let key = SigningKey::from_pkcs8_pem(&pem).expect("an Ed25519 key").verifying_key();
    PublicKey::Ed25519(Ed25519Key::from_bytes(key.as_bytes()).unwrap())
}

/// What a device that is let go knows of it.
struct Told<'a> {
    member: &'a Member,
    order: OrderId,
    warrant: Sha256Digest,
}

impl<'a> Told<'a> {
    /// Takes the order to wipe that waits for `member`.
    async fn to(server: &Server, member: &'a Member) -> Self {
        let (mut line, key) = (session(server, member).await, command_key(server));
        let taken = async {
            loop {
                let packet = line.next().await.expect("the session goes on");
                let Packet::Publish { topic, id, payload } = packet else { continue };
                line.acknowledge(id).await.expect("the session goes on");
                if topic != Channel::Order.topic(member.id) {
                    continue;
                }
                let order = Signed::<Order>::parse(&payload).unwrap();
                let order = order.verify(std::slice::from_ref(&key)).unwrap().into_document();
                if let Some(warrant) = &order.warrant {
                    let warrant = MultiSigned::<Warrant>::parse(warrant).unwrap().payload_digest();
                    return Self { member, order: order.id, warrant };
                }
            }
        };
        timeout(PATIENCE, taken).await.expect("the order comes")
    }

    fn receipt(&self, phase: ReceiptPhase, previous: Option<&Receipt>) -> Receipt {
        Receipt {
            device: self.member.id,
            order: self.order,
            warrant: Some(self.warrant),
            level: Some(Level::Clear),
            phase,
            outcome: ReceiptOutcome::Done,
            items: Vec::new(),
            evidence: Sha256Digest([4; 32]),
            previous: previous.map(payload_digest),
            certificate: self.member.certificate(),
            last_checkpoint: None,
            at: Timestamp(1_800_000_000),
        }
    }

    fn signed(&self, receipt: &Receipt) -> Vec<u8> {
        sign1(receipt, self.member).unwrap()
    }

    async fn tells(&self, server: &Server, receipt: &Receipt) -> bool {
        says(server, self.member, Channel::Receipt, &self.signed(receipt)).await
    }
}

async fn phases(server: &Server, device: &str) -> Vec<String> {
    let order = server.wipe_order(device).await;
    let receipts = order["receipts"].as_array().unwrap().iter();
    receipts.map(|receipt| receipt["phase"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_is_its_devices_for_its_order_in_its_turn_and_counts_once() {
    let siege = begin().await;
    let mut beside = Beside::begin(&siege).await;
    let server = siege.server();
    let (thing, sibling) = (life(server, SERIAL).await, life(server, "C02XL0GTJG5J").await);
    let id = thing.id.to_string();
    let _ = server.let_go(&id, "clear").await;
    let told = Told::to(server, &thing).await;
    let accepted = told.receipt(ReceiptPhase::Accepted, None);
    let armed = told.receipt(ReceiptPhase::Armed, Some(&accepted));

    // By a sibling: as it was signed, with another signature, for another order's device.
    assert!(!says(server, &sibling, Channel::Receipt, &told.signed(&accepted)).await);
    assert!(!says(server, &sibling, Channel::Receipt, &sign1(&accepted, &sibling).unwrap()).await);
    let claimed = Receipt { device: sibling.id, certificate: sibling.certificate(), ..accepted.clone() };
    assert!(!says(server, &sibling, Channel::Receipt, &sign1(&claimed, &sibling).unwrap()).await);
    // By the device itself: for another warrant, in another's place, out of turn.
    let other = Receipt { warrant: Some(Sha256Digest([9; 32])), ..accepted.clone() };
    assert!(!told.tells(server, &other).await);
    assert!(!told.tells(server, &Receipt { warrant: None, ..accepted.clone() }).await);
    assert!(!told.tells(server, &told.receipt(ReceiptPhase::Verified, Some(&armed))).await);
    let device = server.device(&id).await;
    assert_eq!(
        (&device["state"], phases(server, &id).await.len()),
        (&"deprovisioning".into(), 0),
        "{device}"
    );

    assert!(told.tells(server, &accepted).await && told.tells(server, &armed).await);
    a_hundred_times(server, &told, &armed).await;
    let keys = told.receipt(ReceiptPhase::KeysDestroyed, Some(&armed));
    assert!(told.tells(server, &keys).await);
    // What is older comes after what is newer: the same is known, another is refused.
    assert!(told.tells(server, &accepted).await);
    let rewritten = Receipt { at: Timestamp(1_800_000_001), ..armed.clone() };
    assert!(!told.tells(server, &rewritten).await);
    assert_eq!(phases(server, &id).await, ["accepted", "armed", "keys_destroyed"]);
    assert_eq!(server.device(&id).await["phase"], "executing");
    beside.goes_on(server).await;

    let data = told.receipt(ReceiptPhase::DataDestroyed, Some(&keys));
    let verified = told.receipt(ReceiptPhase::Verified, Some(&data));
    assert!(told.tells(server, &data).await && told.tells(server, &verified).await);
    assert_eq!(server.device(&id).await["retirement"], "proven");

    // The next life of the same thing gains nothing by what the former said.
    let next = life(server, SERIAL).await;
    for receipt in [&accepted, &armed, &verified] {
        assert!(!says(server, &next, Channel::Receipt, &told.signed(receipt)).await);
        let anew = Receipt { device: next.id, certificate: next.certificate(), ..receipt.clone() };
        assert!(!says(server, &next, Channel::Receipt, &sign1(&anew, &next).unwrap()).await);
    }
    assert_eq!(server.device(&next.id.to_string()).await["state"], "commissioning");
    beside.goes_on(server).await;
    let rules =
        ["receipt.envelope", "receipt.other_order", "receipt.chain", "receipt.backwards", "report.device"];
    let _ = siege.lift(Beside::ISSUED + 3, &rules).await;
}

/// Brings `receipt`, which is known, a hundred times: each is acknowledged, and nothing changes.
async fn a_hundred_times(server: &Server, told: &Told<'_>, receipt: &Receipt) {
    let before = server.history(&told.member.id.to_string()).await;
    let (mut line, key) = (session(server, told.member).await, command_key(server));
    let (topic, body) = (Channel::Receipt.topic(told.member.id), told.signed(receipt));
    let mut acks = Vec::new();
    let answered = async {
        for n in 1..=100 {
            line.publish(&topic, n, &body).await.expect("the session goes on");
            let mut is_taken = false;
            while !is_taken || acks.is_empty() {
                match line.next().await.expect("the session goes on") {
                    Packet::PubAck(_) => is_taken = true,
                    Packet::Publish { topic, id, payload } => {
                        line.acknowledge(id).await.expect("the session goes on");
                        if topic == Channel::Ack.topic(told.member.id) {
                            acks.push(payload);
                        }
                    }
                    Packet::Other(_) => {}
                }
            }
        }
    };
    timeout(PATIENCE, answered).await.expect("a hundred are taken");
    acks.dedup();
    let [ack] = &acks[..] else { panic!("{} different words about one receipt", acks.len()) };
    let ack = Signed::<Ack>::parse(ack).unwrap().verify(&[key]).unwrap();
    assert_eq!((ack.order, ack.receipt), (told.order, payload_digest(receipt)));
    assert_eq!(server.history(&told.member.id.to_string()).await, before, "nothing was done a second time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_is_its_devices_and_an_older_one_undoes_nothing() {
    let siege = begin().await;
    let mut beside = Beside::begin(&siege).await;
    let server = siege.server();
    let (thing, sibling) = (life(server, SERIAL).await, life(server, "C02XL0GTJG5J").await);
    let id = thing.id.to_string();
    let older = thing.state(1);
    let newer = thing.state(server.set_baseline("profile = \"sensor-linux\"\n").await);
    assert!(says(server, &thing, Channel::ReportState, &older).await);
    let between = server.device(&id).await["generation"]["reported"].clone();
    assert!(says(server, &thing, Channel::ReportState, &newer).await);
    let reported = server.device(&id).await["generation"]["reported"].clone();
    assert_ne!(reported, between);

    let posture = thing.posture();
    assert!(says(server, &thing, Channel::ReportPosture, &posture).await);
    for (channel, body) in
        [(Channel::ReportState, &newer), (Channel::ReportPosture, &posture), (Channel::ReportState, &older)]
    {
        assert!(!says(server, &sibling, channel, body).await, "a sibling's word");
    }
    for _ in 0..50 {
        assert!(says(server, &thing, Channel::ReportState, &newer).await);
    }
    assert_eq!(server.device(&id).await["generation"]["reported"], reported);
    assert_eq!(server.device(&sibling.id.to_string()).await["generation"]["reported"], Value::Null);

    // The former life's words are not the next one's.
    let next = life(server, SERIAL).await;
    for (channel, body) in [(Channel::ReportState, &newer), (Channel::ReportPosture, &posture)] {
        assert!(!says(server, &next, channel, body).await, "the former life's word");
    }
    assert_eq!(server.device(&next.id.to_string()).await["generation"]["reported"], Value::Null);
    assert!(!enters_gate(server, &thing.identity).await, "the former life is over");
    beside.goes_on(server).await;
    let _ = siege.lift(Beside::ISSUED + 3, &["report.device"]).await;
}

/// What an approver signs for `warrant`, and hands to whoever carries it.
async fn signature_of(server: &Server, warrant: &str, name: &str) -> Value {
    let path = |name: &str| server.site().path(name).display().to_string();
    let (package, out) = (path(&format!("{warrant}.package")), path(&format!("{warrant}.{name}")));
    let _ = server.cli(&["warrant", "show", warrant, "--package", &package]).await;
    let words =
        ["warrant", "sign", "--package", &package, "--key", &path(&format!("{name}.key")), "--out", &out];
    let _ = server.cli(&words).await;
    let handed: Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    json!({ "signed": handed["signed"] })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_counts_once_for_its_own_warrant_and_a_stopped_one_stays_stopped() {
    let siege = begin().await;
    let mut beside = Beside::begin(&siege).await;
    let server = siege.server();
    let (victim, other) = (Agent::enrolled(server, "sensor-linux").await, siege.device("sensor-linux").await);
    let id = victim.id();
    let _running = victim.start();
    let _ = server.device_when(&id, "it is active", |device| device["state"] == "active").await;
    let warrant = server.deprovision(&id, "clear").await;
    let elsewhere = server.deprovision(&other.id, "clear").await;
    let hand_in = async |warrant: &str, signed: &Value| {
        siege.rest(Method::POST, &format!("/v1/warrants/{warrant}:sign"), Some(signed)).await
    };

    // Alice's for one device is brought for another; Alice's own a hundred times.
    let (for_victim, for_other) =
        (signature_of(server, &warrant, "alice").await, signature_of(server, &elsewhere, "alice").await);
    let refused_by = |answer: Answer| (answer.status.as_u16(), answer.json()["rule"].clone());
    assert_eq!(refused_by(hand_in(&warrant, &for_other).await), (409, "warrant.other".into()));
    for _ in 0..100 {
        assert_eq!(hand_in(&warrant, &for_victim).await.status, 200);
    }
    let shown = server.cli(&["warrant", "show", &warrant]).await;
    assert_eq!((&shown["state"], &shown["signed_by"]), (&"requested".into(), &json!(["alice"])), "{shown}");

    // Stopped by one, it stays so, however often the missing signature is brought.
    let bobs = signature_of(server, &warrant, "bob").await;
    let key = server.site().path("bob.key").display().to_string();
    let _ = server.cli(&["warrant", "stop", &warrant, "--key", &key, "--yes"]).await;
    for _ in 0..3 {
        for signed in [&bobs, &for_victim] {
            assert_eq!(refused_by(hand_in(&warrant, signed).await), (409, "warrant.ended".into()));
        }
    }
    let back = server.device_when(&id, "it is back", |device| device["state"] == "active").await;
    assert_eq!(back["phase"], Value::Null, "{back}");
    let order = server.order("collect_posture", &id).await;
    let _ = server.done(&order).await;
    let orders = server.cli(&["order", "list", "--device", &id]).await;
    assert!(!orders.to_string().contains("\"kind\":\"wipe\""), "{orders}");
    assert!(victim.state_dir().join("identity/key.pem").exists());
    beside.goes_on(server).await;
    let _ = siege.lift(Beside::ISSUED + 2, &["warrant.other", "warrant.ended"]).await;
}
