//! What leaves for a device over its session, and the marks by which a session knows what it has sent.

use muster_wire::desired::Generation;
use muster_wire::digest::Sha256Digest;
use muster_wire::id::OrderId;
use muster_wire::topic::Channel;

/// One message to a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Which of the device's topics it goes to.
    pub channel: Channel,
    /// The body: signed.
    pub payload: Vec<u8>,
    /// What it is, whatever its bytes.
    pub mark: Mark,
}

/// What a message is: two messages with one mark say the same, though they may have been signed at different times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mark {
    /// The head of a desired state.
    Desired {
        /// Of which generation.
        generation: Generation,
        /// Which turn of the device's lease it renews; 0 where there is none. Each turn is a head of its own.
        turn: i64,
        /// What it says besides, and how its baseline is signed: within one generation a device's site and labels may
        /// give it another baseline, and approvers may sign the one it has.
        says: Sha256Digest,
    },
    /// An order.
    Order {
        /// Which.
        id: OrderId,
        /// From which size of the audit log on its proof leads. A device that has seen another refuses the order, and
        /// gets it with another proof as soon as it has reported what it saw.
        proven_from: u64,
    },
    /// The word that a receipt, by the digest of its payload, has arrived.
    Ack(Sha256Digest),
    /// The answer to a request for a certificate, by the digest of the certificate.
    Credential(Sha256Digest),
}
