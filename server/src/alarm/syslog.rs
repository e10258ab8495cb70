//! Alarms to a log host or the machine's own syslog: one datagram each, RFC 5424.

use super::{Alarm, PlaceError};
use muster_wire::time::Timestamp;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use tokio::net::{UdpSocket, UnixDatagram, lookup_host};

/// Facility 10, security and authorisation; severity 1, somebody must act at once (RFC 5424 §6.2.1).
const PRIORITY: u8 = 10 * 8 + 1;

/// No datagram is longer, in bytes: every receiver takes so much (RFC 5426 §3.2).
const MAX_BYTES: usize = 1_024;

/// Where datagrams go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Syslog {
    /// To a host, by name or address, and a port.
    Udp(String),
    /// To a socket of this machine.
    Unix(PathBuf),
}

impl Syslog {
    /// Reads `udp://host:port` or an absolute path.
    ///
    /// # Errors
    /// [`PlaceError::Setting`].
    pub fn parse(text: &str) -> Result<Self, PlaceError> {
        let host = text.strip_prefix("udp://").filter(|host| {
            host.rsplit_once(':').is_some_and(|(name, port)| !name.is_empty() && port.parse::<u16>().is_ok())
        });
        match host {
            Some(host) => Ok(Self::Udp(host.to_owned())),
            None if text.starts_with('/') => Ok(Self::Unix(text.into())),
            None => Err(PlaceError::Setting {
                key: "alarm.syslog",
                expected: "must be udp://host:port or the path of a socket, /dev/log for instance",
            }),
        }
    }

    pub(super) async fn send(&self, alarm: &Alarm, installation: &str) -> io::Result<()> {
        let message = message(alarm, installation);
        match self {
            Self::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.send_to(message.as_bytes(), path).await.map(drop)
            }
            Self::Udp(host) => {
                let to = lookup_host(host).await?.next();
                let to = to.ok_or_else(|| io::Error::other("the log host has no address"))?;
                let from: SocketAddr = match to {
                    SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                    SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
                };
                UdpSocket::bind(from).await?.send_to(message.as_bytes(), to).await.map(drop)
            }
        }
    }
}

/// `<81>1 time host muster - event - text` (RFC 5424 §6).
fn message(alarm: &Alarm, installation: &str) -> String {
    let Alarm { event, actor, request_id, count, devices, detail, .. } = alarm;
    let at = Timestamp(alarm.at);
    let devices = devices.join(",");
    let text = format!("actor={actor} request={request_id} count={count} devices={devices} {detail}");
    // One line, whatever somebody called themselves.
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut message = format!("<{PRIORITY}>1 {at} {installation} muster - {event} - {}", text.trim_end());
    while message.len() > MAX_BYTES {
        message.pop();
    }
    message
}

#[cfg(test)]
mod tests {
    use super::super::tests::alarm;
    use super::*;

    #[tokio::test]
    async fn an_alarm_is_one_datagram_on_one_line() {
        let host = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let syslog = Syslog::parse(&format!("udp://{}", host.local_addr().unwrap())).unwrap();
        syslog.send(&alarm(), "muster.example").await.unwrap();
        let mut buffer = [0; 2048];
        let length = host.recv(&mut buffer).await.unwrap();
        assert_eq!(
            std::str::from_utf8(&buffer[..length]).unwrap(),
            "<81>1 2023-11-14T22:13:20Z muster.example muster - wipe_requested - actor=operator/admin request=r count=2 \
             devices=a,b line break"
        );
    }

    #[tokio::test]
    async fn the_machines_own_syslog_hears_it_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = UnixDatagram::bind(&path).unwrap();
        Syslog::parse(path.to_str().unwrap()).unwrap().send(&alarm(), "m").await.unwrap();
        let mut buffer = [0; 2048];
        assert!(log.recv(&mut buffer).await.unwrap() > 20);
    }

    #[test]
    fn a_long_alarm_is_cut_and_a_place_that_is_none_is_refused() {
        let long = Alarm { detail: "ü".repeat(2_000), ..alarm() };
        assert!(message(&long, "m").len() <= MAX_BYTES);
        for bad in ["log.example:514", "udp://log.example", "udp://:514", "tcp://a:1", ""] {
            assert!(Syslog::parse(bad).is_err(), "{bad}");
        }
    }
}
