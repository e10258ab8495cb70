//! The CAs of an installation: how each is called, with which key it signs, where it publishes.

use super::keystore::{Keystore, KeystoreError};
use super::{Ca, CaError};
use crate::domain::issuers::IssuerName;
use muster_pki::issuer::{self, CaCertificate, CaKey};
use muster_pki::profile::{IssuerUrls, ProfileError};
use muster_wire::digest::Sha256Digest;

/// How an issuer is called: the first eight bytes of its key identifier.
pub type IssuerId = [u8; 8];

/// The name of `certificate`'s issuer in the store.
pub fn issuer_id(certificate: &CaCertificate) -> IssuerId {
    let mut id = [0; 8];
    for (to, from) in id.iter_mut().zip(certificate.key_identifier()) {
        *to = *from;
    }
    id
}

/// Names of the files of an issuing CA: its key and its certificate.
pub fn files_of(name: IssuerName) -> (String, String) {
    (format!("{name}.key"), format!("{name}.der"))
}

/// A CA of ours that signs: its certificate and its key.
pub(super) struct Signing {
    pub(super) certificate: CaCertificate,
    pub(super) key: CaKey,
}

impl Signing {
    pub(super) fn open(keys: &Keystore, certificate: &str, key_file: &str) -> Result<Self, CaError> {
        let pem = keys.read_private(key_file)?;
        let key = CaKey::from_pem(&pem).map_err(|_| CaError::Key { file: key_file.to_owned() })?;
        let certificate = CaCertificate::parse(&keys.read_bytes(certificate)?)?;
        let signing = Self { certificate, key };
        if !signing.fits() {
            return Err(CaError::Mismatch { file: key_file.to_owned() });
        }
        Ok(signing)
    }

    pub(super) fn issuing(keys: &Keystore, name: IssuerName) -> Result<Self, CaError> {
        let (key, certificate) = files_of(name);
        Self::open(keys, &certificate, &key)
    }

    fn fits(&self) -> bool {
        let public = Sha256Digest::of(issuer::CaSigner::spki_der(&self.key));
        public.as_bytes() == &self.certificate.spki_sha256()
    }
}

/// What an authority is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It signs the others.
    Root,
    /// It signs device leaves.
    Issuing,
    /// It will.
    Next,
    /// It did.
    Former {
        /// Last second of the validity of its last leaf, unix seconds.
        last_leaf: i64,
    },
    /// It signs server certificates.
    Names,
}

impl Role {
    /// One word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Issuing => "issuing",
            Self::Next => "next",
            Self::Former { .. } => "former",
            Self::Names => "names",
        }
    }
}

/// A former issuing CA; its key is there until its last leaf has expired, unless it was lost.
pub(super) struct Past {
    pub(super) name: IssuerName,
    pub(super) last_leaf: i64,
    pub(super) certificate: CaCertificate,
    pub(super) signing: Option<Signing>,
}

impl Past {
    pub(super) fn open(keys: &Keystore, former: crate::domain::issuers::Former) -> Result<Self, CaError> {
        let (name, last_leaf) = (former.name, former.last_leaf);
        if former.dropped {
            let certificate = CaCertificate::parse(&keys.read_bytes(&files_of(name).1)?)?;
            return Ok(Self { name, last_leaf, certificate, signing: None });
        }
        match Signing::issuing(keys, name) {
            Ok(signing) => {
                let certificate = signing.certificate.clone();
                Ok(Self { name, last_leaf, certificate, signing: Some(signing) })
            }
            // It was lost, and that is why there is another: everything but its lists goes on.
            Err(CaError::Keystore(KeystoreError::Missing { path }))
                if path == keys.path(&files_of(name).0) =>
            {
                tracing::warn!(key = %path.display(), "the key of a former issuing CA is missing: its revocation lists are not signed any more");
                let certificate = CaCertificate::parse(&keys.read_bytes(&files_of(name).1)?)?;
                Ok(Self { name, last_leaf, certificate, signing: None })
            }
            Err(error) => Err(error),
        }
    }
}

/// How the issuing CA `name` is called, by its certificate alone.
///
/// # Errors
/// [`CaError`], naming the file.
pub fn id_of(keys: &Keystore, name: IssuerName) -> Result<IssuerId, CaError> {
    Ok(issuer_id(&CaCertificate::parse(&keys.read_bytes(&files_of(name).1)?)?))
}

/// Removes the key of an issuing CA that signs nothing any more; one that is gone is no error.
///
/// # Errors
/// [`KeystoreError::Write`].
pub fn remove_key(keys: &Keystore, name: IssuerName) -> Result<(), KeystoreError> {
    keys.remove(&files_of(name).0)
}

/// Where each issuer publishes.
#[derive(Clone, Debug)]
pub struct StatusUrls {
    /// The root.
    pub root: IssuerUrls,
    /// The issuing CA that signs.
    pub issuing: IssuerUrls,
    /// The server-names CA.
    pub names: IssuerUrls,
    /// Every issuer that signs revocation lists of leaves.
    lists: Vec<(IssuerId, IssuerUrls)>,
}

impl StatusUrls {
    /// The URLs of `ca` beneath `base`, for instance `http://muster.example.org:8080`.
    ///
    /// # Errors
    /// [`ProfileError::Url`].
    pub fn of(ca: &Ca, base: &str) -> Result<Self, ProfileError> {
        let urls = |id: IssuerId| IssuerUrls::new(base, &hex::encode(id));
        let lists = ca.issuers().into_iter().map(|id| Ok((id, urls(id)?)));
        Ok(Self {
            root: urls(issuer_id(&ca.root))?,
            issuing: urls(ca.issuing_id())?,
            names: urls(ca.names_id())?,
            lists: lists.collect::<Result<_, ProfileError>>()?,
        })
    }

    /// Where `issuer` publishes, if it signs revocation lists of leaves.
    pub fn of_issuer(&self, issuer: IssuerId) -> Option<&IssuerUrls> {
        self.lists.iter().find(|(id, _)| *id == issuer).map(|(_, urls)| urls)
    }
}
