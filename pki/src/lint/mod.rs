//! A second opinion on every byte before it is signed.
//!
//! rcgen writes, x509-cert reads. The lint compares what stands in the to-be-signed bytes with what was ordered, one
//! [`Rule`] for each line of the profile in pki.md, and only here can a `Linted` come into being, which is the only
//! thing that a key will sign. It trusts neither the writer nor the caller's idea of a sensible profile.

mod authority;
mod extensions;
mod fields;
mod leaf;
mod list;
mod server;

use std::fmt;
use std::net::IpAddr;

use der::Decode as _;
use thiserror::Error;
use x509_cert::TbsCertificate;

use crate::key::{Algorithm, PublicKey};
use crate::serial::Serial;
use crate::walk;

pub(crate) use list::{ExpectedList, list};

/// A line of the profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// Strict DER that both parsers read to the last byte.
    Encoding,
    /// Version 3 for certificates, 2 for lists; no unique identifiers.
    Version,
    /// Sixteen bytes, positive, as ordered.
    Serial,
    /// ecdsa-with-SHA256 for P-256, ecdsa-with-SHA384 for P-384.
    SignatureAlgorithm,
    /// The issuer's subject, byte for byte.
    Issuer,
    /// As ordered, in the right form of date, within the role's bounds.
    Validity,
    /// As ordered, byte for byte.
    Subject,
    /// The raw key that was proven, byte for byte.
    PublicKey,
    /// Exactly the extensions of the role, each critical or not as the profile says.
    Extensions,
    /// CA:FALSE for leaves; CA:TRUE with the role's path length for authorities.
    BasicConstraints,
    /// digitalSignature for leaves; keyCertSign and cRLSign for authorities.
    KeyUsage,
    /// clientAuth for devices, serverAuth for servers; authorities beneath the root are bound to one of them.
    ExtendedKeyUsage,
    /// Exactly one `spiffe://` URI for a device; exactly the ordered names and addresses for a server.
    SubjectAltName,
    /// RFC 7093 method 1 over the subject's key.
    SubjectKeyIdentifier,
    /// The issuer's key identifier and nothing else.
    AuthorityKeyIdentifier,
    /// One distribution point with the one URL of the shard.
    DistributionPoint,
    /// caIssuers with the issuer's URL.
    IssuerAccess,
    /// The number ordered, at least 1.
    ListNumber,
    /// Exactly the entries ordered, each within the scope, reasons as RFC 5280 §5.3.1 wants them.
    Entries,
}

/// A rule that what was written does not keep. Nothing is signed then.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{rule:?}: found {found}")]
pub struct Finding {
    /// The rule.
    pub rule: Rule,
    /// What stands there instead.
    pub found: String,
}

impl Finding {
    fn new(rule: Rule, found: impl fmt::Debug) -> Self {
        Self { rule, found: format!("{found:?}") }
    }
}

/// `Ok` when `good`, otherwise the rule with what was found.
fn require(good: bool, rule: Rule, found: impl fmt::Debug) -> Result<(), Finding> {
    if good { Ok(()) } else { Err(Finding::new(rule, found)) }
}

/// To-be-signed bytes that passed.
#[derive(Debug)]
pub(crate) struct Linted {
    bytes: Vec<u8>,
    signature_algorithm: Vec<u8>,
}

impl Linted {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The AlgorithmIdentifier inside, which the outer one must repeat (RFC 5280 §4.1.1.2).
    pub(crate) fn signature_algorithm(&self) -> &[u8] {
        &self.signature_algorithm
    }
}

/// What kind of certificate was ordered.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Role<'a> {
    /// A device's or an observer's leaf.
    Device { uri: &'a str },
    /// A listener's certificate.
    Server { names: &'a [String], addresses: &'a [IpAddr] },
    /// The root.
    Root,
    /// The authority for device leaves.
    Issuing,
    /// The authority for server names.
    ServerNames,
}

/// Where revocation list and issuer are published.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    pub(crate) list: String,
    pub(crate) issuer: String,
}

/// Everything that was ordered.
#[derive(Debug)]
pub(crate) struct Expected<'a> {
    pub(crate) role: Role<'a>,
    pub(crate) serial: Serial,
    pub(crate) signed_by: Algorithm,
    pub(crate) issuer: &'a [u8],
    pub(crate) authority_key_identifier: &'a [u8],
    pub(crate) validity: (i64, i64),
    pub(crate) subject: &'a [u8],
    pub(crate) key: PublicKey<'a>,
    pub(crate) published: Option<&'a Published>,
}

/// Lints the to-be-signed bytes of a certificate.
///
/// # Errors
/// The first [`Finding`], in the order of the fields.
pub(crate) fn certificate(bytes: Vec<u8>, expected: &Expected<'_>) -> Result<Linted, Finding> {
    walk::check(&bytes).map_err(|error| Finding::new(Rule::Encoding, error))?;
    let tbs = TbsCertificate::from_der(&bytes).map_err(|error| Finding::new(Rule::Encoding, error))?;
    fields::check(&tbs, expected)?;
    extensions::key_identifiers(&tbs, expected)?;
    extensions::publication(&tbs, expected.published)?;
    match expected.role {
        Role::Device { uri } => leaf::check(&tbs, expected, uri)?,
        Role::Server { names, addresses } => server::check(&tbs, expected, names, addresses)?,
        Role::Root | Role::Issuing | Role::ServerNames => authority::check(&tbs, expected)?,
    }
    Ok(Linted { bytes, signature_algorithm: fields::signature_identifier(expected.signed_by) })
}

#[cfg(test)]
mod tests;
