//! The command key and the audit key: two Ed25519 keys that the authority document names, and that a successor of it may
//! replace while the server runs.
//!
//! Each lies in a file of its own for good: the founding's in `command.key` and `audit.key`, every later one in a file
//! that carries the key's id. Which of them is in force stands in the store; so a replacement is one commit, and what a
//! crash leaves behind is at most a file that nothing names, which the next start removes.

use super::keystore::{Keystore, KeystoreError};
use super::{CaError, ed25519_pem, file, fresh_ed25519, read_ed25519};
use crate::domain::succession::Succession;
use ed25519_dalek::SigningKey;
use muster_wire::key::{Ed25519Key, Signer};
use std::sync::{Arc, PoisonError, RwLock};

/// What a key of the server is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Signs orders and desired state.
    Command,
    /// Signs checkpoints.
    Audit,
}

impl Purpose {
    fn word(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Audit => "audit",
        }
    }

    /// The file of the founding's key.
    fn founded(self) -> &'static str {
        match self {
            Self::Command => file::COMMAND_KEY,
            Self::Audit => file::AUDIT_KEY,
        }
    }

    /// The file of the key that `succession` names.
    pub fn file(self, succession: &Succession) -> &str {
        let named = match self {
            Self::Command => succession.command.as_deref(),
            Self::Audit => succession.audit.as_deref(),
        };
        named.unwrap_or(self.founded())
    }
}

/// The name of the file of `key`, made for a successor.
pub fn key_file(purpose: Purpose, key: &Ed25519Key) -> String {
    format!("{}-{}.key", purpose.word(), key.key_id())
}

/// Keys that are to take the place of those in force, read from the disk.
pub struct Replacement {
    command: Option<SigningKey>,
    audit: Option<SigningKey>,
}

impl Replacement {
    /// The audit key among them.
    pub fn audit(&self) -> Option<Arc<dyn Signer + Send + Sync>> {
        self.audit.clone().map(|key| Arc::new(key) as Arc<dyn Signer + Send + Sync>)
    }
}

/// The keys in force, and where keys lie.
pub(super) struct ServerKeys {
    keys: Keystore,
    held: RwLock<Held>,
}

#[derive(Clone)]
struct Held {
    command: SigningKey,
    audit: SigningKey,
}

impl ServerKeys {
    pub(super) fn open(keys: &Keystore, succession: &Succession) -> Result<Self, CaError> {
        let command = read_ed25519(keys, Purpose::Command.file(succession))?;
        let audit = read_ed25519(keys, Purpose::Audit.file(succession))?;
        Ok(Self { keys: keys.clone(), held: RwLock::new(Held { command, audit }) })
    }

    pub(super) fn command(&self) -> SigningKey {
        self.held.read().unwrap_or_else(PoisonError::into_inner).command.clone()
    }

    pub(super) fn audit(&self) -> SigningKey {
        self.held.read().unwrap_or_else(PoisonError::into_inner).audit.clone()
    }

    /// Makes a key; on return it is on the disk, and nothing uses it.
    pub(super) fn make(&self, purpose: Purpose) -> Result<Ed25519Key, CaError> {
        let key = fresh_ed25519();
        let public = public_half(&key, purpose)?;
        let pem = ed25519_pem(&key, purpose.founded())?;
        self.keys.write(&key_file(purpose, &public), pem.as_bytes())?;
        Ok(public)
    }

    /// Reads the keys of which these are the public halves, where there are any.
    pub(super) fn prepare(
        &self,
        command: Option<&Ed25519Key>,
        audit: Option<&Ed25519Key>,
    ) -> Result<Replacement, CaError> {
        let read = |purpose: Purpose, public: &Ed25519Key| {
            let name = key_file(purpose, public);
            let key = read_ed25519(&self.keys, &name)?;
            let is_it = public_half(&key, purpose)? == *public;
            if is_it { Ok(key) } else { Err(CaError::Mismatch { file: name }) }
        };
        Ok(Replacement {
            command: command.map(|public| read(Purpose::Command, public)).transpose()?,
            audit: audit.map(|public| read(Purpose::Audit, public)).transpose()?,
        })
    }

    pub(super) fn replace(&self, replacement: Replacement) {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        let Held { command, audit } = held.clone();
        *held = Held {
            command: replacement.command.unwrap_or(command),
            audit: replacement.audit.unwrap_or(audit),
        };
    }

    /// Removes the files of all command and audit keys but those in force and those named in `pending`.
    pub(super) fn clear(&self, succession: &Succession, pending: &[String]) -> Result<(), KeystoreError> {
        for purpose in [Purpose::Command, Purpose::Audit] {
            let prefix = format!("{}-", purpose.word());
            let in_force = purpose.file(succession);
            let is_ours = |name: &str| name == purpose.founded() || name.starts_with(&prefix);
            for name in self.keys.names()?.into_iter().filter(|name| is_ours(name) && name.ends_with(".key"))
            {
                if name != in_force && !pending.contains(&name) {
                    self.keys.remove(&name)?;
                }
            }
        }
        Ok(())
    }
}

fn public_half(key: &SigningKey, purpose: Purpose) -> Result<Ed25519Key, CaError> {
    Ed25519Key::from_bytes(key.verifying_key().as_bytes()).map_err(|_| CaError::no_key(purpose.founded()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn founded() -> (tempfile::TempDir, Keystore) {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keystore::of(dir.path());
        keys.create().unwrap();
        for name in [file::COMMAND_KEY, file::AUDIT_KEY] {
            keys.write(name, ed25519_pem(&fresh_ed25519(), name).unwrap().as_bytes()).unwrap();
        }
        (dir, keys)
    }

    #[test]
    fn a_key_is_made_beside_the_one_in_force_and_takes_over_when_told() {
        let (_dir, keys) = founded();
        let mut succession = Succession::default();
        let open = ServerKeys::open(&keys, &succession).unwrap();
        let (before, audit) = (open.command(), open.audit());
        let made = open.make(Purpose::Command).unwrap();
        assert_eq!(open.command(), before);
        open.replace(open.prepare(Some(&made), None).unwrap());
        assert_eq!((open.command().verifying_key().as_bytes(), open.audit()), (made.as_bytes(), audit));
        succession.command = Some(key_file(Purpose::Command, &made));
        assert_eq!(ServerKeys::open(&keys, &succession).unwrap().command(), open.command());
    }

    #[test]
    fn what_nothing_names_is_removed_and_what_is_pending_stays() {
        let (_dir, keys) = founded();
        let open = ServerKeys::open(&keys, &Succession::default()).unwrap();
        let [pending, stray] = [Purpose::Audit, Purpose::Command].map(|purpose| open.make(purpose).unwrap());
        let pending = key_file(Purpose::Audit, &pending);
        open.clear(&Succession::default(), std::slice::from_ref(&pending)).unwrap();
        let mut left = keys.names().unwrap();
        left.sort();
        let mut expected = vec![pending.clone(), file::AUDIT_KEY.to_owned(), file::COMMAND_KEY.to_owned()];
        expected.sort();
        assert_eq!(left, expected);
        assert!(matches!(open.prepare(Some(&stray), None), Err(CaError::Keystore(_))), "it is gone");
        // Once the pending one is in force, the founding's goes.
        open.clear(&Succession { audit: Some(pending), ..Succession::default() }, &[]).unwrap();
        assert!(!keys.names().unwrap().contains(&file::AUDIT_KEY.to_owned()));
    }
}
