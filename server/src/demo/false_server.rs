//! A gate and a door in the server's place, for the thief of the demo: they let everybody in and say what he wants.
//!
//! ```text
//!   agent ──MQTT──▶ gate: grants everything, sends the order of the moment, hears what the agent answers
//!         ──HTTPS─▶ door: answers discovery with the thief's own authority, and nothing else
//! ```
//! What an agent tells as an event is heard and not acknowledged, so that the agent tells it once more to whoever comes
//! after. A thief who acknowledges would take that telling away; he would not change what the device does.

use super::stage::Broken;
use bytes::BytesMut;
use muster_wire::cbor;
use muster_wire::posture::EventReport;
use rumqttc::mqttbytes::v4::{
    ConnAck, ConnectReturnCode, Packet, PubAck, Publish, SubAck, Subscribe, SubscribeReasonCode,
};
use rumqttc::mqttbytes::{Error as CodecError, QoS};
use rustls::ServerConfig;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The longest packet and the longest request head, in bytes.
const LONGEST: usize = 256 * 1024;

/// What came in at the gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// An agent under this client id waits for orders.
    Waits(String),
    /// An agent tells that something happened, in these words.
    Tells(String),
    /// An agent answers for an order.
    Receipt(Vec<u8>),
}

/// The false server; it ends when it is closed or dropped.
#[derive(Debug)]
pub(super) struct FalseServer {
    heard: mpsc::UnboundedReceiver<Heard>,
    order: watch::Sender<Option<Vec<u8>>>,
    tasks: JoinSet<()>,
}

impl FalseServer {
    /// Listens on the ports `gate` and `door` of this machine, with the certificate in `tls`; `discovery` is what the
    /// door answers.
    pub(super) async fn open(
        (gate, door): (u16, u16),
        tls: Arc<ServerConfig>,
        discovery: String,
    ) -> Result<Self, Broken> {
        let (tell, heard) = mpsc::unbounded_channel();
        let (order, orders) = watch::channel(None);
        let acceptor = TlsAcceptor::from(tls);
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener(gate).await?, acceptor.clone(), move |stream| {
            Line::of(stream, tell.clone(), orders.clone()).attend()
        }));
        let discovery = Arc::new(discovery);
        tasks.spawn(serve(listener(door).await?, acceptor, move |stream| {
            answer(stream, Arc::clone(&discovery))
        }));
        Ok(Self { heard, order, tasks })
    }

    /// Sends `order` to every agent, also to those that come later.
    pub(super) fn order(&self, order: Vec<u8>) {
        self.order.send_replace(Some(order));
    }

    /// Listens no longer; on return the ports are free.
    pub(super) async fn close(mut self) {
        self.tasks.shutdown().await;
    }

    /// What comes in next; waits for it.
    pub(super) async fn hears(&mut self) -> Option<Heard> {
        self.heard.recv().await
    }
}

async fn listener(port: u16) -> Result<TcpListener, Broken> {
    let place = format!("127.0.0.1:{port}");
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
    bound.map_err(Broken::system("listen on", Path::new(&place)))
}

async fn serve<F>(listener: TcpListener, tls: TlsAcceptor, attend: impl Fn(TlsStream<TcpStream>) -> F)
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        // Whoever breaks off goes; agents come back.
        if let Ok(stream) = tls.accept(socket).await {
            let attended = attend(stream);
            connections.spawn(async move {
                let _ = attended.await;
            });
        }
    }
}

/// One agent's connection to the gate.
struct Line {
    stream: TlsStream<TcpStream>,
    heard: BytesMut,
    client: String,
    /// Where it waits for orders, once it does.
    topic: Option<String>,
    tell: mpsc::UnboundedSender<Heard>,
    orders: watch::Receiver<Option<Vec<u8>>>,
    sent: u16,
}

impl Line {
    fn of(
        stream: TlsStream<TcpStream>,
        tell: mpsc::UnboundedSender<Heard>,
        orders: watch::Receiver<Option<Vec<u8>>>,
    ) -> Self {
        Self { stream, heard: BytesMut::new(), client: String::new(), topic: None, tell, orders, sent: 0 }
    }

    async fn attend(mut self) -> io::Result<()> {
        loop {
            tokio::select! {
                read = self.stream.read_buf(&mut self.heard) => if read? == 0 {
                    return Ok(());
                },
                changed = self.orders.changed(), if self.topic.is_some() => {
                    changed.map_err(io::Error::other)?;
                    self.say_order().await?;
                }
            }
            while let Some(packet) = self.packet()? {
                self.take(packet).await?;
            }
        }
    }

    fn packet(&mut self) -> io::Result<Option<Packet>> {
        match Packet::read(&mut self.heard, LONGEST) {
            Ok(packet) => Ok(Some(packet)),
            Err(CodecError::InsufficientBytes(_)) => Ok(None),
            Err(error) => Err(io::Error::other(format!("{error:?}"))),
        }
    }

    async fn take(&mut self, packet: Packet) -> io::Result<()> {
        match packet {
            Packet::Connect(connect) => {
                self.client = connect.client_id;
                self.say(Packet::ConnAck(ConnAck::new(ConnectReturnCode::Success, false))).await
            }
            Packet::Subscribe(subscribe) => self.grant(subscribe).await,
            Packet::Publish(publish) => self.hear(publish).await,
            Packet::PingReq => self.say(Packet::PingResp).await,
            Packet::Disconnect => Err(io::ErrorKind::ConnectionAborted.into()),
            // Nothing that it waits for.
            Packet::PubAck(_)
            | Packet::ConnAck(_)
            | Packet::PubRec(_)
            | Packet::PubRel(_)
            | Packet::PubComp(_)
            | Packet::SubAck(_)
            | Packet::Unsubscribe(_)
            | Packet::UnsubAck(_)
            | Packet::PingResp => Ok(()),
        }
    }

    async fn grant(&mut self, subscribe: Subscribe) -> io::Result<()> {
        let granted = subscribe.filters.iter().map(|_| SubscribeReasonCode::Success(QoS::AtLeastOnce));
        self.say(Packet::SubAck(SubAck::new(subscribe.pkid, granted.collect()))).await?;
        let mut paths = subscribe.filters.into_iter().map(|filter| filter.path);
        if let Some(topic) = paths.find(|path| path.ends_with("/order")) {
            self.topic = Some(topic);
            self.tells(Heard::Waits(self.client.clone()));
            self.say_order().await?;
        }
        Ok(())
    }

    async fn hear(&mut self, publish: Publish) -> io::Result<()> {
        if publish.topic.ends_with("/report/event") {
            let event = cbor::decode::<EventReport>(&publish.payload).map_err(io::Error::other)?;
            self.tells(Heard::Tells(event.detail));
            return Ok(());
        }
        if publish.topic.ends_with("/receipt") {
            self.tells(Heard::Receipt(publish.payload.to_vec()));
        }
        self.say(Packet::PubAck(PubAck::new(publish.pkid))).await
    }

    async fn say_order(&mut self) -> io::Result<()> {
        let order = self.orders.borrow_and_update().clone();
        let (Some(order), Some(topic)) = (order, self.topic.clone()) else { return Ok(()) };
        self.sent = self.sent.wrapping_add(1).max(1);
        let publish = Publish { pkid: self.sent, ..Publish::new(topic, QoS::AtLeastOnce, order) };
        self.say(Packet::Publish(publish)).await
    }

    async fn say(&mut self, packet: Packet) -> io::Result<()> {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, LONGEST).map_err(|error| io::Error::other(format!("{error:?}")))?;
        self.stream.write_all(&bytes).await?;
        self.stream.flush().await
    }

    fn tells(&self, heard: Heard) {
        // Nobody listens any more once the thief is gone.
        let _ = self.tell.send(heard);
    }
}

/// Answers one request, then hangs up.
async fn answer(mut stream: TlsStream<TcpStream>, discovery: Arc<String>) -> io::Result<()> {
    let mut asked = BytesMut::new();
    while !asked.windows(4).any(|end| end == b"\r\n\r\n") && asked.len() < LONGEST {
        if stream.read_buf(&mut asked).await? == 0 {
            return Ok(());
        }
    }
    let known = asked.starts_with(b"GET /.well-known/muster ");
    let (status, body) = if known { ("200 OK", discovery.as_str()) } else { ("503 Service Unavailable", "") };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all((head + body).as_bytes()).await?;
    stream.shutdown().await
}
