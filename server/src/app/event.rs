//! What happened, as operators and observers hear of it: derived from audit entries, and from nothing else where an
//! entry exists.
//!
//! [`events`] is a pure function of one entry, so an event is told again exactly where its entry is read again. What
//! a device says of itself never becomes part of a topic, and stands in a body as a JSON string only.
//!
//! | topic | made from | body, beside `v`, `topic`, `seq`, `at`, `actor`, `action` |
//! | --- | --- | --- |
//! | `devices` | a change of a device's state; a report that differs from the last | `device, from, to`; `device, generation, drift` |
//! | `certificates` | issuance, first use, end | `device` or `observer`, `certificates: [{serial, sha256, status}]` |
//! | `posture` | a change of verdict | `device, from, to, failing, unknown` |
//! | `orders` | a change of phase | `device, order: {id, kind, sequence}, from, to` |
//! | `checkpoints` | a checkpoint that was signed; not in the log | `checkpoint: {size, root_sha256}` |
//! | `presence` | a session that began or ended; not in the log | `device, online, generation` |

use crate::audit::Entry;
use crate::domain::device::DeviceState;
use crate::domain::ledger::Outcome;
use crate::domain::policy::{Act as _, act};
use crate::doors::registry::Presence;
use muster_pki::serial::Serial;
use muster_wire::id::{DeviceId, ObserverName, OrderId};
use muster_wire::time::Timestamp;
use muster_wire::topic::EventTopic;
use serde::Serialize;
use std::fmt;
use std::str::FromStr;

/// Version of the bodies.
const VERSION: u8 = 1;

/// Where an event stands in the log: the entry, and which of the entry's events it is.
///
/// Its text is the entry's sequence number for the entry's last event and `<seq>.<n>` for an earlier one, so that a
/// bare sequence number always means: everything up to and with this entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    seq: u64,
    /// [`Place::LAST`] for the last event of the entry.
    part: u16,
}

impl Place {
    const LAST: u16 = u16::MAX;

    /// Behind everything that the entry `seq` tells.
    pub fn after(seq: u64) -> Self {
        Self { seq, part: Self::LAST }
    }

    /// The entry whose events are read next from here: itself where some of its events are outstanding.
    pub(super) fn next_entry(self) -> u64 {
        if self.part == Self::LAST { self.seq.saturating_add(1) } else { self.seq }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.part == Self::LAST {
            write!(f, "{}", self.seq)
        } else {
            write!(f, "{}.{}", self.seq, self.part)
        }
    }
}

/// A text that names no place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the id of an event")]
pub struct NoPlace;

impl FromStr for Place {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        let digits = |text: &str| (1..=20).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        let (seq, part) = text.split_once('.').map_or((text, None), |(seq, part)| (seq, Some(part)));
        if !digits(seq) || !part.is_none_or(digits) {
            return Err(NoPlace);
        }
        let part = part.map_or(Ok(Self::LAST), str::parse).map_err(|_| NoPlace)?;
        Ok(Self { seq: seq.parse().map_err(|_| NoPlace)?, part })
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What it is about.
    pub topic: EventTopic,
    /// Where it stands in the log; nothing for what is not in the log.
    pub place: Option<Place>,
    /// One line of JSON.
    pub body: String,
}

#[derive(Serialize)]
struct Told<'a> {
    v: u8,
    topic: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<DeviceId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    observer: Option<ObserverName>,
    #[serde(flatten)]
    news: News<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum News<'a> {
    State { from: Option<&'a str>, to: &'a str },
    Report { generation: Option<u64>, drift: Vec<&'a str> },
    Certificates { certificates: Vec<Certificate<'a>> },
    Posture { from: Option<&'a str>, to: &'a str, failing: Vec<&'a str>, unknown: Vec<&'a str> },
    Order { order: Order<'a>, from: Option<&'a str>, to: &'a str },
    Checkpoint { checkpoint: Checkpoint },
    Presence { online: bool, generation: u64 },
}

#[derive(Serialize)]
struct Certificate<'a> {
    serial: String,
    sha256: Option<&'a str>,
    status: &'static str,
}

#[derive(Serialize)]
struct Order<'a> {
    id: OrderId,
    kind: &'a str,
    sequence: Option<u64>,
}

#[derive(Serialize)]
struct Checkpoint {
    size: u64,
    root_sha256: String,
}

/// What `entry` tells, in the order of its places. Refusals tell nothing.
pub(super) fn events(entry: &Entry) -> Vec<Event> {
    if entry.outcome == Outcome::Refused {
        return Vec::new();
    }
    let news: Vec<(EventTopic, News<'_>)> =
        [of_device(entry), of_certificates(entry), of_posture(entry), of_order(entry)]
            .into_iter()
            .flatten()
            .collect();
    let last = news.len().saturating_sub(1);
    let part = |n: usize| if n == last { Place::LAST } else { u16::try_from(n).unwrap_or(Place::LAST - 1) };
    news.into_iter()
        .enumerate()
        .map(|(n, (topic, news))| {
            let place = Place { seq: entry.seq, part: part(n) };
            Event { topic, place: Some(place), body: write(&told(entry, topic, news)) }
        })
        .collect()
}

/// A checkpoint over `size` entries was signed at `now_s` (unix seconds).
pub(super) fn checkpoint(size: u64, root_sha256: String, now_s: i64) -> Event {
    live(
        EventTopic::Checkpoints,
        None,
        News::Checkpoint { checkpoint: Checkpoint { size, root_sha256 } },
        now_s,
    )
}

/// A device's session began or ended at `now_s` (unix seconds).
pub(super) fn presence(presence: Presence, now_s: i64) -> Event {
    let Presence { device, generation, online } = presence;
    live(EventTopic::Presence, Some(device), News::Presence { online, generation }, now_s)
}

fn live(topic: EventTopic, device: Option<DeviceId>, news: News<'_>, now_s: i64) -> Event {
    let told = Told {
        v: VERSION,
        topic: topic.as_str(),
        seq: None,
        at: Timestamp(now_s).to_string(),
        actor: None,
        action: None,
        device,
        observer: None,
        news,
        reason: "",
    };
    Event { topic, place: None, body: write(&told) }
}

fn told<'a>(entry: &'a Entry, topic: EventTopic, news: News<'a>) -> Told<'a> {
    Told {
        v: VERSION,
        topic: topic.as_str(),
        seq: Some(entry.seq),
        at: Timestamp(entry.ts.div_euclid(1000)).to_string(),
        actor: Some(&entry.actor),
        action: Some(&entry.action),
        device: device(entry),
        observer: observer(entry),
        news,
        reason: &entry.reason,
    }
}

#[expect(clippy::expect_used, reason = "texts, numbers and lists of them, written to memory")]
fn write(told: &Told<'_>) -> String {
    serde_json::to_string(told).expect("an event can be written as JSON")
}

fn device(entry: &Entry) -> Option<DeviceId> {
    entry.object.strip_prefix("device/")?.parse().ok()
}

fn observer(entry: &Entry) -> Option<ObserverName> {
    entry.object.strip_prefix("observer/")?.parse().ok()
}

fn of_device(entry: &Entry) -> Option<(EventTopic, News<'_>)> {
    device(entry)?;
    if entry.action == act::ReportState::ROW.action {
        let generation = entry.new_state.strip_prefix("generation ").and_then(|counter| counter.parse().ok());
        return Some((EventTopic::Devices, News::Report { generation, drift: words(entry, "drift") }));
    }
    let changed = is_device_state(&entry.new_state) && entry.new_state != entry.prev_state;
    changed.then(|| (EventTopic::Devices, News::State { from: before(entry), to: &entry.new_state }))
}

fn of_certificates(entry: &Entry) -> Option<(EventTopic, News<'_>)> {
    if device(entry).is_none() && observer(entry).is_none() {
        return None;
    }
    let begun = if entry.action == act::PromoteCertificate::ROW.action {
        Some("current")
    } else {
        [act::SimpleEnroll::ROW, act::SimpleReenroll::ROW, act::AddObserver::ROW]
            .iter()
            .any(|row| row.action == entry.action)
            .then_some("issued")
    };
    let begun = begun.and_then(|status| {
        let sha256 = fact(entry, "certificate_sha256");
        Some(Certificate { serial: serial(fact(entry, "certificate_serial")?)?, sha256, status })
    });
    // What another certificate replaced is superseded, whatever the entry is about.
    let ended = if begun.is_some() || entry.reason == "superseded" { "superseded" } else { "revoked" };
    let over = [("revoked_serials", ended), ("held_serials", "held"), ("released_serials", "released")];
    let over = over.into_iter().flat_map(|(fact, status)| {
        let serials = words(entry, fact).into_iter().filter_map(serial);
        serials.map(move |serial| Certificate { serial, sha256: None, status })
    });
    let certificates: Vec<_> = begun.into_iter().chain(over).collect();
    (!certificates.is_empty()).then_some((EventTopic::Certificates, News::Certificates { certificates }))
}

fn of_posture(entry: &Entry) -> Option<(EventTopic, News<'_>)> {
    if entry.action != act::ReportPosture::ROW.action || entry.new_state == entry.prev_state {
        return None;
    }
    let (failing, unknown) = (words(entry, "failing"), words(entry, "unknown"));
    Some((EventTopic::Posture, News::Posture { from: before(entry), to: &entry.new_state, failing, unknown }))
}

fn of_order(entry: &Entry) -> Option<(EventTopic, News<'_>)> {
    let id = fact(entry, "order")?.parse().ok()?;
    let sequence = fact(entry, "order_counter").and_then(|counter| counter.parse().ok());
    let order = Order { id, kind: fact(entry, "kind").unwrap_or_default(), sequence };
    Some((EventTopic::Orders, News::Order { order, from: before(entry), to: &entry.new_state }))
}

fn before(entry: &Entry) -> Option<&str> {
    Some(entry.prev_state.as_str()).filter(|state| !state.is_empty())
}

fn fact<'a>(entry: &'a Entry, name: &str) -> Option<&'a str> {
    entry.facts.get(name).map(String::as_str).filter(|value| !value.is_empty())
}

/// The words of a fact; none of one that was cut, which is no list any more.
fn words<'a>(entry: &'a Entry, name: &str) -> Vec<&'a str> {
    let value = fact(entry, name).filter(|value| !value.starts_with("cut:sha256:"));
    value.map(|value| value.split(' ').collect()).unwrap_or_default()
}

fn serial(text: &str) -> Option<String> {
    text.parse::<Serial>().ok().map(|serial| serial.to_string())
}

/// Whether `standing` is a device's state, with or without how a life ended.
fn is_device_state(standing: &str) -> bool {
    const STATES: [DeviceState; 8] = [
        DeviceState::Expected,
        DeviceState::Pending,
        DeviceState::Commissioning,
        DeviceState::Active,
        DeviceState::Quarantined,
        DeviceState::Deprovisioning,
        DeviceState::Retired,
        DeviceState::Cancelled,
    ];
    let word = standing.split(|c: char| !c.is_ascii_lowercase()).next().unwrap_or_default();
    STATES.iter().any(|state| state.as_str() == word)
}

#[cfg(test)]
#[path = "event_tests.rs"]
mod tests;
