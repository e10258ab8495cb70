//! A05: requests that ask for more than a device may have: to be a CA, to be a server, to live for ten years.
//!
//! Nothing of it is in the certificate, whose extensions and life are the profile's; and what a device signs is
//! worth nothing at any door.

use super::der::{self, oid, seq, small, tlv};
use super::forge::{Forger, Says, is_ca, unknown};
use super::request::Draft;
use super::siege::{Device, Siege, enters_gate};
use muster_tests::{est, judge};
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

const UNKNOWN: &[u32] = &[1, 3, 6, 1, 4, 1, 99_999, 1];
const ANY_USAGE: &[u32] = &[2, 5, 29, 37, 0];
const CODE_SIGNING: &[u32] = &[1, 3, 6, 1, 5, 5, 7, 3, 3];
const NAME_CONSTRAINTS: &[u32] = &[2, 5, 29, 30];
const POLICIES: &[u32] = &[2, 5, 29, 32];
const PRIVATE_KEY_USAGE_PERIOD: &[u32] = &[2, 5, 29, 16];
/// A sensor's certificate lives for a year; five minutes before it begins are for clocks that are slow.
const LONGEST_S: i64 = 366 * 86_400;

fn wishes() -> Vec<(&'static str, Draft)> {
    let usages =
        |usages: &[&[u32]]| tlv(0x30, &usages.iter().flat_map(|usage| oid(usage)).collect::<Vec<_>>());
    let ca = || Draft::new().extension(der::BASIC_CONSTRAINTS, true, &is_ca());
    vec![
        ("to be a CA", ca()),
        (
            "to be a CA of any depth",
            Draft::new().extension(der::BASIC_CONSTRAINTS, true, &seq(&[&der::yes(), &small(9)])),
        ),
        ("to sign certificates and CRLs", ca().extension(der::KEY_USAGE, true, &tlv(0x03, &[1, 0x86]))),
        ("every usage of a key", Draft::new().extension(der::KEY_USAGE, true, &tlv(0x03, &[7, 0xff, 0x80]))),
        (
            "to be a server",
            Draft::new().extension(der::EXTENDED_KEY_USAGE, false, &usages(&[super::forge::SERVER])),
        ),
        (
            "any usage",
            Draft::new().extension(
                der::EXTENDED_KEY_USAGE,
                true,
                &usages(&[ANY_USAGE, super::forge::SERVER, CODE_SIGNING]),
            ),
        ),
        ("what nobody knows, critically", Draft::new().extension(UNKNOWN, true, &unknown())),
        ("constraints of a CA", ca().extension(NAME_CONSTRAINTS, true, &seq(&[&tlv(0xa0, &[])]))),
        ("a policy", Draft::new().extension(POLICIES, false, &seq(&[&seq(&[&oid(&[2, 5, 29, 32, 0])])]))),
        (
            "ten years",
            Draft::new().extension(
                PRIVATE_KEY_USAGE_PERIOD,
                false,
                &seq(&[&tlv(0x80, b"20200101000000Z"), &tlv(0x81, b"20400101000000Z")]),
            ),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_request_asks_for_is_in_the_certificate() {
    let siege = Siege::begin().await;
    let plain = siege.newcomer("sensor-linux").await;
    let expected = extensions(plain.identity.leaf());
    assert_eq!(expected.len(), 8, "AKI, SAN, keyUsage, EKU, CDP, SKI, basicConstraints, AIA: {expected:?}");
    for (name, draft) in wishes() {
        let token = siege.token("sensor-linux").await;
        let pledge = draft.sign();
        let answer = est::enroll(siege.server(), &token, &pledge.csr).await.unwrap();
        let leaf = est::leaf(&answer);
        assert_eq!(extensions(&leaf), expected, "{name}");
        is_a_device(&leaf, name);
    }
    let refused = est::enroll(siege.server(), &siege.token("sensor-linux").await, b"").await.unwrap();
    super::siege::refused(&refused, 400, "csr_malformed");
    let _ = siege.lift(1 + wishes().len(), &["csr.form"]).await;
}

/// Which extensions a certificate has, and which of them are critical.
fn extensions(leaf: &[u8]) -> Vec<(String, bool)> {
    let (_, certificate) = X509Certificate::from_der(leaf).unwrap();
    certificate.extensions().iter().map(|one| (one.oid.to_id_string(), one.critical)).collect()
}

fn is_a_device(leaf: &[u8], name: &str) {
    let (_, certificate) = X509Certificate::from_der(leaf).unwrap();
    assert!(!certificate.is_ca(), "{name}");
    let usage = certificate.key_usage().unwrap().unwrap().value;
    assert_eq!(usage.flags, 1, "{name}: digitalSignature alone");
    let extended = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(
        extended.client_auth && !extended.any && !extended.server_auth && !extended.code_signing,
        "{name}"
    );
    assert!(extended.other.is_empty(), "{name}");
    let life = certificate.validity().not_after.timestamp() - certificate.validity().not_before.timestamp();
    assert!((1..=LONGEST_S).contains(&life), "{name}: lives for {life} s");
    let parsed = certificate.extensions().iter().all(|one| {
        !matches!(
            one.parsed_extension(),
            ParsedExtension::UnsupportedExtension { .. } | ParsedExtension::ParseError { .. }
        )
    });
    assert!(parsed, "{name}: an extension that nobody knows");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_device_signs_opens_no_door() {
    let siege = Siege::begin().await;
    let upstart = siege.device("sensor-linux").await;
    let victim = siege.device("sensor-linux").await;
    let forged = Forger::upstart(&upstart.identity)
        .forge(&Says::of(&format!("spiffe://localhost/device/{}", victim.id)));

    let device = Device::new(forged.clone());
    assert_eq!(device.id, victim.id, "the forgery claims to be the victim");
    let answer = match device.connect(siege.server()).await {
        Ok(mut door) => door.get("/.well-known/muster").await,
        Err(failure) => Err(failure),
    };
    assert!(answer.is_err(), "{answer:?}");
    assert!(!enters_gate(siege.server(), &forged).await);

    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, ders: &[&[u8]]| {
        let text: String = ders.iter().map(|der| der::pem("CERTIFICATE", der)).collect();
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let keys = siege.server().site().data_dir().join("keys");
    let read = |name: &str| std::fs::read(keys.join(name)).unwrap();
    let root = write("root.pem", &[&read("root.der")]);
    let between = write("between.pem", &[upstart.identity.leaf(), &read("issuing.der")]);
    let leaf = write("leaf.pem", &[forged.leaf()]);
    let judged = judge::openssl(&["verify", "-CAfile", &root, "-untrusted", &between, &leaf], b"").await;
    assert_ne!(judged.code, Some(0), "{judged:?}");
    assert!(judged.stderr.contains("invalid CA certificate"), "{}", judged.stderr);
    let _ = siege.lift(2, &["handshake.certificate_invalid"]).await;
}
