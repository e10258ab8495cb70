//! Proofs that whoever holds a server can make by himself, and every key in them: `docs/verify-wipe.py` refuses each with
//! a sentence of its own, beside a proof of the same making that is honest and is PROVEN.
//!
//! No server runs here. A fleet is a handful of keys, so that one thing alone is false at a time; that the script takes
//! what a server really writes is the story of [`super::offboarding`].

use super::offboarding::Key;
use base64::prelude::{BASE64_STANDARD, Engine};
use ed25519_dalek::SigningKey;
use muster_pki::key::{Algorithm, DeviceKey};
use muster_tests::judge::{Trusted, openssl, wipe_proof, wipe_proof_on};
use muster_tests::{Launch, Run, run};
use muster_wire::authority::{Approver, Authority, Matter, Required};
use muster_wire::cbor;
use muster_wire::digest::Sha256Digest;
use muster_wire::envelope::{MultiSigned, payload_digest, sign1};
use muster_wire::id::{DeviceId, OrderId, WarrantId, device_uri};
use muster_wire::key::Ed25519Key;
use muster_wire::merkle::prove_inclusion;
use muster_wire::receipt::{Receipt, ReceiptOutcome, ReceiptPhase};
use muster_wire::time::Timestamp;
use muster_wire::warrant::{Kind, Level, Target, Warrant};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PublicKeyData, SanType,
};
use std::path::Path;

const DOMAIN: &str = "fleet.example";
const DEVICE: &str = "01900000-0000-7000-8000-00000000d01e";
/// The warrant's last second.
const END: i64 = 1_795_000_000;

/// A certificate authority with a root and nothing beneath it.
type Ca = CertifiedIssuer<'static, KeyPair>;

fn ca(name: &str) -> Ca {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn approver(name: &str, key: &SigningKey) -> Approver {
    Approver { name: name.parse().unwrap(), key: public(key), valid_from: Timestamp(0) }
}

fn public(key: &SigningKey) -> Ed25519Key {
    Ed25519Key::from_bytes(&key.verifying_key().to_bytes()).unwrap()
}

/// A fleet founded by alice and bob, one of whom is enough to let a device go; and a stranger.
struct Fleet {
    command: SigningKey,
    alice: SigningKey,
    bob: SigningKey,
    root: Ca,
    stranger: Ca,
}

/// What a proof says.
struct Said<'f> {
    /// Every authority document in it.
    chain: Vec<Vec<u8>>,
    /// Who signed the warrant, and the version that it names.
    by: &'f SigningKey,
    version: u64,
    /// Who issued the device's certificate, and what stands in `root.pem`.
    issuer: &'f Ca,
    roots: Vec<&'f Ca>,
    /// When the first receipt was signed, and the last.
    began: i64,
    ended: i64,
}

impl Fleet {
    fn new() -> Self {
        let [command, alice, bob] = [1, 2, 3].map(|seed| SigningKey::from_bytes(&[seed; 32]));
        Self { command, alice, bob, root: ca("the root"), stranger: ca("a stranger") }
    }

    /// What is true.
    fn honest(&self) -> Said<'_> {
        Said {
            chain: vec![self.signed(&self.founding(), &self.command)],
            by: &self.alice,
            version: 1,
            issuer: &self.root,
            roots: vec![&self.root],
            began: END,
            ended: END + 60,
        }
    }

    fn founding(&self) -> Authority {
        Authority {
            version: 1,
            trust_domain: DOMAIN.parse().unwrap(),
            command_keys: vec![public(&self.command)],
            audit_keys: vec![public(&SigningKey::from_bytes(&[4; 32]))],
            approvers: vec![approver("alice", &self.alice), approver("bob", &self.bob)],
            recovery: Vec::new(),
            required: Required::founding(2).0.with(Matter::Authority, 1),
            previous: None,
        }
    }

    /// The founding document's successor, in which bob is no approver any more.
    fn without_bob(&self) -> Authority {
        let founding = self.founding();
        let approvers = vec![approver("alice", &self.alice)];
        Authority { version: 2, approvers, previous: Some(payload_digest(&founding)), ..founding }
    }

    fn signed(&self, authority: &Authority, key: &SigningKey) -> Vec<u8> {
        let mut signed = MultiSigned::unsigned(authority);
        signed.add_signature(key).unwrap();
        signed.to_bytes()
    }

    /// Writes a proof that says what `said` says, whole in all else. What is to be trusted is the fleet's own.
    fn write(&self, directory: &Path, said: &Said<'_>) -> Trusted {
        let write = |name: &str, bytes: &[u8]| std::fs::write(directory.join(name), bytes).unwrap();
        let lines: Vec<String> = said.chain.iter().map(|one| BASE64_STANDARD.encode(one)).collect();
        write("authority", lines.join("\n").as_bytes());
        let device: DeviceId = DEVICE.parse().unwrap();
        let target =
            Target { device, serial: None, owner: None, kind: Kind::Wipe, level: Some(Level::Retire) };
        write("target.cbor", &cbor::encode(&target));
        write("inclusion.cbor", &cbor::encode(&prove_inclusion(&[target.leaf_hash()], 0).unwrap()));
        let warrant = warrant(&target, said.version);
        let mut approved = MultiSigned::unsigned(&warrant);
        approved.add_signature(said.by).unwrap();
        write("warrant.cose", &approved.to_bytes());
        let roots: String = said.roots.iter().map(|root| root.pem()).collect();
        write("root.pem", roots.as_bytes());
        write("authorities.pem", said.issuer.pem().as_bytes());
        let key = Key(DeviceKey::generate(Algorithm::P256).unwrap());
        let certificate = certificate(said.issuer, &key);
        write("certificate.pem", certificate.pem().as_bytes());
        std::fs::create_dir_all(directory.join("receipts")).unwrap();
        let certificate = Sha256Digest::of(certificate.der());
        for (name, bytes) in receipts(said, &key, payload_digest(&warrant), certificate) {
            write(&format!("receipts/{name}"), &bytes);
        }
        Trusted {
            authority: payload_digest(&self.founding()).to_hex(),
            root: Sha256Digest::of(&self.root.key().subject_public_key_info()).to_hex(),
        }
    }
}

fn warrant(target: &Target, authority_version: u64) -> Warrant {
    Warrant {
        id: WarrantId::from_bytes([7; 16]),
        kind: target.kind,
        level: target.level,
        plan: Sha256Digest([0; 32]),
        root: target.leaf_hash(),
        count: 1,
        not_after: Timestamp(END),
        authority_version,
    }
}

/// The device's certificate, whoever issues it: its key, its name.
fn certificate(issuer: &Ca, key: &Key) -> rcgen::Certificate {
    let key = KeyPair::from_pem(&key.0.to_pem()).unwrap();
    let mut params = CertificateParams::default();
    let name = device_uri(DOMAIN, DEVICE.parse().unwrap());
    params.subject_alt_names.push(SanType::URI(name.try_into().unwrap()));
    params.signed_by(&key, issuer).unwrap()
}

/// The five receipts, each signed under `certificate` and naming the one before; their names sort in their order.
fn receipts(
    said: &Said<'_>,
    key: &Key,
    warrant: Sha256Digest,
    certificate: Sha256Digest,
) -> Vec<(String, Vec<u8>)> {
    let mut previous = None;
    let of = |(at, phase): (usize, &ReceiptPhase)| {
        let receipt = Receipt {
            device: DEVICE.parse().unwrap(),
            order: OrderId::from_bytes([8; 16]),
            warrant: Some(warrant),
            level: Some(Level::Retire),
            phase: *phase,
            outcome: ReceiptOutcome::Done,
            items: Vec::new(),
            evidence: Sha256Digest([0; 32]),
            previous,
            certificate,
            last_checkpoint: None,
            at: Timestamp(if at == 0 { said.began } else { said.ended }),
        };
        previous = Some(payload_digest(&receipt));
        (format!("{at}-{phase}.cose"), sign1(&receipt, key).unwrap())
    };
    ReceiptPhase::ALL.iter().enumerate().map(of).collect()
}

/// What the script says of a proof that says what `said` says.
async fn judged(fleet: &Fleet, said: &Said<'_>) -> Run {
    let proof = tempfile::tempdir().unwrap();
    let trusted = fleet.write(proof.path(), said);
    wipe_proof(proof.path(), &trusted).await
}

fn is_refused(run: &Run, sentence: &str) {
    assert_eq!(
        (run.code, run.stderr.trim()),
        (Some(1), &*format!("not proven: {sentence}")),
        "{}",
        run.text()
    );
}

fn is_proven(run: Run) {
    let said = run.ok().text();
    assert!(said.starts_with(&format!("PROVEN: {DEVICE}")), "{said}");
}

#[tokio::test]
async fn a_second_certificate_beside_the_root_vouches_for_no_device() {
    let fleet = Fleet::new();
    is_proven(judged(&fleet, &fleet.honest()).await);
    let forged =
        Said { issuer: &fleet.stranger, roots: vec![&fleet.root, &fleet.stranger], ..fleet.honest() };
    is_refused(&judged(&fleet, &forged).await, "the device's certificate does not lead to the root");
    let forged = Said { roots: vec![&fleet.stranger, &fleet.root], ..forged };
    is_refused(&judged(&fleet, &forged).await, "the root is not the one that is trusted");
}

#[tokio::test]
async fn what_the_machine_itself_trusts_vouches_for_no_device() {
    let (fleet, proof, store) = (Fleet::new(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(store.path().join("stranger.pem"), fleet.stranger.pem()).unwrap();
    let _ = openssl(&["rehash", &store.path().display().to_string()], b"").await.ok();
    let machine = Launch::plain().with("SSL_CERT_DIR", store.path());

    let trusted = fleet.write(proof.path(), &fleet.honest());
    is_proven(wipe_proof_on(&machine, proof.path(), &trusted).await);
    let forged = Said { issuer: &fleet.stranger, ..fleet.honest() };
    let trusted = fleet.write(proof.path(), &forged);
    let certificate = proof.path().join("certificate.pem").display().to_string();
    let _ = run(&machine, Path::new("openssl"), &["verify", &certificate], b"").await.ok();
    let said = wipe_proof_on(&machine, proof.path(), &trusted).await;
    is_refused(&said, "the device's certificate does not lead to the root");
}

#[tokio::test]
async fn a_wipe_that_began_after_the_warrants_last_second_is_not_under_it() {
    let fleet = Fleet::new();
    is_proven(judged(&fleet, &fleet.honest()).await);
    let late = Said { began: END + 1, ..fleet.honest() };
    is_refused(&judged(&fleet, &late).await, "it begins after the warrant's end");
}

#[tokio::test]
async fn a_successor_that_is_left_out_lets_nobody_sign_who_is_out_of_it() {
    let fleet = Fleet::new();
    is_proven(judged(&fleet, &Said { by: &fleet.bob, ..fleet.honest() }).await);
    let mut whole = fleet.honest().chain;
    whole.push(fleet.signed(&fleet.without_bob(), &fleet.alice));
    for (by, version) in [(&fleet.alice, 2), (&fleet.bob, 2), (&fleet.alice, 0)] {
        let said = judged(&fleet, &Said { by, version, ..fleet.honest() }).await;
        is_refused(&said, "the warrant is of an authority that is not in the proof");
    }
    let by_bob = Said { by: &fleet.bob, chain: whole.clone(), version: 2, ..fleet.honest() };
    is_refused(&judged(&fleet, &by_bob).await, "0 approvers that count have signed, 1 are needed");
    is_proven(judged(&fleet, &Said { chain: whole, version: 2, ..fleet.honest() }).await);
}
