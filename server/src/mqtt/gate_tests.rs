//! The gate with real TLS: who gets a session, what a session does, and how it ends.

use super::*;
use crate::app::Error;
use crate::domain::admission::CertificateStatus;
use crate::domain::refusal::Refusal;
use crate::doors::fixture::{World, client, closed, device, serial, with_status};
use crate::mqtt::fixture::{Client, Memory, bytes, connect, listen, outgoing, until};
use muster_wire::problem::Code;
use muster_wire::topic::Channel;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{LastWill, PubAck, Publish, Subscribe};
use std::sync::Mutex;
use std::sync::atomic::Ordering;

/// What the audit log would hear.
fn hearing(world: World) -> (World, Arc<Mutex<Vec<&'static str>>>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let ear = Arc::clone(&heard);
    let doors = world.doors.clone().on_misconduct(move |_, rule| ear.lock().unwrap().push(rule));
    (World { doors, ..world }, heard)
}

#[tokio::test]
async fn a_connect_begins_a_session_whatever_it_says_about_sessions_users_and_keep_alive() {
    let (world, plane) = (World::new(), Memory::new());
    let enrolled = world.enrolled(1);
    let server = listen(&world, &plane, Limits::default()).await;
    for packet in [
        connect(|_| {}),
        connect(|packet| packet.clean_session = false),
        connect(|packet| drop(packet.set_login("someone", "secret").clone())),
        connect(|packet| packet.keep_alive = 0),
    ] {
        let mut client = Client::sends(&server, &enrolled, &packet).await;
        assert_eq!(client.answer(4).await, [0x20, 2, 0, 0]);
        client.send(&Packet::PingReq).await;
        assert_eq!(client.hear().await, Packet::PingResp);
    }
    assert_eq!(world.doors.counters.gate.sessions_begun.get(), 4);
}

#[tokio::test]
async fn another_client_id_is_answered_bad_client_id_and_written_down() {
    let (world, heard) = hearing(World::new());
    let enrolled = world.enrolled(1);
    let server = listen(&world, &Memory::new(), Limits::default()).await;
    for id in [device(2).to_string(), String::new(), device(1).to_string().to_uppercase(), "a+b".to_owned()] {
        let packet = connect(|packet| packet.client_id = id);
        assert_eq!(Client::sends(&server, &enrolled, &packet).await.last_words().await, [0x20, 2, 0, 2]);
    }
    assert_eq!(*heard.lock().unwrap(), ["gate.client_id"; 4]);
}

#[tokio::test]
async fn a_status_that_changed_after_the_handshake_is_answered_not_authorised() {
    let world = World::new();
    let enrolled = world.enrolled(1);
    let server = listen(&world, &Memory::new(), Limits::default()).await;
    let packet = connect(|_| {});
    let mut client = Client::sends(&server, &enrolled, &packet[..4]).await;
    until(|| !world.doors.registry.is_empty()).await;
    world.stands(1, &enrolled, with_status(CertificateStatus::Revoked));
    client.say(&packet[4..]).await;
    assert_eq!(client.last_words().await, [0x20, 2, 0, 5]);
}

#[tokio::test]
async fn a_server_that_is_not_ready_says_so() {
    let (world, plane) = (World::new(), Memory::new());
    let enrolled = world.enrolled(1);
    let server = listen(&world, &plane, Limits::default()).await;
    plane.unready.store(true, Ordering::SeqCst);
    assert_eq!(Client::sends(&server, &enrolled, &connect(|_| {})).await.last_words().await, [0x20, 2, 0, 3]);
    plane.unready.store(false, Ordering::SeqCst);
    world.doors.registry.close_sessions();
    assert_eq!(Client::sends(&server, &enrolled, &connect(|_| {})).await.last_words().await, [0x20, 2, 0, 3]);
}

#[tokio::test]
async fn what_is_no_plain_connect_closes_without_an_answer() {
    let (world, heard) = hearing(World::new());
    let enrolled = world.enrolled(1);
    let server = listen(&world, &Memory::new(), Limits::default()).await;
    let will = connect(|packet| packet.last_will = Some(LastWill::new("t", "m", QoS::AtLeastOnce, false)));
    let version_5 = connect(|packet| packet.protocol = Protocol::V5);
    let too_long = connect(|packet| packet.client_id = "a".repeat(CONNECT_BYTES));
    let mut wrong_name = connect(|_| {});
    wrong_name[5] = b'X';
    let garbage: [&[u8]; 4] =
        [&[0xc0, 0], &[0x30, 3, 0, 1, b'a'], &[0xff; 16], &[0x10, 0xff, 0xff, 0xff, 0xff]];
    for bytes in [&will[..], &version_5, &too_long, &wrong_name].into_iter().chain(garbage) {
        let client = Client::sends(&server, &enrolled, bytes).await;
        assert_eq!(client.last_words().await, [0; 0], "{bytes:?}");
    }
    assert_eq!(heard.lock().unwrap().len(), 8);
}

#[tokio::test]
async fn half_a_connect_is_closed_at_the_deadline() {
    let world = World::new();
    let enrolled = world.enrolled(1);
    let limits = Limits { connect_deadline: Duration::from_millis(50), ..Limits::default() };
    let server = listen(&world, &Memory::new(), limits).await;
    for length in [0, 1, 10] {
        let mut client = Client::sends(&server, &enrolled, &connect(|_| {})[..length]).await;
        closed(&mut client.stream).await;
    }
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_connect() {
    let world = World::new();
    let enrolled = world.enrolled(1);
    // Only a test that hangs comes to this deadline.
    let limits = Limits { connect_deadline: Duration::from_secs(3_600), ..Limits::default() };
    let server = listen(&world, &Memory::new(), limits).await;
    let client = Client::sends(&server, &enrolled, &connect(|_| {})[..4]).await;
    until(|| !world.doors.registry.is_empty()).await;
    server.stopper.stop();
    assert_eq!(client.last_words().await, [0x20, 2, 0, 3]);
    server.task.await.unwrap();
}

#[tokio::test]
async fn an_issued_certificate_is_made_current_before_the_session_begins() {
    let (world, plane) = (World::new(), Memory::new());
    let enrolled = world.enrolled(1);
    world.stands(1, &enrolled, with_status(CertificateStatus::Issued));
    let server = listen(&world, &plane, Limits::default()).await;
    let _client = Client::of(&server, &enrolled, 1).await;
    assert_eq!(*plane.promoted.lock().unwrap(), [serial(1)]);
}

#[tokio::test]
async fn the_puback_comes_when_the_store_holds_the_message_and_in_order() {
    let (world, plane) = (World::new(), Memory::new());
    let enrolled = world.enrolled(1);
    let server = listen(&world, &plane, Limits::default()).await;
    let mut client = Client::of(&server, &enrolled, 1).await;
    plane.store.forget_permits(usize::MAX);
    let topic = Channel::ReportState.topic(device(1));
    for id in [9, 3, 7] {
        client.publish(&topic, id, &[id as u8]).await;
    }
    let mut early = [0; 1];
    let nothing = timeout(Duration::from_millis(50), client.stream.read(&mut early)).await;
    assert!(nothing.is_err(), "a PUBACK came before the store held anything");
    plane.store.add_permits(3);
    for id in [9, 3, 7] {
        assert_eq!(client.hear().await, Packet::PubAck(PubAck::new(id)));
    }
    let bodies: Vec<_> = plane.taken.lock().unwrap().iter().map(|(_, _, body)| body.clone()).collect();
    assert_eq!(bodies, [[9], [3], [7]]);
}

#[tokio::test]
async fn what_comes_together_is_announced_together_until_the_store_holds_it() {
    let (world, plane) = (World::new(), Memory::new());
    let enrolled = [world.enrolled(1), world.enrolled(2)];
    let server = listen(&world, &plane, Limits::default()).await;
    let announced = || Arc::strong_count(&plane.announced) - 1;
    plane.store.forget_permits(usize::MAX);
    let mut clients = Vec::new();
    for (n, enrolled) in (1..).zip(&enrolled) {
        let mut client = Client::of(&server, enrolled, n).await;
        assert_eq!(announced(), clients.len(), "nothing is announced of a session that says nothing");
        client.publish(&Channel::ReportState.topic(device(n)), 7, b"x").await;
        clients.push(client);
        until(|| announced() == clients.len()).await;
    }
    plane.store.add_permits(2);
    for client in &mut clients {
        assert_eq!(client.hear().await, Packet::PubAck(PubAck::new(7)));
    }
    until(|| announced() == 0).await;
}

#[tokio::test]
async fn a_report_at_qos_0_is_taken_and_not_answered() {
    let (world, plane) = (World::new(), Memory::new());
    let enrolled = world.enrolled(1);
    let server = listen(&world, &plane, Limits::default()).await;
    let mut client = Client::of(&server, &enrolled, 1).await;
    let publish = Publish::new(Channel::ReportEvent.topic(device(1)), QoS::AtMostOnce, "e");
    client.send(&Packet::Publish(publish)).await;
    client.send(&Packet::PingReq).await;
    assert_eq!(client.hear().await, Packet::PingResp);
    assert_eq!(plane.taken.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_due_comes_on_subscribing_and_on_a_nudge_and_once() {
    let (world, plane) = (World::new(), Memory::new());
    let enrolled = world.enrolled(1);
    let server = listen(&world, &plane, Limits::default()).await;
    plane.due.lock().unwrap().push(outgoing(Channel::Desired, 1));
    let mut client = Client::hearing(&server, &enrolled, 1).await;
    let Packet::Publish(first) = client.hear().await else { panic!("no message") };
    assert_eq!(
        (first.topic, first.qos, first.dup),
        (Channel::Desired.topic(device(1)), QoS::AtLeastOnce, false)
    );
    client.send(&Packet::PubAck(PubAck::new(first.pkid))).await;
    plane.due.lock().unwrap().push(outgoing(Channel::Order, 2));
    assert!(world.doors.registry.nudge(&device(1)));
    let Packet::Publish(second) = client.hear().await else { panic!("no message") };
    assert_eq!(&second.payload[..], [2; 3]);
    until(|| plane.delivered.lock().unwrap().len() == 1).await;
    world.doors.registry.nudge(&device(1));
    client.send(&Packet::PingReq).await;
    assert_eq!(client.hear().await, Packet::PingResp, "nothing is sent twice in one session");
    let mut next = Client::hearing(&server, &enrolled, 1).await;
    assert!(matches!(next.hear().await, Packet::Publish(_)), "the next session gets what it needs");
}

#[tokio::test]
async fn more_than_fits_in_flight_goes_on_as_it_is_acknowledged() {
    let (world, plane) = (World::new(), Memory::new());
    let enrolled = world.enrolled(1);
    let server = listen(&world, &plane, Limits::default()).await;
    plane.due.lock().unwrap().extend((0..50).map(|n| outgoing(Channel::Order, n)));
    let mut client = Client::hearing(&server, &enrolled, 1).await;
    for n in 0..50 {
        let Packet::Publish(publish) = client.hear().await else { panic!("no message") };
        assert_eq!(publish.payload[0], n);
        client.send(&Packet::PubAck(PubAck::new(publish.pkid))).await;
    }
    until(|| plane.delivered.lock().unwrap().len() == 50).await;
}

#[tokio::test]
async fn the_answer_to_a_receipt_comes_behind_its_puback() {
    let (world, plane) = (World::new(), Memory::new());
    let enrolled = world.enrolled(1);
    let server = listen(&world, &plane, Limits::default()).await;
    let mut client = Client::hearing(&server, &enrolled, 1).await;
    plane.answers.lock().unwrap().push_back(Ok(Some(outgoing(Channel::Ack, 5))));
    client.publish(&Channel::Receipt.topic(device(1)), 4, b"r").await;
    assert_eq!(client.hear().await, Packet::PubAck(PubAck::new(4)));
    assert!(matches!(client.hear().await, Packet::Publish(ack) if ack.payload[..] == [5; 3]));
}

#[tokio::test]
async fn a_message_that_a_verb_refuses_gets_no_puback_and_ends_the_session() {
    let (world, plane) = (World::new(), Memory::new());
    let enrolled = world.enrolled(1);
    let server = listen(&world, &plane, Limits::default()).await;
    let refused = Refusal::by("report.malformed", Code::MalformedRequest);
    for error in [Error::from(refused), Error::NoSpace, Error::Stopped] {
        let mut client = Client::of(&server, &enrolled, 1).await;
        plane.answers.lock().unwrap().push_back(Err(error));
        client.publish(&Channel::ReportState.topic(device(1)), 4, b"r").await;
        assert_eq!(client.last_words().await, [0; 0]);
    }
    let counters = &world.doors.counters.gate;
    assert_eq!((counters.ended_misconduct.get(), counters.ended_unavailable.get()), (1, 2));
}

#[tokio::test]
async fn a_message_waits_for_a_busy_store_but_not_for_ever() {
    let (world, plane) = (World::new(), Memory::new());
    let enrolled = world.enrolled(1);
    let limits = Limits { busy: Duration::from_millis(300), ..Limits::default() };
    let server = listen(&world, &plane, limits).await;
    let topic = Channel::ReportState.topic(device(1));
    let mut client = Client::of(&server, &enrolled, 1).await;
    plane.answers.lock().unwrap().push_back(Err(Error::Contended));
    client.publish(&topic, 4, b"r").await;
    assert_eq!(client.hear().await, Packet::PubAck(PubAck::new(4)));
    plane.answers.lock().unwrap().extend((0..10).map(|_| Err(Error::Contended)));
    client.publish(&topic, 5, b"r").await;
    assert_eq!(client.last_words().await, [0; 0]);
}

#[tokio::test]
async fn a_session_that_breaks_the_rules_is_closed_and_written_down() {
    let (world, heard) = hearing(World::new());
    let (enrolled, plane) = (world.enrolled(1), Memory::new());
    let server = listen(&world, &plane, Limits::default()).await;
    let own = Channel::ReportState.topic(device(1));
    let at = |qos| Publish { pkid: 1, ..Publish::new(&own, qos, "x") };
    let to = |topic: &str| Publish::new(topic, QoS::AtMostOnce, "x");
    let cases = [
        (bytes(&Packet::Publish(at(QoS::ExactlyOnce))), "gate.qos_2"),
        (bytes(&Packet::Publish(Publish { retain: true, ..at(QoS::AtLeastOnce) })), "gate.retain"),
        (bytes(&Packet::Publish(to(&Channel::ReportState.topic(device(2))))), "gate.foreign_topic"),
        (bytes(&Packet::Publish(to(&Channel::Order.topic(device(1))))), "gate.wrong_direction"),
        (bytes(&Packet::Publish(to("é"))), "gate.foreign_topic"),
        (connect(|_| {}), "gate.second_connect"),
        (BytesMut::from(&[0x62, 2, 0, 1][..]), "gate.malformed"),
        (BytesMut::from(&[0x30, 0x81, 0x80, 4][..]), "gate.malformed"),
    ];
    for (bytes, rule) in cases {
        let mut client = Client::of(&server, &enrolled, 1).await;
        client.say(&bytes).await;
        assert_eq!(client.last_words().await, [0; 0], "{rule}");
        assert_eq!(heard.lock().unwrap().pop(), Some(rule));
    }
    assert!(plane.taken.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_second_session_of_a_device_ends_the_first_and_no_other() {
    let world = World::new();
    let (enrolled, other) = (world.enrolled(1), world.enrolled(2));
    let server = listen(&world, &Memory::new(), Limits::default()).await;
    let mut bystander = Client::of(&server, &other, 2).await;
    let first = Client::of(&server, &enrolled, 1).await;
    let generation = world.doors.registry.session_of(&device(1)).unwrap();
    let mut second = Client::of(&server, &enrolled, 1).await;
    assert_eq!(first.last_words().await, [0; 0]);
    assert!(world.doors.registry.session_of(&device(1)).unwrap() > generation);
    for client in [&mut second, &mut bystander] {
        client.send(&Packet::PingReq).await;
        assert_eq!(client.hear().await, Packet::PingResp);
    }
}

#[tokio::test]
async fn a_device_that_reconnects_in_a_loop_is_told_to_come_later_and_others_are_not() {
    let (world, heard) = hearing(World::new());
    let (enrolled, other) = (world.enrolled(1), world.enrolled(2));
    let sessions = Rate::new(1, Duration::from_secs(3_600), 3);
    let limits = Limits { sessions, damped_for: Duration::ZERO, ..Limits::default() };
    let server = listen(&world, &Memory::new(), limits).await;
    for _ in 0..2 {
        drop(Client::of(&server, &enrolled, 1).await);
    }
    let mut last = Client::of(&server, &enrolled, 1).await;
    for _ in 0..20 {
        let refused = Client::sends(&server, &enrolled, &connect(|_| {})).await;
        assert_eq!(refused.last_words().await, [0x20, 2, 0, 3]);
    }
    assert_eq!(*heard.lock().unwrap(), ["gate.damped"; 20]);
    assert_eq!(world.doors.counters.gate.refused_damped.get(), 20);
    drop(Client::of(&server, &other, 2).await);
    last.send(&Packet::PingReq).await;
    assert_eq!(last.hear().await, Packet::PingResp, "the session that there is stays");
}

#[tokio::test]
async fn silence_and_a_puback_that_does_not_come_end_the_session() {
    let (world, plane) = (World::new(), Memory::new());
    let enrolled = world.enrolled(1);
    let limits = Limits { puback: Duration::from_millis(100), ..Limits::default() };
    let server = listen(&world, &plane, limits).await;
    let mut silent = Client::sends(&server, &enrolled, &connect(|packet| packet.keep_alive = 1)).await;
    assert_eq!(silent.answer(4).await, [0x20, 2, 0, 0]);
    assert_eq!(silent.last_words().await, [0; 0]);
    plane.due.lock().unwrap().push(outgoing(Channel::Order, 1));
    let mut client = Client::hearing(&server, &enrolled, 1).await;
    assert!(matches!(client.hear().await, Packet::Publish(_)));
    assert_eq!(client.last_words().await, [0; 0]);
    assert_eq!(world.doors.counters.gate.ended_silent.get(), 2);
}

#[tokio::test]
async fn a_device_that_does_not_read_is_given_up() {
    let (world, plane) = (World::new(), Memory::new());
    let enrolled = world.enrolled(1);
    let limits = Limits { write: Duration::from_millis(100), ..Limits::default() };
    let server = listen(&world, &plane, limits).await;
    let huge = |n| crate::app::Outgoing { payload: vec![n; 4 << 20], ..outgoing(Channel::Order, n) };
    plane.due.lock().unwrap().extend((0..WINDOW as u8).map(huge));
    let _client = Client::hearing(&server, &enrolled, 1).await;
    until(|| world.doors.registry.is_empty()).await;
    assert_eq!(world.doors.counters.gate.ended_silent.get(), 1);
}

#[tokio::test]
async fn expiry_ends_a_session_at_its_next_packet_without_a_kick() {
    let world = World::new();
    let enrolled = world.enrolled(1);
    let server = listen(&world, &Memory::new(), Limits::default()).await;
    let mut client = Client::of(&server, &enrolled, 1).await;
    world.clock.advance_ms(2_000_000);
    client.send(&Packet::PingReq).await;
    assert_eq!(client.last_words().await, [0; 0]);
}

#[tokio::test]
async fn a_kick_ends_a_session_in_the_middle_of_a_message() {
    let (world, plane) = (World::new(), Memory::new());
    let enrolled = world.enrolled(1);
    let server = listen(&world, &plane, Limits::default()).await;
    let mut client = Client::of(&server, &enrolled, 1).await;
    plane.store.forget_permits(usize::MAX);
    client.publish(&Channel::ReportState.topic(device(1)), 4, b"r").await;
    world.stands(1, &enrolled, with_status(CertificateStatus::Revoked));
    world.doors.registry.kick_serial(&serial(1), registry::Kicked::Status);
    assert_eq!(client.last_words().await, [0; 0]);
    let again = server.connect(&crate::doors::fixture::client(Some(&enrolled))).await;
    if let Ok(mut stream) = again {
        closed(&mut stream).await;
    }
    assert!(world.doors.registry.is_empty());
}

#[tokio::test]
async fn packets_in_one_write_with_connect_are_all_answered() {
    let world = World::new();
    let enrolled = world.enrolled(1);
    let server = listen(&world, &Memory::new(), Limits::default()).await;
    let mut all = connect(|_| {});
    let subscribe = Subscribe { pkid: 7, ..Subscribe::new("#", QoS::AtLeastOnce) };
    for packet in [Packet::Subscribe(subscribe), Packet::PingReq, Packet::Disconnect] {
        all.extend_from_slice(&bytes(&packet));
    }
    let client = Client::sends(&server, &enrolled, &all).await;
    assert_eq!(client.last_words().await, [0x20, 2, 0, 0, 0x90, 3, 0, 7, 0x80, 0xd0, 0]);
}

#[tokio::test]
async fn a_device_that_floods_is_read_slowly_and_its_neighbour_is_not() {
    let world = World::new();
    let (enrolled, other) = (world.enrolled(1), world.enrolled(2));
    let rates = Rates { packets: Rate::new(1, Duration::from_secs(3_600), 5), ..Limits::default().rates };
    let server = listen(&world, &Memory::new(), Limits { rates, ..Limits::default() }).await;
    let mut flood = Client::of(&server, &enrolled, 1).await;
    for _ in 0..1_000 {
        flood.send(&Packet::PingReq).await;
    }
    for _ in 0..5 {
        assert_eq!(flood.hear().await, Packet::PingResp);
    }
    let mut neighbour = Client::of(&server, &other, 2).await;
    neighbour.send(&Packet::PingReq).await;
    assert_eq!(neighbour.hear().await, Packet::PingResp);
    until(|| world.doors.counters.gate.slowed.get() == 1).await;
}

#[tokio::test]
async fn an_idle_session_is_a_small_future() {
    let (world, plane) = (World::new(), Memory::new());
    let gate = Arc::new(Gate::new(plane, world.doors.clone(), Limits::default()));
    let (near, _far) = tokio::io::duplex(64);
    let certificate = Arc::new(crate::doors::fixture::peer_certificate(1));
    let place = world.doors.registry.enter(Some(&certificate));
    let addr = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    let (_stopper, stop) = crate::doors::stop::channel();
    let connection = Connection {
        stream: near,
        peer: crate::doors::peer::Peer { addr, certificate: Some(certificate), observer: None },
        place,
        arrival: crate::doors::arrival::Arrivals::default().announce(),
        stop,
    };
    let bytes = std::mem::size_of_val(&gate.serve(connection));
    assert!(bytes < 2_048, "{bytes} bytes");
}

#[tokio::test]
async fn a_connect_of_exactly_the_longest_length_is_still_read() {
    let world = World::new();
    let enrolled = world.enrolled(1);
    let server = listen(&world, &Memory::new(), Limits::default()).await;
    let fill = |length: usize| connect(|packet| packet.client_id = "a".repeat(length));
    let overhead = fill(2_000).len() - 3 - 2_000;
    let packet = fill(CONNECT_BYTES - overhead);
    assert_eq!(Client::sends(&server, &enrolled, &packet).await.last_words().await, [0x20, 2, 0, 2]);
}

const WINDOW: usize = crate::mqtt::session::WINDOW;

#[tokio::test]
async fn silent_clients_do_not_hinder_an_honest_one() {
    let world = World::new();
    let (idle, enrolled) = (world.enrolled(2), world.enrolled(1));
    let server = listen(&world, &Memory::new(), Limits::default()).await;
    let mut stalled = Vec::new();
    for _ in 0..registry::PER_DEVICE {
        stalled.push(server.connect(&client(Some(&idle))).await.unwrap());
    }
    let mut honest = Client::of(&server, &enrolled, 1).await;
    honest.publish(&Channel::ReportState.topic(device(1)), 1, b"r").await;
    assert_eq!(honest.hear().await, Packet::PubAck(PubAck::new(1)));
}
