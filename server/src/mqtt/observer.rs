//! An observer's session at the gate: hears the event topics it asks for, and does nothing else.
//!
//! | packet | answer |
//! | --- | --- |
//! | CONNECT | as for a device: the client id is the observer's name, no will |
//! | SUBSCRIBE | 0 for each of the fixed topics, spelled in full; 0x80 for anything else |
//! | UNSUBSCRIBE, PINGREQ | UNSUBACK, PINGRESP |
//! | DISCONNECT, silence | the session ends |
//! | PUBLISH, anything else | the session ends, and the audit log hears of it |
//!
//! Events go out at QoS 0: who was away reads in `/v1/events` what it missed. Nothing that an observer sends goes on to
//! the bus.

use super::bus::{Attached, Bus, BusError};
use super::frame::{self, Frame, PACKET_BYTES};
use super::gate::{GateError, Limits, expect_connect, say};
use super::session::keep_alive;
use crate::app::{App, Wanted};
use crate::domain::policy::{Caller, Principal, act, decide};
use crate::doors::Doors;
use crate::doors::accept::Connection;
use crate::doors::peer::ObserverCertificate;
use crate::doors::stall::Unstalled;
use crate::doors::stop::Stop;
use bytes::BytesMut;
use muster_wire::topic::EventTopic;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{
    ConnectReturnCode, Packet, Publish, SubAck, Subscribe, SubscribeReasonCode, UnsubAck, Unsubscribe,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, sleep_until, timeout};

/// The gate for observers.
#[derive(Debug)]
pub struct ObserverGate {
    bus: Arc<Bus>,
    doors: Doors,
    limits: Limits,
}

/// Why an observer's session ended, as the audit log calls it; nothing where it did no wrong.
type Ended = Option<&'static str>;

impl ObserverGate {
    /// A gate to `bus`.
    pub fn new(bus: Arc<Bus>, doors: Doors, limits: Limits) -> Self {
        Self { bus, doors, limits }
    }

    /// Serves one observer's connection until it ends.
    pub async fn serve<S>(self: Arc<Self>, connection: Connection<S>)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let Connection { stream, peer, place, stop, .. } = connection;
        let Some(observer) = peer.observer else { return };
        let mut stream = Unstalled::new(stream, self.limits.write);
        let mut inbound = BytesMut::new();
        let ended = match self.begin(&mut stream, (&mut inbound, &stop), &observer).await {
            Ok((attached, silence)) => {
                self.doors.counters.bus.begun.up();
                let session = Session { hears: Wanted::NONE, inbound, outbound: BytesMut::new() };
                let let_in = || self.doors.judge_observer(&observer).is_ok();
                session.run(&mut stream, attached, (silence, &let_in)).await
            }
            Err(error) => {
                self.doors.counters.bus.refused.up();
                tracing::debug!(observer = %observer.name, %error, "no session");
                if let Some(code) = error.answer() {
                    // Whatever comes of it, the socket is closed next.
                    drop(timeout(self.limits.farewell, say(&mut stream, code)).await);
                }
                error.misconduct()
            }
        };
        if let Some(rule) = ended {
            self.doors.counters.bus.misconduct.up();
            self.doors.observer_misconduct(&observer, rule);
        }
        drop(timeout(self.limits.farewell, stream.shutdown()).await);
        drop(place);
    }

    async fn begin<S>(
        &self,
        stream: &mut S,
        (inbound, stop): (&mut BytesMut, &Stop),
        observer: &ObserverCertificate,
    ) -> Result<(Attached, Duration), GateError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let connect = expect_connect(stream, inbound, (self.limits.connect_deadline, stop)).await?;
        if connect.client_id != observer.name.as_str() {
            return Err(GateError::ClientId);
        }
        self.doors.judge_observer(observer).map_err(|_| GateError::Status)?;
        let principal = Principal::Observer(observer.name.to_string());
        let caller = Caller { principal, request_id: App::request_id() };
        let permit = decide::<act::HearEvents>(caller).map_err(|_| GateError::Status)?;
        let attached = self.bus.attach(&permit, Arc::clone(&self.doors.counters)).await;
        let attached = attached.map_err(|error: BusError| {
            tracing::info!(observer = %observer.name, %error, "no event bus for an observer");
            GateError::NotReady
        })?;
        say(stream, ConnectReturnCode::Success).await.map_err(GateError::Broken)?;
        let promised = keep_alive(connect.keep_alive, self.limits.keep_alive_cap_s);
        Ok((attached, promised + promised / 2))
    }
}

/// What a session remembers.
struct Session {
    hears: Wanted,
    inbound: BytesMut,
    outbound: BytesMut,
}

impl Session {
    async fn run<S>(
        mut self,
        stream: &mut S,
        mut attached: Attached,
        (silence, let_in): (Duration, &(dyn Fn() -> bool + Sync)),
    ) -> Ended
    where
        S: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let mut deadline = Instant::now() + silence;
        loop {
            loop {
                match frame::next(&mut self.inbound, PACKET_BYTES) {
                    Ok(Frame::Packet(packet)) => match self.answer(packet) {
                        Ok(answer) => self.put(&answer),
                        Err(ended) => return ended,
                    },
                    Ok(Frame::Missing(_)) => break,
                    Err(_) => return Some("observer.malformed"),
                }
            }
            if !self.outbound.is_empty() {
                let written = async {
                    stream.write_all(&self.outbound).await?;
                    stream.flush().await
                };
                if written.await.is_err() {
                    return None;
                }
                self.outbound.clear();
            }
            // A certificate that has expired meanwhile; one that was revoked has been cut already.
            if !let_in() {
                return None;
            }
            tokio::select! {
                biased;
                read = stream.read_buf(&mut self.inbound) => match read {
                    Ok(1..) => deadline = Instant::now() + silence,
                    Ok(0) | Err(_) => return None,
                },
                event = attached.events.recv() => match event {
                    Some((topic, body)) if self.hears.contains(topic) => {
                        self.put(&Packet::Publish(Publish::from_bytes(topic.topic(), QoS::AtMostOnce, body)));
                    }
                    Some(_) => {}
                    // The bus fell silent, or the observer was too slow: it comes again.
                    None => return None,
                },
                () = sleep_until(deadline) => return None,
            }
        }
    }

    fn answer(&mut self, packet: Packet) -> Result<Packet, Ended> {
        match packet {
            Packet::Subscribe(subscribe) => Ok(Packet::SubAck(self.subscribe(&subscribe))),
            Packet::Unsubscribe(unsubscribe) => Ok(self.unsubscribe(&unsubscribe)),
            Packet::PingReq => Ok(Packet::PingResp),
            Packet::Disconnect => Err(None),
            Packet::Publish(_) => Err(Some("observer.publish")),
            Packet::Connect(_) => Err(Some("observer.second_connect")),
            Packet::ConnAck(_)
            | Packet::PubAck(_)
            | Packet::PubRec(_)
            | Packet::PubRel(_)
            | Packet::PubComp(_)
            | Packet::SubAck(_)
            | Packet::UnsubAck(_)
            | Packet::PingResp => Err(Some("observer.out_of_place")),
        }
    }

    fn subscribe(&mut self, subscribe: &Subscribe) -> SubAck {
        let codes = subscribe.filters.iter().map(|filter| match EventTopic::parse(&filter.path) {
            Some(topic) => {
                self.hears = self.hears.and(topic);
                SubscribeReasonCode::Success(QoS::AtMostOnce)
            }
            None => SubscribeReasonCode::Failure,
        });
        SubAck::new(subscribe.pkid, codes.collect())
    }

    fn unsubscribe(&mut self, unsubscribe: &Unsubscribe) -> Packet {
        for topic in unsubscribe.topics.iter().filter_map(|filter| EventTopic::parse(filter)) {
            self.hears = self.hears.without(topic);
        }
        Packet::UnsubAck(UnsubAck { pkid: unsubscribe.pkid })
    }

    fn put(&mut self, packet: &Packet) {
        // Only a payload that no event has is too long for MQTT.
        drop(packet.write(&mut self.outbound, usize::MAX));
    }
}
