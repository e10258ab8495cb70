//! Judging a posture again when a grace ends and no report has come since.

use super::progress::Kept;
use super::{App, Error};
use crate::domain::policy::{Caller, Permit, act, decide};
use crate::store::collections::{DEVICES, Facet};
use crate::store::key::instant;
use muster_firmware_profiles::appraise::appraise;
use muster_wire::id::DeviceId;
use muster_wire::time::Timestamp;

/// Devices judged in one go.
const EACH: usize = 256;

impl App {
    /// Judges again whose time has come; answers how many.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::NoSpace`], [`Error::Stopped`]; what was judged before stays judged.
    pub async fn reappraise(&self) -> Result<usize, Error> {
        let permit = decide::<act::AppraisePosture>(Caller::server())?;
        let due = Facet::Reappraisal.value(&instant(self.clock.now_s()));
        let hits = self.store.index_scan(&DEVICES, "by", &Facet::Reappraisal.value(b""), None, EACH)?;
        let mut judged = 0;
        for hit in hits.iter().take_while(|hit| hit.value <= due) {
            let Ok(device) = <[u8; 16]>::try_from(hit.id.as_slice()) else { continue };
            match self.judge_again(&permit, DeviceId::from_bytes(device)).await {
                Ok(()) => judged += 1,
                // A report came meanwhile.
                Err(Error::Contended) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(judged)
    }

    async fn judge_again(
        &self,
        permit: &Permit<act::AppraisePosture>,
        device: DeviceId,
    ) -> Result<(), Error> {
        let mut known = self.known(device)?;
        let Some(held) = known.posture.take() else { return Ok(()) };
        let rules = &known.ready.settled.resolved.posture.rules;
        let (now_ms, before) = (self.clock.now_ms(), &held.record);
        let now = Timestamp(now_ms.div_euclid(1000));
        let appraisal = appraise(rules, &before.facts(), &before.failing, now);
        let next = before.judged_again(&appraisal, now_ms);
        let batch = self.keep_posture(permit, device, (Some(&held), &next), &appraisal)?;
        let as_read = known.device.record.clone();
        let batch = self.follow_posture(batch, &mut known.device.record, &next, &mut None)?;
        known.posture = Some(crate::store::collections::Held { version: 0, record: next });
        let batch = self.advance(batch, &as_read, &known, Kept::Posture)?;
        self.commit(batch).await
    }
}
