//! Renews the server's own TLS certificate, in place, at two thirds of its life.

use crate::app::App;
use crate::doors::stop::Stop;
use crate::doors::tls::ServerIdentity;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::interval;

/// How often it is looked at: an hour.
const LOOK: Duration = Duration::from_secs(60 * 60);

/// Runs until `stop`. A renewal that fails leaves the old certificate in use and is tried again an hour later.
pub async fn run(app: Arc<App>, identity: ServerIdentity, mut not_after_s: i64, stop: Stop) {
    let mut turns = interval(LOOK);
    loop {
        tokio::select! {
            biased;
            () = stop.asked() => return,
            _ = turns.tick() => {}
        }
        if app.clock().now_s() < not_after_s.saturating_sub(crate::app::SERVER_CERTIFICATE_S / 3) {
            continue;
        }
        match app.issue_server_certificate().await {
            Ok(issued) => match identity.replace(issued.chain, issued.key) {
                Ok(()) => {
                    not_after_s = issued.not_after_s;
                    tracing::info!(not_after_s, "server certificate renewed");
                }
                Err(error) => tracing::error!(%error, "the new server certificate cannot be used"),
            },
            Err(error) => tracing::error!(%error, "the server certificate was not renewed; trying again"),
        }
    }
}
