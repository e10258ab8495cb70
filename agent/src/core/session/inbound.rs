//! What comes from the server, and whether it counts.
//!
//! `desired`, `order` and `ack` count under a command key of the authority in force, for this device, and never backwards.
//! A message under a key that is not known here may come from a successor that has not been heard of yet: the authority
//! is asked for once, then the message is judged again. What is refused is acknowledged, or it would come for ever, and
//! told as an event.

use muster_wire::envelope::{EnvelopeError, Signed, SignedOnce, Verified};
use muster_wire::id::{OrderId, WarrantId};
use muster_wire::order::OrderError;
use muster_wire::posture::EventKind;
use muster_wire::receipt::Ack;
use muster_wire::topic::Channel;
use muster_wire::warrant::WarrantError;

use super::super::baseline::BaselineRefusal;
use super::super::schedule::Moment;
use super::{Effect, Incoming, LinkId, Session};

/// Why a message does not count.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum Refused {
    /// Not signed as it must be.
    #[error("its envelope does not hold")]
    Envelope(#[from] EnvelopeError),
    /// For another device.
    #[error("it is for another device")]
    OtherDevice,
    /// A desired state that is not taken.
    #[error("it is not taken")]
    Desired(#[from] BaselineRefusal),
    /// An order that is not admitted.
    #[error("it is not admitted")]
    Order(#[from] OrderError),
    /// An order under a new sequence that has had its turn under another.
    #[error("order {order} has had its turn")]
    RanBefore {
        /// Which.
        order: OrderId,
    },
    /// An order under a warrant that was stopped.
    #[error("warrant {warrant} was stopped")]
    Stopped {
        /// Which.
        warrant: WarrantId,
    },
    /// Another order under a warrant that has had its one.
    #[error("warrant {warrant} was used on this device")]
    Used {
        /// Which.
        warrant: WarrantId,
    },
    /// More orders without a warrant in a day than any server makes.
    #[error("{most} orders without a warrant were taken today; the rest is refused")]
    TooMany {
        /// How many are taken.
        most: u32,
    },
    /// Nothing of the kind comes over this channel.
    #[error("devices send here, they do not receive")]
    Channel,
}

impl Refused {
    /// Whether a successor of the authority could make it count.
    fn is_puzzling(&self) -> bool {
        matches!(
            self,
            Self::Envelope(EnvelopeError::UnknownSigner)
                | Self::Desired(BaselineRefusal::Head(EnvelopeError::UnknownSigner))
                | Self::Order(OrderError::AuthorityVersion { .. })
                // Approvers of a successor, or a warrant made under one.
                | Self::Order(OrderError::Warrant(
                    WarrantError::AuthorityVersion { .. }
                        | WarrantError::Envelope(EnvelopeError::UnknownSigner)
                ))
        )
    }
}

impl Session {
    pub(super) fn received(&mut self, link: LinkId, incoming: Incoming, now: Moment) {
        if self.live() == Some(link) {
            self.judge(link, incoming, true, now);
        }
    }

    /// Judges a message; one that puzzles is kept until the authority was asked, if it `may_ask`.
    pub(super) fn judge(&mut self, link: LinkId, incoming: Incoming, may_ask: bool, now: Moment) {
        let packet = incoming.packet;
        let judged = match incoming.channel {
            // Nothing but the wipe changes the device now.
            Channel::Desired if self.is_wiping() => Ok(()),
            Channel::Desired => self.hear(&incoming.payload, now),
            Channel::Ack => self.hear_ack(&incoming.payload, now),
            Channel::Order => match self.take_order(link, &incoming, now) {
                // It has acknowledged, or deliberately has not.
                Ok(()) => return,
                Err(refused) => Err(refused),
            },
            Channel::Credential => {
                self.credential_came(incoming.payload.clone(), now);
                Ok(())
            }
            Channel::ReportState
            | Channel::ReportPosture
            | Channel::ReportEvent
            | Channel::Renew
            | Channel::Receipt => Err(Refused::Channel),
        };
        if let Err(refused) = judged {
            if may_ask && refused.is_puzzling() && self.puzzling.is_none() {
                self.puzzling = Some((link, incoming));
                return self.discover();
            }
            let detail = format!("a message on {} was refused: {}", incoming.channel, sentence(&refused));
            self.tell(EventKind::Refused, &detail, now);
        }
        self.acknowledge(link, packet);
        self.ask_for_the_left(link, now);
    }

    pub(super) fn acknowledge(&mut self, link: LinkId, packet: u16) {
        if self.live() == Some(link) {
            self.effects.push_back(Effect::Acknowledge(link, packet));
        }
    }

    /// What `bytes` say, when a command key in force has signed them.
    pub(super) fn believe<T: SignedOnce>(&self, bytes: &[u8]) -> Result<Verified<T>, EnvelopeError> {
        Signed::<T>::parse(bytes)?.verify(&self.lineage.current().command_keys())
    }

    /// A receipt is forgotten when the server has said under its command key that it has that very one.
    fn hear_ack(&mut self, bytes: &[u8], now: Moment) -> Result<(), Refused> {
        let ack = self.believe::<Ack>(bytes)?.into_document();
        if ack.device != self.leaf.device {
            return Err(Refused::OtherDevice);
        }
        if let Some(id) = self.outbox.acknowledged(ack.order, ack.receipt) {
            self.effects.push_back(Effect::Drop(id));
            // What a wipe has waited for, perhaps.
            self.alarms.wipe = self.is_wiping().then_some(now.since_start).or(self.alarms.wipe);
        }
        Ok(())
    }
}

/// An error and its causes in one line.
pub(super) fn sentence(error: &dyn std::error::Error) -> String {
    let mut sentence = error.to_string();
    let mut cause = error.source();
    while let Some(current) = cause {
        sentence.push_str(&format!(": {current}"));
        cause = current.source();
    }
    sentence
}
