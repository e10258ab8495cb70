//! Which topics a device's session may use: exactly its own, spelled in full, that its row of the table allows.
//!
//! Topics are compared as a whole ([`muster_wire::topic`]); there is no matching, so wildcards, `$share` and `$SYS`
//! are foreign topics like any other.

use crate::domain::admission::Topics;
use muster_wire::id::DeviceId;
use muster_wire::topic::{Channel, Direction};

/// Why a PUBLISH ends the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forbidden {
    /// Not a topic of this device.
    Foreign,
    /// A topic on which the server speaks.
    Direction,
    /// A topic of this device that the standing of its certificate does not allow.
    Standing,
}

impl Forbidden {
    /// A stable code for logs and the audit log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Foreign => "gate.foreign_topic",
            Self::Direction => "gate.wrong_direction",
            Self::Standing => "gate.topic_not_allowed_now",
        }
    }
}

/// The channel on which `device` may hear `filter`; `topics` is what its row allows.
pub fn subscribe(device: DeviceId, topics: Topics, filter: &str) -> Option<Channel> {
    let (owner, channel) = Channel::parse(filter)?;
    let may =
        owner == device && channel.direction() == Direction::ToDevice && topics.contains(Topics::of(channel));
    may.then_some(channel)
}

/// The channel on which `device` may say something to `topic`; `topics` is what its row allows.
///
/// # Errors
/// [`Forbidden`].
pub fn publish(device: DeviceId, topics: Topics, topic: &str) -> Result<Channel, Forbidden> {
    let (owner, channel) = Channel::parse(topic).ok_or(Forbidden::Foreign)?;
    if owner != device {
        return Err(Forbidden::Foreign);
    }
    if channel.direction() != Direction::FromDevice {
        return Err(Forbidden::Direction);
    }
    if !topics.contains(Topics::of(channel)) {
        return Err(Forbidden::Standing);
    }
    Ok(channel)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(n: u8) -> DeviceId {
        DeviceId::from_parts(1, [n; 10])
    }

    #[test]
    fn a_device_hears_four_topics_and_speaks_on_five_all_its_own() {
        let all = |owner| Channel::ALL.iter().map(move |channel| channel.topic(device(owner)));
        let hears =
            |owner| all(owner).filter(|topic| subscribe(device(1), Topics::ALL, topic).is_some()).count();
        let speaks =
            |owner| all(owner).filter(|topic| publish(device(1), Topics::ALL, topic).is_ok()).count();
        assert_eq!((hears(1), speaks(1)), (4, 5));
        assert_eq!((hears(2), speaks(2)), (0, 0));
    }

    #[test]
    fn the_row_of_the_table_takes_topics_away() {
        let event = Channel::ReportEvent.topic(device(1));
        assert_eq!(publish(device(1), Topics::HELD, &event), Err(Forbidden::Standing));
        assert!(publish(device(1), Topics::HELD, &Channel::ReportState.topic(device(1))).is_ok());
        let desired = Channel::Desired.topic(device(1));
        assert!(subscribe(device(1), Topics::FAREWELL, &desired).is_none());
        assert!(subscribe(device(1), Topics::HELD, &desired).is_some());
    }

    #[test]
    fn a_refused_publish_says_why() {
        let said = |topic: &str| publish(device(1), Topics::ALL, topic).unwrap_err();
        assert_eq!(said("#"), Forbidden::Foreign);
        assert_eq!(said("$SYS/broker"), Forbidden::Foreign);
        assert_eq!(said(&Channel::Renew.topic(device(2))), Forbidden::Foreign);
        assert_eq!(said(&Channel::Order.topic(device(1))), Forbidden::Direction);
    }
}
