//! The hierarchy: one root, an issuing authority for devices, another for server names, and the servers' leaves.
//!
//! ```text
//! root (P-384, 20 y, no pathLen) ─┬─▶ issuing CA (P-256, 3 y, pathLen 0) ─▶ device leaves
//!                                 └─▶ server-names CA (P-256, 3 y, pathLen 0) ─▶ server certificates
//! ```

use std::net::IpAddr;

use crate::issuer::{CaCertificate, CaSigner, IssueError, Issued};
use crate::name::Subject;
use crate::profile::IssuerUrls;
use crate::serial::Serial;

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

/// Founds a root: self-signed, 20 years, no path length limit, so that it may one day cross-sign its successor.
///
/// # Errors
/// [`IssueError`] when the lint objects or the key fails.
pub fn found_root(_key: &dyn CaSigner, _subject: &Subject, _serial: Serial, _now_s: i64) -> Result<CaCertificate, IssueError> {
    unimplemented!()
}

/// Founds an issuing authority for devices beneath `root`: 3 years, pathLen 0, clientAuth only.
///
/// # Errors
/// [`IssueError`] when the lint objects or the root's key fails.
pub fn found_issuing(
    _root: &Authority<'_>,
    _spki_der: &[u8],
    _subject: &Subject,
    _serial: Serial,
    _now_s: i64,
) -> Result<CaCertificate, IssueError> {
    unimplemented!()
}

/// Founds the authority for server names beneath `root`: 3 years, pathLen 0, serverAuth only.
///
/// # Errors
/// [`IssueError`] when the lint objects or the root's key fails.
pub fn found_server_names(
    _root: &Authority<'_>,
    _spki_der: &[u8],
    _subject: &Subject,
    _serial: Serial,
    _now_s: i64,
) -> Result<CaCertificate, IssueError> {
    unimplemented!()
}

/// What a server certificate says.
#[derive(Debug, Clone)]
pub struct ServerTerms<'a> {
    /// DNS names, at least one name or address in all.
    pub names: &'a [String],
    /// IP addresses.
    pub addresses: &'a [IpAddr],
    /// Life after issuance in seconds.
    pub validity_s: i64,
    /// Its serial number, fresh.
    pub serial: Serial,
}

/// Issues a certificate for a listener's key.
///
/// # Errors
/// [`IssueError`] when a name is unusable, the lint objects or the key fails.
pub fn issue_server_certificate(
    _authority: &Authority<'_>,
    _spki_der: &[u8],
    _terms: &ServerTerms<'_>,
    _now_s: i64,
) -> Result<Issued, IssueError> {
    unimplemented!()
}
