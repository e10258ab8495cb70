//! What is done to an installation while no server runs: a credential for whoever lost the last one, and a look at
//! a file that the server would refuse.
//!
//! Who may write in the data directory may do this; there is no other authorisation, and the entry in the audit log
//! says so.

use super::error::FoundError;
use super::{Founding, close, commit_and_close, credential_text, founded};
use crate::app::EngineSource;
use crate::audit::{self, AuditKey};
use crate::ca::keystore::Keystore;
use crate::ca::{CaError, audit_key, file, random, root_and_list};
use crate::clock::Clock;
use crate::config::Settings;
use crate::domain::operator::{Operator, Secret, is_name};
use crate::domain::policy::{self, Caller, act};
use crate::store::collections::{ALL, OPERATORS};
use crate::store::embedded::{self, Founding as Open};
use crate::store::{Batch, Limits, Store};
use muster_wire::digest::Sha256Digest;
use muster_wire::id::OperatorId;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// An operator that was added while no server ran.
pub struct NewOperator {
    /// Its id.
    pub id: OperatorId,
    /// What its credential file holds.
    pub credential: Zeroizing<String>,
}

/// Adds the operator `name` to the installation in `dir`, which no server may have open. On return the operator is
/// on the disk, in the audit log, and covered by a checkpoint.
///
/// # Errors
/// [`FoundError::Store`] while a server runs; [`FoundError::Invalid`] for a name that is none or is taken.
pub fn add_operator(dir: &Path, name: &str, settings: &Settings) -> Result<NewOperator, FoundError> {
    founded(dir)?;
    let invalid = |expected| FoundError::Invalid { what: format!("the name {name:?}"), expected };
    if !is_name(name) {
        return Err(invalid("is no operator's name; use 1 to 64 of a-z, 0-9 and . _ - @"));
    }
    let offline = Offline::open(dir)?;
    if is_taken(&offline.store, name, dir)? {
        return offline.refuse(invalid(
            "is an operator's already; add another name, then remove the one whose file is lost",
        ));
    }
    let pin = match root_and_list(&offline.keys) {
        Ok((root, _)) => Sha256Digest(root.spki_sha256()),
        Err(error) => return offline.refuse(error.into()),
    };
    let clock = &offline.clock;
    let secret = Secret::from_entropy(&Zeroizing::new(random()));
    let operator = Operator {
        v: 1,
        id: OperatorId::from_parts(crate::app::enroll::ms(clock.now_ms()), random()),
        name: name.to_owned(),
        created_at: clock.now_s(),
        created_by: "local".to_owned(),
        removed_at: None,
    };
    let permit = policy::decide::<act::AddOperatorLocally>(Caller::server())
        .map_err(|_| FoundError::Unreadable { dir: dir.to_path_buf() })?;
    let entry = permit.entry(clock.now_ms(), format!("operator/{name}")).states("", "added");
    let batch = Batch::default().insert(secret.digest().as_bytes(), &operator).audit(entry);
    let name = settings.public_name.as_deref().unwrap_or(&offline.founding.public_name);
    let credential = credential_text(settings, name, pin, &secret);
    offline.commit(batch)?;
    Ok(NewOperator { id: operator.id, credential })
}

/// An installation that nobody serves, opened to change it: the store's lock is held. Of the keys only the audit key has
/// to be there: a lost one is a reason to be here.
pub(super) struct Offline {
    pub(super) dir: PathBuf,
    pub(super) store: Store,
    pub(super) founding: Founding,
    pub(super) keys: Keystore,
    pub(super) clock: Clock,
    publisher: audit::Publisher,
}

impl Offline {
    /// Opens the installation in `dir`, which no server may have open.
    ///
    /// # Errors
    /// [`FoundError::Store`] while a server runs; whatever keeps store, audit log or audit key from being opened.
    pub(super) fn open(dir: &Path) -> Result<Self, FoundError> {
        founded(dir)?;
        let (clock, audit_dir) = (Clock::system(), dir.join("audit"));
        let engine = embedded::open(&embedded::Options::new(dir.join("store"), Open::Existing))?;
        let founding = Founding::read(dir, engine.as_ref())?;
        let keys = Keystore::of(dir);
        let key = AuditKey::new(founding.trust_domain.as_str(), audit_key(&keys, &founding.succession)?)
            .map_err(|_| CaError::no_key(file::AUDIT_KEY))?;
        let former = founding.former_audit_keys(dir)?;
        let (log, publisher) = audit::open(&EngineSource(engine.as_ref()), &audit_dir, key, &former)?;
        let store = Store::open(engine, ALL, Box::new(log), Box::new(|_| {}), Limits::default())?;
        Ok(Self { dir: dir.to_path_buf(), store, founding, keys, clock, publisher })
    }

    /// Commits `batch`, covers it by a checkpoint and lets go of the installation.
    pub(super) fn commit(mut self, batch: Batch) -> Result<(), FoundError> {
        commit_and_close(&self.dir, &self.store, &mut self.publisher, batch)
    }

    /// Lets go of the installation, in which nothing was changed, and answers `error`.
    pub(super) fn refuse<T>(self, error: FoundError) -> Result<T, FoundError> {
        close(&self.dir, &self.store)?;
        Err(error)
    }

    /// The ordinal that the next certificate gets.
    pub(super) fn next_ordinal(&self) -> Result<u64, FoundError> {
        crate::app::next_ordinal(&self.store).map_err(|_| self.unreadable())
    }

    pub(super) fn unreadable(&self) -> FoundError {
        FoundError::Unreadable { dir: self.dir.clone() }
    }
}

fn is_taken(store: &Store, name: &str, dir: &Path) -> Result<bool, FoundError> {
    let unreadable = || FoundError::Unreadable { dir: dir.to_path_buf() };
    let hits = store.index_scan(&OPERATORS, "name", name.as_bytes(), None, 100).map_err(|_| unreadable())?;
    for hit in hits.iter().filter(|hit| hit.value == name.as_bytes()) {
        let held = store.load::<Operator>(&hit.id).map_err(|_| unreadable())?;
        if held.is_some_and(|held| held.record.removed_at.is_none()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the root's list of revoked authorities in `dir` is one that a server would serve.
///
/// # Errors
/// [`FoundError::Ca`] saying what is wrong with it.
pub fn check_root_list(dir: &Path) -> Result<(), FoundError> {
    root_and_list(&Keystore::of(dir)).map(|_| ()).map_err(FoundError::from)
}

#[cfg(test)]
mod tests {
    use super::super::{CREDENTIAL, FoundOptions, found};
    use super::*;

    fn founded_in(dir: &Path) {
        let options = FoundOptions {
            data_dir: dir.to_path_buf(),
            public_name: "localhost".to_owned(),
            trust_domain: None,
            approvers: vec![("a".to_owned(), crate::ca::fresh_ed25519().verifying_key().to_bytes())],
            recovery: Vec::new(),
            solo: true,
            settings: Settings::default(),
        };
        found(&options).unwrap();
    }

    #[test]
    fn a_lost_credential_is_replaced_by_a_new_operators_and_a_name_in_office_is_not_given_twice() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("d");
        founded_in(&dir);
        std::fs::remove_file(dir.join(CREDENTIAL)).unwrap();
        let added = add_operator(&dir, "rescue", &Settings::default()).unwrap();
        assert!(added.credential.contains("https://127.0.0.1:9443"), "{}", *added.credential);
        for name in ["rescue", "admin", "Not A Name"] {
            let refused = add_operator(&dir, name, &Settings::default()).err().unwrap();
            assert!(matches!(refused, FoundError::Invalid { .. }), "{name}: {refused}");
        }
    }

    #[test]
    fn a_damaged_list_of_the_roots_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("d");
        founded_in(&dir);
        check_root_list(&dir).unwrap();
        let path = Keystore::of(&dir).path(file::ROOT_CRL);
        let mut list = std::fs::read(&path).unwrap();
        *list.last_mut().unwrap() ^= 1;
        for damaged in [list.as_slice(), b"no list"] {
            std::fs::write(&path, damaged).unwrap();
            assert!(matches!(check_root_list(&dir), Err(FoundError::Ca(CaError::RootList { .. }))));
            let refused = add_operator(&dir, "x", &Settings::default()).err().unwrap();
            assert!(matches!(refused, FoundError::Ca(CaError::RootList { .. })), "{refused}");
        }
    }
}
