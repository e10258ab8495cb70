//! Receipts of orders, and the words that they have arrived.
//!
//! A receipt is verified by the device's current identity key, kept, and only then acknowledged. The acknowledgement
//! is a pure function of the receipt, so the same receipt gets the same bytes.

use super::progress::Kept;
use super::report::whose;
use super::{App, Error, Mark, Outgoing};
use crate::domain::order::{OrderRecord, Phase, is_excess};
use crate::domain::policy::{Permit, act};
use crate::domain::refusal::Refusal;
use crate::domain::reported::Seen;
use crate::store::Batch;
use crate::store::collections::Held;
use muster_wire::envelope::Verified;
use muster_wire::id::DeviceId;
use muster_wire::problem::Code;
use muster_wire::receipt::{Ack, Receipt};
use muster_wire::topic::Channel;

impl App {
    /// Takes a receipt and answers with its `ack`, once the receipt is durable. The same receipt again gets the same.
    ///
    /// # Errors
    /// [`Error::Refused`] where the receipt is not the device's or does not fit its order; it is in the audit log then.
    /// [`Error::RateLimited`] where the device speaks too often.
    pub async fn receipt(
        &self,
        permit: Permit<act::SendReceipt>,
        device: DeviceId,
        body: &[u8],
    ) -> Result<Option<Outgoing>, Error> {
        self.pace(&permit, device).await?;
        let taken = async {
            let receipt = self.read_receipt(device, body)?;
            for _ in 0..super::ATTEMPTS {
                match self.take_receipt(&permit, device, (&receipt, body)).await {
                    Err(Error::Contended) => {}
                    Err(error) => return Err(error),
                    Ok(()) => {
                        self.next_wave(receipt.order).await;
                        return self.ack(&receipt);
                    }
                }
            }
            Err(Error::Contended)
        };
        self.settle_report(&permit, device, taken.await).await.map(Some)
    }

    fn read_receipt(&self, device: DeviceId, body: &[u8]) -> Result<Verified<Receipt>, Error> {
        let speaker = self.speaker(device)?;
        let receipt = super::identity::read::<Receipt>(body, speaker.key, "receipt.envelope")?;
        whose(receipt.device, device)?;
        if receipt.certificate != speaker.certificate {
            return Err(Refusal::by("receipt.certificate", Code::CertificateRefused)
                .at("certificate")
                .into());
        }
        Ok(receipt)
    }

    async fn take_receipt(
        &self,
        permit: &Permit<act::SendReceipt>,
        device: DeviceId,
        (receipt, body): (&Verified<Receipt>, &[u8]),
    ) -> Result<(), Error> {
        let now_ms = self.clock.now_ms();
        let Some(order) = self.store.load::<OrderRecord>(receipt.order.as_bytes())? else {
            return self.note_unknown(permit, device, receipt, now_ms).await;
        };
        let now_s = now_ms.div_euclid(1000);
        let mut next = match order.record.receive(receipt, receipt.payload_digest(), now_s) {
            Ok(Some(next)) => next,
            Ok(None) => return Ok(()),
            Err(refusal) if is_excess(refusal.rule) => {
                return self.note_excess(permit, order, receipt, (&refusal, now_ms)).await;
            }
            Err(refusal) => return Err(refusal.into()),
        };
        let mut known = self.known(device)?;
        let as_read = known.device.record.clone();
        let goes_on = next.receipts.len() > order.record.receipts.len() || next.phase != order.record.phase;
        let is_essential = order.record.warrant.is_some() && goes_on;
        let begun = if is_essential { Batch::essential() } else { Batch::default() };
        let changed = (&order.record, &mut next);
        let mut batch =
            self.follow_receipt(permit, begun, &mut known.device.record, changed, (receipt, body))?;
        batch = batch.update(next.id.as_bytes(), order.version, &next);
        if next.phase != order.record.phase {
            let entry = permit
                .entry(now_ms, format!("device/{device}"))
                .states(order.record.phase.as_str(), next.phase.as_str())
                .facts(super::order::facts(&next))
                .facts([("receipt_sha256", receipt.payload_digest().to_hex())])
                .facts(next.reason().map(|why| ("detail", why.to_owned())));
            batch = batch.audit(entry);
        }
        if next.phase == Phase::Done && as_read.steps.order_at.is_none() {
            known.device.record.steps.order_at = Some(now_ms);
        }
        let mut kept = Kept::Neither;
        if let (Some(head), Some(Held { version, record })) =
            (receipt.last_checkpoint, known.reported.as_mut())
            && record.checkpoint.is_none_or(|seen| seen.size < head.size)
        {
            record.checkpoint = Some(Seen::from(head));
            batch = batch.update(device.as_bytes(), *version, record);
            kept = Kept::Reported;
        }
        let batch = self.advance(batch, &as_read, &known, kept)?;
        self.commit(batch).await
    }

    /// A receipt that changes nothing about `order` any more: the first is written down, and all are acknowledged.
    async fn note_excess(
        &self,
        permit: &Permit<act::SendReceipt>,
        mut order: Held<OrderRecord>,
        receipt: &Verified<Receipt>,
        (refusal, now_ms): (&Refusal, i64),
    ) -> Result<(), Error> {
        if order.record.excess_noted {
            return Ok(());
        }
        order.record.excess_noted = true;
        let entry = permit.refused(now_ms, format!("device/{}", order.record.device), refusal).facts([
            ("order", receipt.order.to_string()),
            ("receipt_sha256", receipt.payload_digest().to_hex()),
            ("phase", receipt.phase.to_string()),
        ]);
        let batch = Batch::default().update(order.record.id.as_bytes(), order.version, &order.record);
        self.commit(batch.audit(entry)).await
    }

    /// A receipt for an order that this server never made, or has lost with a restore: somebody else may have had the
    /// command key. It is written down, and then acknowledged like any other, since the device would bring it for ever.
    async fn note_unknown(
        &self,
        permit: &Permit<act::SendReceipt>,
        device: DeviceId,
        receipt: &Verified<Receipt>,
        now_ms: i64,
    ) -> Result<(), Error> {
        tracing::warn!(%device, order = %receipt.order, "a device answers an order that is not known here");
        let refusal = Refusal::by("receipt.order", Code::NotFound).at("order");
        let entry = permit.refused(now_ms, format!("device/{device}"), &refusal).facts([
            ("order", receipt.order.to_string()),
            ("receipt_sha256", receipt.payload_digest().to_hex()),
            ("phase", receipt.phase.to_string()),
        ]);
        self.commit(Batch::default().audit(entry)).await
    }

    fn ack(&self, receipt: &Verified<Receipt>) -> Result<Outgoing, Error> {
        let sha256 = receipt.payload_digest();
        let ack = Ack { device: receipt.device, order: receipt.order, receipt: sha256 };
        let payload = self.ca.sign_command(&ack);
        let payload =
            payload.map_err(|error| Error::internal("signing an acknowledgement")(Box::new(error)))?;
        Ok(Outgoing { channel: Channel::Ack, payload, mark: Mark::Ack(sha256) })
    }
}
