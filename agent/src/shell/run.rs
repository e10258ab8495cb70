//! The loop: carry out what the core queued, in order, each durable before the next, and tell it what came of it.
//!
//! A storage error ends the command at once. That is safe at every point, because a kill would be.

use std::io::IsTerminal as _;
use std::time::Duration;

use super::backoff;
use super::failure::Failure;
use super::files;
use super::http::{Client, Server};
use super::journal::Journal;
use super::output;
use super::place::Place;
use crate::clock::Clock;
use crate::core::record::Record;
use crate::core::{Agent, Answer, Document, Done, Effect, Event, Request, Trouble};

/// What the loop works with.
#[derive(Debug)]
pub struct Hands {
    place: Place,
    clock: Clock,
    journal: Journal,
    client: Client,
}

impl Hands {
    /// Hands that work in `place` and ask `server`.
    pub fn new(place: Place, journal: Journal, server: Server, clock: Clock) -> Self {
        let client = Client::new(server, clock.clone());
        Self { place, clock, journal, client }
    }

    /// Gives `first` to `agent` and carries out everything that follows, to the end of the command.
    ///
    /// # Errors
    /// [`Failure`]: what the core decided, or what this device could not do.
    pub async fn drive(&mut self, agent: &mut Agent, first: Event) -> Result<Done, Failure> {
        agent.handle(first, self.clock.now());
        while let Some(effect) = agent.next_effect() {
            if let Effect::Finish(end) = effect {
                return Ok(*end?);
            }
            if let Some(event) = self.carry_out(effect).await? {
                agent.handle(event, self.clock.now());
            }
        }
        Err(Box::new(crate::core::Refusal::OutOfOrder).into())
    }

    /// The time as this device has it.
    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Asks the server.
    ///
    /// # Errors
    /// [`Trouble`] when there is no whole answer.
    pub(super) async fn ask(&mut self, request: &Request) -> Result<Answer, Trouble> {
        self.client.ask(request, &self.place.keys()).await
    }

    /// Appends to the journal.
    ///
    /// # Errors
    /// [`Failure::Journal`].
    pub(super) fn record(&mut self, record: &Record) -> Result<(), Failure> {
        Ok(self.journal.append(record)?)
    }

    /// Lets go of a connection that nobody uses now.
    pub(super) fn hang_up(&mut self) {
        self.client.hang_up();
    }

    /// Does one thing; what comes of it, if anything does.
    ///
    /// # Errors
    /// [`Failure`] when this device could not do it.
    pub(super) async fn carry_out(&mut self, effect: Effect) -> Result<Option<Event>, Failure> {
        let keys = self.place.keys();
        match effect {
            Effect::Ask(request) => {
                return Ok(Some(match self.client.ask(&request, &keys).await {
                    Ok(answer) => Event::Answered(answer),
                    Err(trouble) => Event::Unanswered(trouble),
                }));
            }
            Effect::MakeKey(names) => return Ok(Some(Event::KeyReady(keys.make_next(&names)?))),
            Effect::Pause { attempt, at_least, at_most } => {
                let pause = backoff::wait(attempt, at_least, backoff::jitter()).min(at_most);
                say_waiting(pause);
                tokio::time::sleep(pause).await;
                return Ok(Some(Event::Paused(pause)));
            }
            Effect::Store(Document::Trust, bytes) => files::write_atomic(&self.place.trust(), &bytes)?,
            Effect::Store(Document::Authority, bytes) => {
                files::write_atomic(&self.place.authority(), &bytes)?
            }
            Effect::Store(Document::NextCertificate, bytes) => keys.store_next_certificate(&bytes)?,
            Effect::Record(record) => self.journal.append(&record)?,
            Effect::Promote => keys.promote()?,
            Effect::DiscardNext => keys.discard_next()?,
            Effect::Finish(_) => {}
        }
        Ok(None)
    }
}

/// Progress is for a person who watches, nobody else.
fn say_waiting(pause: Duration) {
    if std::io::stderr().is_terminal() {
        let pause_s = pause.as_secs().max(1);
        output::aside(&format!("muster-agent: waiting {pause_s} s before asking again\n"));
    }
}
