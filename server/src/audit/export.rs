//! The log as static files.
