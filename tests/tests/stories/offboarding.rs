//! A laptop leaves the company: asked for by one, signed by two, wiped by the device, proven by its receipts, and its
//! certificate dead at every door.

use muster_pki::key::DeviceKey;
use muster_tests::judge::{Trusted, wipe_proof};
use muster_tests::{Agent, Server, Tls, eventually};
use muster_wire::envelope::{Signed, payload_digest, sign1};
use muster_wire::key::{PublicKey, SIGNATURE_LEN, SignError, Signer};
use muster_wire::receipt::{ItemFate, Receipt, ReceiptItem};
use serde_json::json;
use std::path::{Path, PathBuf};

const MANAGED: &str = "/var/lib/muster-agent/managed/vpn.conf";
const PROFILE: &str = "laptop-linux";
const BASELINE: &str = "profile = \"laptop-linux\"\n[[baseline.files]]\npath = \"/var/lib/muster-agent/managed/vpn.conf\"\n\
                        content = \"secret\"\nmode = \"0600\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_laptop_is_let_go_with_proof_that_a_stranger_can_check() {
    let server = Server::start().await;
    let _ = server.set_baseline(BASELINE).await;
    let laptop = Agent::enrolled(&server, PROFILE).await;
    let _ = laptop.is_well_kept().put("/home/ada/letter", "mine");
    let (id, identity) = (laptop.id(), laptop.identity());
    let key = std::fs::read_to_string(laptop.state_dir().join("identity/key.pem")).unwrap();
    let mut running = laptop.start();
    let _ = server.device_when(&id, "it passes muster", |device| device["state"] == "active").await;
    assert_eq!(laptop.file(MANAGED), "secret");

    // Asked for, and nothing happens: an operator asks, approvers decide.
    let asked = server.cli(&["device", "deprovision", &id, "--yes"]).await;
    let warrant = asked["warrant"].as_str().unwrap().to_owned();
    assert_eq!((&asked["required"], &asked["phase"]), (&1.into(), &"requested".into()), "{asked}");
    assert_eq!(server.device(&id).await["state"], "deprovisioning");
    assert_eq!(laptop.file(MANAGED), "secret");

    let _ = server.sign_warrant(&warrant, "alice").await;
    let gone = server.device_when(&id, "it is proven", |device| device["phase"] == "proven").await;
    assert_eq!(gone["state"], "retired", "{gone}");
    assert!(!laptop.within(MANAGED).exists(), "what was managed is gone");
    assert_eq!(laptop.file("/home/ada/letter"), "mine", "what is personal stays");
    eventually("the agent ends by itself", async || running.has_ended().then_some(())).await;
    assert!(!laptop.state_dir().join("identity/key.pem").exists(), "the identity goes last");
    assert_eq!(laptop.status().await["state"], "retired");
    eventually("its certificate is dead", async || {
        let door = Tls::with(&server, &identity).connect(&server.endpoints().device).await;
        let Ok(mut door) = door else { return Some(()) };
        door.get("/.well-known/muster").await.is_err().then_some(())
    })
    .await;
    let _ = server.verify_audit().await;
    let (proof, trusted) = is_proven_to_a_stranger(&server, &id).await;
    let key = Key(DeviceKey::from_pem(&key).unwrap());
    is_judged_as_the_server_judges(&proof, &trusted, &key).await;
}

/// The proof is written, checked by a script that is none of ours, and found out whichever byte of it is changed.
async fn is_proven_to_a_stranger(server: &Server, id: &str) -> (PathBuf, Trusted) {
    let record = server.cli(&["device", "record", id]).await;
    assert_eq!(
        (&record["outcome"], &record["level"]),
        (&"retired(proven)".into(), &"retire".into()),
        "{record}"
    );
    assert_eq!(record["warrant"]["signed_by"], json!(["alice"]));
    let (proof, trusted) = server.proof(id).await;
    let said = wipe_proof(&proof, &trusted).await.ok().text();
    assert!(said.starts_with(&format!("PROVEN: {id}")), "{said}");

    let other = "00".repeat(32);
    is_not_proven(&proof, &Trusted { authority: other.clone(), ..trusted.clone() }, "another authority")
        .await;
    is_not_proven(&proof, &Trusted { root: other, ..trusted.clone() }, "another root").await;
    let receipts = std::fs::read_dir(proof.join("receipts")).unwrap().map(|file| file.unwrap().path());
    let others =
        ["authority", "warrant.cose", "target.cbor", "inclusion.cbor", "certificate.pem", "root.pem"];
    for file in others.map(|name| proof.join(name)).into_iter().chain(receipts) {
        let bytes = std::fs::read(&file).unwrap();
        for at in [bytes.len() / 3, bytes.len() / 2, bytes.len() - 2] {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            std::fs::write(&file, changed).unwrap();
            is_not_proven(&proof, &trusted, &format!("byte {at} of {}", file.display())).await;
        }
        std::fs::remove_file(&file).unwrap();
        is_not_proven(&proof, &trusted, &format!("{} taken away", file.display())).await;
        std::fs::write(&file, bytes).unwrap();
    }
    let _ = wipe_proof(&proof, &trusted).await.ok();
    (proof, trusted)
}

/// The script refuses what is in `proof`, in one sentence; answers that sentence.
async fn is_not_proven(proof: &Path, trusted: &Trusted, why: &str) -> String {
    let run = wipe_proof(proof, trusted).await;
    assert_eq!(run.code, Some(1), "{why}: {}", run.stderr);
    let is_a_sentence = run.stderr.starts_with("not proven: ") && run.stderr.lines().count() == 1;
    assert!(is_a_sentence, "{why}: {}", run.stderr);
    run.stderr
}

/// What is changed in the receipt at a place in the chain before it is signed again.
type Change<'c> = &'c dyn Fn(usize, &mut Receipt);

/// Whatever the device itself has signed: what the server would not call proven, the script does not either.
async fn is_judged_as_the_server_judges(proof: &Path, trusted: &Trusted, key: &Key) {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(proof.join("receipts")).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let public = [key.public_key()];
    let read = |file: &PathBuf| {
        let receipt = Signed::<Receipt>::parse(&std::fs::read(file).unwrap()).unwrap();
        receipt.verify(&public).unwrap().into_document()
    };
    let receipts: Vec<Receipt> = files.iter().map(read).collect();
    let failed = ReceiptItem { what: "/srv/ledger".into(), fate: ItemFate::Failed, size_bytes: 9 };
    let cases: [(&str, Option<&str>, Change<'_>); 3] = [
        ("as it was, signed again", None, &|_, _| {}),
        ("an item that failed", Some("/srv/ledger"), &|at, receipt| {
            receipt.items.extend((at == 3).then(|| failed.clone()));
        }),
        ("a phase below the level asked", Some("armed"), &|at, receipt| {
            receipt.level = receipt.level.filter(|_| at != 1);
        }),
    ];
    for (what, named, change) in cases {
        let mut previous = None;
        for (at, (file, receipt)) in files.iter().zip(&receipts).enumerate() {
            let mut changed = Receipt { previous, ..receipt.clone() };
            change(at, &mut changed);
            previous = Some(payload_digest(&changed));
            std::fs::write(file, sign1(&changed, key).unwrap()).unwrap();
        }
        match named {
            None => drop(wipe_proof(proof, trusted).await.ok()),
            Some(name) => {
                let said = is_not_proven(proof, trusted, what).await;
                assert!(said.contains(name), "{what}: {said}");
            }
        }
    }
}

/// The device's identity key, kept by somebody who should not have it.
pub(super) struct Key(pub(super) DeviceKey);

impl Signer for Key {
    fn public_key(&self) -> PublicKey {
        PublicKey::from_spki_der(self.0.spki_der()).unwrap()
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; SIGNATURE_LEN], SignError> {
        Ok(self.0.sign_fixed(message).unwrap().try_into().unwrap())
    }
}
