//! The device leaf: CA:FALSE, digitalSignature, clientAuth only, exactly one `spiffe://` URI, at most 398 days.

use x509_cert::TbsCertificate;
use x509_cert::ext::pkix::KeyUsages;

use super::extensions::{self as ext, CLIENT_AUTH};
use super::{Expected, Finding, Rule, require};
use crate::profile::MAX_LEAF_VALIDITY_S;

/// What profiles may backdate at most.
const MAX_BACKDATE_S: i64 = 86_400;

/// The rules of a leaf beyond the fields that every certificate has.
pub(super) fn check(tbs: &TbsCertificate, expected: &Expected<'_>, uri: &str) -> Result<(), Finding> {
    end_entity(tbs, expected)?;
    ext::extended_key_usage(tbs, CLIENT_AUTH)?;
    ext::single_uri(tbs, uri)
}

/// What a leaf and a server certificate share.
pub(super) fn end_entity(tbs: &TbsCertificate, expected: &Expected<'_>) -> Result<(), Finding> {
    ext::inventory(
        tbs,
        &[
            ext::BASIC_CONSTRAINTS,
            ext::KEY_USAGE,
            ext::EXTENDED_KEY_USAGE,
            ext::SUBJECT_ALT_NAME,
            ext::SUBJECT_KEY_IDENTIFIER,
            ext::AUTHORITY_KEY_IDENTIFIER,
            ext::DISTRIBUTION_POINTS,
            ext::INFO_ACCESS,
        ],
    )?;
    ext::basic_constraints(tbs, None)?;
    ext::key_usage(tbs, KeyUsages::DigitalSignature)?;
    let life_s = expected.validity.1.saturating_sub(expected.validity.0);
    require(life_s <= MAX_LEAF_VALIDITY_S + MAX_BACKDATE_S, Rule::Validity, life_s)
}
