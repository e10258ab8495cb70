//! Who passes the handshake, who does not, and that nobody can make others wait.

use crate::domain::admission::{CertificateStatus, DeviceStanding, Door, Order, Refusal};
use crate::doors::accept::Limits;
use crate::doors::fixture::*;
use crate::doors::peer::Peer;
use crate::doors::registry::Kicked;
use crate::doors::status_index::Standing;
use crate::doors::tls::Versions;
use crate::doors::verifier::ClientAuth;
use axum::routing::get;
use axum::{Extension, Router};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, SanType, SerialNumber};
use rustls::version;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

fn who() -> Router {
    let name = |Extension(peer): Extension<Peer>| async move {
        peer.certificate.as_ref().map_or("nobody".to_owned(), |certificate| certificate.device.to_string())
    };
    Router::new().route("/who", get(name))
}

/// Why a handshake or the first read after it failed, as rustls tells it.
async fn refusal(server: &Server, credential: &Credential) -> String {
    server.get(&client(Some(credential)), "/who").await.expect_err("refused").to_string()
}

#[tokio::test]
async fn the_device_door_lets_in_an_enrolled_device_and_a_client_without_certificate() {
    let world = World::new();
    let enrolled = world.enrolled(1);
    let server = world.serve(who()).await;
    let answer = server.get(&client(Some(&enrolled)), "/who").await.unwrap();
    assert!(answer.ends_with(&device(1).to_string()), "{answer}");
    let answer = server.get(&client(None), "/who").await.unwrap();
    assert!(answer.ends_with("nobody"), "{answer}");
}

#[tokio::test]
async fn a_bare_leaf_is_enough_and_a_longer_chain_does_no_harm() {
    let world = World::new();
    let mut enrolled = world.enrolled(1);
    enrolled.chain.push(world.issuing.der.clone());
    enrolled.chain.push(world.root.der.clone());
    let server = world.serve(who()).await;
    assert!(server.get(&client(Some(&enrolled)), "/who").await.is_ok());
}

#[tokio::test]
async fn the_index_refuses_in_the_handshake_whom_the_table_refuses() {
    let world = World::new();
    let credential = world.issuing.device(1, |_| {});
    let server = world.serve(who()).await;
    let unknown = refusal(&server, &credential).await;
    assert!(unknown.contains("AccessDenied"), "{unknown}");
    for status in [CertificateStatus::Revoked, CertificateStatus::Superseded] {
        world.stands(1, &credential, with_status(status));
        let told = refusal(&server, &credential).await;
        assert!(told.contains("CertificateRevoked"), "{told}");
    }
    world.stands(1, &credential, active(0));
    assert!(server.get(&client(Some(&credential)), "/who").await.is_ok());
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_refused_even_with_a_known_serial() {
    let world = World::new();
    drop(world.enrolled(1));
    let server = world.serve(who()).await;
    let told = refusal(&server, &Ca::new("issuing").device(1, |_| {})).await;
    assert!(told.contains("UnknownCA") || told.contains("DecryptError"), "{told}");
    let told = refusal(&server, &Ca::new("elsewhere").device(1, |_| {})).await;
    assert!(told.contains("UnknownCA"), "{told}");
}

/// What it is, and how it differs from a device's certificate.
type Change = (&'static str, fn(&mut CertificateParams));

#[tokio::test]
async fn what_is_no_device_certificate_is_refused_although_our_ca_signed_it() {
    let world = World::new();
    let server = world.serve(who()).await;
    let changes: [Change; 6] = [
        ("server's EKU", |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
        ("no name", |params| params.subject_alt_names.clear()),
        ("two names", |params| params.subject_alt_names.push(params.subject_alt_names[0].clone())),
        ("another trust domain", |params| {
            let uri = muster_wire::id::device_uri("other.test", device(1));
            params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        }),
        ("a foreign serial", |params| params.serial_number = Some(SerialNumber::from_slice(&[7; 8]))),
        ("not yet valid", |params| {
            params.not_before = OffsetDateTime::from_unix_timestamp(NOW + 10).unwrap();
        }),
    ];
    for (name, change) in changes {
        let credential = world.issuing.device(1, change);
        world.stands(1, &credential, active(0));
        assert!(server.get(&client(Some(&credential)), "/who").await.is_err(), "{name}");
    }
    assert!(server.get(&client(Some(&world.enrolled(1))), "/who").await.is_ok());
}

#[tokio::test]
async fn an_expired_certificate_enters_only_with_grace_or_an_open_order() {
    let world = World::new();
    let credential = world.enrolled(1);
    let server = world.serve(who()).await;
    world.clock.advance_ms(1_001_000);
    let told = refusal(&server, &credential).await;
    assert!(told.contains("CertificateExpired"), "{told}");
    let doomed =
        |order| Standing { device: DeviceStanding::Deprovisioning { doomed_from: 0, order }, ..active(0) };
    world.stands(1, &credential, doomed(Order::Closed));
    assert!(server.get(&client(Some(&credential)), "/who").await.is_err());
    for standing in [active(60), doomed(Order::Open)] {
        world.stands(1, &credential, standing);
        assert!(server.get(&client(Some(&credential)), "/who").await.is_ok(), "{standing:?}");
    }
    world.stands(1, &credential, active(60));
    world.clock.advance_ms(60_000);
    assert!(server.get(&client(Some(&credential)), "/who").await.is_err(), "grace is over");
}

#[tokio::test]
async fn a_forged_certificate_gains_nothing_from_the_grace_of_its_model() {
    let world = World::new();
    let model = world.issuing.device(1, |_| {});
    world.stands(1, &model, active(60));
    let server = world.serve(who()).await;
    world.clock.advance_ms(1_001_000);
    assert!(server.get(&client(Some(&Ca::new("issuing").device(1, |_| {}))), "/who").await.is_err());
    assert!(server.get(&client(Some(&world.issuing.device(1, |_| {}))), "/who").await.is_err());
    assert!(server.get(&client(Some(&model)), "/who").await.is_ok());
}

#[tokio::test]
async fn every_refusal_of_a_certificate_of_ours_is_told() {
    let mut world = World::new();
    let told = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&told);
    world.doors = world.doors.on_refusal(move |certificate, door, refusal| {
        notes.lock().unwrap().push((certificate.device, door, refusal));
    });
    let revoked = world.issuing.device(1, |_| {});
    world.stands(1, &revoked, with_status(CertificateStatus::Revoked));
    let server = world.serve(who()).await;
    drop(refusal(&server, &revoked).await);
    drop(refusal(&server, &Ca::new("elsewhere").device(1, |_| {})).await);
    assert_eq!(*told.lock().unwrap(), [(device(1), Door::Handshake, Refusal::Revoked)]);
}

#[tokio::test]
async fn a_client_without_certificate_is_refused_where_one_is_required() {
    let world = World::new();
    let enrolled = world.enrolled(1);
    let config = world.tls.mqtt(world.verifier(ClientAuth::Required)).unwrap();
    let server = world
        .listen(config, |mut connection| async move {
            connection.stream.write_all(b"hello").await.unwrap();
            connection.stream.shutdown().await.unwrap();
        })
        .await;
    let told = server.get(&client(None), "/").await.expect_err("refused").to_string();
    assert!(told.contains("CertificateRequired"), "{told}");
    let mut stream = server.connect(&client(Some(&enrolled))).await.unwrap();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "hello");
}

#[tokio::test]
async fn the_admin_door_asks_for_no_certificate() {
    let world = World::new();
    let server = world
        .listen(world.tls.admin().unwrap(), |connection| async move {
            assert!(connection.peer.certificate.is_none());
            assert!(connection.stream.get_ref().0.nodelay().unwrap());
            let mut stream = connection.stream;
            stream.write_all(b"hello").await.unwrap();
            stream.shutdown().await.unwrap();
        })
        .await;
    let revoked = world.issuing.device(1, |_| {});
    let mut stream = server.connect(&client(Some(&revoked))).await.unwrap();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "hello");
}

#[tokio::test]
async fn tls_1_2_is_refused_unless_it_is_switched_on() {
    let world = World::new();
    let enrolled = world.enrolled(1);
    let old = client_with(Some(&enrolled), &[&version::TLS12]);
    let server = world.serve(who()).await;
    let told = server.get(&old, "/who").await.expect_err("refused").to_string();
    assert!(told.contains("ProtocolVersion"), "{told}");
    let server = world.serve_versions(who(), Versions::Tls12And13).await;
    let answer = server.get(&old, "/who").await.unwrap();
    assert!(answer.ends_with(&device(1).to_string()), "{answer}");
    world.stands(1, &enrolled, with_status(CertificateStatus::Revoked));
    assert!(server.get(&old, "/who").await.is_err());
}

#[tokio::test]
async fn the_chain_is_shown_with_its_root_and_can_be_exchanged_while_serving() {
    let world = World::new();
    let server = world.serve(who()).await;
    let shown = |stream: &tokio_rustls::client::TlsStream<TcpStream>| {
        stream.get_ref().1.peer_certificates().unwrap().to_vec()
    };
    let first = shown(&server.connect(&client(None)).await.unwrap());
    assert_eq!(first.last(), Some(&world.root.der));
    let next = world.root.server();
    world.tls.identity.replace(next.chain.clone(), next.key_der()).unwrap();
    assert_eq!(shown(&server.connect(&client(None)).await.unwrap()), next.chain);
    let foreign_key = world.root.server().key_der();
    assert!(world.tls.identity.replace(next.chain.clone(), foreign_key).is_err());
    assert_eq!(shown(&server.connect(&client(None)).await.unwrap()), next.chain);
}

#[tokio::test]
async fn the_hybrid_key_exchange_is_used_with_who_prefers_it() {
    let world = World::new();
    let server = world.serve(who()).await;
    let stream = server.connect(&client(None)).await.unwrap();
    let group = stream.get_ref().1.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
}

#[tokio::test]
async fn a_client_that_speaks_only_http_2_is_refused() {
    let world = World::new();
    let server = world.serve(who()).await;
    let mut h2 = Arc::unwrap_or_clone(client(None));
    h2.alpn_protocols = vec![b"h2".to_vec()];
    let told = server.connect(&Arc::new(h2)).await.expect_err("refused").to_string();
    assert!(told.contains("NoApplicationProtocol"), "{told}");
}

#[tokio::test]
async fn a_revocation_cuts_a_connection_that_is_open_and_idle() {
    let world = World::new();
    let enrolled = world.enrolled(1);
    let server = world.serve(who()).await;
    let mut stream = server.connect(&client(Some(&enrolled))).await.unwrap();
    say(&mut stream, "GET /who HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    drop(hear(&mut stream).await);
    world.stands(1, &enrolled, with_status(CertificateStatus::Revoked));
    assert_eq!(world.doors.registry.kick_serial(&serial(1), Kicked::Status), 1);
    closed(&mut stream).await;
    assert!(server.get(&client(Some(&enrolled)), "/who").await.is_err());
}

/// The first bytes of a ClientHello whose rest never comes.
const HALF_HELLO: [u8; 7] = [0x16, 0x03, 0x01, 0x01, 0x00, 0x01, 0x00];

#[tokio::test]
async fn stalled_handshakes_keep_nobody_waiting() {
    let mut world = World::new();
    world.limits = Limits { handshakes: 1, ..Limits::default() };
    let server = world.serve(who()).await;
    let mut stalled = Vec::new();
    for n in 0..50 {
        let mut socket = TcpStream::connect(server.addr).await.unwrap();
        if n % 2 == 0 {
            socket.write_all(&HALF_HELLO).await.unwrap();
        }
        stalled.push(socket);
    }
    let answer =
        tokio::time::timeout(SOON / 4, server.get(&client(None), "/who")).await.expect("not kept waiting");
    assert!(answer.unwrap().ends_with("nobody"));
    drop(stalled);
}

#[tokio::test]
async fn a_handshake_that_is_not_done_in_time_is_closed() {
    let mut world = World::new();
    world.limits = Limits { handshake_deadline: Duration::from_millis(50), ..Limits::default() };
    let server = world.serve(who()).await;
    for begun in [&HALF_HELLO[..0], &HALF_HELLO[..]] {
        let mut socket = TcpStream::connect(server.addr).await.unwrap();
        socket.write_all(begun).await.unwrap();
        let mut rest = Vec::new();
        drop(tokio::time::timeout(SOON, socket.read_to_end(&mut rest)).await.expect("closed in time"));
    }
    assert!(world.doors.counters.handshakes_failed.load(std::sync::atomic::Ordering::Relaxed) >= 2);
}

#[tokio::test]
async fn one_connection_too_many_is_closed_at_once() {
    let mut world = World::new();
    world.limits = Limits { connections: 1, ..Limits::default() };
    let server = world.serve(who()).await;
    let mut first = server.connect(&client(None)).await.unwrap();
    assert!(server.connect(&client(None)).await.is_err());
    say(&mut first, "GET /who HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    assert!(hear(&mut first).await.ends_with("nobody"));
    drop(first);
    // The place is free again as soon as the server has noticed.
    let again = async { while server.get(&client(None), "/who").await.is_err() {} };
    tokio::time::timeout(SOON, again).await.expect("let in again");
}
