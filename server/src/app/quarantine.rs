//! A device is held, by hand or by a rule, and let go again.
//!
//! Holding is one commit: the device, each of its live certificates, their entries in the CRL, and the audit entry. When
//! it is durable the status index knows, the device's connections are cut, and the next reader of the CRL finds its
//! certificates on hold. Releasing takes all of it back in the same way.

use super::certificates::serials;
use super::device::Shown;
use super::limits::Taken;
use super::progress::Kept;
use super::rails::Spend;
use super::refuse::About;
use super::{App, Error};
use crate::domain::device::{CertificateRef, Device, DeviceState};
use crate::domain::policy::{Act, Caller, Permit, act, decide};
use crate::domain::posture::PostureRecord;
use crate::domain::quarantine::{Because, By, Step, Wish, by_posture, look_again_at};
use crate::domain::refusal::Refusal;
use crate::store::Batch;
use crate::store::collections::{DEVICES, Facet};
use muster_firmware_profiles::appraise::Failing;
use muster_wire::id::DeviceId;
use muster_wire::problem::Code;

/// It never had a certificate, or its life is over.
pub(super) const MAY_NOT_BE_HELD: Refusal =
    Refusal::by("quarantine.state", Code::DeviceStateRefused).at("state");

impl App {
    /// Holds `id` by hand. When this returns, its certificates open only what the table grants a held device, at every
    /// door, and its connections are cut so that it comes back to that. What a rule holds is taken over; holding twice
    /// changes nothing.
    ///
    /// # Errors
    /// [`Error::Refused`] with `device_state_refused` where the device never had a certificate or its life is over.
    pub async fn quarantine(
        &self,
        permit: Permit<act::QuarantineDevice>,
        id: DeviceId,
        because: &Because,
    ) -> Result<Shown, Error> {
        for _ in 0..super::ATTEMPTS {
            let held = self.device(id)?;
            let mut device = held.record;
            match device.may_be_held() {
                Wish::Do => {}
                Wish::Already => return self.shown(device, held.version),
                Wish::Refused => {
                    return Err(self.refuse(&permit, About::Device(id), MAY_NOT_BE_HELD).await);
                }
            }
            let devices = std::slice::from_ref(&device);
            let (batch, _) = match self.spend(&permit, Batch::essential(), Spend::Quarantine, devices).await {
                Err(Error::Refused(refusal)) => {
                    return Err(self.refuse(&permit, About::Device(id), refusal).await);
                }
                spent => spent?,
            };
            let by = By::Manual { operator: permit.caller().principal.actor() };
            let batch = self.hold(&permit, batch, &mut device, (by, because.to_string()))?;
            match self.commit(batch.update(id.as_bytes(), held.version, &device)).await {
                Err(Error::Contended) => {}
                Err(error) => return Err(error),
                Ok(()) => return self.shown_now(id),
            }
        }
        Err(Error::Contended)
    }

    /// Lets `id` go back to where it was, whoever held it; what its posture fails by now is not held against it again.
    /// Releasing a device that is not held changes nothing.
    ///
    /// # Errors
    /// As [`App::quarantine`].
    pub async fn release(
        &self,
        permit: Permit<act::ReleaseDevice>,
        id: DeviceId,
        because: Option<&Because>,
    ) -> Result<Shown, Error> {
        for _ in 0..super::ATTEMPTS {
            let mut known = self.known(id)?;
            match known.device.record.may_be_released() {
                Wish::Do => {}
                Wish::Already => return self.shown(known.device.record, known.device.version),
                Wish::Refused => {
                    let refusal = Refusal::by("release.state", Code::DeviceStateRefused).at("state");
                    return Err(self.refuse(&permit, About::Device(id), refusal).await);
                }
            }
            let as_read = known.device.record.clone();
            let because = because.map_or_else(String::new, Because::to_string);
            let batch = self.let_go(&permit, Batch::essential(), &mut known.device.record, because)?;
            known.device.record.excuse(self.clock.now_s());
            match self.commit(self.advance(batch, &as_read, &known, Kept::Neither)?).await {
                Err(Error::Contended) => {}
                Err(error) => return Err(error),
                Ok(()) => return self.shown_now(id),
            }
        }
        Err(Error::Contended)
    }

    /// Adds to `batch` what the posture `next` of the device does to it: a rule whose grace is over holds it, within
    /// the budget for that; where none is due any more, what a rule held is released.
    ///
    /// The caller commits the device's record. `counted` stays set over the attempts of one report.
    pub(super) fn follow_posture(
        &self,
        batch: Batch,
        device: &mut Device,
        next: &PostureRecord,
        counted: &mut Option<Taken>,
    ) -> Result<Batch, Error> {
        let batch = self.step_by_posture(batch, device, next, counted)?;
        device.reappraise_at = look_again_at(device, &next.failing, self.clock.now_s());
        Ok(batch)
    }

    fn step_by_posture(
        &self,
        batch: Batch,
        device: &mut Device,
        next: &PostureRecord,
        counted: &mut Option<Taken>,
    ) -> Result<Batch, Error> {
        let now = self.clock.now_s();
        match by_posture(device, &next.failing, now) {
            Step::Stay => Ok(batch),
            Step::Release => {
                let permit = decide::<act::ReleaseDevice>(Caller::server())?;
                self.let_go(&permit, batch, device, "posture".to_owned())
            }
            Step::Hold(rule) => {
                let permit = decide::<act::QuarantineDevice>(Caller::server())?;
                let taken = match *counted {
                    Some(taken) => taken,
                    None => *counted.insert(self.rule_holds.take(|| self.fleet(), self.clock.now_ms())?),
                };
                let Taken::Past(past) = taken else {
                    let by = By::Rule { fact: rule.fact.clone() };
                    let reason = format!("{} fails beyond its grace", rule.fact);
                    return self.hold(&permit, batch, device, (by, reason));
                };
                alarm(device.id, rule);
                let refusal = Refusal::by("quarantine.budget", Code::RateLimited);
                let entry = permit.refused(self.clock.now_ms(), about(device), &refusal);
                Ok(if past.first { batch.audit(entry) } else { batch })
            }
        }
    }

    /// How many devices there are that a rule may hold or holds.
    fn fleet(&self) -> Result<u64, Error> {
        let states = [DeviceState::Commissioning, DeviceState::Active, DeviceState::Quarantined];
        let counts = states.into_iter().map(|state| self.devices_in(state));
        counts.sum()
    }

    fn devices_in(&self, state: DeviceState) -> Result<u64, Error> {
        const PAGE: usize = 4_096;
        let value = Facet::State.value(state.as_str().as_bytes());
        let (mut count, mut after) = (0_u64, None::<Vec<u8>>);
        loop {
            let hits = self.store.index_scan(&DEVICES, "by", &value, after.as_deref(), PAGE)?;
            count += hits.iter().filter(|hit| hit.value == value).map(|_| 1).sum::<u64>();
            match hits.last() {
                Some(last) if hits.len() == PAGE && last.value == value => after = Some(last.cursor.clone()),
                _ => return Ok(count),
            }
        }
    }

    /// Adds to `batch` that `device` is held, but for its own record, which the caller writes.
    fn hold<A: Act>(
        &self,
        permit: &Permit<A>,
        mut batch: Batch,
        device: &mut Device,
        (by, reason): (By, String),
    ) -> Result<Batch, Error> {
        let before = device.standing();
        let live: Vec<CertificateRef> = device.live_certificates().cloned().collect();
        for certificate in &live {
            batch = self.suspend_certificate(batch, certificate)?;
        }
        let now_ms = self.clock.now_ms();
        let because = match &by {
            By::Manual { .. } => "manual".to_owned(),
            By::Rule { fact } => format!("posture.{fact}"),
        };
        device.hold(by, reason.clone(), now_ms.div_euclid(1000));
        let entry = permit
            .entry(now_ms, about(device))
            .because(because)
            .states(before, device.standing())
            .facts([("reason", reason), ("held_serials", serials(&live))]);
        Ok(batch.audit(entry))
    }

    /// Adds to `batch` that `device` is released, but for its own record, which the caller writes.
    fn let_go<A: Act>(
        &self,
        permit: &Permit<A>,
        mut batch: Batch,
        device: &mut Device,
        reason: String,
    ) -> Result<Batch, Error> {
        let before = device.standing();
        let live: Vec<CertificateRef> = device.live_certificates().cloned().collect();
        for certificate in &live {
            batch = self.resume_certificate(batch, certificate)?;
        }
        let now_ms = self.clock.now_ms();
        let held_by = match device.release(now_ms.div_euclid(1000)).map(|quarantine| quarantine.by) {
            Some(By::Rule { fact }) => format!("rule/{fact}"),
            Some(By::Manual { operator }) => operator,
            None => String::new(),
        };
        let entry = permit.entry(now_ms, about(device)).states(before, device.standing()).facts([
            ("reason", reason),
            ("held_by", held_by),
            ("released_serials", serials(&live)),
        ]);
        Ok(batch.audit(entry))
    }

    fn shown_now(&self, id: DeviceId) -> Result<Shown, Error> {
        let held = self.device(id)?;
        self.shown(held.record, held.version)
    }
}

fn about(device: &Device) -> String {
    format!("device/{}", device.id)
}

/// A rule would hold a device and may not: more than the budget fails at once, which is as likely a bad rule.
fn alarm(device: DeviceId, rule: &Failing) {
    tracing::warn!(%device, fact = rule.fact, "not quarantined: rules have held as many devices in this hour as they may");
}
