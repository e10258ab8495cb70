//! Revocation lists, in 256 shards from the first certificate (RFC 5280 §5).

use crate::hierarchy::Authority;
use crate::issuer::IssueError;
use crate::serial::Serial;

/// How long a list may be relied on: 7 days.
pub const NEXT_UPDATE_S: i64 = 7 * 86_400;

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
    /// The authorities that a root has signed; published as shard 0.
    Authorities,
}

/// Writes, lints and signs one list. `number` must be greater than in any earlier list of this scope; `entries` may
/// come in any order and may be empty. The list is good from `now_s` for [`NEXT_UPDATE_S`].
///
/// # Errors
/// [`IssueError`] when an entry is outside the scope, the lint objects or the key fails.
pub fn sign_list(
    _authority: &Authority<'_>,
    _scope: Scope,
    _entries: &[Revoked],
    _number: u64,
    _now_s: i64,
) -> Result<Vec<u8>, IssueError> {
    unimplemented!()
}
