//! The story told with commands against child processes.
