//! Which devices have the authorities that are served: those that report the generation by which they were added.

use crate::domain::device::Device;
use crate::domain::reported::{Reported, counter_for};
use crate::store::Store;
use crate::store::collections::{CERTIFICATES, DEVICES, LoadError, decode};
use muster_wire::id::DeviceId;

/// Records read at a time.
const PAGE: usize = 1_000;

/// Devices that are named; the others are counted.
const NAMED: usize = 5;

/// How many devices have the authorities.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// Devices that renew and have them.
    pub held: u64,
    /// Devices that renew and have not said so.
    pub missing: u64,
    /// The first of these.
    pub named: Vec<DeviceId>,
}

impl Acknowledged {
    /// The first devices that are missing, in words.
    pub fn names(&self) -> String {
        let mut names: Vec<String> = self.named.iter().map(ToString::to_string).collect();
        if self.missing > self.named.len() as u64 {
            names.push("…".to_owned());
        }
        names.join(", ")
    }
}

/// Who, among the devices that may renew, reports `generation` or a later one.
///
/// # Errors
/// [`LoadError`].
pub(super) fn acknowledged(store: &Store, generation: u64) -> Result<Acknowledged, LoadError> {
    let mut counted = Acknowledged::default();
    each(store, DEVICES.prefix, |value| {
        let device: Device = decode(value)?;
        if !device.state.may_be_ended() {
            return Ok(());
        }
        let reported = store.load::<Reported>(device.id.as_bytes())?.map(|held| held.record);
        // A device that was ahead of a restored store is asked for more than it had.
        let asked = counter_for(generation, reported.as_ref());
        let has = reported.as_ref().and_then(Reported::in_place).is_some_and(|has| has.counter >= asked);
        if has {
            counted.held += 1;
        } else {
            counted.missing += 1;
            if counted.named.len() < NAMED {
                counted.named.push(device.id);
            }
        }
        Ok(())
    })?;
    Ok(counted)
}

/// The last second of the validity of any leaf that was ever issued, unix seconds; 0 where there is none.
///
/// # Errors
/// [`LoadError`].
pub(super) fn last_leaf(store: &Store) -> Result<i64, LoadError> {
    let mut last = 0;
    each(store, CERTIFICATES.prefix, |value| {
        let certificate: crate::domain::device::CertificateRecord = decode(value)?;
        last = last.max(certificate.not_after);
        Ok(())
    })?;
    Ok(last)
}

fn each(
    store: &Store,
    prefix: &[u8],
    mut look: impl FnMut(&[u8]) -> Result<(), LoadError>,
) -> Result<(), LoadError> {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = store.scan(prefix, after.as_deref(), PAGE)?;
        for (_, found) in &page {
            look(&found.value)?;
        }
        match page.into_iter().last() {
            Some((key, _)) => after = Some(key),
            None => return Ok(()),
        }
    }
}
