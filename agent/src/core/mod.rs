//! What the agent decides. No sockets, files, clocks or randomness: events come in with the time they happened,
//! effects are queued, and [`crate::shell`] carries them out **in order**, each durable before the next begins.
//!
//! ```text
//!            Event, now                    next_effect()
//!   shell ───────────────▶ Agent::handle ───────────────▶ shell
//! ```
//! A kill may come between any two effects, or in the middle of one. Nothing is repaired afterwards: the same
//! command is run again, given what the files hold ([`Held`]) and what the journal says ([`Past`]), and every
//! step finds out whether it was taken. Asking twice with one key gives one certificate, twice (contract.md).

mod answer;
pub mod baseline;
pub mod checkup;
mod effect;
mod enroll;
pub mod lease;
pub mod not_taken;
pub mod outbox;
mod prove;
pub mod record;
mod refusal;
mod renew;
pub mod schedule;
pub mod session;
pub mod sheet;
pub mod status;
mod trust;
pub mod wiping;

use std::collections::VecDeque;
use std::time::Duration;

use muster_wire::time::Timestamp;

pub use answer::{Answer, Trouble, TroubleKind};
pub use effect::{Caller, Document, Effect, Event, Held, KeyReady, Names, Request};
pub use enroll::EnrollOrder;
pub use prove::{Done, Outcome};
pub use refusal::Refusal;
pub use renew::{Door, RenewOrder};
pub use trust::{Leaf, LeafError, Trust, lineage, provider};

use record::{Past, Record};

/// The least patience with a server that says it is busy, whatever the person asked for.
const BUSY_PATIENCE: Duration = Duration::from_secs(30);

/// One command in progress.
#[derive(Debug)]
pub struct Agent {
    desk: Desk,
    task: Task,
}

/// What every step works with.
#[derive(Debug)]
struct Desk {
    past: Past,
    held: Held,
    effects: VecDeque<Effect>,
    asked: Option<Request>,
    attempt: u32,
    waited: Duration,
    patience: Duration,
    door: Door,
}

/// Which answer is awaited, and by whom.
#[derive(Debug)]
enum Task {
    Idle,
    Enroll(Box<enroll::Expect>),
    Renew(Box<renew::Expect>),
    Prove(Box<prove::ExpectProof>),
    Over,
}

/// The next thing to expect, or why there is none.
type Step = Result<Task, Refusal>;

impl Agent {
    /// An agent that remembers `past` and holds `held`.
    pub fn new(past: Past, held: Held) -> Self {
        Self { desk: Desk::new(past, held), task: Task::Idle }
    }

    /// Takes note of `event`, which happened at `now`, and queues what follows from it.
    ///
    /// An event that nobody awaits changes nothing.
    pub fn handle(&mut self, event: Event, now: Timestamp) {
        let Some(event) = self.desk.weather(event) else { return };
        let desk = &mut self.desk;
        let step = match std::mem::replace(&mut self.task, Task::Over) {
            Task::Idle => begin(desk, event, now),
            Task::Enroll(expect) => expect.handle(desk, event, now),
            Task::Renew(expect) => expect.handle(desk, event, now),
            Task::Prove(expect) => expect.handle(desk, event, now),
            Task::Over => Ok(Task::Over),
        };
        self.task = step.unwrap_or_else(|refusal| {
            desk.note(&refusal, now);
            desk.effects.push_back(Effect::Finish(Err(Box::new(refusal))));
            Task::Over
        });
    }

    /// The next thing to carry out, if any.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.desk.effects.pop_front()
    }

    /// Finishes in memory what an interrupted command had decided: what is remembered and held then, and the moves of
    /// files that make it so.
    ///
    /// # Errors
    /// [`Refusal::NotEnrolled`] and [`Refusal::IdentityLost`].
    pub fn settled(past: Past, held: Held) -> Result<(Past, Held, VecDeque<Effect>), Box<Refusal>> {
        let mut desk = Desk::new(past, held);
        if !desk.past.is_enrolled() {
            return Err(Box::new(Refusal::NotEnrolled));
        }
        prove::settle(&mut desk)?;
        prove::current(&desk).ok_or(Refusal::IdentityLost)?;
        Ok((desk.past, desk.held, desk.effects))
    }

    /// What it remembers and holds once its command is over.
    pub fn into_parts(self) -> (Past, Held) {
        (self.desk.past, self.desk.held)
    }
}

fn begin(desk: &mut Desk, event: Event, now: Timestamp) -> Step {
    match event {
        Event::Enroll(order) => enroll::begin(desk, *order, now),
        Event::Renew(order) => renew::begin(desk, order),
        Event::Answered(_)
        | Event::Unanswered(_)
        | Event::KeyReady(_)
        | Event::Paused(_)
        | Event::Connected => Ok(Task::Idle),
    }
}

impl Desk {
    fn new(past: Past, held: Held) -> Self {
        Self {
            past,
            held,
            effects: VecDeque::new(),
            asked: None,
            attempt: 0,
            waited: Duration::ZERO,
            patience: Duration::ZERO,
            door: Door::Est,
        }
    }

    fn ask(&mut self, request: Request) {
        self.attempt = 0;
        self.asked = Some(request.clone());
        self.effects.push_back(Effect::Ask(request));
    }

    fn store(&mut self, document: Document, bytes: Vec<u8>) {
        self.effects.push_back(Effect::Store(document, bytes));
    }

    fn record(&mut self, record: Record) {
        self.past.add(&record);
        self.effects.push_back(Effect::Record(Box::new(record)));
    }

    /// Remembers that the server would not have this device, for `status` to say.
    fn note(&mut self, refusal: &Refusal, now: Timestamp) {
        let refused = record::Refused { code: refusal.code().to_owned(), at: now };
        if refusal.ends_the_life() && self.past.is_news(&refused) {
            self.record(Record::Refused(refused));
        }
    }

    fn trust_domain(&self) -> &str {
        self.past.accepted.as_ref().map_or("", |accepted| &accepted.trust_domain)
    }

    fn is_proven(&self, leaf: &Leaf) -> bool {
        self.past.proven.as_ref().is_some_and(|proven| proven.certificate == leaf.sha256)
    }

    /// Waits out what may pass by itself, within the patience left, and asks the same again. Every request that
    /// the agent makes may be repeated: with the same key the server gives the same answer.
    ///
    /// Gives back the event that somebody must judge.
    fn weather(&mut self, event: Event) -> Option<Event> {
        match event {
            Event::Paused(for_how_long) => {
                self.waited += for_how_long;
                if let Some(request) = &self.asked {
                    self.effects.push_back(Effect::Ask(request.clone()));
                }
                None
            }
            Event::Unanswered(trouble) if trouble.kind.may_pass() => {
                let pause = self.pause(Duration::ZERO, self.patience);
                if pause { None } else { Some(Event::Unanswered(trouble)) }
            }
            Event::Answered(answer) => {
                let patience = match answer.status {
                    202 => self.patience,
                    429 | 503 => self.patience.max(BUSY_PATIENCE),
                    _ => return Some(Event::Answered(answer)),
                };
                let pause = self.pause(answer.retry_after(), patience);
                if pause { None } else { Some(Event::Answered(answer)) }
            }
            Event::Unanswered(_)
            | Event::KeyReady(_)
            | Event::Enroll(_)
            | Event::Renew(_)
            | Event::Connected => Some(event),
        }
    }

    /// Queues a pause, unless waiting `at_least` more would go beyond `patience`.
    fn pause(&mut self, at_least: Duration, patience: Duration) -> bool {
        let at_most = patience.saturating_sub(self.waited);
        if at_most.is_zero() || at_least > at_most {
            return false;
        }
        self.attempt += 1;
        self.effects.push_back(Effect::Pause { attempt: self.attempt, at_least, at_most });
        true
    }
}
