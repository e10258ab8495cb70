//! A06: keys and signatures that must not be certified: unproven, weak, somebody else's, or misdescribed.

use super::forge::ca_key;
use super::request::{Draft, again};
use super::siege::{Siege, refused};
use muster_tests::est::{self, Pledge, leaf};
use muster_tests::{Launch, judge, run};
use rcgen::{KeyPair, PublicKeyData, SigningKey};
use std::path::Path;
use x509_parser::prelude::{FromDer, X509Certificate, X509CertificationRequest};

/// A request made by openssl with a new key; `key` and `request` are arguments of genpkey and req.
async fn by_openssl(key: &[&str], request: &[&str]) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (pem, der) = (path("key.pem"), path("request.der"));
    let _ = judge::openssl(&[&["genpkey", "-out", &pem], key].concat(), b"").await.ok();
    let words =
        [&["req", "-new", "-key", &pem, "-subj", "/CN=x", "-outform", "DER", "-out", &der], request].concat();
    let _ = run(&Launch::plain(), Path::new("openssl"), &words, b"").await.ok();
    std::fs::read(&der).unwrap()
}

const P256: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
const P384: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"];

/// Requests that openssl makes, and the code that each is refused with by a profile that takes P-256, P-384 and
/// Ed25519; `None` where it may be issued, with exactly the key asked for.
async fn weak() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let rsa = |bits: &'static str| ["-algorithm", "RSA", "-pkeyopt", bits];
    let ec = |curve: &'static str| ["-algorithm", "EC", "-pkeyopt", curve];
    let explicit = [P256, &["-pkeyopt", "ec_param_enc:explicit"]].concat();
    vec![
        ("RSA of 1024 bits", by_openssl(&rsa("rsa_keygen_bits:1024"), &["-sha256"]).await, "csr_key_refused"),
        (
            "RSA-1024 with SHA-1",
            by_openssl(&rsa("rsa_keygen_bits:1024"), &["-sha1"]).await,
            "csr_key_refused",
        ),
        (
            "RSA where the profile has none",
            by_openssl(&rsa("rsa_keygen_bits:2048"), &[]).await,
            "csr_algorithm_refused",
        ),
        ("P-256 with SHA-1", by_openssl(P256, &["-sha1"]).await, "csr_algorithm_refused"),
        ("explicit parameters", by_openssl(&explicit, &["-sha256"]).await, "csr_key_refused"),
        ("P-521", by_openssl(&ec("ec_paramgen_curve:P-521"), &[]).await, "csr_key_refused"),
        ("secp256k1", by_openssl(&ec("ec_paramgen_curve:secp256k1"), &[]).await, "csr_key_refused"),
        ("Ed448", by_openssl(&["-algorithm", "ED448"], &[]).await, "csr_algorithm_refused"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn weak_keys_and_weak_signatures_are_refused_with_a_code() {
    let siege = Siege::begin().await;
    let token = siege.token("laptop-linux").await;
    for (name, csr, code) in weak().await {
        let answer = est::enroll(siege.server(), &token, &csr).await.unwrap();
        assert_eq!(answer.code(), code, "{name}");
        refused(&answer, 422, code);
    }
    let _ = leaf(&est::enroll(siege.server(), &token, &Pledge::new("").csr).await.unwrap());
    let _ = siege.lift(1, &["csr.key", "csr.algorithm"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_signed_with_another_size_of_hash_is_certified_as_it_is_or_not_at_all() {
    let siege = Siege::begin().await;
    let mut issued = 0;
    let mixed =
        [(P384, "-sha256"), (P384, "-sha512"), (P256, "-sha384"), (P256, "-sha512"), (P384, "-sha384")];
    for (key, hash) in mixed {
        let csr = by_openssl(key, &[hash]).await;
        let token = siege.token("laptop-linux").await;
        let answer = est::enroll(siege.server(), &token, &csr).await.unwrap();
        if answer.status != 200 {
            refused(&answer, 422, "csr_algorithm_refused");
            continue;
        }
        issued += 1;
        let (asked, got) = (X509CertificationRequest::from_der(&csr).unwrap().1, leaf(&answer));
        let (_, got) = X509Certificate::from_der(&got).unwrap();
        assert_eq!(got.public_key().raw, asked.certification_request_info.subject_pki.raw, "{key:?} {hash}");
    }
    assert!(issued >= 1, "P-384 with its own hash is certified");
    let ed25519 = by_openssl(&["-algorithm", "ED25519"], &[]).await;
    let _ = leaf(&est::enroll(siege.server(), &siege.token("laptop-linux").await, &ed25519).await.unwrap());
    let bad = by_openssl(P256, &["-sha1"]).await;
    let answer = est::enroll(siege.server(), &siege.token("laptop-linux").await, &bad).await.unwrap();
    refused(&answer, 422, "csr_algorithm_refused");
    let _ = siege.lift(issued + 1, &["csr.algorithm"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_a_certificate_for_a_key_that_is_not_proven_to_be_theirs() {
    let siege = Siege::begin().await;
    let token = siege.token("sensor-linux").await;
    let stranger = KeyPair::generate().unwrap();
    let flip = |mut bytes: Vec<u8>, at: usize| {
        bytes[at] ^= 1;
        bytes
    };
    let sign = |body: &[u8], key: &KeyPair| key.sign(body).unwrap();
    let attempts = [
        (
            "a flipped signature",
            Draft::new().signed_with(|body, key| {
                let s = sign(body, key);
                let n = s.len() - 1;
                flip(s, n)
            }),
        ),
        ("another key's signature", Draft::new().signed_with(|body, _| sign(body, &stranger))),
        ("a signature of something else", Draft::new().signed_with(|_, key| sign(b"something else", key))),
        ("no signature", Draft::new().signed_with(|_, _| Vec::new())),
        ("r and s of zero", Draft::new().signed_with(|_, _| vec![0x30, 6, 2, 1, 0, 2, 1, 0])),
        ("a name changed afterwards", {
            let draft = Draft::new().name(super::der::COMMON_NAME, super::der::UTF8, "aaaa");
            let csr = draft.signed_with(sign);
            let at = csr.windows(4).position(|four| four == b"aaaa").unwrap();
            flip(csr, at)
        }),
    ];
    for (name, csr) in attempts {
        let answer = est::enroll(siege.server(), &token, &csr).await.unwrap();
        assert_eq!(answer.code(), "csr_signature_invalid", "{name}");
        refused(&answer, 422, "csr_signature_invalid");
    }
    let _ = leaf(&est::enroll(siege.server(), &token, &Pledge::new("").csr).await.unwrap());
    let _ = siege.lift(1, &["csr.possession"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_the_cas_or_another_devices_is_refused_though_it_is_proven() {
    let siege = Siege::begin().await;
    let first = Pledge::new("");
    let token = siege.token("sensor-linux").await;
    let _ = leaf(&est::enroll(siege.server(), &token, &first.csr).await.unwrap());
    let (issuing, names) =
        (ca_key(siege.server().site(), "issuing"), ca_key(siege.server().site(), "server-names"));
    for key in [again(&first.key), issuing, names] {
        let spki = key.subject_public_key_info();
        let token = siege.token("laptop-linux").await;
        let answer = est::enroll(siege.server(), &token, &Draft::of(key).sign().csr).await.unwrap();
        assert_eq!(answer.code(), "csr_key_in_use", "{}", hex::encode(spki));
        refused(&answer, 409, "csr_key_in_use");
    }
    let _ = siege.lift(1, &["csr.key_of_ca", "enrollment.key_in_use"]).await;
}
