//! SHA-256 digests, and the two ways Muster spells them: hexadecimal in JSON, base64url in enrolment strings.
//!
//! Both spellings are strict: lower-case hexadecimal only, base64url without padding and without stray bits,
//! so that one digest has one text of each kind.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::str::FromStr;

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256Digest(pub [u8; 32]);

/// A text that is no digest in the spelling asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DigestError {
    /// Not 64 lower-case hexadecimal digits.
    #[error("a SHA-256 digest is 64 lower-case hexadecimal digits")]
    NotHex,
    /// Not the unpadded base64url of 32 bytes.
    #[error("a SHA-256 digest in base64url is 43 characters without padding")]
    NotBase64Url,
}

impl Sha256Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// 64 lower-case hexadecimal digits; the same as `Display`.
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }

    /// 43 characters of base64url without padding (RFC 4648 §5).
    pub fn to_base64url(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// Reads what [`Sha256Digest::to_base64url`] writes, and nothing else.
    ///
    /// # Errors
    /// [`DigestError::NotBase64Url`] for another length, padding, a foreign alphabet or stray trailing bits.
    pub fn from_base64url(text: &str) -> Result<Self, DigestError> {
        let mut bytes = [0; 32];
        if text.len() != 43 {
            return Err(DigestError::NotBase64Url);
        }
        match URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) {
            Ok(32) => Ok(Self(bytes)),
            _ => Err(DigestError::NotBase64Url),
        }
    }
}

impl FromStr for Sha256Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let mut bytes = [0; 32];
        let lower = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !lower || hex::decode_to_slice(text, &mut bytes).is_err() {
            return Err(DigestError::NotHex);
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{self}")
    }
}

impl Serialize for Sha256Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_hex())
    }
}

impl<'de> Deserialize<'de> for Sha256Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_of_nothing_is_the_published_one() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Sha256Digest::of(b"").to_string(), empty);
        assert_eq!(empty.parse(), Ok(Sha256Digest::of(b"")));
    }

    #[test]
    fn base64url_reads_back() {
        let digest = Sha256Digest::of(b"muster");
        let text = digest.to_base64url();
        assert_eq!(text.len(), 43);
        assert_eq!(Sha256Digest::from_base64url(&text), Ok(digest));
    }

    #[test]
    fn other_spellings_are_refused() {
        let digest = Sha256Digest::of(b"muster");
        assert_eq!(digest.to_hex().to_uppercase().parse::<Sha256Digest>(), Err(DigestError::NotHex));
        assert_eq!(digest.to_hex()[..62].parse::<Sha256Digest>(), Err(DigestError::NotHex));
        assert_eq!(
            Sha256Digest::from_base64url(&format!("{}=", digest.to_base64url())),
            Err(DigestError::NotBase64Url)
        );
        // 43 characters carry 258 bits; the last two must be zero.
        let stray = format!("{}B", "A".repeat(42));
        assert_eq!(Sha256Digest::from_base64url(&stray), Err(DigestError::NotBase64Url));
    }
}
