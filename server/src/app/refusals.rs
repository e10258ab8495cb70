//! Refusals at the doors, on their way to the audit log.
//!
//! A door must not wait for the disk, and a stranger who copied a certificate can show it for ever. So refusals
//! pass through a bounded queue, and of one certificate for one reason only the first in a minute is written; what
//! is dropped is counted in `muster_certificates_refused_total` all the same. Of strangers, whose handshake failed by
//! their own fault, the log hears of each reason once a minute; `muster_handshakes_failed_total` counts them all.

use super::{App, Error};
use crate::domain::admission::{Door, Refusal};
use crate::doors::peer::{ObserverCertificate, PeerCertificate};
use muster_pki::serial::Serial;
use std::collections::HashMap;
use tokio::sync::mpsc;

/// Coming in, as an action of the audit log.
const ENTER: &str = "door.enter";

/// Refusals that may wait; more are not written.
const WAITING: usize = 1_024;

/// How long a repetition is not written, in seconds.
const REPEAT_S: i64 = 60;

/// Most certificates remembered; when full, all are forgotten and may be written again.
const REMEMBERED: usize = 16_384;

/// A refusal at a door.
#[derive(Debug)]
pub struct RefusedAtDoor {
    /// What was tried, as an action of the audit log.
    pub(super) action: &'static str,
    /// What was shown.
    pub(super) shown: Shown,
    /// Why, as a stable code.
    pub(super) reason: &'static str,
}

/// Who was refused, as far as it is known.
#[derive(Debug)]
pub(super) enum Shown {
    /// Nobody of whom anything is known.
    Nothing,
    /// A device's certificate, at a door.
    Device(PeerCertificate, Door),
    /// An observer's certificate, at the gate.
    Observer(ObserverCertificate),
}

impl Shown {
    fn serial(&self) -> Option<Serial> {
        match self {
            Self::Nothing => None,
            Self::Device(certificate, _) => Some(certificate.serial),
            Self::Observer(certificate) => Some(certificate.serial),
        }
    }
}

/// The doors' end of the queue.
#[derive(Clone, Debug)]
pub struct Teller(mpsc::Sender<RefusedAtDoor>);

impl Teller {
    /// A door refused a certificate of ours.
    pub fn certificate(&self, certificate: &PeerCertificate, door: Door, why: Refusal) {
        let shown = Shown::Device(certificate.clone(), door);
        self.tell(RefusedAtDoor { action: ENTER, shown, reason: why.as_str() });
    }

    /// Who had shown a certificate of ours at the gate broke one of its rules.
    pub fn misconduct(&self, certificate: &PeerCertificate, rule: &'static str) {
        let shown = Shown::Device(certificate.clone(), Door::Gate);
        self.tell(RefusedAtDoor { action: "gate.session", shown, reason: rule });
    }

    /// An observer was refused at the gate, or broke one of its rules.
    pub fn observer(&self, certificate: &ObserverCertificate, rule: &'static str) {
        let shown = Shown::Observer(certificate.clone());
        self.tell(RefusedAtDoor { action: "gate.session", shown, reason: rule });
    }

    /// A handshake failed by the fault of a client of whom nothing is known.
    pub fn stranger(&self, reason: &'static str) {
        self.tell(RefusedAtDoor { action: ENTER, shown: Shown::Nothing, reason });
    }

    fn tell(&self, refused: RefusedAtDoor) {
        if self.0.try_send(refused).is_err() {
            tracing::warn!("too many refusals at the doors to write each down");
        }
    }
}

/// What the doors tell, and what a task hears.
pub fn refusals_at_doors() -> (Teller, mpsc::Receiver<RefusedAtDoor>) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (Teller(sender), receiver)
}

/// What was written lately.
#[derive(Debug, Default)]
pub struct Repetitions(HashMap<(Option<Serial>, &'static str), i64>);

impl Repetitions {
    /// Whether this is the first of its kind in a minute, at `now` (unix seconds).
    fn is_news(&mut self, refused: &RefusedAtDoor, now: i64) -> bool {
        if self.0.len() >= REMEMBERED {
            self.0.clear();
        }
        let serial = refused.shown.serial();
        let last = self.0.entry((serial, refused.reason)).or_insert(i64::MIN);
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
        self.record_refusal_at_door(refused).await
    }
}
