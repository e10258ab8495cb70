//! The audit key: signs checkpoints and manifests, and nothing else.
//!
//! In text the public half is a C2SP verifier key, `<origin>+<key id>+<base64 of 01 and the key>`.

use muster_wire::checkpoint::{parse_verifier_key, verifier_key};
use muster_wire::key::{Ed25519Key, PublicKey, Signer};
use std::sync::Arc;

/// The audit key with the log's origin. Clones share the key.
#[derive(Clone)]
pub struct AuditKey {
    public: PinnedKey,
    signer: Arc<dyn Signer + Send + Sync>,
}

/// Why a key is no audit key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Another kind of key.
    #[error("the audit key has to be an Ed25519 key")]
    Kind,
    /// A trust domain that cannot stand in a checkpoint.
    #[error("the log cannot be named after the trust domain \"{origin}\"")]
    Origin {
        /// The name that does not work.
        origin: String,
    },
    /// Not a verifier key.
    #[error("not an audit public key; give the file `audit.vkey` of the server, one line `name+id+key`")]
    Text,
}

impl AuditKey {
    /// The key of the log of `trust_domain`; its origin is `<trust domain>/audit`.
    ///
    /// # Errors
    /// [`KeyError::Kind`] or [`KeyError::Origin`].
    pub fn new(trust_domain: &str, signer: Arc<dyn Signer + Send + Sync>) -> Result<Self, KeyError> {
        let PublicKey::Ed25519(key) = signer.public_key() else { return Err(KeyError::Kind) };
        Ok(Self { public: PinnedKey::new(&format!("{trust_domain}/audit"), key)?, signer })
    }

    /// The name of the log in its checkpoints.
    pub fn origin(&self) -> &str {
        self.public.origin()
    }

    /// The public half, pinned to the origin.
    pub fn public(&self) -> PinnedKey {
        self.public.clone()
    }

    pub(super) fn signer(&self) -> &dyn Signer {
        self.signer.as_ref()
    }
}

impl std::fmt::Debug for AuditKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AuditKey({})", self.origin())
    }
}

/// The public key that a log is verified with, and the name of that log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedKey {
    origin: String,
    key: Ed25519Key,
    text: String,
}

impl PinnedKey {
    /// The key of the log named `origin`.
    ///
    /// # Errors
    /// [`KeyError::Origin`].
    pub fn new(origin: &str, key: Ed25519Key) -> Result<Self, KeyError> {
        let text = verifier_key(origin, &key).map_err(|_| KeyError::Origin { origin: origin.to_owned() })?;
        Ok(Self { origin: origin.to_owned(), key, text })
    }

    /// Reads a verifier key, with or without a line break after it.
    ///
    /// # Errors
    /// [`KeyError::Text`] for anything else, another spelling of the same key included.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let line = text.strip_suffix('\n').unwrap_or(text);
        let (origin, key) = parse_verifier_key(line).map_err(|_| KeyError::Text)?;
        let pinned = Self::new(&origin, key).map_err(|_| KeyError::Text)?;
        if pinned.text == line { Ok(pinned) } else { Err(KeyError::Text) }
    }

    /// The verifier key, without a line break.
    pub fn as_text(&self) -> &str {
        &self.text
    }

    /// The name of the log.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The bare key.
    pub fn key(&self) -> Ed25519Key {
        self.key
    }

    /// The key id in signature lines: eight hexadecimal digits.
    pub(super) fn id(&self) -> &str {
        self.text.strip_prefix(&self.origin).and_then(|rest| rest.split('+').nth(1)).unwrap_or_default()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use ed25519_dalek::SigningKey;

    pub(crate) fn key(trust_domain: &str, seed: u8) -> AuditKey {
        AuditKey::new(trust_domain, Arc::new(SigningKey::from_bytes(&[seed; 32]))).unwrap()
    }

    #[test]
    fn a_verifier_key_reads_back_and_pins_its_origin() {
        let pinned = key("example.com", 7).public();
        assert!(pinned.as_text().starts_with("example.com/audit+"));
        assert_eq!(PinnedKey::parse(pinned.as_text()), Ok(pinned.clone()));
        assert_eq!(PinnedKey::parse(&format!("{}\n", pinned.as_text())), Ok(pinned));
    }

    #[test]
    fn a_changed_verifier_key_is_refused() {
        let text = key("example.com", 7).public().as_text().to_owned();
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let changed = String::from_utf8(bytes).unwrap();
            assert_eq!(PinnedKey::parse(&changed), Err(KeyError::Text), "{changed}");
        }
    }

    #[test]
    fn a_log_is_not_named_after_a_trust_domain_with_a_space() {
        let signer = Arc::new(SigningKey::from_bytes(&[7; 32]));
        assert!(matches!(AuditKey::new("a b", signer), Err(KeyError::Origin { .. })));
    }
}
