//! COSE around documents, and the only maker of [`Verified`].
//!
//! ```text
//! bytes ──parse──▶ Signed<T> ───────verify(keys)──────────▶ Verified<T>      COSE_Sign1, tag 18
//! bytes ──parse──▶ MultiSigned<T> ──verify(keys, needed)──▶ Verified<T>      COSE_Sign, tag 98
//! ```
//! Follows RFC 9052 and `authority.md` "Documents and bytes". Stricter than the RFC asks: algorithm and key id
//! are protected, unprotected headers are empty, a COSE_Sign body has no headers, and the envelope itself is
//! deterministic CBOR, so whoever passes a message on can change no byte of it unnoticed. `crit` is honoured:
//! an unknown critical header refuses the message.
//!
//! Signatures are verified over the payload as received; only then is it decoded, and refused unless encoding
//! it again gives the same bytes. Which keys may sign what is asked elsewhere: this file is told.

mod header;

use crate::cbor::{self, CborError, Document, Reader, Writer};
use crate::digest::Sha256Digest;
use crate::key::{Algorithm, KeyId, PublicKey, SIGNATURE_LEN, SignError, Signer};
use header::{read_header, write_header};
use std::marker::PhantomData;
use std::ops::Deref;

const TAG_SIGN1: u64 = 18;
const TAG_SIGN: u64 = 98;

/// More signatures than this are not looked at.
pub const MAX_SIGNATURES: usize = 64;

/// A document with one signer: COSE_Sign1.
pub trait SignedOnce: Document {}

/// A document with several signers: COSE_Sign.
pub trait SignedByMany: Document {}

/// Why a message is not believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// Larger than any message of this document.
    #[error("larger than the {limit} bytes such a message may have")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// No COSE message of the kind expected.
    #[error("not a COSE message of the kind expected")]
    Structure(#[source] CborError),
    /// A header that this build does not know is marked critical.
    #[error("a critical header is not understood")]
    Critical,
    /// Another algorithm than Ed25519 or ES256.
    #[error("COSE algorithm {found} is not accepted")]
    Algorithm {
        /// The number found.
        found: i64,
    },
    /// Readable, but not in the one form that such a message has.
    #[error("the envelope is not in its one form")]
    NotDeterministic,
    /// No signature at all, or more than [`MAX_SIGNATURES`].
    #[error("no signature, or too many")]
    SignatureCount,
    /// Nobody whose key was given has signed.
    #[error("signed by no key that counts")]
    UnknownSigner,
    /// A signature under a known key's name that is not that key's.
    #[error("the signature of key {key} is false")]
    FalseSignature {
        /// The key named.
        key: KeyId,
    },
    /// One key has signed twice.
    #[error("key {key} has signed twice")]
    RepeatedSigner {
        /// The key named.
        key: KeyId,
    },
    /// Too few of those who count have signed.
    #[error("{needed} signatures are needed, {found} count")]
    TooFew {
        /// How many distinct signers are needed.
        needed: usize,
        /// How many of those given have signed.
        found: usize,
    },
    /// The payload is not the one that the digest names.
    #[error("the payload has another digest")]
    Digest,
    /// The signatures are good, but what was signed is no such document.
    #[error("what was signed is no such document")]
    Payload(#[source] CborError),
}

/// A document whose signatures were verified, or whose payload has a digest that was trusted.
///
/// Made only in this file. What the signers may order is for [`crate::authority`] and [`crate::warrant`] to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<T> {
    document: T,
    payload_digest: Sha256Digest,
    signers: Vec<KeyId>,
}

impl<T> Verified<T> {
    /// SHA-256 of the signed payload: what other documents call this document by.
    pub fn payload_digest(&self) -> Sha256Digest {
        self.payload_digest
    }

    /// The distinct keys, of those given to the verification, that have signed; in the message's order.
    pub fn signers(&self) -> &[KeyId] {
        &self.signers
    }

    /// The document alone, no longer marked as verified.
    pub fn into_document(self) -> T {
        self.document
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.document
    }
}

/// The `external_aad` of every signature over a `T`: `muster/<document>/v1`.
pub fn external_aad<T: Document>() -> String {
    format!("muster/{}/v1", T::NAME)
}

/// SHA-256 of the payload that `document` encodes to: what other documents call it by.
pub fn payload_digest<T: Document>(document: &T) -> Sha256Digest {
    Sha256Digest::of(&cbor::encode(document))
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Signature {
    protected: Vec<u8>,
    algorithm: Algorithm,
    key_id: KeyId,
    signature: [u8; SIGNATURE_LEN],
}

impl Signature {
    fn parse(protected: &[u8], signature: &[u8]) -> Result<Self, EnvelopeError> {
        let (algorithm, key_id) = read_header(protected)?;
        let signature = signature
            .try_into()
            .map_err(|_| EnvelopeError::Structure(CborError::Value { field: "signature" }))?;
        Ok(Self { protected: protected.to_vec(), algorithm, key_id, signature })
    }

    /// Whether one of `keys` is named by this signature, and if so that the signature is that key's.
    fn judge(&self, message: &[u8], keys: &[PublicKey]) -> Result<bool, EnvelopeError> {
        let mut named = keys.iter().filter(|key| key.key_id() == self.key_id).peekable();
        if named.peek().is_none() {
            return Ok(false);
        }
        let good =
            |key: &PublicKey| key.algorithm() == self.algorithm && key.verifies(message, &self.signature);
        if named.any(good) { Ok(true) } else { Err(EnvelopeError::FalseSignature { key: self.key_id }) }
    }
}

/// A COSE_Sign1 message as it was received. Nothing in it is to be believed before [`Signed::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed<T> {
    payload: Vec<u8>,
    signature: Signature,
    document: PhantomData<fn() -> T>,
}

impl<T: SignedOnce> Signed<T> {
    /// Takes a message apart.
    ///
    /// # Errors
    /// [`EnvelopeError::TooLarge`] before anything is parsed, then the first thing that is not as it should be.
    pub fn parse(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        check_size::<T>(bytes)?;
        let (protected, payload, signature) = read_sign1(bytes).map_err(EnvelopeError::Structure)?;
        let signature = Signature::parse(protected, signature)?;
        let signed = Self { payload: payload.to_vec(), signature, document: PhantomData };
        if signed.to_bytes() == bytes { Ok(signed) } else { Err(EnvelopeError::NotDeterministic) }
    }

    /// The message's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.tag(TAG_SIGN1);
        out.array(4);
        out.bytes(&self.signature.protected);
        out.map(0);
        out.bytes(&self.payload);
        out.bytes(&self.signature.signature);
        out.into_bytes()
    }

    /// The key that the message says has signed it.
    pub fn key_id(&self) -> KeyId {
        self.signature.key_id
    }

    /// Believes the message if one of `keys` has signed it.
    ///
    /// # Errors
    /// [`EnvelopeError::UnknownSigner`], [`EnvelopeError::FalseSignature`] or [`EnvelopeError::Payload`].
    pub fn verify(&self, keys: &[PublicKey]) -> Result<Verified<T>, EnvelopeError> {
        let message = sign1_message::<T>(&self.signature.protected, &self.payload);
        if !self.signature.judge(&message, keys)? {
            return Err(EnvelopeError::UnknownSigner);
        }
        verified(&self.payload, vec![self.signature.key_id])
    }
}

/// Signs `document`: the bytes of a COSE_Sign1.
///
/// # Errors
/// [`SignError`] when the key cannot be used.
pub fn sign1<T: SignedOnce>(document: &T, signer: &dyn Signer) -> Result<Vec<u8>, SignError> {
    let key = signer.public_key();
    let protected = write_header(&key);
    let payload = cbor::encode(document);
    let signature = signer.sign(&sign1_message::<T>(&protected, &payload))?;
    let signature = Signature { protected, algorithm: key.algorithm(), key_id: key.key_id(), signature };
    Ok(Signed::<T> { payload, signature, document: PhantomData }.to_bytes())
}

/// A COSE_Sign message as it was received or is being signed. Nothing in it is to be believed before
/// [`MultiSigned::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MultiSigned<T> {
    payload: Vec<u8>,
    signatures: Vec<Signature>,
    document: PhantomData<fn() -> T>,
}

impl<T: SignedByMany> MultiSigned<T> {
    /// `document`, not yet signed by anybody.
    pub fn unsigned(document: &T) -> Self {
        Self { payload: cbor::encode(document), signatures: Vec::new(), document: PhantomData }
    }

    /// Takes a message apart.
    ///
    /// # Errors
    /// [`EnvelopeError::TooLarge`] before anything is parsed, then the first thing that is not as it should be.
    pub fn parse(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let signed = Self::parse_unfinished(bytes)?;
        if signed.signatures.is_empty() { Err(EnvelopeError::SignatureCount) } else { Ok(signed) }
    }

    /// Takes apart a message that is still being signed: the same form, perhaps without any signature yet.
    ///
    /// # Errors
    /// As [`MultiSigned::parse`], but for the lack of signatures.
    pub fn parse_unfinished(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        check_size::<T>(bytes)?;
        let (payload, parts) = read_sign(bytes).map_err(EnvelopeError::Structure)?;
        if parts.len() > MAX_SIGNATURES {
            return Err(EnvelopeError::SignatureCount);
        }
        let signatures = parts.into_iter().map(|(protected, bytes)| Signature::parse(protected, bytes));
        let signatures = signatures.collect::<Result<Vec<_>, _>>()?;
        let signed = Self { payload: payload.to_vec(), signatures, document: PhantomData };
        if signed.to_bytes() == bytes { Ok(signed) } else { Err(EnvelopeError::NotDeterministic) }
    }

    /// The message's bytes. Without a signature only [`MultiSigned::parse_unfinished`] takes them.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.tag(TAG_SIGN);
        out.array(4);
        out.bytes(&[]);
        out.map(0);
        out.bytes(&self.payload);
        out.array(u64::try_from(self.signatures.len()).unwrap_or(u64::MAX));
        for signature in &self.signatures {
            out.array(3);
            out.bytes(&signature.protected);
            out.map(0);
            out.bytes(&signature.signature);
        }
        out.into_bytes()
    }

    /// SHA-256 of the payload.
    pub fn payload_digest(&self) -> Sha256Digest {
        Sha256Digest::of(&self.payload)
    }

    /// The keys that the message says have signed it.
    pub fn key_ids(&self) -> Vec<KeyId> {
        self.signatures.iter().map(|signature| signature.key_id).collect()
    }

    /// Adds a signature; a key that has signed already signs no second time.
    ///
    /// # Errors
    /// [`SignError`] when the key cannot be used.
    pub fn add_signature(&mut self, signer: &dyn Signer) -> Result<(), SignError> {
        let key = signer.public_key();
        if self.key_ids().contains(&key.key_id()) {
            return Ok(());
        }
        let protected = write_header(&key);
        let signature = signer.sign(&sign_message::<T>(&protected, &self.payload))?;
        self.signatures.push(Signature {
            protected,
            algorithm: key.algorithm(),
            key_id: key.key_id(),
            signature,
        });
        Ok(())
    }

    /// Takes over the signatures of `other`, a copy of this message that somebody signed elsewhere; none is judged.
    /// A key that has signed already signs no second time. Answers how many were new.
    ///
    /// # Errors
    /// [`EnvelopeError::Digest`] where `other` holds another payload, [`EnvelopeError::SignatureCount`] where there
    /// would be more than [`MAX_SIGNATURES`]; then nothing was taken over.
    pub fn merge(&mut self, other: &Self) -> Result<usize, EnvelopeError> {
        if other.payload != self.payload {
            return Err(EnvelopeError::Digest);
        }
        let mut merged = self.signatures.clone();
        for signature in &other.signatures {
            if !merged.iter().any(|known| known.key_id == signature.key_id) {
                merged.push(signature.clone());
            }
        }
        if merged.len() > MAX_SIGNATURES {
            return Err(EnvelopeError::SignatureCount);
        }
        let new = merged.len() - self.signatures.len();
        self.signatures = merged;
        Ok(new)
    }

    /// Reads the payload for somebody who wants to look at it before anybody has vouched for it.
    ///
    /// # Errors
    /// [`EnvelopeError::Payload`].
    pub fn read_unverified(&self) -> Result<T, EnvelopeError> {
        cbor::decode(&self.payload).map_err(EnvelopeError::Payload)
    }

    /// The distinct keys of `keys` that have signed; signatures of others are not looked at.
    ///
    /// # Errors
    /// [`EnvelopeError::RepeatedSigner`], [`EnvelopeError::FalseSignature`].
    pub fn signers(&self, keys: &[PublicKey]) -> Result<Vec<KeyId>, EnvelopeError> {
        let mut found = Vec::new();
        for signature in &self.signatures {
            let message = sign_message::<T>(&signature.protected, &self.payload);
            if !signature.judge(&message, keys)? {
                continue;
            }
            if found.contains(&signature.key_id) {
                return Err(EnvelopeError::RepeatedSigner { key: signature.key_id });
            }
            found.push(signature.key_id);
        }
        Ok(found)
    }

    /// Believes the message if at least `needed` distinct keys of `keys`, and never fewer than one, have signed.
    ///
    /// # Errors
    /// [`EnvelopeError::UnknownSigner`], [`EnvelopeError::TooFew`], what [`MultiSigned::signers`] finds, or
    /// [`EnvelopeError::Payload`].
    pub fn verify(&self, keys: &[PublicKey], needed: usize) -> Result<Verified<T>, EnvelopeError> {
        let signers = self.signers(keys)?;
        if signers.is_empty() {
            return Err(EnvelopeError::UnknownSigner);
        }
        if signers.len() < needed {
            return Err(EnvelopeError::TooFew { needed, found: signers.len() });
        }
        verified(&self.payload, signers)
    }

    /// Believes the payload because its digest is the one trusted already; no signature is looked at.
    ///
    /// # Errors
    /// [`EnvelopeError::Digest`] or [`EnvelopeError::Payload`].
    pub fn verify_by_digest(&self, trusted: Sha256Digest) -> Result<Verified<T>, EnvelopeError> {
        if self.payload_digest() == trusted {
            verified(&self.payload, Vec::new())
        } else {
            Err(EnvelopeError::Digest)
        }
    }
}

/// The one place where a `Verified` is made; the caller has verified `payload`.
fn verified<T: Document>(payload: &[u8], signers: Vec<KeyId>) -> Result<Verified<T>, EnvelopeError> {
    let document = cbor::decode(payload).map_err(EnvelopeError::Payload)?;
    Ok(Verified { document, payload_digest: Sha256Digest::of(payload), signers })
}

fn check_size<T: Document>(bytes: &[u8]) -> Result<(), EnvelopeError> {
    if bytes.len() > T::MAX_BYTES { Err(EnvelopeError::TooLarge { limit: T::MAX_BYTES }) } else { Ok(()) }
}

/// Sig_structure of a COSE_Sign1 (RFC 9052 §4.4).
fn sign1_message<T: Document>(protected: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut out = Writer::new();
    out.array(4);
    out.text("Signature1");
    out.bytes(protected);
    out.bytes(external_aad::<T>().as_bytes());
    out.bytes(payload);
    out.into_bytes()
}

/// Sig_structure of one signature of a COSE_Sign whose body has no headers (RFC 9052 §4.4).
fn sign_message<T: Document>(protected: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut out = Writer::new();
    out.array(5);
    out.text("Signature");
    out.bytes(&[]);
    out.bytes(protected);
    out.bytes(external_aad::<T>().as_bytes());
    out.bytes(payload);
    out.into_bytes()
}

/// Protected header, payload and signature.
type Sign1Parts<'b> = (&'b [u8], &'b [u8], &'b [u8]);

fn read_sign1(bytes: &[u8]) -> Result<Sign1Parts<'_>, CborError> {
    let mut input = Reader::new(bytes);
    input.tag(TAG_SIGN1)?;
    input.array(4)?;
    let protected = input.bytes()?;
    read_empty_map(&mut input)?;
    Ok((protected, input.bytes()?, input.bytes()?))
}

/// A payload, and each signature as protected header and bytes.
type SignParts<'b> = (&'b [u8], Vec<(&'b [u8], &'b [u8])>);

fn read_sign(bytes: &[u8]) -> Result<SignParts<'_>, CborError> {
    let mut input = Reader::new(bytes);
    input.tag(TAG_SIGN)?;
    input.array(4)?;
    if !input.bytes()?.is_empty() {
        return Err(CborError::Value { field: "body headers" });
    }
    read_empty_map(&mut input)?;
    let payload = input.bytes()?;
    let count = input.open_array()?;
    let mut signatures = Vec::new();
    for _ in 0..count {
        input.array(3)?;
        let protected = input.bytes()?;
        read_empty_map(&mut input)?;
        signatures.push((protected, input.bytes()?));
    }
    Ok((payload, signatures))
}

fn read_empty_map(input: &mut Reader<'_>) -> Result<(), CborError> {
    if input.open_map()? == 0 { Ok(()) } else { Err(CborError::Value { field: "unprotected headers" }) }
}

#[cfg(test)]
mod tests;
