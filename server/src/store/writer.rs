//! One writer, group commit.
