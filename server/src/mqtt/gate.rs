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
    /// A packet other than CONNECT, or a CONNECT of another version of MQTT.
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
            // A client may send on without waiting for its CONNACK (MQTT 3.1.1 §3.1.4); as no session begins, what
            // follows is thrown away.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::admission::CertificateStatus;
    use crate::doors::fixture::{Credential, SOON, Server, World, client, closed, device, with_status};
    use crate::doors::verifier::ClientAuth;
    use rumqttc::mqttbytes::QoS;
    use rumqttc::mqttbytes::v4::LastWill;
    use tokio::net::TcpStream;
    use tokio_rustls::client::TlsStream;

    async fn gate(world: &World, limits: GateLimits) -> Server {
        let config = world.tls.mqtt(world.verifier(ClientAuth::Required)).unwrap();
        let doors = world.doors.clone();
        world.listen(config, move |connection| serve(connection, doors.clone(), limits)).await
    }

    async fn send(server: &Server, credential: &Credential, bytes: &[u8]) -> TlsStream<TcpStream> {
        let mut stream = server.connect(&client(Some(credential))).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.flush().await.unwrap();
        stream
    }

    /// Everything that the gate answers until it closes.
    async fn answer(stream: &mut TlsStream<TcpStream>) -> Vec<u8> {
        let mut heard = Vec::new();
        drop(timeout(SOON, stream.read_to_end(&mut heard)).await.expect("closed in time"));
        heard
    }

    fn connect(change: impl FnOnce(&mut Connect)) -> BytesMut {
        let mut packet = Connect::new(device(1).to_string());
        change(&mut packet);
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes).unwrap();
        bytes
    }

    #[tokio::test]
    async fn a_connect_is_answered_not_ready_and_the_connection_closes() {
        let world = World::new();
        let enrolled = world.enrolled(1);
        let server = gate(&world, GateLimits::default()).await;
        for packet in [connect(|_| {}), connect(|packet| packet.clean_session = false)] {
            let mut stream = send(&server, &enrolled, &packet).await;
            assert_eq!(answer(&mut stream).await, [0x20, 2, 0, 3]);
        }
        let named = connect(|packet| drop(packet.set_login("someone", "secret").clone()));
        assert_eq!(answer(&mut send(&server, &enrolled, &named).await).await, [0x20, 2, 0, 3]);
    }

    #[tokio::test]
    async fn another_client_id_is_answered_bad_client_id() {
        let world = World::new();
        let enrolled = world.enrolled(1);
        let server = gate(&world, GateLimits::default()).await;
        for id in
            [device(2).to_string(), String::new(), device(1).to_string().to_uppercase(), "a+b".to_owned()]
        {
            let packet = connect(|packet| packet.client_id = id);
            assert_eq!(answer(&mut send(&server, &enrolled, &packet).await).await, [0x20, 2, 0, 2]);
        }
    }

    #[tokio::test]
    async fn a_status_that_changed_after_the_handshake_is_answered_not_authorised() {
        let world = World::new();
        let enrolled = world.enrolled(1);
        let server = gate(&world, GateLimits::default()).await;
        let packet = connect(|_| {});
        let mut stream = send(&server, &enrolled, &packet[..4]).await;
        let entered = async {
            while world.doors.registry.is_empty() {
                tokio::task::yield_now().await;
            }
        };
        timeout(SOON, entered).await.unwrap();
        world.stands(1, &enrolled, with_status(CertificateStatus::Revoked));
        stream.write_all(&packet[4..]).await.unwrap();
        assert_eq!(answer(&mut stream).await, [0x20, 2, 0, 5]);
    }

    #[tokio::test]
    async fn what_is_no_plain_connect_closes_without_an_answer() {
        let world = World::new();
        let enrolled = world.enrolled(1);
        let server = gate(&world, GateLimits::default()).await;
        let will = connect(|packet| {
            packet.last_will = Some(LastWill::new("t", "m", QoS::AtLeastOnce, false));
        });
        let version_5 = connect(|packet| packet.protocol = Protocol::V5);
        let too_long = connect(|packet| packet.client_id = "a".repeat(CONNECT_BYTES));
        let mut wrong_name = connect(|_| {});
        wrong_name[5] = b'X';
        let garbage: [&[u8]; 4] =
            [&[0xc0, 0], &[0x30, 3, 0, 1, b'a'], &[0xff; 16], &[0x10, 0xff, 0xff, 0xff, 0xff]];
        for bytes in [&will[..], &version_5, &too_long, &wrong_name].into_iter().chain(garbage) {
            let mut stream = send(&server, &enrolled, bytes).await;
            assert_eq!(answer(&mut stream).await, [0; 0], "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn a_connect_of_exactly_the_longest_length_is_still_read() {
        let world = World::new();
        let enrolled = world.enrolled(1);
        let server = gate(&world, GateLimits::default()).await;
        let fill = |length: usize| connect(|packet| packet.client_id = "a".repeat(length));
        let overhead = fill(2_000).len() - 3 - 2_000;
        let packet = fill(CONNECT_BYTES - overhead);
        assert_eq!(answer(&mut send(&server, &enrolled, &packet).await).await, [0x20, 2, 0, 2]);
    }

    #[tokio::test]
    async fn half_a_connect_is_closed_at_the_deadline() {
        let world = World::new();
        let enrolled = world.enrolled(1);
        let limits = GateLimits { connect_deadline: Duration::from_millis(50), ..GateLimits::default() };
        let server = gate(&world, limits).await;
        for length in [0, 1, 10] {
            let mut stream = send(&server, &enrolled, &connect(|_| {})[..length]).await;
            closed(&mut stream).await;
        }
    }
}
