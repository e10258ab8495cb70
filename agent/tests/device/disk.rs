//! A device in memory: the shell's promises without its system calls, and a kill wherever a test wants one.

use std::time::Duration;

use muster_agent::core::record::{Past, Record};
use muster_agent::core::{
    Agent, Answer, Caller, Document, Done, Effect, Event, Held, KeyReady, Names, Outcome, Refusal, Request,
    Trouble, TroubleKind, Trust,
};
use muster_pki::armor;
use muster_pki::key::{Algorithm, DeviceKey};
use muster_pki::name::Subject;
use muster_pki::request::{build_renewal, build_request};
use muster_wire::digest::Sha256Digest;
use muster_wire::time::Timestamp;

use crate::fleet::{Asked, Fleet};

/// How a run ended.
#[derive(Debug)]
pub(crate) enum End {
    Done(Outcome),
    Refused(Box<Refusal>),
    Killed,
}

impl End {
    #[track_caller]
    pub(crate) fn refusal(self) -> Refusal {
        match self {
            Self::Refused(refusal) => *refusal,
            other => panic!("not refused but {other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn outcome(self) -> Outcome {
        match self {
            Self::Done(outcome) => outcome,
            other => panic!("not done but {other:?}"),
        }
    }
}

/// What survives a kill.
#[derive(Default)]
pub(crate) struct Disk {
    pub(crate) journal: Vec<Record>,
    key: Option<DeviceKey>,
    next_key: Option<DeviceKey>,
    certificate: Option<Vec<u8>>,
    next_certificate: Option<Vec<u8>>,
    pub(crate) trust: Option<Vec<u8>>,
    authority: Option<Vec<u8>>,
    /// Everything that was ever stored or recorded, for whoever looks for secrets.
    pub(crate) written: String,
    pub(crate) paused: Duration,
    /// How many requests get no answer.
    pub(crate) unreachable: u32,
}

fn digest(key: &DeviceKey) -> Sha256Digest {
    Sha256Digest(key.spki_sha256())
}

impl Disk {
    fn held(&self, past: &Past) -> Held {
        let pin = past.accepted.as_ref().map(|accepted| accepted.root_spki);
        Held {
            key: self.key.as_ref().map(digest),
            certificate: self.certificate.clone(),
            next_key: self.next_key.as_ref().map(digest),
            next_certificate: self.next_certificate.clone(),
            trust: pin.zip(self.trust.as_ref()).and_then(|(pin, pem)| Trust::from_pem(pem, &pin)),
            authority: self.authority.clone(),
        }
    }

    /// The certificate in use, if it fits the key in use.
    pub(crate) fn identity(&self) -> Option<&[u8]> {
        let certificate = self.certificate.as_deref()?;
        let parsed = muster_pki::certificate::Certificate::parse(certificate).unwrap();
        (parsed.spki_der() == self.key.as_ref()?.spki_der()).then_some(certificate)
    }

    pub(crate) fn has_next(&self) -> bool {
        self.next_key.is_some() || self.next_certificate.is_some()
    }

    /// Runs one command. The power fails after `lives` steps; a file that is moved is a step.
    pub(crate) fn run(&mut self, fleet: &mut Fleet, first: Event, now: i64, mut lives: usize) -> End {
        let past = Past::of(&self.journal);
        let held = self.held(&past);
        let mut agent = Agent::new(past, held);
        agent.handle(first, Timestamp(now));
        while let Some(effect) = agent.next_effect() {
            if let Effect::Finish(end) = effect {
                return match end {
                    Ok(done) => End::Done(Done::clone(&done).outcome),
                    Err(refusal) => End::Refused(refusal),
                };
            }
            let Some(event) = self.carry_out(fleet, effect, &mut lives) else { return End::Killed };
            if let Some(event) = event {
                agent.handle(event, Timestamp(now));
            }
        }
        panic!("the agent stopped without an end");
    }

    /// `None` when the power failed.
    fn carry_out(&mut self, fleet: &mut Fleet, effect: Effect, lives: &mut usize) -> Option<Option<Event>> {
        let mut step = || {
            let is_alive = *lives > 0;
            *lives = lives.saturating_sub(1);
            is_alive.then_some(())
        };
        step()?;
        let event = match effect {
            Effect::Ask(request) => {
                let answered = self.ask(fleet, &request);
                // The server has done its part; the answer may still be lost.
                step()?;
                Some(answered)
            }
            Effect::MakeKey(names) => Some(Event::KeyReady(self.make_key(&names))),
            Effect::Pause { at_least, at_most, .. } => {
                let pause = at_least.max(Duration::from_secs(1)).min(at_most);
                self.paused += pause;
                Some(Event::Paused(pause))
            }
            Effect::Store(document, bytes) => {
                self.written.push_str(std::str::from_utf8(&bytes).unwrap());
                match document {
                    Document::Trust => self.trust = Some(bytes),
                    Document::Authority => self.authority = Some(bytes),
                    Document::NextCertificate => {
                        self.next_certificate = Some(armor::decode(&bytes, 65_536).unwrap().into_owned());
                    }
                }
                None
            }
            Effect::Record(record) => {
                self.written.push_str(&serde_json::to_string(&record).unwrap());
                self.journal.push(*record);
                None
            }
            Effect::Promote => {
                if let Some(key) = self.next_key.take() {
                    self.key = Some(key);
                }
                step()?;
                if let Some(certificate) = self.next_certificate.take() {
                    self.certificate = Some(certificate);
                }
                None
            }
            Effect::DiscardNext => {
                self.next_certificate = None;
                step()?;
                self.next_key = None;
                None
            }
            Effect::Finish(_) => unreachable!("the end is not carried out"),
        };
        Some(event)
    }

    fn make_key(&mut self, names: &Names) -> KeyReady {
        let key = self.next_key.get_or_insert_with(|| DeviceKey::generate(Algorithm::P256).unwrap());
        let csr = match names {
            Names::First { .. } => build_request(key, &Subject::new("x").unwrap()),
            Names::Like(der) => build_renewal(key, der),
        };
        KeyReady { spki: key.spki_der().to_vec(), csr: csr.unwrap() }
    }

    fn ask(&mut self, fleet: &mut Fleet, request: &Request) -> Event {
        if self.unreachable > 0 {
            self.unreachable -= 1;
            let server = "fleet.example:8443".to_owned();
            return Event::Unanswered(Trouble {
                kind: TroubleKind::Connect,
                server,
                detail: "refused".into(),
            });
        }
        let (asked, caller) = match request {
            Request::Discovery(caller) => (Asked::Discovery, *caller),
            Request::CaCerts(caller) => (Asked::CaCerts, *caller),
            Request::SimpleEnroll { bearer, csr } => (Asked::Enroll { bearer, csr }, Caller::Anonymous),
            Request::SimpleReenroll { csr } | Request::RenewInSession { csr } => {
                (Asked::Reenroll { csr }, Caller::Current)
            }
            Request::Session(caller) => (Asked::Discovery, *caller),
            Request::Baseline(_) => unreachable!("no renewal asks for a baseline"),
        };
        let shown = match caller {
            Caller::Anonymous => None,
            Caller::Current => Some(self.identity().expect("an identity to show")),
            Caller::Next => {
                let parsed =
                    muster_pki::certificate::Certificate::parse(self.next_certificate.as_ref().unwrap());
                assert_eq!(parsed.unwrap().spki_der(), self.next_key.as_ref().unwrap().spki_der());
                self.next_certificate.as_deref()
            }
        };
        let answer: Answer = fleet.answer(&asked, shown);
        match request {
            Request::Session(_) if answer.status == 200 => Event::Connected,
            _ => Event::Answered(answer),
        }
    }
}
