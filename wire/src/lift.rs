//! A lift: approvers end what anybody may begin, a freeze.
//!
//! Judged by the server alone; it goes to no device. It names the one freeze that it ends by an id that the server drew at
//! random, so a lift that was signed once ends nothing later.

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

/// Believes a lift that as many approvers have signed who count at `now` as a successor of the authority document needs.
///
/// # Errors
/// As [`MultiSigned::verify`]; [`EnvelopeError::UnknownSigner`] where the document in force does not say how many that are.
pub fn verify(
    lift: &MultiSigned<Lift>,
    lineage: &Lineage,
    now: Timestamp,
) -> Result<Verified<Lift>, EnvelopeError> {
    let needed = lineage.current().required.count(Matter::Authority).ok_or(EnvelopeError::UnknownSigner)?;
    lift.verify(&lineage.counting_keys(now), needed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::tests::{founded, secret};

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
}
