//! The private key of an end entity: a device's identity, or that of a listener.
//!
//! The key is kept as PKCS#8 and handed out only as PEM for a file (mode 0600 is the caller's duty) or as the DER
//! that rustls wants. ring makes and uses it where the feature `ring` is on, aws-lc-rs otherwise; both read what the
//! other wrote.

use std::fmt;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use super::{Algorithm, KeyError, encode_spki, sha256};
use crate::SpkiDigest;
use crate::armor;
use crate::tlv::{self, DerError};

#[cfg(not(feature = "ring"))]
use aws_lc_rs as provider;
#[cfg(feature = "ring")]
use ring as provider;

use provider::rand::SystemRandom;
use provider::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair as _,
};

/// A private key that proves who a device or a listener is.
pub struct DeviceKey {
    algorithm: Algorithm,
    pkcs8: Zeroizing<Vec<u8>>,
    spki: Vec<u8>,
    pair: Pair,
}

enum Pair {
    Ecdsa(Box<EcdsaKeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
}

impl DeviceKey {
    /// A new key, made with the provider's own randomness.
    ///
    /// # Errors
    /// [`KeyError::Generate`] for RSA, which no device of ours makes, or when the provider fails.
    pub fn generate(algorithm: Algorithm) -> Result<Self, KeyError> {
        let random = SystemRandom::new();
        let document = match algorithm {
            Algorithm::P256 => EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random),
            Algorithm::P384 => EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, &random),
            Algorithm::Ed25519 => Ed25519KeyPair::generate_pkcs8(&random),
            Algorithm::Rsa { .. } => return Err(KeyError::Generate(algorithm)),
        };
        let document = document.map_err(|_| KeyError::Generate(algorithm))?;
        Self::from_pkcs8(document.as_ref())
    }

    /// A key from PKCS#8 DER: P-256, P-384 or Ed25519.
    ///
    /// # Errors
    /// [`KeyError::Rejected`] when it is none of these or its parts do not fit each other.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, KeyError> {
        let (algorithm, pair) = read_pair(pkcs8)?;
        let spki = match &pair {
            Pair::Ecdsa(pair) => encode_spki(algorithm, pair.public_key().as_ref()),
            Pair::Ed25519(pair) => encode_spki(algorithm, pair.public_key().as_ref()),
        };
        Ok(Self { algorithm, pkcs8: Zeroizing::new(pkcs8.to_vec()), spki, pair })
    }

    /// A key from PEM (`PRIVATE KEY`).
    ///
    /// # Errors
    /// [`KeyError::Pem`] when there is no such block, otherwise as [`DeviceKey::from_pkcs8`].
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| KeyError::Pem)?;
        Self::from_pkcs8(key.secret_pkcs8_der())
    }

    /// PEM for a file that only its owner may read.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(armor::pem("PRIVATE KEY", &self.pkcs8))
    }

    /// The key as rustls takes it.
    #[must_use]
    pub fn to_private_key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8.to_vec()))
    }

    /// The kind of key.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The public key as a DER SubjectPublicKeyInfo.
    #[must_use]
    pub fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    /// SHA-256 of [`DeviceKey::spki_der`].
    #[must_use]
    pub fn spki_sha256(&self) -> SpkiDigest {
        sha256(&self.spki)
    }

    /// A signature over `message` as X.509 and TLS carry it: ECDSA in DER (SHA-256 for P-256, SHA-384 for P-384),
    /// Ed25519 raw.
    ///
    /// # Errors
    /// [`KeyError::Sign`] when the provider fails.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        match &self.pair {
            Pair::Ecdsa(pair) => {
                let signature = pair.sign(&SystemRandom::new(), message).map_err(|_| KeyError::Sign)?;
                Ok(signature.as_ref().to_vec())
            }
            Pair::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
        }
    }

    /// A signature over `message` as COSE carries it: ECDSA as `r ‖ s`, each as long as the curve's field (RFC 9053
    /// §2.1); Ed25519 raw.
    ///
    /// # Errors
    /// [`KeyError::Sign`] when the provider fails.
    pub fn sign_fixed(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let signature = self.sign(message)?;
        match self.algorithm {
            Algorithm::P256 => fixed(&signature, 32),
            Algorithm::P384 => fixed(&signature, 48),
            Algorithm::Ed25519 | Algorithm::Rsa { .. } => Ok(signature),
        }
    }
}

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceKey").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

/// The provider's own parsers decide what kind of key this is; each refuses the others' algorithm identifier.
fn read_pair(pkcs8: &[u8]) -> Result<(Algorithm, Pair), KeyError> {
    if let Ok(pair) = ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8) {
        return Ok((Algorithm::P256, Pair::Ecdsa(Box::new(pair))));
    }
    if let Ok(pair) = ecdsa(&ECDSA_P384_SHA384_ASN1_SIGNING, pkcs8) {
        return Ok((Algorithm::P384, Pair::Ecdsa(Box::new(pair))));
    }
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8).map_err(|_| KeyError::Rejected)?;
    Ok((Algorithm::Ed25519, Pair::Ed25519(Box::new(pair))))
}

fn ecdsa(curve: &'static EcdsaSigningAlgorithm, pkcs8: &[u8]) -> Result<EcdsaKeyPair, KeyError> {
    #[cfg(feature = "ring")]
    let pair = EcdsaKeyPair::from_pkcs8(curve, pkcs8, &SystemRandom::new());
    #[cfg(not(feature = "ring"))]
    let pair = EcdsaKeyPair::from_pkcs8(curve, pkcs8);
    pair.map_err(|_| KeyError::Rejected)
}

/// `r ‖ s`, each padded to `width` bytes, from a DER Ecdsa-Sig-Value.
fn fixed(signature: &[u8], width: usize) -> Result<Vec<u8>, KeyError> {
    let mut numbers = tlv::single(signature, tlv::SEQUENCE)?.reader();
    let (r, s) = (numbers.expect(tlv::INTEGER)?, numbers.expect(tlv::INTEGER)?);
    numbers.finish()?;
    let mut out = Vec::with_capacity(width * 2);
    for number in [r, s] {
        let magnitude = tlv::positive(&number)?;
        let padding = width.checked_sub(magnitude.len()).ok_or(DerError::Value)?;
        out.resize(out.len() + padding, 0);
        out.extend_from_slice(magnitude);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_key_survives_its_file() {
        for algorithm in [Algorithm::P256, Algorithm::P384, Algorithm::Ed25519] {
            let key = DeviceKey::generate(algorithm).unwrap();
            let again = DeviceKey::from_pem(&key.to_pem()).unwrap();
            assert_eq!(again.algorithm(), algorithm);
            assert_eq!(again.spki_der(), key.spki_der());
            assert_eq!(super::super::PublicKey::parse(key.spki_der()).unwrap().algorithm(), algorithm);
        }
    }

    #[test]
    fn rsa_is_never_made_here() {
        let asked = Algorithm::Rsa { bits: 2048 };
        assert_eq!(DeviceKey::generate(asked).unwrap_err(), KeyError::Generate(asked));
    }

    #[test]
    fn raw_signatures_have_the_width_of_the_curve_and_pad_short_numbers() {
        for (algorithm, length) in [(Algorithm::P256, 64), (Algorithm::P384, 96), (Algorithm::Ed25519, 64)] {
            let key = DeviceKey::generate(algorithm).unwrap();
            assert_eq!(key.sign_fixed(b"message").unwrap().len(), length, "{algorithm}");
        }
        let short = tlv::encode_all(tlv::SEQUENCE, &[&tlv::unsigned(&[7]), &tlv::unsigned(&[0x80; 32])]);
        let raw = fixed(&short, 32).unwrap();
        assert_eq!((raw.len(), raw[30], raw[31], raw[32]), (64, 0, 7, 0x80));
        assert!(fixed(&short, 31).is_err());
    }

    #[test]
    fn a_printed_key_shows_no_secret() {
        let key = DeviceKey::generate(Algorithm::P256).unwrap();
        assert_eq!(format!("{key:?}"), "DeviceKey { algorithm: P256, .. }");
    }
}
