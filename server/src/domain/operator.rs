//! Operators: who may call the REST API. Being an operator makes nobody an approver.

use muster_wire::digest::Sha256Digest;
use muster_wire::id::OperatorId;
use serde::{Deserialize, Serialize};
use std::fmt;
use zeroize::Zeroizing;

/// An operator as the store keeps it, under the digest of its credential's secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operator {
    /// Version of this record's form.
    pub v: u8,
    /// The operator's id.
    pub id: OperatorId,
    /// The name that audit entries carry.
    pub name: String,
    /// Unix seconds.
    pub created_at: i64,
    /// Who added it; empty for the founding.
    pub created_by: String,
    /// When it was removed, unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_at: Option<i64>,
}

/// Longest name of an operator, in bytes.
pub const NAME_MAX: usize = 64;

/// Whether `name` may name an operator: 1 to [`NAME_MAX`] of `a-z`, `0-9`, `.`, `_`, `-`, `@`, beginning with a
/// letter or digit. It travels in audit entries and paths, so nothing in it ever needs escaping.
pub fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= NAME_MAX
        && name.starts_with(plain)
        && name.chars().all(|c| plain(c) || matches!(c, '.' | '_' | '-' | '@'))
}

/// The secret of a REST credential: `musterop_` and 32 random bytes in URL-safe base64.
///
/// It is shown once, stored as a digest, and never printed by `Debug`.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

/// What every operator secret begins with, for secret scanners.
pub const SECRET_PREFIX: &str = "musterop_";

impl Secret {
    /// The secret made of 32 bytes of `entropy`.
    pub fn from_entropy(entropy: &[u8; 32]) -> Self {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(entropy);
        Self(Zeroizing::new(format!("{SECRET_PREFIX}{text}")))
    }

    /// The secret in `text`, if it has the form of one.
    pub fn parse(text: &str) -> Option<Self> {
        let body = text.strip_prefix(SECRET_PREFIX)?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        (body.len() == 43 && body.bytes().all(plain)).then(|| Self(Zeroizing::new(text.to_owned())))
    }

    /// The text, to be written to a credential file or sent in an `Authorization` header.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Under which digest the operator lies.
    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(self.0.as_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_back_and_never_shown() {
        let secret = Secret::from_entropy(&[7; 32]);
        assert_eq!(Secret::parse(secret.reveal()).unwrap().digest(), secret.digest());
        assert_eq!(format!("{secret:?}"), "Secret(…)");
    }

    #[test]
    fn what_is_no_secret_is_not_looked_up() {
        for text in ["", "musterop_", "musterop_short", "muster_0123456789012345678901234567890123456789012"]
        {
            assert!(Secret::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn names_need_no_escaping() {
        assert!(is_name("alice@example.org"));
        for name in ["", "-a", "Alice", "a b", "a/b", "a\n", "é"] {
            assert!(!is_name(name), "{name:?}");
        }
    }
}
