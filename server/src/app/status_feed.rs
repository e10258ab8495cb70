//! The store's commits become what the doors and the CRLs know, in commit order, before anyone has an answer.

use crate::ca::IssuerId;
use crate::domain::admission::{CertificateStatus, DeviceStanding, Order};
use crate::domain::deprovision::Leaving;
use crate::domain::device::{CertificateRecord, CertificateState};
use crate::domain::order::{OrderRecord, Phase};
use crate::domain::revocation::Reason;
use crate::doors::registry::{Kicked, Registry};
use crate::doors::status_index::{Standing, StatusIndex, print_of};
use crate::store::collections::{BASELINES, CERTIFICATES, LoadError, ORDERS, REVOCATIONS, decode};
use crate::store::{Observer, Store, Written};
use muster_pki::serial::Serial;
use muster_wire::id::DeviceId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// How many commits touched each shard's revocations since the start.
#[derive(Debug, Default)]
pub struct RevocationChanges(Mutex<HashMap<(IssuerId, u8), u64>>);

impl RevocationChanges {
    /// Commits that touched `shard` of `issuer`.
    pub fn of(&self, issuer: IssuerId, shard: u8) -> u64 {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(&(issuer, shard)).copied().unwrap_or(0)
    }

    fn note(&self, id: &[u8]) {
        let Some((issuer, [shard, ..])) = id.split_first_chunk::<8>() else { return };
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry((*issuer, *shard)).or_default() += 1;
    }
}

/// What the store is opened with: feeds `index` and `changes`, ends the connections of certificates that have moved to
/// another row of the table, and lets sessions look again for which there may be something new.
///
/// The index comes first, the kick second: who comes back after the kick meets the new status.
pub fn feed(index: Arc<StatusIndex>, registry: Arc<Registry>, changes: Arc<RevocationChanges>) -> Observer {
    Box::new(move |written: &[Written]| {
        if written.iter().any(|change| BASELINES.id(change.key).is_some()) {
            registry.nudge_all();
        }
        for change in written {
            if let Some(id) = REVOCATIONS.id(change.key) {
                changes.note(id);
            } else if ORDERS.id(change.key).is_some() {
                if let Some(device) = change.value.and_then(to_be_told) {
                    registry.nudge(&device);
                }
            } else if CERTIFICATES.id(change.key).is_some() {
                let Some((serial, standing)) = change.value.and_then(read) else {
                    continue;
                };
                let before = index.set(&serial, &standing);
                if before.is_some_and(|before| moved(&before, &standing)) {
                    registry.kick_serial(&serial, Kicked::Status);
                }
            }
        }
    })
}

/// Fills `index` from the store at the start.
///
/// # Errors
/// [`LoadError`].
pub fn fill(index: &StatusIndex, store: &Store) -> Result<(), LoadError> {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = store.scan(CERTIFICATES.prefix, after.as_deref(), 4_096)?;
        for (_, found) in &page {
            let record: CertificateRecord = decode(&found.value)?;
            index.set(&record.serial, &standing(&record));
        }
        match page.last() {
            Some((key, _)) => after = Some(key.clone()),
            None => return Ok(()),
        }
    }
}

/// Whether a certificate has moved to another row of the table than the one its connections were let in by: it died,
/// or its device is held, released, begins to be let go or comes back from that. First use moves none: what is issued may
/// do what is current may. Nor does proof: a device whose wipe is proven stays for the word that it has arrived.
pub(super) fn moved(before: &Standing, now: &Standing) -> bool {
    let is_alive = |standing: &Standing| {
        matches!(standing.certificate, CertificateStatus::Issued | CertificateStatus::Current)
    };
    let closes = matches!(
        (before.device, now.device),
        (
            DeviceStanding::Deprovisioning { order: Order::Open, .. },
            DeviceStanding::Deprovisioning { order: Order::Closed, .. }
        )
    );
    is_alive(before) != is_alive(now) || row(before.device) != row(now.device) || closes
}

/// Which of the table's rows for living certificates a device stands in; rows with the same topics are one.
fn row(device: DeviceStanding) -> u8 {
    match device {
        DeviceStanding::Active { .. } => 0,
        DeviceStanding::Held { .. } => 1,
        DeviceStanding::Deprovisioning { .. } | DeviceStanding::Proven { .. } => 2,
        DeviceStanding::Retired => 3,
        DeviceStanding::Observer => 4,
    }
}

/// The device that has something to hear by this order: the order itself, or the one that waited for its answer.
fn to_be_told(value: &[u8]) -> Option<DeviceId> {
    let order: OrderRecord = decode(value).ok()?;
    let only_delivered = order.phase == Phase::Delivered && order.receipts.is_empty();
    (!only_delivered).then_some(order.device)
}

fn read(value: &[u8]) -> Option<(Serial, Standing)> {
    let record: CertificateRecord = decode(value).ok()?;
    Some((record.serial, standing(&record)))
}

fn standing(certificate: &CertificateRecord) -> Standing {
    let status = match certificate.state {
        CertificateState::Issued => CertificateStatus::Issued,
        CertificateState::Current => CertificateStatus::Current,
        CertificateState::Revoked { reason: Reason::Superseded, .. } => CertificateStatus::Superseded,
        CertificateState::Revoked { .. } => CertificateStatus::Revoked,
    };
    Standing {
        print: print_of(certificate.sha256.as_bytes()),
        certificate: status,
        device: match (&certificate.observer, certificate.leaving) {
            (Some(_), _) => DeviceStanding::Observer,
            (None, Some(Leaving::Deprovisioning { doomed_from, order_open })) => {
                let order = if order_open { Order::Open } else { Order::Closed };
                DeviceStanding::Deprovisioning { doomed_from, order }
            }
            (None, Some(Leaving::Proven { until })) => DeviceStanding::Proven { until },
            (None, None) if certificate.held => DeviceStanding::Held { grace_s: certificate.grace_s },
            (None, None) => DeviceStanding::Active { grace_s: certificate.grace_s },
        },
    }
}
