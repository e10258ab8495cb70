//! The wipe engine: it destroys what an order says, as far as this device lets it, and says what became of each thing.
//!
//! ```text
//! order ─▶ policy, plan (kept) ─▶ secrets, volume keys, the applier's memory ─▶ managed files, data roots, hook ─▶ look
//!          accepted                keys_destroyed                               data_destroyed                     verified
//! ```
//! * Only beneath the roots that were declared at enrolment is anything destroyed, but for the volumes and the hook that
//!   the device itself names. Every name is opened without following a link or entering a mount.
//! * A thing is *cleared* only when every block that it had was overwritten in place and read back; otherwise it was
//!   *deleted*. A volume's key is *destroyed* when no key slot is left.
//! * Whatever could not be done is named and makes its phase fail. Nothing is done that was not first put on record, so
//!   that a phase that was cut off anywhere can be asked for again.
//!
//! When which phase begins, and what the server is told, [`crate::core::session`] decides.

mod destroy;
mod disk;
mod drop;
mod engine;
mod evidence;
mod hook;
mod luks;
mod plan;
mod policy;
mod program;
mod rehearsal;
mod report;
mod walk;

#[cfg(test)]
mod tests;

pub use disk::{Gate, Step, shred};
pub use drop::drop_files;
pub use engine::{Engine, WipeError};
pub use hook::run as run_hook;
pub use rehearsal::{Rehearsal, Thing, WouldRemove};

use muster_wire::receipt::ItemFate;

use crate::core::wiping::ManagedFile;

/// The applier, as far as a wipe needs it.
pub trait Ledger {
    /// What baselines put on this device.
    ///
    /// # Errors
    /// Why that is not known.
    fn managed(&self) -> Result<Vec<ManagedFile>, String>;

    /// Forgets all of it, durably, but not how new the newest desired state was. Answers what became of it: kept where
    /// there was nothing to forget.
    ///
    /// # Errors
    /// Why that was not done.
    fn forget(&self) -> Result<ItemFate, String>;
}
