//! What a device's session decides: a packet in, one step out. No socket, no clock, no store.
//!
//! ```text
//!  PUBLISH ────▶ own topic, right way, allowed now? ──▶ Take ──(the store holds it)──▶ PUBACK
//!  SUBSCRIBE ──▶ 0, 1 or 0x80 for each filter ─────────▶ Subscribed: SUBACK, then look at what is due
//!  PUBACK ─────▶ of what is in flight? ────────────────▶ Delivered: remember, then look again
//!  look ───────▶ due, not sent yet, room in flight ────▶ PUBLISH
//! ```
//! Steps are taken one at a time and in order, so PUBACKs leave in the order in which their messages came (MQTT 3.1.1
//! §4.6). Nothing is sent twice in one session: on one TCP connection only a dead peer loses a message, and it is
//! found by the PUBACK that does not come. Whoever drives the session sends what is due afresh in the next one.
//!
//! Moments are given as the time since any fixed instant and do not go back.

use super::acl::{self, Forbidden};
use super::budget::{Rates, Spent};
use crate::app::{Mark, Outgoing};
use crate::domain::admission::Topics;
use bytes::Bytes;
use muster_wire::id::DeviceId;
use muster_wire::topic::Channel;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{
    Packet, PubAck, Publish, SubAck, Subscribe, SubscribeReasonCode, UnsubAck, Unsubscribe,
};
use std::collections::{HashSet, VecDeque};
use std::time::Duration;

/// How many messages may wait for the device's PUBACK before nothing more that is due is sent.
pub const WINDOW: usize = 16;

/// How many may wait in all; answers to what the device itself said come on top of [`WINDOW`].
pub const IN_FLIGHT: usize = 64;

/// How many marks are remembered. When there are more, all are forgotten: what is still due is sent again, which
/// devices bear.
const REMEMBERED: usize = 1_024;

/// What a session was begun with.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Whose session it is.
    pub device: DeviceId,
    /// What the row of its certificate allows.
    pub topics: Topics,
    /// How often it promised to be heard, not 0.
    pub keep_alive: Duration,
    /// How long it may take for a PUBACK.
    pub puback: Duration,
    /// What it may send.
    pub rates: Rates,
    /// What its former sessions sent lately.
    pub spent: Spent,
}

/// How many seconds of silence a device may promise: what it asked for, or `cap_s` where that is 0 or more.
pub fn keep_alive(asked_s: u16, cap_s: u16) -> Duration {
    let kept = if asked_s == 0 { cap_s } else { asked_s.min(cap_s) };
    Duration::from_secs(kept.max(1).into())
}

/// A message that the store must hold before it is acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where it was published.
    pub channel: Channel,
    /// What it says.
    pub payload: Bytes,
    /// The packet id of the PUBACK that it is owed; nothing at QoS 0.
    pub owed: Option<u16>,
}

/// What is to be done about a packet.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing.
    Nothing,
    /// Answer it.
    Answer(Packet),
    /// Answer it and look at what is due.
    Subscribed(SubAck),
    /// Hand a message on, then acknowledge it.
    Take(Message),
    /// The device has what this mark names.
    Delivered(Mark),
    /// End the session.
    End(End),
}

/// Why a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The device said goodbye.
    Goodbye,
    /// A PUBLISH to a topic on which the device may not speak.
    Forbidden(Forbidden),
    /// A PUBLISH at QoS 2, which is not served.
    ExactlyOnce,
    /// A PUBLISH to be retained, which nothing is.
    Retain,
    /// A second CONNECT (§3.1).
    SecondConnect,
    /// What no client sends.
    OutOfPlace,
    /// Silence for one and a half times the keep-alive (§3.1.2.10).
    Silent,
    /// A PUBACK that did not come, or too many that are owed.
    Unacknowledged,
}

impl End {
    /// The code under which the audit log hears of it; nothing where the device did no wrong.
    pub fn misconduct(self) -> Option<&'static str> {
        match self {
            Self::Goodbye | Self::Silent | Self::Unacknowledged => None,
            Self::Forbidden(why) => Some(why.as_str()),
            Self::ExactlyOnce => Some("gate.qos_2"),
            Self::Retain => Some("gate.retain"),
            Self::SecondConnect => Some("gate.second_connect"),
            Self::OutOfPlace => Some("gate.out_of_place"),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct InFlight {
    id: u16,
    mark: Mark,
    since: Duration,
}

/// A device's session.
#[derive(Debug)]
pub struct Session {
    terms: Terms,
    /// What the device hears.
    heard: Topics,
    /// Of that, what it hears at QoS 1.
    acknowledged: Topics,
    sent: HashSet<Mark>,
    /// Oldest first.
    in_flight: VecDeque<InFlight>,
    last_id: u16,
    last_heard: Duration,
    /// Whether something that was due found no room.
    curtailed: bool,
}

impl Session {
    /// A session that begins at `now`.
    pub fn begin(terms: Terms, now: Duration) -> Self {
        Self {
            terms,
            heard: Topics::NONE,
            acknowledged: Topics::NONE,
            sent: HashSet::new(),
            in_flight: VecDeque::new(),
            last_id: 0,
            last_heard: now,
            curtailed: false,
        }
    }

    /// Whose session it is.
    pub fn device(&self) -> DeviceId {
        self.terms.device
    }

    /// What the device sent lately, for its next session.
    pub fn spent(&self) -> Spent {
        self.terms.spent
    }

    /// The row of the device's certificate allows `topics` now. What it hears of the others ends.
    pub fn allow(&mut self, topics: Topics) {
        self.terms.topics = topics;
        self.heard = self.heard.and(topics);
    }

    /// A packet of `bytes` came at `now`. Answers what to do, and how long not to read the next.
    pub fn receive(&mut self, packet: Packet, bytes: usize, now: Duration) -> (Step, Duration) {
        self.last_heard = now;
        let now_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let pause = self.terms.spent.charge(self.terms.rates, bytes, now_ns);
        (self.step(packet), pause)
    }

    fn step(&mut self, packet: Packet) -> Step {
        match packet {
            Packet::Publish(publish) => self.publish(publish).map_or_else(Step::End, Step::Take),
            Packet::PubAck(PubAck { pkid }) => self.acknowledge(pkid),
            Packet::Subscribe(subscribe) => Step::Subscribed(self.subscribe(&subscribe)),
            Packet::Unsubscribe(unsubscribe) => Step::Answer(self.unsubscribe(&unsubscribe)),
            Packet::PingReq => Step::Answer(Packet::PingResp),
            Packet::Disconnect => Step::End(End::Goodbye),
            Packet::Connect(_) => Step::End(End::SecondConnect),
            Packet::ConnAck(_)
            | Packet::PubRec(_)
            | Packet::PubRel(_)
            | Packet::PubComp(_)
            | Packet::SubAck(_)
            | Packet::UnsubAck(_)
            | Packet::PingResp => Step::End(End::OutOfPlace),
        }
    }

    fn publish(&self, publish: Publish) -> Result<Message, End> {
        let channel =
            acl::publish(self.terms.device, self.terms.topics, &publish.topic).map_err(End::Forbidden)?;
        if publish.retain {
            return Err(End::Retain);
        }
        let owed = match publish.qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce => Some(publish.pkid),
            QoS::ExactlyOnce => return Err(End::ExactlyOnce),
        };
        Ok(Message { channel, payload: publish.payload, owed })
    }

    fn acknowledge(&mut self, id: u16) -> Step {
        // An id that is not in flight was acknowledged before, which changes nothing.
        let Some(place) = self.in_flight.iter().position(|waiting| waiting.id == id) else {
            return Step::Nothing;
        };
        let waiting = self.in_flight.remove(place);
        if self.in_flight.is_empty() {
            self.in_flight = VecDeque::new();
        }
        waiting.map_or(Step::Nothing, |waiting| Step::Delivered(waiting.mark))
    }

    fn subscribe(&mut self, subscribe: &Subscribe) -> SubAck {
        let codes = subscribe.filters.iter().map(|filter| {
            let Some(channel) = acl::subscribe(self.terms.device, self.terms.topics, &filter.path) else {
                return SubscribeReasonCode::Failure;
            };
            let topic = Topics::of(channel);
            self.heard = self.heard.or(topic);
            // QoS 2 is granted as 1.
            if filter.qos == QoS::AtMostOnce {
                self.acknowledged = self.acknowledged.without(topic);
                SubscribeReasonCode::Success(QoS::AtMostOnce)
            } else {
                self.acknowledged = self.acknowledged.or(topic);
                SubscribeReasonCode::Success(QoS::AtLeastOnce)
            }
        });
        SubAck::new(subscribe.pkid, codes.collect())
    }

    fn unsubscribe(&mut self, unsubscribe: &Unsubscribe) -> Packet {
        for filter in &unsubscribe.topics {
            if let Some(channel) = acl::subscribe(self.terms.device, self.terms.topics, filter) {
                self.heard = self.heard.without(Topics::of(channel));
            }
        }
        Packet::UnsubAck(UnsubAck { pkid: unsubscribe.pkid })
    }

    /// For which topics to ask what is due; nothing while the device hears none or has too much to acknowledge.
    pub fn wants(&mut self) -> Option<Topics> {
        self.curtailed = self.in_flight.len() >= WINDOW;
        (!self.curtailed && self.heard != Topics::NONE).then_some(self.heard)
    }

    /// Whether something that was due found no room the last time, and there is room now.
    pub fn has_room_again(&self) -> bool {
        self.curtailed && self.in_flight.len() < WINDOW
    }

    /// Whether an order has been sent.
    pub fn has_ordered(&self) -> bool {
        self.sent.iter().any(|mark| matches!(mark, Mark::Order { .. }))
    }

    /// What has been sent.
    pub fn sent(&self) -> &HashSet<Mark> {
        &self.sent
    }

    /// Something is due: the packet that carries it at `now`, or nothing where it was sent, there is no room, or the
    /// device does not hear that channel.
    pub fn send_due(&mut self, outgoing: Outgoing, now: Duration) -> Option<Publish> {
        if self.in_flight.len() >= WINDOW {
            self.curtailed = true;
            return None;
        }
        if self.sent.contains(&outgoing.mark) {
            return None;
        }
        self.send(outgoing, now)
    }

    /// The answer to what the device has said: the packet that carries it at `now`, even where it was sent before; or
    /// nothing where the device does not hear it.
    ///
    /// # Errors
    /// [`End::Unacknowledged`] where too many PUBACKs are owed.
    pub fn send_answer(&mut self, outgoing: Outgoing, now: Duration) -> Result<Option<Publish>, End> {
        if self.in_flight.len() >= IN_FLIGHT {
            return Err(End::Unacknowledged);
        }
        Ok(self.send(outgoing, now))
    }

    fn send(&mut self, outgoing: Outgoing, now: Duration) -> Option<Publish> {
        let Outgoing { channel, payload, mark } = outgoing;
        let topic = Topics::of(channel);
        if !self.heard.contains(topic) {
            return None;
        }
        self.remember(mark);
        let mut publish =
            Publish::from_bytes(channel.topic(self.terms.device), QoS::AtMostOnce, payload.into());
        if self.acknowledged.contains(topic) {
            publish.qos = QoS::AtLeastOnce;
            publish.pkid = self.next_id();
            self.in_flight.push_back(InFlight { id: publish.pkid, mark, since: now });
        }
        Some(publish)
    }

    fn remember(&mut self, mark: Mark) {
        if self.sent.len() >= REMEMBERED {
            self.sent.clear();
        }
        if matches!(mark, Mark::Desired { .. }) {
            // A newer desired state takes the place of the older.
            self.sent.retain(|sent| !matches!(sent, Mark::Desired { .. }));
        }
        if let Mark::Order { id: newer, .. } = mark {
            // With another proof it takes the place of the one that was sent with the former.
            self.sent.retain(|sent| !matches!(sent, Mark::Order { id, .. } if *id == newer));
        }
        self.sent.insert(mark);
    }

    /// The next packet id that is not in flight; with at most [`IN_FLIGHT`] there always is one.
    fn next_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if !self.in_flight.iter().any(|waiting| waiting.id == self.last_id) {
                return self.last_id;
            }
        }
    }

    /// When the session ends unless the device is heard.
    pub fn deadline(&self) -> Duration {
        let silent = self.last_heard + self.terms.keep_alive + self.terms.keep_alive / 2;
        match self.in_flight.front() {
            Some(oldest) => silent.min(oldest.since + self.terms.puback),
            None => silent,
        }
    }

    /// Why the session ends at `now` if its [`deadline`](Session::deadline) has passed.
    pub fn overdue(&self, now: Duration) -> Option<End> {
        if now < self.deadline() {
            return None;
        }
        let waits = |oldest: &InFlight| now >= oldest.since + self.terms.puback;
        Some(if self.in_flight.front().is_some_and(waits) { End::Unacknowledged } else { End::Silent })
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
