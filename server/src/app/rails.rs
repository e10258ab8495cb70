//! The rails that destructive acts run on (`security.md`, "Destructive orders: rails that are on by default").
//!
//! Every destructive verb asks [`App::spend`] while it makes its commit: what is spent is written in the same batch as
//! the act itself, and nothing is spent where the commit fails.

use super::{App, Error};
use crate::domain::device::Device;
use crate::domain::policy::{Act, Permit};
use crate::domain::revocation::Reason;
use crate::domain::warrant::WarrantRecord;
use crate::store::Batch;

/// What a destructive act does to its devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spend {
    /// Asks for a warrant that wipes them.
    Wipe,
    /// Ends their certificates without a wipe.
    Revoke(Reason),
    /// Lets a new life of the same asset take their place.
    Supersede,
    /// Holds them by hand.
    Quarantine,
}

impl Spend {
    /// The name that audit entries carry.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Wipe => "wipe",
            Self::Revoke(_) => "revoke",
            Self::Supersede => "supersede",
            Self::Quarantine => "quarantine",
        }
    }
}

impl App {
    /// Adds to `batch` what the act of `permit` on `devices` costs.
    ///
    /// No limit is in force yet: every act is let through, and the entry of the act itself, which stands in the same
    /// batch, is all that is written of it.
    ///
    /// # Errors
    /// [`Error::Refused`] for what the rails do not allow; the caller writes the refusal down.
    #[expect(
        clippy::unnecessary_wraps,
        clippy::unused_self,
        reason = "the rails that refuse come into this place"
    )]
    pub(super) fn spend<A: Act>(
        &self,
        _permit: &Permit<A>,
        batch: Batch,
        spend: Spend,
        devices: &[Device],
    ) -> Result<Batch, Error> {
        tracing::debug!(spend = spend.as_str(), devices = devices.len(), "a destructive act is let through");
        Ok(batch)
    }

    /// How many targets of `warrant`, counted from its first, may have an order by now. Called before each order is made:
    /// when enough have signed, after each target that has ended, and on a timer.
    #[expect(clippy::unused_self, reason = "the canary and the waves come into this place")]
    pub(super) fn wave(&self, warrant: &WarrantRecord) -> u64 {
        warrant.count
    }

    /// Whether no order and no new generation may leave.
    ///
    /// # Errors
    /// [`Error::Load`].
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "the freeze comes into this place")]
    pub(super) fn is_frozen(&self) -> Result<bool, Error> {
        Ok(false)
    }
}
