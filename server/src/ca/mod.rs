//! The one place where private keys are used.
//!
//! A leaf is signed only for a [`Grant`], which only the authorisation step can make; what is signed is linted
//! first, by another parser than the writer's ([`muster_pki::issuer`]). Nothing signed here leaves the process
//! before the commit that records it.

mod authorities;
pub mod keystore;
mod server_keys;

use crate::domain::issuance::Grant;
use crate::domain::issuers::{IssuerName, Issuers};
use crate::domain::observer::ObserverGrant;
use crate::domain::policy::{Permit, act};
use crate::domain::succession::Succession;
pub use authorities::{IssuerId, Role, StatusUrls, files_of, id_of, issuer_id, remove_key};
use authorities::{Past, Signing};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use keystore::{Keystore, KeystoreError};
use muster_pki::crl::{self, ListError, Revoked, Scope};
use muster_pki::csr::VerifiedCsr;
use muster_pki::hierarchy::{self, Authority, ServerTerms};
pub use muster_pki::issuer::CaCertificate;
use muster_pki::issuer::{self, IssueError, Issued, LeafTerms};
use muster_pki::profile::{LeafNames, LeafProfile, ProfileError};
use muster_pki::serial::Serial;
use muster_wire::desired::Baseline;
use muster_wire::digest::Sha256Digest;
use muster_wire::envelope::{MultiSigned, SignedOnce, sign1};
use muster_wire::id::{TrustDomain, device_uri, observer_uri};
use muster_wire::key::{Ed25519Key, SignError, Signer};
use server_keys::ServerKeys;
pub use server_keys::{Purpose, Replacement, key_file};
use std::sync::Arc;
use zeroize::Zeroizing;

/// Names of the files in `keys/`.
pub mod file {
    /// The root's private key; may be taken away after founding.
    pub const ROOT_KEY: &str = "root.key";
    /// The root's certificate.
    pub const ROOT: &str = "root.der";
    /// The root's own CRL, made at founding.
    pub const ROOT_CRL: &str = "root.crl";
    /// The server-names CA's private key.
    pub const NAMES_KEY: &str = "server-names.key";
    /// The server-names CA's certificate.
    pub const NAMES: &str = "server-names.der";
    /// The command key: signs orders and desired state.
    pub const COMMAND_KEY: &str = "command.key";
    /// The audit key: signs checkpoints.
    pub const AUDIT_KEY: &str = "audit.key";
}

/// Why the CA could not be opened or did not sign.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// A file is missing, unreadable or too open.
    #[error("the keys could not be read")]
    Keystore(#[from] KeystoreError),
    /// A key file does not hold a key.
    #[error("{file} holds no usable private key; restore it from its backup")]
    Key {
        /// Which file.
        file: String,
    },
    /// A key and the certificate beside it do not fit each other.
    #[error("{file} is not the key of the certificate beside it; restore both from one backup")]
    Mismatch {
        /// Which file.
        file: String,
    },
    /// A former authority whose key is gone was to sign, or one that never was.
    #[error("no key of this installation signs for issuer {issuer}")]
    NoIssuer {
        /// Which.
        issuer: String,
    },
    /// The certificate, server certificate or list was not issued.
    #[error("issuing failed")]
    Issue(#[from] IssueError),
    /// The root's list of revoked authorities is not what the founding wrote.
    #[error("{file} cannot be served; restore it from the backup of keys/")]
    RootList {
        /// Which file.
        file: &'static str,
        /// What is wrong with it.
        #[source]
        source: ListError,
    },
    /// The status URL cannot stand in a certificate.
    #[error("the advertised status address cannot stand in a certificate")]
    Urls(#[from] ProfileError),
}

impl CaError {
    /// `file` holds no usable key.
    pub fn no_key(file: impl Into<String>) -> Self {
        Self::Key { file: file.into() }
    }
}

/// The CA of one installation, keys in memory.
pub struct Ca {
    root: CaCertificate,
    issuing: Signing,
    next: Option<Signing>,
    former: Vec<Past>,
    names: Signing,
    issuers: Issuers,
    root_crl: Vec<u8>,
    servers: ServerKeys,
    trust_domain: TrustDomain,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ca({})", self.trust_domain.as_str())
    }
}

impl Ca {
    /// Reads the keys and certificates of `keys` that `issuers` and `succession` name; the root's key is not needed.
    ///
    /// # Errors
    /// [`CaError`], naming the file.
    pub fn open(
        keys: &Keystore,
        trust_domain: TrustDomain,
        issuers: &Issuers,
        succession: &Succession,
    ) -> Result<Self, CaError> {
        let (root, root_crl) = root_and_list(keys)?;
        Ok(Self {
            root,
            issuing: Signing::issuing(keys, issuers.signs)?,
            next: issuers.next.map(|next| Signing::issuing(keys, next)).transpose()?,
            former: issuers.former.iter().map(|one| Past::open(keys, *one)).collect::<Result<_, _>>()?,
            issuers: issuers.clone(),
            names: Signing::open(keys, file::NAMES, file::NAMES_KEY)?,
            root_crl,
            servers: ServerKeys::open(keys, succession)?,
            trust_domain,
        })
    }

    /// Signs the leaf that `grant` allows, with the key of `csr` and nothing else of it.
    ///
    /// # Errors
    /// [`CaError::Issue`] when the lint objects or the key fails; nothing was issued.
    pub fn issue(
        &self,
        grant: &Grant,
        csr: &VerifiedCsr,
        profile: &LeafProfile,
        at: At<'_>,
    ) -> Result<Issued, CaError> {
        let names = LeafNames {
            uri: device_uri(self.trust_domain.as_str(), grant.device()),
            common_name: grant.device().to_string(),
            serial_number: grant.serial_number().map(str::to_owned),
        };
        self.sign_leaf(&names, csr, profile, at)
    }

    /// Signs the leaf of an observer, as [`Ca::issue`] does a device's.
    ///
    /// # Errors
    /// As [`Ca::issue`].
    pub fn issue_observer(
        &self,
        grant: &ObserverGrant,
        csr: &VerifiedCsr,
        profile: &LeafProfile,
        at: At<'_>,
    ) -> Result<Issued, CaError> {
        let names = LeafNames {
            uri: observer_uri(self.trust_domain.as_str(), grant.name()),
            common_name: grant.name().to_string(),
            serial_number: None,
        };
        self.sign_leaf(&names, csr, profile, at)
    }

    fn sign_leaf(
        &self,
        names: &LeafNames,
        csr: &VerifiedCsr,
        profile: &LeafProfile,
        at: At<'_>,
    ) -> Result<Issued, CaError> {
        let terms = LeafTerms { profile, names, urls: &at.urls.issuing, serial: fresh_serial() };
        Ok(issuer::prepare(csr, &terms, &self.issuing.certificate, at.now_s)?.sign(&self.issuing.key)?)
    }

    /// Signs the server's own TLS certificate for `spki_der`.
    ///
    /// # Errors
    /// [`CaError::Issue`].
    pub fn issue_server(
        &self,
        _permit: &Permit<act::IssueServerCertificate>,
        spki_der: &[u8],
        names: &ServerNames,
        at: At<'_>,
    ) -> Result<Issued, CaError> {
        let authority =
            Authority { certificate: &self.names.certificate, key: &self.names.key, urls: &at.urls.names };
        let terms = ServerTerms {
            names: &names.names,
            addresses: &names.addresses,
            validity_s: names.validity_s,
            serial: fresh_serial(),
        };
        Ok(hierarchy::issue_server_certificate(&authority, spki_der, &terms, at.now_s)?)
    }

    /// Signs the CRL of one shard of `issuer`.
    ///
    /// # Errors
    /// [`CaError::NoIssuer`] where it has no key here, [`CaError::Issue`].
    pub fn sign_crl(&self, issuer: IssuerId, list: &List<'_>, urls: &StatusUrls) -> Result<Vec<u8>, CaError> {
        let signer = self.signers().find(|signer| issuer_id(&signer.certificate) == issuer);
        let (Some(signer), Some(urls)) = (signer, urls.of_issuer(issuer)) else {
            return Err(CaError::NoIssuer { issuer: hex::encode(issuer) });
        };
        let authority = Authority { certificate: &signer.certificate, key: &signer.key, urls };
        let scope = Scope::Leaves { shard: list.shard };
        Ok(crl::sign_list(&authority, scope, list.entries, list.number, list.now_s)?)
    }

    /// Everyone who signs revocation lists of leaves.
    fn signers(&self) -> impl Iterator<Item = &Signing> {
        let former = self.former.iter().filter_map(|past| past.signing.as_ref());
        [&self.issuing, &self.names].into_iter().chain(&self.next).chain(former)
    }

    /// How those are called who sign revocation lists of leaves.
    pub fn issuers(&self) -> Vec<IssuerId> {
        self.signers().map(|signer| issuer_id(&signer.certificate)).collect()
    }

    /// How the issuing CA that signs is called.
    pub fn issuing_id(&self) -> IssuerId {
        issuer_id(&self.issuing.certificate)
    }

    /// How the former issuing CA of this name is called.
    fn former_id(&self, name: IssuerName) -> Option<IssuerId> {
        self.former.iter().find(|past| past.name == name).map(|past| issuer_id(&past.certificate))
    }

    /// How the server-names CA is called.
    pub fn names_id(&self) -> IssuerId {
        issuer_id(&self.names.certificate)
    }

    /// How the issuing CA is called that signed the leaf with this ordinal.
    pub fn issuer_of(&self, ordinal: u64) -> IssuerId {
        self.former_id(self.issuers.of_ordinal(ordinal)).unwrap_or_else(|| self.issuing_id())
    }

    /// The issuer of leaves with this name in paths: lower-case hexadecimal of its id.
    pub fn issuer_named(&self, name: &str) -> Option<IssuerId> {
        self.issuers().into_iter().find(|issuer| hex::encode(issuer) == name)
    }

    /// Which issuing CAs there are.
    pub fn lineup(&self) -> &Issuers {
        &self.issuers
    }

    /// The root's name in paths.
    pub fn root_name(&self) -> String {
        hex::encode(issuer_id(&self.root))
    }

    /// The root's own CRL, made at founding, DER.
    pub fn root_crl(&self) -> &[u8] {
        &self.root_crl
    }

    /// The authorities that count: the root, the issuing CAs, the server-names CA. A former one counts until its key
    /// is gone.
    pub fn certificates(&self) -> Vec<(Role, &CaCertificate)> {
        let next = self.next.iter().map(|next| (Role::Next, &next.certificate));
        let former = self.former.iter().filter(|past| past.signing.is_some());
        let former = former.map(|past| (Role::Former { last_leaf: past.last_leaf }, &past.certificate));
        [(Role::Root, &self.root), (Role::Issuing, &self.issuing.certificate)]
            .into_iter()
            .chain(next)
            .chain(former)
            .chain([(Role::Names, &self.names.certificate)])
            .collect()
    }

    /// The CA certificate with this name in paths, also of a former one whose key is gone.
    pub fn certificate_named(&self, name: &str) -> Option<&CaCertificate> {
        let all = self.certificates().into_iter().map(|(_, certificate)| certificate);
        all.chain(self.former.iter().map(|past| &past.certificate))
            .find(|certificate| hex::encode(issuer_id(certificate)) == name)
    }

    /// The DER of what a server sends after its own certificate: server-names CA, then root.
    pub fn server_chain(&self) -> [&[u8]; 2] {
        [self.names.certificate.der(), self.root.der()]
    }

    /// The issuing CAs whose leaves our doors may let in, DER. Which of the leaves they do let in, and how long after
    /// its expiry, is the table's to say: so this holds every former one for ever.
    pub fn leaf_issuers(&self) -> Vec<&[u8]> {
        let next = self.next.iter().map(|next| next.certificate.der());
        let former = self.former.iter().map(|past| past.certificate.der());
        [self.issuing.certificate.der()].into_iter().chain(next).chain(former).collect()
    }

    /// The root, DER.
    pub fn root_der(&self) -> &[u8] {
        self.root.der()
    }

    /// SHA-256 of the root's subject public key info: the pin of enrolment strings and credentials.
    pub fn root_pin(&self) -> Sha256Digest {
        Sha256Digest(self.root.spki_sha256())
    }

    /// Whether `spki` is the key of one of our CAs.
    pub fn is_own_key(&self, spki: &Sha256Digest) -> bool {
        let past = self.former.iter().map(|past| &past.certificate);
        let mut all = self.certificates().into_iter().map(|(_, certificate)| certificate).chain(past);
        all.any(|certificate| &certificate.spki_sha256() == spki.as_bytes())
    }

    /// The audit key, for checkpoints.
    pub fn audit_key(&self) -> Arc<dyn Signer + Send + Sync> {
        Arc::new(self.servers.audit())
    }

    /// Signs a document that the command key signs alone: a head, an order, an acknowledgement.
    ///
    /// # Errors
    /// [`SignError`] when the key fails.
    pub fn sign_command<T: SignedOnce>(&self, document: &T) -> Result<Vec<u8>, SignError> {
        sign1(document, &self.servers.command())
    }

    /// Signs a baseline with the command key; approvers add their signatures where a section needs them. The same
    /// baseline gives the same bytes.
    ///
    /// # Errors
    /// [`SignError`] when the key fails.
    pub fn sign_baseline(&self, baseline: &Baseline) -> Result<MultiSigned<Baseline>, SignError> {
        let mut signed = MultiSigned::unsigned(baseline);
        signed.add_signature(&self.servers.command())?;
        Ok(signed)
    }

    /// The command key's public half.
    pub fn command_public(&self) -> [u8; 32] {
        self.servers.command().verifying_key().to_bytes()
    }

    /// Makes a key for a successor of the authority document; on return it is on the disk, and nothing uses it.
    ///
    /// # Errors
    /// [`CaError::Keystore`].
    pub fn make_server_key(&self, purpose: Purpose) -> Result<Ed25519Key, CaError> {
        self.servers.make(purpose)
    }

    /// Reads the keys that a successor names, where it replaces any.
    ///
    /// # Errors
    /// [`CaError`], naming the file: the successor must not take over then.
    pub fn prepare_server_keys(
        &self,
        command: Option<&Ed25519Key>,
        audit: Option<&Ed25519Key>,
    ) -> Result<Replacement, CaError> {
        self.servers.prepare(command, audit)
    }

    /// Signs with the keys of `replacement` from now on.
    pub fn replace_server_keys(&self, replacement: Replacement) {
        self.servers.replace(replacement);
    }

    /// Removes the files of all command and audit keys but those in force by `succession` and those in `pending`.
    ///
    /// # Errors
    /// [`CaError::Keystore`].
    pub fn clear_server_keys(&self, succession: &Succession, pending: &[String]) -> Result<(), CaError> {
        Ok(self.servers.clear(succession, pending)?)
    }

    /// The names of devices lie in here.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }
}

/// Where and when something is issued.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    /// Where issuers publish.
    pub urls: &'a StatusUrls,
    /// Unix seconds.
    pub now_s: i64,
}

/// What a server certificate says.
#[derive(Clone, Debug)]
pub struct ServerNames {
    /// DNS names.
    pub names: Vec<String>,
    /// IP addresses.
    pub addresses: Vec<std::net::IpAddr>,
    /// Life in seconds.
    pub validity_s: i64,
}

/// What a CRL says.
#[derive(Clone, Copy, Debug)]
pub struct List<'a> {
    /// Which shard.
    pub shard: u8,
    /// Its entries.
    pub entries: &'a [Revoked],
    /// Its number, higher than every earlier one of the shard.
    pub number: u64,
    /// When it is signed, unix seconds.
    pub now_s: i64,
}

/// A serial number of 16 random bytes, positive.
pub fn fresh_serial() -> Serial {
    Serial::from_random(random())
}

/// Bytes from the operating system.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    #[expect(
        clippy::expect_used,
        reason = "without randomness no key, token or serial number may be made at all"
    )]
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

/// A new Ed25519 key.
pub fn fresh_ed25519() -> SigningKey {
    SigningKey::from_bytes(&Zeroizing::new(random()))
}

/// An Ed25519 key as PKCS#8 PEM.
///
/// # Errors
/// [`CaError::Key`].
pub fn ed25519_pem(key: &SigningKey, file: &'static str) -> Result<Zeroizing<String>, CaError> {
    key.to_pkcs8_pem(ed25519_dalek::pkcs8::spki::der::pem::LineEnding::LF).map_err(|_| CaError::no_key(file))
}

/// The root's certificate, and its list of revoked authorities, which it signed.
///
/// # Errors
/// [`CaError::Keystore`], [`CaError::Issue`], [`CaError::RootList`].
pub fn root_and_list(keys: &Keystore) -> Result<(CaCertificate, Vec<u8>), CaError> {
    let root = CaCertificate::parse(&keys.read_bytes(file::ROOT)?)?;
    let list = keys.read_bytes(file::ROOT_CRL)?;
    crl::check_list(&list, &root).map_err(|source| CaError::RootList { file: file::ROOT_CRL, source })?;
    Ok((root, list))
}

/// The audit key of `keys` alone, for checkpoints.
///
/// # Errors
/// [`CaError`], naming the file.
pub fn audit_key(keys: &Keystore, succession: &Succession) -> Result<Arc<dyn Signer + Send + Sync>, CaError> {
    Ok(Arc::new(read_ed25519(keys, Purpose::Audit.file(succession))?))
}

fn read_ed25519(keys: &Keystore, file: &str) -> Result<SigningKey, CaError> {
    SigningKey::from_pkcs8_pem(&keys.read_private(file)?).map_err(|_| CaError::no_key(file))
}
