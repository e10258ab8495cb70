//! A device's certificates die now, without a wipe.

use super::certificates::Ending;
use super::device::Shown;
use super::foresee::Step;
use super::rails::Spend;
use super::{App, Error};
use crate::domain::device::{Device, DeviceState, Retirement};
use crate::domain::policy::{Permit, act};
use crate::domain::refusal::Refusal;
use crate::domain::revocation::Reason;
use crate::store::Batch;
use muster_wire::id::DeviceId;
use muster_wire::problem::Code;

impl App {
    /// Revokes every live certificate of `id` for `reason` and retires it without proof. When this returns, every
    /// door refuses them, their connections are cut, and the next reader of the CRL finds them listed. Revoking a
    /// device that was revoked already changes nothing.
    ///
    /// # Errors
    /// [`Error::Refused`] with `device_state_refused` where the device never had a certificate or was let go
    /// otherwise.
    pub async fn revoke(
        &self,
        permit: Permit<act::RevokeDevice>,
        id: DeviceId,
        reason: Reason,
    ) -> Result<Shown, Error> {
        for _ in 0..super::ATTEMPTS {
            let held = self.device(id)?;
            let spend = match step(&held.record, reason) {
                Ok(Step::Nothing) => return self.shown(held.record, held.version),
                Ok(Step::Free) => None,
                Ok(Step::Counts(spend)) => Some(spend),
                Err(refusal) => {
                    return Err(self.refuse(&permit, super::refuse::About::Device(id), refusal).await);
                }
            };
            let ending = Ending { how: Retirement::WithoutProof, reason };
            let batch = Batch::essential();
            let devices = std::slice::from_ref(&held.record);
            let spent = match spend {
                Some(spend) => self.spend(&permit, batch, spend, devices).await,
                None => Ok((batch, None)),
            };
            let (batch, told) = match spent {
                Err(Error::Refused(refusal)) => {
                    return Err(self.refuse(&permit, super::refuse::About::Device(id), refusal).await);
                }
                spent => spent?,
            };
            match self.commit(self.end_life(&permit, batch, held, ending)?).await {
                Err(Error::Contended) => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    self.tell(told);
                    let held = self.device(id)?;
                    return self.shown(held.record, held.version);
                }
            }
        }
        Err(Error::Contended)
    }
}

/// What revoking does to `device`.
///
/// # Errors
/// The rule that refuses it.
pub(super) fn step(device: &Device, reason: Reason) -> Result<Step, Refusal> {
    let is_revoked =
        device.state == DeviceState::Retired && device.retirement == Some(Retirement::WithoutProof);
    if is_revoked {
        return Ok(Step::Nothing);
    }
    if device.state.may_be_ended() {
        Ok(Step::Counts(Spend::Revoke(reason)))
    } else {
        Err(Refusal::by("revoke.state", Code::DeviceStateRefused).at("state"))
    }
}
