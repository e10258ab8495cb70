//! Commits that are on their way, so that one sync can cover more of them.

/// Counts until it is dropped.
#[derive(Debug)]
pub struct Announced;
