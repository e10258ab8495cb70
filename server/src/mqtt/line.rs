//! A session's socket: reads packets, does what the session decides, writes what it says.
//!
//! One loop, one thing at a time. While a message is on its way to the store nothing else is read, so PUBACKs keep
//! their order and a device that sends faster than it is served is slowed by TCP alone. What is due is looked at when
//! the device subscribes, when the session is nudged, and on a slow timer; nothing is queued.
//!
//! An idle session holds no buffers, and one timer that is set again only when it fires: a packet costs it nothing.
//! The kick does not appear here: it drops the whole task (`doors/accept.rs`).

use super::frame::{self, Frame, Malformed, PACKET_BYTES};
use super::gate::{Begun, Gate};
use super::inbox::{Fault, Plane, fault};
use super::session::{End, Message, Session, Step};
use crate::app::{Error, Mark};
use crate::domain::admission::Door;
use crate::doors::peer::PeerCertificate;
use bytes::BytesMut;
use muster_wire::topic::Channel;
use rumqttc::mqttbytes::v4::{Packet, PubAck};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

/// Room made at once for a packet that has not come yet, in bytes, whatever it says about its length.
const READ_AHEAD: usize = 8 * 1024;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    /// By its own decision.
    #[error("{0:?}")]
    By(End),
    /// What came is not MQTT.
    #[error("malformed: {0}")]
    Malformed(Malformed),
    /// The table no longer lets the certificate in.
    #[error("the certificate's status")]
    Status,
    /// A verb refused what the device said, and has written it down.
    #[error("refused: {0}")]
    Refused(Error),
    /// The store would not take a message.
    #[error("the store would not take a message")]
    Unavailable,
    /// The connection broke, or writes stalled.
    #[error("broken: {0}")]
    Broken(io::Error),
}

impl Ended {
    /// The code under which the audit log is still to hear of it.
    pub(super) fn misconduct(&self) -> Option<&'static str> {
        match self {
            Self::By(end) => end.misconduct(),
            Self::Malformed(_) => Some("gate.malformed"),
            Self::Status | Self::Refused(_) | Self::Unavailable | Self::Broken(_) => None,
        }
    }

    /// Whether it ended by what the device sent.
    pub(super) fn is_misconduct(&self) -> bool {
        matches!(self, Self::Refused(_)) || self.misconduct().is_some()
    }

    /// Whether it ended because the device did not listen or speak.
    pub(super) fn is_silence(&self) -> bool {
        match self {
            Self::By(end) => matches!(end, End::Silent | End::Unacknowledged),
            Self::Broken(error) => error.kind() == io::ErrorKind::TimedOut,
            Self::Malformed(_) | Self::Status | Self::Refused(_) | Self::Unavailable => false,
        }
    }
}

/// A session on its connection.
pub(super) struct Line<'a, P: Plane, S> {
    gate: &'a Gate<P>,
    certificate: &'a PeerCertificate,
    stream: &'a mut S,
    session: Session,
    nudge: Arc<Notify>,
    inbound: BytesMut,
    outbound: BytesMut,
    look_at: Duration,
}

impl<P: Plane, S> Drop for Line<'_, P, S> {
    /// However it ended, by a kick for instance: the next session goes on with the budget of this one.
    fn drop(&mut self) {
        self.gate.damping.end(self.session.device(), self.session.spent());
    }
}

impl<'a, P: Plane, S> Line<'a, P, S>
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    pub(super) fn new(
        gate: &'a Gate<P>,
        certificate: &'a PeerCertificate,
        stream: &'a mut S,
        begun: Begun,
    ) -> Self {
        Self {
            gate,
            certificate,
            stream,
            session: begun.session,
            nudge: begun.place.nudge,
            inbound: begun.inbound,
            outbound: BytesMut::new(),
            look_at: gate.now() + gate.limits.look,
        }
    }

    /// Serves until the session ends.
    pub(super) async fn run(&mut self) -> Ended {
        let mut alarm = pin!(sleep_until(self.wake_at()));
        loop {
            if let Err(ended) = self.work_through().await {
                return ended;
            }
            // A later deadline is seen when the alarm goes off; only an earlier one sets it anew.
            let wake_at = self.wake_at();
            if wake_at < alarm.deadline() {
                alarm.as_mut().reset(wake_at);
            }
            let done = tokio::select! {
                biased;
                () = self.nudge.notified() => self.look(),
                read = self.stream.read_buf(&mut self.inbound) => match read {
                    Ok(0) => Err(Ended::Broken(io::ErrorKind::UnexpectedEof.into())),
                    Ok(_) => Ok(()),
                    Err(error) => Err(Ended::Broken(error)),
                },
                () = &mut alarm => {
                    let done = self.on_time();
                    alarm.as_mut().reset(self.wake_at());
                    done
                }
            };
            if let Err(ended) = done {
                return ended;
            }
        }
    }

    fn wake_at(&self) -> Instant {
        self.gate.at(self.session.deadline().min(self.look_at))
    }

    fn on_time(&mut self) -> Result<(), Ended> {
        let now = self.gate.now();
        if let Some(end) = self.session.overdue(now) {
            return Err(Ended::By(end));
        }
        self.judge()?;
        if now >= self.look_at { self.look() } else { Ok(()) }
    }

    /// Every complete packet that has come, then writes what there is to say.
    async fn work_through(&mut self) -> Result<(), Ended> {
        loop {
            let before = self.inbound.len();
            match frame::next(&mut self.inbound, PACKET_BYTES).map_err(Ended::Malformed)? {
                Frame::Packet(packet) => {
                    let bytes = before.saturating_sub(self.inbound.len());
                    self.obey(packet, bytes).await?;
                }
                Frame::Missing(_) if self.inbound.is_empty() => {
                    self.inbound = BytesMut::new();
                    return self.flush().await;
                }
                Frame::Missing(bytes) => {
                    self.inbound.reserve(bytes.min(READ_AHEAD));
                    return self.flush().await;
                }
            }
        }
    }

    async fn obey(&mut self, packet: Packet, bytes: usize) -> Result<(), Ended> {
        self.judge()?;
        let (step, pause) = self.session.receive(packet, bytes, self.gate.now());
        match step {
            Step::Nothing => {}
            Step::Answer(packet) => self.write(&packet)?,
            Step::Subscribed(granted) => {
                self.write(&Packet::SubAck(granted))?;
                self.look()?;
            }
            // Boxed, so that an idle session does not carry the room of a message.
            Step::Take(message) => Box::pin(self.take(message)).await?,
            Step::Delivered(mark) => Box::pin(self.delivered(mark)).await?,
            Step::End(end) => {
                // What was said before is owed its answer.
                self.flush().await?;
                return Err(Ended::By(end));
            }
        }
        if !pause.is_zero() {
            self.gate.doors.counters.gate.slowed.up();
            self.flush().await?;
            sleep(pause).await;
        }
        Ok(())
    }

    /// What the certificate may do now: expiry comes without a kick.
    fn judge(&mut self) -> Result<(), Ended> {
        let admission = self.gate.doors.judge(self.certificate, Door::Gate).map_err(|_| Ended::Status)?;
        self.session.allow(admission.topics);
        Ok(())
    }

    /// Writes what is due and was not sent yet.
    fn look(&mut self) -> Result<(), Ended> {
        let now = self.gate.now();
        self.look_at = now + self.gate.limits.look;
        self.judge()?;
        let Some(topics) = self.session.wants() else { return Ok(()) };
        let due = match self.gate.plane.due(self.session.device(), topics, self.session.sent()) {
            Ok(due) => due,
            Err(error) => {
                tracing::warn!(device = %self.certificate.device, %error, "cannot tell what is due");
                return match fault(&error) {
                    Fault::Wait(_) => Ok(()),
                    Fault::Device | Fault::Server => Err(Ended::Unavailable),
                };
            }
        };
        for outgoing in due {
            if let Some(publish) = self.session.send_due(outgoing, now) {
                self.gate.doors.counters.gate.messages_out.up();
                self.write(&Packet::Publish(publish))?;
            }
        }
        Ok(())
    }

    /// Hands a message on, and acknowledges it once the store holds it.
    async fn take(&mut self, message: Message) -> Result<(), Ended> {
        // What is acknowledged already does not wait for this one.
        self.flush().await?;
        let plane = &self.gate.plane;
        let _announced = plane.announce();
        // Whoever else has sent something says so, too, before any of it is worked on: one sync then covers all of it.
        tokio::task::yield_now().await;
        let give_up = Instant::now() + self.gate.limits.busy;
        let answer = loop {
            match plane.take(self.certificate, message.channel, &message.payload).await {
                Ok(answer) => break answer,
                Err(error) => bear(error, give_up).await?,
            }
        };
        self.gate.doors.counters.gate.messages_in.up();
        tracing::debug!(device = %self.certificate.device, channel = %message.channel, "message taken");
        if let Some(id) = message.owed {
            self.write(&Packet::PubAck(PubAck::new(id)))?;
        }
        if message.channel == Channel::ReportState && self.session.has_ordered() {
            // It says which checkpoint the device has seen; an order that was proven from another goes out again.
            self.look()?;
        }
        let Some(outgoing) = answer else { return Ok(()) };
        if let Some(publish) = self.session.send_answer(outgoing, self.gate.now()).map_err(Ended::By)? {
            self.gate.doors.counters.gate.messages_out.up();
            self.write(&Packet::Publish(publish))?;
        }
        Ok(())
    }

    async fn delivered(&mut self, mark: Mark) -> Result<(), Ended> {
        let give_up = Instant::now() + self.gate.limits.busy;
        while let Err(error) = self.gate.plane.delivered(self.session.device(), mark).await {
            bear(error, give_up).await?;
        }
        if self.session.has_room_again() { self.look() } else { Ok(()) }
    }

    fn write(&mut self, packet: &Packet) -> Result<(), Ended> {
        // Only a payload that no verb makes is too long for MQTT.
        packet.write(&mut self.outbound, usize::MAX).map(drop).map_err(|_| Ended::Unavailable)
    }

    async fn flush(&mut self) -> Result<(), Ended> {
        if self.outbound.is_empty() {
            return Ok(());
        }
        self.stream.write_all(&self.outbound).await.map_err(Ended::Broken)?;
        self.stream.flush().await.map_err(Ended::Broken)?;
        self.outbound = BytesMut::new();
        Ok(())
    }
}

/// Waits where `error` passes by itself before `give_up`; else the session ends.
async fn bear(error: Error, give_up: Instant) -> Result<(), Ended> {
    match fault(&error) {
        Fault::Wait(pause) if Instant::now() + pause <= give_up => {
            sleep(pause).await;
            Ok(())
        }
        Fault::Device => Err(Ended::Refused(error)),
        Fault::Wait(_) | Fault::Server => {
            tracing::warn!(%error, "a message was not taken");
            Err(Ended::Unavailable)
        }
    }
}
