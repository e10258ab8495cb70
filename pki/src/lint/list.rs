//! The revocation list: one shard, numbered, good for seven days, its distribution point the one in the certificates.

use const_oid::AssociatedOid;
use der::oid::ObjectIdentifier;
use der::{Decode, Encode as _};
use x509_cert::certificate::Version;
use x509_cert::crl::{RevokedCert, TbsCertList};
use x509_cert::ext::pkix::{AuthorityKeyIdentifier, CrlNumber, CrlReason, IssuingDistributionPoint};

use super::extensions::{authority_key_identifier, is_url};
use super::{Finding, Linted, Rule, fields, require};
use crate::crl::{Reason, Revoked, Scope};
use crate::key::Algorithm;
use crate::tlv;
use crate::walk;

/// id-ce-issuingDistributionPoint. x509-cert 0.2.5 gives its type the OID of subjectInfoAccess instead.
const ISSUING_DISTRIBUTION_POINT: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.28");

/// Everything that was ordered.
#[derive(Debug)]
pub(crate) struct ExpectedList<'a> {
    pub(crate) signed_by: Algorithm,
    pub(crate) issuer: &'a [u8],
    pub(crate) authority_key_identifier: &'a [u8],
    pub(crate) validity: (i64, i64),
    pub(crate) number: u64,
    pub(crate) scope: Scope,
    pub(crate) url: &'a str,
    /// In the order in which they are written.
    pub(crate) entries: &'a [Revoked],
}

/// Lints the to-be-signed bytes of a revocation list.
///
/// # Errors
/// The first [`Finding`], in the order of the fields.
pub(crate) fn list(bytes: Vec<u8>, expected: &ExpectedList<'_>) -> Result<Linted, Finding> {
    walk::check(&bytes).map_err(|error| Finding::new(Rule::Encoding, error))?;
    let tbs = TbsCertList::from_der(&bytes).map_err(|error| Finding::new(Rule::Encoding, error))?;
    require(tbs.version == Version::V2, Rule::Version, tbs.version)?;
    fields::algorithm(&tbs.signature, expected.signed_by)?;
    fields::bytes(&tbs.issuer, expected.issuer, Rule::Issuer)?;
    fields::date(&tbs.this_update, expected.validity.0)?;
    match &tbs.next_update {
        Some(next) => fields::date(next, expected.validity.1)?,
        None => return Err(Finding::new(Rule::Validity, "no nextUpdate")),
    }
    entries(tbs.revoked_certificates.as_deref(), expected)?;
    extensions(&tbs, expected)?;
    Ok(Linted { bytes, signature_algorithm: fields::signature_identifier(expected.signed_by) })
}

fn entries(found: Option<&[RevokedCert]>, expected: &ExpectedList<'_>) -> Result<(), Finding> {
    // RFC 5280 §5.1.2.6: when there are no revoked certificates, the list MUST be absent.
    require(found.is_none_or(|entries| !entries.is_empty()), Rule::Entries, "an empty list")?;
    let found = found.unwrap_or_default();
    require(found.len() == expected.entries.len(), Rule::Entries, found.len())?;
    found.iter().zip(expected.entries).try_for_each(|(found, wanted)| entry(found, wanted, expected.scope))
}

fn entry(found: &RevokedCert, wanted: &Revoked, scope: Scope) -> Result<(), Finding> {
    let covered = match scope {
        Scope::Leaves { shard } => wanted.serial.shard() == shard,
        Scope::Authorities => true,
    };
    let same = found.serial_number.as_bytes() == wanted.serial.as_bytes();
    require(covered && same, Rule::Entries, &found.serial_number)?;
    fields::date(&found.revocation_date, wanted.at_s)?;
    let extensions = found.crl_entry_extensions.as_deref();
    let good = match (extensions, wanted.reason) {
        // §5.3.1: the extension SHOULD be absent instead of saying unspecified.
        (None, Reason::Unspecified) => true,
        (Some([only]), reason) => {
            only.extn_id == CrlReason::OID
                && !only.critical
                && only.extn_value.as_bytes() == [0x0a, 1, reason.code()]
                && reason != Reason::Unspecified
        }
        _ => false,
    };
    require(good, Rule::Entries, extensions)
}

fn extensions(tbs: &TbsCertList, expected: &ExpectedList<'_>) -> Result<(), Finding> {
    let found = tbs.crl_extensions.as_deref().unwrap_or_default();
    let identifier: AuthorityKeyIdentifier = value(tbs, AuthorityKeyIdentifier::OID, false)?;
    authority_key_identifier(&identifier, expected.authority_key_identifier)?;
    let number: CrlNumber = value(tbs, CrlNumber::OID, false)?;
    let wanted = tlv::unsigned(&expected.number.to_be_bytes());
    let same = number.0.to_der().is_ok_and(|der| der == wanted) && expected.number > 0;
    require(same, Rule::ListNumber, number)?;
    match expected.scope {
        Scope::Leaves { .. } => {
            distribution_point(tbs, expected.url)?;
            require(found.len() == 3, Rule::Extensions, found.len())
        }
        // A complete list has no distribution point of its own (RFC 5280 §5.2.5).
        Scope::Authorities => require(found.len() == 2, Rule::Extensions, found.len()),
    }
}

/// Critical, this URL, leaves only, all reasons, direct.
fn distribution_point(tbs: &TbsCertList, url: &str) -> Result<(), Finding> {
    let point: IssuingDistributionPoint = value(tbs, ISSUING_DISTRIBUTION_POINT, true)?;
    let same = point.distribution_point.as_ref().is_some_and(|name| is_url(name, url))
        && point.only_contains_user_certs
        && !point.only_contains_ca_certs
        && !point.indirect_crl
        && !point.only_contains_attribute_certs
        && point.only_some_reasons.is_none();
    require(same, Rule::DistributionPoint, point)
}

/// The value of an extension that must be there, critical or not as said.
fn value<'a, T: Decode<'a>>(
    tbs: &'a TbsCertList,
    oid: ObjectIdentifier,
    critical: bool,
) -> Result<T, Finding> {
    let extensions = tbs.crl_extensions.as_deref().unwrap_or_default();
    let found =
        extensions.iter().find(|extension| extension.extn_id == oid && extension.critical == critical);
    let found = found.ok_or_else(|| Finding::new(Rule::Extensions, oid))?;
    T::from_der(found.extn_value.as_bytes()).map_err(|error| Finding::new(Rule::Extensions, error))
}
