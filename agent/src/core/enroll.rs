//! Enrolling: from a string that a person was given to a certificate that works.
//!
//! ```text
//! string ─▶ discovery ─▶ CA certificates ─▶ accepted ─▶ key ─▶ certificate ─▶ proof ─▶ enrolled
//!           authority    root by pin        (record)   (file)  (file)         (record, then files move)
//!           by digest
//! ```
//! Nothing is asked of a server before its root and its authority are the pinned ones, and no key leaves this
//! device. After a kill the same command walks the same way again: what it finds done it does not do twice, and
//! what the server has done it answers again, since token and key are the same. The token is never written down.

use std::path::PathBuf;
use std::time::Duration;

use muster_wire::digest::Sha256Digest;
use muster_wire::discovery::Discovery;
use muster_wire::enrollment::EnrollmentString;
use muster_wire::time::Timestamp;
use zeroize::Zeroizing;

use super::effect::{Caller, Document, Effect, Event, Names, Request};
use super::prove::{self, Origin, Outcome};
use super::record::{Accepted, Record, declared_roots};
use super::refusal::Refusal;
use super::trust::{Authority, Trust};
use super::{Desk, Step, Task};

/// What a person wants.
#[derive(Debug)]
pub struct EnrollOrder {
    /// Where, with what, and whom to believe.
    pub string: EnrollmentString,
    /// The authority that the person insists on, whatever the string says.
    pub insisted: Option<Sha256Digest>,
    /// This device's serial number.
    pub serial: Option<String>,
    /// The tree that this device manages, absolute.
    pub root: PathBuf,
    /// How long to wait for an approval, or for a server out of reach.
    pub patience: Duration,
}

impl EnrollOrder {
    /// What the journal remembers of the string: enough to know it again, nothing to use it.
    fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(Zeroizing::new(self.string.reveal()).as_bytes())
    }
}

/// Which answer an enrolment awaits.
#[derive(Debug)]
pub(super) struct Expect {
    order: EnrollOrder,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Discovery,
    CaCerts { authority: Authority },
    Key { trust: Trust },
    Certificate { trust: Trust, key: Vec<u8> },
}

/// Starts an enrolment, or finds that there is nothing left to do.
pub(super) fn begin(desk: &mut Desk, order: EnrollOrder, _now: Timestamp) -> Step {
    desk.patience = order.patience;
    if order.insisted.is_some_and(|insisted| insisted != order.string.auth) {
        return Err(Refusal::InsistedAuthority { named: order.string.auth });
    }
    let is_same = match &desk.past.accepted {
        // A life that is over binds to nothing.
        Some(_) if desk.past.retired.is_some() => false,
        Some(accepted) if accepted.enrolment == order.digest() => true,
        Some(accepted) => {
            refuse_while_bound(desk, accepted)?;
            false
        }
        None => false,
    };
    prove::settle(desk)?;
    if is_same && let Some(proven) = desk.past.proven.clone() {
        let accepted_root = desk.past.accepted.as_ref().map(|accepted| &accepted.root);
        if let Some(fixed) = accepted_root.filter(|fixed| **fixed != order.root) {
            return Err(Refusal::RootFixed { fixed: fixed.display().to_string() });
        }
        return match prove::current(desk) {
            Some(_) => prove::finish(desk, Outcome::AlreadyEnrolled, proven.device),
            None => Err(Refusal::IdentityLost),
        };
    }
    if !is_same && desk.past.accepted.is_some() && desk.held.next_key.is_some() {
        // The former string led nowhere; its key may already stand in some request, so the new one gets its own.
        prove::discard_next(desk);
    }
    desk.ask(Request::Discovery(Caller::Anonymous));
    Ok(Task::Enroll(Box::new(Expect { order, stage: Stage::Discovery })))
}

/// A device that holds a certificate from another string keeps it.
fn refuse_while_bound(desk: &Desk, accepted: &Accepted) -> Result<(), Refusal> {
    let server = format!("https://{}", accepted.place());
    if desk.past.proven.is_some() || desk.held.certificate.is_some() {
        return Err(Refusal::EnrolledElsewhere { server });
    }
    if desk.held.next_certificate.is_some() {
        return Err(Refusal::Unfinished { server });
    }
    Ok(())
}

impl Expect {
    pub(super) fn handle(self, desk: &mut Desk, event: Event, now: Timestamp) -> Step {
        match (self.stage, event) {
            (_, Event::Unanswered(trouble)) => Err(Refusal::Unanswered(trouble)),
            (Stage::Discovery, Event::Answered(answer)) => {
                discovered(desk, self.order, &answer.discovery()?, now)
            }
            (Stage::CaCerts { authority }, Event::Answered(answer)) => {
                let trust = Trust::from_cacerts(&answer.body()?, &self.order.string.ca)?;
                accept(desk, self.order, &authority, trust, now)
            }
            (Stage::Key { trust }, Event::KeyReady(key)) => {
                desk.held.next_key = Some(key.digest());
                let bearer = Zeroizing::new(self.order.string.token.reveal().to_owned());
                desk.ask(Request::SimpleEnroll { bearer, csr: key.csr });
                let stage = Stage::Certificate { trust, key: key.spki };
                Ok(Task::Enroll(Box::new(Self { order: self.order, stage })))
            }
            (Stage::Certificate { trust, key }, Event::Answered(answer)) => {
                let leaf = trust.check(&answer.body()?, &key, desk.trust_domain(), now)?;
                desk.store(Document::NextCertificate, leaf.to_pem());
                desk.held.next_certificate = Some(leaf.der.clone());
                Ok(prove::begin(desk, Caller::Next, &leaf, Outcome::Enrolled, Origin::Received))
            }
            _ => Err(Refusal::OutOfOrder),
        }
    }
}

fn discovered(desk: &mut Desk, order: EnrollOrder, found: &Discovery, now: Timestamp) -> Step {
    let authority = Authority::verify(found, &order.string.auth, now)?;
    desk.ask(Request::CaCerts(Caller::Anonymous));
    Ok(Task::Enroll(Box::new(Expect { order, stage: Stage::CaCerts { authority } })))
}

/// The server is the pinned one: remember that, then go on wherever an earlier run was interrupted.
fn accept(desk: &mut Desk, order: EnrollOrder, authority: &Authority, trust: Trust, now: Timestamp) -> Step {
    trust.store(desk);
    authority.store(desk);
    let accepted = Accepted {
        enrolment: order.digest(),
        host: order.string.host.clone(),
        port: order.string.port,
        root_spki: order.string.ca,
        authority: order.string.auth,
        authority_version: authority.version,
        trust_domain: authority.trust_domain.clone(),
        serial: order.serial.clone(),
        root: order.root.clone(),
        declared: declared_roots(),
        at: now,
    };
    let is_known = desk.past.retired.is_none()
        && desk.past.accepted.as_ref().is_some_and(|former| former.says_the_same(&accepted));
    if !is_known {
        desk.record(Record::Accepted(accepted));
    }
    if let Some(leaf) = prove::waiting(desk) {
        return Ok(prove::begin(desk, Caller::Next, &leaf, Outcome::Enrolled, Origin::Found));
    }
    if let Some(leaf) = prove::current(desk) {
        // The files are ahead of a journal that lost its end: let the server say whether the identity is good.
        return Ok(prove::begin(desk, Caller::Current, &leaf, Outcome::TakenUp, Origin::Found));
    }
    desk.effects.push_back(Effect::MakeKey(Names::First { serial: order.serial.clone() }));
    Ok(Task::Enroll(Box::new(Expect { order, stage: Stage::Key { trust } })))
}
