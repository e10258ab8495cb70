//! A plane of memory and a client, for tests of the gate.

use super::gate::{Gate, Limits};
use super::inbox::Plane;
use crate::app::{Error, Mark, Outgoing};
use crate::domain::admission::Topics;
use crate::doors::arrival::Held;
use crate::doors::fixture::{Credential, SOON, Server, World, client, device};
use crate::doors::peer::{PeerCertificate, Serial};
use crate::doors::verifier::ClientAuth;
use bytes::BytesMut;
use muster_wire::digest::Sha256Digest;
use muster_wire::id::DeviceId;
use muster_wire::topic::Channel;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{Connect, Packet, Publish, Subscribe, SubscribeFilter};
use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

/// What is behind the gate in tests: everything is remembered, and tests say what is due and what fails.
pub(super) struct Memory {
    pub(super) unready: AtomicBool,
    pub(super) taken: Mutex<Vec<(DeviceId, Channel, Vec<u8>)>>,
    pub(super) promoted: Mutex<Vec<Serial>>,
    pub(super) delivered: Mutex<Vec<Mark>>,
    pub(super) due: Mutex<Vec<Outgoing>>,
    /// What the next messages are answered with; when it is empty, with nothing.
    pub(super) answers: Mutex<VecDeque<Result<Option<Outgoing>, Error>>>,
    /// Each announcement that is held holds one more.
    pub(super) announced: Arc<()>,
    /// One permit for each message that the store takes.
    pub(super) store: Semaphore,
}

impl Memory {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            unready: AtomicBool::new(false),
            taken: Mutex::default(),
            promoted: Mutex::default(),
            delivered: Mutex::default(),
            due: Mutex::default(),
            answers: Mutex::default(),
            announced: Arc::default(),
            store: Semaphore::new(1_000_000),
        })
    }
}

impl Plane for Memory {
    fn is_ready(&self) -> bool {
        !self.unready.load(Ordering::SeqCst)
    }

    async fn promote(&self, shown: &PeerCertificate) -> Result<(), Error> {
        self.promoted.lock().unwrap().push(shown.serial);
        Ok(())
    }

    fn due(&self, _: DeviceId, topics: Topics, sent: &HashSet<Mark>) -> Result<Vec<Outgoing>, Error> {
        let due = self.due.lock().unwrap();
        let wanted = |one: &&Outgoing| topics.contains(Topics::of(one.channel)) && !sent.contains(&one.mark);
        Ok(due.iter().filter(wanted).cloned().collect())
    }

    async fn delivered(&self, _: DeviceId, mark: Mark) -> Result<(), Error> {
        self.delivered.lock().unwrap().push(mark);
        Ok(())
    }

    fn announce(&self) -> Held {
        Box::new(Arc::clone(&self.announced))
    }

    async fn take(
        &self,
        shown: &PeerCertificate,
        channel: Channel,
        payload: &[u8],
    ) -> Result<Option<Outgoing>, Error> {
        self.store.acquire().await.unwrap().forget();
        if let Some(answer) = self.answers.lock().unwrap().pop_front() {
            return answer;
        }
        self.taken.lock().unwrap().push((shown.device, channel, payload.to_vec()));
        Ok(None)
    }
}

/// Message `n` on `channel`.
pub(super) fn outgoing(channel: Channel, n: u8) -> Outgoing {
    Outgoing { channel, payload: vec![n; 3], mark: Mark::Ack(Sha256Digest([n; 32])) }
}

/// A gate that listens.
pub(super) async fn listen(world: &World, plane: &Arc<Memory>, limits: Limits) -> Server {
    let config = world.tls.mqtt(world.verifier(ClientAuth::Required)).unwrap();
    let gate = Arc::new(Gate::new(Arc::clone(plane), world.doors.clone(), limits));
    world.listen(config, move |connection| Arc::clone(&gate).serve(connection)).await
}

/// The bytes of the CONNECT of device 1, changed.
pub(super) fn connect(change: impl FnOnce(&mut Connect)) -> BytesMut {
    let mut packet = Connect::new(device(1).to_string());
    change(&mut packet);
    bytes(&Packet::Connect(packet))
}

pub(super) fn bytes(packet: &Packet) -> BytesMut {
    let mut bytes = BytesMut::new();
    packet.write(&mut bytes, usize::MAX).unwrap();
    bytes
}

/// An MQTT client.
pub(super) struct Client {
    pub(super) stream: TlsStream<TcpStream>,
    inbound: BytesMut,
}

impl Client {
    /// Connects and sends `bytes`.
    pub(super) async fn sends(server: &Server, credential: &Credential, bytes: &[u8]) -> Self {
        let stream = server.connect(&client(Some(credential))).await.unwrap();
        let mut client = Self { stream, inbound: BytesMut::new() };
        client.say(bytes).await;
        client
    }

    /// The session of device `n`, begun.
    pub(super) async fn of(server: &Server, credential: &Credential, n: u8) -> Self {
        let hello = connect(|packet| packet.client_id = device(n).to_string());
        let mut client = Self::sends(server, credential, &hello).await;
        assert_eq!(client.answer(4).await, [0x20, 2, 0, 0]);
        client
    }

    /// The same, hearing all of its channels at QoS 1.
    pub(super) async fn hearing(server: &Server, credential: &Credential, n: u8) -> Self {
        let mut client = Self::of(server, credential, n).await;
        let hears = [Channel::Order, Channel::Ack, Channel::Desired, Channel::Credential];
        let filters = hears.map(|channel| SubscribeFilter::new(channel.topic(device(n)), QoS::AtLeastOnce));
        client.send(&Packet::Subscribe(Subscribe { pkid: 1, filters: filters.to_vec() })).await;
        assert!(matches!(client.hear().await, Packet::SubAck(_)));
        client
    }

    /// Sends what may already be unheard.
    pub(super) async fn say(&mut self, bytes: &[u8]) {
        drop(self.stream.write_all(bytes).await);
        drop(self.stream.flush().await);
    }

    pub(super) async fn send(&mut self, packet: &Packet) {
        self.say(&bytes(packet)).await;
    }

    /// Publishes at QoS 1.
    pub(super) async fn publish(&mut self, topic: &str, id: u16, body: &[u8]) {
        let publish = Publish { pkid: id, ..Publish::new(topic, QoS::AtLeastOnce, body) };
        self.send(&Packet::Publish(publish)).await;
    }

    /// The next packet.
    pub(super) async fn hear(&mut self) -> Packet {
        loop {
            if let Ok(packet) = Packet::read(&mut self.inbound, usize::MAX) {
                return packet;
            }
            let read =
                timeout(SOON, self.stream.read_buf(&mut self.inbound)).await.expect("an answer in time");
            assert_ne!(read.expect("an open connection"), 0, "closed");
        }
    }

    /// So many bytes.
    pub(super) async fn answer(&mut self, count: usize) -> Vec<u8> {
        let mut heard = vec![0; count];
        timeout(SOON, self.stream.read_exact(&mut heard)).await.expect("in time").expect("an answer");
        heard
    }

    /// Everything that comes until the server closes.
    pub(super) async fn last_words(mut self) -> Vec<u8> {
        let mut heard = self.inbound.to_vec();
        drop(timeout(SOON, self.stream.read_to_end(&mut heard)).await.expect("closed in time"));
        heard
    }
}

/// Waits until `condition` holds.
pub(super) async fn until(condition: impl Fn() -> bool) {
    let holds = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, holds).await.expect("what is waited for");
}
