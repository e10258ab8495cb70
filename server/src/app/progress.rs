//! How far a device has come, and the commit that makes it active.

use super::desired::{Plan, Ready};
use super::{App, Error};
use crate::domain::commissioning::{self, Missing, Progress};
use crate::domain::device::{Device, DeviceState};
use crate::domain::policy::{Caller, act, decide};
use crate::domain::posture::PostureRecord;
use crate::domain::reported::Reported;
use crate::store::collections::{DEVICES, Held, POSTURE, REPORTED};
use crate::store::{Batch, Expect};
use muster_wire::id::DeviceId;
use std::sync::Arc;

/// Everything that is known of a device when it says something, as it was read.
pub(super) struct Known {
    pub(super) device: Held<Device>,
    pub(super) reported: Option<Held<Reported>>,
    pub(super) posture: Option<Held<PostureRecord>>,
    pub(super) plan: Arc<Plan>,
    pub(super) ready: Arc<Ready>,
}

impl Known {
    fn progress(&self) -> Progress<'_> {
        let reported = self.reported.as_ref().map(|held| &held.record);
        Progress {
            reported,
            posture: self.posture.as_ref().map(|held| &held.record),
            desired: self.plan.generation(reported),
            baseline: &self.ready.settled.baseline,
            judged: !self.ready.settled.resolved.posture.rules.is_empty(),
            order_done: self.device.record.steps.order_at.is_some(),
        }
    }

    /// What the device has still to show.
    pub(super) fn missing(&self) -> Vec<Missing> {
        commissioning::missing(&self.progress())
    }
}

impl App {
    /// Reads everything that is known of `device`.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Load`].
    pub(super) fn known(&self, device: DeviceId) -> Result<Known, Error> {
        let device = self.device(device)?;
        let id = device.record.id;
        let plan = self.plan(&device.record.profile)?;
        Ok(Known {
            reported: self.store.load::<Reported>(id.as_bytes())?,
            posture: self.posture(id)?,
            ready: plan.of(&device.record),
            plan,
            device,
        })
    }

    /// How the posture of `device` was last judged.
    ///
    /// # Errors
    /// [`Error::Load`], [`Error::Internal`].
    pub(super) fn posture(&self, device: DeviceId) -> Result<Option<Held<PostureRecord>>, Error> {
        let Some(found) = self.store.get_document(&POSTURE.key(device.as_bytes()))? else { return Ok(None) };
        let record = serde_json::from_slice(&found.value)
            .map_err(|error| Error::internal("reading a posture")(Box::new(error)))?;
        Ok(Some(Held { version: found.version, record }))
    }

    /// Adds to `batch` what `now`, the state of things after it, means for the device, whose record is `changed` if
    /// the batch changes it anyway.
    ///
    /// While a device is commissioning its report, its posture and its record are changed only as they were read:
    /// two words of the device that arrive together cannot each miss what the other completes.
    pub(super) fn advance(
        &self,
        mut batch: Batch,
        before: &Device,
        now: &Known,
        kept: Kept,
    ) -> Result<Batch, Error> {
        let id = now.device.record.id;
        if now.device.record.state != DeviceState::Commissioning {
            return Ok(if now.device.record == *before {
                batch
            } else {
                batch.update(id.as_bytes(), now.device.version, &now.device.record)
            });
        }
        let mut device = now.device.record.clone();
        let now_ms = self.clock.now_ms();
        commissioning::advance(&mut device, &now.progress(), now_ms);
        if device.state == DeviceState::Active {
            let permit = decide::<act::ActivateDevice>(Caller::server())?;
            let took_ms = device.steps.enrolled_at.map_or(0, |at| now_ms.saturating_sub(at));
            batch = batch.audit(
                permit
                    .entry(now_ms, format!("device/{id}"))
                    .states(DeviceState::Commissioning.as_str(), DeviceState::Active.as_str())
                    .facts([("took_ms", took_ms.to_string())]),
            );
        }
        let version = now.device.version;
        batch = if device == *before {
            batch.expect(DEVICES.key(id.as_bytes()), Expect::Version(version))
        } else {
            batch.update(id.as_bytes(), version, &device)
        };
        let as_read = |held: Option<u64>| held.map_or(Expect::Absent, Expect::Version);
        if kept != Kept::Reported {
            let held = now.reported.as_ref().map(|held| held.version);
            batch = batch.expect(REPORTED.key(id.as_bytes()), as_read(held));
        }
        if kept != Kept::Posture {
            let held = now.posture.as_ref().map(|held| held.version);
            batch = batch.expect(POSTURE.key(id.as_bytes()), as_read(held));
        }
        Ok(batch)
    }
}

/// Which record the batch writes by itself, with the precondition that belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// The state report.
    Reported,
    /// The posture.
    Posture,
    /// Neither: an order.
    Neither,
}
