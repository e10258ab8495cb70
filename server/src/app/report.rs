//! What devices report: state, posture, events.

use super::{App, Error};
use crate::domain::policy::{Permit, act};
use muster_wire::id::DeviceId;

impl App {
    /// Takes a state report. The same report again changes nothing.
    ///
    /// # Errors
    /// [`Error::Refused`] where the device is at fault; it is in the audit log then. [`Error::RateLimited`] where it
    /// reports too often.
    pub async fn report_state(
        &self,
        permit: Permit<act::ReportState>,
        device: DeviceId,
        body: &[u8],
    ) -> Result<(), Error> {
        let _ = (permit, device, body);
        Err(Error::NotFound { kind: "report" })
    }

    /// Takes a posture report. The same report again changes nothing.
    ///
    /// # Errors
    /// As [`App::report_state`].
    pub async fn report_posture(
        &self,
        permit: Permit<act::ReportPosture>,
        device: DeviceId,
        body: &[u8],
    ) -> Result<(), Error> {
        let _ = (permit, device, body);
        Err(Error::NotFound { kind: "report" })
    }

    /// Takes the report of an event, which becomes an audit entry.
    ///
    /// # Errors
    /// As [`App::report_state`].
    pub async fn report_event(
        &self,
        permit: Permit<act::ReportEvent>,
        device: DeviceId,
        body: &[u8],
    ) -> Result<(), Error> {
        let _ = (permit, device, body);
        Err(Error::NotFound { kind: "report" })
    }
}
