//! A person says yes to a device that waits.

use super::device::Shown;
use super::{App, Error};
use crate::domain::device::DeviceState;
use crate::domain::policy::{Permit, act};
use crate::domain::refusal::Refusal;
use crate::store::Batch;
use muster_wire::id::DeviceId;
use muster_wire::problem::Code;

impl App {
    /// Approves `id`; the device gets its certificate when it next asks with the same token and key. Approving
    /// twice changes nothing.
    ///
    /// # Errors
    /// [`Error::Refused`] with `device_state_refused` unless the device is pending.
    pub async fn approve(&self, permit: Permit<act::ApproveDevice>, id: DeviceId) -> Result<Shown, Error> {
        for _ in 0..super::ATTEMPTS {
            let mut held = self.device(id)?;
            let Some(waiting) =
                held.record.waiting.as_mut().filter(|_| held.record.state == DeviceState::Pending)
            else {
                let refusal = Refusal::by("approve.not_pending", Code::DeviceStateRefused).at("state");
                return Err(self.refuse(&permit, super::refuse::About::Device(id), refusal).await);
            };
            if waiting.approved_by.is_some() {
                return self.shown(held.record, held.version);
            }
            waiting.approved_by = Some(permit.caller().principal.actor());
            let entry = permit
                .entry(self.clock.now_ms(), format!("device/{id}"))
                .because(waiting.rule.clone())
                .states("pending", "pending");
            let batch = Batch::default().update(id.as_bytes(), held.version, &held.record).audit(entry);
            match self.commit(batch).await {
                Err(Error::Contended) => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    let held = self.device(id)?;
                    return self.shown(held.record, held.version);
                }
            }
        }
        Err(Error::Contended)
    }
}
