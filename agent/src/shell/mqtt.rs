//! One connection to the gate: MQTT 3.1.1 over TLS 1.3 with the device's certificate.
//!
//! rumqttc's loop runs in a task of its own, since polling and publishing from one task can wait for each other. The task
//! ends with its connection: rumqttc would connect again at once and without asking, and here the core decides when.
//! Received messages are acknowledged by hand, after what they ask for is durable. rumqttc gives no packet identifiers
//! when it publishes, but it announces them in order, which is how a PUBACK finds its message.

use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use muster_wire::id::DeviceId;
use muster_wire::topic::{Channel, Direction};
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, EventLoop, MqttOptions, NetworkOptions, Outgoing,
    Packet, Publish, QoS, SubscribeFilter, SubscribeReasonCode, TlsConfiguration, Transport,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::http::Server;
use super::keystore::Keystore;
use super::tls;
use crate::clock::Clock;
use crate::core::outbox::{EntryId, WINDOW};
use crate::core::session::{Event, Incoming, LinkId};
use crate::core::{Caller, Trouble, TroubleKind};

/// A ping this often and no other traffic: together with the answer, less than one wake-up a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(240);
/// For TCP, TLS and CONNACK together, in seconds.
const CONNECT_S: u64 = 20;
/// No message of a Muster server to a device is larger, topic and header included.
const PACKET_CAP: usize = 72 * 1024;
/// Requests that rumqttc has not looked at yet; beyond the window there are only acknowledgements.
const QUEUE: usize = 64;

/// A connection, or the attempt at one.
#[derive(Debug)]
pub struct Link {
    id: LinkId,
    device: DeviceId,
    client: AsyncClient,
    task: JoinHandle<()>,
    /// Published, and not given a packet identifier yet.
    unnumbered: VecDeque<EntryId>,
    numbered: BTreeMap<u16, EntryId>,
}

/// What the task of a connection says.
#[derive(Debug)]
pub enum News {
    /// CONNACK.
    Opened,
    /// A message was given this packet identifier.
    Numbered(u16),
    /// Its PUBACK.
    Confirmed(u16),
    /// The server has said, in the order in which they were named, which channels it will speak on.
    Granted(Vec<bool>),
    /// A message came.
    Received(Publish),
    /// The connection is no more.
    Closed(Trouble),
}

/// Why a message cannot be sent over a connection that was open a moment ago.
#[derive(Debug, thiserror::Error)]
#[error("the connection takes no more")]
pub struct Jammed;

/// To whom a link connects.
#[derive(Debug)]
pub struct Gate<'a> {
    /// Host and port of the gate, and the pinned root.
    pub server: &'a Server,
    /// The identity to show.
    pub keys: &'a Keystore,
    /// By which certificates are judged.
    pub clock: &'a Clock,
}

impl Link {
    /// Begins to connect as `device`, showing the certificate of `caller`; what comes of it arrives at `news`.
    ///
    /// # Errors
    /// [`TroubleKind::Local`] when the identity cannot be read.
    pub fn open(
        id: LinkId,
        device: DeviceId,
        gate: &Gate<'_>,
        caller: Caller,
        news: mpsc::Sender<(LinkId, News)>,
    ) -> Result<Self, Trouble> {
        let config = tls::config(gate.server, caller, gate.keys, gate.clock)?;
        let mut options = MqttOptions::new(device.to_string(), gate.server.host.clone(), gate.server.port);
        options
            .set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(config))))
            .set_keep_alive(KEEP_ALIVE)
            .set_clean_session(true)
            .set_manual_acks(true)
            .set_inflight(u16::try_from(WINDOW * 2).unwrap_or(u16::MAX))
            .set_max_packet_size(PACKET_CAP, PACKET_CAP);
        let (client, mut event_loop) = AsyncClient::new(options, QUEUE);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        network.set_connection_timeout(CONNECT_S);
        event_loop.set_network_options(network);
        let server = gate.server.clone();
        let task = tokio::spawn(poll(id, event_loop, server, caller, news));
        Ok(Self { id, device, client, task, unnumbered: VecDeque::new(), numbered: BTreeMap::new() })
    }

    /// Which one this is.
    pub fn id(&self) -> LinkId {
        self.id
    }

    /// Whether its task is over.
    pub fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// What `news` of this link means to the core, if anything.
    pub fn understand(&mut self, news: News) -> Option<Event> {
        match news {
            News::Opened => match self.subscribe() {
                Ok(()) => Some(Event::Opened(self.id)),
                Err(jammed) => Some(Event::Closed(self.id, fault(&jammed))),
            },
            News::Numbered(packet) => {
                let entry = self.unnumbered.pop_front()?;
                self.numbered.insert(packet, entry);
                None
            }
            News::Confirmed(packet) => {
                let entry = self.numbered.remove(&packet)?;
                Some(Event::Confirmed(self.id, entry))
            }
            News::Granted(granted) => {
                let granted = to_device().zip(granted).filter(|(_, is_granted)| *is_granted);
                Some(Event::Granted(self.id, granted.map(|(channel, _)| channel).collect()))
            }
            News::Received(publish) => {
                let (device, channel) = Channel::parse(&publish.topic)?;
                let incoming = Incoming { channel, payload: publish.payload.to_vec(), packet: publish.pkid };
                (device == self.device).then_some(Event::Received(self.id, incoming))
            }
            News::Closed(trouble) => Some(Event::Closed(self.id, trouble)),
        }
    }

    fn subscribe(&self) -> Result<(), Jammed> {
        let filters =
            to_device().map(|channel| SubscribeFilter::new(channel.topic(self.device), QoS::AtLeastOnce));
        self.client.try_subscribe_many(filters).map_err(|_| Jammed)
    }

    /// Sends; the PUBACK will name `entry`.
    ///
    /// # Errors
    /// [`Jammed`].
    pub fn publish(&mut self, entry: EntryId, channel: Channel, payload: Vec<u8>) -> Result<(), Jammed> {
        let topic = channel.topic(self.device);
        self.client.try_publish(topic, QoS::AtLeastOnce, false, payload).map_err(|_| Jammed)?;
        self.unnumbered.push_back(entry);
        Ok(())
    }

    /// Sends the PUBACK for `packet`.
    ///
    /// # Errors
    /// [`Jammed`].
    pub fn acknowledge(&self, packet: u16) -> Result<(), Jammed> {
        let mut received = Publish::new("", QoS::AtLeastOnce, Vec::new());
        received.pkid = packet;
        self.client.try_ack(&received).map_err(|_| Jammed)
    }

    /// Says goodbye, and waits until that was sent or it makes no difference.
    pub async fn close(mut self) {
        if self.client.try_disconnect().is_ok() {
            let _ = tokio::time::timeout(Duration::from_secs(2), &mut self.task).await;
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The channels that a device asks to hear, in the order in which it names them.
fn to_device() -> impl Iterator<Item = Channel> {
    Channel::ALL.iter().copied().filter(|channel| channel.direction() == Direction::ToDevice)
}

/// A link that fails on this side.
pub(super) fn fault(error: &dyn std::fmt::Display) -> Trouble {
    Trouble { kind: TroubleKind::Closed, server: String::new(), detail: error.to_string() }
}

async fn poll(
    id: LinkId,
    mut event_loop: EventLoop,
    server: Server,
    caller: Caller,
    news: mpsc::Sender<(LinkId, News)>,
) {
    loop {
        let item = match event_loop.poll().await {
            Ok(rumqttc::Event::Incoming(Packet::ConnAck(_))) => News::Opened,
            Ok(rumqttc::Event::Incoming(Packet::PubAck(ack))) => News::Confirmed(ack.pkid),
            Ok(rumqttc::Event::Incoming(Packet::SubAck(ack))) => {
                let is_granted = |code: &SubscribeReasonCode| *code != SubscribeReasonCode::Failure;
                News::Granted(ack.return_codes.iter().map(is_granted).collect())
            }
            Ok(rumqttc::Event::Incoming(Packet::Publish(publish))) => News::Received(publish),
            Ok(rumqttc::Event::Incoming(Packet::Disconnect)) => {
                News::Closed(server.trouble(TroubleKind::Closed, "the server said goodbye"))
            }
            Ok(rumqttc::Event::Outgoing(Outgoing::Publish(packet))) => News::Numbered(packet),
            Ok(rumqttc::Event::Outgoing(Outgoing::Disconnect)) => return,
            Ok(_) => continue,
            Err(error) => News::Closed(judge(&server, caller, &error)),
        };
        let is_over = matches!(item, News::Closed(_));
        if news.send((id, item)).await.is_err() || is_over {
            return;
        }
    }
}

/// Whose fault it is that there is no connection.
fn judge(server: &Server, caller: Caller, error: &ConnectionError) -> Trouble {
    match error {
        ConnectionError::ConnectionRefused(ConnectReturnCode::ServiceUnavailable) => {
            server.trouble(TroubleKind::Closed, "the server is not ready")
        }
        ConnectionError::ConnectionRefused(code) => {
            server.trouble(TroubleKind::Rejected, format!("the server refused this device ({code:?})"))
        }
        ConnectionError::NetworkTimeout | ConnectionError::FlushTimeout => {
            server.trouble(TroubleKind::Timeout, error)
        }
        ConnectionError::Tls(_)
        | ConnectionError::Io(_)
        | ConnectionError::MqttState(_)
        | ConnectionError::NotConnAck(_)
        | ConnectionError::RequestsDone => tls::judge_below(server, caller, error as &(dyn Error + 'static))
            .unwrap_or_else(|| server.trouble(TroubleKind::Closed, error)),
    }
}
