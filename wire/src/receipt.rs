//! Receipts: a device's signed word on how far an order has come, and the server's word that it has it.
//!
//! A receipt for a phase is signed after that phase is verified; only `armed` precedes a deed. Receipts of one
//! order form a chain through `previous`. The device keeps its identity key until the `ack` of its last receipt,
//! signed by the command key, names that receipt by the digest of its payload (`agent.md`, "Wipe").

use crate::cbor::{document, record, words};
use crate::digest::Sha256Digest;
use crate::id::{DeviceId, OrderId};
use crate::merkle::TreeHead;
use crate::time::Timestamp;
use crate::warrant::Level;

words! {
    /// How far an order has come.
    ReceiptPhase {
        /// It was checked and will be carried out.
        Accepted = "accepted",
        /// The deed comes next; silence after this is *armed, unproven*.
        Armed = "armed",
        /// Managed and volume keys are gone.
        KeysDestroyed = "keys_destroyed",
        /// Data is gone.
        DataDestroyed = "data_destroyed",
        /// Everything was looked at again.
        Verified = "verified",
    }
}

words! {
    /// How a phase, or something in it, ended.
    ReceiptOutcome {
        /// Done.
        Done = "done",
        /// The device's own policy refused.
        Refused = "refused",
        /// It could not be done.
        Failed = "failed",
    }
}

words! {
    /// What became of one thing, in the words of NIST SP 800-88r2 where they are earned.
    ItemFate {
        /// Every addressed block was overwritten.
        Cleared = "cleared",
        /// Unlinked; no more is claimed.
        Deleted = "deleted",
        /// Its key was destroyed.
        KeyDestroyed = "key_destroyed",
        /// Left as it was.
        Kept = "kept",
        /// It could not be done.
        Failed = "failed",
    }
}

/// One thing a receipt speaks about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptItem {
    /// What: a path, a key's or a secret's name.
    pub what: String,
    /// What became of it.
    pub fate: ItemFate,
    /// How many bytes it had.
    pub size_bytes: u64,
}
record!(ReceiptItem { what, fate, size_bytes });

/// A receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Whose word it is.
    pub device: DeviceId,
    /// On which order.
    pub order: OrderId,
    /// SHA-256 of the warrant's payload, where there was one.
    pub warrant: Option<Sha256Digest>,
    /// How far a wipe went.
    pub level: Option<Level>,
    /// The phase that ended.
    pub phase: ReceiptPhase,
    /// How it ended.
    pub outcome: ReceiptOutcome,
    /// What became of what.
    pub items: Vec<ReceiptItem>,
    /// SHA-256 of the evidence kept on the device.
    pub evidence: Sha256Digest,
    /// SHA-256 of the payload of this order's receipt before; none in the first.
    pub previous: Option<Sha256Digest>,
    /// SHA-256 of the certificate that the signing key has.
    pub certificate: Sha256Digest,
    /// The last checkpoint verified; none before the first.
    pub last_checkpoint: Option<TreeHead>,
    /// When.
    pub at: Timestamp,
}
document!(Receipt, "receipt", 64 * 1024, SignedOnce, {
    device, order, warrant, level, phase, outcome, items, evidence, previous, certificate, last_checkpoint, at,
});

/// The server's word that it has a receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// To whom.
    pub device: DeviceId,
    /// On which order.
    pub order: OrderId,
    /// SHA-256 of the receipt's payload.
    pub receipt: Sha256Digest,
}
document!(Ack, "ack", 1024, SignedOnce, { device, order, receipt });

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cbor::{decode, encode};
    use crate::envelope::payload_digest;

    fn receipt() -> Receipt {
        Receipt {
            device: DeviceId::from_bytes([1; 16]),
            order: OrderId::from_bytes([2; 16]),
            warrant: Some(Sha256Digest([3; 32])),
            level: Some(Level::Clear),
            phase: ReceiptPhase::DataDestroyed,
            outcome: ReceiptOutcome::Done,
            items: vec![ReceiptItem { what: "/srv/data".into(), fate: ItemFate::Deleted, size_bytes: 4096 }],
            evidence: Sha256Digest([4; 32]),
            previous: None,
            certificate: Sha256Digest([5; 32]),
            last_checkpoint: Some(TreeHead { size: 9, root: Sha256Digest([6; 32]) }),
            at: Timestamp(1_000),
        }
    }

    #[test]
    fn a_receipt_reads_back() {
        assert_eq!(decode::<Receipt>(&encode(&receipt())).unwrap(), receipt());
    }

    #[test]
    fn receipts_are_chained_by_the_digest_of_the_payload() {
        let first = receipt();
        let second =
            Receipt { phase: ReceiptPhase::Verified, previous: Some(payload_digest(&first)), ..receipt() };
        assert_eq!(second.previous, Some(Sha256Digest::of(&encode(&first))));
        assert_ne!(payload_digest(&second), payload_digest(&first));
    }

    #[test]
    fn phases_compare_in_the_order_they_happen() {
        assert!(ReceiptPhase::ALL.is_sorted());
        assert!(ReceiptPhase::Armed < ReceiptPhase::KeysDestroyed);
    }
}
