//! Keys: which algorithms Muster knows, what a public key says about itself, and the private key of an end entity.
//!
//! [`PublicKey::parse`] reads a SubjectPublicKeyInfo and takes only named curves, uncompressed points and plain RSA;
//! what it accepts it would also write the same way, byte for byte, so that a raw key can travel from a request
//! into a certificate. It judges form, not policy: which algorithms a profile accepts is decided at intake.

use std::fmt;

use thiserror::Error;

use crate::tlv::{self, DerError, Reader};

#[cfg(any(feature = "ring", feature = "issue"))]
pub use pair::DeviceKey;

pub(crate) const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
pub(crate) const SECP256R1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
pub(crate) const SECP384R1: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
pub(crate) const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
pub(crate) const RSA_ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

/// A kind of key. In an accept list, `Rsa { bits }` means that size or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// ECDSA on P-256: the default everywhere.
    P256,
    /// ECDSA on P-384: the root, and leaves where a profile allows it.
    P384,
    /// Ed25519, where a profile allows it.
    Ed25519,
    /// RSA, for legacy EST profiles only.
    Rsa {
        /// Length of the modulus in bits; at least 2048.
        bits: u32,
    },
}

impl Algorithm {
    /// Whether a key of kind `offered` satisfies this entry of an accept list.
    #[must_use]
    pub fn admits(self, offered: Self) -> bool {
        match (self, offered) {
            (Self::Rsa { bits: least }, Self::Rsa { bits }) => bits >= least,
            (entry, offered) => entry == offered,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::P256 => f.write_str("P-256"),
            Self::P384 => f.write_str("P-384"),
            Self::Ed25519 => f.write_str("Ed25519"),
            Self::Rsa { bits } => write!(f, "RSA-{bits}"),
        }
    }
}

/// Why a key cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The bytes are not the structure they should be.
    #[error("reading the key failed")]
    Malformed(#[from] DerError),
    /// The algorithm identifier is none of ours.
    #[error("the key's algorithm is not supported")]
    Algorithm,
    /// The curve is spelled out, or is named and not supported.
    #[error("only the named curves P-256 and P-384 are supported")]
    Curve,
    /// An RSA modulus outside 2048..=8192 bits, or an exponent below 65537 or even.
    #[error("the RSA key of {bits} bits is not acceptable")]
    Rsa {
        /// Length of the modulus in bits.
        bits: u32,
    },
    /// A compressed point, or one of the wrong length.
    #[error("the public point is not uncompressed or has the wrong length")]
    Point,
    /// An Ed25519 key of small order, for which signatures can be made without a private key.
    #[error("the Ed25519 key has small order")]
    SmallOrder,
    /// The private key file is not one PKCS#8 key in PEM.
    #[error("not a PKCS#8 private key in PEM")]
    Pem,
    /// The private key is unusable for its algorithm.
    #[error("the private key was rejected")]
    Rejected,
    /// The provider could not make a key of this kind.
    #[error("cannot generate a key of kind {0}")]
    Generate(Algorithm),
    /// The provider could not sign.
    #[error("signing failed")]
    Sign,
}

/// A public key in X.509 form, its parts borrowed from the DER.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey<'a> {
    algorithm: Algorithm,
    bits: &'a [u8],
    spki: &'a [u8],
}

impl<'a> PublicKey<'a> {
    /// Reads a DER SubjectPublicKeyInfo (RFC 5280 §4.1.2.7, RFC 5480, RFC 8410, RFC 3279).
    ///
    /// # Errors
    /// [`KeyError`] for anything but a named curve with an uncompressed point, Ed25519 of large order, or RSA of
    /// 2048 to 8192 bits.
    pub fn parse(spki: &'a [u8]) -> Result<Self, KeyError> {
        let mut info = tlv::single(spki, tlv::SEQUENCE)?.reader();
        let mut identifier = info.expect(tlv::SEQUENCE)?.reader();
        let key = info.expect(tlv::BIT_STRING)?;
        info.finish()?;
        let bits = tlv::whole_bits(&key)?;
        let oid = identifier.expect(tlv::OID)?.body;
        let algorithm = match oid {
            EC_PUBLIC_KEY => elliptic(identifier, bits)?,
            ED25519 => edwards(identifier, bits)?,
            RSA_ENCRYPTION => rsa(identifier, bits)?,
            _ => return Err(KeyError::Algorithm),
        };
        Ok(Self { algorithm, bits, spki })
    }

    /// The kind of key.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The contents of the BIT STRING: a point, or a DER RSAPublicKey.
    #[must_use]
    pub const fn bits(&self) -> &'a [u8] {
        self.bits
    }

    /// The SubjectPublicKeyInfo exactly as it was read.
    #[must_use]
    pub const fn spki_der(&self) -> &'a [u8] {
        self.spki
    }

    /// RFC 7093 §2 method 1: the leftmost 160 bits of the SHA-256 of the BIT STRING's contents.
    #[must_use]
    pub fn key_identifier(&self) -> [u8; 20] {
        key_identifier(self.bits)
    }
}

/// RFC 7093 §2 method 1 over the contents of a BIT STRING.
pub(crate) fn key_identifier(bits: &[u8]) -> [u8; 20] {
    let digest = sha256(bits);
    let mut identifier = [0; 20];
    identifier.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    identifier
}

/// SHA-256 of some bytes.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).into()
}

fn elliptic(mut parameters: Reader<'_>, point: &[u8]) -> Result<Algorithm, KeyError> {
    // RFC 5480 §2.1.1: implicitCurve and specifiedCurve MUST NOT be used; only namedCurve is an OID.
    let curve = parameters.expect(tlv::OID).map_err(|_| KeyError::Curve)?;
    parameters.finish()?;
    let (algorithm, length) = match curve.body {
        SECP256R1 => (Algorithm::P256, 65),
        SECP384R1 => (Algorithm::P384, 97),
        _ => return Err(KeyError::Curve),
    };
    if point.len() == length && point.first() == Some(&0x04) { Ok(algorithm) } else { Err(KeyError::Point) }
}

fn edwards(parameters: Reader<'_>, point: &[u8]) -> Result<Algorithm, KeyError> {
    // RFC 8410 §3: the parameters MUST be absent.
    parameters.finish()?;
    let point: &[u8; 32] = point.try_into().map_err(|_| KeyError::Point)?;
    if has_small_order(point) { Err(KeyError::SmallOrder) } else { Ok(Algorithm::Ed25519) }
}

fn rsa(mut parameters: Reader<'_>, key: &[u8]) -> Result<Algorithm, KeyError> {
    // RFC 3279 §2.3.1: the parameters field MUST have ASN.1 type NULL.
    let null = parameters.any()?;
    parameters.finish()?;
    if null.whole != [0x05, 0x00] {
        return Err(KeyError::Malformed(DerError::Value));
    }
    let mut fields = tlv::single(key, tlv::SEQUENCE)?.reader();
    let modulus = fields.expect(tlv::INTEGER)?;
    let exponent = fields.expect(tlv::INTEGER)?;
    fields.finish()?;
    let bits = bit_length(tlv::positive(&modulus)?);
    let exponent = tlv::positive(&exponent)?;
    // FIPS 186-5 §5.4: 2^16 < e < 2^256, odd; and a modulus is odd.
    let odd = |number: &[u8]| number.last().is_some_and(|byte| byte & 1 == 1);
    let good = (2048..=8192).contains(&bits)
        && odd(modulus.body)
        && odd(exponent)
        && (17..=256).contains(&bit_length(exponent));
    if good { Ok(Algorithm::Rsa { bits }) } else { Err(KeyError::Rsa { bits }) }
}

/// The number of significant bits; saturates, which only makes an absurd key more absurd.
fn bit_length(magnitude: &[u8]) -> u32 {
    let Some(first) = magnitude.first() else { return 0 };
    let bytes = u32::try_from(magnitude.len()).unwrap_or(u32::MAX / 8);
    bytes.saturating_mul(8).saturating_sub(first.leading_zeros())
}

/// Whether the point is one of the encodings, canonical or not, of the eight points of small order.
fn has_small_order(point: &[u8; 32]) -> bool {
    // The y coordinates of the points of order 8, little-endian, without the sign bit.
    const ORDER_8: [[u8; 32]; 2] = [
        [
            0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
            0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
        ],
        [
            0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
            0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
        ],
    ];
    let mut y = *point;
    y[31] &= 0x7f;
    let middle = |fill: u8| y.iter().skip(1).take(30).all(|byte| *byte == fill);
    // y = 0, 1 (orders 4 and 1), p − 1 (order 2), and p, p + 1, which are 0 and 1 again.
    let near_zero = y[0] <= 1 && middle(0) && y[31] == 0;
    let near_p = (0xec..=0xee).contains(&y[0]) && middle(0xff) && y[31] == 0x7f;
    near_zero || near_p || ORDER_8.contains(&y)
}

/// A SubjectPublicKeyInfo around a raw point.
#[cfg(any(feature = "ring", feature = "issue"))]
pub(crate) fn encode_spki(algorithm: Algorithm, bits: &[u8]) -> Vec<u8> {
    let identifier = match algorithm {
        Algorithm::P256 => [tlv::encode(tlv::OID, EC_PUBLIC_KEY), tlv::encode(tlv::OID, SECP256R1)].concat(),
        Algorithm::P384 => [tlv::encode(tlv::OID, EC_PUBLIC_KEY), tlv::encode(tlv::OID, SECP384R1)].concat(),
        Algorithm::Ed25519 => tlv::encode(tlv::OID, ED25519),
        Algorithm::Rsa { .. } => [&tlv::encode(tlv::OID, RSA_ENCRYPTION)[..], &[0x05, 0x00]].concat(),
    };
    tlv::encode_all(tlv::SEQUENCE, &[&tlv::encode(tlv::SEQUENCE, &identifier), &tlv::bit_string(bits)])
}

#[cfg(any(feature = "ring", feature = "issue"))]
mod pair;

#[cfg(test)]
mod tests {
    use super::*;

    fn ec(curve: &[u8], point: &[u8]) -> Vec<u8> {
        let identifier = [tlv::encode(tlv::OID, EC_PUBLIC_KEY), curve.to_vec()].concat();
        tlv::encode_all(tlv::SEQUENCE, &[&tlv::encode(tlv::SEQUENCE, &identifier), &tlv::bit_string(point)])
    }

    fn ed(point: &[u8; 32]) -> Vec<u8> {
        let identifier = tlv::encode(tlv::SEQUENCE, &tlv::encode(tlv::OID, ED25519));
        tlv::encode_all(tlv::SEQUENCE, &[&identifier, &tlv::bit_string(point)])
    }

    fn rsa_key(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
        let key = tlv::encode_all(tlv::SEQUENCE, &[&tlv::unsigned(modulus), &tlv::unsigned(exponent)]);
        let identifier = [&tlv::encode(tlv::OID, RSA_ENCRYPTION)[..], &[5, 0]].concat();
        tlv::encode_all(tlv::SEQUENCE, &[&tlv::encode(tlv::SEQUENCE, &identifier), &tlv::bit_string(&key)])
    }

    #[test]
    fn spelled_out_curves_and_compressed_points_are_refused() {
        let mut point = [0x11; 65];
        point[0] = 4;
        let named = tlv::encode(tlv::OID, SECP256R1);
        assert_eq!(PublicKey::parse(&ec(&named, &point)).unwrap().algorithm(), Algorithm::P256);
        assert_eq!(
            PublicKey::parse(&ec(&tlv::encode(tlv::SEQUENCE, &[2, 1, 1]), &point)),
            Err(KeyError::Curve)
        );
        assert_eq!(PublicKey::parse(&ec(&[5, 0], &point)), Err(KeyError::Curve));
        assert_eq!(PublicKey::parse(&ec(&named, &[2; 33])), Err(KeyError::Point));
        assert_eq!(PublicKey::parse(&ec(&tlv::encode(tlv::OID, SECP384R1), &point)), Err(KeyError::Point));
    }

    #[test]
    fn ed25519_keys_that_anyone_can_sign_for_are_refused() {
        let mut two = [0; 32];
        two[0] = 2;
        assert_eq!(PublicKey::parse(&ed(&two)).unwrap().algorithm(), Algorithm::Ed25519);
        let mut minus_one = [0xff; 32];
        (minus_one[0], minus_one[31]) = (0xec, 0x7f);
        let mut signed_identity = [0; 32];
        (signed_identity[0], signed_identity[31]) = (1, 0x80);
        for point in [[0; 32], minus_one, signed_identity] {
            assert_eq!(PublicKey::parse(&ed(&point)), Err(KeyError::SmallOrder), "{point:02x?}");
        }
    }

    #[test]
    fn rsa_is_measured_by_its_significant_bits() {
        let parse = |length: usize, first: u8, exponent: &[u8]| {
            let mut modulus = vec![0xff; length];
            modulus[0] = first;
            PublicKey::parse(&rsa_key(&modulus, exponent)).map(|key| key.algorithm())
        };
        assert_eq!(parse(256, 0x80, &[1, 0, 1]), Ok(Algorithm::Rsa { bits: 2048 }));
        assert_eq!(parse(256, 0x7f, &[1, 0, 1]), Err(KeyError::Rsa { bits: 2047 }));
        assert_eq!(parse(128, 0xff, &[1, 0, 1]), Err(KeyError::Rsa { bits: 1024 }));
        assert_eq!(parse(256, 0x80, &[3]), Err(KeyError::Rsa { bits: 2048 }));
        assert_eq!(parse(1025, 0x80, &[1, 0, 1]), Err(KeyError::Rsa { bits: 8200 }));
    }

    #[test]
    fn an_accept_list_entry_for_rsa_means_that_size_or_more() {
        let least = Algorithm::Rsa { bits: 3072 };
        assert!(least.admits(Algorithm::Rsa { bits: 4096 }));
        assert!(!least.admits(Algorithm::Rsa { bits: 2048 }));
        assert!(!Algorithm::P256.admits(Algorithm::P384));
    }
}
