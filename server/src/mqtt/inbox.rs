//! Where the gate hands on what devices say, and asks what there is for them.
//!
//! [`Plane`] is the gate's view of the verbs; the server's is [`App`]. It exists so that the gate can be tested with
//! TLS and sockets but without a store.

use crate::app::{App, Error, Mark, Outgoing};
use crate::domain::admission::{Door, Renew, Topics};
use crate::domain::policy::{Act, Caller, Permit, Principal, act, decide};
use crate::domain::refusal::Refusal;
use crate::doors::arrival::Held;
use crate::doors::peer::PeerCertificate;
use muster_wire::id::DeviceId;
use muster_wire::problem::Code;
use muster_wire::topic::Channel;
use std::collections::HashSet;
use std::future::Future;
use std::time::Duration;

/// What is behind the gate.
pub trait Plane: Send + Sync + 'static {
    /// Whether sessions may begin.
    fn is_ready(&self) -> bool;

    /// Makes the issued certificate `shown` the current one, durably.
    fn promote(&self, shown: &PeerCertificate) -> impl Future<Output = Result<(), Error>> + Send;

    /// Everything due for `device` on `topics` that is not among `sent`.
    ///
    /// # Errors
    /// [`Error`].
    fn due(&self, device: DeviceId, topics: Topics, sent: &HashSet<Mark>) -> Result<Vec<Outgoing>, Error>;

    /// Remembers, where that is worth it, that `device` has what `mark` names.
    fn delivered(&self, device: DeviceId, mark: Mark) -> impl Future<Output = Result<(), Error>> + Send;

    /// Says that something is about to be taken, until the answer is dropped: the store gathers what comes together.
    fn announce(&self) -> Held;

    /// Takes what the device of `shown` said on `channel`; when this returns well, the store holds it. Answers what is
    /// to be said to the device at once.
    fn take(
        &self,
        shown: &PeerCertificate,
        channel: Channel,
        payload: &[u8],
    ) -> impl Future<Output = Result<Option<Outgoing>, Error>> + Send;
}

/// What an error means for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The device's: the session ends. The verb has written it down.
    Device,
    /// Nobody's: worth trying again after this long.
    Wait(Duration),
    /// Ours: the session ends, and the device comes again.
    Server,
}

/// Whose fault `error` is.
pub fn fault(error: &Error) -> Fault {
    match error {
        Error::Refused(_) | Error::Signature { .. } | Error::Invalid { .. } | Error::NotFound { .. } => {
            Fault::Device
        }
        Error::RateLimited { retry_after_s } | Error::CoolingOff { retry_after_s, .. } => {
            Fault::Wait(Duration::from_secs(*retry_after_s))
        }
        Error::Busy { retry_after_s } => Fault::Wait(Duration::from_secs(u64::from(*retry_after_s).max(1))),
        Error::Contended => Fault::Wait(Duration::from_millis(100)),
        Error::NoSpace | Error::Stopped | Error::Load(_) | Error::Internal { .. } => Fault::Server,
    }
}

impl Plane for App {
    fn is_ready(&self) -> bool {
        let asks = Caller { principal: Principal::Anonymous, request_id: String::new() };
        decide::<act::ReadHealth>(asks).is_ok_and(|permit| self.readiness(&permit).is_ok())
    }

    async fn promote(&self, shown: &PeerCertificate) -> Result<(), Error> {
        App::promote(self, shown.device, &shown.serial).await
    }

    fn due(&self, device: DeviceId, topics: Topics, sent: &HashSet<Mark>) -> Result<Vec<Outgoing>, Error> {
        App::due(self, device, topics, sent)
    }

    async fn delivered(&self, device: DeviceId, mark: Mark) -> Result<(), Error> {
        App::delivered(self, permit(device)?, device, mark).await
    }

    fn announce(&self) -> Held {
        Box::new(self.store().announce())
    }

    async fn take(
        &self,
        shown: &PeerCertificate,
        channel: Channel,
        payload: &[u8],
    ) -> Result<Option<Outgoing>, Error> {
        let device = shown.device;
        match channel {
            Channel::ReportState => self.report_state(permit(device)?, device, payload).await.map(|()| None),
            Channel::ReportPosture => {
                self.report_posture(permit(device)?, device, payload).await.map(|()| None)
            }
            Channel::ReportEvent => self.report_event(permit(device)?, device, payload).await.map(|()| None),
            Channel::Receipt => self.receipt(permit(device)?, device, payload).await,
            Channel::Renew => {
                let admission = self.doors().judge(shown, Door::Renew);
                let admission =
                    admission.map_err(|why| Refusal::by(why.as_str(), Code::CertificateRefused))?;
                let in_grace = matches!(admission.renew, Renew::Recorded | Renew::RecordedHeld);
                self.renew_in_session(permit(device)?, device, shown.serial, in_grace, payload)
                    .await
                    .map(Some)
            }
            Channel::Order | Channel::Ack | Channel::Desired | Channel::Credential => {
                Err(Refusal::by("gate.wrong_direction", Code::Forbidden).into())
            }
        }
    }
}

fn permit<A: Act>(device: DeviceId) -> Result<Permit<A>, Refusal> {
    decide(Caller { principal: Principal::Device(device), request_id: App::request_id() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_passes_by_itself_is_waited_for() {
        assert_eq!(fault(&Error::Busy { retry_after_s: 0 }), Fault::Wait(Duration::from_secs(1)));
        assert_eq!(fault(&Error::NoSpace), Fault::Server);
        assert_eq!(fault(&Error::Stopped), Fault::Server);
        let refused = Refusal::by("report.malformed", Code::MalformedRequest);
        assert_eq!(fault(&refused.into()), Fault::Device);
    }
}
