//! The attacks of every release.
