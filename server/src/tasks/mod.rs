//! What runs on a timer or from a queue, each until it is told to stop.

use crate::app::{App, CheckpointError, RefusedAtDoor, Repetitions, ServerCertificate, ServerLife};
use std::fmt::Display;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::time::interval;

/// How often the server's own certificate is looked at: a clock that was set makes it useless at once.
const LOOK_AT_CERTIFICATE: Duration = Duration::from_secs(10);

/// How long a renewal that failed is not tried again.
const RENEW_AGAIN: Duration = Duration::from_secs(60);

/// How often connections are compared with who may be connected.
const SWEEP: Duration = Duration::from_secs(10);

/// Signs checkpoints of the audit log: every interval, and earlier when many entries wait.
///
/// One that fails is tried again at the next turn; one that contradicts what was promised is told through `fatal`,
/// and the process has to end.
pub async fn checkpoint(app: Arc<App>, fatal: watch::Sender<Option<String>>, stop: impl Future<Output = ()>) {
    let mut turns = interval(app.checkpoint_turn());
    let mut stop = pin!(stop);
    let mut last = Instant::now();
    loop {
        tokio::select! {
            biased;
            () = &mut stop => return,
            _ = turns.tick() => {}
        }
        if !app.checkpoint_is_due(last.elapsed()) {
            continue;
        }
        last = Instant::now();
        let publishing = Arc::clone(&app);
        match tokio::task::spawn_blocking(move || publishing.publish_checkpoint()).await {
            Ok(Ok(())) => tracing::debug!("checkpoint signed"),
            Ok(Err(CheckpointError::Fatal(reason))) => {
                fatal.send_replace(Some(reason));
                return;
            }
            Ok(Err(error)) => tracing::warn!(%error, "no checkpoint could be signed; trying again"),
            Err(error) => tracing::error!(%error, "signing a checkpoint panicked"),
        }
    }
}

/// Renews the server's own TLS certificate at two thirds of its life, or when the clock was set back to before it, and
/// hands it to `show`.
///
/// A renewal that fails leaves the old certificate in use and is tried again a minute later.
pub async fn server_certificate<E: Display>(
    app: Arc<App>,
    mut life: ServerLife,
    show: impl Fn(ServerCertificate) -> Result<(), E>,
    stop: impl Future<Output = ()>,
) {
    let mut turns = interval(LOOK_AT_CERTIFICATE);
    let mut stop = pin!(stop);
    loop {
        tokio::select! {
            biased;
            () = &mut stop => return,
            _ = turns.tick() => {}
        }
        if !life.is_over(app.clock().now_s()) {
            continue;
        }
        turns.reset_after(RENEW_AGAIN);
        match app.issue_server_certificate().await {
            Ok(issued) => {
                let until = issued.life;
                match show(issued) {
                    Ok(()) => {
                        life = until;
                        turns.reset();
                    }
                    Err(error) => tracing::error!(%error, "the new server certificate cannot be used"),
                }
            }
            Err(error) => tracing::error!(%error, "the server certificate was not renewed; trying again"),
        }
    }
}

/// Repairs a kick that was lost: cuts who is connected and may not be.
pub async fn sweep(app: Arc<App>, stop: impl Future<Output = ()>) {
    let mut turns = interval(SWEEP);
    let mut stop = pin!(stop);
    loop {
        tokio::select! {
            biased;
            () = &mut stop => return,
            _ = turns.tick() => {}
        }
        let cut = app.sweep();
        if cut > 0 {
            tracing::warn!(connections = cut, "connections that should have been cut were cut by the sweep");
        }
    }
}

/// How often orders are looked at whose time has passed, postures whose grace has ended, and the posture history for
/// what is too old.
const TIDY: Duration = Duration::from_secs(5);

/// How long nothing is closed or forgotten after the clock was set ahead.
const SETTLING: Duration = Duration::from_secs(24 * 60 * 60);

/// By how much the clock may be ahead of what has passed before it counts as set.
const SET_AHEAD: Duration = Duration::from_secs(300);

/// Whether the calendar may be believed where it ends something for good. A clock that is set ahead by mistake is set back
/// by somebody; what was closed meanwhile would stay closed.
#[derive(Clone, Copy, Debug)]
struct Calendar {
    /// The last look: unix milliseconds, and when that was.
    seen: (i64, Instant),
    settled_at: Instant,
}

impl Calendar {
    fn new(now_ms: i64, at: Instant) -> Self {
        Self { seen: (now_ms, at), settled_at: at }
    }

    /// Looks at the clock; answers whether nobody has set it ahead lately.
    fn is_believed(&mut self, now_ms: i64, at: Instant) -> bool {
        let (before_ms, before) = std::mem::replace(&mut self.seen, (now_ms, at));
        let passed = at.saturating_duration_since(before) + SET_AHEAD;
        let passed_ms = i64::try_from(passed.as_millis()).unwrap_or(i64::MAX);
        if now_ms.saturating_sub(before_ms) > passed_ms {
            tracing::warn!(
                "the clock was set ahead; for a day nothing is closed, judged or forgotten for its age"
            );
            self.settled_at = at + SETTLING;
        }
        at >= self.settled_at
    }
}

/// Closes orders whose time has passed, judges postures again whose grace has ended, and forgets posture history that is
/// older than `history_days`; none of it within a day after the clock was set ahead.
pub async fn expire(app: Arc<App>, history_days: u32, stop: impl Future<Output = ()>) {
    let mut turns = interval(TIDY);
    let mut stop = pin!(stop);
    let mut calendar = Calendar::new(app.clock().now_ms(), Instant::now());
    loop {
        tokio::select! {
            biased;
            () = &mut stop => return,
            _ = turns.tick() => {}
        }
        if !calendar.is_believed(app.clock().now_ms(), Instant::now()) {
            continue;
        }
        leaving(&app).await;
        match app.expire_orders().await {
            Ok(0) => {}
            Ok(closed) => tracing::info!(closed, "orders expired"),
            Err(error) => tracing::warn!(%error, "orders could not be closed; trying again"),
        }
        match app.reappraise().await {
            Ok(0) => {}
            Ok(judged) => tracing::info!(judged, "a grace ended; postures were judged again"),
            Err(error) => tracing::warn!(%error, "postures could not be judged again; trying again"),
        }
        let cutoff_ms = app.clock().now_ms().saturating_sub(i64::from(history_days) * 86_400_000);
        if let Err(error) = app.forget_posture(cutoff_ms).await {
            tracing::warn!(%error, "posture history could not be forgotten; trying again");
        }
    }
}

/// What the time asks for about devices that are let go and about their warrants.
async fn leaving(app: &App) {
    match app.follow_deadlines().await {
        Ok(0) => {}
        Ok(followed) => tracing::info!(followed, "deadlines of devices that are let go have passed"),
        Err(error) => tracing::warn!(%error, "deadlines could not be followed; trying again"),
    }
    match app.expire_warrants().await {
        Ok(0) => {}
        Ok(ended) => tracing::info!(ended, "warrants lapsed"),
        Err(error) => tracing::warn!(%error, "warrants could not be ended; trying again"),
    }
    match app.make_waiting_orders().await {
        Ok(0) => {}
        Ok(made) => tracing::info!(made, "orders were made that had waited for their turn"),
        Err(error) => {
            tracing::warn!(%error, "orders that wait for their turn could not be made; trying again")
        }
    }
}

/// Writes to the audit log what the doors refused.
pub async fn refusals(
    app: Arc<App>,
    mut heard: mpsc::Receiver<RefusedAtDoor>,
    stop: impl Future<Output = ()>,
) {
    let mut lately = Repetitions::default();
    let mut stop = pin!(stop);
    loop {
        let refused = tokio::select! {
            biased;
            () = &mut stop => return,
            refused = heard.recv() => refused,
        };
        let Some(refused) = refused else { return };
        if let Err(error) = app.record_refusal(&refused, &mut lately).await {
            tracing::warn!(%error, "a refusal could not be written to the log");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_calendar_that_was_set_ahead_is_not_believed_for_a_day_and_one_that_goes_on_is() {
        let (began, second) = (Instant::now(), Duration::from_secs(1));
        let mut calendar = Calendar::new(0, began);
        let mut look =
            |wall_s: i64, passed_s: u32| calendar.is_believed(wall_s * 1_000, began + second * passed_s);
        assert!(look(30, 30));
        assert!(look(400, 130), "disciplined by a time server");
        let year = 365 * 86_400;
        assert!(!look(year, 160));
        assert!(!look(430, 190), "and set back");
        assert!(!look(460, 220));
        assert!(look(86_800, 86_570));
        assert!(look(0, 86_600), "set back alone, nothing ends too early");
    }
}
