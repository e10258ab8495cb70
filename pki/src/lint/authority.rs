//! The authorities: a root without path length, and two authorities beneath it that may sign leaves of one purpose.

use x509_cert::TbsCertificate;
use x509_cert::ext::pkix::KeyUsages;

use super::extensions::{self as ext, CLIENT_AUTH, SERVER_AUTH};
use super::{Expected, Finding, Role, Rule, require};
use crate::key::Algorithm;

/// Twenty years of 365.25 days, and the backdating.
const MAX_ROOT_S: i64 = 7305 * 86_400 + 300;
/// Three years with a leap day, and the backdating.
const MAX_AUTHORITY_S: i64 = 1096 * 86_400 + 300;

/// The rules of an authority beyond the fields that every certificate has.
pub(super) fn check(tbs: &TbsCertificate, expected: &Expected<'_>) -> Result<(), Finding> {
    ext::key_usage(tbs, KeyUsages::KeyCertSign | KeyUsages::CRLSign)?;
    match expected.role {
        Role::Root => root(tbs, expected),
        Role::Issuing => beneath(tbs, expected, CLIENT_AUTH),
        Role::ServerNames => beneath(tbs, expected, SERVER_AUTH),
        Role::Device { .. } | Role::Server { .. } => Err(Finding::new(Rule::BasicConstraints, "a leaf")),
    }
}

/// Self-signed, P-384, no path length: with one, a root cross-signed by the old one would fail.
fn root(tbs: &TbsCertificate, expected: &Expected<'_>) -> Result<(), Finding> {
    ext::inventory(
        tbs,
        &[ext::BASIC_CONSTRAINTS, ext::KEY_USAGE, ext::SUBJECT_KEY_IDENTIFIER, ext::AUTHORITY_KEY_IDENTIFIER],
    )?;
    ext::basic_constraints(tbs, Some(None))?;
    require(expected.issuer == expected.subject, Rule::Issuer, expected.issuer)?;
    require(expected.key.algorithm() == Algorithm::P384, Rule::PublicKey, expected.key.algorithm())?;
    life(expected, MAX_ROOT_S)
}

/// P-256, signs leaves of one purpose and no further authority.
fn beneath(
    tbs: &TbsCertificate,
    expected: &Expected<'_>,
    purpose: der::oid::ObjectIdentifier,
) -> Result<(), Finding> {
    ext::inventory(
        tbs,
        &[
            ext::BASIC_CONSTRAINTS,
            ext::KEY_USAGE,
            ext::EXTENDED_KEY_USAGE,
            ext::SUBJECT_KEY_IDENTIFIER,
            ext::AUTHORITY_KEY_IDENTIFIER,
            ext::DISTRIBUTION_POINTS,
            ext::INFO_ACCESS,
        ],
    )?;
    ext::basic_constraints(tbs, Some(Some(0)))?;
    ext::extended_key_usage(tbs, purpose)?;
    require(expected.issuer != expected.subject, Rule::Subject, expected.subject)?;
    require(expected.key.algorithm() == Algorithm::P256, Rule::PublicKey, expected.key.algorithm())?;
    life(expected, MAX_AUTHORITY_S)
}

fn life(expected: &Expected<'_>, most_s: i64) -> Result<(), Finding> {
    let life_s = expected.validity.1.saturating_sub(expected.validity.0);
    require(life_s <= most_s, Rule::Validity, life_s)
}
