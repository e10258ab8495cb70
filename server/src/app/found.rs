//! Founding: keys, hierarchy, authority, store, log, the first operator's credential; and opening what was founded.
//!
//! ```text
//! marker `founding` ─▶ keys/ ─▶ store/ and audit/ ─▶ admin.credential ─▶ marker removed
//! ```
//! Nothing founded is used by anyone before the marker is gone: `serve` refuses a directory that has it. So a
//! founding that was interrupted is repaired by doing it again from the start, and whatever lies there of the
//! first try is removed by the second.

mod ceremony;
mod error;
mod issuing;
mod offline;

pub(crate) use self::ceremony::bracketed;
pub use self::error::FoundError;
pub use self::issuing::{Step, activate_issuing, drop_former, rotate_issuing};
pub use self::offline::{NewOperator, add_operator, check_root_list};

use self::error::io_error;
use super::audit::EngineSource;
use super::report::GENERATION_ID;
use crate::audit::{self, AuditKey, PinnedKey};
use crate::ca::keystore::{Keystore, KeystoreError, sync_dir, write_durably};
use crate::ca::{CaError, StatusUrls, ed25519_pem, file, fresh_ed25519, random};
use crate::clock::Clock;
use crate::config::Settings;
use crate::domain::issuers::Issuers;
use crate::domain::operator::{Operator, Secret};
use crate::domain::policy::{self, Caller, Permit, act};
use crate::domain::succession::Succession;
use crate::store::collections::{ALL, INSTALLATION};
use crate::store::embedded::{self, Founding as Open};
use crate::store::{Batch, Limits, Store};
use muster_wire::digest::Sha256Digest;
use muster_wire::envelope::{MultiSigned, payload_digest};
use muster_wire::id::{OperatorId, TrustDomain};
use muster_wire::key::{Ed25519Key, KeyError};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// Name of the file that says: a founding has begun here and has not ended.
const MARKER: &str = "founding";
/// Name of the first operator's credential.
pub const CREDENTIAL: &str = "admin.credential";
/// Name of the seed from which repeated requests derive their secrets.
const SEED_KEY: &str = "idempotency.key";
/// Under which id the founding's facts lie.
pub(super) const FOUNDING_ID: &[u8] = b"founding";
/// Under which id it is said which issuing CAs there are; nothing is there before the first is replaced.
const ISSUERS_ID: &[u8] = b"issuers";

/// Under which id it is said what successors of the authority document settled; nothing is there before the first.
pub(super) const SUCCESSION_ID: &[u8] = b"succession";

/// Under which id the authority document of `version` lies.
pub(super) fn authority_id(version: u64) -> Vec<u8> {
    let mut id = b"authority/".to_vec();
    id.extend_from_slice(&version.to_be_bytes());
    id
}

/// What is to be founded.
#[derive(Clone, Debug)]
pub struct FoundOptions {
    /// Where.
    pub data_dir: PathBuf,
    /// The host name under which devices reach this server.
    pub public_name: String,
    /// The trust domain; the public name where none is given.
    pub trust_domain: Option<String>,
    /// Who approves: name and Ed25519 key.
    pub approvers: Vec<(String, [u8; 32])>,
    /// Keys kept offline for the day when too few approvers are left.
    pub recovery: Vec<(String, [u8; 32])>,
    /// Whether one approver is enough for everything.
    pub solo: bool,
    /// Ports and advertised names.
    pub settings: Settings,
}

/// What was founded.
#[derive(Clone, Debug)]
pub struct Founded {
    /// The trust domain.
    pub trust_domain: String,
    /// Digest of the authority document, as enrolment strings carry it.
    pub authority_digest: Sha256Digest,
    /// The pin of the root.
    pub root_spki_sha256: Sha256Digest,
    /// Matters that these approvers cannot meet.
    pub unmet: Vec<String>,
    /// Where the first operator's credential is.
    pub credential_path: PathBuf,
}

/// What a founding settled for good, as the store keeps it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Facts {
    v: u8,
    trust_domain: TrustDomain,
    public_name: String,
    authority_digest: Sha256Digest,
    root_spki_sha256: Sha256Digest,
    founded_at: i64,
    solo: bool,
}

/// What a founding settled for good.
#[derive(Clone)]
pub struct Founding {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// Host name under which devices reach this server.
    pub public_name: String,
    /// Digest of the first authority document.
    pub authority_digest: Sha256Digest,
    /// Whether one approver is enough for everything.
    pub solo: bool,
    /// Which issuing CAs there are.
    pub issuers: Issuers,
    /// What successors of the authority document settled, as it stood at the start.
    pub succession: Succession,
    /// From which repeated requests derive their secrets.
    pub(super) derivation_seed: Zeroizing<[u8; 32]>,
}

/// Founds an installation. On return everything is on the disk.
///
/// # Errors
/// [`FoundError`]; then nothing of it is in use, and the same call may be made again.
pub fn found(options: &FoundOptions) -> Result<Founded, FoundError> {
    let trust_domain = check(options)?;
    let dir = &options.data_dir;
    begin(dir)?;
    let clock = Clock::system();
    let now_s = clock.now_s();
    let keys = Keystore::of(dir);
    keys.create()?;
    let root_pin = ceremony::hierarchy(&keys, options, &trust_domain, now_s)?;
    let command = fresh_ed25519();
    keys.write(file::COMMAND_KEY, ed25519_pem(&command, file::COMMAND_KEY)?.as_bytes())?;
    let audit_key = fresh_ed25519();
    keys.write(file::AUDIT_KEY, ed25519_pem(&audit_key, file::AUDIT_KEY)?.as_bytes())?;
    keys.write(SEED_KEY, hex::encode(random::<32>()).as_bytes())?;

    let audit_public =
        Ed25519Key::from_bytes(&audit_key.verifying_key().to_bytes()).map_err(|e| own_key(&e))?;
    let command_public =
        Ed25519Key::from_bytes(&command.verifying_key().to_bytes()).map_err(|e| own_key(&e))?;
    let authority = ceremony::authority(options, &trust_domain, (command_public, audit_public), now_s)?;
    let mut signed = MultiSigned::unsigned(&authority);
    signed.add_signature(&command).map_err(|_| CaError::no_key(file::COMMAND_KEY))?;

    let facts = Facts {
        v: 1,
        trust_domain: trust_domain.clone(),
        public_name: options.public_name.clone(),
        authority_digest: payload_digest(&authority),
        root_spki_sha256: root_pin,
        founded_at: now_s,
        solo: options.solo,
    };
    let secret = Secret::from_entropy(&Zeroizing::new(random()));
    let log_key = AuditKey::new(trust_domain.as_str(), Arc::new(audit_key))
        .map_err(|_| CaError::no_key(file::AUDIT_KEY))?;
    commit_founding(
        dir,
        &clock,
        log_key,
        &First { facts: &facts, authority: &signed.to_bytes(), secret: &secret },
    )?;
    let credential_path = write_credential(options, &facts, &secret)?;
    end(dir)?;
    let approvers = options.approvers.len();
    let unmet = if options.solo { Vec::new() } else { authority.required.unmet(approvers) };
    Ok(Founded {
        trust_domain: trust_domain.as_str().to_owned(),
        authority_digest: facts.authority_digest,
        root_spki_sha256: root_pin,
        unmet: unmet.into_iter().map(|matter| matter.as_str().to_owned()).collect(),
        credential_path,
    })
}

fn own_key(_: &KeyError) -> FoundError {
    FoundError::Ca(CaError::no_key(file::COMMAND_KEY))
}

fn check(options: &FoundOptions) -> Result<TrustDomain, FoundError> {
    let invalid = |what: &str, expected| FoundError::Invalid { what: what.to_owned(), expected };
    if !is_host(&options.public_name) {
        return Err(invalid(
            "--public-name",
            "must be the host name or address under which devices reach this server; give it without scheme, port \
             and blanks, for instance muster.example.com",
        ));
    }
    if options.solo && options.approvers.len() > 1 {
        return Err(invalid("--solo", "takes one approver at most; leave it out to found with several"));
    }
    if !options.solo && options.approvers.is_empty() {
        return Err(invalid(
            "an approver",
            "is needed; name their public keys with --approver, or found with --solo",
        ));
    }
    let name = options.trust_domain.as_ref().unwrap_or(&options.public_name);
    name.parse().map_err(|_| {
        invalid(
            "the trust domain",
            "must be lower-case letters, digits, dots and dashes; name another with --trust-domain",
        )
    })
}

/// Whether `name` can stand in a URL and a certificate.
fn is_host(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-');
    let label =
        |label: &str| (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-');
    let address = name.parse::<std::net::IpAddr>().is_ok();
    address || (name.len() <= 253 && name.bytes().all(plain) && name.split('.').all(label))
}

/// Sets the marker in an empty directory, or removes what an interrupted founding left.
fn begin(dir: &Path) -> Result<(), FoundError> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io_error("make", dir))?;
    let marker = dir.join(MARKER);
    if marker.exists() {
        for name in ["keys", "store", "audit"] {
            remove(&dir.join(name), |path| fs::remove_dir_all(path))?;
        }
        remove(&dir.join(CREDENTIAL), |path| fs::remove_file(path))?;
        return Ok(());
    }
    if dir.join(CREDENTIAL).exists() || dir.join("store").exists() {
        return Err(FoundError::AlreadyFounded { dir: dir.to_path_buf() });
    }
    for entry in fs::read_dir(dir).map_err(io_error("read", dir))? {
        let name = entry.map_err(io_error("read", dir))?.file_name().to_string_lossy().into_owned();
        let ours = [crate::config::FILE_NAME, "lost+found", "founding.new", "approver.key", "approver.pub"]
            .contains(&name.as_str());
        if !ours {
            return Err(FoundError::NotEmpty { dir: dir.to_path_buf(), found: name });
        }
    }
    write_durably(&marker, b"founding has begun and not ended; run the same `muster init` again\n")
        .map_err(io_error("write", &marker))?;
    sync_dir(dir.parent().unwrap_or(dir)).map_err(io_error("sync", dir))
}

fn remove(path: &Path, remove: impl Fn(&Path) -> io::Result<()>) -> Result<(), FoundError> {
    match remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(error)),
        _ => Ok(()),
    }
}

fn end(dir: &Path) -> Result<(), FoundError> {
    let marker = dir.join(MARKER);
    fs::remove_file(&marker).and_then(|()| sync_dir(dir)).map_err(io_error("remove", &marker))
}

/// What the first commit holds.
struct First<'a> {
    facts: &'a Facts,
    authority: &'a [u8],
    secret: &'a Secret,
}

fn commit_founding(dir: &Path, clock: &Clock, key: AuditKey, first: &First<'_>) -> Result<(), FoundError> {
    let permit = policy::decide::<act::Found>(Caller::server())
        .map_err(|_| FoundError::Unreadable { dir: dir.to_path_buf() })?;
    let audit_dir = dir.join("audit");
    fs::create_dir_all(&audit_dir).map_err(io_error("make", &audit_dir))?;
    audit::found(&audit_dir, &key)?;
    let engine = embedded::open(&embedded::Options::new(dir.join("store"), Open::OrCreate))?;
    let (log, mut publisher) = audit::open(&EngineSource(engine.as_ref()), &audit_dir, key, &[])?;
    let store = Store::open(engine, ALL, Box::new(log), Box::new(|_| {}), Limits::default())?;
    let batch = founding_batch(&store, &permit, clock.now_ms(), first)
        .map_err(|_| FoundError::Unreadable { dir: dir.to_path_buf() })?;
    commit_and_close(dir, &store, &mut publisher, batch)
}

/// Commits `batch`, signs a checkpoint over it and closes the store.
fn commit_and_close(
    dir: &Path,
    store: &Store,
    publisher: &mut audit::Publisher,
    batch: Batch,
) -> Result<(), FoundError> {
    let runtime = brief_runtime(dir)?;
    let committed = runtime.block_on(store.commit(batch)).map(|_| ());
    let published = publisher.publish(&super::LogSource(store.clone())).map(|_| ());
    runtime.block_on(store.close())?;
    committed?;
    published.map_err(|error| {
        io_error("publish the log's checkpoint in", &dir.join("audit"))(io::Error::other(error))
    })
}

/// Closes a store in which nothing was changed, so that the next who opens it finds it free.
fn close(dir: &Path, store: &Store) -> Result<(), FoundError> {
    Ok(brief_runtime(dir)?.block_on(store.close())?)
}

fn brief_runtime(dir: &Path) -> Result<tokio::runtime::Runtime, FoundError> {
    tokio::runtime::Builder::new_current_thread().build().map_err(io_error("start", dir))
}

fn founding_batch(
    store: &Store,
    permit: &Permit<act::Found>,
    now_ms: i64,
    first: &First<'_>,
) -> Result<Batch, Box<dyn std::error::Error>> {
    let facts = first.facts;
    let operator = Operator {
        v: 1,
        id: OperatorId::from_parts(super::enroll::ms(now_ms), random()),
        name: "admin".to_owned(),
        created_at: facts.founded_at,
        created_by: String::new(),
        removed_at: None,
    };
    let entry = permit.entry(now_ms, "installation".to_owned()).states("", "founded").facts([
        ("authority_sha256", facts.authority_digest.to_hex()),
        ("root_spki_sha256", facts.root_spki_sha256.to_hex()),
        ("trust_domain", facts.trust_domain.as_str().to_owned()),
    ]);
    let added = permit.entry(now_ms, "operator/admin".to_owned()).states("", "added");
    let mut batch = Batch::default()
        .insert(first.secret.digest().as_bytes(), &operator)
        .put(INSTALLATION.key(FOUNDING_ID), serde_json::to_vec(facts)?)
        .audit(entry)
        .audit(added);
    store.put_document(&mut batch, &INSTALLATION.key(&authority_id(1)), first.authority)?;
    Ok(batch)
}

/// What a credential file holds.
fn credential_text(
    settings: &Settings,
    public_name: &str,
    root_pin: Sha256Digest,
    secret: &Secret,
) -> Zeroizing<String> {
    let admin = settings.listen.admin;
    let host = if admin.ip().is_unspecified() { public_name.to_owned() } else { admin.ip().to_string() };
    let port = if admin.port() == 0 { Settings::default().listen.admin.port() } else { admin.port() };
    let credential = serde_json::json!({
        "server": format!("https://{}:{port}", bracketed(&host)),
        "root_spki_sha256": root_pin,
        "token": secret.reveal(),
    });
    Zeroizing::new(format!("{credential:#}\n"))
}

fn write_credential(options: &FoundOptions, facts: &Facts, secret: &Secret) -> Result<PathBuf, FoundError> {
    let path = options.data_dir.join(CREDENTIAL);
    let text = credential_text(&options.settings, &options.public_name, facts.root_spki_sha256, secret);
    write_durably(&path, text.as_bytes()).map_err(io_error("write", &path))?;
    Ok(path)
}

/// Whether `dir` holds a founded installation.
///
/// # Errors
/// [`FoundError::NotFounded`], [`FoundError::Interrupted`]; [`FoundError::Forbidden`] where this user may not look.
pub fn founded(dir: &Path) -> Result<(), FoundError> {
    let is_there = |name: &str| match fs::symlink_metadata(dir.join(name)) {
        Ok(_) => Ok(true),
        Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
            Err(FoundError::Forbidden { dir: dir.to_path_buf(), source })
        }
        Err(_) => Ok(false),
    };
    if is_there(MARKER)? {
        return Err(FoundError::Interrupted { dir: dir.to_path_buf() });
    }
    if !is_there("store")? && !is_there("keys")? {
        return Err(FoundError::NotFounded { dir: dir.to_path_buf() });
    }
    Ok(())
}

impl std::fmt::Debug for Founding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Founding({})", self.trust_domain.as_str())
    }
}

impl Founding {
    /// Reads what the founding of `dir` settled.
    ///
    /// # Errors
    /// [`FoundError::Unreadable`], [`FoundError::Keystore`].
    pub fn read(dir: &Path, engine: &dyn crate::store::Engine) -> Result<Self, FoundError> {
        let unreadable = || FoundError::Unreadable { dir: dir.to_path_buf() };
        let found =
            engine.get(&INSTALLATION.key(FOUNDING_ID)).map_err(|_| unreadable())?.ok_or_else(unreadable)?;
        let facts: Facts = serde_json::from_slice(&found.value).map_err(|_| unreadable())?;
        let issuers = match engine.get(&INSTALLATION.key(ISSUERS_ID)).map_err(|_| unreadable())? {
            Some(found) => serde_json::from_slice(&found.value).map_err(|_| unreadable())?,
            None => Issuers::default(),
        };
        let succession = match engine.get(&INSTALLATION.key(SUCCESSION_ID)).map_err(|_| unreadable())? {
            Some(found) => serde_json::from_slice(&found.value).map_err(|_| unreadable())?,
            None => Succession::default(),
        };
        let no_seed = |path| FoundError::NoSeed { path };
        let text = match Keystore::of(dir).read_private(SEED_KEY) {
            Err(KeystoreError::Missing { path }) => return Err(no_seed(path)),
            read => read?,
        };
        let mut seed = Zeroizing::new([0; 32]);
        hex::decode_to_slice(text.trim(), seed.as_mut_slice())
            .map_err(|_| no_seed(Keystore::of(dir).path(SEED_KEY)))?;
        Ok(Self {
            trust_domain: facts.trust_domain,
            public_name: facts.public_name,
            authority_digest: facts.authority_digest,
            solo: facts.solo,
            issuers,
            succession,
            derivation_seed: seed,
        })
    }

    /// The audit keys that signed checkpoints before the one in force, oldest first.
    ///
    /// # Errors
    /// [`FoundError::Unreadable`].
    pub fn former_audit_keys(&self, dir: &Path) -> Result<Vec<PinnedKey>, FoundError> {
        let unreadable = || FoundError::Unreadable { dir: dir.to_path_buf() };
        let origin = format!("{}/audit", self.trust_domain.as_str());
        let read = |text: &String| {
            let mut bytes = [0; 32];
            hex::decode_to_slice(text, &mut bytes).ok()?;
            PinnedKey::new(&origin, Ed25519Key::from_bytes(&bytes).ok()?).ok()
        };
        self.succession.former_audit.iter().map(|text| read(text).ok_or_else(unreadable)).collect()
    }
}

/// Where each issuer of `ca` publishes, beneath `base`.
///
/// # Errors
/// [`CaError::Urls`].
pub fn status_urls(ca: &crate::ca::Ca, base: &str) -> Result<StatusUrls, CaError> {
    StatusUrls::of(ca, base).map_err(CaError::from)
}
