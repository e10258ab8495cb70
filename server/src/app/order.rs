//! Orders: made, listed, shown, closed when their time has passed.

use super::listing::part;
use super::{App, Error, Page};
use crate::domain::device::{Device, DeviceState};
pub(super) use crate::domain::order::OPEN_MAX;
use crate::domain::order::{Ask, EXPIRES_AFTER_S, OrderRecord, Phase};
use crate::domain::policy::{Act, Caller, Permit, act, decide};
use crate::domain::refusal::Refusal;
use crate::store::Batch;
use crate::store::collections::{ORDERS, OrderFacet};
use crate::store::key::instant;
use muster_wire::id::{DeviceId, OrderId, WarrantId};
use muster_wire::problem::Code;

/// Orders that are closed in one go.
const CLOSED_EACH: usize = 256;

/// Orders of one device that are listed in one go.
const ORDERS_EACH: usize = 1_000;

/// What audit entries say of an order.
pub(super) fn facts(order: &OrderRecord) -> impl Iterator<Item = (&'static str, String)> {
    let always = [
        ("order", order.id.to_string()),
        ("kind", order.ask.as_str().to_owned()),
        ("order_counter", order.counter.to_string()),
    ];
    let level = order.ask.level().map(|level| ("level", level.to_string()));
    let warrant = order.warrant.map(|warrant| ("warrant", warrant.to_string()));
    always.into_iter().chain(level).chain(warrant)
}

/// The warrant under which an order is made, and its last second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Under {
    pub(super) warrant: WarrantId,
    pub(super) not_after: i64,
}

impl App {
    /// Orders `ask` of `device`; it is sent as soon as the device is connected. An order of the same kind that is
    /// still to be sent is answered instead of a second one.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Refused`] with `device_state_refused` unless the device may hear orders, with
    /// `conflict` where too many are open.
    pub async fn order(
        &self,
        permit: Permit<act::MakeOrder>,
        device: DeviceId,
        ask: Ask,
    ) -> Result<OrderRecord, Error> {
        for _ in 0..super::ATTEMPTS {
            let mut held = self.device(device)?;
            match self.orderable(&held.record, &ask) {
                Ok(Some(open)) => return Ok(open),
                Ok(None) => {}
                Err(Error::Refused(refusal)) => {
                    return Err(self.refuse(&permit, super::refuse::About::Device(device), refusal).await);
                }
                Err(error) => return Err(error),
            }
            let (batch, order) =
                self.make_order(&permit, Batch::default(), &mut held.record, (ask.clone(), None));
            match self.commit(batch.update(device.as_bytes(), held.version, &held.record)).await {
                Err(Error::Contended) => {}
                settled => return settled.map(|()| order),
            }
        }
        Err(Error::Contended)
    }

    /// Whether `ask` may be ordered of `device`, and the order that asks it already.
    fn orderable(&self, device: &Device, ask: &Ask) -> Result<Option<OrderRecord>, Error> {
        if !matches!(
            device.state,
            DeviceState::Commissioning | DeviceState::Active | DeviceState::Quarantined
        ) {
            return Err(Refusal::by("order.state", Code::DeviceStateRefused).at("state").into());
        }
        let now = self.clock.now_s();
        let open: Vec<_> =
            self.open_orders(device.id)?.into_iter().filter(|order| order.is_due(now)).collect();
        let same = open.iter().find(|order| order.ask == *ask && order.receipts.is_empty());
        if same.is_none() && open.len() >= OPEN_MAX {
            return Err(Refusal::by("order.too_many_open", Code::Conflict).into());
        }
        Ok(same.cloned())
    }

    /// Adds to `batch` a new order of `device`, under a warrant if one is named; the caller writes the device's record
    /// in the same batch.
    pub(super) fn make_order<A: Act>(
        &self,
        permit: &Permit<A>,
        batch: Batch,
        device: &mut Device,
        (ask, under): (Ask, Option<Under>),
    ) -> (Batch, OrderRecord) {
        let now_ms = self.clock.now_ms();
        let made_at = now_ms.div_euclid(1000);
        device.orders_made = device.orders_made.saturating_add(1);
        let order = OrderRecord {
            v: 1,
            id: OrderId::from_parts(super::enroll::ms(now_ms), super::random()),
            device: device.id,
            ask,
            warrant: under.map(|under| under.warrant),
            counter: device.orders_made,
            by: permit.caller().principal.actor(),
            made_at,
            expires: under.map_or(made_at.saturating_add(EXPIRES_AFTER_S), |under| under.not_after),
            phase: Phase::Ordered,
            receipts: Vec::new(),
            replaced: 0,
            excess_noted: false,
        };
        let entry = permit
            .entry(now_ms, format!("device/{}", device.id))
            .states("", Phase::Ordered.as_str())
            .facts(facts(&order));
        (batch.insert(order.id.as_bytes(), &order).audit(entry), order)
    }

    /// The order of this id, and the version of its record.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn show_order(
        &self,
        _permit: &Permit<act::ReadOrder>,
        id: OrderId,
    ) -> Result<(OrderRecord, u64), Error> {
        let held = self.store.load::<OrderRecord>(id.as_bytes())?.ok_or(Error::NotFound { kind: "order" })?;
        Ok((held.record, held.version))
    }

    /// The newest order of `device` among those made no earlier than `since`, the bytes of an id that begins with its time,
    /// that `wanted` fits; only the newest `most` are looked at.
    pub(super) fn newest_order(
        &self,
        device: DeviceId,
        since: &[u8],
        wanted: impl Fn(&OrderRecord) -> bool,
        most: usize,
    ) -> Result<Option<OrderRecord>, Error> {
        let of_device = OrderFacet::Device.value(device.as_bytes());
        let (mut ids, mut after) = (Vec::new(), None::<Vec<u8>>);
        loop {
            let hits = self.store.index_scan(&ORDERS, "by", &of_device, after.as_deref(), ORDERS_EACH)?;
            let Some(last) = hits.last() else { break };
            after = Some(last.cursor.clone());
            ids.extend(hits.into_iter().map(|hit| hit.id).filter(|id| id.as_slice() >= since));
        }
        // Open and closed ones are listed apart, each by their age.
        ids.sort_unstable();
        for id in ids.iter().rev().take(most) {
            let order = self.store.load::<OrderRecord>(id)?.map(|held| held.record);
            if let Some(order) = order.filter(&wanted) {
                return Ok(Some(order));
            }
        }
        Ok(None)
    }

    /// Up to `limit` orders after `cursor`, oldest first; those of `device` only, if one is given.
    ///
    /// # Errors
    /// [`Error::Load`].
    pub fn orders(
        &self,
        _permit: &Permit<act::ReadOrder>,
        device: Option<DeviceId>,
        cursor: Option<&[u8]>,
        limit: usize,
    ) -> Result<Page<OrderRecord>, Error> {
        let all = |after: Option<&[u8]>, wanted: usize| {
            let after = after.map(|id| ORDERS.key(id));
            let page = self.store.scan(ORDERS.prefix, after.as_deref(), wanted)?;
            let ids = page.iter().filter_map(|(key, _)| ORDERS.id(key));
            Ok(ids.map(|id| (id.to_vec(), id.to_vec())).collect())
        };
        let keep = |id: Vec<u8>| Ok(self.store.load::<OrderRecord>(&id)?.map(|held| held.record));
        let Some(device) = device else { return part(cursor, limit, all, keep) };
        let of_device = OrderFacet::Device.value(device.as_bytes());
        let of_it = |after: Option<&[u8]>, wanted: usize| {
            let hits = self.store.index_scan(&ORDERS, "by", &of_device, after, wanted)?;
            Ok(hits.into_iter().map(|hit| (hit.id, hit.cursor)).collect())
        };
        part(cursor, limit, of_it, keep)
    }

    /// Closes orders whose time has passed; answers how many.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::NoSpace`], [`Error::Stopped`]; what was closed before stays closed.
    pub async fn expire_orders(&self) -> Result<usize, Error> {
        let permit = decide::<act::ExpireOrder>(Caller::server())?;
        let now = self.clock.now_s();
        let lapsed = OrderFacet::Expiry.value(&instant(now));
        let hits = self.store.index_scan(&ORDERS, "by", &OrderFacet::Expiry.value(b""), None, CLOSED_EACH)?;
        let mut closed = 0;
        for hit in hits.iter().take_while(|hit| hit.value < lapsed) {
            let Some(mut held) = self.store.load::<OrderRecord>(&hit.id)? else { continue };
            // One by which a device is let go lapses with that, in one commit (`deprovision.rs`).
            let is_letting_go = matches!(held.record.ask, Ask::Wipe { .. });
            if is_letting_go || !held.record.has_lapsed(now) {
                continue;
            }
            let before = held.record.phase;
            held.record.phase = Phase::Expired;
            let entry = permit
                .entry(self.clock.now_ms(), format!("device/{}", held.record.device))
                .states(before.as_str(), Phase::Expired.as_str())
                .facts(facts(&held.record));
            let batch = Batch::essential();
            match self.commit(batch.update(&hit.id, held.version, &held.record).audit(entry)).await {
                Ok(()) => closed += 1,
                // A receipt came meanwhile.
                Err(Error::Contended) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(closed)
    }
}
