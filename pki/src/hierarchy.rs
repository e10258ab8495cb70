//! The hierarchy: one root, an authority for devices, another for server names, and the servers' own certificates.
//!
//! ```text
//! root (P-384, 20 y, no pathLen) ─┬─▶ issuing CA      (P-256, 3 y, pathLen 0, clientAuth) ─▶ device leaves
//!                                 └─▶ server-names CA (P-256, 3 y, pathLen 0, serverAuth) ─▶ server certificates
//! ```
//!
//! Each authority beneath the root is bound to one purpose by its EKU, which verifiers apply to the whole chain: a
//! stolen issuing key cannot make a server that devices believe, nor the other way round. Everything goes through
//! the same lint and the same signing function as a leaf. The root's key may leave the machine after the ceremony,
//! so its revocation list ([`crate::crl`]) is made there too.

use std::net::IpAddr;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyUsagePurpose,
    SanType, SerialNumber,
};

use crate::authority::{CaCertificate, CaSigner};
use crate::issuer::{EndEntity, IssueError, Issued, publish};
use crate::key::PublicKey;
use crate::lint::{self, Expected, Published, Role};
use crate::name::Subject;
use crate::profile::{BACKDATE_S, IssuerUrls, MAX_LEAF_VALIDITY_S, ProfileError};
use crate::record::{Writer, distinguished_name, instant, seal};
use crate::serial::Serial;

/// Life of a root: 20 years of 365.25 days.
pub const ROOT_VALIDITY_S: i64 = 7305 * 86_400;

/// Life of an authority beneath the root: 3 years, one of them a leap year.
pub const AUTHORITY_VALIDITY_S: i64 = 1096 * 86_400;

/// The shard under which a root publishes its one revocation list.
pub const ROOT_SHARD: u8 = 0;

/// An authority that signs: its certificate, its key and where it publishes.
#[derive(Clone, Copy)]
pub struct Authority<'a> {
    /// Its certificate.
    pub certificate: &'a CaCertificate,
    /// Its key.
    pub key: &'a dyn CaSigner,
    /// Where it publishes its revocation lists and its certificate.
    pub urls: &'a IssuerUrls,
}

/// Founds a root: self-signed by a P-384 key, 20 years, no path length, so that it may one day cross-sign its
/// successor.
///
/// # Errors
/// [`IssueError::Lint`] for another kind of key, [`IssueError::Sign`] when the key fails.
pub fn found_root(
    key: &dyn CaSigner,
    subject: &Subject,
    serial: Serial,
    now_s: i64,
) -> Result<CaCertificate, IssueError> {
    let public = PublicKey::parse(key.spki_der()).map_err(IssueError::Key)?;
    let subject = subject.to_der();
    let writer = Writer::new(&subject, public, &public.key_identifier())?;
    let validity = (now_s.saturating_sub(BACKDATE_S), now_s.saturating_add(ROOT_VALIDITY_S));
    let params = authority_params(public, &subject, serial, validity)?;
    let bytes = writer.certificate(&params, public)?;
    let expected = Expected {
        role: Role::Root,
        serial,
        signed_by: public.algorithm(),
        issuer: &subject,
        authority_key_identifier: &public.key_identifier(),
        validity,
        subject: &subject,
        key: public,
        published: None,
    };
    let tbs = lint::certificate(bytes, &expected)?;
    CaCertificate::parse(&seal(&tbs, key.spki_der(), key)?)
}

/// Founds the authority for device leaves beneath `root`: 3 years, pathLen 0, clientAuth only. `spki_der` is its
/// P-256 key.
///
/// # Errors
/// [`IssueError::Key`] and [`IssueError::Lint`] for another kind of key, [`IssueError::IssuerNotValid`] when the root
/// is not valid now, [`IssueError::OtherKey`] and [`IssueError::Sign`] when the root's key does not sign.
pub fn found_issuing(
    root: &Authority<'_>,
    spki_der: &[u8],
    subject: &Subject,
    serial: Serial,
    now_s: i64,
) -> Result<CaCertificate, IssueError> {
    let purpose = ExtendedKeyUsagePurpose::ClientAuth;
    beneath(root, &Founding { role: Role::Issuing, purpose, spki_der, subject, serial }, now_s)
}

/// Founds the authority for server names beneath `root`: 3 years, pathLen 0, serverAuth only. `spki_der` is its
/// P-256 key.
///
/// # Errors
/// As [`found_issuing`].
pub fn found_server_names(
    root: &Authority<'_>,
    spki_der: &[u8],
    subject: &Subject,
    serial: Serial,
    now_s: i64,
) -> Result<CaCertificate, IssueError> {
    let purpose = ExtendedKeyUsagePurpose::ServerAuth;
    beneath(root, &Founding { role: Role::ServerNames, purpose, spki_der, subject, serial }, now_s)
}

struct Founding<'a> {
    role: Role<'a>,
    purpose: ExtendedKeyUsagePurpose,
    spki_der: &'a [u8],
    subject: &'a Subject,
    serial: Serial,
}

fn beneath(root: &Authority<'_>, founding: &Founding<'_>, now_s: i64) -> Result<CaCertificate, IssueError> {
    let key = PublicKey::parse(founding.spki_der).map_err(IssueError::Key)?;
    let subject = founding.subject.to_der();
    let ca = root.certificate;
    let (not_before_s, not_after_s) = (ca.not_before_s(), ca.not_after_s());
    if !(not_before_s..not_after_s).contains(&now_s) {
        return Err(IssueError::IssuerNotValid { not_before_s, not_after_s });
    }
    let end_s = now_s.saturating_add(AUTHORITY_VALIDITY_S);
    let validity = (now_s.saturating_sub(BACKDATE_S).max(not_before_s), end_s.min(not_after_s));
    let published = Published { list: root.urls.crl(ROOT_SHARD), issuer: root.urls.ca() };
    let mut params = authority_params(key, &subject, founding.serial, validity)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.extended_key_usages = vec![founding.purpose.clone()];
    publish(&mut params, &published);
    let bytes = ca.writer().certificate(&params, key)?;
    let expected = Expected {
        role: founding.role,
        serial: founding.serial,
        signed_by: ca.writer().algorithm(),
        issuer: ca.subject_der(),
        authority_key_identifier: ca.key_identifier(),
        validity,
        subject: &subject,
        key,
        published: Some(&published),
    };
    let tbs = lint::certificate(bytes, &expected)?;
    CaCertificate::parse(&seal(&tbs, ca.spki_der(), root.key)?)
}

/// What all authorities have in common; written for a root, tightened for the others.
fn authority_params(
    key: PublicKey<'_>,
    subject: &[u8],
    serial: Serial,
    validity: (i64, i64),
) -> Result<CertificateParams, IssueError> {
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
    params.not_before = instant(validity.0)?;
    params.not_after = instant(validity.1)?;
    params.distinguished_name = distinguished_name(subject).unwrap_or_default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.key_identifier_method = KeyIdMethod::PreSpecified(key.key_identifier().to_vec());
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// What a server certificate says.
#[derive(Debug, Clone, Copy)]
pub struct ServerTerms<'a> {
    /// DNS names in lower case; together with `addresses` at least one.
    pub names: &'a [String],
    /// IP addresses.
    pub addresses: &'a [IpAddr],
    /// Life after issuance in seconds, 1..=[`MAX_LEAF_VALIDITY_S`].
    pub validity_s: i64,
    /// Its serial number, fresh.
    pub serial: Serial,
}

/// Issues a certificate for a listener's key, by the authority for server names. It is backdated five minutes.
///
/// # Errors
/// [`IssueError::AlternativeName`] when a name is no host name or there is none, [`IssueError::Profile`] when the
/// validity is out of bounds; otherwise as [`crate::issuer::prepare`] and [`crate::issuer::Prepared::sign`].
pub fn issue_server_certificate(
    authority: &Authority<'_>,
    spki_der: &[u8],
    terms: &ServerTerms<'_>,
    now_s: i64,
) -> Result<Issued, IssueError> {
    let ServerTerms { names, addresses, validity_s, serial } = *terms;
    if !(1..=MAX_LEAF_VALIDITY_S).contains(&validity_s) {
        return Err(ProfileError::Validity { validity_s, backdate_s: BACKDATE_S }.into());
    }
    let mut alternatives = names.iter().map(|name| dns_name(name)).collect::<Result<Vec<_>, _>>()?;
    alternatives.extend(addresses.iter().copied().map(SanType::IpAddress));
    if alternatives.is_empty() {
        return Err(IssueError::AlternativeName { name: String::new() });
    }
    let server = EndEntity {
        serial,
        validity: (now_s.saturating_sub(BACKDATE_S), now_s.saturating_add(validity_s)),
        // Names are in the SAN, where RFC 9525 §2 wants them; a common name of 64 characters could not hold each.
        subject: Subject::new("Muster server")?.to_der(),
        key: PublicKey::parse(spki_der).map_err(IssueError::Key)?,
        urls: authority.urls,
        role: Role::Server { names, addresses },
    };
    let prepared =
        server.prepare(alternatives, ExtendedKeyUsagePurpose::ServerAuth, authority.certificate, now_s)?;
    prepared.sign(authority.key)
}

/// A host name in the preferred syntax (RFC 1123 §2.1), lower case, without a final dot.
fn dns_name(name: &str) -> Result<SanType, IssueError> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
    };
    let refused = || IssueError::AlternativeName { name: name.to_owned() };
    if name.len() > 253 || !name.split('.').all(label) {
        return Err(refused());
    }
    Ia5String::try_from(name).map(SanType::DnsName).map_err(|_| refused())
}
