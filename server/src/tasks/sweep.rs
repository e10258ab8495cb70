//! Repairs a kick that was lost: compares who is connected with who may be.

use crate::app::App;
use crate::domain::admission::Door;
use crate::doors::registry::Kicked;
use crate::doors::stop::Stop;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::interval;

/// How often.
const EVERY: Duration = Duration::from_secs(10);

/// Runs until `stop`.
pub async fn run(app: Arc<App>, stop: Stop) {
    let mut turns = interval(EVERY);
    loop {
        tokio::select! {
            biased;
            () = stop.asked() => return,
            _ = turns.tick() => {}
        }
        let doors = app.doors();
        let now = app.clock().now_s();
        // Expiry is the handshake's and the request's business; here it is status alone.
        let keep = |serial: &_| doors.index.admit(serial, now, Door::Handshake, now).is_ok();
        let cut = doors.registry.sweep(keep, Kicked::Status);
        if cut > 0 {
            tracing::warn!(connections = cut, "connections that should have been cut were cut by the sweep");
        }
    }
}
