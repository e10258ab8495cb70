//! The golden vectors of `tests/vectors`, checked both ways.
//!
//! What an independent script made is verified and decoded to the value expected here; that value, encoded and
//! signed again by this crate, gives the script's bytes.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use muster_wire::authority::{Approver, Authority, RecoveryKey, Required};
use muster_wire::cbor::{self, Document};
use muster_wire::checkpoint::Checkpoint;
use muster_wire::desired::*;
use muster_wire::enrollment::{EnrollmentString, Token};
use muster_wire::envelope::{MultiSigned, Signed, SignedByMany, SignedOnce, external_aad, sign1};
use muster_wire::key::{Ed25519Key, P256Key, PublicKey, SIGNATURE_LEN, SignError, Signer};
use muster_wire::lineage::Lineage;
use muster_wire::merkle::*;
use muster_wire::order::{Action, Order, Recipient, Sequence, admit};
use muster_wire::posture::*;
use muster_wire::receipt::*;
use muster_wire::renew::Renew;
use muster_wire::warrant::{Kind, Level, Target, Warrant};
use muster_wire::{DeviceId, OrderId, ReportId, RequestId, Sha256Digest, Timestamp, WarrantId};
use serde_json::Value;
use std::fmt::Debug;

const T0: i64 = 1_700_000_000;
const ORIGIN: &str = "fleet.example/audit";

fn load(name: &str) -> Value {
    let path = format!("{}/../tests/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn digest(value: &Value) -> Sha256Digest {
    value.as_str().unwrap().parse().unwrap()
}

fn digests(value: &Value) -> Vec<Sha256Digest> {
    value.as_array().unwrap().iter().map(digest).collect()
}

/// A key of a vector: as deterministic as the script's.
enum TestKey {
    Ed25519(ed25519_dalek::SigningKey),
    P256(p256::ecdsa::SigningKey),
}

impl TestKey {
    fn load(signer: &Value) -> Self {
        let secret: [u8; 32] = bytes(&signer["private"]).try_into().unwrap();
        match signer["algorithm"].as_str().unwrap() {
            "Ed25519" => Self::Ed25519(ed25519_dalek::SigningKey::from_bytes(&secret)),
            _ => Self::P256(p256::ecdsa::SigningKey::from_slice(&secret).unwrap()),
        }
    }
}

impl Signer for TestKey {
    fn public_key(&self) -> PublicKey {
        match self {
            Self::Ed25519(key) => key.public_key(),
            Self::P256(key) => {
                let point = key.verifying_key().to_encoded_point(false);
                let point = point.as_bytes().try_into().unwrap();
                PublicKey::P256(P256Key::from_uncompressed(point).unwrap())
            }
        }
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; SIGNATURE_LEN], SignError> {
        match self {
            Self::Ed25519(key) => Signer::sign(key, message),
            Self::P256(key) => {
                let signature: p256::ecdsa::Signature = p256::ecdsa::signature::Signer::sign(key, message);
                Ok(signature.to_bytes().into())
            }
        }
    }
}

fn keys(vector: &Value) -> Vec<TestKey> {
    let keys: Vec<_> = vector["signers"].as_array().unwrap().iter().map(TestKey::load).collect();
    for (key, signer) in keys.iter().zip(vector["signers"].as_array().unwrap()) {
        assert_eq!(key.public_key().to_spki_der(), bytes(&signer["spki"]));
    }
    keys
}

fn public(keys: &[TestKey]) -> Vec<PublicKey> {
    keys.iter().map(Signer::public_key).collect()
}

fn check_payload<T: Document + PartialEq + Debug>(vector: &Value, expected: &T) {
    assert_eq!(vector["external_aad"], external_aad::<T>());
    let payload = bytes(&vector["payload"]);
    assert_eq!(hex::encode(cbor::encode(expected)), hex::encode(&payload), "{}", T::NAME);
    assert_eq!(cbor::decode::<T>(&payload).unwrap(), *expected);
}

fn check_one<T: SignedOnce + PartialEq + Debug>(name: &str, expected: &T) {
    let vector = load(name);
    check_payload(&vector, expected);
    let (message, keys) = (bytes(&vector["message"]), keys(&vector));
    let verified = Signed::<T>::parse(&message).unwrap().verify(&public(&keys)).unwrap();
    assert_eq!(*verified, *expected);
    assert_eq!(sign1(expected, &keys[0]).unwrap(), message, "{name}");
}

fn check_many<T: SignedByMany + PartialEq + Debug>(name: &str, expected: &T) {
    let vector = load(name);
    check_payload(&vector, expected);
    let (message, keys) = (bytes(&vector["message"]), keys(&vector));
    let parsed = MultiSigned::<T>::parse(&message).unwrap();
    assert_eq!(*parsed.verify(&public(&keys), keys.len()).unwrap(), *expected);
    let mut signed = MultiSigned::unsigned(expected);
    for key in &keys {
        signed.add_signature(key).unwrap();
    }
    assert_eq!(signed.to_bytes(), message, "{name}");
}

/// A UUIDv7 as the script makes it: its random part is `number` repeated.
fn fixed_id(number: u8) -> [u8; 16] {
    *DeviceId::from_parts(1_700_000_000_000, [number; 10]).as_bytes()
}

fn device() -> DeviceId {
    DeviceId::from_bytes(fixed_id(1))
}

/// A key by the name it has in the script.
fn named(name: &str) -> Ed25519Key {
    let seed = Sha256Digest::of(format!("muster test vector key: {name}").as_bytes());
    let secret = ed25519_dalek::SigningKey::from_bytes(seed.as_bytes());
    Ed25519Key::from_bytes(secret.verifying_key().as_bytes()).unwrap()
}

fn approver(name: &str, since: i64) -> Approver {
    Approver { name: name.parse().unwrap(), key: named(name), valid_from: Timestamp(since) }
}

fn authority(version: u64, approvers: Vec<Approver>, previous: Option<Sha256Digest>) -> Authority {
    let safe = |name: &str| RecoveryKey { name: name.parse().unwrap(), key: named(name) };
    Authority {
        version,
        trust_domain: "fleet.example".parse().unwrap(),
        command_keys: vec![named("command")],
        audit_keys: vec![named("audit")],
        approvers,
        recovery: ["safe 1", "safe 2", "safe 3"].map(safe).into(),
        required: Required::founding(3).0,
        previous,
    }
}

fn authority_1() -> Authority {
    authority(1, vec![approver("alice", T0), approver("bob", T0), approver("carol", T0)], None)
}

fn authority_2() -> Authority {
    let approvers = vec![approver("alice", T0), approver("bob", T0), approver("dave", T0 + 1000)];
    authority(2, approvers, Some(Sha256Digest::of(&cbor::encode(&authority_1()))))
}

fn targets() -> Vec<Target> {
    let target = |number, serial: Option<&str>, owner: Option<&str>| Target {
        device: DeviceId::from_bytes(fixed_id(number)),
        serial: serial.map(str::to_owned),
        owner: owner.map(str::to_owned),
        kind: Kind::Wipe,
        level: Some(Level::Clear),
    };
    vec![target(1, Some("SN0001"), Some("Ada")), target(2, None, None), target(3, Some("SN0003"), None)]
}

fn wipe() -> Action {
    Action::Wipe { level: Level::Clear, data_roots: vec!["/srv/data".into()] }
}

fn warrant() -> Warrant {
    let leaves: Vec<_> = targets().iter().map(Target::leaf_hash).collect();
    Warrant {
        id: WarrantId::from_bytes(fixed_id(10)),
        kind: Kind::Wipe,
        level: Some(Level::Clear),
        plan: wipe().plan(),
        root: root_of(&leaves),
        count: 3,
        not_after: Timestamp(T0 + 31_536_000),
        authority_version: 1,
    }
}

fn order() -> Order {
    let leaves: Vec<_> = targets().iter().map(Target::leaf_hash).collect();
    Order {
        device: device(),
        id: OrderId::from_bytes(fixed_id(11)),
        sequence: Sequence { authority_version: 1, restore_epoch: 0, counter: 5 },
        action: wipe(),
        warrant: Some(bytes(&load("warrant")["message"])),
        leaf: Some(targets()[0].clone()),
        inclusion: prove_inclusion(&leaves, 0),
        issued_at: Timestamp(T0 + 100),
        expires: Timestamp(T0 + 700),
        checkpoint: load("log")["checkpoint"].as_str().unwrap().to_owned(),
        consistency: prove_consistency(&log(9), 6).unwrap(),
    }
}

fn log(size: usize) -> Vec<Sha256Digest> {
    (0..size).map(|number| leaf_hash(format!("entry {number}").as_bytes())).collect()
}

fn log_head(size: usize) -> TreeHead {
    TreeHead { size: size as u64, root: root_of(&log(size)) }
}

#[test]
fn authority_documents_and_their_chain() {
    check_many("authority-1", &authority_1());
    check_many("authority-2", &authority_2());
    check_many("authority-2-recovery", &authority_2());
    let first = bytes(&load("authority-1")["message"]);
    let trusted = Sha256Digest::of(&cbor::encode(&authority_1()));
    for second in ["authority-2", "authority-2-recovery"] {
        let chain = [first.clone(), bytes(&load(second)["message"])];
        let lineage = Lineage::walk(&chain, trusted, Timestamp(T0 + 2000)).unwrap();
        assert_eq!(**lineage.current(), authority_2());
    }
}

#[test]
fn a_warrant_and_the_order_under_it() {
    check_many("warrant", &warrant());
    check_one("order", &order());
    let founding = bytes(&load("authority-1")["message"]);
    let now = Timestamp(T0 + 200);
    let lineage = Lineage::walk(&[founding], Sha256Digest::of(&cbor::encode(&authority_1())), now).unwrap();
    let recipient = Recipient {
        device: device(),
        serial: Some("SN0001"),
        highest: None,
        log_origin: ORIGIN,
        log_head: log_head(6),
    };
    let order = Signed::<Order>::parse(&bytes(&load("order")["message"])).unwrap();
    let order = order.verify(&lineage.current().command_keys()).unwrap();
    let admitted = admit(&order, &recipient, &lineage, now).unwrap();
    assert_eq!((admitted.warrant.unwrap().count, admitted.log_head), (3, log_head(9)));
}

fn baseline() -> Baseline {
    let file = FileEntry {
        path: "/etc/motd".into(),
        mode: 0o644,
        owner: "root".into(),
        group: "root".into(),
        content: b"hello\n".to_vec(),
    };
    let setting = |key: &str, value: &str| vec![Setting { key: key.into(), value: value.into() }];
    let unit = Unit { name: "ssh.service".into(), enabled: true, active: false };
    let time = TimeSetting { servers: vec!["ntp.example".into()], zone: Some("Etc/UTC".into()) };
    let package = Package { name: "telnetd".into(), present: false };
    let sections = [
        (Mode::Enforce, Content::Files(vec![file])),
        (Mode::Audit, Content::Sysctl(setting("kernel.kptr_restrict", "2"))),
        (Mode::Enforce, Content::SystemdUnits(vec![unit])),
        (Mode::Enforce, Content::Ssh(setting("PermitRootLogin", "no"))),
        (Mode::Enforce, Content::Time(time)),
        (Mode::Enforce, Content::Packages(vec![package])),
        (Mode::Audit, Content::Agent(AgentSetting { declared_roots: vec!["/srv".into()] })),
    ];
    let sections = sections.map(|(mode, content)| Section { mode, content });
    Baseline { profile: "laptop-linux".into(), sections: sections.into() }
}

#[test]
fn desired_state() {
    check_many("baseline", &baseline());
    let head = DesiredHead {
        device: device(),
        generation: Generation { restore_epoch: 0, counter: 7 },
        baseline: Sha256Digest::of(&cbor::encode(&baseline())),
        certificate: CertificatePolicy {
            key: IdentityKey::P256,
            validity_s: 2_592_000,
            renew_after_percent: 66,
        },
        intervals: Intervals { state_s: 300, posture_s: 3600, drift_s: 900 },
        lease: Lease { lasts_s: 604_800, on_lapse: Lapse::Lock },
        issued_at: Timestamp(T0 + 50),
    };
    check_one("desired", &head);
}

fn facts() -> Vec<Fact> {
    let fact = |name: &str, state, value, evidence: &str, source: &str| Fact {
        name: name.parse().unwrap(),
        state,
        value,
        evidence: evidence.into(),
        source: source.into(),
        collected_at: Timestamp(T0 + 61),
    };
    let ports = FactValue::List(vec!["22/tcp".into(), "23/tcp".into()]);
    let name = FactValue::Text("Debian GNU/Linux".into());
    vec![
        fact(
            "disk_encryption",
            FactState::Pass,
            FactValue::Bool(true),
            "CRYPT-LUKS2",
            "/sys/dev/block/254:0",
        ),
        fact("uptime", FactState::Pass, FactValue::Number(86_400), "", "/proc/uptime"),
        fact("swname", FactState::Pass, name, "", "/etc/os-release"),
        fact("listening_ports", FactState::Fail, ports, "", "/proc/net/tcp"),
        fact("tpm", FactState::NotApplicable, FactValue::Nothing, "", "/sys/class/tpm"),
        fact("clock_offset", FactState::Unknown, FactValue::Number(-3), "", "adjtimex"),
    ]
}

#[test]
fn reports() {
    let state = StateReport {
        device: device(),
        id: ReportId::from_bytes(fixed_id(12)),
        generation: Some(Generation { restore_epoch: 0, counter: 6 }),
        drift: vec![Drift { section: SectionKind::Sysctl, item: "kernel.kptr_restrict".into() }],
        agent_version: "0.1.0".into(),
        last_checkpoint: Some(log_head(9)),
        at: Timestamp(T0 + 60),
    };
    check_one("report-state", &state);
    let id = ReportId::from_bytes(fixed_id(13));
    check_one(
        "report-posture",
        &PostureReport { device: device(), id, facts: facts(), at: Timestamp(T0 + 62) },
    );
    let event = EventReport {
        device: device(),
        id: ReportId::from_bytes(fixed_id(14)),
        kind: EventKind::Refused,
        detail: "order: sequence".into(),
        at: Timestamp(T0 + 63),
    };
    check_one("report-event", &event);
}

#[test]
fn renewals_receipts_and_acks() {
    let certificate = Sha256Digest::of(b"a certificate");
    let request = RequestId::from_bytes(fixed_id(15));
    let csr = vec![0x30, 0x03, 0x02, 0x01, 0x00];
    check_one("renew", &Renew { device: device(), request, certificate, csr });
    let item = |what: &str, fate, size_bytes| ReceiptItem { what: what.into(), fate, size_bytes };
    let receipt = Receipt {
        device: device(),
        order: OrderId::from_bytes(fixed_id(11)),
        warrant: Some(Sha256Digest::of(&cbor::encode(&warrant()))),
        level: Some(Level::Clear),
        phase: ReceiptPhase::DataDestroyed,
        outcome: ReceiptOutcome::Done,
        items: vec![item("/srv/data", ItemFate::Deleted, 4096), item("vpn", ItemFate::KeyDestroyed, 32)],
        evidence: Sha256Digest::of(b"evidence"),
        previous: Some(Sha256Digest::of(b"receipt before")),
        certificate,
        last_checkpoint: Some(log_head(9)),
        at: Timestamp(T0 + 200),
    };
    check_one("receipt", &receipt);
    check_one("receipt-ed25519", &receipt);
    let receipt = Sha256Digest::of(&cbor::encode(&receipt));
    check_one("ack", &Ack { device: device(), order: OrderId::from_bytes(fixed_id(11)), receipt });
}

#[test]
fn tokens_and_enrolment_strings() {
    let vector = load("enrollment");
    for case in vector["tokens"].as_array().unwrap() {
        let text = case["token"].as_str().unwrap();
        let made = Token::from_entropy(&bytes(&case["entropy"]).try_into().unwrap());
        assert_eq!(made.reveal(), text);
        assert_eq!(Token::parse(text).unwrap().digest(), digest(&case["digest"]));
    }
    for case in vector["strings"].as_array().unwrap() {
        let text = case["string"].as_str().unwrap();
        let read = EnrollmentString::parse(text).unwrap();
        assert_eq!((read.host.as_str(), u64::from(read.port)), (case["host"].as_str().unwrap(), 8443));
        assert_eq!((read.ca, read.auth), (digest(&case["ca"]), digest(&case["auth"])));
        assert_eq!(read.auth, Sha256Digest::of(&cbor::encode(&authority_1())));
        assert_eq!(read.reveal(), text);
    }
}

#[test]
fn trees_proofs_and_a_checkpoint() {
    let vector = load("log");
    let leaves = digests(&vector["leaves"]);
    assert_eq!(leaves, log(9));
    let roots = digests(&vector["roots"]);
    for (size, root) in roots.iter().enumerate() {
        assert_eq!(root_of(&leaves[..size]), *root);
    }
    for case in vector["inclusion"].as_array().unwrap() {
        let (index, size) = (case["index"].as_u64().unwrap(), case["size"].as_u64().unwrap());
        let proof = InclusionProof { index, size, path: digests(&case["path"]) };
        assert_eq!(prove_inclusion(&leaves[..size as usize], index as usize), Some(proof.clone()));
        assert_eq!(verify_inclusion(&leaves[index as usize], &proof, &roots[size as usize]), Ok(()));
    }
    for case in vector["consistency"].as_array().unwrap() {
        let (from, to) = (case["from"].as_u64().unwrap(), case["to"].as_u64().unwrap());
        let proof = ConsistencyProof { from_size: from, path: digests(&case["path"]) };
        assert_eq!(prove_consistency(&leaves[..to as usize], from as usize), Some(proof.clone()));
        let (old, new) = (log_head(from as usize), log_head(to as usize));
        assert_eq!(verify_consistency(&old, &new, &proof), Ok(()));
    }
    let note = vector["checkpoint"].as_str().unwrap();
    let key = Ed25519Key::from_bytes(&bytes(&vector["audit_key"]).try_into().unwrap()).unwrap();
    let checkpoint = Checkpoint::verify(note, ORIGIN, &[key]).unwrap();
    assert_eq!(checkpoint.head, log_head(9));
    let secret = ed25519_dalek::SigningKey::from_bytes(&bytes(&vector["audit_private"]).try_into().unwrap());
    assert_eq!(checkpoint.sign(&secret).unwrap(), note);
}
