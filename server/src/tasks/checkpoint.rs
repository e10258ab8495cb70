//! Signs checkpoints of the audit log: every interval, and earlier when many entries wait.

use crate::app::App;
use crate::audit::{Pace, PublishError};
use crate::doors::stop::Stop;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;
use tokio::time::interval;

/// Runs until `stop`. A publishing that fails is tried again at the next turn; one that contradicts what was
/// promised is told through `fatal`, and the process has to end.
pub async fn run(app: Arc<App>, pace: Pace, stop: Stop, fatal: watch::Sender<Option<String>>) {
    let mut turns = interval((pace.interval / 5).max(std::time::Duration::from_millis(10)));
    let mut last = Instant::now();
    loop {
        tokio::select! {
            biased;
            () = stop.asked() => return,
            _ = turns.tick() => {}
        }
        let waiting = match app.unpublished() {
            Ok(waiting) => waiting,
            Err(error) => {
                tracing::warn!(%error, "the audit log cannot be read");
                continue;
            }
        };
        if !pace.is_due(waiting, last.elapsed()) {
            continue;
        }
        last = Instant::now();
        let publishing = Arc::clone(&app);
        match tokio::task::spawn_blocking(move || publishing.publish_checkpoint()).await {
            Ok(Ok(())) => tracing::debug!(waiting, "checkpoint signed"),
            Ok(Err(error @ (PublishError::Contradiction { .. } | PublishError::Overtaken { .. }))) => {
                fatal.send_replace(Some(error.to_string()));
                return;
            }
            Ok(Err(error)) => tracing::warn!(%error, "no checkpoint could be signed; trying again"),
            Err(error) => tracing::error!(%error, "signing a checkpoint panicked"),
        }
    }
}
