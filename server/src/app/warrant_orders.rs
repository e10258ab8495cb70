//! The orders under a warrant: made once enough approvers have signed, as many at a time as the rails let go, and the
//! end of warrants whose time has passed.
//!
//! Each order is a commit of its own, which counts it in the warrant's record: whoever stops in between, the next look
//! goes on from there, and no target gets two.

use super::order::Under;
use super::{App, Error};
use crate::domain::deprovision::Phase;
use crate::domain::order::{Ask, OrderRecord, Phase as OrderPhase};
use crate::domain::policy::{Caller, act, decide};
use crate::domain::warrant::{State, WarrantRecord};
use crate::store::Batch;
use crate::store::collections::{Held, WARRANTS, WarrantFacet};
use muster_wire::id::{DeviceId, OrderId, WarrantId};

/// Warrants looked at in one go.
const EACH: usize = 64;

impl App {
    /// Makes the orders that wait for their turn, of every warrant; answers how many.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::NoSpace`], [`Error::Stopped`]; what was made before stays made.
    pub async fn make_waiting_orders(&self) -> Result<usize, Error> {
        let waiting = WarrantFacet::Waiting.value(b"");
        let hits = self.store.index_scan(&WARRANTS, "by", &waiting, None, EACH)?;
        let mut made = 0;
        for hit in hits {
            let Ok(id) = <[u8; 16]>::try_from(hit.id.as_slice()) else { continue };
            made += self.make_orders_under(WarrantId::from_bytes(id)).await?;
        }
        Ok(made)
    }

    /// Makes the orders of `warrant` that may be made now, each in its own commit; answers how many.
    pub(super) async fn make_orders_under(&self, warrant: WarrantId) -> Result<usize, Error> {
        let targets = self.targets(warrant)?;
        let (mut made, mut conflicts) = (0, 0);
        loop {
            let held = self.warrant(warrant)?;
            let next = held.record.ordered;
            let target = usize::try_from(next).ok().and_then(|next| targets.get(next));
            let Some(target) = target.filter(|_| held.record.waits() && next < self.wave(&held.record))
            else {
                return Ok(made);
            };
            match self.commit(self.order_under(held, target.device)?).await {
                Ok(()) => (made, conflicts) = (made + 1, 0),
                Err(Error::Contended) if conflicts < super::ATTEMPTS => conflicts += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// A receipt of `order` has come: makes the orders of its warrant that waited for it. What fails here is made up for by
    /// the timer; the receipt itself is kept.
    pub(super) async fn next_wave(&self, order: OrderId) {
        let warrant = || {
            let order = self.store.load::<OrderRecord>(order.as_bytes()).ok()??.record;
            let warrant = self.warrant(order.warrant?).ok()?.record;
            (warrant.waits() && !order.phase.is_open()).then_some(warrant.id)
        };
        let Some(warrant) = warrant() else { return };
        if let Err(error) = self.make_orders_under(warrant).await {
            tracing::warn!(%error, %warrant, "orders that waited for a receipt could not be made; trying again");
        }
    }

    /// The order of `device` under the warrant; a device whose life has ended meanwhile, or that is let go by another,
    /// is passed over.
    fn order_under(&self, mut warrant: Held<WarrantRecord>, device: DeviceId) -> Result<Batch, Error> {
        let permit = decide::<act::MakeOrder>(Caller::server())?;
        warrant.record.ordered = warrant.record.ordered.saturating_add(1);
        let record = warrant.record;
        let batch = Batch::essential();
        let mut held = self.device(device)?;
        let is_ours = match record.ask {
            Ask::Wipe { .. } => held.record.leaving().is_some_and(|leaving| leaving.warrant == record.id),
            Ask::RotateIdentity
            | Ask::CollectPosture
            | Ask::Unlock
            | Ask::Lock
            | Ask::WipeOnLapse { .. }
            | Ask::Stop { .. } => held.record.state.may_be_ended(),
        };
        if !is_ours {
            return Ok(batch.update(record.id.as_bytes(), warrant.version, &record));
        }
        let under = Under { warrant: record.id, not_after: record.not_after };
        let asked = (record.ask.clone(), Some(under));
        let batch = batch.update(record.id.as_bytes(), warrant.version, &record);
        let (mut batch, order) = self.make_order(&permit, batch, &mut held.record, asked);
        if let Ask::Wipe { .. } = order.ask {
            // What was asked before would hold this one back, and the device reports no more.
            for open in self.open_orders(device)?.iter().filter(|open| open.warrant.is_none()) {
                batch = self.end_order(batch, open.id, OrderPhase::Stopped)?;
            }
            if let Some(leaving) = held.record.deprovisioning.as_mut() {
                leaving.order = Some(order.id);
            }
            batch = self.leave_further(&permit, batch, &mut held.record, Phase::Ordered);
            batch = self.settle_certificates(batch, &held.record)?;
        }
        Ok(batch.update(device.as_bytes(), held.version, &held.record))
    }

    /// Ends warrants whose time has passed; answers how many. Their devices follow by themselves.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::NoSpace`], [`Error::Stopped`]; what was ended before stays ended.
    pub async fn expire_warrants(&self) -> Result<usize, Error> {
        let permit = decide::<act::ExpireWarrant>(Caller::server())?;
        let hits = self.store.index_scan(&WARRANTS, "by", &WarrantFacet::Expiry.value(b""), None, EACH)?;
        let mut ended = 0;
        for hit in hits {
            let Some(mut held) = self.store.load::<WarrantRecord>(&hit.id)? else { continue };
            if !held.record.has_lapsed(self.clock.now_s()) {
                break;
            }
            let before = held.record.state;
            held.record.state = State::Lapsed;
            let entry = permit
                .entry(self.clock.now_ms(), format!("warrant/{}", held.record.id))
                .states(before.as_str(), State::Lapsed.as_str());
            let batch = Batch::essential();
            match self.commit(batch.update(&hit.id, held.version, &held.record).audit(entry)).await {
                Ok(()) => ended += 1,
                Err(Error::Contended) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(ended)
    }
}
