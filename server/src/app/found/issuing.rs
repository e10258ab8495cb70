//! Another issuing CA, while no server runs: made where the root's key is, activated once the devices have it, and the
//! one before it let go once its last leaf has expired.
//!
//! Each step is one commit: files are written before the commit that names them and removed after the commit that lets
//! them go, so a kill anywhere leaves a step either not begun (the same call makes it) or done (the same call says so).

use super::offline::Offline;
use super::{FoundError, GENERATION_ID, ISSUERS_ID, ceremony};
use crate::app::acknowledged::{Acknowledged, acknowledged, last_leaf};
use crate::ca::keystore::{Keystore, read_private_at};
use crate::ca::{CaError, file, id_of, issuer_id, remove_key, root_and_list};
use crate::config::Settings;
use crate::domain::desired::FIRST;
use crate::domain::issuers::{Issuers, may_take_over};
use crate::domain::ledger::Draft;
use crate::domain::policy::{self, Act, Caller, Permit, act};
use crate::store::collections::INSTALLATION;
use crate::store::{Batch, Expect, Store};
use muster_pki::hierarchy::Authority;
use muster_pki::issuer::{CaCertificate, CaKey, CaSigner as _};
use muster_wire::digest::Sha256Digest;
use std::path::Path;

/// What a step made of the issuing CAs.
#[derive(Clone, Debug)]
pub struct Step {
    /// Which there are now.
    pub issuers: Issuers,
    /// Name in paths of the one that the step was about, where it was about one.
    pub id: Option<String>,
    /// How many devices have the authorities.
    pub acknowledged: Acknowledged,
}

/// Makes a new issuing CA beneath the root, whose key is in `root_key` or where the founding put it. From the next
/// start it is served beside the one that signs.
///
/// # Errors
/// [`FoundError::Issuers`] while one waits already; [`FoundError::Store`] while a server runs; [`FoundError::Keystore`]
/// and [`FoundError::Ca`] where the root's key is not there or is another's.
pub fn rotate_issuing(dir: &Path, root_key: Option<&Path>, settings: &Settings) -> Result<Step, FoundError> {
    let offline = Offline::open(dir)?;
    let made = make_next(&offline, root_key, settings);
    let (issuers, certificate, generation) = match made {
        Ok(made) => made,
        Err(error) => return offline.refuse(error),
    };
    let permit = local::<act::RotateIssuing>(dir)?;
    let id = hex::encode(issuer_id(&certificate));
    let entry = permit
        .entry(offline.clock.now_ms(), format!("ca/{id}"))
        .states("", "next")
        .facts([("generation", issuers.generation.to_string()), ("bundle", issuers.bundle.to_string())]);
    let entry = Draft { payload_sha256: Sha256Digest::of(certificate.der()).to_hex(), ..entry };
    let key = INSTALLATION.key(GENERATION_ID);
    let batch = offline
        .issuers_batch(&issuers)?
        .expect(key.clone(), generation.map_or(Expect::Absent, Expect::Version))
        .put(key, issuers.generation.to_be_bytes())
        .audit(entry);
    let acknowledged = counted(&offline, issuers.generation);
    offline.commit(batch)?;
    Ok(Step { issuers, id: Some(id), acknowledged: acknowledged? })
}

/// The record after the rotation, the certificate on the disk, and the version of the counter of generations.
fn make_next(
    offline: &Offline,
    root_key: Option<&Path>,
    settings: &Settings,
) -> Result<(Issuers, CaCertificate, Option<u64>), FoundError> {
    let (version, stands) = generation(&offline.store, &offline.dir)?;
    let before = &offline.founding.issuers;
    let issuers = before.rotated(stands.max(FIRST).saturating_add(1))?;
    let keys = &offline.keys;
    let default = keys.path(file::ROOT_KEY);
    let path = root_key.unwrap_or(&default);
    let no_key = || CaError::no_key(path.display().to_string());
    let key = CaKey::from_pem(&read_private_at(path)?).map_err(|_| no_key())?;
    let (root, _) = root_and_list(keys)?;
    if Sha256Digest::of(key.spki_der()).as_bytes() != &root.spki_sha256() {
        return Err(CaError::Mismatch { file: path.display().to_string() }.into());
    }
    let public_name = settings.public_name.as_deref().unwrap_or(&offline.founding.public_name);
    let urls = ceremony::root_urls(&root, settings, public_name)?;
    let authority = Authority { certificate: &root, key: &key, urls: &urls };
    let domain = offline.founding.trust_domain.as_str();
    let certificate =
        ceremony::issuing(keys, &authority, before.to_be_made(), (domain, offline.clock.now_s()))?;
    Ok((issuers, certificate, version))
}

/// Lets the new issuing CA sign from the next start on. The one before it signs its revocation lists until its last
/// leaf has expired.
///
/// # Errors
/// [`FoundError::Issuers`] where none waits, or where devices have not acknowledged it and `although` is not exactly
/// their number; [`FoundError::Store`] while a server runs.
pub fn activate_issuing(dir: &Path, although: Option<u64>) -> Result<Step, FoundError> {
    let offline = Offline::open(dir)?;
    let before = &offline.founding.issuers;
    let decided = || -> Result<(Issuers, Acknowledged), FoundError> {
        let until = offline.next_ordinal()?.max(before.first_free_ordinal());
        let last = last_leaf(&offline.store).map_err(|_| offline.unreadable())?;
        let issuers = before.activated(until, last)?;
        let counted = counted(&offline, before.generation)?;
        may_take_over(counted.missing, &counted.names(), although)?;
        Ok((issuers, counted))
    };
    let (issuers, acknowledged) = match decided() {
        Ok(decided) => decided,
        Err(error) => return offline.refuse(error),
    };
    let permit = local::<act::ActivateIssuing>(dir)?;
    let id = hex::encode(id_of(&offline.keys, issuers.signs)?);
    let entry = permit.entry(offline.clock.now_ms(), format!("ca/{id}")).states("next", "issuing").facts([
        ("former", hex::encode(id_of(&offline.keys, before.signs)?)),
        ("missing", acknowledged.missing.to_string()),
        ("bundle", issuers.bundle.to_string()),
    ]);
    let batch = offline.issuers_batch(&issuers)?.audit(entry);
    offline.commit(batch)?;
    Ok(Step { issuers, id: Some(id), acknowledged })
}

/// Removes the keys of the former issuing CAs whose last leaf has expired.
///
/// # Errors
/// [`FoundError::Issuers`] where there is none; [`FoundError::Store`] while a server runs.
pub fn drop_former(dir: &Path) -> Result<Step, FoundError> {
    let offline = Offline::open(dir)?;
    // A kill between the commit and the removal leaves a key that nothing uses: whoever calls again removes it.
    let removed = remove_keys(&offline.keys, &offline.founding.issuers);
    let decided = removed.and_then(|()| Ok(offline.founding.issuers.dropped(offline.clock.now_s())?));
    let issuers = match decided {
        Ok(decided) => decided,
        Err(error) => return offline.refuse(error),
    };
    let permit = local::<act::DropFormerIssuing>(dir)?;
    let mut batch = offline.issuers_batch(&issuers)?;
    for (before, after) in offline.founding.issuers.former.iter().zip(&issuers.former) {
        if before.dropped != after.dropped {
            let object = format!("ca/{}", hex::encode(id_of(&offline.keys, before.name)?));
            batch = batch.audit(permit.entry(offline.clock.now_ms(), object).states("former", "dropped"));
        }
    }
    let acknowledged = counted(&offline, issuers.generation);
    let keys = offline.keys.clone();
    offline.commit(batch)?;
    remove_keys(&keys, &issuers)?;
    Ok(Step { issuers, id: None, acknowledged: acknowledged? })
}

fn remove_keys(keys: &Keystore, issuers: &Issuers) -> Result<(), FoundError> {
    for former in issuers.former.iter().filter(|former| former.dropped) {
        remove_key(keys, former.name)?;
    }
    Ok(())
}

fn counted(offline: &Offline, generation: u64) -> Result<Acknowledged, FoundError> {
    acknowledged(&offline.store, generation).map_err(|_| offline.unreadable())
}

/// Leave for `A`, which whoever may write in the data directory has.
fn local<A: Act>(dir: &Path) -> Result<Permit<A>, FoundError> {
    policy::decide::<A>(Caller::server()).map_err(|_| FoundError::Unreadable { dir: dir.to_path_buf() })
}

/// Version and value of the counter of generations.
fn generation(store: &Store, dir: &Path) -> Result<(Option<u64>, u64), FoundError> {
    let unreadable = || FoundError::Unreadable { dir: dir.to_path_buf() };
    let Some(found) = store.get(&INSTALLATION.key(GENERATION_ID)).map_err(|_| unreadable())? else {
        return Ok((None, 0));
    };
    let bytes = <[u8; 8]>::try_from(found.value.as_slice()).map_err(|_| unreadable())?;
    Ok((Some(found.version), u64::from_be_bytes(bytes)))
}

impl Offline {
    /// A batch in which `issuers` take the place of those that were read.
    fn issuers_batch(&self, issuers: &Issuers) -> Result<Batch, FoundError> {
        let key = INSTALLATION.key(ISSUERS_ID);
        let held = self.store.get(&key).map_err(|_| self.unreadable())?.map(|found| found.version);
        let bytes = serde_json::to_vec(issuers).map_err(|_| self.unreadable())?;
        Ok(Batch::default().expect(key.clone(), held.map_or(Expect::Absent, Expect::Version)).put(key, bytes))
    }
}
