//! What a leaf may be: the part of a certificate profile that varies between kinds of device.
//!
//! Everything else about a leaf is fixed in [`crate::issuer`] and checked line by line in [`crate::lint`]: critical
//! basicConstraints CA:FALSE, critical keyUsage digitalSignature, EKU clientAuth only, key identifiers, one revocation
//! list, one issuer URL, exactly one URI as subject alternative name.

use thiserror::Error;

use crate::key::Algorithm;

/// The longest life of a leaf in seconds: 398 days.
pub const MAX_LEAF_VALIDITY_S: i64 = 398 * 86_400;

/// How far a leaf is backdated unless a profile says otherwise: five minutes, for clocks that run late.
pub const BACKDATE_S: i64 = 300;

/// What varies between kinds of device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafProfile {
    /// Kinds of key that are accepted; RSA entries name the least size.
    pub algorithms: Vec<Algorithm>,
    /// Life after issuance in seconds, 1..=[`MAX_LEAF_VALIDITY_S`].
    pub validity_s: i64,
    /// How far before issuance the certificate begins, in seconds, 0..=86 400.
    pub backdate_s: i64,
}

/// Who a leaf names. All of it comes from the record, never from the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafNames {
    /// The only subject alternative name: `spiffe://<trust domain>/device/<uuid>`, or an observer's.
    pub uri: String,
    /// The subject's common name: the device's id, or the observer's name.
    pub common_name: String,
    /// The subject's serialNumber: the hardware serial, a PrintableString of at most 64 characters.
    pub serial_number: Option<String>,
}

/// Where an issuer publishes its certificate and its revocation lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerUrls {
    /// Scheme, host and port of the status listener, without a final slash: `http://ca.example.org:8080`.
    pub base: String,
    /// The issuer's name in a path: letters, digits, `-`, `_` and `.`.
    pub issuer: String,
}

/// Why a profile or its URLs cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// No key would be accepted, or RSA below 2048 bits would.
    #[error("the profile's list of algorithms is empty or allows RSA below 2048 bits")]
    Algorithms,
    /// A life outside 1 s to 398 d, or backdating outside 0 to 1 d.
    #[error("the validity of {validity_s} s, backdated {backdate_s} s, is out of bounds")]
    Validity {
        /// As in the profile.
        validity_s: i64,
        /// As in the profile.
        backdate_s: i64,
    },
    /// Not a plain `http://` base with a clean issuer name.
    #[error("the status URL {url:?} is not usable")]
    Url {
        /// The URL in question.
        url: String,
    },
}

impl LeafProfile {
    /// P-256 for `validity_s` seconds, backdated five minutes: what most profiles are.
    #[must_use]
    pub fn p256(validity_s: i64) -> Self {
        Self { algorithms: vec![Algorithm::P256], validity_s, backdate_s: BACKDATE_S }
    }

    /// Whether the numbers are within bounds.
    ///
    /// # Errors
    /// [`ProfileError::Algorithms`] or [`ProfileError::Validity`].
    pub fn check(&self) -> Result<(), ProfileError> {
        let weak = |algorithm: &Algorithm| matches!(algorithm, Algorithm::Rsa { bits } if *bits < 2048);
        if self.algorithms.is_empty() || self.algorithms.iter().any(weak) {
            return Err(ProfileError::Algorithms);
        }
        let (validity_s, backdate_s) = (self.validity_s, self.backdate_s);
        if (1..=MAX_LEAF_VALIDITY_S).contains(&validity_s) && (0..=86_400).contains(&backdate_s) {
            Ok(())
        } else {
            Err(ProfileError::Validity { validity_s, backdate_s })
        }
    }
}

impl IssuerUrls {
    /// URLs for `issuer` beneath `base`.
    ///
    /// # Errors
    /// [`ProfileError::Url`] unless `base` is `http://` with an authority of plain ASCII and no final slash, and
    /// `issuer` one clean path segment.
    pub fn new(base: &str, issuer: &str) -> Result<Self, ProfileError> {
        let refused = |url: &str| Err(ProfileError::Url { url: url.to_owned() });
        // RFC 5280 §8: a revocation list is signed; https would need another one to check, in a circle.
        let Some(authority) = base.strip_prefix("http://") else { return refused(base) };
        let host = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]_/".contains(&byte);
        if authority.is_empty() || base.ends_with('/') || !authority.bytes().all(host) {
            return refused(base);
        }
        let segment = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if issuer.is_empty() || issuer.starts_with('.') || !issuer.bytes().all(segment) {
            return refused(issuer);
        }
        Ok(Self { base: base.to_owned(), issuer: issuer.to_owned() })
    }

    /// The revocation list of one shard: `<base>/crl/<issuer>/<two hexadecimal digits>.crl`.
    #[must_use]
    pub fn crl(&self, shard: u8) -> String {
        format!("{}/crl/{}/{shard:02x}.crl", self.base, self.issuer)
    }

    /// The issuer's own certificate: `<base>/ca/<issuer>.cer`.
    #[must_use]
    pub fn ca(&self) -> String {
        format!("{}/ca/{}.cer", self.base, self.issuer)
    }
}

/// The shard that a file name such as `0a.crl` means; only the spelling that [`IssuerUrls::crl`] uses.
#[must_use]
pub fn parse_shard(file: &str) -> Option<u8> {
    let digits = file.strip_suffix(".crl")?;
    let lower = digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    if digits.len() == 2 && lower { u8::from_str_radix(digits, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_has_one_spelling_that_reads_back() {
        let urls = IssuerUrls::new("http://ca.example.org:8080", "issuing-1").unwrap();
        assert_eq!(urls.crl(10), "http://ca.example.org:8080/crl/issuing-1/0a.crl");
        assert_eq!(urls.ca(), "http://ca.example.org:8080/ca/issuing-1.cer");
        for shard in 0..=255 {
            assert_eq!(parse_shard(urls.crl(shard).rsplit_once('/').unwrap().1), Some(shard));
        }
        for file in ["0A.crl", "a.crl", "00a.crl", "0a", "+a.crl", "é.crl"] {
            assert_eq!(parse_shard(file), None, "{file}");
        }
    }

    #[test]
    fn urls_that_would_mislead_a_validator_are_refused() {
        for base in ["https://ca", "http://", "http://ca/", "http://c a", "http://ca\0", "ca"] {
            assert!(IssuerUrls::new(base, "i").is_err(), "{base:?}");
        }
        for issuer in ["", "..", "a/b", "a b"] {
            assert!(IssuerUrls::new("http://ca", issuer).is_err(), "{issuer:?}");
        }
    }

    #[test]
    fn bounds_hold_at_their_last_second() {
        assert_eq!(LeafProfile::p256(MAX_LEAF_VALIDITY_S).check(), Ok(()));
        assert!(LeafProfile::p256(MAX_LEAF_VALIDITY_S + 1).check().is_err());
        assert!(LeafProfile::p256(0).check().is_err());
        let weak = LeafProfile { algorithms: vec![Algorithm::Rsa { bits: 1024 }], ..LeafProfile::p256(1) };
        assert_eq!(weak.check(), Err(ProfileError::Algorithms));
    }
}
