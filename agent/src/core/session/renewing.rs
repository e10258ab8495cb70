//! Renewal by itself: the machine of [`super::super::renew`], driven by an alarm or an order instead of a person.
//!
//! Where a session is live the request goes over it and another session is the proof; otherwise, and after a failure,
//! EST is asked. The former certificate stays in use until the server has accepted the new one, so the worst that a
//! kill, a lost answer or a refusal can do is to make it begin again.

use std::time::Duration;

use muster_wire::id::RequestId;
use muster_wire::posture::EventKind;
use muster_wire::renew::Renew;
use muster_wire::topic::Channel;

use super::super::effect::{self, Caller, Request};
use super::super::outbox::{Body, EntryId, Message};
use super::super::prove::Done;
use super::super::schedule::{self, Moment};
use super::super::trust::{Leaf, Trust};
use super::super::{Agent, Answer, Door, Refusal, RenewOrder, Trouble, TroubleKind};
use super::{Effect, Link, LinkId, Session, unix_ms};

/// How long the server may take to answer on `credential`.
const CREDENTIAL: Duration = Duration::from_secs(30);
/// The percentage of a certificate's life after which it is renewed, unless the desired state names another.
const TWO_THIRDS: u64 = 66;
/// A renewal that failed is tried again within this, doubled with each failure, up to an hour.
const AGAIN: Duration = Duration::from_secs(30);
const AGAIN_AT_MOST: Duration = Duration::from_secs(3600);

/// Where a renewal is.
#[derive(Debug, Default)]
pub(super) struct Renewing {
    agent: Option<Box<Agent>>,
    awaits_credential: bool,
    /// The authorities known when it began.
    began_with: Option<Trust>,
    failures: u32,
}

impl Session {
    /// The alarm went off: is the certificate to be renewed, and if not, when?
    pub(super) fn consider_renewal(&mut self, now: Moment) {
        if self.renewing.agent.is_some() {
            return;
        }
        if (self.is_wiping() && !self.is_half_renewed()) || self.is_farewell() {
            // The server certifies nobody whom it lets go, and receipts of a wipe name one certificate.
            self.alarms.renew = Some(now.since_start + AGAIN_AT_MOST);
            return;
        }
        let percent =
            self.in_force.head.as_ref().map_or(TWO_THIRDS, |head| head.certificate.renew_after_percent);
        let wait = schedule::until_renewal(&self.leaf, percent, now.wall);
        if wait.is_zero() || self.is_to_rotate() || self.held.next_certificate.is_some() {
            self.begin_renewal(now);
        } else {
            self.alarms.renew = Some(now.since_start + wait);
        }
    }

    /// An order asks for it.
    pub(super) fn renew_now(&mut self, now: Moment) {
        if self.renewing.agent.is_none() {
            self.begin_renewal(now);
        }
    }

    /// Whether a renewal is to end before a wipe begins: it is under way, or a kill has cut it off and the server may
    /// know the other certificate by now.
    pub(super) fn is_half_renewed(&self) -> bool {
        let waits =
            self.held.next_certificate.is_some() && self.renewing.failures == 0 && !self.is_farewell();
        let has_begun = self.past.wipe().is_some_and(|(taken, _)| self.past.reached(taken.order).is_some());
        (self.renewing.agent.is_some() || self.proving.is_some() || waits) && !has_begun
    }

    fn begin_renewal(&mut self, now: Moment) {
        let in_grace = now.wall > self.leaf.not_after;
        // Every second attempt goes by the other door: one of them may be shut.
        let by_session = self.live().is_some() && !in_grace && self.renewing.failures.is_multiple_of(2);
        if !by_session && matches!(self.link, Link::Opening(_)) && !in_grace {
            // The session is about to open, or to fail; either way it is known soon.
            self.alarms.renew = Some(now.since_start + AGAIN);
            return;
        }
        let door = if by_session { Door::Session } else { Door::Est };
        self.renewing.began_with = self.held.trust.clone();
        let mut agent = Agent::new(self.past.clone(), self.held.clone());
        agent.handle(effect::Event::Renew(RenewOrder { patience: Duration::ZERO, door }), now.wall);
        self.renewing.agent = Some(Box::new(agent));
        self.go_on(now);
    }

    /// Something that the renewal asked for happened.
    pub(super) fn renewal_went_on(&mut self, event: effect::Event, now: Moment) {
        self.renewing.awaits_credential = false;
        self.alarms.credential = None;
        let Some(agent) = &mut self.renewing.agent else { return };
        agent.handle(event, now.wall);
        self.go_on(now);
    }

    /// Queues what the renewal wants done.
    fn go_on(&mut self, now: Moment) {
        while let Some(effect) = self.renewing.agent.as_mut().and_then(|agent| agent.next_effect()) {
            #[expect(clippy::wildcard_enum_match_arm, reason = "all else is for the shell")]
            match effect {
                effect::Effect::Ask(Request::RenewInSession { csr }) => self.ask_in_session(csr, now),
                effect::Effect::Ask(Request::Session(_)) => {
                    let link = self.next_link();
                    self.proving = Some(link);
                    self.effects.push_back(Effect::Open(link, Caller::Next));
                }
                effect::Effect::Finish(end) => return self.renewal_ended(end, now),
                other => self.effects.push_back(Effect::Renewal(other)),
            }
        }
    }

    fn ask_in_session(&mut self, csr: Vec<u8>, now: Moment) {
        let Some(link) = self.live() else {
            let gone = self.trouble("the session ended before the request was made");
            return self.renewal_went_on(effect::Event::Unanswered(gone), now);
        };
        let request = RequestId::from_parts(unix_ms(now), self.draw(now));
        let certificate = self.leaf.sha256;
        let renew = Renew { device: self.leaf.device, request, certificate, csr };
        let body = Body::Renew(Box::new(renew));
        let message = Message::passing(EntryId::Renew(request), Channel::Renew, body);
        self.effects.push_back(Effect::Publish(link, message));
        self.renewing.awaits_credential = true;
        self.alarms.credential = Some(now.since_start + CREDENTIAL);
    }

    /// Something came on `credential`. What was not asked for is nothing: the same key asks again and gets the same.
    pub(super) fn credential_came(&mut self, body: Vec<u8>, now: Moment) {
        if self.renewing.awaits_credential {
            let answer = Answer { status: 200, retry_after_s: None, date: None, body };
            self.renewal_went_on(effect::Event::Answered(answer), now);
        }
    }

    pub(super) fn credential_is_late(&mut self, now: Moment) {
        if self.renewing.awaits_credential {
            let late = self.trouble("no certificate came within 30 seconds");
            self.renewal_went_on(effect::Event::Unanswered(late), now);
        }
    }

    /// The session is gone; a request that was made over it will not be answered.
    pub(super) fn session_is_gone(&mut self, trouble: Trouble, now: Moment) {
        if self.renewing.awaits_credential {
            self.renewal_went_on(effect::Event::Unanswered(trouble), now);
        } else if self.held.next_certificate.is_some() && self.renewing.failures == 0 {
            // A kill between proof and promotion leaves a current certificate that is no longer welcome.
            self.alarms.renew = Some(now.since_start);
        }
    }

    /// The server has accepted the new certificate: it replaces the former, then its session does.
    pub(super) fn proven(&mut self, link: LinkId, now: Moment) {
        self.proving = None;
        let former = self.live();
        self.renewal_went_on(effect::Event::Connected, now);
        if let Some(former) = former {
            self.effects.push_back(Effect::Close(former));
        } else if let Link::Opening(opening) = self.link {
            self.effects.push_back(Effect::Close(opening));
        }
        self.alarms.connect = None;
        self.is_live(link, now);
    }

    fn renewal_ended(&mut self, end: Result<Box<Done>, Box<Refusal>>, now: Moment) {
        let Some(agent) = self.renewing.agent.take() else { return };
        let (past, mut held) = agent.into_parts();
        self.past.accepted = past.accepted;
        self.past.proven = past.proven;
        self.is_proven_kept |= end.is_ok();
        self.past.refused = if end.is_ok() { None } else { past.refused.or(self.past.refused.take()) };
        if held.trust == self.renewing.began_with {
            // Whatever was learned meanwhile is in the file; the renewal has asked for nothing newer.
            held.trust = self.held.trust.take();
        }
        self.held = held;
        if let Some(Ok(leaf)) = self.held.certificate.as_deref().map(Leaf::read) {
            self.leaf = leaf;
        }
        match end {
            Ok(_) => {
                self.renewing.failures = 0;
                self.alarms.renew = Some(now.since_start);
                self.answer_rotations(now);
                self.show_the_new_certificate(now);
            }
            Err(refusal) => self.renewal_failed(&refusal, now),
        }
    }

    /// A certificate that was proven over HTTPS has ended the session of the former one, or is about to.
    fn show_the_new_certificate(&mut self, now: Moment) {
        if self.link == Link::Apart {
            self.alarms.connect = Some(now.since_start);
        }
    }

    fn renewal_failed(&mut self, refusal: &Refusal, now: Moment) {
        self.renewing.failures = self.renewing.failures.saturating_add(1);
        let doubled = 2_u32.saturating_pow(self.renewing.failures.saturating_sub(1).min(16));
        let ceiling = AGAIN.saturating_mul(doubled).min(AGAIN_AT_MOST);
        self.alarms.renew = Some(now.since_start + ceiling.mul_f64(0.5 + now.jitter() / 2.0));
        if self.renewing.failures == 2 {
            // By both doors: somebody should know.
            self.tell(EventKind::RenewalFailed, &refusal.to_string(), now);
        }
        self.give_up_rotations(now);
    }

    fn trouble(&self, detail: &str) -> Trouble {
        let server = self.gate().unwrap_or_default().to_owned();
        Trouble { kind: TroubleKind::Closed, server, detail: detail.to_owned() }
    }
}
