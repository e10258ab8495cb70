//! A30: old TLS, weak suites, certificates for another purpose, and resumption.

use super::forge::{Forger, SERVER, Says};
use super::siege::{Siege, enters_gate, patient, refused};
use muster_tests::est::enroll_request;
use muster_tests::{Identity, Run, Server, Site, Tls, Versions, judge};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

/// `openssl s_client` against `url`; its standard input ends at once.
async fn s_client(url: &str, arguments: &[&str]) -> Run {
    let address = url.split("//").nth(1).unwrap();
    let words = [&["s_client", "-connect", address, "-servername", "localhost"], arguments].concat();
    judge::openssl(&words, b"").await
}

/// Whether a handshake came about; openssl names the cipher it agreed on, or none.
fn shook_hands(run: &Run) -> bool {
    let text = run.text();
    !(text.contains("Cipher is (NONE)") || text.contains("Cipher    : 0000")) && text.contains("Cipher is ")
}

fn listeners(server: &Server) -> [&str; 3] {
    let endpoints = server.endpoints();
    [&endpoints.device, &endpoints.mqtt, &endpoints.admin]
}

const ALL_CIPHERS: &str = "ALL:@SECLEVEL=0";

#[tokio::test(flavor = "multi_thread")]
async fn versions_before_1_3_are_refused_at_every_door() {
    let siege = Siege::begin().await;
    for url in listeners(siege.server()) {
        assert!(shook_hands(&s_client(url, &["-tls1_3"]).await), "{url} speaks TLS 1.3");
        for version in ["-tls1", "-tls1_1", "-tls1_2"] {
            let run = s_client(url, &[version, "-cipher", ALL_CIPHERS]).await;
            assert!(!shook_hands(&run), "{version} at {url}: {}", run.text());
        }
        let downgraded = s_client(url, &["-tls1_2", "-fallback_scsv", "-cipher", ALL_CIPHERS]).await;
        assert!(!shook_hands(&downgraded));
    }
    let _ = siege.lift(0, &["handshake.incompatible"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_1_2_is_on_it_has_neither_cbc_nor_rsa_key_exchange_and_only_devices_get_it() {
    let launch = patient().with("MUSTER_EST_TLS12", "true");
    let siege = Siege::of(Server::on(Site::founded().await, launch).await).await;
    let [device, mqtt, admin] = listeners(siege.server());
    let good = s_client(device, &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"]).await;
    assert!(shook_hands(&good), "{}", good.text());
    for cipher in [
        "ECDHE-ECDSA-AES128-SHA256",
        "ECDHE-ECDSA-AES256-SHA",
        "AES128-GCM-SHA256",
        "AES128-SHA",
        "DHE-RSA-AES128-SHA",
        "ECDHE-ECDSA-AES128-CCM8",
        "NULL",
        "aNULL",
        "PSK",
    ] {
        let run = s_client(device, &["-tls1_2", "-cipher", &format!("{cipher}:@SECLEVEL=0")]).await;
        assert!(!shook_hands(&run), "{cipher}: {}", run.text());
    }
    for version in ["-tls1", "-tls1_1"] {
        assert!(!shook_hands(&s_client(device, &[version, "-cipher", ALL_CIPHERS]).await), "{version}");
    }
    for url in [mqtt, admin] {
        assert!(!shook_hands(&s_client(url, &["-tls1_2", "-cipher", ALL_CIPHERS]).await), "{url}");
    }
    let old = Tls::build(siege.server().site(), None, Versions::Tls12);
    let wrong = enroll_request(None, "muster_", b"");
    refused(&old.connect(device).await.unwrap().send(wrong).await.unwrap(), 401, "token_refused");
    let _ = siege.lift(0, &["handshake.incompatible", "token.malformed"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_for_another_purpose_are_refused() {
    let siege = Siege::begin().await;
    let server = siege.server();
    let victim = siege.device("sensor-linux").await;
    let uri = format!("spiffe://localhost/device/{}", victim.id);
    let thief = Forger::thief(server.site(), "issuing");
    let keys = server.site().data_dir().join("keys");
    let ca = Identity::of(
        &std::fs::read(keys.join("issuing.der")).unwrap(),
        PrivateKeyDer::from_pem_file(keys.join("issuing.key")).unwrap(),
    );
    let intruders = [
        ("a server's certificate", thief.forge(&Says { usages: vec![SERVER], ..Says::of(&uri) })),
        ("code signing", thief.forge(&Says { usages: vec![&[1, 3, 6, 1, 5, 5, 7, 3, 3]], ..Says::of(&uri) })),
        ("no purpose", thief.forge(&Says { usages: Vec::new(), ..Says::of(&uri) })),
        ("the issuing CA itself", ca),
    ];
    for (who, identity) in intruders {
        let answered = match Tls::with(server, &identity).connect(&server.endpoints().device).await {
            Ok(mut door) => door.get("/.well-known/muster").await,
            Err(failure) => Err(failure),
        };
        assert!(answered.is_err(), "{who}: {answered:?}");
        assert!(!enters_gate(server, &identity).await, "{who}");
    }
    assert!(enters_gate(server, &victim.identity).await, "the gate answers a device's CONNECT");
    let _ = siege.lift(1, &["handshake.certificate_invalid"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_resumed_and_no_early_data_is_taken() {
    let siege = Siege::begin().await;
    let server = siege.server();
    let early = server.site().path("early.data");
    std::fs::write(&early, "GET /.well-known/muster HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    for url in listeners(server) {
        let session = server.site().path("session.pem");
        let out = session.display().to_string();
        let first = s_client(url, &["-tls1_3", "-sess_out", &out]).await;
        assert!(!first.text().contains("New Session Ticket arrived"), "{url}: {}", first.text());
        assert!(!session.exists(), "{url}: a session that could be resumed");
        let again = s_client(url, &["-tls1_3", "-reconnect"]).await;
        assert!(!again.text().contains("Reused,"), "{url}: {}", again.text());
        let data = early.display().to_string();
        let replayed = s_client(url, &["-tls1_3", "-early_data", &data]).await;
        assert!(!replayed.text().contains("Early data was accepted"), "{url}: {}", replayed.text());
    }
    assert!(!shook_hands(&s_client(&server.endpoints().device, &["-tls1_1", "-cipher", ALL_CIPHERS]).await));
    let _ = siege.lift(0, &["handshake.incompatible"]).await;
}
