//! A light MQTT 3.1.1 client: as little of a device as keeps a session, thousands in one thread.

use super::client;
use super::fleet::Member;
use muster_wire::topic::Channel;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, interval_at};
use tokio_rustls::client::TlsStream;

/// What a device hears.
pub const HEARD: [Channel; 4] = [Channel::Order, Channel::Ack, Channel::Desired, Channel::Credential];

/// A session.
#[derive(Debug)]
pub struct Line {
    stream: TlsStream<TcpStream>,
    inbound: Vec<u8>,
}

/// A packet that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// A message, at QoS 1 with its id.
    Publish {
        /// Its topic.
        topic: String,
        /// Its packet id; 0 at QoS 0.
        id: u16,
        /// What it says.
        payload: Vec<u8>,
    },
    /// A message of ours was taken.
    PubAck(u16),
    /// Anything else, by its first byte.
    Other(u8),
}

impl Line {
    /// A session of `member` at `to`, subscribed to what a device hears and to `more`.
    ///
    /// # Errors
    /// What the network says, or a refusal.
    pub async fn begin(
        member: &Member,
        to: SocketAddr,
        keep_alive_s: u16,
        more: &[&str],
    ) -> io::Result<Self> {
        let stream = client::open(Arc::clone(&member.config), to).await?;
        let mut line = Self { stream, inbound: Vec::new() };
        let [high, low] = keep_alive_s.to_be_bytes();
        let hello = [&b"\0\x04MQTT\x04\x02"[..], &[high, low], &text(&member.id.to_string())].concat();
        line.send(&packet(0x10, &hello)).await?;
        line.expect(0x20).await?;
        let mut wanted = vec![0, 1];
        for channel in HEARD {
            wanted.extend(text(&channel.topic(member.id)));
            wanted.push(1);
        }
        for topic in more {
            wanted.extend(text(topic));
            wanted.push(1);
        }
        line.send(&packet(0x82, &wanted)).await?;
        line.expect(0x90).await?;
        Ok(line)
    }

    async fn expect(&mut self, first: u8) -> io::Result<()> {
        match self.next().await? {
            Packet::Other(came) if came == first => Ok(()),
            other @ (Packet::Publish { .. } | Packet::PubAck(_) | Packet::Other(_)) => {
                Err(io::Error::other(format!("{other:?} instead of {first:02x}")))
            }
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// The next packet. Nothing is lost when it is given up.
    ///
    /// # Errors
    /// What the network says; [`io::ErrorKind::UnexpectedEof`] when the other side has closed.
    pub async fn next(&mut self) -> io::Result<Packet> {
        loop {
            if let Some(packet) = take(&mut self.inbound) {
                if self.inbound.is_empty() {
                    self.inbound = Vec::new();
                }
                return if packet == Packet::Other(REFUSED) {
                    Err(io::ErrorKind::ConnectionRefused.into())
                } else {
                    Ok(packet)
                };
            }
            if self.stream.read_buf(&mut self.inbound).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Says that the message `id` has come.
    ///
    /// # Errors
    /// What the network says.
    pub async fn acknowledge(&mut self, id: u16) -> io::Result<()> {
        self.send(&packet(0x40, &id.to_be_bytes())).await
    }

    /// Publishes at QoS 1, and does not wait.
    ///
    /// # Errors
    /// What the network says.
    pub async fn publish(&mut self, topic: &str, id: u16, payload: &[u8]) -> io::Result<()> {
        self.send(&publication(topic, id, payload)).await
    }

    /// Publishes at QoS 1 and waits until it is taken; what comes meanwhile is acknowledged and forgotten.
    ///
    /// # Errors
    /// What the network says.
    pub async fn deliver(&mut self, topic: &str, id: u16, payload: &[u8]) -> io::Result<()> {
        self.publish(topic, id, payload).await?;
        loop {
            match self.next().await? {
                Packet::PubAck(taken) if taken == id => return Ok(()),
                Packet::Publish { id, .. } if id != 0 => self.acknowledge(id).await?,
                Packet::Publish { .. } | Packet::PubAck(_) | Packet::Other(_) => {}
            }
        }
    }

    /// Says goodbye.
    ///
    /// # Errors
    /// What the network says.
    pub async fn end(mut self) -> io::Result<()> {
        self.send(&[0xe0, 0]).await?;
        self.stream.shutdown().await
    }

    /// Is idle until the session ends: pings every `period`, first after `first`, and acknowledges what comes.
    ///
    /// # Errors
    /// Why it ended.
    pub async fn idle(&mut self, first: Duration, period: Duration) -> io::Result<()> {
        let mut ticks = interval_at(Instant::now() + first, period);
        loop {
            tokio::select! {
                packet = self.next() => if let Packet::Publish { id, .. } = packet? && id != 0 {
                    self.acknowledge(id).await?;
                },
                _ = ticks.tick() => self.send(&[0xc0, 0]).await?,
            }
        }
    }
}

/// A PUBLISH at QoS 1.
pub fn publication(topic: &str, id: u16, payload: &[u8]) -> Vec<u8> {
    packet(0x32, &[&text(topic)[..], &id.to_be_bytes(), payload].concat())
}

fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("a topic is short");
    [&length.to_be_bytes()[..], text.as_bytes()].concat()
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut left = body.len();
    loop {
        let digit = u8::try_from(left % 128).expect("less than 128");
        left /= 128;
        bytes.push(if left > 0 { digit | 0x80 } else { digit });
        if left == 0 {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

/// What stands for a CONNACK that refuses or a SUBACK that grants nothing: no packet begins like that.
const REFUSED: u8 = 0;

/// Takes a whole packet off `bytes`, if there is one.
fn take(bytes: &mut Vec<u8>) -> Option<Packet> {
    let (mut length, mut header) = (0, 1);
    loop {
        let digit = *bytes.get(header)?;
        length |= usize::from(digit & 0x7f) << (7 * (header - 1));
        header += 1;
        if digit < 0x80 {
            break;
        }
    }
    let whole = header + length;
    if bytes.len() < whole {
        return None;
    }
    let rest = bytes.split_off(whole);
    let packet = std::mem::replace(bytes, rest);
    Some(read(packet[0], &packet[header..]))
}

fn read(first: u8, body: &[u8]) -> Packet {
    let number = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    match first >> 4 {
        2 if body[1] != 0 => Packet::Other(REFUSED),
        3 => {
            let end = 2 + usize::from(number(0));
            let topic = String::from_utf8_lossy(&body[2..end]).into_owned();
            if first & 0x06 == 0 {
                return Packet::Publish { topic, id: 0, payload: body[end..].to_vec() };
            }
            Packet::Publish { topic, id: number(end), payload: body[end + 2..].to_vec() }
        }
        4 => Packet::PubAck(number(0)),
        9 if body[2..].iter().all(|code| *code == 0x80) => Packet::Other(REFUSED),
        _ => Packet::Other(first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_taken_off_as_they_become_whole() {
        let long = vec![7; 300];
        let mut bytes = [&publication("a/b", 9, &long)[..], &[0x40, 2, 0, 9], &[0x20, 2, 0, 5]].concat();
        let last = bytes.pop().unwrap();
        let publish = Packet::Publish { topic: "a/b".into(), id: 9, payload: long };
        assert_eq!(take(&mut bytes), Some(publish));
        assert_eq!(take(&mut bytes), Some(Packet::PubAck(9)));
        assert_eq!(take(&mut bytes), None);
        bytes.push(last);
        assert_eq!(take(&mut bytes), Some(Packet::Other(REFUSED)));
        assert!(bytes.is_empty());
    }
}
