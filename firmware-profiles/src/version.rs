//! The version of a profile is the digest of what it says.

use serde::Serialize;
use sha2::{Digest, Sha256};
use std::fmt;

/// SHA-256 over the JSON form of a profile or of what it resolved to: fields in their declared order, maps sorted
/// by key, no spaces. Text form: 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version([u8; 32]);

impl Version {
    /// The digest's bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Digests `content`, whose types must serialise without failing: strings, numbers, lists and string maps.
    pub(crate) fn of<T: Serialize>(content: &T) -> Self {
        #[expect(
            clippy::expect_used,
            reason = "types of this crate are strings, numbers, lists and string maps"
        )]
        let json = serde_json::to_vec(content).expect("profiles serialise");
        Self(Sha256::digest(json).into())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Version({self})")
    }
}

impl Serialize for Version {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
