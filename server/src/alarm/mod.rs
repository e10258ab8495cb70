//! Alarms: what is told outside, at the moment at which it is asked for (`security.md`, rail 7).
//!
//! ```text
//! verb ─raise─▶ queue (bounded) ─▶ task ─▶ webhook, signed ─▶ somebody's telephone
//!                                      └─▶ syslog, RFC 5424
//! ```
//! Raising never waits and never fails a verb: what cannot be delivered is in the process's own log, as every alarm is, and
//! in the audit log stands the act itself. This room knows no verb and decides nothing.

mod syslog;
mod webhook;

pub use crate::config::Alarm as Place;
use muster_wire::time::Timestamp;
use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use tokio::sync::mpsc;

pub use syslog::Syslog;
pub use webhook::Webhook;

/// Alarms that may wait for delivery.
const WAITING_MAX: usize = 256;

/// Something that somebody should hear of now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// What, as a stable word: `wipe_requested`, `beyond_the_budget`, `frozen`, ….
    pub event: &'static str,
    /// When, unix seconds.
    pub at: i64,
    /// Who asked, as the audit log names them.
    pub actor: String,
    /// The request's id; empty for the server's own acts.
    pub request_id: String,
    /// How many devices it is about.
    pub count: u64,
    /// The first of them.
    pub devices: Vec<String>,
    /// What else there is to say.
    pub detail: String,
}

impl Alarm {
    /// What a webhook is sent.
    fn body(&self, installation: &str) -> String {
        serde_json::json!({
            "v": 1,
            "installation": installation,
            "event": self.event,
            "at": Timestamp(self.at).to_string(),
            "actor": self.actor,
            "request_id": self.request_id,
            "count": self.count,
            "devices": self.devices,
            "detail": self.detail,
        })
        .to_string()
    }
}

/// Why alarms cannot go where they should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlaceError {
    /// A setting is not what it must be.
    #[error("{key} {expected}")]
    Setting {
        /// Which.
        key: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// A file cannot be used.
    #[error("cannot use {}, which {key} names; check that it is there and that this user may read it", path.display())]
    File {
        /// The setting.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The end at which alarms are raised. Clones share the queue.
#[derive(Clone, Debug)]
pub struct Alarms(mpsc::Sender<Alarm>);

/// The end at which they are delivered.
pub type Raised = mpsc::Receiver<Alarm>;

impl Alarms {
    /// A queue with nothing in it.
    pub fn queue() -> (Self, Raised) {
        let (sender, raised) = mpsc::channel(WAITING_MAX);
        (Self(sender), raised)
    }

    /// Raises `alarm`: it is in the process's log, and will be told wherever alarms go.
    pub fn raise(&self, alarm: Alarm) {
        let Alarm { event, actor, count, detail, .. } = &alarm;
        tracing::warn!(alarm = event, actor, count, detail, "alarm");
        if self.0.try_send(alarm).is_err() {
            tracing::error!("an alarm was told to nobody: too many wait, or nobody delivers them");
        }
    }
}

/// The ways out that a place names.
pub struct Outlets {
    installation: String,
    webhook: Option<Webhook>,
    syslog: Option<Syslog>,
}

impl Outlets {
    /// Reads secret and authorities.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub fn open(place: &Place, installation: &str) -> Result<Self, PlaceError> {
        Ok(Self {
            installation: installation.to_owned(),
            webhook: place.webhook.as_deref().map(|url| Webhook::open(url, place)).transpose()?,
            syslog: place.syslog.as_deref().map(Syslog::parse).transpose()?,
        })
    }

    /// Tells `alarm` everywhere; what fails is in the process's log.
    pub async fn tell(&self, alarm: &Alarm) {
        if let Some(syslog) = &self.syslog
            && let Err(error) = syslog.send(alarm, &self.installation).await
        {
            tracing::error!(%error, alarm = alarm.event, "an alarm was not taken by syslog");
        }
        if let Some(webhook) = &self.webhook
            && let Err(error) = webhook.send(&alarm.body(&self.installation), alarm.at).await
        {
            tracing::error!(%error, alarm = alarm.event, "an alarm was not taken by the webhook");
        }
    }
}

/// Delivers alarms until `stop`; those that were raised before it are delivered still.
pub async fn deliver(outlets: Outlets, mut raised: Raised, stop: impl Future<Output = ()>) {
    let mut stop = pin!(stop);
    loop {
        let alarm = tokio::select! {
            biased;
            alarm = raised.recv() => alarm,
            () = &mut stop => return,
        };
        match alarm {
            Some(alarm) => outlets.tell(&alarm).await,
            None => return,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn alarm() -> Alarm {
        Alarm {
            event: "wipe_requested",
            at: 1_700_000_000,
            actor: "operator/admin".into(),
            request_id: "r".into(),
            count: 2,
            devices: vec!["a".into(), "b".into()],
            detail: "line\nbreak".into(),
        }
    }

    #[test]
    fn an_alarm_that_nobody_delivers_fails_nobody() {
        let (alarms, raised) = Alarms::queue();
        (0..WAITING_MAX + 5).for_each(|_| alarms.raise(alarm()));
        drop(raised);
        alarms.raise(alarm());
    }

    #[test]
    fn a_webhook_needs_a_secret() {
        let place = Place { webhook: Some("https://alarm.example/".into()), ..Place::default() };
        let refused = Outlets::open(&place, "x").err().unwrap();
        assert!(matches!(refused, PlaceError::Setting { key: "alarm.secret_file", .. }), "{refused}");
    }
}
