//! What an act on one device would come to, for somebody who asks before it is done.
//!
//! The rules are those of the act itself, so that whoever is told *yes* here is told *no* there only if something has
//! happened in between. Nothing is changed, spent or told outside; a refusal is written down like any other.

use super::rails::Spend;
use super::{App, Error, Shown};
use crate::domain::device::Device;
use crate::domain::policy::{Act, Permit, act};
use crate::domain::quarantine::Wish;
use crate::domain::refusal::Refusal;
use crate::domain::revocation::Reason;
use muster_wire::id::DeviceId;

/// What an act would come to.
#[derive(Clone, Debug)]
pub struct Foreseen {
    /// The device, as it is.
    pub shown: Shown,
    /// Whether anything about it would change.
    pub changes: bool,
    /// Until when it would wait, unix seconds; `None` where it would be done.
    pub waits_until: Option<i64>,
}

/// What an act does to a device that it is allowed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing: it is so already.
    Nothing,
    /// What the budget does not count.
    Free,
    /// What the budget counts.
    Counts(Spend),
}

impl App {
    /// What [`App::quarantine`] would come to.
    ///
    /// # Errors
    /// As [`App::quarantine`], but for what waits.
    pub async fn foresee_quarantine(
        &self,
        permit: &Permit<act::QuarantineDevice>,
        id: DeviceId,
    ) -> Result<Foreseen, Error> {
        let step = |device: &Device| match device.may_be_held() {
            Wish::Do => Ok(Step::Counts(Spend::Quarantine)),
            Wish::Already => Ok(Step::Nothing),
            Wish::Refused => Err(super::quarantine::MAY_NOT_BE_HELD),
        };
        self.foresee(permit, id, step).await
    }

    /// What [`App::revoke`] would come to.
    ///
    /// # Errors
    /// As [`App::revoke`], but for what waits.
    pub async fn foresee_revoke(
        &self,
        permit: &Permit<act::RevokeDevice>,
        id: DeviceId,
        reason: Reason,
    ) -> Result<Foreseen, Error> {
        self.foresee(permit, id, |device| super::revoke::step(device, reason)).await
    }

    /// What [`App::retire`] would come to.
    ///
    /// # Errors
    /// As [`App::retire`].
    pub async fn foresee_retire(
        &self,
        permit: &Permit<act::RetireDevice>,
        id: DeviceId,
    ) -> Result<Foreseen, Error> {
        let now = self.clock.now_s();
        self.foresee(permit, id, |device| super::deprovision::step_of_retiring(device, now)).await
    }

    async fn foresee<A: Act>(
        &self,
        permit: &Permit<A>,
        id: DeviceId,
        step: impl FnOnce(&Device) -> Result<Step, Refusal>,
    ) -> Result<Foreseen, Error> {
        let held = self.device(id)?;
        let devices = std::slice::from_ref(&held.record);
        let judged = step(&held.record).map_err(Error::from).and_then(|step| match step {
            Step::Nothing => Ok((false, None)),
            Step::Free => Ok((true, None)),
            Step::Counts(spend) => Ok((true, self.would_wait(permit, spend, devices)?)),
        });
        match judged {
            Err(Error::Refused(refusal)) => Err(self.decline(permit, &format!("device/{id}"), refusal).await),
            judged => {
                let (changes, waits_until) = judged?;
                let shown = self.shown(held.record, held.version)?;
                Ok(Foreseen { shown, changes, waits_until })
            }
        }
    }
}
