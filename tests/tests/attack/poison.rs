//! The five that stop rumqttd's own listener (design page "The MQTT plane"), each alone at the real gate, with a
//! device's certificate and with an observer's: nothing happens, and the event bus, which is rumqttd's router, goes on.

use super::a16::{WELCOME, connect, publish, subscribe};
use super::packets::{Beside, GOODBYE, OTHER_ID, Session, observer, resident_kib};
use super::siege::{Device, Siege, patient};
use muster_tests::{PATIENCE, Server, Site};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A siege whose attackers may come and speak as often as they like, with two of them: a device and an observer.
async fn begin() -> (Siege, Beside, [Device; 2]) {
    let launch = patient()
        .with("MUSTER_MQTT_CONNECTS_PER_MINUTE", "100000")
        .with("MUSTER_MQTT_PACKETS_PER_SECOND", "100000")
        .with("MUSTER_MQTT_KIB_PER_SECOND", "100000")
        .with("MUSTER_LIMITS_HANDSHAKE_S", "3");
    let siege = Siege::of(Server::on(Site::founded().await, launch).await).await;
    let beside = Beside::begin(&siege).await;
    let attackers = [siege.device("sensor-linux").await, observer(&siege, "attacker").await];
    (siege, beside, attackers)
}

/// Certificates that such a siege takes: those of the honest, and the two attackers'.
const ISSUED: usize = Beside::ISSUED + 2;

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_begins_outside_ascii_ends_its_own_session_alone() {
    let (siege, mut beside, attackers) = begin().await;
    for who in &attackers {
        for topic in ["é", "\u{10ffff}/x", "ß/#", "日本"] {
            // At QoS 0, as it was found; and as a filter.
            let mut session = Session::begin(siege.server(), who).await;
            session.say(&publish(0x30, topic)).await;
            assert_eq!(session.closes().await, [], "{topic}");
            let mut session = Session::begin(siege.server(), who).await;
            assert_eq!(session.subscribe(topic).await, 0x80, "{topic}");
            beside.goes_on(siege.server()).await;
        }
    }
    let _ = siege.lift(ISSUED, &["gate.foreign_topic", "observer.publish"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_none_poisons_nothing_however_often_it_comes() {
    let (siege, mut beside, attackers) = begin().await;
    for who in &attackers {
        for _ in 0..2 {
            for id in ["a+b", "a#b", "$x", "a/b", ""] {
                let (mut session, answer) = Session::tried(siege.server(), who, &connect(id, 0, b"")).await;
                assert_eq!(answer, OTHER_ID, "{id}");
                assert_eq!(session.closes().await, [], "{id}");
            }
        }
        Session::begin(siege.server(), who).await.goes_on().await;
        beside.goes_on(siege.server()).await;
    }
    let _ = siege.lift(ISSUED, &["gate.client_id"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_subscription_with_a_message_unacknowledged_leaves_nothing_behind() {
    let (siege, mut beside, attackers) = begin().await;
    let [device, observer] = &attackers;
    let desired = format!("muster/v1/{}/desired", device.id);
    for goodbye in [GOODBYE, b""] {
        // A session to be kept, as asked; it is not, and says so.
        let (mut session, answer) =
            Session::tried(siege.server(), device, &connect(&device.id, 0, b"")).await;
        assert_eq!(answer, WELCOME, "session present is 0, always");
        assert_eq!(session.subscribe(&format!("$share/g/{desired}")).await, 0x80);
        assert_eq!(session.subscribe(&desired).await, 1);
        assert_eq!(session.message().await.0, desired, "sent, and never acknowledged");
        session.say(goodbye).await;
        drop(session);

        let hello = connect(&observer.id, 0, b"");
        let (mut session, answer) = Session::tried(siege.server(), observer, &hello).await;
        assert_eq!(answer, WELCOME);
        assert_eq!(session.subscribe("$share/g/muster/events/presence").await, 0x80);
        assert_eq!(session.subscribe("muster/events/presence").await, 0);
        beside.goes_on(siege.server()).await;
        let _ = session.message().await;
        session.say(goodbye).await;
    }
    // Who comes back gets what it needs without anything having been kept.
    let mut session = Session::begin(siege.server(), device).await;
    session.say(&subscribe(&desired)).await;
    assert_eq!(session.next().await.unwrap().0, 0x90);
    assert_eq!(session.message().await.0, desired);
    beside.goes_on(siege.server()).await;
    let _ = siege.lift(ISSUED, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_handshakes_hold_up_nobody_and_end() {
    let (siege, mut beside, attackers) = begin().await;
    let mut silent = Vec::new();
    for url in [&siege.server().endpoints().mqtt, &siege.server().endpoints().device] {
        let place = url.split_once("://").unwrap().1.trim_end_matches('/').to_owned();
        for n in 0..200 {
            let mut socket = TcpStream::connect(&place).await.unwrap();
            if n % 2 == 0 {
                // A record that promises a ClientHello of 512 bytes, and the first of them.
                socket.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]).await.unwrap();
            }
            silent.push(socket);
        }
    }
    let began = Instant::now();
    for who in &attackers {
        Session::begin(siege.server(), who).await.goes_on().await;
    }
    beside.goes_on(siege.server()).await;
    assert!(began.elapsed() < Duration::from_secs(2), "nobody waited for them: {:?}", began.elapsed());
    for mut socket in silent {
        let mut said = Vec::new();
        // An alert or nothing, and then the end; a reset is one, too.
        drop(timeout(PATIENCE, socket.read_to_end(&mut said)).await.expect("the deadline ends it"));
        assert!(said.is_empty() || said[0] == 0x15, "{said:x?}");
    }
    let _ = siege.lift(ISSUED, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_filters_and_topics_that_differ_take_no_memory() {
    let (siege, mut beside, attackers) = begin().await;
    let mut before = None;
    for round in 0..4 {
        for who in &attackers {
            different_filters(&siege, who, round).await;
        }
        // The first round warms what every first round does.
        let now = resident_kib(siege.server());
        let before = *before.get_or_insert(now);
        assert!(now < before + 8 * 1024, "round {round}: {before} KiB, then {now} KiB");
        beside.goes_on(siege.server()).await;
    }
    let _ = siege.lift(ISSUED, &["gate.foreign_topic", "observer.publish"]).await;
}

/// 6,400 filters and 50 topics that nobody has named before.
async fn different_filters(siege: &Siege, who: &Device, round: usize) {
    let mut session = Session::begin(siege.server(), who).await;
    for packet in 0..100 {
        let filters: Vec<u8> = (0..64)
            .flat_map(|n| {
                let filter = format!("filter/{round}/{packet}/{n}");
                [&[0, u8::try_from(filter.len()).unwrap()][..], filter.as_bytes(), &[1]].concat()
            })
            .collect();
        let length = u16::try_from(filters.len() + 2).unwrap();
        let head =
            [0x82, u8::try_from(length % 128).unwrap() | 0x80, u8::try_from(length / 128).unwrap(), 0, 9];
        session.say(&[&head[..], &filters].concat()).await;
        let (first, granted) = session.next().await.expect("a SUBSCRIBE is answered");
        assert_eq!((first, &granted[2..]), (0x90, &[0x80; 64][..]));
    }
    drop(session);
    for n in 0..50 {
        let mut session = Session::begin(siege.server(), who).await;
        session.say(&publish(0x30, &format!("topic/{round}/{n}"))).await;
        assert_eq!(session.closes().await, []);
    }
}
