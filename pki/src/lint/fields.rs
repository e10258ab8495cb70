//! The fields that every certificate has.

use der::DateTime;
use x509_cert::TbsCertificate;
use x509_cert::certificate::Version;
use x509_cert::time::Time;

use super::{Expected, Finding, Rule, require};
use crate::key::Algorithm;
use crate::tlv;

/// Compares version, serial number, algorithm, names, validity and key with the order.
pub(super) fn check(tbs: &TbsCertificate, expected: &Expected<'_>) -> Result<(), Finding> {
    let plain = tbs.issuer_unique_id.is_none() && tbs.subject_unique_id.is_none();
    require(tbs.version == Version::V3 && plain, Rule::Version, tbs.version)?;
    let serial = tbs.serial_number.as_bytes();
    require(serial == expected.serial.as_bytes(), Rule::Serial, serial)?;
    algorithm(&tbs.signature, expected.signed_by)?;
    bytes(&tbs.issuer, expected.issuer, Rule::Issuer)?;
    require(expected.validity.0 < expected.validity.1, Rule::Validity, expected.validity)?;
    date(&tbs.validity.not_before, expected.validity.0)?;
    date(&tbs.validity.not_after, expected.validity.1)?;
    bytes(&tbs.subject, expected.subject, Rule::Subject)?;
    bytes(&tbs.subject_public_key_info, expected.key.spki_der(), Rule::PublicKey)
}

/// The AlgorithmIdentifier of an authority's signature (RFC 5758 §3.2: parameters absent).
pub(super) fn signature_identifier(signed_by: Algorithm) -> Vec<u8> {
    const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
    const ECDSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
    let oid = if signed_by == Algorithm::P384 { ECDSA_SHA384 } else { ECDSA_SHA256 };
    tlv::encode(tlv::SEQUENCE, &tlv::encode(tlv::OID, oid))
}

/// The algorithm named inside the signed bytes is the one that the key will use.
pub(super) fn algorithm(
    found: &x509_cert::spki::AlgorithmIdentifierOwned,
    signed_by: Algorithm,
) -> Result<(), Finding> {
    bytes(found, &signature_identifier(signed_by), Rule::SignatureAlgorithm)
}

/// `value`, written again, is exactly `expected`.
pub(super) fn bytes(value: &impl der::Encode, expected: &[u8], rule: Rule) -> Result<(), Finding> {
    let mut buffer = [0_u8; 1024];
    let length = usize::try_from(value.encoded_len().map_err(|error| Finding::new(rule, error))?)
        .unwrap_or(usize::MAX);
    let same = match buffer.get_mut(..length) {
        Some(room) => value.encode_to_slice(room).is_ok_and(|written| written == expected),
        None => value.to_der().is_ok_and(|written| written == expected),
    };
    if same { Ok(()) } else { Err(Finding::new(rule, value.to_der())) }
}

/// The instant ordered, as UTCTime through 2049 and GeneralizedTime after (RFC 5280 §4.1.2.5).
pub(super) fn date(found: &Time, expected_s: i64) -> Result<(), Finding> {
    let same = i64::try_from(found.to_unix_duration().as_secs()) == Ok(expected_s);
    let year = |date: &DateTime| date.year();
    let form = match found {
        Time::UtcTime(_) => year(&found.to_date_time()) < 2050,
        Time::GeneralTime(_) => year(&found.to_date_time()) >= 2050,
    };
    require(same && form, Rule::Validity, found)
}
