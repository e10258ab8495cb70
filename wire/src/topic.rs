//! The only place that spells an MQTT topic.
//!
//! Devices have nine topics under `muster/v1/<device>/`, observers a fixed list under `muster/events/`
//! (`contract.md`, "MQTT topics"). A topic is compared as a whole: there are no patterns, so there is nothing to
//! trick with `+`, `#`, `$` or an empty level.

use crate::cbor::words;
use crate::id::DeviceId;

/// What every device's topic begins with.
const DEVICE_PREFIX: &str = "muster/v1/";

/// What every observer's topic begins with.
const EVENT_PREFIX: &str = "muster/events/";

/// No topic of ours is longer, in bytes.
pub const MAX_TOPIC: usize = 128;

words! {
    /// What a device's topic is for; the word is its tail.
    Channel {
        /// Signed orders.
        Order = "order",
        /// Signed acknowledgements of receipts.
        Ack = "ack",
        /// The signed head of the desired state.
        Desired = "desired",
        /// The answer to a `renew`: certs-only CMS.
        Credential = "credential",
        /// What state the device is in.
        ReportState = "report/state",
        /// Posture facts.
        ReportPosture = "report/posture",
        /// Something that happened.
        ReportEvent = "report/event",
        /// A request for the next certificate.
        Renew = "renew",
        /// A signed receipt of an order's phase.
        Receipt = "receipt",
    }
}

/// Which way a channel runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The device subscribes.
    ToDevice,
    /// The device publishes.
    FromDevice,
}

impl Channel {
    /// Which way this channel runs.
    pub const fn direction(self) -> Direction {
        match self {
            Self::Order | Self::Ack | Self::Desired | Self::Credential => Direction::ToDevice,
            Self::ReportState | Self::ReportPosture | Self::ReportEvent | Self::Renew | Self::Receipt => {
                Direction::FromDevice
            }
        }
    }

    /// The topic of this channel of `device`.
    pub fn topic(self, device: DeviceId) -> String {
        format!("{DEVICE_PREFIX}{device}/{self}")
    }

    /// Device and channel of what [`Channel::topic`] makes; nothing for any other text.
    pub fn parse(topic: &str) -> Option<(DeviceId, Self)> {
        if topic.len() > MAX_TOPIC {
            return None;
        }
        let (device, tail) = topic.strip_prefix(DEVICE_PREFIX)?.split_once('/')?;
        Some((device.parse().ok()?, Self::from_word(tail)?))
    }
}

words! {
    /// What observers may read; the word is the topic's tail.
    EventTopic {
        /// A device came or went.
        Presence = "presence",
        /// A device's state changed.
        Devices = "devices",
        /// A device's posture verdict changed.
        Posture = "posture",
        /// A certificate was issued or revoked.
        Certificates = "certificates",
        /// An order or warrant moved on.
        Orders = "orders",
        /// A new checkpoint of the audit log.
        Checkpoints = "checkpoints",
    }
}

impl EventTopic {
    /// The topic.
    pub fn topic(self) -> String {
        format!("{EVENT_PREFIX}{self}")
    }

    /// The event of what [`EventTopic::topic`] makes; nothing for any other text.
    pub fn parse(topic: &str) -> Option<Self> {
        Self::from_word(topic.strip_prefix(EVENT_PREFIX)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DEVICE: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

    #[test]
    fn every_topic_reads_back() {
        let device: DeviceId = DEVICE.parse().unwrap();
        for channel in Channel::ALL {
            let topic = channel.topic(device);
            assert!(topic.len() <= MAX_TOPIC);
            assert_eq!(Channel::parse(&topic), Some((device, *channel)));
            assert_eq!(EventTopic::parse(&topic), None);
        }
        for event in EventTopic::ALL {
            assert_eq!(EventTopic::parse(&event.topic()), Some(*event));
            assert_eq!(Channel::parse(&event.topic()), None);
        }
    }

    #[test]
    fn topics_are_spelled_as_the_contract_says() {
        let device: DeviceId = DEVICE.parse().unwrap();
        assert_eq!(Channel::Order.topic(device), format!("muster/v1/{DEVICE}/order"));
        assert_eq!(Channel::ReportState.topic(device), format!("muster/v1/{DEVICE}/report/state"));
        assert_eq!(EventTopic::Presence.topic(), "muster/events/presence");
    }

    #[test]
    fn a_device_reads_four_channels_and_writes_five() {
        let reads = Channel::ALL.iter().filter(|channel| channel.direction() == Direction::ToDevice);
        assert_eq!((reads.count(), Channel::ALL.len()), (4, 9));
    }

    #[test]
    fn patterns_and_near_misses_are_no_topics() {
        for topic in [
            "muster/v1/+/order".to_owned(),
            "muster/v1/#".to_owned(),
            format!("muster/v1/{DEVICE}/#"),
            format!("muster/v1/{DEVICE}/order/"),
            format!("muster/v1/{DEVICE}//order"),
            format!("/muster/v1/{DEVICE}/order"),
            format!("muster/v1/{DEVICE}/report"),
            format!("muster/v1/{DEVICE}/report/../order"),
            format!("muster/v1/{}/order", DEVICE.to_uppercase()),
            format!("$share/x/muster/v1/{DEVICE}/order"),
            format!("muster/v1/{DEVICE}/order\0"),
            format!("muster/v2/{DEVICE}/order"),
            "$SYS/broker".to_owned(),
            "muster/events/".to_owned(),
            "muster/events/+".to_owned(),
            String::new(),
        ] {
            assert_eq!(Channel::parse(&topic), None, "{topic}");
            assert_eq!(EventTopic::parse(&topic), None, "{topic}");
        }
    }

    proptest! {
        #[test]
        fn what_parses_is_what_was_spelled(topic in "(muster/v1/)?[0-9a-f-]{0,36}/?(order|receipt|[a-z/+#$]{0,12})") {
            if let Some((device, channel)) = Channel::parse(&topic) {
                prop_assert_eq!(channel.topic(device), topic);
            }
        }
    }
}
