//! A16 at the real gate: foreign topics, wildcards, wills, retained poison, and the packets that stop rumqttd's own
//! listener. What is random is in `server/src/mqtt/model_tests.rs`.

use super::siege::{Device, Siege};
use muster_tests::{Server, Tls};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

fn string(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap().to_be_bytes();
    [&length[..], text.as_bytes()].concat()
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap();
    let length = [u8::try_from(length % 128).unwrap() | 0x80, u8::try_from(length / 128).unwrap()];
    [&[first][..], &length, body].concat()
}

pub(super) fn connect(id: &str, flags: u8, rest: &[u8]) -> Vec<u8> {
    packet(0x10, &[&b"\0\x04MQTT\x04"[..], &[flags, 0, 60], &string(id), rest].concat())
}

pub(super) fn publish(first: u8, topic: &str) -> Vec<u8> {
    let id: &[u8] = if first & 6 == 0 { &[] } else { &[0, 7] };
    packet(first, &[&string(topic), id, b"poison"].concat())
}

pub(super) fn subscribe(filter: &str) -> Vec<u8> {
    packet(0x82, &[&[0, 9][..], &string(filter), &[1]].concat())
}

pub(super) async fn open(server: &Server, device: &Device, hello: &[u8]) -> TlsStream<TcpStream> {
    let mut stream = Tls::with(server, &device.identity).open(&server.endpoints().mqtt).await.unwrap();
    stream.write_all(hello).await.unwrap();
    stream
}

/// Everything that the gate says to `packets` until it closes.
async fn said(server: &Server, device: &Device, packets: &[&[u8]]) -> Vec<u8> {
    let mut stream = open(server, device, &packets.concat()).await;
    let mut heard = Vec::new();
    let end = tokio::time::timeout(muster_tests::PATIENCE, stream.read_to_end(&mut heard)).await;
    drop(end.expect("the gate closes"));
    heard
}

pub(super) const WELCOME: &[u8] = &[0x20, 2, 0, 0];
const GOODBYE: &[u8] = &[0xe0, 0];

#[tokio::test(flavor = "multi_thread")]
async fn a_device_reaches_nothing_but_its_own_and_the_gate_goes_on() {
    let siege = Siege::begin().await;
    let (attacker, honest) = (siege.device("sensor-linux").await, siege.device("sensor-linux").await);
    let server = siege.server();
    let mut beside = open(server, &honest, &connect(&honest.id, 2, b"")).await;
    let mut welcome = [0; 4];
    beside.read_exact(&mut welcome).await.unwrap();
    assert_eq!(welcome, WELCOME);

    let hello = connect(&attacker.id, 2, b"");
    let foreign = format!("muster/v1/{}/report/state", honest.id);
    for filter in ["#", "+/#", "$share/g/muster/v1/#", "$SYS/#", "..", &foreign, "muster/events/presence"] {
        let heard = said(server, &attacker, &[&hello, &subscribe(filter), GOODBYE]).await;
        assert_eq!(heard, [WELCOME, &[0x90, 3, 0, 9, 0x80]].concat(), "{filter}");
    }
    let own = format!("muster/v1/{}/report/state", attacker.id);
    let order = format!("muster/v1/{}/order", attacker.id);
    let long = "x".repeat(16_000);
    let poison = [
        // The five packets: a topic that begins outside ASCII, `$share` with a message unacknowledged and a session to
        // be kept, an id that is none, sent twice, and a filter for each connection.
        publish(0x30, "é"),
        publish(0x32, &foreign),
        publish(0x33, &own),
        publish(0x34, &own),
        publish(0x30, &order),
        publish(0x30, "a\0b"),
        publish(0x30, &long),
        subscribe("a\0b"),
        vec![0x36, 3, 0, 1, b'a'],
        hello.clone(),
    ];
    for packet in &poison {
        assert_eq!(said(server, &attacker, &[&hello, packet]).await, WELCOME, "{packet:?}");
    }
    for id in ["a+b", "a+b", "", &honest.id] {
        assert_eq!(said(server, &attacker, &[&connect(id, 0, b"")]).await, [0x20, 2, 0, 2], "{id}");
    }
    let will = [string("t"), string("m")].concat();
    assert_eq!(said(server, &attacker, &[&connect(&attacker.id, 0x06, &will)]).await, [0; 0]);

    beside.write_all(&[0xc0, 0]).await.unwrap();
    let mut pong = [0; 2];
    beside.read_exact(&mut pong).await.unwrap();
    assert_eq!(pong, [0xd0, 0], "nobody else's byte came, and the session beside goes on");
    let rules = [
        "gate.foreign_topic",
        "gate.wrong_direction",
        "gate.retain",
        "gate.qos_2",
        "gate.malformed",
        "gate.second_connect",
        "gate.client_id",
        "gate.will",
    ];
    let _ = siege.lift(2, &rules).await;
}
