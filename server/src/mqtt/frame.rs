//! Bytes become packets: MQTT 3.1.1 as a server reads it, and nothing that the standard calls malformed.
//!
//! The codec is rumqttc's. It reads what it can; the standard wants a server to close on more than that, so the
//! framing is judged here first, from the raw bytes: reserved flags, packet ids of 0, reserved bits, strings with
//! U+0000, and bytes that are left over. A length is judged before its bytes are waited for, so nobody can make the
//! server hold more than the cap.
//!
//! What only a server sends, and everything of QoS 2, is out of place here and as bad.

use bytes::BytesMut;
use rumqttc::mqttbytes::Error as CodecError;
use rumqttc::mqttbytes::v4::Packet;

/// The longest packet, in bytes after its fixed header.
pub const PACKET_BYTES: usize = 64 * 1024;

/// The longest CONNECT, in bytes after its fixed header.
pub const CONNECT_BYTES: usize = 4 * 1024;

/// Most filters in one SUBSCRIBE or UNSUBSCRIBE. A device has four topics to hear.
pub const FILTERS: usize = 64;

/// Bytes of the longest fixed header: one, and the remaining length in up to four.
const HEADER_BYTES: usize = 5;

/// What the bytes received so far amount to.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// A packet, taken out of the buffer.
    Packet(Packet),
    /// At least so many bytes are missing.
    Missing(usize),
}

/// Why what came is not MQTT 3.1.1 from a client. It ends the connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// A remaining length of more than four bytes (§2.2.3).
    #[error("a remaining length of more than four bytes")]
    Length,
    /// Longer than the cap.
    #[error("a packet of {bytes} bytes")]
    TooLong {
        /// Bytes after its fixed header.
        bytes: usize,
    },
    /// Flags that are reserved (§2.2.2), or a QoS 0 PUBLISH marked as repeated (§3.3.1.1).
    #[error("reserved flags in the first byte {first:#04x}")]
    Flags {
        /// The packet's first byte.
        first: u8,
    },
    /// A packet that no client sends, or none at all.
    #[error("a packet of type {kind}, which no client sends")]
    OutOfPlace {
        /// The type, 0 to 15.
        kind: u8,
    },
    /// A body that is not what its type demands.
    #[error("a body that does not fit its type {kind}")]
    Body {
        /// The type, 1 to 14.
        kind: u8,
    },
    /// The codec cannot read it.
    #[error("the codec cannot read it: {0:?}")]
    Codec(CodecError),
}

/// Takes the next packet out of `buffer`; a packet has at most `most` bytes after its fixed header.
///
/// # Errors
/// [`Malformed`]; the connection must end then.
pub fn next(buffer: &mut BytesMut, most: usize) -> Result<Frame, Malformed> {
    let (first, header, length) = match fixed_header(buffer)? {
        Header::Complete { first, bytes, length } => (first, bytes, length),
        Header::Missing(missing) => return Ok(Frame::Missing(missing)),
    };
    judge_first(first)?;
    if length > most {
        return Err(Malformed::TooLong { bytes: length });
    }
    let Some(body) = buffer.get(header..header.saturating_add(length)) else {
        return Ok(Frame::Missing(header.saturating_add(length).saturating_sub(buffer.len())));
    };
    let kind = first >> 4;
    if !fits(kind, body) {
        return Err(Malformed::Body { kind });
    }
    Packet::read(buffer, most).map(Frame::Packet).map_err(Malformed::Codec)
}

enum Header {
    Complete { first: u8, bytes: usize, length: usize },
    Missing(usize),
}

/// §2.2: type and flags, then the remaining length, seven bits a byte, least significant first.
fn fixed_header(buffer: &[u8]) -> Result<Header, Malformed> {
    let Some((first, rest)) = buffer.split_first() else { return Ok(Header::Missing(2)) };
    let mut length = 0;
    for (place, byte) in rest.iter().take(HEADER_BYTES - 1).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Ok(Header::Complete { first: *first, bytes: place + 2, length });
        }
    }
    // The first byte is judged as soon as it is there, so that garbage is not waited for.
    judge_first(*first)?;
    if rest.len() >= HEADER_BYTES - 1 { Err(Malformed::Length) } else { Ok(Header::Missing(1)) }
}

fn judge_first(first: u8) -> Result<(), Malformed> {
    let (kind, flags) = (first >> 4, first & 0x0f);
    let sound = match kind {
        CONNECT | PUBACK | PINGREQ | DISCONNECT => flags == 0,
        SUBSCRIBE | UNSUBSCRIBE => flags == 0b0010,
        // QoS 3 does not exist, and what is sent at most once is never sent again.
        PUBLISH => flags & 0b0110 != 0b0110 && flags & 0b1110 != 0b1000,
        _ => return Err(Malformed::OutOfPlace { kind }),
    };
    if sound { Ok(()) } else { Err(Malformed::Flags { first }) }
}

const CONNECT: u8 = 1;
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const SUBSCRIBE: u8 = 8;
const UNSUBSCRIBE: u8 = 10;
const PINGREQ: u8 = 12;
const DISCONNECT: u8 = 14;

/// Whether `body` can be that of a packet of type `kind`, as far as the codec does not look.
fn fits(kind: u8, body: &[u8]) -> bool {
    match kind {
        CONNECT => is_connect(body),
        PUBLISH => string(body).is_some(),
        PUBACK => body.len() == 2 && has_id(body),
        // §3.8.3.1: the six upper bits of the requested QoS are reserved.
        SUBSCRIBE => {
            has_id(body)
                && filters(body, |rest| {
                    rest.split_first().filter(|(qos, _)| **qos <= 2).map(|(_, rest)| rest)
                })
        }
        UNSUBSCRIBE => has_id(body) && filters(body, |rest| Some(rest)),
        PINGREQ | DISCONNECT => body.is_empty(),
        _ => false,
    }
}

/// §2.3.1: a packet id is never 0.
fn has_id(body: &[u8]) -> bool {
    body.first_chunk::<2>().is_some_and(|id| u16::from_be_bytes(*id) != 0)
}

/// Whether 1 to [`FILTERS`] filters follow the packet id, each followed by what `after` takes off, and nothing else.
fn filters(body: &[u8], after: impl Fn(&[u8]) -> Option<&[u8]>) -> bool {
    let mut rest = body.get(2..).unwrap_or_default();
    for count in 0.. {
        if rest.is_empty() {
            return count > 0;
        }
        let Some(next) = string(rest).filter(|_| count < FILTERS).and_then(|(_, rest)| after(rest)) else {
            return false;
        };
        rest = next;
    }
    false
}

/// Takes a string off (§1.5.3): two bytes of length, UTF-8 without U+0000. Answers it and what follows.
fn string(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (text, rest) = binary(bytes)?;
    let text = std::str::from_utf8(text).ok()?;
    (!text.contains('\0')).then_some((text, rest))
}

fn binary(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

/// §3.1: name, level, flags, keep-alive, client id, and by the flags will, user name, password; then nothing.
fn is_connect(body: &[u8]) -> bool {
    let Some((_, rest)) = string(body) else { return false };
    let Some(([_level, flags, _, _], rest)) = rest.split_first_chunk::<4>() else { return false };
    let flag = |bit: u8| flags & (1 << bit) != 0;
    let (will, user, password) = (flag(2), flag(7), flag(6));
    let will_is_sound = if will { flags & 0b0001_1000 != 0b0001_1000 } else { flags & 0b0011_1000 == 0 };
    if flag(0) || !will_is_sound || (password && !user) {
        return false;
    }
    let fields = || {
        let mut rest = string(rest)?.1;
        if will {
            rest = binary(string(rest)?.1)?.1;
        }
        if user {
            rest = string(rest)?.1;
        }
        if password {
            rest = binary(rest)?.1;
        }
        Some(rest)
    };
    fields().is_some_and(<[u8]>::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rumqttc::mqttbytes::QoS;
    use rumqttc::mqttbytes::v4::{Connect, PubAck, Publish, Subscribe, Unsubscribe};

    fn read(bytes: &[u8]) -> Result<Frame, Malformed> {
        next(&mut BytesMut::from(bytes), PACKET_BYTES)
    }

    fn written(packet: &Packet) -> BytesMut {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, usize::MAX).unwrap();
        bytes
    }

    fn sound() -> Vec<Packet> {
        let id = |mut subscribe: Subscribe| {
            subscribe.pkid = 7;
            subscribe
        };
        vec![
            Packet::Connect(Connect::new("a")),
            Packet::Connect(Connect::new("a").set_login("user", "password").clone()),
            Packet::Publish(Publish::new("a/b", QoS::AtMostOnce, "x")),
            Packet::Publish(Publish { pkid: 1, ..Publish::new("a/b", QoS::AtLeastOnce, "") }),
            Packet::PubAck(PubAck::new(9)),
            Packet::Subscribe(id(Subscribe::new("a/#", QoS::ExactlyOnce))),
            Packet::Unsubscribe(Unsubscribe { pkid: 3, ..Unsubscribe::new("a") }),
            Packet::PingReq,
            Packet::Disconnect,
        ]
    }

    #[test]
    fn what_a_client_sends_is_read_however_it_is_cut() {
        for packet in sound() {
            let bytes = written(&packet);
            let mut buffer = BytesMut::new();
            for (at, byte) in bytes.iter().enumerate() {
                let frame = next(&mut buffer, PACKET_BYTES).unwrap();
                assert!(
                    matches!(frame, Frame::Missing(n) if (1..=bytes.len() - at).contains(&n)),
                    "{packet:?}"
                );
                buffer.extend_from_slice(&[*byte]);
            }
            assert_eq!(next(&mut buffer, PACKET_BYTES).unwrap(), Frame::Packet(packet));
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn reserved_flags_are_malformed() {
        for packet in sound() {
            let bytes = written(&packet);
            for flags in 0..16 {
                let mut changed = bytes.clone();
                changed[0] = bytes[0] & 0xf0 | flags;
                let allowed = match bytes[0] >> 4 {
                    PUBLISH => continue,
                    _ => flags == bytes[0] & 0x0f,
                };
                assert_eq!(read(&changed).is_ok(), allowed, "{packet:?} with flags {flags:04b}");
            }
        }
        for first in [0x36_u8, 0x37, 0x3e, 0x38, 0x39] {
            assert!(matches!(read(&[first, 5, 0, 1, b'a', 0, 1]), Err(Malformed::Flags { .. })), "{first:x}");
        }
    }

    #[test]
    fn what_no_client_sends_is_out_of_place_from_its_first_byte() {
        for kind in [0_u8, 2, 5, 6, 7, 9, 11, 13, 15] {
            for flags in [0, 2] {
                let malformed = read(&[kind << 4 | flags]);
                assert!(matches!(malformed, Err(Malformed::OutOfPlace { .. })), "{kind}");
            }
        }
    }

    #[test]
    fn bodies_that_the_standard_forbids_are_malformed() {
        let cases: &[(&str, &[u8])] = &[
            ("PINGREQ with a body", &[0xc0, 1, 0]),
            ("DISCONNECT with a body", &[0xe0, 1, 0]),
            ("PUBACK of id 0", &[0x40, 2, 0, 0]),
            ("PUBACK that is too long", &[0x40, 3, 0, 1, 0]),
            ("PUBACK that is too short", &[0x40, 1, 0]),
            ("SUBSCRIBE of id 0", &[0x82, 6, 0, 0, 0, 1, b'a', 1]),
            ("SUBSCRIBE without filters", &[0x82, 2, 0, 1]),
            ("SUBSCRIBE with reserved bits", &[0x82, 6, 0, 1, 0, 1, b'a', 4]),
            ("SUBSCRIBE of QoS 3", &[0x82, 6, 0, 1, 0, 1, b'a', 3]),
            ("SUBSCRIBE without its QoS", &[0x82, 5, 0, 1, 0, 1, b'a']),
            ("SUBSCRIBE with NUL", &[0x82, 6, 0, 1, 0, 1, 0, 1]),
            ("UNSUBSCRIBE without filters", &[0xa2, 2, 0, 1]),
            ("UNSUBSCRIBE cut short", &[0xa2, 1, 0]),
            ("PUBLISH with NUL in its topic", &[0x30, 3, 0, 1, 0]),
            ("PUBLISH with a topic beyond its end", &[0x30, 3, 0, 9, b'a']),
            ("PUBLISH with a topic that is not UTF-8", &[0x30, 3, 0, 1, 0xff]),
            ("PUBLISH of id 0", &[0x32, 5, 0, 1, b'a', 0, 0]),
            ("a length of five bytes", &[0x30, 0x80, 0x80, 0x80, 0x80, 1]),
        ];
        for (what, bytes) in cases {
            assert!(read(bytes).is_err(), "{what}");
        }
    }

    #[test]
    fn a_connect_with_bytes_left_over_or_contradicting_flags_is_malformed() {
        let plain = written(&Packet::Connect(Connect::new("a")));
        let mut longer = plain.clone();
        longer[1] += 1;
        longer.extend_from_slice(b"x");
        assert!(read(&longer).is_err());
        for flags in [0b0000_0001, 0b0010_0000, 0b0000_1000, 0b0100_0000, 0b0001_1100] {
            let mut changed = plain.clone();
            changed[9] = flags;
            assert!(read(&changed).is_err(), "{flags:08b}");
        }
    }

    #[test]
    fn a_length_is_judged_before_its_bytes_come() {
        // 65,536 after the header is the longest, one more is refused at once.
        assert!(matches!(read(&[0x30, 0x80, 0x80, 4]), Ok(Frame::Missing(65_536))));
        assert!(matches!(read(&[0x30, 0x81, 0x80, 4]), Err(Malformed::TooLong { bytes: 65_537 })));
    }

    #[test]
    fn more_filters_than_anyone_needs_are_refused() {
        let many = |count: usize| {
            let filters = std::iter::repeat_n(b"\0\x01a\x01", count).flatten().copied();
            let body: Vec<u8> = [0, 1].into_iter().chain(filters).collect();
            let length =
                [u8::try_from(body.len() % 128).unwrap() | 0x80, u8::try_from(body.len() / 128).unwrap()];
            [&[0x82][..], &length, &body].concat()
        };
        assert!(matches!(read(&many(FILTERS)), Ok(Frame::Packet(_))));
        assert!(read(&many(FILTERS + 1)).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_swallow_more_than_a_packet(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            if let Ok(Frame::Packet(_)) = next(&mut buffer, PACKET_BYTES) {
                prop_assert!(buffer.len() < bytes.len());
            }
        }
    }
}
