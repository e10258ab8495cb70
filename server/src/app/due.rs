//! What a device should hear now.

use super::{App, Error, Mark, Outgoing};
use crate::domain::admission::Topics;
use crate::domain::policy::{Permit, act};
use muster_wire::id::DeviceId;
use std::collections::HashSet;

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
        let _ = (self.device(device)?, topics, sent);
        Ok(Vec::new())
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
        let _ = (permit, device, mark);
        Ok(())
    }
}
