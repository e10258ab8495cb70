//! The extensions, value by value. Each check takes the one value that the role allows.

use std::net::IpAddr;

use const_oid::AssociatedOid;
use der::Decode;
use der::flagset::FlagSet;
use der::oid::ObjectIdentifier;
use x509_cert::TbsCertificate;
use x509_cert::ext::pkix::name::{DistributionPointName, GeneralName};
use x509_cert::ext::pkix::{
    AuthorityInfoAccessSyntax, AuthorityKeyIdentifier, BasicConstraints, CrlDistributionPoints,
    ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectAltName, SubjectKeyIdentifier,
};

use super::{Expected, Finding, Published, Rule, require};

/// id-kp-serverAuth.
pub(super) const SERVER_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");
/// id-kp-clientAuth.
pub(super) const CLIENT_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.2");
/// id-ad-caIssuers.
const CA_ISSUERS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.48.2");

/// An extension that a role has, and whether it is critical there.
pub(super) type Entry = (ObjectIdentifier, bool);

pub(super) const BASIC_CONSTRAINTS: Entry = (BasicConstraints::OID, true);
pub(super) const KEY_USAGE: Entry = (KeyUsage::OID, true);
pub(super) const EXTENDED_KEY_USAGE: Entry = (ExtendedKeyUsage::OID, false);
pub(super) const SUBJECT_ALT_NAME: Entry = (SubjectAltName::OID, false);
pub(super) const SUBJECT_KEY_IDENTIFIER: Entry = (SubjectKeyIdentifier::OID, false);
pub(super) const AUTHORITY_KEY_IDENTIFIER: Entry = (AuthorityKeyIdentifier::OID, false);
pub(super) const DISTRIBUTION_POINTS: Entry = (CrlDistributionPoints::OID, false);
pub(super) const INFO_ACCESS: Entry = (AuthorityInfoAccessSyntax::OID, false);

/// Exactly these extensions, in any order, none twice, each critical or not as listed.
pub(super) fn inventory(tbs: &TbsCertificate, wanted: &[Entry]) -> Result<(), Finding> {
    let extensions = tbs.extensions.as_deref().unwrap_or_default();
    let found = extensions.iter().map(|extension| (extension.extn_id, extension.critical));
    let complete = wanted.iter().all(|entry| found.clone().any(|one| one == *entry));
    let same = complete && extensions.len() == wanted.len();
    require(same, Rule::Extensions, found.collect::<Vec<_>>())
}

/// The value of an extension that must be there once and parse.
fn value<'a, T: Decode<'a> + AssociatedOid>(tbs: &'a TbsCertificate, rule: Rule) -> Result<T, Finding> {
    match tbs.get::<T>() {
        Ok(Some((_, value))) => Ok(value),
        Ok(None) => Err(Finding::new(rule, "nothing")),
        Err(error) => Err(Finding::new(rule, error)),
    }
}

/// CA:FALSE for `None`; CA:TRUE with this path length otherwise.
pub(super) fn basic_constraints(tbs: &TbsCertificate, authority: Option<Option<u8>>) -> Result<(), Finding> {
    let found: BasicConstraints = value(tbs, Rule::BasicConstraints)?;
    let same = found.ca == authority.is_some() && found.path_len_constraint == authority.flatten();
    require(same, Rule::BasicConstraints, found)
}

/// Exactly these usages.
pub(super) fn key_usage(tbs: &TbsCertificate, wanted: impl Into<FlagSet<KeyUsages>>) -> Result<(), Finding> {
    let found: KeyUsage = value(tbs, Rule::KeyUsage)?;
    require(found.0 == wanted.into(), Rule::KeyUsage, found)
}

/// Exactly this purpose.
pub(super) fn extended_key_usage(tbs: &TbsCertificate, wanted: ObjectIdentifier) -> Result<(), Finding> {
    let found: ExtendedKeyUsage = value(tbs, Rule::ExtendedKeyUsage)?;
    require(found.0 == [wanted], Rule::ExtendedKeyUsage, found)
}

/// The subject's identifier is derived from its key, the issuer's is the issuer's.
pub(super) fn key_identifiers(tbs: &TbsCertificate, expected: &Expected<'_>) -> Result<(), Finding> {
    let subject: SubjectKeyIdentifier = value(tbs, Rule::SubjectKeyIdentifier)?;
    let derived = subject.0.as_bytes() == expected.key.key_identifier();
    require(derived, Rule::SubjectKeyIdentifier, &subject)?;
    let issuer: AuthorityKeyIdentifier = value(tbs, Rule::AuthorityKeyIdentifier)?;
    authority_key_identifier(&issuer, expected.authority_key_identifier)
}

/// A key identifier and nothing beside it.
pub(super) fn authority_key_identifier(found: &AuthorityKeyIdentifier, wanted: &[u8]) -> Result<(), Finding> {
    let same = found.key_identifier.as_ref().is_some_and(|identifier| identifier.as_bytes() == wanted)
        && found.authority_cert_issuer.is_none()
        && found.authority_cert_serial_number.is_none();
    require(same, Rule::AuthorityKeyIdentifier, found)
}

/// One URL for the list and one for the issuer, or neither for a root.
pub(super) fn publication(tbs: &TbsCertificate, published: Option<&Published>) -> Result<(), Finding> {
    let Some(published) = published else { return Ok(()) };
    let points: CrlDistributionPoints = value(tbs, Rule::DistributionPoint)?;
    let same = match points.0.as_slice() {
        [point] => {
            point.reasons.is_none()
                && point.crl_issuer.is_none()
                && point.distribution_point.as_ref().is_some_and(|name| is_url(name, &published.list))
        }
        _ => false,
    };
    require(same, Rule::DistributionPoint, &points)?;
    let access: AuthorityInfoAccessSyntax = value(tbs, Rule::IssuerAccess)?;
    let same = match access.0.as_slice() {
        [one] => one.access_method == CA_ISSUERS && uri(&one.access_location) == Some(&published.issuer),
        _ => false,
    };
    require(same, Rule::IssuerAccess, &access)
}

/// Whether a distribution point is named by exactly this URL.
pub(super) fn is_url(name: &DistributionPointName, url: &str) -> bool {
    match name {
        DistributionPointName::FullName(names) => {
            matches!(names.as_slice(), [only] if uri(only) == Some(url)) && url.starts_with("http://")
        }
        DistributionPointName::NameRelativeToCRLIssuer(_) => false,
    }
}

/// The text of a URI name.
fn uri(name: &GeneralName) -> Option<&str> {
    if let GeneralName::UniformResourceIdentifier(uri) = name { Some(uri.as_str()) } else { None }
}

/// Exactly one URI, this one.
pub(super) fn single_uri(tbs: &TbsCertificate, wanted: &str) -> Result<(), Finding> {
    let found: SubjectAltName = value(tbs, Rule::SubjectAltName)?;
    let same =
        matches!(found.0.as_slice(), [only] if uri(only) == Some(wanted)) && wanted.starts_with("spiffe://");
    require(same, Rule::SubjectAltName, found)
}

/// Exactly these DNS names, then exactly these addresses.
pub(super) fn hosts(tbs: &TbsCertificate, names: &[String], addresses: &[IpAddr]) -> Result<(), Finding> {
    let found: SubjectAltName = value(tbs, Rule::SubjectAltName)?;
    let dns = names.iter().map(|name| Host::Name(name));
    let wanted: Vec<Host<'_>> = dns.chain(addresses.iter().copied().map(Host::Address)).collect();
    let same = found.0.len() == wanted.len() && wanted.iter().zip(&found.0).all(|(host, name)| host.is(name));
    require(same && !wanted.is_empty(), Rule::SubjectAltName, found)
}

enum Host<'a> {
    Name(&'a str),
    Address(IpAddr),
}

impl Host<'_> {
    fn is(&self, name: &GeneralName) -> bool {
        match (self, name) {
            (Host::Name(wanted), GeneralName::DnsName(found)) => found.as_str() == *wanted,
            (Host::Address(IpAddr::V4(wanted)), GeneralName::IpAddress(found)) => {
                found.as_bytes() == wanted.octets()
            }
            (Host::Address(IpAddr::V6(wanted)), GeneralName::IpAddress(found)) => {
                found.as_bytes() == wanted.octets()
            }
            _ => false,
        }
    }
}
