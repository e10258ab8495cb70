//! Revocation lists in 256 shards, from the first certificate on (RFC 5280 §5).
//!
//! The shard is the last byte of the serial number, its URL stands in the certificate, and the list repeats the URL
//! in a critical issuing distribution point: a list for another shard never passes for this one. A root's list is not
//! sharded; it is complete. There are no delta
//! lists, which validators refuse; an empty list is a list. Numbers come from the caller and must only ever grow,
//! also across a restore. When a hold ends its entry is left out; a revoked entry stays until one list after the
//! certificate's expiry, which is the caller's to decide.

use aws_lc_rs::signature as verify;
use rcgen::{
    CertificateRevocationListParams, CrlDistributionPoint, CrlIssuingDistributionPoint, CrlScope,
    KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber,
};

use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::hierarchy::{Authority, ROOT_SHARD};
use crate::issuer::{CaCertificate, IssueError};
use crate::key::{Algorithm, PublicKey};
use crate::lint::{self, ExpectedList};
use crate::record::{instant, seal};
use crate::serial::Serial;

/// How long a list of leaves may be relied on: 7 days.
pub const NEXT_UPDATE_S: i64 = 7 * 86_400;

/// How long a root's list may be relied on: 398 days, since its key may be far away.
pub const ROOT_NEXT_UPDATE_S: i64 = 398 * 86_400;

/// Why a certificate is on the list (RFC 5280 §5.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No reason given; the entry then carries none.
    Unspecified,
    /// The private key is known to somebody else.
    KeyCompromise,
    /// The device changed hands.
    AffiliationChanged,
    /// Another certificate took its place.
    Superseded,
    /// The device is retired.
    CessationOfOperation,
    /// Suspended; the entry goes when the hold ends.
    CertificateHold,
    /// The device may no longer do what it could.
    PrivilegeWithdrawn,
}

impl Reason {
    /// The number of RFC 5280 §5.3.1.
    #[must_use]
    pub const fn code(self) -> u8 {
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

    const fn written(self) -> Option<RevocationReason> {
        match self {
            Self::Unspecified => None,
            Self::KeyCompromise => Some(RevocationReason::KeyCompromise),
            Self::AffiliationChanged => Some(RevocationReason::AffiliationChanged),
            Self::Superseded => Some(RevocationReason::Superseded),
            Self::CessationOfOperation => Some(RevocationReason::CessationOfOperation),
            Self::CertificateHold => Some(RevocationReason::CertificateHold),
            Self::PrivilegeWithdrawn => Some(RevocationReason::PrivilegeWithdrawn),
        }
    }
}

/// One entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revoked {
    /// Whose certificate.
    pub serial: Serial,
    /// Since when, seconds since 1970.
    pub at_s: i64,
    /// Why.
    pub reason: Reason,
}

/// Which part of an issuer's certificates a list covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The leaves whose serial number ends in this byte.
    Leaves {
        /// The shard.
        shard: u8,
    },
    /// All the authorities that a root has signed; published as [`ROOT_SHARD`].
    Authorities,
}

impl Scope {
    const fn shard(self) -> u8 {
        match self {
            Self::Leaves { shard } => shard,
            Self::Authorities => ROOT_SHARD,
        }
    }

    const fn life_s(self) -> i64 {
        match self {
            Self::Leaves { .. } => NEXT_UPDATE_S,
            Self::Authorities => ROOT_NEXT_UPDATE_S,
        }
    }

    /// What ties a shard to its URL. The root's list covers everything that the root has signed, the root included,
    /// and so has none.
    fn distribution_point(self, url: &str) -> Option<CrlIssuingDistributionPoint> {
        match self {
            Self::Leaves { .. } => Some(CrlIssuingDistributionPoint {
                distribution_point: CrlDistributionPoint { uris: vec![url.to_owned()] },
                scope: Some(CrlScope::UserCertsOnly),
            }),
            Self::Authorities => None,
        }
    }

    fn covers(self, serial: Serial) -> bool {
        match self {
            Self::Leaves { shard } => serial.shard() == shard,
            Self::Authorities => true,
        }
    }
}

/// Writes, lints and signs one list, as DER.
///
/// `number` is 1 or more and greater than in any earlier list of this scope. `entries` come in any order, none
/// twice, and may be none; they are written in the order of their serial numbers. The list is good from `now_s` for
/// [`NEXT_UPDATE_S`], or [`ROOT_NEXT_UPDATE_S`] for authorities.
///
/// # Errors
/// [`IssueError::OutOfScope`] for an entry of another shard or one that comes twice; [`IssueError::Lint`] for number
/// 0; [`IssueError::OtherKey`] and [`IssueError::Sign`] when the key does not sign.
pub fn sign_list(
    authority: &Authority<'_>,
    scope: Scope,
    entries: &[Revoked],
    number: u64,
    now_s: i64,
) -> Result<Vec<u8>, IssueError> {
    let sorted = in_order(scope, entries)?;
    let ca = authority.certificate;
    let url = authority.urls.crl(scope.shard());
    let validity = (now_s, now_s.saturating_add(scope.life_s()));
    let params = CertificateRevocationListParams {
        this_update: instant(validity.0)?,
        next_update: instant(validity.1)?,
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: scope.distribution_point(&url),
        revoked_certs: sorted.iter().map(written).collect::<Result<_, _>>()?,
        key_identifier_method: KeyIdMethod::PreSpecified(ca.key_identifier().to_vec()),
    };
    let expected = ExpectedList {
        signed_by: ca.writer().algorithm(),
        issuer: ca.subject_der(),
        authority_key_identifier: ca.key_identifier(),
        validity,
        number,
        scope,
        url: &url,
        entries: &sorted,
    };
    let tbs = lint::list(ca.writer().list(&params)?, &expected)?;
    seal(&tbs, ca.spki_der(), authority.key)
}

/// What is wrong with a list that claims to be `issuer`'s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// It is not one list in DER and nothing else.
    #[error("it is no revocation list")]
    Form,
    /// It names another issuer.
    #[error("it is another issuer's list")]
    Issuer,
    /// The issuer's key did not make its signature.
    #[error("its signature does not hold")]
    Signature,
}

/// Checks that `der` is a list that `issuer` signed. Its dates are not looked at.
///
/// # Errors
/// [`ListError`].
pub fn check_list(der: &[u8], issuer: &CaCertificate) -> Result<(), ListError> {
    let (rest, list) = CertificateRevocationList::from_der(der).map_err(|_| ListError::Form)?;
    if !rest.is_empty() {
        return Err(ListError::Form);
    }
    if list.issuer().as_raw() != issuer.subject_der() {
        return Err(ListError::Issuer);
    }
    let key = PublicKey::parse(issuer.spki_der()).map_err(|_| ListError::Signature)?;
    let scheme: &dyn verify::VerificationAlgorithm = match key.algorithm() {
        Algorithm::P256 => &verify::ECDSA_P256_SHA256_ASN1,
        Algorithm::P384 => &verify::ECDSA_P384_SHA384_ASN1,
        Algorithm::Ed25519 => &verify::ED25519,
        Algorithm::Rsa { .. } => return Err(ListError::Signature),
    };
    verify::UnparsedPublicKey::new(scheme, key.bits())
        .verify(list.tbs_cert_list.as_ref(), &list.signature_value.data)
        .map_err(|_| ListError::Signature)
}

fn in_order(scope: Scope, entries: &[Revoked]) -> Result<Vec<Revoked>, IssueError> {
    let mut sorted = entries.to_vec();
    sorted.sort_unstable_by_key(|entry| entry.serial);
    let stray = sorted.iter().find(|entry| !scope.covers(entry.serial));
    let mut pairs = sorted.iter().zip(sorted.iter().skip(1));
    let double = pairs.find(|(one, next)| one.serial == next.serial).map(|(one, _)| one);
    match stray.or(double) {
        Some(entry) => Err(IssueError::OutOfScope { serial: entry.serial }),
        None => Ok(sorted),
    }
}

fn written(entry: &Revoked) -> Result<RevokedCertParams, IssueError> {
    Ok(RevokedCertParams {
        serial_number: SerialNumber::from_slice(entry.serial.as_bytes()),
        revocation_time: instant(entry.at_s)?,
        reason_code: entry.reason.written(),
        invalidity_date: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revoked(fill: u8) -> Revoked {
        Revoked { serial: Serial::from_random([fill; 16]), at_s: 0, reason: Reason::Unspecified }
    }

    #[test]
    fn entries_are_written_in_the_order_of_their_numbers() {
        let (mut high, mut low) = ([5; 16], [5; 16]);
        (high[0], low[0]) = (9, 1);
        let entries = [high, low].map(|random| Revoked { serial: Serial::from_random(random), ..revoked(5) });
        let sorted = in_order(Scope::Leaves { shard: 5 }, &entries).unwrap();
        assert_eq!(sorted, [entries[1], entries[0]]);
    }

    #[test]
    fn an_entry_of_another_shard_or_a_second_time_is_refused() {
        let shard = Scope::Leaves { shard: 5 };
        for entries in [&[revoked(6)][..], &[revoked(5), revoked(5)]] {
            assert!(matches!(in_order(shard, entries), Err(IssueError::OutOfScope { .. })), "{entries:?}");
        }
        assert!(in_order(Scope::Authorities, &[revoked(6), revoked(5)]).is_ok());
    }
}
