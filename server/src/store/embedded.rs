//! sled, with its guards.

use super::{Engine, OpenError};
use std::path::PathBuf;

/// Whether a store may be made where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Founding {
    /// `serve`: there must be one.
    Existing,
    /// `init`: make one when there is none.
    OrCreate,
}

/// How the embedded engine is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// The store's directory, usually `<data-dir>/store`.
    pub dir: PathBuf,
    /// Whether it may be made.
    pub founding: Founding,
    /// Bytes of sled's cache; real memory is two to three times that.
    pub cache_bytes: u64,
    /// Bytes of the file that can be deleted to get going again on a full disk; 0 for none.
    pub ballast_bytes: u64,
}

impl Options {
    /// Defaults: 64 MiB of cache, 64 MiB of ballast.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, founding: Founding) -> Self {
        Self { dir: dir.into(), founding, cache_bytes: 64 << 20, ballast_bytes: 64 << 20 }
    }
}

/// Opens the store in `options.dir`. Blocks; may take seconds after a crash.
///
/// # Errors
/// [`OpenError`], in one clear sentence; nothing on the disk is lost.
pub fn open(options: &Options) -> Result<Box<dyn Engine>, OpenError> {
    let _ = options;
    unimplemented!()
}
