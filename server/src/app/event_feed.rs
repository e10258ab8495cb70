//! From the store's commits to whoever listens.
//!
//! ```text
//! commit ─▶ sync ─▶ observer: "the log has N entries" ─▶ every subscription reads the log on from its place
//! presence, checkpoints ─▶ a bounded ring ─▶ every subscription that wants them; who lags is cut
//! ```
//! Nothing is queued for a listener: what is in the log is read from the log, at the listener's pace, so nothing is
//! lost, nothing is told twice, and the writer does no more than raise a number. Only what is not in the log goes
//! through memory, and who is too slow for that is cut and comes again.

use super::event::{self, Event, Place};
use super::{App, Error, LogSource};
use crate::audit;
use crate::domain::policy::{Act as _, Permit, act};
use crate::doors::registry::Presence;
use crate::store::{Observer, Written};
use muster_wire::topic::EventTopic;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, watch};

/// Events that are not in the log and wait for the slowest listener.
const RING: usize = 1_024;

/// Entries read at a time.
const PAGE: usize = 64;

/// How many subscriptions there may be at the same time.
const SUBSCRIPTIONS: usize = 64;

/// What listeners are told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted(u8);

impl Wanted {
    /// Every topic.
    pub const ALL: Self = Self(u8::MAX);
    /// None.
    pub const NONE: Self = Self(0);

    /// These and `topic`.
    #[must_use]
    pub fn and(self, topic: EventTopic) -> Self {
        Self(self.0 | Self::bit(topic))
    }

    /// These without `topic`.
    #[must_use]
    pub fn without(self, topic: EventTopic) -> Self {
        Self(self.0 & !Self::bit(topic))
    }

    /// Whether `topic` is among them.
    pub fn contains(self, topic: EventTopic) -> bool {
        self.0 & Self::bit(topic) != 0
    }

    const fn bit(topic: EventTopic) -> u8 {
        match topic {
            EventTopic::Presence => 1,
            EventTopic::Devices => 1 << 1,
            EventTopic::Posture => 1 << 2,
            EventTopic::Certificates => 1 << 3,
            EventTopic::Orders => 1 << 4,
            EventTopic::Checkpoints => 1 << 5,
        }
    }
}

/// Where events come from. One for the process.
pub struct EventFeed {
    /// Number of durable entries, once it is known.
    entries: watch::Sender<u64>,
    live: broadcast::Sender<Arc<Event>>,
    checkpoint: Mutex<Option<Arc<Event>>>,
    closed: watch::Sender<bool>,
    places: Arc<Semaphore>,
}

impl Default for EventFeed {
    fn default() -> Self {
        Self {
            entries: watch::Sender::new(0),
            live: broadcast::Sender::new(RING),
            checkpoint: Mutex::new(None),
            closed: watch::Sender::new(false),
            places: Arc::new(Semaphore::new(SUBSCRIPTIONS)),
        }
    }
}

impl EventFeed {
    /// What the store is opened with: `first`, and then this feed hears how long the log has become.
    pub fn after(self: &Arc<Self>, first: Observer) -> Observer {
        let feed = Arc::clone(self);
        Box::new(move |written: &[Written<'_>]| {
            first(written);
            let newest = written.iter().filter_map(|change| audit::entry_number(change.key)).max();
            if let Some(seq) = newest {
                feed.raise(seq.saturating_add(1));
            }
        })
    }

    fn raise(&self, entries: u64) {
        self.entries.send_if_modified(|known| {
            let is_news = entries > *known;
            *known = entries.max(*known);
            is_news
        });
    }

    /// A device's session began or ended at `now_s` (unix seconds).
    pub fn presence(&self, presence: Presence, now_s: i64) {
        if self.live.receiver_count() > 0 {
            self.tell(event::presence(presence, now_s));
        }
    }

    /// A checkpoint over `size` entries was signed at `now_s` (unix seconds).
    pub(super) fn checkpoint(&self, size: u64, root_sha256: String, now_s: i64) {
        let event = self.tell(event::checkpoint(size, root_sha256, now_s));
        *self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner) = Some(event);
    }

    fn tell(&self, event: Event) -> Arc<Event> {
        let event = Arc::new(event);
        // Nobody listening is no error.
        drop(self.live.send(Arc::clone(&event)));
        event
    }

    /// Ends every subscription, since the server stops.
    pub fn close(&self) {
        self.closed.send_replace(true);
    }

    /// How many subscriptions there are.
    pub fn subscriptions(&self) -> usize {
        SUBSCRIPTIONS.saturating_sub(self.places.available_permits())
    }
}

/// Why a subscription ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The listener was too slow for what is not in the log.
    Slow,
    /// The server stops.
    Stopping,
    /// The listener is an operator no more.
    Dismissed,
    /// The log could not be read.
    Failed,
}

impl Ended {
    /// The word that the listener gets.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::Stopping => "stopping",
            Self::Dismissed => "dismissed",
            Self::Failed => "failed",
        }
    }
}

/// One listener's place in the events.
pub struct Subscription {
    app: Arc<App>,
    /// As audit entries name the listener.
    actor: String,
    wanted: Wanted,
    after: Option<Place>,
    /// Number of the next entry to be read.
    next: u64,
    ready: VecDeque<Arc<Event>>,
    ended: Option<Ended>,
    entries: watch::Receiver<u64>,
    closed: watch::Receiver<bool>,
    live: broadcast::Receiver<Arc<Event>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl App {
    /// The events of `wanted` after `after`, or from now on.
    ///
    /// # Errors
    /// [`Error::Busy`] where too many listen already; [`Error::Internal`] where the log cannot be read.
    pub fn events(
        self: &Arc<Self>,
        permit: &Permit<act::ReadEvents>,
        after: Option<Place>,
        wanted: Wanted,
    ) -> Result<Subscription, Error> {
        let place = Arc::clone(&self.events.places).try_acquire_owned();
        let place = place.map_err(|_| Error::Busy { retry_after_s: 5 })?;
        let actor = permit.caller().principal.actor();
        Ok(Subscription { _place: Some(place), ..self.listen(actor, after, wanted)? })
    }

    /// Every event from now on, for the observers' bus.
    ///
    /// # Errors
    /// [`Error::Internal`] where the log cannot be read.
    pub fn events_for_bus(self: &Arc<Self>, permit: &Permit<act::FeedBus>) -> Result<Subscription, Error> {
        self.listen(permit.caller().principal.actor(), None, Wanted::ALL)
    }

    /// Where events come from.
    pub fn event_feed(&self) -> &Arc<EventFeed> {
        &self.events
    }

    /// The events of `wanted` after `after`, or from now on, for `actor`.
    fn listen(
        self: &Arc<Self>,
        actor: String,
        after: Option<Place>,
        wanted: Wanted,
    ) -> Result<Subscription, Error> {
        // The ring first: what happens from here on is heard by one way or the other.
        let live = self.events.live.subscribe();
        let size = audit::size(&LogSource(self.store.clone()))
            .map_err(|error| Error::internal("reading the audit log")(Box::new(error)))?;
        self.events.raise(size);
        let newest = self.events.checkpoint.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Subscription {
            app: Arc::clone(self),
            actor,
            wanted,
            after,
            next: after.map_or(size, |place| place.next_entry().min(size)),
            ready: newest.into_iter().filter(|event| wanted.contains(event.topic)).collect(),
            ended: None,
            entries: self.events.entries.subscribe(),
            closed: self.events.closed.subscribe(),
            live,
            _place: None,
        })
    }
}

impl Subscription {
    /// The next event.
    ///
    /// # Errors
    /// [`Ended`]; nothing more comes then. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Arc<Event>, Ended> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            if let Some(ended) = self.ended {
                return Err(ended);
            }
            if *self.closed.borrow() {
                return Err(Ended::Stopping);
            }
            let durable = *self.entries.borrow_and_update();
            if self.next < durable {
                self.read_on();
                self.take_live();
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                _ = self.closed.changed() => {}
                _ = self.entries.changed() => {}
                told = self.live.recv() => self.note(told),
            }
        }
    }

    /// Reads the next entries of the log.
    fn read_on(&mut self) {
        let source = LogSource(self.app.store.clone());
        let entries = match audit::tail(&source, self.next.checked_sub(1), PAGE) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::error!(%error, "the log cannot be read for events");
                self.ended = Some(Ended::Failed);
                return;
            }
        };
        for entry in entries {
            self.next = entry.seq.saturating_add(1);
            let news = event::events(&entry).into_iter();
            let is_news = |event: &Event| self.wanted.contains(event.topic) && event.place > self.after;
            self.ready.extend(news.filter(is_news).map(Arc::new));
            if is_dismissal(&entry, &self.actor) {
                self.ended = Some(Ended::Dismissed);
                return;
            }
        }
    }

    /// What was told through memory while the log was read.
    fn take_live(&mut self) {
        loop {
            match self.live.try_recv() {
                Ok(event) => self.note(Ok(event)),
                Err(broadcast::error::TryRecvError::Lagged(missed)) => {
                    self.note(Err(broadcast::error::RecvError::Lagged(missed)));
                }
                Err(broadcast::error::TryRecvError::Empty | broadcast::error::TryRecvError::Closed) => return,
            }
        }
    }

    fn note(&mut self, told: Result<Arc<Event>, broadcast::error::RecvError>) {
        match told {
            Ok(event) if self.wanted.contains(event.topic) => self.ready.push_back(event),
            // A checkpoint that was missed is in the next one.
            Ok(_) => {}
            Err(broadcast::error::RecvError::Lagged(_)) if !self.wanted.contains(EventTopic::Presence) => {}
            Err(broadcast::error::RecvError::Lagged(_)) => self.ended = Some(Ended::Slow),
            // The feed lives as long as the app, which this holds.
            Err(broadcast::error::RecvError::Closed) => self.ended = Some(Ended::Stopping),
        }
    }
}

/// Whether `entry` says that `actor` is an operator no more.
fn is_dismissal(entry: &audit::Entry, actor: &str) -> bool {
    let removed = entry.action == act::ManageOperator::ROW.action && entry.new_state == "removed";
    removed && entry.object == actor
}

#[cfg(test)]
#[path = "event_feed_tests.rs"]
mod tests;
