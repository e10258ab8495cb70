//! What the timers ask for: checkpoints, the sweep.

use super::{App, LogSource};
use crate::audit::PublishError;
use crate::doors::registry::Kicked;
use std::sync::PoisonError;
use std::time::Duration;

/// Why no checkpoint was signed.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// It may go better at the next turn; the log is safe in the store.
    #[error("{0}")]
    Later(String),
    /// The log contradicts what was promised. The process has to end.
    #[error("{0}")]
    Fatal(String),
}

impl From<PublishError> for CheckpointError {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Contradiction { .. } | PublishError::Overtaken { .. } => {
                Self::Fatal(error.to_string())
            }
            PublishError::Read(_) | PublishError::Sign(_) | PublishError::Io { .. } => {
                Self::Later(error.to_string())
            }
        }
    }
}

impl App {
    /// How often to ask whether a checkpoint is due.
    pub fn checkpoint_turn(&self) -> Duration {
        (self.pace.interval / 5).max(Duration::from_millis(10))
    }

    /// Whether a checkpoint is due, `since_last` after the last one; a log that cannot be read is due for nothing.
    pub fn checkpoint_is_due(&self, since_last: Duration) -> bool {
        match self.unpublished() {
            Ok(waiting) => self.pace.is_due(waiting, since_last),
            Err(error) => {
                tracing::warn!(%error, "the audit log cannot be read");
                false
            }
        }
    }

    /// Publishes a checkpoint over everything durable, if there is anything new. Blocks on the disk.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub fn publish_checkpoint(&self) -> Result<(), CheckpointError> {
        let size = {
            let mut publisher = self.publisher.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(signed) = publisher.publish(&LogSource(self.store.clone()))? {
                self.events.checkpoint(signed.size, signed.root.to_hex(), self.clock.now_s());
            }
            publisher.last().size
        };
        self.checkpoint_reaches(size);
        Ok(())
    }

    /// Cuts connections whose certificate no door lets in any more, in case a kick was lost; answers how many.
    pub fn sweep(&self) -> usize {
        let now = self.clock.now_s();
        // Expiry is the handshake's and the request's business; here it is status alone.
        let keep = |serial: &_| self.doors.index.is_let_in(serial, now);
        self.doors.registry.sweep(keep, Kicked::Status)
    }
}
