//! Writes to the audit log what the doors refused.
//!
//! A door must not wait for the disk, and a stranger who copied a certificate can show it for ever. So refusals
//! pass through a bounded queue, and of one certificate at one door for one reason only the first in a minute is
//! written; what is dropped is counted in `muster_certificates_refused_total` all the same.

use crate::app::App;
use crate::domain::admission::{Door, Refusal};
use crate::doors::peer::PeerCertificate;
use crate::doors::stop::Stop;
use muster_pki::serial::Serial;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Refusals that may wait; more are not written.
const WAITING: usize = 1_024;

/// How long a repetition is not written, in seconds.
const REPEAT_S: i64 = 60;

/// Most certificates remembered; when full, all are forgotten and may be written again.
const REMEMBERED: usize = 16_384;

/// A refusal at a door.
#[derive(Debug)]
pub struct Refused {
    certificate: PeerCertificate,
    door: Door,
    why: Refusal,
}

/// What a door tells, and what the task hears.
pub fn channel() -> (impl Fn(&PeerCertificate, Door, Refusal) + Send + Sync + 'static, mpsc::Receiver<Refused>)
{
    let (sender, receiver) = mpsc::channel(WAITING);
    let tell = move |certificate: &PeerCertificate, door, why| {
        let refused = Refused { certificate: certificate.clone(), door, why };
        if sender.try_send(refused).is_err() {
            tracing::warn!(serial = %certificate.serial, "too many refusals to write each down");
        }
    };
    (tell, receiver)
}

/// Runs until `stop`.
pub async fn run(app: Arc<App>, mut heard: mpsc::Receiver<Refused>, stop: Stop) {
    let mut written: HashMap<(Serial, &'static str), i64> = HashMap::new();
    loop {
        let refused = tokio::select! {
            biased;
            () = stop.asked() => return,
            refused = heard.recv() => refused,
        };
        let Some(Refused { certificate, door, why }) = refused else { return };
        let now = app.clock().now_s();
        if written.len() >= REMEMBERED {
            written.clear();
        }
        let last = written.entry((certificate.serial, why.as_str())).or_insert(i64::MIN);
        if (0..REPEAT_S).contains(&now.saturating_sub(*last)) {
            continue;
        }
        *last = now;
        if let Err(error) = app.record_refusal_at_door(&certificate, door, why).await {
            tracing::warn!(%error, "a refusal could not be written to the log");
        }
    }
}
