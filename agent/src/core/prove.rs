//! The last step of enrolling and of renewing: the certificate is durable; does it work?
//!
//! In TLS 1.3 a client's handshake ends before the server has judged, so only an authenticated answer proves
//! (contract.md, "Certificate status × door"). Then, and only then, the new key and certificate replace the old:
//! record first, move the files after. A kill between the two is finished by [`settle`].

use muster_wire::digest::Sha256Digest;
use muster_wire::id::DeviceId;
use muster_wire::problem::Exit;
use muster_wire::time::Timestamp;

use super::effect::{Caller, Effect, Event, Request};
use super::record::{ENROLLED, Proven, Record};
use super::refusal::Refusal;
use super::trust::{self, Leaf};
use super::{Desk, Door, Step, Task, renew};

/// A command did what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// Which of the things it can have done.
    pub outcome: Outcome,
    /// The device's id.
    pub device: DeviceId,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The device has its first certificate, and it works.
    Enrolled,
    /// The device held a certificate that no record spoke of, and it works. Nothing was asked of the token.
    TakenUp,
    /// It had it before.
    AlreadyEnrolled,
    /// It has another certificate, and that works.
    Renewed,
}

impl Outcome {
    /// One stable word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enrolled => "enrolled",
            Self::TakenUp => "taken_up",
            Self::AlreadyEnrolled => "already_enrolled",
            Self::Renewed => "renewed",
        }
    }

    /// One line for a person.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Enrolled => "This device is enrolled.",
            Self::TakenUp => {
                "The identity that was found here works and was taken up again. This string's token was not used: if \
                 it is not the one of the first time, it is still good; revoke it with `muster token revoke`."
            }
            Self::AlreadyEnrolled => "This device was enrolled with this string before; nothing was changed.",
            Self::Renewed => "This device has a new certificate.",
        }
    }
}

/// Whether the certificate to be proven was received in this run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Just now.
    Received,
    /// In an earlier run, that was interrupted.
    Found,
}

/// `GET /.well-known/muster` with the certificate has been asked.
#[derive(Debug)]
pub(super) struct ExpectProof {
    caller: Caller,
    certificate: Sha256Digest,
    device: DeviceId,
    outcome: Outcome,
    origin: Origin,
}

/// Asks for the proof of `leaf`, which `caller` will show.
pub(super) fn begin(desk: &mut Desk, caller: Caller, leaf: &Leaf, outcome: Outcome, origin: Origin) -> Task {
    let by_session = desk.door == Door::Session && outcome == Outcome::Renewed && caller == Caller::Next;
    desk.ask(if by_session { Request::Session(caller) } else { Request::Discovery(caller) });
    Task::Prove(Box::new(ExpectProof {
        caller,
        certificate: leaf.sha256,
        device: leaf.device,
        outcome,
        origin,
    }))
}

impl ExpectProof {
    pub(super) fn handle(self, desk: &mut Desk, event: Event, now: Timestamp) -> Step {
        let judged = match event {
            Event::Answered(answer) => answer.discovery().and_then(|found| match &found.device {
                Some(caller) if caller.id == self.device => Ok((caller.state.clone(), Some(found))),
                Some(_) => Err(Refusal::ForeignName),
                None => Err(Refusal::Unrecognised),
            }),
            // A session says who is connected and nothing else: what the state was called last may be long over.
            Event::Connected => match &desk.past.proven {
                Some(_) => Ok((ENROLLED.to_owned(), None)),
                None => Err(Refusal::OutOfOrder),
            },
            Event::Unanswered(trouble) => Err(Refusal::Unanswered(trouble)),
            Event::KeyReady(_) | Event::Paused(_) | Event::Enroll(_) | Event::Renew(_) => {
                Err(Refusal::OutOfOrder)
            }
        };
        let (state, found) = match judged {
            // A renewal found half done may have outlived its certificate's welcome; the current one still stands.
            Err(refusal) if self.may_start_over() && refusal.exit() == Exit::Refused => {
                return renew::start_over(desk);
            }
            judged => judged?,
        };
        let former = desk.past.proven.as_ref().and_then(|proven| proven.mqtt.clone());
        let mqtt = found.as_ref().map(|found| found.endpoints.mqtt.clone()).or(former);
        if let Some(found) = &found {
            trust::adopt_successor(desk, found, now);
        }
        desk.record(Record::Proven(Proven {
            certificate: self.certificate,
            device: self.device,
            state,
            mqtt,
            at: now,
        }));
        if self.caller == Caller::Next {
            promote(desk);
        }
        finish(desk, self.outcome, self.device)
    }

    fn may_start_over(&self) -> bool {
        self.outcome == Outcome::Renewed && self.origin == Origin::Found
    }
}

/// Ends the command.
pub(super) fn finish(desk: &mut Desk, outcome: Outcome, device: DeviceId) -> Step {
    desk.effects.push_back(Effect::Finish(Ok(Box::new(Done { outcome, device }))));
    Ok(Task::Over)
}

/// Finishes a promotion that was interrupted, and clears away what belongs to nothing.
///
/// The key moves before the certificate, so in between the new certificate waits beside a current key that fits it.
///
/// # Errors
/// [`Refusal::IdentityLost`] when the waiting certificate cannot be read.
pub(super) fn settle(desk: &mut Desk) -> Result<(), Refusal> {
    let Some(der) = &desk.held.next_certificate else { return Ok(()) };
    let leaf = Leaf::read(der).map_err(|_| Refusal::IdentityLost)?;
    let is_proven = desk.past.proven.as_ref().is_some_and(|proven| proven.certificate == leaf.sha256);
    if desk.held.next_key == Some(leaf.spki) {
        if is_proven {
            promote(desk);
        }
    } else if desk.held.key == Some(leaf.spki) {
        promote(desk);
    } else {
        discard_next(desk);
    }
    Ok(())
}

/// The certificate in use with its key, when both are there and fit.
pub(super) fn current(desk: &Desk) -> Option<Leaf> {
    let leaf = Leaf::read(desk.held.certificate.as_deref()?).ok()?;
    (desk.held.key == Some(leaf.spki)).then_some(leaf)
}

/// The certificate that waits for its proof, with its key. Only after [`settle`].
pub(super) fn waiting(desk: &Desk) -> Option<Leaf> {
    let leaf = Leaf::read(desk.held.next_certificate.as_deref()?).ok()?;
    (desk.held.next_key == Some(leaf.spki)).then_some(leaf)
}

/// Removes a key, and a certificate, that will not be used.
pub(super) fn discard_next(desk: &mut Desk) {
    desk.held.next_key = None;
    desk.held.next_certificate = None;
    desk.effects.push_back(Effect::DiscardNext);
}

fn promote(desk: &mut Desk) {
    if let Some(key) = desk.held.next_key.take() {
        desk.held.key = Some(key);
    }
    if let Some(certificate) = desk.held.next_certificate.take() {
        desk.held.certificate = Some(certificate);
    }
    desk.effects.push_back(Effect::Promote);
}
