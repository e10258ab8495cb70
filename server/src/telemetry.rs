//! What the process says about itself in its log.
//!
//! The log goes to standard error, one JSON object a line or text for people, at the level that `MUSTER_LOG` names
//! (`info` when unset, and of rumqttd warnings only; the syntax is that of tracing's `EnvFilter`,
//! `muster_server=debug,info` for instance). Each decision is one event, with the fields of the audit entry that
//! records it ([`decision`]). No secret ever has a field: tokens, keys and credentials have no `Display`, and their
//! `Debug` is redacted.
//!
//! Texts from outside are written quoted, line breaks and control characters escaped, in both formats: a device
//! cannot forge a line.

use crate::config::LogFormat;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt as _;

/// The variable that names the level.
pub const LEVEL_VARIABLE: &str = "MUSTER_LOG";

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// The level cannot be understood.
    #[error("{LEVEL_VARIABLE} cannot be \"{level}\"; write error, warn, info, debug or trace")]
    Level {
        /// What stands there.
        level: String,
        /// Why not.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// The process has a log already.
    #[error("the log was started twice")]
    Started,
}

/// Starts the log of the process on standard error; `level` is the content of [`LEVEL_VARIABLE`].
///
/// # Errors
/// [`TelemetryError`].
pub fn init(format: LogFormat, level: Option<&str>) -> Result<(), TelemetryError> {
    subscriber(format, level, std::io::stderr)?.try_init().map_err(|_| TelemetryError::Started)
}

fn subscriber<W>(
    format: LogFormat,
    level: Option<&str>,
    writer: W,
) -> Result<Box<dyn tracing::Subscriber + Send + Sync>, TelemetryError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let level = level.filter(|level| !level.is_empty()).unwrap_or("info,rumqttd=warn");
    let filter = EnvFilter::try_new(level)
        .map_err(|source| TelemetryError::Level { level: level.to_owned(), source })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(false);
    // Where nobody reads the log any more, a complaint about that would go to the same closed pipe and end the server.
    let builder = builder.log_internal_errors(false);
    Ok(match format {
        LogFormat::Json => Box::new(builder.json().flatten_event(true).with_current_span(false).finish()),
        LogFormat::Human => Box::new(builder.finish()),
    })
}

/// Something that was decided, in the words of its audit entry.
#[derive(Clone, Copy, Debug)]
pub struct Decision<'a> {
    /// The act.
    pub action: &'a str,
    /// `done` or `refused`.
    pub outcome: &'a str,
    /// A stable code.
    pub reason: &'a str,
    /// Who acted.
    pub actor: &'a str,
    /// How the actor proved who it is.
    pub sign_in: &'a str,
    /// What it was done to.
    pub object: &'a str,
    /// The request that caused it.
    pub request_id: &'a str,
    /// State before.
    pub prev_state: &'a str,
    /// State after.
    pub new_state: &'a str,
}

/// Says that something was decided. Call it once the audit entry is durable.
pub fn decision(said: Decision<'_>) {
    tracing::info!(
        target: "muster::decision",
        action = said.action,
        outcome = said.outcome,
        reason = said.reason,
        actor = said.actor,
        sign_in = said.sign_in,
        object = said.object,
        request_id = said.request_id,
        prev_state = said.prev_state,
        new_state = said.new_state,
        "decided"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    fn revocation(object: &str) -> Decision<'_> {
        Decision {
            action: "device.revoke",
            outcome: "done",
            reason: "key_compromise",
            actor: "operator/ada",
            sign_in: "credential",
            object,
            request_id: "r1",
            prev_state: "active",
            new_state: "retired",
        }
    }

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn said(format: LogFormat, level: Option<&str>, what: impl FnOnce()) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let subscriber = subscriber(format, level, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, what);
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_decision_is_one_event_with_the_fields_of_its_audit_entry() {
        let line = said(LogFormat::Json, None, || decision(revocation("device/d")));
        assert_eq!(line.lines().count(), 1);
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        for (field, value) in [
            ("target", "muster::decision"),
            ("action", "device.revoke"),
            ("outcome", "done"),
            ("reason", "key_compromise"),
            ("actor", "operator/ada"),
            ("object", "device/d"),
            ("request_id", "r1"),
            ("new_state", "retired"),
        ] {
            assert_eq!(event[field], value, "{line}");
        }
    }

    #[test]
    fn text_from_outside_cannot_forge_a_line_or_move_the_cursor() {
        for format in [LogFormat::Json, LogFormat::Human] {
            let line = said(format, None, || decision(revocation("device/d\n{\"forged\":1}\r\u{1b}[2J")));
            assert_eq!(line.lines().count(), 1, "{line:?}");
            assert!(!line.contains(['\r', '\u{1b}']), "{line:?}");
        }
    }

    #[test]
    fn the_level_decides_what_is_said() {
        let both = || {
            tracing::info!("quiet");
            tracing::error!("loud");
        };
        assert_eq!(said(LogFormat::Human, None, both).lines().count(), 2);
        assert_eq!(said(LogFormat::Human, Some(""), both).lines().count(), 2);
        assert_eq!(said(LogFormat::Human, Some("error"), both).lines().count(), 1);
    }

    #[test]
    fn a_level_that_is_none_says_what_to_write() {
        let Err(error) = subscriber(LogFormat::Json, Some("muster=shouting"), std::io::sink) else {
            panic!("taken");
        };
        insta::assert_snapshot!(error.to_string(), @r#"MUSTER_LOG cannot be "muster=shouting"; write error, warn, info, debug or trace"#);
    }
}
