//! Renewing: make before break.
//!
//! ```text
//! CA certificates ─▶ key ─▶ certificate ─▶ proof ─▶ promoted
//! root by pin       (file) (file)          (record, then files move, the old key is gone)
//! ```
//! A certificate by an authority that is not known here is judged once more after the authorities were asked for: the
//! server may have another issuing CA since, beneath the pinned root.
//!
//! Until the new certificate has received an authenticated answer the old key and certificate stay where they are
//! and keep working. An interrupted renewal is taken up where it was: the same key gives the same certificate.

use std::time::Duration;

use muster_wire::problem::Code;
use muster_wire::time::Timestamp;

use super::answer::Answer;
use super::effect::{Caller, Document, Effect, Event, Names, Request};
use super::prove::{self, Origin, Outcome};
use super::refusal::Refusal;
use super::trust::{Leaf, Trust};
use super::{Desk, Step, Task};

/// What a person wants, or the running agent by itself.
#[derive(Clone, Copy, Debug)]
pub struct RenewOrder {
    /// How long to wait for an approval, or for a server out of reach.
    pub patience: Duration,
    /// By which door.
    pub door: Door,
}

/// By which door a certificate is asked for and proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// EST over HTTPS, proven by an authenticated answer.
    Est,
    /// The live session, proven by another session with the new certificate.
    Session,
}

/// Which answer a renewal awaits.
#[derive(Debug)]
pub(super) enum Expect {
    CaCerts,
    Key {
        trust: Trust,
        origin: Origin,
    },
    Certificate {
        trust: Trust,
        key: Vec<u8>,
        origin: Origin,
    },
    /// The authorities, since nobody known here has signed this certificate.
    Issuer {
        key: Vec<u8>,
        certificate: Vec<u8>,
    },
}

/// Starts a renewal, or takes up one that was interrupted.
pub(super) fn begin(desk: &mut Desk, order: RenewOrder) -> Step {
    desk.patience = order.patience;
    desk.door = order.door;
    if !desk.past.is_enrolled() {
        return Err(Refusal::NotEnrolled);
    }
    let had_waiting = desk.held.next_certificate.is_some();
    prove::settle(desk)?;
    let current = prove::current(desk).ok_or(Refusal::IdentityLost)?;
    if let Some(leaf) = prove::waiting(desk) {
        return Ok(prove::begin(desk, Caller::Next, &leaf, Outcome::Renewed, Origin::Found));
    }
    if had_waiting && desk.is_proven(&current) {
        // The interrupted run had its proof and lacked only the last moves.
        return prove::finish(desk, Outcome::Renewed, current.device);
    }
    if had_waiting {
        return Ok(prove::begin(desk, Caller::Current, &current, Outcome::Renewed, Origin::Received));
    }
    ask_authorities(desk)
}

/// Forgets the waiting key and certificate and begins with a new key.
pub(super) fn start_over(desk: &mut Desk) -> Step {
    prove::discard_next(desk);
    ask_authorities(desk)
}

fn ask_authorities(desk: &mut Desk) -> Step {
    if desk.door == Door::Session
        && let Some(trust) = desk.held.trust.clone()
    {
        // What is issued must lead to these; where it does not, the other door asks for the present ones.
        return make_key(desk, trust);
    }
    desk.ask(Request::CaCerts(Caller::Current));
    Ok(Task::Renew(Box::new(Expect::CaCerts)))
}

impl Expect {
    pub(super) fn handle(self, desk: &mut Desk, event: Event, now: Timestamp) -> Step {
        match (self, event) {
            (_, Event::Unanswered(trouble)) => Err(Refusal::Unanswered(trouble)),
            (Self::CaCerts, Event::Answered(answer)) => authorities(desk, answer),
            (Self::Key { trust, origin }, Event::KeyReady(key)) => {
                desk.held.next_key = Some(key.digest());
                desk.ask(match desk.door {
                    Door::Est => Request::SimpleReenroll { csr: key.csr },
                    Door::Session => Request::RenewInSession { csr: key.csr },
                });
                Ok(Task::Renew(Box::new(Self::Certificate { trust, key: key.spki, origin })))
            }
            (Self::Certificate { trust, key, origin }, Event::Answered(answer)) => match answer.body() {
                Err(refusal) if origin == Origin::Found && is_stale_key(&refusal) => {
                    prove::discard_next(desk);
                    make_key(desk, trust)
                }
                body => issued(desk, &trust, &key, &body?, now),
            },
            (Self::Issuer { key, certificate }, Event::Answered(answer)) => {
                let trust = served(desk, answer)?;
                take(desk, judge(desk, &trust, &key, &certificate, now))
            }
            _ => Err(Refusal::OutOfOrder),
        }
    }
}

fn authorities(desk: &mut Desk, answer: Answer) -> Step {
    let trust = served(desk, answer)?;
    make_key(desk, trust)
}

/// The authorities in `answer`, kept from now on.
fn served(desk: &mut Desk, answer: Answer) -> Result<Trust, Refusal> {
    let pin = desk.past.accepted.as_ref().map(|accepted| accepted.root_spki).ok_or(Refusal::NotEnrolled)?;
    let trust = Trust::from_cacerts(&answer.body()?, &pin)?;
    trust.store(desk);
    Ok(trust)
}

fn make_key(desk: &mut Desk, trust: Trust) -> Step {
    let like = desk.held.certificate.clone().ok_or(Refusal::IdentityLost)?;
    let origin = if desk.held.next_key.is_some() { Origin::Found } else { Origin::Received };
    desk.effects.push_back(Effect::MakeKey(Names::Like(like)));
    Ok(Task::Renew(Box::new(Expect::Key { trust, origin })))
}

/// A key from an interrupted run whose answer was lost for longer than the server repeats it (24 h).
fn is_stale_key(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Problem(problem) if problem.code == Code::CsrKeyInUse)
}

fn issued(desk: &mut Desk, trust: &Trust, key: &[u8], body: &[u8], now: Timestamp) -> Step {
    match judge(desk, trust, key, body, now) {
        Err(Refusal::ForeignIssuer(_)) => {
            desk.ask(Request::CaCerts(Caller::Current));
            Ok(Task::Renew(Box::new(Expect::Issuer { key: key.to_vec(), certificate: body.to_vec() })))
        }
        judged => take(desk, judged),
    }
}

/// Lets the certificate that was judged wait for its proof.
fn take(desk: &mut Desk, judged: Result<Leaf, Refusal>) -> Step {
    match judged {
        Ok(leaf) => {
            desk.store(Document::NextCertificate, leaf.to_pem());
            desk.held.next_certificate = Some(leaf.der.clone());
            Ok(prove::begin(desk, Caller::Next, &leaf, Outcome::Renewed, Origin::Received))
        }
        // With the clock set, the same bytes will do.
        Err(refusal @ Refusal::Clock { .. }) => Err(refusal),
        Err(refusal) => {
            // The same key would bring the same unsuitable certificate again; another one replaces it.
            prove::discard_next(desk);
            Err(refusal)
        }
    }
}

fn judge(desk: &Desk, trust: &Trust, key: &[u8], body: &[u8], now: Timestamp) -> Result<Leaf, Refusal> {
    let leaf = trust.check(body, key, desk.trust_domain(), now)?;
    let device = desk.past.proven.as_ref().map(|proven| proven.device);
    if device == Some(leaf.device) { Ok(leaf) } else { Err(Refusal::ForeignName) }
}
