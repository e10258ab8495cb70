//! The event bus for observers: rumqttd's router in this process, and nothing of rumqttd's that listens.
//!
//! ```text
//! Subscription (the log, presence) ─▶ publisher link ─▶ router thread ─▶ one link per observer ─▶ observer.rs
//!                                        └▶ heartbeat topic ─▶ listener link ─┘ silence: build anew
//! ```
//! Topics are those of [`EventTopic`] and the heartbeat's, spelled by us; all their logs exist from the start, so what
//! the router keeps does not grow with what happens. There are no retained messages, shared subscriptions or kept
//! sessions, and every link ends with a DISCONNECT.
//!
//! The router runs in a thread of its own. When its heartbeat stops, observers are cut and a new one is built; they
//! come again, and read in `/v1/events` what they missed. The bus is no part of readiness, and nothing waits for it.
//! A router that is stuck cannot be ended, so after sixteen of them the bus stays away until the next start.
//!
//! What is in the router begins with the event's number on its topic: an observer for whom one is missing was too slow
//! for the router's memory, and is cut instead of being told half.

use crate::app::{App, Event, Subscription};
use crate::domain::policy::{Caller, Permit, act, decide};
use crate::doors::counters::Bus as Counts;
use bytes::Bytes;
use muster_wire::topic::EventTopic;
use rumqttd::local::{LinkBuilder, LinkError, LinkRx, LinkTx};
use rumqttd::protocol::{Disconnect, DisconnectReasonCode, Packet};
use rumqttd::{Notification, Router, RouterConfig};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, interval, sleep, timeout};

/// How many observers there may be at the same time.
pub const OBSERVERS: usize = 64;

/// How many routers are built in the life of a process.
const ROUTERS: u64 = 16;

/// How often the router's heart is made to beat.
const BEAT: Duration = Duration::from_secs(1);

/// How long it may be silent.
const SILENCE: Duration = Duration::from_secs(5);

/// Events that wait for the slowest observer outside of the router.
const WAITING: usize = 256;

/// Packets that wait for the router before no more are given to it.
const BACKLOG: usize = 200;

/// The heartbeat's topic; no observer may hear it.
const HEARTBEAT: &str = "muster/bus/heartbeat";

/// Bytes of the number before each event.
const NUMBER: usize = 8;

/// Why there is no link to the bus.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BusError {
    /// It is being built, or is gone.
    #[error("the event bus is not there")]
    Down,
    /// It has as many observers as it takes.
    #[error("the event bus is full")]
    Full,
    /// The router did not answer, or refused.
    #[error("the event bus does not answer")]
    Link(#[source] Option<Box<LinkError>>),
}

type Connect = dyn Fn(&str) -> Result<(LinkTx, LinkRx), Box<LinkError>> + Send + Sync;

/// A router and what belongs to it.
struct Running {
    connect: Arc<Connect>,
    /// Changes when its observers are cut.
    cut: watch::Sender<u64>,
    /// Asks the publisher to begin; answered once it has.
    begin: mpsc::Sender<oneshot::Sender<()>>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Running")
    }
}

/// The bus. One for the process.
#[derive(Debug, Default)]
pub struct Bus {
    running: Mutex<Option<Arc<Running>>>,
    observers: Arc<AtomicUsize>,
    links: AtomicU64,
}

/// An observer's end of the bus.
pub struct Attached {
    /// What happens; ends when the bus does, or when the observer is too slow.
    pub events: mpsc::Receiver<(EventTopic, Bytes)>,
    _place: Place,
}

/// One of [`OBSERVERS`].
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(observers: &Arc<AtomicUsize>) -> Option<Self> {
        let room = |taken: usize| (taken < OBSERVERS).then_some(taken + 1);
        observers.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).ok()?;
        Some(Self(Arc::clone(observers)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Bus {
    /// Keeps a router running and tells it what happens, until `stop`.
    pub async fn run(self: Arc<Self>, app: Arc<App>, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        for number in 0..ROUTERS {
            let (begin, begun) = mpsc::channel(OBSERVERS);
            let running = Arc::new(Running { connect: build(number), cut: watch::Sender::new(0), begin });
            *self.current() = Some(Arc::clone(&running));
            let silent = tokio::select! {
                () = &mut stop => false,
                why = self.publish(&app, &running, begun) => {
                    tracing::error!(why, number, "the event bus fell silent and is built anew");
                    true
                }
            };
            *self.current() = None;
            running.cut.send_modify(|cuts| *cuts += 1);
            if !silent {
                return;
            }
            app.doors().counters.bus.rebuilt.up();
            sleep(BEAT).await;
        }
        tracing::error!("the event bus stays away until the next start; /v1/events goes on");
        stop.await;
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Option<Arc<Running>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Feeds one router; answers why it cannot go on.
    async fn publish(
        &self,
        app: &Arc<App>,
        running: &Running,
        mut begun: mpsc::Receiver<oneshot::Sender<()>>,
    ) -> &'static str {
        let Ok((mut publisher, _acks)) = link(running, "muster-publisher").await else { return "no link" };
        let Ok((mut listener, mut heart)) = link(running, "muster-heart").await else { return "no link" };
        let why = match listener.try_subscribe(HEARTBEAT) {
            Ok(_) => self.feed(app, running, (&mut publisher, &mut heart), &mut begun).await,
            Err(_) => "no subscription",
        };
        tokio::join!(disconnect(publisher), disconnect(listener));
        why
    }

    async fn feed(
        &self,
        app: &Arc<App>,
        running: &Running,
        (publisher, heart): (&mut LinkTx, &mut LinkRx),
        begun: &mut mpsc::Receiver<oneshot::Sender<()>>,
    ) -> &'static str {
        let (mut beat, mut heard) = (interval(BEAT), Instant::now());
        let mut numbers = Numbers::default();
        let mut source: Option<Subscription> = None;
        loop {
            let has_room = publisher.buffer().len() < BACKLOG;
            tokio::select! {
                _ = beat.tick() => {
                    if heard.elapsed() > SILENCE {
                        return "no heartbeat";
                    }
                    if self.observers.load(Ordering::Acquire) == 0 {
                        source = None;
                    }
                    // What the channel has no room for waits in the link's buffer; a thread that is gone is not heard.
                    drop(publisher.try_publish(HEARTBEAT, Bytes::new()));
                }
                notification = heart.next() => match notification {
                    Ok(Some(Notification::Unschedule)) => {
                        if timeout(BEAT, heart.wake()).await.is_err() {
                            return "the router is stuck";
                        }
                    }
                    Ok(_) => heard = Instant::now(),
                    Err(_) => return "the router's thread ended",
                },
                Some(ready) = begun.recv() => {
                    if source.is_none() {
                        source = from_now(app);
                    }
                    if source.is_some() && ready.send(()).is_err() {
                        tracing::debug!("an observer went before it was linked");
                    }
                }
                event = next(&mut source), if has_room => match event {
                    Some(event) => tell(publisher, &mut numbers, &event, &app.doors().counters.bus),
                    // What was missed cannot be told here any more: observers come again.
                    None => {
                        source = None;
                        running.cut.send_modify(|cuts| *cuts += 1);
                    }
                },
                () = sleep(Duration::from_millis(10)), if !has_room => {}
            }
        }
    }

    /// A link to the bus that hears every event from the moment this returns.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn attach(
        &self,
        permit: &Permit<act::HearEvents>,
        counts: Arc<crate::doors::Counters>,
    ) -> Result<Attached, BusError> {
        let place = Place::take(&self.observers).ok_or(BusError::Full)?;
        let running = self.current().clone().ok_or(BusError::Down)?;
        let mut cut = running.cut.subscribe();
        let (ready, answer) = oneshot::channel();
        running.begin.try_send(ready).map_err(|_| BusError::Down)?;
        let name = format!(
            "{}.{}",
            permit.caller().principal.actor().replace('/', "."),
            self.links.fetch_add(1, Ordering::Relaxed)
        );
        let linked = async {
            answer.await.map_err(|_| BusError::Down)?;
            let (mut tx, mut rx) = link(&running, &name).await?;
            if let Err(error) = subscribe(&mut tx, &mut rx).await {
                disconnect(tx).await;
                return Err(error);
            }
            Ok((tx, rx))
        };
        let (tx, rx) = timeout(SILENCE, linked).await.map_err(|_| BusError::Link(None))??;
        let (sender, events) = mpsc::channel(WAITING);
        // A task of its own: a session that is cut is dropped, and its link has still to say goodbye.
        tokio::spawn(async move {
            let mut rx = rx;
            tokio::select! {
                lagged = forward(&mut rx, &sender) => if lagged {
                    counts.bus.lagged.up();
                },
                _ = cut.changed() => {}
                () = sender.closed() => {}
            }
            drop(sender);
            disconnect(tx).await;
        });
        Ok(Attached { events, _place: place })
    }
}

/// Starts a router in its thread.
fn build(number: u64) -> Arc<Connect> {
    let filters = EventTopic::ALL.iter().map(|topic| topic.topic()).chain([HEARTBEAT.to_owned()]);
    let config = RouterConfig {
        max_connections: OBSERVERS + 8,
        max_outgoing_packet_count: 200,
        max_segment_size: 256 * 1024,
        max_segment_count: 8,
        initialized_filters: Some(filters.collect()),
        ..RouterConfig::default()
    };
    let router = Router::new(usize::try_from(number).unwrap_or(0), config).spawn();
    Arc::new(move |name| {
        let (tx, rx, _) = LinkBuilder::new(name, router.clone()).build()?;
        Ok((tx, rx))
    })
}

/// A new link. Making one blocks until the router answers, so it is done on a thread that may.
async fn link(running: &Running, name: &str) -> Result<(LinkTx, LinkRx), BusError> {
    let (connect, name) = (Arc::clone(&running.connect), name.to_owned());
    let made = tokio::task::spawn_blocking(move || connect(&name));
    let made = timeout(SILENCE, made).await.map_err(|_| BusError::Link(None))?;
    made.map_err(|_| BusError::Link(None))?.map_err(|error| BusError::Link(Some(error)))
}

/// Hears every topic; returns once the router has said that it does.
async fn subscribe(tx: &mut LinkTx, rx: &mut LinkRx) -> Result<(), BusError> {
    for topic in EventTopic::ALL {
        tx.try_subscribe(topic.topic()).map_err(|error| BusError::Link(Some(Box::new(error))))?;
    }
    let mut granted = 0;
    while granted < EventTopic::ALL.len() {
        match rx.next().await.map_err(|error| BusError::Link(Some(Box::new(error))))? {
            Some(Notification::DeviceAck(_)) => granted += 1,
            Some(Notification::Unschedule) => {
                rx.wake().await.map_err(|error| BusError::Link(Some(Box::new(error))))?;
            }
            // The observer has not been told yet that it hears anything.
            Some(_) | None => {}
        }
    }
    Ok(())
}

/// Hands on what the router forwards, until the session or the router ends; answers whether something was missing.
async fn forward(rx: &mut LinkRx, sender: &mpsc::Sender<(EventTopic, Bytes)>) -> bool {
    let mut numbers: HashMap<&'static str, u64> = HashMap::new();
    loop {
        match rx.next().await {
            Ok(Some(Notification::Forward(forwarded))) => {
                let topic = std::str::from_utf8(&forwarded.publish.topic).ok().and_then(EventTopic::parse);
                let mut body = forwarded.publish.payload;
                let (Some(topic), true) = (topic, body.len() >= NUMBER) else { continue };
                let number = body.split_to(NUMBER).iter().fold(0, |n: u64, byte| n << 8 | u64::from(*byte));
                let before = numbers.insert(topic.as_str(), number);
                if before.is_some_and(|before| before.checked_add(1) != Some(number)) {
                    return true;
                }
                if sender.send((topic, body)).await.is_err() {
                    return false;
                }
            }
            Ok(Some(Notification::Unschedule)) => {
                if rx.wake().await.is_err() {
                    return false;
                }
            }
            Ok(_) => {}
            Err(_) => return false,
        }
    }
}

/// Says goodbye on a link; a router that is gone needs none.
async fn disconnect(mut tx: LinkTx) {
    let goodbye = Disconnect { reason_code: DisconnectReasonCode::NormalDisconnection };
    tx.buffer().push_back(Packet::Disconnect(goodbye, None));
    // The router reads what is in the buffer when it is told that there is something; what follows a DISCONNECT is
    // thrown away.
    for _ in 0..50 {
        if tx.try_unsubscribe(HEARTBEAT).is_ok() {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// How many events each topic has had.
#[derive(Default)]
struct Numbers(HashMap<&'static str, u64>);

/// Publishes `event`. A router that is gone is found by its heartbeat.
fn tell(publisher: &mut LinkTx, numbers: &mut Numbers, event: &Event, counts: &Counts) {
    let number = numbers.0.entry(event.topic.as_str()).or_default();
    *number += 1;
    let payload = [number.to_be_bytes().as_slice(), event.body.as_bytes()].concat();
    counts.told.up();
    drop(publisher.try_publish(event.topic.topic(), payload));
}

fn from_now(app: &Arc<App>) -> Option<Subscription> {
    let permit = decide::<act::FeedBus>(Caller::server()).ok()?;
    app.events_for_bus(&permit)
        .inspect_err(|error| tracing::error!(%error, "the event bus cannot read the log"))
        .ok()
}

/// The next event; never where nobody listens, nothing where some were lost.
async fn next(source: &mut Option<Subscription>) -> Option<Arc<Event>> {
    match source {
        Some(source) => source.next().await.ok(),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
#[path = "bus_tests.rs"]
mod tests;
