//! What a device should hear now.

use super::desired::Ready;
use super::warrant::Shown;
use super::{App, Error, LogSource, Mark, Outgoing};
use crate::audit::proof;
use crate::domain::admission::Topics;
use crate::domain::deprovision;
use crate::domain::order::{Ask, OrderRecord, Phase};
use crate::domain::policy::{Permit, act};
use crate::domain::reconcile::{self, Due};
use crate::domain::reported::Reported;
use crate::store::Batch;
use crate::store::collections::{ORDERS, OrderFacet};
use muster_wire::desired::{Generation, Lease};
use muster_wire::digest::Sha256Digest;
use muster_wire::id::{DeviceId, OrderId};
use muster_wire::order::{Order, Sequence};
use muster_wire::time::Timestamp;
use muster_wire::topic::Channel;
use std::collections::HashSet;

/// A lease is renewed so many times while it lasts, within a session that stays open.
const TURNS: u64 = 3;

/// Which turn of `lease` it is at `now` (unix seconds).
fn turn(lease: Lease, now: i64) -> i64 {
    let each = i64::try_from(lease.lasts_s / TURNS).unwrap_or(i64::MAX);
    if each == 0 { 0 } else { now.div_euclid(each) }
}

impl Mark {
    /// The mark of `due` in this `turn` of a lease, for a device whose head says `says` and that has seen the audit log up
    /// to the size `proven_from`.
    fn of(due: Due, (turn, says): (i64, Sha256Digest), proven_from: u64) -> Self {
        match due {
            Due::Desired(generation) => Self::Desired { generation, turn, says },
            Due::Order(id) => Self::Order { id, proven_from },
        }
    }
}

impl App {
    /// Everything due for `device` on `topics` that is not among `sent`, in the order in which it is to be sent.
    ///
    /// Nothing is queued for a device: this looks at what is desired and what was reported, and signs afresh. Call it
    /// when a session begins, when it is nudged, and on a timer.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Load`].
    pub fn due(
        &self,
        device: DeviceId,
        topics: Topics,
        sent: &HashSet<Mark>,
    ) -> Result<Vec<Outgoing>, Error> {
        let is_frozen = self.is_frozen()?;
        let device = self.device(device)?.record;
        let reported = self.store.load::<Reported>(device.id.as_bytes())?.map(|held| held.record);
        let plan = self.plan(&device.profile)?;
        let (generation, ready) = (plan.generation(reported.as_ref()), plan.of(&device));
        let lease = ready.settled.lease;
        let turn = turn(lease, self.clock.now_s());
        let is_in_place = reported.as_ref().and_then(Reported::in_place) == Some(generation);
        if is_frozen && !(is_in_place && lease.lasts_s > 0) {
            return Ok(Vec::new());
        }
        // A freeze keeps back what is new. What is in place is confirmed: no lease shall lapse because of it.
        let topics = if is_frozen { topics.and(Topics::DESIRED) } else { topics };
        let may_order = topics.contains(Topics::ORDER);
        let orders = if may_order { self.open_orders(device.id)? } else { Vec::new() };
        let seen = reported.as_ref().and_then(|reported| reported.checkpoint).map_or(0, |seen| seen.size);
        let told = |due: Due| sent.contains(&Mark::of(due, (turn, ready.says), seen));
        let due = reconcile::due(generation, &orders, topics, self.clock.now_s(), told);
        due.into_iter()
            .filter_map(|one| match one {
                Due::Desired(generation) => Some(self.head(device.id, &ready, generation, turn)),
                Due::Order(id) => {
                    let order = orders.iter().find(|order| order.id == id)?;
                    self.order_document(order, seen).transpose()
                }
            })
            .collect()
    }

    /// The open orders of `device`, in no order.
    pub(super) fn open_orders(&self, device: DeviceId) -> Result<Vec<OrderRecord>, Error> {
        let hits = self.store.index_scan(
            &ORDERS,
            "by",
            &OrderFacet::open_of(device),
            None,
            2 * super::order::OPEN_MAX,
        )?;
        let mut orders = Vec::with_capacity(hits.len());
        for hit in hits {
            orders.extend(self.store.load::<OrderRecord>(&hit.id)?.map(|held| held.record));
        }
        Ok(orders)
    }

    fn head(
        &self,
        device: DeviceId,
        ready: &Ready,
        generation: Generation,
        turn: i64,
    ) -> Result<Outgoing, Error> {
        let issued_at = Timestamp(self.head_time.at(self.clock.now_s()));
        let payload = self.ca.sign_command(&ready.settled.head(device, generation, issued_at));
        let payload = payload.map_err(|error| Error::internal("signing a head")(Box::new(error)))?;
        let mark = Mark::Desired { generation, turn, says: ready.says };
        Ok(Outgoing { channel: Channel::Desired, payload, mark })
    }

    /// The order as it is sent now to a device that has seen `seen` entries of the audit log, with a checkpoint that
    /// covers it: it is durable, and so is its entry. Nothing where it stands under a warrant that does not hold now,
    /// since an approver who signed it has left for instance: the device would refuse it; and nothing yet where it may
    /// not leave before a checkpoint is on the disk.
    fn order_document(&self, order: &OrderRecord, seen: u64) -> Result<Option<Outgoing>, Error> {
        if !self.may_leave(order)? {
            return Ok(None);
        }
        let (warrant, leaf, inclusion) = match order.warrant {
            None => (None, None, None),
            Some(warrant) => match self.warranted(warrant, order.device)? {
                Some(Shown { warrant, leaf, inclusion }) => (Some(warrant), Some(leaf), Some(inclusion)),
                None => return Ok(None),
            },
        };
        let in_force = self.in_force();
        let shown = proof::show(&LogSource(self.store.clone()), &in_force.audit_key, seen);
        let (checkpoint, consistency) =
            shown.map_err(|error| Error::internal("showing the audit log")(Box::new(error)))?;
        let document = Order {
            device: order.device,
            id: order.id,
            sequence: Sequence {
                authority_version: in_force.lineage.current().version,
                restore_epoch: 0,
                counter: order.counter,
            },
            action: order.ask.action(),
            warrant,
            leaf,
            inclusion,
            issued_at: Timestamp(self.clock.now_s()),
            expires: Timestamp(order.expires),
            checkpoint,
            consistency,
        };
        let payload = self.ca.sign_command(&document);
        let payload = payload.map_err(|error| Error::internal("signing an order")(Box::new(error)))?;
        let mark = Mark::Order { id: order.id, proven_from: seen };
        Ok(Some(Outgoing { channel: Channel::Order, payload, mark }))
    }

    /// Remembers that `device` has acknowledged the message `mark`, where that is worth remembering.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::NoSpace`], [`Error::Stopped`].
    pub async fn delivered(
        &self,
        permit: Permit<act::Deliver>,
        device: DeviceId,
        mark: Mark,
    ) -> Result<(), Error> {
        for _ in 0..super::ATTEMPTS {
            let batch = match mark {
                Mark::Order { id, .. } => self.delivery(&permit, device, id)?,
                Mark::Ack(receipt) => self.acknowledged_last(&permit, device, receipt)?,
                Mark::Desired { .. } | Mark::Credential(_) => None,
            };
            let Some(batch) = batch else { return Ok(()) };
            match self.commit(batch).await {
                Err(Error::Contended) => {}
                settled => return settled,
            }
        }
        Err(Error::Contended)
    }

    fn delivery(
        &self,
        permit: &Permit<act::Deliver>,
        device: DeviceId,
        id: OrderId,
    ) -> Result<Option<Batch>, Error> {
        let Some(mut held) = self.store.load::<OrderRecord>(id.as_bytes())? else { return Ok(None) };
        if held.record.device != device || held.record.phase != Phase::Ordered {
            return Ok(None);
        }
        held.record.phase = Phase::Delivered;
        let entry = permit
            .entry(self.clock.now_ms(), format!("device/{device}"))
            .states(Phase::Ordered.as_str(), Phase::Delivered.as_str())
            .facts(super::order::facts(&held.record));
        let batch = Batch::default().update(id.as_bytes(), held.version, &held.record).audit(entry);
        if !matches!(held.record.ask, Ask::Wipe { .. }) {
            return Ok(Some(batch));
        }
        let mut leaver = self.device(device)?;
        let batch = self.leave_further(permit, batch, &mut leaver.record, deprovision::Phase::Delivered);
        Ok(Some(batch.update(device.as_bytes(), leaver.version, &leaver.record)))
    }
}
