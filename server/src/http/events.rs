//! `/v1/events`: what happens, as server-sent events (HTML Living Standard §9.2).
//!
//! ```text
//! Subscription (reads the log) ─▶ pump ─▶ BUFFERED parts ─▶ hyper ─▶ socket
//!                                  └ no room for PATIENCE: `event: end`, and the stream is over
//! ```
//! The id of an event is its place in the log. Whoever comes again with it, in `Last-Event-ID` or `after`, hears
//! everything that came after, and nothing of what came before. The last event of a stream that ends from our side is
//! `end`, whose data says why; a line that begins with a colon is a comment and means that all is well.

use super::problem::HttpError;
use super::routes::{Ctx, Doc, Routes};
use crate::app::{Ended, Event as Happened, Place, Subscription, Wanted};
use crate::domain::policy::act;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, Method, header};
use hyper::body::Frame;
use muster_wire::topic::EventTopic;
use serde::Deserialize;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{interval, timeout};
use utoipa::ToSchema;

/// What a stream looks like, for the OpenAPI document.
pub(super) const FORM: &str = "Server-sent events. `event` is the topic, `id` the place in the audit log (absent for \
    presence and checkpoints, which are not in the log), `data` one JSON object of the schema Event. A comment comes \
    every 15 s. The last event of a stream that the server ends is `end`, with data {reason, after}; reason is slow, \
    stopping, dismissed or failed.";

/// Parts that wait for the client.
const BUFFERED: usize = 64;

/// How long a client may take to make room for one more part.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a client hears that all is well.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// One event's data. Which fields there are follows from the topic.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes for the OpenAPI document what app/event.rs writes")]
pub(super) struct Event {
    /// Version of this form: 1.
    v: u8,
    /// `presence`, `devices`, `posture`, `certificates`, `orders` or `checkpoints`.
    topic: String,
    /// Sequence number of the audit entry; absent for presence and checkpoints.
    #[schema(required = false)]
    seq: u64,
    /// When, RFC 3339.
    at: String,
    /// Who acted.
    #[schema(required = false)]
    actor: String,
    /// The act, as the audit log spells it.
    #[schema(required = false)]
    action: String,
    /// Which device.
    #[schema(required = false)]
    device: String,
    /// Which observer.
    #[schema(required = false)]
    observer: String,
    /// State, verdict or phase before; null when there was none.
    #[schema(required = false)]
    from: Option<String>,
    /// State, verdict or phase after.
    #[schema(required = false)]
    to: String,
    /// Devices: the generation that is in place.
    #[schema(required = false)]
    generation: Option<u64>,
    /// Devices: sections that differ from the baseline.
    #[schema(required = false)]
    drift: Vec<String>,
    /// Certificates: which, and what became of them.
    #[schema(required = false)]
    certificates: Vec<EventCertificate>,
    /// Posture: facts that fail.
    #[schema(required = false)]
    failing: Vec<String>,
    /// Posture: facts that nobody knows.
    #[schema(required = false)]
    unknown: Vec<String>,
    /// Orders: which.
    #[schema(required = false)]
    order: EventOrder,
    /// Checkpoints: over what.
    #[schema(required = false)]
    checkpoint: EventCheckpoint,
    /// Presence: whether the device came. `generation` is then its session's.
    #[schema(required = false)]
    online: bool,
    /// A stable code for why; absent when there is nothing to say.
    #[schema(required = false)]
    reason: String,
}

/// A certificate in an event.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes for the OpenAPI document what app/event.rs writes")]
pub(super) struct EventCertificate {
    serial: String,
    sha256: Option<String>,
    /// `issued`, `current`, `held`, `released`, `superseded` or `revoked`.
    status: String,
}

/// An order in an event.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes for the OpenAPI document what app/event.rs writes")]
pub(super) struct EventOrder {
    id: String,
    kind: String,
    sequence: Option<u64>,
}

/// A checkpoint in an event.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes for the OpenAPI document what app/event.rs writes")]
pub(super) struct EventCheckpoint {
    size: u64,
    root_sha256: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    after: Option<String>,
    topic: Option<String>,
}

pub(super) fn routes(routes: Routes) -> Routes {
    let doc = Doc::get("What happens, as it happens and from any place in the log.", "Event");
    routes.on(Method::GET, "/v1/events", doc.query(&["after", "topic"]).stream("text/event-stream"), stream)
}

async fn stream(ctx: Ctx<act::ReadEvents>) -> Result<Response, HttpError> {
    let asked: Asked = ctx.query()?;
    let after = match ctx.header("last-event-id") {
        Some(id) => Some(place("Last-Event-ID", id)?),
        None => asked.after.as_deref().map(|after| place("after", after)).transpose()?,
    };
    let subscription = ctx.app.events(&ctx.permit, after, topics(asked.topic.as_deref())?)?;
    let (parts, waiting) = mpsc::channel(BUFFERED);
    tokio::spawn(pump(subscription, parts, after));
    let mut response = Response::new(Body::new(Stream { waiting }));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn place(part: &'static str, text: &str) -> Result<Place, HttpError> {
    let expected = || "must be the id of an event or a sequence number of the audit log".to_owned();
    text.parse().map_err(|_| HttpError::Malformed { part, expected: expected() })
}

/// The topics in a list that commas part; all of them where there is none.
fn topics(text: Option<&str>) -> Result<Wanted, HttpError> {
    let Some(text) = text else { return Ok(Wanted::ALL) };
    text.split(',').try_fold(Wanted::NONE, |wanted, word| {
        let topic = EventTopic::from_word(word).ok_or_else(|| HttpError::Malformed {
            part: "topic",
            expected: format!(
                "must be one or more of {}, parted by commas",
                EventTopic::ALL.iter().map(|topic| topic.as_str()).collect::<Vec<_>>().join(", ")
            ),
        })?;
        Ok(wanted.and(topic))
    })
}

/// Hands events to the stream until its client goes, is too slow, or the subscription ends.
async fn pump(mut subscription: Subscription, parts: mpsc::Sender<Bytes>, mut after: Option<Place>) {
    let mut heartbeat = interval(HEARTBEAT);
    let ended = loop {
        let part = tokio::select! {
            biased;
            () = parts.closed() => return,
            // The first comes at once, so that a client knows it is heard.
            _ = heartbeat.tick() => Bytes::from_static(b": muster\n\n"),
            event = subscription.next() => match event {
                Ok(event) => {
                    let part = in_words(&event);
                    if !hand_over(&parts, part).await {
                        break Ended::Slow;
                    }
                    after = event.place.or(after);
                    continue;
                }
                Err(ended) => break ended,
            },
        };
        if !hand_over(&parts, part).await {
            break Ended::Slow;
        }
    };
    drop(subscription);
    // The client has this long to take what waits before the last word.
    hand_over(&parts, last_word(ended, after)).await;
}

/// Whether there was room for `part` in time.
async fn hand_over(parts: &mpsc::Sender<Bytes>, part: Bytes) -> bool {
    timeout(PATIENCE, parts.send(part)).await.is_ok_and(|sent| sent.is_ok())
}

fn in_words(event: &Happened) -> Bytes {
    let id = event.place.map(|place| format!("id: {place}\n")).unwrap_or_default();
    Bytes::from(format!("{id}event: {}\ndata: {}\n\n", event.topic, event.body))
}

fn last_word(ended: Ended, after: Option<Place>) -> Bytes {
    let data = serde_json::json!({ "reason": ended.as_str(), "after": after.map(|place| place.to_string()) });
    Bytes::from(format!("event: end\ndata: {data}\n\n"))
}

/// The body of the answer.
struct Stream {
    waiting: mpsc::Receiver<Bytes>,
}

impl hyper::body::Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.waiting.poll_recv(cx).map(|part| part.map(|part| Ok(Frame::data(part))))
    }
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
