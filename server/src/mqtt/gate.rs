//! The MQTT gate: where a device's session begins, and so far also where it ends.
//!
//! ```text
//! mutual TLS ─▶ ExpectConnect ─▶ judged ─▶ CONNACK ─▶ close
//! ```
//! Whoever comes here has shown a certificate that the table lets in. The gate reads one CONNECT, of at most
//! [`CONNECT_BYTES`] and within [`GateLimits::connect_deadline`], and answers
//!
//! | CONNECT | answer |
//! | --- | --- |
//! | malformed, not MQTT 3.1.1, a will, or anything else first | none: close |
//! | client id is not the device id | CONNACK 0x02, close |
//! | the table refuses the certificate at the gate | CONNACK 0x05, close |
//! | any other | CONNACK 0x03, close: this server does not serve sessions yet |
//!
//! User name and password are ignored.

use crate::domain::admission::Door;
use crate::doors::Doors;
use crate::doors::accept::Connection;
use crate::doors::peer::PeerCertificate;
use bytes::BytesMut;
use rumqttc::mqttbytes::v4::{ConnAck, Connect, ConnectReturnCode, Packet};
use rumqttc::mqttbytes::{Error as CodecError, Protocol};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

/// The longest CONNECT, in bytes after its fixed header.
pub const CONNECT_BYTES: usize = 4 * 1024;

/// How long the gate waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateLimits {
    /// From the end of the handshake until CONNECT is complete.
    pub connect_deadline: Duration,
    /// For a refused client to read its CONNACK and close.
    pub farewell: Duration,
}

impl Default for GateLimits {
    fn default() -> Self {
        Self { connect_deadline: Duration::from_secs(10), farewell: Duration::from_secs(2) }
    }
}

/// Why a client got no CONNACK.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GateError {
    /// No complete CONNECT in time.
    #[error("no CONNECT in time")]
    Late,
    /// The connection broke, or the client closed it.
    #[error("the connection broke before CONNECT")]
    Broken(#[source] io::Error),
    /// Not MQTT, or a packet that is too long.
    #[error("malformed packet: {0:?}")]
    Malformed(CodecError),
    /// A packet other than CONNECT, of another version of MQTT, or with more than a CONNECT after it.
    #[error("something other than a CONNECT of MQTT 3.1.1")]
    NotConnect,
    /// A will, which no device may have.
    #[error("a will")]
    Will,
}

/// Serves one connection of the MQTT listener until it ends.
pub async fn serve<S>(connection: Connection<S>, doors: Doors, limits: GateLimits)
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let Connection { mut stream, peer, place, .. } = connection;
    // The listener demands a certificate; without one there is nobody to speak to.
    let Some(certificate) = &peer.certificate else { return };
    match expect_connect(&mut stream, limits.connect_deadline).await {
        Ok(connect) => {
            let code = judge(&connect, certificate, &doors);
            tracing::debug!(device = %certificate.device, ?code, "CONNECT answered");
            refuse(stream, code, limits.farewell).await;
        }
        Err(error) => tracing::debug!(device = %certificate.device, %error, "no session"),
    }
    drop(place);
}

async fn expect_connect<S: AsyncRead + Unpin>(
    stream: &mut S,
    deadline: Duration,
) -> Result<Connect, GateError> {
    let packet = timeout(deadline, read_packet(stream)).await.map_err(|_| GateError::Late)??;
    let Packet::Connect(connect) = packet else { return Err(GateError::NotConnect) };
    if connect.protocol != Protocol::V4 {
        return Err(GateError::NotConnect);
    }
    if connect.last_will.is_some() {
        return Err(GateError::Will);
    }
    Ok(connect)
}

async fn read_packet<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Packet, GateError> {
    let mut bytes = BytesMut::with_capacity(256);
    loop {
        match Packet::read(&mut bytes, CONNECT_BYTES) {
            Err(CodecError::InsufficientBytes(_)) => {}
            Err(error) => return Err(GateError::Malformed(error)),
            // A client that does not wait for its CONNACK gets none (MQTT 3.1.1 §3.1.4 lets it send on, but what
            // it sends to a session that does not begin is lost anyway).
            Ok(packet) => return Ok(packet),
        }
        if stream.read_buf(&mut bytes).await.map_err(GateError::Broken)? == 0 {
            return Err(GateError::Broken(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

/// The CONNACK's code. The client id comes first: whoever claims to be another learns nothing else.
fn judge(connect: &Connect, certificate: &PeerCertificate, doors: &Doors) -> ConnectReturnCode {
    if connect.client_id != certificate.device.to_string() {
        return ConnectReturnCode::BadClientId;
    }
    match doors.judge(certificate, Door::Gate) {
        Err(_) => ConnectReturnCode::NotAuthorized,
        Ok(_) => ConnectReturnCode::ServiceUnavailable,
    }
}

/// Sends the CONNACK, closes our direction and waits a moment for the client's.
async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    code: ConnectReturnCode,
    farewell: Duration,
) {
    let mut bytes = BytesMut::with_capacity(4);
    if ConnAck::new(code, false).write(&mut bytes).is_err() {
        return;
    }
    let said = async {
        stream.write_all(&bytes).await?;
        stream.shutdown().await?;
        let mut thrown_away = [0; 256];
        while stream.read(&mut thrown_away).await? > 0 {}
        io::Result::Ok(())
    };
    // Whatever comes of it, the socket is closed next.
    drop(timeout(farewell, said).await);
}
