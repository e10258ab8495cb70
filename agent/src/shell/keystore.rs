//! Keys and certificates in `identity/`, 0600 in a directory of 0700.
//!
//! | file | holds |
//! | --- | --- |
//! | `key.pem`, `certificate.pem` | the identity in use |
//! | `next-key.pem`, `next-certificate.pem` | the one that is to follow, until it has been proven |
//!
//! A private key never leaves this module but into rustls. Every method may be repeated after a kill.

use std::path::{Path, PathBuf};

use muster_pki::key::{Algorithm, DeviceKey, KeyError};
use muster_pki::name::{NameError, Subject};
use muster_pki::request::{RequestError, build_renewal, build_request};
use muster_wire::digest::Sha256Digest;
use muster_wire::key::{PublicKey, SIGNATURE_LEN, SignError, Signer};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::files::{self, FileError};
use crate::core::{Caller, Held, KeyReady, Names};

/// No key or certificate of a device is larger, in PEM.
const CAP: usize = 16 * 1024;

/// The subject of a first request. The authority takes none of it but the serial number, and that to compare.
const HINT: &str = "muster-agent";

/// Why the identity cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeystoreError {
    /// The file system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file is not a private key.
    #[error("{} is not a private key of this device", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: KeyError,
    },
    /// A file is not a certificate.
    #[error("{} is not a certificate", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
    },
    /// A file that must be there is not.
    #[error("{} is missing", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// No key could be made.
    #[error("cannot make a key")]
    Generate(#[source] KeyError),
    /// The serial number cannot stand in a request.
    #[error("the serial number cannot be used")]
    Serial(#[source] NameError),
    /// No request could be made.
    #[error("cannot make a certificate request")]
    Request(#[source] RequestError),
}

impl KeystoreError {
    /// What the person at the device should do.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::File(error) => error.remedy(),
            Self::Key { .. } | Self::Certificate { .. } | Self::Missing { .. } => {
                "restore identity/ from a backup; or move the state directory aside and enrol with a new string"
            }
            Self::Serial(_) => "give --serial 1 to 64 letters, digits, spaces or '()+,-./:=?",
            Self::Generate(_) | Self::Request(_) => "run the same command again; report it if it stays",
        }
    }
}

/// The directory `identity/`.
#[derive(Clone, Debug)]
pub struct Keystore {
    dir: PathBuf,
}

impl Keystore {
    /// The keys beneath `state_dir`.
    pub fn new(state_dir: &Path) -> Self {
        Self { dir: state_dir.join("identity") }
    }

    /// Where the keys are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What is there; `trust` and `authority` are left for the caller.
    ///
    /// # Errors
    /// [`KeystoreError`] when a file is there and is not what its name says.
    pub fn held(&self) -> Result<Held, KeystoreError> {
        Ok(Held {
            key: self.read_key("key.pem")?.map(|key| Sha256Digest(key.spki_sha256())),
            certificate: self.read_certificate("certificate.pem")?,
            next_key: self.read_key("next-key.pem")?.map(|key| Sha256Digest(key.spki_sha256())),
            next_certificate: self.read_certificate("next-certificate.pem")?,
            trust: None,
            authority: None,
        })
    }

    /// The public half of `key.pem`, a DER SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// [`KeystoreError`] when it is there and is no key.
    pub fn public_key(&self) -> Result<Option<Vec<u8>>, KeystoreError> {
        Ok(self.read_key("key.pem")?.map(|key| key.spki_der().to_vec()))
    }

    /// The next key, made and made durable unless it is there, and a request with it.
    ///
    /// # Errors
    /// [`KeystoreError`]; no request was made then, and a key that was made will be found again.
    pub fn make_next(&self, names: &Names) -> Result<KeyReady, KeystoreError> {
        let key = match self.read_key("next-key.pem")? {
            Some(key) => key,
            None => {
                files::ensure_dir(&self.dir)?;
                let key = DeviceKey::generate(Algorithm::P256).map_err(KeystoreError::Generate)?;
                files::write_atomic(&self.dir.join("next-key.pem"), key.to_pem().as_bytes())?;
                key
            }
        };
        let csr = match names {
            Names::First { serial } => build_request(&key, &subject(serial.as_deref())?),
            Names::Like(certificate) => build_renewal(&key, certificate),
        };
        Ok(KeyReady { spki: key.spki_der().to_vec(), csr: csr.map_err(KeystoreError::Request)? })
    }

    /// Makes `next-certificate.pem` hold `pem`.
    ///
    /// # Errors
    /// [`KeystoreError::File`].
    pub fn store_next_certificate(&self, pem: &[u8]) -> Result<(), KeystoreError> {
        Ok(files::write_atomic(&self.dir.join("next-certificate.pem"), pem)?)
    }

    /// Moves the next key, then the next certificate, over those in use: whichever is still there.
    ///
    /// # Errors
    /// [`KeystoreError::File`]; doing it again finishes it.
    pub fn promote(&self) -> Result<(), KeystoreError> {
        for (from, to) in [("next-key.pem", "key.pem"), ("next-certificate.pem", "certificate.pem")] {
            let from = self.dir.join(from);
            if from.exists() {
                files::rename(&from, &self.dir.join(to))?;
            }
        }
        Ok(())
    }

    /// Removes the next certificate, then the next key: a certificate never waits without its key.
    ///
    /// # Errors
    /// [`KeystoreError::File`]; doing it again finishes it.
    pub fn discard_next(&self) -> Result<(), KeystoreError> {
        files::remove(&self.dir.join("next-certificate.pem"))?;
        Ok(files::remove(&self.dir.join("next-key.pem"))?)
    }

    /// What `caller` shows in a handshake.
    ///
    /// # Errors
    /// [`KeystoreError::Missing`] and the others, when it should show something and cannot.
    pub fn identity(
        &self,
        caller: Caller,
    ) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>, KeystoreError> {
        let (key, certificate) = match caller {
            Caller::Anonymous => return Ok(None),
            Caller::Current => ("key.pem", "certificate.pem"),
            Caller::Next => ("next-key.pem", "next-certificate.pem"),
        };
        let missing = |name: &str| KeystoreError::Missing { path: self.dir.join(name) };
        let der = self.read_certificate(certificate)?.ok_or_else(|| missing(certificate))?;
        let key = self.read_key(key)?.ok_or_else(|| missing(key))?;
        Ok(Some((vec![CertificateDer::from(der)], key.to_private_key_der())))
    }

    /// The key in use, to sign documents with.
    ///
    /// # Errors
    /// [`KeystoreError::Missing`] and the others, when it is not there or is of a kind that signs no documents.
    pub fn signer(&self) -> Result<IdentitySigner, KeystoreError> {
        let path = self.dir.join("key.pem");
        let key = self.read_key("key.pem")?.ok_or_else(|| KeystoreError::Missing { path: path.clone() })?;
        match PublicKey::from_spki_der(key.spki_der()) {
            Ok(public) => Ok(IdentitySigner { key, public }),
            Err(_) => Err(KeystoreError::Key { path, source: KeyError::Algorithm }),
        }
    }

    fn read_key(&self, name: &str) -> Result<Option<DeviceKey>, KeystoreError> {
        let path = self.dir.join(name);
        let Some(bytes) = files::read(&path, CAP)?.map(Zeroizing::new) else { return Ok(None) };
        let key = std::str::from_utf8(&bytes).map_err(|_| KeyError::Pem).and_then(DeviceKey::from_pem);
        key.map(Some).map_err(|source| KeystoreError::Key { path, source })
    }

    fn read_certificate(&self, name: &str) -> Result<Option<Vec<u8>>, KeystoreError> {
        let path = self.dir.join(name);
        let Some(bytes) = files::read(&path, CAP)? else { return Ok(None) };
        match CertificateDer::from_pem_slice(&bytes) {
            Ok(der) => Ok(Some(der.to_vec())),
            Err(_) => Err(KeystoreError::Certificate { path }),
        }
    }
}

/// The identity key as documents are signed with it.
#[derive(Debug)]
pub struct IdentitySigner {
    key: DeviceKey,
    public: PublicKey,
}

impl Signer for IdentitySigner {
    fn public_key(&self) -> PublicKey {
        self.public
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; SIGNATURE_LEN], SignError> {
        let signature = self.key.sign_fixed(message).map_err(|error| SignError(error.into()))?;
        signature.try_into().map_err(|_| SignError("a signature of another length".into()))
    }
}

/// The subject of a first request.
///
/// # Errors
/// [`KeystoreError::Serial`] when the serial number is no PrintableString of 1 to 64 characters.
pub fn subject(serial: Option<&str>) -> Result<Subject, KeystoreError> {
    let subject = Subject::new(HINT).map_err(KeystoreError::Serial)?;
    match serial {
        Some(serial) => subject.with_serial_number(serial).map_err(KeystoreError::Serial),
        None => Ok(subject),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first() -> Names {
        Names::First { serial: None }
    }

    #[test]
    fn a_key_that_was_made_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keystore::new(dir.path());
        let made = keys.make_next(&first()).unwrap();
        assert_eq!(keys.make_next(&first()).unwrap().spki, made.spki);
        assert_eq!(keys.held().unwrap().next_key, Some(made.digest()));
    }

    #[test]
    fn promotion_may_be_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keystore::new(dir.path());
        let made = keys.make_next(&first()).unwrap();
        keys.promote().unwrap();
        keys.promote().unwrap();
        let held = keys.held().unwrap();
        assert_eq!((held.key, held.next_key), (Some(made.digest()), None));
    }

    #[test]
    fn a_discarded_key_is_replaced_by_another() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keystore::new(dir.path());
        let made = keys.make_next(&first()).unwrap();
        keys.discard_next().unwrap();
        assert_ne!(keys.make_next(&first()).unwrap().spki, made.spki);
    }

    #[test]
    fn a_file_that_is_no_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keystore::new(dir.path());
        files::ensure_dir(keys.dir()).unwrap();
        files::write_atomic(&keys.dir().join("key.pem"), b"\xff not a key").unwrap();
        assert!(matches!(keys.held(), Err(KeystoreError::Key { path, .. }) if path.ends_with("key.pem")));
    }
}
