//! What approvers let go that the rails hold back: a lift ends a freeze, a waiver the cooling-off of one act.
//!
//! Both are judged by the server alone and go to no device. A lift names the one freeze that it ends by an id that the server
//! drew at random, a waiver the act, its devices and when it was first asked for, so that neither does anything twice.

use crate::authority::Matter;
use crate::cbor::document;
use crate::digest::Sha256Digest;
use crate::envelope::{EnvelopeError, MultiSigned, Verified};
use crate::id::TrustDomain;
use crate::lineage::Lineage;
use crate::time::Timestamp;

/// The end of a freeze.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lift {
    /// Whose freeze.
    pub trust_domain: TrustDomain,
    /// Which: SHA-256 of what the server drew.
    pub freeze: Sha256Digest,
    /// When it began.
    pub began_at: Timestamp,
}
document!(Lift, "lift", 16 * 1024, SignedByMany, { trust_domain, freeze, began_at });

/// The end of the cooling-off of one act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiver {
    /// On whose devices.
    pub trust_domain: TrustDomain,
    /// What waits: `wipe`, `revoke`, `supersede` or `quarantine`.
    pub act: String,
    /// On how many devices.
    pub devices: u64,
    /// The act and its devices, as a digest.
    pub what: Sha256Digest,
    /// Who asked first, as the audit log names them.
    pub by: String,
    /// When.
    pub since: Timestamp,
}
document!(Waiver, "waiver", 16 * 1024, SignedByMany, { trust_domain, act, devices, what, by, since });

/// Believes a lift that as many approvers have signed who count at `now` as a successor of the authority document needs.
///
/// # Errors
/// As [`MultiSigned::verify`]; [`EnvelopeError::TooFew`] always where the document in force does not say how many that are.
pub fn verify(
    lift: &MultiSigned<Lift>,
    lineage: &Lineage,
    now: Timestamp,
) -> Result<Verified<Lift>, EnvelopeError> {
    lift.verify(&lineage.counting_keys(now), quorum(lineage))
}

/// Believes a waiver that as many approvers have signed.
///
/// # Errors
/// As [`verify`].
pub fn verify_waiver(
    waiver: &MultiSigned<Waiver>,
    lineage: &Lineage,
    now: Timestamp,
) -> Result<Verified<Waiver>, EnvelopeError> {
    waiver.verify(&lineage.counting_keys(now), quorum(lineage))
}

fn quorum(lineage: &Lineage) -> usize {
    lineage.current().approvers_for(Matter::Authority)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::tests::{founded, secret};
    use crate::authority::{Authority, Required};

    #[test]
    fn a_lift_needs_the_quorum() {
        let mut first = MultiSigned::unsigned(&founded());
        first.add_signature(&secret(1)).unwrap();
        let lineage = Lineage::found(&first, first.payload_digest()).unwrap();
        let lift = Lift {
            trust_domain: "fleet.example".parse().unwrap(),
            freeze: Sha256Digest([7; 32]),
            began_at: Timestamp(5),
        };
        let mut signed = MultiSigned::unsigned(&lift);
        for (seed, is_enough) in [(10, false), (20, false), (1, false), (11, true)] {
            signed.add_signature(&secret(seed)).unwrap();
            assert_eq!(verify(&signed, &lineage, Timestamp(6)).is_ok(), is_enough, "{seed}");
        }
    }

    #[test]
    fn where_the_authority_names_no_number_no_signatures_are_enough() {
        let required: Required = crate::cbor::decode(&[0x80]).unwrap();
        let mut first = MultiSigned::unsigned(&Authority { required, ..founded() });
        first.add_signature(&secret(1)).unwrap();
        let lineage = Lineage::found(&first, first.payload_digest()).unwrap();
        let mut signed = MultiSigned::unsigned(&Lift {
            trust_domain: "fleet.example".parse().unwrap(),
            freeze: Sha256Digest([7; 32]),
            began_at: Timestamp(5),
        });
        for seed in [10, 11] {
            signed.add_signature(&secret(seed)).unwrap();
        }
        let judged = verify(&signed, &lineage, Timestamp(6));
        assert!(matches!(judged, Err(EnvelopeError::TooFew { .. })), "{judged:?}");
    }
}
