//! How a verb ends when it does not end well.

use crate::domain::refusal::Refusal;
use crate::domain::signature::SignatureFlaw;
use crate::store::collections::LoadError;
use crate::store::{CommitError, ReadError};

/// Why a verb did not do what was asked. Only `http/problem.rs` turns this into an answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A rule refused it.
    #[error("refused by {}", .0.rule)]
    Refused(Refusal),
    /// A rule refused a signature, and whose it is.
    #[error("refused by {}", .refusal.rule)]
    Signature {
        /// The rule.
        refusal: Refusal,
        /// What is wrong with it.
        #[source]
        flaw: SignatureFlaw,
    },
    /// A field of the request is not what it must be.
    #[error("{field} {expected}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// What it must be, as the end of a sentence.
        expected: String,
    },
    /// There is no such thing.
    #[error("no such {kind}")]
    NotFound {
        /// What was looked for.
        kind: &'static str,
    },
    /// Too many wrong tokens from one address, or too many certificates.
    #[error("too many attempts")]
    RateLimited {
        /// Seconds until the next may be tried.
        retry_after_s: u64,
    },
    /// Beyond the budget of destructive acts: it waits, and may be asked for again then.
    #[error("beyond the budget of destructive acts")]
    CoolingOff {
        /// Seconds until then.
        retry_after_s: u64,
        /// When that is, unix seconds.
        until: i64,
    },
    /// The record changed while it was being changed, again and again.
    #[error("the record kept changing under the request")]
    Contended,
    /// Too much waits to be written.
    #[error("too much waits to be written")]
    Busy {
        /// When it is worth trying again, in seconds.
        retry_after_s: u32,
    },
    /// The disk has no room for this.
    #[error(
        "the disk has less room than the store keeps free; free some, or delete store/ballast in the data directory"
    )]
    NoSpace,
    /// The store failed or is closed: the process is about to end.
    #[error("the store answers nothing until the next start")]
    Stopped,
    /// A record could not be read.
    #[error("a record could not be read")]
    Load(#[from] LoadError),
    /// Something that must not happen did; the log has it whole.
    #[error("{doing} failed")]
    Internal {
        /// What was being done.
        doing: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl From<CommitError> for Error {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Conflict { .. } => Self::Contended,
            CommitError::Busy { retry_after_s } => Self::Busy { retry_after_s },
            CommitError::NoSpace => Self::NoSpace,
            CommitError::Closed | CommitError::Unknown => Self::Stopped,
            CommitError::ValueTooLarge { .. } | CommitError::ReservedKey => {
                Self::Internal { doing: "committing", source: Box::new(error) }
            }
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Self {
        Self::Load(LoadError::Read(error))
    }
}

impl Error {
    /// For `map_err`: `refusal`, for what is wrong with a signature.
    pub fn signature(refusal: Refusal) -> impl FnOnce(SignatureFlaw) -> Self {
        move |flaw| Self::Signature { refusal, flaw }
    }

    /// The rule that refused, if one did.
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Refused(refusal) | Self::Signature { refusal, .. } => Some(*refusal),
            Self::Invalid { .. }
            | Self::NotFound { .. }
            | Self::RateLimited { .. }
            | Self::CoolingOff { .. }
            | Self::Contended
            | Self::Busy { .. }
            | Self::NoSpace
            | Self::Stopped
            | Self::Load(_)
            | Self::Internal { .. } => None,
        }
    }

    /// An error that must not happen, met while `doing`.
    pub fn internal(doing: &'static str) -> impl FnOnce(Box<dyn std::error::Error + Send + Sync>) -> Self {
        move |source| Self::Internal { doing, source }
    }
}
