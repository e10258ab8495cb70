//! A10: a certificate is revoked, or held, while an MQTT session, a kept HTTPS connection and a client that would resume
//! exist. All of it ends, nothing is resumed, and openssl agrees by the list that it fetches within a second.

use super::a16::{WELCOME, connect, open, publish, subscribe};
use super::siege::{Device, Siege, enters_gate};
use muster_tests::{Connection, PATIENCE, Server, Tls, judge};
use rustls::HandshakeKind;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

type Stream = TlsStream<TcpStream>;

/// Everything that a device may have open when somebody decides against it.
struct Open {
    session: Stream,
    kept: Connection,
    /// Remembers whatever a server gives it to resume by.
    returning: Tls,
}

impl Open {
    async fn of(server: &Server, device: &Device) -> Self {
        let session = session(server, device).await;
        let mut kept = device.connect(server).await.unwrap();
        assert_eq!(kept.get("/.well-known/muster").await.unwrap().status, 200);
        let returning = Tls::with(server, &device.identity);
        for _ in 0..2 {
            let kind = drained(returning.open(&server.endpoints().device).await.unwrap()).await;
            assert_eq!(kind, Some(HandshakeKind::Full), "there is nothing to resume by");
        }
        Self { session, kept, returning }
    }

    /// Asserts that nothing of it is left, soon after `decided`.
    async fn expect_cut(mut self, decided: Instant) -> Tls {
        let mut rest = Vec::new();
        let end = tokio::time::timeout(PATIENCE, self.session.read_to_end(&mut rest)).await;
        // Cut without a word or with one: it is over either way.
        drop(end.expect("the session ends"));
        assert_eq!(rest, [0; 0]);
        assert!(decided.elapsed() < Duration::from_secs(1), "the cut took {:?}", decided.elapsed());
        let late = self.kept.get("/.well-known/muster").await;
        assert!(late.is_err(), "a kept connection ends as well: {late:?}");
        self.returning
    }
}

async fn session(server: &Server, device: &Device) -> Stream {
    let mut session = open(server, device, &connect(&device.id, 2, b"")).await;
    let mut welcome = [0; 4];
    session.read_exact(&mut welcome).await.unwrap();
    assert_eq!(welcome, WELCOME);
    session
}

/// One request on `stream`, so that tickets that come late are read too; how its handshake went.
async fn drained(mut stream: Stream) -> Option<HandshakeKind> {
    let asked = b"GET /.well-known/est/cacerts HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(asked).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    stream.get_ref().1.handshake_kind()
}

/// What the gate answers to `packet` in a session of `device`, until it has nothing more to say.
async fn answers(server: &Server, device: &Device, packet: &[u8], expected: &[u8]) -> bool {
    let mut stream = session(server, device).await;
    stream.write_all(packet).await.unwrap();
    let mut heard = vec![0; expected.len()];
    stream.read_exact(&mut heard).await.is_ok() && heard == expected
}

/// Bytes of the list that the certificate names, fetched by curl.
async fn list_of(device: &Device) -> Vec<u8> {
    use x509_parser::prelude::{
        DistributionPointName, FromDer, GeneralName, ParsedExtension, X509Certificate,
    };
    let (_, certificate) = X509Certificate::from_der(device.identity.leaf()).unwrap();
    let url = certificate.extensions().iter().find_map(|extension| {
        let ParsedExtension::CRLDistributionPoints(points) = extension.parsed_extension() else {
            return None;
        };
        let DistributionPointName::FullName(names) = points.points[0].distribution_point.as_ref()? else {
            return None;
        };
        if let GeneralName::URI(url) = names[0] { Some(url.to_owned()) } else { None }
    });
    let url = url.unwrap();
    judge::curl(&["--fail", &url]).await.ok().stdout
}

/// What openssl reads in a list.
async fn in_words(list: &[u8]) -> String {
    judge::openssl(&["crl", "-inform", "DER", "-noout", "-text"], list).await.ok().text()
}

fn number(words: &str) -> u128 {
    let after = words.split("X509v3 CRL Number:").nth(1).unwrap().trim_start();
    let digits = after.split_whitespace().next().unwrap();
    digits.strip_prefix("0x").map_or_else(|| digits.parse(), |hex| u128::from_str_radix(hex, 16)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_revoked_is_cut_everywhere_and_openssl_agrees_within_a_second() {
    let siege = Siege::begin().await;
    let (device, bystander) = (siege.device("sensor-linux").await, siege.device("sensor-linux").await);
    let server = siege.server();
    let before = number(&in_words(&list_of(&device).await).await);
    let _ = judge::verify(server, &device.identity).await.ok();
    let all = Open::of(server, &device).await;
    let mut beside = session(server, &bystander).await;

    siege.revoke(&device.id).await;
    let decided = Instant::now();
    let list = list_of(&device).await;
    assert!(decided.elapsed() < Duration::from_secs(1), "the list took {:?}", decided.elapsed());
    let returning = all.expect_cut(decided).await;

    let words = in_words(&list).await;
    assert!(words.contains("Key Compromise"), "{words}");
    assert!(number(&words) > before);
    let judged = judge::verify(server, &device.identity).await;
    assert!(judged.stderr.contains("certificate revoked"), "{judged:?}");
    let again = match returning.connect(&server.endpoints().device).await {
        Ok(mut door) => door.get("/.well-known/muster").await,
        Err(failure) => Err(failure),
    };
    assert!(again.is_err(), "no reconnect, with or without a ticket: {again:?}");
    assert!(!enters_gate(server, &device.identity).await);

    beside.write_all(&[0xc0, 0]).await.unwrap();
    let mut pong = [0; 2];
    beside.read_exact(&mut pong).await.unwrap();
    assert_eq!(pong, [0xd0, 0], "the session beside goes on");
    let _ = judge::verify(server, &bystander.identity).await.ok();
    let _ = siege.lift(2, &["certificate_revoked"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_is_cut_comes_back_to_less_and_is_on_the_list_until_it_is_released() {
    let siege = Siege::begin().await;
    let device = siege.device("sensor-linux").await;
    let server = siege.server();
    let topic = |tail: &str| format!("muster/v1/{}/{tail}", device.id);
    let all = Open::of(server, &device).await;

    siege.quarantine(&device.id).await;
    let decided = Instant::now();
    let list = list_of(&device).await;
    assert!(decided.elapsed() < Duration::from_secs(1), "the list took {:?}", decided.elapsed());
    all.expect_cut(decided).await;
    let held = in_words(&list).await;
    assert!(held.contains("Certificate Hold"), "{held}");
    let judged = judge::verify(server, &device.identity).await;
    assert!(judged.stderr.contains("certificate revoked"), "{judged:?}");

    assert!(answers(server, &device, &subscribe(&topic("order")), &[0x90, 3, 0, 9, 1]).await);
    let event = publish(0x32, &topic("report/event"));
    assert!(!answers(server, &device, &event, &[0x40, 2, 0, 7]).await, "no events from a held device");
    let mut door = device.connect(server).await.unwrap();
    assert_eq!(door.get("/.well-known/muster").await.unwrap().status, 200);

    siege.release(&device.id).await;
    assert!(door.get("/.well-known/muster").await.is_err(), "released is another row, too");
    let released = in_words(&list_of(&device).await).await;
    assert!(!released.contains("Certificate Hold") && number(&released) > number(&held), "{released}");
    let _ = judge::verify(server, &device.identity).await.ok();
    assert_eq!(device.discover(server).await.status, 200);
    let acts = siege.entries().await;
    let of = |action: &str| acts.iter().filter(|entry| entry["action"] == action).count();
    assert_eq!((of("device.quarantine"), of("device.release")), (1, 1));
    let _ = siege.lift(1, &["gate.topic_not_allowed_now"]).await;
}
