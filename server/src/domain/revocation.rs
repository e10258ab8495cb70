//! What ends a certificate: the reasons of RFC 5280 §5.3.1 that Muster uses, and the entry a CRL carries.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Why a certificate ended (RFC 5280 §5.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Nothing is said.
    Unspecified,
    /// The private key is, or may be, in other hands.
    KeyCompromise,
    /// The subject's names or role changed.
    AffiliationChanged,
    /// The next certificate took over.
    Superseded,
    /// The device is no longer in use.
    CessationOfOperation,
    /// What the certificate allowed was withdrawn.
    PrivilegeWithdrawn,
    /// Its device is in quarantine; the entry goes when that ends.
    CertificateHold,
}

impl Reason {
    /// Every reason an operator may give, in the order of contract.md.
    pub const ALL: [Self; 6] = [
        Self::Unspecified,
        Self::KeyCompromise,
        Self::AffiliationChanged,
        Self::Superseded,
        Self::CessationOfOperation,
        Self::PrivilegeWithdrawn,
    ];

    /// The name, as contract.md spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "key_compromise",
            Self::AffiliationChanged => "affiliation_changed",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessation_of_operation",
            Self::PrivilegeWithdrawn => "privilege_withdrawn",
            Self::CertificateHold => "certificate_hold",
        }
    }

    /// `CRLReason` of RFC 5280 §5.3.1.
    pub fn code(self) -> u8 {
        match self {
            Self::Unspecified => 0,
            Self::KeyCompromise => 1,
            Self::AffiliationChanged => 3,
            Self::Superseded => 4,
            Self::CessationOfOperation => 5,
            Self::CertificateHold => 6,
            Self::PrivilegeWithdrawn => 9,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that names no reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a revocation reason")]
pub struct UnknownReason;

impl FromStr for Reason {
    type Err = UnknownReason;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text).ok_or(UnknownReason)
    }
}

/// How long an entry is kept after the end of its certificate: 400 days, in seconds.
const KEPT_S: i64 = 400 * 24 * 60 * 60;

/// What a CRL says of one certificate; stored under issuer, shard and serial number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When it ended, unix seconds.
    pub at: i64,
    /// Why.
    pub reason: Reason,
    /// Last second of the certificate's validity, unix seconds.
    pub not_after: i64,
}

impl Entry {
    /// Whether the CRL that is signed at `now` must still list this entry.
    ///
    /// An entry stays until it has appeared on one regular CRL issued after the certificate's validity
    /// (RFC 5280 §3.3); `previous_update` is when the last CRL of the shard was signed, unix seconds, if one was. One
    /// that was signed later than now says that the clock was wrong, and nothing more.
    pub fn is_listed(&self, previous_update: Option<i64>, now: i64) -> bool {
        previous_update.is_none_or(|signed| signed.min(now) <= self.not_after)
    }

    /// Whether nobody needs this entry any more at `now`, even if the clock is a year ahead and will be set back.
    pub fn is_outlived(&self, now: i64) -> bool {
        now.saturating_sub(self.not_after) > KEPT_S
    }
}

/// The last CRL signed for a shard; numbers never go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardHead {
    /// `CRLNumber` of the last CRL.
    pub number: u64,
    /// When it was signed, unix seconds.
    pub this_update: i64,
}

impl ShardHead {
    /// The head of the next CRL, signed at `now_ms`.
    ///
    /// The number is the time in milliseconds, or one more than the last where the clock went back: so it rises
    /// even over the restore of an old backup (RFC 5280 §5.2.3: monotonically increasing).
    pub fn next(previous: Option<&Self>, now_ms: i64) -> Self {
        let floor = previous.map_or(1, |head| head.number.saturating_add(1));
        Self { number: floor.max(u64::try_from(now_ms).unwrap_or(0)), this_update: now_ms.div_euclid(1000) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crl_number_rises_when_the_clock_falls() {
        let first = ShardHead::next(None, 5_000_000);
        let second = ShardHead::next(Some(&first), 1_000);
        assert!(second.number > first.number);
    }

    #[test]
    fn entry_outlives_its_certificate_by_one_crl() {
        let entry = Entry { at: 10, reason: Reason::KeyCompromise, not_after: 100 };
        assert!(entry.is_listed(None, 200));
        assert!(entry.is_listed(Some(100), 200));
        assert!(!entry.is_listed(Some(101), 200));
    }

    #[test]
    fn a_clock_that_ran_ahead_and_was_set_back_drops_no_entry() {
        let year = 365 * 86_400;
        let entry = Entry { at: 10, reason: Reason::KeyCompromise, not_after: 100 };
        assert!(!entry.is_listed(Some(50 + year), 51 + year) && !entry.is_outlived(51 + year));
        assert!(entry.is_listed(Some(51 + year), 50), "what was signed in the future does not count");
        assert!(entry.is_outlived(100 + KEPT_S + 1));
    }

    #[test]
    fn every_reason_is_read_back_from_its_name() {
        for reason in Reason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(reason));
        }
        assert_eq!("Key_Compromise".parse::<Reason>(), Err(UnknownReason));
        assert_eq!(
            Reason::CertificateHold.as_str().parse::<Reason>(),
            Err(UnknownReason),
            "no operator's reason"
        );
    }
}
