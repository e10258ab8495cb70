//! A million random packets against a model that was written from the contract alone: topics as plain text, no
//! parser, no sets of bits.

use super::budget::{Rate, Rates, Spent};
use super::frame::{self, Frame, PACKET_BYTES};
use super::session::{Session, Step, Terms, WINDOW};
use crate::app::{Mark, Outgoing};
use crate::domain::admission::Topics;
use bytes::{BufMut as _, BytesMut};
use muster_wire::digest::Sha256Digest;
use muster_wire::id::DeviceId;
use muster_wire::topic::Channel;
use rumqttc::mqttbytes::v4::{Packet, SubscribeReasonCode};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write as _;
use std::time::Duration;

const CASES: usize = 1_000_000;
const NOW: Duration = Duration::from_secs(1);

/// The table's rows as contract.md spells them.
const ROWS: [(Topics, &[&str]); 4] = [
    (
        Topics::ALL,
        &[
            "order",
            "ack",
            "desired",
            "credential",
            "report/state",
            "report/posture",
            "report/event",
            "renew",
            "receipt",
        ],
    ),
    (
        Topics::HELD,
        &["order", "ack", "desired", "receipt", "report/state", "report/posture", "renew", "credential"],
    ),
    (Topics::GRACE, &["renew", "credential"]),
    (Topics::FAREWELL, &["order", "ack", "receipt"]),
];

/// Those on which the server speaks.
const SPOKEN: [(&str, Channel); 4] = [
    ("order", Channel::Order),
    ("ack", Channel::Ack),
    ("desired", Channel::Desired),
    ("credential", Channel::Credential),
];

/// SplitMix64: small, and the same for a seed everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Own topics, those of a sibling, and everything that looks like either.
fn topic(random: &mut Random, ids: &[String; 2]) -> String {
    let mut text = String::from("muster/v1/");
    let id = if random.one_in(4) { &ids[1] } else { &ids[0] };
    let _ = write!(text, "{id}/{}", random.pick(ROWS[0].1));
    let at = random.below(text.len());
    match random.below(16) {
        0 => text.insert(at, *random.pick(&['+', '#', '/', '$', ' ', '\0', 'é', '.', 'A', '\u{feff}'])),
        1 => text.truncate(at),
        2 => text.insert_str(0, random.pick::<&str>(&["$share/g/", "/", "$SYS/", "muster/", " "])),
        3 => text.push_str(random.pick::<&str>(&["/", "/#", "/+", "\0", "/..", " "])),
        4 => {
            text = random
                .pick(&["#", "+", "$SYS/#", "", "muster/v1/+/order", "muster/events/presence"])
                .to_string()
        }
        5 => text = text.to_uppercase(),
        6 => {
            text = text.replace(
                &ids[0],
                random.pick::<&str>(&["+", "#", "", "..", "00000000-0000-0000-0000-000000000000"]),
            )
        }
        7 if random.one_in(2_000) => text = "x".repeat(65_000),
        _ => {}
    }
    text
}

struct Model {
    id: String,
    row: usize,
    heard: BTreeMap<String, u8>,
    in_flight: BTreeSet<u16>,
    sent: HashSet<u64>,
}

impl Model {
    fn own(&self, name: &str) -> String {
        format!("muster/v1/{}/{name}", self.id)
    }

    fn is_spoken(name: &str) -> bool {
        SPOKEN.iter().any(|(spoken, _)| *spoken == name)
    }

    fn may_hear(&self, topic: &str) -> bool {
        ROWS[self.row].1.iter().any(|name| Self::is_spoken(name) && self.own(name) == topic)
    }

    fn may_say(&self, topic: &str) -> bool {
        ROWS[self.row].1.iter().any(|name| !Self::is_spoken(name) && self.own(name) == topic)
    }

    fn change_row(&mut self, row: usize) {
        self.row = row;
        let kept: Vec<_> = self.heard.keys().filter(|topic| self.may_hear(topic)).cloned().collect();
        self.heard.retain(|topic, _| kept.contains(topic));
    }
}

fn string(bytes: &mut BytesMut, text: &str) {
    bytes.put_u16(text.len().try_into().unwrap());
    bytes.put_slice(text.as_bytes());
}

fn framed(first: u8, body: &[u8]) -> BytesMut {
    let mut bytes = BytesMut::new();
    bytes.put_u8(first);
    let mut length = body.len();
    loop {
        let more = if length >= 128 { 0x80 } else { 0 };
        bytes.put_u8(u8::try_from(length % 128).unwrap() | more);
        length /= 128;
        if more == 0 {
            break;
        }
    }
    bytes.put_slice(body);
    bytes
}

/// What came of bytes: a step, or that they are malformed.
fn fed(session: &mut Session, mut bytes: BytesMut) -> Option<Step> {
    let length = bytes.len();
    match frame::next(&mut bytes, PACKET_BYTES) {
        Ok(Frame::Packet(packet)) => {
            assert!(bytes.is_empty());
            Some(session.receive(packet, length, NOW).0)
        }
        Ok(Frame::Missing(_)) => panic!("a whole packet is not incomplete"),
        Err(_) => None,
    }
}

fn subscribe(random: &mut Random, model: &mut Model, session: &mut Session, ids: &[String; 2]) {
    let mut body = BytesMut::new();
    body.put_u16(9);
    let filters: Vec<(String, u8)> =
        (0..=random.below(3)).map(|_| (topic(random, ids), u8::try_from(random.below(3)).unwrap())).collect();
    for (filter, qos) in &filters {
        string(&mut body, filter);
        body.put_u8(*qos);
    }
    let step = fed(session, framed(0x82, &body));
    if filters.iter().any(|(filter, _)| filter.contains('\0')) {
        assert_eq!(step, None, "{filters:?}");
        return;
    }
    let Some(Step::Subscribed(granted)) = step else { panic!("{filters:?}: {step:?}") };
    for ((filter, qos), code) in filters.iter().zip(granted.return_codes) {
        let code = match code {
            SubscribeReasonCode::Success(qos) => qos as u8,
            SubscribeReasonCode::Failure => 0x80,
        };
        let expected = if model.may_hear(filter) { (*qos).min(1) } else { 0x80 };
        assert_eq!(code, expected, "SUBSCRIBE {filter:?} in row {}", model.row);
        if expected != 0x80 {
            model.heard.insert(filter.clone(), expected);
        }
    }
}

fn unsubscribe(random: &mut Random, model: &mut Model, session: &mut Session, ids: &[String; 2]) {
    let filter = topic(random, ids);
    let mut body = BytesMut::new();
    body.put_u16(3);
    string(&mut body, &filter);
    let step = fed(session, framed(0xa2, &body));
    if filter.contains('\0') {
        assert_eq!(step, None);
        return;
    }
    assert!(matches!(step, Some(Step::Answer(Packet::UnsubAck(_)))), "{filter:?}");
    model.heard.remove(&filter);
}

fn publish(random: &mut Random, model: &Model, session: &mut Session, ids: &[String; 2]) {
    let (text, qos, retain, dup) =
        (topic(random, ids), u8::try_from(random.below(4)).unwrap(), random.one_in(8), random.one_in(8));
    let mut body = BytesMut::new();
    string(&mut body, &text);
    if qos > 0 {
        body.put_u16(1 + u16::try_from(random.below(9)).unwrap());
    }
    body.put_slice(b"body");
    let first = 0x30 | u8::from(dup) << 3 | qos << 1 | u8::from(retain);
    let step = fed(session, framed(first, &body));
    let malformed = qos == 3 || (qos == 0 && dup) || text.contains('\0');
    let taken = !malformed && qos < 2 && !retain && model.may_say(&text);
    match step {
        None => assert!(malformed, "PUBLISH {text:?}"),
        Some(Step::Take(message)) => {
            assert!(taken, "PUBLISH {text:?} was taken in row {}", model.row);
            assert_eq!(model.own(message.channel.as_str()), text);
            assert_eq!((message.owed.is_some(), &message.payload[..]), (qos == 1, &b"body"[..]));
        }
        Some(Step::End(_)) => assert!(!malformed && !taken, "PUBLISH {text:?} ended the session"),
        Some(other @ (Step::Nothing | Step::Answer(_) | Step::Subscribed(_) | Step::Delivered(_))) => {
            panic!("PUBLISH {text:?}: {other:?}")
        }
    }
}

fn send(random: &mut Random, model: &mut Model, session: &mut Session) {
    let (name, channel) = *random.pick(&SPOKEN);
    let n = random.next() % 4_000;
    let mut digest = [0; 32];
    digest[..8].copy_from_slice(&n.to_be_bytes());
    let outgoing = Outgoing { channel, payload: vec![1], mark: Mark::Ack(Sha256Digest(digest)) };
    let qos = model.heard.get(&model.own(name)).copied();
    let due = qos.filter(|_| model.in_flight.len() < WINDOW && !model.sent.contains(&n));
    let sent = session.send_due(outgoing, NOW);
    assert_eq!(sent.as_ref().map(|publish| publish.qos as u8), due, "{name} in row {}", model.row);
    let Some(publish) = sent else { return };
    assert_eq!((&publish.topic, publish.dup, publish.retain), (&model.own(name), false, false));
    model.sent.insert(n);
    if publish.pkid != 0 {
        assert!(model.in_flight.insert(publish.pkid), "one packet id for two messages");
    }
}

fn acknowledge(random: &mut Random, model: &mut Model, session: &mut Session) {
    let known: Vec<u16> = model.in_flight.iter().copied().collect();
    let id = if known.is_empty() || random.one_in(8) {
        1 + u16::try_from(random.below(60_000)).unwrap()
    } else {
        *random.pick(&known)
    };
    let step = fed(session, framed(0x40, &id.to_be_bytes()));
    let was_owed = model.in_flight.remove(&id);
    assert_eq!(matches!(step, Some(Step::Delivered(_))), was_owed);
    assert!(was_owed || step == Some(Step::Nothing));
}

#[test]
fn a_million_random_packets_meet_the_contract() {
    let seed = std::env::var("MUSTER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_123);
    println!("MUSTER_SEED={seed}");
    let mut random = Random(seed);
    let devices = [1_u8, 2].map(|n| DeviceId::from_parts(n.into(), [n; 10]));
    let ids = devices.map(|device| device.to_string());
    let plenty = Rate::new(u32::MAX, Duration::from_secs(1), u32::MAX);
    let mut done = 0;
    while done < CASES {
        let row = random.below(ROWS.len());
        let terms = Terms {
            device: devices[0],
            topics: ROWS[row].0,
            keep_alive: Duration::from_secs(60),
            puback: Duration::from_secs(30),
            rates: Rates { packets: plenty, bytes: plenty },
            spent: Spent::default(),
        };
        let mut session = Session::begin(terms, NOW);
        let mut model = Model {
            id: ids[0].clone(),
            row,
            heard: BTreeMap::new(),
            in_flight: BTreeSet::new(),
            sent: HashSet::new(),
        };
        for _ in 0..500 {
            done += 1;
            match random.below(32) {
                0..8 => subscribe(&mut random, &mut model, &mut session, &ids),
                8..10 => unsubscribe(&mut random, &mut model, &mut session, &ids),
                10..20 => publish(&mut random, &model, &mut session, &ids),
                20..26 => send(&mut random, &mut model, &mut session),
                26..31 => acknowledge(&mut random, &mut model, &mut session),
                _ => {
                    let row = random.below(ROWS.len());
                    model.change_row(row);
                    session.allow(ROWS[row].0);
                }
            }
        }
    }
}
