//! What runs on a timer or from a queue, each until it is told to stop.

use crate::app::{App, CheckpointError, RefusedAtDoor, Repetitions, SERVER_CERTIFICATE_S, ServerCertificate};
use std::fmt::Display;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::time::interval;

/// How often the server's own certificate is looked at.
const LOOK_AT_CERTIFICATE: Duration = Duration::from_secs(60 * 60);

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

/// Renews the server's own TLS certificate at two thirds of its life and hands it to `show`.
///
/// A renewal that fails leaves the old certificate in use and is tried again an hour later.
pub async fn server_certificate<E: Display>(
    app: Arc<App>,
    mut not_after_s: i64,
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
        if app.clock().now_s() < not_after_s.saturating_sub(SERVER_CERTIFICATE_S / 3) {
            continue;
        }
        match app.issue_server_certificate().await {
            Ok(issued) => {
                let until = issued.not_after_s;
                match show(issued) {
                    Ok(()) => not_after_s = until,
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
const TIDY: Duration = Duration::from_secs(30);

/// Closes orders whose time has passed, judges postures again whose grace has ended, and forgets posture history that is older than `history_days`.
pub async fn expire(app: Arc<App>, history_days: u32, stop: impl Future<Output = ()>) {
    let mut turns = interval(TIDY);
    let mut stop = pin!(stop);
    loop {
        tokio::select! {
            biased;
            () = &mut stop => return,
            _ = turns.tick() => {}
        }
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
