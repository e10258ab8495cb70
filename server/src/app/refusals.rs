//! Refusals at the doors, on their way to the audit log.
//!
//! A door must not wait for the disk, and a stranger who copied a certificate can show it for ever. So refusals
//! pass through a bounded queue, and of one certificate for one reason only the first in a minute is written; what
//! is dropped is counted in `muster_certificates_refused_total` all the same.

use super::{App, Error};
use crate::domain::admission::{Door, Refusal};
use crate::doors::peer::PeerCertificate;
use muster_pki::serial::Serial;
use std::collections::HashMap;
use tokio::sync::mpsc;

/// Refusals that may wait; more are not written.
const WAITING: usize = 1_024;

/// How long a repetition is not written, in seconds.
const REPEAT_S: i64 = 60;

/// Most certificates remembered; when full, all are forgotten and may be written again.
const REMEMBERED: usize = 16_384;

/// A refusal at a door.
#[derive(Debug)]
pub struct RefusedAtDoor {
    certificate: PeerCertificate,
    door: Door,
    why: Refusal,
}

/// What a door tells, and what a task hears.
pub fn refusals_at_doors()
-> (impl Fn(&PeerCertificate, Door, Refusal) + Send + Sync + 'static, mpsc::Receiver<RefusedAtDoor>) {
    let (sender, receiver) = mpsc::channel(WAITING);
    let tell = move |certificate: &PeerCertificate, door, why| {
        let refused = RefusedAtDoor { certificate: certificate.clone(), door, why };
        if sender.try_send(refused).is_err() {
            tracing::warn!(serial = %certificate.serial, "too many refusals to write each down");
        }
    };
    (tell, receiver)
}

/// What was written lately.
#[derive(Debug, Default)]
pub struct Repetitions(HashMap<(Serial, &'static str), i64>);

impl Repetitions {
    /// Whether this is the first of its kind in a minute, at `now` (unix seconds).
    fn is_news(&mut self, refused: &RefusedAtDoor, now: i64) -> bool {
        if self.0.len() >= REMEMBERED {
            self.0.clear();
        }
        let last = self.0.entry((refused.certificate.serial, refused.why.as_str())).or_insert(i64::MIN);
        let news = !(0..REPEAT_S).contains(&now.saturating_sub(*last));
        if news {
            *last = now;
        }
        news
    }
}

impl App {
    /// Writes `refused` to the log unless it repeats what was written lately.
    ///
    /// # Errors
    /// [`Error::NoSpace`] and its like.
    pub async fn record_refusal(
        &self,
        refused: &RefusedAtDoor,
        lately: &mut Repetitions,
    ) -> Result<(), Error> {
        if !lately.is_news(refused, self.clock.now_s()) {
            return Ok(());
        }
        self.record_refusal_at_door(&refused.certificate, refused.door, refused.why).await
    }
}
