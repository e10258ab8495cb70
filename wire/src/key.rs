//! Public keys as documents name them, and the trait through which private ones sign.
//!
//! Two algorithms and no more: Ed25519 for command, audit and approver keys, and for identity keys Ed25519 or
//! ECDSA on P-256 with SHA-256. A key is validated when it is read: on its curve, in its one encoding, and for
//! Ed25519 of no small order. Verification is strict (`verify_strict`: small-order and malleable signatures are
//! refused). No private key lives here.

use crate::cbor::{Cbor, CborError, Reader, Writer, read_exact};
use crate::digest::Sha256Digest;
use ed25519_dalek::ed25519::signature;
use std::fmt;

/// The DER that precedes the 32 bytes of an Ed25519 key in its SubjectPublicKeyInfo (RFC 8410 §4).
const ED25519_SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The DER that precedes the 65 bytes of an uncompressed P-256 key in its SubjectPublicKeyInfo (RFC 5480 §2).
const P256_SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// How long every signature is, in bytes.
pub const SIGNATURE_LEN: usize = 64;

/// Why bytes are no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Neither an Ed25519 nor a P-256 SubjectPublicKeyInfo in DER.
    #[error("not the SubjectPublicKeyInfo of an Ed25519 or P-256 key")]
    UnknownKind,
    /// Not a point of the curve in its one encoding.
    #[error("not a point of the curve")]
    NotOnCurve,
    /// An Ed25519 point of small order: anything would verify under it.
    #[error("a point of small order is no key")]
    Weak,
}

/// A private key could not sign.
#[derive(Debug, thiserror::Error)]
#[error("the key could not sign")]
pub struct SignError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// A signature algorithm of COSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Ed25519, COSE −19 (RFC 9864).
    Ed25519,
    /// ECDSA on P-256 with SHA-256, COSE −7 (RFC 9053 §2.1); signatures are `r‖s`, 64 bytes.
    Es256,
}

impl Algorithm {
    /// The number in the IANA registry of COSE algorithms.
    pub const fn cose(self) -> i64 {
        match self {
            Self::Ed25519 => -19,
            Self::Es256 => -7,
        }
    }

    /// The algorithm with this number, if it is one of ours.
    pub const fn from_cose(number: i64) -> Option<Self> {
        match number {
            -19 => Some(Self::Ed25519),
            -7 => Some(Self::Es256),
            _ => None,
        }
    }
}

/// The first 8 bytes of the SHA-256 of a key's SubjectPublicKeyInfo: names a key, proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

impl Cbor for KeyId {
    fn write(&self, out: &mut Writer) {
        out.bytes(&self.0);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, CborError> {
        read_exact(input, "key id").map(Self)
    }
}

/// An Ed25519 public key: on the curve, in its one encoding, not of small order.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ed25519Key(ed25519_dalek::VerifyingKey);

impl Ed25519Key {
    /// The key with these 32 bytes (RFC 8032 §5.1.5).
    ///
    /// # Errors
    /// [`KeyError::NotOnCurve`], also for a second encoding of a point; [`KeyError::Weak`].
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(bytes).map_err(|_| KeyError::NotOnCurve)?;
        if key.to_edwards().compress().as_bytes() != bytes {
            return Err(KeyError::NotOnCurve);
        }
        if key.is_weak() { Err(KeyError::Weak) } else { Ok(Self(key)) }
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// The key's name in headers.
    pub fn key_id(&self) -> KeyId {
        PublicKey::from(*self).key_id()
    }

    /// Whether `signature` over `message` is this key's, strictly.
    pub fn verifies(&self, message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
        let signature = ed25519_dalek::Signature::from_bytes(signature);
        self.0.verify_strict(message, &signature).is_ok()
    }
}

impl fmt::Debug for Ed25519Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ed25519Key({})", hex::encode(self.as_bytes()))
    }
}

impl Cbor for Ed25519Key {
    fn write(&self, out: &mut Writer) {
        out.bytes(self.as_bytes());
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, CborError> {
        let bytes = read_exact(input, "Ed25519 key")?;
        Self::from_bytes(&bytes).map_err(|_| CborError::Value { field: "Ed25519 key" })
    }
}

/// A P-256 public key: a point of the curve, not the point at infinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct P256Key(p256::ecdsa::VerifyingKey);

impl P256Key {
    /// The key with this point, uncompressed (SEC 1 §2.3.4): `04 ‖ x ‖ y`.
    ///
    /// # Errors
    /// [`KeyError::NotOnCurve`].
    pub fn from_uncompressed(point: &[u8; 65]) -> Result<Self, KeyError> {
        if point.first() != Some(&4) {
            return Err(KeyError::NotOnCurve);
        }
        p256::ecdsa::VerifyingKey::from_sec1_bytes(point).map(Self).map_err(|_| KeyError::NotOnCurve)
    }

    /// Whether `signature`, as `r‖s`, over `message` is this key's.
    ///
    /// ECDSA has two signatures for one message; both pass, and nothing may count on a signature's bytes.
    pub fn verifies(&self, message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
        use p256::ecdsa::signature::Verifier as _;
        p256::ecdsa::Signature::from_slice(signature)
            .is_ok_and(|signature| self.0.verify(message, &signature).is_ok())
    }
}

/// A public key that a document may be signed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublicKey {
    /// Command, audit, approver and identity keys.
    Ed25519(Ed25519Key),
    /// Identity keys.
    P256(P256Key),
}

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo in DER.
    ///
    /// # Errors
    /// [`KeyError::UnknownKind`] for other keys, compressed points and any byte too many; otherwise as the
    /// key's own constructor.
    pub fn from_spki_der(der: &[u8]) -> Result<Self, KeyError> {
        if let Some(key) = der.strip_prefix(&ED25519_SPKI) {
            let key = key.try_into().map_err(|_| KeyError::UnknownKind)?;
            return Ed25519Key::from_bytes(key).map(Self::Ed25519);
        }
        let point = der.strip_prefix(&P256_SPKI).ok_or(KeyError::UnknownKind)?;
        let point = point.try_into().map_err(|_| KeyError::UnknownKind)?;
        P256Key::from_uncompressed(point).map(Self::P256)
    }

    /// The SubjectPublicKeyInfo in DER.
    pub fn to_spki_der(&self) -> Vec<u8> {
        match self {
            Self::Ed25519(key) => [&ED25519_SPKI[..], key.as_bytes()].concat(),
            Self::P256(key) => [&P256_SPKI[..], key.0.to_encoded_point(false).as_bytes()].concat(),
        }
    }

    /// The algorithm this key signs with.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Ed25519(_) => Algorithm::Ed25519,
            Self::P256(_) => Algorithm::Es256,
        }
    }

    /// The key's name in headers.
    pub fn key_id(&self) -> KeyId {
        let [a, b, c, d, e, f, g, h, ..] = Sha256Digest::of(&self.to_spki_der()).0;
        KeyId([a, b, c, d, e, f, g, h])
    }

    /// Whether `signature` over `message` is this key's, strictly.
    pub fn verifies(&self, message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
        match self {
            Self::Ed25519(key) => key.verifies(message, signature),
            Self::P256(key) => key.verifies(message, signature),
        }
    }
}

impl From<Ed25519Key> for PublicKey {
    fn from(key: Ed25519Key) -> Self {
        Self::Ed25519(key)
    }
}

/// A private key, wherever it lives.
///
/// Algorithm and key id follow from the public key, so that a signer cannot announce one and use another.
pub trait Signer {
    /// The public half.
    fn public_key(&self) -> PublicKey;

    /// Signs `message`: Ed25519 as RFC 8032, ES256 as `r‖s` over its SHA-256.
    ///
    /// # Errors
    /// [`SignError`] when the key cannot be used.
    fn sign(&self, message: &[u8]) -> Result<[u8; SIGNATURE_LEN], SignError>;
}

impl Signer for ed25519_dalek::SigningKey {
    fn public_key(&self) -> PublicKey {
        PublicKey::Ed25519(Ed25519Key(self.verifying_key()))
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; SIGNATURE_LEN], SignError> {
        let signed: Result<ed25519_dalek::Signature, _> = signature::Signer::try_sign(self, message);
        signed.map(|signature| signature.to_bytes()).map_err(|error| SignError(error.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer() -> ed25519_dalek::SigningKey {
        ed25519_dalek::SigningKey::from_bytes(&[7; 32])
    }

    #[test]
    fn spki_of_both_kinds_reads_back() {
        let p256 = p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap();
        for key in [signer().public_key(), PublicKey::P256(P256Key(*p256.verifying_key()))] {
            let der = key.to_spki_der();
            assert_eq!(PublicKey::from_spki_der(&der), Ok(key));
            assert_eq!(PublicKey::from_spki_der(&[&der[..], &[0]].concat()), Err(KeyError::UnknownKind));
            assert_eq!(PublicKey::from_spki_der(&der[..der.len() - 1]), Err(KeyError::UnknownKind));
        }
    }

    #[test]
    fn weak_and_doubly_encoded_points_are_no_keys() {
        let mut identity = [0; 32];
        identity[0] = 1;
        assert_eq!(Ed25519Key::from_bytes(&identity), Err(KeyError::Weak));
        assert!(Ed25519Key::from_bytes(&[0; 32]).is_err(), "order 4");
        // y = p + 1 is the identity again, in an encoding of its own.
        let mut second = [0xff; 32];
        second[0] = 0xee;
        second[31] = 0x7f;
        assert_eq!(Ed25519Key::from_bytes(&second), Err(KeyError::NotOnCurve));
    }

    #[test]
    fn points_off_the_curve_are_no_keys() {
        let mut point = [0x11; 65];
        point[0] = 4;
        assert_eq!(P256Key::from_uncompressed(&point), Err(KeyError::NotOnCurve));
    }

    #[test]
    fn only_the_signed_message_verifies() {
        let signer = signer();
        let signature = Signer::sign(&signer, b"message").unwrap();
        assert!(signer.public_key().verifies(b"message", &signature));
        assert!(!signer.public_key().verifies(b"massage", &signature));
    }

    #[test]
    fn a_signature_with_s_plus_the_group_order_is_refused() {
        const ORDER: [u8; 32] = [
            0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14,
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
        ];
        let signer = signer();
        let mut signature = Signer::sign(&signer, b"message").unwrap();
        let mut carry = 0_u16;
        for (byte, order) in signature[32..].iter_mut().zip(ORDER) {
            let sum = u16::from(*byte) + u16::from(order) + carry;
            *byte = (sum & 0xff) as u8;
            carry = sum >> 8;
        }
        assert!(!signer.public_key().verifies(b"message", &signature));
    }

    #[test]
    fn a_signature_whose_nonce_is_of_small_order_is_refused() {
        // Made by hand: R is the identity and S = k·a, which satisfies the equation of RFC 8032 §5.1.7.
        let s = "d4c5323131ff9683cfb3d30197c786c9043f1052d6c2d5293f19d6f36b911104";
        let mut signature = [0; SIGNATURE_LEN];
        signature[0] = 1;
        hex::decode_to_slice(s, &mut signature[32..]).unwrap();
        let lenient = ed25519_dalek::Verifier::verify(
            &signer().verifying_key(),
            b"message",
            &ed25519_dalek::Signature::from_bytes(&signature),
        );
        assert!(lenient.is_ok(), "otherwise the case shows nothing");
        assert!(!signer().public_key().verifies(b"message", &signature));
    }
}
