//! A gate that keeps the rules of the contract and nothing else: one session per device, the certificate judged at
//! CONNECT, every message confirmed, `renew` answered, receipts acknowledged under the command key.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use muster_pki::armor;
use muster_wire::cbor;
use muster_wire::envelope::{Signed, payload_digest, sign1};
use muster_wire::id::DeviceId;
use muster_wire::key::PublicKey;
use muster_wire::receipt::{Ack, Receipt};
use muster_wire::renew::Renew;
use muster_wire::topic::Channel;
use rumqttc::mqttbytes::v4::{
    ConnAck, ConnectReturnCode, Packet, PubAck, Publish, SubAck, SubscribeReasonCode,
};
use rumqttc::mqttbytes::{Error, QoS};
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::fleet::{Asked, Fleet, ed25519};

const CAP: usize = 1 << 20;

/// What reached the gate.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) channel: Channel,
    pub(crate) payload: Vec<u8>,
}

/// What the gate does wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flaws {
    /// Closes at CONNECT.
    pub(crate) is_shut: bool,
    /// Takes receipts and never signs for them.
    pub(crate) never_acks: bool,
    /// Takes requests for certificates and never answers.
    pub(crate) never_renews: bool,
    /// Cuts the session instead of confirming a report.
    pub(crate) never_confirms: bool,
    /// Lets devices go: grants `order` and `ack` alone, and cuts whoever sends anything but receipts.
    pub(crate) says_farewell: bool,
}

/// What to send to a session; `None` ends it.
type Teller = mpsc::UnboundedSender<Option<(Channel, Vec<u8>)>>;

/// The gate.
pub(crate) struct Gate {
    fleet: Arc<Mutex<Fleet>>,
    config: Arc<ServerConfig>,
    sessions: Mutex<BTreeMap<DeviceId, Teller>>,
    pub(crate) heard: Mutex<Vec<Heard>>,
    /// The receipts among them, each checked under the certificate of its session.
    pub(crate) receipts: Mutex<Vec<Receipt>>,
    pub(crate) flaws: Mutex<Flaws>,
    pub(crate) connects: Mutex<u32>,
    pub(crate) confirmed: Mutex<Vec<u16>>,
    pub(crate) goodbyes: Mutex<u32>,
}

impl Gate {
    pub(crate) fn new(fleet: Arc<Mutex<Fleet>>, config: Arc<ServerConfig>) -> Self {
        Self {
            fleet,
            config,
            sessions: Mutex::default(),
            heard: Mutex::default(),
            receipts: Mutex::default(),
            flaws: Mutex::default(),
            connects: Mutex::default(),
            confirmed: Mutex::default(),
            goodbyes: Mutex::default(),
        }
    }

    /// Sends to a device that is connected.
    pub(crate) fn push(&self, device: DeviceId, channel: Channel, payload: Vec<u8>) {
        self.sessions.lock().unwrap()[&device].send(Some((channel, payload))).unwrap();
    }

    /// Cuts every session.
    pub(crate) fn cut(&self) {
        self.sessions.lock().unwrap().values().for_each(|session| drop(session.send(None)));
    }

    pub(crate) fn is_connected(&self, device: DeviceId) -> bool {
        self.sessions.lock().unwrap().get(&device).is_some_and(|session| !session.is_closed())
    }

    pub(crate) fn heard_on(&self, channel: Channel) -> Vec<Vec<u8>> {
        let heard = self.heard.lock().unwrap();
        heard.iter().filter(|item| item.channel == channel).map(|item| item.payload.clone()).collect()
    }
}

pub(crate) async fn accept(listener: TcpListener, gate: Arc<Gate>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(session(stream, Arc::clone(&gate)));
    }
}

async fn session(stream: TcpStream, gate: Arc<Gate>) -> Option<()> {
    let mut stream = TlsAcceptor::from(Arc::clone(&gate.config)).accept(stream).await.ok()?;
    let shown = stream.get_ref().1.peer_certificates()?[0].to_vec();
    let mut buffer = BytesMut::new();
    let Packet::Connect(connect) = read(&mut stream, &mut buffer).await? else { return None };
    *gate.connects.lock().unwrap() += 1;
    if gate.flaws.lock().unwrap().is_shut {
        return None;
    }
    let is_welcome = gate.fleet.lock().unwrap().answer(&Asked::Discovery, Some(&shown)).status == 200;
    let device: DeviceId = connect.client_id.parse().ok()?;
    if !is_welcome {
        let refusal = ConnAck { code: ConnectReturnCode::NotAuthorized, session_present: false };
        return write(&mut stream, Packet::ConnAck(refusal)).await;
    }
    assert!(connect.clean_session && connect.last_will.is_none());
    let (tell, mut told) = mpsc::unbounded_channel();
    if let Some(former) = gate.sessions.lock().unwrap().insert(device, tell) {
        let _ = former.send(None);
    }
    let accepted = ConnAck { code: ConnectReturnCode::Success, session_present: false };
    write(&mut stream, Packet::ConnAck(accepted)).await?;
    let mut next = 1;
    loop {
        tokio::select! {
            packet = read(&mut stream, &mut buffer) => {
                for answer in heard(&gate, device, &shown, packet?, &mut next)? {
                    write(&mut stream, answer).await?;
                }
            }
            message = told.recv() => {
                let (channel, payload) = message??;
                write(&mut stream, publish(device, channel, payload, &mut next)).await?;
            }
        }
    }
}

fn publish(device: DeviceId, channel: Channel, payload: Vec<u8>, next: &mut u16) -> Packet {
    let mut publish = Publish::new(channel.topic(device), QoS::AtLeastOnce, payload);
    publish.pkid = *next;
    *next += 1;
    Packet::Publish(publish)
}

/// What to answer; `None` closes.
fn heard(gate: &Gate, device: DeviceId, shown: &[u8], packet: Packet, next: &mut u16) -> Option<Vec<Packet>> {
    let flaws = *gate.flaws.lock().unwrap();
    match packet {
        Packet::Subscribe(subscribe) => {
            let granted = subscribe.filters.iter().map(|filter| {
                let channel = Channel::parse(&filter.path).map(|(_, channel)| channel);
                match channel {
                    Some(Channel::Order | Channel::Ack) => SubscribeReasonCode::Success(QoS::AtLeastOnce),
                    _ if flaws.says_farewell => SubscribeReasonCode::Failure,
                    _ => SubscribeReasonCode::Success(QoS::AtLeastOnce),
                }
            });
            let granted = granted.collect();
            Some(vec![Packet::SubAck(SubAck::new(subscribe.pkid, granted))])
        }
        Packet::PingReq => Some(vec![Packet::PingResp]),
        Packet::PubAck(ack) => {
            gate.confirmed.lock().unwrap().push(ack.pkid);
            Some(Vec::new())
        }
        Packet::Publish(publish) => {
            let (of, channel) = Channel::parse(&publish.topic).unwrap();
            assert_eq!(of, device);
            let payload = publish.payload.to_vec();
            gate.heard.lock().unwrap().push(Heard { channel, payload: payload.clone() });
            if flaws.never_confirms && channel != Channel::Renew {
                return None;
            }
            if flaws.says_farewell && channel != Channel::Receipt {
                return None;
            }
            let mut answers = vec![Packet::PubAck(PubAck::new(publish.pkid))];
            answers.extend(
                answer(gate, flaws, device, shown, channel, &payload)
                    .map(|(channel, payload)| self::publish(device, channel, payload, next)),
            );
            Some(answers)
        }
        Packet::Disconnect => {
            *gate.goodbyes.lock().unwrap() += 1;
            None
        }
        _ => None,
    }
}

fn answer(
    gate: &Gate,
    flaws: Flaws,
    device: DeviceId,
    shown: &[u8],
    channel: Channel,
    payload: &[u8],
) -> Option<(Channel, Vec<u8>)> {
    let certificate = muster_pki::certificate::Certificate::parse(shown).unwrap();
    let key = [PublicKey::from_spki_der(certificate.spki_der()).unwrap()];
    match channel {
        Channel::Renew if !flaws.never_renews => {
            let renew = Signed::<Renew>::parse(payload).unwrap().verify(&key).unwrap();
            assert_eq!((renew.device, renew.certificate.0), (device, certificate.sha256()));
            let answer = gate.fleet.lock().unwrap().answer(&Asked::Reenroll { csr: &renew.csr }, Some(shown));
            assert_eq!(answer.status, 200);
            Some((Channel::Credential, armor::decode(&answer.body, CAP).unwrap().into_owned()))
        }
        Channel::Receipt => {
            let receipt = Signed::<Receipt>::parse(payload).unwrap().verify(&key).unwrap();
            assert_eq!((receipt.device, receipt.certificate.0), (device, certificate.sha256()));
            let ack = Ack { device, order: receipt.order, receipt: receipt.payload_digest() };
            assert_eq!(ack.receipt, payload_digest::<Receipt>(&receipt));
            gate.receipts.lock().unwrap().push(receipt.into_document());
            (!flaws.never_acks).then(|| (Channel::Ack, sign1(&ack, &ed25519(1).0).unwrap()))
        }
        Channel::ReportState => {
            cbor::decode::<muster_wire::posture::StateReport>(payload).unwrap();
            None
        }
        Channel::ReportPosture => {
            cbor::decode::<muster_wire::posture::PostureReport>(payload).unwrap();
            None
        }
        _ => None,
    }
}

async fn read(stream: &mut TlsStream<TcpStream>, buffer: &mut BytesMut) -> Option<Packet> {
    loop {
        match Packet::read(buffer, CAP) {
            Ok(packet) => return Some(packet),
            Err(Error::InsufficientBytes(_)) => {}
            Err(_) => return None,
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

async fn write(stream: &mut TlsStream<TcpStream>, packet: Packet) -> Option<()> {
    let mut buffer = BytesMut::new();
    packet.write(&mut buffer, CAP).unwrap();
    stream.write_all(&buffer).await.ok()
}
