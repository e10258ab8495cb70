//! The MQTT gate: where a device's session begins.
//!
//! ```text
//! mutual TLS ─▶ CONNECT ─▶ judged ─▶ older session ended ─▶ CONNACK 0 ─▶ line.rs
//! ```
//! Whoever comes here has shown a certificate that the table lets in. The gate reads one CONNECT, of at most
//! [`CONNECT_BYTES`] and within [`Limits::connect_deadline`], and answers
//!
//! | CONNECT | answer |
//! | --- | --- |
//! | malformed, not MQTT 3.1.1, a will, or anything else first | none: close |
//! | client id is not the device id | CONNACK 0x02, close |
//! | the table refuses the certificate at the gate | CONNACK 0x05, close |
//! | the device reconnects too often | a moment later CONNACK 0x03, close |
//! | the server is not ready, or stops | CONNACK 0x03, close |
//! | any other | CONNACK 0, and the session begins; session present is always 0 |
//!
//! A certificate that was issued and never used is made the current one before CONNACK 0 leaves: the device may
//! then forget the former. CleanSession is not looked at, nor are user name and password.

use super::budget::{Damping, Rate, Rates, Spent};
use super::frame::{self, CONNECT_BYTES, Frame, Malformed};
use super::inbox::Plane;
use super::line::{Ended, Line};
use super::session::{Session, Terms, keep_alive};
use crate::domain::admission::{Admission, Door};
use crate::doors::Doors;
use crate::doors::accept::Connection;
use crate::doors::peer::PeerCertificate;
use crate::doors::registry::{self, Connected};
use crate::doors::stall::Unstalled;
use crate::doors::stop::Stop;
use bytes::BytesMut;
use rumqttc::mqttbytes::Protocol;
use rumqttc::mqttbytes::v4::{ConnAck, Connect, ConnectReturnCode, Packet};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, sleep, timeout};

/// What the gate bears, and how long it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From the end of the handshake until CONNECT is complete.
    pub connect_deadline: Duration,
    /// For a refused client to read its CONNACK and close.
    pub farewell: Duration,
    /// How long a device that reconnects too often waits for its refusal.
    pub damped_for: Duration,
    /// For a write that makes no progress.
    pub write: Duration,
    /// The longest keep-alive, in seconds; also that of who asks for none.
    pub keep_alive_cap_s: u16,
    /// For a device's PUBACK.
    pub puback: Duration,
    /// How often a session looks at what is due although nobody has nudged it.
    pub look: Duration,
    /// How long a message waits for a store that is busy.
    pub busy: Duration,
    /// How often a device may begin a session.
    pub sessions: Rate,
    /// What it may send.
    pub rates: Rates,
}

impl Default for Limits {
    fn default() -> Self {
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        Self {
            connect_deadline: Duration::from_secs(10),
            farewell: Duration::from_secs(2),
            damped_for: second,
            write: Duration::from_secs(30),
            keep_alive_cap_s: 1_200,
            puback: Duration::from_secs(30),
            look: Duration::from_secs(300),
            busy: Duration::from_secs(30),
            sessions: Rate::new(30, minute, 30),
            rates: Rates { packets: Rate::new(20, second, 200), bytes: Rate::new(64 << 10, second, 1 << 20) },
        }
    }
}

/// Why a client gets no session.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GateError {
    /// No complete CONNECT in time.
    #[error("no CONNECT in time")]
    Late,
    /// The connection broke, or the client closed it.
    #[error("the connection broke before the session began")]
    Broken(#[source] io::Error),
    /// What came is not MQTT.
    #[error("malformed")]
    Malformed(#[source] Malformed),
    /// A packet other than CONNECT, or a CONNECT of another version of MQTT.
    #[error("something other than a CONNECT of MQTT 3.1.1")]
    NotConnect,
    /// A will, which no device may have.
    #[error("a will")]
    Will,
    /// A client id that is not the device id.
    #[error("another's client id")]
    ClientId,
    /// The table refuses the certificate at the gate.
    #[error("the certificate's status")]
    Status,
    /// The device begins sessions too often.
    #[error("reconnects too often")]
    Damped,
    /// The server is not ready, or stops.
    #[error("not ready")]
    NotReady,
}

impl GateError {
    /// The CONNACK that the client gets, if it gets one.
    pub(super) fn answer(&self) -> Option<ConnectReturnCode> {
        match self {
            Self::ClientId => Some(ConnectReturnCode::BadClientId),
            Self::Status => Some(ConnectReturnCode::NotAuthorized),
            Self::Damped | Self::NotReady => Some(ConnectReturnCode::ServiceUnavailable),
            Self::Late | Self::Broken(_) | Self::Malformed(_) | Self::NotConnect | Self::Will => None,
        }
    }

    /// The code under which the audit log hears of it; nothing where the client did no wrong, and where the table's
    /// refusal has been told already.
    pub(super) fn misconduct(&self) -> Option<&'static str> {
        match self {
            Self::Late => Some("gate.connect_late"),
            Self::Malformed(_) => Some("gate.malformed"),
            Self::NotConnect => Some("gate.not_connect"),
            Self::Will => Some("gate.will"),
            Self::ClientId => Some("gate.client_id"),
            Self::Damped => Some("gate.damped"),
            Self::Broken(_) | Self::Status | Self::NotReady => None,
        }
    }
}

/// The gate. One serves all connections of its listener.
#[derive(Debug)]
pub struct Gate<P> {
    pub(super) plane: Arc<P>,
    pub(super) doors: Doors,
    pub(super) limits: Limits,
    pub(super) damping: Damping,
    opened: Instant,
}

impl<P: Plane> Gate<P> {
    /// A gate to `plane`.
    pub fn new(plane: Arc<P>, doors: Doors, limits: Limits) -> Self {
        Self { plane, doors, limits, damping: Damping::new(limits.sessions), opened: Instant::now() }
    }

    /// The moment by which sessions judge: how long the gate has been open.
    pub(super) fn now(&self) -> Duration {
        self.opened.elapsed()
    }

    /// The instant of a moment.
    pub(super) fn at(&self, moment: Duration) -> Instant {
        self.opened + moment
    }

    /// Serves one connection until it ends.
    pub async fn serve<S>(self: Arc<Self>, connection: Connection<S>)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let Connection { stream, peer, place, stop, .. } = connection;
        // The listener demands a certificate; without one there is nobody to speak to.
        let Some(certificate) = peer.certificate else { return };
        let mut stream = Unstalled::new(stream, self.limits.write);
        // Boxed, so that a session does not carry the room of its beginning through its life.
        match Box::pin(self.begin(&mut stream, &certificate, (&place, &stop))).await {
            Ok(begun) => {
                let mut line = Line::new(&self, &certificate, &mut stream, *begun);
                let ended = line.run().await;
                drop(line);
                Box::pin(self.end(&mut stream, &certificate, ended)).await;
            }
            Err(error) => Box::pin(self.refuse(&mut stream, &certificate, error)).await,
        }
        drop(place);
    }

    async fn begin<S>(
        &self,
        stream: &mut S,
        certificate: &PeerCertificate,
        (place, stop): (&Connected, &Stop),
    ) -> Result<Box<Begun>, GateError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let mut inbound = BytesMut::new();
        let connect = expect_connect(stream, &mut inbound, (self.limits.connect_deadline, stop)).await?;
        let (admission, spent) = self.judge(&connect, certificate)?;
        if admission.promote {
            self.plane.promote(certificate).await.map_err(|error| {
                tracing::warn!(device = %certificate.device, %error, "a certificate could not be made current");
                GateError::NotReady
            })?;
        }
        let place = place.begin_session(self.doors.clock.now_s()).ok_or(GateError::NotReady)?;
        let terms = Terms {
            device: certificate.device,
            topics: admission.topics,
            keep_alive: keep_alive(connect.keep_alive, self.limits.keep_alive_cap_s),
            puback: self.limits.puback,
            rates: self.limits.rates,
            spent,
        };
        say(stream, ConnectReturnCode::Success).await.map_err(GateError::Broken)?;
        self.doors.counters.gate.sessions_begun.up();
        tracing::debug!(device = %certificate.device, generation = place.generation, "session begins");
        Ok(Box::new(Begun { session: Session::begin(terms, self.now()), place, inbound }))
    }

    /// Whether a session may begin. The client id comes first: whoever claims to be another learns nothing else.
    fn judge(
        &self,
        connect: &Connect,
        certificate: &PeerCertificate,
    ) -> Result<(Admission, Spent), GateError> {
        if connect.client_id != certificate.device.to_string() {
            return Err(GateError::ClientId);
        }
        let admission = self.doors.judge(certificate, Door::Gate).map_err(|_| GateError::Status)?;
        let now_ns = u64::try_from(self.now().as_nanos()).unwrap_or(u64::MAX);
        let spent = self.damping.begin(certificate.device, now_ns).ok_or(GateError::Damped)?;
        if !self.plane.is_ready() {
            return Err(GateError::NotReady);
        }
        Ok((admission, spent))
    }

    /// Sends the CONNACK if there is one, closes our direction and waits a moment for the client's.
    async fn refuse<S>(&self, stream: &mut S, certificate: &PeerCertificate, error: GateError)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let counters = &self.doors.counters.gate;
        match &error {
            GateError::ClientId => counters.refused_client_id.up(),
            GateError::Status => counters.refused_status.up(),
            GateError::Damped => counters.refused_damped.up(),
            GateError::NotReady => counters.refused_not_ready.up(),
            GateError::Late
            | GateError::Broken(_)
            | GateError::Malformed(_)
            | GateError::NotConnect
            | GateError::Will => counters.no_connect.up(),
        }
        tracing::debug!(device = %certificate.device, %error, "no session");
        if let Some(code) = error.misconduct() {
            self.doors.misconduct(certificate, code);
        }
        if matches!(error, GateError::Damped) {
            sleep(self.limits.damped_for).await;
        }
        let Some(code) = error.answer() else { return };
        // Whatever comes of it, the socket is closed next.
        drop(
            timeout(self.limits.farewell, async {
                say(stream, code).await?;
                hang_up(stream).await
            })
            .await,
        );
    }

    /// A session has ended: counts and tells why, and closes our direction.
    async fn end<S>(&self, stream: &mut S, certificate: &PeerCertificate, ended: Ended)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let counters = &self.doors.counters.gate;
        if let Some(code) = ended.misconduct() {
            self.doors.misconduct(certificate, code);
        }
        match &ended {
            ended if ended.is_misconduct() => counters.ended_misconduct.up(),
            ended if ended.is_silence() => counters.ended_silent.up(),
            Ended::Unavailable => counters.ended_unavailable.up(),
            Ended::By(_) | Ended::Malformed(_) | Ended::Status | Ended::Refused(_) | Ended::Broken(_) => {}
        }
        tracing::debug!(device = %certificate.device, %ended, "session ends");
        drop(timeout(self.limits.farewell, stream.shutdown()).await);
    }
}

/// A session that has begun.
pub(super) struct Begun {
    pub(super) session: Session,
    pub(super) place: registry::Session,
    /// What the device sent after CONNECT without waiting for its answer (§3.1.4).
    pub(super) inbound: BytesMut,
}

/// The CONNECT that comes first, within `deadline`; whoever is slow with it holds up no stop.
pub(super) async fn expect_connect<S: AsyncRead + Unpin>(
    stream: &mut S,
    inbound: &mut BytesMut,
    (deadline, stop): (Duration, &Stop),
) -> Result<Connect, GateError> {
    tokio::select! {
        biased;
        connect = timeout(deadline, read_connect(stream, inbound)) => connect.map_err(|_| GateError::Late)?,
        () = stop.asked() => Err(GateError::NotReady),
    }
}

async fn read_connect<S: AsyncRead + Unpin>(
    stream: &mut S,
    inbound: &mut BytesMut,
) -> Result<Connect, GateError> {
    let packet = loop {
        match frame::next(inbound, CONNECT_BYTES).map_err(GateError::Malformed)? {
            Frame::Packet(packet) => break packet,
            Frame::Missing(bytes) => inbound.reserve(bytes),
        }
        if stream.read_buf(inbound).await.map_err(GateError::Broken)? == 0 {
            return Err(GateError::Broken(io::ErrorKind::UnexpectedEof.into()));
        }
    };
    let Packet::Connect(connect) = packet else { return Err(GateError::NotConnect) };
    if connect.protocol != Protocol::V4 {
        return Err(GateError::NotConnect);
    }
    if connect.last_will.is_some() {
        return Err(GateError::Will);
    }
    Ok(connect)
}

pub(super) async fn say<S: AsyncWrite + Unpin>(stream: &mut S, code: ConnectReturnCode) -> io::Result<()> {
    let mut bytes = BytesMut::with_capacity(4);
    ConnAck::new(code, false).write(&mut bytes).map_err(|_| io::ErrorKind::InvalidData)?;
    stream.write_all(&bytes).await?;
    stream.flush().await
}

async fn hang_up<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> io::Result<()> {
    stream.shutdown().await?;
    let mut thrown_away = [0; 256];
    while stream.read(&mut thrown_away).await? > 0 {}
    Ok(())
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
