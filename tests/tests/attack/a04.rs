//! A04: requests that name somebody else, in every way a name can be bent.
//!
//! Names come from the record: a certificate says the id of its own device, once, and nothing of what was asked for.

use super::der::{self, COMMON_NAME, PRINTABLE, SERIAL_NUMBER, UTF8, tlv};
use super::request::{Draft, dns, uri};
use super::siege::{Device, Siege, named, refused};
use muster_tests::est::{self, Pledge};
use x509_parser::prelude::{FromDer, X509Certificate};

const ORGANISATION: &[u32] = &[2, 5, 4, 10];
const EMAIL: &[u32] = &[1, 2, 840, 113_549, 1, 9, 1];
const BMP: u8 = 0x1e;

fn attempts(victim: &str) -> Vec<(&'static str, Draft)> {
    let spiffe = format!("spiffe://localhost/device/{victim}");
    let named = |text: &str| Draft::new().name(COMMON_NAME, UTF8, text);
    let wide: Vec<u8> = victim.encode_utf16().flat_map(u16::to_be_bytes).collect();
    let look_alike = victim.replace('a', "\u{430}").replace('e', "\u{435}").replace('0', "\u{ff10}");
    vec![
        ("another's CN", named(victim)),
        ("two CNs, another's last", named("me").name(COMMON_NAME, UTF8, victim)),
        ("two CNs, another's first", named(victim).name(COMMON_NAME, UTF8, "me")),
        ("another's CN before NUL", named(&format!("{victim}\0.example"))),
        ("NUL before another's CN", named(&format!("\0{victim}"))),
        ("another's CN right to left", named(&format!("\u{202e}{victim}"))),
        ("another's CN with zero width", named(&format!("{victim}\u{200b}"))),
        ("look-alike letters", named(&look_alike)),
        ("a CN in UTF-16", Draft::new().name(COMMON_NAME, BMP, wide)),
        ("a CN that is no UTF-8", Draft::new().name(COMMON_NAME, UTF8, b"\xff\xfe")),
        ("a CN of many lines", named(&format!("me\n{victim}\r\n"))),
        ("markup and a query", named("'); DROP TABLE devices; --<script>")),
        ("another's SAN", Draft::new().alt_names(&[uri(&spiffe)])),
        ("two SANs", Draft::new().alt_names(&[uri("spiffe://localhost/device/me"), uri(&spiffe)])),
        (
            "SANs of every kind",
            Draft::new().alt_names(&[
                uri(&spiffe),
                dns("localhost"),
                dns("*"),
                tlv(0x81, b"root@localhost"),
                tlv(0x87, &[127, 0, 0, 1]),
            ]),
        ),
        ("a SAN with NUL", Draft::new().alt_names(&[uri(&format!("{spiffe}\0"))])),
        ("an observer's SAN", Draft::new().alt_names(&[uri("spiffe://localhost/observer/all")])),
        (
            "an organisation and a mail address",
            named(victim).name(ORGANISATION, UTF8, "Muster").name(EMAIL, 0x16, "a@b"),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_request_names_the_certificate_names_its_own_device() {
    let siege = Siege::begin().await;
    let victim = siege.device("sensor-linux").await;
    let mut issued = 1;
    let mut plain = 0;
    for (name, draft) in attempts(&victim.id) {
        let token = siege.token("sensor-linux").await;
        let pledge = draft.sign();
        let answer = est::enroll(siege.server(), &token, &pledge.csr).await.unwrap();
        if answer.status != 200 {
            refused(&answer, 400, "csr_malformed");
            continue;
        }
        issued += 1;
        plain += usize::from(name.starts_with("another's"));
        let device = Device::new(pledge.identity(&answer));
        assert_ne!(device.id, victim.id, "{name}");
        has_names_of(&device, name);
        let found = device.discover(siege.server()).await;
        assert_eq!(found.json()["device"]["id"], device.id.as_str(), "{name}: the doors see its own device");
    }
    assert!(plain >= 3, "a plain wish for another's name is ignored, not refused");
    assert_eq!(victim.discover(siege.server()).await.status, 200);
    let spent = est::enroll(siege.server(), &siege.token("sensor-linux").await, b"garbage").await.unwrap();
    refused(&spent, 400, "csr_malformed");
    let _ = siege.lift(issued, &["csr.form"]).await;
}

fn has_names_of(device: &Device, name: &str) {
    let leaf = device.identity.leaf();
    assert_eq!(named(leaf), device.id);
    let (_, certificate) = X509Certificate::from_der(leaf).unwrap();
    let subject = tlv(0x30, &der::rdn(COMMON_NAME, UTF8, device.id.as_bytes()));
    assert_eq!(
        certificate.subject().as_raw(),
        subject,
        "{name}: the subject is the device's id and nothing else"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_serial_number_of_another_open_life_is_a_claim_and_not_a_fact() {
    let siege = Siege::begin().await;
    let claim = || Draft::new().name(SERIAL_NUMBER, PRINTABLE, "SN-9").sign();
    let owner = claim();
    let token = siege.token("sensor-linux").await;
    let owner = Device::new(owner.identity(&est::enroll(siege.server(), &token, &owner.csr).await.unwrap()));

    let token = siege.token("sensor-linux").await;
    let waiting = est::enroll(siege.server(), &token, &claim().csr).await.unwrap();
    assert_eq!((waiting.status.as_u16(), waiting.code().as_str()), (202, "pending_approval"));
    assert_eq!(owner.discover(siege.server()).await.status, 200, "the life that holds it lives on");
    let other = est::enroll(siege.server(), &token, &Pledge::new("").csr).await.unwrap();
    refused(&other, 401, "token_refused");
    for bent in ["SN-9\0", "SN\u{ad}-9", " SN-9"] {
        let token = siege.token("sensor-linux").await;
        let pledge = Draft::new().name(SERIAL_NUMBER, UTF8, bent).sign();
        let answer = est::enroll(siege.server(), &token, &pledge.csr).await.unwrap();
        if answer.status == 200 {
            let device = Device::new(pledge.identity(&answer));
            let shown =
                siege.rest(http::Method::GET, &format!("/v1/devices/{}", device.id), None).await.json();
            assert_ne!(shown["serial"], "SN-9", "{bent:?}");
        }
    }
    let entries = siege.entries().await;
    let done = entries.iter().filter(|entry| entry["facts"]["certificate_sha256"].is_string()).count();
    let _ = siege.lift(done, &["token.claimed"]).await;
}
